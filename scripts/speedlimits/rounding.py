"""Rounding of the weights to the network's precision: how far it moves them, what it adds to paths.

Weights evolve in float64 and are rounded to nearest for the network. In lazy networks, whose
weights hardly move, that is no small part of the displacement; and where the loss has come to its
floor the gradient is that of the roundings, and the path goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from speedlimits.dynamics import DIFFERENCE_SIZE, Evolution, GradientDescent, LangevinDynamics
from speedlimits.optimisers import Adam, MinibatchDescent

# Of what rounding adds to a path at most, over the path: a hundredth of what matters, for lambda_1
# grows in training, and the path from a warm start is a part of the whole.
LEAST_PATH_ROUNDING = 0.0005
# Own choices, of 2 - step lambda: the least, and what counts where lambda is above the limit, so
# that the step is not stable and the run another than of that lambda.
LEAST_MARGIN, MARGIN_BEYOND = 0.02, 0.2
# Of a direction that is an image of random roundings already. The start's own lambda_1 is known
# better, and is taken where it is larger.
CURVATURE_ITERATIONS = 3
PLAIN_DESCENT = (GradientDescent, LangevinDynamics, MinibatchDescent)


def moved_by_rounding(evolution: Evolution, dtype: torch.dtype) -> float:
    """Return how far rounding to the precision of the network moves the weights.

    Args:
        evolution: at any time.
        dtype: of the network.

    Returns:
        |theta rounded - theta|, in weight.
    """
    rounded = evolution.weights.to(dtype).double()
    return (rounded - evolution.theta_0 - evolution.displacement).norm().item()


def speed_rounding(evolution: Evolution, dtype: torch.dtype) -> float:
    """Estimate what rounding of the weights adds to the speed |d theta/dt| (derived here).

    The velocity is that of the loss and a part, made by rounding, that is orthogonal to it, as good
    as all directions are: without it the speed would be sqrt(speed^2 - part^2). The part
    follows from one more gradient, at weights rounded anew: those of training are rounded to
    nearest, by d^2/12 on average, and these to one of two neighbours by chance, by d^2/6; both
    differ by d^2/4. Weights that descend in plain steps have followed the roundings before: those
    on a stiff mode lambda alternate with them, and its gradient is 2 / (2 - step lambda) times that
    of the rounding, here with the largest lambda for all, of the minibatch where steps follow one.

    Args:
        evolution: after at least one step, if it moves at all.
        dtype: of the network.

    Returns:
        Its part of the speed, in weight / time; 0 where it cannot lengthen the path so far by more
        than LEAST_PATH_ROUNDING of it.
    """
    rounded = moved_by_rounding(evolution, dtype)
    if not (rounded > 0 and _may_matter(evolution, rounded)):
        return 0.0
    weights = evolution.weights
    here = evolution.step_gradient(weights)
    change = evolution.step_gradient(_rounded_anew(weights, dtype)) - here
    part = evolution.response(change).norm().item() / math.sqrt(3)
    if part == 0:
        return 0.0
    if isinstance(evolution, PLAIN_DESCENT):
        curvature = largest_curvature(evolution.step_gradient, weights, here, change)
        part *= _followed(evolution.step * max(curvature, evolution.lambda_1 or 0.0))
    speed = evolution.speed(here)
    return speed - math.sqrt(max(speed**2 - part**2, 0.0))


def largest_curvature(
    gradient: Callable[[Tensor], Tensor], weights: Tensor, here: Tensor, direction: Tensor
) -> float:
    """Return about the largest eigenvalue of the Hessian, by power iteration, from below.

    Args:
        gradient: weights -> gradient, shape (P,).
        weights: shape (P,).
        here: gradient at the weights, shape (P,).
        direction: to start from, not 0, shape (P,).

    Returns:
        The norm of the Hessian's product with a unit vector, by differences of gradients; 0.0 if
        the gradient does not change.
    """
    size = DIFFERENCE_SIZE * weights.norm()
    curvature = 0.0
    for _ in range(CURVATURE_ITERATIONS):
        direction = (gradient(weights + size / direction.norm() * direction) - here) / size
        curvature = direction.norm().item()
        if curvature == 0:
            break
    return curvature


def _may_matter(evolution: Evolution, rounded: float) -> bool:
    """Return whether |rounding of the weights| x lambda_1 x time is some part of the path.

    Adam's speed is no gradient's, so that this tells nothing of it.
    """
    if evolution.lambda_1 is None or isinstance(evolution, Adam):
        return True
    most = evolution.lambda_1 * rounded * evolution.time
    if isinstance(evolution, MinibatchDescent):  # a part of the samples may have all of lambda_1
        most *= evolution.samples / evolution.batch_size
    if isinstance(evolution, PLAIN_DESCENT):
        most *= _followed(evolution.step * evolution.lambda_1)
    return most > LEAST_PATH_ROUNDING * evolution.path_length


def _followed(step_lambda: float) -> float:
    """Return the gradient of roundings that descent has followed over that of the roundings."""
    margin = 2 - step_lambda
    return 2 / (max(margin, LEAST_MARGIN) if margin > 0 else MARGIN_BEYOND)


def _rounded_anew(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights that round to one of two neighbours in dtype, the same ones at each call."""
    there = weights.to(dtype).abs()
    digit = torch.nextafter(there, torch.full_like(there, math.inf)) - there
    chance = torch.Generator().manual_seed(0)
    share = torch.rand(weights.shape, generator=chance, dtype=torch.float64) - 0.5
    return weights + share.to(digit.device) * digit.double()
