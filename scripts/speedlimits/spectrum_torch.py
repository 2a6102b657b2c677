"""Spectrum of a kernel by one dense decomposition on the device that holds it, meant for a GPU.

On a CPU ``spectrum.eigenvalues_and_projections`` is quicker, because it never forms the
eigenvectors; its two steps, reduction and tridiagonal solver, are LAPACK's and run on a CPU alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speedlimits.spectrum import check_parseval


def decomposed(kernel: Tensor, residue: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return all eigenvalues and residue projections of a kernel, and its leading eigenvectors.

    Theta = V diag(lambda) V^T by ``torch.linalg.eigh`` (cuSOLVER on a GPU), Delta_k^2 is the
    squared row k of V^T Delta, summed over columns.

    Args:
        kernel: Theta (K, K), symmetric, float64; the lower triangle is read.
        residue: Delta (K, columns) on the same device, float64.
        count: number of leading eigenvectors, 0 to K.

    Returns:
        (eigenvalues descending (K,), residue projections (K,), eigenvectors (K, count)) on the
        kernel's device.

    Raises:
        ArithmeticError: if sum_k Delta_k^2 differs from |Delta|^2 (Parseval).
    """
    eigenvalues, vectors = torch.linalg.eigh(kernel)
    projections = (vectors.T @ residue).square().sum(dim=1)
    check_parseval(float(projections.sum()), float(residue.square().sum()))
    return eigenvalues.flip(0), projections.flip(0), vectors.flip(1)[:, :count]
