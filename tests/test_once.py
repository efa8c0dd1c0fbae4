"""Inputs that a sequence has once: vectors, tokens and initial states without a time axis."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.file import read, write
from compactrnn.testing import RuntimeContract
from compactrnn.training.cut_to_budget import _step_time
from run_folders import invoke

STEPS, FEATURES, SIZE = 9, 4, 3


class Uses(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x, z, w=None):
        return self.function(self, x, z) if w is None else self.function(self, x, z, w)


def gru(inputs=FEATURES, **options):
    return nn.GRU(inputs, 8, batch_first=True, **options)


def repeated(x, z):
    return torch.cat([x, z.unsqueeze(1).expand(-1, x.shape[1], -1)], -1)


def mixed(m, x, z):
    """FiLM, and a multilayer perceptron before it."""
    scale, shift = m.film(torch.tanh(m.hidden(z))).chunk(2, -1)
    return m.g(x)[0] * scale[:, None] + shift[:, None]


def strided(m, x, z):
    return m.g(torch.relu(m.conv(repeated(x, z).transpose(1, 2))).transpose(1, 2))[0]


def padded(m, x, z):
    """Before the first step there are zeros."""
    return m.g(m.conv(repeated(x, z).transpose(1, 2))[..., :-2].transpose(1, 2))[0]


def chosen(m, x, z):
    """The mean weighted by what a query says."""
    h = m.g(x)[0]
    weights = torch.softmax((h * m.e(z)[:, None]).sum(-1), 1)
    return (h * weights[..., None]).sum(1)


Z, TOKEN = (2, SIZE), torch.tensor([3, 7])
# what is made of the inputs, the layers, the input given once; whether a stream takes it
MODELS = {
    "beside": (lambda m, x, z: m.g(repeated(x, z))[0], dict(g=gru(7)), Z, True),
    "of shape (batch, 1, size)": (
        lambda m, x, z: m.g(torch.cat([x, z.expand(-1, x.shape[1], -1)], -1))[0],
        dict(g=gru(7)),
        (2, 1, SIZE),
        True,
    ),
    "as wide as the frames": (lambda m, x, z: m.g(repeated(x, z))[0], dict(g=gru(8)), (2, FEATURES), True),
    "as wide as the sequence is long": (lambda m, x, z: m.g(repeated(x, z))[0], dict(g=gru(13)), (2, STEPS), True),
    "added": (lambda m, x, z: m.g(x + m.e(z)[:, None])[0], dict(g=gru(), e=nn.Linear(SIZE, FEATURES)), Z, True),
    "mixed": (mixed, dict(g=gru(), hidden=nn.Linear(SIZE, 16), film=nn.Linear(16, 16)), Z, True),
    "token": (lambda m, x, z: m.g(x + m.t(z)[:, None])[0], dict(g=gru(), t=nn.Embedding(9, FEATURES)), TOKEN, True),
    "initial state": (lambda m, x, z: m.g(x, z[None])[0], dict(g=gru()), (2, 8), True),
    "initial state computed": (
        lambda m, x, z: m.g(x, m.e(z)[None]),
        dict(g=gru(), e=nn.Linear(SIZE, 8)),
        Z,
        True,
    ),
    "initial states of two layers": (lambda m, x, z: m.g(x, z)[0], dict(g=gru(num_layers=2)), (2, 2, 8), True),
    "last step": (
        lambda m, x, z: m.out(torch.cat([m.g(x)[1][0], z], -1)),
        dict(g=gru(), out=nn.Linear(11, 5)),
        Z,
        True,
    ),
    "product": (
        lambda m, x, z: torch.cosine_similarity(m.g(x)[0], m.e(z)[:, None], dim=-1),
        dict(g=gru(), e=nn.Linear(SIZE, 8)),
        Z,
        True,
    ),
    "weights of frames": (
        lambda m, x, z: m.g((x[:, :, None] * m.e(z).view(-1, 1, FEATURES, FEATURES)).sum(-1))[0],
        dict(g=gru(), e=nn.Linear(SIZE, FEATURES**2)),
        Z,
        True,
    ),
    "before padding": (padded, dict(g=gru(), conv=nn.Conv1d(7, FEATURES, 3, padding=2)), Z, True),
    "before a stride": (strided, dict(g=gru(), conv=nn.Conv1d(7, FEATURES, 3, stride=3)), Z, True),
    "alone an output": (lambda m, x, z: (m.g(x)[0], m.e(z)), dict(g=gru(), e=nn.Linear(SIZE, 5)), Z, True),
    "both directions": (
        lambda m, x, z: m.g(x, m.e(z).view(-1, 2, 8).transpose(0, 1).contiguous())[0],
        dict(g=gru(bidirectional=True), e=nn.Linear(SIZE, 16)),
        Z,
        False,
    ),
    "mean": (lambda m, x, z: torch.cat([m.g(x)[0].mean(1), z], -1), dict(g=gru()), Z, False),
    "weighted mean": (chosen, dict(g=gru(), e=nn.Linear(SIZE, 8)), Z, False),
}


def made(name):
    function, layers, z, streams = MODELS[name]
    torch.manual_seed(0)
    model = Uses(function, **layers).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model, torch.randn(2, STEPS, FEATURES), torch.randn(z) if isinstance(z, tuple) else z, streams


def each(values):
    return values if isinstance(values, tuple) else (values,)


def rows_of(z, name):
    """One sequence's part of the input that is given once."""
    return list(z.unbind(1 if name == "initial states of two layers" else 0))


