"""Base class of classification tasks."""

from __future__ import annotations

from torch import Tensor, nn

from .sequence import AbstractSequenceTask


class AbstractClassificationTask(AbstractSequenceTask):
    """The outputs are the logits of classes; the metric is the error rate in percent."""

    metric = "error"
    distill_targets = ("probabilities", "classes")

    def criterion(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, in nats."""
        return nn.functional.cross_entropy(answers, targets)

    def error_per_target(self, answers: Tensor, targets: Tensor) -> Tensor:
        """100 for a wrong class, 0 for the right one."""
        return 100.0 * (answers.argmax(1) != targets)

    def extra_metrics(self, metric: float) -> dict[str, float]:
        """The accuracy in percent."""
        return {"accuracy": 100.0 - metric}
