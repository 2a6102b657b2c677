"""NTK and covariance of the outputs of an infinitely wide fully connected ReLU network.

Closed forms by arc-cosine kernels (Cho and Saul 2009; Jacot, Gabriel, Hongler 2018) for the network
of `networks.fully_connected` in NTK parameterisation: no biases, weights N(0, 1), the layer scale
sqrt(2 / fan_in) before a ReLU and 1 / sqrt(fan_in) at the output. At infinite width the kernel is
Theta x I_C, constant in training, and the outputs at the start are Gaussian with the covariance
Sigma x I_C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speedlimits import ntk_dynamics

Array = NDArray[np.float64]


def kernels(inputs: ArrayLike, depth: int, other_inputs: ArrayLike | None = None):
    """Return the output covariance Sigma and the NTK Theta of one output, each (N, M), float64.

    With S the covariance of a hidden layer's input (the gain 2 included where a ReLU follows) and
    cos(phi) = S(x, x') / sqrt(S(x, x) S(x', x')):

        2 <relu relu>   = sqrt(S S') (sin(phi) + (pi - phi) cos(phi)) / pi
        2 <relu' relu'> = (pi - phi) / pi
        Theta <- 2 <relu relu> + 2 <relu' relu'> Theta, halved at the output, whose gain is 1.

    Args:
        inputs: x, shape (N, ...), flattened to d components.
        depth: number of weight layers, at least 1 (1 is linear regression).
        other_inputs: x', shape (M, ...); None means ``inputs``.

    Returns:
        (Sigma, Theta).

    Raises:
        ValueError: if depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; a network needs at least 1 weight layer")
    x = np.asarray(inputs, dtype=np.float64).reshape(len(inputs), -1)
    y = x if other_inputs is None else np.asarray(other_inputs, float).reshape(-1, x.shape[1])
    # 2 is the squared gain before a ReLU, and makes the diagonal the same in every hidden layer
    gain = 2.0 if depth > 1 else 1.0
    covariance = gain * x @ y.T / x.shape[1]
    first = gain * np.sum(x**2, axis=1) / x.shape[1]
    second = gain * np.sum(y**2, axis=1) / x.shape[1]
    norms = np.sqrt(np.outer(first, second))
    kernel = covariance.copy()
    for layer in range(1, depth):
        cosine = np.divide(covariance, norms, out=np.ones_like(norms), where=norms > 0)
        angle = np.arccos(np.clip(cosine, -1.0, 1.0))
        derivative = (np.pi - angle) / np.pi
        covariance = norms * (np.sin(angle) / np.pi + derivative * cosine)
        kernel = covariance + derivative * kernel
        if layer == depth - 1:
            covariance, kernel = 0.5 * covariance, 0.5 * kernel
    return covariance, kernel


def expected_residue_projections(covariance: ArrayLike, kernel: ArrayLike, targets: ArrayLike):
    """Return eigenvalues of Theta and <Delta_k^2> over starts, summed over outputs, each (N,).

    <Delta_k^2> = |v_k . y|^2 + C v_k^T Sigma v_k: the outputs have mean 0 and covariance Sigma.
    Loss drop and squared length are linear in Delta_k^2, so that `ntk_dynamics` gives their exact
    means, and the inefficiency as their ratio.

    Args:
        covariance: Sigma, shape (N, N).
        kernel: Theta, shape (N, N).
        targets: y, shape (N, C).

    Returns:
        (eigenvalues, mean squared projections), eigenvalues descending (derived here).
    """
    targets = np.asarray(targets, dtype=np.float64)
    eigenvalues, vectors = np.linalg.eigh(np.asarray(kernel, dtype=np.float64))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    of_targets = np.sum((vectors.T @ targets) ** 2, axis=1)
    spread = np.einsum("nk,nm,mk->k", vectors, np.asarray(covariance, float), vectors)
    return eigenvalues, of_targets + targets.shape[1] * spread


def spectrum(
    inputs: ArrayLike,
    targets: ArrayLike,
    depth: int,
    output_scale: float = 1.0,
    random_start: bool = True,
):
    """Return eigenvalues of a^2 Theta and <Delta_k^2> of f = a h, for starts of one's choice.

    f = a h multiplies Theta and Sigma by a^2. Where the start's outputs are subtracted, or the
    residue y - f(theta_0) of one start is given as targets, nothing is random: <Delta_k^2> is the
    squared projection itself.

    Args:
        inputs: x, shape (N, ...).
        targets: y, shape (N, C); the residue Delta of one start with ``random_start`` False.
        depth: number of weight layers.
        output_scale: a > 0.
        random_start: whether outputs of the start, of covariance a^2 Sigma, add to the residue.

    Returns:
        (eigenvalues, mean squared projections), each (N,), float64, eigenvalues descending.
    """
    covariance, kernel = kernels(inputs, depth)
    spread = output_scale**2 * covariance if random_start else np.zeros_like(covariance)
    return expected_residue_projections(spread, output_scale**2 * kernel, targets)


def predict(inputs: ArrayLike, targets: ArrayLike, depth: int, times: ArrayLike) -> dict:
    """Quantities of `ntk_dynamics.predict` in the limit of infinite width, averaged over starts.

    Args:
        inputs: x, shape (N, ...).
        targets: y, shape (N, C).
        depth: number of weight layers.
        times: T, shape (M,) or scalar.

    Returns:
        Name -> array of the shape of ``times``; the path length is that of the mean speed squared.
    """
    return ntk_dynamics.predict(*spectrum(inputs, targets, depth), times)
