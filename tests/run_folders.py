"""A small trained and packed run, made once per test session, and ways to damage copies of its files."""

import json
import shutil
from pathlib import Path

from typer.testing import CliRunner

from compactrnn.cli.app import app

RECIPE = """
[task]
data = "alice"
[model]
embedding = 8
hidden = [16]
[training]
batch_size = 8
steps = 16
evaluate_every = 10
validation_streams = 64
checkpoint_every = 5
threads = 1
[phases.train]
updates = 20
optimizer = { learning_rate = 5e-3, clip = 1.0 }
"""


def invoke(*arguments):
    """The command line in this process: exit code, standard output, standard error, exception."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def make_run(folder: Path) -> Path:
    """`recipe.toml`, `run` and `model.crnn` in `folder`."""
    (folder / "recipe.toml").write_text(RECIPE)
    for arguments in (
        ("train", folder / "recipe.toml", "--out", folder / "run"),
        ("pack", folder / "run", folder / "model.crnn"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
    return folder


def copy_run(made: Path, target: Path) -> Path:
    """A copy of the run to damage."""
    shutil.copytree(made / "run", target)
    return target


def change_json(path: Path, change) -> None:
    """Apply `change` to the content of a JSON file."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
