"""Units followed through initial states: encoder to decoder, given by the caller, learnt, carried over."""

import random

import pytest
import torch
from torch import nn

import compactrnn as cr
from cutting import assert_same, cut, kept, silence, size


def tokens(*shape):
    return torch.randint(0, 20, shape)


class Seq2Seq(nn.Module):
    """An encoder, and a decoder that starts from its state and is called on a whole sequence."""

    def __init__(self, kind="GRU", layers=1, encoder=16, decoder=16, bidirectional=False):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.enc = getattr(nn, kind)(12, encoder, layers, batch_first=True, bidirectional=bidirectional)
        self.dec = getattr(nn, kind)(12, decoder, layers, batch_first=True)
        self.out = nn.Linear(decoder, 20)

    def start(self, state):
        return state

    def forward(self, x, y):
        return self.out(self.dec(self.emb(y), self.start(self.enc(self.emb(x))[1]))[0])


class Steps(Seq2Seq):
    """Decodes step by step, feeding back its own symbols."""

    def forward(self, x, y):
        h, symbol, outputs = self.start(self.enc(self.emb(x))[1]), y[:, :1], []
        for _ in range(4):
            o, h = self.dec(self.emb(symbol), h)
            outputs.append(self.out(o))
            symbol = outputs[-1].argmax(-1)
        return torch.cat(outputs, 1)


class Forced(Seq2Seq):
    """Teacher forcing at random, by Python's generator."""

    def forward(self, x, y):
        h, symbol, outputs = self.start(self.enc(self.emb(x))[1]), y[:, :1], []
        for t in range(4):
            o, h = self.dec(self.emb(symbol), h)
            outputs.append(self.out(o))
            symbol = y[:, t : t + 1] if random.random() < 0.5 else outputs[-1].argmax(-1)
        return torch.cat(outputs, 1)


class Summed(Seq2Seq):
    """The sum of the directions of a bidirectional encoder."""

    def __init__(self):
        super().__init__(layers=2, bidirectional=True)

    def start(self, h):
        return h.view(2, 2, h.shape[1], -1).sum(1)


class Joined(Seq2Seq):
    """The concatenated directions of a bidirectional encoder."""

    def __init__(self):
        super().__init__("LSTM", encoder=8, bidirectional=True)

    def start(self, state):
        return tuple(torch.cat([s[0::2], s[1::2]], 2) for s in state)


class Beam(Seq2Seq):
    """Several continuations of each sequence."""

    def start(self, h):
        return h.index_select(1, torch.arange(h.shape[1]).repeat_interleave(2))

    def forward(self, x, y):
        return super().forward(x, y.repeat_interleave(2, 0))


TIED = [Seq2Seq, lambda: Seq2Seq("LSTM"), Steps, Forced, Joined, Beam]


@pytest.mark.parametrize("make", TIED, ids=["gru", "lstm", "steps", "forced", "joined", "beam"])
def test_a_decoder_and_the_encoder_it_starts_from_lose_units_together(make):
    torch.manual_seed(0)
    model = make()
    pruner, small = cut(model, (tokens(4, 7), tokens(4, 5)))
    assert_same(model, small, (tokens(4, 7), tokens(4, 5)), (tokens(2, 3), tokens(2, 6)))
    assert isinstance(small.dec, nn.RNNBase)  # narrow outside, too
    assert all(left < units for left, units in kept(pruner).values())
    assert size(small) < 0.7 * size(model)


class Luong(Seq2Seq):
    """Dot-product attention of the decoder over the encoder's outputs."""

    def __init__(self):
        super().__init__("LSTM")
        self.join = nn.Linear(32, 16)

    def forward(self, x, y):
        keys, state = self.enc(self.emb(x))
        q, _ = self.dec(self.emb(y), state)
        a = torch.bmm(q, keys.transpose(1, 2)).softmax(-1)
        return self.out(torch.tanh(self.join(torch.cat([q, torch.bmm(a, keys)], -1))))


class Projected(Seq2Seq):
    """The decoder's initial state is a projection of both directions of the encoder."""

    def __init__(self):
        super().__init__(bidirectional=True)
        self.project = nn.Linear(32, 16)

    def start(self, h):
        return torch.tanh(self.project(torch.cat([h[0], h[1]], -1)))[None]


class Sampled(Projected):
    """A variational autoencoder: the initial state is computed from a random sample."""

    def start(self, h):
        h = super().start(h)
        return h + torch.randn_like(h)


@pytest.mark.parametrize("make", [Luong, Projected, Sampled, Summed, lambda: Seq2Seq("LSTM", 2)])
def test_models_with_attention_and_projected_or_random_states_shrink(make):
    torch.manual_seed(0)
    model = make()
    _, small = cut(model, (tokens(4, 7), tokens(4, 5)))
    assert_same(model, small, (tokens(4, 7), tokens(4, 5)), (tokens(2, 3), tokens(2, 6)))
    assert size(small) < 0.7 * size(model)


def test_the_same_seed_gives_the_same_sample():
    model, inputs = Sampled(), (tokens(4, 7), tokens(4, 5))
    _, small = cut(model, inputs)
    a, b = [torch.manual_seed(1) and m(*inputs) for m in (model, small)]
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Given(nn.Module):
    """A residual sum around a layer whose initial state is given by the caller: no unit is known to be zero."""

    def __init__(self, kind="GRU", residual=True, read=False):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(20, 16), getattr(nn, kind)(16, 16, batch_first=True)
        self.out, self.residual = nn.Linear(16, 20), residual

    def forward(self, x, *state):
        e = self.emb(x)
        y, state = self.rnn(e, state if len(state) > 1 else state[0])
        return self.out(e + y if self.residual else y), state


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_a_state_from_outside_may_be_anything(kind, residual):
    """Also where the example's initial state is zero, as it usually is."""
    torch.manual_seed(0)
    model = Given(kind, residual)
    zeros = [torch.zeros(1, 4, 16)] * (2 if kind == "LSTM" else 1)
    pruner, small = cut(model, (tokens(4, 7), *zeros))
    assert_same(model, small, *((tokens(4, 7), *(torch.randn(1, 4, 16) * s for _ in zeros)) for s in (0, 1, 3)))
    assert size(small) < size(model) and kept(pruner)["rnn[0].h"][0] < 16


