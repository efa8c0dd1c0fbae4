"""The models that come with the demo, and their card.

python benchmarks/demo_models.py runs/demo

Takes the dense and the compact model of a folder that `compactrnn demo --train` has written, and writes them, in
float32 as they were trained, with CARD.md into the package. The figures of the card are those of the folder.
"""

import argparse
import hashlib
import json
from pathlib import Path

from compactrnn._checkpoint import save_weights
from compactrnn.report.demo.models import DENSE, SHIPPED
from compactrnn.training.run_folder import RunFolder, load_phase

CARD = """# The demo's models

Character models of *Alice's Adventures in Wonderland* (Lewis Carroll, in the public domain): `dense.safetensors`, two
LSTM layers of {dense[hidden]} units, and `compact.safetensors`, learnt from it by removing whole units:
{compact[hidden]}. Weights in float32, exactly as trained. They are for the demonstration alone: `compactrnn demo`
packs, evaluates and races them.

| | dense | compact |
|---|---|---|
| updates | {dense[updates]:,} | {compact[updates]:,} |
| bits per character, test part, torch | {dense[bits]:.4f} | {compact[bits]:.4f} |
| bits per character, test part, engine int8 | {dense[engine]:.4f} | {compact[engine]:.4f} |
| parameters | {dense[parameters]:,} | {compact[parameters]:,} |
| SHA-256 | `{dense[hash]}` | `{compact[hash]}` |

- **Made by** `compactrnn demo --train --seed {seed}` at commit `{machine[commit]}`,
  written here by `benchmarks/demo_models.py`.
- **Recipe**: `compact.toml` in the folder above: dense training, group lasso, fine-tuning with the dense model as the
  teacher. Seed {seed}, precision {precision}, {threads} threads, {seconds:.0f} seconds.
- **Data**: the text that comes with the package; training, validation and test part are consecutive.
- **Machine**: {machine[processor]}, {machine[cores]} cores, {machine[system]} {machine[architecture]},
  Python {machine[python]}; {versions}.
- **Limits**: they have read one book, and write like it. Other seeds differ by about 0.01 bits per character.

License: Apache-2.0.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    out = parser.parse_args().folder
    folder = RunFolder(out / "runs" / "compact")
    compact, task, recipe = folder.load()
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    result = json.loads(folder.result.read_text(encoding="utf-8"))
    facts = {}
    for name, model in {"dense": load_phase(folder.phase(DENSE), task), "compact": compact}.items():
        path = SHIPPED / f"{name}.safetensors"
        save_weights(path, model.state_dict())
        row = next(row for row in report["rows"] if row["name"] == name)
        facts[name] = {
            "hidden": " and ".join(map(str, row["hidden"])),
            "bits": row["bits_per_character"],
            "engine": row["engine_bits_per_character"],
            "hash": hashlib.sha256(path.read_bytes()).hexdigest(),
            **{key: row[key] for key in ("updates", "parameters")},
        }
    text = CARD.format(
        **facts,
        seed=recipe.training.seed,
        precision=result.get("precision", recipe.training.precision),
        **{key: result[key] for key in ("machine", "threads", "seconds")},
        versions=", ".join(f"{name} {version}" for name, version in result["machine"]["versions"].items()),
    )
    (SHIPPED / "CARD.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
