"""What only some lanes need: computed if any does, and no lane sees another's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax.optimize.needed import anywhere, needed


def choice(wanted: jax.Array, x: jax.Array) -> jax.Array:
    return needed(wanted, lambda: jnp.log(x), -x)


def test_a_lane_gets_what_it_wants_whatever_the_others_do() -> None:
    x = jnp.asarray([1.0, -2.0, 3.0, 4.0])
    for wanted in ([True, False, True, False], [False] * 4, [True] * 4):
        found = jax.vmap(choice)(jnp.asarray(wanted), x)
        alone = [choice(jnp.asarray(w), v) for w, v in zip(wanted, x, strict=True)]
        np.testing.assert_array_equal(found, jnp.stack(alone))


def test_lanes_that_all_want_nothing_compute_nothing() -> None:
    seen = []

    def spied(wanted: jax.Array, x: jax.Array) -> jax.Array:
        def compute() -> jax.Array:
            jax.debug.callback(lambda: seen.append(1))
            return 2.0 * x

        return needed(wanted, compute, x)

    run = jax.jit(jax.vmap(spied))
    x = jnp.arange(3.0)
    for wanted in ([False] * 3, [False, True, False]):
        seen.clear()
        run(jnp.asarray(wanted), x).block_until_ready()
        jax.effects_barrier()
        assert bool(seen) == any(wanted)


def test_a_flag_anywhere_is_seen_through_batches_of_batches() -> None:
    flags = jnp.asarray([[False, True], [False, False]])
    assert jax.vmap(jax.vmap(anywhere))(flags).all()
    assert not jax.vmap(anywhere)(jnp.zeros(3, bool)).any()
    rows = jax.lax.map(jax.vmap(anywhere), flags)  # one batch after another
    np.testing.assert_array_equal(rows, [[True, True], [False, False]])
