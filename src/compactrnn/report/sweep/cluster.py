"""Ray: a cluster of processes that ends with the command, or one that exists; tasks on it."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..._errors import invalid, missing_extra
from ..._machine import available_cores

_STORE = 80 << 20  # bytes of shared memory; nothing large is sent
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what it prints of workers that end, which the sweep reports itself
}
_CONNECT = 10.0  # seconds; Ray itself would try for two minutes


class Cluster:
    """Runs `check` and `work` of `work.py` in worker processes; a task of it is whatever `submit` gives."""

    def __init__(self, ray: Any, threads: int, gpus: int):
        self._ray = ray
        options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 0}
        self._call = ray.remote(_call).options(**options)

    def submit(self, name: str, job: Any) -> Any:
        """Start the function `name` with a job on the next processor that is free."""
        return self._call.remote(name, job)

    def wait(self, tasks: Iterable[Any], seconds: float) -> list[Any]:
        """The first of the tasks to end, if one does within so many seconds."""
        return self._ray.wait(list(tasks), num_returns=1, timeout=seconds)[0]

    def result(self, task: Any) -> Any:
        """What the function returned; its error if it raised one.

        Raises:
            ChildProcessError: its process has ended: killed, out of memory, or by `cancel`.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.TaskCancelledError:
            raise ChildProcessError("interrupted") from None
        except errors.RayTaskError as error:
            cause: Any = error.cause
            raise cause if isinstance(cause, Exception) else ChildProcessError(str(error)) from None
        except errors.RayError as error:
            raise ChildProcessError(str(error).partition("\n")[0]) from None

    def cancel(self, task: Any) -> None:
        """Let the function end as by Ctrl-C."""
        self._ray.cancel(task)


@contextmanager
def connect(workers: int | None, threads: int, gpus: int, address: str | None) -> Iterator[tuple[Cluster, int]]:
    """A cluster, and how many tasks of so many threads and GPUs it runs at a time, at most `workers` if given.

    Raises:
        ImportError: Ray is not installed.
        ValueError: there is no cluster at the address, or it is too small for one task.
    """
    os.environ |= _SETTINGS  # it reads them when it is imported
    if address is None:  # a token of its own; Ray would write one to the home folder
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing_extra("compactrnn sweep", "sweep") from error
    own = None
    if address is None:
        workers = workers or max(1, available_cores() // threads)
        own = tempfile.mkdtemp(prefix="compactrnn-ray-")
        settings: Any = {"address": "local", "num_cpus": workers * threads, "include_dashboard": False}
        settings |= {"object_store_memory": _STORE, "_temp_dir": own}
    else:
        _check_address(address)
        settings = {"address": address}
    try:
        try:
            ray.init(**settings, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:  # the last one after long waiting
            if own is not None:
                raise ChildProcessError(f"Ray could not start a cluster on this machine: {error}") from error
            raise _unreachable(address, str(error)) from error
        there = ray.cluster_resources()
        room = [there.get("CPU", 0) // threads, *([there.get("GPU", 0) // gpus] if gpus else [])]
        if (most := int(min(room))) < 1:
            got = f"{there.get('CPU', 0):g} processors and {there.get('GPU', 0):g} GPUs"
            raise invalid("Ray cluster", got=got, expected=f"at least {threads} and {gpus}, which one run takes")
        yield Cluster(ray, threads, gpus), min(workers or most, most)
    finally:
        ray.shutdown()
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)


def _call(name: str, job: Any) -> Any:
    """On a worker: `check` or `work`."""
    # torch asks for large pages only if it finds this when it is loaded; activations of long sequences are large
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from . import work

    return getattr(work, name)(job)


def _check_address(address: str) -> None:
    """Raise `ValueError` where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdigit():
        raise _unreachable(address, "no HOST:PORT")
    try:
        socket.create_connection((host, int(port)), _CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str | None, reason: str) -> ValueError:
    return invalid(
        "--address",
        got=f"{address} ({reason})",
        expected="auto, HOST:PORT or ray://HOST:PORT of a Ray cluster that is running",
        hint="ray start --head starts one; with RAY_AUTH_MODE=token in its environment Ray sends the token of ~/.ray",
    )
