"""The config file: where it is found, and that it is TOML with tables we know.

What its values mean, and whether they are right, is for ``config`` to say.  At most one file
is read, and none at import.  Errors are ``UsageError`` and name the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from prov4ml.errors import UsageError

__all__ = ["File", "find_file", "open_file"]

NAME: Final = "prov4ml.toml"
PROJECT: Final = "pyproject.toml"


class File(msgspec.Struct, frozen=True):
    """A config file and its tables by name."""

    path: Path
    tables: Mapping[str, Any]

    def where(self, table: str) -> str:
        """How an error or an origin names a table of this file."""
        prefix = "tool.prov4ml." if self.path.name == PROJECT else ""
        return f"{self.path}: [{prefix}{table}]"


def find_file(directory: Path) -> Path | None:
    """The config file for a run that starts in ``directory``, if there is one.

    The first ``prov4ml.toml``, or ``pyproject.toml`` with ``[tool.prov4ml]``, from there upwards
    to a folder with ``.git`` or ``pyproject.toml``, which is the last one looked at.
    """
    here = directory.absolute()
    for folder in (here, *here.parents):
        own, project = folder / NAME, folder / PROJECT
        if own.is_file():
            return own
        if project.is_file():
            return project if _ours(project) is not None else None
        if (folder / ".git").exists():
            return None
    return None


def open_file(
    named: str, directory: Path, keys: Mapping[str, Collection[str]], free: str
) -> File | None:
    """The file called ``named``, or else the one that ``find_file`` finds, or None.

    ``keys`` are the known keys by table; the tables inside the one called ``free`` are not ours
    to know.  Raises ``UsageError`` for what cannot be read, is no TOML, or is not known.
    """
    path = directory / named if named else find_file(directory)
    if path is None:
        return None
    if path.name == PROJECT:
        tables = _ours(path)
        if tables is None:
            raise UsageError(f"PROV4ML_CONFIG: {path} has no table [tool.prov4ml]")
    else:
        tables = _toml(path, _bytes(path))
    file = File(path, tables)
    for name, table in tables.items():
        if name != free and name not in keys:
            raise UsageError(f"{path}: {_unknown('table', name, (*keys, free))}")
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} = {table!r}: must be a table, [{name}]")
        for key, value in table.items():
            if name == free and not isinstance(value, dict):
                raise UsageError(f"{file.where(name)} {key} = {value!r}: must be a table")
            if name != free and key not in keys[name]:
                raise UsageError(f"{file.where(name)}: {_unknown('key', key, keys[name])}")
    return file


def _ours(project: Path) -> dict[str, Any] | None:
    """``[tool.prov4ml]`` of a ``pyproject.toml``."""
    raw = _bytes(project)
    if b"prov4ml" not in raw:  # most projects: not worth a parse, nor a complaint
        return None
    tool = _toml(project, raw).get("tool")
    ours = tool.get("prov4ml") if isinstance(tool, dict) else None
    if ours is not None and not isinstance(ours, dict):
        raise UsageError(f"{project}: [tool] prov4ml = {ours!r}: must be a table, [tool.prov4ml]")
    return ours


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the config file cannot be read: {error.strerror}") from None


def _toml(path: Path, raw: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(raw.decode("utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{path}: not TOML: {error}") from None


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    from prov4ml.sink import unknown

    return unknown(what, name, known)
