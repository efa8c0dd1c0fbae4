"""Wrong values, damaged folders and hostile files: one-sentence errors, exit code 2 (or 1), no files left behind."""

import json
import os
import struct

import pytest
import safetensors.torch
import torch

import compactrnn
from compactrnn import ModelFileError
from compactrnn._checkpoint import load_tree, save_tree
from compactrnn.runtime import file as model_file
from run_folders import RECIPE, change_json, copy_run, invoke, make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("errors"))


def refused(*arguments, words, code=2):
    """The one-sentence error of the command."""
    result = invoke(*arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == code, (result.output, result.exception)
    assert len(lines) == 1 and lines[0].startswith("compactrnn: ") and lines[0].isprintable(), result.stderr
    assert "internal error" not in lines[0] and words in lines[0] and not result.stdout, (words, result.output)
    return lines[0]


SETTINGS = [
    ("training.batch_size=0", "training.batch_size"),
    ("training.batch_size=1.5", "training.batch_size"),
    ("training.batch_size=true", "training.batch_size"),
    ("training.batch_size=100000000", "batch_size * steps"),
    ("training.steps=0", "training.steps"),
    ("training.steps=-3", "training.steps"),
    ("training.checkpoint_every=0", "training.checkpoint_every"),
    ("training.checkpoint_every=-1", "training.checkpoint_every"),
    ("training.evaluate_every=0", "training.evaluate_every"),
    ("training.validation_streams=0", "training.validation_streams"),
    ("training.validation_streams=10000000", "valid part"),
    ("training.threads=0", "training.threads"),
    ("training.threads=-1", "training.threads"),
    ("training.threads=100000", "training.threads"),
    ("training.seed=-1", "training.seed"),
    ("training.seed=100000000000000000000", "training.seed"),
    ("training.max_seconds=-1", "training.max_seconds"),
    ("training.max_seconds=nan", "training.max_seconds"),
    ("training.max_cpu_seconds=0", "training.max_cpu_seconds"),
    ('training.accelerator="cuda"', "training.accelerator"),
    ('training.accelerator="mps"', "training.accelerator"),
    ('training.accelerator="tpu"', "training.accelerator"),
    ("training.precision=64", "training.precision"),
    ("training.loss_reduction=max", "training.loss_reduction"),
    ("model.embedding=-1", "model.embedding"),
    ("model.embedding=0", "model.embedding"),
    ("model.embedding=1000000000", "model.embedding"),
    ("model.embedding=16000000", "of memory"),
    ("model.hidden=[1000000000]", "model.hidden"),
    ("model.hidden=[4000000]", "of memory"),
    ("model.hidden=[]", "model.hidden"),
    ("model.hidden=[0]", "model.hidden"),
    ("model.hidden=5", "model.hidden"),
    ("model.hidden=['x']", "model.hidden"),
    ("model.dropout=nan", "model.dropout"),
    ("model.dropout=1.5", "model.dropout"),
    ("model.dropout=-0.1", "model.dropout"),
    ("model.output_dropout=inf", "model.output_dropout"),
    ("model.init=nan", "model.init"),
    ("model.init=-1", "model.init"),
    ("model.cell=Elephant", "model.cell"),
    ("model.tie=true", "model.tie"),
    ("model.hidden_weight={kind='LowRank', rank=0}", "rank"),
    ("model.hidden_weight={kind='LowRank', rank='x'}", "rank"),
    ("model.hidden_weight={kind='WeightSpec'}", "kind"),
    ("model.hidden_weight={kind=[1]}", "model.hidden_weight"),
    ("model.hidden_weight={rank=1979-05-27}", "model.hidden_weight"),
    ("phases.train.updates=0", "phases.train.updates"),
    ("phases.train.updates=-1", "phases.train.updates"),
    ("phases.train.updates=1e3", "phases.train.updates"),
    ("phases.train.epochs=3", "give either updates or epochs"),
    ("phases.train.patience=-1", "phases.train.patience"),
    ("phases.train.target=nan", "phases.train.target"),
    ("phases.train.average=nan", "phases.train.average"),
    ("phases.train.average=2.0", "phases.train.average"),
    ("phases.train.model.dropout=2", "phases.train.model: dropout"),
    ("phases.train.task.level=5", "level"),
    ("phases.train.task.minimum_count=0", "minimum_count"),
    ("phases.train.optimizer.clip=nan", "optimizer.clip"),
    ("phases.train.optimizer.clip=-1.0", "optimizer.clip"),
    ("phases.train.optimizer.clip=0", "optimizer.clip"),
    ("phases.train.optimizer.clip_value=nan", "optimizer.clip_value"),
    ("phases.train.optimizer.clip_value=-1.0", "optimizer.clip_value"),
    ("phases.train.optimizer.learning_rate=inf", "optimizer.learning_rate"),
    ("phases.train.optimizer.learning_rate=1e300", "optimizer.learning_rate"),
    ("phases.train.optimizer.clip_value=1e300", "optimizer.clip_value"),
    ("phases.train.optimizer.learning_rate=-1", "optimizer.learning_rate"),
    ("phases.train.optimizer.learning_rate='fast'", "optimizer.learning_rate"),
    ("phases.train.optimizer.momentum=-1", "optimizer.momentum"),
    ("phases.train.optimizer.weight_decay=nan", "optimizer.weight_decay"),
    ("phases.train.optimizer.betas=[0.9, 1.0]", "optimizer.betas"),
    ("phases.train.optimizer.betas=[0.9]", "optimizer.betas"),
    ("phases.train.schedule.warmup=-1", "schedule.warmup"),
    ("phases.train.schedule.factor=0", "schedule.factor"),
    ("phases.train.schedule.final=nan", "schedule.final"),
    ("phases.train.compress.keep=0", "compress.keep"),
    ("phases.train.compress={keep=0.5}", "keep and steps"),
    ("phases.train.compress={keep=0.5, steps=21}", "at most the 20 updates"),
    ("phases.train.compress={strength=nan}", "compress.strength"),
    ("phases.train.compress={keep=0.5, strength=1.0, steps=3}", "keep and steps"),
    ("phases.train.distill={teacher='train'}", "teacher"),
    ("phases.train.distill={teacher='../x'}", "teacher"),
    ("phases.train=5", "phases.train"),
    ("phases={}", "phases"),
    ("task.data=''", "data"),
    ("task.data=/dev/zero", "a device"),
    ("task.data=/", "a folder"),
    ("task.data='a\\u0000b'", "data"),
    ("task.level=line", "task.level"),
    ("task.minimum_count=0", "task.minimum_count"),
    ("task.name=[1]", "task.name"),
    ("task.name=chess", "task.name"),
    ("nothing=1", "nothing"),
    ("=1", "--set"),
    ("training", "--set"),
    ("training.batch_size.x=1", "--set"),
]


@pytest.mark.parametrize(("setting", "words"), SETTINGS)
def test_settings_out_of_bounds(made, tmp_path, setting, words):
    refused("train", made / "recipe.toml", "--out", tmp_path / "deep" / "out", "--set", setting, words=words)
    assert not list(tmp_path.iterdir()), "a start that fails leaves no folder"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../up", "phases"),
        ("a/b", "phases"),
        ("", "phases"),
        ("a b", "phases"),
        ("[red]", "phases"),
        ("nul", "reserved"),
        ("total", "reserved"),
        ("x" * 65, "phases"),
        (".hidden", "phases"),
        ("Train", "differ in more than case"),
    ],
)
def test_names_of_phases(made, tmp_path, name, words):
    (tmp_path / "r.toml").write_text(RECIPE + f"\n[phases.{json.dumps(name)}]\nupdates = 5\n")
    refused("train", tmp_path / "r.toml", "--out", tmp_path / "out", words=words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words", "code"),
    [
        (["optimizer={name='SGD', learning_rate=1e38}"], "lower the learning rate", 1),
        (["optimizer={name='SGD', learning_rate=1e38, clip=1.0}"], "lower the learning rate", 1),
        (["optimizer={name='AdamW', learning_rate=1e38, clip=1.0}", "updates=1"], "lower the learning rate", 1),
        (["optimizer={weight_decay=1e38}"], "lower the learning rate", 1),
        (["compress={strength=1e38}"], "lower the learning rate", 1),
    ],
)
def test_divergence_is_named_and_claims_no_folder(made, tmp_path, settings, words, code):
    options = [text for setting in settings for text in ("--set", f"phases.train.{setting}")]
    refused_diverging("train", made / "recipe.toml", "--out", tmp_path / "out", *options, words=words, code=code)
    assert not (tmp_path / "out").exists()


