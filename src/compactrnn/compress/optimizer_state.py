"""Transfer of optimizer state to a pruned model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import invalid
from ..graph.copy import copy_module
from ..weights.masked import MaskedWeight
from .computed import Factors
from .gates import Gated

Cut = Callable[[nn.Module], nn.Module]


@torch.no_grad()
def move_optimizer_(optimizer: Optimizer, model: nn.Module, small: nn.Module, cut: Cut) -> None:
    """Point `optimizer` from the parameters of `model` to those of `small`, cutting its state by the same entries.

    A state tensor with an entry for each entry, row or column of its parameter loses those that the parameter lost.
    Parameters that `small` stores in another structure, and those with state of another form (LBFGS keeps its history
    in vectors over all parameters), start without state; the latter with a warning.

    Raises:
        ValueError: it holds no parameter of the model, or some outside of `param_groups`; nothing was changed then.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    old = dict(model.named_parameters(remove_duplicate=False))
    new = dict(small.named_parameters())
    _check_parameters(optimizer, {id(p) for p in old.values()})
    kept = _kept_entries(model, cut, old, new)
    successors: dict[int, list[nn.Parameter]] = {id(p): [] for p in old.values()}
    for name, parameter in new.items():
        successors[id(old[kept[name][0] if name in kept else _nearest(name, old)])].append(parameter)
    states: dict[Tensor, Any] = {}
    dropped: set[str] = set()
    for name, (source, axes) in kept.items():
        if state := optimizer.state.get(old[source], {}):
            taken = {key: _take(value, old[source], axes) for key, value in state.items()}
            unknown = {key for key, value in taken.items() if value is None and state[key] is not None}
            dropped |= unknown
            if not unknown:
                states[new[name]] = taken
    for group in optimizer.param_groups:
        group["params"][:] = [new for p in group["params"] for new in successors.get(id(p), [p])]
    for parameter in old.values():
        optimizer.state.pop(parameter, None)
    optimizer.state.update(states)
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.state.clear()
        optimizer._numel_cache = None
    if dropped:
        warnings.warn(
            f"{type(optimizer).__name__}: {', '.join(sorted(dropped))} in its state cannot be cut with the parameters;"
            " those that have it start again without state",
            stacklevel=4,
        )


def _kept_entries(
    model: nn.Module, cut: Cut, old: dict[str, nn.Parameter], new: dict[str, nn.Parameter]
) -> dict[str, tuple[str, list[Tensor]]]:
    """For each parameter of the cut model its name in `model`, and the entries that are left along each axis.

    Found by cutting a copy of the model whose parameters hold the numbers of their own entries.
    """
    twin = copy_module(model).to("cpu", torch.float64)
    for module in twin.modules():
        if isinstance(module, MaskedWeight):
            module.rows_kept.fill_(1)
            module.columns_kept.fill_(1)
    for parameter in twin.parameters():
        parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))
    names, kept = _plain_names(model, old), {}
    for name, places in cut(twin).named_parameters():
        source = _name_before(name, names)
        if source is not None and name in new and places.shape == new[name].shape:
            axes = _axes(places.detach().round().long(), old[source].shape)
            if axes is not None:
                kept[name] = (source, axes)
    return kept


