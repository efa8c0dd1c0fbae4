"""What tracing `forward` in eval and training mode reveals, what it cannot, and refusals before the training."""

import dataclasses
import random
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

import compactrnn as cr
from compactrnn.graph.plain_outputs import plain
from cutting import assert_same, cut, kept, silence, size


class Tagger(nn.Module):
    """The base model of the variants below."""

    def __init__(self, layer=nn.LSTM, **options):
        super().__init__()
        self.rnn, self.out = layer(6, 16, batch_first=True, **options), nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def batch():
    return torch.randn(4, 7, 6)


class Auxiliary(Tagger):
    """A second head in training only."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(16, 2)

    def forward(self, x):
        h = self.rnn(x)[0]
        return (self.out(h), self.aux(h.mean(1))) if self.training else self.out(h)


class Branching(Auxiliary):
    """Its training graph depends on data, which torch.export does not follow."""

    def forward(self, x):
        h = self.rnn(x)[0]
        return (self.out(h), self.aux(h)) if self.training and h.sum().item() < 1e9 else self.out(h)


class Targets(Auxiliary):
    """Takes more arguments in training mode."""

    def forward(self, x, target=None):
        h = self.rnn(x)[0]
        return (self.aux(h) - target).square().mean() if self.training else self.out(h)


@pytest.mark.parametrize("make", [Auxiliary, Branching, Targets])
def test_heads_that_run_in_training_only_go_on(make):
    torch.manual_seed(0)
    model, x = make(), batch()
    _, small = cut(model, x)
    assert_same(model, small, (batch(),), modes=(False,))
    more = (batch(), torch.randn(4, 7, 2)) if make is Targets else (batch(),)
    assert_same(model, small, more, modes=(True,))
    assert size(small) < size(model)


def test_a_head_that_training_shows_is_cut():
    _, small = cut(Auxiliary(), batch())
    assert small.aux.in_features == small.rnn.hidden_size < 16


class Methods(Tagger):
    """Methods beside forward that use the layer, and some that do not."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Linear(16, 2)

    def encode(self, x):
        return self.rnn(x)[1][0][-1].mean(-1)

    def classify(self, x):
        return self.classes(self.rnn(x)[1][0][-1])

    def step(self, x, state):
        return self.out(self.rnn(x, state)[0])

    def each(self, x):
        return [layer(x)[0].sum(-1) for layer in [self.rnn]]


