"""What one recurrent step is: one file each."""

from .base import AbstractCell as AbstractCell
from .base import StateSpec as StateSpec
from .base import UnitSet as UnitSet
from .elman import Elman as Elman
from .gru import GRU as GRU
from .lstm import LSTM as LSTM
from .mgu import MGU as MGU
