"""The README and the pages of docs/: generated parts, error texts, code, links."""

import ast
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import snakemake.exceptions
import torch
import yaml
from checkouts import checkout, planned
from checkouts import snakemake as run_snakemake
from conftest import ROOT
from snakemake.utils import update_config

from pipeline import documentation
from pipeline.code_digest import SCRIPTS
from pipeline.config import validated
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


def bounds_of(rule):
    """Yield every keyword of a schema, at any depth, that bounds a number."""
    for key, value in rule.items() if isinstance(rule, dict) else ():
        if "imum" in key and not isinstance(value, dict):
            yield key
        for part in value if isinstance(value, list) else [value]:
            yield from bounds_of(part)


def test_every_bound_of_a_number_is_in_the_table_of_keys():
    schema = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
    assert set(bounds_of(schema)) == set(documentation.BOUNDS)
    rule = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    assert documentation.allowed(rule) == "number, >= 0, < 1"


@pytest.mark.workflow
def test_page_of_dependencies_is_fresh(sources):
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert documentation.dependencies(sources) == text, "run: make docs"
    assert all(f"## {rule}" in text for rule in RULES)


def test_page_of_columns_is_fresh():
    text = (ROOT / "docs/columns.md").read_text(encoding="utf-8")
    assert documentation.columns() == text, "run: make docs"


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


def section(title):
    """The text under a heading of the README."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text, language):
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_sections_stand_in_the_order_that_a_reader_needs():
    order = ["Two commands", "CIFAR-10 on a laptop", "Paper scale", "Rulegraph", "Layout"]
    order += ["Configuration", "Results", "Your own model and data", "Cluster", "Troubleshooting"]
    found = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert [title for title in found if title in order] == order
    assert found[0] == order[0] and found[-1] == "How to cite"


def messages():
    """Every string of the code that is no docstring, with None where a value is filled in."""
    for path in SCRIPTS.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and node not in docstrings:
                yield str(node.value)


def said(text, strings):
    """Whether one of the strings holds a text, whose "..." stand for what is filled in."""
    fixed = [re.escape(piece.strip()) for piece in text.split("...") if piece.strip()]
    return any(re.search(".*".join(fixed), string, re.DOTALL) for string in strings)


def test_error_texts_of_the_troubleshooting_are_those_of_the_code():
    strings = list(messages())
    rows = re.findall(r"^\| (`.+?) \| .+ \|$", section("Troubleshooting"), re.MULTILINE)
    texts = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(rows) >= 15 and len(texts) > len(rows)
    for text in texts:
        assert hasattr(snakemake.exceptions, text) or said(text, strings), text
    assert not said("the inequality ... is bent", strings)
    assert not said("was stored by the job; does not suffice", strings)


@pytest.mark.workflow
def test_reading_lines_run_on_finished_results_as_printed(reported):
    code, *others = blocks(section("Results"), "python")
    assert not others
    process = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=reported, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert "inefficiency_low" in process.stdout and "/warm'" in process.stdout
    assert re.findall(r" (8|16) +(cold|warm) +[\d.]+ +[\d.]+", process.stdout) == [
        ("8", "cold"),
        ("8", "warm"),
        ("16", "cold"),  # does not reach a warm start in the miniature
    ]


def test_library_lines_run_on_a_network_as_printed(capsys):
    code = blocks(section("Your own model and data"), "python")[0]
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    start = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    moved = start + 0.01 * torch.linspace(0, 1, 3)[:, None] * torch.randn(len(start))
    names = {
        "network": network,
        "inputs": torch.randn(4, 3),
        "targets": torch.randn(4, 1),
        "snapshots": moved,
        "times": [0.0, 1.0, 2.0],
    }
    exec(compile(code, "README.md", "exec"), names)
    with torch.no_grad():
        losses = []
        for weights in moved:
            torch.nn.utils.vector_to_parameters(weights, network.parameters())
            losses.append(0.5 * (network(names["inputs"]) - names["targets"]).square().sum())
    limit = (moved[2] - start).square().sum() / (losses[0] - losses[2])
    assert names["found"].speed_limit_time[-1] == pytest.approx(float(limit), rel=1e-3)
    assert f"{names['found'].speed_limit_time[-1]:.6f}" in capsys.readouterr().out


@pytest.mark.workflow
def test_own_data_lines_make_a_file_that_the_workflow_plans(tmp_path, shipped_config):
    text = section("Your own model and data")
    code = next(block for block in blocks(text, "python") if "savez" in block)
    given = next(block for block in blocks(text, "yaml") if "mine.npz" in block)
    folder = checkout(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.load(folder / "mine.npz")["train_inputs"].shape == (150, 12)
    (folder / "my.yaml").write_text(given)
    assert planned(run_snakemake(folder, "-n", configfile=folder / "my.yaml"))["train"] == 2 * 3
    own = next(block for block in blocks(text, "yaml") if "own_network" in block)
    shutil.copy(ROOT / "examples/own_network.py", folder)
    both = yaml.safe_load(given)
    both["studies"] |= yaml.safe_load(own)["studies"]
    (folder / "my.yaml").write_text(yaml.safe_dump(both))
    plan = run_snakemake(folder, "-n", "study_own", configfile=folder / "my.yaml")
    assert planned(plan)["train"] == 2 * 3
    every = next(block for block in blocks(text, "yaml") if "laziness" in block)
    (folder / "my.yaml").write_text(every)
    plan = run_snakemake(folder, "-n", "studies", configfile=folder / "my.yaml")
    assert planned(plan)["findings"] == len(shipped_config["studies"])


def test_studies_of_the_readme_are_valid(shipped_config):
    given = [yaml.safe_load(block) for block in blocks(section("Configuration"), "yaml")]
    assert given
    for changes in given:
        update_config(shipped_config, changes)
    studies = validated(shipped_config)["studies"]
    assert studies["width"]["vary"].keys() == {"n", "width"}
    assert studies["width"]["realisations"] == 3 and "temperature" not in studies


PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += [ROOT / "results/README.md", *sorted((ROOT / "docs").glob("*.md"))]


def without_code(text):
    """A page without its code."""
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_resolve(page):
    text = without_code(page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    for link in filter(None, (a or b for a, b in links)):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        inside = str(target.relative_to(ROOT))
        assert not tracked or any(f.startswith(inside) for f in tracked.splitlines()), link
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} has no such heading"
