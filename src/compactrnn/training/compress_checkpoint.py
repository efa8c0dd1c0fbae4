"""What a compression that was interrupted goes on from."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree

from .._bounds import CountFrom0
from .._checkpoint import load_tree, save_tree
from .._errors import ModelFileError, check_positive, invalid
from .._files import check_writable
from .._validate import validated
from ..compress.surgery import recorded
from .random_state import get_random_state, set_random_state

_FORMAT = "compactrnn compression 1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class _Training(_Strict):
    stage: str
    step: CountFrom0
    rates: list[float | Tensor]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    compressor: dict[str, Tensor]
    train_step: dict[Any, Any] | None


class _Saved(_Strict):
    format: str
    asked: dict[str, Any]
    model: dict[str, str]
    found: dict[str, Any]
    cuts: list[dict[str, Any]]
    training: _Training | None
    random: dict[str, Any]


class Checkpoint:
    """The file of a compression: what was found out, the plans of what was cut, and the state of the training.

    Without a path nothing is written. What the file is of, `asked` and the weights of the model, is compared with what
    this call is of.

    Raises:
        ValueError: the file is of another model, or of other arguments; says which.
        ModelFileError: it is damaged, or another kind of file.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None,
        every: int,
        train_step: Any,
        model: nn.Module,
        example_inputs: Any,
        asked: dict[str, Any],
    ):
        self.every = check_positive(every, "checkpoint_every")
        self.path = None if path is None else check_writable(path, "checkpoint")
        self.train_step = train_step if hasattr(train_step, "load_state_dict") else None
        self.found: dict[str, Any] = {}
        self.cuts: list[dict[str, Any]] = []
        self.training: dict[str, Any] | None = None
        if self.path is None:
            return
        inputs = [x for x in _pytree.tree_leaves(example_inputs) if isinstance(x, Tensor)]
        self.asked = asked | {"example_inputs": [f"{x.dtype} {tuple(x.shape)}" for x in inputs]}
        self.model = {name: f"{of.dtype} {of.shape} {of.digest}" for name, of in recorded(model).items()}
        if self.path.exists():
            self._read(self.path)

    @property
    def stage(self) -> str:
        """The stage whose training goes on; empty if none had begun."""
        return "" if self.training is None else self.training["stage"]

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` gives, unless the file has it."""
        if name not in self.found:
            self.found[name] = find()
            self.write()
        return self.found[name]

    def write(self) -> None:
        """Replace the file."""
        if self.path is None:
            return
        kept = {name: getattr(self, name) for name in ("asked", "model", "found", "cuts", "training")}
        save_tree(self.path, {"format": _FORMAT, **kept, "random": get_random_state()})

    def save(
        self, stage: str, step: int, rates: list[float], model: nn.Module, optimizer: Optimizer, compressor: Any
    ) -> None:
        """Write the state of the training after `step` steps of a stage."""
        if self.path is None:
            return
        self.training = {
            "stage": stage,
            "step": step,
            "rates": rates,
            "model": dict(model.state_dict()),
            "optimizer": _named(optimizer, model),
            "compressor": compressor.state_dict(),
            "train_step": None if self.train_step is None else dict(self.train_step.state_dict()),
        }
        try:
            self.write()
        except TypeError as error:
            hint = "keep numbers, texts and tensors in the states of the optimizer and of train_step"
            raise invalid("checkpoint", got=str(error), expected="plain values and tensors", hint=hint) from None

    def restore(self, stage: str, model: nn.Module, optimizer: Optimizer, compressor: Any) -> tuple[int, list[float]]:
        """Take over the training of `stage`: the steps that are done, and the rates that it began with.

        Raises:
            ValueError: the optimizer, or `train_step`, is not what it was.
            ModelFileError: the file does not hold the state of such a stage.
        """
        saved = self.training
        if saved is None or saved["stage"] != stage:
            return 0, [group["lr"] for group in optimizer.param_groups]
        if (kept := saved["train_step"] is not None) != (self.train_step is not None):
            got = f"one with{'out' * kept} load_state_dict"
            raise invalid("train_step", got=got, expected=f"that of {self.path}, with{'out' * (not kept)} it")
        kind, known = _kind(optimizer), saved["optimizer"].get("kind")
        if kind != known:
            raise invalid("optimizer", got=kind, expected=f"that of {self.path}, {known}", hint=_HINT)
        try:
            model.load_state_dict(saved["model"])
            _load_named_(optimizer, model, saved["optimizer"])
            compressor.load_state_dict(saved["compressor"])
            set_random_state(self.random)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            what = f"does not hold the state of this training ({type(error).__name__}: {error})"
            raise ModelFileError(f"{self.path}: {what}; {_HINT}") from error
        if self.train_step is not None:
            self.train_step.load_state_dict(saved["train_step"])
        return saved["step"], saved["rates"]

    def _read(self, path: Path) -> None:
        tree = load_tree(path)
        if not isinstance(tree, dict) or tree.get("format") != _FORMAT:
            raise ModelFileError(f"{path}: not a checkpoint of compress_model, or one of another version")
        validated(_Saved, tree, str(path))
        for name, asked in self.asked.items():
            if (known := tree["asked"].get(name)) != asked:
                got = f"{path} of a compression with {name} = {known}"
                raise invalid("checkpoint", got=got, expected=f"{name} = {asked}", hint=_HINT)
        if differing := [n for n in (*self.model, *tree["model"]) if self.model.get(n) != tree["model"].get(n)]:
            got = f"{path} of a model that differs in {differing[0]}"
            raise invalid("checkpoint", got=got, expected="that of this model", hint=_HINT)
        self.found, self.cuts, self.training = tree["found"], tree["cuts"], tree["training"]
        self.random = tree["random"]
        set_random_state(self.random)


_HINT = "give another path, or delete the file to start over"


def _kind(optimizer: Optimizer) -> str:
    """An optimizer and its defaults, as text."""
    return f"{type(optimizer).__name__} {optimizer.defaults}"


def _named(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The state of an optimizer, with the names of its parameters; None for what is not the model's."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    return {"kind": _kind(optimizer), "names": groups, "state": optimizer.state_dict()}


def _load_named_(optimizer: Optimizer, model: nn.Module, saved: dict[str, Any]) -> None:
    """Give a new optimizer the parameters, in their order, and the state that it had."""
    own = dict(model.named_parameters())
    known = {id(p) for p in own.values()}
    for group, names in zip(optimizer.param_groups, saved["names"], strict=True):
        others = iter([p for p in group["params"] if id(p) not in known])
        group["params"][:] = [own[name] if name is not None else next(others) for name in names]
    optimizer.load_state_dict(saved["state"])
