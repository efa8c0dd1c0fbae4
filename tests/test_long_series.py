"""Windows of long series and the states that they leave to each other."""

import gzip
import io
import tarfile
import tomllib
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import compactrnn as cr
from cell_table import CELLS, name_of
from compactrnn._checkpoint import load_tree, save_tree
from compactrnn.data.series import read_table
from compactrnn.data.state_memory import StateMemory, StatePolicy
from compactrnn.data.windows import Windows
from compactrnn.layers import initial_states
from compactrnn.models.recurrent_layers import known_cells
from compactrnn.models.series_model import SeriesModelOptions
from compactrnn.tasks.long_series import STRATEGIES, LongSeriesData, LongSeriesTask
from compactrnn.training.pack_run import pack_model
from compactrnn.training.recipe import recipe_from
from compactrnn.training.train import train
from compactrnn.training.trainer import Trainer

STRETCHES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=6).map(
    lambda lengths: [
        (sum(map(sum, lengths[:i])), sum(map(sum, lengths[:i])) + length) for i, (length, _) in enumerate(lengths)
    ]
)


def rivers(path, sequences=2, steps=120, gap=None):
    """Rain, and the level of a river that it fills, of some places; before step `gap` days are missing."""
    random = np.random.default_rng(0)
    lines = ["place,day,rain,level,flow"]
    for place in range(sequences):
        level = 5.0
        for step in range(steps):
            rain = max(0.0, random.standard_normal())
            level = 0.9 * level + rain
            shown = "NA" if step % 13 == 5 else f"{level:.4f}"
            day = step + (0 if gap is None or step < gap else 7)
            lines.append(f"p{place},{day},{rain:.4f},{shown},{level / (1 + place):.4f}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    rivers(folder / "rivers.csv")
    rivers(folder / "one.csv", sequences=1)
    rivers(folder / "gap.csv", gap=40)
    return folder


def made(folder, file="rivers.csv", batch_size=3, seed=0, shift=False, **data):
    given = {"channels": ("rain", "level"), "missing": ("level",), "targets": ("level",), "sequence": "place"}
    given |= {"time": ("day",), "window": 8, "horizon": 2, "file": str(folder / file), **data}
    return LongSeriesTask(LongSeriesData(**given), batch_size=batch_size, seed=seed, shift=shift)


def runoff(folder, **data):
    return made(folder, **{"channels": ("rain",), "missing": (), "targets": ("flow",), "horizon": 0, **data})


# windows


@given(STRETCHES, st.integers(1, 12), st.integers(1, 9), st.integers(0, 99), st.booleans(), st.booleans())
def test_every_window_comes_once_an_epoch(stretches, length, batch_size, seed, in_order, shift):
    windows = Windows(stretches, length, batch_size, in_order=in_order, seed=seed, shift=shift)
    again = Windows(stretches, length, batch_size, in_order=in_order, seed=seed, shift=shift)
    for epoch in (3, 0):
        cut, batches = windows.cut(epoch), windows.batches(epoch)
        assert len(batches) == windows.updates() and max(map(len, batches)) <= batch_size
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows))) == list(range(len(cut.begin)))
        for one, other in zip(batches, again.batches(epoch), strict=True):
            assert one.tolist() == other.tolist(), "it follows from seed and epoch alone"
        steps = np.concatenate([np.arange(a, b) for a, b in zip(cut.begin, cut.end, strict=True)])
        assert len(set(steps.tolist())) == len(steps), "windows do not overlap"
        inside = [step for begin, end in stretches for step in range(begin, end)]
        assert set(steps.tolist()) <= set(inside) and (shift or len(steps) == len(inside))
        assert len(inside) - len(steps) <= len(stretches) * (length - 1)
        for number, following in enumerate(cut.following.tolist()):
            ends = any(cut.end[number] == end for _, end in stretches)
            if following >= 0:
                assert cut.begin[following] == cut.end[number] and not (ends and cut.end[number] in dict(stretches))
            else:
                assert not (cut.begin == cut.end[number]).any() or ends
        if in_order:
            for before, after in pairwise(batches):
                assert (after == before[: len(after)] + 1).all()
        else:
            assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_the_order_and_with_shift_the_places_change_from_epoch_to_epoch():
    windows = Windows([(0, 400)], 10, 4, shift=True)
    assert len({tuple(np.concatenate(windows.batches(epoch))) for epoch in range(5)}) == 5
    assert len({int(windows.cut(epoch).begin[0]) for epoch in range(30)}) > 5
    assert {int(Windows([(3, 400)], 10, 4).cut(epoch).begin[0]) for epoch in range(5)} == {3}


