"""Models whose outputs stay the same, bit for bit. To write them and their checksums again:

    python tests/golden_models.py

Files and checksums change together, and only when the format or the law of numbers does."""

import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

import compactrnn as cr
import toeplitz_programs
from compactrnn.emit.builder import STEP, Builder, Operand
from compactrnn.emit.delta import held
from compactrnn.emit.kronecker import Kronecker
from compactrnn.emit.products import lookup
from compactrnn.emit.recurrent import lstm, lstm_step
from compactrnn.runtime.delta import skip_unchanged
from compactrnn.runtime.file import save, write
from compactrnn.runtime.program import Code, Input, Output, Program, Unary
from compactrnn.runtime.quantize import quantize
from sparse_programs import layer as sparse_layer
from sparse_programs import single_entries

FOLDER = Path(__file__).parent / "golden"
STEPS = 37


class Tagger(nn.Module):
    """A recurrent layer between a linear front or an embedding, and a head."""

    def __init__(self, recurrent: nn.Module, width: int, vocabulary: int = 0):
        super().__init__()
        self.front = nn.Embedding(vocabulary, 24) if vocabulary else nn.Linear(9, 24)
        self.recurrent, self.norm, self.head = recurrent, nn.LayerNorm(width), nn.Linear(width, 11)

    def forward(self, x):
        y, _ = self.recurrent(self.front(x))
        return self.head(self.norm(y)).log_softmax(-1)


def models() -> dict[str, tuple[nn.Module, str]]:
    """By name: a model and how to store it. Widths are no multiples of 16; 70 columns are two groups of int4."""
    made = {}
    for weights in ("float32", "int8", "int4"):
        made[f"lstm-{weights}"] = Tagger(cr.LSTM(24, [70, 37], batch_first=True), 37), weights
        made[f"gru-{weights}"] = Tagger(cr.GRU(24, [37, 70], batch_first=True), 70), weights
    made["token-int8"] = Tagger(cr.LSTM(24, 50, batch_first=True), 50, vocabulary=13), "int8"
    low = cr.LSTM(24, 50, batch_first=True, hidden_weight=cr.LowRank(rank=9))
    made["low-rank-int8"] = Tagger(low, 50), "int8"
    made["projection-int4"] = Tagger(nn.LSTM(24, 40, proj_size=21, batch_first=True), 21), "int4"
    made["mgu-int8"] = Tagger(cr.Recurrent(cr.MGU, 24, 41, batch_first=True), 41), "int8"
    made["both-ways-int8"] = Tagger(nn.GRU(24, 19, bidirectional=True, batch_first=True), 38), "int8"
    return made


def unit_operations() -> Program:
    """An LSTM of 37 units and a GRU of 21 over it, their products apart from `LSTM_CELL` and `GRU_CELL`."""
    rng, b = np.random.default_rng(0), Builder()

    def product(x: Operand, n: int) -> Operand:
        matrix, bias = rng.uniform(-0.3, 0.3, (n, x.width)), rng.uniform(-0.3, 0.3, n)
        return row(b.affine(matrix, x, b.constant(bias)), n)

    def row(ref, n: int) -> Operand:
        return Operand(ref, (n,), None, STEP, 0)

    x = row(b.buffer(9, "input"), 9)
    h, c, g = (row(b.buffer(n, "state"), n) for n in (37, 37, 21))
    own = b.affine(rng.uniform(-0.3, 0.3, (148, 37)), h, product(x, 148).ref)
    y = b.lstm_cell(row(own, 148), c.ref)
    z = b.gru_cell(product(y, 63), product(g, 63), g)
    for value, state in ((y, h), (z, g)):
        b.emit(Code.UNARY, state.ref, value.width, a=value.ref, fn=int(Unary.COPY))
    program = b.finish()
    program.inputs.append(Input("x", x.ref.buffer, (9,)))
    program.outputs.append(Output("y", z.ref, (21,)))
    return program


def delta() -> Program:
    """An LSTM of 37 units whose matrices read what has changed by more than 0.4 (inputs) or 0.02."""
    rng, b = np.random.default_rng(0), Builder()
    w, u, bias = (rng.uniform(-0.4, 0.4, shape).astype(np.float32) for shape in ((148, 9), (148, 37), 148))

    def row(kind: str, n: int, bounded: bool = False) -> Operand:
        return Operand(b.buffer(n, kind), (n,), None, STEP, 0, bounded)

    given, sent = row("input", 9), row("state", 9)
    h, c, h_sent = (row("state", 37, bounded) for bounded in (True, False, True))
    kept = [held(b, given, sent, 0.4), held(b, h, h_sent, 0.02)]
    y, _ = lstm_step(b, kept[0], [kept[1], c], [w], [u], bias, fused=False)
    for value, state in ((y, h), (kept[0], sent), (kept[1], h_sent)):
        b.emit(Code.UNARY, state.ref, value.width, a=value.ref, fn=int(Unary.COPY))
    program = b.finish()
    program.inputs.append(Input("x", given.ref.buffer, (9,)))
    program.outputs.append(Output("y", y.ref, (37,)))
    return program


