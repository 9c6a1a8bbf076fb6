"""Escape attempts: each is a program that prints ``held`` if the wall held, under every backend and as two users."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from escape_attempts import ATTEMPTS, KILLED, PRELUDE
from sandboxes import LIMITS, WAYS, Driven, made

from truegain.runtime import Ran


class Around:
    """What an attempt aims at: a secret file, servers, and a process outside."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        for above in list(folder.parents)[:-1]:  # so that nothing but the sandbox stands before the file
            if above.stat().st_uid == os.geteuid() and above != Path("/tmp"):
                above.chmod(above.stat().st_mode | 0o055)
        self.secret = folder / "secret"
        self.secret.write_text("the secret")
        self.secret.chmod(0o666)
        self.reached: list[str] = []
        self.unix = f"/tmp/truegain-test-{os.getpid()}.sock"
        self.abstract = f"truegain-test-{os.getpid()}"
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.servers = [self.tcp, *(self._unix(name) for name in (self.unix, "\0" + self.abstract))]
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagrams.bind(self.unix + "-datagrams")
        for path in (self.unix, self.unix + "-datagrams"):
            os.chmod(path, 0o777)
        for server in self.servers:
            threading.Thread(target=self._serve, args=(server,), daemon=True).start()

    def _unix(self, name: str) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.bind(name)
        server.listen()
        return server

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return
            self.reached.append(str(server))

    def names(self, box: Any) -> str:
        """What the attempts aim at, by name; the process outside is of the sandbox's own user."""
        outside = box.process.pid if isinstance(box, Driven) else os.getpid()
        return (
            f"SECRET = {str(self.secret)!r}\nPORT = {self.tcp.getsockname()[1]}\nUNIX = {self.unix!r}\n"
            f"ABSTRACT = {self.abstract!r}\nOUTSIDE = {outside}\n"
        )

    def close(self) -> None:
        for server in (*self.servers, self.datagrams):
            server.close()
        for path in (self.unix, self.unix + "-datagrams"):
            os.unlink(path)


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Around]:
    found = Around(tmp_path_factory.mktemp("around"))
    os.environ["TRUEGAIN_SECRET"] = "sesame"
    yield found
    found.close()


@pytest.fixture(scope="module", params=WAYS, ids=" as ".join)
def box(request: pytest.FixtureRequest, around: Around) -> Iterator[Any]:
    yield from made(*request.param)


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_nothing_gets_out(box: Any, around: Around, attempt: str) -> None:
    ran = box.run(PRELUDE + around.names(box) + attempt)
    assert isinstance(ran, Ran), ran
    if "fork" in attempt and ran.stopped:  # under landlock the first fork is refused; else the limit may end it
        pytest.fail(f"stopped: {ran.stopped}")
    assert ran.stdout == "held\n", (ran.stdout, ran.stderr, ran.exit, ran.stopped)
    assert around.secret.read_text() == "the secret"
    assert around.secret.stat().st_mode & 0o777 == 0o666
    assert around.reached == []
    after = box.run("print(6 * 7)")
    assert isinstance(after, Ran) and after.stdout == "42\n", after


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="tables of other calls: x86_64 alone has them")
@pytest.mark.parametrize("attempt", KILLED.values(), ids=KILLED.keys())
def test_calls_by_another_table_do_not_pass_the_filter(box: Any, attempt: str) -> None:
    ran = box.run(PRELUDE + attempt)
    assert isinstance(ran, Ran) and ran.exit < 0 and "ESCAPED" not in ran.stdout, ran


def test_the_attempts_get_out_where_nothing_holds_them(around: Around, tmp_path: Path) -> None:
    # Without it, a test that is refused for another reason, as a typing error, would prove nothing.
    import subprocess
    import sys

    telling = [
        "a program cannot read a file that everybody may read",
        "a program cannot reach a server on this machine",
        "a link in its folder does not lead a program out",
        "a program cannot keep memory that no limit counts",
        "a program cannot signal processes outside",
        "a program cannot open files without end",
        "a program does not see the environment of the one who runs it",
    ]
    for name in telling:
        source = PRELUDE + around.names(None) + ATTEMPTS[name]
        ran = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ran.stdout != "held\n", name
    around.reached.clear()


def test_the_limits_in_these_tests_are_those_the_attempts_exceed() -> None:
    assert (LIMITS.memory_mb, LIMITS.scratch_mb, LIMITS.file_mb, LIMITS.processes) == (256, 4, 2, 12)
