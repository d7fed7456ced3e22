"""Transforms that learn from the data of the fit: `scale`, `center`, `standardize`, `poly`.

What they learn is kept as plain arrays, so a fit can be pickled and new data are transformed as
the old were. `scale` and `poly` are R's; `center` and `standardize` (which divides by the standard
deviation with n, not n - 1) are patsy's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

State = dict[str, tuple[np.ndarray, ...]]

TRANSFORMS = {
    "scale": ("center", "scale"),
    "center": (),
    "standardize": (),
    "poly": ("degree", "raw"),
}
"""Names of the transforms, each with the names of its arguments after the first."""


def transform(
    function: str,
    key: str,
    x: np.ndarray,
    rest: list[object],
    options: Mapping[str, object],
    state: State,
    learn: bool,
) -> np.ndarray:
    """Values of one transform on x (n,).

    Args:
        function: a key of TRANSFORMS.
        key: text of the whole call, under which `state` keeps what was learnt.
        rest, options: further arguments by position and by name.
        learn: learn from x and write `state` (the data of the fit), or read it (new data).

    Returns:
        (n,), or (n, degree) for `poly`.
    """
    names = TRANSFORMS[function]
    options = {**dict(zip(names, rest, strict=False)), **options}
    if options.keys() - set(names) or len(rest) > len(names) or x.ndim != 1:
        raise ValueError(f"formula: cannot use the arguments of {key!r}")
    if function == "poly":
        degree, raw = options.get("degree", 1.0), options.get("raw", False)
        if not (isinstance(degree, float) and degree.is_integer() and degree >= 1):
            raise ValueError(f"formula: the degree in {key!r} must be 1, 2, 3, ...")
        if raw is True:
            return x[:, None] ** np.arange(1, int(degree) + 1)
        if learn:
            state[key] = _learn_poly(x, int(degree), key)
        return _poly(x, *state[key])
    if learn:
        centred = function != "scale" or options.get("center", True) is True
        scaled = function != "center" and options.get("scale", True) is True
        middle = x.mean() if centred else 0.0
        freedom = x.size if function == "standardize" else x.size - 1
        # R's scale(x, center=FALSE) divides by the root mean square about zero.
        spread = np.sqrt(np.sum((x - middle) ** 2) / freedom) if scaled else 1.0
        state[key] = (np.asarray(middle), np.asarray(spread))
    middle, spread = state[key]
    return (x - middle) / spread


def _learn_poly(x: np.ndarray, degree: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Recurrence coefficients of the polynomials orthogonal on x, as R's `poly` keeps them.

    p_0 = 1, p_{k+1} = (x - alpha_k) p_k - (|p_k|^2 / |p_{k-1}|^2) p_{k-1} (Stieltjes).
    """
    if np.unique(x).size <= degree:
        raise ValueError(f"formula: {key!r} needs more than {degree} distinct values")
    alpha, norms = np.empty(degree), np.empty(degree + 1)
    before, now, norms[0] = np.zeros_like(x), np.ones_like(x), x.size
    for k in range(degree):
        alpha[k] = np.sum(x * now**2) / norms[k]
        ratio = norms[k] / norms[k - 1] if k else 0.0
        before, now = now, (x - alpha[k]) * now - ratio * before
        norms[k + 1] = np.sum(now**2)
    return alpha, norms


def _poly(x: np.ndarray, alpha: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """The orthonormal polynomials of degree 1, 2, ... at x, (n, degree)."""
    before, now = np.zeros_like(x), np.ones_like(x)
    columns = []
    for k in range(alpha.size):
        ratio = norms[k] / norms[k - 1] if k else 0.0
        before, now = now, (x - alpha[k]) * now - ratio * before
        columns.append(now / np.sqrt(norms[k + 1]))
    return np.stack(columns, axis=1)
