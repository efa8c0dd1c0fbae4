"""Factorizing the matrices of a trained model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from .._errors import invalid
from ..graph.copy import copy_module
from ..layers import convert_
from ..layers.matrices import ModelMatrix, matrices
from ..weights.low_rank import LowRank, LowRankWeight
from .budget import Budget
from .factor_item import Item, Spec, requested
from .factorization import FactorizationPlan
from .joined import join
from .moments import Run, call, check_batches, input_moments
from .rank_choice import Choice, choose_ranks
from .surgery import check_tensors, recorded
from .wrappers import inner_names, unwrap, without_autocast

M = TypeVar("M", bound=nn.Module)


def factorize_(
    model: M,
    spec: Spec = None,
    example_inputs: Any = None,
    *,
    keep: float | None = None,
    bytes: int | None = None,
    macs: int | None = None,
    batches: Iterable[Any] | None = None,
    shared: bool = False,
) -> M:
    """Replace the matrices of a trained model by weights of another form, set from them, in place; returns the model.

    Recurrent layers (torch's become this package's, as by `convert_`), cells, `nn.Linear` and `nn.Embedding` (which
    become `cr.Linear` and `cr.Embedding`) stay the same objects, with their biases, hooks and mode; their matrices get
    new parameters, so an optimizer is made afterwards. The new weights are set by `from_dense_`, low rank by a singular
    value decomposition (Xue et al., 2013). `plan_factorization` takes the same arguments and says what would be done;
    a matrix that would not get smaller stays dense.

    With `keep`, `bytes` or `macs` the ranks are chosen for the whole model: the sum over all matrices of the relative
    squared error is minimized at this size, see `compactrnn.compress.rank_choice`.

    With `batches`, what W x loses on these data is minimized in place of what W loses: the second moments of
    the inputs x, hidden states too, are measured, and the factors of `E |W x - Z P x|^2` taken
    (`compactrnn.weights.low_rank.principal_factors`); ranks and `energy` are then those of the products. This is for
    low rank; other weights are set from the matrix alone.

    Args:
        model: any module; shared parameters stay shared.
        spec: a weight for all matrices; or by name, those of `pack`: a name ("lstm.weight_ih_l0"), a module
            ("lstm"), a pattern ("*.weight_hh_*") or "*" for all others. Of several keys that match the longest counts.
            None leaves a matrix, as does no entry, unless a size is given: then no entry leaves the rank to that.
        example_inputs: what the model is called with, to try on a copy whether it still runs; where the code of the
            model reads a matrix by itself, that matrix stays. The first batch is taken if there is one.
        keep: the fraction of the model's parameters that is left.
        bytes: the bytes of the model's parameters that are left, in their present type.
        macs: the multiply-accumulates that are left of one product with each matrix.
        batches: calibration data, each item like `example_inputs`.
        shared: in a stack of layers the recurrent matrix of each and the input matrix of the next, which multiply the
            same h, get one factor P for both, `[U; W] = [Z_h; Z_x] P` (Prabhavalkar et al., 2016; Lu et al., 2016).

    Raises:
        ValueError: arguments out of range; a name that the model does not have; a matrix that is named and cannot be
            replaced; a size that cannot be reached, with the smallest one. The model was not changed then.

    >>> import compactrnn as cr
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    >>> factorize_(model, {"0": cr.LowRank(rank=8)})[0].weight
    LowRankWeight(64x64, LowRank(rank=8))

    Sources: Xue, Li, Gong, "Restructuring of deep neural network acoustic models with singular value decomposition",
    2013; with data, Izenman, 1975, and Chen et al., "DRONE: Data-aware low-rank compression for large NLP models",
    2021.
    """
    _, found = _planned(model, spec, example_inputs, Budget.of(keep, bytes, macs), batches, call, shared)
    _replace(found)
    return model


def plan_factorization(
    model: nn.Module,
    spec: Spec = None,
    example_inputs: Any = None,
    *,
    keep: float | None = None,
    bytes: int | None = None,
    macs: int | None = None,
    batches: Iterable[Any] | None = None,
    shared: bool = False,
) -> FactorizationPlan:
    """What `factorize_` would do with the same arguments; the model stays as it is.

    >>> import compactrnn as cr
    >>> plan = plan_factorization(cr.LSTM(32, 64), {"weight_ih_l0": None, "weight_hh_l0": cr.LowRank(rank=4)})
    >>> [(form.name, form.spec) for form in plan.matrices]
    [('weight_ih_l0', None), ('weight_hh_l0', LowRank(rank=4))]
    """
    return _planned(model, spec, example_inputs, Budget.of(keep, bytes, macs), batches, call, shared, digests=True)[0]


def factorize_on(model: M, spec: Spec, batches: Iterable[Any], run: Run, keep: float | None = None) -> M:
    """As `factorize_`, for a model that is called by `run(model, batch)`; without batches by the weights alone."""
    _, found = _planned(model, spec, None, Budget.of(keep, None, None), batches or None, run)
    _replace(found)
    return model


def _replace(items: list[Item]) -> None:
    """Put the new weights in their places, or none of them."""
    places = [place for item in items if item.weight is not None for place in item.matrix.places]
    convert_(nn.ModuleList(place.module for place in places))  # what cannot be converted is refused here
    for item in items:
        if item.weight is not None:
            item.matrix.put(item.weight)


@torch.no_grad()
def _planned(
    model: nn.Module,
    spec: Spec,
    example_inputs: Any,
    budget: Budget | None,
    batches: Iterable[Any] | None,
    run: Run,
    shared: bool = False,
    digests: bool = False,
) -> tuple[FactorizationPlan, list[Item]]:
    if not isinstance(model, nn.Module):
        raise invalid("model", got=f"a {type(model).__name__}", expected="an nn.Module")
    spec, model = inner_names(model, spec), unwrap(model)
    data = None if batches is None else check_batches(batches)
    items = requested(model, spec, budget is not None)
    if not items:
        raise invalid(type(model).__name__, got="no recurrent, linear or embedding layer", expected="at least one")
    with without_autocast():
        if data is not None or example_inputs is not None:
            leave_what_is_read(model, items, data[0] if example_inputs is None else example_inputs, run)  # pyright: ignore
        if shared:
            apart, items = len(items), join(items)
            if len(items) == apart:
                expected = "an LSTM, GRU or RNN of several layers in one direction that gets low rank"
                raise invalid("shared", got="a model in which nothing can be", expected=expected)
        moments = {} if data is None else input_moments(model, data, run)
        for item in items:
            item.moment = moments.get(item.matrix.name)
        for item in items:
            if not item.reason and item.wanted is not None:
                item.fit(item.wanted)
        numbers = {id(p): p for p in model.parameters()}.values()
        before = (
            sum(p.numel() for p in numbers),
            sum(p.numel() * p.element_size() for p in numbers),
            sum(item.matrix.macs() for item in items),
        )
        if budget is not None:
            _spend(items, budget, before)
    forms = tuple(item.form() for item in items)
    saved = [(f.parameters[0] - f.parameters[1], i.matrix.number_size) for f, i in zip(forms, items, strict=True)]
    plan = FactorizationPlan(
        type(model).__name__,
        forms,
        (before[0], before[0] - sum(count for count, _ in saved)),
        (before[1], before[1] - sum(count * size for count, size in saved)),
        (before[2], sum(f.macs[1] for f in forms)),
        recorded(model) if digests else {},
    )
    return plan, items


def leave_what_is_read(model: nn.Module, items: list[Item], example: Any, run: Run) -> None:
    """Let those matrices stay that the code of the model reads by itself: it does not run with them in another form."""

    def error(names: set[str]) -> Exception | None:
        twin = copy_module(model).eval()
        for matrix in matrices(twin):
            if not names.isdisjoint(matrix.names):
                matrix.put(_rank_one(matrix).to(matrix.dense()))
        try:
            run(twin, example)
        except Exception as error:
            return error
        return None

    candidates = [item for item in items if not item.reason]
    if (known := error(set())) is not None:
        raise invalid("example_inputs", got=f"{type(known).__name__}: {known}", expected="what the model runs on")
    if error({item.matrix.name for item in candidates}) is None:
        return
    for item in candidates:
        if (found := error({item.matrix.name})) is not None:
            reason = (str(found).splitlines() or [type(found).__name__])[0]
            item.leave(f"the code of the model reads it by itself ({reason})")


def _spend(items: list[Item], budget: Budget, before: tuple[int, int, int]) -> None:
    """Choose the ranks of the matrices for which no weight is asked."""
    free = [item for item in items if not item.reason and item.wanted is None]
    choices = []
    for item in free:
        s = item.factors()[1].square().cpu()
        errors = torch.cat([s.flip(0).cumsum(0).flip(0), s.new_zeros(1)]) / s.sum().clamp_min(1e-300)
        each, dense = budget.cost(item.matrix, _rank_one(item.matrix)), budget.cost(item.matrix)
        choices.append(Choice(errors.numpy(), each, dense))
    wanted = before[{"keep": 0, "bytes": 1, "macs": 2}[budget.kind]]
    fitted = [(item.matrix, item.weight) for item in items if item.weight is not None]
    rest = wanted - sum(budget.cost(matrix) - budget.cost(matrix, weight) for matrix, weight in fitted)
    rest -= sum(choice.dense for choice in choices)
    left = (f"{item.matrix.name} stays: {item.reason}" for item in items if item.reason)
    budget.check(rest + sum(choice.least for choice in choices), wanted, itertools.islice(left, 3))
    limit = budget.limit(wanted)
    for item, rank in zip(free, choose_ranks(choices, limit - rest), strict=True):
        if rank is None:
            item.leave("at this size its parameters are worth more than its error", refuse=False)
        else:
            item.fit(LowRank(rank=rank))


def _rank_one(matrix: ModelMatrix) -> LowRankWeight:
    out, inp = matrix.shape
    return LowRankWeight.of(torch.zeros(out, 1), torch.zeros(1, inp), matrix.gates)


@torch.no_grad()
def apply_factorization(
    plan: FactorizationPlan, model: M, batches: Iterable[Any] | None = None, same_weights: bool = True
) -> M:
    """See `FactorizationPlan.apply`."""
    if not isinstance(model, nn.Module):
        raise invalid("model", got=f"a {type(model).__name__}", expected="an nn.Module")
    inner = unwrap(model)
    check_tensors(f"the plan of a {plan.model}", plan.weights, inner, same_weights)
    if batches is None and any(form.weighted for form in plan.matrices):
        raise invalid("batches", got="None", expected="those that the plan was made with")
    data = None if batches is None else check_batches(batches)
    moments = {} if data is None else input_moments(inner, data)
    small = copy_module(inner)
    single = list(map(Item, matrices(small)))
    items = {item.matrix.names: item for item in single} | {item.matrix.names: item for item in join(single)}
    fitted = []
    for form in plan.matrices:
        if form.spec is None:
            continue
        if (item := items.get(form.names)) is None or item.matrix.shape != form.shape or item.matrix.left_alone:
            got = f"the matrix {form.name} of {form.shape}"
            raise invalid("factorization plan", got=got, expected="one that the model has and that can be replaced")
        item.moment = moments.get(form.name) if form.weighted else None
        item.fit(form.spec)
        if item.weight is None:
            raise invalid("factorization plan", got=f"{form.name}: {item.reason}", expected="a smaller form")
        fitted.append(item)
    _replace(fitted)
    return small  # pyright: ignore
