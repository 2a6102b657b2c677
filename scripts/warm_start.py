"""Find the warm start t_w: the first recorded time at which the realisations' mean test accuracy
reaches the threshold from below. If it never does, say so; cold results stand on their own.
"""

import quick_start  # noqa: F401

import numpy as np

from pipeline.log import logged
from pipeline.stores import provenance, read_snapshots, write_json
from pipeline.warm_starts import SET_BY
from speedlimits.snapshots import reaches, warm_start_index


def warm_start(times: np.ndarray, accuracy: np.ndarray, threshold: float) -> dict:
    """Return the warm start with its time and resolution.

    Args:
        times: recorded times, shape (M,).
        accuracy: test accuracy per realisation and time, shape (R, M).
        threshold: wanted mean over realisations.

    Returns:
        reached, snapshot, time, time_resolution (distance to the snapshot before), threshold and
        mean accuracies; snapshot and times are None if the threshold is never reached.
    """
    index = warm_start_index(accuracy, threshold)
    mean = accuracy.mean(axis=0)
    found = {
        "reached": index is not None,
        "threshold": threshold,
        "realisations": len(accuracy),
        "largest_mean_test_accuracy": float(np.nanmax(mean)) if np.isfinite(mean).any() else None,
        "snapshot": index,
        "time": None,
        "time_resolution": None,
        "mean_test_accuracy": None,
    }
    if index is not None:
        found["time"] = float(times[index])
        found["time_resolution"] = float(times[index] - times[index - 1])
        found["mean_test_accuracy"] = float(mean[index])
    return found


def main(snakemake) -> None:
    """Run the rule ``warm_start``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        runs = [read_snapshots(path, weights=False) for path in snakemake.input.manifests]
        accuracy = np.stack([run["test_accuracy"].values for run in runs])
        mean = accuracy.mean(axis=0)
        found = warm_start(runs[0]["time"].values, accuracy, settings["test_accuracy"])
        if not np.isfinite(mean).any():
            print(
                "there is no test accuracy (real targets, or no test part) and so no warm start by "
                "accuracy: only cold results are computed"
            )
        elif not found["reached"]:
            above = reaches(mean[0], found["threshold"])  # it has nothing to rise to
            todo = "raise" if above else "train longer or lower"
            print(
                f"the mean test accuracy, {mean[0]:.4f} at the start and "
                f"{np.nanmax(mean):.4f} at most, never reaches the threshold "
                f"{found['threshold']} from below: there is no warm start, only cold "
                f"results are computed ({todo} {SET_BY})"
            )
        write_json({**found, "provenance": provenance(settings)}, snakemake.output[0])


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
