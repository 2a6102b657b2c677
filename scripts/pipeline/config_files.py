"""Check configuration files as they are written: what reading them would hide, or would cost.

Snakemake reads the files of ``--configfile`` before it looks at the Snakefile. The shipped profiles
run this file earlier still, by its path: it imports nothing of this project.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

# Own choices: a study of 2000 runs takes a few kilobytes and is nested five deep.
LARGEST_FILE_BYTES = 1_000_000
DEEPEST_NESTING = 30
MOST_VALUES = 100_000  # with every alias counted as often as it is used
MOST_DIGITS = 40
CACHE_BYTES = 100_000  # the Snakefile and its rules, which it copies there
STARTED = "SPEEDLIMITS_STARTED"  # the folder before Snakemake goes to --directory


def file_problems(path: str | Path) -> list[str]:
    """Name what is wrong with a file beyond the values that it gives to keys.

    Args:
        path: a configuration file, YAML or JSON.

    Returns:
        One sentence per problem. What can be read only once, a pipe for example, is not read.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return [f"{path} is a folder; name a configuration file"]
        if not stat.S_ISREG(status.st_mode):
            return []
        if status.st_size > LARGEST_FILE_BYTES:
            return [
                f"{path} has {status.st_size} bytes; a configuration has at most "
                f"{LARGEST_FILE_BYTES}"
            ]
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return [f"{path} is not there; correct the path of the configuration file"]
    except UnicodeDecodeError as error:
        return [
            f"{path} is not UTF-8 text (byte {error.start}); save it in that encoding (targets "
            "stand before --configfile)"
        ]
    except OSError as error:
        return [f"{path} cannot be read: {error.strerror}"]
    if _is_json(text):
        text = text.replace("\t", " ")  # which YAML does not allow between values
    try:
        return [f"{path}{problem}" for problem in _text_problems(text)]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
        return [f"{path}{where}: this is neither YAML nor JSON ({what})"]


def file_content(path: str | Path) -> dict:
    """Return what a file holds in which ``file_problems`` finds nothing, YAML or JSON."""
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(text) if _is_json(text) else yaml.safe_load(text)


