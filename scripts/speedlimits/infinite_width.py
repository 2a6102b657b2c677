"""NTK and covariance of the outputs of an infinitely wide chain of ReLU layers.

For the fully connected and the Myrtle networks of `networks`, in NTK parameterisation with Gaussian
starts: at infinite width the kernel is Theta x I_C, constant in training, and the outputs at the
start are Gaussian with the covariance Sigma x I_C (Jacot, Gabriel, Hongler 2018; for convolutions
Arora et al. 2019, section 4; Shankar et al. 2020, section 3). Layer sizes and scales are read off a
network of any width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from speedlimits import ntk_dynamics
from speedlimits.layers import (
    GlobalAveragePool,
    ScaledConv2d,
    ScaledLinear,
    pools_disjoint_squares,
)

Array = NDArray[np.float64]

# Entries of Sigma, over position pairs and inputs, that are computed at once, at 2 MB in float64
# (own choice, fastest of 2^14, 2^16, 2^18, 2^20 on 8 x 8 images).
BLOCK = 2**18
WEIGHTS = (ScaledLinear, ScaledConv2d)
POOLS = (nn.AvgPool2d, GlobalAveragePool)


def kernels(
    network: nn.Sequential,
    inputs: ArrayLike,
    other_inputs: ArrayLike | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
):
    """Return the output covariance Sigma and the NTK Theta of one output, each (N, M), float64.

    S(p, p') and T(p, p') are covariance and NTK of one channel at positions p of x and p' of x', at
    first S = <x(p) x'(p')> over channels and T = 0; a fully connected layer has one position. With
    cos(phi) = S(p, p') / sqrt(S_xx(p, p) S_x'x'(p', p')), s the scale and c the inputs of a layer:

        weights   S <- s^2 c sum_d S(p + d, p' + d),  T <- the same sum of S + T
                  (d: the 9 shifts of a 3x3 convolution, 0 outside the image; none if linear)
        ReLU      T <- T (pi - phi) / 2 pi
                  S <- sqrt(S_xx S_x'x') (sin(phi) + (pi - phi) cos(phi)) / 2 pi
        pool      S, T <- means over p and p' in their windows

    Per pair of inputs, convolution and ReLU this takes about 30 operations for each pair of
    positions, one of them an arccosine: (H W)^2 pairs before the first pool, 16 times fewer after
    it. Memory: about 6 arrays of (H W)^2 entries, or of `BLOCK` if that is more.

    Args:
        network: chain of Flatten (in front), ScaledLinear, ScaledConv2d, ReLU, AvgPool2d and
            GlobalAveragePool that ends in a ScaledLinear; its hidden layers count as infinitely
            wide.
        inputs: x, shape (N, ...) of the network's inputs.
        other_inputs: x', shape (M, ...); None means ``inputs``.
        on_progress: called with the share of the pairs done, 0 at the start.

    Returns:
        (Sigma, Theta).

    Raises:
        ValueError: if the network is no such chain, not in NTK parameterisation with Gaussian
            weights, or not made for these inputs.
    """
    layers = _checked(network)
    x = _images(network, inputs)
    y = x if other_inputs is None else _images(network, other_inputs)
    channels = next(layer.weight.shape[1] for layer in layers if isinstance(layer, WEIGHTS))
    if x.shape[1] != channels or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"inputs have {x.shape[1]} channels or components, of shapes {tuple(x.shape[1:])} and "
            f"{tuple(y.shape[1:])}; the network takes {channels}, and both must have one shape"
        )
    side = max(1, math.isqrt(BLOCK) // x[0, 0].numel())
    squares = _squares(layers, x, side**2)
    other_squares = squares if y is x else _squares(layers, y, side**2)
    found = torch.empty(2, len(x), len(y), dtype=torch.float64)
    starts = itertools.product(range(0, len(x), side), range(0, len(y), side))
    blocks = [(i, j) for i, j in starts if y is not x or j >= i]
    for number, (i, j) in enumerate(blocks):
        on_progress(number / len(blocks))
        rows, columns = slice(i, i + side), slice(j, j + side)
        start = torch.einsum("ncij,mckl->nmikjl", x[rows], y[columns]) / x.shape[1]
        both = zip(squares, other_squares, strict=True)
        both = [(first[rows, None], second[None, columns]) for first, second in both]
        block = _outputs(layers, start, both)
        found[:, rows, columns] = block
        if y is x:
            found[:, columns, rows] = block.transpose(1, 2)
    covariance, kernel = found.numpy()
    return covariance, kernel


def _checked(network: nn.Sequential) -> list[nn.Module]:
    """Return the layers after a Flatten in front, of a chain that has a limit.

    Raises:
        ValueError: as for ``kernels``.
    """
    layers = list(network) if isinstance(network, nn.Sequential) else []
    layers = layers[1:] if layers and isinstance(layers[0], nn.Flatten) else layers
    gaussian = False  # a ReLU needs the output of a weight layer, pooled or not
    for layer in layers:
        if isinstance(layer, WEIGHTS):
            mean = isinstance(layer, ScaledLinear) and layer.is_mean
            if not layer.weight.requires_grad:
                raise ValueError(
                    f"the weights of {layer} are frozen (requires_grad is False); the closed form "
                    "is of all weights"
                )
            if layer.start_deviation != 1 or layer.uniform_start or mean:
                raise ValueError(
                    "a layer's weights do not start as N(0, 1) or its output is a mean; infinite "
                    "width has its closed form for parameterisation ntk and initialisation he"
                )
            gaussian = True
        elif isinstance(layer, nn.ReLU) and gaussian:
            gaussian = False
        elif isinstance(layer, nn.AvgPool2d):
            if not pools_disjoint_squares(layer):
                raise ValueError(
                    f"{layer} does not average disjoint square cells; windows that overlap or are "
                    "padded, sizes of two numbers, ceil_mode and a divisor have no closed form here"
                )
        elif not isinstance(layer, GlobalAveragePool):
            raise ValueError(
                f"{type(layer).__name__} after {'weights' if gaussian else 'no weights'} has no "
                "closed form at infinite width"
            )
    if not layers or not isinstance(layers[-1], ScaledLinear):
        raise ValueError(
            f"{type(network).__name__} is no chain of layers that ends in a ScaledLinear; infinite "
            "width has its closed form for fully connected and Myrtle networks"
        )
    return layers


def _images(network: nn.Sequential, inputs: ArrayLike) -> Tensor:
    """Return the inputs as (N, channels, H, W) in float64; vectors are images of one position."""
    x = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float64))
    flat = x.ndim != 4 or isinstance(network[0], nn.Flatten)
    return x.reshape(len(x), -1, 1, 1) if flat else x


def _squares(layers: list[nn.Module], x: Tensor, count: int) -> list[Tensor]:
    """Return S_xx(p, p) before every ReLU, each (N, H, W), for ``count`` inputs at a time."""
    found = []
    for part in x.split(count):
        squares: list[tuple[Tensor, Tensor]] = []
        _outputs(layers, torch.einsum("ncij,nckl->nikjl", part, part) / x.shape[1], squares)
        found.append([first for first, _ in squares])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _outputs(
    layers: list[nn.Module], covariance: Tensor, squares: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return Sigma and Theta, (2, ...), from the inputs' S, (..., H, H', W, W').

    Args:
        layers: of ``_checked``.
        covariance: S at rows i and i' and columns j and j'; overwritten.
        squares: S_xx(p, p) and S_x'x'(p', p') before every ReLU, each (..., H, W); added to an
            empty list, if x' is x.
    """
    kernel, rectified = torch.zeros_like(covariance), 0
    for pools, group in itertools.groupby(layers, lambda layer: isinstance(layer, POOLS)):
        part = list(group)
        if pools:
            for layer in part:
                size = layer.kernel_size if isinstance(layer, nn.AvgPool2d) else None
                covariance, kernel = _pooled(covariance, size), _pooled(kernel, size)
        else:
            _propagate_(part, covariance, kernel, squares, rectified)
            rectified += sum(isinstance(layer, nn.ReLU) for layer in part)
    return torch.stack((covariance, kernel)).flatten(-4).squeeze(-1)


def _propagate_(
    layers: list[nn.Module],
    covariance: Tensor,
    kernel: Tensor,
    squares: list[tuple[Tensor, Tensor]],
    rectified: int,
) -> None:
    """Take S and T through layers that keep positions, in place.

    Up to the next pool pairs of rows with another distance i' - i never meet, so that each distance
    goes through all layers by itself, in arrays that a core's cache holds.

    Args:
        layers: ReLU and weight layers.
        covariance: S, (..., H, H', W, W').
        kernel: T, the same shape.
        squares: as for ``_outputs``.
        rectified: number of ReLU layers before.
    """
    height = covariance.shape[-3]
    for distance in sorted(range(1 - height, height), key=abs):  # 0 has the squares
        views = [both.diagonal(distance, -4, -3).movedim(-1, -3) for both in (covariance, kernel)]
        s, t = (view.contiguous() for view in views)
        rows = slice(max(0, -distance), height - max(0, distance))
        other_rows = slice(max(0, distance), height - max(0, -distance))
        number = rectified
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                if number == len(squares):
                    squares.append((s.diagonal(0, -2, -1).clone(),) * 2)
                first, second = squares[number]
                s, t = _rectified(s, t, first[..., rows, :, None], second[..., other_rows, None, :])
                number += 1
            else:
                s, t = _shifted_sum(layer, s), _shifted_sum(layer, t.add_(s))
        for view, found in zip(views, (s, t), strict=True):
            view.copy_(found)


def _shifted_sum(layer: ScaledLinear | ScaledConv2d, moments: Tensor) -> Tensor:
    """Return s^2 c sum_d of moments(p + d, p' + d) for (..., rows, W, W') at one row distance.

    Raises:
        ValueError: if a linear layer gets several positions.
    """
    found = moments * (layer.scale**2 * layer.weight.shape[1])
    if isinstance(layer, ScaledLinear):
        if moments.shape[-3:] != (1, 1, 1):
            raise ValueError("a linear layer follows images; put a GlobalAveragePool before it")
        return found
    start = found.clone()
    found[..., 1:, :, :] += start[..., :-1, :, :]
    found[..., :-1, :, :] += start[..., 1:, :, :]
    start = found.clone()
    found[..., 1:, 1:] += start[..., :-1, :-1]
    found[..., :-1, :-1] += start[..., 1:, 1:]
    return found


def _pooled(moments: Tensor, size: int | None) -> Tensor:
    """Return means over windows of size x size at p and at p'; None means the whole image."""
    for axis in (-4, -3, -2, -1):
        width = size or moments.shape[axis]
        windows = moments.narrow(axis, 0, moments.shape[axis] // width * width)
        windows = windows.unflatten(axis, (-1, width))
        moments = sum(windows.select(axis, k) for k in range(width)) / width
    return moments


def _rectified(covariance: Tensor, kernel: Tensor, first: Tensor, second: Tensor):
    """Return S and T after a ReLU, by arc-cosine kernels (Cho and Saul 2009, equation 6)."""
    norms = (first * second).sqrt_()  # of equal ones exactly that, so that their angle is 0
    # where a norm is 0, so is S
    cosine = covariance.div(norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_(-1, 1)
    share = cosine.acos().neg_().add_(math.pi).div_(2 * math.pi)
    sine = (1 - cosine).mul_(cosine.add_(1)).sqrt_()
    covariance = norms.mul_(sine).div_(2 * math.pi).addcmul_(share, covariance)
    return covariance, kernel.mul_(share)


def expected_residue_projections(
    kernel: ArrayLike, targets: ArrayLike, covariance: ArrayLike | None = None
):
    """Return eigenvalues of Theta and <Delta_k^2> over starts, summed over outputs, each (N,).

    <Delta_k^2> = |v_k . y|^2 + C v_k^T Sigma v_k: the outputs have mean 0 and covariance Sigma.
    Loss drop and squared length are linear in Delta_k^2, so that `ntk_dynamics` gives their exact
    means, and the inefficiency as their ratio.

    Args:
        kernel: Theta, shape (N, N).
        targets: y, shape (N, C); the residue y - f(theta_0) of one start without covariance.
        covariance: Sigma, shape (N, N); None where nothing is random, because the residue of one
            start is given or the outputs of the start are subtracted.

    Returns:
        (eigenvalues, mean squared projections), eigenvalues descending (derived here).
    """
    targets = np.asarray(targets, dtype=np.float64)
    eigenvalues, vectors = np.linalg.eigh(np.asarray(kernel, dtype=np.float64))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    squares = np.sum((vectors.T @ targets) ** 2, axis=1)
    if covariance is not None:
        spread = np.einsum("nk,nm,mk->k", vectors, np.asarray(covariance, float), vectors)
        # of samples that agree it is 0, and rounding may leave it below
        squares = squares + targets.shape[1] * np.maximum(spread, 0.0)
    return eigenvalues, squares


def predict(
    network: nn.Sequential, inputs: ArrayLike, targets: ArrayLike, times: ArrayLike
) -> dict:
    """Quantities of `ntk_dynamics.predict` in the limit of infinite width, averaged over starts.

    Args:
        network: as for ``kernels``.
        inputs: x, shape (N, ...).
        targets: y, shape (N, C).
        times: T, shape (M,) or scalar.

    Returns:
        Name -> array of the shape of ``times``; the path length is that of the mean speed squared.
    """
    covariance, kernel = kernels(network, inputs)
    return ntk_dynamics.predict(*expected_residue_projections(kernel, targets, covariance), times)
