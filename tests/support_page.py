"""Write docs/support.md: python tests/support_page.py

Every row is tried: a small model of the operator is lowered in each place.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn
from torch.nn import functional as F

import compactrnn as cr
from compactrnn.lower import lower as lower_torch
from compactrnn.lower.visitor import known_operations
from compactrnn.onnx_import import ModelFile, lower
from compactrnn.onnx_import.visitor import operators
from onnx_models import save, tensor

PAGE = Path(__file__).resolve().parents[1] / "docs" / "support.md"
HEAD = """# What is taken

Which operators `cr.pack` takes, and where. The page is made by `python tests/support_page.py`, which lowers a small
model of each in each place:

- *one step*: an ONNX file of which one call is one step;
- *each step*: within the steps of a sequence, each for itself;
- *across steps*: along the time axis. "stream" means that the engine still runs step by step, "offline" that it needs
  the whole sequence first, "no" that it is refused. Where an operator has no axis there is nothing across steps.

Whether a model is taken also depends on the other operators and on shapes; `compactrnn info FILE.onnx` says it of a
file, and a refusal names the operator, what is missing and where the file can be cut ([onnx.md](onnx.md)).
"""
ONNX = """
## Operators of ONNX

Of the operator sets that the installed `onnx` package knows. What no row names is refused. An `If` is taken where its
condition depends on no data, and a `Loop` where the number of its rounds does not, with sequences of tensors; of as
many rounds as there are steps, each of which reads one, it runs as a `Scan`.
`DynamicQuantizeLSTM`, `MatMulInteger`, `ConvInteger`, `DynamicQuantizeLinear`, `DynamicQuantizeMatMul`,
`MatMulIntegerToFloat`, `MatMulNBits`, `QGemm`, the `QLinear` forms of `Add`, `AveragePool`, `Concat`, `Conv`,
`GlobalAveragePool`, `LeakyRelu`, `MatMul`, `Mul`, `ReduceMean`, `Sigmoid`, `Softmax` and `Where`, and pairs of
`QuantizeLinear` and `DequantizeLinear` become float first. `BiasGelu`, `FastGelu`, `FusedMatMul`, `QuickGelu` and the
norms that skip are those of onnxruntime, of the domain `com.microsoft`; `FusedConv` and `FusedGemm` are taken apart.
All operators are taken where they depend on no data.

| operator | one step | each step | across steps |
|---|---|---|---|
"""
TORCH = """
## Operations of torch

What torch.export gives for a model is broken down into these operations of ATen:

```text
{names}
```

**Convolutions over time** stream if they are padded before the first step alone, with `F.pad`, `nn.ZeroPad2d` or
`nn.ConstantPad2d`, or if what is padded behind is cut off right after them. Along other axes padding, stride, dilation
and groups are free. The batch norm after a convolution is in its weights.

Where a kernel of even size gives one result too many, what is made of each step may stand before the cut, as in the
convolution banks of Tacotron.

Without padding they leave out results at the ends: the engine is then offline, and gives as many as the model.

