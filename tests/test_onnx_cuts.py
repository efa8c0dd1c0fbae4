"""Parts of ONNX files, where a refusal says that they can be cut, and token ids that files take as floats."""

import ast
import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from compactrnn.onnx_import.describe import describe  # noqa: E402
from onnx_models import node, packed, relative, save, session, stream_equals_run, tensor  # noqa: E402

INPUTS, UNITS, STEPS, CLOSE = 5, 6, 80, 1e-4


def numbers(*shape, seed=0, scale=0.4):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def gru(x, name, number, inputs=INPUTS, state=None):
    """Nodes and weights of a GRU over (T, 1, inputs) without the axis of directions; its state starts as `state`."""
    given = [x, f"{name}.W", f"{name}.R", "", "", state or ""]
    nodes = [
        node("GRU", given, [f"{name}_all", ""], name, hidden_size=UNITS, linear_before_reset=1),
        node("Squeeze", [f"{name}_all", "one"], [f"{name}_y"], f"{name}_squeeze"),
    ]
    weights = {f"{name}.W": numbers(1, 3 * UNITS, inputs, seed=number)}
    return nodes, weights | {f"{name}.R": numbers(1, 3 * UNITS, UNITS, seed=number + 1), "one": np.array([1])}


def split_by_triangle(path, inner="Trilu"):
    """Two GRUs and an operator that is not taken between them; the second starts from zeros sized like the input."""
    before, weights = gru("x", "first", 1)
    after, more = gru("upper", "second", 3, UNITS, "zeros")
    nodes = [
        *before,
        node(
            inner,
            ["first_y", "two"] if inner == "Trilu" else ["first_y"],
            ["upper"],
            "triangle",
            **({"upper": 1} if inner == "Trilu" else {}),
        ),
        node("Shape", ["x"], ["sizes"], start=1, end=2),
        node("Concat", ["one", "sizes", "units"], ["of_state"], "of_state", axis=0),
        node("ConstantOfShape", ["of_state"], ["zeros"]),
        *after,
        node("Add", ["second_y", "first_y"], ["y"], "both"),
    ]
    weights |= more | {"units": np.array([UNITS]), "two": np.array(2)}
    return save(path, nodes, [tensor("x", ["T", 1, INPUTS])], [tensor("y", None)], weights)


def cuts(error):
    """The arguments that a refusal names."""
    return [{name: ast.literal_eval(found)} for name, found in re.findall(r"(inputs|outputs)=(\[.*?\])", str(error))]


def test_a_refusal_names_the_cuts_around_the_node_and_both_parts_are_taken(tmp_path):
    path = split_by_triangle(tmp_path / "m.onnx")
    with pytest.raises(cr.UnsupportedModelError) as refused:
        packed(path, tmp_path)
    assert str(refused.value).startswith("triangle: Trilu is not taken")
    before, after = cuts(refused.value)
    assert (before, after) == ({"outputs": ["first_y"]}, {"inputs": ["upper"]})
    front, report = packed(path, tmp_path, **before)
    assert [o.name for o in front.outputs] == ["first_y"] and report.parity < CLOSE
    assert {c.what for c in report.checks} == {"random numbers", "zeros"}
    x = numbers(STEPS, INPUTS, scale=1)
    (middle,) = stream_equals_run(front, x)
    upper = np.triu(middle[:, None], 2)[:, 0]
    back, report = packed(path, tmp_path, **after)
    assert report.parity < CLOSE and not any(c.skipped for c in report.checks)
    assert [i.name for i in back.inputs] == ["upper", "x"]  # the sum reads the first layer, which reads x
    (y,) = stream_equals_run(back, (upper, x))
    assert relative(session(path).run(None, {"x": x[:, None]})[0], y) < CLOSE


