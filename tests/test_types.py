"""Number types: automatic casting, half precision and doubles, in every layer."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves, tree_map

import compactrnn as cr
from cell_table import CELLS

# by name: ours, and what torch's own does for the same
FUSED = {
    "LSTM": (lambda: cr.LSTM(4, 6, 2), lambda: nn.LSTM(4, 6, 2)),
    "LSTM, both ways": (lambda: cr.LSTM(4, 6, bidirectional=True), lambda: nn.LSTM(4, 6, bidirectional=True)),
    "LSTM, sizes": (lambda: cr.LSTM(4, [6, 5]), lambda: nn.LSTM(4, 6)),
    "LSTM, low rank": (lambda: cr.LSTM(4, 6, hidden_weight=cr.LowRank(rank=2)), lambda: nn.LSTM(4, 6)),
    "LSTM, projected": (lambda: cr.LSTM(4, [6, 5], proj_size=3), lambda: nn.LSTM(4, 6, proj_size=3)),
    "GRU": (lambda: cr.GRU(4, 6), lambda: nn.GRU(4, 6)),
    "GRU, Kronecker": (lambda: cr.GRU(4, 6, input_weight=cr.Kronecker(2, 2)), lambda: nn.GRU(4, 6)),
    "RNN, sizes": (lambda: cr.RNN(4, [6, 5]), lambda: nn.RNN(4, 6)),
}
# every cell, the last of its variants in the table
CELL_LAYERS = {make.func.__name__: partial(cr.Recurrent, make.func, 4, 6, **make.keywords) for make in CELLS}
LAYERS = {name: ours for name, (ours, _) in FUSED.items()} | CELL_LAYERS
every_layer = pytest.mark.parametrize("name", LAYERS)
FORMS = {
    "padded": lambda: torch.randn(5, 3, 4),
    "packed": lambda: pack_sequence([torch.randn(n, 4) for n in (5, 3, 1)]),
}
every_form = pytest.mark.parametrize("form", FORMS)
bfloat16 = torch.bfloat16


def data(output):
    return output.data if isinstance(output, PackedSequence) else output


def dtypes(results):
    output, states = results
    return data(output).dtype, {s.dtype for s in tree_leaves(states)}


def check_training(layer, output):
    data(output).float().square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or (parameter.grad.dtype == parameter.dtype and parameter.grad.isfinite().all())
    assert sum(p.grad is not None for p in layer.parameters()) > 0


@every_form
@every_layer
@pytest.mark.parametrize("given", [torch.float32, bfloat16])
def test_autocast(name, form, given):
    """It trains and evaluates, also on inputs cast by a linear layer before it, and accepts its own states."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](), FORMS[form]()
    wanted = data(layer(x)[0])
    for training in (True, False):
        with torch.autocast("cpu", dtype=bfloat16):
            output, states = layer.train(training)(x.to(given))
            layer(x.to(given), states)
            layer(x.to(given), tree_map(lambda s: s.to(bfloat16), states))
        assert_close(data(output).float(), wanted, rtol=0.1, atol=0.05)
    with torch.autocast("cpu", dtype=bfloat16):
        output, _ = layer.train()(x.to(given))
    check_training(layer, output)


@every_form
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("given", [torch.float32, bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_autocast_gives_torchs_types(name, form, given):
    ours, theirs = FUSED[name]
    x = FORMS[form]().to(given)
    with torch.autocast("cpu", dtype=bfloat16):
        assert dtypes(ours()(x)) == dtypes(theirs()(x))


@every_form
@pytest.mark.parametrize("given", [torch.float32, bfloat16])
@pytest.mark.parametrize("name", CELL_LAYERS)
def test_autocast_keeps_states_of_cells_in_their_own_type(name, form, given):
    layer, x = LAYERS[name](), FORMS[form]()
    kinds = cr.loop_report(layer)[0].kinds
    with torch.autocast("cpu", dtype=bfloat16):
        results = [layer(x.to(given))]
        for kind in ("plain", *kinds):
            if form == "padded" or kind != "scan":
                with cr.time_loop(kind):
                    results.append(layer(x.to(given)))
    for found in results:
        assert dtypes(found) == (torch.float32, {torch.float32})
        assert_close(data(found[0]), data(results[0][0]), rtol=1e-4, atol=1e-5)


@every_form
@every_layer
def test_autocast_to_float16(name, form):
    """For which torch's own LSTM has no operator on most processors."""
    layer = LAYERS[name]()
    with torch.autocast("cpu", dtype=torch.float16):
        output, _ = layer(FORMS[form]())
    check_training(layer, output)


def test_autocast_where_the_processor_has_no_bfloat16():
    """oneDNN is limited to an older instruction set; torch's own LSTM then raises an error."""
    code = """if True:
        import torch, compactrnn as cr
        x = torch.randn(5, 3, 4)
        made = [cr.LSTM(4, 6), cr.LSTM(4, [6, 5]), cr.GRU(4, 6), cr.Recurrent(cr.MGU, 4, 6)]
        for layer in made:
            for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
                with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                    output, states = layer(x)
                    layer(x.bfloat16(), states)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output, _ = layer(x)
            output.sum().backward()
        print(torch.ops.mkldnn._is_mkldnn_bf16_supported(), output.dtype)
    """
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "torch.float32"


@every_form
@every_layer
@pytest.mark.parametrize("dtype", [torch.float16, bfloat16, torch.float64])
def test_layers_of_other_types(name, form, dtype):
    torch.manual_seed(0)
    layer, x = LAYERS[name](), FORMS[form]()
    wanted = data(layer(x)[0])
    if name == "HiPPO" and dtype != torch.float64:  # its memory changes by less than such a type can say
        with pytest.raises(ValueError, match="HiPPO dtype: expected float32 or float64"):
            layer.to(dtype)(x.to(dtype))
        return
    output, states = layer.to(dtype)(x.to(dtype))
    assert dtypes((output, states)) == (dtype, {dtype})
    loose = dtype != torch.float64
    assert_close(data(output).float(), wanted, rtol=0.1 if loose else 1e-4, atol=0.05 if loose else 1e-5)
    layer(x.to(dtype), states)
    check_training(layer, output)


@every_layer
def test_another_type_of_input_or_state_is_refused(name):
    layer, x = LAYERS[name](), torch.randn(5, 3, 4)
    _, states = layer(x)
    with pytest.raises(ValueError, match=r"dtype.*float64.*float32"):
        layer(x.double())
    with pytest.raises(ValueError, match=r"initial state dtype.*float64.*float32"):
        layer(x, tree_map(lambda s: s.double(), states))
    with pytest.raises(ValueError, match=r"dtype.*int64"):
        layer(torch.ones(5, 3, 4, dtype=torch.long))


def test_a_layer_made_in_inference_mode_evaluates():
    x = torch.randn(4, 2, 3)
    with torch.inference_mode():
        layer = cr.Recurrent(cr.MGU, 3, 4)
        inside, _ = layer(x)
    with torch.no_grad():
        assert_close(layer(x)[0], inside.clone())
    assert cr.loop_report(layer)[0].kinds == ("native",)


def test_the_default_type_and_device_are_for_new_tensors_only():
    layer, x = cr.Recurrent(cr.GILR, 3, 4), torch.randn(4, 2, 3)
    wanted = layer(x)[0]
    fresh = cr.Recurrent(cr.GILR, 3, 4)
    fresh.load_state_dict(layer.state_dict())
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert_close(fresh(x)[0], wanted)
    finally:
        torch.set_default_dtype(torch.float32)
