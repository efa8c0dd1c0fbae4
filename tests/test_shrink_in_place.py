"""Units are cut while a pruner is at work: nothing that the training goes on with changes but its size."""

import copy

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn._errors import UnsupportedModelError
from compactrnn.compress.sizes import counts
from shapes import SHAPES, example


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.lstm, self.gru = nn.LSTM(16, 32, 2, batch_first=True), nn.GRU(32, 24, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.gru(self.lstm(self.embedding(x))[0])[0])


TOKENS = torch.randint(0, 30, (4, 9), generator=torch.Generator().manual_seed(0))
TARGET = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(1))

PRUNERS = {
    "schedule": lambda m, n: cr.GroupLasso(m, TOKENS, keep=0.4, steps=n),
    "embeddings": lambda m, n: cr.GroupLasso(m, TOKENS, keep=0.4, steps=n, embeddings=True),
    "strength": lambda m, n: cr.GroupLasso(m, TOKENS, strength=0.02, threshold=5e-3),
    "units": lambda m, n: cr.NeuronSelection(m, TOKENS, keep=0.4, steps=n),
    "bytes": lambda m, n: cr.NeuronSelection(m, TOKENS, bytes=counts(m)[0], steps=n, embeddings=True),
    "macs": lambda m, n: cr.NeuronSelection(m, TOKENS, macs=counts(m)[2] // 4, steps=n),
}


def train(model, pruner, optimizer, steps):
    for _ in range(steps):
        loss = (model(TOKENS) - TARGET).square().mean() + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)


def start(name, steps=120):
    torch.manual_seed(0)
    model = Tagger()
    pruner = PRUNERS[name](model, steps)
    return model, pruner, torch.optim.Adam(model.parameters(), 1e-2)


def given_up(pruner):
    return {g.name: pruner.method.given_up(g) for g in pruner.groups}


@pytest.mark.parametrize("name", PRUNERS)
def test_the_size_that_was_asked_for_by_stages(name):
    """Cut six times on the way; in the end as small as without, and every parameter is trained."""
    whole, pruner, optimizer = start(name)
    train(whole, pruner, optimizer, 120)
    expected = counts(pruner.shrink())
    model, pruner, optimizer = start(name)
    sizes = [counts(model)[0]]
    for _ in range(6):
        train(model, pruner, optimizer, 20)
        pruner.shrink_(optimizer)
        sizes.append(counts(model)[0])
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 3, "in several steps"
    small = pruner.shrink(optimizer)
    if name != "strength":
        assert counts(small)[0] == pytest.approx(expected[0], rel=0.05), "up to a unit"
        assert counts(small)[2] == pytest.approx(expected[2], rel=0.05 if name == "macs" else 0.3)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in small.parameters()}


@pytest.mark.parametrize("name", ["schedule", "macs"])
def test_what_is_left_is_what_it_was(name):
    """Weights and moments of the units that stay, and the gates, are the same numbers."""
    model, pruner, optimizer = start(name)
    train(model, pruner, optimizer, 100)
    gone = given_up(pruner)
    before = {g.name: (None if g.gate is None else g.gate.log_alpha.detach().clone()) for g in pruner.groups}
    bias, moment = model.head.bias, optimizer.state[model.head.bias]["exp_avg"]
    model.eval()
    for group in pruner.groups:
        if group.gate is None:
            group.decay_((~gone[group.name]).float())
        else:
            with torch.no_grad():
                group.gate.log_alpha[gone[group.name]] = -9.0
    expected = model(TOKENS)
    model.train()
    count = pruner.shrink_(optimizer)
    assert count >= sum(int(mask.sum()) for mask in gone.values()) > 0 and model.training
    torch.testing.assert_close(model.eval()(TOKENS), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.head.bias, bias) and torch.equal(optimizer.state[model.head.bias]["exp_avg"], moment)
    for group in pruner.groups:
        if group.gate is not None:
            kept = before[group.name][~gone[group.name]]
            assert group.count <= len(kept) and set(group.gate.log_alpha.tolist()) <= set(kept.tolist())


def test_gates_that_an_optimizer_trains():
    torch.manual_seed(0)
    model = Tagger()
    pruner = cr.NeuronSelection(model, TOKENS, strength=3.0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-2)
    cut = 0
    for _ in range(20):
        train(model, pruner, optimizer, 20)
        cut += pruner.shrink_(optimizer)
    assert cut > 0
    gates = {id(g.gate.log_alpha): g.count for g in pruner.groups}
    states = {id(p): state for p, state in optimizer.state.items() if id(p) in gates}
    assert states.keys() == gates.keys() and all(len(s["exp_avg"]) == gates[p] for p, s in states.items())
    train(model, pruner, optimizer, 2)


