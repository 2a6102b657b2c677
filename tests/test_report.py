"""The report and the interactive page, opened from the disk in a real browser without a network."""

import html
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import benchmark_summary
import interactive
import jinja2
import pandas as pd
import pytest
import yaml
from checkouts import planned, snakemake
from conftest import ROOT
from docutils.core import publish_parts
from provenance import from_logs

from pipeline.log import logged
from pipeline.pages import from_markdown, of_study, study_label, varied_settings
from pipeline.pages import page as template
from pipeline.runs import labelled_combinations
from pipeline.settings import FIGURES, THEORY_FIGURES
from pipeline.stores import write_table
from plots import results
from sentences.phrases import words
from sentences.reproduction import (
    Measured,
    Row,
    at_a_temperature,
    at_end,
    bound_row,
    configuration,
    falling,
    flat,
    fragment,
    in_range,
    in_words,
    only_size_varies,
    residue_spread,
    rows_of_study,
    slope,
    tidy,
    without_warm_start,
)

CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
needs_runs = pytest.mark.workflow


@pytest.fixture(scope="session")
def browser():
    """A browser of this machine, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("SPEEDLIMITS_BROWSER")
    program = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no browser: install chromium (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page without a network that remembers what went wrong."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    opened = context.new_page()
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on(
        "console",
        lambda said: opened.problems.append(said.text) if said.type == "error" else None,
    )
    opened.on("requestfailed", lambda request: opened.problems.append(request.url[:200]))
    yield opened
    context.close()


@needs_runs
def test_report_opens_offline_with_the_comparison_first(reported, page):
    page.goto((reported / "report.html").as_uri())
    page.wait_for_selector("text=Reproduction of the paper")
    tables = page.locator("table.docutils")
    assert "Reproduction of the paper" in tables.first.inner_text()
    page.wait_for_timeout(500)
    assert page.locator("h1").first.bounding_box()["y"] >= 0  # the top can be reached
    text = page.locator("body").inner_text()
    assert "What the jobs cost" in text and "What the results were made from" in text
    nodes = page.evaluate("() => rulegraph_spec.data[0].values.map((node) => node.rule)")
    assert {"train", "ntk_start", "collect", "theory_figure"} <= set(nodes)
    assert page.locator("canvas").first.bounding_box()["height"] > 300  # the graph is drawn
    assert page.problems == []


@needs_runs
def test_every_figure_of_the_report_shows_with_a_caption_of_this_run(reported, page):
    page.goto((reported / "report.html").as_uri())
    results = page.evaluate("() => results")
    shown = [item for path, item in results.items() if path.endswith(".png")]
    assert len(shown) >= len(FIGURES)
    for item in shown:
        width = page.evaluate(
            """async (source) => {
                const image = new Image();
                image.src = source;
                await image.decode();
                return image.naturalWidth;
            }""",
            item["data_uri"],
        )
        assert width > 100, item["name"]
        if set(item["labels"]) - {"figure"}:  # figures of the theory have no study
            assert {"n", "width", "model"} <= set(item["labels"])
            assert "varied: n = 8, 16" in item["caption"] and "2 realisations" in item["caption"]
            ranges = item["labels"]["figure"] == "training curves"
            assert ("100 resamples" in item["caption"]) is not ranges
    assert page.problems == []


def test_sentences_become_a_page_word_by_word(page):
    page.set_content(from_markdown("# A & b\n\nIf p < 0.05 <b>:\n\n- |x|_1 * 2\n- `y`: 1 - 2\n"))
    assert page.title() == "A & b" == page.locator("h1").inner_text()
    assert page.locator("p").all_inner_texts() == ["If p < 0.05 <b>:"]
    assert page.locator("ul > li").all_inner_texts() == ["|x|_1 * 2", "`y`: 1 - 2"]


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("fc_512, depth 3", "fc_512, depth 3"),
        ("_fast_ & *slow* <b>", r"\_fast\_ \& \*slow\* \<b\>"),
        ("[a](b) `c` \\d", r"\[a\](b) \`c\` \\d"),
        ("# 1", r"\# 1"),
        ("1. first - second", r"1\. first - second"),
        ("12) b", r"12\) b"),
        ("__init__ _", r"\_\_init\_\_ \_"),
        ("AT&amp;T at $5", r"AT\&amp;T at \$5"),
        (r"$\{\beta_1\}$ or \_x\\", r"$\{\beta_1\}$ or \\\_x\\\\"),
    ],
)
def test_the_label_of_a_case_is_read_as_it_was_written(page, label, written):
    assert words(label, "case") == written
    page.set_content(from_markdown(f"# A\n\n- {written}: 1\n"))
    assert page.locator("li").inner_text() == f"{label}: 1"


@needs_runs
def test_the_report_shows_what_a_study_found(reported, page):
    page.goto((reported / "report.html").as_uri())
    for name in ("Study dataset_size", "Findings"):
        page.get_by_text(name, exact=True).click()
    row = page.locator("tbody tr").filter(has_text="findings")
    assert row.locator("td").all_inner_texts()[1:4] == ["8, 16", "myrtle5", "4"]
    row.locator("a").first.click()
    text = page.frame_locator("iframe").locator("body").inner_text()
    told = (reported / "results/studies/dataset_size/findings.md").read_text(encoding="utf-8")
    assert text.startswith("What the study dataset size found")
    for line in filter(None, told.splitlines()):
        assert line.removeprefix("# ").removeprefix("- ") in text
    (item,) = page.evaluate(
        "() => Object.values(results).filter((item) => item.labels.page === 'findings')"
    )
    assert "in sentences written from its tables (2 realisations" in item["caption"]
    assert page.problems == []


def of_size(n, starts):
    """An ensemble as the interactive page is given it."""
    return {"label": f"n = {n}", "colour": "#000", "settings": {"n": n}, "starts": starts}


def test_interactive_page_says_why_it_is_empty_and_writes_large_numbers(page):
    """Adam has no T/T_SL from a warm start that is reached all the same."""
    curve = {"time_lambda_1": [1.0, 2.0], "inefficiency": [2.0, 3.0], "runs": []}
    empty = {"time_lambda_1": [None, None], "runs": []}
    study = {"varied": {"n": ["8"]}, "ensembles": [of_size("8", {"cold": curve, "warm": empty})]}
    data = json.dumps({"studies": {"adam": study}, "footer": ""})
    page.set_content(template("interactive").replace("@DATA@", data))
    assert page.evaluate("[1e5, 2e5, 5e5, 2e-4, 500].map(label)") == [
        "10\u2075", "2\u00b710\u2075", "5\u00b710\u2075", "2\u00b710\u207b\u2074", "500",
    ]  # fmt: skip
    page.get_by_label("warm").check()
    assert page.locator("#plot text").text_content() == "nothing to show"
    assert page.problems == []


def test_interactive_page_on_a_phone_with_many_ensembles_and_the_keyboard(page):
    curve = {"time_lambda_1": [1.0, 10.0], "inefficiency": [2.0, 3.0], "runs": []}
    ensembles = [
        {"label": f"a case of a long name, number {k}", "colour": f"#0000{k:x}0",
         "settings": {"case": f"case {k}"},
         "bound": k == 0, "starts": {"cold": curve, "warm": curve}} for k in range(12)
    ]  # fmt: skip
    study = {"varied": {"case": [e["settings"]["case"] for e in ensembles]},
             "ensembles": ensembles}  # fmt: skip
    page.set_viewport_size({"width": 375, "height": 700})
    data = json.dumps({"studies": {"one": study, "other": study}, "footer": ""})
    page.set_content(template("interactive").replace("@DATA@", data))
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("#plot text")].map((text) => {
            const { a, b } = text.getScreenCTM();
            return Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize);
        })"""
    )
    assert sizes and min(sizes) > 10
    colours = page.evaluate(
        """() => [...document.querySelectorAll("tbody .swatch")].map((s) => s.style.background)"""
    )
    assert len(set(colours)) == 12
    page.get_by_label("warm", exact=True).check()
    assert page.locator("th").all_inner_texts()[2] == "\u03bb\u2081 (T \u2212 tw)"
    assert page.locator("tbody tr").first.locator("td").nth(3).inner_text() == "\u2265 3"
    page.locator("select[name=study]").select_option("other")
    assert page.evaluate("document.activeElement.name") == "study"
    page.set_viewport_size({"width": 1200, "height": 700})
    page.wait_for_function(
        "document.getElementById('plot').getAttribute('viewBox') == '0 0 920 500'"
    )
    assert page.problems == []


