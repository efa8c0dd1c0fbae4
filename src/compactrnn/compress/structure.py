"""Sizes and weight structures of the recurrent layers of a shrunk model, as plain values, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..cells.base import AbstractCell
from ..layers import cells_of, convert_, delta_, has_cells, has_thresholds, is_cell, narrow_, part_name
from ..layers.fused import AbstractFused
from ..layers.recurrent import Recurrent
from ..weights.base import AbstractWeight
from ..weights.masked import MaskedWeight
from ..weights.registry import weight_kinds, weight_spec, weight_table
from .scatter import AbstractScattered, Scattered, ScatteredCell

_KINDS = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def describe(model: nn.Module) -> list[dict[str, Any]]:
    """Every recurrent layer of `model`: where it stands, what keeps its width outside, sizes and forms of weights."""
    found = []
    for path, layer in model.named_modules():
        if not has_cells(layer):
            continue
        cells = cells_of(layer)
        wraps = _wraps(model, path)
        found.append(
            {
                "path": ".".join(path.split(".")[: len(path.split(".")) - len(wraps)]),
                "scattered": [wrap.idle is not None for wrap in wraps],
                "kind": kind_of(layer),
                "converted": isinstance(layer, AbstractFused),
                "inputs": cells[0][0].input_size,
                "hidden_size": layer.hidden_size,
                "proj_size": getattr(layer, "proj_size", 0),
                "thresholds": has_thresholds(layer),
                "units": [[_counts(cell) for cell in row] for row in cells],
                "weights": [[_forms(cell) for cell in row] for row in cells],
            }
        )
    return found


def rebuild(model: nn.Module, layers: list[dict[str, Any]], tensors: dict[str, Tensor]) -> nn.Module:
    """Give the recurrent layers of `model`, as its code built it, the sizes and forms in `layers`."""
    for stored in layers:
        path = stored["path"]
        where = path or type(model).__name__
        try:
            layer = model.get_submodule(path)
        except AttributeError:
            layer = None
        if layer is None or not has_cells(layer) or kind_of(layer) != stored["kind"]:
            got = "no such module" if layer is None else kind_of(layer) if has_cells(layer) else type(layer).__name__
            raise invalid(where, got=got, expected=f"a recurrent layer as it was saved, {stored['kind']}")
        if stored["converted"]:
            convert_(layer)
        if stored.get("thresholds", False):  # which older files lack
            delta_(layer)
        outer: list[AbstractScattered] = []
        for number, idle in enumerate(stored["scattered"]):
            prefix = ".".join([*([path] if path else []), *["layer"] * number])
            kept = _kept(cells_of(layer), tensors, prefix, where)
            outer.append((ScatteredCell if is_cell(layer) else Scattered)(layer, kept, idle))
            narrow_(layer, [[sets] * len(row) for sets, row in zip(kept, cells_of(layer), strict=True)])
        _resize(layer, stored, where)
        _restructure(layer, stored["weights"], where)
        inner: nn.Module = layer
        for wrap in reversed(outer):
            wrap.layer = inner
            inner = wrap
        model = _put(model, path, inner)
    return model


def _wraps(model: nn.Module, path: str) -> list[AbstractScattered]:
    """What stands around the layer at `path` to keep its old width, outermost first."""
    wraps: list[AbstractScattered] = []
    while path.split(".")[-1] == "layer":
        path = path.rpartition(".")[0]
        parent = model.get_submodule(path)
        if not isinstance(parent, AbstractScattered):
            break
        wraps.insert(0, parent)
    return wraps


def kind_of(layer: nn.Module) -> str:
    """What a recurrent layer is, for files: `LSTM`, `GRU`, `RNN`, `LSTMCell`, ... or `Recurrent of` a cell."""
    if isinstance(layer, Recurrent):
        return f"Recurrent of {layer.cell_class.__name__}"
    return next(kind.__name__ for kind in _KINDS if isinstance(layer, kind))


def _counts(cell: AbstractCell) -> dict[str, int]:
    return {units.name: cell.unit_count(units) for units in cell.active_units()}


def _weights(cell: AbstractCell) -> dict[str, AbstractWeight]:
    return {name: w for name in cell.weight_names() if isinstance(w := getattr(cell, name), AbstractWeight)}


def _forms(cell: AbstractCell) -> dict[str, dict[str, Any]]:
    return {name: _form(weight) for name, weight in _weights(cell).items()}


def _form(weight: AbstractWeight) -> dict[str, Any]:
    masked = isinstance(weight, MaskedWeight)
    spec = weight.inner.spec if isinstance(weight, MaskedWeight) else weight.spec
    options = weight_table(spec) or {}
    options.pop("kind", None)
    return {"spec": type(spec).__name__, "options": options, "masked": masked}


def _kept(
    cells: list[list[AbstractCell]], tensors: dict[str, Tensor], prefix: str, where: str
) -> list[dict[str, Tensor]]:
    kept: list[dict[str, Tensor]] = []
    for i, row in enumerate(cells):
        sets: dict[str, Tensor] = {}
        for units in row[0].active_units():
            before, slot, count = f"{prefix}." if prefix else "", f"{i}_{units.name}", row[0].unit_count(units)
            index, places = tensors.get(f"{before}kept_{slot}"), tensors.get(f"{before}places_{slot}")
            if index is None or places is None or len(places) != count:
                got = "no index of its units" if index is None or places is None else f"{len(places)} units"
                raise invalid(where, got=f"{got} in the folder", expected=f"{count} units, as the class builds it")
            sets[units.name] = index
        kept.append(sets)
    return kept


def _resize(layer: nn.Module, stored: dict[str, Any], where: str) -> None:
    cells = cells_of(layer)
    have, units = [[_counts(cell) for cell in row] for row in cells], stored["units"]
    if [len(row) for row in have] != [len(row) for row in units] or any(
        a.keys() != b.keys() for p, q in zip(have, units, strict=True) for a, b in zip(p, q, strict=True)
    ):
        raise invalid(where, got=f"units {have}", expected=f"layers and directions as they were saved, {units}")
    inputs = cells[0][0].input_size
    larger = any(b[n] > a[n] for p, q in zip(have, units, strict=True) for a, b in zip(p, q, strict=True) for n in a)
    if larger or stored["inputs"] > inputs:
        raise invalid(
            where,
            got=f"a layer of {have} units and {inputs} inputs, as the class builds it",
            expected=f"at least {units} and {stored['inputs']}, as they were saved",
        )
    if have != units or stored["inputs"] != inputs:
        keep = [[{name: torch.arange(n) for name, n in sets.items()} for sets in row] for row in units]
        narrow_(layer, keep, torch.arange(stored["inputs"]))
    if is_cell(layer):
        return
    # one size for all layers, or a list even if all are the same
    for name in ("hidden_size", "proj_size"):
        if _list(stored[name], len(units)) != _list(getattr(layer, name), len(units)):
            raise invalid(f"{where}.{name}", got=stored[name], expected=f"{getattr(layer, name)}, by its units")
        setattr(layer, name, stored[name])


def _list(sizes: int | list[int], count: int) -> list[int]:
    return list(sizes) if isinstance(sizes, list | tuple) else [sizes] * count


def _restructure(layer: nn.Module, forms: list[list[dict[str, dict[str, Any]]]], where: str) -> None:
    """Give every weight the form in which it was saved."""
    kinds = weight_kinds()
    for i, row in enumerate(cells_of(layer)):
        for d, cell in enumerate(row):
            for name, weight in _weights(cell).items():
                wanted = forms[i][d][name]
                if _form(weight) == wanted:
                    continue
                if wanted["spec"] not in kinds and _form(weight) | {"masked": wanted["masked"]} != wanted:
                    raise invalid(
                        f"{where}, {part_name(layer, i, d, name)}",
                        got=repr(weight.spec),
                        expected=f"a weight as it was saved, {wanted['spec']}",
                    )
                if is_cell(layer):
                    raise invalid(f"{where}, {part_name(layer, i, d, name)}", got=wanted["spec"], expected="a matrix")
                plain = weight.inner if isinstance(weight, MaskedWeight) else weight
                if _form(plain) | {"masked": wanted["masked"]} != wanted:
                    spec = weight_spec({"kind": wanted["spec"], **wanted["options"]})
                    plain = spec.build(weight.out_features, weight.in_features, weight.gates)
                _put_weight(layer, i, d, name, MaskedWeight(plain) if wanted["masked"] else plain)
    if isinstance(layer, AbstractFused):
        layer.refresh()


def _put_weight(layer: nn.Module, number: int, direction: int, name: str, weight: AbstractWeight) -> None:
    if isinstance(layer, AbstractFused):
        layer.put(part_name(layer, number, direction, name), weight)
    else:
        setattr(cells_of(layer)[number][direction], name, weight)


def _put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
    return model
