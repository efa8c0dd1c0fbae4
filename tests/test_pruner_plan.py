"""A plan lists what is removed, survives JSON, and shrinks an equal model to the same bits, and no other model."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import compactrnn as cr
from cutting import silence
from shapes import SHAPES, Residual, Stacked, Tagger, example


def pruned(model, x, seed=0):
    pruner = cr.GroupLasso(model, x, strength=0.0)
    silence(pruner, seed=seed)
    return pruner


def assert_equal(one, other):
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)
    assert repr(one) == repr(other)
    assert [p.requires_grad for p in one.parameters()] == [p.requires_grad for p in other.parameters()]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_cuts_an_equal_model_to_the_same_bits(shape):
    torch.manual_seed(0)
    model = shape()
    x = example(model)
    pruner = pruned(model, x)
    plan, small = pruner.plan(), pruner.shrink()
    fresh = shape()
    fresh.load_state_dict(model.state_dict())
    before = copy.deepcopy(fresh.state_dict())
    again = cr.PruningPlan.from_json(plan.to_json())
    assert again == plan
    assert_equal(again.apply(fresh), small)
    assert all(torch.equal(v, before[n]) for n, v in fresh.state_dict().items())
    report = pruner.report()
    assert [len(u.kept) for u in plan.units] == [layer.kept for layer in report.layers]
    assert all(sum(n for _, n in u.removed) == u.units - len(u.kept) for u in plan.units)
    assert plan.parameters == (sum(p.numel() for p in model.parameters()), sum(p.numel() for p in small.parameters()))


class Structured(nn.Module):
    """Weights in other structures than a matrix, one of them shared."""

    def __init__(self):
        super().__init__()
        kronecker = cr.Kronecker(out_block=4, in_block=2)
        self.one = cr.LSTM(6, 16, batch_first=True, hidden_weight=kronecker, input_weight=cr.LowRank(rank=3))
        self.two = cr.Recurrent(cr.MGU, 16, 16, batch_first=True, hidden_weight=cr.LowRank(rank=4))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.two(self.one(x)[0])[0])


def test_structured_weights(tmp_path):
    torch.manual_seed(0)
    model, x = Structured(), torch.randn(2, 5, 6)
    pruner = pruned(model, x)
    cr.save(model, tmp_path)
    again = cr.load(tmp_path, Structured)
    assert_equal(pruner.plan().apply(again), pruner.shrink())


SCRIPT = """
import sys, torch
import compactrnn as cr
sys.path.insert(0, {tests!r})
from shapes import Tagger
model = Tagger()
model.load_state_dict(torch.load({folder!r} + "/dense.pt", weights_only=True))
with open({folder!r} + "/plan.json") as file:
    plan = cr.PruningPlan.from_json(file.read())
