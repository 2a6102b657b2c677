"""What the ensembles of a table are called: the settings that vary, as they stand in a legend."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from pipeline.runs import over_stability_limit, plain

NAMES = {
    "myrtle5": "Myrtle-5",
    "myrtle7": "Myrtle-7",
    "myrtle10": "Myrtle-10",
    "fully_connected": "fully connected",
    "cifar10": "CIFAR-10",
    "ntk": "NTK parameterisation",
    "standard": "standard parameterisation",
    "gradient_flow": "gradient flow",
    "gradient_descent": "gradient descent",
    "nesterov": "Nesterov",
    "sgd": "minibatches",
    "adam": "Adam",
    "langevin": "Langevin",
}
# Words of a path that carry their number: depth5 reads "depth 5".
NUMBERED = re.compile(r"\b(depth|width|patch|scale|tolerance|rate|momentum|batch|temperature)(\d)")
# Own choice: lines of inclined labels that a small panel has room for, and of a single one.
MOST_LINES, DEEPEST = 9, 3
VARIED = ("dataset", "model", "n", "width", "parameterisation", "dynamics", "subset")


def ensemble_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ensemble with the columns that identify it, in order of these."""
    columns = [column for column in ("case", *VARIED) if column in table]
    varied = varied_settings(table)
    columns += [column for column in varied if column not in columns]
    columns.sort(key=lambda column: column not in varied)  # what others decide orders nothing
    found = table[["ensemble", *columns]].drop_duplicates("ensemble")

    def key(values: pd.Series) -> pd.Series:
        if values.name == "case":  # as they stand in the configuration
            return pd.Series(pd.factorize(values)[0], values.index)
        return values if is_numeric_dtype(values) else values.map(str)

    return found.sort_values([*columns, "ensemble"], key=key).reset_index(drop=True)


def in_order(series: Sequence[tuple[str, pd.DataFrame]], table: pd.DataFrame) -> list:
    """Return series (label, rows) in the order in which figures show ensembles of the table.

    So that a label has one colour in all of them.
    """
    order = {path: k for k, path in enumerate(ensemble_table(table)["ensemble"])}
    return sorted(series, key=lambda pair: pair[1]["ensemble"].map(order).min())


def varied_settings(table: pd.DataFrame) -> list[str]:
    """Return the columns of settings that vary in a table, without those that cases decide.

    Settings stand between the ensemble and the start, realisation or moment of a row.
    """
    columns = list(table)
    ends = [columns.index(name) for name in ("start", "realisation", "moment") if name in columns]
    names = [name for name in columns[: min(ends, default=0)] if name != "ensemble"]
    varied = [name for name in names if table[name].nunique(dropna=False) > 1]
    if "case" in varied:  # settings that the case decides say nothing more
        decided = table.groupby("case")[[c for c in varied if c != "case"]].nunique(dropna=False)
        varied = ["case", *(c for c in decided if (decided[c] > 1).any())]
    for name in [name for name in varied if table[name].nunique() == 1]:
        # some read it and some do not, which the other settings say: networks of one layer no width
        others = [other for other in varied if other != name]
        groups = table.groupby(others, dropna=False, sort=False)[name] if others else None
        if groups is not None and groups.nunique(dropna=False).max() == 1:
            varied = others
    return varied


def varied_columns(table: pd.DataFrame) -> list[str]:
    """Return the identification columns that vary, the case in place of what it decides."""
    return [column for column in varied_settings(table) if column in ("case", *VARIED)]


def describe(column: str, value: object) -> str:
    """Return a setting as it stands in a legend, for example ``$n = 64$``."""
    if column == "case":
        return drawable(str(value))
    value = plain(value)  # whole numbers, beside runs without one
    if column == "n":
        return f"$n = {value}$"
    if column in ("width", "subset"):
        return f"{column} {value}"
    text = str(value)  # an own network, my_module:factory, stays as it is written
    return NAMES.get(text, text if ":" in text else text.replace("_", " "))


def drawable(text: str) -> str:
    """Return a text as it was written, as mathematics between $ only where matplotlib can draw it.

    Args:
        text: a label of the user's.
    """
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("path").parse(text)
    except ValueError:
        return text.replace("$", r"\$")
    return text


def folded(text: str, most: int = 18) -> str:
    """Return a tick's label, in lines where it is long: after commas, the colon of a model, words.

    Args:
        text: the label.
        most: characters of a line that may stay one (own choice: they fit below a narrow panel).
    """
    lines = [""]
    for part in re.split(r"(?<=,)(?= )|(?<=:)(?=\w)", text):
        if lines[-1] and len(lines[-1] + part) > most:
            lines.append("")
        lines[-1] += part if lines[-1] else part.strip()
    whole = ("$" in line or len(line) <= most for line in lines)
    return "\n".join(
        line if kept else "\n".join(textwrap.wrap(line, most, break_long_words=False))
        for line, kept in zip(lines, whole, strict=True)
    )


def crowded(labels: Sequence[str]) -> bool:
    """Return whether folded and inclined labels of an axis would touch or squeeze its panel."""
    deepest = max((text.count("\n") + 1 for text in labels), default=0)
    return len(labels) * deepest > MOST_LINES or deepest > DEEPEST


def ensemble_label(row: pd.Series, columns: Sequence[str]) -> str:
    """Return the label of an ensemble from those columns that vary and that it reads; n if none."""
    read = [column for column in columns if pd.notna(row[column])]
    return ", ".join(describe(column, row[column]) for column in read or ["n"])


def word(column: str, value: object) -> str:
    """Return a setting of any column as it stands in a legend, for example ``output scale 3``."""
    text = describe(column, value)
    plain = column in ("n", "width", "subset", "case", "dataset", "model", "dynamics")
    plain |= isinstance(value, str)
    return text if plain else f"{column.replace('_', ' ')} {text}"


def setting(row: pd.Series, column: str) -> str:
    """Return a setting of an ensemble as ``word`` does, a learning rate with its unit.

    Args:
        row: with the ensemble, whose folder names the unit.
        column: the setting.
    """
    relative = column == "learning_rate" and over_stability_limit(row["ensemble"])
    return word(column, row[column]) + (r" $\times\,2/\lambda_1$" if relative else "")


def path_differences(paths: Sequence[str]) -> list[str]:
    """Return what distinguishes paths of ensembles whose identification columns agree."""
    # The minus of an exponent, as in tolerance1e-05, divides nothing.
    tokens = [[t for t in re.split(r"/|(?<!\de)-", path) if t] for path in paths]
    common = set.intersection(*map(set, tokens))
    shown = [" ".join(t for t in of if t not in common) for of in tokens]
    shown = [text.replace("_", " ").replace("=", " ") for text in shown]
    return [NUMBERED.sub(r"\1 \2", text) for text in shown]


def distinct(labels: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return labels of ensembles; those that are equal with what tells their paths apart."""
    found = pd.Series(list(labels), dtype=object)
    for label in found[found.duplicated()].unique():
        same = np.flatnonzero(found == label)
        parts = path_differences([paths[index] for index in same])
        for index, part in zip(same, parts, strict=True):
            found.iloc[index] = f"{label}, {part}"
    return list(found)
