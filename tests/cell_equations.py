"""Equations of cells, written down once more: a vector each for the input and the states of one sequence.

`EQUATIONS[cell class](cell, x, *states)` are the states after a step; `OUTPUTS[cell class](cell, x, before, after)` is
the output of a cell whose output is none of its states.
"""

import torch

from compactrnn import cells
from compactrnn.cells.polynomial_memory import step_matrices


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


def lazy_lstm(cell, x, h, before):
    i, f, g, o = sums(cell, x, h, 4)
    c = f.sigmoid() * before + i.sigmoid() * g.tanh()
    if cell.peephole is None:
        return o.sigmoid() * before.tanh(), c
    return (o + cell.peephole * before).sigmoid() * c.tanh(), c


def dia_lstm(cell, x, h, c):
    bias = {name: 0 if getattr(cell, name) is None else getattr(cell, name) for name in ("gate_bias", "hidden_bias")}
    (u,) = gates_of(cell, x, 1)
    v = cell.hidden.dense() @ h + bias["hidden_bias"]
    total = cell.gates_of_input.dense() @ u.clamp(min=0) + cell.gates_of_hidden.dense() @ v.clamp(min=0)
    i, f, g, o = (total + bias["gate_bias"]).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.sigmoid(), c


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


def dfsmn_layers(cell, x, lines):
    """The projection of each layer, and its output."""
    total = 0
    for layer, line in enumerate(lines, 1):
        name = "input" if layer == 1 else f"projection_{layer}"
        (p,) = gates_of(cell, x, 1, name)
        rows, taps = line.view(-1, len(p)), getattr(cell, f"past_{layer}").view(-1, len(p))
        total = total + p + sum(a * rows[i * cell.stride - 1] for i, a in enumerate(taps, 1))
        (x,) = gates_of(cell, total, 1, f"output_{layer}")
        x = {"relu": torch.relu, "tanh": torch.tanh}[cell.nonlinearity](x)
        yield p, x


def dfsmn(cell, x, *lines):
    made = dfsmn_layers(cell, x, lines)
    return tuple(torch.cat([p, line[: len(line) - len(p)]]) for (p, _), line in zip(made, lines, strict=True))


def dfsmn_output(cell, x, before, after):
    *_, (_, y) = dfsmn_layers(cell, x, before)
    return y


def gilr_lstm(cell, x, s, c):
    g, j = gates_of(cell, x, 2, "surrogate")
    after = g.sigmoid() * s + (1 - g.sigmoid()) * j.tanh()
    f, i, _, z = gilr_lstm_gates(cell, x, s, after)
    return after, f.sigmoid() * c + i.sigmoid() * z.tanh()


def gilr_lstm_gates(cell, x, before, after):
    read = before if cell.delayed else after
    return [a + b for a, b in zip(gates_of(cell, x, 4), recurrent(cell, read, 4), strict=True)]


def gilr_lstm_output(cell, x, before, after):
    return gilr_lstm_gates(cell, x, before[0], after[0])[2].sigmoid() * after[1]


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


def lmu(cell, x, h, m):
    u = cell.memory_input.dense() @ x + cell.memory_hidden.dense() @ h + cell.memory_memory.dense() @ m
    m = cell.transition @ m + cell.drive * u
    (total,) = sums(cell, x, h, 1)
    return (total + cell.memory.dense() @ m).tanh(), m


def parallel_lmu(cell, x, m):
    transition, drive = step_matrices("lmu", cell.order, cell.window, "zoh")
    channels = m.reshape(cell.order, -1)
    u = cell.memory_input.dense() @ x
    return ((transition @ channels.double() + torch.outer(drive, u.double())).flatten().to(m),)


def parallel_lmu_output(cell, x, before, after):
    (total,) = gates_of(cell, x, 1)
    return getattr(torch, cell.nonlinearity)(total + cell.memory.dense() @ after[0])


def orthogonal_rnn(cell, x, h):
    """By the series of exp, or with an inverse."""
    n = len(h)
    A = torch.zeros(n, n, dtype=x.dtype)
    numbers = iter(cell.skew.detach())
    for i in range(n):
        for j in range(i):
            A[i, j] = number = next(numbers)
            A[j, i] = -number
    eye = torch.eye(n, dtype=x.dtype)
    if cell.orthogonal_map == "exp":
        Q = power = eye
        for k in range(1, 40):
            power = power @ A / k
            Q = Q + power
    else:
        Q = (eye + A).inverse() @ (eye - A)
    torch.testing.assert_close(Q @ Q.T, eye)
    a = cell.input.dense() @ x + Q @ h
    if cell.nonlinearity == "tanh":
        return ((a + cell.bias).tanh(),)
    return (a.sign() * (a.abs() + cell.bias).clamp(min=0),)


def real_form(W):
    return torch.cat([torch.cat([W.real, -W.imag], 1), torch.cat([W.imag, W.real], 1)])


