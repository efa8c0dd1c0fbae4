"""Quantization as the engine does it, and its products, as torch operations with straight-through gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..runtime import rounding

_SMALLEST = 1e-30  # a vector whose numbers are all smaller is one of zeros


def _is_native(*tensors: Tensor) -> bool:
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


@torch.library.custom_op("compactrnn::quantize_matrix", mutates_args=())
def quantize_matrix(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The numbers that a matrix has in a file of type `kind`, and the same as `quantized_linear` reads it."""
    values = weight.detach().to("cpu", torch.float32).contiguous()
    dense = torch.empty_like(values)
    memory = torch.empty(1, rounding.packed_bytes((len(values), values.shape[1]), kind), dtype=torch.uint8)
    rounding.quantize_matrix(values.numpy(), kind, dense.numpy(), memory.numpy())
    return dense.to(weight), memory.to(weight.device)


@quantize_matrix.register_fake
def _(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    bytes = rounding.packed_bytes((int(weight.shape[0]), int(weight.shape[1])), kind)
    return weight.new_empty(weight.shape), weight.new_empty((1, bytes), dtype=torch.uint8)


@torch.library.custom_op("compactrnn::fake_quant", mutates_args=())
def fake_quant(x: Tensor, scale: float) -> Tensor:
    """The vectors along the last axis as a product with a quantized matrix reads them.

    They are whole multiples, from -127 to 127, of `scale`; with scale 0 of a 127th of the largest size in the vector.
    """
    if _is_native(x):
        rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
        y = rows.new_empty(x.shape)  # itself what is given back: a view may not be changed in place
        rounding.fake_quant(rows.numpy(), scale, y.view(rows.shape).numpy(), torch.get_num_threads())
        return y
    largest = x.abs().amax(-1, keepdim=True)
    step = torch.full_like(largest, scale) if scale else largest / 127
    whole = torch.where(largest < _SMALLEST, 0, (x / step).clamp(-127, 127).round())
    return whole * step


@fake_quant.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("compactrnn::quantized_linear", mutates_args=())
def quantized_linear(x: Tensor, dense: Tensor, memory: Tensor, kind: str, scale: float) -> Tensor:
    """`W x`, both quantized, (..., in) -> (..., out): in float32 on the CPU to the bit what the engine computes."""
    if not _is_native(x, dense):
        return nn.functional.linear(fake_quant(x, scale), dense)
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    y = rows.new_empty(*x.shape[:-1], len(dense))
    numbers = y.view(len(rows), len(dense)).numpy()
    rounding.quantized_linear(rows.numpy(), memory.numpy(), kind, scale, numbers, torch.get_num_threads())
    return y


@quantized_linear.register_fake
def _(x: Tensor, dense: Tensor, memory: Tensor, kind: str, scale: float) -> Tensor:
    return x.new_empty(*x.shape[:-1], dense.shape[0])


def _matrix_back(ctx: Any, dense: Tensor, memory: Tensor) -> tuple[Tensor, None]:
    return dense, None


def _inputs_back(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return grad, None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, dense, _, _, ctx.scale = inputs
    ctx.save_for_backward(x, dense)


def _product_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, dense = ctx.saved_tensors
    for_x, for_dense = ctx.needs_input_grad[:2]
    dx = grad @ dense if for_x else None
    rows = lambda y: y.reshape(-1, y.shape[-1])  # noqa: E731  (a single vector has none)
    ddense = rows(grad).mT @ rows(fake_quant(x, ctx.scale)) if for_dense else None
    return dx, ddense, None, None, None


# Straight through: rounding is passed by gradients as if it were not there.
quantize_matrix.register_autograd(_matrix_back)
fake_quant.register_autograd(_inputs_back)
quantized_linear.register_autograd(_product_back, setup_context=_keep)
