"""Every way to make the acoustic model of AN4 smaller, at equal parameters, against the same size from scratch.

    COMPACTRNN_DATA=... python benchmarks/compact_weights.py --runs runs/compact --tune-on runs/an4
    python benchmarks/compact_weights.py --runs runs/compact --tune-on runs/an4 --rows cut:low-rank:4 --seeds 0 1 2

A row is KIND:STRUCTURE:TIMES. `cut` rows begin with the trained dense model, are set from its matrices, and fine-tuned
with it as their teacher; `start` rows are trained in their structure from the first update; `scratch:dense` is the same
dense network with fewer units. All are trained for as many updates, the dense model's counted to those that begin with
it, on all speakers of the training part. Schedules were chosen on the held-out speakers (`--held-out` trains without
them and prints their word error rate, without touching the results). The decoder's weights are chosen once, with the
outputs of `--tune-on`, a run without the held-out speakers.

Runs that are finished are not repeated, one that was stopped goes on from its last checkpoint.
"""

import functools
import math
import os
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from decode_an4 import DECODERS, bootstrap, engines_of, log_probabilities, scores, with_weights
from frame_times import frame_times, relative
from structures import STRUCTURES, gradual, table_of, tables
from study import Study, options

import compactrnn as cr
from compactrnn import Engine
from compactrnn._machine import describe_machine
from compactrnn.decoding import RecognizerSpec
from compactrnn.layers.matrices import ModelMatrix, matrices
from compactrnn.models import AcousticModel
from compactrnn.report.plot import Point, quality_plot
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import Recipe, load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compact_weights.json"
PICTURE = ROOT / "docs" / "compact-weights.svg"
TIME_PICTURE = ROOT / "docs" / "compact-weights-time.svg"
RECIPE = ROOT / "recipes" / "an4-bilstm.toml"
FINE_TUNING = 40  # epochs
FINE_RATE = 1e-3
FINE_RATES = {"toeplitz": 3e-4, "hybrid": 3e-4}  # at 1e-3 gradients overflow, too: generators are in diagonals' sums
START_RATES = {"toeplitz": 3e-4, "hybrid:4": 1e-3, "hybrid:8": 3e-4}  # at three times as much their gradients overflow
UPDATES_PER_EPOCH = {True: 118, False: 105}  # with all speakers, without those held out
FEWER_BYTES = 16  # times, than the dense model has in float32
NOISE = 2  # points, on 773 words
SCRATCH = {4: 60, 8: 40}  # units of each layer and direction
WEIGHTS = ("float32", "int8", "int4")
SHOWN = ("greedy", "bigram")
NO_FILE = {"bytes": math.inf}
LAYERS, UNITS = 3, 128


NOT_FROM_START = ("low-rank", "sparse", "doped-kronecker")  # placed above; their entries are found in a trained matrix
ROWS = [
    "dense",
    *(f"{row}:{times}" for times in (4, 8) for row in ("cut:low-rank", "scratch:dense", "cut:units")),
    *(f"cut:{name}:{times}" for times in (4, 8) for name in STRUCTURES if name != "low-rank"),
    *(f"cut:{name}:{times}" for times in (4, 8) for name in ("shared-low-rank", "hybrid")),
    *(f"start:{name}:{times}" for times in (4, 8) for name in ("low-rank", "shared-low-rank", "hybrid")),
    *(f"start:{name}:{times}" for times in (4, 8) for name in STRUCTURES if name not in NOT_FROM_START),
]


def recurrent_matrices(model: AcousticModel) -> list[ModelMatrix]:
    """Those of the recurrent layers, in order."""
    return [matrix for matrix in matrices(model) if "layers" in matrix.name]


def share_of(model: AcousticModel, times: int) -> float:
    """The part of the recurrent matrices' numbers that may be left, the rest of the model staying as it is."""
    total = sum(parameter.numel() for parameter in model.parameters())
    inside = sum(math.prod(matrix.shape) for matrix in recurrent_matrices(model))
    return (total / times - (total - inside)) / inside


