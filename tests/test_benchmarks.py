"""Smoke tests of the benchmarks behind published figures; the times measured here mean nothing."""

import numpy as np
import pytest

import compactrnn as cr
from compactrnn.cells import DuRNN
from compactrnn.runtime.file import write
from compactrnn.tasks import digit_audio
from scripts import BENCHMARKS, benchmark
from spoken_digits import toy_digits


def test_linear_scan():
    row = benchmark("linear_scan").race(16, 4, seconds=0)
    assert {"C loop", "native loop", "Python loop", "floor"} <= row["ratio_to_ours"].keys()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # a contender of the race
@pytest.mark.parametrize("loop", ["native loop", "Python loop"])
def test_time_loop(loop, monkeypatch):
    script = benchmark("time_loop")
    monkeypatch.setattr(script, "STEPS", 8)
    row = script.race("DuRNN", loop, batch=1, turns=2)
    assert "error" not in row and row["ratio_to_lstm"] > 0


def test_shipped_models(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="what is compared with")
    from onnx_models import detector

    detector(tmp_path / "detector.onnx")
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = benchmark("shipped_models")
    entry = ("", ["detector.onnx"], {"sr": 16000}, {"state": "stateN"}, (1, 5))
    monkeypatch.setitem(script.MODELS, "detector", entry)
    row = script.measured("detector", tmp_path, rounds=2, scratch=tmp_path)
    assert row["times faster"]["int8"] > 0 < row["microseconds in C"]["float32"]["median"]
    assert row["best of onnxruntime"].startswith("onnxruntime detector") and "detector" in script.table([row])
    assert script.measured("GTCRN", tmp_path, rounds=2, scratch=tmp_path) is None


def test_whole_sequences(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="what is compared with")
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = benchmark("whole_sequences")
    row = script.measured("3-8-8", steps=4, rounds=2, folder=tmp_path)
    assert row["times faster"].keys() == {"float32", "int8"} and "| 3-8-8 | 4 |" in script.table([row])
    assert {name.split()[0] for name in row["best of others"].values()} <= {"torch", "onnxruntime"}


def test_native_step():
    assert benchmark("native_step").row_of(DuRNN, rounds=2)["ratio"].keys() == {
        "torch cell / float32",
        "torch cell / int8",
    }


