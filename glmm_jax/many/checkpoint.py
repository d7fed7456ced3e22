"""Finished chunks of a long run on disk, so that a killed run goes on where it was.

A checkpoint is a folder with one file for each finished chunk, chunk-000000.npz and so on, each
written whole or not at all (see `inference.archive`): a zip of NumPy arrays, one a column, that
`numpy.load` opens, and a JSON document that says what was fitted. The numbers of a chunk count
only if what is fitted now is what it says: the same formula, settings, design, and responses.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from glmm_jax.inference import archive
from glmm_jax.many.table import Columns

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A folder of finished chunks of one run. design: digest of all that the chunks share; size:
    number of models in a chunk."""

    folder: Path
    design: str
    size: int

    def read(self, chunk: int, responses: str) -> Columns | None:
        """The numbers of a chunk, None if it is not there.

        responses : digest of the responses of the chunk.

        Raises:
            ValueError: the file is damaged, or of other responses than these.
        """
        path = self._path(chunk)
        if not path.exists():
            return None
        document, arrays = archive.read(path)
        if document.get("design") != self.design or document.get("responses") != responses:
            raise ValueError(
                f"checkpoint: {str(path)!r} was written for other data or settings than those "
                "given now; give another folder, or remove this one to begin anew"
            )
        return Columns(**arrays)

    def write(self, chunk: int, responses: str, columns: Columns) -> None:
        """Write the numbers of a finished chunk."""
        document = {
            "version": VERSION, "design": self.design, "responses": responses, "size": self.size,
        }  # fmt: skip
        archive.write(self._path(chunk), document, dict(vars(columns)))

    def _path(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:06d}.npz"


def size_in(path: Any) -> int | None:
    """Number of models in a chunk of the run that a folder holds, None if it holds none.

    A run goes on with it on another device too, whose own would be another.
    """
    if not isinstance(path, str | os.PathLike):
        return None
    for file in sorted(Path(os.fsdecode(path)).glob("chunk-*.npz"))[:1]:
        size = archive.read(file)[0].get("size")
        return size if isinstance(size, int) and size > 0 else None
    return None


def opened(path: Any, design: str, size: int) -> Checkpoint:
    """The checkpoint in a folder, which is made if it is not there.

    Raises:
        ValueError: the folder cannot be made or written to, or holds chunks of another run.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"checkpoint={path!r}; give the name of a folder")
    folder = Path(os.fsdecode(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"checkpoint={str(folder)!r} cannot be made ({error})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"checkpoint={str(folder)!r} cannot be written to; give another folder")
    for file in sorted(folder.glob("chunk-*.npz"))[:1]:
        document, _ = archive.read(file)
        if document.get("version") != VERSION or document.get("design") != design:
            raise ValueError(
                f"checkpoint={str(folder)!r} holds chunks of another run: the formula, the data, "
                "the settings or chunk_size have changed since; give another folder, or remove it "
                "to begin anew"
            )
    return Checkpoint(folder, design, size)


def digest(*parts: Any) -> str:
    """SHA-256 of arrays (type, shape, bytes) and of the text of everything else."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(parts, is_leaf=lambda x: x is None):
        if hasattr(leaf, "dtype"):
            array = np.ascontiguousarray(leaf)
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(array.tobytes() if array.dtype.hasobject else array.data)
        else:
            found.update(repr(leaf).encode())
        found.update(b"\0")
    return found.hexdigest()
