"""Files behind what a call was given: URLs, folders, patterns; what their names are as text.

Nothing is read here but folders.  Links to folders are followed once, so no loop of them has no
end; what cannot be read, and what is no file, is left out and told.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeGuard

from prov4ml.errors import UsageError
from prov4ml.talk import short

__all__ = ["Walk", "is_folder", "is_path", "is_pattern", "is_url", "located", "matching", "plain"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s]+")
_MAGIC: Final = re.compile(r"[*?\[]")


def is_path(thing: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a thing is a path; asks nothing of it, for whatever it has may raise."""
    return issubclass(type(thing), (str, os.PathLike))


def is_url(text: str) -> bool:
    """Whether a text is a URL of something that is not on this machine's disks."""
    return _URL.fullmatch(text) is not None and not text.startswith("file://")


def plain(text: str) -> str:
    """A path as text that UTF-8 can hold: bytes that are none stand as ``\\udce9``."""
    return text.encode("utf-8", "backslashreplace").decode()


def located(path: Path, *, absolute: bool) -> str:
    """A path as a location: text, or a ``file:`` URL where its bytes are no UTF-8."""
    text = str(path.absolute() if absolute else path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return text


def is_folder(path: Path) -> bool:
    """Also false for what cannot be looked at, and for what is no path."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_pattern(text: str) -> bool:
    """Whether a path that is not there may be one with ``*``, ``?`` or ``[...]``."""
    return _MAGIC.search(text) is not None and not os.path.lexists(text[:4096].replace("\0", ""))


class Walk:
    """The regular files below a folder, each once, in the order of their names.

    ``files`` gives (path inside the folder, path, status); with a ``pattern`` those whose path
    inside matches, at most ``depth`` folders deep.  ``left_out`` counts what could not be read or
    is neither file nor folder.
    """

    def __init__(
        self, folder: Path, depth: int | None = None, pattern: re.Pattern[str] | None = None
    ) -> None:
        self.folder = folder
        self.left_out = 0
        self.why = ""  # of the first that was left out
        self._depth = depth
        self._pattern = pattern

    def files(self) -> Iterator[tuple[str, Path, os.stat_result]]:
        """Raises ``UsageError`` when the folder itself cannot be read."""
        try:
            top = os.stat(self.folder)
            names = sorted(os.listdir(self.folder))
        except OSError as error:
            raise UsageError(
                f"cannot read the folder {short(str(self.folder))!r}: {error.strerror}"
            ) from None
        seen = {(top.st_dev, top.st_ino)}
        waiting = [("", iter(names))]
        while waiting:
            inside, rest = waiting[-1]
            name = next(rest, None)
            if name is None:
                waiting.pop()
                continue
            below = f"{inside}{name}"
            path = self.folder / below
            try:
                found = os.stat(path)
                if not stat.S_ISDIR(found.st_mode):
                    if self._pattern is not None and not self._pattern.fullmatch(below):
                        continue
                    if stat.S_ISREG(found.st_mode):
                        yield below, path, found
                    else:
                        self._leave(path, "is no file")
                elif (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    if self._depth is None or len(waiting) < self._depth:
                        waiting.append((f"{below}/", iter(sorted(os.listdir(path)))))
            except OSError as error:
                if self._pattern is None or self._pattern.fullmatch(below):
                    self._leave(path, error.strerror or str(error))

    def _leave(self, path: Path, why: str) -> None:
        self.left_out += 1
        self.why = self.why or f"{short(plain(str(path)))}: {why}"


def matching(pattern: str) -> Walk:
    """The folder above a pattern's first wildcard, and the files in it that match.

    ``**`` stands for any number of folders, as in ``glob.glob(..., recursive=True)``; a wildcard
    at the beginning of a name does not stand for a dot.
    """
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    folder = Path("/".join(parts[:first]) or ("/" if pattern.startswith("/") else "."))
    rest = parts[first:]
    expression = ""
    for at, part in enumerate(rest):
        last = at == len(rest) - 1
        if part == "**":
            expression += "(?:[^./][^/]*/)*" + ("[^./][^/]*" if last else "")
        else:
            expression += _translated(part) + ("" if last else "/")
    try:
        compiled = re.compile(expression, re.DOTALL)
    except re.error as error:
        raise UsageError(f"{short(pattern)!r} is no pattern: {error}") from None
    return Walk(folder, None if "**" in rest else len(rest), compiled)


def _translated(part: str) -> str:
    """A name with wildcards as a regular expression."""
    made = "(?!\\.)" if part[:1] in "*?[" else ""
    at = 0
    while at < len(part):
        letter = part[at]
        end = part.find("]", at + 2)
        if letter == "[" and end > 0:
            inner = part[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            made += f"[{'^' + inner[1:] if inner[0] == '!' else inner}]"
            at = end
        else:
            made += {"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter))
        at += 1
    return made
