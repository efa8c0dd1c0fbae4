"""Calibration data shows which products lose most by quantization, and what is done about them."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.cells import GILR, MGU, DuRNN, IndRNN
from compactrnn.lower import lower
from compactrnn.runtime.dead_code import remove_dead_code
from compactrnn.runtime.equalize import can_center, can_scale, equalize, rows_read
from compactrnn.runtime.file import read, write
from compactrnn.runtime.inventory import inventory, stored_types
from compactrnn.runtime.measure import Measure, compare, run
from compactrnn.runtime.program import GATES, Binary, Code, Input, Matmul, Program, Tensor
from compactrnn.runtime.quantize import quantize, quantize_measured
from compactrnn.runtime.storage import WeightTypes, store
from compactrnn.testing.programs import random_input
from compactrnn.weights import LowRank
from test_runtime_matmul import product
from test_runtime_pack import layers, token_program

NUMBERS = np.random.default_rng


def mel_power(seed, batch=3, steps=60, bands=40, spread=40.0):
    """Power in bands: the largest is on average `spread` times the median, loud and quiet frames far apart."""
    rng = NUMBERS(seed)
    bands = spread ** np.linspace(-0.6, 1, bands)[NUMBERS(7).permutation(bands)]
    bands /= np.median(bands) * bands.max() / np.median(bands) / spread
    loudness = rng.lognormal(0, 1.2, (batch, steps, 1))
    return torch.tensor(bands * loudness * rng.gamma(1, 1, (batch, steps, len(bands))), dtype=torch.float32)


def mixed_units(seed, batch=3, steps=60):
    """A heart rate, an altitude in meters and a flag."""
    rng = NUMBERS(seed)
    columns = [
        rng.normal(70, 15, (batch, steps)),
        3000 + rng.normal(0, 40, (batch, steps)).cumsum(1),
        rng.random((batch, steps)) < 0.3,
    ]
    return torch.tensor(np.stack(columns, -1), dtype=torch.float32)


def raw_audio(seed, batch=3, steps=60, width=32):
    """Windows of 16-bit samples."""
    return torch.tensor(NUMBERS(seed).normal(0, 3000, (batch, steps, width)).round(), dtype=torch.float32)


class Tagger(nn.Module):
    """Recurrent layers and a head."""

    def __init__(self, rnn, width, outputs=5):
        super().__init__()
        self.rnn = rnn
        self.fc = nn.Linear(width, outputs)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])


def trained_like(model, weight, data):
    """A matrix trained on features of different scales: its columns compensate for them."""
    with torch.no_grad():
        weight /= data.flatten(0, -2).std(0)
    return model


def sequences(data):
    return [x.numpy() for x in data]


RNNS = {
    "lstm": lambda k: (nn.LSTM(k, 32, 2, batch_first=True), 32),
    "lstm of both directions": lambda k: (nn.LSTM(k, 16, batch_first=True, bidirectional=True), 32),
    "lstm with a projection": lambda k: (nn.LSTM(k, 32, proj_size=16, batch_first=True), 16),
    "gru": lambda k: (nn.GRU(k, 32, batch_first=True), 32),
    "elman": lambda k: (nn.RNN(k, 32, batch_first=True), 32),
    "mgu": lambda k: (cr.Recurrent(MGU, k, 32, batch_first=True), 32),
    "durnn": lambda k: (cr.Recurrent(DuRNN, k, 32, batch_first=True, steps=60), 32),
    "indrnn": lambda k: (cr.Recurrent(IndRNN, k, 32, 2, batch_first=True, steps=60), 32),
    "gilr": lambda k: (cr.Recurrent(GILR, k, 32, batch_first=True), 32),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", RNNS)
def test_features_of_different_sizes_do_not_destroy_int8(name):
    torch.manual_seed(0)
    rnn, width = RNNS[name](3)
    first = rnn.cells[0][0].input.weight if isinstance(rnn, cr.Recurrent) else rnn.weight_ih_l0
    data, unseen = mixed_units(0), mixed_units(1)
    model = trained_like(Tagger(rnn, width), first, data)
    program = lower(model, data[:1])
    plain = quantize(program, "int8")
    better = quantize_measured(program, "int8", calibration=sequences(data))
    assert compare(run(program, sequences(data)), run(plain, sequences(data))).error > 0.1
    assert better.error <= 0.02 and better.cosine > 0.9997 and not better.shares
    assert compare(run(program, sequences(unseen)), run(better.program, sequences(unseen))).error <= 0.04
    engine = cr.Engine(write(better.program))
    if not engine.offline:
        xs = unseen[0].numpy()
        stream, whole = engine.stream(), engine.run(xs)
        assert np.array_equal(np.concatenate([stream.run(xs[:7]), stream.run(xs[7:])]), whole)
    name = "rnn.cells.0.0.input" if isinstance(rnn, cr.Recurrent) else "rnn.weight_ih_l0"
    assert name in better.reasons and "where plain int8 does by" in better.reasons[name]
    assert len(write(better.program)) < 1.15 * len(write(plain))


@pytest.mark.parametrize("weights", ["int4", "auto"])
def test_features_of_different_sizes_do_not_destroy_other_types(weights):
    torch.manual_seed(0)
    data = mixed_units(0)
    model = Tagger(nn.GRU(3, 64, batch_first=True), 64)
    program = lower(trained_like(model, model.rnn.weight_ih_l0, data), data[:1])
    plain = quantize_measured(program, weights, calibration=sequences(data), improve=False)
    better = quantize_measured(program, weights, calibration=sequences(data))
    assert plain.error > 0.2 and better.error < 0.08 and "rnn.weight_ih_l0" in better.reasons


class SpeakerEncoder(nn.Module):
    """The last output of three LSTM layers as an embedding of length 1."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels):
        embedding = torch.relu(self.linear(self.lstm(mels)[1][0][-1]))
        return embedding / torch.norm(embedding, dim=1, keepdim=True)


