"""Hypothesis strategies for event logs, and for the ways in which the same log can arrive.

``logs`` gives what some training processes and collectors of one run said: several ranks and
attempts, children, lost stretches, events that do not decode, clocks that disagree.  ``arrivals``
gives one way of receiving it: cut anywhere, repeated, interleaved; only the order within a
producer stands.  Streams are well-formed (a series is defined before its points), not sensible.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from prov4ml import events as ev
from prov4ml.resumption import cuts
from prov4ml.state import RunState, apply, recut

__all__ = ["Batch", "Log", "Piece", "arrivals", "folded", "logs"]

Piece = tuple[int, tuple[ev.Event | str, ...]]
"""The first sequence number and the events from there on; a str is one that did not decode."""

Log = dict[bytes, tuple[Piece, ...]]
"""By producer, its pieces in order; between two pieces something was lost."""

Batch = tuple[bytes, int, tuple[ev.Event | str, ...]]

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
START = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z

_NAMES = ("loss", "a b", "é/\n<&>%\"'", "..", "", "series", "\U0001f600", "W" * 200)
_PATHS: tuple[tuple[str, ...], ...] = (
    (),
    ("training",),
    ("validation",),
    ("training", "validation"),
    ("testing",),
    ("series", "series", "loss"),
    ("training", "series", "loss"),
    ("é/\n<&>%\"'",),
)
_FILES = {
    "metrics/part-0-3.parquet": "parquet",
    "metrics/part-0-9.parquet": "parquet",
    "metrics/part-0-3.csv": "csv",
    "metrics/part-0-9.zarr.zip": "zarr",
    "metrics/part-0-9.nc": "netcdf",
    "x.db": "other",
}
_OUTER = (
    "",
    "",
    "https://w3id.org/prov4ml/run/0190b6f2-7c1e-7000-8000-000000000001/run",
    "http://lab.example#run/0190b6f2-7c1e-7000-8000-000000000001/run",  # the same prefix
    f"https://w3id.org/prov4ml/run/{RUN}/run",  # itself
    "https://lab.example/a#b%20c",
    "no iri",
)
_VALUES = (0.0, -0.0, 1.5, 0.1, 0.2, 0.3, 1e300, -1e300, float("nan"), float("inf"), float("-inf"))


_SOURCES = (
    *(0, 1, 1, 2, 2, 3, 4),
    f"https://w3id.org/prov4ml/run/{RUN}/attempt/1/rank/0/artifact/1",
    f"https://w3id.org/prov4ml/run/{RUN}/attempt/1/rank/1/artifact/2",
    f"http://lab.example#run/{RUN}/attempt/2/rank/0/artifact/1",
    f"https://w3id.org/prov4ml/run/{RUN}/attempt/2/rank/2/child/0123456789abcdef/artifact/1",
    f"https://w3id.org/prov4ml/run/{RUN}/run",  # an activity
    "https://w3id.org/prov4ml/run/0190b6f2-7c1e-7000-8000-000000000001/attempt/1/rank/0/artifact/7",
    "https://lab.example/a#b%20c",  # what a run may say that it is part of
    "https://data.example/sets/7?v=2",
    "no iri",
)


def _times() -> st.SearchStrategy[int]:
    """Close to each other, equal, or apart by less than documents print; in no order."""
    return st.integers(0, 40).map(lambda n: START + n * 400)


def _scalars() -> st.SearchStrategy[dict[str, ev.Scalar]]:
    values = st.sampled_from((None, True, 3, 2**70, 0.5, float("nan"), "x"))
    return st.dictionaries(st.sampled_from(("samples", "batch size", "é")), values, max_size=2)


def _client_events() -> st.SearchStrategy[ev.Event | str]:
    time, name, path = _times(), st.sampled_from(_NAMES), st.sampled_from(_PATHS)
    datatype, text = (
        st.sampled_from(
            [
                ("int", ("1", "7" * 30)),
                ("float", ("0.1", "nan", "inf")),
                ("bool", ("true",)),
                ("none", ("",)),
                ("str", ("1", "a\0b")),
                ("json", ("[1]",)),
                ("text", ("object",)),
            ]
        ),
        st.integers(0, 2),
    )
    activity = st.sampled_from((0, 0, 1, 2, 7))
    params = st.builds(
        lambda t, key, kind, n, at, source, activity: ev.Param(
            t,
            key,
            kind[0],
            kind[1][n % len(kind[1])],
            context=at,
            source=source,
            activity=activity,
        ),
        time,
        name,
        datatype,
        text,
        st.just(()) | path,
        st.sampled_from((None, None, "s", "a b")),
        activity,
    )
    points = st.builds(
        ev.Point,
        st.sampled_from((0, 0, 0, 1, 2, 4)),
        time,
        st.sampled_from(_VALUES),
        st.none() | st.integers(0, 9),
        st.none() | st.none() | st.integers(5, 6),
        st.none() | time,
    )
    epoch, around = st.integers(0, 2), st.sampled_from(_PATHS[:4])
    lost = st.integers(1, 4)
    return st.one_of(
        points,
        points,
        points,
        params,
        st.builds(ev.EpochStarted, time, epoch, around, st.booleans()),
        st.builds(ev.EpochStarted, time, epoch, around, st.booleans()),
        st.builds(ev.EpochEnded, time, epoch, around),
        st.builds(
            ev.Activity,
            time,
            st.integers(0, 3),
            name,
            path,
            st.integers(0, 3),
            st.sampled_from(("running", "running", "finished", "failed")),
            started=st.none() | time,
        ),
        st.builds(
            ev.Linked,
            time,
            st.integers(1, 3),
            st.sampled_from(("used", "generated")),
            activity,
            path,
        ),
        st.builds(
            ev.FinalMetric,
            time,
            st.integers(1, 2),
            name,
            st.sampled_from(("min", "max", "add", "subtract", "mean", "last", "callable")),
            st.sampled_from(_VALUES),
            path,
            value=st.none() | st.sampled_from(_VALUES),
            error=st.none() | st.just("ValueError: x"),
        ),
        st.builds(
            lambda t, first, n, points: ev.Dropped(t, first, n, "full", min(n, points)),
            time,
            st.integers(1, 9),
            lost,
            lost,
        ),
        st.builds(ev.Tag, time, name, st.sampled_from(("x", "y"))),
        st.builds(ev.ContextStarted, time, path),
        st.builds(ev.ContextEnded, time, path),
        st.builds(
            ev.Split,
            time,
            name,
            path,
            st.none() | st.integers(1, 3),
            _scalars(),
            parent=st.sampled_from(_NAMES),
            activity=activity,
        ),
        st.builds(
            ev.Source,
            time,
            st.none() | name,
            commit=st.none() | st.just("5880068"),
            attributes=st.sampled_from(
                ({}, {}, {"dirty": True, "diff": 1}, {"dirty": False}, {"sources": 2, "diff": "x"})
            ),
        ),
        st.builds(ev.Command, time, st.tuples(name)),
        st.builds(ev.Host, time, name, _scalars()),
        st.builds(ev.ClockStepped, time, st.integers(-5, 5)),
        st.sampled_from(("unknown tag 99", "truncated")),
        st.builds(
            ev.Artifact,
            time,
            st.just(0),  # numbered afterwards
            st.sampled_from(
                (
                    "checkpoint",
                    "checkpoint",
                    "model",
                    "artifact",
                    "dataset",
                    "environment",
                    "layers",
                    "diff",
                )
            ),
            st.sampled_from(_NAMES[:2]),
            st.none() | name,
            mtime=st.none() | time,
            context=path,
            step=st.none() | st.integers(0, 9),
            use=st.sampled_from(("generated", "generated", "used", "")),
            attributes=_scalars() | st.builds(lambda n: {"layers": n}, st.integers(1, 4)),
            derived=st.lists(st.sampled_from(_SOURCES), max_size=3).map(tuple),
            tuned=st.integers(0, 2),
            folder=st.sampled_from((0, 0, 0, 1, 2, 3)),
            activity=activity,
        ),
    )


@st.composite
def _scene(draw: st.DrawFn) -> list[ev.Event | str]:
    """Activities and epochs as a client writes them: nested, times never falling."""
    path = draw(st.sampled_from(_PATHS[:4]))
    time = draw(_times())
    made: list[ev.Event | str] = []

    def now() -> int:
        nonlocal time
        time += draw(st.sampled_from((0, 400, 1200)))
        return time

    epoch = draw(st.none() | st.integers(0, 2))
    if epoch is not None:
        made.append(ev.EpochStarted(now(), epoch, path, draw(st.booleans())))
    number = draw(st.integers(1, 3))
    open_ = list(range(number, number + draw(st.integers(0, 2))))
    for n in open_:
        made.append(ev.Activity(now(), n, f"step {n}", path, n - 1 if n > number else 0))
    for _ in range(draw(st.integers(0, 4))):
        activity = draw(st.sampled_from([0, *open_]))
        use = draw(st.sampled_from(("used", "generated")))
        kind = draw(st.sampled_from(("artifact", "checkpoint")))
        if draw(st.booleans()):
            made.append(ev.Artifact(now(), 0, kind, "a", context=path, use=use, activity=activity))
        else:
            made.append(ev.Linked(now(), draw(st.integers(1, 3)), use, activity, path))
    for n in reversed(open_):
        if draw(st.integers(0, 3)):
            status = draw(st.sampled_from(("finished", "failed")))
            made.append(ev.Activity(now(), n, f"step {n}", path, 0, status))
    if epoch is not None and draw(st.integers(0, 3)):
        made.append(ev.EpochEnded(now(), epoch, path))
    return made


@st.composite
def _client(draw: st.DrawFn, started: ev.Started) -> list[ev.Event | str]:
    stream: list[ev.Event | str] = [started]
    for number in range(draw(st.integers(1, 5))):
        name, path = draw(st.sampled_from(_NAMES)), draw(st.sampled_from(_PATHS))
        stream.append(ev.SeriesDefined(number, name, path, draw(st.sampled_from((None, "s")))))
    counted = 0
    scenes = st.one_of(*[_client_events().map(lambda event: [event])] * 5, _scene())
    for event in itertools.chain(*draw(st.lists(scenes, max_size=14))):
        if isinstance(event, ev.Artifact):
            counted += 1
            fields = {f: getattr(event, f) for f in event.__struct_fields__}
            event = ev.Artifact(**{**fields, "n": counted})
        stream.append(event)
    end = draw(st.sampled_from((None, "finished", "failed", "stopped")))
    if end is not None:
        error = ("ValueError", "bad\n<loss>") if end == "failed" else (None, None)
        stream.append(ev.Ended(draw(_times()), end, int(end == "failed"), *error))
    return stream


@st.composite
def _pieces(draw: st.DrawFn, stream: list[ev.Event | str]) -> tuple[Piece, ...]:
    """The stream, perhaps with a stretch of it lost (never its first event)."""
    if len(stream) < 3 or not draw(st.booleans()):
        return ((0, tuple(stream)),)
    low = draw(st.integers(1, len(stream) - 2))
    high = draw(st.integers(low + 1, len(stream) - 1))
    return (0, tuple(stream[:low])), (high, tuple(stream[high:]))


@st.composite
def _collector(draw: st.DrawFn, clients: list[bytes]) -> list[ev.Event | str]:
    time, who = _times(), st.sampled_from(clients)
    digest = st.sampled_from(("one", "two")).map(lambda t: hashlib.sha256(t.encode()).hexdigest())
    part = st.sampled_from(tuple(_FILES))
    events: st.SearchStrategy[Any] = st.one_of(
        st.builds(
            ev.Stored, time, who, st.integers(1, 3), digest, st.just(7), st.just("artifacts")
        ),
        st.builds(
            ev.Stored,
            time,
            who,
            st.integers(1, 3),
            st.none(),
            st.none(),
            st.none(),
            st.sampled_from(("gone", "full")),
        ),
        st.builds(ev.ClockOffset, time, who, st.integers(-3000, 3000)),
        st.builds(
            ev.RankEnded,
            time,
            who,
            st.sampled_from(("died", "killed", "unreachable")),
            st.sampled_from(("pidfd", "none")),
            signal=st.sampled_from((None, 9, 15)),
            sent=st.none() | st.integers(0, 40),
        ),
        st.builds(
            ev.Gap, time, who, st.integers(0, 20), st.integers(1, 9), st.sampled_from(("a", "b"))
        ),
        st.builds(ev.SinkFailed, time, st.just("svg"), st.sampled_from(("x", "y"))),
        part.flatmap(
            lambda path: st.builds(
                ev.OutputSealed,
                time,
                st.just(_FILES[path]),
                st.just(path),
                digest,
                st.integers(0, 99),
                st.integers(0, 99),
            )
        ),
        st.builds(ev.RunEnded, time, st.integers(1, 2)),
        st.builds(ev.Received, time, who, st.integers(0, 9), st.integers(0, 9)),
        st.builds(ev.LeaseLost, time, who, st.none() | st.integers(0, 20)),
        st.builds(ev.LeaseRegained, time, who),
    )
    opened = ev.RunOpened(draw(time), RUN, "/prov/digits_0", draw(st.sampled_from(((), ("svg",)))))
    first = ev.CollectorStarted(START, "node00", 1, "0.1.0")
    return [first, opened, *draw(st.lists(events, max_size=8))]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Up to four processes in up to two attempts, and one or two collectors."""
    clients: list[bytes] = []
    made: Log = {}
    size = draw(st.sampled_from((1, 2, 20)))
    user = draw(st.sampled_from(("alice", None)))
    for number in range(draw(st.integers(1, 4))):
        producer = draw(st.binary(min_size=16, max_size=16).filter(lambda b: b not in made))
        is_child = bool(clients) and draw(st.integers(0, 3)) == 0
        started = ev.Started(
            draw(_times()),
            run=RUN,
            experiment="digits",
            name="digits_0",
            directory="/prov/digits_0",
            namespace=draw(st.sampled_from(("https://w3id.org/prov4ml/", "http://lab.example#"))),
            attempt=draw(st.integers(1, 2)),
            rank=draw(st.integers(0, 2)),
            local_rank=0,
            world_size=size,
            pid=4000 + number,
            pid_start=1,
            boot_id="5f0c1f9e",
            host=draw(st.sampled_from(("node00", "node 01"))),
            user=user,
            launcher="none",
            version="0.1.0",
            python="3.11.7",
            settings=draw(st.sampled_from(({}, {"detail": "rank"}))),
            parent=clients[0] if is_child else b"",
            part_of=draw(st.sampled_from(_OUTER)),
        )
        clients.append(producer)
        made[producer] = draw(_pieces(draw(_client(started))))
    for number in range(draw(st.integers(1, 2))):
        producer = hashlib.sha256(b"collector %d" % number).digest()[:16]
        made[producer] = ((0, tuple(draw(_collector(clients)))),)
    return made


