"""Lowering of an ONNX file to a program."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np

from .._errors import ModelFileError, UnsupportedModelError, invalid
from ..emit.address import LazyView
from ..emit.builder import CONSTANT, HELD, LAST, STEP, Builder, Operand
from ..emit.lengths import MOST, for_any_length
from ..emit.movement import float32
from ..emit.plan import SHIFT
from ..emit.ports import add_output, check_missing, missing_results
from ..emit.recurrent import apart, write_states
from ..runtime.engine import MOST_ADDED
from ..runtime.program import Input, Output, Program
from .cut import Inputs, check_outputs, part, with_inputs
from .dequantize import dequantized
from .evaluate import WINDOWS
from .folded import LAYERS, Folded, Node
from .form import Form, as_one_step, as_whole, find_form, recurrent, with_equal_axes
from .free_length import freed, only_sizes
from .fuse import fused
from .half import widened
from .model_file import FileError, ModelFile
from .ports import Port, Ports, States, may_be_states, read_ports
from .visitor import Visitor

_MOVES = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_PARTS = ("Gather", "Slice", "Split")  # which take some entries


@dataclass(frozen=True)
class Lowered:
    """The float32 program of a file, its form, and the names of the outputs that an engine gives."""

    program: Program
    file: ModelFile
    form: Form
    outputs: list[str]

    @cached_property
    def time_axes(self) -> dict[str, int | None]:
        """The time axis of each output in the file; None where it has none."""
        fewest = self.form.fewest
        small, large = (self.form.folded(self.file, self.outputs, steps) for steps in (fewest, fewest + 1))
        shapes = ([f.type_of(name).shape for name in f.outputs] for f in (small, large))
        grown = ([d for d, (n, m) in enumerate(zip(a, b, strict=True)) if n != m] for a, b in zip(*shapes, strict=True))
        return {name: next(iter(axes), None) for name, axes in zip(self.outputs, grown, strict=True)}


def lower(
    file: ModelFile,
    *,
    constants: Mapping[str, object] | None = None,
    states: States | None = None,
    dims: Mapping[str, int] | None = None,
    time: str | None = None,
    inputs: Inputs | None = None,
    outputs: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
    initial: Mapping[str, object] | None = None,
    lengths: Sequence[str] | None = None,
) -> Lowered:
    """The program of `file`, in float32; see `pack_onnx` for the arguments.

    Raises:
        UnsupportedModelError: some operator, branch or form is not taken; names the node.
        ModelFileError: the file is malformed.
        ValueError: bad arguments.
    """
    file = dequantized(widened(file))
    if inputs is not None:
        file = with_inputs(file, inputs)

    def attempt(file: ModelFile, lengths: Sequence[str] | None = lengths, states: States | None = states) -> Lowered:
        ports, chosen, needed = ported(file, lengths, states)
        if inputs is not None or outputs is not None:
            file, ports, needed = part(file, ports, chosen, keep_states=states is not None)
        ports = with_equal_axes(file, ports, needed, dims, time)
        form = find_form(file, ports, needed, dims, time)
        if form.time is None and ports.lengths and lengths is None:  # in a file of one step it is data
            return attempt(file, [])
        if form.time is not None and (given := _starting_backwards(file, form, needed)):
            if states is not None:
                raise FileError(
                    f"state {given[0]!r}: a layer that runs backwards starts from it, which no stream can go on with;"
                    " left out of states it is an input that is given once a sequence",
                    1,
                )
            return attempt(file, lengths, {s.name: s.output for s in ports.states if s.name not in given})
        try:
            return _lowered(file, form, chosen, needed, _initial(form, initial))
        except FileError:  # caches of frames go on from step to step alone
            if ports.states and form.time is not None and time is None:
                with suppress(UnsupportedModelError, ModelFileError, ValueError):
                    step = as_one_step(file, form, needed)
                    return _lowered(file, step, chosen, needed, _initial(step, initial))
            raise

    def ported(
        file: ModelFile, lengths: Sequence[str] | None = lengths, states: States | None = states
    ) -> tuple[Ports, list[str], list[str]]:
        """Inputs and states, the outputs that are wanted, and those that are needed."""
        ports = read_ports(file, constants, states, data=inputs or (), tokens=tokens or (), lengths=lengths)
        news = [s.output for s in ports.states if s.output]
        given = [o.name for o in file.graph.output] if outputs is None else check_outputs(file, outputs)
        chosen = [name for name in given if name not in news] or given
        return ports, chosen, [*chosen, *(name for name in news if name not in chosen)]

    def whole(error: UnsupportedModelError) -> Lowered:
        """A file of fixed sizes as one step, a whole sequence; raises `error` where it may be something else."""
        ports, chosen, needed = ported(file, [] if lengths is None else lengths)
        sizes = only_sizes(file, ports, needed, dims or {})
        if sizes is None or ports.lengths or time is not None or (states is None and may_be_states(file, ports)):
            raise error
        cut = file
        if inputs is not None or outputs is not None:
            cut, ports, needed = part(file, ports, chosen, keep_states=False)
        try:
            return _lowered(cut, as_whole(cut, ports, sizes, dims), chosen, needed, {})
        except UnsupportedModelError as other:
            raise (other if isinstance(error, FileError) else error) from None

    ports, _, needed = ported(file)
    try:
        lowered = attempt(file)
        if lowered.form.time is None or any(lowered.form.time in port.open for port in ports.inputs):
            return lowered
        axis = lowered.form.time
        error = FileError(
            f"{file.name}: takes one number of steps alone, sums over them, and holds a number that may be their count;"
            " export it with an open time axis, as by torch.onnx.export(..., dynamic_shapes=...)",
            6,
        )
    except UnsupportedModelError as found:
        if ports.states:
            raise
        axis, error = time, found
    for other in freed(file, ports, needed, axis) if recurrent(file) else ():
        with suppress(UnsupportedModelError, ModelFileError, ValueError):
            return attempt(other)
    return whole(error)


def _lowered(
    file: ModelFile, form: Form, chosen: list[str], needed: list[str], start: Mapping[str, np.ndarray]
) -> Lowered:
    if form.time is None:
        program = _one_step(file, form, chosen, needed, start).finish()
    else:
        longest = cache(lambda: _longest(file, form, needed))

        def program_with(added: int) -> Program:
            build = partial(_sequence, file, form, chosen, needed, start, longest, added)
            return for_any_length(build, file.name, form.fewest).finish()

        try:
            program = program_with(0)
        except UnsupportedModelError:
            if not (added := _added_steps(file, form, needed)):
                raise
            with suppress(UnsupportedModelError):
                return Lowered(program_with(added), file, form, chosen)
            raise
    for port in program.inputs:
        if port.name in form.ports.tokens and not port.vocabulary:
            raise FileError(
                f"tokens: {port.name!r} is looked up in no table of the file; what can be has one token a step", 4
            )
    return Lowered(program, file, form, chosen)


def port_shape(shape: Sequence[int], time: int | None) -> tuple[int, ...]:
    """The shape of an input or output in an engine: without time, and without leading axes of length one.

    A sequence of numbers or tokens has none at all.

    >>> port_shape((1, 9, 161), 1), port_shape((1, 257, 1, 2), None), port_shape((1, 9), 1), port_shape((1, 1), None)
    ((161,), (257, 1, 2), (), (1,))
    """
    rest = [n for d, n in enumerate(shape) if d != time]
    while len(rest) > (0 if time is not None else 1) and rest[0] == 1:
        del rest[0]
    return tuple(rest)


def frames_shape(shape: Sequence[int], time: int, rate: int) -> tuple[int, ...]:
    """The same of what has several frames a step: these come first.

    >>> frames_shape((1, 1, 32, 160), 3, 4), frames_shape((1, 640), 1, 160)
    ((4, 32), (160,))
    """
    rest = port_shape(shape, time)
    return (rate, *rest) if rate > 1 else rest


def _initial(form: Form, given: Mapping[str, object] | None) -> dict[str, np.ndarray]:
    """What states start from: zeros, or what is given by name."""
    shapes = {s.name: s.port.type(form.sizes).shape for s in form.ports.states}
    if unknown := set(given or {}) - set(shapes):
        expected = f"names of states ({', '.join(shapes)})"
        raise invalid("initial", got=repr(sorted(unknown)[0]), expected=expected)
    found = {}
    for name, shape in shapes.items():
        value = np.asarray((given or {}).get(name, np.zeros(shape)), np.float32)
        if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
            raise invalid(f"initial {name!r}", got=f"shape {value.shape}", expected=str(shape))
        found[name] = value.reshape(shape)
    return found


def _one_step(
    file: ModelFile, form: Form, chosen: list[str], needed: list[str], start: Mapping[str, np.ndarray]
) -> Builder:
    build, folded = Builder(), fused(form.folded(file, needed))
    states, inputs = _states(build, start), _inputs(build, form, folded)
    visitor = Visitor(build, file, folded, folded, tokens=[inputs[name] for name in form.ports.tokens])
    results = dict(zip(needed, visitor.lower({**inputs, **states}), strict=True))
    results = {name: _operand(build, visitor.materialize(x)) for name, x in results.items()}
    before = list(states.values())
    for name in chosen:
        value = apart(build, results[name], before)
        build.program.outputs.append(Output(name, value.ref, port_shape(value.shape, None)))
    changed = [s for s in form.ports.states if s.output is not None]
    for state in changed:
        after = results[state.output or ""]
        if after.shape != states[state.name].shape:
            raise invalid(
                f"new value of state {state.name!r}", got=f"shape {after.shape}", expected=f"{states[state.name].shape}"
            )
    write_states(build, [states[s.name] for s in changed], [results[s.output or ""] for s in changed])
    return build


def _longest(file: ModelFile, form: Form, needed: list[str]) -> Folded | None:
    """The graph for as many steps as the file takes, `MOST` or a part of that."""
    steps = MOST
    while steps > form.fewest:
        with contextlib.suppress(UnsupportedModelError, ModelFileError):
            return fused(form.folded(file, needed, steps))
        steps //= 2
    return None


def _constant_at(file: ModelFile, form: Form, name: str, steps: int) -> np.ndarray | None:
    """A value of the graph that depends on no data, for so many steps; None where it does, or there is none."""
    with contextlib.suppress(UnsupportedModelError, ModelFileError, ValueError):
        found = form.folded(file, [name], steps)
        value = found.values[found.outputs[0]]
        return value if isinstance(value, np.ndarray) else None
    return None


def _sequence(
    file: ModelFile,
    form: Form,
    chosen: list[str],
    needed: list[str],
    start: Mapping[str, np.ndarray],
    longest: Callable[[], Folded | None],
    added: int,
    steps: int,
) -> Builder:
    """The program for sequences of `steps`, which runs for some more where padding adds them: `Engine.added_steps`."""
    build = Builder()
    folded, longer = (fused(form.folded(file, needed, n)) for n in (steps, steps + 1))
    states, inputs = _states(build, start), _inputs(build, form, folded, longer)
    tokens = [inputs[name] for name in form.ports.tokens]

    def at(name: str, steps: int) -> np.ndarray | None:
        return _constant_at(file, form, name, steps - added)

    visitor = Visitor(build, file, folded, longer, list(states.values()), tokens, steps + added, longest, at)
    inputs = {name: _in_place(visitor, name, value) for name, value in inputs.items()}
    results = dict(zip(needed, visitor.lower({**inputs, **states}), strict=True))
    for name in chosen:
        build.where = f"output {name!r}"
        value = visitor.materialize(results[name])
        found = folded.outputs[needed.index(name)]
        time, rate = visitor.grown(found), visitor.rate(found)
        time = time if isinstance(time, int) else None
        shape = port_shape(value.shape, None) if time is None else frames_shape(value.shape, time, rate)
        missing = missing_results(visitor.mover, name, value)
        if time and rate > 1:
            moved = visitor.mover.move([value], lambda arrays, t=time: np.moveaxis(arrays[0], t, 0), 0)
            value, time = visitor.materialize(moved), 0
        add_output(build, name, value, time, rate=rate, fewer=missing)
        last = build.program.outputs[-1]
        if last.final:
            shape = port_shape(value.shape, None)
        build.program.outputs[-1] = replace(last, shape=shape)
    for state in form.ports.states:
        if state.output is None:
            raise invalid(f"states[{state.name!r}]", got="None", expected="an output: the file has a time axis")
        new = visitor.mover.move([visitor.rows(results[state.output])], lambda a: a[0], None)
        _check_kept(state.name, states[state.name], new)
    if form.frames > 1:
        build.program.metadata["frames_per_step"] = form.frames
    if added:
        build.program.metadata["added_steps"] = added
        if not build.offline_because:
            raise FileError(f"{file.name}: gives {added} results after the last step, and a stream none", 6)
    check_missing(build, file.name)
    return build


def _added_steps(file: ModelFile, form: Form, needed: list[str]) -> int:
    """How many steps more than a sequence has a convolution or pooling gives that is padded behind."""
    small, large = (form.folded(file, needed, n) for n in (form.fewest, form.fewest + 1))
    added = 0
    for node in small.nodes:
        if node.op in (*WINDOWS, "STFT") and node.outputs[0] in large.values:
            sizes, more = (g.type_of(node.outputs[0]).shape for g in (small, large))
            grown = [(n, m - n) for n, m in zip(sizes, more, strict=True) if m > n]
            added = max([added, *(-(-n // rate) - form.fewest for n, rate in grown)])
    return added if added <= MOST_ADDED else 0


def _in_place(visitor: Visitor, name: str, value: Operand) -> Operand | LazyView:
    """An input whose steps are several frames one after the other, with its axes in the order of the file."""
    time = visitor.grown(name)
    if value.rate == 1 or not isinstance(time, int):
        return value
    return visitor.mover.move([value], lambda arrays: np.moveaxis(arrays[0], 0, time), time)


def _check_kept(name: str, state: Operand, view: LazyView) -> None:
    """Raise an error unless a state's new value is what recurrent layers left in its place."""
    operands = view.operands
    places = np.full((len(operands), 2), -1)
    for number, operand in enumerate(operands):
        if isinstance(operand, Operand) and operand.kind == LAST:
            places[number] = operand.ref.buffer, operand.ref.offset
    number, entry = view.address.ravel() // SHIFT - 1, view.address.ravel() % SHIFT
    kept = (places[number, 0] == state.ref.buffer) & (places[number, 1] + entry == np.arange(state.width))
    if len(kept) != state.width or not bool(kept.all()):
        raise FileError(
            f"state {name!r}: its new value is not what a recurrent layer that starts from it ends with; in a file with"
            " a time axis no other state is taken",
            1,
        )


