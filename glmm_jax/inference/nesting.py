"""Whether every distribution of the data that one model allows, another one allows too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from glmm_jax.build import kind_of
from glmm_jax.covariance import Structured, structured_factor
from glmm_jax.formula.frame import Frame, RandomBlock
from glmm_jax.formula.rank import TOLERANCE, independent_columns


class Verdict(Enum):
    """INSIDE and OUTSIDE are certain; UNDECIDED means that no rule here applies."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Nesting:
    """How a smaller model lies to a larger one.

    fixed, random : verdicts on the two parts. zero : with a random part inside, how many variances
    of the larger model are zero in the smaller one, so that the smaller lies on the boundary of the
    larger; None where that is not known.
    """

    fixed: Verdict
    random: Verdict
    zero: int | None


def nesting(small: Frame, large: Frame) -> Nesting:
    """Whether the model of one frame lies inside that of another with the same rows.

    Fixed part: X_s beta + offset_s is in X_l beta + offset_l. Random part: every covariance
    Sum_t Z_t (I x V_t) Z_t' of the smaller model, V_t positive semidefinite, is one of the larger.
    """
    extra = np.column_stack([small.X, small.offset - large.offset])
    fixed = Verdict.INSIDE if spanned(extra, large.X) else Verdict.OUTSIDE
    small_blocks, large_blocks = _separate(small.blocks), _separate(large.blocks)
    zero = _random_inside(small_blocks, large_blocks)
    if zero is not None:
        return Nesting(fixed, Verdict.INSIDE, zero)
    outside = any(
        _covariance_outside(
            *(tuple(b for b in blocks if b.part == part) for blocks in (small_blocks, large_blocks))
        )
        for part in small.parts
    )
    return Nesting(fixed, Verdict.OUTSIDE if outside else Verdict.UNDECIDED, None)


def _separate(blocks: tuple[RandomBlock, ...]) -> tuple[RandomBlock, ...]:
    """The blocks with a block for each column of those whose columns are independent."""
    out: list[RandomBlock] = []
    for block in blocks:
        if block.structure != "diag":
            out.append(block)
            continue
        for j, name in enumerate(block.names):
            Z = block.Z[:, j : j + 1]
            out.append(replace(block, names=(name,), Z=Z, structure="us"))
    return tuple(out)


def _unit(columns: np.ndarray) -> np.ndarray:
    """Columns divided by their lengths; columns of zeros stay."""
    length = np.linalg.norm(columns, axis=0)
    return columns / np.where(length > 0, length, 1.0)


def spanned(columns: np.ndarray, by: np.ndarray) -> bool:
    """Whether every column is a linear combination of the columns of `by`."""
    by = _unit(by)
    rest, Q = _unit(columns), np.linalg.qr(by[:, independent_columns(by)])[0]
    for _ in range(2):  # once would leave rounding
        rest = rest - Q @ (Q.T @ rest)
    return bool(np.all(np.linalg.norm(rest, axis=0) <= TOLERANCE))


def _random_inside(small: tuple[RandomBlock, ...], large: tuple[RandomBlock, ...]) -> int | None:
    """The larger model's variances that are zero in the smaller one; None if no rule applies.

    A term of the smaller model is inside one of the larger if its effects, as columns W with one
    coefficient vector per level of the larger term's factor, are W = Z_l A with one A for all
    levels: its covariance is then that of the larger term with V_l = A V A'. W are the columns Z_s
    themselves where the factors agree. Where the smaller term's factor is finer, W repeats them
    for each class of rows that it tells apart inside a level: with a factor u of two levels,
    (1 | u:g) is inside (u | g), for its indicators of u are combinations of the columns of u.

    That holds for a larger term without structure, whatever that of the smaller. A larger term with
    one correlation is only known to hold the same term. Terms of related levels are compared with
    terms of the same factor and matrix.
    """
    reached: list[list[np.ndarray]] = [[] for _ in large]
    for block in small:
        for same in (True, False):
            found = next(
                (
                    (t, A)
                    for t, candidate in enumerate(large)
                    if (A := _map(block, candidate, same)) is not None
                ),
                None,
            )
            if found is not None:
                break
        if found is None:
            return None
        t, A = found
        reached[t].append(_unit(A))
    zero = 0
    for block, maps in zip(large, reached, strict=True):
        rank = np.linalg.matrix_rank(np.hstack(maps), tol=1e-6) if maps else 0
        zero += block.Z.shape[1] - int(rank)
    return zero