torch.save(plan.apply(model).state_dict(), {folder!r} + "/small.pt")
"""


def test_another_process(tmp_path):
    torch.manual_seed(0)
    model = Tagger()
    pruner = pruned(model, example(model))
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    (tmp_path / "plan.json").write_text(pruner.plan().to_json())
    script = SCRIPT.format(tests=str(__file__).rpartition("/")[0], folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", script], check=True)
    small, there = pruner.shrink().state_dict(), torch.load(tmp_path / "small.pt", weights_only=True)
    assert list(small) == list(there) and all(torch.equal(v, there[n]) for n, v in small.items())


def test_a_plan_explains_itself():
    model = Stacked()
    pruner = cr.GroupLasso(model, example(model), keep={"lstm[1]": 0.5, "": 1.0}, steps=1, exclude=["lstm[2]"])
    pruner.step()
    text = str(pruner.plan())
    assert "at step 1 of 1 of the schedule" in text
    assert "lstm[1].h: 8 of 16 units; read by lstm[2].input; 8 removed: their outgoing weights are zero" in text
    assert "lstm[2].h: 16 of 16 units; read by head.weight; left alone (excluded)" in text
    model = Residual()
    text = str(pruned(model, example(model)).plan())
    assert "removed: they are always zero; not all consumers are known" in text
    assert "lstm: narrower inside; its output keeps its width" in text
    model = Tagger()
    assert "head.weight: " in str(pruned(model, example(model)).plan())


class Wider(Stacked):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 20, 3, batch_first=True)
        self.head = nn.Linear(20, 4)


class Gru(Stacked):
    def __init__(self):
        super().__init__()
        self.lstm = nn.GRU(6, 16, 3, batch_first=True)


class Custom(Stacked):
    """The parameters of another layer, under the same names."""

    def __init__(self):
        super().__init__()
        weights = dict(self.lstm.named_parameters())
        self.lstm = nn.Module()
        for name, parameter in weights.items():
            self.lstm.register_parameter(name, parameter)


torch.manual_seed(0)
SEED = Stacked().state_dict()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            Stacked,
            r"the plan of a Stacked, lstm.weight_ih_l0: expected those that.*got other values.*same_weights=False",
        ),
        (Wider, r"lstm.weight_ih_l0: expected float32 of shape \(64, 6\).*got float32 of shape \(80, 6\)"),
        (Gru, r"lstm.weight_ih_l0: .*got float32 of shape \(48, 6\)"),
        (lambda: Stacked().double(), r"lstm.weight_ih_l0: expected float32.*got float64"),
        (Tagger, r"got a Tagger with no head.weight|no lstm.weight_ih_l2|shape"),
        (Residual, r"shape|no lstm"),
        (lambda: nn.Linear(2, 2), r"got a Linear with no lstm.weight_ih_l0"),
        (lambda: "model", r"model: expected an nn.Module, got a str"),
    ],
)
def test_a_plan_for_another_model_is_refused(make, words):
    model = Stacked()
    model.load_state_dict(SEED)
    plan = pruned(model, example(model)).plan()
    other = make()
    before = copy.deepcopy(other.state_dict()) if isinstance(other, nn.Module) else {}
    with pytest.raises(ValueError, match=words):
        plan.apply(other)
    assert not before or all(torch.equal(v, before[n]) for n, v in other.state_dict().items())


def test_weights_that_changed_since_are_refused_by_name():
    model = Stacked()
    pruner = pruned(model, example(model))
    plan, before = pruner.plan(), model.lstm.bias_hh_l1.detach().clone()
    with torch.no_grad():
        model.lstm.bias_hh_l1[3] += 1
    with pytest.raises(ValueError, match=r"lstm.bias_hh_l1: .*got other values; make a plan for this model"):
        plan.apply(model)
    with torch.no_grad():
        model.lstm.bias_hh_l1.copy_(before)
    assert_equal(plan.apply(model), pruner.shrink())


def test_other_modules_under_the_same_names_are_refused():
    model = Stacked()
    pruner = pruned(model, example(model))
    other = Custom()
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"lstm: expected LSTM, got Module"):
        pruner.plan().apply(other)


def test_other_weights_are_cut_on_demand():
    """A moving average, or an untrained model of the planned sizes."""
    model = Stacked()
    pruner = pruned(model, example(model))
    small = pruner.plan().apply(Stacked(), same_weights=False)
    assert [p.shape for p in small.parameters()] == [p.shape for p in pruner.shrink().parameters()]
    with pytest.raises(ValueError, match="shape"):
        pruner.plan().apply(Wider(), same_weights=False)


def test_a_wrapped_model_and_training_statistics():
    from shapes import BatchNormed

    model = BatchNormed()
    x = example(model)
    pruner = pruned(model, x)
    plan = pruner.plan()
    model.train()(x)  # moves running means, which no cut depends on
    assert_equal(plan.apply(nn.DataParallel(model)), pruner.shrink())


def forged(change):
    model = Stacked()
    model.load_state_dict(SEED)
    tree = json.loads(pruned(model, example(model)).plan().to_json())
    change(tree)
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(format="compactrnn pruning plan 9"), "format 'compactrnn pruning plan 1'"),
        (lambda t: t.pop("units"), "expected an object with the keys"),
        (lambda t: t.update(extra=1), "expected an object with the keys"),
        (lambda t: t["units"][0].update(kept=[3, 3]), r"lstm\[0\].h, kept: expected sorted indices below 16"),
        (lambda t: t["units"][0].update(kept=[5, 3]), "sorted indices below 16"),
        (lambda t: t["units"][0].update(kept=[]), "at least one"),
        (lambda t: t["units"][0].update(kept=[0, 16]), "below 16"),
        (lambda t: t["units"][0].update(kept=[-1, 2]), r"plan.units\[0\].kept\[0\]: expected an integer from 0"),
        (lambda t: t["units"][0].update(kept=[True]), "expected an integer"),
        (lambda t: t["units"][0].update(kept=[1.0]), "expected an integer"),
        (lambda t: t["units"][0].update(kept=["1"]), "expected an integer"),
        (lambda t: t["units"][0].update(kept=None), "expected a list"),
        (lambda t: t["units"][0].update(units=2**40), "expected an integer"),
        (lambda t: t["units"][0].update(removed=[["x", 1]]), "removed: expected"),
        (lambda t: t["units"].append(t["units"][0]), r"'lstm\[0\].h' twice"),
        (lambda t: t["layers"].append(t["layers"][0]), "'lstm' twice"),
        (lambda t: t["tensors"].append(t["tensors"][0]), "'head.weight, axis 1' twice"),
        (lambda t: t.update(sizes=[{"path": "", "name": "n", "before": 4, "after": 4}]), "a size below 4"),
        (lambda t: t.update(sizes=[{"path": "", "name": "n", "before": 4}]), "an object with the keys"),
        (lambda t: t["units"][0].update(path="head"), "the path 'head'"),
        (lambda t: t["layers"][0].update(scattered="yes"), "expected true or false"),
        (lambda t: t["layers"][0].update(kept_inputs=[7]), "kept_inputs: expected sorted indices below 6"),
        (lambda t: t["tensors"][0].update(kept=[99]), "head.weight, kept"),
        (lambda t: t.update(parameters=[1]), "expected 2 values"),
        (lambda t: t.update(weights=[]), "expected an object"),
        (lambda t: t.update(model=3), "expected a string"),
    ],
)
def test_json_that_cannot_be_a_plan_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        cr.PruningPlan.from_json(forged(change))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"format": NaN}', '{"format": 1, "format": 2}', "[" * 100000, b"{}", None]
)
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(ValueError, match="pruning plan"):
        cr.PruningPlan.from_json(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["units"][0].update(units=17, removed=[]), r"lstm\[0\].h: expected 17 units, got 16"),
        (lambda t: t["units"][0].update(unit_set="z"), r"lstm\[0\].z: .*got no such unit set"),
        (lambda t: t["units"][0].update(layer=7), r"lstm\[7\].h: .*got no such unit set"),
        (lambda t: t["units"][0].update(kept=[0], removed=[]), "sizes after it"),
        (lambda t: t["layers"][0].update(kind="GRU"), "lstm: expected GRU, got LSTM"),
        (lambda t: t["layers"][0].update(inputs=7), "lstm: expected 7 inputs, got 6 inputs"),
        (lambda t: t["tensors"][0].update(axis=5), "head.weight: expected a tensor with 16 entries along axis 5"),
        (lambda t: t["tensors"][0].update(name="head.forward"), "head.forward: expected a tensor"),
        (lambda t: t["tensors"][0].update(name="lstm.weight_hh_l0"), "cuts that do not fit each other"),
        (lambda t: t.update(parameters=[1, 2]), "sizes after it"),
        (lambda t: t["weights"].pop("head.bias"), "head.bias, which the plan's model lacks"),
    ],
)
def test_a_forged_plan_changes_nothing(change, words):
    model = Stacked()
    model.load_state_dict(SEED)
    pruned(model, example(model))
    plan = cr.PruningPlan.from_json(forged(change))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        plan.apply(model)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
