"""Time of a pruning run that gets smaller on its way, over plain training of the dense model.

python benchmarks/shrink_cost.py [--rounds 800] [--out FILE]

The demo's dense model and data. Steps of both runs alternate, in turned order every second time; `shrink_` is called
eight times, and its time counts. The figure is the ratio of the sums.
"""

import time
from typing import Any

import torch
from published import options, publish

import compactrnn as cr
from compactrnn.compress.sizes import counts
from compactrnn.report.demo.models import demo_recipe, shipped_models

STAGES = 8


def runs_of(task: Any, dense: Any, pruned: bool, steps: int) -> Any:
    """A function that does step number `i`, and returns how long it took; and the pruner."""
    model = task.build_model(demo_recipe("compact", []).model)
    model.load_state_dict(dense.state_dict())
    model.train()
    pruner = None
    if pruned:
        pruner = cr.NeuronSelection(model, task.example_inputs(), macs=counts(model)[2] // 4, steps=steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(number: int) -> float:
        batch = task.batch(number % task.updates_per_epoch(), number // task.updates_per_epoch())
        start = time.perf_counter()
        outputs, _ = task.forward(model, batch, None)
        loss = task.loss(outputs, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)
            if number % (steps // STAGES) == steps // STAGES - 1:
                pruner.shrink_(optimizer)
        return time.perf_counter() - start

    return step, pruner


def main() -> None:
    given = options(__doc__, "shrink_cost", rounds=800)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task, (dense, _) = shipped_models()
    first, _ = runs_of(task, dense.model, False, given.rounds)
    second, pruner = runs_of(task, dense.model, True, given.rounds)
    times: list[list[float]] = [[], []]
    for number in range(given.rounds):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            times[which].append((first, second)[which](number))
    parts = [slice(i * given.rounds // 4, (i + 1) * given.rounds // 4) for i in range(4)]
    ratio = sum(times[1]) / sum(times[0])
    quarters = [round(sum(times[1][part]) / sum(times[0][part]), 3) for part in parts]
    macs = counts(pruner.model)[2] / counts(dense.model)[2]
    publish(given, "a pruning run over dense training", ratio=round(ratio, 3), quarters=quarters, macs=round(macs, 3))
    print(f"ratio {ratio:.3f}, by quarters {quarters}, {macs:.3f} of the multiply-accumulates left")


if __name__ == "__main__":
    main()