def test_labels_of_cases_stand_for_what_they_decide():
    """A case with its model and arguments is one choice, under the name that it was given."""
    settings = [
        {"case": "a $x$", "model": "mine:a", "n": 8, "width": 4},
        {"case": "b", "model": "mine:b", "n": 8},
        {"case": "b", "model": "mine:b", "n": 16},
    ]
    varied = varied_settings([{"settings": one} for one in settings])
    assert varied == {"case": ["a $x$", "b"], "n": [8, 16]}
    assert study_label(settings[0], varied) == "a $x$, n = 8"
    rate = {"learning_rate": 0.1, "learning_rate_unit": "stability_limit"}
    assert study_label(rate, ["learning_rate"]) == "learning rate = 0.1 x 2/lambda_1"


def test_the_mouse_over_a_point_shows_its_values(page):
    curve = {"time_lambda_1": [1.0, 10.0, 100.0], "inefficiency": [1.5, 4.321, 30.0], "runs": []}
    curve |= {"inefficiency_low": [1.2, 3.9, 20.0], "inefficiency_high": [1.9, 4.8, 45.0]}
    above = curve | {"inefficiency": [2.5, 14.0, 90.0], "inefficiency_predicted": [2.0, 13.0, 80.0]}
    ensembles = [of_size("8", {"cold": curve}), of_size("16", {"cold": above})]
    study = {"varied": {"n": ["8", "16"]}, "ensembles": ensembles}
    data = json.dumps({"studies": {"sizes": study}, "footer": ""})
    page.set_content(template("interactive").replace("@DATA@", data))
    tip = page.locator("#tip")
    points = page.evaluate(
        """() => [...document.querySelectorAll("path.ensemble")].map((path) => {
            const at = path.getScreenCTM();
            const pairs = path.getAttribute("d").match(/[-\\d.]+ [-\\d.]+/g);
            return pairs.map((pair) => new DOMPoint(...pair.split(" ").map(Number)))
              .map((point) => point.matrixTransform(at)).map(({ x, y }) => [x, y]);
        })"""
    )
    assert [len(of_curve) for of_curve in points] == [3, 3] and not tip.is_visible()
    told = {
        (0, 1): ["n = 8", "\u03bb\u2081 T = 10", "measured 4.321  [3.9, 4.8]"],
        (0, 2): ["n = 8", "\u03bb\u2081 T = 100", "measured 30  [20, 45]"],
        (1, 0): ["n = 16", "\u03bb\u2081 T = 1", "measured 2.5  [1.2, 1.9]", "NTK spectrum 2"],
    }
    for (ensemble, k), lines in told.items():
        x, y = points[ensemble][k]
        page.mouse.move(x + 3, y + 2)  # near it
        assert tip.inner_text().split("\n") == lines
        dot = page.locator("#dot").bounding_box()
        assert (
            abs(dot["x"] + dot["width"] / 2 - x) < 1 and abs(dot["y"] + dot["height"] / 2 - y) < 1
        )
    page.mouse.move(points[0][0][0] + 5, points[1][2][1])  # inside the plot, far from any point
    assert not tip.is_visible()
    page.mouse.move(*points[0][1])
    page.mouse.move(5, 5)  # outside
    assert not tip.is_visible() and page.problems == []


