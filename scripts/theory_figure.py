"""Draw one figure of the theory from its tables, as PNG and PDF."""

import quick_start  # noqa: F401

from pipeline.log import logged
from pipeline.stores import read_table
from plots import theory
from plots.style import save, use_style


def main(snakemake) -> None:
    """Run the rule ``theory_figure``."""
    settings, given, made = snakemake.params.settings, snakemake.input, snakemake.output
    with logged(snakemake.log[0]):
        use_style()
        tables = {name: read_table(path) for name, path in given.items()}
        figure = getattr(theory, settings["figure"])(**tables)
        save(figure, [made.png, made.pdf], dpi=settings["dpi"])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
