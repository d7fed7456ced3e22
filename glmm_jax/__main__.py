"""`python -m glmm_jax`: the six Contraception models; `python -m glmm_jax fit`: one's own data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from glmm_jax import datasets
from glmm_jax.glmer import glmer
from glmm_jax.inference.anova import anova
from glmm_jax.model import CURVATURES
from glmm_jax.results import Fit

MODELS = {
    "cm1": "use ~ age + I(age^2) + urban + livch + (1 | district)",
    "cm2": "use ~ age + I(age^2) + urban + ch + (1 | district)",
    "cm3": "use ~ age*ch + I(age^2) + urban + (1 | district)",
    "cm4": "use ~ age*ch + I(age^2) + urban + (urban | district)",
    "cm5": "use ~ age*ch + I(age^2) + urban + (1 | urban:district) + (1 | district)",
    "cm6": "use ~ age*ch + I(age^2) + urban + (1 | urban:district)",
}
COMPARISONS = (("cm2", "cm1"), ("cm4", "cm3"), ("cm6", "cm5", "cm4"))
# Log-likelihoods printed in Bates (2011), where the search of that time ended.
PRINTED_2011 = {
    "cm1": -1186.387,
    "cm2": -1186.615,
    "cm3": -1182.613,
    "cm4": -1176.818,
    "cm5": -1177.838,
    "cm6": -1177.285,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 for a fault in what was given."""
    options = _parser().parse_args(arguments)
    if options.command is None:
        demonstrate()
        return 0
    try:
        print(fit_file(options).summary(correlation=options.correlation))
    except (ValueError, OSError) as fault:
        print(f"glmm_jax: {' '.join(str(fault).split())}", file=sys.stderr)
        return 2
    return 0


def demonstrate() -> None:
    """Fit and compare the models of Bates (2011) for the Contraception data."""
    print(datasets.describe("contraception"), end="\n\n")
    data = datasets.load("contraception")
    fits: dict[str, Fit] = {}
    for name, formula in MODELS.items():
        fits[name] = glmer(formula, data, family="bernoulli")
        print(f"{name}\n{'=' * len(name)}\n{fits[name].summary()}\n")
    for names in COMPARISONS:
        print(f"{anova(*(fits[name] for name in names), names=names)}\n")
    print(
        "Log-likelihoods: the maxima above, and as printed in Bates (2011), Mixed models in R\n"
        "using the lme4 package, Part 5. The search of 2011 stopped short of the maximum, so\n"
        "estimates differ from the printed ones in the second or third digit."
    )
    for name, printed in PRINTED_2011.items():
        print(f"  {name}  {fits[name].llf:.4f}  2011: {printed:.3f}")


def fit_file(options: argparse.Namespace) -> Fit:
    """Fit the model of the command line to its CSV file.

    Raises:
        ValueError: anything wrong with the file's content or an option.
        OSError: the file cannot be read.
    """
    path = Path(options.data)
    if not path.is_file():
        raise ValueError(f"data: there is no file {str(path)!r}")
    try:
        data = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as fault:
        raise ValueError(
            f"data: {str(path)!r} is no table of comma-separated values: {fault}"
        ) from fault
    return glmer(
        options.formula,
        data,
        options.family,
        options.link,
        weights=options.weights,
        offset=options.offset,
        trials=options.trials,
        nagq=options.nagq,
        reml=options.reml,
        curvature=options.curvature,
        na_action=options.na_action,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m glmm_jax",
        description="Generalized linear mixed models by maximum likelihood. Without a command: fit "
        "and compare six models of contraceptive use in Bangladesh (Bates 2011).",
    )
    commands = parser.add_subparsers(dest="command", title="commands")
    fit = commands.add_parser(
        "fit",
        help="fit a model to a CSV file and print its summary",
        description="Fit a model to a CSV file and print its summary. Columns of text are factors, "
        "their levels in alphabetical order, the first one the reference.",
        epilog='Example: python -m glmm_jax fit "use ~ age + urban + (1 | district)" data.csv '
        "--family bernoulli",
    )
    fit.add_argument("formula", help='as in lme4, quoted: "y ~ x + (1 | group)"')
    fit.add_argument("data", help="CSV file with a header line")
    fit.add_argument(
        "--family",
        default="gaussian",
        help="bernoulli, binomial, poisson, negative_binomial ... (default: gaussian)",
    )
    fit.add_argument("--link", help="link function (default: the family's own)")
    fit.add_argument("--weights", metavar="COLUMN", help="prior weights")
    fit.add_argument("--offset", metavar="COLUMN", help="added to the linear predictor")
    fit.add_argument(
        "--trials", metavar="COLUMN", help="trials, where the response is a proportion or a count"
    )
    fit.add_argument(
        "--nagq",
        type=int,
        default=1,
        help="1: Laplace approximation (default); more: nodes of adaptive quadrature in each "
        "dimension; 0: faster, biased",
    )
    fit.add_argument("--reml", action="store_true", help="restricted maximum likelihood")
    fit.add_argument(
        "--curvature",
        choices=CURVATURES,
        help="information in the Laplace approximation: expected (lme4; the default where the "
        "family knows it) or observed (TMB)",
    )
    fit.add_argument(
        "--na-action",
        choices=("drop", "raise"),
        default="drop",
        help="what to do with rows that have missing values (default: drop)",
    )
    fit.add_argument(
        "--correlation", action="store_true", help="print the correlation of the fixed effects too"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
