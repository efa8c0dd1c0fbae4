import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.layers import cells_of, is_recurrent
from compactrnn.weights.low_rank import LowRankWeight

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

HEIRS = {nn.LSTM: cr.LSTM, nn.GRU: cr.GRU, nn.RNN: cr.RNN}


@st.composite
def theirs(draw):
    kind = draw(st.sampled_from(list(HEIRS)))
    options = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if kind is nn.LSTM:
        options["proj_size"] = draw(st.sampled_from([0, 3]))
    if kind is nn.RNN:
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    return kind(4, 6, **options)


@settings(deadline=None, max_examples=30)
@given(module=theirs())
def test_there_and_back_is_exact(module):
    module.weight_hh_l0.requires_grad_(False)
    module.eval()
    ours = cr.from_torch(module)
    assert type(ours) is HEIRS[type(module)] and not ours.training
    back = ours.to_torch()
    assert type(back) is type(module) and repr(back) == repr(module)
    x = torch.randn(5, 3, 4)
    for other in (ours, back):
        assert torch.equal(other(x)[0], module(x)[0])
        for (name, a), (wanted, b) in zip(other.named_parameters(), module.named_parameters(), strict=True):
            assert name == wanted and a is not b and torch.equal(a, b) and a.requires_grad == b.requires_grad
    assert vars(back).keys() == vars(module).keys()


def test_structured_and_equal_sizes_go_back_as_dense():
    x = torch.randn(5, 3, 4)
    for ours in (
        cr.LSTM(4, 6, 2, hidden_weight=cr.LowRank(rank=2), bidirectional=True),
        cr.GRU(4, [6, 6], input_weight=cr.Kronecker(out_block=2, in_block=2)),
    ):
        back = ours.to_torch()
        assert type(back) in HEIRS
        assert_close(back(x)[0], ours(x)[0])
        fresh = type(back)(4, 6, 2, bidirectional=back.bidirectional)
        assert [n for n, _ in back.named_parameters()] == [n for n, _ in fresh.named_parameters()]
        assert isinstance(back.hidden_size, int) and repr(back) == repr(fresh)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: cr.LSTM(4, [6, 5]).to_torch(), r"hidden_size: expected one size.*, got \[6, 5\]"),
        (lambda: cr.LSTM(4, [6, 6], proj_size=[3, 2]).to_torch(), r"proj_size: .*got \[3, 2\]"),
        (lambda: cr.LSTM(4, [3, 3], proj_size=3).to_torch(), "proj_size: expected less than hidden_size=3.*, got 3"),
    ],
)
def test_what_torch_has_not_does_not_go_back(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(4, 6, dtype=torch.float64)
        self.again = self.first
        self.inside = nn.ModuleDict({"gru": nn.GRU(6, 5, 2), "rnn": nn.RNN(6, 5)}).double()
        self.cell = nn.LSTMCell(4, 6)
        self.ours = cr.LSTM(4, [6, 5])
        self.first.weight_hh_l0.requires_grad_(False)
        self.inside.eval()

    def forward(self, x):
        y = self.again(self.first(x)[0][..., :4])[0]
        return self.inside["gru"](y)[0] + self.inside["rnn"](y)[0]


def test_convert_in_place():
    model = Model()
    held = model.first
    seen = []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {n: p for n, p in model.named_parameters()}
    x = torch.randn(3, 2, 4).double()
    wanted = model(x)
    assert cr.convert_(model) is model
    assert type(model.first) is cr.LSTM and model.first is model.again is held
    assert type(model.inside["gru"]) is cr.GRU and type(model.inside["rnn"]) is cr.RNN
    assert type(model.cell) is nn.LSTMCell and type(model.ours) is cr.LSTM
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in before.items()}
    assert not model.first.weight_hh_l0.requires_grad
    assert model.training and not model.inside["gru"].training
    assert torch.equal(model(x), wanted) and len(seen) == 4
    model(x).sum().backward()
    optimizer.step()
    assert not torch.equal(model(x), wanted)
    copy.deepcopy(model)


def test_convert_a_bare_layer():
    gru = nn.GRU(4, 6)
    assert cr.convert_(gru) is gru and type(gru) is cr.GRU


class Residual(nn.LSTM):
    def forward(self, input, hx=None):
        y, states = super().forward(input, hx)
        return y + input, states


class Renamed(nn.LSTM):
    """A subclass that differs in its arguments only."""

    def __init__(self, size):
        super().__init__(size, size)


def weight_norm():
    return nn.utils.parametrizations.weight_norm(nn.LSTM(4, 6), "weight_hh_l0")


def old_weight_norm():
    return nn.utils.weight_norm(nn.GRU(4, 6), "weight_hh_l0")


def pruned():
    layer = nn.LSTM(4, 6)
    prune.l1_unstructured(layer, "weight_ih_l0", 0.5)
    return layer


