"""A nest of plain values and tensors as one file, which is there whole or not at all.

The file is safetensors; its header holds the nest as JSON with the tensors' names in their places. No pickle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .._errors import ModelFileError

_KEY = "compactrnn"


def save_tree(path: str | Path, tree: Any) -> None:
    """Write dicts, lists, tuples, numbers, texts, None and tensors, nested as one likes.

    >>> import tempfile, torch
    >>> path = tempfile.mkdtemp() + "/tree.safetensors"
    >>> save_tree(path, {"epoch": 3, "states": (torch.ones(1), None)})
    >>> load_tree(path)
    {'epoch': 3, 'states': (tensor([1.]), None)}
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_take(tree, "", tensors), sort_keys=True)
    write_atomically(path, safetensors.torch.save(tensors, {_KEY: plain}))


def load_tree(path: str | Path) -> Any:
    """Read what `save_tree` wrote."""
    try:
        with safe_open(path, "pt") as file:
            plain = (file.metadata() or {})[_KEY]
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return _give(json.loads(plain), tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelFileError(f"checkpoint: got {path} ({error}), wanted a file written by compactrnn train") from error


def save_weights(path: str | Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as plain safetensors, the same bytes for the same weights."""
    write_atomically(path, safetensors.torch.save({name: t.detach().cpu().clone() for name, t in state.items()}))


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"weights: got {path} ({error}), wanted a safetensors file") from error


def write_atomically(path: str | Path, content: bytes) -> None:
    """Let `path` hold `content`: after a crash at any moment it holds the old bytes or the new ones."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _take(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, _take(value, f"{name}/{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_take(value, f"{name}/{number}", tensors) for number, value in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"checkpoint entry {name}: got {type(tree).__name__}, wanted a plain value or a tensor")


def _give(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _give(inner, tensors) for key, inner in value}
    return (list if kind == "list" else tuple)(_give(inner, tensors) for inner in value)
