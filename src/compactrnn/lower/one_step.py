"""Lowering of a one-step model, whose states are arguments and outputs, to a stateful program."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..emit.builder import CONSTANT, STEP, Builder, Operand
from ..graph.arguments import flatten, positional
from ..graph.cell_leaf import CellLeaf
from ..graph.copy import copy_module
from ..graph.example import Example
from ..graph.leaf import Leaf
from ..graph.trace import Trace, trace_leaves
from ..layers import is_cell, is_recurrent
from ..runtime.program import Input, Output, Program
from .calls import fails, resized
from .cell import apart, write_states
from .decompose import Pooling, decompositions
from .lowering import Lowered, in_float
from .outputs import Port, port_name, unique, with_plain_outputs
from .probe import Axes
from .refusals import check_module
from .state_slots import check_names, check_slots
from .stateless import check_stateless
from .step_rows import find_rows
from .step_states import Pair, Returned, States, pair_states, returned
from .unrolled import Layout, StepState, Unrolled
from .visitor import Visitor
from .weights import product_names, with_products

_STEPS = 24  # of the sequences that are compared with torch, at least


class _Layer(nn.Module):
    """Wraps a bare layer or cell in a module."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)


def lower_one_step(
    model: nn.Module, example_inputs: Any, states: States, initial: Mapping[str, Any] | None = None
) -> Lowered:
    """The program of a model that is one time step, and the model over sequences; see `pack` for the arguments.

    Raises:
        UnsupportedModelError: the model cannot be followed or lowered; names module and operation.
        ValueError: `states` or `initial` do not fit the model.
    """
    check_module(model)
    _, names = flatten(model, example_inputs)
    step = copy_module(model).cpu().float().eval()
    bare = is_recurrent(step) or is_cell(step)
    step, inputs = positional(_Layer(step) if bare else step, example_inputs)
    inputs = in_float(inputs)
    step = with_plain_outputs(step, inputs)
    outputs = _run(step, inputs, type(model).__name__)
    pairs = pair_states(model, example_inputs, inputs, states, outputs)
    check_stateless(step, inputs)
    rows = find_rows(step, inputs, pairs)
    single = resized(inputs, rows.arguments, 1)
    given = [Layout.of(x.shape, b) for x, b in zip(single, rows.arguments, strict=True)]
    kept = [StepState(p.name, p.argument, p.output, given[p.argument]) for p in pairs]
    start = _initial(kept, inputs, initial)

    single_outputs = _run(step, single, type(model).__name__)
    ports, left_out = _ports(single_outputs, pairs, rows.outputs)
    trace = _trace(with_products(step), single, bare)
    if not isinstance(states, Mapping):
        check_slots(trace, pairs, names)
        check_names(model, [names[p.argument] for p in pairs])
    program = _build(trace, names, given, kept, start, ports, product_names(step))

    places = [i for i in range(len(inputs)) if i not in {p.argument for p in pairs}]
    layouts = [given[i]._replace(port=port.shape) for i, port in zip(places, program.inputs, strict=True)]
    fed = list(zip(places, layouts, strict=True))
    axes = Axes((0,) * len(fed), tuple(None if layout.batch is None else 1 for layout in layouts))
    return Lowered(
        program,
        Unrolled(step, fed, kept, [(p.place, p.layout) for p in ports], start).eval(),
        tuple(layout.from_step(inputs[i])[None].repeat_interleave(_STEPS, 0) for i, layout in fed),
        axes,
        trace,
        [Port(p.name, number, 0, None if p.layout.batch is None else 1) for number, p in enumerate(ports)],
        left_out,
        0,
    )


class _Given(NamedTuple):
    """A tensor that the engine gives: its name, its place among all that the step returns, its layout."""

    name: str
    place: int
    layout: Layout


@torch.no_grad()
def _run(step: nn.Module, inputs: tuple[Tensor, ...], kind: str) -> list[Returned]:
    try:
        return returned(step(*inputs))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise fails(kind, error) from error


