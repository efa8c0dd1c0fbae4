"""What the operations of a program are: operands, sizes, functions, weights. The one list in Python.

The native core has the same list, `native/cr_operations.h`; a test compares the two. What an operation reads and
writes, what a file stores of it, its products, random programs for tests and docs/operations.md follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import inf

from .gates import padded

# By how the core writes them: n and k are those of the operation, P is n rounded up to a multiple of 16, Q is k.
WIDTHS: dict[str, Callable[[int, int], int]] = {
    "1": lambda n, k: 1,
    "n": lambda n, k: n,
    "k": lambda n, k: k,
    "n * k": lambda n, k: n * k,
    "3 * n": lambda n, k: 3 * n,
    "4 * n": lambda n, k: 4 * n,
    "3 * P": lambda n, k: 3 * padded(n),
    "4 * P": lambda n, k: 4 * padded(n),
    "3 * Q * (n / k)": lambda n, k: 3 * padded(k) * (n // k),
    "4 * Q * (n / k)": lambda n, k: 4 * padded(k) * (n // k),
    "k - n": lambda n, k: k - n,
    "k + P + 1": lambda n, k: k + padded(n) + 1,
}


class Code(IntEnum):
    """An operation; `OPERATIONS` says what it is."""

    EMBED = 1
    AFFINE = 2
    GATHER = 3
    UNARY = 4
    BINARY = 5
    REDUCE = 6
    SOFTMAX = 7
    LOG_SOFTMAX = 8
    LAYER_NORM = 9
    LSTM = 10
    GRU = 11
    FLIP = 12
    TOP = 13
    SELECT = 14
    DELAY = 15
    LSTM_CELL = 16
    GRU_CELL = 17
    MATMUL = 18
    DELTA = 19
    LSTM_OVER = 20
    GRU_OVER = 21
    GRU_EACH = 22
    DEPTHWISE = 23
    ATTEND = 24


class Function(IntEnum):
    """A function with its formula.

    `parameters`: how many of p0 and p1 it has. `bounded`: no value is beyond [-1, 1]. `domain`: the numbers for which
    its values are of ordinary size, for random programs.
    """

    text: str
    parameters: int
    bounded: bool
    domain: tuple[float, float]

    def __new__(
        cls,
        number: int,
        text: str,
        parameters: int = 0,
        bounded: bool = False,
        domain: tuple[float, float] = (-inf, inf),
    ) -> Function:
        """A member; its value is the number."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.text, member.parameters, member.bounded, member.domain = text, parameters, bounded, domain
        return member


class Unary(Function):
    """Element-wise functions of one operand."""

    COPY = 0, "x"
    SCALE_SHIFT = 1, "p0 x + p1", 2
    ABS = 2, "|x|"
    CLAMP = 3, "x limited to [p0, p1]", 2
    RECIPROCAL = 4, "1 / x", 0, False, (0.5, inf)
    SQRT = 5, "sqrt(x)", 0, False, (0.5, inf)
    EXP = 6, "e^x", 0, False, (-3.0, 1.0)
    LOG = 7, "the natural logarithm of x", 0, False, (0.5, inf)
    ERF = 8, "the error function of x", 0, True
    TANH = 9, "tanh(x)", 0, True
    SIGMOID = 10, "1 / (1 + e^-x)", 0, True
    SIN = 11, "sin(x) for |x| <= 100000, else NaN", 0, True
    COS = 12, "cos(x) for |x| <= 100000, else NaN", 0, True
    LEAKY_RELU = 13, "x where x > 0, else p0 x", 1


class Binary(Function):
    """Element-wise functions of two operands. Comparisons give 1 or 0; of a NaN only NOT_EQUAL is true."""

    ADD = 0, "x + y"
    SUB = 1, "x - y"
    MUL = 2, "x y"
    DIV = 3, "x / y"
    MAX = 4, "the larger of x and y; NaN if one of them is"
    MIN = 5, "the smaller of x and y; NaN if one of them is"
    EQUAL = 6, "x = y"
    NOT_EQUAL = 7, "x != y"
    LESS = 8, "x < y"
    LESS_EQUAL = 9, "x <= y"


class Reduce(Function):
    """Reductions within a group."""

    SUM = 0, "the sum"
    MAX = 1, "the largest"
    MIN = 2, "the smallest"
    ARGMAX = 3, "the position of the largest, of equal ones the first; NaN is the largest"


