"""Every operation of a packed model computes what torch computes, NaN and infinity included."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.file import write
from compactrnn.runtime.quantize import quantize

F = nn.functional


class Model(nn.Module):
    """A layer after or before `function`, and layers that functions may use."""

    def __init__(self, function, before=False):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.before = function, before
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.act, self.depthwise, self.grouped = nn.PReLU(8), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 6, 2, groups=2)
        self.norm, self.instance, self.rms = nn.GroupNorm(2, 8), nn.InstanceNorm1d(8), nn.RMSNorm(8)
        self.bilinear, self.weight = nn.Bilinear(8, 8, 3), nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x):
        return self.gru(self.function(self, x))[0] if self.before else self.function(self, 3 * self.gru(x)[0])


def put(x):
    y = x.clone()
    y[..., 0] = 0
    y[..., 1:3] *= 2
    return y


STEPWISE = {
    "prelu": lambda m, x: m.act(x.mT).mT,
    "glu": lambda m, x: F.glu(torch.cat([x, -x], -1), -1),
    "einsum": lambda m, x: torch.einsum("btgi,gio->btgo", x.unflatten(-1, (2, 4)), m.weight).flatten(2),
    "depthwise convolution": lambda m, x: m.depthwise(F.pad(x.mT, (2, 0))).mT,
    "grouped convolution": lambda m, x: m.grouped(F.pad(x.mT, (1, 0))).mT,
    "rearranged groups": lambda m, x: x.view(*x.shape[:2], 2, 4).transpose(2, 3).contiguous().view(x.shape),
    "view of a permuted value": lambda m, x: (x.unflatten(-1, (2, 4)).transpose(2, 3) + 1).reshape(x.shape),
    "normalize": lambda m, x: F.normalize(x, dim=-1),
    "standard deviation": lambda m, x: x.std(-1, keepdim=True) + x.var(-1, unbiased=False, keepdim=True),
    "logsumexp": lambda m, x: x.logsumexp(-1, keepdim=True),
    "running sum over time": lambda m, x: x.cumsum(1),
    "running sum over features": lambda m, x: x.cumsum(-1),
    "clip": lambda m, x: torch.clip(x, -1, 1) + x.clamp(min=torch.tensor(0.5)),
    "one hot": lambda m, x: F.one_hot(x.argmax(-1), 8).float(),
    "bilinear": lambda m, x: m.bilinear(x, x.flip(-1)),
    "group norm of a step": lambda m, x: m.norm(x.flatten(0, 1)).view_as(x),
    "rms norm": lambda m, x: m.rms(x),
    "roll over features": lambda m, x: x.roll(2, -1),
    "reflected": lambda m, x: F.pad(x, (2, 1), mode="reflect"),
    "repeated edges": lambda m, x: F.pad(x, (2, 1), mode="replicate"),
    "circular": lambda m, x: F.pad(x, (2, 1), mode="circular"),
    "gates": lambda m, x: torch.cat([a.sigmoid() * b for a, b in [x.chunk(2, -1), x.split([4, 4], -1)]], -1),
    "unbound": lambda m, x: torch.stack(x.unflatten(-1, (2, 4)).unbind(2), -1).flatten(2),
    "repeated entries": lambda m, x: x.repeat_interleave(2, -1),
    "windows of features": lambda m, x: x.unfold(-1, 3, 2).flatten(2),
    "average pooling": lambda m, x: F.avg_pool1d(F.pad(x.mT, (2, 0)), 3, stride=1).mT,
    "maximum pooling": lambda m, x: F.max_pool1d(F.pad(x.mT, (2, 0), value=-9.0), 3, stride=1).mT,
    "maximum pooling of features": lambda m, x: F.max_pool1d(x, 2),
    "product of two values": lambda m, x: (x.unflatten(-1, (2, 4)) @ x.unflatten(-1, (2, 4)).mT).flatten(2),
    "matrix on the left": lambda m, x: (m.weight[0] @ x.unflatten(-1, (4, 2))).flatten(2),
    "outer product": lambda m, x: (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2),
    "difference of features": lambda m, x: x.diff(dim=-1),
    "written in place": lambda m, x: put(x),
    "norms": lambda m, x: torch.stack([x.norm(dim=-1), x.norm(1, -1), x.abs().amax(-1), x.prod(-1)], -1),
    "similarity": lambda m, x: F.cosine_similarity(x, x.roll(1, -1), -1).unsqueeze(-1),
    "distance": lambda m, x: F.pairwise_distance(x, 2 * x).unsqueeze(-1),
    "looked up": lambda m, x: torch.tensor([[1.0, 2.0], [3.0, 5.0]])[(x[..., 0] > 0).long()],
    "squeezed": lambda m, x: x[..., :1].squeeze(),
    "flat": lambda m, x: x[..., :1].view(-1) + x[..., 1:2].flatten(),
    "shrinking": lambda m, x: (
        F.hardshrink(x) + F.softshrink(x) + F.tanhshrink(x) + F.softsign(x) + F.threshold(x, 0, 2)
    ),
    "powers": lambda m, x: x**5 + (x.abs() + 1) ** -2 + x.abs() ** 0.3 + 2**x + x**0,
    "hyperbolic": lambda m, x: torch.sinh(x) + torch.cosh(x) + torch.logit(x.sigmoid()) + torch.erfc(x),
    "waves": lambda m, x: torch.sin(x) + torch.cos(30 * x),
    "arcs": lambda m, x: torch.atan(x) + torch.asin(x / 4) + torch.acos(x) + torch.tan(x / 2),
    "hyperbolic arcs": lambda m, x: torch.asinh(x) + torch.atanh(x / 2) + torch.acosh(1 + x.abs()),
    "other bases": lambda m, x: torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1) + torch.exp2(x),
}
OFFLINE = {
    "maximum over time": lambda m, x: x.max(1)[0],
    "one step": lambda m, x: x - x[:, 3:4],
    "rolled over time": lambda m, x: x.roll(1, 1),
    "reflected over time": lambda m, x: m.depthwise(F.pad(x.mT, (1, 1), mode="reflect")).mT,
    "minimum over time": lambda m, x: x.min(dim=1).values,
    "pooled to one": lambda m, x: torch.cat(
        [F.adaptive_max_pool1d(x.mT, 1), F.adaptive_avg_pool1d(x.mT, 1)], 1
    ).squeeze(2),
    "pooled over the length": lambda m, x: (
        F.max_pool1d(x.mT, x.size(1)).squeeze(2) + F.avg_pool1d(x.mT, x.size(1))[..., 0]
    ),
    "statistics over time": lambda m, x: torch.cat([x.mean(1), x.std(1), x.var(1, unbiased=False)], -1),
    "instance norm": lambda m, x: m.instance(x.mT).mT,
    "masked mean": lambda m, x: (x * (x[..., :1] > 0)).sum(1) / (x[..., :1] > 0).sum(1).clamp(min=1),
    "attention pooling": lambda m, x: torch.bmm(torch.softmax(x[..., :1], 1).mT, x).squeeze(1),
    "scores of the last step": lambda m, x: (x @ x[:, -1].unsqueeze(-1)).squeeze(-1),
    "one number": lambda m, x: x.max() + x.mean(),
    "place of the largest": lambda m, x: torch.round(x).argmax(1).float(),
    "place of the smallest": lambda m, x: x.argmin(1, keepdim=True) - x,
    "angle": lambda m, x: torch.atan2(x, x.flip(-1).round()),
    "angle to a fixed direction": lambda m, x: torch.atan2(x.abs() - x, x - x[..., :1]),
    "largest and its place": lambda m, x: torch.cat([v.float() for v in x.topk(1, 1)], 1),
}


def engine_of(model, x, weights="float32"):
    return cr.Engine(write(quantize(lower(model, x), weights)))


def assert_same(model, x, tolerance=1e-5, weights="float32"):
    with torch.no_grad():
        want = model.eval()(x)[0] if model(x).dim() > 1 else model(x)
    got = engine_of(model, x[:1], weights).run(x[0].numpy())
    np.testing.assert_allclose(got, want.numpy(), rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", STEPWISE)
def test_operations_of_a_step(name):
    x = torch.randn(1, 11, 8)
    assert_same(Model(STEPWISE[name]), x)
    assert not engine_of(Model(STEPWISE[name]), x).offline


@pytest.mark.parametrize("name", OFFLINE)
def test_operations_over_time(name):
    assert_same(Model(OFFLINE[name]), torch.randn(1, 11, 8))


SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.5, -2.5, 1e9])
ENTRYWISE = {
    "where": lambda x: torch.where(x > 1e-10, torch.log(x), -23.0),
    "nested where": lambda x: torch.where(x.isnan(), 1.0, torch.where(x < 0, -x, x.sqrt())),
    "masked fill": lambda x: x.masked_fill(x <= 0, -1e9),
    "comparisons": lambda x: sum(
        (a.float() * 2**i for i, a in enumerate([x < 1, x <= 1.5, x > 0, x >= 0, x == 1.5, x != 0]))
    ),
    "logical": lambda x: ((x > 0) & (x < 2) | ~(x > -1) ^ (x == 0)).float(),
    "any and all": lambda x: torch.cat([(x > 0).any(-1, True), (x > 0).all(-1, True)], -1).float(),
    "kinds of numbers": lambda x: x.isnan().float() + 2 * x.isinf().float() + 4 * torch.isfinite(x).float(),
    "made finite": lambda x: torch.nan_to_num(x, nan=0.5, posinf=3.0, neginf=-3.0),
    "sign": lambda x: x.sign(),
    "whole numbers": lambda x: torch.stack([x.round(), x.floor(), x.ceil(), x.trunc()], -1).flatten(2),
    "remainders": lambda x: torch.cat([x[..., 5:7] % 0.4, torch.fmod(x[..., 5:7], 0.4), x[..., 3:7] // 2], -1),
    "limits": lambda x: torch.cat([x.clamp(-1, 2), torch.relu(x), F.relu6(x), F.hardtanh(x), F.leaky_relu(x, 0.1)], -1),
    "maximum": lambda x: torch.cat([torch.maximum(x, 1 - x), torch.minimum(x, torch.tensor(0.0))], -1),
    "reductions": lambda x: torch.stack([x[..., 1:].amax(-1), x[..., 3:].amin(-1), x.amax(-1), x.mean(-1)], -1),
    "squashed": lambda x: torch.cat([x.sigmoid(), x.tanh(), F.softplus(x), F.logsigmoid(x), F.elu(x)], -1),
    "casts": lambda x: torch.cat([x.nan_to_num(0, 8, -8).long().float(), x.bool().float(), (x > 0).long() + 1.0], -1),
    "truth values": lambda x: ((x > 0) + (x < 1)).float() * (x == x),
}


class Before(nn.Module):
    """A function of the input, beside a layer that reads something else."""

    def __init__(self, function):
        super().__init__()
        self.function, self.gru = function, nn.GRU(8, 2, batch_first=True)

    def forward(self, x, y):
        return self.function(x), self.gru(y)[0]


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
@pytest.mark.parametrize("name", ENTRYWISE)
def test_entries_of_every_kind(name, weights):
    """NaN, infinities and both zeros, exactly where torch has them, whatever the type of the weights."""
    model = Before(ENTRYWISE[name]).eval()
    x, y = torch.stack([SPECIAL, SPECIAL.roll(1), torch.linspace(-3, 3, 8), -SPECIAL])[None], torch.randn(1, 4, 8)
    engine = cr.Engine(write(quantize(lower(model, (torch.randn(1, 4, 8), y)), weights)))
    got = engine.run((x[0].numpy(), y[0].numpy()))[0]
    np.testing.assert_allclose(got, model(x, y)[0][0].detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
@pytest.mark.parametrize(
    "function", [lambda m, x: x, lambda m, x: torch.where(x > 0, x.log(), -23.0)], ids=["plain", "guarded"]
)
def test_a_nan_and_a_silent_frame_are_as_in_torch(function, weights):
    model, x = Model(function, before=True).eval(), torch.rand(1, 30, 8) + 0.01
    x[0, 7] = 0
    engine = engine_of(model, x, weights)
    want = model(x)[0].detach().numpy()
    assert np.abs(engine.run(x[0].numpy()) - want).max() < {"float32": 1e-5, "int8": 0.05, "int4": 0.3}[weights]
    x[0, 12, 3] = float("nan")
    missing = np.isnan(model(x)[0].detach().numpy())
    assert np.array_equal(np.isnan(engine.run(x[0].numpy())), missing) and missing.any() == (
        function(None, x).isnan().any()
    )


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_masks_of_any_type(kind):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 8, batch_first=True)

        def forward(self, x, mask=None, scale=None):
            h = self.gru(x)[0].masked_fill(mask.unsqueeze(-1) == 0, 0.5)
            return h if scale is None else h * scale

    torch.manual_seed(0)
    model, x, mask = Masked().eval(), torch.randn(2, 9, 4), torch.rand(2, 9) > 0.5
    for given in ((x, mask.to(kind)), {"mask": mask.to(kind), "x": x}, (x, mask.to(kind), None)):
        engine = cr.Engine(write(lower(model, given)))
        assert [i.name for i in engine.inputs] == ["x", "mask"]
        got = engine.run((x[0].numpy(), mask[0].float().numpy()))
        np.testing.assert_allclose(got, model(x, mask)[0].detach().numpy(), atol=1e-5)
