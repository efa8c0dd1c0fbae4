from scripts import benchmark


def test_the_page_has_the_committed_figures():
    page = benchmark("delta_page")
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run: python benchmarks/delta_page.py"
    assert page.filled(text.replace("| dense |", "| another |")) == text
