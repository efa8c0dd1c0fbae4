"""Run the demo from several seeds and keep its figures: python benchmarks/demo.py [seed ...], by default 0 1 2."""

import json
import sys
from pathlib import Path

from compactrnn.report.demo import demo_recipe, run


def main() -> None:
    seeds = [int(text) for text in sys.argv[1:]] or [0, 1, 2]
    reports = []
    for seed in seeds:
        recipe, scratch = (demo_recipe(name, [f"training.seed={seed}"]) for name in ("compact", "from_scratch"))
        report = run(Path("runs") / f"demo-seed-{seed}", recipe, scratch)
        del report["sample"]
        reports.append(report)
        dense, compact, from_scratch = report["rows"]
        quality = " / ".join(f"{row['bits_per_character']:.4f}" for row in (dense, compact, from_scratch))
        print(f"seed {seed}: dense / compact / from scratch {quality} bits per character")
    out = Path(__file__).parent / "results" / "demo.json"
    out.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
