"""Cells in time: layers that take sequences."""

from .convert import convert_ as convert_
from .convert import from_torch as from_torch
from .inspect import cells_of as cells_of
from .inspect import is_recurrent as is_recurrent
from .inspect import part_name as part_name
from .linear_recurrence import linear_scan as linear_scan
from .loop import loop_report as loop_report
from .loop import time_loop as time_loop
from .narrow import narrow_ as narrow_
from .recompute import checkpointed as checkpointed
from .recompute import detach as detach
from .recompute import truncated as truncated
from .recurrent import Recurrent as Recurrent
from .run_layer import scan as scan
from .torch_layers import GRU as GRU
from .torch_layers import LSTM as LSTM
from .torch_layers import RNN as RNN
