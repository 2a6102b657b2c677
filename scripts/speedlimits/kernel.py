"""Empirical neural tangent kernel (NTK) Theta = J J^T, J = d f / d theta, at given weights.

Three routes give the same kernel:

* ``structured`` (module ``kernel_sequential``): chains of the layers of module ``networks``;
  uses their exact structure and is several times faster.
* ``torch_func`` (this module): any network that maps (N, ...) to (N, C) sample by sample, by
  ``torch.func`` per-sample Jacobians (module ``jacobian``);
* ``autograd`` (this module): the same by a reverse pass for each output of each sample, for
  networks that torch.func cannot differentiate.

``choose_route`` says which one is taken and why. Index convention of the full kernel: row
``i * C + a`` is output a of sample i (sample-major). The output-traced kernel is
``(1/C) sum_a Theta[i, a, j, a]``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from speedlimits import kernel_sequential
from speedlimits.attention import plain_attention
from speedlimits.blocks import TRIANGLE_ROWS, add_product_, consecutive_slices, mirror_lower_
from speedlimits.freed_memory import keep_freed_memory
from speedlimits.jacobian import (
    check_inputs,
    count_outputs,
    derivative_bytes,
    obstacle_to_torch_func,
    per_sample_jacobian,
    samples_that_fit,
    way_along_weights,
)
from speedlimits.kernel_sequential import PartialKernel

DEFAULT_MEMORY_BYTES = 4 * 2**30  # the kernel of 1000 samples x 10 outputs takes 0.8e9 of them
# Samples whose reverse derivatives a CPU takes together, where memory allows: of 1, 2, 4, 8 and 16
# the fastest or up to 20 % slower (residual network, transformer and Myrtle-5 of 32 channels,
# x86-64). A GPU takes as many as memory allows, as it did; that was not measured.
DERIVATIVE_BATCH = 4
# Columns of Jacobians that are converted at a time, to be summed in a wider dtype: for the rows of
# some samples they stay in the last-level cache, and no second copy of a Jacobian is ever there.
CONVERTED_COLUMNS = 4096


class Route(NamedTuple):
    """Which implementation computes the kernel, and the reason in one sentence."""

    name: str
    reason: str

    def __str__(self) -> str:
        """Return "name: reason" for a log."""
        return f"{self.name}: {self.reason}"


@torch.inference_mode(False)
def choose_route(network: nn.Module, inputs: Tensor) -> Route:
    """Return the fastest route that is exact for this network.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...), on which torch.func is tried.

    Returns:
        ``structured`` for chains of the layers of module ``networks``, else ``torch_func`` where it
        can differentiate the network, else ``autograd``.
    """
    obstacle = kernel_sequential.obstacle_to_structured_route(network, inputs.dim())
    if obstacle is None:
        return Route("structured", "every layer has a known exact per-sample gradient")
    of_torch_func = obstacle_to_torch_func(network, inputs)
    if of_torch_func is None:
        return Route("torch_func", obstacle)
    return Route("autograd", f"{obstacle}, and torch.func fails ({of_torch_func})")


class Cost(NamedTuple):
    """Floating-point operations of four ways to the sums over the full kernel's spectrum."""

    explicit: float
    gauss_newton: float
    quadrature: float
    stored: float


@torch.no_grad()
def forward_operations(network: nn.Module, sample: Tensor) -> int:
    """Return the operations f of one sample's forward pass.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        sample: one input, shape (1, ...).

    Returns:
        Operations, multiply and add = 2.
    """
    # A chain's are counted by hand: torch's counter imports its compiler, for a second.
    if kernel_sequential.obstacle_to_structured_route(network, sample.dim()) is None:
        return kernel_sequential.forward_operations(network, sample)
    # Fused attention and fused recurrent layers are not counted, their products are.
    libraries = torch.backends.mkldnn, torch.backends.cudnn
    fused = [library.enabled for library in libraries]
    try:
        for library in libraries:
            library.enabled = False
        with plain_attention(), FlopCounterMode(display=False) as counter:
            network(sample)
    finally:
        for library, enabled in zip(libraries, fused, strict=True):
            library.enabled = enabled
    return counter.get_total_flops()