def test_a_speaker_encoder_on_mel_power(tmp_path):
    torch.manual_seed(0)
    data, unseen = mel_power(0), mel_power(1)
    model = SpeakerEncoder().eval()
    with torch.no_grad():
        for name, parameter in model.lstm.named_parameters():
            if name.startswith("weight"):
                parameter *= 3  # as sensitive as a trained one
    trained_like(model, model.lstm.weight_ih_l0, data)
    with torch.no_grad():
        want = model(unseen).numpy()
    report = cr.pack(model, tmp_path / "encoder.crnn", data[:1], calibration=[data])
    engine = cr.Engine(tmp_path / "encoder.crnn")
    cosines = [float(engine.run(x.numpy()) @ y) for x, y in zip(unseen, want, strict=True)]
    plain = quantize(lower(model, data[:1]), "int8")
    before = [float(y @ x[0]) for x, y in zip(run(plain, sequences(unseen)), want, strict=True)]
    assert min(before) < 0.996 and min(cosines) >= 0.998
    assert report.bytes <= 1.10 * len(write(plain))
    assert "lstm.weight_ih_l0" in report.reasons and engine.metadata["pack"]["reasons"] == report.reasons


def test_only_what_cannot_be_scaled_is_kept_in_float32():
    torch.manual_seed(0)
    data = raw_audio(0)
    program = lower(Tagger(nn.GRU(32, 48, batch_first=True), 48), data[:1])
    plain = quantize_measured(program, "int8", calibration=sequences(data), improve=False)
    better = quantize_measured(program, "int8", calibration=sequences(data))
    assert plain.error > 0.02 >= better.error and next(iter(plain.shares)) == "rnn.weight_ih_l0"
    wanted = {"rnn.weight_ih_l0": "float32", "rnn.weight_hh_l0": "int8", "fc": "int8"}
    assert stored_types(better.program) == wanted
    assert better.reasons["rnn.weight_ih_l0"].startswith("float32: ")