def test_units_that_rest_where_they_start_are_cut_by_a_schedule_too():
    torch.manual_seed(0)
    model, inputs = Given(), (tokens(4, 7), torch.zeros(1, 4, 16))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = cr.GroupLasso(model, inputs, keep=0.5, steps=5)
    for _ in range(6):
        loss = model(*inputs)[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    assert kept(pruner)["rnn[0].h"] == (8, 16)
    assert_same(model, small, (inputs[0], torch.randn(1, 4, 16)))


class Learnt(nn.Module):
    """The initial state is a parameter (or a buffer)."""

    def __init__(self, residual, layers=1, buffer=False):
        super().__init__()
        self.enter, self.rnn = nn.Linear(6, 16), nn.LSTM(16, 16, layers, batch_first=True)
        for name in ("h", "c"):
            value = torch.zeros(layers, 1, 16)
            if buffer:
                self.register_buffer(name, value)
            else:
                setattr(self, name, nn.Parameter(value))
        self.out, self.residual = nn.Linear(16, 3), residual

    def forward(self, x):
        e = self.enter(x)
        y, _ = self.rnn(e, tuple(s.expand(-1, len(x), -1).contiguous() for s in (self.h, self.c)))
        return self.out(e + y if self.residual else y)


@pytest.mark.parametrize("options", [(True,), (False,), (False, 2), (True, 1, True)])
def test_a_learnt_state_is_zero_only_at_first(options):
    torch.manual_seed(0)
    model, x = Learnt(*options), torch.randn(4, 7, 6)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    with torch.no_grad():
        model.h.normal_()
        model.c.normal_()
    silence(pruner)
    small = pruner.shrink()
    assert_same(model, small, (x,), (torch.randn(2, 3, 6),))
    assert size(small) < size(model)


class Carried(nn.Module):
    """The state is kept between calls."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out, self.hidden = nn.GRU(6, 16, batch_first=True), nn.Linear(16, 3), None

    def forward(self, x):
        y, hidden = self.rnn(x, self.hidden)
        self.hidden = hidden.detach()
        return self.out(y)


def test_a_state_that_the_module_keeps_is_carried_on():
    torch.manual_seed(0)
    model, x = Carried(), torch.randn(4, 7, 6)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    model(x)
    silence(pruner)  # units that are silent from now on have a state from before
    small = pruner.shrink()
    assert size(small) < size(model)
    for _ in range(3):
        x = torch.randn(4, 7, 6)
        torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)


class Policy(nn.Module):
    """Zeros of the layer's own width, reset where an episode ends; a skip connection."""

    def __init__(self):
        super().__init__()
        self.enter, self.rnn, self.act = nn.Linear(6, 16), nn.LSTM(16, 16), nn.Linear(16, 4)

    def forward(self, observations, done):
        e = torch.relu(self.enter(observations))
        h = c = torch.zeros(1, e.shape[1], self.rnn.hidden_size)
        outputs = []
        for t in range(len(e)):
            mask = (1 - done[t]).view(1, -1, 1)
            y, (h, c) = self.rnn(e[t : t + 1], (h * mask, c * mask))
            outputs.append(y)
        return self.act(e + torch.cat(outputs))


def test_a_scattered_layer_says_its_old_width():
    torch.manual_seed(0)
    model, inputs = Policy(), (torch.randn(3, 4, 6), torch.randint(0, 2, (3, 4)).float())
    pruner, small = cut(model, inputs)
    assert small.rnn.hidden_size == 16 and kept(pruner)["rnn[0].h"][0] < 16
    assert_same(model, small, inputs, (torch.randn(5, 2, 6), torch.ones(5, 2)))


def test_states_handed_back_are_whole_where_they_have_their_old_width():
    """Narrower states, where the layer is narrower, are those of the remaining units."""
    torch.manual_seed(0)
    model, x = Given(residual=False), tokens(4, 7)
    _, small = cut(model, (x, torch.zeros(1, 4, 16)))
    state = torch.randn(1, 4, 16)
    for _ in range(3):
        (y, state), (z, other) = model(x, state), small(x, state)
        torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other, state, rtol=1e-4, atol=1e-5)


class Optional(Given):
    """A state may be given."""

    def forward(self, x, state=None):
        e = self.emb(x)
        y, state = self.rnn(e, state)
        return self.out(e + y if self.residual else y), state


def test_a_state_that_the_example_leaves_out_may_be_anything_too():
    torch.manual_seed(0)
    model = Optional()
    _, small = cut(model, tokens(4, 7))
    assert_same(model, small, (tokens(4, 7),), (tokens(4, 7), torch.randn(1, 4, 16)))


@pytest.mark.parametrize("residual", [True, False])
def test_a_state_that_is_handed_back_can_be_handed_in_again(residual):
    """Without the residual sum the layer becomes narrower, and so do its states."""
    torch.manual_seed(0)
    model = Optional(residual=residual)
    _, small = cut(model, tokens(4, 7))
    state = other = None
    for _ in range(3):
        x = tokens(4, 7)
        (y, state), (z, other) = model(x, state), small(x, other)
        torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
    assert (other.shape == state.shape) is residual
