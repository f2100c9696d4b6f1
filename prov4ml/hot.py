"""The metric call: check, encode, copy, commit; nothing else.

``metric_logger`` makes the function that ``Run.log_metric`` is, ``follower`` the one of the module,
which goes where the current run is.  A point of a known series
with a ``float`` value and an ``int`` or no step takes the short way: fixed-width msgpack
behind a prebuilt prefix, packed straight into the mapped journal.  Everything else (first
point of a series, other number types, ``timestamp=``) goes round once and checks its arguments
one by one.  Neither way waits for a process, a network or a disk.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import operator
import struct
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import Enum
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from prov4ml import segment as seg
from prov4ml.asking import peek
from prov4ml.errors import UsageError
from prov4ml.events import Point, SeriesDefined
from prov4ml.journal import WRITERS, Deferred, Journal
from prov4ml.readback import Readback, elsewhere, single
from prov4ml.talk import short
from prov4ml.wire import MAX_RECORD

__all__ = [
    "Bound",
    "Clock",
    "MetricCall",
    "bind",
    "checked",
    "context_path",
    "current_path",
    "follower",
    "metric_logger",
    "nowhere",
    "number",
    "placed",
    "scope",
]

Path = tuple[str, ...]

scope: ContextVar[Path | None] = ContextVar("prov4ml.context", default=None)
"""The context that calls inside ``with context(...)`` get by default."""

_FAULTS: Final = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""What a thing raises that is no number; not what a signal handler may raise meanwhile."""
_MAX_EXACT: Final = 1 << 53
_MAX_KEY: Final = 16_384  # bytes of a key or a context name
_SOURCE: Final = object()  # tells (source, context) from a path of two names

# [tag, series, time, value, step]: array of 5, tag 3, uint32, int64, float64, int64 or nil
_STEP: Final = struct.Struct(">8sqcdcq")
_NO_STEP: Final = struct.Struct(">8sqcdc")
_PREFIX: Final = b"\x95\x03\xce"
_STEP_COMMIT: Final = (1 << 32) + _STEP.size
_NO_STEP_COMMIT: Final = (1 << 32) + _NO_STEP.size


class Clock:
    """UTC in ns: the wall clock at the start plus monotonic time since."""

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        return time.monotonic_ns() + self.offset


class MetricCall(Protocol):
    """``log_metric``, as ``Run`` and the module have it."""

    def __call__(
        self,
        key: str,
        value: Any,
        context: str | None = None,
        step: int | None = None,
        source: str | None = None,
        timestamp: Any = None,
    ) -> None: ...


Bound: TypeAlias = tuple[Any, dict[Any, dict[str, bytes]], int, Callable[..., object]]
"""Where metric calls go: journal, prefixes by context and name, clock offset, the careful way."""


def metric_logger(journal: Journal, clock: Clock) -> MetricCall:
    """The ``log_metric`` of a run that writes into ``journal``."""
    return follower(bind(journal, clock, Readback(journal, number)))[0]


def nowhere(instead: Callable[..., object]) -> Bound:
    """Every call goes to ``instead``, which may raise; nothing is written."""
    return None, {}, 0, instead


def follower(bound: Bound) -> tuple[MetricCall, Callable[[Bound], None]]:
    """A ``log_metric``, and the function that points it elsewhere, from one call to the next."""
    now = time.monotonic_ns
    pack, pack_short = _STEP.pack_into, _NO_STEP.pack_into
    default = scope.get

    def log_metric(
        key: str,
        value: Any,
        context: Any = None,
        step: int | None = None,
        source: str | None = None,
        timestamp: Any = None,
    ) -> None:
        """One value of a metric series; see ``Run.log_metric``."""
        journal, series, offset, careful = bound  # one look: another thread may point us elsewhere
        if type(value) is not float or timestamp is not None:
            careful(key, value, context, step, source, timestamp)
            return
        if context is None:
            context = default()
        try:
            prefix = (series[context] if source is None else series[_SOURCE, source, context])[key]
        except (KeyError, TypeError):
            prefix = None
        if prefix is None:  # not in the handler: an error of the arguments stands alone
            careful(key, value, context, step, source, None)
            return
        moment = now() + offset
        if type(step) is int:
            if journal.busy:
                careful(key, value, context, step, source, None)
                return
            try:
                journal.busy = True  # no call between the test and this
                if journal.position <= journal.limit or journal.room(34):
                    position = journal.position
                    pack(journal.buffer, position, prefix, moment, b"\xcb", value, b"\xd3", step)
                    journal.position = position + 34
                    journal.words[16] = journal.commit = journal.commit + _STEP_COMMIT
            except struct.error:
                raise UsageError(f"step {_shown(step)} does not fit into 64 bits") from None
            finally:
                journal.busy = False
                if journal.deferred:
                    journal.drain()
        elif step is None:
            if journal.busy:
                careful(key, value, context, step, source, None)
                return
            try:
                journal.busy = True
                if journal.position <= journal.limit or journal.room(26):
                    position = journal.position
                    pack_short(journal.buffer, position, prefix, moment, b"\xcb", value, b"\xc0")
                    journal.position = position + 26
                    journal.words[16] = journal.commit = journal.commit + _NO_STEP_COMMIT
            finally:
                journal.busy = False
                if journal.deferred:
                    journal.drain()
        else:
            careful(key, value, context, step, source, None)

    def follow(other: Bound) -> None:
        nonlocal bound
        bound = other

    WRITERS.add(log_metric.__code__)
    return log_metric, follow


