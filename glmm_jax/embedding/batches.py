"""Mini-batches of whole groups, of one shape, with an unbiased loss.

Given the parameters the groups of the outermost factor are independent, so -log p(y) is a sum over
its L levels. Of B levels drawn without replacement the sum times L / B has that as its expectation,
and so has its gradient. No row of a group may be left out: the integral over its random effects is
over all of its rows together. Where factors are crossed there are no independent groups to draw.

Every batch has R rows, as many as the B largest groups have together, and likewise S_f levels of
each factor f nested in the outermost: rows beyond those of the groups drawn are copies with weight
zero, levels beyond them have no rows. So one compiled program serves all batches, and drawing one
is a pure function of the levels drawn, for use inside `jit` and `scan`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax.model import Model, Params, pseudo_rows
from glmm_jax.structure import Structure


@partial(jax.tree_util.register_dataclass, data_fields=["model", "rows"], meta_fields=["scale"])
@dataclass(frozen=True)
class Batch:
    """Some groups of a model.

    model : their rows, and padding of weight zero. rows (R,) : which row of the whole model each
    is, to take features from. scale : L / B, by which `marginal_nll` multiplies.
    """

    model: Model
    rows: jax.Array
    scale: float


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["order", "first", "count"],
    meta_fields=["most"],
)
@dataclass(frozen=True)
class _Sorted:
    """Things (rows, or levels of an inner factor) sorted by the outermost level they belong to.

    order : the things. first, count (L,) : where those of each outermost level begin, and how many
    there are. most : how many B levels have at most.
    """

    order: jax.Array
    first: jax.Array
    count: jax.Array
    most: int

    @staticmethod
    def of(outer: np.ndarray, levels: int, groups: int) -> _Sorted:
        """From the outermost level of each thing; `levels` for things that belong to none."""
        count = np.bincount(outer, minlength=levels + 1)[:levels]
        first = np.cumsum(count) - count
        order = np.argsort(outer, kind="stable")
        most = int(np.sort(count)[-groups:].sum())
        return _Sorted(_integers(order), _integers(first), _integers(count), most)

    def slots(self, groups: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What fills the places 0 ... most - 1 of a batch: the thing of each, the position in
        `groups` of its level, and whether the place is filled. Others repeat the first place."""
        ends = jnp.cumsum(self.count[groups])
        place = jnp.arange(self.most, dtype=jnp.int32)
        filled = place < ends[-1]
        place = jnp.where(filled, place, 0)
        drawn = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(groups) - 1)
        within = place - (ends - self.count[groups])[drawn]
        things = self.order[jnp.minimum(self.first[groups[drawn]] + within, self.order.size - 1)]
        return things, drawn.astype(jnp.int32), filled


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "by_group", "inner", "position", "parents"],
    meta_fields=["groups"],
)
@dataclass(frozen=True)
class GroupBatches:
    """A model prepared for batches of whole groups, see `group_batches`.

    by_group : its rows, sorted by group. inner, position : of each inner factor its levels, sorted
    by group, and the position of each in that order. parents : "f,g" -> (levels of f,), the level
    of factor g in which each is nested.
    """

    model: Model
    by_group: _Sorted
    inner: tuple[_Sorted, ...]
    position: tuple[jax.Array, ...]
    parents: dict[str, jax.Array]
    groups: int

    @property
    def levels(self) -> int:
        """Number L of groups."""
        return self.model.structure.levels[-1]

    def epoch(self, key: jax.Array) -> jax.Array:
        """Groups of the batches of one pass, (L // B, B), in random order.

        Each row of it is a simple random sample of B groups; L mod B groups sit out.
        """
        order = jax.random.permutation(key, self.levels)
        count = self.levels // self.groups
        return order[: count * self.groups].reshape(count, self.groups)

    def take(self, groups: jax.Array) -> Batch:
        """The batch of the given groups, (B,) different integers in 0 ... L - 1.

        Raises
        ------
        ValueError : `groups` is not (B,) integers.
        """
        groups = jnp.asarray(groups)
        if groups.shape != (self.groups,) or not jnp.issubdtype(groups.dtype, jnp.integer):
            raise ValueError(
                f"groups is {groups.dtype} of shape {groups.shape}; these batches take "
                f"({self.groups},) integers, the groups to draw"
            )
        model = self.model
        rows, drawn, filled = self.by_group.slots(groups)
        structure = self._structure(groups, rows, drawn)
        copies = model.structure.index[0].shape[0] // model.n
        # Pseudo-row s n + i belongs to row i.
        every = jnp.concatenate([rows + s * model.n for s in range(copies)])

        def own(array: Any) -> Any:
            return None if array is None else array[rows]

        scale = self.levels / self.groups
        small = replace(
            model,
            y=own(model.y),
            X=own(model.X),
            Z=tuple(z[every] for z in model.Z),
            offset=own(model.offset),
            weights=jnp.where(filled, own(model.weights), 0.0),
            size=own(model.size),
            structure=structure,
            dispersion_X=tuple(own(matrix) for matrix in model.dispersion_X),
            priors=tuple(_Share(prior, 1.0 / scale) for prior in model.priors),
        )
        return Batch(small, rows, scale)

    def _structure(self, groups: jax.Array, rows: jax.Array, drawn: jax.Array) -> Structure:
        """The pattern of a batch: a place for each level, a coupling for each level and factor."""
        whole = self.model.structure
        outer = len(self.inner)
        copies = whole.index[0].shape[0] // self.model.n
        begins = [
            jnp.cumsum(one.count[groups]) - one.count[groups] - one.first[groups]
            for one in self.inner
        ]

        def place(f: int, level: jax.Array, group: jax.Array) -> jax.Array:
            """Where levels of an inner factor, of the groups drawn, stand in the batch."""
            return (begins[f][group] + self.position[f][level]).astype(jnp.int32)

        index = [place(f, whole.index[f][rows], drawn) for f in range(outer)] + [drawn]
        index = [jnp.tile(i, copies) for i in index]
        of_row, left, right, fill = {}, {}, {}, {}
        for f, one in enumerate(self.inner):
            level, group, _ = one.slots(groups)
            own = jnp.arange(one.most, dtype=jnp.int32)
            for g in range(f + 1, outer + 1):
                name = f"{f},{g}"
                of_row[name], left[name] = index[f], own
                right[name] = group if g == outer else place(g, self.parents[name][level], group)
                for h in range(g + 1, outer + 1):
                    fill[f"{f},{g},{h}"] = jnp.stack([own, own, right[name]])
        return replace(
            whole,
            index=tuple(index),
            edge_of_row=of_row,
            edge_left=left,
            edge_right=right,
            fill=fill,
            levels=(*(one.most for one in self.inner), self.groups),
        )


