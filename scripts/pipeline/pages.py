"""What the HTML pages share: templates, tables, and the words for a study's ensembles."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).resolve().parents[1] / "pages"


def page(name: str) -> str:
    """Return the template ``pages/NAME.html``."""
    return (TEMPLATES / f"{name}.html").read_text(encoding="utf-8")


def varied_settings(ensembles: Iterable[dict]) -> dict[str, list]:
    """Return the settings that differ between ensembles, each with its values; n if none does.

    Args:
        ensembles: as ``Plan.described`` gives them, each with ``settings``.

    Returns:
        Setting -> its values in order of appearance.
    """
    all_settings = [ensemble["settings"] for ensemble in ensembles]
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    values = {key: list(dict.fromkeys(s.get(key, "none") for s in all_settings)) for key in keys}
    varied = {key: of for key, of in values.items() if len(of) > 1}
    return varied or {"n": values["n"]}


def study_label(settings: dict[str, Any], varied: Iterable[str]) -> str:
    """Return the label of an ensemble from the settings that vary, for example ``n = 64``."""
    return ", ".join(
        f"{key.replace('_', ' ')} = {settings[key]}" for key in varied if key in settings
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
