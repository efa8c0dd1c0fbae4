"""Outputs are the same bits on every instruction set and as recorded; `native/tests/run.sh` adds Arm's."""

import pytest

from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from golden_models import FOLDER, checksum

WANTED = dict(line.split() for line in (FOLDER / "checksums.txt").read_text().splitlines())


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("name", sorted(WANTED))
def test_outputs_are_as_ever(name, isa):
    assert f"{checksum(FOLDER / name, isa):08x}" == WANTED[name]


def test_every_model_has_a_checksum():
    assert {path.name for path in FOLDER.glob("*.crnn")} == set(WANTED)
