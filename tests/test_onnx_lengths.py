"""Inputs that say how many steps a sequence has: an engine runs one sequence, of its own length."""

import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from compactrnn.onnx_import.describe import describe  # noqa: E402
from onnx_models import node, packed, relative, save, session, stream_equals_run, tensor  # noqa: E402

INPUTS, UNITS = 5, 6
INT32, INT64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64


def numbers(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 0.4).astype(np.float32)


def layer(lengths="", directions=1):
    """Nodes and weights from x, (T, 1, 5), to all, (T, directions, 1, 6), and last, (directions, 1, 6)."""
    way = "bidirectional" if directions == 2 else "forward"
    weights = {"W": numbers(directions, 3 * UNITS, INPUTS, seed=1), "R": numbers(directions, 3 * UNITS, UNITS, seed=2)}
    options = dict(hidden_size=UNITS, linear_before_reset=1, direction=way)
    return [node("GRU", ["x", "W", "R", "", lengths], ["all", "last"], **options)], weights


def of_layer(directions):
    nodes, weights = layer("x_len", directions)
    return [*nodes, node("Identity", ["all"], ["y"])], weights


def of_mask():
    """What comes after the end is zero: steps counted by Range, compared with the length."""
    nodes, weights = layer()
    nodes += [
        node("Squeeze", ["all", "one"], ["rows"]),
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "zero"], ["steps"]),
        node("Range", ["zero", "steps", "unit"], ["places"]),
        node("Cast", ["x_len"], ["length"], "as_int64", to=INT64),
        node("Less", ["places", "length"], ["inside"]),
        node("Unsqueeze", ["inside", "ends"], ["mask"]),
        node("Where", ["mask", "rows", "nothing"], ["y"]),
    ]
    constants = {"one": np.array([1]), "zero": np.int64(0), "unit": np.int64(1), "ends": np.array([1, 2])}
    return nodes, weights | constants | {"nothing": np.float32(0)}


def of_last():
    """The last step, found by the length."""
    nodes, weights = layer()
    nodes += [
        node("Cast", ["x_len"], ["length"], "as_int64", to=INT64),
        node("Sub", ["length", "unit"], ["place"]),
        node("Gather", ["all", "place"], ["y"], axis=0),
    ]
    return nodes, weights | {"unit": np.array([1])}


FILES = {
    "of a layer": (lambda: of_layer(1), [1], False),
    "of both directions": (lambda: of_layer(2), ["batch"], True),
    "of a mask": (of_mask, [1], False),
    "of a mask, without axes": (of_mask, [], False),
    "of the last step": (of_last, ["batch"], False),
}


def saved(case, path, name="x_len"):
    make, shape, _ = FILES[case]
    nodes, weights = make()
    for each in nodes:
        each.input[:] = [name if i == "x_len" else i for i in each.input]
    inputs = [tensor("x", ["T", "batch", INPUTS]), tensor(name, shape, INT32)]
    return save(path, nodes, inputs, [tensor("y", None)], weights)


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("steps", [1, 7, 60])
def test_a_length_is_the_number_of_steps_of_each_call(case, steps, tmp_path):
    path = saved(case, tmp_path / "m.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine, report = packed(path, tmp_path, lengths=["x_len"])
    assert [i.name for i in engine.inputs] == ["x"] and engine.offline == FILES[case][2]
    assert report.checks and not any(c.skipped for c in report.checks)
    x = np.random.default_rng(0).normal(size=(steps, INPUTS)).astype(np.float32)
    runtime = session(path)
    length = np.full([1] * len(runtime.get_inputs()[1].shape), steps, np.int32)
    wanted = runtime.run(None, {"x": x[:, None], "x_len": length})[0]
    assert relative(wanted, stream_equals_run(engine, x)[0]) < 1e-4


def test_an_input_that_is_called_a_length_is_taken_for_one_with_a_warning(tmp_path):
    path = saved("of a layer", tmp_path / "m.onnx")
    with pytest.warns(UserWarning, match=r"x_len is taken for the number of steps .*lengths=\['x_len'\] says so"):
        engine, _ = packed(path, tmp_path)
    assert [i.name for i in engine.inputs] == ["x"] and describe(path)["lengths"] == "x_len"
    with pytest.raises(cr.UnsupportedModelError, match=r"'x_len' has no time axis.*lengths="):
        packed(path, tmp_path, lengths=[])


def test_another_name_is_not_guessed(tmp_path):
    path = saved("of a layer", tmp_path / "m.onnx", "valid")
    with pytest.raises(cr.UnsupportedModelError, match=r"'valid' has no time axis.*lengths=\['valid'\]"):
        packed(path, tmp_path)
    assert [i.name for i in packed(path, tmp_path, lengths=["valid"])[0].inputs] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lengths": "x_len"}, r"lengths: expected a list of names, such as \['x_len'\]"),
        ({"lengths": ["x"]}, "lengths: expected an input of whole numbers, one a sequence"),
        ({"lengths": ["none"]}, "lengths: expected an input of whole numbers, one a sequence"),
        ({"lengths": ["x_len"], "constants": {"x_len": 3}}, "lengths: expected an input that is nothing else"),
    ],
)
def test_what_is_no_length_is_refused(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        packed(saved("of a layer", tmp_path / "m.onnx"), tmp_path, **arguments)
    assert not (tmp_path / "model.crnn").exists()


def test_in_a_file_of_one_step_it_is_data(tmp_path):
    nodes = [
        node("Cast", ["x_len"], ["number"], "as_float", to=1),
        node("Mul", ["x", "number"], ["scaled"]),
        node("Add", ["scaled", "h"], ["h_out"]),
        node("Tanh", ["h_out"], ["y"]),
    ]
    inputs = [tensor("x", [1, 3]), tensor("h", [1, 3]), tensor("x_len", [1], INT64)]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", [1, 3]), tensor("h_out", [1, 3])])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine, _ = packed(path, tmp_path)
    assert [i.name for i in engine.inputs] == ["x", "x_len"]


def test_the_command_line_takes_lengths(tmp_path, monkeypatch):
    from compactrnn.__main__ import main

    path, out = saved("of a layer", tmp_path / "m.onnx", "valid"), tmp_path / "m.crnn"
    monkeypatch.setattr("sys.argv", ["compactrnn", "pack", str(path), str(out), "--length", "valid"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and [i.name for i in cr.Engine(out).inputs] == ["x"]
