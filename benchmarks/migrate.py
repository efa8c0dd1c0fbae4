"""What the blocks of docs/migrate.md give, and the tables of that page.

python benchmarks/migrate.py [--seed 0]       # trains, judges and times, and writes results/migrate.json and the page
python benchmarks/migrate.py --time           # times what was trained before, on an idle machine
python benchmarks/migrate.py --page           # writes the page alone

The blocks are executed as they stand, for an LSTM all of them, for a GRU those on quantization. Added is what a page
has no room for: Torch-Pruning with a pruner and an importance written for recurrent layers, with which it can cut them.
It gets the updates, the rate and the share of units of ours.

Bits per character are of the test text, one stream from its first to its last character, by the very runners that are
timed. Times are of single steps from Python, batch 1, one thread pinned to one core, all runners of a cell interleaved
in one process. torch runs in every form of `compactrnn bench`, and a row has its fastest. A ratio is the median over
rounds of the time of torch's fastest float32 form of the dense model over that of the row, with its quartiles.
"""

import argparse
import copy
import json
import os
import re
import warnings
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from compactrnn import Engine
from compactrnn._checkpoint import load_weights, save_weights
from compactrnn._machine import describe_machine
from compactrnn.report.bench.engine_runner import EngineRunner
from compactrnn.report.bench.model import Layer, PlainModel
from compactrnn.report.bench.run import enter
from compactrnn.report.bench.timing import answers_of, one_core, time_interleaved
from compactrnn.report.bench.torch_model import NAMES, TorchModel, answers
from compactrnn.report.bench.torch_runner import CONFIGS, torch_settings_kept
from compactrnn.report.insert import insert

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "migrate.md", ROOT / "benchmarks" / "results" / "migrate.json"
CELLS = {"LSTM": nn.LSTM, "GRU": nn.GRU}
ROUNDS = 21
INT8 = "torch int8"  # the names of torch's forms that quantize_dynamic makes begin with it


def blocks() -> list[str]:
    """The Python of the page, in its order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


class UnitPruner(tp.pruner.function.BasePruningFunc):
    """The units of a recurrent layer of one direction, for Torch-Pruning: rows of all gates, and columns."""

    TARGET_MODULES = tuple(CELLS.values())

    def prune_out_channels(self, layer: Any, idxs: list[int]) -> nn.Module:
        size = layer.hidden_size
        keep = torch.tensor(sorted(set(range(size)) - set(idxs)))
        rows = torch.cat([keep + start for start in range(0, len(layer.bias_hh_l0), size)])
        for name in (f"{name}_l0" for name in NAMES):
            setattr(layer, name, self._prune_parameter_and_grad(getattr(layer, name), rows, 0))
        layer.weight_hh_l0 = self._prune_parameter_and_grad(layer.weight_hh_l0, keep, 1)
        layer.hidden_size = len(keep)
        return layer

    def prune_in_channels(self, layer: Any, idxs: list[int]) -> nn.Module:
        keep = torch.tensor(sorted(set(range(layer.input_size)) - set(idxs)))
        layer.weight_ih_l0 = self._prune_parameter_and_grad(layer.weight_ih_l0, keep, 1)
        layer.input_size = len(keep)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return layer.hidden_size

    def get_in_channels(self, layer: Any) -> int:
        return layer.input_size


def importance(group: Any) -> torch.Tensor:
    """Norm of all that writes and reads a unit."""
    squares = []
    for dependency, _ in group:
        module = dependency.target.module
        if isinstance(module, UnitPruner.TARGET_MODULES):
            rows = torch.cat([module.weight_ih_l0, module.weight_hh_l0], 1).square().sum(1)
            squares += [rows.view(-1, module.hidden_size).sum(0), module.weight_hh_l0.square().sum(0)]
        elif isinstance(module, nn.Linear):
            squares.append(module.weight.square().sum(0))
    return torch.stack(squares).sum(0).sqrt()


def unit_pruner(model: Any, example: torch.Tensor, cuts: int) -> Any:
    """Torch-Pruning for half of the units of the page's model, in so many cuts."""
    kinds = list(UnitPruner.TARGET_MODULES)
    return tp.pruner.BasePruner(
        model,
        example,
        importance,
        pruning_ratio=0.5,
        iterative_steps=cuts,
        ignored_layers=[model.embedding, model.head],
        customized_pruners={kind: UnitPruner() for kind in kinds},
        root_module_types=kinds,
    )


