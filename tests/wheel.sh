#!/usr/bin/env bash
# A wheel, installed with numpy alone into a clean environment, runs a model packed by the full one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
"$PYTHON" - "$work" <<'PY'
import sys
import numpy as np, torch
import compactrnn as cr

torch.manual_seed(0)
x = torch.randn(1, 20, 6)
lstm = torch.nn.LSTM(6, 10, batch_first=True)
cr.pack(lstm, f"{sys.argv[1]}/model.crnn", x, calibration=[x])
np.savez(f"{sys.argv[1]}/case.npz", x=x[0].numpy(), y=lstm(x)[0][0].detach().numpy())
PY
python3 -m venv "$work/clean"
PIP_CONSTRAINT=constraints.txt "$work/clean/bin/python" -m pip install --quiet "$work"/compactrnn-*.whl
cd "$work"
"$work/clean/bin/python" - <<'PY'
import importlib.util, subprocess, sys

assert importlib.util.find_spec("torch") is None
from compactrnn import AudioStream, Engine, Recognizer
import numpy as np

case = np.load("case.npz")
stream = Engine("model.crnn").stream()
steps = np.stack([stream.step(x) for x in case["x"]])
assert np.abs(steps - case["y"]).max() < 0.05, np.abs(steps - case["y"]).max()
bare = subprocess.run([sys.executable, "-m", "compactrnn", "info", "model.crnn"], capture_output=True, text=True)
assert bare.returncode != 0 and "pip install" in bare.stderr and "Traceback" not in bare.stderr, bare.stderr
print("wheel without torch: 1 passed, 0 failed")
PY
