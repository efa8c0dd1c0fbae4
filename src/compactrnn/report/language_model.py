"""The race of a trained language model: our engine against others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..runtime.engine import Engine
from ..tasks.recurrent_lm import LanguageModel
from ..training.pack_run import pack_run
from ..training.run_folder import RunFolder
from .engine_contender import EngineContender
from .onnx_contender import OnnxContender
from .race import AbstractContender, Timing, check_answers, race
from .torch_contenders import TorchContender, torch_contenders


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
        pack_run(run, Path(folder) / "model.crnn", "int8")
        engine = Engine(Path(folder) / "model.crnn")
    entered = contenders(model, engine, rivals)
    tokens = task.parts["test"][:512]
    check_answers(entered, TorchContender(model, "float32"), tokens[:128])
    return {count: race(entered, tokens, steps=count, rounds=rounds) for count in steps}
