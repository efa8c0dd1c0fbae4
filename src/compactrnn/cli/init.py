"""`compactrnn init`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .._errors import invalid
from .._files import check_writable, write_atomically
from .output import JsonFlag, print_json, print_line, print_table


def init(
    file: Annotated[
        str, typer.Argument(help="A .csv, .npz or .ts file, or FILE.npz/FOLDER; .csv and .ts also as .gz.")
    ],
    task: Annotated[
        Literal["classification", "regression", "forecasting"] | None,
        typer.Option(help="What to learn.", show_default="what the file looks like"),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="What to predict; repeatable for numbers.")
    ] = None,
    sequence: Annotated[
        str, typer.Option(metavar="COLUMN", help="Of a .csv file: lines with the same entry are a sequence.")
    ] = "",
    group: Annotated[
        str, typer.Option(metavar="COLUMN", help="What stays together in one part: a person, a machine, a place.")
    ] = "",
    category: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column of texts that look like numbers; repeatable.")
    ] = None,
    test: Annotated[str, typer.Option(metavar="FILE", help="A file of its own for the test part.")] = "",
    window: Annotated[
        int | None,
        typer.Option(
            help="Steps that the model reads.", min=1, max=1 << 24, show_default="48, or less; of sequences all"
        ),
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(help="Steps ahead to forecast.", min=1, max=1 << 16, show_default="6, or less")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The recipe to write, a new file.", show_default="NAME OF THE FILE.toml")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Look at a file of sequences, say what it holds, and write a recipe that trains as it is.

    A .csv file has a step a line and names of columns in the first one; a .ts file is of the UEA and UCR archives; an
    .npz file has arrays x, lengths, and an entry a sequence in others. docs/own-data.md has the details.

    Examples:

        compactrnn init pm25.csv.gz --target pm2.5 --horizon 6

        compactrnn train pm25.toml

        compactrnn pack runs/pm25 pm25.crnn

        compactrnn eval pm25.crnn --data pm25.csv.gz

        compactrnn init Vowels_TRAIN.ts --test Vowels_TEST.ts --out vowels.toml
    """
    from ..training.first_recipe import Wishes, first_recipe

    out = Path(f"{Path(file).name.partition('.')[0]}.toml") if out is None else out
    if check_writable(out, "--out").exists():
        raise invalid("--out", got=f"{out}, which is there", expected="a new file", hint="name another one: --out FILE")
    wishes = Wishes(task, tuple(target or ()), sequence, group, tuple(category or ()), test, window, horizon)
    recipe = first_recipe(file, wishes)
    write_atomically(out, recipe.text.encode(), "recipe")
    record = _record(recipe, out)
    if json:
        print_json(record)
        return
    found = recipe.found
    rows = [(c.name, c.role, c.distinct, c.missing, "sequence" if c.of_sequences else "step") for c in found.columns]
    print_table(found.path, ("column", "what", "different", "missing", "one a"), rows)
    print_table(
        "", ("", ""), [(name, _shown(value)) for name, value in record.items() if name not in ("columns", "file")]
    )
    print_line(f"next: compactrnn train {out}")


def _record(recipe: Any, out: Path) -> dict[str, Any]:
    found, section = recipe.found, recipe.section
    lengths = found.lengths
    names = ("name", "what", "different", "missing", "of_sequences")
    rows = [(c.name, c.role, c.distinct, c.missing, c.of_sequences) for c in found.columns]
    return {
        "file": found.path,
        "steps": found.steps,
        **({} if lengths is None else {"sequences": len(lengths), "lengths": [int(lengths.min()), int(lengths.max())]}),
        **({"gaps": found.gaps} if found.gaps else {}),
        "columns": [dict(zip(names, row, strict=True)) for row in rows],
        "task": recipe.task,
        "target": section.get("target") or ", ".join(section["targets"]),
        "channels": len(section["channels"]),
        **({"classes": list(recipe.classes)} if recipe.classes else {}),
        **{name: section[name] for name in ("group", "time", "missing", "window", "horizon") if name in section},
        **{f"{part} sequences": count for part, count in recipe.sequences.items()},
        "recipe": str(out),
    }


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
