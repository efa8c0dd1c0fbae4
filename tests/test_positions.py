"""Tables of positions in torch models, and questions of Python code about how long a sequence is."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import compactrnn as cr

WIDTH = 8


class Placed(nn.Module):
    """A GRU of (batch, T, 8) with what `place(self, x)` makes of its input, and `after(self, y)` of its output."""

    def __init__(self, place=lambda m, x: x, after=lambda m, y: y, rows=60):
        super().__init__()
        self.gru, self.place, self.after = nn.GRU(WIDTH, WIDTH, batch_first=True), place, after
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.table, self.learned = nn.Embedding(rows, WIDTH), nn.Parameter(torch.randn(1, rows, WIDTH))
        self.register_buffer("waves", _waves(rows)[None])

    def forward(self, x):
        return self.after(self, self.gru(self.place(self, x))[0])


def _waves(steps):
    angle = torch.arange(steps)[:, None] * torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(1e4) / WIDTH))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def _rotated(x):
    """Rotary positions (Su et al., 2021): pairs of numbers, turned by an angle for each step."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2]).float(), 1 / 10000 ** (torch.arange(half) / half))
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def _attended(m, y, turned=lambda x: x, causal=False):
    heads = [layer(y).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (m.query, m.key, m.value)]
    y = F.scaled_dot_product_attention(turned(heads[0]), turned(heads[1]), heads[2], is_causal=causal)
    return y.transpose(1, 2).flatten(-2)


OF_AS_MANY = {
    "looked up": lambda m, x: x + m.table(torch.arange(x.shape[1])),
    "looked up for each sequence": lambda m, x: x + m.table(torch.arange(x.shape[1]).expand(x.shape[0], -1)),
    "a slice of a buffer": lambda m, x: x * 3 + m.waves[:, : x.shape[1]].requires_grad_(False),
    "a slice of a parameter": lambda m, x: torch.cat(
        [x[..., :5], m.learned[:, : x.shape[1], :3].expand(len(x), -1, -1)], -1
    ),
}
OF_ANY = {
    "computed": lambda m, x: x + _waves(x.shape[1]),
    "rotary": lambda m, x: _rotated(x),
    "the last for all that follow": lambda m, x: x + m.table(torch.arange(x.shape[1]).clamp(max=59)),
    "in turn": lambda m, x: x + m.table(torch.arange(x.shape[1]) % 7),
    "counted from the data's shape": lambda m, x: (
        x + m.table((torch.ones_like(x[..., 0]).long().cumsum(1) - 1).clamp(max=9))
    ),
}
COUNTS = {
    "a running mean": lambda m, x: x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None],
    "a count beside others": lambda m, x: torch.cat(
        [x[..., 1:], (2 - 3 * torch.arange(x.shape[1])).expand(len(x), -1)[..., None]], -1
    ),
}
AFTER = {
    "keys and queries": lambda m, y: _attended(m, y + m.table(torch.arange(y.shape[1]))),
    "rotary attention": lambda m, y: _attended(m, y, _rotated),
    "causal rotary attention": lambda m, y: _attended(m, y, _rotated, causal=True),
}


def packed(model, folder, example=None):
    torch.manual_seed(0)
    cr.pack(
        model.eval(), folder / "m.crnn", torch.randn(2, 11, WIDTH) if example is None else example, weights="float32"
    )
    return cr.Engine(folder / "m.crnn")


