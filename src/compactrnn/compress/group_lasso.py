"""Group lasso over intrinsic sparse structures: learn which hidden units a recurrent network can do without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .._errors import invalid
from .gradual_pruning import GradualUnitPruning
from .proximal_group_lasso import ProximalGroupLasso
from .pruner import Pruner
from .wrappers import inner_names


class GroupLasso(Pruner):
    """Drives whole hidden units to zero while the model trains, so that they can be cut out exactly.

    The group of unit k of a layer is everything attached to it: the rows of all gates that write it, the column of the
    hidden matrix and the columns of every other weight that read it; biases are outside the group but go with the
    unit. With `norm_k` the Euclidean norm of the group:

    - `strength=s` (the paper's update; `ProximalGroupLasso`): `penalty()` is `s * sum_k norm_k`, added to the loss;
      `step` sets every entry of a group below `threshold` to zero. A strength belongs to a loss reduction: the paper's
      2.45e-3 is for a loss summed over 35 time steps; with a mean over tokens use `2.45e-3 / 35`, or say
      `loss_steps=35`.
    - `keep=f, steps=n` (a size schedule; `GradualUnitPruning`): the units of each layer are ranked by the norm of their
      outgoing weights; the share `f + (1 - f) (1 - t/n)^3` of them is exempt at step t, and the outgoing weights of the
      others are multiplied by `decay` each step. A unit may rank back until step n; from then on the rest stays zero.

    A unit whose readers cannot all be named (its sum with something else is read, or it is an output of the model), or
    are frozen, is faded by its incoming weights and biases instead, until it is written as exactly zero.

    Units that go only together are ranked as one: those whose weights are one parameter, and those of which one starts
    from the state of the other, as a decoder's from an encoder's. What a method that `forward` does not call, a hook,
    or an attribute that `forward` sets may show of a layer stays as it was: the layer keeps its width outside.

    Frozen parameters (`requires_grad=False`) are never changed or cut: a layer with a frozen parameter keeps all of its
    units, and the layer before a frozen one keeps its width outside. `report()` says so. Flags are read at each call,
    so that layers may be frozen and unfrozen during the training.

    The model may be wrapped in `torch.compile`, `DataParallel` or `DistributedDataParallel`; `shrink` then returns the
    smaller inner module. A deep copy of a module that holds its pruner holds a pruner of the copy.

    Args:
        model: any module with nn.LSTM, nn.GRU, nn.RNN, `cr.LSTM`, ... `cr.Recurrent` inside, or with torch's cells of
            these that Python code repeats; its weights are changed by `step`. A weight whose structure cannot lose
            single rows and columns (a Kronecker product) gets masks around it, and becomes dense when it is cut.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword arguments;
            initial states and lengths too, where it takes them.
        keep: fraction of the units of each layer to keep, in (0, 1]; needs `steps`. Or a fraction for each of several
            modules by name, `{"encoder": 0.25, "decoder.rnn[1]": 0.5}`: the most specific name counts, `""` is the
            default, and a layer without an entry keeps all of its units.
        steps: length of the size schedule in optimizer steps.
        strength: weight of the penalty, >= 0; excludes `keep`.
        exclude: names of modules whose recurrent layers keep all of their units. They are trained, and may lose input
            columns with the units of the layer before.
        embeddings: whether columns of embedding tables (`nn.Embedding`) are units, too. Those of a table that is also
            the weight of an output layer always are: they go with the units that this reads.
        loss_steps: number of time steps that the loss, to which `strength` belongs, is summed over.
        threshold: entries of groups below it become zero after each step (with `strength`).
        decay: factor per step for what is being pruned (with `keep`).
        minimum: units that every layer keeps at least.

    Raises:
        ValueError: for arguments out of range, and names that the model does not have.
        UnsupportedModelError: when the model cannot be followed or cut, which is tried on a copy.

    Source: W. Wen et al., Learning Intrinsic Sparse Structures within Long Short-Term Memory, ICLR 2018. The size
    schedule is cubic as in M. Zhu and S. Gupta, To prune, or not to prune, 2017.

    >>> import torch
    >>> from torch import nn
    >>> import compactrnn as cr
    >>> class Tagger(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0])
    >>> model, x = Tagger(), torch.randn(2, 5, 4)
    >>> pruner = cr.GroupLasso(model, x, keep=0.25, steps=20)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for _ in range(20):
    ...     loss = model(x).square().mean() + pruner.penalty()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); pruner.step(optimizer)
    >>> pruner.shrink().lstm.hidden_size
    4
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        keep: float | Mapping[str, float] | None = None,
        steps: int | None = None,
        strength: float | None = None,
        exclude: Iterable[str] = (),
        embeddings: bool = False,
        loss_steps: int = 1,
        threshold: float = 1e-4,
        decay: float = 0.9,
        minimum: int = 1,
    ):
        if (keep is None) == (strength is None):
            raise invalid(
                "GroupLasso", got=f"keep={keep}, strength={strength}", expected="one of keep (with steps) and strength"
            )
        if keep is not None:
            if steps is None:
                raise invalid("keep, steps", got=f"{keep}, None", expected="keep in (0, 1] and steps, a positive int")
            method = GradualUnitPruning(inner_names(model, keep), steps, decay=decay, minimum=minimum)
        else:
            assert strength is not None
            if steps is not None:
                raise invalid("strength, steps", got=f"{strength}, {steps}", expected="strength >= 0, and no steps")
            method = ProximalGroupLasso(strength, loss_steps=loss_steps, threshold=threshold)
        super().__init__(model, example_inputs, method, exclude=exclude, embeddings=embeddings)
