"""The closed forms displayed in docs/theory.md, evaluated as they stand there."""

import re

import numpy as np
import pytest
from conftest import ROOT
from numpy import euler_gamma
from scipy.integrate import quad
from scipy.special import gamma, zeta

from speedlimits import linear_regression, marchenko_pastur, ntk_dynamics, power_law
from speedlimits.spectrum import spectral_measure_lanczos

PAGE = (ROOT / "docs/theory.md").read_text(encoding="utf-8")


def analytic_zeta(x):
    """Riemann's zeta function below 1 too, by the functional equation."""
    if x > 1:
        return float(zeta(x))
    if x == 0:
        return -0.5
    return float(2**x * np.pi ** (x - 1) * np.sin(np.pi * x / 2) * gamma(1 - x) * zeta_above(1 - x))


def zeta_above(x):
    """Riemann's zeta function for x > 0 by the alternating series with averaged partial sums."""
    if x > 1:
        return float(zeta(x))
    partial = np.cumsum((-1.0) ** np.arange(60) / np.arange(1, 61) ** x)
    while len(partial) > 1:
        partial = (partial[1:] + partial[:-1]) / 2
    return partial[0] / (1 - 2 ** (1 - x))


def test_one_mode_waits_at_the_bottom():
    x = np.array([0.01, 1.0, 5.0, 40.0])
    found = ntk_dynamics.inefficiency([1.0], [3.0], x)
    np.testing.assert_allclose(found, x / 2 / np.tanh(x / 2), rtol=1e-12)


def test_integrals_of_section_5_1():
    for s in (-0.8, -0.5, -0.2):
        loss = sum(
            quad(lambda x, s=s: x ** (s - 1) * -np.expm1(-2 * x), *limits)[0]
            for limits in ((0, 1), (1, np.inf))
        )
        length = sum(
            quad(lambda x, s=s: x ** (s - 2) * np.expm1(-x) ** 2, *limits)[0]
            for limits in ((0, 1), (1, np.inf))
        )
        assert loss == pytest.approx(-gamma(s) * 2**-s, rel=1e-6)
        assert length == pytest.approx(gamma(s - 1) * (2 ** (1 - s) - 2), rel=1e-6)


@pytest.mark.parametrize(("alpha", "delta"), [(1.5, 0.5), (2.0, 0.0), (3.0, 0.9), (2.0, -0.5)])
def test_boxes_of_section_5_1(alpha, delta):
    s = (delta - 1) / alpha
    total = (1 - s) / (4 * (1 - 2**s))
    path = -s / ((1 - s) * (1 - 2**s))
    assert power_law.asymptotic_inefficiency(alpha, delta) == pytest.approx(total, rel=1e-12)
    assert power_law.asymptotic_length_ratio_squared(alpha, delta) == pytest.approx(path, rel=1e-12)
    assert total / path == pytest.approx((1 - s) ** 2 / (-4 * s), rel=1e-12)
    tau = 1e9
    ell = 2 / (1 - s) * np.sqrt(gamma(s + 1) / alpha) * 2 ** (-(s + 1) / 2) * tau ** ((1 - s) / 2)
    geo = tau ** (1 - s) / alpha * gamma(s - 1) * (2 ** (1 - s) - 2)
    assert ell**2 / geo == pytest.approx(path, rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "delta"), [(2.0, 0.5), (3.0, 0.9), (1.5, 1.4), (2.0, 2.0), (1.2, 3.0)]
)
def test_all_algebraic_terms_of_section_5_2(alpha, delta):
    s, tau = (delta - 1) / alpha, 3e3
    loss = 0.5 * (analytic_zeta(delta) - gamma(s) / alpha * (2 * tau) ** -s)
    squared = (
        analytic_zeta(delta - alpha)
        + gamma(s - 1) * (2 ** (1 - s) - 2) / alpha * tau ** (1 - s)
    )  # fmt: skip
    assert power_law.infinite_loss_drop(alpha, delta, tau) == pytest.approx(loss, rel=1e-8)
    found = power_law.infinite_geodesic_length_squared(alpha, delta, tau)
    assert found == pytest.approx(squared, rel=1e-8)
    eigenvalues, projections = power_law.spectrum(alpha, delta, 300_000)
    unit = eigenvalues[0]
    sums = ntk_dynamics.inefficiency(eigenvalues, projections, [tau / unit])[0]
    assert sums == pytest.approx(tau * loss / squared, rel=2e-3)


