"""No model and no cell step is exported by torch more often than needed."""

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.lower import lowering
from outputs_alone import OutputsAlone

X = torch.randn(1, 9, 7)


# one export of the model, and one for each class of cells and sizes that has no kernel of its own
EXPORTS = {
    "LSTM": (lambda: nn.LSTM(7, 8, 2, batch_first=True), 1),
    "one cell": (lambda: cr.Recurrent(cr.MGU, 7, 8, batch_first=True), 2),
    "both directions alike": (lambda: cr.Recurrent(cr.MGU, 7, 8, batch_first=True, bidirectional=True), 2),
    "six layers of two sizes": (lambda: cr.Recurrent(cr.IndRNN, 7, [8] * 6, batch_first=True), 3),
    "two layers of one size": (lambda: cr.Recurrent(cr.MGU, 7, [7, 7], batch_first=True), 2),
}


@pytest.mark.parametrize("layer", EXPORTS)
def test_each_cell_is_exported_once(layer, monkeypatch, tmp_path):
    make, expected = EXPORTS[layer]
    count, probes = [], []
    export, find_axes = torch.export.export, lowering.find_axes
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: (count.append(1), export(*a, **k))[1])
    monkeypatch.setattr(lowering, "find_axes", lambda *a: (probes.append(1), find_axes(*a))[1])
    cr.pack(OutputsAlone(make()), tmp_path / "model.crnn", X, calibration=[X])
    assert (len(count), len(probes)) == (expected, 1)
