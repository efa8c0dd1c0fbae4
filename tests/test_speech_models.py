"""Models of convolutions and layers over two axes run step by step, as they do in torch."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.engine import Engine
from compactrnn.runtime.file import write
from compactrnn.runtime.quantize import quantize
from speech_models import MODELS, Dual, Front, flat, made


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_gives_what_torch_gives(name):
    model, example, time = made(name)
    program = lower(model, example)
    engine, small = (Engine(write(quantize(program, kind))) for kind in ("float32", "int8"))
    for steps in (1, 2, 5, 19):
        x = torch.randn([1 if d == 0 else steps if d == time else n for d, n in enumerate(example.shape)])
        with torch.no_grad():
            wanted = model(x)
        wanted = wanted[0].movedim(time - 1 if wanted.dim() == x.dim() else 0, 0).numpy()
        sequence, most = x[0].movedim(time - 1, 0).numpy(), np.abs(wanted).max()
        for of, tolerance in ((engine, 1e-5), (small, 0.05)):
            got = steps_of(of, sequence)
            assert np.array_equal(got, of.run(sequence))
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * most)


def steps_of(engine, sequence):
    stream = engine.stream()
    return np.stack([stream.step(x) for x in sequence])


def test_which_axis_is_time_can_be_said(tmp_path):
    model, x, path = Dual(bidirectional=False).eval(), torch.randn(1, 9, 7, 6), tmp_path / "m.crnn"
    with pytest.raises(cr.UnsupportedModelError, match=r"inter runs along axis 1 of x.*pack\(time=1 or time=2\)"):
        cr.pack(model, path, x)
    wanted = model(x)[0].detach().numpy()
    for time in (1, 2, -2):
        cr.pack(model, path, x, weights="float32", time=time)
        got = steps_of(cr.Engine(path), np.moveaxis(x[0].numpy(), time - (time > 0), 0))
        np.testing.assert_allclose(got, np.moveaxis(wanted, time - (time > 0), 0), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"time: expected an axis of x along which recurrent layers run \(1, 2\), got 3"
    ):
        cr.pack(model, path, x, time=3)
    with pytest.raises(ValueError, match="time: expected the number of an axis"):
        cr.pack(model, path, x, time="T")
    both = Dual(bidirectional=True).eval()
    cr.pack(both, path, x, weights="float32", time=2)
    with pytest.raises(cr.UnsupportedModelError, match="intra: bidirectional, so it cannot stream"):
        cr.Engine(path).stream()
    np.testing.assert_allclose(
        cr.Engine(path).run(x[0].transpose(0, 1).numpy()), both(x)[0].transpose(0, 1).detach().numpy(), atol=1e-5
    )


def test_states_of_bands_have_names(tmp_path):
    model, x, path = Dual().eval(), torch.randn(1, 9, 7, 6), tmp_path / "m.crnn"
    cr.pack(model, path, x, weights="float32")
    stream = cr.Engine(path).stream()
    stream.run(x[0].numpy())
    with torch.no_grad():
        y = x + model.fc1(model.intra(x[0])[0])[None]
        last = model.inter(y[0].transpose(0, 1))[1][0]
    np.testing.assert_allclose(stream.get_state("inter.h_l0"), last.numpy(), atol=1e-5)


class Step(nn.Module):
    """One step of a dual path, with the state of every band given."""

    def __init__(self):
        super().__init__()
        self.intra, self.inter = nn.GRU(6, 3, bidirectional=True, batch_first=True), nn.LSTM(6, 4, batch_first=True)

    def forward(self, x, h, c):
        y = x + self.intra(x)[0]
        z, (h, c) = self.inter(y.transpose(0, 1), (h, c))
        return z.transpose(0, 1), h, c


def test_a_step_with_the_states_of_bands(tmp_path):
    model, path = Step().eval(), tmp_path / "m.crnn"
    cr.pack(model, path, (torch.randn(1, 7, 6), *2 * [torch.zeros(1, 7, 4)]), states=["h", "c"], weights="float32")
    stream, xs, h, c = cr.Engine(path).stream(), torch.randn(5, 1, 7, 6), *2 * [torch.zeros(1, 7, 4)]
    for x in xs:
        with torch.no_grad():
            y, h, c = model(x, h, c)
        np.testing.assert_allclose(stream.step(x[0].numpy()), y[0].numpy(), atol=1e-5)


def ahead():
    return Front(lambda m, x: flat(m.layer(x[:, None])), 3 * 8, nn.Conv2d(1, 3, 3, padding=1))


def test_a_convolution_that_looks_ahead_is_refused_by_streams(tmp_path):
    model, x, path = ahead().eval(), torch.randn(1, 9, 8), tmp_path / "m.crnn"
    cr.pack(model, path, x, weights="float32")
    np.testing.assert_allclose(cr.Engine(path).run(x[0].numpy()), model(x)[0].detach().numpy(), atol=1e-5)
    with pytest.raises(cr.UnsupportedModelError, match=r"layer: conv2d, which reads 1 steps ahead .*padded before"):
        cr.Engine(path).stream()


def test_a_step_that_padding_adds_is_cut_off_or_refused(tmp_path):
    layer, x, path = nn.Conv2d(1, 3, (2, 3), padding=1), torch.randn(2, 12, 8), tmp_path / "m.crnn"
    model = Front(lambda m, x: flat(m.layer(x[:, None]).relu())[:, :-1], 3 * 8, layer).eval()
    cr.pack(model, path, x, weights="float32")
    np.testing.assert_allclose(cr.Engine(path).run(x[0].numpy()), model(x)[0].detach().numpy(), atol=1e-5)
    longer = Front(lambda m, x: flat(m.layer(x[:, None]).relu()), 3 * 8, layer)
    with pytest.raises(cr.UnsupportedModelError, match="adds"):
        lower(longer.eval(), x)


def test_the_batch_norm_after_a_convolution_costs_nothing():
    model, x, _ = made("encoder and decoder")
    with_norms = len(lower(model, x).ops)
    for block in model.encoder:
        block.norm = nn.Identity()
    model.norm = nn.Identity()
    assert len(lower(model, x).ops) == with_norms


class Blurred(nn.Module):
    """A dual path of one direction, behind a convolution that reads bands above and below."""

    def __init__(self):
        super().__init__()
        self.conv, self.path = nn.Conv2d(6, 6, (1, 3), padding=(0, 1)), Dual(bidirectional=False)

    def forward(self, x):
        return self.path(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_time_is_the_axis_along_which_a_model_streams():
    program = lower(Blurred().eval(), torch.randn(1, 9, 7, 6))
    assert not program.offline and [i.shape for i in program.inputs] == [(7, 6)]
