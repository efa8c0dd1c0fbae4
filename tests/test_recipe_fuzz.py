"""Any value for any key of a recipe: it trains, or a one-sentence error says why not."""

import datetime
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compactrnn.cli.errors import BAD_INPUT, FAILURE, _verdict
from compactrnn.training.recipe import recipe_from
from compactrnn.training.train import train

TEXT = "the cat sat on the mat; the dog did not.\n" * 30
PHASE = {
    "updates": 2,
    "epochs": None,
    "patience": None,
    "target": None,
    "task": {},
    "model": {},
    "average": None,
    "optimizer": {
        "name": "AdamW",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "betas": [0.9, 0.999],
        "clip": 1.0,
        "clip_value": None,
        "decay": "all",
    },
    "schedule": {
        "name": "cosine",
        "warmup": 0,
        "final": 0.0,
        "constant_epochs": 0,
        "factor": 0.5,
        "patience": 1,
    },
}
TRAINING = {
    "seed": 0,
    "batch_size": 4,
    "steps": 5,
    "shift": False,
    "loss_reduction": "mean",
    "evaluate_every": 2,
    "validation_streams": 2,
    "checkpoint_every": 2,
    "max_seconds": 2.0,
    "max_cpu_seconds": 2.0,
    "threads": 1,
    "log_every": 2,
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32-true",
}
LAST = {"compress": {"keep": 0.5, "steps": 2, "decay": 0.5, "minimum": 1}}
LEARN = {"distill": {"teacher": "train", "weight": 0.5, "temperature": 1.0}}
WEIGHTS = {"hidden_weight": {"kind": "LowRank", "rank": 2}, "input_weight": {"kind": "Dense"}}
TABLES = {
    "language model": {
        "task": {"name": "language_model", "data": "TEXT", "level": "character", "minimum_count": 1},
        "model": {
            "embedding": 4,
            "hidden": [4],
            "cell": "LSTM",
            "dropout": 0.0,
            "embedding_dropout": 0.0,
            "weight_dropout": 0.0,
            "output_dropout": None,
            "tie": False,
            "init": 0.1,
            **WEIGHTS,
        },
        "training": TRAINING,
        "phases": {"train": PHASE, "learn": {**PHASE, **LEARN}},
    },
    "adding": {
        "task": {"name": "adding", "steps": 4, "valid": 4, "test": 4},
        "model": {
            "hidden": [4, 4],
            "cell": "GRU",
            "norm": "batch",
            "residual": False,
            "dropout": 0.0,
            "cell_options": {"bias": True},
            "last_cell_options": {},
        },
        "training": TRAINING,
        "phases": {"train": PHASE, "cut": {**PHASE, **LAST}},
    },
    "first symbol": {
        "task": {"name": "first_symbol", "steps": 4, "size": 3, "valid": 4, "test": 4},
        "model": {"hidden": [4], "cell": "DuRNN", "cell_options": {"nonlinearity": "relu"}},
        "training": TRAINING,
        "phases": {"train": {"updates": 2}},
    },
}


def paths(table, before=()):
    """The keys of nested tables, sections included."""
    for key, value in table.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, (*before, key))
            yield (*before, key, "something")


SCALARS = st.one_of(
    st.sampled_from([0, 1, 2, 3, -1, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, True, False]),
    st.sampled_from([0.0, 0.5, 1.0, -0.0, 1e-320, 1e-30, 1e30, 1e308, -1.5, float("nan"), float("inf")]),
    st.sampled_from(["", "a", "none", "LSTM", "relu", "orthogonal", "../x", "/dev/zero", "\0", "\x1b[2J", "x" * 5000]),
    st.sampled_from([datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.time(1)]),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=3), SCALARS, max_size=2),
    st.just([[[]]]),
)


def with_value(table, path, value):
    copy = json.loads(json.dumps(table))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


def check(table):
    folder = Path(tempfile.mkdtemp())
    (folder / "text.txt").write_text(TEXT)
    if isinstance(table.get("task"), dict) and table["task"].get("data") == "TEXT":
        table["task"]["data"] = str(folder / "text.txt")
    try:
        train(recipe_from(_without_none(table)), folder / "out")
    except Exception as error:
        code, text = _verdict(error)
        if "internal error" in text:
            raise
        assert code in (FAILURE, BAD_INPUT) and text
        assert (folder / "out" / "config.json").exists() == (folder / "out").exists(), "no claim without a checkpoint"
    finally:
        shutil.rmtree(folder)


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_train(name, tmp_path):
    table = json.loads(json.dumps(TABLES[name]).replace("TEXT", str(tmp_path / "text.txt")))
    table["training"] |= {"max_seconds": 600.0, "max_cpu_seconds": 600.0}
    (tmp_path / "text.txt").write_text(TEXT)
    assert train(recipe_from(_without_none(table)), tmp_path / "out")["updates"]["train"] == 2


@pytest.mark.filterwarnings("ignore:shrink.. at step")  # a limit of time may end the phase before its schedule
@pytest.mark.parametrize("name", TABLES)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_any_key(name, data):
    path = data.draw(st.sampled_from(list(paths(TABLES[name]))))
    check(with_value(TABLES[name], path, data.draw(VALUES)))
