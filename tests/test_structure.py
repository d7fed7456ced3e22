"""The order of elimination, the pattern it rests on, and padding, against brute force."""

from __future__ import annotations

import itertools

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from designs import STRUCTURES, Design

from glmm_jax import structure
from glmm_jax.build import bucket, place
from glmm_jax.covariance import Full
from glmm_jax.model import Model, flatten, lambdas, unflatten
from glmm_jax.objective.marginal import deviance
from glmm_jax.structure import Structure


def random_factors(seed: int) -> tuple[tuple[np.ndarray, ...], tuple[int, ...], tuple[int, ...]]:
    """Two to four factors over 40 rows, each new one free, or nested with an earlier one."""
    rng = np.random.default_rng(seed)
    n, index = 40, []
    for _ in range(rng.integers(2, 5)):
        kind = rng.integers(3)
        if not index or kind == 0:
            codes = rng.integers(rng.integers(2, 14), size=n)
        elif kind == 1:  # a factor within an earlier one
            codes = index[rng.integers(len(index))] * 4 + rng.integers(3, size=n)
        else:  # a factor that groups the levels of an earlier one
            inner = index[rng.integers(len(index))]
            codes = rng.integers(3, size=inner.max() + 1)[inner]
        index.append(np.unique(codes, return_inverse=True)[1])
    levels = tuple(int(codes.max()) + 1 for codes in index)
    columns = tuple(int(k) for k in rng.integers(1, 4, size=len(index)))
    return tuple(index), levels, columns


def level_graph(index: tuple[np.ndarray, ...], levels: tuple[int, ...]) -> np.ndarray:
    """Which levels (of all factors) share an observation: the pattern of H by levels."""
    indicator = np.concatenate(
        [np.equal.outer(codes, np.arange(size)) for codes, size in zip(index, levels, strict=True)],
        axis=1,
    )
    return indicator.T.astype(int) @ indicator.astype(int) > 0


def is_diagonal(block: np.ndarray) -> bool:
    return not np.any(block & ~np.eye(len(block), dtype=bool))


def eliminate(graph: np.ndarray, place: slice) -> np.ndarray:
    """The graph after Gaussian elimination of some levels: their neighbours become adjacent."""
    across = graph[place]
    graph = graph | (across.T.astype(int) @ across.astype(int) > 0)
    graph[place], graph[:, place] = False, False
    return graph


@pytest.mark.parametrize("seed", range(60))
def test_every_eliminated_factor_is_block_diagonal_and_no_other_could_be(seed: int) -> None:
    index, levels, columns = random_factors(seed)
    order, eliminated = structure.elimination_order(index, levels, columns)
    assert sorted(order) == list(range(len(levels))) and eliminated >= 1
    sizes = [a * b for a, b in zip(levels, columns, strict=True)]
    graph, ends = level_graph(index, levels), np.cumsum([0, *levels])
    places = [slice(a, b) for a, b in itertools.pairwise(ends)]
    for step in range(eliminated):
        able = [f for f in order[step:] if is_diagonal(graph[places[f], places[f]])]
        assert order[step] == min(able, key=lambda f: (-sizes[f], f))  # the largest that can be
        graph = eliminate(graph, places[order[step]])
    assert not any(is_diagonal(graph[places[f], places[f]]) for f in order[eliminated:])


@pytest.mark.parametrize("seed", range(20))
def test_meets_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left = rng.integers(8, size=12)
    right = left // 3 if seed % 2 else rng.integers(4, size=12)
    single = all(len(set(right[left == level])) == 1 for level in left)
    assert structure.meets_one(left, right, 8) == single
    if seed % 2:
        assert single


def ordered(
    seed: int, pad=structure.identity
) -> tuple[Structure, tuple[np.ndarray, ...], tuple[int, ...]]:
    index, levels, columns = random_factors(seed)
    order, eliminated = structure.elimination_order(index, levels, columns)
    index = tuple(index[f] for f in order)
    levels = tuple(levels[f] for f in order)
    built = structure.build(index, levels, tuple(columns[f] for f in order), eliminated, pad)
    return built, index, levels


