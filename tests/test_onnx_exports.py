"""Models of torch, exported to ONNX and imported again, and quantized files."""

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from onnx_models import packed, relative, session, stream_equals_run  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
STEPS = 200


class Model(nn.Module):
    """A recurrent layer between an optional causal convolution and a linear head."""

    def __init__(self, kind, convolution=False, **options):
        super().__init__()
        self.conv = nn.Conv1d(7, 7, 3) if convolution else None
        self.rnn = kind(7, 12, batch_first=True, **options)
        self.head = nn.Linear(24 if options.get("bidirectional") else 12, 3)

    def forward(self, x):
        if self.conv is not None:
            x = torch.relu(self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0)))).transpose(1, 2)
        return self.head(self.rnn(x)[0])


class Step(nn.Module):
    """One step of a GRU, with its state."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(7, 12, 2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x, h):
        y, h = self.rnn(x, h)
        return self.head(y), h


class Autoencoder(nn.Module):
    """A decoder that gets the last state of an encoder at every step."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(7, 6, batch_first=True), nn.GRU(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        found = self.encoder(x)[1][0].transpose(0, 1)
        return self.head(self.decoder(found.expand(-1, x.shape[1], -1))[0])


class Bank(nn.Module):
    """Convolutions whose kernels are of even and odd size, cut to as many steps as the input has (Tacotron)."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(7, 4, k, padding=k // 2) for k in (1, 2, 3, 4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in self.convs)
        self.rnn, self.head = nn.GRU(16, 6, batch_first=True, bidirectional=True), nn.Linear(12, 3)

    def forward(self, x):
        found = [norm(conv(x.transpose(1, 2)).relu()) for conv, norm in zip(self.convs, self.norms, strict=True)]
        y = torch.cat([y[..., : x.shape[1]] for y in found], 1)
        y = nn.functional.max_pool1d(y, 2, 1, 1)[..., : x.shape[1]]
        return self.head(self.rnn(y.transpose(1, 2))[0])


def export(model, path, arguments, **names):
    torch.manual_seed(0)
    torch.onnx.export(model.eval(), arguments, str(path), dynamo=False, opset_version=17, **names)
    return path


MODELS = {
    "LSTM": lambda: Model(nn.LSTM),
    "GRU of two layers": lambda: Model(nn.GRU, num_layers=2),
    "RNN": lambda: Model(nn.RNN),
    "both directions": lambda: Model(nn.LSTM, bidirectional=True, num_layers=2),
    "a decoder of what an encoder found": Autoencoder,
    "a bank of convolutions": Bank,
    "convolution before it": lambda: Model(nn.GRU, convolution=True),
}


def exported(case, path):
    return export(
        MODELS[case](), path, (torch.randn(1, 20, 7),), input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "batch", 1: "steps"}, "y": {0: "batch", 1: "steps"}},
    )  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_an_exported_model_is_imported(case, tmp_path):
    torch.manual_seed(0)
    path = exported(case, tmp_path / "m.onnx")
    engine, report = packed(path, tmp_path)
    x = np.random.default_rng(0).normal(size=(STEPS, 7)).astype(np.float32)
    assert relative(session(path).run(None, {"x": x[None]})[0], stream_equals_run(engine, x)[0]) < 1e-4
    offline = "both directions", "a decoder of what an encoder found", "a bank of convolutions"
    assert engine.offline == (case in offline) and "head" in report.types


def test_the_same_model_from_torch_and_from_its_file_give_the_same_bits(tmp_path):
    torch.manual_seed(0)
    model = Model(nn.LSTM).eval()
    path = export(
        model, tmp_path / "m.onnx", (torch.randn(1, 20, 7),), input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {1: "steps"}, "y": {1: "steps"}},
    )  # fmt: skip
    cr.pack(model, tmp_path / "torch.crnn", torch.randn(1, 20, 7), weights="int8")
    cr.pack(path, tmp_path / "onnx.crnn", weights="int8")
    x = np.random.default_rng(0).normal(size=(STEPS, 7)).astype(np.float32)
    np.testing.assert_array_equal(*(cr.Engine(tmp_path / f"{n}.crnn").run(x) for n in ("torch", "onnx")))


def test_an_exported_step_keeps_its_state(tmp_path):
    path = export(
        Step(), tmp_path / "m.onnx", (torch.randn(1, 1, 7), torch.zeros(2, 1, 12)),
        input_names=["x", "h"], output_names=["y", "hn"], dynamic_axes={"x": {0: "batch"}, "h": {1: "batch"}},
    )  # fmt: skip
    engine, _ = packed(path, tmp_path)
    stream, h, runtime = engine.stream(), np.zeros((2, 1, 12), np.float32), session(path)
    assert [(s.name, s.shape) for s in engine.states] == [("h", (2, 1, 12))]
    for x in np.random.default_rng(0).normal(size=(STEPS, 7)).astype(np.float32):
        y, h = runtime.run(None, {"x": x[None, None], "h": h})
        assert relative(y, stream.step(x)) < 1e-4 and relative(h, stream.get_state("h")) < 1e-4


def test_a_quantized_file_becomes_float_first(tmp_path):
    """MatMulInteger and DynamicQuantizeLSTM; the file's own run rounds inputs, which the packed model does not."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="what quantizes")
    torch.manual_seed(0)
    path, quantized = exported("LSTM", tmp_path / "m.onnx"), tmp_path / "q.onnx"
    quantization.quantize_dynamic(path, quantized, op_types_to_quantize=["MatMul", "LSTM"])
    kinds = {n.op_type for n in onnx.load(quantized).graph.node}
    assert {"DynamicQuantizeLSTM", "MatMulInteger", "DynamicQuantizeLinear"} <= kinds
    engine, report = packed(quantized, tmp_path)
    x = np.random.default_rng(0).normal(size=(STEPS, 7)).astype(np.float32)
    y = engine.run(x)
    assert report.parity < 1e-4 and not any(c.skipped for c in report.checks)
    assert relative(session(path).run(None, {"x": x[None]})[0], y) < 0.05
    assert relative(session(quantized).run(None, {"x": x[None]})[0], y) < 0.05


