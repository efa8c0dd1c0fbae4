"""Every output of a model is returned under its own name."""

import contextlib
import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr


class Pair(NamedTuple):
    frames: torch.Tensor
    embedding: torch.Tensor


class Returns(nn.Module):
    """LSTMs, the second bidirectional, and what `read(self, x)` returns of them."""

    def __init__(self, read):
        super().__init__()
        self.one = nn.LSTM(6, 8, 2, batch_first=True)
        self.two = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.head, self.read = nn.Linear(8, 3), read

    def forward(self, x):
        return self.read(self, x)


def flat(y, h):
    return (y, *h)


CASES = {
    "a tensor": (lambda m, x: m.one(x)[0], ["output"]),
    "output and states": (lambda m, x: m.one(x), ["output", "h_n", "c_n"]),
    "flat": (lambda m, x: flat(*m.one(x)), ["output", "h_n", "c_n"]),
    "both ways": (lambda m, x: m.two(x), ["output", "h_n", "c_n"]),
    "of two layers": (lambda m, x: (m.one(x), m.two(x)[1]), ["output", "one.h_n", "one.c_n", "two.h_n", "two.c_n"]),
    "a dict": (lambda m, x: {"logits": m.head(m.one(x)[0]), "h": m.one(x)[0]}, ["logits", "h"]),
    "a dict in a tuple": (lambda m, x: (m.one(x)[0], {"states": m.one(x)[1]}), ["output", "states.h_n", "states.c_n"]),
    "a named tuple": (lambda m, x: Pair(m.one(x)[0], m.one(x)[1][0][-1]), ["frames", "embedding"]),
    "one state of two": (lambda m, x: (m.one(x)[0], m.one(x)[1][0][-1]), ["output", "output_1"]),
    "squeezed": (lambda m, x: (m.two(x)[0], m.two(x)[1][0][1].squeeze(0)), ["output", "output_1"]),
    "a mean beside the steps": (lambda m, x: (m.one(x)[0], m.one(x)[0].mean(1)), ["output", "output_1"]),
    "the input": (lambda m, x: (m.one(x)[0], x), ["output", "output_1"]),
    "a parameter": (lambda m, x: {"y": m.one(x)[0], "w": m.head.weight}, ["y", "w"]),
    "the last step at every step": (lambda m, x: m.one(x)[0][:, -1:].expand(-1, x.shape[1], -1), ["output"]),
    "None beside": (lambda m, x: (m.one(x)[0], None), ["output"]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_an_output(tmp_path, name):
    torch.manual_seed(0)
    read, names = CASES[name]
    model, x = Returns(read).eval(), torch.randn(3, 11, 6)
    report = cr.pack(model, tmp_path / "m.crnn", x, weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    assert [o.name for o in engine.outputs] == names and report.left_out == ()
    got = engine.run(x[0].numpy())
    with torch.no_grad():
        wanted = [t for t in torch.utils._pytree.tree_leaves(model(x[:1])) if t is not None]
    for ours, theirs in zip(got if isinstance(got, tuple) else (got,), wanted, strict=True):
        np.testing.assert_allclose(ours.ravel(), theirs.detach().numpy().ravel(), rtol=1e-4, atol=1e-5)


def test_a_stream_gives_states_as_if_the_sequence_ended(tmp_path):
    model, x = Returns(lambda m, x: m.one(x)).eval(), torch.randn(1, 7, 6)
    cr.pack(model, tmp_path / "m.crnn", x, weights="float32")
    stream = cr.Engine(tmp_path / "m.crnn").stream()
    for t in range(7):
        _, h, c = stream.step(x[0, t].numpy())
        with torch.no_grad():
            _, (want_h, want_c) = model(x[:, : t + 1])
        np.testing.assert_allclose(h, want_h[:, 0].numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(c, want_c[:, 0].numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_no_tensor_is_named_in_a_warning(tmp_path):
    model = Returns(lambda m, x: {"y": m.one(x)[0], "steps": x.shape[1], "kind": "lstm"})
    with pytest.warns(UserWarning, match="not among the engine's outputs: steps, kind"):
        report = cr.pack(model, tmp_path / "m.crnn", torch.randn(3, 11, 6), weights="float32")
    assert report.left_out == ("steps", "kind")


def test_the_states_of_a_bare_layer_are_named_in_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="not among the engine's outputs: h_n, c_n"):
        report = cr.pack(nn.LSTM(6, 8), tmp_path / "m.crnn", torch.randn(11, 1, 6), weights="float32")
    assert report.left_out == ("h_n", "c_n") and len(cr.Engine(tmp_path / "m.crnn").outputs) == 1


@pytest.mark.parametrize(("both", "names"), [(False, ["output"]), (True, ["output", "h_n", "c_n"])])
def test_a_bare_layer_leaves_out_the_states_that_its_stream_keeps(tmp_path, both, names):
    layer, x = nn.LSTM(4, 5, batch_first=True, bidirectional=both).eval(), torch.randn(2, 7, 4)
    with contextlib.nullcontext() if both else pytest.warns(UserWarning, match="h_n, c_n"):
        cr.pack(layer, tmp_path / "m.crnn", x, weights="float32")
    assert [o.name for o in cr.Engine(tmp_path / "m.crnn").outputs] == names


@dataclasses.dataclass
class Result:
    frames: torch.Tensor
    rest: dict


class Keyed(OrderedDict):
    """A mapping of a class of its own, as some libraries return."""


RESULTS = {
    "a dataclass": (lambda m, x: Result(m.one(x)[0], {"last": m.one(x)[0][:, -1]}), ["frames", "rest.last"]),
    "a mapping": (lambda m, x: Keyed(logits=m.head(m.one(x)[0])), ["logits"]),
    "a mapping in a tuple": (lambda m, x: (m.one(x)[0], Keyed(logits=m.head(m.one(x)[0]))), ["output", "logits"]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_named_parts_of_objects_are_outputs(tmp_path, name):
    read, names = RESULTS[name]
    model, x = Returns(read).eval(), torch.randn(3, 11, 6)
    cr.pack(model, tmp_path / "m.crnn", x, weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    assert [o.name for o in engine.outputs] == names
    got = engine.run(x[0].numpy())
    got = got if isinstance(got, tuple) else (got,)
    with torch.no_grad():
        result = read(model, x[:1])
    wanted = {
        "a dataclass": lambda: (result.frames, result.rest["last"]),
        "a mapping": lambda: (result["logits"],),
        "a mapping in a tuple": lambda: (result[0], result[1]["logits"]),
    }[name]()
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b[0].numpy(), atol=1e-5)


class Opaque:
    def __init__(self, y):
        self.y = y


@pytest.mark.parametrize(
    ("read", "what"),
    [(lambda m, x: Opaque(m.one(x)[0]), "a Opaque"), (lambda m, x: (m.one(x)[0], Opaque(x)), "a Opaque"),
     (lambda m, x: (m.one(x)[0].shape[1], None), "no tensor")],
)  # fmt: skip
def test_what_holds_no_tensor_that_can_be_found_is_refused(tmp_path, read, what):
    with pytest.raises(cr.UnsupportedModelError, match=f"returns {what}; an engine gives tensors"):
        cr.pack(Returns(read), tmp_path / "m.crnn", torch.randn(1, 7, 6))