def test_numbers_of_section_5_2():
    constant, finite, two_terms = map(
        float,
        re.search(r"the constant is ([\d.]+), the finite sum ([\d.]+), and the two-term formula\s+"
                  r"([\d.]+)\.\s", PAGE).groups(),
    )  # fmt: skip
    assert power_law.asymptotic_inefficiency(3.0, 0.9) == pytest.approx(constant, abs=5e-3)
    found = power_law.finite_power_law_inefficiency(3.0, 0.9, 50_000, [1e4])
    assert np.ravel(found)[0] == pytest.approx(finite, abs=5e-5)
    asymptote = power_law.inefficiency_asymptote(3.0, 0.9, 1e4)
    assert float(np.ravel(asymptote)[0]) == pytest.approx(two_terms, abs=5e-5)


def test_logarithm_of_section_5_3():
    alpha, tau = 2.5, 1e7
    loss = 0.5 * (euler_gamma + (np.log(2 * tau) + euler_gamma) / alpha)
    assert power_law.infinite_loss_drop(alpha, 1.0, tau) == pytest.approx(loss, rel=1e-9)
    limit = (np.log(2 * tau) + (1 + alpha) * euler_gamma) / (4 * np.log(2))
    assert tau * loss / (2 * np.log(2) / alpha * tau) == pytest.approx(limit, rel=1e-12)
    found = power_law.infinite_geodesic_length_squared(alpha, 1.0, tau)
    assert found == pytest.approx(2 * np.log(2) / alpha * tau, rel=1e-4)


def test_squared_length_of_section_5_2_where_poles_meet():
    alpha, tau, k = 1.5, 50.0, np.arange(1.0, 1e5)
    limit = euler_gamma + (np.log(tau / 2) + euler_gamma) / alpha
    found = power_law.infinite_geodesic_length_squared(alpha, 1 + alpha, tau)
    assert found == pytest.approx(limit, rel=1e-12)
    assert np.sum(np.expm1(-tau * k**-alpha) ** 2 / k) == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize(("alpha", "delta"), [(2.0, 2.0), (3.0, 1.5), (1.5, 3.5)])
def test_growth_of_section_5_4(alpha, delta):
    s = (delta - 1) / alpha
    if s < 1:
        constant = alpha * zeta(delta) / (4 * gamma(s - 1) * (2**-s - 1))
    else:
        constant = zeta(delta) / (2 * analytic_zeta(delta - alpha))
    assert power_law.growth_constant(alpha, delta) == pytest.approx(constant, rel=1e-9)
    assert power_law.growth_exponent(alpha, delta) == pytest.approx(min(s, 1.0))


def test_linear_regression_of_section_6():
    h, a2, s0, beta_inv, T = np.array([0.3, 2.0]), np.array([1.5, 0.2]), 0.1, 0.7, 0.9
    modes = linear_regression.OrnsteinUhlenbeckModes(h, a2, s0, beta_inv)
    s = s0 * np.exp(-2 * h * T) + beta_inv * (1 - np.exp(-2 * h * T)) / h
    squared = np.sum(a2 * (1 - np.exp(-h * T)) ** 2 + (np.sqrt(s) - np.sqrt(s0)) ** 2)
    assert linear_regression.wasserstein_squared(modes, T) == pytest.approx(squared, rel=1e-12)

    def free_energy(means_squared, variances):
        energy = h / 2 * (means_squared + variances)
        return np.sum(energy - beta_inv / 2 * np.log(2 * np.pi * np.e * variances))

    drop = free_energy(a2, s0 + 0 * h) - free_energy(a2 * np.exp(-2 * h * T), s)
    assert linear_regression.free_energy_drop(modes, T) == pytest.approx(drop, rel=1e-11)

    def velocity_squared(t):
        v = s0 * np.exp(-2 * h * t) + beta_inv * (1 - np.exp(-2 * h * t)) / h
        return np.sum((h - beta_inv / v) ** 2 * v + h**2 * a2 * np.exp(-2 * h * t))

    assert quad(velocity_squared, 0, T)[0] == pytest.approx(drop, rel=1e-8)


