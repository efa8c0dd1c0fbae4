"""The processes of a run, one per device: Lightning Fabric, and what they share."""

from __future__ import annotations

import logging
import os
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..tasks.batch import Batch


def launched_processes() -> tuple[int | None, int | None]:
    """How many processes torchrun started, in all and on this machine; None without it."""
    if not (torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()):
        return None, None
    return int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])


def process_rank(devices: int) -> int:
    """The number of this process among those of the run, known before they are connected; the first one writes."""
    return 0 if devices == 1 else int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def fabric_of(accelerator: str, precision: Any, devices: int = 1) -> Fabric:
    """Lightning Fabric, launched: with several devices the processes are connected when this returns."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it names the precision that was asked for
    total, local = launched_processes()
    nodes = 1 if total is None or local is None else total // local
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric")
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices // nodes,
            num_nodes=nodes,
            strategy="auto" if devices == 1 else "ddp",
            precision=precision,
        )
        fabric.launch()
    return fabric


def describe_device(accelerator: str) -> dict[str, str]:
    """The name of the device beside the processor that a run is trained on, empty without one."""
    if accelerator == "cpu":
        return {}
    return {"device": torch.cuda.get_device_name() if accelerator == "cuda" else accelerator}


@contextmanager
def lost_process() -> Iterator[None]:
    """Turn the error of a connection to another process that has ended into one that says so."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "peer" not in str(error):
            raise
        hint = "see its message, then continue with --resume"
        raise ChildProcessError(f"another process of the run has ended; {hint}") from error


class Processes:
    """The processes of one run. With one of them every method gives back what it is given.

    Every process draws the whole batch and takes its rows, so that all know how many targets there are; gradients are
    averaged by `DistributedDataParallel`. Only tensors are exchanged, nothing is pickled.
    """

    def __init__(self, fabric: Fabric):
        self.fabric, self.count, self.rank = fabric, fabric.world_size, fabric.global_rank

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def rows(self, batch: Batch) -> Batch:
        """The part of a batch that this process trains on."""
        share = len(batch) // self.count
        return batch if self.count == 1 else batch.rows(self.rank * share, (self.rank + 1) * share)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        torch.distributed.all_reduce(total)
        result, references = total.tolist(), [weakref.ref(total)]
        del total
        _wait_until_released(references)
        return result

    def of_first(self, value: float) -> float:
        """The value of the first process."""
        return self.sum([value if self.is_first else 0.0])[0]

    def gather(self, nest: Any) -> Any:
        """The tensors of all processes, stacked along a new first axis."""
        return nest if self.count == 1 else tree_map(self._gather, nest)

    def own(self, nest: Any) -> Any:
        """This process's tensors out of what `gather` gave."""
        return nest if self.count == 1 else tree_map(lambda t: t[self.rank] if isinstance(t, Tensor) else t, nest)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            self.fabric.barrier()

    def check_in_step(self, model: nn.Module) -> None:
        """Raise `RuntimeError` unless all processes hold the same weights."""
        if self.count == 1:
            return
        own = [float(p.detach().double().sum()) for p in model.parameters()]
        first = self.sum(own if self.is_first else [0.0] * len(own))
        if any(self.sum([abs(a - b) for a, b in zip(own, first, strict=True)])):
            raise RuntimeError("the processes of the run hold different weights; use machines of one kind")

    @contextmanager
    def closed_at_end(self) -> Iterator[None]:
        """Close the connections at the end, or when all have stopped: open ones may abort a process at its exit."""
        try:
            yield
        except KeyboardInterrupt:
            self._close()
            raise
        self._close()

    def _close(self) -> None:
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def alone(self, precision: Any) -> Fabric:
        """Fabric for a module that is not trained: `DistributedDataParallel` takes none without gradients."""
        if self.count == 1:
            return self.fabric
        strategy = SingleDeviceStrategy(device=self.fabric.device)
        return Fabric(accelerator=self.fabric.device.type, devices=1, strategy=strategy, precision=precision)

    def _gather(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        own = value.to(self.fabric.device, copy=True).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.count)]
        torch.distributed.all_gather(parts, own)
        result, references = torch.stack(parts), [weakref.ref(tensor) for tensor in (own, *parts)]
        del own, parts
        _wait_until_released(references)
        return result


def _wait_until_released(references: Sequence[weakref.ref[Tensor]]) -> None:
    """Wait until Gloo's threads have dropped what they sent, for which they take the interpreter's lock.

    Whoever closes the connection holds this lock while it waits for the threads to end: neither would ever go on.
    """
    while torch.distributed.get_backend() == "gloo" and any(reference() is not None for reference in references):
        time.sleep(0)
