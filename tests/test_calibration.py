"""The pipeline on a teacher: the spectrum is dialled in, exponents and inefficiency come back."""

import re

import exponents
import ntk
import numpy as np
import pandas as pd
import prepare
import pytest
import speed_limit
import subset
import time_unit
import train
import warm_start
from conftest import RUN

from pipeline.stores import read_json, read_netcdf

SAMPLES = 300
SETTINGS = RUN | {
    "dataset": "taught",
    "n": SAMPLES,
    "selection": "uniform",
    "targets": "real",
    "depth": 1,
    "subtract_start": True,
    "relative_tolerance": 0.002,
    "final_time": 1000,
    "full_rows_limit": 20000,
    "stored_rows_limit": 20000,
}
ANALYSIS = {
    "seed": 5, "confidence": 0.95, "resamples": 500, "first_rank": 2, "last_rank_fraction": 0.5,
    "bins_per_decade": 8, "code": "x",
}  # fmt: skip
REALISATIONS = 2


@pytest.fixture
def pipeline(job, tmp_path):
    """Run every job of an ensemble of linear models on a teacher; return its tables."""

    def run(alpha, delta, features, dimension=SAMPLES):
        teacher = {"alpha": alpha, "delta": delta, "samples": SAMPLES, "dimension": dimension,
                   "features": features, "test_count": 0}  # fmt: skip
        settings = SETTINGS | {"teacher": teacher}
        job(prepare.main, outputs={"o": "images.nc"}, settings=settings)
        job(subset.main, inputs={"i": "images.nc"}, outputs={"o": "n.nc"}, settings=settings)
        unit = {"subset": "n.nc", "time_unit": "time_unit.json"}
        job(
            time_unit.main, inputs={"s": "n.nc"}, outputs={"o": "time_unit.json"}, settings=settings
        )
        manifests, kernels = [], []
        for r in range(REALISATIONS):
            (tmp_path / f"run{r}").mkdir()
            wildcards = {"realisation": str(r)}
            manifests.append(f"run{r}/snapshots.json")
            job(train.main, inputs=unit, outputs={"manifest": manifests[-1]}, settings=settings,
                wildcards=wildcards, store=f"run{r}/snapshots.zarr")  # fmt: skip
            kernels.append(f"ntk{r}.nc")
            job(ntk.main, inputs={"subset": "n.nc"}, outputs={"o": kernels[-1]},
                settings=settings | {"moment": "start"}, wildcards=wildcards)  # fmt: skip
        warm = {"test_accuracy": 0.5, "code": "x"}
        files = {"manifests": manifests, "start": kernels, "warm": [], "end": []}
        job(warm_start.main, inputs=files, outputs={"o": "warm.json"}, settings=warm)
        job(exponents.main, inputs=files, outputs={"o": "exponents.csv"}, settings=ANALYSIS,
            wildcards={"dynamics": "gradient_flow"})  # fmt: skip
        files |= {"warm_start": "warm.json", "exponents": "exponents.csv"}
        tables = {"table": "speed_limits.csv", "transport": "transport.json"}
        job(speed_limit.main, inputs=files, outputs=tables, settings=ANALYSIS)
        fits = pd.read_csv("exponents.csv")
        return fits[fits["kernel"] == "full"].iloc[0], pd.read_csv("speed_limits.csv")

    return run


def sums(rates, squares, time):
    """Return T/T_SL and (l_NTK / l_geo)^2 of section 3, written out, at one time."""
    drop = 0.5 * np.sum(squares * (1 - np.exp(-2 * rates * time)))
    geodesic = np.sum(squares * (1 - np.exp(-rates * time)) ** 2 / rates)
    t = np.concatenate([[0], np.geomspace(1e-6 * time, time, 4001)])
    speed = np.sqrt((rates * squares * np.exp(-2 * np.outer(t, rates))).sum(axis=1))
    return time * drop / geodesic, np.trapezoid(speed, t) ** 2 / geodesic


