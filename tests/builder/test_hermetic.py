"""Row W12: what foreign build code tries, and what comes of it, at every level of isolation."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import hermetic
from builder import workspace as workspaces
from builder.hermetic import Outcome
from builder.workspace import Isolation, SandboxError, Workspace

PYTHON, PREFIX = hermetic.own_python()
CANARY = "canary-5f0b7c1e"


def _levels() -> list[str]:
    found = []
    for level in hermetic.LEVELS:
        try:
            hermetic.isolation(PYTHON, PREFIX, level)
        except SandboxError:
            continue
        found.append(level)
    return found


LEVELS = _levels()
ISOLATED = [level for level in LEVELS if level != "none"]


@pytest.fixture(params=LEVELS)
def kept(request: pytest.FixtureRequest) -> Isolation:
    return hermetic.isolation(PYTHON, PREFIX, request.param)


@pytest.fixture(params=ISOLATED)
def isolated(request: pytest.FixtureRequest) -> Isolation:
    return hermetic.isolation(PYTHON, PREFIX, request.param)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder on this machine that every user may read and write."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def run(
    isolation: Isolation,
    code: str,
    tmp_path: Path,
    deadline: float = 30,
    readable: tuple[str, ...] = (PREFIX,),
) -> Outcome:
    with Workspace(isolation) as workspace:
        workspace.hand_over()
        return hermetic.run(
            workspace,
            [PYTHON, "-I", "-S", "-c", code],
            folder="",
            environment={"HOME": workspace.inside("home")},
            readable=readable,
            deadline=deadline,
            log=tmp_path / "log",
        )


def said(outcome: Outcome) -> str:
    return outcome.tail.decode().strip()


def test_something_isolates_here() -> None:
    assert ISOLATED, "neither namespaces nor Landlock: the tests of row W12 prove nothing"
    assert hermetic.isolation(PYTHON, PREFIX).level == LEVELS[0]


def test_runs_and_reports(kept: Isolation, tmp_path: Path) -> None:
    outcome = run(kept, "print('hello'); raise SystemExit(7)", tmp_path)
    assert (outcome.status, outcome.timed_out, said(outcome)) == (7, False, "hello")
    assert (tmp_path / "log").read_text() == "hello\n"


def test_a_signal_is_a_status(kept: Isolation, tmp_path: Path) -> None:
    outcome = run(kept, "import os; os.kill(os.getpid(), 11)", tmp_path)
    # PID 1 has no default action for its own signals; the command is not PID 1.
    assert outcome.status == 128 + 11


@pytest.mark.row("W12")
def test_reads_no_file_of_this_machine(
    isolated: Isolation, tmp_path: Path, open_folder: Path
) -> None:
    secret = open_folder / "id_ed25519"
    secret.write_text(CANARY)
    secret.chmod(0o644)
    outcome = run(isolated, f"print(open({str(secret)!r}).read())", tmp_path)
    assert outcome.status == 1
    assert CANARY not in said(outcome)
    assert "Error" in said(outcome)


@pytest.mark.row("W12")
def test_sees_another_home(kept: Isolation, tmp_path: Path) -> None:
    code = "import os; print(os.path.expanduser('~'), os.listdir(os.path.expanduser('~')))"
    home, _, names = said(run(kept, code, tmp_path)).partition(" ")
    assert Path(home) != Path.home()
    assert names == "[]"


@pytest.mark.row("W12")
def test_reads_no_secret_of_the_environment(
    kept: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"https://user:{CANARY}@index.example/simple")
    code = (
        "import os, glob\n"
        "print(os.environ)\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: print(open(path, 'rb').read())\n"
        "    except OSError: pass\n"
    )
    own = f"open('/proc/{os.getpid()}/environ').read()"
    outcome = run(kept, code, tmp_path)
    assert CANARY not in (tmp_path / "log").read_text()
    assert outcome.status == 0
    if kept.level != "none":
        assert run(kept, own, tmp_path).status == 1


@pytest.mark.row("W12")
def test_reaches_no_network(isolated: Isolation, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        outcome = run(isolated, code, tmp_path)
        assert outcome.status == 1
        with pytest.raises(TimeoutError):
            server.accept()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0.3)
        port = listener.getsockname()[1]
        code = (
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
            f".sendto(b'x', ('127.0.0.1', {port}))"
        )
        run(isolated, code, tmp_path)
        with pytest.raises(TimeoutError):
            listener.recv(1)


@pytest.mark.row("W12")
def test_writes_nothing_outside(isolated: Isolation, tmp_path: Path, open_folder: Path) -> None:
    target = open_folder / "planted"
    code = (
        f"for path in ({str(target)!r}, '/usr/planted', '/etc/planted', '/planted', "
        f"{PREFIX!r} + '/planted', '/proc/sys/kernel/hostname'):\n"
        "    try: open(path, 'w').write('x')\n"
        "    except OSError as error: print(path, error.strerror)\n"
        "    else: print(path, 'WRITTEN')\n"
    )
    outcome = run(isolated, code, tmp_path)
    assert "WRITTEN" not in said(outcome)
    assert len(said(outcome).splitlines()) == 6
    assert not target.exists()
    assert not Path(PREFIX, "planted").exists()


@pytest.mark.row("W12")
def test_what_may_be_read_may_not_be_written(
    isolated: Isolation, tmp_path: Path, open_folder: Path
) -> None:
    (open_folder / "tool").write_text("works")
    (open_folder / "tool").chmod(0o666)
    code = (
        f"print(open({str(open_folder / 'tool')!r}).read())\n"
        f"for name in ('tool', 'new'):\n"
        f"    try: open({str(open_folder)!r} + '/' + name, 'w')\n"
        "    except OSError: print('refused')\n"
    )
    outcome = run(isolated, code, tmp_path, readable=(PREFIX, str(open_folder)))
    assert said(outcome).split() == ["works", "refused", "refused"]
    assert [path.name for path in open_folder.iterdir()] == ["tool"]
    assert (open_folder / "tool").read_text() == "works"


@pytest.mark.row("W12")
def test_what_is_written_to_tmp_stays_inside(tmp_path: Path) -> None:
    if "namespaces" not in LEVELS:
        pytest.skip("no namespaces here")
    name = f"/tmp/{uuid.uuid4()}"
    kept = hermetic.isolation(PYTHON, PREFIX, "namespaces")
    assert run(kept, f"open({name!r}, 'w').write('x')", tmp_path).status == 0
    assert not Path(name).exists()


def _running(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


DAEMON = """
import os, signal, sys, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (1, 2, 15):
                signal.signal(number, signal.SIG_IGN)
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 1), os.dup2(null, 2)
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c",
                                      "import time; time.sleep(600)", "{mark}"])
        os._exit(0)
