"""Reasons why a model as a whole cannot be packed."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.refusals import check_model
from ..graph.trace import trace
from ..layers import is_recurrent
from .calls import Call, Reading, reason

ONE_STEP = (
    "a forward(x, h) for one step that returns y, h (and c of an LSTM), packed with states=['h']; the stream keeps them"
)
_TAKEN = "in a Python loop, which is taken where every step does the same, from the first on and from constant states"
_CELLS = {nn.LSTMCell: "nn.LSTM", nn.GRUCell: "nn.GRU", nn.RNNCell: "nn.RNN"}
_LAYERS = "nn.LSTM, nn.GRU, nn.RNN or a layer of compactrnn"


def cells_used(model: nn.Module) -> str:
    """What to do about the cells that Python code calls step by step; empty if there are none."""
    found = [(n, type(m)) for n, m in model.named_modules() if isinstance(m, tuple(_CELLS))]
    if not found:
        return ""
    name, kind = found[0]
    layer = next(layer for cell, layer in _CELLS.items() if issubclass(kind, cell))
    return (
        f"{name or 'the model'} is an nn.{kind.__name__} {_TAKEN}: use {layer}, called once"
        " with the whole sequence (its weight_ih_l0 is the cell's weight_ih, and so on), or pack"
        f" the loop's body as one step: {ONE_STEP}"
    )


def check_module(model: nn.Module) -> None:
    """Raise an error for a model that is not a Python nn.Module."""
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        name = getattr(model, "original_name", kind)
        raise UnsupportedModelError(
            f"{name}: a torch.jit.ScriptModule, which torch.export cannot follow; pack takes it, or give the Python"
            " module that it was made from"
        )
    if isinstance(model, torch.export.ExportedProgram):
        raise UnsupportedModelError(
            "a torch.export.ExportedProgram, in which recurrent layers are no modules any more; pack takes it, or give"
            " the module that it was exported from"
        )
    check_model(model)


def check_layers(model: nn.Module) -> None:
    """Raise an error for a model without a recurrent layer that can be traced."""
    check_module(model)
    kind = type(model).__name__
    if any(is_recurrent(m) for m in model.modules()):
        return
    for name, module in model.named_modules():
        where = f"{kind}: {name or 'the model'} is"
        if isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
            raise UnsupportedModelError(
                f"{where} a {type(module).__name__}, a subclass of {type(module).__mro__[1].__name__} with a forward of"
                f" its own; expected torch's forward: call {_LAYERS} in a module around it"
            )
        if "quantized" in type(module).__module__ and type(module).__name__ in ("LSTM", "GRU", "LSTMCell", "GRUCell"):
            raise UnsupportedModelError(
                f"{where} a quantized {type(module).__name__}; pack the float model: pack quantizes it (weights='int8')"
            )
    raise UnsupportedModelError(
        f"{kind}: no {_LAYERS} in the model; "
        + (
            cells_used(model)
            or "a recurrence written by hand is taken where every step of its loop does the same, from the first on and"
            f" from constant states; any other is packed as one step: {ONE_STEP}; or it becomes a cell of cr.Recurrent"
            " (docs/extending.md)"
        )
    )


@torch.no_grad()
def check_loops(model: nn.Module, few: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> None:
    """Raise an error for a model whose Python code calls a module more often on the longer inputs `more`."""
    counts = []
    for inputs in (few, more):
        seen: Counter[str] = Counter()
        hooks = [m.register_forward_pre_hook(_counting(seen, name)) for name, m in _outside_layers(model)]
        try:
            model(*inputs)
        except Exception:  # another check says it better
            return
        finally:
            for hook in hooks:
                hook.remove()
        counts.append(seen)
    for name, module in model.named_modules():
        if 0 < counts[0][name] < counts[1][name]:
            cells = cells_used(model) if isinstance(module, nn.RNNCellBase) else ""
            why = cells or (
                f"{name} (a {type(module).__name__}) is called {counts[0][name]} times, on a longer sequence"
                f" {counts[1][name]} times, by a Python loop over time. Call it once, with the whole sequence, or pack"
                f" the loop's body as one step: {ONE_STEP}"
            )
            raise UnsupportedModelError(f"{type(model).__name__}: {why}")


def _counting(seen: Counter[str], name: str) -> Callable[[nn.Module, Any], None]:
    return lambda module, arguments: seen.update([name])


def _outside_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a model, without what is within a recurrent layer."""
    layers = tuple(f"{name}." for name, m in model.named_modules() if is_recurrent(m))
    return [(name, m) for name, m in model.named_modules() if name and not name.startswith(layers)]


