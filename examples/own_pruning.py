"""A pruning method of your own, in a file of your own: it learns which units to keep, and the model is packed.

python examples/own_pruning.py

The task: some values of a signal are marked; say at every step whether the last marked one was positive.
"""

import math
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.compress import AbstractGate, AbstractPruningMethod, Pruner
from compactrnn.testing import CompressorCase, CompressorContract


class HardConcrete(AbstractGate):
    """A gate in [0, 1] for each unit that is exactly 0 or 1 with a probability above zero.

        s = sigmoid((log u - log(1 - u) + log a) / b),  u ~ U(0, 1)        (in eval mode: sigmoid(log a))
        g = min(1, max(0, s (z - c) + c)),  b = 2/3, c = -0.1, z = 1.1
        P(g != 0) = sigmoid(log a - b log(-c / z))

    Source: Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization", 2018.
    """

    noise: torch.Tensor

    def __init__(self, count):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.empty(count).normal_(1.0, 0.1))
        self.register_buffer("noise", torch.zeros(count))
        self.draw_()

    def draw_(self):
        """Draw `log u - log(1 - u)`."""
        self.noise.copy_(torch.rand_like(self.noise).clamp(1e-6, 1 - 1e-6).logit())

    def forward(self):
        s = torch.sigmoid((self.noise + self.log_alpha) * 1.5 if self.training else self.log_alpha)
        return (s * 1.2 - 0.1).clamp(0, 1)

    def active(self):
        """`P(g != 0)` of each unit."""
        return torch.sigmoid(self.log_alpha - 2 / 3 * math.log(0.1 / 1.1))


class NeuronGates(AbstractPruningMethod):
    """Adds `strength` times the expected fraction of units whose gate is not zero to the loss.

    One sample of the gates for each step of the optimizer. After Wen, Zhang, Bai, Xu, "Structured Pruning of Recurrent
    Neural Networks through Neuron Selection", 2020, who also gate the inputs.
    """

    advice = "train longer, or with a larger strength"

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def new_gate(self, group):
        return HardConcrete(group.count)

    def penalty(self, groups):
        return self.strength * sum(group.gate.active().sum() for group in groups) / sum(g.count for g in groups)

    def step_(self, groups, count):
        for group in groups:
            group.gate.draw_()


@pytest.mark.parametrize("case", [CompressorCase(lambda m, x: Pruner(m, x, NeuronGates(0.3)), 60, 5e-2)])
class TestNeuronGates(CompressorContract):
    """Exact, reported, repeated by plans, saved and resumed."""


class Latch(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(2, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def batch(count=32, steps=24):
    signal, marked = torch.randn(count, steps), torch.rand(count, steps) < 0.2
    marked[:, 0] = True
    last = torch.where(marked, torch.arange(steps), 0).cummax(1).values
    return torch.stack([signal, marked.float()], -1), (signal.gather(1, last) > 0).long()


def train(model, optimizer, steps, pruner=None):
    model.train()
    for _ in range(steps):
        x, y = batch()
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        (loss if pruner is None else loss + pruner.penalty()).backward()
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)


def accuracy(scores, y):
    return (torch.as_tensor(scores).argmax(-1) == y).float().mean().item()


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    model = Latch()
    x, y = batch(100)
    pruner = Pruner(model, x, NeuronGates(strength=1.0))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)  # the gates are parameters of the model by now
    train(model, optimizer, 400, pruner)
    gated = accuracy(model.eval()(x), y)

    plan = pruner.plan()
    print(plan)
    small = pruner.shrink(optimizer)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-4)
    again = cr.PruningPlan.from_json(plan.to_json()).apply(model)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))
    train(small, optimizer, 100)

    file = Path(tempfile.mkdtemp()) / "latch.crnn"
    cr.pack(small, file, x, weights="float32")
    engine = cr.Engine(file)
    packed = accuracy([engine.run(signal).tolist() for signal in x.numpy()], y)
    print(f"accuracy: 32 gated units {gated:.3f}; engine, {small.rnn.hidden_size} units {packed:.3f}")
    assert small.rnn.hidden_size < 24 and packed > gated - 0.02
    assert pytest.main([__file__, "-q", "-p", "no:cacheprovider"]) == 0


if __name__ == "__main__":
    main()
