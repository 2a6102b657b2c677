"""Figures of a study: complete, faithful to the tables, robust to what a study may lack."""

from __future__ import annotations

import functools
import importlib
import io
import itertools
import time

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from figure import read
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from pipeline.outcomes import correlations as measured_correlations
from pipeline.settings import FIGURES
from pipeline.stores import write_table
from pipeline.tables import OF_LOSS_DROP, OF_PATH
from plots import naming, residue_projections, results, style, theory
from plots import outcomes as outcomes_figure
from plots.inefficiency_size import trend_text
from speedlimits.ntk_dynamics import predict
from speedlimits.power_law import finite_power_law_inefficiency, inefficiency_asymptote

ALPHA, DELTA, LAMBDA_1 = 1.8, 0.6, 40.0
OF_ANY_STUDY = [name for name in FIGURES if name != "infinite_width"]  # test_width_experiment.py
TRANSIENT = ("factor", "time_share", "loss_share", "alignment_gain", "drift")
QUANTITIES = ("inefficiency", "speed_unevenness", "path_excess", "speed_limit_time")
BASE = {
    "dataset": "cifar10",
    "n": 64,
    "subset": 0,
    "model": "myrtle5",
    "width": 32,
    "parameterisation": "ntk",
    "dynamics": "gradient_flow",
}
AXIS_LABELS = {
    "training_curves": {r"\lambda_1 t", "loss per sample", "accuracy"},
    "speed_limit_time": {r"\lambda_1 T_{\mathrm{SL}}", r"\lambda_1 T$"},
    "inefficiency_time": {r"T/T_{\mathrm{SL}}", r"\lambda_1 T$", r"t_{\mathrm{w}}"},
    "inefficiency_size": {r"T/T_{\mathrm{SL}}", "Training-set size $n$"},
    "path_length_ratio": {r"\ell_\gamma / \ell_{\mathrm{geo}}", r"\lambda_1 T$"},
    "residue_projections": {r"\Delta_k^2", "Rank $k$", r"\lambda_k/\lambda_1"},
    "outcomes": {r"T/T_{\mathrm{SL}}", r"\Theta_0", "Alignment"},
    "speed_limit_temperature": {r"Temperature $\beta^{-1}$", r"T/T_{\mathrm{SL}}", "at most"},
    "inefficiency_factors": {r"\ell_\gamma^2", r"T/T_{\mathrm{SL}}", r"\lambda_1 T$"},
    "generalisation": {r"T/T_{\mathrm{SL}}", "Test error", "ensemble mean"},
    "first_transient": {r"T/T_{\mathrm{SL}}", r"t_{\mathrm{w}} / T", r"\Theta_{\mathrm{w}}"},
}


def modes(count, bend=0.0):
    k = np.arange(1, count + 1)
    return LAMBDA_1 * k**-ALPHA, k ** -(DELTA + bend)


def one_start(start, n, realisations, generator):
    """All rows of one start, as the rule speed_limit writes them."""
    time_lambda_1 = np.geomspace(0.1 if start == "cold" else 8.0, 1e3, 25)
    times = time_lambda_1 / LAMBDA_1
    sums = predict(*modes(5 * n), times)
    runs = []
    for r in range(realisations):
        slow, bent = np.exp(0.1 * generator.standard_normal(2))
        factor = 1 + 0.3 * slow * np.log1p(time_lambda_1)
        excess = 1 + 0.2 * bent * np.log1p(time_lambda_1)
        runs.append({"speed_unevenness": factor, "path_excess": excess, "realisation": str(r)})
    mean = {q: np.mean([run[q] for run in runs], axis=0) for q in QUANTITIES[1:3]}
    rows = [pd.DataFrame(run) for run in runs] + [pd.DataFrame({**mean, "realisation": "ensemble"})]
    table = pd.concat(rows, ignore_index=True)
    table["time"] = np.tile(times, len(rows))
    table["inefficiency"] = table["speed_unevenness"] * table["path_excess"]
    table["speed_limit_time"] = table["time"] / table["inefficiency"]
    whole = table["realisation"] == "ensemble"
    for name, (low, high) in itertools.product(QUANTITIES, [(0.9, 1.1)]):
        table[f"{name}_low"] = (table[name] * low).where(whole & (realisations > 1))
        table[f"{name}_high"] = (table[name] * high).where(whole & (realisations > 1))
    length2, path2 = sums["geodesic_length_squared"], sums["path_length"] ** 2
    guess = {
        "speed_limit_time": length2 / sums["loss_drop"],
        "inefficiency": times * sums["loss_drop"] / length2,
        "speed_unevenness": times * sums["loss_drop"] / path2,
        "path_excess": path2 / length2,
    }
    for name, values in guess.items():
        table[f"{name}_predicted"] = np.tile(values, len(rows))
    law = finite_power_law_inefficiency(ALPHA, DELTA, 10 * n, times, LAMBDA_1)
    limit = inefficiency_asymptote(ALPHA, DELTA, times, LAMBDA_1, order="leading")
    table["inefficiency_power_law"] = np.tile(law, len(rows))
    table["inefficiency_power_law_asymptote"] = np.tile(limit, len(rows))
    table["discretisation"] = 0.001
    return table.assign(
        start=start,
        prediction_kernel="full",
        time_lambda_1=table["time"] * LAMBDA_1,
        confidence=0.9,
    )


