"""What tasks whose answer is a class share."""

from __future__ import annotations

from torch import Tensor, nn

from .sequence import AbstractSequenceTask


class AbstractClassificationTask(AbstractSequenceTask):
    """The outputs are scores of classes; the metric is the share of wrong answers in percent."""

    metric = "error"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, in nats."""
        return nn.functional.cross_entropy(outputs, targets)

    def penalty(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """100 for a wrong answer, 0 for a right one."""
        return 100.0 * (outputs.argmax(1) != targets)

    def also(self, metric: float) -> dict[str, float]:
        """The share of right answers in percent."""
        return {"accuracy": 100.0 - metric}
