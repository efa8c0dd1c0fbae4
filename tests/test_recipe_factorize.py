"""A phase of a recipe that factorizes the model of the phase before it."""

import pytest
import torch

import compactrnn as cr
from compactrnn._checkpoint import load_tree
from compactrnn.layers.matrices import matrices
from compactrnn.models import (
    AcousticModel,
    AcousticModelOptions,
    AudioModel,
    AudioModelOptions,
    LanguageModel,
    LanguageModelOptions,
    SequenceModel,
    SequenceModelOptions,
)
from compactrnn.training.pack_run import pack_run
from compactrnn.training.recipe import recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from compactrnn.training.trainer import Trainer
from compactrnn.weights import Kronecker, LowRank
from compactrnn.weights.low_rank import LowRankWeight

TEXT = "the cat sat on the mat; the dog did not.\n" * 60


def options(folder):
    (folder / "text.txt").write_text(TEXT)
    optimizer = {"learning_rate": 1e-2, "clip": 1.0}
    return {
        "task": {"data": str(folder / "text.txt")},
        "model": {"embedding": 8, "hidden": [16, 12], "dropout": 0.1},
        "training": {"batch_size": 8, "steps": 10, "evaluate_every": 9, "checkpoint_every": 4, "threads": 1},
        "phases": {
            "dense": {"updates": 9, "optimizer": optimizer},
            "small": {
                "updates": 9,
                "optimizer": optimizer,
                "factorize": {"keep": 0.6, "calibration": 2, "weights": {"embedding": {}}},
                "distill": {"teacher": "dense"},
            },
            "cut": {"updates": 9, "optimizer": optimizer, "compress": {"keep": 0.75, "steps": 7}},
        },
    }


@pytest.fixture
def table(tmp_path):
    return options(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was not interrupted, and its recipe."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = recipe_from(options(folder))
    train(recipe, folder / "run")
    return recipe, RunFolder(folder / "run")


def test_dense_training_then_factorization_then_pruning(whole, tmp_path):
    recipe, run = whole
    result = run.read_result()
    sizes = [sum(t.numel() for t in load_tree(run.phase(name))["model"].values()) for name in recipe.phases]
    assert sizes[1] <= 0.6 * sizes[0] and sizes[2] < sizes[1] and result["parameters"] == sizes[2]
    assert result["weights"] and all(table["kind"] == "LowRank" for table in result["weights"].values())
    model, _, _ = run.load()
    assert {m.name for m in matrices(model) if isinstance(m.held, LowRankWeight)} == set(result["weights"])
    assert pack_run(run.path, tmp_path / "model.crnn", "float32")["parity"] < 1e-5


class Stop(BaseException):
    """In place of a signal that kills the process."""


@pytest.mark.parametrize("phase, update", [(1, None), (1, 8), (2, 4)])
def test_a_run_that_is_killed_in_any_phase_goes_on_exactly(phase, update, whole, tmp_path, monkeypatch):
    recipe, run = whole
    checkpoint = Trainer.checkpoint

    def then_stop(trainer, number, run):
        checkpoint(trainer, number, run)
        if (number, run and run.update) == (phase, update):
            raise Stop

    monkeypatch.setattr(Trainer, "checkpoint", then_stop)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "killed")
    monkeypatch.undo()
    train(recipe, tmp_path / "killed", resume=True)
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (run.path / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    before, after = run.read_result(), RunFolder(tmp_path / "killed").read_result()
    assert before["weights"] == after["weights"] and before["test"] == after["test"]


def shorter(recipe, phases, **changes):
    table = recipe.as_dict()
    return recipe_from({**table, **changes, "phases": dict(list(table["phases"].items())[:phases])})


@pytest.fixture(scope="module")
def dense(whole, tmp_path_factory):
    """The folder of a run of the first phase alone."""
    folder = tmp_path_factory.mktemp("dense") / "run"
    train(shorter(whole[0], 1), folder)
    return folder


def test_a_run_from_another_one_equals_the_whole_recipe(whole, dense, tmp_path):
    recipe, run = whole
    before = {path: path.read_bytes() for path in dense.rglob("*") if path.is_file()}
    train(recipe, tmp_path / "run", source=dense)
    for name in ("model.safetensors", "metrics.jsonl", "config.json", "phases/dense.safetensors"):
        assert (run.path / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    assert before == {path: path.read_bytes() for path in dense.rglob("*") if path.is_file()}
    assert train(recipe, tmp_path / "run", source=dense, resume=True) == RunFolder(tmp_path / "run").read_result()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: shorter(r, 1), "recipe: expected that of .*config.json, with phases after dense, got .* no"),
        (lambda r: shorter(r, 3, model={**r.as_dict()["model"], "dropout": 0.2}), "got one with another model"),
        (lambda r: recipe_from({**(t := r.as_dict()), "phases": {"small": t["phases"]["cut"]}}), "another phases"),
        (lambda r: recipe_from(bad_rank(r.as_dict())), "phases.small.factorize: "),
    ],
)
def test_a_recipe_that_does_not_continue_a_run_is_refused(change, message, whole, dense, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(change(whole[0]), tmp_path / "run", source=dense)
    assert not (tmp_path / "run").exists()


def bad_rank(table):
    table["phases"]["small"]["factorize"]["keep"] = 0.01
    return table


def test_a_run_from_a_folder_without_one_is_refused(whole, dense, tmp_path):
    with pytest.raises(ValueError, match=r"run folder: expected a finished run, got .*nowhere"):
        train(whole[0], tmp_path / "run", source=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep": 0.5, "rank": 3}, "give one of rank, energy and keep"),
        ({}, "give one of rank, energy and keep, or weights by name"),
        ({"keep": 1.0}, "keep: expected less than 1"),
        ({"weights": {"output": {"kind": "Magic"}}}, "weights.output: weight kind: expected one of"),
        ({"rank": 0}, "phases.small.factorize.rank"),
    ],
)
def test_options_are_checked(options, message, table):
    table["phases"]["small"]["factorize"] = options
    with pytest.raises(ValueError, match=message):
        recipe_from(table)


