import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compactrnn.layers.dropout import hidden_matrices
from compactrnn.models import LanguageModel, LanguageModelOptions
from compactrnn.tasks.batch import Batch
from compactrnn.tasks.generate import generate
from compactrnn.tasks.language_model import LanguageModelData, LanguageModelTask, in_rows
from compactrnn.tasks.negatives import NegativeSampler
from compactrnn.tasks.quality import evaluate_stream
from compactrnn.tasks.table import task_of as task_of_metadata
from compactrnn.tasks.vocabulary import Vocabulary, split_symbols

SMALL = LanguageModelOptions(embedding=6, hidden=(8, 8))
SHARED = Path(os.environ.get("COMPACTRNN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat; the dog did not.\n" * 60)
    return str(path)


def task_of(text, level="character", batch_size=4, steps=5):
    return LanguageModelTask(LanguageModelData(text, level), batch_size=batch_size, steps=steps)


class TorchEngine:
    """Has an engine's interface and computes in torch."""

    def __init__(self, model):
        self.model = model.eval()

    def stream(self):
        self.states = None
        return self

    @torch.no_grad()
    def run(self, tokens):
        logits, self.states = self.model.advance(torch.as_tensor(np.asarray(tokens))[None], self.states)
        return logits[0].numpy()

    def step(self, token):
        return self.run([token])[0]


def test_vocabulary_comes_from_the_training_text_and_reads_the_rest_as_unknown():
    vocabulary = Vocabulary.of("a b b c\n", "word", minimum_count=2)
    assert vocabulary.symbols == ("<unk>", "b")
    assert vocabulary.encode("a b zebra").tolist() == [0, 1, 0, 0]
    known = Vocabulary.of("x <unk>\n", "word")
    assert known.symbols == ("<eos>", "<unk>", "x")
    assert known.decode([2, 0, 2]) == "x\nx"
    with pytest.raises(ValueError, match=r"level: .*got 'syllable'"):
        Vocabulary.of("a", "syllable")


def test_rows_are_consecutive_stretches_and_targets_the_next_symbols(text):
    task = task_of(text)
    tokens = task.parts["train"]
    first, second = task.batch(0), task.batch(1)
    length = (len(tokens) - 1) // 4
    for row in range(4):
        assert first.inputs[row].tolist() == tokens[row * length : row * length + 5].tolist()
        assert second.targets[row].tolist() == tokens[row * length + 6 : row * length + 11].tolist()
    last = task.batch(task.updates_per_epoch() - 1)
    assert last.inputs.shape == last.targets.shape == (4, 5) and last.lengths is None
    assert in_rows(np.arange(9), 2).tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


def test_states_carried_over_batches_equal_one_long_pass(text):
    task = task_of(text)
    torch.manual_seed(0)
    model = task.build_model(SMALL).eval()
    states, parts = None, []
    for index in range(3):
        outputs, states = task.forward(model, task.batch(index), states)
        parts.append(outputs)
    assert not any(t.requires_grad for t in states)
    torch.testing.assert_close(torch.cat(parts, 1), model(task.rows[:, :15]))


@pytest.mark.parametrize("level", ["character", "word"])
def test_metric_is_that_of_one_continuous_stream(text, level):
    task = task_of(text, level, batch_size=2, steps=3)
    torch.manual_seed(0)
    model = task.build_model(SMALL).eval()
    tokens = torch.as_tensor(task.parts["test"])
    log_p = torch.log_softmax(model(tokens[None, :-1])[0].double(), -1)
    nats = -log_p[torch.arange(len(tokens) - 1), tokens[1:]].mean().item()
    wanted = nats / math.log(2) if level == "character" else math.exp(nats)
    assert task.evaluate(model, "test") == pytest.approx(wanted, rel=1e-5)
    assert evaluate_stream(TorchEngine(model), task.parts["test"], level, chunk=7) == pytest.approx(wanted, rel=1e-5)


def test_evaluation_leaves_mode_and_generators_alone(text):
    task = task_of(text)
    model = task.build_model(LanguageModelOptions(embedding=6, hidden=(8, 8), dropout=0.5)).train()
    before = torch.get_rng_state()
    assert task.evaluate(model, "valid") == task.evaluate(model, "valid")
    assert model.training and torch.equal(before, torch.get_rng_state())


def test_metadata_brings_the_vocabulary_back(text):
    task = task_of(text)
    again = task_of_metadata(task.metadata(), text)
    assert again.vocabulary.symbols == task.vocabulary.symbols and again.metric == "bits_per_character"
    assert again.parts["test"].tolist() == task.parts["test"].tolist() and again.data_name() == text
    with pytest.raises(ValueError, match=r"data: .*in the file's metadata.*--data PATH"):
        task_of_metadata(task.metadata())
    with pytest.raises(ValueError, match="model metadata: expected the task of a recipe, got none"):
        task_of_metadata({"labels": ["yes", "no"]})


def test_text_is_drawn_by_the_models_odds(text):
    task = task_of(text)
    torch.manual_seed(0)
    engine = TorchEngine(task.build_model(SMALL))
    drawn = generate(engine, task.vocabulary, "the ", 30, 1.0, seed=1)
    assert drawn.startswith("the ") and len(drawn) == 34 and set(drawn) <= set(task.vocabulary.symbols)
    assert generate(engine, task.vocabulary, "the ", 30, 1.0, seed=1) == drawn
    assert generate(engine, task.vocabulary, "the ", 30, 1.0, seed=2) != drawn
    cold = generate(engine, task.vocabulary, "the ", 5, 1e-6, seed=3)
    assert cold == generate(engine, task.vocabulary, "the ", 5, 1e-6, seed=4), "at zero temperature the best one wins"


def test_model_options():
    model = LanguageModel(11, LanguageModelOptions(embedding=8, hidden=(8, 8), tie=True, init=0.05, dropout=0.2))
    assert model.output.weight is model.embedding.weight
    assert max(p.abs().max().item() for p in model.parameters()) <= 0.05
    model.adjust(LanguageModelOptions(dropout=0.2, embedding_dropout=0.1, output_dropout=0.3))
    assert (model.embedding_dropout.p, model.recurrent.dropout, model.dropout.p) == (0.1, 0.2, 0.3)
    assert model.recurrent_parameters() == 2 * (4 * 8 * 16 + 2 * 4 * 8)
    with pytest.raises(ValueError, match=r"model\.tie"):
        LanguageModel(11, LanguageModelOptions(embedding=8, hidden=(6,), tie=True))
    with pytest.raises(ValueError, match=r"model\.cell: .*got 'Transformer'"):
        LanguageModel(11, LanguageModelOptions(cell="Transformer"))
    with pytest.raises(ValueError, match=r"weight kind: .*got 'Magic'"):
        LanguageModel(11, LanguageModelOptions(hidden_weight={"kind": "Magic"}))


def test_a_size_per_layer_and_any_weight():
    options = LanguageModelOptions(embedding=8, hidden=(12, 6), hidden_weight={"kind": "LowRank", "rank": 2})
    model = LanguageModel(11, options)
    assert model(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3, 11)
    assert model.recurrent_parameters() < LanguageModel(11, LanguageModelOptions(8, (12, 6))).recurrent_parameters()


@pytest.mark.skipif(not (SHARED / "ptb").is_dir(), reason="no Penn Treebank in the data folder")
def test_penn_treebank_counts_are_the_published_ones(monkeypatch):
    monkeypatch.setenv("COMPACTRNN_DATA", str(SHARED))
    task = LanguageModelTask(LanguageModelData("ptb", "word"), batch_size=20, steps=20)
    assert [len(task.parts[p]) for p in ("train", "valid", "test")] == [929589, 73760, 82430]
    assert len(task.vocabulary) == 10000 and task.updates_per_epoch() == 2323
    assert not set(split_symbols("", "word"))


def test_orthogonal_start():
    model = LanguageModel(11, LanguageModelOptions(embedding=5, hidden=(8, 6), init="orthogonal"))
    weights = model.recurrent.state_dict()
    for gate in weights["weight_hh_l1"].split(6):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6), atol=1e-5, rtol=0)
    assert not weights["bias_ih_l0"].any() and weights["weight_ih_l0"].abs().max() <= (6 / (5 + 8)) ** 0.5
    with pytest.raises(ValueError, match=r"model\.init"):
        LanguageModel(11, LanguageModelOptions(init="orthogonal", hidden_weight={"kind": "LowRank", "rank": 2}))


