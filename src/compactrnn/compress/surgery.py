"""Surgery: remove the units of a plan from a copy of a model."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..graph.copy import copy_module
from ..layers import cells_of, has_cells, is_cell, narrow_
from ..layers.narrow import put_tensor_
from .gating import fold_masks_
from .plan import LayerCut, PruningPlan, SizeCut, TensorCut, TensorRecord, UnitCut
from .resizing import resize_
from .scatter import Scattered, ScatteredCell
from .sharing import CannotCut, Sharing
from .sizes import counts
from .structure import kind_of
from .wrappers import unwrap

M = TypeVar("M", bound=nn.Module)


def cut(
    model: M,
    units: tuple[UnitCut, ...],
    layers: tuple[LayerCut, ...],
    tensors: tuple[TensorCut, ...],
    sizes: tuple[SizeCut, ...] = (),
) -> M:
    """A copy of `model` without the units that are not kept.

    Raises:
        CannotCut: names of one parameter would be cut differently.
    """
    small = fold_masks_(copy_module(model))
    sharing = Sharing(small)
    cuts = [_cut_layer(small.get_submodule(layer.path), layer, units) for layer in layers]
    for tensor in tensors:
        _cut_tensor(small, tensor)
    for size in sizes:
        resize_(small.get_submodule(size.path), size.name, size.after)
    sharing.restore_(small)
    for layer, scattered in cuts:
        if scattered is not None:
            small = _replace(small, layer, scattered)
    return small  # pyright: ignore


def apply_plan(plan: PruningPlan, model: M, same_weights: bool = True) -> M:
    if not isinstance(model, nn.Module):
        raise invalid("model", got=f"a {type(model).__name__}", expected="an nn.Module")
    model = unwrap(model)  # pyright: ignore
    _check_model(plan, model, same_weights)
    try:
        small = cut(model, plan.units, plan.layers, plan.tensors, plan.sizes)
    except (RuntimeError, IndexError, AttributeError, TypeError, CannotCut) as error:
        raise invalid("pruning plan", got=f"cuts that do not fit each other ({error})", expected="a plan") from error
    if (after := counts(small)) != tuple(p[1] for p in (plan.parameters, plan.recurrent_parameters, plan.macs)):
        raise invalid("pruning plan", got=f"sizes after it that are not those of its cuts, {after}", expected="its own")
    return small


def recorded(model: nn.Module, digests: bool = True) -> dict[str, TensorRecord]:
    """Shape, type and digest of each parameter and buffer of `model` (parametrized ones by their present values).

    Statistics of batch norms, which change with every call in train mode and decide nothing, have no digest.
    """
    plain = copy_module(model)
    norms = nn.modules.batchnorm._NormBase
    running = {id(b) for m in plain.modules() if isinstance(m, norms) for b in m.buffers(recurse=False)}
    return {
        name: TensorRecord(
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            _digest(tensor) if digests and id(tensor) not in running else "",
        )
        for name, tensor in plain.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor)
    }


def _digest(tensor: Tensor) -> str:
    numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(numbers.numpy().data).hexdigest()


def _check_model(plan: PruningPlan, model: nn.Module, same_weights: bool) -> None:
    """Refuse a model that is not the one that the plan was made for."""
    where = f"the plan of a {plan.model}"
    check_tensors(where, plan.weights, model, same_weights)
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in plan.layers:
        module = modules.get(layer.path)
        kind = kind_of(module) if module is not None and has_cells(module) else type(module).__name__
        if module is None or kind != layer.kind:
            got = "no such module" if module is None else kind
            raise invalid(f"{where}, {layer.path or 'model'}", got=got, expected=layer.kind)
        _check_layer(module, layer, [u for u in plan.units if u.path == layer.path], where)
    for size in plan.sizes:
        got = vars(modules[size.path]).get(size.name) if size.path in modules else None
        if type(got) is not int or got != size.before:
            raise invalid(f"{where}, {size.path or 'model'}.{size.name}", got=got, expected=str(size.before))
    for tensor in plan.tensors:
        record = plan.weights.get(tensor.name)
        if record is None or len(record.shape) <= tensor.axis or record.shape[tensor.axis] != tensor.size:
            expected = f"a tensor with {tensor.size} entries along axis {tensor.axis}"
            raise invalid(f"{where}, {tensor.name}", got=record and record.shape, expected=expected)


def check_tensors(where: str, records: dict[str, TensorRecord], model: nn.Module, same_weights: bool) -> None:
    """Refuse a model whose tensors are not those in `records`, as `recorded` made them.

    Raises:
        ValueError: says in what they differ; `where` is what refuses it.
    """
    have = recorded(model, digests=same_weights)
    for name in (*records, *have):
        theirs, ours = records.get(name), have.get(name)
        if theirs is None or ours is None:
            got = f"{name}, which the plan's model lacks" if theirs is None else f"no {name}"
            raise invalid(where, got=f"a {type(model).__name__} with {got}", expected="the parameters of its model")
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            expected = f"{theirs.dtype} of shape {theirs.shape}, as the plan's model has"
            raise invalid(f"{where}, {name}", got=f"{ours.dtype} of shape {ours.shape}", expected=expected)
        if same_weights and theirs.digest != ours.digest:
            raise invalid(
                f"{where}, {name}",
                got="other values",
                expected="those that the plan was made for",
                hint="make a plan for this model, or use it regardless by apply(model, same_weights=False)",
            )


def _check_layer(module: nn.Module, layer: LayerCut, units: list[UnitCut], where: str) -> None:
    cells = cells_of(copy_module(module))
    have = {(i, u.name): row[0].unit_count(u) for i, row in enumerate(cells) for u in row[0].active_units()}
    for unit in units:
        if have.get((unit.layer, unit.unit_set)) != unit.units:
            got = have.get((unit.layer, unit.unit_set), "no such unit set")
            raise invalid(f"{where}, {unit.name}", got=got, expected=f"{unit.units} units")
    if cells[0][0].input_size != layer.inputs:
        got = f"{cells[0][0].input_size} inputs"
        raise invalid(f"{where}, {layer.path or 'model'}", got=got, expected=f"{layer.inputs} inputs")


def _cut_layer(layer: nn.Module, plan: LayerCut, units: tuple[UnitCut, ...]) -> tuple[nn.Module, nn.Module | None]:
    """Cut a layer in place; returns it, and what is to stand in its place if it keeps its width outside."""
    cells = cells_of(layer)
    own = [u for u in units if u.path == plan.path]
    keep = [{u.unit_set: torch.tensor(u.kept) for u in own if u.layer == i} for i in range(len(cells))]
    kind = ScatteredCell if is_cell(layer) else Scattered
    scattered = kind(layer, keep, plan.idle) if plan.scattered else None
    inputs = None if plan.kept_inputs is None else torch.tensor(plan.kept_inputs)
    narrow_(layer, [[sets] * len(row) for sets, row in zip(keep, cells, strict=True)], inputs)
    return layer, scattered


def _cut_tensor(model: nn.Module, tensor: TensorCut) -> None:
    path, _, attribute = tensor.name.rpartition(".")
    owner = model.get_submodule(path)
    old = getattr(owner, attribute)
    for size in ("out_features", "out_channels"):
        if tensor.axis == 0 and old.dim() > 1 and getattr(owner, size, None) == old.shape[0]:
            resize_(owner, size, len(tensor.kept))
    new = old.detach().index_select(tensor.axis, torch.tensor(tensor.kept, device=old.device))
    put_tensor_(owner, attribute, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` wherever `old` stands."""
    if model is old:
        return new
    for parent in list(model.modules()):
        if parent is not new:
            for name, child in parent._modules.items():
                if child is old:
                    parent._modules[name] = new
    return model
