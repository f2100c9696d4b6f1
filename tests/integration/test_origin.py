"""Where code came from: real git repositories, real runs in and outside of them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prov4ml import worktree

if TYPE_CHECKING:
    from tests.conftest import Isolated

    Read = Any

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


class Tree:
    """A git repository to make changes in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self("init", "-q", "-b", "main")

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words],
            cwd=self.root,
            env={**os.environ, **GIT},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def write(self, name: str, text: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def commit(self) -> str:
        self("add", "-A")
        self("commit", "-q", "-m", "x")
        return self("rev-parse", "HEAD").strip()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A repository with one commit."""
    made = Tree(tmp_path / "repo")
    made.write("train.py", "print(1)\n")
    made.write("data.bin", bytes(range(256)))
    made.commit()
    return made


def ask(root: Path) -> worktree.Changes:
    """What git says, all steps done."""
    steps = worktree.changes(root)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        time.sleep(0.002)
    raise TimeoutError


def test_a_clean_tree(tree: Tree) -> None:
    """The commit and the branch as git has them, no changes, no diff."""
    found = ask(tree.root)
    assert found == worktree.Changes(tree("rev-parse", "HEAD").strip(), "main")
    read = worktree.commit_of(tree.root / "below")
    assert read is not None
    assert (read.commit, read.branch) == (found.commit, found.branch)


def test_the_diff_makes_the_tree_what_it_was(tree: Tree, tmp_path: Path) -> None:
    """Applied to the commit it gives every changed file: text, binary, new, gone, odd names."""
    commit = tree("rev-parse", "HEAD").strip()
    tree.write("gone.txt", "x")
    tree.write("old name.txt", "moved\n" * 20)
    commit = tree.commit()
    tree.write("train.py", "print(2)\n")
    tree.write("data.bin", bytes(range(255, -1, -1)))
    tree.write("staged é.py", "new\n")
    (tree.root / "gone.txt").unlink()
    tree("add", "staged é.py")
    tree("mv", "old name.txt", "new\tname.txt")
    tree.write("untracked.py", "u")
    tree.write("many/untracked.py", "u")
    found = ask(tree.root)
    assert found.trouble == ""
    assert sorted(found.changed) == [
        "data.bin",
        "gone.txt",
        "new\tname.txt",
        "staged é.py",
        "train.py",
    ]
    assert sorted(found.untracked) == ["many/", "untracked.py"]
    assert found.left_out == 0
    assert found.tracks("train.py")
    assert not found.tracks("untracked.py")
    assert not found.tracks("many/untracked.py")
    other = Tree(tmp_path / "other")
    other("pull", "-q", str(tree.root), commit)
    (tmp_path / "diff").write_bytes(found.diff)
    other("apply", str(tmp_path / "diff"))
    for name in ("train.py", "data.bin", "staged é.py", "new\tname.txt"):
        assert (other.root / name).read_bytes() == (tree.root / name).read_bytes()
    assert not (other.root / "gone.txt").exists()


def test_secrets_do_not_stand_in_the_diff(tree: Tree) -> None:
    """Files whose names say so are left out, and named."""
    for name in (".env", "conf/.env.local", "key.pem", "credentials.json", "plain.txt"):
        tree.write(name, "old")
    tree.commit()
    for name in (".env", "conf/.env.local", "key.pem", "credentials.json", "plain.txt"):
        tree.write(name, "geheim" if name != "plain.txt" else "open")
    found = ask(tree.root)
    assert b"geheim" not in found.diff
    assert b"plain.txt" in found.diff
    assert sorted(found.private) == [".env", "conf/.env.local", "credentials.json", "key.pem"]
    assert found.left_out == 4
    tree.write("plain.txt", "old")
    found = ask(tree.root)
    assert (found.diff, found.left_out) == (b"", 4)


def test_a_diff_is_cut_at_a_file(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room is counted; what is kept can be applied."""
    for n in range(10):
        tree.write(f"{n}.txt", "")
    tree.commit()
    for n in range(10):
        tree.write(f"{n}.txt", f"{n}\n" * 1000)
    monkeypatch.setattr(worktree, "_DIFF", 7000)
    found = ask(tree.root)
    assert 0 < len(found.diff) <= 7000
    kept = len(re.findall(rb"^diff --git ", found.diff, re.M))
    assert found.left_out == 10 - kept > 0
    check = subprocess.run(
        ["git", "apply", "--reverse", "--check", "-"], cwd=tree.root, input=found.diff, check=False
    )
    assert check.returncode == 0


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    """What is staged is the diff against nothing."""
    tree = Tree(tmp_path / "new")
    tree.write("a.py", "a\n")
    tree("add", "a.py")
    found = ask(tree.root)
    assert (found.commit, found.changed) == (None, ["a.py"])
    assert b"+a" in found.diff


def test_settings_of_the_tree_run_nothing(tree: Tree, tmp_path: Path) -> None:
    """External diffs, text converters and file system monitors of a repository stay unused."""
    for name, value in (
        ("diff.external", f"touch {tmp_path}/external"),
        ("core.fsmonitor", f"touch {tmp_path}/monitor"),
        ("diff.txt.textconv", f"touch {tmp_path}/textconv"),
        ("core.pager", f"touch {tmp_path}/pager"),
    ):
        tree("config", name, value)
    tree.write(".gitattributes", "*.py diff=txt\n")
    tree.write("train.py", "print(3)\n")
    assert b"print(3)" in ask(tree.root).diff
    assert {path.name for path in tmp_path.iterdir()} == {"repo"}


def program(folder: Path, text: str) -> dict[str, str]:
    """A PATH with a ``git`` of ours."""
    folder.mkdir(exist_ok=True)
    (folder / "git").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "git").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("exit 128", "git status failed (128)"),
        ("exec sleep 1000", "git status took longer than 1 s"),
        ("while :; do echo '? x'; done", None),
        ("kill -9 $$", "git status failed (-9)"),
        (None, "git cannot be run: No such file or directory"),
    ],
)
def test_a_git_that_fails_hangs_or_floods(
    tree: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    trouble: str | None,
) -> None:
    """It ends in time, takes bounded memory, says why, and leaves no process behind."""
    monkeypatch.setattr(worktree, "_TIME", 1.0)
    monkeypatch.setattr(worktree, "_NAMES", 10_000)
    path = program(tmp_path / "bin", text)["PATH"] if text else str(tmp_path / "bin")
    monkeypatch.setenv("PATH", path)
    found = ask(tree.root)
    if trouble is None:
        assert found.cut
        assert len(found.untracked) <= 10_000
    else:
        assert found.trouble == trouble


