"""Int4 by quantization-aware training against int4 of the trained model, in the quality of two language models.

    COMPACTRNN_DATA=... python benchmarks/quantization_aware.py --ptb RUN [--updates 1327] [--seed 0]

The demo's dense model and a run of recipes/ptb-200.toml. Each is trained on for --updates updates with
`cr.Quantize(model, "int4")`, by AdamW with a cosine from --rate, without dropout, to give what it gave before: the one
loss is the divergence from its own softmax, which teaches nothing new. Figures are of the test part on the engine.
"""

import argparse
import copy
import json
import math
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from published import RESULTS
from torch import nn

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.compress import distillation_loss
from compactrnn.report.demo.models import shipped_models
from compactrnn.report.insert import insert
from compactrnn.training.pack_run import pack_model
from compactrnn.training.run_folder import RunFolder

RESULT, PAGE = RESULTS / "quantization_aware.json", Path(__file__).parents[1] / "docs" / "quantization.md"
MODELS = {"demo": "the demo's, 2 x 256", "ptb": "Penn Treebank, 2 x 200"}
WARMUP = 50
VALIDATION_STREAMS = 8


def trained_in_int4(task: Any, dense: Any, given: argparse.Namespace) -> nn.Module:
    """A copy of the dense model after more updates in int4."""
    torch.manual_seed(given.seed)
    model, teacher = copy.deepcopy(dense), copy.deepcopy(dense).eval()
    model.adjust(replace(model.options, dropout=0.0, embedding_dropout=0.0, output_dropout=0.0))
    quantizer = cr.Quantize(model, "int4")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), given.rate)
    per_epoch, states, teacher_states = task.updates_per_epoch(), None, None
    for number in range(given.updates):
        progress = max(0, number - WARMUP) / max(1, given.updates - WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = given.rate * min(1, (number + 1) / WARMUP) * (1 + math.cos(math.pi * progress)) / 2
        if number % per_epoch == 0:
            states = teacher_states = None
        batch = task.batch(number % per_epoch, number // per_epoch)
        outputs, states = task.forward(model, batch, states)
        with torch.no_grad():
            wanted, teacher_states = task.forward(teacher, batch, teacher_states)
        loss = distillation_loss(task.answers(outputs, batch), task.answers(wanted, batch))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        quantizer.step(optimizer)
    model.eval()
    before, after = (task.evaluate(m, "valid", VALIDATION_STREAMS) for m in (teacher, model))
    print(f"validation part: {before:.4f} in float32, {after:.4f} in int4", flush=True)
    return model


def quality(model: Any, task: Any, weights: str) -> dict[str, float]:
    """The test figure of the packed model, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.crnn"
        pack_model(model, task, file, weights)
        return {"test": task.evaluate_engine(cr.Engine(file), "test"), "bytes": file.stat().st_size}


def row_of(name: str, task: Any, dense: Any, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of a model."""
    figures = {kind: quality(dense, task, kind) for kind in ("float32", "int4")}
    figures["aware int4"] = quality(trained_in_int4(task, dense, given), task, "int4")
    print(name, {key: round(value["test"], 4) for key, value in figures.items()}, flush=True)
    options = {name: getattr(given, name) for name in ("updates", "rate", "seed")}
    return {"model": name, "metric": task.metric, **options, "machine": describe_machine(), "figures": figures}


def page(rows: list[dict[str, Any]]) -> str:
    """The table of the page."""
    heads = {"float32": "float32", "int4": "int4", "aware int4": "int4, trained on in int4"}
    lines = [f"| model | {' | '.join(heads.values())} |", "|---" * (1 + len(heads)) + "|"]
    for row in rows:
        figures, cells = row["figures"], []
        for key in heads:
            change = 100 * (figures[key]["test"] / figures["float32"]["test"] - 1)
            digits = 3 if figures[key]["test"] < 10 else 1
            cells.append(f"{figures[key]['test']:.{digits}f}" + ("" if key == "float32" else f" ({change:+.1f} %)"))
        lines.append(f"| {row['model']}, {row['metric'].replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n\n"


def main() -> None:
    """Read arguments, train, write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ptb", type=Path, required=True, help="a finished run of recipes/ptb-200.toml")
    parser.add_argument("--updates", type=int, default=1327)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    torch.set_num_threads(1)
    rows = {row["model"]: row for row in json.loads(RESULT.read_text())["rows"]} if RESULT.exists() else {}
    for key in given.models:
        if key == "demo":
            task, (dense, _) = shipped_models()
            model: Any = dense.model
        else:
            model, task, _ = RunFolder(given.ptb).load()
        rows[MODELS[key]] = row_of(MODELS[key], task, model, given)
    ordered = [rows[name] for name in MODELS.values() if name in rows]
    content = {"what": "int4 by quantization-aware training", "rows": ordered}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "aware", page(ordered)), encoding="utf-8")


if __name__ == "__main__":
    main()
