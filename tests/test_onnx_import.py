"""ONNX files of recurrent models give what onnxruntime gives, as sequences and step by step."""

import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from onnx_models import node, packed, relative, save, session, stream_equals_run, tensor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*does not run elsewhere")
STEPS, INPUTS, UNITS, CLOSE = 300, 5, 6, 1e-4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def numbers(*shape, seed=0, scale=0.4):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def layer(path, op, directions=1, bias=True, peepholes=False, initial=False, **attributes):
    """A layer over (T, 1, inputs) with all its outputs."""
    gates = GATES[op] * UNITS
    constants = {
        "W": numbers(directions, gates, INPUTS, seed=1),
        "R": numbers(directions, gates, UNITS, seed=2),
        "B": numbers(directions, 2 * gates, seed=3),
        "h0": numbers(directions, 1, UNITS, seed=4),
        "c0": numbers(directions, 1, UNITS, seed=5, scale=2),
        "P": numbers(directions, 3 * UNITS, seed=6, scale=1),
    }
    states = (["h0", "c0"] if op == "LSTM" else ["h0"]) if initial else ["", ""][: 1 + (op == "LSTM")]
    given = ["x", "W", "R", "B" if bias else "", "", *states, *(["P"] if peepholes else [])]
    constants = {name: v for name, v in constants.items() if name in given}
    names = ["y", "y_h", "y_c"][: 3 if op == "LSTM" else 2]
    made = node(op, given, names, hidden_size=UNITS, **attributes)
    outputs = [tensor(n, None) for n in names]
    return save(path, [made], [tensor("x", ["T", 1, INPUTS])], outputs, constants)


