"""The paper's own size, which takes a GPU: the recipes as they are, with smaller layers and a text of their own."""

from pathlib import Path

import pytest

from compactrnn.training.recipe import load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.schedule import LearningRate
from compactrnn.training.train import train

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.filterwarnings("ignore:shrink")  # so few updates make no unit zero
@pytest.mark.parametrize("name", ["ptb-large", "ptb-large-dense"])
def test_the_recipe_trains(name, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat ; the dog did not . " * 70)
    small = [f"task.data={text}", "model.embedding=12", "model.hidden=[16, 16]", "training.steps=5"]
    recipe = load_recipe(RECIPES / f"{name}.toml", [*small, "phases.train.epochs=1"])
    result = train(recipe, tmp_path / "run")
    assert result["updates"]["total"] > 3 and 1 < result["test"] < 12


def test_the_tied_recipe_cuts_the_units_that_it_says(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat ; the dog did not . " * 200)
    small = [f"task.data={text}", "model.embedding=20", "model.hidden=[20, 20]", "training.steps=5"]
    short = ["phases.train.epochs=1", "phases.cut.epochs=1", "phases.cut.compress.steps=5", "phases.small.epochs=1"]
    train(load_recipe(RECIPES / "ptb-large-tied.toml", [*small, *short]), tmp_path / "run")
    model = RunFolder(tmp_path / "run").load()[0]
    assert model.options.hidden == (8, 12) and model.options.embedding == 12


def test_the_rate_is_a_tenth_after_every_18_epochs():
    phase = load_recipe(RECIPES / "ptb-large.toml").phases["train"]
    rate = LearningRate(phase.schedule, phase.optimizer.learning_rate, total=550, per_epoch=10)
    rates = [rate.at(10 * epoch) for epoch in (0, 17, 18, 35, 36, 53, 54)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])
