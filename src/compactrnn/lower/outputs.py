"""A model's outputs: names, time and batch axes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from ..graph.plain_outputs import is_plain, plain, returning_plain_
from ..graph.trace import Trace
from .probe import Axes, output_axes


class Port(NamedTuple):
    """A tensor that the model returns: its name, its place among all that is returned, its time and batch axis.

    `rate` is how many entries of time it has for each step.
    """

    name: str
    place: int
    time: int | None
    batch: int | None
    rate: int = 1


def with_plain_outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """`model`, changed such that it returns dicts where it returned dataclasses or mappings of other classes.

    Raises:
        UnsupportedModelError: it returns no tensor, or something in which tensors cannot be found.
    """
    try:
        with torch.no_grad():
            result = copy_module(model)(*inputs)
    except Exception:  # another says it better
        return model
    leaves = pytree.tree_leaves(plain(result))
    unknown = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor | bool | int | float | str | None)]
    if unknown or not any(isinstance(leaf, Tensor) for leaf in leaves):
        raise UnsupportedModelError(
            f"{type(model).__name__}: returns {f'a {unknown[0]}' if unknown else 'no tensor'}; an engine gives tensors,"
            " alone or in tuples, lists, dicts, named tuples or dataclasses"
        )
    return model if is_plain(result) else returning_plain_(model)


def find_ports(model: nn.Module, trace: Trace, inputs: tuple[Tensor, ...], axes: Axes) -> tuple[list[Port], list[str]]:
    """The engine's outputs among those of the model for `inputs` of batch 1, and the names of the others.

    Dict keys and fields of named tuples are names; so are `h_n`, `c_n`, ... for the states after the last step, with
    the layer's name before them where there are several layers. The states of a model that is one bare layer are left
    out where its stream keeps them; a bidirectional layer has no stream.
    """
    kept = trace.alone and all(leaf.directions == 1 for leaf in trace.leaves.values())
    with torch.no_grad():
        leaves, _ = pytree.tree_flatten_with_path(model(*inputs))
    states = trace.state_names()
    tensors = iter(output_axes(model, inputs, axes))
    ports: list[Port] = []
    left_out: list[str] = []
    for place, ((path, leaf), state) in enumerate(zip(leaves, states, strict=True)):
        if leaf is None:
            continue
        name = unique(port_name(path, state), [*(p.name for p in ports), *left_out])
        port = Port(name, place, *(next(tensors) if isinstance(leaf, Tensor) else (None, None, 1)))
        if not isinstance(leaf, Tensor) or (kept and state):
            left_out.append(name)
        else:
            ports.append(port)
    return ports, left_out


def port_name(path: tuple[Any, ...], state: str = "") -> str:
    """The keys and fields of `path`, then `state` where the last is a place in a tuple; `output` without any."""
    named = [str(k.key) if isinstance(k, pytree.MappingKey) else k.name for k in path if not _numbered(k)]
    if state and (not named or _numbered(path[-1])):
        named.append(state)
    return ".".join(named) or "output"


def _numbered(key: Any) -> bool:
    return isinstance(key, pytree.SequenceKey)


def unique(name: str, taken: list[str]) -> str:
    """The name, with a number added if it is taken."""
    number, unique = 0, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique
