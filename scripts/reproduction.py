"""Hold the runs against what the paper reports: table and page (``sentences.reproduction``)."""

import quick_start  # noqa: F401

import pandas as pd

from pipeline.files import recorded
from pipeline.log import logged
from pipeline.pages import of_study
from pipeline.stores import read_table, write_table
from pipeline.tables import significance_level
from sentences.reproduction import (
    Row,
    at_a_temperature,
    configuration,
    fragment,
    only_size_varies,
    rows_of_study,
    tidy,
)


def main(snakemake) -> None:
    """Run the rule ``reproduction``."""
    settings, given, made = snakemake.params.settings, snakemake.input, snakemake.output
    compared: dict[str, tuple[list[Row], str]] = {}
    with logged(snakemake.log[0]):
        for name, study in settings["studies"].items():
            if not only_size_varies(study):
                print(f"{name}: other settings than n vary, not compared")
                continue
            if at_a_temperature(study):
                print(f"{name}: T/T_SL at a temperature is a lower bound, not compared")
                continue
            tables = {
                table: read_table(of_study(given[table], name))
                for table in ("speed_limits", "trends", "exponents", "warm_starts")
            }
            rows = rows_of_study(tables, study, significance_level(settings["confidence"]))
            realisations = len(study[0]["manifests"])
            own = study[0]["settings"]["warm_start_accuracy"]
            accuracy = settings["test_accuracy"] if own is None else own
            described = configuration(study, realisations, accuracy)
            compared[name] = rows, described
            for row in rows:
                print(f"{name}: {row.quantity}: {row.verdict}")
        columns = list(next(iter(tidy("", [Row("", "", "", "", [])], ""))))
        lines = [line for name, found in compared.items() for line in tidy(name, *found)]
        write_table(pd.DataFrame(lines, columns=columns), made.table, settings["confidence"])
        with recorded(made.page) as partial:
            partial.write_text(fragment(compared), encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
