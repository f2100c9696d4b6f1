"""The sources of a run where no git keeps them: an archive of files of the project.

The archive is made of names and bytes alone, so the same sources are the same content in every
run.  It is bounded: what has no room is counted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from prov4ml import handover, paths
from prov4ml.asking import peek
from prov4ml.errors import UsageError

__all__ = ["Archive", "archive", "imported", "in_folder"]

_FILES: Final = 1000
_BYTES: Final = 8 << 20
_LARGE: Final = 1 << 20  # bytes beyond which a file is no source
_ENDINGS: Final = (
    *(".py", ".pyi", ".pyx", ".ipynb", ".sh", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"),
    *(".toml", ".yaml", ".yml", ".json", ".cfg", ".ini", ".md", ".rst", ".txt", ".r", ".jl"),
)
_SKIPPED: Final = ("__pycache__", "node_modules", "site-packages", "dist-packages")


class Archive(NamedTuple):
    """A zip file, how many files stand in it, and how many had no room."""

    data: bytes
    files: int
    left_out: int


def imported(root: Path, keep: Callable[[str], bool] = lambda _: True) -> list[tuple[str, Path]]:
    """Files of the project's own modules that are imported now: (name below ``root``, path).

    Not those of Python, of installed packages, of prov4ml.  ``keep`` is asked by the name.
    """
    import sysconfig

    plainly = (sysconfig.get_path("stdlib") + os.sep, os.path.dirname(__file__) + os.sep)
    kept = [os.path.realpath(path) for path in plainly]
    found: dict[str, Path] = {}
    for module in list(sys.modules.values()):
        file = peek(module, "__file__")
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        if any(name in file for name in _SKIPPED) or file.startswith(plainly):
            continue  # most of them, without a look at the disk
        path = Path(os.path.realpath(file))
        if not path.is_file():  # torch has modules that say a name of no file
            continue
        if set(path.parts) & set(_SKIPPED) or any(path.is_relative_to(own) for own in kept):
            continue
        inside = path.is_relative_to(root)
        name = path.relative_to(root).as_posix() if inside else f"outside{path.as_posix()}"
        if keep(name):
            found[name] = path
    return sorted(found.items())


def in_folder(folder: Path) -> list[tuple[str, Path]]:
    """The source files below a folder, by their endings; no hidden ones."""
    return [
        (below, path)
        for below, path, _ in paths.Walk(folder).files()
        if path.suffix.lower() in _ENDINGS
        and not any(part.startswith(".") or part in _SKIPPED for part in below.split("/"))
    ]


def archive(files: Iterable[tuple[str, Path]]) -> Archive:
    """A zip file of these; what cannot be read or has no room is left out and counted."""
    import zipfile

    out = io.BytesIO()
    room = _BYTES
    left_out = count = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as made:
        for name, path in files:
            data = _read(path)
            if data is None or len(data) > room or count >= _FILES:
                left_out += 1
                continue
            entry: Any = zipfile.ZipInfo(paths.plain(name), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            made.writestr(entry, data)
            room -= len(data)
            count += 1
    return Archive(out.getvalue(), count, left_out)


def _read(path: Path) -> bytes | None:
    try:
        with handover.regular(path, "path") as file:
            data = file.read(_LARGE + 1)
    except (UsageError, OSError):
        return None
    return data if len(data) <= _LARGE else None
