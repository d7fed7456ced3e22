"""The reference fits of tests/reference as one table of cases that feeds the tests.

    for case in cases(family="poisson", engine="lme4", nagq=1):
        fit = glmer(**case.glmer_arguments())
        assert fit.llf > case.log_likelihood - 1e-5

What the values are and how they were made: tests/reference/README.md.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glmm_jax import datasets
from glmm_jax.datasets.reader import read_table
from glmm_jax.families import Gaussian

FOLDER = Path(__file__).parent / "reference"

# R's family to glmm_jax's; "binomial" becomes "bernoulli" where each row is one trial.
FAMILIES = {
    "binomial": "binomial", "poisson": "poisson", "gaussian": "gaussian", "nbinom1": "nbinom1",
    "nbinom2": "nbinom2", "Gamma": "gamma", "inverse.gaussian": "inverse_gaussian",
    "beta_family": "beta_family", "betabinomial": "betabinomial", "tweedie": "tweedie",
    "genpois": "genpois", "compois": "compois", "t_family": "t_family",
    # With a ziformula, as all of these are: a hurdle in our words.
    "truncated_poisson": "hurdle_poisson", "truncated_nbinom2": "hurdle_nbinom2",
}  # fmt: skip
CURVATURES = {"lme4": "expected", "glmmTMB": "observed"}
POLYNOMIALS = {".L": ".Linear", ".Q": ".Quadratic", ".C": ".Cubic"}


@dataclass(frozen=True, eq=False)
class Point:
    """The objective at given parameters, so that a deviance is tested without an optimizer.

    `beta` (p,), None for a restricted likelihood; `theta` (m,) absolute and in lme4's order;
    `sigma` the residual standard deviation of a Gaussian family; `others` (d,) the coefficients of
    the family's parameters besides eta, as glmm_jax has them. The values are on the scale -2
    log-likelihood with every constant: `deviance` by the program itself, the other three by
    separate code. What the reference lacks is None; `deviance` also is where the program has
    another objective.
    """

    beta: np.ndarray | None
    theta: np.ndarray
    sigma: float | None
    others: np.ndarray
    deviance: float | None
    laplace_expected: float | None
    laplace_observed: float | None
    exact: float | None


@dataclass(frozen=True, eq=False)
class ProfiledPoint:
    """lmer's objective, beta and sigma profiled out, at `theta_over_sigma` (m,)."""

    theta_over_sigma: np.ndarray
    objective: float
    criterion: str


@dataclass(frozen=True, eq=False)
class Effects:
    """Conditional modes (levels, terms) of one random-effects term, the first 30 levels.

    `conditional_sd` has theta and beta held fixed; None where the reference has none.
    `sum_of_squares` is that of the modes of all levels and terms.
    """

    group: str
    terms: tuple[str, ...]
    levels: tuple[str, ...]
    mode: np.ndarray
    conditional_sd: np.ndarray | None
    sum_of_squares: float | None


