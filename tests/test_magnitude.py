"""Magnitude pruning leaves the entries that were asked for, in weights that store nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.weights.block_sparse import BlockSparseWeight
from compactrnn.weights.sparse import SparseWeight


class Tower(nn.Module):
    """Layers of several kinds."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.lstm = nn.LSTM(12, 32, batch_first=True)
        self.gru = cr.GRU(32, 16, batch_first=True)
        self.rest = cr.Recurrent(cr.MGU, 16, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.rest(self.gru(self.lstm(self.embedding(x))[0])[0])[0])


def tokens(seed=0):
    return torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(seed))


def train(model, pruner, steps, optimizer, after=lambda: None):
    for step in range(steps):
        loss = (model(tokens(step)) - 1).square().mean() + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
        after()


SPECS = {
    "single": cr.Sparse(keep=0.25),
    "blocks": cr.BlockSparse(keep=0.5),
    "columns": cr.BlockSparse(block=(16, 1), keep=0.25),
    "by name": {"lstm": cr.BlockSparse(keep=0.5), "gru.weight_hh_l0": cr.Sparse(keep=0.1), "head": None},
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_is_left_is_all_that_is_stored_and_the_engine_agrees(spec, tmp_path):
    torch.manual_seed(0)
    model = Tower()
    pruner = cr.Magnitude(model, spec, steps=20, interval=4)
    train(model, pruner, 25, torch.optim.Adam(model.parameters(), 1e-2))
    small = pruner.shrink().eval()
    with torch.no_grad():
        torch.testing.assert_close(small(tokens()), model.eval()(tokens()), rtol=1e-5, atol=1e-6)
    pruned = [m for m in small.modules() if isinstance(m, SparseWeight | BlockSparseWeight)]
    assert len(pruned) == (3 if isinstance(spec, dict) else 8)
    assert all(weight.stored_parameters() < weight.out_features * weight.in_features for weight in pruned)
    assert pruner.report().parameters[1] == sum(p.numel() for p in small.parameters())
    assert isinstance(small.embedding.weight, nn.Parameter)
    x = tokens(5)[:1]
    cr.pack(small, tmp_path / "model.crnn", x, weights="float32")
    with torch.no_grad():
        expected = small(x)[0].numpy()
    np.testing.assert_allclose(cr.Engine(tmp_path / "model.crnn").run(x[0].numpy()), expected, rtol=0, atol=1e-5)


def test_rows_keep_the_scheduled_share_and_then_the_same_entries():
    torch.manual_seed(0)
    model = Tower()
    pruner = cr.Magnitude(model, cr.Sparse(keep=0.25), steps=20, start=10, interval=5)
    counts, places = [], []

    def watch():
        weight = model.lstm.weight_hh_l0.detach()
        counts.append(weight.count_nonzero(1).unique().tolist())
        places.append(weight != 0)

    train(model, pruner, 40, torch.optim.Adam(model.parameters(), 1e-2), watch)
    assert all(found == [32] for found in counts[:14])
    for count in (15, 20, 25, 30):
        share = 0.25 + 0.75 * (1 - (count - 10) / 20) ** 3
        assert counts[count - 1] == [round(share * 32)], count
    assert all(torch.equal(mask, places[29]) for mask in places[29:])


def test_a_stopped_training_goes_on_exactly():
    results = []
    for stop in (False, True):
        torch.manual_seed(0)
        model = Tower()
        pruner = cr.Magnitude(model, cr.BlockSparse(keep=0.25), steps=20, interval=3)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        train(model, pruner, 13, optimizer)
        if stop:
            saved = model.state_dict(), pruner.state_dict(), optimizer.state_dict()
            model = Tower()
            pruner = cr.Magnitude(model, cr.BlockSparse(keep=0.25), steps=20, interval=3)
            optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            for part, state in zip((model, pruner, optimizer), saved, strict=True):
                part.load_state_dict(state)
        train(model, pruner, 12, optimizer)
        results.append(pruner.shrink().state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))


def test_shrinking_too_early_warns():
    pruner = cr.Magnitude(Tower(), cr.Sparse(keep=0.25), steps=20)
    with pytest.warns(UserWarning, match="step 0 of 20"):
        pruner.shrink()


@pytest.mark.parametrize(
    "spec, options, message",
    [
        (None, {}, r"spec: expected Sparse\(keep=...\), .* got None"),
        (cr.LowRank(rank=2), {}, r"spec: expected Sparse.* got LowRank"),
        ({"nothing": cr.Sparse(keep=0.5)}, {}, "unknown name 'nothing'"),
        ({"embedding": cr.Sparse(keep=0.5)}, {}, "embedding"),
        (cr.Sparse(keep=0.5), {"steps": 0}, "steps"),
        (cr.Sparse(keep=0.5), {"start": -1}, "start: expected an int of 0 or more"),
        (cr.Sparse(keep=0.5), {"interval": 0}, "interval"),
    ],
)
def test_bad_arguments_are_refused(spec, options, message):
    with pytest.raises(ValueError, match=message):
        cr.Magnitude(Tower(), spec, **{"steps": 5, **options})


def test_the_state_of_another_pruner_is_refused():
    pruner = cr.Magnitude(Tower(), cr.Sparse(keep=0.5), steps=5)
    other = cr.Magnitude(Tower(), {"lstm": cr.Sparse(keep=0.5)}, steps=5)
    with pytest.raises(ValueError, match="pruner state"):
        pruner.load_state_dict(other.state_dict())