def no_time(
    base: list[Call], tried: dict[Reading, list[Call]], errors: dict[Reading, BaseException], inputs: tuple[Tensor, ...]
) -> str:
    """Why no axis could be identified as time."""
    first, shapes = base[0], ", ".join(str(tuple(x.shape)) for x in inputs)
    states = (
        "An engine keeps the states from step to step: pack the step with states=[...], the names of the arguments that"
        " it returns changed, or leave initial states out of example_inputs"
    )
    if any(len(c) != len(base) for c in tried.values()):
        return (
            f"calls {first.layer} {_TAKEN}; call it once, with the whole sequence."
            f" {states}; the layer starts from its own initial state"
        )
    moved = [(x, y) for c in tried.values() for x, y in zip(base, c, strict=True) if x.steps != y.steps]
    if moved:
        before, after = moved[0]
        return (
            f"no axis of example_inputs, of shape {shapes}, reaches {before.layer} as its time axis, by whole steps:"
            f" with an axis of twice the length it gets {after.steps} steps instead of {before.steps}. An engine gives"
            " as many results for every step: move what changes that out of the model"
        )
    if first.steps == 1:
        return (
            f"no axis of example_inputs, of shape {shapes}, reaches {first.layer} as its time axis: it always gets one"
            " step, so the model is the step and not the sequence. Let forward take a sequence, with a time axis."
            f" {states}, and let {first.layer} start from its own initial state"
        )
    why = f" ({reason(next(iter(errors.values())))})" if errors else ""
    return (
        f"no axis of example_inputs, of shape {shapes}, reaches {first.layer} as its time axis: it gets {first.steps}"
        f" steps, and the model takes no other number{why}"
    )


def no_time_axis(model: nn.Module, inputs: tuple[Tensor, ...], names: list[str], name: str) -> str:
    """Advice for an input without a time axis that an engine does not take."""
    given = inputs[names.index(name)]
    shape = tuple(given.shape)
    initial, looped = _initial_states(model, inputs, names)
    if looped:
        return (
            f"{looped}: starts from the state that it gave, as a Python loop calls it step by step; call it once, with"
            f" the whole sequence, or pack the loop's body as one step: {ONE_STEP}"
        )
    states = list(dict.fromkeys(source for source, _, moved in initial if moved))
    for source, layer, moved in initial:
        if source != name:
            continue
        why = f"{layer}: its initial state comes from input {name}, of shape {shape}, which has no time axis."
        if moved:
            return (
                f"{why} The stream keeps the states: leave {name} out of example_inputs and let the model start from"
                f" zeros or parameters, or pack the model as one step that takes and returns them: states={states}"
            )
        return (
            f"{why} Compute the state outside of the engine: pack a model that starts from zeros and takes the sequence"
            f" alone, and start its stream from the state, stream.reset(**{{'{layer}.h_l0': h}}) (docs/steps.md)"
        )
    alone = "; a sequence of another length, as that of a decoder, goes to a model that is packed by itself"
    return (
        f"input {name} has no time axis, shape {shape}, that grows with the first input's: an engine takes inputs"
        " of every step and, once a sequence, vectors, and tokens that are looked up. Repeat it at every step before"
        " the model, or, if it is always the same, make it a parameter or buffer; lengths of sequences are named,"
        " pack(..., lengths=['lengths'])" + (alone if len(shape) > 2 or not given.is_floating_point() else "")
    )


_MOVES = ("view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "expand", "clone", "select", "slice")


def _initial_states(
    model: nn.Module, inputs: tuple[Tensor, ...], names: list[str]
) -> tuple[list[tuple[str, str, bool]], str]:
    """Where a recurrent layer starts from what an input gives, and a layer that starts from what it gave itself.

    The former are the name of the input, the layer, and whether what is given is moved only.
    """
    try:
        traced = trace(model, inputs)
    except UnsupportedModelError:
        return [], ""
    found, looped = [], ""
    for node in traced.nodes:
        if node.target is not torch.ops.compactrnn.recurrent.default:
            continue
        pending = [n for n in node.args[2] if isinstance(n, torch.fx.Node)]  # pyright: ignore
        above: set[torch.fx.Node] = set()
        while pending:
            reached = pending.pop()
            if reached not in above:
                above.add(reached)
                pending += reached.all_input_nodes
        inputs_above = {n.name for n in above}
        layer = traced.leaves[node.args[0]].name or type(model).__name__  # pyright: ignore
        if any(n.target is node.target and n.args[0] == node.args[0] for n in above):
            looped = layer
        computed = [n for n in above if n.op == "call_function" and n.target is not operator.getitem]
        moved = all(getattr(n.target, "_opname", "").startswith(_MOVES) for n in computed)
        found += [
            (name, layer, moved) for name, given in zip(names, traced.inputs, strict=True) if given in inputs_above
        ]
    return found, looped
