"""Connected digits on the engine: word error rates as a stream and at once, float32 and int8.

    compactrnn train recipes/digits-connected.toml --out runs/connected
    python benchmarks/connected_digits.py runs/connected

The 300 test strings of the recipe, from recordings of the official test part. The stream gets a tenth of a second of
samples at a time; the other words are those of the whole recording.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from compactrnn import Engine, Recognizer, recognize
from compactrnn._files import write_json
from compactrnn._machine import describe_machine
from compactrnn.decoding import Alphabet
from compactrnn.tasks.word_errors import word_errors
from compactrnn.training.pack_run import pack_model
from compactrnn.training.run_folder import RunFolder

OUT = Path(__file__).parent / "results" / "connected_digits.json"


def recordings(task: Any) -> list[tuple[np.ndarray, list[str]]]:
    """Samples and digits of each test string."""
    alphabet, found = Alphabet(["", *map(str, range(10))]), []
    for batch in task.batches("test"):
        for rows, length, targets in zip(batch.inputs, batch.lengths, batch.targets, strict=True):
            found.append((rows[:length].numpy().reshape(-1), alphabet.words(targets[targets > 0].tolist())))
    return found


def row_of(kind: str, engine: Engine, strings: list[tuple[np.ndarray, list[str]]]) -> dict[str, Any]:
    """Errors of one type of weights, and how many strings have the same words as a stream."""
    recognizer, chunk = Recognizer(engine), Recognizer(engine).spec.sample_rate // 10
    whole, streamed = [], []
    for samples, _ in strings:
        words: list[str] = []
        for start in range(0, len(samples), chunk):
            words += recognizer.feed(samples[start : start + chunk])
        streamed.append(words + recognizer.finish())
        whole.append(recognize(engine, samples))
    wrong, total = word_errors([" ".join(spoken) for _, spoken in strings], [" ".join(words) for words in streamed])
    equal = sum(a == b for a, b in zip(streamed, whole, strict=True))
    return {"weights": kind, "bytes": engine.bytes, "isa": engine.isa, "wer": 100 * wrong / total, "digits": total,
            "strings": len(strings), "equal": equal}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    given = parser.parse_args()
    model, task, recipe = RunFolder(given.run).load()
    strings, rows = recordings(task), []
    for kind in ("float32", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            pack_model(model, task, Path(folder) / "model.crnn", kind)
            rows.append(row_of(kind, Engine(Path(folder) / "model.crnn"), strings))
        print(rows[-1])
    write_json(OUT, {"machine": describe_machine(), "seed": recipe.training.seed, "rows": rows})


if __name__ == "__main__":
    main()