def with_projection(base: dict[str, Any], times: int, hybrid: bool) -> dict[str, Any]:
    """Options of a model whose layers have projections, shared by their recurrence and the next layer.

    In the hybrid what reads the input and the first layer is Toeplitz-like instead, of displacement rank 4. The size of
    the projections is the largest that fits.
    """
    dense = model_of(base)
    target = sum(parameter.numel() for parameter in dense.parameters()) / times
    found = recurrent_matrices(dense)
    below = [m for m in found if ".layers.0." in m.name or ".layers.1.weight_ih" in m.name]
    lowest = below if hybrid else [m for m in below if ".layers.0.weight_ih" in m.name]
    share = share_of(dense, times)
    if hybrid:
        weights = {m.name: table_of(cr.ToeplitzLike(rank=4)) for m in lowest}
    else:
        weights = tables(lowest, "low-rank", share)
    for size in range(UNITS - 1, 0, -1):
        projection = [0 if hybrid else size, *[size] * (LAYERS - 1)]
        options = {**base["model"], "projection": projection, "weights": weights}
        if sum(p.numel() for p in model_of({**base, "model": options}).parameters()) <= target:
            return options
    raise AssertionError("no projection is small enough")


def model_of(table: dict[str, Any]) -> AcousticModel:
    """The model of a recipe, for its sizes."""
    return AcousticModel(13, 28, recipe_from(table).model)


def dense_recipe(seed: int, all_speakers: bool) -> dict[str, Any]:
    """The recipe that every row begins with."""
    chosen = [f"training.seed={seed}"]
    if all_speakers:
        updates = load_recipe(RECIPE).phases["train"].epochs * UPDATES_PER_EPOCH[True]
        chosen += ["task.all_speakers=true", f"training.evaluate_every={updates}"]
    return load_recipe(RECIPE, chosen).as_dict()


