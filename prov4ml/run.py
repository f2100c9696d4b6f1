"""A run as its training process sees it: the public calls.

``Run`` has every call as a method and may be used as a context manager; several may coexist.
The module functions of ``prov4ml`` act on the current one.  A call checks its arguments,
writes an event into the journal and returns; only calls that hand over files do I/O, and
none waits for another process.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Final

import msgspec

from prov4ml import config, handover, hot, origin, process, rundir, service, spool
from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.errors import UsageError
from prov4ml.journal import Journal
from prov4ml.leaving import leave
from prov4ml.sender import Sender
from prov4ml.talk import log
from prov4ml.version import VERSION

__all__ = ["Context", "Run"]

_encode = msgspec.msgpack.encode
_LONG: Final = 1000  # characters of a parameter's value that stand in the event itself


class Context(str, Enum):
    """The usual contexts; any other non-empty string is one too."""

    TRAINING = "training"
    VALIDATION = "validation"
    TESTING = "testing"

    def __str__(self) -> str:
        return self.value


class Run:
    """An open run.  Made by ``start_run``; every method may be called from any thread."""

    def __init__(
        self,
        experiment: str,
        settings: config.Settings,
        where: rundir.Launch,
        claimed: rundir.Claim,
        environment: Mapping[str, str],
    ) -> None:
        self.experiment = experiment
        self.settings = settings
        self.id = claimed.run
        self.name = claimed.name
        self.directory = claimed.directory
        self.rank = where.rank
        self._where = where
        self._clock = hot.Clock()
        self._numbers = itertools.count(1)
        self._params: dict[str, str] = {}
        self._datasets: dict[int, tuple[Any, int]] = {}  # by id(); kept alive so ids stay true
        self._incoming = claimed.directory / "artifacts" / ".incoming"
        self._ended: str | None = None
        self._pid = os.getpid()
        self._places = spool.roots(environment)
        self._journal = Journal(
            self._identity(),
            self._places,
            spool.Quota(self._places, settings.spool_limit),
            environment.get("PROV4ML_SPOOL_MODE", ""),
        )
        self._started = self._introduction(claimed.key)
        self._journal.append(_encode(self._started))
        self._journal.prologue = self._child_introduction
        self.log_metric = hot.metric_logger(self._journal, self._clock)
        self._service = service.find(environment) if settings.address == "auto" else None
        self._sender = Sender(
            self._journal, settings.address, str(self.directory), self._service, self._record
        )
        self._sender.start()

    # -------------------------------------------------------------------------- logging

    log_metric: Any
    """``log_metric(key, value, context=None, step=None, source=None, timestamp=None)``

    One value of a metric series.  ``value``: any single number, kept as binary64 (an int beyond
    2**53 is a ``UsageError``); ``step``: int64; steps may come in any order and repeat;
    ``source``: told apart from other sources of the same metric; ``timestamp``: aware datetime,
    float seconds or int milliseconds (default: now).  Source of the keywords: yProv4ML, MLflow.
    """

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        context: str | None = None,
        step: int | None = None,
        source: str | None = None,
        timestamp: Any = None,
    ) -> None:
        """``log_metric`` for each item."""
        if not isinstance(metrics, Mapping):
            raise TypeError(f"metrics must be a mapping, not {type(metrics).__name__}")
        for key, value in metrics.items():
            self.log_metric(key, value, context, step, source, timestamp)

    def log_param(self, key: str, value: Any) -> None:
        """A parameter: any value; numbers exactly, lists and dicts as JSON, objects as text.

        Another value for the same key is kept as a revision of the first, with a warning.
        """
        name = hot.text("key", key)
        datatype, text = _lexical(value)
        known = self._params.setdefault(name, f"{datatype}:{text}")
        if known != f"{datatype}:{text}":
            log.warning(
                "parameter %r was %s and is now %s: both are kept",
                name,
                _short(known.partition(":")[2]),
                _short(text),
            )
            self._params[name] = f"{datatype}:{text}"
        if len(text) <= _LONG:
            self._append(ev.Param(self._clock.now(), name, datatype, text))
            return
        import hashlib

        data = text.encode()
        n = next(self._numbers)
        handed = self._guarded(
            f"the value of {name!r}",
            lambda: handover.hand_over_bytes(data, self._incoming, self._file(n), "text/plain"),
        )
        self._occurrence(n, "parameter", name, handed, None, (), None, "", {})
        digest = hashlib.sha256(data).hexdigest()
        self._append(ev.Param(self._clock.now(), name, datatype, digest, n))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """``log_param`` for each item."""
        if not isinstance(params, Mapping):
            raise TypeError(f"params must be a mapping, not {type(params).__name__}")
        for key, value in params.items():
            self.log_param(key, value)

    def set_tag(self, key: str, value: Any) -> None:
        """A tag of the run; the last value of a key counts."""
        text = hot.text("value", str(value)) if str(value) else ""
        self._append(ev.Tag(self._clock.now(), hot.text("key", key), text))

    @contextmanager
    def context(self, name: str) -> Iterator[None]:
        """The default context of the calls inside; may be nested."""
        path = (hot.scope.get() or ()) + hot.context_path(name)
        self._append(ev.ContextStarted(self._clock.now(), path))
        token = hot.scope.set(path)
        try:
            yield
        finally:
            hot.scope.reset(token)
            self._append(ev.ContextEnded(self._clock.now(), path))

    # ------------------------------------------------------- calls that hand over files

    def log_artifact(
        self,
        artifact_name: str | os.PathLike[str],
        artifact_path: str | os.PathLike[str] | None = None,
        context: str | None = None,
        step: int | None = None,
        *,
        is_input: bool = False,
        copy: bool = True,
    ) -> None:
        """A file the run made (or, with ``is_input``, used).  With one argument it is the path.

        Its bytes are safe when the call returns; ``copy=False`` only refers to it.  A folder
        stands for the files in it.  Raises ``UsageError`` for a path that is not there.
        """
        if artifact_path is None:
            artifact_path = artifact_name
            artifact_name = os.path.basename(os.fspath(artifact_path)) or str(artifact_path)
        if not isinstance(artifact_path, (str, os.PathLike)):
            raise TypeError(f"artifact_path must be a path, not {type(artifact_path).__name__}")
        name = hot.text("artifact_name", os.fspath(artifact_name))
        at = self._path(context)
        step = None if step is None else hot.whole("step", step)
        use = "used" if is_input else "generated"
        path = Path(artifact_path)
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                inner = f"{name}/{file.relative_to(path)}"
                self._file_occurrence("artifact", inner, file, at, step, use, copy, {})
        elif path.is_file():
            self._file_occurrence("artifact", name, path, at, step, use, copy, {})
        else:
            raise UsageError(f"artifact_path: there is no file {str(path)!r}")

    def log_dataset(self, dataset: Any, label: str, context: str | None = None) -> None:
        """A dataset, or the part of one that a context uses.

        A path is a file to keep; a data loader or subset is a split of the dataset behind it
        (logged before under its own name, or named after the split); anything else is
        described by its length and shape.
        """
        name = hot.text("label", label)
        at = self._path(context)
        if isinstance(dataset, (str, os.PathLike)):
            path = Path(dataset)
            if not path.is_file():
                raise UsageError(f"dataset: there is no file {str(path)!r}")
            self._file_occurrence("dataset", name, path, at, None, "used", True, {})
            return
        if dataset is None:
            raise TypeError("dataset must be a dataset, a data loader or a path, not None")
        parent, facts = handover.describe_dataset(dataset)
        if parent is None:
            n = self._describe("dataset", name, dataset, facts, () if context is None else at)
            if context is not None:
                self._append(ev.Split(self._clock.now(), name, at, n, facts))
            return
        known = self._datasets.get(id(parent))
        if known is None:
            _, whole = handover.describe_dataset(parent)
            n = self._describe("dataset", f"{type(parent).__name__} of {name}", parent, whole, ())
        else:
            n = known[1]
        self._append(ev.Split(self._clock.now(), name, at, n, facts))

    def save_model_version(
        self,
        model: Any,
        model_name: str,
        context: str | None = None,
        step: int | None = None,
    ) -> None:
        """A checkpoint: the next version of the model ``model_name``.

        ``model``: torch module or state dict, path, bytes, or anything that can be pickled.
        """
        self._model("checkpoint", model, model_name, context, step)

    def log_model(self, model: Any, model_name: str, context: str | None = None) -> None:
        """The final model, the same kinds as in ``save_model_version``."""
        self._model("model", model, model_name, context, None)

    def _model(
        self, kind: str, model: Any, model_name: str, context: str | None, step: int | None
    ) -> None:
        name = hot.text("model_name", model_name)
        at = self._path(context)
        step = None if step is None else hot.whole("step", step)
        n = next(self._numbers)
        facts: dict[str, ev.Scalar] = {}

        def save() -> handover.Handed:
            handed, told = handover.save_model(model, self._incoming, self._file(n))
            facts.update(told)
            return handed

        handed = self._guarded(f"the model {name!r}", save)
        place = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
        self._occurrence(n, kind, name, handed, place, at, step, "generated", facts)

    # ------------------------------------------------------------------------ questions

    def get_run_dir(self) -> Path:
        """The run's directory, absolute; it is there."""
        return self.directory

    def get_artifacts_dir(self) -> Path:
        """Where stored copies lie, by content."""
        return self.directory / "artifacts"

    @property
    def active(self) -> bool:
        return self._ended is None and self._pid == os.getpid()

    # ------------------------------------------------------------------------------ end

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.end_run(error=error)

    def end_run(
        self,
        create_graph: bool | None = None,
        create_svg: bool | None = None,
        create_ro_crate: bool | None = None,
        create_card: bool | None = None,
        *,
        error: BaseException | None = None,
        status: str | None = None,
        exit_code: int | None = None,
    ) -> None:
        """Log the end, wait until the documents are written, at most ``exit_timeout`` seconds.

        ``error`` is the exception that ended the run (``with`` passes it).  Ending a run that
        has ended does nothing.
        """
        if self._ended is not None or self._pid != os.getpid():
            return
        if status is None:
            status, exit_code = _status_of(error)
        kind = None if error is None or status == "finished" else type(error).__name__
        changes = _sink_changes(
            self.settings.sinks,
            dot=create_graph,
            svg=create_svg,
            rocrate=create_ro_crate,
            card=create_card,
        )
        deadline = time.monotonic() + self.settings.exit_timeout
        self._sender.recorded(0.4 * self.settings.exit_timeout)
        self._sender.catch_up(0.2 * self.settings.exit_timeout)
        self._ended = status
        message = None if kind is None else _short(str(error), 2000)
        ended = ev.Ended(self._clock.now(), status, exit_code, kind, message, changes)
        # A thread that still logs is told, instead of logging into nothing.
        self._journal.end(_encode(ended))
        self.log_metric = _over
        leave(self, deadline)

    # ---------------------------------------------------------------------------- inside

    def _append(self, event: ev.ClientEvent) -> None:
        record = _encode(event)
        if len(record) > 1 << 16:
            raise UsageError(
                f"{type(event).__name__} has {len(record):,} bytes; an event holds 65,536"
            )
        if self._ended is not None and not isinstance(event, ev.Ended):
            _over()
        self._journal.append(record)

    def _path(self, context: Any) -> tuple[str, ...]:
        return (hot.scope.get() or ()) if context is None else hot.context_path(context)

    def _file(self, n: int) -> str:
        return f"{self._journal.who.producer.hex()}-{n}"

    def _guarded(self, what: str, hand_over: Callable[[], handover.Handed]) -> handover.Handed:
        """What was handed over; or why not, when the run directory's disk would not take it."""
        try:
            return hand_over()
        except OSError as error:  # training goes on
            log.warning("%s is not kept: %s", what, error)
            return handover.Handed(None, None, error=error.strerror or str(error))

    def _file_occurrence(
        self,
        kind: str,
        name: str,
        path: Path,
        at: tuple[str, ...],
        step: int | None,
        use: str,
        copy: bool,
        facts: dict[str, ev.Scalar],
    ) -> int:
        n = next(self._numbers)
        if not copy:
            status = path.stat()
            media = handover.media_type(path.name)
            handed = handover.Handed(None, status.st_size, status.st_mtime_ns, media)
        else:
            if not os.access(path, os.R_OK):
                raise UsageError(f"cannot read {str(path)!r}: {os.strerror(errno.EACCES)}")
            handed = self._guarded(
                str(path),
                lambda: handover.hand_over_file(path, self._incoming, self._file(n)),
            )
        place = str(path) if copy else str(path.absolute())
        self._occurrence(n, kind, name, handed, place, at, step, use, facts)
        return n

    def _describe(
        self, kind: str, name: str, thing: Any, facts: dict[str, ev.Scalar], at: tuple[str, ...]
    ) -> int:
        n = next(self._numbers)
        self._datasets[id(thing)] = (thing, n)
        event = ev.Artifact(
            self._clock.now(), n, kind, name, context=at, use="used", attributes=facts
        )
        self._append(event)
        return n

    def _occurrence(
        self,
        n: int,
        kind: str,
        name: str,
        handed: handover.Handed,
        location: str | None,
        at: tuple[str, ...],
        step: int | None,
        use: str,
        facts: dict[str, ev.Scalar],
    ) -> None:
        self._append(
            ev.Artifact(
                self._clock.now(),
                n,
                kind,
                name,
                location,
                handed.incoming,
                handed.size,
                handed.mtime,
                handed.media_type,
                at,
                step,
                None,
                use,
                facts,
                handed.error,
            )
        )

    def _identity(self, parent: bytes = b"") -> seg.Identity:
        pid = os.getpid()
        return seg.Identity(
            self.id,
            os.urandom(16),
            self._where.attempt,
            self._where.rank,
            pid,
            process.pid_start(pid),
            process.boot_id(),
            parent,
        )

    def _introduction(self, key: str | None) -> ev.Started:
        who, where, settings = self._journal.who, self._where, self.settings
        user: str | None = process.user() if settings.user is True else settings.user or None
        return ev.Started(
            self._clock.now(),
            self.id,
            self.experiment,
            self.name,
            str(self.directory),
            settings.namespace,
            where.attempt,
            where.rank,
            where.local_rank,
            where.world_size,
            who.pid,
            who.pid_start,
            who.boot_id,
            process.hostname(),
            user,
            where.launcher,
            VERSION,
            origin.python(),
            {**config.shaping(settings), "key": key, "job": where.job},
        )

    def _child_introduction(self) -> bytes:
        """First record of a forked child's journal."""
        who = self._journal.who
        return _encode(
            msgspec.structs.replace(
                self._started,
                time=self._clock.now(),
                pid=who.pid,
                pid_start=who.pid_start,
                parent=who.parent,
            )
        )

    def after_fork(self) -> None:
        """In a forked child: from now on a journal of its own, and nothing else."""
        self._journal.forked(self._identity(parent=self._started_producer()))
        self._numbers = itertools.count(1)

    def _started_producer(self) -> bytes:
        """The nearest forebear that has a journal."""
        who = self._journal.who
        return who.parent if who.parent and self._journal.current is None else who.producer

    def _record(self) -> None:
        """On the sender thread: what the run came from."""
        now = self._clock.now
        self._append(ev.Command(now(), origin.redact(origin.command_line()), os.getcwd()))
        script = origin.entry_script()
        commit = origin.commit_of(script.parent if script is not None else Path.cwd())
        name = script
        if script is not None and commit is not None and script.is_relative_to(commit.root):
            name = script.relative_to(commit.root)
        self._append(
            ev.Source(
                now(),
                None if name is None else str(name),
                commit.remote if commit else None,
                commit.commit if commit else None,
                commit.branch if commit else None,
            )
        )
        self._append(ev.Host(now(), process.hostname(), dict(origin.machine())))
        found = origin.packages(sys.path)
        n = next(self._numbers)
        text = "".join(f"{line}\n" for line in found)
        handed = self._guarded(
            "the list of packages",
            lambda: handover.hand_over_bytes(
                text.encode(), self._incoming, self._file(n), "text/plain"
            ),
        )
        facts: dict[str, ev.Scalar] = {"python": origin.python(), "packages": len(found)}
        title = f"Python {origin.python()}, {len(found)} packages"
        self._occurrence(n, "environment", title, handed, None, (), None, "used", facts)


