"""What an ONNX file is, and what stands in the way of packing it."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from typing import Any

from .._errors import UnsupportedModelError
from ..runtime.inventory import inventory, parameter_count
from .model_file import ModelFile, subgraphs
from .ports import Port
from .refusals import lower_or_refuse


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """Producer, inputs, outputs and operators of a file; its form and layers if it can be packed, else why not.

    Raises:
        ModelFileError: it is damaged, or no ONNX file.
    """
    file = ModelFile.read(path)
    found: dict[str, Any] = {
        "layers": [],
        "producer": f"{file.proto.producer_name} {file.proto.producer_version}".strip(),
        "opset": file.opsets.get("", 0),
        "inputs": ", ".join(f"{p.name} {list(p.sizes)}" for p in map(Port.of, file.input_protos())),
        "outputs": ", ".join(v.name for v in file.graph.output),
        "operators": ", ".join(f"{op} {n}" for op, n in _operators(file).most_common()),
        "bytes": os.path.getsize(path),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lowered = lower_or_refuse(file)
    except UnsupportedModelError as error:
        return {**found, "in the way": str(error)}
    except ValueError as error:
        return {**found, "missing": str(error)}
    program, form = lowered.program, lowered.form
    return {
        **found,
        "layers": inventory(program),
        "form": f"a sequence along {form.time}" if form.time else "a sequence a step" if form.whole else "one step",
        "frames_per_step": form.frames,
        "sizes": ", ".join(f"{name}={size}" for name, size in form.sizes.items()) or "as in the file",
        "states": ", ".join(f"{s.name} -> {s.output}" for s in form.ports.states) or "none",
        **({"lengths": ", ".join(p.name for p in form.ports.lengths)} if form.ports.lengths else {}),
        "parameters": parameter_count(program),
        "macs_per_step": program.macs_per_step(),
        "offline": program.offline,
    }


def _operators(file: ModelFile) -> Counter[str]:
    count: Counter[str] = Counter()
    pending = [file.graph]
    while pending:
        for node in pending.pop().node:
            count[node.op_type] += 1
            pending += subgraphs(node)
    return count
