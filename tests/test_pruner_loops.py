"""Pruning in real training loops."""

import contextlib
import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import compactrnn as cr

X = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Lightning(Net):
    """Holds its pruner, as a LightningModule does, and a lock."""

    def __init__(self, keep=0.5, steps=4):
        super().__init__()
        self.lock = threading.Lock()
        self.pruner = cr.GroupLasso(self, X, keep=keep, steps=steps)

    def training_step(self, x):
        return (self(x) - 1).square().mean() + self.pruner.penalty()


def fit(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model.training_step(X).backward()
        optimizer.step()
        model.pruner.step(optimizer)


def test_a_pruner_on_its_own_module():
    torch.manual_seed(0)
    model = Lightning()
    names = [n for n, _ in Net().named_parameters()]
    assert [n for n, _ in model.named_parameters()] == names and list(model.state_dict()) == names
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    fit(model, optimizer, 4)
    small = model.pruner.shrink(optimizer)
    assert small.rnn.hidden_size == 8
    torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)
    # the small model is not the one that its pruner was made for
    with pytest.raises(cr.UnsupportedModelError, match=r"rnn: the layer has other sizes.*make a new pruner"):
        small.training_step(X)
    small.pruner = cr.GroupLasso(small, X, keep=0.5, steps=2)
    fit(small, optimizer, 2)
    smaller = small.pruner.shrink(optimizer)
    assert smaller.rnn.hidden_size == 4
    torch.testing.assert_close(smaller(X), small(X), rtol=1e-5, atol=1e-5)


def without_lock(model):
    del model.lock
    return model


def test_a_copy_of_a_module_holds_a_pruner_of_the_copy():
    torch.manual_seed(0)
    model = without_lock(Lightning())
    model.pruner.step()
    twin = copy.deepcopy(model)
    assert twin.pruner is not model.pruner and twin.pruner.model is twin and twin.pruner.count == 1
    before = copy.deepcopy(model.state_dict())
    for _ in range(3):
        twin.pruner.step()
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items()) and model.pruner.count == 1
    assert twin.pruner.shrink().rnn.hidden_size == 8
    alone = copy.deepcopy(model.pruner)
    assert alone.model is model


def test_parameters_that_are_replaced_are_pruned():
    model = Net()
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=1)
    model.load_state_dict(Net().state_dict(), assign=True)
    pruner.step()
    small = pruner.shrink()
    assert small.rnn.hidden_size == 8
    torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"keep": 0.5, "steps": 4}, {"strength": 0.01}])
def test_autocast_does_not_touch_norms_and_ranks(options):
    class LowRanked(Net):
        def __init__(self):
            super().__init__()
            self.rnn = cr.LSTM(5, 16, batch_first=True, hidden_weight=cr.LowRank(rank=6))

    states = []
    for context in (contextlib.nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)):
        torch.manual_seed(0)
        model = LowRanked()
        with context():
            pruner = cr.GroupLasso(model, X, **options)
            penalty = pruner.penalty()
            for _ in range(4):
                pruner.step()
            report = pruner.report()
        states.append([penalty.detach(), *model.state_dict().values(), torch.tensor([r.kept for r in report.layers])])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_training_under_autocast_with_a_scaler_and_accumulated_gradients():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=4)
    for _ in range(4):
        optimizer.zero_grad()
        for part in X.split(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = (model(part).float() - 1).square().mean() / 2 + pruner.penalty() / 2
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    assert small.rnn.hidden_size == 8
    optimizer.zero_grad()
    scaler.scale(small(X).square().mean()).backward()
    scaler.step(optimizer)


def test_a_compiled_model():
    torch.manual_seed(0)
    model = Net()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(compiled.parameters(), 1e-2)
    pruner = cr.GroupLasso(compiled, X, keep=0.5, steps=2)
    for _ in range(2):
        optimizer.zero_grad()
        compiled(X).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    assert type(small) is Net and small.rnn.hidden_size == 8
    torch.testing.assert_close(small(X), compiled(X), rtol=1e-5, atol=1e-5)


def test_distributed_data_parallel(tmp_path):
    torch.manual_seed(0)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = DistributedDataParallel(Net())
        optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
        pruner = cr.GroupLasso(model, X, keep={"module.rnn": 0.5}, steps=2)
        for _ in range(2):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
            pruner.step(optimizer)
        small = pruner.shrink(optimizer)
        torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)
        wrapped = DistributedDataParallel(small)
        optimizer.zero_grad()
        wrapped(X).square().mean().backward()
        optimizer.step()
    finally:
        torch.distributed.destroy_process_group()


def test_an_average_of_the_weights_gets_the_same_units():
    """The pruner's choice is applied to the average: its state is loaded by a pruner of the average."""
    torch.manual_seed(0)
    model = Net()
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=3)
    for _ in range(3):
        optimizer.zero_grad()
        (model(X) - 1).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
        average.update_parameters(model)
    other = cr.GroupLasso(average.module, X, keep=0.5, steps=3)
    other.load_state_dict(pruner.state_dict())
    other.step()
    a, b = pruner.shrink(), other.shrink()
    assert a.rnn.hidden_size == b.rnn.hidden_size == 8
    torch.testing.assert_close(b(X), average(X), rtol=1e-5, atol=1e-5)
    kept = [(m.head.weight != 0).any(0) for m in (model, average.module)]
    assert torch.equal(*kept)
