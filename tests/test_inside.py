import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import compactrnn as cr
from cell_table import CELLS, name_of
from compactrnn.models.acoustic_model import AcousticModel, AcousticModelOptions
from compactrnn.models.reader import Reader, ReaderOptions
from compactrnn.models.recurrent_lm import LanguageModel, LanguageModelOptions
from compactrnn.models.sequence_model import SequenceModel, SequenceModelOptions
from compactrnn.report.inside.gates import name_in, numbered
from compactrnn.report.inside.pictures import gradient_picture, memory_picture, spectrum_picture, states_picture
from compactrnn.report.inside.view import autocorrelation
from compactrnn.tasks.adding import AddingData, AddingTask
from compactrnn.tasks.batch import Batch
from run_folders import RECIPE, invoke


@pytest.mark.parametrize("make", CELLS, ids=name_of)
def test_every_cell_shows_the_states_that_its_layer_returns(make):
    torch.manual_seed(0)
    layer = cr.Recurrent(make.func, 4, 6, batch_first=True, **make.keywords).eval()
    x = torch.randn(1, 12, 4)
    (view,) = cr.see_inside(layer, x)
    cell = layer.cells[0][0]
    _, after = layer(x)
    after = (after,) if isinstance(after, torch.Tensor) else after
    for spec, last in zip(cell.outer_states(), after, strict=True):
        if spec.role == "state":
            np.testing.assert_allclose(view.states[spec.name][-1], last[0, 0].detach(), atol=1e-5)
    assert all(((gate > 0) & (gate < 1)).all() and len(gate) == 12 for gate in view.gates.values())
    assert view.gradient.shape == (12,) and np.isfinite(view.gradient).all() and view.gradient.max() > 0
    assert view.step is not None and len(view.step) == sum(
        n for spec, n in zip(cell.states, cell.state_sizes(), strict=True) if spec.role != "counter"
    )


GATES = [
    (cr.GRU, ["reset", "update"]),
    (cr.LSTM, ["f", "i", "o"]),
    (lambda *a, **k: cr.Recurrent(cr.RHN, *a, depth=2, **k), ["transform 1", "transform 2"]),
    (lambda *a, **k: cr.Recurrent(cr.SRU, *a, **k), ["forget", "reset"]),
    (lambda *a, **k: cr.Recurrent(cr.FastGRNN, *a, **k), ["z"]),  # not the trained scalars zeta and nu
    (cr.RNN, []),
]


@pytest.mark.parametrize(("make", "names"), GATES)
def test_gates_are_named_after_the_source(make, names):
    (view,) = cr.see_inside(make(3, 4, batch_first=True), torch.randn(1, 5, 3))
    assert list(view.gates) == names


def test_names_of_gates_without_a_source():
    assert name_in("", "") == "gate" and numbered(["gate", "gate"]) == ["gate 1", "gate 2"]
    assert name_in("x = y.sigmoid()", "y.sigmoid()") == "y"


def test_saturation_of_gates_that_are_set_by_hand():
    lstm = nn.LSTM(1, 2)
    for parameter in lstm.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        lstm.bias_ih_l0[:] = torch.tensor([9.0, 0.0, -9.0, 9.0, 0.0, 0.0, 0.0, 0.0])  # i, f, g, o
        lstm.weight_ih_l0[6:] = 9.0
    x = torch.tensor([-1.0, 1.0, 1.0, 0.0])[:, None, None]
    (view,) = cr.see_inside(lstm, x)
    left, right = (np.stack(sides) for sides in zip(*(view.saturation(g) for g in "ifo"), strict=True))
    assert left.tolist() == [[0, 0], [1, 0], [0.25, 0.25]] and right.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


