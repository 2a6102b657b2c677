"""Digest of a script and of every project module that it imports, directly or not.

Snakemake looks at a script's modification time and not at what the script imports. A digest of the
syntax trees, handed to a rule among its parameters, makes a job stale if and only if code that it
runs has changed: an edited comment, docstring or layout, a touch or a checkout changes nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]


def code_digest(script: str, *more: str) -> str:
    """Return the digest of one script, with everything of this project that it imports.

    Args:
        script: path relative to scripts/, for example ``train.py``.
        more: further files that the script loads by name at run time.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in sorted(reachable(script, *more)):
        digest.update(path.encode() + b"\0" + _tree(path).encode())
    return digest.hexdigest()[:16]


def reachable(*files: str) -> set[str]:
    """Return the files, relative to scripts/, that these files and their imports consist of."""
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _local_imports(path)
    return found


@functools.cache
def _parsed(path: str) -> ast.Module:
    """Return the syntax tree of a file, without its docstrings."""
    tree = ast.parse((SCRIPTS / path).read_text(encoding="utf-8"), filename=path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@functools.cache
def _tree(path: str) -> str:
    """Return the syntax tree without line numbers; of a file that is no Python, its text."""
    if not path.endswith(".py"):
        return (SCRIPTS / path).read_text(encoding="utf-8")
    return ast.dump(_parsed(path))


@functools.cache
def _local_imports(path: str) -> list[str]:
    """Return the project files that one file imports."""
    names: list[str] = []
    if not path.endswith(".py"):
        return []
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = ".".join(Path(path).parent.parts)
            stem = f"{package}.{node.module}" if node.module else package
            names += [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
    files = []
    for name in names:
        parts = name.split(".")
        packages = ["/".join((*parts[: k + 1], "__init__.py")) for k in range(len(parts))]
        candidates = ["/".join(parts) + ".py", *packages]
        files += [file for file in candidates if (SCRIPTS / file).is_file()]
    return files
