"""Speed limit, inefficiency and lengths of an ensemble, cold and warm, with the NTK's prediction.

Rows are runs and the ensemble, at every recorded time after the start (``pipeline.speed_limits``).
"""

import quick_start  # noqa: F401

import pandas as pd

from pipeline.columns import described
from pipeline.log import logged
from pipeline.speed_limits import (
    check_unit_of_time,
    start_table,
    transport,
    warn_of_discretisation,
    warn_of_first_snapshot,
    warn_of_noise,
    warn_of_rounding,
)
from pipeline.stores import (
    provenance,
    read_json,
    read_netcdf,
    read_snapshots,
    read_table,
    write_json,
    write_table,
)


def main(snakemake) -> None:
    """Run the rule ``speed_limit``."""
    settings, given = snakemake.params.settings, snakemake.input
    with logged(snakemake.log[0]):
        runs = [read_snapshots(path) for path in given.manifests]
        exponents = read_table(given.exponents)
        starts = {"cold": (0, [read_netcdf(path) for path in given.start])}
        check_unit_of_time(runs[0], starts["cold"][1][0])
        warm = read_json(given.warm_start)
        if warm["reached"] and warm["snapshot"] < runs[0].sizes["snapshot"] - 1:
            starts["warm"] = (warm["snapshot"], [read_netcdf(path) for path in given.warm])
        tables = [
            start_table(name, snapshot, runs, kernels, exponents, settings)
            for name, (snapshot, kernels) in starts.items()
        ]
        table = pd.concat(tables, ignore_index=True)
        ends = table[table["realisation"] == "ensemble"].groupby("start").tail(1).set_index("start")
        print(ends.T.to_string())
        if "note" in table:
            warn_of_noise(table)
        else:
            warn_of_discretisation(table)
            warn_of_rounding(table)
        warn_of_first_snapshot(table)
        couplings = {name: transport(runs, snapshot) for name, (snapshot, _) in starts.items()}
        columns = {name: described(name) for name in couplings["cold"]}
        write_json(
            {"starts": couplings, "columns": columns, "provenance": provenance(settings)},
            snakemake.output.transport,
        )
        write_table(table, snakemake.output.table, settings["confidence"])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
