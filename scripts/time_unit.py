"""Measure lambda_1, the largest eigenvalue of the NTK at the start: the unit of time is 1/lambda_1.

One value for all realisations of a network on a subset: that of realisation 0, so that adding
realisations changes no time.
"""

import quick_start  # noqa: F401

from pipeline.device import choose_device, describe_device
from pipeline.log import logged
from pipeline.problem import build_problem, check_start
from pipeline.stores import provenance, write_json
from pipeline.unit_of_time import check_lambda_1
from speedlimits.kernel_products import largest_eigenvalue


def main(snakemake) -> None:
    """Run the rule ``time_unit``."""
    settings = snakemake.params.settings
    resources = snakemake.resources
    with logged(snakemake.log[0]):
        device = choose_device(
            resources.device,
            threads=snakemake.threads,
            deterministic=bool(resources.deterministic),
        )
        problem = build_problem(settings, snakemake.input[0], 0, device)
        check_start(problem, settings["model"])
        lambda_1 = largest_eigenvalue(problem.network, problem.inputs)
        print(f"lambda_1 = {lambda_1:.6g} on {describe_device(device)}")
        check_lambda_1(problem, lambda_1, settings["precision"])
        write_json(
            {
                "lambda_1": lambda_1,
                "units": "1 / time",
                "long_name": "largest eigenvalue lambda_1 of the NTK at the start of realisation 0",
                "start_seed": problem.start_seed,
                "provenance": provenance(settings, device=describe_device(device)),
            },
            snakemake.output[0],
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
