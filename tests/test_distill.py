"""Distillation in any loop: what the loss is, what it draws together, and what it leaves alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import compactrnn as cr
from compactrnn.compress import distillation_loss
from compactrnn.decoding import Alphabet, GreedyDecoder
from compactrnn.models.ctc import best_path, ctc_loss

LENGTHS = torch.tensor([6, 2, 4])


class Tagger(nn.Module):
    def __init__(self, size=8, layer=nn.LSTM, packed=False, batch_first=True, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.lstm = layer(4, size, batch_first=batch_first)
        self.head, self.packed = nn.Linear(size, 3), packed

    def forward(self, x):
        if self.packed:
            x = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
            return self.head(pad_packed_sequence(self.lstm(x)[0], batch_first=True)[0])
        if not self.lstm.batch_first:
            return self.head(self.lstm(x.transpose(0, 1))[0].transpose(0, 1))
        return self.head(self.lstm(x)[0])


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 6, 4, generator=generator), torch.randint(3, (3, 6), generator=generator)


def difference(student, teacher, x, lengths=(6, 6, 6)):
    """The mean squared difference of the hidden states, by hand."""
    h, wanted = (model.lstm(x)[0] for model in (student, teacher))
    return torch.cat([(h[n, :stop] - wanted[n, :stop]) ** 2 for n, stop in enumerate(lengths)]).mean()


def test_the_loss_is_the_sum_of_its_parts():
    (x, y), student, teacher = data(), Tagger(), Tagger(seed=1)
    distill = cr.Distill(student, teacher, weight=0.3, temperature=2.0, hidden={"lstm": 0.25})
    outputs, of_teacher = distill(x)
    assert torch.equal(outputs, student(x)) and torch.equal(of_teacher, teacher(x)) and not of_teacher.requires_grad
    task = functional.cross_entropy(outputs.mT, y)
    soft = distillation_loss(outputs, of_teacher, 2.0)
    wanted = 0.7 * task + 0.3 * soft + 0.25 * difference(student, teacher, x)
    torch.testing.assert_close(distill.loss(task, outputs, of_teacher), wanted)
    assert not list(distill.parameters())


def test_hidden_states_come_together_and_the_teacher_stays_as_it_was():
    student, teacher = Tagger(), Tagger(seed=1)
    before, (x, _) = copy.deepcopy(teacher.state_dict()), data()
    distill = cr.Distill(student, teacher.train(), weight=0.0, hidden={"lstm": 1.0})
    outputs, of_teacher = distill(x)
    gradients = torch.autograd.grad(distill.loss(0.0, outputs, of_teacher), list(student.lstm.parameters()))
    wanted = torch.autograd.grad(difference(student, teacher, x), list(student.lstm.parameters()))
    torch.testing.assert_close(gradients, wanted)
    optimizer = torch.optim.Adam([*student.parameters(), *teacher.parameters()], 2e-2)
    first = difference(student, teacher, x).item()
    for _ in range(150):
        loss = distill.loss(0.0, *distill(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert difference(student, teacher, x).item() < 0.02 * first
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("layer", [nn.GRU, cr.LSTM, lambda *size, **kind: cr.Recurrent(cr.MGU, *size, **kind)])
def test_padding_does_not_count_however_sequences_are_given(layer):
    (x, y), teacher = data(), Tagger(layer=layer, seed=1)
    kept = torch.arange(6) < LENGTHS[:, None]
    wanted = None
    for options in ({}, {"batch_first": False}, {"packed": True}):
        student = Tagger(layer=layer, **options)
        distill = cr.Distill(student, teacher, hidden={"lstm": 2.0})
        outputs, of_teacher = distill(x)
        task = functional.cross_entropy(outputs[kept], y[kept])
        loss = distill.loss(task, outputs, of_teacher, LENGTHS)
        if wanted is None:
            soft = distillation_loss(outputs[kept], of_teacher[kept])
            wanted = 0.5 * task + 0.5 * soft + 2.0 * difference(student, teacher, x, LENGTHS)
        torch.testing.assert_close(loss, wanted)


def trained(steps, saved=None):
    (x, y), student, teacher = data(), Tagger(), Tagger(20, seed=1)
    distill = cr.Distill(student, teacher, hidden={"lstm": 0.5})
    optimizer = torch.optim.Adam([*student.parameters(), *distill.parameters()], 1e-2)
    parts = (student, distill, optimizer)
    for part, state in zip(parts, saved or (), strict=False):
        part.load_state_dict(state)
    for _ in range(steps):
        outputs, of_teacher = distill(x)
        loss = distill.loss(functional.cross_entropy(outputs.mT, y), outputs, of_teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item(), [part.state_dict() for part in parts]


def test_states_of_other_widths_have_a_map_that_is_trained_and_a_stopped_training_goes_on_exactly():
    first, states = trained(20)
    last, whole = trained(60)
    again, resumed = trained(40, states)
    assert last < first and again == last
    assert {name: tuple(t.shape) for name, t in whole[1].items()} == {
        "hidden.maps.0.weight": (20, 8),
        "hidden.maps.0.bias": (20,),
    }
    for own, other in zip(whole[:2], resumed[:2], strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=4))
def test_the_best_path_is_what_the_greedy_decoder_finds(rows):
    lengths, steps = torch.tensor([len(row) for row in rows]), max(map(len, rows))
    outputs = torch.stack([functional.one_hot(torch.tensor(row + [1] * (steps - len(row))), 4) for row in rows]).float()
    found = best_path(outputs, lengths)
    for row, length, targets in zip(outputs, lengths, found, strict=True):
        decoder = GreedyDecoder(Alphabet(["", "a", "b", "c"]))
        text = "".join(decoder.decode(row[:length].log_softmax(-1).numpy()))
        assert "".join(" abc"[n] for n in targets.tolist() if n) == text


def test_a_transcript_or_a_class_of_the_teacher_is_the_target():
    x, student, teacher = data()[0], Tagger(), Tagger(seed=1)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=2.0)
    losses = {}
    for targets in ("transcript", "classes"):
        distill = cr.Distill(student, teacher, weight=1.0, targets=targets)
        losses[targets] = distill.loss(0.0, *distill(x), lengths=LENGTHS)
    said, outputs = teacher(x), student(x)
    rows = [best_path(said[n : n + 1, :length]) for n, length in enumerate(LENGTHS)]
    assert sum(row.shape[1] for row in rows) > 3
    each = [ctc_loss(outputs[n : n + 1, :length].log_softmax(-1), rows[n]) for n, length in enumerate(LENGTHS)]
    total = sum(loss * row.shape[1] for loss, row in zip(each, rows, strict=True))
    torch.testing.assert_close(losses["transcript"], total / sum(row.shape[1] for row in rows))
    kept = torch.arange(6) < LENGTHS[:, None]
    torch.testing.assert_close(losses["classes"], functional.cross_entropy(outputs[kept], said[kept].argmax(-1)))


def test_models_with_states_of_their_own_are_called_by_hand():
    torch.manual_seed(0)
    student, teacher, x = nn.GRU(4, 8), nn.GRU(4, 8), torch.randn(5, 2, 4)
    distill, states, of_teacher = cr.Distill(student, teacher, weight=0.0, hidden={"": 1.0}), None, None
    for _ in range(2):
        with distill.watch():
            (h, states), (wanted, of_teacher) = student(x, states), teacher(x, of_teacher)
        loss = distill.loss(0.0, h, wanted)
        torch.testing.assert_close(loss, functional.mse_loss(h, wanted))
        states = states.detach()
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters()), "a teacher called without no_grad has no gradient either"
    assert not student._forward_hooks and not teacher._forward_hooks


@pytest.mark.parametrize("method", [cr.GroupLasso, cr.NeuronSelection])
def test_a_student_is_pruned_beside_its_distillation(method):
    x = data()[0]
    teacher = Tagger(seed=1)
    student = copy.deepcopy(teacher)
    pruner = method(student, x, keep=0.5, steps=10)
    distill = cr.Distill(student, teacher, weight=1.0, hidden={"lstm": 1.0})
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    for _ in range(10):
        loss = distill.loss(0.0, *distill(x)) + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    pruner.shrink_(optimizer)
    assert student.lstm.hidden_size == 4
    with pytest.raises(
        ValueError, match=r"hidden: 'lstm': expected \(8, 8\), as at the start, got widths 4 and 8; make"
    ):
        distill.loss(0.0, *distill(x))
    again = cr.Distill(student, teacher, hidden={"lstm": 1.0})
    assert again.loss(0.0, *again(x)).item() > 0


class Twice(Tagger):
    def forward(self, x):
        return self.head(self.lstm(self.lstm(x)[0][..., :4])[0])


def test_what_does_not_fit_is_refused():
    (x, _), student, teacher = data(), Tagger(), Tagger(20, seed=1)

    def refused(message, call, *inputs, **options):
        with pytest.raises(ValueError, match=message):
            call(*inputs, **options)

    known = r"expected a recurrent layer of the {} \('lstm'\), got 'head'"
    refused("hidden: " + known.format("student"), cr.Distill, student, teacher, hidden={"head": 1.0})
    refused("hidden: " + known.format("teacher"), cr.Distill, student, teacher, hidden={("lstm", "head"): 1.0})
    refused("hidden: 'lstm': expected a positive", cr.Distill, student, teacher, hidden={"lstm": 0.0})
    refused("hidden: expected a name", cr.Distill, student, teacher, hidden={("lstm",): 1.0})
    refused("the teacher .it has none., got 'lstm'", cr.Distill, student, nn.Linear(4, 3), hidden={"lstm": 1.0})
    refused("teacher: expected another model", cr.Distill, student, student)
    refused("weight: expected a number from 0 to 1, got 1.5", cr.Distill, student, teacher, weight=1.5)
    refused("temperature: expected a positive", cr.Distill, student, teacher, temperature=0.0)
    refused("temperature: expected none", cr.Distill, student, teacher, temperature=2.0, targets="classes")
    refused("targets: expected one of probabilities, classes", cr.Distill, student, teacher, targets="hard")
    distill = cr.Distill(student, teacher, hidden={"lstm": 1.0})
    outputs, of_teacher = student(x), teacher(x)
    refused("0 calls of it in the student and 0 of 'lstm'", distill.loss, 0.0, outputs, of_teacher)
    refused(r"\(..., classes\) of one shape, got \(3, 6, 3\)", distill.loss, 0.0, outputs, of_teacher[:, :1])
    distill(x)
    refused(r"lengths: expected \(3,\), up to 6, got \(3,\), up to 7", distill.loss, 0.0, *distill(x), LENGTHS + 1)
    twice = cr.Distill(Twice(), teacher, hidden={"lstm": 1.0})
    refused("2 calls of it in the student and 1", twice.loss, 0.0, *twice(x))
    transcript = cr.Distill(student, teacher, targets="transcript")
    refused(r"\(batch, steps, symbols\) for", transcript.loss, 0.0, outputs[0], of_teacher[0])
