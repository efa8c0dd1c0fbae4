"""Layer norms that a model writes out in single steps become one operation, and only those."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.emit.builder import STEP, Builder, Operand
from compactrnn.lower import lower
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Code, Input, Output, Ref, Unary


class Written(nn.Module):
    """A recurrent layer and a norm of its 36 outputs, as 3 rows of 12."""

    def __init__(self, norm):
        super().__init__()
        self.rnn, self.norm = nn.GRU(5, 36, batch_first=True), norm

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.norm(y.unflatten(-1, (3, 12)))


def of_all(y):
    mean = y.mean((-2, -1), keepdim=True)
    return (y - mean) / (((y - mean) ** 2).mean((-2, -1), keepdim=True) + 1e-5).sqrt()


def of_rows(y):
    centered = y - y.mean(-1, keepdim=True)
    return centered * (centered * centered).mean(-1, keepdim=True).add(1e-3).rsqrt()


def without_epsilon(y):
    centered = y - y.mean(-1, keepdim=True)
    return centered / centered.square().mean(-1, keepdim=True).sqrt()


def unbiased(y):
    centered = y - y.mean(-1, keepdim=True)
    return centered / ((centered**2).sum(-1, keepdim=True) / 11 + 1e-5).sqrt()


def outside_the_root(y):
    centered = y - y.mean(-1, keepdim=True)
    return centered / ((centered**2).mean(-1, keepdim=True).sqrt() + 1e-5)


def of_another(y):
    centered = y - y.mean(-1, keepdim=True)
    return centered / ((y**2).mean(-1, keepdim=True) + 1e-5).sqrt()


def mean_of_all(y):
    centered = y - y.mean((-2, -1), keepdim=True)
    return centered / ((centered**2).mean(-1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("norm", "found"),
    [
        (of_all, True),
        (of_rows, True),
        (without_epsilon, True),
        (unbiased, False),
        (outside_the_root, False),
        (of_another, False),
        (mean_of_all, False),
    ],
)
def test_a_norm_is_recognized_and_gives_what_torch_gives(norm, found, tmp_path):
    torch.manual_seed(0)
    model = Written(norm)
    program = lower(model, torch.randn(1, 6, 5))
    assert any(op.code == Code.LAYER_NORM for op in program.ops) is found
    report = cr.pack(model, tmp_path / "model.crnn", torch.randn(1, 6, 5), weights="float32")
    assert report.parity < 1e-5


def test_a_number_that_changes_in_between_is_no_norm():
    build = Builder()
    x = Operand(build.buffer(4, "input"), (4,), None, STEP, 0)
    held = build.unary(Unary.COPY, x)

    def mean(of: Operand) -> Operand:
        total = build.compute(Code.REDUCE, [of], of, width=1, a=of.ref, k=4)
        return build.unary(Unary.SCALE_SHIFT, replace(total, shape=(1,)), 0.25)

    middle = mean(held)
    build.emit(Code.UNARY, held.ref, 4, a=held.ref, fn=int(Unary.SCALE_SHIFT), p0=2.0, p1=0.0)
    centered = build.compute(Code.BINARY, [held, middle], held, a=held.ref, b=middle.ref, fn=1, k=1)
    squares = build.compute(Code.BINARY, [centered], held, a=centered.ref, b=centered.ref, fn=2, k=4)
    root = build.unary(Unary.SQRT, mean(squares))
    y = build.compute(Code.BINARY, [centered, root], held, a=centered.ref, b=root.ref, fn=3, k=1)
    program = build.finish()
    program.inputs.append(Input("x", x.ref.buffer, (4,)))
    program.outputs.append(Output("y", Ref(y.ref.buffer), (4,)))
    assert not any(op.code == Code.LAYER_NORM for op in program.ops)
    given = np.arange(4)
    wanted = (2 * given - 1.5) / np.sqrt(np.mean((2 * given - 1.5) ** 2))
    assert np.allclose(cr.Engine(write(program)).run(given[None].astype(np.float32))[0], wanted, atol=1e-6)
