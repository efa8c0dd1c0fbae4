"""Tasks on a user's own file: parts, batches, normalization inside the model, metrics, and the command line."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from typer.testing import CliRunner

import compactrnn as cr
from compactrnn.cli.app import app
from compactrnn.models.series_front_end import SeriesFrontEnd
from compactrnn.models.series_model import SeriesModel, SeriesModelOptions
from compactrnn.tasks.forecasting import ForecastingData, ForecastingTask
from compactrnn.tasks.series_classification import SeriesClassificationData, SeriesClassificationTask, macro_f1
from compactrnn.tasks.series_regression import SeriesRegressionData, SeriesRegressionTask
from compactrnn.tasks.series_split import by_folds, by_time, windows
from compactrnn.tasks.table import task_of
from compactrnn.training.first_recipe import Wishes, first_recipe
from compactrnn.training.pack_run import pack_model

TINY = SeriesModelOptions(hidden=(6,), cell="GRU")


def waves(path, steps=400, missing=True):
    """A series of two numbers and a category, hourly; every seventeenth level is missing."""
    random = np.random.default_rng(0)
    lines, level = ["time,level,rain,wind"], 500.0
    for step in range(steps):
        level = 500 + 0.8 * (level - 500) + 20 * math.sin(step / 5) + random.standard_normal()
        shown = "NA" if missing and step % 17 == 3 else f"{level:.3f}"
        date = f"2024-01-{1 + step // 24:02d}T{step % 24:02d}:00"
        lines.append(f"{date},{shown},{random.random():.3f},{'NES'[step // 7 % 3]}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def steps_of(path, sequences=40):
    """Sequences of 4 to 9 steps of two kinds, by eight people, with a number each."""
    random = np.random.default_rng(1)
    lines = ["trial,who,a,b,kind,score,so_far"]
    for number in range(sequences):
        kind, total = number % 2, 0.0
        for _ in range(4 + number % 6):
            a = 100 * kind + 10 * random.standard_normal()
            total += a
            lines.append(f"{number},p{number % 8},{a:.3f},{random.random():.3f},{'xy'[kind]},{number * 3},{total:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    waves(folder / "waves.csv")
    steps_of(folder / "steps.csv")
    return folder


def forecasting(folder, batch_size=8, seed=0, **data):
    given = {"channels": ("level", "rain", "wind"), "categories": ("wind",), "missing": ("level",), "time": ("time",)}
    given |= {"targets": ("level",), "window": 12, "horizon": 3, "file": str(folder / "waves.csv"), **data}
    return ForecastingTask(ForecastingData(**given), batch_size=batch_size, seed=seed)


def classification(folder, batch_size=4, seed=0, **data):
    given = {"channels": ("a", "b"), "target": "kind", "sequence": "trial", "file": str(folder / "steps.csv"), **data}
    return SeriesClassificationTask(SeriesClassificationData(**given), batch_size=batch_size, seed=seed)


def regression(folder, batch_size=4, seed=0, **data):
    given = {
        "channels": ("a", "b"),
        "targets": ("score",),
        "sequence": "trial",
        "file": str(folder / "steps.csv"),
        **data,
    }
    return SeriesRegressionTask(SeriesRegressionData(**given), batch_size=batch_size, seed=seed)


def every_step(folder, **data):
    return regression(folder, targets=("so_far",), every_step=True, **data)


MADE = [forecasting, classification, regression, every_step]


@pytest.mark.parametrize("make", MADE)
def test_a_batch_follows_from_seed_epoch_and_index_alone(folder, make):
    task = make(folder, seed=1)
    late, again = task.batch(1, epoch=3), make(folder, seed=1).batch(1, epoch=3)
    assert_close(late.inputs, again.inputs, equal_nan=True, rtol=0, atol=0)
    assert_close(late.targets, again.targets, equal_nan=True, rtol=0, atol=0)
    for other in (make(folder, seed=2).batch(1, 3), task.batch(0, 3), task.batch(1, 4)):
        assert other.inputs.shape != late.inputs.shape or not torch.equal(other.inputs, late.inputs)
    task.check_start(1)


@settings(deadline=None)
@given(st.integers(3, 6), st.data(), st.integers(0, 99), st.booleans(), st.booleans())
def test_folds_have_every_sequence_once_and_no_group_twice(folds, data, seed, grouped, apart):
    labels = data.draw(st.lists(st.sampled_from("abc"), min_size=12, max_size=30))
    groups = np.array([f"g{n % 7}" for n in range(len(labels))]) if grouped else None
    each = [by_folds(folds, fold, seed, labels, groups, apart) for fold in range(folds)]
    for parts in each:
        together = np.concatenate(list(parts.values()))
        assert sorted(together.tolist()) == list(range(len(labels))) and ("test" in parts) == (not apart)
        if groups is not None:
            of = [set(groups[numbers].tolist()) for numbers in parts.values()]
            assert sum(map(len, of)) == len(set(groups.tolist()))
        else:
            for numbers in parts.values():
                assert len(numbers) >= len(labels) // folds
    held = np.concatenate([parts["valid" if apart else "test"] for parts in each])
    assert sorted(held.tolist()) == list(range(len(labels))), "each is held out by one fold"


@given(st.integers(0, 40), st.integers(0, 9), st.integers(1, 9))
def test_windows_are_inside_and_with_a_tail_cover_all(end, length, stride):
    stride = min(stride, length) or 1
    found = windows(0, end, length, stride, tail=True)
    assert all(0 <= a < b <= end and (not length or b - a <= length) for a, b in found)
    assert set().union(*(range(a, b) for a, b in found)) == set(range(end))


def test_what_is_forecast_is_in_one_part_and_comes_next(folder):
    task = forecasting(folder)
    values, column = task.series["file"].values, 0
    bounds = by_time(np.array([0, 400]), 0.15, 0.15)
    for part in ("train", "valid", "test"):
        (begin, end), examples = bounds[part][0], task.examples[part]
        assert (examples.end >= begin).all() and (examples.end + 3 <= end).all()
        assert (examples.end - examples.begin == 12).all()
        for number, batch in enumerate(task.batches(part)):
            first = task.examples[part].end[number * 256]
            wanted = torch.from_numpy(values[first : first + 3, column])
            assert_close(batch.targets[0], wanted, equal_nan=True, rtol=0, atol=0)
            assert_close(batch.inputs[0], torch.from_numpy(values[first - 12 : first]), equal_nan=True, rtol=0, atol=0)
    assert forecasting(folder, horizon=1).counts("test")["sequences"] < 60, (
        "one whose only target is missing is left out"
    )


def test_no_window_goes_over_a_gap(folder, tmp_path):
    lines = (folder / "waves.csv").read_text().split("\n")
    path = tmp_path / "gap.csv"
    path.write_text("\n".join(lines[:101] + lines[106:]))
    task = forecasting(folder, file=str(path))
    train = task.examples["train"]
    assert not ((train.begin < 100) & (train.end + 3 > 100)).any()
    assert (train.end == 97).any() and (train.begin == 100).any()


def test_the_model_normalizes_by_the_training_part_alone(folder):
    task = forecasting(folder)
    model = task.build_model(TINY).eval()
    train = task.series["file"].values[: by_time(np.array([0, 400]), 0.15, 0.15)["train"][0][1]].astype(np.float64)
    assert_close(model.front_end.mean.numpy(), np.nanmean(train[:, :2], 0).astype(np.float32))
    assert_close(model.front_end.deviation.numpy(), np.nanstd(train[:, :2], 0).astype(np.float32))
    assert_close(model.target_mean, model.front_end.mean[:1].expand(3))
    batch = next(task.batches("valid"))
    x, (mean, deviation) = batch.inputs, (model.front_end.mean, model.front_end.deviation)
    numbers = (x[..., :2] - mean) / deviation
    by_hand = torch.cat(
        [
            numbers.nan_to_num(nan=0.0),
            x[..., :1].isnan().float(),
            torch.stack([(x[..., 2] == k).float() for k in range(3)], -1),
        ],
        -1,
    )
    assert_close(model.front_end(x), by_hand)
    assert_close(model(x), model.sequence_model(by_hand) * model.target_deviation + model.target_mean)


def test_a_missing_value_in_a_channel_that_had_none_is_not_hidden():
    front_end = SeriesFrontEnd([0, 0], missing=[1])
    assert front_end(torch.tensor([[math.nan, math.nan]])).isnan().tolist() == [[True, False, False]]


def test_noise_and_shift_are_for_training():
    model = SeriesModel(SeriesFrontEnd([0, 2]), 2, replace(TINY, noise=0.5, shift=2.0))
    x = torch.zeros(3, 4000, 2)
    noisy = model.train().front_end(x)
    assert noisy[..., 0].std(1).mean() == pytest.approx(0.5, rel=0.1) and torch.equal(
        noisy[..., 1], torch.ones(3, 4000)
    )
    assert noisy[..., 0].mean(1).std() > 0.1
    assert torch.equal(model.eval().front_end(x)[..., 0], x[..., 0])
    model.adjust(replace(TINY, noise=0.0))
    assert torch.equal(model.train().front_end(x)[..., 0], x[..., 0])


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("make", MADE)
def test_a_packed_model_takes_raw_numbers_and_repeats_the_scores(folder, tmp_path, make, weights):
    torch.manual_seed(0)
    task = make(folder)
    model = task.build_model(TINY)
    pack_model(model, task, tmp_path / "model.crnn", weights)
    engine = cr.Engine(tmp_path / "model.crnn")
    again = task_of(engine.metadata, task.data.file)
    here, there = task.scores(model, "test"), again.engine_scores(engine, "test")
    assert here.keys() == there.keys() and task.metric in here
    for name, value in here.items():
        assert there[name] == pytest.approx(value, rel=1e-4 if weights == "float32" else 0.05, abs=1e-6), name
    batch = next(task.batches("test"))
    x, stream = batch.inputs[0, :4].contiguous(), engine.stream()
    found = np.stack([stream.step(row.numpy()) for row in x])
    with torch.no_grad():
        each = [model.eval()(x[None, :n])[0] for n in range(1, len(x) + 1)]
    wanted = torch.stack([y[-1] if task.every_step else y for y in each])
    scale = task.scale[1].max() if task.scaled else 1.0
    assert_close(torch.from_numpy(found) / scale, wanted / scale, rtol=0, atol=1e-4 if weights == "float32" else 0.1)
    with pytest.raises(ValueError, match=r"a model file does not choose what is read; name it: --data PATH"):
        task_of(engine.metadata)


def test_missing_targets_are_in_no_loss_and_no_metric(folder):
    task = forecasting(folder)
    batch = next(task.batches("test"))
    known = ~batch.targets.isnan()
    assert 0 < int((~known).sum()) and task.target_count(batch) == int(known.sum())
    right = batch.targets.nan_to_num(nan=1e9).requires_grad_()
    assert task.loss(right, batch) == 0
    task.loss(right + 1, batch).backward()
    assert right.grad is not None and bool((right.grad[~known] == 0).all()) and bool(right.grad.isfinite().all())
    errors = task.errors(right.detach() + task.scale[1], batch)
    assert errors["scaled_mse"][0] / errors["scaled_mse"][1] == pytest.approx(1.0)
    with pytest.raises(FloatingPointError, match="outputs: expected finite numbers"):
        task.errors(torch.full_like(batch.targets, math.nan), batch)


def test_the_persistence_forecast_repeats_the_last_known_value(folder):
    task = forecasting(folder)
    for batch in task.batches("valid"):
        past = batch.inputs[..., 0]
        wanted = torch.stack([row[~row.isnan()][-1] for row in past])
        assert_close(task.persistence(batch), wanted[:, None].expand(-1, 3))
    blank = replace(batch, inputs=torch.full_like(batch.inputs, math.nan))
    assert_close(task.persistence(blank), task.own_scale[0].expand(len(batch), 3))


def test_scores_are_in_the_units_of_the_file(folder):
    task = regression(folder)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, lengths=None):
            return torch.full((len(x), 1), 2.0)

    targets = task.examples["test"].targets[:, 0].astype(float)
    scores = task.scores(Two(), "test")
    deviation = float(task.scale[1])
    assert scores["mse"] == pytest.approx(np.mean((targets - 2) ** 2)) and scores["mae"] == pytest.approx(
        np.mean(np.abs(targets - 2))
    )
    assert scores["scaled_mse"] == pytest.approx(scores["mse"] / deviation**2)
    assert deviation == pytest.approx(task.examples["train"].targets.std(), rel=1e-5)


def test_every_step_has_its_target_once(folder):
    task = every_step(folder, window=3)
    found = {part: torch.cat([batch.within(batch.targets) for batch in task.batches(part)]) for part in task.examples}
    assert sum(map(len, found.values())) == len(task.series["file"].values)
    one = every_step(folder, sequence="", split="time", window=16)
    assert sum(len(torch.cat([b.within(b.targets) for b in one.batches(part)])) for part in one.examples) == len(
        one.series["file"].values
    )


def test_classes_and_macro_f1(folder):
    task = classification(folder, group="who")
    assert task.classes == ("x", "y") and task.outputs == 2
    parts = [set(task.series["file"].groups[n // 1] for n in _sequences(task, part)) for part in task.examples]
    assert not (parts[0] & parts[1]) and not (parts[0] & parts[2]) and not (parts[1] & parts[2])
    scores = task.scores(task.build_model(TINY), "test")
    assert scores["accuracy"] == 100 - scores["error"] and 0 <= scores["macro_f1"] <= 100
    assert macro_f1(np.array([0, 1, 2]), np.array([0, 1, 2])) == 1
    assert macro_f1(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 2])) == pytest.approx((4 / 6 + 0 + 0) / 3)


def _sequences(task, part):
    return np.searchsorted(task.series["file"].offsets, task.examples[part].begin)


@pytest.mark.parametrize(
    "make, data, words",
    [
        (classification, {"target": ""}, r"task\.target: expected the column with the class"),
        (
            classification,
            {"target": "who", "sequence": ""},
            r"line 6, who: expected one value a sequence.*task\.sequence",
        ),
        (classification, {"folds": 2}, r"task\.folds, task\.fold: expected at least 3 folds"),
        (classification, {"folds": 9, "group": "who"}, r"task\.folds: expected at most the 8 groups, got 9"),
        (classification, {"fold": 5}, r"task\.folds, task\.fold: .*got 5, 5"),
        (classification, {"target": "trial"}, r"training part: expected some of every class, got no sequence of class"),
        (classification, {"batch_size": 999}, r"training\.batch_size: expected at most the 24 sequences"),
        (classification, {"channels": ()}, r"task\.channels: expected some of trial, who, a"),
        (classification, {"file": ""}, r"task\.file: expected the path of a file.*got none"),
        (regression, {"targets": ("a",)}, r"task\.targets: expected columns of numbers that are no channels"),
        (regression, {"targets": ("kind",)}, r"line 2, kind: expected a number, .*got 'x'"),
        (forecasting, {"targets": ("wind",)}, r"task\.targets: expected some of the channels: level, rain"),
        (forecasting, {"missing": ()}, r"line 5, level: expected a value, got a missing value, the first of 24"),
        (forecasting, {"window": 390}, r"training part: expected at least one, got no stretch of 390 \+ 3 steps"),
        (forecasting, {"valid": 0.6, "test": 0.5}, r"valid, test: expected shares of less than 1 together"),
    ],
)
def test_what_cannot_be_learned_is_refused(folder, make, data, words):
    with pytest.raises(ValueError, match=words):
        make(folder, **data)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def call_json(*arguments):
    return json.loads(call(*arguments, "--json").stdout)


CASES = {
    "forecasting": (waves, ["--target", "level", "--window", "12", "--horizon", "2"]),
    "classification": (steps_of, ["--sequence", "trial", "--target", "kind", "--group", "who"]),
    "regression": (steps_of, ["--sequence", "trial", "--target", "score", "--task", "regression"]),
}


@pytest.mark.parametrize("task", CASES)
def test_from_a_file_to_a_packed_model_by_four_commands(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    write, options = CASES[task]
    write(tmp_path / "mine.csv")
    said = call_json("init", "mine.csv", *options)
    assert said["task"] == task and said["recipe"] == "mine.toml" and (tmp_path / "mine.toml").exists()
    trained = call_json("train", "mine.toml", "--set", "phases.train.epochs=2", "--set", "model.hidden=[6]")
    assert math.isfinite(trained["test"])
    packed = call_json("pack", "runs/mine", "mine.crnn", "--weights", "float32")
    small = call_json("pack", "runs/mine", "small.crnn", "--no-notes")
    assert small["bytes"] < packed["bytes"]
    native = call_json("eval", "mine.crnn", "--data", "mine.csv")
    in_torch = call_json("eval", "runs/mine")
    assert in_torch["value"] == trained["test"] and native["value"] == pytest.approx(in_torch["value"], rel=1e-3)
    refused = call("eval", "mine.crnn", code=2)
    assert "--data PATH" in refused.stderr
    assert "which is there" in call("init", "mine.csv", *options, code=2).stderr


def test_a_test_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name, count in (("TRAIN", 20), ("TEST", 8)):
        rows = [f"{','.join(f'{k + random.random():.3f}' for _ in range(5))}:{'ab'[k]}" for k in [0, 1] * count]
        (tmp_path / f"{name}.ts").write_text("@classLabel true a b\n@data\n" + "\n".join(rows))
    said = call_json("init", "TRAIN.ts", "--test", "TEST.ts", "--out", "r.toml")
    assert said["classes"] == ["a", "b"] and said["test sequences"] == 16 and said["train sequences"] == 32
    trained = call_json("train", "r.toml", "--out", "run", "--set", "phases.train.epochs=30")
    assert trained["test"] == 0 and trained["test_macro_f1"] == 100
    call("pack", "run", "m.crnn")
    assert call_json("eval", "m.crnn", "--data", "TEST.ts")["value"] == 0
    assert "expected test" in call("eval", "m.crnn", "--data", "TEST.ts", "--part", "valid", code=2).stderr
    (tmp_path / "TEST.ts").write_text("@classLabel true a c\n@data\n1,2:c\n")
    assert "line 3, label: expected one of the classes trained on: a, b, got 'c'" in " ".join(
        call("eval", "m.crnn", "--data", "TEST.ts", code=2).stderr.split()
    )


def decimal_commas(path):
    Path(path).write_text("time;level\n" + "".join(f"0,{i};1,{i}\n" for i in range(99)))


@pytest.mark.parametrize(
    "write, options, words",
    [
        (waves, [], "target: expected --target COLUMN, one of level, rain, got none"),
        (decimal_commas, [], "mine.csv: expected a column of numbers, with a point in decimals, got none"),
        (waves, ["--target", "levle"], "column: expected one of time, level, rain, wind, got 'levle'"),
        (waves, ["--target", "level", "--task", "classification"], "expected several; name the column"),
        (steps_of, ["--target", "kind", "--sequence", "nope"], "got 'nope'"),
        (steps_of, ["--target", "score", "--horizon", "3"], "--horizon: expected none"),
    ],
)
def test_init_says_what_it_needs_to_know(tmp_path, monkeypatch, write, options, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.csv")
    said = " ".join(call("init", "mine.csv", *options, code=2).stderr.split())
    assert words in said or all(part in said for part in words.split("; "))
    assert not (tmp_path / "mine.toml").exists()


def test_init_refuses_a_broken_file_by_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = Path(waves(tmp_path / "mine.csv")).read_text().split("\n")
    for broken, words in (
        (lines[9].replace(".", ".x", 1), "line 10, level: expected a number"),
        (lines[9].rpartition(",")[0], "line 10: expected 4, got 3 fields"),
    ):
        (tmp_path / "mine.csv").write_text("\n".join([*lines[:9], broken, *lines[10:]]))
        assert words in " ".join(call("init", "mine.csv", "--target", "level", code=2).stderr.split())
    assert not (tmp_path / "mine.toml").exists()


@pytest.mark.parametrize("wish", [{"test_file": "another.csv"}, {"group": "level"}], ids=str)
def test_a_first_recipe_leaves_no_wish_out(folder, wish):
    with pytest.raises(ValueError, match=r"--(test|group): expected none: forecasting of this file is split by time"):
        first_recipe(str(folder / "waves.csv"), Wishes(targets=("level",), **wish))


def test_a_first_recipe_tells_columns_apart(folder):
    recipe = first_recipe(str(folder / "waves.csv"), Wishes(targets=("level",)))
    table = tomllib.loads(recipe.text)["task"]
    assert table["channels"] == ["level", "rain", "wind"] and table["categories"] == ["wind"]
    assert table["missing"] == ["level"] and table["time"] == ["time"] and recipe.task == "forecasting"
    recipe = first_recipe(str(folder / "steps.csv"), Wishes(targets=("so_far",), sequence="trial"))
    assert tomllib.loads(recipe.text)["task"]["every_step"] is True and recipe.task == "regression"
    named = first_recipe(str(folder / "steps.csv"), Wishes(targets=("kind",), group="who"))
    assert named.section["sequence"] == "trial", "found by its name"