def cut_by_torch_pruning(names: dict[str, Any]) -> Any:
    """The best form that we know: 5 cuts, with training after each of them."""
    model, updates, cuts = copy.deepcopy(names["model"]), names["updates"] // 2, 5
    pruner = unit_pruner(model, names["valid"][None, :64], cuts)
    for _ in range(cuts):
        pruner.step()
        names["train"](model, updates // 10, 2e-3)
    names["train"](model, updates - cuts * (updates // 10), 2e-3)
    return model


def plain(model: Any) -> PlainModel:
    """The page's model as arrays."""
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    cell = type(model.rnn).__name__.lower()
    layer = Layer(cell, *(weights[f"rnn.{name}_l0"] for name in NAMES))
    return PlainModel((layer,), weights["embedding.weight"], (weights["head.weight"], weights["head.bias"]))


def trained(cell: str, seed: int, folder: Path, updates: int | None = None) -> dict[str, Any]:
    """Execute the page in `folder`: its names, and the weights of models that torch runs, in files."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    names: dict[str, Any] = {}
    try:
        for code in blocks():
            if "torch_pruning" in code:  # for recurrent layers it is what cut_by_torch_pruning adds that works
                continue
            torch.manual_seed(seed)
            exec(code, names)
            names["layer"] = CELLS[cell]
            names["updates"] = updates or names["updates"]
            if cell == "GRU" and "stream" in names:
                break
        models = {"dense": names["model"]}
        if cell == "LSTM":
            torch.manual_seed(seed)
            models |= {"masked": names["masked"], "torch-pruning": cut_by_torch_pruning(names)}
        for name, model in models.items():
            save_weights(Path(f"{name}.safetensors"), model.state_dict())
    finally:
        os.chdir(before)
    return names


def load(cell: str, folder: Path, names: dict[str, Any]) -> dict[str, PlainModel]:
    """The models that torch runs."""
    models = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights = load_weights(path)
        units = weights["rnn.weight_hh_l0"].shape[1]
        model = names["CharModel"](CELLS[cell], len(names["symbols"]), units)
        model.load_state_dict(weights)
        models[path.stem] = plain(model.eval())
    return models


def rows_of(cell: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each model and type of weights: bytes, bits per character, time."""
    names: dict[str, Any] = {}
    exec(blocks()[0], names)
    test = names["test"].numpy()
    inputs = list(test[:-1, None])
    runners, sizes = {}, {}
    with ExitStack() as stack:
        stack.enter_context(one_core())
        stack.enter_context(torch_settings_kept())
        for name, model in load(cell, folder, names).items():
            module = TorchModel(model)
            entries = enter(CONFIGS, model, 1, inputs[:64], lambda given, module=module: answers(module, given))
            runners |= {f"{name}, {e.config.name}": e.runner for e in entries if e.runner is not None}
            sizes |= {f"{name}, {kind}": saved_bytes(model, kind, folder) for kind in ("float32", INT8)}
        for path in sorted(folder.glob("*.crnn")):
            engine = Engine(path)
            runners[path.stem] = EngineRunner(engine, path.read_bytes(), 1)
            sizes[path.stem] = path.stat().st_size
        times = {name: found["hot"] for name, found in time_interleaved(runners, inputs[:512], rounds=rounds).items()}
        rows = []
        for name in sizes:
            forms = {n: t for n, t in times.items() if n == name or form_of(n) == name}
            fastest = min(forms, key=lambda form: forms[form].median)
            dense = {n: t for n, t in times.items() if form_of(n) == "dense, float32"}
            reference = min(dense.values(), key=lambda timing: timing.median)
            ratios = np.divide(reference.repetitions, times[fastest].repetitions)
            low, middle, high = (float(f"{q:.3g}") for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
            row = {"cell": cell, "model": name, "bytes": sizes[name], "form": fastest}
            row |= {"bits": bits(runners[fastest], inputs, test[1:]), "times faster": middle, "quartiles": [low, high]}
            rows.append(row | {"microseconds": {form: timing.as_dict() for form, timing in forms.items()}})
    return rows


def form_of(runner: str) -> str:
    """The model and the type of a torch form's runner: "dense, torch cells" -> "dense, float32"."""
    model, _, config = runner.partition(", ")
    return f"{model}, {INT8 if config.startswith(INT8) else 'float32'}" if config else ""


def bits(runner: Any, inputs: list[np.ndarray], targets: np.ndarray) -> float:
    """Bits per character, the state carried from step to step."""
    logits = torch.as_tensor(answers_of(runner, inputs))
    return round(float(nn.functional.cross_entropy(logits, torch.as_tensor(targets))) / float(np.log(2)), 4)


def saved_bytes(model: PlainModel, kind: str, folder: Path) -> int:
    """The size of torch's file of the state dict, as the page writes it."""
    module: Any = TorchModel(replace(model))
    if kind == INT8:
        module = torch.ao.quantization.quantize_dynamic(module, {nn.LSTM, nn.GRU, nn.Linear}, dtype=torch.qint8)
    path = folder / "size.pt"
    torch.save(module.state_dict(), path)
    return path.stat().st_size


SECTIONS = {
    "quantize": {
        "dense, float32": "torch, float32",
        f"dense, {INT8}": "`quantize_dynamic`",
        "model": "compactrnn, int8",
        "model-int4": "compactrnn, int4",
    },
    "prune": {
        "dense, float32": "torch, float32",
        "masked, float32": "`torch.nn.utils.prune`",
        f"masked, {INT8}": "the same, then `quantize_dynamic`",
        "masked": "the same, then `cr.pack`, int8",
        "sparse": "`cr.Magnitude`, int8",
        "small": "`cr.GroupLasso`, half of the units (below), int8",
    },
    "torch-pruning": {
        "dense, float32": "torch, float32",
        "torch-pruning, float32": "Torch-Pruning, with a pruner of one's own",
        f"torch-pruning, {INT8}": "the same, then `quantize_dynamic`",
        "small": "`cr.GroupLasso`, int8",
    },
}


def table(section: str, rows: list[dict[str, Any]]) -> str:
    """The rows of a section, of each cell that has them all."""
    labels = SECTIONS[section]
    lines = ["| layer | | bytes of the file | bits per character | times faster than torch in float32 | form |"]
    lines.append("|---|---|---|---|---|---|")
    for cell in CELLS:
        found = {row["model"]: row for row in rows if row["cell"] == cell}
        for name, label in labels.items() if labels.keys() <= found.keys() else ():
            row = found[name]
            low, high = row["quartiles"]
            faster = "1" if low == high == 1 else f"{row['times faster']:.3g} ({low:.3g} to {high:.3g})"
            form = row["form"].partition(", ")[2] or "`Stream.step`"
            lines.append(f"| {cell} | {label} | {row['bytes']:,} | {row['bits']:.3f} | {faster} | {form} |")
    return "\n" + "\n".join(lines) + "\n\n"


def about(report: dict[str, Any]) -> str:
    """Machine, kernels and versions."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    run = f"One run, seed {report['seed']}, {report['rounds']} rounds; {machine['processor']}, kernels {report['isa']}"
    load = f"load of the machine {report['load_of_the_machine']} on {machine['cores']} processors"
    return f"\n{run}; {load}; {versions}; commit {str(machine['commit'])[:9]}.\n\n"


def filled(page: str) -> str:
    """The page with the figures of the result file."""
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    for section in SECTIONS:
        page = insert(page, section, table(section, report["rows"]))
    return insert(page, "machine", about(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "migrate")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="those to train")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if not given.page:
        if not given.time:
            for cell in given.cells:
                trained(cell, given.seed, given.runs / cell)
                print(cell, flush=True)
        rows = [row for cell in CELLS for row in rows_of(cell, given.runs / cell, given.rounds)]
        machine = describe_machine()
        machine["versions"]["torch-pruning"] = version("torch-pruning")
        isa = Engine(given.runs / "LSTM" / "model.crnn").isa
        result = {"what": "what the blocks of docs/migrate.md give", "seed": given.seed, "rounds": given.rounds}
        result |= {"isa": isa, "threads": 1, "load_of_the_machine": round(os.getloadavg()[0], 1)}
        result |= {"machine": machine, "rows": rows}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