LAYERS = {
    "LSTM": dict(op="LSTM"),
    "LSTM without bias": dict(op="LSTM", bias=False),
    "LSTM backwards": dict(op="LSTM", direction="reverse"),
    "LSTM of both directions": dict(op="LSTM", directions=2, direction="bidirectional"),
    "LSTM from constants": dict(op="LSTM", initial=True),
    "LSTM with peepholes": dict(op="LSTM", peepholes=True),
    "LSTM with coupled gates": dict(op="LSTM", input_forget=1),
    "LSTM with clipped gates": dict(op="LSTM", clip=0.3),
    "LSTM of hard sigmoids": dict(
        op="LSTM", activations=["HardSigmoid", "Tanh", "Softsign"], activation_alpha=[0.25], activation_beta=[0.4]
    ),
    "GRU": dict(op="GRU", linear_before_reset=1),
    "GRU with reset before the product": dict(op="GRU", linear_before_reset=0),
    "GRU of both directions": dict(op="GRU", directions=2, direction="bidirectional", linear_before_reset=1),
    "GRU of both directions, reset before": dict(op="GRU", directions=2, direction="bidirectional", initial=True),
    "GRU of hard sigmoids": dict(op="GRU", activations=["HardSigmoid", "Tanh"], linear_before_reset=1),
    "GRU with clipped gates": dict(op="GRU", clip=0.3, linear_before_reset=1),
    "RNN": dict(op="RNN"),
    "RNN of ReLU": dict(op="RNN", activations=["Relu"]),
    "RNN of both directions": dict(op="RNN", directions=2, direction="bidirectional", activations=["Tanh", "Relu"]),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_is_that_of_onnxruntime(case, tmp_path):
    path = layer(tmp_path / "layer.onnx", **LAYERS[case])
    engine, report = packed(path, tmp_path)
    x = numbers(STEPS, INPUTS, seed=7, scale=1)
    wanted = session(path).run(None, {"x": x[:, None]})
    for port, a, b in zip(engine.outputs, wanted, stream_equals_run(engine, x), strict=True):
        assert relative(a, b) < CLOSE, port.name
    assert [p.name for p in engine.outputs] == ["y", "y_h", "y_c"][: len(wanted)]
    assert [p.final for p in engine.outputs] == [False, True, True][: len(wanted)]
    assert report.parity < CLOSE and {c.what for c in report.checks} == {"random numbers", "zeros"}


def test_nodes_in_any_order(tmp_path):
    """As converters to half precision leave them, and onnxruntime takes them."""
    path = layer(tmp_path / "layer.onnx", "GRU", linear_before_reset=1)
    model = onnx.load(path)
    model.graph.node[0].input[0] = "twice"
    model.graph.node.extend([node("Identity", ["thrice"], ["twice"]), node("Add", ["x", "x"], ["thrice"])])
    onnx.save(model, path)
    engine, _ = packed(path, tmp_path)
    x = numbers(STEPS, INPUTS, seed=7, scale=1)
    assert relative(session(path).run(None, {"x": x[:, None]})[0], stream_equals_run(engine, x)[0]) < CLOSE
    model.graph.node[-1].input[0] = "twice"
    onnx.save(model, path)
    with pytest.raises(ValueError, match="nodes read each other's results in a circle"):
        packed(path, tmp_path)


def test_rows_of_a_sequence_have_states_of_their_own(tmp_path):
    nodes = [
        node("Reshape", ["x", "shape"], ["rows"]),
        node("GRU", ["rows", "W", "R", "B"], ["y", ""], hidden_size=UNITS, linear_before_reset=1),
    ]
    constants = {"shape": np.array([0, 2, INPUTS]), "W": numbers(1, 18, INPUTS), "R": numbers(1, 18, UNITS, seed=1)}
    constants["B"] = numbers(1, 36, seed=2)
    inputs = [tensor("x", ["T", 2 * INPUTS])]
    path = save(tmp_path / "rows.onnx", nodes, inputs, [tensor("y", None)], constants)
    engine, _ = packed(path, tmp_path)
    x = numbers(STEPS, 2 * INPUTS, scale=1)
    assert relative(session(path).run(None, {"x": x})[0], stream_equals_run(engine, x)[0]) < CLOSE


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_layer_over_frequencies_runs_within_each_step(direction, tmp_path):
    """(1, T, F, C): over F in each step, then over T."""
    two = 2 if direction == "bidirectional" else 1
    nodes = [
        node("Transpose", ["x"], ["by_band"], perm=[2, 1, 0, 3]),
        node("Squeeze", ["by_band", "two"], ["rows"]),
        node("LSTM", ["rows", "W", "R"], ["inner", ""], hidden_size=UNITS, direction=direction),
        node("Transpose", ["inner"], ["by_time"], perm=[2, 0, 1, 3], name="by_time"),
        node("Reshape", ["by_time", "shape"], ["flat"]),
        node("GRU", ["flat", "V", "U"], ["y", "y_h"], hidden_size=UNITS, linear_before_reset=1),
    ]
    constants = {
        "two": np.array([2]),
        "shape": np.array([0, 1, 4 * two * UNITS]),
        "W": numbers(two, 4 * UNITS, 3),
        "R": numbers(two, 4 * UNITS, UNITS, seed=1),
        "V": numbers(1, 3 * UNITS, 4 * two * UNITS, seed=2),
        "U": numbers(1, 3 * UNITS, UNITS, seed=3),
    }
    path = save(tmp_path / "paths.onnx", nodes, [tensor("x", [1, "T", 4, 3])], [tensor("y", None)], constants)
    engine, _ = packed(path, tmp_path)
    x = numbers(60, 4, 3, scale=1)
    assert not engine.offline
    assert relative(session(path).run(None, {"x": x[None]})[0], stream_equals_run(engine, x)[0]) < CLOSE


def test_states_of_a_sequence_are_states_of_the_stream(tmp_path):
    """An LSTM that starts from one stacked state and gives it back, in a file with a time axis."""
    nodes = [
        node("Split", ["hc"], ["h", "c"], axis=0),
        node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["y", "y_h", "y_c"], hidden_size=UNITS),
        node("Concat", ["y_h", "y_c"], ["hc_out"], axis=0),
    ]
    constants = {"W": numbers(1, 24, INPUTS), "R": numbers(1, 24, UNITS, seed=1)}
    inputs = [tensor("x", ["T", 1, INPUTS]), tensor("hc", [2, 1, UNITS])]
    outputs = [tensor("y", None), tensor("hc_out", [2, 1, UNITS])]
    path = save(tmp_path / "kept.onnx", nodes, inputs, outputs, constants, opset=13)
    engine, _ = packed(path, tmp_path)
    x, start = numbers(STEPS, INPUTS, scale=1), numbers(2, 1, UNITS, seed=9)
    wanted, last = session(path).run(None, {"x": x[:, None], "hc": start})
    stream = engine.stream()
    assert [(s.name, s.shape) for s in stream.states] == [("hc", (2, 1, UNITS))]
    stream.reset(hc=start)
    assert relative(wanted, stream.run(x)) < CLOSE
    assert relative(last, stream.get_state("hc")) < CLOSE