def bind(
    journal: Journal,
    clock: Clock,
    readback: Readback,
    parents: Mapping[str, str] | None = None,
    watchers: Mapping[str, Callable[[Path, float], None]] | None = None,
) -> Bound:
    """Where the metric calls of a run go; ``readback`` takes values that lie on a device.

    ``parents``: contexts that stand under another one, see ``placed``.  ``watchers``: what wants to
    see each value of a metric, by name; such a metric never takes the short way.  Who adds to
    either clears the prefixes afterwards.
    """
    under = {} if parents is None else parents
    watched = {} if watchers is None else watchers
    series: dict[Any, dict[str, bytes]] = {}  # by context, or with the source; then by name
    numbers: dict[tuple[str, Path, str | None], int] = {}
    defined: set[int] = set()  # whose definition the journal holds
    pending: dict[int, Deferred] = {}  # definitions that interrupted a writer
    counter = itertools.count()

    def careful(
        key: Any,
        value: Any,
        context: Any,
        step: Any,
        source: Any,
        timestamp: Any,
        unit: str | None = None,
    ) -> None:
        """Check everything, by name; define the series if it is new."""
        name, given, said, step, source, at = checked(key, value, context, step, source, timestamp)
        path = placed(said, under)
        identity = define(name, path, source, unit)
        moment = clock.now()
        point = Point(
            identity,
            moment if at is None else at,
            given if type(given) is float else math.nan,
            step,
            None,
            None if at is None else moment,
        )
        watcher = watched.get(name)
        if type(given) is not float or identity in readback.waiting:
            readback.add(point, given, None if watcher is None else partial(watcher, path))
            for table in list(series.values()):  # no short way past those that wait
                if table.get(name) == _prefix(identity):
                    table.pop(name, None)
            return
        if identity in defined and watcher is None:
            table = series.setdefault(_table_key(context, said, source), {})
            if name not in table:
                with readback.lock:
                    if identity not in readback.waiting:
                        table[name] = _prefix(identity)
                if name in watched or placed(said, under) != path:  # since another thread's call
                    table.pop(name, None)
        journal.append(msgspec.msgpack.encode(point))
        if watcher is not None:
            watcher(path, given)

    def define(name: str, path: Path, source: str | None, unit: str | None) -> int:
        """The number of a series, whose definition stands before the next event of this call.

        Other threads may be defining the same series: then the definition stands there twice,
        with one number.
        """
        identity = numbers.get((name, path, source))
        if identity is None:
            identity = numbers.setdefault((name, path, source), next(counter))
        waiting = pending.get(identity)
        if waiting is not None and waiting.written:
            defined.add(identity)
            pending.pop(identity, None)
        if identity not in defined:
            record = msgspec.msgpack.encode(SeriesDefined(identity, name, path, source, unit))
            if len(record) > MAX_RECORD:
                raise UsageError(
                    f"key, context and source have {len(record):,} bytes; {MAX_RECORD:,} are kept"
                )
            journal.definitions.append(record)  # first, so that a segment turned now has it
            waiting = journal.append(record)
            if waiting is None:
                defined.add(identity)
            else:
                pending[identity] = waiting
        return identity

    WRITERS.add(careful.__code__)
    WRITERS.add(define.__code__)
    return journal, series, clock.offset, careful


def _prefix(identity: int) -> bytes:
    """What stands before the time in a point of a series."""
    return _PREFIX + struct.pack(">I", identity) + b"\xd3"


def _table_key(context: Any, path: Path, source: str | None) -> Any:
    named = isinstance(context, (str, Enum)) and not isinstance(context, int)
    first: Any = context if named else (path or None)
    return first if source is None else (_SOURCE, source, first)


assert seg.COMMIT == 16  # written out in log_metric


# ------------------------------------------------------------------------ argument checks


def checked(
    key: Any,
    value: Any,
    context: Any,
    step: Any,
    source: Any,
    timestamp: Any,
    unit: str | None = None,
) -> tuple[str, Any, Path, int | None, str | None, int | None]:
    """The arguments of a metric call as they are kept; raises ``TypeError`` or ``UsageError``.

    The value is a float, or what it was if reading it would wait for a device.
    """
    return (
        text("key", key),
        _given(value),
        current_path(context),
        None if step is None else whole("step", step),
        None if source is None else text("source", _name(source)),
        None if timestamp is None else nanoseconds(timestamp),
    )


