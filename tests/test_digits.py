"""The task of spoken digits: splits, augmentation, and a model that runs from samples as from log-mel energies."""

import numpy as np
import pytest
import torch

import compactrnn as cr
from compactrnn.models.audio_model import AudioModelOptions
from compactrnn.models.masks import Masks
from compactrnn.tasks import digit_audio as module
from compactrnn.tasks.audio_augmentation import AudioAugmentation
from compactrnn.tasks.connected_digits import ConnectedDigitsData, ConnectedDigitsTask
from compactrnn.tasks.digits import DigitsData, DigitsTask
from compactrnn.tasks.table import task_of
from compactrnn.training.pack_run import pack_model
from spoken_digits import toy_digits

CHANGES = AudioAugmentation(speed=0.2, tone=0.3, gain=0.5, noise=0.1, silence=0.1)
OPTIONS = AudioModelOptions(hidden=(12,), cell="GRU", answer="mean", bands_masked=4, frames_masked=2)


@pytest.fixture(autouse=True)
def toy_recordings(monkeypatch):
    monkeypatch.setattr(module, "load_fsdd", toy_digits)


def task(seed=0, **data):
    return DigitsTask(DigitsData(**data), batch_size=16, seed=seed)


@pytest.mark.parametrize(
    "data",
    [{}, {"split": "speaker", "speaker": 1}, {"split": "speaker", "speaker": 2, "validate_on": "speaker"}],
    ids=str,
)
def test_a_recording_is_in_one_part_and_a_speaker_left_out_in_none_but_the_test(data):
    digits, options = toy_digits(), DigitsData(**data)
    parts = options.parts(digits)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(digits)))
    train, valid, test = (parts[name] for name in ("train", "valid", "test"))
    if options.split == "official":
        assert set(digits.take[test]) == {0, 1, 2, 3, 4} and set(digits.take[valid]) == {5, 6, 7, 8, 9}
        assert set(digits.take[train]) == {10, 11}
    else:
        assert set(digits.speaker[test]) == {options.speaker} and len(test) == 120
        assert options.speaker not in digits.speaker[np.concatenate([train, valid])]
    if options.validate_on == "speaker":
        assert set(digits.speaker[valid]) == {0} and set(digits.speaker[train]) == {1}


def test_a_batch_follows_from_seed_epoch_and_index_alone_and_an_epoch_reads_each_recording_once():
    late, again = (task(seed=1, augmentation=CHANGES).batch(1, epoch=2) for _ in range(2))
    assert torch.equal(late.inputs, again.inputs) and torch.equal(late.targets, again.targets)
    for other in (task(2, augmentation=CHANGES).batch(1, 2), task(1, augmentation=CHANGES).batch(1, 1)):
        assert late.inputs.shape != other.inputs.shape or not torch.equal(late.inputs, other.inputs)
    plain = task(seed=1)
    levels = [float(row.square().sum() / row.count_nonzero()) ** 0.5 for row in plain.batch(0).inputs]
    assert all(abs(level - 0.05) < 0.001 for level in levels), "silence that fills a row up is not counted"
    seen = [float(row.abs().sum()) for n in range(plain.updates_per_epoch()) for row in plain.batch(n).inputs]
    assert len(set(seen)) == len(seen) == plain.updates_per_epoch() * 16


def test_augmentation_changes_length_level_and_pitch_as_it_says():
    x, random = np.sin(0.3 * np.arange(4000, dtype=np.float32)), np.random.default_rng(0)
    assert np.array_equal(AudioAugmentation().apply(x, 8000, random), x)
    lengths = [len(AudioAugmentation(speed=0.2).apply(x, 8000, random)) for _ in range(200)]
    assert 4000 * np.exp(-0.2) - 1 <= min(lengths) < 3400 < 4700 < max(lengths) <= 4000 * np.exp(0.2) + 1
    levels = [np.abs(AudioAugmentation(gain=0.5).apply(x, 8000, random)).max() for _ in range(200)]
    assert 10**-0.5 <= min(levels) < 0.4 and 2.5 < max(levels) <= 10**0.5
    noisy = AudioAugmentation(noise=0.1).apply(x, 8000, random) - x
    assert 0.003 <= noisy.std() <= 0.1
    late = AudioAugmentation(silence=0.1).apply(x, 8000, random)
    assert 4000 < len(late) <= 4800 and np.array_equal(late[len(late) - 4000 :], x)
    toned = AudioAugmentation(tone=0.3).apply(x, 8000, random)
    spectrum = np.abs(np.fft.rfft(toned[100:] * np.hanning(3900)))
    assert spectrum.argmax() == np.abs(np.fft.rfft(x[100:] * np.hanning(3900))).argmax()