def test_what_int8_costs_little_stays_as_it_is():
    for program in (layers(sizes=(64, 64)), token_program(vocabulary=40, width=64, size=64)):
        data = [random_input(program, 30, seed) for seed in range(3)]
        measured = quantize_measured(program, "int8", calibration=data)
        assert 0 < measured.error < 0.02 and not measured.reasons and not measured.shares
        assert write(measured.program) == write(quantize(program, "int8"))


def test_small_hidden_states_get_a_scale_for_every_step():
    torch.manual_seed(0)
    model, x = Tagger(nn.GRU(6, 48, batch_first=True), 48, outputs=20), torch.randn(2, 60, 6)
    with torch.no_grad():
        for parameter in model.rnn.parameters():
            parameter *= 0.05
        model.fc.bias.zero_()
    program = lower(model, x[:1])
    plain = quantize(program, "int8")
    better = quantize_measured(program, "int8", calibration=sequences(x))
    assert compare(run(program, sequences(x)), run(plain, sequences(x))).error > 0.05 and better.error < 0.02
    assert "scaled at every step" in better.reasons["fc"]
    assert len(write(better.program)) <= len(write(plain)) + 200  # their names in the file


def test_a_badly_scaled_embedding_is_kept_in_half_precision():
    torch.manual_seed(0)
    embedding, rnn = nn.Embedding(30, 16), nn.LSTM(16, 24, batch_first=True)
    with torch.no_grad():
        embedding.weight *= torch.logspace(-3, 3, 16)
    model, tokens = nn.Sequential(embedding, rnn), torch.randint(0, 30, (3, 40))
    program = lower(model, tokens[:1])
    plain = quantize_measured(program, "int8", calibration=sequences(tokens), improve=False)
    better = quantize_measured(program, "int8", calibration=sequences(tokens))
    assert plain.error > 0.02 >= better.error
    assert stored_types(better.program)["0 + 1.weight_ih_l0"] == "float16"


def test_the_choice_is_the_same_every_time():
    torch.manual_seed(0)
    data = mixed_units(0)
    model = Tagger(nn.LSTM(3, 16, batch_first=True), 16)
    program = lower(trained_like(model, model.rnn.weight_ih_l0, data), data[:1])
    first, second = (write(quantize(program, "int8", calibration=sequences(data))) for _ in range(2))
    assert first == second


