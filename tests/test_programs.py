"""Exported, scripted and traced models pack as the module that they were made from, or are refused with the reason."""

import functools
import importlib.util
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.graph.programs import rebuilt
from program_models import TABLE, CellStep, Front, Layer, Rates, r
from step_models import Step

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns about torch.jit and of what it traces


def loaded(program):
    """`program` from its file."""
    held = io.BytesIO()
    torch.export.save(program, held)
    held.seek(0)
    return torch.export.load(held)


def jit_loaded(script):
    held = io.BytesIO()
    torch.jit.save(script, held)
    held.seek(0)
    return torch.jit.load(held)


FORMS = {
    "exported": torch.export.export,
    "scripted": lambda m, x: torch.jit.script(m),
    "traced": torch.jit.trace,
    "exported strictly": lambda m, x: torch.export.export(m, x, strict=True),
    "exported, from a file": lambda m, x: loaded(torch.export.export(m, x)),
    "scripted, from a file": lambda m, x: jit_loaded(torch.jit.script(m)),
    "frozen": lambda m, x: torch.jit.freeze(torch.jit.script(m)),
}
CASES = [(name, form) for name in TABLE for form in list(FORMS)[:3]]
CASES += [(name, form) for name in ("convolution", "step of a layer") for form in list(FORMS)[3:]]
# of the same answers, in other operations or under other names: jit.trace takes cells apart, jit.freeze drops names
OTHERWISE = {
    ("step of a cell", "traced"),
    ("step of a GRU cell", "traced"),
    ("views", "exported"),
    *((name, "frozen") for name in TABLE),
}


def case(name):
    make, example, options = TABLE[name]
    torch.manual_seed(0)
    return make().eval(), example if isinstance(example, tuple) else (example,), options


@functools.cache
def bytes_of_module(name):
    model, example, options = case(name)
    with tempfile.TemporaryDirectory() as folder:
        cr.pack(model, f"{folder}/m.crnn", example, notes=False, **options)
        return Path(folder, "m.crnn").read_bytes()


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_program_packs_to_the_bytes_of_its_module(tmp_path, name, form):
    model, example, options = case(name)
    program, given = FORMS[form](model, example), None if form.startswith("exported") else example
    if (name, form) not in OTHERWISE:
        cr.pack(program, tmp_path / "m.crnn", given, notes=False, **options)
        assert (tmp_path / "m.crnn").read_bytes() == bytes_of_module(name)
        return
    cr.pack(program, tmp_path / "m.crnn", given, weights="float32", **options)
    if "states" in options:
        xs, states, wanted = r(31, *example[0].shape), [torch.zeros_like(s) for s in example[1:]], []
        for x in xs:
            y, *states = model(x, *states)
            wanted.append(y.detach().numpy().ravel())
        xs = xs.reshape(31, -1)
    else:
        xs = example[0][0].repeat(4, *[1] * (example[0].dim() - 2))
        y = model(xs[None])
        wanted = (y[0] if isinstance(y, tuple) else y)[0].detach().numpy()
    y = cr.Engine(tmp_path / "m.crnn").run(xs.numpy())
    y = y[0] if isinstance(y, tuple) else y  # of a batch that is fixed to one, an axis stays
    np.testing.assert_allclose(y.reshape(np.shape(wanted)), np.stack(wanted), atol=1e-5)


def test_a_program_is_not_changed(tmp_path):
    model = Front().eval()
    script, example = torch.jit.script(model).train(), r(2, 9, 5)
    program = torch.export.export(model, (example,))
    before = {name: t.clone() for name, t in [*script.state_dict().items(), *program.state_dict.items()]}
    cr.pack(script, tmp_path / "a.crnn", example)
    cr.pack(program, tmp_path / "b.crnn")
    assert script.training and all(m.training for m in script.modules())
    after = dict([*script.state_dict().items(), *program.state_dict.items()])
    assert after.keys() == before.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    assert (tmp_path / "a.crnn").read_bytes() == (tmp_path / "b.crnn").read_bytes()


@pytest.mark.parametrize("rate", [8000, 16000])
def test_arguments_of_a_script_that_are_no_tensors_are_followed(tmp_path, rate):
    model, x = Rates().eval(), r(2, 9, 5)
    cr.pack(
        torch.jit.script(model), tmp_path / "m.crnn", (x, rate), weights="float32", calibration=[(r(1, 20, 5), rate)]
    )
    y = cr.Engine(tmp_path / "m.crnn").run(x[1].numpy())
    np.testing.assert_allclose(y, model(x, rate)[1].detach().numpy(), atol=1e-5)


