"""The vocabulary: everything that can stand in an event log; nothing but data.

Each event is a msgspec struct encoded as a msgpack array whose first item is an integer
tag.  Tags are never reused, fields are only appended and then have defaults, so every log
ever written can be read.  ``prov4ml/docs/format.md`` describes the bytes.

Tags below 64 come from training processes, 64 and above from a collector.  The sequence
number of an event is its position in its producer's stream and is not stored in the event.
Times are int64 nanoseconds since 1970-01-01 UTC.  A *context* is a path of names
(``("training",)``, nested ``("training", "warm-up")``); ``()`` is no context.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

__all__ = [
    "EVENT_FORMAT",
    "Activity",
    "Artifact",
    "ClientEvent",
    "ClockOffset",
    "ClockStepped",
    "CollectorEvent",
    "CollectorStarted",
    "Command",
    "ContextEnded",
    "ContextStarted",
    "Dropped",
    "Ended",
    "EpochEnded",
    "EpochStarted",
    "Event",
    "FinalMetric",
    "Gap",
    "Host",
    "LeaseLost",
    "LeaseRegained",
    "Linked",
    "OutputSealed",
    "Param",
    "Point",
    "RankEnded",
    "Received",
    "Rejected",
    "RunEnded",
    "RunOpened",
    "Scalar",
    "SeriesDefined",
    "SinkCursor",
    "SinkFailed",
    "Source",
    "Split",
    "Started",
    "Stored",
    "Tag",
]

EVENT_FORMAT: Final = 1
"""Version of this vocabulary; a peer with another one is refused at hello."""

Scalar: TypeAlias = str | int | float | bool | None
"""Values that attributes of artifacts, splits and hosts may have."""


class _Base(msgspec.Struct, array_like=True, frozen=True):
    pass


# ---------------------------------------------------------------- from training processes


class Started(_Base, frozen=True, tag=1):
    """First event of every producer: who it is and what it wants recorded."""

    time: int
    run: str  # UUIDv7 of the run, canonical text form
    experiment: str
    name: str  # the run directory's name, "<experiment>_<n>"
    directory: str  # absolute path of the run directory
    namespace: str  # absolute IRI ending in "/" or "#"
    attempt: int  # from 1
    rank: int
    local_rank: int
    world_size: int
    pid: int
    pid_start: int  # clock ticks after boot, from /proc/<pid>/stat
    boot_id: str
    host: str
    user: str | None  # None: recording the user is switched off
    launcher: str  # "none", "torchrun", "slurm", "mpi", "prov4ml"
    version: str  # of prov4ml
    python: str
    settings: dict[str, Any]  # everything of the settings that shapes documents
    parent: bytes = b""  # a forked child's parent producer
    part_of: str = ""  # IRI of the run that this one is nested in
    scheduler: str = ""  # "slurm": whose job this is, and who may preempt it; "": nobody's


class SeriesDefined(_Base, frozen=True, tag=2):
    """Gives a metric series the number that its points carry; repeating it changes nothing."""

    series: int
    name: str
    context: tuple[str, ...] = ()
    source: str | None = None
    unit: str | None = None


class Point(_Base, frozen=True, tag=3, gc=False):
    """One metric value.  ``value`` is binary64; NaN and infinities are values.

    ``time`` is the point's time; ``logged`` is the time of the call where the two differ
    (``timestamp=`` was given).  Order and generation go by the time of the call.
    """

    series: int
    time: int
    value: float
    step: int | None = None
    epoch: int | None = None
    logged: int | None = None


class Param(_Base, frozen=True, tag=4):
    """A parameter.  ``value`` is the lexical form, exact, whatever its size.

    ``datatype``: "str", "int", "float", "bool", "none", "json" (canonical JSON of a list or
    dict) or "text" (the ``str()`` of any other object).  A value of more than 1,000
    characters is a side file: ``artifact`` is its occurrence number and ``value`` its
    sha256 in hex.  The run used it; so did ``context``, where there is one.
    """

    time: int
    key: str
    datatype: str
    value: str
    artifact: int | None = None
    context: tuple[str, ...] = ()
    source: str | None = None  # where it came from, as the user says
    activity: int = 0  # the number of the activity that it is a parameter of; 0: of the run


class Tag(_Base, frozen=True, tag=5):
    """A tag of the run; the last value of a key counts."""

    time: int
    key: str
    value: str


class ContextStarted(_Base, frozen=True, tag=6):
    """``with context(...)`` was entered, or a context declared."""

    time: int
    context: tuple[str, ...]


class ContextEnded(_Base, frozen=True, tag=7):
    """``with context(...)`` was left."""

    time: int
    context: tuple[str, ...]


class Artifact(_Base, frozen=True, tag=8):
    """One occurrence of something with content: file, dataset, checkpoint, model, environment.

    ``kind``: "artifact", "dataset", "checkpoint", "model" (the final one), "environment",
    "parameter" (side file of a long value), "layers" (of a model), "source" (files of code),
    "diff" (what a working tree has changed).  ``use``: "used", "generated" or "" (neither).
    ``incoming`` names the copy below ``artifacts/.incoming/``; None when there is no copy.
    Attributes have plain names: samples, parameters, packages, python, ...
    """

    time: int
    n: int  # counted by the client from 1, per rank and attempt (per producer in a forked child)
    kind: str
    name: str
    location: str | None = None  # the path as the user gave it
    incoming: str | None = None
    size: int | None = None  # bytes
    mtime: int | None = None  # ns
    media_type: str | None = None
    context: tuple[str, ...] = ()
    step: int | None = None
    epoch: int | None = None
    use: str = ""
    attributes: dict[str, Scalar] = {}
    derived: tuple[int | str, ...] = ()  # from: numbers on the same producer, IRIs of other runs'
    activity: int = 0  # the number of the activity that used or made it; 0: the context did
    tuned: int = 0  # so many of ``derived``, the first ones, are models that it was tuned from
    folder: int = 0  # the number of the occurrence (folder, files of a pattern) it is part of


class Split(_Base, frozen=True, tag=9):
    """A part of a dataset as a context uses it (or all of it, in batches)."""

    time: int
    name: str
    context: tuple[str, ...] = ()
    dataset: int | None = None  # occurrence number of the dataset on the same producer
    attributes: dict[str, Scalar] = {}  # samples, batch_size, batches, shuffle, seed, ...
    parent: str = ""  # the split, logged before on the same producer, that it is part of
    activity: int = 0  # the number of the activity that used it; 0: the context did


class Source(_Base, frozen=True, tag=10):
    """The code that ran: entry script and the commit it was taken from."""

    time: int
    script: str | None
    remote: str | None = None
    commit: str | None = None
    branch: str | None = None
    attributes: dict[str, Scalar] = {}


class Command(_Base, frozen=True, tag=11):
    """The command line, already redacted, and the working directory."""

    time: int
    argv: tuple[str, ...]
    directory: str = ""


class Host(_Base, frozen=True, tag=12):
    """The machine of a rank: os, machine, cores, memory (bytes), ..."""

    time: int
    name: str
    attributes: dict[str, Scalar] = {}


class Ended(_Base, frozen=True, tag=13):
    """Last event of a rank that could say it itself (status known by "self")."""

    time: int
    status: str  # "finished", "failed", "killed", "preempted", "stopped"
    exit_code: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    sinks: tuple[str, ...] = ()  # "+name" and "-name": what end_run changed of the list


class ClockStepped(_Base, frozen=True, tag=14):
    """The wall clock moved against the monotonic one by ``offset`` ns."""

    time: int
    offset: int


class Dropped(_Base, frozen=True, tag=15):
    """The producer itself gave up ``count`` events from sequence ``first`` on (spool full)."""

    time: int
    first: int
    count: int
    reason: str
    points: int = 0  # of them points of metrics, or their series
    since: int | None = None  # when the first of them was dropped


class EpochStarted(_Base, frozen=True, tag=16):
    """``with epoch(...)`` was entered.

    What the producer says until the end of it belongs to the epoch, where its context is this
    one or inside it and it names no epoch itself.  Of several that are open the one of the
    innermost context counts, of these the one entered last.
    """

    time: int
    epoch: int
    context: tuple[str, ...] = ()
    activity: bool = False  # it is an activity, which makes and uses what is logged in it


class EpochEnded(_Base, frozen=True, tag=17):
    """``with epoch(...)`` was left."""

    time: int
    epoch: int
    context: tuple[str, ...] = ()


class Activity(_Base, frozen=True, tag=18):
    """An activity of its own; said when it starts and, with its status, when it ends."""

    time: int
    n: int  # counted by the client from 1, as occurrences are
    name: str
    context: tuple[str, ...] = ()
    parent: int = 0  # the number of the activity around it
    status: str = "running"  # then "finished" or "failed"
    error_type: str | None = None
    error_message: str | None = None
    started: int | None = None  # when it ends: the time at which it started


class Linked(_Base, frozen=True, tag=19):
    """An occurrence that another call logged was used or generated by an activity.

    An occurrence is generated once: the first activity to claim it stands for the context that
    logged it, unless it began later than that.
    """

    time: int
    n: int  # of the occurrence, on the same producer
    use: str  # "used" or "generated"
    activity: int = 0  # its number; 0: the context
    context: tuple[str, ...] = ()


class FinalMetric(_Base, frozen=True, tag=20):
    """A metric of which one value is wanted; said when that is registered.

    ``fold``: "add", "subtract", "min", "max", "mean", "last" are computed from the points of all
    processes.  "callable" is computed by the process that registered it, which says this again,
    with ``value``, at its end.
    """

    time: int
    n: int  # counted by the client from 1
    name: str
    fold: str
    initial: float
    context: tuple[str, ...] = ()  # (): whatever the context of the points is
    label: str = ""  # what a callable is called
    value: float | None = None
    count: int = 0  # points that went into ``value``
    error: str | None = None  # why there is no value


# ----------------------------------------------------------------------- from a collector


class CollectorStarted(_Base, frozen=True, tag=64):
    """First event of a collector's own stream in a run."""

    time: int
    host: str
    pid: int
    version: str