@pytest.mark.parametrize("stretches, length, batch_size", [([], 4, 1), ([(5, 5)], 4, 1), ([(0, 4)], 0, 1)])
def test_windows_that_cannot_be(stretches, length, batch_size):
    with pytest.raises(ValueError, match="expected"):
        Windows(stretches, length, batch_size)


# memory


@settings(deadline=None)
@given(st.data(), st.integers(1, 5), st.sampled_from([1.0, 0.25]), st.integers(0, 6), st.sampled_from(["keep", "drop"]))
def test_the_memory_does_what_its_policies_say(data, refresh, mix, max_age, unseen):
    """Against dictionaries of numbers, each state being the number of its update and window."""
    slots, policy = 5, StatePolicy(refresh, mix, max_age, unseen)
    memory, readable, written = StateMemory(slots, policy), {}, {}
    for update in range(data.draw(st.integers(1, 16))):
        memory.begin(update)
        if update % refresh == 0:
            fresh = {}
            for slot, (value, at) in written.items():
                old = readable.get(slot)
                known = old is not None and not (max_age and update - old[1] > max_age)
                fresh[slot] = (mix * value + (1 - mix) * old[0] if known else value, at)
            readable = {**(readable if unseen == "keep" else {}), **fresh}
            written = {}
        asked = data.draw(st.lists(st.integers(0, slots - 1), min_size=1, max_size=4))
        states, known = memory.read(torch.tensor(asked), update)
        for row, slot in enumerate(asked):
            there = slot in readable and not (max_age and update - readable[slot][1] > max_age)
            assert bool(known[row]) == there
            if there:
                assert update - readable[slot][1] >= 1, "what an update writes is for later ones"
                assert states[0][0, row].tolist() == pytest.approx([readable[slot][0]] * 3)
                assert states[1][row].tolist() == pytest.approx([-readable[slot][0]] * 2)
        targets = data.draw(st.lists(st.integers(-1, slots - 1), min_size=1, max_size=4, unique=True))
        values = torch.tensor([100.0 * update + slot for slot in targets])
        memory.write(torch.tensor(targets), (values[:, None].expand(1, -1, 3), -values[:, None].expand(-1, 2)), update)
        written |= {slot: (100.0 * update + slot, update) for slot in targets if slot >= 0}
        if data.draw(st.booleans()):
            memory = StateMemory(slots, policy, memory.kept())


def test_the_memory_is_in_a_checkpoint(tmp_path):
    memory = StateMemory(4, StatePolicy(2))
    memory.write(torch.tensor([1]), [(torch.ones(2, 1, 3), torch.ones(1, 1, dtype=torch.int64))], 0)
    memory.begin(2)
    memory.write(torch.tensor([3]), [(torch.ones(2, 1, 3), torch.ones(1, 1, dtype=torch.int64))], 2)
    save_tree(tmp_path / "m.safetensors", memory.kept())
    again = StateMemory(4, StatePolicy(2), load_tree(tmp_path / "m.safetensors"))
    for one in (memory, again):
        one.begin(4)
    (states, known), (others, same) = (one.read(torch.arange(4), 5) for one in (memory, again))
    assert known.tolist() == same.tolist() == [False, True, False, True] and states[0][1].dtype == torch.int64
    assert_close(states, others, rtol=0, atol=0)
    with pytest.raises(ValueError, match="stored states: expected those of 5"):
        StateMemory(5, StatePolicy(2), memory.kept())


STATES, AGES = torch.ones(1, 2, 3), torch.tensor([4, -1])
MALFORMED = {
    "no tuple": torch.ones(2),
    "three parts": (STATES, AGES, STATES),
    "no ages": (STATES, None, STATES, None),
    "ages as numbers with fractions": (STATES, AGES.float(), STATES, AGES.float()),
    "ages of two axes": (STATES, AGES[None], STATES, AGES[None]),
    "states that are numbers": ((1.0,), AGES, (1.0,), AGES),
    "states of one axis": (STATES[0, 0], AGES, STATES[0, 0], AGES),
    "other states to read": ((STATES, STATES), AGES, STATES, AGES),
    "states of another width": (STATES, AGES, torch.ones(1, 2, 5), AGES),
    "states of another type": (STATES, AGES, STATES.double(), AGES),
}


