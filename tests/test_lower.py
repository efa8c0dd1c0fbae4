"""What torch computes over a sequence, the engine computes step by step."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, Normal

import compactrnn as cr
from cell_table import CELLS, VARIANTS, name_of, reads_ahead
from compactrnn.lower import lower
from compactrnn.runtime.file import read, write
from compactrnn.runtime.inventory import stored_types
from compactrnn.runtime.quantize import quantize
from compactrnn.testing import RuntimeContract
from shapes import SHAPES, Convolved, Tagger, example
from steps import STEPS, Wide


def engine_of(model, x, weights="float32"):
    return cr.Engine(write(quantize(lower(model, x), weights)))


def outputs(engine, x):
    """The engine's outputs for the first sequence, as a tuple."""
    results = engine.run(x[0].numpy())
    return results if isinstance(results, tuple) else (results,)


def wanted(model, x):
    with torch.no_grad():
        y = model.eval()(x)
    y = (y[0] if isinstance(y, tuple) else y)[0].numpy()
    return y.T if isinstance(model, Convolved) else y  # the engine gives time first


class Reads(nn.Module):
    """An LSTM whose outputs are used by `read`."""

    def __init__(self, read, bidirectional=False):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(16 if bidirectional else 8, 5)
        self.norm = nn.LayerNorm(8)
        self.batch_norm = nn.BatchNorm1d(8)
        self.batch_norm.running_mean.normal_()
        self.batch_norm.running_var.uniform_(0.5, 2)
        self.read = read

    def forward(self, x):
        return self.read(self, x, self.lstm(x)[0])


F = nn.functional
STREAMING = {
    "head": lambda m, x, h: m.head(h),
    "log softmax": lambda m, x, h: torch.log_softmax(m.head(h), -1),
    "softmax of another axis": lambda m, x, h: torch.softmax(h.view(h.shape[0], -1, 2, 4), 2),
    "layer norm": lambda m, x, h: m.head(m.norm(h)),
    "batch norm": lambda m, x, h: m.batch_norm(h.transpose(1, 2)).transpose(1, 2),
    "skip": lambda m, x, h: torch.cat([x, h, x * 2], -1),
    "arithmetic": lambda m, x, h: (3 - h) / (h + 2) - h * torch.tensor([1.0, 2.0] * 4) + h**2 - 0.5 * (-h),
    "functions": lambda m, x, h: F.gelu(h) + F.silu(h) + F.elu(h) + F.leaky_relu(h) + F.softplus(h) + F.hardswish(h),
    "more functions": lambda m, x, h: F.gelu(h, approximate="tanh") + F.selu(h) + F.mish(h) + torch.exp(h) + h.abs(),
    "limits": lambda m, x, h: h.clamp(-0.1, 0.2) + F.relu6(h * 9) + F.hardsigmoid(h) + torch.maximum(h, h.flip(-1)),
    "roots": lambda m, x, h: (h.abs() + 1).sqrt() + (h * h + 0.1).rsqrt() + torch.log(h.abs() + 1) + F.logsigmoid(h),
    "normalized": lambda m, x, h: F.normalize(m.head(h), dim=-1) + h.norm(1, -1, True) + h.norm(float("inf"), -1, True),
    "sum over features": lambda m, x, h: h.mean(-1, keepdim=True) + h.sum(-1, keepdim=True) * h.amax(-1, keepdim=True),
    "last step": lambda m, x, h: m.head(h[:, -1]),
    "the step before": lambda m, x, h: h + F.pad(h, (0, 0, 1, 0))[:, :-1],
    "three steps before": lambda m, x, h: torch.cat([torch.zeros_like(h[:, :3]), h[:, :-3]], 1) * h,
    "gather": lambda m, x, h: h[..., torch.tensor([3, 1, 1, 7, 0])],
    "pointwise convolution": lambda m, x, h: F.conv1d(h.transpose(1, 2), m.head.weight[..., None]).transpose(1, 2),
    "matrix product": lambda m, x, h: h @ m.head.weight.T + m.head.bias,
    "split": lambda m, x, h: torch.tanh(h[..., :4]) * torch.sigmoid(h[..., 4:]),
    "largest": lambda m, x, h: m.head(h).argmax(-1),
    "smallest": lambda m, x, h: h.view(h.shape[0], -1, 2, 4).argmin(2, keepdim=True),
    "largest and where": lambda m, x, h: torch.cat([v.float() for v in m.head(h).max(-1, keepdim=True)], -1),
    "three largest and where": lambda m, x, h: torch.cat([v.float() for v in m.head(h).topk(3)], -1),
    "interpolation by a number": lambda m, x, h: torch.lerp(h, -h, 0.3) + torch.lerp(h, torch.tensor(0.5), 0.3),
    "where": lambda m, x, h: torch.where(h > 0.1, 2 * h, torch.where(x[..., :1] <= x[..., 1:2], -h, 0.5)),
    "compared": lambda m, x, h: (h < -0.05).float() + (h >= h).float() * h + torch.where(0 > h, torch.tensor(2.0), h),
    "between numbers": lambda m, x, h: torch.lerp(torch.tensor([0.1] * 8), torch.tensor(2.0), h),
    "maximum with numbers": lambda m, x, h: torch.maximum(h, torch.tensor([[0.1], [-0.1]])[:, 0].repeat(4)),
    "interpolation": lambda m, x, h: torch.lerp(h[..., :4], h[..., 4:], torch.sigmoid(h[..., :4])),
}
OFFLINE = {
    "norm over time": lambda m, x, h: m.head(h.norm(dim=1)),
    "mean over time": lambda m, x, h: m.head(h.mean(1)),
    "sum over time and features": lambda m, x, h: h.sum((1, 2), keepdim=True).view(-1, 1),
    "maximum over time": lambda m, x, h: m.head(h.amax(1)),
    "one number": lambda m, x, h: h.amax((1, 2)),
    "backwards": lambda m, x, h: m.head(h.flip(1)),
    "attention": lambda m, x, h: (torch.softmax(h[..., :1], 1) * h).sum(1),
    "log softmax over time": lambda m, x, h: torch.log_softmax(h, 1),
    "last step everywhere": lambda m, x, h: h + h[:, -1:],
    "first step": lambda m, x, h: m.head(h[:, 0]),
}


