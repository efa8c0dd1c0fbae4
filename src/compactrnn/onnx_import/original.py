"""An ONNX file as it runs elsewhere: in onnxruntime, or in the reference implementation of the standard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from .._errors import UnsupportedModelError
from .folding import dtype_of
from .form import Form
from .lowering import Lowered, frames_shape, port_shape
from .model_file import ModelFile, to_array
from .ports import Port


class ElsewhereError(RuntimeError):
    """The file does not run where it is compared with."""


Rows = list[np.ndarray]  # of each output: time first where there is time, as an engine gives them


class Original:
    """Runs the file on sequences as `Engine.run` takes them.

    `rounding` changes each weight at random, by `seed`, by that part of it. `file` is another form of the file, which
    takes and gives the same.
    """

    def __init__(self, lowered: Lowered, rounding: float = 0.0, file: ModelFile | None = None, seed: int = 0):
        self.lowered = lowered
        self.form = lowered.form
        self._call = calls_of(file or lowered.file, lowered.form, rounding, seed)

    def run(self, sequence: Sequence[np.ndarray], states: dict[str, np.ndarray] | None = None) -> Rows:
        """The outputs for one sequence: (time, ...) of each input; from zero states, or those given by name."""
        form, names = self.form, self.lowered.outputs
        steps = steps_of(self.lowered, sequence)
        known = form.known(steps)
        start = {s.name: s.port.type(known) for s in form.ports.states}
        given = {
            name: np.asarray((states or {}).get(name, np.zeros(t.shape)), t.dtype).reshape(t.shape)
            for name, t in start.items()
        }
        fixed = {**form.ports.bound(known, steps * form.frames), **given}
        fixed |= {p.name: np.zeros(p.type(known).shape, p.dtype) for p in form.ports.shapes}
        if form.time is not None:
            feeds = {p.name: _whole(p, x, form, known) for p, x in zip(form.ports.inputs, sequence, strict=True)}
            results = self._call(names, {**feeds, **fixed})
            return [self._rows(y, name, steps) for y, name in zip(results, names, strict=True)]
        news = {s.name: s.output for s in form.ports.states if s.output is not None}
        rows = []
        for step in zip(*sequence, strict=True):
            feeds = {
                p.name: np.asarray(x, p.dtype).reshape(p.type(known).shape)
                for p, x in zip(form.ports.inputs, step, strict=True)
            }
            wanted = [*names, *(n for n in news.values() if n not in names)]
            found = dict(zip(wanted, self._call(wanted, {**feeds, **fixed}), strict=True))
            fixed = {**fixed, **{state: found[output] for state, output in news.items()}}
            rows.append([found[name].reshape(port_shape(found[name].shape, None)) for name in names])
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def _rows(self, y: np.ndarray, name: str, steps: int) -> np.ndarray:
        """An output as an engine gives it."""
        time = self.lowered.time_axes[name]
        if time is None:
            return y.reshape(port_shape(y.shape, None))
        program = self.lowered.program
        fewer = next(output.fewer for output in program.outputs if output.name == name)
        rows = max(steps + program.metadata.get("added_steps", 0) - fewer, 0)
        if y.shape[time] % rows if rows else y.shape[time]:
            raise UnsupportedModelError(f"output {name!r}: has {y.shape[time]} results for {steps} steps")
        shape = frames_shape(y.shape, time, y.shape[time] // rows if rows else 1)
        return np.moveaxis(y, time, 0).reshape(rows, *shape)


def steps_of(lowered: Lowered, sequence: Sequence[np.ndarray]) -> int:
    """How many steps a sequence has."""
    return next(len(x) for port, x in zip(lowered.program.inputs, sequence, strict=True) if not port.once)


def calls_of(file: ModelFile, form: Form, rounding: float = 0.0, seed: int = 0) -> Callable[..., list[np.ndarray]]:
    """A function `(names of outputs, inputs by name) -> arrays` that runs the file as it is."""
    model = onnx.ModelProto()
    model.CopyFrom(file.proto)
    if rounding:
        _round(model, rounding, seed)
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    _size(sized, form)
    try:
        run = _runner(sized)
    except Exception as error:  # whatever the run time raises for a file that it does not take
        try:
            run = _runner(model)  # its checks of sizes look at branches, too, that are never taken
        except Exception:
            raise ElsewhereError(_line(error)) from error

    types = {value.name: dtype_of(value) for value in file.input_protos()}  # in half precision of the file as it was

    def call(names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return run(names, {name: x.astype(types.get(name, x.dtype)) for name, x in feeds.items()})
        except Exception as error:  # whatever the run time raises for what it cannot compute
            raise ElsewhereError(_line(error)) from error

    return call


def _whole(port: Port, x: np.ndarray, form: Form, known: dict[str, int]) -> np.ndarray:
    """A sequence in the shape of the file."""
    shape = port.type(known).shape
    time = next((d for d in range(len(shape)) if port.key(d) == form.time), None)
    if time is None:
        return np.asarray(x, port.dtype).reshape(shape)
    rest = [n for d, n in enumerate(shape) if d != time]
    return np.moveaxis(np.asarray(x).reshape(shape[time], *rest), 0, time).astype(port.dtype)


def _runner(model: onnx.ModelProto) -> Any:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        reference = ReferenceEvaluator(model)

        def run(names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            with np.errstate(all="ignore"):
                return [np.asarray(y) for y in reference.run(names, feeds)]

        return run
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # the optimizer may change what a file gives, as where it takes a Pad into a MaxPool (microsoft/onnxruntime#24737)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run


def _size(model: onnx.ModelProto, form: Form) -> None:
    """Set the sizes of inputs, of which the file may fix others: time is open."""
    ports = {p.name: p for p in [*form.ports.inputs, *(s.port for s in form.ports.states), *form.ports.shapes]}
    ports |= {p.name: p for p in form.ports.lengths}
    for value in model.graph.input:
        port = ports.get(value.name)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim if port else ()):
            key = port.key(axis) if port else ""
            if key == form.time:
                dim.dim_param = "time"
            elif key in form.sizes:
                dim.dim_value = form.sizes[key]
    if form.time is not None:
        for value in model.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _round(model: onnx.ModelProto, rounding: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = to_array(tensor)
            changed = values * (1 + rounding * rng.uniform(-1, 1, values.shape))
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), tensor.name))
