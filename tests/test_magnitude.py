"""Magnitude pruning leaves the entries that were asked for, in weights that store nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.compress import ThresholdRamp
from compactrnn.layers.matrices import matrices
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
    "unbalanced": cr.BlockSparse(block=(1, 1), keep=0.2, balanced=False),
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


@pytest.mark.parametrize("threshold", [False, True])
def test_a_stopped_training_goes_on_exactly(threshold):
    results = []
    spec = cr.BlockSparse(keep=0.25, balanced=not threshold)
    schedule = ThresholdRamp() if threshold else "cubic"
    for stop in (False, True):
        torch.manual_seed(0)
        model = Tower()
        pruner = cr.Magnitude(model, spec, steps=20, interval=3, schedule=schedule)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        train(model, pruner, 13, optimizer)
        if stop:
            saved = model.state_dict(), pruner.state_dict(), optimizer.state_dict()
            model = Tower()
            pruner = cr.Magnitude(model, spec, steps=20, interval=3, schedule=schedule)
            optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            for part, state in zip((model, pruner, optimizer), saved, strict=True):
                part.load_state_dict(state)
        train(model, pruner, 12, optimizer)
        results.append(pruner.shrink().state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))


@pytest.mark.parametrize("threshold", [False, True])
def test_frozen_matrices_stay_and_are_pruned_once_they_are_unfrozen(threshold):
    torch.manual_seed(0)
    model, spec = Tower(), cr.BlockSparse(block=(1, 1), keep=0.25, balanced=not threshold)
    model.lstm.requires_grad_(False)
    model.gru.weight_hh_l0.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruner = cr.Magnitude(model, spec, steps=6, interval=2, schedule=ThresholdRamp() if threshold else "cubic")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    train(model, pruner, 8, optimizer)
    frozen = ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "gru.weight_hh_l0"]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in frozen)
    reasons = {form.name: form.reason for form in pruner.report().matrices}
    assert [name for name, reason in reasons.items() if reason == "it is frozen"] == frozen
    small = pruner.shrink()
    assert isinstance(small.lstm.weight_hh_l0, nn.Parameter) and not small.lstm.weight_hh_l0.requires_grad
    assert isinstance(small.gru.weight_ih_l0, SparseWeight | BlockSparseWeight)
    torch.testing.assert_close(small(tokens()), model(tokens()))
    model.lstm.requires_grad_(True)
    train(model, pruner, 1, optimizer)
    assert model.lstm.weight_hh_l0.count_nonzero() < 0.5 * model.lstm.weight_hh_l0.numel()
    torch.testing.assert_close(pruner.shrink()(tokens()), model(tokens()))


def test_a_model_of_frozen_matrices_alone_is_left_with_a_warning():
    model = Tower().requires_grad_(False)
    pruner = cr.Magnitude(model, cr.Sparse(keep=0.25), steps=1)
    pruner.step()
    with pytest.warns(UserWarning, match="every matrix is frozen"):
        small = pruner.shrink()
    assert torch.equal(small(tokens()), model(tokens()))


def test_a_model_without_a_matrix_to_prune_is_refused_with_the_reasons():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"model: expected .*, got none \(0: it is computed from other parameters"):
        cr.Magnitude(nn.Sequential(model, nn.ReLU()), cr.Sparse(keep=0.5), steps=1)


class WeightDropped(nn.Module):
    """The recurrent matrix is a tensor that `forward` sets, as in AWD-LSTM."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 8)
        self.raw = self.lstm._parameters.pop("weight_hh_l0")
        self.lstm.weight_hh_l0 = self.raw.detach()

    def forward(self, x):
        self.lstm.weight_hh_l0 = nn.functional.dropout(self.raw, 0.5, self.training)
        return self.head(self.lstm(x)[0])


