"""Attention over all steps in models of torch and in ONNX files, against torch and onnxruntime."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import compactrnn as cr
from attention_models import ATTENTION, Attending, future
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
    model = model_of(ATTENTION["one head"])
    model.rnn = nn.LSTM(4, 8, batch_first=True)
    engine = packed(model, tmp_path / "m.crnn")
    with pytest.raises(cr.UnsupportedModelError, match=r"because of .*matmul: attention over all steps"):
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
    "mask of data, then of steps": (
        lambda m, h: (h @ h.mT).masked_fill(h[:, None, :, 0] > 0, -1e9).masked_fill(future(h), -1e9).softmax(-1) @ h,
        "expected -infinity, for the steps to come last",
    ),
    "mask of steps, then of data": (
        lambda m, h: (
            (h @ h.mT).masked_fill(future(h), -torch.inf).masked_fill(h[:, None, :, 0] > 0, -1e9).softmax(-1) @ h
        ),
        "expected -infinity, for the steps to come last",
    ),
    "mask of data of every two steps": (
        lambda m, h: (h @ h.mT).masked_fill(h[:, None, :, 0] > h[..., :1], -1e9).softmax(-1) @ h,
        "makes numbers of every two steps",
    ),
    "mask of both, of finite numbers": (
        lambda m, h: (h @ h.mT).masked_fill((h[:, None, :, 0] > 0) | future(h), -1e9).softmax(-1) @ h,
        "expected -infinity",
    ),
    "mask of data and steps that is otherwise combined": (
        lambda m, h: (h @ h.mT).masked_fill((h[:, None, :, 0] > 0) & future(h), -torch.inf).softmax(-1) @ h,
        "masked for the steps to come",
    ),
    "mask of queries, zeros where there is no step": (
        lambda m, h: F.scaled_dot_product_attention(h, h, h, attn_mask=h[:, :, None, 0] > 0),
        "taken of masks of keys alone; write the attention out",
    ),
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


def heads_of(x):
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def attended(function):
    """Two heads; `function` of the model, h and the scores, (1, 2, steps, steps)."""

    def run(m, h):
        x = heads_of(h)
        return (function(h, x @ x.transpose(-1, -2) / 2).softmax(-1) @ x).transpose(1, 2).flatten(2)

    return run


def padding(h):
    return h[..., 0] > 0.1


def fused(mask):
    """Two heads; `mask` of h, of the keys."""

    def run(m, h):
        x = heads_of(h)
        return F.scaled_dot_product_attention(x, 2 * x, x.flip(-1), attn_mask=mask(h)).transpose(1, 2).flatten(2)

    return run


MASKS = {
    "-infinity": attended(lambda h, s: s.masked_fill(padding(h)[:, None, None], -torch.inf)),
    "a low number": attended(lambda h, s: s.masked_fill(padding(h)[:, None, None], -1e9)),
    "the lowest number": attended(lambda h, s: s.masked_fill(padding(h)[:, None, None], torch.finfo(s.dtype).min)),
    "where": attended(lambda h, s: torch.where(padding(h)[:, None, None], s, -torch.inf)),
    "added": attended(lambda h, s: s + padding(h).float()[:, None, None] * -1e9),
    "taken away, scaled later": attended(lambda h, s: (s - padding(h).float()[:, None, None] * 1e9) / 3),
    "a bias for each key": attended(lambda h, s: s + 3 * h[:, None, None, :, 1]),
    "a bias for each head": attended(lambda h, s: s + 3 * h[..., :2].transpose(1, 2)[:, :, None]),
    "of queries": attended(lambda h, s: s.masked_fill(padding(h)[:, None, :, None], -1e9)),
    "turned": attended(
        lambda h, s: s.transpose(-1, -2).masked_fill(padding(h)[:, None, :, None], -1e9).transpose(-1, -2)
    ),
    "steps to come too": attended(
        lambda h, s: s.masked_fill(padding(h)[:, None, None], -1e9).masked_fill(future(h), -torch.inf)
    ),
    "after the steps to come": attended(
        lambda h, s: s.masked_fill(future(h), -torch.inf).masked_fill(padding(h)[:, None, None], -torch.inf)
    ),
    "two masks": attended(lambda h, s: s.masked_fill(padding(h)[:, None, None], -1e9) + h[:, None, None, :, 1]),
    "one of both": attended(lambda h, s: s.masked_fill(padding(h)[:, None, None] | future(h), -torch.inf)),
    "one of what counts": attended(
        lambda h, s: torch.where((~padding(h)[:, None, None]).logical_and(~future(h)), s, -torch.inf)
    ),
    "added as one": attended(
        lambda h, s: s + (h[:, None, None, :, 1] + torch.zeros_like(s[0, 0]).masked_fill(future(h), -torch.inf))
    ),
    "MultiheadAttention": lambda m, h: m.attention(h, h, h, attn_mask=future(h), key_padding_mask=padding(h))[0],
}
SAFE = {  # zeros where no step counts
    "one head": lambda m, h: F.scaled_dot_product_attention(h, h, h, attn_mask=~padding(h)[:, None]),
    "two heads": fused(lambda h: ~padding(h)[:, None, None]),
    "added numbers": fused(lambda h: h[:, None, None, :, 1].masked_fill(padding(h)[:, None, None], -torch.inf)),
    "low numbers": fused(lambda h: padding(h)[:, None, None] * -1e9),
    "for each head": fused(lambda h: h[..., :2].transpose(1, 2)[:, :, None] < 0.1),
    "of steps to come too": fused(lambda h: ~(padding(h)[:, None, None] | future(h))),
    "without weights": lambda m, h: m.attention(
        h, h, h, attn_mask=future(h), key_padding_mask=padding(h), need_weights=False
    )[0],
    "encoder layer": lambda m, h: m.block(h, src_mask=future(h), src_key_padding_mask=padding(h)),
}
LOW = {
    *SAFE,
    "a low number",
    "taken away, scaled later",
    "the lowest number",
    "added",
    "of queries",
    "turned",
    "steps to come too",
    "two masks",
}


def same_with_masks(path, wanted, case):
    """At each length, and where no step, or the first, or the last, counts."""
    engines, nans = [cr.Engine(path, isa=isa) for isa in _native.isas()], 0
    for steps in LENGTHS:
        x = torch.randn(1, steps, 4)
        for rows in (x, x.abs() + 3, -x.abs() - 3, torch.cat([x.abs() + 3, -x], 1)):
            y = wanted(rows)
            first, *others = (engine.run(rows[0].numpy()) for engine in engines)
            assert all(np.array_equal(first, other, equal_nan=True) for other in others)
            np.testing.assert_allclose(first, y, atol=3e-6, err_msg=f"{steps} steps")
            nans += np.isnan(y).sum()
    assert not nans or case not in LOW


@pytest.mark.parametrize("case", [*MASKS, *SAFE])
def test_a_mask_of_data_is_that_of_torch(case, tmp_path):
    model = model_of({**MASKS, **SAFE}[case])
    packed(model, tmp_path / "m.crnn")
    same_with_masks(tmp_path / "m.crnn", lambda x: model(x)[0].detach().numpy(), case)


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


JOINED = ("of steps to come too", "without weights", "encoder layer")  # masks of every two steps made of several


def test_joined_masks_of_a_file_are_refused(tmp_path):
    path = exported(SAFE["of steps to come too"], tmp_path / "m.onnx")
    with pytest.raises(cr.UnsupportedModelError, match="numbers of every two steps"):
        cr.pack(path, tmp_path / "m.crnn")


@pytest.mark.parametrize("case", ["without weights", "encoder layer"])
def test_joined_masks_of_one_size_are_those_of_one_step(case, tmp_path):
    """Their exporter writes the number of steps into the file. A row in which no step counts is NaN."""
    from onnx_models import session

    path = exported(SAFE[case], tmp_path / "m.onnx")
    with pytest.warns(UserWarning, match="a call of it is one step of the engine"):
        cr.pack(path, tmp_path / "m.crnn", weights="float32")
    x = torch.randn(20, 4).numpy()
    wanted = session(path).run(None, {"x": x[None]})[0][0]
    np.testing.assert_allclose(cr.Engine(tmp_path / "m.crnn").stream().step(x), wanted, atol=3e-6)
    with pytest.raises(ValueError, match=r"quantization error: .*infinite or NaN"):
        cr.pack(path, tmp_path / "m.crnn")


@pytest.mark.parametrize(
    "case",
    [
        *("-infinity", "a low number", "where", "added", "a bias for each head", "steps to come too"),
        *(case for case in SAFE if case not in JOINED and case != "added numbers"),  # of which the exporter leaves NaN
    ],
)
def test_a_mask_of_data_is_that_of_the_file(case, tmp_path):
    from onnx_models import session

    path = exported({**MASKS, **SAFE}[case], tmp_path / "m.onnx")
    cr.pack(path, tmp_path / "m.crnn", weights="float32")
    runtime = session(path)
    same_with_masks(tmp_path / "m.crnn", lambda x: runtime.run(None, {"x": x.numpy()})[0][0], case)


def test_a_mask_may_be_an_input(tmp_path):
    """Which steps count, as a flag for each."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 8, batch_first=True)

        def forward(self, x, mask):
            h = self.rnn(x)[0]
            return (h @ h.transpose(1, 2)).masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ h

    model, given = Masked().eval(), (torch.randn(1, 20, 4), torch.rand(1, 20) > 0.3)
    cr.pack(model, tmp_path / "m.crnn", given, weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    for steps in LENGTHS:
        x, mask = torch.randn(1, steps, 4), torch.rand(1, steps) > 0.3
        wanted = model(x, mask)[0].detach().numpy()
        np.testing.assert_allclose(engine.run((x[0].numpy(), mask[0].numpy())), wanted, atol=2e-6)


def made(path, nodes, constants=None, width=8):
    """A GRU along the axis T of x, then `nodes` from h, (T, 1, 8), to y, (T, 8)."""
    from onnx_models import node, save, tensor

    rng = np.random.default_rng(0)
    stored = {"W": rng.normal(size=(1, 24, 4)) / 2, "R": rng.normal(size=(1, 24, 8)) / 3}
    before = [
        node("Squeeze", ["x", "i0"], ["sequence"]), node("Unsqueeze", ["sequence", "i1"], ["steps"]),
        node("GRU", ["steps", "W", "R"], ["gru", ""], hidden_size=8, linear_before_reset=1),
        node("Squeeze", ["gru", "i1"], ["h"], name="squeeze_h"),
        node("Transpose", ["h"], ["b"], perm=[1, 0, 2], name="batch_first"),
    ]  # fmt: skip
    after = [node("Unsqueeze", ["rows", "i0"], ["y"], name="give")]
    constants = {k: np.asarray(v, np.float32) for k, v in stored.items()} | (constants or {})
    constants |= {"i0": np.array([0]), "i1": np.array([1])}
    inputs, outputs = [tensor("x", [1, "T", 4])], [tensor("y", [1, "T", width])]
    return save(path, [*before, *nodes, *after], inputs, outputs, constants, opset=23)


OPERATOR = {
    "one head": {"q_num_heads": 1, "kv_num_heads": 1},
    "heads": {"q_num_heads": 4, "kv_num_heads": 4},
    "causal": {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1},
    "scale": {"q_num_heads": 2, "kv_num_heads": 2, "scale": 0.2},
}


@pytest.mark.parametrize("case", OPERATOR)
def test_the_operator_attention_is_that_of_onnxruntime(case, tmp_path):
    pytest.importorskip("onnx", reason="the importer reads by it")
    from onnx_models import node

    nodes = [
        node("Attention", ["b", "b", "b"], ["a"], **OPERATOR[case]),
        node("Squeeze", ["a", "i0"], ["rows"], "last"),
    ]
    engine = same_as_onnxruntime(made(tmp_path / "m.onnx", nodes), tmp_path)
    assert engine.offline


def test_the_operator_attention_with_a_condition_of_data(tmp_path):
    """A step counts as a key where its first number is low; onnxruntime takes no mask for all queries at once."""
    reference = pytest.importorskip("onnx.reference", reason="the importer reads by it")
    from onnx_models import node

    nodes = [
        node("Slice", ["b", "i0", "i1", "i2"], ["first"]), node("Less", ["first", "high"], ["low"]),
        node("Transpose", ["low"], ["keys"], perm=[0, 2, 1], name="keys"),
        node("Attention", ["b", "b", "b", "keys"], ["a"], q_num_heads=2, kv_num_heads=2),
        node("Squeeze", ["a", "i0"], ["rows"], "last"),
    ]  # fmt: skip
    path = made(tmp_path / "m.onnx", nodes, {"high": np.float32(0.3), "i2": np.array([2])})
    with pytest.warns(UserWarning, match="not compared"):
        cr.pack(path, tmp_path / "m.crnn", weights="float32")
    engine, other = cr.Engine(tmp_path / "m.crnn"), reference.ReferenceEvaluator(str(path))
    for steps in (9, 30):
        x = np.random.default_rng(steps).normal(size=(steps, 4)).astype(np.float32)
        (wanted,) = other.run(None, {"x": x[None]})
        np.testing.assert_allclose(engine.run(x), wanted[0], atol=2e-6)


def test_the_operator_attention_in_four_axes_with_shared_keys(tmp_path):
    pytest.importorskip("onnx", reason="the importer reads by it")
    from onnx_models import node

    nodes = [
        node("Reshape", ["b", "split"], ["s"]), node("Transpose", ["s"], ["q"], perm=[0, 2, 1, 3], name="heads"),
        node("Slice", ["q", "i0", "i2", "i1"], ["k"]), node("Attention", ["q", "k", "k"], ["a"], is_causal=1),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3], name="together"),
        node("Reshape", ["t", "flat"], ["rows"], name="rows"),
    ]  # fmt: skip
    constants = {"split": np.array([1, -1, 4, 2]), "flat": np.array([-1, 8]), "i2": np.array([2])}
    assert same_as_onnxruntime(made(tmp_path / "m.onnx", nodes, constants), tmp_path).offline


