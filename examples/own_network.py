"""Networks of your own for the workflow: copy this file to where you start snakemake.

In the configuration: ``model: own_network:convolutional``, ``model_arguments: {channels: 16}``.
Whatever a factory draws from torch's global generator is seeded: the start theta_0.
"""

import math

import torch
from torch import nn


def perceptron(*, input_shape, outputs, width=64, activation="tanh"):
    """Return two layers with biases, in torch's own initialisation."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), width),
        {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}[activation](),
        nn.Linear(width, outputs),
    )


class Convolutional(nn.Module):
    """Convolutions with group normalisation, which mixes no samples, and a skip connection."""

    def __init__(self, input_shape, outputs, channels):
        super().__init__()
        self.first = nn.Conv2d(input_shape[0], channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.normalise = nn.GroupNorm(1, channels)
        self.last = nn.Linear(channels, outputs)

    def forward(self, images):
        """Return the outputs, shape (N, outputs), of images (N, channels, height, width)."""
        x = torch.relu(self.first(images))
        x = x + torch.relu(self.second(self.normalise(x)))
        return self.last(x.mean(dim=(2, 3)))


def convolutional(*, input_shape, outputs, channels=8):
    """Return a convolutional network for images of any size."""
    return Convolutional(input_shape, outputs, channels)
