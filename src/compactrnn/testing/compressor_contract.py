"""The contract of compressors that remove units, as pytest tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..compress import load, save


@dataclass(frozen=True)
class CompressorCase:
    """A compressor under test: `make(model, example)` gives a pruner that removes units of `CompressorContract.model`.

    It does so within `steps` training steps of Adam at `learning_rate`.
    """

    make: Callable[[nn.Module, Tensor], Any]
    steps: int = 5
    learning_rate: float = 1e-3


class CompressorContract:
    """The tests of one compressor, for pytest: subclass it, and give `case` by a fixture or a parameter.

    ::

        @pytest.mark.parametrize("case", [CompressorCase(lambda m, x: cr.GroupLasso(m, x, keep=0.5, steps=5))])
        class TestMine(CompressorContract):
            pass

    Override `model()` and `example()` if the default model will not do. Checked: the caller's model stays what it was,
    `shrink` gives the same outputs with fewer parameters, the report gives true sizes, a plan repeats the cut bit by
    bit and refuses other weights, the small model can be saved and loaded, the optimizer goes on with it, and the
    state can be saved and restored.
    """

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

    def trained(self, case: CompressorCase) -> tuple[nn.Module, Tensor, Any, torch.optim.Optimizer]:
        """Model, in eval mode, input, pruner and optimizer after training."""
        model, x = self.model(), self.example()
        pruner = case.make(model, x)
        optimizer = torch.optim.Adam(model.parameters(), case.learning_rate)
        for _ in range(case.steps):
            loss = model(x).square().mean() + pruner.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pruner.step(optimizer)
        return model.eval(), x, pruner, optimizer

    def twin(self, case: CompressorCase, model: nn.Module) -> nn.Module:
        """A model as another process builds it, with the weights of `model`."""
        fresh = self.model()
        case.make(fresh, self.example())
        fresh.load_state_dict(model.state_dict())
        return fresh.eval()

    def test_shrinking_is_exact(self, case: CompressorCase) -> None:
        """The small model gives the same outputs; the given one stays what it was."""
        model, x, pruner, _ = self.trained(case)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        small = pruner.shrink()
        with torch.no_grad():
            torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)
        assert _size(small) < _size(self.model())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_the_report_gives_true_sizes(self, case: CompressorCase) -> None:
        """Counted parameters are those of the model before the pruner was made and of the shrunk model."""
        _, _, pruner, _ = self.trained(case)
        report, small = pruner.report(), pruner.shrink()
        assert report.parameters == (_size(self.model()), _size(small))

    def test_a_plan_repeats_the_cut(self, case: CompressorCase) -> None:
        """A plan that went through JSON cuts an equal model to the bits of `shrink`, which it leaves as it was."""
        model, _, pruner, _ = self.trained(case)
        small, twin = pruner.shrink(), self.twin(case, model)
        plan = pruner.plan()
        again = type(plan).from_json(plan.to_json())
        assert again == plan and str(again) == str(plan) and plan.parameters == pruner.report().parameters
        _assert_equal(again.apply(twin), small)
        _assert_equal(twin, model)

    def test_a_plan_is_refused_by_other_weights(self, case: CompressorCase) -> None:
        """What is zero in one model need not be in another: the first parameter that differs is named."""
        model, _, pruner, _ = self.trained(case)
        plan, twin = pruner.plan(), self.twin(case, model)
        name = [name for name, parameter in twin.named_parameters() if parameter.dim() == 1][-1]  # of the head
        with torch.no_grad():
            twin.get_parameter(name).add_(1)
        try:
            plan.apply(twin)
        except ValueError as error:
            assert name in str(error)
        else:
            raise AssertionError("a plan was applied to other weights")

    def test_the_small_model_is_saved_and_loaded(self, case: CompressorCase) -> None:
        """`save` and `load` into the code of the large model give the small one back."""
        _, _, pruner, _ = self.trained(case)
        small = pruner.shrink()
        with tempfile.TemporaryDirectory() as folder:
            save(small, folder)
            _assert_equal(load(folder, self.model()), small)

    def test_training_goes_on(self, case: CompressorCase) -> None:
        """The optimizer takes over the small model's parameters."""
        _, x, pruner, optimizer = self.trained(case)
        small = pruner.shrink(optimizer)
        before = [p.detach().clone() for p in small.parameters()]
        small(x).square().mean().backward()
        optimizer.step()
        assert all(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))

    def test_the_state_comes_back(self, case: CompressorCase) -> None:
        """A pruner restored from `state_dict` on the same weights shrinks to the same model."""
        model, _, pruner, _ = self.trained(case)
        other = case.make(self.twin(case, model), self.example())
        other.load_state_dict(pruner.state_dict())
        _assert_equal(pruner.shrink(), other.shrink())


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _assert_equal(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
