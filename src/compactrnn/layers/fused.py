"""What torch's own recurrent layers share once they take sizes per layer and any weight."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from .._errors import invalid
from .._ordinary import is_batched_or_dual, why_not_native
from ..weights.base import AbstractWeight, WeightSpec
from ..weights.dense import DENSE, DenseWeight
from ..weights.quantized import QuantizedWeight
from .autocast import casts_in_vain, without_casts
from .bind import GATES, bound_cell, thresholds_name
from .cudnn import Contiguous, flatten_
from .dense_form import differs, is_dense_product, is_too_large
from .loop import loop_report, wanted_loop
from .run_layer import scan_layer
from .sequence import StateForm, Steps, check_dtype, projection_per_layer, run_stack, sizes_per_layer

_SPECS = ("input_weight", "hidden_weight", "projection_weight")
_FEW = 3  # times fewer multiplications for a weight's own product to be faster than torch's operator


class AbstractFused(nn.RNNBase):
    """Runs torch's fused operators: on the whole stack where all is as torch knows it, else layer by layer.

    Parameters have torch's names and are torch's parameters; a weight of another kind is a sub-module under the name
    that the parameter would have. Its `dense()` is made once per sequence for torch's operator, unless its own product
    in the native loop is faster.
    """

    input_weight: WeightSpec = DENSE
    hidden_weight: WeightSpec = DENSE
    projection_weight: WeightSpec = DENSE
    locked_dropout: bool = False  # whether dropout takes the same units at all steps of a sequence

    def _start(
        self,
        mode: str,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int | Sequence[int],
        device: Any,
        dtype: torch.dtype | None,
        input_weight: WeightSpec,
        hidden_weight: WeightSpec,
        projection_weight: WeightSpec = DENSE,
    ) -> None:
        specs = dict(zip(_SPECS, (input_weight, hidden_weight, projection_weight), strict=True))
        for name, spec in specs.items():
            if not isinstance(spec, WeightSpec):
                raise invalid(name, got=repr(spec), expected="a weight, such as Dense() or LowRank(rank=8)")
        rest = (bias, batch_first, dropout, bidirectional)
        per_layer = isinstance(hidden_size, list | tuple) or isinstance(proj_size, list | tuple)
        if not per_layer and all(spec == DENSE for spec in specs.values()):
            nn.RNNBase.__init__(self, mode, input_size, hidden_size, num_layers, *rest, proj_size, device, dtype)  # pyright: ignore
            return
        if isinstance(proj_size, list | tuple) and not isinstance(hidden_size, list | tuple):
            hidden_size = [hidden_size] * len(proj_size)  # pyright: ignore
        sizes, num_layers = sizes_per_layer(hidden_size, num_layers)  # pyright: ignore
        projections = projection_per_layer(proj_size, sizes, projection_weight)
        # torch checks the arguments and names the parameters; on the meta device that costs nothing
        size = max(sizes[0], projections[0] + 1) if per_layer else sizes[0]
        nn.RNNBase.__init__(self, mode, input_size, size, num_layers, *rest, projections[0], "meta", dtype)
        self.input_weight, self.hidden_weight = input_weight, hidden_weight
        self.projection_weight = projection_weight
        self.hidden_size = sizes if per_layer else sizes[0]  # pyright: ignore
        self.proj_size = projections if per_layer and projections[0] else projections[0]  # pyright: ignore
        with contextlib.nullcontext() if device is None else torch.device(device):
            self._make_weights(sizes, projections)
        self.to(device=device, dtype=dtype)
        self.reset_parameters()

    def _make_weights(self, sizes: list[int], projections: list[int]) -> None:
        directions = 2 if self.bidirectional else 1
        gates = GATES[self.mode]
        width = self.input_size
        for layer, (size, projection) in enumerate(zip(sizes, projections, strict=True)):
            output = projection or size
            for suffix in ("", "_reverse")[:directions]:
                parts = {
                    "weight_ih": _new(self.input_weight, gates * size, width, gates),
                    "weight_hh": _new(self.hidden_weight, gates * size, output, gates),
                }
                if self.bias:
                    parts |= {n: nn.Parameter(torch.empty(gates * size)) for n in ("bias_ih", "bias_hh")}
                if projection:
                    parts["weight_hr"] = _new(self.projection_weight, projection, size)
                for name, part in parts.items():
                    self.put(f"{name}_l{layer}{suffix}", part)
            width = output * directions

    def put(self, name: str, part: AbstractWeight | nn.Parameter) -> None:
        """Let `part` be what torch calls `name`: a parameter, or a weight; a dense one gives its parameter."""
        part = part.weight if isinstance(part, DenseWeight) else part
        if isinstance(part, AbstractWeight):
            self._parameters.pop(name, None)
        setattr(self, name, part)

    def refresh(self) -> None:
        """To be called after `put`: parameters stand in torch's order, and laid out as cuDNN wants them."""
        parameters = self._parameters
        for name in [n for n in self._flat_weights_names if n in parameters]:
            parameters[name] = parameters.pop(name)
        self._init_flat_weights()

    @property
    def _has_thresholds(self) -> bool:
        return thresholds_name("_l0") in self._buffers

    @property
    def _as_torch(self) -> bool:
        plain = not self._modules and not self._has_thresholds
        return plain and isinstance(self.hidden_size, int) and isinstance(self.proj_size, int)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Outputs of the last layer at every step, and the last states, as `torch.nn.LSTM` gives them.

        With a list of hidden sizes each state is a tuple of (N, size of the layer), one for each layer and direction
        in torch's order, instead of one tensor (num_layers * directions, N, hidden_size).
        """
        if casts_in_vain(self):
            return without_casts(self, input, hx)
        if self._as_torch and not self.locked_dropout and not _needs_cells() and not self._is_slow_in_torch(input):
            for state in hx if isinstance(hx, tuple) else () if hx is None else (hx,):
                if isinstance(state, Tensor):
                    check_dtype(self, "initial state", state)
            return super().forward(input, hx)
        sizes, _ = sizes_per_layer(self.hidden_size, self.num_layers)
        outputs = [p or n for p, n in zip(projection_per_layer(self.proj_size, sizes), sizes, strict=True)]
        form = StateForm(
            sizes=(tuple(outputs), tuple(sizes)) if self.mode == "LSTM" else (tuple(outputs),),
            directions=2 if self.bidirectional else 1,
            per_layer=isinstance(self.hidden_size, list),
        )
        return run_stack(self, form, input, hx, self._run_layer)

    def _is_slow_in_torch(self, input: Any) -> bool:
        """Whether the native loop is faster than torch's operator on the CPU (docs/training.md has the figures).

        It is for packed sequences, whose gradient takes torch several times as long, and in training for all but an
        LSTM, for which torch has oneDNN.
        """
        data, packed = (input.data, True) if isinstance(input, PackedSequence) else (input, False)
        return isinstance(data, Tensor) and (packed or self._is_recorded_stepwise) and _runs_natively(data)

    @property
    def _is_recorded_stepwise(self) -> bool:
        """Whether torch would run step after step, recording each operation for the gradient, in training mode."""
        return self.mode != "LSTM" and self.training and torch.is_grad_enabled()

    def _run_layer(self, number: int, steps: Steps, states: list[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        if (
            self._wider_than_torchs(number)
            or self._has_thresholds
            or _needs_cells()
            or self._must_be_called(number)
            or (self._has_few_products(number) and not why_not_native([steps.data, *states]))
            or (
                (steps.batch_sizes is not None or self._is_recorded_stepwise)
                and _runs_natively(steps.data, *states, *self._layer_parameters(number))
            )
        ):
            return scan_layer([bound_cell(self, f"_l{number}{suffix}") for suffix in suffixes], steps, states)
        weights = self._layer_weights(number)
        matrices = [w.dense() if isinstance(w, AbstractWeight) else w for w in weights]
        if matrices[0].is_cuda and any(isinstance(w, AbstractWeight) for w in weights):
            matrices = Contiguous.apply(self._cudnn_arguments(number), *matrices)
        operator = getattr(torch._VF, self.mode.lower())  # pyright: ignore
        where = (steps.data,) if steps.batch_sizes is None else (steps.data, steps.batch_sizes)
        options = (self.bias, 1, 0.0, self.training, self.bidirectional)
        options += (False,) if steps.batch_sizes is None else ()
        hx = tuple(states) if self.mode == "LSTM" else states[0]
        output, *after = operator(*where, hx, list(matrices), *options)
        return output, after

    def _wider_than_torchs(self, number: int) -> bool:
        # torch's operator knows a projection by its width, which must be the smaller one
        _, _, size, projection, _ = self._cudnn_arguments(number)
        return projection >= size

    def _must_be_called(self, number: int) -> bool:
        """Whether a weight's `forward` rounds, its dense matrix is too large, or, with a warning, another map."""
        for name, weight in self._structured(number).items():
            if isinstance(weight, QuantizedWeight) or is_too_large(weight):
                return True
            if not is_dense_product(weight):
                warnings.warn(f"{differs(name, weight)}; so the layer runs step by step", stacklevel=5)
                return True
        return False

    def _has_few_products(self, number: int) -> bool:
        """Whether the native loop is faster with the weights' own products than torch's operator with dense matrices.

        It is where they have at most a third of the multiplications (docs/training.md has the figures).
        """
        structured = self._structured(number).values()
        if not structured or torch.is_autocast_enabled("cpu") or parametrize.is_parametrized(self):
            return False
        cell = bound_cell(self, f"_l{number}")
        (report,) = loop_report(cell) if not why_not_native(cell.parameters()) else (None,)
        if report is None or "native" not in report.kinds or report.dense:
            return False
        plain = sum(w.numel() for w in self._layer_weights(number) if isinstance(w, Tensor) and w.dim() == 2)
        dense = plain + sum(w.out_features * w.in_features for w in structured)
        return _FEW * (plain + sum(w.training_macs() for w in structured)) <= dense

    def _layer_weights(self, number: int) -> list[Any]:
        return [getattr(self, name) for name in self._layer_names(number)]

    def _layer_parameters(self, number: int) -> list[Tensor]:
        return [w for w in self._layer_weights(number) if isinstance(w, Tensor)]

    def _structured(self, number: int) -> dict[str, AbstractWeight]:
        # not by the attributes: one that is parametrized is computed at each access
        found = {name: self._modules.get(name) for name in self._layer_names(number)}
        return {name: weight for name, weight in found.items() if isinstance(weight, AbstractWeight)}

    def _layer_names(self, number: int) -> list[str]:
        directions = 2 if self.bidirectional else 1
        return [name for row in self._all_weights[number * directions : (number + 1) * directions] for name in row]

    def _cudnn_arguments(self, number: int) -> tuple:
        sizes, _ = sizes_per_layer(self.hidden_size, self.num_layers)
        projection = projection_per_layer(self.proj_size, sizes)[number]
        return self.mode, self.bias, sizes[number], projection, self.bidirectional

    def flatten_parameters(self) -> None:
        """Lay the parameters out as cuDNN wants them, on a GPU: all in one buffer, or one for each layer."""
        if self._as_torch:
            super().flatten_parameters()
            return
        for number in range(self.num_layers):
            weights = self._layer_weights(number)
            if all(isinstance(w, nn.Parameter) for w in weights) and not self._wider_than_torchs(number):
                flatten_(weights, self._cudnn_arguments(number))

    def reset_parameters(self) -> None:
        """Draw all parameters as torch does, from U(-b, b) with b = (size of the layer) ** -0.5."""
        sizes, _ = sizes_per_layer(self.hidden_size, self.num_layers)
        for number, size in enumerate(sizes):
            for weight in self._layer_weights(number):
                if isinstance(weight, AbstractWeight):
                    weight.reset_parameters(size**-0.5)
                else:
                    nn.init.uniform_(weight, -(size**-0.5), size**-0.5)

    def to_torch(self) -> Any:
        """The same layer as a plain `torch.nn` module; structured weights become their dense matrices.

        Raises:
            ValueError: layers of different sizes or with thresholds, which torch has no module for.
        """
        if self._has_thresholds:
            hint = "torch has no delta network; pack runs it"
            raise invalid(type(self).__name__, got="thresholds on changes", expected="a layer without", hint=hint)
        sizes, _ = sizes_per_layer(self.hidden_size, self.num_layers)
        projections = projection_per_layer(self.proj_size, sizes)
        for name, values in (("hidden_size", sizes), ("proj_size", projections)):
            if len(set(values)) > 1:
                raise invalid(name, got=values, expected="one size for all layers", hint="torch has no such layer")
        if projections[0] >= sizes[0]:
            raise invalid("proj_size", got=projections[0], expected=f"less than hidden_size={sizes[0]}, as in torch")
        plain = copy.deepcopy(self)
        matrices: dict[nn.Module, nn.Parameter] = {}  # what is one weight stays one parameter
        for name, child in list(plain._modules.items()):
            if isinstance(child, AbstractWeight):
                if child not in matrices:
                    trainable = any(p.requires_grad for p in child.parameters())
                    matrices[child] = nn.Parameter(child.dense().detach().clone(), requires_grad=trainable)
                setattr(plain, name, matrices[child])
        plain.hidden_size, plain.proj_size = sizes[0], projections[0]
        for name in _SPECS:
            plain.__dict__.pop(name, None)
        plain.refresh()
        plain.__class__ = next(c for c in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(self, c))  # pyright: ignore
        return plain

    def extra_repr(self) -> str:
        specs = [f"{n}={s}" for n in _SPECS if (s := getattr(self, n)) != DENSE]
        return ", ".join([super().extra_repr(), *specs])


def _runs_natively(*tensors: Tensor) -> bool:
    """Whether the native loop takes the place of torch's operator on the CPU for these."""
    return not torch.is_autocast_enabled("cpu") and not why_not_native(tensors)


def _needs_cells() -> bool:
    """Whether to run step by step: `time_loop("plain")`, or derivatives and batches that torch's operators lack."""
    return wanted_loop() == "plain" or is_batched_or_dual()


def _new(spec: WeightSpec, out_features: int, in_features: int, gates: int = 1) -> AbstractWeight | nn.Parameter:
    if spec == DENSE:  # not drawn yet, so that the same seed gives the same numbers as in torch
        return nn.Parameter(torch.empty(out_features, in_features))
    return spec.build(out_features, in_features, gates)
