"""Largest stable learning rates of momentum on a quadratic, over 2/lambda_1 (docs/theory.md, 8)."""


def heavy_ball_factor(momentum: float) -> float:
    """Return 1 + mu, the stability limit of heavy ball over that of gradient descent.

    Args:
        momentum: mu in [0, 1).
    """
    return 1 + momentum


def nesterov_factor(momentum: float) -> float:
    """Return (1 + mu) / (1 + 2 mu), the same of Nesterov's momentum.

    Args:
        momentum: mu in [0, 1).
    """
    return (1 + momentum) / (1 + 2 * momentum)
