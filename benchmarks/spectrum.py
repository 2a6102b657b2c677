"""Sums over the full NTK's spectrum: every route side by side, one core, time and agreement.

    OMP_NUM_THREADS=1 python benchmarks/spectrum.py [--width 8] [--n 128] [--steps 40 80 160]
        [--repeats 3]

Network: Myrtle-5 in NTK parameterisation at its start, scikit-learn's digits, float32. Routes:

* kernel: explicit Theta (structured route), tridiagonal reduction, all eigenvalues;
* Gauss-Newton: P x P matrix J^T J, all eigenvalues (where P < n C);
* Lanczos on Theta: quadrature with products of the stored kernel;
* Lanczos, matrix-free: quadrature with Jacobian products, in float32 and in float64.

Error: largest relative difference of the loss drop and of the squared geodesic length from those of
the float64 kernel, over lambda_1 T from 0.1 to 1e5. The reference has the same weights in float64.
"""

from __future__ import annotations

import argparse
import copy
import sys
from functools import partial

import numpy as np
from measuring import SCRIPTS, conditions, processor_seconds, whole_number, with_spread

sys.path.insert(0, str(SCRIPTS))

OUTPUTS = 10
TIMES = np.logspace(-1, 5, 61)


def sums(eigenvalues, projections, times):
    """Return loss drop and squared geodesic length."""
    from speedlimits import ntk_dynamics

    return [
        function(eigenvalues, projections, times)
        for function in (ntk_dynamics.loss_drop, ntk_dynamics.geodesic_length_squared)
    ]


def main() -> None:
    """Run all routes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=whole_number, default=8)
    parser.add_argument("--n", type=whole_number, default=128)
    parser.add_argument("--steps", type=whole_number, nargs="+", default=[40, 80, 160])
    parser.add_argument("--repeats", type=whole_number, default=3, help="of every route")
    arguments = parser.parse_args()
    import torch
    from sklearn.datasets import load_digits

    from speedlimits import gauss_newton, kernel, kernel_products, networks, spectrum

    torch.set_num_threads(1)
    digits = load_digits()
    if arguments.n > len(digits.images):
        parser.error(f"--n is {arguments.n}; digits has {len(digits.images)} images")
    images = torch.from_numpy(digits.images[: arguments.n]).float().unsqueeze(1)
    images = (images - images.mean()) / images.std()
    targets = np.eye(OUTPUTS)[digits.target[: arguments.n]]
    network = networks.myrtle5(
        input_shape=(1, 8, 8), outputs=OUTPUTS, width=arguments.width, parameterisation="ntk"
    )
    networks.initialise_(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        residue = targets - network(images).double().numpy()
    theta = kernel.empirical_ntk(network.double(), images.double()).numpy()
    exact = spectrum.eigenvalues_and_projections(theta, residue.reshape(-1))
    network.float()
    times = TIMES / exact[0][0]
    reference = sums(*exact, times)
    weights, rows = sum(p.numel() for p in network.parameters()), residue.size
    stored = kernel.empirical_ntk(network, images).numpy()

    double = copy.deepcopy(network).double()

    def product(vector, model=network):
        inputs = images.to(next(model.parameters()).dtype)
        return kernel_products.kernel_product(model, inputs, torch.from_numpy(vector)).numpy()

    def explicit():
        matrix = kernel.empirical_ntk(network, images).numpy()
        return spectrum.eigenvalues_and_projections(matrix, residue.reshape(-1))

    def weight_space():
        vector = torch.from_numpy(residue.reshape(-1, 1))
        return gauss_newton.spectrum(gauss_newton.gauss_newton(network, images, vector), residue)

    routes = {"kernel": explicit}
    if weights < rows:
        routes["Gauss-Newton"] = weight_space
    for steps in arguments.steps:
        products = {
            "on Theta": lambda v: stored @ v,
            "matrix-free": product,
            "matrix-free in float64": partial(product, model=double),
        }
        for name, matvec in products.items():
            routes[f"Lanczos {name}, {steps} products"] = lambda matvec=matvec, steps=steps: (
                spectrum.spectral_measure_lanczos(matvec, residue, steps)[:2]
            )
    print(conditions(), "\n")
    print(f"width {arguments.width}, n {arguments.n}, rows {rows}, weights {weights}")
    print("| route | processor seconds (least-most) | largest error |\n|---|---|---|")
    for name, route in routes.items():
        found = route()
        seconds = with_spread(processor_seconds(route, arguments.repeats))
        errors = [
            np.abs(a / b - 1).max()
            for a, b in zip(
                sums(spectrum.without_noise(found[0]), found[1], times), reference, strict=True
            )
        ]
        print(f"| {name} | {seconds} | {max(errors):.1e} |", flush=True)


if __name__ == "__main__":
    main()