def test_names_of_arguments_and_of_a_dict_stay(tmp_path):
    class Two(Layer):
        def forward(self, x, *, bias):
            y, h = self.rnn(x)
            return {"y": self.fc(y) + bias, "last": h}

    model = Two(nn.GRU).eval()
    program = torch.export.export(model, (r(2, 9, 5),), {"bias": r(2, 9, 3)})
    cr.pack(program, tmp_path / "m.crnn")
    engine = cr.Engine(tmp_path / "m.crnn")
    assert [i.name for i in engine.inputs] == ["x", "bias"] and [o.name for o in engine.outputs] == ["y", "last"]


def test_weights_that_are_computed_are_taken_as_they_are(tmp_path):
    model = Layer(nn.GRU)
    nn.utils.parametrizations.weight_norm(model.rnn, "weight_hh_l0")
    x = r(2, 9, 5)
    cr.pack(torch.export.export(model.eval(), (x,)), tmp_path / "m.crnn", weights="float32")
    y = cr.Engine(tmp_path / "m.crnn").run(x[0].numpy())
    np.testing.assert_allclose(y, model(x)[0].detach().numpy(), atol=1e-5)


def test_a_rebuilt_module_prunes_and_packs(tmp_path):
    model, x = Layer(nn.LSTM, hidden=8).eval(), r(2, 9, 5)
    module = rebuilt(torch.export.export(model, (x,)), x).module.train()
    pruner = cr.GroupLasso(module, x, keep=0.5, steps=4)
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    for _ in range(4):
        optimizer.zero_grad()
        (module(x).square().mean() + pruner.penalty()).backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    assert small.rnn.hidden_size == 4
    cr.pack(small, tmp_path / "small.crnn", x)


def program(call, x=None, decompose=False, train=False, states=(), **modules):
    torch.manual_seed(0)
    x = r(1, 23, 5) if x is None else x
    model = Step(call, **({"g": nn.GRU(5, 4, batch_first=True)} | modules))
    exported = torch.export.export(model.train(train), (x, *states))
    return exported.run_decompositions() if decompose else exported


def of_steps(call):
    """A program with a number that was computed from the number of steps."""
    return lambda: program(lambda m, x: call(m.g(x)[0], x.shape[1]))


REFUSED_PROGRAMS = {
    "sum over steps": (of_steps(lambda y, n: y.sum(1) / n), "div", "number 23 may come from the 23 steps"),
    "mean over all": (of_steps(lambda y, n: y.sum((0, 1)) / (4 * n)), "number 92"),
    "root of steps": (of_steps(lambda y, n: y * n**-0.5), "mul", "23 steps"),
    "logarithm": (of_steps(lambda y, n: y * torch.log(torch.tensor(float(n)))), "a tensor of the program"),
    "positions": (of_steps(lambda y, n: y * torch.arange(n)[:, None]), "takes no other number"),
    "mask": (of_steps(lambda y, n: y + y.sum(1, keepdim=True).repeat(1, n, 1)), "takes no other number"),
    "last by number": (of_steps(lambda y, n: y[:, n - 1]), "select", "23 steps"),
    "padding": (of_steps(lambda y, n: nn.functional.pad(y, (0, 0, n, 0))[:, :n]), "pad", "23 steps"),
    "pooling": (of_steps(lambda y, n: nn.functional.avg_pool1d(y.mT, n).mT), "avg_pool1d", "23 steps"),
    "one step": (lambda: program(lambda m, x: m.g(x)[0], r(1, 1, 5)), "exported with one time step", "states="),
    "decomposed": (lambda: program(lambda m, x: m.g(x)[0], decompose=True), "run_decompositions", "no recurrent layer"),
    "dropout": (
        lambda: program(lambda m, x: m.d(m.g(x)[0]), d=nn.Dropout(), train=True),
        "dropout",
        "train mode",
        "model.eval()",
    ),
    "dropout between layers": (
        lambda: program(lambda m, x: m.g(x)[0], g=nn.GRU(5, 4, 2, dropout=0.5, batch_first=True), train=True),
        "gru",
        "train mode",
    ),
    "batch norm": (
        lambda: program(lambda m, x: m.b(m.g(x)[0].mT).mT, b=nn.BatchNorm1d(4), train=True),
        "batch_norm",
        "train mode",
    ),
    "batch": (lambda: program(lambda m, x: m.g(x)[0].reshape(46, 4).view(2, 23, 4), r(2, 23, 5)), "a batch of 2"),
}


@pytest.mark.parametrize("name", REFUSED_PROGRAMS)
def test_a_program_that_is_right_for_one_length_alone_is_refused(tmp_path, name):
    make, *parts = REFUSED_PROGRAMS[name]
    with pytest.raises(cr.UnsupportedModelError) as error:
        cr.pack(make(), tmp_path / "m.crnn")
    for part in parts:
        assert part in str(error.value), str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("default")
