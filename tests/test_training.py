import json
import math
import os
import random
import signal
import threading
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compactrnn import Engine, ModelFileError
from compactrnn._checkpoint import load_tree, load_weights, save_tree, save_weights
from compactrnn._files import write_atomically
from compactrnn.cells import DuRNN
from compactrnn.compress import distillation_loss
from compactrnn.models.sequence_model import SequenceModel
from compactrnn.training.optimizer import build_optimizer
from compactrnn.training.pack_run import pack_run
from compactrnn.training.progress import Progress
from compactrnn.training.random_state import get_random_state, seed_everything, set_random_state
from compactrnn.training.recipe import OptimizerOptions, ScheduleOptions, load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder, build_task
from compactrnn.training.schedule import LearningRate
from compactrnn.training.train import train
from compactrnn.training.validate_plan import validate_plan

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
TEXT = "the cat sat on the mat; the dog did not.\n" * 60


@pytest.fixture
def table(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return {
        "task": {"data": str(tmp_path / "text.txt")},
        "model": {"embedding": 8, "hidden": [16, 16], "dropout": 0.1},
        "training": {"batch_size": 8, "steps": 10, "evaluate_every": 20, "checkpoint_every": 15, "threads": 1},
        "phases": {"train": {"updates": 60, "optimizer": {"learning_rate": 1e-2, "clip": 1.0}}},
    }


def interrupting(update):
    """A callback that sends this process Ctrl-C after an update."""
    main = threading.main_thread().ident
    assert main is not None

    def callback(progress: Progress) -> None:
        if progress.event == "update" and progress.update == update:
            signal.pthread_kill(main, signal.SIGINT)

    return callback


def test_recipe_files_of_the_repository_are_sound():
    paths = sorted(RECIPES.glob("*.toml"))
    assert {"alice-tiny", "alice", "ptb-small", "ptb-medium"} <= {path.stem for path in paths}
    for path in paths:
        recipe = load_recipe(path)
        assert recipe_from(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_compared_recipes_have_equally_many_parameters():
    for task in ("adding", "smnist", "pmnist"):
        counts = {}
        for path in RECIPES.glob(f"{task}-*.toml"):
            recipe = load_recipe(path)
            inputs, outputs = (2, 1) if task == "adding" else (1, 10)
            counts[path.stem] = sum(p.numel() for p in SequenceModel(inputs, outputs, recipe.model).parameters())
        baseline = counts[f"{task}-lstm"]
        assert all(abs(count - baseline) < 0.03 * baseline for count in counts.values()), counts


def test_the_demo_has_copies_of_the_recipes():
    for name, copy in (("alice.toml", "compact.toml"), ("alice-from-scratch.toml", "from_scratch.toml")):
        copied = files("compactrnn.report.demo") / copy
        assert (RECIPES / name).read_bytes() == copied.read_bytes(), f"{copy} is to be a copy of recipes/{name}"


def test_recipe_errors_name_file_and_key(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[model]\nhiden = 3\n[phases.train]\nupdates = 5\n")
    with pytest.raises(ValueError, match=r"mine\.toml: model\.hiden: unexpected"):
        load_recipe(path)
    path.write_text("[training]\nseed = 'x'\n[phases.train]\nupdates = 5\n")
    with pytest.raises(ValueError, match=r"training\.seed: .*got 'x'"):
        load_recipe(path)
    path.write_text("[phases.train]\nupdates = 5\nepochs = 2\n")
    with pytest.raises(ValueError, match=r"phases\.train: give either updates or epochs"):
        load_recipe(path)
    path.write_text("[phases.train]\nupdates = 5\ndistill = { teacher = 'dense' }\n")
    with pytest.raises(ValueError, match=r"phases\.train\.distill\.teacher: .*got 'dense'"):
        load_recipe(path)
    path.write_text("[phases")
    with pytest.raises(ValueError, match="expected TOML"):
        load_recipe(path)


def test_overrides(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[phases.train]\nupdates = 5\n")
    sets = ["training.seed=7", "task.data=my text.txt", "model.hidden=[4, 5]", "phases.train.optimizer.name=SGD"]
    recipe = load_recipe(path, sets)
    assert recipe.training.seed == 7 and recipe.task.data == "my text.txt" and recipe.model.hidden == (4, 5)
    assert recipe.phases["train"].optimizer.name == "SGD"
    for wrong in ("training.seed", "=3", "training.seed.x=3"):
        with pytest.raises(ValueError, match="--set"):
            load_recipe(path, ["training.seed=7", wrong])


def test_schedules():
    def rates(updates, **options):
        rate = LearningRate(ScheduleOptions(**options), 2.0, total=100, per_epoch=10)
        return [round(rate.at(u), 6) for u in updates]

    assert rates((0, 99), name="constant") == [2, 2]
    assert rates((0, 1, 9), name="constant", warmup=3) == [0.5, 1.0, 2.0]
    assert rates((0, 50, 100), name="cosine", final=0.1) == [2.0, 1.1, 0.2]
    assert rates((19, 20, 39), name="steps", constant_epochs=2, factor=0.5) == [2.0, 1.0, 0.5]
    plateau = LearningRate(ScheduleOptions("plateau", factor=0.1, patience=1), 1.0, total=9, per_epoch=1)
    seen = []
    for metric in (5.0, 4.0, 4.0, 4.0, 3.0):
        plateau.observe(metric)
        seen.append(plateau.at(0))
    assert seen == [1.0, 1.0, 1.0, 0.1, 0.1]


def test_checkpoint_holds_any_nest_exactly(tmp_path):
    tree = {
        "numbers": [1, 0.1, -math.inf, True, None],
        "by number": {0: torch.arange(3), 1: {"deep": (torch.zeros(2, 0), "x")}},
        "bytes": torch.get_rng_state(),
    }
    save_tree(tmp_path / "a", tree)
    save_tree(tmp_path / "b", tree)
    again = load_tree(tmp_path / "a")
    assert again["numbers"] == tree["numbers"] and isinstance(again["by number"][1]["deep"], tuple)
    assert torch.equal(again["by number"][0], torch.arange(3))
    deep, letter = again["by number"][1]["deep"]
    assert deep.shape == (2, 0) and letter == "x"
    assert torch.equal(again["bytes"], tree["bytes"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(TypeError, match="checkpoint entry /x"):
        save_tree(tmp_path / "c", {"x": object()})


def test_damaged_checkpoints_are_refused(tmp_path):
    save_tree(tmp_path / "a", {"x": torch.ones(100)})
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-20])
    save_weights(tmp_path / "c", {"x": torch.ones(2)})
    for name, words in (("b", "not a complete safetensors file"), ("c", "not a checkpoint")):
        with pytest.raises(ModelFileError, match=rf"/{name}: {words}"):
            load_tree(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_tree(tmp_path / "missing")
    with pytest.raises(ModelFileError, match="not a complete"):
        load_weights(tmp_path / "b")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_all_generators_are_restored():
    seed_everything(3)
    np.random.standard_normal()  # leaves a spare number in the generator
    state = get_random_state()
    draws = [(random.random(), np.random.standard_normal(), torch.rand(1).item()) for _ in range(3)]
    set_random_state(state)
    assert draws == [(random.random(), np.random.standard_normal(), torch.rand(1).item()) for _ in range(3)]


def test_distillation_loss_is_the_divergence_of_the_distributions():
    model, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    p, q = torch.softmax(teacher, -1), torch.softmax(model, -1)
    torch.testing.assert_close(distillation_loss(model, teacher), (p * (p / q).log()).sum(-1).mean())


def test_a_run_learns_and_leaves_its_folder(table, tmp_path):
    result = train(recipe_from(table), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["update"] for line in lines] == [20, 40, 60]
    assert lines[-1]["valid_bits_per_character"] < lines[0]["valid_bits_per_character"]
    assert result["test"] < 4 and result["updates"] == {"train": 60, "total": 60}
    model, task, recipe = folder.load()
    assert task.evaluate(model, "test") == result["test"]
    assert recipe == recipe_from(table)
    assert json.loads(folder.result.read_text()) == json.loads(json.dumps(result))


def test_the_best_weights_are_kept_and_patience_ends_a_phase(table, tmp_path):
    table["training"]["evaluate_every"] = 5
    table["phases"]["train"] |= {"updates": 400, "patience": 2, "optimizer": {"learning_rate": 0.3, "clip": 1.0}}
    result = train(recipe_from(table), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = [line["valid_bits_per_character"] for line in lines]
    assert result["updates"]["total"] < 400 and min(values) == values[-3]
    assert result["valid"] == pytest.approx(min(values), rel=1e-6)


def test_sum_over_steps_is_the_mean_with_a_larger_rate(table, tmp_path):
    """With plain SGD and no clipping, summing over 10 steps is training at ten times the rate."""
    table["training"] |= {"loss_reduction": "sum_steps", "evaluate_every": 4}
    table["phases"]["train"] = {"updates": 4, "optimizer": {"name": "SGD", "learning_rate": 0.01}}
    summed = train(recipe_from(table), tmp_path / "a")
    table["training"]["loss_reduction"] = "mean"
    table["phases"]["train"]["optimizer"]["learning_rate"] = 0.1
    assert train(recipe_from(table), tmp_path / "b")["test"] == pytest.approx(summed["test"], rel=1e-5)


def test_divergence_is_reported(table, tmp_path):
    table["phases"]["train"]["optimizer"] = {"name": "SGD", "learning_rate": 1e38}
    with pytest.raises(FloatingPointError, match=r"loss: .*got (nan|inf) at update"):
        train(recipe_from(table), tmp_path / "run")


def test_phases_follow_each_other_and_a_teacher_is_used(table, tmp_path):
    table["phases"]["second"] = {
        "updates": 20,
        "distill": {"teacher": "train", "weight": 1.0},
        "model": {"dropout": 0.0},
    }
    result = train(recipe_from(table), tmp_path / "run")
    assert result["updates"] == {"train": 60, "second": 20, "total": 80}
    first = RunFolder(tmp_path / "run").phase("train")
    assert set(load_tree(first)["model"]) == set(load_weights(tmp_path / "run" / "model.safetensors"))


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on_exactly(table, tmp_path):
    recipe = recipe_from(table)
    train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts", progress=interrupting(37))
    assert load_tree(tmp_path / "parts" / "checkpoint.safetensors")["run"]["update"] == 37
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ValueError, match="which holds a run"):
        train(recipe, tmp_path / "parts")
    other = recipe_from({**table, "training": {**table["training"], "seed": 1}})
    with pytest.raises(ValueError, match="another training"):
        train(other, tmp_path / "parts", resume=True)
    train(recipe, tmp_path / "parts", resume=True)
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    before = (tmp_path / "parts" / "model.safetensors").stat().st_mtime_ns
    assert train(recipe, tmp_path / "parts", resume=True)["updates"]["total"] == 60
    assert (tmp_path / "parts" / "model.safetensors").stat().st_mtime_ns == before, "a finished run stays as it is"


def test_tied_weights_train_and_load(table, tmp_path):
    table["model"] |= {"embedding": 16, "tie": True}
    table["phases"]["train"]["updates"] = 5
    result = train(recipe_from(table), tmp_path / "run")
    model, task, _ = RunFolder(tmp_path / "run").load()
    assert isinstance(model.output, nn.Linear) and model.output.weight is model.embedding.weight
    assert task.evaluate(model, "test") == result["test"]


def test_average_weights_are_validated_and_kept(table, tmp_path):
    table["training"]["evaluate_every"] = 30
    table["phases"]["train"] |= {"updates": 60, "average": 0.9}
    result = train(recipe_from(table), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result["valid"] == pytest.approx(lines[-1]["valid_bits_per_character"], rel=1e-6)
    last = load_tree(tmp_path / "run" / "phases" / "train.safetensors")["model"]
    del table["phases"]["train"]["average"]
    train(recipe_from(table), tmp_path / "plain")
    plain = load_tree(tmp_path / "plain" / "phases" / "train.safetensors")["model"]
    difference = (last["output.weight"] - plain["output.weight"]).abs().max()
    assert 0 < difference < 0.2


def test_bfloat16_trains(table, tmp_path):
    table["training"]["precision"] = "bf16-mixed"
    table["phases"]["second"] = {"updates": 10, "distill": {"teacher": "train"}}
    result = train(recipe_from(table), tmp_path / "run")
    assert result["test"] < 4
    assert load_weights(tmp_path / "run" / "model.safetensors")["output.weight"].dtype == torch.float32


def test_without_products_in_bfloat16_the_same_recipe_trains_in_float32(table, tmp_path, monkeypatch):
    def trained(precision, name):
        table["training"]["precision"] = precision
        result = train(recipe_from(table), tmp_path / name)
        return result["precision"], load_weights(tmp_path / name / "model.safetensors")

    wanted = trained("32-true", "float32")
    monkeypatch.setattr("compactrnn.training.precision.multiplies_in_bfloat16", lambda: False)
    precision, weights = trained("bf16-mixed", "emulated")
    assert precision == wanted[0] == "32-true"
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted[1].items())
    monkeypatch.setattr("compactrnn.training.precision.multiplies_in_bfloat16", lambda: True)
    assert trained("bf16-mixed", "native")[0] == "bf16-mixed"
    assert json.loads((tmp_path / "emulated" / "config.json").read_text())["precision"] == "32-true"


def test_only_matrices_decay_if_asked():
    model = nn.LSTM(3, 4)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    for name in ("AdamW", "SGD"):
        options = OptimizerOptions(name, learning_rate=0.1, weight_decay=0.5, decay="matrices")
        before = float(model.weight_hh_l0.detach()[0, 0])
        build_optimizer(model.parameters(), options).step()
        assert float(model.weight_hh_l0.detach()[0, 0]) == pytest.approx(before * 0.95)
        assert torch.equal(model.bias_hh_l0, torch.ones(16))
    build_optimizer(model.parameters(), OptimizerOptions(learning_rate=0.1, weight_decay=0.5)).step()
    assert model.bias_hh_l0.max() < 1


SEQUENCES = {
    "task": {"name": "first_symbol", "steps": 12, "size": 4},
    "model": {"cell": "GRU", "hidden": [12]},
    "training": {"batch_size": 16, "evaluate_every": 25, "checkpoint_every": 40, "threads": 1},
    "phases": {"train": {"updates": 400, "target": 0.0, "optimizer": {"learning_rate": 2e-2, "clip_value": 0.1}}},
}


def test_a_task_of_sequences_is_solved_and_its_history_kept(tmp_path):
    result = train(recipe_from(SEQUENCES), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    history = folder.history()
    assert result["test"] < 3 and result["test_accuracy"] == 100 - result["test"]
    assert history[-1]["valid_error"] == 0 and 0 not in [line["valid_error"] for line in history[:-1]]
    assert result["updates"]["train"] == history[-1]["update"] < 400, "the target ends the phase"
    assert 5 <= result["solved"]["update"] and result["solved"]["cpu_seconds"] <= result["cpu_seconds"] + 0.1
    seconds = [line["cpu_seconds"] for line in history]
    assert seconds == sorted(seconds) and 0 < seconds[0] and seconds[-1] <= result["cpu_seconds"] + 0.1
    model, task, _ = folder.load()
    assert task.evaluate(model, "test") == result["test"]
    with pytest.raises(ValueError, match=r"data: expected none.*, got 'alice'"):
        folder.load("alice")


def test_a_stopped_run_of_sequences_goes_on_exactly_and_its_time_adds_up(tmp_path, monkeypatch):
    table = {**SEQUENCES, "model": {"hidden": [8, 8], "cell": "MGU", "norm": "batch", "dropout": 0.2}}
    table["phases"] = {"train": {"updates": 60, "optimizer": {"weight_decay": 0.1, "decay": "matrices"}}}
    whole = train(recipe_from(table), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe_from(table), tmp_path / "parts", progress=interrupting(33))
    spent = load_tree(tmp_path / "parts" / "checkpoint.safetensors")["clock"]
    parts = train(recipe_from(table), tmp_path / "parts", resume=True)
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()
    assert parts["test"] == whole["test"] and parts["cpu_seconds"] >= round(spent["cpu_seconds"], 1)
    assert [line["update"] for line in RunFolder(tmp_path / "parts").history()] == [25, 50, 60]


def test_limits_of_time_end_a_run_with_what_it_has(table, tmp_path):
    table["training"] |= {"max_cpu_seconds": 0.5, "evaluate_every": 10_000}
    table["phases"] = {"train": {"updates": 100_000}, "more": {"updates": 100_000}}
    result = train(recipe_from(table), tmp_path / "run")
    assert result["ended_by"] == "max_cpu_seconds" and 0 < result["updates"]["train"] < 100_000
    assert "more" not in result["updates"]
    (line,) = RunFolder(tmp_path / "run").history()
    assert line["update"] == result["updates"]["train"] and line["cpu_seconds"] >= 0.5
    assert result["valid"] == pytest.approx(line["valid_bits_per_character"], rel=1e-6)
    table["training"]["max_cpu_seconds"] = None
    table["training"]["max_seconds"] = 0.3
    assert train(recipe_from(table), tmp_path / "wall")["ended_by"] == "max_seconds"


def test_dropout_that_a_model_does_not_have_is_refused(tmp_path):
    table = {**SEQUENCES, "phases": {"train": {"updates": 2, "model": {"output_dropout": 0.1}}}}
    with pytest.raises(ValueError, match=r"phases\.train\.model: expected some of dropout, got 'output_dropout'"):
        train(recipe_from(table), tmp_path / "run")


def test_a_phase_may_have_shorter_sequences(tmp_path):
    phase = SEQUENCES["phases"]["train"]
    table = {**SEQUENCES, "phases": {"short": {**phase, "task": {"steps": 3}}, "train": phase}}
    result = train(recipe_from(table), tmp_path / "run")
    assert result["test"] < 3 and result["solved"]["phase"] == "train"
    history = RunFolder(tmp_path / "run").history()
    assert {line["phase"] for line in history} == {"short", "train"}
    for wrong, words in (
        ({"speed": 3}, r"short\.task: expected some of size, steps.*, got 'speed'"),
        ({"steps": 0}, "steps"),
    ):
        table["phases"]["short"] = {**phase, "task": wrong}
        with pytest.raises(ValueError, match=words):
            train(recipe_from(table), tmp_path / "other")


def test_recipes_name_their_task():
    with pytest.raises(ValueError, match=r"task\.name: expected one of adding.*, got 'chess'"):
        recipe_from({"task": {"name": "chess"}, "phases": {"train": {"updates": 1}}})
    with pytest.raises(ValueError, match=r"task\.level"):
        recipe_from({"task": {"name": "adding", "level": "word"}, "phases": {"train": {"updates": 1}}})
    with pytest.raises(ValueError, match=r"model\.embedding"):
        recipe_from({"task": {"name": "adding"}, "model": {"embedding": 3}, "phases": {"train": {"updates": 1}}})


def compressing(**model):
    return {
        "task": {"name": "adding", "steps": 8, "valid": 32, "test": 32},
        "model": {"hidden": [12, 8], "norm": "batch", **model},
        "training": {"batch_size": 8, "evaluate_every": 10, "threads": 1},
        "phases": {
            "train": {"updates": 10},
            "compress": {"updates": 20, "compress": {"keep": 0.5, "steps": 15}},
            "tune": {"updates": 10},
        },
    }


@pytest.mark.parametrize("cell", ["IndRNN", "DuRNN", "LSTM"])
def test_a_compress_phase_cuts_batch_norms_and_leaves_a_model_of_the_recipe(cell, tmp_path):
    result = train(recipe_from(compressing(cell=cell)), tmp_path / "run")
    model, task, _ = RunFolder(tmp_path / "run").load()
    assert model.layer_sizes() == (6, 4) and len(model.norms[0].running_mean) == 6
    assert task.evaluate(model, "test") == result["test"]
    pack_run(tmp_path / "run", tmp_path / "model.crnn", "float32")
    engine = Engine(tmp_path / "model.crnn")
    assert task.evaluate_engine(engine, "test") == pytest.approx(result["test"], rel=1e-4)


def test_what_a_cell_wants_in_the_loss_is_trained(tmp_path):
    def norm(constraint):
        options = {"constraint": constraint, "rho": 0.1, "penalty_weight": 10.0}
        recipe = {
            "task": {"name": "adding", "steps": 8, "valid": 32, "test": 32},
            "model": {"cell": "DuRNN", "hidden": [12], "cell_options": options},
            "training": {"batch_size": 8, "evaluate_every": 200, "threads": 1},
            "phases": {"train": {"updates": 200, "optimizer": {"learning_rate": 1e-2}}},
        }
        train(recipe_from(recipe), tmp_path / constraint)
        model, _, _ = RunFolder(tmp_path / constraint).load()
        (cell,) = (m for m in model.modules() if isinstance(m, DuRNN))
        return torch.linalg.matrix_norm(cell.hidden.weight, 2).item()

    assert norm("penalty") < 0.2 < 0.5 < norm("none")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"hidden": [8, 8], "residual": True}, r"layers\.\d.*add"),
        ({"hidden_weight": {"kind": "Kronecker", "out_block": 4, "in_block": 4}}, "a multiple of out_block=4"),
        ({"hidden_weight": {"kind": "Kronecker", "out_block": 2, "in_block": 2}}, r"layers\.0.*in place of None"),
    ],
)
def test_a_compress_phase_that_could_not_be_saved_is_refused_before_the_training(model, words, tmp_path):
    with pytest.raises(ValueError, match=rf"^phases\.compress\.compress: expected .*{words}"):
        train(recipe_from(compressing(**model)), tmp_path / "run")
    assert not (tmp_path / "run" / "phases").exists()


def test_the_validation_of_a_compress_phase_draws_no_random_numbers():
    recipe = recipe_from(compressing())
    task = build_task(recipe)
    model = task.build_model(recipe.model)
    state, weights = get_random_state(), {n: t.clone() for n, t in model.state_dict().items()}
    compress = recipe.phases["compress"].compress
    assert compress is not None
    validate_plan(model, task, asdict(recipe.model), compress, "compress")
    assert torch.equal(torch.get_rng_state(), state["torch"])
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
