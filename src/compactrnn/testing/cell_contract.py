"""The contract of cells, as pytest tests."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ..cells import AbstractCell, StateSpec, UnitSet, check_declaration
from ..layers import scan, time_loop
from ..layers.loop import Kind
from ..layers.sequence import Steps
from ..weights import AbstractWeight, LowRank

STEPS, BATCH = 5, 3


class CellContract:
    """The tests of one cell, for pytest: subclass it, and give `make_cell` by a fixture or a parameter.

    `make_cell(input_size, hidden_size, input_weight=, hidden_weight=)` is a cell class or a `functools.partial` of one;
    a cell without a matrix of its own states need not take `hidden_weight`.

    ::

        @pytest.mark.parametrize("make_cell", [MGU, partial(LSTM, bias=False)])
        class TestCells(CellContract):
            pass
    """

    def _cell(self, make_cell: Callable[..., AbstractCell], **options: object) -> AbstractCell:
        torch.manual_seed(0)
        return make_cell(4, 6, **options).double()

    def test_declaration(self, make_cell: Callable[..., AbstractCell]):
        """The declaration names existing parts of matching sizes."""
        check_declaration(self._cell(make_cell))

    def test_step_takes_batches(self, make_cell: Callable[..., AbstractCell]):
        """Outputs and states have the declared sizes; the sequences of a batch do not see each other."""
        cell = self._cell(make_cell)
        states = _random_states(cell)
        x = torch.randn(BATCH, 4, dtype=torch.float64)
        y, after = cell.step(_projected(cell, x[None])[0], states)
        assert y.shape == (BATCH, cell.output_size)
        assert [s.shape for s in after] == [(BATCH, n) for n in cell.state_sizes()]
        for b in range(BATCH):
            alone, _ = cell.step(_projected(cell, x[None, b : b + 1])[0], tuple(s[b : b + 1] for s in states))
            assert_close(alone, y[b : b + 1])

    def test_project_takes_whole_sequences(self, make_cell: Callable[..., AbstractCell]):
        """`project` works along any leading axes, so that a layer may hoist it out of the loop over time."""
        cell = self._cell(make_cell)
        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        assert_close(cell.project(x), torch.stack([cell.project(step) for step in x]))

    def test_initial_states(self, make_cell: Callable[..., AbstractCell]):
        """They have the declared names, sizes and values, and the type and device of what they are made like."""
        cell = self._cell(make_cell)
        states = cell.initial_states(BATCH)
        assert len(states) == len(cell.states) == len({s.name for s in cell.states})
        for state, spec, size in zip(states, cell.states, cell.state_sizes(), strict=True):
            assert state.shape == (BATCH, size) and state.dtype == torch.float64
            if spec.init is not None:
                init = getattr(cell, spec.init) if isinstance(spec.init, str) else torch.tensor(spec.init)
                assert (state == init.detach().flatten()).all()
        assert all(s.dtype == torch.float32 for s in cell.initial_states(BATCH, torch.zeros(1)))

    def test_output_is_that_of_the_declared_states(self, make_cell: Callable[..., AbstractCell]):
        """A step is a function of x and the states alone: the same in pieces as in one go, and twice over."""
        cell = self._cell(make_cell)
        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        projected, start = _projected(cell, x), cell.initial_states(BATCH)
        ys, states = _steps(cell, projected, start)
        first, between = _steps(cell, projected[:2], start)
        second, after = _steps(cell, projected[2:], between)
        assert_close(torch.cat([first, second]), ys)
        assert_close(after, states)

    def test_gradients_are_finite_differences(self, make_cell: Callable[..., AbstractCell]):
        """First and second derivatives by the inputs, the states and every parameter, over two steps."""
        cell = self._cell(make_cell)
        names = [n for n, _ in cell.named_parameters()]

        def run(x: Tensor, *tensors: Tensor) -> Tensor:
            values = dict(zip(names, tensors, strict=False))
            states = tensors[len(names) :]
            parameters = {f"cell.{n}": v for n, v in values.items()}
            return torch.func.functional_call(_Steps(cell), parameters, (x, states))

        x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
        parameters = [p.detach().clone().requires_grad_() for p in cell.parameters()]
        states = [s[:2].clone().requires_grad_() for s in _random_states(cell)]
        assert torch.autograd.gradcheck(run, (x, *parameters, *states))
        assert torch.autograd.gradgradcheck(run, (x, *parameters, *states), fast_mode=True)

    @pytest.mark.filterwarnings("ignore:.*plain loop over time")  # a cell need not have a faster one
    def test_layers_differentiate_twice(self, make_cell: Callable[..., AbstractCell]):
        """Gradients of gradients, in the loop over time that a layer chooses, are those of the steps."""
        cell = self._cell(make_cell)

        def penalty(cell: AbstractCell, x: Tensor, kind: Kind) -> tuple[Tensor, ...]:
            with time_loop(kind):
                output, _ = _scan(cell, x.requires_grad_())
            (first,) = torch.autograd.grad(output.sin().sum(), x, create_graph=True)
            return torch.autograd.grad(
                first.square().sum(), list(cell.parameters()), allow_unused=True, materialize_grads=True
            )

        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        wanted = penalty(cell, x, "plain")
        got = penalty(cell.float(), x.detach().float(), "auto")
        assert_close([g.double() for g in got], list(wanted), rtol=5e-3, atol=1e-4)

    @pytest.mark.filterwarnings("ignore:.*plain loop over time")
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
    def test_first_call_without_gradients(self, make_cell: Callable[..., AbstractCell], mode: type, training: bool):
        """A layer may first run where no gradients are recorded, and be trained later."""
        cell = self._cell(make_cell).float().train(training)
        x = torch.randn(STEPS, BATCH, 4)
        with mode():
            first, _ = _scan(cell, x)
        output, _ = _scan(cell, x)
        assert_close(output.detach(), first.clone(), rtol=1e-4, atol=1e-5)
        output.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in cell.parameters())
        assert any(p.grad is not None for p in cell.parameters())

    def test_declared_readers_are_all(self, make_cell: Callable[..., AbstractCell]):
        """With its outgoing weights at zero, a unit's incoming weights do not affect any other unit."""
        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        for units in _removable(self._cell(make_cell)):
            cell = self._cell(make_cell)
            k = min(2, cell.unit_count(units) - 1)
            _zero_columns(cell, units, k)
            before = _others(cell, units, k, x)
            _change_rows(cell, units, k)
            missing = f"another unit still sees one of {units.name!r}: read_by or written_by leaves something out"
            assert_close(_others(cell, units, k, x), before, rtol=0, atol=1e-12, msg=missing)

    def test_declared_writers_are_all(self, make_cell: Callable[..., AbstractCell]):
        """A unit with the incoming weights of another behaves identically."""
        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        for units in _removable(self._cell(make_cell)):
            cell = self._cell(make_cell)
            count = cell.unit_count(units)
            with torch.no_grad():
                for name in units.written_by:
                    if (weight := getattr(cell, name)) is not None:
                        matrix = weight.dense() if isinstance(weight, AbstractWeight) else weight
                        gates = matrix.view(-1, count, *matrix.shape[1:])
                        gates[:, 1] = gates[:, 0]
            ys, states = _run(cell, x)
            values = [_units(s, spec) for s, spec in zip(states, cell.states, strict=True) if spec.units == units.name]
            values += [ys[..., _places(cell, units)]] if units.output else []
            for value in values:
                missing = (
                    f"the rows of a unit of {units.name!r} do not say all that it does: written_by leaves some out"
                )
                assert_close(value[..., 1], value[..., 0], msg=missing)

    def test_select_is_exact_where_readers_are_zero(self, make_cell: Callable[..., AbstractCell]):
        """The cut cell gives the kept entries of the outputs and states; its declared sizes are its true ones."""
        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        for units in _removable(self._cell(make_cell)):
            cell = self._cell(make_cell)
            count = cell.unit_count(units)
            keep = torch.tensor([k for k in (0, 2, 4, 5) if k < count])
            for k in set(range(count)) - set(keep.tolist()):
                _zero_columns(cell, units, k)
            small = copy.deepcopy(cell)
            assert small.select_({units.name: keep}) is small
            ys, states = _run(cell, x)
            ys_small, states_small = _run(small, x)
            assert_close(ys_small, ys[..., _places(cell, units, keep)])
            for spec, old, new in zip(cell.states, states, states_small, strict=True):
                assert_close(new, _units(old, spec)[..., keep].flatten(1) if spec.units == units.name else old)
            assert small.unit_count(small.unit_set(units.name)) == len(keep)
            assert small.macs() < cell.macs()

    def test_fixed_units_stay(self, make_cell: Callable[..., AbstractCell]):
        """A cell refuses to lose units of a set that is declared as fixed, with the reason."""
        cell = self._cell(make_cell)
        for units in cell.active_units():
            if units.fixed:
                with pytest.raises(ValueError, match=re.escape(units.fixed)):
                    cell.select_({units.name: torch.arange(cell.unit_count(units) - 1)})

    def test_select_of_inputs(self, make_cell: Callable[..., AbstractCell]):
        """Removing input columns equals leaving out those inputs."""
        cell, keep = self._cell(make_cell), torch.tensor([3, 1])
        x = torch.zeros(STEPS, BATCH, 4, dtype=torch.float64)
        x[..., keep] = torch.randn(STEPS, BATCH, 2, dtype=torch.float64)
        wanted, _ = _run(cell, x)
        small = copy.deepcopy(cell).select_({}, keep)
        assert small.input_size == 2
        assert_close(_run(small, x[..., keep])[0], wanted)

    def test_any_weight(self, make_cell: Callable[..., AbstractCell]):
        """With other weights the cell is the same function of their dense matrices."""
        taken = inspect.signature(make_cell).parameters
        specs = {name: LowRank(rank=2) for name in ("input_weight", "hidden_weight") if name in taken}
        structured = self._cell(make_cell, **specs)
        dense = self._cell(make_cell)
        with torch.no_grad():
            for name, child in dense.named_children():
                if isinstance(child, AbstractWeight):
                    child.from_dense_(getattr(structured, name).dense())
            for name, own in (*dense.named_parameters(recurse=False), *dense.named_buffers(recurse=False)):
                own.copy_(getattr(structured, name))
        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        assert_close(_run(structured, x), _run(dense, x))

    def test_constraints(self, make_cell: Callable[..., AbstractCell]):
        """A new cell is within its bounds; `constrain_` writes in place, and leaves alone what is within them."""
        cell = self._cell(make_cell)
        parameters = [(p, p.detach().clone()) for p in cell.parameters()]
        cell.constrain_()
        for parameter, before in parameters:
            assert_close(parameter, before, rtol=1e-3, atol=0)
        with torch.no_grad():
            for parameter, _ in parameters:
                parameter.mul_(3)
        cell.constrain_()
        versions = [p._version for p, _ in parameters]
        cell.constrain_()
        assert [p._version for p in cell.parameters()] == versions
        assert all(p is old for p, (old, _) in zip(cell.parameters(), parameters, strict=True))

    def test_state_dict_and_copies(self, make_cell: Callable[..., AbstractCell]):
        """The parameters are all there is, and a deep copy has its own."""
        cell, other = self._cell(make_cell), self._cell(make_cell)
        other.reset_parameters()
        x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
        twin, wanted = copy.deepcopy(cell), _run(cell, x)[0]
        assert not torch.allclose(_run(other, x)[0], wanted)
        other.load_state_dict(cell.state_dict(), strict=True)
        cell.reset_parameters()
        assert_close(_run(other, x)[0], wanted, rtol=0, atol=0)
        assert_close(_run(twin, x)[0], wanted, rtol=0, atol=0)