def test_shift_moves_the_cuts_from_epoch_to_epoch(text):
    task = LanguageModelTask(LanguageModelData(text), batch_size=4, steps=5, shift=0)
    last = task.updates_per_epoch() - 1
    starts = []
    for epoch in range(20):
        first = task.batch(0, epoch).inputs
        assert torch.equal(first, task.batch(0, epoch).inputs), "the same each time"
        starts.append(next(o for o in range(5) if torch.equal(first, task.rows[:, o : o + 5])))
        assert task.batch(last, epoch).targets.shape == (4, 5)
    assert set(starts) == {0, 1, 2, 3, 4}


def sampled(text, negatives, **options):
    data = LanguageModelData(text, negatives=negatives, **options)
    return LanguageModelTask(data, batch_size=4, steps=5, seed=3)


def test_symbols_are_drawn_with_the_probabilities_that_correct_for_it():
    counts = np.array([900, 400, 100, 50, 25, 10, 10, 1, 1, 0])
    sampler = NegativeSampler(counts, size=4, power=0.5, seed=1)
    assert sampler.inclusion.sum() == pytest.approx(4) and sampler.inclusion.max() == 1
    free = sampler.inclusion < 1
    odds = sampler.inclusion[free] / np.maximum(counts, 1)[free] ** 0.5
    assert odds.min() == pytest.approx(odds.max())
    draws = [sampler.draw(0, index) for index in range(4000)]
    assert all(len(set(drawn)) == 4 for drawn in draws)
    share = np.bincount(np.concatenate(draws), minlength=10) / len(draws)
    deviation = np.sqrt(sampler.inclusion * (1 - sampler.inclusion) / len(draws))
    assert (np.abs(share - sampler.inclusion) <= 4.5 * deviation + 1e-12).all()
    assert sampler.draw(2, 7).tolist() == sampler.draw(2, 7).tolist() != sampler.draw(2, 8).tolist()


