"""Knowledge distillation."""

from torch import Tensor
from torch.nn import functional


def distillation_loss(outputs: Tensor, teacher_outputs: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean `t^2 KL(softmax(teacher / t) || softmax(model / t))`, t the temperature: (..., classes) -> scalar, in nats.

    >>> import torch
    >>> float(distillation_loss(torch.zeros(3, 4), torch.ones(3, 4)))
    0.0

    Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015.
    """
    model, teacher = (functional.log_softmax(o.flatten(0, -2) / temperature, -1) for o in (outputs, teacher_outputs))
    return temperature**2 * functional.kl_div(model, teacher, reduction="batchmean", log_target=True)
