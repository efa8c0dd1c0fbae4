"""The race of a trained language model: our engine against others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime.engine import Engine
from ..tasks.language_model import one_thread
from ..tasks.recurrent_lm import LanguageModel
from ..training.pack_run import pack_model
from ..training.run_folder import RunFolder
from .engine_contender import EngineContender
from .onnx_contender import OnnxContender
from .race import AbstractContender, Timing, check_answers, race
from .torch_contenders import TorchContender, torch_contenders, torch_settings_kept


def contenders(model: LanguageModel, engine: Engine, rivals: Sequence[str]) -> list[AbstractContender]:
    """The engine and the rivals asked for, each in all its forms."""
    found: list[AbstractContender] = [EngineContender(engine)]
    if "torch" in rivals:
        found += torch_contenders(model)
    if "onnxruntime" in rivals:
        found += [OnnxContender(model, form) for form in ("float32", "int8")]
    return found


def race_run(run: Path, rivals: Sequence[str], steps: Sequence[int], rounds: int) -> dict[int, dict[str, Timing]]:
    """Pack a run's model as int8 and race it on its test text: steps per call -> contender -> time per symbol."""
    model, task, _ = RunFolder(run).load()
    with tempfile.TemporaryDirectory() as folder:
        pack_model(model, task, Path(folder) / "model.crnn", "int8")
        engine = Engine(Path(folder) / "model.crnn")
    return race_model(model, engine, rivals, task.parts["test"][:512], steps, rounds)


def race_model(
    model: LanguageModel, engine: Engine, rivals: Sequence[str], tokens: np.ndarray, steps: Sequence[int], rounds: int
) -> dict[int, dict[str, Timing]]:
    """Race `engine` against other forms of `model`, their answers compared first; see `race_run`."""
    entered = contenders(model, engine, rivals)
    with one_thread(), torch_settings_kept():
        check_answers(entered, TorchContender(model, "float32"), tokens[:128])
        return {count: race(entered, tokens, steps=count, rounds=rounds) for count in steps}