def test_a_warning_names_the_worst_product(tmp_path):
    torch.manual_seed(0)
    data = mixed_units(0)
    model = Tagger(nn.LSTM(3, 16, batch_first=True), 16)
    trained_like(model, model.rnn.weight_ih_l0, data)
    path = tmp_path / "m.crnn"
    fixed = {"rnn.weight_ih_l0": "int8"}  # what is named stays as it is asked for
    with pytest.warns(UserWarning, match=r"by \d+\.\d%.*; rnn.weight_ih_l0 causes \d+%"):
        report = cr.pack(model, path, data[:1], calibration=[data], weights=fixed)
    assert report.error > 0.2 and report.shares["rnn.weight_ih_l0"] > 0.9 and sum(report.shares.values()) <= 1.001
    assert not report.reasons  # nothing else is worth a change
    assert report.weights == fixed and cr.Engine(path).metadata["pack"]["weights"] == fixed
    with pytest.warns(UserWarning) as caught:
        cr.pack(model, path, data[:1])
    assert ["no calibration data" in str(w.message) for w in caught] == [True, False]
    assert "rnn.weight_ih_l0" in str(caught[1].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = cr.pack(model, path, data[:1], calibration=[data], weights={"rnn.weight_ih_l0": "float32"})
    assert kept.types["rnn.weight_ih_l0"] == "float32" and kept.types["fc"] == "int8" and kept.error < 0.02


def test_a_batch_norm_before_a_matrix_stays_a_scale_and_a_shift():
    torch.manual_seed(0)
    data = mixed_units(0)
    norm = nn.BatchNorm1d(3)
    norm.running_mean.copy_(data.mean((0, 1)))
    norm.running_var.copy_(data.var((0, 1)))

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.rnn = norm, nn.GRU(3, 16, batch_first=True)

        def forward(self, x):
            return self.rnn(self.norm(x.transpose(1, 2)).transpose(1, 2))[0]

    exact = lower(Normed(), data[:1])
    program = quantize(exact, "int8")
    codes = [(op.code, op.fn) for op in program.ops]
    matrix = codes.index((Code.AFFINE, 0))
    assert codes.index((Code.BINARY, Binary.MUL)) < codes.index((Code.BINARY, Binary.ADD)) < matrix
    assert compare(run(exact, sequences(data)), run(program, sequences(data))).error < 0.02


@pytest.mark.parametrize("center", [False, True])
def test_equalizing_changes_no_product(center):
    program, biased = layers(sizes=(20, 20)), token_program(width=6, factor=3)
    for one in (program, biased):
        one, data = remove_dead_code(one), [random_input(one, 12)]
        want = run(one, data)
        for tensor in {op.tensor for op in one.ops if op.code in GATES}:
            if center and not can_center(one, tensor):
                continue
            rows = rows_read(one, tensor, data)
            changed = equalize(one, tensor, rows, center)
            assert not np.allclose(changed.tensors[tensor].values, one.tensors[tensor].values)
            assert compare(want, run(store(changed), data)).error < 1e-5


@pytest.mark.parametrize(
    ("side", "columns", "step", "count"),
    [(Matmul.RIGHT, 6, 6, 5), (Matmul.WINDOWS, 12, 4, 7), (Matmul.WINDOWS, 6, 6, 1), (Matmul.WINDOWS, 8, 8, 3)],
)
def test_columns_of_many_vectors_are_scaled_where_their_numbers_are(side, columns, step, count):
    values = NUMBERS(0).normal(size=(9, columns)).astype(np.float32) * 10.0 ** NUMBERS(1).uniform(-2, 2, columns)
    width = columns + (count - 1) * step
    program = product(Tensor(values.astype(np.float32)), side, count, step=step)
    xs = NUMBERS(2).normal(size=(20, width)).astype(np.float32)
    rows = rows_read(program, 0, [xs])
    windows = [xs[:, i * step : i * step + columns] for i in range(count)]
    assert np.array_equal(rows, np.concatenate(windows))
    assert can_scale(program, 0) and not can_center(program, 0)
    changed = equalize(program, 0, rows, center=False)
    assert not np.allclose(changed.tensors[0].values, values)
    assert compare(run(program, [xs]), run(store(changed), [xs])).error < 1e-5


@pytest.mark.parametrize(("side", "columns", "step", "count"), [(0, 6, 6, 5), (2, 5, 2, 4), (2, 6, 0, 3)])
def test_columns_whose_numbers_have_several_places_are_not_scaled(side, columns, step, count):
    program = product(Tensor(np.ones((3, columns), np.float32)), Matmul(side), count, step=step)
    assert not can_scale(program, 0)


def test_equalized_columns_read_numbers_as_large_as_their_weights():
    program = remove_dead_code(layers(sizes=(20,), inputs=5))
    tensor = next(op.tensor for op in program.ops if op.code == Code.AFFINE)
    rows = NUMBERS(0).normal([0, 5, 0, 0, 0], [1, 2, 1000, 1e-3, 0], (200, 5)).astype(np.float32)
    changed = equalize(program, tensor, rows, True)
    scale = changed.buffers[len(program.buffers)].init
    read = np.square((rows - rows.mean(0)) * scale).mean(0) ** 0.5
    ratio = read / np.square(changed.tensors[tensor].values).mean(0) ** 0.5
    assert np.allclose(ratio[:4] / ratio[0], 1, rtol=1e-3) and np.isfinite(scale).all() and scale.min() > 0


def test_the_rows_that_a_matrix_reads():
    program = remove_dead_code(layers(sizes=(20,), inputs=5))
    xs = random_input(program, 7)
    first = next(op.tensor for op in program.ops if op.code == Code.AFFINE)
    assert np.array_equal(rows_read(program, first, [xs, xs[:2]]), np.concatenate([xs, xs[:2]]))
    model, x = Tagger(nn.LSTM(4, 6, batch_first=True, bidirectional=True), 12), torch.randn(1, 9, 4)
    offline = lower(model, x)
    head = next(op.tensor for op in offline.ops if op.name == "fc")
    with torch.no_grad():
        want = model.rnn(x)[0][0].numpy()
    assert np.allclose(rows_read(offline, head, sequences(x)), want, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ("int8", ["int8"] * 4),
        ({"*": "int4"}, ["int4"] * 4),
        ({"fc": "float32"}, ["int8", "int8", "int8", "float32"]),
        ({"encoder": "float32", "*": "int4"}, ["float32"] * 3 + ["int4"]),
        ({"encoder": "int4", "encoder.lstm.weight_hh_l0": "float32"}, ["int4", "float32", "int4", "int8"]),
        ({"*.weight_hh_*": "float32", "encoder": "int4"}, ["int4", "float32", "int4", "int8"]),
        ({"encoder.lst": "int4"}, ["int8"] * 4),
    ],
)
def test_the_longest_key_that_matches_counts(weights, wanted):
    names = ["encoder.lstm.weight_ih_l0", "encoder.lstm.weight_hh_l0", "encoder.norm", "fc"]
    assert [WeightTypes.of(weights).find(name)[0] for name in names] == wanted