@needs_runs
def test_interactive_page_draws_switches_and_tells_values(reported, page):
    page.goto((reported / "results/report/interactive.html").as_uri())
    curves = page.locator("path.curve")
    first = curves.count()
    assert page.locator("path.curve.ensemble").count() == 2
    assert page.locator("path.curve.predicted").first.get_attribute("stroke-dasharray") == "8 4"
    assert "T/TSL" in page.locator("svg").first.text_content().replace("\u200b", "")  # set lower
    table = pd.read_csv(
        reported / "results/studies/dataset_size/speed_limits.csv", dtype={"realisation": str}
    )
    last = table[(table.start == "cold") & (table.realisation == "ensemble") & (table.n == 8)]
    value = last.sort_values("time")["inefficiency"].iloc[-1]
    assert f"{float(f'{value:.4g}'):g}" in page.locator("#ends tbody tr").first.inner_text()
    page.get_by_label("its runs").check()
    assert curves.count() == first + 4
    page.get_by_label("16", exact=True).uncheck()
    assert page.locator("path.curve.ensemble").count() == 1
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    assert re.search(r"measured [\d.]+", page.locator("#tip").inner_text())
    page.get_by_label("warm", exact=True).check()
    assert "warm start" in page.locator("#ends caption").inner_text()
    assert page.problems == []


def test_studies_keep_their_tables_in_whatever_order_they_are_named(job, tmp_path):
    """Settings name studies in the order of the alphabet, inputs in that of the configuration."""
    times = {"sizes": 3.0, "dynamics": 7.0}
    names = ("inefficiency", "speed_unevenness", "path_excess")
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high", "_predicted")]
    columns += ["inefficiency_power_law", "inefficiency_power_law_asymptote"]
    for study, time in times.items():
        rows = pd.DataFrame({"realisation": ["0", "ensemble"], "ensemble": f"of_{study}", "n": 8})
        rows = rows.assign(start="cold", time=time, time_lambda_1=time, confidence=0.95)
        folder = tmp_path / "results/studies" / study
        folder.mkdir(parents=True)
        write_table(rows.assign(**dict.fromkeys(columns, 2.0)), folder / "speed_limits.csv")
    paths = [f"results/studies/{study}/speed_limits.csv" for study in times]
    described = {
        study: [{"path": f"of_{study}", "settings": {"n": n}} for n in (8, 16)]
        for study in sorted(times)
    }
    job(
        interactive.main,
        inputs=dict(zip(paths, paths, strict=True)),
        outputs={"page": "page.html"},
        settings={"studies": described},
    )
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "page.html").read_text())[1]
    for study, found in json.loads(data)["studies"].items():
        assert found["ensembles"][0]["starts"]["cold"]["time_lambda_1"] == [times[study]]
    assert of_study(paths, "dynamics") == paths[1]


