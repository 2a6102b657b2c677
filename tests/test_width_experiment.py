"""The rule infinite_width: predictions from the runs' own starts, and its tables."""

from pathlib import Path

import infinite_width
import ntk
import numpy as np
import pandas as pd
import prepare
import pytest
import subset
from conftest import ROOT, RUN
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import chi2

from pipeline.columns import described
from pipeline.stores import read_netcdf, read_table, write_table
from plots import infinite_width as plot
from plots import style
from speedlimits.ntk_dynamics import inefficiency

SETTINGS = RUN | {"n": 10, "depth": 2, "width": 8192, "confidence": 0.95, "resamples": 500}
SUBSET = "results/data/digits/n10.nc"
TIMES = np.array([0.05, 0.5, 5.0])


@pytest.fixture
def data(job):
    """Make the training subset of some settings."""

    def make(**changes):
        settings = SETTINGS | changes
        Path(SUBSET).parent.mkdir(parents=True, exist_ok=True)
        job(prepare.main, outputs={"o": "images.nc"}, settings=settings)
        job(subset.main, inputs={"i": "images.nc"}, outputs={"o": SUBSET}, settings=settings)
        return settings

    return make


def limits(settings, realisations):
    kernels = infinite_width.closed_form(settings, SUBSET)
    return infinite_width.limits(settings, SUBSET, realisations, TIMES, kernels)


@pytest.mark.parametrize(
    "changes", [{}, {"subtract_start": True, "targets": "centred_one_hot"}, {"output_scale": 3}]
)
def test_a_very_wide_network_starts_as_its_limit_says(job, data, changes):
    """Prediction of the measured NTK and of the closed form, for the same start: 1/sqrt(width)."""
    settings = data(**changes)
    found = limits(settings, 2)
    for r in range(2):
        job(
            ntk.main, inputs={"subset": SUBSET}, outputs={"o": "ntk.nc"}, settings=settings,
            wildcards={"realisation": str(r)},
        )  # fmt: skip
        file = read_netcdf("ntk.nc")
        modes = file["eigenvalues_full"].values, file["residue_projections_full"].values
        np.testing.assert_allclose(found[r], inefficiency(*modes, TIMES), rtol=0.05)
    spread = np.abs(found[1] / found[0] - 1).max()
    assert (spread < 1e-12) == settings["subtract_start"]  # then nothing of a start is random
    assert (np.abs(found[2] / found[0] - 1).max() < 1e-12) == settings["subtract_start"]


