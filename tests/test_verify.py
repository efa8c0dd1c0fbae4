"""`pack` compares with torch, and refuses what is not the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.lower.lowering import lower_model
from compactrnn.lower.reference import Reference
from compactrnn.lower.verify import verify
from compactrnn.runtime.file import write
from compactrnn.runtime.quantize import quantize

F = nn.functional


class Reads(nn.Module):
    """A GRU, (batch, T, 6) to (batch, T, 8), whose outputs are used by `read(self, x, h)`."""

    def __init__(self, read=lambda m, x, h: h):
        super().__init__()
        self.gru, self.head, self.read = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 8), read

    def forward(self, x):
        return self.read(self, x, self.gru(x)[0])


def refused(path, model, x, match):
    with pytest.raises(cr.UnsupportedModelError, match=match):
        cr.pack(model, path / "m.crnn", x, weights="float32")
    assert not list(path.iterdir())


def test_the_report_says_what_was_compared(tmp_path):
    model, x = Reads(), torch.randn(2, 11, 6)
    report = cr.pack(model, tmp_path / "m.crnn", x, calibration=[x, torch.randn(3, 40, 6)])
    checks = {check.what: check for check in report.checks}
    assert {what: check.steps for what, check in checks.items()} == {
        "the example": 22,
        "a longer sequence": 25,
        "other lengths": 1,
        "zeros": 25,
        "large inputs": 25,
        "calibration": 22 + 120,
    }
    assert all(check.error <= 1e-4 and not check.skipped for check in checks.values())
    assert report.parity == max(c.error for what, c in checks.items() if what != "large inputs") < 1e-5
    noted = cr.Engine(tmp_path / "m.crnn").metadata["pack"]
    error = pytest.approx(report.checks[0].error, rel=1e-3)
    assert noted["checks"][0] == {"what": "the example", "steps": 22, "error": error}


def test_the_error_is_that_against_torch(tmp_path):
    torch.manual_seed(0)
    model, x = Reads(lambda m, x, h: m.head(h)).eval(), torch.randn(4, 30, 6)
    report = cr.pack(model, tmp_path / "m.crnn", x, calibration=[x])
    engine = cr.Engine(tmp_path / "m.crnn")
    got = np.stack([engine.run(row) for row in x.numpy()])
    want = model(x).detach().numpy()
    assert report.error == pytest.approx(np.linalg.norm(got - want) / np.linalg.norm(want), rel=1e-3)


def test_each_step_and_model_is_exported_once(tmp_path, monkeypatch):
    count, export = [], torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda module, *a, **k: (count.append(module), export(module, *a, **k))[1]
    )
    model, x = cr.Recurrent(cr.IndRNN, 6, 8, 5, batch_first=True), torch.randn(2, 9, 6)
    with pytest.warns(UserWarning, match=r"h_n .a stream keeps"):
        cr.pack(model, tmp_path / "m.crnn", x, calibration=[x])
    assert len(count) == 3  # the model, the step of the first layer, the step of the four others
    outputs = cr.Engine(tmp_path / "m.crnn").run(x[0].numpy())
    np.testing.assert_allclose(outputs, model.eval()(x)[0][0].detach().numpy(), rtol=0.1, atol=0.05)


def test_cells_of_other_options_do_not_share_a_step():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            options = ("relu", "tanh")
            self.rnns = nn.ModuleList(cr.Recurrent(cr.IndRNN, 6, 6, nonlinearity=n, batch_first=True) for n in options)

        def forward(self, x):
            return torch.cat([rnn(x)[0] for rnn in self.rnns], -1)

    model, x = Two().eval(), torch.randn(1, 9, 6)
    engine = cr.Engine(write(quantize(lower_model(model, x).program, "float32")))
    np.testing.assert_allclose(engine.run(x[0].numpy()), model(x)[0].detach().numpy(), rtol=1e-4, atol=1e-5)


def checked(lowered, program):
    return verify(Reference(lowered), cr.Engine(write(quantize(program, "float32"))), [lowered.example])


def test_a_wrong_program_is_refused_with_output_step_and_amount():
    torch.manual_seed(0)
    lowered = lower_model(Reads(lambda m, x, h: {"a": h, "b": m.head(h)}), torch.randn(2, 11, 6))
    checked(lowered, lowered.program)
    biases = [b.kind == "constant" and b.width == 8 for b in lowered.program.buffers]
    wrong = [replace(b, init=b.init + 1e-3) if w else b for b, w in zip(lowered.program.buffers, biases, strict=True)]
    with pytest.raises(
        cr.UnsupportedModelError, match=r"output '[ab]'.* from step \d+ of 11 on, on the example, by 0.00"
    ):
        checked(lowered, replace(lowered.program, buffers=wrong))


@pytest.mark.parametrize("seed", range(3))
def test_what_float32_itself_loses_is_accepted_and_what_is_wrong_is_not(seed):
    """A chaotic network: in float32, torch itself is soon far from float64."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 24), nn.RNN(24, 24, batch_first=True)).double().eval()
    with torch.no_grad():
        model[1].weight_hh_l0.normal_(0, 3 / 24**0.5)
        x = torch.randn(1, 120, 4, dtype=torch.float64)
        exact, rounded = model(x)[0], model.float()(x.float())[0]
    assert (exact - rounded).abs().max() > 1e-2
    lowered = lower_model(model, x)
    assert max(check.error for check in checked(lowered, lowered.program)) > 1e-4
    tensors = [replace(t, values=t.values * np.float32(1.0005)) for t in lowered.program.tensors]
    with pytest.raises(cr.UnsupportedModelError, match="differs from torch from step"):
        checked(lowered, replace(lowered.program, tensors=tensors))


