"""`from_onnx`: the model of an ONNX file as a module that can be trained, pruned and packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._errors import ModelFileError, UnsupportedModelError, missing_extra
from .layers import Linear, from_torch
from .onnx_functions import NAMES, Node, function_of

_STEPS = 17  # of the sequence for which the graph is folded
_GATES = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}  # the order of torch, from that of ONNX
_PLAIN = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_OF_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Exp": torch.exp, "Identity": lambda x: x, "Log": torch.log, "Neg": torch.neg, "Relu": torch.relu,
    "Sigmoid": torch.sigmoid, "Softplus": nn.functional.softplus, "Sqrt": torch.sqrt, "Tanh": torch.tanh,
}  # fmt: skip
_OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Div": torch.div, "Mul": torch.mul, "Sub": torch.sub,
}  # fmt: skip


def from_onnx(
    path: str | PathLike[str],
    *,
    constants: Mapping[str, object] | None = None,
    dims: Mapping[str, int] | None = None,
    time: str | None = None,
) -> nn.Module:
    """The model of an ONNX file with a time axis, as layers of this library: to prune, fine-tune, distill and pack.

    `LSTM`, `GRU`, `RNN` and products with a matrix become `compactrnn` layers, convolutions, tables of tokens and layer
    norms those of torch, named after the weights of the file; the rest is computed as in the file, with which the
    module is compared. It takes and gives what the file does, also
    batches where the file leaves the batch open; with several outputs it gives a tuple. `constants`, `dims` and `time`
    are those of `pack`.

    >>> import onnx, tempfile
    >>> path = tempfile.mkdtemp() + "/m.onnx"
    >>> head = '<ir_version: 8, opset_import: ["": 17]> g (float[batch, time, 2] x) => (float[batch, time, 2] y)'
    >>> onnx.save(onnx.parser.parse_model(head + "<float[2, 2] w = {1, 0, 0, 2}> { y = MatMul(x, w) }"), path)
    >>> model = from_onnx(path)
    >>> model(torch.ones(1, 3, 2))[0, 0].tolist(), model.w.out_features
    ([1.0, 2.0], 2)

    Raises:
        ModelFileError: the file is damaged, or no ONNX file.
        UnsupportedModelError: it is one step with states, has an operator that is none of these, or differs.
        ValueError: bad arguments.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise missing_extra("reading an ONNX file", "onnx") from None
    from .onnx_import.dequantize import dequantized
    from .onnx_import.form import find_form
    from .onnx_import.fuse import fused
    from .onnx_import.half import widened
    from .onnx_import.model_file import ModelFile
    from .onnx_import.ports import read_ports
    from .onnx_import.verify import check_module

    file = dequantized(widened(ModelFile.read(path)))
    ports = read_ports(file, constants, {}, lengths=[])
    outputs = [o.name for o in file.graph.output]
    form = find_form(file, ports, outputs, dims, time)
    folded = fused(form.folded(file, outputs, _STEPS))
    batch = [p.key(d) for p in ports.inputs for d, n in enumerate(p.sizes) if isinstance(n, str) and p.is_batch(d)]
    wider = replace(form, sizes={**form.sizes, **{key: 2 for key in batch if key != form.time}})
    others = [fused(form.folded(file, outputs, _STEPS + 1))]
    with suppress(UnsupportedModelError, ModelFileError):  # the file takes no batch
        others.append(fused(wider.folded(file, outputs, _STEPS)))
    model = _Graph(folded, [p.name for p in ports.inputs], file, others).eval()

    def compute(*given: np.ndarray) -> list[np.ndarray]:
        try:
            return model.compute(*given)
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"{file.name}: the module does not take another number of steps than {_STEPS}:"
                f" {str(error).splitlines()[0]}"
            ) from error

    check_module(file, form, outputs, compute)
    return model


