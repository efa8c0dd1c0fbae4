"""Code in the docs: Python is quoted from the files that it names or runs as it stands; commands exist."""

import importlib.util
import re
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from acoustic_models import Acoustic
from compactrnn.cli.app import app
from compactrnn.tasks.table import TASKS
from compactrnn.training.recipe import recipe_from
from compactrnn.weights import Dense, WeightSpec
from compactrnn.weights.registry import weight_kinds, weight_spec

ROOT = Path(__file__).resolve().parents[1]


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


BLOCKS = blocks("docs/extending.md")
NAMED = [found.groups() for block in BLOCKS if (found := re.match(r"# (\S+\.py)\n(.*)", block, re.DOTALL))]
OTHERS = [block for block in BLOCKS if not re.match(r"# \S+\.py\n", block)]
WHOLE = ("src/compactrnn/cells/mgu.py",)


def run(code):
    """The names that a block defines."""
    names = {
        "cr": cr,
        "Kronecker": cr.Kronecker,
        "EQUATIONS": {},
        "cells": cr.cells,
        "mgu": None,
        "MyWeight": lambda size: Dense(),
        "nn": nn,
        "partial": partial,
        "pytest": pytest,
        "torch": torch,
    }
    exec(code, names)
    return names


def test_the_page_has_both_kinds_of_blocks():
    assert {path for path, _ in NAMED} >= {
        *WHOLE,
        "src/compactrnn/weights/kronecker.py",
        "examples/own_cell.py",
        "examples/own_pruning.py",
    } and OTHERS


@pytest.mark.parametrize("path, code", NAMED)
def test_a_block_with_the_name_of_a_file_is_text_of_that_file(path, code):
    text = (ROOT / path).read_text()
    assert code == text if path in WHOLE else f"\n{code}" in f"\n{text}"


@pytest.mark.parametrize("code", OTHERS)
def test_any_other_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(code)


class MyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {
        "MyModel": MyModel,
        "batches": [(torch.randn(8, 12, 6), torch.randn(8, 12, 4)) for _ in range(60)],
        "criterion": nn.functional.mse_loss,
        "x": np.zeros(6, np.float32),
        "xs": np.zeros((5, 6), np.float32),
    }
    given = dict(names)
    shrink_and_pack, engine, layers = blocks("README.md")
    exec(shrink_and_pack, names)
    assert names["small"].lstm.hidden_size == 8
    exec(engine, ran := names | {name: given[name] for name in ("x", "xs")})
    assert ran["y"].shape == (4,) and ran["ys"].shape == (5, 4)
    exec(layers, names)
    assert isinstance(names["model"].lstm, cr.LSTM)


@pytest.mark.parametrize("page", ["pruning", "delta", "distill", "compress-model", "own-data", "window-states"])
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"cr": cr, "nn": nn, "torch": torch}
    for code in blocks(f"docs/{page}.md"):
        exec(code, names)


def test_the_page_on_factorization_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"cr": cr, "nn": nn, "torch": torch}
    for code in blocks("docs/factorize.md"):
        exec(code, names)
    assert "1/4: error" in capsys.readouterr().out
    (recipe,) = blocks("docs/factorize.md", "toml")
    phases = tomllib.loads(recipe)["phases"]
    assert recipe_from({"phases": phases}).phases["small"].factorize.weights["embedding"] == {}


def test_the_recipe_on_distillation_is_read_and_its_targets_are_those_of_the_tasks():
    (recipe,) = blocks("docs/distill.md", "toml")
    assert recipe_from({"phases": tomllib.loads(recipe)["phases"]}).phases["small"].distill.hidden == {"recurrent": 0.1}
    rows = (ROOT / "docs/distill.md").read_text().split("| task |")[1]
    for name, task in TASKS.items():
        (row,) = re.findall(rf"^\|[^|]*`{name}`.*$", rows, re.MULTILINE)
        assert re.findall(r"`(probabilities|classes|transcript)`", row) == list(task.distill_targets)


