"""Rows of runs and ensembles at every recorded time: T_SL, lengths, intervals, predictions.

T_SL of the ensemble is the ratio of averages over realisations; intervals are bootstrapped over
realisations. The prediction takes the measured spectrum at the same start; the power law takes the
fitted exponents. At a temperature above 0 T_SL is bounded from above and the inefficiency from
below, from the distribution of starts (see speedlimits.langevin_ensembles).
"""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import xarray as xr
from scipy.integrate import cumulative_trapezoid

from pipeline.seeds import SAME_DRAWS, derived_seed
from pipeline.tables import (
    LARGEST_DISCRETISATION,
    LARGEST_PATH_ROUNDING,
    above_noise,
    fitted_kernel,
    left_out_for_rounding,
)
from speedlimits import langevin_ensembles
from speedlimits import speed_limit as sl
from speedlimits.langevin_ensembles import StartDistribution
from speedlimits.ntk_dynamics import predict
from speedlimits.power_law import finite_power_law_inefficiency, inefficiency_asymptote
from speedlimits.statistics import bootstrap_interval
from speedlimits.transport import ROUNDING, cheapest_other_cost, compare_couplings

RECORDED = ("time", "train_loss", "path_length", "action", "velocity_noise", "kinetic_energy")
PREDICTORS = ("full", "quadrature")  # a file holds one of the two
LARGEST_UNSEEN_DROP = 0.5  # own choice, of the loss drop: then most of the training is not seen
LAMBDA_1_TOLERANCE = 1e-2  # own choice: ten times what lambda_1 by Jacobian products is found to
# name: function of the means over realisations; the intervals resample the realisations
ENSEMBLE = {
    "inefficiency": lambda m: sl.inefficiency(m["time"], m["transport2"], m["descent"]),
    "speed_unevenness": lambda m: sl.speed_unevenness(m["time"], m["path2"], m["drop"]),
    "path_excess": lambda m: sl.path_excess(m["path2"], m["geodesic2"]),
    "speed_limit_time": lambda m: sl.speed_limit_time(m["transport2"], m["descent"]),
    "kinematic_inefficiency": lambda m: sl.kinematic_inefficiency(
        m["time"], m["geodesic2"], m["action"]
    ),
}
# The same of what no spectrum predicts; docs/theory.md, section 8.
MEASURED = {
    "energetic_inefficiency": lambda m: sl.energetic_inefficiency(
        m["time"], m["metric2"], m["energy_drop"]
    ),
}
# Adam's time is a length: only what no unit of time enters is given for it, and no spectrum of the
# flow predicts it.
WITHOUT_CLOCK = ("kinematic_inefficiency", "path_excess")
# What means and intervals are taken of, where a dynamics has it. transport2 is l_geo^2, or at a
# temperature the cost of a coupling; descent is the loss drop, or there that of the free energy.
SAMPLED = (
    "drop", "geodesic2", "path2", "action", "transport2", "descent", "curvature_heat", "products",
    "mean_products", "energy_drop", "metric2",
)  # fmt: skip
NOT_POSITIVE = (
    "the lower bound on the free energy's drop is not positive, and so says nothing (more "
    "realisations, a wider network, denser or earlier snapshots, or another temperature)"
)
# Own choice: then the standard error of a layer's second moment is at most a quarter of it, and
# what its logarithm and inverse are biased by less than a tenth.
LEAST_WEIGHTS = 30


def measured(runs: list[xr.Dataset], start: int) -> dict[str, np.ndarray]:
    """Return loss drop, lengths and action since one snapshot, each (R, M), and check the bounds.

    Args:
        runs: trajectories of the realisations.
        start: number of the snapshot to start from.

    Returns:
        time (M,), drop, energy_drop, geodesic2, metric2 (the same in Adam's mean metric),
        transport2, descent, path, path2, action; path and action of gradient flow are NaN where its
        action is off the loss drop by more than LARGEST_DISCRETISATION, paths where rounding of the
        weights may be more than LARGEST_PATH_ROUNDING of them, both at a temperature everywhere.
    """
    later = slice(start + 1, None)
    since = {
        name: np.stack([run[name].values[later] - run[name].values[start] for run in runs])
        for name in RECORDED
    }
    action_with_noise = since["action"] + since["velocity_noise"]
    geodesic2 = np.stack([run["distance_squared"].values[start, later] for run in runs])
    for r, run in enumerate(runs):
        sl.check_speed_limit(
            since["time"][r],
            since["action"][r],
            since["path_length"][r],
            np.sqrt(geodesic2[r]),
        )
        if settings_of(run)["dynamics"] == "gradient_flow":
            error = sl.discretisation(since["action"][r], -since["train_loss"][r])
            rough = np.abs(error) > LARGEST_DISCRETISATION
            for name in ("path_length", "action"):
                since[name][r, rough] = np.nan
        added = path_rounding(run)
        rounded = added[later] - added[start] > LARGEST_PATH_ROUNDING * since["path_length"][r]
        since["path_length"][r, rounded] = np.nan
    found = {
        "time": since["time"][0],
        "drop": -since["train_loss"],
        "transport2": geodesic2,
        "descent": -since["train_loss"],
        "energy_drop": -since["train_loss"] - since["kinetic_energy"],
        "geodesic2": geodesic2,
        "metric2": np.stack([squared_lengths_in_metric(run)[start, later] for run in runs]),
        "path": since["path_length"],
        "path2": since["path_length"] ** 2,
        "action": since["action"],
        "action_with_noise": action_with_noise,
    }
    return found | at_temperature(runs, start, found) if temperature_of(runs) else found


def path_rounding(run: xr.Dataset) -> np.ndarray:
    """Return about how much rounding of the weights has lengthened a path by each snapshot.

    Args:
        run: trajectory with its M snapshots.

    Returns:
        Shape (M,), in weight.
    """
    return cumulative_trapezoid(run["speed_rounding"].values, run["time"].values, initial=0.0)


def settings_of(run: xr.Dataset) -> dict:
    """Return the run settings of a trajectory."""
    return json.loads(run.attrs["config"])


def squared_lengths_in_metric(run: xr.Dataset) -> np.ndarray:
    """Return |theta_t - theta_t'|^2 in the mean metric of the dynamics; only Adam has one."""
    return run.get("preconditioned_length_squared", run["distance_squared"]).values


def temperature_of(runs: list[xr.Dataset]) -> float:
    """Return the temperature of an ensemble, 0 where its dynamics has none."""
    settings = settings_of(runs[0])
    return settings["temperature"] if settings["dynamics"] == "langevin" else 0.0


def start_distribution(run: xr.Dataset) -> StartDistribution | None:
    """Return the distribution of a run's starts, None where it is not known: of own networks.

    None too where outputs of the start are subtracted: every start then has a loss of its own,
    under which it is the only one, and the ensemble has no free energy.
    """
    variances = json.loads(run.attrs["start_variances"])
    ranges = json.loads(run.attrs["parameter_ranges"])
    settings = settings_of(run)
    initialisation = settings.get("initialisation")
    if initialisation is None or not np.all(np.isfinite(list(variances.values()))):
        return None
    if settings["subtract_start"]:
        return None
    gaussian = initialisation == "he"
    sizes = [ranges[name][1] - ranges[name][0] for name in variances]
    return StartDistribution(sizes, list(variances.values()), gaussian)


def nothing_bounded(start: int, distribution: StartDistribution | None, realisations: int) -> str:
    """Return why an ensemble, or a single run, at a temperature has no T_SL; empty if it has."""
    if start > 0:
        return "the distribution at the warm start, and so its entropy, is not known"
    if distribution is None:
        return (
            "how its starts are distributed is not known (own networks), weights have a fixed "
            "start, whose entropy is minus infinity, or every start has a loss of its own "
            "(subtract_start)"
        )
    known = int(distribution.sizes.min()) * realisations
    if known < LEAST_WEIGHTS:
        of = "over all realisations" if realisations > 1 else "in one run"
        return (
            f"its smallest layer has {known} weights {of}; the entropy needs {LEAST_WEIGHTS} (a "
            "wider network or, for the ensemble, more realisations)"
        )
    return ""


def at_temperature(runs: list[xr.Dataset], start: int, found: dict) -> dict:
    """Return what takes the place of lengths and loss drop at a temperature, see ``measured``.

    A Brownian path has no length and one start no entropy: path and action are NaN, and the drop of
    the free energy follows from means over realisations (``completed``).
    """
    nothing = np.full(found["drop"].shape, np.nan)
    later = slice(start + 1, None)

    def since(name: str) -> np.ndarray:
        return np.stack([run[name].values[later] - run[name].values[start] for run in runs])

    law = start_distribution(runs[0])
    changed = {name: nothing for name in ("path", "path2", "action", "metric2")}
    changed |= {"heat": since("heat"), "curvature_heat": since("curvature_heat")}
    changed |= {"action_with_noise": changed["heat"], "law": law}
    changed |= {"temperature": temperature_of(runs)}
    if nothing_bounded(start, law, len(runs)):
        return changed | {"transport2": nothing, "descent": nothing}
    products = np.stack([run["layer_products"].values[later] for run in runs])
    integrals = np.stack([run["layer_product_integrals"].values for run in runs])
    times = runs[0]["time"].values
    return changed | {
        "transport2": langevin_ensembles.transport_cost(
            products, found["time"], law, changed["temperature"]
        ),
        "products": products[..., :2, :2],
        "mean_products": np.diff(integrals, axis=1) / np.diff(times)[:, None, None, None],
        "realisations": len(runs),
        "descent": None,
    }


def completed(m: dict) -> dict:
    """Return means (or one run) with the drop of the free energy, where it follows from the rest.

    Args:
        m: the names of ``measured``, each (..., M); the inner products of displacement and start,
            and their means over the time since the snapshot before, (..., M, layers, 2, 2).
    """
    if m.get("descent") is not None:
        # what few starts predict of the linearised network can contradict itself
        impossible = m["transport2"] < 0
        if "temperature" in m:
            impossible |= m["transport2"] > (1 + 1e-9) * m["time"] * m["descent"]  # T_SL > T
        return m | {"transport2": np.where(impossible, np.nan, m["transport2"])}
    law = m["law"]

    def known(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moments = langevin_ensembles.second_moments(products, law)
        return moments, langevin_ensembles.moment_errors(products, moments, law, m["realisations"])

    moments, errors = known(m["mean_products"])
    information = langevin_ensembles.information_integral(m["time"], moments, law, errors)
    moments, errors = known(m["products"])
    gain = langevin_ensembles.largest_entropy_gain(moments, law, errors)
    least, most = langevin_ensembles.free_energy_drops(
        m["drop"], m["curvature_heat"], information, gain, m["temperature"]
    )
    return m | {"descent": least, "descent_most": most}


def averaged(of: dict, r: int | None = None) -> dict:
    """Return the means over realisations, or what realisation r has, completed."""
    taken = {
        name: value if not isinstance(value, np.ndarray) or name == "time" else
        value.mean(axis=0) if r is None else value[r]
        for name, value in of.items()
    }  # fmt: skip
    return completed(taken if r is None else taken | {"realisations": 1})


def predicted(kernels: list[xr.Dataset], kind: str, times: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same quantities from the measured spectra, each (R, M)."""
    sums = [predict(*above_noise(kernel, kind), times) for kernel in kernels]
    stacked = {name: np.stack([s[name] for s in sums]) for name in sums[0]}
    return {
        "time": times,
        "drop": stacked["loss_drop"],
        "energy_drop": stacked["loss_drop"],
        "geodesic2": stacked["geodesic_length_squared"],
        "path": stacked["path_length"],
        "path2": stacked["path_length"] ** 2,
        "action": stacked["action"],
        "transport2": stacked["geodesic_length_squared"],
        "descent": stacked["loss_drop"],
    }


def predicted_at_temperature(
    kernels: list[xr.Dataset], kind: str, found: dict, start: int
) -> dict[str, np.ndarray]:
    """Return W2^2 and free-energy drop of the linearised network at a temperature, each (R, M).

    NaN from a warm start, where only sums over the spectrum are known, for uniform starts, and for
    networks of several layers, whose outputs at the start are not linear in the weights.
    """
    nothing, law = np.full(found["drop"].shape, np.nan), found["law"]
    whole = {name: nothing for name in ("drop", "geodesic2", "path2", "action")}
    whole |= {"time": found["time"], "transport2": nothing, "descent": nothing}
    whole |= {"temperature": found["temperature"]}
    linear = law is not None and law.gaussian and len(law.sizes) == 1
    if start > 0 or kind != "full" or not linear:
        return whole
    sums = [
        langevin_ensembles.linearised(
            *above_noise(kernel, kind),
            found["time"],
            weights=int(law.sizes[0]),
            start_variance=float(law.variances[0]),
            temperature=found["temperature"],
        )
        for kernel in kernels
    ]
    names = {"drop": "loss_drop", "transport2": "wasserstein_squared"}
    names |= {"descent": "free_energy_drop"}
    return whole | {name: np.stack([s[key] for s in sums]) for name, key in names.items()}


def run_table(found: dict[str, np.ndarray], guess: dict[str, np.ndarray], r: int) -> pd.DataFrame:
    """Return the rows of realisation r."""
    one, kernel = averaged(found, r), averaged(guess, r)
    if "law" in found and nothing_bounded(0, found["law"], 1):
        one |= dict.fromkeys(("descent", "descent_most"), np.full(len(one["time"]), np.nan))
    table = measured_columns(one, str(r), one["path"])
    table |= {name: function(one) for name, function in (ENSEMBLE | MEASURED).items()}
    table |= {f"{name}_predicted": function(kernel) for name, function in ENSEMBLE.items()}
    return pd.DataFrame(table)


def measured_columns(m: dict, realisation: str, path_length: np.ndarray) -> dict:
    """Return the columns that need no interval, of a run or of the means over all."""
    return {
        "realisation": realisation,
        "time": m["time"],
        "loss_drop": m["drop"],
        "geodesic_length": np.sqrt(m["geodesic2"]),
        "path_length": path_length,
        "action": m["action"],
        "energy_drop": m["energy_drop"],
        "preconditioned_length_squared": m["metric2"],
        "discretisation": sl.discretisation(m["action_with_noise"], m["energy_drop"]),
        **noise_columns(m),
    }


def noise_columns(m: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns that only ensembles at a temperature have."""
    if "law" not in m:
        return {}
    most = m.get("descent_most", np.full(len(m["time"]), np.nan))
    # as a share of what T_SL is made with, where there is one
    descent = np.where(np.isfinite(m["descent"]), m["descent"], most)
    return {
        "heat": m["heat"],
        "curvature_heat": m["curvature_heat"],
        "transport_cost": m["transport2"],
        "free_energy_drop_least": m["descent"],
        "free_energy_drop_most": most,
        "heat_error": sl.heat_error(m["heat"], m["drop"], descent),
    }


def ensemble_table(
    found: dict[str, np.ndarray], guess: dict[str, np.ndarray], settings: dict, start: str
) -> pd.DataFrame:
    """Return the rows of the ensemble: ratios of averages with bootstrap intervals."""
    mean = averaged(found)
    table = measured_columns(mean, "ensemble", np.sqrt(mean["path2"]))
    of = (("", found, ENSEMBLE | MEASURED), ("_predicted", guess, ENSEMBLE))
    for suffix, source, functions in of:
        samples = {name: source[name] for name in SAMPLED if source.get(name) is not None}
        fixed = {name: value for name, value in source.items() if name not in samples}
        for name, function in functions.items():
            drawn = SAME_DRAWS.get(name, name)
            stream = derived_seed(settings["seed"], "bootstrap", start, drawn, suffix)
            low, high = bootstrap_interval(
                samples,
                lambda function=function, fixed=fixed, **m: function(completed({**fixed, **m})),
                confidence=settings["confidence"],
                resamples=settings["resamples"],
                generator=np.random.default_rng(stream),
            )
            value = function(averaged(source))
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
    count = int(row["above_noise_floor"])  # the others never move
    finite = finite_power_law_inefficiency(alpha, delta, count, times, lambda_1)
    asymptote = inefficiency_asymptote(alpha, delta, times, lambda_1, order="leading")
    return {"inefficiency_power_law": finite, "inefficiency_power_law_asymptote": asymptote}


def check_unit_of_time(run: xr.Dataset, kernel: xr.Dataset) -> None:
    """Compare lambda_1 by Jacobian products with that of the kernel.

    The one sets times and step sizes, the other the prediction, and they take different ways to
    the derivatives.

    Args:
        run: trajectory of realisation 0.
        kernel: of its start; without the full kernel's eigenvalues there is nothing to compare.

    Raises:
        ValueError: if they differ by more than LAMBDA_1_TOLERANCE.
    """
    if "eigenvalues_full" not in kernel:
        return
    unit, of_kernel = float(run.attrs["lambda_1"]), float(kernel["eigenvalues_full"][0])
    if not abs(of_kernel - unit) <= LAMBDA_1_TOLERANCE * unit:
        raise ValueError(
            f"lambda_1 at the start of realisation 0 is {unit:.6g} by Jacobian products, the unit "
            f"of time, and {of_kernel:.6g} by the kernel: forward and reverse derivatives of the "
            "network disagree; does it have derivatives of its own, or mix samples?"
        )


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
    if "law" in found:
        guess = predicted_at_temperature(kernels, kind, found, snapshot)
    tables = [run_table(found, guess, r) for r in range(len(runs))]
    tables.append(ensemble_table(found, guess, settings, start))
    moment = "start" if start == "cold" else "warm"
    law = pd.DataFrame(power_law(exponents, moment, fitted_kernel([kind]), found["time"]))
    table = pd.concat([pd.concat([t, law], axis=1) for t in tables], ignore_index=True)
    table.insert(0, "start", start)
    table.insert(3, "time_lambda_1", table["time"] * float(runs[0].attrs["lambda_1"]))
    table["prediction_kernel"] = kind
    if "law" in found:
        reasons = [nothing_bounded(snapshot, found["law"], count) for count in (1, len(runs))]
        whole = table["realisation"] == "ensemble"
        table["note"] = np.where(whole, reasons[1], reasons[0])
        silent = table["free_energy_drop_least"].isna() & table["loss_drop"].notna()
        table.loc[silent & (table["note"] == ""), "note"] = NOT_POSITIVE
        table[list(law)] = np.nan  # the power law of gradient flow
    if settings_of(runs[0])["dynamics"] == "adam":
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
        np.stack([run["weights"][k].values for run in runs]).astype(float) for k in (start, last)
    )
    # Weights are stored as the network takes them, distances of a run's own snapshots in float64.
    # Rounding theta by eps/2 |theta| changes |u|^2 by 2 eps |u| |theta|, differences by twice that.
    own = np.array([run["distance_squared"].values[start, last] for run in runs])
    scale = np.linalg.norm(starts, axis=1).max() / np.sqrt(max(own.mean(), np.finfo(float).tiny))
    rounding = max(ROUNDING, 4 * np.finfo(runs[0]["weights"].dtype).eps * scale)
    found = compare_couplings(starts, ends, own, rounding)
    other = cheapest_other_cost(starts, ends, own)
    moved = found.identity_cost > 0  # else a run has diverged at once, or there is no gradient
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
            "warning: the action, with errors of the velocity, is off the loss drop by "
            f"{100 * worst:.0f} % at worst; path lengths there are rough, or left out where the "
            "flow's chords show it too (T/T_SL is not affected): lower relative_tolerance or the "
            "learning rate"
        )


