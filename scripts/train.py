"""Train one realisation and store its snapshots.

Gradient flow, an optimiser with steps, or Langevin dynamics at a temperature, of
L = 1/2 sum |f - y|^2. A learning rate at or above the stability limit is refused before the first
step, unless divergence is to be recorded. A killed job continues where its last checkpoint was
taken and ends with the same bits (on a CPU).
"""

import quick_start  # noqa: F401

import torch

from pipeline.device import choose_device, describe_device
from pipeline.files import FINISHED
from pipeline.log import logged
from pipeline.problem import build_problem, digests
from pipeline.stores import (
    read_json,
)
from pipeline.training import (
    build_evolution,
    recorder_of,
    run_and_store,
    run_attributes,
    start_lambda_1,
    wanted_times,
)
from pipeline.trajectory import StagedTrajectory, stage_folder
from speedlimits.gradient import TrainingLoss


def main(snakemake) -> None:
    """Run the rule ``train``."""
    settings, resources = snakemake.params.settings, snakemake.resources
    realisation = int(snakemake.wildcards.realisation)
    with logged(snakemake.log[0]):
        device = choose_device(
            resources.device,
            threads=snakemake.threads,
            deterministic=bool(resources.deterministic),
        )
        lambda_1 = read_json(snakemake.input.time_unit)["lambda_1"]
        problem = build_problem(settings, snakemake.input.subset, realisation, device)
        loss = TrainingLoss(problem.network, problem.inputs, problem.targets)
        start = torch.nn.utils.parameters_to_vector(problem.network.parameters()).detach()
        own_lambda_1 = start_lambda_1(settings, problem, lambda_1, realisation)
        other = "" if own_lambda_1 == lambda_1 else f", {own_lambda_1:.6g} at this start"
        print(
            f"device {describe_device(device)}, {len(start)} weights, "
            f"lambda_1 {lambda_1:.6g}{other}"
        )
        parts = {
            "settings": settings,
            "realisation": realisation,
            "lambda_1": lambda_1,
            "problem": digests(problem),
            "device": describe_device(device),
            "threads": snakemake.threads,
        }
        evolution = build_evolution(
            settings, loss, start.double(), lambda_1, own_lambda_1, problem.start_seed
        )
        but_final_time = {k: v for k, v in settings.items() if k != "final_time"}
        trajectory = StagedTrajectory(
            evolution,
            wanted_times(settings, lambda_1, getattr(evolution, "step", None)),
            recorder_of(loss, problem),
            stage_folder(parts),
            stage_folder(parts | {"settings": but_final_time}, FINISHED),
        )
        attributes = run_attributes(
            settings,
            problem,
            lambda_1,
            own_lambda_1,
            describe_device(device),
            snakemake.threads,
            realisation,
        )
        manifest = snakemake.output.manifest
        run_and_store(trajectory, settings, attributes, snakemake.params.store, manifest)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
