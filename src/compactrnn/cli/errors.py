"""Errors of the command line: one sentence and an exit code, no traceback."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from .._text import sentence

FAILURE, BAD_INPUT, INTERRUPTED = 1, 2, 130
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print a command's errors as one sentence; COMPACTRNN_DEBUG=1 shows the traceback."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
            print(end="", flush=True)  # nothing where standard output is closed
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("COMPACTRNN_DEBUG"):
                raise
            if isinstance(error, BrokenPipeError):  # who reads has had enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(FAILURE) from None
            code, text = _verdict(error)
            print(f"compactrnn: {sentence(text)}", file=sys.stderr)
            raise typer.Exit(code) from None

    return run


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; train goes on with --resume, demo --train and sweep with the same command"
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = "onnx" if error.name == "onnx" else "torch"
        return FAILURE, f"this command needs {error.name}; run: pip install 'compactrnn[{extra}]'"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    ):
        return FAILURE, f"not enough memory ({error}); make the model, the batch or the number of steps smaller"
    if isinstance(error, (ImportError, FloatingPointError, ChildProcessError)):
        return FAILURE, str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return BAD_INPUT, f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, (ValueError, OSError)):
        return BAD_INPUT, str(error)
    what = f"{type(error).__name__}: {error}"
    return FAILURE, f"internal error, a bug of compactrnn ({what}); COMPACTRNN_DEBUG=1 shows the traceback"