def _inputs(build: Builder, form: Form, folded: Folded, longer: Folded | None = None) -> dict[str, Operand]:
    found = {}
    for port in form.ports.inputs:
        shape = folded.values[port.name].shape
        grown = [d for d, n in enumerate(longer.values[port.name].shape) if n != shape[d]] if longer else []
        time = grown[0] if grown else None
        once = longer is not None and time is None
        several = sum(n != 1 for n in shape) > 1 and not _only_starts(folded, port.name)
        if once and (several or (port.dtype.kind != "f" and not _is_looked_up(folded, port.name))):
            raise _no_time_axis(port)
        rest = tuple(n for d, n in enumerate(shape) if d != time)
        frames = form.frames if time is not None else 1
        ref = build.buffer(math.prod(rest) * frames, "input")
        ported = port_shape(shape, None) if time is None else frames_shape(shape, time, frames)
        build.program.inputs.append(Input(port.name, ref.buffer, ported, 0, once))
        found[port.name] = Operand(ref, shape, time, HELD if once else STEP, 0)
        if frames > 1 and time is not None:
            found[port.name] = Operand(ref, (shape[time], *rest), 0, STEP, 0, rate=frames)
    return found


def _is_looked_up(folded: Folded, name: str) -> bool:
    """Whether nothing reads an input but by looking it up in tables, so that it is a token and no length."""
    moved = {name}
    for node in folded.nodes:
        if moved.isdisjoint(node.inputs):
            continue
        if node.op in _MOVES and node.inputs[0] in moved:
            moved.update(node.outputs)
        elif node.op != "OneHot" and not (node.op == "Gather" and node.inputs[0] not in moved):
            return False
    return True


