"""Quantized ONNX files become float, and mean what they meant."""

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from compactrnn.onnx_import import dequantize  # noqa: E402
from onnx_models import OPSET, node, packed, relative, save, session, stream_equals_run, tensor  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
STEPS, CHANNELS, UNITS = 60, 8, 12
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers():
    RNG.bit_generator.state = START


def numbers(*shape):
    return (0.4 * RNG.normal(size=shape)).astype(np.float32)


def whole(array, dtype=np.int8):
    """Whole numbers, scale and zero point of an array."""
    scale = np.float32(np.abs(array).max() / 127)
    zero = 0 if dtype == np.int8 else 128
    return (np.rint(array / scale) + zero).astype(dtype), scale, dtype(zero)


def gru(x, size):
    """The node and the constants of a GRU that ends a file."""
    constants = {"W": numbers(1, 3 * UNITS, size), "R": numbers(1, 3 * UNITS, UNITS)}
    return node("GRU", [x, "W", "R"], ["y", ""], hidden_size=UNITS, linear_before_reset=1), constants


class Rectified(nn.Module):
    """A ReLU, which a static quantizer leaves to the bounds of the whole numbers, before a GRU."""

    def __init__(self, convolution):
        super().__init__()
        self.front = nn.Conv1d(CHANNELS, 16, 3) if convolution else nn.Linear(CHANNELS, 16)
        self.rnn, self.head = nn.GRU(16, UNITS, batch_first=True), nn.Linear(UNITS, 3)

    def forward(self, x):
        if isinstance(self.front, nn.Conv1d):
            x = self.front(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        else:
            x = self.front(x)
        return self.head(self.rnn(torch.relu(x))[0])


def statically_quantized(folder, convolution, per_channel=False, form="QDQ"):
    """The file, and data that it was calibrated on."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="what quantizes")
    torch.manual_seed(0)
    x = torch.randn(1, STEPS, CHANNELS)
    plain, path = folder / "plain.onnx", folder / "quantized.onnx"
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {1: "time"}, "y": {1: "time"}}}
    torch.onnx.export(Rectified(convolution).eval(), (x,), str(plain), dynamo=False, opset_version=17, **names)

    class Data(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": x.numpy()}])

        def get_next(self):
            return next(self.left, None)

    options = {"quant_format": quantization.QuantFormat[form], "per_channel": per_channel}
    quantization.quantize_static(str(plain), str(path), Data(), **options)
    assert "Relu" not in {n.op_type for n in onnx.load(path).graph.node}
    return path, x[0].numpy()


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_bounds_of_whole_numbers_stand_for_a_relu(convolution, per_channel, tmp_path):
    path, x = statically_quantized(tmp_path, convolution, per_channel)
    engine, report = packed(path, tmp_path)
    (y,) = stream_equals_run(engine, x)
    assert relative(session(path).run(None, {"x": x[None]})[0], y) < 0.05
    assert report.parity < 1e-4 and report.checks[-1].what == "the quantized file" and report.checks[-1].error < 0.05


@pytest.mark.parametrize(("form", "optimized"), [("QOperator", False), ("QOperator", True), ("QDQ", True)])
def test_a_quantized_file_of_operators_on_whole_numbers(form, optimized, tmp_path):
    """As onnxruntime's quantizer writes it, and its optimizer what it loads."""
    runtime = pytest.importorskip("onnxruntime", reason="what quantizes")
    path, x = statically_quantized(tmp_path, True, per_channel=True, form=form)
    if optimized:
        options = runtime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 4
        runtime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        path = tmp_path / "optimized.onnx"
    assert any(n.op_type.startswith("QLinear") for n in onnx.load(path).graph.node)
    engine, report = packed(path, tmp_path)
    (y,) = stream_equals_run(engine, x)
    assert relative(session(path).run(None, {"x": x[None]})[0], y) < 0.05
    assert report.parity < 1e-4 and report.checks[-1].what == "the quantized file" and report.checks[-1].error < 0.05


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places_among_whole_numbers_are_those_among_float_numbers(op, tmp_path):
    """As a quantizer leaves the labels of a tagger; numbers beyond the bounds are equal."""
    layer, gates = gru("x", CHANNELS)
    nodes = [
        layer,
        node("Squeeze", ["y", "one"], ["rows"]),
        node("QuantizeLinear", ["rows", "scale", "zero"], ["whole"]),
        node(op, ["whole"], ["place"], axis=2),
    ]
    constants = {"one": np.array([1]), "scale": np.float32(1e-3), "zero": np.uint8(128), **gates}
    inputs = [tensor("x", ["T", 1, CHANNELS])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("place", None, onnx.TensorProto.INT64)], constants)
    engine, _ = packed(path, tmp_path)
    x = np.random.default_rng(0).normal(size=(STEPS, CHANNELS)).astype(np.float32)
    wanted = session(path).run(None, {"x": x[:, None]})[0].ravel()
    assert (engine.run(x).ravel() == wanted).mean() > 0.9 and len({*wanted.tolist()}) > 1