def test_a_state_of_a_sequence_that_is_read_elsewhere_is_refused(tmp_path):
    nodes = [
        node("GRU", ["x", "W", "R", "", "", "h"], ["y", "hn"], hidden_size=UNITS, linear_before_reset=1),
        node("Add", ["y", "h"], ["z"], name="reads_it"),
    ]
    constants = {"W": numbers(1, 18, INPUTS), "R": numbers(1, 18, UNITS, seed=1)}
    inputs = [tensor("x", ["T", 1, INPUTS]), tensor("h", [1, 1, UNITS])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("z", None), tensor("hn", [1, 1, UNITS])], constants)
    with pytest.raises(cr.UnsupportedModelError, match="reads_it: Add: reads a state of the sequence's beginning"):
        packed(path, tmp_path)


def test_a_sequence_whose_length_the_file_fixes_is_compared_at_other_lengths(tmp_path):
    path = layer(tmp_path / "layer.onnx", "GRU", linear_before_reset=1)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 20
    onnx.save(model, path)
    engine, report = packed(path, tmp_path)
    assert not any(c.skipped for c in report.checks) and report.parity < CLOSE
    x = numbers(20, INPUTS, seed=7, scale=1)
    assert relative(session(path).run(None, {"x": x[:, None]})[0], stream_equals_run(engine, x)[0]) < CLOSE


def scan(path, start="constants", sequences=("x",), outer=False, shape=("T", 1, INPUTS), **options):
    """A leaky LSTM, written out as the body of a Scan, which also gives a number at each step."""
    total = "x_t" if len(sequences) == 1 else "both"
    nodes = [node("Add", ["x_t", "other_t"], ["both"], "sum")] if total == "both" else []
    nodes += [
        node("Gemm", [total, "W", "B"], ["a"], "of_x", transB=1),
        node("Gemm", ["h", "R"], ["b"], "of_h", transB=1),
        node("Add", ["a", "b"], ["sums"], "gates"),
        node("Split", ["sums"], ["i", "f", "o", "g"], axis=1),
        *(node("Sigmoid", [n], [f"{n}_"], f"of_{n}") for n in "ifo"),
        node("LeakyRelu", ["g"], ["g_"]),
        node("Mul", ["f_", "c"], ["kept"], "keep"),
        node("Mul", ["i_", "g_"], ["new"], "add"),
        node("Add", ["kept", "new"], ["c_"], "cell"),
        node("Tanh", ["c_"], ["t"]),
        node("Mul", ["o_", "t"], ["h_"], "hidden"),
        node("Mul", ["h_", "mean"], ["y_t"], "scaled") if outer else node("Identity", ["h_"], ["y_t"]),
        node("ReduceSum", ["c_"], ["z_t"], keepdims=0),
    ]
    pairs = [("h", UNITS), ("c", UNITS), *((f"{n}_t", INPUTS) for n in sequences)]
    results = [*(tensor(n, [1, UNITS]) for n in ("h_", "c_", "y_t")), tensor("z_t", [])]
    body = onnx.helper.make_graph(nodes, "body", [tensor(n, [1, size]) for n, size in pairs], results)
    stream = start == "stream"
    before, after = (["s_h", "s_c"], ["s_hN", "s_cN"]) if stream else (["h0", "c0"], ["h_n", "c_n"])
    made = [node("ReduceMean", ["x"], ["mean"], keepdims=0, axes=[0, 1, 2])] if outer else []
    made += [node("Neg", ["x"], ["other"])] if len(sequences) > 1 else []
    names = [*after, "y", "z"]
    made.append(node("Scan", [*before, *sequences], names, body=body, num_scan_inputs=len(sequences), **options))
    constants = {
        "W": numbers(4 * UNITS, INPUTS),
        "B": numbers(4 * UNITS, seed=1),
        "R": numbers(4 * UNITS, UNITS, seed=2),
    }
    constants |= {} if stream else {"h0": numbers(1, UNITS, seed=3), "c0": numbers(1, UNITS, seed=4)}
    inputs = [tensor("x", list(shape)), *(tensor(n, [1, UNITS]) for n in (before if stream else ()))]
    outputs = [tensor(n, [1, UNITS] if n in after and stream else None) for n in names]
    return save(path, made, inputs, outputs, constants)


