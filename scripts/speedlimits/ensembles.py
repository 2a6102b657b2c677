"""Training losses of an ensemble of networks of one architecture, in one pass over stacked weights.

L_r(theta_r) = 1/2 sum over samples and outputs of (f(x; theta_r) - y_r)^2 for realisations r = 1..R
on the same inputs. The realisations do not interact: row r of the gradient is that of network r.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import stack_module_state, vmap

from speedlimits import functional


class EnsembleLoss:
    """The losses of R networks as a function of their stacked flat weights.

    One reverse pass of ``torch.func.vmap`` over stacked weights replaces R passes: a convolution
    becomes one with R groups, a linear layer a batched product. That saves the cost of starting
    small operations, and nothing where one network's operations are large (``benchmarks/
    ensembles.py``).

    Args:
        networks: R networks of the same architecture and dtype, on one device; they are copied.
            Each must treat samples independently and deterministically.
        inputs: training inputs of all, shape (N, ...).
        targets: y, shape (N, C), or one for each network, (R, N, C).
        micro_batch: samples per pass; None takes all at once.

    Raises:
        ValueError: if there is no network, if their weights differ in shape, if inputs and targets
            differ in number or micro_batch is below 1.
    """

    def __init__(
        self,
        networks: list[nn.Module],
        inputs: Tensor,
        targets: Tensor,
        *,
        micro_batch: int | None = None,
    ):
        if not networks:
            raise ValueError("there is no network; an ensemble needs at least 1")
        shapes = [[tuple(p.shape) for p in network.parameters()] for network in networks]
        if any(other != shapes[0] for other in shapes):
            raise ValueError("the networks' weights differ in shape; an ensemble needs one shape")
        targets = targets if targets.dim() == 3 else targets.expand(len(networks), *targets.shape)
        if targets.shape[:2] != (len(networks), len(inputs)):
            raise ValueError(
                f"there are {len(networks)} networks and {len(inputs)} inputs but targets of shape "
                f"{tuple(targets.shape)}"
            )
        self.micro_batch = len(inputs) if micro_batch is None else micro_batch
        if self.micro_batch < 1:
            raise ValueError(f"micro_batch is {micro_batch}; it must be at least 1")
        self._weights, self._buffers = stack_module_state(copy.deepcopy(networks))
        self._network = copy.deepcopy(networks[0])
        self.inputs = inputs.to(next(iter(self._weights.values())).dtype)
        self.targets = targets.to(self.inputs)

    @property
    def weights(self) -> Tensor:
        """Stacked weights at the start, shape (R, P), in the order of ``parameters_to_vector``."""
        return torch.cat([w.detach().reshape(len(w), -1) for w in self._weights.values()], dim=1)

    def losses_and_gradients(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return L_r (R,), summed in float64, and their gradients, shape and dtype of the weights.

        Args:
            weights: theta, shape (R, P); cast to the networks' dtype.
        """
        leaf = weights.detach().to(self.inputs).requires_grad_()
        parts = leaf.split([w[0].numel() for w in self._weights.values()], dim=1)
        named = {
            name: part.reshape(w.shape)
            for (name, w), part in zip(self._weights.items(), parts, strict=True)
        }
        losses = torch.zeros(len(weights), dtype=torch.float64, device=leaf.device)
        gradient = torch.zeros_like(leaf)
        for start in range(0, len(self.inputs), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            outputs = vmap(self._outputs, (0, 0, None))(named, self._buffers, self.inputs[part])
            residual = outputs.detach() - self.targets[:, part]
            gradient += torch.autograd.grad(outputs, leaf, residual, retain_graph=True)[0]
            losses += 0.5 * residual.double().square().sum(dim=(1, 2))
        return losses, gradient.to(device=weights.device, dtype=weights.dtype)

    def _outputs(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        """Return f(x) of one network."""
        return functional.call(self._network, weights | buffers, x)