def kronecker() -> Program:
    """An LSTM of 42 units, the matrices of each gate sums of two Kronecker products of sizes that fill no line."""
    rng, b = np.random.default_rng(0), Builder()

    def matrix(*sizes: int) -> Kronecker:
        tall, wide, out_block, in_block = sizes
        left, right = rng.uniform(-0.5, 0.5, (4, 2, tall, wide)), rng.uniform(-0.5, 0.5, (4, 2, out_block, in_block))
        return Kronecker(left.astype(np.float32), right.astype(np.float32))

    x = Operand(b.buffer(9, "input"), (9,), None, STEP, 0)
    y, _ = lstm(b, x, [matrix(2, 1, 21, 9)], [matrix(6, 2, 7, 21)], rng.uniform(-0.3, 0.3, 168).astype(np.float32))
    program = b.finish()
    program.inputs.append(Input("x", x.ref.buffer, (9,)))
    program.outputs.append(Output("y", y.ref, (42,)))
    return program


def tied() -> Program:
    """The product of a matrix, whose rows and columns fill no panel and no group, with the row of a token."""
    rng, b = np.random.default_rng(0), Builder()
    matrix, token = rng.normal(size=(45, 70)).astype(np.float32), Operand(b.buffer(1, "input"), (), None, STEP, 0)
    row = lookup(b, token, matrix)
    assert row is not None
    y = b.affine(matrix, row, None)
    program = b.finish()
    program.inputs.append(Input("x", token.ref.buffer, (), 45))
    program.outputs.append(Output("y", y, (45,)))
    return program


def checksum(path: Path, isa: str) -> int:
    """CRC-32 of the outputs of all steps and, where the model streams, of the state after them.

    The inputs are those of `native/tests/model.h`: from -2 to 2 in thousandths, or tokens, by a linear congruential
    generator.
    """
    engine = cr.Engine(path, isa=isa)
    state = 1
    (port,) = engine.inputs
    numbers = np.empty((STEPS, *port.shape), np.float32)
    for place in np.ndindex(numbers.shape):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        number = (state >> 33) % 2**32
        numbers[place] = (
            number % port.vocabulary if port.vocabulary else np.float32(number % 4001) / np.float32(1000) - 2
        )
    xs = numbers.astype(np.int32) if port.vocabulary else numbers
    if engine.offline:
        return zlib.crc32(engine.run(xs).tobytes())
    stream = engine.stream()
    crc = zlib.crc32(stream.run(xs).tobytes())
    return zlib.crc32(stream.state_bytes()[8:], crc)


def main() -> None:
    """Write the models and their checksums."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    lines = []
    for name, (model, weights) in models().items():
        path = FOLDER / f"{name}.crnn"
        token = isinstance(model.front, nn.Embedding)
        cr.pack(model, path, torch.randint(0, 13, (1, 9)) if token else torch.randn(1, 9, 9), weights=weights)
        lines.append(f"{path.name} {checksum(path, 'scalar'):08x}\n")
    programs = {"delta-float32": quantize(skip_unchanged(delta(), 1), "float32")}
    programs["delta-int8"] = skip_unchanged(quantize(delta(), "int8"), 1)
    programs |= {f"units-{weights}": quantize(unit_operations(), weights) for weights in ("float32", "int8")}
    for whole, weights in ((False, "float32"), (True, "int8")):
        programs[f"sparse-lstm-{weights}"] = sparse_layer(Code.LSTM, 70, 37, whole=whole)
        programs[f"sparse-gru-{weights}"] = sparse_layer(Code.GRU, 37, 9, whole=whole)
        programs[f"entries-{weights}"] = single_entries(70, whole)
    programs |= {f"tied-{weights}": quantize(tied(), weights, False) for weights in ("float32", "int8", "int4")}
    programs["toeplitz-float32"] = toeplitz_programs.lstm(37, 9, rank=3)
    programs["toeplitz-large"] = toeplitz_programs.lstm(512, 512, rank=1)
    programs |= {f"kronecker-{weights}": quantize(kronecker(), weights) for weights in ("float32", "int8")}
    for name, program in programs.items():
        path = FOLDER / f"{name}.crnn"
        save(write(program), path)
        lines.append(f"{path.name} {checksum(path, 'scalar'):08x}\n")
    (FOLDER / "checksums.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
