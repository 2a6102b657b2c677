"""Write down what the results were made from: configuration, data, code, versions and machines."""

import quick_start  # noqa: F401

import html
import json
import re
from pathlib import Path

import yaml

from pipeline.files import recorded
from pipeline.log import logged
from pipeline.pages import html_table
from pipeline.stores import read_netcdf, write_json


def data_digests(subsets: list[str]) -> dict[str, dict[str, str]]:
    """Return subset file -> digests of the images that it was drawn from and of its indices."""
    found = {}
    for path in subsets:
        attributes = read_netcdf(path).attrs
        found[path] = {
            "images_sha256": attributes["pool_sha256"],
            "indices_sha256": attributes["indices_sha256"],
        }
    return found


def from_logs(folder: str | Path) -> dict:
    """Return the machines, devices and versions that the logs name, each once.

    The job of this rule cannot tell the versions of the others: with ``--use-conda`` its
    environment has no torch.

    Args:
        folder: where the logs lie.

    Returns:
        "machines" and "devices", and "versions", package -> those that jobs ran with.
    """
    machines, devices, versions = set(), set(), {}
    for path in sorted(Path(folder).rglob("*.log")):
        text = path.read_text(encoding="utf-8", errors="replace")
        machines |= set(re.findall(r"^machine: (.+)$", text, re.MULTILINE))
        devices |= set(re.findall(r"^device ([^,\n]+)", text, re.MULTILINE))
        for told in re.findall(r"^\S+ \S+ start: (.+)$", text, re.MULTILINE):
            for package, version in re.findall(r"([\w-]+) ([^\s,]+)", told):
                versions.setdefault(package, set()).add(version)
    return {
        "machines": sorted(machines),
        "devices": sorted(devices),
        "versions": {name: ", ".join(sorted(versions[name])) for name in sorted(versions)},
    }


def in_html(found: dict) -> str:
    """Return the provenance as tables of a page."""
    lines = [("commit", found["commit"] or "none (not a git checkout)")]
    lines += [(f"package {name}", version) for name, version in found["versions"].items()]
    lines += [("machine", name) for name in found["machines"]]
    lines += [("device of training", name) for name in found["devices"]]
    lines += [(f"code of {rule}", digest) for rule, digest in found["code"].items()]
    for path, digests in found["data"].items():
        lines.append((path, "\n".join(f"{name} {digest}" for name, digest in digests.items())))
    config = html.escape(yaml.safe_dump(found["config"], sort_keys=False))
    table = html_table(("what", "which"), lines, "What the results were made from")
    return f"{table}<details><summary>configuration</summary><pre>{config}</pre></details>\n"


def main(snakemake) -> None:
    """Run the rule ``provenance``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        found = {
            "config": settings["config"],
            "code": settings["digests"],
            "commit": settings["commit"],
            "data": data_digests(snakemake.input.subsets),
            **from_logs("results/logs"),
        }
        print(json.dumps(found, indent=1))
        write_json(found, snakemake.output.table)
        with recorded(snakemake.output.page) as partial:
            partial.write_text(in_html(found), encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
