import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from compactrnn.cli.app import app
from compactrnn.report.bench import FRAMEWORKS
from compactrnn.report.demo import demo_recipe, estimated_seconds, run_training
from compactrnn.report.demo import run as run_demo
from compactrnn.report.demo.models import SHIPPED
from compactrnn.report.demo.show import show

RECIPE = """
[task]
data = "alice"
[model]
embedding = 8
hidden = [16, 12]
[training]
batch_size = 16
steps = 16
evaluate_every = 15
validation_streams = 32
checkpoint_every = 10
threads = 1
[phases.train]
updates = 30
optimizer = { learning_rate = 1e-2, clip = 1.0 }
"""


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def call_json(*arguments):
    output = call(*arguments, "--json").stdout
    assert output.count("\n") == 1, "one line and nothing else"
    return json.loads(output)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    record = call_json("train", recipe, "--out", folder / "run", "--set", "training.seed=3")
    packed = call_json("pack", folder / "run", folder / "model.crnn")
    return folder, record, packed


def test_a_round_trip_from_recipe_to_engine(trained):
    folder, record, packed = trained
    assert record["seed"] == 3 and record["updates"]["total"] == 30
    in_torch = call_json("eval", folder / "run", "--data", "alice")
    assert in_torch["metric"] == "bits_per_character" and in_torch["value"] == record["test"]
    native = call_json("eval", folder / "model.crnn")
    assert native["symbols"] == 14831 and native["runs_on"] != "torch"
    assert native["value"] == pytest.approx(in_torch["value"], rel=0.01)
    assert packed["bytes"] == (folder / "model.crnn").stat().st_size


def test_eval_on_another_text_and_part(trained, tmp_path):
    folder, _, _ = trained
    text = tmp_path / "short.txt"
    text.write_text("Alice was beginning to get very tired. 0123456789\n" * 3)
    for model in (folder / "run", folder / "model.crnn"):
        assert call_json("eval", model, "--data", text, "--part", "train")["symbols"] == 120
    values = {part: call_json("eval", folder / "run", "--part", part)["value"] for part in ("valid", "test")}
    assert values["valid"] != values["test"]


def test_info_counts_what_is_there(trained):
    folder, record, packed = trained
    run = call_json("info", folder / "run")
    assert run["parameters"] == record["parameters"] == sum(layer["parameters"] for layer in run["layers"])
    file = call_json("info", folder / "model.crnn")
    assert file["bytes"] == packed["bytes"] and file["macs_per_step"] == sum(layer["MACs"] for layer in file["layers"])
    assert all(layer["name"] for layer in file["layers"]) and set(packed["types"]) == {
        layer["name"] for layer in file["layers"]
    }
    assert "affine" in call("info", folder / "model.crnn").stdout


def test_bench_of_a_file_and_of_a_run(trained):
    folder, _, _ = trained
    out = folder / "bench.json"
    call("bench", folder / "model.crnn", "--steps", "1,8", "--rounds", 3, "--json", out)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["entry"], row["steps"]) for row in rows] == [("engine", 1), ("engine", 8)]
    options = ("--against", "torch", "--weights", "int8", "--steps", "4", "--rounds", 3)
    call("bench", folder / "run", *options, "--json", out)
    rows = json.loads(out.read_text())["rows"]
    assert {row["entry"].split()[0] for row in rows} == {"engine", "torch"} and all(row["hot"] for row in rows)


def test_report_is_one_page(trained):
    folder, record, _ = trained
    call("report", folder / "run", "--out", folder / "report.html")
    page = (folder / "report.html").read_text()
    assert f"{record['test']:.3f}" in page and page.count("<svg") == 2 and "http" not in page.split("</style>")[0]
    assert "src=" not in page and "<link" not in page


