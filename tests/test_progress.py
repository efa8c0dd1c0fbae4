"""Progress reports: the callback, the file, the bar."""

import json
import re

import pytest
from rich.console import Console

from compactrnn.training.progress import NullProgress, Progress, ProgressBar
from compactrnn.training.recipe import recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

RECIPE = {
    "task": {"name": "adding", "steps": 8, "shortest": 4, "valid": 20, "test": 20},
    "model": {"hidden": [10, 6]},
    "training": {"batch_size": 5, "evaluate_every": 20, "log_every": 15, "checkpoint_every": 7, "threads": 1},
    "phases": {"train": {"updates": 30}, "compress": {"updates": 30, "compress": {"keep": 0.5, "steps": 20}}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, seen = RunFolder(tmp_path_factory.mktemp("progress") / "run"), []
    result = train(recipe_from(RECIPE), folder.path, progress=seen.append)
    return folder, seen, result


def test_the_callback_sees_every_update_and_every_line(run):
    folder, seen, _ = run
    updates = [(p.phase, p.update) for p in seen if p.event == "update"]
    assert updates == [(name, n) for name in ("train", "compress") for n in range(1, 31)]
    lines = [p.as_dict() for p in seen if p.event != "update"]
    assert lines == folder.progress_lines()
    places = [(line["event"], line["update"]) for line in lines if line["phase"] == "train"]
    wanted = [("start", 0), ("interval", 15), ("evaluation", 20), ("interval", 30), ("evaluation", 30), ("end", 30)]
    assert places == wanted


def test_the_numbers_are_those_of_the_run(run):
    folder, seen, result = run
    evaluations = [p for p in seen if p.event == "evaluation"]
    for p, line in zip(evaluations, folder.evaluations(), strict=True):
        assert (p.phase, p.update, p.train_loss, p.validation) == (
            line["phase"], line["update"], line["loss"], line["valid_mse"],
        )  # fmt: skip
        assert p.learning_rate == line["learning_rate"] and p.metric == "mse" and p.updates == 30
    losses = [p.train_loss for p in seen if p.event == "update" and p.phase == "train"]
    assert evaluations[0].train_loss == pytest.approx(sum(losses[:20]) / 20)
    assert evaluations[1].train_loss == pytest.approx(sum(losses[20:]) / 10)
    seconds = [p.seconds for p in seen]
    assert seconds == sorted(seconds) and seconds[-1] <= result["seconds"] + 0.1
    intervals = [p for p in seen if p.event == "interval"]
    for p in intervals:
        assert p.sequences_per_second and p.steps_per_second
        assert 4 <= p.steps_per_second / p.sequences_per_second <= 8, "steps without padding"
    assert all(p.units is None for p in seen if p.phase == "train")
    assert list(seen[-1].units.values()) == [5, 3] == list(result_sizes(folder))


def result_sizes(folder):
    return json.loads(folder.config.read_text())["model"]["hidden"]


def test_a_torn_line_is_left_out_and_written_again(run, tmp_path):
    folder = RunFolder(tmp_path / "run")

    def stop(progress):
        if progress.event == "interval" and progress.phase == "compress":
            raise RuntimeError("as if killed")

    with pytest.raises(RuntimeError, match="as if killed"):
        train(recipe_from(RECIPE), folder.path, progress=stop)
    before = folder.progress_lines()
    with open(folder.progress, "ab") as file:
        file.write(b'{"event": "interval", "phase": "com')
    assert folder.progress_lines() == before
    resumed = []
    train(recipe_from(RECIPE), folder.path, resume=True, progress=resumed.append)
    assert resumed[0].event == "start" and resumed[0].update > 0, "where it goes on, for a bar"
    places = [(line["event"], line["phase"], line["update"]) for line in folder.progress_lines()]
    assert places == [(p.event, p.phase, p.update) for p in run[1] if p.event != "update"]


def test_a_file_that_lost_lines_is_refused(run, tmp_path):
    folder = RunFolder(tmp_path / "run")

    def stop(progress):
        if progress.phase == "compress":
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        train(recipe_from(RECIPE), folder.path, progress=stop)
    folder.progress.write_bytes(b"")
    files = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"progress\.jsonl: expected the \d+ of the checkpoint, got 0 bytes"):
        train(recipe_from(RECIPE), folder.path, resume=True)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == files


def test_the_bar_shows_the_same_numbers():
    console = Console(width=120, force_terminal=True, record=True)
    with ProgressBar(console) as bar:
        bar(Progress("start", "train", 0, 40))
        bar(Progress("update", "train", 25, 40, train_loss=1.25))
        bar(Progress("evaluation", "train", 25, 40, metric="error", validation=12.5))
    shown = re.sub(r"\s+", " ", console.export_text())
    assert "train" in shown and "25/40" in shown and "loss 1.250" in shown and "error 12.500" in shown
    with NullProgress() as silent:
        silent(Progress("start", "train", 0, 40))
