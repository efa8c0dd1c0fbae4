"""Every weight in every cell computes what its dense matrix would, and trains."""

import copy
import inspect
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.testing import assert_close

import compactrnn as cr
from cell_table import FIRST, name_of
from compactrnn.cells import LSTM
from compactrnn.weights import AbstractWeight, Dense, DenseWeight, Diagonal, LowRank
from test_weight_paths import SPECS

CELLS = [*FIRST.values(), partial(LSTM, proj_size=4)]
WEIGHTS = [spec for spec in SPECS if spec != Dense()]


def with_weights(make, spec):
    """The layer of a cell, all sizes even, whose weights are of `spec`."""
    takes = inspect.signature(make.func).parameters
    options = {
        k: v + v % 2 if type(v) is int and ("size" in k or k == "order") else v for k, v in make.keywords.items()
    }
    options |= {"constraint": "penalty"} if "constraint" in takes else {}  # the other one scales its weights
    options |= {name: spec for name in ("input_weight", "hidden_weight") if name in takes}
    return cr.Recurrent(make.func, 8, 8, **options).double()


def with_dense_weights(layer):
    twin = copy.deepcopy(layer)

    def replace(module):
        for name, child in module.named_children():
            if isinstance(child, AbstractWeight):
                setattr(module, name, DenseWeight.of(nn.Parameter(child.dense().detach()), child.gates))
            else:
                replace(child)

    replace(twin)
    return twin


@pytest.mark.parametrize("make", CELLS, ids=name_of)
@pytest.mark.parametrize("spec", WEIGHTS, ids=str)
def test_a_cell_with_a_weight_is_that_with_its_matrix(spec, make):
    torch.manual_seed(0)
    layer, x = with_weights(make, spec), torch.randn(6, 2, 8, dtype=torch.float64, requires_grad=True)
    with cr.time_loop("plain"):
        y = layer(x)[0]
        found = torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()], allow_unused=True)
        twin = with_dense_weights(layer)
        expected = twin(x)[0]
        (by_dense,) = torch.autograd.grad(expected.sin().sum(), [x])
    assert_close(y, expected)
    assert_close(found[0], by_dense)
    assert all(bool(g.isfinite().all()) for g in found if g is not None)


SQUARE = [Diagonal(), LowRank(rank=2) + Diagonal()]


@pytest.mark.parametrize("spec", [*WEIGHTS, *SQUARE], ids=str)
def test_gradients_are_those_of_finite_differences(spec):
    torch.manual_seed(0)
    weight = spec.build(8, 4, gates=2) if spec in SQUARE else spec.build(12, 6, gates=2)
    weight, x = weight.double(), torch.randn(2, weight.in_features, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in weight.named_parameters()]

    def product(x, *values):
        return torch.func.functional_call(weight, dict(zip(names, values, strict=True)), (x,))

    assert gradcheck(product, (x, *(p.detach().clone().requires_grad_() for p in weight.parameters())))


@pytest.mark.parametrize("spec", SQUARE, ids=str)
@pytest.mark.parametrize("make", [cr.LSTM, cr.GRU, cr.RNN])
def test_square_weights_in_fused_layers(make, spec, tmp_path):
    torch.manual_seed(0)
    layer, x = make(6, 8, hidden_weight=spec, batch_first=True), torch.randn(1, 9, 6)
    cr.pack(nn.Sequential(layer, First()), tmp_path / "model.crnn", x, weights="float32")
    y = cr.Engine(tmp_path / "model.crnn").run(x[0].numpy())
    assert_close(torch.from_numpy(y), layer(x)[0][0], rtol=0, atol=1e-5)


class First(nn.Module):
    def forward(self, outputs):
        return outputs[0]


@pytest.mark.filterwarnings("ignore:.*its dense matrix would be 49,152 x 4,096; so it runs in the plain loop")
def test_a_matrix_that_would_fill_the_memory_is_not_made():
    """A kernel of 324 entries over images, in place of 600 million."""
    conv = cr.Convolution((64, 64))
    layer = cr.LSTM(64 * 64, 3 * 64 * 64, input_weight=conv, hidden_weight=conv, batch_first=True)
    y, _ = layer(torch.randn(1, 2, 64 * 64))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
