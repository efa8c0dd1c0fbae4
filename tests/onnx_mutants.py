"""Changed ONNX files, each of which must give a model that agrees with onnxruntime, or an error of ours.

    python tests/onnx_mutants.py --count 10000 --seed 0

runs them in a process of their own, which a crash or a hang ends: it goes on after that file. It says how many of each
outcome there were; all but "taken", "refused" and "onnxruntime refuses" are faults, and kept in --keep.
"""

import argparse
import json
import linecache
import random
import selectors
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import compactrnn as cr
from compactrnn.onnx_import import ModelFile, lower
from compactrnn.onnx_import.model_file import NodeError
from compactrnn.onnx_import.verify import verify
from onnx_models import detector, node, save, tensor, written_out_step

SECONDS = 60  # after these a file hangs
GOOD = ("taken", "refused", "onnxruntime refuses")
NUMBERS = [0, -1, 1, 2, 3, 7, 100_000, 2**31, 2**62, -(2**63)]
FLOATS = [0.0, -1.0, 0.5, float("nan"), float("inf"), 1e30, 1e-30]
OPERATORS = """
Abs Add ArgMax AveragePool BatchNormalization Cast Clip Concat ConstantOfShape Conv ConvTranspose CumSum
DepthToSpace Div Einsum Equal Erf Expand Flatten Gather GatherElements GatherND Gemm GlobalAveragePool GRU
HardSigmoid Identity If InstanceNormalization LayerNormalization Less Loop LpNormalization LSTM MatMul Max MaxPool
Mod NonZero OneHot Pad Pow PRelu Range ReduceMax ReduceSum Reshape Resize ReverseSequence RNN ScatterElements
ScatterND Sigmoid Slice Softmax Split Squeeze Tanh Tile TopK Transpose Unsqueeze Where
""".split()


def numbers(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 0.4).astype(np.float32)


def sequence(path):
    """A strided convolution over features, padding, slicing and an LSTM."""
    nodes = [
        node("Conv", ["x", "k"], ["conv"], strides=[2], pads=[1, 1]),
        node("Pad", ["conv", "pads"], ["p"]),
        node("Slice", ["p", "from", "to", "axis"], ["s"]),
        node("Reshape", ["s", "shape"], ["r"]),
        node("LSTM", ["r", "W", "R", "", "", "h", "c"], ["y", "hn", "cn"], hidden_size=4),
    ]
    constants = {"k": numbers(3, 4, 3), "W": numbers(1, 16, 12), "R": numbers(1, 16, 4)}
    constants |= {"pads": np.array([0, 0, 1, 0, 0, 1]), "from": np.array([1]), "to": np.array([5])}
    constants |= {"axis": np.array([2]), "shape": np.array([-1, 1, 12])}
    inputs = [tensor("x", ["T", 4, 9]), *(tensor(n, [1, 1, 4]) for n in "hc")]
    return save(path, nodes, inputs, [tensor("y", None), *(tensor(n, [1, 1, 4]) for n in ("hn", "cn"))], constants)


def two_directions(path):
    """Token ids, a GRU of both directions, layer normalization, attention over all steps, a softmax."""
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("GRU", ["rows", "W", "R", "B"], ["all", ""], hidden_size=4, direction="bidirectional",
             linear_before_reset=1),
        node("Transpose", ["all"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "shape"], ["h"]),
        node("LayerNormalization", ["h", "scale", "shift"], ["normed"]),
        node("MatMul", ["normed", "head"], ["sums"]),
        node("Add", ["sums", "bias"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=0),
        node("Mul", ["weights", "normed"], ["weighted"], "weigh"),
        node("ReduceSum", ["weighted", "first"], ["context"], keepdims=0),
        node("Gemm", ["context", "last", "out"], ["y"], transB=1),
    ]  # fmt: skip
    constants = {"table": numbers(7, 5), "W": numbers(2, 12, 5), "R": numbers(2, 12, 4), "B": numbers(2, 24)}
    constants |= {"shape": np.array([0, 0, 8]), "scale": numbers(8), "shift": numbers(8), "head": numbers(8, 1)}
    constants |= {"bias": numbers(1), "first": np.array([0]), "last": numbers(3, 8), "out": numbers(3)}
    return save(path, nodes, [tensor("ids", ["T", 1], TensorProto.INT64)], [tensor("y", None)], constants)


