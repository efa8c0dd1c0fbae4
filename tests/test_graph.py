"""The graph finds every use of every unit, or reports that it cannot."""

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.graph.trace import trace
from compactrnn.graph.units import find_units
from shapes import SHAPES, Bidirectional, Tagger, Twice, example


def follow(model, x=None):
    x = example(model) if x is None else x
    traced = trace(model, x)
    return traced, find_units(traced, (x,))


class Head(nn.Module):
    """Sixteen units read in a way that `read` says."""

    def __init__(self, read, width=16):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, batch_first=True)
        self.head = nn.Linear(width, 3)
        self.scale = nn.Parameter(torch.rand(16))
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("shift", torch.rand(16))
        self.read = read

    def forward(self, x):
        return self.head(self.read(self.lstm(x)[0], self))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_of_the_graph_are_the_model_s(shape):
    model = shape().eval()
    x = example(model)
    traced = trace(model, x)
    values = traced.run((x,))
    wanted = [t for t in torch.utils._pytree.tree_leaves(model(x)) if isinstance(t, torch.Tensor)]
    got = [values[o.name] for o in traced.outputs]
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "read",
    [
        lambda h, m: h,
        lambda h, m: torch.relu(h) * 2 + 1,
        lambda h, m: h * m.scale,
        lambda h, m: h.flip(-1).flip(-1),
        lambda h, m: h.reshape(h.shape[0], -1, 4, 4).flatten(2),
        lambda h, m: torch.cat(h.chunk(2, -1), -1),
        lambda h, m: h.detach(),
        lambda h, m: h.mean(1, keepdim=True),
        lambda h, m: h * torch.sigmoid(m.head.weight.sum()),
        lambda h, m: torch.where(m.scale > 0.5, h, torch.zeros_like(h)),
    ],
)
def test_every_unit_is_read_by_its_own_column(read):
    _, units = follow(Head(read))
    assert not units.untracked
    labels = units.labels[next(iter(units.labels))]
    (reader,) = units.uses
    assert reader.name == "head.weight"
    assert sorted(reader.labels.tolist()) == list(labels)


@pytest.mark.parametrize(
    ("read", "followers"),
    [
        (lambda h, m: h * m.scale, {"scale"}),
        (lambda h, m: (h - m.shift) * torch.rsqrt(m.scale + 1), {"scale", "shift"}),
        (lambda h, m: h * (m.scale * m.shift[None, None]), {"scale"}),
        (lambda h, m: h * m.scale.sum(), set()),
        (lambda h, m: h.flatten(0, 1) * m.norm.weight, {"norm.weight"}),
        (
            lambda h, m: m.norm(h.transpose(1, 2)).transpose(1, 2),
            {f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")},
        ),
    ],
)
def test_vectors_with_an_entry_per_unit_follow_the_units(read, followers):
    _, units = follow(Head(read))
    assert not units.untracked and not units.fixed_width
    assert {f.name for f in units.scalings} == followers
    labels = units.labels[next(iter(units.labels))]
    assert all(f.axis == 0 and f.labels.tolist() == list(labels) for f in units.scalings)


@pytest.mark.parametrize(
    "read",
    [
        lambda h, m: h * m.scale + m.scale.sum(),
        lambda h, m: h * m.scale * m.scale.flip(0).softmax(0).sum(),
        lambda h, m: (h * m.scale) * (m.scale + 1).prod(),
    ],
)
def test_a_vector_with_a_use_beside_the_units_is_pinned(read):
    _, units = follow(Head(read))
    assert {f.name for f in units.scalings} == units.fixed_width == {"scale"}


@pytest.mark.parametrize(
    ("read", "shifted"),
    [
        (lambda h, m: torch.tanh(h) * m.scale, False),
        (lambda h, m: h.masked_fill(m.scale > 0.5, 0), False),
        (lambda h, m: h.masked_fill(m.scale > 0.5, 1), True),
        (lambda h, m: h + 1, True),
        (lambda h, m: torch.sigmoid(h), True),
        (lambda h, m: h.softmax(1), True),
        (lambda h, m: 1 / h, True),
        (lambda h, m: m.norm(h.transpose(1, 2)).transpose(1, 2), True),
    ],
)
def test_a_unit_that_is_zero_may_be_heard(read, shifted):
    _, units = follow(Head(read))
    assert units.not_zero_preserving == (set(units.labels[next(iter(units.labels))]) if shifted else set())


def test_permuted_columns_are_followed():
    order = torch.randperm(16)
    _, units = follow(Head(lambda h, m: h[..., order]))
    first = units.labels[next(iter(units.labels))][0]
    assert torch.equal(units.uses[0].labels - first, order)


@pytest.mark.parametrize(
    "read",
    [
        lambda h, m: h + h.flip(-1),
        lambda h, m: torch.softmax(h, -1),
        lambda h, m: nn.functional.layer_norm(h, (16,)),
        lambda h, m: h.cumsum(-1),
        lambda h, m: (h > 0).float(),
        lambda h, m: h @ torch.ones(16, 16),
        lambda h, m: h.sort(-1).values,
        lambda h, m: h * h.roll(1, -1),
        lambda h, m: h.std(-1, keepdim=True).expand(-1, -1, 16),
    ],
)
def test_what_mixes_units_escapes(read):
    _, units = follow(Head(read))
    assert units.untracked == set(units.labels[next(iter(units.labels))])
    assert all(units.reasons.values())


def test_units_that_the_caller_sees_escape_but_whole_states_do_not():
    _, units = follow(Tagger())
    assert not units.untracked
    _, units = follow(nn.LSTM(6, 16, batch_first=True), torch.randn(2, 5, 6))
    assert len(units.untracked) == 16


def test_both_directions_share_a_unit():
    _, units = follow(Bidirectional())
    labels = list(next(labels for (_, layer, _), labels in units.labels.items() if layer == 1))
    assert units.uses[0].labels.tolist() == labels * 2


def test_a_layer_used_twice_on_the_same_columns_has_one_use():
    _, units = follow(Twice())
    assert len(units.layer_inputs) == 1 and len(units.uses) == 1
    assert [len(use.labels) for use in units.uses] == [32]


def test_the_model_is_not_touched():
    model = Tagger()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    follow(model)
    assert type(model.lstm) is nn.LSTM and model.training and not hasattr(model.lstm, "_leaf")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Branching(nn.Module):
    """Its control flow depends on the data."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4)

    def forward(self, x):
        y = self.lstm(x)[0]
        return y if y.sum() > 0 else -y


def test_what_cannot_be_followed_says_why():
    with pytest.raises(cr.UnsupportedModelError, match="Branching"):
        trace(Branching(), torch.randn(3, 2, 6))
    with pytest.raises(cr.UnsupportedModelError, match="no recurrent layer"):
        trace(nn.Linear(3, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match="example_inputs"):
        trace(nn.LSTM(3, 3), "text")


def test_a_question_about_too_few_steps_is_not_answered_by_yes():
    from sympy import Eq, Symbol
    from torch.utils._sympy.functions import Mod

    from compactrnn.graph.trace import _holds

    asked = Eq(Mod(Symbol("s", integer=True) - 33, 8), 1)
    assert [_holds(asked, steps) for steps in (8, 33, 34)] == [False, False, True]
