"""ONNX files with strides over time: recognizers of text in images, of speech, of biosignals."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
from compactrnn.onnx_import.describe import describe  # noqa: E402
from onnx_models import node, packed, relative, save, session, stream_equals_run, tensor  # noqa: E402

STEPS, CLOSE = (1, 2, 7, 30), 1e-5


def numbers(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 0.3).astype(np.float32)


def layer(op, x, inputs, units=5, directions=1):
    """A layer over x, (T, 1, inputs), and its weights; the result is y, (T, directions, 1, units)."""
    gates = {"GRU": 3, "LSTM": 4}[op] * units
    way = "bidirectional" if directions == 2 else "forward"
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    weights = {"W": numbers(directions, gates, inputs, seed=1), "R": numbers(directions, gates, units, seed=2)}
    return node(op, [x, "W", "R"], ["y"], hidden_size=units, direction=way, **more), weights


def signal(nodes, constants, inputs=8, op="GRU", directions=1, shape=(1, 6, "T")):
    """From x by `nodes` to channels, (1, inputs, steps), and a layer over these."""
    last, weights = layer(op, "seq", inputs, directions=directions)
    turn = node("Transpose", ["channels"], ["seq"], "turn", perm=[2, 0, 1])
    return [*nodes, turn, last], {**constants, **weights}, shape


def image():
    """Text in an image, (1, 1, 16, width): pooling over both axes, then over the height, a layer along the width."""
    nodes = [
        node("Conv", ["x", "k1"], ["a"], "conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "k2", "c2"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        node("MaxPool", ["c"], ["d"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["d"], ["e"], "pool2", kernel_shape=[2, 1], strides=[2, 1]),
        node("Transpose", ["e"], ["f"], perm=[3, 0, 1, 2]),
        node("Reshape", ["f", "flat"], ["seq"]),
    ]
    constants = {"k1": numbers(4, 1, 3, 3), "k2": numbers(6, 4, 3, 3), "c2": numbers(6), "flat": np.array([0, 1, 12])}
    last, weights = layer("LSTM", "seq", 12, directions=2)
    return [*nodes, last], {**constants, **weights}, (1, 1, 16, "width")


KERNEL, TURNED = {"k": numbers(8, 6, 3)}, {"k": numbers(8, 6, 3), "t": numbers(5, 2, 4)}
AT_ENDS = node("Conv", ["x", "k"], ["channels"], "conv", strides=[2], pads=[1, 1])
# By name: frames a step, whether it streams, the file.
FILES = {
    "convolution": (2, True, lambda: signal([AT_ENDS], KERNEL)),
    "convolution that keeps the size": (
        3,
        False,
        lambda: signal(
            [node("Conv", ["x", "k"], ["channels"], "conv", strides=[3], auto_pad="SAME_UPPER")],
            {"k": numbers(8, 6, 6)},
        ),
    ),
    "convolution and pooling": (
        6,
        False,
        lambda: signal(
            [
                node("Conv", ["x", "k"], ["a"], "conv", strides=[2], pads=[1, 1]),
                node("MaxPool", ["a"], ["channels"], "pool", kernel_shape=[5], strides=[3], pads=[1, 1]),
            ],
            KERNEL,
            directions=2,
        ),
    ),
    "pooling beyond the end": (
        2,
        False,
        lambda: signal(
            [node("MaxPool", ["x"], ["channels"], "pool", kernel_shape=[3], strides=[2], ceil_mode=1)], {}, 6
        ),
    ),
    "mean of frames": (
        4,
        True,
        lambda: signal(
            [node("AveragePool", ["x"], ["channels"], "pool", kernel_shape=[4], strides=[4])], {}, 6, "LSTM"
        ),
    ),
    "stacked frames": (
        3,
        True,
        lambda: signal(
            [node("Reshape", ["x", "wide"], ["a"]), node("Transpose", ["a"], ["channels"], perm=[0, 2, 1])],
            {"wide": np.array([1, -1, 18])},
            18,
            shape=(1, "T", 6),
        ),
    ),
    "lines of text": (4, False, image),
    **{
        f"spectra{case}": (
            4,
            True,
            lambda given=given, more=more, bins=bins: signal(
                [
                    node("Pad", ["x", "ahead"], ["a"]),
                    node("STFT", ["a", "hop", *given], ["s"], **more),
                    node("Reshape", ["s", "parts"], ["b"]),
                    node("Transpose", ["b"], ["channels"], perm=[0, 2, 1]),
                ],
                {"ahead": np.array([0, 4, 0, 0]), "hop": np.int64(4), "parts": np.array([1, -1, 2 * bins])}
                | {"window": np.hanning(8).astype(np.float32), "length": np.int64(8)},
                2 * bins,
                shape=(1, "T"),
            ),
        )
        for case, given, more, bins in (
            ("", ["window"], {}, 5),
            (" without a window", ["", "length"], {}, 5),
            (" of both sides", ["window", "length"], {"onesided": 0}, 8),
        )
    },
}


def made(path, nodes, constants, shape, outputs=("y",)):
    return save(path, nodes, [tensor("x", shape)], [tensor(name, None) for name in outputs], constants)


def compare(path, tmp_path, frames, streams):
    engine, report = packed(path, tmp_path)
    assert [check.what for check in report.checks] == ["random numbers", "zeros", "few steps"]
    assert (engine.frames_per_step, not engine.offline) == (frames, streams)
    shape = session(path).get_inputs()[0].shape
    time = next(d for d, n in enumerate(shape) if isinstance(n, str))
    for steps in STEPS:
        x = numbers(*(n if d != time else steps * frames for d, n in enumerate(shape)), seed=steps)
        given = np.moveaxis(x, time, 0).reshape(steps, *engine.inputs[0].shape)
        ran = stream_equals_run(engine, given)
        for wanted, found, port in zip(session(path).run(None, {"x": x}), ran, engine.outputs, strict=True):
            if len(port.shape) == 2 and wanted.shape[-1] == steps * port.shape[0]:
                wanted = np.moveaxis(wanted, -1, 0)
            assert relative(wanted.ravel(), found.ravel()) < CLOSE
    return engine


@pytest.mark.parametrize("name", FILES)
def test_steps_of_several_frames_are_those_of_onnxruntime(name, tmp_path):
    frames, streams, make = FILES[name]
    path = made(tmp_path / "m.onnx", *make())
    compare(path, tmp_path, frames, streams)
    assert describe(path)["frames_per_step"] == frames


def test_results_at_the_rate_of_the_input(tmp_path):
    nodes, constants, shape = signal([AT_ENDS], TURNED)
    nodes += [
        node("Squeeze", ["y"], ["h"], "squeeze"),
        node("Transpose", ["h"], ["turned"], "back", perm=[1, 0]),
        node("Unsqueeze", ["turned", "first"], ["z"], "batch"),
        node("ConvTranspose", ["z", "t"], ["up"], "up", strides=[2], pads=[1, 1]),
    ]
    constants = {**constants, "first": np.array([0])}
    nodes[-4] = node("Squeeze", ["y", "ones"], ["h"], "squeeze")
    constants["ones"] = np.array([1, 2])
    path = made(tmp_path / "m.onnx", nodes, constants, shape, ["up"])
    engine = compare(path, tmp_path, 2, False)
    assert engine.outputs[0].shape == (2, 2)


def over_part_of_a_step(name):
    """Nodes from c, (1, 6, 3 n - 1), to d of this shape: what is subtracted is taken of all of them."""
    if name == "InstanceNormalization":
        return [node(name, ["c", "slope", "shift"], ["d"], "norm")]
    reduced = node(name, ["c"], ["m"], "reduced", axes=[2], keepdims=1)
    return [reduced, node("Sub", ["c", "m"], ["e"], "less"), node("Mul", ["e", "slope_"], ["d"], "scaled")]


@pytest.mark.parametrize("name", ["InstanceNormalization", "ReduceMean", "ReduceMax", "ReduceMin"])
def test_all_frames_of_a_sequence_whose_last_step_has_not_all(name, tmp_path):
    nodes = [
        node("Conv", ["x", "k"], ["c"], "conv", strides=[2]),
        *over_part_of_a_step(name),
        node("MaxPool", ["d"], ["channels"], "pool", kernel_shape=[3], strides=[3]),
    ]
    constants = {"k": numbers(8, 6, 3), "slope": 1 + numbers(8), "shift": numbers(8), "slope_": numbers(1, 8, 1)}
    path = made(tmp_path / "m.onnx", *signal(nodes, constants))
    engine, report = packed(path, tmp_path)
    assert engine.frames_per_step == 6 and not any(c.skipped for c in report.checks)
    for steps in (2, 3, 40):
        x = numbers(1, 6, 6 * steps, seed=steps)
        wanted, y = session(path).run(None, {"x": x})[0], engine.run(np.moveaxis(x, 2, 0).reshape(steps, 6, 6))
        assert len(y) == steps - 1 and relative(wanted, y) < CLOSE


def test_a_window_longer_than_the_sequence_is_no_length_to_try(tmp_path):
    spectrum = node("Conv", ["x", "k"], ["channels"], "conv", strides=[32])
    path = made(tmp_path / "m.onnx", *signal([spectrum], {"k": numbers(8, 1, 64)}, shape=(1, 1, "T")))
    engine, _ = packed(path, tmp_path)
    assert engine.frames_per_step == 32
    x = numbers(1, 1, 320)
    assert relative(session(path).run(None, {"x": x})[0], engine.run(x.reshape(10, 32))) < CLOSE


def test_a_strided_convolution_that_leaves_out_a_result(tmp_path):
    lossy = node("Conv", ["x", "k"], ["channels"], "conv", strides=[2])
    path = made(tmp_path / "m.onnx", *signal([lossy], KERNEL))
    engine, report = packed(path, tmp_path)
    assert engine.offline and engine.frames_per_step == 2 and not any(c.skipped for c in report.checks)
    for steps in (2, 3, 30):
        x = numbers(1, 6, 2 * steps, seed=steps)
        wanted, y = session(path).run(None, {"x": x})[0], engine.run(np.moveaxis(x, 2, 0).reshape(steps, 2, 6))
        assert len(y) == steps - 1 and relative(wanted, y) < CLOSE
    with pytest.raises(ValueError, match="xs: expected at least 2"):
        engine.run(np.zeros((1, 2, 6), np.float32))
