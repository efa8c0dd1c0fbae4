"""Layers with computed weights, such as gates of a pruner, take sequences of several lengths."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import compactrnn as cr

KINDS = ["LSTM", "GRU", "RNN"]


class Tagger(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.rnn, self.head = layer(5, 8, 2, batch_first=True, bidirectional=True), nn.Linear(16, 3)

    def forward(self, x, lengths=None):
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y = self.rnn(x)[0]
        return self.head(y if lengths is None else y.data)


def batch():
    return torch.randn(4, 7, 5), torch.tensor([3, 7, 1, 6])


@pytest.mark.parametrize("kind", KINDS)
def test_weight_norm_has_torchs_outputs_and_gradients(kind):
    torch.manual_seed(0)
    own = Tagger(getattr(cr, kind))
    for name in ("weight_ih_l0", "weight_hh_l1_reverse"):
        weight_norm(own.rnn, name)
    torchs = Tagger(getattr(nn, kind))
    for name in ("weight_ih_l0", "weight_hh_l1_reverse"):
        weight_norm(torchs.rnn, name)
    torchs.load_state_dict(own.state_dict())
    given, found = batch(), []
    for model in (own, torchs):
        for _ in range(2):  # the second time with other weights
            y = model(*given)
            model.zero_grad()
            y.square().sum().backward()
            torch.optim.SGD(model.parameters(), 0.01).step()
        found.append([y.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    y = own(*given)
    for name in ("weight_ih_l0", "weight_hh_l1_reverse"):
        remove_parametrizations(own.rnn, name)
    torch.testing.assert_close(own(*given), y)


@pytest.mark.parametrize("kind", KINDS)
def test_neuron_selection_trains_and_shrinks_on_them(kind):
    torch.manual_seed(0)
    model, (x, lengths) = Tagger(getattr(cr, kind)), batch()
    pruner = cr.NeuronSelection(model, x, keep=0.5, steps=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        model(x, lengths).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink().eval()
    assert sum(cell.hidden_size for cell, _ in cr.layers.cells_of(small.rnn)) == 8
    with torch.no_grad():
        torch.testing.assert_close(small(x, lengths), copy.deepcopy(model).eval()(x, lengths), rtol=1e-4, atol=1e-5)
