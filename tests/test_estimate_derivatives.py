"""Derivatives of estimates against central differences of full refits, converged to rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from interpreter import interpreted
from scipy.optimize import minimize

import glmm_jax as gj
from glmm_jax import Status
from glmm_jax.estimate import differentiable
from glmm_jax.model import flatten, unflatten

N = 60


def frame() -> pd.DataFrame:
    """Two nested and two crossed factors with clear variances, responses of several families."""
    rng = np.random.default_rng(11)
    row = np.arange(N)
    data = pd.DataFrame({"g": row % 10, "b": row % 20, "h": rng.integers(0, 5, N)})
    data["x"] = rng.normal(size=N)
    eta = 0.4 + 0.5 * data["x"] + sum(rng.normal(0, 0.8, 20)[data[f]] for f in "gbh")
    data["count"] = rng.poisson(np.exp(eta))
    data["loose"] = rng.poisson(np.exp(0.5 + 0.3 * data["x"]))  # no random effects at all
    data["positive"] = np.exp(eta) * rng.gamma(4.0, 0.25, N)
    data["answer"] = rng.random(N) < 1 / (1 + np.exp(-2.0 * eta))
    return data


class Case:
    """A model, directions in which its arrays move, and its estimate as a function of how far.

    Refits share nothing with the package's own search: BFGS of SciPy, then Newton steps. The
    derivatives start from such an optimum, which spares a program, and are computed by NumPy, which
    spares two; for `searched` cases those of `gj.estimate` itself are compiled as well.
    """

    def __init__(
        self, formula: str, family: str, *moving: str, nagq: int = 1, searched=False, **settings
    ) -> None:
        self.model = gj.build_model(formula, frame(), family, **settings)
        self.moving, self.nagq, self.searched = moving, nagq, searched
        rng = np.random.default_rng(12)
        n = self.model.n
        self.directions = {name: jnp.asarray(rng.normal(size=n)) for name in moving}

    def moved(self, t: jax.Array, model: gj.Model | None = None) -> gj.Model:
        """The model with each of the moving arrays t_k away, t (arrays,)."""
        model = self.model if model is None else model
        for step, (name, d) in zip(t, self.directions.items(), strict=True):
            if name == "X":
                model = model.replace(X=model.X.at[:, 1].add(step * d))
            elif name == "Z":
                model = model.replace(Z=(model.Z[0] + step * d[:, None], *model.Z[1:]))
            elif name == "priors":
                (prior,) = model.priors
                model = model.replace(priors=(replace(prior, sd=prior.sd * (1.0 + 0.3 * step)),))
            else:
                old = getattr(model, name)
                # Responses and weights stay positive.
                scale = 0.3 * old if name in ("y", "weights") else 1.0
                model = model.replace(**{name: old + step * scale * d})
        return model

    def numbers(
        self, t: jax.Array, model: gj.Model | None = None, found: gj.Estimate | None = None
    ) -> jax.Array:
        """Parameters, modes, some linear predictors and fitted values, and the deviance."""
        model = self.moved(t, model)
        if found is None:
            found = gj.estimate(model, self.nagq)
        else:
            found = differentiable(found, model)
        rows = [function(found.params, model, found.u)[:5] for function in FITTED]
        return jnp.concatenate([flatten(found.params), found.u, *rows, found.deviance[None]])

    @cached_property
    def rest(self) -> jax.Array:
        """Nothing moved, (arrays,)."""
        return jnp.zeros(len(self.moving))

    @cached_property
    def bend(self) -> Callable:
        """(t, direction d, model, estimate at t) to J = d numbers / dt, (numbers, arrays), in
        reverse, and dJ along d: forward over reverse, for each number side by side."""

        def both(t: jax.Array, d: jax.Array, model: gj.Model, found: gj.Estimate) -> Any:
            values = jax.eval_shape(self.numbers, t, model, found)

            def one(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
                slope = jax.grad(lambda t: weights @ self.numbers(t, model, found))
                return jax.jvp(slope, (t,), (d,))

            return jax.vmap(one)(jnp.eye(values.size))

        found = self.optimum(self.refitted(np.asarray(self.rest)), self.model)
        return interpreted(both, self.rest, self.rest, self.model, found)

    @cached_property
    def _criterion(self) -> Callable:
        @jax.jit
        def slope(flat: jax.Array, model: gj.Model) -> tuple[jax.Array, jax.Array]:
            params = unflatten(flat, model)
            value, gradient = jax.value_and_grad(gj.deviance)(params, model, self.nagq)
            u = gj.conditional_mode(params, model)
            rows = [function(params, model, u)[:5] for function in FITTED]
            return flatten(gradient), jnp.concatenate([flat, u, *rows, value[None]])

        return slope

    def _hessian(self, flat: np.ndarray, model: gj.Model) -> np.ndarray:
        h = 1e-4
        steps = h * np.eye(flat.size)
        slopes = [[self._criterion(flat + s * e, model)[0] for s in (1, -1)] for e in steps]
        H = np.array([np.asarray(up - down) for up, down in slopes]) / (2 * h)
        return (H + H.T) / 2

    def refitted(self, t: np.ndarray, model: gj.Model | None = None) -> np.ndarray:
        """The same numbers from a fit of its own, to the point where nothing moves."""
        start = self._start if model is None else self._anywhere
        return self._fitted(self.moved(jnp.asarray(t), model), start)

    def _fitted(self, model: gj.Model, start: np.ndarray) -> np.ndarray:
        def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
            gradient, numbers = self._criterion(flat, model)
            return float(numbers[-1]), np.asarray(gradient)

        flat = minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-4}).x
        # The deviance is even in each of them.
        flat[model.p : model.p + model.m] = np.abs(flat[model.p : model.p + model.m])
        for _ in range(10):
            gradient, numbers = self._criterion(flat, model)
            step = np.linalg.solve(self._hessian(flat, model), gradient)
            if np.max(np.abs(step)) < 1e-12:
                return np.asarray(numbers)
            flat = flat - step
        raise AssertionError(f"a refit still moves by {step}")

    @property
    def _anywhere(self) -> np.ndarray:
        return np.repeat([0.3, 0.8, 0.0], [self.model.p, self.model.m, self.model.d])

    @cached_property
    def _start(self) -> np.ndarray:
        return self._fitted(self.model, self._anywhere)[: self._anywhere.size]

    def optimum(self, numbers: np.ndarray, model: gj.Model) -> gj.Estimate:
        """Such a fit as an estimate of the package, of which only the optimum is filled in."""
        size = self._anywhere.size
        # A variance that Newton steps have led to zero is there.
        flat = jnp.asarray(np.where(np.abs(numbers[:size]) < 1e-10, 0.0, numbers[:size]))
        u = jnp.asarray(numbers[size : size + self.model.q])
        H = jnp.asarray(self._hessian(numbers[:size], model))
        blank = dict.fromkeys(
            (
                "decrement",
                "smallest_eigenvalue",
                "singular",
                "separated",
                "evaluations",
                "hessians",
            ),
            jnp.zeros(()),
        )
        return gj.Estimate(
            unflatten(flat, model), u, jnp.asarray(numbers[-1]), jnp.zeros(size), H,
            jnp.asarray(int(Status.CONVERGED)), **blank, nagq=self.nagq,
        )  # fmt: skip

    def differences(self, model: gj.Model | None = None, h: float = 0.005) -> np.ndarray:
        """d numbers / dt, (numbers, arrays), by central differences of fourth order."""
        columns = []
        for e in h * np.eye(len(self.moving)):
            one, two = (self.refitted(s * e, model) - self.refitted(-s * e, model) for s in (1, 2))
            columns.append((8 * one - two) / (12 * h))
        return np.stack(columns, axis=1)


FITTED = (gj.linear_predictor, gj.fitted_values)
CASES = {
    "single, Poisson": lambda: Case(
        "count ~ x + (1 | g)", "poisson", "weights", "offset", "X", searched=True
    ),
    "single, Bernoulli, 3 nodes, prior": lambda: Case(
        "answer ~ x + (1 | g)", "bernoulli", "weights", "offset", "X", "priors", nagq=3,
        priors=gj.priors.Normal(sd=0.7),
    ),
    "nested, inverse Gaussian": lambda: Case(
        "positive ~ x + (1 | h/g)", "inverse_gaussian", "weights", "y", "offset", "X", link="log"
    ),
    "crossed, phi known": lambda: Case(
        "count ~ x + (1 | g) + (1 | h)", "negative_binomial", "weights", "offset", "X", "Z", "size",
        dispersion=2.0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, each column relative to its largest element or each to itself."""
    size = np.maximum(np.abs(wanted), 1e-2 * np.max(np.abs(wanted), axis=0))
    return float(np.max(np.abs(found - wanted) / size))


