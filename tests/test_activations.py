"""Composed activations, for training and for packing, against torch: values, NaN and infinities, gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import compactrnn as cr
from compactrnn._activations import ACTIVATIONS, power
from compactrnn.emit import pointwise
from compactrnn.emit.builder import STEP, Builder, Operand
from compactrnn.layers.loop.forms import FORMS
from compactrnn.layers.loop.gradient import differentiate
from compactrnn.layers.loop.values import MEANING, Graph, evaluate
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Input, Output

IN_TORCH = {name: getattr(torch, name, None) or getattr(F, name, None) for name in ACTIVATIONS}
IN_TORCH["log_sigmoid"] = F.logsigmoid
CASES: dict[str, tuple[str, tuple, Any]] = {name: (name, (), IN_TORCH[name]) for name in ACTIVATIONS}
CASES |= {
    "gelu by tanh": ("gelu", ("tanh",), lambda x: F.gelu(x, approximate="tanh")),
    "elu of 0.5": ("elu", (0.5, 2.0, 0.3), lambda x: torch.ops.aten.elu(x, 0.5, 2.0, 0.3)),
    "celu of 2": ("celu", (2.0,), lambda x: F.celu(x, 2.0)),
    "leaky_relu of 0.3": ("leaky_relu", (0.3,), lambda x: F.leaky_relu(x, 0.3)),
    "softplus of 2": ("softplus", (2.0,), lambda x: F.softplus(x, 2.0)),
    "hardtanh of -2, 0.5": ("hardtanh", (-2.0, 0.5), lambda x: F.hardtanh(x, -2.0, 0.5)),
    **{f"pow {n}": ("pow", (n,), lambda x, n=n: x**n) for n in (-2, -1, -0.5, 0.5, 1, 2, 3, 4, 7)},
}
POSITIVE = ("log", "sqrt", "pow -", "pow 0.5")  # names of what is no number of a negative one
SPECIAL = [float("nan"), float("inf"), -float("inf"), 0.0, 1.5, -2.5]


def numbers(name: str) -> Tensor:
    x = torch.cat([torch.linspace(-6, 6, 97), torch.tensor([-90.0, -30.0, 30.0, 80.0])])
    x = x[x > 0] if (any(word in name for word in POSITIVE) and name != "log_sigmoid") or name == "rsqrt" else x
    return x[x.abs() < 30] if name in ("sinh", "cosh", "exp2", "expm1") else x


def in_the_loop(name: str, args: tuple, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives."""
    graph = Graph()
    argument = graph.value("projected", width=1)

    class Reader:
        pass

    reader = Reader()
    reader.graph, reader.operand = graph, lambda a, width: argument  # pyright: ignore
    node = next(iter(torch.fx.symbolic_trace(lambda x: x).graph.nodes))
    y = FORMS[name](reader, node, 1, node, *args)
    grad = graph.value("grad", width=1)
    slope = differentiate(graph, [(y, grad)], argument, []).projected
    known = {argument: x[:, None], grad: torch.ones(len(x), 1)}
    made = evaluate([y, slope], known, x)
    return made[0][:, 0], made[1][:, 0]


def on_the_engine(name: str, args: tuple, x: Tensor) -> np.ndarray:
    builder = Builder()
    given = Operand(builder.buffer(len(x), "input"), (len(x),), None, STEP, 0)
    y = pointwise.power(builder, given, *args) if name == "pow" else pointwise.FUNCTIONS[name](builder, given, *args)
    assert y is not None
    program = builder.finish()
    program.inputs.append(Input("x", given.ref.buffer, (len(x),)))
    program.outputs.append(Output("y", y.ref, (len(x),)))
    return cr.Engine(write(program)).run(x[None].numpy())[0]


@pytest.mark.parametrize("name", CASES)
def test_values_and_slopes_in_training_are_those_of_torch(name, monkeypatch):
    monkeypatch.setitem(MEANING, "sigmoid_grad", lambda d, y: d * y * (1 - y))
    monkeypatch.setitem(MEANING, "tanh_grad", lambda d, y: d * (1 - y * y))
    aten, args, function = CASES[name]
    x = numbers(name).requires_grad_()
    expected = function(x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    inside = torch.ones_like(x, dtype=torch.bool)
    if "hard" in name or name == "relu6":  # at the edges torch has a slope of its own for each of them
        inside = torch.stack([(x - edge).abs() > 1e-3 for edge in (-3, -2, -1, 0, 0.5, 1, 3, 6)]).all(0)
    if name in ("softplus", "mish", "log_sigmoid", "softplus of 2"):  # |x| has slope 0 at 0
        inside = x != 0
    with torch.no_grad():
        y, grad = in_the_loop(aten, args, x)
    torch.testing.assert_close(y, expected.detach(), rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(grad[inside], slope[inside], rtol=2e-5, atol=2e-6)
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_values_on_the_engine_are_those_of_torch(name):
    aten, args, function = CASES[name]
    x = torch.cat([numbers(name), torch.tensor(SPECIAL)])
    x = x if aten != "gelu" else x[~x.isinf()]  # of -infinity torch has NaN or 0, by the number of entries
    expected = function(x).numpy()
    np.testing.assert_allclose(on_the_engine(aten, args, x), expected, rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize("exponent", [0, 65, -65, 0.3, float("inf"), float("nan")])
def test_a_power_that_is_not_simple_is_left_to_others(exponent):
    assert power(None, None, exponent) is None  # pyright: ignore


def test_every_activation_is_in_both_tables():
    assert set(ACTIVATIONS) <= set(FORMS) and set(ACTIVATIONS) <= set(pointwise.FUNCTIONS)
