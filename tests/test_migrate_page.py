"""The page for those who come from other tools: its blocks run, its figures are the committed ones."""

import re
from functools import partial

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn._checkpoint import save_weights
from scripts import ROOT, benchmark

PAGE = ROOT / "docs" / "migrate.md"
pytest.importorskip("torch_pruning", reason="torch_pruning is not installed; pip install '.[bench]'")


@pytest.fixture(scope="module")
def script():
    return benchmark("migrate")


@pytest.fixture
def start(script):
    """What the first block of the page defines, with a model that trains in no time."""

    def names(layer):
        torch.manual_seed(0)
        found = {}
        exec(script.blocks()[0], found)
        return found | {"layer": layer, "units": 16, "updates": 40}

    return names


QUIET = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated",
    "ignore:torch.quantize_per_tensor",
    "ignore:Unwrapped parameters",
    "ignore:Maximum recursive depth",
)


@QUIET
def test_the_page_runs_from_top_to_bottom(script, start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = start(nn.LSTM)
    for code in script.blocks()[1:]:
        if "torch_pruning" in code:
            with pytest.raises(IndexError, match="out of range"):
                exec(code, names)
        else:
            exec(code, names)
    files = {"model", "model-int4", "sparse", "masked", "small"}
    assert {path.stem for path in tmp_path.glob("*.crnn")} == files
    assert names["logits"].shape == (len(names["symbols"]),)
    masked, small = names["masked"].rnn, names["small"].rnn
    weights = torch.cat([masked.weight_ih_l0.flatten(), masked.weight_hh_l0.flatten()])
    assert int(weights.count_nonzero()) == pytest.approx(len(weights) / 4, rel=0.01) and small.hidden_size == 8


@QUIET
def test_the_section_on_quantization_runs_with_a_gru_which_torch_pruning_passes_over(
    script, start, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = start(nn.GRU)
    for code in script.blocks()[1:]:
        if "torch_pruning" in code or not re.search("Magnitude|GroupLasso|masked", code):
            exec(code, names)
    assert names["logits"].shape == (len(names["symbols"]),) and names["halved"].rnn.hidden_size == 16


@QUIET
def test_torch_pruning_refuses_several_layers(script, start):
    names = start(partial(nn.LSTM, num_layers=2))
    names["model"] = names["CharModel"](names["layer"], len(names["symbols"]), 16)
    (code,) = [code for code in script.blocks() if "torch_pruning" in code]
    with pytest.raises(AssertionError):
        exec(code, names)


@QUIET
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_what_is_added_to_torch_pruning_cuts_units_without_a_trace_exactly(layer, script, start):
    names = start(layer)
    model = names["CharModel"](layer, len(names["symbols"]), 16).eval()
    gone = torch.arange(16) % 2 == 1
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(model.rnn, name).unflatten(0, (-1, 16))[:, gone] = 0
        model.rnn.weight_hh_l0[:, gone] = 0
        model.head.weight[:, gone] = 0
    tokens = names["test"][None, :50]
    before = model(tokens)
    script.unit_pruner(model, tokens, cuts=2).step()
    assert model.rnn.hidden_size == 12 and torch.allclose(model(tokens), before, atol=1e-5)


def test_the_page_has_the_committed_figures(script):
    text = PAGE.read_text(encoding="utf-8")
    assert script.filled(text) == text, "run: python benchmarks/migrate.py --page"
    assert script.filled(text.replace("| LSTM | `quantize_dynamic` |", "| LSTM | another |")) == text


@QUIET
def test_rows_are_judged_by_what_is_timed(script, start, tmp_path, monkeypatch):
    names = start(nn.GRU)
    model = names["CharModel"](nn.GRU, len(names["symbols"]), 16).eval()
    save_weights(tmp_path / "dense.safetensors", model.state_dict())
    for name in ("model", "model-int4"):
        cr.pack(model, tmp_path / f"{name}.crnn", names["valid"][None, :64], weights="float32")
    first = script.blocks()[0]
    monkeypatch.setattr(script, "blocks", lambda: [f"{first}\ntest = test[:300]"])
    rows = {row["model"]: row for row in script.rows_of("GRU", tmp_path, rounds=2)}
    bits = [rows[name]["bits"] for name in ("dense, float32", "dense, torch int8", "model")]
    with torch.no_grad():
        tokens = names["test"][:300]
        loss = nn.functional.cross_entropy(model(tokens[None, :-1])[0], tokens[1:])
    assert bits == pytest.approx([float(loss) / 0.6931472] * 3, rel=2e-3)
    assert rows["dense, float32"]["times faster"] == 1
    assert rows["dense, torch int8"]["bytes"] < rows["dense, float32"]["bytes"]
    assert script.table("quantize", list(rows.values())).count("| GRU |") == 4
