"""ONNX Runtime in the race: Gather, LSTM, MatMul, its states as inputs and outputs."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .._errors import invalid, missing_extra
from ..tasks.recurrent_lm import LanguageModel
from .race import AbstractContender
from .torch_contenders import plain_layers


class OnnxContender(AbstractContender):
    """One intra-op thread, inputs and outputs bound to fixed memory; `int8` after dynamic quantisation."""

    def __init__(self, model: LanguageModel, form: str):
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise missing_extra("racing against ONNX Runtime", "bench") from error
        self.name = f"onnxruntime {form}"
        self.exact = form == "float32"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            path = _write(model, Path(folder), quantised=form == "int8")
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy
        states = [(i.name, tuple(i.shape)) for i in self.session.get_inputs() if i.name != "tokens"]
        self.banks = [{n: self.value(np.zeros(s, np.float32)) for n, s in states} for _ in range(2)]
        self.symbols = model.output.out_features
        self.bindings: dict[int, list[Any]] = {}
        self.turn = 0

    def _bind(self, length: int) -> list[Any]:
        """Two bindings for a stretch of `length`: states go from bank 0 to bank 1, then back."""
        pair = []
        tokens = self.value(np.zeros((length, 1), np.int64))
        logits = self.value(np.zeros((length, 1, self.symbols), np.float32))
        for turn in (0, 1):
            binding = self.session.io_binding()
            binding.bind_ortvalue_input("tokens", tokens)
            binding.bind_ortvalue_output("logits", logits)
            for name in self.banks[0]:
                binding.bind_ortvalue_input(name, self.banks[turn][name])
                binding.bind_ortvalue_output(f"new_{name}", self.banks[1 - turn][name])
            pair.append((binding, tokens, logits))
        return pair

    def prepare(self, tokens: np.ndarray) -> np.ndarray:
        """(time, 1)."""
        if len(tokens) not in self.bindings:
            self.bindings[len(tokens)] = self._bind(len(tokens))
        return np.ascontiguousarray(tokens.reshape(-1, 1).astype(np.int64))

    def feed(self, prepared: np.ndarray) -> Any:
        """Copy the tokens in, run."""
        binding, tokens, logits = self.bindings[len(prepared)][self.turn]
        tokens.update_inplace(prepared)
        self.session.run_with_iobinding(binding)
        self.turn = 1 - self.turn
        return logits

    def reset(self) -> None:
        """Zero states."""
        for bank in self.banks:
            for value in bank.values():
                value.update_inplace(np.zeros(value.shape(), np.float32))
        self.turn = 0

    def to_numpy(self, output: Any) -> np.ndarray:
        """(time, symbols)."""
        return output.numpy()[:, 0].copy()


def _write(model: LanguageModel, folder: Path, *, quantised: bool) -> str:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors, nodes = [], []
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["time", 1])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["time", 1, model.output.out_features])]

    def constant(name: str, values: Any) -> str:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(kind: str, given: list[str], made: list[str], **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, given, made, **attributes))

    node("Gather", [constant("embedding", model.embedding.weight.detach().numpy()), "tokens"], ["x0"])
    axis = constant("axis", np.array([1]))
    number = 0
    for layer in plain_layers(model):
        if not isinstance(layer, nn.LSTM):
            raise invalid("model", got=type(layer).__name__, wanted="LSTM layers")
        for k in range(layer.num_layers):
            size = layer.hidden_size
            w, r, bw, br = (
                _iofc(getattr(layer, f"{name}_l{k}").detach().numpy())[None]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, c = f"h{number}", f"c{number}"
            stored = [constant(f"W{number}", w), constant(f"R{number}", r)]
            stored.append(constant(f"B{number}", np.concatenate([bw, br], 1)))
            given = [f"x{number}", *stored, "", h, c]
            node("LSTM", given, [f"y{number}", f"new_{h}", f"new_{c}"], hidden_size=size)
            node("Squeeze", [f"y{number}", axis], [f"x{number + 1}"])
            for state in (h, c):
                inputs.append(helper.make_tensor_value_info(state, TensorProto.FLOAT, [1, 1, size]))
                outputs.append(helper.make_tensor_value_info(f"new_{state}", TensorProto.FLOAT, [1, 1, size]))
            number += 1
    node("MatMul", [f"x{number}", constant("V", model.output.weight.detach().numpy().T)], ["scores"])
    node("Add", ["scores", constant("b", model.output.bias.detach().numpy())], ["logits"])
    graph = helper.make_graph(nodes, "language_model", inputs, outputs, tensors)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(built)
    path = folder / "float32.onnx"
    onnx.save(built, path)
    if not quantised:
        return str(path)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small, root = folder / "int8.onnx", logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(path, small, weight_type=QuantType.QInt8, per_channel=False)
    finally:
        root.setLevel(level)
    return str(small)


def _iofc(torch_order: np.ndarray) -> np.ndarray:
    """Torch's gate order i, f, g, o as ONNX's i, o, f, c."""
    i, f, g, o = np.split(torch_order, 4)
    return np.concatenate([i, o, f, g])