def _moved(folded: Folded, name: str) -> tuple[set[str], list[Node]]:
    """The names of all that moves entries of a value, and the nodes that read these and do more."""
    moved, readers = {name}, []
    for node in folded.nodes:
        if node.op in (*_MOVES, *_PARTS) and node.inputs[0] in moved and moved.isdisjoint(node.inputs[1:]):
            moved.update(node.outputs)
        elif not moved.isdisjoint(node.inputs):
            readers.append(node)
    return moved, readers


def _only_starts(folded: Folded, name: str) -> bool:
    """Whether recurrent layers start from an input, and nothing else reads it."""
    moved, readers = _moved(folded, name)
    return bool(readers) and all(
        node.op in LAYERS and moved.isdisjoint((*node.inputs[:5], *node.inputs[7:])) for node in readers
    )


def _starting_backwards(file: ModelFile, form: Form, needed: list[str]) -> list[str]:
    """The states from which layers start that run backwards."""
    folded = form.folded(file, needed, form.fewest) if form.ports.states else Folded()
    return [
        state.name
        for state in form.ports.states
        if any(
            node.op in LAYERS and node.get("direction", "forward") != "forward"
            for node in _moved(folded, state.name)[1]
        )
    ]


def _no_time_axis(port: Port) -> FileError:
    """Whole numbers may be places, several vectors what all steps attend to."""
    return FileError(
        f"input {port.name!r} has no time axis, and is no vector and no token that is looked up, which a sequence may"
        " have once: repeat it at every step, or bind it with constants={...}; if it is the number of steps,"
        f" lengths=[{port.name!r}] says so",
        5 if port.dtype.kind == "f" else 4,
    )


def _states(build: Builder, start: Mapping[str, np.ndarray]) -> dict[str, Operand]:
    return {
        name: Operand(build.state(name, value.ravel(), value.shape), value.shape, None, STEP, 0)
        for name, value in start.items()
    }


def _operand(build: Builder, value) -> Operand:
    if isinstance(value, Operand):
        return value
    return Operand(build.constant(float32(value).ravel()), value.shape, None, CONSTANT, 0)
