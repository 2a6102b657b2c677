"""The README and the pages of docs/: generated parts, error texts, code, links."""

import re

import pytest
from conftest import ROOT

from pipeline import documentation
from pipeline.settings import RULES

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sources():
    """Rule -> rules whose files it takes, from Snakemake."""
    return documentation.sources_of_rules()


@pytest.mark.workflow
def test_generated_parts_of_the_readme_are_fresh(sources):
    parts = {
        documentation.RULEGRAPH: documentation.rulegraph(sources),
        documentation.KEYS: documentation.key_table(),
    }
    assert documentation.with_parts(README, parts) == README, "run: make docs"


@pytest.mark.workflow
def test_page_of_dependencies_is_fresh(sources):
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert documentation.dependencies(sources) == text, "run: make docs"
    assert all(f"## {rule}" in text for rule in RULES)


@pytest.mark.workflow
def test_rulegraph_shows_every_rule_and_what_follows_from_its_arrows_is_all_there_is(sources):
    text = documentation.rulegraph(sources)
    shown, _, rest = text.partition("Only other targets use")
    assert set(re.findall(r"\w+", rest)) | set(sources) == documentation.rules_with_files()
    arrows = set()
    for line in re.findall(r"^  (.+ --> .+)$", shown, re.MULTILINE):
        first, second = (side.split(" & ") for side in line.split(" --> "))
        arrows |= {(a, b) for a in first for b in second}
    assert {name for arrow in arrows for name in arrow} == set(sources)

    def closed(edges):
        reached = set(edges)
        while more := {(a, d) for a, b in reached for c, d in edges if b == c} - reached:
            reached |= more
        return reached

    assert closed(arrows) == closed({(a, b) for b in sources for a in sources[b]})
    for arrow in arrows:
        assert arrow not in closed(arrows - {arrow}), f"{arrow} follows from the others"
