"""Put the result of a finished Penn Treebank run among the committed ones.

    compactrnn train recipes/ptb-small.toml --out runs/ptb-small
    python benchmarks/ptb.py runs/ptb-small

Only figures are kept: neither the text nor weights trained on it may be passed on.
"""

import json
import sys
from pathlib import Path

run = Path(sys.argv[1])
result = json.loads((run / "result.json").read_text(encoding="utf-8"))
if result["metric"] != "perplexity" or result["recipe"]["task"]["data"] != "ptb":
    raise SystemExit(f"{run}: expected one on ptb, got a run on {result['recipe']['task']['data']}")
curve = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
result["epochs"] = [
    {key: line[key] for key in ("update", "learning_rate", "loss", "valid_perplexity")} for line in curve
]
out = Path(__file__).parent / "results" / f"{run.name}.json"
out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
print(f"{out}: test perplexity {result['test']:.2f}, validation {result['valid']:.2f}")