def one_fit(moment, count):
    fit = {"moment": moment, "kernel": "full", "eigenvalues": count, "first_rank": 3}
    fit |= {"last_rank": count // 2, "alpha_amplitude": LAMBDA_1, "delta_amplitude": 1.0}
    for name, value in (("alpha", ALPHA), ("delta", DELTA)):
        fit |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
    return fit


def one_training(realisations, generator):
    times = np.append(0.0, np.geomspace(0.1, 1e3, 30)) / LAMBDA_1
    runs = []
    for r in range(realisations):
        loss = 0.5 / (1 + times * LAMBDA_1 * np.exp(0.2 * generator.standard_normal()) / 50)
        accuracy = 0.1 + 0.5 * (1 - 2 * loss)
        values = {"train_loss_per_sample": loss, "test_loss_per_sample": 0.2 + 0.6 * loss}
        values |= {"time": times, "time_lambda_1": times * LAMBDA_1, "test_accuracy": accuracy}
        runs.append(pd.DataFrame(values).assign(realisation=r))
    return pd.concat(runs, ignore_index=True)


def study(settings, realisations=3, warm=True):
    """Tables of a study of the given ensembles, as the rule collect writes them."""
    generator = np.random.default_rng(7)
    parts = {name: [] for name in ("speed_limits", "exponents", "training_curves", "warm_starts")}
    spectra = {}
    for changed in settings:
        row = BASE | changed
        path = "results/" + "-".join(f"{k}{v}" for k, v in row.items() if k != "path")
        front = {"ensemble": row.pop("path", path), **row}
        starts = style.STARTS if warm else ("cold",)
        count, moments = 10 * row["n"], ("start", "warm") if warm else ("start",)
        reached = {"reached": warm, "threshold": 0.2, "time": 0.5 if warm else np.nan,
                   "largest_mean_test_accuracy": 0.9 if warm else 0.1}  # fmt: skip
        tables = {
            "speed_limits": pd.concat(
                [one_start(s, row["n"], realisations, generator) for s in starts]
            ),
            "exponents": pd.DataFrame([one_fit(moment, count) for moment in moments]),
            "training_curves": one_training(realisations, generator),
            "warm_starts": pd.DataFrame([reached]),
        }
        for name, table in tables.items():
            which = [key for key in ("start", "moment", "realisation") if key in table]
            columns = dict.fromkeys([*front, *which, *table])
            parts[name].append(table.assign(**front)[list(columns)])
        for moment in moments:
            values = modes(count, 0.0 if moment == "start" else -0.2)
            spectra[front["ensemble"], moment, row["n"]] = (
                values[0],
                values[1] * generator.chisquare(3, count) / 3,
            )
    tables = {name: pd.concat(part, ignore_index=True) for name, part in parts.items()}
    tables["outcomes"] = outcomes(tables["speed_limits"], realisations)
    tables["correlations"] = correlations(tables["outcomes"])
    return tables | {"trends": trends(settings, warm), "spectra": dataset(spectra)}


def outcomes(speed_limits, realisations):
    """The ends of the curves, with a drift, an alignment and an action for every run."""
    table = pd.concat([results.last_rows(speed_limits, start) for start in style.STARTS])
    table = table.assign(at="end", diverged=0.0, drift=0.3, alignment_gain=1.5)
    table["runs"] = np.where(table["realisation"].astype(str) == "ensemble", realisations, np.nan)
    table["kinematic_inefficiency"] = table["inefficiency"] * 1.01
    table["test_error"] = 0.7 + 0.01 * np.log(table["inefficiency"])
    transient = [f"transient_{name}" for name in TRANSIENT]
    share = (0.4 + 0.1 * table["n"] / 64).where(table["start"] == "warm")
    table = table.assign(**dict.fromkeys(transient, share))
    for name in ("drift", "alignment_gain", "kinematic_inefficiency", "test_error", *transient):
        several = table[name] if realisations > 1 else np.nan  # one run has no interval
        table[f"{name}_low"], table[f"{name}_high"] = 0.9 * several, 1.1 * several
    front = ["ensemble", *BASE]
    return table[[*front, "start", *table.columns.difference([*front, "start"])]]


def correlations(table):
    """Rank correlations as the rule collect writes them, from runs without repetition."""
    runs = table[table["realisation"].astype(str) != "ensemble"]
    found = measured_correlations(runs, {"seed": 1, "confidence": 0.95, "resamples": 200})
    return found.assign(confidence=0.95)


def trends(settings, warm):
    varies = len({changed.get("n") for changed in settings}) > 1
    row = {"at": "end", "quantity": "inefficiency", "against": "n", "slope": -0.12, "points": 9}
    row |= {"slope_low": -0.2, "slope_high": -0.05, "p_value": 0.031, "confidence": 0.95}
    row |= {"p_adjusted": 0.09}
    row |= {"test": "runs"}
    if not varies:
        row |= dict.fromkeys(("slope", "slope_low", "slope_high", "p_value", "p_adjusted"), np.nan)
    return pd.DataFrame([row | {"start": start} for start in style.STARTS[: 1 + warm]])


def dataset(spectra):
    length = max(len(values[0]) for values in spectra.values())
    padded = np.full((2, len(spectra), length), np.nan)
    for index, values in enumerate(spectra.values()):
        padded[:, index, : len(values[0])] = values
    path, moment, n = (list(part) for part in zip(*spectra, strict=True))
    dims = ("spectrum", "rank")
    return xr.Dataset(
        {
            "eigenvalues": (dims, padded[0]),
            "residue_projections": (dims, padded[1]),
            "ensemble": ("spectrum", path),
            "moment": ("spectrum", moment),
            "kernel": ("spectrum", ["full"] * len(path)),
            "n": ("spectrum", n),
        },
        coords={"rank": np.arange(1, length + 1)},
    )


SIZES = [{"n": n} for n in (16, 32, 64, 128)]
STUDIES = {
    "sizes": {"settings": SIZES},
    "never warm": {"settings": SIZES[:2], "warm": False},
    "single realisation": {"settings": SIZES[:3], "realisations": 1},
    "one ensemble": {"settings": SIZES[:1]},
    "widths": {"settings": [{"width": width} for width in (16, 32)]},
    "models": {"settings": [{"model": model} for model in ("myrtle5", "fully_connected")]},
    "sizes and widths": {
        "settings": [{"n": n, "width": width} for n in (64, 128) for width in (16, 32)]
    },
    "tolerances": {"settings": [{"path": f"runs/n64-tolerance{t}-a"} for t in ("0.01", "0.001")]},
}
OWN = "my_laboratory.networks:perceptron_number_"
STUDIES["own networks without a width"] = {
    "settings": [{"model": f"{OWN}1", "width": np.nan}, {"width": 8}, {"width": 16}]
}
RENDERED = {("never warm", "inefficiency_time"), ("models", "inefficiency_size")}


@pytest.fixture(scope="module", autouse=True)
def styled():
    style.use_style()


@pytest.fixture(scope="module")
def tables():
    return study(SIZES)


def draw(name, tables, *, render=False):
    """A figure; rendering is what takes time, and only places of text and insets need it."""
    module = importlib.import_module(f"plots.{name}")
    figure = module.draw(**{table: tables[table] for table in FIGURES[name]})
    if render:
        FigureCanvasAgg(figure).draw()
    return figure


@pytest.fixture(scope="module")
def drawn(tables):
    """Name -> figure of the study over n, drawn once."""
    return functools.cache(lambda name: draw(name, tables))


def texts(figure):
    """All words of a figure."""
    found = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    for axes in panels(figure):
        found += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")]
        found += [t.get_text() for t in axes.texts]
    return found


def panels(figure):
    return [*figure.axes, *(child for axes in figure.axes for child in axes.child_axes)]


def curves(axes):
    return [(line.get_xdata(), line.get_ydata()) for line in axes.lines]


def has_curve(axes, x, y):
    """Whether a panel holds a line through exactly these points."""
    return any(
        len(found[0]) == len(x) and np.allclose(found[0], x) and np.allclose(found[1], y)
        for found in curves(axes)
    )


def bands(figure):
    return [c for axes in figure.axes for c in axes.collections if c.get_alpha() is not None]


@pytest.mark.parametrize("name", OF_ANY_STUDY)
def test_axes_are_labelled_with_symbols(name, drawn):
    words = texts(drawn(name))
    for label in AXIS_LABELS[name]:
        assert any(label in text for text in words), label


@pytest.mark.parametrize("kind", [kind for kind in STUDIES if kind != "sizes"])
def test_every_study_can_be_drawn(kind):
    given = study(**STUDIES[kind])
    for name in OF_ANY_STUDY:
        figure = draw(name, given, render=(kind, name) in RENDERED)
        assert len(panels(figure)) >= 2, name
        assert not any("nan" in text or "8.0" in text for text in texts(figure)), name


BOUNDED = ("speed_limit_time", "inefficiency_time", "inefficiency_size", "inefficiency_factors")


@pytest.mark.parametrize("name", [*BOUNDED, "outcomes"])
def test_studies_without_speed_limit_times_say_that_there_is_nothing(name, tables):
    """Adam has none, and trainings that all diverged; their warm start is reached all the same."""
    given = {key: tables[key].copy() for key in ("speed_limits", "outcomes", "trends", "exponents")}
    for table in given.values():
        table[[c for c in table if c.startswith((*QUANTITIES, "slope", "kinematic"))]] = np.nan
    words = texts(draw(name, given))
    assert words.count("nothing to show") >= 2
    assert not any("not reached" in text for text in words)


@pytest.mark.parametrize("name", [*BOUNDED, "path_length_ratio", "training_curves"])
def test_studies_of_a_dynamics_without_training_time_are_drawn(name, tables):
    """Adam alone has path lengths, but neither lambda_1 T nor T/T_SL to draw them against."""
    table = tables["speed_limits"]
    kept = ("path_excess", "kinematic")
    ratios = [c for c in table if c.startswith(QUANTITIES) and not c.startswith(kept)]
    blank = table.assign(**dict.fromkeys(["time_lambda_1", *ratios], np.nan))
    figure = draw(name, tables | {"speed_limits": blank}, render=True)
    assert len(panels(figure)) >= 2


def test_many_long_names_leave_room_for_panels_and_keep_their_places():
    given = study([{"model": f"{OWN}{k:02d}", "width": 16 * (1 + k % 3)} for k in range(12)], 2)
    given["outcomes"] = given["outcomes"].assign(diverged=0.5)  # the longest legend
    for name in ("speed_limit_time", "outcomes"):
        figure = draw(name, given, render=True)
        assert min(axes.get_window_extent().height for axes in figure.axes) > 0.9 * figure.dpi
        assert all(box.get_window_extent().x1 <= figure.bbox.width for box in figure.legends)
    x = np.concatenate([line.get_xdata() for line in figure.axes[0].lines]).astype(float)
    nearest = np.abs(np.log(x[:, None] / [16, 32, 48])).min(axis=1)
    assert len(x) >= 48 and nearest.max() < np.log(48 / 32) / 2


def test_numbers_stand_for_names_that_would_leave_a_panel_no_room():
    rates = itertools.product(("gradient_descent", "heavy_ball"), (0.05, 0.1), (0.3, 0.6))
    keys = ("dynamics", "learning_rate", "momentum")
    given = study([dict(zip(keys, of, strict=True)) for of in rates], 2)
    figure = draw("inefficiency_size", given, render=True)
    for panel in figure.axes:
        assert [text.get_text() for text in panel.get_xticklabels()] == list("12345678")
        assert panel.get_window_extent().width > 0.3 * figure.bbox.width
    names = {text.get_text() for text in figure.legends[-1].get_texts()}
    assert "heavy ball, learning rate 0.1, momentum 0.6" in names and len(names) == 8
    few = draw("inefficiency_size", study([{"dynamics": name} for name in keys], 2))
    assert [text.get_text() for text in few.axes[0].get_xticklabels()][0] == "dynamics"


def test_ticks_of_sizes_are_whole_numbers():
    figure = draw("outcomes", study([{"n": n} for n in (500, 1000, 1024)], 1))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["500", "1000", "1024"]
    words = texts(figure)
    assert "ensemble of 1 run" in words


@pytest.mark.parametrize("name", OF_ANY_STUDY)
def test_legends_stay_inside_and_apart_from_the_panels(name, tables):
    figure = draw(name, tables, render=True)
    width, height = figure.bbox.size
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def in_legends(figure):
    return " ".join(t.get_text() for legend in figure.legends for t in legend.get_texts())


WITHOUT_RUNS = ("residue_projections", "speed_limit_temperature")  # the latter: with temperatures


def test_legends_tell_how_many_runs_an_ensemble_has(tables, drawn):
    single = study(SIZES[:2], realisations=1)
    for name in [name for name in OF_ANY_STUDY if name not in WITHOUT_RUNS]:
        assert "3 runs" in in_legends(drawn(name)), name
        assert "90 % interval" in in_legends(drawn(name)) or name == "training_curves", name
        said = in_legends(draw(name, single))
        assert "1 run" in said and "1 runs" not in said and "interval" not in said, name
    few = tables["speed_limits"]["n"].eq(16) & tables["speed_limits"]["realisation"].eq("2")
    assert results.run_count(tables["speed_limits"][~few]) == "2 to 3 runs"


WITHOUT_WARM = ("training_curves", "speed_limit_temperature", "infinite_width", "generalisation")


@pytest.mark.parametrize("name", [n for n in FIGURES if n not in WITHOUT_WARM])
def test_missing_warm_start_is_said(name):
    assert any("not reached" in text for text in texts(draw(name, study(SIZES[:2], warm=False))))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("path_length_ratio", {"warm start"}),
        ("inefficiency_size", {"fitted power law", "its asymptote"}),
        ("residue_projections", {"fitted power law in its window"}),
    ],
)
def test_legends_name_nothing_that_is_not_drawn(name, words):
    given = study(SIZES[:2], warm=False)
    said = in_legends(draw(name, study(SIZES[:2])))
    assert all(word in said for word in words)
    none = {c: np.nan for c in given["exponents"] if c.startswith(("alpha", "delta"))}
    laws = [c for c in given["speed_limits"] if "power_law" in c]
    given["exponents"] = given["exponents"].assign(**none)
    given["speed_limits"] = given["speed_limits"].assign(**dict.fromkeys(laws, np.nan))
    said = in_legends(draw(name, given))
    assert not any(word in said for word in words)


def test_missing_warm_start_is_said_beside_its_threshold():
    given = study(SIZES[:2], warm=False)
    assert "warm start at 20 %: not reached" in texts(draw("training_curves", given))


