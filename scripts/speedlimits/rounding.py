"""Rounding of the weights to the network's precision: how far it moves them, what it adds to paths.

Weights evolve in float64 and are rounded to nearest for the network. In lazy networks, whose
weights hardly move, that is no small part of the displacement; and where the loss has come to its
floor the gradient is that of the roundings, and the path goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from speedlimits.dynamics import DIFFERENCE_SIZE, Evolution, GradientDescent, LangevinDynamics
from speedlimits.optimisers import Adam, HeavyBall, MinibatchDescent

# Of what rounding adds to a path at most, over the path: a hundredth of what matters, for lambda_1
# grows in training, and the path from a warm start is a part of the whole.
LEAST_PATH_ROUNDING = 0.0005
LEAST_GRADIENT_ROUNDING = 0.001  # of Adam's: it divides by the size that gradients have had
# Own choices, of 2 - step lambda: the least, and what counts where lambda is above the limit, so
# that the step is not stable and the run another than of that lambda.
LEAST_MARGIN, MARGIN_BEYOND = 0.02, 0.2
# Of a direction that is an image of random roundings already. The start's own lambda_1 is known
# better, and is taken where it is larger.
CURVATURE_ITERATIONS = 3
MINIBATCHES = 4  # own choice: then one that is unlike the others decides less
IN_STEPS = (GradientDescent, LangevinDynamics, MinibatchDescent, HeavyBall)  # Nesterov is one


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
    differ by d^2/4.

    Steps follow the roundings before. On a stiff mode lambda the part is sqrt(gain) times that
    gradient if roundings are new in each step, which is noise, and at most gain times it if weights
    keep their rounded values from step to step, or go back and forth between two
    (``gain_of_steps``). Which one it is, is seen by how far the velocity swings in the next step:
    that of noise on this mode by sqrt(2 (1 - mu) + (1 + mu) eta lambda / f) times itself. Momentum
    far from its limit has a gain below 1: it follows roundings that stay, and is told those.

    On lazy ReLU networks, float32 against float64, at 2 % to 99 % of the limit, the sum over a run
    was 0.8 to 1.9 times what the path was too long by: half of it for minibatches of one sample,
    and more for momentum far from its limit while the loss still drops.

    Args:
        evolution: after at least one step, if it moves at all.
        dtype: of the network.

    Returns:
        Its part of the speed, in weight / time; 0 where it cannot lengthen the path so far by more
        than LEAST_PATH_ROUNDING of it. Of minibatches from the next few.
    """
    rounded = moved_by_rounding(evolution, dtype)
    if not (rounded > 0 and _may_matter(evolution, rounded)):
        return 0.0
    weights = evolution.weights
    others = _rounded_anew(weights, dtype)
    squares = []
    for ahead in range(min(MINIBATCHES, getattr(evolution, "batches", 1))):
        gradient = partial(evolution.step_gradient, ahead=ahead)
        here = gradient(weights)
        change = gradient(others) - here
        part = evolution.response(change).norm().item() / math.sqrt(3)
        if part > 0 and isinstance(evolution, IN_STEPS):
            curvature = largest_curvature(gradient, weights, here, change)
            gain, swing = _gain(evolution, max(curvature, evolution.lambda_1 or 0.0))
            if gain > 1:
                of_swing = _swing(evolution, gradient, here) / swing
                part = min(max(of_swing, part * math.sqrt(gain)), part * gain)
        squares.append((part**2, evolution.speed(here) ** 2))
    part2, speed2 = np.mean(squares, axis=0)
    return float(np.sqrt(speed2) - np.sqrt(max(speed2 - part2, 0.0)))


def gain_of_steps(step_lambda: float, momentum: float, factor: float) -> float:
    """Return what descent makes of the square of gradients of noise (derived here).

    A mode lambda whose gradient has the noise e, new in each step, has the mean square speed
    gain <e^2> in training time,

        gain = (1 - mu) / f * 2 / (2 - eta lambda / f),

    exactly without momentum and for heavy ball.

    Args:
        step_lambda: eta lambda, with the learning rate eta.
        momentum: mu.
        factor: f, the stability limit over 2/lambda (module ``stability``).
    """
    margin = 2 - step_lambda / factor
    margin = max(margin, LEAST_MARGIN) if margin > 0 else MARGIN_BEYOND
    return (1 - momentum) / factor * 2 / margin


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


def _gain(evolution: Evolution, curvature: float) -> tuple[float, float]:
    """Return ``gain_of_steps`` of an evolution in steps, and the swing of its noise over itself.

    The velocity of one mode, an AR(2) process, has the correlation mu - (1 + mu) eta lambda / 2f
    with that of the next step.
    """
    momentum = getattr(evolution, "momentum", 0.0)
    factor = getattr(evolution, "stability_factor", 1.0)
    step_lambda = evolution.step * (1 - momentum) * curvature
    correlation = momentum - (1 + momentum) * min(step_lambda / factor, 2.0) / 2
    return gain_of_steps(step_lambda, momentum, factor), math.sqrt(2 * (1 - correlation))


def _swing(evolution: Evolution, gradient: Callable[[Tensor], Tensor], here: Tensor) -> float:
    """Return by how much the velocity of the next step but one differs from that of the next."""
    if not isinstance(evolution, HeavyBall):
        return (gradient(evolution.weights - evolution.step * here) - here).norm().item()
    velocity, first = evolution.followed(evolution.velocity, here)
    _, second = evolution.followed(velocity, gradient(evolution.weights + first))
    return (second - first).norm().item() / evolution.step


def _may_matter(evolution: Evolution, rounded: float) -> bool:
    """Return whether |rounding of the weights| x lambda_1 x time is some part of the path.

    Adam's speed is no gradient's: there, whether that is some part of the gradient.
    """
    if evolution.lambda_1 is None:
        return True
    most = evolution.lambda_1 * rounded
    if isinstance(evolution, Adam):
        return most > LEAST_GRADIENT_ROUNDING * evolution.gradient_norm
    most *= evolution.time
    if isinstance(evolution, MinibatchDescent):  # a part of the samples may have all of lambda_1
        most *= evolution.samples / evolution.batch_size
    if isinstance(evolution, IN_STEPS):
        most *= max(_gain(evolution, evolution.lambda_1)[0], 1.0)
    return most > LEAST_PATH_ROUNDING * evolution.path_length


def _rounded_anew(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights that round to one of two neighbours in dtype, the same ones at each call."""
    there = weights.to(dtype).abs()
    digit = torch.nextafter(there, torch.full_like(there, math.inf)) - there
    chance = torch.Generator().manual_seed(0)
    share = torch.rand(weights.shape, generator=chance, dtype=torch.float64) - 0.5
    return weights + share.to(digit.device) * digit.double()
