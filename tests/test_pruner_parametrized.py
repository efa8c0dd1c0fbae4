"""Parametrized weights: the computed weight decays, the originals are trained, the shrunk model is plain."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import compactrnn as cr

X = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, layers=1, convolution=False):
        super().__init__()
        self.rnn = nn.LSTM(5, 16, layers, batch_first=True)
        self.head = nn.Conv1d(16, 3, 3, padding=1) if convolution else nn.Linear(16, 3)

    def forward(self, x):
        h = self.rnn(x)[0]
        return self.head(h.mT).mT if isinstance(self.head, nn.Conv1d) else self.head(h)


WAYS = {
    "weight norm of the hidden matrix": lambda m: parametrizations.weight_norm(m.rnn, "weight_hh_l0"),
    "weight norm of both matrices": lambda m: [
        parametrizations.weight_norm(m.rnn, name) for name in ("weight_ih_l0", "weight_hh_l0")
    ],
    "weight norm by columns": lambda m: parametrizations.weight_norm(m.rnn, "weight_hh_l0", dim=1),
    "weight norm of the reader": lambda m: parametrizations.weight_norm(m.head),
    "spectral norm of the hidden matrix": lambda m: parametrizations.spectral_norm(m.rnn, "weight_hh_l0"),
    "spectral norm of the reader": lambda m: parametrizations.spectral_norm(m.head),
    "orthogonal hidden matrix": lambda m: parametrizations.orthogonal(m.rnn, "weight_hh_l0"),
    "orthogonal reader": lambda m: parametrizations.orthogonal(m.head),
    "two, one after the other": lambda m: parametrizations.spectral_norm(parametrizations.weight_norm(m.head)),
}


def train(model, pruner, steps, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(X) - 1).square().mean() + pruner.penalty()).backward()
        optimizer.step()
        pruner.step(optimizer)
    return optimizer


@pytest.mark.parametrize("way", WAYS)
def test_computed_weights_are_followed(way):
    torch.manual_seed(0)
    model = Net()
    WAYS[way](model)
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = train(model, pruner, 5)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    heard = [model.head.weight, model.rnn.weight_hh_l0]
    assert all((w == 0).all(0).sum() == 8 for w in heard)
    assert parametrize.is_parametrized(model.rnn) or parametrize.is_parametrized(model.head)
    report = pruner.report()
    assert [layer.kept for layer in report.layers] == [8]
    small = pruner.shrink(optimizer)
    assert not any(parametrize.is_parametrized(m) for m in small.modules())
    assert type(small.rnn) is cr.LSTM and small.rnn.hidden_size == 8
    torch.testing.assert_close(small(X), model.eval()(X), rtol=1e-4, atol=1e-5)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in small.parameters()}
    start = [p.detach().clone() for p in small.parameters()]
    optimizer.zero_grad()
    small(X).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(start, small.parameters(), strict=True))


def test_a_normed_kernel_and_a_stack():
    torch.manual_seed(0)
    model = Net(layers=2, convolution=True)
    parametrizations.weight_norm(model.head)
    parametrizations.weight_norm(model.rnn, "weight_ih_l1")
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=3)
    train(model, pruner, 3)
    assert [layer.kept for layer in pruner.report().layers] == [8, 8]
    torch.testing.assert_close(pruner.shrink()(X), model(X), rtol=1e-4, atol=1e-5)


def test_a_weight_of_a_cell():
    torch.manual_seed(0)

    class Custom(Net):
        def __init__(self):
            super().__init__()
            self.rnn = cr.Recurrent(cr.MGU, 5, 16, batch_first=True)
            parametrizations.weight_norm(self.rnn.cells[0][0].candidate, "weight")

    model = Custom()
    with cr.time_loop("plain"):
        pruner = cr.GroupLasso(model, X, keep=0.5, steps=3)
        train(model, pruner, 3)
        small = pruner.shrink()
        assert small.rnn.hidden_size == 8
        torch.testing.assert_close(small(X), model(X), rtol=1e-4, atol=1e-5)


def test_a_penalty_reaches_the_originals():
    torch.manual_seed(0)
    model = Net()
    parametrizations.weight_norm(model.rnn, "weight_hh_l0")
    parametrizations.weight_norm(model.head)
    pruner = cr.GroupLasso(model, X, strength=0.3, threshold=2e-2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner.penalty().backward()
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "original" in n)
    train(model, pruner, 150, optimizer)
    (layer,) = pruner.report().layers
    assert layer.kept < 16
    torch.testing.assert_close(pruner.shrink()(X), model(X), rtol=1e-4, atol=1e-5)


def test_frozen_originals_are_left_alone():
    model = Net()
    parametrizations.weight_norm(model.rnn, "weight_hh_l0").requires_grad_(False)
    before = model.rnn.weight_hh_l0.clone()
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=1)
    pruner.step()
    assert torch.equal(model.rnn.weight_hh_l0, before)
    assert pruner.report().layers[0].left_alone == "frozen"


def test_training_resumes_from_state_dicts():
    torch.manual_seed(0)
    make = lambda: parametrize_head(Net())  # noqa: E731
    model = make()
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=6)
    train(model, pruner, 3)
    again = make()
    other = cr.GroupLasso(again, X, keep=0.5, steps=6)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(pruner.state_dict())
    for _ in range(3):
        pruner.step()
        other.step()
    a, b = pruner.shrink().state_dict(), other.shrink().state_dict()
    assert all(torch.equal(a[n], b[n]) for n in a)


def parametrize_head(model):
    parametrizations.weight_norm(model.head)
    return model


def old_weight_norm(model):
    nn.utils.weight_norm(model.head)


def old_recurrent(model):
    nn.utils.weight_norm(model.rnn, "weight_hh_l0")


def old_spectral_norm(model):
    nn.utils.spectral_norm(model.head)


def pruned(model):
    prune.l1_unstructured(model.head, "weight", 0.5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("way", [old_weight_norm, old_recurrent, old_spectral_norm, pruned])
def test_hooks_are_refused_by_name_with_the_way_out(way):
    model = Net()
    way(model)
    place = r"LSTM.weight_hh_l0" if way is old_recurrent else "Linear.*weight"
    with pytest.raises(cr.UnsupportedModelError, match=place + r": a hook computes it.*parametrizations"):
        cr.GroupLasso(model, X, keep=0.5, steps=1)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("way", [*WAYS.values(), old_weight_norm, old_recurrent, old_spectral_norm, pruned])
def test_pack_takes_the_present_values(way, tmp_path):
    torch.manual_seed(0)
    model = Net()
    way(model)
    model(X)
    model.eval()
    wanted = model(X).detach()
    cr.pack(model, tmp_path / "model.crnn", X[:1], weights="float32")
    engine = cr.Engine(tmp_path / "model.crnn")
    torch.testing.assert_close(torch.from_numpy(engine.run(X[0].numpy())), wanted[0], rtol=1e-4, atol=1e-5)


def test_a_saved_plain_model_loads_into_parametrized_code(tmp_path):
    torch.manual_seed(0)
    make = lambda: parametrize_head(Net())  # noqa: E731
    model = make()
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=1)
    pruner.step()
    small = pruner.shrink()
    cr.save(small, tmp_path)
    again = cr.load(tmp_path, make)
    assert torch.equal(again(X), small(X)) and not parametrize.is_parametrized(again.head)
    assert copy.deepcopy(again) is not again