def _over(*_: Any, **__: Any) -> None:
    raise UsageError("the run has ended: call start_run first")


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _lexical(value: Any) -> tuple[str, str]:
    """(datatype, text) of a parameter's value, as ``events.Param`` has them."""
    if value is None:
        return "none", ""
    if isinstance(value, bool):
        return "bool", "true" if value else "false"
    if isinstance(value, int):
        return "int", _digits(int(value))
    if isinstance(value, float):
        return "float", repr(float(value))
    if isinstance(value, str):
        plain = str.__str__(value)
        return "str", plain.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple, dict)):
        try:
            text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError):
            pass
        else:
            return "json", text
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:  # a NumPy or torch scalar
        return _lexical(item())
    try:
        return "text", str(value).encode("utf-8", "backslashreplace").decode()
    except Exception as error:
        raise UsageError(
            f"value: a {type(value).__name__} whose str() fails: {type(error).__name__}"
        ) from error


def _digits(value: int) -> str:
    """Decimal digits of an integer of any size (``str`` refuses beyond 4,300 digits)."""
    if value.bit_length() < 10_000:
        return str(value)
    sign, value = ("-", -value) if value < 0 else ("", value)
    parts: list[str] = []
    base = 10**4000
    while value:
        value, rest = divmod(value, base)
        parts.append(f"{rest:04000d}")
    return sign + "".join(reversed(parts)).lstrip("0")


def _status_of(error: BaseException | None) -> tuple[str, int | None]:
    if error is None:
        return "finished", None
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else (0 if error.code is None else 1)
        return ("finished" if code == 0 else "failed"), code
    return "failed", None


def _sink_changes(sinks: tuple[str, ...], **wanted: bool | None) -> tuple[str, ...]:
    changes = []
    for name, want in wanted.items():
        if want is True and name not in sinks:
            if name in config.SINKS:
                changes.append(f"+{name}")
            else:
                log.warning("there is no sink %r: nothing is written for it", name)
        elif want is False and name in sinks:
            changes.append(f"-{name}")
    return tuple(changes)
