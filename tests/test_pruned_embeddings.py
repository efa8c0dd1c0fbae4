"""Columns of embedding tables as units: cut with what reads them, or left as they are."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import compactrnn as cr
from compactrnn.models import LanguageModel, LanguageModelOptions
from compactrnn.testing import CompressorCase, CompressorContract

TOKENS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))


class Reader(nn.Module):
    """Embedding, LSTM, head."""

    def __init__(self, **options):
        super().__init__()
        self.embedding = nn.Embedding(20, 12, **options)
        self.lstm = nn.LSTM(12, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


class Tied(nn.Module):
    """The table is the weight of the output layer, too."""

    def __init__(self, bias=True):
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.lstm = nn.LSTM(12, 12, 2, batch_first=True)
        self.output = nn.Linear(12, 20, bias=bias)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.lstm(self.embedding(tokens))[0])


class TiedByCall(Tied):
    """The same without a second name for the table."""

    def __init__(self):
        super().__init__()
        del self.output

    def forward(self, tokens):
        return nn.functional.linear(self.lstm(self.embedding(tokens))[0], self.embedding.weight)


class Translator(nn.Module):
    """Encoder and decoder read one table; the head reads the table beside the decoder."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 12, padding_idx=0)
        self.encoder, self.decoder = nn.GRU(12, 8, batch_first=True), nn.GRU(12, 8, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, tokens):
        x = self.embedding(tokens)
        _, state = self.encoder(x)
        return self.head(torch.cat([self.decoder(x.flip(1), state)[0], x], -1))


class TwoTables(nn.Module):
    """Words and tags side by side, words through a dense layer first."""

    def __init__(self):
        super().__init__()
        self.words, self.tags = nn.Embedding(20, 12), nn.Embedding(20, 6)
        self.mix, self.gru = nn.Linear(12, 10), nn.GRU(16, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens):
        return self.head(self.gru(torch.cat([self.mix(self.words(tokens)), self.tags(tokens)], -1))[0])


