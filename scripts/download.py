"""Fetch the CIFAR-10 python archive, or take the user's own, and check its SHA-256.

Nothing half-written is left behind: the archive appears under its name once its digest is right.
"""

import quick_start  # noqa: F401

import re
import shutil
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlparse

import pooch
import requests
from requests.utils import get_environ_proxies, select_proxy

from pipeline.cifar10 import MIRRORS, OFFICIAL_URL
from pipeline.files import file_digest, record_digest, replaced
from pipeline.interruption import FULL
from pipeline.log import logged

ATTEMPTS = 3  # own choice: a passing fault rarely lasts three tries
PAUSE = 2.0  # seconds before the second try, four times that before the third; own choice
PASSING = (408, 425, 429)  # the answers 4xx that ask for another try (RFC 9110, 8470, 6585)
CONNECT_TIMEOUT, READ_TIMEOUT = 15, 60  # seconds without an answer; own choice
SLOWEST_BYTES_PER_SECOND = 10_000  # mean over READ_TIMEOUT; the archive would take 5 hours at it
CHUNK_BYTES = 1024  # small, because a slow host is noticed only after a whole one
CAUSE = "(Caused by "  # in errors of requests; before it stand the host and the path once more
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
        OSError: if the disk is full, which no other attempt helps.
    """  # noqa: DOC501 (the errors of single attempts are gathered into one)
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
                if isinstance(error, OSError) and error.errno in FULL:
                    raise  # no other attempt makes room on the disk
                reason = " ".join(str(error).split())
                reason = (reason.partition(CAUSE)[2] or reason)[:200]
                failures.append(f"{url}{by_proxy(url)}: {type(error).__name__}: {reason}")
                print(f"attempt {attempt} of {ATTEMPTS} failed: {failures[-1]}")
                status = status_of(error)
                if 400 <= status < 500 and status not in PASSING:
                    break  # the host refuses this request for good, a fault 5xx may pass
                if attempt < ATTEMPTS:
                    sleep(PAUSE * 4 ** (attempt - 1))
    raise DownloadError(
        f"CIFAR-10 could not be downloaded ({'; '.join(dict.fromkeys(failures))}); {HELP}"
    )


def by_proxy(url: str) -> str:
    """Return in words the proxy that the environment sets for a URL, without its password."""
    proxy = select_proxy(url, get_environ_proxies(url))
    return f" by the proxy {proxy.rpartition('@')[2]}" if proxy else ""


def status_of(error: Exception) -> int:
    """Return the status that the host answered, or the proxy asked for a way to it; 0 for none."""
    by_tunnel = re.search(r"Tunnel connection failed: (\d{3})", str(error))
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return int(by_tunnel[1]) if by_tunnel else status


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
    pooch.retrieve(
        url, f"sha256:{sha256}", fname=target.name, path=target.parent, downloader=stream
    )


def stream(url: str, output: str, _pooch: object) -> None:
    """Write the answer of a host to a file, and give up a host that is silent or far too slow.

    Args:
        url: http(s) address.
        output: file to write.

    Raises:
        requests.RequestException: if the host does not deliver.
        requests.Timeout: if it is silent or far too slow.
    """
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    as_it_is = {"Accept-Encoding": "identity"}
    with (
        requests.get(url, stream=True, timeout=timeout, headers=as_it_is) as answer,
        open(output, "wb") as file,
    ):
        answer.raise_for_status()
        # Some hosts call the archive's own compression that of the transfer, to be undone.
        answer.raw.headers.pop("Content-Encoding", None)
        announced = int(answer.headers.get("Content-Length", 0))
        since, received, total = monotonic(), 0, 0
        for part in answer.iter_content(CHUNK_BYTES):
            file.write(part)
            received, total = received + len(part), total + len(part)
            seconds = monotonic() - since
            if seconds > READ_TIMEOUT:
                print(f"{total / 1e6:.1f} of {announced / 1e6:.1f} MB")
                if received < SLOWEST_BYTES_PER_SECOND * seconds:
                    raise requests.Timeout(f"only {received} bytes came in {seconds:.0f} s")
                since, received = monotonic(), 0


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
    found = file_digest(source)
    if found != sha256:
        raise DownloadError(
            f"{source} has the SHA-256 {found}, but datasets.cifar10.sha256 is {sha256}; the file "
            "is damaged or another one: fetch it again or correct the key"
        )
    with replaced(target) as partial:
        shutil.copyfile(source, partial)


def main(snakemake) -> None:
    """Run the rule ``download``."""
    sha256 = snakemake.params.settings["sha256"]
    # No parameter: the same archive from another place makes no result stale.
    archive = snakemake.config["datasets"].get("cifar10", {}).get("archive")
    with logged(snakemake.log[0]):
        target = Path(snakemake.output[0])
        fetch(archive, sha256, target)
        record_digest(target, sha256)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