def linear_recurrence(a, v):
    """y = v h_T, h' = a h + x for x > 0."""
    layer = cr.RNN(1, 1, batch_first=True, nonlinearity="relu", bias=False)
    model = nn.Sequential(layer, First(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (1.0, a, v), strict=True):
            parameter.fill_(value)
    return model


class First(nn.Module):
    def forward(self, given):
        return given[0]


@pytest.mark.parametrize("a", [0.5, 0.9, 1.1])
def test_the_gradient_of_a_linear_recurrence_is_a_power(a):
    (view,) = cr.see_inside(linear_recurrence(a, -3.0), torch.rand(1, 40, 1))
    np.testing.assert_allclose(view.gradient, 3 * a ** np.arange(1, 41), rtol=1e-5)
    np.testing.assert_allclose(view.step, [a], rtol=1e-6)
    np.testing.assert_allclose(view.matrices["hidden"], [a], rtol=1e-6)


@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM, cr.GRU])
def test_gradients_are_those_of_a_sequence_that_goes_on_from_a_state(make):
    torch.manual_seed(1)
    layer, x = make(3, 5, num_layers=2, batch_first=True), torch.randn(1, 9, 3)
    views = cr.see_inside(layer, x)
    for lag in (1, 4, 8):
        with torch.no_grad():
            _, after = layer(x[:, :-lag])
        states = [s.clone().requires_grad_() for s in (after if isinstance(after, tuple) else (after,))]
        output, _ = layer(x[:, -lag:], tuple(states) if len(states) == 2 else states[0])
        found = torch.autograd.grad(output[0, -1].max(), states)
        for number, view in enumerate(views):
            wanted = sum(float(g[number].square().sum()) for g in found) ** 0.5
            assert view.gradient[lag - 1] == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_eigenvalues_are_those_of_the_matrices():
    torch.manual_seed(2)
    layer = cr.GRU(3, 6, hidden_weight=cr.LowRank(rank=3))
    (view,) = cr.see_inside(layer, torch.randn(7, 1, 3))
    for number, block in enumerate(layer.weight_hh_l0.dense().detach().double().split(6), 1):
        wanted = torch.linalg.eigvals(block).numpy()
        found = view.matrices[f"hidden, gate {number}"]
        np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(wanted), atol=1e-9)
        assert np.all(np.diff(np.abs(found)) <= 0)


def test_the_step_of_a_complex_diagonal_recurrence_has_its_diagonal():
    layer = cr.Recurrent(cr.LRU, 2, 3, state_size=4)
    (view,) = cr.see_inside(layer, torch.randn(6, 1, 2))
    cell = layer.cells[0][0]
    a = torch.exp(torch.complex(-cell.decay.exp(), cell.angle.exp())).detach()
    wanted = torch.cat([a, a.conj()]).numpy()
    distance = np.abs(view.step[:, None] - wanted).min(0)
    assert distance.max() < 1e-5 and len(view.step) == 8


def test_matrices_from_one_set_of_units_to_another_are_no_recurrence():
    (view,) = cr.see_inside(cr.Recurrent(cr.DuRNN, 3, 6, output="both"), torch.randn(5, 1, 3))
    assert list(view.matrices) == ["hidden"]


def test_a_step_of_too_many_states_has_no_eigenvalues():
    (view,) = cr.see_inside(cr.LSTM(1, 513), torch.randn(2, 1, 1))
    assert view.step is None and len(view.matrices) == 4


def test_both_directions_have_their_times_in_order():
    torch.manual_seed(3)
    layer, x = nn.GRU(3, 4, num_layers=2, bidirectional=True), torch.randn(8, 1, 3)
    views = cr.see_inside(layer, x)
    assert [v.name for v in views] == [
        "layer, layer 0", "layer, layer 0, backward", "layer, layer 1", "layer, layer 1, backward",
    ]  # fmt: skip
    output = layer(x)[0].detach()[:, 0].numpy()
    np.testing.assert_allclose(np.concatenate([views[2].states["h"], views[3].states["h"]], 1), output, atol=1e-6)
    # what the last step gives is the first that is read backward, from the initial state
    assert (views[3].gradient[1:] == 0).all() and (views[1].gradient > 0).sum() > 1