def urnn(cell, x, h):
    """By explicit complex matrices, one for each factor."""
    n = len(h) // 2
    k = torch.arange(n, dtype=x.dtype)
    F = torch.exp(-2j * torch.pi * k[:, None] * k / n) / n**0.5
    size = 1 if cell.magnitude is None else cell.magnitude
    D = [torch.diag(d) for d in size * torch.exp(1j * cell.phase)]
    v = cell.reflection[:, :n] + 1j * cell.reflection[:, n:]
    R = [torch.eye(n) - 2 * torch.outer(u, u.conj()) / u.abs().square().sum() for u in v]
    P = torch.eye(n, dtype=F.dtype)[cell.order]
    W = D[2] @ R[1] @ F.mH @ D[1] @ P @ R[0] @ F @ D[0]
    if cell.unitary:
        torch.testing.assert_close(W @ W.mH, torch.eye(n, dtype=W.dtype))
    z = cell.input.dense() @ x + real_form(W) @ h
    z = z[:n] + 1j * z[n:]
    z = z * (z.abs() + cell.bias).clamp(min=0) / z.abs()
    return (torch.cat([z.real, z.imag]),)


def enrnn(cell, x, h):
    long, short = len(cell.signs), len(cell.short)
    A = torch.zeros(long, long, dtype=x.dtype)
    A[torch.tril_indices(long, long, -1).unbind()] = cell.skew.detach()
    A = A - A.T
    Q = (torch.eye(long) + A).inverse() @ (torch.eye(long) - A) @ torch.diag(cell.signs)
    R = cell.short / (torch.linalg.eigvals(cell.short).abs().max() if cell.normalized else 1)
    C = torch.zeros(long, short, dtype=x.dtype) if cell.coupling is None else cell.coupling
    a = cell.input.dense() @ x + torch.cat([Q @ h[:long] + C @ h[long:], R @ h[long:]])
    return (a.sign() * (a.abs() + cell.bias).clamp(min=0),)


def matrices(cell, gates):
    """W, U, b, b' of each gate."""
    zero = torch.zeros(gates * cell.hidden_size, dtype=torch.float64)
    parts = [cell.input.dense(), cell.hidden.dense()]
    parts += [zero if b is None else b for b in (cell.input_bias, cell.hidden_bias)]
    return zip(*(p.chunk(gates) for p in parts), strict=True)


def lstm(cell, x, h, c):
    i, f, g, o = (W @ x + b + U @ h + d for W, U, b, d in matrices(cell, 4))
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h, c


def gru(cell, x, h):
    (Wr, Ur, br, dr), (Wz, Uz, bz, dz), (Wn, Un, bn, dn) = matrices(cell, 3)
    r = (Wr @ x + br + Ur @ h + dr).sigmoid()
    z = (Wz @ x + bz + Uz @ h + dz).sigmoid()
    n = (Wn @ x + bn + r * (Un @ h + dn)).tanh()
    return ((1 - z) * n + z * h,)


def elman(cell, x, h):
    ((W, U, b, d),) = matrices(cell, 1)
    total = W @ x + b + U @ h + d
    return (total.tanh() if cell.nonlinearity == "tanh" else total.clamp(min=0),)


def mgu(cell, x, h):
    bias = torch.zeros(2 * cell.hidden_size, dtype=torch.float64) if cell.input_bias is None else cell.input_bias
    (Wf, Wc), (bf, bc) = cell.input.dense().chunk(2), bias.chunk(2)
    f = (Wf @ x + bf + cell.forget.dense() @ h).sigmoid()
    c = (Wc @ x + bc + cell.candidate.dense() @ (f * h)).tanh()
    return ((1 - f) * h + f * c,)


def fastgrnn(cell, x, h):
    a = cell.input.dense() @ x + cell.hidden.dense() @ h
    bz, bh = (0 if b is None else b for b in (cell.gate_bias, cell.candidate_bias))
    z = (a + bz).sigmoid()
    return ((cell.zeta.sigmoid() * (1 - z) + cell.nu.sigmoid()) * (a + bh).tanh() + z * h,)


def linear(weight, bias, x, gate=0, gates=1):
    """One gate of `W x + b`."""
    total = weight.dense().chunk(gates)[gate] @ x
    return total if bias is None else total + bias.chunk(gates)[gate]


def indrnn(cell, x, h):
    total = linear(cell.input, cell.input_bias, x) + cell.recurrent * h
    return (total.tanh() if cell.nonlinearity == "tanh" else total.clamp(min=0),)