def _is_json(text: str) -> bool:
    """Return whether a text is JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _text_problems(text: str) -> list[str]:
    """Name the problems of a text.

    Returns:
        Each problem, to be written behind the file's name.

    Raises:
        yaml.YAMLError: if it is no YAML.
    """
    depth, documents = 0, 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1
        if depth > DEEPEST_NESTING:
            return [f", line {line}: more than {DEEPEST_NESTING} levels of nesting"]
        if documents > 1:
            return [f", line {line}: a second document begins (---); keep one"]
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or not root.value:
        return [" holds no keys at top level; write for example base: {n: 64}"]
    if _size(root, {}) > MOST_VALUES:
        return [f" holds more than {MOST_VALUES} values once its aliases are written out"]
    return _problems_of_node(root, "")


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node holds, aliases written out; infinite if it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in parts for part in pair] if pairs else parts
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]


def _problems_of_node(node: yaml.Node, key: str) -> list[str]:
    """Return what YAML passes over in silence: keys given twice, numbers that are not as meant."""
    line = f", line {node.start_mark.line + 1}: "
    if not node.tag.startswith("tag:yaml.org,2002:") or "/" in node.tag:
        return [f"{line}{key} has the tag {node.tag}; write a plain value"]
    if isinstance(node, yaml.SequenceNode):
        return [problem for part in node.value for problem in _problems_of_node(part, key)]
    if isinstance(node, yaml.ScalarNode):
        problem = _number_problem(node)
        return [f"{line}{key} is {problem}"] if problem else []
    problems: list[str] = []
    seen: set[str] = set()
    for name, value in node.value:
        line = f", line {name.start_mark.line + 1}: "
        if not isinstance(name, yaml.ScalarNode):
            problems.append(f"{line}a key is a list or a mapping; it must be a name")
            continue
        inner = f"{key}.{name.value}".lstrip(".")
        if inner == "__use_yte__":
            problems.append(f"{line}templates (__use_yte__) run code and are refused")
        if name.value in seen:
            problems.append(f"{line}{inner} is given twice; keep one")
        seen.add(name.value)
        problems += _problems_of_node(value, inner)
    return problems


def _number_problem(node: yaml.ScalarNode) -> str:
    """Return what is misleading about a number as YAML 1.1 reads it; empty if nothing is."""
    kind = node.tag.rpartition(":")[2]
    shown = node.value if len(node.value) <= MOST_DIGITS else node.value[:MOST_DIGITS] + "..."
    if kind not in ("int", "float"):
        return ""
    if len(node.value) > MOST_DIGITS:
        return f"{shown}, a number of {len(node.value)} digits; at most {MOST_DIGITS} are allowed"
    if ":" in node.value:
        return f"{shown}, which YAML reads in base 60; write a decimal number"
    if kind == "int" and re.fullmatch(r"[+-]?0[0-9_]+", node.value):
        return f"{shown}, which YAML reads in base 8; leave out the leading zero"
    return ""


FILE_OPTIONS = ("--configfile", "--configfiles")
ENTRY_OPTIONS = ("--config", "-C")
FOLDER_OPTIONS = ("--directory", "-d")
PROFILE_OPTIONS = ("--workflow-profile", "--profile")  # the first has the last word


def configuration_files(arguments: Sequence[str]) -> list[str]:
    """Return the files that a command line of Snakemake gives with ``--configfile``."""
    return words_of(FILE_OPTIONS, arguments)


def working_configuration(arguments: Sequence[str]) -> Path:
    """Return config.yaml of the folder that a command line works in, else the shipped one.

    Args:
        arguments: a command line of Snakemake.
    """
    folder = [".", *words_of(FOLDER_OPTIONS, arguments, single=True)][-1]
    found = Path(folder) / "config.yaml"
    return found if found.is_file() else Path(__file__).resolve().parents[2] / "config.yaml"


def repetition_problems(arguments: Sequence[str]) -> list[str]:
    """Return which options are given twice, of which Snakemake takes the last alone, in silence."""
    named = [argument.partition("=")[0] for argument in arguments]
    return [
        f"{options[0]} is given {sum(name in options for name in named)} times, of which Snakemake "
        f"takes the last alone; give it once, followed by all {what}"
        for options, what in ((FILE_OPTIONS, "files"), (ENTRY_OPTIONS, "entries"))
        if sum(name in options for name in named) > 1
    ]


def words_of(
    options: Sequence[str], arguments: Sequence[str], *, single: bool = False
) -> list[str]:
    """Return the words that a command line gives to an option, named as one of ``options``.

    Args:
        options: its names; a short one may have its word attached (-dFOLDER).
        arguments: a command line of Snakemake.
        single: whether it takes one word, so that targets may follow.
    """
    found: list[str] = []
    taking = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument[:2] in options and len(argument) > 2 and not argument.startswith("--"):
            option, equals, value = argument[:2], "=", argument[2:].removeprefix("=")
        if argument.startswith("-"):
            taking = option in options and not equals
            found += [value] if option in options and equals else []
        elif taking:
            found.append(argument)
            taking = not single
    return found


def beside_profile(arguments: Sequence[str], name: str) -> str:
    """Return the absolute path of a file beside the profile that a command line names.

    Snakemake takes the folder of a profile, its file, or a name that lies in ``profiles``.

    Args:
        arguments: a command line of Snakemake.
        name: of the file.
    """
    given = [
        word for option in PROFILE_OPTIONS for word in words_of((option,), arguments, single=True)
    ]
    folders = [Path(part) for word in given for part in (word, f"profiles/{word}")]
    places = [place / name for folder in folders for place in (folder, folder.parent)]
    found = [place for place in places if place.is_file()]
    return str((found[0] if found else Path("profiles/slurm") / name).resolve())


def entry_problems(arguments: Sequence[str]) -> list[str]:
    """Return what is wrong with entries of ``--config``.

    Snakemake ends in a traceback for some, takes the last of two values in silence, and reads all
    within braces as text, of which the workflow then makes numbers: without its quotes.
    """
    problems = []
    given: set[str] = set()
    for entry in words_of(ENTRY_OPTIONS, arguments):
        name, equals, value = entry.partition("=")
        if not equals:
            problems.append(
                f"--config is given {entry}, which is no NAME=VALUE; targets stand before "
                "--config, or after --"
            )
        elif "." in name:
            first, *inner = name.split(".")
            text = f"{': {'.join(inner)}: {value}{'}' * len(inner)}"
            problems.append(f"--config is given {entry}; write --config {first}='{{{text}'")
        elif not re.fullmatch(r"[a-zA-Z_][\w-]*\w", name):
            problems.append(
                f"--config is given {entry}, and the configuration has no key {name!r}; run "
                f"settings stand under base: --config base='{{{name}: {value}}}'"
            )
        else:
            wrong = _entry_value_problems(name, value)
            problems += wrong
            keys = [] if wrong else _keys(_reads_as(value), name)
            problems += [f"--config gives {key} twice; keep one" for key in keys if key in given]
            given |= set(keys)
    return problems


def _entry_value_problems(name: str, value: str) -> list[str]:
    """Return what is wrong with a mapping or list that ``--config`` gives."""
    text = f"{name}:\n" + "".join(f"  {line}\n" for line in value.splitlines())
    try:
        if not isinstance(yaml.compose(value, Loader=yaml.SafeLoader), yaml.CollectionNode):
            return []  # Snakemake has read it
        problems = _text_problems(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return []  # text to Snakemake too, which the schema refuses
    problems = problems or [
        f": {key} is the text {quoted!r}, which Snakemake hands on without its quotes, so that it "
        "is no text any more; give it in a file (--configfile)"
        for key, quoted in _quoted_texts(root, "")
        if _reads_as(quoted) != quoted
    ]
    return [f"--config{re.sub(', line [0-9]+: ', ': ', problem)}" for problem in problems]


def _quoted_texts(node: yaml.Node, key: str) -> list[tuple[str, str]]:
    """Return the quoted texts in a node, each with the key that it is under."""
    if isinstance(node, yaml.ScalarNode):
        return [(key, node.value)] if node.style else []
    if isinstance(node, yaml.SequenceNode):
        return [found for part in node.value for found in _quoted_texts(part, key)]
    return [
        found
        for name, value in node.value
        for found in _quoted_texts(value, f"{key}.{name.value}".lstrip("."))
    ]


def _reads_as(text: str) -> object:
    """Return what YAML reads a text as, which is itself if it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _keys(value: object, name: str) -> list[str]:
    """Return the keys of the values in mappings within mappings."""
    if not isinstance(value, dict) or not value:
        return [name]
    return [key for inner, part in value.items() for key in _keys(part, f"{name}.{inner}")]


