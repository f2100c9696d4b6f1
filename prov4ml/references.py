"""What log calls give back, and what ``derived_from=`` may name.

A ``Reference`` is the handle of one occurrence.  ``derived_from=`` takes handles of this run and
of others, names of what was logged earlier in this run, absolute IRIs, and lists of these.  In
the event an occurrence of the same producer is its number, everything else an IRI.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from prov4ml import hot
from prov4ml.errors import UsageError
from prov4ml.talk import short

__all__ = ["MODELS", "Derivable", "Reference", "References"]

MODELS: Final = ("checkpoint", "model")
"""Kinds of occurrences that are versions of models."""

_NAMES: Final = 10_000  # names that are remembered; the oldest go first
_SOURCES: Final = 500  # of one occurrence: an event has a bound
_CONTENT: Final = "https://w3id.org/prov4ml/sha256/"


class Reference(msgspec.Struct, frozen=True):
    """The handle of an occurrence: what a log call made, for ``derived_from=`` of a later one.

    ``n`` counts the occurrences of its process from 1; ``kind`` is that of ``events.Artifact``.
    """

    n: int
    name: str
    kind: str
    run: str
    iri: str
    """The name of its entity in the documents; empty where nothing is recorded."""


Derivable: TypeAlias = Reference | str | Iterable[Reference | str] | None
"""What ``derived_from=`` takes."""


class References:
    """The handles of one producer.  ``base``: the IRI of its process."""

    def __init__(self, run: str, base: str) -> None:
        self.run = run
        self.base = base
        self._known: dict[str, Reference] = {}

    def made(self, n: int, name: str, kind: str, *others: str) -> Reference:
        """The handle of a new occurrence; found again by its name and the others."""
        made = Reference(n, name, kind, self.run, f"{self.base}/artifact/{n}" if self.base else "")
        for each in (name, *others):
            self._known.pop(each, None)  # the newest stands last
            self._known[each] = made
        while len(self._known) > _NAMES:
            self._known.pop(next(iter(self._known)), None)
        return made

    def inherit(self, other: References) -> None:
        """What has a name there has it here too."""
        self._known.update(other._known)

    def named(self, text: str) -> Reference | None:
        """What was logged last by that name."""
        return self._known.get(text)

    def mine(self, reference: Reference) -> bool:
        """Whether it is an occurrence of this very process."""
        return not self.base or reference.iri == f"{self.base}/artifact/{reference.n}"

    def resolve(
        self, given: Derivable, model: str | None = None
    ) -> tuple[tuple[int | str, ...], int]:
        """``derived_from=`` as an event has it, and how many of them are models tuned from.

        ``model`` is the name of the model of which a version is made: versions of another model,
        and IRIs of which nothing is known, are then what it was tuned from; they come first.
        Raises ``TypeError`` and ``UsageError``.
        """
        bases: dict[int | str, None] = {}
        others: dict[int | str, None] = {}
        for item in _items(given):
            known = item if isinstance(item, Reference) else self._named(item)
            if known is None:
                bases[item] = None
            elif known.iri or not self.base:
                tuned = known.kind in MODELS and known.name != model
                (bases if tuned else others)[known.n if self.mine(known) else known.iri] = None
        if model is None:
            return (*bases, *others), 0
        return (*bases, *(o for o in others if o not in bases)), len(bases)

    def _named(self, text: str) -> Reference | None:
        """What has that name; None for an IRI."""
        found = self.named(text)
        if found is not None:
            return found
        from prov4ml import provdm

        if text.startswith(_CONTENT):
            raise UsageError(
                f"derived_from: {short(text)!r} is a content, which every run shares; "
                "give an occurrence of it, such as .../artifact/3 of the run that made it"
            )
        if provdm.split(text) is None:
            raise UsageError(
                f"derived_from: nothing named {short(text)!r} was logged in this run; give what "
                "its log call gave back, its name, or an absolute IRI that ends in a name"
            )
        return None


def _items(given: Any) -> Iterator[Any]:
    if given is None:
        return
    if isinstance(given, (Reference, str)):
        given = (given,)
    elif isinstance(given, (bytes, bytearray, dict)) or not isinstance(given, Iterable):
        raise TypeError(_wrong(given))
    for count, item in enumerate(given):
        if count >= _SOURCES:
            raise UsageError(f"derived_from names more than {_SOURCES} things")
        if isinstance(item, Reference):
            yield item
        elif isinstance(item, str):
            yield hot.text("derived_from", item)
        else:
            raise TypeError(_wrong(item))


def _wrong(given: Any) -> str:
    return (
        "derived_from must be what a log call gave back, a name, an IRI, or a list of these, "
        f"not {type(given).__name__}"
    )
