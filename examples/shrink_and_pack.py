"""Take a trained model, make it smaller, run it without torch: the three steps in one page.

python examples/shrink_and_pack.py

The task: say at every step which of two frequencies a noisy signal has.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import compactrnn as cr


class Detector(nn.Module):
    """Anybody's model: a plain torch GRU with a head."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 64, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0])


def batch(generator, size=32, steps=60):
    """Signals (size, steps, 1) and their frequency class at each step (size, steps)."""
    label = torch.randint(0, 2, (size, 1), generator=generator)
    phase = 6.3 * torch.rand(size, 1, generator=generator)
    time = torch.arange(steps) * torch.where(label == 1, 0.5, 0.35)
    signal = torch.sin(time + phase) + 0.3 * torch.randn(size, steps, generator=generator)
    return signal.unsqueeze(-1), label.expand(size, steps)


def train(model, optimizer, steps, generator, pruner=None):
    """Ordinary training; a pruner adds its penalty and one call."""
    for _ in range(steps):
        x, y = batch(generator)
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        if pruner is not None:
            loss = loss + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)


def accuracy(run, seed=1):
    """Share of right answers over the second half of fresh signals."""
    x, y = batch(torch.Generator().manual_seed(seed), size=100)
    right = [(run(a)[30:].argmax(-1) == b[30:].numpy()).mean() for a, b in zip(x, y, strict=True)]
    return sum(right) / len(right)


def by_torch(model):
    """One sequence through torch."""
    return lambda x: model(x[None])[0].detach().numpy()


def main():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Detector()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    train(model, optimizer, 150, generator)
    dense = accuracy(by_torch(model))

    pruner = cr.GroupLasso(model, batch(generator)[0], keep=0.25, steps=100)
    train(model, optimizer, 110, generator, pruner)
    print(pruner.report())
    small = pruner.shrink(optimizer)
    train(small, optimizer, 100, generator)

    path = Path(tempfile.mkdtemp()) / "detector.crnn"
    x, _ = batch(generator)
    print(cr.pack(small, path, x, weights="int8", calibration=[x]))
    engine = cr.Engine(path)
    compact = accuracy(lambda x: engine.run(x.numpy()))
    print(f"accuracy: torch, 64 units {dense:.3f}; engine, {small.gru.hidden_size} units, int8 {compact:.3f}")

    stream = engine.stream()
    for sample in x[0].numpy()[:3]:
        print("one step:", stream.step(sample))
    assert compact > dense - 0.02


if __name__ == "__main__":
    main()
