"""Made-up runs: event streams as training processes and a collector write them, and their fold.

``sample_events`` gives one list of events per producer, ``sample_state`` folds them,
``samples`` names a dozen telling cases (demo-like, 500 ranks, odd names, failed, ...).
Everything is computed, nothing random or timed: the same arguments give the same events.
It never touches files, sockets or clocks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Final

from prov4ml import events as ev
from prov4ml.state import RunState, apply

__all__ = [
    "COLLECTOR",
    "ODD",
    "RUN",
    "START",
    "fold",
    "producer_id",
    "sample_events",
    "sample_state",
    "samples",
]

RUN: Final = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
START: Final = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
ODD: Final = (
    " <b>&amp;\"'\n\t\0\x1b\ud800 %2F ../.. \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467"
    " \u4e2d\u6587\u5b57 \u05e9\u05dc\u05d5\u05dd \u202eabc\u202c e\u0301 \ufffe"
)
"""A text that every format has to get right: markup, control characters, a lone surrogate,
emoji, wide glyphs, right-to-left writing, combining marks, a non-character."""

_SECOND: Final = 1_000_000_000
ParamValue = str | int | float | bool | None | list[object] | dict[str, object]
PARAMS: Final[Mapping[str, ParamValue]] = {
    "lr": 0.001,
    "batch_size": 32,
    "epochs": 5,
    "optimizer": "Adam",
    "hidden": [256, 128],
    "dropout": 0.1,
    "seed": 0,
}


def producer_id(text: str) -> bytes:
    """16 bytes that stand for a journal."""
    return hashlib.sha256(text.encode()).digest()[:16]


COLLECTOR: Final = producer_id("collector")


def sample_state(ranks: int = 1, epochs: int = 5, **options: object) -> RunState:
    """The fold of ``sample_events`` with the same arguments."""
    return fold(sample_events(ranks, epochs, **options))  # type: ignore[arg-type]  # passed on


def fold(events: Mapping[bytes, list[ev.Event]]) -> RunState:
    """Apply whole streams, one producer after the other."""
    state = RunState()
    for producer, stream in events.items():
        apply(state, producer, 0, stream)
    return state


def sample_events(
    ranks: int = 1,
    epochs: int = 5,
    *,
    batches: int = 8,
    status: str = "finished",
    params: Mapping[str, ParamValue] | int | None = None,
    series: int = 0,
    contexts: int = 0,
    nested: bool = False,
    checkpoints: bool = True,
    lost: int = 0,
    attempts: int = 1,
    odd: str = "",
    logged: bool = True,
    user: str | None = "alice",
    error_message: str = "CUDA error: out of memory",
) -> dict[bytes, list[ev.Event]]:
    """Streams of a classifier's training on digits, by producer; the collector's comes last.

    ``ranks``, ``epochs``, ``batches``: how large (8 ranks per host).  ``params``: them, or how
    many.  ``series``, ``contexts``: how many more than loss and accuracy in training and
    validation.  ``nested``: a warm-up inside training.  ``lost``: events of rank 0 that never
    arrived.  ``attempts``: all but the last were killed.  ``odd`` is added to every name.
    ``logged=False``: the run logs nothing.  ``status``: "running", "finished", or that of rank
    0, while the other ranks are "stopped" (of "died" and "unreachable" only the last rank
    is, which nobody but the collector can tell).
    """
    if isinstance(params, int):
        params = {f"layer_{i}.width": 2 ** (i % 10) for i in range(params)}
    made: dict[bytes, list[ev.Event]] = {}
    collector: list[ev.Event] = [
        ev.CollectorStarted(START, "node00", 4242, "0.1.0"),
        ev.RunOpened(
            START, RUN, "/data/prov/digits_0", ("provjson", "provn", "turtle", "svg", "parquet")
        ),
    ]
    length = (epochs * 2 + 3) * _SECOND
    for attempt in range(1, attempts + 1):
        begin = START + (attempt - 1) * (length + 60 * _SECOND)
        end = begin + length
        for rank in range(ranks):
            producer = producer_id(f"attempt {attempt}, rank {rank}")
            stream: list[ev.Event] = [
                _started(begin, attempt=attempt, rank=rank, ranks=ranks, odd=odd, user=user)
            ]
            if logged:
                stream += _beginning(begin, rank, params, odd)
                stream += _work(
                    begin,
                    rank,
                    epochs=epochs,
                    batches=batches,
                    series=series,
                    contexts=contexts,
                    nested=nested,
                    checkpoints=checkpoints,
                    odd=odd,
                )
                collector += _stored(producer, stream, end)
            ending = status if attempt == attempts else "killed"
            how = _ending(ending, rank, ranks)
            if how in ("died", "unreachable"):
                collector.append(ev.RankEnded(end, producer, how, "pidfd", sent=len(stream) + lost))
            elif how != "running":
                error = how == "failed"
                stream.append(
                    ev.Ended(
                        end,
                        how,
                        0 if how == "finished" else 1,
                        "RuntimeError" if error else None,
                        error_message + odd if error else None,
                    )
                )
            if lost and rank == 0:
                collector.append(ev.Gap(end, producer, len(stream), lost, "spool lost"))
            if how != "running":
                count = len(stream)
                collector.append(ev.Received(end, producer, count + lost * (rank == 0), count))
            made[producer] = stream
        if status != "running" and attempt == attempts:
            collector.append(
                ev.OutputSealed(
                    end, "parquet", "metrics/part-0-41.parquet", _hash("points"), 20_480, 2012
                )
            )
            collector.append(ev.RunEnded(end + _SECOND, attempt))
    made[COLLECTOR] = collector
    return made


def samples() -> dict[str, Callable[[], RunState]]:
    """Telling cases by name, each made when called."""
    return {
        "demo": lambda: sample_state(epochs=20, batches=45),
        "two-ranks": lambda: sample_state(2, 20),
        "resumed": lambda: sample_state(2, 5, attempts=3, nested=True),
        "500-ranks": lambda: sample_state(500, 3, batches=2),
        "500-ranks-died": lambda: sample_state(500, 3, batches=2, status="died"),
        "odd": lambda: sample_state(odd=ODD, nested=True, user="Al" + ODD),
        "long": lambda: sample_state(odd="W" * 10_000, params={"k" * 10_000: "v" * 1_000}),
        "failed": lambda: sample_state(2, status="failed"),
        "running": lambda: sample_state(2, status="running", lost=17),
        "nothing": lambda: sample_state(logged=False),
        "no-events": RunState,
        "no-user": lambda: sample_state(user=None, checkpoints=False),
        "crowded": lambda: sample_state(4, params=200, series=60, contexts=40, nested=True),
    }


# ------------------------------------------------------------------------------- the parts


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _host(rank: int) -> str:
    return f"node{rank // 8:02d}"


def _started(
    time: int, *, attempt: int, rank: int, ranks: int, odd: str, user: str | None
) -> ev.Started:
    return ev.Started(
        time,
        run=RUN,
        experiment="digits" + odd,
        name="digits_0" + odd,
        directory="/data/prov/digits_0",
        namespace="https://lab.example/provenance/",
        attempt=attempt,
        rank=rank,
        local_rank=rank % 8,
        world_size=ranks,
        pid=4000 + rank,
        pid_start=123_456 + rank,
        boot_id="5f0c1f9e-0000-4000-8000-000000000000",
        host=_host(rank),
        user=user,
        launcher="torchrun" if ranks > 1 else "none",
        version="0.1.0",
        python="3.11.7",
        settings={},
    )


def _beginning(
    begin: int, rank: int, params: Mapping[str, ParamValue] | None, odd: str
) -> list[ev.Event]:
    time = begin + _SECOND // 2
    made: list[ev.Event] = [
        ev.Command(time, ("python", "train.py", "--lr", "0.001"), "/home/alice/digits"),
        ev.Source(
            time, "train.py" + odd, "git@lab.example:digits.git", "5880068" + "0" * 33, "main"
        ),
        ev.Host(
            time,
            _host(rank),
            {"os": "Linux 6.1", "machine": "x86_64", "cores": 64, "memory": 2**39},
        ),
        ev.Artifact(
            time,
            1,
            "environment",
            "Python 3.11.7, 84 packages",
            incoming="1",
            media_type="text/plain",
            use="used",
            attributes={"python": "3.11.7", "packages": 84},
        ),
        ev.Artifact(
            time,
            2,
            "dataset",
            "digits" + odd,
            "data/digits.csv" + odd,
            incoming="2",
            size=264_712,
            media_type="text/csv",
            use="used",
            attributes={"samples": 1797},
        ),
        ev.Split(time, "train" + odd, ("training",), 2, {"samples": 1437, "batch_size": 32}),
        ev.Split(time, "validation" + odd, ("validation",), 2, {"samples": 360}),
        ev.Tag(time, "purpose" + odd, "baseline"),
    ]
    for key, value in (PARAMS if params is None else params).items():
        made.append(_param(time, key + odd, value))
    return made


def _param(time: int, key: str, value: ParamValue) -> ev.Param:
    if value is None:
        return ev.Param(time, key, "none", "None")
    if isinstance(value, bool):
        return ev.Param(time, key, "bool", str(value).lower())
    if isinstance(value, list | dict):
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return ev.Param(time, key, "json", text)
    return ev.Param(time, key, type(value).__name__, str(value))


def _work(
    begin: int,
    rank: int,
    *,
    epochs: int,
    batches: int,
    series: int,
    contexts: int,
    nested: bool,
    checkpoints: bool,
    odd: str,
) -> list[ev.Event]:
    training, validation = ("training",), ("validation",)
    made: list[ev.Event] = [
        ev.SeriesDefined(0, "loss" + odd, training),
        ev.SeriesDefined(1, "accuracy" + odd, training),
        ev.SeriesDefined(2, "loss" + odd, validation),
        ev.SeriesDefined(3, "accuracy" + odd, validation),
    ]
    made += [
        ev.SeriesDefined(4 + i, f"layer_{i}.gradient_norm{odd}", training) for i in range(series)
    ]
    time = begin + _SECOND
    if nested:
        inner = ("training", "warm-up" + odd)
        made += [ev.ContextStarted(time, inner), ev.ContextEnded(time + _SECOND // 2, inner)]
    for i in range(contexts):
        other = (f"fold_{i:02d}{odd}",)
        number = 4 + series + i
        made.append(ev.SeriesDefined(number, "score" + odd, other))
        made += [
            ev.Point(number, time + (i + j) * _SECOND // 8, 0.5 + 0.01 * i + 0.1 * j, j)
            for j in range(3)
        ]
    artifact = 2
    for epoch in range(epochs):
        made.append(ev.ContextStarted(time, training))
        for batch in range(batches):
            step = epoch * batches + batch
            time += 3 * _SECOND // 2 // batches
            loss, accuracy = _curve(step / batches, rank, epochs)
            made.append(ev.Point(0, time, loss, step, epoch))
            made.append(ev.Point(1, time, accuracy, step, epoch))
            made += [
                ev.Point(4 + i, time, math.exp(-step / 9) + 0.1 * math.sin(step + i), step, epoch)
                for i in range(series)
            ]
        made.append(ev.ContextEnded(time, training))
        time = begin + _SECOND + (2 * epoch + 2) * _SECOND - _SECOND // 2
        made.append(ev.ContextStarted(time, validation))
        loss, accuracy = _curve(epoch + 1, rank, epochs)
        time += _SECOND // 4
        made.append(ev.Point(2, time, loss * 1.2 + 0.05, (epoch + 1) * batches - 1, epoch))
        made.append(ev.Point(3, time, accuracy - 0.02, (epoch + 1) * batches - 1, epoch))
        made.append(ev.ContextEnded(time, validation))
        time += _SECOND // 4
        if rank == 0 and checkpoints:
            artifact += 1
            made.append(_model(time, artifact, "checkpoint", epoch=epoch, batches=batches, odd=odd))
    if rank == 0 and checkpoints and epochs:
        time += _SECOND // 100
        made.append(_model(time, artifact + 1, "model", epoch=epochs - 1, batches=batches, odd=odd))
        made.append(
            ev.Artifact(
                time,
                artifact + 2,
                "artifact",
                "confusion.png" + odd,
                "plots/confusion.png" + odd,
                incoming=str(artifact + 2),
                size=18_044,
                media_type="image/png",
                context=validation,
                use="generated",
            )
        )
    return made


def _curve(epoch: float, rank: int, epochs: int) -> tuple[float, float]:
    """A loss that falls and an accuracy that rises, with a small dip at the very end."""
    wiggle = 0.02 * math.sin(7 * epoch + rank)
    late = max(0.0, epoch - 0.8 * epochs) / max(epochs, 1)
    loss = 2.3 * math.exp(-epoch / 2.5) + 0.05 + abs(wiggle) + 0.1 * late
    return loss, 0.98 - 0.7 * math.exp(-epoch / 2.5) + wiggle / 4 - 0.05 * late


def _model(time: int, n: int, kind: str, *, epoch: int, batches: int, odd: str) -> ev.Artifact:
    return ev.Artifact(
        time,
        n,
        kind,
        "digits_mlp" + odd,
        incoming=str(n),
        size=341_002,
        media_type="application/x-pytorch",
        context=("training",),
        step=(epoch + 1) * batches - 1,
        epoch=epoch,
        use="generated",
        attributes={"parameters": 85_002},
    )


def _stored(producer: bytes, stream: list[ev.Event], time: int) -> list[ev.Event]:
    """What the collector says of a producer's files: the final model equals the last checkpoint."""
    made: list[ev.Event] = []
    for e in stream:
        if isinstance(e, ev.Artifact):
            content = f"model {e.epoch}" if e.kind in ("checkpoint", "model") else e.name
            digest = _hash(content)
            path = f"artifacts/{digest[:2]}/{digest}"
            made.append(ev.Stored(time, producer, e.n, digest, e.size or 2210, path))
    return made


def _ending(status: str, rank: int, ranks: int) -> str:
    if status in ("running", "finished"):
        return status
    if status in ("died", "unreachable"):
        return status if rank == ranks - 1 else "finished"
    return status if rank == 0 else "stopped"