class Viewed(nn.Module):
    """Layers between which shapes are written out, for an exporter to fix."""

    def __init__(self, units=12, bidirectional=False, head=lambda y: y):
        super().__init__()
        self.rnn = nn.GRU(7, units, 2, batch_first=True, bidirectional=bidirectional)
        self.out, self.head = nn.Linear(units, 3), head

    def forward(self, x):
        x = torch.where(x > 4, torch.zeros_like(x), x)
        y = self.rnn(x)[0]
        y = y.view(y.shape[0], y.shape[1], -1, self.out.in_features).mean(2)
        return self.head(self.out(y.reshape(-1, self.out.in_features)).view(y.shape[0], y.shape[1], 3))


FIXED = {
    "one direction": lambda: Viewed(),
    "both directions": lambda: Viewed(bidirectional=True),
    "the last step": lambda: Viewed(head=lambda y: torch.relu(y[:, -1])),
    "the largest": lambda: Viewed(head=lambda y: y.amax(1)),
    "groups of channels": lambda: Grouped(),
}


def fixed(model, path, dynamo, shape=(1, 20, 7)):
    """Exported as most people do, with no word of what may vary."""
    names = {"input_names": ["x"], "output_names": ["y"]}
    if not dynamo:
        return export(model, path, (torch.randn(shape),), **names)
    pytest.importorskip("onnxscript", reason="the exporter writes by it")
    torch.manual_seed(0)
    torch.onnx.export(model.eval(), (torch.randn(shape),), str(path), dynamo=True, verbose=False, **names)
    return path


@pytest.mark.parametrize("case", FIXED)
@pytest.mark.parametrize("dynamo", [False, True])
def test_a_file_of_one_number_of_steps_is_taken_for_any(case, dynamo, tmp_path):
    torch.manual_seed(0)
    model = FIXED[case]()
    path = fixed(model, tmp_path / "m.onnx", dynamo)
    with pytest.warns(UserWarning, match="sequences of 20 steps alone"):
        engine, report = packed(path, tmp_path)
    assert [c.steps for c in report.checks if c.what == "the file of fixed size" and not c.skipped] == [20]
    for steps in (20, 1, 33):
        x = torch.randn(1, steps, 7)
        with torch.no_grad():
            wanted = model(x)[0].numpy()
        assert relative(wanted, engine.run(x[0].numpy())) < 1e-5


