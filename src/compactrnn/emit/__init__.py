"""Emission of programs from NumPy arrays, the basis of every model importer; independent of torch.

A `Builder` holds the program. Functions append operations to it and take and give `Operand`s: numbers that the program
computes, with a shape that includes the time axis. Weights and constants are NumPy arrays. Before each operation of the
model an importer sets `Builder.where`, which messages name.

**Time.** `Operand.time` is the time axis of `Operand.shape`, and `Operand.kind` says when the numbers are known:

- `STEP`: a row at every step. This is what inputs are, and what is computed from them.
- `LAST`: at every step, as if the sequence ended there: the states of a layer, the last step of a sequence.
- `ONCE`: only after the whole sequence: a mean over time, and what is computed from it.
- `HELD`: at every step, and the same at all: an input that a sequence has once, and what is computed from it.
- `CONSTANT`: always.

Where a model has strides over time, a step is several frames, and an operand has `Operand.rate` entries of its time
axis for each. A `Mover` is then told how many steps the sequence has.

**Segments.** A program is a list of segments, each of which runs over the sequence before the next one begins. An
operation goes to the earliest segment in which all that it reads is known. One that needs the whole sequence
(`Mover.flip`, a reduction over time) ends the segment, and the model is offline; else it has one segment and streams.
Read `Operand.kind` and `.segment`, but leave both to `Builder.place` and what calls it.

**Movement.** Reshaping, transposing, slicing, padding and joining copy nothing at first: `Mover.move` runs any NumPy
function that only moves entries on where they are, and `Mover.materialize` finds out what moved rows consist of: the
same row, a row of `n` steps ago (a delay line), the first or last step, the sequence backwards. So `x[:-3]` behind
three rows of padding is a delay of three steps. How far back a model looks shows only in a sequence that is long
enough: `for_any_length` writes the program for sequences of two lengths, and longer ones until both agree.

**Functions of single numbers** are in `FUNCTIONS`, by their ATen names: `FUNCTIONS["gelu"](builder, x)`. What has a
kernel of its own is `Builder.unary` and `Builder.binary`, of which the second operand may repeat (`period`).

A GRU, the difference from the step before, and a linear layer, from arrays alone:

>>> import numpy as np
>>> from compactrnn.runtime.engine import Engine
>>> from compactrnn.runtime.file import write
>>> from compactrnn.runtime.quantize import quantize
>>> rng = np.random.default_rng(0)
>>> w_ih, w_hh, b_ih, b_hh, head = (rng.normal(size=s) / 4 for s in ((48, 8), (48, 16), 48, 48, (5, 32)))
>>> def build(steps):
...     b = Builder()
...     move = Mover(b)
...     x = add_input(b, "x", (steps, 8), time=0)
...     b.where = "gru"
...     h, (last,) = gru(b, x, [w_ih], [w_hh], b_ih, b_hh)
...     b.where = "difference"
...     before = move.materialize(move.pad(h, [(1, -1), (0, 0)], 0.0, time=0))
...     change = b.binary(Binary.SUB, h, before)
...     b.where = "head"
...     add_output(b, "y", linear(b, move.join([h, change], 1), [head], np.ones(5), name="head"))
...     add_output(b, "h_n", last)
...     return b
>>> program = for_any_length(build, "example").finish()
>>> engine = Engine(write(quantize(program, "int8")))
>>> y, h_n = engine.run(np.zeros((7, 8), np.float32))
>>> y.shape, h_n.shape, engine.offline
((7, 5), (16,), False)
"""

from ..runtime.program import Binary as Binary
from ..runtime.program import Unary as Unary
from .builder import CONSTANT as CONSTANT
from .builder import HELD as HELD
from .builder import LAST as LAST
from .builder import ONCE as ONCE
from .builder import STEP as STEP
from .builder import Builder as Builder
from .builder import Operand as Operand
from .convolution import Window as Window
from .convolution import convolution as convolution
from .lengths import for_any_length as for_any_length
from .movement import Mover as Mover
from .normalize import layer_norm as layer_norm
from .normalize import scale_axis as scale_axis
from .normalize import softmax as softmax
from .pointwise import FUNCTIONS as FUNCTIONS
from .pointwise import select as select
from .ports import add_input as add_input
from .ports import add_output as add_output
from .products import linear as linear
from .products import lookup as lookup
from .products import matmul as matmul
from .recurrent import gru as gru
from .recurrent import lstm as lstm
from .reductions import argmax as argmax
from .reductions import reduce as reduce
from .reductions import running as running