def test_masks_are_stretches_of_bands_and_of_frames():
    torch.manual_seed(0)
    masks, x = Masks(bands_masked=3, frames_masked=4), torch.ones(50, 20, 8)
    zero = masks(x) == 0
    frames, bands = zero.all(2), zero.all(1)
    assert torch.equal(zero, frames[:, :, None] | bands[:, None])
    assert 0 < int(frames.sum(1).max()) <= 4 and 3 < int(bands.sum(1).max()) <= 6
    assert masks.eval()(x) is x


def test_a_trained_model_answers_from_samples_as_from_energies_and_from_its_file(tmp_path):
    torch.manual_seed(0)
    data = task(split="speaker", speaker=2, augmentation=AudioAugmentation(gain=0.2))
    model = data.build_model(OPTIONS)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for update in range(60):
        batch = data.batch(update % data.updates_per_epoch(), update // data.updates_per_epoch())
        loss = data.loss(data.forward(model, batch, None)[0], batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = data.evaluate(model, "test")
    assert error < 20 < data.evaluate(data.build_model(OPTIONS), "test")

    outside = task(split="speaker", speaker=2, rows="log_mel")
    core = outside.build_model(OPTIONS)
    core.load_state_dict(model.state_dict())
    assert outside.evaluate(core, "test") == error

    record = pack_model(model, data, tmp_path / "samples.crnn", "int8")
    assert record["types"]["log_mel.spectrum"] == record["types"]["log_mel.filters"] == "float32"
    assert record["types"]["sequence_model.output"] == "int8"
    small = pack_model(core, outside, tmp_path / "energies.crnn", "int8")
    assert small["bytes"] < record["bytes"] / 10
    for name, own in (("samples", data), ("energies", outside)):
        engine = cr.Engine(tmp_path / f"{name}.crnn")
        assert not engine.offline
        again = task_of(engine.metadata)
        assert isinstance(again, DigitsTask) and again.data.rows == own.data.rows and again.data.speaker == 2
        assert abs(again.evaluate_engine(engine, "test") - error) <= 2


def test_strings_of_a_part_are_of_its_recordings_and_a_file_recognizes_them_as_torch_does(tmp_path):
    pytest.importorskip("jiwer")
    torch.manual_seed(0)
    data = ConnectedDigitsTask(ConnectedDigitsData(valid=6, test=6), batch_size=4)
    again = ConnectedDigitsTask(ConnectedDigitsData(valid=6, test=6), batch_size=4)
    first, same, other = data.batch(0), again.batch(0), data.batch(1)
    assert torch.equal(first.inputs, same.inputs) and not torch.equal(first.targets, other.targets)
    assert 12 <= data.target_count(first) <= 28 and bool((first.targets <= 10).all())
    model = data.build_model(OPTIONS).eval()
    (batch,) = data.batches("test")
    assert batch.lengths is not None
    with torch.no_grad():
        outputs, _ = data.forward(model, batch, None)
    loss = torch.nn.functional.ctc_loss(
        outputs.log_softmax(-1).transpose(0, 1),
        batch.targets,
        batch.lengths,
        (batch.targets > 0).sum(1),
        reduction="sum",
    )
    torch.testing.assert_close(data.loss(outputs, batch), loss / data.target_count(batch))
    assert data.errors(data.answers(outputs, batch), batch)["wer"][1] == data.target_count(batch)

    pack_model(model, data, tmp_path / "digits.crnn", "float32")
    engine = cr.Engine(tmp_path / "digits.crnn")
    assert task_of(engine.metadata).evaluate_engine(engine, "test") == data.evaluate(model, "test")
    recognizer, length = cr.Recognizer(engine), int(batch.lengths[0])
    audio = batch.inputs[0, :length].flatten().numpy()
    words = [word for chunk in np.array_split(audio, 9) for word in recognizer.feed(chunk)] + recognizer.finish()
    assert words == cr.Recognizer(engine).decoder.decode(outputs[0, :length].log_softmax(-1).numpy())


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match=r'validate_on: expected "takes", or split = "speaker"'):
        DigitsData(validate_on="speaker")
    with pytest.raises(ValueError, match="speaker: expected 0 to 2: ann, bob, cid, got 3"):
        task(split="speaker", speaker=3)
    with pytest.raises(ValueError, match="batch_size: expected at most the"):
        DigitsTask(DigitsData(), batch_size=1000)