class RunOpened(_Base, frozen=True, tag=65):
    """The collector took the run up, with every setting that shapes documents."""

    time: int
    run: str
    directory: str
    sinks: tuple[str, ...]
    options: dict[str, dict[str, Any]] = {}


class Stored(_Base, frozen=True, tag=66):
    """What became of an occurrence's bytes: hashed and stored, or why not."""

    time: int
    producer: bytes
    n: int
    sha256: str | None  # 64 hex digits
    size: int | None
    path: str | None  # relative to the run directory
    error: str | None = None


class SinkCursor(_Base, frozen=True, tag=67):
    """A stream sink has everything before log frame ``frame`` safely."""

    time: int
    sink: str
    frame: int


class RankEnded(_Base, frozen=True, tag=68):
    """The end of a rank that could not say it itself."""

    time: int
    producer: bytes
    status: str  # "died", "killed", "failed", "finished", "unreachable"
    known: str  # "waited", "pidfd", "inferred", "none"
    exit_code: int | None = None
    signal: int | None = None
    sent: int | None = None  # events in its journal, when that could be read


class LeaseLost(_Base, frozen=True, tag=69):
    """Nothing was heard of a producer of another host for a lease: it is ``unreachable``.

    Its next event, or LeaseRegained, takes that back.
    """

    time: int
    producer: bytes
    next: int | None = None  # the sequence expected of it then: what comes from there on is later


