"""Every pruner in a phase of a recipe: its size, a kill on the way, and what is refused before the training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compactrnn import Engine
from compactrnn.compress.sizes import counts
from compactrnn.models import AcousticModel, AudioModel, Reader, ReaderOptions, SequenceModel, SequenceModelOptions
from compactrnn.models.acoustic_model import AcousticModelOptions
from compactrnn.models.audio_model import AudioModelOptions
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from compactrnn.training.trainer import Trainer

TEXT = "the cat sat on the mat; the dog did not.\n" * 60
DOPED = {"kind": "Doped", "weight": {"kind": "LowRank", "rank": 2}, "keep": 0.1}
HIDDEN = {"recurrent.weight_hh_*": DOPED}
CASES = {
    "group lasso": {"keep": 0.5, "steps": 14},
    "by layer": {"keep": {"recurrent[0]": 0.25, "": 0.5}, "steps": 14},
    "macs": {"method": "neuron_selection", "macs": 800, "steps": 14},
    "units": {"method": "neuron_selection", "keep": 0.5, "steps": 14},
    "strength": {"method": "neuron_selection", "strength": 3.0},
    "single weights": {"method": "magnitude", "keep": 0.25, "interval": 2, "steps": 14},
    "threshold": {"method": "magnitude", "keep": 0.3, "steps": 16, "interval": 3, "schedule": "threshold", "ramp": 6},
    "blocks": {"method": "magnitude", "keep": 0.5, "block": [16, 4], "start": 2, "steps": 12},
    "doping": {"method": "doping", "steps": 14, "interval": 3},
    "doping of a trained model": {"method": "doping", "steps": 14, "interval": 3, "factorize": {"weights": HIDDEN}},
    "delta": {"method": "delta", "keep": 0.7, "steps": 14, "interval": 3},
    "quantization": {"method": "quantize", "weights": {"output": "int8", "*": "int4"}, "start": 5},
}


def recipe(folder, compress, **training):
    (folder / "text.txt").write_text(TEXT)
    optimizer = {"name": "AdamW", "learning_rate": 1e-2, "clip": 1.0}
    compress = dict(compress)
    before = {"factorize": compress.pop("factorize")} if "factorize" in compress else {}
    weights = HIDDEN if compress.get("method") == "doping" and not before else {}
    sizes = {"batch_size": 8, "steps": 10, "evaluate_every": 9, "checkpoint_every": 4, "threads": 1}
    return recipe_from(
        {
            "task": {"data": str(folder / "text.txt")},
            "model": {"embedding": 8, "hidden": [16, 12], "dropout": 0.1, "weights": weights},
            "training": {**sizes, **training},
            "phases": {
                "dense": {"updates": 3, "optimizer": optimizer},
                "cut": {"updates": 20, "optimizer": optimizer, "compress": compress, **before},
                "tune": {"updates": 3, "optimizer": optimizer},
            },
        }
    )


class Stop(BaseException):
    """In place of a signal that kills the process."""


@pytest.mark.filterwarnings("ignore:shrink")
@pytest.mark.parametrize("compress", CASES.values(), ids=CASES)
def test_a_killed_run_goes_on_exactly_and_its_model_is_loaded(compress, tmp_path, monkeypatch):
    checkpoint = Trainer.checkpoint

    def then_stop(trainer, number, run):
        checkpoint(trainer, number, run)
        if (number, run and run.update) == (1, 12):
            raise Stop

    result = train(recipe(tmp_path, compress), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Trainer, "checkpoint", then_stop)
        train(recipe(tmp_path, compress), tmp_path / "killed")
    train(recipe(tmp_path, compress), tmp_path / "killed", resume=True)
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    model, _, _ = RunFolder(tmp_path / "whole").load()
    assert sum(p.numel() for p in model.parameters()) == result["parameters"]
    _, _, macs = counts(model)
    assert (
        macs < 24 * 64 + 28 * 48 or "strength" in compress or compress.get("method") in ("quantize", "delta")
    )  # too few updates for a strength
    if "macs" in compress:
        assert 0.9 * 800 <= macs <= 800


@pytest.mark.parametrize(
    "compress, message",
    [
        ({"method": "neuron_selection", "macs": 10, "steps": 5}, "phases.cut.compress: macs: expected at least"),
        ({"method": "doping", "steps": 5}, None),
        ({"method": "neuron_selection", "macs": 800}, "give keep or macs or bytes and steps, or strength"),
        ({"method": "neuron_selection", "keep": 0.5, "steps": 5, "decay": 0.5}, "decay: expected none with method"),
        ({"method": "magnitude", "steps": 5}, "give keep and steps"),
        ({"method": "magnitude", "keep": 0.5, "start": 10, "steps": 15}, "compress.steps: expected at most the 20"),
        ({"method": "neuron_selection", "keep": {"": 0.5}, "steps": 5}, "keep: expected one fraction with method"),
        ({"keep": {"recurent": 0.5}, "steps": 5}, "phases.cut.compress: keep: expected modules with .* got 'recurent'"),
        ({"method": "magnitude", "keep": 0.5, "steps": 5, "ramp": 2}, "give ramp and slope with schedule"),
        (
            {"method": "magnitude", "keep": 0.5, "steps": 15, "schedule": "threshold", "ramp": 16},
            "phases.cut.compress: ramp: expected at most the 15 steps",
        ),
        ({"keep": 0.5, "macs": 10, "steps": 5}, "macs: expected none with method = 'group_lasso'"),
        ({"method": "magic", "keep": 0.5, "steps": 5}, "method"),
        ({"method": "quantize"}, "give weights"),
        ({"method": "quantize", "weights": "int3"}, "phases.cut.compress: weights: expected one of"),
        ({"method": "quantize", "weights": "int8", "steps": 3}, "steps: expected none with method = 'quantize'"),
        ({"method": "quantize", "weights": {"head": "int8"}}, "the unknown name 'head'"),
        ({"method": "delta", "keep": 0.5, "threshold": 0.1}, "give keep, the share of the products, or threshold"),
        ({"method": "delta", "keep": 0.5, "steps": 21}, "compress.steps: expected at most the 20"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_training(compress, message, tmp_path):
    if message is None:  # a model without a weight to dope
        message = "phases.cut.compress: model: expected one or more"
        table = recipe(tmp_path, compress).as_dict()
        table["model"]["weights"] = {}
        with pytest.raises(ValueError, match=message):
            train(recipe_from(table), tmp_path / "run")
    else:
        with pytest.raises(ValueError, match=message):
            train(recipe(tmp_path, compress), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_delta_network_of_factorized_layers_is_loaded_and_streams(tmp_path):
    compress = {"method": "delta", "threshold": 0.2, "steps": 10}
    table = recipe(tmp_path, {"method": "magnitude", "keep": 0.5, "steps": 4}).as_dict()
    table["phases"]["cut"] |= {
        "compress": None,
        "factorize": {"weights": {"recurrent.*": {"kind": "LowRank", "rank": 3}}},
    }
    table["phases"]["tune"] |= {"updates": 12, "compress": compress}
    train(recipe_from(table), tmp_path / "run")
    model, task, _ = RunFolder(tmp_path / "run").load()
    thresholds = [buffer for name, buffer in model.named_buffers() if "thresholds" in name]
    assert len(thresholds) == 2 and all(bool((t[1:] > 0).all()) for t in thresholds)
    pack_model(model, task, tmp_path / "delta.crnn", "float32")
    engine, tokens = Engine(tmp_path / "delta.crnn"), task.calibration_inputs()
    with torch.no_grad():
        expected = model(tokens)[0].numpy()
    assert np.abs(engine.run(tokens[0].numpy()) - expected).max() < 1e-4


@pytest.mark.parametrize(
    "build, options",
    [
        (lambda options: AcousticModel(4, 5, options), AcousticModelOptions(hidden=(6,), bidirectional=True)),
        (lambda options: AudioModel(4, 3, options), AudioModelOptions(hidden=(6,), cell="GRU")),
        (lambda options: Reader(5, options), ReaderOptions(contextual=3, modeling=(3,), answer=3)),
        (lambda options: SequenceModel(2, 3, options), SequenceModelOptions(hidden=(4,), cell="DuRNN")),
    ],
    ids=["acoustic", "audio", "reader", "sequence"],
)
def test_models_of_delta_networks_are_built_from_their_options_again(build, options):
    plain, model = build(options), build(replace(options, delta=True))
    again = build(replace(options, **model.size_options()))
    names = [name for name, _ in again.named_buffers() if "thresholds" in name]
    assert names and not any("thresholds" in name for name, _ in plain.named_buffers())
    again.load_state_dict(model.state_dict())
    assert "delta" not in plain.size_options()


def test_gates_are_trained_on_one_device():
    table = {"method": "neuron_selection", "keep": 0.5, "steps": 5}
    phases = {"cut": {"updates": 9, "compress": table}}
    with pytest.raises(ValueError, match="expected one device with neuron_selection"):
        recipe_from({"training": {"devices": 2, "batch_size": 4}, "phases": phases})


def test_a_cut_that_ends_after_the_epochs_of_its_phase_is_refused(tmp_path):
    table = recipe(tmp_path, {"keep": 0.5, "steps": 20}).as_dict()
    table["phases"]["cut"]["compress"]["steps"] = 1000
    table["phases"]["cut"] |= {"updates": None, "epochs": 1}
    with pytest.raises(
        ValueError, match=r"phases\.cut: compress\.steps: expected at most the \d+ updates of the phase"
    ):
        train(recipe_from(table), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["units", "doping of a trained model", "quantization"])
def test_weight_dropout_is_refused_before_the_training_where_a_phase_has_other_matrices(tmp_path, name):
    made = recipe(tmp_path, CASES[name])
    dropped = replace(made, model=replace(made.model, weight_dropout=0.3))
    with pytest.raises(ValueError, match=r"phases.cut.model: weight dropout: expected"):
        train(dropped, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    phases = {**dropped.phases, "cut": replace(dropped.phases["cut"], model={"weight_dropout": 0.0})}
    after = {**phases, "tune": replace(phases["tune"], model={"weight_dropout": 0.0})}
    train(replace(dropped, phases=after), tmp_path / "run")