class Top(Function):
    """What is told of the largest numbers."""

    VALUES = 0, "the numbers"
    POSITIONS = 1, "their positions"


class Matmul(Function):
    """On which side of X the matrix stands, and what X is, of the k numbers of a."""

    LEFT = 0, "W X, X of as many rows as W has columns"
    RIGHT = 1, "X W^T, X of as many columns as W"
    WINDOWS = (
        2,
        "X W^T, the rows of X windows of a that begin at equal distances, the first with a; the last ends with it",
    )


class Over(Function):
    """In which order a cell goes over the rows of a."""

    FORWARD = 0, "from the first to the last"
    BACKWARD = 1, "from the last to the first"


class Attend(Function):
    """Which steps are weighted."""

    ALL = 0, "all of the sequence"
    CAUSAL = 1, "all up to and with this one"


@dataclass(frozen=True)
class Operand:
    """An operand of `width` numbers that is read.

    It lies apart from dst or, `in_place`, may be the very place of dst. It may be absent if `optional`, and is written,
    too, if `updated`. With `all_steps` it is read at other steps than this: an input, or a sequence of an earlier
    segment.
    """

    width: str
    in_place: bool = False
    optional: bool = False
    updated: bool = False
    all_steps: bool = False


@dataclass(frozen=True)
class Operation:
    """What an operation is.

    `text`: its result dst. `k`: what the field k must be to n ("" where there is none). `tensor`: whether it has a
    "matrix", one read by its "columns", a "table", an "index" or the "taps" of a convolution. `gates`: rows of its
    matrix for each of n. `rows`: whether it multiplies many vectors of a step, with a matrix of float32 or int8
    numbers. `functions`: what `fn` means. `parameters`: how many of p0 and p1 it has besides the scale p0 of a product.
    `writes`: numbers at dst. `keeps`: numbers at dst that it reads before.
    """

    text: str
    a: Operand | None = None
    b: Operand | None = None
    c: Operand | None = None
    d: Operand | None = None
    k: str = ""
    tensor: str = ""
    gates: int = 0
    rows: bool = False
    functions: type[Function] | None = None
    parameters: int = 0
    writes: str = "n"
    keeps: str = ""

    @property
    def operands(self) -> dict[str, Operand]:
        """Those that there are, by name."""
        named = {"a": self.a, "b": self.b, "c": self.c, "d": self.d}
        return {name: operand for name, operand in named.items() if operand is not None}