SCANS = {
    "forwards": {},
    "backwards": dict(scan_input_directions=[1], scan_output_directions=[1, 1]),
    "of two sequences": dict(sequences=("x", "other")),
    "along other axes": dict(shape=(1, "T", INPUTS), scan_input_axes=[1], scan_output_axes=[1, -1]),
}


@pytest.mark.parametrize("case", SCANS)
def test_a_scan_is_a_recurrent_layer(case, tmp_path):
    path = scan(tmp_path / "scan.onnx", **SCANS[case])
    engine, _ = packed(path, tmp_path)
    assert engine.offline == (case == "backwards")
    for steps in (1, 2, STEPS):
        x = numbers(steps, INPUTS, seed=7, scale=1)
        wanted = session(path).run(None, {"x": x[None] if "axes" in case else x[:, None]})
        for port, a, b in zip(engine.outputs, wanted, stream_equals_run(engine, x), strict=True):
            assert relative(a.ravel(), b.ravel()) < CLOSE, port.name


def test_a_scan_starts_from_states_of_the_stream(tmp_path):
    path = scan(tmp_path / "scan.onnx", start="stream")
    engine, _ = packed(path, tmp_path)
    x, stream = numbers(STEPS, INPUTS, seed=7, scale=1), engine.stream()
    given = {"s_h": numbers(1, UNITS), "s_c": numbers(1, UNITS, seed=1)}
    stream.reset(**given)
    h, c, *wanted = session(path).run(None, {"x": x[:, None], **given})
    for a, b in zip(wanted, stream.run(x), strict=True):
        assert relative(a.ravel(), b.ravel()) < CLOSE
    assert relative(h, stream.get_state("s_h")) < CLOSE and relative(c, stream.get_state("s_c")) < CLOSE