@pytest.mark.parametrize("kept", MALFORMED.values(), ids=MALFORMED)
def test_stored_states_of_another_form_are_refused(kept):
    assert StateMemory(2, StatePolicy(), (STATES, AGES, STATES, AGES)).read(torch.tensor([0]), 5)[1].all()
    with pytest.raises(ValueError, match="stored states: expected"):
        StateMemory(2, StatePolicy(), kept)


@pytest.mark.parametrize("wrong", [{"refresh": 0}, {"mix": 0.0}, {"mix": 1.5}, {"max_age": -1}, {"unseen": "forget"}])
def test_policies_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StatePolicy(**wrong)


def test_no_gradient_flows_through_a_state():
    memory, state = StateMemory(2, StatePolicy()), torch.ones(1, 3, requires_grad=True)
    memory.write(torch.tensor([1]), state * 2, 0)
    memory.begin(1)
    assert not memory.read(torch.tensor([1]), 1)[0].requires_grad


# states of models


@pytest.mark.parametrize("make", CELLS, ids=name_of)
def test_a_layer_starts_from_its_initial_states(make):
    torch.manual_seed(0)
    layer = cr.Recurrent(make.func, 4, [6, 8], **make.keywords) if "proj_size" not in make.keywords else None
    layer = layer or cr.Recurrent(make.func, 4, 6, **make.keywords)
    x = torch.randn(5, 3, 4)
    (y, last), (again, same) = layer(x), layer(x, initial_states(layer, 3))
    assert_close(y, again, rtol=0, atol=1e-6)
    assert_close(last, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN, cr.LSTM, cr.GRU, cr.RNN])
def test_those_of_torch_layers_are_zeros_in_their_form(make):
    layer = make(4, 6, num_layers=2, bidirectional=True)
    wanted = layer(torch.randn(5, 3, 4))[1]
    found = initial_states(layer, 3)
    for zero, like in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        assert zero.shape == like.shape and not zero.any()


READING = sorted(set(known_cells()) - {"FSMN", "DFSMN"})  # which look ahead, so that a window knows less than the whole


