"""Files of a user's own sequences: what is read, and what is refused where."""

import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn.data.series import Layout, find_file, read_series, read_table
from compactrnn.data.series_csv import read_csv
from compactrnn.data.series_inspect import inspect_table
from compactrnn.data.series_npz import read_npz
from compactrnn.data.series_ts import read_ts

numbers = st.floats(allow_nan=True, allow_infinity=False, width=32)


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def written(number):
    return "NA" if math.isnan(number) else repr(number)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8), st.sampled_from(",;\t"), st.booleans())
def test_a_csv_file_gives_the_numbers_that_were_written(tmp_path_factory, rows, delimiter, packed):
    path = tmp_path_factory.mktemp("csv") / ("a.csv.gz" if packed else "a.csv")
    text = f"a{delimiter}b\n" + "".join(f"{written(a)}{delimiter}{written(b)}\n" for a, b in rows)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    table = read_csv(path)
    assert same(table.numbers("a"), [a for a, _ in rows]) and same(table.numbers("b"), [b for _, b in rows])


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(shapes, st.integers(1, 3), st.integers(0, 2**32 - 1), st.booleans())
def test_a_ts_file_gives_the_sequences_that_were_written(tmp_path_factory, lengths, channels, seed, labeled):
    random = np.random.default_rng(seed)
    sequences = [random.standard_normal((channels, steps)) for steps in lengths]
    sequences[0][0, 0] = np.nan
    lines = ["# a comment", "@problemName made up", f"@classLabel {'true one two' if labeled else 'false'}", "@data"]
    for number, values in enumerate(sequences):
        fields = [",".join("?" if math.isnan(v) else repr(float(v)) for v in channel) for channel in values]
        lines.append(":".join([*fields, *(["one" if number % 2 else "two"] if labeled else [])]))
    path = tmp_path_factory.mktemp("ts") / "a.ts"
    path.write_text("\n".join(lines))
    table = read_ts(path)
    assert table.offsets.tolist() == [0, *np.cumsum(lengths)]
    for channel in range(channels):
        assert same(table.numbers(f"x{channel + 1}"), np.concatenate([s[channel] for s in sequences]))
    wanted = ["one" if number % 2 else "two" for number in range(len(lengths))]
    assert dict(table.attributes) == ({"label": wanted} if labeled else {})


@settings(deadline=None, max_examples=30)
@given(shapes, st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from(["lengths", "len", "offsets"]))
def test_an_archive_gives_the_sequences_that_were_written(tmp_path_factory, lengths, channels, seed, name):
    values = np.random.default_rng(seed).standard_normal((sum(lengths), channels)).astype(np.float32)
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    given_lengths = np.cumsum([0, *lengths]) if name == "offsets" else np.array(lengths)
    labels = np.arange(len(lengths))
    np.savez(path, **{"part/x": values, f"part/{name}": given_lengths, "part/y": labels, "other/x": values[:1]})
    table = read_npz(f"{path}/part")
    assert table.offsets.tolist() == [0, *np.cumsum(lengths)] and table.texts("y") == [str(n) for n in labels]
    assert same(np.stack([table.numbers(f"x{n + 1}") for n in range(channels)], 1), values)


def test_archives_of_other_shapes(tmp_path):
    x = np.arange(24.0).reshape(2, 4, 3)
    np.savez(tmp_path / "cube.npz", X=x, y=["a", "b"], channels=["p", "q", "r"])
    cube = read_npz(tmp_path / "cube.npz")
    assert cube.offsets.tolist() == [0, 4, 8] and cube.numbers("q").tolist() == x[..., 1].ravel().tolist()
    np.savez(tmp_path / "rows.npz", x=x[:, :, 0], y=[1, 2])
    rows = read_npz(tmp_path / "rows.npz")
    assert rows.offsets.tolist() == [0, 4, 8] and rows.numbers("x1").tolist() == x[:, :, 0].ravel().tolist()
    np.savez(tmp_path / "one.npz", x=x[0])
    assert read_npz(tmp_path / "one.npz").offsets.tolist() == [0, 4]


CSV = "day,x,y,wind,id\n" + "".join(f"2020-01-0{n},{n}.5,{n},{'NS'[n % 2]},{(n - 1) // 2}\n" for n in range(1, 7))
LAYOUT = Layout(("x", "wind"), categories={"wind": ()})