def test_the_section_on_quantization_aware_training_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (code,) = [block for block in blocks("docs/quantization.md") if "cr.Quantize" in block]
    exec(code, {})
    (recipe,) = blocks("docs/quantization.md", "toml")
    phases = recipe_from({"phases": tomllib.loads(recipe)["phases"]}).phases
    assert phases["quantized"].compress.weights["output"] == "int8"


def test_the_speech_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {
        "chunks": [np.zeros((n, 13)) for n in (5, 40, 1)],
        "log_probabilities": np.log(np.full((4, 28), 1 / 28)),
        "model": Acoustic(39, 28),
        "x": torch.randn(1, 20, 39),
    }
    for code in blocks("docs/speech.md"):
        exec(code, names)
    assert isinstance(names["words"], list)


def test_the_training_page_runs(capsys):
    for block in blocks("docs/training.md"):
        exec(block, {"cr": cr, "x": torch.randn(20, 2, 128)})
    assert "DuRNN" in capsys.readouterr().out


def test_the_page_on_weights_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    for code in blocks("docs/weights.md"):
        exec(code, names)
    assert names["entries"].stored_parameters() == 128 * 2


def test_the_page_on_weights_has_every_weight_and_its_recipes_are_read():
    page = (ROOT / "docs/weights.md").read_text()
    rows = "".join(line for line in page.split("\n") if line.startswith("| `"))
    assert all(f"`{name}(" in rows for name in weight_kinds())
    (recipe,) = blocks("docs/weights.md", "toml")
    assert all(isinstance(weight_spec(table), WeightSpec) for table in tomllib.loads(recipe).values())


@pytest.mark.filterwarnings(
    "ignore:The tensor attributes", "ignore:.torch.jit", "ignore:Converting a tensor", "ignore:Tagger. exported with"
)
def test_the_page_on_steps_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    for code in blocks("docs/steps.md"):
        exec(code, names)
    assert names["h"].shape == (64,) and names["y"].shape == (10,)
    (code,) = blocks("docs/steps.md", "c")
    assert code in (ROOT / "examples/stateful.c").read_text()


def test_the_page_on_adaptive_softmax_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    (code,) = blocks("docs/adaptive-softmax.md")
    exec(code, names)
    assert names["step"].macs <= names["report"].macs_per_step and len(names["words"]) == 5


def test_the_page_on_onnx_runs(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="what reads the files")
    from onnx_models import denoiser, detector

    monkeypatch.chdir(tmp_path)
    detector(tmp_path / "detector.onnx")
    denoiser(tmp_path / "denoiser.onnx")
    names = {}
    for code in blocks("docs/onnx.md"):
        exec(code, names)
    assert names["y"].shape == (1,) and names["state"].shape == (1, 1, 6)
    assert len(names["clean"]) == 8000 and len(names["end"]) == names["stream"].latency


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_detector_of_the_case_studies_runs(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="what reads the files")
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        pytest.skip("silero-vad is not installed")
    monkeypatch.chdir(tmp_path)
    cr.pack(Path(found.origin).parent / "data" / "silero_vad.onnx", "vad.crnn", constants={"sr": 16000})
    names = {"samples": np.random.default_rng(0).normal(scale=0.1, size=512 * 20).astype(np.float32)}
    for code in blocks("docs/case-studies.md"):
        exec(code, names)
    assert names["speech"].shape == (1,) and 0 <= names["speech"][0] < 0.5


def test_the_page_on_seeing_inside_runs():
    (code,) = blocks("docs/inside.md")
    names = run(code)
    assert names["first"].name == "lstm, layer 0" and names["second"].states["h"].shape == (60, 48)


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    named = re.findall(r"^\s*compactrnn ([a-z]+)", "".join(blocks(page, "")), re.MULTILINE)
    named += re.findall(r"`compactrnn ([a-z]+)", (ROOT / page).read_text())
    assert set(named) <= known and (named or page != "README.md")
    scripts = re.findall(r"python (\w+/\w+\.py)", (ROOT / page).read_text())
    assert not [script for script in scripts if not (ROOT / script).exists()]
