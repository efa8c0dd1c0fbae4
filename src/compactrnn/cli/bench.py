"""`compactrnn bench`."""

import json as json_module
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from .._errors import invalid
from .._files import check_writable, write_json
from .._text import printable
from ..report.bench import FRAMEWORKS, WEIGHTS
from .errors import INTERRUPTED

MOST_STEPS = 1_000_000  # a call


def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="What to measure, see above.", show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Some of torch, onnxruntime, openvino, ncnn; '' for none.", show_default="all")
    ] = None,
    steps: Annotated[str, typer.Option(help="Time steps per call.")] = "1,32",
    weights: Annotated[
        str, typer.Option(help="Weights of the engine: some of int8, int4, float32, auto.")
    ] = "int8,int4,float32",
    rounds: Annotated[int, typer.Option(help="Number of interleaved repetitions.", min=3, max=10_000)] = 15,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file; - for standard output.")] = None,
) -> None:
    """Benchmark single steps: this engine and other frameworks, in one process, on one thread and core.

    A MODEL is one of

    - lstm:40-128, gru:400-400-400: the sizes of the input and of each layer, with random weights;

    - lstm:10000@1500-373-315: the same behind an embedding of 10,000 tokens;

    - a run folder: its language model on its test text;

    - demo: the compact model of `compactrnn demo`, against others running the dense one (demo:FOLDER: of a
      demo that trained there);

    - a .crnn file: ours alone.

    Without a MODEL, a standard set of eight, in about ten minutes. Answers are compared with float before anything is
    timed. Repetitions of all are interleaved; times are medians over the rounds, with quartiles: calls back to back
    (hot), with cold caches, and from C.

    Examples:

        compactrnn bench lstm:40-128 --steps 1

        compactrnn bench runs/tiny --against torch,onnxruntime --json bench.json

        compactrnn bench --json benchmarks/results/bench.json
    """
    baselines: list[str] = [*FRAMEWORKS] if against is None else _some_of("--against", against, FRAMEWORKS)
    kinds = _some_of("--weights", weights, WEIGHTS)
    if not kinds:
        raise invalid("--weights", got="none", expected=f"some of {', '.join(WEIGHTS)}")
    if not all(re.fullmatch("0*[1-9][0-9]*", text) for text in steps.split(",")):
        raise invalid("--steps", got=repr(steps), expected="whole numbers with commas, such as 1,32")
    if any(len(text.lstrip("0")) > len(str(MOST_STEPS)) or int(text) > MOST_STEPS for text in steps.split(",")):
        raise invalid("--steps", got=steps, expected=f"at most {MOST_STEPS:,} a call")
    counts = [int(text) for text in steps.split(",")]
    if json is not None and str(json) != "-":
        json.parent.mkdir(parents=True, exist_ok=True)
        check_writable(json, "--json")
    if against and (files := [name for name in models or () if name.endswith(".crnn")]):
        raise invalid(
            "model", got=f"{files[0]} with --against", expected="a run folder or sizes: a .crnn file has no float model"
        )
    rows, whole = _measure(models, baselines, kinds, counts, rounds)
    from ..report.bench.run import describe

    if json is not None:
        content = {**describe(rows, rounds), **({} if whole else {"interrupted": True})}
        if str(json) == "-":
            typer.echo(json_module.dumps(content, indent=1))
        else:
            write_json(json, content)
    if str(json) != "-":
        from rich.console import Console

        from ..report.bench.show import show

        show(rows, Console(width=max(Console().width, 108)))
    if not whole:
        typer.echo("compactrnn: interrupted; these are the models measured before", err=True)
        raise typer.Exit(INTERRUPTED)


def _measure(
    models: list[str] | None, baselines: list[str], kinds: list[str], counts: list[int], rounds: int
) -> tuple[list[Any], bool]:
    """The rows, and whether the measurement is complete."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from ..report.bench.cases import STANDARD, case
    from ..report.bench.run import measure

    names, rows = list(models or STANDARD), []
    # drawn between repetitions only: a thread that draws would take its time from what is measured
    console = Console(stderr=True)
    with Progress(console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as bar:
        line = bar.add_task("", total=len(names) * len(counts))

        def show(done: float, description: str | None = None) -> None:
            shown = None if description is None else escape(printable(description))
            bar.update(line, completed=done, description=shown, refresh=True)

        try:
            for done, name in enumerate(names):
                show(done * len(counts), description=name)
                one = case(name, kinds)
                for number, count in enumerate(counts, done * len(counts)):
                    show(number, description=f"{name}, {count} a call")
                    rows += measure(one, baselines, count, rounds, lambda part, begun=number: show(begun + part))
        except KeyboardInterrupt:
            return rows, False
    return rows, True


def _some_of(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise invalid(option, got=", ".join(unknown), expected=f"some of {', '.join(known)}, with commas")
    return names
