"""Cell, weight and compressor drawn at random, which train, shrink, pack and stream together.

Every run draws others, but for those with `CI` set, which speak of a change alone, as Hypothesis does it;
`TRIPLES_SEED=n` draws those of a run again, whose output says n.
"""

import functools
import itertools
import os
import random
import re
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from cell_table import CELLS, name_of
from compactrnn.layers import cells_of
from compactrnn.weights.registry import weight_kinds

SEED = int(os.environ.get("TRIPLES_SEED") or (0 if os.environ.get("CI") else time.time_ns() % 2**31))
COUNT = 20
INPUTS, HIDDEN = 8, 16
ARGUMENTS = {
    "BlockCirculant": {"block": 4},
    "BlockDiagonal": {"blocks": 2},
    "BlockSparse": {"block": (4, 2), "keep": 0.5},
    "Circulant": {},
    "Convolution": {"positions": (2, 2)},
    "Dense": {},
    "Diagonal": {},
    "Doped": {"weight": cr.LowRank(rank=2), "keep": 0.1},
    "Hashed": {"compression": 2},
    "Kronecker": {"out_block": 4, "in_block": 2},
    "LowRank": {"rank": 2},
    "Monarch": {"blocks": 2},
    "Quantized": {},
    "Sparse": {"keep": 0.3},
    "Sum": {"parts": (cr.LowRank(rank=2), cr.Kronecker(out_block=2, in_block=2))},
    "TensorTrain": {"rank": 2, "modes": 2},
    "ToeplitzLike": {"rank": 2},
}
LAST = ("Quantized",)  # what compressors refuse, as they come before it; see tests/test_quantize.py
# why a cell may refuse a weight: sizes that its structure cannot have, a matrix that the cell bounds in its own way
REFUSALS = (
    "expected a multiple of|a diagonal matrix is square|rank: expected at most|"
    "hidden_weight: expected .* with constraint="
)
# why a compressor may refuse both: units that depend on each other, later steps, matrices in a structure already
NOT_COMPRESSED = "over all units|of all units|as a whole|which reads later steps|expected one or more"


def proximal(model, example_inputs):
    return cr.GroupLasso(model, example_inputs, strength=0.02, threshold=0.05)


def gradual(model, example_inputs):
    return cr.GroupLasso(model, example_inputs, keep=0.5, steps=3)


def gates(model, example_inputs):
    return cr.NeuronSelection(model, example_inputs, keep=0.6, steps=3)


def entries(model, example_inputs):
    return cr.Magnitude(model, cr.Sparse(keep=0.5), steps=3, interval=1)


def thresholds(model, example_inputs):
    return cr.Delta(model, example_inputs, threshold=0.1, steps=3, interval=1)


def quantized(model, example_inputs):
    return cr.Quantize(model, "int8")


COMPRESSORS = [
    *(proximal, gradual, gates, entries, thresholds, quantized),
    functools.partial(cr.factorize_, spec=cr.LowRank(energy=0.95)),
]


class Triple(NamedTuple):
    cell: functools.partial
    weight: str
    compressor: object

    def __str__(self):
        compressor = getattr(self.compressor, "func", self.compressor).__name__
        return f"{name_of(self.cell)}, {self.weight} {ARGUMENTS[self.weight]}, {compressor}"


class Model(nn.Module):
    def __init__(self, triple):
        super().__init__()
        options = self.cell_options(triple)
        self.rnn = cr.Recurrent(triple.cell.func, INPUTS, HIDDEN, 2, batch_first=True, **options)
        self.out = nn.Linear(self.rnn.cells[-1][0].output_size, 3)

    @staticmethod
    def cell_options(triple):
        """The weight for every matrix that the cell takes one for, but for what the cell table says itself."""
        spec = weight_kinds()[triple.weight](**ARGUMENTS[triple.weight])
        defaults = triple.cell.func.__init__.__kwdefaults__
        weights = [name for name, default in defaults.items() if isinstance(default, cr.weights.WeightSpec)]
        weights += ["projection_weight"] * ("proj_size" in triple.cell.keywords)
        return {**dict.fromkeys(weights, spec), **triple.cell.keywords}

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def units(model):
    return sum(cell.unit_count(own) for row in cells_of(model.rnn) for cell in row for own in cell.units)


@functools.cache
def drawn():
    """The first triples, in an order drawn with `SEED`, of which the cell does not refuse the weight."""
    order = [Triple(*t) for t in itertools.product(CELLS, sorted(weight_kinds().keys() - LAST), COMPRESSORS)]
    random.Random(SEED).shuffle(order)
    found = []
    for triple in order:
        try:
            model = Model(triple)
        except ValueError as error:
            assert re.search(REFUSALS, str(error)), f"{triple}: {error}"
            continue
        try:
            triple.compressor(model, example_inputs=torch.randn(1, 9, INPUTS))
        except ValueError as error:
            assert re.search(NOT_COMPRESSED, str(error)), f"{triple}: {error}"
        else:
            found.append(triple)
        if len(found) == COUNT:
            return found
    raise AssertionError(f"only {len(found)} of {len(order)} triples can be made")


def test_every_weight_can_be_drawn():
    assert set(weight_kinds()) <= set(ARGUMENTS), "a line in ARGUMENTS is missing"


@pytest.mark.filterwarnings("ignore:.*(plain loop over time|units were cut)")
@pytest.mark.parametrize("number", range(COUNT))
def test_a_triple_trains_shrinks_packs_and_streams(number, tmp_path):
    triple = drawn()[number]
    print(f"TRIPLES_SEED={SEED}, number {number}: {triple}")
    torch.manual_seed(SEED + number)
    model, x, target = Model(triple), torch.randn(4, 9, INPUTS), torch.randn(4, 9, 3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = None if hasattr(triple.compressor, "func") else triple.compressor(model, x)
    losses = []
    for _ in range(4):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        (loss if pruner is None else loss + pruner.penalty()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)
        losses.append(float(loss.detach()))
    assert all(np.isfinite(losses))
    model.eval()
    if pruner is None:
        assert losses[-1] < losses[0]
        small = triple.compressor(model, example_inputs=x)
    else:
        small = pruner.shrink().eval()
        assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
        if triple.compressor is gradual:
            assert units(small) < units(model)  # of parameters there are more where a structure cannot be cut

    path = tmp_path / "model.crnn"
    trained = pruner.report().matrices if triple.compressor is quantized else ()
    types = {
        name: m.type for m in trained for name in m.names if m.type != "float32"
    }  # the others are stored as they are
    report = cr.pack(small, path, x[:1], weights=types | {"*": "float32"}, calibration=[x])
    engine, given = cr.Engine(path), x[0].numpy()
    wanted = small(x[:1])[0].detach().numpy()
    assert np.abs(engine.run(given) - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())
    assert engine.macs_per_step == report.macs_per_step
    assert engine.offline == any(cell.steps_ahead for row in small.rnn.rows() for cell in row)
    if not engine.offline:
        stream = engine.stream()
        steps = np.stack([stream.step(row) for row in given])
        assert np.array_equal(steps, engine.run(given)) and np.array_equal(steps, engine.stream().run(given))
