"""Which checkpoint may be called best, and why.

Only one that was saved at the very step (or epoch) where a validation metric, whose name says
which way is better, was at its best.  Otherwise nothing is called best.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from prov4ml import events as ev
from prov4ml import overview_words as words
from prov4ml.doings import Path
from prov4ml.overview_facts import Facts, path_text
from prov4ml.producer import Producer
from prov4ml.series import Series

__all__ = ["Version", "best_of", "better"]

_HIGHER: Final = frozenset(
    {"acc", "accuracy", "auc", "auroc", "bleu", "dice", "f1", "iou", "map", "miou", "precision"}
    | {"r2", "recall", "rouge", "top1", "top5"}
)
_LOWER: Final = frozenset(
    ["cer", "err", "error", "loss", "mae", "mse", "nll", "perplexity", "ppl", "rmse", "wer"]
)
_VALIDATION: Final = frozenset(["dev", "eval", "evaluation", "val", "valid", "validation"])
_WORDS: Final = re.compile(r"[a-z]+[0-9]*")


class Version(NamedTuple):
    """One saved state of a model, by however many ranks."""

    producer: Producer
    artifact: ev.Artifact
    copies: int
    time: int


def better(name: str) -> int:
    """+1 when a metric of this name is better the higher, -1 the lower, 0 when it cannot tell."""
    found = set(_WORDS.findall(name.casefold()))
    high, low = bool(found & _HIGHER), bool(found & _LOWER)
    return int(high) - int(low)


def best_of(facts: Facts, mine: list[Version]) -> tuple[int, str] | None:
    """Which checkpoint stands at the optimum of a validation metric, and the words for it."""
    if len(mine) < 2 or len({v.producer.key[0] for v in mine}) > 1:
        return None
    candidates: list[tuple[int, int, Series]] = []
    saver = mine[-1].producer
    for p in [saver, *(q for q in facts.ranks if q.key[0] == saver.key[0] and q is not saver)]:
        for number, s in sorted(p.series.items()):
            way = better(s.name)
            if way and s.count > 1 and not s.nan_count and _is_validation(s.context):
                candidates.append((-way, number, s))
        if candidates:
            break
    for against, _, s in sorted(candidates, key=lambda c: c[:2]):
        optimum, at = (s.maximum, s.maximum_at) if against < 0 else (s.minimum, s.minimum_at)
        for i, v in enumerate(mine):
            if optimum is not None and _same_moment(v.artifact, at, s, len(mine)):
                where = path_text(s.context)
                rank = f", rank {p.key[1]}" if len(facts.ranks) > 1 else ""
                return i, f"{words.clip(s.name, 24)} {words.number(optimum)} in {where}{rank}"
    return None


def _is_validation(context: Path) -> bool:
    return any(name.casefold() in _VALIDATION for name in context)


def _same_moment(a: ev.Artifact, at: tuple[int | None, int | None], s: Series, saved: int) -> bool:
    """Whether a checkpoint was saved when the point at (step, epoch) was logged.

    By the step where both have one; by the epoch only if the series has about one point per
    checkpoint, so that a point speaks for its epoch.  A step that repeats speaks for nothing.
    """
    step, epoch = at
    if epoch is not None and a.epoch is not None and epoch != a.epoch:
        return False
    if step is not None and a.step is not None:
        first, last = s.first_step, s.last_step
        return (
            step == a.step
            and first is not None
            and last is not None
            and (last - first + 1 >= s.count)
        )
    return epoch is not None and epoch == a.epoch and s.count <= saved + 1
