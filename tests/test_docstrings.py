"""Docstrings of the library name every argument; ruff checks what they return and raise."""

import ast

import pytest
from conftest import ROOT

MODULES = sorted((ROOT / "scripts/speedlimits").glob("*.py"))


def public_functions(path):
    """Functions of a module without a leading underscore."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def arguments(function):
    """Names of all arguments."""
    spec = function.args
    found = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return [argument.arg for argument in found if argument is not None]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_argument_of_a_public_function_is_documented(path):
    missing = []
    for function in public_functions(path):
        text = ast.get_docstring(function) or ""
        section = text.partition("Args:")[2].split("\n\n")[0]
        for name in arguments(function):
            if f"\n    {name}: " not in section and f"\n    **{name}: " not in section:
                missing.append(f"{function.name}({name})")
    assert missing == []


def test_the_library_has_public_functions():
    assert sum(len(list(public_functions(path))) for path in MODULES) > 100
