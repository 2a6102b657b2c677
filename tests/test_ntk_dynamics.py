"""NTK sums against independent routes: QUADPACK, matrix exponentials, closed forms, limits."""

from __future__ import annotations

import itertools
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import expm

from speedlimits import ntk_dynamics

EXAMPLES = settings(deadline=None, max_examples=25)


@st.composite
def spectra(draw, lowest=-12.0, highest=6.0, largest_count=30):
    """Random eigenvalues over up to 18 decades with random residue projections."""
    count = draw(st.integers(1, largest_count))
    seed = draw(st.integers(0, 2**32 - 1))
    low = draw(st.floats(lowest, highest))
    high = draw(st.floats(low, highest))
    generator = np.random.default_rng(seed)
    eigenvalues = 10.0 ** generator.uniform(low, high, count)
    return eigenvalues, 10.0 ** generator.uniform(-8, 4, count)


def reference_path_length(eigenvalues, projections, time):
    """Adaptive quadrature by SciPy (QUADPACK), decade by decade in ln t."""

    def integrand(u):
        t = np.exp(u)
        return t * np.sqrt(np.sum(eigenvalues * projections * np.exp(-2 * eigenvalues * t)))

    first = min(1e-12 / eigenvalues.max(), time)
    edges = np.log(np.geomspace(first, time, 60)) if time > first else []
    pieces = [quad(integrand, a, b, epsrel=1e-12)[0] for a, b in itertools.pairwise(edges)]
    return first * np.sqrt(np.sum(eigenvalues * projections)) + sum(pieces)


@EXAMPLES
@given(spectra(lowest=-3, highest=3, largest_count=8), st.floats(-3, 3))
def test_loss_drop_is_the_integral_of_the_squared_speed(spectrum, exponent):
    time = 10.0**exponent / spectrum[0].max()

    def squared_speed(t):
        return float(ntk_dynamics.speed(*spectrum, t)) ** 2

    edges = np.concatenate([[0.0], time * 2.0 ** np.arange(-20.0, 1.0)])
    value = sum(quad(squared_speed, a, b, epsrel=1e-11)[0] for a, b in itertools.pairwise(edges))
    np.testing.assert_allclose(ntk_dynamics.loss_drop(*spectrum, time), value, rtol=1e-9)
    np.testing.assert_allclose(ntk_dynamics.action(*spectrum, time), value, rtol=1e-9)


@settings(deadline=None, max_examples=10)
@given(spectra())
def test_path_length_agrees_with_quadpack_and_with_its_stated_error(spectrum):
    times = np.geomspace(1e-6, 1e6, 4)
    value, error = ntk_dynamics.path_length_with_error(*spectrum, times)
    reference = [reference_path_length(*spectrum, time) for time in times]
    np.testing.assert_allclose(value, reference, rtol=1e-9)
    assert np.all(error <= ntk_dynamics.PATH_TOLERANCE * value)


@EXAMPLES
@given(st.floats(-12, 6), st.floats(-6, 6))
def test_one_mode_has_a_straight_path_and_a_closed_form(exponent, time_exponent):
    rate, time = 10.0**exponent, 10.0**time_exponent
    result = ntk_dynamics.predict([rate], [3.0], time)
    expected = np.sqrt(3.0 / rate) * -np.expm1(-rate * time)
    np.testing.assert_allclose(result["path_length"], expected, rtol=1e-12)
    np.testing.assert_allclose(result["path_excess"], 1.0, rtol=1e-11)
    # T/T_SL = (x/2) coth(x/2) with x = lambda T
    half = 0.5 * rate * time
    coth = half / np.tanh(half) if half > 1e-8 else 1.0
    np.testing.assert_allclose(result["inefficiency"], coth, rtol=1e-11)


