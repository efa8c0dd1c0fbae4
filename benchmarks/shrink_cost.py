"""Time of pruning runs that get smaller on their way, over plain training of the dense model.

python benchmarks/shrink_cost.py [--rounds 1600] [--out FILE]

The demo's dense model and data, pruned to a quarter of the multiply-accumulates. Steps of all runs alternate, in turned
order every second time; `shrink_` is called eight times, and its time counts. The figure is the ratio of the sums.
"""

import time
from typing import Any

import torch
from published import options, publish

import compactrnn as cr
from compactrnn.compress.sizes import counts
from compactrnn.report.demo.models import demo_recipe, shipped_models

STAGES = 8


PRUNERS: dict[str, Any] = {
    "dense": lambda model, example, steps: None,
    "NeuronSelection": lambda model, example, steps: cr.NeuronSelection(
        model, example, macs=counts(model)[2] // 4, steps=steps
    ),
    "GroupLasso": lambda model, example, steps: cr.GroupLasso(model, example, keep=0.477, steps=steps),
}


def run_of(task: Any, dense: Any, make: Any, steps: int) -> Any:
    """A function that does step number `i`, and returns how long it took; and the model."""
    model = task.build_model(demo_recipe("compact", []).model)
    model.load_state_dict(dense.state_dict())
    model.train()
    pruner = make(model, task.example_inputs(), steps)
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

    return step, model


def main() -> None:
    given = options(__doc__, "shrink_cost", rounds=1600)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task, (dense, _) = shipped_models()
    runs = {name: run_of(task, dense.model, make, given.rounds) for name, make in PRUNERS.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(given.rounds):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            times[name].append(runs[name][0](number))
    quarters = [slice(i * given.rounds // 4, (i + 1) * given.rounds // 4) for i in range(4)]
    rows = []
    for name, (_, model) in list(runs.items())[1:]:
        ratio, *parts = (sum(times[name][q]) / sum(times["dense"][q]) for q in (slice(None), *quarters))
        macs = counts(model)[2] / counts(dense.model)[2]
        rows.append({"pruner": name, "ratio": ratio, "quarters": parts, "macs": macs})
        print(f"{name}: {ratio:.3f}, by quarters {[f'{part:.2f}' for part in parts]}, {macs:.3f} of the products left")
    publish(given, "pruning runs over dense training", rows=rows)


if __name__ == "__main__":
    main()