def refused_diverging(*arguments, words, code):
    """As `refused`, after the progress bar of a training that had begun."""
    result = invoke(*arguments)
    last = result.stderr.splitlines()[-1]
    assert result.exit_code == code and last.startswith("compactrnn: ") and words in last, result.output
    assert "Traceback" not in result.output and "internal error" not in last


RECIPES = [
    (b"[phases.train]\nupdates = = 3", "TOML"),
    (b"\xff\xfe", "TOML"),
    (b"x = " + b"[" * 100_000, "TOML"),
    (b"x = 1\n" * 10, "TOML"),
    (b"# long\n" * 200_000, "at most"),
    (b"", "phases"),
    (b"task = 5\n[phases.train]\nupdates = 1", "task"),
    (b"phases = 5", "phases"),
    (b"training = [1]\n[phases.train]\nupdates = 1", "training"),
]


@pytest.mark.parametrize(("content", "words"), RECIPES)
def test_recipes_that_are_none(tmp_path, content, words):
    (tmp_path / "r.toml").write_bytes(content)
    refused("train", tmp_path / "r.toml", "--out", tmp_path / "out", words=words)
    assert not (tmp_path / "out").exists()


def with_key(*path, value):
    """A change of JSON: the entry at `path` becomes `value`."""

    def change(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return content

    return change


def without(*path):
    def change(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return content

    return change


CONFIGS = {
    "list": (lambda _: [], "config.json"),
    "number": (lambda _: 5, "config.json"),
    "null": (lambda _: None, "config.json"),
    "empty": (lambda _: {}, "recipe"),
    "recipe 5": (with_key("recipe", value=5), "recipe"),
    "recipe empty": (with_key("recipe", value={}), "phases"),
    "recipe key": (with_key("recipe", "training", "batch_size", value="x"), "training.batch_size"),
    "model 5": (with_key("model", value=5), "model"),
    "model key": (with_key("model", value={"hiden": [3]}), "hiden"),
    "hidden number": (with_key("model", "hidden", value=5), "hidden"),
    "hidden text": (with_key("model", "hidden", value=["x"]), "hidden"),
    "hidden 17": (with_key("model", "hidden", value=[17]), "model.safetensors"),
    "hidden huge": (with_key("model", "hidden", value=[1000000000]), "hidden"),
    "hidden large": (with_key("model", "hidden", value=[4000000]), "of memory"),
    "cell": (with_key("model", "cell", value="GRU"), "model.safetensors"),
    "cell 5": (with_key("model", "cell", value=5), "cell"),
    "no vocabulary": (without("vocabulary"), "vocabulary"),
    "vocabulary number": (with_key("vocabulary", value=5), "vocabulary"),
    "vocabulary lists": (with_key("vocabulary", value=[[i] for i in range(69)]), "vocabulary"),
    "vocabulary twice": (with_key("vocabulary", value=["a", "a", "\ufffd"]), "vocabulary"),
    "no task": (without("task"), "task"),
    "task text": (with_key("task", value="x"), "task"),
}


@pytest.mark.parametrize("command", ["eval", "pack", "bench"])
@pytest.mark.parametrize("name", CONFIGS)
def test_damaged_config(made, tmp_path, command, name):
    change, words = CONFIGS[name]
    run = copy_run(made, tmp_path / "run")
    change_json(run / "config.json", change)
    more = {"eval": (), "pack": (tmp_path / "x.crnn",), "bench": ("--rounds", 3, "--against", "", "--steps", 1)}
    if command == "bench":  # draws a bar before
        refused_diverging("bench", run, *more[command], words=words, code=2)
    else:
        refused(command, run, *more[command], words=words)
    assert not (tmp_path / "x.crnn").exists()


@pytest.mark.parametrize("name", ["list", "number", "null", "empty", "recipe 5", "recipe empty", "no task"])
@pytest.mark.parametrize("command", ["info", "train"])
def test_damaged_config_elsewhere(made, tmp_path, command, name):
    change, words = CONFIGS[name]
    run = copy_run(made, tmp_path / "run")
    change_json(run / "config.json", change)
    if command == "train":
        refused("train", made / "recipe.toml", "--out", run, "--resume", words=words)
    elif name not in ("recipe 5", "recipe empty"):  # info shows what it needs
        refused("info", run, words=words)


def test_what_is_packed_is_not_replaced(made, tmp_path):
    run = copy_run(made, tmp_path / "run")
    weights = run / "model.safetensors"
    before = weights.read_bytes()
    refused("pack", run, weights, words="model.safetensors, a file of the run")
    assert weights.read_bytes() == before


JSON_TEXTS = {
    "deep": b"[" * 200_000,
    "closed deep": b"[" * 200_000 + b"]" * 200_000,
    "not JSON": b"{",
    "not UTF-8": b"\xff\xff",
    "empty": b"",
    "NaN": b'{"a": NaN}',
    "many values": b"[" + b"0," * 600_000 + b"0]",
    "many bytes": b'"' + b"x" * (9 << 20) + b'"',
}


@pytest.mark.parametrize("text", JSON_TEXTS)
@pytest.mark.parametrize(
    ("name", "command"), [("config.json", "eval"), ("config.json", "train"), ("result.json", "report")]
)
def test_files_that_are_no_json(made, tmp_path, name, command, text):
    run = copy_run(made, tmp_path / "run")
    (run / name).write_bytes(JSON_TEXTS[text])
    more = {"eval": (run,), "train": (made / "recipe.toml", "--out", run, "--resume"), "report": (run,)}
    refused(command, *more[command], words=name)


RESULTS = {
    "list": lambda _: [],
    "empty": lambda _: {},
    **{f"without {key}": without(key) for key in ("metric", "seconds", "test", "updates", "recipe", "machine")},
    "test text": with_key("test", value="low"),
    "test null": with_key("test", value=None),
    "updates list": with_key("updates", value=[1]),
    "updates without total": with_key("updates", value={"train": 3}),
    "metric list": with_key("metric", value=["x"]),
    "parameters text": with_key("parameters", value="many"),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("command", ["report", "info", "train"])
def test_damaged_result(made, tmp_path, command, name):
    run = copy_run(made, tmp_path / "run")
    change_json(run / "result.json", RESULTS[name])
    more = {
        "report": (run, "--out", tmp_path / "r.html"),
        "info": (run,),
        "train": (made / "recipe.toml", "--out", run, "--resume"),
    }
    refused(command, *more[command], words="result.json")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    "line", ["{}", "[]", "5", '{"phase": "train"}', '{"phase": "train", "update": "x"}', "x", "[" * 100_000]
)
def test_damaged_metrics(made, tmp_path, line):
    run = copy_run(made, tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    refused("report", run, "--out", tmp_path / "r.html", words="metrics.jsonl")


def test_metrics_of_another_task(made, tmp_path):
    run = copy_run(made, tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"phase": "train", "update": 3, "valid_mse": 1.0}\n')
    refused("report", run, "--out", tmp_path / "r.html", words="valid_bits_per_character")


def rewrite_weights(change):
    def apply(run):
        weights = safetensors.torch.load_file(run / "model.safetensors")
        (run / "model.safetensors").write_bytes(safetensors.torch.save(change(weights)))

    return apply


def flip(path, at=-5):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


WEIGHTS = {
    "missing tensor": (rewrite_weights(lambda w: {k: v for k, v in w.items() if k != "output.bias"}), "output.bias"),
    "more tensors": (rewrite_weights(lambda w: {**w, "other": torch.ones(3)}), "other"),
    "another shape": (rewrite_weights(lambda w: {**w, "output.weight": w["output.weight"][:, :8].clone()}), "output"),
    "not a number": (rewrite_weights(lambda w: {**w, "output.bias": w["output.bias"] * float("nan")}), "not finite"),
    "a bit": (lambda run: flip(run / "model.safetensors"), "checksum"),
    "cut off": (lambda run: os.truncate(run / "model.safetensors", 200), "safetensors"),
    "empty": (lambda run: os.truncate(run / "model.safetensors", 0), "safetensors"),
    "long header": (
        lambda run: (run / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}"),
        "safetensors",
    ),
    "absent": (lambda run: (run / "model.safetensors").unlink(), "model.safetensors"),
    "a folder": (
        lambda run: ((run / "model.safetensors").unlink(), (run / "model.safetensors").mkdir()),
        "a folder",
    ),
    "a FIFO": (
        lambda run: ((run / "model.safetensors").unlink(), os.mkfifo(run / "model.safetensors")),
        "a FIFO",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_damaged_weights(made, tmp_path, name):
    run = copy_run(made, tmp_path / "run")
    WEIGHTS[name][0](run)
    for command in (("eval", run), ("pack", run, tmp_path / "x.crnn")):
        assert "model.safetensors" in refused(*command, words=WEIGHTS[name][1])


@pytest.fixture(scope="session")
def stopped(made, tmp_path_factory):
    """A run of two phases that was stopped in the second."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "two.toml").write_text(
        RECIPE + "average = 0.9\n[phases.second]\nupdates = 30\ndistill = { teacher = 'train' }\n"
    )
    assert invoke("train", folder / "two.toml", "--out", folder / "run").exit_code == 0
    run = folder / "run"
    (run / "result.json").unlink()
    return folder


def tree_with(*path, value):
    def change(tree):
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return tree

    return change


TREES = {
    "metadata 5": lambda _: 5,
    "metadata list": lambda _: [],
    "empty": lambda _: {},
    "no random": without("random"),
    "random 5": tree_with("random", value=5),
    "phase text": tree_with("phase", value="x"),
    "phase 99": tree_with("phase", value=99),
    "phase with neither": tree_with("model", value=None),
    "updates 5": tree_with("updates", value=5),
    "clock list": tree_with("clock", value=[]),
    "clock negative": tree_with("clock", value={"seconds": -1.0, "cpu_seconds": 1.0}),
    "model options": tree_with("model_options", value={"hidden": "x"}),
    "another size": tree_with("model_options", "hidden", value=[17]),
    "metrics too long": tree_with("metrics_size", value=10**6),
    "a model of texts": tree_with("model", value={"x": "y"}),
}


@pytest.mark.parametrize("name", TREES)
def test_damaged_checkpoint_with_a_right_checksum(stopped, tmp_path, name):
    run = tmp_path / "run"
    copy_run(stopped, run)
    before = load_tree(run / "checkpoint.safetensors")
    save_tree(run / "checkpoint.safetensors", TREES[name](before))
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    where = "metrics.jsonl" if name == "metrics too long" else "checkpoint.safetensors"
    refused("train", stopped / "two.toml", "--out", run, "--resume", words=where)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files, "nothing was changed"


@pytest.fixture(scope="session")
def within_a_phase(stopped, tmp_path_factory):
    """The tree of a checkpoint that was written in the middle of a phase."""
    from compactrnn.training.recipe import load_recipe
    from compactrnn.training.train import train
    from compactrnn.training.trainer import Trainer

    out = tmp_path_factory.mktemp("within") / "run"
    write, count = Trainer.checkpoint, []

    def stop(trainer, phase, run):
        write(trainer, phase, run)
        count.append(phase)
        if count.count(1) == 3:
            raise KeyboardInterrupt

    Trainer.checkpoint = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            train(load_recipe(stopped / "two.toml"), out)
    finally:
        Trainer.checkpoint = write
    return out


@pytest.mark.parametrize(
    "change",
    [
        tree_with("run", "optimizer", value={}),
        tree_with("run", "optimizer", value=5),
        tree_with("run", "model", value={}),
        tree_with("run", "model", value=None),
        tree_with("run", "update", value="x"),
        tree_with("run", "update", value=-4),
        tree_with("run", "rate", value=[]),
        tree_with("run", "best", value="x"),
        tree_with("run", "loss_sum", value=None),
        tree_with("run", "states", value=5),
        without("run", "teacher_states"),
        without("run", "best_weights"),
        tree_with("random", "torch", value=torch.zeros(3)),
        tree_with("random", "python", value=[]),
        tree_with("random", "numpy", value=None),
    ],
)
def test_damaged_state_of_a_phase(stopped, within_a_phase, tmp_path, change):
    run = tmp_path / "run"
    copy_run(within_a_phase.parent, run)
    save_tree(run / "checkpoint.safetensors", change(load_tree(run / "checkpoint.safetensors")))
    refused("train", stopped / "two.toml", "--out", run, "--resume", words="checkpoint.safetensors")


def test_checkpoints_carry_a_checksum(stopped, tmp_path):
    run = tmp_path / "run"
    copy_run(stopped, run)
    path = run / "checkpoint.safetensors"
    whole = path.read_bytes()
    for at in range(8, len(whole), max(1, len(whole) // 500)):
        path.write_bytes(whole)
        flip(path, at)
        with pytest.raises(ModelFileError, match="checkpoint"):
            load_tree(path)
    refused("train", stopped / "two.toml", "--out", run, "--resume", words="checkpoint.safetensors")
    tensors = safetensors.torch.load(whole)
    path.write_bytes(safetensors.torch.save(tensors, {"compactrnn": '{"dict": []}'}))  # as before checksums
    refused("train", stopped / "two.toml", "--out", run, "--resume", words="in a new folder")


def hostile(made, path, change):
    """The packed model with other metadata."""
    program = model_file.read((made / "model.crnn").read_bytes())
    program.metadata = change(dict(program.metadata))
    path.write_bytes(model_file.write(program))
    return path


def task_with(**entries):
    return lambda metadata: {**metadata, "task": {**metadata["task"], **entries}}


PACKED = {
    "level list": (task_with(level=[]), "level"),
    "level none": (task_with(level=None), "level"),
    "level line": (task_with(level="line"), "level"),
    "no task": (lambda m: {k: v for k, v in m.items() if k != "task"}, "task"),
    "task text": (lambda m: {**m, "task": "x"}, "task"),
    "task name list": (task_with(name=[]), "task"),
    "task name none": (task_with(name=None), "task"),
    "no vocabulary": (lambda m: {k: v for k, v in m.items() if k != "vocabulary"}, "vocabulary"),
    "vocabulary lists": (lambda m: {**m, "vocabulary": [[i] for i in range(69)]}, "vocabulary"),
    "vocabulary numbers": (lambda m: {**m, "vocabulary": list(range(69))}, "vocabulary"),
    "vocabulary short": (lambda m: {**m, "vocabulary": ["a", "\ufffd"]}, "one token of 2"),
    "vocabulary huge": (lambda m: {**m, "vocabulary": ["\ufffd", *map(str, range(100_000))]}, "one token"),
    "task adding": (lambda m: {**m, "task": {"name": "adding"}}, "model"),
    "task first symbol": (lambda m: {**m, "task": {"name": "first_symbol"}}, "model"),
    "adding, 10^9 steps": (lambda m: {**m, "task": {"name": "adding", "steps": 10**9}}, "steps"),
    "adding, steps text": (lambda m: {**m, "task": {"name": "adding", "steps": "x"}}, "steps"),
    "adding, other key": (lambda m: {**m, "task": {"name": "adding", "color": 3}}, "color"),
    "data /etc/passwd": (task_with(data="/etc/passwd"), "--data"),
    "data escape": (task_with(data="\x1b[2J"), "--data"),
    "data list": (task_with(data=["alice"]), "--data"),
    "data none": (task_with(data=None), "--data"),
    "data long": (task_with(data="x" * 1_000_000), "--data"),
}


@pytest.mark.parametrize("name", PACKED)
def test_metadata_of_a_packed_model(made, tmp_path, name):
    change, words = PACKED[name]
    said = refused("eval", hostile(made, tmp_path / "h.crnn", change), words=words)
    assert len(said) < 2100
    assert invoke("info", tmp_path / "h.crnn").exit_code == 0


def test_no_data_is_no_name(made):
    refused("eval", made / "model.crnn", "--data", "", words="data")
    refused("eval", made / "run", "--data", "", words="data")


def test_empty_names_of_models_are_refused():
    refused("run", ",,", "in.wav", "out.wav", words="MODEL: expected the path of a model file")


def test_a_file_of_another_origin_has_no_task_to_be_evaluated_on(made, tmp_path):
    refused("eval", hostile(made, tmp_path / "h.crnn", lambda metadata: {}), words="`compactrnn train` made")


def test_the_version_is_that_of_the_package():
    assert invoke("--version").stdout == f"compactrnn {compactrnn.__version__}\n"


ESCAPES = "\x1b]0;title of my choice\x07\x1b[2J\x9b31m\u202e[/b][red]:smile:"


def test_no_file_steers_the_terminal(made, tmp_path):
    hostile(made, tmp_path / "h.crnn", task_with(name=ESCAPES, data=ESCAPES))
    for command in ("info", "eval", "bench"):
        more = ("--rounds", 3, "--steps", 1, "--against", "") if command == "bench" else ()
        result = invoke(command, tmp_path / "h.crnn", *more)
        assert "\x1b]" not in result.output and "\x9b" not in result.output and "\u202e" not in result.output
        assert result.exit_code == (2 if command == "eval" else 0), (result.output, result.exception)
    assert "[/b][red]:smile:" in invoke("info", tmp_path / "h.crnn").stdout.replace("\n", ""), "no markup either"


@pytest.mark.parametrize("name", ["a[/b]c", "[red]", "$\\frac{$", "cost_$5_$", "_first", "\x1b[31m", "<b>", "日本"])
def test_names_are_never_markup(made, tmp_path, name):
    run = copy_run(made, tmp_path / name)
    for command in (("eval", run), ("info", run), ("report", run, "--out", tmp_path / f"{name}.html")):
        result = invoke(*command)
        assert result.exit_code == 0 and "\x1b[31m" not in result.output, (result.output, result.exception)
    page = (tmp_path / f"{name}.html").read_text()
    assert "<b>" not in page and "\x1b" not in page
    refused("info", tmp_path / "missing" / name, words="No such file")


def test_names_of_outputs_are_never_markup(made, tmp_path):
    for command in (("pack", made / "run"), ("train", made / "recipe.toml", "--out")):
        (tmp_path / f"{command[0]}[").mkdir()
        result = invoke(*command, tmp_path / f"{command[0]}[/red]$\x1b[31m")
        assert result.exit_code == 0, (result.output, result.exception)
        assert "[/red]$\\x1b" in "".join(result.stdout.split())


def test_runs_of_one_name_are_told_apart_in_a_report(made, tmp_path):
    runs = [copy_run(made, tmp_path / folder / "run") for folder in ("a", "b")]
    assert invoke("report", *runs, "--out", tmp_path / "r.html").exit_code == 0
    from compactrnn.report.page import _names

    assert _names(["a/run", "b/run", "c"]) == {"a/run": "a/run", "b/run": "b/run", "c": "c"}


BENCH = [
    (("lstm:40-99999999",), "of memory"),
    (("lstm:40-9999999999",), "digits"),
    (("gru:99999999@99999999-5",), "of memory"),
    (("lstm:0-5",), "model"),
    (("lstm:5",), "model"),
    (("lstm:4-4", "--steps", "99999999999"), "--steps"),
    (("lstm:4-4", "--steps", "0"), "--steps"),
    (("lstm:4-4", "--steps", "-1"), "--steps"),
    (("lstm:4-4", "--steps", "٣"), "--steps"),
    (("lstm:4-4", "--steps", ""), "--steps"),
    (("lstm:4-4", "--weights", ""), "--weights"),
    (("lstm:999999-4", "--steps", "1000000"), "of memory"),
    (("nowhere",), "model"),
    (("nowhere.crnn",), "nowhere.crnn"),
    (("demo:nowhere",), "demo"),
    (("lstm:4-4", "--json", "/dev/null"), "a device"),
    (("lstm:4-4", "--json", "/"), "--json"),
]


@pytest.mark.parametrize(("arguments", "words"), BENCH)
def test_bench_is_bounded(arguments, words):
    refused_diverging("bench", *arguments, "--rounds", 3, "--against", "", words=words, code=2)


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a folder", "a socket"])
def test_only_regular_files(made, tmp_path, kind):
    import socket

    path = tmp_path / "x.crnn"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path = "/dev/zero"
    elif kind == "a folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    if kind != "a folder":
        for command in ("info", "eval"):
            refused(command, path, words=kind)
        refused("train", path, "--out", tmp_path / "out", words=kind)
    refused("eval", made / "run", "--data", path, words=kind)
    refused("pack", made / "run", path, words=kind)
    refused("report", made / "run", "--out", path, words=kind)


def test_a_folder_that_is_missing_is_named_before_the_work(made, tmp_path):
    refused("pack", made / "run", tmp_path / "no" / "x.crnn", words="mkdir -p")
    refused("report", made / "run", "--out", tmp_path / "no" / "r.html", words="mkdir -p")
    (tmp_path / "file").write_text("")
    refused("train", made / "recipe.toml", "--out", tmp_path / "file", words="file")
    refused("train", made / "recipe.toml", "--out", tmp_path / "file" / "x", words="file")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"COMPACTRNN_DATA": "~nobodyhere/x"}, "COMPACTRNN_DATA"),
        ({"XDG_CACHE_HOME": "~nobodyhere/x"}, "XDG_CACHE_HOME"),
    ],
)
def test_a_home_that_nobody_has(monkeypatch, names, words):
    monkeypatch.delenv("COMPACTRNN_DATA", raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    refused("data", "list", words=words)


def test_no_home_at_all(monkeypatch):
    for name in ("COMPACTRNN_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    refused("data", "list", words="set COMPACTRNN_DATA")


def test_a_bug_is_a_sentence_too(made, monkeypatch):
    monkeypatch.delenv("COMPACTRNN_DEBUG", raising=False)
    monkeypatch.setattr("compactrnn.cli.evaluate._packed", lambda *_: {}["key"])
    result = invoke("eval", made / "model.crnn")
    assert result.exit_code == 1 and "COMPACTRNN_DEBUG=1" in result.stderr and "KeyError: 'key'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    monkeypatch.setenv("COMPACTRNN_DEBUG", "1")
    assert isinstance(invoke("eval", made / "model.crnn").exception, KeyError)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 5 bytes")])
def test_memory_that_ends_is_a_sentence(made, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("compactrnn.cli.evaluate._packed", fail)
    refused("eval", made / "model.crnn", words="not enough memory", code=1)


def test_a_closed_standard_output_is_no_error(monkeypatch):
    from compactrnn.cli.errors import reported

    monkeypatch.setattr("sys.stdout", None)
    reported(lambda: None)()