class LeaseRegained(_Base, frozen=True, tag=70):
    """... and then it was heard of again, whether or not it had events to send."""

    time: int
    producer: bytes


class ClockOffset(_Base, frozen=True, tag=71):
    """Add ``offset`` ns to a producer's times to get the collector's."""

    time: int
    producer: bytes
    offset: int


class SinkFailed(_Base, frozen=True, tag=72):
    """A sink raised; the others went on."""

    time: int
    sink: str
    error: str


class OutputSealed(_Base, frozen=True, tag=73):
    """A stream sink wrote a file that is finished."""

    time: int
    sink: str
    path: str  # relative to the run directory
    sha256: str
    size: int
    rows: int


class Gap(_Base, frozen=True, tag=74):
    """``count`` events of a producer from sequence ``first`` on are lost for ever."""

    time: int
    producer: bytes
    first: int
    count: int
    reason: str


class Rejected(_Base, frozen=True, tag=75):
    """One received event that could not be decoded."""

    time: int
    producer: bytes
    sequence: int
    reason: str


class Received(_Base, frozen=True, tag=76):
    """A producer's account at the end of the run."""

    time: int
    producer: bytes
    sent: int
    received: int


class RunEnded(_Base, frozen=True, tag=77):
    """All ranks of the attempt have ended and all outputs are sealed."""

    time: int
    attempt: int


ClientEvent: TypeAlias = (
    Started
    | SeriesDefined
    | Point
    | Param
    | Tag
    | ContextStarted
    | ContextEnded
    | Artifact
    | Split
    | Source
    | Command
    | Host
    | Ended
    | ClockStepped
    | Dropped
    | EpochStarted
    | EpochEnded
    | Activity
    | Linked
    | FinalMetric
)
CollectorEvent: TypeAlias = (
    CollectorStarted
    | RunOpened
    | Stored
    | SinkCursor
    | RankEnded
    | LeaseLost
    | LeaseRegained
    | ClockOffset
    | SinkFailed
    | OutputSealed
    | Gap
    | Rejected
    | Received
    | RunEnded
)
Event: TypeAlias = ClientEvent | CollectorEvent
