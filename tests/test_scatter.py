"""A shrunk layer that keeps its outer width gives exactly what the wide one gave."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import compactrnn as cr
from compactrnn.cells.base import StateSpec
from compactrnn.compress.scatter import Scattered
from compactrnn.layers import cells_of, narrow_
from compactrnn.weights.base import AbstractWeight


def written_by_zeros(wide):
    """Zero random units of `wide` in place, rows and columns; returns those that remain, `[layer][unit set]`."""
    kept = []
    rows = cells_of(wide)
    for row in rows:
        kept.append({})
        for units in row[0].active_units():
            live = torch.ones(row[0].unit_count(units), dtype=torch.double)
            if units.output:
                live = (torch.rand(len(live)) > 0.4).double()
                live[0] = 1
            kept[-1][units.name] = live.nonzero().flatten()
            for cell in row:
                for part in (getattr(cell, name) for name in units.written_by if getattr(cell, name, None) is not None):
                    if isinstance(part, AbstractWeight):
                        part.scale_(out=live.repeat(part.gates))
                    else:
                        part.data.mul_(live.repeat(len(part) // len(live)))
                for name in units.read_by:
                    getattr(cell, name).scale_(inp=live)
    for below, row, keep in zip(rows, rows[1:], kept, strict=False):
        (units,) = below[0].output_units()
        columns = torch.zeros(below[0].output_size, dtype=torch.double).index_fill(0, keep[units.name], 1)
        for cell in row:
            cell.input.scale_(inp=columns.repeat(len(below)))
    return kept


FORMS = [
    (kind, *rest)
    for kind, *rest in itertools.product(["LSTM", "GRU", "RNN", "projection"], [False, True], [1, 2], [False, True])
]


@pytest.mark.parametrize(("kind", "bidirectional", "layers", "batch_first"), FORMS)
def test_units_that_are_not_there_take_the_course_of_idle_units(kind, bidirectional, layers, batch_first):
    torch.manual_seed(0)
    projection = {"proj_size": 3} if kind == "projection" else {}
    make = getattr(nn, "LSTM" if projection else kind)
    wide = make(4, 7, layers, bidirectional=bidirectional, batch_first=batch_first, **projection).double()
    kept = written_by_zeros(wide)
    layer = copy.deepcopy(wide)
    scattered = Scattered(layer, kept, idle=True)
    narrow_(layer, [[k] * (1 + bidirectional) for k in kept])
    x = torch.randn((3, 5, 4) if batch_first else (5, 3, 4), dtype=torch.double)
    directions = layers * (1 + bidirectional)
    h, c = (torch.randn(directions, 3, n, dtype=torch.double) for n in (3 if projection else 7, 7))
    states = (h, c) if make is nn.LSTM else h
    one = (h[:, 0], c[:, 0]) if make is nn.LSTM else h[:, 0]

    def check(input, hx):
        flat = [torch.utils._pytree.tree_leaves(module(input, hx)) for module in (wide, scattered)]
        for old, new in zip(*flat, strict=True):
            torch.testing.assert_close(new, old)

    check(x, states)
    check(x, None)
    check(x[0] if batch_first else x[:, 0], one)
    check(pack_padded_sequence(x, torch.tensor([3, 5, 2]), batch_first, enforce_sorted=False), states)
    assert scattered.hidden_size == 7 and scattered.batch_first == batch_first


def test_a_cell_whose_state_does_not_start_at_zero_is_exact():
    class Counter(cr.MGU):
        states = (StateSpec("h", init=0.5),)

    torch.manual_seed(1)
    wide = cr.Recurrent(Counter, 4, 6).double()
    kept = written_by_zeros(wide)
    layer = copy.deepcopy(wide)
    scattered = Scattered(layer, kept, idle=True)
    narrow_(layer, [[k] for k in kept])
    x = torch.randn(5, 3, 4, dtype=torch.double)
    torch.testing.assert_close(scattered(x)[0], wide(x)[0])
    assert sum(p.numel() for p in scattered.parameters()) < sum(p.numel() for p in wide.parameters())


def test_the_code_around_may_ask_what_it_asked_the_layer():
    layer = nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True)
    scattered = Scattered(layer, [{"h": torch.arange(3)}] * 2)
    narrow_(layer, [[{"h": torch.arange(3)}] * 2] * 2)
    scattered.flatten_parameters()
    assert (scattered.hidden_size, scattered.num_layers, scattered.bidirectional) == (6, 2, True)
    with pytest.raises(AttributeError):
        _ = scattered.no_such_thing
    assert copy.deepcopy(scattered).hidden_size == 6