**Loops.** A model may loop over time in Python, over `nn.LSTMCell`, calls of a layer for one step or a step of its own,
where every step does the same and states start from constants ([steps.md](steps.md#a-loop-over-a-cell)).

**Tokens.** One token a step is an integer, which the engine checks. A step of several, as the letters of a word, or
categories beside numbers, is an input of so many numbers, `(letters,)`; a token that is in no row of its table makes
what is looked up at this step NaN. The rows of an `nn.EmbeddingBag` are such inputs, at every step or once a sequence;
bags from offsets are refused.

**Strides over time.** Where convolutions, pooling or stacked frames give fewer steps than they get, a step of the
engine is as many frames as make one result of each ([steps.md](steps.md#a-step-of-several-frames)).

**Layers over two axes.** In a dual-path model one layer runs over the bands of each step and another over time, for
every band. Both pack: the first runs again at every step, in one direction or both, and the second has a state for each
band. Time is the axis along which no layer is bidirectional and the model streams; where that holds for both,
`cr.pack(..., time=1)` says that it is axis 1 of the first input.

**Autoencoders of sequences**: a layer whose input is the same at every step, such as the last state of an encoder that
is repeated, runs for whole sequences. So does one that starts from a state which is computed from the sequence, such as
a decoder that starts from the states of its encoder.

**Attention over all steps**, softmax(q k^T) v, makes the engine offline: every step reads keys and values of the whole
sequence, or, with a causal mask, of the steps up to its own. It is taken from `F.scaled_dot_product_attention`,
`nn.MultiheadAttention`, `nn.TransformerEncoderLayer` and written out, with any number of heads, also ones that share
keys, and a scale that does not depend on the number of steps; from ONNX files as `MatMul`, `Mul`, `Add`, `Where`,
`Softmax`, `MatMul`, as `Einsum` and as `Attention`. A mask is a constant of zeros and numbers of -10,000 or less, or a
condition, made of the number of steps; it is compared on sequences of up to 1,151 steps and must be that of the steps
to come, or none (one that is kept for so many steps, `self.mask[:T, :T]`, makes the engine refuse longer sequences); or
a number or a condition for each key that is computed from data or given as an input; or both, one after the other or as
one mask (`attn_mask` and `key_padding_mask`). Where they leave a query no step, the result is NaN, or zeros where torch
has them in training (`need_weights=False`, `F.scaled_dot_product_attention`). Refused are windows, biases by distance,
weights that are given out, and scores that are no products.

**Positions**: what follows from the position alone, such as a learned table (`self.table(torch.arange(T))`,
`self.table[:, :T]`), waves or rotary embeddings, is looked up by a count of the steps, in a stream, too, as far as the
table goes ([steps.md](steps.md#positions)). What depends on the position and the number of steps, as t / T, is refused.

**Programs.** `pack` takes a `torch.export.ExportedProgram` and a TorchScript module that is in memory, and makes its
calls of `aten.lstm`, `aten.gru`, `aten.rnn_tanh` and `aten.rnn_relu` layers again
([steps.md](steps.md#exported-and-scripted-models)). The files are yours to load, by `torch.export.load` and
`torch.jit.load`: both formats hold pickles, and nothing here loads one. Refused are programs of train mode and after
`run_decompositions()`, and TorchScript that branches on values of tensors, loops over steps, or keeps attributes from
call to call.

In terms of what a model calls:

| call | each step | across steps |
|---|---|---|
"""
STEP = [1, 3, 8]  # of one step; of a sequence T comes first in place of 1


def numbers(*shape):
    return (np.random.default_rng(0).normal(size=shape) * 0.4).astype(np.float32)


CONSTANTS = {
    "b": numbers(8), "c": numbers(3), "v": np.abs(numbers(3)) + 1, "two": np.float32(2), "low": np.float32(-1),
    "three": np.int64(3), "zero": np.int64(0), "m1": np.array([-1]), "i0": np.array([0]), "i1": np.array([1]),
    "i2": np.array([2]), "i9": np.array([10**9]), "k": numbers(4, 3, 3),
    "t": numbers(3, 4, 3), "w": numbers(8, 5), "g": numbers(6, 24), "gb": numbers(6),
    "pads": np.array([0, 0, 1, 0, 0, 1]),
    "wide": np.array([1, 3, 8]), "times": np.array([1, 1, 2]),
    "at": np.array([[0, 1]]), "row": numbers(1, 8), "W": numbers(1, 12, 8), "R": numbers(1, 12, 3),
    "V": numbers(1, 9, 8),
    "U": numbers(1, 9, 3), "P": numbers(1, 3, 8), "Q": numbers(1, 3, 3), 
    "picks": np.zeros((1, 3, 2), np.int64), "update": numbers(1, 3, 2),
    "shapeT": np.array([-1, 24]), "past": np.array([2, 0, 0, 0, 0, 0]),
    "kt": numbers(4, 8, 3), "tt": numbers(8, 4, 3), "c8": numbers(8), "v8": np.abs(numbers(8)) + 1,
    "ids": np.array([0, 2]), "depth": np.array(24), "ends": np.array([0.0, 1.0], np.float32),
    "W8": numbers(1, 12, 24), "V8": numbers(1, 9, 24), "P8": numbers(1, 3, 24), "flatT": np.array([0, 1, 24]),
}  # fmt: skip


def made(op, *given, name="main", to="y", **attributes):
    return helper.make_node(op, given, [to], name=f"{name}_{to}", **attributes)


def plain(*ops):
    return {op: [made(op, "x")] for op in ops}


def logic(op):
    return [made("Less", "x", "b", to="p"), made("Less", "b", "x", to="q"),
            made(op, "p", *([] if op == "Not" else ["q"]), to="r"), made("Cast", "r", to="y")]  # fmt: skip


def compared(op):
    return [made(op, "x", "b", to="p"), made("Cast", "p", to="y")]


def rnn(op, x="seq", direction="forward"):
    matrices = {"LSTM": ["W", "R"], "GRU": ["V", "U"], "RNN": ["P", "Q"]}[op]
    return [made(op, x, *matrices, hidden_size=3, direction=direction)]


def scanned(x, axis):
    """The sums of all up to each entry along an axis of x."""
    body = helper.make_graph(
        [made("Add", "s", "x_t", to="s_"), made("Identity", "s_", to="y_t")], "body",
        [tensor("s", [1, 3]), tensor("x_t", [1, 3])], [tensor("s_", [1, 3]), tensor("y_t", [1, 3])],
    )  # fmt: skip
    axes = dict(scan_input_axes=[axis], scan_output_axes=[axis])
    return [helper.make_node("Scan", ["c3", x], ["end", "y"], name="main", num_scan_inputs=1, body=body, **axes)]


# By operator: nodes from x to y, along the last axis of x.
WITHIN = {
    **plain("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos",
            "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
            "Identity", "Dropout", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round",
            "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan",
            "Tanh", "ThresholdedRelu"),
    **{op: [made(op, "x", *more, domain="com.microsoft")] for op, more in (
        ("BiasGelu", ["b"]), ("FastGelu", []), ("QuickGelu", []), ("FusedMatMul", ["w"]),
        ("SkipLayerNormalization", ["x", "b", "b"]), ("SkipSimplifiedLayerNormalization", ["x", "b"]))},
    "SimplifiedLayerNormalization": [made("SimplifiedLayerNormalization", "x", "b", axis=-1, epsilon=1e-5)],
    "RMSNormalization": [made("RMSNormalization", "x", "b")],
    "Hardmax": [made("Hardmax", "x")], "Resize": [made("Resize", "x", "", "doubled", mode="linear")],
    "Upsample": [made("Upsample", "x", "doubled")],
    **{op: [made(op, "x", "b")] for op in ("Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Sub", "Sum")},
    **{op: compared(op) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: logic(op) for op in ("And", "Not", "Or", "Xor")},
    **{op: [made(op, "x", axis=2)] for op in ("LogSoftmax", "Softmax", "LpNormalization")},
    **{op: [made(op, "x", "i2")] for op in (
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
        "ReduceSumSquare")},
    **{op: [made(op, "x", axis=2, to="i"), made("Cast", "i", to="y")] for op in ("ArgMax", "ArgMin")},
    "Cast": [made("Cast", "x", to="i"), made("Cast", "i", to="y")],
    "CastLike": [made("CastLike", "x", "zero", to="i"), made("Cast", "i", to="y")],
    "Mod": [made("Cast", "x", to="i"), made("Mod", "i", "three", to="j"), made("Cast", "j", to="y")],
    "Pow": [made("Pow", "x", "two")], "Clip": [made("Clip", "x", "low", "two")],
    "Where": [made("Less", "x", "b", to="p"), made("Where", "p", "x", "b")],
    "AveragePool": [made("AveragePool", "x", kernel_shape=[2], strides=[2])],
    "MaxPool": [made("MaxPool", "x", kernel_shape=[2], strides=[2])],
    "GlobalAveragePool": [made("GlobalAveragePool", "x")], "GlobalMaxPool": [made("GlobalMaxPool", "x")],
    "Conv": [made("Conv", "x", "k", strides=[2])], "ConvTranspose": [made("ConvTranspose", "x", "t", strides=[2])],
    "BatchNormalization": [made("BatchNormalization", "x", "c", "c", "c", "v")],
    "InstanceNormalization": [made("InstanceNormalization", "x", "c", "c")],
    "GroupNormalization": [made("GroupNormalization", "x", "c", "c", num_groups=1)],
    "LayerNormalization": [made("LayerNormalization", "x", "b")],
    "Attention": [made("Attention", "x", "x", "x", q_num_heads=2, kv_num_heads=2)],
    "MatMul": [made("MatMul", "x", "w")], "Einsum": [made("Einsum", "x", "w", equation="tci,io->tco")],
    "Gemm": [made("Flatten", "x", to="f"), made("Gemm", "f", "g", "gb", transB=1)],
    "Concat": [made("Concat", "x", "x", axis=2)], "Flatten": [made("Flatten", "x")],
    "Expand": [made("Unsqueeze", "x", "i1", to="u"), made("Expand", "u", "wide")],
    "Gather": [made("Gather", "x", "ids", axis=2)], "GatherElements": [made("GatherElements", "x", "picks", axis=2)],
    "GatherND": [made("Squeeze", "x", "i0", to="s"), made("GatherND", "s", "at")],
    "ScatterElements": [made("ScatterElements", "x", "picks", "update", axis=2)],
    "ScatterND": [made("Squeeze", "x", "i0", to="s"), made("ScatterND", "s", "nd1", "row")],
    "Pad": [made("Pad", "x", "pads")], "Reshape": [made("Reshape", "x", "shapeT")],
    "Slice": [made("Slice", "x", "i1", "i9", "i2")],
    "Split": [helper.make_node("Split", ["x"], ["y", "other"], axis=2, num_outputs=2, name="split")],
    "Squeeze": [made("Unsqueeze", "x", "i2", to="u"), made("Squeeze", "u", "i2")],
    "Unsqueeze": [made("Unsqueeze", "x", "i2")], "Tile": [made("Tile", "x", "times")],
    "Transpose": [made("Transpose", "x", perm=[0, 2, 1])],
    "DepthToSpace": [made("Reshape", "x", "blocks", to="u"), made("DepthToSpace", "u", blocksize=2)],
    "SpaceToDepth": [made("Reshape", "x", "image", to="u"), made("SpaceToDepth", "u", blocksize=2)],
    "CumSum": [made("CumSum", "x", "last")], "Scan": scanned("x", 2),
    "DFT": [made("Unsqueeze", "x", "i3", to="u"), made("DFT", "u", "", "last", onesided=1)],
    "STFT": [made("Reshape", "x", "shapeT", to="u"), made("STFT", "u", "hop", "", "hop8")],
    "ReverseSequence": [made("Transpose", "x", to="u", perm=[2, 0, 1]),
                        made("ReverseSequence", "u", "lengths", time_axis=0, batch_axis=1)],
    "OneHot": [made("Reshape", "x", "shapeT", to="f"), made("ArgMax", "f", to="i", axis=1, keepdims=0),
               made("OneHot", "i", "depth", "ends")],
    "TopK": [made("Reshape", "x", "shapeT", to="f"),
             helper.make_node("TopK", ["f", "i2"], ["y", "places"], name="top")],
    **{op: [made("Transpose", "x", to="seq", perm=[1, 0, 2]), *rnn(op)] for op in ("LSTM", "GRU", "RNN")},
}  # fmt: skip

# Along time, of x (T, 3, 8), or of c (1, 8, T).
ACROSS = {
    **{op: [made(op, "x", axis=0)] for op in ("LogSoftmax", "Softmax", "LpNormalization")},
    **{op: [made(op, "x", "i0")] for op in (
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
        "ReduceSumSquare")},
    **{op: [made(op, "x", axis=0, to="i"), made("Cast", "i", to="y")] for op in ("ArgMax", "ArgMin")},
    "AveragePool": [made("AveragePool", "channels", kernel_shape=[3], pads=[2, 0], count_include_pad=1)],
    "MaxPool": [made("MaxPool", "channels", kernel_shape=[3], pads=[2, 0])],
    "GlobalAveragePool": [made("GlobalAveragePool", "channels")], "GlobalMaxPool": [made("GlobalMaxPool", "channels")],
    "Conv": [made("Conv", "channels", "kt", pads=[2, 0])],
    "ConvTranspose": [made("ConvTranspose", "channels", "tt", to="l"), made("Slice", "l", "i0", "back2", "i2")],
    **{f"{op}, with stride": [made(op, "channels", *more, strides=[2], **options)] for op, more, options in (
        ("Conv", ["kt"], dict(pads=[1, 1])), ("ConvTranspose", ["tt"], dict(pads=[0, 1])),
        ("MaxPool", [], dict(kernel_shape=[2])), ("AveragePool", [], dict(kernel_shape=[2])))},
    "InstanceNormalization": [made("InstanceNormalization", "channels", "c8", "c8")],
    "BatchNormalization": [made("BatchNormalization", "channels", "c8", "c8", "c8", "v8")],
    "GroupNormalization": [made("GroupNormalization", "channels", "c8", "c8", num_groups=2)],
    "MatMul": [made("Reshape", "x", "shapeT", to="f"), made("Transpose", "f", to="u", perm=[1, 0]),
               made("MatMul", "f", "u", to="s"), made("Softmax", "s", to="p"), made("MatMul", "p", "f")],
    "Einsum": [made("Reshape", "x", "shapeT", to="f"), made("Einsum", "f", "f", equation="tc,sc->ts", to="s"),
               made("Softmax", "s", to="p"), helper.make_node("Einsum", ["p", "f"], ["y"], equation="ts,sc->tc")],
    "Attention": [made("Transpose", "x", to="u", perm=[1, 0, 2]),
                  made("Attention", "u", "u", "u", q_num_heads=2, kv_num_heads=2)],
    "Concat": [made("Concat", "zeros", "x", axis=0, to="p"), made("Slice", "p", "i0", "m1", "i0")],
    "Gather": [made("Gather", "x", "back1", axis=0)], "Pad": [made("Pad", "x", "past", to="p"),
                                                              made("Slice", "p", "i0", "back2", "i0")],
    "TopK": [made("Reshape", "x", "shapeT", to="f"),
             helper.make_node("TopK", ["f", "i1"], ["y", "places"], name="top", axis=0)],
    "Scan": [made("Slice", "channels", "i0", "three1", "i1", to="u"), *scanned("u", 2)],
    "STFT": [made("Squeeze", "channels", "i0", to="u"), made("Pad", "u", "ahead", to="p"),
             made("STFT", "p", "hop", "", "hop8")],
    "Hardmax": [made("Hardmax", "x", axis=0)], "Resize": [made("Resize", "x", "", "longer", mode="nearest")],
    "Upsample": [made("Upsample", "x", "longer")],
    "Slice": [made("Slice", "x", "back1v", "i9", "i0")], "CumSum": [made("CumSum", "x", "zero")],
    **{op: [made("Reshape", "x", "flatT", to="seq"),
            made(op, "seq", *{"LSTM": ["W8", "R"], "GRU": ["V8", "U"], "RNN": ["P8", "Q"]}[op], hidden_size=3)]
       for op in ("LSTM", "GRU", "RNN")},
    **{f"{op}, both directions": [
        made("Reshape", "x", "flatT", to="seq"),
        made(op, "seq", *{"LSTM": ["W2", "R2"], "GRU": ["V2", "U2"], "RNN": ["P2", "Q2"]}[op], hidden_size=3,
             direction="bidirectional")] for op in ("LSTM", "GRU", "RNN")},
}  # fmt: skip
CONSTANTS |= {
    "i3": np.array([3]), "three1": np.array([3]), "c3": numbers(1, 3), "hop": np.int64(4), "hop8": np.int64(8),
    "ahead": np.array([0, 4, 0, 0]),
    "doubled": np.array([1, 1, 2], np.float32), "longer": np.array([2, 1, 1], np.float32),
    "nd1": np.array([[1]]), "last": np.int64(2), "lengths": np.array([8]), "back1": np.int64(-1),
    "back1v": np.array([-1]), "back2": np.array([-2]), "zeros": numbers(1, 3, 8), "blocks": np.array([-1, 8, 1, 3]),
    "image": np.array([-1, 1, 4, 6]),
    **{f"{n[0]}2": np.concatenate([CONSTANTS[n]] * 2) for n in ("W8", "V8", "P8")},
    **{f"{n}2": np.concatenate([CONSTANTS[n]] * 2) for n in ("R", "U", "Q")},
}  # fmt: skip
NO_FLOAT = {"IsInf", "IsNaN"}
TO = {"Cast": 7, "Mod": 7}


def file_of(op, nodes, form, path):
    """A file of these nodes: one step with a state, a sequence, or a sequence with channels first."""
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    casts = [n for n in nodes if n.op_type == "Cast" and not n.attribute]
    for n in casts:
        whole = n.output[0] == "i" and op in TO
        n.attribute.append(helper.make_attribute("to", TO[op] if whole else 1))
    if op in NO_FLOAT:
        nodes[-1].output[0] = "flag"
        nodes.append(helper.make_node("Cast", ["flag"], ["y"], to=1, name="as_float"))
    channels = any("channels" in n.input for n in nodes)
    shape = STEP if form == "step" else [1, 8, "T"] if channels else ["T", *STEP[1:]]
    inputs, outputs = [tensor("channels" if channels else "x", shape)], [tensor("y", None)]
    if form == "step":
        nodes.append(helper.make_node("Neg", ["state"], ["state_out"], name="kept"))
        inputs.append(tensor("state", [1, 2]))
        outputs.append(tensor("state_out", [1, 2]))
    used = {name: v for name, v in CONSTANTS.items() if any(name in n.input for n in nodes)}
    opset = {"Swish": 24, "GroupNormalization": 21, "Attention": 23, "RMSNormalization": 23, "Upsample": 9}.get(op, 20)
    return save(path, nodes, inputs, outputs, used, opset)


def tried(op, nodes, form):
    """Whether it is lowered: "yes", "no"; of a sequence whether it streams."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = file_of(op, nodes, form, Path(folder) / "m.onnx")
        arguments = {"states": {"state": "state_out"}} if form == "step" else {"time": "T"}
        try:
            program = lower(ModelFile.read(path), **arguments).program
        except cr.UnsupportedModelError:
            return "no"
    if form == "across":
        return "offline" if program.offline else "stream"
    return "yes" if form == "step" or not program.offline else "offline"


def onnx_rows():
    if missing := {*operators()} ^ {*WITHIN}:
        raise SystemExit(f"support_page.py: expected a model for each operator, got other ones: {sorted(missing)}")
    rows = []
    for op, nodes in sorted(WITHIN.items()):
        across = [tried(op, ACROSS[op], "across")] if op in ACROSS else []
        if f"{op}, both directions" in ACROSS:
            across.append(f"both directions {tried(op, ACROSS[f'{op}, both directions'], 'across')}")
        if f"{op}, with stride" in ACROSS:
            across.append(f"with stride {tried(op, ACROSS[f'{op}, with stride'], 'across')}")
        row = [f"`{op}`", tried(op, nodes, "step"), tried(op, nodes, "sequence"), ", ".join(across)]
        rows.append(f"| {' | '.join(row)} |\n")
    return "".join(rows)


class Model(nn.Module):
    """A layer, then a function of its output (batch, time, 8)."""

    def __init__(self, function):
        super().__init__()
        self.gru, self.function = nn.GRU(4, 8, batch_first=True), function
        self.conv, self.strided, self.transposed = (
            nn.Conv1d(8, 4, 3),
            nn.Conv1d(8, 4, 2, stride=2),
            nn.ConvTranspose1d(8, 4, 3),
        )
        self.inner = nn.GRU(2, 3, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 3, batch_first=True, bidirectional=True)
        self.group, self.conv2d, self.bands = nn.GroupNorm(2, 8), nn.Conv2d(1, 2, (2, 3)), nn.Conv2d(1, 2, (1, 3))
        self.batch, self.up = nn.BatchNorm2d(1), nn.ConvTranspose2d(1, 2, (1, 3), (1, 2))
        self.up1d, self.stacked = nn.ConvTranspose1d(8, 4, 2, 2), nn.GRU(16, 3, batch_first=True)
        self.up_both, self.shared = nn.ConvTranspose2d(1, 2, (2, 3), (1, 2)), nn.GRU(2, 3, batch_first=True)

    def forward(self, x):
        return self.function(self, self.gru(x)[0])


def _windows(m, h):
    return F.scaled_dot_product_attention(h, h, h, is_causal=True)


# By call: of the model and its layer's output, within each step and along time.
CALLS = {
    "sum, mean": (lambda m, h: h.sum(-1) + h.mean(-1), lambda m, h: h.sum(1) + h.mean(1)),
    "amax, amin": (lambda m, h: h.amax(-1) + h.amin(-1), lambda m, h: h.amax(1) + h.amin(1)),
    "argmax": (lambda m, h: h.argmax(-1), lambda m, h: h.argmax(1)),
    "topk": (lambda m, h: h.topk(2, -1)[0], lambda m, h: h.topk(2, 1)[0]),
    "var, std": (lambda m, h: h.var(-1) + h.std(-1), lambda m, h: h.var(1) + h.std(1)),
    "logsumexp": (lambda m, h: h.logsumexp(-1), lambda m, h: h.logsumexp(1)),
    "cumsum": (lambda m, h: h.cumsum(-1), lambda m, h: h.cumsum(1)),
    "softmax, log_softmax": (lambda m, h: h.softmax(-1), lambda m, h: h.softmax(1)),
    "layer_norm": (lambda m, h: F.layer_norm(h, (8,)), None),
    "GroupNorm": (lambda m, h: m.group(h.flatten(0, 1)).view_as(h), lambda m, h: m.group(h.mT).mT),
    "normalize": (lambda m, h: F.normalize(h, dim=-1), lambda m, h: F.normalize(h, dim=1)),
    "glu": (lambda m, h: F.glu(h, -1), lambda m, h: F.glu(h, 1)),
    "where, comparisons": (lambda m, h: torch.where(h > 0, h, -h), None),
    "cat": (lambda m, h: torch.cat([h, h], -1), lambda m, h: torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)),
    "flip": (lambda m, h: h.flip(-1), lambda m, h: h.flip(1)),
    "index of one step": (None, lambda m, h: h[:, -1]),
    "shifted by a step": (None, lambda m, h: F.pad(h[:, :-1], (0, 0, 1, 0))),
    "Conv1d": (
        lambda m, h: m.conv(h.flatten(0, 1)[:, :, None].expand(-1, -1, 4)), lambda m, h: m.conv(F.pad(h.mT, (2, 0)))
    ),
    "Conv1d with stride": (
        lambda m, h: m.strided(h.flatten(0, 1)[:, :, None].expand(-1, -1, 4)), lambda m, h: m.strided(h.mT)
    ),
    "ConvTranspose1d with stride": (None, lambda m, h: m.up1d(h.mT)),
    "ConvTranspose1d": (None, lambda m, h: m.transposed(h.mT)[..., :-2]),
    "Conv2d": (lambda m, h: m.bands(h[:, None]), lambda m, h: m.conv2d(F.pad(h[:, None], (1, 1, 1, 0)))),
    "ConvTranspose2d": (lambda m, h: m.up(h[:, None]), lambda m, h: m.up_both(h[:, None])[:, :, :-1]),
    "BatchNorm2d": (lambda m, h: m.batch(h[:, None]), None),
    "max_pool2d, avg_pool2d": (
        lambda m, h: F.max_pool2d(h[:, None], (1, 2)) + F.avg_pool2d(h[:, None], (1, 2)),
        lambda m, h: F.max_pool2d(F.pad(h[:, None], (0, 0, 1, 0)), (2, 1), 1),
    ),
    "max_pool1d": (lambda m, h: F.max_pool1d(h, 2), lambda m, h: F.max_pool1d(F.pad(h.mT, (2, 0)), 3, 1)),
    "avg_pool1d": (lambda m, h: F.avg_pool1d(h, 2), lambda m, h: F.avg_pool1d(F.pad(h.mT, (2, 0)), 3, 1)),
    "max_pool1d, avg_pool1d with stride": (None, lambda m, h: F.max_pool1d(h.mT, 2) + F.avg_pool1d(h.mT, 2)),
    "max_pool2d with stride over both axes": (None, lambda m, h: F.max_pool2d(h[:, None], 2)),
    "every second step": (None, lambda m, h: h[:, ::2]),
    "frames stacked by view": (None, lambda m, h: h.reshape(len(h), -1, 16)),
    "GRU of stacked frames": (None, lambda m, h: m.stacked(h.reshape(len(h), -1, 16))[0]),
    "adaptive_max_pool1d": (None, lambda m, h: F.adaptive_max_pool1d(h.mT, 1)),
    "matmul of two values": (lambda m, h: h[..., None] @ h[..., None, :], lambda m, h: h @ h.mT @ h),
    "softmax(q @ k.mT) @ v": (
        lambda m, h: F.softmax(h[..., None] @ h[..., None, :], -1) @ h[..., None],
        lambda m, h: (h @ h.mT).softmax(-1) @ h,
    ),
    "scaled_dot_product_attention": (None, lambda m, h: F.scaled_dot_product_attention(h, h, h)),
    "the same, causal": (None, _windows),
    "MultiheadAttention": (None, lambda m, h: m.attention(h, h, h)[0]),
    "GRU of every row of a step": (
        None, lambda m, h: m.shared(h.unflatten(-1, (4, 2)).transpose(1, 2).flatten(0, 1))[0]
    ),
    "GRU of both directions": (
        lambda m, h: m.inner(h.reshape(-1, 4, 2))[0].reshape(*h.shape[:2], -1), lambda m, h: m.lstm(h)[0]
    ),
}  # fmt: skip


def tried_torch(function):
    if function is None:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = lower_torch(Model(function).eval(), torch.zeros(2, 20, 4))
        except cr.UnsupportedModelError:
            return "no"
    return "offline" if program.offline else "stream"


def torch_rows():
    rows = []
    for name, (within, across) in CALLS.items():
        inner = tried_torch(within).replace("stream", "yes")
        rows.append(f"| {name} | {inner} | {tried_torch(across)} |\n")
    return "".join(rows)


def wrapped(names, width=110):
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > width:
            lines.append("")
        lines[-1] += f"{name}, "
    return "\n".join(line.rstrip() for line in lines).rstrip(",")


def page():
    """The whole page."""
    names = wrapped(sorted(n for n in known_operations() if not n.startswith("_")))
    return HEAD + ONNX + onnx_rows() + TORCH.format(names=names) + torch_rows()


if __name__ == "__main__":
    PAGE.write_text(page())