BROKEN = [
    (CSV.replace("3.5", "3,5"), r"line 4: expected 5, got 6 fields; fields are separated by ','"),
    (CSV.replace(",4,N,1", ",4,N"), r"line 5: expected 5, got 4 fields"),
    (CSV.replace("3.5", "3.5.1"), r"line 4, x: expected a number, or nothing for a missing value, got '3.5.1'"),
    (CSV.replace("3.5", "1e39"), r"line 4, x: expected a number that float32 can hold, got 1e\+39"),
    (CSV.replace("3.5", "-inf"), r"line 4, x: .*got -inf"),
    (CSV.replace("3.5", "1_0"), r"line 4, x: .*got '1_0'"),
    (
        CSV.replace("3.5", ""),
        r"line 4, x: expected a value, got a missing value, the first of 1; name x in task.missing",
    ),
    (CSV.replace("3.5", '"3.5'), r"line 7: expected comma-separated values"),
    (CSV.replace("day,x", "x,x"), r"line 1: expected a name for each column, once, got 'x' in column 1"),
    (CSV.replace("day,x", ",x"), r"line 1: expected a name for each column"),
    (
        CSV.split("\n", 1)[1].replace("2020-01-0", "").replace("N", "0").replace("S", "1"),
        r"line 1: expected names of col",
    ),
    ("day,x,y,wind,id\n", r"expected a line with the names of the columns, and rows, got no row"),
    ("", r"got no row"),
    (CSV.replace("x,y", "z,y"), r"column: expected one of day, z, y, wind, id, got 'x'"),
]


@pytest.mark.parametrize("text, words", BROKEN)
def test_a_broken_csv_file_is_refused_by_line_and_column(tmp_path, text, words):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_series(str(path), LAYOUT)


TS = "@univariate false\n@classLabel true a b\n@data\n1,2:3,4:a\n5:6:b\n"


@pytest.mark.parametrize(
    "text, words",
    [
        (TS.replace("3,4", "3"), r"line 4: expected channels of equal length in a sequence, got channels of 1 to 2"),
        (TS.replace("5:6", "5:six"), r"line 5, x2, step 1: expected a number, or \? for a missing value, got 'six'"),
        (TS.replace("5:6:b", "5:6:c"), r"line 5, label: expected one of the 2 classes of @classLabel, got 'c'"),
        (
            TS.replace("5:6:b", "5:b"),
            r"line 5: expected 2 channels? ?as in line 4, got 1 channels|line 5: expected 2 as",
        ),
        (TS.replace("@univariate false", "@timeStamps true"), r"line 1: expected @timeStamps false"),
        (TS.replace("@univariate false", "@univariate maybe"), r"line 1: expected @univariate true or false"),
        (TS.replace("@univariate", "univariate"), r"line 1: expected @data before the first sequence"),
        (TS.replace("true a b", "true"), r"@classLabel: expected the classes after true, got no class"),
        (TS.partition("1,2")[0], r"expected sequences after @data, got no sequence"),
        ("@univariate true\n", r"got no @data"),
    ],
)
def test_a_broken_ts_file_is_refused_by_line(tmp_path, text, words):
    path = tmp_path / "a.ts"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_ts(path)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"z": np.zeros(3)}, r"expected one of x, X, data, values, got arrays z"),
        ({"x": np.array(["a"])}, r"x: expected numbers of one to three axes"),
        ({"x": np.zeros((4, 1)), "lengths": [2, 3]}, r"lengths: expected sequences of at least one step, 4 in all"),
        ({"x": np.zeros((4, 1)), "lengths": [4, 0]}, r"lengths: expected sequences of at least one step"),
        ({"x": np.zeros((4, 1)), "lengths": [2.0, 2.0]}, r"lengths: expected whole numbers"),
        ({"x": np.zeros((4, 1)), "offsets": [1, 4]}, r"offsets: expected sequences"),
        ({"x": np.array([{}], object)}, r"an \.npz file of plain arrays"),
    ],
)
def test_a_broken_archive_is_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no array there"):
        read_npz(tmp_path / "a.npz/elsewhere")


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 nonsense")
    with pytest.raises(ValueError, match=r"NumPy archive: expected an \.npz file of plain arrays"):
        read_npz(tmp_path / "a.npz")


