"""Models with a recurrent layer and attention over all steps."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, OUTPUTS = 8, 2, 3
INFINITY = float("inf")


class Attending(nn.Module):
    """A BiLSTM, a function of its output (batch, steps, 8) and a head."""

    def __init__(self, function, recurrent=nn.LSTM):
        super().__init__()
        self.rnn = recurrent(4, WIDTH // 2, batch_first=True, bidirectional=True)
        self.q, self.k, self.v, self.narrow = (nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, WIDTH, WIDTH // HEADS))
        self.attention, self.norm = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), nn.LayerNorm(WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
        self.after, self.head = (
            nn.GRU(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True),
            nn.Linear(WIDTH, OUTPUTS),
        )
        self.register_buffer("triangle", torch.ones(512, 512).tril())
        self.function = function

    def forward(self, x):
        return self.head(self.function(self, self.rnn(x)[0]))


def heads(x):
    """(batch, steps, heads * n) as (batch, heads, steps, n)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def together(x):
    return x.transpose(1, 2).flatten(-2)


def future(x):
    """Where the key's step comes after the query's."""
    return torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)


def self_attention(m, h):
    return F.scaled_dot_product_attention(m.q(h), m.k(h), m.v(h))


def several_heads(m, h, **options):
    return together(F.scaled_dot_product_attention(heads(m.q(h)), heads(m.k(h)), heads(m.v(h)), **options))


def by_hand(m, h):
    scores = m.q(h) @ m.k(h).transpose(-1, -2) / WIDTH**0.5
    return torch.softmax(scores, -1) @ m.v(h)


def added_mask(m, h):
    mask = torch.zeros(h.shape[1], h.shape[1]).masked_fill(future(h), -INFINITY)
    return together(torch.softmax(heads(m.q(h)) @ heads(m.k(h)).transpose(-1, -2) * 0.4 + mask, -1) @ heads(m.v(h)))


def filled_mask(m, h):
    scores = 0.7 * torch.bmm(m.q(h), m.k(h).transpose(1, 2))
    return torch.bmm(scores.masked_fill(future(h), -1e9).softmax(2), m.v(h))


def stored_mask(m, h):
    steps = h.shape[1]
    return (m.q(h) @ m.k(h).transpose(-1, -2)).masked_fill(m.triangle[:steps, :steps] == 0, -INFINITY).softmax(
        -1
    ) @ m.v(h)


def masked_multihead(m, h):
    mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1])
    return m.attention(h, h, h, attn_mask=mask)[0]


def keys_first(m, h):
    return (m.k(h) @ m.q(h).transpose(-1, -2)).softmax(1).transpose(-1, -2) @ m.v(h)


def values_first(m, h):
    return (m.v(h).transpose(-1, -2) @ (m.q(h) @ m.k(h).transpose(-1, -2)).softmax(-1).transpose(-1, -2)).transpose(
        -1, -2
    )


def shared_keys(m, h):
    """Two heads of queries on one of keys and values."""
    narrow = m.narrow(h)[:, None]
    return together((heads(m.q(h)) @ narrow.transpose(-1, -2)).softmax(-1) @ narrow)


def einsum(m, h):
    q, k, v = (x.unflatten(-1, (HEADS, -1)) for x in (m.q(h), m.k(h), m.v(h)))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(-2)


def block(m, h):
    """Attention and a feed-forward part, each with a residual and a layer norm, then layers in both directions."""
    h = m.norm(h + several_heads(m, h))
    return m.after(m.norm(h + torch.relu(m.q(h))))[0]


# By name: of the model and its layer's output (batch, steps, 8).
ATTENTION = {
    "one head": self_attention,
    "causal": lambda m, h: F.scaled_dot_product_attention(h, m.k(h), h, is_causal=True),
    "heads": several_heads,
    "causal heads": lambda m, h: several_heads(m, h, is_causal=True),
    "scale": lambda m, h: several_heads(m, h, scale=0.3),
    "MultiheadAttention": lambda m, h: m.attention(h, h, h)[0],
    "without weights": lambda m, h: m.attention(h, h, h, need_weights=False)[0],
    "masked MultiheadAttention": masked_multihead,
    "by hand": by_hand,
    "added mask": added_mask,
    "filled mask": filled_mask,
    "stored mask": stored_mask,
    "keys first": keys_first,
    "values first": values_first,
    "shared keys": shared_keys,
    "einsum": einsum,
    "dropout": lambda m, h: F.dropout((h @ m.k(h).transpose(-1, -2)).softmax(-1), 0.5, m.training) @ h,
    "twice": lambda m, h: self_attention(m, several_heads(m, h)),
    "encoder layer": lambda m, h: m.block(h),
    "block": block,
    "of the mean": lambda m, h: (
        (m.q(h.mean(1, keepdim=True).expand_as(h)) @ m.k(h).transpose(-1, -2)).softmax(-1) @ h + h
    ),
}
