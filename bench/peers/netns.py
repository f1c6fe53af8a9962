"""A network namespace with one address of its own, for peers that refuse to work over loopback.

Mounts made from inside stay visible outside: only the network is entered, never a mount namespace.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bench.peers.peer import lacking_commands
from bench.peers.processes import command, end_pids

ADDRESS = "10.251.7.1"
PREFIX_BITS = 24
COMMANDS = ("ip", "nsenter")


def lacking() -> str | None:
    if os.geteuid() != 0:
        return "needs root for a network namespace"
    return lacking_commands(*COMMANDS)


class Namespace:
    """Made on construction, gone with every process in it when the stack unwinds."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = f"{name}-{os.getpid()}"
        command(["ip", "netns", "add", self.name])
        stack.callback(self._remove)
        # A veth pair with both ends inside gives an address that is not loopback and leaks nothing.
        for words in (
            "link set lo up",
            "link add peer0 type veth peer name peer1",
            f"addr add {ADDRESS}/{PREFIX_BITS} dev peer0",
            "link set peer0 up",
            "link set peer1 up",
        ):
            command(self.inside(["ip", *words.split()]))

    def inside(self, arguments: Sequence[str | Path]) -> list[str | Path]:
        """Return the command line that runs `arguments` on this namespace's network."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *arguments]

    def pids(self) -> Iterator[int]:
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        for word in listed.stdout.split():
            with suppress(ValueError):
                yield int(word)

    def _remove(self) -> None:
        end_pids(self.pids)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
