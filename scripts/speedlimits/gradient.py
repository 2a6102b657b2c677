"""Training loss L(theta) = 1/2 sum over samples and outputs of (f - y)^2, and its gradient.

The whole training set is one batch. It is run through the network in micro-batches, always in
the same order, so that memory does not grow with the number of samples and a repeated call gives
the same bits (on a GPU as far as cuDNN's algorithms are deterministic).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from speedlimits.freed_memory import keep_freed_memory

# Convolutions on a CPU are fastest while the activations of one layer of a micro-batch stay in the
# cache: 16 images of 64 x 32 x 32 in float32 are best of {8, ..., 128} for Myrtle-5 on one Zen 4
# core (0.38 s per gradient of 128 images; unsplit 0.50 s), and the same number of bytes is within
# 10 % of the best for 32 channels at 32 x 32 and 16 channels at 8 x 8.
CONVOLUTION_CACHE_BYTES = 16 * 64 * 32 * 32 * 4
# Without convolutions, or on a GPU, larger batches feed the matrix products better; 1024 images
# of 128 channels at 32 x 32 keep each stored activation at 0.5 GiB in float32.
MICRO_BATCH = 1024


class TrainingLoss:
    """The loss of a network on a fixed training set as a function of the flat weights theta.

    Args:
        network: maps (N, ...) inputs to (N, C) outputs; it is copied and left unchanged. Its
            dtype and device are those of the computation.
        inputs: training inputs, shape (N, ...).
        targets: training targets y, shape (N, C).
        micro_batch: samples per pass. None takes what was measured to be fast (see the constants
            of this module).
        channels_last: keep images in the channels-last memory format, which is faster for
            convolutions. None means: where the inputs are images and the network, whose views may
            want the usual format, takes it.

    Raises:
        ValueError: if inputs and targets differ in number or micro_batch is below 1.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        micro_batch: int | None = None,
        channels_last: bool | None = None,
    ):
        if len(inputs) != len(targets):
            raise ValueError(f"there are {len(inputs)} inputs but {len(targets)} targets")
        keep_freed_memory()
        self.network = copy.deepcopy(network)
        self._theta, self._gradient = _flatten_parameters(self.network)
        if channels_last is None:
            channels_last = inputs.dim() == 4 and self._takes_channels_last(inputs[:2])
        self.channels_last = channels_last
        self.micro_batch = self._default_micro_batch(inputs) if micro_batch is None else micro_batch
        if self.micro_batch < 1:
            raise ValueError(f"micro_batch is {micro_batch}; it must be at least 1")
        self.inputs = self._prepare(inputs)
        self.targets = targets.to(self._theta)

    def loss_and_gradient(
        self, weights: Tensor, rows: Tensor | None = None
    ) -> tuple[float, Tensor]:
        """Return L(theta) and its gradient J^T (f - y) over the training set or some samples.

        Args:
            weights: theta, shape (P,), in the order of ``parameters_to_vector``; it is cast to
                the network's dtype.
            rows: indices of the samples to sum over; None takes all.

        Returns:
            L, summed in float64, and the gradient, shape (P,), in the dtype and on the device of
            the weights.
        """
        self._theta.copy_(weights)
        self._gradient.zero_()
        loss = torch.zeros((), dtype=torch.float64, device=self._theta.device)
        for inputs, targets in self._micro_batches(rows):
            outputs = self.network(inputs)
            residual = outputs.detach() - targets
            # The bits of outputs.backward(residual), for which torch imports its symbolic shapes:
            # half a second of every process.
            (outputs * residual).sum().backward()
            loss += 0.5 * residual.double().square().sum()
        gradient = self._gradient.to(device=weights.device, dtype=weights.dtype, copy=True)
        return loss.item(), gradient

    @torch.no_grad()
    def outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Return f(inputs; theta), shape (N, C), in the network's dtype.

        Args:
            weights: theta, shape (P,).
            inputs: any inputs of the network, shape (N, ...).
        """
        self._theta.copy_(weights)
        parts = self._prepare(inputs).split(self.micro_batch)
        return torch.cat([self.network(part) for part in parts])

    @torch.no_grad()
    def _takes_channels_last(self, images: Tensor) -> bool:
        """Return whether the network runs on images in that memory format."""
        images = images.to(self._theta)
        try:
            self.network(images.contiguous(memory_format=torch.channels_last))
        except RuntimeError:  # of x.view(len(x), -1), which wants (N, C, H, W) without gaps
            self.network(images)  # what is wrong in any format is told
            return False
        return True

    def _default_micro_batch(self, inputs: Tensor) -> int:
        """Return the micro-batch size for inputs of this shape."""
        channels = [p.shape[0] for p in self.network.parameters() if p.dim() == 4]
        if not channels or self._theta.device.type != "cpu" or inputs.dim() != 4:
            return MICRO_BATCH
        pixels = inputs.shape[2] * inputs.shape[3]
        bytes_each = max(channels) * pixels * self._theta.element_size()
        return min(MICRO_BATCH, max(1, CONVOLUTION_CACHE_BYTES // bytes_each))

    def _prepare(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self._theta)
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _micro_batches(self, rows: Tensor | None):
        every = rows is None
        inputs, targets = (part if every else part[rows] for part in (self.inputs, self.targets))
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return zip(inputs.split(self.micro_batch), targets.split(self.micro_batch), strict=True)


def _flatten_parameters(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return two flat vectors, of which all parameters and their gradients become views.

    A gradient then costs no gathering of parts: ``backward`` adds straight into the flat vector.
    """
    parameters = list(network.parameters())
    theta = nn.utils.parameters_to_vector(parameters).detach().clone()
    gradient = torch.zeros_like(theta)
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.data = theta[start:stop].view(parameter.shape)
        parameter.grad = gradient[start:stop].view(parameter.shape)
        parameter.requires_grad_(True)
        start = stop
    return theta, gradient
