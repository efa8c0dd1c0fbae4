"""What holds for every test: what may be left out, and why."""

import importlib
import importlib.util
import os
import signal
from pathlib import Path

import pytest

CI = os.environ.get("CI", "").lower() in ("1", "true")
# what a machine may really not have; under CI anything else that cannot run is a failure
TRUE_REASONS = ("needs a GPU", "data folder", "the processor has no", "so it has no streams")

# modules that are to be imported for their examples, and the packages of the extra `bench` that they need
_BENCH = Path("src/compactrnn/report/bench")
_PEERS = {
    "ncnn_forms.py": ["ncnn"],
    "onnx_files.py": ["onnx"],
    "onnxruntime_forms.py": ["onnx", "onnxruntime"],
    "openvino_forms.py": ["onnx", "openvino"],
}
_MISSING = {
    str(_BENCH / file): name
    for file, names in _PEERS.items()
    for name in names
    if importlib.util.find_spec(name) is None
}
collect_ignore = list(_MISSING)


_SOURCE = Path(__file__).parent / "src"


def pytest_collect_file(file_path: Path) -> None:
    """Imports the package of a module before pytest does the module: else those that a package imports exist twice."""
    if file_path.suffix == ".py" and file_path.is_relative_to(_SOURCE / "compactrnn"):
        importlib.import_module(".".join(file_path.relative_to(_SOURCE).parent.parts))


def pytest_report_header() -> list[str]:
    """Says what is left out."""
    return [f"{file}: left out, {name} is not installed (pip install '.[bench]')" for file, name in _MISSING.items()]


def pytest_configure() -> None:
    """Under CI all of it must be there; tests that are interrupted begin as in a shell in the foreground."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is inherited as ignored
    if CI and _MISSING:
        raise pytest.UsageError(
            f"CI: {', '.join(sorted(set(_MISSING.values())))} not installed; pip install '.[bench]'"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Under CI a test that cannot run has failed."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """The same for a whole file."""
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not CI or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(known in reason for known in TRUE_REASONS):
        report.outcome = "failed"
        report.longrepr = f"CI: a check that cannot run is a failure: {reason}"
