"""What the commands that act print."""

from __future__ import annotations

import io

from prov4ml.collector import Progress
from prov4ml.commands import _Line


def test_the_progress_line_shows_malformed_messages() -> None:
    """Only when there are some."""
    shown = []
    for malformed in (0, 1234):
        stream = io.StringIO()
        _Line(stream).show(Progress(10, 2, ("digits_0",), (("training/loss", 0.25),), malformed))
        shown.append(stream.getvalue())
    plain = "prov4ml: digits_0: 10 events, 2 ranks alive · training/loss 0.25"
    assert shown == [f"{plain}\n", f"{plain} · 1,234 malformed messages\n"]