def again(x, steps):
    return x.unsqueeze(1).repeat(1, steps, 1)


DECODERS = {
    "last state": (nn.GRU(8, 6, 2, batch_first=True), lambda m, x, h: h[1][0][-1]),
    "mean": (nn.LSTM(8, 6, batch_first=True), lambda m, x, h: h[0].mean(1)),
    "both directions": (nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), lambda m, x, h: h[0][:, 0]),
    "another cell": (cr.Recurrent(cr.MGU, 8, 6, batch_first=True), lambda m, x, h: torch.tanh(h[0][:, -1])),
}


class Decodes(nn.Module):
    """A decoder whose input is what an encoder found, the same at every step, as in an autoencoder of sequences."""

    def __init__(self, decoder, find):
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(6, 8, batch_first=True), decoder
        self.head, self.find = nn.LazyLinear(5), find

    def forward(self, x):
        return self.head(self.decoder(again(self.find(self, x, self.encoder(x)), x.shape[1]))[0])


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_of_what_an_encoder_found(name, weights):
    torch.manual_seed(0)
    model, x = Decodes(*DECODERS[name]), torch.randn(2, 11, 6)
    model(x)
    engine, tolerance = engine_of(model, x, weights), 1e-5 if weights == "float32" else 2e-2
    for steps in (11, 1, 30):
        x = torch.randn(2, steps, 6)
        np.testing.assert_allclose(engine.run(x[0].numpy()), wanted(model, x), rtol=0, atol=tolerance)
    with pytest.raises(cr.UnsupportedModelError, match="whole sequences"):
        engine.stream()


