"""Distillation in a phase of a recipe: hidden states, decoded targets, a kill on the way, and what is refused."""

import pytest
import torch

from compactrnn._checkpoint import load_tree, load_weights
from compactrnn.training.recipe import recipe_from
from compactrnn.training.train import train
from compactrnn.training.trainer import Trainer
from test_recipe_compress import TEXT, Stop

OPTIMIZER = {"name": "AdamW", "learning_rate": 1e-2, "clip": 1.0, "weight_decay": 0.1, "decay": "matrices"}
FIRST_SYMBOL = {"name": "first_symbol", "steps": 12, "size": 4, "valid": 8, "test": 8}
ADDING = {"name": "adding", "steps": 8, "shortest": 3, "valid": 8, "test": 8}


def recipe(folder, distill, task=None, cut=False, **training):
    (folder / "text.txt").write_text(TEXT)
    sizes = {"batch_size": 8, "steps": 10, "evaluate_every": 9, "checkpoint_every": 4, "threads": 1}
    model = {"embedding": 8, "hidden": [16, 12], "dropout": 0.1} if task is None else {"cell": "GRU", "hidden": [12, 6]}
    learn = {"updates": 20, "optimizer": OPTIMIZER, "distill": {"teacher": "dense", **distill}}
    cuts = {"cut": {"updates": 4, "optimizer": OPTIMIZER, "compress": {"keep": 0.5, "steps": 3}}} if cut else {}
    return recipe_from(
        {
            "task": task or {"data": str(folder / "text.txt")},
            "model": model,
            "training": {**sizes, **training},
            "phases": {
                "dense": {"updates": 5, "optimizer": OPTIMIZER},
                **cuts,
                "learn": learn,
            },
        }
    )


CASES = {
    "other widths": {"distill": {"hidden": {"recurrent": 0.5}, "temperature": 2.0}, "cut": True},
    "classes": {"distill": {"targets": "classes", "hidden": {"layers.0": 1, "layers.1": 0.1}}, "task": FIRST_SYMBOL},
    "hidden states alone": {"distill": {"weight": 0.0, "hidden": {"layers.1": 0.1}}, "task": ADDING},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_killed_run_goes_on_exactly(options, tmp_path, monkeypatch):
    checkpoint, maps = Trainer.checkpoint, {}

    def then_stop(trainer, number, run):
        checkpoint(trainer, number, run)
        if run is not None and run.distill is not None and run.update == 12:
            maps.update(load_tree(trainer.folder.checkpoint)["run"]["distill"])
            raise Stop

    made = recipe(tmp_path, **options)
    train(made, tmp_path / "whole")
    teacher = (tmp_path / "whole/phases/dense.safetensors").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Trainer, "checkpoint", then_stop)
        train(made, tmp_path / "killed")
    assert len(maps) == (2 if "cut" in options else 0), "a weight and a bias where layers are not equally wide"
    train(made, tmp_path / "killed", resume=True)
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert (tmp_path / "killed/phases/dense.safetensors").read_bytes() == teacher


def test_every_part_of_the_loss_has_an_effect(tmp_path):
    variants = [{"weight": 0.5}, {"weight": 0.5, "targets": "classes"}, {"weight": 0.5, "hidden": {"layers.0": 1.0}}]
    weights = []
    for number, distill in enumerate(variants):
        train(recipe(tmp_path, distill, FIRST_SYMBOL), tmp_path / str(number))
        weights.append(load_weights(tmp_path / str(number) / "model.safetensors")["layers.0.weight_hh_l0"])
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


@pytest.mark.parametrize(
    "distill, task, message",
    [
        ({"hidden": {"lstm": 1.0}}, None, r"phases\.learn\.distill\.hidden: .*\('recurrent'\), got 'lstm'"),
        ({"hidden": {"layers": 1.0}}, FIRST_SYMBOL, r"\('layers\.0', 'layers\.1'\), got 'layers'"),
        ({"hidden": {"recurrent": 0.0}}, None, "hidden.recurrent"),
        ({"targets": "classes"}, None, r"distill\.targets: expected probabilities for language_model, got 'classes'"),
        ({"targets": "transcript"}, FIRST_SYMBOL, "expected probabilities or classes for first_symbol"),
        ({"targets": "classes", "temperature": 2.0}, FIRST_SYMBOL, "temperature: expected none with targets"),
        ({"targets": "beam"}, FIRST_SYMBOL, "targets"),
        ({"hidden": {"layers.0": 1.0}}, ADDING, r"distill\.weight: expected 0 with adding"),
        ({}, {"name": "connected_digits"}, "targets: expected transcript for connected_digits, got 'probabilities'"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_the_training(distill, task, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(recipe(tmp_path, distill, task), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_hidden_states_are_compared_on_one_device(tmp_path):
    with pytest.raises(ValueError, match=r"distill\.hidden: expected one device, got training\.devices = 2"):
        recipe(tmp_path, {"hidden": {"recurrent": 1.0}}, devices=2)
