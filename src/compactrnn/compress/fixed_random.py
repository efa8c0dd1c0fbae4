"""Random numbers that do not depend on how many are drawn."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class FixedRandom(TorchDispatchMode):
    """While it is entered, each call that draws random numbers gives one number for all of its elements.

    The numbers follow from `seed`. So a model and its narrower copy, which draw the same numbers in other shapes, can
    be compared; dropout drops nothing.
    """

    def __init__(self, seed: int):
        super().__init__()
        self._numbers = random.Random(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func._schema.name.split("::")[1].rstrip("_").removesuffix("_like")
        u = 0.05 + 0.9 * self._numbers.random()
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            return result
        given = {
            a.name: args[i] if i < len(args) else kwargs.get(a.name, a.default_value)
            for i, a in enumerate(func._schema.arguments)
        }
        if name == "bernoulli":
            p = given.get("p")
            p = p if p is not None else given["self"]
            return result.copy_(u < p) if isinstance(p, Tensor) else result.fill_(1)
        if name in ("rand", "uniform"):
            low, high = given.get("from", 0.0), given.get("to", 1.0)
            return result.fill_(low + (high - low) * u)
        if name in ("randn", "normal", "normal_functional"):
            z = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * u)
            mean, std = given.get("mean", 0.0), given.get("std", 1.0)
            return result.copy_(torch.as_tensor(mean) + torch.as_tensor(std) * z)
        if name == "exponential":
            return result.fill_(-math.log(u) / given.get("lambd", 1.0))
        return result
