"""Compiled programs kept whole, so that a new process neither traces nor compiles them.

JAX's persistent cache keeps what XLA made of a program, under a digest of the program's text: to
ask it, a process has to trace and lower the program first, which takes longer than a small fit. The
files here hold the same executables under a digest of all that the text depends on: this package's
source, the versions of JAX, the machine and its settings, the function, its static arguments, and
the shapes and static parts of its arrays. What cannot be described in this way (a user's function
as a link or a prior, say) is not kept.

A file is a SHA-256 digest and a compressed pickle of an executable from `jax.experimental`. To
load an executable is to run it: like JAX's cache, the folder is to be trusted. A file that another
user owns or may write to is not read, and one that was cut short or changed is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import platform
import tempfile
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import numpy as np
from jax.experimental import serialize_executable
from jaxlib import lapack

PACKAGE = __name__.partition(".")[0]
SUFFIX = ".whole"
MOST_FILES = 600  # of some hundred kilobytes; those that were used last are kept
# Settings of JAX that have no part in a program, or that `name_of` asks as they are at the time.
_APART = (
    "jax_compilation_cache", "jax_persistent_cache", "jax_log", "jax_numpy_rank_promotion",
    "jax_enable_x64",
)  # fmt: skip


class _Unknown(Exception):
    """A value whose meaning in another process cannot be told."""


def name_of(function: Any, arrays: Any, static: dict[str, Any], options: Any) -> str | None:
    """Name of the file of a program; None where something about it cannot be described.

    Parameters: function, made by `jax.jit` in this package; arrays, its pytrees; static, its static
    arguments; options, of the compiler.
    """
    inner = getattr(function, "__wrapped__", None)
    module, name = getattr(inner, "__module__", ""), getattr(inner, "__qualname__", "<")
    if module.partition(".")[0] != PACKAGE or "<" in name:
        return None
    try:
        parts = [module, name, _described(arrays), _described(static), _described(options)]
        # A context may have set it, as `runtime.engine` does.
        parts.append(jax.dtypes.canonicalize_dtype(float).name)
    except _Unknown:
        return None
    return hashlib.sha256("\n".join([_surroundings(), *parts]).encode()).hexdigest() + SUFFIX


def _described(value: Any) -> str:
    """A text that is the same for equal values in every process; arrays by shape and type."""
    # Exact types: of a subclass, a user's prior as a named tuple say, the code may be anything.
    if value is None or type(value) in (bool, int, float, str):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        if not isinstance(value.dtype, np.dtype) or value.dtype.kind not in "biuf":
            raise _Unknown
        return f"{value.dtype}{value.shape}{getattr(value, 'weak_type', False)}"
    kind = type(value)
    ours = kind.__module__.partition(".")[0] == PACKAGE
    if kind in (tuple, list) or (ours and isinstance(value, tuple)):
        return f"{kind.__qualname__}({', '.join(map(_described, value))})"
    if kind is dict:
        items = (f"{_described(k)}: {_described(value[k])}" for k in sorted(value))
        return f"{{{', '.join(items)}}}"
    # Dataclasses that are compared by their fields: models, parameters, families, links, settings.
    if ours and dataclasses.is_dataclass(kind) and kind.__eq__ is not object.__eq__:
        fields = (_described(getattr(value, f.name)) for f in dataclasses.fields(kind))
        return f"{kind.__module__}.{kind.__qualname__}({', '.join(fields)})"
    raise _Unknown


@cache
def _surroundings() -> str:
    """All else that a program depends on: source, versions, processor, flags, JAX's settings."""
    source = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        source.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    settings = {k: v for k, v in jax.config.values.items() if not k.startswith(_APART)}
    parts = [
        source.hexdigest(), jax.__version__, jaxlib.version.__version__, np.__version__,
        jax.default_backend(), platform.platform(), _processor(), str(os.cpu_count()),
        os.environ.get("XLA_FLAGS", ""), repr(sorted(settings.items())),
    ]  # fmt: skip
    return "\n".join(parts)


def _processor() -> str:
    """The processor and the instructions it knows."""
    listing = Path("/proc/cpuinfo")
    if not listing.exists():
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({x for x in listing.read_text().splitlines() if x.startswith(wanted)}))


def save(folder: Path, name: str, compiled: Any) -> None:
    """Keep a program in a folder, which is made if need be; a warning where it cannot be written.

    A program that holds arrays of its own cannot be kept, and is not.
    """
    try:
        executable, _, tree = serialize_executable.serialize(compiled)
    except (NotImplementedError, ValueError):  # JAX's words for arrays of its own and callbacks
        return
    # Trees of classes cannot be pickled, but instances with their leaves numbered can.
    numbered = jax.tree.unflatten(tree, range(tree.num_leaves))
    contents = zlib.compress(pickle.dumps((executable, numbered)), 1)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(contents).digest() + contents)
        os.replace(part, folder / name)
        found = list(folder.glob(f"*{SUFFIX}"))
        if len(found) > MOST_FILES:
            for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-MOST_FILES]:
                path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another process, tidying up as well, was first
    except OSError as error:
        warnings.warn(
            f"The compiled program could not be kept in {folder}: {error}. The fit is not "
            "affected; GLMM_JAX_CACHE names another folder, or switches this off ('off')",
            stacklevel=2,
        )


def load(folder: Path, name: str, arrays: tuple[Any, ...]) -> Callable[..., Any] | None:
    """A program from a folder, to be called with arrays such as these; None if it is not there."""
    path = folder / name
    try:
        if not _own(path):
            return None
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(whole[32:]).digest() != whole[:32]:
        return None
    executable, numbered = pickle.loads(zlib.decompress(whole[32:]))
    _register_lapack()
    with suppress(OSError):  # a folder that cannot be written to is not tidied up either
        os.utime(path)
    arguments = jax.tree.structure((arrays, {}))
    return serialize_executable.deserialize_and_load(
        executable, arguments, jax.tree.structure(numbered)
    )


def _own(path: Path) -> bool:
    """Whether a file is this user's, and no other user may write to it."""
    if not hasattr(os, "getuid"):
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


@cache
def _register_lapack() -> None:
    """Tell XLA where LAPACK is, as JAX does when it lowers a program that calls it."""
    lapack.prepare_lapack_call("potrf_ffi", np.dtype(np.float64))