class Encoded(nn.Module):
    """A layer of a transformer, which reads matrices by itself in eval mode, and a penalty that reads another."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y = self.head(self.block(self.gru(x)[0]))
        return self.other(y) + self.other.weight.square().sum()


def test_what_the_code_of_the_model_reads_itself_stays():
    model, x = Encoded().eval(), torch.randn(2, 5, 4)
    pruner = cr.Magnitude(model, cr.Sparse(keep=0.25), steps=1, example_inputs=x)
    pruner.step()
    reasons = {form.name: form.reason for form in pruner.report().matrices}
    assert "TransformerEncoderLayer reads it" in reasons["block.linear1"] and "by itself" in reasons["other"]
    assert not reasons["head"] and not reasons["gru.weight_hh_l0"]
    small = pruner.shrink()
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x))


def test_a_layer_that_cannot_take_weights_stays_and_says_why():
    model, x = WeightDropped().eval(), torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match=r"lstm.weight_ih_l0: expected .* LSTM.weight_hh_l0 is not a parameter"):
        cr.Magnitude(model, {"lstm.weight_ih_l0": cr.Sparse(keep=0.25)}, steps=1)
    pruner = cr.Magnitude(model, cr.Sparse(keep=0.25), steps=1)
    pruner.step()
    reasons = {form.name: form.reason for form in pruner.report().matrices}
    assert "computed from others" in reasons["lstm.weight_ih_l0"] and not reasons["head"]
    assert torch.equal(pruner.shrink()(x), model(x))


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


def test_the_threshold_is_that_of_the_equations():
    """By hand: start 100, ramp at 300, end 500, q = 0.8, frequency 50; a = 2 * 0.8 * 50 / (400 + 600) = 0.08."""
    ramp = ThresholdRamp(ramp=200)
    schedule = {"start": 100, "steps": 400, "interval": 50}
    wanted = {
        150: 0.08 * 51 / 50,  # 0.0816
        250: 0.08 * 151 / 50,  # 0.2416
        300: (0.08 * 201 + 0.12 * 1) / 50,  # 0.324
        450: (0.08 * 201 + 0.12 * 151) / 50,  # 0.684
    }
    for step, value in wanted.items():
        assert ramp.sets(step, **schedule) and ramp.threshold(step, 0.8, **schedule) == pytest.approx(value, rel=1e-12)
    assert [step for step in range(1, 600) if ramp.sets(step, **schedule)] == [150, 200, 250, 300, 350, 400, 450]
    assert ramp.threshold(499, 0.8, **schedule) == pytest.approx(0.8, rel=0.01), "it ends at about q"
    steeper = ThresholdRamp(ramp=200, slope=2.0).threshold(450, 0.8, **schedule)
    assert steeper == pytest.approx((0.08 * 201 + 0.16 * 151) / 50)
    assert ThresholdRamp().threshold(450, 0.8, **schedule) == ramp.threshold(450, 0.8, **schedule)


FREE = cr.BlockSparse(block=(1, 1), keep=0.1, balanced=False)


def test_what_is_below_the_threshold_of_its_kind_becomes_zero():
    torch.manual_seed(0)
    model, trained = Tower(), Tower()
    with torch.no_grad():
        trained.lstm.weight_hh_l0.mul_(2)
    kinds = [("lstm.weight_hh_l0", "gru.weight_hh_l0", "rest.cells.0.0.forget", "rest.cells.0.0.candidate")]
    kinds.append(("lstm.weight_ih_l0", "gru.weight_ih_l0", "rest.cells.0.0.input", "head"))
    found = {m.name: m.dense() for m in matrices(trained)}
    ends = {}
    for names in kinds:
        values = torch.cat([found[name].abs().flatten() for name in names]).sort().values
        ends |= dict.fromkeys(names, float(values[round(0.9 * len(values))]))  # nine tenths are smaller
    pruner = cr.Magnitude(model, FREE, steps=40, start=4, interval=5, schedule=ThresholdRamp(trained=trained))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    train(model, pruner, 24, optimizer)
    before = {m.name: m.dense().clone() for m in matrices(model)}
    with torch.no_grad():  # as an update that moves nothing, but brings one entry back
        model.lstm.weight_hh_l0[0, 0] = before["lstm.weight_hh_l0"][0, 0] = 5.0
    pruner.step()  # 25: a multiple of 5, past the ramp at 24
    a = 2 / (2 * 20 + 3 * 20)  # times q; frequencies cancel
    now = {m.name: m.dense() for m in matrices(model)}
    assert torch.equal(now["embedding"], before["embedding"])
    for name, end in ends.items():
        threshold = end * a * (21 + 1.5 * 2)
        kept = before[name].abs() >= threshold
        assert torch.equal(now[name], before[name] * kept) and 0.1 < kept.float().mean() < 0.95, name
    assert now["lstm.weight_hh_l0"][0, 0] == 5


@pytest.mark.parametrize("block", [(1, 1), (4, 2), (8, 1)])
def test_what_a_threshold_leaves_is_reported_stored_and_run(block, tmp_path):
    torch.manual_seed(0)
    model = Tower()
    spec = cr.BlockSparse(block=block, keep=0.3, balanced=False)
    pruner = cr.Magnitude(model, spec, steps=20, interval=3, schedule=ThresholdRamp(slope=2.0))
    train(model, pruner, 24, torch.optim.Adam(model.parameters(), 1e-2))
    small = pruner.shrink().eval()
    with torch.no_grad():
        torch.testing.assert_close(small(tokens()), model.eval()(tokens()), rtol=1e-5, atol=1e-6)
    assert pruner.report().parameters[1] == sum(p.numel() for p in small.parameters())
    if block == (1, 1):
        there = sum(int(m.dense().count_nonzero()) for m in matrices(model) if m.name != "embedding")
        assert sum(m.stored_parameters() for m in small.modules() if isinstance(m, BlockSparseWeight)) == there
    rows = small.lstm.weight_hh_l0.dense().count_nonzero(1)
    assert len(rows.unique()) > 1, "rows have different numbers"
    x = tokens(5)[:1]
    cr.pack(small, tmp_path / "model.crnn", x, weights="float32")
    with torch.no_grad():
        expected = small(x)[0].numpy()
    np.testing.assert_allclose(cr.Engine(tmp_path / "model.crnn").run(x[0].numpy()), expected, rtol=0, atol=1e-5)


def test_one_entry_of_a_matrix_is_left_at_least():
    model, trained = nn.Sequential(nn.Linear(6, 6)), nn.Sequential(nn.Linear(6, 6))
    nn.init.constant_(trained[0].weight, 100.0)
    pruner = cr.Magnitude(model, FREE, steps=10, interval=2, schedule=ThresholdRamp(trained=trained))
    largest = model[0].weight.abs().max()
    for _ in range(10):
        pruner.step()
    assert model[0].weight.count_nonzero() == 1 and model[0].weight.abs().max() == largest
    assert pruner.shrink()[0].weight.stored_parameters() == 1


@pytest.mark.parametrize(
    "spec, options, message",
    [
        (
            cr.Sparse(keep=0.1),
            {},
            r"spec: lstm.weight_ih_l0: expected BlockSparse\(..., balanced=F.*got Sparse",
        ),
        (cr.BlockSparse(keep=0.1), {}, "balanced=True"),
        (FREE, {"schedule": "linear"}, "schedule: expected"),
        (FREE, {"schedule": ThresholdRamp(ramp=30)}, "ramp: expected at most the 20 steps"),
        (FREE, {"interval": 20}, "interval: expected one or more, got no multiple of 20 between steps 0 and 20"),
        (FREE, {"schedule": ThresholdRamp(trained=nn.Linear(3, 3))}, "trained: expected .* without lstm.weight_ih_l0"),
    ],
)
def test_a_threshold_refuses_what_it_cannot_do(spec, options, message):
    with pytest.raises(ValueError, match=message):
        cr.Magnitude(Tower(), spec, **{"steps": 20, "interval": 5, "schedule": ThresholdRamp(), **options})
    for arguments in ({"ramp": 0}, {"slope": 0.0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            ThresholdRamp(**arguments)
