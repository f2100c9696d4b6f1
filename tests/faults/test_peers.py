"""Peers that go away at the worst moment take nobody with them."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from prov4ml.transport import Client, Server

if TYPE_CHECKING:
    from tests.conftest import Isolated

# One end that does not read for a while, as a collector with a slow disk or a stopped trainer.
DEAF = """
import sys, time
from prov4ml import transport

kind, address = sys.argv[1:]
if kind == "server":
    end = transport.Server(address)
    print(end.address, flush=True)
    sys.stdin.readline()
    got = sum(1 for _ in end.receive(1.0, 1000))
else:
    end = transport.Client(address)
    until = time.monotonic() + 30
    while not end.send(b"hello") and time.monotonic() < until:
        time.sleep(0.01)
    print("said", flush=True)
    sys.stdin.readline()
    got = sum(1 for _ in end.receive(1.0))
print(got, flush=True)
"""

# The other end sends until nothing more goes, and is killed.
FLOOD = """
import sys, time
from prov4ml import transport

kind, address = sys.argv[1:]
if kind == "server":
    end = transport.Server(address)
    print(end.address, flush=True)
    names = []
    while not names:
        names = [name for name, _ in end.receive(1.0)]
    send = lambda: end.send(names[0], bytes(100_000))
else:
    end = transport.Client(address)
    send = lambda: end.send(bytes(100_000))
until = time.monotonic() + 1.0
while time.monotonic() < until:
    send()
    time.sleep(0.001)
print("sent", flush=True)
time.sleep(600)
"""


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60.0)[0], "it says nothing"
    return process.stdout.readline().strip()


def test_peers_that_die_while_their_queue_is_full(
    isolated: Isolated, pause: Callable[[float], None], figures: Callable[..., None]
) -> None:
    """A collector and a trainer that read late survive peers that sent much and were killed."""
    isolated.write(DEAF, "deaf.py")
    isolated.write(FLOOD, "flood.py")
    cases = [(deaf, over) for deaf in ("server", "client") for over in ("ipc", "tcp")]
    listeners: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:

        def start(deaf: str, kind: str, address: str) -> subprocess.Popen[str]:
            name = "deaf.py" if kind == deaf else "flood.py"
            process = subprocess.Popen(
                [sys.executable, name, kind, address],
                cwd=isolated.folder,
                env=isolated.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        for deaf, over in cases:
            where = f"ipc://{isolated.root}/{deaf}" if over == "ipc" else "tcp://127.0.0.1:0"
            server = start(deaf, "server", where)
            client = start(deaf, "client", line(server))
            listener, sender = (server, client) if deaf == "server" else (client, server)
            if deaf == "client":
                assert line(client) == "said"
            assert line(sender) == "sent"
            sender.kill()
            listeners.append(listener)
        pause(6.0)  # the next heartbeat of ZeroMQ would come after 5 s, and abort
        received = 0
        for case, listener in zip(cases, listeners, strict=True):
            out, errors = listener.communicate("go on\n", timeout=60.0)
            assert (listener.returncode, errors) == (0, ""), case
            received += int(out)
    assert received > 0
    figures(peers_killed=len(cases), messages_read_afterwards=received, aborts=0)


def test_a_full_queue_says_no(isolated: Isolated, figures: Callable[..., None]) -> None:
    """What a peer does not read is held up to 64 messages at each end; then ``send`` says no."""
    server = Server(f"ipc://{isolated.root}/full")
    client = Client(server.address)
    deadline = time.monotonic() + 30.0

    def refused() -> bool:
        """Whether there is no room for a message, and none comes in a tenth of a second."""
        until = time.monotonic() + 0.1
        while not client.send(bytes(1 << 20)):
            if time.monotonic() > until:
                return True
        return False

    sent = 0
    while not refused() or not sent:
        sent += 1
        assert time.monotonic() < deadline
    assert 64 <= sent <= 2 * 64 + 8  # and what the kernel holds of them
    read = 0
    while read < 100:
        read += sum(1 for _ in server.receive(1.0))
        assert time.monotonic() < deadline
    while not client.send(b"again"):
        assert time.monotonic() < deadline
    client.close()
    server.close()
    figures(messages_taken=sent)
