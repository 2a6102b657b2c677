"""Write the README's rulegraph and table of config keys, docs/dependencies.md and docs/columns.md.

Each from what it describes: Snakemake's own graph, the schema, the tables of rules and of columns.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "maximum": "<=", "exclusiveMaximum": "<"}
KEYS, RULEGRAPH = "config keys", "rulegraph"  # generated parts of the README


def allowed(rule: dict) -> str:
    """Return the values that a schema rule allows, in a few characters."""
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    bounds = []
    for key, sign in BOUNDS.items():
        if key in rule:
            shown = f"{rule[key]:g}" if isinstance(rule[key], float) else str(rule[key])
            bounds.append(f"{sign} {shown}")
    kinds = rule.get("type", "mapping")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    words = {"object": "mapping", "string": "text", "array": "list", "boolean": "true, false"}
    return " or ".join(words.get(kind, kind) for kind in kinds) + "".join(f", {b}" for b in bounds)


def rows(schema: dict, rule: dict, value: object, path: str) -> list[tuple[str, str, str, str]]:
    """Return (key, shipped value, allowed, meaning) of every leaf below a rule."""
    if "$ref" in rule:
        name = rule["$ref"].split("/")[-1]
        if name == "axes" or (name == "run" and path != "base"):
            what = "mapping of lists" if name == "axes" else "mapping of run settings"
            return [(path, "", what, rule.get("description", ""))]
        rule = {**schema["$defs"][name], **{k: v for k, v in rule.items() if k != "$ref"}}
    named = rule.get("additionalProperties")
    if "properties" not in rule and not isinstance(named, dict):
        shown = "" if value is None and "null" not in rule.get("type", []) else _yaml(value)
        return [(path, shown, allowed(rule), rule.get("description", ""))]
    found = []
    for key, child in rule.get("properties", {}).items():
        below = value.get(key) if isinstance(value, dict) else None
        found += rows(schema, child, below, f"{path}.{key}" if path else key)
    return found + (rows(schema, named, None, f"{path}.NAME") if isinstance(named, dict) else [])


def _yaml(value: object) -> str:
    """Return a value as YAML on one line."""
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


def key_table() -> str:
    """Return the table in Markdown."""
    schema = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    lines = ["| key | shipped | allowed | meaning |", "|---|---|---|---|"]
    for key, shipped, values, meaning in rows(schema, schema, config, ""):
        lines.append(f"| `{key}` | {shipped} | {values} | {meaning} |")
    return "\n".join(lines)


def with_parts(text: str, parts: dict[str, str]) -> str:
    """Return the README's text with fresh generated parts between their markers."""
    for name, content in parts.items():
        begin, end = f"<!-- {name}: begin (make docs) -->\n", f"\n<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}{content}{end}{rest.split(end)[1]}"
    return text


def rule_parts(part: str) -> dict[str, str]:
    """Return rule -> its ``input:`` or ``output:`` as written in rules/; empty without one."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        for block in re.split(r"^(?:use )?rule ", text, flags=re.MULTILINE)[1:]:
            name = block.split(":", 1)[0].removesuffix(" with").split(" as ")[-1]
            given = re.search(rf"^    {part}:\n((?:        .*\n|\n)+)", block, re.MULTILINE)
            found[name] = " ".join(given[1].split()).rstrip(",") if given else ""
    return found


def rules_with_files() -> set[str]:
    """Return the rules that make files; the others are targets and commands."""
    return {name for name, output in rule_parts("output").items() if output}


def sources_of_rules() -> dict[str, set[str]]:
    """Return rule -> the rules whose files it takes, for the plain command and its report.

    Read from Snakemake's rulegraph of the shipped configuration, planned in an empty folder.

    Raises:
        RuntimeError: with what Snakemake printed, if it refuses.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--configfile", str(ROOT / "config.yaml"), "--workflow-profile", "none"]
    command += ["--rulegraph", "mermaid-js", "--", "all", "report"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"snakemake --rulegraph failed: {done.stdout}{done.stderr}")
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", done.stdout, re.MULTILINE))
    kept = rules_with_files()
    found: dict[str, set[str]] = {name: set() for name in names.values() if name in kept}
    for first, second in re.findall(r"^\s*(id\d+) --> (id\d+)", done.stdout, re.MULTILINE):
        if names[first] in kept and names[second] in kept:
            found[names[second]].add(names[first])
    return found


