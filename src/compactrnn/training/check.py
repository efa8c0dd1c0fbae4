"""Check that this machine has the threads, accelerator and devices of a recipe."""

from __future__ import annotations

import os

import torch

from .._errors import invalid
from .devices import launched_processes
from .recipe import PhaseOptions, TrainingOptions

THREADS = 4  # for each processor, at most


def check_machine(training: TrainingOptions) -> None:
    """Raise `ValueError` for threads, an accelerator or devices that this machine, or its launcher, does not have."""
    most = THREADS * (os.cpu_count() or 1)
    if training.threads is not None and training.threads > most:
        raise invalid(
            "training.threads", got=training.threads, expected=f"at most {most}, {THREADS} for each processor"
        )
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here[training.accelerator]:
        wanted = " or ".join(name for name, there in here.items() if there)
        raise invalid("training.accelerator", got=f"{training.accelerator}, which this machine lacks", expected=wanted)
    _check_devices(training)


def _check_devices(training: TrainingOptions) -> None:
    devices, (launched, local) = training.devices, launched_processes()
    if launched not in (None, devices):
        hint = f"--set training.devices={launched}, or start {devices}"
        raise invalid("training.devices", got=devices, expected=f"{launched}, the processes of torchrun", hint=hint)
    if devices == 1:
        return
    most = {"cpu": THREADS * (os.cpu_count() or 1), "cuda": torch.cuda.device_count(), "mps": 1}[training.accelerator]
    if (local or devices) > most:
        expected = f"at most {most} on {training.accelerator} of this machine"
        raise invalid("training.devices", got=local or devices, expected=expected)
    if not torch.distributed.is_available():
        raise invalid("training.devices", got=devices, expected="1: this torch has no torch.distributed")


def numbers_per_weight(phase: PhaseOptions) -> int:
    """Memory of a weight in training, in numbers: itself, its gradient, and the state of the optimizer."""
    kept = {"AdamW": 2, "SGD": 1 if phase.optimizer.momentum else 0}
    return 2 + kept[phase.optimizer.name]
