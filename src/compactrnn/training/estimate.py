"""Estimate the time of an update on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from .devices import Processes, fabric_of
from .memory import keep_freed_memory
from .phase import PhaseRun
from .precision import precision_here
from .random_state import get_random_state, set_random_state
from .recipe import PhaseOptions, Recipe
from .run_folder import build_task


def seconds_per_update(recipe: Recipe, phase: PhaseOptions, updates: int = 6) -> float:
    """The time of an update of `phase`, by `updates` of them on a new model.

    Its share of the evaluations is included, a teacher's is not. Random state and threads are restored.
    """
    training = recipe.training
    state, threads = get_random_state(), torch.get_num_threads()
    try:
        if training.threads:
            torch.set_num_threads(training.threads)
        keep_freed_memory()
        task = build_task(recipe)
        model = task.build_model(recipe.model)
        fabric = fabric_of(training.accelerator, precision_here(training.accelerator, training.precision))
        run = PhaseRun(phase, training, task, model, Processes(fabric), None)
        taken = [_seconds(run.step) for _ in range(updates)]
        return median(taken) + _seconds(run.evaluate) / (training.evaluate_every or run.per_epoch)
    finally:
        torch.set_num_threads(threads)
        set_random_state(state)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
