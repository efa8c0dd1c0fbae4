"""Errors that say what is wrong, what was expected, what was given and how to fix it."""


class ModelFileError(ValueError):
    """A model file is damaged, of another kind or of another version; nothing of it was run."""


class UnsupportedModelError(ValueError):
    """A model cannot be traced, pruned or packed; the message names the module and the operation."""


def invalid(what: str, *, got: object, expected: str, hint: str = "") -> ValueError:
    """A `ValueError`: what, what was expected, what was given, and a hint.

    >>> raise invalid("hidden_size", got=-3, expected="a positive int")
    Traceback (most recent call last):
    ValueError: hidden_size: expected a positive int, got -3
    """
    return ValueError(f"{what}: expected {expected}, got {got}" + (f"; {hint}" if hint else ""))


def check_positive(value: object, what: str) -> int:
    """Return `value` if it is a positive int (not a bool), else raise `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise invalid(what, got=repr(value), expected="a positive int")
    return value


def check_part(value: object, what: str) -> float:
    """Return `value` if it is a number (not a bool) above 0 and at most 1, else raise `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise invalid(what, got=repr(value), expected="a number above 0 and at most 1")
    return value


def check_divides(total: int, part: int, total_name: str, part_name: str) -> int:
    """Return `total // part` if `part` divides `total`, else raise `ValueError`."""
    check_positive(part, part_name)
    if total % part:
        raise invalid(total_name, got=total, expected=f"a multiple of {part_name}={part}")
    return total // part


def missing_extra(feature: str, extra: str) -> ImportError:
    """The error for a feature whose optional packages are not installed."""
    return ImportError(f"{feature} needs packages that are not installed; run: pip install 'compactrnn[{extra}]'")
