"""An optimizer continues with the shrunk model as if it had been built for it."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel

import compactrnn as cr

UNITS, KEPT = 16, 8


class Tagger(nn.Module):
    def __init__(self, outputs=5):
        super().__init__()
        self.embedding = nn.Embedding(12, 6)
        self.rnn, self.head = nn.LSTM(6, UNITS, batch_first=True), nn.Linear(UNITS, outputs)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])


TOKENS = torch.arange(24).reshape(4, 6) % 12


def gradients(model, optimizer):
    def closure():
        optimizer.zero_grad()
        loss = (model(TOKENS) - 1).square().mean()
        loss.backward()
        return loss

    return closure


def trained(make, **options):
    torch.manual_seed(0)
    model = Tagger(**options)
    optimizer = make(model)
    pruner = cr.GroupLasso(model, TOKENS, keep=KEPT / UNITS, steps=3)
    for _ in range(4):
        optimizer.step(gradients(model, optimizer))
        pruner.step(optimizer)
    return model, pruner, optimizer


def slices(model):
    """For every parameter the index along each axis, from the columns of the head that are not zero."""
    units = model.head.weight.detach().abs().sum(0).nonzero().flatten()
    assert len(units) == KEPT
    rows = torch.cat([units + gate * UNITS for gate in range(4)])
    everything = {name: [torch.arange(n) for n in p.shape] for name, p in model.named_parameters()}
    everything["rnn.weight_ih_l0"][0] = everything["rnn.weight_hh_l0"][0] = rows
    everything["rnn.bias_ih_l0"][0] = everything["rnn.bias_hh_l0"][0] = rows
    everything["rnn.weight_hh_l0"][1] = everything["head.weight"][1] = units
    return everything


def sliced(value, shape, axes):
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return copy.deepcopy(value)
    for axis, index in enumerate(axes):
        if value.shape[axis] == shape[axis] and value.shape[axis] > 1:
            value = value.index_select(axis, index)
    return value.clone()


def matrices(model):
    return [p for p in model.parameters() if p.dim() == 2]


KINDS = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer"}
MAKERS = {name: lambda model, kind=kind: kind(model.parameters(), lr=1e-2) for name, kind in KINDS.items()}
MAKERS["Muon"] = lambda model: torch.optim.Muon(matrices(model), lr=1e-2)
MAKERS |= {
    "SGD, momentum": lambda m: torch.optim.SGD(m.parameters(), 1e-2, momentum=0.9, nesterov=True),
    "RMSprop, centered": lambda m: torch.optim.RMSprop(m.parameters(), 1e-2, momentum=0.9, centered=True),
    "Adam, amsgrad": lambda m: torch.optim.Adam(m.parameters(), 1e-2, amsgrad=True),
    "Adam, foreach": lambda m: torch.optim.Adam(m.parameters(), 1e-2, foreach=True),
    "Adam, fused": lambda m: torch.optim.Adam(m.parameters(), 1e-2, fused=True),
    "AdamW, tensor lr": lambda m: torch.optim.AdamW(m.parameters(), torch.tensor(1e-2)),
    "AdamW, differentiable": lambda m: torch.optim.AdamW(m.parameters(), 1e-2, maximize=True),
    "Adafactor, no factors": lambda m: torch.optim.Adafactor(m.parameters(), 1e-2, d=2.0, beta2_decay=-0.5),
    "groups": lambda m: torch.optim.Adam(
        [{"params": m.rnn.parameters(), "lr": 1e-2}, {"params": m.head.parameters(), "weight_decay": 0.1}], 1e-3
    ),
}
WITHOUT_STATE = {"LBFGS"}


@pytest.mark.parametrize("name", [n for n in MAKERS if n != "SparseAdam"])
@pytest.mark.filterwarnings("ignore:LBFGS.*start again without state:UserWarning")
def test_every_optimizer_goes_on_with_its_state_cut(name):
    make = MAKERS[name]
    model, pruner, optimizer = trained(make)
    axes, states = slices(model), copy.deepcopy(dict(optimizer.state))
    before = {id(p): s for p, s in zip(optimizer.state, states.values(), strict=True)}
    shapes = {n: p.shape for n, p in model.named_parameters()}
    held = [len(group["params"]) for group in optimizer.param_groups]
    small = pruner.shrink(optimizer)

    twin = copy.deepcopy(small)
    fresh = make(twin)
    old, copies = dict(model.named_parameters()), dict(twin.named_parameters())
    if name not in WITHOUT_STATE:
        for n, parameter in old.items():
            if id(parameter) in before:
                fresh.state[copies[n]] = {k: sliced(v, shapes[n], axes[n]) for k, v in before[id(parameter)].items()}
    assert [len(group["params"]) for group in optimizer.param_groups] == held
    start = [p.detach().clone() for p in small.parameters()]
    for _ in range(2):
        optimizer.step(gradients(small, optimizer))
        fresh.step(gradients(twin, fresh))
    for n, parameter in small.named_parameters():
        assert torch.equal(parameter, copies[n]), n
    changed = [not torch.equal(a, b) for a, b in zip(start, small.parameters(), strict=True)]
    trained_ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert changed == [id(p) in trained_ids for p in small.parameters()]
    assert not trained_ids & {id(p) for p in model.parameters()}


def test_sparse_adam():
    torch.manual_seed(0)
    model = Tagger()
    model.embedding.sparse = True
    sparse = torch.optim.SparseAdam(list(model.embedding.parameters()), lr=1e-2)
    pruner = cr.GroupLasso(model, TOKENS, keep=0.5, steps=1)
    sparse.step(gradients(model, sparse))
    pruner.step(sparse)
    state = sparse.state[model.embedding.weight]["exp_avg"].clone()
    small = pruner.shrink(sparse)
    assert torch.equal(sparse.state[small.embedding.weight]["exp_avg"], state)
    before = small.embedding.weight.detach().clone()
    sparse.step(gradients(small, sparse))
    assert not torch.equal(small.embedding.weight, before)


def test_lbfgs_starts_its_history_again():
    _, pruner, optimizer = trained(MAKERS["LBFGS"])
    with pytest.warns(UserWarning, match="LBFGS: .*old_dirs.*start again without state"):
        small = pruner.shrink(optimizer)
    assert not optimizer.state and optimizer._numel() == sum(p.numel() for p in small.parameters())


class OneAxis(torch.optim.Optimizer):
    """Keeps a number for each row and each column (as Adafactor does)."""

    def __init__(self, params, odd=False):
        super().__init__(params, {"lr": 1e-2})
        self.odd = odd

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state |= {f"without_{d}": p.sum(d) for d in range(p.dim())} | {"none": None, "count": 3}
                state |= {"flat": p.flatten().repeat(2)} if self.odd and p.dim() == 2 else {}
            p.sub_(1e-2 * p.grad)


def test_state_for_each_row_or_column_is_cut():
    model, pruner, optimizer = trained(lambda m: OneAxis(m.parameters()))
    axes, state = slices(model), dict(optimizer.state[model.rnn.weight_ih_l0])
    small = pruner.shrink(optimizer)
    cut = optimizer.state[small.rnn.weight_ih_l0]
    assert torch.equal(cut["without_1"], state["without_1"][axes["rnn.weight_ih_l0"][0]])
    assert torch.equal(cut["without_0"], state["without_0"]) and cut["none"] is None and cut["count"] == 3


def test_state_of_an_unknown_form_is_dropped_with_a_warning():
    _, pruner, optimizer = trained(lambda m: OneAxis(m.parameters(), odd=True))
    with pytest.warns(UserWarning, match="OneAxis: flat in its state cannot be cut"):
        small = pruner.shrink(optimizer)
    assert small.rnn.weight_ih_l0 not in optimizer.state and small.rnn.bias_ih_l0 in optimizer.state


def test_a_square_matrix_leaves_no_doubt():
    """Rows and columns of the head have the same length before shrinking: the axes cannot be told apart."""
    _, pruner, optimizer = trained(lambda m: OneAxis([m.head.weight]), outputs=UNITS)
    with pytest.warns(UserWarning, match="OneAxis: without_0, without_1"):
        small = pruner.shrink(optimizer)
    assert optimizer.param_groups[0]["params"][0] is small.head.weight and not optimizer.state


def test_lists_of_parameters_beside_the_groups_are_refused():
    model, pruner, optimizer = trained(MAKERS["Adam"])
    optimizer.shadow = list(model.parameters())
    before = dict(optimizer.state)
    with pytest.raises(ValueError, match=r"Adam.shadow.*outside of param_groups"):
        pruner.shrink(optimizer)
    assert dict(optimizer.state) == before


def test_the_optimizer_of_another_model_is_refused():
    _, pruner, _ = trained(MAKERS["Adam"])
    with pytest.raises(ValueError, match=r"optimizer: .*got an Adam without any parameter"):
        pruner.shrink(torch.optim.Adam(Tagger().parameters()))


def test_parameters_of_others_stay_in_their_groups():
    extra = nn.Parameter(torch.ones(3))
    _, pruner, optimizer = trained(lambda m: torch.optim.SGD([{"params": [extra]}, {"params": m.parameters()}], 0.1))
    small = pruner.shrink(optimizer)
    assert optimizer.param_groups[0]["params"] == [extra]
    assert [id(p) for p in optimizer.param_groups[1]["params"]] == [id(p) for p in small.parameters()]


def test_schedulers_go_on():
    torch.manual_seed(0)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    scheduler = CosineAnnealingLR(optimizer, 10)
    pruner = cr.GroupLasso(model, TOKENS, keep=0.5, steps=2)
    for _ in range(2):
        optimizer.step(gradients(model, optimizer))
        pruner.step(optimizer)
        scheduler.step()
    small = pruner.shrink(optimizer)
    optimizer.step(gradients(small, optimizer))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(scheduler.get_last_lr()[0]) != 1e-2


@pytest.mark.parametrize("spec", [cr.Kronecker(out_block=4, in_block=2), cr.LowRank(rank=4)])
@pytest.mark.parametrize("custom", [False, True])
def test_parameters_in_another_structure_are_trained_too(spec, custom):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            options = {"hidden_weight": spec, "batch_first": True}
            self.rnn = cr.Recurrent(cr.MGU, 6, 16, **options) if custom else cr.LSTM(6, 16, **options)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 5, 6)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=2)
    optimizer = torch.optim.Adam([{"params": model.rnn.parameters(), "lr": 1e-2}, {"params": model.head.parameters()}])
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    ids = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    assert ids == [{id(p) for p in small.rnn.parameters()}, {id(p) for p in small.head.parameters()}]
    before = [p.detach().clone() for p in small.parameters()]
    optimizer.zero_grad()
    small(x).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))


def test_an_average_of_the_weights_is_shrunk_as_its_own_model():
    torch.manual_seed(0)
    model = Tagger()
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    pruner = cr.GroupLasso(average, TOKENS, keep=0.5, steps=1)
    average.update_parameters(model)
    pruner.step()
    small = pruner.shrink()
    torch.testing.assert_close(small(TOKENS), average(TOKENS), rtol=1e-5, atol=1e-5)