def spectrum_cost(network: nn.Module, inputs: Tensor, outputs: int, steps: int) -> Cost:
    """Return the operations of explicit spectra and of Lanczos quadratures.

    With K = N C rows, P weights and f operations of one sample's forward pass:

        explicit     = 3 f N C + K^2 P + (8/3) K^3,
        gauss_newton = 3 f N C + K P^2 + (8/3) P^3,
        quadrature   = p f N m,
        stored       = 3 f N C + K^2 P + 2 K^2 m.

    Explicit: C reverse passes per sample, the lower half of J J^T, two tridiagonal reductions
    (all eigenvalues; leading eigenvectors). Gauss-Newton: the same with J^T J, which has all
    non-zero eigenvalues where P < K. Quadrature: m products, each J^T v by a forward and a reverse
    pass, f + 2 f, and J u by the way that the network has (``jacobian.way_along_weights``): 3 f in
    forward mode, p = 6; 6 f more as a derivative of the first, p = 12; or a reverse pass for each
    output, 3 f C, p = 3 + 3 C. Stored: m products with the kernel, once it is formed. Derived here;
    a guide, not a timing.

    Args:
        network: maps inputs (N, ...) to outputs (N, C).
        inputs: (N, ...).
        outputs: C.
        steps: number of products m.

    Returns:
        The operations of each.
    """
    forward, samples = forward_operations(network, inputs[:1]), len(inputs)
    rows = samples * outputs
    weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
    gradients = 3 * forward * rows
    explicit = gradients + rows**2 * weights + 8 / 3 * rows**3
    gauss_newton = gradients + rows * weights**2 + 8 / 3 * weights**3
    way, axes = "forward", inputs.dim()
    # A chain is not tried, which would import torch's compiler too.
    if steps and kernel_sequential.obstacle_to_structured_route(network, axes) is not None:
        way = way_along_weights(network, inputs)
    passes = {"forward": 6, "twice": 12, "rows": 3 + 3 * outputs}[way]
    quadrature = passes * forward * samples * steps
    stored = gradients + rows**2 * (weights + 2 * steps)
    return Cost(float(explicit), float(gauss_newton), float(quadrature), float(stored))


@torch.inference_mode(False)
def empirical_ntk(
    network: nn.Module,
    inputs: Tensor,
    *,
    other_inputs: Tensor | None = None,
    traced: bool = False,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    accumulate_dtype: torch.dtype = torch.float64,
    route: str | None = None,
    on_progress: Callable[[float], None] | None = None,
    start_from: PartialKernel | None = None,
    on_part: Callable[[PartialKernel], None] | None = None,
) -> Tensor:
    """Return the NTK Theta(x, x') = J(x) J(x')^T at the current weights of the network.

    Args:
        network: maps inputs (N, ...) to outputs (N, C), each sample by itself.
        inputs: floating-point tensor (N, ...) on the network's device, in its dtype.
        other_inputs: tensor (M, ...) for the kernel between two sets; None means ``inputs``.
        traced: average over equal outputs, (1/C) sum_a Theta[i, a, j, a].
        memory_bytes: bound on the memory that the call takes, its result included. Smaller
            budgets give the same kernel in smaller blocks, with some work repeated.
        accumulate_dtype: dtype in which contributions are summed. float64 also protects the small
            eigenvalues from the rounding of float32 products (``kernel_sequential``).
        route: ``structured``, ``torch_func`` or ``autograd``; None means the one of
            ``choose_route``.
        on_progress: called now and then with the share of the operations done, 0 at the start.
        start_from: what ``on_part`` was given by a call with the same arguments on the same
            machine, to be continued: on a CPU to the bits of a call that was never stopped. Its
            kernel is added to in place.
        on_part: called after every part of the sum, a second or so of work for kernels of many
            rows, with a view of the sum: whoever keeps it must copy or write it at once.

    Returns:
        float64 tensor on the inputs' device: (N C, M C), or (N, M) if traced; row i * C + a is
        output a of sample i. Exactly symmetric if ``other_inputs`` is None.

    Raises:
        ValueError: if the network couples samples or is random (training-mode batch
            normalisation or dropout), if the inputs do not fit the network, if the budget cannot
            hold the kernel, if it has no such route, or if ``start_from`` is of another shape.
    """
    check_inputs(network, inputs, other_inputs)
    keep_freed_memory()
    name = route or choose_route(network, inputs).name
    functions = {
        "structured": kernel_sequential.structured_ntk,
        "torch_func": partial(_general_ntk, by_autograd=False),
        "autograd": partial(_general_ntk, by_autograd=True),
    }
    if name not in functions:
        raise ValueError(f"route is {name!r}; it must be one of {tuple(functions)}")
    if route == "structured":  # not chosen here, which has asked the same
        obstacle = kernel_sequential.obstacle_to_structured_route(network, inputs.dim())
        if obstacle is not None:
            raise ValueError(f"the network has no structured route: {obstacle}; leave route out")
    # Jacobians are formed by hand or keep no tape: an outer one would only hold memory.
    with torch.no_grad():
        return functions[name](
            network,
            inputs,
            other_inputs,
            traced,
            memory_bytes,
            accumulate_dtype,
            on_progress,
            start_from,
            on_part,
        )


def trace_outputs(full: Tensor, outputs: int) -> Tensor:
    """Return (1/C) sum_a Theta[i, a, j, a], shape (N, M), of a full kernel (N C, M C).

    Args:
        full: Theta, shape (N C, M C), row i * C + a.
        outputs: C.
    """
    rows, columns = full.shape[0] // outputs, full.shape[1] // outputs
    blocks = full.view(rows, outputs, columns, outputs)
    return blocks.diagonal(dim1=1, dim2=3).sum(dim=-1) / outputs


