"""Torch's adaptive softmax in packed models."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.file import write

FORMS = {
    "view": lambda layer, h: layer.log_prob(h.flatten(0, 1)).view(*h.shape[:2], -1),
    "unflatten": lambda layer, h: layer.log_prob(h.flatten(0, 1)).unflatten(0, h.shape[:2]),
    "last step": lambda layer, h: layer.log_prob(h[:, -1]),
    "most likely": lambda layer, h: layer.predict(h.flatten(0, 1)).view(*h.shape[:2]),
    "top 5": lambda layer, h: layer.log_prob(h.flatten(0, 1)).topk(5)[1].view(*h.shape[:2], 5),
}


class Model(nn.Module):
    def __init__(self, form="view", bias=False):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(100, 32), nn.GRU(32, 48, batch_first=True)
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(48, 100, [10, 40], div_value=2.0, head_bias=bias)
        self.form = FORMS[form]
        with torch.no_grad():
            for linear in (self.adaptive.head, *(linear for tail in self.adaptive.tail for linear in tail)):
                linear.weight *= 5  # probabilities of very different sizes
            self.adaptive.head.weight[10:] *= 4  # of which the largest are often those of clusters

    def forward(self, x):
        return self.form(self.adaptive, self.rnn(self.embedding(x))[0])


def tokens(rows=1, steps=20):
    return torch.randint(0, 100, (rows, steps))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [False, True])
def test_the_engine_gives_what_torch_does(form, bias):
    torch.manual_seed(0)
    model, x = Model(form, bias).eval(), tokens()
    y = cr.Engine(write(lower(model, x))).run(x[0].numpy())
    with torch.no_grad():
        wanted = model(x)[0].numpy()
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    if form == "view":
        assert np.allclose(np.exp(y).sum(-1), 1, atol=1e-4)
        assert {"head" if token < 10 else "cluster" for token in y.argmax(-1)} == {"head", "cluster"}


@pytest.mark.parametrize("weights, most", [("int8", 0.02), ("int4", 0.15)])
@pytest.mark.filterwarnings("ignore:quantization changes")
def test_its_matrices_are_quantized(weights, most, tmp_path):
    torch.manual_seed(0)
    report = cr.pack(Model(), tmp_path / "model.crnn", tokens(), weights=weights, calibration=[tokens(4, 40)])
    clusters = ["adaptive.head", *(f"adaptive.tail.{i}.{j}" for i in (0, 1) for j in (0, 1))]
    assert report.parity < 1e-5 and report.error < most
    assert [report.types[name] for name in clusters] == [weights] * 5


def test_the_model_stays_torch_s():
    torch.manual_seed(0)
    model, x = Model().train(), tokens()
    lower(model, x)
    assert type(model.adaptive) is nn.AdaptiveLogSoftmaxWithLoss and model.training
    own = [model.adaptive.head.weight, *model.adaptive.tail.parameters()]
    assert all(p.requires_grad for p in own)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_cluster_without_any_input_is_refused():
    model = Model()
    model.adaptive = nn.AdaptiveLogSoftmaxWithLoss(48, 100, [10, 40, 60], div_value=4.0)
    assert model.adaptive.tail[2][0].out_features == 0
    with pytest.raises(cr.UnsupportedModelError, match="cluster 2 has projections of 0 numbers"):
        lower(model, tokens())