def test_an_input_that_is_read_for_its_shape_alone_is_none(tmp_path):
    path = split_by_triangle(tmp_path / "m.onnx")
    engine, report = packed(path, tmp_path, inputs=["upper"], outputs=["second_y"])
    assert [i.name for i in engine.inputs] == ["upper"] and not any(c.skipped for c in report.checks)
    upper = numbers(STEPS, UNITS, scale=1)
    part = tmp_path / "part.onnx"
    nodes, weights = gru("upper", "second", 3, UNITS)
    save(part, nodes, [tensor("upper", ["T", 1, UNITS])], [tensor("second_y", None)], weights)
    assert relative(session(part).run(None, {"upper": upper[:, None]})[0], stream_equals_run(engine, upper)[0]) < CLOSE


def test_a_shape_that_the_file_does_not_tell_is_given(tmp_path):
    path = split_by_triangle(tmp_path / "m.onnx", inner="NoSuch")
    with pytest.raises(cr.UnsupportedModelError, match=r"triangle: NoSuch is not taken.*inputs=\['upper'\]"):
        packed(path, tmp_path)
    with pytest.raises(ValueError, match=r"shape of 'upper': expected the sizes of its axes.*inputs=\{'upper': \["):
        packed(path, tmp_path, inputs=["upper"], outputs=["second_y"])
    with pytest.raises(ValueError, match=r"inputs\['upper'\]: expected sizes of axes"):
        packed(path, tmp_path, inputs={"upper": [-1, 1, UNITS]}, outputs=["second_y"])
    engine, report = packed(path, tmp_path, inputs={"upper": ["T", 1, UNITS]}, outputs=["second_y"])
    assert [i.shape for i in engine.inputs] == [(UNITS,)] and not any(c.skipped for c in report.checks)


def test_states_that_a_part_does_not_read_are_left_out(tmp_path):
    """One step: x -> a cache -> NonZero -> a second cache -> y."""
    nodes = [
        node("Add", ["x", "a"], ["a_out"], "front"),
        node("Add", ["a_out", "b"], ["b_out"], "back"),
        node("Tanh", ["b_out"], ["y"]),
    ]
    inputs = [tensor(n, [1, 3]) for n in ("x", "a", "b")]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor(n, [1, 3]) for n in ("y", "a_out", "b_out")])
    whole, front, back = (
        packed(path, tmp_path, **cut)[0] for cut in ({}, {"outputs": ["a_out"]}, {"inputs": ["a_out"]})
    )
    assert [[s.name for s in e.states] for e in (whole, front, back)] == [["a", "b"], ["a"], ["b"]]
    assert [[i.name for i in e.inputs] for e in (whole, front, back)] == [["x"], ["x"], ["a_out"]]
    x = numbers(STEPS, 3, scale=1)
    np.testing.assert_array_equal(whole.run(x), back.run(front.run(x)))


def test_a_branch_that_depends_on_data_can_be_cut_off(tmp_path):
    def branch(name, op):
        return onnx.helper.make_graph([node(op, ["first_y"], [name])], name, [], [tensor(name, None)])

    before, weights = gru("x", "first", 1)
    after, more = gru("chosen", "second", 3, UNITS)
    nodes = [
        *before,
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Greater", ["most", "zero"], ["loud"]),
        node("If", ["loud"], ["chosen"], "which", then_branch=branch("a", "Tanh"), else_branch=branch("b", "Neg")),
        *after,
    ]
    path = tmp_path / "m.onnx"
    save(
        path,
        nodes,
        [tensor("x", ["T", 1, INPUTS])],
        [tensor("second_y", None)],
        weights | more | {"zero": np.float32(0)},
    )
    with pytest.raises(cr.UnsupportedModelError, match=r"which: If takes one of two branches") as refused:
        packed(path, tmp_path)
    assert cuts(refused.value) == [{"outputs": ["loud", "first_y"]}, {"inputs": ["chosen"]}]
    engine, _ = packed(path, tmp_path, inputs={"chosen": ["T", 1, UNITS]})
    assert [i.name for i in engine.inputs] == ["chosen"]


