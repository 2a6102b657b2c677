"""The unit of time 1/lambda_1, which a start has to have."""

from __future__ import annotations

import torch

from pipeline.problem import Problem
from speedlimits.jacobian import transposed_product
from speedlimits.kernel_products import PRODUCT_BATCH
from speedlimits.precision import LARGEST_SQUARED, too_small


def check_lambda_1(problem: Problem, lambda_1: float, precision: str) -> None:
    """Raise ValueError, in one sentence, if a start has no lambda_1 > 0 to measure times in.

    Args:
        problem: of realisation 0, at its start.
        lambda_1: largest eigenvalue of its NTK.
        precision: of the network.

    Raises:
        ValueError: if lambda_1 is 0 or so small that the kernel, formed in that precision, has lost
            its digits; says whether nothing depends on the weights, or too little.
    """
    if lambda_1 > 1 / LARGEST_SQUARED and not too_small(lambda_1, precision):
        return
    ones = torch.ones_like(problem.targets[:PRODUCT_BATCH])
    pulled = transposed_product(problem.network, problem.inputs[:PRODUCT_BATCH], ones)
    why = "outputs depend on no weight (dead ReLUs?)"
    remedy = "take a larger width, another initialisation or another seed"
    if any(gradient.any() for gradient in pulled):
        why = f"derivatives are so small that {precision} has no precise squares of them"
        remedy = "divide the inputs by their size (normalise: true does for inputs of your own)"
    raise ValueError(
        f"lambda_1 is {lambda_1:g} at the start of realisation 0, whose {why}, and 1/lambda_1 is "
        f"the unit of time; {remedy}"
    )
