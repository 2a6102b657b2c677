"""Draw one figure of a study from its tables, as PNG and PDF."""

import quick_start  # noqa: F401

import importlib

from pipeline.log import logged
from pipeline.stores import read_netcdf, read_table
from plots.style import save, use_style


def read(path: str):
    """Return a table or a dataset, by its ending."""
    return read_table(path) if path.endswith(".csv") else read_netcdf(path)


def main(snakemake) -> None:
    """Run the rule ``figure``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        use_style()
        module = importlib.import_module(f"plots.{settings['figure']}")
        figure = module.draw(**{name: read(path) for name, path in snakemake.input.items()})
        save(figure, [snakemake.output.png, snakemake.output.pdf], dpi=settings["dpi"])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
