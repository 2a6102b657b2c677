"""Compare networks of several widths with their limit of infinite width.

For every run and recorded time: the inefficiency, what its own NTK at the start predicts, and what
the kernel of infinite width predicts for the outputs that this run starts from; for every ensemble
also the exact mean of the limit over its Gaussian starts. The differences, in logarithms, and the
kernel's drift are fitted by powers of the width (docs/theory.md, section 10).
"""

import quick_start  # noqa: F401

import itertools

import numpy as np
import pandas as pd
import torch

from pipeline.log import Progress, logged
from pipeline.problem import build_problem, network_outputs
from pipeline.runs import subset_file
from pipeline.seeds import derived_seed
from pipeline.stores import read_table, write_table
from pipeline.tables import of_one_kernel
from speedlimits import infinite_width, ntk_dynamics
from speedlimits.statistics import (
    interval_of_draws,
    resampled_rows,
    standard_deviation_interval,
)
from speedlimits.width_scaling import STATISTICS, fitted_power

DEVIATIONS = ("deviation", "deviation_of_start", "deviation_in_training")
MEANS = (*DEVIATIONS, "drift")
# quantity, statistic over runs, power expected for smooth activations and for the ReLU
LAWS = (
    ("drift", "mean", -1.0, -0.75),
    ("deviation", "standard_deviation", -0.5, -0.5),
    ("deviation", "mean", -1.0, -1.0),
    ("deviation_of_start", "standard_deviation", -0.5, -0.5),
    ("deviation_of_start", "mean", -1.0, -1.0),
    ("deviation_in_training", "standard_deviation", -1.0, -0.75),
    ("deviation_in_training", "mean", -1.0, -1.0),
)


def closed_form(settings: dict, subset: str) -> tuple[np.ndarray, np.ndarray]:
    """Return Sigma and Theta at infinite width, for the network and the training subset of a run.

    Args:
        settings: of the ensemble, with ``seed``; its width changes nothing.
        subset: file of its training subset.
    """
    problem = build_problem(settings, subset, 0, torch.device("cpu"))
    progress = Progress(1.0)
    return infinite_width.kernels(
        problem.network,
        problem.inputs.double().numpy(),
        on_progress=lambda share: progress.update(share, lambda: "of the kernel of infinite width"),
    )


def limits(
    settings: dict,
    subset: str,
    realisations: int,
    times: np.ndarray,
    kernels: tuple[np.ndarray, np.ndarray],
) -> list[np.ndarray]:
    """Return the inefficiency at infinite width: of each run's own outputs, and the exact mean.

    Args:
        settings: of the ensemble, with ``seed``.
        subset: file of its training subset.
        realisations: number of runs R.
        times: T, shape (M,).
        kernels: of ``closed_form``.

    Returns:
        R + 1 arrays (M,): T/T_SL for the residue that each run starts with, and its ratio of
        averages over the Gaussian starts.
    """
    covariance, kernel = kernels
    found = []
    for r in range(realisations):
        problem = build_problem(settings, subset, r, torch.device("cpu"))
        residue = problem.targets - network_outputs(problem.network, problem.inputs)
        modes = infinite_width.expected_residue_projections(kernel, residue.double().numpy())
        found.append(ntk_dynamics.inefficiency(*modes, times))
    modes = infinite_width.expected_residue_projections(
        kernel,
        problem.plain_targets.double().numpy(),
        None if settings["subtract_start"] else covariance,
    )
    return [*found, ntk_dynamics.inefficiency(*modes, times)]


def subset_of(ensemble: dict) -> str:
    """Return the file of an ensemble's training subset."""
    _, _, dataset, subset, *_ = ensemble["path"].split("/")
    return subset_file(dataset, subset)


