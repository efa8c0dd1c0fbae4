"""Pairing of state arguments with outputs in a one-step model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import invalid
from ..graph.arguments import flatten, paths

States = Sequence[str | int] | Mapping[str | int, str | int]


class Pair(NamedTuple):
    """A state: its name, the place of its argument among the tensors, of its new value among all that is returned."""

    name: str
    argument: int
    output: int


class Returned(NamedTuple):
    """One leaf of what a model returns, and the keys, fields and places that lead to it."""

    keys: tuple[Any, ...]
    value: Any

    @property
    def path(self) -> tuple[str, ...]:
        """The keys as texts; "0" where the model returns nothing but this."""
        kinds = ("key", "idx", "name")
        return tuple(str(next(getattr(k, n) for n in kinds if hasattr(k, n))) for k in self.keys) or ("0",)

    @property
    def named(self) -> bool:
        """Whether it has a key or a field, and not only a place."""
        return bool(self.keys) and not isinstance(self.keys[0], pytree.SequenceKey)


def returned(result: Any) -> list[Returned]:
    """The leaves of what a model returned."""
    return [Returned(keys, value) for keys, value in pytree.tree_flatten_with_path(result)[0]]


def pair_states(
    model: nn.Module, example_inputs: Any, inputs: Sequence[Tensor], states: States, outputs: list[Returned]
) -> list[Pair]:
    """The states that `states` names; see `pack`. `inputs` and `outputs` are those of the example.

    Raises:
        ValueError: there is no such argument or output, or shape and type of a state are not kept.
    """
    where = paths(model, example_inputs)
    _, names = flatten(model, example_inputs)
    if isinstance(states, str) or not isinstance(states, Sequence | Mapping) or not states:
        raise invalid("states", got=repr(states), expected="names of arguments, or a dict of arguments and outputs")
    chosen = [_arguments(where, names, key) for key in states]
    flat = [place for places in chosen for place in places]
    if len(set(flat)) < len(flat):
        raise invalid("states", got=f"{list(states)}, one argument twice", expected="each argument once")
    if len(flat) == len(inputs):
        raise invalid("states", got="all arguments of the model", expected="at least one argument left as input")
    if isinstance(states, Mapping):
        news = [_outputs(outputs, key, value) for key, value in states.items()]
    elif outputs and all(o.named for o in outputs):
        tops = [
            where[places[0]][0] if isinstance(key, int) else key for key, places in zip(states, chosen, strict=True)
        ]
        news = [_outputs(outputs, top, top) for top in tops]
    else:
        news, chosen = [_last(outputs, [names[i] for i in flat])], [flat]
    for key, a, o in zip(states, chosen, news, strict=False):
        if len(a) != len(o):
            raise invalid(
                f"states: new value of {key!r}", got=f"{len(o)} tensors", expected=f"{len(a)}, as the argument"
            )
    after = [place for places in news for place in places]
    if len(set(after)) < len(after):
        raise invalid("states", got="one output for two states", expected="an output for each")
    pairs = [Pair(names[a], a, o) for a, o in zip(flat, after, strict=True)]
    for pair in pairs:
        _check_kept(pair, inputs[pair.argument], outputs[pair.output])
    return pairs


def _arguments(where: list[tuple[str, ...]], names: list[str], key: str | int) -> list[int]:
    """The tensors of an argument, given by name or position, or one of its tensors, by its name in the engine."""
    tops = list(dict.fromkeys(path[0] for path in where))
    if isinstance(key, bool) or not isinstance(key, str | int) or (isinstance(key, int) and not 0 <= key < len(tops)):
        raise invalid("states", got=repr(key), expected=f"an argument of the model ({', '.join(tops)}) or its position")
    name = tops[key] if isinstance(key, int) else key
    found = [i for i, path in enumerate(where) if path[0] == name] or [i for i, n in enumerate(names) if n == name]
    if not found:
        raise invalid(
            "states", got=repr(key), expected=f"an argument of the model that has tensors ({', '.join(tops)})"
        )
    return found


def _outputs(outputs: list[Returned], state: str | int, key: str | int) -> list[int]:
    """The tensors of an output, given by its key, its field or its position."""
    tops = list(dict.fromkeys(o.path[0] for o in outputs))
    name = tops[key] if isinstance(key, int) and 0 <= key < len(tops) else str(key)
    found = [i for i, o in enumerate(outputs) if o.path[0] == name or ".".join(o.path) == name]
    if not found or isinstance(key, bool):
        kind = "keys" if all(o.named for o in outputs) else "positions"
        raise invalid(
            f"states: new value of {state!r}",
            got=repr(key),
            expected=f"one of the {kind} of what the model returns ({', '.join(tops)})",
            hint=f"states={{{state!r}: ...}} gives the one that is its new value",
        )
    return [i for i in found if isinstance(outputs[i].value, Tensor)]


def _last(outputs: list[Returned], names: list[str]) -> list[int]:
    """The last tensors that are returned, one for each state."""
    tensors = [i for i, o in enumerate(outputs) if isinstance(o.value, Tensor)]
    if len(tensors) < len(names):
        raise invalid(
            "states",
            got=f"a model that returns {len(tensors)} tensors",
            expected=f"the new values of {', '.join(names)} among what it returns",
            hint="let forward return them: `return y, h`",
        )
    return tensors[len(tensors) - len(names) :]


def _check_kept(pair: Pair, before: Tensor, after: Returned) -> None:
    if not before.is_floating_point():
        raise invalid(
            f"state {pair.name!r}",
            got=str(before.dtype),
            expected="a tensor of floating-point numbers",
            hint="a token or a flag is an input of each step; a counter can be a float",
        )
    new = after.value
    if new.shape != before.shape or not new.dtype == before.dtype == torch.float32:
        got = f"output {'.'.join(after.path)} of shape {tuple(new.shape)}, {new.dtype}"
        raise invalid(
            f"new value of state {pair.name!r}",
            got=got,
            expected=f"shape {tuple(before.shape)}, {before.dtype}, as the argument",
            hint=f"states={{{pair.name!r}: ...}} names another output",
        )