@EXAMPLES
@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 2**32 - 1), st.floats(-2, 2))
def test_sums_equal_gradient_flow_of_a_random_linear_model(samples, weights, seed, exponent):
    """theta' = J^T (y - J theta) solved in weight space by a matrix exponential."""
    generator = np.random.default_rng(seed)
    jacobian = generator.standard_normal((samples, weights))
    start, target = generator.standard_normal(weights), generator.standard_normal(samples)
    time = 10.0**exponent
    generator_matrix = np.zeros((weights + 1, weights + 1))
    generator_matrix[:-1, :-1] = -jacobian.T @ jacobian
    generator_matrix[:-1, -1] = jacobian.T @ target
    end = (expm(time * generator_matrix) @ np.append(start, 1.0))[:-1]
    losses = [0.5 * np.sum((target - jacobian @ theta) ** 2) for theta in (start, end)]
    eigenvalues, vectors = np.linalg.eigh(jacobian @ jacobian.T)
    projections = (vectors.T @ (target - jacobian @ start)) ** 2
    result = ntk_dynamics.predict(eigenvalues, projections, time)
    np.testing.assert_allclose(result["loss_drop"], losses[0] - losses[1], rtol=1e-7, atol=1e-10)
    distance_squared = np.sum((end - start) ** 2)
    np.testing.assert_allclose(result["geodesic_length_squared"], distance_squared, rtol=1e-6)
    gradient = jacobian.T @ (jacobian @ end - target)
    # the root of a zero eigenvalue's rounding would be 1e-8 of the speed at the start
    kept = np.where(eigenvalues > 1e-12 * eigenvalues.max(), eigenvalues, 0.0)
    speed = ntk_dynamics.speed(kept, projections, time)
    allowed = 1e-10 * np.linalg.norm(jacobian.T @ target)
    np.testing.assert_allclose(speed, np.linalg.norm(gradient), rtol=1e-6, atol=allowed)


def polygon_length(jacobian, start, target, times):
    """Length of the polygon through the weights at the given times, by a matrix exponential."""
    h, basis = np.linalg.eigh(jacobian.T @ jacobian)
    optimum = np.linalg.pinv(jacobian) @ (target - jacobian @ start)
    moved = -np.expm1(-np.multiply.outer(times, np.clip(h, 0, None))) * (basis.T @ optimum)
    return np.linalg.norm(np.diff(moved, axis=0), axis=1).sum()


@EXAMPLES
@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 2**32 - 1), st.floats(-1, 1.5))
def test_path_length_is_the_limit_of_polygons_in_weight_space(samples, weights, seed, exponent):
    generator = np.random.default_rng(seed)
    jacobian = generator.standard_normal((samples, weights))
    start, target = generator.standard_normal(weights), generator.standard_normal(samples)
    eigenvalues, vectors = np.linalg.eigh(jacobian @ jacobian.T)
    projections = (vectors.T @ (target - jacobian @ start)) ** 2
    time = 10.0**exponent
    lengths = [
        polygon_length(jacobian, start, target, time * np.linspace(0, 1, count + 1) ** 3)
        for count in (400, 800)
    ]
    length = float(ntk_dynamics.path_length(eigenvalues, projections, time))
    assert lengths[0] <= lengths[1] * (1 + 1e-9) <= length * (1 + 2e-9)
    # the polygon falls short by the square of its sides: Richardson
    np.testing.assert_allclose(lengths[1] + (lengths[1] - lengths[0]) / 3, length, rtol=1e-4)


@EXAMPLES
@given(spectra(largest_count=6), st.floats(-6, 6))
def test_sums_in_fifty_digits_over_the_whole_range(spectrum, exponent):
    """lambda from 1e-12 to 1e6, T over 12 decades, by decimal arithmetic without expm1."""
    time = 10.0**exponent
    with localcontext() as context:
        context.prec = 50
        modes = [(Decimal(a), Decimal(b)) for a, b in zip(*map(list, spectrum), strict=True)]
        t = Decimal(time)
        drop = sum(b * (1 - (-2 * a * t).exp()) / 2 for a, b in modes)
        squared = sum(b * (1 - (-a * t).exp()) ** 2 / a for a, b in modes)
        speed = sum(a * b * (-2 * a * t).exp() for a, b in modes).sqrt()
        whole = t * drop / squared
    result = ntk_dynamics.predict(*spectrum, time)
    for name, exact in (
        ("loss_drop", drop),
        ("geodesic_length_squared", squared),
        ("inefficiency", whole),
        ("speed_limit_time", squared / drop),
        ("speed", speed),
    ):
        # e^-x carries the rounding of x, below 750 eps; squares of speeds below 1e-154 underflow
        np.testing.assert_allclose(result[name], float(exact), rtol=1e-12, atol=1e-153)


@EXAMPLES
@given(spectra())
def test_bounds_hold_and_factors_multiply(spectrum):
    times = np.geomspace(1e-6, 1e6, 7)
    result = ntk_dynamics.predict(*spectrum, times)
    slack = 1 - 1e-9
    assert np.all(result["speed_unevenness"] >= slack)
    assert np.all(result["path_excess"] >= slack)
    assert np.all(result["speed_limit_time"] <= times / slack)
    product = result["speed_unevenness"] * result["path_excess"]
    np.testing.assert_allclose(product, result["inefficiency"], rtol=1e-12)
    np.testing.assert_allclose(
        ntk_dynamics.speed_unevenness(*spectrum, times), result["speed_unevenness"]
    )
    np.testing.assert_allclose(ntk_dynamics.path_excess(*spectrum, times), result["path_excess"])
    assert np.all(np.diff(result["path_length"]) >= 0)


