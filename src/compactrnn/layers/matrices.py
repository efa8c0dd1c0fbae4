"""The matrices of any model, under the names that `pack` gives them, and how another weight takes their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..cells.base import AbstractCell
from ..weights.base import AbstractWeight
from ..weights.low_rank import LowRankWeight
from .bind import GATES
from .convert import convert_
from .embedding import Embedding
from .fused import AbstractFused
from .inspect import is_cell, is_recurrent
from .linear import Linear


@dataclass(frozen=True, eq=False)
class Place:
    """An attribute of a module that is a matrix: a parameter, or a weight."""

    name: str
    module: nn.Module
    attribute: str
    gates: int = 1

    @property
    def held(self) -> nn.Parameter | AbstractWeight | None:
        """What stands there; None where it is computed from other parameters."""
        found = self.module._parameters.get(self.attribute)
        return found if found is not None else self.module._modules.get(self.attribute)  # pyright: ignore

    @property
    def is_table(self) -> bool:
        """Whether rows are looked up in it."""
        return isinstance(self.module, nn.Embedding | Embedding)

    def put(self, weight: AbstractWeight) -> None:
        """Let `weight` stand there; torch's layer becomes this package's, and stays the same object."""
        module = self.module
        if isinstance(module, nn.RNNBase):
            fused = convert_(module)
            assert isinstance(fused, AbstractFused)
            fused.put(self.attribute, weight)
            fused.refresh()
            return
        if type(module) in _OURS:
            sizes = ("in_features", "out_features") if isinstance(module, nn.Linear) else _TABLE
            module.__class__ = _OURS[type(module)]  # pyright: ignore
            for name in sizes:
                module.__dict__.pop(name, None)
        module._parameters.pop(self.attribute, None)
        setattr(module, self.attribute, weight)


_OURS: dict[type, type] = {nn.Linear: Linear, nn.Embedding: Embedding}
_TABLE = ("num_embeddings", "embedding_dim", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


@dataclass(frozen=True, eq=False)
class ModelMatrix:
    """A matrix of a model, and all places where it stands: `left_alone` is why it must stay as it is, or empty."""

    joined: ClassVar = False
    places: tuple[Place, ...]
    left_alone: str

    @property
    def name(self) -> str:
        return self.places[0].name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(place.name for place in self.places)

    @property
    def gates(self) -> int:
        return self.places[0].gates

    @property
    def held(self) -> nn.Parameter | AbstractWeight | None:
        return self.places[0].held

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), those of the value where it is computed from other parameters."""
        held = self.held if self.held is not None else getattr(self.places[0].module, self.places[0].attribute)
        if isinstance(held, AbstractWeight):
            return held.out_features, held.in_features
        return held.shape[0], held.shape[1]

    def dense(self) -> Tensor:
        """Its entries, (out, in)."""
        held = self.held
        assert held is not None
        return (held.dense() if isinstance(held, AbstractWeight) else held).detach()

    def parameters(self) -> list[nn.Parameter]:
        held = self.held
        return list(held.parameters()) if isinstance(held, AbstractWeight) else [] if held is None else [held]

    @property
    def numbers(self) -> int:
        """How many numbers it consists of."""
        return sum(p.numel() for p in self.parameters()) or self.shape[0] * self.shape[1]

    def macs(self, weight: AbstractWeight | None = None) -> int:
        """Multiply-accumulates of one product in each of its places, with `weight` for it; a lookup has none."""
        held = self.held if weight is None else weight
        product = held.macs() if isinstance(held, AbstractWeight) else self.shape[0] * self.shape[1]
        lookup = held.right.numel() if isinstance(held, LowRankWeight) else 0
        return sum(lookup if place.is_table else product for place in self.places)

    @property
    def number_size(self) -> int:
        """Bytes of one of its numbers."""
        return next((p.element_size() for p in self.parameters()), 4)

    def put(self, weight: AbstractWeight) -> None:
        """Let `weight` stand in all of its places."""
        for place in self.places:
            place.put(weight)


