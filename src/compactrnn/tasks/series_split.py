"""Training, validation and test parts of a user's own sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._errors import invalid

Parts = dict[str, np.ndarray]


def by_folds(
    folds: int, fold: int, seed: int, labels: Sequence | np.ndarray, groups: np.ndarray | None, apart: bool
) -> Parts:
    """The numbers of the sequences of each part, by dealing them to `folds` folds of about equal size.

    Fold `fold` is the test part and the next one the validation part; with a test part in a file `apart` fold `fold` is
    the validation part. Without groups the sequences of each label are dealt, in the random order of `seed`, else whole
    groups, so that none is in two parts.

    >>> parts = by_folds(3, 0, 0, list("ababab"), np.array(list("112233")), apart=False)
    >>> {part: len(numbers) for part, numbers in parts.items()}
    {'test': 2, 'valid': 2, 'train': 2}
    """
    least = 2 if apart else 3
    if not least <= folds or not 0 <= fold < folds:
        expected = f"at least {least} folds, and one of them from 0 on"
        raise invalid("task.folds, task.fold", got=f"{folds}, {fold}", expected=expected)
    random = np.random.default_rng(seed)
    of = np.empty(len(labels), int)
    if groups is None:
        what, kinds = "sequences", [np.flatnonzero(np.asarray(labels) == label) for label in sorted(set(labels))]
        dealt = np.concatenate([random.permutation(kind) for kind in kinds])
        of[dealt] = np.arange(len(dealt)) % folds
        count = len(dealt)
    else:
        names = sorted(set(groups.tolist()))
        what, count = "groups", len(names)
        place = {name: number % folds for number, name in enumerate(random.permutation(names).tolist())}
        of = np.array([place[name] for name in groups.tolist()])
    if count < folds:
        raise invalid("task.folds", got=folds, expected=f"at most the {count} {what}")
    held = {"valid": fold} if apart else {"test": fold, "valid": (fold + 1) % folds}
    parts = {part: np.flatnonzero(of == number) for part, number in held.items()}
    parts["train"] = np.flatnonzero(~np.isin(of, list(held.values())))
    return parts


def by_time(offsets: np.ndarray, valid: float, test: float) -> dict[str, list[tuple[int, int]]]:
    """The steps (begin, end) of each part of each sequence: the first ones are trained on, the last ones test.

    >>> by_time(np.array([0, 10]), valid=0.2, test=0.2)
    {'train': [(0, 6)], 'valid': [(6, 8)], 'test': [(8, 10)]}
    """
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        last = end - round(test * (end - begin))
        middle = last - round(valid * (end - begin))
        for part, bounds in (("train", (begin, middle)), ("valid", (middle, last)), ("test", (last, end))):
            parts[part].append(bounds)
    return parts


def windows(begin: int, end: int, length: int, stride: int, tail: bool = False) -> list[tuple[int, int]]:
    """Stretches (begin, end) of `length` steps, each `stride` after the one before; the whole for a length of 0.

    What is left at the end is a shorter one with `tail`, or where it is all there is.

    >>> windows(0, 10, 4, 4), windows(0, 10, 4, 4, tail=True), windows(0, 3, 4, 4)
    ([(0, 4), (4, 8)], [(0, 4), (4, 8), (8, 10)], [(0, 3)])
    """
    if not length or end - begin <= length:
        return [(begin, end)] if end > begin else []
    found = [(start, start + length) for start in range(begin, end - length + 1, stride)]
    if tail and found[-1][1] < end:
        found.append((found[-1][0] + stride, end))
    return found
