"""States of any shape, initial values that are tensors, delay lines, look-ahead, coupled linear states."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.cells import FSMN, AbstractCell, HiPPO, StateSpec, UnitSet, check_declaration, push
from compactrnn.layers.block_recurrence import block_scan
from compactrnn.weights import Dense
from compactrnn.weights.dense import DENSE

# the states of a layer are kept by a stream, and are not outputs of the models here
pytestmark = pytest.mark.filterwarnings("ignore:not among the engine's outputs")


def packed(model, folder, x, weights="float32"):
    """The report and the engine."""
    report = cr.pack(model, folder / "m.crnn", x, weights=weights, calibration=[x])
    return report, cr.Engine(folder / "m.crnn")


class Learnt(AbstractCell):
    """Starts from a parameter, counts its steps, and reads its own output of three steps ago."""

    units = (UnitSet("h", written_by=("input", "hidden", "first"), read_by=("hidden",), output=True),)

    def __init__(self, input_size, hidden_size, *, hidden_weight=DENSE, init="first", update=push):
        super().__init__(input_size, hidden_size)
        self.states = (
            StateSpec("h", init=init),
            StateSpec("line", delay=3),
            StateSpec("steps", shape=(1,), init="start", role="counter"),
        )
        self.update = update
        self.input, self.hidden = Dense().build(hidden_size, input_size), hidden_weight.build(hidden_size, hidden_size)
        self.first = nn.Parameter(torch.empty(hidden_size))
        self.register_buffer("start", torch.tensor([2.0]))
        self.reset_parameters()

    def step(self, projected, states):
        h, line, steps = states
        n = projected.shape[1]
        h = torch.tanh(projected + self.hidden(line[:, 2 * n :]) + h / steps)
        return h, (h, self.update(line, h), steps + 1)


def check_loops(layer, x, tolerance=1e-5):
    """Outputs, last states and gradients of all parameters and x, in every loop."""
    found = []
    for kind in ("plain", *cr.loop_report(layer)[0].kinds):
        given = x.clone().requires_grad_()
        with cr.time_loop(kind):
            output, after = layer(given)
        outputs = [output, *(after if isinstance(after, tuple) else (after,))]
        total = sum(y.sin().sum() for y in outputs)
        found.append((outputs, torch.autograd.grad(total, [given, *layer.parameters()], allow_unused=True)))
    for outputs, grads in found[1:]:
        assert_close(outputs, found[0][0], rtol=1e-4, atol=tolerance)
        assert_close(grads, found[0][1], rtol=1e-3, atol=10 * tolerance)
    return found[0]


def test_initial_values_are_tensors_of_the_cell_and_are_trained():
    torch.manual_seed(0)
    layer = cr.Recurrent(Learnt, 3, 5, 2)
    assert cr.loop_report(layer)[0].kinds == ("native",)
    (_, h_n, line, steps), grads = check_loops(layer, torch.randn(7, 4, 3))
    assert h_n.shape == (2, 4, 5) and line.shape == (2, 4, 15) and (steps == 9).all() and steps.shape == (2, 4, 1)
    by_name = dict(zip([n for n, _ in layer.named_parameters()], grads[1:], strict=True))
    assert by_name["cells.0.0.first"].abs().max() > 0.01
    assert_close(layer.cells[0][0].initial_states(2)[0], layer.cells[0][0].first.expand(2, 5))
    assert layer.double()(torch.randn(2, 1, 3).double())[1][2].dtype == torch.float64


def test_states_of_different_layers_and_of_no_batch():
    torch.manual_seed(0)
    layer, x = cr.Recurrent(Learnt, 3, [5, 4]), torch.randn(6, 3)
    output, (h_n, line, steps) = layer(x)
    assert [h.shape[-1] for h in h_n] == [5, 4] and [h.shape[-1] for h in line] == [15, 12]
    first, states = layer(x[:2])
    second, after = layer(x[2:], states)
    assert_close(torch.cat([first, second]), output)
    assert_close(after, (h_n, line, steps))


def test_a_learnt_start_a_line_and_a_counter_pack(tmp_path):
    torch.manual_seed(0)
    model, x = cr.Recurrent(Learnt, 3, 5, 2, batch_first=True), torch.randn(2, 30, 3)
    report, engine = packed(model, tmp_path, x)
    assert report.parity < 1e-5
    assert_close(torch.from_numpy(engine.run(x[0].numpy())), model(x)[0][0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*plain loop over time")
@pytest.mark.parametrize(
    "update",
    [lambda line, x: line, lambda line, x: torch.cat([line[:, x.shape[1] :], x], 1), lambda line, x: line * 1.0],
)
def test_a_line_that_is_not_pushed_stays_in_the_plain_loop_and_packs_as_it_is(update, tmp_path):
    layer, x = cr.Recurrent(Learnt, 3, 5, update=update, batch_first=True), torch.randn(1, 9, 3)
    (report,) = cr.loop_report(layer)
    assert not report.kinds and "the delay line 'line' is not updated by push(line, x)" in report.reason
    assert packed(layer, tmp_path, x)[0].parity < 1e-5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"units": "h", "shape": (1,)}, "a unit set or a shape of its own, not both"),
        ({"delay": -1}, "delay: expected 0 or a number of steps, got -1"),
        ({"role": "delay"}, "role: expected .*delay > 0, got 'delay'"),
        ({"role": "gate"}, "role: expected .*, got 'gate'"),
    ],
)
def test_state_specs_say_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        StateSpec("s", **options)


@pytest.mark.parametrize(
    "state, message",
    [
        (StateSpec("s", shape=()), "shape: expected a tuple of positive ints"),
        (StateSpec("s", shape=(0, 3)), "shape: expected a tuple of positive ints"),
        (
            StateSpec("s", init="nothing"),
            "init: expected a number, or a parameter or buffer of 1 or 6 numbers, got 'nothing'",
        ),
        (StateSpec("s", init="input_bias"), "init: expected a number, .*got 'input_bias' of 12 numbers"),
        (StateSpec("s", init="apart"), "init: expected it in written_by .* or buffers of UnitSet 'h'"),
        (StateSpec("s", delay=2, init="apart"), "init: expected a number, or .* of 1 or 12 numbers"),
        (StateSpec("s", written_by=("forget",)), r"written_by: expected \(\) for a state of a unit set"),
        (StateSpec("s", shape=(2,), written_by=("absent",)), "written_by: expected the name of a weight.*'absent'"),
        (StateSpec("s", shape=(2,), read_by="forget"), "read_by: expected a tuple of names.*'forget'"),
    ],
)
def test_declarations_of_states_say_what_is_wrong(state, message):
    cell = cr.MGU(4, 6)
    cell.apart = nn.Parameter(torch.ones(6))
    cell.states = (*cell.states, state)
    with pytest.raises(ValueError, match=message):
        check_declaration(cell)


def legs(order, inputs):
    """Coefficients after each input, by matrices in float64."""
    n = np.arange(order)
    root, eye = np.sqrt(2 * n + 1), np.eye(order)
    a = -np.tril(root[:, None] * root, -1) - np.diag(n + 1)
    c = inputs[0] * eye[0]
    found = [c]
    for t, f in enumerate(inputs[1:], 1):
        c = np.linalg.solve(eye - a / (2 * t), (eye + a / (2 * t)) @ c + root * f / t)
        found.append(c)
    return np.stack(found)


class Memory(nn.Module):
    """Applied to its input alone: nothing is fed back, and the output is a function of the coefficients."""

    def __init__(self, order):
        super().__init__()
        self.rnn = cr.Recurrent(HiPPO, 1, order, order=order)
        (cell,) = self.rnn.cells[0]
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.zero_()
            cell.memory_input.weight.fill_(1)
            cell.memory.weight[order:] = 0.01 * torch.eye(order)  # the candidate; the gate stays at 1/2
        self.order = order

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize("order", [8, 64])
@pytest.mark.parametrize("kind", ["plain", "native"])
def test_the_memory_is_the_polynomial_of_thousands_of_steps(order, kind):
    steps = 3000
    x = np.sin(np.arange(steps) / 60) + 0.5 * np.random.default_rng(0).standard_normal(steps)
    x = x.astype(np.float32)
    with cr.time_loop(kind), torch.no_grad():
        _, (_, memory, count) = Memory(order).rnn(torch.from_numpy(x).view(-1, 1, 1))
    np.testing.assert_allclose(memory[0, 0], legs(order, x.astype(float))[-1], rtol=0, atol=1e-5)
    assert count.item() == steps


def test_the_engine_s_memory_is_that_polynomial_and_a_stream_goes_on(tmp_path):
    order, steps = 32, 2000
    model = Memory(order)
    x = np.cos(np.arange(steps) / 40).astype(np.float32)[:, None]
    _, engine = packed(model, tmp_path, torch.from_numpy(x[:64, None]))
    coefficients, h = legs(order, x[:, 0].astype(float)), np.zeros(order)
    wanted = []
    for c in coefficients:
        h = 0.5 * h + 0.5 * np.tanh(0.01 * c)
        wanted.append(h)
    whole = engine.run(x)
    np.testing.assert_allclose(whole, np.stack(wanted), rtol=0, atol=1e-6)
    stream = engine.stream()
    pieces = [stream.run(piece) for piece in np.split(x, [1, 7, 700])]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_a_memory_in_half_precision_is_refused():
    layer = cr.Recurrent(HiPPO, 3, 4).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"HiPPO dtype: expected float32 or float64, got torch\.bfloat16"):
        layer(torch.randn(5, 2, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("cell", [partial(HiPPO, order=6), partial(HiPPO, memory_size=2, discretization="backward")])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_hippo_in_every_loop(cell, bidirectional):
    torch.manual_seed(0)
    layer = cr.Recurrent(cell.func, 3, 5, 2, bidirectional=bidirectional, **cell.keywords)
    assert cr.loop_report(layer)[0].kinds == ("native",)
    check_loops(layer, torch.randn(40, 3, 3))


LOOKS = [
    partial(cr.Recurrent, FSMN, 3, 8, look_back=3),
    partial(cr.Recurrent, FSMN, 3, 8, look_back=1, projection_size=3),
    partial(cr.Recurrent, FSMN, 3, 8, look_back=2, look_ahead=3, stride=2, projection_size=3),
    partial(cr.Recurrent, FSMN, 3, 8, look_back=2, look_ahead=1, nonlinearity="tanh"),
]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("make", LOOKS)
def test_fsmn_in_every_loop_and_of_several_lengths(make, bidirectional):
    torch.manual_seed(0)
    layer = make(num_layers=2, bidirectional=bidirectional)
    assert cr.loop_report(layer)[0].kinds == ("native",)
    check_loops(layer, torch.randn(17, 3, 3))
    sequences = [torch.randn(n, 3) for n in (2, 9, 1, 5)]
    for kind in ("plain", "native"):
        with cr.time_loop(kind):
            packed, lines = layer(pack_sequence(sequences, enforce_sorted=False))
        padded, lengths = pad_packed_sequence(packed)
        for i, x in enumerate(sequences):
            output, line = layer(x)
            assert lengths[i] == len(x)
            assert_close(padded[: len(x), i], output, rtol=1e-4, atol=1e-5)
            assert_close(lines[:, i], line, rtol=1e-4, atol=1e-5)


def test_what_looks_back_only_streams_in_any_pieces(tmp_path):
    torch.manual_seed(0)
    model, x = LOOKS[0](num_layers=2, batch_first=True), torch.randn(1, 60, 3)
    for weights, most in (("float32", 1e-5), ("int8", 0.03)):
        report, engine = packed(model, tmp_path, x, weights)
        assert report.error < most
        whole, stream = engine.run(x[0].numpy()), engine.stream()
        pieces = [stream.run(piece) for piece in np.split(x[0].numpy(), [1, 2, 30])]
        assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("make", LOOKS[2:])
def test_what_looks_ahead_packs_offline(make, bidirectional, tmp_path):
    torch.manual_seed(0)
    model, x = make(batch_first=True, bidirectional=bidirectional), torch.randn(1, 40, 3)
    report, engine = packed(model, tmp_path, x)
    assert report.parity < 1e-5
    for length in (1, 2, 5, 40):
        got, wanted = engine.run(x[0, :length].numpy()), model(x[:, :length])
        # of both directions the last states are known, and given
        for y, want in zip(got if isinstance(got, tuple) else (got,), wanted, strict=False):
            np.testing.assert_allclose(y.flatten(), want.detach().flatten(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"offline|whole sequence"):
        engine.stream()
    assert packed(model, tmp_path, x, "int8")[0].error < 0.03


class OneStep(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.rnn = cr.Recurrent(FSMN, 3, 8, projection_size=2, look_back=3, **options)

    def forward(self, x, line):
        y, line = self.rnn(x[None], line)
        return y[0], line


def test_a_model_of_one_step_keeps_the_whole_line(tmp_path):
    torch.manual_seed(0)
    model, xs, line = OneStep(), torch.randn(12, 1, 3), torch.zeros(1, 1, 6)
    cr.pack(model, tmp_path / "m.crnn", (xs[0], line), states=["line"], weights="float32", calibration=[xs])
    stream = cr.Engine(tmp_path / "m.crnn").stream()
    for x in xs:
        y, line = model(x, line)
        assert_close(torch.from_numpy(stream.step(x[0].numpy())), y[0].detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(cr.UnsupportedModelError, match=r"reads 2 later steps.*pack the model without states"):
        cr.pack(OneStep(look_ahead=2), tmp_path / "m.crnn", (xs[0], torch.zeros(1, 1, 6)), states=["line"])


def test_a_delay_line_is_one_operation_however_long():
    from compactrnn.lower import lower
    from compactrnn.runtime.program import Code

    x = torch.randn(1, 30, 3)
    codes = [[op.code for op in lower(cr.Recurrent(FSMN, 3, 8, look_back=n, stride=9), x).ops] for n in (2, 4)]
    assert [c.count(Code.DELAY) for c in codes] == [1, 1]
    assert len(codes[1]) - len(codes[0]) == 4  # two products and two sums of the two taps more


class Model(nn.Module):
    def __init__(self, cell, **options):
        super().__init__()
        self.rnn = cr.Recurrent(cell, 3, 12, **options)
        self.head = nn.Linear(24 if self.rnn.bidirectional else 12, 2)

    def forward(self, x, hx=None):
        return self.head(self.rnn(x, hx)[0])


@pytest.mark.parametrize(
    "options",
    [
        {"cell": HiPPO, "num_layers": 2, "order": 6},
        {"cell": HiPPO, "bidirectional": True, "order": 5, "memory_size": 2},
        {"cell": FSMN, "num_layers": 2, "projection_size": 6, "look_back": 3},
        {"cell": FSMN, "bidirectional": True, "projection_size": 6, "look_back": 2, "look_ahead": 2},
        {"cell": Learnt, "num_layers": 2},
    ],
    ids=str,
)
def test_cells_with_such_states_shrink_exactly_and_are_saved(options, tmp_path):
    torch.manual_seed(0)
    model, x = Model(**options), torch.randn(20, 4, 3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=20)
    for _ in range(25):
        optimizer.zero_grad()
        (model(x) - x[..., :2].cumsum(0)).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    assert all(cell.unit_count(units) <= 6 for row in small.rnn.rows() for cell in row for units in cell.units)
    assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    cr.save(small, tmp_path / "small")
    assert_close(cr.load(tmp_path / "small", Model(**options))(x), small(x), rtol=0, atol=0)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_block_scans(size, constant, reverse):
    torch.manual_seed(0)
    steps, batch, n = 7, 3, 5
    decay = 0.5 * torch.randn(size, size, *(() if constant else (steps,)), batch, n)
    given = [t.requires_grad_() for t in (decay, torch.randn(size, steps, batch, n), torch.randn(size, batch, n))]

    def by_hand(decay, x, h):
        states = {}
        for t in reversed(range(steps)) if reverse else range(steps):
            a = decay if constant else decay[:, :, t]
            h = states[t] = torch.stack([sum(a[i, j] * h[j] for j in range(size)) for i in range(size)]) + x[:, t]
        return torch.stack([states[t] for t in range(steps)], 1)

    got, want = block_scan(*given, reverse=reverse), by_hand(*given)
    assert_close(got, want)
    for loss in (lambda y: y.sin().sum(), lambda y: y.square().sum()):
        first = [torch.autograd.grad(loss(y), given, create_graph=True) for y in (got, want)]
        assert_close(first[0], first[1], rtol=1e-4, atol=1e-4)
        second = [torch.autograd.grad(sum(g.square().sum() for g in gs), given, retain_graph=True) for gs in first]
        assert_close(second[0], second[1], rtol=1e-3, atol=1e-2)
    doubles = [t.detach().double() for t in given]
    assert_close(block_scan(*doubles, reverse=reverse), by_hand(*doubles))


class Rotation(AbstractCell):
    """A complex state per unit, rotated and scaled by input-dependent or constant factors."""

    states = (StateSpec("re"), StateSpec("im"))
    units = (
        UnitSet("h", written_by=("input", "angle"), read_by=("output",)),
        UnitSet("y", written_by=("output",), read_by=(), output=True),
    )

    def __init__(self, input_size, hidden_size, *, selective):
        super().__init__(input_size, hidden_size)
        self.selective = selective
        self.input, self.output = Dense().build(3 * hidden_size, input_size, 3), Dense().build(hidden_size, hidden_size)
        self.angle = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def step(self, projected, states):
        re, im = states
        size, x, y = projected.chunk(3, 1)
        size = torch.sigmoid(size) if self.selective else 0.9
        cos, sin = size * torch.cos(self.angle), size * torch.sin(self.angle)
        re, im = cos * re - sin * im + x, sin * re + cos * im + y
        return self.output(re) + im, (re, im)


@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize("steps, batch", [(1, 1), (6, 5), (50, 2)])
def test_coupled_states_are_scanned(selective, steps, batch):
    torch.manual_seed(0)
    layer = cr.Recurrent(Rotation, 3, 5, 2, selective=selective)
    assert cr.loop_report(layer)[0].kinds == ("native", "scan")
    check_loops(layer, torch.randn(steps, batch, 3))