def durnn(cell, x, *states):
    from_x = linear(cell.input, cell.input_bias, x)
    if cell.hidden is None:
        return ((from_x + cell.recurrent * states[0]).clamp(min=0),)
    s = from_x + cell.hidden.dense() @ states[0]
    s = s.tanh() if cell.nonlinearity == "tanh" else s.clamp(min=0)
    if cell.transfer is None:
        return (s,)
    if cell.gate is None:
        e = linear(cell.transfer, cell.transfer_bias, s)
    else:
        Va, We = cell.transfer.dense().chunk(2)
        a = (linear(cell.gate, cell.gate_bias, x) + Va @ s).sigmoid()
        e = a * (We @ s + (0 if cell.transfer_bias is None else cell.transfer_bias))
    return s, (e + cell.recurrent * states[1]).clamp(min=0)


def gilr(cell, x, h):
    g = linear(cell.input, cell.input_bias, x, 0, 2).sigmoid()
    i = linear(cell.input, cell.input_bias, x, 1, 2)
    i = {"elu": i.clamp(min=0) + i.clamp(max=0).exp() - 1, "tanh": i.tanh(), "relu": i.clamp(min=0)}[cell.nonlinearity]
    return (g * h + (1 - g) * i,)


def mingru(cell, x, h):
    z = linear(cell.input, cell.input_bias, x, 0, 2).sigmoid()
    return ((1 - z) * h + z * linear(cell.input, cell.input_bias, x, 1, 2),)


def hippo(cell, x, h, memory, *steps):
    """One channel after another, by explicit matrices."""
    if not steps:
        u = (cell.memory_input.dense() @ x + cell.hidden.dense() @ h).repeat(cell.order)
        memory = cell.transition @ memory + cell.drive * u
        z, k = (linear(cell.input, cell.input_bias, x) + cell.memory.dense() @ memory).chunk(2)
        return (1 - z.sigmoid()) * h + z.sigmoid() * k.tanh(), memory
    (steps,) = steps
    rows, order = cell.memory_size, cell.order
    u = cell.memory_input.dense() @ x + cell.hidden.dense() @ h
    n = torch.arange(order, dtype=x.dtype)
    root, eye = (2 * n + 1).sqrt(), torch.eye(order, dtype=x.dtype)
    a = -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1)
    share = {"bilinear": 0.5, "backward": 1.0}[cell.discretization]
    t = steps.clamp(min=1)
    channels = []
    for c, f in zip(memory.view(order, rows).T, u, strict=True):
        known = (eye + (1 - share) / t * a) @ c + root * f / t
        new = torch.linalg.solve(eye - share / t * a, known)
        channels.append(torch.where(steps > 0, new, f * eye[0]))
    memory = torch.stack(channels, 1).flatten()
    total = linear(cell.input, cell.input_bias, x) + cell.memory.dense() @ memory
    z, k = total.sigmoid().chunk(2)[0], total.tanh().chunk(2)[1]
    return ((1 - z) * h + z * k, memory, steps + 1)


def fsmn(cell, x, line):
    size = len(line) // (cell.look_back * cell.stride)
    p = linear(cell.input, cell.input_bias, x)
    return (torch.cat([p, line[: len(line) - size]]),)


def rhn(cell, x, h):
    for layer in range(1, cell.depth + 1):
        total = linear(
            getattr(cell, f"hidden_{layer}"), cell.input_bias if layer == 1 else getattr(cell, f"bias_{layer}"), h
        )
        if layer == 1:
            total = total + cell.input.dense() @ x
        candidate, transform = total.tanh()[: len(h)], total.sigmoid()[len(h) :]
        h = transform * candidate + (1 - transform) * h
    return (h,)


EQUATIONS = {
    cells.LSTM: lstm,
    cells.GRU: gru,
    cells.Elman: elman,
    cells.MGU: mgu,
    cells.IndRNN: indrnn,
    cells.DuRNN: durnn,
    cells.FastGRNN: fastgrnn,
    cells.GILR: gilr,
    cells.MinGRU: mingru,
    cells.HiPPO: hippo,
    cells.FSMN: fsmn,
    cells.RHN: rhn,
    cells.PeepholeLSTM: peephole_lstm,
    cells.LazyLSTM: lazy_lstm,
    cells.DIALSTM: dia_lstm,
    cells.CoupledLSTM: coupled_lstm,
    cells.LayerNormLSTM: layer_norm_lstm,
    cells.FastRNN: fastrnn,
    cells.NBRC: nbrc,
    cells.SLSTM: slstm,
    cells.MinLSTM: minlstm,
    cells.SRU: sru,
    cells.QRNN: qrnn,
    cells.ENRNN: enrnn,
    cells.URNN: urnn,
    cells.OrthogonalRNN: orthogonal_rnn,
    cells.LMU: lmu,
    cells.ParallelLMU: parallel_lmu,
    cells.LRU: lru,
    cells.GILRLSTM: gilr_lstm,
    cells.DFSMN: dfsmn,
}
OUTPUTS = {
    cells.DFSMN: dfsmn_output,
    cells.GILRLSTM: gilr_lstm_output,
    cells.LRU: lru_output,
    cells.ParallelLMU: parallel_lmu_output,
    cells.SRU: sru_output,
    cells.QRNN: qrnn_output,
}
