"""`compactrnn info`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .onnx_file import describe_file
from .output import JsonFlag, print_json, print_record, print_table


def info(
    model: Annotated[Path, typer.Argument(help="A .crnn file, an .onnx file or a run folder.")],
    json: JsonFlag = False,
) -> None:
    """Show the layers of a model, its parameters, bytes and multiply-accumulates per step.

    Example:

        compactrnn info tiny.crnn
    """
    if model.is_dir():
        record = _run_folder(model)
    else:
        record = describe_file(model) if model.suffix.lower() == ".onnx" else _packed(model)
    if json:
        print_json(record)
        return
    layers, reasons = record.pop("layers"), record.pop("reasons", {})
    if layers:
        print_table(str(model), tuple(layers[0]), [tuple(row.values()) for row in layers])
    print_record(
        "all of it" if layers else str(model),
        {k: v if isinstance(v, (int, float)) else str(v) for k, v in record.items()},
    )
    if reasons:
        print_record("why not plainly", {k: str(v) for k, v in reasons.items()})


def _packed(path: Path) -> dict[str, Any]:
    from ..runtime.engine import Engine
    from ..runtime.file import read
    from ..runtime.inventory import inventory, parameter_count
    from ..runtime.source import read_source

    engine, content = Engine(path), read_source(path)[1]
    program = read(content)
    return {
        "layers": inventory(program),
        "operations": len(program.ops),
        "parameters": parameter_count(program),
        "bytes": len(content),
        "macs_per_step": program.macs_per_step(),
        "offline": program.offline,
        "frames_per_step": engine.frames_per_step,
        **(
            {"given_once": ", ".join(i.name for i in engine.inputs if i.once)}
            if any(i.once for i in engine.inputs)
            else {}
        ),
        "states": ", ".join(f"{s.name} {s.shape} in buffer {s.buffer}" for s in program.states),
        "isa": engine.isa,
        "task": engine.metadata.get("task"),
        **_audio(engine.metadata),
        "reasons": _reasons(engine.metadata.get("pack")),
    }


def _audio(metadata: dict[str, Any]) -> dict[str, str]:
    """How the model takes and gives audio, if the file says so."""
    from ..runtime.audio import KEY, Audio

    try:
        return {KEY: str(Audio.from_metadata(metadata))}
    except ValueError:
        return {}


def _reasons(notes: Any) -> dict[str, Any]:
    """Why weights are stored in another type than requested, by name, if the file says so."""
    reasons = notes.get("reasons") if isinstance(notes, dict) else None
    return dict(reasons) if isinstance(reasons, dict) else {}


def _run_folder(path: Path) -> dict[str, Any]:
    from .._checkpoint import load_weights
    from ..training.run_folder import RunFolder

    folder = RunFolder(path)
    config = folder.read_config()
    weights = load_weights(folder.model)
    layers = [
        {"tensor": n, "shape": " x ".join(map(str, t.shape)), "parameters": t.numel()} for n, t in weights.items()
    ]
    result = folder.read_result() if folder.result.exists() else {}
    return {
        "layers": layers,
        "parameters": result.get("parameters", sum(row["parameters"] for row in layers)),
        "bytes": folder.model.stat().st_size,
        "task": config["task"],
        **{name: result[name] for name in ("metric", "valid", "test") if name in result},
    }
