"""Keep freed memory in the process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed_memory() -> None:
    """Let glibc hand freed blocks of up to 32 MB out again, instead of giving their pages back to the kernel.

    The activations of a batch are such blocks; their pages would be cleared again in every update, a sixth of the time
    of an update of IndRNN on MNIST. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