def drawn(sources: dict[str, set[str]]) -> str:
    """Return a rulegraph in Mermaid, without the edges that follow from others."""
    order = list(
        TopologicalSorter({name: sorted(sources[name]) for name in sources}).static_order()
    )
    above: dict[str, set[str]] = {}
    for name in order:
        above[name] = sources[name].union(*(above[source] for source in sources[name]))
    lines: dict[tuple[str, ...], list[str]] = {}
    for name in order:
        direct = [
            source
            for source in order
            if source in sources[name] and not any(source in above[s] for s in sources[name])
        ]
        lines.setdefault(tuple(direct), []).append(name)
    alone = lines.pop((), [])
    arrows = [f"  {' & '.join(a)} --> {' & '.join(b)}" for a, b in lines.items()]
    lonely = [name for name in alone if not any(name in direct for direct in lines)]
    return "\n".join(["flowchart TB", *arrows, *(f"  {name}" for name in lonely)])


def rulegraph(sources: dict[str, set[str]]) -> str:
    """Return the rulegraph in Markdown, with the rules that only other targets use below it."""
    others = ", ".join(f"`{name}`" for name in sorted(rules_with_files() - set(sources)))
    return (
        f"```mermaid\n{drawn(sources)}\n```\n\nThe rules that make files, without the arrows that "
        "follow from others ([all of them](docs/dependencies.md)). Only other targets use "
        f"{others}."
    )


def dependencies(sources: dict[str, set[str]]) -> str:
    """Return the page that says, per rule, what makes its jobs stale.

    Args:
        sources: rule -> the rules whose files it takes.
    """
    from pipeline.code_digest import reachable
    from pipeline.runs import (
        CLOCK_KEYS,
        COMMON_NETWORK_KEYS,
        DYNAMICS_KEYS,
        MODEL_KEYS,
        OWN_MODEL_KEYS,
        SUBSET_KEYS,
    )
    from pipeline.settings import KERNEL, PLAN_PARTS, RULES

    def some(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in names) or "none"

    def any_of(keys: dict[str, tuple[str, ...]]) -> str:
        return "; ".join(f"{name}: {some(used)}" for name, used in keys.items())

    lines = [
        "# What each rule depends on",
        "",
        "Made by `make docs` from `scripts/pipeline/settings.py`, the imports of the scripts and",
        "`rules/`. A job reruns if one of these changes in content: a config key or run setting",
        "named here, an input file, or the code (not the comments, docstrings or layout) of a",
        "module or page named here; also if it gets other input files. Nothing else reruns it.",
        "Paths spell out the settings of a run: other",
        "values are other jobs, and the files of the first ones stay.",
        "",
        "Run settings by level, under `base`, `set`, `cases` and `vary`:",
        "",
        "- dataset: `dataset`; its `test_count`; or of your own file its content (`file`) and"
        " `normalise`; or of a teacher all of `teacher`, and `seed`",
        f"- subset: {some(SUBSET_KEYS)}",
        f"- network: `model`, {some(COMMON_NETWORK_KEYS)}, and by model {any_of(MODEL_KEYS)};"
        f" your own: {some(OWN_MODEL_KEYS)} and the code of its module",
        f"- dynamics: `dynamics`, {some(CLOCK_KEYS)}, and by dynamics {any_of(DYNAMICS_KEYS)}",
    ]
    inputs, outputs = rule_parts("input"), rule_parts("output")

    def section(rule: str, script: str, settings: list[str], file: str = "") -> list[str]:
        modules = sorted(reachable(script) - {script})
        code = some(name for name in modules if not name.endswith("__init__.py"))
        if file:
            code += f", `{file}`" + " with what it imports" * file.endswith(".py")
        wildcards = re.findall(r"{(\w+)}", outputs[rule])
        return [
            "",
            f"## {rule}",
            "",
            f"- script: `scripts/{script}`",
            *([f"- one job for each: {', '.join(dict.fromkeys(wildcards))}"] if wildcards else []),
            *settings,
            f"- input: {some([inputs[rule]] if inputs[rule] else [])}",
            *([f"- files of: {some(sorted(sources[rule]))}"] if sources.get(rule) else []),
            f"- modules in `scripts/`: {code if rule != 'download' else 'none, nor the script'}",
        ]

    for rule, uses in RULES.items():
        read = [", ".join(uses.levels), *(PLAN_PARTS[part] for part in uses.plan)]
        read = "; ".join(filter(None, read)) or "none"
        above = " (the last three where n x outputs is above the first of them, before or after)"
        keys = some(uses.config) + (above if uses.config == KERNEL else "")
        settings = [f"- config keys: {keys}", f"- run settings: {read}"]
        file = uses.file.replace("{wildcards.figure}", "NAME")
        lines += section(rule, uses.script, settings, file)
    for rule, settings in {
        "download": "config keys: `datasets.cifar10.sha256`",
        "benchmark_summary": "benchmark files: of the runs that the configuration asks for",
        "provenance": "config keys: all, with the git commit and the code of all scripts above",
    }.items():
        lines += section(rule, f"{rule}.py", [f"- {settings}"])
    return "\n".join(lines) + "\n"


