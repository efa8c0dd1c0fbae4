"""Whether pruners give the size that was asked for, on five trained models, without tuning.

    COMPACTRNN_DATA=... python benchmarks/size_targets.py --ptb RUN --digits RUN --reading RUN

The demo's dense model; runs of recipes/ptb-200.toml (2 x 200), recipes/digits-lstm.toml and recipes/squad-bidaf.toml;
and the LSTM of Resemblyzer, a speaker encoder of 3 x 256 units by other people (Apache-2.0, `pip install --no-deps
resemblyzer`), trained on to give on noise what it gave before. Each is pruned for --steps updates by its own task's
loss, to each of the sizes in `SIZES`, and cut. A figure is the size that is left, over the size that was asked for.
"""

import argparse
import copy
import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from published import RESULTS
from torch import Tensor, nn

import compactrnn as cr
from compactrnn._machine import describe_machine
from compactrnn.compress.sizes import counts
from compactrnn.report.demo.models import shipped_models
from compactrnn.report.insert import insert
from compactrnn.training.run_folder import RunFolder

RESULT, PAGE = RESULTS / "size_targets.json", Path(__file__).parents[1] / "docs" / "pruning.md"
SIZES: dict[str, dict[str, float]] = {
    "half of the units": {"keep": 0.5},
    "a third of the multiply-accumulates": {"macs": 1 / 3},
    "a quarter of the bytes": {"bytes": 1 / 4},
}
Loss = Callable[[nn.Module, int], Tensor]


class SpeakerEncoder(nn.Module):
    """The network of Resemblyzer: the last state of the last layer, a linear layer, and a vector of length one."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """(batch, frames, 40) -> (batch, 256)."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


def speaker_encoder() -> tuple[nn.Module, Any, Loss]:
    """The pretrained network, an example, and a loss: to give what it gave before."""
    found = importlib.util.find_spec("resemblyzer")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("resemblyzer: expected to be installed; pip install --no-deps resemblyzer")
    weights = Path(found.submodule_search_locations[0]) / "pretrained.pt"
    model, generator = SpeakerEncoder(), torch.Generator().manual_seed(0)
    tensors = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    teacher = copy.deepcopy(model).eval()

    def loss(student: nn.Module, number: int) -> Tensor:
        mels = torch.randn(8, 60, 40, generator=generator).square() * 1e-2
        with torch.no_grad():
            wanted = teacher(mels)
        return (student(mels) - wanted).square().sum(1).mean()

    return model, torch.randn(1, 60, 40, generator=generator), loss


def trained(task: Any, model: nn.Module) -> tuple[nn.Module, Any, Loss]:
    """A model of a task, an example, and the task's loss on the batch of an update."""
    per_epoch = task.updates_per_epoch()

    def loss(student: nn.Module, number: int) -> Tensor:
        batch = task.batch(number % per_epoch, number // per_epoch)
        return task.loss(task.forward(student, batch, None)[0], batch)

    return model, task.example_inputs(), loss


def of_run(run: Path) -> tuple[nn.Module, Any, Loss]:
    """The final model of a run."""
    model, task, _ = RunFolder(run).load()
    return trained(task, model)


def pruned(model: nn.Module, example: Any, loss: Loss, size: dict[str, float], steps: int) -> tuple[float, float]:
    """What was asked for, and what is left after so many updates."""
    torch.manual_seed(0)
    model = copy.deepcopy(model).train()
    parameters, _, macs = counts(model)
    whole: dict[str, float] = {"keep": 1.0, "macs": macs, "bytes": 4 * parameters}
    ((name, share),) = size.items()
    asked: Any = share if name == "keep" else int(share * whole[name])
    pruner = cr.NeuronSelection(model, example, steps=steps, **{name: asked})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for number in range(steps):
        value = loss(model, number)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        pruner.step(optimizer)
    hidden = [cut for cut in pruner.plan().units if cut.unit_set != "columns"]  # of an embedding, tied to them
    left = {"keep": sum(len(cut.kept) for cut in hidden) / sum(cut.units for cut in hidden)}
    small = pruner.shrink()
    parameters, _, macs = counts(small)
    left |= {"macs": macs, "bytes": 4 * parameters}
    return asked, left[name]


def page(rows: list[dict[str, Any]]) -> str:
    """The table of the page."""
    lines = [f"| model | {' | '.join(SIZES)} |", "|---" * (1 + len(SIZES)) + "|"]
    for row in rows:
        figures = (f"{row['sizes'][label]['left'] / row['sizes'][label]['asked']:.3f}" for label in SIZES)
        lines.append(f"| {row['model']} | {' | '.join(figures)} |")
    return "\n" + "\n".join(lines) + "\n\n"


def main() -> None:
    """Read arguments, prune, write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("ptb", "digits", "reading"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="a finished run")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    torch.set_num_threads(1)
    task, (dense, _) = shipped_models()
    models: dict[str, Callable[[], tuple[nn.Module, Any, Loss]]] = {
        "the demo's, 2 x 256": lambda: trained(task, dense.model),
        "Penn Treebank, 2 x 200": lambda: of_run(given.ptb),
        "digits, 128": lambda: of_run(given.digits),
        "reading, BiDAF": lambda: of_run(given.reading),
        "Resemblyzer, 3 x 256": speaker_encoder,
    }
    rows = []
    for name, make in models.items():
        model, example, loss = make()
        row: dict[str, Any] = {"model": name, "sizes": {}}
        for label, size in SIZES.items():
            asked, left = pruned(model, example, loss, size, given.steps)
            row["sizes"][label] = {"asked": asked, "left": left}
            print(f"{name}, {label}: {left / asked:.3f} of what was asked for", flush=True)
        rows.append(row)
    content = {"what": "sizes that pruning met", "steps": given.steps, "machine": describe_machine(), "rows": rows}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "sizes", page(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