def cache_problems() -> list[str]:
    """Name the folder of Snakemake's own cache if it cannot be made or written to.

    Returns:
        A sentence, or none; none of other systems than Linux.
    """
    if sys.platform != "linux":
        return []
    given = os.environ.get("XDG_CACHE_HOME", "").strip()
    cache = Path(given or Path("~/.cache").expanduser()) / "snakemake"
    probe = cache / f"room{os.getpid()}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(CACHE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
        return []
    except OSError as error:
        if error.errno == errno.EFBIG:  # a limit on files (ulimit -f), which is told of elsewhere
            return []
    return [
        f"{cache}, where Snakemake keeps a cache, cannot be written to or is full; name another "
        "folder (export XDG_CACHE_HOME=FOLDER)"
    ]


def refuse(arguments: Sequence[str]) -> None:
    """End the process with one sentence per problem if the configuration given cannot be used.

    Where it was started stays in the environment.

    Args:
        arguments: a command line of Snakemake.

    Raises:
        SystemExit: with status 1, after the sentences.
    """
    os.environ[STARTED] = os.getcwd()
    paths = [working_configuration(arguments), *configuration_files(arguments)]
    problems = cache_problems()
    problems += [problem for path in paths for problem in file_problems(path)]
    problems += entry_problems(arguments) + repetition_problems(arguments)
    if problems:
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        raise SystemExit(1)