def test_a_run_has_its_own_prediction_beside_it(page, tmp_path):
    """On the interactive page: that of the ensemble is of another object."""
    names = (*interactive.FACTORS, *interactive.PREDICTED)
    rows = pd.DataFrame({"realisation": ["ensemble", "ensemble", "0", "0"], "time": [1.0, 9.0] * 2})
    rows = rows.assign(time_lambda_1=rows["time"], **dict.fromkeys(names, 1.0))
    for name in interactive.FACTORS:
        rows = rows.assign(**{f"{name}_low": float("nan"), f"{name}_high": float("nan")})
    rows["inefficiency"] = [3.0, 4.0, 30.0, 40.0]
    rows["inefficiency_predicted"] = [2.5, 3.5, 25.0, 35.0]
    rows["inefficiency_power_law"] = [2.0, 3.0, 20.0, 31.0]
    rows["inefficiency_power_law_asymptote"] = float("nan")
    curves = interactive.curves(rows)
    assert curves["runs"][0]["inefficiency_predicted"] == [25.0, 35.0]
    assert "inefficiency_low" not in curves and "asymptote" not in curves["runs"][0]
    study = {"varied": {"n": ["8"]}, "ensembles": [of_size("8", {"cold": curves})]}
    data = json.dumps({"studies": {"sizes": study}, "footer": ""})
    page.set_content(template("interactive").replace("@DATA@", data))
    page.get_by_label("its runs").check()
    page.focus("#plot")
    told = []
    for key in ("ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
        told.append(page.locator("#tip").inner_text().split("\n")[1:])
    assert told[0][1:] == ["measured 4", "NTK spectrum 3.5", "power law 3"]
    assert told[1][1:] == ["run 0 40", "NTK spectrum 35", "power law 31"]
    assert page.problems == []


def test_an_interval_of_many_decades_leaves_the_curves_their_room(page):
    """Two runs at a high confidence level; the numbers are told whole."""
    curve = {"time_lambda_1": [1.0, 10.0], "inefficiency": [2.0, 4.0], "runs": []}
    curve |= {"inefficiency_low": [1e-9, 1e-63], "inefficiency_high": [1e9, 1e63]}
    study = {"varied": {"n": ["8"]}, "ensembles": [of_size("8", {"cold": curve})]}
    data = {"studies": {"sizes": study}, "footer": "", "widest": results.WIDEST}
    page.set_content(template("interactive").replace("@DATA@", json.dumps(data)))
    low, high = page.evaluate("() => [scale.y0, scale.y1]")
    assert 10**low > 2.0 / results.WIDEST / 1.2 and 10**high < 4.0 * results.WIDEST * 1.2
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    assert "[1e-63, 1e+63]" in page.locator("#tip").inner_text()
    assert page.problems == []


@pytest.fixture
def drawn_page(page, job, tmp_path):
    """The interactive page of a study, in a browser, of ensembles at rest or in motion."""

    def draw(*ensembles, without=()):
        """Draw it from (folder, dynamics, label of the case) of each ensemble.

        Columns ``without`` a value are empty.
        """
        names = ("time_lambda_1", *interactive.FACTORS, "inefficiency_predicted")
        columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high", "_predicted")]
        columns += list(interactive.LAWS.values())
        rows = pd.DataFrame({"start": ["cold", "warm"], "realisation": "ensemble"})
        rows = rows.assign(time=1.0, **dict.fromkeys(columns, 0.5))
        rows[list(without)] = float("nan")
        tables = []
        for name, dynamics, _ in ensembles:
            front = pd.DataFrame({"ensemble": [name] * 2, "dynamics": dynamics, "n": 8})
            tables.append(pd.concat([front, rows], axis=1))
        (tmp_path / "results/studies/s").mkdir(parents=True)
        path = "results/studies/s/speed_limits.csv"
        write_table(pd.concat(tables).assign(confidence=0.95), tmp_path / path)
        described = [
            {"path": name, "settings": {"n": 8, "dynamics": dynamics, "case": case}}
            for name, dynamics, case in ensembles
        ]
        job(
            interactive.main,
            inputs={path: path},
            outputs={"page": "page.html"},
            settings={"studies": {"s": described}},
        )
        page.set_content((tmp_path / "page.html").read_text(encoding="utf-8"))
        return page

    return draw


def test_momentum_in_motion_is_marked_and_no_label_ends_the_page(drawn_page):
    """As bounds at a temperature are; a comment and a script would swallow what follows."""
    label = "<!-- <script> & 'a'"
    page = drawn_page(("ball", "heavy_ball", label), ("flow", "gradient_flow", "f"))
    assert "\u2020" not in page.locator("#ends").inner_text()
    page.get_by_label("warm", exact=True).check()
    warm = page.locator("#ends").inner_text()
    assert warm.count("\u2020") == 1 and label in warm
    assert "kinetic energy T/T_SL leaves out" in page.locator("#footer").inner_text()
    assert "minibatches" not in page.locator("#footer").inner_text()
    assert page.problems == []


def test_a_single_run_has_one_dash_for_its_interval(drawn_page):
    ends = ["inefficiency_low", "inefficiency_high"]
    page = drawn_page(("flow", "gradient_flow", "f"), without=ends)
    cells = page.locator("#ends tbody td").all_inner_texts()
    assert cells.count("\u2013") == 1 and not any(" to " in cell for cell in cells)
    assert page.problems == []


def test_minibatches_are_marked_as_without_a_bound(drawn_page):
    page = drawn_page(("a", "sgd", "noisy"), ("b", "gradient_descent", "exact"))
    assert page.locator("#ends").inner_text().count("\u2021") == 1
    assert "minibatches, whose noise" in page.locator("#footer").inner_text()
    assert page.problems == []


@needs_runs
def test_one_study_has_a_report_of_its_own(reported):
    """It names its study and holds no page of the others, which need not be there."""
    arguments = ("study_dataset_size", "--report", "one.html")
    process = snakemake(reported, *arguments, configfile=reported / "reordered.yaml")
    assert process.returncode == 0, process.stderr[-3000:]
    text = (reported / "one.html").read_text(encoding="utf-8")
    assert "trained the study\\n<strong>dataset_size</strong>" in text and "training_curves" in text
    assert "Reproduction of the paper" not in text and "What the jobs cost" not in text


@needs_runs
def test_pages_load_nothing_from_elsewhere(reported):
    for path in ("report.html", "results/report/interactive.html"):
        text = (reported / path).read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=.?https?:", text), path


@needs_runs
def test_provenance_and_benchmarks_of_this_run(reported):
    found = json.loads((reported / "results/report/provenance.json").read_text())
    assert found["config"]["base"]["width"] == 4 and found["machines"] and found["devices"]
    assert found["versions"]["torch"] == version("torch")
    assert set(found["data"]) == {f"results/data/digits/n{n}-balanced-subset0.nc" for n in (8, 16)}
    costs = pd.read_csv(reported / "results/report/benchmarks.csv").set_index("rule")
    assert costs.loc["train", "jobs"] == 4 and (costs["seconds_total"] > 0).all()
    # Beside the report in the same command: made before the summary or after it.
    assert (reported / "results/benchmarks/studies/dataset_size/runs.tsv").is_file()
    assert "runs_of_study" not in costs.index
    assert planned(snakemake(reported, "-n")) == {}


def test_provenance_knows_versions_of_environments_that_its_own_job_lacks(tmp_path):
    named = {"train0": "torch 2.13.0+cpu, ", "train1": "torch 2.9.1, ", "end": ""}
    for name, torch in named.items():
        log = tmp_path / f"{name}.log"
        with logged(str(log)):
            pass
        text = log.read_text()
        assert re.search(r"start: python [\d.]+, torch ", text)  # the form that is read back
        log.write_text(re.sub("torch [^,]+, ", torch, text))
    found = from_logs(tmp_path)["versions"]
    assert found["torch"] == "2.13.0+cpu, 2.9.1"
    assert found["python"] == platform.python_version() and "numpy" in found


def caption(name, page):
    """A caption as the report renders it."""
    text = (ROOT / f"report/{name}.rst").read_text()
    return jinja2.Template(text, trim_blocks=True).render(snakemake=page)


@pytest.mark.parametrize("figure", FIGURES)
def test_sentences_of_captions_stand_apart(figure):
    own = {"model": "mine:net", "dynamics": "adam"}
    study = {"set": own, "vary": {"model_arguments": {"hidden": [4, 8]}}, "realisations": 3}
    study["cases"] = [{"label": "wide, deep", "n": 8}, {"label": "narrow", "n": 16}]
    wildcards = SimpleNamespace(study="own", figure=figure)
    page = SimpleNamespace(config={**CONFIG, "studies": {"own": study}}, wildcards=wildcards)
    text = caption("figure", page)
    assert re.findall(r"[a-z%)]\.[A-Za-z`]", text.replace("theory.md", "")) == []
    assert "``mine:net``" in text and "hidden = 4, 8" in text and "wide, deep; narrow" in text
    for other in ("findings", "table"):
        told = caption(other, page)
        assert "hidden = 4, 8" in told and "model_arguments" not in told


def test_labels_are_no_markup_of_captions():
    label = r"a_ and `b, *c*, **d, |e| f\g"
    study = {"cases": [{"label": label, "n": 8}], "realisations": 3}
    config = {**CONFIG, "studies": {"own": study}}
    page = SimpleNamespace(config=config, wildcards=SimpleNamespace(study="own", figure="outcomes"))
    body = publish_parts(caption("figure", page), writer_name="html")["body"]
    assert label in html.unescape(body) and "system-message" not in body


@pytest.mark.parametrize("name", ["figure", "findings", "table"])
def test_captions_tell_the_common_threshold_by_its_number(name):
    study = {"vary": {"warm_start_accuracy": [None, 0.3]}, "realisations": 3}
    wildcards = SimpleNamespace(study="own", figure="outcomes")
    page = SimpleNamespace(config={**CONFIG, "studies": {"own": study}}, wildcards=wildcards)
    text = caption(name, page)
    assert "= 0.15, 0.3" in text and "None" not in text


@pytest.mark.parametrize("name", ["figure", "findings", "table"])
def test_names_that_end_like_references_are_none_in_captions(name):
    vary = {"model_arguments": {"hidden_": ["a_", "b_"]}, "model": ["mine_:net_", "m:f"]}
    config = {**CONFIG, "studies": {"own_": {"vary": vary, "realisations": 3}}}
    wildcards = SimpleNamespace(study="own_", figure="outcomes")
    page = SimpleNamespace(config=config, wildcards=wildcards)
    body = publish_parts(caption(name, page), writer_name="html")["body"]
    assert "system-message" not in body and "reference" not in body
    assert "own_" in body and "a_, b_" in body and "mine_:net_" in body


def test_captions_name_every_figure():
    text = (ROOT / "report/figure.rst").read_text()
    assert [name for name in FIGURES if f'"{name}":' not in text] == []
    text = (ROOT / "report/theory_figure.rst").read_text()
    assert [name for name in THEORY_FIGURES if f'"{name}":' not in text] == []


@pytest.mark.parametrize("study", CONFIG["studies"])
def test_captions_name_what_a_study_compares(study):
    wildcards = SimpleNamespace(study=study, figure="inefficiency_time")
    page = SimpleNamespace(config=CONFIG, wildcards=wildcards)
    text = caption("figure", page).replace("\\_", "_")
    for _, settings in labelled_combinations(CONFIG["base"], CONFIG["studies"][study]):
        for key in ("model", "dataset", "dynamics"):
            assert settings[key].replace("_", " ") in text
        assert re.search(rf"\bn = [\d, ]*\b{settings['n']}\b", text)
    for case in CONFIG["studies"][study].get("cases", []):
        assert case["label"] in text
    for values in CONFIG["studies"][study].get("vary", {}).values():
        assert ", ".join(map(str, values)) in text
    thresholds = {"warm_start": "12, 15, 20, 25, 30"}.get(study, "15")
    assert f"where there is a test accuracy: its mean is {thresholds} %." in text


@pytest.mark.parametrize(
    ("figure", "realisations", "bars"),
    [("outcomes", 3, True), ("outcomes", 1, False), ("training_curves", 3, False)],
)
def test_captions_speak_of_intervals_where_they_are_drawn(figure, realisations, bars):
    study = {"vary": {"learning_rate": [0.1, 0.3]}, "realisations": realisations}
    config = {**CONFIG, "studies": {"own": study}}
    page = SimpleNamespace(config=config, wildcards=SimpleNamespace(study="own", figure=figure))
    text = caption("figure", page)
    assert ("Bands and bars" in text) is bars
    assert ("the range from the smallest" in text) is (figure == "training_curves")
    assert "learning rate over 2/lambda_1 = 0.1, 0.3" in text


@pytest.mark.parametrize(
    ("study", "percents"),
    [
        ({"set": {"warm_start_accuracy": 0.2}}, "20"),
        ({"cases": [{"warm_start_accuracy": 0.3}, {"n": 8}]}, "30, 15"),
        ({"vary": {"warm_start_accuracy": [None, 0.3]}}, "15, 30"),
    ],
)
def test_captions_tell_the_threshold_of_their_study(study, percents):
    config = {**CONFIG, "studies": {"own": study | {"realisations": 2}}}
    page = SimpleNamespace(config=config, wildcards=SimpleNamespace(study="own", figure="outcomes"))
    text = caption("figure", page)
    assert f"where there is a test accuracy: its mean is {percents} %." in text


def test_captions_name_what_varies_whatever_the_cases_say():
    """What ``vary`` names holds in every case (``runs.labelled_combinations``)."""
    study = {
        "vary": {"model": ["myrtle5", "fully_connected"], "dynamics": ["langevin", "adam"]},
        "cases": [{"temperature": 0}, {"temperature": 0.1, "dynamics": "sgd"}],
        "realisations": 2,
    }
    config = {**CONFIG, "studies": {"own": study}}
    page = SimpleNamespace(config=config, wildcards=SimpleNamespace(study="own", figure="outcomes"))
    text = caption("figure", page)
    assert "myrtle5, fully connected on" in text and ", langevin, adam, seed" in text
    assert "Adam's steps have the length of the learning rate" in text


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ([{}], "learning rate over 2/lambda_1 = 0.1, 0.3"),
        ([{"learning_rate_unit": "absolute"}], "learning rate = 0.1, 0.3"),
        (
            [{"n": 8}, {"n": 16, "learning_rate_unit": "absolute"}],
            "learning rate over 2/lambda_1 (absolute where a case says so) = 0.1, 0.3",
        ),
    ],
)
def test_captions_take_the_unit_of_learning_rates_from_cases_too(cases, told):
    study = {"vary": {"learning_rate": [0.1, 0.3]}, "cases": cases, "realisations": 2}
    config = {**CONFIG, "studies": {"own": study}}
    page = SimpleNamespace(config=config, wildcards=SimpleNamespace(study="own", figure="outcomes"))
    assert told in caption("figure", page)


