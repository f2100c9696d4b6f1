"""Scripts of yProv4ML run by import change alone, and what they left as other readers see it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import prov4ml

if TYPE_CHECKING:
    from tests.conftest import Isolated

SCRIPTS = Path(__file__).parent / "scripts"


def changed(text: str) -> str:
    """A script with its import changed, and nothing else; 1.x and 2.x were called ``prov4ml``."""
    return re.sub(r"^import yprov4ml$", "import prov4ml as yprov4ml", text, flags=re.M)


class Ran:
    """A script that ran: where, what it said, and its runs."""

    def __init__(self, place: Isolated, done: subprocess.CompletedProcess[str], read: Any) -> None:
        self.place = place
        self.said = done.stderr
        self.read = read

    def left(self, base: str = "prov") -> Any:
        """The only run that it left, checked."""
        (run,) = self.place.runs(base)
        found = self.read(run)
        found.check()
        assert found.manifest["status"] == "finished"
        assert found.manifest["failures"] == []
        assert found.manifest["accounting"]["lost"] == 0
        return found


@pytest.fixture(scope="session")
def converted(places: Callable[[], Any], read: Any) -> Iterator[Callable[[str], Ran]]:
    """``converted(name)``: a script run once for all tests, warnings of Python being errors."""
    with ExitStack() as stack:

        @cache
        def run(name: str) -> Ran:
            text = (SCRIPTS / f"{name}.py").read_text()
            assert set(re.findall(r"\by?prov4ml\.(\w+)", text)) <= set(prov4ml.__all__)
            place = stack.enter_context(places())
            return Ran(place, place.script(changed(text)), read)

        yield run
