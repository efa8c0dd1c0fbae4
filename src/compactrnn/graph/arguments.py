"""Arguments of a model, in any nesting, as a flat tuple of tensors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._errors import UnsupportedModelError, invalid
from ..layers import is_recurrent

_ACCEPTED = (
    "a tensor, a tuple of arguments, or a dict of keyword arguments; None, bools and strings are kept as they are"
)


def flatten(model: nn.Module, example_inputs: Any) -> tuple[tuple[Tensor, ...], list[str]]:
    """The tensors of `example_inputs`, in the order of the model's arguments, and a name for each.

    `example_inputs` is a tensor, a tuple (or list) of positional arguments, or a dict. A dict whose keys are all
    parameters of the model's `forward` is its keyword arguments; any other dict is its one argument. An argument may be
    a tensor, None, a bool, a string, or a dict, tuple or list of these. Only tensors become inputs of an engine.

    Raises:
        ValueError: anything else is among the arguments.
    """
    given = _named(*arguments(model, example_inputs), model)
    found = [(name, leaf) for path, leaf in given if _is_input(name := "_".join(path), leaf)]
    names = [re.sub(r"\W", "_", name) for name, _ in found]
    repeated = {n for n in names if names.count(n) > 1}
    names = [f"{n}_{i}" if n in repeated or not n.isidentifier() else n for i, n in enumerate(names)]
    if not found:
        raise invalid("example_inputs", got="no tensor", expected=_ACCEPTED)
    return tuple(leaf.detach() for _, leaf in found), names


def paths(model: nn.Module, example_inputs: Any) -> list[tuple[str, ...]]:
    """For each tensor of `flatten`: the name of its argument, and the keys and places that lead to it from there."""
    return [path for path, leaf in _named(*arguments(model, example_inputs), model) if isinstance(leaf, Tensor)]


def positional(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """`model` changed such that it takes the tensors of `example_inputs` one by one, and those tensors.

    What is not a tensor among the arguments is passed on as it is. `model` itself changes where its arguments are not
    plain tensors: give a copy.
    """
    tensors, names = flatten(model, example_inputs)
    args, kwargs = arguments(model, example_inputs)
    if len(tensors) > 1 and is_recurrent(model):
        raise UnsupportedModelError(
            f"{type(model).__name__}: {names[1]} is its initial state, and the stream keeps the states: leave it out of"
            " example_inputs; the layer then starts from zeros, and Stream.reset(h_l0=...) from a given state. Or pack"
            f" it as one step: states=[{paths(model, example_inputs)[1][0]!r}]"
        )
    if is_recurrent(model) or (not kwargs and all(isinstance(a, Tensor) for a in args)):
        return model, tensors
    kind = type(model)

    def forward(self: nn.Module, *given: Tensor) -> Any:
        rest = iter(given)
        first = [filled(a, rest) for a in args]
        return kind.forward(self, *first, **{name: filled(a, rest) for name, a in kwargs.items()})

    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # pyright: ignore
    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return model, tensors


def arguments(model: nn.Module, given: Any) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(given, PackedSequence):
        return [given], {}
    if isinstance(given, tuple | list):
        return list(given), {}
    if not isinstance(given, dict):
        return [given], {}
    parameters = _parameters(model)
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    known = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not given or not all(isinstance(k, str) and (free or k in known) for k in given):
        return [given], {}
    order = [*(name for name in known if name in given), *(name for name in given if name not in known)]
    return [], {name: given[name] for name in order}


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(model.forward).parameters.values())


def _named(args: list[Any], kwargs: dict[str, Any], model: nn.Module) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf with its path: the parameter's name, and the places in it."""
    parameters = _parameters(model)
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "args")
    for i, value in enumerate(args):
        name = plain[i] if i < len(plain) else f"{rest}_{i - len(plain)}"
        alone = isinstance(value, dict) and len(args) == 1
        yield from _leaves(() if alone else (name,), value)
    for name, value in kwargs.items():
        yield from _leaves((name,), value)


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        parts = enumerate(value)
    else:
        yield path, value
        return
    for key, part in parts:
        yield from _leaves((*path, str(key)), part)


def _is_input(name: str, leaf: Any) -> bool:
    """Whether a leaf is a tensor; refuses what is neither that nor a flag."""
    if isinstance(leaf, Tensor) or leaf is None or isinstance(leaf, bool | str):
        return isinstance(leaf, Tensor)
    hints = {
        PackedSequence: "pass the padded tensor: the engine takes one sequence of any length",
        np.ndarray: "torch.from_numpy makes a tensor of it",
    }
    hint = next((text for kind, text in hints.items() if isinstance(leaf, kind)), "")
    if isinstance(leaf, int | float):
        hint = "a number is no input: make it a default of forward, an attribute of the model, or a tensor"
    raise invalid(f"example_inputs: {name}", got=f"a {type(leaf).__name__}", expected=_ACCEPTED, hint=hint)


def filled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """`value` with its tensors replaced by the next of `tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return {k: filled(v, tensors) for k, v in value.items()}
    if isinstance(value, tuple | list):
        parts = [filled(v, tensors) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