LOW_RANK_OUTPUT = {"output": {"kind": "LowRank", "rank": 3}}


@pytest.mark.parametrize(("tie", "weights"), [(False, {}), (True, {}), (False, LOW_RANK_OUTPUT)])
def test_a_sampled_softmax_over_all_symbols_is_the_whole_one(text, tie, weights):
    whole = task_of(text)
    size = len(whole.vocabulary)
    options = LanguageModelOptions(embedding=8, hidden=(8, 8), tie=tie, weights=weights)
    torch.manual_seed(0)
    model, found = whole.build_model(options), []
    for task in (whole, sampled(text, size)):
        batch, states = task.batch(1), None
        model.zero_grad()
        outputs, states = task.forward(model, batch, states)
        task.loss(outputs, batch).backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert outputs.shape == (4, 5, 1 + size)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_sampled_sum_of_exponentials_has_the_expectation_of_the_whole_one(text):
    task = sampled(text, 6)
    torch.manual_seed(0)
    model = task.build_model(LanguageModelOptions(embedding=6, hidden=(8, 8), init=1.5)).eval()
    inputs = task.batch(0)
    with torch.no_grad():
        logits = model(inputs.inputs)
        sums = []
        for index in range(1500):
            batch = task.sampler.sampled(Batch(inputs.inputs, inputs.targets), 0, index)
            sums.append(task.forward(model, batch, None)[0].exp().sum(-1))
    sums, exact = torch.stack(sums), logits.exp().sum(-1)
    error = (sums.mean(0) - exact).abs() / (sums.std(0) / len(sums) ** 0.5 + 1e-6)
    assert float(error.max()) < 4.5 and float(sums.std(0).min()) > 0
    assert task.evaluate(model, "valid") == task_of(text).evaluate(model, "valid")


def test_more_negatives_than_symbols_are_refused(text):
    with pytest.raises(ValueError, match=r"task\.negatives: expected at most the \d+ symbols, got 5000; set it to 0"):
        sampled(text, 5000)


@pytest.mark.parametrize("hidden", [(8, 8), (8, 6)])
def test_locked_dropout_takes_the_same_units_at_all_steps(hidden):
    options = LanguageModelOptions(embedding=6, hidden=hidden, dropout=0.5, embedding_dropout=0.3, locked_dropout=True)
    model = LanguageModel(11, options)
    kept = []
    model.output.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    torch.manual_seed(0)
    tokens = torch.randint(0, 11, (3, 9))
    model(tokens)
    dropped = kept[0] == 0
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped)) and 0 < dropped.float().mean() < 1
    assert not torch.equal(dropped[0, 0], dropped[1, 0])
    assert torch.equal(model.eval()(tokens), model(tokens))


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN", "MGU", "RHN"])
@pytest.mark.parametrize("hidden, locked", [((8, 8), True), ((8, 8), False), ((8, 6), False)])
def test_weight_dropout_is_a_model_with_fewer_entries(cell, hidden, locked):
    options = LanguageModelOptions(embedding=6, hidden=hidden, cell=cell, weight_dropout=0.5, locked_dropout=locked)
    model, tokens = LanguageModel(11, options), torch.randint(0, 11, (3, 9))
    torch.manual_seed(0)
    logits = model(tokens)
    logits.square().sum().backward()
    other = LanguageModel(11, replace(options, weight_dropout=0.0))
    other.load_state_dict(model.state_dict())
    dropped = hidden_matrices(other.recurrent)
    torch.manual_seed(0)
    with torch.no_grad():
        factors = [nn.functional.dropout(torch.ones_like(weight), 0.5) for weight in dropped]
        for weight, factor in zip(dropped, factors, strict=True):
            weight.mul_(factor)
    torch.testing.assert_close(other(tokens), logits)
    other(tokens).square().sum().backward()
    for weight, same, factor in zip(hidden_matrices(model.recurrent), dropped, factors, strict=True):
        torch.testing.assert_close(weight.grad, same.grad * factor)
    assert not torch.equal(model.eval()(tokens), logits)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cell": "MinGRU"}, "weight dropout: expected none of it, 0.0, got MinGRU, which has no hidden matrix"),
        ({"hidden_weight": {"kind": "LowRank", "rank": 2}}, r"expected dense hidden matrices, got hidden = LowRank"),
    ],
)
def test_weight_dropout_is_refused_where_there_is_no_dense_hidden_matrix(options, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(11, LanguageModelOptions(weight_dropout=0.5, **options))
