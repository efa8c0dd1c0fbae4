"""A model that is one time step with explicit states: a stream computes what torch computes when they are fed back."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import compactrnn as cr
from compactrnn.graph.arguments import arguments, flatten
from step_models import MODELS, Attention, Cells, Decoder, Episodes, GRUStep, Loop, Policy, Step, r, z

pytestmark = pytest.mark.filterwarnings("ignore:no calibration data", "ignore:quantization changes")
STEPS = 50


def packed(tmp_path, model, example, states, weights="float32", **options):
    torch.manual_seed(0)
    report = cr.pack(model, tmp_path / "m.crnn", example, weights=weights, states=states, **options)
    return cr.Engine(tmp_path / "m.crnn"), report


def sequences(tensors, names, engine, scale=1.0):
    """Random inputs of `STEPS` steps in the shapes of the model, with a batch of one, by name."""
    ports, found = {i.name: i for i in engine.inputs}, {}
    for name, x in zip(names, tensors, strict=True):
        if name in ports:
            shape = [STEPS, *x.shape]
            vocabulary = ports[name].vocabulary
            drawn = torch.randint(vocabulary, shape) if vocabulary else scale * torch.randn(shape)
            found[name] = drawn > 0 if x.dtype == torch.bool else drawn.to(x.dtype)
    return found


@torch.no_grad()
def in_torch(model, example, names, xs, states, split):
    """Outputs at each step and the last states, with the states fed back, flat."""
    args, kwargs = arguments(model, example)
    _, spec = pytree.tree_flatten((args, kwargs))
    others = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if not isinstance(leaf, torch.Tensor)]
    rows = []
    for t in range(STEPS):
        values = {**{name: x[t] for name, x in xs.items()}, **states}
        given = [values[name] for name in names]
        a, k = pytree.tree_unflatten([*given, *others], spec)
        y = pytree.tree_leaves(model(*a, **k))
        outputs, new = split(y)
        states = dict(zip(states, new, strict=True))
        rows.append([v.numpy().ravel() for v in outputs])
    return [np.stack(row) for row in zip(*rows, strict=True)], {n: s.numpy().ravel() for n, s in states.items()}


def case(name):
    make, example, states, *rest = MODELS[name]
    torch.manual_seed(0)
    return make().eval(), example, states, rest[0] if rest else None


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_gives_what_torch_gives(tmp_path, name):
    model, example, states, split = case(name)
    engine, report = packed(tmp_path, model, example, states)
    assert report.parity < 1e-4
    tensors, names = flatten(model, example)
    size = {"policy, batch of three": 3, "GRUCell": 2}.get(name, 0)
    tensors = [
        x[tuple(slice(1) if n == size and d < 2 else slice(None) for d, n in enumerate(x.shape))] for x in tensors
    ]
    kept = [s.name for s in engine.states]
    split = split or (lambda y: (y[: -len(kept)], y[-len(kept) :]))
    zeros = {n: torch.zeros_like(x) for n, x in zip(names, tensors, strict=True) if n in kept}
    random = {n: torch.randn_like(x) for n, x in zeros.items()}
    for start, scale in ((zeros, 1.0), (random, 1.0), (random, 30.0)):
        xs = sequences(tensors, names, engine, scale)
        outputs, after = in_torch(model, example, names, xs, start, split)
        stream = engine.stream()
        stream.reset(**{n: s.numpy() for n, s in start.items()} if start is random else {})
        given = [xs[i.name].numpy().reshape(STEPS, *i.shape) for i in engine.inputs]
        ys = stream.run(tuple(given) if len(given) > 1 else given[0])
        for ours, theirs in zip(ys if isinstance(ys, tuple) else [ys], outputs, strict=True):
            scale_of = max(1.0, np.abs(theirs).max())
            np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-4 * scale_of)
        for n, theirs in after.items():
            np.testing.assert_allclose(stream.get_state(n).ravel(), theirs, atol=1e-4 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("done", [z(1), torch.ones(1)], ids=["off", "on"])
def test_a_flag_that_begins_an_episode(tmp_path, done):
    """It multiplies the cell state, which grows without end where it is tried with large numbers."""
    torch.manual_seed(0)
    model, states = Episodes().eval(), (z(1, 1, 16), z(1, 1, 16))
    engine, _ = packed(tmp_path, model, (r(1, 1, 12), done, *states), ["h", "c"])
    stream = engine.stream()
    for t in range(STEPS):
        obs, done = 3 * torch.randn(1, 1, 12), torch.full((1,), float(t % 7 == 0))
        with torch.no_grad():
            wanted, *states = model(obs, done, *states)
        got = stream.step((obs.numpy().ravel(), done.numpy().reshape(engine.inputs[1].shape)))
        np.testing.assert_allclose(got, wanted.numpy().ravel(), rtol=1e-4, atol=1e-5)


def lstm_step(order):
    def forward(m, x, h, c):
        h, c = m.cell(x, (h, c))
        return (m.fc(h), *order(h, c))

    return Step(forward, cell=nn.LSTMCell(6, 8), fc=nn.Linear(8, 2))


def stacked(order):
    def forward(m, x, a, b):
        a = m.one(x, a)
        b = m.two(a, b)
        return (b, *order(a, b))

    return Step(forward, one=nn.GRUCell(6, 8), two=nn.GRUCell(8, 8))


class Swapped(nn.Module):
    """Updates its states by hand, so that only names can pair them."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(14, 8), nn.Linear(16, 8)

    def forward(self, x, a, b):
        a = torch.tanh(self.one(torch.cat([x, a], -1)))
        b = torch.tanh(self.two(torch.cat([a, b], -1)))
        return a + b, b, a


