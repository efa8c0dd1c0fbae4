"""A training run in a process of its own, beside this one."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .progress import Silent
from .recipe import Recipe, recipe_from
from .train import train


class Beside:
    """Starts at once, or goes on where it stopped; its progress is shown here; `wait` for its result."""

    def __init__(self, recipe: Recipe, out: Path, shown: Silent):
        self._shown, self._result, self._failure = shown, {}, "it was killed"
        context = multiprocessing.get_context("spawn")
        self._told, tell = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(recipe.as_dict(), str(out), tell), daemon=True)
        self._process.start()
        tell.close()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait(self) -> dict[str, Any]:
        """The result of `train`."""
        self._process.join()
        self._listener.join()
        if self._process.exitcode:
            raise ChildProcessError(f"the training run beside this one ended early: {self._failure}")
        return self._result

    def _listen(self) -> None:
        while True:
            try:
                name, *values = self._told.recv()
            except EOFError:
                return
            if name == "result":
                self._result = values[0]
            elif name == "failure":
                self._failure = values[0]
            else:
                getattr(self._shown, name)(*values)


class _Teller(Silent):
    """Progress as messages."""

    def __init__(self, tell: Connection):
        self._tell = tell

    def begin(self, phase: str, total: int, done: int) -> None:
        self._tell.send(("begin", phase, total, done))

    def advance(self, done: int, loss: float) -> None:
        self._tell.send(("advance", done, loss))

    def quality(self, text: str) -> None:
        self._tell.send(("quality", text))


def _run(recipe: dict[str, Any], out: str, tell: Connection) -> None:
    try:
        tell.send(("result", train(recipe_from(recipe), out, resume=True, progress=_Teller(tell))))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        tell.send(("failure", str(error)))
        raise SystemExit(1) from None