def test_captions_tell_the_common_threshold_of_unlabelled_cases_by_its_number():
    cases = [{"n": 8, "warm_start_accuracy": None}, {"n": 16, "warm_start_accuracy": 0.3}]
    config = {**CONFIG, "studies": {"own": {"cases": cases, "realisations": 2}}}
    page = SimpleNamespace(config=config, wildcards=SimpleNamespace(study="own", figure="outcomes"))
    text = caption("figure", page).replace("\\_", "_")
    assert "n 8 warm start accuracy 0.15; n 16 warm start accuracy 0.3" in text


@pytest.mark.parametrize("figure", THEORY_FIGURES)
def test_captions_name_the_times_of_power_laws_where_these_are_drawn(figure):
    page = SimpleNamespace(config=CONFIG, wildcards=SimpleNamespace(theory_figure=figure))
    text = caption("theory_figure", page)
    assert ("up to lambda_1 T" in text) is (figure in ("convergence", "spectra"))
    assert ("networks are those of" in text) is (figure in ("phase_diagram", "spectra_measured"))


def test_the_caption_of_the_trend_speaks_of_either_axis():
    page = SimpleNamespace(
        config={**CONFIG, "studies": {"own": {"vary": {"width": [8, 16]}, "realisations": 2}}},
        wildcards=SimpleNamespace(study="own", figure="inefficiency_size"),
    )
    text = caption("figure", page)
    assert "Where n varies" not in text and "Where the axis is n or the width, the dashed" in text


