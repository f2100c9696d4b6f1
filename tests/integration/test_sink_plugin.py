"""A sink in a package of its own: installed with pip, found by its entry point, sound."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "examples" / "sink-plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the example, without network."""
    scratch = tmp_path_factory.mktemp("plugin")
    source = scratch / "source"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__", "build", "dist"))
    target = scratch / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-index", "--no-build-isolation", "--no-deps", "--no-cache-dir"]
    command += ["--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return target


def python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=environment,
        cwd=installed.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_found_and_sound(installed: Path, tmp_path: Path) -> None:
    """After pip install the sink is on the list, described, and passes ``check_sink`` by name."""
    script = (
        "import sys, pathlib\n"
        "from prov4ml import sink\n"
        "from prov4ml.testing.sinks import check_sink\n"
        "assert {'markdown', 'parquet'} <= set(sink.available()), sink.available()\n"
        "print(sink.summary(sink.load('markdown')))\n"
        "check_sink('markdown', pathlib.Path(sys.argv[1]), {'rows': 3})\n"
        "print('sound')\n"
    )
    done = python(installed, "-c", script, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "A short page of Markdown on a run: a model card to begin with.",
        "sound",
    ]


def test_its_own_tests_pass(installed: Path) -> None:
    """The tests that come with the example pass on the installed package."""
    tests = PLUGIN / "tests"
    done = python(installed, "-m", "pytest", "-rA", "-p", "no:cacheprovider", str(tests))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED ") == 3


def test_not_found_without_it() -> None:
    """Without the package the name is unknown, so the tests above see the installed one."""
    script = "from prov4ml import sink; print('markdown' in sink.available())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "False"
