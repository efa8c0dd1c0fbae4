"""A recipe for a user's own file, from what the file holds."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._errors import invalid
from ..data.series import read_table
from ..data.series_inspect import GROUPS, SEQUENCES, TARGETS, Found, inspect_table
from ..data.series_table import SeriesTable, shortened_list
from ..tasks.base import AbstractTask
from ..tasks.sequence import PARTS
from .recipe import recipe_from
from .run_folder import build_task

Kind = Literal["classification", "regression", "forecasting"]
UPDATES, MOST_EPOCHS, FOLDS = 2000, 100, 5
WINDOW, HORIZON = 48, 6
MOST_CLASSES = 20  # of a target that is whole numbers


@dataclass(frozen=True)
class Wishes:
    """What the user says about the file; None and "" where the file is to tell."""

    task: Kind | None = None
    targets: tuple[str, ...] = ()
    sequence: str = ""
    group: str = ""
    categories: tuple[str, ...] = ()
    test_file: str = ""
    window: int | None = None
    horizon: int | None = None


@dataclass(frozen=True)
class FirstRecipe:
    """The text of a recipe that trains as it is, what the file holds, and how much data each part has."""

    text: str
    found: Found
    task: Kind
    section: dict[str, Any]
    sequences: dict[str, int]
    classes: tuple[str, ...]


def first_recipe(path: str, wishes: Wishes | None = None) -> FirstRecipe:
    """Look at a .csv, .npz or .ts file and write a recipe for it.

    Raises:
        ValueError: the file cannot be read, or does not hold what the task needs; says where, or what is to be said.
    """
    wishes = wishes or Wishes()
    table = read_table(path)
    texts = tuple(filter(None, (wishes.sequence, wishes.group, *wishes.categories)))
    for name in (*texts, *wishes.targets):
        table.column(name)
    found = inspect_table(table, texts + (wishes.targets if wishes.task == "classification" else ()))
    asked, wishes = wishes, _completed(table, found, wishes)
    assert wishes.task is not None
    section = {"name": wishes.task, "file": path, **_columns(found, wishes), **_split(table, found, wishes)}
    for option, value, entry in (("--test", asked.test_file, "test_file"), ("--group", asked.group, "group")):
        if value and entry not in section:
            raise invalid(option, got=value, expected=f"none: {wishes.task} of this file is split by time")
    task, examples = _task(section, 1), {}
    task.check_start(1)
    for part in PARTS:
        examples[part] = task.counts(part)["sequences"]
    batch = 64 if examples["train"] >= 640 else max(1, min(32, examples["train"] // 4))
    epochs = max(1, min(MOST_EPOCHS, round(UPDATES * batch / examples["train"])))
    text = _text(section, found, wishes, batch, epochs)
    recipe_from(tomllib.loads(text), "the recipe written")
    return FirstRecipe(text, found, wishes.task, section, examples, getattr(task, "classes", ()))


def _completed(table: SeriesTable, found: Found, wishes: Wishes) -> Wishes:
    """The wishes, with what the file tells in place of what the user left open."""
    sequence, group = wishes.sequence, wishes.group
    if not sequence and table.offsets is None:
        name = found.first(SEQUENCES, of_sequences=False)
        sequence = name if name and found.named(name).distinct < found.steps else ""
    if not group:
        group = found.first(GROUPS)
    divided = (table.offsets is not None and len(table.offsets) > 2) or bool(sequence)
    targets = wishes.targets
    named = found.first(TARGETS, of_sequences=True if table.offsets is not None else None)
    if not targets and named and wishes.task != "forecasting":
        targets = (named,)
    task = wishes.task or ("forecasting" if not divided else _kind(table, targets))
    if not targets and task == "forecasting" and len(numbers := found.of("number")) == 1:
        targets = tuple(numbers)
    if not targets:
        known = found.of("number") if task == "forecasting" else [c.name for c in found.columns if c.role != "empty"]
        if not known:
            raise invalid(found.path, got="none", expected="a column of numbers, with a point in decimals")
        expected = f"--target COLUMN, one of {shortened_list(known)}"
        raise invalid("target", got="none", expected=expected)
    if task == "classification" and not divided:
        hint = "name the column that tells sequences apart: --sequence COLUMN"
        raise invalid("classification", got=f"{found.path}, one sequence", expected="several", hint=hint)
    return replace(wishes, task=task, targets=targets, sequence=sequence, group="" if group in targets else group)


def _kind(table: SeriesTable, targets: Sequence[str]) -> Kind:
    """Classification where the target is texts or few whole numbers, else regression."""
    if len(targets) != 1 or table.share_of_numbers(targets[0]) < 1:
        return "classification" if len(targets) < 2 else "regression"
    values = table.numbers(targets[0])
    few = len(np.unique(values)) <= MOST_CLASSES and bool((values == np.round(values)).all())
    return "classification" if few else "regression"


def _columns(found: Found, wishes: Wishes) -> dict[str, Any]:
    """The entries of the section `[task]` that say what each column is."""
    forecasting = wishes.task == "forecasting"
    taken = {wishes.sequence, wishes.group, *(() if forecasting else wishes.targets)}
    numbers = [name for name in found.of("number") if name not in taken]
    texts = [name for name in found.of("category") if name not in taken]
    order = [column.name for column in found.columns]
    channels = sorted({*numbers, *texts, *(wishes.targets if forecasting else ())}, key=order.index)
    if not channels:
        raise invalid(found.path, got="no column of numbers or categories that changes", expected="at least one")
    missing = [name for name in channels if found.named(name).missing]
    targets = {"target": wishes.targets[0]} if wishes.task == "classification" else {"targets": list(wishes.targets)}
    if wishes.task == "classification" and len(wishes.targets) > 1:
        raise invalid("--target", got=", ".join(wishes.targets), expected="one column for classification")
    times = found.of("time")
    return {
        **targets,
        "channels": channels,
        **({"categories": texts} if texts else {}),
        **({"missing": missing} if missing else {}),
        **({"sequence": wishes.sequence} if wishes.sequence else {}),
        **({"time": times} if times and (forecasting or not wishes.sequence) else {}),
    }


def _split(table: SeriesTable, found: Found, wishes: Wishes) -> dict[str, Any]:
    """The entries that say how the data is divided, and cut into what a model reads."""
    if wishes.task == "forecasting":
        window = wishes.window or min(WINDOW, max(1, found.steps // 20))
        horizon = wishes.horizon or min(HORIZON, max(1, found.steps // 40))
        return {"window": window, "horizon": horizon}
    window = {"window": wishes.window} if wishes.window else {}
    if wishes.horizon:
        raise invalid("--horizon", got=wishes.horizon, expected="none: it is for forecasting")
    one = table.offsets is None and not wishes.sequence
    if one:
        return {"every_step": True, "split": "time", "window": wishes.window or min(WINDOW, max(1, found.steps // 20))}
    group = {"group": wishes.group} if wishes.group else {}
    count = found.named(wishes.group).distinct if wishes.group else FOLDS
    folds = {"folds": max(3, min(FOLDS, count))}
    test = {"test_file": wishes.test_file} if wishes.test_file else {}
    each = {}
    if wishes.task == "regression" and table.offsets is None:
        each = {"every_step": _changes(table, wishes)}
    return {**test, **each, **group, **folds, **window}


def _changes(table: SeriesTable, wishes: Wishes) -> bool:
    """Whether a target changes within a sequence."""
    same = np.array(table.texts(wishes.sequence)[1:]) == np.array(table.texts(wishes.sequence)[:-1])
    return any(bool((same & (np.diff(np.nan_to_num(table.numbers(name))) != 0)).any()) for name in wishes.targets)


def _task(section: dict[str, Any], batch: int) -> AbstractTask:
    table = {"task": section, "training": {"batch_size": batch}, "phases": {"train": {"updates": 1}}}
    return build_task(recipe_from(table, "the recipe for this file"))


COMMENTS = {
    "file": "below the working folder, or the data folder that COMPACTRNN_DATA names",
    "test_file": "all of it is the test part",
    "target": "the class of each sequence",
    "targets": "predicted, in the units of the file",
    "channels": "what the model reads at each step, as it stands in the file",
    "categories": "channels of texts",
    "missing": "channels that may lack values; the model reads 0, and a mark that the value is missing",
    "sequence": "lines with the same entry are a sequence",
    "time": "the lines are in this order; no window goes over a gap",
    "window": "steps that the model reads",
    "horizon": "steps ahead that it predicts: 1, 2, ...",
    "every_step": "whether there is a target at every step, or one a sequence",
    "split": "the last 15 % of the steps test, the 15 % before them validate",
    "group": "whole groups are trained on, validated on or tested on",
    "folds": "one tests, the next one validates (fold = 0, 1, ...), the others are trained on",
}


def _text(section: dict[str, Any], found: Found, wishes: Wishes, batch: int, epochs: int) -> str:
    """The recipe as TOML, with comments."""
    comments = dict(COMMENTS)
    if wishes.test_file:
        comments["folds"] = "one validates (fold = 0, 1, ...), the others are trained on"
    if wishes.task == "forecasting":
        comments["horizon"] += "; the last 15 % of the steps test, the 15 % before them validate"
    left = [column.name for column in found.columns if column.role in ("counter", "constant", "empty", "text")]
    left = [name for name in left if name not in json.dumps(section)]
    name = Path(found.path).name
    lines = [f"# {_one_line(name)}: written by compactrnn init, to be changed as you like.", "", "[task]"]
    for key, value in section.items():
        lines += [f"# {comments[key]}"] if key in comments else []
        lines.append(f"{key} = {_value(value)}")
    if left:
        lines.append(f"# not read: {_one_line(shortened_list(left))}")
    lines += [
        "",
        "[model]",
        'cell = "GRU"  # docs/cells.md has the others',
        "hidden = [32]  # units of each layer",
        *(['answer = "mean"  # of the outputs of all steps; or "last"'] if wishes.task == "classification" else []),
        "dropout = 0.1",
        *(["noise = 0.3  # on normalized channels, in training"] if wishes.task == "classification" else []),
        "",
        "[training]",
        "seed = 0",
        f"batch_size = {batch}",
        "threads = 1",
        "",
        "[phases.train]",
        f"epochs = {epochs}",
        "average = 0.99",
        'optimizer = { name = "AdamW", learning_rate = 5e-3, weight_decay = 1e-2, decay = "matrices", clip = 1.0 }',
        'schedule = { name = "cosine", warmup = 20 }',
        "",
    ]
    return "\n".join(lines)


def _value(value: Any) -> str:
    """A value in TOML: JSON, but for the one character that it need not escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return " ".join(text.split())
