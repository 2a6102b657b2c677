"""Optimisers other than plain gradient descent: heavy ball, Nesterov, Adam, minibatch gradients.

They keep the protocol of ``dynamics.Evolution``. Path length and action are those of the polygon
through the steps in the training time of each, so that T * action >= l_gamma^2 >= l_geo^2 holds for
all. What the action has to do with the loss drop differs (docs/theory.md, section 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from speedlimits.dynamics import LossAndGradient, _ConstantStep
from speedlimits.stability import heavy_ball_factor, nesterov_factor

ADAM_BETA_2 = 0.999  # Kingma and Ba (2015), algorithm 1
ADAM_EPSILON = 1e-8  # ibid.
MinibatchLossAndGradient = Callable[[Tensor, Tensor], tuple[float, Tensor]]


class HeavyBall(_ConstantStep):
    """Heavy ball: v <- mu v - eta grad L, theta <- theta + v (Polyak 1964; torch's momentum).

    In the training time t = steps * eta / (1 - mu), small steps follow m theta'' + theta' =
    -grad L, whose friction is that of gradient flow. Their energy balances with the mass
    m = eta mu / (1 - mu)^2 (docs/theory.md, section 8).

    Args:
        loss_and_gradient: see ``Evolution``.
        theta_0: weights at the start, shape (P,).
        learning_rate: eta > 0.
        momentum: mu in [0, 1).
        lambda_1: largest eigenvalue if known; named in errors, and for module ``rounding``.

    Raises:
        ValueError: if the learning rate is not positive or the momentum not in [0, 1).
    """

    _TENSORS = _ConstantStep._TENSORS + ("_velocity",)

    def __init__(
        self,
        loss_and_gradient: LossAndGradient,
        theta_0: Tensor,
        learning_rate: float,
        momentum: float,
        *,
        lambda_1: float | None = None,
    ):
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"the momentum is {momentum}; it must be at least 0 and less than 1")
        self.learning_rate, self.momentum = learning_rate, momentum
        super().__init__(
            loss_and_gradient, theta_0, learning_rate / (1 - momentum), lambda_1=lambda_1
        )
        self._velocity = torch.zeros_like(self.theta_0)

    @property
    def stability_factor(self) -> float:
        """The largest stable learning rate over 2/lambda_1."""
        return heavy_ball_factor(self.momentum)

    @property
    def velocity(self) -> Tensor:
        """Velocity v of the last step, a change of the weights, shape (P,)."""
        return self._velocity

    @property
    def mass(self) -> float:
        """Mass m = eta mu / (1 - mu)^2 in units of training time."""
        return self.learning_rate * self.momentum / (1 - self.momentum) ** 2

    @property
    def kinetic_energy(self) -> float:
        """Kinetic energy m |theta'|^2 / 2, with theta' of the last step."""
        return 0.5 * self.mass * (self._last_length / self.step) ** 2

    def _move(self) -> Tensor:
        self._velocity, move = self.followed(self._velocity, self._gradient)
        return move

    def followed(self, velocity: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity v after a step that follows a gradient, and the step, each (P,).

        Args:
            velocity: v before, shape (P,).
            gradient: shape (P,).
        """
        velocity = self.momentum * velocity - self.learning_rate * gradient
        return velocity, velocity

    def _step_description(self) -> str:
        return f"learning rate {self.learning_rate:.6g}, momentum {self.momentum:.6g}"

    def _stability(self) -> str:
        return f" (with it a step is stable below {self.stability_factor:.4g} x 2 / lambda_1)"


class Nesterov(HeavyBall):
    """Nesterov's momentum as torch has it: v <- mu v - eta g, theta <- theta + mu v - eta g.

    theta is the look-ahead point, at which the gradient g is taken. The training time is that of
    heavy ball; small steps follow m theta'' + (1 + mu h H) theta' = -grad L with the Hessian H and
    the step h (Shi, Du, Jordan, Su 2021): curvature adds friction. The first step, which has no
    gradient before it, adds a kick.
    """

    @property
    def stability_factor(self) -> float:
        """The largest stable learning rate over 2/lambda_1."""
        return nesterov_factor(self.momentum)

    @property
    def kinetic_energy(self) -> float:
        """Kinetic energy of the last step; at the start the kick's, mu eta (1 - mu^2) |g|^2 / 2."""
        if self.steps:
            return super().kinetic_energy
        kick = 0.5 * self.momentum * self.learning_rate * (1 - self.momentum**2)
        return kick * self._gradient.square().sum().item()

    def followed(self, velocity: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return velocity and step after a gradient; see ``HeavyBall``."""
        velocity, _ = super().followed(velocity, gradient)
        return velocity, self.momentum * velocity - self.learning_rate * gradient


class Adam(_ConstantStep):
    """Adam (Kingma, Ba 2015, algorithm 1), in training time eta * steps, which is a length.

    Without inertia it is the flow theta' = -D^-1 grad L with D = sqrt(v) + epsilon per weight. By
    Cauchy and Schwarz, weight by weight, T (L_0 - L_T) >= sum_i D_i (theta_T - theta_0)_i^2 with
    the harmonic mean D_i = T / int D_i^-1 dt (``preconditioned_length_squared``). With
    inertia the loss makes room for the energy L + ``kinetic_energy`` (docs/theory.md, section 8).

    Attributes:
        inverse_metric_integral: int D^-1 dt since the start, shape (P,), float64.

    Args:
        loss_and_gradient: see ``Evolution``.
        theta_0: weights at the start, shape (P,).
        learning_rate: eta > 0.
        momentum: beta_1 in [0, 1).
        lambda_1: largest eigenvalue if known; named in errors, and for module ``rounding``.

    Raises:
        ValueError: if the learning rate is not positive or the momentum not in [0, 1).
    """

    _TENSORS = _ConstantStep._TENSORS + (
        "_first_moment", "_second_moment", "inverse_metric_integral",
    )  # fmt: skip
    _SCALARS = _ConstantStep._SCALARS + ("_speed_squared",)
    _speed_squared = 0.0

    def __init__(
        self,
        loss_and_gradient: LossAndGradient,
        theta_0: Tensor,
        learning_rate: float,
        momentum: float,
        *,
        lambda_1: float | None = None,
    ):
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"the momentum is {momentum}; it must be at least 0 and less than 1")
        self.momentum = momentum
        super().__init__(loss_and_gradient, theta_0, learning_rate, lambda_1=lambda_1)
        self._first_moment = torch.zeros_like(self.theta_0)
        self._second_moment = torch.zeros_like(self.theta_0)
        self.inverse_metric_integral = torch.zeros_like(self.theta_0)

    @property
    def memory(self) -> float:
        """Time tau = eta beta_1 / (1 - beta_1) of the mean m, of grad L = m + tau m'."""
        return self.step * self.momentum / (1 - self.momentum)

    @property
    def kinetic_energy(self) -> float:
        """Kinetic energy tau |theta'|_D^2 / 2 of the last step, at the start of the first."""
        if self.steps:
            return 0.5 * self.memory * self._speed_squared
        slopes = self._gradient.abs()
        return 0.5 * self.memory * (slopes.square() / (slopes + ADAM_EPSILON)).sum().item()

    def response(self, change: Tensor) -> Tensor:
        """Return the change of the velocity that one of the gradient makes, of random sign.

        It is in the metric D too: a weight's squared velocity s^2 = m^2 / D^2 without changes of
        squared size r^2 in both is (m^2 - r^2) / (D^2 - r^2), which is less by
        (1 - s^2) r^2 / D^2 for small ones. A weight that moves at full speed moves no faster.
        """
        metric = self._metric(self.steps)
        velocity = self._mean(self.steps) / metric
        slower = (1 - velocity.square()).clamp(min=0).sqrt()
        return (change / metric).clamp(-1, 1) * slower

    def _mean(self, count: int) -> Tensor:
        return self._first_moment / (1 - self.momentum**count)

    def _metric(self, count: int) -> Tensor:
        return (self._second_moment / (1 - ADAM_BETA_2**count)).sqrt() + ADAM_EPSILON

    def _move(self) -> Tensor:
        gradient, count = self._gradient, self.steps + 1
        self._first_moment = torch.lerp(gradient, self._first_moment, self.momentum)
        self._second_moment = torch.lerp(gradient.square(), self._second_moment, ADAM_BETA_2)
        mean = self._mean(count)
        metric = self._metric(count)
        self.inverse_metric_integral = self.inverse_metric_integral + self.step / metric
        self._speed_squared = (mean.square() / metric).sum().item()
        return -self.step * mean / metric

    def _step_description(self) -> str:
        return f"Adam's learning rate {self.step:.6g}"

    def _stability(self) -> str:
        return ""  # its steps are lengths, whatever lambda_1


def preconditioned_length_squared(
    time: ArrayLike, displacement: ArrayLike, inverse_metric_integral: ArrayLike
) -> NDArray[np.float64]:
    """Return |theta_T - theta_0|_D^2, the squared displacement in Adam's mean metric.

    sum_i D_i (theta_T - theta_0)_i^2 with the harmonic mean D_i = T / int D_i^-1 dt over the same
    time (docs/theory.md, section 8).

    Args:
        time: training time T since the start, shape (...).
        displacement: theta_T - theta_0, shape (..., P).
        inverse_metric_integral: int D^-1 dt since the start, shape (..., P).

    Returns:
        The squared length, shape (...), in units of loss x time; 0 where no time has passed.
    """
    time, displacement = np.asarray(time, float), np.asarray(displacement, float)
    integral = np.where(time[..., None] > 0, inverse_metric_integral, 1.0)
    return (displacement**2 * time[..., None] / integral).sum(axis=-1)


class MinibatchDescent(_ConstantStep):
    """Gradient descent on minibatches, theta <- theta - eta (N/B) grad L_B, in time eta * steps.

    Every epoch draws a permutation (Philox, keyed by the seed and numbered by the epoch) and takes
    its samples without replacement; N/B makes the gradient that of the whole sum on average. Where
    B divides N the noise of small steps adds up to zero over an epoch, to leading order; the action
    holds it all, int (|grad L|^2 + tr C) dt with the covariance C of that gradient.

    ``gradients`` counts samples over N; the full loss and gradient are evaluated, uncounted, where
    ``advance`` ends.

    Args:
        loss_and_gradient: of all samples, see ``Evolution``.
        minibatch: (theta, rows of the samples) -> (L_B, grad L_B), sums over these samples.
        theta_0: weights at the start, shape (P,).
        learning_rate: eta > 0.
        batch_size: B in [1, N].
        samples: N.
        seed: of the permutations.
        lambda_1: largest eigenvalue if known; named in errors, and for module ``rounding``.

    Raises:
        ValueError: if the learning rate is not positive or the batch size not in [1, N].
    """

    def __init__(
        self,
        loss_and_gradient: LossAndGradient,
        minibatch: MinibatchLossAndGradient,
        theta_0: Tensor,
        learning_rate: float,
        *,
        batch_size: int,
        samples: int,
        seed: int,
        lambda_1: float | None = None,
    ):
        if not 1 <= batch_size <= samples:
            raise ValueError(f"batch_size is {batch_size}; it must be from 1 to n = {samples}")
        self._minibatch, self.batch_size = minibatch, batch_size
        self.samples, self.seed = samples, seed
        super().__init__(loss_and_gradient, theta_0, learning_rate, lambda_1=lambda_1)
        self.gradients = float(self.gradients)

    def advance(self, until, on_step=None) -> None:
        """Evolve to ``until`` and evaluate the full loss and gradient there."""
        super().advance(until, on_step)
        loss, gradient = self._loss_and_gradient(self.weights)
        self.loss, self._gradient = loss, gradient.to(torch.float64, copy=True)
        if self._diverged(self.loss, self._gradient):
            self._raise_divergence(self.loss)

    def step_gradient(self, theta: Tensor, ahead: int = 0) -> Tensor:
        """Return the gradient of that step's minibatch, times N/B; see ``Evolution``."""
        return self._of_minibatch(theta, ahead)[1]

    def speed(self, gradient: Tensor) -> float:
        """Return the speed |d theta/dt| of a step that follows this gradient."""
        return gradient.norm().item()

    @property
    def batches(self) -> int:
        """Number of minibatches of an epoch."""
        return math.ceil(self.samples / self.batch_size)

    def _rows(self, ahead: int = 0) -> Tensor:
        """Return the samples of the next step, or of one after it."""
        epoch, batch = divmod(self.steps + ahead, self.batches)
        bits = np.random.Philox(key=self.seed, counter=epoch << 128)
        order = np.random.Generator(bits).permutation(self.samples)
        return torch.from_numpy(order[batch * self.batch_size : (batch + 1) * self.batch_size])

    def _evaluate(self, displacement: Tensor) -> tuple[float, Tensor]:
        if not math.isfinite(self._explosion):  # the start itself
            return super()._evaluate(displacement)
        loss, gradient, share = self._of_minibatch(self.theta_0 + displacement)
        self.gradients += share
        return loss, gradient

    def _of_minibatch(self, theta: Tensor, ahead: int = 0) -> tuple[float, Tensor, float]:
        """Return loss and gradient of a minibatch, as of all samples, and its share of them."""
        rows = self._rows(ahead).to(self.theta_0.device)
        loss, gradient = self._minibatch(theta, rows)
        factor = self.samples / len(rows)
        return factor * loss, factor * gradient.to(torch.float64), len(rows) / self.samples

    def _take_step(self) -> None:
        loss, gradient = self._evaluate(self.displacement)
        if self._diverged(loss, gradient):
            self._raise_divergence(loss)
        self._shift(-self.step * gradient)
        self.loss = loss

    def _step_description(self) -> str:
        return f"learning rate {self.step:.6g}, batches of {self.batch_size}"

    def _stability(self) -> str:
        if self.batch_size == self.samples:
            return super()._stability()
        return (
            " (a step of all samples is stable below 2 / lambda_1, minibatches at lower rates only)"
        )
