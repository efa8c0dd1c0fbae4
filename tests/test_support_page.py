"""docs/support.md is made of the code."""

import pytest

pytest.importorskip("onnx", reason="the importer reads by it")
from support_page import PAGE, page


def test_the_page_is_what_the_code_does():
    assert PAGE.read_text() == page(), "python tests/support_page.py makes it"