NAN = float("nan")


@pytest.mark.parametrize(
    ("agrees", "verdict"),
    [
        ([True, True], "reproduced"),
        ([True, False], "partly (1 of 2)"),
        ([True, None], "partly (1 of 2, 1 not decided)"),
        ([True, False, None], "partly (1 of 3, 1 not decided)"),
        ([False, False], "differs"),
        ([False, None], "differs (1 of 2, 1 not decided)"),
        ([None], "not decided"),
        ([], "not reached"),
    ],
)
def test_verdicts(agrees, verdict):
    numbers = [Measured("", 1.0, NAN, NAN, a) for a in agrees]
    assert Row("", "", "", "", numbers, "not reached").verdict == verdict


def test_criteria():
    assert in_range(29.0, 12.0, 62.0, 10, 30) is True
    assert in_range(38.0, 12.0, 62.0, 10, 30) is None  # no wide interval is an agreement
    assert in_range(38.0, 31.0, 62.0, 10, 30) is False
    # one run has no interval, which might meet the range
    assert in_range(30.0, NAN, NAN, 10, 30) is True and in_range(31.0, NAN, NAN, 10, 30) is None
    assert in_range(8.0, 7.0, 9.9, 10, 30) is False
    fall = falling(0.05)
    assert fall(-0.3, -0.4, -0.2, 0.2) is None and fall(-0.3, -0.4, -0.2, 0.01) is True
    assert fall(-0.3, -0.4, -0.2, 0.05) is True and fall(-0.3, -0.4, -0.2, 0.0501) is None
    assert fall(0.3, 0.2, 0.4, 0.01) is False and fall(-0.3, -0.7, 0.1, 0.01) is None
    assert flat(-0.1, -0.2, 0.1, 0.5) is True and flat(-0.3, -0.5, 0.1, 0.5) is None
    assert flat(-0.8, -0.9, -0.5, 0.01) is False


@pytest.mark.parametrize(
    ("start", "warm", "agrees"),
    [
        ((0.8, 0.6, 0.9), (0.1, -0.1, 0.3), True),
        ((0.6, 0.3, 0.9), (-0.3, -0.9, 0.2), None),  # delta changes sign, |delta| may have grown
        ((0.1, -0.1, 0.2), (-0.8, -0.9, -0.5), False),
        ((0.6, 0.3, 0.9), (0.1, NAN, NAN), None),
    ],
)
def test_uniform_projections_are_told_by_the_size_of_delta(start, warm, agrees):
    columns = ["delta", "delta_low", "delta_high"]
    table = pd.DataFrame([start, warm], columns=columns).assign(ensemble="a", kernel="full")
    (found,) = residue_spread(table.assign(moment=["start", "warm"]), {"a": "n = 8"})
    assert found.agrees is None if agrees is None else found.agrees == agrees


def test_every_ensemble_is_told_by_the_kernel_that_it_has():
    """Of the largest n the full kernel may be too large for its eigenvalues."""
    rows = [
        ("small", "full", "start", 0.8, 0.7, 0.9),
        ("small", "full", "warm", 0.1, 0.0, 0.2),
        ("small", "traced", "start", 5.0, 4.9, 5.1),
        ("small", "traced", "warm", 6.0, 5.9, 6.1),
        ("large", "traced", "start", 0.5, 0.4, 0.6),
        ("large", "traced", "warm", 0.2, 0.1, 0.3),
    ]
    columns = ["ensemble", "kernel", "moment", "delta", "delta_low", "delta_high"]
    found = residue_spread(
        pd.DataFrame(rows, columns=columns), {"small": "n = 8", "large": "n = 99"}
    )
    assert [round(m.value, 9) for m in found] == [-0.7, -0.3]
    assert found[0].label == "n = 8: delta 0.80 to 0.10, change of |delta|"
    assert found[1].label.startswith("n = 99, output-traced kernel: delta 0.50 to 0.20")