def compared(
    ensemble: dict,
    speed_limits: pd.DataFrame,
    kernels: pd.DataFrame,
    seed: int,
    form: tuple[np.ndarray, np.ndarray],
):
    """Return the rows of one ensemble: its runs at every time, then the ensemble.

    Args:
        ensemble: path, manifests and settings.
        speed_limits: table of the study.
        kernels: rows of the table of the study, of one kernel.
        seed: master seed.
        form: of ``closed_form``.
    """
    settings = ensemble["settings"] | {"seed": seed}
    rows = speed_limits[
        (speed_limits["ensemble"] == ensemble["path"]) & (speed_limits["start"] == "cold")
    ].sort_values("time", kind="stable")
    names = rows["realisation"].astype(str)
    realisations = len(ensemble["manifests"])
    times = rows.loc[names == "ensemble", "time"].to_numpy(float)
    exact = limits(settings, subset_of(ensemble), realisations, times, form)
    front = list(speed_limits.columns[: list(speed_limits.columns).index("start")])
    kept = [*front, "realisation", "time", "time_lambda_1", "inefficiency"]
    kept += ["inefficiency_low", "inefficiency_high", "inefficiency_predicted"]
    drifts = kernels[(kernels["ensemble"] == ensemble["path"]) & (kernels["moment"] == "end")]
    drifts = drifts.set_index(drifts["realisation"].astype(str))["drift"]
    tables = []
    for name, limit in zip([*map(str, range(realisations)), "ensemble"], exact, strict=True):
        table = rows.loc[names == name, kept].reset_index(drop=True)
        table["inefficiency_infinite_width"] = limit
        if name != "ensemble":
            predicted = table["inefficiency_predicted"]
            table["deviation"] = np.log(table["inefficiency"] / limit)
            table["deviation_of_start"] = np.log(predicted / limit)
            table["deviation_in_training"] = np.log(table["inefficiency"] / predicted)
            table["drift"] = np.nan
            table.loc[table.index[-1], "drift"] = drifts.get(name, np.nan)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def with_means(table: pd.DataFrame, settings: dict) -> pd.DataFrame:
    """Return a table whose ensemble rows have means over runs, with intervals.

    Means of the kernel's drift and of the deviations, and standard deviations of the latter.
    """
    whole = table["realisation"] == "ensemble"
    columns = {name: (name, "mean") for name in MEANS}
    columns |= {f"{name}_standard_deviation": (name, "standard_deviation") for name in DEVIATIONS}
    for (column, (quantity, statistic)), path in itertools.product(
        columns.items(), table["ensemble"].unique()
    ):
        place = table["ensemble"] == path
        runs = table[place & ~whole]
        sample = runs.pivot(index="realisation", columns="time", values=quantity).to_numpy(float).T
        count, function = sample.shape[1], STATISTICS[statistic]
        known = {"confidence": settings["confidence"], "runs": count}
        if statistic == "mean":
            stream = derived_seed(settings["seed"], "bootstrap", "infinite_width", path, column)
            rows = resampled_rows(count, settings["resamples"], np.random.default_rng(stream))
            value, draws = function(sample), function(sample[:, rows]).T
            signs = quantity in DEVIATIONS
            low, high = interval_of_draws(value, draws, either_sign=signs, **known)
        else:
            value = function(sample) if count > 1 else np.full(len(sample), np.nan)
            low, high = standard_deviation_interval(value, **known)
        # a run that diverged leaves no ensemble, and no interval of its survivors
        low, high = (np.where(np.isfinite(value), ends, np.nan) for ends in (low, high))
        for end, values in {"": value, "_low": low, "_high": high}.items():
            table.loc[place & whole, f"{column}{end}"] = values
    return table


def powers(table: pd.DataFrame, settings: dict) -> pd.DataFrame:
    """Return the fitted power of the width of every law at the end, over all and wide widths.

    The laws are of one set of data: what subsets differ by is no fluctuation.
    """
    runs = table[table["realisation"] != "ensemble"]
    ends = runs.groupby(["ensemble", "realisation"], sort=False).tail(1)
    widths = sorted(ends["width"].unique())
    rows = []
    for quantity, statistic, smooth, relu in LAWS:
        # own choice: the wider half, where corrections of the next order are least
        for chosen in (widths, widths[max(0, min(len(widths) // 2, len(widths) - 2)) :]):
            known = ends.dropna(subset=[quantity])
            of_width = [known[known["width"] == width] for width in chosen]
            stream = derived_seed(
                settings["seed"], "bootstrap", "power", quantity, statistic, len(chosen)
            )
            found = fitted_power(
                chosen,
                [rows_of[quantity] for rows_of in of_width],
                statistic,
                confidence=settings["confidence"],
                resamples=settings["resamples"],
                generator=np.random.default_rng(stream),
                groups=[rows_of["subset"] for rows_of in of_width],
            )
            label = {"quantity": quantity, "statistic": statistic}
            spanned = {"least_width": chosen[0], "largest_width": chosen[-1]}
            expected = {"power_expected": smooth, "power_expected_relu": relu}
            rows.append(label | spanned | expected | found)
    return pd.DataFrame(rows)


def main(snakemake) -> None:
    """Run the rule ``infinite_width``."""
    settings, given, made = snakemake.params.settings, snakemake.input, snakemake.output
    with logged(snakemake.log[0]):
        speed_limits = read_table(given.speed_limits)
        kernels = of_one_kernel(read_table(given.kernels))
        seed, ensembles = settings["seed"], settings["ensembles"]
        # All widths share the limit: the first ensemble of a subset stands for them.
        firsts = {subset_of(ensemble): ensemble for ensemble in reversed(ensembles)}
        forms = {
            file: closed_form(ensemble["settings"] | {"seed": seed}, file)
            for file, ensemble in firsts.items()
        }
        tables = [
            compared(ensemble, speed_limits, kernels, seed, forms[subset_of(ensemble)])
            for ensemble in ensembles
        ]
        table = with_means(pd.concat(tables, ignore_index=True), settings)
        fitted = powers(table, settings)
        print(fitted.to_string())
        write_table(table, made.runs, settings["confidence"])
        write_table(fitted, made.powers, settings["confidence"])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
