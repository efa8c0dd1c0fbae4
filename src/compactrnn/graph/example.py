"""Example inputs of a model: its arguments, and the tensors among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from .._errors import invalid
from .arguments import arguments, filled


@dataclass(frozen=True)
class Example:
    """Arguments of a call: tensors in any arrangement, and numbers, strings and None, which stay as they are."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, given: Any) -> Example:
        """A tensor, a tuple (or list) of arguments, or a dict of keyword arguments.

        Raises:
            ValueError: something else is among them, or no tensor is.
        """
        args, kwargs = arguments(model, given)
        example = cls(tuple(args), kwargs)
        packed = any(isinstance(x, PackedSequence) for x in (*args, *kwargs.values()))
        others = [x for x in tree_leaves((args, kwargs)) if not isinstance(x, Tensor | int | float | str | None)]
        if packed or others or not example.tensors:
            raise invalid(
                "example_inputs",
                got="a PackedSequence" if packed else f"a {type(others[0]).__name__}" if others else "no tensor",
                expected="a tensor, a tuple of arguments or a dict of keyword arguments: tensors, numbers and None",
                hint="give padded sequences and their lengths, and pack them within forward" if packed else "",
            )
        return example

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, in order."""
        return tuple(x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor))

    def with_tensors(self, tensors: Sequence[Tensor]) -> Example:
        """The same arguments with other tensors."""
        rest = iter(tensors)
        args = tuple(filled(x, rest) for x in self.args)
        return replace(self, args=args, kwargs={name: filled(x, rest) for name, x in self.kwargs.items()})

    def call(self, model: nn.Module) -> Any:
        return model(*self.args, **self.kwargs)
