"""Exponents of synthetic spectra are recovered within their intervals, at the stated rate."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from collect import MOMENTS, mean_spectra
from exponents import fit_moment
from theory_measured import COLUMNS, measured_exponents, start_spectra

from pipeline.stores import write_netcdf, write_table
from speedlimits import exponents
from speedlimits.exponents import (
    _shared_ranks,
    fit_exponent,
    fit_window,
    log_bins,
    squares_per_rank,
)
from speedlimits.ntk_dynamics import predict
from speedlimits.spectrum import (
    eigenvalues_and_projections,
    equal_eigenvalues,
    shared_projections,
)


def fit(values, first, last, seed=0, scattered=False, resamples=400, confidence=0.95, groups=None):
    return fit_exponent(
        values,
        first,
        last,
        bins_per_decade=8,
        confidence=confidence,
        resamples=resamples,
        generator=np.random.default_rng(seed),
        scattered=scattered,
        groups=groups,
    )


def test_pure_power_law_is_exact():
    k = np.arange(1, 2001.0)
    found = fit(3.0 * k**-1.7, 10, 1000)
    assert found.exponent == pytest.approx(1.7, abs=1e-10)
    assert found.amplitude == pytest.approx(3.0, rel=1e-9)
    assert found.r_squared > 0.99999
    assert abs(found.curvature) < 1e-9
    assert found.window_low <= found.exponent <= found.window_high


@pytest.mark.parametrize(
    ("delta", "outputs", "realisations"), [(0.5, 1, 3), (1.3, 10, 3), (0, 1, 1)]
)
def test_interval_of_delta_covers_the_truth_at_its_rate(delta, outputs, realisations):
    k = np.arange(1, 641.0)
    covered, errors = 0, []
    trials = 150
    for seed in range(trials):
        generator = np.random.default_rng([seed, outputs])
        chi2 = generator.chisquare(outputs, size=(realisations, len(k)))
        found = fit(chi2 * k**-delta, 11, 320, seed, True, 300)
        covered += found.low <= delta <= found.high
        errors.append(found.exponent - delta)
    # nominal 95 %; percentile bootstrap over about a dozen bins is somewhat short
    assert covered / trials >= 0.85
    standard_error = np.std(errors) / np.sqrt(trials)
    assert abs(np.mean(errors)) < 4 * standard_error + 1e-3  # unbiased


@pytest.mark.parametrize(("outputs", "realisations"), [(1, 3), (1, 6), (10, 3)])
def test_realisations_that_are_alike_count_once(outputs, realisations):
    """Wide networks share kernel and residue: their projections are those of one realisation."""
    k = np.arange(1, 401.0)
    covered, errors = 0, []
    trials = 100
    for seed in range(trials):
        chi2 = np.random.default_rng([seed, outputs]).chisquare(outputs, size=len(k))
        found = fit(np.tile(chi2 * k**-0.5, (realisations, 1)), 2, 200, seed, True, 300)
        covered += found.low <= 0.5 <= found.high
        errors.append(found.exponent - 0.5)
    assert covered / trials >= 0.85
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(trials) + 1e-3


def test_the_number_of_independent_squares_is_measured():
    k = np.arange(1, 2001.0)
    generator = np.random.default_rng(0)

    def squares(values):
        return squares_per_rank(values, 2, log_bins(values, 2, 1800, 8))

    one = generator.chisquare(1, size=(1, 2000)) * k**-0.7
    several = generator.chisquare(1, size=(6, 2000)) * k**-0.7
    assert squares(one) == squares(np.tile(one, (6, 1))) == pytest.approx(1.0, abs=0.15)
    assert squares(several) == pytest.approx(6.0, rel=0.15)
    assert squares(generator.chisquare(4, size=(3, 2000))) == pytest.approx(12.0, rel=0.15)
    assert squares(np.tile(k**-0.7, (3, 1))) > 1e9


def test_how_far_realisations_scatter_alike_is_measured():
    """Squares of Gaussians of correlation c have the correlation c^2."""
    k = np.arange(1, 2001.0)
    generator = np.random.default_rng(1)
    common, own = generator.normal(size=(1, 2000)), generator.normal(size=(4, 2000))
    for share in (0.0, 0.7, 1.0):
        gaussian = np.sqrt(share) * common + np.sqrt(1 - share) * own
        values = gaussian**2 * k**-0.7
        found = exponents.correlation_of_runs(values, 2, log_bins(values, 2, 1800, 8))
        assert found == pytest.approx(share**2, abs=0.06 * (share < 1) + 1e-12)
    assert exponents.correlation_of_runs(values[:1], 2, log_bins(values, 2, 1800, 8)) == 1.0


def test_a_run_without_projections_leaves_the_others_their_interval():
    k = np.arange(1, 641.0)
    values = np.random.default_rng(3).chisquare(1, (5, len(k))) * k**-0.5
    values[0] = 0.0
    found = fit(values, 11, 320, scattered=True)
    assert found.low < 0.5 < found.high < found.low + 0.5
    assert np.isfinite([found.curvature_low, found.curvature_high]).all()
    rest = exponents.correlation_of_runs(values[1:], 11, log_bins(values[1:], 11, 320, 8))
    whole = exponents.correlation_of_runs(values, 11, log_bins(values, 11, 320, 8))
    assert whole == pytest.approx(rest)


def test_a_resample_has_the_squares_of_the_runs_drawn():
    drawn = np.array([[1, 1, 1], [3, 0, 0], [2, 1, 0]]) / 3
    alike = np.ones(3)
    assert exponents.squares_of_resample(30.0, drawn, 0.0, alike) == pytest.approx([30, 10, 18])
    assert exponents.squares_of_resample(30.0, drawn, 1.0, alike) == pytest.approx([30, 30, 30])
    assert exponents.squares_of_resample(2.0, drawn, 0.0, alike)[1] == 1.0  # no run has less
    large = np.array([1e9, 1.0, 1.0])  # a run that is all of every mean in which it stands
    assert exponents.squares_of_resample(30.0, drawn, 0.0, large) == pytest.approx([30, 30, 30])


@pytest.mark.parametrize(
    ("realisations", "last", "size"),
    [(2, 320, 1), (3, 320, 1), (3, 32, 1), (6, 32, 1), (6, 320, 10)],
)
def test_intervals_of_delta_reach_as_far_up_as_down(realisations, last, size):
    """With the bias of all runs in resamples of fewer they reached 1.2 to 1.7 times as far down."""
    k = np.arange(1, 2 * last + 1.0)
    down = up = 0.0
    for seed in range(100):
        values = np.random.default_rng(seed).chisquare(1, (realisations, len(k))) * k**-0.5
        values[0] *= size
        found = fit(values, max(2, last // 30), last, seed, True, 200)
        down, up = down + found.exponent - found.low, up + found.high - found.exponent
    low, high = (0.85, 1.18) if last > 32 or realisations > 3 else (0.85, 1.3)
    assert low < down / up < high


def test_the_variance_of_the_misfit_is_unbiased():
    """It is linear in y y': its mean over points with the model's second moments is its mean."""
    bins = log_bins(np.ones((1, 640)), 2, 320, 8)
    _, scatter = exponents._log_mean_moments(bins.counts, 3.0)
    line, misfit = 2.0 - 0.7 * bins.log_rank, 5.0  # so large that no estimate is cut at 0
    points = np.diag(np.sqrt(len(scatter) * (scatter + misfit)))
    found = [exponents._misfit_variance(bins.log_rank, line + p, scatter) for p in points]
    assert np.mean(found) == pytest.approx(misfit, rel=1e-9)


def test_projections_without_scatter_give_their_exponent_exactly():
    k = np.arange(1, 401.0)
    found = fit(np.tile(k**-0.5, (3, 1)), 2, 200, scattered=True)
    assert [found.low, found.exponent, found.high] == pytest.approx([0.5] * 3, abs=1e-9)


@pytest.mark.parametrize("value", [1.0, 0.1])
@pytest.mark.parametrize("scattered", [True, False])
def test_a_law_without_slope_has_no_variance_to_explain(value, scattered):
    found = fit(np.full((2, 200), value), 2, 100, scattered=scattered)
    assert np.isnan(found.r_squared)
    assert [found.low, found.exponent, found.high] == pytest.approx([0.0] * 3, abs=1e-9)
    assert found.amplitude == pytest.approx(value)


def test_a_realisation_without_projections_leaves_an_exact_law():
    """An average that follows the law exactly is fitted as it is, with a zero in it."""
    values = np.tile(np.arange(1, 401.0) ** -0.5, (3, 1))
    values[1] = 0.0
    found = fit(values, 2, 200, scattered=True)
    assert found.exponent == pytest.approx(0.5, abs=0.01)
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("scattered", [True, False])
def test_values_that_are_not_finite_are_refused(scattered):
    values = np.tile(np.arange(1, 401.0) ** -0.5, (3, 1))
    values[1, 30] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit(values, 2, 200, scattered=scattered)


def test_weights_beat_an_unweighted_fit_of_single_projections():
    k = np.arange(1, 641.0)
    weighted, bare = [], []
    for seed in range(60):
        y = np.random.default_rng(seed).chisquare(1, size=(1, len(k))) * k**-0.5
        weighted.append(fit(y, 11, 640, seed, True, 100).exponent)
        bare.append(-np.polyfit(np.log(k[10:]), np.log(y[0, 10:]), 1)[0])
    assert np.std(weighted) < np.std(bare)


def test_alternatives_are_told_apart():
    k = np.arange(1, 1001.0)
    exponential = fit(np.exp(-k / 150), 5, 900)
    power = fit(k**-1.2 * np.exp(0.02 * np.random.default_rng(0).normal(size=1000)), 5, 900)
    assert exponential.bic_exponential < 0 < power.bic_exponential
    curved = fit(np.exp(-0.2 * np.log(k) ** 2), 5, 900)
    assert curved.bic_curved < 0 and curved.curvature_high < 0
    assert curved.window_high - curved.window_low > 0.3


@pytest.mark.parametrize("amplitude", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("scattered", [False, True])
def test_a_curvature_does_not_improve_an_exact_law(amplitude, scattered):
    exact = fit(amplitude * np.arange(1, 1001.0) ** -1.7, 5, 900, scattered=scattered)
    assert exact.bic_curved == pytest.approx(np.log(exact.bins))
    assert exact.bic_exponential > 0


def test_judgement_of_a_fit_is_that_of_ordinary_least_squares():
    """R^2, residual deviation and criteria against SciPy's and NumPy's regressions of all ranks."""
    k = np.arange(1, 401.0)
    values = k**-1.3 * np.exp(0.1 * np.sin(3 * np.log(k)) - 0.05 * np.log(k) ** 2)
    found = fit(values, 2, 300)
    bins = log_bins(np.log(values), 2, 300, 8)
    x, y = bins.log_rank, bins.averages[0]  # no known scatter: bins weigh the same

    def criterion(u, degree):  # Gaussian residuals of unknown variance, constants left out
        squares = np.polynomial.Polynomial.fit(u, y, degree, full=True)[1][0][0]
        return len(y) * np.log(squares / len(y)) + (degree + 1) * np.log(len(y)), squares

    line, squares = criterion(x, 1)
    expected = scipy.stats.linregress(x, y)
    assert found.exponent == pytest.approx(-expected.slope, rel=1e-10)
    assert found.r_squared == pytest.approx(expected.rvalue**2, rel=1e-10)
    assert found.residual_deviation == pytest.approx(np.sqrt(squares / len(y)), rel=1e-10)
    assert found.curvature == pytest.approx(np.polyfit(x, y, 2)[0], rel=1e-10)
    assert found.bic_exponential == pytest.approx(criterion(np.exp(x), 1)[0] - line, rel=1e-10)
    assert found.bic_curved == pytest.approx(criterion(x, 2)[0] - line, rel=1e-10)
    assert found.bins == len(y)


def degenerate(outputs=10, samples=64, seed=0):
    """A kernel K x 1 as of one linear layer: each eigenvalue occurs once for every output."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(samples, 200)) * np.arange(1, 201) ** -0.7
    return np.kron(inputs @ inputs.T, np.eye(outputs)), rng.normal(size=(samples * outputs, 1))


