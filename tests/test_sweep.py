"""What a sweep plans, when it stops a run, what it makes of the results: all but the cluster."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compactrnn.report.sweep import work
from compactrnn.report.sweep.asha import Asha, are_rivals, goes_on
from compactrnn.report.sweep.grid import full_key, grid, split
from compactrnn.report.sweep.outcome import describe, markdown, unfinished, write
from compactrnn.report.sweep.plan import plan
from compactrnn.report.sweep.run import sweep
from compactrnn.training.dry_run import dry_run
from compactrnn.training.lock import is_locked, locked
from compactrnn.training.progress import Progress
from compactrnn.training.recipe import load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from run_folders import change_json, invoke

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """
[task]
name = "adding"
steps = 8
valid = 50
test = 50
[model]
hidden = [8]
[training]
evaluate_every = 5
threads = 1
[phases.dense]
updates = 10
[phases.prune]
updates = 10
compress = { method = "magnitude", keep = 0.5, steps = 8 }
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def plain(path, settings=()):
    return load_recipe(path, settings).as_dict()


def test_points_are_the_product_and_their_overrides_are_those_of_set(recipe):
    over = ["phases.prune.compress.keep=0.5,0.25", "seed=0,1,2", 'model.hidden_weight={},{kind="LowRank",rank=2}']
    points = grid(over, plain(recipe))
    assert points == grid(over[::-1], plain(recipe)), "in whatever order"
    assert len(points) == 12 and len({point.name for point in points}) == 12
    last = points[-1]
    assert last.name == "hidden_weight=LowRank-rank-2,keep=0.25,seed=2"
    assert last.values == {
        "phases.prune.compress.keep": 0.25,
        "training.seed": 2,
        "model.hidden_weight": {"kind": "LowRank", "rank": 2},
    }
    made = load_recipe(recipe, last.overrides)
    assert made.training.seed == 2 and made.model.hidden_weight == {"kind": "LowRank", "rank": 2}
    assert made.phases["prune"].compress.keep == 0.25


WORDS = st.text("ab/.,=_ $\u00e4\n", max_size=70)
VALUES = st.lists(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | WORDS | st.lists(st.integers()),
    min_size=1,
)


@given(st.dictionaries(st.sampled_from(["a.x", "b.x", "a.y", "b.a.x"]), VALUES, min_size=1, max_size=2))
def test_all_values_come_back_under_names_that_differ(axes):
    unique = {key: list({json.dumps(value): value for value in values}.values())[:9] for key, values in axes.items()}
    points = grid([f"{key}={','.join(map(json.dumps, values))}" for key, values in unique.items()], {})
    assert len(points) == len({point.name for point in points}) == math.prod(map(len, unique.values()))
    assert all(re.fullmatch(r"[A-Za-z0-9.,=+_-]{1,200}", point.name) for point in points)
    for key, values in unique.items():
        assert {json.dumps(point.values[key]) for point in points} == set(map(json.dumps, values))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0,1", ["0", "1"]),
        ("LSTM, GRU", ["LSTM", "GRU"]),
        ("[16,16],[32]", ["[16,16]", "[32]"]),
        ('{a="x,y",b=[1,2]},{}', ['{a="x,y",b=[1,2]}', "{}"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("1,", ["1", ""]),
    ],
)
def test_commas_within_brackets_and_quotes_do_not_separate_values(text, parts):
    assert split(text) == parts