FILES = {
    "another activation": (["Relu"], "Relu"),
    "no softmax": ([], "MatMul"),
    "softmax twice": (["Softmax", "Softmax"], "Softmax"),
    "an exponential": (["Exp"], "Exp"),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_more_than_attention_in_a_file_is_refused_with_node_and_reason(case, tmp_path):
    pytest.importorskip("onnx", reason="the importer reads by it")
    from onnx_models import node

    between, blamed = FILES[case]
    nodes = [
        node("Transpose", ["b"], ["bt"], perm=[0, 2, 1], name="turn"),
        node("MatMul", ["b", "bt"], ["s0"], "scores"),
    ]
    for i, op in enumerate(between):
        nodes.append(node(op, [f"s{i}"], [f"s{i + 1}"], f"{op}{i}".lower()))
    nodes += [node("MatMul", [f"s{len(between)}", "b"], ["a"], "weigh"), node("Squeeze", ["a", "i0"], ["rows"], "last")]
    with pytest.raises(cr.UnsupportedModelError, match=f"(?i)^(?=.*{blamed}).*attention") as caught:
        cr.pack(made(tmp_path / "m.onnx", nodes), tmp_path / "m.crnn")
    assert "imports the part" in str(caught.value) and not (tmp_path / "m.crnn").exists()


def test_a_mask_of_a_window_in_a_file_is_refused(tmp_path):
    """It is made of the number of steps, and leaves out nothing of a short sequence."""

    def near(m, h):
        late = torch.triu(torch.ones(h.shape[1], h.shape[1], dtype=torch.bool), 400)
        return (h @ h.transpose(1, 2)).masked_fill(late, -1e9).softmax(-1) @ h

    with pytest.raises(cr.UnsupportedModelError, match="other steps count than all"):
        cr.pack(exported(near, tmp_path / "m.onnx"), tmp_path / "m.crnn")