def _axes(places: Tensor, shape: torch.Size) -> list[Tensor] | None:
    """The index along each axis of a tensor of `shape` that selects the entries `places`; None if there is none."""
    if places.dim() != len(shape) or places.numel() == 0:
        return None
    numbers = torch.arange(shape.numel()).view(shape)
    axes, stride = [], shape.numel()
    for axis, size in enumerate(shape):
        stride //= size
        first = places.movedim(axis, 0).reshape(places.shape[axis], -1)[:, 0]
        axes.append(first // stride % size)
    for axis, index in enumerate(axes):
        numbers = numbers.index_select(axis, index)
    return axes if torch.equal(numbers, places) else None


def _take(value: Any, parameter: Tensor, axes: list[Tensor]) -> Any:
    """A state of `parameter` for what is left of it; None where its form is unknown."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value if isinstance(value, Tensor | int | float | bool | str) else None
    if value.dim() == parameter.dim():
        if not all(n in (1, size) for n, size in zip(value.shape, parameter.shape, strict=True)):
            return None
        return _select(value, parameter.shape, axes)
    # one axis may have been summed over
    missing = [d for d in range(parameter.dim()) if value.shape == parameter.shape[:d] + parameter.shape[d + 1 :]]
    found = [_select(value, value.shape, axes[:d] + axes[d + 1 :]) for d in missing]
    return found[0] if found and all(torch.equal(f, found[0]) for f in found) else None


def cut_state(value: Any, kept: Tensor) -> Any:
    """The entries `kept` of a state of a vector; what is no vector stays."""
    return value[kept.to(value.device)].clone() if isinstance(value, Tensor) and value.dim() == 1 else value


def _select(value: Tensor, shape: torch.Size, axes: list[Tensor]) -> Tensor:
    """The entries `axes` of a tensor that has the axes of `shape`, or 1 in place of some."""
    for axis, index in enumerate(axes):
        if value.shape[axis] == shape[axis]:
            value = value.index_select(axis, index.to(value.device))
    return value.clone(memory_format=torch.contiguous_format)


def _name_before(name: str, old: dict[str, str]) -> str | None:
    """The parameter's name in the model before: the same, or without the `layer` of a scattered layer."""
    parts = name.split(".")
    inner = (".".join(parts[:i] + parts[i + 1 :]) for i, part in enumerate(parts) if part == "layer")
    return next((old[n] for n in (name, *inner) if n in old), None)


def _plain_names(model: nn.Module, old: dict[str, nn.Parameter]) -> dict[str, str]:
    """The names of the parameters in a plain copy of `model`, without gates, and their names in `model`."""
    names = {name: name for name in old}
    for path, module in model.named_modules(remove_duplicate=False):
        before = f"{path}." if path else ""
        for attribute, chain in getattr(module, "parametrizations", {}).items():
            if any(isinstance(p, Gated) for p in chain) and all(isinstance(p, Gated | Factors) for p in chain):
                names[f"{before}{attribute}"] = f"{before}parametrizations.{attribute}.original"
        if isinstance(module, MaskedWeight):
            names |= {f"{before}{n}": f"{before}inner.{n}" for n, _ in module.inner.named_parameters()}
    return {plain: name for plain, name in names.items() if name in old}


def _nearest(name: str, old: dict[str, nn.Parameter]) -> str:
    """The parameter whose place a new one has taken: the one with the longest common beginning of its name."""

    def path(name: str) -> list[str]:
        return [part for part in name.split(".") if part not in ("layer", "parametrizations")]

    def common(other: str) -> int:
        pairs = list(zip(path(name), path(other), strict=False))
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))

    return max(old, key=common)


def _check_parameters(optimizer: Optimizer, old: set[int]) -> None:
    """Refuse an optimizer that would go on with the old parameters."""
    groups = [group["params"] for group in optimizer.param_groups]
    kind = type(optimizer).__name__
    if not any(id(p) in old for params in groups for p in params):
        raise invalid(
            "optimizer",
            got=f"an {kind} without any parameter of the model",
            expected="the one that trains it",
            hint="pass it to shrink() before it is pointed to other parameters, or call shrink() without it",
        )
    for attribute, value in vars(optimizer).items():
        if attribute in ("param_groups", "state") or any(value is params for params in groups):
            continue
        held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        if any(id(item) in old for item in held):
            raise invalid(
                f"{kind}.{attribute}",
                got="parameters of the model outside of param_groups",
                expected="an optimizer whose parameters are all in its param_groups",
                hint="call shrink() without it, and make a new optimizer for the small model",
            )
