"""Loops of ONNX files over the steps of a sequence run step by step."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from onnx_models import node, packed, relative, save, session, stream_equals_run, tensor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*does not run elsewhere")
INPUTS, UNITS, CLOSE = 5, 6, 1e-5
INT64, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.BOOL
SEQUENCE = onnx.helper.make_tensor_sequence_value_info


def numbers(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 0.4).astype(np.float32)


def loop(path, read, listed=False, counted=True, before=()):
    """h' = tanh(x_t W + h R) for x_t that `read` makes of x, (1, T, 5), and of the number of the round i."""
    body = [
        *read,
        node("MatMul", ["x_t", "W"], ["a"]),
        node("Gemm", ["h", "R"], ["b"]),
        node("Add", ["a", "b"], ["sums"]),
        node("Tanh", ["sums"], ["h_"]),
        node("SequenceInsert", ["rows", "h_"], ["rows_"]) if listed else node("Identity", ["h_"], ["y_t"]),
        node("Identity", ["yes"], ["on_"], "goes_on"),
    ]
    rest = [node("Add", ["k", "one"], ["k_"], "next"), node("Less", ["k_", "T"], ["on_"])] if not counted else []
    given = [tensor("i", [], INT64), tensor("on", [], BOOL), tensor("h", [1, UNITS])]
    results = [tensor("on_", [], BOOL), tensor("h_", [1, UNITS])]
    given += [tensor("k", [], INT64)] * (not counted) + [SEQUENCE("rows", 1, None)] * listed
    results += [tensor("k_", [], INT64)] * (not counted)
    results += [SEQUENCE("rows_", 1, None)] if listed else [tensor("y_t", [1, UNITS])]
    graph = onnx.helper.make_graph([*body[: len(body) - (not counted)], *rest], "body", given, results)
    starts = ["h0", *["zero"] * (not counted), *["none"] * listed]
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["T"], "steps"),
        *before,
        *([node("SequenceEmpty", [], ["none"])] if listed else []),
        node("Loop", ["T" if counted else "", "yes", *starts], ["last", *["end"] * (not counted), "all"], body=graph),
        node("ConcatFromSequence", ["all"], ["y"], axis=1, new_axis=1)
        if listed
        else node("Squeeze", ["all", "axis"], ["y"]),
    ]
    constants = {"W": numbers(INPUTS, UNITS), "R": numbers(UNITS, UNITS, seed=1), "h0": numbers(1, UNITS, seed=2)}
    constants |= {
        "constant": numbers(1, INPUTS, seed=3),
        "three": np.array(3),
        "one": np.array(1),
        "zero": np.array(0),
        "yes": np.array(True),
        "axis": np.array([1]),
        "axis0": np.array([0]),
    }
    return save(path, nodes, [tensor("x", [1, "frames", INPUTS])], [tensor("y", None), tensor("last", None)], constants)


AT = [node("Gather", ["x", "i"], ["x_t"], axis=1)]
SPLIT = [node("SplitToSequence", ["x"], ["steps_of_x"], axis=1, keepdims=0)]
BACK = [
    node("Sub", ["T", "one"], ["most"]),
    node("Sub", ["most", "i"], ["place"], "from_the_end"),
    node("Gather", ["x", "place"], ["x_t"], axis=1),
]
CASES = {
    "an entry of an axis": dict(read=AT),
    "listed": dict(read=AT, listed=True),
    "a part of one step": dict(
        read=[
            node("Unsqueeze", ["i", "axis0"], ["from"]),
            node("Add", ["from", "one"], ["to"], "end"),
            node("Slice", ["x", "from", "to", "axis"], ["part"]),
            node("Squeeze", ["part", "axis"], ["x_t"], "row"),
        ]
    ),
    "split": dict(read=[node("SequenceAt", ["steps_of_x", "i"], ["x_t"])], before=SPLIT, listed=True),
    "from the end on": dict(read=BACK),
    "until a condition": dict(read=[node("Gather", ["x", "k"], ["x_t"], axis=1)], counted=False),
    "with what all steps read": dict(
        read=[node("Gather", ["x", "i"], ["own"], axis=1), node("Sub", ["own", "mean"], ["x_t"])],
        before=[node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_loop_over_the_steps_is_a_layer(case, tmp_path):
    path = loop(tmp_path / "m.onnx", **CASES[case])
    engine, _ = packed(path, tmp_path)
    assert engine.offline == (case in ("from the end on", "with what all steps read"))
    for steps in (1, 2, 200):
        x = numbers(steps, INPUTS, seed=7)
        y, last = session(path).run(["y", "last"], {"x": x[None]})
        for a, b in zip((y, last), stream_equals_run(engine, x), strict=True):
            assert relative(a.ravel(), b.ravel()) < CLOSE


REFUSED = {
    "Add within it reads the number of the round": [
        node("Gather", ["x", "i"], ["own"], axis=1),
        node("Cast", ["i"], ["number"], to=1),
        node("Add", ["own", "number"], ["x_t"]),
    ],
    "Gather reads entries": [node("Mod", ["i", "three"], ["place"]), node("Gather", ["x", "place"], ["x_t"], axis=1)],
}


@pytest.mark.parametrize("why", REFUSED)
def test_other_loops_are_refused(why, tmp_path):
    path = loop(tmp_path / "m.onnx", REFUSED[why])
    with pytest.raises(cr.UnsupportedModelError, match=rf"^loop: Loop .*{why}.*\(rung 3"):
        packed(path, tmp_path)