def test_the_closed_form_of_myrtle_has_the_output_scale_and_no_width(data):
    found = [
        infinite_width.closed_form(data(model="myrtle5", **changes), SUBSET)
        for changes in ({"width": 4}, {"width": 8}, {"width": 4, "output_scale": 3})
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    np.testing.assert_allclose(found[2], np.multiply(9, found[0]), rtol=1e-12)
    dense = infinite_width.closed_form(data(), SUBSET)
    assert not np.allclose(found[0][1], dense[1], rtol=0.1)  # another network


def test_the_exact_mean_is_the_ratio_of_averages_over_many_starts(data):
    settings = data(width=64)
    # outputs of networks with one hidden layer have the covariance Sigma at every width
    *single, exact = limits(settings, 150)
    assert np.std(single, axis=0).max() > 0.05 * exact.max()
    # a ratio of averages; the mean of ratios differs from it by the variance of the lengths
    np.testing.assert_allclose(np.mean(single, axis=0), exact, rtol=0.2)


LAWS = {"deviation": (2.0, 0.5), "deviation_in_training": (-1.0, 0.1), "drift": (3.0, 0.2)}
WIDTHS, RUNS = (16, 64, 256, 1024), 24


@pytest.fixture
def tables(job, data):
    """The tables of runs that deviate by known laws: means as 1/width, scatter as width^-1/2."""
    ensembles, rows, kernels = [], [], []
    generator = np.random.default_rng(5)
    settings = data()
    for width in WIDTHS:
        path = f"results/runs/digits/n10/width{width}/flow/ensemble{RUNS}"
        own = {key: value for key, value in settings.items() if key != "seed"} | {"width": width}
        ensembles.append({"path": path, "manifests": ["m"] * RUNS, "settings": own})
        exact = limits(own | {"seed": 11}, RUNS)
        for r, limit in enumerate(exact):
            drawn = {
                name: mean / width + scatter * width**-0.5 * generator.standard_normal()
                for name, (mean, scatter) in LAWS.items()
            }
            whole, training = (
                np.exp(drawn[name]) for name in ("deviation", "deviation_in_training")
            )
            names = {"ensemble": path, "subset": 0, "width": width, "start": "cold"}
            table = pd.DataFrame(names, range(3))
            table["realisation"] = "ensemble" if r == RUNS else str(r)
            table["time"], table["time_lambda_1"] = TIMES, 2 * TIMES
            table["inefficiency"] = limit * whole
            table["inefficiency_predicted"] = limit * whole / training
            table["inefficiency_low"], table["inefficiency_high"] = 1.0, 2.0
            rows.append(table)
            if r < RUNS:
                row = {"ensemble": path, "realisation": r, "drift": abs(drawn["drift"])}
                kernels.append(row | {"moment": "end", "kernel": "traced"})
                if width < WIDTHS[-1]:  # the full one, of other drift, is not known of all
                    other = {"moment": "end", "kernel": "full", "drift": 9.0}
                    kernels.append(row | other)
    write_table(pd.concat(rows), "speed_limits.csv")
    write_table(pd.DataFrame(kernels), "kernels.csv")
    job(
        infinite_width.main,
        inputs={"speed_limits": "speed_limits.csv", "kernels": "kernels.csv"},
        outputs={"runs": "runs.csv", "powers": "powers.csv"},
        settings=SETTINGS | {"ensembles": ensembles},
    )
    return read_table("runs.csv"), read_table("powers.csv")


def test_deviations_come_back_with_their_powers_and_intervals(tables):
    table, powers = tables
    fits = powers[powers["least_width"] == WIDTHS[0]].set_index(["quantity", "statistic"])
    for key, power in {
        ("deviation", "mean"): -1.0,
        ("deviation", "standard_deviation"): -0.5,
        ("deviation_in_training", "standard_deviation"): -0.5,
    }.items():
        row = fits.loc[key]
        assert row["power_low"] - 0.1 < power < row["power_high"] + 0.1, key
        assert row["power_high"] - row["power_low"] < 1.2
        assert row["points"] == RUNS * len(WIDTHS)
    wide = powers[powers["least_width"] == WIDTHS[2]]
    assert len(wide) == len(fits) and (wide["points"] == 2 * RUNS).all()
    runs = table[table["realisation"] != "ensemble"]
    parts = runs["deviation_of_start"] + runs["deviation_in_training"]
    np.testing.assert_allclose(parts, runs["deviation"])
    means = table[table["realisation"] == "ensemble"].set_index(["width", "time"])
    for (width, time), group in runs.groupby(["width", "time"]):
        row = means.loc[width, time]
        assert row["deviation"] == pytest.approx(group["deviation"].mean())
        assert row["deviation_standard_deviation"] == pytest.approx(group["deviation"].std())
        assert row["deviation_low"] < row["deviation"] < row["deviation_high"]
        ends = [row[f"deviation_standard_deviation_{end}"] for end in ("high", "low")]
        known_of_normal = chi2.ppf([0.025, 0.975], RUNS - 1)
        squares = (RUNS - 1) * group["deviation"].var() / known_of_normal
        np.testing.assert_allclose(ends, np.sqrt(squares))
        known = time == TIMES[-1]  # the kernel is known at the end
        assert np.isfinite(row["drift"]) == known
        if known:
            reach = 4 * LAWS["drift"][1] * (width * RUNS) ** -0.5
            assert row["drift"] == pytest.approx(LAWS["drift"][0] / width, abs=reach + 1 / width)


def test_a_run_that_diverged_leaves_no_mean_and_no_interval(tables):
    table = tables[0].copy()
    end = table["time"] == TIMES[-1]
    names = ["deviation", "deviation_of_start", "deviation_in_training", "drift"]
    table.loc[end & (table["width"] == WIDTHS[0]) & (table["realisation"] == "0"), names] = np.nan
    again = infinite_width.with_means(table, SETTINGS)
    means = again[again["realisation"] == "ensemble"]
    columns = [c for c in means if c.startswith("deviation")]
    lost = end[means.index] & (means["width"] == WIDTHS[0])
    assert means.loc[lost, columns].isna().all(axis=None) and lost.sum() == 1
    assert means.loc[~lost, columns].notna().all(axis=None)


def test_every_column_has_a_unit_and_is_documented(tables):
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    for name in set().union(*tables):
        plain = name.removesuffix("_low").removesuffix("_high").removesuffix("_predicted")
        assert described(name)["long_name"] and f"`{plain}`" in text, name
    assert described("deviation_standard_deviation_low")["units"] == "1"


def drawn(table, powers):
    figure = plot.draw(table, powers)
    FigureCanvasAgg(figure).draw()
    return figure


def test_the_figure_shows_the_limit_every_run_and_fitted_powers(tables):
    style.use_style()
    table, powers = tables
    figure = drawn(table, powers)
    last = table[table["time"] == TIMES[-1]]
    whole = last[last["realisation"] == "ensemble"]
    shown = {tuple(np.round(line.get_ydata(), 9)) for line in figure.axes[0].lines}
    assert tuple(np.round(whole["inefficiency_infinite_width"], 9)) in shown
    assert tuple(np.round(whole["inefficiency"], 9)) in shown
    runs = last[last["realisation"] != "ensemble"]
    assert any(len(values) == len(runs) == RUNS * len(WIDTHS) for values in shown)
    fit = powers[(powers["quantity"] == "drift") & (powers["least_width"] == 256)].iloc[0]
    words = [text.get_text() for axis in figure.axes for text in axis.get_legend().get_texts()]
    assert any(f"{abs(fit['power']):.2f} [" in text for text in words)
    assert any(f"{RUNS} runs" in text.get_text() for text in figure.legends[0].get_texts())
    for axis in figure.axes:
        box, panel = axis.get_legend().get_window_extent(), axis.get_window_extent()
        assert panel.x0 <= box.x0 and box.x1 <= panel.x1
        outer = figure.legends[0].get_window_extent()
        assert panel.y0 <= box.y0 or axis.get_tightbbox().y0 >= outer.y1


def test_every_subset_has_its_own_limit(tables):
    """And its runs do not count as fluctuations about the mean of all subsets."""
    style.use_style()
    table, powers = tables
    other = table.copy()
    other["subset"], other["ensemble"] = 1, other["ensemble"] + "-subset1"
    for name in ("inefficiency_infinite_width", "inefficiency"):
        other[name] *= 3
    for name in infinite_width.DEVIATIONS:  # shifted by what falls with the width
        other[name] += 20 / other["width"]
    both = pd.concat([table, other], ignore_index=True)
    last = table[(table["time"] == TIMES[-1]) & (table["realisation"] == "ensemble")]
    limit = last.sort_values("width")["inefficiency_infinite_width"].to_numpy()
    shown = [line.get_ydata() for line in drawn(both, powers).axes[0].lines]
    assert sum(np.array_equal(values, limit) for values in shown) == 1
    assert sum(np.array_equal(values, 3 * limit) for values in shown) == 1
    settings = {"seed": 1, "confidence": 0.95, "resamples": 200}
    alone, together = (infinite_width.powers(of, settings) for of in (table, both))
    chosen = alone["statistic"] == "standard_deviation"
    np.testing.assert_allclose(together["power"][chosen], alone["power"][chosen], atol=0.15)


def test_bars_leave_the_panel_of_sizes_where_they_include_zero(tables):
    """And only there: a bar that ends above zero ends inside."""
    style.use_style()
    table, powers = tables
    table = table.copy()
    last = table[(table["time"] == TIMES[-1]) & (table["realisation"] == "ensemble")]
    intervals = [(0.2, -0.1, 0.5), (-0.2, -0.5, -0.004), (0.2, 0.001, 0.4), (-0.1, -0.3, 0.2)]
    columns = [f"deviation{end}" for end in ("", "_low", "_high")]
    for column in columns:
        for name in (column.replace("deviation", kind) for kind in plot.KINDS):
            table.loc[last.index, name] = [row[columns.index(column)] for row in intervals]
    axis = drawn(table, powers).axes[3]
    least, _ = axis.get_ylim()
    bars = axis.containers[0].lines[2][0].get_segments()
    ends = [segment[:, 1].min() for segment in bars]
    np.testing.assert_allclose(ends[1:3], [0.004, 0.001])
    assert [end < least for end in ends] == [True, False, False, True]


def test_the_figure_of_single_runs_has_no_scatter_and_no_power(tables):
    style.use_style()
    table, powers = tables
    single = table[table["realisation"].isin(["0", "ensemble"])].copy()
    several = [name for name in single if name.endswith(("_low", "_high", "standard_deviation"))]
    single[several] = np.nan
    fitted = [name for name in powers if name.startswith("power") and "expected" not in name]
    figure = drawn(single, powers.assign(**dict.fromkeys(fitted, np.nan)))
    assert any("single runs" in text.get_text() for text in figure.axes[2].texts)