def test_high_noise_of_section_6():
    h, s0, T, beta_inv = np.array([0.3, 2.0]), 0.1, 1.3, 1e9
    modes = linear_regression.OrnsteinUhlenbeckModes(h, np.ones(2), s0, beta_inv)
    q = (1 - np.exp(-2 * h * T)) / h
    assert linear_regression.wasserstein_squared(modes, T) == pytest.approx(
        beta_inv * q.sum(), rel=1e-3
    )
    drop = 0.5 * beta_inv * np.sum(np.log(beta_inv * q / s0) - h * q)
    assert linear_regression.free_energy_drop(modes, T) == pytest.approx(drop, rel=1e-3)


@pytest.mark.parametrize("c", [0.5, 3.0])
def test_marchenko_pastur_of_section_6_1(c):
    low, high = (1 - np.sqrt(c)) ** 2, (1 + np.sqrt(c)) ** 2

    def density(h):
        return np.sqrt((high - h) * (h - low)) / (2 * np.pi * h)

    mass, mean = (quad(lambda h, k=k: h**k * density(h), low, high)[0] for k in (0, 1))
    assert mass == pytest.approx(min(1, c), rel=1e-6) and mean == pytest.approx(c, rel=1e-6)
    assert marchenko_pastur.density(1.0 + c, c) == pytest.approx(density(1.0 + c), rel=1e-12)
    assert marchenko_pastur.point_mass(c) == pytest.approx(max(0.0, 1 - c))
    angle = np.linspace(0, np.pi, 4001)
    angle = (angle[1:] + angle[:-1]) / 2
    h = 1 + c + 2 * np.sqrt(c) * np.cos(angle)
    over_period = 2 * c / np.pi * np.mean(np.sin(angle) ** 2 / h * np.exp(-h)) * np.pi
    wanted = quad(lambda h: np.exp(-h) * density(h), low, high)[0]
    assert over_period == pytest.approx(wanted, rel=1e-6)


def test_gauss_and_radau_rules_of_section_4_1():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    values = np.geomspace(1, 1e-4, 60)
    theta, delta = basis * values @ basis.T, rng.standard_normal(60)
    projections = (basis.T @ delta) ** 2
    m = 6
    rule = spectral_measure_lanczos(lambda v: theta @ v, delta, m)
    for degree in range(2 * m):
        exact = np.sum(projections * values**degree)
        assert np.sum(rule.weights * rule.nodes**degree) == pytest.approx(exact, rel=1e-9)
    exact = np.sum(projections * values ** (2 * m))
    assert np.sum(rule.weights * rule.nodes ** (2 * m)) != pytest.approx(exact, rel=1e-9)
    for T in (1.0, 30.0, 1e3):
        gauss = np.sum(rule.weights * -np.expm1(-2 * rule.nodes * T))
        assert gauss >= np.sum(projections * -np.expm1(-2 * values * T)) * (1 - 1e-12)
        for end in (T, 2 * T):  # (1 - e^{-xT})^2 / x is the first integral twice less the second
            integral = np.sum(rule.weights * -np.expm1(-rule.nodes * end) / rule.nodes)
            assert integral <= np.sum(projections * -np.expm1(-values * end) / values) * (1 + 1e-12)
        x = values
        whole = -2 * np.expm1(-x * T) / x + np.expm1(-2 * x * T) / x
        np.testing.assert_allclose(whole, np.expm1(-x * T) ** 2 / x, rtol=1e-9)


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_stability_limits_of_section_8(mu):
    def largest_root(*polynomial):
        return np.abs(np.roots(polynomial)).max()

    def nesterov(x):
        return largest_root(1, -(1 + mu) * (1 - x), mu * (1 - x))

    def heavy_ball(x):
        return largest_root(1, -(1 + mu - x), mu)

    for growth, limit in (
        (heavy_ball, 2 * (1 + mu)),
        (nesterov, 2 * (1 + mu) / (1 + 2 * mu)),
    ):
        assert growth(0.999 * limit) < 1 < growth(1.001 * limit)


