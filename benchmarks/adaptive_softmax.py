"""How many products a step of a language model takes where an adaptive softmax opens only the clusters that it needs.

    COMPACTRNN_DATA=... python benchmarks/adaptive_softmax.py [--updates 600] [--words 5000]

An LSTM of 200 units on the Penn Treebank, its words in the order of their frequency, in clusters from `CUTOFFS` on, is
trained for so many updates and packed in int8. Then the engine reads the first words of the test part: the log
probability of the word that follows, and the k likeliest words.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from published import RESULTS
from torch import Tensor, nn

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.data.corpus import load_corpus
from compactrnn.report.insert import insert

RESULT, PAGE = RESULTS / "adaptive_softmax.json", Path(__file__).parents[1] / "docs" / "adaptive-softmax.md"
CUTOFFS, LARGEST, UNITS = (1000, 4000), (1, 10, 100), 200


class LanguageModel(nn.Module):
    """Words to the log probabilities of the next."""

    def __init__(self, words: int):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(words, UNITS), nn.LSTM(UNITS, UNITS, batch_first=True)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(UNITS, words, list(CUTOFFS))

    def hidden(self, words: Tensor) -> Tensor:
        """(batch, time, units)."""
        return self.lstm(self.embedding(words))[0]

    def forward(self, words: Tensor) -> Tensor:
        return self.softmax.log_prob(self.hidden(words).flatten(0, 1)).unflatten(0, words.shape)


def numbered(text: str, rank: dict[str, int]) -> np.ndarray:
    """The words of a text, and an end of each line, by their rank."""
    return np.array([rank[word] for word in text.replace("\n", " <eos> ").split()])


def train(model: LanguageModel, words: np.ndarray, updates: int) -> None:
    """On random spans of the text."""
    rng, optimizer = np.random.default_rng(0), torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(updates):
        starts = rng.integers(0, len(words) - 36, 20)
        spans = torch.from_numpy(np.stack([words[start : start + 36] for start in starts]))
        loss = model.softmax(model.hidden(spans[:, :-1]).flatten(0, 1), spans[:, 1:].flatten()).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def measure(path: Path, words: np.ndarray) -> dict:
    """Means of a step: products, clusters opened, and the perplexity of the words."""
    engine = cr.AdaptiveEngine(path)
    stream, other, lost = engine.stream(), engine.stream(), 0.0
    taken: dict[str, list[int]] = {"log_prob of a word": [], **{f"top {k}": [] for k in LARGEST}}
    for word, following in zip(words[:-1].tolist(), words[1:].tolist(), strict=True):
        step = stream.step(word)
        lost -= step.log_prob(following)
        taken["log_prob of a word"].append(step.macs)
        step = other.step(word)
        for k in LARGEST:  # each opens the clusters of those before, and perhaps more
            step.top_k(k)
            taken[f"top {k}"].append(step.macs)
    whole = engine.macs_per_step + sum(engine.cluster_macs)
    rows = {"all words": whole, **{name: round(float(np.mean(macs))) for name, macs in taken.items()}}
    return {"perplexity": round(float(np.exp(lost / (len(words) - 1))), 1), "products": rows}


def page(found: dict) -> str:
    """The table of the page."""
    whole, lstm = found["products"]["all words"], 8 * UNITS * UNITS
    rows = [
        f"| {name} | {macs:,} | {whole / macs:.2f} | {macs - lstm:,} | {(whole - lstm) / (macs - lstm):.2f} |"
        for name, macs in found["products"].items()
    ]
    trained = f"After {found['updates']} updates, perplexity {found['perplexity']} on these {found['words']:,} words."
    head = ["| asked for | products of a step | times fewer | of the softmax | times fewer |", "|---|---|---|---|---|"]
    return "\n".join(["", trained, "", *head, *rows, "", ""])


def main() -> None:
    """Read arguments, train, measure, write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--words", type=int, default=5000)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    corpus = load_corpus("ptb")
    counts = Counter(corpus.train.replace("\n", " <eos> ").split())
    rank = {word: number for number, (word, _) in enumerate(counts.most_common())}
    model = LanguageModel(len(rank))
    text = numbered(corpus.train, rank)
    train(model, text, given.updates)
    test = numbered(corpus.test, rank)[: given.words]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.crnn"
        spans = [torch.from_numpy(text[i * 1000 : i * 1000 + 100])[None] for i in range(8)]
        cr.pack(model.eval(), path, spans[0], calibration=spans)
        found = {"updates": given.updates, "words": given.words, **measure(path, test)}
    content = {"what": "products of a step with an adaptive softmax", "machine": describe_machine(), **found}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "adaptive", page(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
