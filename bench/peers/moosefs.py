"""MooseFS: three copies over six chunk servers, which survive two losses as our 4+2 does.

Its master refuses loopback, hence the network namespace. Settings are the defaults but for places.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

from bench.peers import netns
from bench.peers.peer import PeerFailed, Running, lacking_commands
from bench.peers.processes import command, daemon, is_mounted, unmount, wait_until

CHUNK_SERVERS = 6
COPIES = 3
FIRST_CHUNK_PORT = 9522
MASTER_CHUNK_PORT = 9420
TCP_ESTABLISHED = "01"
EMPTY_METADATA = Path("/var/lib/mfs/metadata.mfs.empty")

MASTER = """\
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {base}/master
EXPORTS_FILENAME = {base}/exports.cfg
TOPOLOGY_FILENAME = {base}/topology.cfg
"""

CHUNK_SERVER = """\
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = {directory}/state
HDD_CONF_FILENAME = {directory}/hdd.cfg
CSSERV_LISTEN_PORT = {port}
MASTER_HOST = {address}
MASTER_RECONNECTION_DELAY = 1
"""


@dataclass(frozen=True, slots=True)
class MooseFS:
    name: str = "moosefs x3"
    keeps_bytes: bool = True

    def lacking(self) -> str | None:
        commands = ("mfsmaster", "mfschunkserver", "mfsmount", "mfssetgoal")
        if not (missing := netns.lacking() or lacking_commands(*commands)):
            missing = None if EMPTY_METADATA.exists() else f"{EMPTY_METADATA} is absent"
        return missing

    def start(self, base: Path, stack: ExitStack) -> Running:
        network = netns.Namespace("rainfs-bench-moose", stack)
        (base / "master").mkdir()
        copyfile(EMPTY_METADATA, base / "master" / "metadata.mfs")
        (base / "exports.cfg").write_text("* / rw,alldirs,admin,maproot=0:0\n")
        (base / "topology.cfg").write_text("")
        (base / "master.cfg").write_text(MASTER.format(base=base))
        master: list[str | Path] = ["mfsmaster", "-f", "-c", base / "master.cfg", "start"]
        process = daemon(stack, network.inside(master), base / "master.log")
        for number in range(CHUNK_SERVERS):
            self._start_chunk_server(base / f"chunks-{number + 1}", number, network, stack)

        mountpoint = base / "mnt"
        mountpoint.mkdir()
        stack.callback(unmount, mountpoint)
        mount = network.inside(["mfsmount", mountpoint, "-H", netns.ADDRESS])

        def remount() -> None:
            unmount(mountpoint)
            command(mount)
            wait_until(lambda: is_mounted(mountpoint), "the mount")

        def mounts() -> bool:
            try:
                remount()
            except PeerFailed:
                return False
            return True

        wait_until(mounts, "the master")
        command(network.inside(["mfssetgoal", "-r", str(COPIES), mountpoint]))
        wait_until(lambda: _connected(process.pid) >= CHUNK_SERVERS, "the chunk servers")
        return Running(mountpoint, remount, network.pids)

    def _start_chunk_server(
        self, directory: Path, number: int, network: netns.Namespace, stack: ExitStack
    ) -> None:
        for each in (directory, directory / "state", directory / "disk"):
            each.mkdir()
        (directory / "hdd.cfg").write_text(f"{directory / 'disk'}\n")
        settings = CHUNK_SERVER.format(
            directory=directory, port=FIRST_CHUNK_PORT + number, address=netns.ADDRESS
        )
        (directory / "server.cfg").write_text(settings)
        serve: list[str | Path] = ["mfschunkserver", "-f", "-c", directory / "server.cfg", "start"]
        daemon(stack, network.inside(serve), directory / "server.log")


def _connected(master_pid: int) -> int:
    """Count the chunk servers connected to the master, by the TCP table of its namespace."""
    table = Path(f"/proc/{master_pid}/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in table]
    port = f"{MASTER_CHUNK_PORT:04X}"
    return sum(row[1].endswith(f":{port}") and row[3] == TCP_ESTABLISHED for row in rows)