def test_methods_that_forward_does_not_call_stay_exact():
    torch.manual_seed(0)
    model, x = Methods().double(), batch().double()
    pruner, small = cut(model, x)
    for name in ("forward", "encode", "classify"):
        torch.testing.assert_close(getattr(small, name)(x), getattr(model, name)(x), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(small.each(x)[0], model.each(x)[0], rtol=1e-7, atol=1e-7)
    for state in (None, (torch.randn(1, 4, 16).double(), torch.randn(1, 4, 16).double())):
        torch.testing.assert_close(small.step(x, state), model.step(x, state), rtol=1e-7, atol=1e-7)
    assert "Methods.each, which forward does not call, uses it" in str(pruner.report())


def test_methods_that_only_ask_for_sizes_are_no_use():
    class Sized(Tagger):
        def zeros(self, batch):
            return torch.zeros(self.rnn.num_layers, batch, self.rnn.hidden_size)

        def flatten(self):
            self.rnn.flatten_parameters()
            return sum(p.numel() for p in self.rnn.parameters())

    _, small = cut(Sized(), batch())
    assert isinstance(small.rnn, nn.LSTM)


def test_a_parameter_that_forward_does_not_use_may_read_the_layer():
    class Other(Tagger):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleDict({"later": nn.Linear(32, 2)})

    torch.manual_seed(0)
    model, x = Other(), batch()
    pruner, small = cut(model, x)
    assert "heads.later.weight" in str(pruner.report()) and size(small) < size(model)
    twice = [torch.cat([m.rnn(x)[0]] * 2, -1) for m in (model, small)]
    torch.testing.assert_close(small.heads["later"](twice[1]), model.heads["later"](twice[0]))


def test_what_is_kept_on_the_module_and_what_hooks_see_is_whole():
    class Keeps(Tagger):
        def forward(self, x):
            self.features = self.rnn(x)[0]
            return self.out(self.features)

    torch.manual_seed(0)
    x, seen = batch(), []
    model = Keeps()
    _, small = cut(model, x)
    model(x), small(x)
    torch.testing.assert_close(small.features, model.features)
    model = Tagger()
    model.rnn.register_forward_hook(lambda module, args, result: seen.append(result[0].detach()))
    _, small = cut(model, x)
    seen.clear()
    model(x), small(x)
    torch.testing.assert_close(seen[1], seen[0])


class Unused(nn.Module):
    """A decoder that is run by another method."""

    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.GRU(6, 16, batch_first=True), nn.GRU(6, 16, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.enc(x)[0])

    def decode(self, x):
        return self.dec(x, self.enc(x)[1])[0]


def test_a_layer_that_forward_does_not_run_keeps_its_units():
    torch.manual_seed(0)
    model, x = Unused(), batch()
    with pytest.warns(UserWarning, match=r"all units stay in dec \(dec: forward does not run it"):
        _, small = cut(model, x)
    torch.testing.assert_close(small.decode(x), model.decode(x))
    assert size(small) < size(model) and small.dec.hidden_size == 16


class Regularized(Tagger):
    """Its second output is computed from the layer's weights."""

    def forward(self, x):
        return self.out(self.rnn(x)[0]), self.rnn.weight_hh_l0.square().sum()


def test_weights_that_are_used_directly_are_named():
    with pytest.raises(cr.UnsupportedModelError, match="rnn: the model computes with its weight_hh_l0 itself"):
        cr.GroupLasso(Regularized(), batch(), strength=0.0)


class Dropped(nn.Module):
    """Random numbers of the layers' width in training: dropout within, between and after layers."""

    def __init__(self):
        super().__init__()
        self.one = nn.LSTM(6, 16, 2, batch_first=True, dropout=0.3)
        self.two, self.norm = nn.GRU(16, 16, batch_first=True), nn.BatchNorm1d(16)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(16, 3)

    def locked(self, x):
        mask = x.new_empty(len(x), 1, x.shape[2]).bernoulli_(0.5)
        return x * mask / 0.5 if self.training else x

    def forward(self, x):
        h = self.two(self.locked(self.one(x)[0]))[0]
        return self.out(self.drop(self.norm(h.transpose(1, 2)).transpose(1, 2)))


class Noisy(Tagger):
    """Noise on every unit, in eval too."""

    def forward(self, x):
        h = self.rnn(x)[0]
        return self.out(functional.dropout(h, 0.2, True) + 0.1 * torch.randn_like(h))


class Prenet(Tagger):
    """Dropout that stays on, before the layer."""

    def forward(self, x):
        return super().forward(functional.dropout(x, 0.5, True))


@pytest.mark.parametrize("make", [Dropped, Noisy, Prenet])
def test_random_forward_passes_are_compared_with_the_same_numbers(make):
    torch.manual_seed(0)
    model, x = make(), batch()
    before, python = torch.random.get_rng_state(), random.getstate()
    pruner, small = cut(model, x)
    assert torch.equal(torch.random.get_rng_state(), before) and random.getstate() == python
    assert_same(model, small, (batch(),))
    assert all(left < units for left, units in kept(pruner).values())


class Pooled(Tagger):
    """Max and mean pooling over time, in every way people write it."""

    def __init__(self):
        super().__init__(bidirectional=True)
        self.out = nn.Linear(32 * 6, 3)

    def forward(self, x):
        h = self.rnn(x)[0]
        t = h.transpose(1, 2)
        pooled = [
            h.max(1)[0],
            h.amax(1),
            functional.max_pool1d(t, t.shape[2]).squeeze(2),
            functional.adaptive_max_pool1d(t, 1)[..., 0],
            functional.adaptive_avg_pool1d(functional.avg_pool1d(t, 2), 1)[..., 0],
            h.topk(2, 1).values.sum(1),
        ]
        return self.out(torch.cat(pooled, -1))


class Masked(Tagger):
    """Masked max pooling: padding is excluded."""

    def forward(self, x, mask):
        return self.out(self.rnn(x)[0].masked_fill(~mask[..., None], float("-inf")).max(1).values)


@pytest.mark.parametrize("make", [Pooled, Masked])
@pytest.mark.parametrize("silent", ["read", "written"])
def test_the_largest_over_time_of_units_that_are_zero_is_zero(make, silent):
    torch.manual_seed(0)
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 5])[:, None]
    model, inputs = make(), (batch(), mask)[: 1 + (make is Masked)]
    pruner = cr.GroupLasso(model, inputs, strength=0.0)
    (group,) = pruner.groups
    assert not group.untracked.any()
    factors = (torch.arange(16) % 2).float()
    for part in group.readers if silent == "read" else (*group.writers, *group.biases):
        part.scale_(factors)
    small = pruner.shrink()
    assert_same(model, small, inputs, (batch(), *inputs[1:]))
    assert kept(pruner)["rnn[0].h"][0] == (16 if silent == "written" and make is Masked else 8)


