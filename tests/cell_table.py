"""Every cell, in its variants, as keywords of `Recurrent`.

A new cell is a line in `CELLS`, and its equations are in cell_equations.py. The first line of each cell stands for it
where one variant is enough; `VARIANTS` are more, for what is quick to check.
"""

from functools import partial

from compactrnn import cells
from compactrnn.weights import Kronecker, LowRank

CELLS = [
    partial(cells.LSTM),
    partial(cells.LSTM, proj_size=3),
    partial(cells.GRU),
    partial(cells.GRU, bias=False),
    partial(cells.Elman),
    partial(cells.Elman, nonlinearity="relu"),
    partial(cells.FastGRNN),
    partial(cells.FastGRNN, hidden_weight=LowRank(rank=2)),
    partial(cells.MGU),
    partial(cells.MGU, hidden_weight=LowRank(rank=2)),
    partial(cells.MGU, hidden_weight=Kronecker(out_block=2, in_block=2)),
    partial(cells.IndRNN),
    partial(cells.IndRNN, nonlinearity="tanh"),
    partial(cells.DuRNN, short_size=5),
    partial(cells.DuRNN, output="both"),
    partial(cells.DuRNN, selection=False, nonlinearity="relu"),
    partial(cells.DuRNN, parts="short"),
    partial(cells.DuRNN, parts="long"),
    partial(cells.GILR),
    partial(cells.GILR, nonlinearity="tanh"),
    partial(cells.GILRLSTM),
    partial(cells.GILRLSTM, surrogate_size=5, delayed=False),
    partial(cells.MinGRU),
    partial(cells.HiPPO, order=5),
    partial(cells.HiPPO, memory_size=2, discretization="backward"),
    partial(cells.FSMN, projection_size=5, look_back=3),
    partial(cells.FSMN, look_back=2, look_ahead=2, stride=2),
    partial(cells.DFSMN, projection_size=5, look_back=3),
    partial(cells.DFSMN, depth=3, look_back=2, stride=2, inner_sizes=(3, 4)),
    partial(cells.RHN, depth=3),
    partial(cells.RHN, depth=1, bias=False),
    partial(cells.PeepholeLSTM),
    partial(cells.LazyLSTM),
    partial(cells.LazyLSTM, lazy="gate"),
    partial(cells.DIALSTM),
    partial(cells.CoupledLSTM),
    partial(cells.LayerNormLSTM),
    partial(cells.LRU, state_size=5),
    partial(cells.HiPPO, measure="legt", order=5),
    partial(cells.HiPPO, measure="lagt", memory_size=2),
    partial(cells.LMU, order=5, window=20),
    partial(cells.OrthogonalRNN),
    partial(cells.OrthogonalRNN, orthogonal_map="cayley", nonlinearity="tanh"),
    partial(cells.URNN),
    partial(cells.URNN, unitary=False),
    partial(cells.ENRNN),
    partial(cells.FastRNN),
    partial(cells.NBRC),
    partial(cells.SLSTM),
    partial(cells.MinLSTM),
    partial(cells.SRU),
    partial(cells.SRU, peephole=False),
    partial(cells.QRNN, window=1),
    partial(cells.QRNN),
    partial(cells.GRU, proj_size=3),
    partial(cells.Elman, proj_size=3, nonlinearity="relu"),
    partial(cells.MGU, proj_size=4, projection_weight=LowRank(rank=2)),
    partial(cells.HiPPO, proj_size=3, order=5),
    partial(cells.DuRNN, proj_size=3, short_size=5),
    partial(cells.IndRNN, proj_size=3),
    partial(cells.MinGRU, proj_size=3),
    partial(cells.RHN, proj_size=3, depth=2),
    partial(cells.FSMN, proj_size=3, projection_size=5, look_back=3),
]

VARIANTS = [
    partial(cells.LSTM, bias=False),
    partial(cells.FastGRNN, bias=False),
    partial(cells.MGU, bias=False),
    partial(cells.IndRNN, bias=False, nonlinearity="tanh", steps=100, recurrent_init="one"),
    partial(cells.DuRNN, bias=False, short_size=5, nonlinearity="relu", steps=100),
    partial(cells.DuRNN, short_size=4, output="both"),
    partial(cells.DuRNN, short_size=5, selection=False),
    partial(cells.DuRNN, selection=False, bias=False),
    partial(cells.DuRNN, constraint="penalty"),
    partial(cells.DuRNN, constraint=None),
    partial(cells.GILR, bias=False),
    partial(cells.GILR, nonlinearity="tanh", forget_bias="chrono", steps=50),
    partial(cells.GILR, nonlinearity="relu", forget_bias=-1.0),
    partial(cells.GILRLSTM, bias=False, surrogate_size=5, delayed=False),
    partial(cells.MinGRU, bias=False),
    partial(cells.HiPPO),
    partial(cells.HiPPO, bias=False, order=7, discretization="backward"),
    partial(cells.HiPPO, order=9, memory_size=2, discretization="backward"),
    partial(cells.FSMN, bias=False, projection_size=5, look_back=1, nonlinearity="tanh"),
    partial(cells.FSMN, projection_size=5, look_back=2, look_ahead=3, stride=2, nonlinearity="sigmoid"),
    partial(cells.FSMN, look_back=4, stride=2),
    partial(
        cells.DFSMN,
        bias=False,
        depth=3,
        projection_size=5,
        inner_sizes=(3, 5),
        look_back=2,
        stride=2,
        nonlinearity="tanh",
    ),
    partial(cells.RHN),
    partial(cells.RHN, depth=1, transform_bias=1.0),
    partial(cells.PeepholeLSTM, bias=False),
    partial(cells.LazyLSTM, bias=False, lazy="gate"),
    partial(cells.DIALSTM, bias=False, input_bottleneck=3, hidden_bottleneck=5),
    partial(cells.CoupledLSTM, bias=False),
    partial(cells.LRU),
    partial(cells.LRU, state_size=5, radius=(0.5, 0.9), phase=1.0),
    partial(cells.LMU, bias=False, order=5, window=12),
    partial(cells.HiPPO, measure="legt", order=5, window=20),
    partial(cells.HiPPO, measure="lagt", memory_size=2, discretization="bilinear"),
    partial(cells.HiPPO, measure="lagt", window=10),
    partial(cells.ENRNN, short_size=3, negative=1, coupled=False),
    partial(cells.FastRNN, bias=False),
    partial(cells.NBRC, bias=False),
    partial(cells.SLSTM, bias=False),
    partial(cells.MinLSTM, bias=False),
    partial(cells.SRU, bias=False),
    partial(cells.QRNN, bias=False),
]
FIRST = {make.func: make for make in reversed(CELLS)}


def reads_ahead(make):
    """Whether the cell reads later steps, so that it has no stream."""
    return bool(make.keywords.get("look_ahead"))


def name_of(make):
    return make.func.__name__ + str(make.keywords)
