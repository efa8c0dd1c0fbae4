"""A graph without branches, as it is after constant folding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from onnx import NodeProto

from .._errors import ModelFileError
from .model_file import attribute, refuse

LAYERS = ("LSTM", "GRU", "RNN")  # the reference computes them step by step in Python


@dataclass(frozen=True)
class Typed:
    """A value that depends on data: its type, as numpy has it, and shape."""

    dtype: np.dtype
    shape: tuple[int, ...]


Value = np.ndarray | Typed
T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """A node of the folded graph; `inputs` and `outputs` are names in it, "" where there is none.

    A Scan has its body, one step of it, and the names of what that gets.
    """

    proto: NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    body: Folded | None = None
    given: tuple[str, ...] = ()

    @property
    def op(self) -> str:
        return self.proto.op_type

    @cached_property
    def attributes(self) -> dict[str, object]:
        return {a.name: attribute(a) for a in self.proto.attribute}

    def get(self, name: str, default: T) -> T:
        """An attribute, or its default."""
        value = self.attributes.get(name, default)
        if not isinstance(value, type(default)):
            raise ModelFileError(f"attribute {name!r} of {self.op}: expected {type(default).__name__}, got {value!r}")
        return value


@dataclass
class Folded:
    """A graph without branches: the nodes that depend on data in order, all values by name, the names of outputs.

    `unlike` says of loops that are unrolled why they are no Scan, by their first output.
    """

    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    unlike: dict[str, str] = field(default_factory=dict)

    def type_of(self, name: str) -> Typed:
        """Type and shape of a value, constant or not."""
        value = self.values[name]
        return value if isinstance(value, Typed) else Typed(value.dtype, tuple(value.shape))


def scan_axes(node: Node) -> list[int]:
    """The axes along which a Scan reads its sequences."""
    count = node.get("num_scan_inputs", 0)
    axes = node.get("scan_input_axes", []) or [0] * count
    if len(axes) != count or min(axes, default=0) < 0:
        raise refuse(node.proto, f"reads along axes {axes}; expected {count} numbers of axes from 0 on")
    return axes


def layer_steps(folded: Folded, node: Node) -> int:
    """How many steps a recurrent layer or a Scan runs for."""
    if node.op == "Scan":
        return folded.type_of(node.inputs[-1]).shape[scan_axes(node)[-1]]
    return folded.type_of(node.inputs[0]).shape[1 if node.get("layout", 0) else 0]