# By operator: its inputs but scales, which follow each, and its attributes.
OF_WHOLE_NUMBERS = {
    "QLinearConv": ("QLinearConv", ["columns", "kernel"], {"pads": [2, 0]}),
    "QLinearConv with bias": ("QLinearConv", ["columns", "kernel", "bias"], {"pads": [2, 0]}),
    "QLinearConv of version 12": ("QLinearConv", ["columns", "kernel"], {"pads": [2, 0]}),
    "QLinearMatMul": ("QLinearMatMul", ["rows", "matrix"], {}),
    "QGemm": ("QGemm", ["rows", "matrix", "bias"], {}),
    "QGemm, turned": ("QGemm", ["rows", "turned"], {"transB": 1, "alpha": 0.5}),
    "QLinearAdd": ("QLinearAdd", ["rows", "vector"], {}),
    "QLinearMul": ("QLinearMul", ["vector", "rows"], {}),
    "QLinearSigmoid": ("QLinearSigmoid", ["rows"], {}),
    "QLinearLeakyRelu": ("QLinearLeakyRelu", ["rows"], {"alpha": 0.3}),
    "QLinearConcat": ("QLinearConcat", ["rows", "rows"], {"axis": 1}),
    "QLinearSoftmax": ("QLinearSoftmax", ["rows"], {"axis": 1, "opset": 17}),
    "QLinearWhere": ("QLinearWhere", ["rows", "vector"], {}),
}


