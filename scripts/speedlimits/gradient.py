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
# On a GPU starting the operations of a small batch one by one takes longer than they do; as one
# CUDA graph they start at once. A graph keeps the memory of a pass: 4 GB for 500 images with 128
# channels, measured.
GRAPH_SAMPLES = 512
GRAPH_WARM_UP = 3  # passes before the capture, as torch's manual has it
MICRO_BATCH = 1024  # without convolutions: larger batches feed the matrix products better
# Convolutions on a GPU: of micro-batches of 256 to 5000 images 2500 were fastest on an H200
# (Myrtle-5 with 128 channels, 30 TFLOP/s; 1024: 26, 5000: 25), without the channels-last format,
# which takes 6 % longer there in float32. A pass takes 11 times the memory of the largest
# activation, measured; with the number here it stays below a quarter of the card's.
GPU_MICRO_BATCH = 2500
GPU_ACTIVATIONS = 48


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
            convolutions on a CPU. None means: there, where the inputs are images and the network,
            whose views may want the usual format, takes it.
        cuda_graph: on a GPU, start all operations of the full gradient at once, as they were at
            the first call: torch's settings at that time stay. None means: with up to
            ``GRAPH_SAMPLES`` samples, for plain chains of layers, which were measured. True asks
            for a network none of whose operations waits for a value.

    Raises:
        ValueError: if inputs and targets differ in number, micro_batch is below 1 or weights are
            frozen; of a call, if outputs and targets have different shapes.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        micro_batch: int | None = None,
        channels_last: bool | None = None,
        cuda_graph: bool | None = None,
    ):
        if len(inputs) != len(targets):
            raise ValueError(f"there are {len(inputs)} inputs but {len(targets)} targets")
        if not all(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError(
                "some weights are frozen (requires_grad is False), and theta is all of them; make "
                "those buffers"
            )
        keep_freed_memory()
        self.network = copy.deepcopy(network)
        self._theta, self._gradient = _flatten_parameters(self.network)
        if channels_last is None:
            on_cpu = self._theta.device.type == "cpu"
            channels_last = on_cpu and inputs.dim() == 4 and self._takes_channels_last(inputs[:2])
        self.channels_last = channels_last
        self.micro_batch = self._default_micro_batch(inputs) if micro_batch is None else micro_batch
        if self.micro_batch < 1:
            raise ValueError(f"micro_batch is {micro_batch}; it must be at least 1")
        self.inputs = self._prepare(inputs)
        self.targets = targets.to(self._theta)
        self._loss = torch.zeros((), dtype=torch.float64, device=self._theta.device)
        if cuda_graph is None:
            few = len(inputs) <= min(GRAPH_SAMPLES, self.micro_batch)
            cuda_graph = few and _is_plain_chain(network)
        self.as_one_graph = cuda_graph and self._theta.device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

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
        if rows is None and self.as_one_graph:
            with torch.cuda.device(self._theta.device):
                self._graph = self._graph or self._capture()
                self._graph.replay()
        else:
            self._accumulate(rows)
        gradient = self._gradient.to(device=weights.device, dtype=weights.dtype, copy=True)
        return self._loss.item(), gradient

    def _accumulate(self, rows: Tensor | None) -> None:
        """Write L and its gradient at the weights held here into the tensors held here.

        Raises:
            ValueError: if outputs and targets have different shapes.
        """
        self._gradient.zero_()
        self._loss.zero_()
        for inputs, targets in self._micro_batches(rows):
            outputs = self.network(inputs)
            if outputs.shape != targets.shape:  # they would be broadcast
                raise ValueError(
                    f"the outputs have shape {tuple(outputs.shape)}, the targets "
                    f"{tuple(targets.shape)}; they must be the same, (N, C)"
                )
            residual = outputs.detach() - targets
            # The bits of outputs.backward(residual), for which torch imports its symbolic shapes:
            # half a second of every process.
            (outputs * residual).sum().backward()
            self._loss += 0.5 * residual.double().square().sum()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Return ``_accumulate`` over all samples as one graph, on the current device."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARM_UP):
                self._accumulate(None)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._accumulate(None)
        return graph

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
        if not channels or inputs.dim() != 4:
            return MICRO_BATCH
        pixels = inputs.shape[2] * inputs.shape[3]
        bytes_each = max(channels) * pixels * self._theta.element_size()
        if self._theta.device.type == "cpu":
            return min(MICRO_BATCH, max(1, CONVOLUTION_CACHE_BYTES // bytes_each))
        memory = torch.cuda.get_device_properties(self._theta.device).total_memory
        return min(GPU_MICRO_BATCH, max(1, memory // (GPU_ACTIVATIONS * bytes_each)))

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


def _is_plain_chain(network: nn.Module) -> bool:
    """Return whether a network is a chain of torch's layers and those of module ``layers``.

    Module ``kernel_sequential`` has a stricter check, but trainings do not depend on that module.
    """
    places = ("torch.nn.modules.", "speedlimits.layers")
    return type(network) is nn.Sequential and all(
        type(layer).__module__.startswith(places) for layer in network
    )


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
        start = stop
    return theta, gradient
