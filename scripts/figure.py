"""Draw one figure of a study from its tables, as PNG and PDF."""

import quick_start  # noqa: F401

import importlib

from pipeline.log import logged
from pipeline.stores import read_netcdf, read_table
from pipeline.tables import predicted_from_rest
from plots.results import cut_intervals
from plots.style import save, use_style

RATIOS = ("speed_limits", "outcomes")  # tables whose intervals are those of ratios


def read(name: str, path: str):
    """Return a table, with predictions and intervals that a figure can show, or a dataset."""
    if not path.endswith(".csv"):
        return read_netcdf(path)
    table = read_table(path)
    table = predicted_from_rest(table) if "start" in table else table
    return cut_intervals(table) if name in RATIOS else table


def main(snakemake) -> None:
    """Run the rule ``figure``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        use_style()
        module = importlib.import_module(f"plots.{settings['figure']}")
        figure = module.draw(**{name: read(name, path) for name, path in snakemake.input.items()})
        save(figure, [snakemake.output.png, snakemake.output.pdf], dpi=settings["dpi"])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