def test_nothing_to_cut_changes_nothing():
    model, pruner, optimizer = start("schedule")
    layers, before = list(model.children()), copy.deepcopy(model.state_dict())
    assert pruner.shrink_(optimizer) == 0 and list(model.children()) == layers
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["embeddings", "macs"])
def test_a_training_that_is_started_again_ends_with_the_same_bits(name):
    """The model, the pruner and the optimizer are made anew, and get the sizes that they had by the pruner's state."""

    def run(stop):
        model, pruner, optimizer = start(name, 60)
        for stage in range(3):
            train(model, pruner, optimizer, 20)
            pruner.shrink_(optimizer)
            if stop and stage == 1:
                states = [copy.deepcopy(part.state_dict()) for part in (pruner, model, optimizer)]
                random = torch.get_rng_state()
                model, pruner, optimizer = start(name, 60)
                pruner.load_state_dict(states[0], optimizer)
                model.load_state_dict(states[1])
                optimizer.load_state_dict(states[2])
                torch.set_rng_state(random)
        return pruner.shrink(optimizer)

    whole, resumed = run(stop=False), run(stop=True)
    assert counts(whole)[0] < 0.6 * counts(Tagger())[0] and counts(whole) == counts(resumed)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_the_state_of_a_smaller_model_is_refused_where_it_does_not_fit():
    model, pruner, optimizer = start("schedule")
    begin = pruner.state_dict()
    train(model, pruner, optimizer, 80)
    assert pruner.shrink_(optimizer)
    state = pruner.state_dict()
    with pytest.raises(ValueError, match="pruner state"):
        pruner.load_state_dict(begin)
    with pytest.raises(ValueError, match="without any parameter of the model, which has become smaller"):
        pruner.step(torch.optim.Adam(Tagger().parameters()))
    for other, settings in ((Tagger(), {"keep": 0.3}), (Tagger(), {"keep": 0.4, "exclude": ["gru"]})):
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match=r"pruner state, target"):
            cr.GroupLasso(other, TOKENS, steps=120, **settings).load_state_dict(state)
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    with pytest.raises(UnsupportedModelError, match="a model in a wrapper cannot change its size"):
        cr.GroupLasso(nn.DataParallel(Tagger()), TOKENS, keep=0.4, steps=120).load_state_dict(state)


class Encoder(nn.Module):
    """Returns what a layer gives, which keeps its width."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 12, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.filterwarnings("ignore")
def test_a_layer_that_keeps_its_width_and_a_wrapper_are_refused():
    torch.manual_seed(0)
    model, x = Encoder(), torch.randn(2, 5, 4)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=2)
    for _ in range(2):
        pruner.step()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModelError, match=r"Encoder: lstm would keep the width of the output; .*shrink\(\)"):
        pruner.shrink_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and pruner.shrink() is not None
    pruner = cr.GroupLasso(nn.DataParallel(Tagger()), TOKENS, keep=0.5, steps=2)
    with pytest.raises(UnsupportedModelError, match="in a wrapper"):
        pruner.shrink_()


def first_output(model, x):
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gates", [False, True], ids=["schedule", "gates"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_outputs_or_a_refusal(shape, gates):
    """In twelve steps without a gradient, cut after the half and in the end."""
    torch.manual_seed(0)
    model = shape()
    x = example(model)
    pruner = (cr.NeuronSelection if gates else cr.GroupLasso)(model, x, keep=0.4, steps=12)
    whole, optimizer = counts(model)[0], torch.optim.SGD(model.parameters(), 0.1)
    for step in range(12):
        pruner.step()
        if step not in (5, 11):
            continue
        model.eval()
        for group in pruner.groups:
            if group.gate is not None:
                with torch.no_grad():
                    group.gate.log_alpha[pruner.method.given_up(group)] = -9.0
            elif not group.left_alone:
                group.decay_((~pruner.method.given_up(group)).float())
        expected = first_output(model, x)
        try:
            pruner.shrink_(optimizer)
        except UnsupportedModelError as error:
            assert "width of the output" in str(error)
        torch.testing.assert_close(first_output(model.eval(), x), expected, atol=1e-5, rtol=1e-4)
    small = pruner.shrink(optimizer)
    assert counts(small)[0] < 0.9 * whole
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} >= {id(p) for p in small.parameters()}