@pytest.mark.parametrize("case", OF_WHOLE_NUMBERS)
def test_operators_on_whole_numbers_are_those_on_float_numbers(case, tmp_path):
    op, names, attributes = OF_WHOLE_NUMBERS[case]
    arrays = {"matrix": numbers(CHANNELS, 16), "turned": numbers(16, CHANNELS), "vector": numbers(CHANNELS)}
    arrays |= {"kernel": numbers(16, CHANNELS, 3)}
    scale = {"rows": np.float32(0.03), "columns": np.float32(0.03), "result": np.float32(0.05)}
    constants = {f"{n}_scale": s for n, s in scale.items()} | {f"{n}_zero": np.uint8(120) for n in scale}
    real = {}
    for name in names:
        if name in arrays:
            values, step, zero = whole(arrays[name], np.int8 if name != "vector" else np.uint8)
            constants |= {name: values, f"{name}_scale": step, f"{name}_zero": zero}
            real[name] = ((values.astype(np.float32) - zero) * step).astype(np.float32)
    if "bias" in names:
        step = constants["rows_scale"] * constants[f"{names[1]}_scale"]
        constants["bias"] = np.rint(numbers(16) / step).astype(np.int32)
        real["bias"] = (constants["bias"] * step).astype(np.float32)
    old = case.endswith("12")
    if old:  # a scale for each channel, which DequantizeLinear does not have then
        constants |= {f"kernel_{n}": np.full(16, constants[f"kernel_{n}"]) for n in ("scale", "zero")}
    if op == "QLinearSoftmax":
        constants |= {"result_scale": np.float32(1 / 256), "result_zero": np.uint8(0)}
    if op == "QLinearWhere":
        constants["condition"] = real["condition"] = np.arange(CHANNELS) % 2 == 0
    scaled = [part for n in names if n != "bias" for part in (n, f"{n}_scale", f"{n}_zero")]
    result = ["result_scale", "result_zero"]
    tail = ["bias"] if "bias" in names else []
    if op == "QLinearConcat":
        given = [*result, *scaled]
    elif op == "QGemm":
        given = [*scaled, *(tail or [""]), *result]
    elif op == "QLinearWhere":
        given, names = ["condition", *scaled, *result], ["condition", *names]
    else:
        given = [*scaled, *result, *tail]
    wide = dict.fromkeys((f"QLinear{o}" for o in ("Sigmoid", "LeakyRelu", "Add", "Mul", "Softmax", "Where")), CHANNELS)
    layer, gates = gru("sequence", wide.get(op, 16))
    turn = op == "QLinearConv"
    source = "columns" if turn else "rows"
    shapes = {
        "to": np.array([1, CHANNELS, -1] if turn else [-1, CHANNELS]),
        "back": np.array([-1, 1, wide.get(op, 16)]),
    }

    def file(path, nodes, extra):
        before = [node("Transpose", ["x"], ["x_"], perm=[1, 2, 0])] if turn else [node("Identity", ["x"], ["x_"])]
        before.append(node("Reshape", ["x_", "to"], ["flat"], name="to"))
        after = [node("Transpose", ["z"], ["z_"], perm=[2, 0, 1], name="turn")] if turn else []
        after.append(node("Reshape", ["z_" if turn else "z", "back"], ["sequence"], name="back"))
        inputs, stored = [tensor("x", ["T", 1, CHANNELS])], {**extra, **gates, **shapes}
        return save(path, [*before, *nodes, *after, layer], inputs, [tensor("y", None)], stored, 12 if old else OPSET)

    domain = "com.microsoft" if op not in ("QLinearConv", "QLinearMatMul") else ""
    quantized = [
        node("QuantizeLinear", ["flat", f"{source}_scale", f"{source}_zero"], [source]),
        node(op, given, ["whole"], domain=domain, **attributes),
        node("DequantizeLinear", ["whole", *result], ["z"]),
    ]
    plain = op.replace("QLinear", "").replace("QGemm", "Gemm")
    attributes = {name: value for name, value in attributes.items() if name != "opset"}
    floats = [node("Identity", ["flat"], [source], name="same"), node(plain, names, ["z"], **attributes)]
    path = file(tmp_path / "m.onnx", quantized, constants)
    engine, report = packed(path, tmp_path)
    x = (0.5 * RNG.normal(size=(STEPS, CHANNELS))).astype(np.float32).clip(-3, 3)
    got = engine.run(x)
    wanted = session(file(tmp_path / "float.onnx", floats, real)).run(None, {"x": x[:, None]})[0]
    assert relative(wanted, got) < 1e-4
    assert relative(session(path).run(None, {"x": x[:, None]})[0], got) < 0.1
    assert report.checks[-1].what == "the quantized file" and not report.checks[-1].skipped