time.sleep({seconds})
print("done", flush=True)
"""


@pytest.mark.row("W12")
def test_no_daemon_lives_on(kept: Isolation, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    outcome = run(kept, DAEMON.format(mark=mark, seconds=0.3), tmp_path)
    assert (outcome.status, said(outcome)) == (0, "done")
    assert _running(mark) == []


@pytest.mark.row("W12")
def test_the_deadline_ends_everything(kept: Isolation, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    code = "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + DAEMON.format(
        mark=mark, seconds=600
    )
    outcome = run(kept, code, tmp_path, deadline=1)
    assert outcome.timed_out
    assert outcome.seconds < 20
    assert _running(mark) == []


@pytest.mark.row("W12")
def test_a_gigabyte_of_output_is_capped(tmp_path: Path) -> None:
    kept = hermetic.isolation(PYTHON, PREFIX)
    code = (
        "import os\nprint('first', flush=True)\nblock = b'x' * (1 << 20)\n"
        "for _ in range(1024): os.write(1, block)\nprint('\\nlast')"
    )
    outcome = run(kept, code, tmp_path)
    log = (tmp_path / "log").read_bytes()
    assert outcome.printed > 1 << 30
    assert len(log) < hermetic.LOG_HEAD + hermetic.LOG_TAIL + 100
    assert log.startswith(b"first\n")
    assert log.endswith(b"\nlast\n")
    assert b"bytes left out]" in log


@pytest.mark.row("W12")
def test_a_file_may_not_fill_the_disk(kept: Isolation, tmp_path: Path) -> None:
    code = "import os; f = open('tmp/big', 'wb'); os.truncate(f.fileno(), 9 << 30)"
    outcome = run(kept, code, tmp_path)
    assert outcome.status == 128 + signal.SIGXFSZ or "File too large" in said(outcome)


WAIN = """
import sys
from pathlib import Path
from builder import hermetic
from builder.workspace import Workspace
kept = hermetic.isolation(*hermetic.own_python(), {level!r})
with Workspace(kept) as workspace:
    workspace.hand_over()
    print(workspace.folder.parent, flush=True)
    hermetic.run(workspace, [hermetic.own_python()[0], "-I", "-S", "-c", {code!r}], folder="",
                 environment={{}}, readable=(hermetic.own_python()[1],), deadline=600,
                 log=Path({log!r}))
