"""The forms of single settings: what a namespace, a size, an address may look like.

Each function takes a raw value, gives back the checked one, and raises ``TypeError`` or
``ValueError`` with the bare reason; ``config`` says of which setting and where it stands.
No file, no environment (but the home directory behind ``~``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from prov4ml.errors import UsageError

__all__ = [
    "address",
    "compressor",
    "count",
    "directory",
    "flag",
    "flag_of",
    "inside",
    "names",
    "namespace",
    "one_of",
    "seconds",
    "size",
    "text",
    "user",
    "variables",
]


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"must be text, not {type(value).__name__}")
    if not value:
        raise ValueError("must not be empty")
    return str.__str__(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"must be true or false, not {type(value).__name__}")
    return value


def flag_of(word: str) -> bool:
    """A truth value from a variable of the environment."""
    word = word.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be 1 or 0")


def one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if text(value) not in words:
            raise ValueError(f"must be {' or '.join(map(repr, words))}")
        return str(value)

    return check


def user(value: Any) -> bool | str:
    return value if isinstance(value, bool) else text(value)


def directory(value: Any) -> str:
    path = text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return os.path.expanduser(path)


def seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value < 1e9:
        raise ValueError("must be a number of seconds, 0 or more")
    return float(value)


_UNITS: Final = {
    unit.lower(): factor
    for power, letter in enumerate("KMGT", start=1)
    for unit, factor in ((f"{letter}B", 1000**power), (f"{letter}iB", 1024**power))
} | {"": 1, "b": 1}


def size(value: Any) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError('must be bytes, or a size such as "500MB" or "2GiB"')
        value = int(float(match[1]) * _UNITS[match[2].lower()])
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"must be bytes or a size, not {type(value).__name__}")
    if not 0 < value < 1 << 62:
        raise ValueError("must be more than 0 bytes")
    return value


def count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"must be an integer, not {type(value).__name__}")
    if not 0 <= value < 1 << 62:
        raise ValueError("must be 0 or more")
    return int(value)


def compressor(value: Any) -> str | bool:
    """The name of a compression, or whether there is to be one."""
    return value if isinstance(value, bool) else text(value).lower()


def names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"must be a list of sink names, not {type(value).__name__}")
    return tuple(text(name) for name in value)


def variables(value: Any) -> tuple[str, ...]:
    """Names of variables of the environment, with ``*`` and ``?`` as wildcards."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"must be a list of variables' names, not {type(value).__name__}")
    return tuple(text(name) for name in value)


def namespace(value: Any) -> str:
    """An absolute IRI that ends in "/" or "#"; see ``provdm.namespace``."""
    from prov4ml import provdm

    return provdm.namespace(text(value))


def address(value: Any, *, bind: bool = False) -> str:
    """An address of a collector, as it was given.

    "auto", "none", "tcp://127.0.0.1:5557" (loopback only, until there are keys) or
    "ipc:///path".  With ``bind`` it is one to listen at: not "auto" or "none", and the port may
    be "*".  Raises ``TypeError`` or ``UsageError``.
    """
    given = text(value)
    if given in ("auto", "none") and not bind:
        return given
    if given.startswith("ipc://"):
        path = given.removeprefix("ipc://")
        if not path.startswith("/"):
            raise UsageError("an ipc address has an absolute path: ipc:///run/prov4ml.sock")
        if len(os.fsencode(path)) > 107:
            raise UsageError("the path of an ipc address ends at 107 bytes; take a shorter one")
        return given
    match = re.fullmatch(r"tcp://(.*):(\d{1,5}|\*)", given)
    if match is None:
        words = "" if bind else "auto, none, "
        raise UsageError(f"must be {words}tcp://127.0.0.1:5557 or ipc:///path")
    host, port = match[1], match[2]
    if not (host in ("localhost", "[::1]") or re.fullmatch(r"127(\.\d{1,3}){3}", host)):
        raise UsageError("keys are not there yet: bind to loopback, tcp://127.0.0.1:5557")
    if port == "*" and bind:
        return given
    if port == "*" or not 0 < int(port) < 1 << 16:
        raise UsageError("a port is a number from 1 to 65535")
    return given


_RESERVED: Final = ("run.json", "events", "metrics", "artifacts", "undelivered")


def inside(value: Any) -> str:
    """The name of a file inside the run directory that is not one of the directory's own."""
    path = text(value)
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError("must stay inside the run directory")
    first = os.path.normpath(path).split("/")[0]
    if first in (".", *_RESERVED):
        raise ValueError(f"{first!r} has another use in a run directory")
    return path