def _given(value: Any) -> Any:
    if peek(value, "device") is None or not elsewhere(value):
        return real("value", value)
    single("value", value)
    return value


def number(value: Any) -> float:
    """The number of a metric, waiting for its device if it lies on one."""
    return real("value", value)


def _name(value: Any) -> Any:
    """The name of a member of an ``Enum`` that is no string; other things as they are."""
    if isinstance(value, Enum) and not isinstance(value, str):
        return value.value if isinstance(value.value, str) else value.name.lower()
    return value


def text(argument: str, value: Any) -> str:
    """A non-empty string of bounded size that UTF-8 can hold; lone surrogates become text."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {type(value).__name__}")
    plain = str.__str__(value)
    if not plain:
        raise UsageError(f"{argument} must not be empty")
    coded = plain.encode("utf-8", "backslashreplace")
    if len(coded) > _MAX_KEY:
        raise UsageError(f"{argument} has {len(coded):,} bytes; at most {_MAX_KEY:,} are kept")
    return coded.decode("utf-8")


def real(argument: str, value: Any) -> float:
    """A single number as binary64; NaN and infinities are numbers.

    An integer of any kind (``int``, NumPy, a tensor of one) is kept exactly or not at all.
    """
    if isinstance(value, (str, bytes, bytearray)) or value is None:
        raise TypeError(f"{argument} must be a number, not {type(value).__name__}")
    given = value
    item = peek(value, "item")
    if callable(item):  # NumPy, torch and others: the number in an array of one
        try:
            value = item()
        except _FAULTS as error:
            raise _no_number(argument, given, error) from None
        if isinstance(value, (str, bytes)):
            raise TypeError(f"{argument} must be a number, not {type(value).__name__}")
    if isinstance(value, int):
        number = int(value)
        if abs(number) > _MAX_EXACT:
            raise UsageError(
                f"{argument} {_shown(number)} is beyond 2**53, where binary64 is no longer exact; "
                f"log it as a parameter or divide it"
            )
        return float(number)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    except _FAULTS as error:
        raise _no_number(argument, given, error) from None
    if math.isinf(result) and value not in (math.inf, -math.inf):
        raise UsageError(f"{argument} is beyond the largest binary64 number, 1.8e308")
    return result


def _no_number(argument: str, value: Any, error: Exception) -> TypeError:
    shape = peek(value, "shape")
    what = type(value).__name__
    if isinstance(shape, tuple) and shape:
        what += f" of shape {tuple(shape)}"
    try:
        why = short(str(error), 300)
    except Exception:
        why = type(error).__name__
    return TypeError(f"{argument} must be a single number, not {what} ({why})")


def _shown(number: int) -> str:
    """An integer for a message (``str`` refuses beyond 4,300 digits)."""
    return str(number) if number.bit_length() <= 256 else f"of {number.bit_length():,} bits"


def whole(argument: str, value: Any) -> int:
    """An int64."""
    try:
        number = operator.index(value)
    except TypeError:
        if isinstance(value, float) and value.is_integer():
            number = int(value)
        else:
            what = repr(value) if isinstance(value, float) else type(value).__name__
            raise TypeError(f"{argument} must be an integer, not {what}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise UsageError(f"{argument} {_shown(number)} does not fit into 64 bits")
    return number


def nanoseconds(value: Any) -> int:
    """``timestamp=``: aware datetime, float seconds or int milliseconds since the epoch."""
    if isinstance(value, dt.datetime):
        if value.utcoffset() is None:
            raise UsageError("timestamp is a naive datetime: give it a time zone")
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        since = value - epoch
        result = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    elif isinstance(value, bool):
        raise TypeError("timestamp must be a datetime, float seconds or int milliseconds")
    elif isinstance(value, int):
        result = value * 1_000_000
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"timestamp must be finite, not {value}")
        result = round(value * 1e9) if abs(value) < 1e10 else 1 << 63
    else:
        raise TypeError(
            "timestamp must be an aware datetime, float seconds or int milliseconds, "
            f"not {type(value).__name__}"
        )
    if not -(1 << 63) <= result < 1 << 63:
        raise UsageError("timestamp does not fit into int64 nanoseconds, 1677 to 2262")
    return result


def current_path(context: Any) -> Path:
    """The context that a call names, else the one that ``with context(...)`` set."""
    return (scope.get() or ()) if context is None else context_path(context)


def placed(path: Path, parents: Mapping[str, str]) -> Path:
    """A path put under the contexts that its first name stands under."""
    while parents and path and path[0] in parents:
        path = (parents[path[0]], *path)
    return path


def context_path(value: Any) -> Path:
    """A context as a path: a name, or a path as ``context(...)`` nests them.

    A member of an ``Enum`` without texts goes by its name in small letters.
    """
    if isinstance(value, tuple):
        return tuple(text("context", _name(part)) for part in value)
    return (text("context", _name(value)),)
