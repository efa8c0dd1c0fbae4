"""The contract of compressors that remove units, as pytest tests."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class CompressorContract:
    """Give `make_pruner(model, example)` in a subclass, and `model()`, `example()` if the default model will not do.

    `make_pruner` returns a pruner that removes units within `steps` training steps (Adam, `learning_rate`). Checked:
    the caller's model stays what it was, `shrink` gives the same outputs with fewer parameters, the report tells the
    truth, the optimiser goes on, and the state can be saved and restored.

    >>> class TestMine(CompressorContract):
    ...     def make_pruner(self, model, example):
    ...         import compactrnn as cr
    ...         return cr.GroupLasso(model, example, keep=0.5, steps=self.steps)
    >>> TestMine().test_shrinking_is_exact()
    """

    steps = 5
    learning_rate = 1e-3

    def make_pruner(self, model: nn.Module, example: Tensor) -> Any:
        """The compressor under test."""
        raise AssertionError("a subclass gives make_pruner(model, example)")

    def model(self) -> nn.Module:
        """A small model to shrink."""

        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm, self.gru = nn.LSTM(5, 12, 2, batch_first=True), nn.GRU(12, 8, batch_first=True)
                self.head = nn.Linear(8, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.gru(self.lstm(x)[0])[0])

        torch.manual_seed(0)
        return Tagger()

    def example(self) -> Tensor:
        """An input of it."""
        return torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))

    def trained(self) -> tuple[nn.Module, Tensor, Any, torch.optim.Optimizer]:
        """Model, input, pruner and optimiser after `steps` steps."""
        model, x = self.model(), self.example()
        pruner = self.make_pruner(model, x)
        optimizer = torch.optim.Adam(model.parameters(), self.learning_rate)
        for _ in range(self.steps):
            loss = model(x).square().mean() + pruner.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pruner.step(optimizer)
        return model, x, pruner, optimizer

    def test_shrinking_is_exact(self) -> None:
        """The small model gives the same outputs; the given one stays what it was."""
        model, x, pruner, _ = self.trained()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        small = pruner.shrink()
        with torch.no_grad():
            torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_the_report_tells_the_truth(self) -> None:
        """Counted parameters are those of the shrunk model."""
        model, _, pruner, _ = self.trained()
        report, small = pruner.report(), pruner.shrink()
        assert report.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, small))

    def test_training_goes_on(self) -> None:
        """The optimiser takes over the small model's parameters."""
        _, x, pruner, optimizer = self.trained()
        small = pruner.shrink(optimizer)
        before = [p.detach().clone() for p in small.parameters()]
        small(x).square().mean().backward()
        optimizer.step()
        assert all(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))

    def test_the_state_comes_back(self) -> None:
        """A pruner restored from `state_dict` on the same weights shrinks to the same model."""
        model, x, pruner, _ = self.trained()
        twin = copy.deepcopy(model)
        other = self.make_pruner(twin, x)
        other.load_state_dict(pruner.state_dict())
        a, b = pruner.shrink().state_dict(), other.shrink().state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