class _Graph(nn.Module):
    """The nodes of a folded graph in order, those with weights as layers."""

    def __init__(self, folded: Any, inputs: list[str], file: Any, others: list[Any]):
        super().__init__()
        self._graphs = [folded, *others]
        self._inputs, self._outputs = inputs, list(folded.outputs)
        self._values: Mapping[str, Any] = folded.values
        self._stored, self._opset = file.stored, file.opsets.get("", 0)
        self._steps: list[tuple[Callable[..., Any], list[str], tuple[str, ...]]] = []
        for node in folded.nodes:
            function, names = self._made(node)
            self._steps.append((function, names, node.outputs))
        constants = {n for _, names, _ in self._steps for n in names} | set(self._outputs)
        self._constants = {n: f"constant_{i}" for i, n in enumerate(sorted(constants)) if self._fixed(n) is not None}
        for name, attribute in self._constants.items():
            self.register_buffer(attribute, torch.from_numpy(np.array(self._fixed(name))), persistent=False)
        self._values, self._graphs = {}, []

    def forward(self, *inputs: Tensor) -> Any:
        if len(inputs) != len(self._inputs):
            raise TypeError(f"expected {len(self._inputs)} inputs ({', '.join(self._inputs)}), got {len(inputs)}")
        values: dict[str, Any] = dict(zip(self._inputs, inputs, strict=True))
        values |= {name: getattr(self, attribute) for name, attribute in self._constants.items()}
        for function, names, outputs in self._steps:
            found = function(self, *(values[n] for n in names))
            for name, value in zip(outputs, found if isinstance(found, tuple) else (found,), strict=False):
                values[name] = value
        given = [values[n] for n in self._outputs]
        return tuple(given) if len(given) > 1 else given[0]

    @torch.no_grad()
    def compute(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs as arrays."""
        found = self(*(torch.from_numpy(x) for x in inputs))
        return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]

    def _fixed(self, name: str) -> np.ndarray | None:
        value = self._values.get(name) if name else None
        return value if isinstance(value, np.ndarray) else None

    def _made(self, node: Any) -> tuple[Callable[..., Any], list[str]]:
        """What computes a node, from the module (which may be a copy) and the values of the names that it reads."""
        if node.proto.domain not in ("", "ai.onnx"):
            raise self._refused(node)
        op, given = node.op, list(node.inputs)
        if op in _OF_ONE:
            return _free(_OF_ONE[op]), given
        if op in _OF_TWO:
            return _free(_OF_TWO[op]), given
        if op == "MatMul" and not self._has_matrix(node):
            return _free(torch.matmul), given
        if op in ("MatMul", "Gemm"):
            return self._product(node), given[:1]
        if op in ("Conv", "ConvTranspose"):
            return self._convolution(node), given[:1]
        if op == "LayerNormalization":
            return self._norm(node), given[:1]
        if op == "BatchNormalization" and not any(node.outputs[1:]) and not node.get("training_mode", 0):
            return _batch_norm(node.get("epsilon", 1e-5)), given
        if op == "Gather":
            return self._gather(node)
        if op in _GATES:
            return self._recurrent(node), given[:1]
        numbers = [self._fixed(n) for n in given[1:]]
        if op in ("Squeeze", "Unsqueeze"):
            axes = node.get("axes", []) or [int(a) for v in numbers if v is not None for a in v.ravel()]
            if len(axes) == 1 or (axes and op == "Squeeze"):
                return _along(
                    torch.squeeze if op == "Squeeze" else torch.unsqueeze, axes[0] if len(axes) == 1 else tuple(axes)
                ), given[:1]
        if op == "Transpose" and node.get("perm", []):
            order = node.get("perm", [])
            return (lambda _, x: x.permute(order)), given
        usual = 1 if self._opset < 13 else -1
        if op in ("Softmax", "LogSoftmax") and node.get("axis", usual) in (-1, len(self._values[given[0]].shape) - 1):
            return _along(torch.softmax if op == "Softmax" else torch.log_softmax, -1), given
        if op == "Clip" and not any(n and self._fixed(n) is None for n in given[1:]):
            ends = [None if v is None else float(v) for v in numbers] or [
                node.attributes.get(n) for n in ("min", "max")
            ]
            low, high = (*ends, None)[:2]
            return (lambda _, x: torch.clamp(x, low, high)), given[:1]
        shapes, results = ([g.type_of(name).shape for g in self._graphs] for name in (given[0], node.outputs[0]))
        function = function_of(Node(node, [self._fixed(n) for n in given], shapes, results))
        if function is None:
            raise self._refused(node)
        return _free(function), [n for n in given if n] if op == "Concat" else given[:1]

    def _refused(self, node: Any, why: str = "") -> UnsupportedModelError:
        from .onnx_import.model_file import refuse
        from .onnx_import.refusals import RUNGS, rung

        others = (
            "BatchNormalization",
            "Clip",
            "Conv",
            "ConvTranspose",
            "Gather",
            "Gemm",
            "LayerNormalization",
            "MatMul",
        )
        known = ", ".join(sorted([*_OF_ONE, *_OF_TWO, *NAMES, *others, "Softmax", "Squeeze", "Transpose", "Unsqueeze"]))
        why = why or f"cannot be trained here in this form; what can be: LSTM, GRU, RNN, {known}"
        number = rung(node.proto, sequence=True)
        return refuse(node.proto, f"{why} (rung {number}, {RUNGS[number]})")

    def _name(self, node: Any, number: int) -> str:
        """What a layer is called: as its weight in the file, without what no module's name may have."""
        name = node.inputs[number] if node.inputs[number] in self._stored else node.proto.name or node.outputs[0]
        base = name.removesuffix(".weight").strip("/").replace(".", "_").replace("/", "_") or "layer"
        unique, count = base, 1
        while hasattr(self, unique):
            unique, count = f"{base}_{count}", count + 1
        return unique

    def _added(self, node: Any, number: int, layer: nn.Module) -> Callable[..., Any]:
        name = self._name(node, number)
        self.add_module(name, layer)
        return lambda graph, x: getattr(graph, name)(x)

    def _has_matrix(self, node: Any) -> bool:
        weight = self._fixed(node.inputs[1])
        return weight is not None and weight.ndim == 2

    def _convolution(self, node: Any) -> Callable[..., Any]:
        """What is padded before and after differs in number: then it is padded first."""
        weight, bias = self._fixed(node.inputs[1]), self._fixed(node.inputs[2]) if len(node.inputs) > 2 else None
        back, rank = node.op == "ConvTranspose", 0 if weight is None else weight.ndim - 2
        pads = node.get("pads", []) or [0] * 2 * rank
        even, odd = (
            pads[:rank] == pads[rank:],
            node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape", []),
        )
        if weight is None or not 0 < rank <= 3 or odd or (back and not even) or (len(node.inputs) > 2 and bias is None):
            raise self._refused(node)
        groups = node.get("group", 1)
        sizes = (len(weight), weight.shape[1] * groups) if back else (weight.shape[1] * groups, len(weight))
        kinds = (
            [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d] if back else [nn.Conv1d, nn.Conv2d, nn.Conv3d]
        )
        options = {"output_padding": node.get("output_padding", []) or 0} if back else {}
        layer = kinds[rank - 1](
            *sizes, weight.shape[2:], stride=node.get("strides", []) or 1, padding=pads[:rank] if even else 0,
            dilation=node.get("dilations", []) or 1, groups=groups, bias=bias is not None, **options,
        )  # fmt: skip
        _fill(layer, weight, bias)
        run = self._added(node, 1, layer)
        if even:
            return run
        flat = [n for d in reversed(range(rank)) for n in (pads[d], pads[d + rank])]
        return lambda graph, x: run(graph, nn.functional.pad(x, flat))

    def _norm(self, node: Any) -> Callable[..., Any]:
        scale, bias = (self._fixed(n) for n in [*node.inputs[1:], ""][:2])
        last = node.get("axis", -1) in (-1, len(self._values[node.inputs[0]].shape) - 1)
        wide = self._values[node.inputs[0]].shape[-1:]
        if scale is None or scale.shape != wide or not last or any(node.outputs[1:]):
            raise self._refused(node)
        layer = nn.LayerNorm(wide, node.get("epsilon", 1e-5), bias=bias is not None)
        _fill(layer, scale, bias)
        return self._added(node, 1, layer)

    def _gather(self, node: Any) -> tuple[Callable[..., Any], list[str]]:
        """Rows of a table by tokens, or entries at known places."""
        table, places = (self._fixed(n) for n in node.inputs)
        axis = node.get("axis", 0)
        if table is not None and places is None and table.ndim == 2 and axis == 0:
            layer = nn.Embedding(*table.shape)
            _fill(layer, table, None)
            return self._added(node, 0, layer), [node.inputs[1]]
        if table is not None or places is None or places.ndim > 1:
            raise self._refused(node)
        if places.ndim == 0:
            number = int(places)
            return (lambda _, x: x.select(axis, number)), [node.inputs[0]]
        chosen = [int(n) % self._values[node.inputs[0]].shape[axis] for n in places]
        if len({g.type_of(node.inputs[0]).shape[axis] for g in self._graphs}) > 1 and (places < 0).any():
            raise self._refused(node)
        return (lambda _, x: x.index_select(axis, torch.tensor(chosen, device=x.device))), [node.inputs[0]]

    def _product(self, node: Any) -> Callable[..., Any]:
        weight, bias = self._fixed(node.inputs[1]), self._fixed(node.inputs[2]) if len(node.inputs) > 2 else None
        wrong = node.op == "Gemm" and (
            node.get("alpha", 1.0) != 1 or node.get("beta", 1.0) != 1 or node.get("transA", 0)
        )
        missing = len(node.inputs) > 2 and bias is None
        if weight is None or weight.ndim != 2 or wrong or missing:
            raise self._refused(node)
        weight = weight if node.op == "Gemm" and node.get("transB", 0) else weight.T
        if bias is not None and bias.size not in (1, len(weight)):
            raise self._refused(node)
        layer = Linear(weight.shape[1], len(weight), bias=bias is not None)
        with torch.no_grad():
            layer.weight.weight.copy_(torch.from_numpy(np.array(weight)))  # pyright: ignore
            if bias is not None:
                layer.bias.copy_(torch.from_numpy(np.broadcast_to(bias.ravel(), len(weight)).copy()))  # pyright: ignore
        return self._added(node, 1, layer)

    def _recurrent(self, node: Any) -> Callable[..., Any]:
        """Y (T, directions, B, n), Y_h and Y_c."""
        w, r, *rest = (self._fixed(n) for n in node.inputs[1:])
        bias, lengths, *states = [*rest, None, None, None, None][:4]
        plain = [a.lower() for a in node.get("activations", [])] in ([], _PLAIN[node.op], _PLAIN[node.op] * 2)
        odd = node.get("layout", 0) or node.get("clip", 0.0) or node.get("input_forget", 0) or node.inputs[7:]
        reset = node.op == "GRU" and not node.get("linear_before_reset", 0)
        if w is None or r is None or not plain or odd or reset or node.get("direction", "forward") == "reverse":
            raise self._refused(node, "cannot be trained here in this form: it is no layer as torch has them")
        if node.inputs[4:5] and node.inputs[4] and not (lengths is not None and bool((lengths == _STEPS).all())):
            raise self._refused(node, "cannot be trained here in this form: it gets lengths of sequences")
        if any(n and (v is None or v.any()) for n, v in zip(node.inputs[5:7], states, strict=False)):
            raise self._refused(node, "cannot be trained here in this form: it starts from other states than zeros")
        directions, size = len(w), r.shape[-1]
        kind = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[node.op]
        layer = kind(w.shape[-1], size, bias=bias is not None, bidirectional=directions == 2)
        with torch.no_grad():
            for d in range(directions):
                parts = {"weight_ih": w[d], "weight_hh": r[d]}
                if bias is not None:
                    parts |= dict(zip(("bias_ih", "bias_hh"), np.split(bias[d], 2), strict=True))
                for part, value in parts.items():
                    gates = value.reshape(len(_GATES[node.op]), size, -1)[_GATES[node.op]].reshape(value.shape)
                    getattr(layer, f"{part}_l0{'_reverse' * d}").copy_(torch.from_numpy(np.array(gates)))
        name = self._name(node, 1)
        self.add_module(name, from_torch(layer))

        def run(graph: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
            y, last = getattr(graph, name)(x)
            y = y.unsqueeze(1) if directions == 1 else y.unflatten(-1, (2, -1)).transpose(1, 2)
            return (y, *last) if isinstance(last, tuple) else (y, last)

        return run


def _free(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` as of a module that it does not read."""
    return lambda _, *values: function(*values)


@torch.no_grad()
def _fill(layer: Any, weight: np.ndarray, bias: np.ndarray | None) -> None:
    layer.weight.copy_(torch.from_numpy(np.array(weight)))
    if bias is not None:
        layer.bias.copy_(torch.from_numpy(np.array(bias)))


def _batch_norm(epsilon: float) -> Callable[..., Tensor]:
    return lambda _, x, scale, shift, mean, variance: nn.functional.batch_norm(
        x, mean, variance, scale, shift, eps=epsilon
    )


def _along(function: Callable[..., Tensor], axis: int | tuple[int, ...]) -> Callable[..., Tensor]:
    return lambda _, x: function(x, axis)
