"""The committed results on long sequences, and the page about them."""

import json
import shlex
from pathlib import Path

import pytest

from compactrnn.training.recipe import load_recipe, recipe_from
from compactrnn.training.train import train
from scripts import benchmark

ROOT = Path(__file__).resolve().parents[1]
bench = benchmark("long_sequences")


def test_the_page_shows_the_committed_results():
    text = bench.PAGE.read_text()
    assert bench.filled(text, bench.load()) == text, "run: python benchmarks/long_sequences.py"
    assert all(path.exists() for path in bench.pictured(bench.load()))


def test_committed_rows_are_made_by_their_commands():
    for row in bench.load():
        again = _recipe(row["command"])
        assert again == recipe_from(row["recipe"]), row["command"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["task.steps=20", "model.cell_options.steps=20", "model.hidden=[8]"],
        ["model.cell_options.parts=short", "model.cell_options.selection=false", "training.seed=3"],
    ],
)
def test_the_command_of_a_row_makes_its_recipe(overrides):
    recipe = load_recipe(ROOT / "recipes" / "adding-durnn.toml", overrides)
    command = bench.command_of(json.loads(json.dumps(recipe.as_dict())))
    assert command.startswith("compactrnn train recipes/adding-durnn.toml") and command.count("--set") == len(overrides)
    assert _recipe(command) == recipe


def test_a_run_becomes_a_row_of_the_table(tmp_path):
    overrides = ["task.steps=8", "model.cell_options.steps=8", "model.hidden=[6]", "phases.train.updates=60"]
    overrides += ["training.evaluate_every=1", "task.test=20", "task.valid=20", "model.cell_options.parts=long"]
    train(load_recipe(ROOT / "recipes" / "adding-durnn.toml", overrides), tmp_path / "run")
    row = bench.row_of(tmp_path / "run")
    assert 30 <= len(row["history"]) <= bench.POINTS + 22 and row["history"][-1]["update"] == 60
    assert min(point["valid"] for point in row["history"]) == pytest.approx(row["valid"], abs=1e-5)
    (_, _, line) = bench.table([row]).splitlines()
    assert line.startswith("| adding, T = 8 | DuRNN 6, steps=8, parts=long | ") and "MSE" in line
    other = {**row, "command": row["command"].replace("parts=long", "parts=short")}
    assert bench.pictured([row]) == {} and list(bench.pictured([row, other]).values()) == ["adding, T = 8"]
    assert all(f"<!-- DuRNN 6, steps=8, parts={part} -->" in bench.picture([row, other]) for part in ("long", "short"))
    page = "a\n<!-- results: begin x -->\nold\n<!-- results: end -->\nb\n"
    assert row["command"] in bench.filled(page, [row])
    assert bench.filled(bench.filled(page, [row]), []) == page.replace("old\n", "")


def _recipe(command):
    _, _, path, *rest = shlex.split(command)
    return load_recipe(ROOT / path, rest[1::2])
