"""Validation of a cell's declaration of states and units."""

from __future__ import annotations

from torch import Tensor, nn

from .._errors import invalid
from ..weights.base import AbstractWeight
from .base import AbstractCell, StateSpec, UnitSet


def check_declaration(cell: AbstractCell) -> None:
    """Check that `states` and `units` name existing weights and vectors of matching sizes.

    Whether it is also true, that no other row writes a unit and no other column reads it, takes running the cell:
    `compactrnn.testing.CellContract`.

    Raises:
        ValueError: something is missing or of another size; the message names it.

    >>> from compactrnn.cells import MGU
    >>> cell = MGU(8, 16)
    >>> cell.units = (UnitSet("h", written_by=("input", "forget", "candidate"), read_by=("forget",), output=True),)
    >>> check_declaration(cell)
    Traceback (most recent call last):
    ValueError: MGU.units: expected it in the read_by of a UnitSet, ..., got no reader of the 16 columns of 'candidate'
    """
    name = type(cell).__name__
    for field, kind in (("states", StateSpec), ("units", UnitSet)):
        found = getattr(cell, field, None)
        if not (isinstance(found, tuple) and found and all(isinstance(f, kind) for f in found)):
            raise invalid(
                f"{name}.{field}", got=repr(found), expected=f"a tuple of {kind.__name__}: ({kind.__name__}(...),)"
            )
    sets = {units.name: units for units in cell.units}
    for state in cell.states:
        _check_state(cell, state, [*sets])
    if not cell.output_units():
        raise invalid(f"{name}.units", got="no set with output=True", expected="one, that the output is made of")
    for units in cell.units:
        _check_units(cell, units)
    for state in cell.states:
        if isinstance(state.init, str):
            _check_init(cell, state)
    _check_weights(cell)


def _check_state(cell: AbstractCell, state: StateSpec, sets: list[str]) -> None:
    name, shape = type(cell).__name__, state.shape
    where = f"{name}: state {state.name!r}"
    if shape is None and state.units not in sets:
        raise invalid(f"{name}: units of the state {state.name!r}", got=repr(state.units), expected=f"one of {sets}")
    if shape is not None and not (isinstance(shape, tuple) and shape and all(type(n) is int and n > 0 for n in shape)):
        raise invalid(f"{where}, shape", got=repr(shape), expected="a tuple of positive ints: (1,)")
    for field in ("written_by", "read_by"):
        names = getattr(state, field)
        if names and shape is None:
            hint = f"what belongs to units is in the {field} of their UnitSet"
            raise invalid(f"{where}, {field}", got=repr(names), expected="() for a state of a unit set", hint=hint)
        if not isinstance(names, tuple):
            raise invalid(f"{where}, {field}", got=repr(names), expected='a tuple of names: ("hidden",)')
        for part in names:
            if not isinstance(getattr(cell, part, None), AbstractWeight):
                raise invalid(f"{where}, {field}", got=repr(part), expected="the name of a weight made by build()")


def _check_init(cell: AbstractCell, state: StateSpec) -> None:
    where = f"{type(cell).__name__}: state {state.name!r}"
    value, width = getattr(cell, str(state.init), None), cell.state_sizes()[cell.states.index(state)]
    if not isinstance(value, Tensor) or value.numel() not in (1, width):
        got = repr(state.init) if not isinstance(value, Tensor) else f"{state.init!r} of {value.numel()} numbers"
        raise invalid(f"{where}, init", got=got, expected=f"a number, or a parameter or buffer of 1 or {width} numbers")
    units = next((u for u in cell.units if u.name == state.units), None)
    if units is None or value.numel() == 1:
        return
    if state.delay or state.init not in (*units.written_by, *units.buffers):
        expected = "a number" if state.delay else f"it in written_by (a parameter) or buffers of UnitSet {units.name!r}"
        raise invalid(f"{where}, init", got=f"{state.init!r} of one number per unit", expected=expected)


def _check_units(cell: AbstractCell, units: UnitSet) -> None:
    where = f"{type(cell).__name__}: UnitSet {units.name!r}"
    for field in ("written_by", "read_by", "buffers"):
        names = getattr(units, field)
        if not isinstance(names, tuple):
            raise invalid(f"{where}, {field}", got=repr(names), expected='a tuple of names: ("hidden",)')
        for name in names:
            part = getattr(cell, name, ...)
            if part is ...:
                raise invalid(f"{where}, {field}", got=repr(name), expected="the name of an attribute of the cell")
            if field != "buffers" and part is not None and not isinstance(part, AbstractWeight):
                vector = field == "written_by" and isinstance(part, nn.Parameter) and part.dim() == 1
                if not vector:
                    raise invalid(
                        f"{where}, {field}: {name!r}",
                        got=type(part).__name__,
                        expected="a weight made by build()" + (" or a vector" if field == "written_by" else ""),
                    )
    written = {n: part for n in units.written_by if (part := getattr(cell, n)) is not None}
    if not written and not units.read_by:
        raise invalid(f"{where}, written_by", got=repr(units.written_by), expected="a weight or a vector among them")
    count = cell.unit_count(units)
    for name, part in written.items():
        gates = f"{count} rows per gate, as the first weight has"
        if isinstance(part, AbstractWeight) and part.rows != count:
            hint = "build(gates * size, ..., gates=gates) makes a weight of several gates"
            raise invalid(f"{where}, written_by: {name!r}", got=f"{part.rows} rows per gate", expected=gates, hint=hint)
        if not isinstance(part, AbstractWeight) and part.numel() % count:
            raise invalid(f"{where}, written_by: {name!r}", got=f"{part.numel()} numbers", expected=f"{count} per gate")
    for name in units.read_by:
        part = getattr(cell, name)
        if part is not None and part.in_features != count:
            raise invalid(f"{where}, read_by: {name!r}", got=f"{part.in_features} columns", expected=f"{count}")


def _check_weights(cell: AbstractCell) -> None:
    where = f"{type(cell).__name__}.units"
    writes = {n for part in (*cell.units, *cell.states) for n in part.written_by}
    reads = {n for part in (*cell.units, *cell.states) for n in part.read_by}
    for name, child in cell.named_children():
        if not isinstance(child, AbstractWeight):
            continue
        if name not in writes:
            got = f"no unit of the {child.out_features} rows of {name!r}"
            raise invalid(where, got=got, expected="it in the written_by of a UnitSet, or of a StateSpec with a shape")
        if name not in reads and name not in cell.reads_input:
            got = f"no reader of the {child.in_features} columns of {name!r}"
            raise invalid(where, got=got, expected="it in the read_by of a UnitSet, or, if it reads x, in reads_input")
