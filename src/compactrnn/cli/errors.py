"""A user's mistake ends in one sentence and an exit code, not in a traceback."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

FAILURE, BAD_INPUT, INTERRUPTED = 1, 2, 130


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with its errors as sentences; COMPACTRNN_TRACEBACK=1 shows where they come from."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (ImportError, FloatingPointError, ChildProcessError) as error:
            _end(error, FAILURE)
        except (ValueError, OSError) as error:
            _end(error, BAD_INPUT)
        except KeyboardInterrupt as error:
            _end(error, INTERRUPTED, "interrupted; a run that had begun goes on with --resume")

    return run


def _end(error: BaseException, code: int, sentence: str | None = None) -> None:
    if os.environ.get("COMPACTRNN_TRACEBACK"):
        raise error
    if sentence is None:
        sentence = str(error)
        if isinstance(error, ModuleNotFoundError) and error.name:
            sentence = f"this command needs {error.name}; run: pip install 'compactrnn[torch]'"
    print(f"compactrnn: {sentence}", file=sys.stderr)
    raise typer.Exit(code) from None