def recipe_of(row: str, seed: int, all_speakers: bool = True) -> Recipe:
    """The recipe of a row."""
    table = dense_recipe(seed, all_speakers)
    if row == "dense":
        return recipe_from(table)
    kind, structure, number = row.split(":")
    times, phases = int(number), table["phases"]
    train_phase, model = phases["train"], model_of(table)
    if kind == "cut":
        optimizer = {**train_phase["optimizer"], "learning_rate": FINE_RATES.get(structure, FINE_RATE)}
        phase = {**train_phase, "epochs": FINE_TUNING, "optimizer": optimizer, "distill": {"teacher": "train"}}
        phase["schedule"] = {**phase["schedule"], "warmup": 100}
        updates = FINE_TUNING * UPDATES_PER_EPOCH[all_speakers]
        if structure == "units":
            # half of the updates to let units go, half to recover
            phase["compress"] = {"keep": SCRATCH[times] / UNITS, "steps": updates // 2}
        elif structure == "low-rank":
            phase["factorize"] = {"keep": 1 / times, "calibration": 16}
        elif structure in ("shared-low-rank", "hybrid"):
            options = with_projection(table, times, structure == "hybrid")
            phase["factorize"] = {"calibration": 16, **{name: options[name] for name in ("projection", "weights")}}
        else:
            phase["factorize"] = {"weights": tables(recurrent_matrices(model), structure, share_of(model, times))}
            phase |= gradual(structure, updates)
        phases["small"] = phase
        return recipe_from(table)
    phases["train"] = {**train_phase, "epochs": train_phase["epochs"] + FINE_TUNING}
    if table["training"]["evaluate_every"]:
        table["training"]["evaluate_every"] = phases["train"]["epochs"] * UPDATES_PER_EPOCH[all_speakers]
    if rate := START_RATES.get(structure, START_RATES.get(f"{structure}:{times}")):
        phases["train"]["optimizer"] = {**train_phase["optimizer"], "learning_rate": rate}
    if kind == "scratch":
        table["model"]["hidden"] = [SCRATCH[times]] * LAYERS
    elif structure in ("shared-low-rank", "hybrid"):
        table["model"] = with_projection(table, times, structure == "hybrid")
    else:
        table["model"]["weights"] = tables(recurrent_matrices(model), structure, share_of(model, times))
    return recipe_from(table)


def run_of(row: str, seed: int, runs: Path, all_speakers: bool) -> Path:
    """Train a row, or take up a finished run; its folder. What begins with the dense model needs it first."""
    run = runs / f"{row.replace(':', '-')}-{seed}"
    source = run_of("dense", seed, runs, all_speakers) if row.startswith("cut:") else None
    result = train(recipe_of(row, seed, all_speakers), run, resume=(run / "config.json").exists(), source=source)
    if not all_speakers:
        print(f"{run.name}: {result['valid']:.2f} % of the held-out words wrong", flush=True)
    return run


class Judge:
    """Decoders whose weights are chosen once."""

    def __init__(self, run: Path):
        _, engine = engines_of(run, ["float32"])[0]
        _, self.task, _ = RunFolder(run).load()
        self.spec = RecognizerSpec.from_metadata(engine.metadata)
        self.spec = type(self.spec)(**{**vars(self.spec), "lexicon": None, "bigram": None})
        speakers = {utterance.speaker for utterance in self.task.parts["valid"]}
        others = [u.text for u in self.task.parts["train"] if u.speaker not in speakers]
        held_out = log_probabilities(engine, self.spec, self.task.parts["valid"])
        self.chosen = {decoder: with_weights(decoder, self.spec, others, held_out)[0] for decoder in DECODERS}

    def decode(self, file: Path) -> dict[str, Any]:
        """The errors of a packed model with each decoder."""
        outputs = log_probabilities(Engine(file), self.spec, self.task.parts["test"])
        return {decoder: scores(spec, outputs) for decoder, spec in self.chosen.items()}


def row_of(row: str, seed: int, run: Path, judge: Judge) -> dict[str, Any]:
    """What is published of a run."""
    model, task, _ = RunFolder(run).load()
    result, files = RunFolder(run).read_result(), {}

    def add(name: str, weights: str, max_bytes: int | None = None) -> None:
        file = run / f"{name}.crnn"
        pack_model(model, task, file, weights, max_bytes)
        macs = Engine(file).macs_per_step
        files[name] = {"bytes": file.stat().st_size, "macs_per_step": macs, "decoders": judge.decode(file)}

    for weights in WEIGHTS:
        add(weights, weights)
    if files["int4"]["bytes"] <= budget() < files["int8"]["bytes"]:
        add("auto", "auto", budget())
    kept = {name: result[name] for name in ("parameters", "cpu_seconds", "updates", "machine", "recipe")}
    return {"row": row, "seed": seed, **kept, "files": files}


@functools.cache
def budget() -> int:
    """The bytes of a file that is `FEWER_BYTES` times smaller than the dense model's parameters in float32."""
    dense = model_of(dense_recipe(0, True))
    return 4 * sum(parameter.numel() for parameter in dense.parameters()) // FEWER_BYTES


def timed_files(rows: Iterable[str], seed: int, runs: Path) -> dict[str, Path]:
    """The int8 file of the dense model and of each of `rows` whose run is there, packed anew by this commit."""
    files = {}
    for row in {"dense": None, **dict.fromkeys(rows)}:
        run = runs / f"{row.replace(':', '-')}-{seed}"
        if row != "dense" and not (run / "result.json").exists():
            continue
        model, task, _ = RunFolder(run).load()
        files[row] = run / "int8.crnn"
        pack_model(model, task, files[row], "int8")
    return files


def within_budget(rows: list[dict[str, Any]]) -> str:
    """The table of the most accurate type with which each row is within the budget."""
    lines = [
        f"{FEWER_BYTES} times fewer bytes than the dense model's parameters in float32, {budget():,}, whole files: int8"
        " where that fits, else `auto`, int8 with int4 for the matrices that cost least, as many as it takes.",
        "",
        "| row | seeds | type | bytes | word error rate | against dense, float32 |",
        "|---|---|---|---|---|---|",
    ]
    dense = {row["seed"]: row for row in rows if row["row"] == "dense"}
    reference = [statistics.median(wer(row, "float32", d) for row in dense.values()) for d in SHOWN]
    for name in ROWS:
        own = [row for row in rows if row["row"] == name]
        fitting = [w for w in ("int8", "auto") if all(row["files"].get(w, NO_FILE)["bytes"] <= budget() for row in own)]
        if not own or not fitting:
            continue
        found = [statistics.median(wer(row, fitting[0], d) for row in own) for d in SHOWN]
        change = " / ".join(f"{a - b:+.1f}" for a, b in zip(found, reference, strict=True))
        size, seeds = max(row["files"][fitting[0]]["bytes"] for row in own), ", ".join(str(row["seed"]) for row in own)
        both = " / ".join(f"{value:.1f}" for value in found)
        lines.append(f"| {name} | {seeds} | {fitting[0]} | {size:,} | {both} | {change} |")
    return "\n".join(lines)


def wer(row: dict[str, Any], weights: str, decoder: str) -> float:
    """A word error rate of a row, in percent."""
    return row["files"][weights]["decoders"][decoder]["wer"]


def table(rows: list[dict[str, Any]], times: dict[str, dict[str, float]]) -> str:
    """Medians over the seeds: sizes, and word error rates greedy / with lexicon and bigram.

    Then the difference to the dense model, and to the same size from scratch, of int8 and greedy.
    """
    head = ["row", "seeds", "parameters", "float32", "int8 bytes", "int8", "int4 bytes", "int4"]
    head += ["against dense, int8", "against scratch, int8"]
    if times:
        head.append("a frame, int8")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in ROWS:
        own = [row for row in rows if row["row"] == name]
        if not own:
            continue

        def against(other: str, own: list[dict[str, Any]] = own, name: str = name) -> str:
            by_seed = {row["seed"]: row for row in rows if row["row"] == other != name}
            pairs = [(row, by_seed[row["seed"]]) for row in own if row["seed"] in by_seed]
            return interval(pairs) if pairs else ""

        def both(weights: str, own: list[dict[str, Any]] = own) -> str:
            found = (statistics.median(wer(row, weights, d) for row in own) for d in SHOWN)
            return " / ".join(f"{value:.1f}" for value in found)

        sizes = {w: max(row["files"][w]["bytes"] for row in own) for w in WEIGHTS}
        cells = [name, ", ".join(str(row["seed"]) for row in own), f"{own[0]['parameters']:,}", both("float32")]
        cells += [f"{sizes['int8']:,}", both("int8"), f"{sizes['int4']:,}", both("int4")]
        cells += [against("dense"), against(f"scratch:dense:{name.rpartition(':')[2]}")]
        if times:
            cells.append(f"{times[name]['ratio']:.2f}" if name in times else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against_scratch(rows: list[dict[str, Any]]) -> str:
    """How the structures compare with fewer units from scratch, in words: at as many parameters, int8, greedy."""
    sentences = []
    for times in SCRATCH:
        found: dict[str, list[float]] = {}
        for row in rows:
            if row["row"].endswith(f":{times}"):
                found.setdefault(row["row"], []).append(wer(row, "int8", "greedy"))
        medians = {name: statistics.median(values) for name, values in found.items()}
        scratch = medians.pop(f"scratch:dense:{times}", None)
        if scratch is None or not medians:
            continue
        best = min(medians, key=medians.__getitem__)
        sizes = {name: max(r["files"]["int8"]["bytes"] for r in rows if r["row"] == name) for name in found}
        text = (
            f"With {times} times fewer parameters the best row is `{best}`, {medians[best]:.1f} % of the words wrong in"
        )
        text += (
            f" {sizes[best]:,} bytes of int8; the same network with fewer units, from scratch, has {scratch:.1f} % in"
        )
        text += f" {sizes[f'scratch:dense:{times}']:,}."
        equal = [f"`{name}` ({value:.1f})" for name, value in medians.items() if abs(value - scratch) < NOISE]
        worse = [f"`{name}` ({value:.1f})" for name, value in medians.items() if value - scratch >= NOISE]
        text += f" Within {NOISE} points of the latter, which is noise: {', '.join(equal)}." if equal else ""
        text += f" Worse: {', '.join(worse)}." if worse else ""
        sentences.append(text)
    return " ".join(sentences)


def picture(rows: list[dict[str, Any]], sizes: dict[str, float], size_label: str) -> str:
    """Greedy word error rates of int8 against the size of each row that has one."""
    points = []
    for name in [name for name in ROWS if name in sizes]:
        own = [wer(row, "int8", "greedy") for row in rows if row["row"] == name]
        points.append(Point(name, sizes[name], statistics.median(own)))
    return quality_plot(points, size_label=size_label, quality_label="word error rate, percent")


def publish(study: Study) -> None:
    """Write the results, the page and its pictures."""
    rows, times = study.rows, study.content.get("times", {})
    study.write("compact weights", against_scratch(rows), table(rows, times), within_budget(rows))
    sizes: dict[str, float] = {row["row"]: row["files"]["int8"]["bytes"] for row in rows}
    PICTURE.write_text(picture(rows, sizes, "bytes of the int8 file"), encoding="utf-8")
    if times:
        ratios = {name: entry["ratio"] for name, entry in times.items()}
        TIME_PICTURE.write_text(picture(rows, ratios, "time of a frame, int8, dense = 1"), encoding="utf-8")


def interval(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The greedy word error rate of int8 minus that of the other rows in float32, over seeds and utterances."""
    first = {"decoders": {"greedy": _joined(row["files"]["int8"] for row, _ in pairs)}}
    second = {"decoders": {"greedy": _joined(row["files"]["float32"] for _, row in pairs)}}
    found = bootstrap(first, second, "greedy")
    return f"{found['difference']:+.1f} ({found['from']:+.1f} to {found['to']:+.1f})"


def _joined(files: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
    """Errors and words of each utterance, summed over the seeds."""
    found = [file["decoders"]["greedy"] for file in files]
    return {key: [sum(v) for v in zip(*(f[key] for f in found), strict=True)] for key in ("word_errors", "words")}


def main() -> None:
    """Read arguments, train what is missing, write the results after each run."""
    parser = options(__doc__, ROWS, "compact-weights")
    parser.add_argument("--tune-on", type=Path, help="a run without the held-out speakers")
    parser.add_argument(
        "--time", action="store_true", help="only measure a frame's time of the runs that are there, on an idle machine"
    )
    parser.add_argument("--held-out", action="store_true", help="train without the held-out speakers, for choices")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    study = Study(RESULTS, ROWS)
    judge = None
    for seed in [] if arguments.time else arguments.seeds:
        for row in arguments.rows:
            run = run_of(row, seed, arguments.runs, not arguments.held_out)
            if arguments.held_out:
                continue
            if arguments.tune_on is None:
                raise SystemExit("--tune-on: expected a run without the held-out speakers, got none")
            judge = judge or Judge(arguments.tune_on)
            found = row_of(row, seed, run, judge)
            figures = {w: f"{wer(found, w, 'greedy'):.2f} / {wer(found, w, 'bigram'):.2f}" for w in WEIGHTS}
            print(f"{run.name}: {found['parameters']:,} parameters, {figures}", flush=True)
            study.add(found)
            publish(study)
    if arguments.time:
        seed = arguments.seeds[0]
        times = relative(frame_times(timed_files(arguments.rows, seed, arguments.runs)), "dense")
        machine = describe_machine()
        known = study.content.get("times", {})
        study.content["times"] = known | {name: time | {"timed_on": machine} for name, time in times.items()}
        publish(study)
    if study.rows:
        print(table(study.rows, study.content.get("times", {})))


if __name__ == "__main__":
    main()