@pytest.mark.parametrize(("bits", "zeros"), [(4, None), (4, np.uint8), (4, np.float32), (8, None), (8, np.uint8)])
def test_a_matrix_in_blocks_of_a_few_bits(bits, zeros, tmp_path):
    """Of 40 columns, blocks of 16: the last is half empty."""
    rows, columns, block = UNITS, 40, 16
    values = RNG.integers(1 << bits, size=(rows, 3, block)).astype(np.uint8)
    stored = values if bits == 8 else values[..., ::2] | (values[..., 1::2] << 4)
    constants = {"values": stored, "scales": np.abs(numbers(rows, 3)) / (1 << bits), "bias": numbers(rows)}
    places = RNG.integers(1 << bits, size=(rows, 4)).astype(np.uint8)
    if zeros == np.float32:
        constants["zeros"] = places[:, :3].astype(np.float32)
    elif zeros:
        constants["zeros"] = places[:, :3] if bits == 8 else places[:, ::2] | (places[:, 1::2] << 4)
    given = ["x", "values", "scales", "zeros" if zeros else "", "", "bias"]
    layer, gates = gru("z", rows)
    options = {"K": columns, "N": rows, "bits": bits, "block_size": block, "domain": "com.microsoft"}
    path = save(
        tmp_path / "m.onnx", [node("MatMulNBits", given, ["z"], **options), layer],
        [tensor("x", ["T", 1, columns])], [tensor("y", None)], {**constants, **gates},
    )  # fmt: skip
    engine, report = packed(path, tmp_path)
    x = RNG.normal(size=(STEPS, columns)).astype(np.float32)
    (y,) = stream_equals_run(engine, x)
    assert relative(session(path).run(None, {"x": x[:, None]})[0], y) < 1e-4
    assert report.checks[-1].what == "the quantized file" and report.checks[-1].error < 1e-4


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_product_of_whole_numbers_that_is_float(bias, zeros, tmp_path):
    """`MatMulIntegerToFloat`, behind the DynamicQuantizeLinear that gives its first factor."""
    values, scale, zero = whole(numbers(CHANNELS, 16), np.uint8)
    layer, gates = gru("z", 16)
    constants = {"values": values, "scale": scale, "b": numbers(16), **gates}
    if zeros:
        constants["zero"] = zero
    else:  # as it is without them
        constants["values"] = (values.astype(np.int16) - zero).astype(np.int8)
    given = ["q", "values", "step", "scale", "shift", "zero" if zeros else "", "b" if bias else ""]
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "step", "shift"]),
        node("MatMulIntegerToFloat", given, ["z"], domain="com.microsoft"),
        layer,
    ]
    used = constants if bias else {name: value for name, value in constants.items() if name != "b"}
    path = save(tmp_path / "m.onnx", nodes, [tensor("x", ["T", 1, CHANNELS])], [tensor("y", None)], used)
    engine, _ = packed(path, tmp_path)
    x = RNG.normal(size=(STEPS, CHANNELS)).astype(np.float32)
    (y,) = stream_equals_run(engine, x)
    assert relative(session(path).run(None, {"x": x[:, None]})[0], y) < 0.05


def test_a_float_form_that_means_something_else_is_refused(tmp_path, monkeypatch):
    path, x = statically_quantized(tmp_path, convolution=False)
    with torch.no_grad():
        y = cr.from_onnx(path)(torch.from_numpy(x)[None])
    assert relative(session(path).run(None, {"x": x[None]})[0], y) < 0.05
    bounded = dequantize._Writer.bounded
    monkeypatch.setattr(dequantize._Writer, "bounded", lambda self, node, bounds: bounded(self, node, None))
    with pytest.raises(cr.UnsupportedModelError, match="differs from the quantized file, by a cosine of"):
        packed(path, tmp_path)
    with pytest.raises(cr.UnsupportedModelError, match="differs from the quantized file, by a cosine of"):
        cr.from_onnx(path)


def test_rows_of_a_table_in_whole_numbers(tmp_path):
    """They are moved before one DequantizeLinear, and read by another."""
    table, scale, zero = whole(numbers(20, CHANNELS), np.uint8)
    layer, constants = gru("turned", CHANNELS)
    nodes = [
        node("Gather", ["table", "x"], ["rows"]),
        node("DequantizeLinear", ["rows", "scale", "zero"], ["real"], name="real"),
        node("Transpose", ["rows"], ["moved"], perm=[1, 0, 2]),
        node("DequantizeLinear", ["moved", "scale", "zero"], ["turned"], name="turned"),
        layer,
        node("ReduceSum", ["real", "last"], ["sums"], keepdims=0),
    ]
    constants |= {"table": table, "scale": scale, "zero": zero, "last": np.array([2])}
    inputs = [tensor("x", [1, "T"], onnx.TensorProto.INT64)]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", None), tensor("sums", None)], constants)
    engine, _ = packed(path, tmp_path)
    x = RNG.integers(20, size=STEPS)
    for wanted, got in zip(session(path).run(None, {"x": x[None]}), stream_equals_run(engine, x), strict=True):
        assert relative(wanted, got) < 1e-4