@pytest.mark.parametrize("cell, states", [("LSTM", "propagate"), *((cell, "previous") for cell in READING)])
def test_the_states_are_those_of_reading_on(folder, cell, states):
    """With fixed weights, after as many epochs as a stretch has windows, every window begins where it should."""
    torch.manual_seed(0)
    task = runoff(folder, states=states, window=24)
    model = task.build_model(SeriesModelOptions(hidden=(6, 8), cell=cell)).eval()
    whole = {}
    for batch in task.batches("train"):
        for row, outputs in zip(range(len(batch)), model(batch.inputs), strict=True):
            whole[row] = outputs
    longest, states_kept, cut = 4, None, task.windows.cut(0)
    starts = task.examples["train"].begin.tolist()
    with torch.no_grad():
        for epoch in range(longest + 2):
            for index in range(task.updates_per_epoch()):
                batch = task.batch(index, epoch)
                outputs, states_kept = task.forward(model, batch, states_kept)
                if epoch > longest:
                    for row, window in enumerate(batch.windows.tolist()):
                        begin, end = int(cut.begin[window]), int(cut.end[window])
                        stretch = max(number for number, start in enumerate(starts) if start <= begin)
                        wanted = whole[stretch][begin - starts[stretch] : end - starts[stretch]]
                        assert_close(outputs[row, : end - begin], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("size", [6, (6, 5)])
def test_sequential_is_truncated_backpropagation_as_written_by_hand_with_torch(folder, batch_size, size):
    torch.manual_seed(0)
    task = runoff(folder, file="one.csv", batch_size=batch_size, states="sequential")
    hidden = (size,) if isinstance(size, int) else size
    model = task.build_model(SeriesModelOptions(hidden=hidden))
    layers = [layer.to_torch() for layer in model.sequence_model.layers]
    head = nn.Linear(hidden[-1], 1)
    head.load_state_dict(model.sequence_model.output.state_dict())
    x, y = task.series["file"].values[:, 0], task.series["file"].targets[:, 0]
    end, window = int(task.examples["train"].end[0]), 8
    runs = np.array_split(np.arange(0, end, window), batch_size)
    mean, deviation = model.front_end.mean, model.front_end.deviation
    by_hand = torch.optim.SGD([*(p for layer in layers for p in layer.parameters()), *head.parameters()], 0.2)
    ours = torch.optim.SGD(model.parameters(), 0.2)
    for epoch in range(2):
        kept, states = None, [[None] * len(layers) for _ in runs]
        for update in range(max(map(len, runs))):
            outputs, kept = task.forward(model, task.batch(update, epoch), kept)
            ours.zero_grad()
            task.loss(outputs, task.batch(update, epoch)).backward()
            ours.step()
            errors = []
            for run, own in zip(runs, states, strict=True):
                if update >= len(run):
                    continue
                steps = slice(run[update], min(run[update] + window, end))
                h = (torch.tensor(x[steps])[:, None, None] - mean) / deviation
                for number, layer in enumerate(layers):
                    h, (a, b) = layer(h, own[number])
                    own[number] = a.detach(), b.detach()
                answer = head(h)[:, 0, 0]
                errors.append(answer - (torch.tensor(y[steps]) - model.target_mean) / model.target_deviation)
            by_hand.zero_grad()
            torch.cat(errors).square().mean().backward()
            by_hand.step()
    for one, other in zip(model.sequence_model.layers, layers, strict=True):
        assert_close(dict(one.to_torch().state_dict()), dict(other.state_dict()), rtol=1e-4, atol=1e-5)


def test_a_memory_refuses_the_states_of_a_model_that_was_shrunk_and_a_new_one_takes_them(folder):
    torch.manual_seed(0)
    task = runoff(folder, states="propagate", refresh=1)
    model = task.build_model(SeriesModelOptions(hidden=(8, 8)))
    pruner = cr.GroupLasso(model, task.example_inputs(), keep=0.5, steps=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    kept = None
    for update in range(3):
        outputs, kept = task.forward(model, task.batch(update), kept)
        optimizer.zero_grad()
        (task.loss(outputs, task.batch(update)) + pruner.penalty()).backward()
        optimizer.step()
        pruner.step(optimizer)
    assert pruner.shrink_(optimizer) > 0
    x = task.batch(3).inputs
    with pytest.raises(ValueError, match=r"states: expected .*4.*got of shapes .*8.*begin without states"):
        task.forward(model, task.batch(3), kept)
    with pytest.raises(ValueError, match=r"states to store: expected .*8.*got of shapes .*4"):
        StateMemory(len(task.windows), StatePolicy(), kept).write(torch.tensor([1]), model.advance(x[:1])[1], 3)
    outputs, kept = task.forward(model, task.batch(0, 1), None)
    assert torch.isfinite(outputs).all() and kept is not None


# the task


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 4), st.sampled_from(["rivers.csv", "gap.csv", "one.csv"]), st.sampled_from([0.1, 0.15, 0.3]))
def test_targets_are_in_their_part_after_no_gap(folder, horizon, file, share):
    task = (made if horizon else runoff)(folder, file=file, horizon=horizon, valid=share, test=share)
    series, steps = task.series["file"], len(task.series["file"].values)
    offsets, gaps = series.offsets.tolist(), set(series.breaks.tolist())
    assert bool(gaps) == (file == "gap.csv")
    seen = []
    for part in ("train", "valid", "test"):
        for step in range(steps):
            begin, end = next((a, b) for a, b in pairwise(offsets) if a <= step < b)
            last = end - round(share * (end - begin))
            middle = last - round(share * (end - begin))
            low, high = {"train": (begin, middle), "valid": (middle, last), "test": (last, end)}[part]
            ahead = [step + k for k in range(1, horizon + 1)] if horizon else [step]
            right = all(low <= k < high for k in ahead) and not any(k in gaps for k in range(step + 1, ahead[-1] + 1))
            assert bool(task.asked[part][step]) == right
            found = task.targets_at(part, np.array([step]))[0]
            wanted = series.targets[ahead, 0] if right else np.full(len(ahead), np.nan)
            np.testing.assert_array_equal(found, wanted)
        seen.append(task.asked[part])
    assert (np.sum(seen, 0) <= 1).all()


@pytest.mark.parametrize("states", STRATEGIES)
@pytest.mark.parametrize("shift", [False, True])
def test_an_epoch_trains_on_every_target_once(folder, states, shift):
    if shift and states in ("previous", "propagate"):
        with pytest.raises(ValueError, match="shift"):
            runoff(folder, states=states, shift=True)
        return
    task = runoff(folder, file="gap.csv", states=states, shift=shift, warm_up=5 if states == "warm_up" else 0)
    found = []
    for index in range(task.updates_per_epoch()):
        batch = task.batch(index, 2)
        targets = task.wanted(batch)
        found += targets[~targets.isnan()].tolist()
        if states == "warm_up":
            begins = batch.targets.isnan()[..., 0].int().argmin(1)
            assert set(begins.tolist()) <= ({0, *range(1, 6)} if shift else {0, 5})
    wanted = task.series["file"].targets[task.asked["train"]].ravel().tolist()
    if shift:
        assert set(found) <= set(wanted) and len(found) >= len(wanted) - len(task.examples["train"]) * 7
    else:
        assert sorted(found) == sorted(wanted)


