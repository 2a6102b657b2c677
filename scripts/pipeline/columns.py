"""Unit and meaning of every column of the workflow's tables, for attributes and documentation."""

from __future__ import annotations

# What a suffix adds to the meaning of the column that it follows; the unit stays.
SUFFIXES = {
    "low": "lower end of the bootstrap interval",
    "high": "upper end of the bootstrap interval",
    "predicted": "from the measured NTK spectrum at the same start",
}
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
        "(action with velocity noise - loss drop) / loss drop, 0 for exact gradient flow",
    ),
    "speed_limit_time": ("time", "speed-limit time T_SL = l_geo^2 / (L_0 - L_T)"),
    "inefficiency": ("1", "inefficiency T/T_SL"),
    "speed_unevenness": ("1", "uneven speed T (L_0 - L_T) / l_gamma^2"),
    "path_excess": ("1", "bent path (l_gamma / l_geo)^2"),
    "inefficiency_power_law": ("1", "inefficiency of the fitted power law, NTK sum"),
    "inefficiency_power_law_asymptote": ("1", "long-time asymptote of the fitted power law"),
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
    "gradients": ("1", "gradient evaluations since the start"),
}


def described(column: str) -> dict[str, str]:
    """Return the attributes units and long_name of a column.

    Args:
        column: a name in ``COLUMNS``, or one with suffixes of ``SUFFIXES``.

    Returns:
        The two attributes.

    Raises:
        KeyError: if the column is not described.
    """
    if column in COLUMNS:
        units, long_name = COLUMNS[column]
        return {"units": units, "long_name": long_name}
    stem, _, suffix = column.rpartition("_")
    if suffix not in SUFFIXES or not stem:
        raise KeyError(f"the column {column} is not described in pipeline/columns.py; add it there")
    found = described(stem)
    return {**found, "long_name": f"{found['long_name']}, {SUFFIXES[suffix]}"}
