"""Options by module name: the fraction of units to keep, and the layers to exclude."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._errors import invalid
from .groups import Group, Member


def fractions(keep: float | Mapping[str, float], groups: list[Group]) -> dict[str, float]:
    """The fraction of each group to keep, by group name.

    A mapping names modules, or single layers of one (`"rnn[1]"`); the most specific name counts, and `""`, the model
    itself, is the default. What has no entry keeps all of its units.

    Raises:
        ValueError: a name that the model does not have, a value that is no fraction, or two fractions for layers whose
            units go only together.
    """
    if not isinstance(keep, Mapping):
        return {group.name: _checked(keep, "keep") for group in groups}
    _check_names("keep", keep, groups)
    values = {name: _checked(value, f"keep[{name!r}]") for name, value in keep.items()}
    return {group.name: _fraction(group, values) for group in groups}


def excluded(exclude: Iterable[str], groups: list[Group]) -> set[str]:
    """The names of the groups that belong to what `exclude` names, as in `fractions`."""
    names = [exclude] if isinstance(exclude, str) else list(exclude)
    _check_names("exclude", names, groups)
    return {group.name for group in groups for member in group.members if set(names) & set(names_of(member))}


def names_of(member: Member) -> list[str]:
    """What a caller may call a unit set, the most specific name first: `a.rnn[0].h`, `a.rnn[0]`, `a.rnn`, `a`, ``."""
    path = member.leaf.name.split(".") if member.leaf.name else []
    modules = [".".join(path[:i]) for i in range(len(path), -1, -1)]
    return [member.name, member.name.rpartition(".")[0], *modules]


def _fraction(group: Group, values: Mapping[str, float]) -> float:
    entries = {m.name: next((values[name] for name in names_of(m) if name in values), None) for m in group.members}
    found = {name: value for name, value in entries.items() if value is not None}
    if len(set(found.values())) > 1:
        raise invalid("keep", got=found, expected="one fraction for these layers: their units go only together")
    return next(iter(found.values()), 1.0)


def _checked(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise invalid(what, got=repr(value), expected="a fraction in (0, 1]")
    return float(value)


def _check_names(what: str, names: Iterable[str], groups: list[Group]) -> None:
    members = [member for group in groups for member in group.members]
    known = dict.fromkeys(name for member in members for name in names_of(member)[1:] if name)
    for name in names:
        if not any(name in names_of(member) for member in members):
            raise invalid(what, got=repr(name), expected=f"modules with recurrent layers: {', '.join(known)}")