def test_derivatives_are_those_of_refits(case: Case) -> None:
    """The first along every array, the second along all at once; the values too, without J."""
    model, d = case.model, np.cos(np.arange(len(case.moving)))
    slopes = assert_second_derivatives(case, d, model)
    assert relative(slopes, case.differences()) < 1e-5
    if not case.searched:
        return
    # The estimate that is searched for has the same.
    weights = jnp.cos(jnp.arange(len(slopes), dtype=case.rest.dtype))
    compiled = jax.grad(lambda t: weights @ case.numbers(t))(case.rest)
    np.testing.assert_allclose(compiled, weights @ slopes, rtol=1e-7)


def assert_second_derivatives(case: Case, d: np.ndarray, model: gj.Model) -> np.ndarray:
    """Along d, against first derivatives at refits and against refits alone; the first at rest."""
    h, moved = 0.0025, {}
    for step in (-2, -1, 0, 1, 2):
        t = step * h * d
        values = case.refitted(t, model)
        found = case.optimum(values, case.moved(jnp.asarray(t), model))
        moved[step] = values, *case.bend(t, d, model, found)
    (centre, first, second), up, down = moved[0], *((moved[s], moved[-s]) for s in (1, 2))
    slopes = [one[1] - other[1] for one, other in (up, down)]
    assert relative(second, (8 * slopes[0] - slopes[1]) / (12 * h)) < 1e-5
    sums = [one[0] + other[0] for one, other in (up, down)]
    curve = (16 * sums[0] - sums[1] - 30 * centre) / (12 * h**2)
    assert relative(second @ d, curve) < 1e-5
    return first


