"""Write the README's table of config keys and docs/dependencies.md, from what they describe."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- config keys: begin (make docs) -->", "<!-- config keys: end -->"


def allowed(rule: dict) -> str:
    """Return the values that a schema rule allows, in a few characters."""
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    bounds = []
    for key, sign in (("exclusiveMinimum", ">"), ("minimum", ">="), ("maximum", "<=")):
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


def with_table(text: str) -> str:
    """Return the README's text with a fresh table between its markers."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{key_table()}\n{END}{after}"


def rule_inputs() -> dict[str, str]:
    """Return rule -> its ``input:`` as written in rules/."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        for block in re.split(r"^(?:use )?rule ", text, flags=re.MULTILINE)[1:]:
            name = block.split(":", 1)[0].removesuffix(" with").split(" as ")[-1]
            given = re.search(r"^    input:\n((?:        .*\n|\n)+)", block, re.MULTILINE)
            found[name] = " ".join(given[1].split()).rstrip(",") if given else ""
    return found


def dependencies() -> str:
    """Return the page that says, per rule, what makes its jobs stale."""
    from pipeline.code_digest import reachable
    from pipeline.runs import (
        CLOCK_KEYS,
        COMMON_NETWORK_KEYS,
        DYNAMICS_KEYS,
        MODEL_KEYS,
        SUBSET_KEYS,
    )
    from pipeline.settings import RULES

    def some(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in names) or "none"

    def any_of(keys: dict[str, tuple[str, ...]]) -> str:
        return "; ".join(f"{name}: {some(used)}" for name, used in keys.items())

    lines = [
        "# What each rule depends on",
        "",
        "Made by `make docs` from `scripts/pipeline/settings.py`, the imports of the scripts and",
        "`rules/`. A job reruns if and only if one of these changes in content: a config key or",
        "run setting named here, an input file, or the code (not the comments, docstrings or",
        "layout) of a module named here.",
        "",
        "Run settings by level, under `base`, `set`, `cases` and `vary`:",
        "",
        "- dataset: `dataset` and the entry of that name under `datasets`, without its source",
        f"- subset: {some(SUBSET_KEYS)}",
        f"- network: `model`, {some(COMMON_NETWORK_KEYS)}, and by model {any_of(MODEL_KEYS)}",
        f"- dynamics: `dynamics`, {some(CLOCK_KEYS)}, and by dynamics {any_of(DYNAMICS_KEYS)}",
    ]
    inputs = rule_inputs()
    for rule, uses in RULES.items():
        modules = sorted(reachable(uses.script) - {uses.script})
        modules = [name for name in modules if not name.endswith("__init__.py")]
        lines += [
            "",
            f"## {rule}",
            "",
            f"- script: `scripts/{uses.script}`",
            f"- config keys: {some(uses.config)}",
            f"- run settings: {', '.join(uses.levels) or 'none'}",
            f"- input: {some([inputs[rule]] if inputs.get(rule) else [])}",
            f"- modules in `scripts/`: {some(modules)}",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    readme, page = ROOT / "README.md", ROOT / "docs/dependencies.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    page.write_text(dependencies(), encoding="utf-8")
    sys.stdout.write("README.md: table of config keys written\ndocs/dependencies.md written\n")
