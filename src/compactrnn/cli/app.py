"""The command-line application."""

from typing import Annotated

import typer

from .. import __version__
from . import bench, data, demo, evaluate, info, init, pack, report, run, sweep, train
from .errors import reported

app = typer.Typer(
    name="compactrnn",
    help="""Compact recurrent networks: train, compress, evaluate and run them natively.

    A demonstration, one minute:

        compactrnn demo

    A first round trip of your own, two minutes:

        compactrnn train recipes/alice-tiny.toml --out runs/tiny

        compactrnn pack runs/tiny tiny.crnn --weights int8

        compactrnn eval tiny.crnn --data alice

        compactrnn bench tiny.crnn

    Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted.""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compactrnn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command("demo")(reported(demo.demo))
app.command("init")(reported(init.init))
app.command("train")(reported(train.train))
app.command("sweep")(reported(sweep.sweep))
app.command("eval")(reported(evaluate.evaluate))
app.command("pack")(reported(pack.pack))
app.command("run")(reported(run.run))
app.command("bench")(reported(bench.bench))
app.command("info")(reported(info.info))
app.command("report")(reported(report.report))
app.add_typer(data.app, name="data")
