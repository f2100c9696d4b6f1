"""MLflow scripts run by import change alone, and as they are with MLflow itself."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated

SCRIPTS = Path(__file__).parent / "scripts"


def changed(text: str) -> str:
    """A script with its imports of MLflow changed, and nothing else."""
    text = re.sub(r"^import mlflow$", "import prov4ml.compat.mlflow as mlflow", text, flags=re.M)
    return re.sub(r"^from mlflow\b", "from prov4ml.compat.mlflow", text, flags=re.M)


def patient(place: Isolated) -> Isolated:
    """On a machine at its limit documents take longer; these tests read them at once."""
    place.environment["PROV4ML_EXIT_TIMEOUT"] = "60"
    return place


@pytest.fixture
def isolated(isolated: Isolated) -> Isolated:
    return patient(isolated)


class Ran:
    """A script that ran on prov4ml: where, and what it printed last."""

    def __init__(self, place: Isolated, name: str) -> None:
        self.place = patient(place)
        done = place.script(changed((SCRIPTS / f"{name}.py").read_text()))
        self.told = json.loads(done.stdout.splitlines()[-1])
        self.said = done.stderr


@pytest.fixture(scope="session")
def converted(places: Callable[[], Any]) -> Iterator[Callable[[str], Ran]]:
    """``converted(name)``: a script of ours run once for all tests, warnings being errors."""
    with ExitStack() as stack:

        @cache
        def run(name: str) -> Ran:
            return Ran(stack.enter_context(places()), name)

        yield run


@pytest.fixture
def genuine(isolated: Isolated) -> Callable[[str], Any]:
    """``genuine(name)`` runs a script on MLflow itself, with a store of files; what it printed."""

    def run(name: str) -> Any:
        folder = isolated.root / "mlflow"
        folder.mkdir(exist_ok=True)
        text = (SCRIPTS / f"{name}.py").read_text()
        path = isolated.write(f"import os\nos.chdir({str(folder)!r})\n{text}", f"{name}_mlflow.py")
        done = isolated.run(
            sys.executable,
            "-W",
            "ignore",
            path.name,
            MLFLOW_TRACKING_URI=(folder / "mlruns").as_uri(),
            MLFLOW_ALLOW_FILE_STORE="true",
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
        )
        return json.loads(done.stdout.splitlines()[-1])

    return run
