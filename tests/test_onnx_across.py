"""ONNX files whose operators mix the steps of a sequence, at lengths other than those that a pack compares."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
torch = pytest.importorskip("torch", reason="what exports")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import compactrnn as cr  # noqa: E402
from onnx_models import node, packed, relative, save, session, stream_equals_run, tensor  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
UNITS, CLOSE = 6, 1e-4
LENGTHS = 1, 2, 3, 5, 9, 40


class Model(nn.Module):
    """A function of x, (batch, time, units), of the model and of what is computed of a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.gru, self.both = (nn.GRU(UNITS, UNITS, batch_first=True, bidirectional=two) for two in (False, True))
        self.table, self.places = nn.Parameter(torch.randn(150, UNITS)), nn.Embedding(150, UNITS)
        self.narrow, self.lstm = nn.GRU(UNITS - 2, UNITS, batch_first=True), nn.LSTM(UNITS, UNITS, batch_first=True)
        self.wide = nn.GRU(2 * UNITS, UNITS, batch_first=True)
        self.conv, self.conv2d = nn.Conv1d(UNITS, UNITS, 4), nn.Conv2d(1, 1, 3)
        self.wider = nn.Conv1d(UNITS, UNITS, 3, padding=2)

    def forward(self, x):
        return self.function(self, x)

    def convolved(self, x, left, right, mode):
        return self.conv(F.pad(x.transpose(1, 2), (left, right), mode=mode)).transpose(1, 2)


def exported(function, path, steps=12):
    torch.manual_seed(0)
    axes = {"x": {1: "steps"}}
    torch.onnx.export(
        Model(function).eval(), (torch.randn(1, steps, UNITS),), str(path), dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes=axes,
    )  # fmt: skip
    return path


def compare(path, tmp_path, lengths=LENGTHS, offline=None, least=1):
    """The engine and onnxruntime at each length.

    Sequences that the file does not take, and those with fewer than `least` steps, the engine refuses.
    """
    engine, report = packed(path, tmp_path)
    runtime, taken = session(path), 0
    for steps in lengths:
        x = np.random.default_rng(steps).normal(size=(steps, UNITS)).astype(np.float32)
        try:
            (wanted,) = runtime.run(None, {"x": x[None]})
        except Exception:  # onnxruntime raises its own
            wanted = None
        if wanted is None or steps < least:
            assert steps < engine.least_steps
            with pytest.raises(
                ValueError, match=f"xs: expected at least {engine.least_steps}: .*, got {steps} time steps"
            ):
                engine.run(x)
            continue
        (y,) = stream_equals_run(engine, x)
        assert relative(wanted, y) < CLOSE, steps
        taken += 1
    assert taken > 1 and report.parity < CLOSE and offline in (None, engine.offline)
    return engine


ENDS = {
    "reflected before": lambda m, x: m.gru(m.convolved(x, 3, 0, "reflect"))[0],
    "reflected at both ends": lambda m, x: m.both(m.convolved(x, 2, 1, "reflect"))[0],
    "reflected over two axes": lambda m, x: m.gru(m.conv2d(F.pad(x[:, None], (1, 1, 1, 1), mode="reflect"))[:, 0])[0],
    "repeated before": lambda m, x: m.gru(m.convolved(x, 3, 0, "replicate"))[0],
    "repeated at both ends": lambda m, x: m.both(m.convolved(x, 1, 2, "replicate"))[0],
    "circular": lambda m, x: m.gru(m.convolved(x, 2, 1, "circular"))[0],
    "rolled": lambda m, x: m.gru(x.roll(1, 1))[0],
    "rolled back": lambda m, x: m.gru(x.roll(-2, 1))[0],
    "differences from the first": lambda m, x: m.gru(x - torch.cat([x[:, :1], x[:, :-1]], 1))[0],
    "deltas": lambda m, x: m.gru(F.pad(x.transpose(1, 2), (0, 2), mode="replicate").transpose(1, 2)[:, 2:] - x)[0],
    "the fifth": lambda m, x: m.gru(x)[0][:, 4],
    "the last but two": lambda m, x: m.gru(x)[0][:, -3],
}


@pytest.mark.parametrize("case", ENDS)
def test_what_differs_at_the_ends_is_that_of_onnxruntime(case, tmp_path):
    compare(exported(ENDS[case], tmp_path / "m.onnx"), tmp_path, least=2 if case == "rolled back" else 1)