def test_errors_by_hand(folder):
    task = made(folder, horizon=2)
    answers, targets, inputs = [], [], []
    for batch in task.batches("test"):
        outputs = torch.randn(batch.targets.shape)
        scores = {**task.errors(batch.within(outputs), batch), **task.other_errors(batch.within(outputs), batch)}
        answers, targets, inputs = outputs.numpy(), batch.targets.numpy(), batch.inputs.numpy()
    means = {name: total / count for name, (total, count) in scores.items()}
    efficiencies, last, weights = [], np.full_like(answers, np.nan), []
    for row in range(len(targets)):
        for step in range(targets.shape[1]):
            level = inputs[row, step, 1]
            before = last[row, step - 1] if step else np.full(2, float(task.own_scale[0][0]))
            last[row, step] = before if np.isnan(level) else level
        spread = np.nansum((targets[row] - np.nanmean(targets[row], 0)) ** 2)
        weights.append((~np.isnan(targets[row])).sum())
        efficiencies.append(1 - np.nansum((answers[row] - targets[row]) ** 2) / spread)
    assert means["nse"] == pytest.approx(np.average(efficiencies, weights=weights), rel=1e-5)
    assert means["mse"] == pytest.approx(np.nanmean((answers - targets) ** 2), rel=1e-5)
    assert means["persistence_mae"] == pytest.approx(np.nanmean(np.abs(last - targets)), rel=1e-5)
    assert "persistence_mae" not in runoff(folder).scores(runoff(folder).build_model(SeriesModelOptions()), "test")


@pytest.mark.parametrize("make", [made, runoff])
def test_a_packed_model_reads_the_whole_series(folder, make, tmp_path):
    torch.manual_seed(0)
    task = make(folder, file="gap.csv")
    model = task.build_model(SeriesModelOptions(hidden=(6,), cell="GRU")).eval()
    pack_model(model, task, tmp_path / "m.crnn", "float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    scores, own = task.engine_scores(engine, "test"), task.scores(model, "test")
    assert scores == pytest.approx(own, rel=1e-4) and scores["scaled_mse"] == task.evaluate_engine(engine, "test")
    again = LongSeriesTask.from_metadata(engine.metadata, str(folder / "gap.csv"))
    assert again.engine_scores(engine, "test") == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"states": "warm_up"}, "warm_up"),
        ({"warm_up": 3}, "warm_up"),
        ({"refresh": 2}, "refresh"),
        ({"mix": 0.5, "states": "previous"}, "mix"),
        ({"max_age": 3, "states": "zero"}, "max_age"),
        ({"unseen": "drop"}, "unseen"),
        ({"valid": 0.6, "test": 0.6}, "valid, test"),
        ({"test_file": "a.csv"}, "test_file"),
        ({"horizon": 0}, "no channels"),
        ({"targets": ()}, "targets"),
        ({"batch_size": 99}, "batch_size"),
        ({"horizon": 110}, "training part"),
    ],
)
def test_settings_that_cannot_be(folder, wrong, words):
    with pytest.raises(ValueError, match=words):
        made(folder, **wrong)


def test_layers_that_read_backward_are_refused(folder):
    with pytest.raises(ValueError, match="bidirectional"):
        made(folder).build_model(SeriesModelOptions(bidirectional=True))


def recipe(folder, **task):
    text = """
    [model]
    hidden = [6]
    dropout = 0.2
    [training]
    batch_size = 3
    evaluate_every = 7
    checkpoint_every = 1
    [phases.train]
    updates = 30
    [phases.again]
    updates = 5
    """
    section = {"name": "long_series", "file": str(folder / "rivers.csv"), "channels": ["rain"], "targets": ["flow"]}
    section |= {"sequence": "place", "horizon": 0, "window": 8, **task}
    return recipe_from({**tomllib.loads(text), "task": section})


