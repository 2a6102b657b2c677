"""From the archive to the subset: strict reading, checked downloads, nested subsets."""

import codecs
import gzip
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import time

import download
import numpy as np
import prepare
import pytest
import subset

from pipeline.cifar10 import ArchiveError, read_archive
from pipeline.files import file_digest
from pipeline.stores import read_netcdf


def batch_bytes(count, seed, labels=None):
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, size=(count, 3072), dtype=np.uint8)
    labels = [int(k) % 10 for k in range(count)] if labels is None else labels
    # Protocol 3 keeps bytes as bytes, as the Python 2 pickles of the official files do.
    return pickle.dumps({"data": data, "labels": labels, "batch_label": "x"}, protocol=3)


def write_archive(path, batches):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def good_batches(count=20):
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    return {name: batch_bytes(count, seed) for seed, name in enumerate(names)}


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "small.tar.gz", good_batches())


def test_archive_is_read_as_it_was_written(archive):
    data = read_archive(archive)
    assert data["train_images"].shape == (100, 3, 32, 32)
    assert data["test_images"].shape == (20, 3, 32, 32)
    written = pickle.loads(good_batches()["data_batch_3"])  # our own bytes
    assert np.array_equal(data["train_images"][40:60].reshape(20, 3072), written["data"])
    assert np.array_equal(data["train_labels"][40:60], written["labels"])


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_subset_that_python_3_has_pickled_is_read(tmp_path, protocol, kind):
    """As who cuts one with pickle.load(file, encoding="bytes") or "latin1" writes it again."""
    batches = {}
    for name, content in good_batches().items():
        batch = {kind(key): value for key, value in pickle.loads(content).items()}
        batches[name] = pickle.dumps(batch, protocol=protocol)
    found = read_archive(write_archive(tmp_path / "cut.tar.gz", batches))
    wanted = read_archive(write_archive(tmp_path / "whole.tar.gz", good_batches()))
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


class Malicious:
    def __reduce__(self):
        return (open, ("owned.txt", "w"))


class Encoded:
    def __reduce__(self):
        return (codecs.encode, ("text", "rot13"))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (pickle.dumps({"data": Malicious(), "labels": [0]}, protocol=3), "do not trust"),
        (pickle.dumps({"data": Encoded(), "labels": [0]}, protocol=3), "do not trust"),
        (pickle.dumps([1, 2, 3], protocol=3), "no CIFAR-10 batch"),
        (pickle.dumps({"labels": [0]}, protocol=3), "no CIFAR-10 batch"),
        (batch_bytes(3, 0, labels=[0, 1, 10]), "labels outside"),
        (batch_bytes(3, 0, labels=[0, 1]), "no CIFAR-10 batch"),
        (b"not a pickle", "no CIFAR-10 batch"),
        (b"", "no CIFAR-10 batch"),
    ],
)
def test_foreign_content_is_refused_and_runs_nothing(tmp_path, monkeypatch, batch, words):
    monkeypatch.chdir(tmp_path)
    path = write_archive(tmp_path / "bad.tar.gz", good_batches() | {"data_batch_2": batch})
    with pytest.raises(ArchiveError, match=words):
        read_archive(path)
    assert not (tmp_path / "owned.txt").exists()


def files_below(folder):
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (status.st_ino, status.st_ctime_ns) for path, status in found.items()}


@pytest.mark.parametrize(
    "name", ["../evil", "{folder}/evil", "cifar-10-batches-py/../../evil", "way_out/evil"]
)
@pytest.mark.parametrize("kind", ["file", "symbolic link", "hard link"])
def test_members_that_lead_outside_do_nothing(tmp_path, monkeypatch, name, kind):
    """Path traversal, an absolute path and a way through a link, beside the six good batches."""
    inside, outside = tmp_path / "outside/inside", tmp_path / "outside"
    inside.mkdir(parents=True)
    (outside / "there").write_text("as it was")
    path = write_archive(tmp_path / "bad.tar.gz", good_batches(2))
    with tarfile.open(tmp_path / "plain.tar", "w") as tar, tarfile.open(path) as good:
        way_out = tarfile.TarInfo("way_out")
        way_out.type, way_out.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(way_out)
        evil = tarfile.TarInfo(name.format(folder=outside))
        if kind == "file":
            evil.size = 4
        else:
            evil.type = tarfile.SYMTYPE if kind == "symbolic link" else tarfile.LNKTYPE
            evil.linkname = str(outside / "there")
        tar.addfile(evil, io.BytesIO(b"evil"))
        for member in good:
            tar.addfile(member, good.extractfile(member))
    path.write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    monkeypatch.chdir(inside)
    before = files_below(tmp_path)
    assert len(read_archive(path)["train_images"]) == 10
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_batches_that_are_links_are_refused(tmp_path, kind):
    """To a file outside that holds a good batch: it must not be read."""
    (tmp_path / "batch").write_bytes(batch_bytes(2, 0))
    link = tmp_path / "link.tar.gz"
    with tarfile.open(link, "w:gz") as tar:
        for name in good_batches():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.type, member.linkname = kind, str(tmp_path / "batch")
            tar.addfile(member)
    with pytest.raises(ArchiveError, match="no plain file"):
        read_archive(link)