def test_the_number_of_steps_of_an_export_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"exported with 23 steps, and packed for any number of steps"):
        cr.pack(program(lambda m, x: m.g(x)[0], r(1, 23, 5)), tmp_path / "m.crnn")


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 4, batch_first=True)
        self.seen = torch.zeros(1)


class OnValues(Branch):
    def forward(self, x):
        y = self.gru(x)[0]
        if y.sum() > 0:
            y = 2 * y
        return y


class OnLength(Branch):
    def forward(self, x):
        y = self.gru(x)[0]
        if x.size(1) > 5:
            y = 2 * y
        return y


class OverTime(Branch):
    def forward(self, x):
        y = self.gru(x)[0]
        for t in range(x.size(1)):
            y = y + x[:, t : t + 1, :4]
        return y


class Keeps(Branch):
    def forward(self, x):
        y = self.gru(x)[0] + self.seen
        self.seen = y[:, -1].mean(1)
        return y


class Packs(Branch):
    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([9, 9]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


def with_dropout():
    return Step(lambda m, x: m.d(m.g(x)[0]), g=nn.GRU(5, 4, batch_first=True), d=nn.Dropout())


REFUSED_SCRIPTS = {
    "values": (lambda x: torch.jit.script(OnValues()), "OnValues, aten::Bool", "test_programs.py", "torch.where"),
    "length": (lambda x: torch.jit.script(OnLength()), "OnLength, prim::If", "size of a tensor"),
    "loop": (lambda x: torch.jit.script(OverTime()), "OverTime, prim::Loop", "over time steps"),
    "kept": (lambda x: torch.jit.script(Keeps()), "Keeps", "seen: kept from one call", "states="),
    "traced in train mode": (
        lambda x: torch.jit.trace(with_dropout().train(), x, check_trace=False),
        "dropout",
        "train mode",
    ),
    "traced, of one length": (
        lambda x: torch.jit.trace(Step(lambda m, x: m.g(x)[0] + torch.ones(9, 4), g=nn.GRU(5, 4, batch_first=True)), x),
        "takes no other number",
    ),
    "quantized": (
        lambda x: torch.jit.script(torch.ao.quantization.quantize_dynamic(Layer(nn.LSTM), {nn.LSTM}, torch.qint8)),
        "quantized",
    ),
    "layer alone": (lambda x: torch.jit.script(nn.GRU(5, 3)), "GRU: a torch.jit.ScriptModule without a forward"),
    "no recurrence": (lambda x: torch.jit.script(nn.Linear(5, 3)), "no nn.LSTM"),
}


@pytest.mark.parametrize("name", REFUSED_SCRIPTS)
def test_a_script_that_cannot_be_followed_is_refused_by_operation_and_line(tmp_path, name):
    make, *parts = REFUSED_SCRIPTS[name]
    x = r(2, 9, 5)
    with pytest.raises(cr.UnsupportedModelError) as error:
        cr.pack(make(x), tmp_path / "m.crnn", x)
    for part in parts:
        assert part in str(error.value), str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_script_needs_an_example(tmp_path):
    script = torch.jit.script(CellStep())
    with pytest.raises(ValueError, match="example_inputs: expected what the model is called with, got none"):
        cr.pack(script, tmp_path / "m.crnn")
    with pytest.raises(ValueError, match="a value for h of forward"):
        cr.pack(script, tmp_path / "m.crnn", r(1, 5), states=["h", "c"])
    with pytest.raises(ValueError, match="at most 3"):
        cr.pack(script, tmp_path / "m.crnn", tuple(r(4, 1, 5)), states=["h", "c"])


def test_the_voice_detector_of_silero_packs_from_torchscript(tmp_path):
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        pytest.skip("silero-vad is not installed")
    script = torch.jit.load(Path(found.origin).parent / "data" / "silero_vad.jit")
    with pytest.raises(cr.UnsupportedModelError, match="_context: kept from one call"):
        cr.pack(script, tmp_path / "vad.crnn", (r(1, 512), 16000))
    example = (0.1 * r(1, 576), torch.zeros(2, 1, 128))
    cr.pack(script._model, tmp_path / "vad.crnn", example, states=["state"], weights="float32")
    xs, state, wanted = 0.1 * r(30, 1, 576), example[1], []
    for x in xs:
        y, state = script._model(x, state)
        wanted.append(y.detach().numpy()[0])
    given = cr.Engine(tmp_path / "vad.crnn").run(xs[:, 0].numpy())
    np.testing.assert_allclose(np.reshape(given, (30, 1)), wanted, atol=1e-5)
