"""The user's own network as its code says it: where it lies, what its factory takes, its digest.

Nothing of the user's is imported here: the process that plans the jobs may lack torch, and should
not wait for it. What only running the code can tell, the jobs check (``pipeline.own_network``).
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import keyword
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.code_digest import SCRIPTS, folder_digest, reachable
from pipeline.suggestions import did_you_mean

FORM = "package.module:factory"
LONGEST_NAME = 200  # own choice, below the 255 of file systems
GIVEN = ("input_shape", "outputs")  # what every factory is called with, by keyword
INSTALLED = ("site-packages", "dist-packages")
# What stands at the top of a module and can be no factory.
VALUES = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp)


class Code(NamedTuple):
    """Where the code of a module lies.

    Attributes:
        folder: from which it and its neighbours are imported.
        file: its file relative to that; None if it is no Python text.
        package: distribution and version it was installed from; empty for the user's own files.
    """

    folder: Path
    file: str | None
    package: str


def split_name(model: str) -> tuple[str, str]:
    """Return module and factory of ``package.module:factory``.

    Args:
        model: as the configuration gives it.

    Returns:
        (module, factory).

    Raises:
        ValueError: if it has another form.
    """
    module, _, factory = model.partition(":")
    names = [*module.split("."), factory]
    if not module.endswith(".py") and all(map(_is_name, names)):
        return module, factory
    hint = ""
    if module.endswith(".py") and _is_name(factory):
        hint = f" (write {module.removesuffix('.py').strip('./').replace('/', '.')}:{factory})"
    raise ValueError(f"a network of your own is {FORM}, Python names with dots, one colon{hint}")


def _is_name(text: str) -> bool:
    """Return whether a text is a Python name that any file system can write."""
    short = len(text) <= LONGEST_NAME
    return short and text.isidentifier() and text.isascii() and not keyword.iskeyword(text)


def locate(module: str) -> Code:
    """Return where a module lies: in the working folder, or where it is installed.

    Args:
        module: its name with dots.

    Returns:
        The place.

    Raises:
        ValueError: if it is found nowhere, at two places, or has a name that is taken.
    """
    top = module.split(".")[0]
    if whose := _owner(top):
        raise ValueError(f"{top} is a module of {whose}; give yours another name")
    here = Path.cwd()
    local, installed = _file(module, here), _installed_folder(module, here)
    if local and installed:
        raise ValueError(
            f"{top} is here ({here / local}) and in {installed}; give yours another name, or "
            "remove one of them"
        )
    if local:
        return Code(here, local, "")
    if installed is None:
        raise ValueError(
            f"there is no {'/'.join(module.split('.'))}.py in {here} and no installed module "
            f"{top}; start snakemake in the folder that holds it, or install its package"
        )
    file = _file(module, installed)
    if file is None and "." in module:
        raise ValueError(f"{top} ({installed}) has no module {module}")
    package = _package(top) if set(INSTALLED) & set(installed.parts) else ""
    return Code(installed, file, package)


def _owner(top: str) -> str:
    """Return whose module a name is that jobs import before any of the user's; empty if free."""
    if top in sys.stdlib_module_names:
        return "Python"
    own = {path.stem for path in SCRIPTS.iterdir() if path.suffix in ("", ".py")}
    return "this workflow" if top in own else ""


def _file(module: str, folder: Path) -> str | None:
    """Return the file of a module below a folder, relative to it, or None."""
    path = module.replace(".", "/")
    return next((f for f in (f"{path}/__init__.py", f"{path}.py") if (folder / f).is_file()), None)


def _installed_folder(module: str, here: Path) -> Path | None:
    """Return the folder from which an installed module is imported, or None; imports nothing."""
    top = module.split(".")[0]
    own = {here.resolve(), SCRIPTS.resolve()}
    paths = [path for path in sys.path if Path(path or ".").resolve() not in own]
    spec = importlib.machinery.PathFinder.find_spec(top, paths)
    for finder in sys.meta_path:  # of packages installed in editable mode
        if spec is None and finder is not importlib.machinery.PathFinder:
            spec = finder.find_spec(top, None)
    if spec is None:
        return None
    if spec.origin and not spec.submodule_search_locations:
        return Path(spec.origin).parent
    folders = [Path(place).parent for place in spec.submodule_search_locations or ()]
    holding = [folder for folder in folders if _file(module, folder)]
    # A folder without __init__.py counts only if it has the module: many are called alike.
    return next(iter(holding or (folders if spec.origin else [])), None)


def _package(top: str) -> str:
    """Return the distribution and version that a top-level module was installed from."""
    for name in importlib.metadata.packages_distributions().get(top, [top]):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def own_digest(model: str) -> str:
    """Return what changes with the code of a network of the user's own.

    Of an installed package that is its version; else a digest of the syntax trees of the module and
    of all that it imports from the same folder.

    Args:
        model: ``package.module:factory``.

    Returns:
        "package version", or sixteen hexadecimal digits.

    Raises:
        ValueError: if there is no such module.
    """
    module, _ = split_name(model)
    code = locate(module)
    return code.package or folder_digest(code.folder, *_files(module, code))