HC = (r(1, 6), z(1, 8), z(1, 8))
REFUSED = {
    "no such argument": (Policy, (r(1, 1, 12), z(1, 1, 16), z(1, 1, 16)), ["h", "d"], r"\(obs, h, c\), got 'd'"),
    "no such position": (GRUStep, (r(1, 6), z(1, 16)), [2], r"\(x, h\) or its position, got 2"),
    "one twice": (GRUStep, (r(1, 6), z(1, 16)), ["h", 1], "each argument once"),
    "a text": (GRUStep, (r(1, 6), z(1, 16)), "h", "names of arguments, or a dict"),
    "none": (GRUStep, (r(1, 6), z(1, 16)), [], "names of arguments, or a dict"),
    "all of them": (GRUStep, (r(1, 6), z(1, 16)), ["x", "h"], "at least one argument left as input"),
    "no such output": (GRUStep, (r(1, 6), z(1, 16)), {"h": 2}, r"one of the positions .* \(0, 1\), got 2"),
    "no such key": (Attention, (r(1, 6), r(1, 7, 5), z(1, 8), z(1, 8)), {"h": "hx", "c": "c"}, "y, weights, h, c"),
    "another key": (Attention, (r(1, 6), r(1, 7, 5), z(1, 8), z(1, 8)), ["x"], "one of the keys .* got 'x'"),
    "one output twice": (Policy, (r(1, 1, 12), z(1, 1, 16), z(1, 1, 16)), {"h": 1, "c": 1}, "an output for each"),
    "another shape": (GRUStep, (r(1, 6), z(1, 16)), {"h": 0}, r"shape \(1, 16\).* got output 0 of shape \(1, 3\)"),
    "not returned": (lambda: Step(lambda m, x, h: m.c(x, h), c=nn.GRUCell(6, 8)), HC[:2], [0, 1], "left as input"),
    "too few": (lambda: Step(lambda m, x, h, k: m.c(x, h), c=nn.GRUCell(6, 8)), HC, [1, 2], "returns 1 tensors"),
    "whole numbers": (
        lambda: Step(lambda m, x, h, n: (x, m.c(x, h), n + 1), c=nn.GRUCell(6, 8)),
        (r(1, 6), z(1, 8), torch.tensor([0])),
        [1, 2],
        "floating-point .* got torch.int64",
    ),
    "h and c in another order": (lambda: lstm_step(lambda h, c: (c, h)), HC, [1, 2], "order of the states"),
    "two layers in another order": (lambda: stacked(lambda a, b: (b, a)), HC, [1, 2], "order of the states"),
    "names in another order": (Swapped, HC, ["a", "b"], r"returns b, a; .* states={'a': 2, 'b': 1}"),
    "a sequence": (
        lambda: nn.GRU(6, 8, batch_first=True),
        (r(1, 9, 6), z(1, 1, 8)),
        ["hx"],
        r"gets 9 steps.*x\[:, :1\]",
    ),
    "a look ahead": (
        lambda: Step(lambda m, x, s: m.rnn(x, s), rnn=cr.Recurrent(cr.FSMN, 6, 8, look_back=2, look_ahead=1)),
        (r(1, 1, 6), z(1, 1, 4)),
        [1],
        "rnn: reads 1 later step",
    ),
    "rows together": (
        lambda: Step(lambda m, x, h: (x, m.c(x, h - h.mean(0))), c=nn.GRUCell(6, 8)),
        (r(2, 6), z(2, 8)),
        [1],
        "sequences of a batch depend on each other",
    ),
    "random": (
        lambda: Step(lambda m, x, h: (x, m.c(x, h) + torch.rand(1)), c=nn.GRUCell(6, 8)),
        HC[:2],
        [1],
        "something else when it is called again",
    ),
    "values of tensors": (
        lambda: Step(lambda m, x, h: (x, m.c(x, h) if h.sum() > 0 else h), c=nn.GRUCell(6, 8)),
        HC[:2],
        [1],
        "depends on values of tensors",
    ),
    "a wrong example": (lambda: nn.GRUCell(6, 8), (r(1, 5), z(1, 8)), ["hx"], "GRUCell: fails on example_inputs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, name):
    make, example, states, words = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=words):
        cr.pack(make().eval(), tmp_path / "m.crnn", example, states=states)
    assert not (tmp_path / "m.crnn").exists()


def test_a_dict_pairs_states_in_another_order(tmp_path):
    torch.manual_seed(0)
    model = lstm_step(lambda h, c: (c, h)).eval()
    engine, _ = packed(tmp_path, model, HC, {1: 2, 2: 1})
    x, stream = torch.randn(9, 6), engine.stream()
    h = c = z(1, 8)
    for t in range(9):
        with torch.no_grad():
            y, c, h = model(x[t][None], h, c)
        np.testing.assert_allclose(stream.step(x[t].numpy()), y[0], atol=1e-5)
    np.testing.assert_allclose(stream.get_state("args_2"), c[0], atol=1e-5)


def test_states_start_from_zeros_or_from_what_is_given(tmp_path):
    example = (r(1, 6), torch.randn(1, 16))
    with pytest.warns(UserWarning, match=r"state h: the stream starts from zeros .*initial={'h': ...}"):
        engine, _ = packed(tmp_path, GRUStep(), example, ["h"])
    assert not engine.stream().get_state("h").any()
    for given in (example[1], example[1][0].numpy(), example[1][None].double()):
        engine, _ = packed(tmp_path, GRUStep(), example, ["h"], initial={"h": given})
        stream = engine.stream()
        assert np.array_equal(stream.get_state("h"), example[1][0].numpy())
        stream.set_state("h", np.ones(16))
        stream.reset()
        assert np.array_equal(stream.get_state("h"), example[1][0].numpy())
    for initial, words in (({"x": z(6)}, "names of states"), ({"h": z(15)}, r"expected \(16,\), of one sequence")):
        with pytest.raises(ValueError, match=words):
            packed(tmp_path, GRUStep(), example, ["h"], initial=initial)
    with pytest.raises(ValueError, match="expected states"):
        packed(tmp_path, nn.GRU(6, 8), r(9, 2, 6), None, initial={"h": z(8)})


@pytest.mark.parametrize("weights", ["int8", "int4", "auto"])
@pytest.mark.parametrize("name", ["policy of two layers", "gru by hand", "a stack of cells", "decoder"])
def test_quantized_steps_take_states_of_any_size(tmp_path, name, weights):
    """Nothing is clipped: a state as large as 3 gives float32's result up to rounding."""
    model, example, states, _ = case(name)
    exact, _ = packed(tmp_path, model, example, states)
    torch.manual_seed(1)
    tokens = torch.randint(20, (STEPS,)).numpy()
    xs = tuple(tokens if i.vocabulary else r(STEPS, *i.shape).numpy() for i in exact.inputs)
    xs = xs if len(xs) > 1 else xs[0]
    engine, report = packed(tmp_path, model, example, states, weights, calibration=[xs, xs])
    assert report.calibrated and not any(s.bounded for s in engine.states)
    given = {s.name: 3 * r(*s.shape).numpy() for s in engine.states}
    first = []
    for one in (exact, engine):
        stream = one.stream()
        stream.reset(**given)
        y = stream.run(xs)
        first.append(y[0])
    error = np.sqrt(np.square(first[1] - first[0]).mean() / np.square(first[0]).mean())
    assert error < (0.03 if weights != "int4" else 0.25)


def test_calibration_is_checked(tmp_path):
    example = (torch.tensor([3]), r(1, 4), z(1, 16))
    good = (torch.randint(20, (9,)), r(9, 4))
    for batch in (good, {"token": good[0], "context": good[1].numpy()}, (good[0][:, None], good[1][:, None])):
        assert packed(tmp_path, Decoder(), example, ["h"], "int8", calibration=[batch])[1].calibrated
    for batch, words in [
        ((*good, z(1, 16)), r"no states, got 3 tensors"),
        ((good[0], r(9, 5)), r"context of shape \('time', 4\).* got a tensor of shape \(9, 5\)"),
        ((good[0], r(8, 4)), r"as many steps of all inputs, got \[9, 8\] steps"),
        ((good[0][:0], r(0, 4)), "sequences"),
    ]:
        with pytest.raises(ValueError, match=words):
            packed(tmp_path, Decoder(), example, ["h"], "int8", calibration=[batch])


def test_the_body_of_a_loop_over_a_cell_is_a_step(tmp_path):
    class Whole(Loop):
        def forward(self, x):
            return super().forward(x, *[x.new_zeros(len(x), 16)] * 2)[0]

    torch.manual_seed(0)
    model, x = Whole().eval(), torch.randn(2, 9, 10)
    step = Loop().eval()
    step.load_state_dict(model.state_dict())
    engine, _ = packed(tmp_path, step, (x[:1, :1], z(1, 16), z(1, 16)), ["h", "c"])
    with torch.no_grad():
        np.testing.assert_allclose(engine.run(x[0].numpy()), model(x)[0], atol=1e-5)


def test_a_model_with_states_is_told_of_them(tmp_path):
    for example in ((r(10, 1, 12), z(1, 1, 16), z(1, 1, 16)), (r(1, 1, 12), z(1, 1, 16), z(1, 1, 16))):
        with pytest.raises(cr.UnsupportedModelError, match=r"initial state.*states=\['h', 'c'\]"):
            cr.pack(Policy().eval(), tmp_path / "m.crnn", example)
    with pytest.raises(cr.UnsupportedModelError, match=r"initial state.*states=\['hx'\]"):
        cr.pack(nn.LSTM(6, 8), tmp_path / "m.crnn", (r(9, 1, 6), (z(1, 1, 8), z(1, 1, 8))))


def test_layers_are_named_as_in_the_model(tmp_path):
    _, report = packed(tmp_path, Cells(), (r(1, 6), z(3, 1, 8), z(3, 1, 8)), ["h", "c"], {"cells.1": "float32"})
    kinds = {f"cells.{i}.weight_{part}": "float32" if i == 1 else "int8" for i in range(3) for part in ("ih", "hh")}
    assert report.types == kinds
    _, report = packed(tmp_path, nn.GRUCell(6, 8), (r(1, 6), z(1, 8)), ["hx"])
    assert set(report.types) == {"weight_ih", "weight_hh"}


def test_the_model_is_not_changed(tmp_path):
    model = Cells().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    packed(tmp_path, model, (r(1, 6), z(3, 1, 8), z(3, 1, 8)), ["h", "c"])
    assert model.training and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(type(cell) is nn.LSTMCell and "mode" not in vars(cell) for cell in model.cells)