@pytest.mark.parametrize("name", STREAMING)
def test_streaming_models(name):
    torch.manual_seed(0)
    model, x = Reads(STREAMING[name]), torch.randn(2, 11, 6)
    engine = engine_of(model, x)
    want = wanted(model, x)
    np.testing.assert_allclose(engine.run(x[0].numpy()), want, rtol=1e-4, atol=1e-5)
    stream = engine.stream()
    steps = np.stack([stream.step(row) for row in x[0].numpy()])
    stream.reset()
    assert np.array_equal(stream.run(x[0].numpy()), steps)
    np.testing.assert_allclose(steps[-1], want if name == "last step" else want[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("steps", [1, 11])
def test_offline_models(name, steps):
    torch.manual_seed(0)
    model, x = Reads(OFFLINE[name]), torch.randn(2, steps, 6)
    engine = engine_of(model, x)
    np.testing.assert_allclose(engine.run(x[0].numpy()), wanted(model, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(cr.UnsupportedModelError, match="whole sequences"):
        engine.stream()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_model_shapes(shape, weights):
    torch.manual_seed(0)
    model = shape()
    x = example(model, steps=9)
    got, want = outputs(engine_of(model, x, weights), x)[0], wanted(model, x)
    if weights == "float32":
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    else:
        least = {"int8": 0.998, "int4": 0.97}[weights]
        assert (got * want).sum() > least * np.linalg.norm(got) * np.linalg.norm(want)


@given(
    kind=st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    first=st.booleans(),
    both=st.booleans(),
    hidden=st.integers(1, 19),
    features=st.integers(1, 19),
    projected=st.booleans(),
    batched=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_any_bare_layer(kind, layers, bias, first, both, hidden, features, projected, batched, seed):
    torch.manual_seed(seed)
    options = {"proj_size": hidden // 2} if kind is nn.LSTM and projected and hidden > 1 else {}
    model = kind(features, hidden, layers, bias=bias, batch_first=first, bidirectional=both, **options)
    x = torch.randn((5, features) if not batched else (1, 5, features) if first else (5, 1, features))
    with torch.no_grad():
        want = model(x)[0].reshape(5, -1).numpy()
    got = engine_of(model, x).run(x.reshape(5, -1).numpy())
    np.testing.assert_allclose(got[0] if both else got, want, rtol=1e-4, atol=1e-5)  # without a stream, states too


class Nonlinear(nn.Module):
    """A user's own cell in a stack."""

    def __init__(self, cell, **options):
        super().__init__()
        self.rnn = cr.Recurrent(cell, 6, 8, 2, batch_first=True, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize("spec", [cr.Dense(), cr.LowRank(rank=3), cr.Kronecker(out_block=4, in_block=2)])
@pytest.mark.parametrize("cell", [cr.MGU, cr.Elman, "LSTM", "GRU"])
def test_any_weight_in_any_cell(cell, spec):
    torch.manual_seed(0)
    cell = getattr(cr.cells, cell) if isinstance(cell, str) else cell
    model, x = Nonlinear(cell, hidden_weight=spec), torch.randn(1, 9, 6)
    engine = engine_of(model, x)
    np.testing.assert_allclose(engine.run(x[0].numpy()), wanted(model, x), rtol=1e-4, atol=1e-5)
    if isinstance(spec, cr.LowRank):
        assert engine.macs_per_step < engine_of(Nonlinear(cell), x).macs_per_step


# untrained gates of gain 1 amplify what is rounded: noise of 1 % in the input changes as much in torch; what is rounded
# once is not forgotten by an orthogonal matrix
ROUNDING = {cr.LayerNormLSTM: 0.15, cr.OrthogonalRNN: 0.06, cr.URNN: 0.06, cr.ENRNN: 0.06}


@cache
def lowered(make):
    torch.manual_seed(0)
    model, x = cr.Recurrent(make.func, 6, 20, 2, batch_first=True, **make.keywords), torch.randn(1, 30, 6)
    return lower(model, x), x[0].numpy(), wanted(model, x)


@pytest.mark.parametrize("make", [make for make in (*CELLS, *VARIANTS) if not reads_ahead(make)], ids=name_of)
def test_any_cell_packs_from_its_step(make):
    """In float32 as torch, in int8 near it, although states are not bounded by one."""
    program, x, want = lowered(make)
    np.testing.assert_allclose(cr.Engine(write(program)).run(x), want, rtol=1e-4, atol=1e-5)
    got = cr.Engine(write(quantize(program, "int8"))).run(x)
    # without biases outputs are smaller, and the levels that states are rounded to are not
    most = ROUNDING.get(make.func, 0.03 if make.keywords.get("bias", True) else 0.05)
    assert np.linalg.norm(got - want) < most * np.linalg.norm(want)


@pytest.mark.parametrize("name", STEPS)
def test_every_operation_of_the_native_loop_packs(name):
    torch.manual_seed(0)
    layer, x = cr.Recurrent(Wide, 6, 7, batch_first=True, function=STEPS[name]), torch.randn(2, 9, 6)
    engine = engine_of(layer, x)
    want = wanted(layer, x)
    np.testing.assert_allclose(engine.run(x[0].numpy()), want, rtol=1e-4, atol=1e-5)
    stream = engine.stream()
    assert np.array_equal(np.stack([stream.step(row) for row in x[0].numpy()]), engine.run(x[0].numpy()))


@pytest.mark.filterwarnings("ignore:Wide.step")  # it has no native loop either
def test_a_step_that_mixes_the_rows_of_a_batch_is_refused():
    layer = cr.Recurrent(Wide, 6, 7, function=lambda c, p, h: p.chunk(2, 1)[0] + c.hidden(h - h.mean(0)))
    refused(layer, torch.randn(9, 2, 6), "Wide.step", "batch")


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("make", [make for make in CELLS if not reads_ahead(make)], ids=name_of)
class TestCellsOnTheEngine(RuntimeContract):
    @pytest.fixture
    def program(self, make, weights):
        return quantize(lowered(make)[0], weights)


def test_initial_states_from_parameters_are_the_stream_s():
    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 8, batch_first=True)
            self.start = nn.Parameter(3 * torch.randn(1, 1, 8))

        def forward(self, x):
            return self.gru(x, self.start.expand(1, x.shape[0], 8).contiguous())[0]

    model, x = Learnt(), torch.randn(2, 9, 6)
    engine = engine_of(model, x)
    np.testing.assert_allclose(engine.run(x[0].numpy()), wanted(model, x), rtol=1e-4, atol=1e-5)
    assert np.isfinite(engine_of(model, x, "int8").run(x[0].numpy())).all()


def test_several_inputs_and_outputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 3)
            self.lstm = nn.LSTM(9, 8, batch_first=True)

        def forward(self, x, token):
            h, (h_n, _) = self.lstm(torch.cat([x, self.embedding(token)], -1))
            return h, h_n[-1] * 2

    model, x, token = Pair(), torch.randn(2, 9, 6), torch.randint(0, 7, (2, 9))
    engine = engine_of(model, (x, token))
    with torch.no_grad():
        h, last = model(x, token)
    got_h, got_last = engine.run((x[0].numpy(), token[0].numpy()))
    np.testing.assert_allclose(got_h, h[0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got_last, last[0].numpy(), rtol=1e-4, atol=1e-5)
    assert [i.vocabulary for i in engine.inputs] == [0, 7]


class Words(nn.Module):
    """Words as their characters, (batch, words, characters)."""

    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(30, 5, padding_idx=0), nn.Conv1d(5, 6, 3, padding=1)
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)

    def forward(self, x):
        letters = torch.relu(self.conv(self.embed(x.flatten(0, 1)).mT))
        return self.lstm(letters.amax(2).unflatten(0, x.shape[:2]))[0]


class Categories(nn.Module):
    """Several tokens of their own tables a step."""

    def __init__(self):
        super().__init__()
        self.kind, self.day, self.gru = nn.Embedding(30, 3), nn.Embedding(31, 2), nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        days = self.day(x[..., 1:3]).flatten(2)
        return self.gru(torch.cat([self.kind(x[..., 0]), days, x[..., 3:]], -1))[0]


@pytest.mark.parametrize("kind", [Words, Categories])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_several_tokens_a_step(kind, weights):
    model, x = kind().eval(), torch.randint(30, (2, 9, 4))
    engine, close = engine_of(model, x, weights), 1e-5 if weights == "float32" else 0.05
    np.testing.assert_allclose(engine.run(x[0].numpy()), wanted(model, x), rtol=close, atol=close)
    assert [(i.shape, i.vocabulary) for i in engine.inputs] == [((4,), 0)]
    for unknown in (-1, 31, 1e9, np.nan):
        y = x[0].numpy().astype(np.float32)
        y[5, 1] = unknown
        assert np.isnan(engine.run(y)[5:]).any(1).all()


class Front(nn.Module):
    """A convolution before the layer."""

    def __init__(self, front, pad=0):
        super().__init__()
        self.front, self.pad = front, pad
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        y = self.front(F.pad(x.transpose(1, 2), (self.pad, 0)))
        return self.gru(torch.relu(y).transpose(1, 2))[0]


@pytest.mark.parametrize(
    ("front", "pad", "offline"),
    [
        (nn.Conv1d(6, 8, 1), 0, False),
        (nn.Conv1d(6, 8, 4), 3, False),
        (nn.Conv1d(6, 8, 3, dilation=2, bias=False), 4, False),
        (nn.Conv1d(6, 8, 3, padding=1), 0, True),
        (nn.Conv1d(6, 8, 2, groups=2), 0, True),
    ],
)
def test_convolutions_over_time(front, pad, offline):
    model, x = Front(front, pad), torch.randn(2, 11, 6)
    engine = engine_of(model, x)
    assert engine.offline == offline
    np.testing.assert_allclose(engine.run(x[0].numpy()), wanted(model, x), rtol=1e-4, atol=1e-5)
    if not offline:
        stream = engine.stream()
        steps = np.stack([stream.step(row) for row in x[0].numpy()])
        assert np.array_equal(steps, engine.run(x[0].numpy()))


def refused(model, x, *words):
    with pytest.raises(cr.UnsupportedModelError) as caught:
        lower(model, x)
    for word in words:
        assert word in str(caught.value), caught.value


def test_what_cannot_run_step_by_step_is_refused_by_name():
    x = torch.randn(2, 11, 6)
    refused(Reads(lambda m, x, h: torch.sort(h, -1).values), x, "sort")
    refused(Reads(lambda m, x, h: h @ h.transpose(1, 2)), x, "matmul")

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.rnn = nn.LSTMCell(6, 4), nn.RNN(4, 4, batch_first=True)

        def forward(self, x):
            states, outputs = None, []
            for t in range(x.shape[1]):
                states = self.cell(x[:, t], states)
                outputs.append(states[0])
            return self.rnn(torch.stack(outputs, 1))[0]

    refused(Loop(), x, "Loop", "Python loop")


def test_pack_measures_and_refuses(tmp_path):
    torch.manual_seed(0)
    model, x = Tagger(), torch.randint(0, 20, (4, 30))
    path = tmp_path / "tagger.crnn"
    with pytest.warns(UserWarning, match="calibration"):
        cr.pack(model, path, x)
    report = cr.pack(model, path, x, calibration=[x], metadata={"labels": ["a"]})
    assert report.bytes == path.stat().st_size and report.parity <= 1e-4
    assert 0 < report.error < 0.05 and report.cosine > 0.998 and report.calibrated
    engine = cr.Engine(path)
    assert engine.metadata["labels"] == ["a"] and engine.metadata["pack"]["error"] == pytest.approx(
        report.error, rel=1e-3
    )
    before = path.read_bytes()
    for options, message in [
        ({"max_error": 1e-9}, "max_error"),
        ({"max_error": "small"}, "max_error: expected a positive number, got 'small'"),
        ({"weights": "int3"}, "weights"),
        ({"fold": "maybe"}, "fold"),
        ({"metadata": {"a": {1, 2}}}, "metadata"),
        ({"metadata": ["a"]}, "metadata: expected a dict"),
        ({"metadata": {"a": 1, "added_steps": 2}}, "metadata: expected no key of .* got 'added_steps'"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            cr.pack(model, path, x, calibration=[x], **options)
        assert path.read_bytes() == before
    with pytest.raises(ValueError, match="example_inputs"):
        cr.pack(model, path, (x, 3))
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore:quantization changes")  # in int4, by some 3 %
@pytest.mark.parametrize("weights", ["float32", "int8", "int4", "auto"])
def test_the_report_says_how_each_matrix_is_stored(tmp_path, weights):
    model, x = Tagger(), torch.randint(0, 20, (4, 30))
    path = tmp_path / "tagger.crnn"
    report = cr.pack(model, path, x, weights=weights, calibration=[x])
    stored, small = dict(report.types), "int8" if weights == "auto" else weights
    tables = [stored.pop(name) for name in list(stored) if name.startswith("embedding")]
    assert len(tables) == 1 and tables[0] in ("int8", weights) and set(stored.values()) == {small}
    assert set(stored) - {"lstm.weight_ih_l0"} == {
        "lstm.weight_hh_l0",
        "lstm.weight_ih_l1",
        "lstm.weight_hh_l1",
        "head",
    }
    noted = cr.Engine(path).metadata["pack"]
    assert stored_types(read(path.read_bytes())) == report.types and noted["weights"] == weights


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("fold", [True, False])
def test_a_folded_token_input_is_the_same_model(weights, fold):
    torch.manual_seed(0)
    model, x = Tagger(), torch.randint(0, 20, (1, 40))
    engine = cr.Engine(write(quantize(lower(model, x), weights, fold)))
    want = wanted(model, x)
    tolerance = 1e-4 if weights == "float32" else 0.05
    results = outputs(engine, x)
    assert np.abs(results[0] - want).max() <= tolerance
    assert np.array_equal(engine.stream().run(x[0].numpy())[0], results[0])


def test_time_is_first_whatever_the_model_returns(tmp_path):
    model, x = Convolved(), torch.randn(2, 9, 6)
    given = x.clone().requires_grad_()  # as of a network before it
    report = cr.pack(model, tmp_path / "m.crnn", given, calibration=[given])
    assert report.parity < 1e-4 and cr.Engine(tmp_path / "m.crnn").run(x[0].numpy()).shape == (9, 4)


def test_packing_leaves_the_model_alone(tmp_path):
    model, x = Tagger(), torch.randint(0, 20, (1, 8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cr.pack(model, tmp_path / "m.crnn", x)
    assert model.training and type(model.lstm) is nn.LSTM
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_shrinks_packs(tmp_path):
    torch.manual_seed(0)
    for shape in (Tagger, *[s for s in SHAPES if s.__name__ in ("Residual", "Gated", "Projected")]):
        model = shape()
        x = example(model, steps=9)
        pruner = cr.GroupLasso(model, x, keep=0.5, steps=1)
        pruner.step()
        small = pruner.shrink()
        engine = engine_of(small, x)
        np.testing.assert_allclose(outputs(engine, x)[0], wanted(model, x), rtol=1e-4, atol=1e-5)
        assert engine.macs_per_step < engine_of(model, x).macs_per_step


class Solved(nn.Module):
    """A matrix that torch computes with a check of its values, which exports have as an effect."""

    def __init__(self):
        super().__init__()
        self.lstm, self.skew = nn.LSTM(4, 8, batch_first=True), nn.Parameter(torch.randn(8, 8) / 8)

    def forward(self, x):
        one = torch.eye(8)
        return self.lstm(x)[0] @ torch.linalg.solve(one + self.skew, one - self.skew)


class Distributed(Solved):
    """A policy whose distributions look whether their parameters are in range."""

    def forward(self, x):
        y = self.lstm(x)[0]
        normal, chosen = Normal(y[..., :2], y[..., 2:4].exp()), Categorical(logits=y[..., 4:])
        return torch.cat([normal.mean, normal.stddev, chosen.probs, chosen.entropy().unsqueeze(-1)], -1)


class Detached(Solved):
    """Old code, which reads and changes `.data`."""

    def forward(self, x):
        weight = self.skew.data
        y = self.lstm(x, (weight.new(1, len(x), 8).zero_(), weight.new_zeros(1, len(x), 8)))[0]
        z = y.data.clone()
        z.data[..., 0] = 0
        return torch.cat([y, z.data], -1)


@pytest.mark.parametrize("kind", [Solved, Distributed, Detached])
def test_checks_of_values_are_no_part_of_the_program(kind):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(1, 9, 4)
    with torch.no_grad():
        wanted = model(x)[0].numpy()
    assert np.abs(engine_of(model, x).run(x[0].numpy()) - wanted).max() < 1e-5
    with pytest.raises(ValueError, match="parameter scale"):  # they look again
        Normal(torch.zeros(1), -torch.ones(1))


def test_warnings_point_at_the_call(tmp_path):
    with pytest.warns(UserWarning) as record:
        cr.pack(nn.GRU(3, 4), tmp_path / "gru.crnn", torch.randn(5, 1, 3))
    assert {warning.filename for warning in record} == {__file__}
