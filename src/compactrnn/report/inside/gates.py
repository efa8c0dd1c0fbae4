"""The sigmoid gates of a step, found while it runs."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections import Counter
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SIGMOIDS = {torch.sigmoid, Tensor.sigmoid, torch.special.expit}
_OURS = (__file__, torch.__path__[0])


class GateFinder(TorchFunctionMode):
    """Keeps the result, (batch, n), of every sigmoid that is computed within it, and a name for each.

    The name is what the source says: `f` of `torch.sigmoid(f)`, else the variable that takes the result, else the
    argument. Sigmoids of what no sequence feeds, such as a trained scalar, have no batch axis and are left out.
    """

    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.values: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SIGMOIDS and result.dim() == 2:
            self.values.append(result)
            self.names.append(_name(inspect.currentframe()))
        return result


def numbered(names: list[str]) -> list[str]:
    """The names, with a number where one repeats.

    >>> numbered(["transform", "out", "transform"])
    ['transform 1', 'out', 'transform 2']
    """
    count, seen = Counter(names), Counter[str]()
    seen.update(dict.fromkeys(names, 0))
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if count[name] == 1 else f"{name} {seen[name]}")
    return found


def _name(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    place = None if frame is None else inspect.getframeinfo(frame).positions
    if frame is None or place is None or place.lineno is None or place.lineno != place.end_lineno:
        return "gate"
    line = linecache.getline(frame.f_code.co_filename, place.lineno)
    return name_in(line, line.encode()[place.col_offset : place.end_col_offset].decode(errors="replace"))


def name_in(line: str, call: str) -> str:
    """The name of the gate that `call`, a part of a line of source, computes.

    >>> name_in("h = torch.sigmoid(o) * torch.tanh(c)", "torch.sigmoid(o)")
    'o'
    >>> name_in("    reset = torch.sigmoid(reset_x + reset_h)", "torch.sigmoid(reset_x + reset_h)")
    'reset'
    >>> name_in("seen = torch.sigmoid(a + b) * moved", "torch.sigmoid(a + b)")
    'a + b'
    """
    try:
        node = ast.parse(call.strip(), mode="eval").body
    except SyntaxError:
        return "gate"
    if not isinstance(node, ast.Call):
        return "gate"
    argument = node.args[0] if node.args else node.func.value if isinstance(node.func, ast.Attribute) else node
    if isinstance(argument, ast.Name):
        return argument.id
    target, _, value = line.strip().partition(" = ")
    return target if value == call.strip() and target.isidentifier() else ast.unparse(argument)