def test_of_what_is_folded_together_the_more_precise_type_counts():
    types = WeightTypes.of({"embedding": "float32", "lstm": "int4"})
    assert types.find("embedding + lstm.weight_ih_l0") == ("float32", True)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"encoder": "int8"}, r"'fc', 'rnn.weight_hh_l0', 'rnn.weight_ih_l0'.*unknown name 'encoder'"),
        ({"fc": "int3"}, r"weights\['fc'\]: .*got 'int3'"),
        ({"fc": 8}, r"weights\['fc'\]: .*got 8"),
        ({3: "int8"}, "weights"),
        ("int3", r"weights: .*got 'int3'"),
        (None, r"weights: .*got None"),
    ],
)
def test_wrong_weights_are_refused(tmp_path, weights, message):
    model, x = Tagger(nn.GRU(4, 8, batch_first=True), 8), torch.randn(1, 9, 4)
    with pytest.raises(ValueError, match=message):
        cr.pack(model, tmp_path / "m.crnn", x, weights=weights, calibration=[x])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("value", "remedy"), [(np.nan, "columns scaled"), (np.inf, "float32: ")])
def test_calibration_data_may_hold_what_is_no_number(value, remedy):
    """A product in int8 turns infinity into NaN, which the gates of a GRU do not."""
    torch.manual_seed(0)
    data = mixed_units(0)
    data[0, 30, 1] = value
    model = Tagger(nn.GRU(3, 16, batch_first=True), 16)
    program = lower(trained_like(model, model.rnn.weight_ih_l0, mixed_units(0)), data[:1])
    measured = quantize_measured(program, "int8", calibration=sequences(data))
    assert measured.error < 0.02 and remedy in measured.reasons["rnn.weight_ih_l0"]


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (torch.randn(1, 9, 4), "a list of batches.*got a Tensor"),
        (5, "a list of batches.*got a int"),
        (
            [torch.randn(1, 9, 3)],
            r"calibration: expected batches .* got a batch of shape \(1, 9, 3\)",
        ),
        ([torch.full((1, 9, 4), torch.nan)], "quantization error: .*'output' without a finite number"),
    ],
)
def test_calibration_data_that_cannot_be_measured_on_is_refused(tmp_path, calibration, message):
    model, x = Tagger(nn.GRU(4, 8, batch_first=True), 8), torch.randn(1, 9, 4)
    with pytest.raises(ValueError, match=message):
        cr.pack(model, tmp_path / "m.crnn", x, calibration=calibration)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tied():
    """A program whose output layer is its embedding, and tokens for it."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.rnn = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True)
            self.head = nn.Linear(16, 30)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.rnn(self.embedding(x))[0])

    torch.manual_seed(0)
    tokens = torch.randint(0, 30, (1, 20))
    return lower(Tied(), tokens), tokens


@pytest.mark.parametrize(
    "weights, kinds",
    [
        ("int4", ("int4", "int4")),
        ("auto", ("int8", "int8")),
        ({"head": "int4"}, ("int4", "int4")),
        ({"embedding": "int4"}, ("int4", "int4")),
        ({"embedding": "int8", "*": "int4"}, ("int8", "int8")),
        ({"embedding": "int8", "head": "int4"}, ("int8", "int4")),
        ({"embedding": "int4", "head": "int8"}, ("int4", "int8")),
        ({"head": "float32"}, ("int8", "float32")),
        ({"embedding": "float32"}, ("float32", "int8")),
    ],
)
def test_tied_weights_are_stored_once_for_each_type(tied, weights, kinds):
    program, tokens = tied
    packed = quantize(program, weights, fold=False)
    types = stored_types(packed)
    assert (types["embedding"], types["head"]) == kinds
    used = [op.tensor for op in packed.ops if op.name in ("embedding", "head")]
    assert len(set(used)) == len(set(kinds))
    exact = run(program, sequences(tokens))
    assert compare(exact, run(packed, sequences(tokens))).error < 0.2


def test_products_have_the_names_of_the_model(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(4, 8, 1)
            self.encoder = nn.ModuleDict({"rnn": nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)})
            self.own = cr.Recurrent(MGU, 12, 6, batch_first=True, hidden_weight=LowRank(rank=2))
            self.mix = nn.Parameter(torch.randn(6, 5))
            self.head = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.ReLU())

        def forward(self, x):
            y = self.encoder["rnn"](self.conv(x.transpose(1, 2)).transpose(1, 2))[0]
            return self.head(self.own(y)[0] @ self.mix)

    names = [row["name"] for row in inventory(lower(Model(), torch.randn(1, 9, 4))) if "affine" in row["operation"]]
    lstm = [f"encoder.rnn.weight_ih_l{i}{direction}" for i in (0, 1) for direction in ("", "_reverse")]
    cell = ["input", *(f"{part}.factor{i}" for part in ("forget", "candidate") for i in (1, 0))]
    assert names == ["conv", *lstm, *(f"own.cells.0.0.{part}" for part in cell), "mix", "head.0"]
    bare = lower(nn.GRU(4, 8), torch.randn(9, 1, 4))
    assert [op.name for op in bare.ops if op.tensor is not None] == ["weight_ih_l0", "weight_hh_l0"]
    assert [op.name for op in read(write(bare)).ops] == [op.name for op in remove_dead_code(bare).ops]


def test_the_measure_of_a_difference():
    def error(wanted, got):
        return compare([[np.array(w) for w in wanted]], [[np.array(g) for g in got]]).error

    nan, inf = np.nan, np.inf
    assert error([[3.0, 4.0]], [[3.0, 4.0]]) == 0
    assert error([[3.0, 4.0]], [[3.0, 4.5]]) == pytest.approx(0.1)
    assert error([[3.0, 4.0], [1.0]], [[3.0, 4.0], [2.0]]) == 1  # of several outputs the worst
    assert error([[1.0, -inf, nan]], [[1.0, -inf, nan]]) == 0
    for wanted, got in (([1.0, nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, nan]), ([inf, 1.0], [-inf, 1.0])):
        assert error([wanted], [got]) == inf
    assert compare([[np.zeros(3)]], [[np.zeros(3)]]).cosine == 1
    assert compare([], []).error == 0


def test_the_hardest_sequences_are_measured():
    wanted = [[np.ones(4)] for _ in range(4)]
    got = [[np.ones(4) + change] for change in (0.1, 0.5, 0.0, 0.3)]
    inputs = [np.full((steps, 1), i) for i, steps in enumerate((10, 20, 10, 5))]
    program, difference = Program(inputs=[Input("x", 0, (1,))]), compare(wanted, got)
    for steps, chosen in ((1, [1]), (24, [1]), (25, [1, 3]), (100, [1, 3, 0, 2])):
        assert [int(x[0, 0]) for x in Measure(inputs, wanted).hardest(program, difference, steps).inputs] == chosen


def test_names_in_a_file_are_checked():
    program = lower(nn.GRU(4, 8), torch.randn(9, 1, 4))
    data = write(program)
    at = data.index(b'"operations":{"0":')
    assert replace(read(data).ops[0], name="").name == "" and read(data).ops[0].name == "weight_ih_l0"
    assert data[at:].startswith(b'"operations":{"0":"weight_ih_l0"')


def budget_model():
    torch.manual_seed(0)
    return Tagger(nn.LSTM(24, 64, 2, batch_first=True), 64), torch.randn(2, 40, 24)


def packed_size(tmp_path, weights, **options):
    model, x = budget_model()
    path = tmp_path / "model.crnn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        report = cr.pack(model, path, x, weights=weights, calibration=[x], **options)
    assert report.bytes == path.stat().st_size
    return report


def test_a_file_keeps_a_number_of_bytes_with_as_little_int4_as_that_takes(tmp_path):
    int8, int4 = packed_size(tmp_path, "int8"), packed_size(tmp_path, "int4")
    sizes, errors = [], []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        most = round(int4.bytes + share * (int8.bytes - int4.bytes)) + 600  # the notes of mixed types are longer
        report = packed_size(tmp_path, "auto", max_bytes=most)
        assert report.bytes <= most
        sizes.append(report.bytes)
        errors.append(report.error)
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True) and len(set(sizes)) == 5
    assert set(report.types.values()) == {"int8"}


def test_of_two_matrices_the_one_that_costs_less_becomes_int4(tmp_path):
    torch.manual_seed(0)
    model, x = Tagger(nn.LSTM(64, 64, batch_first=True), 64), torch.randn(4, 60, 64)
    with torch.no_grad():
        model.rnn.weight_ih_l0 *= 1e-3
    whole = cr.pack(model, tmp_path / "whole.crnn", x, weights="int8", calibration=[x]).bytes
    report = cr.pack(model, tmp_path / "model.crnn", x, weights="auto", calibration=[x], max_bytes=whole - 4000)
    assert report.types == {"rnn.weight_ih_l0": "int4", "rnn.weight_hh_l0": "int8", "fc": "int8"}


@pytest.mark.parametrize(
    ("weights", "most", "message"),
    [
        (
            "auto",
            2000,
            r"max_bytes: expected at least [\d,]+, the size of the smallest file with these types, .* make the model",
        ),
        ("int8", 2000, r"max_bytes: expected at least [\d,]+, .* weights='auto' lets matrices become int4"),
        ("auto", 0, "max_bytes: expected a positive int, got 0"),
        ("auto", 1e5, "max_bytes: expected a positive int, got 100000.0"),
    ],
)
def test_a_number_of_bytes_that_cannot_be_kept_is_refused(tmp_path, weights, most, message):
    with pytest.raises(ValueError, match=message):
        packed_size(tmp_path, weights, max_bytes=most)
    assert not (tmp_path / "model.crnn").exists()


def test_the_size_that_a_refusal_names_is_the_least(tmp_path):
    with pytest.raises(ValueError) as refused:
        packed_size(tmp_path, "auto", max_bytes=2000)
    least = int(re.search(r"at least ([\d,]+)", str(refused.value))[1].replace(",", ""))
    assert packed_size(tmp_path, "auto", max_bytes=least).bytes == least
    with pytest.raises(ValueError, match=f"at least {least:,}"):
        packed_size(tmp_path, "auto", max_bytes=least - 1)


def test_a_file_that_is_small_enough_is_not_changed(tmp_path):
    free, bounded = packed_size(tmp_path, "int8"), packed_size(tmp_path, "int8", max_bytes=10**9)
    assert replace(free, bytes=0) == replace(bounded, bytes=0) and free.bytes == bounded.bytes