def test_short_keys_stand_for_the_one_entry_of_that_name(recipe):
    table = plain(recipe)
    assert full_key("seed", table) == "training.seed" and full_key("cell", table) == "model.cell"
    assert full_key("budget", table) == full_key("keep", table) == "phases.prune.compress.keep"
    macs = plain(recipe, ["phases.prune.compress={method='neuron_selection',macs=9000,steps=8}"])
    assert full_key("budget", macs) == "phases.prune.compress.macs"
    rank = plain(recipe, ["phases.prune.factorize={rank=3}", "phases.prune={updates=1,factorize={rank=3}}"])
    assert full_key("budget", rank) == "phases.prune.factorize.rank"


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["seed"], "KEY=VALUE,VALUE"),
        (["=1,2"], "KEY=VALUE,VALUE"),
        (["seed="], "values with commas"),
        (["seed=1,,2"], "values with commas"),
        (["seed=1,1"], "1 twice"),
        (["seed=0,1", "training.seed=2"], "training.seed twice"),
        (["updates=1,2"], "phases.dense.updates, phases.prune.updates"),
        (["sead=1,2"], "a recipe without one"),
        (["model..cell=LSTM"], "section.key=value"),
        (["model.hiden=[3]"], "model.hiden"),
        (["seed=0,-1"], "seed=-1: "),
        (["seed=0,x"], "training.seed"),
        (["model.dropout=0,0.0"], "the same run"),
        (["training.devices=2"], "--workers"),
        (["phases.dense.updates.x=1"], "it is a value"),
        (["keep=0.5,2"], "keep=2: "),
    ],
)
def test_wrong_sweeps_are_refused_before_anything_is_written(recipe, tmp_path, over, words):
    options = [part for text in over for part in ("--over", text)]
    result = invoke("sweep", recipe, *options, "--out", tmp_path / "out")
    shown = " ".join(result.stderr.split())
    assert result.exit_code == 2 and words in shown and "Traceback" not in shown, result.output
    assert not (tmp_path / "out").exists()


def test_names_of_folders_are_safe_and_differ(recipe):
    over = ['model.cell="../a","..-a"', f"task.name={'x' * 99},y"]
    names = [point.name for point in grid(over, plain(recipe))]
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9.,=+_-]{1,200}", name) and "/" not in name for name in names)
    both = grid(["phases.dense.updates=1,2", "phases.prune.updates=10,11"], plain(recipe))
    assert both[0].name == "dense.updates=1,prune.updates=10"
    assert [point.name for point in grid(["phases.dense.optimizer.learning_rate=1e-3,-1"], plain(recipe))] == [
        "learning_rate=0.001",
        "learning_rate=-1",
    ]