def test_small_outputs_are_compared_by_their_own_size():
    lowered = lower_model(Reads(lambda m, x, h: m.head(h) * 1e-6), torch.randn(2, 11, 6))
    checked(lowered, lowered.program)
    tensors = [replace(t, values=t.values * np.float32(1.01)) for t in lowered.program.tensors]
    with pytest.raises(cr.UnsupportedModelError, match="differs from torch"):
        checked(lowered, replace(lowered.program, tensors=tensors))


def test_infinite_and_no_numbers_are_compared(tmp_path):
    """On zeros, log gives -inf and its product with zero NaN: the same in both."""
    model, x = Reads(lambda m, x, h: torch.log(x[..., :1]) + x[..., 1:2] / x[..., 2:3]), torch.rand(2, 11, 6) + 0.1
    report = cr.pack(model, tmp_path / "m.crnn", x, weights="float32")
    assert report.parity < 1e-5
    silence = np.zeros((3, 6), np.float32)
    assert np.isnan(cr.Engine(tmp_path / "m.crnn").run(silence)).all()


def test_a_model_of_limited_length_packs_with_a_warning(tmp_path):
    def limited(m, x, h):
        if x.shape[1] > 20:
            raise ValueError("at most 20 steps")
        return h

    with pytest.warns(UserWarning, match="a longer sequence: the model refuses it: at most 20 steps"):
        report = cr.pack(Reads(limited), tmp_path / "m.crnn", torch.randn(2, 11, 6), weights="float32")
    skipped = [check.what for check in report.checks if check.skipped]
    assert skipped == ["a longer sequence"] and report.checks[1].error is None


def attended(h):
    """Every sequence depends on all sequences of the batch."""
    weights = torch.einsum("btf,ctf->btc", h, h).softmax(-1)
    return torch.einsum("btc,ctf->btf", weights, h)


POOLED = {
    "by their mean": (lambda m, x, h: m.head(h - h.mean(0)), "before head"),
    "by their maximum": (lambda m, x, h: torch.cat([h, h.amax(0, keepdim=True).expand_as(h)], -1), "Reads"),
    "by their order": (lambda m, x, h: h + h.flip(0), "Reads"),
    "by a softmax": (lambda m, x, h: torch.softmax(h, 0), "Reads"),
    "by attention": (lambda m, x, h: attended(h), "Reads"),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", POOLED)
def test_sequences_that_depend_on_each_other_are_refused(tmp_path, name, batch):
    read, where = POOLED[name]
    if (name, batch) != ("by attention", 1):
        refused(
            tmp_path, Reads(read), torch.randn(batch, 11, 6), f"{where}: the sequences of a batch depend on each other|"
        )


class Keeps(nn.Module):
    """Keeps a value from call to call."""

    def __init__(self, kind):
        super().__init__()
        self.gru, self.kind, self.hidden, self.cache = nn.GRU(6, 8, batch_first=True), kind, None, {}
        self.count = nn.Buffer(torch.zeros(1))

    def forward(self, x):
        if self.kind == "state":
            y, self.hidden = self.gru(x, self.hidden)
        elif self.kind == "state in a dict":
            y, self.cache["h"] = self.gru(x, self.cache.get("h"))
        elif self.kind == "buffer":
            self.count += 1
            y = self.gru(x)[0] * self.count
        elif self.kind == "noise":
            y = self.gru(x)[0] + torch.randn(8)
        return y


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("state", "self.hidden: kept from one call"),
        ("state in a dict", "self.cache: kept from one call"),
        ("buffer", "self.count: kept from one call"),
        ("noise", "Keeps: returns something else"),
    ],
)
def test_what_is_kept_from_call_to_call_is_refused_by_name(tmp_path, kind, message):
    model = Keeps(kind)
    refused(tmp_path, model, torch.randn(2, 11, 6), message)
    assert model.hidden is None and not model.cache and model.count == 0


def test_features_that_are_kept_and_not_read_do_no_harm(tmp_path):
    def keep(m, x, h):
        m.features = h
        return m.head(h)

    model, x = Reads(keep), torch.randn(2, 11, 6)
    model(x).sum().backward()
    assert cr.pack(model, tmp_path / "m.crnn", x, weights="float32").parity < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_precision_pack(tmp_path, dtype):
    def read(m, x, h):
        return m.head(h) + torch.zeros(8, dtype=x.dtype)

    torch.manual_seed(0)
    model, x = Reads(read).eval().to(dtype), torch.randn(2, 11, 6).to(dtype)
    cr.pack(model, tmp_path / "m.crnn", x, calibration=[x])
    got = cr.Engine(tmp_path / "m.crnn").run(x[0].float().numpy())
    assert model.head.weight.dtype == dtype
    np.testing.assert_allclose(got, model.float()(x.float())[0].detach().numpy(), atol=0.02)


@pytest.mark.parametrize("scale", [lambda x: x.abs().max(), lambda x: x.abs().amax(0, keepdim=True)])
def test_a_scale_of_the_whole_batch_is_found_in_any_row(tmp_path, scale):
    model = Reads(lambda m, x, h: m.gru(x / scale(x))[0])
    with pytest.raises(cr.UnsupportedModelError, match="the sequences of a batch depend on each other"):
        cr.pack(model, tmp_path / "m.crnn", torch.randn(4, 11, 6), weights="float32")