@pytest.mark.parametrize("way", [0, 1])
def test_a_scan_within_each_step(way, tmp_path):
    """A call of three frames, the states of which are those of the next call."""
    options = dict(scan_input_directions=[way], scan_output_directions=[way, way])
    path = scan(tmp_path / "scan.onnx", start="stream", shape=(3, 1, INPUTS), **options)
    engine, _ = packed(path, tmp_path)
    stream, runtime, state = (
        engine.stream(),
        session(path),
        {n: np.zeros((1, UNITS), np.float32) for n in ("s_h", "s_c")},
    )
    for x in numbers(20, 3, 1, INPUTS, seed=7, scale=1):
        h, c, *wanted = runtime.run(None, {"x": x, **state})
        state = {"s_h": h, "s_c": c}
        for a, b in zip(wanted, stream.step(x.reshape(engine.inputs[0].shape)), strict=True):
            assert relative(a.ravel(), b.ravel()) < CLOSE


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (dict(outer=True), "scan: Scan reads 'mean' within its step, which depends on data"),
        (dict(scan_input_directions=[1]), "scan: Scan is not taken with these inputs"),
        (dict(shape=("T", 2, INPUTS)), "does not take inputs of shape|gives states of another shape"),
    ],
)
def test_other_scans_are_refused(given, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        packed(scan(tmp_path / "scan.onnx", **given), tmp_path)


@pytest.mark.parametrize("op", ["Add", "Concat"])
def test_axes_of_equal_length_may_have_two_names(op, tmp_path):
    nodes = [
        node("GRU", ["x", "W", "R"], ["all"], hidden_size=UNITS, linear_before_reset=1),
        node("Squeeze", ["all", "one"], ["u"]),
        node(op, ["u", "z"], ["y"], **({"axis": 2} if op == "Concat" else {})),
    ]
    constants = {"W": numbers(1, 3 * UNITS, INPUTS), "R": numbers(1, 3 * UNITS, UNITS), "one": np.array([1])}
    inputs = [tensor("x", ["frames", 1, INPUTS]), tensor("z", ["seq", 1, UNITS])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", None)], constants)
    engine, _ = packed(path, tmp_path)
    given = numbers(STEPS, INPUTS, seed=3), numbers(STEPS, UNITS, seed=4)
    wanted = session(path).run(None, {"x": given[0][:, None], "z": given[1][:, None]})[0]
    assert relative(wanted[:, 0], stream_equals_run(engine, given)[0]) < CLOSE


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_window_as_long_as_the_sequence_of_the_example(op, tmp_path):
    """As exporters write max_pool1d over all steps: the file takes from 20 to 39 steps, and reads 20."""
    nodes = [
        node("GRU", ["x", "W", "R"], ["all"], hidden_size=UNITS, linear_before_reset=1),
        node("Transpose", ["all"], ["channels"], perm=[1, 2, 3, 0]),
        node("Squeeze", ["channels", "zero"], ["rows"], "without_directions"),
        node(op, ["rows"], ["most"], kernel_shape=[20], strides=[20]),
        node("Squeeze", ["most", "two"], ["y"]),
    ]
    constants = {"W": numbers(1, 3 * UNITS, INPUTS), "R": numbers(1, 3 * UNITS, UNITS)}
    constants |= {"zero": np.array([0]), "two": np.array([2])}
    path = save(tmp_path / "m.onnx", nodes, [tensor("x", ["T", 1, INPUTS])], [tensor("y", None)], constants)
    with pytest.warns(UserWarning, match="inputs of one size alone"):
        engine, _ = packed(path, tmp_path)
    x = numbers(20, 1, INPUTS, seed=3)
    wanted = session(path).run(None, {"x": x})[0]
    assert relative(wanted.ravel(), np.ravel(engine.run(x[None]))) < CLOSE


def test_torch_is_not_needed(tmp_path):
    path = layer(tmp_path / "layer.onnx", "LSTM")
    code = f"""
import sys, compactrnn as cr
cr.pack({str(path)!r}, {str(tmp_path / "m.crnn")!r}, weights="float32")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("case", ["LSTM", "GRU", "RNN"])
def test_without_onnxruntime_the_reference_of_the_standard_is_compared_with(case, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = layer(tmp_path / "layer.onnx", **LAYERS[case])
    _, report = packed(path, tmp_path)
    assert [c.error is not None and c.error < CLOSE for c in report.checks] == [True, True]


EINSUMS = {
    "btgi,gih->btgh": (2, 3, 4),  # groups
    "btgi,ih->btgh": (3, 4),
    "gih,btgi->bthg": (2, 3, 4),
    "btgi,gi->bt": (2, 3),
    "btgi,gi->btgi": (2, 3),
    "btgi,btgj->btij": None,  # with itself
    "btgi, btgi -> btg": None,
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einstein_sums(equation, tmp_path):
    shape = EINSUMS[equation]
    given = ["x", "other"] if shape is None else ["x", "weight"] if equation.startswith("b") else ["weight", "x"]
    nodes = [
        node("Tanh", ["x"], ["other"]),
        node("Einsum", given, ["y"], equation=equation),
        node("Reshape", ["x", "shape"], ["flat"]),
        node("GRU", ["flat", "W", "R"], ["h", ""], hidden_size=UNITS, linear_before_reset=1),
    ]
    constants = {"shape": np.array([-1, 1, 6]), "W": numbers(1, 18, 6), "R": numbers(1, 18, UNITS, seed=1)}
    constants |= {} if shape is None else {"weight": numbers(*shape, seed=2)}
    inputs = [tensor("x", [1, "T", 2, 3])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", None), tensor("h", None)], constants)
    engine, _ = packed(path, tmp_path)
    x = numbers(STEPS, 2, 3, seed=7, scale=1)
    wanted = session(path).run(None, {"x": x[None]})
    for a, b in zip(wanted, stream_equals_run(engine, x), strict=True):
        assert relative(a, b) < CLOSE


@pytest.mark.parametrize(
    "equation", ["btgi,bsgi->bts", "btgg,gih->bth", "...gi,gih->...gh", "btgi,gih->tgh", "btgi->btg"]
)
def test_other_einstein_sums_are_refused(equation, tmp_path):
    given = ["x", "x" if "s" in equation else "weight"][: equation.count(",") + 1]
    nodes = [
        node("Einsum", given, ["y"], equation=equation),
        node("Reshape", ["x", "shape"], ["flat"]),
        node("GRU", ["flat", "W", "R"], ["h", ""], hidden_size=UNITS, linear_before_reset=1),
    ]
    constants = {"shape": np.array([-1, 1, 9]), "W": numbers(1, 18, 9), "R": numbers(1, 18, UNITS, seed=1)}
    constants["weight"] = numbers(3, 3, 4, seed=2)
    inputs = [tensor("x", [1, "T", 3, 3])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", None), tensor("h", None)], constants)
    with pytest.raises(cr.UnsupportedModelError, match=r"einsum: |output 'y': gives the scores of every two steps"):
        packed(path, tmp_path)


@pytest.mark.parametrize("last", ["hn", "ends"])
def test_what_both_directions_start_from_is_given_once(last, tmp_path):
    """Of two layers; a stream has no state for what runs backwards, whatever its output is called."""
    gates = 3 * UNITS
    constants = {
        "W": numbers(2, gates, INPUTS, seed=1), "R": numbers(2, gates, UNITS, seed=2),
        "W2": numbers(2, gates, 2 * UNITS, seed=3), "shape": np.array([0, 0, -1]),
    }  # fmt: skip
    both = dict(hidden_size=UNITS, direction="bidirectional", linear_before_reset=1)
    nodes = [
        node("Split", ["h0"], ["first", "second"], axis=0, num_outputs=2),
        node("GRU", ["x", "W", "R", "", "", "first"], ["a", "ha"], **both),
        node("Transpose", ["a"], ["turned"], perm=[0, 2, 1, 3]), node("Reshape", ["turned", "shape"], ["b"]),
        node("GRU", ["b", "W2", "R", "", "", "second"], ["y", "hb"], name="second", **both),
        node("Concat", ["ha", "hb"], [last], axis=0),
    ]  # fmt: skip
    inputs = [tensor("x", ["T", 1, INPUTS]), tensor("h0", [4, 1, UNITS])]
    outputs = [tensor("y", ["T", 2, 1, UNITS]), tensor(last, [4, 1, UNITS])]
    path = save(tmp_path / "m.onnx", nodes, inputs, outputs, constants, opset=18)
    engine, _ = packed(path, tmp_path)
    assert engine.offline and not engine.states and [(p.name, p.once) for p in engine.inputs][1] == ("h0", True)
    for steps in (1, 7, 40):
        x, h0 = numbers(steps, INPUTS, seed=steps, scale=1), numbers(4, 1, UNITS, seed=5, scale=1)
        wanted = session(path).run(None, {"x": x[:, None], "h0": h0})
        for a, b in zip(wanted, engine.run((x, h0)), strict=True):
            assert relative(a, b) < CLOSE


def test_a_state_that_runs_backwards_is_refused_where_it_is_named(tmp_path):
    path = layer(tmp_path / "m.onnx", "GRU", directions=2, direction="bidirectional")
    model = onnx.load(path)
    model.graph.node[0].input[5] = "h0"
    model.graph.input.append(tensor("h0", [2, 1, UNITS]))
    onnx.save(model, path)
    with pytest.raises(cr.UnsupportedModelError, match="a layer that runs backwards starts from it"):
        cr.pack(path, tmp_path / "m.crnn", states={"h0": "y_h"})


@pytest.mark.parametrize("sizes", [["unk__1", "T", 4], ["unk__1", 20, 4]])
def test_a_layer_that_gives_its_last_state_alone(sizes, tmp_path):
    """As tf2onnx writes an encoder, and what is repeated for its decoder."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Transpose", ["x"], ["s"], perm=[1, 0, 2]),
        node("LSTM", ["s", "W", "R", "B"], ["", "h", ""], "encoder", hidden_size=6),
        node("Transpose", ["h"], ["last"], "rows", perm=[1, 0, 2]),
        node("Tile", ["last", "times"], ["all"]),
        node("MatMul", ["all", "V"], ["y"]),
    ]
    shapes = {"W": (1, 24, 4), "R": (1, 24, 6), "B": (1, 48), "V": (6, 3)}
    constants = {name: (rng.normal(size=shape) * 0.4).astype(np.float32) for name, shape in shapes.items()}
    constants["times"] = np.array([1, 20, 1])
    path = save(tmp_path / "m.onnx", nodes, [tensor("x", sizes)], [tensor("y", None)], constants)
    engine, _ = packed(path, tmp_path)
    x = rng.normal(size=(20, 4)).astype(np.float32)
    assert relative(session(path).run(None, {"x": x[None]})[0].ravel(), engine.run(x).ravel()) < 1e-5


def test_the_onnx_file_is_not_replaced(tmp_path):
    path = save(tmp_path / "net.onnx", [node("Tanh", ["x"], ["y"])], [tensor("x", ["T", 4])], [tensor("y", ["T", 4])])
    (tmp_path / "link.onnx").symlink_to(path)
    before = path.read_bytes()
    for out in (path, tmp_path / "link.onnx"):
        with pytest.raises(ValueError, match="the ONNX file itself"):
            cr.pack(path, out, weights="float32")
    assert path.read_bytes() == before
