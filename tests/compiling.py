"""Programs of the tests, compiled in a hurry."""

from __future__ import annotations

from collections.abc import Callable

import jax

# A test runs its program once or twice on small data: compiling it costs a thousand times what
# running it does, and a quarter of that at this level of optimisation.
UNOPTIMISED = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def quick(function: Callable, static: tuple[str, ...] = ()) -> Callable:
    """`jax.jit`, with the same program out of a compiler that works less hard."""
    options = UNOPTIMISED if jax.default_backend() == "cpu" else None
    return jax.jit(function, static_argnames=static, compiler_options=options)
