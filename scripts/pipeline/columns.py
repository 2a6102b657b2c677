"""Unit and meaning of every column of the workflow's tables, for attributes and documentation."""

from __future__ import annotations

# What a suffix adds to the meaning of the column that it follows; the unit stays.
SUFFIXES = {
    "low": "lower end of its interval",
    "high": "upper end of its interval",
    "standard_deviation": "standard deviation over runs",
    "predicted": "from the measured NTK spectrum at the same start",
    "linearised": "exact for the network linearised at its start",
    "closed_form": "closed form of the same data in continuous time",
    "discretised": "closed form of the chain that Euler-Maruyama simulates",
    "error": "standard error, jackknife over groups of realisations",
    "r_squared": "R^2 of its fit of logarithms",
    "residual_deviation": "standard deviation of the residues of its fit of logarithms",
    "curvature": "coefficient of (ln k)^2 where the law is allowed one",
    "bic_exponential": "BIC of y ~ e^{-ck} minus that of the power law",
    "bic_curved": "BIC of a law with curvature minus that of the power law",
    "window": "over sub-windows of the fit",
    "bins": "number of logarithmic bins of the fit",
}
# After these a column holds the thing itself: what else it is of networks is not its meaning.
EXACT = ("predicted", "linearised", "closed_form", "discretised")
OF_NETWORKS = "; of networks "  # begins that part
# column: (units, long_name)
COLUMNS = {
    "time": ("time", "training time since the start"),
    "time_lambda_1": ("1", "training time in units of 1/lambda_1"),
    "loss_drop": ("loss", "loss drop L_0 - L_T"),
    "geodesic_length": ("weight", "geodesic length l_geo = |theta_T - theta_0|"),
    "path_length": ("weight", "path length l_gamma"),
    "action": ("weight^2 / time", "action, integral of |d theta/dt|^2"),
    "discretisation": (
        "1",
        "(action with velocity noise - energy drop) / energy drop, 0 for exact gradient flow; the "
        "energy is the loss, with momentum plus the kinetic energy; at a temperature above 0 "
        "(heat - loss drop) / loss drop",
    ),
    "heat": ("loss", "heat -int grad L o d theta (midpoint of each step) since the start"),
    "curvature_heat": ("loss", "temperature x integral of the loss's Laplacian"),
    "transport_cost": ("weight^2", "W2(p_0, p_T)^2 from above, cost of a coupling"),
    "free_energy_drop_least": ("loss", "drop F_0 - F_T of the free energy from below"),
    "free_energy_drop_most": ("loss", "drop F_0 - F_T of the free energy from above"),
    "heat_error": (
        "1",
        "|heat - loss drop| over the free energy's drop (from below, else from above): what steps "
        "too long for the temperature leave unknown of T_SL",
    ),
    "energy_drop": (
        "loss",
        "drop E_0 - E_T of the energy: the loss, with momentum plus the kinetic energy",
    ),
    "preconditioned_length_squared": (
        "loss * time",
        "|theta_T - theta_0|^2 in Adam's mean metric; l_geo^2 for other dynamics",
    ),
    "energetic_inefficiency": (
        "1",
        "T (E_0 - E_T) / |theta_T - theta_0|^2, of energy_drop and preconditioned_length_squared",
    ),
    "speed_limit_time": (
        "time",
        "speed-limit time T_SL = l_geo^2 / (L_0 - L_T); of networks at a temperature its upper "
        "bound, transport_cost / free_energy_drop_least",
    ),
    "inefficiency": ("1", "inefficiency T/T_SL; of networks at a temperature its lower bound"),
    "speed_unevenness": (
        "1",
        "uneven speed T (L_0 - L_T) / l_gamma^2, at least 1 but for what discretisation says and "
        "for momentum from a warm start, whose kinetic energy it leaves out",
    ),
    "path_excess": ("1", "bent path (l_gamma / l_geo)^2"),
    "inefficiency_power_law": (
        "1",
        "inefficiency of the fitted power law, NTK sum over the ranks above noise",
    ),
    "inefficiency_power_law_asymptote": (
        "1",
        "long-time asymptote of the fitted power law, once alpha_amplitude x T reaches 1",
    ),
    "train_loss_per_sample": ("loss", "training loss per sample"),
    "test_loss_per_sample": ("loss", "test loss per sample"),
    "test_accuracy": ("1", "test accuracy"),
    "gradient_norm": ("loss / weight", "gradient norm |grad L|"),
    "wasserstein_squared_identity": (
        "weight^2",
        "mean of |theta_T - theta_0|^2 over realisations, each start with its own end",
    ),
    "wasserstein_squared_assignment": (
        "weight^2",
        "W2^2 between the samples of starts and ends, by optimal assignment",
    ),
    "identity_over_assignment": ("1", "cost of the identity coupling over the optimal one, >= 1"),
    "other_over_identity": ("1", "cost of the cheapest other assignment over the identity's"),
    "identity_is_optimal": ("1", "whether no assignment is cheaper than the identity"),
    "realisations": ("1", "number of realisations R"),
    "gradients": ("1", "gradient evaluations since the start, that of the start among them"),
}

