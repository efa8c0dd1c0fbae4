"""A recurrent highway network with a tied embedding loses units and columns together, exactly, and packs as it is."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.report.insert import insert
from compactrnn.training.recipe import load_recipe
from scripts import ROOT, benchmark

WORDS, WIDTH, DEPTH = 11, 16, 3


class Writer(nn.Module):
    """The language model of Zilly et al.: one RHN, whose inputs and outputs share a table."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.rnn = cr.Recurrent(cr.RHN, WIDTH, WIDTH, batch_first=True, depth=DEPTH)
        self.output = nn.Linear(WIDTH, WORDS)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.rnn(self.embedding(tokens))[0])


METHODS = {
    "group lasso": lambda model, x: cr.GroupLasso(model, x, keep=0.5, steps=12),
    "neuron selection": lambda model, x: cr.NeuronSelection(model, x, keep=0.5, steps=12, embeddings=True),
    "magnitude": lambda model, x: cr.Magnitude(model, cr.Sparse(keep=0.3), steps=12),
}


def test_a_group_has_two_rows_and_one_column_of_every_layer():
    model, tokens = Writer(), torch.randint(WORDS, (3, 7))
    group = next(g for g in cr.GroupLasso(model, tokens, keep=0.5, steps=1).groups if g.name.startswith("rnn"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    rows, columns = 2 * WIDTH + DEPTH * 2 * WIDTH, DEPTH * 2 * WIDTH
    table = WORDS + 2 * WIDTH  # a column of it, and what reads that
    assert (group.squares() == rows + columns + table).all()


@pytest.mark.parametrize("name", METHODS)
def test_it_shrinks_exactly_and_runs_natively(name, tmp_path):
    torch.manual_seed(0)
    model, tokens = Writer(), torch.randint(WORDS, (4, 9))
    pruner = METHODS[name](model, tokens)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(14):
        logits = model(tokens)[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer).eval()
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(small(tokens), model.eval()(tokens), rtol=1e-4, atol=1e-5)
        wanted = small(tokens[:1])[0].numpy()
    if name != "magnitude":
        assert small.embedding.weight is small.output.weight and small.embedding.embedding_dim < WIDTH
        assert small.rnn.cells[0][0].hidden_3.weight.shape == (2 * small.rnn.hidden_size, small.rnn.hidden_size)
    cr.pack(small, tmp_path / "model.crnn", tokens[:1], weights="float32")
    engine = cr.Engine(tmp_path / "model.crnn")
    np.testing.assert_allclose(engine.run(tokens[0].numpy()), wanted, rtol=1e-4, atol=1e-5)
    stream = engine.stream()
    steps = np.stack([stream.step(token) for token in tokens[0].numpy()])
    assert np.array_equal(steps, engine.run(tokens[0].numpy()))


def test_the_page_has_the_published_figures():
    script = benchmark("rhn")
    rows, page = json.loads(script.RESULTS.read_text())["rows"], script.PAGE.read_text()
    assert insert(page, "rhn", script.text(rows)) == page
    whole, small = (next(row for row in rows if row["row"] == name) for name in ("dense, first phase", "shrunk"))
    asked = small["recipe"]["phases"]["shrink"]["compress"]["keep"]
    assert sum(small["units"]) == round(asked * sum(whole["units"])) and small["macs"] < asked * whole["macs"]


def test_the_recipe_from_scratch_has_the_size_and_the_epochs_of_the_shrunk_one():
    shrunk, scratch = (load_recipe(ROOT / "recipes" / f"ptb-rhn{end}.toml") for end in ("", "-from-scratch"))
    keep = shrunk.phases["shrink"].compress.keep
    assert [round(keep * units) for units in shrunk.model.hidden] == list(scratch.model.hidden)
    assert sum(phase.epochs for phase in shrunk.phases.values()) == scratch.phases["train"].epochs
