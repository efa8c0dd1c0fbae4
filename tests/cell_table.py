"""Every cell, in its variants, as keywords of `Recurrent`."""

from functools import partial

from compactrnn.cells import FSMN, GILR, GRU, LSTM, MGU, RHN, DuRNN, Elman, FastGRNN, HiPPO, IndRNN, MinGRU
from compactrnn.weights import Kronecker, LowRank

CELLS = [
    partial(LSTM),
    partial(LSTM, proj_size=3),
    partial(GRU),
    partial(GRU, bias=False),
    partial(Elman),
    partial(Elman, nonlinearity="relu"),
    partial(FastGRNN),
    partial(FastGRNN, hidden_weight=LowRank(rank=2)),
    partial(MGU),
    partial(MGU, hidden_weight=LowRank(rank=2)),
    partial(MGU, hidden_weight=Kronecker(out_block=2, in_block=2)),
    partial(IndRNN),
    partial(IndRNN, nonlinearity="tanh"),
    partial(DuRNN, short_size=5),
    partial(DuRNN, output="both"),
    partial(DuRNN, selection=False, nonlinearity="relu"),
    partial(DuRNN, parts="short"),
    partial(DuRNN, parts="long"),
    partial(GILR),
    partial(GILR, nonlinearity="tanh"),
    partial(MinGRU),
    partial(HiPPO, order=5),
    partial(HiPPO, memory_size=2, discretization="backward"),
    partial(FSMN, projection_size=5, look_back=3),
    partial(FSMN, look_back=2, look_ahead=2, stride=2),
    partial(RHN, depth=3),
    partial(RHN, depth=1, bias=False),
    partial(GRU, proj_size=3),
    partial(Elman, proj_size=3, nonlinearity="relu"),
    partial(MGU, proj_size=4, projection_weight=LowRank(rank=2)),
    partial(HiPPO, proj_size=3, order=5),
    partial(DuRNN, proj_size=3, short_size=5),
    partial(IndRNN, proj_size=3),
    partial(MinGRU, proj_size=3),
    partial(RHN, proj_size=3, depth=2),
    partial(FSMN, proj_size=3, projection_size=5, look_back=3),
]


def name_of(make):
    return make.func.__name__ + str(make.keywords)
