"""Summarise what the jobs cost: time, memory and GPU memory per rule, from benchmarks and logs.

Snakemake's benchmark files know nothing of GPUs; the peak of a job's GPU memory is in its log,
which lies under the same path.
"""

import quick_start  # noqa: F401

import math
import re
from pathlib import Path

import pandas as pd

from pipeline.files import recorded
from pipeline.log import PEAK_GPU, logged
from pipeline.pages import html_table
from pipeline.stores import write_table

COLUMNS = {
    "jobs": "jobs",
    "seconds_total": "time, s",
    "seconds_median": "median, s",
    "seconds_largest": "largest, s",
    "cpu_seconds": "CPU time, s",
    "memory_mb": "peak memory, MB",
    "gpu_memory_mb": "peak GPU memory, MB",
}


MEASURED_SECONDS = 1.0  # own choice: two of Snakemake's looks, half a second apart


def gpu_megabytes(log: Path) -> float:
    """Return the peak GPU memory that a log names, in MB; NaN if it names none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    found = re.search(rf"{PEAK_GPU} (\d+) MB", text)
    return float(found[1]) if found else math.nan


def jobs(files: dict[str, list[str]]) -> pd.DataFrame:
    """Return one row per job: rule, seconds, CPU seconds, memory and GPU memory in MB.

    Args:
        files: rule -> its benchmark files.

    Returns:
        The table.
    """
    rows = []
    for rule, paths in files.items():
        for path in paths:
            measured = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
            log = Path(path.replace("results/benchmarks/", "results/logs/", 1)).with_suffix(".log")
            rows.append(
                {
                    "rule": rule,
                    "seconds": measured["s"],
                    "cpu_seconds": measured["cpu_time"],
                    "memory_mb": megabytes(measured),
                    "gpu_memory_mb": gpu_megabytes(log),
                }
            )
    columns = ["rule", "seconds", "cpu_seconds", "memory_mb", "gpu_memory_mb"]
    return pd.DataFrame(rows, columns=columns)


def megabytes(measured: pd.Series) -> float:
    """Return the peak memory of a job in 10^6 bytes; NaN of jobs too short to be measured.

    Snakemake counts in units of 2^20 bytes, and looks first before Python has started, then every
    half second.
    """
    return 1.048576 * measured["max_rss"] if measured["s"] >= MEASURED_SECONDS else math.nan


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rule, the most expensive first."""
    of_rule = table.groupby("rule")
    found = pd.DataFrame(
        {
            "jobs": of_rule.size(),
            "seconds_total": of_rule["seconds"].sum(),
            "seconds_median": of_rule["seconds"].median(),
            "seconds_largest": of_rule["seconds"].max(),
            "cpu_seconds": of_rule["cpu_seconds"].sum(),
            "memory_mb": of_rule["memory_mb"].max(),
            "gpu_memory_mb": of_rule["gpu_memory_mb"].max(),
        }
    )
    return found.sort_values("seconds_total", ascending=False).reset_index()


def in_html(found: pd.DataFrame) -> str:
    """Return the summary as a table of a page."""
    lines = []
    for _, row in found.iterrows():
        numbers = [row[name] for name in COLUMNS]
        shown = [f"{n:.3g}" if n < 100 else f"{n:.0f}" for n in numbers[1:]]
        lines.append(
            [row["rule"], f"{row['jobs']}", *(s.replace("nan", "\N{EN DASH}") for s in shown)]
        )
    caption = (
        f"What the jobs cost: {found['jobs'].sum()} jobs, "
        f"{found['seconds_total'].sum() / 60:.3g} minutes if one runs at a time"
    )
    return html_table(["rule", *COLUMNS.values()], lines, caption)


def main(snakemake) -> None:
    """Run the rule ``benchmark_summary``."""
    with logged(snakemake.log[0]):
        found = summary(jobs(snakemake.params.settings["benchmarks"]))
        print(found.to_string())
        write_table(found, snakemake.output.table)
        with recorded(snakemake.output.page) as partial:
            partial.write_text(in_html(found), encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
