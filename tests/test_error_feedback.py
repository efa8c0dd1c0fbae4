"""Int4 with error feedback: less error on data that was not calibrated with, and none to speak of without data."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.runtime.error_feedback import quantize_with_feedback, shrinkage
from compactrnn.runtime.rounding import quantize_groups


def correlated(count, columns, seed=0):
    """Vectors of few directions and some noise, as hidden states are."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((columns // 6 + 1, columns))
    return rng.standard_normal((count, len(directions))) @ directions + 0.3 * rng.standard_normal((count, columns))


def moment_of(x):
    mean = x.T @ x / len(x)
    share, size = shrinkage(mean, float(np.square(np.square(x).sum(1)).sum()), len(x))
    share = max(share, 0.01)
    return (1 - share) * mean + share * size * np.eye(len(mean))


@pytest.mark.parametrize("columns", [5, 64, 100, 200])
def test_the_error_on_other_data_is_smaller(columns):
    values = np.random.default_rng(1).standard_normal((40, columns))
    fed = quantize_with_feedback(values, moment_of(correlated(4000, columns)))
    x = correlated(1000, columns, seed=2)
    plain, better = (np.square(x @ (q.dense() - values).T).sum() for q in (quantize_groups(values), fed))
    assert better < (1.0 if columns < 64 else 0.6) * plain
    assert fed.values.min() >= -8 and fed.values.max() <= 7 and fed.group_scale.sum(1).max() <= 33026


def test_few_data_do_no_harm():
    values = np.random.default_rng(1).standard_normal((40, 100))
    fed = quantize_with_feedback(values, moment_of(np.random.default_rng(3).standard_normal((5, 100))))
    x = np.random.default_rng(4).standard_normal((1000, 100))
    plain, other = (np.square(x @ (q.dense() - values).T).sum() for q in (quantize_groups(values), fed))
    assert other < 1.1 * plain


def test_of_inputs_that_do_not_go_together_nothing_is_made_up_for():
    values = np.random.default_rng(1).standard_normal((6, 70))
    values[2] = 0
    fed, plain = quantize_with_feedback(values, np.eye(70)), quantize_groups(values)
    assert np.abs(fed.dense() - values).max() < 1.1 * np.abs(plain.dense() - values).max()
    assert not fed.dense()[2].any()


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(24, 96, batch_first=True), nn.Linear(96, 8)

    def forward(self, x):
        return self.head(self.gru(x)[0])


@pytest.mark.filterwarnings("ignore:quantization changes", "ignore:no calibration data")
def test_calibration_data_make_int4_better(tmp_path):
    torch.manual_seed(0)
    model = Tagger().eval()

    def data(seed):
        return torch.from_numpy(correlated(300, 24, seed)).float()[None] / 3

    x = data(5)
    report = cr.pack(model, tmp_path / "plain.crnn", x, weights="int4")
    better = cr.pack(model, tmp_path / "better.crnn", x, weights="int4", calibration=[data(6), data(7)])
    assert set(report.types.values()) == set(better.types.values()) == {"int4"}
    wanted = model(x)[0].detach().numpy()
    plain, fed = (cr.Engine(tmp_path / f"{name}.crnn").run(x[0].numpy()) for name in ("plain", "better"))
    assert np.square(fed - wanted).mean() < 0.5 * np.square(plain - wanted).mean()
