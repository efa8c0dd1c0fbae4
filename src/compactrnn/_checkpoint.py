"""Checkpoints: nested plain values and tensors in one safetensors file with a checksum, written atomically.

The file is safetensors; its header holds the nest as JSON with the tensors' names in their places. No pickle.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ._errors import ModelFileError
from ._files import check_json_size, open_regular, write_atomically

_KEY = "compactrnn"


def save_tree(path: str | Path, tree: Any) -> None:
    """Write nested dicts, lists, tuples, numbers, strings, None and tensors.

    >>> import tempfile, torch
    >>> path = tempfile.mkdtemp() + "/tree.safetensors"
    >>> save_tree(path, {"epoch": 3, "states": (torch.ones(1), None)})
    >>> load_tree(path)
    {'epoch': 3, 'states': (tensor([1.]), None)}
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_take(tree, "", tensors), sort_keys=True)
    _write(path, tensors, plain)


def load_tree(path: str | Path) -> Any:
    """Read what `save_tree` wrote.

    Raises:
        ModelFileError: the file is damaged, or of another kind or version.
        OSError: it cannot be opened.
    """
    plain, tensors = _read(path)
    if plain is None:
        why = "no checksum, as this version of compactrnn writes it"
        raise ModelFileError(f"{path}: {why}; write it again, in a new folder")
    try:
        return _give(json.loads(plain), tensors)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: not a checkpoint of compactrnn ({error})") from error


def save_weights(path: str | Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, the same bytes for the same weights."""
    _write(path, {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}, "")


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; the checksum of one that `save_weights` wrote is verified."""
    return _read(path)[1]


def _write(path: str | Path, tensors: dict[str, Tensor], plain: str) -> None:
    # one entry, as safetensors writes several in any order
    note = json.dumps({"crc32": _checksum(plain, tensors), "tree": plain})
    check_json_size(note.encode())
    write_atomically(path, safetensors.torch.save(tensors, {_KEY: note}), "checkpoint")


def _read(path: str | Path) -> tuple[str | None, dict[str, Tensor]]:
    """The nested structure (None without a checksum) and the tensors."""
    with open_regular(path, "safetensors file"):
        pass  # safetensors itself would wait for a FIFO
    try:
        with safe_open(path, "pt") as file:
            note = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path}: not a complete safetensors file ({error})") from error
    try:
        check_json_size((note or "").encode())
        found = None if note is None else json.loads(note)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: its metadata is not JSON ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("tree"), str):
        return None, tensors
    if found.get("crc32") != _checksum(found["tree"], tensors):
        raise ModelFileError(f"{path}: the checksum does not match: the file is damaged")
    return found["tree"], tensors


def _checksum(plain: str, tensors: dict[str, Tensor]) -> int:
    total = zlib.crc32(plain.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return total


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
    raise TypeError(f"checkpoint entry {name}: expected a plain value or a tensor, got {type(tree).__name__}")


def _give(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _give(inner, tensors) for key, inner in value}
    if kind not in ("list", "tuple"):
        raise ValueError(f"unknown kind {kind!r}")
    return (list if kind == "list" else tuple)(_give(inner, tensors) for inner in value)