@pytest.fixture(scope="module")
def poisson() -> Case:
    return CASES["single, Poisson"]()


def test_on_the_boundary_the_derivative_is_that_of_the_constrained_optimum(poisson: Case) -> None:
    loose = jnp.asarray(frame()["loose"].to_numpy(float))
    model = poisson.model.replace(y=loose)
    found = gj.estimate(model)
    assert found.status == Status.CONVERGED and found.singular.all()
    assert found.params.theta[0] == 0.0
    # The deviance is even in theta: no cross derivatives, and it rises.
    H = np.asarray(gj.hessian(found.params, model))
    assert np.max(np.abs(H[2, :2])) < 1e-10 * np.max(np.abs(H)) and H[2, 2] > 0
    slopes = assert_second_derivatives(poisson, np.array([0.5, -1.0, 0.7]), model)
    assert np.all(slopes[2:13] == 0)  # theta and the modes
    assert relative(slopes, poisson.differences(model)) < 1e-5
    errors = gj.standard_errors(found.params, model)
    assert errors.theta[0] == 0.0 and np.all(errors.beta > 0)


def test_the_status_comes_with_the_numbers(poisson: Case) -> None:
    model = poisson.model.replace(y=jnp.zeros(N))

    def numbers(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = gj.estimate(poisson.moved(t, model))
        return found.deviance, found.status

    _, status = jax.grad(numbers, has_aux=True)(jnp.zeros(3))
    assert status == Status.SEPARATION


def test_what_cannot_be_differentiated_is_refused(poisson: Case) -> None:
    model = poisson.model
    with pytest.raises(ValueError, match="y= is int"):
        model.replace(y=jnp.zeros(N, int))
    with pytest.raises(ValueError, match="trials= cannot be replaced"):
        model.replace(trials=jnp.ones(N))
    with pytest.raises(ValueError, match="priors= has another make"):
        model.replace(priors=(gj.priors.Normal(sd=jnp.ones(())),))
    with pytest.raises(ValueError, match=r"priors: sd= has shape .* one for each of x"):
        gj.build_model(
            "count ~ x + (1 | g)", frame(), "poisson", priors=gj.priors.Normal(sd=jnp.ones(2))
        )
