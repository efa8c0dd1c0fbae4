import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from compactrnn.cli.app import app
from compactrnn.report.bench import FRAMEWORKS, roofline, run, timing
from compactrnn.report.bench.base import AbstractRunner, Config, Unsupported
from compactrnn.report.bench.cases import case
from compactrnn.report.bench.run import enter, framework_configs, measure
from scripts import benchmark

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(timing, "REPETITION", 0.001)
    monkeypatch.setattr(timing, "COLD_CALLS", 1)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.parametrize(("name", "steps"), [("lstm:12-16-16", 1), ("lstm:9@12-16-8", 3), ("gru:12-16", 2)])
def test_every_form_of_every_peer_answers_rightly_or_says_why_not(name, steps):
    for framework in FRAMEWORKS:
        pytest.importorskip(framework)
    rows = measure(case(name, ["int8"]), FRAMEWORKS, steps, 3)
    assert [row.entry for row in rows if not row.ours] == [config.name for config in framework_configs(FRAMEWORKS)]
    for row in rows:
        if row.hot is None:
            assert name.startswith("gru") and row.note == "its quantizer leaves GRU in float32", row
            continue
        assert not row.note and row.cold is not None and row.distance is not None
        assert 0 < row.hot["best"] <= row.hot["lower_quartile"] <= row.hot["median"] <= row.hot["upper_quartile"]
    ours = [row for row in rows if row.ours]
    assert all(row.against_fastest > 0 and row.against_float32 > 0 and row.weight_bytes > 0 for row in ours)


def test_ratios_are_those_within_a_round():
    ours, slow_machine = timing.Timing((1.0, 1.0, 2.0, 2.0)), timing.Timing((3.0, 3.0, 6.0, 6.0))
    assert slow_machine.times(ours) == 3.0 and ours.times(slow_machine) == 0.333


class Constant(AbstractRunner):
    """Always the same answer; wrong unless the model happens to agree."""

    def __init__(self, model, steps):
        self.answer = np.ones((steps, model.output_size), np.float32)

    def prepare(self, inputs):
        return inputs

    def feed(self, prepared):
        return self.answer

    def reset(self):
        pass

    def to_numpy(self, output):
        return output


def test_a_wrong_contender_is_not_timed_and_its_row_says_so(monkeypatch):
    def refuse(model, steps):
        raise Unsupported("not today\nnor tomorrow")

    configs = [
        Config("wrong float32", "float32", Constant),
        Config("wrong int8", "int8", Constant),
        Config("no", "", refuse),
    ]
    monkeypatch.setattr(run, "framework_configs", lambda frameworks: configs)
    *_, exact, quantized, refused = measure(case("lstm:4-8", ["float32"]), ["wrong"], 1, 3)
    for row, bound in ((exact, "at most 0.001"), (quantized, "at most 0.02")):
        assert row.hot is None and "wrong answers" in row.note and bound in row.note
    assert refused.note == "not today"


def test_answers_that_are_not_finite_are_wrong():
    one = case("gru:4-8", ["float32"])
    inputs = one.inputs(1)
    (entry,) = enter(
        [Config("x", "int8", Constant)], one.model, 1, inputs, lambda given: np.full((len(given), 8), np.nan)
    )
    assert entry.runner is None and "wrong answers" in entry.note


def test_a_peer_that_is_not_installed_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    monkeypatch.delitem(sys.modules, "compactrnn.report.bench.ncnn_runner", raising=False)
    rows = measure(case("lstm:4-8", ["float32"]), ["ncnn"], 1, 3)
    assert [row.note for row in rows] == ["", "not installed; run: pip install 'compactrnn[bench]'"]


def test_weights_that_a_step_touches(tmp_path):
    configs = (*case("lstm:12-16", ["int8", "float32"]).ours, *case("gru:9@12-16", ["int8"]).ours)
    sizes = [config.build(None, 1).weight_bytes for config in configs]
    products = 64 * (12 + 16)
    assert sizes[:2] == [products, 4 * products]
    assert 48 * 16 + 48 <= sizes[2] <= 48 * 28 + 12, "the hidden matrix and a row of the table, at least"


def test_the_roofline_comes_from_a_read_in_the_same_turns(monkeypatch):
    monkeypatch.setattr(roofline, "_native", SimpleNamespace(read_rate=lambda isa, size, repeats: 1e10))
    rows = measure(case("lstm:12-16", ["float32"]), [], 2, 3)
    (row,) = rows
    own = row.in_c or row.hot
    assert row.floor["median"] == pytest.approx(row.weight_bytes / 1e4, rel=1e-2)
    bounds = [2 * row.floor["median"] / own[name] for name in ("upper_quartile", "best")]
    assert bounds[0] * 0.99 <= row.fraction <= bounds[1] * 1.01
    rates = run.describe(rows, 3)["read_rates"]
    assert rates[0] == {"bytes": 1 << 14, "bytes_per_second": 1e10} and rates[-1]["bytes"] == 144 << 20


