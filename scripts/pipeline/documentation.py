"""Write the table of configuration keys into the README, from the schema and config.yaml."""

from __future__ import annotations

import sys
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
        if name == "axes" or ".NAME." in path:
            what = "mapping of lists" if name == "axes" else "mapping of run settings"
            return [(path, "", what, rule.get("description", ""))]
        rule = {**schema["$defs"][name], **{k: v for k, v in rule.items() if k != "$ref"}}
    if isinstance(rule.get("additionalProperties"), dict):
        inner = rule["additionalProperties"]
        return rows(schema, inner, None, f"{path}.NAME")
    if "properties" not in rule:
        shown = "" if value is None and "null" not in rule.get("type", []) else _yaml(value)
        return [(path, shown, allowed(rule), rule.get("description", ""))]
    found = []
    for key, child in rule["properties"].items():
        below = value.get(key) if isinstance(value, dict) else None
        found += rows(schema, child, below, f"{path}.{key}" if path else key)
    return found


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


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write("README.md: table of config keys written\n")
