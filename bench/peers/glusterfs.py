"""GlusterFS: a dispersed volume, 4 data + 2 redundancy, on six bricks.

It survives the same two losses as our 4+2. Its management daemon takes no loopback address for a
brick, hence the network namespace. Volume options are the defaults.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.peers import netns
from bench.peers.peer import PeerFailed, Running, lacking_commands
from bench.peers.processes import command, daemon, end_pids, is_mounted, unmount, wait_until

BRICKS = 6
REDUNDANCY = 2
VOLUME = "bench"

MANAGEMENT = """\
volume management
    type mgmt/glusterd
    option working-directory {base}/work
    option run-directory {base}/run
    option logging-directory {base}/log
    option glusterd-sockfile {base}/run/glusterd.sock
    option transport-type socket
    option transport.address-family inet
    option transport.socket.read-fail-log off
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
"""


@dataclass(frozen=True, slots=True)
class GlusterFS:
    name: str = "glusterfs 4+2"
    keeps_bytes: bool = True

    def lacking(self) -> str | None:
        return netns.lacking() or lacking_commands("glusterd", "gluster", "mount.glusterfs")

    def start(self, base: Path, stack: ExitStack) -> Running:
        bricks = [base / f"brick-{number}" for number in range(1, BRICKS + 1)]
        mountpoint = base / "mnt"
        for directory in (*bricks, mountpoint, base / "work", base / "run", base / "log"):
            directory.mkdir()
        (base / "glusterd.vol").write_text(MANAGEMENT.format(base=base))
        network = netns.Namespace("rainfs-bench-gluster", stack)
        stack.callback(_end, network)

        log = base / "log" / "glusterd.log"
        pid_file = base / "run" / "glusterd.pid"
        manage: list[str | Path] = ["glusterd", "-N", "-f", base / "glusterd.vol"]
        manage += ["-p", pid_file, "-l", log]
        daemon(stack, network.inside(manage), base / "log" / "glusterd.out")
        socket_path = base / "run" / "glusterd.sock"
        ask = network.inside(["gluster", "--mode=script", f"--glusterd-sock={socket_path}"])

        def manager_answers() -> bool:
            try:
                command([*ask, "volume", "list"])
            except PeerFailed:
                return False
            return True

        wait_until(manager_answers, "glusterd")
        create = ["volume", "create", VOLUME]
        create += ["disperse-data", str(BRICKS - REDUNDANCY), "redundancy", str(REDUNDANCY)]
        create += [f"{netns.ADDRESS}:{brick}" for brick in bricks]
        command([*ask, *create, "force"])
        command([*ask, "volume", "start", VOLUME])

        options = f"log-file={base / 'log' / 'mount.log'}"
        source = f"{netns.ADDRESS}:/{VOLUME}"
        mount = network.inside(["mount", "-t", "glusterfs", "-o", options, source, mountpoint])
        stack.callback(unmount, mountpoint)

        def remount() -> None:
            unmount(mountpoint)
            command(mount)
            wait_until(lambda: is_mounted(mountpoint), "the mount")

        remount()
        return Running(mountpoint, remount, network.pids)


def _end(network: netns.Namespace) -> None:
    """End the daemons and remove the sockets they leave outside the base directory."""
    sockets = [found for pid in network.pids() if (found := _status_socket(pid))]
    end_pids(network.pids)
    for path in sockets:
        path.unlink(missing_ok=True)


def _status_socket(pid: int) -> Path | None:
    """Return the argument of a gluster daemon's -S, its status socket."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return Path(words[words.index("-S") + 1]) if "-S" in words[:-1] else None
