"""A module with something added that is still the module it was.

``wrap`` makes a second object over one module: of a class that is made for the purpose, below
both the module's own and the wrapper's, and with the *same* ``__dict__``.  So parameters, state
dict, mode, hooks and every attribute are those of the module, whichever of the two is touched;
``isinstance`` holds for both classes; ``to`` and ``train`` give the wrapper back.  The module
itself stays as it is, and calls of it are not seen.

What the wrapper needs for itself lies in a slot, outside of what they share: a pickle, a copy and
a state dict of the module know nothing of it.  A pickle or copy of the wrapper is a wrapper.
"""

from __future__ import annotations

import copy
import sys
import types
from functools import cache
from typing import Any, ClassVar

from prov4ml.errors import UsageError

__all__ = ["Wrapped", "is_module", "needs_of", "wrap"]


class Wrapped:
    """Base of the wrappers of modules; ``_prov4ml`` holds what each kind of wrapper needs."""

    __slots__ = ("_prov4ml",)

    _prov4ml: dict[type, Any]
    _prov4ml_class: ClassVar[type]  # of the module

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _again, (_plain(self), dict(self._prov4ml))

    def __copy__(self) -> Any:
        return _again(copy.copy(_plain(self)), dict(self._prov4ml))


def is_module(thing: Any) -> bool:
    """Whether something is a module of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def wrap(kind: type[Wrapped], module: Any, needs: Any) -> Any:
    """The module as a ``kind``, for which ``needs`` is kept.  Raises ``TypeError``."""
    if not is_module(module):
        raise TypeError(f"model must be a torch module, not {type(module).__name__}")
    kinds = module._prov4ml if isinstance(module, Wrapped) else {}
    return _again(_plain(module), {**kinds, kind: needs})


def needs_of(wrapper: Any, kind: type) -> Any:
    """What is kept for a wrapper; None for a copy that torch made of its attributes alone."""
    try:
        return object.__getattribute__(wrapper, "_prov4ml").get(kind)
    except AttributeError:
        return None


def _again(module: Any, kinds: dict[type, Any]) -> Any:
    below: Any = type(module)
    made: Any = object.__new__(_class(tuple(kinds), below))
    made.__dict__ = module.__dict__
    object.__setattr__(made, "_prov4ml", kinds)
    return made


def _plain(module: Any) -> Any:
    """The module below a wrapper."""
    if not isinstance(module, Wrapped):
        return module
    plain: Any = object.__new__(module._prov4ml_class)
    plain.__dict__ = module.__dict__
    return plain


@cache
def _class(kinds: tuple[type, ...], below: Any) -> type:
    """The class below the wrappers' (the latest first) and the module's."""

    def new(cls: type, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def init(self: Any, *arguments: Any, **keywords: Any) -> None:
        if not hasattr(self, "_prov4ml"):  # somebody made one of this class: as of the module's
            below.__init__(self, *arguments, **keywords)

    def fill(space: dict[str, Any]) -> None:
        space.update(__new__=new, __init__=init, _prov4ml_class=below)
        space.update(__module__=below.__module__, __qualname__=below.__qualname__)
        space["__doc__"] = below.__doc__

    try:
        return types.new_class(below.__name__, (*reversed(kinds), below), exec_body=fill)
    except TypeError as error:
        raise UsageError(f"a {below.__name__} cannot be wrapped: {error}") from None
