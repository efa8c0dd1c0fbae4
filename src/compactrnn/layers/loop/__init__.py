"""Loops over time that are faster than calling `step` again and again.

`trace_step` traces a cell's step, `read_step` makes a graph of `values` from it, operation by operation (`forms`);
`gradient` derives its gradient; `loop_program` lays both out for native/loop, which `native` runs; `linear` is for
steps that are linear in their state, `packed` for several lengths; `plain` is the reference; `select` chooses.
"""

from .packed import look_ahead_packed as look_ahead_packed
from .packed import run_packed as run_packed
from .plain import StepFunction as StepFunction
from .plain import watched as watched
from .select import Kind as Kind
from .select import LoopReport as LoopReport
from .select import loop_report as loop_report
from .select import run_cell as run_cell
from .select import time_loop as time_loop
from .select import wanted_loop as wanted_loop