def streamed(engine, x, z):
    """What a stream gives step by step, and after `reset` in one run, as `Engine.run` gives it."""
    stream = engine.stream(z=z)
    frames = x if engine.frames_per_step == 1 else np.split(x, len(x) // engine.frames_per_step)
    found = [each(stream.step(frame)) for frame in frames]
    columns = [np.stack(column) for column in zip(*found, strict=True)]
    stream.reset(z=z)
    whole = each(stream.run(x))
    for ours, theirs in zip(columns, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return [y[-1] if port.final else y for port, y in zip(engine.outputs, whole, strict=True)]


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_the_engine_gives_what_torch_gives(tmp_path, name, weights):
    model, x, z, streams = made(name)
    cr.pack(model, tmp_path / "m.crnn", (x, z), weights=weights, calibration=[(x, z)])
    engine = cr.Engine(tmp_path / "m.crnn")
    assert [port.once for port in engine.inputs] == [False, True] and engine.offline != streams
    given = rows_of(z, name)
    with torch.no_grad():
        wanted = each(model(x, z))
    for row, one in enumerate(given):
        one = int(one) if one.dim() == 0 else one.numpy()
        got = each(engine.run((x[row].numpy(), one)))
        for theirs, ours in zip(wanted, got, strict=True):
            theirs = theirs[0, row] if theirs.shape[0] == 1 else theirs[row]
            torch.testing.assert_close(
                torch.from_numpy(ours.reshape(theirs.shape)),
                theirs,
                rtol=0,
                atol=2e-6 if weights == "float32" else 0.05,
            )
        if streams:
            for ours, theirs in zip(streamed(engine, x[row].numpy(), one), got, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_two_of_them(tmp_path):
    model = Uses(
        lambda m, x, z, w: m.g(x * m.a(z)[:, None] + m.b(w)[:, None])[0],
        g=gru(),
        a=nn.Linear(SIZE, FEATURES),
        b=nn.Linear(5, FEATURES),
    ).eval()
    x, z, w = torch.randn(1, STEPS, FEATURES), torch.randn(1, SIZE), torch.randn(1, 5)
    cr.pack(model, tmp_path / "m.crnn", (x, z, w), weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    stream = engine.stream(w=w[0], z=z[0])
    first = stream.run(x[0].numpy())
    np.testing.assert_allclose(first, model(x, z, w)[0].detach(), atol=1e-6)
    other = torch.randn(1, 5)
    stream.reset(w=other)  # z stays
    copy = stream.copy()
    wanted = model(x, z, other)[0].detach()
    np.testing.assert_allclose(stream.run(x[0].numpy()), wanted, atol=1e-6)
    np.testing.assert_allclose(copy.run(x[0].numpy()), wanted, atol=1e-6)
    shown = invoke("info", tmp_path / "m.crnn", "--json")
    assert json.loads(shown.stdout)["given_once"] == "z, w"


def test_a_stream_keeps_its_own_copy(tmp_path):
    model, x, z, _ = made("added")
    cr.pack(model, tmp_path / "m.crnn", (x, z), weights="float32")
    engine, given = cr.Engine(tmp_path / "m.crnn"), z[0].numpy().copy()
    stream = engine.stream(z=given)
    given[:] = 0
    np.testing.assert_array_equal(stream.run(x[0].numpy()), engine.run((x[0].numpy(), z[0].numpy())))


def test_errors_say_what_is_missing(tmp_path):
    model, x, z, _ = made("initial state computed")
    cr.pack(model, tmp_path / "m.crnn", (x, z), weights="float32")
    engine, x, z = cr.Engine(tmp_path / "m.crnn"), x[0].numpy(), z[0].numpy()
    with pytest.raises(ValueError, match=r"got no 'z'.*engine\.stream\(z=\.\.\.\)"):
        engine.stream()
    with pytest.raises(ValueError, match=r"once \(z\), got 'y'"):
        engine.stream(z=z, y=z)
    with pytest.raises(ValueError, match=r"input 'z'.*shape \(2,\)"):
        engine.stream(z=z[:2])
    with pytest.raises(ValueError, match="tuple of 2: x, z"):
        engine.run(x)
    with pytest.raises(ValueError, match=r"input 'z'.*shape \(9, 3\)"):
        engine.run((x, np.tile(z, (STEPS, 1))))
    stream = engine.stream(z=z)
    with pytest.raises(ValueError, match="has z already"):
        stream.run((x, z))
    with pytest.raises(ValueError, match="state"):  # what it starts from is computed, so that none can be set
        stream.reset(**{"g.h_l0": np.zeros(8)})
    with pytest.raises(ValueError, match="bytes of memory"):
        cr.Engine(tmp_path / "m.crnn", memory_limit=engine.workspace_bytes(STEPS) - 1).run((x, z))


def test_the_file_says_which_inputs(tmp_path):
    model, x, z, _ = made("beside")
    cr.pack(model, tmp_path / "m.crnn", (x, z), weights="float32")
    program = read((tmp_path / "m.crnn").read_bytes())
    assert [port.once for port in program.inputs] == [False, True]
    at_each = cr.Engine(write(replace(program, inputs=[replace(port, once=False) for port in program.inputs])))
    wanted = at_each.run((x[0].numpy(), np.tile(z[0].numpy(), (STEPS, 1))))
    np.testing.assert_array_equal(cr.Engine(tmp_path / "m.crnn").run((x[0].numpy(), z[0].numpy())), wanted)


FILES = [name for name in MODELS if name != "initial states of two layers"]


def exported(path, name, fixed):
    model, x, z, streams = made(name)
    x, z = x[:1], z[:1]
    axes = None if fixed else {"x": {1: "steps"}}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        torch.onnx.export(model, (x, z), str(path), input_names=["x", "z"], dynamic_axes=axes, dynamo=False)
    return x.numpy(), z.numpy(), streams


@pytest.mark.filterwarnings("ignore")  # the exporter warns of itself
@pytest.mark.parametrize("name", FILES)
def test_onnx_files_take_them(tmp_path, name):
    pytest.importorskip("onnx", reason="the importer reads by it")
    runtime = pytest.importorskip("onnxruntime", reason="what is compared with")
    x, z, streams = exported(tmp_path / "m.onnx", name, False)
    cr.pack(tmp_path / "m.onnx", tmp_path / "m.crnn", weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    assert [port.once for port in engine.inputs] == [False, True] and engine.offline != streams
    wanted = runtime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x, "z": z})
    z = int(z[0]) if name == "token" else z
    got = each(engine.run((x[0], z)))
    for theirs, ours in zip(wanted, got, strict=True):
        np.testing.assert_allclose(ours.ravel(), theirs.ravel(), atol=2e-6)
    if streams:
        for ours, theirs in zip(streamed(engine, x[0], z), got, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["beside", "of shape (batch, 1, size)", "added", "initial state"])
def test_onnx_files_of_fixed_size_take_them(tmp_path, name):
    """What is repeated as often as the file has steps is repeated at every step of other sequences, too."""
    pytest.importorskip("onnx", reason="the importer reads by it")
    _, z, _ = exported(tmp_path / "m.onnx", name, True)
    cr.pack(tmp_path / "m.onnx", tmp_path / "m.crnn", weights="float32")
    model, x = made(name)[0], torch.randn(1, 2 * STEPS, FEATURES)
    got = cr.Engine(tmp_path / "m.crnn").run((x[0].numpy(), z))
    with torch.no_grad():
        np.testing.assert_allclose(got, each(model(x, torch.from_numpy(z)))[0][0], atol=2e-6)


def _program(name):
    model, x, z, _ = made(name)
    return lower(model, (x, z))


@pytest.mark.parametrize("program", [pytest.param(_program(case), id=case) for case in ("mixed", "token")])
class TestOnTheEngine(RuntimeContract):
    pass


@pytest.mark.parametrize("case", ["beside", "token", "weighted mean"])
def test_a_step_is_timed_for_a_budget(case):
    engine = cr.Engine(write(_program(case)))
    assert engine.offline != MODELS[case][3] and _step_time(engine) > 0
