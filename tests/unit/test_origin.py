"""What a run came from: nothing secret, nothing that is not there, bounded."""

from __future__ import annotations

import io
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from prov4ml import environment, origin, redaction, sources
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.testing.records import RUN, Record

# ------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--lr", "0.1"], ["--lr", "0.1"]),
        (["--api-key", "x", "y"], ["--api-key", "***", "y"]),
        (["--api-key=x"], ["--api-key=***"]),
        (["--set=db.password=x"], ["--set=db.password=***"]),
        (['{"token": "x"}'], ['{"token":***']),
        (["--token", "--lr", "1"], ["--token", "--lr", "1"]),
        (["s3://u:p@h/b"], ["s3://***@h/b"]),
        (["https://h/?q=1"], ["https://h/?q=1"]),
        ([], []),
    ],
)
def test_command_lines_are_redacted(words: list[str], wanted: list[str]) -> None:
    """Values of options and words that are named as secrets."""
    assert list(redaction.command_line(words)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://h/a?b=c", "https://h/a?b=c"),
        ("https://u@h/a", "https://***@h/a"),
        ("https://u:p@h/a?token=x", "https://***@h/a?token=***"),
        ("https://h/?X-Amz-Security-Token=x&b=1", "https://h/?X-Amz-Security-Token=***&b=1"),
        ("https://h/?sv=1&sig=x", "https://h/?sv=1&sig=***"),
        ("https://h/?design=1", "https://h/?design=1"),
        ("https://h/#access_token=x", "https://h/#access_token=***"),
        ("a b git+ssh://me@h/r", "a b git+ssh://***@h/r"),
        ("mail@example.org", "mail@example.org"),
    ],
)
def test_urls_are_redacted(text: str, wanted: str) -> None:
    """User, password, and what is named as a secret behind ``?`` or ``#``."""
    assert redaction.url(text) == wanted


def test_variables_are_chosen_and_never_secret() -> None:
    """Patterns choose; whatever they say, a name that sounds of a secret is not shown."""
    given = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_USER": "alice",
        "OMP_NUM_THREADS": "4",
        "HOME": "/home/alice",
        "NCCL_SECRET": "x",
        "PROXY": "http://u:p@proxy:80",
        "LONG": "x" * 10_000,
    }
    secrets = (
        *("API_KEY", "GITHUB_TOKEN", "DB_PASS", "MYSQL_PWD", "aws_secret", "AUTH", "COOKIE"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "PRIVATE_X", "SESSION_ID", "MY_PASSPHRASE"),
    )
    given |= dict.fromkeys(secrets, "geheim")
    found = environment.variables(given, ["*"])
    assert "geheim" not in found.values()
    assert found["PROXY"] == "http://***@proxy:80"
    assert len(found["LONG"]) == 500
    some = environment.variables(given, ["SLURM_*", "OMP_NUM_THREADS", "NCCL_*"])
    assert some == {"OMP_NUM_THREADS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_USER": "alice"}
    assert "SLURM_JOB_USER" not in environment.variables(given, ["SLURM_*"], people=False)
    assert len(environment.variables({f"A{n}": "" for n in range(999)}, ["*"])) == 200
    assert environment.variables(given, []) == {}


# --------------------------------------------------------------------------- environment


def test_packages_are_a_lock_file(tmp_path: Path) -> None:
    """Names and versions, sorted; what came from a URL or a commit says so, without passwords."""
    for name in ("B_b-2.0.dist-info", "a-1.0.dist-info", "c-3.egg-info", "junk", "d-4.dist-info"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-1.0.dist-info" / "direct_url.json").write_text(
        '{"url": "https://u:p@h/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}'
    )
    (tmp_path / "d-4.dist-info" / "direct_url.json").write_text("nonsense")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "a-9.dist-info").mkdir()
    found = environment.packages([str(tmp_path), str(tmp_path / "second"), "/nowhere"])
    assert found == ["a @ git+https://***@h/r.git@abc", "b-b==2.0", "c==3", "d==4"]


def test_cuda_is_that_of_an_imported_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported to find out."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert "cuda" not in environment.cuda()
    assert "torch" not in sys.modules
    fake = types.ModuleType("torch")
    fake.version = types.SimpleNamespace(cuda="12.4", hip=None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", fake)
    assert environment.cuda()["cuda"] == "12.4"


def test_the_driver_and_devices_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc/driver/nvidia tells of them."""
    texts = {
        "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05"
        "  Sat Aug 19\nGCC version: 12",
        "/proc/driver/nvidia/gpus/0000:01/information": "Model: \t NVIDIA H100\nIRQ: 1\n",
        "/proc/driver/nvidia/gpus/0000:02/information": "Model: \t NVIDIA H100\n",
    }
    monkeypatch.setattr(environment, "_text", lambda path: texts.get(str(path), ""))
    monkeypatch.setattr("os.listdir", lambda path: ["0000:01", "0000:02"])
    assert environment.cuda()["driver"] == "535.104.05"
    assert environment.gpus() == {"gpus": 2, "gpu": "NVIDIA H100"}


@pytest.mark.parametrize(
    ("files", "variables", "wanted"),
    [
        ({}, {}, {}),
        ({".dockerenv": ""}, {}, {"container": "docker"}),
        (
            {"run/.containerenv": 'engine="podman-4"\nimage="quay.io/x/y:1"\n'},
            {},
            {"container": "podman", "image": "quay.io/x/y:1"},
        ),
        ({}, {"APPTAINER_CONTAINER": "/i.sif"}, {"container": "apptainer", "image": "/i.sif"}),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"container": "kubernetes"}),
        ({"proc/1/cgroup": "0::/kubepods/pod1"}, {}, {"container": "kubepods"}),
        ({"proc/1/cgroup": "0::/init.scope"}, {}, {}),
    ],
)
def test_containers(
    tmp_path: Path, files: dict[str, str], variables: dict[str, str], wanted: dict[str, str]
) -> None:
    """Docker, Podman, Apptainer, Kubernetes, with the image where it can be known."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert environment.container(variables, tmp_path) == wanted


# ------------------------------------------------------------------------------- sources


def module(monkeypatch: pytest.MonkeyPatch, name: str, file: Any) -> None:
    made = types.ModuleType(name)
    made.__file__ = file
    monkeypatch.setitem(sys.modules, name, made)


def test_sources_of_the_projects_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported ones; not Python's, not installed ones, not ours, none that is no file."""
    for name in ("main.py", "pkg/part.py", "lib/site-packages/other.py"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text(name)
    (tmp_path / "beside.py").write_text("")
    for name in ("main.py", "pkg/part.py", "lib/site-packages/other.py", "none.py"):
        module(monkeypatch, f"x_{name}", str(tmp_path / "p" / name))
    module(monkeypatch, "x_beside", str(tmp_path / "beside.py"))
    module(monkeypatch, "x_odd", 7)
    root = tmp_path / "p"
    found = dict(sources.imported(root))
    mine = {name for name in found if str(tmp_path) in str(found[name])}
    assert mine == {"main.py", "pkg/part.py", f"outside{tmp_path}/beside.py"}
    assert not [path for path in found.values() if "prov4ml/prov4ml" in str(path)]
    assert "main.py" not in dict(sources.imported(root, lambda name: name != "main.py"))


def test_an_archive_is_its_files_alone(tmp_path: Path) -> None:
    """The same bytes for the same sources, wherever and whenever they were written."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text("x")
    one = sources.archive([("x.py", tmp_path / "a" / "x.py")])
    assert one == sources.archive([("x.py", tmp_path / "b" / "x.py")])
    assert zipfile.ZipFile(io.BytesIO(one.data)).read("x.py") == b"x"
    assert (one.files, one.left_out) == (1, 0)


def test_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By files, by bytes, and a large file is no source; what is left out is counted."""
    monkeypatch.setattr(sources, "_FILES", 3)
    monkeypatch.setattr(sources, "_BYTES", 100)
    monkeypatch.setattr(sources, "_LARGE", 50)
    files = []
    for n, size in enumerate((40, 60, 40, 30, 5, 5)):
        (tmp_path / str(n)).write_bytes(b"x" * size)
        files.append((str(n), tmp_path / str(n)))
    made = sources.archive([*files, ("gone", tmp_path / "gone"), ("folder", tmp_path)])
    assert zipfile.ZipFile(io.BytesIO(made.data)).namelist() == ["0", "2", "4"]
    assert (made.files, made.left_out) == (3, 5)


# --------------------------------------------------------------------------------- calls


def test_source_code_by_path(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, the sources in a folder as one archive, a link; used by the run."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "src/a.py", "src/b/c.yaml", "src/data.bin", "src/.git/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    file = origin.log_source_code(record.recorder, "train.py")
    folder = origin.log_source_code(record.recorder, Path("src"))
    link = origin.log_source_code(record.recorder, "https://u:p@h.example/r.git")
    told = record.told()
    run = f"https://lab.example/run/{RUN}/run"
    for made in (file, folder, link):
        assert made.kind == "source"
        assert list(told.relations("used", run, made.iri))
        assert told.attributes("used", run, made.iri) == ["p4:sourceCode"]
    kept = record.state().stored[b"p" * 16, folder.n]
    assert kept.path is not None
    names = zipfile.ZipFile(record.run / kept.path).namelist()
    assert names == ["a.py", "b/c.yaml"]
    assert record.artifact(folder).attributes == {"files": 2, "left_out": 0}
    assert record.artifact(link).location == "https://***@h.example/r.git"
    (tmp_path / "none").mkdir()
    for error, text, path in (
        (UsageError, "there is no file 'missing'", "missing"),
        (UsageError, "holds no source files", "none"),
        (TypeError, "path must be a path", 7),
    ):
        with pytest.raises(error, match=text):
            origin.log_source_code(record.recorder, path)


@pytest.mark.parametrize(
    ("cmd", "path", "wanted"),
    [
        ("python3 train.py --lr 0.1", None, ("python3", "train.py", "--lr", "0.1")),
        ("python3", "train.py", ("python3", "train.py")),
        (["python", "a b.py"], Path("x"), ("python", "a b.py", "x")),
        ("it's", None, ("it's",)),
        ("run --token x", None, ("run", "--token", "***")),
        (None, None, None),
    ],
)
def test_the_command_to_repeat_it(record: Record, cmd: Any, path: Any, wanted: Any) -> None:
    """Given as one string or as words, redacted; by default the one that was typed."""
    origin.log_execution_command(record.recorder, cmd, path)
    (event,) = record.events
    assert isinstance(event, ev.Command)
    assert event.argv == (wanted or redaction.command_line(origin.command_line()))


@pytest.mark.parametrize(
    ("cmd", "path", "error", "text"),
    [
        (7, None, TypeError, "cmd must be a string"),
        ([7], None, TypeError, "cmd must be a string"),
        ([], None, TypeError, "cmd must be a string"),
        ("", None, UsageError, "cmd must not be empty"),
        ("x", 7, TypeError, "path must be a path"),
        (None, "x", UsageError, "path: there is no cmd before it"),
        ("x" * 100_000, None, UsageError, "cmd has 100,000 bytes"),
    ],
)
def test_commands_that_are_none(
    record: Record, cmd: Any, path: Any, error: type[Exception], text: str
) -> None:
    """The argument is named."""
    with pytest.raises(error, match=text):
        origin.log_execution_command(record.recorder, cmd, path)
    assert record.events == []


# ------------------------------------------------------------------------------ recording


def test_each_part_stands_alone(
    record: Record, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A part that cannot be recorded is a warning, the others are recorded."""

    def broken(*_: Any) -> None:
        raise RuntimeError("gone")

    monkeypatch.setattr("os.getcwd", broken)
    list(origin.record(record.recorder, origin.Wanted(code=False)))
    kinds = [type(event).__name__ for event in record.events]
    assert kinds == ["Source", "Host", "Artifact"]
    assert "the command line is not recorded: RuntimeError: gone" in caplog.text


def test_the_environment_says_what_it_is(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python, packages as content, chosen variables, and no secret among them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_TOKEN", "geheim")
    list(origin.surroundings(record.recorder, origin.Wanted(True, ("OMP_*",))))
    (event,) = record.artifacts
    assert event.attributes["OMP_NUM_THREADS"] == "3"
    assert event.attributes["python"] == origin.python()
    told = record.told()
    iri = f"https://lab.example/run/{RUN}/attempt/1/rank/0/artifact/1"
    assert told.facts(iri)["p4:OMP_NUM_THREADS"] == ["3"]
    kept = record.state().stored[b"p" * 16, 1]
    assert kept.path is not None
    lines = (record.run / kept.path).read_text().splitlines()
    assert any(line.startswith("msgspec==") for line in lines)
    assert lines == sorted(lines)
    assert b"geheim" not in b"".join(p.read_bytes() for p in record.run.parent.rglob("*.seg"))


def test_a_command_that_was_given_stays(record: Record) -> None:
    """What is typed does not replace it, whichever comes first."""
    origin.log_execution_command(record.recorder, "mine", None)
    list(origin.record(record.recorder, origin.Wanted(code=False)))
    commands = [event for event in record.events if isinstance(event, ev.Command)]
    assert [command.argv for command in commands] == [("mine",)]