def test_the_first_step_and_the_sequence_backwards(tmp_path):
    """One buffer holds both: the first step of the sequence is the last of it backwards."""
    compare(exported(lambda m, x: m.both(x)[0] + m.both(x)[0].flip(1) + x[:, :1, :1], tmp_path / "m.onnx"), tmp_path)


def test_steps_of_several_frames_are_reflected(tmp_path):
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gru = nn.Conv1d(UNITS, UNITS, 5, 2), nn.GRU(UNITS, UNITS, batch_first=True)

        def forward(self, x):
            return self.gru(self.conv(F.pad(x.transpose(1, 2), (2, 2), mode="reflect")).transpose(1, 2))[0]

    torch.manual_seed(0)
    path = tmp_path / "m.onnx"
    torch.onnx.export(
        Strided().eval(), (torch.randn(1, 12, UNITS),), str(path), dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {1: "steps"}},
    )  # fmt: skip
    engine, report = packed(path, tmp_path)
    assert not any(c.skipped for c in report.checks)
    for steps in (2, 3, 20):
        x = np.random.default_rng(steps).normal(size=(2 * steps, UNITS)).astype(np.float32)
        assert relative(session(path).run(None, {"x": x[None]})[0], engine.run(x)) < CLOSE


def _sinusoid(steps):
    places, rates = torch.arange(steps)[:, None], torch.tensor([1.0, 0.3, 0.1, 0.03, 0.01, 0.001])
    return torch.sin(places * rates)


def _valid(m, x):
    return torch.relu(m.conv(x.transpose(1, 2))).transpose(1, 2)


def _pooled(m, x):
    return torch.max_pool1d(_valid(m, x).transpose(1, 2), 2).transpose(1, 2)


SHORTER = {
    "forwards": (4, lambda m, x: m.gru(_valid(m, x))[0]),
    "both directions": (4, lambda m, x: m.both(_valid(m, x))[0]),
    "twice": (7, lambda m, x: m.both(_valid(m, _valid(m, x)))[0]),
    "then padded": (4, lambda m, x: m.both(m.convolved(_valid(m, x), 2, 1, "constant"))[0]),
    "then reflected": (6, lambda m, x: m.both(m.convolved(_valid(m, x), 2, 1, "reflect"))[0]),
    "the last step": (4, lambda m, x: m.gru(_valid(m, x))[0][:, -1]),
    "the last state": (4, lambda m, x: m.both(_valid(m, x))[1].transpose(0, 1).flatten(1)),
    "over all steps": (4, lambda m, x: (lambda h: h.mean(1) + h.amax(1) - h.amin(1) / 2)(m.gru(_valid(m, x))[0])),
    "weighted": (4, lambda m, x: (lambda h: (h.softmax(1) * h).sum(1))(m.both(_valid(m, x))[0])),
    "beside what it reads": (4, lambda m, x: m.gru(_valid(m, x) + x[:, 1:-2])[0]),
    "of two dimensions": (3, lambda m, x: m.narrow(m.conv2d(x[:, None])[:, 0])[0]),
    "pooled, the last step": (5, lambda m, x: m.gru(_pooled(m, x))[0][:, -1]),
    "pooled": (5, lambda m, x: m.both(_pooled(m, x))[0]),
    "differences": (2, lambda m, x: m.gru(torch.cat([x[:, :1], x[:, 1:] - x[:, :-1]], 1))[0]),
}