def test_two_compressors_in_a_phase_are_refused(table):
    table["phases"]["small"]["compress"] = {"strength": 0.1}
    with pytest.raises(ValueError, match="give group_lasso and factorize in two phases"):
        recipe_from(table)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"weights": {"outptu": {"kind": "LowRank", "rank": 2}}},
            r"phases.small.factorize: spec: .*unknown name 'outptu'",
        ),
        ({"keep": 0.01}, r"phases.small.factorize: keep: expected at least 0\."),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_training(options, message, table, tmp_path):
    table["phases"]["small"]["factorize"] = options
    with pytest.raises(ValueError, match=message):
        train(recipe_from(table), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_models_take_weights_by_name():
    torch.manual_seed(0)
    options = {
        "recurrent.weight_hh_*": {"kind": "LowRank", "rank": 3},
        "output": {"kind": "Kronecker", "out_block": 5, "in_block": 4},
    }
    model = LanguageModel(10, LanguageModelOptions(embedding=8, hidden=(12, 8), weights=options))
    held = {m.name: getattr(m.held, "spec", None) for m in matrices(model)}
    assert held["recurrent.weight_hh_l0"] == held["recurrent.weight_hh_l1"] == LowRank(rank=3)
    assert held["output"] == Kronecker(5, 4) and held["embedding"] is None
    assert 0.5 < float(model.output.weight.dense().detach().std() * 8**0.5 * 3**0.5) < 2
    sequence = SequenceModel(
        3, 4, SequenceModelOptions(hidden=(8,), cell="MGU", weights={"layers": {"kind": "LowRank", "rank": 2}})
    )
    assert set(sequence.size_options()["weights"]) == {
        f"layers.0.cells.0.0.{n}" for n in ("input", "forget", "candidate")
    }
    with pytest.raises(ValueError, match=r"model.weights: expected the name of a matrix: .*got 'nothing'"):
        LanguageModel(10, LanguageModelOptions(weights={"nothing": {"kind": "LowRank", "rank": 3}}))
    with pytest.raises(ValueError, match=r"model.weights.output: rank: expected at most 8"):
        LanguageModel(10, LanguageModelOptions(hidden=(8,), weights={"output": {"kind": "LowRank", "rank": 30}}))


@pytest.mark.parametrize(
    "build",
    [
        lambda weights, sizes: AudioModel(6, 4, AudioModelOptions(**{"hidden": (8, 8), **sizes, "weights": weights})),
        lambda weights, sizes: AcousticModel(
            2, 5, AcousticModelOptions(**{"hidden": (8, 8), "projection": (0, 4), **sizes, "weights": weights})
        ),
    ],
)
def test_names_of_weights_are_those_of_the_whole_model(build):
    first = "sequence_model.layers.0.weight_hh_l0"
    model = build({first: {"kind": "LowRank", "rank": 2}}, {})
    assert [m.name for m in matrices(model) if getattr(m.held, "spec", None) == LowRank(rank=2)] == [first]
    cr.factorize_(model, {"sequence_model.layers.1": LowRank(rank=3)})
    sizes = model.size_options()
    again = build(sizes["weights"], {name: value for name, value in sizes.items() if name != "weights"})
    again.load_state_dict(model.state_dict())
    assert [str(getattr(m.held, "spec", None)) for m in matrices(again)] == [
        str(getattr(m.held, "spec", None)) for m in matrices(model)
    ]


def test_a_tied_table_stays_tied_through_a_recipe(table, tmp_path):
    table["model"] = {"embedding": 12, "hidden": [12], "tie": True}
    table["phases"] = {
        "dense": {"updates": 5},
        "small": {"updates": 5, "factorize": {"rank": 3}},
    }
    train(recipe_from(table), tmp_path / "run")
    model, _, _ = RunFolder(tmp_path / "run").load()
    assert model.output.weight is model.embedding.weight and model.output.weight.rank == 3
