"""Build a model from options of unknown origin, if it fits in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .._errors import ModelFileError
from .._memory import NotEnoughMemory, available_memory, check_memory
from .._validate import validated
from ..tasks.base import AbstractTask


def build_model(task: AbstractTask, options: Any, copies: int = 1) -> Any:
    """The model of `options`; `ValueError` before allocating it, if `copies` of it would not fit in memory."""
    try:
        with torch.device("meta"), _Budget(copies):
            task.build_model(options)
    except NotEnoughMemory:
        raise
    except Exception:
        pass  # a cell that computes with its numbers is counted as its tensors come; other reasons come again
    with _Budget(copies):
        return task.build_model(options)


def model_options(task: AbstractTask, table: Mapping[str, Any], where: str) -> Any:
    """The options of a task's model from plain values."""
    return validated(task.model_options, dict(table), where)


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a model; `ModelFileError` names the first that does not fit."""
    try:
        model.load_state_dict(dict(state))
    except (RuntimeError, TypeError, AttributeError) as error:
        own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in state.items()}
        for name in sorted(own.keys() | given.keys()):
            if own.get(name) != given.get(name):
                got, wanted = given.get(name, "nothing"), own.get(name, "nothing")
                raise ModelFileError(
                    f"{where}: {name}: expected {wanted}, by the run's config.json, got {got}"
                ) from error
        raise ModelFileError(f"{where}: {error}") from error
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise ModelFileError(f"{where}: {name}: expected weights, got numbers that are not finite")


class _Budget(TorchDispatchMode):
    """Count the memory of new tensors before they are allocated."""

    def __init__(self, copies: int):
        super().__init__()
        self.copies, self.bytes, self.available = copies, 0, available_memory()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], (list, tuple, torch.Size)) and all(isinstance(n, int) for n in args[0]):
            self.bytes += 4 * math.prod(args[0])
            hint = "make the sizes in the section model smaller"
            check_memory(self.copies * self.bytes, "model", hint, self.available)
        return func(*args, **(kwargs or {}))