@dataclass(frozen=True, eq=False)
class Components:
    """Standard deviations and correlations of one term; `corr` is None for a scalar term."""

    group: str
    terms: tuple[str, ...]
    sd: np.ndarray
    corr: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Case:
    """One model fitted by one program. Names of columns and coefficients are R's.

    `theta` is absolute, in lme4's order; `log_likelihood` has every constant of the density
    (lme4's own value leaves some out at nagq > 1); for a REML fit it is the REML one.
    `se_hessian` are the standard errors to compare with. `record` holds every stored field.
    """

    id: str
    engine: str
    dataset: str
    formula: str
    family: str
    link: str
    nagq: int
    reml: bool
    weights: str | None
    ziformula: str | None
    dispformula: str | None
    tags: tuple[str, ...]
    note: str | None
    log_likelihood: float
    aic: float
    bic: float
    df: int
    n: int
    ngroups: dict[str, int]
    theta: np.ndarray
    theta_names: tuple[str, ...]
    beta: np.ndarray
    beta_names: tuple[str, ...]
    se: np.ndarray
    se_rx: np.ndarray | None
    se_hessian: np.ndarray | None
    sigma: float | None
    components: tuple[Components, ...]
    effects: tuple[Effects, ...]
    fitted10: np.ndarray
    eta10: np.ndarray
    dropped_columns: tuple[str, ...]
    singular: bool
    points: tuple[Point, ...]
    profiled_points: tuple[ProfiledPoint, ...]
    record: dict[str, Any]

    @property
    def key(self) -> str:
        """Identifier and program, such as "cm1/lme4"."""
        return f"{self.id}/{self.engine}"

    def __str__(self) -> str:
        return self.key

    @property
    def curvature(self) -> str:
        """The curvature in the Laplace approximation of this program."""
        return CURVATURES[self.engine]

    @property
    def plain(self) -> bool:
        """True for a maximum-likelihood fit without a zero-inflation or dispersion formula."""
        return not self.reml and self.ziformula is None and self.dispformula is None

    @property
    def other_objective(self) -> str | None:
        """Why this program maximised something else than glmm_jax does, or None."""
        return _other_objective(self.record)

    def frame(self) -> pd.DataFrame:
        """Return the data as a new frame."""
        return load(self.dataset)

    def names(self) -> list[str]:
        """Return the names of the coefficients as glmm_jax writes them, in the order of `beta`."""
        return map_names(self.beta_names, self.frame())

    def glmer_arguments(self) -> dict[str, Any]:
        """Return keyword arguments with which `glmm_jax.glmer` fits this case.

        Raises:
            ValueError: a family without a name in FAMILIES.
        """
        if self.family not in FAMILIES:
            raise ValueError(f"{self.key}: family {self.family!r} is not one of {list(FAMILIES)}.")
        frame = self.frame()
        family = FAMILIES[self.family]
        arguments: dict[str, Any] = {
            "formula": self.formula,
            "data": frame,
            "link": self.link,
            "nagq": self.nagq,
            "curvature": self.curvature,
        }
        if not self.plain:
            arguments |= {"reml": self.reml, "dispersion": self.dispformula}
            arguments["zero_inflation"] = self.ziformula
        response = self.formula.split("~")[0].strip()
        if family == "binomial" and not response.startswith("cbind("):
            if self.weights is not None and not frame[response].isin([0, 1]).all():
                # R passes the number of trials of a proportion as weights.
                return arguments | {"family": "binomial", "trials": self.weights}
            family = "bernoulli"
        if self.weights is not None:
            arguments["weights"] = self.weights
            if family == "gaussian" and self.engine == "glmmTMB":
                # lmer's weights are precisions, glmmTMB's multiply the log-likelihood.
                return arguments | {"family": Gaussian(self.link, weights="likelihood")}
        if family.startswith("hurdle_"):
            # The link belongs to the family of counts inside.
            assert arguments.pop("link") == "log"
        return arguments | {"family": family}


def cases(
    family: str | Iterable[str] | None = None,
    engine: str | None = None,
    nagq: int | None = None,
    *,
    tag: str | None = None,
    without: Iterable[str] = (),
    plain: bool | None = True,
) -> list[Case]:
    """Return the cases that agree with every argument given, in the table's order.

    Args:
        family: R's name of the family, or several.
        engine: "lme4" or "glmmTMB".
        nagq: number of quadrature nodes, 0 and 1 as in lme4.
        tag: a tag the case must have.
        without: tags the case must not have, such as "large" or "separation".
        plain: True leaves out REML fits and zero-inflation and dispersion formulas, False
            leaves only these, None takes both.
    """
    families = {family} if isinstance(family, str) else family and set(family)
    excluded = set(without)
    return [
        one
        for one in _table()
        if (families is None or one.family in families)
        and (engine is None or one.engine == engine)
        and (nagq is None or one.nagq == nagq)
        and (tag is None or tag in one.tags)
        and not excluded.intersection(one.tags)
        and (plain is None or one.plain == plain)
    ]


