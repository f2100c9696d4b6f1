"""Logs of all releases are read by this one: every event, and all documents."""

from __future__ import annotations

import importlib.util
import json
import re
import typing
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prov4ml import documents, ends, replay, sink
from prov4ml import events as ev
from prov4ml.eventlog import Reader

ROOT = Path(__file__).parents[2]
LOGS = sorted(path for path in (ROOT / "tests" / "data" / "logs").iterdir() if path.is_dir())
LOGS = [path for path in LOGS if path.name[:1].isdigit()]

NEWEST = {"0.1.0": 15}
"""The highest tag of a training process's event that a release had; others have all of today's."""

pytestmark = pytest.mark.parametrize("log", LOGS, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The script that made the logs."""
    path = ROOT / "tests" / "data" / "logs" / "make.py"
    spec = importlib.util.spec_from_file_location("make_logs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counts(log: Path) -> dict[str, Any]:
    """What was in the log when it was made."""
    found: dict[str, Any] = json.loads((log / "counts.json").read_text())
    return found


def test_every_frame_and_event_is_read(log: Path, make: ModuleType) -> None:
    """As many frames, and as many events of each kind, as the release wrote."""
    reader = Reader(log / "events")
    assert sum(1 for _ in reader) == counts(log)["frames"] > 0
    assert reader.bad == []
    assert make.kinds(log / "events") == Counter(counts(log)["events"])


def test_every_kind_of_client_event_is_in_it(log: Path) -> None:
    """No kind that its release had is missing; newer kinds are in newer logs."""
    newest = NEWEST.get(log.name, 63)
    kinds = {
        kind.__name__
        for kind in typing.get_args(ev.ClientEvent)
        if kind.__struct_config__.tag <= newest
    }
    if log == LOGS[-1]:
        assert kinds <= set(counts(log)["events"])


def test_the_fold_has_the_account_of_then(log: Path) -> None:
    """Status, sent, received, rejected and lost are what the release itself said."""
    found = replay.fold(log)
    shown = documents.manifest(found, [])
    assert ends.complete(found)
    assert shown["status"] == counts(log)["status"]
    assert shown["accounting"] == counts(log)["accounting"]
    assert {str(r["rank"]): r["status"] for r in shown["ranks"]} == counts(log)["ranks"]


def test_every_document_is_made_of_it(log: Path) -> None:
    """All document sinks render it, and name what was logged."""
    shown = documents.document(replay.fold(log))
    rendered = 0
    for name in ("provjson", "provn", "turtle", "svg"):
        kind = sink.load(name)
        text = b"".join(kind().render(shown)).decode()
        assert re.search(r"learning_rate", text), name
        rendered += 1
    assert rendered == 4
    content = json.loads(b"".join(sink.load("provjson")().render(shown)))
    names = {entity.get("prov:label") for entity in content["entity"].values()}
    assert {"learning_rate", "layers", "big"} <= {str(name) for name in names}
