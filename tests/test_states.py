"""States of a stream by name: read, set, reset."""

import copy
import json
import pickle
import zlib

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.runtime.file import read, write
from compactrnn.runtime.layout import HEADER

pytestmark = pytest.mark.filterwarnings("ignore:not among the engine", "ignore:quantization changes")


def packed(model, x, path, weights="float32"):
    cr.pack(model.eval(), path / "m.crnn", x, weights=weights, calibration=[x])
    return cr.Engine(path / "m.crnn")


class Tagger(nn.Module):
    """Two layers of LSTM with a convolution before them and a GRU after them."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.gru = nn.Conv1d(4, 4, 3), nn.LSTM(4, 8, 2, batch_first=True), nn.GRU(8, 5)

    def forward(self, x):
        x = self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        return self.gru(self.lstm(x)[0].transpose(0, 1))[0].transpose(0, 1)


def shapes(engine):
    return {s.name: s.shape for s in engine.states}


def test_states_have_the_names_of_the_layers(tmp_path):
    engine = packed(Tagger(), torch.randn(2, 7, 4), tmp_path)
    sizes = {"lstm.h_l0": (8,), "lstm.c_l0": (8,), "lstm.h_l1": (8,), "lstm.c_l1": (8,), "gru.h_l0": (5,)}
    assert shapes(engine) == sizes and engine.stream().states == engine.states


LAYERS = {
    "lstm": lambda: nn.LSTM(6, 16, 2, batch_first=True),
    "gru": lambda: nn.GRU(6, 16, 2, batch_first=True),
    "rnn": lambda: nn.RNN(6, 16, 2, batch_first=True),
    "projection": lambda: nn.LSTM(6, 16, 2, batch_first=True, proj_size=5),
    "mgu": lambda: cr.Recurrent(cr.MGU, 6, 16, num_layers=2, batch_first=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_stream_starts_from_a_given_state(tmp_path, name):
    torch.manual_seed(0)
    layer, x = LAYERS[name]().eval(), torch.randn(1, 9, 6)
    engine = packed(layer, x, tmp_path)
    with torch.no_grad():
        _, states = layer(x)
        kinds = states if name in ("lstm", "projection") else (states,)
        given = [[torch.randn(s.shape) for s in kind] for kind in kinds]
        h = [torch.stack(kind) for kind in given] if name != "mgu" else [tuple(kind) for kind in given]
        y, after = layer(x, tuple(h) if len(h) > 1 else h[0])
    after = after if len(h) > 1 else (after,)
    stream = engine.stream()
    stream.run(torch.randn(5, 6).numpy())
    stream.reset(**{f"{'hc'[k]}_l{i}": s for k, kind in enumerate(given) for i, s in enumerate(kind)})
    np.testing.assert_allclose(stream.run(x[0].numpy()), y[0], atol=1e-5)
    for k, kind in enumerate(after):
        for i, s in enumerate(kind):
            np.testing.assert_allclose(stream.get_state(f"{'hc'[k]}_l{i}"), s.reshape(-1), atol=1e-5)


def test_the_state_survives_bytes_and_copies(tmp_path):
    engine = packed(nn.GRU(6, 16, batch_first=True), torch.randn(1, 9, 6), tmp_path)
    h, x = np.linspace(-1, 1, 16, dtype=np.float32), np.ones(6, np.float32)
    stream, other = engine.stream(), engine.stream()
    stream.set_state("h_l0", h[None, None])  # as torch has it: axes of length one do not count
    assert np.array_equal(stream.get_state("h_l0"), h)
    other.load_state_bytes(stream.state_bytes())
    again, *copies = stream.copy(), copy.copy(stream), copy.deepcopy(stream)
    assert np.array_equal(stream.step(x), other.step(x))
    assert np.array_equal(stream.get_state("h_l0"), other.get_state("h_l0"))
    for each in (again, *copies):
        assert np.array_equal(each.get_state("h_l0"), h)
    assert copy.deepcopy(engine) is engine
    for what, way in ((engine, "the path of the file"), (stream, "state_bytes")):
        with pytest.raises(TypeError, match=f"cannot be pickled.*{way}"):
            pickle.dumps(what)
    again.get_state("h_l0")[:] = 7  # a copy
    assert np.array_equal(again.get_state("h_l0"), h)
    again.reset()
    assert not again.get_state("h_l0").any()


def test_a_wrong_state_changes_nothing(tmp_path):
    stream = packed(nn.LSTM(6, 16, batch_first=True), torch.randn(1, 9, 6), tmp_path).stream()
    stream.step(np.ones(6, np.float32))
    before = stream.state_bytes()
    for name, value, words in [
        ("h_n", np.zeros(16), "a state of this model \\(h_l0, c_l0\\), got 'h_n'"),
        ("h_l0", np.zeros(15), "expected \\(16,\\), got shape \\(15,\\)"),
        ("h_l0", np.zeros((4, 4)), "expected \\(16,\\), got shape \\(4, 4\\)"),
        ("h_l0", 0.0, "got shape \\(\\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            stream.set_state(name, value)
        with pytest.raises(ValueError, match=words):
            stream.reset(c_l0=np.ones(16), **{name: value})
    for value in (np.zeros(16, complex), ["x"] * 16, None):
        with pytest.raises(TypeError, match="h_l0"):
            stream.set_state("h_l0", value)
    with pytest.raises(ValueError, match="h_n"):
        stream.get_state("h_n")
    assert stream.state_bytes() == before
    stream.set_state("h_l0", np.full(16, np.nan))
    assert np.isnan(stream.step(np.ones(6, np.float32))).all()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_fixed_scale_refuses_what_it_would_clip(tmp_path, name):
    """Products in int8 and int4 read the states of an LSTM or GRU as numbers from -1 to 1."""
    torch.manual_seed(0)
    x = torch.randn(1, 9, 6)
    for weights in ("int8", "int4"):
        stream = packed(LAYERS[name](), x, tmp_path, weights).stream()
        with pytest.raises(ValueError, match=r"numbers from -1 to 1.* got a number of size 1\.5"):
            stream.set_state("h_l0", np.linspace(-1.5, 1, 16))
        stream.set_state("h_l1", np.linspace(-1, 1, 16))
        stream.set_state("h_l0", np.full(16, np.nan))
        if name == "lstm":
            stream.set_state("c_l0", np.linspace(-9, 9, 16))
    for weights in ("float32", {"*": "float32"}):
        packed(LAYERS[name](), x, tmp_path, weights).stream().set_state("h_l0", np.linspace(-1.5, 1, 16))


def test_an_engine_without_a_stream_has_no_states(tmp_path):
    engine = packed(nn.GRU(6, 16, batch_first=True, bidirectional=True), torch.randn(1, 9, 6), tmp_path)
    assert engine.offline and engine.states == ()


def forged(content, entries):
    """The file with other entries for its states, as long as before."""
    header = np.frombuffer(content, HEADER, 1).copy()
    start, size = content.index(b'{"inputs"'), int(header["metadata_bytes"][0])
    document = json.loads(content[start : start + size]) | {"states": entries, "metadata": {}}
    body = content[64:start] + json.dumps(document).encode().ljust(size) + content[start + size :]
    header["body_crc"], header["header_crc"] = zlib.crc32(body), 0
    header["header_crc"] = zlib.crc32(header.tobytes())
    return header.tobytes() + body


def test_a_file_that_names_wrong_states_is_refused(tmp_path):
    packed(nn.GRU(6, 16, batch_first=True), torch.randn(1, 9, 6), tmp_path)
    content = (tmp_path / "m.crnn").read_bytes()
    (state,) = read(content).states
    buffer, good = state.buffer, [state.buffer, state.bounded, 16]
    assert cr.Engine(forged(content, {"h_l0": good})).states == (state,)
    assert cr.Engine(forged(content, {})).states == ()
    wrong = [[value, True, 16] for value in (None, -1, 0, 1.0, True, "1", 99, 10**30)]
    wrong += [[buffer, value, 16] for value in (None, 0, 1, "yes")]
    wrong += [
        [buffer, True, *shape] for shape in ([], [-16], [16.0], [4, 5], [0, 16], [True, 16], [None], [1] * 8 + [16])
    ]
    wrong += [[], [buffer], {}, 3, None]
    for entries in (*({"h": entry} for entry in wrong), {"h": good, "h_l0": good}, [], [good], None):
        with pytest.raises(cr.ModelFileError, match="states that there are not"):
            cr.Engine(forged(content, entries))


def test_states_are_written_and_read_again(tmp_path):
    packed(Tagger(), torch.randn(2, 7, 4), tmp_path)
    program = read((tmp_path / "m.crnn").read_bytes())
    assert read(write(program)).states == program.states
