"""The public calls have the types that they say they have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import prov4ml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def test_public_calls_have_their_types(tmp_path: Path) -> None:
    """mypy strict accepts right calls, and finds each wrong one (an unused ignore is an error)."""
    options = ["--strict", "--config-file", "", "--cache-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(HERE / "public.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_there() -> None:
    """``__all__`` names what can be imported, and ``dir`` shows it."""
    for name in prov4ml.__all__:
        assert getattr(prov4ml, name) is not None
    assert sorted(dir(prov4ml)) == sorted(prov4ml.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt call is told like any module's."""
    with pytest.raises(AttributeError, match="log_metrik"):
        prov4ml.log_metrik  # type: ignore[attr-defined]  # noqa: B018
