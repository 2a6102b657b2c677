"""What the HTML pages share: templates, tables, and the words for a study's ensembles."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.running_code import note_read

TEMPLATES = Path(__file__).resolve().parents[1] / "pages"


def page(name: str) -> str:
    """Return the template ``pages/NAME.html``."""
    note_read(f"{TEMPLATES.name}/{name}.html")
    return (TEMPLATES / f"{name}.html").read_text(encoding="utf-8")


def varied_settings(ensembles: Iterable[dict]) -> dict[str, list]:
    """Return the settings that differ between ensembles, each with its values; n if none does.

    Args:
        ensembles: as ``Plan.described`` gives them, each with ``settings``.

    Returns:
        Setting -> its values in order of appearance; what a case decides is told by its label.
    """
    all_settings = [ensemble["settings"] for ensemble in ensembles]
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    values = {key: list(dict.fromkeys(s.get(key, "none") for s in all_settings)) for key in keys}
    varied = {key: of for key, of in values.items() if len(of) > 1}
    if "case" in varied:
        pairs = {key: {(s.get("case"), s.get(key, "none")) for s in all_settings} for key in varied}
        cases = len(varied["case"])
        varied = {k: of for k, of in varied.items() if k == "case" or len(pairs[k]) > cases}
    return varied or {"n": values["n"]}


def of_study(paths: Iterable[str], study: str) -> str:
    """Return the table of one study among those of several, which may be in any order.

    Args:
        paths: one table of every study, each in the study's folder.
        study: its name.
    """
    return next(path for path in paths if Path(path).parent.name == study)


def study_label(settings: dict[str, Any], varied: Iterable[str]) -> str:
    """Return the label of an ensemble from the settings that vary, for example ``n = 64``.

    The label of a case as it was written; a learning rate with its unit.
    """
    relative = settings.get("learning_rate_unit") == "stability_limit"
    units = {"learning_rate": " x 2/lambda_1"} if relative else {}
    names = {key: "" if key == "case" else f"{key.replace('_', ' ')} = " for key in varied}
    return ", ".join(
        f"{name}{settings[key]}{units.get(key, '')}"
        for key, name in names.items()
        if key in settings
    )


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], caption: str, name: str = ""
) -> str:
    """Return a table; cells are escaped, and line breaks in them are kept.

    Args:
        header: column titles.
        rows: cells.
        caption: what the table shows.
        name: a class for the style of the page.

    Returns:
        The element ``table``.
    """

    def cells(tag: str, of: Sequence[str]) -> str:
        return "".join(
            f"<{tag}>{html.escape(str(cell)).replace(chr(10), '<br>')}</{tag}>" for cell in of
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<table class="{f"docutils {name}".strip()}">\n<caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{cells('th', header)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"
    )


STYLE = (
    "body { margin: 0 auto; padding: 1rem 1.25rem 2rem; max-width: 60rem; color: #111; "
    'background: #fff; font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; } '
    "h1 { font-size: 1.35rem; } li { margin: .2rem 0; }"
)


# A backslash before punctuation, as CommonMark has it, but in mathematics between $
ESCAPED = re.compile(r"\\([!-/:-@[-`{-~])|(\$[^$\n]+\$)")


def from_markdown(text: str) -> str:
    """Return a page from Markdown that has a title, paragraphs and lists only; all text is escaped.

    Args:
        text: blocks apart by empty lines, ``# title``, ``- item`` in each line, or a paragraph; a
            backslash before punctuation is not shown.

    Returns:
        A whole HTML page that loads nothing.
    """
    title, blocks = "", []
    for block in filter(None, text.strip().split("\n\n")):
        shown = html.escape(ESCAPED.sub(r"\1\2", block))
        if block.startswith("# "):
            title = shown[2:]
            blocks.append(f"<h1>{title}</h1>")
        elif block.startswith("- "):
            items = (line.removeprefix("- ") for line in shown.split("\n"))
            blocks.append("\n".join(["<ul>", *(f"<li>{item}</li>" for item in items), "</ul>"]))
        else:
            blocks.append(f"<p>{shown}</p>")
    head = f'<meta charset="utf-8">\n<title>{title}</title>\n<style>{STYLE}</style>'
    body = "\n".join(blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )
