"""Speed limit, inefficiency and lengths of an ensemble, cold and warm, with the NTK's prediction.

Rows are runs and the ensemble, at every recorded time after the start. T_SL of the ensemble is the
ratio of averages over realisations; intervals are bootstrapped over realisations. The prediction
takes the measured spectrum at the same start; the power law takes the fitted exponents.
"""

import quick_start  # noqa: F401

import json
import math

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.columns import described
from pipeline.log import logged
from pipeline.seeds import derived_seed
from pipeline.stores import (
    provenance,
    read_json,
    read_netcdf,
    read_snapshots,
    read_table,
    write_json,
    write_table,
)
from speedlimits import speed_limit as sl
from speedlimits.ntk_dynamics import predict
from speedlimits.power_law import finite_power_law_inefficiency, inefficiency_asymptote
from speedlimits.statistics import bootstrap_interval
from speedlimits.transport import cheapest_other_cost, compare_couplings

RECORDED = ("time", "train_loss", "path_length", "action", "velocity_noise", "kinetic_energy")
# Slack of T (L_0 - L_T) >= l_gamma^2 for gradient flow, the error of its squared lengths: on linear
# models lengths are within 0.5 % of the exact ones at the default tolerance (test_dynamics.py).
FLOW_DISCRETISATION = 0.02
PREDICTORS = ("full", "quadrature")  # a file holds one of the two
LARGEST_DISCRETISATION = 0.1  # own choice: then l_gamma may be off by some 5 %
# name: function of the means over realisations; the intervals resample the realisations
ENSEMBLE = {
    "inefficiency": lambda m: sl.inefficiency(m["time"], m["geodesic2"], m["drop"]),
    "speed_unevenness": lambda m: sl.speed_unevenness(m["time"], m["path2"], m["drop"]),
    "path_excess": lambda m: sl.path_excess(m["path2"], m["geodesic2"]),
    "speed_limit_time": lambda m: sl.speed_limit_time(m["geodesic2"], m["drop"]),
    "kinematic_inefficiency": lambda m: sl.kinematic_inefficiency(
        m["time"], m["geodesic2"], m["action"]
    ),
}
# Adam's time is a length: only what no unit of time enters is given for it, and no spectrum of the
# flow predicts it.
WITHOUT_CLOCK = ("kinematic_inefficiency", "path_excess")


def measured(runs: list[xr.Dataset], start: int) -> dict[str, np.ndarray]:
    """Return loss drop, lengths and action since one snapshot, each (R, M), and check the bounds.

    Args:
        runs: trajectories of the realisations.
        start: number of the snapshot to start from.

    Returns:
        time (M,), drop, geodesic2, path, path2, action; path and action of gradient flow are NaN
        where its action is off the loss drop by more than LARGEST_DISCRETISATION.
    """
    later = slice(start + 1, None)
    since = {
        name: np.stack([run[name].values[later] - run[name].values[start] for run in runs])
        for name in RECORDED
    }
    action_with_noise = since["action"] + since["velocity_noise"]
    geodesic2 = np.stack([run["distance_squared"].values[start, later] for run in runs])
    for r, run in enumerate(runs):
        flow = json.loads(run.attrs["config"])["dynamics"] == "gradient_flow"
        sl.check_speed_limit(
            since["time"][r],
            -since["train_loss"][r],
            since["action"][r],
            since["path_length"][r],
            np.sqrt(geodesic2[r]),
            relative_discretisation=FLOW_DISCRETISATION if flow else 0.0,
        )
        if flow:
            error = sl.discretisation(since["action"][r], -since["train_loss"][r])
            rough = np.abs(error) > LARGEST_DISCRETISATION
            for name in ("path_length", "action"):
                since[name][r, rough] = np.nan
    return {
        "time": since["time"][0],
        "drop": -since["train_loss"],
        "energy_drop": -since["train_loss"] - since["kinetic_energy"],
        "geodesic2": geodesic2,
        "path": since["path_length"],
        "path2": since["path_length"] ** 2,
        "action": since["action"],
        "action_with_noise": action_with_noise,
    }


def predicted(kernels: list[xr.Dataset], kind: str, times: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same quantities from the measured spectra, each (R, M)."""
    sums = [
        predict(
            np.where(
                kernel[f"eigenvalues_{kind}"] > kernel[f"noise_floor_{kind}"],
                kernel[f"eigenvalues_{kind}"],
                0.0,
            ),
            kernel[f"residue_projections_{kind}"].values,
            times,
        )
        for kernel in kernels
    ]
    stacked = {name: np.stack([s[name] for s in sums]) for name in sums[0]}
    return {
        "time": times,
        "drop": stacked["loss_drop"],
        "energy_drop": stacked["loss_drop"],
        "geodesic2": stacked["geodesic_length_squared"],
        "path": stacked["path_length"],
        "path2": stacked["path_length"] ** 2,
        "action": stacked["action"],
    }


def run_table(found: dict[str, np.ndarray], guess: dict[str, np.ndarray], r: int) -> pd.DataFrame:
    """Return the rows of realisation r."""
    one = {name: found[name] if name == "time" else found[name][r] for name in found}
    kernel = {name: guess[name] if name == "time" else guess[name][r] for name in guess}
    table = {
        "realisation": str(r),
        "time": one["time"],
        "loss_drop": one["drop"],
        "geodesic_length": np.sqrt(one["geodesic2"]),
        "path_length": one["path"],
        "action": one["action"],
        "discretisation": sl.discretisation(one["action_with_noise"], one["energy_drop"]),
    }
    table |= {name: function(one) for name, function in ENSEMBLE.items()}
    table |= {f"{name}_predicted": function(kernel) for name, function in ENSEMBLE.items()}
    return pd.DataFrame(table)


def ensemble_table(
    found: dict[str, np.ndarray], guess: dict[str, np.ndarray], settings: dict, start: str
) -> pd.DataFrame:
    """Return the rows of the ensemble: ratios of averages with bootstrap intervals."""

    def means(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: of[name] if name == "time" else of[name].mean(axis=0) for name in of}

    mean = means(found)
    table = {
        "realisation": "ensemble",
        "time": mean["time"],
        "loss_drop": mean["drop"],
        "geodesic_length": np.sqrt(mean["geodesic2"]),
        "path_length": np.sqrt(mean["path2"]),
        "action": mean["action"],
        "discretisation": sl.discretisation(mean["action_with_noise"], mean["energy_drop"]),
    }
    for suffix, source in (("", found), ("_predicted", guess)):
        samples = {name: source[name] for name in ("drop", "geodesic2", "path2", "action")}
        for name, function in ENSEMBLE.items():
            stream = derived_seed(settings["seed"], "bootstrap", start, name, suffix)
            low, high = bootstrap_interval(
                samples,
                lambda function=function, time=source["time"], **m: function({"time": time, **m}),
                confidence=settings["confidence"],
                resamples=settings["resamples"],
                generator=np.random.default_rng(stream),
            )
            value = function(means(source))
            table[f"{name}{suffix}"] = value
            # A run that diverged leaves no ensemble: its survivors are not a sample of all.
            table[f"{name}{suffix}_low"] = np.where(np.isfinite(value), low, np.nan)
            table[f"{name}{suffix}_high"] = np.where(np.isfinite(value), high, np.nan)
    return pd.DataFrame(table)


def power_law(exponents: pd.DataFrame, moment: str, kind: str, times: np.ndarray) -> dict:
    """Return the inefficiency of the fitted power law, as a finite sum and as its asymptote."""
    rows = exponents[(exponents["moment"] == moment) & (exponents["kernel"] == kind)]
    nothing = np.full(len(times), np.nan)
    missing = {"inefficiency_power_law": nothing, "inefficiency_power_law_asymptote": nothing}
    if len(rows) == 0 or not math.isfinite(rows.iloc[0]["alpha"]):
        return missing
    row = rows.iloc[0]
    alpha, delta, lambda_1 = row["alpha"], row["delta"], row["alpha_amplitude"]
    if alpha <= 0:
        return missing
    count = int(row["eigenvalues"])
    finite = finite_power_law_inefficiency(alpha, delta, count, times, lambda_1)
    asymptote = inefficiency_asymptote(alpha, delta, times, lambda_1, order="leading")
    return {"inefficiency_power_law": finite, "inefficiency_power_law_asymptote": asymptote}


def start_table(
    start: str,
    snapshot: int,
    runs: list[xr.Dataset],
    kernels: list[xr.Dataset],
    exponents: pd.DataFrame,
    settings: dict,
) -> pd.DataFrame:
    """Return all rows of one start, "cold" or "warm"."""
    kind = next(k for k in PREDICTORS if f"eigenvalues_{k}" in kernels[0])
    found = measured(runs, snapshot)
    guess = predicted(kernels, kind, found["time"])
    tables = [run_table(found, guess, r) for r in range(len(runs))]
    tables.append(ensemble_table(found, guess, settings, start))
    moment = "start" if start == "cold" else "warm"
    fitted = "full" if kind == "full" else "traced"
    law = pd.DataFrame(power_law(exponents, moment, fitted, found["time"]))
    table = pd.concat([pd.concat([t, law], axis=1) for t in tables], ignore_index=True)
    table.insert(0, "start", start)
    table.insert(3, "time_lambda_1", table["time"] * float(runs[0].attrs["lambda_1"]))
    table["prediction_kernel"] = kind
    if json.loads(runs[0].attrs["config"])["dynamics"] == "adam":
        blank = [n for n in table if n.startswith((*ENSEMBLE, "discretisation", "time_lambda"))]
        kept = [n for n in blank if n.startswith(WITHOUT_CLOCK) and "_predicted" not in n]
        table[[name for name in blank if name not in kept]] = np.nan
    return table


def transport(runs: list[xr.Dataset], start: int) -> dict:
    """Return W2^2 between the ensembles of starts and ends, by identity and by assignment.

    Args:
        runs: trajectories of the realisations.
        start: number of the snapshot to start from; the end is the last finite one.

    Returns:
        The columns of a row of the table transport.
    """
    finite = np.all([np.isfinite(run["train_loss"].values) for run in runs], axis=0)
    last = max(int(np.flatnonzero(finite)[-1]), start)
    starts, ends = (
        np.stack([run["weights"].values[k] for run in runs]).astype(float) for k in (start, last)
    )
    moved = last > start  # else a run has diverged at once
    found, other = compare_couplings(starts, ends), cheapest_other_cost(starts, ends)
    return {
        "time": float(runs[0]["time"][last] - runs[0]["time"][start]),
        "wasserstein_squared_identity": found.identity_cost,
        "wasserstein_squared_assignment": found.optimal_cost,
        "identity_over_assignment": 1 + found.relative_gap if moved else None,
        "other_over_identity": other / found.identity_cost if moved and len(runs) > 1 else None,
        "identity_is_optimal": bool(found.identity_is_optimal),
        "realisations": len(runs),
    }


def warn_of_discretisation(table: pd.DataFrame) -> None:
    """Print a warning where the integrated curve's action is off the loss drop by over a tenth."""
    worst = table["discretisation"].abs().max()
    if worst > LARGEST_DISCRETISATION:
        print(
            f"warning: the computed action is off the loss drop by {100 * worst:.0f} % at worst; "
            "path lengths there are rough, or left out where the flow's chords show it too (T/T_SL "
            "is not affected): lower relative_tolerance or the learning rate"
        )


def main(snakemake) -> None:
    """Run the rule ``speed_limit``."""
    settings, given = snakemake.params.settings, snakemake.input
    with logged(snakemake.log[0]):
        runs = [read_snapshots(path) for path in given.manifests]
        exponents = read_table(given.exponents)
        starts = {"cold": (0, given.start)}
        warm = read_json(given.warm_start)
        if warm["reached"] and warm["snapshot"] < runs[0].sizes["snapshot"] - 1:
            starts["warm"] = (warm["snapshot"], given.warm)
        tables = [
            start_table(name, snapshot, runs, list(map(read_netcdf, files)), exponents, settings)
            for name, (snapshot, files) in starts.items()
        ]
        table = pd.concat(tables, ignore_index=True)
        ends = table[table["realisation"] == "ensemble"].groupby("start").last()
        print(ends.T.to_string())
        warn_of_discretisation(table)
        couplings = {name: transport(runs, snapshot) for name, (snapshot, _) in starts.items()}
        columns = {name: described(name) for name in couplings["cold"]}
        write_json(
            {"starts": couplings, "columns": columns, "provenance": provenance(settings)},
            snakemake.output.transport,
        )
        write_table(table, snakemake.output.table)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