# Columns of the tables alone: labels (without a unit), statistics, costs, and the analytical half.
OTHER_COLUMNS = {
    # which ensemble, run and moment
    "ensemble": ("", "folder of the ensemble"),
    "dataset": ("", "data set"),
    "n": ("1", "training-set size n"),
    "subset": ("", "number of the subset draw"),
    "model": ("", "network"),
    "width": ("1", "channels or hidden units"),
    "depth": (
        "1",
        "weight layers of a fully connected network, blocks per stage of a residual one, encoder "
        "layers of a transformer, where networks differ in it",
    ),
    "parameterisation": ("", "parameterisation of the network"),
    "dynamics": ("", "dynamics of the weights"),
    "case": ("", "label of the case of the study"),
    "start": ("", "cold: from theta_0, warm: from the warm start; or the start of the theory"),
    "realisation": ("", "number of the run, or ensemble"),
    "start_seed": (
        "1",
        "seed of the start theta_0: runs of one initialisation with equal ones have one start",
    ),
    "moment": ("", "moment of the kernel: start, warm or end"),
    "kernel": (
        "",
        "which kernel values are of: full (N C x N C) or traced over the outputs (N x N)",
    ),
    "prediction_kernel": ("", "kernel of the prediction: full, or quadrature of its sums"),
    "at": ("", "moment of comparison: end, equal_loss or equal_gradients"),
    "label": ("", "name of the network in the figure"),
    "name": ("", "name of the spectrum"),
    "note": (
        "",
        "why there is no fit, why delta is no law, or why there is no T_SL at a temperature",
    ),
    # exponents
    "eigenvalues": ("1", "number of eigenvalues"),
    "above_noise_floor": ("1", "number of eigenvalues above rounding noise"),
    "first_rank": ("1", "first rank of the fit window"),
    "last_rank": ("1", "last rank of the fit window"),
    "alpha": ("1", "spectral exponent alpha, lambda_k ~ k^-alpha"),
    "delta": ("1", "spectral exponent delta, Delta_k^2 ~ k^-delta"),
    "alpha_amplitude": ("1 / time", "eigenvalue of the fitted power law at rank 1"),
    "delta_amplitude": ("loss", "squared residue projection of the fitted power law at rank 1"),
    # warm starts and kernels
    "threshold": ("1", "mean test accuracy that defines the warm start"),
    "reached": ("", "whether the threshold is reached"),
    "snapshot": ("1", "number of the snapshot of the warm start"),
    "time_resolution": ("time", "distance of the warm start to the snapshot before"),
    "mean_test_accuracy": ("1", "mean test accuracy over realisations at the warm start"),
    "largest_mean_test_accuracy": ("1", "largest mean test accuracy of all times"),
    "lambda_1": ("1 / time", "largest NTK eigenvalue lambda_1"),
    "drift": ("1", "kernel drift |Theta_t - Theta_0|_F / |Theta_0|_F"),
    "alignment": (
        "1",
        "alignment <Theta, y y^T>_F / (|Theta|_F |y y^T|_F) of kernel and targets, not centred",
    ),
    "overlap": (
        "1",
        "overlap |U_0^T U_t|_F^2 / C of the C leading eigenvectors with those at the start; empty "
        "if not unique or all there are",
    ),
    # outcomes and their statistics
    "diverged": ("1", "1 for a run that diverged; share of such runs for an ensemble"),
    "runs": ("1", "number of runs"),
    "kinematic_inefficiency": ("1", "T int |theta'|^2 dt / l_geo^2"),
    "train_loss_share": ("1", "training loss over that of the start, L_T / L_0"),
    "test_error": ("1", "1 - test accuracy"),
    "test_loss": ("loss", "test loss per sample"),
    "prediction_ratio": (
        "1",
        "measured over predicted inefficiency; of an ensemble the geometric mean over its runs",
    ),
    "alignment_gain": ("1", "alignment at the end over that at the start"),
    "transient_time_share": ("1", "share of the training time before the warm start, t_w / T"),
    "transient_loss_share": ("1", "share of the loss drop before the warm start"),
    "transient_factor": ("1", "inefficiency from the cold over that from the warm start"),
    "transient_drift": ("1", "kernel drift from the start to the warm start"),
    "transient_alignment_gain": ("1", "alignment at the warm start over that at the start"),
    "quantity": ("", "the quantity that is tested"),
    "against": ("", "axis of the study"),
    "with": ("", "the quantity that it is correlated with"),
    "level": ("", "between ensembles, or within ensembles"),
    "scale": ("", "log: slope on ln axis, linear: on the axis"),
    "slope": (
        "1",
        "slope of ln quantity (of itself where kind is difference) on ln axis or on the axis",
    ),
    "local_slope_least": (
        "1",
        "least slope between neighbouring values of an axis with three or more, of which the slope "
        "is an average",
    ),
    "local_slope_largest": ("1", "largest of these slopes"),
    "p_single_slope": (
        "1",
        "p-value of a quadratic term beside the slope, small where no single slope fits",
    ),
    "reference": ("", "the case of the axis that is compared with"),
    "value": ("1", "the number, in the unit of its quantity; the case in comparisons"),
    "kind": ("", "factor (of the quantity's logarithm, ratio of geometric means) or difference"),
    "effect": ("1", "ratio or difference of value to reference, in the unit of its quantity"),
    "correlation": (
        "1",
        "Spearman's rank correlation; within ensembles of ranks taken inside each",
    ),
    "p_value": ("1", "p-value of the test"),
    "p_smallest": ("1", "least p-value that so many runs, draws or starts can give"),
    "test": (
        "",
        "student: t-test of the slopes of single starts, or of draws of samples where there are "
        "several subsets (student of draws); runs, draws: permutation of runs, or of "
        "means over the runs of each draw of samples, and Welch's where each value has three (or "
        "two beside others of three), of which the larger p-value counts; few draws: of runs that "
        "share too few",
    ),
    "p_adjusted": ("1", "p-value adjusted by Holm over the quantities of the findings"),
    "points": ("1", "number of runs, draws, starts or means that are tested"),
    "confidence": ("1", "confidence level of all intervals of the table"),
    # infinite width
    "inefficiency_infinite_width": (
        "1",
        "inefficiency at infinite width: for the outputs that a run starts from, or the exact mean",
    ),
    "deviation": ("1", "ln of measured over infinite-width inefficiency"),
    "deviation_of_start": ("1", "ln of the prediction of the NTK at the start over infinite width"),
    "deviation_in_training": ("1", "ln of measured inefficiency over that prediction"),
    "statistic": ("", "statistic over runs: mean or standard_deviation"),
    "least_width": ("1", "narrowest width of the fit"),
    "largest_width": ("1", "widest width of the fit"),
    "power": ("1", "fitted power of the width"),
    "power_expected": ("1", "power expected for a smooth activation"),
    "power_expected_relu": ("1", "power expected for the ReLU, whose kinks add scatter"),
    "amplitude": ("1", "fitted value at width 1"),
    # reproduction
    "study": ("", "study"),
    "paper": ("", "value or range of the paper"),
    "source": ("", "where the paper says it"),
    "of": ("", "which ensemble or number"),
    "low": ("1", "lower end of the interval, in the unit of its quantity"),
    "high": ("1", "upper end of the interval, in the unit of its quantity"),
    "agrees": ("", "whether the number meets the criterion"),
    "verdict": ("", "verdict on the quantity"),
    "criterion": ("", "criterion of the verdict"),
    "configuration": ("", "configuration of the study, and the paper's where it differs"),
    # costs
    "rule": ("", "rule"),
    "jobs": ("1", "number of jobs"),
    "seconds_total": ("s", "elapsed time of all jobs"),
    "seconds_median": ("s", "median elapsed time of a job"),
    "seconds_largest": ("s", "largest elapsed time of a job"),
    "cpu_seconds": ("s", "processor time of all jobs"),
    "memory_mb": ("MB", "largest resident memory of a job, 10^6 bytes"),
    "gpu_memory_mb": ("MB", "largest GPU memory of a job, 10^6 bytes"),
    # the analytical half
    "temperature": ("loss", "temperature beta^-1"),
    "ratio": ("1", "ratio n/d of samples to dimensions"),
    "dimensions": ("1", "dimensions d"),
    "groups": ("1", "disjoint groups of realisations"),
    "step": ("1", "step of Euler-Maruyama in units of 1/h_max, of networks in units of 2/lambda_1"),
    "weights": ("1", "number of weights P"),
    "start_variance": ("weight^2", "variance s_0 of a weight around the start theta_0"),
    "members": ("1", "trajectories in the cloud of each start"),
    "route": ("", "closed form, limit, simulation; finite sum or asymptote"),
    "wasserstein_squared": (
        "weight^2",
        "W2^2 of start and end, of fitted Gaussians; of networks from below",
    ),
    "free_energy_drop": (
        "loss",
        "free energy drop F_0 - F_T, the entropy production beta^-1 R; of networks from above",
    ),
    "mean_loss_drop": ("loss", "mean loss drop <L_0 - L_T>"),
    "start_loss": (
        "loss",
        "loss at the centre theta_0 of the cloud, that of its members is higher",
    ),
    "loss_ratio": ("1", "excess loss at the end over that at the start"),
    "equation_6": ("loss", "beta^-1 R by equation 6 of the paper"),
    "growth_exponent": ("1", "exponent of T in the growth of T/T_SL"),
    "rank": ("1", "rank k"),
    "eigenvalue": ("1", "eigenvalue over the largest, lambda_k / lambda_1"),
}


def described(column: str) -> dict[str, str]:
    """Return the attributes units and long_name of a column.

    Args:
        column: a name in ``COLUMNS`` or ``OTHER_COLUMNS``, or one with suffixes of ``SUFFIXES``.

    Returns:
        The two attributes; a label has no unit.

    Raises:
        KeyError: if the column is not described.
    """
    known = COLUMNS | OTHER_COLUMNS
    if column in known:
        units, long_name = known[column]
        return {"units": units, "long_name": long_name}
    for suffix, meaning in SUFFIXES.items():
        stem = column.removesuffix(f"_{suffix}")
        if stem not in ("", column):
            found = described(stem)
            whole = found["long_name"]
            named = whole.partition(OF_NETWORKS)[0] if suffix in EXACT else whole
            return {**found, "long_name": f"{named}, {meaning}"}
    raise KeyError(f"the column {column} is not described in pipeline/columns.py; add it there")


def interval_name(confidence: float) -> str:
    """Return what intervals of a confidence level are called, such as "95 % interval"."""
    return f"{100 * confidence:g} % interval"


def is_taken(name: str) -> bool:
    """Return whether a column of this name is described here, and so none of a user's choice."""
    try:
        described(name)
    except KeyError:
        return False
    return True