def _initial(
    states: list[StepState], example: tuple[Tensor, ...], given: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """The states before the first step: zeros, or what is given by name, as engines have them."""
    names = [s.name for s in states]
    if unknown := set(given or {}) - set(names):
        raise invalid("initial", got=f"{sorted(unknown)[0]!r}", expected=f"names of states ({', '.join(names)})")
    found = {}
    for name, argument, _, layout in states:
        if given is None or name not in given:
            if bool(example[argument].any()):
                warnings.warn(
                    f"state {name}: the stream starts from zeros and not from the numbers in example_inputs;"
                    f" pack(initial={{{name!r}: ...}}) sets another start, Stream.reset({name}=...) one for a sequence",
                    stacklevel=5,
                )
            found[name] = torch.zeros(layout.port)
            continue
        value = torch.as_tensor(given[name]).detach().cpu()
        if [n for n in value.shape if n != 1] != [n for n in layout.port if n != 1]:
            raise invalid(
                f"initial {name!r}", got=f"shape {tuple(value.shape)}", expected=f"{layout.port}, of one sequence"
            )
        found[name] = value.float().reshape(layout.port)
    return found


def _ports(outputs: list[Returned], pairs: list[Pair], batches: Sequence[int | None]) -> tuple[list[_Given], list[str]]:
    """All tensors that are not the new value of a state, or, if there are no others, those."""
    kept = {pair.output: pair.name for pair in pairs}
    tensors = {i for i, o in enumerate(outputs) if isinstance(o.value, Tensor)}
    chosen = tensors - set(kept) or tensors
    ports: list[_Given] = []
    left_out: list[str] = []
    for i, (keys, value) in enumerate(outputs):
        if value is None or i in tensors - chosen:
            continue
        taken = [*(p.name for p in ports), *left_out]
        name = unique(kept[i] if i in kept else port_name(keys), taken)
        if i in chosen:
            ports.append(_Given(name, i, Layout.of(value.shape, batches[i])))
        else:
            left_out.append(name)
    return ports, left_out


def _trace(step: nn.Module, inputs: tuple[Tensor, ...], bare: bool) -> Trace:
    """The graph of one step, in which each layer and each cell of torch is one node."""
    model = copy_module(step)
    leaves = []
    for name, module in model.named_modules():
        kind = Leaf if is_recurrent(module) else CellLeaf if is_cell(module) else None
        if kind is not None:
            module._leaf = kind("" if bare else name, module)  # pyright: ignore
            leaves.append(module._leaf)
    with Pooling():
        return trace_leaves(model, leaves, Example(inputs, {}), None, decompositions())


def _build(
    trace: Trace,
    names: list[str],
    layouts: list[Layout],
    states: list[StepState],
    initial: dict[str, Tensor],
    ports: list[_Given],
    rename: Callable[[str], str],
) -> Program:
    build = Builder()
    kept = {s.argument: s for s in states}
    operands: list[Operand] = []
    for i, layout in enumerate(layouts):
        if i in kept:
            ref = build.state(kept[i].name, initial[kept[i].name].numpy().ravel(), layout.port)
        else:
            ref = build.buffer(math.prod(layout.port), "input")
            build.program.inputs.append(Input(names[i], ref.buffer, layout.port, 0))
        operands.append(Operand(ref, layout.shape, None, STEP, 0))
    example = trace.example.tensors
    visitor = Visitor(build, trace, trace.run(example), rename=rename)
    results = [_operand(build, value) for value in visitor.lower(operands)]
    before = [operands[s.argument] for s in states]
    for port in ports:
        value = apart(build, results[port.place], before)
        build.program.outputs.append(Output(port.name, value.ref, port.layout.port))
    write_states(build, before, [results[s.output] for s in states])
    return build.finish()


def _operand(build: Builder, value: Any) -> Any:
    """A constant output as an operand."""
    if not isinstance(value, Tensor):
        return value
    return Operand(build.constant(value.float().numpy().ravel()), tuple(value.shape), None, CONSTANT, 0)
