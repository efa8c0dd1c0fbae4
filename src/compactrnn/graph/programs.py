"""Models that are programs rather than Python code, as modules: exported and scripted ones."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._errors import UnsupportedModelError, invalid
from ..layers import is_recurrent
from .copy import copy_module
from .exported import check_numbers, example_of, exported_module
from .scripted import arguments_of, holds_tensor, scripted_module

_CLOSE = 1e-5


class Rebuilt(NamedTuple):
    """A module that does what a program does.

    Attributes:
        module: the module, on the parameters of the program.
        example: what it is called with.
        batch: what it is called with where the program is called with the argument.
        check_times: raises an error where the program is known to be right for its own number of steps alone; takes the
            axis of time of each tensor of the example.
    """

    module: nn.Module
    example: Any
    batch: Callable[[Any], Any] = lambda given: given
    check_times: Callable[[Sequence[int | None]], None] = lambda times: None


def rebuilt(model: Any, example_inputs: Any, fixed: bool = False) -> Rebuilt:
    """`model` as a module; a module of Python is that already.

    Args:
        model: an `nn.Module`, a `torch.jit.ScriptModule` or a `torch.export.ExportedProgram`.
        example_inputs: what it is called with; by default what it was exported with.
        fixed: whether sizes of tensors are always those of the example, as in a model that is one time step.

    Raises:
        UnsupportedModelError: the program cannot be followed, or the module does something else.
        ValueError: there is no example.
    """
    if isinstance(model, torch.export.ExportedProgram):
        module = exported_module(model)
        if not fixed and not any(is_recurrent(m) for m in module.modules()):
            raise UnsupportedModelError(
                f"{type(module).__name__}: no recurrent layer in the ExportedProgram (aten.lstm, aten.gru,"
                " aten.rnn_tanh or aten.rnn_relu): run_decompositions() writes layers out for the steps of the example,"
                " as does a Python loop; give the program as torch.export.export returns it"
            )
        own = example_of(model, module)
        example = own if example_inputs is None else example_inputs
        if own is not None:
            _compare(model.module(), own, module, own)
        made = Rebuilt(module, example, check_times=lambda times: check_numbers(model, times))
    elif isinstance(model, torch.jit.ScriptModule) and example_inputs is not None:
        twin = copy.deepcopy(model)
        if any(p.device.type != "cpu" for p in twin.parameters()):
            twin = twin.cpu()
        module, example = scripted_module(twin, example_inputs, fixed)
        with contextlib.suppress(RuntimeError):  # a frozen module has no modes
            twin.eval()
        _compare(twin, example_inputs, module, example)
        made = Rebuilt(module, example, lambda b: tuple(v for v in arguments_of(twin, b).values() if holds_tensor(v)))
    else:
        made = Rebuilt(model, example_inputs)
    if made.example is None:
        raise invalid("example_inputs", got="none", expected="what the model is called with")
    return made


@torch.no_grad()
def _compare(original: Any, given: Any, module: nn.Module, example: Any) -> None:
    """Raise an error where `module` gives something else on the example."""
    pairs = zip(_outputs(copy.deepcopy(original), given), _outputs(copy_module(module), example), strict=True)
    for x, y in pairs:
        limit = _CLOSE * max(1.0, float(x.double().abs().max()) if x.numel() else 0.0)
        if x.shape != y.shape or not torch.allclose(x.double(), y.double(), rtol=0.0, atol=limit, equal_nan=True):
            raise UnsupportedModelError(
                f"{type(module).__name__}: its graph, taken apart, gives something else than the program does on"
                " example_inputs; pack the Python module that it was made from"
            )


def _outputs(model: Any, example: Any) -> list[Tensor]:
    if isinstance(example, dict):
        result = model(**example)
    else:
        result = model(*example) if isinstance(example, tuple | list) else model(example)
    return [x for x in tree_leaves(result) if isinstance(x, Tensor)]
