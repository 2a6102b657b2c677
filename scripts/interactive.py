"""Write the interactive page: inefficiency against time for every run, in one file for a browser.

The page holds its data, style and program; it loads nothing and works from the disk.
"""

import quick_start  # noqa: F401

import json
import math

import pandas as pd

from pipeline.columns import interval_name
from pipeline.files import recorded
from pipeline.log import logged
from pipeline.pages import of_study, page, study_label, varied_settings
from pipeline.stores import read_table
from pipeline.tables import MOMENTUM, THRESHOLD, predicted_from_rest, with_threshold
from plots import results, style

FACTORS = ("inefficiency", "speed_unevenness", "path_excess")
PREDICTED = tuple(f"{name}_predicted" for name in FACTORS)
LAWS = {
    "power_law": "inefficiency_power_law",
    "asymptote": "inefficiency_power_law_asymptote",
}
DIGITS = 5  # more than a screen shows


def numbers(values: pd.Series) -> list[float | None]:
    """Return values rounded for a screen; None for what is not finite."""
    return [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in values]


def curves(rows: pd.DataFrame) -> dict:
    """Return what the page draws of one ensemble from one start.

    Args:
        rows: its rows of ``speed_limits.csv``, runs and ensemble.

    Returns:
        Times, measured and predicted factors and power laws, of the ensemble and of each run.
    """
    rows = rows.sort_values("time")
    whole = rows[rows["realisation"] == "ensemble"]
    shown = {name: name for name in (*FACTORS, *PREDICTED)} | LAWS
    ends = {f"{name}{end}": f"{name}{end}" for name in FACTORS for end in ("_low", "_high")}
    found: dict = {"time_lambda_1": numbers(whole["time_lambda_1"])}
    found |= columns_with_values(whole, shown | ends)
    runs = rows[rows["realisation"] != "ensemble"]
    runs = runs.groupby(runs["realisation"].astype(int))  # as words 10 would come before 2
    found["runs"] = [columns_with_values(run, shown) for _, run in runs]
    return found


def columns_with_values(rows: pd.DataFrame, shown: dict[str, str]) -> dict[str, list]:
    """Return the columns that have a value, by the names that the page gives them.

    Args:
        rows: of an ensemble or a run, in order of time.
        shown: name -> column.
    """
    return {name: numbers(rows[c]) for name, c in shown.items() if rows[c].notna().any()}


def study_data(table: pd.DataFrame, ensembles: list[dict]) -> dict:
    """Return what the page shows of one study.

    Args:
        table: its ``speed_limits.csv``.
        ensembles: its ensembles, as ``Plan.described`` gives them.

    Returns:
        The settings that vary with their values, and the ensembles with their curves.
    """
    if THRESHOLD in table:
        thresholds = table.groupby("ensemble")[THRESHOLD].first()
        ensembles = [with_threshold(e, float(thresholds[e["path"]])) for e in ensembles]
    varied = varied_settings(ensembles)
    shown = []
    colours = {ensemble.path: ensemble.colour for ensemble in style.ensembles(table)}
    order = list(colours)  # of the figures
    for ensemble in sorted(ensembles, key=lambda ensemble: order.index(ensemble["path"])):
        rows = table[table["ensemble"] == ensemble["path"]]
        settings = ensemble["settings"]
        shown.append(
            {
                "label": study_label(settings, varied),
                "colour": colours[ensemble["path"]],
                "settings": {key: str(settings.get(key, "none")) for key in varied},
                "noisy": settings.get("dynamics") == "sgd",
                "moving": settings.get("dynamics") in MOMENTUM,
                "bound": settings.get("temperature", 0) > 0,  # which Langevin dynamics alone reads
                "starts": {str(start): curves(of) for start, of in rows.groupby("start")},
            }
        )
    values = {key: [str(value) for value in of] for key, of in varied.items()}
    return {"varied": values, "ensembles": shown}


def main(snakemake) -> None:
    """Run the rule ``interactive``."""
    studies = snakemake.params.settings["studies"]
    with logged(snakemake.log[0]):
        data = {
            "studies": {},
            "widest": results.WIDEST,
            "footer": "Solid: T <L_0 - L_T> / <l_geo^2> over the realisations, ",
        }
        tables = {
            name: predicted_from_rest(read_table(of_study(snakemake.input, name)))
            for name in studies
        }
        interval = interval_name(next(iter(tables.values()))["confidence"].iloc[0])
        for name, ensembles in studies.items():
            data["studies"][name] = study_data(tables[name], ensembles)
        found = [e for study in data["studies"].values() for e in study["ensembles"]]
        if any(ensemble["moving"] and "warm" in ensemble["starts"] for ensemble in found):
            data["footer"] += (
                "\u2020 momentum in motion, whose kinetic energy T/T_SL leaves out: no bound, "
            )
        if any(ensemble["noisy"] for ensemble in found):
            data["footer"] += "\u2021 minibatches, whose noise adds to their action: no bound, "
        if any(ensemble["bound"] for ensemble in found):
            data["footer"] += "at a temperature a lower bound of T/T_SL (\u2265) over the starts, "
        data["footer"] += f"bands: its {interval}; all numbers: results/studies/*/*.csv"
        text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        with recorded(snakemake.output[0]) as partial:
            partial.write_text(page("interactive").replace("@DATA@", text), encoding="utf-8")
        print(f"{len(studies)} studies, {len(text) / 1e3:.0f} kB of data")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
