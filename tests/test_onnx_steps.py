"""ONNX files that are one step, with states as inputs and outputs; operators within a step; files that people ship."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from compactrnn.runtime.file import read  # noqa: E402
from compactrnn.runtime.program import GATES, Code  # noqa: E402
from onnx_models import node, packed, relative, save, session, stream_equals_run, tensor, written_out_step  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.* is \\d+, the largest size")
CLOSE, STEPS = 1e-4, 60


def compare(path, engine, steps=STEPS, constants=None, states=None):
    """The engine's outputs and states after each step, and those of onnxruntime."""
    runtime, pairs = session(path), states or {}
    shapes = {i.name: [n if isinstance(n, int) and n else 1 for n in i.shape] for i in runtime.get_inputs()}
    kinds = {
        i.name: {"tensor(float)": np.float32, "tensor(bool)": bool}.get(i.type, np.int64) for i in runtime.get_inputs()
    }
    rng, kept = np.random.default_rng(0), {s.name: np.zeros(s.shape, np.float32) for s in engine.states}
    stream, rows, xs = engine.stream(), [], []
    names = [o.name for o in engine.outputs]
    for _ in range(steps):
        x = tuple(
            rng.integers(i.vocabulary) if i.vocabulary else rng.normal(size=i.shape).astype(np.float32)
            for i in engine.inputs
        )
        feeds = {i.name: np.asarray(v).astype(kinds[i.name]) for i, v in zip(engine.inputs, x, strict=True)}
        feeds = {n: v.reshape(shapes[n]) if v.size == np.prod(shapes[n]) else v[None] for n, v in feeds.items()}
        news = [pairs[n] for n in kept]
        found = dict(
            zip([*names, *news], runtime.run([*names, *news], {**feeds, **kept, **(constants or {})}), strict=True)
        )
        kept = {n: found[pairs[n]].reshape(v.shape) for n, v in kept.items()}
        y = stream.step(x if len(x) > 1 else x[0])
        rows.append(([found[n] for n in names], y if isinstance(y, tuple) else (y,)))
        xs.append(x)
        for name, value in kept.items():
            assert relative(value, stream.get_state(name)) < CLOSE, name
    for number, name in enumerate(names):
        assert relative(np.stack([w[number] for w, _ in rows]), np.stack([y[number] for _, y in rows])) < CLOSE, name
    columns = tuple(map(np.stack, zip(*xs, strict=True)))
    whole = engine.run(columns if len(columns) > 1 else columns[0])
    whole = whole if isinstance(whole, tuple) else (whole,)
    for number, ran in enumerate(whole):
        np.testing.assert_array_equal(ran, np.stack([y[number] for _, y in rows]))


def numbers(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 0.4).astype(np.float32)


def one_step(path, nodes, shape, constants=None, opset=17, **more):
    """`nodes` from x, of `shape`, to y; and a state that counts down to nothing."""
    kept = [node("Mul", ["s", "half"], ["s_out"], name="decay")]
    inputs, outputs = [tensor("x", shape), tensor("s", [1, 2])], [tensor("y", None), tensor("s_out", [1, 2])]
    return save(path, [*nodes, *kept], inputs, outputs, {"half": np.float32(0.5), **(constants or {})}, opset, **more)


