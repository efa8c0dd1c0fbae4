"""Write docs/seeds.md: what the papers claim that this project follows, and what was seen here.

python benchmarks/seeds_page.py

Figures are read from benchmarks/results. A row that has not been trained yet is not claimed, until it is.
"""

import json
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from compactrnn.report.insert import insert

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "seeds.md", ROOT / "benchmarks" / "results"


class Missing(LookupError):
    """There is no such row among the results."""


class Claim(NamedTuple):
    """A claim of an abstract, the command here, and what was seen: a function of the results, or why nothing was."""

    claim: str
    command: str
    seen: Callable[[], str] | str


@cache
def result(name: str) -> dict[str, Any]:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(name: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a file that have these values."""
    found = [row for row in result(name)["rows"] if all(row.get(key) == value for key, value in values.items())]
    if not found:
        raise Missing(f"not trained yet ({', '.join(map(str, values.values()))})")
    return found


def speed_of_sizes() -> str:
    """The published sizes, random weights."""
    before, after = (rows("bench", model=f"lstm:1500-{sizes}", steps=1) for sizes in ("1500-1500", "373-315"))

    def best(found: list[dict[str, Any]], ours: bool) -> float:
        names = ("engine int8",) if ours else {row["entry"] for row in found if not row["entry"].startswith("engine")}
        return min(row["hot"]["median"] for row in found if row["entry"] in names and row["hot"])

    ours, others = ((best(before, kind), best(after, kind)) for kind in (True, False))
    return (
        f"speed of the sizes alone, with random weights: the engine in int8 {ours[0] / ours[1]:.1f} times faster "
        f"({ours[0]:.0f} to {ours[1]:.1f} us), the fastest framework in any form {others[0] / others[1]:.1f} times "
        f"({others[0]:.0f} to {others[1]:.1f} us)"
    )


def demo() -> str:
    """Medians over the trainings of the demo."""
    found = {}
    for name in ("dense", "compact", "from_scratch"):
        of_seeds = [row for report in result("demo")["reports"] for row in report["rows"] if row["name"] == name]
        found[name] = {
            key: statistics.median(row[key] for row in of_seeds)
            for key in ("bits_per_character", "recurrent_parameters", "macs_per_step")
        }
        found[name]["time"] = statistics.median(row["microseconds_per_step"]["engine"] for row in of_seeds)
    dense, compact, scratch = (found[name] for name in ("dense", "compact", "from_scratch"))
    return (
        f"characters of *Alice in Wonderland*, 2 x 256 units, {len(result('demo')['reports'])} seeds: "
        f"{dense['macs_per_step'] / compact['macs_per_step']:.1f} times fewer multiply-accumulates, "
        f"{dense['time'] / compact['time']:.1f} times faster on the engine, {compact['bits_per_character']:.3f} bits "
        f"per character for {dense['bits_per_character']:.3f}; from scratch {scratch['bits_per_character']:.3f}"
    )


def speech(row: str) -> str:
    """A row of the study of acoustic models beside the dense one: medians over seeds, int8, greedy."""

    def median(name: str, value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(one) for one in rows("compact_weights", row=name))

    def errors(one: dict[str, Any]) -> float:
        return one["files"]["int8"]["decoders"]["greedy"]["wer"]

    def parameters(one: dict[str, Any]) -> float:
        return one["parameters"]

    seeds = len(rows("compact_weights", row=row))
    fewer = 100 - 100 * median(row, parameters) / median("dense", parameters)
    return (
        f"AN4, bidirectional LSTM, `{row}`: {fewer:.0f} % of the parameters removed, {median(row, errors):.1f} % of "
        f"the words wrong for {median('dense', errors):.1f} % ({seeds} seed{'s' * (seeds > 1)}; two points are noise)"
    )


def words(row: str) -> str:
    """A row of the study of language models."""
    (dense,), (small,) = rows("compact_language_model", row="dense"), rows("compact_language_model", row=row)
    times = dense["recurrent_parameters"] / small["recurrent_parameters"]
    text = (
        f"Penn Treebank, 2 x 200 units tied to the embedding: LSTM layers {times:.1f} times smaller, test perplexity "
        f"{small['test']:.1f} for {dense['test']:.1f} ({100 * small['test'] / dense['test'] - 100:+.1f} %) after "
        f"{small['updates']['total']:,} updates for {dense['updates']['total']:,}, one seed"
    )
    name = f"scratch:dense:{row.rpartition(':')[2]}"
    scratch = [row["test"] for row in result("compact_language_model")["rows"] if row["row"] == name]
    from_scratch = f"{scratch[0]:.1f}" if scratch else "not trained yet"
    return f"{text}; a model of the whole size with fewer units, from scratch, as many updates: {from_scratch}"


def digits(row: str) -> str:
    """A row of the study of spoken digits."""
    (dense,), (small,) = rows("compact_digits", row="dense"), rows("compact_digits", row=row)
    fewer = 100 - 100 * small["parameters"] / dense["parameters"]
    return (
        f"spoken digits, `{row}`: {fewer:.0f} % of the parameters removed, {small['error']:.1f} % errors on speakers "
        f"left out for {dense['error']:.1f} %, one seed"
    )


def reading() -> str:
    """The two reading models."""
    (dense,), (small,) = rows("reading", run="dense"), rows("reading", run="small")
    return (
        f"4,333 questions of SQuAD: {dense['macs'] / small['macs']:.1f} times fewer multiply-accumulates, F1 "
        f"{small['test_f1']:.1f} for {dense['test_f1']:.1f}, after {small['updates']['total']:,} updates for "
        f"{dense['updates']['total']:,}, so that the cut alone is not measured; one seed"
    )


def highways() -> str:
    """The recurrent highway networks."""
    (dense,), (small,), (scratch,) = (rows("rhn", row=name) for name in ("dense", "shrunk", "from scratch"))
    return (
        f"characters of the Penn Treebank, {dense['units'][0]} units, four layers deep, group lasso: "
        f"{dense['macs'] / small['macs']:.1f} times fewer multiply-accumulates, {small['test']:.3f} bits per character "
        f"for {dense['test']:.3f} after as many updates, so that it is not without loss; from scratch "
        f"{scratch['test']:.3f}; one seed ([rhn.md](rhn.md))"
    )


def sparse_speed() -> str:
    """Steps with a tenth of the blocks."""
    found = [row["dense over this"] for row in result("sparse_products")["blocks"] if row["kept"] == 0.1]
    return (
        f"a step of int8 LSTMs with a tenth of their 16 x 4 blocks: {min(found):.1f} to {max(found):.1f} times faster"
    )


def kronecker_speed() -> str:
    """Steps with Kronecker products."""
    found = [row["ratio"]["Kronecker"]["median"] for row in rows("kronecker_products")]
    times = f"{min(found):.1f} to {max(found):.1f} times faster"
    return f"a step of int8 LSTMs with Kronecker products, without free entries: {times} than dense"


def long_run(command: str) -> dict[str, Any]:
    """A run of a long-sequence task."""
    return rows("long_sequences", command=f"compactrnn train recipes/{command}")[0]


def adding() -> str:
    """The adding problem of 5,000 steps."""
    runs = {name: long_run(f"adding-{name}.toml")["test"] for name in ("durnn", "indrnn", "lstm")}
    return (
        f"adding problem of 5,000 steps, equally many parameters, one seed: mean squared error {runs['durnn']:.1g}; "
        f"IndRNN {runs['indrnn']:.1g}, LSTM {runs['lstm']:.2f}, which is that of always answering 1"
    )


def parts() -> str:
    """The parts of DuRNN, one at a time."""
    runs = {
        part: long_run(f"adding-durnn.toml --set model.cell_options.parts={part}")["test"] for part in ("short", "long")
    }
    text = ", ".join(f"{name} part alone {value:.2f}" for name, value in runs.items())
    without = long_run("adding-durnn.toml --set model.cell_options.selection=false")["test"]
    return f"mean squared error: {text}, both without selection {without:.2f}; all of it: the row above"


def mnist() -> str:
    """Pixel-by-pixel MNIST."""
    right = {
        (order, cell): 100 - long_run(f"{order}mnist-{cell}.toml")["test"]
        for order in "sp"
        for cell in ("durnn", "indrnn")
    }
    return (
        f"784 steps, one seed: sequential MNIST {right['s', 'durnn']:.1f} % right "
        f"(IndRNN {right['s', 'indrnn']:.1f} %), "
        f"permuted {right['p', 'durnn']:.1f} % (IndRNN {right['p', 'indrnn']:.1f} %)"
    )


def parallel_lmu() -> str:
    """Permuted MNIST by the memory without feedback, and the time of its training."""
    found = [row for row in result("long_sequences")["rows"] if "pmnist-lmu.toml" in row["command"]]
    if not found:
        raise Missing("not trained yet (pmnist-lmu.toml)")
    of_size = {
        row["parameters"]: [other for other in found if other["parameters"] == row["parameters"]] for row in found
    }
    texts = []
    for size, runs in sorted(of_size.items()):
        right = ", ".join(f"{run['test_accuracy']:.1f}" for run in runs)
        minutes = statistics.median(run["cpu_seconds"] for run in runs) / 60
        seeds = f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
        texts.append(f"{right} % with {size:,} parameters ({seeds}) after {minutes:.1f} CPU minutes")
    others = {cell: long_run(f"pmnist-{cell}.toml") for cell in ("durnn", "indrnn")}
    beside = ", ".join(f"{run['cpu_seconds'] / 60:.0f} ({cell})" for cell, run in others.items())
    return f"{'; '.join(texts)}; recurrences that run step by step took {beside}"


def copying(cell: str) -> str:
    """Copy memory of 1,000 steps beside the LSTM."""
    own, lstm = (long_run(f"copy-{name}.toml") for name in (cell, "lstm"))
    right = [f"{100 - run['test_recall_error']:.1f} % of the symbols right" for run in (own, lstm)]
    return (
        f"copy memory of 1,000 steps, {own['parameters']:,} parameters, one seed: {right[0]}; an LSTM of "
        f"{lstm['parameters']:,} parameters {right[1]}, and one of eight is chance"
    )


def time_scale() -> str:
    """Other sampling rates and lost steps, as means over seeds."""
    own = rows("time_scale", row="HiPPO-LegS")
    cells = dict.fromkeys(row["row"] for row in rows("time_scale"))
    texts = []
    for reading in own[0]["accuracy"]:
        right = {
            cell: statistics.fmean(row["accuracy"][reading] for row in rows("time_scale", row=cell)) for cell in cells
        }
        first = right.pop("HiPPO-LegS")
        best = max(right, key=lambda cell: right[cell])
        texts.append(f"{reading} {first:.1f} (best other: {best} {right[best]:.1f})")
    seeds = f"mean of {len(own)} seeds" if len(own) > 1 else "one seed"
    return (
        f"smartwatch activities, as many parameters, percent right by HiPPO-LegS, {seeds}: {'; '.join(texts)}; "
        f"all cells: [own-data.md](own-data.md)"
    )


def music(cell: str, layers: int, corpus: str = "JSB_Chorales", **options: Any) -> str:
    """The test results of a cell on music, of each seed."""
    found = [
        row
        for row in result("long_sequences")["rows"]
        if row["recipe"]["task"] == {"name": "music", "corpus": corpus}
        for model in [row["recipe"]["model"]]
        if (model["cell"], len(model["hidden"])) == (cell, layers)
        and all(model[name] == value for name, value in options.items())
    ]
    if not found:
        raise Missing(f"not trained yet ({cell})")
    return " and ".join(f"{row['test']:.2f}" for row in sorted(found, key=lambda row: row["seed"]))


def lazy() -> str:
    """Lazy updates and shortcuts, each by itself and both."""
    runs = {
        f"{cell}{' with a shortcut' if residual else ''}": music(cell, 2, residual=residual)
        for cell in ("LSTM", "LazyLSTM")
        for residual in (False, True)
    }
    said = "; ".join(f"{name} {nats}" for name, nats in runs.items())
    return f"music, Bach's chorales, two layers of 84 units, nats a step of each seed: {said}"


def feedforward() -> str:
    """Memory blocks in the place of a recurrence."""
    return (
        f"music in the place of language, as many parameters as the LSTM, nats a step of each seed: Bach's chorales, "
        f"FSMN {music('FSMN', 3)}, DFSMN {music('DFSMN', 1)}, LSTM {music('LSTM', 1)}; tunes of Nottingham, DFSMN "
        f"{music('DFSMN', 1, 'Nottingham')}, LSTM {music('LSTM', 1, 'Nottingham')}"
    )


def windows() -> str:
    """Message propagation against windows that start from zero states."""
    errors = {(row["data"], row["strategy"], row["seed"]): row["test"] for row in result("window_states")["rows"]}
    other = [key for key in errors if key[1] == "zero" and (key[0], "propagate", key[2]) in errors]
    ratio = statistics.geometric_mean(errors[key[0], "propagate", key[2]] / errors[key] for key in other)
    data = len({key[0] for key in other})
    return (
        f"test error {100 * (ratio - 1):+.1f} % against windows from zero states, in the geometric mean over {data} "
        f"data sets and {len(other) // data} seeds; against the others: [window-states.md](window-states.md)"
    )


def first_symbol() -> str:
    """The task of the first symbol."""
    run = long_run("first-symbol.toml")
    if not run.get("solved"):
        raise Missing("not solved")
    minutes = run["solved"]["cpu_seconds"] / 60
    solved = f"solved after {minutes:.1f} CPU minutes on two threads"
    return f"a million: not run; 131,072 steps, two layers of 64 units, {solved}"


def scans() -> str:
    """Scans of 65,536 steps over the sequential loop."""
    ratios = [row["ratio_to_ours"]["native loop"][0] for row in rows("linear_scan", steps=65536)]
    return (
        f"on one CPU core, 65,536 steps and their gradients: {min(ratios):.1f} to {max(ratios):.1f} times faster than "
        f"the native loop over time"
    )


def cells() -> str:
    """The best of each cell in the search."""
    found = result("cell_search")["configurations"]
    best: dict[str, dict[str, Any]] = {}
    for one in sorted(found, key=lambda one: one["valid"]):
        best.setdefault(one["values"]["model.cell"], one)
    errors = ", ".join(f"{cell} {one['test']:.1g} ({one['parameters']:,} parameters)" for cell, one in best.items())
    return (
        f"a search for one cell of the whole model, not for each step: adding problem, {len(found)} combinations of "
        f"cell, weight and size, two seeds; mean squared error of the best of each cell: {errors}"
    )


PAPERS: dict[str, list[Claim]] = {
    "Learning compact recurrent neural networks (Lu, Sindhwani, Sainath, 2016)": [
        Claim(
            "75 % of the parameters of an LSTM acoustic model removed for 0.3 points of word error rate, 2,000 hours "
            "of voice search; Toeplitz-like matrices in the bottom layers, shared low rank in the top layers",
            "`python benchmarks/compact_weights.py --rows dense start:hybrid:4`",
            lambda: speech("start:hybrid:4"),
        ),
        Claim(
            "the same factor, by low rank in all layers",
            "`python benchmarks/compact_weights.py --rows dense cut:low-rank:4`",
            lambda: speech("cut:low-rank:4"),
        ),
    ],
    "Intrinsic sparse structures in LSTM (Wen W. et al., 2018)": [
        Claim(
            "10.59 times faster without loss of perplexity, Penn Treebank, 2 x 1500 units",
            "`python benchmarks/ptb_large.py --rows dense iss --accelerator cuda`",
            "begun on a GPU and cut off; a dense model, tied, reaches 80.8, one seed ([ptb-large.md](ptb-large.md))",
        ),
        Claim("the same, time alone", "`compactrnn bench lstm:1500-1500-1500 lstm:1500-373-315`", speed_of_sizes),
        Claim("the same, on a small model", "`python benchmarks/demo_seeds.py`", demo),
        Claim(
            "small models for reading comprehension, SQuAD",
            "`python benchmarks/reading.py runs/dense runs/small`",
            reading,
        ),
        Claim(
            "the method suits recurrent highway networks, too",
            "`compactrnn train recipes/ptb-rhn.toml`, `python benchmarks/rhn.py runs`",
            highways,
        ),
    ],
    "Structured pruning by neuron selection (Wen L. et al., 2019)": [
        Claim(
            "nearly 20 times faster in practice without loss, Penn Treebank",
            "`python benchmarks/ptb_large.py --rows dense selection --accelerator cuda`",
            "needs a GPU",
        ),
    ],
    "Exploring sparsity in recurrent neural networks (Narang et al., 2017)": [
        Claim("90 % smaller, 2 to 7 times faster", "`python benchmarks/sparse_products.py`", sparse_speed),
        Claim(
            "8 times smaller at about the quality of the dense model, speech",
            "`python benchmarks/compact_weights.py --rows dense cut:sparse:8`",
            lambda: speech("cut:sparse:8"),
        ),
        Claim(
            "the same, 4 times smaller in blocks of 16 x 4",
            "`python benchmarks/compact_digits.py --rows dense cut:block-sparse:4`",
            lambda: digits("cut:block-sparse:4"),
        ),
        Claim("a larger model, pruned, is better than the dense one", "", "not run"),
    ],
    "Doping and Kronecker products (Thakker et al., 2019 to 2021)": [
        Claim(
            "LSTM layers of a language model 25 times smaller for 1.4 % of perplexity",
            "`python benchmarks/compact_language_model.py --rows dense cut:doped-kronecker:25`",
            lambda: words("cut:doped-kronecker:25"),
        ),
        Claim(
            "10 to 25 times smaller on four language applications",
            "`python benchmarks/compact_language_model.py --rows dense cut:doped-kronecker:10`",
            lambda: words("cut:doped-kronecker:10"),
        ),
        Claim("2.5 to 5.5 times faster with them", "`python benchmarks/kronecker_products.py`", kronecker_speed),
        Claim(
            "15 to 38 times smaller by Kronecker products on tasks of small devices, 50 times with int8",
            "`python benchmarks/compact_digits.py --rows dense cut:kronecker:4`",
            lambda: digits("cut:kronecker:4") + "; such factors: not run",
        ),
    ],
    "Dual recurrent neural networks (Zhang et al., 2020); the cell here is reconstructed from the abstract": [
        Claim("sequences of more than 5,000 steps", "`compactrnn train recipes/adding-durnn.toml`", adding),
        Claim(
            "one part for short and one for long dependence, a selection between them",
            "`compactrnn train recipes/adding-durnn.toml --set model.cell_options.parts=short`",
            parts,
        ),
        Claim("short sequences as well", "`compactrnn train recipes/pmnist-durnn.toml`", mnist),
    ],
    "Parallelizing linear recurrent neural nets (Martin, Cundy, 2018)": [
        Claim(
            "a kernel up to 40 times faster by a parallel scan, on a GPU", "`python benchmarks/linear_scan.py`", scans
        ),
        Claim(
            "a dependence over more than a million steps is learnt",
            "`compactrnn train recipes/first-symbol.toml`",
            first_symbol,
        ),
    ],
    "HiPPO (Gu et al., 2020)": [
        Claim("98.3 % right on permuted MNIST", "`cr.Recurrent(cr.HiPPO, ...)`", "not run with this cell"),
        Claim(
            "25 to 40 % more accurate when time is rescaled or data are missing",
            "`python benchmarks/time_scale.py`",
            time_scale,
        ),
    ],
    "Parallelizing Legendre memory unit training (Chilkuri, Eliasmith, 2021)": [
        Claim(
            "the best result on permuted MNIST, with a training up to 200 times faster",
            "`compactrnn train recipes/pmnist-lmu.toml`",
            parallel_lmu,
        ),
    ],
    "Unitary and orthogonal recurrences (Arjovsky et al., 2016; Shafran et al., 2019; Helfrich, Ye, 2019)": [
        Claim(
            "a unitary evolution learns long dependences",
            "`compactrnn train recipes/copy-urnn.toml`",
            lambda: copying("urnn"),
        ),
        Claim(
            "an eigenvalue-normalized recurrence is competitive where both long and short memory are needed",
            "`compactrnn train recipes/copy-enrnn.toml`",
            lambda: copying("enrnn") + "; tasks of short memory: not run",
        ),
        Claim(
            "a complex evolution has 0.8 points fewer word errors in front of an LSTM acoustic model",
            "`cr.Recurrent(cr.URNN, ..., unitary=False)`",
            "no acoustic model was trained with it",
        ),
    ],
    "Message propagation through time (Xu et al., 2024); reconstructed from the abstract": [
        Claim("better than seven strategies for initial states", "`python benchmarks/window_states.py`", windows),
    ],
    "Gated memory in speech recognition (Tang et al., 2016)": [
        Claim(
            "lazy cell updates and shortcuts make better networks",
            "`compactrnn train recipes/music-lstm.toml --set model.cell=LazyLSTM --set model.hidden='[84, 84]' "
            "--set model.residual=true`",
            lazy,
        ),
    ],
    "DIANet (Huang et al., 2020)": [
        Claim(
            "image networks get better with an LSTM that their layers share",
            "`python examples/attention_over_depth.py`",
            "an example without a result file",
        ),
    ],
    "Feedforward sequential memory networks (Zhang et al., 2015)": [
        Claim(
            "better language models than recurrent networks give",
            "`compactrnn train recipes/music-dfsmn.toml`",
            feedforward,
        ),
    ],
    "Dynamic cell structure (Qian et al., 2019)": [
        Claim(
            "a structure of the cell that is found by search is better than a GRU",
            "`compactrnn sweep recipes/quick-adding.toml --over cell=LSTM,GRU,MGU,FastGRNN` ([sweep.md](sweep.md))",
            cells,
        ),
    ],
}

NOT_BUILT = {
    "testRNN (Huang et al., 2019)": "tests of LSTMs by coverage",
    "Text compression (Cox, 2016)": "compresses text with the help of syntax",
    "Input-output RNN by spectral methods (Sedghi, Anandkumar, 2016)": "guarantees for training",
    "Recurrent attention (Yang et al., 2016)": "better translation",
    "Queueing networks as RNNs (Garbi et al., 2020)": "learns performance models of programs",
    "CNN-F (Huang et al., 2020)": "image networks that are more robust by feedback",
    "Dense RNN for scene parsing (Fan et al., 2018)": "better scene parsing",
    "Optimizing RNNs on GPUs (Appleyard et al., 2016)": "an order of magnitude over a naive implementation on a GPU",
}


def line(claim: Claim) -> str:
    """A row of a table; what cannot be said is not claimed."""
    try:
        seen = claim.seen() if callable(claim.seen) else f"not claimed: {claim.seen}"
    except Missing as missing:
        seen = f"not claimed: {missing}"
    return f"| {claim.claim} | {claim.command} | {seen} |\n"


def tables() -> str:
    """All papers."""
    text = ""
    for paper, claims in PAPERS.items():
        head = f"\n## {paper}\n\n| claim of the abstract | command | here |\n|---|---|---|\n"
        text += head + "".join(map(line, claims))
    text += "\n## Not built, and so not claimed\n\n| paper | its claim, in words |\n|---|---|\n"
    return text + "".join(f"| {paper} | {claim} |\n" for paper, claim in NOT_BUILT.items()) + "\n"


def filled(page: str) -> str:
    """The page with the figures of the result files."""
    return insert(page, "seeds", tables())


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
