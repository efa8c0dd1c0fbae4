"""A pruner creates its tensors on the model's device; the GPU is simulated by fake tensors."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import compactrnn as cr
from compactrnn.compress import surgery
from compactrnn.compress.groups import Part
from shapes import BatchNormed, Bidirectional, Dual, Gated, Normed, Residual, Stacked, Tagger, Twice, example

CUDA = torch.device("cuda", 0)
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@pytest.fixture(autouse=True)
def no_cudnn():
    with torch.backends.cudnn.flags(enabled=False):
        yield


def on_fake_gpu(module, mode):
    """`module` with fake parameters and buffers on a GPU that is not there."""

    def moved(tensor):
        with mode:
            return mode.from_tensor(tensor.detach()).to(CUDA)

    for owner in module.modules():
        for name, value in owner._parameters.items():
            if value is not None:
                owner._parameters[name] = nn.Parameter(moved(value), value.requires_grad)
        for name, value in owner._buffers.items():
            if value is not None:
                owner._buffers[name] = moved(value)
        if isinstance(owner, nn.RNNBase):
            owner._init_flat_weights()
    return module


@pytest.mark.parametrize("shape", [Tagger, Residual, Bidirectional, Gated, Dual, BatchNormed, Twice])
def test_steps_and_penalties_on_a_gpu(shape):
    model = shape()
    x = example(model)
    pruners = [cr.GroupLasso(model, x, keep=0.5, steps=2), cr.GroupLasso(model, x, strength=0.1)]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    on_fake_gpu(model, mode)
    for pruner in pruners:
        assert pruner.groups[0].device == CUDA
        with mode, torch.no_grad():
            assert pruner.penalty().device == CUDA
            for _ in range(3):
                pruner.step()
            assert all(p.device == CUDA for p in model.parameters())
            for group in pruner.groups:
                assert group.importance().device == group.squares().device == CUDA


@pytest.mark.parametrize("shape", [Tagger, Stacked, BatchNormed, Residual])
def test_a_model_is_cut_where_it_is(shape):
    model = shape()
    pruner = cr.GroupLasso(model, example(model), strength=0.0)
    for group in pruner.groups:
        group.decay_((torch.arange(group.count) < 4).float())
    plan = pruner.plan()
    small = surgery.cut(model.to("meta"), plan.units, plan.layers, plan.tensors)
    assert {t.device.type for t in small.state_dict().values()} == {"meta"}
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("axis", [0, 1])
def test_a_part_follows_its_weight(axis):
    """A pruner may be made before the model is moved; factors may come from anywhere."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = torch.empty(12, 8, device=CUDA)
        part = Part(weight, axis, torch.arange(weight.shape[axis]) - 1)
        part.scale_(torch.ones(weight.shape[axis] - 1))
        assert part.squares(weight.shape[axis] - 1).device == CUDA


def test_layers_on_two_devices():
    model = Stacked()
    pruner = cr.GroupLasso(model, example(model), keep=0.5, steps=2)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    on_fake_gpu(model.lstm, mode)
    assert {group.device.type for group in pruner.groups} == {"cuda"}
    with mode, torch.no_grad():
        pruner.penalty()
        pruner.step()
        pruner.step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(dtype):
    torch.manual_seed(0)
    model = Normed().to(dtype)
    x = example(model).to(dtype)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1)
    pruner.step()
    small = pruner.shrink()
    assert small.gru.layer.hidden_size == 8 and small.gru.layer.weight_hh_l0.dtype == dtype
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=2e-2, atol=2e-2)