@pytest.mark.parametrize("case", SHORTER)
def test_what_has_fewer_steps_than_the_sequence(case, tmp_path):
    """Convolutions without padding, differences, and what is made of them; of `least` steps there is one result."""
    least, function = SHORTER[case]
    path = exported(function, tmp_path / "m.onnx", 20)
    engine, report = packed(path, tmp_path)
    frames = engine.frames_per_step
    assert engine.offline and frames == (2 if "pooled" in case else 1) and not any(c.skipped for c in report.checks)
    for steps in {least, least + 1, least + 4, 22, 60}:
        x = np.random.default_rng(steps).normal(size=(steps, UNITS)).astype(np.float32)
        if steps % frames:
            continue
        wanted = session(path).run(None, {"x": x[None]})[0][0]
        assert wanted.shape == (got := engine.run(x)).shape and relative(wanted, got) < CLOSE, steps
    if least > 1 and "reflected" not in case:
        with pytest.raises(ValueError, match="xs: expected at least"):
            engine.run(np.zeros((frames * ((least - 1) // frames), UNITS), np.float32))


def _padded(m, x):
    return torch.relu(m.wider(x.transpose(1, 2))).transpose(1, 2)


def _text(m, x):
    """Lines of text as the usual recognizer reads them: its pooling pads the width, its last convolution does not."""
    y = x[:, None].transpose(2, 3)
    for _ in range(2):
        y = F.max_pool2d(m.conv2d(F.pad(y, (1, 1, 1, 1))), 2, (2, 1), (0, 1))
    return m.both(F.conv2d(y, m.table[:6, :4].reshape(6, 1, 1, 4)[..., :2])[:, :, 0].transpose(1, 2))[0]


def _spectra(m, x):
    """Centred frames as torch cuts them: reflected at the ends, one more than there are steps."""
    y = torch.stft(x[..., 0], 4, 1, window=m.table[:4, 0], center=True, return_complex=False)
    return y.transpose(1, 2).flatten(2)


MORE = {
    "forwards": (2, lambda m, x: m.gru(_padded(m, x))[0]),
    "both directions": (2, lambda m, x: m.both(_padded(m, x))[0]),
    "twice": (4, lambda m, x: m.both(_padded(m, _padded(m, x)))[0]),
    "then fewer": (2, lambda m, x: m.both(_valid(m, _padded(m, x)))[0]),
    "the last state": (2, lambda m, x: m.both(_padded(m, x))[1].transpose(0, 1).flatten(1)),
    "over all steps": (2, lambda m, x: (lambda h: h.mean(1) + h.amax(1))(m.gru(_padded(m, x))[0])),
    "by the number of steps": (2, lambda m, x: m.gru(_padded(m, x))[0].sum(1) / x.shape[1]),
    "of the sequence, too": (2, lambda m, x: m.gru(_padded(m, x))[0].mean(1) + m.both(x)[1][0]),
    "with positions": (2, lambda m, x: m.both(_padded(m, x) + m.table[: x.shape[1] + 2])[0]),
    "text": (2, _text),
    "spectra": (1, lambda m, x: m.both(_spectra(m, x))[0]),
}


@pytest.mark.parametrize("case", MORE)
def test_what_has_more_steps_than_the_sequence(case, tmp_path):
    """Padding behind that adds steps, and what is made of these; the sequence gets as many, which are not read."""
    added, function = MORE[case]
    path = exported(function, tmp_path / "m.onnx", 20)
    engine, report = packed(path, tmp_path)
    assert engine.offline and engine.added_steps == added and not any(c.skipped for c in report.checks)
    for steps in (1, 2, 3, 22, 60):
        x = np.random.default_rng(steps).normal(size=(steps, UNITS)).astype(np.float32)
        if steps < engine.least_steps:
            continue
        wanted = session(path).run(None, {"x": x[None]})[0][0]
        assert wanted.shape == (got := engine.run(x)).shape and relative(wanted, got) < CLOSE, steps


@pytest.mark.parametrize("case", SHORTER)
def test_the_same_from_torch(case, tmp_path):
    least, function = SHORTER[case]
    torch.manual_seed(0)
    model, x = Model(function).eval(), torch.randn(1, 20, UNITS)
    report = cr.pack(model, tmp_path / "m.crnn", x, calibration=[x])
    assert all(c.error < CLOSE for c in report.checks) and report.error < 0.02
    cr.pack(model, tmp_path / "m.crnn", x, weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    assert engine.offline
    for steps in (least, least + 1, 22, 60):
        if steps % engine.frames_per_step == 0:
            x = torch.randn(1, steps, UNITS)
            assert relative(model(x)[0].detach().numpy(), engine.run(x[0].numpy())) < CLOSE, steps


def test_long_filters_without_padding(tmp_path):
    """From a file and from torch: 39 and then 21 steps are left out, more than a short sequence has."""

    class Long(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv1d(UNITS, UNITS, 40), nn.Conv1d(UNITS, UNITS, 4, dilation=7)
            self.rnn = nn.LSTM(UNITS, UNITS, batch_first=True, bidirectional=True)

        def forward(self, x):
            y = self.rnn(self.second(torch.relu(self.first(x.transpose(1, 2)))).transpose(1, 2))[0]
            return y + y.mean(1, keepdim=True)

    torch.manual_seed(0)
    model, path = Long().eval(), tmp_path / "m.onnx"
    torch.onnx.export(
        model, (torch.randn(1, 80, UNITS),), str(path), dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {1: "steps"}},
    )  # fmt: skip
    for source, example in ((path, ()), (model, (torch.randn(1, 80, UNITS),))):
        report = cr.pack(source, tmp_path / "m.crnn", *example, weights="float32")
        engine = cr.Engine(tmp_path / "m.crnn")
        assert engine.offline and engine.least_steps == 61 and not any(c.skipped for c in report.checks)
        for steps in (61, 62, 100, 400):
            x = torch.randn(1, steps, UNITS)
            with torch.no_grad():
                assert relative(model(x)[0].numpy(), engine.run(x[0].numpy())) < CLOSE, steps
        with pytest.raises(ValueError, match="xs: expected at least 61"):
            engine.run(np.zeros((60, UNITS), np.float32))


def test_the_cell_of_a_layer_over_fewer_steps_is_refused(tmp_path):
    def cell(m, x):
        return m.lstm(_valid(m, x))[1][1][0]

    for model in (exported(cell, tmp_path / "m.onnx"), Model(cell).eval()):
        with pytest.raises(ValueError, match="the cell of a layer over fewer steps"):
            cr.pack(model, tmp_path / "m.crnn", torch.randn(1, 20, UNITS) if isinstance(model, nn.Module) else None)


def test_a_cell_that_looks_ahead_is_refused_over_fewer_steps(tmp_path):
    model = Model(lambda m, x: m.ahead(_valid(m, x))[0])
    model.ahead = cr.Recurrent(cr.FSMN, UNITS, 4, batch_first=True, look_back=2, look_ahead=2)
    with pytest.raises(ValueError, match=r"ahead.*reads later steps, and gets fewer steps"):
        cr.pack(model.eval(), tmp_path / "m.crnn", torch.randn(1, 20, UNITS))


COUNTED = {
    "learned positions": lambda m, x: m.gru(x + m.table[: x.shape[1]])[0],
    "positions by a look-up": lambda m, x: m.gru(x * m.places(torch.arange(x.shape[1])))[0],
    "computed positions": lambda m, x: m.gru(x + _sinusoid(x.shape[1]))[0],
    "positions beside it": lambda m, x: m.wide(torch.cat([x, m.table[None, : x.shape[1]]], 2))[0],
    "what differs late alone": lambda m, x: m.gru(x)[0] * (torch.arange(x.shape[1]) < 90).float()[None, :, None],
    "a sum by the number of steps": lambda m, x: m.gru(x)[0].sum(1) / x.shape[1],
    "a sum by its root": lambda m, x: m.gru(x)[0].sum(1) / x.shape[1] ** 0.5,
    "one less": lambda m, x: m.gru(x)[0].sum(1) / (x.shape[1] + 1),
    "each step by their number": lambda m, x: m.both(x / x.shape[1])[0],
}


@pytest.mark.parametrize("case", COUNTED)
def test_what_follows_from_the_number_of_steps_is_counted(case, tmp_path):
    engine = compare(exported(COUNTED[case], tmp_path / "m.onnx"), tmp_path, (*LENGTHS, 130))
    assert engine.offline == any(word in case for word in ("number", "root", "less"))


@pytest.mark.parametrize("case", [case for case in COUNTED if any(word in case for word in ("number", "root", "less"))])
def test_the_number_of_steps_is_counted_from_torch_too(case, tmp_path):
    torch.manual_seed(0)
    model, x = Model(COUNTED[case]).eval(), torch.randn(1, 20, UNITS)
    cr.pack(model, tmp_path / "m.crnn", x, weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    assert engine.offline
    for steps in (1, 2, 22, 1500):
        x = torch.randn(1, steps, UNITS)
        assert relative(model(x)[0].detach().numpy(), engine.run(x[0].numpy())) < CLOSE, steps


def test_a_table_of_positions_has_an_end(tmp_path):
    """Beyond it a run is refused, and a stream gives no numbers."""
    path = exported(COUNTED["learned positions"], tmp_path / "m.onnx")
    engine, _ = packed(path, tmp_path)
    x = np.random.default_rng(0).normal(size=(150, UNITS)).astype(np.float32)
    assert relative(session(path).run(None, {"x": x[None]})[0], stream_equals_run(engine, x)[0]) < CLOSE
    longer = np.concatenate([x, x[:1]])
    with pytest.raises(ValueError, match="expected at most 150"):
        engine.run(longer)
    rows = engine.stream().run(longer)
    assert not np.isnan(rows[:150]).any() and np.isnan(rows[150:]).all()


def test_positions_that_depend_on_the_length_are_refused(tmp_path):
    path = exported(lambda m, x: m.gru(x + (torch.arange(x.shape[1]) / x.shape[1])[:, None])[0], tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="takes other constants at every step, which do not depend on the position"):
        packed(path, tmp_path)


PLACES = {
    "the first of the largest": lambda m, x: torch.round(x * 4).argmax(1) + m.gru(x)[0][:, -1],
    "the smallest": lambda m, x: x.argmin(1, keepdim=True) * m.gru(x)[0],
    "before a layer": lambda m, x: m.gru(x - x.argmax(1, keepdim=True) / 9)[0],
    "of one feature": lambda m, x: m.gru(x)[0] * x[..., :1].max(1, keepdim=True)[1],
}


@pytest.mark.parametrize("case", PLACES)
def test_places_in_time(case, tmp_path):
    assert compare(exported(PLACES[case], tmp_path / "m.onnx"), tmp_path, (*LENGTHS, 130)).offline
    torch.manual_seed(0)
    model = Model(PLACES[case]).eval()
    cr.pack(model, tmp_path / "m.crnn", torch.randn(1, 20, UNITS), weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    for steps in LENGTHS:
        x = torch.randn(1, steps, UNITS)
        assert relative(model(x)[0].detach().numpy(), engine.run(x[0].numpy())) < CLOSE, steps


def test_the_largest_over_time_and_its_place(tmp_path):
    """Of equal numbers, as zeros, ONNX takes the first."""

    def largest(m, x):
        value, place = x.topk(1, 1)
        return torch.cat([value, place.float()], 1) * m.gru(x)[0][:, -1:]

    assert compare(exported(largest, tmp_path / "m.onnx"), tmp_path).offline


def test_the_place_of_nan_is_that_of_torch(tmp_path):
    model = Model(lambda m, x: (x.argmax(1), m.gru(x)[0])).eval()
    cr.pack(model, tmp_path / "m.crnn", torch.randn(1, 20, UNITS), weights="float32")
    x = torch.randn(1, 9, UNITS)
    x[0, 4:6, 1] = x[0, 8, 2] = float("nan")
    np.testing.assert_array_equal(cr.Engine(tmp_path / "m.crnn").run(x[0].numpy())[0], x.argmax(1)[0])


def test_hardmax_over_time(tmp_path):
    """In whole numbers, of which several are the largest."""
    path, h = tmp_path / "m.onnx", np.eye(UNITS, dtype=np.float32)
    nodes = [
        node("MatMul", ["x", "h"], ["y"]),
        node("Round", ["y"], ["whole"]),
        node("Hardmax", ["whole"], ["one"], axis=1),
        node("Mul", ["one", "x"], ["z"]),
        node("Transpose", ["z"], ["rows"], perm=[1, 0, 2]),
        node("GRU", ["rows", "W", "R"], ["all"], hidden_size=2, linear_before_reset=1),
    ]
    rng = np.random.default_rng(0)
    weights = {"h": h, "W": rng.normal(size=(1, 6, UNITS)), "R": rng.normal(size=(1, 6, 2))}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    save(path, nodes, [tensor("x", [1, "T", UNITS])], [tensor("all", None)], weights)
    compare(path, tmp_path, LENGTHS)


def test_a_place_that_rounding_decides_is_no_difference(tmp_path):
    """A layer that gets zeros gives the same numbers after some steps, up to their last bits."""
    path = exported(lambda m, x: m.gru(x)[0].argmin(1), tmp_path / "m.onnx")
    engine, _ = packed(path, tmp_path)
    x = np.random.default_rng(0).normal(size=(30, UNITS)).astype(np.float32)
    np.testing.assert_array_equal(session(path).run(None, {"x": x[None]})[0][0], engine.run(x))
