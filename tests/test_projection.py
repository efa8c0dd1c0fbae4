"""Projections of trained layers: a model whose matrices share a factor stays the same, and recipes train on from it."""

from types import SimpleNamespace

import pytest
import torch

from compactrnn.compress.projection import project_
from compactrnn.models import AcousticModel, AcousticModelOptions, SequenceModel, SequenceModelOptions
from compactrnn.training.factorize import factorize_model_
from compactrnn.training.recipe import FactorizeOptions

X = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([9, 4, 7])


def stack(projection=(), bidirectional=False, **options):
    torch.manual_seed(0)
    chosen = SequenceModelOptions(hidden=(12, 10, 8), projection=projection, bidirectional=bidirectional, **options)
    return SequenceModel(5, 4, chosen, every_step=True).eval()


def expanded(small):
    """A model without projections, with the products of the factors of `small` in their places."""
    both = small.options.bidirectional
    large, parts = stack(bidirectional=both), [dict(layer.named_parameters()) for layer in small.layers]
    suffixes = ("", "_reverse") if both else ("",)

    def behind(matrix, number):
        """Of a matrix that reads layer `number`."""
        blocks = matrix.chunk(len(suffixes), 1)
        factors = [parts[number].get(f"weight_hr_l0{s}") for s in suffixes]
        return torch.cat([b if f is None else b @ f for b, f in zip(blocks, factors, strict=True)], 1)

    for number, layer in enumerate(large.layers):
        tensors = {name: value for name, value in parts[number].items() if "_hr_" not in name}
        for s in suffixes:
            factor = parts[number].get(f"weight_hr_l0{s}")
            if factor is not None:
                tensors[f"weight_hh_l0{s}"] = tensors[f"weight_hh_l0{s}"] @ factor
            if number:
                tensors[f"weight_ih_l0{s}"] = behind(tensors[f"weight_ih_l0{s}"], number - 1)
        layer.load_state_dict(tensors)
    large.output.load_state_dict({"weight": behind(small.output.weight, len(parts) - 1), "bias": small.output.bias})
    return large


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4, 2), (0, 4, 0), (0, 0, 3)])
@torch.no_grad()
def test_a_factor_that_matrices_share_is_found(sizes, bidirectional, calibrated):
    small = stack(sizes, bidirectional)
    model = expanded(small)
    before = model(X, LENGTHS)
    assert (before - small(X, LENGTHS)).abs().max() < 1e-6  # the two are one function
    project_(model, sizes, [(X,)] if calibrated else None)
    assert (model(X, LENGTHS) - before).abs().max() < 1e-4 * before.abs().max()
    assert model.size_options()["projection"] == sizes
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters()}
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == shapes


@torch.no_grad()
def test_calibration_loses_less_of_what_the_matrices_give():
    plain, aware = stack(), stack()
    before = plain(X)
    project_(plain, (2, 2, 2))
    project_(aware, (2, 2, 2), [(X,)])
    assert 0 < (aware(X) - before).norm() < (plain(X) - before).norm()


def test_a_recipe_projects_then_factorizes():
    torch.manual_seed(0)
    options = AcousticModelOptions(hidden=(12, 12), bidirectional=True)
    model = AcousticModel(6, 5, options)
    wishes = FactorizeOptions(
        projection=(0, 4), weights={"sequence_model.layers.0.weight_hh_*": {"kind": "ToeplitzLike", "rank": 2}}
    )
    factorize_model_(model, SimpleNamespace(updates_per_epoch=lambda: 1), wishes)  # pyright: ignore
    again = AcousticModel(6, 5, AcousticModelOptions(bidirectional=True, **model.size_options()))
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 8, 18)
    assert torch.equal(again.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("model", "sizes", "message"),
    [
        (lambda: stack(), (3, 4), "a number for each layer"),
        (lambda: stack(), (3, 4, 8), "less than its units"),
        (lambda: stack(cell="GRU"), (3, 4, 2), "plain layers of LSTM"),
        (lambda: stack((3, 4, 2)), (3, 4, 2), "without projections"),
        (lambda: torch.nn.LSTM(3, 4), (2,), "got a LSTM"),
    ],
)
def test_what_does_not_fit_is_refused_and_stays(model, sizes, message):
    built = model()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        project_(built, sizes)
    assert all(torch.equal(before[name], value) for name, value in built.state_dict().items())
