"""Which layers are pruned, how far, and what is reported about the others."""

import copy
import warnings

import pytest
import torch
from torch import nn

import compactrnn as cr


class Translator(nn.Module):
    """Encoder, decoder of two layers, head; the names are nested."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"rnn": nn.GRU(4, 16, batch_first=True)})
        self.decoder = nn.ModuleDict({"rnn": nn.LSTM(16, 16, 2, batch_first=True)})
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.decoder["rnn"](self.encoder["rnn"](x)[0])[0])


X = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))


def run(model, **options):
    """Train to the end of the schedule: the pruner, and the units kept by layer."""
    options = {"keep": 0.5, "steps": 2} | options
    pruner = cr.GroupLasso(model, X, **options)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-3) if trained else None
    for _ in range(options["steps"] or 2):
        if optimizer is not None:
            optimizer.zero_grad()
            (model(X).square().mean() + pruner.penalty()).backward()
            optimizer.step()
        pruner.step(optimizer)
    return pruner, [layer.kept for layer in pruner.report().layers]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep": 0.5}, [8, 8, 8]),
        ({"keep": {"": 0.5}}, [8, 8, 8]),
        ({"keep": {"encoder": 0.25, "decoder.rnn": 0.5}}, [4, 8, 8]),
        ({"keep": {"encoder": 0.25}}, [4, 16, 16]),
        ({"keep": {"": 0.75, "decoder.rnn[1]": 0.25}}, [12, 12, 4]),
        ({"keep": {"decoder": 0.5, "decoder.rnn[0]": 1}}, [16, 16, 8]),
        ({"keep": {"decoder.rnn[1].h": 0.5}}, [16, 16, 8]),
        ({"exclude": ["encoder"]}, [16, 8, 8]),
        ({"exclude": "decoder"}, [8, 16, 16]),
        ({"exclude": ["decoder.rnn[0]"]}, [8, 16, 8]),
        ({"keep": {"": 0.25}, "exclude": ["encoder.rnn"], "minimum": 6}, [16, 6, 6]),
    ],
)
def test_layers_are_chosen_by_name(options, kept):
    torch.manual_seed(0)
    model = Translator()
    pruner, found = run(model, **options)
    assert found == kept
    small = pruner.shrink()
    torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_names_may_be_those_of_the_wrapped_module(wrap):
    model = Translator()
    wrapped = wrap(model)
    prefix = "module" if isinstance(wrapped, nn.DataParallel) else "_orig_mod"
    pruner = cr.GroupLasso(
        wrapped, X, keep={f"{prefix}.encoder": 0.5, "decoder": 0.25}, steps=1, exclude=[f"{prefix}.decoder.rnn[1]"]
    )
    pruner.step()
    assert [layer.kept for layer in pruner.report().layers] == [8, 4, 16]
    small = pruner.shrink()
    assert type(small) is Translator
    torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": {"encoder": 0.5, "decodr": 0.5}}, "encoder.rnn.*decoder.rnn.*'decodr'"),
        ({"keep": {"encoder": 0.0}}, r"keep\['encoder'\].*fraction"),
        ({"keep": {"encoder": True}}, "True"),
        ({"keep": 1.5}, "keep"),
        ({"keep": 0.5, "exclude": ["head"]}, "exclude.*recurrent.*'head'"),
        ({"keep": 0.5, "steps": 2.5}, "positive int"),
        ({"keep": 0.5, "steps": True}, "positive int"),
    ],
)
def test_unknown_names_and_fractions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cr.GroupLasso(Translator(), X, **{"steps": 2, **options})


FROZEN = {
    "encoder": (["encoder.rnn"], [16, 8, 8]),
    "decoder": (["decoder.rnn"], [8, 16, 16]),
    "head": (["head"], [8, 8, 8]),
    "all": (["encoder.rnn", "decoder.rnn", "head"], [16, 16, 16]),
    "one weight": (["encoder.rnn.weight_ih_l0"], [16, 8, 8]),
    "one bias": (["decoder.rnn.bias_hh_l1"], [8, 8, 16]),
    "input of the second layer": (["decoder.rnn.weight_ih_l1"], [8, 16, 16]),
}


@pytest.mark.parametrize("case", FROZEN)
@pytest.mark.parametrize("options", [{"keep": 0.5}, {"keep": None, "steps": None, "strength": 2.0, "threshold": 5e-3}])
def test_frozen_parameters_are_neither_changed_nor_cut(case, options):
    torch.manual_seed(1)
    names, kept = FROZEN[case]
    model = Translator()
    frozen = {n: p for n, p in model.named_parameters() if n.startswith(tuple(names))}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    before = {n: p.clone() for n, p in frozen.items()}
    pruner, found = run(model, **options)
    if options["keep"]:
        assert found == kept
    assert frozen and all(torch.equal(p, before[n]) for n, p in frozen.items())
    left_alone = [layer.left_alone for layer in pruner.report().layers]
    assert [why == "frozen" for why in left_alone] == [n == 16 for n in kept]
    assert ("left alone (frozen)" in str(pruner.report())) == (16 in kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = pruner.shrink()
    parameters = {n.replace(".layer.", "."): p for n, p in small.named_parameters()}
    assert all(torch.equal(parameters[n], p) and not parameters[n].requires_grad for n, p in before.items())
    assert [n for n, p in parameters.items() if not p.requires_grad] == list(frozen)
    torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)


def test_layers_may_be_frozen_and_unfrozen_during_the_training():
    torch.manual_seed(2)
    model = Translator()
    model.encoder.requires_grad_(False)
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=4)
    before = copy.deepcopy(model.encoder.state_dict())
    pruner.step()
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    model.encoder.requires_grad_(True)
    for _ in range(3):
        pruner.step()
    assert pruner.shrink().encoder["rnn"].hidden_size == 8


def test_a_frozen_norm_keeps_its_width():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.norm, self.head = nn.GRU(4, 16, batch_first=True), nn.BatchNorm1d(16), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.norm(self.rnn(x)[0].transpose(1, 2)).transpose(1, 2))

    model = Model().eval()
    model.norm.requires_grad_(False)
    pruner = cr.GroupLasso(model, X, keep=0.5, steps=1)
    pruner.step()
    small = pruner.shrink()
    assert small.norm.num_features == 16 and small.rnn.layer.hidden_size == 8
    torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 49])
def test_a_schedule_that_has_not_ended_is_said(steps):
    pruner = cr.GroupLasso(Translator(), X, keep=0.5, steps=50)
    for _ in range(steps):
        pruner.step()
    assert f"step {steps} of 50" in str(pruner.report())
    with pytest.warns(UserWarning, match=f"step {steps} of 50 of the schedule: 0 of 48 units were cut"):
        pruner.shrink()


def test_a_penalty_that_cuts_nothing_is_said():
    pruner = cr.GroupLasso(Translator(), X, strength=1e-3)
    pruner.step()
    with pytest.warns(UserWarning, match="1 steps with strength 0.001: 0 of 48 units were cut; train longer"):
        pruner.shrink()


def test_a_model_without_a_layer_to_prune_is_said():
    model = Translator()
    model.encoder.requires_grad_(False)
    pruner, _ = run(model, exclude=["decoder"])
    with pytest.warns(UserWarning, match="0 of 48 units were cut; every layer is frozen or excluded"):
        pruner.shrink()


def test_a_schedule_that_has_ended_is_not_warned_of():
    pruner, _ = run(model := Translator())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner.shrink()
    model.head.weight.data += 1.0
    with pytest.warns(UserWarning, match=r"\[1\]\.h keeps 16 of 16 units, not 8; .*after the last change"):
        pruner.shrink()
    pruner.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner.shrink()


@pytest.mark.parametrize(
    "other",
    [
        {"keep": 0.25},
        {"steps": 9},
        {"keep": {"": 0.5, "encoder": 0.25}},
        {"exclude": ["encoder"]},
        {"minimum": 12},
        {"keep": None, "steps": None, "strength": 0.1},
    ],
)
def test_the_state_of_other_settings_is_refused(other):
    pruner, _ = run(Translator(), keep=0.5, steps=8)
    twin = cr.GroupLasso(Translator(), X, **{"keep": 0.5, "steps": 8} | other)
    before = twin.state_dict()
    with pytest.raises(ValueError, match=r"pruner state.*(keep, steps, exclude|wanted)"):
        twin.load_state_dict(pruner.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in twin.state_dict().items())


def test_training_resumes_in_the_middle_of_the_schedule():
    torch.manual_seed(3)
    model = Translator()
    options = {"keep": {"": 0.5, "encoder": 0.25}, "steps": 6, "exclude": ["decoder.rnn[0]"]}
    pruner = cr.GroupLasso(model, X, **options)
    for _ in range(3):
        pruner.step()
    again = Translator()
    again.load_state_dict(model.state_dict())
    other = cr.GroupLasso(again, X, **options)
    other.load_state_dict(pruner.state_dict())
    for _ in range(3):
        pruner.step()
        other.step()
    a, b = pruner.shrink().state_dict(), other.shrink().state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_refused_model_is_left_as_it_was():
    layer = cr.LSTM(4, 16, hidden_weight=cr.Kronecker(out_block=4, in_block=4), batch_first=True)
    before = [type(m) for m in layer.modules()]
    with pytest.raises(ValueError, match="nowhere"):
        cr.GroupLasso(layer, torch.randn(2, 5, 4), keep=0.5, steps=3, exclude=["nowhere"])
    assert [type(m) for m in layer.modules()] == before