def test_inner_steps(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    row = benchmark("inner_steps").row_of(4, rounds=2)
    assert row["torch over engine"].keys() == {"float32", "int8"} and row["microseconds"]["float32"][1] > 0
    assert row["largest difference from torch"]["float32"] < 1e-6 < row["largest difference from torch"]["int8"] < 0.1


def test_cell_operations(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # it races as native_step does
    row = benchmark("cell_operations").row_of("gru", 16, "int8", rounds=2)
    assert row["1 steps"]["ratio"] > 0 < row["64 steps"]["ratio"]


def test_int8_inputs():
    script = benchmark("int8_inputs")
    case = ("tagger", script.gru, script.mixed_units, "scaled", "int8")
    row = script.row_of(case, seeds=1)
    assert row["plain error"] > 0.1 > 0.04 > row["error"] and row["scaled"] == ["rnn.weight_ih_l0"]
    assert "rnn.weight_ih_l0" in script.page([row])


def test_look_back():
    row = benchmark("look_back").measure(5, rounds=2)
    assert row["difference_from_torch"] < 1e-5
    assert row["operations"]["line"] < row["operations"]["shared"] < row["operations"]["apart"]


def test_structured_weights():
    rows = benchmark("structured_weights").race("LSTM", 16, 5, 2, "LowRank", 2, pairs=2, seed=0)
    assert [row["way"] for row in rows] == ["chosen", "dense", "own"] and all(row["ratio"] > 0 for row in rows)


def test_sparse_products(monkeypatch, tmp_path):
    script = benchmark("sparse_products")

    def run(steps, models, rounds):  # from Python: to compile the core takes too long here
        for model in models:
            assert np.isfinite(cr.Engine(write(model)).run(np.ones((2, *model.inputs[0].shape)))).all()
        return np.ones((len(models), rounds))

    monkeypatch.setattr(script, "race", run)
    dense, *rows = script.sparsity_rows(tmp_path, 32, 2, rounds=2)
    assert dense["dense over this"] == 1 and [row["MACs"] for row in rows] == [4096, 2048]
    row = script.scattered_row(tmp_path, 128, 0.02, rounds=2)
    assert row["entries int8"]["bytes"] < row["entries float32"]["bytes"] < row["lines float32"]["bytes"]


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_tied_weights(weights, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # it races as native_step does
    row = benchmark("tied_weights").row_of(300, 64, weights, rounds=2)
    assert row["once, bytes"] < row["twice, bytes"] - 300 * 64 and row["once over twice"] > 0


def test_digits(monkeypatch, tmp_path):
    script = benchmark("digits")
    monkeypatch.setattr(digit_audio, "load_fsdd", toy_digits)
    options = ["training.batch_size=16", "phases.train.epochs=2"]
    rows = [script.row_of("kilobyte", split, 1, tmp_path / split, options) for split in ("official", "1")]
    assert all(row["bytes"] <= 6000 and 0 <= row["test_int8"] <= 100 for row in rows)
    assert script.row_of("kilobyte", "1", 1, tmp_path / "1", options) == rows[1], "a finished run is read, not repeated"
    files = {name: tmp_path / "1" / "int8.crnn" for name in ("kilobyte", "lstm")}
    times = script.relative(script.frame_times(files, frames=3, rounds=3), "lstm")
    assert times["lstm"]["ratio"] == 1 and times["kilobyte"]["microseconds"] > 0
    assert "| kilobyte | 1 | " in script.table(rows, times)


@pytest.mark.parametrize(
    ("name", "arguments"), [("compact_digits", (0, 0)), ("compact_language_model", (0,)), ("compact_weights", (0,))]
)
def test_rows_of_a_study_have_the_size_that_they_say(name, arguments):
    """Those that are set from the dense model's matrices; low rank of the acoustic model is chosen by `keep`."""
    script = benchmark(name)
    whole = script.model_of(script.recipe_of("dense", *arguments).as_dict())
    layers = name == "compact_language_model"

    def size(model):
        return model.recurrent_parameters() if layers else sum(p.numel() for p in model.parameters())

    seen = 0
    for row in script.ROWS:
        kind, _, times = (row + "::").split(":")[:3]
        if kind == "scratch" and not layers:
            small, factorize = script.model_of(script.recipe_of(row, *arguments).as_dict()), None
        elif kind == "cut" and (factorize := script.recipe_of(row, *arguments).phases["small"].factorize):
            if not factorize.weights:
                continue
            recipe = script.recipe_of(row, *arguments).as_dict()
            given = {name: value for name in ("weights", "projection") if (value := getattr(factorize, name))}
            small = script.model_of({**recipe, "model": {**recipe["model"], **given}})
        else:
            continue
        assert size(whole) / int(times) * 0.7 < size(small) < size(whole) / int(times) * 1.15, row
        seen += 1
    assert seen >= 10


def test_a_study_keeps_one_row_for_each_name_and_seed(monkeypatch, tmp_path):
    script = benchmark("study")
    page = tmp_path / "page.md"
    page.write_text("<!-- x: begin -->\n<!-- x: end -->\n")
    monkeypatch.setattr(script, "PAGE", page)
    machine = {"commit": "abc", "processor": "a processor"}
    for seed, value in ((1, 5), (0, 6), (1, 7)):
        study = script.Study(tmp_path / "rows.json", ["first", "second"])
        study.add({"row": "second", "seed": seed, "machine": machine, "value": value})
        study.write("x", "a table")
    assert [(row["seed"], row["value"]) for row in script.Study(tmp_path / "rows.json", ["second"]).rows] == [
        (0, 6),
        (1, 7),
    ]
    assert page.read_text().split("\n\n")[1:3] == ["a table", "Not trained yet: `first`."]


def test_differences_between_models_of_digits_are_of_the_same_recordings():
    script = benchmark("compact_digits")
    one, other = {"wrong": "1" * 30 + "0" * 70}, {"wrong": "1" * 10 + "0" * 90}
    assert script.difference([(other, one)]).startswith("-20.0 (-2")
    assert script.difference([(one, one)]) == "+0.0 (+0.0 to +0.0)"


def test_quantize_cost(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = benchmark("quantize_cost")
    monkeypatch.setitem(script.MODELS, "tiny", (9, 8, 16, 2, 6))
    assert script.row_of("tiny", script.nn.GRU, "int4", rounds=2)["ratio"] > 0


def test_window_states(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = benchmark("window_states")
    path = tmp_path / "waves.csv"
    path.write_text("Temp\n" + "\n".join(f"{np.sin(step / 5):.3f}" for step in range(600)))
    monkeypatch.setitem(script.DATA, "temperatures", {**script.DATA["temperatures"], "file": str(path)})
    monkeypatch.setattr(script, "UPDATES", 2)
    row = script.row_of("temperatures: propagate", 0, tmp_path)
    assert 0 < row["test"] != row["test_in_windows"] > 0 and row["updates"] == 2 and row["steps_of_windows"] == 32
    assert script.recipe_of("pm25", "warm-up", 0).task.warm_up == 48
    rows = [
        {
            **row,
            "row": f"{data}: {strategy}",
            "data": data,
            "strategy": strategy,
            "seed": seed,
            "test": test * (1 + seed),
        }
        for seed in range(3)
        for data in script.DATA
        for strategy, test in zip(script.STRATEGIES, (2, 3, 3, 4, 3, 3, 1), strict=True)
    ]
    assert script.verdict(rows).startswith("**propagate** has the lowest test error, -50.0 % against **zero**")
    turns = [{**row, "test": 1.0 + (place * 5 + place // 28) % 7} for place, row in enumerate(rows)]
    assert script.verdict(turns).startswith("No strategy wins. **")
    assert "| zero | -50.0 % | -50.0 % to -50.0 % | 12 of 12 | 4 of 4 | 0.00049 | 0.125 |" in script.tests(rows)
    assert script.complete(rows[:-1]) == [row for row in rows if row["seed"] < 2]
    assert script.sign_flips([1.0, 2.0, 3.0]) == 0.25 and script.sign_flips([1.0, -1.0]) == 1.0
    assert script.sign_flips([0.1] * 20) < 1e-4 < 0.5 < script.sign_flips([0.1, -0.1] * 10)


def test_time_scale(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = benchmark("time_scale")
    x = np.arange(6.0)[:, None]
    assert script.resampled(x, 0.5)[:, 0].tolist() == [0, 2, 4]
    assert script.resampled(x, 2.0)[:, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5]
    there = script.kept(6, 0.5, np.random.default_rng(0))
    assert there[0] == 0 and len(there) == 3
    assert script.held(x, np.array([0, 1, 4]))[:, 0].tolist() == [0, 1, 1, 1, 4, 4]
