"""Spoken digits: the official split, and six folds with one speaker left out, of three models; docs/kilobyte.md.

    COMPACTRNN_DATA=... python benchmarks/digits.py --runs runs/digits
    python benchmarks/digits.py --runs runs/digits --seeds 0 --models kilobyte  # a part; the rest stays as it is
    python benchmarks/digits.py --runs runs/digits --time  # and the time of a frame, on an idle machine

Runs that are finished are not repeated, one that was stopped goes on from its last checkpoint. Each row has the errors
on the test part, in percent: of the trained model, and of its int8 file on the engine. Files lie in the folders of the
runs.
"""

import argparse
import json
import os
import statistics
import warnings
from pathlib import Path
from typing import Any

from frame_times import frame_times, relative

from compactrnn import Engine
from compactrnn._machine import describe_machine
from compactrnn.lower import pack
from compactrnn.report.insert import insert
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "digits.json"
PAGE = ROOT / "docs" / "kilobyte.md"
MODELS = {"gru": "digits.toml", "lstm": "digits-lstm.toml", "kilobyte": "digits-kilobyte.toml"}
KNOWN = {"speed": 0.06, "tone": 0.1, "gain": 0.1, "noise": 0.01, "silence": 0.03}  # enough where no speaker is new
SPLITS = ("official", *(str(speaker) for speaker in range(6)))


def recipe_of(model: str, split: str, seed: int, overrides: list[str]) -> Recipe:
    """The recipe of a model for a split: "official", or the number of the speaker left out."""
    chosen = ["task.split=speaker", f"task.speaker={split}"]
    if split == "official":
        chosen = [f"task.augmentation.{name}={value}" for name, value in KNOWN.items()]
    return load_recipe(ROOT / "recipes" / MODELS[model], [f"training.seed={seed}", *chosen, *overrides])


def packed(run: Path, small: bool) -> dict[str, Any]:
    """Pack the model of a run in int8, without notes if it is to be small; its error and its sizes."""
    model, task, _ = RunFolder(run).load()
    file = run / "int8.crnn"
    if small:
        pack(model.eval(), file, task.example_inputs(), calibration=[task.calibration_inputs()], notes=False)
    else:
        pack_model(model, task, file, "int8")
    engine = Engine(file)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "test_int8": task.evaluate_engine(engine, "test"),
        "bytes": file.stat().st_size,
        "stream_bytes": engine.stream_bytes,
        "macs_per_frame": engine.macs_per_step,
    }


def row_of(model: str, split: str, seed: int, run: Path, overrides: list[str]) -> dict[str, Any]:
    """Train, or take up a finished run; the row of the results."""
    recipe = recipe_of(model, split, seed, overrides)
    result = train(recipe, run, resume=run.exists())
    kept = {name: result[name] for name in ("test", "valid", "seed", "cpu_seconds", "machine", "recipe")}
    return {"model": model, "split": split, **kept, **packed(run, model == "kilobyte")}


def table(rows: list[dict[str, Any]], times: dict[str, dict[str, float]]) -> str:
    """Errors as medians over the seeds, for each model and split, with sizes."""
    folds = [f"speaker {n}" for n in range(6)]
    names = ["model", "seeds", "official", *folds, "mean of folds", "parameters", "file", "stream", "a frame"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for model in MODELS:
        own = [row for row in rows if row["model"] == model]
        if not own:
            continue
        errors = {s: [row["test_int8"] for row in own if row["split"] == s] for s in SPLITS}
        medians = {s: statistics.median(found) if found else None for s, found in errors.items()}
        known = [value for s in SPLITS[1:] if (value := medians[s]) is not None]
        mean = statistics.mean(known) if len(known) == len(SPLITS) - 1 else None
        largest = max(own, key=lambda row: row["bytes"])
        seeds = ", ".join(map(str, sorted({row["seed"] for row in own})))
        cells = [f"{value:.2f}" if value is not None else "" for value in (*medians.values(), mean)]
        sizes = [f"{largest[name]:,}" for name in ("parameters", "bytes", "stream_bytes")]
        spent = f"{times[model]['microseconds']:.1f} us ({times[model]['ratio']:.2f})" if model in times else ""
        sizes = [sizes[0], f"{sizes[1]} B", f"{sizes[2]} B"]
        lines.append("| " + " | ".join([model, seeds, *cells, *sizes, spent]) + " |")
    return "\n".join(lines)


def section(rows: list[dict[str, Any]], times: dict[str, dict[str, float]]) -> str:
    """What stands between the markers of the page."""
    commits = sorted({str(row["machine"]["commit"])[:9] for row in rows})
    processors = ", ".join(dict.fromkeys(row["machine"]["processor"] for row in rows))
    return f"\n{table(rows, times)}\n\n{processors}; commit {', '.join(commits)}.\n\n" if rows else ""


def main() -> None:
    """Read arguments, train what is missing, write results and page after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "digits")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": [], "times": {}}
    rows = {(row["model"], row["split"], row["seed"]): row for row in document["rows"]}
    for seed in arguments.seeds:
        for split in arguments.splits:
            for model in arguments.models:
                run = arguments.runs / f"{model}-{split}-{seed}"
                row = row_of(model, split, seed, run, arguments.overrides)
                rows[model, split, seed] = row
                figures = f"{row['test']:.2f} %, int8 {row['test_int8']:.2f} %, {row['bytes']} bytes"
                print(f"{run.name}: {figures}", flush=True)
                document["rows"] = [rows[key] for key in sorted(rows)]
                publish(document)
    if arguments.time:
        run = f"-{arguments.splits[0]}-{arguments.seeds[0]}"
        files = {model: arguments.runs / f"{model}{run}" / "int8.crnn" for model in MODELS}
        document["times"], document["timed_on"] = relative(frame_times(files), "lstm"), describe_machine()
        publish(document)
    print(table(document["rows"], document["times"]))


def publish(document: dict[str, Any]) -> None:
    """Write the results and the page."""
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = section(document["rows"], document["times"])
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "digits", text), encoding="utf-8")


if __name__ == "__main__":
    main()
