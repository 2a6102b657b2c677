"""Evolutions of the weights: gradient descent, gradient flow and Langevin dynamics.

All three share one protocol (class ``Evolution``) and act on any function
``loss_and_gradient(theta) -> (float, Tensor)``. The weights are kept in float64 as a displacement
u = theta - theta_0, because at early times the displacement is small against theta.

Along every trajectory two integrals are accumulated: the path length, int |theta'| dt, and the
action, int |theta'|^2 dt. They obey T * action >= path_length^2 >= |theta_T - theta_0|^2 to
rounding: each class sums both over one and the same curve.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from speedlimits.runge_kutta_chebyshev import (
    IMPLICIT_FROM,
    StiffPart,
    chebyshev_step,
    error_estimate,
    largest_step,
    leading_eigenpairs,
    stages_needed,
)

LossAndGradient = Callable[[Tensor], tuple[float, Tensor]]
State = dict[str, Tensor | float | int]

# A stable trajectory may raise the loss for a while (the "catapult" of Lewkowycz et al. 2020, where
# it stays of the order of the width); a million times the start's loss is divergence.
EXPLOSION_FACTOR = 1e6

# Measured: the global error over |theta_t - theta_0| is then 0.3 % at every recorded time up to
# lambda_1 T = 2e5 on linear models with the spectra of a power law and of Myrtle-5, also where the
# spectrum has a gap (up to 1e5; T/T_SL is 0.6 % off there), and 1.4 % up to lambda_1 T = 2e3 on
# Myrtle-5 itself (16 channels, 32 CIFAR-10 images). For other starts it is up to 3 % after
# lambda_1 t = 1e3: the trajectory is sensitive there, even to rounding, and a tighter tolerance
# helps little.
RELATIVE_TOLERANCE = 2e-3
# Step-size controller: the lower bound is that of Sommeijer, Shampine, Verwer (1998). Their safety
# factor is 0.8; 0.9 rejects as few steps here and saves 5 % of the gradients.
STEP_SAFETY = 0.9
STEP_SHRINK_LIMIT = 0.1
# Theirs is ten; a step in which no ReLU changes sides is no guide to so much growth.
STEP_GROWTH_LIMIT = 2.0
SPECTRAL_RADIUS_SAFETY = 1.2  # ibid.: power iteration approaches the radius from below
MAXIMUM_STAGES = 500
POWER_ITERATIONS_START = 20
POWER_ITERATIONS_REFRESH = 2
POWER_ITERATION_TOLERANCE = 0.01  # far inside the safety factor above
REFRESH_AFTER_GRADIENTS = 25  # keeps the refreshed estimates below a tenth of the gradients
# Leading eigenpairs are sought once a step needs this many stages, with as many Lanczos products,
# and again with twice as many up to the limit. Measured on power-law spectra (640 modes, exponents
# 1.2 and 2.2, lambda_1 T up to 2e5): starts of 10 to 15 and limits of 20 to 40 differ by less than
# a tenth in gradients. While they are sought, 40 vectors take 3 * 40 * 8 P bytes.
DEFLATION_START = 10
DEFLATION_LIMIT = 40
OPPOSITE = 1e-3  # own choice: the sum of two unit vectors that cancel, at any precision
DEFLATION_INTERVAL = 4  # gradients between two searches over those of one, so a fifth at most
# Size of the finite difference relative to |theta|: the square root of float32's precision, which
# balances the rounding error of the gradient against the curvature of the loss.
DIFFERENCE_SIZE = 3e-4
MAXIMUM_REJECTIONS = 50  # each shrinks the step up to tenfold, so this many mean no step can work

# Gauss-Legendre nodes of a step: three integrate the quartic |u'|^2 of a cubic exactly, sixteen its
# square root between any two times to 1e-8 on the noisiest flow of the tests (five to 2e-4).
GAUSS_NODES, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(16)


class DivergenceError(ValueError):
    """The loss is not finite or has exploded."""


class Evolution:
    """Common state and protocol of all evolutions; subclasses define ``advance``.

    Args:
        loss_and_gradient: theta of shape (P,), float64 -> (L, grad L of shape (P,)).
        theta_0: weights at the start, shape (P,).
        lambda_1: largest eigenvalue of the Hessian or NTK if known; named in errors, and for module
            ``rounding``.

    Attributes:
        time: training time reached.
        displacement: theta - theta_0, shape (P,), float64.
        loss: L at ``weights``.
        gradient_norm: |grad L| at ``weights``.
        path_length: int |theta'| dt from the start.
        action: int |theta'|^2 dt from the start.
        velocity_noise: what an integrator's errors of the velocity would add to ``action``, with
            the units of ``action``; 0 for all but gradient flow.
        gradients: number of gradient evaluations.
        steps: number of accepted steps.
    """

    _SCALARS = (
        "time", "loss", "path_length", "action", "velocity_noise", "gradients", "steps",
        "_explosion",
    )  # fmt: skip
    _TENSORS = ("displacement", "_gradient")

    def __init__(
        self, loss_and_gradient: LossAndGradient, theta_0: Tensor, *, lambda_1: float | None = None
    ):
        self._loss_and_gradient = loss_and_gradient
        self.theta_0 = theta_0.detach().to(torch.float64).clone()
        self.lambda_1 = lambda_1
        self.time = self.path_length = self.action = self.velocity_noise = 0.0
        self.gradients, self.steps = 0, 0
        self._explosion = math.inf
        self.displacement = torch.zeros_like(self.theta_0)
        self.loss, self._gradient = self._evaluate(self.displacement)
        self._explosion = EXPLOSION_FACTOR * (self.loss + self._thermal_loss())

    @property
    def weights(self) -> Tensor:
        """Weights theta, shape (P,), float64."""
        return self.theta_0 + self.displacement

    @property
    def gradient(self) -> Tensor:
        """Gradient grad L at ``weights``, shape (P,), float64."""
        return self._gradient

    @property
    def gradient_norm(self) -> float:
        """|grad L| at ``weights``."""
        return self._gradient.norm().item()

    @property
    def kinetic_energy(self) -> float:
        """Kinetic energy, in units of the loss; 0 without inertia."""
        return 0.0

    def step_gradient(self, theta: Tensor, ahead: int = 0) -> Tensor:
        """Return the gradient at theta that a step follows; not counted.

        Args:
            theta: shape (P,).
            ahead: number of steps before it, which decides nothing but of minibatches.

        Returns:
            Shape (P,), float64.
        """
        return self._loss_and_gradient(theta)[1].to(torch.float64, copy=True)

    def response(self, change: Tensor) -> Tensor:
        """Return the change of the velocity, but for its sign, that one of the gradient makes."""
        return change

    def speed(self, gradient: Tensor) -> float:
        """Return the speed |d theta/dt| at ``weights``, where the gradient is this one."""
        return gradient.norm().item()

    def advance(self, until: float, on_step: Callable[[Evolution], None] | None = None) -> None:
        """Evolve to the training time ``until``; ``on_step(self)`` is called after every step.

        Raises:
            DivergenceError: if the loss is not finite or exceeds a million times the start's.
        """
        raise NotImplementedError

    def state(self) -> State:
        """Return all that a run of the same arguments needs to continue bit for bit (on a CPU)."""
        scalars: State = {name: getattr(self, name) for name in self._SCALARS}
        return scalars | {name: getattr(self, name).clone() for name in self._TENSORS}

    def load_state(self, state: State) -> None:
        """Continue from a ``state()`` of an evolution with the same arguments.

        Raises:
            ValueError: if the state lacks an entry or belongs to another number of weights.
        """
        missing = [name for name in self._SCALARS + self._TENSORS if name not in state]
        if missing:
            raise ValueError(f"the saved state lacks {', '.join(missing)}")
        for name in self._TENSORS:
            if state[name].shape != self.theta_0.shape:
                raise ValueError(
                    f"the saved {name} has shape {tuple(state[name].shape)}; "
                    f"the weights have {tuple(self.theta_0.shape)}"
                )
        for name in self._SCALARS:
            setattr(self, name, type(getattr(self, name))(state[name]))
        for name in self._TENSORS:
            setattr(self, name, state[name].to(self.theta_0.device, copy=True))

    def _thermal_loss(self) -> float:
        """Return the loss that noise alone may cause; 0 without noise."""
        return 0.0

    def _step_description(self) -> str:
        """Return the step size in words, for errors."""
        raise NotImplementedError

    def _stability(self) -> str:
        """Return below which learning rate steps are stable in words, for errors, if any is."""
        return ""

    def _evaluate(self, displacement: Tensor) -> tuple[float, Tensor]:
        loss, gradient = self._loss_and_gradient(self.theta_0 + displacement)
        self.gradients += 1
        return loss, gradient.to(torch.float64, copy=True)  # theirs may be written to again

    def _diverged(self, loss: float, gradient: Tensor) -> bool:
        finite = math.isfinite(loss) and bool(torch.isfinite(gradient).all())
        return not finite or loss > self._explosion

    def _raise_divergence(self, loss: float) -> None:
        known = "unknown" if self.lambda_1 is None else f"{self.lambda_1:.6g}"
        raise DivergenceError(
            f"the training diverged: the loss is {loss:.6g} at time {self.time:.6g}, step "
            f"{self.steps}, with {self._step_description()} and lambda_1 {known}"
            f"{self._stability()}"
        )


class _ConstantStep(Evolution):
    """An evolution in steps of one size: time = step * steps."""

    _SCALARS = Evolution._SCALARS + ("_last_length",)
    _last_length = 0.0

    def __init__(self, loss_and_gradient, theta_0, step: float, *, lambda_1: float | None = None):
        if not (step > 0.0 and math.isfinite(step)):
            raise ValueError(f"the step is {step}; it must be positive and finite")
        self.step = step
        super().__init__(loss_and_gradient, theta_0, lambda_1=lambda_1)

    def advance(self, until, on_step=None) -> None:
        """Evolve to ``until``, rounded to the nearest whole number of steps.

        A time already passed is left as it is. See ``Evolution.advance``.
        """
        last_step = round(until / self.step)
        while self.steps < last_step:
            self._take_step()
            if on_step is not None:
                on_step(self)

    def speed(self, gradient: Tensor) -> float:
        """Return the speed |d theta/dt| of the last step."""
        return self._last_length / self.step

    def _take_step(self) -> None:
        self._shift(self._move())
        self.loss, self._gradient = self._evaluate(self.displacement)
        if self._diverged(self.loss, self._gradient):
            self._raise_divergence(self.loss)

    def _stability(self) -> str:
        return " (a gradient step is stable below 2 / lambda_1)"

    def _move(self) -> Tensor:
        """Return the change of the weights in the next step, shape (P,)."""
        raise NotImplementedError

    def _shift(self, move: Tensor) -> None:
        """Add the change of a step to the weights, and its length to the integrals."""
        self.displacement = self.displacement + move
        self._last_length = length = move.norm().item()
        self.path_length += length
        self.action += length**2 / self.step
        self.steps += 1
        self.time = self.step * self.steps


class GradientDescent(_ConstantStep):
    """Full-batch gradient descent theta <- theta - eta grad L, in training time eta * steps.

    The path length is the polygon's, sum |theta_{i+1} - theta_i|, and the action the exact
    discrete one, eta * sum |grad L(theta_i)|^2 (left end points).

    Args:
        loss_and_gradient: see ``Evolution``.
        theta_0: weights at the start, shape (P,).
        learning_rate: eta > 0.
        lambda_1: largest eigenvalue if known; named in errors, and for module ``rounding``.

    Raises:
        ValueError: if the learning rate is not positive.
    """

    def __init__(
        self,
        loss_and_gradient: LossAndGradient,
        theta_0: Tensor,
        learning_rate: float,
        *,
        lambda_1: float | None = None,
    ):
        super().__init__(loss_and_gradient, theta_0, learning_rate, lambda_1=lambda_1)

    def _move(self) -> Tensor:
        return -self.step * self._gradient

    def _step_description(self) -> str:
        return f"learning rate {self.step:.6g}"


class LangevinDynamics(_ConstantStep):
    """Langevin dynamics d theta = -grad L dt + sqrt(2/beta) dW by the Euler-Maruyama method.

    theta <- theta - step grad L + sqrt(2 step / beta) xi. Weak order 1: averages are off by
    O(step). On a mode of eigenvalue h the mean decays by 1 - step h instead of e^{-step h} a step,
    and the variance in equilibrium is 1 / (beta h (1 - step h / 2)), too large by about step h / 2.
    At temperature 0 it is gradient descent, bit for bit.

    The noise of a step depends on the seed and the step's number alone (Philox, Salmon et al.
    2011), so that a resumed run draws the same noise. Path length and action are those of the
    polygon through the steps, sum |Delta theta| and sum |Delta theta|^2 / step; with noise they
    grow without bound as the step shrinks (a Brownian path has no length). They are not the
    Benamou-Brenier action of the distribution.

    Attributes:
        heat: -int grad L o d theta given to the bath, by the midpoint of each step (Stratonovich):
            -sum 1/2 (g_n + g_{n+1}) . (theta_{n+1} - theta_n), in units of the loss.
        curvature_heat: sum 1/2 (g_{n+1} - g_n) . dB_n with the step's noise dB_n, in units of the
            loss. Its mean is temperature x sum <laplacian L(theta_{n+1})> step (Stein's lemma),
            with the share of ReLU kinks.
        noise: B_t = sum dB_n, the noise so far, variance 2 t / beta per weight, shape (P,).
        displacement_integral: int (theta - theta_0) dt by the trapezoidal rule, shape (P,).
        square_integral: int (theta - theta_0)^2 dt of every weight, likewise: for the mean of the
            scheme's diffusion, which is convex in time inside a step, from above.

    Args:
        loss_and_gradient: see ``Evolution``.
        theta_0: weights at the start, shape (P,).
        step: step of training time, > 0.
        temperature: 1/beta >= 0, in units of the loss.
        seed: of the noise's own stream, a non-negative integer below 2^128.
        lambda_1: largest eigenvalue if known; named in errors, and for module ``rounding``.

    Raises:
        ValueError: if the step is not positive or the temperature negative.
    """

    _SCALARS = _ConstantStep._SCALARS + ("heat", "curvature_heat")
    _TENSORS = _ConstantStep._TENSORS + ("noise", "displacement_integral", "square_integral")

    def __init__(
        self,
        loss_and_gradient: LossAndGradient,
        theta_0: Tensor,
        step: float,
        temperature: float,
        seed: int,
        *,
        lambda_1: float | None = None,
    ):
        if not (temperature >= 0.0 and math.isfinite(temperature)):
            raise ValueError(f"the temperature is {temperature}; it must be finite and >= 0")
        self.temperature, self.seed = temperature, seed
        super().__init__(loss_and_gradient, theta_0, step, lambda_1=lambda_1)
        self.heat = self.curvature_heat = 0.0
        self.noise = torch.zeros_like(self.theta_0)
        self.displacement_integral = torch.zeros_like(self.theta_0)
        self.square_integral = torch.zeros_like(self.theta_0)

    def layer_products(self, layers: Sequence[tuple[int, int]]) -> Tensor:
        """Inner products of u = theta - theta_0, theta_0 and B over the weights of each layer.

        Args:
            layers: (start, stop) of each layer inside theta.

        Returns:
            Shape (layers, 3, 3), float64, in the order u, theta_0, B.
        """
        vectors = torch.stack([self.displacement, self.theta_0, self.noise])
        parts = [vectors[:, start:stop] for start, stop in layers]
        return torch.stack([part @ part.T for part in parts])

    def layer_product_integrals(self, layers: Sequence[tuple[int, int]]) -> Tensor:
        """Integrals over the time so far of the inner products of u and theta_0 in each layer.

        Args:
            layers: (start, stop) of each layer inside theta.

        Returns:
            Shape (layers, 2, 2), float64, in the order u, theta_0.
        """
        mixed = self.displacement_integral * self.theta_0
        fixed = self.time * self.theta_0.square()
        parts = torch.stack([self.square_integral, mixed, mixed, fixed])
        sums = [parts[:, start:stop].sum(dim=1).reshape(2, 2) for start, stop in layers]
        return torch.stack(sums)

    def _take_step(self) -> None:
        before, self._kick = self._gradient, self._noise()
        move, from_here = self._move(), self.displacement
        super()._take_step()
        after, kick, to_here = self._gradient, self._kick, self.displacement
        half = 0.5 * self.step
        self.displacement_integral = self.displacement_integral + half * (from_here + to_here)
        squares = from_here.square() + to_here.square()
        self.square_integral = self.square_integral + half * squares
        self.heat -= 0.5 * torch.dot(before + after, move).item()
        self.curvature_heat += 0.5 * torch.dot(after - before, kick).item()
        self.noise = self.noise + kick

    def _move(self) -> Tensor:
        return self._kick - self.step * self._gradient

    def _noise(self) -> Tensor:
        """Return the noise dB = sqrt(2 step / beta) xi of the next step, shape (P,)."""
        if self.temperature == 0.0:
            return torch.zeros_like(self.theta_0)
        # Two steps never share a counter: each owns 2^128 values of the 256-bit counter.
        bits = np.random.Philox(key=self.seed, counter=self.steps << 128)
        draw = np.random.Generator(bits).standard_normal(self.theta_0.numel())
        normals = torch.from_numpy(draw).to(self.theta_0.device)
        return math.sqrt(2.0 * self.temperature * self.step) * normals

    def _thermal_loss(self) -> float:
        # Equipartition: every quadratic mode of the loss holds temperature / 2.
        return 0.5 * self.temperature * self.theta_0.numel()

    def _step_description(self) -> str:
        return f"learning rate {self.step:.6g}, temperature {self.temperature:.6g}"


class GradientFlow(Evolution):
    """Gradient flow d theta/dt = -grad L by a stabilised Runge-Kutta-Chebyshev method.

    The step is set by the error alone and grows with time; the number of stages follows from the
    step and the spectral radius, so that reaching T costs at most of the order of
    sqrt(lambda_1 T) gradients. Once steps need many stages, the leading eigenpairs of the Hessian
    are found by Lanczos iteration with gradient differences; those that the step is long for are
    taken implicitly, and the stages follow from the rest of the spectrum. See
    ``runge_kutta_chebyshev``.

    Between the ends of a step gradient and loss are read off cubic Hermite polynomials, through
    both ends and their slopes, and positions off a curve between that of the velocities and the
    chord: straightened as far as frees its int |u'|^2 dt from the noise of stiff directions, by the
    identity int |u'|^2 dt = loss drop, step by step from the second on. The snapshot times cost no
    gradients and do not change the steps. Path length and action are integrals of this curve's |u'|
    and |u'|^2, exact to rounding for the action and by Gauss-Legendre quadrature (16 nodes a step)
    for the length; ``velocity_noise`` is the part of the action that went.
    Against the exact flow all three, and the loss, have the error of the integrator.

    ``time`` and all that goes with it stop at ``until``, while the last step may end beyond it;
    ``loss`` is interpolated in the same way, with the slope -|grad L|^2.

    Args:
        loss_and_gradient: see ``Evolution``.
        theta_0: weights at the start, shape (P,).
        relative_tolerance: bound on the local error of a step over |theta_t - theta_0|.
        end_time: last time of interest; no step crosses it (None: no such time).
        lambda_1: largest eigenvalue if known; named in errors until the flow has an estimate.

    Raises:
        ValueError: if the tolerance is not positive.
    """

    _SCALARS = Evolution._SCALARS + (
        "spectral_radius", "_refresh_at", "_deflate_count", "_deflate_after", "_next_step",
        "_start_time", "_start_loss", "_start_path_length", "_start_action", "_start_noise",
        "_end_time", "_end_loss", "_end_path_length", "_end_action", "_end_noise",
    )  # fmt: skip
    _TENSORS = Evolution._TENSORS + (
        "_start", "_start_gradient", "_end", "_end_gradient", "_direction"
    )  # fmt: skip
    _error_order = 3  # the local error of a second-order method falls as step^3

    def __init__(
        self,
        loss_and_gradient: LossAndGradient,
        theta_0: Tensor,
        *,
        relative_tolerance: float = RELATIVE_TOLERANCE,
        end_time: float | None = None,
        lambda_1: float | None = None,
    ):
        if not relative_tolerance > 0.0:
            raise ValueError(f"relative_tolerance is {relative_tolerance}; it must be positive")
        super().__init__(loss_and_gradient, theta_0, lambda_1=lambda_1)
        self.relative_tolerance = relative_tolerance
        self.end_time = math.inf if end_time is None else float(end_time)
        # The current step runs from _start to _end; at first both are the starting point.
        self._start = self._end = self.displacement
        self._start_gradient = self._end_gradient = self._gradient
        self._start_loss = self._end_loss = self.loss
        self._start_time = self._start_path_length = self._start_action = self._start_noise = 0.0
        self._end_time = self._end_path_length = self._end_action = self._end_noise = 0.0
        self._next_step = 0.0
        self._direction = self._gradient  # where the power iteration stands
        self.spectral_radius, self._refresh_at = 0.0, 0
        self._stiff = StiffPart.none(self._end)
        self._deflate_count, self._deflate_after = DEFLATION_START, 0
        self._curve: tuple[np.ndarray, float, float] | None = None  # of the current step, if taken

    def state(self) -> State:
        """Return all that a run of the same arguments needs to continue; see ``Evolution``."""
        stiff = {
            "_stiff_vectors": self._stiff.vectors.clone(),
            "_stiff_eigenvalues": self._stiff.eigenvalues.clone(),
        }
        return super().state() | stiff

    def load_state(self, state: State) -> None:
        """Continue from a ``state()``; see ``Evolution``."""
        super().load_state(state)
        device = self.theta_0.device
        self._stiff = StiffPart(
            state["_stiff_vectors"].to(device, copy=True),
            state["_stiff_eigenvalues"].to(device, copy=True),
        )
        self._curve = None
        if self._refresh_at > 0:
            self._estimate_lambda_1()

    def advance(self, until, on_step=None) -> None:
        """Evolve to exactly ``until``; a time already passed is left as it is.

        See ``Evolution.advance``. While ``on_step`` runs, ``time`` is the end of the step just
        taken or ``until``, whichever is earlier.
        """
        while self._end_time < until and self._end_gradient.any():
            self._take_step()
            self._read_off(min(until, self._end_time))
            if on_step is not None:
                on_step(self)
        if not self._end_gradient.any() and until > self._end_time:
            self._end_time = until  # a stationary point: nothing moves any more
        if until > self.time:
            self._read_off(until)

    def _take_step(self) -> None:
        """Take the next step that the error allows, from _end onwards."""
        if self.gradients >= self._refresh_at:
            self._refresh_spectral_radius()
        self._deflate_if_worthwhile()
        loss = self._end_loss
        for _ in range(MAXIMUM_REJECTIONS):
            step, end_time = self._propose_step()
            if end_time <= self._end_time:
                break  # the step is below the resolution of the time
            end, loss, gradient, local_error = self._attempt(step)
            error = math.inf
            if not self._diverged(loss, gradient):
                error = self._relative_error(local_error, end)
            self._next_step = step * step_factor(error, self._error_order)
            if error <= 1.0:
                self._accept(step, end_time, end, loss, gradient)
                return
            self._refresh_spectral_radius()  # it may have grown: that is one cause of errors
        self._raise_divergence(loss)

    def _attempt(self, step: float) -> tuple[Tensor, float, Tensor, Tensor]:
        """Return where a step from _end ends, loss and gradient there, and its local error."""
        slow, stiff = self._stiff.split(IMPLICIT_FROM / step)
        radius = self.spectral_radius + slow  # of the rest and of the slow modes together, at most
        end = chebyshev_step(
            self._velocity,
            self._end,
            -self._end_gradient,
            step,
            stages_needed(step, radius),
            stiff,
        )
        loss, gradient = self._evaluate(end)
        local_error = error_estimate(self._end, end, -self._end_gradient, -gradient, step)
        return end, loss, gradient, local_error

    def _velocity(self, displacement: Tensor) -> Tensor:
        return -self._evaluate(displacement)[1]

    def _propose_step(self) -> tuple[float, float]:
        """Return (step, time at its end), cut so that the last step ends at ``end_time``."""
        step = min(self._next_step, largest_step(MAXIMUM_STAGES, self.spectral_radius))
        remaining = self.end_time - self._end_time
        if remaining <= 0.0 or step <= 0.5 * remaining:
            return step, self._end_time + step
        if step < remaining:  # two equal steps instead of a long and a short one
            return 0.5 * remaining, self._end_time + 0.5 * remaining
        return remaining, self.end_time

    def _relative_error(self, local_error: Tensor, end: Tensor) -> float:
        """Return the local error in units of the tolerance times |theta_t - theta_0|."""
        allowed = self.relative_tolerance * end.norm().item()
        return local_error.norm().item() / allowed if allowed > 0.0 else 0.0

    def _accept(self, step, end_time, end, loss, gradient) -> None:
        """Make a step from _end onwards the current one."""
        self._start, self._start_gradient = self._end, self._end_gradient
        self._start_time, self._start_loss = self._end_time, self._end_loss
        self._start_path_length, self._start_action = self._end_path_length, self._end_action
        self._start_noise = self._end_noise
        self._end, self._end_gradient, self._end_time, self._end_loss = (
            end, gradient, end_time, loss
        )  # fmt: skip
        self._curve = products, bend, noise = self._curve_of_step()
        path_length, action = _path_integrals(products, step, 1.0, bend)
        self._end_path_length += path_length
        self._end_action += action
        self._end_noise += noise
        self.steps += 1

    def _rest_product(self, vector: Tensor) -> Tensor:
        """Return the Hessian at _end, less its stiff part, times a vector, shape (P,).

        The Hessian's product is a difference of gradients at a distance of 3e-4 |theta|.
        """
        size = DIFFERENCE_SIZE * ((self.theta_0 + self._end).norm().item() or 1.0)
        scale = size / vector.norm().item()
        change = self._evaluate(self._end + scale * vector)[1] - self._end_gradient
        if not torch.isfinite(change).all():
            self._raise_divergence(self._end_loss)
        return change / scale - self._stiff.product(vector)

    def _refresh_spectral_radius(self) -> None:
        """Estimate the spectral radius of the explicit part at _end by power iteration.

        The direction of the last estimate is the start of the next one, so that later estimates
        need few gradients. At the first call the first step follows from the radius.
        """
        first = self._refresh_at == 0
        radius = 0.0
        for _ in range(POWER_ITERATIONS_START if first else POWER_ITERATIONS_REFRESH):
            unit = self._direction / self._direction.norm()
            image = self._rest_product(unit)
            previous, radius = radius, image.norm().item()
            if radius == 0.0:
                break
            self._direction = image
            if abs(radius - previous) <= POWER_ITERATION_TOLERANCE * radius:
                break
        self._set_spectral_radius(radius)
        if first:
            # A first step h has the relative error (h lambda_1)^2 up to a factor of order one.
            self._next_step = math.sqrt(self.relative_tolerance) / radius if radius else math.inf
            if self._next_step == self.end_time == math.inf:
                # A constant gradient and no end: any step is exact, this one takes the loss off.
                self._next_step = abs(self.loss) / self.gradient_norm**2 or 1.0

    def _set_spectral_radius(self, radius: float) -> None:
        self.spectral_radius = SPECTRAL_RADIUS_SAFETY * radius
        self._refresh_at = self.gradients + REFRESH_AFTER_GRADIENTS
        self._estimate_lambda_1()

    def _estimate_lambda_1(self) -> None:
        """Set lambda_1 from what the state holds, so that a resumed run has the same."""
        radius = self.spectral_radius / SPECTRAL_RADIUS_SAFETY
        self.lambda_1 = max([radius, *self._stiff.eigenvalues.tolist()])

    def _deflate_if_worthwhile(self) -> None:
        """Move the leading eigenpairs of the Hessian to the implicit part once steps need many
        stages.

        It takes as many gradients as the step itself would, at most a fifth of all gradients.
        """
        stages = stages_needed(self._propose_step()[0], self.spectral_radius)
        if stages < self._deflate_count or self.gradients < self._deflate_after:
            return
        self._stiff = StiffPart.none(self._end)  # the new pairs are those of the whole Hessian
        self._stiff, rest, self._direction = leading_eigenpairs(
            self._rest_product, self._search_start(), self._deflate_count
        )
        self._refresh_spectral_radius()
        self._set_spectral_radius(max(rest, self.spectral_radius / SPECTRAL_RADIUS_SAFETY))
        self._deflate_after = self.gradients + DEFLATION_INTERVAL * self._deflate_count
        self._deflate_count = min(2 * self._deflate_count, DEFLATION_LIMIT)

    def _search_start(self) -> Tensor:
        """Return the first Lanczos vector, shape (P,): the gradient and as much random direction.

        A mode that has decayed is not in the gradient any more, nor in any Krylov space of it. The
        random direction holds all modes (Kuczynski, Wozniakowski 1992); it is the same one at each
        call, so that a resumed run takes the same steps. Where it is opposite to the gradient, as
        it may be for a single weight, the gradient stands alone.
        """
        random = torch.randn(len(self._end), generator=torch.Generator().manual_seed(0))
        random = random.to(self._end)
        along = self._end_gradient / self._end_gradient.norm()
        both = along + random / random.norm()
        return both if both.norm() > OPPOSITE else along

    def _curve_of_step(self) -> tuple[np.ndarray, float, float]:
        """Return products of velocities, shape (3, 3), bend and noise of the current step's curve.

        The products are those of the chord's velocity and the velocities at start and end. A small
        error of a step in a stiff direction hardly moves the end of the step or its loss, but its
        velocity is the error times a large eigenvalue, and the Hermite curve's int |u'|^2 dt is too
        large. That of the flow is the loss drop. So the curve is taken as the chord plus ``bend``
        times what the Hermite curve deviates from it, 0 <= bend <= 1, with the action of the loss
        drop if there is such a bend. The deviation's velocity has the mean zero, so that the action
        is chord^2 / step plus bend^2 times what the Hermite curve's exceeds that by. The noise is
        the part of the action that goes. The first step, short and from a start without error,
        keeps the Hermite curve: all that has moved before its end is read off it.
        """
        step = self._end_time - self._start_time
        velocities = (self._end - self._start) / step, -self._start_gradient, -self._end_gradient
        products = np.empty((3, 3))
        for (i, p), (j, q) in itertools.combinations_with_replacement(enumerate(velocities), 2):
            products[i, j] = products[j, i] = torch.dot(p, q).item()
        action, straight = _path_integrals(products, step, 1.0, 1.0)[1], step * products[0, 0]
        drop = action if self._start_time == 0.0 else self._start_loss - self._end_loss
        freed = min(max(drop, straight), action)
        bend = math.sqrt((freed - straight) / (action - straight)) if freed < action else 1.0
        return products, bend, action - freed

    def _read_off(self, time: float) -> None:
        """Set the public attributes to their values at a time inside the current step."""
        step = self._end_time - self._start_time
        x = (time - self._start_time) / step
        self.time = time
        if time == self._end_time:
            self.displacement, self._gradient, self.loss = (
                self._end, self._end_gradient, self._end_loss
            )  # fmt: skip
            self.path_length, self.action = self._end_path_length, self._end_action
            self.velocity_noise = self._end_noise
            return
        chord, start, end = _hermite_velocity(np.array(x)).tolist()
        self._gradient = (
            start * self._start_gradient + end * self._end_gradient
            - chord / step * (self._end - self._start)
        )  # fmt: skip
        v_start, v_end = -self._start_gradient, -self._end_gradient
        curve = _hermite(x, step, self._start, self._end, v_start, v_end)
        # Slopes of a loss that falls throughout, which is never negative and never rises (Fritsch
        # and Carlson 1980): a cubic of the true ones dips where stiff modes end within the step.
        steepest = min(3.0 * (self._end_loss - self._start_loss) / step, 0.0)
        slopes = (
            max(-float(gradient.square().sum()), steepest)
            for gradient in (self._start_gradient, self._end_gradient)
        )
        self.loss = float(_hermite(x, step, self._start_loss, self._end_loss, *slopes))
        if self._curve is None:  # in a step that another process took
            self._curve = self._curve_of_step()
        products, bend, noise = self._curve
        # Positions and lengths of one curve: no two times are nearer on it than in space.
        self.displacement = torch.lerp(self._start, self._end, x).lerp(curve, bend)
        path_length, action = _path_integrals(products, step, x, bend)
        self.path_length = self._start_path_length + path_length
        self.action = self._start_action + action
        self.velocity_noise = self._start_noise + x * noise

    def _step_description(self) -> str:
        return f"flow step {self._next_step:.6g}"

    def _stability(self) -> str:
        return " (steps of gradient flow are as short as their error asks for)"


def step_factor(error: float, order: int) -> float:
    """Return the next step over this one, for an error in units of the tolerance.

    Args:
        error: estimate of the local error, which falls as step^order.
        order: 3 for a method of second order.

    No trend of the error is extrapolated: where a ReLU changes sides the error jumps, and a trend
    then costs rejected steps (half of all gradients on a small ReLU network).
    """
    if not math.isfinite(error):
        return STEP_SHRINK_LIMIT
    if error <= 0.0:
        return STEP_GROWTH_LIMIT
    factor = STEP_SAFETY * error ** (-1.0 / order)
    return min(max(factor, STEP_SHRINK_LIMIT), STEP_GROWTH_LIMIT)


def _path_integrals(
    products: np.ndarray, step: float, fraction: float, bend: float
) -> tuple[float, float]:
    """Return path length and action over a fraction of a step's curve; see ``_curve_of_step``."""
    x = 0.5 * fraction * (1.0 + GAUSS_NODES)
    coefficients = bend * _hermite_velocity(x)
    coefficients[0] += 1.0 - bend
    squares = np.einsum("ix,ij,jx->x", coefficients, products, coefficients).clip(min=0.0)
    weights = 0.5 * fraction * step * GAUSS_WEIGHTS
    return float(weights @ np.sqrt(squares)), float(weights @ squares)


def _hermite(x: float, step: float, start, end, slope_start, slope_end):
    """Return the cubic with the given values and slopes at x = 0 and x = 1 (time step * x)."""
    rise = x * x * (3.0 - 2.0 * x)
    slopes = (x * (1.0 - x) ** 2) * slope_start - (x * x * (1.0 - x)) * slope_end
    return start + rise * (end - start) + step * slopes


def _hermite_velocity(x: np.ndarray) -> np.ndarray:
    """Return the coefficients of (chord / step, start slope, end slope) in the cubic's slope."""
    return np.stack([6.0 * x * (1.0 - x), (1.0 - x) * (1.0 - 3.0 * x), x * (3.0 * x - 2.0)])