def case(key: str) -> Case:
    """Return the case with this key, such as "cm1/lme4"."""
    return {one.key: one for one in _table()}[key]


def independent(id: str, criterion: str) -> dict[str, Any]:
    """Return the optimum found by separate code for the model `id`.

    `criterion` is "exact" (adaptive Gauss-Hermite quadrature with 81 nodes) or "observed" (the
    Laplace approximation with the observed Hessian). Fields: logLik, beta_names, beta, se, sd
    (of the one scalar random effect), dispersion, max_gradient.
    """
    start = {"exact": "exact likelihood", "observed": "Laplace with the observed"}[criterion]
    (record,) = (
        one
        for one in _document()["independent"]
        if one["id"] == id and one["criterion"].startswith(start)
    )
    return record


def independents() -> list[tuple[str, str]]:
    """Model and criterion of every optimum that `independent` gives."""
    names = {"exact likelihood": "exact", "Laplace with the": "observed"}
    return [(one["id"], names[one["criterion"][:16]]) for one in _document()["independent"]]


def load(dataset: str) -> pd.DataFrame:
    """Return a data set of glmm_jax.datasets or a simulated one, as a new frame."""
    return _load(dataset).copy()


def map_names(names: Iterable[str], frame: pd.DataFrame) -> list[str]:
    """Return R's names of coefficients as patsy writes them.

    "(Intercept)" -> "Intercept", "urbanY" -> "urban[T.Y]", "I(age^2)" -> "I(age ** 2)",
    "age:chY" -> "age:ch[T.Y]", "month.L" -> "month.Linear" for an ordered factor.
    """
    return [
        ":".join(_map_factor(factor, frame) for factor in re.split(r":(?![^(]*\))", name))
        for name in names
    ]


def _map_factor(name: str, frame: pd.DataFrame) -> str:
    if name == "(Intercept)":
        return "Intercept"
    if name.startswith("I("):
        return name.replace("^", " ** ")
    if name in frame.columns:
        return name
    for column in frame.columns:
        if not name.startswith(column) or not isinstance(frame[column].dtype, pd.CategoricalDtype):
            continue
        rest = name.removeprefix(column)
        if frame[column].cat.ordered:
            if rest in POLYNOMIALS or re.fullmatch(r"\^\d+", rest):
                return column + POLYNOMIALS.get(rest, rest)
        elif rest in frame[column].cat.categories:
            return f"{column}[T.{rest}]"
    raise ValueError(f"name: no column of the data gives the coefficient {name!r}.")


@cache
def _load(dataset: str) -> pd.DataFrame:
    simulated = json.loads((FOLDER / "simulated.json").read_text(encoding="utf-8"))
    if dataset not in simulated:
        return datasets.load(dataset)
    content = (FOLDER / "data" / f"{dataset}.csv.gz").read_bytes()
    return read_table(content, simulated[dataset]["columns"])


@cache
def _document() -> dict[str, Any]:
    return json.loads(gzip.decompress((FOLDER / "cases.json.gz").read_bytes()))


@cache
def _table() -> tuple[Case, ...]:
    return tuple(_case(record) for record in _document()["fits"])


def _array(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype=np.float64)


