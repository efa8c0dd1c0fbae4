"""A shrunk model is saved, and loaded into the code that builds the original one."""

import copy
import json
import os

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn._checkpoint import load_tree, save_tree
from shapes import SHAPES, Residual, Stacked, Tagger, example


def outputs(model, x):
    with torch.no_grad():
        y = model.eval()(x)
    return [t for t in torch.utils._pytree.tree_leaves(y) if isinstance(t, torch.Tensor)]


def same(a, b, x):
    assert all(torch.equal(p, q) for p, q in zip(outputs(a, x), outputs(b, x), strict=True))
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert [p.requires_grad for p in a.parameters()] == [p.requires_grad for p in b.parameters()]
    assert repr(a) == repr(b)


def shrunk(model, x, seed=0):
    """Zero randomly chosen units."""
    generator = torch.Generator().manual_seed(seed)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    for group in pruner.groups:
        group.decay_((torch.rand(group.count, generator=generator) > 0.4).float())
    return pruner.shrink()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shrunk_model_comes_back(shape, tmp_path):
    torch.manual_seed(0)
    model = shape()
    x = example(model)
    small = shrunk(model, x)
    cr.save(small, tmp_path)
    torch.manual_seed(1)
    again = cr.load(tmp_path, shape)
    assert type(again) is type(small)
    same(again, small, x)


class Structured(nn.Module):
    def __init__(self, hidden=16, spec=None, custom=False, layers=1, outputs=4, both=False):
        super().__init__()
        options = {"batch_first": True, "num_layers": layers, "bidirectional": both}
        options |= {} if spec is None else {"hidden_weight": spec}
        self.rnn = cr.Recurrent(cr.MGU, 6, hidden, **options) if custom else cr.LSTM(6, hidden, **options)
        self.head = nn.Linear(hidden * (2 if both else 1), outputs)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
SPECS = [
    None,
    cr.LowRank(rank=4),
    cr.LowRank(rank=14),
    cr.LowRank(energy=0.9),
    cr.Kronecker(out_block=4, in_block=2),
    cr.Doped(cr.LowRank(rank=4), keep=0.2),
    cr.Monarch(blocks=2) + cr.Diagonal(),
    cr.BlockSparse(block=(4, 2), keep=0.5),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("custom", [False, True])
def test_structured_weights_come_back(spec, custom, tmp_path):
    torch.manual_seed(0)
    make = lambda: Structured(spec=spec, custom=custom, layers=2, both=True)  # noqa: E731
    small = shrunk(make(), X)
    cr.save(small, tmp_path)
    same(cr.load(tmp_path, make), small, X)


def test_masks_of_a_layer_that_was_not_cut_come_back(tmp_path):
    torch.manual_seed(0)
    make = lambda: Structured(spec=cr.Kronecker(out_block=4, in_block=2))  # noqa: E731
    pruner = cr.GroupLasso(make(), X, keep=0.5, steps=1, exclude=["rnn"])
    with pytest.warns(UserWarning, match="excluded"):
        small = pruner.shrink()
    cr.save(small, tmp_path)
    same(cr.load(tmp_path, make), small, X)


def test_a_weight_that_was_factorized_by_hand_comes_back(tmp_path):
    """The class builds dense matrices."""
    model = Structured()
    weight = cr.LowRank(rank=3).build(64, 16, gates=4)
    model.rnn.put("weight_hh_l0", weight.from_dense_(model.rnn.weight_hh_l0.detach()))
    model.rnn.refresh()
    cr.save(model, tmp_path)
    again = cr.load(tmp_path, Structured)
    assert again.rnn.weight_hh_l0.rank == 3 and torch.equal(again(X), model(X))


@pytest.mark.parametrize("shape", [Stacked, Residual])
def test_the_loaded_model_trains_on_shrinks_again_and_packs(shape, tmp_path):
    torch.manual_seed(0)
    model = shape()
    x = example(model)
    cr.save(shrunk(model, x), tmp_path / "one")
    model = cr.load(tmp_path / "one", shape)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=2)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
    smaller = pruner.shrink(optimizer)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    cr.save(smaller, tmp_path / "two")
    again = cr.load(tmp_path / "two", shape)
    same(again, smaller, x)
    cr.pack(again, tmp_path / "model.crnn", x, weights="float32")


class Tied(nn.Module):
    """Embedding and head share a matrix; a fixed scale and a running count beside."""

    def __init__(self, vocabulary=20):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, vocabulary)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.rand(16), persistent=False)
        self.register_buffer("count", torch.tensor(3))
        self.none = nn.Linear(1, 1, bias=False).requires_grad_(False)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0] * self.scale)


def test_shared_frozen_and_temporary_tensors_come_back(tmp_path):
    torch.manual_seed(0)
    model = Tied()
    tokens = torch.randint(0, 20, (2, 5))
    cr.save(model, tmp_path)
    again = cr.load(tmp_path, Tied)
    assert again.head.weight is again.embedding.weight
    assert torch.equal(again.scale, model.scale) and "scale" not in again.state_dict()
    same(again, model, tokens)
    again = cr.load(tmp_path, shrunk_copy := copy.deepcopy(model))
    assert again is not shrunk_copy


def test_sharing_is_that_of_the_saved_model(tmp_path):
    model = Tied()
    model.head.weight = nn.Parameter(torch.randn(20, 16))
    cr.save(model, tmp_path)
    again = cr.load(tmp_path, Tied)
    assert again.head.weight is not again.embedding.weight and torch.equal(again.head.weight, model.head.weight)