def test_files_are_found_here_or_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    (tmp_path / "a.csv").write_text(CSV)
    assert read_table("a.csv").steps == 6
    with pytest.raises(ValueError, match=r"got b\.csv, which is neither here nor in .*COMPACTRNN_DATA"):
        find_file("b.csv")
    with pytest.raises(ValueError, match="a folder or device"):
        find_file(str(tmp_path))
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"expected a file of one of these: \.csv"):
        read_table("a.xlsx")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    return str(tmp_path / "a.csv")


def test_a_layout_says_what_each_column_is(path):
    layout = Layout(
        ("x", "wind"), ("y",), every_step=True, sequence="id", group="id", time=("day",), categories={"wind": ()}
    )
    series = read_series(path, layout)
    assert series.values.tolist() == [[n + 0.5, n % 2] for n in range(1, 7)] and series.categories == {
        "wind": ("N", "S")
    }
    assert series.offsets.tolist() == [0, 2, 4, 6] and series.groups.tolist() == ["0", "1", "2"]
    assert series.targets.tolist() == [[n] for n in range(1, 7)] and series.places[1] == f"{path}, line 4"
    backwards = read_series(path, Layout(("wind",), categories={"wind": ("S", "N")}))
    assert backwards.values[:2, 0].tolist() == [0.0, 1.0], "words keep the numbers that a model was trained with"
    short = read_series(path, Layout(("x",), rows=3, sequence="id"))
    assert short.offsets.tolist() == [0, 2, 3] and len(short.values) == 3


@pytest.mark.parametrize(
    "layout, words",
    [
        (
            Layout(("x",), ("y",), labels=True, sequence="id"),
            r"line 3, y: expected one value a sequence, got '2', after '1'",
        ),
        (Layout(("x",), sequence="wind"), r"line 4, wind: expected the steps of a sequence one after the other"),
        (
            Layout(("wind",), categories={"wind": ("N",)}),
            r"line 2, wind: expected one of the words trained on: N, got 'S'",
        ),
        (Layout(("x",), categories={"wind": ()}), r"task\.categories, task\.missing: expected one of the channels: x"),
        (Layout(("x",), time=("x", "y")), r"task\.time: expected one column, or the first of year, month"),
        (Layout(("x",), time=("wind",)), r"line 2, wind: expected a date and time such as 2016"),
        (Layout(()), r"task\.channels: expected some of day, x"),
    ],
)
def test_what_does_not_fit_the_layout_is_refused(path, layout, words):
    with pytest.raises(ValueError, match=words):
        read_series(path, layout)


def test_gaps_in_time_and_steps_out_of_order(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(CSV.replace("2020-01-05", "2020-01-07").replace("2020-01-06", "2020-01-08"))
    assert read_series(str(path), Layout(("x",), time=("day",))).breaks.tolist() == [4]
    path.write_text(CSV.replace("2020-01-05", "2020-01-03"))
    with pytest.raises(ValueError, match=r"line 6, day: expected a later one, got a time not after the one before it"):
        read_series(str(path), Layout(("x",), time=("day",)))
    months = "".join(f"{2000 + n // 12},{n % 12 + 1},{n}\n" for n in range(30))
    path.write_text("year,month,x\n" + months)
    assert not len(read_series(str(path), Layout(("x",), time=("year", "month"))).breaks), "months differ in length"
    path.write_text("year,month,x\n" + months.replace("2001,2,", "2001,13,"))
    with pytest.raises(ValueError, match=r"line 15, month: expected a time, got \[2001\.0, 13\.0\]"):
        read_series(str(path), Layout(("x",), time=("year", "month")))


def test_columns_are_told_apart(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(CSV + "2020-01-07,NA,7,N,3\n")
    found = inspect_table(read_csv(path))
    assert {c.name: (c.role, c.missing) for c in found.columns} == {
        "day": ("time", 0),
        "x": ("number", 1),
        "y": ("counter", 0),
        "wind": ("category", 0),
        "id": ("number", 0),
    }
    path.write_text(CSV.replace("3.5", "3x5"))
    with pytest.raises(ValueError, match=r"line 4, x: expected a number, .*got '3x5'"):
        inspect_table(read_csv(path))
    assert inspect_table(read_csv(path), texts=["x"]).named("x").role == "category"
