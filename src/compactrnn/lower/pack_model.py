"""`pack`: from a trained torch model to a verified model file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import nn

from .._errors import UnsupportedModelError, invalid
from .._files import check_writable
from ..emit.packed_file import FileOptions, PackReport, write_packed
from ..graph.arguments import flatten
from ..graph.programs import rebuilt
from ..layers import is_recurrent
from ..runtime.audio import Audio
from ..runtime.engine import Engine
from ..runtime.file import write
from ..runtime.quantize import quantize
from .loop_step import lower_loop
from .lowering import Lowered, in_float, lower_model
from .one_step import lower_one_step
from .pack_report import report_of
from .reference import Reference
from .refusals import check_module
from .rows import check_rows
from .smallest import with_dense
from .step_states import States
from .trained import TrainedMatrices, plain_form
from .unrolled import Unrolled
from .verify import allow_short, argument, given, verify
from .whole_sequences import Bound


def pack(
    model: nn.Module | torch.export.ExportedProgram,
    path: str | PathLike[str],
    example_inputs: Any,
    *,
    weights: str | Mapping[str, str] = "int8",
    calibration: Iterable[Any] | None = None,
    max_error: float | None = None,
    max_bytes: int | None = None,
    fold: str | bool = "auto",
    metadata: dict[str, Any] | None = None,
    states: States | None = None,
    initial: Mapping[str, Any] | None = None,
    notes: bool = True,
    audio: Audio | None = None,
    time: int | None = None,
    lengths: Sequence[str] | None = None,
) -> PackReport:
    """Write `model` as a file that `Engine` runs without torch; the model is not changed.

    The float32 program is compared with torch first: on the example; on a sequence more than twice as long, and longer
    than the model looks back; on zeros, on large inputs and on the calibration data. It is refused where an output is
    off by more than 1e-4 of its largest value, or by 16 times what float32 itself loses in torch against float64, if
    that is more. A model is also refused where the sequences of a batch depend on each other, or where it keeps
    something from call to call.

    Every tensor that the model returns is an output of the engine, under the key of its dict or the field of its named
    tuple; the states of a layer are `h_n` and `c_n`, as if the sequence ended at this step.

    An input without a time axis is one that a sequence has once: a vector, a token that is looked up, or the initial
    state of a layer. `Engine.run` takes it without time, `Engine.stream` by its name.

    Where the model has strides over time, as of convolutions, pooling or stacked frames, a step of the engine is so
    many frames: an input has the shape (frames, ...), and a stream takes as many and gives a result. The engine is
    right for whole steps: the example and the calibration data are cut to these, and compared at several lengths.

    A model whose Python code loops over time, over an `nn.LSTMCell` or with calls of an `nn.LSTM` for one step, is
    taken where every step does the same and its states start from constants (`compactrnn.lower.loop_step`). The stream
    keeps these states: those of a cell as "cell.h", of a layer as "lstm.h_l0", others as "state".

    With `states` the model is one time step, and `forward(x, h, c)` returns `y, h, c`, whatever computes them: layers
    over a sequence of one step, `nn.LSTMCell` and its like, a step written by hand. The stream keeps these states under
    the names of the arguments (`Stream.get_state`, `set_state`, `reset(h=...)`). The engine's inputs are the other
    arguments, its outputs what else is returned (the new states where nothing else is), each without batch axis and
    leading axes of length one. It is compared with torch, states fed back, also from states drawn at random.

    With "int8" the matrices are stored with one scale per row, with "int4" with one per row and 64 columns; "auto" is
    int8, and int4 for the largest matrices where that makes the model fit a cache
    (`compactrnn.runtime.mixed_precision` has the rules). The error that this brings is measured against torch on
    `calibration` and kept in the file.

    Where it is above 2 %, the products that cause it are made more accurate: those that read hidden states get a scale
    for every step, those that read unbounded numbers (features, counts, what a ReLU gives) have their columns scaled
    from the calibration data, or stay in float32; `PackReport.reasons` says which and why. A warning names the worst
    where the error stays above 2 %.

    Weights with free entries or blocks are stored as their dense matrix where that is smaller, or not much larger and
    multiplied sooner (`compactrnn.runtime.cost`, `PackReport.made_dense`).

    Args:
        model: any nn.Module of recurrent layers, linear, embedding, point-wise functions, ...; taken in eval mode. Or a
            `torch.jit.ScriptModule` or `torch.export.ExportedProgram` of such (`compactrnn.graph.programs`).
        path: the file to write; replaced only when all checks have passed.
        example_inputs: what the model is called with, batch and time axes included: a tensor, a tuple of arguments, or
            a dict. A dict whose keys are parameters of `forward` is its keyword arguments, any other its one argument.
            Arguments are tensors, None, bools, strings, or tuples and dicts of these; only tensors become inputs.
        weights: "float32", "int8", "int4" or "auto", or a dict of types by name: `{"fc": "float32", "*": "int4"}`. A
            name is that of a module, of its weights ("lstm.weight_ih_l0"), or a pattern; "*" is for all others, int8
            if it is left out. What is named is stored so whatever the calibration data shows.
        calibration: batches like `example_inputs`, real data, to measure the quantization error on and to choose by.
        max_error: refuse to write beyond this relative error (`PackReport.error`).
        max_bytes: refuse to write a larger file. With "auto", then, a matrix is in int4 where the file has to get
            smaller and that costs least (`compactrnn.runtime.byte_budget`), in int8 else.
        fold: fold a token's input product into its table: "auto" where file or working set gets smaller, True, False.
        metadata: JSON for `Engine.metadata` (task, vocabulary, labels, ...).
        states: the arguments that are states, by name or position; an argument may be a tuple of states. Their new
            values are what the model returns under the same names, if it returns a dict or named tuple; else the last
            tensors that it returns, in the same order. A dict pairs them otherwise, positions or names of outputs by
            argument: `{"h": 1, "c": "c_n"}`. `example_inputs` is then of one step, and each item of `calibration` one
            sequence of inputs without states, as `Engine.run` takes it.
        initial: what states start from, by name, of one sequence; zeros by default, whatever `example_inputs` holds.
        notes: write the names of weights and what this report says into the file, for `compactrnn info`. Nothing that
            runs reads them; without them a file is some hundred bytes smaller.
        audio: how a model takes and gives audio, which makes `AudioStream` and `compactrnn run` run it on recordings.
        time: which axis of the first tensor of `example_inputs` is time. It is found by itself, unless recurrent layers
            run along two axes and either could be time: then it is the one along which the model streams, if that is
            one. The layers along the other axis run within each step.
        lengths: the argument that has the number of steps of each sequence, `["lengths"]`, as for
            `pack_padded_sequence`, a mask or the last step. It is no input of the engine, whose sequences have no
            padding; the batches of `calibration` are cut to their lengths.

    Raises:
        UnsupportedModelError: the model cannot be followed, or its program differs from torch.
        ValueError: bad arguments, states whose shape is not kept, names in `weights` that the model does not have,
            an error beyond `max_error`, or a file beyond `max_bytes`.

    >>> import tempfile, torch, compactrnn as cr
    >>> class Encoder(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm = nn.LSTM(8, 16, batch_first=True)
    ...
    ...     def forward(self, x):
    ...         return self.lstm(x)[0]
    >>> path, x = tempfile.mkdtemp() + "/lstm.crnn", torch.randn(1, 9, 8)
    >>> report = pack(Encoder(), path, x, calibration=[x])
    >>> [check.what for check in report.checks]
    ['the example', 'a longer sequence', 'other lengths', 'zeros', 'large inputs', 'calibration']
    >>> cr.Engine(path).stream().step(x[0, 0].numpy()).shape
    (16,)
    """
    options = FileOptions(weights, fold, max_error, max_bytes, metadata, notes, audio)
    if calibration is not None and (isinstance(calibration, torch.Tensor) or not isinstance(calibration, Iterable)):
        got = f"a {type(calibration).__name__}"
        raise invalid("calibration", got=got, expected="a list of batches, each like example_inputs")
    check_writable(path, "model file")
    source = rebuilt(model, example_inputs, states is not None)
    example_inputs = source.example
    check_module(source.module)
    trained, model = TrainedMatrices.of(source.module), plain_form(source.module)
    model, smaller_dense = with_dense(model, weights)
    batches = [batch if states else source.batch(batch) for batch in calibration or ()]
    if lengths is not None and states is not None:
        raise invalid("lengths", got="states, too", expected="one of them: with states the model is one time step")
    if states is None:
        if initial is not None:
            raise invalid("initial", got="no states", expected="states=..., whose initial values it gives")
        lowered, bound = lower_sequences(model, example_inputs, time, lengths)
        if bound is not None:
            model, batches = bound.model, [sequence for batch in batches for sequence in bound.batches(batch)]
        source.check_times(lowered.axes.times)
    else:
        if time is not None:
            raise invalid("time", got=repr(time), expected="none: with states the model is one time step")
        lowered = lower_one_step(model, example_inputs, states, initial)
    check_rows(lowered)
    batches = [_batch(model, lowered, batch) for batch in batches]
    reference = Reference(lowered)
    allow_short(reference)
    checks = verify(reference, Engine(write(quantize(lowered.program, "float32", False))), batches)
    data = batches or [lowered.example]
    target = Reference(replace(lowered, model=trained.quantized(lowered.model))) if trained.specs else reference
    if lowered.left_out:
        why = "a stream keeps them: Stream.get_state" if lowered.trace.alone else "they are no tensors"
        warnings.warn(f"not among the engine's outputs: {', '.join(lowered.left_out)} ({why})", stacklevel=3)
    return write_packed(
        lowered.program,
        path,
        options,
        lambda quantized: report_of(lowered, quantized, weights, checks, bool(batches), smaller_dense),
        calibration=[argument(sequence) for batch in data for sequence in given(lowered, batch)],
        wanted=[outputs for batch in data for outputs in target.run(batch)],
        calibrated=bool(batches),
        trained=trained.by_name,
        stacklevel=4,
    )


def lower_sequences(
    model: nn.Module, example_inputs: Any, time: int | None = None, lengths: Sequence[str] | None = None
) -> tuple[Lowered, Bound | None]:
    """The lowered form of a model of sequences, and what calls it without its lengths, where an argument has them."""
    bound = None if lengths is None else Bound(model, example_inputs, lengths)
    model, example_inputs = (model, example_inputs) if bound is None else (bound.model, bound.example)
    if not any(is_recurrent(module) for module in model.modules()):
        return lower_loop(model, example_inputs, time) or lower_model(model, example_inputs, time), bound
    try:
        return lower_model(model, example_inputs, time), bound
    except UnsupportedModelError:  # as of a loop over time that calls a layer with one step
        if (lowered := lower_loop(model, example_inputs, time)) is None:
            raise
        return lowered, bound


def _batch(model: nn.Module, lowered: Lowered, batch: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of a batch of calibration data, which must look like the example's."""
    if isinstance(lowered.model, Unrolled):
        return lowered.model.sequence(batch, [i.name for i in lowered.program.inputs])
    tensors, _ = flatten(model, batch)
    if [t.dim() for t in tensors] != [t.dim() for t in lowered.example]:
        shapes = [", ".join(str(tuple(t.shape)) for t in ts) for ts in (tensors, lowered.example)]
        raise invalid(
            "calibration", got=f"a batch of shape {shapes[0]}", expected=f"batches like the example's {shapes[1]}"
        )
    return lowered.axes.whole(in_float(tensors))
