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
from types import TracebackType
from typing import Any, TypeVar, cast

from prov4ml import artifacts, hot, params
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.known import Known
from prov4ml.recorder import Inside, NoRecorder, Recorder, inside
from prov4ml.talk import short

__all__ = ["Activity", "Doing", "activity"]

F = TypeVar("F", bound=Callable[..., Any])

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
        self.started = to.now()
        self._parent = parent
        to.append(ev.Activity(self.started, self.n, name, self.context, parent))
        for key, (datatype, text) in parameters.items():
            params.keep_param(to, key, datatype, text, self.n)

    def used(self, *things: Any, copy: bool = True) -> None:
        """What the activity used.

        Each a path (a file or folder; its bytes are kept unless ``copy=False``), what an earlier
        log call returned, or the name under which something was logged before.  A file that was
        logged before and has not changed since is the same thing.
        """
        for thing in things:
            known = self._named(thing)
            if known is None:
                with self.here():
                    artifacts.log_artifact(
                        self.to, thing, None, None, None, is_input=True, copy=copy
                    )
            elif known.n:
                self.to.link(known.n, "used", activity=self.n, at=self.context)

    def generated(self, *things: Any, copy: bool = True) -> None:
        """What the activity made; the same kinds of things as in ``used``.

        Raises ``UsageError`` for what was logged before the activity began, and for what another
        activity has made.
        """
        for thing in things:
            known = self._named(thing)
            if known is None:
                with self.here():
                    artifacts.log_artifact(
                        self.to, thing, None, None, None, is_input=False, copy=copy
                    )
            elif known.n and known.maker != self.n:
                self._claim(known)

    def _claim(self, known: Known) -> None:
        if known.maker:
            raise UsageError(f"generated: {known.name!r} was made by another activity")
        if known.time < self.started:
            raise UsageError(
                f"generated: {known.name!r} was logged before the activity {self.name!r} began"
            )
        self.to.link(known.n, "generated", activity=self.n, at=self.context)
        self.to.known.claim(known, self.n)

    def _named(self, thing: Any) -> Known | None:
        """What was logged before; None for a path of something new, number 0 for nothing."""
        if not self.open:
            raise UsageError(f"the activity {self.name!r} has ended")
        if isinstance(thing, (str, os.PathLike)):
            if os.path.exists(thing):
                return self.to.known.file(thing)
            known = self.to.known.named(thing) if isinstance(thing, str) else None
            if known is None and not isinstance(self.to, NoRecorder):
                raise UsageError(
                    f"there is no file {os.fspath(thing)!r}, and nothing was logged by that name"
                )
            return known or _NOTHING
        n = getattr(thing, "n", None)
        if not isinstance(n, int) or isinstance(n, bool):
            raise TypeError(
                "a thing that was used or generated must be a path, a name or what a log call "
                f"returned, not {type(thing).__name__}"
            )
        known = self.to.known.numbered(n)
        if known is None and not 0 < n <= self.to.known.highest:
            if isinstance(self.to, NoRecorder):
                return _NOTHING
            raise UsageError(f"this run has logged nothing of the number {n}")
        return known or Known(n, str(n), None, None, None, self.started, 0)

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


_NOTHING = Known(0, "", None, None, None, 0, 0)


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