def _general_ntk(
    network: nn.Module,
    inputs: Tensor,
    other_inputs: Tensor | None,
    traced: bool,
    memory_bytes: int,
    accumulate_dtype: torch.dtype,
    on_progress: Callable[[float], None] | None = None,
    start_from: PartialKernel | None = None,
    on_part: Callable[[PartialKernel], None] | None = None,
    *,
    by_autograd: bool,
) -> Tensor:
    """Return the NTK from explicit per-sample Jacobians of pairs of sample blocks, the parts.

    A block of b samples is multiplied with itself and with blocks of b / 2 others (d if that is
    more), one after the other. Jacobians are made in micro-batches of d, whose reverse derivatives
    take about as much again as they do, and K of their columns are converted to
    ``accumulate_dtype`` at a time:

        bytes = 8 * (result size) + 3/2 b C (P (itemsize) + K (accumulate itemsize))
                + d C (2 P (itemsize) + K (accumulate itemsize)) + 4 d (1 + C) A
                + 3 (b C)^2 (accumulate itemsize)

    with A bytes of activations per sample (``derivative_bytes``), K = ``CONVERTED_COLUMNS`` and
    thrice a part, for its sum and a product to be added, or what float64 makes of float32. d is
    what half of the budget holds, on a CPU at most ``DERIVATIVE_BATCH``, b the largest that fits,
    both at least 1. Jacobians cost C reverse passes per sample and are repeated (blocks + 1) / 2
    times; the product costs (N C)^2 P multiplications for the lower half.
    """
    outputs = count_outputs(network, inputs)
    size = sum(p.numel() for p in network.parameters() if p.requires_grad)
    others = inputs if other_inputs is None else other_inputs
    per_sample = 1 if traced else outputs
    result_bytes = 8 * len(inputs) * len(others) * per_sample**2
    jacobian_bytes = outputs * size * inputs.element_size()
    factor_bytes = jacobian_bytes
    factor_bytes += outputs * min(CONVERTED_COLUMNS, size) * accumulate_dtype.itemsize
    of_batch = factor_bytes + jacobian_bytes + derivative_bytes(network, inputs, outputs)
    most = DERIVATIVE_BATCH if inputs.device.type == "cpu" else len(inputs)
    batch = min(max(1, (memory_bytes - result_bytes) // (2 * of_batch)), most)
    fixed_bytes, bytes_each = result_bytes + batch * of_batch, 3 * factor_bytes // 2
    block = min(samples_that_fit(memory_bytes, fixed_bytes, bytes_each), len(inputs))
    part_bytes = 3 * per_sample**2 * accumulate_dtype.itemsize
    while block > 1 and block * (bytes_each + block * part_bytes) > memory_bytes - fixed_bytes:
        block -= 1
    jacobian = partial(
        per_sample_jacobian, network, by_autograd=by_autograd, traced=traced, batch=batch
    )
    shape = (len(inputs) * per_sample, len(others) * per_sample)
    (known, kernel), part_number = kernel_sequential.start_of_sum(start_from, inputs, shape), 0
    if on_progress is not None and not known:
        on_progress(0.0)
    for samples in consecutive_slices(len(inputs), block):
        before = samples.start if other_inputs is None else len(others)
        parts = consecutive_slices(before, max(block // 2, batch))
        if other_inputs is None:
            parts.append(samples)
        if part_number + len(parts) <= known:
            part_number += len(parts)
            continue
        left = right = None  # freed before the next are made
        left = jacobian(inputs[samples])
        rows = slice(samples.start * per_sample, samples.stop * per_sample)
        for part in parts:
            part_number += 1
            if part_number <= known:
                continue
            right = None
            right = left if part is samples else jacobian(others[part])
            products = _inner_products(left, right, accumulate_dtype)
            if traced:
                products /= outputs
            columns = slice(part.start * per_sample, part.stop * per_sample)
            kernel[rows, columns] = products
            if other_inputs is None:
                kernel[columns, rows] = products.T
            if on_part is not None:
                on_part(PartialKernel(part_number, kernel))
        if on_progress is not None:
            done = samples.stop / len(inputs)
            on_progress(done**2 if other_inputs is None else done)
    return kernel


def _inner_products(left: list[Tensor], right: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return sum over parameters of left right^T, in ``dtype``, exactly symmetric if equal."""
    symmetric = left is right
    total = left[0].new_zeros(len(left[0]), len(right[0]), dtype=dtype)
    for of_left, of_right in zip(left, right, strict=True):
        for columns in consecutive_slices(of_left.shape[1], CONVERTED_COLUMNS):
            rows = of_left[:, columns].to(dtype)
            others = rows if symmetric else of_right[:, columns].to(dtype)
            add_product_(total, rows, others, symmetric)
    if symmetric:
        mirror_lower_(total, TRIANGLE_ROWS)
    return total.double()
