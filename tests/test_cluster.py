"""GPU jobs one at a time, conda environments, profiles: what needs no cluster.

There is no conda-forge in these tests, so no environment is solved; the wiring from a rule to its
environment file, its activation and its script runs with conda_stand_in.py in conda's place.
"""

import io
import itertools
import os
import re
import shutil
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
import yte
from checkouts import checkout, snakemake
from conftest import ROOT

from pipeline import inputs
from pipeline.config import validated
from pipeline.runs import Plan
from pipeline.settings import RuleSettings
from pipeline.workdir import TRIGGERS

GPU_RULES = {"time_unit", "train", "ntk_start", "ntk_warm", "ntk_end"}
NEED_TORCH = {"infinite_width", "time_unit", "train", "ntk", "theory_langevin"}
CLOCK = """
rule all:
    input: expand("{kind}{k}.txt", kind=["with_gpu", "without"], k=range(3))
rule with_gpu:
    output: "with_gpu{k}.txt"
    resources: gpu=1
    shell: "date +%s.%N > {output}; sleep 0.7; date +%s.%N >> {output}"
rule without:
    output: "without{k}.txt"
    resources: gpu=0
    shell: "date +%s.%N > {output}; sleep 0.7; date +%s.%N >> {output}"
"""


def overlaps(folder, kind):
    """Return how many pairs of jobs of one kind ran at the same time."""
    spans = [tuple(map(float, (folder / f"{kind}{k}.txt").read_text().split())) for k in range(3)]
    pairs = itertools.combinations(spans, 2)
    return sum(max(a[0], b[0]) < min(a[1], b[1]) for a, b in pairs)


def test_plain_command_never_overlaps_gpu_jobs(tmp_path):
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    (tmp_path / "Snakefile").write_text(CLOCK)
    process = snakemake(tmp_path, "--cores", "8", configfile=None)
    assert process.returncode == 0, process.stderr[-3000:]
    assert overlaps(tmp_path, "with_gpu") == 0
    assert overlaps(tmp_path, "without") > 0  # the clock sees jobs that do overlap


@pytest.mark.parametrize(("device", "gpus"), [("cuda", "1"), ("cpu", "0")])
def test_gpu_rules_ask_for_a_gpu_where_one_is_used(tmp_path, device, gpus):
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text())
    config["compute"] = {"device": device}
    path = tmp_path / "device.yaml"
    path.write_text(yaml.safe_dump(config))
    folder = tmp_path / "checkout"
    folder.mkdir()
    for rules in (checkout(folder) / "rules").glob("*.smk"):  # a message hides the resources
        rules.write_text(re.sub(r' +message:\n +".*"\n', "", rules.read_text()))
    process = snakemake(folder, "-n", configfile=path)
    assert process.returncode == 0, process.stderr[-3000:]
    text = process.stdout + process.stderr
    blocks = re.findall(r"^rule (\w+):\n((?: +.*\n)+)", text, re.MULTILINE)
    found = {(name, *re.findall(r"\bgpu=(\d)", block)) for name, block in blocks}
    assert {entry for entry in found if entry[0] in GPU_RULES} == {(r, gpus) for r in GPU_RULES}
    assert all(len(entry) == 1 for entry in found if entry[0] not in GPU_RULES)


def test_slurm_profile_names_rules_that_exist():
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    assert set(profile["set-resources"]) | set(profile["groups"]) <= slurm_rules().keys()
    assert set(profile["group-components"]) == set(profile["groups"].values())
    default = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    for key in ("rerun-triggers", "max-checksum-file-size"):
        assert profile[key] == default[key]
    assert set(default["rerun-triggers"]) == TRIGGERS
    # A limit here would count over the whole cluster.
    assert "gpu" not in profile.get("resources", {})
    partitions = yaml.safe_load((ROOT / "profiles/slurm/partitions.yaml").read_text())
    gpu = {name: limits["max_gpu"] for name, limits in partitions["partitions"].items()}
    assert sorted(count > 0 for count in gpu.values()) == [False, True]


@pytest.mark.parametrize(
    "words",
    [
        ["--workflow-profile", "profiles/mine"],
        ["--workflow-profile=profiles/mine"],
        ["--workflow-profile", "mine"],
        ["--workflow-profile", "profiles/mine/config.yaml"],
        ["--profile", "profiles/mine", "--workflow-profile", "none"],
        ["--profile", "profiles/other", "--workflow-profile=profiles/mine"],
    ],
)
def test_a_profile_takes_the_partitions_beside_it(tmp_path, monkeypatch, words):
    """The plugin would look for them from the working folder, the profile knows where it is."""
    for name in ("mine", "other"):
        shutil.copytree(ROOT / "profiles/slurm", tmp_path / "profiles" / name)
    monkeypatch.chdir(tmp_path)
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), *words, "--directory", "x"]
    monkeypatch.setattr(sys, "argv", command)
    profile = (ROOT / "profiles/slurm/config.yaml").read_text()
    found = yte.process_yaml(io.StringIO(profile), require_use_yte=True)
    assert found["slurm-partition-config"] == str(tmp_path / "profiles/mine/partitions.yaml")


