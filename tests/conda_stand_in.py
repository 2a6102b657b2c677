"""A stand-in for conda over py-rattler: only what ``snakemake --use-conda`` asks of conda.

It proves how rules, environment files, activation and scripts are wired. It is not conda, and its
channel holds packages of the right names only: nothing here says that an environment can be solved
on conda-forge. The environment's python is this interpreter, which writes down what it ran.
"""

import asyncio
import bz2
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path

import yaml

VIRTUAL_OF = {"pytorch-gpu": "__cuda"}  # what conda-forge's package asks of the machine


def lowest(bound: str) -> str:
    """Return the lower bound of a version range such as >=1.2,<2."""
    return re.search(r">=([\d.]+)", bound)[1]


def package(folder: Path, name: str, version: str, files: dict[str, str]) -> tuple[str, dict]:
    """Write one conda package; return its file name and its record in the channel's index."""
    depends = [VIRTUAL_OF[name]] if name in VIRTUAL_OF else []
    index = dict(name=name, version=version, build="0", build_number=0, depends=depends)
    index |= dict(subdir="linux-64", arch="x86_64", platform="linux")
    paths = [
        dict(
            _path=path,
            path_type="hardlink",
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            size_in_bytes=len(text.encode()),
        )
        for path, text in files.items()
    ]
    content = files | {
        "info/index.json": json.dumps(index),
        "info/files": "".join(f"{path}\n" for path in files),
        "info/paths.json": json.dumps(dict(paths=paths, paths_version=1)),
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path, text in content.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    data = bz2.compress(raw.getvalue())
    file = f"{name}-{version}-0.tar.bz2"
    (folder / file).write_bytes(data)
    sums = dict(md5=hashlib.md5(data).hexdigest(), sha256=hashlib.sha256(data).hexdigest())
    return file, index | sums | dict(size=len(data))


def make_channel(folder: Path, specs: set[str]) -> str:
    """Write a channel with one package for each "name bound" and return its address."""
    for part in ("linux-64", "noarch"):
        (folder / part).mkdir(parents=True)
    python = f'#!/bin/sh\necho "$@" >> "$CONDA_PREFIX/used"\nexec {sys.executable} "$@"\n'
    packages = {}
    for spec in sorted(specs):
        name, bound = spec.split(" ", 1)
        files = {f"bin/{alias}": python for alias in ("python", "python3")}
        file, record = package(
            folder / "linux-64", name, lowest(bound), files if name == "python" else {}
        )
        packages[file] = record
    for part, found in (("linux-64", packages), ("noarch", {})):
        index = dict(info=dict(subdir=part), packages=found, removed=[], repodata_version=1)
        index["packages.conda"] = {}
        (folder / part / "repodata.json").write_text(json.dumps(index))
    return folder.as_uri()


async def create(prefix: str, specs: list[str]) -> None:
    """Solve the specifications on the local channel and install them."""
    from rattler import VirtualPackage, install, solve

    records = await solve(
        sources=[os.environ["SPEEDLIMITS_CHANNEL"]],
        specs=specs,
        virtual_packages=VirtualPackage.detect(),
    )
    # beside the channel: two tests at once would share rattler's own
    cache = Path(os.environ["SPEEDLIMITS_CHANNEL"].removeprefix("file://")).parent / "packages"
    await install(records, target_prefix=prefix, cache_dir=cache, show_progress=False)


def main(arguments: list[str]) -> None:
    """Answer one call of conda.

    Raises:
        SystemExit: if the call is none that Snakemake makes.
    """
    base = str(Path(os.environ["PATH"].split(":")[0]).parent)
    if arguments[:1] == ["--version"]:
        print("conda 24.7.1")
    elif arguments[:1] == ["info"]:
        told = dict(conda_prefix=base, platform="linux-64", conda_version="24.7.1")
        print(json.dumps(told))
    elif arguments[:1] == ["config"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif arguments[:2] == ["env", "create"]:
        file = arguments[arguments.index("--file") + 1]
        prefix = arguments[arguments.index("--prefix") + 1]
        specs = yaml.safe_load(Path(file).read_text(encoding="utf-8"))["dependencies"]
        asyncio.run(create(prefix, specs))
    elif arguments[:1] != ["clean"]:
        raise SystemExit(f"the stand-in for conda has no answer to: conda {' '.join(arguments)}")


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # rattler's threads may still run, and then crash an interpreter that shuts down
