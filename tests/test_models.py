"""Models by their options, weights by their names."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

import compactrnn as cr
from compactrnn import weights
from compactrnn.models import LanguageModel, LanguageModelOptions, SequenceModel, SequenceModelOptions
from compactrnn.weights.registry import weight_kinds, weight_spec, weight_table


def test_every_exported_weight_is_known_by_its_name():
    known = {"Dense": weights.Dense, "Kronecker": weights.Kronecker, "LowRank": weights.LowRank}
    assert weight_kinds().items() >= known.items()
    assert weight_spec({"kind": "Kronecker", "out_block": 4, "in_block": 2}) == weights.Kronecker(4, 2)


def test_a_weight_that_is_exported_later_needs_no_entry(monkeypatch):
    class Mine(weights.Dense):
        pass

    monkeypatch.setattr(weights, "Mine", Mine, raising=False)
    assert weight_spec({"kind": "Mine"}) == Mine()


@pytest.mark.parametrize("kind", ["Magic", None, "WeightSpec", "DENSE", "DenseWeight", 3])
def test_other_names_are_refused_with_the_known_ones(kind):
    with pytest.raises(ValueError, match=r"weight kind: expected one of .*Dense.*, Kronecker, LowRank, .*got"):
        weight_spec({"kind": kind})


def test_options_that_a_weight_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"weight LowRank: expected its own options .*speed.*, got"):
        weight_spec({"kind": "LowRank", "speed": 3})


def test_the_sizes_of_a_model_are_options_that_build_it_again():
    for model, build in (
        (LanguageModel(9, LanguageModelOptions(hidden=(5, 3))), lambda o: LanguageModel(9, LanguageModelOptions(**o))),
        (SequenceModel(2, 3, SequenceModelOptions(hidden=(4, 6))), lambda o: SequenceModel(2, 3, _sequence(o))),
        (
            SequenceModel(2, 3, SequenceModelOptions(hidden=(4, 6), projection=(3, 5))),
            lambda o: SequenceModel(2, 3, _sequence(o)),
        ),
    ):
        again = build(model.size_options())
        assert {n: t.shape for n, t in again.state_dict().items()} == {
            n: t.shape for n, t in model.state_dict().items()
        }


def _sequence(options):
    return SequenceModelOptions(**options)


def test_models_know_no_task():
    code = "import sys, compactrnn.models; assert not [m for m in sys.modules if m.startswith('compactrnn.tasks')]"
    subprocess.run([sys.executable, "-c", code], check=True)


SPECS = [
    weights.LowRank(4) + weights.Diagonal(),
    weights.Doped(weights.Kronecker(4, 2), keep=0.01),
    weights.Doped(weights.LowRank(rank=2) + weights.Monarch(blocks=2), keep=0.1),
    weights.Hashed(compression=8),
    weights.TensorTrain(rank=2, modes=2),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_weight_comes_back_from_its_table(spec):
    table = json.loads(json.dumps(weight_table(spec)))
    assert weight_spec(table) == spec and table["kind"] == type(spec).__name__


def test_what_is_not_exported_has_no_table():
    @dataclass(frozen=True)
    class Mine(weights.Dense):
        pass

    assert weight_table(Mine()) is None is weight_table(weights.Doped(Mine() + weights.Dense(), keep=0.1))


def test_sums_are_flat_and_have_parts():
    spec = weights.LowRank(4) + weights.Diagonal() + weights.Sparse(0.1)
    assert spec == weights.Sum((weights.LowRank(4), weights.Diagonal(), weights.Sparse(0.1)))
    assert weight_spec({"kind": "Sum", "parts": [{"kind": "LowRank", "rank": 4}, {"kind": "Diagonal"}]})
    for parts in ((), (weights.Dense(),)):
        with pytest.raises(ValueError, match="parts of a Sum: expected two weights or more"):
            weights.Sum(parts)
    with pytest.raises(ValueError, match=r"parts of a Sum: expected weights such as .*got 'Dense'"):
        weights.Sum((weights.Dense(), "Dense"))
    with pytest.raises(TypeError):
        weights.LowRank(4) + 3


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "MinGRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_projections_stand_between_the_layers(cell, bidirectional):
    options = SequenceModelOptions(hidden=(8, 6), projection=(3, 4), cell=cell, bidirectional=bidirectional)
    model, directions = SequenceModel(2, 5, options, every_step=True), 1 + bidirectional
    assert model(torch.randn(2, 7, 2)).shape == (2, 7, 5)
    assert model.output.in_features == 4 * directions
    (first, second) = model.layers
    inputs = second.weight_ih_l0.shape[1] if cell == "LSTM" else second.cells[0][0].input.in_features
    assert (first.proj_size, second.proj_size, inputs) == (3, 4, 3 * directions)
    with pytest.raises(ValueError, match=r"model.projection: expected none, or 2 sizes.*, got \[3\]"):
        SequenceModel(2, 5, SequenceModelOptions(hidden=(8, 6), projection=(3,)))


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "MGU"])
@pytest.mark.parametrize("units", [4, 3])
def test_a_layer_may_become_as_narrow_as_its_projection(cell, units):
    torch.manual_seed(0)
    options = SequenceModelOptions(hidden=(8, 8), projection=(4, 4), cell=cell)
    model, x = SequenceModel(3, 4, options), torch.randn(2, 6, 3)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    for group in pruner.groups:
        if group.count == 8:
            group.decay_(torch.ones(8).index_fill(0, torch.arange(8 - units), 0.0))
    small = pruner.shrink()
    assert small.size_options() == {"hidden": (units, units), "projection": (4, 4), "weights": {}}
    again = SequenceModel(3, 4, SequenceModelOptions(cell=cell, **small.size_options()))
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), model.eval()(x))
