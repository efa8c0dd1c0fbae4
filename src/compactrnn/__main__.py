"""`python -m compactrnn`, and the `compactrnn` command."""

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"compactrnn: the command line needs {error.name}; run: pip install 'compactrnn[cli]'", file=sys.stderr)
        raise SystemExit(1) from None
    from .cli.app import app

    app(prog_name="compactrnn")


if __name__ == "__main__":
    main()