def test_a_unit_of_time_that_is_not_the_kernels_is_refused(pipeline, monkeypatch, tmp_path):
    compute = time_unit.largest_eigenvalue
    monkeypatch.setattr(time_unit, "largest_eigenvalue", lambda *given: 0.97 * compute(*given))
    with pytest.raises(SystemExit):
        pipeline(1.5, 0.5, "orthonormal")
    told = (tmp_path / "job.log").read_text().splitlines()[-1]
    found = re.search(r"is (\S+) by Jacobian products, .* and (\S+) by the kernel: ", told)
    assert float(found[2]) == pytest.approx(1 / SAMPLES, rel=1e-5)
    assert float(found[1]) == pytest.approx(0.97 / SAMPLES, rel=1e-3)


# Optimal regime (alpha^-1 (1 - delta) < 1, delta < 1), and the growth beyond delta = 1.
@pytest.mark.parametrize(("alpha", "delta"), [(1.5, 0.5), (1.2, 1.4)])
def test_a_dialled_spectrum_comes_back(pipeline, alpha, delta):
    fit, limits = pipeline(alpha, delta, "orthonormal")
    for name, value in (("alpha", alpha), ("delta", delta)):
        # The laws hold exactly: the fit has no scatter, its interval is the rounding.
        assert fit[name] == pytest.approx(value, abs=1e-6)
        assert fit[f"{name}_low"] - 1e-6 <= value <= fit[f"{name}_high"] + 1e-6
    rank = np.arange(1, SAMPLES + 1.0)
    rates, squares = rank**-alpha, rank**-delta
    lambda_1 = 1 / SAMPLES  # of inputs over the root of their dimension
    assert read_json("time_unit.json")["lambda_1"] == pytest.approx(lambda_1, rel=1e-3)
    kernel = read_netcdf("ntk0.nc")
    np.testing.assert_allclose(kernel["eigenvalues_full"], rates * lambda_1, rtol=1e-8)
    np.testing.assert_allclose(kernel["residue_projections_full"], squares, rtol=1e-6)
    assert len(limits) >= 3 * 16
    for _, row in limits.iterrows():
        inefficiency, excess = sums(rates, squares, row["time"] * lambda_1)
        assert row["inefficiency_predicted"] == pytest.approx(inefficiency, rel=1e-6)
        assert row["path_excess_predicted"] == pytest.approx(excess, rel=1e-4)
        # The integrator's tolerance is 0.002 of the displacement, twice that of its square.
        assert row["inefficiency"] == pytest.approx(inefficiency, rel=0.005)
        assert row["path_excess"] == pytest.approx(excess, rel=0.01)
    whole = limits[limits["realisation"] == "ensemble"].iloc[-1]
    assert whole["inefficiency_power_law"] == pytest.approx(
        whole["inefficiency_predicted"], rel=1e-4
    )


def test_gaussian_features_come_back_within_the_sampling_of_the_spectrum(pipeline):
    """The laws hold for the population, and a sample scatters about them.

    The interval of alpha is that of the sample's own spectrum, which is off by some hundredths; so
    alpha is held to a tolerance, delta, the scatter of squared Gaussians, to its interval.
    """
    alpha, delta = 1.5, 0.5
    fit, limits = pipeline(alpha, delta, "gaussian")
    assert fit["alpha"] == pytest.approx(alpha, abs=0.1)
    assert fit["delta_low"] <= delta <= fit["delta_high"]
    assert fit["delta"] == pytest.approx(delta, abs=0.5)
    kernel = read_netcdf("ntk0.nc")
    lambda_1 = read_json("time_unit.json")["lambda_1"]
    assert float(kernel["eigenvalues_full"][0]) == pytest.approx(lambda_1, rel=1e-3)
    rates = kernel["eigenvalues_full"].values
    squares = kernel["residue_projections_full"].values
    for _, row in limits.iterrows():
        inefficiency, _ = sums(rates, squares, row["time"])
        assert row["inefficiency"] == pytest.approx(inefficiency, rel=0.005)
