"""What must not be recorded: passwords, keys and tokens in command lines, URLs and variables.

Names decide: the value that stands behind a name with one of a few words in it becomes ``***``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["command_line", "is_secret", "url"]

_WORDS: Final = r"token|key|password|passwd|passphrase|secret|credential"
_OPTION: Final = re.compile(_WORDS, re.IGNORECASE)
_VALUE: Final = re.compile(rf"(?:{_WORDS})[\w.\-\[\]]*[\"']?\s*[=:](?!:)(?!//)", re.IGNORECASE)
_VARIABLE: Final = re.compile(
    rf"{_WORDS}|signature|auth(?!or(?!iz))|cookie|private|session|pass(?:_|$)|_pwd$", re.IGNORECASE
)
_USER: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s?#]*@")
_QUERY: Final = re.compile(
    rf"(?P<name>[?&;#](?:[^=&;#\s]*(?:{_WORDS}|signature|auth)[^=&;#\s]*|sig))=[^&;#\s]*",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Whether the value of a variable of that name is not to be shown."""
    return _VARIABLE.search(name) is not None


def url(text: str) -> str:
    """A URL, or a text with URLs, without ``user:password@`` and without secrets in the query."""
    return _QUERY.sub(r"\g<name>=***", _USER.sub(r"\g<scheme>***@", text))


def command_line(argv: Sequence[str]) -> tuple[str, ...]:
    """The command line without secrets.

    The value of an option whose name holds token, key, password, passphrase, secret or credential
    becomes ``***`` (``--api-key x``), so does all of a word behind such a name and ``=`` or ``:``
    (``--api-key=x``, ``--set=db.password=x``, ``{"token": ...}``) and ``user:pass@`` in an URL.
    """
    clean: list[str] = []
    hide_next = False
    for word in argv:
        if hide_next and not word.startswith("--"):
            clean.append("***")
            hide_next = False
            continue
        hide_next = False
        word = _USER.sub(r"\g<scheme>***@", word)
        if found := _VALUE.search(word):
            word = f"{word[: found.end()]}***"
        elif word.startswith("-") and "=" not in word:
            hide_next = _OPTION.search(word) is not None
        clean.append(word)
    return tuple(clean)
