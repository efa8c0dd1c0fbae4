"""The report of error against rank: singular values, ranks, and what the model loses."""

import json

import pytest
import torch
from torch import nn

import compactrnn as cr
from test_factorize import MODELS, Reads, X, built, difference


@pytest.mark.parametrize("name", ["lstm", "gru", "tied", "projection", "cells"])
def test_the_report_has_a_row_for_every_matrix(name):
    model, x = built(name)
    before, state = str(model), torch.get_rng_state()
    report = cr.analyze(model, [x])
    assert str(model) == before and torch.equal(torch.get_rng_state(), state)
    plan = cr.plan_factorization(model, cr.LowRank(rank=1), x)
    assert [found.names for found in report.matrices] == [form.names for form in plan.matrices]
    for found in report.matrices:
        if not found.reason:
            assert found.ranks[0].rank <= found.ranks[1].rank <= found.ranks[2].rank
            assert found.cuts[0].error <= found.cuts[2].error + 0.05 and found.cuts[2].error > 0
    lines = str(report).splitlines()
    assert len(lines) == len(report.matrices) + 2 and lines[0].startswith("matrix  ")
    assert json.loads(report.to_json())["matrices"][0]["shape"] == list(report.matrices[0].shape)


def test_energies_and_errors_are_those_of_the_matrix_and_of_the_model():
    model, x = built("lstm")
    report = {found.names[0]: found for found in cr.analyze(model).matrices}
    s = torch.linalg.svdvals(model.head.weight.detach().double())
    head = report["head"]
    assert head.singular_values == pytest.approx(s.tolist())
    point = head.ranks[0]
    energy = s.square().cumsum(0) / s.square().sum()
    assert energy[point.rank - 1] >= 0.9 > energy[point.rank - 2] and point.parameters == point.rank * (40 + 16)
    assert [p.error for p in head.cuts] == [None] * 3 and head.cuts[0].parameters <= 320
    with_data = {found.names[0]: found for found in cr.analyze(model, [x]).matrices}["layers.0.weight_hh_l1"]
    small = cr.plan_factorization(
        model, {"layers.0.weight_hh_l1": cr.LowRank(rank=with_data.cuts[1].rank)}, batches=[x]
    ).apply(model, batches=[x])
    assert with_data.cuts[1].error == pytest.approx(difference(small(x), model(x)), rel=1e-4)


def test_a_loss_takes_the_place_of_the_outputs():
    model, tokens = built("gru")

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["x"]).flatten(0, 1), batch["y"].flatten()).item()

    batch = {"x": tokens, "y": model(tokens).argmax(-1)}
    report = cr.analyze(model, [batch], loss=loss)
    assert report.baseline == pytest.approx(loss(model, batch)) and "increase of the loss" in str(report)
    assert report.matrices[-1].cuts[2].error > 0
    with pytest.raises(ValueError, match="loss: expected a function that returns a number"):
        cr.analyze(model, [tokens], loss=lambda model, batch: model(batch))


def test_a_matrix_that_code_of_the_model_reads_by_itself_stays():
    found = {matrix.names[0]: matrix for matrix in cr.analyze(Reads(), [X]).matrices}
    assert "reads it by itself" in found["head"].reason and found["lstm.weight_hh_l0"].cuts[0].error > 0


def test_one_line_for_a_trained_layer_and_none_for_no_data():
    assert "weight_hh_l0" in str(cr.analyze(nn.LSTM(12, 16, batch_first=True), [X]))
    assert cr.analyze(nn.Linear(4, 4)).matrices[0].cuts[1:] == (None, None)
    with pytest.raises(ValueError, match="Conv1d: expected at least one, got no recurrent"):
        cr.analyze(nn.Conv1d(2, 2, 3))
    with pytest.raises(ValueError, match="batches: expected at least one"):
        cr.analyze(MODELS["lstm"](), [])
    broken = nn.Linear(12, 12)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="weight: expected a trained matrix, got numbers that are not finite"):
        cr.analyze(broken)