def test_what_is_missing_at_the_end_is_not_taken_from_before():
    columns = ("inefficiency", "inefficiency_low", "inefficiency_high")
    rows = [(t, *values) for t, values in enumerate([(20, 15, 25), (3, 2, 4), (NAN,) * 3])]
    table = pd.DataFrame(rows, columns=["time", *columns])
    table = table.assign(start="cold", realisation="ensemble", ensemble="diverged")
    whole = table[:2].assign(ensemble="whole")
    found = at_end(
        pd.concat([whole, table]), {"whole": "a", "diverged": "b"}, "cold", columns[0], (10, 30)
    )
    assert found[0] == Measured("a", 3, 2, 4, False)
    assert found[1].label == "b" and found[1].agrees is None
    assert in_words(found[1]) == "b: not measured"
    row = Row("", "", "", "", [found[0]._replace(agrees=True), found[1]])
    assert row.verdict == "partly (1 of 2, 1 not decided)"


def test_the_end_of_an_ensemble_is_its_own_at_the_last_time_in_whichever_order():
    table = pd.DataFrame({"time": [3.0, 1.0, 2.0], "inefficiency": [20.0, 1.0, 2.0]})
    table = table.assign(inefficiency_low=15.0, inefficiency_high=25.0, start="cold", ensemble="a")
    of_run = table.assign(realisation="0", inefficiency=50.0, time=9.0)
    table = pd.concat([table.assign(realisation="ensemble"), of_run])
    found = at_end(table, {"a": "n = 8"}, "cold", "inefficiency", (10, 30))
    assert found == [Measured("n = 8", 20, 15, 25, True)]


def test_a_trend_without_a_slope_is_not_measured():
    row = {"at": "end", "start": "cold", "quantity": "inefficiency", "p_value": NAN}
    table = pd.DataFrame([row | dict.fromkeys(("slope", "slope_low", "slope_high"), NAN)])
    assert slope(table, "cold", flat, 0.05) == []


def test_numbers_are_told_with_digits_that_leave_them_on_their_side():
    table = pd.DataFrame({"time": [1.0], "inefficiency": [9.996], "start": "cold"})
    table = table.assign(inefficiency_low=8.0, inefficiency_high=30.04, realisation="ensemble")
    (found,) = at_end(table.assign(ensemble="a"), {"a": "n = 8"}, "cold", "inefficiency", (10, 30))
    assert found.agrees is None and in_words(found) == "n = 8: 9.996 [8, 30.04]"
    row = {"at": "end", "start": "cold", "quantity": "inefficiency", "p_value": 0.0504}
    row |= {"slope": -0.3, "slope_low": -0.6, "slope_high": 0.0004}
    (found,) = slope(pd.DataFrame([row]), "cold", falling(0.05), 0.05)
    assert in_words(found) == "slope on ln n, p = 0.0504: -0.3 [-0.6, 0.0004]"
    (found,) = slope(pd.DataFrame([row | {"p_value": NAN}]), "cold", falling(0.05), 0.05)
    assert in_words(found).startswith("slope on ln n: ") and found.agrees is None
    numbers = dict.fromkeys(("inefficiency", "kinematic_inefficiency"), [0.97951, 3.0])
    bound = bound_row(pd.DataFrame(numbers), {"gradient_flow"})
    assert in_words(bound.measured[0]).endswith("0.9795") and bound.verdict == "differs"


@pytest.mark.parametrize(
    ("starts", "reached", "why"),
    [
        (["cold", "warm"], [True, False], ""),
        (["cold"], [True, False], "warm start at the last recorded time"),
        (["cold"], [False, False], "warm start not reached"),
    ],
)
def test_rows_from_a_warm_start_are_missing_for_a_reason(starts, reached, why):
    limits, warm = pd.DataFrame({"start": starts}), pd.DataFrame({"reached": reached})
    assert without_warm_start(limits, warm) == why


def test_lines_of_the_comparison_are_those_of_its_numbers():
    numbers = [Measured("a", 1.0, 0.5, 2.0, False), Measured("b", 3.0, NAN, NAN, None)]
    rows = [Row("x", "1", "here", "is 1", numbers), Row("y", "2", "there", "is 2", [], "none")]
    lines = list(tidy("some_study", rows, "settings"))
    assert [line["agrees"] for line in lines] == ["false", "", ""]
    assert [line["of"] for line in lines] == ["a", "b", ""] and lines[2]["verdict"] == "none"
    assert [in_words(m) for m in numbers] == ["a: 1 [0.5, 2]", "b: 3"]
    page = fragment({"some_study": (rows, "settings")})
    assert page.count("settings") == page.count("the same") == 1


def test_a_study_without_speed_limit_times_meets_and_breaks_no_bound():
    """Adam's time is a length: its T/T_SL is missing everywhere."""
    settings = {"dynamics": "adam", "warm_start_accuracy": None}
    study = [{"path": str(n), "settings": settings | {"n": n}} for n in (8, 16)]
    names = ("inefficiency", "path_excess")
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    limits = pd.DataFrame({"ensemble": ["8", "16"], "start": "cold", "realisation": "ensemble"})
    limits = limits.assign(time=1.0, **dict.fromkeys(columns, NAN))
    exponents = ("ensemble", "kernel", "moment", "delta", "delta_low", "delta_high")
    tables = {
        "speed_limits": limits,
        "trends": pd.DataFrame(columns=["at", "start", "quantity", "slope"]),
        "exponents": pd.DataFrame(columns=exponents),
        "warm_starts": pd.DataFrame({"ensemble": ["8", "16"], "threshold": 0.12, "reached": True}),
    }
    rows = rows_of_study(tables, study, 0.05)
    assert rows[0].paper == "at least 1" and rows[0].verdict == "not measured"
    assert not at_a_temperature(study)
    tables["speed_limits"] = pd.concat([limits, limits.assign(start="warm")])
    verdicts = {row.quantity: row.verdict for row in rows_of_study(tables, study, 0.05)}
    assert not any("not reached" in verdict for verdict in verdicts.values())


