"""Modules can be copied whatever they contain."""

import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.graph.copy import copy_module


@dataclass
class Kept:
    features: torch.Tensor


class Policy(nn.Module):
    """Keeps its last output."""

    def __init__(self, keep):
        super().__init__()
        self.rnn, self.mu, self.keep = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2), keep

    def forward(self, x):
        self.kept = self.keep(self.rnn(x)[0])
        return self.mu(self.rnn(x)[0])


@pytest.mark.parametrize("keep", [lambda h: h, lambda h: [{"h": h}], Kept], ids=["tensor", "containers", "object"])
def test_a_module_that_keeps_activations_is_copied(keep):
    model, x = Policy(keep), torch.randn(2, 5, 3)
    model(x).sum().backward()
    twin = copy_module(model)
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert twin.mu.weight is not model.mu.weight and twin.mu.weight.requires_grad


def test_weight_norm_after_a_step_is_copied():
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 4)), nn.RNN(4, 2))
    x = torch.randn(5, 3)
    model(x)[0].sum().backward()
    assert torch.equal(copy_module(model)(x)[0], model(x)[0])


def test_what_python_cannot_copy_is_shared():
    model = nn.Linear(3, 2)
    model.lock = threading.Lock()
    model.last = model(torch.randn(1, 3))
    twin = copy_module(model)
    assert twin.lock is model.lock and twin.weight is not model.weight and twin.last is not model.last


def test_a_module_that_cannot_be_copied_is_named():
    class Single(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("there is only one")

    with pytest.raises(cr.UnsupportedModelError, match=r"Single.*only one"):
        copy_module(Single())