def test_missing_members_and_truncation_are_refused(tmp_path, archive):
    fewer = {k: v for k, v in good_batches(2).items() if k != "test_batch"}
    with pytest.raises(ArchiveError, match="test_batch"):
        read_archive(write_archive(tmp_path / "fewer.tar.gz", fewer))
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(ArchiveError, match="no readable CIFAR-10"):
        read_archive(cut)
    (tmp_path / "text.tar.gz").write_text("hello")
    with pytest.raises(ArchiveError, match="no readable CIFAR-10"):
        read_archive(tmp_path / "text.tar.gz")


def test_local_archive_is_checked_and_copied(tmp_path, archive):
    target = tmp_path / "copy.tar.gz"
    download.fetch(str(archive), file_digest(archive), target)
    assert target.read_bytes() == archive.read_bytes()


def test_local_archive_missing_or_wrong(tmp_path, archive):
    target = tmp_path / "copy.tar.gz"
    with pytest.raises(download.DownloadError, match="is no file; correct the path"):
        download.fetch(str(tmp_path / "nowhere.tar.gz"), "0" * 64, target)
    with pytest.raises(download.DownloadError, match="damaged or another"):
        download.fetch(str(archive), "0" * 64, target)
    assert not target.exists()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses between attempts, counted and not waited for."""
    waited = []
    monkeypatch.setattr(download, "sleep", waited.append)
    return waited


@pytest.fixture
def server(archive):
    """A server that delivers, breaks off, errs or redirects."""
    content = archive.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        requests = []

        def do_GET(self):
            self.requests.append(self.path)
            if self.path == "/redirect":
                self.send_response(302)
                self.send_header("Location", "/good")
                self.end_headers()
                return
            if self.path in ("/404", "/500"):
                self.send_error(int(self.path[1:]))
                return
            if self.path == "/flaky" and self.requests.count("/flaky") < 3:
                self.send_error(503)
                return
            body = content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if self.path.endswith("/labelled"):
                self.send_header("Content-Encoding", "x-gzip")
            self.end_headers()
            if self.path.startswith("/truncated"):
                body = body[: len(body) // 2]
            if self.path == "/corrupt":
                body = b"x" + body[1:]
            if self.path in ("/stalled", "/slow"):
                for k in range(6):
                    self.wfile.write(body[2048 * k : 2048 * (k + 1)])
                    time.sleep(2 if self.path == "/stalled" else 0.4)
                return
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", content
        running.shutdown()


@pytest.mark.parametrize("path", ["good", "redirect", "flaky", "labelled"])
def test_download_delivers(tmp_path, server, path):
    address, content = server
    target = tmp_path / "out" / "archive.tar.gz"
    target.parent.mkdir()
    download.fetch(f"{address}/{path}", hashlib.sha256(content).hexdigest(), target)
    assert target.read_bytes() == content


@pytest.mark.parametrize("path", ["404", "500", "truncated", "truncated/labelled", "corrupt"])
def test_download_fails_in_one_sentence_and_leaves_nothing(tmp_path, server, path):
    address, content = server
    target = tmp_path / "out" / "archive.tar.gz"
    target.parent.mkdir()
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(f"{address}/{path}", hashlib.sha256(content).hexdigest(), target)
    message = str(caught.value)
    assert "\n" not in message and "datasets.cifar10.archive" in message and "make demo" in message
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "attempts"),
    [("404", 1), ("500", 3), ("truncated", 3), ("corrupt", 3), ("stalled", 3), ("slow", 3)],
)
def test_only_what_may_pass_is_tried_again(
    tmp_path, server, monkeypatch, capsys, path, attempts, pauses
):
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.5)
    address, content = server
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(
            f"{address}/{path}", hashlib.sha256(content).hexdigest(), tmp_path / "out.tar.gz"
        )
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out.count(" failed: ") == attempts
    assert pauses == [2.0, 8.0][: attempts - 1]
    assert not (tmp_path / "out.tar.gz").exists()
    if path == "slow":
        assert "bytes came in" in str(caught.value)


def set_proxy(monkeypatch, address):
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, address)
        monkeypatch.setenv(name.lower(), address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")


def test_absent_proxy_fails_in_one_sentence(tmp_path, monkeypatch, capsys):
    set_proxy(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(download.DownloadError, match="127.0.0.1:9: ProxyError") as caught:
        download.fetch("http://example.invalid/a.tar.gz", "0" * 64, tmp_path / "a.tar.gz")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out.count(" failed: ") == download.ATTEMPTS


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that answers every request with the number that begins the host's name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(int(self.path.removeprefix("http://")[:3]))

        def do_CONNECT(self):
            self.send_error(int(self.path[:3]))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{running.server_address[1]}"
        set_proxy(monkeypatch, f"http://somebody:secret@{address}")
        yield address
        running.shutdown()


@pytest.mark.parametrize(("status", "attempts"), [("403", 1), ("407", 1), ("503", 3)])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refusing_proxy_is_named_in_one_sentence(
    tmp_path, proxy, capsys, pauses, scheme, status, attempts
):
    """Plain requests go through the proxy, encrypted ones ask it for a tunnel."""
    url = f"{scheme}://{status}.invalid/archive.tar.gz"
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(url, "0" * 64, tmp_path / "a.tar.gz")
    message = str(caught.value)
    assert f"{url} by the proxy {proxy}: " in message and f" {status} " in message
    assert "\n" not in message and "secret" not in message and "make demo" in message
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out.count("attempt ") == attempts
    assert pauses == [2.0, 8.0][: attempts - 1]


def test_unreachable_host_fails_in_one_sentence(tmp_path):
    with pytest.raises(download.DownloadError, match="could not be downloaded"):
        download.fetch("http://127.0.0.1:9/archive.tar.gz", "0" * 64, tmp_path / "a.tar.gz")
    assert list(tmp_path.iterdir()) == []


def prepared_and_subsets(job, tmp_path, dataset, test_count, sizes, archive=None):
    settings = {"dataset": dataset, "test_count": test_count, "code": "x"}
    job(
        prepare.main,
        inputs={"archive": str(archive)} if archive else {},
        outputs={"images": "images.nc"},
        settings=settings,
    )
    found = []
    for n in sizes:
        job(
            subset.main,
            inputs={"images": "images.nc"},
            outputs={"subset": f"n{n}.nc"},
            settings=settings
            | {"n": n, "selection": "balanced", "subset": 0, "seed": 5}
            | {"label_noise": 0},
        )
        found.append(read_netcdf(f"n{n}.nc"))
    return read_netcdf("images.nc"), found


def test_digits_subsets_are_nested_normalised_and_described(job, tmp_path):
    prepared, (small, large) = prepared_and_subsets(job, tmp_path, "digits", 297, [20, 50])
    assert prepared["train_inputs"].shape == (1500, 1, 8, 8)
    assert np.array_equal(small["indices"], large["indices"][:20])
    assert np.array_equal(np.bincount(large["train_labels"]), [5] * 10)
    pixels = prepared["train_inputs"].values
    mean, deviation = pixels.mean(), pixels.std()
    expected = (pixels[large["indices"].values] - mean) / deviation
    np.testing.assert_allclose(large["train_inputs"], expected, atol=1e-6)
    assert len(large["test_labels"]) == 297
    for variable in (*prepared.variables.values(), *small.variables.values()):
        assert {"units", "long_name"} <= set(variable.attrs)
    assert {"config", "versions", "indices_sha256"} <= set(small.attrs)


def test_too_large_a_subset_is_refused_with_the_numbers(job, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepared_and_subsets(job, tmp_path, "digits", 1700, [98])
    assert "n is 98, but digits holds 97" in capsys.readouterr().err


def test_real_cifar10_images(job, tmp_path, cifar10_archive):
    prepared, (small,) = prepared_and_subsets(
        job, tmp_path, "cifar10", 500, [40], archive=cifar10_archive
    )
    assert prepared["train_inputs"].shape[1:] == (3, 32, 32)
    assert len(np.unique(prepared["train_labels"])) == 10
    # The published means of CIFAR-10's channels are about 125, 123, 114.
    np.testing.assert_allclose(prepared["input_mean"], [125.3, 123.0, 113.9], atol=3)
    assert np.array_equal(np.bincount(small["train_labels"]), [4] * 10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [0.485, 0.1, 1e-3, 255.0, 1 / 3])
def test_a_component_that_is_constant_is_told_whatever_rounding_does(value, dtype):
    inputs = np.random.default_rng(0).standard_normal((700, 3)).astype(dtype)
    inputs[:, 1] = value
    with pytest.raises(ValueError, match="component 1 .* constant"):
        prepare.normalisation(inputs, True)
