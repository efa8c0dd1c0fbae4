"""A streaming acoustic model as a delta network: errors, products and time of a step; docs/delta.md.

    COMPACTRNN_DATA=... python benchmarks/delta_speech.py RUN [--updates 420] [--keep 0.4 0.3] [--out FILE]

RUN is a trained run of recipes/speech.toml. Its model gets thresholds as it is, and, for each `--keep`, while it trains
on for `--updates` updates from a tenth of the recipe's learning rate; so does the dense model, for comparison. Each row
has the share of the products of the recurrent layers that is left (measured on the utterances of the test part, one by
one), the loss in nats per character and the word errors in percent in torch, those of the packed files on the engine,
and the time of a step on the engine over the frames of test utterances: the median over rounds of dense over delta, in
turned order, by the clock of the thread.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.compress.changes import delta_cells, measure_changes
from compactrnn.training.pack_run import pack_model
from compactrnn.training.run_folder import RunFolder

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.45)
ROUNDS, FRAMES = 15, 400


def utterances(task: Any, part: str) -> Iterator[Tensor]:
    """The inputs of a part, (1, steps, coefficients) each, without padding."""
    for batch in task.batches(part):
        yield from (x[None, :length] for x, length in zip(batch.inputs, batch.lengths, strict=True))


def share_left(model: nn.Module, task: Any) -> float:
    """The share of the products of the recurrent layers, over all steps of the test part."""
    if not delta_cells(model):
        return 1.0
    left = steps = 0.0
    for x in utterances(task, "test"):
        left += measure_changes(model, x).share * x.shape[1]
        steps += x.shape[1]
    return left / steps


def loss_of(model: nn.Module, task: Any, part: str) -> float:
    total = count = 0.0
    with torch.no_grad():
        for batch in task.batches(part):
            characters = task.target_count(batch)
            total += float(task.loss(task.forward(model, batch, None)[0], batch)) * characters
            count += characters
    return total / count


def train(model: nn.Module, task: Any, updates: int, rate: float, delta: cr.Delta | None) -> None:
    """Goes on for some updates, with a cosine schedule from `rate` to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    model.train()
    for update in range(updates):
        epoch, index = divmod(update, task.updates_per_epoch())
        batch = task.batch(index, epoch)
        loss = task.loss(task.forward(model, batch, None)[0], batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if delta is not None:
            delta.step()
    model.eval()


def engines(model: nn.Module, task: Any, folder: Path) -> dict[str, cr.Engine]:
    found = {}
    for weights in ("float32", "int8"):
        file = folder / f"{weights}.crnn"
        pack_model(model, task, file, weights)
        found[weights] = cr.Engine(file)
    return found


def times(streams: dict[str, Any], frames: np.ndarray) -> dict[str, list[float]]:
    """Microseconds of a step of each, by round."""
    found: dict[str, list[float]] = {name: [] for name in streams}
    for number in range(ROUNDS):
        for name in list(streams) if number % 2 else reversed(streams):
            stream = streams[name]
            stream.reset()
            start = time.thread_time()
            for frame in frames:
                stream.step(frame)
            found[name].append((time.thread_time() - start) / len(frames) * 1e6)
    return found


def row_of(name: str, model: nn.Module, task: Any, dense: dict[str, cr.Engine] | None, out: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "share": round(share_left(model, task), 4)}
    for part in ("valid", "test"):
        row[f"{part} loss"] = round(loss_of(model, task, part), 4)
        row[f"{part} word errors"] = round(task.evaluate(model, part), 2)
    own = engines(model, task, out)
    for weights, engine in own.items():
        row[f"test word errors, engine, {weights}"] = round(task.evaluate_engine(engine, "test"), 2)
    if dense is None:
        return row
    frames = np.concatenate([x[0].numpy() for x in utterances(task, "test")])[-FRAMES:]
    for weights, engine in own.items():
        found = times({"dense": dense[weights].stream(), "delta": engine.stream()}, frames)
        ratios = [a / b for a, b in zip(found["dense"], found["delta"], strict=True)]
        row[f"dense over delta, {weights}"] = round(statistics.median(ratios), 2)
        row |= {f"{n}, {weights}, microseconds": round(statistics.median(t), 2) for n, t in found.items()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--updates", type=int, default=420)
    parser.add_argument("--keep", type=float, nargs="*", default=[0.4, 0.3])
    parser.add_argument("--thresholds", type=float, nargs="*", default=list(THRESHOLDS))
    default = Path(__file__).parent / "results" / "delta_speech.json"
    parser.add_argument("--out", type=Path, default=default)
    given = parser.parse_args()
    model, task, recipe = RunFolder(given.run).load()
    example = list(task.batches("train"))[-1].inputs[:4]  # the longest, of about the same length
    rate = 0.1 * next(iter(recipe.phases.values())).optimizer.learning_rate
    rows: list[dict[str, Any]] = []

    def add(name: str, made: nn.Module, dense: dict[str, cr.Engine] | None, folder: str) -> None:
        rows.append(row_of(name, made, task, dense, Path(folder)))
        print(rows[-1], flush=True)
        what = "a streaming acoustic model as a delta network"
        result = {"what": what, "updates": given.updates, "machine": describe_machine(), "rows": rows}
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        dense = engines(model, task, Path(folder))
        add("dense", model, None, other)
        for threshold in given.thresholds:
            made = copy.deepcopy(model)
            cr.Delta(made, example, threshold=threshold)
            add(f"threshold {threshold}", made, dense, other)
        for keep in (None, *given.keep):
            torch.manual_seed(0)
            made = copy.deepcopy(model)
            steps = max(given.updates // 2, 1)
            delta = None if keep is None else cr.Delta(made, example, keep=keep, steps=steps)
            train(made, task, given.updates, rate, delta)
            add("dense, trained on" if keep is None else f"keep {keep}, trained on", made, dense, other)


if __name__ == "__main__":
    main()