def _map(small: RandomBlock, large: RandomBlock, same: bool) -> np.ndarray | None:
    """A with W = Z_l A, (k_l, columns of W), or None; `same` asks for the same grouping.

    The columns of Z_l are scaled to length one. A term of another part of the model is none.
    """
    if small.part != large.part:
        return None
    related = small.relationship is not None or large.relationship is not None
    if related and not (small.relationship and small.relationship.same(large.relationship)):
        return None
    if related and not (same and np.array_equal(small.index, large.index)):
        return None
    if large.structure != "us":
        equal = small.structure == large.structure and same
        if not equal or not np.array_equal(small.index, large.index):
            return None
        if not np.array_equal(small.Z, large.Z):
            return None
        return np.diag(np.linalg.norm(large.Z, axis=0))
    pairs = np.unique(np.column_stack([large.index, small.index]), axis=0)
    if len(pairs) > len(small.levels):
        return None  # not even finer
    if same:
        if len(pairs) > len(large.levels):
            return None
        W = small.Z
    else:
        classes = _classes(small.index, large.index, large.Z)
        if classes is None:
            return None
        W = (np.eye(classes.max() + 1)[classes][:, :, None] * small.Z[:, None, :]).reshape(
            len(small.Z), -1
        )
    if not spanned(W, large.Z):
        return None
    return np.linalg.lstsq(_unit(large.Z), W, rcond=None)[0]


def _classes(fine: np.ndarray, coarse: np.ndarray, Z: np.ndarray) -> np.ndarray | None:
    """Classes of rows, (n,), such that (coarse level, class) tells apart what `fine` does.

    A class is the rows with the same values in those columns of Z that are constant in each level
    of `fine`. None where there are more classes than columns (their indicators cannot be
    combinations of these), or where they do not give back the levels.
    """
    _, one, level = np.unique(fine, return_index=True, return_inverse=True)
    constant = Z[:, np.all(Z == Z[one][level.ravel()], axis=0)]
    if not constant.shape[1]:
        return None
    _, classes = np.unique(constant, axis=0, return_inverse=True)
    classes = classes.ravel()
    if classes.max() >= Z.shape[1]:
        return None
    cells = np.unique(np.column_stack([coarse, classes, fine]), axis=0)
    both = np.unique(cells[:, :2], axis=0)
    return classes if len(cells) == len(both) == len(one) else None


def _covariance_outside(small: tuple[RandomBlock, ...], large: tuple[RandomBlock, ...]) -> bool:
    """Whether the smaller model has a covariance that is no linear combination of the larger's.

    Both for one part of the model.
    Sum_t z_ti' V_t z_tj over the terms in which rows i and j share a level is linear in the
    elements of the V_t. One random choice of the smaller model's V_t tells, with probability one;
    a sample of pairs of rows can only miss a difference, not make one up.
    """
    if any(block.relationship is not None for block in (*small, *large)):
        return False  # rows that share no level are correlated too
    if not large:  # a part of the model without random effects
        return True
    rng = np.random.default_rng(1)
    i, j = _pairs([block.index for block in (*small, *large)], rng)
    target = np.zeros(len(i))
    for block in small:
        # Scaled so that no term hides another.
        z = _unit(block.Z) @ rng.standard_normal((block.Z.shape[1],) * 2)
        if block.structure != "us":
            kind = kind_of(block)
            assert isinstance(kind, Structured)
            theta = rng.uniform(0.5, 1.0, kind.size)
            z = block.Z / np.linalg.norm(block.Z) @ structured_factor(kind, theta)
        target += np.where(block.index[i] == block.index[j], np.sum(z[i] * z[j], axis=1), 0.0)
    basis = []
    for block in large:
        z, same = _unit(block.Z), block.index[i] == block.index[j]
        for a, b in zip(*np.tril_indices(z.shape[1]), strict=True):
            basis.append(np.where(same, z[i, a] * z[j, b] + z[i, b] * z[j, a], 0.0))
    return not spanned(target[:, None], np.column_stack(basis))


def _pairs(
    indices: list[np.ndarray], rng: np.random.Generator, most: int = 20_000
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that share a level of some grouping factor, a row with itself included."""
    n = len(indices[0])
    first, second = [rng.permutation(n)[:most]], []
    second.append(first[0])
    for index in indices:
        # Rows in random order, sorted by level: neighbours are random pairs within a level.
        order = rng.permutation(n)
        order = order[np.argsort(index[order], kind="stable")]
        together = np.flatnonzero(index[order[:-1]] == index[order[1:]])
        chosen = rng.permutation(together)[:most]
        first.append(order[chosen])
        second.append(order[chosen + 1])
    return np.concatenate(first), np.concatenate(second)
