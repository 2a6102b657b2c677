"""A cluster's jobs compute with what they were planned with, or are refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import verify
import xarray as xr
import yaml
from checkouts import checkout
from conftest import ROOT
from snakemake.utils import update_config

from pipeline import files, planned, workdir
from pipeline.config import validated
from pipeline.interruption import LAUNCHER
from pipeline.own_code import own_digest
from pipeline.runs import Plan, Refusal
from pipeline.settings import RuleSettings

SUBSET = "results/data/digits/n8-balanced-subset0.nc"
JOB = ["--mode", "remote", "--nolock", "--force", "--target-jobs"]


def configuration(**changes):
    """Return the miniature's configuration, checked."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, yaml.safe_load((ROOT / "tests/miniature.yaml").read_text()))
    return validated(config | changes, [], {})


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A checkout whose Snakemake, of seed 5, has stored what its queued jobs were planned with."""
    checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LAUNCHER, "login 1 2")
    monkeypatch.setenv(planned.PLANNED, "")
    config = configuration(seed=5)
    settings = RuleSettings(config, Plan(config))
    planned.store(config, settings.models(), settings.files())
    return tmp_path


def snakemake(folder, *arguments):
    """Run snakemake on the miniature, whose seed is not 5, in a checkout."""
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "1"]
    command += ["--configfile", str(ROOT / "tests/miniature.yaml")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90)
    return done.returncode, done.stdout + done.stderr


def test_a_queued_job_computes_with_what_it_was_planned_with(queue):
    """And neither with an edited configuration nor with edited code."""
    images = "results/data/digits/images.nc"
    for target in ("prepare:dataset=digits", "subset:dataset=digits,subset=n8-balanced-subset0"):
        status, told = snakemake(queue, *JOB, target)
        assert status == 0, told
    with xr.open_dataset(queue / SUBSET) as subset:
        assert json.loads(subset.attrs["config"])["seed"] == 5
    (queue / SUBSET).unlink()
    script = queue / "scripts/subset.py"
    script.write_text(script.read_text() + "\n# a comment changes nothing\n")
    assert snakemake(queue, *JOB, "subset:dataset=digits,subset=n8-balanced-subset0")[0] == 0
    library = queue / "scripts/speedlimits/subsets.py"
    library.write_text(library.read_text() + "\nADDED = 1\n")
    status, told = snakemake(queue, *JOB, "subset:dataset=digits,subset=n8-balanced-subset0")
    assert status != 0 and "Traceback" not in told
    assert "scripts/speedlimits/subsets.py has changed since this job of the rule subset" in told
    assert (queue / SUBSET).exists() and (queue / images).exists()


def test_jobs_of_a_snakemake_that_was_replaced_are_refused(queue):
    status, told = snakemake(queue, "results/data/digits/images.nc")  # nobody holds the lock
    assert status == 0, told
    before = (queue / "results/data/digits/images.nc").stat()
    status, told = snakemake(queue, *JOB, "prepare:dataset=digits")
    assert status != 0 and "another one has taken over" in told and "Traceback" not in told
    assert (queue / "results/data/digits/images.nc").stat() == before


def test_jobs_that_share_no_file_system_plan_themselves(queue, monkeypatch):
    shutil.rmtree(planned.FOLDER)
    assert planned.stored() is None
    monkeypatch.delenv(planned.PLANNED)
    planned.FOLDER.mkdir()
    assert planned.stored() is None


def test_what_is_stored_is_what_was_planned(queue, monkeypatch):
    found = planned.stored()
    assert found.config == configuration(seed=5)
    assert "plots/outcomes.py" in found.code and "pages/interactive.html" in found.code
    found.check_code("train", "train.py")
    changed = found._replace(code={**found.code, "speedlimits/dynamics.py": "0" * 16})
    with pytest.raises(Refusal, match=r"scripts/speedlimits/dynamics.py has changed"):
        changed.check_code("train", "train.py")
    changed.check_code("subset", "subset.py")  # does not import it
    changed._replace(python="3.0").check_code("train", "train.py")


def test_the_code_of_an_own_network_is_recorded_as_it_was_planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(LAUNCHER, "login 1 2")
    monkeypatch.setenv(planned.PLANNED, "")
    (tmp_path / "mine.py").write_text("def net(input_shape, outputs): ...\n")
    study = {"set": {"model": "mine:net"}, "realisations": 1}
    config = configuration(studies={"own": study}, default_studies=["own"])
    settings = RuleSettings(config, Plan(config))
    planned.store(config, settings.models(), settings.files())
    stored = planned.stored()
    assert stored.models == {"mine:net": own_digest("mine:net")}
    before = stored._replace(models={"mine:net": "0" * 16})  # the file has been edited since
    assert RuleSettings(config, Plan(config), before).models() == {"mine:net": "0" * 16}


def test_results_that_a_dead_snakemake_did_not_record_are_made_again(queue):
    """What a job finished after its Snakemake was killed, whatever became of its lock and marks."""
    stored = next((queue / planned.FOLDER).iterdir())
    assert snakemake(queue, SUBSET)[0] == 0
    stored.touch()  # of a Snakemake whose jobs had not ended
    record = queue / files.snakemake_record(SUBSET)
    assert record.exists()
    with files.recorded(SUBSET) as partial:  # as its job does, of another configuration
        partial.write_bytes((queue / SUBSET).read_bytes())
    assert not record.exists()
    held = workdir._held[:]
    workdir.take_over(alone=False)  # beside one that may be about to record it
    for file in set(workdir._held) - set(held):
        os.close(file)
    workdir._held[:] = held
    assert not any(path.is_file() for path in (queue / ".snakemake/incomplete").rglob("*"))
    (queue / "results/data/NOTES.txt").touch()  # of no rule
    lock = queue / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(f"{SUBSET}\n")
    snakemake(queue, SUBSET, "--summary")  # looks only: jobs that wait may still run
    assert stored.exists()
    status, told = snakemake(queue, SUBSET)
    assert status == 0 and "1 results have no record of what made them" in told
    assert "1 of 1 steps (100%) done" in told and record.exists()
    assert not stored.exists() and "Nothing to be done" in snakemake(queue, SUBSET)[1]


def test_a_result_whose_record_is_cut_short_is_made_again(queue, capsys):
    """As on a full disk: Snakemake ignores such a record, and with it what it would tell of."""
    assert snakemake(queue, SUBSET)[0] == 0
    record = queue / files.snakemake_record(SUBSET)
    whole = record.read_bytes()
    for left in (whole[:300], b"", b"\0" * len(whole), b"\xff\xfe", b"[]", b"null"):
        record.write_bytes(left)
        assert verify.main(Path("results")) == 1
        assert f"what Snakemake recorded of {SUBSET} is cut short" in capsys.readouterr().out
        status, told = snakemake(queue, SUBSET)
        assert status == 0 and "1 results have no record of what made them" in told
        assert "1 of 1 steps (100%) done" in told
        assert verify.main(Path("results")) == 0
    assert "Nothing to be done" in snakemake(queue, SUBSET)[1]


def test_results_of_which_nothing_is_recorded_are_left_with_a_word(queue):
    assert snakemake(queue, SUBSET)[0] == 0
    shutil.rmtree(queue / "results/.metadata")
    status, told = snakemake(queue, SUBSET)
    assert status == 0 and "Nothing to be done" in told and "nothing is recorded" in told


def test_results_judged_by_their_times_alone_are_told_of(queue):
    """As by a line in a profile of one's own: an edit of the configuration would change nothing."""
    assert snakemake(queue, SUBSET)[0] == 0
    other = ("--config", "datasets={digits: {test_count: 500}}")
    status, told = snakemake(queue, SUBSET, "-n", *other)
    assert status == 0 and "params" in told and "rerun triggers lack" not in told
    status, told = snakemake(queue, SUBSET, "-n", *other, "--rerun-triggers", "mtime")
    assert status == 0 and "Nothing to be done" in told
    assert "the rerun triggers lack input and params: results of another configuration" in told


