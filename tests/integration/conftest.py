"""The demo run, made once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated, Read

EXAMPLES = Path(__file__).parents[2] / "examples"

_SHIM = """
import json, os, sys
import prov4ml

_plain = prov4ml.log_metric

def log_metric(key, value, context=None, step=None, source=None, timestamp=None):
    _plain(key, value, context, step, source, timestamp)
    with open(os.environ["RECORDED"], "a") as file:
        print(json.dumps([key, float(value).hex(), context, step]), file=file)

prov4ml.log_metric = log_metric
"""


class Demo:
    """The demo run: where it happened, what it logged, what it printed, what it left."""

    def __init__(self, place: Isolated, read: type[Read]) -> None:
        (place.root / "shim").mkdir()
        (place.root / "shim" / "sitecustomize.py").write_text(_SHIM)
        recorded = place.root / "recorded"
        paths = [str(place.root / "shim"), place.environment.get("PYTHONPATH", "")]
        self.place = place
        self.done = place.run(
            sys.executable,
            str(EXAMPLES / "digits.py"),
            PYTHONPATH=os.pathsep.join(filter(None, paths)),
            RECORDED=str(recorded),
        )
        self.calls = [tuple(json.loads(line)) for line in recorded.read_text().splitlines()]
        self.left = read(place.only_run())


@pytest.fixture(scope="session")
def demo(places: Callable[[], Any], read: type[Read]) -> Iterator[Demo]:
    """``python examples/digits.py``, once for all tests."""
    with places() as place:
        yield Demo(place, read)