def compare(model, engine, lengths):
    for steps in lengths:
        x = torch.randn(1, steps, WIDTH)
        torch.testing.assert_close(
            torch.from_numpy(engine.run(x[0].numpy())), model(x)[0].detach(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("case", "rows"), [*((case, 30) for case in OF_AS_MANY), *(("looked up", rows) for rows in (60, 18, 9))]
)
def test_a_table_of_positions_is_followed_to_its_end(case, rows, tmp_path):
    model = Placed(OF_AS_MANY[case], rows=rows)
    engine = packed(model, tmp_path, torch.randn(2, 8, WIDTH))
    assert not engine.offline and engine.most_steps == rows
    compare(model, engine, (1, 2, 8, rows))
    x = torch.randn(rows + 1, WIDTH).numpy()
    with pytest.raises(ValueError, match=f"expected at most {rows}"):
        engine.run(x)
    stream = engine.stream()
    steps = torch.tensor([bool(torch.from_numpy(stream.step(row)).isnan().any()) for row in x])
    assert steps.tolist() == [False] * rows + [True]


@pytest.mark.parametrize("case", OF_ANY)
def test_positions_without_end(case, tmp_path):
    model = Placed(OF_ANY[case])
    engine = packed(model, tmp_path)
    assert not engine.offline
    compare(model, engine, (1, 2, 9, 150))


@pytest.mark.parametrize("case", COUNTS)
def test_whole_numbers_are_counted_without_a_table(case, tmp_path):
    model = Placed(COUNTS[case])
    engine = packed(model, tmp_path)
    assert not engine.offline and engine.most_steps is None
    compare(model, engine, (1, 2, 9, 300))


@pytest.mark.parametrize("case", AFTER)
def test_attention_with_positions(case, tmp_path):
    model = Placed(after=AFTER[case])
    compare(model, packed(model, tmp_path), (1, 2, 9, 50))


@pytest.mark.parametrize("rows", [31, 8])
def test_an_example_may_be_as_long_as_the_table(rows, tmp_path):
    model = Placed(OF_AS_MANY["looked up"], rows=rows)
    engine = packed(model, tmp_path, torch.randn(3, rows, WIDTH))
    assert engine.most_steps == rows
    compare(model, engine, (1, 5, rows))


@pytest.mark.parametrize(
    "place",
    [
        lambda m, x: x * (torch.arange(x.shape[1]) / x.shape[1])[:, None],
        lambda m, x: x + m.learned[:, : x.shape[1]].flip(1),
        lambda m, x: x * (torch.arange(x.shape[1]) < x.shape[1] - 3)[:, None],
    ],
    ids=["a share of the length", "from the end", "all but the last"],
)
def test_positions_that_depend_on_the_length_are_refused(place, tmp_path):
    with pytest.raises(cr.UnsupportedModelError, match="do not depend on the position alone"):
        packed(Placed(place), tmp_path)


def test_units_are_pruned_beside_positions(tmp_path):
    model, x = Placed(after=AFTER["keys and queries"]), torch.randn(2, 11, WIDTH)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (model(x).square().mean() + pruner.penalty()).backward()
    optimizer.step()
    pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    compare(small, packed(small, tmp_path), (1, 9, 50))


ASKS = {
    "an odd number": (lambda m, y: y if y.shape[1] % 2 else -y, r"for 2 steps than where Ne\(Mod\(n, 2\), 0\)"),
    "a short one": (lambda m, y: y if y.shape[1] > 10 else -y, "for 1 steps than where n > 10"),
    "a long one": (lambda m, y: y if y.shape[1] < 2000 else -y, "for 2000 steps than where n < 2000"),
    "a single one": (lambda m, y: y if y.shape[1] > 1 else -y, "for 1 steps than for more"),
}


@pytest.mark.parametrize("case", ASKS)
def test_code_that_asks_for_the_length_is_refused(case, tmp_path):
    after, words = ASKS[case]
    with pytest.raises(cr.UnsupportedModelError, match=words):
        packed(Placed(after=after), tmp_path)


@pytest.mark.parametrize("example", [10, 11])
def test_a_remainder_of_the_length_is_refused(example, tmp_path):
    with pytest.raises(cr.UnsupportedModelError, match="depends on the length of the sequence"):
        packed(Placed(after=lambda m, y: y * (y.shape[1] % 2)), tmp_path, torch.randn(1, example, WIDTH))


def _padded_to_even(m, x):
    return F.pad(x, (0, 0, 0, 1)) if x.shape[1] % 2 else x


ALIKE = {
    "padding that is cut off again": (_padded_to_even, lambda m, y: y),
    "a delay": (lambda m, x: torch.cat([torch.zeros(len(x), 20, WIDTH), x[:, :-20]], 1), lambda m, y: y),
}


@pytest.mark.parametrize("case", ALIKE)
def test_questions_of_which_the_answer_does_not_matter(case, tmp_path):
    place, _ = ALIKE[case]
    model = Placed(lambda m, x: place(m, x)[:, : x.shape[1]])
    compare(model, packed(model, tmp_path), (21, 22, 50))
