"""The form of a file: a sequence with a time axis, or one step; and the sizes that it leaves open."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from .._errors import ModelFileError, UnsupportedModelError, check_positive, invalid
from ..emit.frames import frames_a_step
from ..emit.lengths import FEWEST, SHORT
from .folded import LAYERS, Folded, Typed, layer_steps
from .folding import fold
from .free_length import only_sizes
from .model_file import FileError, ModelFile, NodeError
from .ports import Ports

_LONGEST = 1 << 16  # steps or numbers that an axis is tried with
_TRIES = 64
_OVER_TIME = (*LAYERS, "Scan")

_SOME = (FEWEST, 240, 5760)  # lengths of sequences that are tried, which most strides divide
_LONGER, _FAR = 32, 4096  # times as long, and a length at which layers along an axis get more than at another
_FEW = (3, 2, 1)  # steps of a call that takes any number of them


@dataclass(frozen=True)
class Form:
    """Inputs and states of a file, the sizes of their axes by name, and which of these is time: None for one step.

    A step is `frames` entries of the time axis: more than one where the file has strides over time. Shorter sequences
    than `fewest` steps may be too short for the file. `whole`: a step is a whole sequence.
    """

    ports: Ports
    sizes: dict[str, int]
    time: str | None
    frames: int = 1
    fewest: int = FEWEST
    whole: bool = False

    def known(self, steps: int) -> dict[str, int]:
        """The sizes of axes by name, for sequences of `steps` steps."""
        return self.sizes if self.time is None else {**self.sizes, self.time: steps * self.frames}

    def folded(self, file: ModelFile, outputs: list[str], steps: int = 1) -> Folded:
        """The graph for sequences of `steps` steps."""
        return fold(file, self.ports.values(self.known(steps), steps * self.frames), outputs)


def with_equal_axes(
    file: ModelFile, ports: Ports, outputs: list[str], dims: Mapping[str, int] | None, time: str | None
) -> Ports:
    """The ports with one name for axes that the file calls otherwise, but that it takes of equal length alone."""
    axes = [(p, d) for p in ports.inputs for d, n in enumerate(p.sizes) if isinstance(n, str) and not p.is_batch(d)]
    keys = [key for key in dict.fromkeys(p.key(d) for p, d in axes) if key not in (dims or {})]
    keys.sort(key=lambda key: key != time)

    def folds(sizes: Mapping[str, int]) -> bool:
        try:
            fold(file, ports.values({**(dims or {}), **sizes}, next(iter(sizes.values()))), outputs)
        except (UnsupportedModelError, ModelFileError, ValueError):
            return False
        return True

    for length in _SOME[:2] if len(keys) > 1 else ():
        equal = dict.fromkeys(keys, length)
        if not folds(equal):
            continue
        first = keys[0]
        same = [k for k in keys[1:] if not folds({**equal, k: 2 * length}) and not folds({**equal, first: 2 * length})]
        return ports.renamed(dict.fromkeys(same, first))
    return ports


def find_form(
    file: ModelFile, ports: Ports, outputs: list[str], dims: Mapping[str, int] | None, time: str | None
) -> Form:
    """The form of a file.

    Time is the axis along which recurrent layers run, or the one called `time`. A file without such an axis that has
    states is one step.

    Raises:
        UnsupportedModelError: it has neither.
        ValueError: a size is open that `dims` does not give, or there is no such axis.
    """
    given = _checked(file, ports, dims or {})
    axes = [(p, d) for p in ports.inputs for d in range(len(p.sizes))]
    keys = list(dict.fromkeys(p.key(d) for p, d in axes))
    batch = {p.key(d) for p, d in axes if isinstance(p.sizes[d], str) and p.is_batch(d)}
    free = [k for k in dict.fromkeys(n for p in ports.inputs for n in p.open) if k not in given]
    if time is not None:
        if time not in keys:
            raise invalid("time", got=repr(time), expected=f"an axis of the inputs ({', '.join(keys)})")
        form = _complete(Form(ports, given, time), [k for k in free if k not in batch | {time}])
        return replace(form, frames=_frames(file, form, outputs) or 1)
    likely = [k for k in free if k not in batch]
    fixed = [k for k in keys if k not in free and k not in given]
    others = [] if ports.states else [k for k in free if k in batch] + fixed
    errors: list[UnsupportedModelError | ModelFileError] = []
    for some in (likely, others):
        for key in some:
            form = Form(ports, given, key)
            if fewest := _is_time(file, form, outputs, errors):
                form = replace(form, fewest=fewest)
                rest = [k for k in likely if k != key]
                return replace(_complete(form, rest), frames=_frames(file, form, outputs) or 1)
        for key in some:
            form = Form(ports, given, key)
            if recurrent(file) and (frames := _frames(file, form, outputs)):
                return replace(_complete(form, [k for k in likely if k != key]), frames=frames)
    if not ports.states:
        if len(likely) == 1 and not recurrent(file):
            form = Form(ports, given, likely[0])
            return replace(form, frames=_frames(file, form, outputs) or 1)
        if errors and isinstance(errors[0], NodeError) and not errors[0].of_shape:
            raise errors[0]
        why = f" ({errors[0]})" if errors else ""
        raise FileError(
            f"{file.name}: no axis of its inputs ({', '.join(keys)}) reaches a recurrent layer as time{why}. time=..."
            " names the axis; for a file that is one step, states={input: output} pairs its states",
            0 if recurrent(file) else 2,
        )
    return Form(ports, {**given, **_frame(file, Form(ports, given, None), outputs, likely)}, None)


def as_one_step(file: ModelFile, form: Form, outputs: list[str]) -> Form:
    """That of the same file called with one step at a time; raises as `find_form`."""
    assert form.time is not None
    frame = _frame(file, replace(form, time=None), outputs, [form.time])
    return Form(form.ports, {**form.sizes, **frame}, None)


def as_whole(file: ModelFile, ports: Ports, sizes: Mapping[str, int], dims: Mapping[str, int] | None) -> Form:
    """That of a file of these sizes alone, of which a step is one call."""
    return Form(ports, {**_checked(file, ports, dims or {}), **sizes}, None, whole=True)


def _checked(file: ModelFile, ports: Ports, dims: Mapping[str, int]) -> dict[str, int]:
    ported = [*ports.inputs, *(s.port for s in ports.states), *ports.shapes]
    known = {p.key(d) for p in ported for d in range(len(p.sizes))}
    for name, size in dims.items():
        if name not in known:
            raise invalid("dims", got=repr(name), expected=f"an axis of the file ({', '.join(sorted(known))})")
        check_positive(size, f"dims[{name!r}]")
    return dict(dims)


def _complete(form: Form, open_sizes: list[str]) -> Form:
    if open_sizes:
        raise invalid(
            f"size of {open_sizes[0]!r}",
            got="none",
            expected="a number for each axis but batch and time",
            hint=f"dims={{{open_sizes[0]!r}: ...}} sets it",
        )
    return form


def recurrent(file: ModelFile) -> bool:
    """Whether a file has recurrent layers."""
    return any(node.op_type in (*_OVER_TIME, "DynamicQuantizeLSTM") for node in file.graph.node)


def _is_time(file: ModelFile, form: Form, outputs: list[str], errors: list) -> int | None:
    """The fewest steps of those tried for which a recurrent layer gets one more where this axis is one longer."""
    for fewest in SHORT:
        try:
            small, large = (form.folded(file, outputs, n) for n in (fewest, fewest + 1))
            break
        except (UnsupportedModelError, ModelFileError) as error:
            errors.append(error)
            if not (isinstance(error, NodeError) and error.of_shape):
                return None
    else:
        return None
    for node, other in zip(small.nodes, large.nodes, strict=False):
        if node.op in _OVER_TIME and layer_steps(large, other) - layer_steps(small, node) == 1:
            return fewest
    return None


def _frames(file: ModelFile, form: Form, outputs: list[str]) -> int | None:
    """How many entries of the time axis are a step; None where the recurrent layers do not run along it."""

    @cache
    def sizes(length: int) -> tuple[int, ...] | None:
        """Of the sequences that layers get, and of outputs."""
        if not _fits(form, {form.time or "": length}):
            return None
        try:
            found = form.folded(file, outputs, length)
        except (UnsupportedModelError, ModelFileError):
            return None
        steps = [layer_steps(found, n) for n in found.nodes if n.op in _OVER_TIME]
        result = (*steps, *(n for name in found.outputs for n in found.type_of(name).shape))
        return result if all(result) else None

    for length in _SOME:
        if (before := sizes(length)) is None:
            continue
        frames = frames_a_step(sizes, length)
        after = sizes(length + (frames or 0))
        layers = sum(n.op in _OVER_TIME for n in form.folded(file, outputs, length).nodes)
        if frames is not None and after is not None and (not layers or before[:layers] != after[:layers]):
            return frames
        longer = sizes(_LONGER * length) if layers and _LONGER * length > _FAR else None
        if longer is not None and longer[:layers] == before[:layers]:
            return None
    return None


def _frame(file: ModelFile, form: Form, outputs: list[str], open_sizes: list[str]) -> dict[str, int]:
    """The size of a frame that a step takes, where the file leaves it open: the largest of which nothing is ignored.

    That is: the states keep their shapes, and no strided convolution leaves out numbers at the end. Where it is the
    number of steps of a call, with a result for each, a step is one of them; where shapes within the file hold one
    number of them, a step is so many.
    """
    if not open_sizes:
        return {}
    key = open_sizes[0]
    hint = f"dims={{{key!r}: ...}} sets it"
    wanted = dict(got="none", expected="a number: the file takes many", hint=hint)
    if len(open_sizes) > 1:
        raise invalid(f"size of {key!r}", **wanted)

    def left_out(size: int) -> int | None:
        """Numbers that a convolution ignores; None where the file does not take this size."""
        try:
            found = Form(form.ports, {**form.sizes, key: size}, None).folded(file, outputs)
        except UnsupportedModelError as error:
            errors.append(error)
            return None
        smallest.append(found)
        kept = _keeps_states(form.ports, found, outputs, {**form.sizes, key: size})
        return _left_out(found) if kept and _picks_as_many(smallest[0], found) else None

    smallest: list[Folded] = []
    errors: list[UnsupportedModelError] = []
    if all(left_out(n) == 0 and n in smallest[-1].type_of(smallest[-1].outputs[0]).shape for n in _FEW):
        warnings.warn(
            f"{key} is 1: the file takes any number of steps a call, with a result for each; {hint}", stacklevel=5
        )
        return {key: 1}
    smallest.clear()
    errors.clear()
    tried = [n for n in (1 << n for n in range(_LONGEST.bit_length())) if _fits(form, {key: n})]
    low = max((n for n in tried if left_out(n) is not None), default=0)
    if not low and not smallest:
        if only := only_sizes(file, form.ports, outputs, form.sizes, key):
            warnings.warn(
                f"{key} is {only[key]}, the only size that the file takes: a step is so many entries of it",
                stacklevel=5,
            )
            return only
        raise next((e for e in errors if not getattr(e, "of_shape", False)), errors[len(errors) // 2])
    if low in (0, tried[-1]):
        raise invalid(f"size of {key!r}", **wanted)
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if left_out(middle) is not None else (low, middle)
    for _ in range(_TRIES):
        rest = left_out(low) if low > 0 else None
        if rest is None:
            raise invalid(f"size of {key!r}", **wanted)
        if rest == 0:
            break
        low -= rest
    warnings.warn(
        f"{key} is {low}, the largest size that the file takes as one step and reads all of; {hint}", stacklevel=5
    )
    return {key: low}


def _fits(form: Form, sizes: Mapping[str, int]) -> bool:
    """Whether inputs and states of these sizes are not too large."""
    try:
        form.ports.values({**form.sizes, **sizes})
    except ValueError:
        return False
    return True


def _keeps_states(ports: Ports, folded: Folded, outputs: list[str], sizes: Mapping[str, int]) -> bool:
    shapes = {name: folded.values[value].shape for name, value in zip(outputs, folded.outputs, strict=True)}
    return all(s.output is None or shapes.get(s.output) == s.port.type(sizes).shape for s in ports.states)


def _picks_as_many(folded: Folded, larger: Folded) -> bool:
    """Whether single entries are taken out of axes that have not grown."""
    for small, large in zip(folded.nodes, larger.nodes, strict=False):
        if small.op == large.op == "Gather" and folded.type_of(small.inputs[1]).shape in ((), (1,)):
            axis = small.get("axis", 0)
            before, after = (g.type_of(n.inputs[0]).shape[axis] for g, n in ((folded, small), (larger, large)))
            if before != after:
                return False
    return True


def _left_out(folded: Folded) -> int:
    for node in folded.nodes:
        strides = node.get("strides", []) if node.op == "Conv" else []
        x, w = (folded.values[n] for n in node.inputs[:2]) if strides else (None, None)
        if not isinstance(x, Typed) or w is None or node.get("auto_pad", "NOTSET") != "NOTSET":
            continue
        rank = len(strides)
        pads, dilations = node.get("pads", []) or [0] * 2 * rank, node.get("dilations", []) or [1] * rank
        for d, stride in enumerate(strides):
            length = x.shape[d + 2] + pads[d] + pads[d + rank] - (w.shape[d + 2] - 1) * dilations[d] - 1
            if (rest := length % stride) > pads[d + rank]:
                return rest
    return 0