def enhancer(path):
    """One step: convolutions in two dimensions and their cache, a GRU over frequencies, a transposed convolution."""
    nodes = [
        node("Concat", ["cache", "x"], ["both"], axis=2),
        node("Conv", ["both", "k", "kb"], ["conv"], strides=[1, 2], pads=[0, 1, 0, 1]),
        node("BatchNormalization", ["conv", "scale", "shift", "mean", "var"], ["normed"]),
        node("PRelu", ["normed", "slope"], ["act"]),
        node("Squeeze", ["act", "two"], ["bands"]),
        node("Transpose", ["bands"], ["seq"], perm=[2, 0, 1]),
        node("GRU", ["seq", "W", "R", "", "", "h"], ["inner", "h_out"], hidden_size=3, linear_before_reset=1),
        node("Squeeze", ["inner", "one"], ["flat"], "flat"),
        node("Transpose", ["flat"], ["back"], "turn", perm=[1, 2, 0]),
        node("Unsqueeze", ["back", "two"], ["wide"]),
        node("ConvTranspose", ["wide", "t"], ["up"], strides=[1, 2], pads=[0, 1, 0, 1]),
        node("Tanh", ["up"], ["y"]),
        node("Slice", ["both", "from", "to", "two"], ["cut"]),
        node("ScatterND", ["cut", "at", "zeros"], ["cache_out"]),
    ]
    constants = {"k": numbers(3, 2, 3, 3), "kb": numbers(3), "slope": numbers(3, 1, 1), "W": numbers(1, 9, 3)}
    constants |= {"R": numbers(1, 9, 3), "t": numbers(3, 2, 1, 3), "one": np.array([1]), "two": np.array([2])}
    constants |= {n: np.abs(numbers(3, seed=i)) + 0.5 for i, n in enumerate(("scale", "shift", "mean", "var"))}
    constants |= {"from": np.array([1]), "to": np.array([3]), "at": np.array([[0, 0, 0, 0]]), "zeros": numbers(1)}
    inputs = [tensor("x", [1, 2, 1, 9]), tensor("cache", [1, 2, 2, 9]), tensor("h", [1, 1, 3])]
    outputs = [tensor("y", None), tensor("cache_out", [1, 2, 2, 9]), tensor("h_out", [1, 1, 3])]
    return save(path, nodes, inputs, outputs, constants)


def cell(path):
    """An LSTM step written out, its states in one tensor, with a pooled head."""
    nodes = [
        *written_out_step(),
        node("Clip", ["h_", "low", "high"], ["clipped"]),
        node("Pow", ["clipped", "two"], ["squares"]),
        node("ReduceMean", ["squares"], ["mean"], axes=[1]),
        node("Sqrt", ["mean"], ["norm"]),
        node("Less", ["h_", "norm"], ["small"]),
        node("Where", ["small", "h_", "norm"], ["y"]),
    ]
    constants = {"weight": numbers(24, 11), "bias": numbers(24, seed=1), "two": np.float32(2)}
    constants |= {"low": np.float32(-0.5), "high": np.float32(0.5)}
    inputs, outputs = [tensor("x", [1, 5]), tensor("state", [2, 6])], [tensor("y", [1, 6]), tensor("stateN", [2, 6])]
    return save(path, nodes, inputs, outputs, constants, opset=13)


SOURCES = {  # what makes a file, and what it is lowered with
    "detector": (detector, {"constants": {"sr": 16000}}),
    "sequence": (sequence, {}),
    "two directions": (two_directions, {}),
    "enhancer": (enhancer, {}),
    "cell": (cell, {}),
}


