"""Quantization-aware training: what is trained, and that the engine repeats it to the bit."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.runtime import _native
from compactrnn.runtime.rounding import quantize_groups, quantize_rows
from compactrnn.weights.fake_quant import fake_quant, quantized_linear

pytestmark = pytest.mark.filterwarnings("ignore:no calibration data")


class Tagger(nn.Module):
    """Tokens or features, a recurrent layer, a linear layer."""

    def __init__(self, layer, outputs, embedding=False, tie=False):
        super().__init__()
        self.embedding = nn.Embedding(30, 20) if embedding else None
        self.rnn, self.dropout = layer, nn.Dropout(0.2)
        self.head = nn.Linear(outputs, 30 if tie else 7)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        x = x if self.embedding is None else self.embedding(x)
        return self.head(self.dropout(self.rnn(x)[0]))

    def inputs(self, rows, steps):
        return torch.randn(rows, steps, 20) if self.embedding is None else torch.randint(0, 30, (rows, steps))


def layer(kind, *sizes, **options):
    return kind(20, *sizes, batch_first=True, **options)


def any_cell(cell):
    return lambda: Tagger(layer(lambda *a, **k: cr.Recurrent(cell, *a, **k), 40), 40)


CASES = {
    "LSTM": lambda: Tagger(layer(nn.LSTM, 40, 2, dropout=0.2), 40),
    "GRU": lambda: Tagger(layer(nn.GRU, 40, 2), 40),
    "MGU": any_cell(cr.MGU),
    "LSTM of tokens": lambda: Tagger(layer(nn.LSTM, 90), 90, embedding=True),
    "tied GRU": lambda: Tagger(layer(nn.GRU, 20, bias=False), 20, embedding=True, tie=True),
    "two directions": lambda: Tagger(layer(nn.LSTM, 40, bidirectional=True), 80),
    "projection": lambda: Tagger(layer(cr.LSTM, [40, 30], proj_size=[10, 12]), 12),
    "sizes per layer": lambda: Tagger(layer(cr.GRU, [40, 17]), 17),
    "RNN": lambda: Tagger(layer(nn.RNN, 40), 40),
    "IndRNN": any_cell(cr.IndRNN),
    "FastGRNN": any_cell(cr.FastGRNN),
    "FSMN": any_cell(cr.FSMN),
    "RHN": any_cell(cr.RHN),
}
BOTH = [(name, kind) for name in ("LSTM", "GRU", "MGU") for kind in ("int8", "int4")]


def trained(model, *quantizers, steps=4, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        x = model.inputs(3, 15)
        loss = model(x).sin().mean() + model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for quantizer in quantizers:
            quantizer.step(optimizer)
    return model.eval()


def engine_outputs(path, x):
    return cr.Engine(path).run(x[0].numpy().astype(np.int32 if x.dtype == torch.long else np.float32))


@pytest.mark.parametrize("name, kind", BOTH + [(name, "int4") for name in CASES if (name, "int4") not in BOTH])
def test_the_engine_repeats_the_trained_model_to_the_bit(name, kind, tmp_path):
    torch.manual_seed(0)
    model = CASES[name]()
    trained(model, cr.Quantize(model, kind))
    x = model.inputs(1, 30)
    report = cr.pack(model, tmp_path / "model.crnn", x, weights=kind, calibration=[model.inputs(2, 10)])
    assert report.error == 0.0 and set(report.types.values()) <= {kind, "int8"} and not report.reasons
    wanted = engine_outputs(tmp_path / "model.crnn", x)
    recorded = model(x)[0].detach().numpy()
    with torch.no_grad():
        assert np.array_equal(model(x)[0].numpy(), wanted)
        assert name == "two directions" or np.array_equal(model(x[:, :1])[0].numpy(), wanted[:1])
    assert np.array_equal(recorded, wanted)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_every_instruction_set_trains_with_the_same_bits(kind, monkeypatch):
    torch.manual_seed(0)
    model = CASES[kind]()
    cr.Quantize(model, "int4")
    x, outputs = model.inputs(9, 12), []
    for isa in _native.isas():
        monkeypatch.setenv("CRNN_ISA", isa)
        outputs.append(model.eval()(x))
    assert all(torch.equal(y, outputs[0]) for y in outputs)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("bounded", [False, True])
def test_gradients_go_straight_through(kind, bounded):
    torch.manual_seed(0)
    weight = cr.Quantized(kind, bounded).build(33, 70)
    x = torch.rand(4, 5, 70).mul(2).sub(1).requires_grad_()
    rounded = {"int8": quantize_rows, "int4": quantize_groups}[kind](weight.weight.detach().numpy()).dense()
    assert np.array_equal(weight.dense().detach().numpy(), rounded.astype(np.float32))
    largest = x.detach().abs().amax(-1, keepdim=True)
    step = torch.full_like(largest, 1 / 127) if bounded else largest / 127
    x_rounded = x + ((x / step).round() * step - x).detach()
    w_rounded = weight.weight + (torch.from_numpy(rounded).float() - weight.weight).detach()
    y, wanted = weight(x), nn.functional.linear(x_rounded, w_rounded)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
    above = torch.randn_like(y)
    got = torch.autograd.grad((y * above).sum(), [x, weight.weight])
    torch.testing.assert_close(got, torch.autograd.grad((wanted * above).sum(), [x, weight.weight]))


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (0, 6)], ids=str)
def test_what_a_product_gives_may_be_changed_in_place(shape):
    torch.manual_seed(0)
    weight, x = cr.Quantized("int8").build(5, 6), torch.randn(shape, requires_grad=True)
    results = [f(weight(x)) for f in (lambda y: torch.nn.functional.hardtanh_(y, 0, 0.4), lambda y: y.clamp(0, 0.4))]
    assert torch.equal(*results)
    grads = [torch.autograd.grad(y.sum(), [x, weight.weight]) for y in results]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_matrix_that_code_of_the_model_reads_is_refused_with_the_way_out(tmp_path):
    class Reads(Tagger):
        def forward(self, x):
            return self.rnn(self.embedding(x))[0] @ self.embedding.weight.t()

    tokens = torch.randint(0, 30, (2, 9))
    model = Reads(layer(nn.GRU, 20), 20, embedding=True)
    cr.Quantize(model)
    with pytest.raises(AttributeError, match=r"no tensor, and code of the model reads it as one, by t: .*'float32'"):
        model(tokens)
    with pytest.raises(TypeError, match=r"no tensor, .*by matmul"):
        torch.matmul(torch.ones(2, 30), model.embedding.weight)
    model = Reads(layer(nn.GRU, 20), 20, embedding=True)
    cr.Quantize(model, {"embedding": "float32", "*": "int8"})
    model(tokens).sum().backward()
    assert cr.pack(model.eval(), tmp_path / "m.crnn", tokens, calibration=[tokens]).error < 0.02


@pytest.mark.parametrize("name", ["LSTM", "GRU", "MGU", "FSMN"])
def test_the_native_loop_is_the_plain_loop(name):
    torch.manual_seed(0)
    model = CASES[name]().eval()
    cr.Quantize(model, "int4")
    x = model.inputs(3, 20)
    results = []
    for loop in ("native", "plain"):
        with cr.time_loop(loop):
            y = model(x)
            results.append((y, torch.autograd.grad((y * y.detach().cos()).sum(), list(model.parameters()))))
    (y, grads), (plain, wanted) = results
    torch.testing.assert_close(y, plain, rtol=1e-3, atol=1e-3)
    for p, q in zip(grads, wanted, strict=True):
        assert (p - q).norm() <= 1e-2 * q.norm()


def test_the_torch_form_is_the_native_one():
    """In float64, as on other devices, torch computes the same but for its rounding."""
    torch.manual_seed(0)
    weight, x = cr.Quantized("int4").build(20, 30), torch.randn(7, 30)
    x[2] = 0
    torch.testing.assert_close(fake_quant(x.double(), 0.0), fake_quant(x, 0.0).double(), rtol=1e-6, atol=1e-6)
    y = weight(x)
    torch.testing.assert_close(weight.double()(x.double()), y.double(), rtol=1e-5, atol=1e-5)


def test_numbers_that_are_not_finite_are_not_hidden():
    weight = cr.Quantized("int4").build(4, 6)
    with torch.no_grad():
        weight.weight[1, 2] = float("nan")
    y = weight(torch.ones(2, 6))
    assert y[:, 1].isnan().all() and y[:, [0, 2, 3]].isfinite().all()
    assert weight(torch.full((1, 6), float("inf"))).isnan().all()


def test_the_operations_are_sound():
    weight = cr.Quantized("int8").build(5, 6)
    x = torch.randn(3, 6, requires_grad=True)
    dense, packed = torch.ops.compactrnn.quantize_matrix(weight.weight, "int8")
    torch.library.opcheck(quantized_linear, (x, dense.detach(), packed, "int8", 0.0))
    torch.library.opcheck(fake_quant, (x, 0.0))


def test_the_weights_stay_the_same_parameters_and_optimizers_go_on():
    model = CASES["LSTM"]()
    before = {id(p) for p in model.parameters()}
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    quantizer = cr.Quantize(model, "int8")
    assert {id(p) for p in model.parameters()} == before and float(quantizer.penalty()) == 0
    values = [p.detach().clone() for p in model.parameters()]
    trained(model, quantizer, optimizer=optimizer)
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), values, strict=True))
    small = quantizer.shrink(optimizer)
    values = [p.detach().clone() for p in small.parameters()]
    trained(small, optimizer=optimizer)
    assert all(not torch.equal(p, q) for p, q in zip(small.parameters(), values, strict=True))


def test_types_by_name(tmp_path):
    model = CASES["LSTM of tokens"]()
    quantizer = cr.Quantize(model, {"head": "int8", "embedding": "float32", "*": "int4"})
    rows = {m.names[0]: m for m in quantizer.report().matrices}
    types = {name: m.type for name, m in rows.items()}
    assert types == {
        "embedding": "float32",
        "rnn.weight_ih_l0": "int4",
        "rnn.weight_hh_l0": "int4",
        "head": "int8",
    }
    assert rows["embedding"].reason and "float32 is asked for" in str(quantizer.report())
    trained(model, quantizer)
    x = model.inputs(1, 9)
    with pytest.raises(ValueError, match="'int4', which rnn"):
        cr.pack(model, tmp_path / "model.crnn", x, weights={"rnn.weight_hh_*": "int8"})
    report = cr.pack(model, tmp_path / "model.crnn", x, weights={"embedding": "float32"})
    assert report.types == types and report.error == 0.0
    cr.Quantize(model, {"embedding": "int8", "head": "int8", "*": "int4"})  # and one more
    report = cr.pack(model, tmp_path / "whole.crnn", x, weights="float32")
    assert report.types == types | {"embedding": "int8"} and report.error == 0.0
    report = cr.pack(model, tmp_path / "model.crnn", x, weights={"head": "int8"})
    assert report.types == types | {"embedding": "int8"}
    matrices = [rows[name] for name in types if name != "embedding"]
    stored = sum(m.bytes[1] for m in matrices) + 24 * 30
    assert stored < report.bytes < 1.2 * stored + 4096


@pytest.mark.parametrize(
    "weights, options, message",
    [
        ("int3", {}, "weights: expected one of"),
        ("auto", {}, "the type is trained for"),
        ({"tail": "int8"}, {}, "the unknown name 'tail'"),
        ("float32", {}, "no matrix to quantize"),
        ("int8", {"start": -1}, "start: expected an int of 0 or more"),
    ],
)
def test_what_cannot_be_done_is_refused(weights, options, message):
    model = CASES["LSTM"]()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        cr.Quantize(model, weights, **options)
    assert list(model.state_dict()) == before


def test_other_forms_and_layers_stay_as_they_are():
    model = nn.Sequential(cr.Linear(16, 16, weight=cr.LowRank(rank=2)), nn.Linear(16, 4), nn.Conv1d(1, 2, 3))
    report = cr.Quantize(model).report()
    assert [m.type for m in report.matrices] == ["float32", "int8", "float32"]
    assert "quantized when it is packed" in report.matrices[0].reason and "layer" in report.matrices[2].reason
    with pytest.raises(ValueError, match="a matrix that must stay"):
        cr.Quantize(nn.Sequential(cr.Linear(16, 16, weight=cr.LowRank(rank=2))), {"0": "int8"})


def test_a_projection_in_a_structure_stays_as_it_is():
    low_rank = cr.LowRank(rank=2)
    model = nn.ModuleList([cr.LSTM(8, 16, proj_size=6, projection_weight=low_rank)])
    kinds = {m.names[0]: m.reason for m in cr.Quantize(model, "int8").report().matrices}
    assert "LowRank(rank=2)" in kinds["0.weight_hr_l0"]


def test_the_quantization_begins_when_it_is_asked_to():
    torch.manual_seed(0)
    model = CASES["GRU"]().eval()
    x = model.inputs(2, 9)
    plain = model(x)
    quantizer = cr.Quantize(model, "int4", start=2)
    torch.testing.assert_close(model(x), plain)
    with pytest.warns(UserWarning, match="before the quantization begins"):
        assert not torch.allclose(quantizer.shrink()(x), plain, rtol=1e-3, atol=1e-3)
    quantizer.step()
    torch.testing.assert_close(model(x), plain)
    quantizer.step()
    assert not torch.allclose(model(x), plain, rtol=1e-3, atol=1e-3)


def test_a_run_goes_on_from_its_state():
    def begun():
        torch.manual_seed(0)
        model = CASES["LSTM"]()
        return model, cr.Quantize(model, "int4", start=3), torch.optim.Adam(model.parameters(), 1e-2)

    def go(model, quantizer, optimizer, first, last):
        for step in range(first, last):
            torch.manual_seed(step)
            trained(model, quantizer, steps=1, optimizer=optimizer).train()

    whole, half, rest = begun(), begun(), begun()
    go(*whole, 0, 6)
    go(*half, 0, 4)
    for new, old in zip(rest, half, strict=True):
        new.load_state_dict(old.state_dict())
    go(*rest, 4, 6)
    assert all(torch.equal(p, q) for p, q in zip(whole[0].parameters(), rest[0].parameters(), strict=True))
    with pytest.raises(ValueError, match="state of Quantize"):
        rest[1].load_state_dict({})


def test_a_quantized_model_is_saved_and_loaded(tmp_path):
    model = CASES["GRU"]()
    quantizer = cr.Quantize(model, "int4")
    trained(model, quantizer)
    cr.save(model, tmp_path)
    loaded = cr.load(tmp_path, CASES["GRU"]()).eval()
    x = model.inputs(2, 8)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("method", ["GroupLasso", "NeuronSelection", "Magnitude"])
def test_what_was_pruned_is_quantized(method, tmp_path):
    torch.manual_seed(0)
    model = CASES["LSTM"]()
    example = model.inputs(2, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method == "Magnitude":
            pruner = cr.Magnitude(model, {"head": cr.Sparse(keep=0.5)}, steps=3)
        else:
            pruner = getattr(cr, method)(model, example, keep=0.5, steps=3)
        trained(model, pruner)
        small = pruner.shrink()
    quantizer = cr.Quantize(small, "int4")
    trained(small, quantizer)
    x = small.inputs(1, 20)
    report = cr.pack(small, tmp_path / "model.crnn", x, weights="int4", calibration=[x])
    difference = np.abs(engine_outputs(tmp_path / "model.crnn", x) - small(x)[0].detach().numpy()).max()
    if method == "Magnitude":  # the sparse matrix is quantized after the training
        assert report.types["head"] == "int4" and report.made_dense == ("head",) and 0 < difference < 0.1
    else:
        assert report.error == 0.0 and difference == 0
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in CASES["LSTM"]().parameters())


def test_units_are_pruned_before():
    model = CASES["LSTM"]()
    cr.Quantize(model, "int8")
    with pytest.raises(ValueError, match="prune first"):
        cr.GroupLasso(model, model.inputs(2, 9), keep=0.5, steps=3)
