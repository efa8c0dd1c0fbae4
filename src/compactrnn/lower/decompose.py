"""Decompositions of ATen operations into those that can be lowered."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .visitor import known_operations

aten = torch.ops.aten
OURS: dict[str, Callable] = {}


def rewrites(*names: str) -> Callable[[Callable], Callable]:
    """Register a decomposition for ATen operations (`name.overload`)."""

    def register(function: Callable) -> Callable:
        OURS.update(dict.fromkeys(names, function))
        return function

    return register


@cache
def decompositions() -> dict[Any, Callable]:
    """The table for `run_decompositions`: every operation without a handler."""
    known = known_operations()
    table = {op: f for op, f in torch.export.default_decompositions().items() if _name(op) not in known}
    for name, function in OURS.items():
        packet, overload = name.split(".")
        table[getattr(getattr(aten, packet), overload)] = function
    return table


def _name(op: Any) -> str:
    return op._schema.name.split("::")[1]


def _all(x: Tensor, dim: Any) -> list[int]:
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.dim()))
    return [d % x.dim() for d in dims]


@rewrites("var.correction")
def _var(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    """The mean of (x - mean)^2, times n / (n - correction)."""
    dims = _all(x, dim)
    y = (x - x.mean(dims, keepdim=True)).square().mean(dims, keepdim=keepdim)
    less = 1 if correction is None else correction
    if not less:
        return y
    n: Any = math.prod(x.shape[d] for d in dims)
    if isinstance(n, torch.SymInt):  # the number of steps, which an engine counts
        n = ((x == x) | (x != x)).to(x.dtype).sum(dims, keepdim=keepdim)
    return y * (n / (n - less))


@rewrites("var.dim")
def _var_dim(x: Tensor, dim: Any, unbiased: bool = True, keepdim: bool = False) -> Tensor:
    return _var(x, dim, correction=int(unbiased), keepdim=keepdim)


@rewrites("var_mean.correction")
def _var_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _var(x, dim, correction=correction, keepdim=keepdim), x.mean(_all(x, dim), keepdim=keepdim)


@rewrites("std.correction")
def _std(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    return _var(x, dim, correction=correction, keepdim=keepdim).sqrt()


@rewrites("std_mean.correction")
def _std_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _std(x, dim, correction=correction, keepdim=keepdim), x.mean(_all(x, dim), keepdim=keepdim)


@rewrites("linalg_vector_norm.default")
def _vector_norm(x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    dims = _all(x, dim)
    if ord == 2:
        return x.square().sum(dims, keepdim=keepdim).sqrt()
    if ord == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    if ord == math.inf:
        return x.abs().amax(dims, keepdim=keepdim)
    return NotImplemented


def _normalized(x: Tensor, groups: int, eps: float) -> Tensor:
    """Group norm over axis 1."""
    y = x.unflatten(1, (groups, -1))
    dims = list(range(2, y.dim()))
    y = y - y.mean(dims, keepdim=True)
    return (y * (y.square().mean(dims, keepdim=True) + eps).rsqrt()).flatten(1, 2)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


@rewrites("group_norm.default")
def _group_norm(
    x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True
) -> Tensor:
    return _scaled(_normalized(x, groups, eps), weight, bias)


@rewrites("instance_norm.default")
def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, use_input: bool, momentum: float, eps: float, cudnn: bool
) -> Tensor:
    if use_input:
        return _scaled(_normalized(x, x.shape[1], eps), weight, bias)
    slope = (var + eps).rsqrt()
    return _scaled(_scaled(x, slope, -mean * slope), weight, bias)


@rewrites("bilinear.default")
def _bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    """a W_k b for each k."""
    return F.linear((a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2), weight.flatten(1), bias)


@rewrites("max.dim")
def _max(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return x.amax(dim, keepdim=keepdim), x.argmax(dim, keepdim=keepdim)


@rewrites("min.dim")
def _min(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return x.amin(dim, keepdim=keepdim), x.argmin(dim, keepdim=keepdim)


@rewrites("max.default")
def _max_of_all(x: Tensor) -> Tensor:
    return x.amax()


@rewrites("min.default")
def _min_of_all(x: Tensor) -> Tensor:
    return x.amin()


def _windows(x: Tensor, size: Any, stride: Any, padding: Any, dilation: Any, filling: float) -> Tensor | None:
    """Pooling windows along a new last axis."""
    size, stride, padding, dilation = (
        v[0] if isinstance(v, list | tuple) else v for v in (size, stride, padding, dilation)
    )
    if size > 64 or (stride != 1 and isinstance(x.shape[-1], torch.SymInt)):
        return None
    x = F.pad(x, (padding, padding), value=filling) if padding else x
    end = x.shape[-1] - dilation * (size - 1)
    return torch.stack([x[..., i * dilation : end + i * dilation : stride] for i in range(size)], -1)


@rewrites("max_pool1d.default")
def _max_pool(
    x: Tensor, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    if not any(_flat(padding)) and _flat(kernel_size)[0] == x.shape[-1] and _flat(dilation)[0] == 1:
        return x.amax(-1, keepdim=True)
    windows = None if ceil_mode else _windows(x, kernel_size, stride or kernel_size, padding, dilation, -math.inf)
    if windows is not None:
        return windows.amax(-1)
    sizes = (_flat(size)[0] for size in (kernel_size, stride or kernel_size))
    kernel_size, stride = ((1, size) for size in sizes)
    padding, dilation = (0, _flat(padding)[0]), (1, _flat(dilation)[0])
    return F.max_pool2d(x.unsqueeze(-2), kernel_size, stride, padding, dilation, ceil_mode).squeeze(-2)


@rewrites("avg_pool1d.default")
def _avg_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    padded = any(_flat(padding))
    if not padded and _flat(kernel_size)[0] == x.shape[-1]:
        return x.mean(-1, keepdim=True)
    if ceil_mode or (padded and not count_include_pad):
        return NotImplemented
    windows = _windows(x, kernel_size, stride or kernel_size, padding, 1, 0.0)
    if windows is not None:
        return windows.mean(-1)
    kernel_size, stride = ((1, _flat(size)[0]) for size in (kernel_size, stride or kernel_size))
    return F.avg_pool2d(x.unsqueeze(-2), kernel_size, stride, (0, _flat(padding)[0])).squeeze(-2)


def _embedding_bag(
    x: Tensor,
    weight: Tensor,
    offsets: Any = None,
    max_norm: Any = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Sum, mean or maximum of what the tokens of each row, without those of padding, are looked up as."""
    if x.dim() != 2 or x.is_floating_point() or max_norm is not None:
        return NotImplemented
    y = F.embedding(x, weight)
    y = y if per_sample_weights is None else y * per_sample_weights.unsqueeze(-1)
    if padding_idx is None:
        return {"sum": y.sum, "mean": y.mean, "max": y.amax}[mode](1)
    kept = (x != padding_idx % len(weight)).to(y.dtype).unsqueeze(-1)
    if mode == "max":
        peak = torch.where(kept > 0, y, -math.inf).amax(1)
        return torch.where(kept.sum(1) > 0, peak, 0.0)
    total = (y * kept).sum(1)
    return total if mode == "sum" else total / kept.sum(1).clamp(min=1)