class _Steps(torch.nn.Module):
    def __init__(self, cell: AbstractCell):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        ys, states = _run(self.cell, x, states)
        return torch.cat([ys.flatten(), *(s.flatten() for s in states)])


def _removable(cell: AbstractCell) -> list[UnitSet]:
    return [units for units in cell.active_units() if not units.fixed]


def _random_states(cell: AbstractCell) -> tuple[Tensor, ...]:
    return tuple(s + torch.rand_like(s) for s in cell.initial_states(BATCH))


def _scan(cell: AbstractCell, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As layers run it."""
    return scan(cell, Steps(x, None, x.shape[1]), cell.initial_states(x.shape[1], x))


def _run(cell: AbstractCell, x: Tensor, states: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
    return _steps(cell, _projected(cell, x), cell.initial_states(x.shape[1], x) if states is None else states)


def _projected(cell: AbstractCell, x: Tensor) -> Tensor:
    """What `step` gets of a whole sequence."""
    return cell.look_ahead(cell.project(x))


def _steps(cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    ys = []
    for piece in projected:
        y, states = cell.step(piece, states)
        ys.append(y)
    return torch.stack(ys), states


def _units(state: Tensor, spec: StateSpec) -> Tensor:
    """A state with its units in the last axis and the rows of a delay line in the one before."""
    return state.unflatten(-1, (max(1, spec.delay), -1))


@torch.no_grad()
def _zero_columns(cell: AbstractCell, units: UnitSet, k: int) -> None:
    for name in units.read_by:
        getattr(cell, name).dense()[:, k] = 0


@torch.no_grad()
def _change_rows(cell: AbstractCell, units: UnitSet, k: int) -> None:
    count = cell.unit_count(units)
    for name in units.written_by:
        if (weight := getattr(cell, name)) is not None:
            matrix = weight.dense() if isinstance(weight, AbstractWeight) else weight
            matrix.view(-1, count, *matrix.shape[1:])[:, k] += 1


def _places(cell: AbstractCell, units: UnitSet, keep: Tensor | None = None) -> Tensor:
    """Where the units of a set stand in the output; with `keep`, of it these alone, and all units of other sets."""
    places, start = [], 0
    for other in cell.output_units():
        own = torch.arange(count := cell.unit_count(other)) + start
        same = other.name == units.name
        places.append(own if keep is None and same else own[:0] if keep is None else own[keep] if same else own)
        start += count
    return torch.cat(places)


def _others(cell: AbstractCell, units: UnitSet, k: int, x: Tensor) -> list[Tensor]:
    ys, states = _run(cell, x)
    rest = [j for j in range(cell.unit_count(units)) if j != k]
    values = [
        _units(s, spec)[..., rest] if spec.units == units.name else s
        for spec, s in zip(cell.states, states, strict=True)
    ]
    return [*values, ys[..., _places(cell, units, torch.tensor(rest))]]
