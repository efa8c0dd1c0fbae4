"""ONNX files with a node, an attribute, a size or a number changed give a model that agrees, or an error of ours."""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the importer reads by it")
pytest.importorskip("onnxruntime", reason="what is compared with")
import compactrnn as cr
from compactrnn.onnx_import.model_file import NodeError, blamed
from onnx_models import node, save, tensor
from onnx_mutants import GOOD, SOURCES, each

MUTANTS = 50


@pytest.mark.parametrize("source", SOURCES)
def test_a_changed_file_gives_a_model_that_agrees_or_an_error_of_ours(source):
    rows = list(each([source], MUTANTS, seed=0))
    assert not [row for row in rows if row[2] not in GOOD]
    found = Counter(row[2] for row in rows)
    assert found["taken"] and found["refused"], found


@pytest.mark.parametrize("error", [TypeError("no"), KeyError("no"), ValueError("no"), ZeroDivisionError("no")])
def test_an_error_that_nothing_looked_for_says_so(error):
    with pytest.raises(
        NodeError, match=rf"odd: Neg is malformed, or an error within the importer \({type(error).__name__}"
    ):
        with blamed(node("Neg", ["x"], ["y"], "odd")):
            raise error


@pytest.mark.parametrize("op", ["Gemm", "LayerNormalization", "PRelu", "BatchNormalization"])
def test_constants_that_do_not_fit_are_refused(op, tmp_path):
    given = {"Gemm": ["x", "w", "wrong"], "BatchNormalization": ["x", *["wrong"] * 4]}.get(op, ["x", "wrong"])
    nodes = [node(op, given, ["y"], "odd"), node("Neg", ["s"], ["s_out"])]
    shape = [1, 3] if op == "Gemm" else [1, 3, 4]
    inputs = [tensor("x", shape), tensor("s", [1, 2])]
    arrays = {"w": np.ones((3, 5), np.float32), "wrong": np.ones(7, np.float32)}
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", None), tensor("s_out", [1, 2])], arrays)
    with pytest.raises(cr.UnsupportedModelError, match=f"odd: {op}") as refused:
        cr.pack(path, tmp_path / "m.crnn")
    assert "within the importer" not in str(refused.value)
