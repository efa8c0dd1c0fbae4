"""`compress_model` on the demo's dense model, at the size of the demo's compact one.

python benchmarks/compress_demo.py [--budgets macs bytes] [--steps 2200] [--seed 0]   # no budgets: the page alone

The teacher, the dropout, the optimizer, the number of updates and the weight of the teacher are those of the demo's
recipe; the budget is what the demo's compact model has. Bits per character are of the test part, on the engine.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import compactrnn as cr
from compactrnn._files import write_json
from compactrnn._machine import describe_machine
from compactrnn.compress import distillation_loss
from compactrnn.compress.sizes import counts
from compactrnn.report.demo.models import demo_recipe, shipped_models
from compactrnn.report.insert import insert

RESULTS = Path(__file__).parent / "results" / "compress_demo.json"
PAGE = Path(__file__).parents[1] / "docs" / "compress-model.md"
STREAMS = 8  # of the validation part


def compressed(task: Any, dense: Any, budget: dict[str, float], steps: int, seed: int) -> dict[str, Any]:
    """What `compress_model` makes of the dense model."""
    torch.manual_seed(seed)
    recipe = demo_recipe("compact", [])
    phase = recipe.phases["tune"]
    student, updates = dense_copy(task, dense, recipe.model_in(phase)), itertools.count()
    weight, tune, per_epoch = phase.distill.weight, phase.optimizer, task.updates_per_epoch()

    def train_step(model: Any) -> torch.Tensor:
        update = next(updates)
        batch = task.batch(update % per_epoch, update // per_epoch)
        outputs, _ = task.forward(model, batch, None)
        with torch.no_grad():
            teacher, _ = task.forward(dense, batch, None)
        return (1 - weight) * task.loss(outputs, batch) + weight * distillation_loss(outputs, teacher)

    def evaluate(model: Any) -> float:
        return task.evaluate(model, "valid", STREAMS)

    def optimizer(parameters: list[Any]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, tune.learning_rate, weight_decay=tune.weight_decay)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.crnn"
        example = task.example_inputs()
        batches = [task.batch(i, 0).inputs[:1] for i in range(4)]
        found = cr.compress_model(
            student, example, train_step=train_step, evaluate=evaluate, budget=budget, steps=steps,
            optimizer=optimizer, calibration=batches, path=file,
        )  # fmt: skip
        engine = task.evaluate_engine(cr.Engine(file), "test")
    print(found)
    return {
        "name": f"compress_model, {', '.join(budget)}",
        "budget": budget,
        "seed": seed,
        "steps": steps,
        "sizes": found.sizes,
        "valid": found.quality,
        "types": found.types,
        "reason": found.reason,
        "hidden": list(found.model.layer_sizes()),
        "recurrent_parameters": found.model.recurrent_parameters(),
        "bytes": found.sizes["bytes"][1],
        "engine_bits_per_character": engine,
    }


def dense_copy(task: Any, dense: Any, options: Any) -> Any:
    """The dense model with the dropout of another phase."""
    twin = task.build_model(options)
    twin.load_state_dict(dense.state_dict())
    return twin


def demo_row(task: Any, name: str, model: Any) -> dict[str, Any]:
    """A shipped model, in int8."""
    with tempfile.TemporaryDirectory() as folder:
        report = cr.pack(
            model, Path(folder) / "m.crnn", task.example_inputs(), calibration=[task.batch(0, 0).inputs[:1]]
        )
        engine = task.evaluate_engine(cr.Engine(Path(folder) / "m.crnn"), "test")
    return {
        "name": f"demo, {name}",
        "hidden": list(model.layer_sizes()),
        "recurrent_parameters": model.recurrent_parameters(),
        "macs": counts(model)[2],
        "bytes": report.bytes,
        "engine_bits_per_character": engine,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown; the first is the dense model."""
    lines = [
        "| | seed | units | recurrent parameters | bytes | bits per character | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        change = row["engine_bits_per_character"] / rows[0]["engine_bits_per_character"] - 1
        cells = (
            row["name"],
            str(row.get("seed", "")),
            " + ".join(map(str, row["hidden"])),
            f"{row['recurrent_parameters']:,}",
            f"{row['bytes']:,.0f}",
            f"{row['engine_bits_per_character']:.3f}",
            f"{change:+.1%}" if change else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="*", default=["macs", "bytes"], choices=["macs", "bytes"])
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    task, models = shipped_models()
    models = {trained.name: trained.model for trained in models}
    rows = [demo_row(task, name, model) for name, model in models.items()]
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    rows += [row for row in known if "seed" in row]
    for name in arguments.budgets:
        row = compressed(task, models["dense"], {name: rows[1][name]}, arguments.steps, arguments.seed)
        rows = [r for r in rows if (r["name"], r.get("seed")) != (row["name"], row["seed"])] + [row]
        write_json(RESULTS, {"machine": describe_machine(), "rows": rows})
    text = table(rows[:2] + sorted(rows[2:], key=lambda row: (row["name"], row["seed"])))
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "demo", text), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
