"""Word error rates of trained models of AN4 on the engine: greedy, with a lexicon, and with a bigram.

    compactrnn train recipes/an4-lstm.toml --out runs/an4-lstm
    python benchmarks/decode_an4.py runs/an4-lstm --weights float32,int8 --out benchmarks/results/decode_an4.json
    python benchmarks/decode_an4.py small.crnn --against large.crnn

A model is a packed one or a run folder, which is packed here. Lexicon and bigram are of the transcripts of the training
part alone. The decoder's weights are chosen on the held-out speakers, with the transcripts of the others; for a model
that was trained on all speakers, with the outputs of another one: `--tune-on MODEL`. The test part is decoded once. A
streaming model also recognizes its recordings in chunks of a tenth of a second, which must give the same words.

`--against` resamples the test utterances, the same ones for both models, and gives the mean difference of the word
error rates, its 95 % interval, and how often the model has fewer errors (paired bootstrap; Bisani, Ney, ICASSP 2004).
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compactrnn import Engine, Recognizer
from compactrnn._machine import describe_machine
from compactrnn.data.an4 import Utterance
from compactrnn.decoding import Bigram, RecognizerSpec, log_softmax
from compactrnn.tasks.decoder_weights import tune
from compactrnn.tasks.speech import SpeechTask
from compactrnn.tasks.table import task_of
from compactrnn.tasks.word_errors import character_errors, word_errors
from compactrnn.training.pack_run import pack_model
from compactrnn.training.run_folder import RunFolder

DECODERS = ("greedy", "lexicon", "bigram")
RESAMPLES, SEED = 10_000, 0
CHUNK = 10  # frames
Scored = list[tuple[np.ndarray, str]]


def engines_of(path: Path, weights: list[str]) -> list[tuple[str, Engine]]:
    """A packed model, or a run in each type of weights, by name."""
    if not path.is_dir():
        return [(path.name, Engine(path))]
    model, task, _ = RunFolder(path).load()
    engines = []
    for kind in weights:
        with tempfile.TemporaryDirectory() as folder:
            pack_model(model, task, f"{folder}/model.crnn", kind)
            engines.append((f"{path.name}, {kind}", Engine(f"{folder}/model.crnn")))
    return engines


def log_probabilities(engine: Engine, spec: RecognizerSpec, utterances: list[Utterance]) -> Scored:
    """What the model says of each step of each utterance, and the words that were said."""
    scored = []
    for utterance in utterances:
        steps = len(utterance.features) // spec.frames_per_step
        rows = utterance.features[: steps * spec.frames_per_step]
        outputs = engine.run(rows.reshape(steps, *engine.inputs[0].shape))
        scored.append((log_softmax(outputs), utterance.text))
    return scored


def row_of(name: str, engine: Engine, judge: Engine) -> dict[str, Any]:
    """Errors of a model, utterance by utterance, with each decoder; weights are chosen with the outputs of `judge`."""
    task = task_of(engine.metadata)
    if not isinstance(task, SpeechTask):
        raise SystemExit(f"{name}: expected a model of AN4, got one of the task {engine.metadata['task']['name']}")
    if judge.metadata["task"]["all_speakers"]:
        raise SystemExit(f"{name}: no speaker was held out in its training; name a model with --tune-on")
    spec = replace(RecognizerSpec.from_metadata(engine.metadata), lexicon=None, bigram=None)
    speakers = {utterance.speaker for utterance in task.parts["valid"]}
    others = [u.text for u in task.parts["train"] if u.speaker not in speakers]
    held_out = log_probabilities(judge, spec, task.parts["valid"])
    test = log_probabilities(engine, spec, task.parts["test"])
    decoders = {}
    for decoder in DECODERS:
        chosen, rate = with_weights(decoder, spec, others, held_out)
        decoders[decoder] = {
            "lm_weight": chosen.lm_weight if chosen.bigram else None,
            "word_bonus": chosen.word_bonus if chosen.words else None,
            "held_out_wer": rate,
            **scores(chosen, test),
            **({} if engine.offline else {"as_a_stream": as_a_stream(engine, chosen, task.parts["test"], test)}),
        }
        print(f"{name}, {decoder}: WER {decoders[decoder]['wer']:.2f}, CER {decoders[decoder]['cer']:.2f}", flush=True)
    described = {"model": name, "bytes": engine.bytes, "streaming": not engine.offline, "isa": engine.isa}
    return {**described, "task": engine.metadata["task"], "decoders": decoders}


def with_weights(
    decoder: str, spec: RecognizerSpec, others: list[str], held_out: Scored
) -> tuple[RecognizerSpec, float | None]:
    """The recognizer to test, and its word error rate on the held-out speakers.

    Weights are chosen with what the other speakers said, then the held-out ones' transcripts are added.
    """
    if decoder == "greedy":
        return spec, None
    fewer, all_of_them = Bigram.of(others), Bigram.of([*others, *(text for _, text in held_out)])
    if decoder == "lexicon":
        chosen, rates = tune(replace(spec, lexicon=fewer.words), held_out, (0.0,))
        chosen = replace(chosen, lexicon=all_of_them.words)
    else:
        chosen, rates = tune(replace(spec, bigram=fewer), held_out)
        chosen = replace(chosen, bigram=all_of_them)
    return chosen, 100 * min(rates.values())


def scores(spec: RecognizerSpec, test: Scored) -> dict[str, Any]:
    """Error rates in percent, the word errors of each utterance, and the time that decoding took."""
    began, decoder = time.process_time(), spec.decoder()
    found = [" ".join(decoder.decode(frames)) for frames, _ in test]
    seconds, texts = time.process_time() - began, [text for _, text in test]
    counted = [word_errors([text], [words]) for text, words in zip(texts, found, strict=True)]
    (wrong, words), (wrong_characters, characters) = word_errors(texts, found), character_errors(texts, found)
    rates = {"wer": 100 * wrong / words, "cer": 100 * wrong_characters / characters}
    counts = {"word_errors": [errors for errors, _ in counted], "words": [number for _, number in counted]}
    return {**rates, "cpu_seconds": seconds, **counts}


def as_a_stream(engine: Engine, spec: RecognizerSpec, utterances: list[Utterance], test: Scored) -> dict[str, Any]:
    """How many utterances give the same words in chunks, what part of the words comes before the end, and the time."""
    recognizer, whole = Recognizer(engine, spec=spec), spec.decoder()
    found, early, began = [], 0, time.process_time()
    for utterance in utterances:
        words: list[str] = []
        for start in range(0, len(utterance.features), CHUNK):
            words += recognizer.feed(utterance.features[start : start + CHUNK])
        early += len(words)
        found.append(words + recognizer.finish())
    seconds = time.process_time() - began
    duration = sum(len(utterance.features) for utterance in utterances) / spec.sample_rate
    return {
        "utterances": len(utterances),
        "equal": sum(words == whole.decode(frames) for words, (frames, _) in zip(found, test, strict=True)),
        "words_before_the_end": early / sum(map(len, found)),
        "real_time_factor": seconds / duration,
    }


def bootstrap(row: dict[str, Any], other: dict[str, Any], decoder: str) -> dict[str, float]:
    """The word error rate of `row` minus that of `other`, over resampled test utterances."""
    errors, words = (np.array(row["decoders"][decoder][name]) for name in ("word_errors", "words"))
    others = np.array(other["decoders"][decoder]["word_errors"])
    chosen = np.random.default_rng(SEED).integers(len(words), size=(RESAMPLES, len(words)))
    differences = 100 * (errors - others)[chosen].sum(1) / words[chosen].sum(1)
    low, high = np.quantile(differences, (0.025, 0.975))
    return {
        "difference": 100 * float((errors - others).sum() / words.sum()),
        "from": float(low),
        "to": float(high),
        "fewer_errors": float((differences < 0).mean()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Word error rates as Markdown."""
    lines = ["| model | bytes | " + " | ".join(DECODERS) + " |", "|---|---|" + "---|" * len(DECODERS)]
    for row in rows:
        cells = []
        for decoder in DECODERS:
            found = row.get("against", {}).get(decoder)
            interval = f" ({found['from']:+.1f} to {found['to']:+.1f})" if found else ""
            cells.append(f"{row['decoders'][decoder]['wer']:.2f}{interval}")
        lines.append(f"| {row['model']} | {row['bytes']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Read arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--weights", default="float32", help="types that runs are packed in, with commas")
    parser.add_argument("--against", type=Path, help="the model to compare each other one with")
    parser.add_argument("--tune-on", type=Path, help="the model whose outputs the decoders' weights are chosen with")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    kinds = arguments.weights.split(",")
    judge = engines_of(arguments.tune_on, ["float32"])[0][1] if arguments.tune_on else None
    paths = [arguments.against] if arguments.against else []
    rows = [
        row_of(name, engine, judge or engine)
        for path in [*paths, *arguments.models]
        for name, engine in engines_of(path, kinds)
    ]
    for row in rows[1:] if arguments.against else ():
        row["against"] = {decoder: bootstrap(row, rows[0], decoder) for decoder in DECODERS}
    print(table(rows))
    if arguments.out:
        settings = {"seed": SEED, "resamples": RESAMPLES, "against": rows[0]["model"] if arguments.against else None}
        content = {"machine": describe_machine(), **settings, "rows": rows}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
