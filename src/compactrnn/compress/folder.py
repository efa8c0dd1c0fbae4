"""Saving and loading shrunk models with the code of the model before shrinking."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import _checkpoint
from .._errors import ModelFileError, invalid
from ..graph.copy import copy_module
from ..layers.fused import AbstractFused
from ..layers.narrow import put_tensor_
from ..weights.base import AbstractWeight
from .products import describe_products, rebuild_products
from .resizing import describe_sizes, restore_sizes_
from .structure import describe, rebuild
from .wrappers import unwrap

M = TypeVar("M", bound=nn.Module)

FILE = "model.safetensors"
_FORMAT = 1


def save(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write `model`, as `GroupLasso.shrink` returns it or any other, to `folder/model.safetensors`.

    The file holds all parameters and buffers, and as JSON the sizes and forms of the layers, which tensors are shared
    and which are frozen; with a checksum, and without pickle. It replaces an older one whole or not at all.

    >>> import tempfile, torch
    >>> import compactrnn as cr
    >>> folder = tempfile.mkdtemp()
    >>> cr.save(cr.LSTM(4, [8, 6]), folder)
    >>> cr.load(folder, cr.LSTM(4, [16, 16])).hidden_size
    [8, 6]

    Raises:
        ValueError: a module has an extra state, which is not made of parameters and buffers.
        OSError: the folder cannot be written.
    """
    model = unwrap(model)
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise invalid(
                f"{name or 'the model'} ({type(module).__name__})",
                got="get_extra_state",
                expected="parameters and buffers",
            )
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in _tensors(model):
        if (known := first.setdefault(id(tensor), name)) == name:
            tensors[name] = tensor
        else:
            shared[name] = known
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    temporary = [name for name in tensors if name not in model.state_dict(keep_vars=True)]
    tree = {
        "format": _FORMAT,
        "class": type(model).__qualname__,
        "layers": describe(model),
        "products": describe_products(model),
        "sizes": describe_sizes(model),
        "shared": shared,
        "frozen": frozen,
        "temporary": temporary,
        "tensors": tensors,
    }
    os.makedirs(folder, exist_ok=True)
    _checkpoint.save_tree(Path(folder) / FILE, tree)


def load(folder: str | os.PathLike, model: M | Callable[[], M]) -> M:
    """The model that `save` wrote, with the code of `model`: a class that takes no arguments, or an instance.

    An instance is one as the code builds it, of the sizes before shrinking: `cr.load(folder, Tagger(vocabulary=9000))`.
    It is copied and stays as it is. The layers of the copy get their saved sizes and forms, and all parameters and
    buffers their saved values, on the devices of the instance. The result is an ordinary model: it gives the same
    numbers as the saved one, can be trained, shrunk again and packed.

    Raises:
        ModelFileError: the file is damaged, or not one that `save` wrote.
        ValueError: the model has other layers or parameters, or smaller ones; says which.
        OSError: the folder cannot be read.
    """
    path = Path(folder) / FILE
    tree = _checkpoint.load_tree(path)
    if not isinstance(tree, dict) or tree.get("format") != _FORMAT:
        raise ModelFileError(f"{path}: not a model that compactrnn.save wrote, or one of another version")
    built = model if isinstance(model, nn.Module) else model()
    if not isinstance(built, nn.Module):
        raise invalid("model", got=f"a {type(built).__name__}", expected="an nn.Module, or a class of one")
    built = copy_module(built)
    try:
        return _filled(built, tree)
    except (KeyError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path}: not a model that compactrnn.save wrote ({error!r})") from error
    except ValueError as error:
        raise ValueError(f"{path} holds a {tree['class']}, and {type(built).__name__} is another: {error}") from error


@torch.no_grad()
def _filled(model: Any, tree: dict[str, Any]) -> Any:
    saved: dict[str, Tensor] = tree["tensors"]
    wanted = saved | {name: saved[source] for name, source in tree["shared"].items()}
    model = rebuild(model, tree["layers"], wanted)
    rebuild_products(model, tree.get("products", []))  # which older files lack, as the next
    resized = restore_sizes_(model, tree.get("sizes", []))
    for path, module in model.named_modules():
        if isinstance(module, AbstractWeight):  # how many entries a sparse one has, its tensors alone say
            module._load_from_state_dict(dict(wanted), f"{path}." if path else "", {}, False, [], [], [])
    have = dict(_tensors(model))
    if missing := [name for name in wanted if name not in have and name not in tree["temporary"]]:
        raise invalid(f"{type(model).__name__}", got=f"no {min(missing)}", expected="every tensor that was saved")
    persistent = model.state_dict(keep_vars=True)
    if more := [name for name in have if name not in wanted and name in persistent]:
        raise invalid(f"{type(model).__name__}", got=f"{min(more)}, which was not saved", expected="no other tensors")
    filled: dict[str, Tensor] = {}
    for name in wanted:
        if name not in have:
            continue
        source = tree["shared"].get(name, name)
        if source not in filled:
            rows = name.rpartition(".")[0] in resized
            filled[source] = _tensor(have[name], saved[source], name, source not in tree["frozen"], rows)
        path, _, attribute = name.rpartition(".")
        put_tensor_(model.get_submodule(path), attribute, filled[source])
    for module in model.modules():
        if isinstance(module, AbstractFused):
            module.refresh()
    return model


def _tensor(built: Tensor, saved: Tensor, name: str, trainable: bool, rows: bool) -> Tensor:
    """The saved tensor in the place of the one that the code built, of which columns may have been cut, or `rows`."""
    last = saved.dim() - 1
    cut = [d for d, (n, m) in enumerate(zip(saved.shape, built.shape, strict=False)) if n != m]
    axes = (0, 1, last) if rows else (1, last)
    possible = saved.dim() == built.dim() and all(saved.shape[d] < built.shape[d] and d in axes for d in cut)
    if not possible:
        raise invalid(name, got=f"shape {tuple(built.shape)}", expected=f"{tuple(saved.shape)}, or more columns")
    saved = saved.to(built.device)
    return nn.Parameter(saved, requires_grad=trainable) if isinstance(built, nn.Parameter) else saved


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, under every name that they have."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
