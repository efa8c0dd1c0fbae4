"""Equations of cells, written down once more: a vector each for the input and the states of one sequence.

`EQUATIONS[cell class](cell, x, *states)` are the states after a step; `OUTPUTS[cell class](cell, x, before, after)` is
the output of a cell whose output is none of its states.
"""

import torch

from compactrnn.cells import LRU, NBRC, QRNN, SLSTM, SRU, CoupledLSTM, FastRNN, LayerNormLSTM, MinLSTM, PeepholeLSTM


def gates_of(cell, x, count, name="input"):
    """`W x + b` of each gate."""
    total, bias = getattr(cell, name).dense() @ x, getattr(cell, f"{name}_bias", None)
    return (total if bias is None else total + bias).chunk(count)


def recurrent(cell, h, count):
    return (cell.hidden.dense() @ h).chunk(count)


def sums(cell, x, h, count):
    return [a + b for a, b in zip(gates_of(cell, x, count), recurrent(cell, h, count), strict=True)]


def peephole_lstm(cell, x, h, c):
    i, f, g, o = sums(cell, x, h, 4)
    n = len(h)
    p = cell.peephole
    new = (f + p[n : 2 * n] * c).sigmoid() * c + (i + p[:n] * c).sigmoid() * g.tanh()
    return (o + p[2 * n :] * new).sigmoid() * new.tanh(), new


def norm(a):
    return (a - a.mean()) / (a.var(correction=0) + 1e-5).sqrt()


def layer_norm_lstm(cell, x, h, c):
    total = norm(cell.input.dense() @ x) * cell.input_gain + norm(cell.hidden.dense() @ h) * cell.hidden_gain
    i, f, g, o = (total + cell.bias).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * (norm(c) * cell.memory_gain + cell.memory_bias).tanh(), c


def coupled_lstm(cell, x, h, c):
    f, g, o = sums(cell, x, h, 3)
    c = f.sigmoid() * c + (1 - f.sigmoid()) * g.tanh()
    return o.sigmoid() * c.tanh(), c


def fastrnn(cell, x, h):
    (a,) = sums(cell, x, h, 1)
    return (cell.alpha.sigmoid() * a.tanh() + cell.beta.sigmoid() * h,)


def nbrc(cell, x, h):
    (a_x, c_x, k_x), (a_h, c_h) = gates_of(cell, x, 3), recurrent(cell, h, 2)
    a, c = 1 + (a_x + a_h).tanh(), (c_x + c_h).sigmoid()
    return (c * h + (1 - c) * (k_x + a * h).tanh(),)


def slstm(cell, x, h, c, n, m):
    """Without a stabilizer: c and n times exp(m), of doubles."""
    i, f, z, o = sums(cell, x, h, 4)
    whole, weight = c * m.exp(), n * m.exp()
    whole, weight = f.sigmoid() * whole + i.exp() * z.tanh(), f.sigmoid() * weight + i.exp()
    m = torch.stack([f.sigmoid().log() + m, i]).amax(0)
    return o.sigmoid() * whole / torch.maximum(weight, m.exp()), whole / m.exp(), weight / m.exp(), m


def minlstm(cell, x, h):
    f, i, n = gates_of(cell, x, 3)
    total = f.sigmoid() + i.sigmoid()
    return (f.sigmoid() / total * h + i.sigmoid() / total * n,)


def sru_gates(cell, x, c):
    f, r, *_ = (cell.input.dense() @ x).chunk(4)
    bias = torch.zeros(2 * len(c)) if cell.input_bias is None else cell.input_bias
    (bf, br), (vf, vr) = (t.chunk(2) for t in (bias, 0 * bias if cell.peephole is None else cell.peephole))
    return (f + bf + vf * c).sigmoid(), (r + br + vr * c).sigmoid()


def sru(cell, x, c):
    f, _ = sru_gates(cell, x, c)
    return (f * c + (1 - f) * (cell.input.dense() @ x).chunk(4)[2],)


def sru_output(cell, x, before, after):
    _, r = sru_gates(cell, x, *before)
    return r * after[0] + (1 - r) * (cell.input.dense() @ x).chunk(4)[3]


def qrnn(cell, x, c, *before):
    """`before`, W of the step before, are whatever the state has."""
    z, f, o = gates_of(cell, x, 3)
    if before:
        z, f, o = z + before[0], f + before[1], o + before[2]
    after = () if cell.previous is None else gates_of(cell, x, 3, "previous")
    return (f.sigmoid() * c + (1 - f.sigmoid()) * z.tanh(), *after)


def qrnn_output(cell, x, before, after):
    o = gates_of(cell, x, 3)[2]
    return (o + before[3] if cell.previous is not None else o).sigmoid() * after[0]


def lru(cell, x, re, im):
    """As complex numbers."""
    a = (-cell.decay.exp() + 1j * cell.angle.exp()).exp()
    b_re, b_im = gates_of(cell, x, 2)
    z = a * (re + 1j * im) + (1 - a.abs() ** 2).sqrt() * (b_re + 1j * b_im)
    return z.real, z.imag


def lru_output(cell, x, before, after):
    c = cell.from_re.dense() + 1j * cell.from_im.dense()
    return (c @ (after[0] + 1j * after[1])).real + cell.skip.dense() @ x


EQUATIONS = {
    PeepholeLSTM: peephole_lstm,
    CoupledLSTM: coupled_lstm,
    LayerNormLSTM: layer_norm_lstm,
    FastRNN: fastrnn,
    NBRC: nbrc,
    SLSTM: slstm,
    MinLSTM: minlstm,
    SRU: sru,
    QRNN: qrnn,
    LRU: lru,
}
OUTPUTS = {LRU: lru_output, SRU: sru_output, QRNN: qrnn_output}
