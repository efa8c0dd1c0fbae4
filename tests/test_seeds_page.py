from scripts import benchmark


def test_the_page_has_the_figures_of_the_result_files():
    page = benchmark("seeds_page")
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run: python benchmarks/seeds_page.py"
    assert page.filled(text.replace("of the parameters removed", "fewer")) == text


def test_what_is_not_among_the_results_is_not_claimed():
    page = benchmark("seeds_page")
    row = page.line(page.Claim("smaller", "`a command`", lambda: page.words("cut:everything:1000")))
    assert row == "| smaller | `a command` | not claimed: not trained yet (cut:everything:1000) |\n"