def test_rows_of_whole_numbers_with_another_reader_are_refused(tmp_path):
    table, scale, zero = whole(numbers(20, CHANNELS), np.uint8)
    layer, constants = gru("real", CHANNELS)
    nodes = [
        node("Gather", ["table", "x"], ["rows"]),
        node("DequantizeLinear", ["rows", "scale", "zero"], ["real"]),
        layer,
        node("Cast", ["rows"], ["numbers"], to=onnx.TensorProto.FLOAT),
    ]
    constants |= {"table": table, "scale": scale, "zero": zero}
    inputs = [tensor("x", ["T", 1], onnx.TensorProto.INT64)]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", None), tensor("numbers", None)], constants)
    with pytest.raises(cr.UnsupportedModelError, match="dequantizelinear: DequantizeLinear is not taken"):
        packed(path, tmp_path)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_bias_that_is_rounded_beside_a_product(kernel, tmp_path):
    """As an older quantizer wrote convolutions, also causal ones: the bias divided by both scales, floored and cast."""
    weight, scale, zero = whole(numbers(16, CHANNELS, kernel))
    layer, constants = gru("rows", 16)
    constants["before"] = np.array([0, 0, kernel - 1, 0, 0, 0])
    pad = node("Pad", ["x", "before"], ["padded"])
    nodes = [
        pad,
        node("DynamicQuantizeLinear", ["padded"], ["xq", "x_scale", "x_zero"]),
        node("ConvInteger", ["xq", "weight", "x_zero", "zero"], ["product"]),
        node("Mul", ["x_scale", "scale"], ["scales"], name="scales"),
        node("Div", ["bias", "scales"], ["divided"]),
        node("Floor", ["divided"], ["floored"]),
        node("Cast", ["floored"], ["rounded"], name="rounded", to=onnx.TensorProto.INT32),
        node("Reshape", ["rounded", "shape"], ["shaped"]),
        node("Add", ["product", "shaped"], ["sum"]),
        node("Cast", ["sum"], ["real"], name="real", to=onnx.TensorProto.FLOAT),
        node("Mul", ["real", "scales"], ["scaled"], name="scaled"),
        node("Transpose", ["scaled"], ["rows"], perm=[2, 0, 1]),
        layer,
    ]
    constants |= {"weight": weight, "scale": scale, "zero": zero, "bias": numbers(16), "shape": np.array([1, 16, 1])}
    path = save(tmp_path / "m.onnx", nodes, [tensor("x", [1, CHANNELS, "T"])], [tensor("y", None)], constants)
    engine, report = packed(path, tmp_path)
    x = RNG.normal(size=(STEPS, CHANNELS)).astype(np.float32)
    (y,) = stream_equals_run(engine, x)
    real = {**{name: constants[name] for name in ("W", "R", "before", "bias")}, "weight": weight * scale}
    floats = [
        pad,
        node("Conv", ["padded", "weight", "bias"], ["scaled"]),
        node("Transpose", ["scaled"], ["rows"], perm=[2, 0, 1]),
        layer,
    ]
    plain = save(tmp_path / "float.onnx", floats, [tensor("x", [1, CHANNELS, "T"])], [tensor("y", None)], real)
    assert relative(session(plain).run(None, {"x": x.T[None]})[0], y) < 1e-4
    assert report.checks[-1].what == "the quantized file" and report.checks[-1].error < 0.02


def test_a_quantized_number_of_steps_has_no_bounds(tmp_path):
    """The mean of all steps by their count, which a quantizer bounds by that of its calibration data, 20."""
    layer, constants = gru("x", CHANNELS)
    layer.output[0] = "rows"
    nodes = [
        layer,
        node("Shape", ["x"], ["length"], end=1),
        node("Cast", ["length"], ["count"], to=onnx.TensorProto.FLOAT),
        node("ReduceSum", ["rows", "steps"], ["sum"], keepdims=0),
    ]
    pair = [
        node("QuantizeLinear", ["count", "scale", "zero"], ["whole"]),
        node("DequantizeLinear", ["whole", "scale", "zero"], ["n"]),
    ]
    constants |= {"steps": np.array([0]), "scale": np.float32(20 / 255), "zero": np.uint8(0)}
    ports = [tensor("x", ["T", 1, CHANNELS])], [tensor("y", None)]
    path = save(tmp_path / "m.onnx", [*nodes, *pair, node("Div", ["sum", "n"], ["y"])], *ports, constants)
    plain = save(tmp_path / "float.onnx", [*nodes, node("Div", ["sum", "count"], ["y"])], *ports, constants)
    engine, _ = packed(path, tmp_path)
    for steps in (3, 20, 90):
        x = RNG.normal(size=(steps, 1, CHANNELS)).astype(np.float32)
        assert relative(session(plain).run(None, {"x": x})[0].ravel(), engine.run(x[:, 0]).ravel()) < 1e-5
