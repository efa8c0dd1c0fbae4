"""ONNX files with a node, an attribute, a size or a number changed give a model or an error, and take no long time."""

import random

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr  # noqa: E402
from compactrnn.onnx_import import ModelFile, lower  # noqa: E402
from compactrnn.runtime.file import encode  # noqa: E402
from compactrnn.runtime.quantize import quantize  # noqa: E402
from onnx_models import detector, node, save, tensor  # noqa: E402

MUTANTS = 60
NUMBERS = [0, -1, 1, 2, 7, 100_000, 2**31, 2**62, -(2**63)]
OPERATORS = [
    "Concat",
    "ConstantOfShape",
    "Einsum",
    "Expand",
    "Gather",
    "GRU",
    "If",
    "Loop",
    "LSTM",
    "MatMul",
    "NonZero",
]
OPERATORS += ["OneHot", "Range", "Reshape", "Resize", "RNN", "ScatterND", "Slice", "Softmax", "Split", "Tile", "TopK"]


def sequence(path):
    """A strided convolution over features, padding, slicing and an LSTM."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "k"], ["c"], strides=[2], pads=[1, 1]),
        node("Pad", ["c", "pads"], ["p"]),
        node("Slice", ["p", "from", "to", "axis"], ["s"]),
        node("Reshape", ["s", "shape"], ["r"]),
        node("LSTM", ["r", "W", "R", "", "", "h", "c0"], ["y", "hn", "c1"], hidden_size=4),
    ]
    arrays = {"k": (3, 4, 3), "W": (1, 16, 12), "R": (1, 16, 4), "c0": (1, 1, 4)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    constants |= {
        "pads": np.array([0, 0, 1, 0, 0, 1]),
        "from": np.array([1]),
        "to": np.array([5]),
        "axis": np.array([2]),
    }
    constants["shape"] = np.array([-1, 1, 12])
    inputs, outputs = [tensor("x", ["T", 4, 9]), tensor("h", [1, 1, 4])], [tensor("y", None), tensor("hn", [1, 1, 4])]
    return save(path, nodes, inputs, outputs, constants)


def mutate(model, rng):
    """Change something of the structure."""
    graph = model.graph
    made, kind = rng.choice(graph.node), rng.randrange(9)
    names = [o for n in graph.node for o in n.output] + [t.name for t in graph.initializer] + [""]
    if kind == 0:
        made.op_type = rng.choice(OPERATORS)
    elif kind == 1 and made.input:
        made.input[rng.randrange(len(made.input))] = rng.choice(names)
    elif kind == 2 and made.attribute:
        changed = rng.choice(made.attribute)
        changed.i, changed.f = rng.choice(NUMBERS), rng.choice([0.0, float("nan"), float("inf")])
        if changed.ints:
            changed.ints[rng.randrange(len(changed.ints))] = rng.choice(NUMBERS)
    elif kind == 3 and made.attribute:
        del made.attribute[rng.randrange(len(made.attribute))]
    elif kind == 4:
        stored = rng.choice(graph.initializer)
        values = onnx.numpy_helper.to_array(stored).copy()
        if values.dtype == np.int64 and values.size:
            values.reshape(-1)[rng.randrange(values.size)] = rng.choice(NUMBERS)
            stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
        elif stored.dims:
            stored.dims[rng.randrange(len(stored.dims))] = rng.choice(NUMBERS)
    elif kind == 5:
        dims = rng.choice(graph.input).type.tensor_type.shape.dim
        if dims:
            dims[rng.randrange(len(dims))].dim_value = rng.choice(NUMBERS)
    elif kind == 6:
        del graph.node[rng.randrange(len(graph.node))]
    elif kind == 7:
        rng.choice(graph.input).type.tensor_type.elem_type = rng.randrange(20)
    else:
        model.opset_import[0].version = rng.choice([-1, 0, 1, 6, 9, 11, 13, 18, 30])


@pytest.mark.parametrize("make", [detector, sequence])
@pytest.mark.filterwarnings("ignore:.* is \\d+, the largest size")
def test_a_changed_file_gives_a_model_or_an_error(make, tmp_path):
    original, rng, found = onnx.load(make(tmp_path / "m.onnx")), random.Random(0), {"model": 0, "error": 0}
    constants = {"sr": 16000} if make is detector else None
    for _ in range(MUTANTS):
        model = onnx.ModelProto()
        model.CopyFrom(original)
        for _ in range(rng.choice([1, 1, 2, 3])):
            if len(model.graph.node) > 1:
                mutate(model, rng)
        (tmp_path / "mutant.onnx").write_bytes(model.SerializeToString())
        try:
            program = lower(ModelFile.read(tmp_path / "mutant.onnx"), constants=constants).program
            cr.Engine(encode(quantize(program, "float32", False)))
            found["model"] += 1
        except ValueError:  # all errors about models are
            found["error"] += 1
    assert min(found.values()) > 0
