"""Operations of TorchScript on numbers, lists and strings, as Python has them; they also take symbolic sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch


def add(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + b if alpha == 1 else a + alpha * b


def subtract(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a - b if alpha == 1 else a - alpha * b


def divide(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return a / b
    return a // b if rounding_mode == "floor" else torch.sym_int(a / b)


def is_true(a: Any) -> Any:
    return a != 0


def same(a: Any) -> Any:
    return a


def part(items: Any, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return items[start:end:step]


def append(items: list, x: Any) -> list:
    items.append(x)
    return items


def text(pattern: str, *values: Any) -> str:
    return pattern.format(*values)


def count(low: int, high: int, step: int) -> int:
    return len(range(low, high, step))


def place(index: Any, start: Any, step: Any) -> Any:
    return start + index * step


def false() -> bool:
    return False


def true() -> bool:
    return True


NUMBER_OPERATIONS: dict[str, Callable[..., Any]] = {
    "aten::add": add,
    "aten::sub": subtract,
    "aten::mul": operator.mul,
    "aten::div": divide,
    "aten::floordiv": operator.floordiv,
    "aten::floor_divide": operator.floordiv,
    "aten::remainder": operator.mod,
    "aten::neg": operator.neg,
    "aten::pow": operator.pow,
    "aten::sqrt": torch.sym_sqrt,  # pyright: ignore
    "aten::log": math.log,
    "aten::floor": math.floor,
    "aten::ceil": math.ceil,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::__not__": torch.sym_not,
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::Int": torch.sym_int,
    "aten::IntImplicit": torch.sym_int,
    "aten::Float": torch.sym_float,
    "aten::FloatImplicit": torch.sym_float,
    "aten::Bool": is_true,
    "aten::ScalarImplicit": same,
    "prim::NumToTensor": same,
    "prim::max": torch.sym_max,
    "prim::min": torch.sym_min,
    "aten::__range_length": count,
    "aten::__derive_index": place,
    "aten::len": len,
    "aten::__contains__": operator.contains,
    "aten::__getitem__": operator.getitem,
    "aten::slice": part,
    "aten::append": append,
    "aten::list": list,
    "aten::format": text,
    "aten::is_grad_enabled": false,
    "aten::is_scripting": true,
}
# of a tensor: what does not change with the number of steps
TENSOR_FACTS: dict[str, Callable[..., Any]] = {
    "aten::dim": lambda x: x.dim(),
    "prim::dtype": lambda x: x.dtype,
    "prim::device": lambda x: x.device,
    "prim::layout": lambda x: x.layout,
    "prim::is_cuda": lambda x: x.is_cuda,
    "prim::requires_grad": lambda x: False,
    "aten::is_floating_point": lambda x: x.is_floating_point(),
    "aten::is_complex": lambda x: x.is_complex(),
}
