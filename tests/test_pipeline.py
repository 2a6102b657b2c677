"""Plan of runs, seeds, code digest, stores with their integrity."""

import itertools
import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import verify
import xarray as xr

from pipeline import code_digest as cd
from pipeline import inputs, training, trajectory
from pipeline.runs import Plan, Refusal
from pipeline.seeds import derived_seed
from pipeline.settings import RULES, RuleSettings
from pipeline.stores import (
    IntegrityError,
    array_digest,
    read_snapshots,
    read_table,
    variable,
    write_snapshots,
    write_table,
)


def wildcards(ensemble):
    class Wildcards:
        dataset, subset = ensemble.dataset, ensemble.subset
        network, dynamics = ensemble.network, ensemble.dynamics
        study, figure, theory_figure = "dataset_size", "training_curves", "convergence"
        realisations = ensemble.name

    return Wildcards


def test_slugs_stand_for_their_settings(shipped_config):
    plan = Plan(shipped_config)
    ensemble = plan.studies["dataset_size"][0]
    assert plan.settings("subset", ensemble.subset) == {
        "n": 64, "selection": "balanced", "subset": 0, "label_noise": 0,
    }  # fmt: skip
    assert plan.settings("network", ensemble.network)["width"] == 32
    assert plan.settings("dynamics", ensemble.dynamics)["final_time"] == 2000
    with pytest.raises(Refusal, match="no study of the configuration"):
        plan.settings("subset", "n7-balanced-subset0")