class Attentive(nn.Module):
    """Attention of torch, in which the exporter writes the number of steps of its example whatever axes are open."""

    def __init__(self):
        super().__init__()
        self.rnn, self.layer = nn.GRU(7, 12, batch_first=True), nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)

    def forward(self, x):
        return self.layer(self.rnn(x)[0])


def test_an_open_axis_with_shapes_of_one_number_of_steps(tmp_path):
    torch.manual_seed(0)
    model, axes = Attentive().eval(), {"x": {0: "batch", 1: "steps"}, "y": {0: "batch", 1: "steps"}}
    path = export(
        model, tmp_path / "m.onnx", (torch.randn(1, 20, 7),), input_names=["x"], output_names=["y"], dynamic_axes=axes
    )
    with pytest.raises(Exception, match="cannot be reshaped"):  # so that the file means nothing for other numbers
        session(path).run(None, {"x": np.zeros((1, 19, 7), np.float32)})
    for time in ("steps", None):
        with pytest.warns(UserWarning, match="sequences of 20 steps alone"):
            engine, report = packed(path, tmp_path, time=time)
        assert [c.steps for c in report.checks if c.what == "the file of fixed size" and not c.skipped] == [20]
    for steps in (20, 1, 33):
        x = torch.randn(1, steps, 7)
        with torch.no_grad():
            assert relative(model(x)[0].numpy(), engine.run(x[0].numpy())) < 1e-5


