"""Layers that start from a state that is computed from the sequence, as a decoder from what its encoder ends with."""

from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
torch = pytest.importorskip("torch", reason="what exports")
from torch import nn  # noqa: E402

import compactrnn as cr  # noqa: E402
from compactrnn.emit.builder import STEP, Builder, Operand  # noqa: E402
from compactrnn.emit.recurrent import new_states  # noqa: E402
from compactrnn.runtime import _native  # noqa: E402
from onnx_models import session  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
UNITS, WIDTH, LENGTHS = 6, 8, (1, 2, 7, 30)


class Model(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def layers(kind, inputs=UNITS, **options):
    return {name: getattr(nn, kind)(inputs, WIDTH, batch_first=True, **options) for name in ("encoder", "decoder")}


def decoded(m, x):
    return m.decoder(x, m.encoder(x)[1])[0]


def autoencoded(m, x):
    z = m.mean(m.encoder(x)[1][-1])
    return m.out(m.decoder(z[:, None].expand(-1, x.shape[1], -1), torch.tanh(m.start(z))[None])[0])


def everything(m, x):
    y, states = m.encoder(x)
    z, after = m.decoder(x, states)
    ends = [s[0][:, None].expand(-1, x.shape[1], -1) for s in (*states, *after)]
    return torch.cat([y, z, *ends], -1)


def bands(m, x):
    rows = x.transpose(0, 1).reshape(x.shape[1], 2, 3).transpose(0, 1)  # (bands, time, 3)
    return m.decoder(rows, m.encoder(rows)[1])[0].transpose(0, 1).reshape(1, -1, 2 * WIDTH)


LIN = {"start": nn.Linear(UNITS, WIDTH)}
MODELS = {
    "GRU": lambda: Model(decoded, **layers("GRU")),
    "LSTM": lambda: Model(decoded, **layers("LSTM")),
    "RNN": lambda: Model(decoded, **layers("RNN")),
    "two layers": lambda: Model(decoded, **layers("LSTM", num_layers=2)),
    "both directions": lambda: Model(decoded, **layers("LSTM", num_layers=2, bidirectional=True)),
    "both directions joined": lambda: Model(
        lambda m, x: m.decoder(x, m.join(m.both(x)[1].transpose(0, 1).flatten(1))[None])[0],
        **layers("GRU"), both=nn.GRU(UNITS, WIDTH, batch_first=True, bidirectional=True), join=nn.Linear(16, WIDTH),
    ),
    "a mean": lambda: Model(lambda m, x: m.decoder(x, m.start(x.mean(1))[None])[0], **layers("GRU"), **LIN),
    "the first step": lambda: Model(lambda m, x: m.decoder(x, m.start(x[:, 0])[None])[0], **layers("GRU"), **LIN),
    "h, and zeros as c": lambda: Model(
        lambda m, x: (lambda h: m.lstm(x, (h, torch.zeros_like(h)))[0])(m.encoder(x)[1]),
        **layers("GRU"), lstm=nn.LSTM(UNITS, WIDTH, batch_first=True),
    ),
    "its own end": lambda: Model(lambda m, x: m.decoder(x, m.decoder(x)[1])[0], **layers("LSTM")),
    "zeros as input": lambda: Model(lambda m, x: m.decoder(torch.zeros_like(x), m.encoder(x)[1])[0], **layers("LSTM")),
    "an autoencoder": lambda: Model(
        autoencoded, encoder=nn.GRU(UNITS, WIDTH, batch_first=True), decoder=nn.GRU(4, WIDTH, batch_first=True),
        mean=nn.Linear(WIDTH, 4), start=nn.Linear(4, WIDTH), out=nn.Linear(WIDTH, UNITS),
    ),
    "what is before and after": lambda: Model(everything, **layers("LSTM")),
    "twice": lambda: Model(
        lambda m, x: (lambda s: m.decoder(x, s)[0] + m.other(x.flip(1), s)[0])(m.encoder(x)[1]),
        **layers("GRU"), other=nn.GRU(UNITS, WIDTH, batch_first=True),
    ),
    "every band": lambda: Model(bands, **layers("GRU", inputs=3)),
    "large": lambda: Model(
        decoded, encoder=nn.LSTM(UNITS, 64, batch_first=True), decoder=nn.LSTM(UNITS, 64, batch_first=True)
    ),
}  # fmt: skip


def model(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def check(packed, wanted, close=1e-5):
    """The engine against `wanted`, a function, at each length; all kernels give the same bits."""
    engines = [cr.Engine(packed, isa=isa) for isa in _native.isas()]
    assert engines[0].offline
    for steps in LENGTHS:
        x = np.random.default_rng(steps).normal(size=(steps, UNITS)).astype(np.float32)
        first, *others = (engine.run(x) for engine in engines)
        assert all(np.array_equal(first, y) for y in others)
        np.testing.assert_allclose(first, wanted(x), atol=close, rtol=0, err_msg=f"{steps} steps")


@pytest.mark.parametrize("name", MODELS)
def test_a_decoder_is_that_of_torch(name, tmp_path):
    m = model(name)
    cr.pack(m, tmp_path / "m.crnn", torch.randn(1, 12, UNITS), weights="float32")
    check(tmp_path / "m.crnn", lambda x: m(torch.tensor(x)[None])[0].detach().numpy())


@pytest.mark.parametrize("name", ["LSTM", "large", "every band"])
def test_a_quantized_decoder(name, tmp_path):
    m = model(name)
    cr.pack(m, tmp_path / "m.crnn", torch.randn(1, 12, UNITS), weights="int8")
    check(tmp_path / "m.crnn", lambda x: m(torch.tensor(x)[None])[0].detach().numpy(), close=0.05)


@pytest.mark.parametrize(
    "name",
    ["LSTM", "RNN", "both directions", "the first step", "h, and zeros as c", "zeros as input", "an autoencoder"],
)
def test_a_decoder_is_that_of_onnxruntime(name, tmp_path):
    path = tmp_path / "m.onnx"
    torch.onnx.export(
        model(name), (torch.randn(1, 12, UNITS),), str(path), dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {1: "steps"}},
    )  # fmt: skip
    cr.pack(path, tmp_path / "m.crnn", weights="float32")
    runtime = session(path)
    check(tmp_path / "m.crnn", lambda x: runtime.run(None, {"x": x[None]})[0][0])


def test_a_decoder_does_not_stream(tmp_path):
    cr.pack(model("LSTM"), tmp_path / "m.crnn", torch.randn(1, 12, UNITS), weights="float32")
    with pytest.raises(cr.UnsupportedModelError, match=r"decoder.*: starts from a state that is computed"):
        cr.Engine(tmp_path / "m.crnn").stream()


def test_an_exported_decoder(tmp_path):
    m, x = model("LSTM"), torch.randn(1, 12, UNITS)
    cr.pack(torch.export.export(m, (x,)), tmp_path / "m.crnn", weights="float32")
    check(tmp_path / "m.crnn", lambda x: m(torch.tensor(x)[None])[0].detach().numpy())


def test_a_start_that_changes_from_step_to_step_is_refused():
    build = Builder()
    x = Operand(build.buffer(3, "input"), (9, 3), 0, STEP, 0)
    for start in (x, replace(x, shape=(3,), time=None)):
        with pytest.raises(cr.UnsupportedModelError, match="starts from a state that changes from step to step"):
            new_states(build, x, {"h": (start, False)})