@pytest.mark.parametrize(
    ("reached", "told"), [(False, "warm start not reached"), (True, "warm start at the last")]
)
def test_the_comparison_with_the_paper_tells_why_there_is_no_warm_start(reached, told):
    names = ("inefficiency", "path_excess")
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    limits = pd.DataFrame({"ensemble": ["8"], "start": "cold", "realisation": "ensemble"})
    limits = limits.assign(time=1.0, **dict.fromkeys(columns, NAN))
    paper = {"dynamics": "gradient_descent", "learning_rate": 1e-5, "n": 8}
    paper |= {"learning_rate_unit": "absolute", "warm_start_accuracy": None}
    warm = {"ensemble": ["8"], "threshold": 0.12, "reached": reached, "time": 0.02}
    tables = {
        "speed_limits": limits,
        "trends": pd.DataFrame(columns=["at", "start", "quantity", "slope"]),
        "exponents": pd.DataFrame(columns=["ensemble", "kernel", "moment", "delta"]),
        "warm_starts": pd.DataFrame(warm | {"time_resolution": 0.001}),
    }
    rows = rows_of_study(tables, [{"path": "8", "settings": paper}], 0.05)
    verdicts = {row.quantity: row.verdict for row in rows}
    for name, verdict in verdicts.items():
        if "from the warm start" in name or ", warm start" in name:
            assert verdict.startswith(told), name
        elif "cold start" in name:
            assert verdict == "not measured", name
    assert verdicts["warm start, 12 % test accuracy"] == ("reproduced" if reached else told)


@pytest.mark.parametrize(("temperature", "bounds"), [(0, False), (0.001, True)])
def test_lower_bounds_at_a_temperature_are_not_held_against_the_paper(temperature, bounds):
    settings = {"dynamics": "langevin", "temperature": temperature}
    assert at_a_temperature([{"settings": settings | {"n": n}} for n in (8, 16)]) is bounds


def test_one_ensemble_at_a_temperature_makes_a_study_of_bounds():
    flow = {"settings": {"dynamics": "gradient_flow"}}
    assert at_a_temperature([flow, {"settings": {"dynamics": "langevin", "temperature": 0.1}}])


def test_a_study_of_sizes_has_several_and_may_draw_several_subsets():
    study = [{"settings": {"n": n, "subset": s}} for n in (8, 16) for s in (0, 1)]
    assert only_size_varies(study)
    assert not only_size_varies(study[:2]) and not only_size_varies(study[:1])


def test_differences_from_the_paper_are_named():
    paper = {
        "dataset": "cifar10",
        "model": "myrtle5",
        "width": 128,
        "dynamics": "gradient_descent",
        "learning_rate": 1e-5,
        "learning_rate_unit": "absolute",
    }
    study = [{"settings": {**paper, "n": n}} for n in (500, 5000)]
    assert only_size_varies(study)
    assert "paper" not in configuration(study, 6, 0.12)
    relative = [
        {"settings": e["settings"] | {"learning_rate_unit": "stability_limit"}} for e in study
    ]
    assert "stability_limit (paper: absolute)" in configuration(relative, 6, 0.12)
    flow = [{"settings": {**e["settings"], "dynamics": "gradient_flow"}} for e in study]
    assert "learning rate" not in configuration(flow, 6, 0.12)
    others = {"label_noise": 0.5, "output_scale": 30, "subtract_start": True}
    others |= {"targets": "centred_one_hot", "parameterisation": "ntk", "initialisation": "he"}
    others |= {"final_time": 1000, "time_unit": "inverse_lambda_1"}
    told = configuration([{"settings": e["settings"] | others} for e in study], 6, 0.12)
    for said in (
        "label noise 0.5 (paper: 0)",
        "output scale 30 (paper: 1)",
        "subtract start True (paper: False)",
        "targets centred_one_hot (paper: one_hot)",
        "parameterisation ntk",
        "initialisation he",
        "final time 1000 (unit inverse lambda 1)",
    ):
        assert said in told.split("; ")
    narrow = [{"settings": {**e["settings"], "width": 32}} for e in study]
    assert configuration(narrow, 3, 0.15).count("(paper:") == 3
    assert not only_size_varies([*study, *narrow])


@pytest.mark.parametrize("option", ["--report other.html", "--reporter html"])
def test_no_report_tells_of_results_of_another_configuration(reported, option):
    """Captions are written from the configuration, whatever made the results."""
    options = ["report", *option.split(), "--config", "seed=5"]
    options += ["--report-html-path", "other.html"] if "--reporter" in option else []
    process = snakemake(reported, *options, configfile=reported / "reordered.yaml")
    told = process.stdout + process.stderr
    assert process.returncode == 1 and not (reported / "other.html").exists()
    assert "run the same command without --report first" in told and "Traceback" not in told


@needs_runs
def test_a_report_of_another_folder_reads_what_the_command_line_names(reported, tmp_path):
    """Paths are relative to where it was started, not to --directory."""
    (tmp_path / "mine.yaml").write_text((reported / "reordered.yaml").read_text())
    snakefile = os.path.relpath(ROOT / "Snakefile", tmp_path)
    command = [sys.executable, "-m", "snakemake", "-s", snakefile]
    command += ["study_dataset_size", "--configfile", "mine.yaml", "--directory", str(reported)]
    done = subprocess.run(
        [*command, "--report", "elsewhere.html"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (reported / "elsewhere.html").is_file()


def test_memory_is_in_units_of_a_million_bytes_and_missing_of_short_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("long", 2.0), ("short", 0.46)):
        row = {"s": [seconds], "cpu_time": [0.0], "max_rss": [774.67]}
        pd.DataFrame(row).to_csv(f"{name}.tsv", sep="\t", index=False)
    table = benchmark_summary.jobs({"a": ["long.tsv"], "b": ["short.tsv"]})
    assert table["memory_mb"][0] == pytest.approx(774.67 * 2**20 / 1e6)
    assert math.isnan(table["memory_mb"][1])
