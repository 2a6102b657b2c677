"""Check the configuration against the closed schema, in sentences that name key and value."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from pipeline.runs import argument_word
from pipeline.suggestions import did_you_mean

SCHEMA_PATH = Path(__file__).resolve().parents[2] / "schemas" / "config.schema.yaml"
# JSON's 4.0 is a whole number; in a path, or as the size of a layer, it is not.
WHOLE = Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
)
Validator = extend(Draft202012Validator, type_checker=WHOLE)


def load_schema() -> dict:
    """Return the schema, with every run setting offered as an axis of a study's ``vary``."""
    schema = yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))
    run_properties = schema["$defs"]["run"]["properties"]
    label = {
        "description": "name of the case in figures and text, with mathematics between $",
        "type": "string",
        "pattern": r"^(?=.*\S)[^\x00-\x1f\x7f\u2028\u2029]{1,200}\Z",
        "title": "a text that can be seen, of one line and at most 200 characters",
    }
    schema["$defs"]["case"]["properties"] = {"label": label, **run_properties}
    schema["$defs"]["axes"]["properties"] = {
        name: {"type": "array", "minItems": 1, "uniqueItems": True, "items": rule}
        for name, rule in run_properties.items()
    }
    values = run_properties["model_arguments"]["additionalProperties"]
    schema["$defs"]["axes"]["properties"]["model_arguments"] = {
        **run_properties["model_arguments"],
        "minProperties": 1,
        "additionalProperties": {
            "type": "array", "minItems": 1, "uniqueItems": True, "items": values,
        },
    }  # fmt: skip
    return schema


def schema_problems(config: Any) -> list[str]:
    """Return a sentence per violation of the schema: key, value, what is allowed.

    Args:
        config: the configuration as read from YAML.
    """
    problems = _keys_not_text(config) or [
        _sentence(error)
        for error in Validator(load_schema()).iter_errors(config)
        if not (isinstance(error.instance, float) and not math.isfinite(error.instance))
    ]
    return problems + _non_finite_numbers(config)


def _dotted(path: Any) -> str:
    """Return the key path of an error: base.width, studies.x.vary.n[2]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "the configuration"


def shown(value: Any) -> str:
    """Return a value as it would be typed, shortened."""
    text = "null" if value is None else repr(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 60 else text[:57] + "..."


def _sentence(error: ValidationError) -> str:
    """Return one plain sentence for one schema error."""
    key, value, rule = _dotted(error.absolute_path), error.instance, error.validator_value
    kind = error.validator
    if kind == "additionalProperties":
        return _unknown_keys(key, value, error.schema)
    if kind == "required":
        missing = [name for name in rule if name not in value]
        return f"{key} lacks the key{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    if kind == "type":
        return f"{key} is {shown(value)}; it must be {_type_name(rule)}{_number_hint(value, rule)}"
    if kind == "enum":
        allowed = ", ".join(map(str, rule))
        return f"{key} is {shown(value)}; allowed: {allowed}{did_you_mean(value, rule)}"
    bounds = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "greater than",
        "exclusiveMaximum": "less than",
    }
    if kind in bounds:
        return f"{key} is {shown(value)}; it must be {bounds[kind]} {rule}"
    if kind == "minItems":
        held = f"holds {shown(value)} alone" if value else "is an empty list"
        return f"{key} {held}; give at least {rule} value{'s' if rule > 1 else ''}"
    if kind == "minLength":
        return f"{key} is empty text; give at least {rule} character{'s' if rule > 1 else ''}"
    if kind == "uniqueItems":
        return f"{key} names a value twice: {shown(value)}; give each value once"
    if kind == "minProperties":
        return f"{key} is empty; give at least {rule} entry"
    if kind == "pattern" and "title" in error.schema:
        return f"{key} is {shown(value)}; it must be {error.schema['title']}"
    if kind == "pattern" and error.parent is None and "64" in str(rule):
        return f"{key} is {shown(value)}; it must be 64 lower-case hexadecimal digits"
    if kind == "pattern":
        return (
            f"{key} has the name {shown(value)}; a name is lower-case letters, digits and "
            "underscores, at most 100, and starts with a letter"
        )
    return f"{key} is {shown(value)}; {error.message[:200]}"


def _type_name(rule: Any) -> str:
    """Return the types a schema allows in words."""
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "object": "a mapping of keys to values",
        "array": "a list",
        "boolean": "true or false",
        "null": "null",
    }
    names = rule if isinstance(rule, list) else [rule]
    return " or ".join(words[name] for name in names)


def _number_hint(value: Any, rule: Any) -> str:
    """Return a hint at YAML's habit of reading 1e-3 as text, empty where it does not apply."""
    wants_number = rule in ("number", "integer")
    if rule == "integer" and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f" (write {int(value)})"
    if wants_number and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return ""
        exponential = re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
        if exponential and rule == "integer" and number.is_integer():
            return f" (YAML reads {value} as text: write {int(number)})"
        if exponential:
            mantissa, exponent = re.split("[eE]", value)
            mantissa += "" if "." in mantissa else ".0"
            exponent = exponent if exponent[0] in "+-" else "+" + exponent
            return f" (YAML reads {value} as text: write {mantissa}e{exponent})"
        if not value.isascii():  # digits of other scripts, which YAML takes for letters
            return f" (write {number:g} in digits 0 to 9)"
        return f" (remove the quotes: {number:g})"
    return ""


def _unknown_keys(key: str, value: dict, schema: dict) -> str:
    """Return a sentence with the keys that are not allowed, each with the nearest allowed one."""
    allowed = list(schema.get("properties", {}))
    unknown = [name for name in value if name not in allowed]
    told = ", ".join(f"{name or shown(name)}{did_you_mean(name, allowed)}" for name in unknown)
    where = "" if key == "the configuration" else f" in {key}"
    plural = "s" if len(unknown) > 1 else ""
    return f"unknown key{plural}{where}: {told}; allowed: {', '.join(allowed)}"


def _keys_not_text(value: Any, path: tuple = ()) -> list[str]:
    """Return a sentence per key that YAML does not read as text: 1, on, null, 2024-05-01."""
    if isinstance(value, list):
        return [p for k, v in enumerate(value) for p in _keys_not_text(v, (*path, k))]
    if not isinstance(value, dict):
        return []
    return [
        f"{_dotted(path)} has the key {argument_word(key) if key is not None else 'null'}, which "
        "YAML reads as no text (on, off, yes and no are true and false); choose another name or "
        "write it in quotes"
        for key in value
        if not isinstance(key, str)
    ] + [p for k, v in value.items() for p in _keys_not_text(v, (*path, k))]


def _non_finite_numbers(value: Any, path: tuple = ()) -> list[str]:
    """Return a sentence per NaN and infinity, which no bound of a schema catches."""
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{_dotted(path)} is {value}; it must be a finite number"]
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in _non_finite_numbers(v, (*path, k))]
    if isinstance(value, list):
        return [p for k, v in enumerate(value) for p in _non_finite_numbers(v, (*path, k))]
    return []