@partial(jax.tree_util.register_dataclass, data_fields=["prior"], meta_fields=["part"])
@dataclass(frozen=True)
class _Share:
    """The part of a penalty that a batch carries: its scale makes it whole again."""

    prior: Any
    part: float

    def __call__(self, params: Params, model: Model) -> jax.Array:
        return self.part * self.prior(params, model)


def group_batches(model: Model, groups: int) -> GroupBatches:
    """Mini-batches of whole groups of a model, with an unbiased loss.

        batches = group_batches(model, 16)
        for groups in batches.epoch(key):            # each (16,)
            batch = batches.take(groups)
            ... marginal_nll(batch)(params, offset=network(x[batch.rows])) ...

    A pure function of arrays from `take` on: give `batches` to a jitted step, or scan over an
    epoch. Penalties of the model count whole in every batch. A prior that is a function of the
    model's arrays sees those of the batch.

    Parameters
    ----------
    model : of one grouping factor, or of factors nested in one another; batches are then of the
        outermost.
    groups : B, levels of that factor in a batch.

    Raises
    ------
    ValueError : crossed factors or related levels, or `groups` not in 1 ... L.
    """
    structure = model.structure
    if structure.roots:
        raise ValueError(
            "model: levels of a grouping factor are related by relationship=, so no group is "
            "independent of the others and no batch of groups has an unbiased loss; use all rows"
        )
    if structure.eliminated < len(structure.levels):
        raise ValueError(
            f"model: its grouping factors (levels: {', '.join(map(str, structure.levels))}) are "
            "crossed, so the likelihood is no sum over groups and no batch of groups has an "
            "unbiased loss; use marginal_nll with all rows, or a model of one factor or of nested "
            "factors"
        )
    levels = structure.levels[-1]
    whole = isinstance(groups, int | np.integer) and not isinstance(groups, bool)
    if not whole or not 1 <= groups <= levels:
        raise ValueError(
            f"groups={groups!r}; give an integer from 1 to {levels}, the number of groups"
        )
    groups = int(groups)
    index = [np.asarray(one) for one in structure.index]
    outer = len(index) - 1
    inner, position, parents = [], [], {}
    for f in range(outer):
        for g in range(f + 1, outer + 1):
            # A level without rows belongs to no level of g: one beyond the last.
            parent = np.full(structure.levels[f], structure.levels[g])
            parent[index[f]] = index[g]
            parents[f"{f},{g}"] = parent
        one = _Sorted.of(parents[f"{f},{outer}"], levels, groups)
        inner.append(one)
        position.append(_integers(np.argsort(np.asarray(one.order))))
    assert index[-1].shape[0] == model.n * len(pseudo_rows(1 + len(model.random_parameters)))
    return GroupBatches(
        model=model,
        by_group=_Sorted.of(index[-1][: model.n], levels, groups),
        inner=tuple(inner),
        position=tuple(position),
        parents={name: _integers(parent) for name, parent in parents.items()},
        groups=groups,
    )


def _integers(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.astype(np.int32))
