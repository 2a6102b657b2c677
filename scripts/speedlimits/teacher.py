"""Regression data of a linear teacher whose kernel spectrum and residue are dialled in.

With features Phi (n, d) of variance 1/n, inputs and targets

    X = Phi diag(k^{-alpha/2}),    y = Phi a,    a_k = s_k k^{-delta/2},    s_k = +-1 at random,

the linear model f = X w has the kernel X X^T (up to a factor), and its residue from f = 0 is y. If
the columns of Phi are orthonormal they are the kernel's eigenvectors, lambda_k = k^-alpha and
Delta_k^2 = k^-delta hold exactly, and so do all sums over them. With Gaussian features s_k is
standard normal too: the laws hold for the population, a sample of n scatters about them, and
Delta_k^2 scatters as a squared Gaussian at every rank. With more dimensions than samples the modes
beyond n add to the spectrum and, white, to the residue.

Features of a sample overlap by 1/n^{1/2}, so other modes j leak into mode k of a sample even where
n = d (derived here, to first order in 1/n^{1/2}): those beyond k

    (1/n) sum_{j>k} j^-delta,

which is white and covers k^-delta unless delta is about 1/2 or more, and the first one, which k is
orthogonal to but for lambda_k / lambda_1,

    (1/n) (lambda_k / lambda_1)^2 = k^{-2 alpha} / n,

below which k^-delta falls at k = n^{1/(delta - 2 alpha)}, among n modes if delta > 2 alpha + 1. The
law of the residue comes back for 1/2 <= delta <= 2 alpha + 1/2 (`residue_law_holds`), unless alpha
is so small that neighbours mix throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEATURES = ("orthonormal", "gaussian")
# Own choice: at both ends fits to 200 samples of 200 dimensions are off by 0.15, for alpha from 0.3
# to 2; delta = 0 and -1 give 0.2 and -0.1, 2 alpha + 1 is 0.4 too low.
LEAST_ALPHA, LEAST_DELTA = 0.3, 0.5


def residue_law_holds(alpha: float, delta: float, features: str) -> bool:
    """Return whether Delta_k^2 fall about as k^-delta: alpha >= 0.3, 1/2 <= delta <= 2 alpha + 1/2.

    Always for orthonormal features; for Gaussian ones as far as the leak from other modes, see
    above, lies below (derived here), in about as many samples as dimensions. Many more hold more.

    Args:
        alpha: exponent of lambda_k ~ k^-alpha.
        delta: exponent of Delta_k^2 ~ k^-delta.
        features: "orthonormal" or "gaussian".
    """
    apart = alpha >= LEAST_ALPHA and LEAST_DELTA <= delta <= 2 * alpha + 0.5
    return features == "orthonormal" or apart


def teacher_data(
    generator: np.random.Generator,
    *,
    alpha: float,
    delta: float,
    samples: int,
    dimension: int,
    features: str,
    test_count: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Return inputs X = Phi diag(k^{-alpha/2}) and targets y = Phi a of the teacher (derived here).

    Args:
        generator: random stream.
        alpha: exponent of lambda_k ~ k^-alpha.
        delta: exponent of Delta_k^2 ~ k^-delta.
        samples: number of training samples n.
        dimension: number of modes d.
        features: "orthonormal" (needs d <= n) or "gaussian".
        test_count: number of test samples, whose features are Gaussian either way.

    Returns:
        train_inputs (n, d), train_targets (n, 1), test_inputs (m, d), test_targets (m, 1), float64.

    Raises:
        ValueError: if the features are unknown, or orthonormal with d > n.
    """
    if features not in FEATURES:
        raise ValueError(f"features is {features!r}; it must be one of {', '.join(FEATURES)}")
    if features == "orthonormal" and dimension > samples:
        raise ValueError(
            f"dimension is {dimension}; {samples} samples have at most {samples} orthonormal "
            "features: lower dimension"
        )
    rank = np.arange(1.0, dimension + 1)
    drawn = features == "gaussian"
    signs = (
        generator.standard_normal(dimension)
        if drawn
        else generator.choice([-1.0, 1.0], size=dimension)
    )
    phi = generator.standard_normal((samples, dimension))
    # The factor Q of a Gaussian matrix is uniform among matrices with orthonormal columns.
    phi = np.linalg.qr(phi)[0] if features == "orthonormal" else phi / np.sqrt(samples)
    test = generator.standard_normal((test_count, dimension)) / np.sqrt(samples)
    scale, weights = rank ** (-alpha / 2), signs * rank ** (-delta / 2)
    return {
        "train_inputs": phi * scale,
        "train_targets": (phi @ weights)[:, None],
        "test_inputs": test * scale,
        "test_targets": (test @ weights)[:, None],
    }
