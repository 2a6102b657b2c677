"""Squared residue projections on the NTK eigenvectors at the start and the warm start, with fits.

Shown is the ensemble with the largest n; the inset holds the spectrum of the same kernel.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pipeline.tables import fitted_kernel, of_kernel
from plots import naming, results, style
from speedlimits.exponents import log_bins

MOMENTS = {"start": "start", "warm": "warm start"}
BINS_PER_DECADE = 8  # own choice: enough to see bends, few enough to average in every bin
INSET = (0.54, 0.64, 0.43, 0.33)  # left, bottom, width, height in units of the panel
NO_FIT = "no fit: too few ranks"
COLOURS = {"start": style.OKABE_ITO[0], "warm": style.OKABE_ITO[1]}


def draw(spectra: xr.Dataset, exponents: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        spectra: eigenvalues and squared residue projections, means over realisations.
        exponents: fitted exponents.

    Returns:
        A panel per moment with single projections, averages over bins of ranks and the fit.
    """
    figure, axes = style.new_figure(1, 2, style.DOUBLE_COLUMN, 3.8, sharey=True)
    shown = largest(spectra, exponents)
    fits = 0
    of_shown = spectra["kernel"].values[spectra["ensemble"].values == shown.path]
    kernel = fitted_kernel(of_shown)  # that of smaller n may be another
    for panel, letter, (moment, words) in zip(axes[0], "ab", MOMENTS.items(), strict=True):
        title = f"{words}, {shown.label}{of_kernel(kernel)}"
        style.panel_title(panel, letter, naming.folded(title, 45))
        panel.set_xlabel("Rank $k$ of the NTK eigenvector")
        found = spectrum(spectra, shown.path, moment, kernel)
        if found is None:
            there = moment in spectra["moment"].values[spectra["ensemble"].values == shown.path]
            reached = there or moment == "start"
            style.say(panel, style.NOTHING if reached else style.NEVER_WARM)
            continue
        fit = results.fitted(exponents, shown.path, moment, kernel)
        fits += fit is not None
        plot_projections(panel, found[1], fit, moment)
        inset = panel.inset_axes(INSET, zorder=5)
        plot_spectrum(inset, found[0], fit, moment)
    axes[0, 0].set_ylabel(r"Squared residue projection $\Delta_k^2$")
    set_limits(axes[0])
    legend(figure, fits > 0)
    return figure


def largest(spectra: xr.Dataset, exponents: pd.DataFrame) -> style.Ensemble:
    """Return the ensemble with the largest n, labelled by n and by what else varies.

    Of several one with a warm start, if there is one.
    """
    there = exponents[exponents["ensemble"].isin(spectra["ensemble"].values)]
    labels = {ensemble.path: ensemble for ensemble in style.ensembles(there)}
    rows = naming.ensemble_table(there)
    warm = spectra["ensemble"].values[spectra["moment"].values == "warm"]
    rows = rows.assign(warm=rows["ensemble"].isin(warm))
    path = rows.sort_values(["n", "warm"], kind="stable")["ensemble"].iloc[-1]
    return labels[path]


def spectrum(
    spectra: xr.Dataset, ensemble: str, moment: str, kernel: str
) -> tuple[NDArray, NDArray] | None:
    """Return eigenvalues and squared projections of one kernel, or None if it is not there."""
    keys = {"ensemble": ensemble, "moment": moment, "kernel": kernel}
    found = np.flatnonzero(np.logical_and.reduce([spectra[k].values == v for k, v in keys.items()]))
    if len(found) == 0:
        return None
    values = spectra.isel(spectrum=int(found[0]))
    pair = (values["eigenvalues"].values, values["residue_projections"].values)
    valid = np.isfinite(pair[0])
    return (pair[0][valid], pair[1][valid]) if valid.any() else None


