import copy
import warnings
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

import compactrnn as cr
from compactrnn import cells
from compactrnn.layers import cells_of, is_recurrent
from compactrnn.layers.cudnn import Contiguous
from compactrnn.layers.loop import select

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

OURS = {"LSTM": cr.LSTM, "GRU": cr.GRU, "RNN": cr.RNN}
THEIRS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
CELLS = {"LSTM": cells.LSTM, "GRU": cells.GRU, "RNN": cells.Elman}


@dataclass(frozen=True)
class Case:
    kind: str
    input_size: int
    hidden_size: int
    options: dict
    form: str  # of the input: batched, unbatched, packed or packed unsorted
    with_states: bool
    seed: int

    def theirs(self):
        torch.manual_seed(self.seed)
        return THEIRS[self.kind](self.input_size, self.hidden_size, **self.options)

    def ours(self, way):
        """The same layer, built in one of our ways; all but the last draw the same initial weights."""
        torch.manual_seed(self.seed)
        if way == "one size":
            return OURS[self.kind](self.input_size, self.hidden_size, **self.options)
        if way == "size per layer":
            sizes = [self.hidden_size] * self.options["num_layers"]
            return OURS[self.kind](self.input_size, sizes, **self.options)
        if way == "converted":
            return cr.convert_(self.theirs())
        layer = cr.Recurrent(CELLS[self.kind], self.input_size, self.hidden_size, **self.options)
        copy_cells(self.theirs(), layer)
        return layer

    def inputs(self):
        generator = torch.Generator().manual_seed(self.seed)
        steps, batch = 1 + self.seed % 5, 1 + self.seed % 3
        directions = self.options["num_layers"] * (2 if self.options["bidirectional"] else 1)

        def random(*shape):
            return torch.randn(*shape, generator=generator).requires_grad_()

        def states(size):
            return random(directions, size) if self.form == "unbatched" else random(directions, batch, size)

        if self.form == "unbatched":
            x = random(steps, self.input_size)
        elif self.options["batch_first"]:
            x = random(batch, steps, self.input_size)
        else:
            x = random(steps, batch, self.input_size)
        given, hx = x, None
        if self.form.startswith("packed"):
            lengths = torch.randint(1, steps + 1, (batch,), generator=generator)
            if self.form == "packed":
                lengths = lengths.sort(descending=True).values
            given = pack_padded_sequence(x, lengths, self.options["batch_first"], enforce_sorted=self.form == "packed")
        if self.with_states:
            h = states(self.options.get("proj_size") or self.hidden_size)
            hx = (h, states(self.hidden_size)) if self.kind == "LSTM" else h
        return x, given, hx