def test_where_the_largest_stood_says_something_of_a_unit():
    class Places(Tagger):
        def forward(self, x):
            return self.out(self.rnn(x)[0].max(1)[1].float())

    pruner = cr.GroupLasso(Places(), batch(), strength=0.0)
    assert pruner.groups[0].untracked.all()


class Renamed(nn.LSTM):
    """Nothing of its own."""


class Own(nn.LSTM):
    """A forward of its own."""

    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def test_subclasses_of_torch_s_layers():
    model, x = Tagger(Renamed), batch()
    _, small = cut(model, x)
    assert_same(model, small, (x,))
    assert small.rnn.hidden_size < 16
    model = nn.Sequential()
    model.add_module("own", Own(6, 16, batch_first=True))
    with pytest.raises(cr.UnsupportedModelError, match=r"own \(Own\) is a subclass of nn\.LSTM with a forward"):
        cr.GroupLasso(model, x, strength=0.0)

    class Mixed(Tagger):
        def __init__(self):
            super().__init__()
            self.own = Own(6, 6, batch_first=True)

        def forward(self, x):
            return super().forward(self.own(x)[0])

    model = Mixed()
    _, small = cut(model, x)
    assert_same(model, small, (x,))
    assert type(small.own) is Own and small.rnn.hidden_size < 16


class OwnCell(nn.LSTMCell):
    """A cell with a forward of its own."""

    def forward(self, x, hx=None):
        h, c = super().forward(x, hx)
        return h.relu(), c


class CellLoop(nn.Module):
    """Such a cell in a Python loop."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleDict({"cell": OwnCell(6, 8)})

    def forward(self, x):
        h = c = x.new_zeros(len(x), 8)
        for t in range(x.shape[1]):
            h, c = self.steps["cell"](x[:, t], (h, c))
        return h


@pytest.mark.filterwarnings("ignore")
def test_models_without_a_layer_are_refused_with_what_they_hold():
    with pytest.raises(
        cr.UnsupportedModelError, match=r"steps\.cell \(OwnCell\) is a subclass of nn\.LSTMCell.*Recurrent"
    ):
        cr.GroupLasso(CellLoop(), batch(), strength=0.0)
    with pytest.raises(cr.UnsupportedModelError, match=r"TorchScript module.*give the model"):
        cr.GroupLasso(torch.jit.trace(nn.LSTM(6, 16, batch_first=True), batch()), batch(), strength=0.0)
    with pytest.raises(cr.UnsupportedModelError, match=r"code around 0 \(Conv1d\), not such a layer.*AbstractCell"):
        cr.GroupLasso(nn.Sequential(nn.Conv1d(7, 3, 1)), batch(), strength=0.0)


def test_code_that_converts_to_a_certain_type_is_named():
    class Mixed(Tagger):
        def forward(self, x):
            return self.out(self.rnn(x)[0].bfloat16())

    model = Mixed()
    model.out.bfloat16()
    with pytest.raises(cr.UnsupportedModelError, match=r"neither in float64 nor in float32.*to the type of a weight"):
        cr.GroupLasso(model, batch(), strength=0.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_torchscript_inside_is_named():
    model = Tagger()
    model.out = torch.jit.script(model.out)
    with pytest.raises(cr.UnsupportedModelError, match=r"Tagger: out is a torch.jit.ScriptModule, .*Python module"):
        cr.GroupLasso(model, batch(), strength=0.0)
    cr.factorize_(model, {"rnn": cr.LowRank(rank=2)}, batch())(batch())


def test_a_model_that_does_not_run_on_the_example_is_named():
    with pytest.raises(cr.UnsupportedModelError, match=r"Tagger does not run on example_inputs: RuntimeError.*6"):
        cr.GroupLasso(Tagger(), torch.randn(4, 7, 5), strength=0.0)


def test_a_refusal_comes_before_the_training():
    """The model's code branches on the values of units, so no smaller model is equivalent."""

    class Sized(Tagger):
        def forward(self, x):
            return super().forward(x) * self.out.in_features * (self.rnn.weight_ih_l0.shape[0] / 64)

    with pytest.raises(cr.UnsupportedModelError, match="no smaller model gives the same outputs"):
        cr.GroupLasso(Sized(), batch(), strength=0.0)


