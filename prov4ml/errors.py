"""Errors, split by whose fault they are.

``UsageError`` is yours, ``WireError`` the peer's, ``SinkError`` an output's, and
``MissingExtra`` asks for a package.  Every message says what was wrong, with which value,
and what to do.  A wrong *type* of an argument is a plain ``TypeError``.
"""

from __future__ import annotations

import errno

__all__ = [
    "FormatError",
    "InUse",
    "MissingExtra",
    "SinkError",
    "UsageError",
    "WireError",
    "no_room",
]


class UsageError(ValueError):
    """The caller passed a value, a setting or a call order that cannot work."""


class InUse(UsageError):
    """Somebody who lives works on it; the message says who."""


class WireError(Exception):
    """A peer sent something that is not our protocol, or another major version of it."""


class FormatError(Exception):
    """A file is not what its name says, or is damaged before its end."""


class SinkError(Exception):
    """An output could not be written."""


class MissingExtra(ImportError):
    """An optional package is not installed; the message holds the pip line."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}: pip install 'prov4ml[{extra}]'", name=package
        )


def no_room(error: BaseException) -> bool:
    """Whether a disk is full, or the share of it that we may use: that may pass."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
