"""Programs with sparse matrices."""

from dataclasses import replace

import numpy as np

from compactrnn.runtime.entries import ENTRIES
from compactrnn.runtime.gates import gate_rows, padded
from compactrnn.runtime.program import GATES, Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.rounding import quantize_rows
from compactrnn.runtime.sparse import SPARSE


def sparse(rng, rows, columns, keep=0.3, whole=False, block=4, gates=1):
    """A random matrix with about a part `keep` of its 16 x 4 blocks; rows of several gates lie as in the kernels."""
    shape = -(-rows // 16), -(-columns // 4)
    kept = np.repeat(np.repeat(rng.random(shape) < keep, 16, axis=0), 4, axis=1)[:rows, :columns]
    values = rng.normal(size=(rows, columns)) * kept * columns**-0.5
    values = gate_rows(values, gates) if gates > 1 else values
    tensor = quantize_rows(values, block) if whole else Tensor(values.astype(np.float32), block=block)
    return replace(tensor, form=SPARSE)


def single_entries(n, whole=False):
    """x -> two products with single entries, the second on top of the first."""
    rng, tensors = np.random.default_rng(n), []
    for _ in range(2):
        values = rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.05)
        tensor = quantize_rows(values) if whole else Tensor(values.astype(np.float32))
        tensors.append(replace(tensor, form=ENTRIES))
    ops = (
        Op(Code.AFFINE, Ref(1), n, n, a=Ref(0), tensor=0),
        Op(Code.AFFINE, Ref(1), n, n, a=Ref(2), b=Ref(1), tensor=1),
        Op(Code.UNARY, Ref(2), n, a=Ref(1), fn=Unary.TANH),
    )
    buffers = [Buffer(n, "input"), Buffer(n), Buffer(n, "state")]
    return Program(buffers, tensors, [Segment("forward", ops)], [Input("x", 0, (n,))], [Output("y", Ref(2), (n,))])


def plain(program):
    """The same with every entry stored."""
    return replace(program, tensors=[replace(t, form=None) for t in program.tensors])


def layer(code, n, k, keep=0.3, whole=False):
    """x -> an LSTM or GRU of n units with sparse matrices."""
    rng, gates = np.random.default_rng(n), GATES[code]
    rows = gates * padded(n)
    tensors = [sparse(rng, gates * n, k, keep, whole, 4, gates), sparse(rng, gates * n, n, keep, whole, gates, gates)]
    bias = gate_rows(rng.normal(size=gates * n).astype(np.float32), gates)
    buffers = [Buffer(k, "input"), Buffer(rows, "constant", bias), Buffer(rows), Buffer(n, "state"), Buffer(n, "state")]
    buffers.append(Buffer(n))
    states = {"b": Ref(4)} if code == Code.LSTM else {"d": Ref(3)}
    scale = 1 / 127 if whole else 0.0
    ops = (
        Op(Code.AFFINE, Ref(2), rows, k, a=Ref(0), b=Ref(1), tensor=0, name="rnn.weight_ih_l0"),
        Op(code, Ref(5), n, n, a=Ref(2), c=Ref(3), tensor=1, p0=scale, name="rnn.weight_hh_l0", **states),
        Op(Code.UNARY, Ref(3), n, a=Ref(5), fn=Unary.COPY),
    )
    return Program(buffers, tensors, [Segment("forward", ops)], [Input("x", 0, (k,))], [Output("y", Ref(5), (n,))])
