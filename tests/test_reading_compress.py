"""Bidirectional attention flow gets smaller exactly, by every method, at the size that is asked for."""

import copy

import pytest
import torch

import compactrnn as cr
from compactrnn.compress.sizes import counts
from compactrnn.models.reader import Reader, ReaderOptions

STEPS = 24
SIZES = {"contextual": 24, "modeling": (32, 20), "answer": 28}


def reader(**sizes):
    torch.manual_seed(0)
    return Reader(9, ReaderOptions(**{**SIZES, **sizes}, highways=1, dropout=0.1))


def texts():
    """Passages and questions, and how many words of each are its own."""
    generator = torch.Generator().manual_seed(0)
    passages, questions = (torch.randn(4, n, 9, generator=generator) for n in (11, 5))
    return passages, questions, torch.tensor([11, 3, 8, 6]), torch.tensor([2, 5, 1, 4])


def example():
    return tuple(x[:2] for x in texts()[:2])


def train(model, pruner, steps=STEPS + 2):
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    given, targets = texts(), torch.tensor([[2, 4], [0, 1], [7, 7], [3, 5]])
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(*given).flatten(0, 1), targets.flatten()) + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    return optimizer


def answers(model):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(*texts())


def assert_same(small, model):
    """On passages and questions of several lengths, of which the pruner has seen none."""
    torch.testing.assert_close(answers(small), answers(model), rtol=1e-4, atol=1e-5)


def test_every_layer_has_a_group_and_all_of_its_readers_are_known():
    groups = {g.name: g for g in cr.GroupLasso(reader(), example(), strength=0.1).groups}
    seen = {"of_context.weight", "of_question.weight", "of_both.weight", "start.weight", "end.weight"}
    wanted = {
        "contextual[0].h": seen | {"modeling.0.input", "answer.input"},
        "modeling.0[0].h": {"modeling.1.input"},
        "modeling.1[0].h": {"start.weight", "answer.input"},
        "answer[0].h": {"end.weight"},
    }
    assert {name: set(group.reader_names) for name, group in groups.items()} == wanted
    assert not any(group.by_incoming.any() for group in groups.values())


METHODS = {
    "group lasso, half of the units": lambda m: cr.GroupLasso(m, example(), keep=0.5, steps=STEPS),
    "group lasso, a penalty": lambda m: cr.GroupLasso(m, example(), strength=0.5, threshold=0.12),
    "neuron selection": lambda m: cr.NeuronSelection(m, example(), keep=0.5, steps=STEPS),
    "magnitude, entries": lambda m: cr.Magnitude(m, cr.Sparse(keep=0.3), steps=STEPS),
    "magnitude, blocks": lambda m: cr.Magnitude(m, {"modeling*": cr.BlockSparse((4, 4), 0.5)}, steps=STEPS),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_small_model_gives_the_same_answers_and_goes_on(name):
    model = reader()
    pruner = METHODS[name](model)
    optimizer = train(model, pruner)
    small = pruner.shrink(optimizer)
    assert_same(small, model)
    if name.endswith("half of the units"):
        assert small.layer_sizes() == (12, 16, 10, 14)
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    again = Reader(9, ReaderOptions(highways=1, **small.size_options()))  # as a run folder builds it
    again.load_state_dict(small.state_dict())
    assert torch.equal(answers(again), answers(small))
    small.train()(*texts()).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "size", [{"keep": 0.4}, {"keep": 0.7}, {"macs": 20_000}, {"macs": 60_000}, {"bytes": 100_000}, {"bytes": 250_000}]
)
def test_neuron_selection_meets_the_size(size):
    model = reader(contextual=48, modeling=(64, 40), answer=56)
    pruner = cr.NeuronSelection(model, example(), **size, steps=STEPS)
    train(model, pruner)
    small = pruner.shrink()
    assert_same(small, model)
    parameters, _, macs = counts(small)
    (kind, wanted) = next(iter(size.items()))
    got = {"keep": sum(small.layer_sizes()) / 208, "macs": macs, "bytes": 4 * parameters}[kind]
    assert got == pytest.approx(wanted, rel=0.03)