@pytest.mark.parametrize(
    "task",
    [
        {"states": "zero"},
        {"states": "sequential"},
        {"states": "previous"},
        {"states": "propagate", "mix": 0.5, "max_age": 12, "unseen": "drop"},
        {"states": "propagate", "refresh": 4},
    ],
)
def test_a_run_that_is_stopped_anywhere_goes_on_as_if_it_was_not(folder, tmp_path, monkeypatch, task):
    whole = train(recipe(folder, **task), tmp_path / "whole")
    checkpoint, stops = Trainer.checkpoint, [5, 13, 22]

    def stop(trainer, phase, run):
        checkpoint(trainer, phase, run)
        if run is not None and stops and run.update == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "checkpoint", stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(recipe(folder, **task), tmp_path / "stopped", resume=True)
    assert not stops
    found = train(recipe(folder, **task), tmp_path / "stopped", resume=True)
    assert found["test"] == whole["test"]
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_states_outlast_an_epoch_where_they_are_kept_and_only_there(folder):
    for states in STRATEGIES:
        task = runoff(folder, states=states, warm_up=4 if states == "warm_up" else 0)
        assert task.keeps_states == (states in ("previous", "propagate"))
    task = runoff(folder, states="propagate")
    assert task._policy() == StatePolicy(task.updates_per_epoch())


def test_one_process(folder):
    with pytest.raises(ValueError, match=r"training\.devices: expected 1 with long_series, got 3"):
        recipe_from({**(table := recipe(folder).as_dict()), "training": {**table["training"], "devices": 3}})


def test_pruning_phases_begin_with_a_new_memory(folder, tmp_path):
    table = recipe(folder, states="propagate").as_dict()
    table["phases"]["train"]["compress"] = {"keep": 0.5, "steps": 20}
    result = train(recipe_from(table), tmp_path / "run")
    assert result["updates"]["total"] == 35
    config = (tmp_path / "run" / "config.json").read_text()
    assert '"hidden": [\n   3\n  ]' in config


# CAMELS


def camels(path, days=4, change=None):
    """An archive as it is published, of one basin."""
    weather = ["  40.0", " 100.0", " 2000000", "Year Mnth Day Hr\tdayl\tprcp\tsrad\tswe\ttmax\ttmin\tvp"]
    weather += [f"2000 01 {day + 1:02} 12\t30000\t{day}\t200\t0\t5\t-5\t{day + 0.5}" for day in range(days)]
    flow = [f"01234567 2000 01 {day + 1:02} {value} A" for day, value in enumerate([10.0, -999.0, 30.0])]
    files = {
        "c/basin_mean_forcing/daymet/01234567_lump_cida_forcing_leap.txt": weather,
        "c/usgs_streamflow/01234567_streamflow_qc.txt": flow,
        "c/readme.txt": ["no data"],
    }
    name, number, line = change or ("", 0, "")
    with tarfile.open(path, "w:gz") as archive:
        for member, lines in files.items():
            if name and name in member:
                lines = [*lines[:number], line, *lines[number + 1 :]]
            content = "\n".join(lines).encode()
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def test_catchments(tmp_path):
    table = read_table(camels(tmp_path / "a.tar.gz"))
    assert table.steps == 3 and table.offsets.tolist() == [0, 3] and table.texts("basin") == ["01234567"]
    assert table.texts("date") == ["2000-01-01", "2000-01-02", "2000-01-03"]
    assert table.numbers("prcp").tolist() == [0, 1, 2] and table.numbers("vp").tolist() == [0.5, 1.5, 2.5]
    assert table.numbers("area").tolist() == [2, 2, 2] and table.numbers("elevation").tolist() == [100] * 3
    per_second = 0.3048**3 * 10  # cubic meters
    np.testing.assert_allclose(
        table.numbers("runoff"), [per_second * 86.4e6 / 2e6, np.nan, 3 * per_second * 86.4e6 / 2e6], 1e-5
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (("forcing", 5, "2000 01 02 12 1 2 3"), "leap.txt, line 6: expected 7 finite numbers"),
        (("forcing", 5, "2000 13 02 12 1 2 3 4 5 6 7"), "line 6: expected year, month and day, got '2000 13 02'"),
        (("forcing", 2, "0"), "latitude, elevation and area"),
        (("streamflow", 1, "01234567 2000 01 02 many A"), "qc.txt, line 2: expected 1 finite numbers"),
    ],
)
def test_a_line_that_is_wrong(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        read_table(camels(tmp_path / "a.tar.gz", change=change))


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "a.tar.gz"
    for content in (
        b"",
        b"text",
        gzip.compress(b"x" * 999),
        (tmp_path / camels(tmp_path / "b.tar.gz")).read_bytes()[:99],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected"):
            read_table(str(path))