def quantized():
    model = nn.Sequential(nn.LSTM(4, 6))
    return torch.ao.quantization.quantize_dynamic(model, {nn.LSTM}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Residual(4, 4), r"Residual\) is a subclass of nn.LSTM with its own forward"),
        (weight_norm, "weight_hh_l0 is not a parameter but computed.*remove_parametrizations"),
        (old_weight_norm, "weight_hh_l0 is not a parameter but computed"),
        (pruned, "weight_ih_l0 is not a parameter but computed.*prune.remove"),
        (quantized, "quantized; convert the float model"),
    ],
)
def test_what_would_be_lost_is_refused(make, message):
    bad, good = make(), nn.LSTM(4, 6)
    with pytest.raises(cr.UnsupportedModelError, match=message):
        cr.convert_(nn.ModuleList([good, bad]))
    assert type(good) is nn.LSTM
    if isinstance(bad, nn.RNNBase):
        with pytest.raises(cr.UnsupportedModelError, match=message):
            cr.from_torch(bad)


def test_a_subclass_without_methods_of_its_own_is_converted():
    layer = Renamed(4)
    x = torch.randn(5, 3, 4)
    wanted = layer(x)[0]
    assert type(cr.convert_(layer)) is cr.LSTM
    assert torch.equal(layer(x)[0], wanted)


def test_only_what_runs_as_torchs_layers_is_recurrent():
    assert all(is_recurrent(m) for m in (nn.LSTM(4, 6), nn.GRU(4, 6), nn.RNN(4, 6), cr.LSTM(4, [6]), Renamed(4)))
    assert is_recurrent(cr.Recurrent(cr.MGU, 4, 6))
    assert not any(is_recurrent(m) for m in (nn.Linear(4, 6), nn.LSTMCell(4, 6), Residual(4, 4)))
    with pytest.raises(TypeError, match=r"cells_of: .*got a Linear"):
        cells_of(nn.Linear(4, 6))
    with pytest.raises(TypeError, match=r"from_torch: .*got a Linear"):
        cr.from_torch(nn.Linear(4, 6))


class WithMethods(nn.LSTM):
    """Has methods and a property of its own, and torch's forward."""

    factor = 2.0

    def zeros(self, batch):
        zeros = torch.zeros(self.num_layers, batch, self.hidden_size)
        return zeros, zeros

    @property
    def twice(self):
        return self.factor * self.hidden_size


def test_a_subclass_with_methods_of_its_own_keeps_them():
    layer = WithMethods(4, 6)
    x = torch.randn(5, 3, 4)
    wanted = layer(x, layer.zeros(3))[0]
    assert cr.convert_(layer) is layer
    assert isinstance(layer, cr.LSTM) and isinstance(layer, WithMethods) and type(layer).__name__ == "WithMethods"
    assert torch.equal(layer(x, layer.zeros(3))[0], wanted) and layer.twice == 12.0
    assert type(cr.convert_(WithMethods(4, 6))) is type(layer)
    assert type(layer.to_torch()) is nn.LSTM


@pytest.mark.parametrize("kind", [Renamed, WithMethods])
def test_subclasses_are_shrunk(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = Renamed(16) if kind is Renamed else WithMethods(16, 16)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            states = self.rnn.zeros(x.shape[1]) if isinstance(self.rnn, WithMethods) else None
            return self.head(self.rnn(x, states)[0])

    torch.manual_seed(0)
    model, x = Net(), torch.randn(5, 2, 16)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1)
    pruner.step()
    small = pruner.shrink()
    assert small.rnn.hidden_size == 8
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.LSTM(4, 6, proj_size=5), lambda: nn.GRU(4, 6, bidirectional=True)])
def test_a_trained_layer_gets_other_weights_set_from_its_own(make):
    theirs = make().eval()
    theirs.weight_hh_l0.requires_grad_(False)
    specs = {"hidden_weight": cr.LowRank(rank=5)}  # of full rank in a projected layer
    if isinstance(theirs, nn.LSTM):
        specs |= {"input_weight": cr.LowRank(rank=4), "projection_weight": cr.LowRank(rank=5)}
    ours = cr.from_torch(theirs, **specs)
    assert isinstance(ours.weight_hh_l0, LowRankWeight) and not ours.weight_hh_l0.left.requires_grad
    x = torch.randn(5, 3, 4)
    if isinstance(theirs, nn.LSTM):
        assert_close(ours(x)[0], theirs(x)[0])
    else:
        u, s, v = torch.linalg.svd(theirs.weight_hh_l0_reverse.detach())
        assert_close(ours.weight_hh_l0_reverse.dense(), u[:, :5] * s[:5] @ v[:5])
    options = {"proj_size": 5} if isinstance(theirs, nn.LSTM) else {"bidirectional": True}
    again = type(ours)(4, 6, theirs.num_layers, **options, **specs)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.eval()(x)[0], ours(x)[0])
    with pytest.raises(ValueError, match="rank"):
        cr.from_torch(theirs, hidden_weight=cr.LowRank(rank=9))
    with pytest.raises(ValueError, match=r"a weight, such as LowRank"):
        cr.from_torch(theirs, input_weight="LowRank")
