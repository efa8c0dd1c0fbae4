"""What a refusal says beside the node: the rung that the node belongs to, and where the file can be cut around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from onnx import NodeProto

from .._errors import ModelFileError, UnsupportedModelError
from .cut import Cut, after_node, before_node, has_shape
from .dequantize import dequantized
from .half import widened
from .lowering import Lowered, lower
from .model_file import FileError, ModelFile, NodeError, attribute, named_in
from .ports import read_ports

# What the importer takes, in the order in which more and more of the files that people ship need it.
RUNGS = (
    "layers and functions",
    "branches, states, and convolution within a step",
    "one step written out",
    "loops over time",
    "conditions, places and whole numbers",
    "all steps at once",
    "convolution in two dimensions or over time, and numbers of steps that change",
)
_RUNG = {
    1: ("If",),
    3: ("Loop", "Scan", "ReverseSequence", "SequenceMap", "SequenceAt", "SequenceConstruct", "SequenceInsert",
        "SplitToSequence", "ConcatFromSequence"),
    4: ("And", "ArgMax", "ArgMin", "Compress", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod",
        "NonZero", "NonMaxSuppression", "Not", "OneHot", "Or", "Range", "TopK", "Unique", "Where", "Xor"),
    5: ("Attention", "BatchNormalization", "CumSum", "GroupNormalization", "InstanceNormalization",
        "MultiHeadAttention"),
    6: ("AffineGrid", "Col2Im", "GridSample", "Resize", "STFT", "Upsample"),
}  # fmt: skip
_WRITTEN_OUT = ("Concat", "Gather", "Gemm", "MatMul", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose")
_TRIES = 5  # places where a cut is tried on either side of the node


def lower_or_refuse(file: ModelFile, **arguments: Any) -> Lowered:
    """As `lower`; errors name the rung, too, and of a node the cuts before and after it, whose parts are taken.

    Raises:
        UnsupportedModelError, ModelFileError, ValueError: as `lower`.
    """
    try:
        return lower(file, **arguments)
    except ModelFileError:
        raise
    except UnsupportedModelError as error:
        with suppress(UnsupportedModelError):
            file = dequantized(widened(file))
        if isinstance(error, FileError):
            raise FileError(f"{error} (rung {error.rung}, {RUNGS[error.rung]})", error.rung) from error
        node = error.node if isinstance(error, NodeError) else named_in(file, str(error))
        if node is None:
            raise
        number = rung(node, not _is_step(file, arguments), getattr(error, "every_two", False))
        text = f"{error} (rung {number}, {RUNGS[number]}){_around(file, node, arguments)}"
        raise NodeError(text, node, internal=getattr(error, "internal", False)) from error


def rung(node: NodeProto, sequence: bool, every_two: bool = False) -> int:
    """The rung of a node, in a sequence or in one step; `every_two`: it has numbers of every two steps."""
    op = node.op_type
    if every_two:
        return 5
    if "Conv" in op or op.endswith("Pool"):
        kernel = next((attribute(a) for a in node.attribute if a.name == "kernel_shape"), ())
        return 6 if sequence or (isinstance(kernel, list) and len(kernel) > 1) else 1
    found = next((n for n, ops in _RUNG.items() if op in ops), None)
    if found is None:
        return 2 if not sequence and op in _WRITTEN_OUT else 0
    return found


def _is_step(file: ModelFile, arguments: Mapping[str, Any]) -> bool:
    try:
        return bool(read_ports(file, arguments.get("constants"), arguments.get("states")).states)
    except ValueError:
        return False


def _around(file: ModelFile, node: NodeProto, arguments: Mapping[str, Any]) -> str:
    before = _taken(file, node, arguments, before_node, "outputs")
    after = _taken(file, node, arguments, after_node, "inputs")
    parts = [f"outputs={before} imports the part before it"] if before else []
    if after:
        shapes = " once its shape is given" if not all(has_shape(file, name) for name in after) else ""
        parts.append(f"inputs={after} {'' if before else 'imports '}the part after it{shapes}")
    return f"; {', '.join(parts)}" if parts else "; no cut before or after it gives a part that is taken"


def _taken(file: ModelFile, node: NodeProto, arguments: Mapping[str, Any], cut: Cut, which: str) -> Sequence[str]:
    """Where to cut on one side of a node; further away where what lies between is not taken either."""
    for _ in range(_TRIES):
        names = cut(file, node)
        if not names or (which == "inputs" and not all(has_shape(file, name) for name in names)):
            return names
        try:
            lower(file, **{**arguments, which: names})
            return names
        except ModelFileError:
            return []
        except UnsupportedModelError as error:
            found = error.node if isinstance(error, NodeError) else named_in(file, str(error))
            if found is None or found.output == node.output:
                return []
            node = found
        except ValueError:
            return []
    return []