def test_kernels_ask_the_node_for_what_the_card_does_not_hold():
    def asked(device, attempt):
        config = yaml.safe_load((ROOT / "config.yaml").read_text())
        config["compute"]["device"] = device
        config["kernel"]["memory_gb"] = 40.0
        config = validated(config, [], {})
        settings = RuleSettings(config, Plan(config))
        wildcards = SimpleNamespace(dataset="cifar10", subset="n512-balanced-subset0")
        return inputs.kernel_megabytes(settings)(wildcards, attempt)

    matrices = 4 * (512 * 10) ** 2 * 8 / 1e6
    assert asked("cpu", 1) == int(1000 + 40_000 + matrices)
    assert asked("cuda", 1) == int(4000 + matrices)
    assert asked("cuda", 3) == int(2 * (4000 + matrices))


def slurm_rules():
    """Return name -> text of the rules that Slurm runs; "use rule" holds that of the rule used."""
    files = [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
    text = "".join(path.read_text() for path in files)
    local = set(re.findall(r"\w+", "".join(re.findall(r"^localrules:\n((?: +.*\n)+)", text, re.M))))
    body = r":\n((?:\n| +.*\n)+)"
    found = dict(re.findall(r"^rule (\w+)" + body, text, re.M))
    for used, name, changes in re.findall(r"^use rule (\w+) as (\w+) with" + body, text, re.M):
        found[name] = found[used] + changes
    return {
        name: text
        for name, text in found.items()
        if name not in local and "localrule: True" not in text
    }


def test_every_attempt_on_slurm_gets_more_memory_and_time():
    given = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["set-resources"]
    rules = slurm_rules()
    assert rules.keys() == given.keys() and {"all_studies", "theory_langevin"} <= rules.keys()
    for name, text in rules.items():
        # The memory of a kernel follows from n, in a function that knows the attempt.
        wanted = {"runtime"} if "mem_mb=inputs.kernel_megabytes(" in text else {"mem_mb", "runtime"}
        assert given[name].keys() == wanted, name
        for resource, expression in given[name].items():
            once, thrice = (eval(expression, {"attempt": attempt}) for attempt in (1, 3))
            assert thrice == 3 * once, (name, resource)


@pytest.mark.parametrize(
    ("device", "seen", "gpus"),
    [("auto", True, 1), ("auto", False, 0), ("cuda", False, 1), ("cpu", True, 0)],
)
def test_jobs_take_a_gpu_where_one_is_used_or_asked_for(monkeypatch, device, seen, gpus):
    """The environment insists on CUDA only where the configuration does."""
    monkeypatch.setattr(inputs, "gpu_seen", lambda: seen)
    assert inputs.gpu_count(device) == gpus
    assert inputs.torch_environment(device).endswith("-cuda.yaml") == (device == "cuda")


def test_memory_of_a_kernel_follows_from_its_rows(shipped_config):
    """Four arrays of the rows that are decomposed, and one of those that are stored."""
    shipped_config["kernel"] |= {
        "memory_gb": 3.0, "full_rows_limit": 10240, "stored_rows_limit": 20480,
    }  # fmt: skip
    sizes = {1024: (10240, 0), 2048: (2048, 20480), 4096: (4096, 0)}  # ten outputs
    shipped_config["compute"] = {"device": "cpu"}
    shipped_config["studies"] = {"sizes": {"vary": {"n": list(sizes)}, "realisations": 1}}
    plan = Plan(shipped_config)
    megabytes = inputs.kernel_megabytes(RuleSettings(shipped_config, plan))
    for ensemble, (decomposed, stored) in zip(plan.studies["sizes"], sizes.values(), strict=True):
        arrays = 8 * (4 * decomposed**2 + stored**2) / 1e6  # float64
        once, twice = (megabytes(ensemble, attempt) for attempt in (1, 2))
        assert once == pytest.approx(1000 + 3000 + arrays, abs=1)
        assert twice > 1.4 * once


def test_a_group_asks_for_what_a_common_node_has():
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    rules = slurm_rules()
    for name, group in profile["groups"].items():
        members = profile["group-components"][group]
        megabytes = eval(profile["set-resources"][name]["mem_mb"], {"attempt": 1})
        assert re.findall(r"threads: (.+)", rules[name]) == ["1"] and members <= 8, name
        assert members * megabytes <= 16000, name


def test_a_card_is_seen_without_nvidia_smi_too(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for build, seen in (("None", False), ("'6.4.43482'", True)):
        (package / "version.py").write_text(f"cuda: str | None = None\nhip: str | None = {build}\n")
        assert not inputs.gpu_seen(tmp_path)
        (tmp_path / "kfd").touch()  # as on any desktop with AMD's driver
        assert inputs.gpu_seen(tmp_path) == seen
        (tmp_path / "kfd").unlink()
    (tmp_path / "nvidiactl").touch()
    assert not inputs.gpu_seen(tmp_path)
    (tmp_path / "nvidia1").touch()
    assert inputs.gpu_seen(tmp_path)


@pytest.mark.parametrize(
    ("device", "seen", "told"),
    [("auto", False, True), ("auto", True, False), ("cuda", False, False), ("cpu", False, False)],
)
def test_a_login_node_without_gpu_is_told(monkeypatch, capsys, device, seen, told):
    monkeypatch.setattr(inputs, "gpu_seen", lambda: seen)
    inputs.warn_of_cpu_jobs(device)
    assert ("set compute.device to cuda" in capsys.readouterr().err) == told


def test_environment_files_are_valid_and_bounded():
    rattler = pytest.importorskip("rattler", reason="py-rattler is not installed")
    for path in (ROOT / "envs").glob("*.yaml"):
        environment = yaml.safe_load(path.read_text())
        assert environment["channels"] == ["conda-forge"], path.name
        for line in environment["dependencies"]:
            spec = rattler.MatchSpec(line, strict=True)
            assert ">=" in str(spec.version), (path.name, line)
            # xarray counts years: it has no major version that would announce a break
            assert "<" in str(spec.version) or line.startswith("xarray"), (path.name, line)


def test_strict_parser_refuses_what_conda_would_misread():
    rattler = pytest.importorskip("rattler", reason="py-rattler is not installed")
    for line in ("numpy>=2 <3", "foo=>1"):
        with pytest.raises(Exception, match="."):
            rattler.MatchSpec(line, strict=True)


def test_gpu_environment_differs_in_torch_only():
    def dependencies(name):
        return set(yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"])

    assert dependencies("torch-cuda") ^ dependencies("torch") == {
        "pytorch-gpu >=2.6,<3",
        "pytorch >=2.6,<3",
    }


def install_stand_in(folder, channel):
    """Put the stand-in's conda and activate into folder/bin, reading packages from a channel."""
    import conda_stand_in

    (folder / "bin").mkdir(parents=True)
    conda = folder / "bin/conda"
    conda.write_text(
        f"#!/bin/sh\nexec env SPEEDLIMITS_CHANNEL={channel} "
        f'{sys.executable} {conda_stand_in.__file__} "$@"\n'
    )
    conda.chmod(conda.stat().st_mode | stat.S_IXUSR)
    (folder / "bin/activate").write_text('export CONDA_PREFIX="$1"\nexport PATH="$1/bin:$PATH"\n')


def with_conda(folder, *arguments, configfile=ROOT / "tests/miniature.yaml"):
    """Run snakemake --use-conda in a folder with the stand-in first on the path."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--use-conda"]
    command += ["--configfile", str(configfile)]
    environment = os.environ | {"PATH": f"{folder}/conda/bin:{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def conda_checkout(tmp_path):
    """A checkout with the stand-in and a channel that has every package the environments name."""
    pytest.importorskip("rattler", reason="py-rattler is not installed")
    import conda_stand_in

    specs = set()
    for path in (ROOT / "envs").glob("*.yaml"):
        specs |= set(yaml.safe_load(path.read_text())["dependencies"])
    checkout(tmp_path)
    channel = conda_stand_in.make_channel(tmp_path / "channel", specs)
    install_stand_in(tmp_path / "conda", channel)
    return tmp_path


def test_use_conda_runs_scripts_in_the_environment_of_their_rule(conda_checkout):
    target = "results/data/digits/n8-balanced-subset0.nc"
    process = with_conda(conda_checkout, target)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    prefixes = [path for path in (conda_checkout / ".snakemake/conda").iterdir() if path.is_dir()]
    assert len(prefixes) == 1  # envs/data.yaml, the only one that these jobs need
    used = (prefixes[0] / "used").read_text().splitlines()
    assert any("prepare.py" in line for line in used)
    assert any("subset.py" in line for line in used)


def test_cuda_environment_is_refused_without_a_driver(conda_checkout):
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text())
    config["compute"] = {"device": "cuda"}
    path = conda_checkout / "cuda.yaml"
    path.write_text(yaml.safe_dump(config))
    process = with_conda(conda_checkout, "--conda-create-envs-only", configfile=path)
    text = process.stdout + process.stderr
    assert process.returncode != 0 and "torch-cuda.yaml" in text and "__cuda" in text


def test_missing_conda_is_told_before_any_job(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "-n", "--use-conda"]
    command += ["--configfile", str(ROOT / "tests/miniature.yaml")]
    folder = checkout(tmp_path)
    environment = os.environ | {"PATH": "/usr/bin:/bin"}
    if shutil.which("conda", path=environment["PATH"]):
        pytest.skip("conda is part of this system")
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert process.returncode != 0 and "conda" in process.stdout + process.stderr
    assert not (folder / "results/data").exists()


@pytest.mark.parametrize(
    "script", sorted(p.stem for p in (ROOT / "scripts").glob("*.py") if p.stem not in NEED_TORCH)
)
def test_scripts_that_compute_without_torch_do_not_import_it(script):
    code = f"import sys, {script}; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