def test_figures_as_json(tmp_path):
    out = tmp_path / "new" / "bench.json"
    call("lstm:4-8", "--against", "torch", "--steps", 1, "--weights", "int8", "--rounds", 3, "--json", out)
    report = json.loads(out.read_text())
    assert set(report) == {"machine", "isa", "threads", "rounds", "read_rates", "rows"}
    assert report["machine"]["versions"]["torch"] and report["machine"]["processor"]
    row = report["rows"][0]
    assert (row["model"], row["entry"], row["precision"], row["steps"]) == ("lstm:4-8", "engine int8", "int8", 1)
    assert {"hot", "cold", "in_c", "floor", "fraction", "weight_bytes", "against_as_fine", "note"} <= set(row)
    assert "date" not in out.read_text() and "time_of" not in out.read_text()
    printed = call("lstm:4-8", "--against", "", "--steps", 1, "--weights", "int8", "--rounds", 3)
    assert "engine int8" in printed.stdout and "torch" not in printed.stdout


def test_interrupted_it_keeps_what_was_measured(monkeypatch, tmp_path):
    def interrupted(one, frameworks, steps, rounds, progress):
        if steps == 2:
            raise KeyboardInterrupt
        return measure(one, frameworks, steps, rounds, progress)

    monkeypatch.setattr(run, "measure", interrupted)
    out = tmp_path / "bench.json"
    result = call("lstm:4-8", "--against", "", "--steps", "1,2", "--weights", "int8", "--json", out, code=130)
    report = json.loads(out.read_text())
    assert "interrupted" in result.stderr and report["interrupted"] and len(report["rows"]) == 1


def test_the_demos_models_are_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("demo", "--against", "", "--steps", 1, "--weights", "float32", "--rounds", 3)
    assert "demo: compact, frameworks dense" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(((text,), "CELL:[VOCABULARY@]INPUT-HIDDEN") for text in ("lstm:40", "rnn:4-8", "gru:4-0", "lstm:@4-8", "x")),
        (("lstm:4-8", "--weights", "int3"), "expected some of int8"),
        (("lstm:4-8", "--against", "tensorflow"), ", ".join(FRAMEWORKS)),
        (("lstm:4-8", "--steps", "0"), "whole numbers"),
        (("demo:nowhere",), "compactrnn demo --train --out nowhere"),
        (("missing.crnn",), "missing.crnn"),
    ],
)
def test_mistakes_end_in_a_sentence(arguments, words):
    result = call(*arguments, code=2)
    assert words in " ".join(result.stderr.split()) and "Traceback" not in result.stderr


def test_the_performance_page_shows_the_committed_figures():
    page = benchmark("performance_page")
    text = page.PAGE.read_text(encoding="utf-8")
    report = json.loads(page.FIGURES.read_text(encoding="utf-8")) if page.FIGURES.exists() else None
    assert page.filled(text, report, page.tables) == text, "run: python benchmarks/performance_page.py"
    avx2 = json.loads(page.FIGURES_AVX2.read_text(encoding="utf-8"))
    again = page.filled(text, avx2, page.without_avx512, "bench-avx2")
    assert again == text, "run: python benchmarks/performance_page.py"
    readme = page.README.read_text(encoding="utf-8")
    assert page.filled(readme, report, page.summary) == readme, "run: python benchmarks/performance_page.py"
    assert "| lstm:4-8 | 2.0 us | | 6.0 (ncnn int8) | 3.0 |" in page.summary(_example())
    example = page.filled(text, _example(), page.tables)
    assert "| lstm:4-8 | 2.0 | | | 6.0 (ncnn int8) | 3.00 | 6.0 (ncnn int8) | 3.00 | 8.0 (torch cells) | |" in example
    assert (
        page.filled(example, report, page.tables) == text
        and "<svg" in page.roofline(_example())
        and "<svg" in page.bars(_example())
    )


def _example():
    def row(runner, precision, median, **more):
        timing = {"median": median, "lower_quartile": median, "upper_quartile": median, "best": median}
        return {
            "model": "lstm:4-8", "entry": runner, "precision": precision, "steps": 1, "hot": timing,
            "cold": timing, "in_c": None, "fraction": None, "weight_bytes": None, "note": "", **more,
        }  # fmt: skip

    timing = {"median": 1.5, "lower_quartile": 1.5, "upper_quartile": 1.5, "best": 1.5}
    ours = row(
        "engine int8",
        "int8",
        2.0,
        in_c=timing,
        fraction=0.5,
        weight_bytes=384,
        against_fastest=3.0,
        against_as_fine=3.0,
    )
    rows = [ours, row("ncnn int8", "int8", 6.0), row("torch cells", "float32", 8.0)]
    machine = {"processor": "a processor", "versions": {"torch": "2"}, "commit": "abc"}
    rates = [{"bytes": 1 << 14, "bytes_per_second": 10**11}, {"bytes": 1 << 20, "bytes_per_second": 10**10}]
    return {"machine": machine, "isa": "scalar", "rounds": 3, "read_rates": rates, "rows": rows}