def _files(module: str, code: Code) -> list[str]:
    """Return a module's file and those of the packages around it."""
    parts = module.split(".")
    around = ["/".join((*parts[:k], "__init__.py")) for k in range(1, len(parts))]
    return [
        *(f for f in around if (code.folder / f).is_file()),
        *([code.file] if code.file else []),
    ]


def own_problem(model: str, arguments: Mapping[str, Any]) -> str:
    """Return what is wrong with a network of the user's own, as far as its text tells.

    Args:
        model: ``package.module:factory``.
        arguments: ``model_arguments``, what the factory gets besides ``GIVEN``.

    Returns:
        One sentence, empty if nothing is wrong.
    """
    try:
        module, factory = split_name(model)
        code = locate(module)
    except ValueError as error:
        return str(error)
    if code.file is None:
        return ""
    try:
        if not code.package:
            imported = reachable(*_files(module, code), folder=code.folder)  # parses them all
            if problem := _neighbour_problem(module, code.folder, imported):
                return problem
        tree = ast.parse((code.folder / code.file).read_bytes(), code.file)
    except SyntaxError as error:
        if not error.lineno:  # of no encoding, or with null bytes
            return f"{code.folder / code.file} cannot be read as Python: {error.msg}"
        name = error.filename if code.package else code.folder / str(error.filename)
        return f"{name}, line {error.lineno}: {error.msg}"
    except (OSError, ValueError, RecursionError) as error:
        return f"{code.folder / code.file} cannot be read as Python: {error}"
    return _factory_problem(tree, code.folder / code.file, factory, arguments)


def _neighbour_problem(module: str, folder: Path, files: Iterable[str]) -> str:
    """Return which file that a module imports has a name by which Python finds another one."""
    tops = {file.partition("/")[0].removesuffix(".py") for file in files}
    for top in sorted(tops - {module.partition(".")[0]}):
        installed = _installed_folder(top, folder)
        other = ""
        if whose := _owner(top):
            other = f"is a module of {whose}"
        elif installed and installed.resolve() != folder.resolve():
            other = f"is installed ({installed})"
        if other:
            return (
                f"{module} imports {top}, which is here ({folder}) and {other}; give yours another "
                "name"
            )
    return ""


def _factory_problem(tree: ast.Module, path: Path, factory: str, given: Mapping[str, Any]) -> str:
    """Return what is wrong with the factory of a module, as far as its text tells."""
    names = dict(_bindings(tree.body))
    for name in GIVEN:
        if name in given:
            return f"model_arguments has {name}, but {name} is given by the workflow; remove it"
    if factory not in names:
        stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _is_stored(n)}
        if {"*", "__getattr__"} & set(names) or factory in stored:
            return ""
        public = [name for name in names if not name.startswith("_")]
        return f"{path} has no {factory}{did_you_mean(factory, public)}"
    node = names[factory]
    if isinstance(node, VALUES):
        return f"{factory} in {path} is a value; it must be a function or class"
    if isinstance(node, ast.AsyncFunctionDef):
        return f"{factory} in {path} is asynchronous; it must return the network itself"
    skipped = 0
    if isinstance(node, ast.Lambda):
        return _call_problem(node.args, skipped, f"{factory} in {path}", given)
    if isinstance(node, ast.ClassDef) and not (node.decorator_list or node.keywords):
        node, skipped = dict(_bindings(node.body)).get("__init__"), 1  # self is not given
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return ""
    return _call_problem(node.args, skipped, f"{factory} in {path}", given)


def _call_problem(takes: ast.arguments, skipped: int, whose: str, given: Mapping[str, Any]) -> str:
    """Return why a function cannot be called with ``GIVEN`` and further keywords, or nothing."""
    positional = [a.arg for a in (*takes.posonlyargs, *takes.args)][skipped:]
    required = positional[: len(positional) - len(takes.defaults)]
    defaults = zip(takes.kwonlyargs, takes.kw_defaults, strict=True)
    required += [a.arg for a, default in defaults if default is None]
    only_by_place = [a.arg for a in takes.posonlyargs]
    allowed = [name for name in positional if name not in only_by_place]
    allowed += [a.arg for a in takes.kwonlyargs]
    if takes.kwarg is None:
        for name in GIVEN:
            if name not in allowed:
                return f"{whose} must take the keywords input_shape and outputs; it lacks {name}"
        for name in given:
            if name not in allowed:
                own = [known for known in allowed if known not in GIVEN]
                return (
                    f"{whose} has no argument {name}{did_you_mean(name, own)}; besides "
                    f"input_shape and outputs it takes {', '.join(own) or 'none'}"
                )
    missing = [name for name in required if name not in (*GIVEN, *given)]
    if missing:
        return f"{whose} needs the argument {missing[0]}; give it in model_arguments"
    return ""


def _bindings(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that statements bind, with what to; "*" for an import of unknown names."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], alias
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value or node
                elif isinstance(target, (ast.Tuple, ast.List)):
                    yield from ((t.id, t) for t in target.elts if isinstance(t, ast.Name))
        else:
            for field in ("body", "handlers", "orelse", "finalbody", "cases"):
                yield from _bindings(getattr(node, field, []))


def _is_stored(name: ast.Name) -> bool:
    """Return whether a name is bound where it stands, as by a loop, ``with`` or ``:=``."""
    return isinstance(name.ctx, ast.Store)