def _case(record: dict[str, Any]) -> Case:
    scale = record["sigma"] if record["theta_relative_to_sigma"] else 1.0
    profiled = [point for point in record["points"] if "objective" in point]
    complete = [point for point in record["points"] if "objective" not in point]
    return Case(
        id=record["id"],
        engine=record["engine"],
        dataset=record["dataset"],
        formula=record["formula"],
        family=record["family"],
        link=record["link"],
        nagq=record["nAGQ"],
        reml=record["REML"],
        weights=record.get("weights"),
        ziformula=record.get("ziformula"),
        dispformula=record.get("dispformula"),
        tags=tuple(record["tags"]),
        note=record.get("note"),
        log_likelihood=record.get("logLik_normalised", record["logLik"]),
        aic=record["AIC"],
        bic=record["BIC"],
        df=record["df"],
        n=record["n"],
        ngroups=record["ngroups"],
        theta=scale * np.asarray(record["theta"], dtype=np.float64),
        theta_names=tuple(record["theta_names"]),
        beta=np.asarray(record["beta"], dtype=np.float64),
        beta_names=tuple(record["beta_names"]),
        se=np.asarray(record["se"], dtype=np.float64),
        se_rx=_array(record.get("se_rx")),
        se_hessian=_array(record.get("se_hessian")),
        sigma=record.get("sigma"),
        components=tuple(
            Components(one["group"], tuple(one["terms"]), np.asarray(one["sd"]), _array(corr))
            for one in record["varcomp"]
            for corr in [one["corr"]]
        ),
        effects=tuple(
            Effects(
                group=one["group"],
                terms=tuple(one["terms"]),
                levels=tuple(one["levels"]),
                mode=np.asarray(one["mode"], dtype=np.float64),
                conditional_sd=_array(one.get("cond_sd")),
                sum_of_squares=one.get("sum_sq_all"),
            )
            for one in record["ranef"]
        ),
        fitted10=np.asarray(record["fitted10"], dtype=np.float64),
        eta10=np.asarray(record["eta10"], dtype=np.float64),
        dropped_columns=tuple(record["dropped_columns"]),
        singular=record["singular"],
        points=tuple(_point(point, record) for point in complete),
        profiled_points=tuple(
            ProfiledPoint(np.asarray(point["theta"]), point["objective"], point["what"])
            for point in profiled
        ),
        record=record,
    )


def _other_objective(record: dict[str, Any]) -> str | None:
    if record["engine"] == "lme4" and "dispersion" in record["tags"]:
        return "lme4's objective with a dispersion parameter is no likelihood"
    if record["engine"] == "lme4" and record["id"] == "wts_bin_real":
        return "lme4 rounds binomial weights"
    return None


def _others(point: dict[str, Any], record: dict[str, Any]) -> np.ndarray:
    """Coefficients of log(phi), then of a second parameter, then of logit(zero), (d,)."""
    if "dispersion" in point:  # lme4's: phi, or the size of a negative binomial
        return np.log([point["dispersion"]])
    # The shape of glmmTMB's gamma family is 1 / phi; psi is log(df), or logit(p - 1) of Tweedie.
    sign = -1.0 if record["family"] == "Gamma" else 1.0
    further = dict.fromkeys(("psi", "betazi"), ()) | {
        name: [
            value for value, of in zip(point["par"], point["par_names"], strict=True) if of == name
        ]
        for name in ("psi", "betazi")
        if "par" in point
    }
    dispersion = sign * np.asarray(point.get("betad", ()), dtype=np.float64)
    return np.concatenate([dispersion, further["psi"], further["betazi"]])


def _point(point: dict[str, Any], record: dict[str, Any]) -> Point:
    sigma = None
    if record["family"] == "gaussian":
        # glmmTMB's betad is the log of the residual variance.
        variance = np.exp(point["betad"][0]) if "betad" in point else point["dispersion"]
        sigma = float(np.sqrt(variance))
    if "minus_logLik" in point:
        deviance = 2.0 * point["minus_logLik"]
    elif _other_objective(record):
        deviance = None
    elif record["nAGQ"] > 1:
        # lme4 leaves the saturated log-likelihood out here, and only here.
        deviance = point["deviance"] - 2.0 * record["saturated_logLik"]
    else:
        deviance = point["deviance"]
    return Point(
        beta=_array(point.get("beta")),
        theta=point.get("theta_scale", 1.0) * np.asarray(point["theta"], dtype=np.float64),
        sigma=sigma,
        others=_others(point, record),
        deviance=deviance,
        laplace_expected=point.get("laplace_expected"),
        laplace_observed=point.get("laplace_observed"),
        exact=point.get("exact"),
    )