_POOLINGS = {"max_pool1d": _max_pool, "avg_pool1d": _avg_pool, "embedding_bag": _embedding_bag}


class Pooling(TorchFunctionMode):
    """Writes poolings as reductions while a model is exported, which would fix the length of the sequence for them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """`func`, unless it is such a pooling."""
        kwargs = kwargs or {}
        ours = _POOLINGS.get(getattr(func, "__name__", ""))
        if ours is None or kwargs.get("return_indices") or "input" in kwargs:
            return func(*args, **kwargs)
        y = ours(*args, **{k: v for k, v in kwargs.items() if k != "return_indices"})
        return func(*args, **kwargs) if y is NotImplemented else y


@rewrites("adaptive_max_pool1d.default")
def _adaptive_max_pool(x: Tensor, size: Any) -> Any:
    return (x.amax(-1, keepdim=True), x.argmax(-1, keepdim=True)) if _flat(size) == [1] else NotImplemented


@rewrites("adaptive_avg_pool1d.default")
def _adaptive_avg_pool(x: Tensor, size: Any) -> Any:
    return x.mean(-1, keepdim=True) if _flat(size) == [1] else NotImplemented


@rewrites("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive_avg_pool_2d(x: Tensor, size: Any) -> Any:
    """The mean over the last axis, or both."""
    if list(size) == [1, 1]:
        return x.mean((-2, -1), keepdim=True)
    return x.mean(-1, keepdim=True) if size[1] == 1 and size[0] == x.shape[-2] else NotImplemented


def _flat(x: Any) -> list:
    return list(x) if isinstance(x, list | tuple) else [x]


@rewrites("atan2.default")
def _atan2(y: Tensor, x: Tensor) -> Tensor:
    """atan(y / x), turned by half a circle where x is negative; of zeros and infinities as IEEE 754 has it."""
    infinite = (y.abs() == math.inf) & (x.abs() == math.inf)
    y, x = torch.where(infinite, y.sign(), y), torch.where(infinite, x.sign(), x)
    below, left = ((v < 0) | (v.reciprocal() < 0) for v in (y, x))  # -0, too
    half = torch.where(below, -math.pi, math.pi)
    angle = torch.where(x == 0, torch.where(y == 0, y, (y * math.inf).atan()), (y / torch.where(x == 0, 1.0, x)).atan())
    return torch.where(left & ((x != 0) | (y == 0)), angle + half, angle)


@rewrites("logsumexp.default")
def _logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """peak + log sum exp(x - peak), where the peak is finite."""
    dims = _all(x, dim)
    peak = x.amax(dims, keepdim=True)
    peak = torch.where(peak.abs() == math.inf, 0.0, peak)
    total = (x - peak).exp().sum(dims, keepdim=True).log() + peak
    return total if keepdim else total.sum(dims)