def mutant(model, rng):
    """The model with one to three changes."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        try:
            rng.choice(CHANGES)(changed, rng)
        except (TypeError, ValueError):  # of a tensor that an earlier change has spoiled
            continue
    return changed


def _graph(model, rng):
    """The graph, or one within it."""
    graphs = [model.graph] * 3
    graphs += [a.g for n in model.graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return rng.choice(graphs)


def _node(model, rng):
    nodes = _graph(model, rng).node
    return rng.choice(nodes) if nodes else None


def _names(graph):
    found = [o for n in graph.node for o in n.output] + [t.name for t in graph.initializer]
    return [*found, *(v.name for v in graph.input), "", "no such name"]


def _operator(model, rng):
    if (made := _node(model, rng)) is not None:
        made.op_type = rng.choice(OPERATORS)


def _domain(model, rng):
    if (made := _node(model, rng)) is not None:
        made.domain = rng.choice(["com.microsoft", "ai.onnx", "ai.onnx.ml", "no.such"])


def _rewired(model, rng):
    if (made := _node(model, rng)) is not None and made.input:
        made.input[rng.randrange(len(made.input))] = rng.choice(_names(model.graph))


def _inputs_swapped(model, rng):
    if (made := _node(model, rng)) is not None and len(made.input) > 1:
        names = list(made.input)
        rng.shuffle(names)
        made.input[:] = names


def _input_count(model, rng):
    if (made := _node(model, rng)) is not None:
        if made.input and rng.random() < 0.5:
            del made.input[rng.randrange(len(made.input))]
        else:
            made.input.append(rng.choice(_names(model.graph)))


def _output_renamed(model, rng):
    if (made := _node(model, rng)) is not None and made.output:
        made.output[rng.randrange(len(made.output))] = rng.choice(_names(model.graph))


def _attribute_value(model, rng):
    made = _node(model, rng)
    if made is None or not made.attribute:
        return
    changed = rng.choice(made.attribute)
    if changed.ints:
        changed.ints[rng.randrange(len(changed.ints))] = rng.choice(NUMBERS)
    elif changed.type == onnx.AttributeProto.STRING:
        changed.s = rng.choice([b"", b"forward", b"reverse", b"bidirectional", b"SAME_LOWER", b"reflect", b"\xff"])
    else:
        changed.i, changed.f = rng.choice(NUMBERS), rng.choice(FLOATS)


def _attribute_length(model, rng):
    made = _node(model, rng)
    if made is not None and made.attribute:
        changed = rng.choice(made.attribute)
        changed.ints.extend(rng.choices(NUMBERS, k=rng.randrange(3)))
        if changed.ints and rng.random() < 0.5:
            del changed.ints[0]


def _attribute_kind(model, rng):
    made = _node(model, rng)
    if made is not None and made.attribute:
        changed = rng.choice(made.attribute)
        name = rng.choice([changed.name, "axis", "axes", "to", "no_such", "mode"])
        value = rng.choice([1, 0.5, "text", [1, 2], [0.5], ["Tanh"], numpy_helper.from_array(numbers(2))])
        changed.CopyFrom(helper.make_attribute(name, value))


def _attribute_gone(model, rng):
    made = _node(model, rng)
    if made is not None and made.attribute:
        del made.attribute[rng.randrange(len(made.attribute))]


def _stored_value(model, rng):
    stored = rng.choice(model.graph.initializer)
    values = numpy_helper.to_array(stored).copy()
    if values.size:
        pool = NUMBERS if values.dtype.kind in "iu" else FLOATS
        values.reshape(-1)[rng.randrange(values.size)] = np.asarray(rng.choice(pool)).astype(values.dtype)
        stored.CopyFrom(numpy_helper.from_array(values, stored.name))


def _stored_shape(model, rng):
    stored = rng.choice(model.graph.initializer)
    if stored.dims and rng.random() < 0.5:
        stored.dims[rng.randrange(len(stored.dims))] = rng.choice(NUMBERS)
        return
    values = numpy_helper.to_array(stored)
    kind = rng.randrange(3)
    shaped = (
        values[None] if kind == 0 else values.reshape(-1) if kind == 1 else values[..., :-1] if values.ndim else values
    )
    stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(shaped), stored.name))


def _stored_type(model, rng):
    stored = rng.choice(model.graph.initializer)
    values = numpy_helper.to_array(stored)
    kind = rng.choice([np.float64, np.float16, np.int32, np.int64, np.uint8, bool])
    with np.errstate(invalid="ignore"):
        stored.CopyFrom(numpy_helper.from_array(values.astype(kind), stored.name))


def _stored_raw(model, rng):
    stored = rng.choice(model.graph.initializer)
    stored.raw_data = stored.raw_data[: rng.randrange(len(stored.raw_data) + 1)]
    if rng.random() < 0.3:
        stored.data_type = rng.randrange(25)


def _stored_gone(model, rng):
    del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def _port_size(model, rng):
    dims = rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.shape.dim
    if dims:
        dim = dims[rng.randrange(len(dims))]
        if rng.random() < 0.5:
            dim.dim_value = rng.choice([*NUMBERS, 4, 5, 6])
        else:
            dim.dim_param = rng.choice(["", "batch", "T", "other"])


def _port_rank(model, rng):
    dims = rng.choice(model.graph.input).type.tensor_type.shape.dim
    if dims and rng.random() < 0.5:
        del dims[rng.randrange(len(dims))]
    else:
        dims.add().dim_value = rng.choice([1, 2])


def _port_type(model, rng):
    rng.choice(model.graph.input).type.tensor_type.elem_type = rng.randrange(25)


def _port_name(model, rng):
    rng.choice([*model.graph.input, *model.graph.output]).name = rng.choice(_names(model.graph))


def _port_gone(model, rng):
    ports = rng.choice([model.graph.input, model.graph.output])
    if len(ports) > 1:
        del ports[rng.randrange(len(ports))]


def _node_gone(model, rng):
    nodes = _graph(model, rng).node
    if len(nodes) > 1:
        del nodes[rng.randrange(len(nodes))]


def _nodes_swapped(model, rng):
    nodes = model.graph.node
    if len(nodes) > 1:
        a, b = rng.sample(range(len(nodes)), 2)
        first, second = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(nodes[a])
        second.CopyFrom(nodes[b])
        nodes[a].CopyFrom(second)
        nodes[b].CopyFrom(first)


def _node_added(model, rng):
    """Of one input, between a node and those that read it."""
    nodes = model.graph.node
    place = rng.randrange(len(nodes))
    if nodes[place].output and nodes[place].output[0]:
        name = nodes[place].output[0]
        added = helper.make_node(rng.choice(OPERATORS), [name], [f"{name}/added"], name="added")
        for other in nodes[place + 1 :]:
            for number, given in enumerate(other.input):
                if given == name:
                    other.input[number] = f"{name}/added"
        nodes.insert(place + 1, added)


def _versions(model, rng):
    model.opset_import[0].version = rng.choice([-1, 0, 1, 6, 7, 9, 11, 12, 13, 14, 15, 18, 21, 24, 1000])


CHANGES = [
    _operator, _domain, _rewired, _rewired, _inputs_swapped, _input_count, _output_renamed, _attribute_value,
    _attribute_value, _attribute_length, _attribute_kind, _attribute_gone, _stored_value, _stored_value, _stored_shape,
    _stored_type, _stored_raw, _stored_gone, _port_size, _port_size, _port_rank, _port_type, _port_name, _port_gone,
    _node_gone, _nodes_swapped, _node_added, _versions,
]  # fmt: skip


def outcome(path, options):
    """What becomes of a file, and what is said of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lowered = lower(ModelFile.read(path), **options)
        except Exception as error:
            return _refusal(error)
        try:
            checks, _ = verify(lowered, [])
        except cr.UnsupportedModelError as error:  # infinite weights have no right answer
            return ("differs" if _finite(lowered) else "refused"), str(error)
        except Exception as error:
            return _refusal(error)
    skipped = [c.skipped for c in checks if c.skipped]
    return ("onnxruntime refuses", str(skipped[0])) if skipped else ("taken", "")