def test_numbers_that_are_not_finite_are_shown_as_such():
    model = linear_recurrence(float("nan"), 1.0)
    (view,) = cr.see_inside(model, torch.rand(1, 5, 1))
    assert np.isnan(view.step).all() and np.isnan(view.matrices["hidden"]).all()
    assert "<svg" in states_picture(view.states["h"]) and "<svg" in spectrum_picture(view)
    assert "<svg" in memory_picture(view) and "<svg" in gradient_picture([view])


@pytest.mark.parametrize(("count", "length"), [(1, 200), (40, 30)])
def test_many_or_long_names_leave_room_for_the_plot(count, length):
    (view,) = cr.see_inside(nn.GRU(2, 3), torch.randn(5, 1, 2))
    views = [replace(view, name=f"{'layer' * 50} {number}"[-length:]) for number in range(count)]
    assert "<svg" in gradient_picture(views)  # else matplotlib warns, which is an error here


def test_memory_is_the_autocorrelation():
    values = np.random.default_rng(0).standard_normal((30, 3))
    moved = values - values.mean(0)
    wanted = sum(np.correlate(c, c, "full")[29:] for c in moved.T) / (moved**2).sum()
    np.testing.assert_allclose(autocorrelation(values), wanted, atol=1e-12)
    assert np.isnan(autocorrelation(np.full((5, 2), 0.1, np.float32))).all()


def test_the_model_stays_as_it_is():
    model = nn.Sequential(nn.LSTM(3, 4, dropout=0.5, num_layers=2)).train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with torch.no_grad():
        first, second = (cr.see_inside(model, torch.ones(6, 1, 3)) for _ in range(2))
    assert type(model[0]) is nn.LSTM and model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert np.array_equal(first[1].states["h"], second[1].states["h"]), "without dropout"
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks


def options(**more):
    return SequenceModelOptions(hidden=(5, 4), **more)