class Strided(nn.Module):
    """Keywords by strides in both axes of a spectrogram, a layer of both directions, and its last states."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, (5, 4), stride=(2, 2), padding=(2, 1)), nn.BatchNorm2d(4)
        self.rnn, self.head = nn.GRU(16, 6, batch_first=True, bidirectional=True), nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = x.permute(0, 3, 1, 2).reshape(x.shape[0], x.shape[3], -1)
        return self.head(torch.cat([*self.rnn(x)[1]], 1))


class Cropped(nn.Module):
    """A network of strides down to a layer and up again, with what is left over cut off, and stacked frames."""

    def __init__(self):
        super().__init__()
        self.down, self.rnn = nn.Conv1d(7, 8, 4, 2, padding=2), nn.GRU(8, 8, batch_first=True)
        self.up, self.head = nn.ConvTranspose1d(8, 5, 4, 2), nn.Linear(10, 4)

    def forward(self, x):
        y = torch.relu(self.down(x.transpose(1, 2)))[..., : x.shape[1] // 2]
        y = self.up(self.rnn(y.transpose(1, 2))[0].transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        return self.head(y.reshape(y.shape[0], y.shape[1] // 2, -1))


STRIDED = {
    "strides in two dimensions": (Strided, lambda n: (1, 1, 8, n), 3),
    "strides back and forth": (Cropped, lambda n: (1, n, 7), 1),
}


@pytest.mark.parametrize("case", STRIDED)
@pytest.mark.parametrize("dynamo", [False, True])
def test_a_file_of_one_number_of_steps_with_strides_is_taken_for_any(case, dynamo, tmp_path):
    torch.manual_seed(0)
    make, shape, time = STRIDED[case]
    model = make()
    path = fixed(model, tmp_path / "m.onnx", dynamo, shape=shape(48))
    with pytest.warns(UserWarning, match="sequences of 48 steps alone"):
        engine, _ = packed(path, tmp_path)
    assert engine.frames_per_step == 2
    for frames in (48, 12, 98):
        x = torch.randn(shape(frames))
        with torch.no_grad():
            wanted = model(x)[0].numpy()
        given = np.moveaxis(x.numpy(), time, 0).reshape(frames // 2, *engine.inputs[0].shape)
        assert relative(wanted, engine.run(given).reshape(wanted.shape)) < 1e-5


class Flat(nn.Module):
    """All steps of a layer as one vector, as the head of a recognizer of activities."""

    def __init__(self):
        super().__init__()
        self.conv, self.rnn, self.head = nn.Conv1d(7, 8, 5), nn.LSTM(8, 6, batch_first=True), nn.Linear(96, 3)

    def forward(self, x):
        return self.head(self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0].flatten(1))


class Placed(nn.Module):
    """What is learned of each place of a sequence, a sum over the steps and a product with all of them."""

    def __init__(self):
        super().__init__()
        self.places, self.rnn = nn.Parameter(torch.randn(1, 20, 7)), nn.GRU(7, 6, 2, batch_first=True)
        self.across = nn.Linear(20, 4)

    def forward(self, x):
        y = self.rnn(x + self.places)[0]
        return self.across(y.transpose(1, 2)) + (y.sum(1) / y.shape[1]).unsqueeze(2)


WHOLE = {
    "a product with all steps": Flat,
    "places": Placed,
    "a count": lambda: Viewed(head=lambda y: y.sum(1) / y.shape[1]),
    "no layer": lambda: nn.Sequential(nn.Linear(7, 5), nn.Tanh()),
}


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("dynamo", [False, True])
def test_a_file_whose_answers_depend_on_its_one_size_is_one_step(case, dynamo, tmp_path):
    torch.manual_seed(0)
    path = fixed(WHOLE[case](), tmp_path / "m.onnx", dynamo)
    with pytest.warns(UserWarning, match=r"inputs of one size alone \(x \(20, 7\)\).*keeps no state"):
        engine, _ = packed(path, tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 1, 20, 7)).astype(np.float32)
    wanted = np.concatenate([session(path).run(None, {"x": one})[0] for one in x])
    stream = engine.stream()
    assert relative(wanted, engine.run(x[:, 0])) < 1e-5
    assert relative(wanted, np.stack([stream.step(one[0]) for one in x])) < 1e-5


@pytest.mark.parametrize("dims", [None, {"steps": 20}])
def test_an_open_axis_of_which_a_product_takes_one_size(dims, tmp_path):
    torch.manual_seed(0)
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch", 1: "steps"}}}
    path = export(Flat(), tmp_path / "m.onnx", (torch.randn(1, 20, 7),), **names)
    with pytest.warns(UserWarning, match=r"inputs of one size alone \(x \(20, 7\)\)"):
        engine, _ = packed(path, tmp_path, dims=dims)
    x = np.random.default_rng(0).normal(size=(1, 20, 7)).astype(np.float32)
    assert relative(session(path).run(None, {"x": x})[0], engine.run(x)) < 1e-5


class Block(nn.Module):
    """A layer with its state, all of whose steps the head reads."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(7, 6, batch_first=True), nn.Linear(60, 3)

    def forward(self, x, h):
        y, h = self.rnn(x, h)
        return self.head(y.reshape(1, -1)), h


def test_an_open_axis_of_one_size_beside_states_is_a_step(tmp_path):
    torch.manual_seed(0)
    names = {"input_names": ["x", "h"], "output_names": ["y", "hn"], "dynamic_axes": {"x": {1: "steps"}}}
    path = export(Block(), tmp_path / "m.onnx", (torch.randn(1, 10, 7), torch.zeros(1, 1, 6)), **names)
    with pytest.warns(UserWarning, match="steps is 10, the only size that the file takes"):
        engine, _ = packed(path, tmp_path)
    run, stream, state = session(path).run, engine.stream(), np.zeros((1, 1, 6), np.float32)
    for x in np.random.default_rng(0).normal(size=(50, 1, 10, 7)).astype(np.float32):
        wanted, state = run(None, {"x": x, "h": state})
        assert relative(wanted[0], stream.step(x[0])) < 1e-5


