"""Attention over all steps in models of torch and in ONNX files, against torch and onnxruntime."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import compactrnn as cr
from attention_models import ATTENTION, Attending, future, several_heads
from compactrnn.runtime import _native
from compactrnn.runtime.program import Code

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
LENGTHS = (1, 2, 15, 16, 17, 70)


def model_of(function, **options):
    torch.manual_seed(0)
    return Attending(function, **options).eval()


def packed(model, path, weights="float32"):
    cr.pack(model, path, torch.randn(2, 23, 4), weights=weights)
    return cr.Engine(path)


@pytest.mark.parametrize("case", ATTENTION)
def test_it_is_that_of_torch(case, tmp_path):
    model = model_of(ATTENTION[case])
    engine = packed(model, tmp_path / "m.crnn")
    assert engine.offline
    for steps in LENGTHS:
        x = torch.randn(1, steps, 4)
        with torch.no_grad():
            wanted = model(x)[0].numpy()
        np.testing.assert_allclose(engine.run(x[0].numpy()), wanted, atol=2e-6, err_msg=f"{steps} steps")


def test_every_instruction_set_gives_the_same_bits(tmp_path):
    engine = packed(model_of(ATTENTION["block"]), tmp_path / "m.crnn", "int8")
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    found = {cr.Engine(tmp_path / "m.crnn", isa=isa).run(x).tobytes() for isa in _native.isas()}
    assert found == {engine.run(x).tobytes()}


def test_projections_in_int8_are_near_those_in_float32(tmp_path):
    model = model_of(ATTENTION["heads"])
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    exact, small = (packed(model, tmp_path / f"{weights}.crnn", weights).run(x) for weights in ("float32", "int8"))
    assert 0 < np.abs(exact - small).max() < 0.05


def test_a_stream_is_refused_for_the_true_reason(tmp_path):
    engine = packed(model_of(ATTENTION["one head"]), tmp_path / "m.crnn")
    with pytest.raises(cr.UnsupportedModelError, match="because of .*matmul: attention over all steps"):
        engine.stream()


def test_queries_read_keys_and_values_together():
    """Attention is all that its segment does, so that the core takes many queries at once."""
    from compactrnn.lower.lowering import lower

    program = lower(model_of(ATTENTION["block"]), torch.randn(2, 23, 4))
    attending = [s for s in program.segments if any(op.code == Code.ATTEND for op in s.ops)]
    assert [[op.code for op in s.ops] for s in attending] == [[Code.ATTEND] * 2]


def test_within_a_step_there_is_attention_too(tmp_path):
    """Over features, with rows of which all are masked, and a recurrent layer over time."""

    def within(m, h):
        rows = h.unflatten(-1, (4, 2))
        mask = torch.where(h[..., :1, None] > 0, -float("inf"), 0.0).expand(-1, -1, 4, 4)
        return F.scaled_dot_product_attention(rows, rows, rows, attn_mask=mask).flatten(-2)

    model = Attending(within, recurrent=nn.GRU).eval()
    x = torch.randn(1, 30, 4)
    with torch.no_grad():
        np.testing.assert_allclose(packed(model, tmp_path / "m.crnn").run(x[0].numpy()), model(x)[0], atol=2e-6)


def window(steps):
    def near(m, h):
        place = torch.arange(h.shape[1])
        far = (place[:, None] - place).abs() > steps
        return (h @ m.k(h).mT).masked_fill(far, -1e9).softmax(-1) @ h

    return near


def additive(m, h):
    return torch.tanh(m.q(h)[:, :, None] + m.k(h)[:, None]).sum(-1).softmax(-1) @ h


def biased(m, h):
    place = torch.arange(h.shape[1])
    return (h @ h.mT - 0.1 * (place[:, None] - place).abs()).softmax(-1) @ h


REFUSED = {
    "window": (window(5), "a mask with which other steps count than all"),
    "wide window": (window(1000), "a mask with which other steps count than all"),
    "the past": (lambda m, h: (h @ h.mT).masked_fill(future(h).mT, -1e9).softmax(-1) @ h, "other steps count than all"),
    "additive": (additive, "makes numbers of every two steps"),
    "biased by distance": (biased, "sub cannot be lowered; .*softmax"),
    "mask of data": (lambda m, h: (h @ h.mT).masked_fill(h[:, None, :, 0] > 0, -1e9).softmax(-1) @ h, "where cannot"),
    "no softmax": (lambda m, h: h @ h.mT @ h, "matmul: .*softmax"),
    "other weights": (lambda m, h: (h @ h.mT).relu() @ h, "relu cannot be lowered; .*softmax"),
    "softmax by hand": (lambda m, h: (h @ h.mT).exp() @ h, "exp cannot be lowered"),
    "scores given": (lambda m, h: (h @ h.mT).softmax(-1)[..., :8], "softmax|slice"),
    "averaged weights": (lambda m, h: h + m.attention(h, h, h)[1].mean(-1, keepdim=True), "mean cannot be lowered"),
    "backwards": (lambda m, h: (h @ h.mT).flip(-1).softmax(-1) @ h, "softmax: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_more_than_attention_is_refused_with_the_reason(case, tmp_path):
    function, reason = REFUSED[case]
    with pytest.raises(cr.UnsupportedModelError, match=reason):
        packed(model_of(function), tmp_path / "m.crnn")
    assert not (tmp_path / "m.crnn").exists()


# ONNX ---------------------------------------------------------------------------------------------------------


def exported(function, path, opset=17):
    pytest.importorskip("onnx", reason="the importer reads by it")
    axes = {name: {0: "batch", 1: "steps"} for name in ("x", "y")}
    torch.onnx.export(
        model_of(function), (torch.randn(1, 20, 4),), str(path), dynamo=False, opset_version=opset,
        input_names=["x"], output_names=["y"], dynamic_axes=axes,
    )  # fmt: skip
    return path


def same_as_onnxruntime(path, tmp_path, weights="float32", lengths=LENGTHS, **options):
    from onnx_models import session

    cr.pack(path, tmp_path / "m.crnn", weights=weights, **options)
    engine, other = cr.Engine(tmp_path / "m.crnn"), session(path)
    rng = np.random.default_rng(0)
    for steps in lengths:
        x = rng.normal(size=(steps, 4)).astype(np.float32)
        np.testing.assert_allclose(engine.run(x), other.run(None, {"x": x[None]})[0][0], atol=2e-6)
    return engine


# the exporter fixes their sizes, or cannot write them
NOT_EXPORTED = {"MultiheadAttention", "masked MultiheadAttention", "without weights", "encoder layer"}


@pytest.mark.parametrize("case", [case for case in ATTENTION if case not in NOT_EXPORTED])
def test_it_is_that_of_the_file(case, tmp_path):
    assert same_as_onnxruntime(exported(ATTENTION[case], tmp_path / "m.onnx"), tmp_path).offline