def test_equal_eigenvalues_leave_no_exponent_to_the_order_of_the_rows():
    kernel, residue = degenerate()
    found = []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(kernel))
        values, each = eigenvalues_and_projections(kernel[np.ix_(order, order)], residue[order])
        groups = equal_eigenvalues(values)
        assert groups.tolist() == (np.arange(640) // 10).tolist()
        projections = shared_projections(values, each)
        assert projections.sum() == pytest.approx(float((residue**2).sum()), rel=1e-12)
        vectors = np.linalg.eigh(kernel[::10, ::10])[1][:, ::-1]  # of the inputs' kernel
        per_group = ((vectors.T @ residue.reshape(64, 10)) ** 2).mean(axis=1)
        assert projections == pytest.approx(np.repeat(per_group, 10), rel=1e-8)
        found.append(fit(projections, 11, 320, scattered=True, groups=groups))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize("scattered", [False, True])
def test_groups_of_one_size_are_fitted_by_their_own_numbers(scattered):
    """As the kernel K of K x 1: all but the amplitude is its fit's."""
    values = np.random.default_rng(3).chisquare(10, size=(2, 40)) / 10 * np.arange(1, 41) ** -0.6
    values = values if scattered else np.sort(values)[:, ::-1]
    ranks, groups = np.repeat(values, 10, axis=1), np.repeat(np.arange(40), 10)
    together = fit(ranks, 11, 400, scattered=scattered, groups=groups)
    once = fit(values, 2, 40, scattered=scattered)
    assert together._replace(amplitude=once.amplitude) == pytest.approx(once, rel=1e-9)
    assert together.amplitude == pytest.approx(once.amplitude * 10**once.exponent)
    inside = fit(ranks, 15, 395, scattered=scattered, groups=groups)  # which cuts two groups
    narrower = fit(values, 3, 39, scattered=scattered)
    assert inside.exponent == pytest.approx(narrower.exponent, rel=1e-9)


def test_the_interval_of_equal_eigenvalues_holds_the_exponent():
    """One realisation; each bin of ranks that hold the same value alone would count it anew."""
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        means = rng.chisquare(10, size=(1, 64)) / 10 * np.arange(1, 65) ** -0.5
        groups = np.repeat(np.arange(64), 10)
        found = fit(means[:, groups], 11, 320, seed, True, 300, groups=groups)
        held += found.low <= 0.5 <= found.high
    assert held >= 48  # 80 %, as of single eigenvalues; with groups cut by bins 68 %


def test_groups_of_several_sizes_lie_in_one_bin_each_and_scatter_as_one():
    """Of a last hidden layer narrower than the outputs: single eigenvalues between groups."""
    rng = np.random.default_rng(3)
    sizes = np.tile([1, 4, 1, 1, 4], 200)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    law = np.arange(1, len(groups) + 1) ** -0.6
    values = (rng.chisquare(6, size=len(sizes)) / 6)[groups] * law
    bins = log_bins(values, 11, len(groups), 8, groups)
    ends = 10 + np.cumsum(bins.counts)
    assert all(groups[end - 1] != groups[end] for end in ends[:-1])
    shared = _shared_ranks(groups, 11, bins)
    counts = np.bincount(groups[10 : ends[0]])
    assert shared[0] == pytest.approx((counts**2).sum() / bins.counts[0])
    assert shared[-1] == pytest.approx(35 / 11, rel=0.02)
    assert squares_per_rank(values, 11, bins, shared) == pytest.approx(6, rel=0.25)
    assert fit(values, 11, 2200, scattered=True, groups=groups).exponent == pytest.approx(
        0.6, abs=0.1
    )


def test_a_steep_spectrum_is_no_group():
    """Neighbours closer than the rounding of a decomposition, of which the ends are far apart."""
    values = np.arange(1, 5001.0) ** -3.5
    groups = equal_eigenvalues(values)
    apart = values[np.searchsorted(groups, groups)] - values
    assert apart.max() <= 64 * np.finfo(float).eps
    shared = shared_projections(values, values**0.5)
    above = values > 5000 * np.finfo(float).eps
    assert shared[above] == pytest.approx(values[above] ** 0.5, rel=0.01)


@pytest.mark.parametrize("bins_per_decade", [3, 8])
def test_bins_are_even_in_the_logarithm_of_the_rank(bins_per_decade):
    values = np.random.default_rng(0).uniform(size=(2, 1200))
    found = log_bins(values, 10, 999, bins_per_decade)
    ranks = np.arange(10, 1000)
    edges = 10 * 10 ** (np.arange(2 * bins_per_decade + 1) / bins_per_decade)
    inside = [(ranks >= low - 1e-9) & (ranks < high - 1e-9) for low, high in pairwise(edges)]
    np.testing.assert_allclose(found.log_rank, [np.log(ranks[i]).mean() for i in inside])
    averages = np.stack([values[:, 9:999][:, i].mean(axis=1) for i in inside], axis=1)
    np.testing.assert_allclose(found.averages, averages)


def test_bins_average_and_cover_the_window():
    values = np.random.default_rng(0).uniform(size=(2, 100))
    bins = log_bins(values, 3, 90, 6)
    assert bins.counts.sum() == 88
    np.testing.assert_allclose(bins.averages @ bins.counts, values[:, 2:90].sum(axis=1))
    assert np.all(np.diff(bins.log_rank) > 0)


def test_short_windows_are_refused():
    with pytest.raises(ValueError, match="factor 4"):
        fit_window(40, 11, 0.5)
    with pytest.raises(ValueError, match="factor 4"):
        fit_window(87, 11, 0.5)
    assert fit_window(88, 11, 0.5) == (11, 44)
    with pytest.raises(ValueError, match="there are 10 eigenvalues above rounding noise, and the"):
        fit_window(10, 2, 0.5, multiplicity=10)
    with pytest.raises(ValueError, match="bins"):
        fit_exponent(
            np.arange(100, 0, -1.0),
            4,
            20,
            bins_per_decade=2,
            confidence=0.9,
            resamples=100,
            generator=np.random.default_rng(0),
        )
    assert fit_window(640, 11, 0.5) == (11, 320)
    for tenths in range(11, 40):  # decimal numbers are what they say
        first = tenths - 10 + 1
        assert fit_window(100 * first, tenths / 10, 0.9, multiplicity=10)[0] == first
    for percent in range(1, 101):
        assert fit_window(1000, 2, percent / 100)[1] == 10 * percent
    assert fit_window(100, 1.2, 0.5) == (2, 50)  # the mean mode is left out
    for first, last in ((0, 100), (1, 201), (150, 100)):
        with pytest.raises(ValueError, match=f"ranks {first} to {last}; there are 1 to 200"):
            fit(1.0 / np.arange(1, 201.0), first, last)


def test_non_positive_values_are_refused():
    with pytest.raises(ValueError, match="not positive"):
        fit(np.linspace(1, -1, 200), 2, 200)
    for rank in (2, 150):  # the window's first and last, below and at zero
        for value in (-1e-9, 0.0):
            values = 1.0 / np.arange(1, 201.0)
            values[rank - 1] = value
            with pytest.raises(ValueError, match="not positive"):
                fit(values, 2, 150)
    outside = 1.0 / np.arange(1, 201.0)
    outside[[0, 150]] = 0.0
    assert fit(outside, 2, 150).exponent == pytest.approx(1.0)


def test_the_survivors_of_a_diverged_ensemble_are_not_fitted():
    rank = np.arange(1.0, 201)
    spectrum = {
        "eigenvalues_traced": ("rank", rank**-2), "noise_floor_traced": 0.0,
        "residue_projections_traced": ("rank", rank**-0.5), "time": 1.0,
    }  # fmt: skip
    files = [xr.Dataset(spectrum, attrs={"outputs": 10})] * 3
    settings = {"first_rank": 2, "last_rank_fraction": 0.5, "bins_per_decade": 8, "seed": 1,
                "confidence": 0.95, "resamples": 200}  # fmt: skip
    whole = fit_moment(files, "traced", "end", settings, realisations=3)
    assert whole["alpha"] == pytest.approx(2) and whole["note"] == ""
    late = [file.assign(time=250.0) for file in files]  # lambda_k t > 10 up to rank 4
    told = fit_moment(late, "traced", "end", settings, realisations=3)
    assert told["note"].startswith("3 of the 99 ranks of the fit have lambda_k t > 10: what is")
    assert told["delta"] == whole["delta"]
    adam = fit_moment(late, "traced", "end", settings, realisations=3, timeless=True)
    assert adam["note"] == ""
    part = fit_moment(files, "traced", "end", settings, realisations=4)
    assert np.isnan([part["alpha"], part["delta"]]).all()
    assert part["note"] == "1 of 4 runs diverged: no fit"


def test_networks_placed_in_the_theory_name_the_output_traced_kernel(tmp_path):
    """It has other exponents than the full one, of which large sets lack the eigenvalues."""
    paths = [f"results/runs/digits/n{n}/myrtle5-width8/flow/ensemble2" for n in (8, 8, 99)]
    kernels = ["traced", "full", "traced"]
    front = {"ensemble": paths, "kernel": kernels, "n": [8, 8, 99], "moment": "start"}
    table = pd.DataFrame(
        front | {"model": "myrtle5", "dataset": "digits"} | dict.fromkeys(COLUMNS, 1.0)
    )
    write_table(table, tmp_path / "exponents.csv")
    found = measured_exponents([tmp_path / "exponents.csv"])
    named = ["Myrtle-5, digits", "Myrtle-5, digits, output-traced kernel"]
    assert list(zip(found["n"], found["label"], strict=True)) == list(
        zip((8, 99), named, strict=True)
    )
    values = ("spectrum", "rank"), np.ones((3, 4)) / np.arange(1.0, 5)
    strings = {key: ("spectrum", np.array(front[key])) for key in ("ensemble", "kernel", "n")}
    spectra = {"eigenvalues": values, "residue_projections": values, **strings}
    spectra["moment"] = ("spectrum", ["start"] * 3)
    write_netcdf(xr.Dataset(spectra), tmp_path / "spectra.nc")
    labels = {label for label, *_ in start_spectra([tmp_path / "spectra.nc"]).values()}
    assert labels == {
        "Myrtle-5, digits, $n = 8$",
        "Myrtle-5, digits, $n = 99$, output-traced kernel",
    }


def test_ensembles_of_one_start_are_one_spectrum_of_the_theory(tmp_path):
    """They differ in their dynamics alone, of which a kernel at the start knows nothing."""
    paths = [f"results/runs/digits/n8/myrtle5-width8/{d}/ensemble2" for d in ("flow", "adam")]
    values = np.repeat(np.arange(8.0, 0, -1)[None], 4, axis=0)
    spectra = xr.Dataset(
        {
            "ensemble": ("row", [*paths, *paths]), "kernel": ("row", ["full"] * 2 + ["traced"] * 2),
            "moment": ("row", ["start"] * 4), "n": ("row", [8] * 4),
            "eigenvalues": (("row", "rank"), values * [[1], [1], [2], [2]]),
            "residue_projections": (("row", "rank"), values),
        }
    )  # fmt: skip
    write_netcdf(spectra, tmp_path / "spectra.nc")
    assert list(start_spectra([tmp_path / "spectra.nc"])) == paths[:1]


def test_mean_spectra_do_not_depend_on_a_basis_of_the_null_space(tmp_path):
    """What kernels of several ranks predict, from means that hold no share of a null space."""
    path = "results/runs/digits/n8/myrtle5-width8/flow/ensemble2"
    rank = np.arange(1.0, 9)
    times = np.geomspace(0.1, 1e8, 30)

    def mean(null):
        ensemble = {"path": path, "settings": {"n": 8}, "kernels": dict.fromkeys(MOMENTS, ())}
        files = []
        for r, known in enumerate((6, 4)):
            values = np.where(rank <= known, (1 + r) * rank**-2, 1e-17 * (-1) ** rank)
            projections = np.where(rank <= known, rank**-0.5, null[r])
            files.append(tmp_path / f"{r}.nc")
            content = {"eigenvalues_full": ("rank", values), "noise_floor_full": 1e-14,
                       "residue_projections_full": ("rank", projections)}  # fmt: skip
            write_netcdf(xr.Dataset(content, attrs={"outputs": 1}), files[-1])
        ensemble["kernels"]["start"] = files
        settings = {"seed": 1}
        found = mean_spectra([ensemble], settings)
        write_netcdf(found, tmp_path / "spectra.nc")
        (_, values, projections) = start_spectra([tmp_path / "spectra.nc"])[path]
        return values, projections, predict(values, projections, times)["inefficiency"]

    one = mean(np.full((2, 8), 0.3))
    other = mean(np.array([np.linspace(0.0, 0.6, 8), np.linspace(0.6, 0.0, 8)]))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    values, projections, _ = one
    assert len(values) == 6  # beyond, no kernel has any
    np.testing.assert_allclose(values, np.where(rank <= 4, 1.5, 0.5)[:6] * rank[:6] ** -2)
    np.testing.assert_allclose(projections, np.where(rank <= 4, 1.0, 0.5)[:6] * rank[:6] ** -0.5)


def test_exponents_have_no_scale():
    """Of data as small or large as doubles can hold, whose squares they cannot."""
    k = np.arange(1, 641.0)
    values = k**-0.4 * np.random.default_rng(5).chisquare(3, (3, 640)) / 3
    found = [fit(scale * values, 5, 320, scattered=True) for scale in (1.0, 1e-200, 1e200)]
    for other in found[1:]:
        for name in ("exponent", "low", "high", "curvature"):
            assert getattr(other, name) == pytest.approx(getattr(found[0], name), abs=1e-9)
    values[1, 50] = -1.0
    with pytest.raises(ValueError, match="negative"):
        fit(values, 5, 320, scattered=True)
