"""Fetch the CIFAR-10 python archive, or take the user's own, and check its SHA-256.

Nothing half-written is left behind: the archive appears under its name once its digest is right.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import urlparse

import pooch
import requests

from pipeline.cifar10 import MIRRORS, OFFICIAL_URL, sha256_of
from pipeline.log import logged

ATTEMPTS = 3  # own choice: a passing fault rarely lasts three tries
CONNECT_TIMEOUT, READ_TIMEOUT = 15, 60  # seconds without an answer; own choice
HELP = (
    "put the archive on this machine, set datasets.cifar10.archive to its path and "
    "datasets.cifar10.sha256 to its SHA-256; the demo (make demo) needs no download"
)


class DownloadError(RuntimeError):
    """The archive could not be had."""


def fetch(archive: str | None, sha256: str, target: Path) -> None:
    """Bring the archive to ``target``.

    Args:
        archive: local path or URL; None takes the official URL, then its mirrors.
        sha256: digest that the archive must have.
        target: file to write.

    Raises:
        DownloadError: in one sentence: what failed and what to do.
    """
    if archive is not None and urlparse(archive).scheme not in ("http", "https"):
        copy_local(Path(archive).expanduser(), sha256, target)
        return
    failures = []
    for url in (OFFICIAL_URL, *MIRRORS) if archive is None else (archive,):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                download(url, sha256, target)
                return
            except (OSError, ValueError, requests.RequestException) as error:
                reason = " ".join(str(error).split())[:200]
                failures.append(f"{url}: {type(error).__name__}: {reason}")
                print(f"attempt {attempt} of {ATTEMPTS} failed: {failures[-1]}")
    raise DownloadError(
        f"CIFAR-10 could not be downloaded ({'; '.join(dict.fromkeys(failures))}); {HELP}"
    )


def download(url: str, sha256: str, target: Path) -> None:
    """Download one URL and check it; the file appears only if its digest is right.

    Args:
        url: http(s) address.
        sha256: digest that the file must have.
        target: file to write.

    Raises:
        ValueError: if the digest differs (pooch).
        requests.RequestException: if the host does not deliver.
    """
    print(f"downloading {url}")
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
    pooch.retrieve(
        url, f"sha256:{sha256}", fname=target.name, path=target.parent, downloader=downloader
    )


def copy_local(source: Path, sha256: str, target: Path) -> None:
    """Copy a local archive after checking it.

    Args:
        source: the user's archive.
        sha256: digest that it must have.
        target: file to write.

    Raises:
        DownloadError: if it is missing or has another digest.
    """
    if not source.is_file():
        raise DownloadError(
            f"datasets.cifar10.archive is {source}, which is no file; correct the path, or remove "
            "the key to download the official archive"
        )
    found = sha256_of(source)
    if found != sha256:
        raise DownloadError(
            f"{source} has the SHA-256 {found}, but datasets.cifar10.sha256 is {sha256}; the file "
            "is damaged or another one: fetch it again or correct the key"
        )
    partial = target.with_name(target.name + ".partial")
    try:
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def main(snakemake) -> None:
    """Run the rule ``download``."""
    settings = snakemake.params.settings
    with logged(snakemake.log[0]):
        fetch(settings["archive"], settings["sha256"], Path(snakemake.output[0]))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
