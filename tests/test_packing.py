"""Models that pack their sequences themselves."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from compactrnn.graph.follow import follow
from cutting import assert_same, cut, kept, size

LENGTHS = torch.tensor([5, 7, 3, 2])


class Packed(nn.Module):
    """The base model of the variants below: a bidirectional layer and a head."""

    def __init__(self, layers=1, kind="LSTM", batch_first=True):
        super().__init__()
        self.rnn = getattr(nn, kind)(6, 16, layers, batch_first=batch_first, bidirectional=True)
        self.out, self.first = nn.Linear(32, 3), batch_first

    def pack(self, x, lengths, **options):
        return pack_padded_sequence(x, lengths, batch_first=self.first, **{"enforce_sorted": False, **options})

    def forward(self, x, lengths):
        return self.out(pad_packed_sequence(self.rnn(self.pack(x, lengths))[0], batch_first=self.first)[0])


class Sorted(Packed):
    """Sorted lengths, `total_length`, and the final states of both directions."""

    def forward(self, x, lengths):
        y, (h, _) = self.rnn(self.pack(x, lengths, enforce_sorted=True))
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=9)
        return self.out(y), self.out(torch.cat([h[-2], h[-1]], -1))


class Data(Packed):
    """Uses the data of a `PackedSequence`."""

    def forward(self, x, lengths):
        packed = self.pack(x, lengths)
        packed = PackedSequence(2 * packed.data, *packed[1:])
        return self.out(self.rnn(packed)[0].data)


class Attention(Packed):
    """Masked attention and masked max pooling."""

    def __init__(self):
        super().__init__(2)
        self.score = nn.Linear(32, 1)

    def forward(self, x, lengths):
        y = pad_packed_sequence(self.rnn(self.pack(x, lengths.cpu()))[0], batch_first=True, total_length=x.shape[1])[0]
        padding = torch.arange(x.shape[1])[None] >= lengths[:, None]
        a = self.score(torch.tanh(y)).squeeze(-1).masked_fill(padding, -1e9).softmax(-1)
        return self.out((a[..., None] * y).sum(1)), self.out(y.masked_fill(padding[..., None], -1e9).max(1)[0])


class Last(Packed):
    """The output at the last step of each sequence."""

    def forward(self, x, lengths):
        y, n = pad_packed_sequence(self.rnn(self.pack(x, lengths))[0], batch_first=True)
        return self.out(y[torch.arange(len(x)), n - 1])


class ByHand(Packed):
    """Sorted by hand, padded with another value, and unsorted again."""

    def forward(self, x, lengths):
        lengths, order = lengths.sort(descending=True)
        y = self.rnn(self.pack(x[order], lengths, enforce_sorted=True))[0]
        y = pad_packed_sequence(y, batch_first=True, padding_value=-1.0)[0]
        return self.out(y[order.argsort()]).sum(1)


class Given(Packed):
    """Initial states, in the order of the batch."""

    def __init__(self):
        super().__init__(kind="GRU")
        self.start = nn.Linear(6, 16)

    def forward(self, x, lengths):
        h = self.start(x[:, 0])
        y, h = self.rnn(self.pack(x, lengths), torch.stack([h, -h]))
        return self.out(pad_packed_sequence(y, batch_first=True)[0]), self.out(torch.cat([h[0], h[1]], -1))


class Parts(Packed):
    """A list of sequences."""

    def forward(self, x, lengths):
        packed = pack_sequence([x[0], x[1, :4], x[2, :1]], enforce_sorted=False)
        return self.out(pad_packed_sequence(self.rnn(packed)[0])[0]) + lengths.sum()


class TwoLayers(Packed):
    """A packed layer after a packed layer."""

    def __init__(self):
        super().__init__(kind="RNN")
        self.second = nn.GRU(32, 16, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, x, lengths):
        return self.out(pad_packed_sequence(self.second(self.rnn(self.pack(x, lengths))[0])[0], batch_first=True)[0])


MODELS = [Packed, Sorted, Data, Attention, Last, ByHand, Given, Parts, TwoLayers, lambda: Packed(2, batch_first=False)]


def inputs(model):
    x = torch.randn(4, 7, 6) if model.first else torch.randn(7, 4, 6)
    return x, torch.tensor([7, 6, 3, 2]) if isinstance(model, Sorted) else LENGTHS


@pytest.mark.parametrize("make", MODELS)
def test_the_graph_computes_what_the_model_computes(make):
    torch.manual_seed(0)
    model = make().eval()
    x = inputs(model)
    traced = follow(model, x)
    values = traced.run(x)
    wanted = torch.utils._pytree.tree_leaves(model(*x))
    for node, value in zip(traced.outputs, wanted, strict=True):
        torch.testing.assert_close(values[node.name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", MODELS)
def test_models_that_pack_shrink(make):
    torch.manual_seed(0)
    model = make()
    x = inputs(model)
    pruner, small = cut(model, x)
    others = (torch.randn_like(x[0]), x[1] if isinstance(model, Sorted) else torch.tensor([1, 3, 7, 7]))
    assert_same(model, small, x, others)
    assert size(small) < 0.7 * size(model)
    assert all(left < units for left, units in kept(pruner).values())