@pytest.mark.parametrize("pad", [structure.identity, bucket])
@pytest.mark.parametrize("seed", range(12))
def test_the_pattern_covers_every_row(seed: int, pad) -> None:
    built, index, levels = ordered(seed, pad)
    E, F = built.eliminated, len(levels)
    assert set(built.edge_of_row) == {f"{f},{g}" for f in range(E) for g in range(f + 1, F)}
    for f in range(F):
        np.testing.assert_array_equal(built.index[f], index[f])
    for name, edge in built.edge_of_row.items():
        f, g = map(int, name.split(","))
        left, right = np.asarray(built.edge_left[name]), np.asarray(built.edge_right[name])
        np.testing.assert_array_equal(left[edge], index[f])
        np.testing.assert_array_equal(right[edge], index[g])
        assert left.min() >= 0 and left.max() < levels[f]
        assert right.min() >= 0 and right.max() < levels[g]
        # Couplings in use are distinct; under padding the last belongs to no row.
        used = np.unique(np.asarray(edge))
        assert len({(left[e], right[e]) for e in used}) == len(used)
        if pad is bucket:
            assert len(left) > len(used) and len(left) - 1 not in used


@pytest.mark.parametrize("pad", [structure.identity, bucket])
@pytest.mark.parametrize("seed", range(12))
def test_fill_and_pairs_list_every_product_once(
    seed: int, pad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What eliminating a level adds to the couplings of its neighbours, term for term."""
    monkeypatch.setattr(structure, "SCATTER_COST", 0)
    built, _, levels = ordered(seed, pad)
    E, F = built.eliminated, len(levels)
    met = {
        name: {
            (int(built.edge_left[name][e]), int(built.edge_right[name][e])) for e in np.unique(edge)
        }
        for name, edge in built.edge_of_row.items()
    }
    wanted_fill = {
        f"{f},{g},{h}" for f in range(E) for g in range(f + 1, E) for h in range(g + 1, F)
    }
    assert set(built.fill) == wanted_fill
    assert set(built.pairs) == {
        f"{f},{g},{h}" for f in range(E) for g in range(E, F) for h in range(g, F)
    }
    for kind, lists in (("fill", built.fill), ("pairs", built.pairs)):
        for name, triples in lists.items():
            f, g, h = name.split(",")
            fg, fh = f"{f},{g}", f"{f},{h}"
            found = []
            for first, second, target in np.asarray(triples).T:
                a = int(built.edge_left[fg][first]), int(built.edge_right[fg][first])
                b = int(built.edge_left[fh][second]), int(built.edge_right[fh][second])
                padding = first == len(np.unique(built.edge_of_row[fg]))
                if padding:
                    continue
                assert a[0] == b[0]
                if kind == "fill":
                    gh = f"{g},{h}"
                    into = int(built.edge_left[gh][target]), int(built.edge_right[gh][target])
                else:
                    into = divmod(int(target), levels[int(h)])
                assert into == (a[1], b[1])
                found.append((a, b[1]))
            wanted = [
                (a, b[1])
                for a in met[fg]
                for b in met[fh]
                if a[0] == b[0] and (g != h or a[1] >= b[1])  # the lower triangle of S
            ]
            assert sorted(found) == sorted(wanted)


def test_the_cheaper_way_to_the_remainder_is_chosen() -> None:
    """A product of 60 x 40 by 40 costs 96,000; 240 pairs at 150 each cost 36,000."""
    rng = np.random.default_rng(0)
    few = np.repeat(np.arange(60), 2), rng.permutation(np.arange(120) % 40)
    assert set(structure.build(few, (60, 40), (1, 1), 1).pairs) == {"0,1,1"}
    many = np.repeat(np.arange(6), 20), np.arange(120) % 5
    assert not structure.build(many, (6, 5), (1, 1), 1).pairs


# Factors in order of elimination, how many of them are eliminated, factors in order of theta.
ORDERS = {
    "scalar": ("g", 1, "g"),
    "slope": ("g", 1, "g"),
    "slopes": ("g", 1, "g"),
    "two_terms": ("g", 1, "g g"),
    "diagonal_and_full": ("g h", 1, "g g h"),
    "nested": ("b:a a", 2, "b:a a"),
    "nested_three": ("a:b:c a:b a", 3, "a:b:c a:b a"),
    "crossed": ("g h", 1, "g h"),
    "crossed_slopes": ("g h", 1, "g h"),
    # By number of random effects, 6 * 2 against 9; theta by number of levels.
    "crossed_three": ("h g k", 1, "g h k"),
    # a after b:a before the larger h: each level of b:a meets one of a, so a stays diagonal.
    "nested_and_crossed": ("b:a a h", 2, "b:a h a"),
    "nested_and_crossed_twice": ("b:a a h k", 2, "b:a h k a"),
    "five_columns": ("g", 1, "g"),
}


def test_every_structure_is_here() -> None:
    assert set(ORDERS) == set(STRUCTURES)


@pytest.mark.parametrize("name", ORDERS)
def test_factors_in_order_of_elimination_and_theta_in_lme4s(name: str) -> None:
    order, eliminated, in_theta = ORDERS[name]
    case = Design(name)
    frame = designs.frame(case)
    model, placement = place(frame, case.distribution)
    assert " ".join(block.grouping for block in frame.blocks) == in_theta
    assert model.structure.eliminated == eliminated
    assert placement.n == model.n and placement.levels == model.structure.levels
    start = 0
    for block, factor, column in zip(frame.blocks, placement.factor, placement.column, strict=True):
        assert order.split()[factor] == block.grouping
        assert model.structure.levels[factor] == len(block.levels)
        np.testing.assert_array_equal(model.structure.index[factor], block.index)
        k = block.Z.shape[1]
        np.testing.assert_array_equal(model.Z[factor][:, column : column + k], block.Z)
        (term,) = (t for t in model.terms[factor] if t.start == start)
        assert term.covariance == Full(k)
        start = term.stop
    assert start == model.m


def test_theta_is_the_lower_triangle_by_column_term_after_term() -> None:
    # In theta: b:a (one column), h (two), a (one); in order of elimination b:a, a, h.
    inner, outer, crossed = lambdas(
        jnp.arange(1.0, 6.0), designs.model(Design("nested_and_crossed"))
    )
    np.testing.assert_array_equal(inner, [[1]])
    np.testing.assert_array_equal(outer, [[5]])
    np.testing.assert_array_equal(crossed, [[2, 0], [3, 4]])
    (full,) = lambdas(jnp.arange(1.0, 7.0), designs.model(Design("slopes")))
    np.testing.assert_array_equal(full, [[1, 0, 0], [2, 4, 0], [3, 5, 6]])
    (two,) = lambdas(jnp.arange(1.0, 3.0), designs.model(Design("two_terms")))
    np.testing.assert_array_equal(two, [[1, 0], [0, 2]])


def test_buckets() -> None:
    sizes = [*range(1, 3000), 99_999, 100_001, 123_457, 1_234_567]
    padded = [bucket(size) for size in sizes]
    assert all(b >= s for b, s in zip(padded, sizes, strict=True))
    assert all(b <= max(8, 1.25 * s + 1) for b, s in zip(padded, sizes, strict=True))
    assert padded[:2999] == sorted(padded[:2999])
    assert all(bucket(b) == b for b in padded)  # data of a padded size need no more
    assert len(set(padded[:2999])) < 45


# With the cost that decides how the remainder is accumulated: no remainder, pairs, product.
PADDED = [
    (Design("scalar"), 0.0),
    (Design("crossed", "gaussian", "identity", weights=True), 0.0),
    (Design("nested_and_crossed", "binomial", "logit", offset=True, weights=True), np.inf),
]


@jax.jit
def value_and_gradient(x: jax.Array, model: Model) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(lambda x: deviance(unflatten(x, model), model))(x)


@pytest.mark.parametrize(("case", "scatter_cost"), PADDED, ids=str)
def test_padding_changes_nothing(
    case: Design, scatter_cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "SCATTER_COST", scatter_cost)
    plain, padded = designs.model(case), designs.model(case, padded=True)
    assert bool(padded.structure.pairs) == (scatter_cost == 0 and bool(plain.structure.rest))
    assert padded.n > plain.n and padded.q > plain.q
    x = flatten(designs.params(case))
    value, gradient = value_and_gradient(x, plain)
    with_padding, gradient_with_padding = value_and_gradient(x, padded)
    assert np.isfinite(value) and np.all(np.abs(gradient) > 1e-6)
    np.testing.assert_allclose(with_padding, value, rtol=1e-12)
    np.testing.assert_allclose(
        gradient_with_padding, gradient, rtol=1e-12, atol=1e-12 * np.abs(gradient).max()
    )
