"""A bad network between a rank and its collector: a TCP relay that cuts, holds, slows, swallows.

A program of its own, so that it can stand in another network namespace, be killed for real, and
take no time from the test.  It obeys one word a line on its input, and says ``ok`` when it is so:

    pass           from now on it is a good network again
    cut            every connection is reset; new ones are taken
    refuse         connections are taken and reset at once
    hold           nothing is read from either side; what was sent waits, until ``pass``
    delay SECONDS  everything arrives so much later
    rate BYTES     so many bytes a second in each direction of each connection, at most
    swallow        everything is read and thrown away, nothing is closed: half-open connections.
                   Those stay so for ever; after ``pass`` new ones are good

``Relay`` is the handle of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Mapping

__all__ = ["Relay"]

_BUFFER = 64 << 10  # bytes that a connection may hold here, or a fault would come late


class Relay:
    """A running relay to ``target`` (host:port); ``before`` is what its command stands behind.

    ``address`` is where it listens: on ``host``, at a port of its own.
    """

    def __init__(
        self, target: str, environment: Mapping[str, str], *before: str, host: str = "127.0.0.1"
    ) -> None:
        self.target = target
        self._environment = dict(environment)
        self._before = before
        self.address = f"{host}:0"
        self.start()

    def start(self) -> None:
        """Listen (again), at the address it had."""
        self._process = subprocess.Popen(
            [*self._before, sys.executable, "-m", __name__, self.address, self.target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        self.address = self._heard()

    def tell(self, *words: object) -> None:
        """Give it a command, and wait until it is so."""
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        assert self._heard() == "ok", words

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.communicate()

    close = kill

    def _heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class _Network:
    """What is done to bytes now."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.open = asyncio.Event()
        self.links: set[asyncio.Task[None]] = set()
        self.obey("pass")

    def obey(self, word: str, number: str = "0") -> None:
        if word in ("cut", "refuse"):
            for link in self.links:
                link.cancel()
        if word == "cut":
            return
        self.delay = float(number) if word == "delay" else 0.0
        self.rate = float(number) if word == "rate" else 0.0
        self.swallow = word == "swallow"
        self.refuse = word == "refuse"
        if word == "hold":
            self.open.clear()
        else:
            self.open.set()

    async def accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self.links.add(link)
        tasks: list[asyncio.Task[None]] = []
        ends = [back]
        try:
            if self.refuse:
                raise ConnectionRefusedError
            host, port = self.target.rsplit(":", 1)
            opening = asyncio.open_connection(host, int(port), limit=_BUFFER)
            far, forth = await asyncio.wait_for(opening, 2.0)
            ends.append(forth)
            tasks += map(asyncio.create_task, (self._carry(near, forth), self._carry(far, back)))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # nobody is there, or a cut
        finally:
            self.links.discard(link)
            for task in tasks:
                task.cancel()
            for end in ends:
                end.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """One direction of a connection, until either side hangs up."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        loop = asyncio.get_running_loop()

        async def put() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self.open.wait()
                target.write(data)
                await target.drain()
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)

        lost = False
        putting = asyncio.create_task(put())
        try:
            while True:
                await self.open.wait()
                size = max(1, min(16 << 10, int(self.rate / 10))) if self.rate else 16 << 10
                try:
                    data = await source.read(size)
                except OSError:
                    data = b""
                lost = lost or self.swallow
                if lost:
                    if not data:
                        await asyncio.Event().wait()  # whoever waits behind us is told nothing
                    continue
                if not data or putting.done():
                    return
                await waiting.put((loop.time() + self.delay, data))
        finally:
            putting.cancel()


async def _main(listen: str, target: str) -> None:
    network = _Network(target)
    host, port = listen.rsplit(":", 1)
    door = socket.create_server((host, int(port)))
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    server = await asyncio.start_server(network.accept, sock=door, limit=_BUFFER)
    print(":".join(map(str, door.getsockname()[:2])), flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        network.obey(*line.decode().split())
        print("ok", flush=True)
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(sys.argv[1], sys.argv[2]))
