"""Activities of the user's own: preprocessing, export, any step that the provenance should name.

As a block or a decorator.  What is logged inside is made and used by the activity; ``used`` and
``generated`` name files, and things that other calls have logged.  A decorated generator is at
work only in its steps: what its consumer logs between them is not done by it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, cast

from prov4ml import artifacts, hot, params, paths
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.known import Known
from prov4ml.recorder import Inside, Recorder, inside
from prov4ml.references import Reference
from prov4ml.talk import short

__all__ = ["Activity", "Doing", "activity"]

F = TypeVar("F", bound=Callable[..., Any])

Thing: TypeAlias = str | os.PathLike[str] | Reference
"""What ``used`` and ``generated`` take."""

Source = Callable[[], Recorder | None]
"""Where an activity is recorded, asked when it starts."""


class Doing(Inside):
    """An open activity: what ``with prov4ml.activity(...) as a`` gives."""

    def __init__(
        self,
        to: Recorder,
        name: str,
        context: tuple[str, ...],
        parameters: Mapping[str, tuple[str, str]],
    ) -> None:
        parent = to.activity()
        super().__init__(to, to.next_activity(), inside.get())
        self.name = name
        self.context = context
        self.started = to.moment()
        self._parent = parent
        to.append(ev.Activity(self.started, self.n, name, self.context, parent))
        for key, (datatype, text) in parameters.items():
            params.keep_param(to, key, datatype, text, activity=self.n)

    def used(self, *things: Thing, copy: bool = True) -> None:
        """What the activity used.

        Each a path (a file, folder, pattern or URL, as in ``log_artifact``; ``copy=False`` only
        refers to it), what an earlier log call of this process returned, or the name under which
        it logged something.  A file or folder that was logged before and has not changed since is
        the same thing.
        """
        for thing in things:
            known = self._known(thing)
            if known is None:
                self._log(thing, is_input=True, copy=copy)
            elif known.n:
                self.to.link(known.n, "used", activity=self.n, at=self.context)

    def generated(self, *things: Thing, copy: bool = True) -> None:
        """What the activity made; the same kinds of things as in ``used``.

        Raises ``UsageError`` for what was logged before the activity began, and for what another
        activity has made.
        """
        for thing in things:
            known = self._known(thing)
            if known is None:
                self._log(thing, is_input=False, copy=copy)
            elif known.n and known.maker != self.n:
                self._claim(known)

    def _log(self, path: Any, *, is_input: bool, copy: bool) -> None:
        with self.here():
            artifacts.log_artifact(
                self.to, path, None, None, None, is_input=is_input, copy=copy, derived_from=None
            )

    def _claim(self, known: Known) -> None:
        if known.maker:
            raise UsageError(f"generated: {known.name!r} was made by another activity")
        if known.time < self.started:
            raise UsageError(
                f"generated: {known.name!r} was logged before the activity {self.name!r} began"
            )
        self.to.link(known.n, "generated", activity=self.n, at=self.context)
        self.to.known.claim(known, self.n)

    def _known(self, thing: Any) -> Known | None:
        """What was logged before; None for a path of something new, number 0 for nothing."""
        if not self.open:
            raise UsageError(f"the activity {self.name!r} has ended")
        if isinstance(thing, Reference):
            return self._of(thing)
        if not isinstance(thing, (str, os.PathLike)):
            raise TypeError(
                "what was used or generated must be a path, a name or what a log call returned, "
                f"not {type(thing).__name__}"
            )
        text = os.fsdecode(thing)
        if _is_there(text):
            return self._file(text)
        named = self.to.references.named(text) if isinstance(thing, str) else None
        if named is not None:
            return self._of(named)
        if paths.is_url(text) or paths.is_pattern(text) or text.startswith("file://"):
            return None
        if not self.to.keeps:
            return _NOTHING
        raise UsageError(
            f"there is no file {short(paths.plain(text))!r}, and nothing was logged by that name"
        )

    def _file(self, text: str) -> Known | None:
        path = Path(text)
        if paths.is_folder(path):
            files = ((file, status) for _, file, status in paths.Walk(path).files())
            return self.to.known.folder(path, files)
        return self.to.known.file(path, os.stat(path))

    def _of(self, reference: Reference) -> Known:
        if not self.to.keeps:
            return _NOTHING
        if not self.to.references.mine(reference):
            raise UsageError(
                f"{short(reference.name)!r} was logged by another process or run: give its path, "
                "or name it as derived_from= of what was made of it"
            )
        known = self.to.known.numbered(reference.n)
        if known is None:  # forgotten; then it is as old as what is remembered
            known = Known(reference.n, reference.name, None, None, None, 0, 0, 0, None)
        return known

    @contextmanager
    def here(self) -> Iterator[None]:
        """Whatever is around the calls inside: this activity does them."""
        token, place = inside.set(self), hot.scope.set(self.context)
        try:
            yield
        finally:
            inside.reset(token)
            hot.scope.reset(place)

    def end(self, error: BaseException | None) -> None:
        """It is over; ``error`` is what ended it."""
        self.open = False
        failed = error is not None and not _is_good(error)
        event = ev.Activity(
            self.to.now(),
            self.n,
            self.name,
            self.context,
            self._parent,
            "failed" if failed else "finished",
            type(error).__name__ if failed else None,
            short(str(error), 2000) if failed else None,
            self.started,
        )
        with suppress(UsageError):  # the run was ended inside
            self.to.append(event)


_NOTHING = Known(0, "", None, None, None, 0, 0, 0, None)


def _is_there(text: str) -> bool:
    """Whether a path leads to something; false for what is no path."""
    try:
        return os.path.exists(text)
    except ValueError:
        return False


def _is_good(error: BaseException) -> bool:
    """Whether an exception is a usual way to leave."""
    return isinstance(error, GeneratorExit) or (
        isinstance(error, SystemExit) and error.code in (None, 0)
    )


class Activity:
    """``with activity(...) as a`` or ``@activity(...)``; each entry, each call is another one."""

    def __init__(
        self, source: Source, name: str | None, context: str | None, parameters: Mapping[str, Any]
    ) -> None:
        self._source = source
        self._name = None if name is None else hot.text("name", name)
        self._context = None if context is None else hot.context_path(context)
        self._parameters = {hot.text("key", k): params.lexical(v) for k, v in parameters.items()}
        self._block: AbstractContextManager[Doing] | None = None

    def __enter__(self) -> Doing:
        if self._block is not None:
            raise UsageError("this activity is open: call activity(...) for another one")
        if self._name is None:
            raise TypeError("activity must be given a name where it is a block")
        to = self._source()
        if to is None:
            raise UsageError("no run is open: call start_run first")
        block = self._at_work(to, self._name)
        doing = block.__enter__()
        self._block = block
        return doing

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        block, self._block = self._block, None
        return block.__exit__(kind, error, trace)

    @contextmanager
    def _at_work(self, to: Recorder, name: str) -> Iterator[Doing]:
        doing = self._begin(to, name)
        try:
            with doing.here():
                yield doing
        except BaseException as error:
            doing.end(error)
            raise
        doing.end(None)

    def _begin(self, to: Recorder, name: str) -> Doing:
        return Doing(to, name, self._context or hot.scope.get() or (), self._parameters)

    # ------------------------------------------------------------------------- decorator

    def __call__(self, function: F) -> F:
        """Each call of ``function`` is an activity; without an open run it is called plainly."""
        import inspect  # slow to import; most scripts decorate nothing

        if isinstance(function, (type, staticmethod, classmethod)) or not callable(function):
            what = type(function).__name__
            raise TypeError(f"activity decorates functions, not a {what}: put it on the function")
        if inspect.isasyncgenfunction(function):
            raise TypeError("activity cannot decorate an async generator: use a block inside of it")
        name = self._name or str(getattr(function, "__name__", type(function).__name__))
        if inspect.iscoroutinefunction(function):
            return cast(F, self._awaited(function, name))
        if inspect.isgeneratorfunction(function):
            return cast(F, self._stepped(function, name))

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            to = self._source()
            if to is None:
                return function(*args, **kwargs)
            with self._at_work(to, name):
                return function(*args, **kwargs)

        return cast(F, called)

    def _awaited(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            to = self._source()
            if to is None:
                return await function(*args, **kwargs)
            with self._at_work(to, name):
                return await function(*args, **kwargs)

        return awaited

    def _stepped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            to = self._source()
            if to is None:
                return (yield from function(*args, **kwargs))
            doing = self._begin(to, name)
            steps = function(*args, **kwargs)
            step, given = steps.send, None
            try:
                while True:
                    with doing.here():
                        try:
                            item = step(given)
                        except StopIteration as over:
                            doing.end(None)
                            return over.value
                    try:
                        step, given = steps.send, (yield item)
                    except GeneratorExit:
                        with doing.here():
                            steps.close()
                        raise
                    except BaseException as error:
                        step, given = steps.throw, error
            except BaseException as error:
                doing.end(error)
                raise

        return stepped


def activity(source: Source, name: Any, context: str | None, parameters: Mapping[str, Any]) -> Any:
    """See ``Run.activity``; ``name`` may be the function itself, as in ``@activity``."""
    if name is None or isinstance(name, str):
        return Activity(source, name, context, parameters)
    return Activity(source, None, context, parameters)(name)
