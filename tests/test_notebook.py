"""The notebook of examples/: valid, without stored outputs, and its cells run in order."""

import json

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

PATH = ROOT / "examples/speed_limit.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def run(notebook, folder, monkeypatch):
    """Run the code cells in a folder and return their names and the figures they showed."""
    monkeypatch.chdir(folder)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    names = {"__name__": "__main__"}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"cell {number}", "exec"), names)
    return names, shown


def test_notebook_is_valid_and_stores_no_outputs(notebook):
    nbformat.validate(notebook, relax_add_props=False)
    assert (notebook.nbformat, PATH.stat().st_size < 20_000) == (4, True)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert len(json.loads(PATH.read_text())["cells"]) == len(notebook.cells)


def test_measuring_takes_five_lines(notebook):
    cell = next(c for c in notebook.cells if "speedlimits.measure(" in c.source)
    assert len(cell.source.splitlines()) == 5


def test_cells_measure_a_training_and_say_how_to_get_results(
    notebook, tmp_path, monkeypatch, capsys
):
    names, shown = run(notebook, tmp_path, monkeypatch)
    found = names["found"]
    assert (found.inefficiency >= 0.98).all()  # finite steps: step x lambda_1 / 2 below 1
    # The width is 64 and the training short: the NTK at the start says it within 20 %.
    np.testing.assert_allclose(found.inefficiency, found.inefficiency_predicted, rtol=0.2)
    (axes,) = shown[0].axes
    drawn = [line.get_ydata() for line in axes.lines]
    assert any(np.array_equal(y, found.inefficiency) for y in drawn)
    assert any(np.array_equal(y, found.inefficiency_predicted) for y in drawn)
    assert "make demo" in capsys.readouterr().out and len(shown) == 1


@pytest.mark.workflow
def test_cells_draw_the_results_of_the_workflow(notebook, reported, monkeypatch):
    _, shown = run(notebook, reported, monkeypatch)
    limits = pd.read_csv(reported / "results/studies/dataset_size/speed_limits.csv")
    sizes = limits[limits.realisation == "ensemble"].groupby("start")["n"].unique()
    assert set(sizes.index) == {"cold", "warm"}  # the miniature reaches a warm start with one n
    for axes, start in zip(shown[1].axes, ("cold", "warm"), strict=True):
        assert axes.get_title() == f"{start} start"
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == [f"n = {n}" for n in sorted(sizes[start])]
        assert len(axes.lines) == 2 * len(labels) + 1  # measured and predicted, and the limit
