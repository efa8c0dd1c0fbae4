"""Models that take lengths beside padded sequences."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import compactrnn as cr

TOKENS = 30


class Tagger(nn.Module):
    """An embedding, a layer and a linear map; what is done with lengths differs."""

    def __init__(self, kind=nn.LSTM, batch_first=True, enforce_sorted=False, **keywords):
        super().__init__()
        self.batch_first, self.enforce_sorted = batch_first, enforce_sorted
        self.embedding = nn.Embedding(TOKENS, 6)
        self.rnn = kind(6, 8, batch_first=batch_first, **keywords)
        self.head = nn.Linear(16 if self.rnn.bidirectional else 8, 3)

    def packed(self, x, lengths):
        return pack_padded_sequence(
            self.embedding(x), lengths.cpu(), batch_first=self.batch_first, enforce_sorted=self.enforce_sorted
        )

    def forward(self, x, lengths):
        y, _ = pad_packed_sequence(self.rnn(self.packed(x, lengths))[0], batch_first=self.batch_first)
        return self.head(y)


class LastState(Tagger):
    def forward(self, x, lengths):
        h = self.rnn(self.packed(x, lengths))[1]
        h = h[0] if isinstance(h, tuple) else h
        return self.head(torch.cat([h[-2], h[-1]], 1) if self.rnn.bidirectional else h[-1])


class FirstState(Tagger):
    """Starts from a state of its own."""

    def __init__(self):
        super().__init__(nn.GRU)
        self.first = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x, lengths):
        y, _ = self.rnn(self.packed(x, lengths), self.first.expand(1, len(x), 8).contiguous())
        return self.head(pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0])


class Indexed(Tagger):
    def forward(self, x, lengths):
        return self.head(self.rnn(self.embedding(x))[0][torch.arange(len(x)), lengths - 1])


class Gathered(Tagger):
    def forward(self, x, lengths):
        y = self.rnn(self.embedding(x))[0]
        return self.head(y.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, y.shape[2])).squeeze(1))


class Masked(Tagger):
    def forward(self, x, lengths):
        y = self.rnn(self.embedding(x))[0]
        out = (torch.arange(x.shape[1]) >= lengths[:, None]).unsqueeze(-1)
        return self.head(y.masked_fill(out, -1e9).amax(1))


class Mean(Tagger):
    def forward(self, x, lengths):
        inside = (torch.arange(x.shape[1]) < lengths[:, None]).unsqueeze(-1)
        return self.head((self.rnn(self.embedding(x))[0] * inside).sum(1) / lengths[:, None])


class Repeated(Tagger):
    """Takes the one entry of an axis several times."""

    def forward(self, x, lengths):
        y = super().forward(x, lengths).unsqueeze(2)
        return y.index_select(2, torch.zeros(4, dtype=torch.long)).flatten(2)[..., 3:6]


class LengthsFirst(Tagger):
    def forward(self, lengths, x):
        return super().forward(x, lengths)


MODELS = {
    "tags": lambda: Tagger(),
    "tags, sorted": lambda: Tagger(nn.GRU, enforce_sorted=True),
    "tags, time first": lambda: Tagger(batch_first=False, bidirectional=True),
    "tags, ours": lambda: Tagger(cr.LSTM),
    "last state": lambda: LastState(num_layers=2, bidirectional=True),
    "last state, GRU, time first": lambda: LastState(nn.GRU, batch_first=False),
    "a first state": FirstState,
    "indexed": lambda: Indexed(),
    "gathered": lambda: Gathered(nn.GRU),
    "masked": lambda: Masked(),
    "mean": lambda: Mean(),
    "repeated": lambda: Repeated(),
    "lengths first": lambda: LengthsFirst(),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_each_sequence_gets_what_it_gets_in_torch(make, tmp_path):
    torch.manual_seed(0)
    model, x, lengths = make().eval(), torch.randint(TOKENS, (3, 11)), torch.tensor([11, 7, 4])
    given = x if model.batch_first else x.T
    swapped = isinstance(model, LengthsFirst)
    example = (lengths, given) if swapped else (given, lengths)
    path = tmp_path / "m.crnn"
    cr.pack(model, path, example, lengths=["lengths"], weights="float32", calibration=[example])
    engine = cr.Engine(path)
    assert [port.name for port in engine.inputs] == ["x"]
    for row, length in enumerate(lengths.tolist()):  # as in a batch with padding
        with torch.no_grad():
            wanted = model(*example)
        wanted = wanted[row] if model.batch_first or wanted.dim() == 2 else wanted[:, row]
        wanted = wanted if wanted.dim() == 1 else wanted[:length]
        found = engine.run(x[row, :length].numpy())
        if wanted.dim() == 1 and found.ndim == 2:  # of a model that streams: the answer after every step
            found = found[-1]
        np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)
    for steps in (1, 2, 40):
        one = torch.randint(TOKENS, (1, steps))
        count = torch.tensor([steps])
        one_given = one if model.batch_first else one.T
        with torch.no_grad():
            wanted = model(count, one_given) if swapped else model(one_given, count)
        found = engine.run(one[0].numpy())
        wanted = wanted.numpy().reshape(-1, 3)
        np.testing.assert_allclose(np.atleast_2d(found)[-len(wanted) :], wanted, atol=2e-6)


def test_calibration_does_not_see_the_padding(tmp_path):
    torch.manual_seed(0)

    class Features(Tagger):
        def forward(self, x, lengths):
            p = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(pad_packed_sequence(self.rnn(p)[0], batch_first=True)[0])

    model, x, lengths = Features().eval(), torch.randn(2, 12, 6), torch.tensor([12, 5])
    far = x.clone()
    far[1, 5:] = 1e6
    for name, given in (("a", x), ("b", far)):
        cr.pack(model, tmp_path / name, (given, lengths), lengths=["lengths"], calibration=[(given, lengths)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_that_needs_its_lengths_is_refused(tmp_path):
    class Scaled(Tagger):
        def forward(self, x, lengths):
            return self.head(self.rnn(self.embedding(x))[0]) * (lengths % 5)[:, None, None]

    example = (torch.randint(TOKENS, (2, 9)), torch.tensor([9, 6]))
    with pytest.raises(cr.UnsupportedModelError, match="depends on the length of the sequence"):
        cr.pack(Scaled(), tmp_path / "m.crnn", example, lengths=["lengths"])
    assert not (tmp_path / "m.crnn").exists()


@pytest.mark.parametrize(
    "example, lengths, message",
    [
        ((torch.zeros(2, 9, dtype=torch.long), torch.tensor([9, 6])), ["size"], r"lengths: .*there are x, lengths"),
        ((torch.zeros(2, 9, dtype=torch.long), torch.tensor([9, 6])), "lengths", "lengths: expected a list"),
        ((torch.zeros(2, 9, dtype=torch.long), torch.tensor([9, 6])), ["x"], "whole numbers, one for each"),
        ((torch.zeros(2, 9, dtype=torch.long), torch.tensor([9.0, 6.0])), ["lengths"], "whole numbers"),
        ((torch.zeros(2, 9, dtype=torch.long), torch.tensor([9, 0])), ["lengths"], "lengths"),
        ((torch.zeros(2, 9, dtype=torch.long), torch.tensor([9, 6, 3])), ["lengths"], "lengths"),
        ((torch.zeros(2, 9, dtype=torch.long), torch.tensor([12, 6])), ["lengths"], "lengths"),
    ],
)
def test_lengths_that_are_none_are_refused(example, lengths, message, tmp_path):
    with pytest.raises((ValueError, cr.UnsupportedModelError), match=message):
        cr.pack(Tagger(), tmp_path / "m.crnn", example, lengths=lengths)
    assert not (tmp_path / "m.crnn").exists()


def test_without_the_name_the_error_says_how_to_give_it(tmp_path):
    example = (torch.randint(TOKENS, (2, 9)), torch.tensor([9, 6]))
    with pytest.raises(cr.UnsupportedModelError, match=r"pack\(\.\.\., lengths=\['lengths'\]\)"):
        cr.pack(Tagger(), tmp_path / "m.crnn", example)


def test_a_model_that_pads_to_a_length_of_its_own_is_refused(tmp_path):
    class Fixed(Tagger):
        def forward(self, x, lengths):
            return self.head(pad_packed_sequence(self.rnn(self.packed(x, lengths))[0], True, total_length=20)[0])

    example = (torch.randint(TOKENS, (2, 9)), torch.tensor([9, 6]))
    with pytest.raises(cr.UnsupportedModelError, match="got others for sequence 0 of the example: let forward take"):
        cr.pack(Fixed(), tmp_path / "m.crnn", example, lengths=["lengths"])
    assert not (tmp_path / "m.crnn").exists()
