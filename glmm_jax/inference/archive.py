"""One file of named arrays and a JSON document: a zip that `numpy.load` opens too.

Its members are the document (fit.json), one .npy file an array, and sha256.txt with the digest of
each of them in the form that the program `sha256sum -c` reads. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DOCUMENT = "fit.json"
DIGESTS = "sha256.txt"
SUFFIX = ".npy"

# What zipfile, zlib and NumPy raise on bytes that are not what they should be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,  # a compression method nobody here wrote
    OSError,
    RuntimeError,  # marked as encrypted
    ValueError,
)


def write(path: Any, document: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a document and arrays to one file, whole or not at all.

    The bytes go to a temporary file in the same folder, which takes the place of `path` when it is
    complete; the same content gives the same bytes.

    Raises:
        ValueError: `path` is no path.
        OSError: the folder does not exist or cannot be written to.
    """
    members = {DOCUMENT: json.dumps(document, allow_nan=False, indent=1).encode("ascii")}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
        members[name + SUFFIX] = buffer.getvalue()
    members[DIGESTS] = _digests(members)
    # A link to a file stays one: what it points to is replaced.
    target = Path(os.path.realpath(as_path(path)))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members.items():
                    info = zipfile.ZipInfo(name)  # its date is 1980: no clock in the bytes
                    info.compress_type = zipfile.ZIP_DEFLATED
                    info.external_attr = 0o644 << 16
                    archive.writestr(info, content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The document and the arrays of a file that `write` wrote.

    Raises:
        ValueError: `path` is no path, or its file was not written by `write`, was cut short, or was
            changed since.
        OSError: there is no such file, or it cannot be read.
    """
    name = as_path(path)
    with open(name, "rb") as file:
        try:
            members = _members(file)
        except _DAMAGE as error:
            raise ValueError(
                f"path: {name!r} is not a saved fit, or is incomplete ({error}); copy the file "
                "again in binary mode, or save the fit again"
            ) from error
    if not {DOCUMENT, DIGESTS} <= members.keys():
        raise ValueError(
            f"path: {name!r} is an archive but not a saved fit (no {DOCUMENT} or {DIGESTS}); give "
            "the path of a file written by fit.save"
        )
    known = members.pop(DIGESTS)
    if known != _digests(members):
        raise ValueError(
            f"path: {name!r} was changed since it was saved (its contents do not have the digests "
            f"in {DIGESTS}); use an unchanged copy, or save the fit again"
        )
    try:
        document = json.loads(members.pop(DOCUMENT))
        arrays = {
            member.removesuffix(SUFFIX): np.lib.format.read_array(
                io.BytesIO(content), allow_pickle=False
            )
            for member, content in members.items()
        }
    except (ValueError, EOFError, RecursionError) as error:
        raise ValueError(
            f"path: {name!r} is not a saved fit ({error}); give the path of a file written by "
            "fit.save"
        ) from error
    return document, arrays


def as_path(path: Any) -> str:
    """The path as text, as it was given: no suffix is added.

    Raises:
        ValueError: neither a string nor a path object, empty, or a folder.
    """
    # An integer would name an open file of the process.
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"path={path!r}; give the name of a file, such as 'cm3.npz'")
    name = os.fsdecode(path)
    if os.path.isdir(name) or not name:
        raise ValueError(
            f"path={name!r} is a folder, or empty; give the name of a file, such as "
            f"{os.path.join(name, 'cm3.npz')!r}"
        )
    return name


def _members(file: Any) -> dict[str, bytes]:
    """Every member of an archive, its checksum (CRC-32) tested."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise zipfile.BadZipFile("two members have one name")
        return {name: archive.read(name) for name in names}


def _digests(members: Mapping[str, bytes]) -> bytes:
    lines = (
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in members.items()
    )
    return "".join(sorted(lines)).encode("utf-8")