def replaced_below(root):
    return files.made_of_others(root, files.snakemake_records(root))


def test_results_made_of_what_older_results_have_replaced_are_made_again(queue, capsys):
    """As by a backup that is copied over newer results, with its hidden folders and times."""
    images = "results/data/digits/images.nc"
    assert snakemake(queue, SUBSET)[0] == 0
    of_images = [images, files.digest_record(images), files.snakemake_record(images)]
    kept = [(path, queue / f"kept{k}") for k, path in enumerate(of_images)]
    for path, copy in kept:
        shutil.copy2(path, copy)
    before = (queue / SUBSET).read_bytes()
    other = ("--config", "datasets={digits: {test_count: 500}}")
    assert snakemake(queue, SUBSET, *other)[0] == 0 and (queue / SUBSET).read_bytes() != before
    assert not replaced_below("results")
    newer = files.digest_record(images).read_bytes()
    for path, copy in kept:
        shutil.copy2(copy, path)
    assert replaced_below("results") == {SUBSET: images}
    assert replaced_below(queue / "results") == {SUBSET: images}
    assert verify.main(Path("results")) == 1
    assert f"{SUBSET} was made of another {images} than lies here" in capsys.readouterr().out
    os.utime(images)  # younger, which Snakemake sees by itself
    assert not replaced_below("results")
    shutil.copy2(queue / "kept0", images)
    files.digest_record(images).write_bytes(newer)  # the very file, whatever its time
    assert not replaced_below("results")
    files.digest_record(images).write_text("")  # half a copy: of this one nothing is known
    assert not replaced_below("results")
    shutil.copy2(queue / "kept1", files.digest_record(images))
    status, told = snakemake(queue, SUBSET)
    assert status == 0 and "1 results were made of others than lie here" in told
    assert "1 of 1 steps (100%) done" in told and (queue / SUBSET).read_bytes() == before
    assert verify.main(Path("results")) == 0
    assert "Nothing to be done" in snakemake(queue, SUBSET)[1]


def test_a_result_that_could_not_be_written_keeps_its_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = files.snakemake_record("results/data/table.csv")
    assert record.parent == tmp_path.joinpath("results/.metadata").relative_to(tmp_path)
    record.parent.mkdir(parents=True)
    record.touch()
    Path("results/data").mkdir()
    with pytest.raises(OSError, match="full"), files.recorded("results/data/table.csv"):
        raise OSError("full")
    assert record.exists()
    with files.recorded("results/data/table.csv") as partial:
        partial.touch()
    assert not record.exists()


def test_what_was_planned_is_removed_when_all_jobs_are_done(queue):
    other = planned.FOLDER / "other.json"
    other.touch()
    planned.finished()
    assert planned.left() == [other]


def test_records_are_named_as_snakemake_names_them(tmp_path):
    from snakemake.persistence.file import FilePersistence

    named = FilePersistence.__new__(FilePersistence)
    named._max_len = None
    for path in (SUBSET, "results/" + "long" * 200, "results/ü"):
        ours = tmp_path / files.record_name(path, tmp_path)
        assert os.fspath(ours) == named._record_path(os.fspath(tmp_path), path)
