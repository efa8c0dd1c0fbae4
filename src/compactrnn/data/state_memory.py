"""States that windows of a long series leave to those that follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from .._errors import invalid

NEVER = -1


@dataclass(frozen=True)
class StatePolicy:
    """What becomes of a state between its being written and its being read.

    - `refresh`: every so many updates what was written can be read
    - `mix`: the share of a new state where an old one is still known, which has the rest
    - `max_age`: a state is known for so many updates after the one that wrote it; 0: without end
    - `unseen`: whether a state that was not written again between two refreshes is kept or dropped
    """

    refresh: int = 1
    mix: float = 1.0
    max_age: int = 0
    unseen: Literal["keep", "drop"] = "keep"

    def __post_init__(self):
        for name, right, expected in (
            ("refresh", self.refresh >= 1, "at least 1"),
            ("mix", 0 < self.mix <= 1, "above 0, at most 1"),
            ("max_age", self.max_age >= 0, "0 or more"),
            ("unseen", self.unseen in ("keep", "drop"), "'keep' or 'drop'"),
        ):
            if not right:
                raise invalid(name, got=repr(getattr(self, name)), expected=expected)


class StateMemory:
    """Message propagation through time: the state at the beginning of each window, for windows in any order.

    A window that ends where window i begins writes its last state as that of i into the memory M; window i starts from
    the one in the memory R, or where there is none from the first state of the layer. Every `refresh` updates, before
    the update begins,

        R_i <- mix * M_i + (1 - mix) * R_i     where M_i was written since the last time and R_i is known, else M_i

    and M is emptied. No gradient flows through a state. States are nests of tensors as recurrent layers give them, the
    batch in the last axis but one; those that are not floating-point numbers are taken over, not mixed.

    After Xu, Khandelwal, Renganathan and Kumar, Message Propagation Through Time, SIAM International Conference on Data
    Mining 2024. Verified is its abstract alone: two memory modules that are filled and read asynchronously, and three
    policies that keep what is essential and drop what is outdated. What stands here, the keys, the equation, the ages
    in updates and what is dropped, is a reconstruction.

    >>> memory = StateMemory(3, StatePolicy(refresh=2))
    >>> memory.begin(0)
    >>> memory.write(torch.tensor([1, 2]), (torch.tensor([[5.0], [7.0]]),), update=0)
    >>> memory.read(torch.tensor([0, 1]), update=1)[1]
    tensor([False, False])
    >>> memory.begin(2)
    >>> memory.read(torch.tensor([0, 1]), update=2)
    ((tensor([[0.],
            [5.]]),), tensor([False,  True]))
    """

    def __init__(self, slots: int, policy: StatePolicy, kept: Any = None):
        self.slots, self.policy = slots, policy
        self.readable: Any = None
        self.written: Any = None
        self.readable_at: Tensor | None = None  # the update that wrote each state, NEVER where there is none
        self.written_at: Tensor | None = None
        if kept is not None:
            self.readable, self.readable_at, self.written, self.written_at = _checked(kept, slots)

    def kept(self) -> Any:
        """All of it as a nest of tensors, of which `StateMemory(slots, policy, kept)` is the same memory."""
        return None if self.readable is None else (self.readable, self.readable_at, self.written, self.written_at)

    def begin(self, update: int) -> None:
        """To be called before each update, with its number: what was written can be read where it is time."""
        if update % self.policy.refresh or self.readable_at is None or self.written_at is None:
            return
        new = (self.written_at != NEVER).nonzero().squeeze(1)
        old = self._known(new, update)

        def refresh(readable: Tensor, written: Tensor) -> None:
            value = written.index_select(-2, new)
            if self.policy.mix < 1 and value.is_floating_point():
                before = readable.index_select(-2, new)
                value = torch.where(old[:, None], before.lerp(value, self.policy.mix), value)
            readable.index_copy_(-2, new, value)

        tree_map(refresh, self.readable, self.written)
        if self.policy.unseen == "drop":
            self.readable_at.fill_(NEVER)
        self.readable_at[new] = self.written_at[new]
        self.written_at.fill_(NEVER)

    def read(self, slots: Tensor, update: int) -> tuple[Any, Tensor]:
        """The states at the beginning of the windows `slots`, int64 (batch,), and which of them are known."""
        if self.readable_at is None:
            return None, torch.zeros(len(slots), dtype=torch.bool)
        slots = slots.to(self.readable_at.device)
        return tree_map(lambda leaf: leaf.index_select(-2, slots), self.readable), self._known(slots, update)

    @torch.no_grad()
    def write(self, slots: Tensor, states: Any, update: int) -> None:
        """Keep `states` as those at the beginning of the windows `slots`; those for a negative slot are left out.

        Raises:
            ValueError: they are not as wide as those that were written before.
        """
        leaves = tree_leaves(states)
        rows = (slots >= 0).nonzero().squeeze(1).to(leaves[0].device)
        slots = slots.to(leaves[0].device)[rows]
        if self.readable is None:
            self.readable, self.written = tree_map(self._empty, states), tree_map(self._empty, states)
            self.readable_at = torch.full((self.slots,), NEVER, device=leaves[0].device)
            self.written_at = self.readable_at.clone()
        assert self.written_at is not None
        got, expected = ([_form(leaf) for leaf in tree_leaves(nest)] for nest in (states, self.written))
        if got != expected:
            hint = "the model has changed, as by shrink_: begin with a memory without states"
            raise invalid("states to store", got=f"of shapes {got}", expected=f"{expected}", hint=hint)

        def put(leaf: Tensor, state: Tensor) -> None:
            leaf.index_copy_(-2, slots, state.detach().index_select(-2, rows).to(leaf.dtype))

        tree_map(put, self.written, states)
        self.written_at[slots] = update

    def _known(self, slots: Tensor, update: int) -> Tensor:
        assert self.readable_at is not None
        at = self.readable_at[slots]
        known = at != NEVER
        return known & (update - at <= self.policy.max_age) if self.policy.max_age else known

    def _empty(self, state: Tensor) -> Tensor:
        shape = list(state.shape)
        shape[-2] = self.slots
        return state.new_zeros(shape)


def _form(state: Tensor) -> tuple[int, ...]:
    """A shape without the batch."""
    return *state.shape[:-2], state.shape[-1]


def _checked(kept: Any, slots: int) -> Any:
    """What `StateMemory.kept` gave, which a checkpoint may hold in any form.

    Raises:
        ValueError: it is not that of a memory of so many `slots`.
    """
    parts: Any = kept if isinstance(kept, tuple | list) and len(kept) == 4 else (None,) * 4
    states, ages = parts[::2], parts[1::2]
    leaves = [tree_leaves(nest) for nest in states]
    tensors = [*leaves[0], *leaves[1], *ages]
    right = all(isinstance(t, Tensor) for t in tensors) and all(t.dim() >= 2 for t in tensors[:-2])
    right = right and all(at.dim() == 1 and at.dtype == torch.int64 for at in ages)
    if not right or tree_structure(states[0]) != tree_structure(states[1]):
        expected = "nests of states of one structure, each with an int64 tensor of the updates that wrote them"
        raise invalid("stored states", got=f"a {type(kept).__name__} of another form", expected=expected)
    sizes = {len(at) for at in ages} | {leaf.shape[-2] for leaf in tensors[:-2]}
    if sizes != {slots}:
        raise invalid("stored states", got=f"those of {sorted(sizes)} windows", expected=f"those of {slots}")
    forms = [[(leaf.dtype, *_form(leaf)) for leaf in nest] for nest in leaves]
    if forms[0] != forms[1]:
        raise invalid("stored states", got=f"those to read of {forms[0]}", expected=f"{forms[1]}, as those written")
    return parts
