"""One recurrent cell as attention, shared by all blocks of a residual network, after DIANet (Huang et al., 2020).

    COMPACTRNN_DATA=... python examples/attention_over_depth.py [--images 20000] [--epochs 2] [--seeds 0 1 2]

Trains small residual networks on MNIST digits, without attention and with it, and prints the errors on the test part.
The cell reads the mean of each channel of what a block adds, and says how much of that channel is added: its time is
the depth of the network.
"""

import argparse
import statistics

import torch
from torch import Tensor, nn

import compactrnn as cr
from compactrnn.data import load_mnist


class Block(nn.Module):
    """What a block adds: two convolutions with batch norms."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResidualNetwork(nn.Module):
    """Images, (batch, 1, 28, 28), to logits: `x = relu(x + a * h)` in each block, h from the cell or 1."""

    def __init__(self, channels: int, blocks: int, attention: bool):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 5, stride=2, padding=2), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))
        self.attention = cr.DIALSTM(channels, channels) if attention else None
        self.head = nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        x, states = self.stem(images), None
        for block in self.blocks:
            added = block(x)
            if self.attention is not None:
                weights, states = self.attention(added.mean((2, 3)), states)
                added = added * weights[:, :, None, None]
            x = torch.relu(x + added)
        return self.head(x.mean((2, 3)))


def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of wrong answers, in percent."""
    model.eval()
    with torch.inference_mode():
        wrong = sum(
            int((model(x).argmax(1) != y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
    return 100 * wrong / len(labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """AdamW, one cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    updates = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="how many training images are used")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    data = load_mnist()
    parts = [
        (torch.tensor(images).view(-1, 1, 28, 28) / 255, torch.tensor(labels))
        for images, labels in (data.train, data.test)
    ]
    (images, labels), test = (parts[0][0][: given.images], parts[0][1][: given.images]), parts[1]
    for attention in (False, True):
        errors = []
        for seed in given.seeds:
            torch.manual_seed(seed)
            model = ResidualNetwork(given.channels, given.blocks, attention)
            train(model, images, labels, given.epochs)
            errors.append(error(model, *test))
        numbers = sum(p.numel() for p in model.parameters())
        name = "with DIALSTM over depth" if attention else "without attention"
        shown = ", ".join(f"{e:.2f}" for e in errors)
        print(f"{name}: {numbers:,} parameters, {statistics.median(errors):.2f} % wrong (seeds: {shown})", flush=True)


if __name__ == "__main__":
    main()
