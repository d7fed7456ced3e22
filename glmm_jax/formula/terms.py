"""What a model formula says, as plain frozen data: the parser writes it, the frame reads it."""

from __future__ import annotations

from dataclasses import dataclass

# Covariance structures that a random term can name, `ar1(0 + week | g)`; "us", unstructured, is
# that of a term which names none.
STRUCTURES = ("us", "diag", "cs", "ar1")


@dataclass(frozen=True)
class RandomTerm:
    """One random-effects term after the expansion of `/` and `||`: one covariance block.

    Attributes:
        expression: the left side of the bar as normalised text, for example `"1 + urban"`.
        grouping: expressions whose interaction is the grouping factor: `("district",)`, or
            `("urban", "district")` for `urban:district`; the first one varies slowest.
        diagonal: True when the term was written with `||`. It is information only, since such a
            term has been split already: `(x || g)` gives `1` and `0 + x`, as in lme4.
        structure: of its covariance, one of `STRUCTURES`.
    """

    expression: str
    grouping: tuple[str, ...]
    diagonal: bool = False
    structure: str = "us"

    @property
    def group_name(self) -> str:
        """Name of the grouping factor as lme4 prints it: `"district"`, `"urban:district"`."""
        return ":".join(self.grouping)


@dataclass(frozen=True)
class Formula:
    """A mixed-model formula taken apart. Every part is normalised text that parses again.

    Attributes:
        text: the formula as the caller wrote it.
        response: left side, for example `"use"` or `"cbind(incidence, size - incidence)"`.
        fixed: fixed part without random terms and offsets; `"1"` when nothing else is left.
        random: random terms in the order of the formula, `/` and `||` expanded.
        offsets: the arguments of every `offset(...)`.
        successes: first argument of `cbind(...)`, None for any other response.
        failures: second argument of `cbind(...)`, None for any other response.
    """

    text: str
    response: str
    fixed: str
    random: tuple[RandomTerm, ...]
    offsets: tuple[str, ...] = ()
    successes: str | None = None
    failures: str | None = None
