"""Programs with Toeplitz-like matrices."""

import numpy as np

from compactrnn.runtime.gates import gate_rows, padded
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor, Unary
from compactrnn.runtime.toeplitz import ToeplitzBlocks


def toeplitz(rng, units, k, gates=1, rank=2, block=4, interleaved=False):
    """A random matrix whose products with unit vectors have unit variance."""
    values = rng.normal(size=(2, gates * -(-units // k), rank, k)) * rank**-0.25 * k**-0.5
    form = ToeplitzBlocks(gates * units, gates, interleaved)
    return Tensor(values.astype(np.float32), block=block, form=form)


def lstm(n, k, rank, dense=False):
    """x -> an LSTM of n units with Toeplitz-like matrices, or the same ones stored plainly."""
    rng, rows = np.random.default_rng(n), 4 * padded(n)
    tensors = [toeplitz(rng, n, columns, 4, rank, interleaved=True) for columns in (k, n)]
    if dense:
        tensors = [Tensor(t.dense().astype(np.float32), block=4) for t in tensors]
    bias = gate_rows(rng.normal(size=4 * n).astype(np.float32), 4)
    buffers = [Buffer(k, "input"), Buffer(rows, "constant", bias), Buffer(rows), Buffer(n, "state"), Buffer(n, "state")]
    buffers.append(Buffer(n))
    ops = (
        Op(Code.AFFINE, Ref(2), rows, k, a=Ref(0), b=Ref(1), tensor=0, name="lstm.weight_ih_l0"),
        Op(Code.LSTM, Ref(5), n, n, a=Ref(2), b=Ref(4), c=Ref(3), tensor=1, p0=1 / 127, name="lstm.weight_hh_l0"),
        Op(Code.UNARY, Ref(3), n, a=Ref(5), fn=Unary.COPY),
    )
    return Program(buffers, tensors, [Segment("forward", ops)], [Input("x", 0, (k,))], [Output("y", Ref(5), (n,))])