def test_other_types_of_numbers_and_values_beyond_the_finite(tmp_path):
    model = nn.GRU(3, 4).to(torch.bfloat16)
    model.weight_ih_l0.data[0, 0], model.weight_ih_l0.data[0, 1] = float("nan"), float("-inf")
    cr.save(model, tmp_path)
    again = cr.load(tmp_path, nn.GRU(3, 4))
    assert all(
        torch.equal(a.view(torch.int16), b.view(torch.int16))
        for a, b in zip(again.parameters(), model.parameters(), strict=True)
    )
    assert type(again) is nn.GRU


def test_wrapped_models_are_saved_without_their_wrapper(tmp_path):
    model = Tagger()
    cr.save(nn.DataParallel(model), tmp_path)
    same(cr.load(tmp_path, Tagger), model, example(model))


def test_the_instance_stays_as_it_is(tmp_path):
    x = example(Stacked())
    cr.save(shrunk(Stacked(), x), tmp_path)
    instance = Stacked()
    before = copy.deepcopy(instance.state_dict())
    assert cr.load(tmp_path, instance) is not instance
    assert type(instance.lstm) is nn.LSTM
    assert all(torch.equal(v, before[n]) for n, v in instance.state_dict().items())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Tagger, r"holds a Structured.*Tagger is another: rnn: .*got no such module"),
        (lambda: Structured(hidden=4), r"rnn: expected at least .*'h': \d+.*got a layer of .*'h': 4"),
        (lambda: Structured(layers=2), r"rnn: expected layers and directions as they were saved.*, got units"),
        (lambda: Structured(both=True), r"rnn: .*got units"),
        (
            lambda: Structured(custom=True),
            "rnn: expected a recurrent layer as it was saved, LSTM.*, got Recurrent of MGU",
        ),
        (lambda: Structured(outputs=5), r"head.weight: expected \(4, \d+\), or more columns.*, got shape \(5, 16\)"),
        (lambda: Structured(outputs=3), "head.weight"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "Sequential is another"),
        (lambda: with_more("extra"), "got extra.weight, which was not saved"),
        (lambda: 3, r"model: .*got a int"),
    ],
)
def test_other_classes_and_sizes_are_refused(make, words, tmp_path):
    cr.save(shrunk(Structured(), X), tmp_path)
    with pytest.raises(ValueError, match=words):
        cr.load(tmp_path, make)


def with_more(name):
    model = Structured()
    model.add_module(name, nn.Linear(2, 2, bias=False))
    return model


def test_a_tensor_that_the_class_lacks_is_named(tmp_path):
    cr.save(with_more("extra"), tmp_path)
    with pytest.raises(ValueError, match=r"Structured: expected every tensor that was saved.*, got no extra.weight"):
        cr.load(tmp_path, Structured)


def test_a_damaged_folder_is_refused(tmp_path):
    cr.save(shrunk(Structured(), X), tmp_path)
    file = tmp_path / "model.safetensors"
    good = file.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(0, len(good), (40,), generator=generator).tolist():
        file.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(cr.ModelFileError):
            cr.load(tmp_path, Structured)
    for size in (0, 7, 100, len(good) - 1):
        file.write_bytes(good[:size])
        with pytest.raises(cr.ModelFileError):
            cr.load(tmp_path, Structured)
    with pytest.raises(FileNotFoundError):
        cr.load(tmp_path / "nothing", Structured)


def test_a_tree_of_something_else_is_refused(tmp_path):
    for tree in (
        {"epoch": 3},
        [1, 2],
        {"format": 1},
        {"format": 99},
        {"format": 1, "class": "X", "layers": 3, "tensors": {}},
    ):
        save_tree(tmp_path / "model.safetensors", tree)
        with pytest.raises(cr.ModelFileError, match=r"not a model that compactrnn.save wrote"):
            cr.load(tmp_path, Structured)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["layers"][0].update(hidden_size=999), "hidden_size"),
        (lambda t: t["layers"][0].update(path="rnn.forward.__globals__"), "no such module"),
        (lambda t: t["layers"][0].update(kind="GRU"), "GRU"),
        (lambda t: t["tensors"].update({"head.__class__": torch.ones(1)}), "got no head.__class__"),
        (lambda t: t["shared"].update({"head.forward": "head.weight"}), "got no head.forward"),
    ],
)
def test_a_forged_file_reaches_nothing_but_parameters_and_buffers(change, words, tmp_path):
    cr.save(shrunk(Structured(), X), tmp_path)
    tree = load_tree(tmp_path / "model.safetensors")
    change(tree)
    save_tree(tmp_path / "model.safetensors", tree)
    with pytest.raises(ValueError, match=words):
        cr.load(tmp_path, Structured)


def test_saving_replaces_the_older_file_whole(tmp_path, monkeypatch):
    first = shrunk(Structured(), X)
    cr.save(first, tmp_path)
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        cr.save(Structured(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    same(cr.load(tmp_path, Structured), first, X)


def test_extra_states_are_refused_by_name(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"extra \(Extra\)"):
        model = Structured()
        model.extra = Extra(2, 2)
        cr.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_file_is_plain_safetensors(tmp_path):
    from safetensors import safe_open

    small = shrunk(Structured(), X)
    cr.save(small, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        json.loads(file.metadata()["compactrnn"])
        names = set(file.keys())
    assert {f"/tensors/{name}" for name in small.state_dict()} == names
