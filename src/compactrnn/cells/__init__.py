"""Recurrent cells: what one time step computes, one file each."""

from .base import AbstractCell as AbstractCell
from .base import StateSpec as StateSpec
from .base import UnitSet as UnitSet
from .base import push as push
from .declaration import check_declaration as check_declaration
from .delta import DeltaCell as DeltaCell
from .durnn import DuRNN as DuRNN
from .elman import Elman as Elman
from .fastgrnn import FastGRNN as FastGRNN
from .fsmn import FSMN as FSMN
from .gilr import GILR as GILR
from .gru import GRU as GRU
from .hippo import HiPPO as HiPPO
from .indrnn import IndRNN as IndRNN
from .lstm import LSTM as LSTM
from .mgu import MGU as MGU
from .mingru import MinGRU as MinGRU
from .projected import Projected as Projected
from .rhn import RHN as RHN