"""


@pytest.mark.row("W12")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_wain(kept: Isolation, tmp_path: Path, how: signal.Signals) -> None:
    mark = str(uuid.uuid4())
    code = WAIN.format(
        level=kept.level,
        code=DAEMON.format(mark=mark, seconds=600),
        log=str(tmp_path / "log"),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    _until(lambda: len(_running(mark)) >= 3)
    process.send_signal(how)
    process.wait(20)
    _until(lambda: _running(mark) == [])
    process.stdout.close()

    def is_gone() -> bool:
        with Workspace(kept):
            return not left.exists()

    # A killed wain leaves its folder; the next build takes it away, or another one that is at it.
    _until(is_gone)


def test_an_interrupted_wain_stops_its_builds(kept: Isolation, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    found: list[Exception] = []

    def build() -> None:
        try:
            run(kept, DAEMON.format(mark=mark, seconds=600), tmp_path, deadline=600)
        except SandboxError as error:
            found.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    _until(lambda: len(_running(mark)) >= 3)
    hermetic.stop_running()
    thread.join(15)
    assert not thread.is_alive()
    assert "stopped" in str(found[0])
    _until(lambda: _running(mark) == [])


def _until(condition: object, seconds: float = 15) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        threading.Event().wait(0.02)


def test_a_folder_in_use_is_not_swept(kept: Isolation) -> None:
    with Workspace(kept) as first, Workspace(kept):
        assert first.folder.is_dir()


def test_removing_a_workspace_changes_nothing_around_it(tmp_path: Path) -> None:
    around = tmp_path / "around"
    around.mkdir(mode=0o755)
    workspaces._remove(around / "gone")
    assert stat.S_IMODE(around.stat().st_mode) == 0o755


REMOVE = """
import os, sys
sys.path += sys.argv[1:]
from pathlib import Path
from builder import workspace
base = Path(os.environ["PLACE"])
(base / "outside").write_text("x")
(base / "outside").chmod(0o640)
(base / "around").mkdir(mode=0o711)
inner = base / "around" / "workspace" / "shut"
inner.mkdir(parents=True)
(inner / "link").symlink_to(base / "outside")
(inner / "folder").symlink_to(base)
inner.chmod(0)
workspace._remove(inner.parent)
print(inner.parent.exists(), oct((base / "outside").stat().st_mode & 0o777),
      oct((base / "around").stat().st_mode & 0o777))
"""


@pytest.mark.root
def test_what_a_build_made_unreadable_is_removed(open_folder: Path) -> None:
    done = _as_another_user(REMOVE, {"PLACE": str(open_folder)})
    assert done.split() == ["False", "0o640", "0o711"]


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        ("os.symlink('/etc/passwd', 'out/x.whl')", "symbolic link"),
        ("os.mkfifo('out/x.whl')", "regular file"),
        ("os.mkdir('out/x.whl')", "regular file"),
        ("os.rmdir('out'); os.symlink('/etc', 'out')", "cannot be taken"),
        ("open('out/x.whl', 'wb').write(b'x' * 101)", "at most 100 bytes"),
    ],
)
@pytest.mark.row("W12")
def test_takes_only_plain_files(tmp_path: Path, plant: str, what: str) -> None:
    kept = hermetic.isolation(PYTHON, PREFIX)
    with Workspace(kept) as workspace:
        workspace.hand_over()
        hermetic.run(
            workspace,
            [PYTHON, "-I", "-S", "-c", f"import os; {plant}"],
            folder="",
            environment={},
            readable=(PREFIX,),
            deadline=30,
            log=tmp_path / "log",
        )
        with pytest.raises(SandboxError, match=what):
            workspace.take("out", "x.whl", 100)
        assert list(workspace.kept.iterdir()) == []


def _as_another_user(code: str, environment: dict[str, str]) -> str:
    """What ``code`` prints as a user without rights, from a copy of the source it may read."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None or shutil.which("setpriv") is None:
        pytest.skip("no interpreter of the system here that another user can run")
    root = Path(hermetic.__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        place = Path(folder)
        for room in ("builder", "images"):
            shutil.copytree(root / room, place / room)
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (place / "tmp").mkdir()
        (place / "tmp").chmod(0o1777)
        done = subprocess.run(
            ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups",
             python, "-I", "-B", "-c", code, folder],
            env={"TMPDIR": folder + "/tmp", **environment},
            capture_output=True,
            text=True,
            cwd="/",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


UNPRIVILEGED = """
import os, sys
sys.path += sys.argv[1:]
from builder import hermetic as h
from builder.workspace import Workspace
python, prefix = h.own_python()
kept = h.isolation(python, prefix)
print(kept.level, kept.other_user)
with Workspace(kept) as workspace:
    look = "print(open(" + repr(os.environ["SECRET"]) + ").read())"
    run = h.run(workspace, [python, "-c", look], folder="", environment={}, readable=(prefix,),
                deadline=20, log=workspace.kept / "log")
    print(run.status, run.tail.decode().splitlines()[-1])
"""


@pytest.mark.root
@pytest.mark.row("W12")
def test_without_root_a_build_is_isolated_too(open_folder: Path) -> None:
    secret = open_folder / "secret"
    secret.write_text(CANARY)
    secret.chmod(0o644)
    level, said = _as_another_user(UNPRIVILEGED, {"SECRET": str(secret)}).splitlines()
    assert level in ("namespaces False", "landlock False")
    assert said.startswith("1 ")
    assert CANARY not in said
