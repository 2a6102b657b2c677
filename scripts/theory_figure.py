"""Draw one figure of the theory from its tables, as PNG and PDF."""

import pandas as pd

from pipeline.log import logged
from pipeline.stores import read_table
from plots import theory
from plots.style import describe, save, use_style

INTERVALS = ("alpha", "alpha_low", "alpha_high", "delta", "delta_low", "delta_high")


def measured_exponents(paths: list[str]) -> pd.DataFrame:
    """Return the fitted exponents at the start of every ensemble, labelled by network.

    Args:
        paths: tables ``exponents.csv`` of studies.

    Returns:
        Columns label and ``INTERVALS``; the full kernel where it was computed.
    """
    table = pd.concat([read_table(path) for path in paths], ignore_index=True)
    table = table[table["moment"] == "start"].sort_values("kernel", kind="stable")
    table = table.dropna(subset=["alpha", "delta"]).drop_duplicates("ensemble")
    table["label"] = [
        f"{describe('model', model)}, {describe('dataset', dataset)}"
        for model, dataset in zip(table["model"], table["dataset"], strict=True)
    ]
    return table.sort_values("label", kind="stable")[["label", *INTERVALS]]


def main(snakemake) -> None:
    """Run the rules ``theory_figure`` and ``theory_phase_diagram_measured``."""
    settings, given, made = snakemake.params.settings, snakemake.input, snakemake.output
    with logged(snakemake.log[0]):
        use_style()
        tables = {name: read_table(path) for name, path in given.items() if name != "exponents"}
        if "exponents" in given.keys():
            tables["measured"] = measured_exponents(given.exponents)
            print(tables["measured"].to_string())
        figure = getattr(theory, settings["draw"])(**tables)
        save(figure, [made.png, made.pdf], dpi=settings["dpi"])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