AB = ["x", "b"]
POINTWISE = {
    **{op: [node(op, ["x"], ["y"])] for op in (
        "Abs Asinh Atan Ceil Celu Cos Elu Erf Exp Floor HardSigmoid HardSwish LeakyRelu Hardmax Mish Neg Relu"
        " Round Selu Shrink Sigmoid Sign Sin Tan Softplus Softsign Tanh ThresholdedRelu Softmax LogSoftmax ReduceL1"
        " ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare LpNormalization"
        " Identity"
    ).split()},
    **{op: [node(op, AB, ["y"])] for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Sum", "Mean")},
    **{f"{op} of a constant": [node(op, ["b", "x"], ["y"])] for op in ("Add", "Sub", "Mul", "Div", "Max")},
    **{f"{op} of one number": [node(op, ["x", "two"], ["y"])] for op in "Add Sub Mul Div Max Min Pow".split()},
    "number less x": [node("Sub", ["two", "x"], ["y"])],
    "number by x": [node("Div", ["two", "x"], ["y"])],
    "Sqrt": [node("Abs", ["x"], ["a"]), node("Sqrt", ["a"], ["y"])],
    "Log": [node("Abs", ["x"], ["a"]), node("Log", ["a"], ["y"])],
    "Reciprocal": [node("Exp", ["x"], ["a"]), node("Reciprocal", ["a"], ["y"])],
    **{op: [node("Tanh", ["x"], ["a"]), node(op, ["a"], ["y"], "of_small")] for op in ("Acos", "Asin", "Atanh")},
    "Acosh": [node("Exp", ["x"], ["a"]), node("Add", ["a", "unit"], ["c"]), node("Acosh", ["c"], ["y"])],
    "Clip": [node("Clip", ["x", "low", "two"], ["y"])],
    **{op: [node(op, ["x", "b"], ["c"]), node("Cast", ["c"], ["y"], to=1)]
       for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")},
    **{f"{op} of one number a step": [node("ReduceMean", ["x"], ["m"], axes=[2]),
                                      node(op, ["m", "x"], ["c"], "compare"), node("Cast", ["c"], ["y"], to=1)]
       for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")},
    "Where": [node("Less", ["x", "b"], ["c"]), node("Where", ["c", "x", "b"], ["y"])],
    "logic": [node("Less", ["x", "b"], ["c"]), node("Greater", ["x", "low"], ["d"]), node("Not", ["c"], ["e"]),
              node("And", ["e", "d"], ["f"]), node("Xor", ["f", "c"], ["z"]), node("Cast", ["z"], ["y"], to=1)],
    "whole numbers": [node("Cast", ["x"], ["i"], "first", to=7), node("Div", ["i", "whole"], ["j"]),
                      node("Cast", ["j"], ["y"], to=1)],
    "ArgMax": [node("ArgMax", ["x"], ["i"], axis=2), node("Cast", ["i"], ["y"], to=1)],
    "BatchNormalization": [node("BatchNormalization", ["x", "p", "q", "r", "v"], ["y"])],
    "InstanceNormalization": [node("InstanceNormalization", ["x", "p", "q"], ["y"])],
    "LayerNormalization": [node("LayerNormalization", ["x", "b"], ["y"])],
    "GroupNormalization": [node("GroupNormalization", ["x", "p", "q"], ["y"], num_groups=3)],
    "Transpose": [node("Transpose", ["x"], ["y"], perm=[2, 0, 1])],
    "Slice": [node("Slice", ["x", "first", "last", "last_axis", "back"], ["y"])],
    "Split and Concat": [node("Split", ["x"], ["m", "n"], axis=2), node("Concat", ["n", "m"], ["y"], axis=2)],
    "Gather": [node("Gather", ["x", "places"], ["y"], axis=2)],
    "Tile": [node("Tile", ["x", "times"], ["y"])],
    "Expand": [node("Expand", ["x", "wide"], ["y"])],
    "Flatten": [node("Flatten", ["x"], ["y"])],
    "Pad": [node("Pad", ["x", "pads", "two"], ["y"])],
    "Pad by reflection": [node("Pad", ["x", "pads"], ["y"], mode="reflect")],
    "Pad by the edge": [node("Pad", ["x", "pads"], ["y"], mode="edge")],
    "ScatterND": [node("ScatterND", ["x", "at", "row"], ["y"])],
    "CumSum": [node("CumSum", ["x", "axis"], ["y"])],
    **{f"CumSum, {name}": [node("CumSum", ["x", "axis"], ["y"], **options)] for name, options in (
        ("exclusive", dict(exclusive=1)), ("reversed", dict(reverse=1)), ("both", dict(exclusive=1, reverse=1)))},
    **{f"DFT{case}": [node("Unsqueeze", ["x", "behind"], ["apart"]), *nodes] for case, nodes in (
        (" of one side", [node("DFT", ["apart"], ["y"], axis=2, onesided=1)]),
        (" of another axis", [node("DFT", ["apart"], ["y"], axis=1)]),
        (" of padded numbers", [node("DFT", ["apart", "seven"], ["y"], axis=2, onesided=1)]),
        (" of a part", [node("DFT", ["apart", "three"], ["y"], axis=2)]),
        (" and back", [node("DFT", ["apart"], ["f"], "there", axis=2), node("Mul", ["f", "two"], ["more"]),
                       node("DFT", ["more"], ["y"], "back", axis=2, inverse=1)]),
        *((f" of one side and back{case}", [node("DFT", ["apart", *n], ["f"], "there", axis=2, onesided=1),
                                            node("Mul", ["f", "two"], ["m"]), node("Add", ["m", "two"], ["more"]),
                                            node("DFT", ["more", *n], ["y"], "back", axis=2, onesided=1, inverse=1)])
          for case, n in (("", []), (", odd", ["seven"]), (", even", ["eight"]), (", a part", ["three"]))))},
    "STFT": [node("Reshape", ["x", "lines"], ["apart"]), node("STFT", ["apart", "hop", "", "three"], ["y"])],
    "Mod of floats": [node("Mod", ["x", "b"], ["y"], fmod=1)],
    **{f"Resize {name}": [node("Resize", ["x", "", *sizes], ["y"], **options)] for name, sizes, options in (
        ("up", ["up"], dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
        ("to a size", ["", "size"], dict(mode="nearest")),
        ("down", ["down"], dict(mode="nearest", nearest_mode="round_prefer_ceil")),
        ("linear", ["up"], dict(mode="linear")), ("linear to a size", ["", "size"], dict(mode="linear")),
        ("linear by corners", ["up"], dict(mode="linear", coordinate_transformation_mode="align_corners")),
        ("linear as torch", ["", "size"], dict(mode="linear", coordinate_transformation_mode="pytorch_half_pixel")))},
    **{f"{op} of onnxruntime": [node(op, ["x"], ["y"], domain="com.microsoft")]
       for op in ("FastGelu", "Gelu", "QuickGelu")},
    "QuickGelu of a factor": [node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=0.7)],
    **{f"{op} and bias": [node(op, ["x", "b"], ["y"], domain="com.microsoft")] for op in ("BiasGelu", "FastGelu")},
    "SimplifiedLayerNormalization": [node("SimplifiedLayerNormalization", ["x", "b"], ["y"], epsilon=1e-3)],
    "SkipLayerNormalization": [
        node("Neg", ["x"], ["m"]), node("Exp", ["m"], ["e"]),
        node("SkipLayerNormalization", ["x", "e", "b", "b", "b"], ["n", "", "", "total"], domain="com.microsoft"),
        node("Add", ["n", "total"], ["y"])],
    "SkipSimplifiedLayerNormalization": [
        node("Exp", ["x"], ["e"]),
        node("SkipSimplifiedLayerNormalization", ["x", "e", "b"], ["y"], domain="com.microsoft", epsilon=1e-4)],
    "FusedMatMul": [node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft", alpha=0.5, transB=1)],
    "FusedMatMul of a turned batch": [
        node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft", transBatchA=1, transB=1)],
    "FusedMatMul with a matrix": [
        node("FusedMatMul", ["x", "g4"], ["y"], domain="com.microsoft", alpha=0.5, transB=1)],
    **{f"FusedConv and {name}": [
        node("FusedConv", ["x", "k", "q"], ["y"], domain="com.microsoft", pads=[1, 1], activation=name, **options)]
       for name, options in (
           ("Relu", {}), ("Tanh", {}), ("LeakyRelu", dict(activation_params=[0.2])),
           ("Clip", dict(activation_params=[-0.2, 0.3])), ("HardSigmoid", dict(activation_params=[0.3, 0.4])))},
    "FusedConv and a sum": [
        node("FusedConv", ["x", "k", "", "x"], ["y"], domain="com.microsoft", pads=[1, 1], activation="Relu")],
    "FusedGemm": [
        node("Flatten", ["x"], ["f"]),
        node("FusedGemm", ["f", "g", "h"], ["y"], domain="com.microsoft", alpha=0.5, transB=1, activation="LeakyRelu",
             activation_alpha=0.3)],
    "RMSNormalization": [node("RMSNormalization", ["x", "b"], ["y"])],
    "MatMul": [node("MatMul", ["x", "w"], ["y"])],
    "MatMul and bias": [node("MatMul", ["x", "w"], ["m"]), node("Add", ["wide_bias", "m"], ["y"])],
    "MatMul from the left": [node("MatMul", ["u", "x"], ["y"])],
    "MatMul of two values": [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])],
    "Gemm": [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "g", "h"], ["y"], alpha=0.5, beta=2.0, transB=1)],
    "GlobalAveragePool": [node("GlobalAveragePool", ["x"], ["y"])],
}  # fmt: skip
CONSTANTS = {
    "behind": np.array([3]), "three": np.int64(3), "seven": np.int64(7), "eight": np.int64(8), "hop": np.int64(1),
    "lines": np.array([3, 4]),
    "b": numbers(4), "unit": np.float32(1), "two": np.float32(2), "low": np.float32(-0.5), "whole": np.int64(2),
    "p": numbers(3),
    "q": numbers(3, seed=1),
    "r": numbers(3, seed=2), "v": np.abs(numbers(3, seed=3)) + 0.5, "first": np.array([-1]), "last": np.array([-9]),
    "last_axis": np.array([2]), "back": np.array([-1]), "places": np.array([3, 0, -2]), "times": np.array([1, 2, 3]),
    "wide": np.array([2, 3, 4]), "pads": np.array([0, 1, 2, 0, 0, 1]), "at": np.array([[0, 1]]),
    "row": numbers(1, 4, seed=4),
    "axis": np.int64(2), "w": numbers(4, 5, seed=5), "wide_bias": numbers(5, seed=6), "u": numbers(2, 3, seed=7),
    "up": np.array([1, 1, 2.5], np.float32), "down": np.array([1, 1, 0.5], np.float32), "size": np.array([1, 3, 7]),
    "k": numbers(3, 3, 3, seed=11), "g4": numbers(5, 4, seed=10), "g": numbers(7, 12, seed=8), "h": numbers(7, seed=9),
}  # fmt: skip


@pytest.mark.parametrize("case", POINTWISE)
def test_an_operator_is_that_of_onnxruntime(case, tmp_path):
    nodes = POINTWISE[case]
    used = {n: v for n, v in CONSTANTS.items() if any(n in m.input for m in nodes)}
    opset = (
        13
        if case == "Split and Concat"
        else {"Mish": 18, "GroupNormalization": 21, "RMSNormalization": 23}.get(case, 17)
    )
    path = one_step(tmp_path / "m.onnx", nodes, [1, 3, 4], used, opset)
    engine, _ = packed(path, tmp_path)
    compare(path, engine, 12, states={"s": "s_out"})


CONVOLUTIONS = {
    "plain": ("Conv", (1, 4, 20), (6, 4, 3), {}),
    "strided": ("Conv", (1, 4, 20), (6, 4, 5), dict(strides=[3], pads=[2, 1])),
    "dilated": ("Conv", (1, 4, 20), (6, 4, 3), dict(dilations=[2], pads=[4, 0])),
    "in groups": ("Conv", (1, 12, 20), (16, 6, 3), dict(group=2)),
    "of single entries": ("Conv", (1, 24, 9), (16, 24, 1), {}),
    "strided in groups": ("Conv", (1, 12, 20), (16, 6, 5), dict(group=2, strides=[2], pads=[2, 2])),
    "depthwise": ("Conv", (1, 4, 20), (4, 1, 3), dict(group=4, pads=[1, 1])),
    "depthwise, strided": ("Conv", (1, 4, 20), (4, 1, 3), dict(group=4, strides=[2])),
    "depthwise, several of a channel": ("Conv", (1, 4, 20), (8, 1, 3), dict(group=4)),
    "depthwise of two dimensions": (
        "Conv",
        (1, 16, 5, 9),
        (16, 1, 3, 3),
        dict(group=16, dilations=[2, 1], pads=[0, 1, 0, 1]),
    ),
    "padded to the same size": ("Conv", (1, 4, 20), (6, 4, 4), dict(auto_pad="SAME_UPPER", strides=[2])),
    "of two dimensions": ("Conv", (1, 2, 5, 9), (3, 2, 2, 3), dict(strides=[1, 2], pads=[1, 1, 0, 1])),
    "transposed": ("ConvTranspose", (1, 4, 7), (4, 3, 3), dict(strides=[2], pads=[1, 1], output_padding=[1])),
    "transposed in groups": ("ConvTranspose", (1, 4, 7), (4, 3, 5), dict(strides=[2], group=2)),
    "transposed of two dimensions": (
        "ConvTranspose",
        (1, 2, 3, 5),
        (2, 3, 1, 3),
        dict(strides=[1, 2], dilations=[1, 2]),
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_within_a_step(case, tmp_path):
    op, shape, kernel, attributes = CONVOLUTIONS[case]
    outputs = kernel[0] if op == "Conv" else kernel[1] * attributes.get("group", 1)
    made = node(op, ["x", "k", "c"], ["y"], **attributes)
    constants = {"k": numbers(*kernel), "c": numbers(outputs, seed=1)}
    path = one_step(tmp_path / "m.onnx", [made], shape, constants)
    engine, _ = packed(path, tmp_path)
    compare(path, engine, 8, states={"s": "s_out"})


def test_a_convolution_is_one_product_whose_weights_are_stored_once(tmp_path):
    made = node("Conv", ["x", "k", "c"], ["y"], strides=[2], pads=[2, 2])
    constants = {"k": numbers(16, 9, 5), "c": numbers(16, seed=1)}
    path = one_step(tmp_path / "m.onnx", [made], (1, 9, 129), constants)
    cr.pack(path, tmp_path / "m.crnn", weights="float32")
    program = read((tmp_path / "m.crnn").read_bytes())
    (op,) = (op for op in program.ops if op.code in GATES)
    assert (op.code, op.n) == (Code.MATMUL, 16 * 65)
    assert program.macs_per_step() == 16 * 65 * 45
    assert program.tensors[op.tensor].shape == (16, 45)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_within_a_step(op, tmp_path):
    path = one_step(tmp_path / "m.onnx", [node(op, ["x"], ["y"], kernel_shape=[3], strides=[2])], [1, 3, 12])
    engine, _ = packed(path, tmp_path)
    compare(path, engine, 8, states={"s": "s_out"})


def test_a_pad_before_a_pool_keeps_its_number(tmp_path):
    """The optimizer of onnxruntime takes it into the pool, which pads with the least number: its issue 24737."""
    nodes = [node("Pad", ["x", "pads"], ["p"]), node("MaxPool", ["p"], ["y"], kernel_shape=[3])]
    path = one_step(tmp_path / "m.onnx", nodes, [1, 3, 12], {"pads": np.array([0, 0, 1, 0, 0, 1])})
    engine, _ = packed(path, tmp_path)
    y = engine.stream().step(np.full((3, 12), -1.0))
    assert np.array_equal(y, [[0.0, *[-1.0] * 10, 0.0]] * 3)


def written_out(path):
    """An LSTM step of products and slices, its states in one tensor."""
    nodes = [
        *written_out_step(),
        node("Gemm", ["h_", "head.weight"], ["y"], transB=1, name="head"),
    ]
    constants = {"weight": numbers(24, 11), "bias": numbers(24, seed=1), "head.weight": numbers(3, 6, seed=2)}
    inputs = [tensor("x", ["batch", 5]), tensor("state", [2, "batch", 6])]
    inputs[1] = tensor("state", [2, 6])
    return save(path, nodes, inputs, [tensor("y", ["batch", 3]), tensor("stateN", [2, 6])], constants, opset=13)


def test_a_cell_written_out_keeps_its_state(tmp_path):
    path = written_out(tmp_path / "cell.onnx")
    engine, report = packed(path, tmp_path)
    assert [(i.name, i.shape) for i in engine.inputs] == [("x", (5,))]
    assert [(o.name, o.shape) for o in engine.outputs] == [("y", (3,))]
    assert "head" in report.types
    compare(path, engine, 300, states={"state": "stateN"})


def test_states_that_names_do_not_show_are_given(tmp_path):
    nodes = [node("Add", ["a", "b"], ["p"]), node("Tanh", ["p"], ["q"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor("a", [1, 3]), tensor("b", [1, 3])], [tensor("q", [1, 3])])
    with pytest.raises(cr.UnsupportedModelError, match="no axis of its inputs"):
        packed(path, tmp_path)
    engine, _ = packed(path, tmp_path, states={"b": "q"})
    compare(path, engine, states={"b": "q"})
    with pytest.raises(ValueError, match=r"expected an output of the file.*got 'z'"):
        packed(path, tmp_path, states={"b": "z"})
    with pytest.raises(ValueError, match="expected an input of the file"):
        packed(path, tmp_path, states={"z": "q"})


def test_what_is_given_once_a_sequence_is_a_state_without_a_new_value(tmp_path):
    nodes = [node("Mul", ["x", "context"], ["m"]), node("Add", ["m", "h"], ["h_out"]), node("Neg", ["h_out"], ["y"])]
    inputs = [tensor("x", [1, 3]), tensor("context", [1, 3]), tensor("h", [1, 3])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", [1, 3]), tensor("h_out", [1, 3])])
    engine, _ = packed(path, tmp_path, states={"h": "h_out", "context": None})
    stream, context = engine.stream(), np.array([1.0, 2.0, 3.0])
    stream.reset(context=context)
    assert [i.name for i in engine.inputs] == ["x"]
    np.testing.assert_allclose(stream.run(np.ones((4, 3)))[-1], -4 * context)


def test_branches_of_constants_are_taken_and_others_refused(tmp_path):
    def branch(name, op, inner=None):
        made = [node(op, ["x"], [f"{name}_y"])] if inner is None else [inner]
        return onnx.helper.make_graph(made, name, [], [tensor(f"{name}_y", None)])

    inner = node(
        "If", ["is_fast"], ["then_y"], name="inner", then_branch=branch("a", "Exp"), else_branch=branch("b", "Neg")
    )
    nodes = [
        node("Equal", ["sr", "rate"], ["is_rate"]),
        node("Less", ["sr", "fast"], ["is_fast"]),
        node(
            "If",
            ["is_rate"],
            ["y"],
            name="outer",
            then_branch=branch("then", "", inner),
            else_branch=branch("e", "Abs"),
        ),
        node("Identity", ["s"], ["s_out"]),
    ]
    inputs = [tensor("x", [1, 3]), tensor("s", [1, 3]), tensor("sr", [], onnx.TensorProto.INT64)]
    constants = {"rate": np.int64(16000), "fast": np.int64(20000)}
    outputs = [tensor("y", [1, 3]), tensor("s_out", [1, 3])]
    path = save(tmp_path / "m.onnx", nodes, inputs, outputs, constants)
    for rate, expected in ((16000, np.exp), (8000, np.abs)):
        engine, _ = packed(path, tmp_path, constants={"sr": rate})
        x = np.array([[-1.0, 0.5, 2.0]], np.float32)
        np.testing.assert_allclose(engine.run(x), expected(x), rtol=1e-5)
    with pytest.raises(cr.UnsupportedModelError, match="outer: If takes one of two branches by the data"):
        packed(path, tmp_path)
    with pytest.raises(ValueError, match="constants: expected an input of the file"):
        packed(path, tmp_path, constants={"rate": 1})


def test_an_operator_that_is_not_known_is_named(tmp_path):
    path = one_step(tmp_path / "m.onnx", [node("Det", ["x"], ["y"], name="volume")], [1, 3, 3])
    with pytest.raises(cr.UnsupportedModelError, match="volume: Det is not taken"):
        packed(path, tmp_path)
    path = one_step(tmp_path / "n.onnx", [node("NoSuch", ["x"], ["y"], name="odd")], [1, 3])
    with pytest.raises(cr.UnsupportedModelError, match="odd: NoSuch is not taken: it is no operator"):
        packed(path, tmp_path)
    assert not (tmp_path / "model.crnn").exists()


def test_damaged_files_are_refused(tmp_path):
    good = written_out(tmp_path / "cell.onnx").read_bytes()
    rng, taken = np.random.default_rng(0), 0
    for number in range(60):
        data = bytearray(good)
        if number % 3 == 0:
            data = data[: rng.integers(len(data))]
        for _ in range(1 + number % 5):
            if data:
                data[rng.integers(min(len(data), 3000 if number % 2 else 10**9))] = rng.integers(256)
        (tmp_path / "bad.onnx").write_bytes(bytes(data))
        try:
            packed(tmp_path / "bad.onnx", tmp_path)
            taken += 1
        except ValueError:  # all errors about models are
            continue
    assert taken < 60


def test_a_call_of_many_steps_with_numbered_caches(tmp_path):
    """An FSMN: its filters look back at caches; the file takes any number of steps a call."""
    nodes, constants, value = [], {}, "x"
    for n in range(2):
        constants[f"filter{n}"] = numbers(4, 1, 3, seed=n)
        constants |= {"from": np.array([-2]), "to": np.array([1 << 40]), "axis": np.array([2])}
        nodes += [
            node("Transpose", [value], [f"turned{n}"], name=f"turned{n}", perm=[0, 2, 1]),
            node("Concat", [f"in_cache{n}", f"turned{n}"], [f"longer{n}"], name=f"longer{n}", axis=2),
            node("Slice", [f"longer{n}", "from", "to", "axis"], [f"out_cache{n}"], name=f"kept{n}"),
            node("Conv", [f"longer{n}", f"filter{n}"], [f"filtered{n}"], name=f"filter{n}", group=4),
            node("Transpose", [f"filtered{n}"], [f"back{n}"], name=f"back{n}", perm=[0, 2, 1]),
            node("Tanh", [f"back{n}"], [f"y{n}"], name=f"tanh{n}"),
        ]
        value = f"y{n}"
    inputs = [tensor("x", [1, "frames", 4]), *(tensor(f"in_cache{n}", [1, 4, 2]) for n in range(2))]
    outputs = [tensor("y1", [1, "frames", 4]), *(tensor(f"out_cache{n}", [1, 4, "kept"]) for n in range(2))]
    path = save(tmp_path / "m.onnx", nodes, inputs, outputs, constants)
    with pytest.warns(UserWarning, match="frames is 1: the file takes any number of steps a call"):
        engine, _ = packed(path, tmp_path)
    assert [s.name for s in engine.states] == ["in_cache0", "in_cache1"]
    x = numbers(30, 4, seed=7)
    zeros = {f"in_cache{n}": np.zeros((1, 4, 2), np.float32) for n in range(2)}
    assert relative(session(path).run(["y1"], {"x": x[None], **zeros})[0], stream_equals_run(engine, x)[0]) < 1e-5
    three, _ = packed(path, tmp_path, dims={"frames": 3})
    assert relative(three.run(x.reshape(10, 3, 4)).reshape(30, 4), engine.run(x)) < 1e-5


def test_caches_of_frames_beside_a_layer_over_time_go_on_from_step_to_step(tmp_path):
    nodes = [
        node("Concat", ["cache", "x"], ["longer"], "longer", axis=2),
        node("Slice", ["longer", "from", "to", "axis"], ["cache_out"], "kept"),
        node("Conv", ["longer", "filter"], ["filtered"], "filter"),
        node("Transpose", ["filtered"], ["sequence"], "turned", perm=[2, 0, 1]),
        node("GRU", ["sequence", "W", "R", "", "", "h"], ["all", "h_out"], "gru", hidden_size=5, linear_before_reset=1),
        node("Squeeze", ["all", "one"], ["y"], "squeeze"),
    ]
    constants = {"from": np.array([-2]), "to": np.array([1 << 40]), "axis": np.array([2]), "one": np.array([1])}
    constants |= {"filter": numbers(6, 4, 3), "W": numbers(1, 15, 6, seed=1), "R": numbers(1, 15, 5, seed=2)}
    inputs = [tensor("x", [1, 4, "frames"]), tensor("cache", [1, 4, 2]), tensor("h", [1, 1, 5])]
    outputs = [tensor("y", ["frames", 1, 5]), tensor("cache_out", [1, 4, "kept"]), tensor("h_out", [1, 1, 5])]
    path = save(tmp_path / "m.onnx", nodes, inputs, outputs, constants)
    with pytest.warns(UserWarning, match="frames is 1"):
        engine, _ = packed(path, tmp_path)
    assert [s.name for s in engine.states] == ["cache", "h"]
    x, start = numbers(30, 4, seed=7), {"cache": np.zeros((1, 4, 2), np.float32), "h": np.zeros((1, 1, 5), np.float32)}
    wanted = session(path).run(["y"], {"x": np.ascontiguousarray(x.T[None]), **start})[0]
    assert relative(wanted.reshape(30, 5), stream_equals_run(engine, x[:, :, None])[0].reshape(30, 5)) < 1e-5


def looped(path, last="three", listed=False):
    """A step that sharpens its state in rounds until some number of them, and gives each of them."""
    grown = [node("SequenceInsert", ["rows", "next"], ["more"])] if listed else [node("Identity", ["next"], ["row"])]
    body = onnx.helper.make_graph(
        [
            node("Less", ["i", last], ["on"]),
            node("Cast", ["i"], ["number"], to=1),
            node("Add", ["s", "number"], ["sum"]),
            node("Gemm", ["sum", "weight", "bias"], ["gemm"]),
            node("Tanh", ["gemm"], ["next"]),
            *grown,
        ],
        "body",
        [tensor("i", [], onnx.TensorProto.INT64), tensor("going", [], onnx.TensorProto.BOOL), tensor("s", [1, 4])]
        + [onnx.helper.make_tensor_sequence_value_info("rows", 1, None)] * listed,
        [tensor("on", [], onnx.TensorProto.BOOL), tensor("next", [1, 4])]
        + ([onnx.helper.make_tensor_sequence_value_info("more", 1, None)] if listed else [tensor("row", [1, 4])]),
    )
    nodes = [
        node("Add", ["x", "h"], ["both"]),
        *([node("SequenceEmpty", [], ["none"])] if listed else []),
        node("Loop", ["", "yes", "both", *(["none"] if listed else [])], ["hn", "all"], "loop", body=body),
        *([node("ConcatFromSequence", ["all"], ["y"], axis=1, new_axis=1)] if listed else []),
        *([] if listed else [node("Transpose", ["all"], ["y"], perm=[1, 0, 2])]),
    ]
    rng = np.random.default_rng(0)
    constants = {"weight": rng.normal(size=(4, 4)).astype(np.float32), "bias": rng.normal(size=4).astype(np.float32)}
    constants |= {"yes": np.array(True), "three": np.array(3)}
    inputs = [tensor(n, [1, 4]) for n in ("x", "h")]
    return save(path, nodes, inputs, [tensor("y", None), tensor("hn", [1, 4])], constants)


@pytest.mark.parametrize("listed", [False, True])
def test_a_loop_within_a_step_is_unrolled(listed, tmp_path):
    path = looped(tmp_path / "m.onnx", listed=listed)
    engine, _ = packed(path, tmp_path)
    assert engine.outputs[0].shape == (4, 4)
    compare(path, engine, states={"h": "hn"})


def test_a_loop_that_runs_for_too_long_is_refused(tmp_path):
    path = looped(tmp_path / "m.onnx", last="many")
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(10**9), "many"))
    onnx.save(model, path)
    with pytest.raises(
        cr.UnsupportedModelError, match=r"loop: Loop is not taken: .*more than 512 rounds.*\(rung 3, loops"
    ):
        packed(path, tmp_path)


def test_a_sequence_of_tensors_is_no_output(tmp_path):
    path = looped(tmp_path / "m.onnx", listed=True)
    with pytest.raises(cr.UnsupportedModelError, match=r"output 'all' is a sequence of tensors.*\(rung 3, loops"):
        packed(path, tmp_path, outputs=["all"])