def _finite(lowered):
    arrays = (t for t in lowered.file.graph.initializer if t.data_type == TensorProto.FLOAT)
    return all(np.isfinite(numpy_helper.to_array(t)).all() for t in arrays)


def _refusal(error):
    """Ours are errors about models, and errors of values that are raised as such."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, NodeError) and error.internal:
        return "internal error", text
    if isinstance(error, cr.UnsupportedModelError | cr.ModelFileError):
        return "refused", text
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file, line = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ("", 0)
    raised = "raise" in linecache.getline(file, line) and "compactrnn" in file
    ours = type(error) is ValueError and (raised or "_errors.py" in file)
    return ("refused" if ours else "foreign error"), f"{text} ({file}:{line})"


def made(source, folder):
    make, options = SOURCES[source]
    return onnx.load(make(Path(folder) / "source.onnx")), options


def each(sources, count, seed, start=0, folder=None):
    """Number, source, outcome and words of each of `count` mutants."""
    with tempfile.TemporaryDirectory() as work:
        models = {source: made(source, work) for source in sources}
        for number in range(start, count):
            source = sources[number % len(sources)]
            model, options = models[source]
            data = mutant(model, random.Random(f"{seed} {number}")).SerializeToString()
            path = Path(folder or work) / "mutant.onnx"
            path.write_bytes(data)
            yield number, source, *outcome(path, options)


def child(given):
    print(json.dumps("ready"), flush=True)
    for row in each(given.sources.split(","), given.count, given.seed, given.start, given.folder):
        print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--keep", type=Path, help="a folder for the files that are faults")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        child(given)
        return 0
    found, faults = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        number = given.start
        while number < given.count:
            for row in _run(given, number, Path(folder)):
                number, source, what, words = row
                found[what] += 1
                if what not in GOOD:
                    faults.append(row)
                    print(f"{number} {source}: {what}: {words}", flush=True)
                    if given.keep:
                        given.keep.mkdir(parents=True, exist_ok=True)
                        (given.keep / f"{number}.onnx").write_bytes((Path(folder) / "mutant.onnx").read_bytes())
                number += 1
    print(json.dumps({"seed": given.seed, "count": given.count, "outcomes": found}, indent=2))
    return 1 if faults else 0


def _run(given, start, folder):
    """Rows of a process, until it ends; the last says how, if it did not end by itself."""
    arguments = ["--count", given.count, "--seed", given.seed, "--sources", given.sources, "--start", start]
    command = [sys.executable, __file__, *map(str, arguments), "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    number, waiting = start - 1, selectors.DefaultSelector()
    waiting.register(process.stdout, selectors.EVENT_READ)
    sources = given.sources.split(",")
    while number < given.count - 1:
        ready = waiting.select(SECONDS)
        line = process.stdout.readline() if ready else ""
        if not line:
            what = "crash" if ready else "hang"
            process.kill()
            process.wait()
            yield number + 1, sources[(number + 1) % len(sources)], what, f"exit code {process.returncode}"
            return
        row = json.loads(line)
        if row != "ready":
            number = row[0]
            yield row
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
