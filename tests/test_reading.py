"""Answers that are spans of a passage: data, scores, the model, training by a recipe."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import compactrnn as cr
import made_up_questions
from compactrnn.data.squad import load_squad, tokenize
from compactrnn.models.reader import Reader, ReaderOptions
from compactrnn.tasks.answer_spans import best_spans, exact_match, f1, normalized
from compactrnn.tasks.reading import ReadingData, ReadingTask
from compactrnn.tasks.similar_lengths import batches_of_similar_length
from compactrnn.training.recipe import load_recipe, recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from scripts import benchmark

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("COMPACTRNN_DATA") or ROOT.parent / "shared" / "data")
SMALL = ReaderOptions(contextual=5, modeling=(4, 6), answer=7)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    made_up_questions.write(tmp_path / "data")
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def task(**options):
    return ReadingTask(ReadingData(**options), batch_size=8)


def test_an_example_is_a_passage_and_a_question_without_padding(made_up):
    made = task()
    batch = list(made.batches("test"))[-1]
    passage, question = made.example("test", made.counts("test")["questions"])
    assert passage.shape[1] == batch.lengths[-1] and question.shape[1] == batch.question_lengths[-1]
    views = cr.see_inside(made.build_model(ReaderOptions(contextual=4, modeling=(4,), answer=4)), (passage, question))
    assert {len(view.gradient) for view in views} == {passage.shape[1], question.shape[1]}


@pytest.mark.parametrize(
    "answer, references, wanted",
    [
        ("The Denver Broncos!", ["Denver Broncos"], (1.0, 1.0)),
        ("a", ["the"], (1.0, 0.0)),  # nothing is left of both; so does the official script
        ("in the 10th century", ["10th century", "the 11th century"], (0.0, 0.8)),
        ("gold gold", ["gold"], (0.0, 2 / 3)),
        ("U.S.A.", ["usa"], (1.0, 1.0)),
        ("red", ["blue"], (0.0, 0.0)),
    ],
)
def test_exact_match_and_f1_are_those_of_squad(answer, references, wanted):
    assert (exact_match(answer, references), f1(answer, references)) == pytest.approx(wanted)


def test_normalization_drops_articles_but_no_part_of_a_word():
    assert normalized("  An apple, a theatre -- THE Anthem ") == "apple theatre anthem"


def test_the_best_span_is_the_likeliest_of_all_that_are_short_enough():
    torch.manual_seed(0)
    start, end = torch.randn(20, 9), torch.randn(20, 9)
    for row, found in enumerate(best_spans(start, end, most=3)):
        spans = [(a, b) for a in range(9) for b in range(a, min(a + 3, 9))]
        assert found == max(spans, key=lambda s: float(start[row, s[0]] + end[row, s[1]]))


def test_tokens_are_parts_of_the_text():
    text = "Don't pay $1,000.50 (the U.S. firm's price) -- it\u2019s four-year-old; naïve."
    passage = tokenize(text)
    wanted = "Do n't pay $ 1,000.50 ( the U.S. firm 's price ) - - it \u2019s four-year-old ; naïve ."
    assert passage.tokens == wanted.split()
    assert passage.between(4, 7) == "1,000.50 (the U.S."
    assert "".join(passage.tokens) == text.replace(" ", "")


def test_answers_by_token_and_by_character_are_the_same_words(made_up):
    for part in ("train", "test"):
        questions = load_squad(part)
        assert len(questions) > 10
        for question in questions:
            assert question.passage.between(*question.span) == question.answers[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda table: table.pop("data"), "form of SQuAD 1.1.*KeyError"),
        (lambda table: table["data"][0]["paragraphs"][0].update(context=3), "form of SQuAD 1.1.*TypeError"),
        (lambda table: answer(table).update(token_end=999), "part of the passage, got answer .*999"),
        (lambda table: answer(table).update(token_start=-1), "part of the passage"),
        (lambda table: table.update(data=[]), "without a question"),
    ],
)
def test_a_damaged_file_is_refused(made_up, change, message):
    path = made_up / "squad_mini" / "squad_v1_trainpart_tok.json.gz"
    table = json.loads(gzip.decompress(path.read_bytes()))
    change(table)
    path.write_bytes(gzip.compress(json.dumps(table).encode()))
    with pytest.raises(ValueError, match=f"SQuAD: .*{message}|SQuAD: expected .*{message}"):
        load_squad("train")


def answer(table):
    return table["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"GloVe: .*no glove_6B_50d_subset.npz.*COMPACTRNN_DATA"):
        task()
    made_up_questions.write(tmp_path)
    (tmp_path / "squad_mini" / "squad_v1_devpart.json.gz").unlink()
    with pytest.raises(ValueError, match=r"SQuAD: .*no squad_v1_devpart.json.gz.*COMPACTRNN_DATA"):
        task()


def test_what_the_model_gets_of_a_word(made_up):
    questions = task()
    batch = questions.batch(0)
    first, passage = batch.inputs[0], batch.asked[0].passage.tokens
    asked = {token.lower() for token in batch.asked[0].tokens}
    for row, token in zip(first, passage, strict=False):
        number = questions.words.numbers.get(token.lower(), 0)
        assert_close(row[:-4].numpy(), questions.words.vectors[number])
        features = [token.lower() in asked, token[0].isupper(), False, token == "lamp"]
        assert row[-4:].tolist() == features and (number == 0) == (token == "lamp")
    assert not first[len(passage) :].any()


def test_a_batch_follows_from_seed_epoch_and_index_alone(made_up):
    one, other = task(), task()
    one.batch(3, epoch=2)
    assert torch.equal(one.batch(1, 4).inputs, other.batch(1, 4).inputs)
    assert not torch.equal(one.batch(1, 4).questions, other.batch(1, 5).questions)
    held_out = {q.passage for q in one.parts["valid"]}
    assert held_out and not held_out & {q.passage for q in one.parts["train"]}
    rows = one.batch(0).rows(2, 5)
    assert len(rows) == len(rows.asked) == len(rows.questions) == len(rows.question_lengths) == 3


def test_batches_have_similar_lengths():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 1000, 1003)
    batches = batches_of_similar_length(lengths, 8, random)
    assert batches.shape == (125, 8) and len(set(batches.flatten().tolist())) == 1000
    assert np.mean(np.ptp(lengths[batches], 1)) < 100


def test_padding_changes_no_answer():
    """Neither that of the batch, nor what stands in it."""
    torch.manual_seed(0)
    reader = Reader(5, SMALL).eval()
    context, question = torch.randn(3, 12, 5), torch.randn(3, 6, 5)
    lengths, asked = torch.tensor([12, 4, 7]), torch.tensor([2, 6, 1])
    with torch.no_grad():
        logits = reader(context, question, lengths, asked)
        for row, (n, m) in enumerate(zip(lengths.tolist(), asked.tolist(), strict=True)):
            alone = reader(context[row : row + 1, :n], question[row : row + 1, :m])[0]
            assert_close(logits[row, :, :n], alone, rtol=1e-5, atol=1e-6)
            assert (logits[row, :, n:] == -1e4).all()
            context[row, n:], question[row, m:] = 1e6, -1e6
        assert torch.equal(reader(context, question, lengths, asked), logits)


def test_the_reader_is_its_equations():
    torch.manual_seed(0)
    reader = Reader(5, SMALL).eval()
    context, question = torch.randn(1, 7, 5), torch.randn(1, 4, 5)

    def read(layer, x):
        return layer(x[:, None])[0][:, 0]

    def words(x):
        for highway in reader.highways:
            t = highway.transform(x).sigmoid()
            x = t * highway.candidate(x).relu() + (1 - t) * x
        return read(reader.contextual, x)

    with torch.no_grad():
        h, u = words(context[0]), words(question[0])
        v, w, z = (layer.weight[0] for layer in (reader.of_context, reader.of_question, reader.of_both))
        s = torch.stack([torch.stack([v @ a + w @ b + z @ (a * b) for b in u]) for a in h]) + reader.of_context.bias
        asked = s.softmax(1) @ u
        matters = s.amax(1).softmax(0) @ h
        g = m = torch.cat([h, asked, h * asked, h * matters], 1)
        for layer in reader.modeling:
            m = read(layer, m)
        start = reader.start(torch.cat([g, m], 1))[:, 0]
        chosen = (start.softmax(0) @ m).expand_as(m)
        end = reader.end(torch.cat([g, read(reader.answer, torch.cat([g, m, chosen, m * chosen], 1))], 1))[:, 0]
        assert_close(reader(context, question)[0], torch.stack([start, end]))


RECIPE = {
    "task": {"name": "reading"},
    "model": {"contextual": 8, "modeling": [8], "answer": 8, "highways": 1},
    "training": {"batch_size": 16, "checkpoint_every": 10, "threads": 1},
    "phases": {
        "train": {
            "epochs": 8,
            "optimizer": {"name": "AdamW", "learning_rate": 1e-2},
        },
        "small": {
            "updates": 12,
            "optimizer": {"name": "AdamW", "learning_rate": 5e-3},
            "compress": {"method": "neuron_selection", "keep": 0.6, "steps": 8},
            "distill": {"teacher": "train"},
        },
    },
}


def test_it_learns_by_a_recipe_and_goes_on_smaller(made_up, tmp_path):
    result = train(recipe_from(RECIPE), tmp_path / "run")
    model, again, _ = RunFolder(tmp_path / "run").load()
    assert sum(model.layer_sizes()) == pytest.approx(0.6 * 24, abs=1)
    scores = again.scores(model, "test")
    assert scores["f1_error"] == result["test"] and scores["f1"] == 100 - result["test"]
    assert scores["exact_match"] == result["test_exact_match"] > 60  # a color at random: 20
    with pytest.raises(ValueError, match=r"reading: expected a run folder.*got a packed model"):
        again.evaluate_engine(None, "test")


def test_the_engine_does_not_take_it(tmp_path):
    texts = torch.randn(1, 7, 5), torch.randn(1, 4, 5)
    with pytest.raises(cr.UnsupportedModelError, match="input question has no time axis"):
        cr.pack(Reader(5, SMALL).eval(), tmp_path / "model.crnn", texts, weights="float32")
    assert not (tmp_path / "model.crnn").exists()


def test_the_page_has_the_published_figures():
    page, script = (ROOT / "docs" / "reading.md").read_text(), benchmark("reading")
    rows = json.loads(script.RESULTS.read_text())["rows"]
    assert len(rows) == 2 and all(script.line(row) in page for row in rows)
    asked = rows[1]["recipe"]["phases"]["small"]["compress"]["macs"]
    assert 0.97 * asked <= rows[1]["macs"] <= asked


def test_the_smaller_recipe_goes_on_from_the_dense_one():
    dense, small = (load_recipe(ROOT / "recipes" / f"squad-bidaf{end}.toml").as_dict() for end in ("", "-small"))
    assert small["phases"]["train"] == dense["phases"]["train"]
    assert {k: v for k, v in small.items() if k != "phases"} == {k: v for k, v in dense.items() if k != "phases"}


@pytest.mark.skipif(not (SHARED / "squad_mini").is_dir(), reason="no squad_mini in the data folder")
def test_the_real_files(monkeypatch):
    monkeypatch.setenv("COMPACTRNN_DATA", str(SHARED))
    real = task()
    assert [real.counts(p)["questions"] for p in ("train", "valid", "test")] == [4333, 493, 2910]
    assert real.inputs == 54
    known = np.mean([np.mean(real.words.of(q.passage.tokens) > 0) for q in real.parts["test"][::50]])
    assert known > 0.97
    found = [exact_match(q.passage.between(*q.span), q.answers) for q in real.parts["test"]]
    assert np.mean(found) > 0.99  # tokens do not cut through answers