def test_info_says_where_a_file_can_be_cut(tmp_path):
    found = describe(split_by_triangle(tmp_path / "m.onnx"))
    assert "triangle: Trilu" in found["in the way"] and "outputs=['first_y']" in found["in the way"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"inputs": ["nothing"]},
            "inputs: expected inputs of the file, or values that its nodes compute, got 'nothing'",
        ),
        ({"inputs": "upper"}, r"inputs: expected a list of names, such as \['upper'\]"),
        ({"outputs": ["nothing"]}, "outputs: expected outputs of the file, or values that its nodes compute"),
        ({"outputs": "y"}, r"outputs: expected a list of names, such as \['y'\]"),
        ({"outputs": []}, "outputs: expected at least one name"),
        ({"outputs": ["zeros"]}, "outputs: expected values that depend on inputs, got zeros"),
        ({"tokens": "x"}, r"tokens: expected a list of names, such as \['x'\]"),
        ({"tokens": ["z"]}, "tokens: expected an input that is no state and no constant"),
        ({"tokens": ["x"], "outputs": ["first_y"]}, "tokens: 'x' is looked up in no table"),
    ],
)
def test_names_that_mean_nothing_are_refused(arguments, words, tmp_path):
    path = split_by_triangle(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=words):
        packed(path, tmp_path, **arguments)
    assert not (tmp_path / "model.crnn").exists()


def test_the_command_line_cuts_too(tmp_path, monkeypatch, capsys):
    from compactrnn.__main__ import main

    path, out = split_by_triangle(tmp_path / "m.onnx"), tmp_path / "part.crnn"
    arguments = ["pack", str(path), str(out), "--input", "upper=T,1,6", "--output", "second_y"]
    monkeypatch.setattr("sys.argv", ["compactrnn", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert [o.name for o in cr.Engine(out).outputs] == ["second_y"]


def tagger(path, kind, mask=False):
    """An embedding of token ids, which the file takes as floats, a GRU, and zeros where the token is 0."""
    nodes = [
        *([node("Cast", ["ids"], ["whole"], to=onnx.TensorProto.INT32)] if kind == onnx.TensorProto.FLOAT else []),
        node("Gather", ["table", "whole" if kind == onnx.TensorProto.FLOAT else "ids"], ["rows"]),
    ]
    layer, weights = gru("rows", "gru", 1)
    nodes += layer
    if mask:
        nodes += [
            node("Unsqueeze", ["ids", "two"], ["column"]),
            node("Equal", ["column", "zero"], ["is_padding"]),
            node("Where", ["is_padding", "zero", "gru_y"], ["y"]),
        ]
    else:
        nodes.append(node("Identity", ["gru_y"], ["y"]))
    constants = {"table": numbers(9, INPUTS, scale=1), "zero": np.float32(0), "two": np.array([2]), **weights}
    return save(path, nodes, [tensor("ids", ["T", 1], kind)], [tensor("y", None)], constants)


FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@pytest.mark.parametrize(("kind", "mask"), [(FLOAT, False), (FLOAT, True), (INT64, False)])
def test_token_ids_are_looked_up_whatever_their_type(kind, mask, tmp_path):
    path = tagger(tmp_path / "m.onnx", kind, mask)
    engine, report = packed(path, tmp_path, tokens=["ids"])
    assert [(i.name, i.vocabulary) for i in engine.inputs] == [("ids", 9)] and not any(c.skipped for c in report.checks)
    ids = np.random.default_rng(0).integers(9, size=STEPS)
    given = ids[:, None].astype(np.float32 if kind == onnx.TensorProto.FLOAT else np.int64)
    assert relative(session(path).run(None, {"ids": given})[0], stream_equals_run(engine, ids)[0]) < CLOSE
    with pytest.raises(ValueError, match="expected tokens from 0 to 8"):
        engine.run(np.array([9]))
