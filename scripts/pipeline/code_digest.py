"""Digest of a script and of every project module that it imports, directly or not.

Snakemake looks at a script's modification time and not at what the script imports. A digest of the
syntax trees, handed to a rule among its parameters, makes a job stale if and only if code that it
runs has changed: an edited comment, docstring or layout, a touch or a checkout changes nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable
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
    return _digest(reachable(script, *more))


def file_digests(files: Iterable[str]) -> dict[str, str]:
    """Return the digest of each file by itself.

    Args:
        files: paths relative to scripts/.

    Returns:
        File -> sixteen hexadecimal digits, in order of the names.
    """
    return {file: _digest([file]) for file in sorted(files)}


def folder_digest(folder: Path, *files: str) -> str:
    """Return the same digest of a user's files and of what they import from the same folder.

    Args:
        folder: from which imports are resolved.
        files: paths relative to it.

    Returns:
        Sixteen hexadecimal digits.
    """
    return _digest(reachable(*files, folder=folder), folder)


def _digest(files: Iterable[str], *folder: Path) -> str:
    """Return the digest of the syntax trees of files, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.encode() + b"\0" + _tree(path, *folder).encode())
    return digest.hexdigest()[:16]


def reachable(*files: str, folder: Path | None = None) -> set[str]:
    """Return the files that these files and their imports consist of.

    Args:
        files: paths relative to the folder.
        folder: from which imports are resolved; None is scripts/.
    """
    where = () if folder is None else (folder,)
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _local_imports(path, *where)
    return found


def bytes_digest(path: str) -> str:
    """Return the digest of a file's bytes, as they were when its syntax tree was read, if it was.

    Args:
        path: relative to scripts/.

    Returns:
        Sixteen hexadecimal digits.
    """
    return hashlib.sha256(_content(path)).hexdigest()[:16]


@functools.cache
def _content(path: str, folder: Path | None = None) -> bytes:
    """Return the bytes of a file, as they were at the first call."""
    return (folder or SCRIPTS).joinpath(path).read_bytes()


@functools.cache
def _parsed(path: str, folder: Path | None = None) -> ast.Module:
    """Return the syntax tree of a file, without its docstrings."""
    tree = ast.parse(_content(path, folder), filename=path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@functools.cache
def _tree(path: str, folder: Path | None = None) -> str:
    """Return the syntax tree without line numbers; of a file that is no Python, its text."""
    if not path.endswith(".py"):
        return _content(path, folder).decode()
    return dumped(_parsed(path, folder))


def dumped(node: object) -> str:
    """Return a syntax tree as text, without line numbers, the same by any version of Python.

    ``ast.dump`` writes the fields that a version has added, empty ones too or not: after an upgrade
    all results would be stale.

    Args:
        node: a tree, or a field of one.
    """
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={dumped(value)}"
            for name, value in ast.iter_fields(node)
            if value is not None and value != []
        )
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(dumped, node))}]"
    return repr(node)


@functools.cache
def _local_imports(path: str, folder: Path | None = None) -> list[str]:
    """Return the files of the folder that one file imports."""
    names: list[str] = []
    if not path.endswith(".py"):
        return []
    for node in ast.walk(_parsed(path, folder)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.ImportFrom) and node.level:
            parents = Path(path).parent.parts
            above = parents[: max(0, len(parents) + 1 - node.level)]
            stem = ".".join((*above, node.module) if node.module else above)
            names += [stem, *(f"{stem}.{alias.name}" for alias in node.names)] if stem else []
    files = []
    for name in names:
        parts = name.split(".")
        packages = ["/".join((*parts[: k + 1], "__init__.py")) for k in range(len(parts))]
        candidates = ["/".join(parts) + ".py", *packages]
        files += [file for file in candidates if (folder or SCRIPTS).joinpath(file).is_file()]
    return files
