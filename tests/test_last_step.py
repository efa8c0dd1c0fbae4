"""The output at the last step alone."""

import copy

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import compactrnn as cr
from cell_table import CELLS
from compactrnn.models.sequence_model import SequenceModel, SequenceModelOptions

JUMPING = [{"order": 20, "window": 30}, {"order": 6, "memory_size": 3, "nonlinearity": "tanh"}]


def flat(states):
    return list(states) if isinstance(states, tuple) else [states]


@pytest.mark.parametrize("make", CELLS, ids=str)
def test_it_is_the_last_of_all_outputs(make):
    torch.manual_seed(0)
    layer, x = cr.Recurrent(make.func, 4, 6, **make.keywords).eval(), torch.randn(9, 2, 4)
    with torch.no_grad():
        (output, states), (last, after) = layer(x), layer.last(x)
    assert_close(last, output[-1])
    for found, wanted in zip(flat(after), flat(states), strict=True):
        assert_close(found, wanted)


@pytest.mark.parametrize("options", JUMPING, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 61])
def test_a_jump_has_the_output_states_and_gradients_of_the_steps(options, steps):
    torch.manual_seed(0)
    layer = cr.Recurrent(cr.ParallelLMU, 4, 7, **options).double()
    x = torch.randn(steps, 3, 4, dtype=torch.double, requires_grad=True)
    m = torch.randn(1, 3, layer.cells[0][0].state_sizes()[0], dtype=torch.double, requires_grad=True)
    read = [x, m, *layer.parameters()]
    with cr.time_loop("plain"):
        output, after = layer(x, m)
    last, end = layer.last(x, m)
    assert_close(last, output[-1])
    assert_close(end, after)
    factors = torch.randn_like(last), torch.randn_like(end)
    wanted = torch.autograd.grad((output[-1] * factors[0]).sum() + (after * factors[1]).sum(), read)
    found = torch.autograd.grad((last * factors[0]).sum() + (end * factors[1]).sum(), read)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("more", [{}, {"batch_first": True}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_it_takes_the_forms_of_a_layer(more, batched):
    torch.manual_seed(0)
    layer, x = cr.Recurrent(cr.ParallelLMU, 4, 6, **more).eval(), torch.randn(5, 8, 4)
    x = x if batched else x[0]
    output, states = layer(x)
    last, after = layer.last(x)
    assert_close(last, output[:, -1] if batched and more.get("batch_first") else output[-1])
    assert_close(after, states)


def test_one_sequence_after_another_of_another_length_and_kind():
    torch.manual_seed(0)
    layer = cr.Recurrent(cr.ParallelLMU, 4, 6)
    with torch.inference_mode():
        layer.last(torch.randn(7, 2, 4))
    for steps in (7, 12, 7):
        x = torch.randn(steps, 2, 4)
        assert_close(layer.last(x)[0], layer(x)[0][-1])
        layer.last(x)[0].sum().backward()
    x = torch.randn(7, 2, 4, dtype=torch.double)
    layer = copy.deepcopy(layer).double()
    assert_close(layer.last(x)[0], layer(x)[0][-1])


def test_half_precision_is_as_near_as_its_steps():
    torch.manual_seed(0)
    layer, x = cr.Recurrent(cr.ParallelLMU, 4, 6), torch.randn(20, 2, 4)
    wanted = layer(x)[0][-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(layer.last(x)[0].float(), wanted, atol=0.05, rtol=0.05)


def test_packed_sequences_are_refused():
    layer = cr.Recurrent(cr.ParallelLMU, 4, 6)
    with pytest.raises(ValueError, match=r"expected a tensor.*take the last steps"):
        layer.last(pack_sequence([torch.randn(3, 4)]))


def test_a_model_that_answers_at_the_end_takes_no_other_steps(monkeypatch):
    torch.manual_seed(0)
    options = SequenceModelOptions(hidden=(6, 5), cell="ParallelLMU", cell_options={"order": 8})
    model, x = SequenceModel(4, 3, options), torch.randn(2, 40, 4)
    with cr.time_loop("plain"):
        wanted = model(x)
    seen = []
    hook = model.layers[1].register_forward_hook(lambda module, given, made: seen.append(made[0].shape))
    assert_close(model(x), wanted)
    assert seen == [(40, 2, 5)]  # whoever looks sees every step
    hook.remove()
    taken = []
    step = cr.ParallelLMU.step
    monkeypatch.setattr(cr.ParallelLMU, "step", lambda cell, *given: taken.append(cell) or step(cell, *given))
    assert_close(model(x), wanted)
    assert taken.count(model.layers[1].cells[0][0]) == 1
    assert_close(model(x, torch.tensor([40, 40])), wanted)
