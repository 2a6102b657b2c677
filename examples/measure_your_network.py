"""Measure the speed limit of a network trained by yourself, with the library alone.

After ``pip install .``: python examples/measure_your_network.py
"""

import copy

import torch

import speedlimits

# Your training, whatever it is: here 300 steps of plain gradient descent on torch's mean squared
# error, with a snapshot of the weights every 20 steps.
torch.manual_seed(0)
inputs = torch.randn(32, 10)
targets = torch.sin(inputs[:, :2])
network = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
learning_rate = 0.05
optimiser = torch.optim.SGD(network.parameters(), lr=learning_rate)
snapshots, steps = [copy.deepcopy(network.state_dict())], [0]
for step in range(1, 301):
    optimiser.zero_grad()
    torch.nn.functional.mse_loss(network(inputs), targets).backward()
    optimiser.step()
    if step % 20 == 0:
        snapshots.append(copy.deepcopy(network.state_dict()))
        steps.append(step)

# The speed limit. Times are those of L = 1/2 sum (f - y)^2, of which torch's mean is 2/(N C) times.
times = [learning_rate * step * 2 / targets.numel() for step in steps]
found = speedlimits.measure(network, inputs, targets, snapshots, times)
for T, T_SL, ratio, predicted in zip(
    found.time,
    found.speed_limit_time,
    found.inefficiency,
    found.inefficiency_predicted,
    strict=True,
):
    print(f"T {T:.3f}  T_SL {T_SL:.3f}  T/T_SL {ratio:.3f}  predicted {predicted:.3f}")