def test_phases_that_points_share_are_runs_of_their_own(recipe, tmp_path):
    runs = plan(recipe, [], ["keep=0.5,0.25", "seed=0,1"], tmp_path / "out")
    assert [run.name for run in runs[:2]] == ["dense,seed=0", "dense,seed=1"]
    assert all(not run.values and list(run.recipe.phases) == ["dense"] and run.source is None for run in runs[:2])
    assert [run.source.name for run in runs[2:]] == ["dense,seed=0", "dense,seed=1"] * 2
    assert not any(run.source for run in plan(recipe, [], ["seed=0,1"], tmp_path / "out"))
    timed = ["training.max_seconds=9"]
    assert not any(run.source for run in plan(recipe, timed, ["keep=0.5,0.25"], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_shared_phases_form_a_tree(recipe, tmp_path):
    third = ["phases.tune.updates=5"]
    rates = "phases.tune.optimizer.learning_rate=1e-3,1e-2"
    runs = {run.name: run for run in plan(recipe, third, ["keep=0.5,0.25", rates], tmp_path / "out")}
    assert list(runs)[:3] == ["dense", "prune,keep=0.5", "prune,keep=0.25"] and len(runs) == 7
    assert runs["prune,keep=0.25"].source == runs["dense"].folder
    assert runs["keep=0.25,learning_rate=0.01"].source == runs["prune,keep=0.25"].folder


def test_a_point_after_shared_phases_is_the_run_of_the_whole_recipe(recipe, tmp_path):
    shared, first, _ = plan(recipe, [], ["keep=0.5,0.25"], tmp_path / "out")
    train(shared.recipe, shared.folder)
    train(first.recipe, first.folder, source=first.source)
    whole = RunFolder(tmp_path / "whole")
    train(load_recipe(recipe), whole.path)
    assert whole.model.read_bytes() == RunFolder(first.folder).model.read_bytes()
    assert whole.metrics.read_bytes() == RunFolder(first.folder).metrics.read_bytes()


def test_a_folder_with_other_runs_is_refused(recipe, tmp_path):
    (run, _) = plan(recipe, [], ["seed=0,1"], tmp_path / "out")
    train(run.recipe, run.folder)
    plan(recipe, [], ["seed=0,1,2"], tmp_path / "out")
    with pytest.raises(ValueError, match="another model; choose another --out"):
        plan(recipe, ["model.hidden=[9]"], ["seed=0,1"], tmp_path / "out")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(ValueError, match="is a file or within one"):
            plan(recipe, [], ["seed=0,1"], out)


def test_a_dry_run_finds_what_training_would_and_writes_nothing(recipe, tmp_path):
    outlook = dry_run(load_recipe(recipe), tmp_path / "run")
    assert outlook.updates == {"dense": 10, "prune": 10}
    train(load_recipe(recipe, ["phases.prune={updates=1}"]), tmp_path / "dense")
    assert outlook.parameters == RunFolder(tmp_path / "dense").read_result()["parameters"]
    residual = [
        "model.hidden=[8,8]",
        "model.residual=true",
        "model.norm=batch",
        "phases.prune.compress={keep=0.01,steps=8}",
    ]
    with pytest.raises(ValueError) as raised:
        dry_run(load_recipe(recipe, residual), tmp_path / "run")
    with pytest.raises(type(raised.value), match=re.escape(str(raised.value))):
        train(load_recipe(recipe, residual), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_best_third_goes_on():
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    kept = [value for value in values if goes_on(value, [other for other in values if other != value])]
    assert kept == [0.1, 0.2]
    assert goes_on(9.0, []) and goes_on(0.1, [0.1]) and not goes_on(0.2, [0.1])


def write_progress(folder, values, phase="dense"):
    folder.mkdir(parents=True)
    for update, value in values.items():
        progress = Progress("evaluation", phase, update, 90, metric="mse", validation=value)
        RunFolder(folder).append_progress(progress.as_dict())


def test_asha_asks_once_a_rung_and_compares_those_that_have_come_as_far(tmp_path):
    write_progress(tmp_path / "a", {10: 0.2, 30: 0.1})
    write_progress(tmp_path / "b", {10: 0.3})
    write_progress(tmp_path / "mine", {5: 0.9})
    rule = Asha(tmp_path / "mine", [tmp_path / "a", tmp_path / "b", tmp_path / "none"], {"dense": 0}, 90)

    def stops(update, value):
        return rule.stops(Progress("evaluation", "dense", update, 90, metric="mse", validation=value))

    assert not stops(9, 0.9), "before the first rung"
    assert not stops(10, 0.1), "better than both"
    assert not stops(20, 0.9), "between rungs"
    assert stops(30, 0.2), "worse than the one that has come as far"
    assert not stops(40, 0.9), "asked at this rung before"
    write_progress(tmp_path / "resumed", {10: 0.9})
    again = Asha(tmp_path / "resumed", [tmp_path / "a"], {"dense": 0}, 90)
    assert not again.stops(Progress("evaluation", "dense", 12, 90, metric="mse", validation=0.9))


def test_rungs_are_of_the_updates_of_all_phases(tmp_path):
    write_progress(tmp_path / "a", {10: 0.2}, "prune")
    rule = Asha(tmp_path / "mine", [tmp_path / "a"], {"dense": 0, "prune": 80}, 90)
    assert rule.stops(Progress("evaluation", "prune", 10, 10, metric="mse", validation=0.3))


def test_larger_models_and_other_budgets_stop_nobody(recipe):
    half, quarter = plain(recipe), plain(recipe, ["phases.prune.compress.keep=0.25"])
    assert are_rivals(half, 100, half, 100) and are_rivals(half, 100, half, 90)
    assert not are_rivals(half, 100, half, 101) and not are_rivals(half, 100, quarter, 90)


class Here:
    """A cluster that is this process; a task is the function that gives its result."""

    def __init__(self, killed=()):
        self.killed, self.trained = list(killed), []  # names of runs whose process ends, as often as they are there

    @contextmanager
    def __call__(self, workers, threads, gpus, address):
        yield self, workers or 1

    def submit(self, name, job):
        run = Path(job.folder).name
        if name == "work":
            self.trained.append(run)
            if run in self.killed:
                self.killed.remove(run)
                return partial(self.die, run)
        try:
            value = getattr(work, name)(job)
        except Exception as error:
            return partial(self.fail, error)
        return lambda: value

    def die(self, run):
        raise ChildProcessError("killed")

    def fail(self, error):
        raise error

    def wait(self, tasks, seconds):
        return list(tasks)[:1]

    def result(self, task):
        return task()

    def cancel(self, task):
        pass


@pytest.fixture
def here(monkeypatch):
    cluster = Here()
    monkeypatch.setattr("compactrnn.report.sweep.run.connect", cluster)
    return cluster


def states(outcome):
    return {row["name"]: row["state"] for row in outcome["runs"]}


def test_sources_come_first_and_finished_runs_stay(recipe, tmp_path, here, monkeypatch):
    out = tmp_path / "out"
    runs = plan(recipe, [], ["keep=0.5,0.25"], out)
    assert set(states(sweep(runs, out)).values()) == {"finished"} and here.trained == ["dense", "keep=0.5", "keep=0.25"]
    shutil.rmtree(out / "shared")
    with monkeypatch.context() as without:
        without.setattr("compactrnn.report.sweep.run.connect", None)  # nothing to do, no cluster
        assert set(states(sweep(runs, out)).values()) == {"finished"}
    wider = plan(recipe, [], ["keep=0.5,0.25,0.75"], out)
    sweep(wider, out)
    assert here.trained[3:] == ["dense", "keep=0.75"]


def test_what_only_training_would_notice_is_refused_before_any_run(recipe, tmp_path, here):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"cell=NONE: .*NONE"):
        sweep(plan(recipe, [], ["model.cell=LSTM,NONE"], out), out)
    assert not out.exists() and not here.trained


def test_a_run_that_diverges_fails_alone(recipe, tmp_path, here):
    over = ["phases.dense.optimizer={name='SGD'},{name='SGD',learning_rate=1e38}"]
    settings = ["phases.prune={updates=1}"]
    outcome = sweep(plan(recipe, settings, over, tmp_path / "out"), tmp_path / "out")
    fine, failed = states(outcome).values()
    assert fine == "finished" and "lower the learning rate" in failed
    result = invoke("sweep", recipe, "--over", over[0], "--set", settings[0], "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["runs"] == outcome["runs"]


def test_when_shared_phases_fail_so_do_those_that_would_go_on(recipe, tmp_path, here):
    settings = ["phases.dense.optimizer={name='SGD',learning_rate=1e38}"]
    outcome = sweep(plan(recipe, settings, ["keep=0.5,0.25"], tmp_path / "out"), tmp_path / "out")
    assert all("dense, which it goes on from, has failed" in state for state in states(outcome).values())
    assert here.trained == ["dense"]


def test_a_run_goes_on_until_its_process_has_ended_three_times_at_one_place(recipe, tmp_path, here):
    here.killed += ["seed=0"] * 2 + ["seed=1"] * 3
    outcome = sweep(plan(recipe, [], ["seed=0,1"], tmp_path / "out"), tmp_path / "out")
    assert states(outcome)["seed=0"] == "finished"
    assert states(outcome)["seed=1"] == "failed: its process has ended 3 times at the same place (killed)"
    assert here.trained == ["seed=0"] * 3 + ["seed=1"] * 3


def test_asha_stops_runs_that_a_sweep_without_it_finishes(recipe, tmp_path, here):
    out, rates = tmp_path / "out", "phases.dense.optimizer.learning_rate=1e-2,1e-9,2e-9,3e-9"
    runs = plan(recipe, ["phases.prune={updates=20}"], [rates], out)
    outcome = sweep(runs, out, asha=True)
    best, *others = states(outcome).values()
    assert best == "finished" and all("stopped early, mse" in state for state in others)
    assert sweep(runs, out, asha=True)["runs"] == outcome["runs"] and len(here.trained) == 4, "nothing again"
    assert set(states(sweep(runs, out)).values()) == {"finished"} and not list(out.glob("*/stopped.json"))
    whole = RunFolder(tmp_path / "whole")
    train(runs[-1].recipe, whole.path)
    assert whole.model.read_bytes() == RunFolder(runs[-1].folder).model.read_bytes()


def test_two_sweeps_in_a_folder_are_refused(recipe, tmp_path, here):
    with locked(tmp_path / "out"), pytest.raises(ValueError, match="is training in"):
        sweep(plan(recipe, [], ["seed=0,1"], tmp_path / "out"), tmp_path / "out")


def test_a_worker_that_does_not_see_the_folder_says_so(recipe, tmp_path, here, monkeypatch):
    runs = plan(recipe, [], ["seed=0,1"], tmp_path / "out")
    monkeypatch.setattr(work, "LOCK", "no such file")
    with pytest.raises(ValueError, match="expected a folder on a file system that all machines share"):
        sweep(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def trained(recipe, tmp_path):
    """Two sizes and two seeds, one of them never trained, one failed."""
    settings = ["phases.prune={updates=1}"]
    runs = plan(recipe, settings, ["hidden=[4],[6]", "seed=0,1", "dropout=0,0.5"], tmp_path / "out")
    for run in (run for run in runs if "dropout=0.5" not in run.name):
        train(run.recipe, run.folder, source=run.source)
    return [run for run in runs if run.values], tmp_path / "out"


def test_the_outcome_has_medians_over_seeds_and_the_frontier(trained):
    runs, out = trained
    outcome = write(out, describe(runs, {"dropout=0.5,hidden=6,seed=0": "it was | too wild"}))
    assert outcome == json.loads((out / "sweep.json").read_text())
    assert [row["name"] for row in outcome["configurations"]] == ["dropout=0,hidden=4", "dropout=0,hidden=6"]
    results = [RunFolder(run.folder).read_result() for run in runs if run.finished]
    small, large = outcome["configurations"]
    assert small["valid"] == pytest.approx((results[0]["valid"] + results[1]["valid"]) / 2) and small["count"] == 2
    assert small["test_range"] == sorted(result["test"] for result in results[:2])
    assert small["parameters"] < large["parameters"] and small["frontier"]
    assert large["frontier"] == (large["valid"] < small["valid"])
    page = markdown(outcome)
    assert page == (out / "table.md").read_text() and "| 0 | 4 |" in page and "mse" in page
    assert unfinished(outcome)[2] == "dropout=0.5,hidden=6,seed=0: failed: it was | too wild"
    assert unfinished(outcome)[3] == "dropout=0.5,hidden=6,seed=1: not trained"
    picture = (out / "frontier.svg").read_text()
    assert ElementTree.fromstring(picture).tag.endswith("svg") and "dropout=0,hidden=4" in picture


def test_a_sweep_without_a_finished_run_has_no_picture(recipe, tmp_path):
    runs = plan(recipe, [], ["seed=0,1"], tmp_path / "out")
    (tmp_path / "out").mkdir()
    outcome = write(tmp_path / "out", describe(runs, {run.name: "no" for run in runs}))
    assert outcome["metric"] is None and not (tmp_path / "out" / "frontier.svg").exists()
    assert unfinished(outcome) == ["seed=0: failed: no", "seed=1: failed: no"]


def test_a_lock_is_seen_while_it_is_there(tmp_path):
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        code = "import sys; from pathlib import Path; from compactrnn.training.lock import is_locked\n"
        code += "print(is_locked(Path(sys.argv[1])))"
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert done.stdout == "True\n", done.stderr
    assert not is_locked(tmp_path)


def test_the_last_line_of_the_progress_is_found_from_the_end(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.last_progress() is None
    write_progress(folder.path, dict.fromkeys(range(1, 60), 0.5))
    with open(folder.progress, "ab") as file:
        file.write(b'{"event": "torn')
    last = folder.last_progress()
    assert last == folder.progress_lines()[-1] and last["update"] == 59


def test_without_ray_the_command_says_what_to_install(recipe, tmp_path):
    code = "import sys; sys.modules['ray'] = None; from compactrnn.__main__ import main; main()"
    arguments = ["sweep", str(recipe), "--over", "seed=0,1", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'compactrnn[sweep]'" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_is_named(recipe, tmp_path):
    (run, _) = plan(recipe, [], ["seed=0,1"], tmp_path / "out")
    train(run.recipe, run.folder)
    change_json(run.folder / "config.json", lambda config: {**config, "recipe": {}})
    with pytest.raises(ValueError, match=r"config\.json"):
        plan(recipe, [], ["seed=0,1"], tmp_path / "out")


@pytest.mark.parametrize("page", ["docs/sweep.md", "src/compactrnn/cli/sweep.py"])
def test_documented_sweeps_can_be_planned(page, tmp_path):
    """Each command of the page, but for the data of its task, which is not read."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    commands = re.findall(r"^ *compactrnn sweep (recipes/.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        name, *rest = shlex.split(command)
        pairs = list(pairwise(rest))
        over = [value for option, value in pairs if option == "--over"]
        settings = [value for option, value in pairs if option == "--set"]
        assert len(plan(ROOT / name, settings, over, tmp_path / "out")) >= 2