def test_the_dry_run_leaves_the_model_alone():
    model, x = Dropped(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = cr.GroupLasso(model, x, keep=0.5, steps=3)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(left == units for left, units in kept(pruner).values())


def test_a_profiler_may_be_at_work():
    import cProfile

    with cProfile.Profile():
        pruner = cr.GroupLasso(Methods(), batch(), strength=0.0)
    silence(pruner)
    assert size(pruner.shrink()) < size(Methods())


class Called(nn.Module):
    """Takes keyword arguments, not all of them tensors."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x, lengths, scale=1.0, state=None, extra=None):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed, state)[0], batch_first=True)
        return {"y": self.out(y) * scale + (0 if extra is None else extra["bias"])}


@pytest.mark.parametrize(
    "given",
    [
        (torch.randn(4, 7, 6), [7, 3, 2, 5]),
        (torch.randn(4, 7, 6), torch.tensor([7, 3, 2, 5]), 2.0, None),
        {"lengths": [7, 3, 2, 5], "x": torch.randn(4, 7, 6), "extra": {"bias": torch.randn(3)}},
        (torch.randn(4, 7, 6), [1, 3, 2, 5], 2.0, (torch.zeros(1, 4, 16), torch.zeros(1, 4, 16))),
    ],
    ids=["list", "numbers", "keywords", "states"],
)
def test_examples_may_hold_numbers_lists_none_and_keywords(given):
    torch.manual_seed(0)
    model = Called()
    _, small = cut(model, given)
    assert_same(model, small, given)
    assert size(small) < size(model)


def test_what_cannot_be_an_argument_is_refused():
    packed = nn.utils.rnn.pack_padded_sequence(batch(), [7, 3, 2, 1], batch_first=True)
    with pytest.raises(ValueError, match=r"got a PackedSequence.*pack them within forward"):
        cr.GroupLasso(Tagger(), packed, strength=0.0)
    with pytest.raises(ValueError, match=r"got a ndarray"):
        cr.GroupLasso(Tagger(), batch().numpy(), strength=0.0)


def test_a_model_that_makes_float32_itself():
    class OneHot(Tagger):
        def forward(self, tokens):
            return super().forward(functional.one_hot(tokens, 6).float())

    torch.manual_seed(0)
    model, tokens = OneHot(), torch.randint(6, (4, 7))
    pruner, small = cut(model, tokens)
    assert kept(pruner)["rnn[0].h"][0] < 16
    assert (model(tokens) - small(tokens)).abs().max() < 1e-5


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    rest: dict | None = None


class Told(OrderedDict):
    """A mapping of a class of its own."""


@pytest.mark.parametrize(
    "result", [lambda y, h: Answer(y, {"h": h}), lambda y, h: (Told(y=y), h)], ids=["dataclass", "mapping"]
)
def test_what_a_model_returns_may_be_an_object(result):
    class Telling(Tagger):
        def forward(self, x):
            h = self.rnn(x)[0]
            return result(self.out(h), h.mean())

    torch.manual_seed(0)
    model, x = Telling(), batch()
    pruner, small = cut(model, x)
    assert kept(pruner)["rnn[0].h"][0] < 16
    ours, theirs = plain(small(x)), plain(model(x))
    torch.testing.assert_close(tree_leaves(ours), tree_leaves(theirs), rtol=1e-5, atol=1e-5)
    assert type(small(x)) is type(model(x))


class BeforeTransformer(nn.Module):
    """Encoder and decoder layers of a transformer over the outputs of a layer, whose width stays."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(4, 12, batch_first=True), nn.GRU(12, 8, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.second(self.first(x)[0])[0]
        return self.head(self.decoder(y, self.encoder(y)))


def test_layers_before_those_of_a_transformer():
    model, x = BeforeTransformer(), torch.randn(3, 6, 4)
    pruner, small = cut(model, x)
    assert_same(model, small, x, torch.randn(2, 9, 4))
    assert small.first.hidden_size == next(iter(kept(pruner).values()))[0] < 12