def matrices(model: nn.Module) -> list[ModelMatrix]:
    """Every matrix of the recurrent, linear and embedding layers of `model`, a shared one once, in the model's order.

    >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 4))
    >>> [(matrix.name, matrix.shape) for matrix in matrices(model)]
    [('0', (50, 8)), ('1', (4, 8))]
    """
    places: dict[tuple[int, ...], list[Place]] = {}
    known: set[tuple[int, str]] = set()
    for place in _places(model):
        if (at := (id(place.module), place.attribute)) not in known:
            known.add(at)
            held = place.held
            tensors = [held] if isinstance(held, nn.Parameter) else [] if held is None else list(held.parameters())
            places.setdefault(tuple(map(id, tensors)) or at, []).append(place)  # pyright: ignore
    owners = _owners(model)
    blocks = [m for m in model.modules() if isinstance(m, nn.TransformerEncoderLayer)]
    read = {id(linear) for block in blocks for linear in (block.linear1, block.linear2)}
    return [ModelMatrix(tuple(same), _left_alone(same, key, owners, read)) for key, same in places.items()]


def _places(model: nn.Module) -> Iterator[Place]:
    inside: tuple[str, ...] = ()  # of weights, whose own modules are theirs
    for path, module in model.named_modules():
        if path.startswith(inside) and inside:
            continue
        before = f"{path}." if path else ""
        if isinstance(module, AbstractWeight):
            inside = (*inside, f"{path}.")
        elif isinstance(module, AbstractCell):
            for name, child in module._modules.items():
                if isinstance(child, AbstractWeight):
                    yield Place(before + name, module, name, child.gates)
        elif isinstance(module, nn.RNNBase) and is_recurrent(module):
            for names in module._all_weights:
                for name in names:
                    if name.startswith("weight"):
                        gates = 1 if name.startswith("weight_hr") else GATES[module.mode]
                        yield Place(before + name, module, name, gates)
        elif is_cell(module):
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.dim() == 2:
                    yield Place(before + name, module, name, len(parameter) // module.hidden_size)  # pyright: ignore
        elif parametrize.type_before_parametrizations(module) in (nn.Linear, Linear, nn.Embedding, Embedding):
            yield Place(path or "weight", module, "weight")


def _owners(model: nn.Module) -> dict[int, set[tuple[int, str]]]:
    """For each parameter the modules that have it, a weight's as a whole, and the attribute."""
    owners: dict[int, set[tuple[int, str]]] = {}

    def visit(module: nn.Module, owner: tuple[int, str] | None) -> None:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(owner or (id(module), name))
        for name, child in module._modules.items():
            if child is not None:
                inner = (id(module), name) if isinstance(child, AbstractWeight) else None
                visit(child, owner or inner)

    visit(model, None)
    return owners


def _left_alone(
    places: list[Place], key: tuple[int, ...], owners: dict[int, set[tuple[int, str]]], read: set[int]
) -> str:
    """Why a matrix must stay; `read` are modules whose matrices the module around them reads by itself."""
    first, own = places[0], {(id(place.module), place.attribute) for place in places}
    held = first.held
    if held is None:
        return "it is computed from other parameters"
    if isinstance(held, nn.Module) and any(map(parametrize.is_parametrized, held.modules())):
        return "a part of it is computed from other parameters"
    if any(id(place.module) in read for place in places):
        return "an nn.TransformerEncoderLayer reads it by itself"
    if any(owners.get(parameter, own) - own for parameter in key):
        return "a parameter of it is used elsewhere, too"
    if isinstance(first.module, nn.RNNCellBase):
        kind = type(first.module).__name__
        return f"nn.{kind} takes plain matrices only; nn.{kind.removesuffix('Cell')} and cr.Recurrent take others"
    if any(place.gates != first.gates for place in places):
        return "it is shared between layers of different gates"
    if any(isinstance(place.module, nn.Embedding) and _special(place.module) for place in places):
        return "its embedding has max_norm, scale_grad_by_freq or sparse"
    if any(place.attribute.startswith("weight_hr") or place.attribute == "projection" for place in places):
        return "a projection is a factor already"
    return ""


def _special(table: nn.Embedding) -> bool:
    return table.max_norm is not None or table.scale_grad_by_freq or table.sparse
