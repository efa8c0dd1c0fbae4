"""A language model of every cell: trained, killed and resumed, pruned, built again, packed, and run as in torch."""

import itertools
import re
import shutil

import pytest
import torch
from torch import nn

import compactrnn as cr
from cell_table import FIRST
from compactrnn.layers import cells_of
from compactrnn.models import LanguageModel, LanguageModelOptions, SequenceModel, SequenceModelOptions
from compactrnn.models.recurrent_layers import known_cells
from compactrnn.tasks.generate import generate
from compactrnn.tasks.table import task_of
from compactrnn.training.pack_run import pack_run
from compactrnn.training.recipe import recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from compactrnn.training.trainer import Trainer

TEXT = "the cat sat on the mat; the dog did not.\n" * 40
CELLS = {
    **{cell.__name__: make.keywords for cell, make in FIRST.items()},
    "RNN": {"nonlinearity": "relu"},
    "DuRNN, both outputs": {"output": "both", "short_size": 9},
}
FIXED = {  # of which no unit can be removed
    name
    for name, own in CELLS.items()
    if name != "RNN" and any(units.fixed for units in known_cells()[name.split(",")[0]](4, 6, **own).active_units())
}
CUT = [name for name in CELLS if name not in FIXED]
METHODS = ("group_lasso", "neuron_selection")
PRUNERS = {
    "group lasso": lambda model, x: cr.GroupLasso(model, x, keep=0.6, steps=6),
    "neuron selection": lambda model, x: cr.NeuronSelection(model, x, keep=0.6, steps=6, embeddings=True),
}


def options(name, **changes):
    width = 19 if name == "DuRNN, both outputs" else 10
    dropout = {"dropout": 0.1, "embedding_dropout": 0.1, "output_dropout": 0.2, "locked_dropout": True}
    sizes = {"embedding": width, "hidden": (12, 10), "tie": True}
    return {**sizes, **dropout, "cell": name.split(",")[0], "cell_options": CELLS[name], **changes}


def model_of(name, **changes):
    return LanguageModel(11, LanguageModelOptions(**options(name, **changes)))


def test_every_cell_is_in_the_table():
    assert {cell.__name__: cell for cell in FIRST} == known_cells()
    assert not [name for name in known_cells() if not hasattr(cr, name)]


@pytest.mark.parametrize("name, method", list(zip(CUT, itertools.cycle(METHODS), strict=False)))
def test_a_killed_run_goes_on_exactly_and_its_file_has_its_quality(name, method, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    optimizer = {"name": "AdamW", "learning_rate": 1e-2, "clip": 1.0}
    sizes = {"batch_size": 8, "steps": 10, "evaluate_every": 9, "checkpoint_every": 4, "threads": 1, "shift": True}
    recipe = recipe_from(
        {
            "task": {"data": str(tmp_path / "text.txt")},
            "model": options(name, hidden=(10,)),
            "training": {**sizes, "validation_streams": 4},
            "phases": {
                "cut": {
                    "updates": 16,
                    "optimizer": optimizer,
                    "compress": {"method": method, "keep": 0.6, "steps": 10},
                }
            },
        }
    )
    checkpoint = Trainer.checkpoint

    def then_copy(trainer, number, run):
        checkpoint(trainer, number, run)
        if (number, run and run.update) == (0, 12):
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")  # what a kill would leave

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "checkpoint", then_copy)
        result = train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "killed", resume=True)
    for file in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file

    model, task, _ = RunFolder(tmp_path / "whole").load()
    assert result["recurrent_parameters"] == model.recurrent_parameters()
    assert result["parameters"] < sum(p.numel() for p in task.build_model(recipe.model).parameters())
    assert task.evaluate(model, "test", 1) == pytest.approx(result["test"], rel=1e-6)
    pack_run(tmp_path / "whole", tmp_path / "model.crnn", "float32")
    engine = cr.Engine(tmp_path / "model.crnn")
    packed = task_of(engine.metadata, str(tmp_path / "text.txt"))
    assert packed.evaluate_engine(engine, "test") == pytest.approx(result["test"], rel=1e-4)
    assert len(generate(engine, packed.vocabulary, "the ", 12, 1.0, seed=0)) == 16


