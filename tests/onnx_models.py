"""ONNX models made by hand, and what onnxruntime makes of them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compactrnn as cr

OPSET = 17


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def node(op, inputs, outputs, name=None, **attributes):
    return helper.make_node(op, inputs, outputs, name=name or op.lower(), **attributes)


def save(path, nodes, inputs, outputs, constants=None, opset=OPSET, producer="test"):
    """A model of these nodes; constants are arrays by name."""
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, producer_name=producer, opset_imports=opsets, ir_version=9), path)
    return path


def written_out_step():
    """An LSTM step of products and slices: of x and `state`, which is h and c, with `weight` and `bias`, `stateN`."""
    return [
        node("Split", ["state"], ["h", "c"], axis=0),
        node("Concat", ["x", "h"], ["both"], axis=1),
        node("Gemm", ["both", "weight", "bias"], ["sums"], transB=1),
        node("Split", ["sums"], ["i", "f", "g", "o"], axis=1, name="gates"),
        *(node("Sigmoid", [n], [f"{n}_"], name=f"of_{n}") for n in "ifo"),
        node("Tanh", ["g"], ["g_"], name="of_g"),
        node("Mul", ["f_", "c"], ["kept"], name="keep"),
        node("Mul", ["i_", "g_"], ["new"], name="add"),
        node("Add", ["kept", "new"], ["c_"], name="cell"),
        node("Tanh", ["c_"], ["t"], name="of_cell"),
        node("Mul", ["o_", "t"], ["h_"], name="hidden"),
        node("Concat", ["h_", "c_"], ["stateN"], axis=0, name="stack"),
    ]


def detector(path):
    """A GRU step with a state, of which the sample rate chooses the head."""
    rng = np.random.default_rng(0)

    def branch(name, slope):
        nodes = [node("Mul", ["sums", slope], [f"{name}_out"])]
        return helper.make_graph(nodes, name, [], [tensor(f"{name}_out", [1, 1])])

    nodes = [
        node("Unsqueeze", ["input", "first"], ["x"]),
        node("GRU", ["x", "W", "R", "", "", "state"], ["y", "stateN"], hidden_size=6, linear_before_reset=1),
        node("Flatten", ["stateN"], ["h"]),
        node("Gemm", ["h", "head.weight"], ["sums"], transB=1),
        node("Equal", ["sr", "rate"], ["wide"]),
        node("If", ["wide"], ["z"], then_branch=branch("a", "one"), else_branch=branch("b", "two")),
        node("Sigmoid", ["z"], ["output"]),
    ]
    constants = {
        "first": np.array([0]),
        "W": rng.normal(size=(1, 18, 5)).astype(np.float32),
        "R": rng.normal(size=(1, 18, 6)).astype(np.float32),
        "head.weight": rng.normal(size=(1, 6)).astype(np.float32),
        "rate": np.int64(16000),
        "one": np.float32(1),
        "two": np.float32(2),
    }
    inputs = [tensor("input", ["batch", 5]), tensor("state", [1, "batch", 6]), tensor("sr", [], TensorProto.INT64)]
    outputs = [tensor("output", ["batch", 1]), tensor("stateN", [1, "batch", 6])]
    return save(path, nodes, inputs, outputs, constants)


def denoiser(path):
    """A sequence of magnitudes, 33 bins, and a mask of them by a GRU."""
    rng = np.random.default_rng(0)
    nodes = [
        node("GRU", ["magnitudes", "W", "R"], ["rows"], hidden_size=8, linear_before_reset=1),
        node("Squeeze", ["rows", "direction"], ["h"]),
        node("MatMul", ["h", "head.weight"], ["sums"]),
        node("Sigmoid", ["sums"], ["mask"]),
    ]
    constants = {
        "direction": np.array([1]),
        "W": rng.normal(size=(1, 24, 33)).astype(np.float32) / 6,
        "R": rng.normal(size=(1, 24, 8)).astype(np.float32) / 3,
        "head.weight": rng.normal(size=(8, 33)).astype(np.float32),
    }
    return save(path, nodes, [tensor("magnitudes", ["time", 1, 33])], [tensor("mask", ["time", 1, 33])], constants)


def session(path):
    runtime = pytest.importorskip("onnxruntime", reason="what is compared with")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def relative(wanted, got):
    """The largest difference, relative to the largest number."""
    wanted, got = (np.squeeze(np.asarray(v, np.float64)) for v in (wanted, got))
    assert wanted.shape == got.shape
    return float(np.abs(wanted - got).max(initial=0.0) / (np.abs(wanted).max(initial=0.0) or 1.0))


def packed(path, tmp_path, **options):
    out = tmp_path / "model.crnn"
    report = cr.pack(path, out, weights="float32", **options)
    return cr.Engine(out), report


def each(values):
    return values if isinstance(values, tuple) else (values,)


def stream_equals_run(engine, xs):
    """The outputs of a run, which a stream gives bit for bit if there is one."""
    ran = each(engine.run(xs))
    if not engine.offline:
        stream, xs = engine.stream(), each(xs)
        rows = [each(stream.step(tuple(x[t] for x in xs) if len(xs) > 1 else xs[0][t])) for t in range(len(xs[0]))]
        for port, whole, steps in zip(engine.outputs, ran, zip(*rows, strict=True), strict=True):
            np.testing.assert_array_equal(whole, steps[-1] if port.final else np.stack(steps))
    return ran
