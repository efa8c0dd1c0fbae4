"""A refusal names node, operator and rung in one sentence, and cuts around the node whose parts are taken."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from compactrnn.onnx_import.describe import describe  # noqa: E402
from compactrnn.onnx_import.refusals import RUNGS  # noqa: E402
from onnx_models import node, packed, save, tensor  # noqa: E402

UNITS = 4
INT64, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def numbers(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 0.4).astype(np.float32)


def branch(name, op):
    return onnx.helper.make_graph([node(op, ["u"], [name])], name, [], [tensor(name, None)])


def loop():
    """Of as many steps as there are, each of which reads one of the sequence and its number."""
    body = onnx.helper.make_graph(
        [
            node("Identity", ["on"], ["going"]),
            node("Gather", ["u", "i"], ["u_t"]),
            node("Cast", ["i"], ["number"], to=1),
            node("Sum", ["s", "u_t", "number"], ["s_out"]),
            node("Tanh", ["s_out"], ["y_t"]),
        ],
        "body",
        [tensor("i", [], INT64), tensor("on", [], BOOL), tensor("s", [1, UNITS])],
        [tensor("going", [], BOOL), tensor("s_out", [1, UNITS]), tensor("y_t", [1, UNITS])],
    )
    return [
        node("Shape", ["u"], ["sizes"], end=1),
        node("Squeeze", ["sizes"], ["count"]),
        node("Loop", ["count", "", "row"], ["last", "v"], "odd", body=body),
    ]


# Nodes from u to v, both (T, 1, 4) between two GRUs, by the rung that a refusal names; the one called odd is refused.
SEQUENCES = {
    "no such function": (0, [node("LRN", ["u"], ["v"], "odd", size=3)]),
    "a branch by data": (
        1,
        [
            node("ReduceMax", ["u"], ["most"], keepdims=0),
            node("Greater", ["most", "zero"], ["loud"]),
            node("If", ["loud"], ["v"], "odd", then_branch=branch("a", "Tanh"), else_branch=branch("b", "Neg")),
        ],
    ),
    "a loop": (3, loop()),
    "places by data": (
        4,
        [
            node("Greater", ["u", "zero"], ["loud"]),
            node("NonZero", ["loud"], ["places"], "odd"),
            node("Cast", ["places"], ["floats"], to=1),
            node("ReduceMax", ["floats"], ["most"], keepdims=0),
            node("Add", ["u", "most"], ["v"]),
        ],
    ),
    "scores as they are": (
        5,
        [
            node("Squeeze", ["u", "one"], ["rows"]),
            node("Transpose", ["rows"], ["columns"], perm=[1, 0]),
            node("MatMul", ["rows", "columns"], ["scores"]),
            node("Tanh", ["scores"], ["bent"], "odd"),
            node("MatMul", ["bent", "rows"], ["mixed"]),
            node("Unsqueeze", ["mixed", "one"], ["v"]),
        ],
    ),
    "steps between those that there are": (
        6,
        [
            node("Transpose", ["u"], ["channels"], "turned", perm=[1, 2, 0]),
            node("Resize", ["channels", "", "twice"], ["longer"], "odd", mode="linear"),
            node("Slice", ["longer", "start", "end", "last_axis", "two"], ["fewer"]),
            node("Transpose", ["fewer"], ["v"], "back", perm=[2, 0, 1]),
        ],
    ),
}  # fmt: skip


def sequence(path, nodes):
    weights = {"zero": np.float32(0), "one": np.array([1]), "twice": np.array([1, 1, 2], np.float32)}
    weights |= {"start": np.array([0]), "end": np.array([10**9]), "last_axis": np.array([2]), "two": np.array([2])}
    weights |= {"row": numbers(1, UNITS), "kernel": numbers(UNITS, UNITS, 3)}
    layers = []
    for number, (x, y) in enumerate((("x", "u"), ("v", "y"))):
        weights |= {f"W{y}": numbers(1, 3 * UNITS, UNITS, seed=number), f"R{y}": numbers(1, 3 * UNITS, UNITS, seed=9)}
        layers.append([
            node("GRU", [x, f"W{y}", f"R{y}"], [f"{y}_all"], f"gru_{y}", hidden_size=UNITS, linear_before_reset=1),
            node("Squeeze", [f"{y}_all", "one"], [y], f"squeeze_{y}"),
        ])  # fmt: skip
    return save(path, [*layers[0], *nodes, *layers[1]], [tensor("x", ["T", 1, UNITS])], [tensor("y", None)], weights)


def step(path, odd):
    """One step: u from x and a cache, v by `odd`, y from v and a second cache."""
    nodes = [node("Add", ["x", "a"], ["u"]), node("Tanh", ["u"], ["a_out"]), *odd, node("Add", ["v", "b"], ["b_out"])]
    nodes.append(node("Tanh", ["b_out"], ["y"]))
    inputs, outputs = [tensor(n, [1, 4]) for n in ("x", "a", "b")], [tensor(n, [1, 4]) for n in ("y", "a_out", "b_out")]
    return save(path, nodes, inputs, outputs, {"one": np.array([1]), "kernel": numbers(1, 1, 3)})


STEPS = {
    "no such function": (0, [node("LRN", ["u"], ["v"], "odd", size=3)]),
    "convolution that depends on data": (1, [
        node("Unsqueeze", ["u", "one"], ["rows"]),
        node("Conv", ["kernel", "rows"], ["less"], "odd", kernel_shape=[4], pads=[2, 2]),
        node("Squeeze", ["less", "one"], ["v"]),
    ]),
    "a slice that depends on data": (2, [
        node("Cast", ["u"], ["whole"], to=7),
        node("ArgMax", ["u"], ["place"], axis=1),
        node("Cast", ["place"], ["at"], to=7),
        node("Gather", ["u", "at"], ["v"], "odd", axis=1),
    ]),
}  # fmt: skip


def cuts(text):
    found = {name: ast.literal_eval(names) for name, names in re.findall(r"(inputs|outputs)=(\[.*?\])", text)}
    return [{name: names} for name, names in found.items()]


CASES = {
    **{(sequence, name): case for name, case in SEQUENCES.items()},
    **{(step, name): c for name, c in STEPS.items()},
}


@pytest.mark.parametrize(("form", "name"), CASES, ids=[f"{form.__name__}, {name}" for form, name in CASES])
def test_a_refusal_names_the_rung_and_cuts_whose_parts_are_taken(form, name, tmp_path):
    number, nodes = CASES[form, name]
    path = form(tmp_path / "m.onnx", nodes)
    with pytest.raises(cr.UnsupportedModelError) as refused:
        packed(path, tmp_path)
    text = str(refused.value)
    odd = next(n for n in nodes if n.name == "odd")
    assert text.startswith(f"odd: {odd.op_type}") and f"(rung {number}, {RUNGS[number]})" in text
    assert "within the importer" not in text and "\n" not in text
    assert describe(path)["in the way"] == text
    assert cuts(text), text
    for cut in cuts(text):
        _, report = packed(path, tmp_path, **cut)
        assert report.parity < 1e-4 and not any(c.skipped for c in report.checks)


def layer(path, more, inputs=(), layer="GRU", steps="T", constants=None):
    """A GRU over x, (T, 1, 3), to u, (T, 1, 4), and `more` nodes to y."""
    nodes = [
        node(layer, ["x", "W", "R"], ["all"], hidden_size=UNITS, linear_before_reset=1),
        node("Squeeze", ["all", "one"], ["u"]),
    ]
    weights = {"W": numbers(1, 3 * UNITS, 3, seed=1), "R": numbers(1, 3 * UNITS, UNITS, seed=2), "one": np.array([1])}
    ports = [tensor("x", [steps, 1, 3]), *inputs]
    return save(path, [*nodes, *more], ports, [tensor("y", None)], weights | (constants or {}))


def memory(path):
    nodes = [node("MatMul", ["u", "memory"], ["y"])]
    return layer(path, nodes, [tensor("memory", [1, UNITS, 5])])


def flags(path):
    nodes = [node("Cast", ["flag"], ["f"], to=1), node("Mul", ["u", "f"], ["y"])]
    return layer(path, nodes, [tensor("flag", [1, 1], onnx.TensorProto.INT64)])


def no_layer(path):
    nodes = [node("Tanh", ["x"], ["y"]), node("Add", ["x", "kept"], ["more"])]
    return save(path, nodes, [tensor(n, [1, 3]) for n in ("x", "kept")], [tensor(n, [1, 3]) for n in ("y", "more")])


def layer_of_one_step(path):
    nodes = [
        node("Unsqueeze", ["x", "i0"], ["row"]),
        node("LSTM", ["row", "W", "R", "", "", "a", "b"], ["", "y", "z"], hidden_size=UNITS),
    ]
    weights = {"W": numbers(1, 4 * UNITS, 3, seed=1), "R": numbers(1, 4 * UNITS, UNITS, seed=2), "i0": np.array([0])}
    states = [[tensor(n, [1, 1, UNITS]) for n in names] for names in ("ab", "yz")]
    return save(path, nodes, [tensor("x", [1, 3]), *states[0]], states[1], weights)


FILES = {memory: 5, flags: 4, no_layer: 2, layer_of_one_step: 0}


@pytest.mark.parametrize("make", FILES)
def test_a_refusal_of_a_whole_file_names_a_rung_too(make, tmp_path):
    number, path = FILES[make], make(tmp_path / "m.onnx")
    with pytest.raises(cr.UnsupportedModelError) as refused:
        packed(path, tmp_path)
    text = str(refused.value)
    assert text.endswith(f"(rung {number}, {RUNGS[number]})") and text.count("rung") == 1 and "\n" not in text, text
    assert describe(path)["in the way"] == text


def test_tokens_of_no_table_name_a_rung(tmp_path):
    path = layer(tmp_path / "m.onnx", [node("Tanh", ["u"], ["y"])])
    with pytest.raises(cr.UnsupportedModelError, match=r"tokens: 'x' is looked up in no table.*\(rung 4, conditions"):
        packed(path, tmp_path, tokens=["x"])


def test_the_rungs_are_those_of_the_documentation():
    page = (Path(__file__).parents[1] / "docs/onnx.md").read_text()
    assert re.findall(r"^\| (\d) \| (.*?) \|", page, re.M) == [(str(n), words) for n, words in enumerate(RUNGS)]