@st.composite
def arrivals(draw: st.DrawFn, log: Log) -> list[Batch]:
    """The batches of a log as one receiver may see them: any cut, repeats, any interleaving."""
    queues: list[list[Batch]] = []
    for producer, pieces in log.items():
        queue: list[Batch] = []
        for first, events in pieces:
            at = 0
            while at < len(events):
                end = draw(st.integers(at + 1, len(events)))
                begin = at if draw(st.integers(0, 3)) else draw(st.integers(0, at))  # overlap
                queue.append((producer, first + begin, events[begin:end]))
                if not draw(st.integers(0, 3)):
                    queue.append(draw(st.sampled_from(queue)))  # an old one comes again
                at = end
        queues.append(queue)
    order = draw(st.permutations([n for n, queue in enumerate(queues) for _ in queue]))
    ways = [iter(queue) for queue in queues]
    return [next(ways[n]) for n in order]


def folded(batches: Iterable[Batch]) -> RunState:
    """The state after these batches, in this order; with the second pass where one is needed."""
    told = list(batches)
    state = RunState()
    for producer, first, events in told:
        apply(state, producer, first, events)
    found = cuts(state)
    if not found:
        return state
    again = recut(state, found)
    for producer, first, events in told:
        if producer in found:
            apply(again, producer, first, events)
    return again