@EXAMPLES
@given(spectra(), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_inefficiency_does_not_change_with_the_units_of_loss_and_time(spectrum, loss, time):
    eigenvalues, projections = spectrum
    times = np.geomspace(1e-3, 1e3, 4)
    plain = ntk_dynamics.predict(eigenvalues, projections, times)
    scaled = ntk_dynamics.predict(eigenvalues / time, projections * loss, times * time)
    for name in ("inefficiency", "speed_unevenness", "path_excess"):
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-8)


@EXAMPLES
@given(spectra())
def test_zero_and_negative_eigenvalues_add_exactly_nothing(spectrum):
    eigenvalues, projections = spectrum
    times = np.array([0.0, 1e-3, 1.0, 1e12])
    plain = ntk_dynamics.predict(eigenvalues, projections, times)
    padded = ntk_dynamics.predict(
        np.append(eigenvalues, [0.0, -1e-15]), np.append(projections, [7.0, 7.0]), times
    )
    for name, value in plain.items():
        np.testing.assert_array_equal(padded[name], value)


@EXAMPLES
@given(st.floats(-12, -3), st.floats(-6, 0))
def test_slow_modes_take_their_limit(exponent, time_exponent):
    rate, time = 10.0**exponent, 10.0**time_exponent
    result = ntk_dynamics.predict([rate], [2.0], time)
    x = rate * time  # the next terms of the expansions in x are checked too
    np.testing.assert_allclose(
        result["geodesic_length_squared"], time**2 * rate * 2.0 * (1 - x + 7 * x**2 / 12), rtol=1e-8
    )
    np.testing.assert_allclose(
        result["loss_drop"], time * rate * 2.0 * (1 - x + 2 * x**2 / 3), rtol=1e-8
    )


def test_start_and_nothing_to_learn():
    result = ntk_dynamics.predict([1.0, 0.5], [1.0, 2.0], np.array([0.0, 1.0]))
    for name in ("inefficiency", "speed_unevenness", "path_excess"):
        assert result[name][0] == 1.0
    assert result["speed_limit_time"][0] == 0.0
    assert np.isnan(ntk_dynamics.inefficiency([0.0], [1.0], 1.0))
    assert ntk_dynamics.path_length([0.0], [1.0], 1.0) == 0.0


def test_order_and_shape_of_times_do_not_matter():
    eigenvalues, projections = np.arange(1.0, 50.0) ** -1.5, np.ones(49)
    times = np.geomspace(1e-2, 1e3, 6)
    shuffled = np.array([3, 0, 5, 1, 4, 2])
    for name, value in ntk_dynamics.predict(eigenvalues, projections, times).items():
        again = ntk_dynamics.predict(eigenvalues, projections, times[shuffled].reshape(2, 3))[name]
        assert again.shape == (2, 3)
        # path-length panels do not depend on the order; the errors are sums of rounding
        np.testing.assert_allclose(again.reshape(-1), value[shuffled], rtol=1e-12)


def test_many_modes_stay_within_the_chunk(monkeypatch):
    generator = np.random.default_rng(3)
    spectrum = 10.0 ** generator.uniform(-9, 3, 300), generator.random(300)
    times = np.geomspace(1e-5, 1e9, 9)
    plain = ntk_dynamics.predict(*spectrum, times)
    monkeypatch.setattr(ntk_dynamics, "CHUNK_ELEMENTS", 512)
    again = ntk_dynamics.predict(*spectrum, times)
    for name in sorted(set(plain) - {"path_length_error"}):  # that one is made of rounding
        value = again[name]
        np.testing.assert_allclose(value, plain[name], rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize(
    ("eigenvalues", "projections", "times", "word"),
    [
        ([1.0, 2.0], [1.0], 1.0, "shapes"),
        ([np.nan], [1.0], 1.0, "not finite"),
        ([1.0], [-1.0], 1.0, "never"),
        ([1.0], [1.0], -1.0, "T >= 0"),
        ([1.0], [1.0], np.inf, "not finite"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(eigenvalues, projections, times, word):
    with pytest.raises(ValueError, match=word):
        ntk_dynamics.predict(eigenvalues, projections, times)


def test_tolerance_below_rounding_is_refused():
    with pytest.raises(ValueError, match="relative_tolerance"):
        ntk_dynamics.path_length([1.0], [1.0], 1.0, relative_tolerance=1e-17)
