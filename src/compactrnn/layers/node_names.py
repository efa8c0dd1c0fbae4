"""Names of operations in traced graphs."""

from __future__ import annotations

import torch
from torch.fx import Node


def operation(node: Node) -> str:
    """The ATen name of a node's operation without its overload, or the name of the Python function."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.split("::")[1]
    return getattr(node.target, "__name__", str(node.target))
