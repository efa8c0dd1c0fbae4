"""A cell of your own, in a file of your own: trained, made smaller, packed and run without torch.

python examples/own_cell.py

The task: some values of a signal are marked; say at every step whether the last marked one was positive.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compactrnn as cr
from compactrnn.cells import AbstractCell, StateSpec, UnitSet
from compactrnn.testing import CellContract
from compactrnn.weights import DENSE


class UGRNN(AbstractCell):
    """Update gate recurrent network: one gate keeps the state or takes the candidate.

        g = sigmoid(Wg x + bg + Ug h)
        c = tanh(Wc x + bc + Uc h)
        h' = g * h + (1 - g) * c

    Source: Collins, Sohl-Dickstein, Sussillo, "Capacity and Trainability in Recurrent Neural Networks", 2017.
    """

    states = (StateSpec("h"),)
    units = (UnitSet("h", written_by=("input", "input_bias", "hidden"), read_by=("hidden",), output=True),)

    def __init__(self, input_size, hidden_size, *, input_weight=DENSE, hidden_weight=DENSE):
        super().__init__(input_size, hidden_size)
        self.input = input_weight.build(2 * hidden_size, input_size, gates=2)  # gate, candidate
        self.input_bias = nn.Parameter(torch.empty(2 * hidden_size))
        self.hidden = hidden_weight.build(2 * hidden_size, hidden_size, gates=2)
        self.reset_parameters()

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        gate, candidate = (projected + self.hidden(h)).chunk(2, -1)
        h = torch.lerp(torch.tanh(candidate), h, torch.sigmoid(gate))
        return h, (h,)


class Latch(nn.Module):
    """The cell in a model, with recurrent matrices of low rank."""

    def __init__(self):
        super().__init__()
        self.rnn = cr.Recurrent(UGRNN, 2, 48, hidden_weight=cr.LowRank(rank=12), batch_first=True)
        self.head = nn.Linear(48, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize("make_cell", [UGRNN])
class TestUGRNN(CellContract):
    """What the cell declares is true."""


def batch(size=32, steps=40):
    """Values and their marks (size, steps, 2); whether the last marked value is positive (size, steps)."""
    value, mark = torch.randn(size, steps), torch.rand(size, steps) < 0.2
    mark[:, 0] = True
    last = torch.where(mark, torch.arange(steps), 0).cummax(1).values
    return torch.stack([value, mark.float()], -1), (value.gather(1, last) > 0).long()


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def train(model, optimizer, steps, pruner=None):
    for _ in range(steps):
        loss = loss_of(model, *batch())
        if pruner is not None:
            loss = loss + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)


def accuracy(answers, y):
    return float((torch.as_tensor(answers).argmax(-1) == y).float().mean())


def check_the_loop(model):
    """The native loop runs the cell, and gives the loss and the gradients of the loop in Python."""
    (report,) = cr.loop_report(model)
    assert report.kinds == ("native",), report.reason
    print(f"one step of {report.cell}: {report.operations} operations, {report.products} products")
    x, y = batch()
    found = []
    for kind in ("native", "plain"):
        model.zero_grad()
        with cr.time_loop(kind):
            loss = loss_of(model, x, y)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def shrink(model, optimizer, x):
    """A quarter of the units, with the outputs of the model that they were chosen in."""
    pruner = cr.GroupLasso(model, x, keep=0.25, steps=100)
    train(model, optimizer, 110, pruner)
    print(pruner.report())
    small = pruner.shrink(optimizer)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-4)
    return small


def run_natively(model, path, weights, x):
    """The packed model's answers for x: step by step the same bits as at once."""
    report = cr.pack(model, path, x, weights=weights, calibration=[x])
    print(f"{weights}: {report.bytes} bytes, the program against torch {report.parity:.1e}, stored {report.error:.1e}")
    engine = cr.Engine(path)
    one_by_one = engine.stream()
    steps = np.stack([one_by_one.step(sample) for sample in x[0].numpy()])
    assert np.array_equal(steps, engine.stream().run(x[0].numpy()))
    return np.stack([engine.run(signal) for signal in x.numpy()])


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    model = Latch()
    check_the_loop(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    train(model, optimizer, 300)
    x, y = batch(100)
    dense = accuracy(model(x), y)
    small = shrink(model, optimizer, x)
    train(small, optimizer, 100)

    folder = Path(tempfile.mkdtemp())
    exact = run_natively(small, folder / "latch.crnn", "float32", x)
    torch.testing.assert_close(torch.as_tensor(exact), small(x).detach(), rtol=1e-4, atol=1e-4)
    compact = accuracy(run_natively(small, folder / "latch8.crnn", "int8", x), y)
    print(f"accuracy: torch, 48 units {dense:.3f}; engine, {small.rnn.hidden_size} units, int8 {compact:.3f}")
    assert compact > dense - 0.02
    assert pytest.main([__file__, "-q"]) == 0


if __name__ == "__main__":
    main()