def test_data_commands(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    record = call_json("data", "list")
    assert record["folder"] == str(tmp_path) and {"alice", "ptb"} <= {entry["name"] for entry in record["sets"]}
    assert call_json("data", "get", "alice") == {"name": "alice", "paths": []}
    assert "LDC99T42" in call("data", "get", "ptb", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "{folder}/missing.toml"), "missing.toml"),
        (("train", "{folder}/recipe.toml", "--out", "{folder}/new", "--set", "model.hiden=3"), "model.hiden"),
        (("train", "{folder}/recipe.toml", "--out", "{folder}/run"), "--resume"),
        (("train",), "recipe"),
        (("eval", "{folder}/model.crnn", "--data", "nowhere"), "expected alice, ptb"),
        (("eval", "{folder}/recipe.toml"), "recipe.toml"),
        (("eval", "{folder}"), "config.json"),
        (("pack", "{folder}/recipe.toml", "{folder}/x.crnn"), "expected a run folder"),
        (("pack", "{folder}/run", "{folder}/x.crnn", "--weights", "int3"), "int3"),
        (("pack", "{folder}/run", "{folder}/x.crnn", "--weights", "int8,nothing=float32"), "unknown name 'nothing'"),
        (("pack", "{folder}/run", "{folder}/x.crnn", "--weights", "int8,int4"), "int8,int4"),
        (("pack", "{folder}/run", "{folder}/x.crnn", "--weights", "auto", "--max-bytes", "900"), "expected at least"),
        (("bench", "{folder}/run", "--against", "tensorflow"), ", ".join(FRAMEWORKS)),
        (("bench", "{folder}/model.crnn", "--against", "torch"), "expected a run folder"),
        (("bench", "{folder}/model.crnn", "--steps", "1,x"), "whole numbers"),
        (("info", "{folder}/missing.crnn"), "missing.crnn"),
        (("report", "{folder}"), "expected a finished run"),
        (("fly",), "fly"),
    ],
)
def test_mistakes_end_in_a_sentence_and_code_2(trained, arguments, words):
    folder, _, _ = trained
    result = call(*(argument.format(folder=folder) for argument in arguments), code=2)
    assert words in " ".join(result.stderr.replace("│", " ").split()) and "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_damaged_file_is_a_sentence(trained, tmp_path):
    folder, _, _ = trained
    content = bytearray((folder / "model.crnn").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.crnn").write_bytes(content)
    for command in ("info", "eval", "bench"):
        assert "damaged.crnn" in call(command, tmp_path / "damaged.crnn", code=2).stderr


def test_help_teaches():
    assert "compactrnn train recipes/alice-tiny.toml" in call("--help").stdout
    for command in ("train", "sweep", "eval", "pack", "bench", "info", "report"):
        assert f"compactrnn {command}" in call(command, "--help").stdout.replace("\n", " ")


def test_divergence_is_code_1(trained, tmp_path):
    folder, _, _ = trained
    wild = "phases.train.optimizer={name='SGD', learning_rate=1e38}"
    result = call("train", folder / "recipe.toml", "--out", tmp_path / "run", "--set", wild, code=1)
    assert "lower the learning rate" in result.stderr


def run_python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_without_torch_info_and_bench_work_and_train_says_what_to_install(trained):
    folder, _, _ = trained
    code = "import sys; sys.modules['torch'] = None; from compactrnn.__main__ import main; main()"
    done = run_python(code, "info", str(folder / "model.crnn"), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["macs_per_step"] > 0
    done = run_python(code, "bench", str(folder / "model.crnn"), "--rounds", "3", "--json", "-")
    assert done.returncode == 0 and json.loads(done.stdout)["rows"]
    done = run_python(code, "train", str(folder / "recipe.toml"))
    assert done.returncode == 1 and "pip install 'compactrnn[torch]'" in done.stderr and "Traceback" not in done.stderr


def test_without_typer_the_command_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from compactrnn.__main__ import main; main()"
    done = run_python(code, "info")
    assert done.returncode == 1 and "pip install 'compactrnn[cli]'" in done.stderr and "Traceback" not in done.stderr


def start(command, handler):
    """A process that begins with SIGINT at its default, or ignored as in a background shell."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = signal.signal(signal.SIGINT, handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored(trained, tmp_path):
    folder, _, _ = trained
    out = tmp_path / "run"
    command = [sys.executable, "-m", "compactrnn", "train", str(folder / "recipe.toml"), "--out", str(out)]
    command += ["--set", "phases.train.updates=100000", "--set", "training.evaluate_every=1000"]
    process = start(command, signal.SIG_IGN)
    checkpoint = out / "checkpoint.safetensors"
    wait_until(checkpoint.exists, process)
    process.send_signal(signal.SIGINT)
    written = checkpoint.stat().st_mtime_ns
    wait_until(lambda: checkpoint.stat().st_mtime_ns > written, process)
    assert process.poll() is None, "it trains on"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in error


def wait_until(done, process):
    while not done() and process.poll() is None:
        time.sleep(0.01)


def test_ctrl_c_is_code_130_and_resume_finishes(trained, tmp_path):
    folder, _, _ = trained
    out = tmp_path / "run"
    command = [sys.executable, "-m", "compactrnn", "train", str(folder / "recipe.toml"), "--out", str(out)]
    command += ["--set", "phases.train.updates=100000", "--set", "training.evaluate_every=1000"]
    process = start(command, signal.default_int_handler)
    wait_until((out / "checkpoint.safetensors").exists, process)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in error and "Traceback" not in error and output == ""
    assert not (out / "result.json").exists()


def test_demo_with_the_models_of_the_package(tmp_path):
    """The models' evaluated quality and their file sizes are those of the model card."""
    report = run_demo(tmp_path, rounds=2)
    card = (SHIPPED / "CARD.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("| bits per character, test part, engine"))
    stated = dict(zip(("dense", "compact"), map(float, line.split("|")[2:4]), strict=True))
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["dense", "compact"] and rows["compact"]["hidden"] == [122, 122]
    for name, row in rows.items():
        assert row["engine_bits_per_character"] == pytest.approx(stated[name], abs=1e-3)
        assert row["bits_per_character"] == pytest.approx(stated[name], abs=2e-3)
        assert row["microseconds_per_step"]["torch"] > 0 and (tmp_path / f"{name}.crnn").stat().st_size == row["bytes"]
        assert hashlib.sha256((SHIPPED / f"{name}.safetensors").read_bytes()).hexdigest() in card
    assert report["sample"].startswith("Alice ") and "<svg" in (tmp_path / "quality.svg").read_text()
    assert rows["compact"]["recurrent_parameters"] < 0.25 * rows["dense"]["recurrent_parameters"]
    console = Console(record=True, width=150)
    show(report, console)
    text = console.export_text()
    assert "compact has 24.7% of the recurrent parameters" in text and "scratch" not in text


def test_demo_has_seeds_for_training_only(tmp_path):
    assert "--train" in call("demo", "--seed", 1, "--out", tmp_path / "new", code=2).stderr
    assert not (tmp_path / "new").exists()


def test_demo_trains_with_a_small_recipe(tmp_path):
    out = tmp_path / "demo"
    settings = ["model.hidden=[24, 24]", "model.embedding=8", "training.evaluate_every=20", "training.threads=1"]
    settings += ["training.precision=32-true", "training.checkpoint_every=10", "training.validation_streams=64"]
    phases = {"train": 40, "compress": 30, "tune": 30}
    own = [f"phases.{name}.updates={updates}" for name, updates in phases.items()] + [
        "phases.compress.compress.steps=25"
    ]
    recipe = demo_recipe("compact", [*settings, *own])
    scratch = demo_recipe("from_scratch", settings)
    assert estimated_seconds(recipe, scratch) > 0
    report = run_training(out, recipe, scratch, rounds=2)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["dense", "compact", "from_scratch"]
    assert rows["compact"]["updates"] == rows["from_scratch"]["updates"] == 100 and rows["dense"]["updates"] == 40
    assert rows["compact"]["hidden"] == rows["from_scratch"]["hidden"] != [24, 24]
    assert rows["compact"]["recurrent_parameters"] == rows["from_scratch"]["recurrent_parameters"]
    for name, row in rows.items():
        assert row["bytes"] == (out / f"{name}.crnn").stat().st_size
        assert row["engine_bits_per_character"] == pytest.approx(row["bits_per_character"], rel=0.01)
        evaluated = call_json("eval", out / f"{name}.crnn", "--data", "alice")
        assert evaluated["value"] == row["engine_bits_per_character"]
        assert {"engine", "torch"} <= set(row["microseconds_per_step"])
    assert json.loads((out / "report.json").read_text()) == report
    assert "<svg" in (out / "quality.svg").read_text() and report["sample"].startswith("Alice ")
    console = Console(record=True, width=150)
    show(report, console)
    assert "from scratch" in console.export_text()
    trained = (out / "runs" / "compact" / "model.safetensors").stat().st_mtime_ns
    assert (
        run_training(out, recipe, scratch, rounds=2)["rows"][1]["bits_per_character"]
        == rows["compact"]["bits_per_character"]
    )
    assert (out / "runs" / "compact" / "model.safetensors").stat().st_mtime_ns == trained, "nothing is trained twice"