class Positions(Reader):
    """A vector for each position is added, which loses the same columns."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(7, 12))

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens) + self.position)[0])


class Skip(Tied):
    """The output reads the sum of table and layer."""

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.output(self.lstm(x)[0] + x)


class Normed(Reader):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def forward(self, tokens):
        return self.head(self.lstm(self.norm(self.embedding(tokens)))[0])


class Searched(Reader):
    """A method that `forward` does not call reads the table."""

    def nearest(self, vector):
        return (self.embedding.weight @ vector).argmax()


class Regularized(Reader):
    """The output depends on the whole table."""

    def forward(self, tokens):
        return super().forward(tokens) + self.embedding.weight.mean()


def hooked():
    model = Reader()
    model.embedding.register_forward_hook(lambda module, inputs, output: output)
    return model


def frozen():
    model = Reader()
    model.embedding.weight.requires_grad_(False)
    return model


def normalized():
    model = Reader()
    parametrizations.weight_norm(model.embedding)
    return model


def silence(pruner, share=0.5):
    """Let a share of all units be read by nothing."""
    generator = torch.Generator().manual_seed(1)
    for group in pruner.groups:
        gone = torch.randperm(group.count, generator=generator)[: int(share * group.count)]
        group.decay_(torch.ones(group.count).index_fill(0, gone, 0.0))


def tables(model):
    return [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Embedding)]


def same(model, small):
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(TOKENS), copy.deepcopy(model).eval()(TOKENS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "after"),
    [
        (Reader, [(20, 6)]),
        (lambda: Reader(padding_idx=3), [(20, 6)]),
        (Tied, [(20, 6)]),
        (lambda: Tied(bias=False), [(20, 6)]),
        (TiedByCall, [(20, 6)]),
        (Translator, [(20, 6)]),
        (TwoTables, [(20, 6), (20, 3)]),
        (normalized, [(20, 6)]),
        (Positions, [(20, 6)]),
    ],
)
def test_columns_that_nothing_reads_are_cut_with_their_readers(build, after):
    torch.manual_seed(0)
    model = build()
    pruner = cr.GroupLasso(model, TOKENS, strength=0.0, embeddings=True)
    silence(pruner)
    small = pruner.shrink()
    assert tables(small) == after
    for module in small.modules():
        if isinstance(module, nn.Embedding):
            assert module.embedding_dim == module.weight.shape[1]
    if isinstance(model, Positions):
        assert small.position.shape == (7, 6)
    if isinstance(model, Tied) and hasattr(model, "output"):
        assert small.output.weight is small.embedding.weight and small.output.in_features == 6
    same(model, small)
    plan = cr.PruningPlan.from_json(pruner.plan().to_json())
    assert all(torch.equal(a, b) for a, b in zip(plan.apply(model).parameters(), small.parameters(), strict=True))
    small.train()(TOKENS).square().mean().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("build", [Skip, Normed, Searched, Regularized, hooked, frozen, lambda: Reader(max_norm=1.0)])
def test_a_table_whose_columns_cannot_go_stays_as_it_is(build):
    torch.manual_seed(0)
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the skip connection no unit can go
        pruner = cr.GroupLasso(model, TOKENS, strength=0.0, embeddings=True)
        before = model.embedding.weight.detach().clone()
        silence(pruner)
        small = pruner.shrink()
    assert tables(small) == [(20, 12)] and torch.equal(model.embedding.weight, before)
    same(model, small)


def test_tables_are_left_alone_unless_asked_for_but_for_tied_ones():
    torch.manual_seed(0)
    names = [group.name for group in cr.GroupLasso(Reader(), TOKENS, strength=0.0).groups]
    assert names == ["lstm[0].h"]
    names = [group.name for group in cr.GroupLasso(Tied(), TOKENS, strength=0.0).groups]
    assert sorted(names) == ["lstm[0].h", "lstm[1].h + embedding[0].columns"]
    pruner = cr.GroupLasso(Reader(), TOKENS, keep={"embedding": 0.25, "lstm": 0.5}, steps=1, embeddings=True)
    pruner.step()
    small = pruner.shrink()
    assert tables(small) == [(20, 3)] and small.lstm.hidden_size == 8
    kept = cr.GroupLasso(Tied(), TOKENS, keep=0.5, steps=1, exclude=["embedding"])
    kept.step()
    assert tables(kept.shrink()) == [(20, 12)]


def test_a_unit_is_ranked_by_a_tied_table_once():
    model = Tied()
    (group,) = [g for g in cr.GroupLasso(model, TOKENS, strength=0.0).groups if len(g.members) > 1]
    own = model.lstm
    columns = (own.weight_hh_l1, own.weight_ih_l0, model.embedding.weight)
    rows = (own.weight_ih_l1, own.weight_hh_l1)
    expected = sum(m.square().sum(0) for m in columns) + sum(m.view(4, 12, -1).square().sum((0, 2)) for m in rows)
    torch.testing.assert_close(group.squares(), expected)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("size", [{"keep": 0.5}, {"bytes": 16_000}])
def test_neuron_selection_divides_the_cut_between_tables_and_layers(tie, size):
    torch.manual_seed(0)
    model = LanguageModel(80, LanguageModelOptions(embedding=24, hidden=(32, 24), tie=tie))
    tokens = torch.randint(0, 80, (4, 9))
    pruner = cr.NeuronSelection(model, tokens, **size, steps=60, embeddings=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    small, report = pruner.shrink(optimizer), pruner.report()
    assert small.embedding.embedding_dim < 24
    if "bytes" in size:
        one = 4 * (80 + 4 * (2 * 24 + 2 * 32 + 4)) if tie else 800  # what a unit more would cost at most
        assert 16_000 - one <= 4 * report.parameters[1] <= 16_000
    else:
        units = {layer.name: (layer.kept, layer.units) for layer in report.layers}
        one = [n for name, n in units.items() if not (tie and name.startswith("embedding"))]
        assert abs(sum(kept for kept, _ in one) - 0.5 * sum(count for _, count in one)) <= 1
    again = LanguageModel(80, LanguageModelOptions(**{"tie": tie, **small.size_options()}))
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(tokens), model.eval()(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        CompressorCase(lambda model, x: cr.GroupLasso(model, x, keep=0.5, steps=5, embeddings=True)),
        CompressorCase(lambda model, x: cr.NeuronSelection(model, x, keep=0.5, steps=5, embeddings=True)),
    ],
    ids=["GroupLasso", "NeuronSelection"],
)
class TestWithTables(CompressorContract):
    def model(self):
        torch.manual_seed(0)
        return Tied()

    def example(self):
        return TOKENS
