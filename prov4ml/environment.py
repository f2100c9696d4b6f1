"""What a run ran in: Python, packages, chosen variables, CUDA, container, machine.

From files, the environment and what is imported already: no package is imported, no program run.
"""

from __future__ import annotations

import fnmatch
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from prov4ml import redaction
from prov4ml.asking import peek
from prov4ml.events import Scalar
from prov4ml.talk import short

__all__ = ["container", "cuda", "machine", "packages", "python", "variables"]

_VARIABLES: Final = 200  # variables that are recorded at most
_LONG: Final = 500  # characters of a value
_PERSON: Final = re.compile(r"USER|LOGNAME|_UID|_GID|ACCOUNT")
_CGROUP: Final = re.compile(r"(docker|kubepods|containerd|podman|libpod|lxc)")


def python() -> str:
    return platform.python_version()


def packages(folders: Iterable[str]) -> list[str]:
    """Sorted lines, ``name==version`` or ``name @ URL``, of all that is installed on ``folders``.

    From the names of folders; what was installed from a URL or a local folder says so.
    """
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            stem, dot, kind = name.rpartition(".")
            if dot and kind in ("dist-info", "egg-info") and "-" in stem:
                package, version = stem.split("-")[:2]
                package = package.replace("_", "-").lower()
                if package not in found:
                    direct = _direct(os.path.join(folder or ".", name, "direct_url.json"))
                    found[package] = f"{package} @ {direct}" if direct else f"{package}=={version}"
    return sorted(found.values())


def _direct(path: str) -> str:
    """Where a package came from when it came from no index (PEP 610)."""
    try:
        with open(path, encoding="utf-8") as file:
            told = json.load(file)
        link = redaction.url(str(told["url"]))
        vcs = told.get("vcs_info")
        return f"{vcs['vcs']}+{link}@{vcs['commit_id']}" if vcs else link
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def variables(
    environment: Mapping[str, str], patterns: Iterable[str], *, people: bool = True
) -> dict[str, str]:
    """The variables whose names match a pattern (``SLURM_*``), never those that hold secrets.

    ``people``: whether those that name a user are among them.
    """
    wanted = list(patterns)
    found: dict[str, str] = {}
    for name in sorted(environment):
        chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
        if not chosen or redaction.is_secret(name) or (_PERSON.search(name) and not people):
            continue
        if len(found) < _VARIABLES:
            found[name] = redaction.url(short(environment[name], _LONG))
    return found


def cuda() -> dict[str, Scalar]:
    """CUDA or ROCm of an imported torch, and the driver of the kernel."""
    facts: dict[str, Scalar] = {}
    version = peek(sys.modules.get("torch"), "version")
    for name in ("cuda", "hip"):
        text = peek(version, name)
        if isinstance(text, str):
            facts[name] = text
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _text("/proc/driver/nvidia/version"))
    if found:
        facts["driver"] = found[1]
    return facts


def gpus() -> dict[str, Scalar]:
    """How many NVIDIA devices the kernel has, and their models."""
    models = []
    try:
        for entry in sorted(os.listdir("/proc/driver/nvidia/gpus")):
            told = _text(f"/proc/driver/nvidia/gpus/{entry}/information")
            found = re.search(r"^Model:\s*(.+)$", told, re.MULTILINE)
            models.append(found[1].strip() if found else "unknown")
    except OSError:
        pass
    return {"gpus": len(models), "gpu": ", ".join(sorted(set(models)))} if models else {}


def container(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, Scalar]:
    """The kind of container that this is, and its image where that can be known."""
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if environment.get(name):
            return {"container": "apptainer", "image": short(environment[name], _LONG)}
    podman = root / "run/.containerenv"
    if podman.exists():
        image = re.search(r'^image="?([^"\n]+)', _text(podman), re.MULTILINE)
        return {"container": "podman", **({"image": image[1]} if image else {})}
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return {"container": "kubernetes"}
    if (root / ".dockerenv").exists():
        return {"container": "docker"}
    found = _CGROUP.search(_text(root / "proc/1/cgroup"))
    return {"container": found[1]} if found else {}


def machine() -> dict[str, str | int]:
    """Operating system, architecture, cores and memory (bytes) of this node."""
    name = os.uname()
    facts: dict[str, str | int] = {
        "os": f"{name.sysname} {name.release}",
        "machine": name.machine,
        "cores": os.cpu_count() or 1,
    }
    try:
        facts["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        pass
    return facts


def _text(path: str | Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""