def columns() -> str:
    """Return the page that gives every column its unit and meaning."""
    from pipeline.columns import COLUMNS, EXACT, OTHER_COLUMNS, SUFFIXES

    lines = [
        "# Units and meanings of all columns",
        "",
        "Made by `make docs` from `scripts/pipeline/columns.py`. The units are those of the",
        "[loss convention](../results/README.md), with weight^2 = loss x time; a label has none.",
        "Which table has which columns: [results/README.md](../results/README.md).",
        "",
        "A study's axes are columns of their own, named and described as the settings in the",
        "README's table of keys: `output_scale` and `warm_start_accuracy` (both 1),",
        "`learning_rate` (in units of 2/lambda_1 where `learning_rate_unit` is",
        "`stability_limit`, else of time) and so on.",
        "",
        "| column | unit | meaning |",
        "|---|---|---|",
    ]
    for name, (unit, meaning) in sorted((COLUMNS | OTHER_COLUMNS).items()):
        lines.append(f"| `{name}` | {unit} | {meaning.replace('|', chr(92) + '|')} |")
    lines += [
        "",
        "Endings, in the unit of what they follow; after "
        f"{', '.join(f'`_{ending}`' for ending in EXACT)}",
        "it is the thing itself, at a temperature too, and no bound of it:",
        "",
        "| ending | meaning |",
        "|---|---|",
    ]
    lines += [f"| `_{ending}` | {meaning} |" for ending, meaning in SUFFIXES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    readme, page = ROOT / "README.md", ROOT / "docs/dependencies.md"
    sources = sources_of_rules()
    written = with_parts(
        readme.read_text(encoding="utf-8"), {RULEGRAPH: rulegraph(sources), KEYS: key_table()}
    )
    readme.write_text(written, encoding="utf-8")
    page.write_text(dependencies(sources), encoding="utf-8")
    (ROOT / "docs/columns.md").write_text(columns(), encoding="utf-8")
    sys.stdout.write("README.md: rulegraph and table of config keys written\n")
    sys.stdout.write("docs/dependencies.md and docs/columns.md written\n")
