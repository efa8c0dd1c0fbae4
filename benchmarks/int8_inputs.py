"""Quantization error of models that read raw features, without and with calibration data.

python benchmarks/int8_inputs.py [--seeds 3] [--out benchmarks/results/int8_inputs.json] [--page docs/quantization.md]

Models have random weights, in three ways: as torch draws them; recurrent and input weights three times as large; and
besides, each column of the first matrix divided by the deviation of what it reads, as training leaves it. One model is
trained. Calibration data are 4 sequences; errors are measured on 4 others, against torch, and of all seeds the worst is
kept. No figure here is a time.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.cells import DuRNN, IndRNN
from compactrnn.lower import lower
from compactrnn.report.insert import insert
from compactrnn.runtime.file import read, write
from compactrnn.runtime.measure import compare, run
from compactrnn.runtime.quantize import quantize

BATCH, STEPS = 4, 120


def mel_power(rng: np.random.Generator, steps: int = STEPS) -> np.ndarray:
    """40 bands; the largest is 40 times the median; loudness from frame to frame is log-normal."""
    bands = 40 ** (1 - np.linspace(0, 2, 40))
    return bands * rng.lognormal(0, 1.2, (BATCH, steps, 1)) * rng.gamma(1, 1, (BATCH, steps, 40))


def log_mel(rng: np.random.Generator) -> np.ndarray:
    """Its logarithm, around -8."""
    return np.log(1e-4 * mel_power(rng) + 1e-6)


def counts(rng: np.random.Generator) -> np.ndarray:
    """12 counts up to 10,000."""
    return np.floor(np.minimum(rng.lognormal(1, 2, (BATCH, STEPS, 12)), 1e4))


def mixed_units(rng: np.random.Generator) -> np.ndarray:
    """Heart rate, altitude in meters, a flag."""
    altitude = 3000 + rng.normal(0, 40, (BATCH, STEPS)).cumsum(1)
    return np.stack([rng.normal(70, 15, (BATCH, STEPS)), altitude, rng.random((BATCH, STEPS)) < 0.3], -1)


def audio(rng: np.random.Generator) -> np.ndarray:
    """Windows of 32 samples of 16 bits."""
    return np.round(rng.normal(0, 3000, (BATCH, STEPS, 32)) * rng.lognormal(0, 1, (BATCH, STEPS, 1))).clip(
        -32768, 32767
    )


class Speaker(nn.Module):
    """Three LSTM layers, whose last output becomes an embedding of length 1."""

    def __init__(self, size: int = 256, bands: int = 40, layer: type = nn.LSTM):
        super().__init__()
        self.rnn = layer(bands, size, 3, batch_first=True)
        self.linear = nn.Linear(size, size)

    def forward(self, x):
        y = torch.relu(self.linear(self.rnn(x)[0][:, -1]))
        return y / torch.norm(y, dim=1, keepdim=True)


class Tagger(nn.Module):
    """A layer of 64 units and a head."""

    def __init__(self, make: Callable[[int], nn.Module], features: int, outputs: int = 64):
        super().__init__()
        self.rnn = make(features)
        self.fc = nn.Linear(outputs, 10)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])


def gru(features: int) -> nn.Module:
    return nn.GRU(features, 64, batch_first=True)


def lstm(features: int) -> nn.Module:
    return nn.LSTM(features, 32, 2, batch_first=True, bidirectional=True)


def durnn(features: int) -> nn.Module:
    return cr.Recurrent(DuRNN, features, 64, batch_first=True, steps=STEPS)


def indrnn(features: int) -> nn.Module:
    return cr.Recurrent(IndRNN, features, 64, 2, batch_first=True, steps=STEPS)


CASES = [  # model, its name; data; how the weights are drawn; type of weights
    *[("speaker", nn.LSTM, mel_power, drawn, "int8") for drawn in ("torch", "large", "scaled", "trained")],
    ("speaker", nn.LSTM, log_mel, "scaled", "int8"),
    ("speaker", nn.GRU, mel_power, "scaled", "int8"),
    *[("tagger", gru, data, "scaled", "int8") for data in (mel_power, log_mel, counts, mixed_units, audio)],
    ("tagger", gru, audio, "torch", "int8"),
    *[("tagger", layer, mixed_units, "scaled", "int8") for layer in (lstm, durnn, indrnn)],
    ("tagger", gru, mixed_units, "scaled", "int4"),
    ("tagger", gru, mixed_units, "scaled", "auto"),
]
NAMES = {"gru": "GRU 64", "lstm": "2 x LSTM 32, both directions", "durnn": "DuRNN 64", "indrnn": "2 x IndRNN 64"}


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float32)


def model_of(kind: str, layer: Callable, drawn: str, data: torch.Tensor) -> nn.Module:
    """The model with random weights, or trained."""
    features = data.shape[-1]
    if kind == "speaker":
        model = Speaker(256, features, layer)  # pyright: ignore
    else:
        model = Tagger(layer, features)
    first = [p for n, p in model.rnn.named_parameters() if "weight_ih_l0" in n or "cells.0.0.input.weight" in n]
    first += [p for n, p in model.rnn.named_parameters() if "cells.0.0.gate.weight" in n]
    if drawn == "trained":
        return trained(model)
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            if drawn != "torch" and "weight_" in name:
                parameter *= 3
        for parameter in first:
            parameter /= data.flatten(0, -2).std(0) if drawn == "scaled" else 1
    return model.eval()


def trained(model: nn.Module, speakers: int = 24, updates: int = 200) -> nn.Module:
    """The speaker encoder after learning to tell speakers, each of whom has a spectrum, apart."""
    rng = np.random.default_rng(0)
    spectra = rng.lognormal(0, 0.5, (speakers, 1, 40))
    head = nn.Linear(256, speakers)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], 1e-3)
    for _ in range(updates):
        target = rng.integers(speakers, size=BATCH * 8)
        x = np.concatenate([mel_power(rng, 30) for _ in range(8)]) * spectra[target]
        loss = nn.functional.cross_entropy(10 * head(torch.nan_to_num(model(tensor(x)))), torch.tensor(target))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def measure(case: tuple, seed: int) -> dict:
    """One case and seed."""
    kind, layer, make_data, drawn, weights = case
    torch.manual_seed(seed)
    data, unseen = (tensor(make_data(np.random.default_rng([seed, part]))) for part in (0, 1))
    model = model_of(kind, layer, drawn, data)
    with torch.no_grad():
        want = [[y.numpy()] for y in model(unseen)]
    sequences = [x.numpy() for x in unseen]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an error above 2 %, which is what is measured
        report = cr.pack(model, Path(folder) / "m.crnn", data[:1], calibration=[data], weights=weights)
        chosen = read((Path(folder) / "m.crnn").read_bytes())
    plain = quantize(lower(model, data[:1]), weights)
    chosen.metadata = plain.metadata  # which says what was measured, too
    size = len(write(plain))
    row: dict = {"seed": seed, "bytes": size, "growth": len(write(chosen)) / size - 1}
    results = {"plain": run(plain, sequences), "chosen": run(chosen, sequences)}
    for name, got in results.items():
        each = [compare([w], [[g[0].reshape(w[0].shape)]]).cosine for w, g in zip(want, got, strict=True)]
        row |= {f"{name} error": compare(want, got).error, f"{name} cosine": min(each)}
    return {**row, "reasons": report.reasons, "types": report.types}


def row_of(case: tuple, seeds: int) -> dict:
    """The worst of all seeds."""
    kind, layer, make_data, drawn, weights = case
    found = [measure(case, seed) for seed in range(1 if drawn == "trained" else seeds)]
    name = f"3 x {layer.__name__} 256, embedding" if kind == "speaker" else NAMES[layer.__name__]
    return {
        "model": name,
        "data": make_data.__name__.replace("_", " "),
        "weights drawn": drawn,
        "type": weights,
        "plain error": max(f["plain error"] for f in found),
        "plain cosine": min(f["plain cosine"] for f in found),
        "error": max(f["chosen error"] for f in found),
        "cosine": min(f["chosen cosine"] for f in found),
        "bytes": found[0]["bytes"],
        "growth": max(f["growth"] for f in found),
        "float32": sorted({n for f in found for n, kind in f["types"].items() if kind == "float32"}),
        "scaled": sorted({n for f in found for n, reason in f["reasons"].items() if "columns scaled" in reason}),
        "scale per step": sorted({n for f in found for n, reason in f["reasons"].items() if "every step" in reason}),
        "seeds": found,
    }


def page(rows: list[dict]) -> str:
    """The table for the documentation."""
    lines = [
        "| model | data | weights | type | plain: error, cosine | chosen: error, cosine | bytes | kept in float32 |"
        " columns scaled | scale per step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain, chosen = (
            f"{row[e]:.1%}, {row[c]:.4f}" for e, c in (("plain error", "plain cosine"), ("error", "cosine"))
        )
        cells = [row["model"], row["data"], row["weights drawn"], row["type"], plain, chosen, f"{row['growth']:+.1%}"]
        cells += [", ".join(row[k]) for k in ("float32", "scaled")] + [str(len(row["scale per step"]))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "int8_inputs.json")
    parser.add_argument("--page", type=Path, help="where to put the table, between the marks 'int8 inputs'")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(row_of(case, arguments.seeds))
        print(page(rows[-1:]).splitlines()[-1], flush=True)
    result = {
        "what": "outputs of int8 models against torch on data not calibrated with; of all seeds the worst",
        "sequences": {"calibration": BATCH, "measured": BATCH, "steps": STEPS},
        "seeds": arguments.seeds,
        "machine": describe_machine(),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.page:
        text = insert(arguments.page.read_text(encoding="utf-8"), "int8 inputs", page(rows))
        arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
