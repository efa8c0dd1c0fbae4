"""Learning from a larger model's predictions."""

from torch import Tensor
from torch.nn import functional


def distillation_loss(outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """Mean `KL(teacher || model)` of the predicted distributions: (..., classes) both -> scalar, in nats.

    >>> import torch
    >>> float(distillation_loss(torch.zeros(3, 4), torch.ones(3, 4)))
    0.0

    Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015 (at temperature 1).
    """
    model, teacher = (functional.log_softmax(o.flatten(0, -2), -1) for o in (outputs, teacher_outputs))
    return functional.kl_div(model, teacher, reduction="batchmean", log_target=True)
