"""docs/cells.md is made of the code."""

from cells_page import PAGE, page


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == page(), "python tests/cells_page.py makes it"