@pytest.mark.parametrize("prune", PRUNERS.values(), ids=PRUNERS)
@pytest.mark.parametrize("name", CUT)
def test_a_model_is_cut_exactly_and_built_again_from_its_sizes(name, prune):
    torch.manual_seed(0)
    model, tokens = model_of(name, init=0.3), torch.randint(11, (4, 9))
    pruner, states = prune(model, tokens), None
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(10):
        logits, states = model.advance(tokens, states)
        states = cr.layers.detach(states)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()) + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer).eval()
    assert small.embedding.weight is small.output.weight and small.layer_sizes() != model.layer_sizes()
    with torch.no_grad():
        torch.testing.assert_close(small(tokens), model.eval()(tokens), rtol=1e-4, atol=1e-5)
    again = model_of(name, **small.size_options()).eval()
    again.load_state_dict(small.state_dict())
    assert again.size_options() == small.size_options()
    with torch.no_grad():
        first, states = again.advance(tokens[:, :4])
        logits = torch.cat([first, again.advance(tokens[:, 4:], states)[0]], 1)
        torch.testing.assert_close(logits, small(tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(FIXED))
def test_cells_that_cannot_be_cut_are_refused_with_the_reason(name):
    model, tokens = model_of(name, tie=False), torch.randint(11, (4, 9))
    (why,) = {units.fixed for row in cells_of(model.recurrent) for units in row[0].active_units() if units.fixed}
    message = f"no unit can be removed: all units stay in recurrent (recurrent: {why})"
    with pytest.raises(cr.UnsupportedModelError, match=re.escape(message)):
        cr.GroupLasso(model, tokens, keep=0.6, steps=6)


@pytest.mark.parametrize("name", CELLS)
def test_dropout_is_set_from_phase_to_phase(name):
    model, tokens = (
        model_of(name, dropout=0.5, embedding_dropout=0.0, output_dropout=0.0).train(),
        torch.arange(9)[None],
    )
    assert model.recurrent.locked_dropout and model.recurrent.dropout == 0.5
    with torch.no_grad():
        assert not torch.equal(model(tokens), model(tokens))
        model.adjust(LanguageModelOptions(**options(name, dropout=0.0, embedding_dropout=0.0, output_dropout=0.0)))
        torch.testing.assert_close(model(tokens), model.eval()(tokens))


@pytest.mark.parametrize(
    "cell, given, message",
    [
        ("FSMN", {"look_ahead": 2}, r"reads no later steps, got FSMN that reads 2 steps ahead; .*to predict"),
        (
            "LSTM",
            {"bidirectional": True},
            r"model.cell_options: expected options of LSTM: bias, got bidirectional=True",
        ),
        ("RHN", {"batch_first": False}, r"expected options of RHN: bias, depth, transform_bias, got batch_first=False"),
        ("RHN", {"hidden_weight": 3}, r"model.cell_options.hidden_weight: expected it as model.hidden_weight, got 3"),
        ("RHN", {"depth": 0}, "depth: expected a positive int, got 0"),
        ("DeltaCell", {}, "model.cell: expected the name of a cell of compactrnn: .*RHN.*, got 'DeltaCell'"),
        ("AbstractCell", {}, "model.cell: expected the name of a cell"),
    ],
)
def test_what_a_cell_is_not_or_does_not_take_is_refused(cell, given, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(11, LanguageModelOptions(cell=cell, cell_options=given))


def test_options_of_single_layers():
    table = ({"depth": 2}, {"depth": 4, "transform_bias": -1.0})
    model = model_of("RHN", layer_options=table)
    assert [row[0].depth for row in cells_of(model.recurrent)] == [2, 4]
    with pytest.raises(ValueError, match=r"model.layer_options: expected none, or 2 tables as in hidden"):
        model_of("RHN", layer_options=table[:1])
    with pytest.raises(ValueError, match=r"model.layer_options: expected the same for all layers of LSTM"):
        model_of("LSTM", layer_options=({"bias": True}, {"bias": False}))
    with pytest.raises(ValueError, match=r"layer_options: expected none, or 1, one for each layer, got 2"):
        cr.Recurrent(cr.RHN, 3, 4, layer_options=table)
    options = SequenceModelOptions(hidden=(4, 4), cell="RHN", cell_options={"depth": 3}, layer_options=({}, table[0]))
    assert [cells_of(layer)[0][0].depth for layer in SequenceModel(2, 3, options).layers] == [3, 2]


def test_the_outputs_of_both_memories_are_read():
    options = SequenceModelOptions(hidden=(4, 3), cell="DuRNN", cell_options={"output": "both", "short_size": 5})
    model = SequenceModel(2, 3, options)
    assert model.output.in_features == 8 and model(torch.randn(2, 5, 2)).shape == (2, 3)


def test_initial_numbers():
    torch.manual_seed(0)
    (cell,), (other,) = cells_of(model_of("RHN", init=0.01).recurrent)
    assert cell.hidden_2.weight.abs().max() <= 0.01 and (other.bias_2[10:] == -2).all(), "the transform bias stays"
    (cell,), _ = cells_of(model_of("RHN", init="orthogonal").recurrent)
    for gate in cell.hidden_3.weight.split(12):
        torch.testing.assert_close(gate @ gate.T, torch.eye(12), atol=1e-5, rtol=0)
    assert (cell.bias_2[12:] == -2).all()
    with pytest.raises(ValueError, match=r"model\.init: .*got orthogonal with LowRank"):
        model_of("RHN", init="orthogonal", hidden_weight={"kind": "LowRank", "rank": 2})


@pytest.mark.parametrize("name", [name for name in CUT if name != "RNN"])
def test_the_sizes_of_a_cut_cell_build_it_again(name):
    own = CELLS[name]
    cell_class = known_cells()[name.split(",")[0]]
    for projection in ({}, {} if "both" in name or name == "DuRNN" else {"proj_size": 7}):
        layer = cr.Recurrent(cell_class, 5, [9, 8], **own, **projection)
        keep = []
        for row in layer.rows():
            counts = {units.name: row[0].unit_count(units) for units in row[0].active_units()}
            keep.append([{n: torch.arange(max(1, count - 1 - i)) for i, (n, count) in enumerate(counts.items())}])
        cr.layers.narrow_(layer, keep)
        sizes = [row[0].size_options() for row in layer.rows()]
        projected = {"proj_size": layer.proj_size} if projection else {}
        again = cr.Recurrent(cell_class, 5, layer.hidden_size, **{**own, **projected}, layer_options=sizes)
        shapes = [{n: t.shape for n, t in one.state_dict().items()} for one in (layer, again)]
        assert shapes[0] == shapes[1] and again.hidden_size == layer.hidden_size
