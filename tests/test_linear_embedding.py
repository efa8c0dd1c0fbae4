"""The layers Linear and Embedding on weights: torch's, with their dense matrix."""

import pytest
import torch
from torch import nn

import compactrnn as cr


@pytest.mark.parametrize("weight", [cr.Dense(), cr.LowRank(rank=3), cr.Kronecker(3, 4), cr.ToeplitzLike(2)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_torchs_with_its_dense_matrix(weight, bias):
    torch.manual_seed(0)
    layer, x = cr.Linear(8, 6, bias, dtype=torch.double, weight=weight), torch.randn(2, 5, 8, dtype=torch.double)
    plain = nn.Linear(8, 6, bias, dtype=torch.double)
    with torch.no_grad():
        plain.weight.copy_(layer.weight.dense())
        if bias:
            plain.bias.copy_(layer.bias)
    torch.testing.assert_close(layer(x), plain(x))
    assert (layer.in_features, layer.out_features, layer.bias is not None) == (8, 6, bias)
    assert torch.autograd.gradcheck(layer, torch.randn(2, 8, dtype=torch.double, requires_grad=True))
    wide = cr.Linear(64, 48, weight=cr.LowRank(rank=16))
    assert 0.5 < float(wide.weight.dense().detach().std() * 192**0.5) < 2


@pytest.mark.parametrize("weight", [cr.Dense(), cr.LowRank(rank=3)])
def test_an_embedding_gives_the_rows_of_its_dense_table(weight):
    torch.manual_seed(0)
    layer, tokens = cr.Embedding(20, 8, padding_idx=-1, weight=weight), torch.randint(20, (3, 5))
    torch.testing.assert_close(layer(tokens), layer.weight.dense()[tokens])
    assert layer.padding_idx == 19 and not layer(torch.tensor(19)).any()
    layer(torch.tensor([19, 2])).sum().backward()
    (rows, *_) = [p.grad for p in layer.parameters()]
    assert not rows[19].any() and rows[2].any()
    assert (layer.num_embeddings, layer.embedding_dim) == (20, 8)
    assert 0.5 < float(cr.Embedding(200, 48, weight=cr.LowRank(rank=16)).weight.dense().detach().std()) < 2


def test_an_embedding_refuses_tables_without_rows():
    with pytest.raises(ValueError, match="weight: expected LowRank, Dense or Quantized"):
        cr.Embedding(20, 8, weight=cr.Kronecker(4, 4))
    with pytest.raises(AssertionError):
        cr.Embedding(20, 8, padding_idx=20)
