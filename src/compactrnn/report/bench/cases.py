"""Benchmark cases: a packed file, a run's model, layer sizes, or the demo's compact model against its dense one."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._errors import invalid
from ..._memory import check_memory
from ...runtime.engine import Engine
from ...runtime.source import read_source
from .base import Config
from .engine_runner import EngineRunner
from .model import PlainModel, random_model
from .spec import GRAMMAR, Spec, parse_spec

if TYPE_CHECKING:
    from ...models.recurrent_lm import LanguageModel

STANDARD = (
    "lstm:1500-1500-1500",
    "lstm:1500-373-315",
    "lstm:10000@1500-373-315",
    "lstm:40-128",
    "gru:40-128",
    "lstm:40-256-256-256",
    "gru:400-400-400",
    "demo",
)
Truth = Callable[[np.ndarray], np.ndarray]
_INPUT_BYTES = 64 << 10


@dataclass(frozen=True)
class Case:
    """A model for this engine and, for the other frameworks, as plain arrays.

    `symbols` is a text to take tokens from, `vocabulary` how many tokens there are (0: the input is numbers of
    `shape`), `truth` what float32 answers to one sequence for ours, `None` where there is nothing to compare with.
    """

    name: str
    ours: tuple[Config, ...]
    shape: tuple[int, ...] = ()
    vocabulary: int = 0
    truth: Truth | None = None
    model: PlainModel | None = None
    why_alone: str = ""
    symbols: np.ndarray | None = field(default=None, repr=False)

    def inputs(self, steps: int) -> list[np.ndarray]:
        """Calls of `steps` steps: 512 tokens, or as many random numbers as leave the first cache mostly free."""
        size = 4 * steps * math.prod(self.shape)
        check_memory(2 * (8 * steps if self.vocabulary else size), f"inputs of {steps:,} steps a call")
        if self.vocabulary:
            count = max(2, 512 // steps)
            tokens = self.symbols
            if tokens is None or len(tokens) < count * steps:
                tokens = np.random.default_rng(1).integers(0, self.vocabulary, count * steps)
            return list(tokens[: count * steps].reshape(count, steps))
        shape = (min(64, max(2, _INPUT_BYTES // size)), steps, *self.shape)
        return list(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def case(name: str, weights: Sequence[str]) -> Case:
    """The case for an argument of the command line."""
    kind, colon, rest = name.partition(":")
    if kind == "demo" and (rest or not Path(name).exists()):
        return demo_case(Path(rest) if rest else None, weights)
    if colon and not Path(name).exists():
        return spec_case(parse_spec(name), weights)
    if Path(name).is_dir():
        return run_case(Path(name), weights)
    if not Path(name).exists() and not Path(name).suffix:
        raise invalid("model", got=repr(name), expected=f"a .crnn file, a run folder, or {GRAMMAR}")
    return file_case(Path(name))


def file_case(path: Path) -> Case:
    """A .crnn file, timed alone."""
    engine, data = Engine(path), read_source(path)[1]
    if len(engine.inputs) != 1:
        raise invalid(
            "model", got=f"{path} with {len(engine.inputs)} inputs", expected="one input, to make up data for"
        )
    port = engine.inputs[0]
    config = Config("engine", "as packed", lambda _, steps: EngineRunner(engine, data, steps))
    return Case(str(path), (config,), port.shape, port.vocabulary)


def spec_case(spec: Spec, weights: Sequence[str]) -> Case:
    """Random weights of the given sizes."""
    from .torch_model import TorchModel, answers

    # as arrays, as torch's, as ours
    check_memory(3 * 4 * spec.weights(), f"model {spec}", "give smaller sizes")
    model = random_model(spec)
    module = TorchModel(model)
    one = Case(str(spec), (), (spec.input_size,), spec.vocabulary, lambda inputs: answers(module, inputs), model)
    return _with_ours(one, module, weights)


def run_case(path: Path, weights: Sequence[str]) -> Case:
    """A run's language model on its test text."""
    from ...models.recurrent_lm import LanguageModel
    from ...training.run_folder import RunFolder

    model, task, recipe = RunFolder(path).load()
    if not isinstance(model, LanguageModel):
        raise invalid("run folder", got=f"{path}, of the task {recipe.task.name}", expected="one of a language model")
    return _with_ours(language_case(str(path), model, task.parts["test"], model), model, weights)


def demo_case(path: Path | None, weights: Sequence[str]) -> Case:
    """The demo's compact model, for us; its dense one, for the others: shipped, or trained in `path`."""
    from ..demo.models import shipped_models, trained_models

    task, (dense, compact, *_) = shipped_models() if path is None else trained_models(path)
    one = language_case("demo: compact, frameworks dense", compact.model, task.parts["test"], dense.model)
    return _with_ours(one, compact.model, weights)


def language_case(name: str, model: LanguageModel, symbols: np.ndarray, others: LanguageModel) -> Case:
    """Language model `model` for us, its configs still to be given, `others` for the frameworks, on a text."""
    from .torch_model import answers, plain_model

    vocabulary, plain, why = model.embedding.num_embeddings, None, ""
    try:
        plain = plain_model(others.eval())
    except ValueError as error:
        why = str(error)
    return Case(name, (), (), vocabulary, lambda inputs: answers(model.eval(), inputs), plain, why, symbols)


def engine_config(name: str, weights: str, engine: Callable[[], tuple[Engine, bytes]]) -> Config:
    """A configuration of this package's engine."""
    return Config(name, weights, lambda _, steps: EngineRunner(*engine(), steps))


def _with_ours(one: Case, module: Any, weights: Sequence[str]) -> Case:
    """The case with an engine for each kind of weights, each packed once, when it is first needed."""
    configs, sample = [], np.concatenate(one.inputs(1)[:64])
    for kind in weights:

        @cache
        def packed(kind: str = kind) -> tuple[Engine, bytes]:
            import torch

            from ...lower import pack

            given = torch.as_tensor(sample)[None]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.crnn"
                pack(module, path, given[:, :16], weights=kind, calibration=[given])
                return Engine(path), path.read_bytes()

        configs.append(engine_config(f"engine {kind}", kind, packed))
    return replace(one, ours=tuple(configs))