_N, _K, _IN_PLACE = Operand("n"), Operand("k"), Operand("n", in_place=True)
_CELL = Operand("n", updated=True)
OPERATIONS: dict[Code, Operation] = {
    Code.EMBED: Operation(
        "the row of the table, or of the matrix of a product, whose number is a", a=Operand("1"), tensor="table"
    ),
    Code.AFFINE: Operation(
        "b + W a, without b W a; p0 is the scale of a for int8 and int4 weights, 0: its largest number / 127",
        a=_K,
        b=Operand("n", in_place=True, optional=True),
        k="k",
        tensor="matrix",
        gates=1,
    ),
    Code.GATHER: Operation("dst[i] = a[index[i]], 0 where index[i] < 0", a=_K, k="k", tensor="index"),
    Code.UNARY: Operation("dst[i] = f(a[i])", a=_IN_PLACE, functions=Unary),
    Code.BINARY: Operation(
        "dst[i] = f(a[i], b[i mod k])", a=_IN_PLACE, b=Operand("k", in_place=True), k="k divides n", functions=Binary
    ),
    Code.REDUCE: Operation("f of each k consecutive numbers of a", a=Operand("n * k"), k="k", functions=Reduce),
    Code.SOFTMAX: Operation("e^x / sum(e^x) over each k consecutive numbers x of a", a=_IN_PLACE, k="k divides n"),
    Code.LOG_SOFTMAX: Operation("the logarithm of SOFTMAX", a=_IN_PLACE, k="k divides n"),
    Code.LAYER_NORM: Operation(
        "(x - mean) / sqrt(variance + p0) over each k consecutive numbers x of a",
        a=_IN_PLACE,
        k="k divides n",
        parameters=1,
    ),
    Code.LSTM: Operation(
        "LSTM_CELL of the gates a + U c, in blocks of 16 units; p0 is the scale of c as in AFFINE",
        a=Operand("4 * P"),
        b=_CELL,
        c=_K,
        k="k",
        tensor="matrix",
        gates=4,
    ),
    Code.GRU: Operation(
        "r, z = sigmoid(a + U c) and (1 - z) tanh(a' + r (b + U' c)) + z d, in blocks of 16 units; p0 as in LSTM",
        a=Operand("3 * P"),
        b=Operand("n", optional=True),
        c=_K,
        d=_IN_PLACE,
        k="k",
        tensor="matrix",
        gates=3,
    ),
    Code.FLIP: Operation("a of step T-1-t at step t", a=Operand("n", all_steps=True)),
    Code.TOP: Operation("f of the n largest of a, largest first", a=_K, k="n <= k", functions=Top),
    Code.SELECT: Operation(
        "dst[i] = a[i] where c[i] is not 0, else b[i]: the number not taken has no effect, even a NaN",
        a=_IN_PLACE,
        b=_IN_PLACE,
        c=_IN_PLACE,
    ),
    Code.DELAY: Operation(
        "dst, a state, moves on by n numbers, then its first n are a: a of d steps ago stands at dst[d n]",
        a=_N,
        k="n divides k",
        writes="k",
        keeps="k - n",
    ),
    Code.LSTM_CELL: Operation(
        "i, f, g, o = a, n numbers of each; b = sigmoid(f) b + sigmoid(i) tanh(g); sigmoid(o) tanh(b)",
        a=Operand("4 * n"),
        b=_CELL,
    ),
    Code.GRU_CELL: Operation(
        "r, z, m = a and r', z', m' = c, n numbers of each; R, Z = sigmoid(r + r'), sigmoid(z + z'); "
        "(1 - Z) tanh(m + R m') + Z d",
        a=Operand("3 * n"),
        c=Operand("3 * n"),
        d=_IN_PLACE,
    ),
    Code.MATMUL: Operation(
        "b + f, the product of two matrices, row after row, without b only f; W is float32 or int8; p0 as in AFFINE",
        a=_K,
        b=Operand("n", in_place=True, optional=True),
        k="k",
        tensor="matrix",
        gates=1,
        rows=True,
        functions=Matmul,
    ),
    Code.DELTA: Operation(
        "AFFINE of a float32 matrix, or an int8 one and p0 > 0, which reads the columns whose number of a has changed "
        "since the last step; c, a state of its own, has what a was, the sums W a and the number of the step",
        a=_K,
        b=Operand("n", in_place=True, optional=True),
        c=Operand("k + P + 1", updated=True),
        k="k",
        tensor="columns",
        gates=1,
    ),
    Code.LSTM_OVER: Operation(
        "LSTM for each of n / k rows of gates a, in blocks of 16 units: k units each, which take h and b from the row "
        "before, the first c and b; h of all rows",
        a=Operand("4 * Q * (n / k)"),
        b=Operand("k", updated=True),
        c=_K,
        k="k divides n",
        tensor="matrix",
        gates=4,
        rows=True,
        functions=Over,
    ),
    Code.GRU_OVER: Operation(
        "GRU for each of n / k rows of gates a, in blocks of 16 units: k units each, which take h from the row before, "
        "the first c; h of all rows",
        a=Operand("3 * Q * (n / k)"),
        b=Operand("k", optional=True),
        c=_K,
        k="k divides n",
        tensor="matrix",
        gates=3,
        rows=True,
        functions=Over,
    ),
    Code.GRU_EACH: Operation(
        "GRU for each of n / k rows of gates a, in blocks of 16 units: k units each, which take h from k numbers of c",
        a=Operand("3 * Q * (n / k)"),
        b=Operand("k", optional=True),
        c=_N,
        k="k divides n",
        tensor="matrix",
        gates=3,
        rows=True,
    ),
    Code.DEPTHWISE: Operation(
        "b[i] + the sum over its T rows of W[t, i mod columns] a[i + t (k - n) / (T - 1)], W a float32 table whose "
        "columns divide n: a depthwise convolution",
        a=_K,
        b=Operand("n", in_place=True, optional=True),
        k="k",
        tensor="taps",
    ),
    Code.ATTEND: Operation(
        "the sum over steps s of w[s] c[s], w the SOFTMAX over them of p0 times the sum of the products of a and b[s]",
        a=_K,
        b=Operand("k", all_steps=True),
        c=Operand("n", all_steps=True),
        k="k",
        functions=Attend,
        parameters=1,
    ),
}
GATES = {code: operation.gates for code, operation in OPERATIONS.items() if operation.gates}
