"""Two hosts with a link between them: network namespaces and a veth pair.

Both see the same files and processes; ``named`` gives a command another host name as well.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from typing import Final

__all__ = ["Hosts", "named"]

_PATH: Final = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
_RENAME: Final = (
    "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
)


class Hosts:
    """``here`` and ``there`` are what commands on the two hosts stand behind.

    Each has its own loopback; over the link they are ``address_here`` and ``address_there``.
    Raises ``PermissionError`` where this process may not make namespaces, or without iproute2.
    """

    address_here = "10.77.0.1"
    address_there = "10.77.0.2"

    def __init__(self) -> None:
        found = shutil.which("ip", path=_PATH)
        if found is None:
            raise PermissionError("there is no program ip (Debian: iproute2)")
        self._ip = found
        token = secrets.token_hex(4)
        self._names = (f"p4-{token}-a", f"p4-{token}-b")
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        self.here, self.there = ((found, "netns", "exec", name) for name in self._names)

    def _make(self) -> None:
        for name in self._names:
            self._run("netns", "add", name)
        one, other = self._names
        ends = ("link", "add", "p4", "netns", one, "type", "veth", "peer", "name", "p4")
        self._run(*ends, "netns", other)
        for name, address in zip(self._names, (self.address_here, self.address_there), strict=True):
            self._run("-n", name, "address", "add", f"{address}/30", "dev", "p4")
            self._run("-n", name, "link", "set", "lo", "up")
        self.up()

    def up(self) -> None:
        """Connect them (again)."""
        for name in self._names:
            self._run("-n", name, "link", "set", "p4", "up")

    def down(self) -> None:
        """Pull the plug, at the rank's end."""
        self._run("-n", self._names[1], "link", "set", "p4", "down")

    def close(self) -> None:
        """Both are gone once the last process on them is."""
        for name in self._names:
            subprocess.run([self._ip, "netns", "delete", name], capture_output=True, check=False)

    def _run(self, *words: str) -> None:
        done = subprocess.run([self._ip, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def named(host: str) -> tuple[str, ...]:
    """What a command stands behind to run on a host of that name.  Needs the right to do so."""
    return "unshare", "--uts", sys.executable, "-c", _RENAME, host