@pytest.mark.parametrize("eta_h", [0.02, 0.3])
def test_bias_of_euler_maruyama_of_section_6_2(eta_h):
    variance = 1.0
    for _ in range(5000):
        variance = (1 - eta_h) ** 2 * variance + 2 * eta_h
    assert variance == pytest.approx(1 / (1 - eta_h / 2), rel=1e-9)


def test_first_order_bias_of_section_6_2():
    h, s0, beta_inv, t = np.array([0.4, 1.0, 3.0]), 0.3, 0.7, 1.2
    modes = linear_regression.OrnsteinUhlenbeckModes(h, np.ones(3), s0, beta_inv)
    eta, decay = t / 40_000, np.exp(-2 * h * t)
    slope = beta_inv * ((1 - decay) / 2 + h * t * decay) - s0 * h**2 * t * decay
    change = linear_regression.discretised_variances(modes, eta, 40_000)
    change = change - linear_regression.variances(modes, t)
    np.testing.assert_allclose(change / eta, slope, rtol=1e-3)
    moved = ((1 - eta * h) ** 40_000 - np.exp(-h * t)) / eta
    np.testing.assert_allclose(moved, -0.5 * h**2 * t * np.exp(-h * t), rtol=1e-3)


def test_what_the_transient_does_in_section_4_3():
    """Both inefficiencies by sums over their own residues, the factor by shares and distances."""
    values, squares = power_law.spectrum(1.7, 0.8, 300)
    squares[0] *= 30  # the mean mode
    T, t_w = 200.0, 5.0
    left = squares * np.exp(-2 * values * t_w)
    ratio = ntk_dynamics.inefficiency(values, squares, T)
    ratio = ratio / ntk_dynamics.inefficiency(values, left, T - t_w)
    drops = [float(ntk_dynamics.loss_drop(values, squares, time)) for time in (t_w, T)]
    tau, sigma = t_w / T, drops[0] / drops[1]
    moved = ntk_dynamics.geodesic_length_squared(values, left, T - t_w)
    moved = moved / ntk_dynamics.geodesic_length_squared(values, squares, T)
    assert ratio == pytest.approx(moved / (1 - tau) / (1 - sigma), rel=1e-12)


@pytest.mark.parametrize(
    ("time", "said"), [(300.0, r"=([\d.]+)\$, where"), (1e-3, r"\(([\d.]+) for")]
)
def test_temperature_above_which_the_loss_rises_of_section_9(time, said):
    said = float(re.search(said, PAGE[PAGE.index("**linear_regression_limits.**") :])[1])
    data = {"start_variance": 0.1, "teacher_variance": 1.0, "noise_variance": 0.1}  # config.yaml
    drops = [
        float(
            linear_regression.mean_loss_drop(
                marchenko_pastur.limiting_modes(2.0, temperature=temperature, **data), time
            )
        )
        for temperature in (said - 0.06, said + 0.06)
    ]
    assert drops[0] > 0 > drops[1]


def test_memory_of_adam_of_section_8():
    """The corrected mean m obeys g = m + tau/eta (m - m before), tau/eta the sum of powers."""
    beta, gradients, mean, before = 0.8, np.sin(np.arange(1.0, 30.0)), 0.0, 0.0
    for k, gradient in enumerate(gradients):
        mean = beta * mean + (1 - beta) * gradient
        corrected = mean / (1 - beta ** (k + 1))
        memory = sum(beta**j for j in range(1, k + 1))  # after k steps
        assert corrected + memory * (corrected - before) == pytest.approx(gradient, rel=1e-9)
        before = corrected


def test_every_function_named_on_the_page_exists():
    from pathlib import Path

    modules = {p.stem for p in Path(ROOT / "scripts").rglob("*.py")}
    code = "\n".join(
        p.read_text() for d in ("speedlimits", "plots") for p in (ROOT / "scripts" / d).glob("*.py")
    )
    for name in re.findall(r"`([a-z_]+)`", PAGE):
        known = name in modules or re.search(rf"(?:def |\"){name}\b", code)
        assert known or name in (ROOT / "results/README.md").read_text(), name