@st.composite
def cases(draw):
    kind = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    hidden_size = draw(st.integers(1, 7))
    options = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM" and hidden_size > 1:
        options["proj_size"] = draw(st.integers(0, hidden_size - 1))
    return Case(
        kind=kind,
        input_size=draw(st.integers(1, 6)),
        hidden_size=hidden_size,
        options=options,
        form=draw(st.sampled_from(["batched", "unbatched", "packed", "packed unsorted"])),
        with_states=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


@torch.no_grad()
def copy_cells(source, target):
    """Copy the parameters of `source` to `target`, cell by cell."""
    for row, other_row in zip(cells_of(source), cells_of(target), strict=True):
        for cell, other in zip(row, other_row, strict=True):
            for parameter, value in zip(other.parameters(), cell.parameters(), strict=True):
                parameter.copy_(value)


def flat(kind, result):
    """All tensors of a result: output, then states, stacked as torch returns them."""
    output, states = result
    if isinstance(output, PackedSequence):
        tensors = [t for t in output if t is not None]
    else:
        tensors = [output]
    for state in states if kind == "LSTM" else [states]:
        tensors.append(state if isinstance(state, torch.Tensor) else torch.stack(state))
    return tensors


def close(ours, theirs, scale):
    """Compare tensor by tensor, to 1e-5 of a scale."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        error = (a - b).abs().max().item() if a.numel() else 0.0
        assert error <= 1e-5 * scale, (error, scale)


def largest(tensors):
    return max([1e-3, *(t.abs().max().item() for t in tensors if t.numel())])


def results_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        close([a], [b], largest([b]))


def gradients_close(ours, theirs):
    """The terms of a gradient may cancel, so its error is relative to the largest gradient."""
    close(ours, theirs, largest(theirs))


def gradients(tensors, variables):
    generator = torch.Generator().manual_seed(0)
    loss = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in tensors if t.is_floating_point())
    return torch.autograd.grad(loss, variables)


def everything(layer, case):
    """The tensors of the result, and the gradients of inputs, initial states and parameters."""
    x, given, hx = case.inputs()
    states = [] if hx is None else list(hx) if case.kind == "LSTM" else [hx]
    parameters = [p for row in cells_of(layer) for cell in row for p in cell.parameters()]
    tensors = flat(case.kind, layer(given, hx))
    return tensors, gradients(tensors, [x, *states, *parameters])


@settings(deadline=None, max_examples=150)
@given(case=cases(), way=st.sampled_from(["one size", "size per layer", "converted", "any cell"]))
def test_parity_with_torch(case, way):
    (results, grads), (their_results, their_grads) = everything(case.ours(way), case), everything(case.theirs(), case)
    results_close(results, their_results)
    gradients_close(grads, their_grads)


@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_names_and_initial_numbers_are_those_of_torch(case):
    theirs = case.theirs()
    for way in ("one size", "size per layer"):
        ours = case.ours(way)
        assert isinstance(ours, THEIRS[case.kind]) and is_recurrent(ours)
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert all(a is b for a, b in zip(ours._flat_weights, ours.parameters(), strict=False))
        assert [[p.shape for p in row] for row in ours.all_weights] == [
            [p.shape for p in row] for row in theirs.all_weights
        ]
        ours.flatten_parameters()
    assert repr(case.ours("one size")) == repr(theirs)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", ["batched", "unbatched", "packed unsorted"])
def test_a_size_per_layer_is_a_chain_of_layers(kind, bidirectional, form):
    torch.manual_seed(0)
    sizes, directions = [5, 3, 4], 2 if bidirectional else 1
    ours = OURS[kind](4, sizes, bidirectional=bidirectional)
    widths = [4, *(n * directions for n in sizes)]
    chain = [THEIRS[kind](widths[i], n, bidirectional=bidirectional) for i, n in enumerate(sizes)]
    for i, link in enumerate(chain):
        names = {n.replace("_l0", f"_l{i}"): p for n, p in link.named_parameters()}
        ours.load_state_dict({**ours.state_dict(), **names}, strict=True)
    x = torch.randn(6, 4) if form == "unbatched" else torch.randn(6, 3, 4)
    if form == "packed unsorted":
        x = pack_padded_sequence(x, [2, 6, 4], enforce_sorted=False)
    output, states = ours(x)
    wanted, last = x, []
    for link in chain:
        wanted, state = link(wanted)
        last.append(state)
    assert_close(output, wanted)
    for j, kind_states in enumerate(states if kind == "LSTM" else [states]):
        expected = [s for state in last for s in (state[j] if kind == "LSTM" else state)]
        assert isinstance(kind_states, tuple)
        assert_close(list(kind_states), expected)
    again, _ = ours(x, states)
    wanted = x
    for link, state in zip(chain, last, strict=True):
        wanted, _ = link(wanted, state)
    assert_close(again, wanted)


@pytest.mark.parametrize("spec", [cr.LowRank(rank=2), cr.Kronecker(out_block=2, in_block=2)], ids=str)
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("sizes", [6, [6, 4]], ids=str)
def test_structured_layers_are_dense_ones_with_their_dense_matrices(spec, kind, sizes):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True}
    ours = OURS[kind](4, sizes, **options, input_weight=spec, hidden_weight=spec)
    dense = OURS[kind](4, sizes, **options)
    names = {n: (w.dense() if isinstance(w := getattr(ours, n), nn.Module) else w) for n in dense.state_dict()}
    dense.load_state_dict({n: w.detach() for n, w in names.items()}, strict=True)
    x = torch.randn(5, 3, 4)
    outputs, wanted = flat(kind, _stacked(kind, ours(x))), flat(kind, _stacked(kind, dense(x)))
    results_close(outputs, wanted)
    parameters = list(ours.parameters())
    through_dense = torch.autograd.grad(
        list(names.values()), parameters, [g.detach() for g in gradients(wanted, [getattr(dense, n) for n in names])]
    )
    gradients_close(gradients(outputs, parameters), through_dense)


def _stacked(kind, result):
    """Ragged states padded, so that they can be compared as one tensor."""
    output, states = result
    if isinstance(states, tuple) and isinstance(states[0], tuple):
        return output, tuple(nn.utils.rnn.pad_sequence([s.T for s in kind_states]) for kind_states in states)
    if isinstance(states, tuple) and kind != "LSTM":
        return output, nn.utils.rnn.pad_sequence([s.T for s in states])
    return output, states


@pytest.mark.parametrize("make", [lambda: cr.LSTM(4, [6, 6], dropout=0.5), lambda: cr.LSTM(4, 6, 2, dropout=0.5)])
def test_dropout_is_torchs(make):
    theirs, ours = nn.LSTM(4, 6, 2, dropout=0.5), make()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 3, 4)
    torch.manual_seed(1)
    wanted = theirs(x)[0]
    torch.manual_seed(1)
    assert_close(ours(x)[0], wanted)
    assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])
    assert not torch.allclose(wanted, ours(x)[0])


def test_dropout_of_one_layer_warns_as_torch():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        cr.LSTM(4, 6, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        cr.Recurrent(cr.MGU, 4, 6, dropout=0.5)


def test_user_code_reads_the_last_state_the_same_way():
    head = nn.Linear(6, 3)
    for lstm in (cr.LSTM(4, 6, 2), cr.LSTM(4, [5, 6])):
        _, (h_n, c_n) = lstm(torch.randn(7, 2, 4))
        assert head(h_n[-1]).shape == (2, 3) and c_n[-1].shape == (2, 6)
        assert len(h_n) == 2


MAKERS = {
    "dense": lambda: cr.LSTM(4, 6, 2),
    "sizes": lambda: cr.GRU(4, [6, 5], bidirectional=True),
    "low rank": lambda: cr.LSTM(4, 6, 2, hidden_weight=cr.LowRank(rank=2)),
    "both": lambda: cr.LSTM(4, [6, 5], proj_size=[3, 2], input_weight=cr.LowRank(rank=2)),
    "cell": lambda: cr.Recurrent(cr.MGU, 4, [6, 5], bidirectional=True, input_weight=cr.LowRank(rank=2)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_a_module_like_any_other(make, tmp_path):
    torch.manual_seed(0)
    layer, x = make(), torch.randn(5, 3, 4)
    output = layer(x)[0]
    twin = copy.deepcopy(layer)
    other = make()
    assert not torch.allclose(other(x)[0], output)
    other.load_state_dict(layer.state_dict(), strict=True)
    assert_close(other(x)[0], output)
    safetensors.torch.save_model(layer, str(tmp_path / "layer.safetensors"))
    layer.reset_parameters()
    assert not torch.allclose(layer(x)[0], output)
    assert_close(twin(x)[0], output)
    safetensors.torch.load_model(layer, str(tmp_path / "layer.safetensors"))
    assert_close(layer(x)[0], output)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector, other.parameters())
    assert_close(other(x)[0], output)
    swapped = {n: p * 0 for n, p in layer.named_parameters()}
    assert not torch.func.functional_call(layer, swapped, (x,))[0].any()
    assert_close(layer(x)[0], output)
    assert_close(layer.double()(x.double())[0].float(), output)
    before = vector.double().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x.double())[0].square().sum().backward()
    optimizer.step()
    assert all(p.grad is not None for p in layer.parameters())
    assert not torch.allclose(nn.utils.parameters_to_vector(layer.parameters()), before)


def test_structured_weights_stand_under_torchs_name():
    layer = cr.LSTM(4, 6, hidden_weight=cr.LowRank(rank=2))
    assert sorted(layer.state_dict()) == [
        "bias_hh_l0",
        "bias_ih_l0",
        "weight_hh_l0.left",
        "weight_hh_l0.right",
        "weight_ih_l0",
    ]
    assert "hidden_weight=LowRank(rank=2)" in repr(layer)


def test_cells_are_bound_to_the_live_parameters():
    for layer in (nn.LSTM(4, 6, 2, proj_size=3), cr.LSTM(4, 6, 2, proj_size=3)):
        cell = cells_of(layer)[1][0]
        assert cell.hidden.weight is layer.weight_hh_l1
        assert cell.projection.weight is layer.weight_hr_l1
        assert cell.input_bias is layer.bias_ih_l1
    layer = cr.LSTM(4, 6, input_weight=cr.LowRank(rank=2))
    assert cells_of(layer)[0][0].input is layer.weight_ih_l0


def test_device_and_dtype():
    assert all(p.is_meta for p in cr.LSTM(4, [6, 5], device="meta", hidden_weight=cr.LowRank(rank=2)).parameters())
    for layer in (cr.GRU(4, [6, 5], dtype=torch.float64), cr.Recurrent(cr.MGU, 4, 6, dtype=torch.float64)):
        assert layer(torch.randn(3, 2, 4).double())[0].dtype == torch.float64


def test_a_state_with_an_initial_value_starts_there():
    class Counting(cells.Elman):
        states = (cells.StateSpec("h", init=1.0),)

    layer = cr.Recurrent(Counting, 4, 6)
    x = torch.randn(3, 2, 4)
    assert_close(layer(x)[0], layer(x, torch.ones(1, 2, 6))[0])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: cr.LSTM(4, []), "num_layers: expected 0.*, got 1"),
        (lambda: cr.LSTM(4, [6, 5], num_layers=3), "num_layers: expected 2.*, got 3"),
        (lambda: cr.LSTM(4, [6, 0]), r"hidden_size: .*got 0"),
        (lambda: cr.LSTM(0, [6, 5]), "input_size must be greater than zero"),
        (lambda: cr.LSTM(4, 0), "hidden_size must be greater than zero"),
        (lambda: cr.LSTM(4, 6, proj_size=6), "proj_size has to be smaller"),
        (lambda: cr.LSTM(4, [6, 3], proj_size=[3]), r"proj_size: expected 2 sizes.*, got \[3\]"),
        (lambda: cr.LSTM(4, [6, 3], proj_size=[0, 2]), r"proj_size: .*got 0"),
        (lambda: cr.LSTM(4, 6, dropout=1.5), "dropout should be a number"),
        (lambda: cr.LSTM(4, 6, input_weight="dense"), r"input_weight: .*got 'dense'"),
        (lambda: cr.LSTM(4, 6, hidden_weight=cr.LowRank(rank=7)), "rank: expected at most 6.*, got 7"),
        (lambda: cr.RNN(4, 6, nonlinearity="sin"), r"nonlinearity: .*got 'sin'"),
        (lambda: cr.Recurrent(nn.LSTM, 4, 6), "cell_class: expected"),
        (lambda: cr.Recurrent(cr.MGU, 4, 6, dropout=-1), r"dropout: .*got -1"),
        (lambda: cr.LSTM(4, [6, 5])(torch.randn(3, 2, 5)), "LSTM input size: expected 4.*, got 5"),
        (lambda: cr.LSTM(4, [6, 5])(torch.randn(4)), "LSTM input: expected a 2D or 3D.*, got 1D"),
        (lambda: cr.LSTM(4, [6, 5])([1.0]), r"LSTM input: .*got list"),
        (lambda: cr.LSTM(4, [6, 5])(torch.randn(0, 2, 4)), "at least one step"),
        (lambda: cr.LSTM(4, [6, 5])(torch.randn(3, 2, 4).double()), r"input dtype: .*got torch.float64"),
        (lambda: cr.LSTM(4, [6, 5])(torch.randn(3, 2, 4), torch.zeros(2, 2, 6)), "a tuple of 2 states"),
        (lambda: cr.GRU(4, [6, 5])(torch.randn(3, 2, 4), torch.zeros(2, 2, 6)), r"initial state: .*got one tensor"),
        (lambda: cr.GRU(4, [6, 6])(torch.randn(3, 2, 4), torch.zeros(2, 3, 6)), "initial state shape: expected"),
        (lambda: cr.GRU(4, [6, 5])(torch.randn(3, 2, 4), (torch.zeros(2, 6),)), "initial state shapes: expected"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_laying_out_weights_changes_no_number():
    weights = [torch.randn(24, 4, requires_grad=True), torch.randn(24, 6, requires_grad=True)]
    copies = Contiguous.apply(("LSTM", False, 6, 0, False), *weights)
    assert_close(copies, tuple(weights))
    factors = [torch.randn(24, 4), torch.randn(24, 6)]
    loss = sum((c * f).sum() for c, f in zip(copies, factors, strict=True))
    assert_close(torch.autograd.grad(loss, weights), tuple(factors))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", list(MAKERS.values())[:3], ids=list(MAKERS)[:3])
def test_on_a_gpu_weights_are_laid_out_for_cudnn(make):
    layer, x = make().cuda(), torch.randn(5, 3, 4).cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_gpu = layer(x)[0]
        on_gpu.sum().backward()
    assert_close(layer.cpu()(x.cpu())[0], on_gpu.cpu(), rtol=1e-3, atol=1e-4)


def test_a_layer_that_runs_by_cells_is_traced_once_for_its_parameters(monkeypatch):
    traced = []
    look = select._look
    monkeypatch.setattr(select, "_look", lambda cell, signature: traced.append(cell) or look(cell, signature))
    layer, x = cr.LSTM(4, [6, 5], proj_size=[7, 5]), torch.randn(5, 2, 4)
    first, _ = layer(x)
    layer.eval()(x)
    assert len(traced) == 2
    with torch.no_grad():
        layer.bias_hh_l0.add_(1)
    assert not torch.equal(layer(x)[0], first) and len(traced) == 2
    layer.bias_hh_l0 = nn.Parameter(torch.zeros(24))
    changed, _ = layer(x)
    with cr.time_loop("plain"):
        assert_close(changed, layer(x)[0])
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.bias_hh_l0.add_(1)
    assert_close(layer(x)[0], changed)
    assert not torch.equal(twin(x)[0], changed)


def test_tensors_in_the_place_of_parameters_do_not_make_a_layer_trace_again(monkeypatch):
    traced = []
    look = select._look
    monkeypatch.setattr(select, "_look", lambda cell, signature: traced.append(cell) or look(cell, signature))
    layer, x = cr.GRU(4, 6), torch.randn(5, 2, 4)
    before, _ = layer(x)
    for factor in (0.5, 2.0):
        hidden = (layer.weight_hh_l0.detach() * factor).requires_grad_()
        output, _ = torch.func.functional_call(layer, {"weight_hh_l0": hidden}, (x,))
        (grad,) = torch.autograd.grad(output.sum(), hidden)
        plain = nn.GRU(4, 6)
        plain.load_state_dict(layer.state_dict() | {"weight_hh_l0": hidden})
        expected, _ = plain(x)
        assert_close(output, expected)
        assert_close(grad, torch.autograd.grad(expected.sum(), plain.weight_hh_l0)[0])
        assert torch.equal(layer(x)[0], before)
    assert len(traced) == 2


@pytest.mark.parametrize("layer", [cr.LSTM(4, 6, 2, dropout=0.5), cr.Recurrent(cells.MGU, 4, 6, 2, dropout=0.5)])
def test_locked_dropout_is_the_same_at_all_steps_of_a_packed_sequence(layer):
    layer.locked_dropout = True
    lengths, found = torch.tensor([7, 4, 2]), []
    x = torch.randn(7, 3, 4)
    with torch.no_grad():
        for seed in range(8):
            torch.manual_seed(seed)
            padded, _ = layer(x)
            torch.manual_seed(seed)
            packed, _ = pad_packed_sequence(layer(pack_padded_sequence(x, lengths))[0])
            for n, length in enumerate(lengths):
                torch.testing.assert_close(packed[:length, n], padded[:length, n])
            found.append(padded)
    assert not torch.equal(found[0], found[1])
