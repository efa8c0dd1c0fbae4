"""The floating-point precision of a run."""

from __future__ import annotations

import time
from functools import cache

import torch


def precision_here(accelerator: str, wanted: str) -> str:
    """`wanted`, but "32-true" instead of bfloat16 on a processor that only emulates it, far more slowly."""
    if accelerator == "cpu" and wanted == "bf16-mixed" and not multiplies_in_bfloat16():
        return "32-true"
    return wanted


@cache
def multiplies_in_bfloat16() -> bool:
    """Whether this processor multiplies matrices faster in bfloat16 than in float32, measured on a few products."""
    best = {}
    for _ in range(5):
        for dtype in (torch.float32, torch.bfloat16):
            matrix = torch.ones(384, 384, dtype=dtype, device="cpu")
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            best[dtype] = min(best.get(dtype, 1e9), time.perf_counter() - began)
    return best[torch.bfloat16] < best[torch.float32]
