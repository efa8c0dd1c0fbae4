"""The speech task, its acoustic models and their front end."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import compactrnn as cr
import made_up_speech
from compactrnn.data import fetch, load_an4
from compactrnn.models import AcousticModel, AcousticModelOptions
from compactrnn.models.ctc import ctc_loss
from compactrnn.models.front_end import FrontEnd
from compactrnn.tasks.cepstral_augmentation import CepstralAugmentation, MelScale
from compactrnn.tasks.ctc import encode
from compactrnn.tasks.speech import SpeechData, SpeechTask
from compactrnn.tasks.table import task_of
from compactrnn.tasks.word_errors import character_errors, word_errors
from compactrnn.training.pack_run import pack_model
from run_folders import invoke

SHARED = Path(os.environ.get("COMPACTRNN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SCALE = MelScale(40, 130, 6800)
MODELS = {
    "bidirectional LSTM": {"bidirectional": True, "normalization": "utterance", "deltas": 2},
    "LSTM": {"normalization": "running", "deltas": 1},
    "GRU of low rank": {"cell": "GRU", "normalization": "running", "hidden_weight": {"kind": "LowRank", "rank": 3}},
    "FSMN": {"cell": "FSMN", "normalization": "running", "cell_options": {"look_back": 4}},
    "MinGRU": {"cell": "MinGRU", "normalization": "none", "deltas": 0},
}


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path / "data"))
    return made_up_speech.write(tmp_path / "data")


def task_of_size(batch_size=4, seed=0, **data):
    return SpeechTask(SpeechData(**data), batch_size=batch_size, seed=seed)


def deltas_by_definition(frames):
    """(frames, coefficients): the slope of the five frames up to each, zero before the first."""
    x = np.concatenate([np.zeros((4, frames.shape[1])), frames])
    return np.stack([sum(k * (x[t + 2 + k] - x[t + 2 - k]) for k in (1, 2)) / 10 for t in range(len(frames))])


@pytest.mark.parametrize("stacked", [1, 2, 3, 5])
@pytest.mark.parametrize("deltas", [0, 1, 2])
def test_the_front_end_adds_slopes_of_frames_whatever_the_stack(stacked, deltas):
    front = FrontEnd(4, stacked, deltas, "none").eval()
    frames = np.random.default_rng(0).normal(size=(6 * stacked, 4))
    parts = [frames]
    for _ in range(deltas):
        parts.append(deltas_by_definition(parts[-1]))
    wanted = np.concatenate([part.reshape(6, -1) for part in parts], 1)
    given = torch.from_numpy(frames).float().reshape(1, 6, -1)
    assert_close(front(given)[0], torch.from_numpy(wanted).float(), atol=1e-5, rtol=1e-5)
    assert front.size == wanted.shape[1]


def test_frames_are_normalized_by_the_utterance_or_by_what_was_heard_so_far():
    x = torch.randn(2, 12, 3 * 4) * 3 + 5
    lengths = torch.tensor([12, 7])
    by_utterance = FrontEnd(4, deltas=0, normalization="utterance").eval()
    y = by_utterance(x, lengths)
    for row, length in zip(y, lengths, strict=True):
        frames = row[:length].reshape(-1, 4)
        assert_close(frames.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
        assert_close(frames.var(0, correction=0), torch.ones(4))
    assert_close(y[1, :7], by_utterance(x[1:, :7])[0])
    running = FrontEnd(4, deltas=0, normalization="running", prior=2).eval()
    running.mean.fill_(4.0)
    running.deviation.fill_(2.0)
    y = running(x)
    standard = ((x - 4) / 2).double()
    for t in (0, 3, 11):
        heard = standard[0, : t + 1].reshape(-1, 4)
        count = len(heard) + 2 * 3  # two steps more, of mean 0 and variance 1
        mean = heard.sum(0) / count
        variance = (heard.square().sum(0) + 2 * 3) / count - mean.square()
        wanted = (standard[0, t].reshape(3, 4) - mean) / variance.sqrt()
        assert_close(y[0, t].reshape(3, 4), wanted.float(), atol=1e-5, rtol=1e-4)
    silence = by_utterance(torch.zeros(1, 5, 12))
    assert silence.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_reads_no_padding_and_gives_probabilities(name):
    torch.manual_seed(0)
    model = AcousticModel(4, 6, AcousticModelOptions(hidden=(8, 8), **MODELS[name])).eval()
    x, lengths = torch.randn(3, 11, 12), torch.tensor([11, 4, 9])
    spoiled = x.clone()
    spoiled[1, 4:], spoiled[2, 9:] = 1e6, -1e6
    with torch.no_grad():
        y, other = model(x, lengths), model(spoiled, lengths)
        for row, (count, one) in enumerate(zip(lengths, x, strict=True)):
            alone = model(one[None, :count])[0]
            assert_close(y[row, :count], alone, atol=1e-5, rtol=1e-5)
            assert_close(other[row, :count], alone, atol=1e-5, rtol=1e-5)
            assert_close(alone.exp().sum(-1), torch.ones(count))
    own = {"layer_options": ({"projection_size": 2},) * 2} if name == "FSMN" else {}
    assert model.layer_sizes() == (8, 8)
    assert model.size_options() == {"hidden": (8, 8), "projection": (), "weights": {}, **own}


def test_options_of_the_model():
    with pytest.raises(ValueError, match=r"model.bidirectional"):
        cr.models.SequenceModel(3, 2, cr.models.SequenceModelOptions(bidirectional=True))
    tables = {"sequence_model.layers.1.weight_hh_l0": {"kind": "LowRank", "rank": 2}}
    low = AcousticModel(4, 6, AcousticModelOptions(hidden=(8, 8), weights=tables))
    assert low.size_options() == {"hidden": (8, 8), "projection": (), "weights": tables}
    again = AcousticModel(4, 6, AcousticModelOptions(**low.size_options()))
    assert [p.shape for p in again.parameters()] == [p.shape for p in low.parameters()]
    model = AcousticModel(4, 6, AcousticModelOptions(hidden=(8, 5), bidirectional=True, dropout=0.2))
    assert model.sequence_model.layers[1].input_size == 16 and model.sequence_model.output.in_features == 10
    model.adjust(AcousticModelOptions(dropout=0.4, input_dropout=0.5))
    assert model.sequence_model.dropout == 0.4 and model.input_dropout.p == 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_the_loss_is_the_sum_over_all_alignments(steps, target, seed):
    x = torch.randn(1, steps, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double).log_softmax(-1)
    total = 0.0
    for path in itertools.product(range(3), repeat=steps):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == target:
            total += math.exp(sum(float(x[0, t, symbol]) for t, symbol in enumerate(path)))
    wanted = -math.log(total) / len(target) if total else 0.0  # a target that does not fit
    assert float(ctc_loss(x, torch.tensor([target]))) == pytest.approx(wanted, rel=1e-9)


def test_the_loss_is_per_character_of_a_batch_and_ignores_padding():
    x = torch.randn(2, 9, 4).log_softmax(-1)
    targets, lengths = torch.tensor([[1, 2, 2], [3, 0, 0]]), torch.tensor([9, 5])
    both = ctc_loss(x, targets, lengths)
    first, second = (ctc_loss(x[n : n + 1, :end], targets[n : n + 1]) for n, end in ((0, 9), (1, 5)))
    assert_close(both, (3 * first + second) / 4)
    with pytest.raises(ValueError, match=r"transcript: .*got 'c'"):
        encode(["abc"], "ab")


def test_errors_are_counted_by_word_and_by_character():
    assert word_errors(["A B C", "D"], ["A X C C", ""]) == (3, 4)
    assert character_errors(["AB C"], ["ABC"]) == (1, 4)


def test_cepstra_are_warped_and_masked_as_their_spectrum_is():
    frequencies = 700 * np.expm1(np.linspace(0, 1, 42)[1:-1] * np.log1p(6800 / 700) + 0)
    scale = MelScale(40, 1e-9, 6800)
    cosines, transform = scale.cosines(13, np.arange(40)), scale.transform(13)
    assert np.allclose(transform @ cosines, np.eye(13))
    cepstra = np.random.default_rng(0).normal(size=13) / np.arange(1, 14) ** 2
    spectrum, factor = cosines @ cepstra, 1.05
    moved = np.interp(factor * frequencies, frequencies, spectrum)  # linear between filters, so not exact
    warped = cosines @ (scale.warp(13, factor) @ cepstra)
    inner = slice(2, 36)
    assert np.abs(warped - moved)[inner].max() < 0.1 * np.ptp(spectrum)
    assert np.abs(warped - spectrum)[inner].max() > 2 * np.abs(warped - moved)[inner].max()
    kept = np.ones(40)
    kept[5:12] = 0
    assert np.allclose(
        SCALE.mask(13, 5, 7) @ cepstra, SCALE.transform(13) @ (kept * (SCALE.cosines(13, np.arange(40)) @ cepstra))
    )


def test_augmentation_of_no_strength_changes_nothing():
    frames = np.random.default_rng(0).normal(size=(50, 13)).astype(np.float32)
    still = CepstralAugmentation(SCALE, speed=0, warp=0, frequency_masks=0, frames_per_mask=0)
    assert np.allclose(still(frames, np.random.default_rng(1)), frames, atol=1e-5)
    faster = CepstralAugmentation(SCALE, speed=0.15, warp=0, frequency_masks=0, frames_per_mask=0)
    lengths = {len(faster(frames, np.random.default_rng(n))) for n in range(40)}
    assert min(lengths) in (43, 44) and max(lengths) in (58, 59)


def test_batches_follow_from_seed_epoch_and_index_and_have_similar_lengths(made_up):
    task = task_of_size(seed=1)
    late, again = task.batch(2, epoch=3), task_of_size(seed=1).batch(2, epoch=3)
    assert torch.equal(late.inputs, again.inputs) and torch.equal(late.targets, again.targets)
    for other in (task_of_size(seed=2).batch(2, 3), task.batch(1, 3), task.batch(2, 4)):
        assert late.inputs.shape != other.inputs.shape or not torch.equal(late.inputs, other.inputs)
    epoch = [task.batch(n) for n in range(task.updates_per_epoch())]
    assert len(epoch) == 27 // 4 and all(len(batch) == 4 for batch in epoch)
    spread = np.mean([float(batch.lengths.max() - batch.lengths.min()) for batch in epoch])
    everything = torch.cat([batch.lengths for batch in epoch])
    assert spread < 0.7 * float(everything.max() - everything.min())


def test_parts_have_other_speakers(made_up):
    task, all_speakers = task_of_size(), task_of_size(all_speakers=True)
    speakers = {part: {u.speaker for u in utterances} for part, utterances in task.parts.items()}
    assert speakers["valid"] == {"speaker07"} and speakers["test"] == {"speaker10", "speaker11"}
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    assert [len(all_speakers.parts[part]) for part in ("train", "valid", "test")] == [30, 3, 6]
    assert task.counts("test")["words"] == sum(len(u.text.split()) for u in load_an4().test)
    assert task.symbols == [" ", "G", "N", "O"] and task.inputs == 39 and task.outputs == 5
    batch = next(task.batches("valid"))
    utterance = min(task.parts["valid"], key=lambda u: len(u.features))
    length = len(utterance.features) // 3
    assert torch.equal(batch.inputs[0, :length], torch.from_numpy(utterance.features[: 3 * length].reshape(length, 39)))
    assert task.texts(batch)[0] == utterance.text
    model = task.build_model(AcousticModelOptions(hidden=(4,)))
    frames = np.concatenate([u.features for u in task.parts["train"]])
    assert_close(model.front_end.mean, torch.from_numpy(frames.mean(0)))
    assert_close(model.front_end.deviation, torch.from_numpy(frames.std(0)))
    with pytest.raises(ValueError, match="batch_size: expected at most the 27"):
        task_of_size(batch_size=28)


def test_scores_are_of_the_best_path(made_up):
    task = task_of_size()

    class Spells(torch.nn.Module):
        """Writes the characters of every utterance, one a step, the last one wrong if asked to."""

        def __init__(self, wrong):
            super().__init__()
            self.wrong, self.unused, self.batches = wrong, torch.nn.Parameter(torch.zeros(1)), task.batches("test")

        def forward(self, x, lengths):
            y = torch.full((*x.shape[:2], 5), -20.0)
            for row, target in zip(y, next(self.batches).targets, strict=True):
                symbols = target[target > 0].tolist()
                symbols[-1] = 1 + symbols[-1] % 4 if self.wrong else symbols[-1]
                for n, symbol in enumerate(symbols):
                    row[2 * n, symbol] = 10
                row[..., 0] = 0
            return y.log_softmax(-1)

    assert task.scores(Spells(wrong=False), "test") == {"wer": 0.0, "cer": 0.0, "lexicon_wer": 0.0}
    counts = task.counts("test")
    scores = task.scores(Spells(wrong=True), "test")
    assert 0 < scores["lexicon_wer"] <= scores["wer"]
    assert (
        scores["wer"] == pytest.approx(100 * counts["sequences"] / counts["words"])
        and 0 < scores["cer"] < scores["wer"]
    )
    assert task.evaluate(Spells(wrong=True), "test") == scores["wer"]


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_model_streams_and_is_evaluated_like_torch(name, made_up, tmp_path):
    torch.manual_seed(0)
    task = task_of_size()
    model = task.build_model(AcousticModelOptions(hidden=(12, 12), **MODELS[name]))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for index in range(24):
        batch = task.batch(index % 6, index // 6)
        loss = task.loss(task.forward(model, batch, None)[0], batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    pack_model(model, task, tmp_path / "model.crnn", "float32")
    engine = cr.Engine(tmp_path / "model.crnn")
    again = task_of(json.loads(json.dumps(engine.metadata)))
    assert again.engine_scores(engine, "test") == task.scores(model, "test")
    batch = next(task.batches("test"))
    steps = int(batch.lengths[0])
    with torch.no_grad():
        wanted = model.eval()(batch.inputs, batch.lengths)[0, :steps].numpy()
    frames = batch.inputs[0, :steps].numpy()
    np.testing.assert_allclose(engine.run(frames), wanted, atol=1e-5)
    said = task.recognizer.decoder("greedy").decode(wanted)
    shortest = min(task.parts["test"], key=lambda u: len(u.features))
    assert cr.recognize(engine, shortest.features, "greedy") == said
    if engine.offline:
        assert name == "bidirectional LSTM"
        return
    stream = engine.stream()
    np.testing.assert_allclose(np.stack([stream.step(row) for row in frames]), wanted, atol=1e-5)


RECIPE = """
[task]
name = "speech"
[model]
hidden = [16]
bidirectional = true
[training]
batch_size = 4
threads = 1
[phases.train]
updates = 12
[phases.compress]
updates = 12
compress = { keep = 0.5, steps = 6, minimum = 4 }
distill = { teacher = "train", weight = 0.5 }
[phases.factorize]
updates = 6
factorize = { rank = 3 }
distill = { teacher = "train", targets = "transcript", hidden = { "sequence_model.layers.0" = 0.1 } }
"""


def test_a_recipe_trains_prunes_distills_packs_and_evaluates(made_up, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    trained = invoke("train", tmp_path / "recipe.toml", "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metric"] == "wer" and result["test_cer"] > 0
    assert invoke("pack", tmp_path / "run", tmp_path / "model.crnn", "--weights", "float32").exit_code == 0
    records = [
        json.loads(invoke("eval", path, "--json").stdout) for path in (tmp_path / "run", tmp_path / "model.crnn")
    ]
    assert records[0]["value"] == result["test"] and records[0]["cer"] == result["test_cer"]
    assert {**records[1], "runs_on": "torch"} == records[0]
    assert records[0]["words"] == sum(len(u.text.split()) for u in load_an4().test)


def test_metadata_may_be_anyones(made_up):
    metadata = task_of_size().metadata()
    assert metadata["recognizer"]["symbols"] == ["", " ", "G", "N", "O"] and metadata["task"]["metric"] == "wer"
    for symbols in (None, [], ["G"], ["", "GO"], ["", "G", "G"], ["", 3], 5):
        with pytest.raises(ValueError, match=r"model metadata: .*symbols"):
            task_of({**metadata, "recognizer": {"symbols": symbols}})
    with pytest.raises(ValueError, match=r"model metadata: .*no recognizer"):
        task_of({"task": metadata["task"]})


def test_a_file_that_is_not_an4s_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"AN4: .*no an4_mfcc13.npz.*COMPACTRNN_DATA"):
        load_an4()
    with pytest.raises(ValueError, match=r"data set an4: .*no file to download; .*docs/speech.md"):
        fetch("an4")
    good = made_up_speech.arrays()
    count, frames = len(good["ids"]), len(good["mfcc"])
    bad = good["mfcc"].copy()
    bad[7, 3] = np.nan
    changes = {
        "arrays mfcc": {"text": None},
        "finite float32": {"mfcc": bad},
        "finite": {"mfcc": good["mfcc"].astype(np.float64)},
        "an offset": {"offsets": good["offsets"][:-1]},
        "increasing": {"offsets": np.r_[0, good["offsets"][2], good["offsets"][2:]]},
        f"0 to {frames}": {"offsets": np.r_[good["offsets"][:-1], frames + 1]},
        "FOLDER/SPEAKER/NAME": {"ids": np.array(["x"] * count)},
        "at least one word": {"text": np.array([" "] * count)},
        "both parts": {"split": np.zeros(count, np.uint8)},
        "part 0 or 1": {"split": np.full(count, 2, np.uint8)},
        "plain arrays": {"ids": good["ids"].astype(object)},
    }
    for words, change in changes.items():
        made_up_speech.write(tmp_path, **change)
        with pytest.raises(ValueError, match=rf"AN4.*{words}"):
            load_an4()
    path = made_up_speech.write(tmp_path)
    whole = path.read_bytes()
    for torn in (b"", whole[: len(whole) // 2], b"no zip file", whole.replace(b"mfcc.npy", b"mfcd.npy")):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match="AN4"):
            load_an4()


@pytest.mark.skipif(not (SHARED / "an4").is_dir(), reason="no AN4 in the data folder")
def test_an4(monkeypatch):
    monkeypatch.setenv("COMPACTRNN_DATA", str(SHARED))
    task = task_of_size(batch_size=8)
    assert task.counts("test") == {"sequences": 130, "words": 773}
    assert [task.counts(part)["sequences"] for part in ("train", "valid")] == [844, 104]
    assert task.symbols == [" ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    speakers = {part: {u.speaker for u in utterances} for part, utterances in task.parts.items()}
    assert [len(speakers[part]) for part in ("train", "valid", "test")] == [66, 8, 10]
    assert task_of_size(all_speakers=True).counts("train")["sequences"] == 948
    for utterances in task.parts.values():  # every transcript fits, also of the fastest speech
        for u in utterances:
            repeated = sum(a == b for a, b in itertools.pairwise(u.text))
            assert len(u.features) / 1.15 // 3 >= len(u.text) + repeated
    spread = [float(b.lengths.max() / b.lengths.min()) for b in (task.batch(n) for n in range(40))]
    assert np.median(spread) < 1.6
