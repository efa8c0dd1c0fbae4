"""Projections of trained layers, which their recurrence and what reads them next share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..layers import LSTM
from ..models.recurrent_layers import output_size, recurrent_layers
from ..models.sequence_model import SequenceModel
from ..weights.low_rank import principal_factors
from .moments import Run, call, input_moments


@torch.no_grad()
def project_(model: nn.Module, sizes: Sequence[int], batches: Iterable[Any] | None = None, run: Run = call) -> None:
    """Give each layer of the `SequenceModel` in `model` a projection of so many numbers, 0 for none, in place.

        [U_l; W_{l+1}] = [Z_h; Z_x] P_l

    U is the recurrent matrix of a layer, in each of its directions, and W those columns of the next layer's input
    matrices, or of the output matrix, that multiply its h. P, of shape (size, units), becomes the layer's `weight_hr`,
    Z_h its recurrent matrix, Z_x those columns. The factors are those of `principal_factors`: of the matrices, or with
    `batches` of what they give on these calibration data, on which `run(model, batch)` calls the model.

    Raises:
        ValueError: sizes that do not fit, or layers that are not plain LSTMs; the model was not changed then.

    Sources: Prabhavalkar et al., "On the compression of recurrent neural networks with an application to LVCSR acoustic
    modeling for embedded speech recognition", 2016; Lu, Sindhwani, Sainath, 2016, section 3.2.
    """
    found = next(((name, m) for name, m in model.named_modules() if isinstance(m, SequenceModel)), None)
    if found is None:
        raise invalid("projection", got=f"a {type(model).__name__}", expected="a model of recurrent layers in a row")
    prefix, stack = (f"{found[0]}." if found[0] else ""), found[1]
    _check(stack, sizes)
    moments = {} if batches is None else input_moments(model, batches, run)
    suffixes = ("", "_reverse") if stack.options.bidirectional else ("",)
    before = [layer.state_dict() for layer in stack.layers]
    after: list[dict[str, Tensor]] = [dict(parts) for parts in before]
    output = stack.output.weight.detach()
    for number, size in enumerate(sizes):
        if not size:
            continue
        last = number == len(sizes) - 1
        readers = [output] if last else [after[number + 1][f"weight_ih_l0{s}"] for s in suffixes]
        columns = [matrix.chunk(len(suffixes), 1) for matrix in readers]
        for place, suffix in enumerate(suffixes):
            stacked = [before[number][f"weight_hh_l0{suffix}"], *(blocks[place] for blocks in columns)]
            moment = moments.get(f"{prefix}layers.{number}.weight_hh_l0{suffix}")
            left, _, right = principal_factors(torch.cat(stacked), moment)
            own, *others = left[:, :size].split([len(block) for block in stacked])
            after[number] |= {f"weight_hh_l0{suffix}": own, f"weight_hr_l0{suffix}": right[:size]}
            readers = [torch.cat([m, z], 1) if place else z for m, z in zip(readers, others, strict=True)]
        if last:
            (output,) = readers
        else:
            after[number + 1] |= {f"weight_ih_l0{s}": matrix for s, matrix in zip(suffixes, readers, strict=True)}
    _rebuild_(stack, sizes, after, output)


def _check(stack: SequenceModel, sizes: Sequence[int]) -> None:
    hidden, options = stack.layer_sizes(), stack.options
    plain = all(type(layer) is LSTM and not layer.proj_size and not layer._modules for layer in stack.layers)
    if not plain or options.norm != "none" or options.residual or options.delta or options.bidirectional == "tied":
        got = f"layers of {options.cell}" + (" of tied directions" if options.bidirectional == "tied" else "")
        expected = "plain layers of LSTM with dense weights, without projections, norms or residual sums"
        raise invalid("projection", got=got, expected=expected)
    if len(sizes) != len(hidden) or not all(0 <= size < n for size, n in zip(sizes, hidden, strict=True)):
        expected = f"a number for each layer, less than its units, {list(hidden)}, or 0 for none"
        raise invalid("projection", got=list(sizes), expected=expected)


def _rebuild_(stack: SequenceModel, sizes: Sequence[int], parts: list[dict[str, Tensor]], output: Tensor) -> None:
    """Put layers with these tensors in the place of the stack's."""
    options = replace(stack.options, projection=tuple(sizes), hidden=stack.layer_sizes())
    keywords = {"bidirectional": True} if options.bidirectional else {}
    width = parts[0]["weight_ih_l0"].shape[1]
    for number, tensors in enumerate(parts):
        old = stack.layers[number]
        new = recurrent_layers(options, [number], width, **keywords)
        new.load_state_dict(tensors)
        stack.layers[number] = new.to(next(old.parameters())).train(old.training)
        width = output_size(new)
    linear = nn.Linear(width, len(output))
    linear.load_state_dict({"weight": output, "bias": stack.output.bias})
    stack.output = linear.to(stack.output.weight)
