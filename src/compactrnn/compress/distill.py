"""Knowledge distillation: a model learns from what a trained model makes of the same input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._errors import invalid
from .hidden_states import HiddenStates, LayerWeights, within

Targets = Literal["probabilities", "classes", "transcript"]


def distillation_loss(outputs: Tensor, teacher_outputs: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean `t^2 KL(softmax(teacher / t) || softmax(model / t))`, t the temperature: (..., classes) -> scalar, in nats.

    >>> import torch
    >>> float(distillation_loss(torch.zeros(3, 4), torch.ones(3, 4)))
    0.0

    Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015.
    """
    model, teacher = (functional.log_softmax(o.flatten(0, -2) / temperature, -1) for o in (outputs, teacher_outputs))
    return temperature**2 * functional.kl_div(model, teacher, reduction="batchmean", log_target=True)


class Distill(nn.Module):
    """Trains a student on what a teacher makes of the same input.

        loss = (1 - w) task_loss + w loss_of_teacher + sum_k v_k mean (M_k h_k - h'_k)^2

    `distill(*inputs)` calls both models and returns their outputs; `loss` adds up. The loss with respect to the teacher
    is, by `targets`,

    - "probabilities": the divergence from its softmax, `distillation_loss`, at a temperature;
    - "classes": the cross-entropy of its most likely class;
    - "transcript": the CTC loss of its best path, which is distillation of the sequence as a whole: the student need
      not find the symbols at the teacher's steps. Outputs are (batch, steps, symbols), symbol 0 the blank.

    `hidden` draws the outputs h of recurrent layers to those of the teacher's h', each with its weight v. States of
    different widths have a linear map M between them, which is trained with the student: give `distill.parameters()` to
    the optimizer, and keep `distill.state_dict()` with a checkpoint. The maps are all the parameters that it has.

    The teacher is set to evaluation mode, and has no gradient; the layers have hooks only while both models run.

    Args:
        student: any module.
        teacher: a trained one, called with the same inputs.
        weight: w, in [0, 1]; with 0 the outputs of the teacher are not used.
        temperature: of "probabilities".
        targets: what is made of the teacher's outputs.
        hidden: a weight for each recurrent layer by its name (`nn.LSTM`, `nn.GRU`, `nn.RNN` or a layer of compactrnn);
            `{("lstm", "encoder"): 0.1}` for one that has another name in the teacher. Of several layers in a module the
            last one counts.

    Raises:
        ValueError: for arguments out of range, and names that are none of a recurrent layer.

    Sources: Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, 2015; Kim and Rush, Sequence-level
    knowledge distillation, 2016; Romero et al., FitNets: hints for thin deep nets, 2015, for hidden states.

    >>> import compactrnn as cr
    >>> class Tagger(nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.lstm, self.head = nn.LSTM(4, size, batch_first=True), nn.Linear(size, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0])
    >>> student, teacher = Tagger(8), Tagger(32)
    >>> distill = cr.Distill(student, teacher, weight=0.5, temperature=2.0, hidden={"lstm": 0.1})
    >>> optimizer = torch.optim.Adam([*student.parameters(), *distill.parameters()])
    >>> x, y = torch.randn(2, 7, 4), torch.randint(3, (2, 7))
    >>> outputs, of_teacher = distill(x)
    >>> loss = distill.loss(functional.cross_entropy(outputs.mT, y), outputs, of_teacher)
    >>> optimizer.zero_grad(); loss.backward(); optimizer.step()
    >>> [tuple(p.shape) for p in distill.parameters()]
    [(32, 8), (32,)]
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        weight: float = 0.5,
        temperature: float = 1.0,
        targets: Targets = "probabilities",
        hidden: LayerWeights | None = None,
    ):
        super().__init__()
        if student is teacher:
            raise invalid("teacher", got="the student", expected="another model", hint="copy.deepcopy(student)")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise invalid("weight", got=repr(weight), expected="a number from 0 to 1")
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise invalid("temperature", got=repr(temperature), expected="a positive number")
        check_targets(targets, temperature)
        self.weight, self.temperature, self.targets = weight, temperature, targets
        self.models = student, teacher  # in a tuple: their parameters are not those of this module
        self.hidden = HiddenStates(student, teacher, hidden or {})
        teacher.eval()

    def forward(self, *inputs: Any, **named: Any) -> tuple[Any, Any]:
        """What student and teacher make of the same arguments."""
        student, teacher = self.models
        with self.watch():
            outputs = student(*inputs, **named)
            with torch.no_grad():
                return outputs, teacher(*inputs, **named)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """In place of `distill(*inputs)`: call both models within this block, such as each with states of its own."""
        self.models[1].eval()
        with self.hidden.watch():
            yield

    def loss(
        self, task_loss: Tensor | float, outputs: Tensor, teacher_outputs: Tensor, lengths: Tensor | None = None
    ) -> Any:
        """The loss to minimize, of logits of both models for the same input.

        Args:
            task_loss: the loss without a teacher.
            outputs: the student's logits, (..., classes).
            teacher_outputs: the teacher's, of the same shape.
            lengths: int64 (batch,): steps of each sequence, where logits are (batch, steps, ..., classes) or hidden
                states are not packed; padding after them does not count.

        Raises:
            ValueError: outputs of other shapes, and hidden states that were not seen or have other sizes.
        """
        loss = task_loss
        if self.weight:
            loss = (1 - self.weight) * loss + self.weight * self._of_teacher(outputs, teacher_outputs, lengths)
        return loss + self.hidden.loss(lengths) if self.hidden.pairs else loss

    def _of_teacher(self, outputs: Tensor, teacher_outputs: Tensor, lengths: Tensor | None) -> Tensor:
        shapes = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in (outputs, teacher_outputs)]
        if shapes[0] != shapes[1] or isinstance(shapes[0], str) or len(shapes[0]) < 2:
            got = f"{shapes[0]} of the student and {shapes[1]} of the teacher"
            raise invalid("outputs", got=got, expected="logits (..., classes) of one shape")
        teacher_outputs = teacher_outputs.detach()
        if self.targets == "transcript":
            from ..models.ctc import best_path, ctc_loss  # here, for recipes' models take long to import

            if outputs.dim() != 3:
                raise invalid("outputs", got=shapes[0], expected='(batch, steps, symbols) for targets="transcript"')
            return ctc_loss(outputs.log_softmax(-1), best_path(teacher_outputs, lengths), lengths)
        if lengths is not None and outputs.dim() > 2:
            outputs, teacher_outputs = within(outputs, lengths), within(teacher_outputs, lengths)
        if self.targets == "classes":
            return functional.cross_entropy(outputs.flatten(0, -2), teacher_outputs.flatten(0, -2).argmax(-1))
        return distillation_loss(outputs, teacher_outputs, self.temperature)


def check_targets(targets: str, temperature: float) -> None:
    """Raise `ValueError` for unknown targets, or a temperature that they do not have."""
    if targets not in get_args(Targets):
        raise invalid("targets", got=repr(targets), expected=f"one of {', '.join(get_args(Targets))}")
    if targets != "probabilities" and temperature != 1:
        raise invalid("temperature", got=temperature, expected=f"none with targets = {targets!r}")