def warn_of_rounding(table: pd.DataFrame) -> None:
    """Print a warning where path lengths are left out for the rounding of weights."""
    runs = table[table["realisation"].astype(str) != "ensemble"]
    lost = left_out_for_rounding(runs, "path_length")
    if lost.any():
        print(
            f"warning: path lengths are left out from time {runs.loc[lost, 'time'].min():.3g} on, "
            "where rounding of the weights to the network's precision may be more than "
            f"{100 * LARGEST_PATH_ROUNDING:.0f} % of them (T/T_SL is not affected): set precision: "
            "float64, or an earlier final_time"
        )


def warn_of_first_snapshot(table: pd.DataFrame) -> None:
    """Print a warning where most of the loss drop lies before the first recorded time."""
    whole = table[(table["realisation"].astype(str) == "ensemble") & (table["start"] == "cold")]
    drops = whole.sort_values("time")["loss_drop"].to_numpy(float)
    drops = drops[np.isfinite(drops)]
    if len(drops) < 2 or not drops[0] > LARGEST_UNSEEN_DROP * drops[-1] > 0:
        return
    print(
        f"warning: {100 * drops[0] / drops[-1]:.0f} % of the loss drop lie before the first "
        "snapshot, where no time is resolved, and T/T_SL at the end counts all the time after it: "
        "lower first_snapshot, or the learning rate where it is one step; if targets are far "
        "larger than outputs at the start, divide them"
    )


def warn_of_noise(table: pd.DataFrame) -> None:
    """Print why T_SL is missing at a temperature, and where the heat is off the loss drop."""
    for (start, note), rows in table[table["note"] != ""].groupby(["start", "note"], sort=False):
        times = table.loc[table["start"] == start, "time"].nunique()
        whole = rows["realisation"].astype(str) == "ensemble"
        of = "" if whole.any() else " of single runs"
        count = (rows[whole] if whole.any() else rows)["time"].nunique()
        at = "" if count == times else f" at {count} of {times} times"
        print(f"no T_SL{of} at this temperature from the {start} start{at}: {note}")
    off = table["heat_error"].max()
    if off > LARGEST_DISCRETISATION:
        print(
            f"warning: the heat is off the loss drop by {100 * off:.0f} % of the free "
            "energy's drop at worst: the steps are too long for this temperature, lower "
            "learning_rate"
        )
