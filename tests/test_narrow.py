import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from compactrnn import cells
from compactrnn.layers import cells_of, narrow_

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

SPEC = {"input_weight": cr.LowRank(rank=3), "hidden_weight": cr.LowRank(rank=3)}
LAYERS = {
    "nn.LSTM": nn.LSTM,
    "nn.GRU": nn.GRU,
    "nn.RNN": nn.RNN,
    "projection": partial(nn.LSTM, proj_size=5),
    "low rank": partial(cr.GRU, **SPEC),
    "any cell": partial(cr.Recurrent, cr.MGU),
    "any cell, projection": partial(cr.Recurrent, cells.LSTM, proj_size=5),
}


@torch.no_grad()
def kill(layer, keep):
    """Zero all columns that read units which are not in `keep[layer][unit set]`."""
    rows = cells_of(layer)
    for number, row in enumerate(rows):
        start = 0
        for cell in row:
            for units in cell.active_units():
                dead = set(range(cell.unit_count(units))) - set(keep[number][units.name].tolist())
                zero = torch.ones(cell.unit_count(units))
                zero[sorted(dead)] = 0
                for name in units.read_by:
                    getattr(cell, name).scale_(inp=zero)
                if units.output and number + 1 < len(rows):
                    for reader in rows[number + 1]:
                        mask = torch.ones(reader.input_size)
                        mask[start : start + len(zero)] = zero
                        reader.input.scale_(inp=mask)
            start += cell.output_size


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("sizes", [(5, 3), (4, 4)])
def test_narrowing_is_exact(kind, bidirectional, sizes):
    torch.manual_seed(0)
    layer = LAYERS[kind](4, 7, num_layers=2, bidirectional=bidirectional, batch_first=True).double().eval()
    keep = [{u.name: torch.randperm(n)[: min(size, n - 1)] for u, n in _units(layer)} for size in sizes]
    kill(layer, keep)
    x = torch.randn(3, 6, 4).double()
    wanted, states = layer(x)
    spare = copy.deepcopy(layer)
    directions = 2 if bidirectional else 1
    small = narrow_(spare, [[row] * directions for row in keep])
    assert not small.training and small.batch_first
    output, small_states = small(x)
    (name,) = [u.name for u in cells_of(small)[1][0].output_units()]
    columns = torch.cat([keep[1][name] + d * layer_width(layer) for d in range(directions)])
    assert_close(output, wanted[..., columns])
    uniform = sizes[0] == sizes[1] and kind != "projection"  # there the projection is no smaller now: not torch's
    assert isinstance(small.hidden_size, int) == uniform
    for spec, old, new in zip(cells_of(small)[0][0].states, _kinds(states), _kinds(small_states), strict=True):
        assert isinstance(new, torch.Tensor) == uniform
        for i in range(2 * directions):
            assert_close(new[i], old[i][..., keep[i // directions][spec.units]])
    assert_close(small(x, small_states)[0], layer(x, states)[0][..., columns])
    again = copy.deepcopy(small)
    again.load_state_dict(small.state_dict(), strict=True)
    assert_close(again(x)[0], output)
    assert small.to(torch.float32)(x.float())[0].dtype == torch.float32


def _units(layer):
    cell = cells_of(layer)[0][0]
    return [(u, cell.unit_count(u)) for u in cell.active_units()]


def layer_width(layer):
    return cells_of(layer)[-1][0].output_size


def _kinds(states):
    """The states as a list, from h or (h, c), each a tensor or a tuple of tensors."""
    if isinstance(states, torch.Tensor):
        return [states]
    return list(states) if isinstance(states[0], tuple) or states[0].dim() == 3 else [states]


@pytest.mark.parametrize("kind", LAYERS)
def test_input_columns_are_cut(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind](5, 7, num_layers=2)
    inputs = torch.tensor([4, 0, 2])
    x = torch.zeros(6, 3, 5)
    x[..., inputs] = torch.randn(6, 3, 3)
    wanted = layer(x)[0]
    small = narrow_(layer, [[{}], [{}]], inputs)
    assert small.input_size == 3
    assert_close(small(x[..., inputs])[0], wanted)


def test_names_order_and_trainability_are_kept():
    layer = nn.LSTM(4, 6, 2, bidirectional=True)
    layer.weight_hh_l1.requires_grad_(False)
    names = [n for n, _ in layer.named_parameters()]
    keep = torch.tensor([0, 2, 3])
    small = narrow_(layer, [[{"h": keep}] * 2, [{}, {}]])
    assert small is layer and small.hidden_size == [3, 6]
    assert [n for n, _ in small.named_parameters()] == names
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["weight_hh_l1"]
    assert small.weight_ih_l1.shape == (24, 6) and small.weight_ih_l0.shape == (12, 4)
    small(torch.randn(3, 2, 4))[0].sum().backward()


def test_a_low_rank_weight_that_no_longer_saves_becomes_a_parameter():
    layer = cr.GRU(4, 6, hidden_weight=cr.LowRank(rank=3))
    narrow_(layer, [[{"h": torch.tensor([1, 5])}]])
    assert isinstance(layer.weight_hh_l0, nn.Parameter)
    layer(torch.randn(3, 2, 4))
    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in nn.GRU(4, 2).named_parameters()]


def test_a_list_of_sizes_stays_a_list():
    layer = narrow_(cr.GRU(4, [6, 6]), [[{"h": torch.arange(3)}]] * 2)
    assert layer.hidden_size == [3, 3] and isinstance(layer(torch.randn(3, 2, 4))[1], tuple)


def test_directions_must_keep_the_same_number():
    layer = nn.GRU(4, 6, bidirectional=True)
    with pytest.raises(ValueError, match="expected the same size in both directions"):
        narrow_(layer, [[{"h": torch.arange(3)}, {"h": torch.arange(2)}]])