def plot_projections(axes: Axes, projections: NDArray, fit: pd.Series | None, moment: str) -> None:
    """Draw single projections, averages over bins of ranks and the fitted law in its window."""
    ranks = np.arange(1, len(projections) + 1)
    bins = log_bins(projections, 1, len(projections), BINS_PER_DECADE)
    dots = {"linestyle": "none", "marker": ".", "markersize": 2, "rasterized": True}
    axes.plot(ranks, projections, color="0.72", **dots)
    means = {"linestyle": "none", "marker": style.MARKERS["cold"], "zorder": 3}
    x, y = np.exp(bins.log_rank), bins.averages[0]
    axes.plot(x, y, color=COLOURS[moment], **means)
    text = NO_FIT
    if fit is not None:
        plot_law(axes, fit, "delta", 1.0)
        text = r"$\Delta_k^2 \sim k^{-\delta}$, " + exponent_text(fit, "delta")
    axes.text(0.04, 0.04, text, transform=axes.transAxes)


def plot_spectrum(inset: Axes, eigenvalues: NDArray, fit: pd.Series | None, moment: str) -> None:
    """Draw the eigenvalues over the largest one, and the fitted law in its window."""
    ranks = np.arange(1, len(eigenvalues) + 1)
    shown = eigenvalues > 0
    dots = {"linestyle": "none", "marker": ".", "markersize": 2.5, "rasterized": True}
    scaled = eigenvalues / eigenvalues[0]
    inset.plot(ranks[shown], scaled[shown], color=COLOURS[moment], **dots)
    if fit is not None:
        plot_law(inset, fit, "alpha", 1.0 / eigenvalues[0])
        text = exponent_text(fit, "alpha", line="\n")
        inset.text(0.06, 0.08, text, transform=inset.transAxes, fontsize=6)
    style.log_axes(inset, "xy")
    inset.tick_params(labelsize=6, pad=1.5)
    inset.set_ylabel(r"$\lambda_k/\lambda_1$", fontsize=7, labelpad=0)


def plot_law(axes: Axes, fit: pd.Series, name: str, factor: float) -> None:
    """Draw a fitted power law over its window of ranks."""
    window = np.array([fit["first_rank"], fit["last_rank"]], float)
    law = factor * fit[f"{name}_amplitude"] * window ** -fit[name]
    axes.plot(window, law, color="black", linewidth=1.2, zorder=4)


def exponent_text(fit: pd.Series, name: str, line: str = " ") -> str:
    """Return an exponent with its interval, for example ``alpha = 1.70 [1.60, 1.79]``."""
    text = rf"$\{name} = {fit[name]:.2f}$"
    if np.isfinite(fit[f"{name}_low"]):
        ends = f"[{fit[f'{name}_low']:.2f}, {fit[f'{name}_high']:.2f}]"
        text += line + ends.replace("-", "\N{MINUS SIGN}")
    return text


def set_limits(panels: Sequence[Axes]) -> None:
    """Set logarithmic axes on which no point lies below an inset, nor on the text at the bottom."""
    filled = [panel for panel in panels if panel.has_data()]
    if not filled:
        return
    ranks = np.concatenate([panel.lines[0].get_xdata() for panel in filled])
    values = np.concatenate([panel.lines[0].get_ydata() for panel in filled])
    averages = np.concatenate([panel.lines[1].get_ydata() for panel in filled])
    low = np.log10(min(np.quantile(values[values > 0], 0.002), averages[averages > 0].min()))
    under = ranks >= ranks.max() ** (INSET[0] - 0.12)
    heights = {0.95: values.max(), INSET[1] - 0.08: values[under].max()}
    floor = 0.11  # of the panel's height, for the text
    span = max((np.log10(top) - low) / (at - floor) for at, top in heights.items())
    panels[0].set_yscale("log")
    panels[0].set_ylim(10 ** (low - floor * span), 10 ** (low + (1 - floor) * span))
    for panel in filled:
        panel.set_xscale("log")
        panel.set_xlim(0.7, 1.5 * ranks.max())
        style.log_axes(panel, "xy")


def legend(figure: Figure, fitted: bool) -> None:
    """Say below the panels what points are, and lines where there are some."""
    plain = {"linestyle": "none", "color": "0.72", "marker": "."}
    handles = [
        Line2D([], [], label="single eigenvectors, mean over realisations", **plain),
        Line2D(
            [], [], label="averages over bins of ranks", **plain | {"color": "0.2", "marker": "o"}
        ),
        Line2D([], [], label="fitted power law in its window", color="black", linewidth=1.2),
    ]
    shown = handles if fitted else handles[:-1]
    figure.legend(handles=shown, loc="outside lower center", ncols=3)
