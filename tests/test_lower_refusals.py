"""A model that cannot be packed is refused at once, by name, for its true reason, with what to do."""

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.lower.calls import called
from compactrnn.lower.probe import find_axes

F = nn.functional


class Uses(nn.Module):
    """A model of `layers` whose forward is `function(self, ...)`."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x, z=None, w=None):
        return self.function(self, *(v for v in (x, z, w) if v is not None))


class WeightDrop(nn.Module):
    """Sets the recurrent matrix before every call, as AWD-LSTM does."""

    def __init__(self):
        super().__init__()
        self.g = gru()
        self.raw = nn.Parameter(self.g.weight_hh_l0.detach())
        del self.g._parameters["weight_hh_l0"]
        self.g.weight_hh_l0 = self.raw.detach()

    def forward(self, x):
        self.g.weight_hh_l0 = nn.functional.dropout(self.raw, training=self.training)
        return self.g(x)[0]


class Own(nn.GRU):
    """A subclass that does something of its own."""

    def forward(self, input, hx=None):
        return super().forward(input * 2, hx)


def gru(size=4, **options):
    return nn.GRU(size, 8, batch_first=True, **options)


def loop(m, x):
    states, outputs = None, []
    for t in range(x.shape[1]):
        states = m.cell(x[:, t], states)
        outputs.append(states)
    return torch.stack(outputs, 1)


def layer_in_a_loop(m, x):
    state, outputs = None, []
    for t in reversed(range(x.shape[1])):
        y, state = m.g(x[:, t : t + 1], state)
        outputs.append(y)
    return torch.cat(outputs, 1)


def decoder_in_a_loop(m, x, z):
    state, outputs = m.g(x)[1], []
    for t in range(z.shape[1]):
        y, state = m.d(z[:, t : t + 1], state)
        outputs.append(y)
    return torch.cat(outputs, 1)


def only_of_height(number):
    def forward(m, x):
        assert x.shape[2] == number
        return m.g(x)[0]

    return forward


def by_hand(m, x):
    h = x.new_zeros(x.shape[0], 8)
    for t in range(x.shape[1]):
        h = torch.tanh(m.fc(torch.cat([x[:, t], h], -1)))
    return h


def dual(m, x):
    b, t, f, c = x.shape
    y = m.intra(x.reshape(b * t, f, c))[0].reshape(b, t, f, 8)
    return m.inter(y.transpose(1, 2).reshape(b * f, t, 8))[0]


def packed(m, x, lengths):
    return m.g(rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1]


def uses(function, size=4, **layers):
    """A factory of such models, with a GRU `g` over `size` features."""
    return lambda: Uses(function, **{"g": gru(size), **layers})


def attends(m, x):
    return m.a(*3 * [m.g(x)[0]])[0]


r, of = torch.randn, torch.randint
REFUSED = {
    "cell in a loop": (lambda: Uses(loop, cell=nn.GRUCell(4, 8)), r(2, 9, 4), "cell is an nn.GRUCell", "use nn.GRU"),
    "layer in a loop": (
        lambda: Uses(layer_in_a_loop, g=gru()),
        r(2, 9, 4),
        "calls g in a Python loop",
        "whole sequence",
    ),
    "cell in a loop beside a layer": (
        lambda: Uses(lambda m, x: loop(m, x).mean(1), cell=nn.GRUCell(4, 8), g=gru()),
        r(2, 9, 4),
        "does not call its recurrent layers",
        "cell is an nn.GRUCell in a Python loop",
    ),
    "by hand": (lambda: Uses(by_hand, fc=nn.Linear(12, 8)), r(2, 9, 4), "no nn.LSTM", "cr.Recurrent"),
    "script": (lambda: torch.jit.script(nn.GRU(4, 8)), r(9, 2, 4), "ScriptModule", "Python module"),
    "script inside": (
        lambda: Uses(lambda m, x: m.g(x)[0], g=torch.jit.script(gru())),
        r(2, 9, 4),
        "g is a torch.jit",
        "Python",
    ),
    "script beside a layer": (
        lambda: Uses(lambda m, x: m.s(m.g(x)[0]), g=gru(), s=torch.jit.script(nn.Linear(8, 2))),
        r(2, 9, 4),
        "s is a torch.jit.ScriptModule",
        "Python module",
    ),
    "weight set by the code": (WeightDrop, r(2, 9, 4), "weight_hh_l0 is not a parameter", "parametrize"),
    "a certain type": (
        lambda: Uses(lambda m, x: m.o(m.g(x)[0].bfloat16()), g=gru(), o=nn.Linear(8, 2).bfloat16()),
        r(2, 9, 4),
        "fails on example_inputs",
        "packed in float32: let its code convert to the type of a weight",
    ),
    "spectra of samples": (
        lambda: Uses(
            lambda m, x: m.g(torch.stft(x, 6, 3, window=torch.ones(6), center=False, return_complex=True).abs().mT)[0],
            g=gru(),
        ),
        r(2, 48),
        "Fourier transform",
        "take and give spectra",
    ),
    "several largest of all steps": (
        uses(lambda m, x: m.g(x)[0].topk(3, 1)[0]),
        r(2, 9, 4),
        "topk: gives the 3 largest numbers of the whole sequence",
        "outside of the model",
    ),
    "own forward": (
        lambda: Uses(lambda m, x: m.g(x)[0], g=Own(4, 8)),
        r(9, 2, 4),
        "g is a Own",
        "expected torch's forward",
    ),
    "unused": (uses(lambda m, x: 2 * x), r(2, 9, 4), "does not call", "(g)"),
    "two recurrent axes": (
        lambda: Uses(dual, intra=gru(), inter=gru(8)),
        r(1, 12, 10, 4),
        "inter runs along axis 1 of x",
        "intra runs along axis 2",
        "time=1 or time=2",
    ),
    "state given and returned": (
        uses(lambda m, x, h: m.g(x, h)),
        (r(2, 9, 4), r(1, 2, 8)),
        "initial state",
        "input z",
        "leave z out",
    ),
    "state computed of a matrix": (
        lambda: Uses(lambda m, x, z: m.g(x, m.e(z.flatten(1)).unsqueeze(0))[0], g=gru(), e=nn.Linear(6, 8)),
        (r(2, 9, 4), r(2, 2, 3)),
        "initial state",
        "input z",
        "Compute the state outside",
        "stream.reset(**{'g.h_l0': h})",
    ),
    "decoder in a loop": (
        lambda: Uses(decoder_in_a_loop, g=gru(), d=gru()),
        (r(2, 9, 4), r(2, 5, 4)),
        "d: starts from the state that it gave",
        "pack the loop's body as one step",
    ),
    "linear layer in a loop": (
        lambda: Uses(lambda m, x: m.g(x)[0] + by_hand(m, x)[:, None], g=gru(), fc=nn.Linear(12, 8)),
        r(2, 9, 4),
        "fc (a Linear) is called",
        "pack the loop's body as one step",
    ),
    "cell beside a layer": (
        lambda: Uses(lambda m, x: m.g(x)[0] + loop(m, x), g=gru(), cell=nn.GRUCell(4, 8)),
        r(2, 9, 4),
        "cell is an nn.GRUCell",
    ),
    "sequence of another length": (
        uses(lambda m, x, z: m.g(x)[0][:, -1:] + m.g(z)[0]),
        (r(2, 9, 4), r(2, 5, 4)),
        "input z has no time axis, shape (2, 5, 4), that grows",
        "packed by itself",
    ),
    "many tokens a step": (
        lambda: Uses(lambda m, x: m.g(m.e(x).mean(2))[0], g=gru(), e=nn.Embedding(9, 4)),
        of(9, (1, 7, 300)),
        "looks up 300 tokens at every step",
    ),
    "no values": (
        lambda: Uses(lambda m, x: m.g(x)[0], g=gru().to("meta")),
        r(2, 9, 4),
        "g.weight_ih_l0",
        "assign=True",
    ),
    "fails on the example": (lambda: Uses(only_of_height(5), g=gru()), r(2, 9, 4), "fails on example_inputs"),
    "bare layer with a state": (lambda: nn.GRU(4, 8), (r(9, 2, 4), r(1, 2, 8)), "initial state", "hx"),
    "bare layer with states": (lambda: nn.LSTM(4, 8), (r(9, 2, 4), (r(1, 2, 8), r(1, 2, 8))), "initial state", "hx"),
    "time inside": (
        uses(lambda m, x: m.g(x.unsqueeze(1))[0]),
        r(1, 4),
        "always gets one step",
        "initial state",
    ),
    "lengths": (
        uses(lambda m, x, n: m.g(x)[0] * (torch.arange(x.shape[1]) < n[:, None]).unsqueeze(-1)),
        (r(2, 9, 4), torch.tensor([9, 5])),
        "input z has no time axis",
        "lengths=['lengths']",
    ),
    "packed inside": (
        lambda: Uses(packed, g=gru()),
        (r(2, 9, 4), torch.tensor([9, 5])),
        "made from lengths",
        "lengths=['lengths']",
    ),
    "fixed batch": (
        uses(lambda m, x: m.g(x)[0].view(8, -1, 2, 4)),
        r(8, 9, 4),
        "batch of 8",
        "x.shape[0]",
    ),
    "fixed length": (uses(lambda m, x: m.g(x.view(-1, 9, 4))[0]), r(2, 9, 4), "takes no other number"),
    "fewer steps": (
        uses(lambda m, x: m.g(x[:, : int(x.shape[1] ** 0.5)])[0]),
        r(2, 9, 4),
        "by whole steps",
    ),
    "wrong width": (lambda: gru(), r(2, 9, 5), "fails on example_inputs", "Expected 4"),
    "averaged attention over time": (
        lambda: Uses(
            lambda m, x: m.a(m.g(x)[0], m.g(x)[0], m.g(x)[0])[1].mean(-1),
            g=gru(),
            a=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        r(2, 9, 4),
        "a: ",
        "scores of every two steps as attention alone",
    ),
    "sorting": (
        uses(lambda m, x: m.g(x)[0].sort(-1)[0]),
        r(2, 9, 4),
        "sort cannot be lowered",
        "prelu"[1:],
    ),
    "the last step before padding": (
        uses(lambda m, x: m.g(x)[0][torch.arange(len(x)), (x[..., 0] != 0).sum(1) - 1]),
        r(2, 9, 4),
        "index cannot be lowered",
        "pack with lengths=",
    ),
    "bits": (uses(lambda m, x: m.g(x)[0].view(torch.int32)), r(2, 9, 4), "view", "cannot be lowered"),
    "several tokens": (
        lambda: Uses(lambda m, x: m.g(m.e(x).sum(2))[0], g=gru(4), e=nn.Embedding(9, 4)),
        torch.randint(0, 9, (2, 9, 300)),
        "e: embedding",
        "looks up 300 tokens at every step, too many",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(name):
    make, example, *words = REFUSED[name]
    with pytest.raises(cr.UnsupportedModelError) as caught:
        lower(make().eval(), example)
    for word in words:
        assert word in str(caught.value), caught.value
    assert ("PackedSequence" in str(caught.value)) == (name == "packed inside")


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ((r(2, 9, 4), 3.0), ("float", "default of forward")),
        (r(2, 9, 4).numpy(), ("ndarray", "from_numpy")),
        (rnn.pack_sequence([r(9, 4)]), ("PackedSequence", "padded tensor")),
        ((None,), ("no tensor",)),
    ],
)
def test_arguments_that_are_no_tensors(example, words):
    with pytest.raises(ValueError, match="example_inputs") as caught:
        lower(Uses(lambda m, x, *rest: m.g(x)[0], g=gru()), example)
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_is_no_trained_model(tmp_path):
    layer, x = nn.GRU(2, 3), torch.randn(1, 9, 2)
    for give in (lambda m: cr.pack(m, tmp_path / "m.crnn", x), lambda m: cr.GroupLasso(m, x, keep=0.5, steps=2)):
        with pytest.raises(TypeError, match=r"expected an nn.Module, got OrderedDict; .*load_state_dict"):
            give(layer.state_dict())
        with pytest.raises(cr.UnsupportedModelError, match="weight_ih_l0 is on the meta device"):
            give(nn.GRU(2, 3, device="meta"))
        with pytest.raises(cr.UnsupportedModelError, match=r"1.weight is of a lazy layer, .*call the model once"):
            give(nn.Sequential(nn.GRU(2, 3), nn.LazyLinear(2)))
        diverged = nn.GRU(2, 3, batch_first=True)
        nn.init.constant_(diverged.weight_hh_l0[:2], torch.nan)
        with pytest.raises(cr.UnsupportedModelError, match="GRU: weight_hh_l0 has 6 NaN among its 27 numbers"):
            give(diverged)
    nn.init.constant_(diverged.weight_hh_l0[:2], -torch.inf)
    with pytest.raises(ValueError, match=r"g.weight_hh_l0: expected finite numbers, got NaN or infinity"):
        cr.pack(Uses(lambda m, x: m.g(x)[0], g=diverged), tmp_path / "m.crnn", x, calibration=[x])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"model: expected a torch model.*got 'm.pt'; load a checkpoint yourself"):
        cr.pack("m.pt", tmp_path / "m.crnn", x)


def test_what_can_be_lowered_is_listed_from_what_is_registered():
    with pytest.raises(cr.UnsupportedModelError) as caught:
        lower(Uses(lambda m, x: m.g(x)[0].sort(-1)[0], g=gru()), r(1, 9, 4))
    listed = str(caught.value).split("what can: ")[1].split(", ")
    for name in (
        "conv1d",
        "where",
        "eq",
        "cumsum",
        "linear",
        "embedding",
        "layer_norm",
        "amax",
        "floor",
        "isnan",
        "bmm",
    ):
        assert name in listed
    assert "sort" not in listed and not [n for n in listed if n.startswith("_")]


READINGS = {
    "batch first": (lambda m, x: m.g(x)[0], gru(), r(2, 9, 4), ((1,), (0,))),
    "time first": (lambda m, x: m.g(x)[0], nn.GRU(4, 8), r(9, 2, 4), ((0,), (1,))),
    "square": (lambda m, x: m.g(x)[0], gru(), r(4, 4, 4), ((1,), (0,))),
    "one step": (lambda m, x: m.g(x)[0], gru(), r(1, 1, 4), ((1,), (0,))),
    "one step, time first": (lambda m, x: m.g(x)[0], nn.GRU(4, 8), r(1, 1, 4), ((0,), (1,))),
    "unbatched": (lambda m, x: m.g(x)[0], gru(), r(9, 4), ((0,), (None,))),
    "one number a step": (lambda m, x: m.g(x.unsqueeze(-1))[0], gru(1), r(3, 9), ((1,), (0,))),
    "one number a step, unbatched": (lambda m, x: m.g(x.unsqueeze(-1))[0], gru(1), r(9), ((0,), (None,))),
    "channels first": (lambda m, x, z: m.g(x.mT + z.unsqueeze(-1))[0], gru(), (r(2, 4, 9), r(2, 9)), ((2, 1), (0, 0))),
    "mask, square": (lambda m, x, z: m.g(x)[0] * z.unsqueeze(-1), gru(), (r(4, 4, 4), r(4, 4)), ((1, 1), (0, 0))),
    "mask of one step": (lambda m, x, z: m.g(x)[0] * z.unsqueeze(-1), gru(), (r(1, 1, 4), r(1, 1)), ((1, 1), (0, 0))),
    "mask of another order": (
        lambda m, x, z: m.g(x)[0] * z.T.unsqueeze(-1),
        nn.GRU(4, 8),
        (r(9, 2, 4), r(2, 9)),
        ((0, 1), (1, 0)),
    ),
}


@pytest.mark.parametrize("name", READINGS)
def test_axes_of_every_input(name):
    function, layer, example, (times, batches) = READINGS[name]
    inputs = example if isinstance(example, tuple) else (example,)
    axes = find_axes(Uses(function, g=layer), inputs)
    assert (axes.times, axes.batches) == (times, batches)


def test_a_model_may_assert_the_sizes_of_what_is_no_time():
    axes = find_axes(Uses(only_of_height(4), g=gru()), (r(2, 4, 4),))
    assert (axes.times, axes.batches) == ((1,), (0,))


def test_a_bare_layer_is_called_by_its_class():
    assert called("", nn.GRU(4, 8)) == "GRU" and called("a.b", nn.GRU(4, 8)) == "a.b"