def test_steps_that_are_dropped_end_their_git(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that stops takes git with it."""
    pid = tmp_path / "pid"
    monkeypatch.setenv(
        "PATH", program(tmp_path / "bin", f"echo $$ >{pid}; exec sleep 1000")["PATH"]
    )
    steps = worktree.changes(tree.root)
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text().strip()):
        next(steps)
        assert time.monotonic() < deadline
    steps.close()
    assert not Path(f"/proc/{int(pid.read_text())}").exists()


# ---------------------------------------------------------------------------- whole runs

SCRIPT = """
import sys
sys.path.insert(0, "src")
import part
import prov4ml
with prov4ml.start_run("code"):
    prov4ml.log_metric("loss", 1.0)
"""


@pytest.fixture
def repository(isolated: Isolated) -> Tree:
    """The test's working folder as a repository with a script in it."""
    made = Tree(isolated.folder)
    made("remote", "add", "origin", "https://u:geheim@git.example/r.git")
    made.write("train.py", SCRIPT)
    made.write("src/part.py", "x = 1\n")
    isolated.environment["PROV4ML_EXIT_TIMEOUT"] = "60"
    return made


def stored(left: Read, iri: str) -> bytes:
    """The bytes of an entity, as its locations say."""
    rows = left.ask(f"SELECT ?l WHERE {{ <{iri}> prov:atLocation ?l }}")
    (path,) = [row["l"].value for row in rows if row["l"].value.startswith("artifacts/")]
    return Path(left.directory / path).read_bytes()


def test_a_run_in_a_dirty_tree(isolated: Isolated, repository: Tree, read: Any) -> None:
    """Commit, branch, remote, dirty, and the diff as an artifact that the plan names."""
    commit = repository.commit()
    repository.write("src/part.py", "x = 2\n")
    repository.write("src/new.py", "")
    isolated.script(SCRIPT.replace("import part", "import part, new"))
    left = read(isolated.only_run())
    left.check()
    (row,) = left.ask(
        "SELECT ?plan ?commit ?branch ?remote ?dirty ?diff ?sources WHERE { "
        "?run a mls:Run ; prov:qualifiedAssociation/prov:hadPlan ?plan . "
        "?plan p4:commit ?commit ; p4:branch ?branch ; p4:remote ?remote ; p4:dirty ?dirty ; "
        "p4:diff ?diff ; p4:sources ?sources . ?run prov:used ?diff, ?sources }"
    )
    assert row["commit"].value == commit
    assert row["branch"].value == "main"
    assert row["remote"].value == "https://***@git.example/r.git"
    assert row["dirty"].value == "true"
    diff = stored(left, row["diff"].value)
    assert b"+x = 2" in diff
    assert b"import part, new" in diff
    archive = zipfile.ZipFile(io.BytesIO(stored(left, row["sources"].value)))
    assert archive.namelist() == ["src/new.py"]
    assert left.records("p4:Diff")


def test_a_run_in_a_clean_tree(isolated: Isolated, repository: Tree, read: Any) -> None:
    """Clean is said too; what the run itself writes makes no tree dirty."""
    repository.commit()
    isolated.script(SCRIPT)
    isolated.script(SCRIPT)
    for run in isolated.runs():
        left = read(run)
        (row,) = left.ask("SELECT ?d ?u WHERE { ?s p4:dirty ?d ; p4:untracked ?u }")
        assert (row["d"].value, row["u"].value) == ("false", "0")
        assert not left.records("p4:Diff")
        assert not left.records("p4:SourceCode")


def test_a_run_without_git(isolated: Isolated, read: Any) -> None:
    """The sources of the script and of the project's modules are kept."""
    (isolated.folder / "src").mkdir()
    (isolated.folder / "src" / "part.py").write_text("x = 1\n")
    isolated.script(SCRIPT, PROV4ML_EXIT_TIMEOUT="60")
    left = read(isolated.only_run())
    left.check()
    (row,) = left.ask("SELECT ?s WHERE { ?plan a prov:Plan ; p4:sources ?s }")
    archive = zipfile.ZipFile(io.BytesIO(stored(left, row["s"].value)))
    assert {"src/part.py", "train.py"} <= set(archive.namelist())


@pytest.mark.parametrize("how", ["PROV4ML_CODE", "file"])
def test_code_is_switched_off(
    isolated: Isolated, repository: Tree, read: Any, tmp_path: Path, how: str
) -> None:
    """git is not run; script, command line and packages are still told."""
    repository.commit()
    called = tmp_path / "called"
    more = program(tmp_path / "bin", f"touch {called}; exit 1")
    if how == "file":
        repository.write("prov4ml.toml", "[run]\ncode = false\nenvironment = ['HOW']\n")
    else:
        more["PROV4ML_CODE"] = "0"
    isolated.script(SCRIPT, HOW="so", SLURM_JOB_NAME="x", **more)
    left = read(isolated.only_run())
    left.check()
    assert not called.exists()
    assert left.count("?s p4:commit ?c") == 0
    assert left.labels("prov:Plan")
    (environment,) = left.records("p4:Environment")
    told = {str(name) for name, _ in environment.attributes}
    assert ("p4:HOW" in told, "p4:SLURM_JOB_NAME" in told) == (how == "file", how != "file")


def test_git_never_runs_in_a_log_call(isolated: Isolated, repository: Tree, tmp_path: Path) -> None:
    """A git that takes seconds holds up neither start_run nor a call nor the shipping of events."""
    repository.commit()
    script = SCRIPT.replace(
        'with prov4ml.start_run("code"):\n    prov4ml.log_metric("loss", 1.0)',
        """
import time, threading
began = time.monotonic()
run = prov4ml.start_run("code")
prov4ml.log_source_code()
for n in range(100):
    prov4ml.log_metric("loss", 1.0, step=n)
    prov4ml.log_artifact(f"{n}", b"x")
while run._sender.acked < 200 and time.monotonic() - began < 20:
    time.sleep(0.01)
acked = run._sender.acked
still = not run._sender.recorded(0)
import json
print(json.dumps({"acked": acked, "still": still}))
prov4ml.end_run()
""",
    )
    slow = program(tmp_path / "bin", 'sleep 5; PATH=/usr/bin:/bin exec git "$@"')
    done = isolated.script(script, PROV4ML_EXIT_TIMEOUT="60", **slow)
    told = json.loads(done.stdout)
    assert told["still"], "git was over before the events were acked"
    assert told["acked"] >= 200
    text = (isolated.only_run() / "prov.provn").read_text()
    assert "p4:dirty" in text


def test_one_rank_looks_for_all(
    isolated: Isolated, repository: Tree, read: Any, tmp_path: Path
) -> None:
    """Of two ranks one asks git; both follow the same plan."""
    repository.commit()
    repository.write("src/part.py", "x = 2\n")
    count = tmp_path / "count"
    more = program(tmp_path / "bin", f'echo x >>{count}; PATH=/usr/bin:/bin exec git "$@"')
    more.update(WORLD_SIZE="2", PROV4ML_JOB="j", PROV4ML_EXIT_TIMEOUT="60")
    ranks = [isolated.start(SCRIPT, RANK=str(n), LOCAL_RANK=str(n), **more) for n in (0, 1)]
    for rank in ranks:
        out, err = rank.communicate(timeout=100)
        assert rank.returncode == 0, (out, err)
    left = read(isolated.only_run())
    left.check()
    assert len(left.records("prov:Plan")) == 1
    assert count.read_text().count("x") == 2  # status and diff
