"""Power laws and other spectra: phase diagram, convergence to the asymptotes, inefficiencies."""

import quick_start  # noqa: F401

import numpy as np
import pandas as pd

from pipeline.log import logged
from pipeline.stores import write_table
from speedlimits import ntk_dynamics, power_law


def phase_table() -> pd.DataFrame:
    """Return the asymptotic inefficiency over a grid of (alpha, delta)."""
    alpha, delta = np.meshgrid(np.linspace(0.5, 4.0, 141), np.linspace(-2.0, 3.0, 201))
    return pd.DataFrame(
        {
            "alpha": alpha.ravel(),
            "delta": delta.ravel(),
            "inefficiency": power_law.asymptotic_inefficiency(alpha, delta).ravel(),
            "growth_exponent": power_law.growth_exponent(alpha, delta).ravel(),
        }
    )


def convergence_table(settings: dict) -> pd.DataFrame:
    """Return finite sums and asymptotes against lambda_1 T for each pair of exponents."""
    parts = []
    for alpha, delta in settings["exponents"]:
        times = np.geomspace(1.0, settings["final_time"], 41)
        routes = {
            "finite sum": power_law.finite_power_law_inefficiency(
                alpha, delta, settings["count"], times
            ),
            "full asymptote": power_law.inefficiency_asymptote(alpha, delta, times),
            "leading asymptote": power_law.inefficiency_asymptote(
                alpha, delta, times, order="leading"
            ),
        }
        for route, value in routes.items():
            head = {"alpha": alpha, "delta": delta, "route": route}
            parts.append(pd.DataFrame(head | {"time": times, "inefficiency": value}))
    return pd.concat(parts, ignore_index=True)


def example_spectra(count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return name -> (eigenvalues, residue projections) of spectra with lambda_1 = 1."""
    k = np.arange(1.0, count + 1)
    eigenvalues, projections = power_law.spectrum(2.0, 0.5, count)
    spiked = eigenvalues.copy()
    spiked[1:] *= 1e-3  # one outlier 1000 times above the bulk, as the mean mode of a kernel
    bend = 30.0
    broken = np.where(k < bend, k**-1.0, bend**-1.0 * (k / bend) ** -3.0)
    return {
        "power law": (eigenvalues, projections),
        "broken power law": (broken, projections),
        "spiked": (spiked, projections),
        "exponential": (np.exp(-(k - 1.0) / 15.0), projections),
        "flat": (np.ones(count), projections),
    }


def spectra_tables(settings: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the spectra, and their inefficiency and its second factor against lambda_1 T."""
    times = np.geomspace(1e-2, settings["final_time"], 71)
    shapes, predictions = [], []
    ranks = np.unique(np.geomspace(1, settings["count"], 80).astype(int))
    for name, (eigenvalues, projections) in example_spectra(settings["count"]).items():
        shapes.append(
            pd.DataFrame({"name": name, "rank": ranks, "eigenvalue": eigenvalues[ranks - 1]})
        )
        found = ntk_dynamics.predict(eigenvalues, projections, times)
        columns = ("time", "inefficiency", "speed_unevenness", "path_excess")
        predictions.append(
            pd.DataFrame({"name": name} | {column: found[column] for column in columns})
        )
    return pd.concat(shapes, ignore_index=True), pd.concat(predictions, ignore_index=True)


def main(snakemake) -> None:
    """Run the rule ``theory_power_law``."""
    settings, made = snakemake.params.settings["power_law"], snakemake.output
    with logged(snakemake.log[0]):
        write_table(phase_table(), made.phases)
        write_table(convergence_table(settings), made.convergence)
        shapes, predictions = spectra_tables(settings)
        write_table(shapes, made.spectra)
        write_table(predictions, made.predictions)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