def test_thresholds_of_the_warm_start_are_named_in_one_line_each_kind():
    given = study(SIZES[:3])
    thresholds = {"threshold": [0.15, 0.2, 0.4], "reached": [True, True, False]}
    above = given["warm_starts"].assign(**thresholds)
    (said,) = [
        t.get_text() for t in draw("training_curves", given | {"warm_starts": above}).axes[2].texts
    ]
    assert said.endswith("warm start at 40 %:\nabove it from the start")
    mixed = above.assign(threshold=0.4, reached=False)
    mixed["largest_mean_test_accuracy"] = [0.3, 0.9, 0.3]
    figure = draw("training_curves", given | {"warm_starts": mixed})
    (said,) = [t.get_text() for t in figure.axes[2].texts]
    assert said == "warm start at 40 %:\nnot reached, or above\nit from the start"
    given["warm_starts"] = above.assign(largest_mean_test_accuracy=0.3)
    figure = draw("training_curves", given)
    (said,) = [text.get_text() for text in figure.axes[2].texts]
    assert said == "warm start at 15, 20 %\nwarm start at 40 %: not reached"
    lines = [line.get_ydata()[0] for line in figure.axes[2].lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(lines, [15, 20, 40])


def test_what_was_not_measured_for_want_of_a_test_part_is_said():
    given = study(SIZES[:2], warm=False)
    columns = ["test_loss_per_sample", "test_accuracy"]
    given["training_curves"] = given["training_curves"].assign(**dict.fromkeys(columns, np.nan))
    said = [text for text in texts(draw("training_curves", given)) if "not measured" in text]
    assert len(said) == 2


@pytest.mark.parametrize("realisations", [1, 3])
def test_temperatures_stand_at_their_places_and_zero_in_a_strip(realisations):
    temperatures, models = (0.0, 1e-3, 1e-2), ("myrtle5", "fully_connected")
    settings = [{"model": m, "temperature": t} for m in models for t in temperatures]
    table = study(settings, realisations)["speed_limits"]
    front = ["ensemble", *BASE, "temperature", "start"]
    table = table[[*front, *table.columns.difference(front)]]
    # The first network's lambda_1 is the smaller: its runs end last.
    table["time"] *= table["model"].map({"myrtle5": 3.0, "fully_connected": 1.0})
    table = table.assign(loss_drop=5.0 - 1e3 * table["temperature"])
    noisy = table["temperature"] > 0
    table["free_energy_drop_least"] = (table["loss_drop"] + 0.5).where(noisy)
    table["free_energy_drop_most"] = (table["loss_drop"] + 2.0).where(noisy)
    figure = importlib.import_module("plots.speed_limit_temperature").draw(table)
    FigureCanvasAgg(figure).draw()
    ends = results.last_rows(table, "cold")
    ends = ends[ends["realisation"].astype(str) == "ensemble"]
    second = figure.axes[1]
    for k, model in enumerate(models):
        shift = 1.12 ** (k - 0.5)
        of_model = ends[ends["model"] == model]
        places = shift * np.array([1e-4, 1e-3, 1e-2])
        assert has_curve(second, places, of_model["inefficiency"])
        assert has_curve(second, places, of_model["inefficiency_predicted"])
        drop = of_model["loss_drop"]
        assert has_curve(figure.axes[2], places, drop / drop.iloc[0])
    labels = [text.get_text() for text in second.get_xticklabels()]
    assert labels == ["0", "0.001", "0.01"]
    handles = {h.get_label(): h.get_color() for h in figure.legends[0].get_lines()}
    assert handles == dict(zip(("Myrtle-5", "fully connected"), style.OKABE_ITO, strict=False))
    said = in_legends(figure)
    assert f"{realisations} run" in said and ("interval" in said) is (realisations > 1)
    bars = [c for c in figure.axes[2].collections if c.get_alpha() is not None]
    assert len(bars) == 2  # least to most of every series


def test_temperatures_without_speed_limit_times_say_so():
    """Own networks have none."""
    settings = [{"temperature": t} for t in (1e-3, 1e-2)]
    table = study(settings, 2)["speed_limits"].assign(loss_drop=5.0)
    table[[c for c in table if c.startswith(("speed_limit_time", "inefficiency"))]] = np.nan
    front = ["ensemble", *BASE, "temperature", "start"]
    table = table[[*front, *table.columns.difference(front)]]
    figure = importlib.import_module("plots.speed_limit_temperature").draw(table)
    assert texts(figure).count("nothing to show") == 2
    assert "" not in [t.get_text() for legend in figure.legends for t in legend.get_texts()]


def crosses(axes):
    """Abscissae of the marks for settings without a value."""
    lines = [line for line in axes.lines if line.get_marker() == style.WITHOUT_VALUE["marker"]]
    return [float(x) for line in lines for x in line.get_xdata()]


@pytest.mark.parametrize("figure", ["outcomes", "first_transient"])
def test_settings_without_a_value_are_marked_where_others_have_one(tables, figure):
    draw_outcomes = importlib.import_module(f"plots.{figure}").draw
    table = tables["outcomes"]
    whole = draw_outcomes(table)
    assert not any(crosses(panel) for panel in panels(whole))
    assert "no value there" not in in_legends(whole)
    lost = (table["n"] == 16) & (table["start"] == "warm")
    column = "inefficiency" if figure == "outcomes" else "transient_drift"
    at = {"outcomes": 1, "first_transient": 5}[figure]
    missing = table.assign(**{column: table[column].mask(lost)})
    for gone in (missing, table[~lost] if figure == "outcomes" else missing):  # blank, or no row
        found = draw_outcomes(gone)
        FigureCanvasAgg(found).draw()
        marked = {k: crosses(panel) for k, panel in enumerate(found.axes) if crosses(panel)}
        assert marked == {at: [16.0]}
        assert "no value there" in in_legends(found)


@pytest.mark.parametrize("figure", ["outcomes", "generalisation"])
def test_legends_name_intervals_only_where_there_are_some(tables, figure):
    """Several runs that are all one and the same have none."""
    legends = []
    for table in (tables["outcomes"], tables["outcomes"].copy()):
        if legends:
            table[[name for name in table if name.endswith(("_low", "_high"))]] = np.nan
        legends.append(in_legends(draw(figure, tables | {"outcomes": table})))
    assert "3 runs, 90 % interval" in legends[0]
    assert "3 runs" in legends[1] and "interval" not in legends[1]


def test_temperatures_without_a_speed_limit_are_marked_where_others_have_one():
    """An own network has a speed limit at temperature 0 only."""
    table = study([{"temperature": t} for t in (0.0, 1e-3, 1e-2)], 2)["speed_limits"]
    table = table.assign(loss_drop=5.0)
    bounds = [c for c in table if c.startswith(("speed_limit_time", "inefficiency"))]
    table.loc[table["temperature"] > 0, bounds] = np.nan
    front = ["ensemble", *BASE, "temperature", "start"]
    table = table[[*front, *table.columns.difference(front)]]
    figure = importlib.import_module("plots.speed_limit_temperature").draw(table)
    assert [crosses(panel) for panel in figure.axes] == [[1e-3, 1e-2]] * 2 + [[]]
    assert "no value there" in in_legends(figure)


def test_test_error_stands_against_the_inefficiency_with_its_rank_correlations(tables):
    figure = draw("generalisation", tables)
    between, within = figure.axes
    ends = tables["outcomes"][tables["outcomes"]["start"] == "cold"]
    whole = ends["realisation"].astype(str) == "ensemble"
    for n in ends["n"].unique():
        mean, runs = ends[(ends["n"] == n) & whole], ends[(ends["n"] == n) & ~whole]
        x, y = runs["inefficiency"].to_numpy(), runs["test_error"].to_numpy()
        assert has_curve(between, mean["inefficiency"], mean["test_error"])
        assert has_curve(between, x, y)
        assert has_curve(within, x / np.exp(np.log(x).mean()), y - y.mean())
    rows = tables["correlations"]
    row = rows[(rows["with"] == "test_error") & (rows["level"] == "within")].iloc[0]
    assert row["correlation"] == pytest.approx(1)  # the error rises with the inefficiency
    title = within.get_title(loc="left")
    assert title.startswith(
        "$\\bf{b}$  runs of equal settings\nrank correlation 1.00,\nadjusted $p"
    )
    assert title.endswith("$, 12 points")  # four ensembles of three are too few for an interval
    of_row = (rows["with"] == "test_error") & (rows["level"] == "within")
    known = rows.assign(correlation_low=rows["correlation_low"].mask(of_row, 0.9))
    known = known.assign(correlation_high=rows["correlation_high"].mask(of_row, 1.0))
    title = draw("generalisation", tables | {"correlations": known}).axes[1].get_title(loc="left")
    assert "rank correlation 1.00 [0.90, 1.00],\n" in title
    title = between.get_title(loc="left")
    assert title.endswith("rank correlation 1.00,\n4 points that share settings, no test")


def test_the_rank_correlation_of_enough_ensembles_tells_its_points(tables):
    row = tables["correlations"].iloc[[0]].assign(level="between", points=8, p_smallest=1e-4)
    row = row.assign(correlation=-0.6, correlation_low=np.nan, p_adjusted=0.25, p_value=0.2)

    def said(row):
        figure = draw("generalisation", tables | {"correlations": row})
        return [axes.get_title(loc="left").split("\n", 1)[1] for axes in figure.axes]

    first = "rank correlation \N{MINUS SIGN}0.60,\nadjusted $p = 0.25$, 8 points"
    assert said(row) == [first, "nothing to correlate"]
    ends = " [\N{MINUS SIGN}0.90, 0.10],"
    told = said(row.assign(correlation_low=-0.9, correlation_high=0.1))
    assert told[0] == first.replace(",", ends, 1)
    none = dict.fromkeys(("correlation", "p_value", "p_smallest", "p_adjusted"), np.nan)
    assert said(row.assign(**none))[0] == "8 points: one side does not vary"
    assert said(row.assign(**none, points=2))[0] == "2 points: too few to correlate"


@pytest.mark.parametrize("dynamics", ["gradient_flow", "heavy_ball"])
def test_outcomes_predict_nothing_of_momentum_in_motion(tables, dynamics):
    """From a warm start it has a velocity, which no spectrum knows of."""
    table = tables["outcomes"].assign(dynamics=dynamics)
    cold, warm = draw("outcomes", tables | {"outcomes": table}).axes[:2]
    for panel, start in ((cold, "cold"), (warm, "warm")):
        ends = table[(table["at"] == "end") & (table["start"] == start)]
        whole = ends[ends["realisation"] == "ensemble"]
        hollow = [line for line in panel.lines if line.get_marker() == "D"]
        assert len(whole) and len(hollow) == 1
        drawn = np.isfinite(hollow[0].get_ydata()).all()
        assert drawn == (start == "cold" or dynamics == "gradient_flow")


def test_what_has_no_test_error_is_not_drawn_against_the_inefficiency(tables):
    """Without a test part there is neither error nor loss; without classes, the loss alone."""
    lost = tables["outcomes"].drop(columns=[c for c in tables["outcomes"] if "test_error" in c])
    rows = tables["correlations"][tables["correlations"]["with"] != "test_error"]
    words = texts(draw("generalisation", tables | {"outcomes": lost, "correlations": rows}))
    assert words.count("nothing to show") == 2
    lost = lost.assign(test_loss=0.3)
    figure = draw("generalisation", tables | {"outcomes": lost, "correlations": rows})
    assert "Test loss per sample" in texts(figure) and "nothing to show" not in texts(figure)


def test_runs_that_the_axis_does_not_touch_stand_as_a_line_with_its_band(tables):
    rows = tables["outcomes"]
    rows = rows[(rows["n"] == 16) & (rows["start"] == "cold")]
    warm = rows.assign(start="warm")
    parts = [warm.assign(warm_start_accuracy=value) for value in (0.12, 0.15, 0.3)]
    table = pd.concat([rows.assign(warm_start_accuracy=np.nan), *parts])
    columns = list(table.columns.drop("warm_start_accuracy"))
    columns.insert(columns.index("start"), "warm_start_accuracy")
    figure = importlib.import_module("plots.outcomes").draw(table[columns])
    cold, warm_panel = figure.axes[:2]
    mean = rows.loc[rows["realisation"].astype(str) == "ensemble", "inefficiency"].item()
    lines = [line for line in cold.lines if list(line.get_xdata()) == [0, 1]]
    np.testing.assert_allclose([line.get_ydata() for line in lines], [[mean, mean]])
    assert "the same runs throughout" in [text.get_text() for text in cold.texts]
    assert not warm_panel.texts
    assert [label.get_rotation() for label in cold.get_xticklabels()] == [35] * 3  # too close


def test_labels_of_close_values_are_steep_enough_not_to_touch():
    """Baselines lie apart by the gap times the sine of the angle, which must pass a letter."""
    figure, axes = style.new_figure(2, 3, style.DOUBLE_COLUMN, 5.0)
    rates = [0.01, 0.03, 0.1, 0.3, 0.9, 1.5, 3.0]
    for panel in axes.flat:
        panel.set_ylabel("y")
        outcomes = importlib.import_module("plots.outcomes")
        outcomes.set_ticks(panel, dict(zip(rates, rates, strict=True)), "learning_rate", True, "")
    FigureCanvasAgg(figure).draw()
    for panel in axes.flat:
        x = panel.transData.transform([(rate, 1.0) for rate in rates])[:, 0]
        label = panel.get_xticklabels()[0]
        height = label.get_fontsize() * figure.dpi / 72
        assert min(np.diff(x)) * np.sin(np.radians(label.get_rotation())) > height


def test_a_study_without_temperature_says_so(tables):
    given = tables["speed_limits"].assign(loss_drop=1.0)
    words = texts(importlib.import_module("plots.speed_limit_temperature").draw(given))
    assert sum("no temperature" in text for text in words) == 3


@pytest.mark.parametrize("name", ["training_curves", "inefficiency_time", "inefficiency_factors"])
def test_a_single_realisation_has_no_band(name, drawn):
    assert bands(drawn(name))
    assert not bands(draw(name, study(SIZES[:2], realisations=1)))


@pytest.mark.parametrize("name", ["outcomes", *BOUNDED, "path_length_ratio", "generalisation"])
def test_intervals_without_an_end_leave_the_curves_their_axes(name, tables):
    """Two runs at a confidence of 99.99 %: ratios from 0 to infinity."""
    given = dict(tables)
    for table in ("speed_limits", "outcomes"):
        wide = tables[table].copy()
        wide.loc[:, wide.columns.str.endswith("_low")] = 0.0
        wide.loc[:, wide.columns.str.endswith("_high")] = np.inf
        given[table] = results.cut_intervals(wide)
    figure, narrow = draw(name, given, render=True), draw(name, tables)
    for axes, usual in zip(panels(figure), panels(narrow), strict=True):
        low, high = axes.get_ylim()
        assert low > 0 or usual.get_yscale() == "linear"
        assert high <= results.WIDEST**2 * usual.get_ylim()[1]


def test_only_intervals_of_ratios_are_cut_and_what_is_missing_stays_missing():
    table = pd.DataFrame(
        {"a": [2.0, 2.0, -1.0, np.nan], "a_low": [0.0, 1.0, -9e9, np.nan],
         "a_high": [np.inf, 3.0, 9e9, np.nan], "low": 4.0}
    )  # fmt: skip
    cut = results.cut_intervals(table)
    np.testing.assert_array_equal(cut["a_low"], [0.002, 1.0, -9e9, np.nan])
    np.testing.assert_array_equal(cut["a_high"], [2000.0, 3.0, 9e9, np.nan])
    assert cut[["a", "low"]].equals(table[["a", "low"]])


def test_long_names_leave_the_panels_of_the_length_ratio_their_width():
    names = [f"a name of some length, output scale {scale}" for scale in range(8)]
    tables = study([{"path": name, "case": name} for name in names])
    figure = draw("path_length_ratio", tables, render=True)
    places = [axes.get_position() for axes in figure.axes]
    assert sum(place.width for place in places) > 0.85
    assert min(place.height for place in places) > 0.35
    assert not any(axes.get_legend() for axes in figure.axes)  # it would lie on the points
    assert {"cold start", "warm start", *names} <= set(texts(figure))


def test_cold_starts_of_several_thresholds_are_told_apart_unless_there_is_one(tables):
    """Thresholds share their cold start; subsets do not."""
    limits = tables["speed_limits"]
    cold = limits[limits["start"] == "cold"]
    twice = pd.concat(
        [cold.assign(ensemble=cold["ensemble"] + f"-warm{value}") for value in (0.2, 0.3)]
    )
    paths = list(dict.fromkeys(twice["ensemble"]))
    shown = [style.Ensemble(path, path, f"C{k}") for k, path in enumerate(paths)]
    _, axes = style.new_figure(1, 2, style.DOUBLE_COLUMN, 2.0)
    drawn_once = style.once(axes[0, 0], twice, shown)
    assert len(drawn_once) == len(paths) // 2 > 1
    assert [e.colour for e in drawn_once] == [e.colour for e in shown[: len(drawn_once)]]
    assert [t.get_text() for t in axes[0, 0].texts] == ["the same runs: in the first's colour"]
    one = [e for e in shown if e.path.startswith(shown[0].path.removesuffix("-warm0.2"))]
    assert [e.colour for e in style.once(axes[0, 1], twice, one)] == ["black"]


def test_series_that_read_none_of_the_settings_have_a_name_and_only_drawn_ones_a_colour(tables):
    rows = tables["outcomes"].query("start == 'cold'")
    warm = rows.assign(start="warm")
    parts = [warm.assign(warm_start_accuracy=value) for value in (0.2, 0.3)]
    table = pd.concat([rows.assign(warm_start_accuracy=np.nan), *parts])
    columns = list(table.columns.drop("warm_start_accuracy"))
    columns.insert(columns.index("start"), "warm_start_accuracy")
    for name, first in (("outcomes", ["cold start"]), ("first_transient", [])):
        figure = importlib.import_module(f"plots.{name}").draw(table[columns])
        told = [text.get_text() for text in figure.legends[0].get_texts()]
        assert told == [*first, "warm start accuracy 0.2", "warm start accuracy 0.3"]


def test_subsets_are_the_axis_where_nothing_else_varies():
    limits = study([{"subset": number} for number in (1, 2, 3)], 2)["speed_limits"]
    figure = importlib.import_module("plots.outcomes").draw(outcomes(limits, 2))
    panel = figure.axes[0]
    assert [t.get_text() for t in panel.get_xticklabels()] == ["subset 1", "subset 2", "subset 3"]
    assert panel.get_xscale() == "linear" and len(figure.legends) == 1
    both = study([{"subset": s, "n": n} for s in (1, 2) for n in (16, 64)], 2)["speed_limits"]
    figure = importlib.import_module("plots.outcomes").draw(outcomes(both, 2))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["16", "64"]
    bars = [bar for drawn in figure.axes[0].containers for bar in drawn.lines[0].get_xdata()]
    assert len(set(bars)) == 4 and sum(bar < 32 for bar in bars) == 2
    assert "subsets side by side" in [t.get_text() for t in figure.legends[-1].texts][0]


def test_long_labels_of_ticks_are_folded_between_words():
    text = naming.folded("heavy ball (momentum 0.9, rate 0.1)")
    assert max(map(len, text.split("\n"))) <= 18 and text.replace("\n", " ") == (
        "heavy ball (momentum 0.9, rate 0.1)"
    )
    assert naming.folded("unbreakable_label_of_a_case") == "unbreakable_label_of_a_case"
    assert naming.folded("a $x = 1 + 2 + 3 + 4$") == "a $x = 1 + 2 + 3 + 4$"


def test_missing_exponents_give_no_power_law(tables, drawn):
    lost = tables["exponents"].assign(alpha=np.nan, delta=np.nan)
    law = ["inefficiency_power_law", "inefficiency_power_law_asymptote"]
    missing = tables | {"exponents": lost, "speed_limits": tables["speed_limits"].copy()}
    missing["speed_limits"][law] = np.nan
    for name in ("inefficiency_time", "path_length_ratio", "inefficiency_size"):
        full, less = drawn(name), draw(name, missing)
        assert len(less.axes[0].lines) < len(full.axes[0].lines), name
    assert "no fit: too few ranks" in texts(draw("residue_projections", missing))


def test_a_single_time_is_a_visible_point(tables):
    limits = tables["speed_limits"]
    warm = limits["start"] == "warm"
    last = limits[warm].groupby(["ensemble", "realisation"])["time"].transform("max")
    given = tables | {"speed_limits": limits.drop(limits[warm].index[limits[warm]["time"] < last])}
    for name, panel in (("inefficiency_time", 1), ("speed_limit_time", 1)):
        lines = draw(name, given).axes[panel].lines
        single = [line for line in lines if np.isfinite(line.get_ydata()).sum() == 1]
        assert len(single) >= len(SIZES), name
        assert all(line.get_marker() == "o" for line in single), name
        assert {line.get_markerfacecolor() for line in single} > {"none"}, name  # predicted
        bars = [part for part in lines[0].axes.collections if isinstance(part, LineCollection)]
        ends = [bar.get_segments()[0] for bar in bars if bar.get_linewidth()[0] == 3]
        assert len(ends) == len(SIZES), name  # with their intervals
        lengths = np.abs(np.diff(ends, axis=1))[:, 0]
        along = 1 if name == "inefficiency_time" else 0
        assert (lengths[:, along] > 0).all() and (lengths[:, 1 - along] == 0).all(), name


def test_single_times_that_hardly_differ_stand_inside_the_panel(tables):
    limits = tables["speed_limits"]
    last = limits.groupby(["ensemble", "realisation", "start"])["time"].transform("max")
    limits = limits[limits["time"] == last]
    limits = limits.assign(time_lambda_1=limits["time_lambda_1"] * (1 + 1e-4 * limits["n"]))
    panel = draw("speed_limit_time", tables | {"speed_limits": limits}).axes[1]
    marks = np.concatenate([line.get_xydata() for line in panel.lines if line.get_marker() == "o"])
    heights = panel.transAxes.inverted().transform(panel.transData.transform(marks))[:, 1]
    assert len(heights) == 2 * len(SIZES) and heights.max() < 0.97


def test_curves_are_those_of_the_tables(tables, drawn):
    limits = tables["speed_limits"]
    time_panels = drawn("inefficiency_time").axes
    factor_panels = drawn("inefficiency_factors").axes
    ratio_panels = drawn("path_length_ratio").axes
    bound_panels = drawn("speed_limit_time").axes
    for k, start in enumerate(style.STARTS):
        for ensemble in limits["ensemble"].unique():
            rows = results.select(limits, start, ensemble)
            x = rows["time_lambda_1"]
            assert has_curve(time_panels[k], x, rows["inefficiency"])
            assert has_curve(time_panels[k], x, rows["inefficiency_predicted"])
            assert has_curve(time_panels[k], x, rows["inefficiency_power_law"])
            assert has_curve(factor_panels[3 * k], x, rows["speed_unevenness"])
            assert has_curve(factor_panels[3 * k + 1], x, rows["path_excess"])
            assert has_curve(factor_panels[3 * k + 2], x, rows["inefficiency"])
            assert has_curve(ratio_panels[k], x, np.sqrt(rows["path_excess"]))
            assert has_curve(bound_panels[k], rows["speed_limit_time"] * LAMBDA_1, x)


def test_curves_that_ensembles_share_are_drawn_once_in_black(tables):
    """Thresholds of the warm start have one cold start."""
    limits = tables["speed_limits"]
    limits = limits[limits["n"] == 16]
    warm = limits[limits["start"] == "warm"].copy()
    warm["inefficiency"] *= 1.1
    other = pd.concat([limits[limits["start"] == "cold"], warm]).assign(ensemble="other")
    shared = tables | {"speed_limits": pd.concat([limits, other])}
    for name, cold, after in (("inefficiency_time", 0, 1), ("inefficiency_factors", 2, 5)):
        axes = draw(name, shared).axes
        x = results.select(limits, "cold", limits["ensemble"].iloc[0])["time_lambda_1"]
        solid = [line for line in axes[cold].lines if line.get_linestyle() == "-"]
        assert [line.get_color() for line in solid if len(line.get_xdata()) == len(x)] == ["black"]
        assert "black: the same runs" in [text.get_text() for text in axes[cold].texts]
        assert not any("same runs" in text.get_text() for text in axes[after].texts)


def test_training_curves_show_the_mean_and_the_warm_start(tables, drawn):
    figure = drawn("training_curves")
    table = tables["training_curves"]
    for ensemble, rows in table[table["time"] > 0].groupby("ensemble"):
        mean = rows.groupby("time_lambda_1")["test_accuracy"].mean()
        assert has_curve(figure.axes[2], mean.index, 100 * mean), ensemble
    stars = [line for line in figure.axes[2].lines if line.get_marker() == "*"]
    assert len(stars) == len(SIZES)
    assert np.allclose([line.get_xdata()[0] for line in stars], 0.5 * LAMBDA_1)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize(
    "limits", [(22, 2200), (30, 2000), (300, 4000), (0.006, 0.2), (110, 900), (1.1, 9), (2e3, 9e4)]
)
def test_labels_of_ticks_do_not_touch(columns, limits):
    figure, axes = style.new_figure(1, columns, style.DOUBLE_COLUMN, 2.0)
    for panel in axes[0]:
        panel.plot(limits, [1, 1])
        panel.set_ylabel("y")
        panel.set_xscale("log")
        panel.set_xlim(*limits)
        style.log_axes(panel)
    FigureCanvasAgg(figure).draw()
    for panel in axes[0]:
        inside = [t for t in panel.xaxis.get_major_ticks() if limits[0] <= t.get_loc() <= limits[1]]
        boxes = [tick.label1.get_window_extent() for tick in inside]
        assert len(boxes) >= 2
        assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("cases", [12, 15, 40])
def test_numbers_of_cases_do_not_touch(cases):
    figure, axes = style.new_figure(2, 3, style.DOUBLE_COLUMN, 4.0)
    places = {str(k): float(k) for k in range(cases)}
    words = [str(k + 1) for k in range(cases)]
    for panel in axes.ravel():
        panel.set_ylabel("y")
        outcomes_figure.set_ticks(panel, places, "case", False, "", words)
    FigureCanvasAgg(figure).draw()
    for panel in axes.ravel():
        shown = [t for t in panel.xaxis.get_major_ticks() if t.label1.get_text()]
        assert shown[0].label1.get_text() == "1" and len(shown) > 5
        boxes = [tick.label1.get_window_extent() for tick in shown]
        assert all(left.x1 + 1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize(("shift", "corner"), [(0.0, "top"), (0.9, "bottom")])
def test_the_threshold_is_named_in_the_corner_that_accuracies_leave_free(tables, shift, corner):
    """Two classes are guessed above the shipped threshold from the start."""
    table = tables["training_curves"]
    shifted = table.assign(test_accuracy=shift + (1 - shift) * table["test_accuracy"])
    panel = draw("training_curves", tables | {"training_curves": shifted}, render=True).axes[2]
    (said,) = panel.texts
    assert said.get_verticalalignment() == corner
    box = said.get_window_extent()
    for line in panel.lines:
        if len(line.get_xdata()) > 2:
            points = panel.transData.transform(line.get_xydata())
            assert not any(box.contains(x, y) for x, y in points)


def test_runs_that_differ_in_their_threshold_are_drawn_once_with_a_star_each():
    grid = [{"n": 32, "warm_start_accuracy": level} for level in (0.15, 0.2)]
    given = study(grid)
    table, first = given["training_curves"], given["training_curves"]["ensemble"].iloc[0]
    columns = ["train_loss_per_sample", "test_loss_per_sample", "test_accuracy", "time_lambda_1"]
    of = table[table["ensemble"] == first]
    for path in set(table["ensemble"]) - {first}:
        table.loc[table["ensemble"] == path, columns] = of[columns].to_numpy()
    figure = draw("training_curves", given)
    assert [sum(len(line.get_xdata()) > 2 for line in axes.lines) for axes in figure.axes] == [
        1
    ] * 3
    assert [sum(line.get_marker() == "*" for line in axes.lines) for axes in figure.axes] == [2] * 3
    assert all(len(axes.collections) == 1 for axes in figure.axes)
    assert [t.get_text() for t in figure.axes[0].texts] == ["black: the same runs"]


def test_runs_that_share_their_accuracy_alone_are_drawn_each(tables):
    table = tables["training_curves"].assign(test_accuracy=0.1)
    figure = draw("training_curves", tables | {"training_curves": table})
    solid = [
        sum(line.get_linestyle() == "-" and len(line.get_xdata()) > 2 for line in panel.lines)
        for panel in figure.axes
    ]
    assert solid == [len(SIZES)] * 3 and not any("same runs" in text for text in texts(figure))


def test_projections_are_those_of_an_ensemble_with_a_warm_start_if_there_is_one():
    given = study([{"n": 32, "warm_start_accuracy": level} for level in (0.15, 0.2)])
    paths = list(dict.fromkeys(given["exponents"]["ensemble"]))
    for lost in paths:
        spectra = given["spectra"]
        gone = (spectra["ensemble"].values == lost) & (spectra["moment"].values == "warm")
        spectra = spectra.isel(spectrum=~gone)
        (kept,) = set(paths) - {lost}
        assert residue_projections.largest(spectra, given["exponents"]).path == kept


def test_a_mean_of_training_ends_where_a_run_diverges(tables):
    table = tables["training_curves"].copy()
    lost = (table["n"] == 16) & (table["realisation"] == 1) & (table["time_lambda_1"] > 10)
    table.loc[lost, ["train_loss_per_sample", "test_loss_per_sample", "test_accuracy"]] = np.nan
    panel = draw("training_curves", tables | {"training_curves": table}).axes[0]
    ends = [x[np.isfinite(y)][-1] for x, y in curves(panel) if len(x) > 1]
    assert sorted(ends)[0] <= 10 and np.allclose(sorted(ends)[1:], 1e3)


def test_a_training_that_diverges_in_its_first_step_is_said_to(tables):
    table = tables["training_curves"].copy()
    lost = table["time"] > 0
    table.loc[lost, ["train_loss_per_sample", "test_loss_per_sample", "test_accuracy"]] = np.nan
    figure = draw("training_curves", tables | {"training_curves": table}, render=True)
    assert sum("diverged before" in text for text in texts(figure)) == 3


def test_trend_is_annotated_with_interval_and_p_value(drawn):
    figure = drawn("inefficiency_size")
    text = "slope \N{MINUS SIGN}0.12 [\N{MINUS SIGN}0.20, \N{MINUS SIGN}0.05]"
    for axes in figure.axes:
        (told,) = [t.get_text() for t in axes.texts if text in t.get_text()]
        assert "$p = 0.031$, adjusted $p = 0.09$" in told


def test_a_slope_is_told_with_the_sign_of_its_ends():
    row = {"slope": -0.004, "slope_low": -0.304, "slope_high": -0.0031, "confidence": 0.95}
    row |= {"p_value": 0.0496, "p_adjusted": 0.1504}
    told = trend_text(pd.Series(row)).replace("\N{MINUS SIGN}", "-")
    assert told == "slope -0.004 [-0.30, -0.003] (95 %)\n$p = 0.05$, adjusted $p = 0.15$"


def test_runs_without_a_value_do_not_move_the_line_of_the_trend(tables):
    limits = tables["speed_limits"].copy()
    lost = (limits["n"] == 16) & (limits["realisation"] == "0")  # diverged
    limits.loc[lost, list({*OF_PATH, *OF_LOSS_DROP, "loss_drop"} & {*limits})] = np.nan
    figure = draw("inefficiency_size", tables | {"speed_limits": limits})
    runs = results.last_rows(limits, "cold").query("realisation != 'ensemble'")
    runs = runs[runs["inefficiency"].notna()]
    line = next(line for line in figure.axes[0].lines if line.get_linestyle() == "--")
    (x0, x1), (y0, _) = line.get_xdata(), line.get_ydata()
    centre = np.log(runs["inefficiency"]).mean() - 0.12 * (np.log(x0) - np.log(runs["n"]).mean())
    assert np.isclose(np.log(y0), centre) and x1 == 128


def test_fonts_for_characters_that_the_figures_own_lacks_are_those_installed(monkeypatch):
    monkeypatch.setattr(style.font_manager, "get_font_names", lambda: ["Yu Gothic", "IPAGothic"])
    assert style.fonts() == ["DejaVu Sans", "IPAGothic", "Yu Gothic"]
    monkeypatch.setattr(style.font_manager, "get_font_names", list)
    assert style.fonts() == ["DejaVu Sans"]


def test_ensembles_without_a_value_are_crossed_at_their_size(tables):
    limits = tables["speed_limits"]
    lost = limits["inefficiency"].mask((limits["n"] == 16) & (limits["start"] == "cold"))
    figure = draw("inefficiency_size", tables | {"speed_limits": limits.assign(inefficiency=lost)})
    assert [crosses(panel) for panel in figure.axes] == [[pytest.approx(16.0)], []]
    assert "no value there" in in_legends(figure)
    assert "no value there" not in in_legends(draw("inefficiency_size", tables))


def test_end_values_are_the_last_rows_even_if_the_table_is_shuffled(tables):
    shuffled = tables["speed_limits"].sample(frac=1.0, random_state=0)
    shuffled["realisation"] = [int(r) if r.isdigit() else r for r in shuffled["realisation"]]
    ends = results.last_rows(shuffled, "warm")
    assert (ends["time_lambda_1"] > 999.9).all() and len(ends) == 4 * len(SIZES)
    figure = draw("inefficiency_size", tables | {"speed_limits": shuffled})
    whole = ends[ends["realisation"].astype(str) == "ensemble"].sort_values("n")
    points = [(sorted(x), sorted(y)) for x, y in curves(figure.axes[1])]
    assert (sorted(whole["n"]), sorted(whole["inefficiency"])) in points


def test_largest_n_is_projected_and_nothing_lies_under_the_inset(tables):
    figure = draw("residue_projections", tables, render=True)
    assert "n = 128" in figure.axes[0].get_title(loc="left")
    for axes in figure.axes:
        box = axes.child_axes[0].get_window_extent()
        shown = axes.lines[0].get_xydata()
        assert len(shown) == 1280
        assert not box.count_contains(axes.transData.transform(shown))


def traced_where_largest(tables):
    """The same tables where the full kernel of the largest n is too large for its eigenvalues."""
    given, largest = dict(tables), int(tables["exponents"]["n"].max())
    for name, column, kind in (
        ("exponents", "kernel", "traced"),
        ("speed_limits", "prediction_kernel", "quadrature"),
    ):
        of_largest = tables[name]["n"] == largest
        given[name] = tables[name].assign(
            **{column: tables[name][column].mask(of_largest, kind)},
        )
    of_largest = tables["spectra"]["n"] == largest
    given["spectra"] = tables["spectra"].assign(
        kernel=tables["spectra"]["kernel"].where(~of_largest, "traced")
    )
    return given


def test_the_largest_n_may_have_the_output_traced_kernel_alone(tables):
    given = traced_where_largest(tables)
    figure = draw("residue_projections", given)
    for axes in figure.axes:
        title = axes.get_title(loc="left").replace("\n", " ")
        assert "n = 128" in title and "output-traced kernel" in title
        assert len(axes.lines[0].get_xdata()) == 1280 and len(axes.lines) == 3  # with its fit
    ends = len(draw("path_length_ratio", tables).axes[0].lines)
    assert len(draw("path_length_ratio", given).axes[0].lines) == ends  # with its limit


def test_a_spectrum_that_is_missing_at_the_start_is_laid_to_no_warm_start(tables):
    given = tables | {"spectra": tables["spectra"].isel(spectrum=slice(7, 8))}  # the last warm one
    first, second = draw("residue_projections", given).axes[:2]
    assert [text.get_text() for text in first.texts] == ["nothing to show"]
    assert "not reached" not in "".join(text.get_text() for text in second.texts)


def test_labels_come_from_the_columns_that_vary():
    def labels(settings):
        return [e.label for e in style.ensembles(study(settings, 1)["speed_limits"])]

    assert labels([{"n": 128}, {"n": 64}]) == ["$n = 64$", "$n = 128$"]
    assert labels([{}]) == ["$n = 64$"]
    assert labels(STUDIES["models"]["settings"]) == ["fully connected", "Myrtle-5"]
    assert labels(STUDIES["sizes and widths"]["settings"])[0] == "$n = 64$, width 16"
    assert labels(STUDIES["tolerances"]["settings"]) == [
        "$n = 64$, tolerance 0.001",
        "$n = 64$, tolerance 0.01",
    ]
    scales = [{"output_scale": scale, "depth": depth} for scale, depth in ((10, 2.0), (3, np.nan))]
    assert labels([*scales, {"output_scale": 1, "depth": 2.0}]) == [
        "output scale 1",
        "output scale 3",
        "output scale 10",
    ]
    # one layer has no width: the depth tells networks apart, and never n, which is the same
    depths = [{"depth": 1.0, "width": np.nan}, {"depth": 2.0, "width": 8.0}]
    assert labels(depths) == ["depth 1", "depth 2"]
    assert labels([*depths, {"depth": 2.0, "width": 16.0}]) == ["width 8", "width 16", "depth 1"]


def test_cases_stand_for_the_settings_that_they_decide():
    """Widths that come with an architecture make no axis of widths."""
    models = {"Myrtle-5": ("myrtle5", 32), "fully connected 2": ("fully_connected", 256)}
    settings = [{"case": case, "model": m, "width": w} for case, (m, w) in models.items()]
    table = study(settings, 1)["speed_limits"]
    assert [e.label for e in style.ensembles(table)] == list(models)
    assert style.abscissa(table).column is None


def test_colours_differ_however_many_ensembles():
    for count, sequential in itertools.product((1, 2, 7, 8, 10, 12), (True, False)):
        assert len(set(style.palette(count, sequential=sequential))) == count


def test_up_to_ten_categories_have_the_colours_of_petroff():
    if "petroff10" not in getattr(mpl, "color_sequences", {}):
        pytest.skip("this matplotlib does not have them")
    theirs = [mpl.colors.to_hex(colour) for colour in mpl.color_sequences["petroff10"]]
    assert style.palette(9, sequential=False) == theirs[:9]
    assert style.palette(7, sequential=False) == list(style.OKABE_ITO)
    assert not set(style.palette(9, sequential=True)) & set(theirs)


def test_many_ensembles_have_a_hue_for_each_value_of_one_setting():
    """A hue is its channel order: Blues rise from red to blue, Oranges fall, Greys are level."""
    scales = pd.DataFrame(itertools.product((0.3, 1, 3, 10), ("ntk", "mean_field")))
    colours = style.grouped_palette(scales)
    assert len(set(colours)) == 8
    for place, colour in enumerate(colours):
        red, _, blue = mpl.colors.to_rgb(colour)
        assert blue > red if scales[1][place] == "ntk" else red > blue
    assert style.grouped_palette(pd.DataFrame(itertools.product(range(4), range(5)))) == []
    assert style.grouped_palette(pd.DataFrame(index=range(9))) == []


@pytest.mark.parametrize(("low", "high"), [(1, 1.3), (0.9, 3), (1, 12), (0.1, 1e3), (1e-9, 1e9)])
def test_logarithmic_axes_have_a_few_labels(low, high):
    figure, axes = style.new_figure(1, 1, 3, 3)
    axes[0, 0].set_ylim(low, high)
    style.log_axes(axes[0, 0], "y")
    ticks = axes[0, 0].yaxis.get_major_locator()()
    inside = [tick for tick in ticks if low <= tick <= high]
    assert 2 <= len(inside) <= 8


def test_files_are_identical_when_drawn_twice(tables, tmp_path):
    kinds, drawn = ("png", "pdf"), []
    for part in ("first", "second"):
        paths = [tmp_path / f"{part}.{kind}" for kind in kinds]
        style.save(draw("inefficiency_size", tables), paths, dpi=50)
        drawn.append([path.read_bytes() for path in paths])
        if part == "first":
            time.sleep(1.1)  # PDF dates are in seconds
    assert drawn[0] == drawn[1]
    expected = {f"{part}.{kind}" for part in ("first", "second") for kind in kinds}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == expected


def test_uneven_speed_below_one_is_explained(tables):
    broken = tables["speed_limits"].copy()
    whole = (broken["realisation"] == "ensemble") & (broken["start"] == "warm")
    broken.loc[whole, ["speed_unevenness", "discretisation"]] = [0.9, 0.25]
    figure = draw("inefficiency_factors", tables | {"speed_limits": broken})
    words = [[t.get_text() for t in figure.axes[k].texts] for k in (0, 3)]
    assert not any("below 1" in text for text in words[0])
    assert any("below 1" in text and "25 %" in text for text in words[1])


def test_notes_of_steps_and_of_equal_runs_stand_one_below_the_other():
    """As of one training under several thresholds, far above the stability limit."""
    given = study([{"width": width} for width in (8, 9)])
    limits = given["speed_limits"]
    first = limits["ensemble"] == limits["ensemble"].iloc[0]
    numbers = limits.columns[limits.columns.get_loc("time") :]
    limits.loc[~first, numbers] = limits.loc[first, numbers].to_numpy()
    limits[["speed_unevenness", "discretisation"]] = [0.4, 10.0]
    panel = draw("inefficiency_factors", given, render=True).axes[0]
    notes = {text.get_text(): text.get_window_extent() for text in panel.texts}
    (steps,) = (box for text, box in notes.items() if "up to 11-fold" in text)
    assert not steps.overlaps(notes["black: the same runs"])
    assert notes["black: the same runs"].y0 > panel.get_window_extent().y0


def test_measured_ratios_of_lengths_that_are_missing_are_marked(tables):
    """As where rounding makes the path, beside the prediction."""
    given = tables["speed_limits"].copy()
    names = ["path_excess", "path_excess_low", "path_excess_high"]
    given.loc[given["ensemble"] == given["ensemble"].iloc[0], names] = np.nan
    counts = {}
    for case, limits in (("all", tables["speed_limits"]), ("missing", given)):
        figure = draw("path_length_ratio", tables | {"speed_limits": limits})
        marks = [line.get_marker() == "x" for line in figure.axes[2].lines]
        counts[case] = sum(marks), "no value there" in texts(figure)
    assert counts == {"all": (0, False), "missing": (2, True)}  # cold and warm


@pytest.mark.parametrize("name", ["inefficiency_time", "inefficiency_factors", "speed_limit_time"])
def test_finite_steps_below_the_speed_limit_are_not_called_forbidden(name, tables, drawn):
    """Large learning rates come there: T_SL bounds gradient flow alone."""
    assert any(text.startswith("forbidden") for text in texts(drawn(name)))
    limits = tables["speed_limits"].assign(inefficiency=0.5)
    words = texts(draw(name, tables | {"speed_limits": limits}))
    assert any("not to finite steps" in text for text in words)
    assert not any(text.startswith("forbidden") for text in words)


@pytest.mark.parametrize("name", ["inefficiency_time", "inefficiency_factors"])
def test_curves_of_one_start_are_not_flattened_by_the_axis_of_the_other(name, tables, drawn):
    """Large steps from the cold start come far below 1, where nothing of the warm one is."""
    limits = tables["speed_limits"].copy()
    names = ["inefficiency", "speed_unevenness", "path_excess"]
    limits.loc[limits["start"] == "warm", names] = 1.1
    cold = limits["start"] == "cold"
    limits.loc[cold, "inefficiency"] = np.geomspace(0.001, 20.0, cold.sum())
    heights = {}
    for case, figure in (
        ("alike", drawn(name)),
        ("stretched", draw(name, tables | {"speed_limits": limits})),
    ):
        cold, warm = figure.axes[0].get_ylim(), figure.axes[-1].get_ylim()
        heights[case] = [np.log10(high / low) for low, high in (cold, warm)]
        assert figure.axes[-2].get_ylim() == (warm if "factors" in name else cold)
    assert heights["alike"][0] == heights["alike"][1]
    assert heights["stretched"][0] > 3 * heights["stretched"][1]


@pytest.mark.parametrize("wide", [1, 1000])
def test_the_interval_of_the_discretisation_is_drawn_of_its_size(wide, tables):
    """Where the signed interval holds 0 from there, on a logarithmic axis from its foot."""
    rows = tables["outcomes"]
    whole = rows["realisation"].astype(str) == "ensemble"
    names = ["discretisation_low", "discretisation", "discretisation_high"]
    rows["discretisation"] = 0.2
    rows.loc[rows["n"] == rows["n"].max(), "discretisation"] = 0.2 * wide
    bars = {}
    for case, ends in {"one sign": [-0.3, -0.2, -0.1], "both": [-0.1, 0.2, 0.5]}.items():
        table = rows.copy()
        table.loc[whole & (rows["n"] == rows["n"].min()), names] = ends
        panel = draw("outcomes", tables | {"outcomes": table}, render=True).axes[5]
        assert panel.get_yscale() == ("log" if wide > 1 else "linear")
        bars[case] = panel.containers[0].lines[2][0].get_segments()[0][:, 1]
        assert 0 < panel.get_ylim()[0] < 0.2 or wide == 1
    assert bars["one sign"] == pytest.approx([0.1, 0.3])
    assert bars["both"] == pytest.approx([0.0, 0.5])


@pytest.mark.parametrize("name", ["inefficiency_time", "inefficiency_factors", "outcomes"])
def test_momentum_in_motion_breaks_no_speed_limit_and_is_not_predicted(name, tables, tmp_path):
    """T_SL leaves out the kinetic energy that it has at the warm start."""
    limits = tables["speed_limits"].assign(dynamics="nesterov")
    low = limits["start"] == "warm"
    names = ["inefficiency", "speed_unevenness"]
    limits.loc[low, names] = 0.1
    limits.loc[low & (limits["realisation"].astype(str) == "ensemble"), "discretisation"] = 0.01
    given = {"speed_limits": limits, "outcomes": tables["outcomes"].assign(dynamics="nesterov")}
    for table, rows in given.items():
        write_table(rows, tmp_path / f"{table}.csv")
        given[table] = read(table, str(tmp_path / f"{table}.csv"))
    for rows in given.values():
        warm = rows["start"] == "warm"
        assert rows.loc[warm, "inefficiency_predicted"].isna().all()
        assert rows.loc[~warm, "inefficiency_predicted"].notna().any()
    words = texts(draw(name, tables | given))
    if name != "outcomes":
        assert any("forbidden\nto gradient flow,\nnot to momentum in motion" in w for w in words)
        assert not any("finite steps" in text for text in words)
    told = sum("below 1 by kinetic energy" in text for text in words)
    assert told == (name == "inefficiency_factors")


def ticks_of(panel):
    return [label.get_text() for label in panel.get_xticklabels()]


@pytest.mark.parametrize(
    ("labels", "numbered"),
    [
        (["momentum", "Adam", "flow"], False),
        ([f"a network of {k} layers with some more words" for k in range(4)], True),
        (["flow", "the one label that goes on and on, with words, " * 3], True),
    ],
)
def test_long_labels_of_cases_are_numbered_and_folded_in_the_legend(labels, numbered):
    given = study([{"case": label, "width": 8 + k} for k, label in enumerate(labels)])
    table = given["outcomes"]
    front = ["ensemble", "case", *BASE, "start"]
    table = table[[*front, *table.columns.difference(front)]]
    figure = importlib.import_module("plots.outcomes").draw(table)
    FigureCanvasAgg(figure).draw()
    found = ticks_of(figure.axes[0])
    assert (found == [str(k + 1) for k in range(len(labels))]) is numbered
    words = [t.get_text().replace("\n", " ").strip() for t in figure.legends[0].get_texts()]
    assert (words == [label.strip() for label in labels]) is numbered
    width = figure.get_figwidth() * figure.dpi
    boxes = [legend.get_window_extent() for legend in figure.legends]
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)


def test_a_single_ensemble_stands_above_its_size():
    figure = draw("outcomes", study(SIZES[:1]))
    for panel in figure.axes:
        assert ticks_of(panel) == ["$n = 16$"] and panel.get_xlim() == (-0.6, 0.6)


def at_temperatures(*temperatures):
    """Tables of Langevin dynamics, in the order of columns of the rule collect."""
    given = study([{"dynamics": "langevin", "temperature": t} for t in temperatures], 2)
    front = ["ensemble", *BASE, "temperature", "start"]
    for name in ("speed_limits", "outcomes"):
        given[name] = given[name][[*front, *given[name].columns.difference(front)]]
    return given


def test_series_of_any_setting_are_told_apart_beside_the_size():
    grid = [{"n": n, "label_noise": noise} for n in (16, 32) for noise in (0.0, 0.5)]
    given = study(grid)
    table = given["speed_limits"]
    front = ["ensemble", *BASE, "label_noise"]
    table = table[[*front, *(name for name in table if name not in front)]]
    against = style.abscissa(table)
    assert list(against.series) == ["label noise 0", "label noise 0.5"]
    figure = draw("inefficiency_size", given | {"speed_limits": table})
    assert {"label noise 0", "label noise 0.5"} <= set(texts(figure))
    assert list(style.abscissa(study([{"n": 16}, {"n": 32}])["speed_limits"]).series) == [""]


@pytest.mark.parametrize("below", [[0.0], [0.1], [0.0, 0.1]])
def test_a_lower_bound_below_one_is_laid_to_no_finite_steps(below):
    limits = at_temperatures(0.0, 0.1)["speed_limits"]
    under = limits["temperature"].isin(below)
    limits = limits.assign(inefficiency=limits["inefficiency"].mask(under, 0.5))
    said = style.forbidden(limits)
    assert ("finite steps" in said) is (0.0 in below)
    assert ("lower bound, at a temperature" in said) is (0.1 in below)


def test_the_discretisation_at_a_temperature_is_named_by_the_heat(tables, drawn):
    label = drawn("outcomes").axes[5].get_ylabel()
    assert "action" in label and "heat" not in label
    both = draw("outcomes", tables | at_temperatures(0.0, 0.1)).axes[5].get_ylabel()
    assert label in both and "at $\\beta^{-1} > 0$:\n|heat / loss drop $-$ 1|" in both
    label = draw("outcomes", tables | at_temperatures(0.1, 0.2)).axes[5].get_ylabel()
    assert "heat" in label and "action" not in label


BOUND = "at a temperature: {} bounds"


@pytest.mark.parametrize("name", [*BOUNDED, "outcomes"])
def test_bounds_at_a_temperature_are_called_so(name, tables):
    which = BOUND.format("upper" if name == "speed_limit_time" else "lower")
    for temperatures, told in (((0.0,), False), ((0.0, 0.1), True)):
        words = texts(draw(name, tables | at_temperatures(*temperatures)))
        assert (which in words) == told
        assert not any(text.startswith("at a temp") and text != which for text in words)


def test_bounds_at_a_temperature_are_no_points_of_a_correlation(tables):
    ends = at_temperatures(0.0, 0.1)["outcomes"]
    panels_of = draw("generalisation", tables | {"outcomes": ends}).axes
    alone = draw("generalisation", tables | {"outcomes": ends[ends["temperature"] == 0]}).axes
    for panel, other in zip(panels_of, alone, strict=True):
        drawn, exact = (sum(len(line.get_xdata()) for line in of.lines) for of in (panel, other))
        assert drawn == exact > 0


def test_ensembles_with_a_prediction_alone_keep_their_colour_in_the_legend():
    """Beyond the stability limit the loss rises from the first step on, and T/T_SL is missing."""
    given = study([{"dynamics": name} for name in ("nesterov", "sgd")], 1)
    table = given["speed_limits"]
    measured = [c for c in table if c.startswith(QUANTITIES) and "predicted" not in c]
    lacking = table[measured].mask(table["dynamics"] == "sgd")
    for name in ("inefficiency_time", "inefficiency_factors"):
        words = texts(draw(name, given | {"speed_limits": table.assign(**lacking)}))
        assert "minibatches" in words


def test_a_legend_without_linearised_networks_names_none(tables):
    """Networks of several layers have a prediction at temperature 0 only."""
    limits = at_temperatures(0.0, 0.1)["speed_limits"]
    for table, there in ((limits, True), (limits.assign(inefficiency_predicted=np.nan), False)):
        given = {"speed_limits": table.assign(loss_drop=1.0)}
        words = texts(draw("speed_limit_temperature", tables | given))
        assert ("linearised network, exact" in words) == there


@pytest.mark.parametrize("name", ["outcomes", "first_transient"])
def test_labels_of_axes_are_no_longer_than_their_panels(tables, name):
    """Inclined labels of ticks and two series leave the panels the least height."""
    ends = at_temperatures(0.0, 0.001, 0.01)["outcomes"]
    ends = pd.concat([ends, ends.assign(width=99, ensemble=ends["ensemble"] + "-width99")])
    figure = draw(name, tables | {"outcomes": ends}, render=True)
    for panel in figure.axes:
        assert panel.yaxis.label.get_window_extent().height <= panel.get_window_extent().height
    (last,) = {label.get_rotation() for label in figure.axes[-1].get_xticklabels()}
    assert last == 35 and len(figure.legends) == 2


def test_optimisers_have_their_names_and_adam_no_training_time(tables, drawn):
    given = study([{"dynamics": name} for name in ("adam", "nesterov", "sgd")], 1)
    words = texts(draw("training_curves", given))
    assert {"Adam", "Nesterov", "minibatches"} <= set(words)
    assert any("no training time" in text for text in words)
    assert not any("no training time" in text for text in texts(drawn("training_curves")))
    assert style.tick_text(2000) == "2000" and style.tick_text(2e4) == r"$2\times10^{4}$"


@pytest.mark.parametrize("name", ["inefficiency_time", "inefficiency_factors", "speed_limit_time"])
def test_legends_name_no_ensemble_without_a_curve(name):
    """Adam has a colour in every figure, but no T/T_SL."""
    given = study([{"dynamics": name} for name in ("adam", "nesterov", "sgd")], 1)
    table = given["speed_limits"]
    ratios = [column for column in table if column.startswith(("inefficiency", "speed_limit_time"))]
    lacking = table[["time_lambda_1", *ratios]].mask(table["dynamics"] == "adam")
    words = texts(draw(name, given | {"speed_limits": table.assign(**lacking)}))
    assert "Adam" not in words and {"Nesterov", "minibatches"} <= set(words)
    assert "Adam" in texts(draw(name, given))
    none = table[table["dynamics"] == "adam"].assign(**lacking)
    assert f"$n = {BASE['n']}$" in texts(draw(name, given | {"speed_limits": none}))


def test_learning_rates_have_their_unit():
    rows = pd.DataFrame({"ensemble": ["runs/rate0.1of_limit-a"], "learning_rate": [0.1]})
    unit = importlib.import_module("plots.outcomes").unit
    assert unit(rows, "learning_rate") == r" / $(2/\lambda_1)$" and unit(rows, "n") == ""
    assert unit(rows.assign(ensemble="runs/rate0.1-a"), "learning_rate") == " (time)"


@pytest.mark.parametrize("label", ["$x_$ <b>", "costs $5 or $6", "a_b", "$\\beta^{-1}$ = 2", "$"])
def test_labels_are_drawn_as_they_are_written(label):
    figure = Figure()
    axis = figure.subplots()
    axis.set_title(naming.describe("case", label))
    figure.savefig(io.BytesIO())
    shown = axis.get_title().replace(r"\$", "$")
    assert shown == label


def test_words_of_paths_stand_apart_from_their_numbers():
    paths = [f"runs/digits/n32/fully_connected-width8-depth{depth}-ntk" for depth in (2, 5)]
    assert naming.path_differences(paths) == ["depth 2", "depth 5"]
    small = [f"net/gradient_flow-tolerance{value}-lambda1_T0.1to9" for value in ("1e-05", "0.001")]
    assert naming.path_differences(small) == ["tolerance 1e-05", "tolerance 0.001"]
    hot = [f"langevin-temperature{value}" for value in ("1e-07", "2e-07")]
    assert naming.path_differences(hot) == ["temperature 1e-07", "temperature 2e-07"]


def test_series_are_shown_in_the_order_of_the_ensembles():
    """Whatever that of the table's rows: one colour for a label in all figures of a study."""
    table = pd.DataFrame({"ensemble": ["a/ntk", "a/mean_field"], "n": 8})
    table = table.assign(parameterisation=["ntk", "mean_field"], start="cold", realisation="0")
    for rows in (table, table[::-1]):
        series = naming.in_order(rows.groupby("parameterisation", sort=False), rows)
        assert [label for label, _ in series] == ["mean_field", "ntk"]
        assert [e.label for e in style.ensembles(rows)] == ["mean field", "NTK parameterisation"]


@pytest.mark.parametrize(
    ("labels", "crowded"),
    [(["a"] * 9, False), (["a"] * 10, True), (["a\nb"] * 5, True), (["a\nb\nc\nd"], True)],
)
def test_labels_that_would_touch_have_numbers(labels, crowded):
    assert naming.crowded(labels) == crowded


@pytest.mark.parametrize("temperatures", [(0.0, 0.1), (0.0,)])
def test_networks_at_a_temperature_are_told_apart_by_whatever_differs(temperatures):
    values = ("speed_limit_time", "inefficiency")
    ends = {f"{name}{end}": 1.0 for name in values for end in ("", "_low", "_high", "_linearised")}
    rows = itertools.product((2, 4), temperatures)
    table = pd.DataFrame(rows, columns=["depth", "temperature"]).assign(**ends, time=1.0)
    table = table.assign(realisation="ensemble", loss_drop=0.5, start_loss=1.0, confidence=0.95)
    table = table.assign(
        heat_error=0.0, loss_drop_linearised=0.5, dataset="digits", n=8, model="fully_connected"
    )
    table = table.assign(width=16)[[c for c in (*table, "width") if c != "depth"]]
    table["depth"] = [depth for depth, _ in itertools.product((2, 4), temperatures)]
    figure = theory.langevin_temperature(table)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == [f"fully connected, width 16, $n = 8$, depth {depth}" for depth in (2, 4)]
    lines = [line for line in figure.axes[2].lines if line.get_linestyle() == "-"]
    assert [len(line.get_xdata()) for line in lines[:2]] == [len(temperatures)] * 2


def test_a_network_that_diverged_at_a_temperature_is_marked():
    values = ("speed_limit_time", "inefficiency")
    ends = {f"{name}{end}": 2.0 for name in values for end in ("", "_low", "_high", "_linearised")}
    table = pd.DataFrame({"temperature": [0.0, 0.1, 1.0]}).assign(**ends, time=1.0, loss_drop=0.5)
    table = table.assign(realisation="ensemble", start_loss=1.0, loss_drop_linearised=0.5)
    table = table.assign(heat_error=[0.0, 0.09, 0.02])
    table = table.assign(confidence=0.95, dataset="digits", n=8, model="myrtle5", width=2)
    whole = theory.langevin_temperature(table)
    table.loc[2, [name for name in ends if "linearised" not in name] + ["loss_drop"]] = np.nan
    figure = theory.langevin_temperature(table)
    for words, expected in ((whole, False), (figure, True)):
        told = [text.get_text() for text in words.legends[0].get_texts()]
        assert ("no value there" in told) == expected
    for axis in figure.axes:
        crosses = [line for line in axis.lines if line.get_marker() == "x"]
        assert [float(line.get_xdata()[0]) for line in crosses] == [1.0]


def test_points_whose_heat_is_far_off_the_loss_drop_are_open():
    values = ("speed_limit_time", "inefficiency")
    ends = {f"{name}{end}": 2.0 for name in values for end in ("", "_low", "_high", "_linearised")}
    table = pd.DataFrame({"temperature": [0.0, 0.1, 1.0]}).assign(**ends, time=1.0, loss_drop=0.5)
    table = table.assign(realisation="ensemble", start_loss=1.0, loss_drop_linearised=0.5)
    table = table.assign(heat_error=[0.0, 0.09, 0.11], confidence=0.95, dataset="digits", n=8)
    figure = theory.langevin_temperature(table.assign(model="myrtle5", width=2))
    told = "heat off the loss drop by over 10 %"
    assert told in [text.get_text() for text in figure.legends[0].get_texts()]
    for axis in figure.axes:
        points = [line for line in axis.lines if line.get_marker() == "o"]
        faces = {x: line.get_markerfacecolor() for line in points for x in line.get_xdata()}
        assert {x for x, face in faces.items() if face == "white"} == {1.0} and len(faces) == 3
    table.loc[2, ["inefficiency", "speed_limit_time", "loss_drop"]] = np.nan  # a start diverged
    figure = theory.langevin_temperature(table.assign(model="myrtle5", width=2))
    assert told not in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("largest", [3.0, 1344.0])
def test_curves_of_other_starts_stay_inside_their_panel(largest):
    starts = pd.DataFrame({"start": "zero start", "temperature": 0.1, "time": [1.0, 10.0]})
    starts = starts.assign(inefficiency=[1.0, largest])
    noise = pd.DataFrame({"time": 1.0, "temperature": [0.1, 1.0], "speed_limit_time": 0.5})
    limit = pd.DataFrame({"temperature": 0.1, "time": [1.0, 2.0], "free_energy_drop": 1.0})
    figure = theory.linear_regression_limits(
        starts, noise.assign(loss_ratio=0.5), limit.assign(equation_6=1.0)
    )
    assert figure.axes[0].get_ylim()[1] >= max(2 * largest, 100)


def test_theory_figures_show_and_tell_apart_more_series_than_there_are_colours():
    names = [f"network {k}" for k in range(9)]
    spectrum = pd.DataFrame({"name": np.repeat(names, 2), "rank": [1, 2] * 9, "eigenvalue": 0.5})
    predicted = spectrum.assign(time=spectrum["rank"], inefficiency=1.5, path_excess=1.2)
    lines = theory.spectra_measured(spectrum, predicted).axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9
    ends = {f"{name}{end}": 0.5 for name in ("alpha", "delta") for end in ("", "_low", "_high")}
    grid = pd.DataFrame(itertools.product((0.5, 2.0), (0.0, 1.5)), columns=["alpha", "delta"])
    grid = grid.assign(inefficiency=2.0, growth_exponent=grid["delta"])
    measured = pd.DataFrame({"label": names}).assign(**ends, confidence=0.95)
    assert theory.phase_diagram(grid, measured[:0]).legends == []  # of samples too few for a fit
    figure = theory.phase_diagram(grid, measured)
    shown = figure.axes[0].get_legend_handles_labels()
    assert shown[1] == names and len({bars.lines[0].get_color() for bars in shown[0]}) == 9
    assert "hollow" not in figure.legends[0].get_title().get_text()
    far = theory.phase_diagram(grid, measured.assign(alpha=1.5, delta=[9.0] + [0.5] * 8))
    hollow = [x for x in far.axes[0].lines if x.get_markerfacecolor() == "none"]
    assert [x.get_xydata().tolist() for x in hollow] == [[[1.5, 1.5]]]
    assert "hollow: beyond the edge" in far.legends[0].get_title().get_text()
    routes = [theory.LIMIT, theory.SIMULATION, *(f"sum, d = {d}" for d in range(5))]
    values = ["inefficiency", "speed_limit_time"]
    columns = [f"{name}{end}" for name in values for end in ("", "_low", "_high")]
    rows = itertools.product([0.5], range(9), routes, [1.0, 2.0])
    table = pd.DataFrame(rows, columns=["ratio", "temperature", "route", "time"])
    figure = theory.linear_regression(table.assign(confidence=0.9, **dict.fromkeys(columns, 1.0)))
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(routes) - {theory.SIMULATION} <= set(words)
    assert sum(r"\beta^{-1}" in text for text in words) == 9


@pytest.mark.parametrize(
    ("side", "times"), [("left", [20, 100]), ("right", [0.2, 1]), ("right", [])]
)
def test_the_label_of_the_forbidden_region_stands_where_fewer_curves_are(side, times):
    style.use_style()
    figure, ((panel,),) = style.new_figure(1, 1, style.SINGLE_COLUMN, 3.0)
    panel.plot(np.geomspace(0.1, 1, 20), np.full(20, 0.9))  # close to 1, where no label is
    panel.plot([1, 1000], [1.5, 30])
    panel.plot(times, [0.02] * len(times))
    style.finish_bounded([panel], {panel: "forbidden to gradient flow"})
    FigureCanvasAgg(figure).draw()
    assert panel.texts[0].get_horizontalalignment() == side
    extent = panel.texts[0].get_window_extent()
    across = panel.transData.transform([(time, 0.02) for time in times] or [(1e9, 1)])[:, 0]
    assert not np.any((extent.x0 < across) & (across < extent.x1))


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("height", [1.7, 3.0])
def test_the_label_of_the_forbidden_region_lies_in_it(lines, height):
    style.use_style()
    figure, ((panel,),) = style.new_figure(1, 1, style.SINGLE_COLUMN, height)
    panel.plot([0.1, 1000], [0.95, 30])
    panel.set(ylabel="y", xlabel="x", title="t")
    style.finish_bounded([panel], {panel: "\n".join(["forbidden"] * lines)})
    FigureCanvasAgg(figure).draw()
    extent = panel.texts[0].get_window_extent()
    bottom, top = panel.transData.transform([(1, panel.get_ylim()[0]), (1, 1.0)])[:, 1]
    assert bottom < extent.y0 < extent.y1 < top
