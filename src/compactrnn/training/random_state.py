"""State of every random generator that training draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Start all generators from `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_random_state() -> dict[str, Any]:
    """The generators of python, numpy, torch and its devices, as a nest that `set_random_state` takes.

    >>> state = get_random_state()
    >>> first = torch.rand(1)
    >>> set_random_state(state)
    >>> bool(torch.rand(1) == first)
    True
    """
    numpy_state = np.random.get_state()
    assert isinstance(numpy_state, tuple)
    kind, key, position, has_gauss, gauss = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(key.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def get_torch_state(device: torch.device) -> list[torch.Tensor]:
    """torch's generators of this process: of the CPU, and of its GPU if `device` is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_torch_state(states: list[torch.Tensor], device: torch.device) -> None:
    """Restore what `get_torch_state` gave."""
    torch.set_rng_state(states[0].cpu().clone())  # torch does not take a view
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1].cpu().clone(), device)