MODELS = {
    "a classifier": (lambda: SequenceModel(3, 4, options(cell="GRU")), (torch.randn(1, 9, 3),), 2),
    "thresholds": (lambda: SequenceModel(3, 4, options(delta=True)), (torch.randn(1, 9, 3),), 2),
    "every step, both directions": (
        lambda: SequenceModel(3, 4, options(bidirectional=True, norm="batch"), every_step=True),
        (torch.randn(1, 9, 3),),
        4,
    ),
    "a language model": (
        lambda: LanguageModel(20, LanguageModelOptions(embedding=4, hidden=(6, 5), cell="MGU")),
        (torch.arange(9)[None],),
        2,
    ),
    "CTC": (
        lambda: AcousticModel(13, 28, AcousticModelOptions(hidden=(6,), bidirectional=True)),
        (torch.randn(1, 20, 39),),
        2,
    ),
    "a layer that is called twice": (
        lambda: Reader(3, ReaderOptions(contextual=4, modeling=(4,), answer=4)),
        (torch.randn(1, 9, 3), torch.randn(1, 5, 3)),
        8,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_tasks(name):
    make, inputs, count = MODELS[name]
    views = cr.see_inside(make(), inputs)
    assert len(views) == count == len({view.name for view in views})
    assert any(view.gradient.max() > 0 for view in views)


class Packs(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.gru(pack_padded_sequence(x, torch.tensor([x.shape[1]]), batch_first=True))[1]


class Chooses(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4)

    def forward(self, x):
        return self.gru(x)[0].argmax(-1)


class CallsForward(Chooses):
    def forward(self, x):
        return self.gru.forward(x)[0]


REFUSED = [
    (nn.Linear(3, 4), torch.randn(1, 3), "with a recurrent layer, got Linear"),
    (nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3), "inputs: expected one, got 2 sequences"),
    (Packs(), torch.randn(1, 5, 3), "packed sequences"),
    (Chooses(), torch.randn(5, 1, 3), "without a gradient"),
    (CallsForward(), torch.randn(5, 1, 3), "call the layer"),
]


@pytest.mark.parametrize(("model", "inputs", "words"), REFUSED, ids=lambda value: value if type(value) is str else "")
def test_what_cannot_be_seen_is_refused(model, inputs, words):
    with pytest.raises(ValueError, match=words):
        cr.see_inside(model, inputs)


class Padded(AddingTask):
    def batches(self, part):
        yield Batch(torch.arange(12.0).reshape(2, 3, 2), torch.zeros(2), torch.tensor([3, 1]))
        yield Batch(torch.ones(1, 4, 2), torch.zeros(1))


def test_an_example_has_no_padding():
    task = Padded(AddingData(steps=4), batch_size=2)
    assert [task.example("test", n)[0].shape for n in (1, 2, 3)] == [(1, 3, 2), (1, 1, 2), (1, 4, 2)]
    assert task.example("test", 2)[0].flatten().tolist() == [6, 7]
    for number in (0, -1, 4):
        with pytest.raises(ValueError, match="1 to 3, the sequences of the test part"):
            task.example("test", number)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inside")
    adding = RECIPE.replace('data = "alice"', 'name = "adding"\nsteps = 8\nvalid = 20\ntest = 20')
    adding = adding.replace("embedding = 8\n", "").replace("validation_streams = 64\n", "").replace("steps = 16\n", "")
    for name, recipe in (("alice", RECIPE), ("adding", adding)):
        (folder / f"{name}.toml").write_text(recipe)
        result = invoke("train", folder / f"{name}.toml", "--out", folder / name)
        assert result.exit_code == 0, result.output
    return folder


def test_a_page_of_two_runs_has_its_pictures_and_needs_no_other_file(runs, tmp_path):
    out = tmp_path / "r.html"
    result = invoke("report", runs / "alice", runs / "adding", "--inside", "--example", 2, "--out", out)
    assert result.exit_code == 0, result.output
    page = out.read_text()
    one_layer = 7  # gradient; states h and c, each with a bar of colors; saturation, over time; memory; eigenvalues
    assert page.count("<svg role='img' aria-label='") == page.count("<svg") == 2 * (2 + one_layer)
    assert page.count("data:image/png;base64,") == 8 and "name='viewport'" in page
    links = re.findall(r"""(?:href|src)\s*=\s*["']([^"']{1,40})""", page) + re.findall(r"url\(([^)]{1,40})", page)
    assert links and all(link.startswith(("#", "data:image/png")) for link in links)
    assert "recurrent: LSTM" in page and "100 steps." in page and "8 steps." in page


def test_a_language_model_reads_a_given_text(runs, tmp_path):
    out = tmp_path / "r.html"
    result = invoke("report", runs / "alice", "--inside", "--text", "Oh (dear)!\nOh", "--out", out)
    assert result.exit_code == 0 and "<pre>Oh (dear)!\nOh</pre>" in out.read_text(), result.output


CLI = [
    (("alice", "--inside", "--example", 0), "example: expected 1 to"),
    (("alice", "--inside", "--example", 10**9), "example: expected 1 to"),
    (("adding", "--inside", "--example", 21), "1 to 20"),
    (("adding", "--inside", "--text", "Oh"), "language model"),
    (("alice", "--inside", "--text", ""), "at least one symbol"),
    (("alice", "--inside", "--text", "Oh", "--example", 1), "one of them"),
    (("alice", "--example", 1), "it with --inside"),
]


@pytest.mark.parametrize(("arguments", "words"), CLI)
def test_an_example_that_is_not_there_is_refused(runs, tmp_path, arguments, words):
    name, *rest = arguments
    result = invoke("report", runs / name, *rest, "--out", tmp_path / "r.html")
    assert result.exit_code == 2 and words in result.stderr and not (tmp_path / "r.html").exists()