class Bag(nn.Module):
    """The mean of some tokens at each step, of which an exporter makes a loop."""

    def __init__(self):
        super().__init__()
        self.bag, self.rnn, self.head = nn.EmbeddingBag(30, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens, h):
        y, h = self.rnn(self.bag(tokens)[None], h)
        return self.head(y), h


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_loop_of_known_length_is_unrolled(steps, dynamo, tmp_path):
    torch.manual_seed(0)
    given = torch.randint(30, (steps, 4)), torch.zeros(1, 1, 8)
    names = {"input_names": ["tokens", "h"], "output_names": ["y", "hn"], "dynamo": dynamo}
    names |= {"verbose": False} if dynamo else {"opset_version": 17}
    path = tmp_path / "m.onnx"
    torch.onnx.export(Bag().eval(), given, str(path), **names)
    engine, _ = packed(path, tmp_path)
    run, stream, state = session(path).run, engine.stream(), np.zeros((1, 1, 8), np.float32)
    for tokens in np.random.default_rng(0).integers(30, size=(50, steps, 4)):
        wanted, state = run(None, {"tokens": tokens, "h": state})
        assert relative(wanted.ravel(), stream.step(tokens.reshape(engine.inputs[0].shape)).ravel()) < 1e-5


def test_an_axis_as_long_as_another_is_told_from_it(tmp_path):
    torch.manual_seed(0)
    model = Viewed(units=20)
    with pytest.warns(UserWarning, match="sequences of 20 steps alone"):
        engine, _ = packed(fixed(model, tmp_path / "m.onnx", False), tmp_path)
    x = torch.randn(1, 33, 7)
    with torch.no_grad():
        assert relative(model(x)[0].numpy(), engine.run(x[0].numpy())) < 1e-5


class Standardized(nn.Module):
    """Each feature with the mean and deviation that it has over the sequence."""

    def __init__(self):
        super().__init__()
        self.norm, self.rnn = nn.InstanceNorm1d(7, affine=True), nn.GRU(7, 12, batch_first=True)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.rnn(self.norm(x.transpose(1, 2)).transpose(1, 2))[0]


class Grouped(nn.Module):
    """Groups of channels, which exporters write as channels of another shape, standardized over the whole sequence."""

    def __init__(self, groups=2):
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(7, 8, 3, padding=1), nn.GRU(8, 12, batch_first=True)
        self.norm = nn.GroupNorm(groups, 8)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.rnn(torch.relu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2))[0]


class OneHot(nn.Module):
    """Tokens without a table."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(9, 12, batch_first=True)

    def forward(self, tokens):
        return self.rnn(nn.functional.one_hot(tokens, 9).float())[0]


class Ends(nn.Module):
    """The first and the last step, each by itself."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(7, 12, batch_first=True)

    def forward(self, x):
        y = self.rnn(x)[0]
        return torch.relu(y[:, 0]) + torch.tanh(y[:, -1].flip(-1))


@pytest.mark.parametrize("make", [Standardized, Grouped, OneHot, Ends])
def test_what_is_made_of_whole_sequences_and_of_tokens(make, tmp_path):
    torch.manual_seed(0)
    model = make().eval()
    xs = [torch.randint(9, (1, n)) if make is OneHot else torch.randn(1, n, 7) for n in (20, 3, 31)]
    axes = {"x": {1: "steps"}, "y": {1: "steps"} if make is not Ends else {}}
    path = export(model, tmp_path / "m.onnx", (xs[0],), input_names=["x"], output_names=["y"], dynamic_axes=axes)
    engine, _ = packed(path, tmp_path)
    for x in xs:
        with torch.no_grad():
            assert relative(model(x)[0].numpy(), engine.run(x[0].numpy())) < 1e-5
    assert engine.offline == (make is not OneHot)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_of_another_precision_becomes_float32(dtype, tmp_path):
    torch.manual_seed(0)
    model, x = Model(nn.LSTM).eval().to(dtype), torch.randn(1, 20, 7).to(dtype)
    axes = {"x": {1: "steps"}, "y": {1: "steps"}}
    path = export(model, tmp_path / "m.onnx", (x,), input_names=["x"], output_names=["y"], dynamic_axes=axes)
    engine, report = packed(path, tmp_path)
    with torch.no_grad():
        wanted = model.float()(x.float())[0].numpy()
    assert relative(wanted, engine.run(x[0].float().numpy())) < 1e-5
    compared = [c for c in report.checks if c.what == "the quantized file"]
    assert len(compared) == (dtype != torch.float64)
    assert all(c.skipped if dtype == torch.bfloat16 else c.error < 1e-2 for c in compared)