# One other value for every run setting, and whether it must give another place to the results.
OTHER = {
    "dataset": "digits", "n": 32, "selection": "uniform", "subset": 1, "model": "fully_connected",
    "width": 33, "parameterisation": "standard", "initialisation": "torch_default",
    "targets": "centred_one_hot", "output_scale": 2.5, "subtract_start": True, "label_noise": 0.1,
    "precision": "float64", "dynamics": "gradient_descent", "relative_tolerance": 0.0123456789,
    "final_time": 2000.5, "first_snapshot": 0.2, "time_unit": "absolute", "snapshots_per_decade": 7,
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_every_setting_that_matters_shows_in_the_path(shipped_config, key):
    shipped_config["studies"] = {"one": {"vary": {}, "realisations": 1}}
    before = Plan(shipped_config).studies["one"][0].path
    shipped_config["base"][key] = OTHER[key]
    assert Plan(shipped_config).studies["one"][0].path != before


@pytest.mark.parametrize(
    ("dynamics", "key", "value"),
    [
        ("gradient_descent", "learning_rate", 0.37),
        ("gradient_descent", "learning_rate_unit", "absolute"),
        ("gradient_descent", "beyond_stability", True),
        ("heavy_ball", "momentum", 0.7),
        ("nesterov", "momentum", 0.7),
        ("adam", "momentum", 0.7),
        ("sgd", "batch_size", 7),
        ("langevin", "temperature", 0.37),
        ("gradient_flow", "output_scale", 0.5),
        ("gradient_flow", "subtract_start", True),
    ],
)
def test_what_only_some_dynamics_read_shows_in_their_path_and_settings(
    shipped_config, dynamics, key, value
):
    shipped_config["studies"] = {"one": {"set": {"dynamics": dynamics}, "realisations": 1}}
    before = Plan(shipped_config).studies["one"][0].path
    shipped_config["base"][key] = value
    plan = Plan(shipped_config)
    assert plan.studies["one"][0].path != before
    assert plan.described("one")[0]["settings"][key] == value


@pytest.mark.parametrize("key", ["depth", "patch_size", "learning_rate", "learning_rate_unit"])
def test_settings_that_the_run_does_not_use_change_nothing(shipped_config, key):
    before = Plan(shipped_config).studies["dataset_size"]
    shipped_config["base"][key] = {"learning_rate_unit": "absolute"}.get(key, 2)
    assert Plan(shipped_config).studies["dataset_size"] == before


@pytest.mark.parametrize("place", ["base", "set", "networks"])
@pytest.mark.parametrize(
    ("key", "whole", "decimal"), [("label_noise", 0, 0.0), ("final_time", 50, 50.0)]
)
def test_the_langevin_experiment_is_the_same_however_a_number_is_written(
    shipped_config, place, key, whole, decimal
):
    """Settings of a job are compared as texts: 0.0 for 0 must not make its results anew."""

    langevin = shipped_config["theory"]["langevin"]
    langevin["set"].pop(key, None)
    places = {"base": shipped_config["base"], "set": langevin["set"]}
    given = places.get(place, langevin["networks"][0])

    def planned(value):
        given[key] = value
        plan = Plan(shipped_config)
        settings = RuleSettings(shipped_config, plan).of("theory_langevin")(None)
        return repr(settings), inputs.langevin_subsets(plan, shipped_config)(None)

    assert planned(decimal) == planned(whole)
    assert planned(0.5) != planned(whole)


def test_studies_share_runs(shipped_config):
    shipped_config["studies"]["width"] = {
        "vary": {"width": [16, 32], "n": [512]}, "realisations": 3,
    }  # fmt: skip
    plan = Plan(shipped_config)
    assert len(set(plan.studies["width"]) & set(plan.studies["dataset_size"])) == 1


def test_the_plan_has_the_jobs_that_the_configuration_asks_for(shipped_config):
    """Benchmarks of other runs, of more realisations or of data no longer used are of the past."""
    shipped_config["studies"] = {
        "few": {"set": {"dataset": "digits", "n": 64}, "realisations": 2},
        "many": {"set": {"dataset": "digits", "n": 32}, "realisations": 5},
        "warm": {
            "set": {"dataset": "digits", "n": 32, "warm_start_accuracy": 0.3}, "realisations": 3,
        },
    }  # fmt: skip
    shipped_config["default_studies"] = ["few"]
    plan = Plan(shipped_config)
    (few,) = plan.studies["few"]
    place = {"dataset": "digits", "subset": few.subset, "network": few.network}
    run = place | {"dynamics": few.dynamics}
    small = run | {"subset": plan.studies["warm"][0].subset}
    asked = [
        {}, {"theory_figure": "langevin"}, {"study": "few", "figure": "outcomes"},
        {"dataset": "digits"}, {"dataset": "digits", "subset": few.subset}, place,
        place | {"realisation": "1"}, run | {"realisation": "1"}, run | {"realisations": "2"},
        small | {"realisation": "4"}, small | {"realisations": "5", "realisation": "4"},
        small | {"realisations": "3-warm0.3", "realisation": "2"},
    ]  # fmt: skip
    not_asked = [
        {"study": "other"}, {"dataset": "cifar10"}, {"dataset": "cifar10", "subset": few.subset},
        place | {"network": "other"}, place | {"realisation": "2"}, run | {"realisation": "2"},
        run | {"realisations": "3"}, run | {"realisations": "3", "realisation": "1"},
        run | {"dynamics": "other"}, small | {"realisation": "5"},
        small | {"realisations": "3-warm0.3", "realisation": "3"},
        small | {"realisations": "3", "realisation": "0"},
    ]  # fmt: skip
    assert [wildcards for wildcards in asked if not plan.has(wildcards)] == []
    assert [wildcards for wildcards in not_asked if plan.has(wildcards)] == []
    of_default = [wildcards for wildcards in asked if plan.has(wildcards, default=True)]
    assert of_default == [w for w in asked if small["subset"] not in str(w)]
    assert not plan.has({"study": "warm"}, default=True) and plan.has({"study": "warm"})


def test_a_study_is_collected_from_every_run_at_every_moment(shipped_config):
    """Four tables of an ensemble; a trajectory and kernels at three moments of each run."""
    plan = Plan(shipped_config)
    files = inputs.study_files(plan, shipped_config)(SimpleNamespace(study="dataset_size"))
    ensembles, realisations = plan.studies["dataset_size"], plan.studies["dataset_size"][0]
    assert len(files) == len(set(files)) == len(ensembles) * (4 + 4 * realisations.realisations)
    archive = ["results/data/cifar10/archive.tar.gz"]
    data = inputs.data_source(shipped_config)
    assert data(SimpleNamespace(dataset="cifar10")) == archive
    assert data(SimpleNamespace(dataset="digits")) == []
    with pytest.raises(Refusal, match="no data set other; it has "):
        data(SimpleNamespace(dataset="other"))


def test_wildcards_of_a_job_name_its_ensemble(shipped_config):
    study = {"vary": {"warm_start_accuracy": [None, 0.3]}, "realisations": 2}
    shipped_config["studies"]["thresholds"] = study
    plan = Plan(shipped_config)
    for ensemble in itertools.chain(*plan.studies.values()):
        assert plan.ensemble(wildcards(ensemble)) == ensemble


def test_more_realisations_keep_the_runs_there_are(shipped_config):
    before = Plan(shipped_config).studies["dataset_size"][0].run_paths()
    shipped_config["studies"]["dataset_size"]["realisations"] = 5
    assert Plan(shipped_config).studies["dataset_size"][0].run_paths()[:3] == before


def test_seeds_depend_on_seed_and_purpose_only():
    purposes = (("start", 0), ("start", 1), ("noise", 0))
    seeds = {derived_seed(seed, *purpose) for seed in (0, 1) for purpose in purposes}
    assert len(seeds) == 6
    assert derived_seed(3, "start", 1) == derived_seed(3, "start", 1)
    assert derived_seed(3, "a", "bc") != derived_seed(3, "ab", "c")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_rule_settings_are_sorted_and_ignore_the_order_of_the_config(shipped_config):
    def rebuilt(value):
        if isinstance(value, dict):
            return {key: rebuilt(value[key]) for key in reversed(list(value))}
        return value

    def all_settings(config):
        plan = Plan(config)
        given = wildcards(plan.studies["dataset_size"][0])
        return {rule: RuleSettings(config, plan).of(rule)(given) for rule in RULES}

    other = rebuilt(shipped_config)
    for study in other["studies"].values():  # the order of the axes is that of the figures
        if "vary" in study:
            study["vary"] = dict(reversed(study["vary"].items()))
    first, second = all_settings(shipped_config), all_settings(other)
    assert repr(first) == repr(second)
    assert all(list(s) == sorted(s) for s in first.values())


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(cd, "SCRIPTS", tmp_path)
    (tmp_path / "library").mkdir()
    (tmp_path / "library/__init__.py").write_text("")
    (tmp_path / "library/far.py").write_text('"""Far."""\n\n\ndef f():\n    return 1\n')
    (tmp_path / "library/near.py").write_text("from library import far\n")
    (tmp_path / "job.py").write_text("import numpy\nfrom library.near import far\n")

    def forget():
        for cached in (cd._content, cd._parsed, cd._tree, cd._local_imports):
            cached.cache_clear()

    def digest():
        forget()
        return cd.code_digest("job.py")

    yield tmp_path, digest
    forget()


def test_digest_follows_imports_of_imports(project):
    folder, digest = project
    before = digest()
    (folder / "library/far.py").write_text("def f():\n    return 2\n")
    assert digest() != before


def test_digest_ignores_comments_docstrings_and_layout(project):
    folder, digest = project
    before = digest()
    (folder / "library/far.py").write_text(
        '# why\n"""Another text."""\ndef f():\n    """Say so."""\n\n    return (1)\n'
    )
    assert digest() == before


def test_every_script_exists_and_reaches_the_library():
    for uses in RULES.values():
        assert uses.script in cd.reachable(uses.script)
    assert "speedlimits/dynamics.py" in cd.reachable("train.py")
    assert "speedlimits/gradient.py" not in cd.reachable("figure.py")


@pytest.fixture
def stored(tmp_path):
    generator = np.random.default_rng(0)
    dataset = xr.Dataset(
        {
            "weights": variable(
                ("snapshot", "parameter"), generator.normal(size=(4, 50)), "weight", "weights"
            ),
            "train_loss": variable("snapshot", generator.uniform(size=4), "loss", "training loss"),
        },
        coords={"time": variable("snapshot", np.arange(4.0), "time", "training time")},
        attrs={"title": "run"},
    )
    store, manifest = tmp_path / "snapshots.zarr", tmp_path / "snapshots.json"
    write_snapshots(dataset, store, manifest)
    return dataset, store, manifest


def test_store_opens_with_plain_xarray_and_round_trips(stored):
    dataset, store, manifest = stored
    xr.testing.assert_identical(xr.open_zarr(store).load(), dataset)
    xr.testing.assert_identical(read_snapshots(manifest), dataset)
    assert xr.open_zarr(store)["weights"].encoding["chunks"] == (1, 50)
    assert "weights" not in read_snapshots(manifest, weights=False)


def test_memory_of_a_run_is_that_of_few_snapshots(tmp_path):
    """Train ends with its snapshots in float64 and float32; who reads them holds what it uses."""
    count, weights = 50, 200_000
    stage = tmp_path / "stage"
    for k in range(count):
        values = dict.fromkeys(training.RECORDED, 1.0) | {"time": float(k), "geodesic_length": 0.0}
        values["weights"] = np.full(weights, float(k))
        trajectory._save(stage / f"snapshot_{k:05d}.npz", values, "stage")
    staged = trajectory.StagedTrajectory(None, np.arange(1.0, count), None, stage)
    staged.next_snapshot = count
    tracemalloc.start()
    try:
        run = training.as_dataset(staged.recorded(), {}, "float32")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * (8 + 4) * count * weights
        write_snapshots(run, tmp_path / "run.zarr", tmp_path / "run.json")
        del run
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        read = read_snapshots(tmp_path / "run.json")
        assert np.all(read["weights"][7].values == 7)
        assert tracemalloc.get_traced_memory()[1] - before < 0.2 * 4 * count * weights
    finally:
        tracemalloc.stop()


def test_missing_chunk_is_found_and_named(stored):
    _, store, manifest = stored
    (store / "weights/c/2/0").unlink()
    with pytest.raises(IntegrityError, match="array weights .* altered"):
        read_snapshots(manifest)
    read_snapshots(manifest, weights=False)


def test_altered_chunk_is_found(stored):
    dataset, store, manifest = stored
    other = dataset.copy(deep=True)
    other["train_loss"][1] += 1e-12
    other.to_zarr(store, mode="w", zarr_format=3)
    with pytest.raises(IntegrityError, match="array train_loss"):
        read_snapshots(manifest)


@pytest.mark.parametrize("word", ["run", "weight^2"])
def test_altered_attributes_are_found(stored, word):
    """Of the store or of one of its variables: the settings and the units that numbers have."""
    dataset, store, manifest = stored
    dataset["train_loss"].attrs["note"] = "weight^2"
    write_snapshots(dataset, store, manifest)
    metadata = store / "zarr.json"  # with that of all variables
    text = metadata.read_text()
    assert f'"{word}"' in text
    metadata.write_text(text.replace(f'"{word}"', '"other"'))
    with pytest.raises(IntegrityError, match="attributes of .* altered"):
        read_snapshots(manifest, weights=False)


@pytest.mark.parametrize("content", [None, "{}", "{", '{"zarr_format": 3}'])
def test_the_description_of_an_array_apart_from_the_summary_is_checked(stored, content, capsys):
    """What zarr itself reads an array by, and nothing here."""
    _, store, manifest = stored
    assert verify.main(manifest.parent) == 0
    own = store / "train_loss/zarr.json"
    own.write_text(content) if content else own.unlink()
    read_snapshots(manifest)
    assert verify.main(manifest.parent) == 1
    told = capsys.readouterr().out
    assert f"the description of the array train_loss of {store} is missing or has been al" in told
    where = f"in the folder whose results {manifest.parent} is a copy of"
    assert f"run snakemake results/{manifest.name} {where} with the options" in told


def test_digests_tell_types_and_shapes_with_the_same_bytes():
    values = np.arange(6.0)
    others = [values.view(np.int64), values.reshape(2, 3), values.reshape(3, 2), values]
    assert len({array_digest(other) for other in others}) == 4
    assert array_digest(xr.Variable("x", values)) != array_digest(values[::-1])


def test_missing_store_is_named(stored):
    _, store, manifest = stored
    shutil.rmtree(store)
    with pytest.raises(IntegrityError, match="is missing; delete"):
        read_snapshots(manifest)


@pytest.mark.parametrize(
    "columns",
    [
        {"case": ["0.10", "1e3"], "n": [64, 128]},
        {"against": ["case", "case"], "value": ["0.10", "1e3"], "reference": ["0.2", "0.2"]},
    ],
)
def test_labels_that_look_like_numbers_stay_labels(tmp_path, columns):
    path = tmp_path / "results" / "table.csv"
    path.parent.mkdir()
    write_table(pd.DataFrame(columns), path)
    found = read_table(path)
    assert {name: found[name].tolist() for name in found} == columns


def test_numbers_of_a_table_have_ten_digits(tmp_path):
    (tmp_path / "results").mkdir()
    values = np.array([1 / 3, 1e-9 / 7, 123456.789012, -2e15 / 3])
    write_table(pd.DataFrame({"x": values}), tmp_path / "results" / "table.csv", 0.9)
    found = read_table(tmp_path / "results" / "table.csv")
    np.testing.assert_allclose(found["x"], values, rtol=1e-9)
    assert (found["confidence"] == 0.9).all()


def test_words_of_a_table_come_back_as_they_were(tmp_path):
    words = ["None", "NA", "null", "nan", "relu"]
    table = pd.DataFrame({"norm": words, "value": [1.0, np.nan, np.inf, 2.0, -np.inf]})
    (tmp_path / "results").mkdir()
    write_table(table, tmp_path / "results" / "table.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "results" / "table.csv"), table)


def test_a_study_that_writes_its_numbers_otherwise_makes_no_run_stale(shipped_config):
    studies = shipped_config["studies"]
    one = studies["learning_rate"] | {"realisations": 1}
    other = {"final_time": 300.0, "label_noise": 0.0, "output_scale": 1.0}
    two = one | {"set": one["set"] | other, "realisations": 2}
    studies.clear()
    studies["learning_rate"] = one
    shipped_config["default_studies"] = ["learning_rate"]
    alone = Plan(shipped_config)
    studies["again"] = two
    both = Plan(shipped_config)
    for level in ("subset", "network", "dynamics"):
        for slug in {getattr(e, level) for e in alone.studies["learning_rate"]}:
            assert repr(both.settings(level, slug)) == repr(alone.settings(level, slug))
