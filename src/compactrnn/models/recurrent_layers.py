"""The recurrent layers that the options of a model describe."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from .. import cells, layers
from .._errors import invalid
from ..cells.base import AbstractCell
from .base import weight_specs

_FUSED = {"LSTM": cells.LSTM, "GRU": cells.GRU, "RNN": cells.Elman}  # layers with torch's operators, by their cell
_WEIGHTS = ("input_weight", "hidden_weight")


def recurrent_layers(options: Any, numbers: Sequence[int], inputs: int, **keywords: Any) -> nn.Module:
    """Layers `numbers` of a model of `options`, in one module that reads `inputs` numbers; `keywords` are the module's.

    `options` has `hidden`, `cell`, `cell_options`, `layer_options`, `input_weight` and `hidden_weight`, and may have
    `projection` and `last_cell_options`. The result is a `cr.LSTM`, `cr.GRU` or `cr.RNN`, or for any other cell of
    `compactrnn.cells` a `cr.Recurrent`.

    Raises:
        ValueError: no such cell, or options that it does not have.
    """
    cell, sizes = cell_class(options.cell), [options.hidden[n] for n in numbers]
    each = [_cell_options(options, n) for n in numbers]
    for one in each:
        _check_names(cell, options.cell, one)
    given = getattr(options, "projection", ()) or (0,) * len(options.hidden)
    projections = [given[n] for n in numbers]
    if len(set(sizes)) == len(set(projections)) == 1 and projections[0] < sizes[0]:
        hidden, projection = sizes[0], projections[0]
    else:  # sizes per layer; torch has no projection as wide as what it projects, but pruning may leave one
        hidden, projection = sizes, projections
    keywords = {"num_layers": len(sizes), **weight_specs(options), **keywords}
    if any(projections):
        keywords["proj_size"] = projection
    try:
        if options.cell in _FUSED and (options.cell == "LSTM" or not any(projections)):
            if any(one != each[0] for one in each):
                expected = f"the same for all layers of {options.cell}"
                raise invalid("model.layer_options", got=list(options.layer_options), expected=expected)
            return getattr(layers, options.cell)(inputs, hidden, **keywords, **each[0])
        return layers.Recurrent(cell, inputs, hidden, layer_options=each, **keywords)
    except (TypeError, AttributeError, KeyError, RuntimeError, OverflowError) as error:
        got, expected = each[0] if len(each) == 1 else each, f"options of {options.cell} ({error})"
        raise invalid("model.cell_options", got=got, expected=expected) from error


def cell_class(name: str) -> type[AbstractCell]:
    """The cell that options call `name`."""
    found = _FUSED.get(name) or known_cells().get(name)
    if found is None:
        expected = f"the name of a cell of compactrnn: {', '.join(sorted({*known_cells(), 'RNN'}))}"
        raise invalid("model.cell", got=repr(name), expected=expected)
    return found


def known_cells() -> dict[str, type[AbstractCell]]:
    """The cells of `compactrnn.cells` by name, but for those that are made around another one.

    >>> {"GRU", "LSTM"} <= known_cells().keys()
    True
    """
    return {
        name: found
        for name, found in vars(cells).items()
        if isinstance(found, type)
        and issubclass(found, AbstractCell)
        and not inspect.isabstract(found)
        and list(inspect.signature(found).parameters)[:2] == ["input_size", "hidden_size"]
    }


def output_size(layer: nn.Module) -> int:
    """How many numbers recurrent layers give at a step, in both directions if there are two."""
    return sum(cell.output_size for cell in layers.cells_of(layer)[-1])


def layer_options(options: Any, modules: Sequence[nn.Module]) -> dict[str, Any]:
    """The entry `layer_options` for the sizes that the cells of `modules` have beside `hidden`, if they have any."""
    if not all(map(layers.is_recurrent, modules)):  # wrapped, to keep its width in a sum: no options describe it
        return {}
    found = [row[0].size_options() for module in modules for row in layers.cells_of(module)]
    if not any(found):
        return {}
    given = options.layer_options or ({},) * len(found)
    return {"layer_options": tuple({**own, **sizes} for own, sizes in zip(given, found, strict=True))}


def delta_option(modules: Sequence[nn.Module]) -> dict[str, bool]:
    """The entry `delta`, if recurrent layers among `modules` have thresholds."""
    found = any(layers.is_recurrent(module) and layers.has_thresholds(module) for module in modules)
    return {"delta": True} if found else {}


def give_thresholds_(modules: Iterable[nn.Module], options: Any) -> None:
    """Make recurrent layers those of a delta network if `options.delta` says so; thresholds are zeros until loaded."""
    if options.delta:
        for module in modules:
            layers.delta_(module)


def check_layers(options: Any) -> None:
    """Raise `ValueError` unless there is a layer, and as many `layer_options` as layers, or none."""
    if not options.hidden:
        raise invalid("model.hidden", got="no layer", expected="a size per layer")
    for name in ("projection", "layer_options"):
        given = getattr(options, name, ())
        if given and len(given) != len(options.hidden):
            what = "sizes" if name == "projection" else "tables"
            expected = f"none, or {len(options.hidden)} {what} as in hidden"
            raise invalid(f"model.{name}", got=list(given), expected=expected)


def _cell_options(options: Any, number: int) -> dict[str, Any]:
    """The options of the cells of a layer; "none" is None."""
    last = getattr(options, "last_cell_options", {}) if number == len(options.hidden) - 1 else {}
    own = options.layer_options[number] if options.layer_options else {}
    return {name: None if v == "none" else v for name, v in {**options.cell_options, **last, **own}.items()}


def _check_names(cell: type[AbstractCell], name: str, given: Mapping[str, Any]) -> None:
    known = [p for p in list(inspect.signature(cell).parameters)[2:] if p not in _WEIGHTS]
    for option, value in given.items():
        if option in _WEIGHTS:
            raise invalid(f"model.cell_options.{option}", got=value, expected=f"it as model.{option}")
        if option not in known:
            expected = f"options of {name}: {', '.join(known)}"
            raise invalid("model.cell_options", got=f"{option}={value!r}", expected=expected)
