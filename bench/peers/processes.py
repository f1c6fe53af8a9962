"""Start daemons, wait for what they promise, end them by process id, and add up what they used.

Invariants: only processes that were started here, or that name the peer's own unique directory on
their command line, are ever signalled, one by one by id.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bench.peers.peer import PeerFailed

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 15.0
POLL_S = 0.05
COMMAND_DEADLINE_S = 120.0
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
UTIME_FIELD, STIME_FIELD = 11, 12  # counted after the command name, see proc_pid_stat(5)


def command(arguments: Sequence[str | Path]) -> str:
    """Run a command to its end and return its output. Raises: PeerFailed."""
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise PeerFailed(f"{arguments[0]}: {failure}") from failure
    if done.returncode:
        words = " ".join(str(each) for each in arguments)
        raise PeerFailed(f"{words}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def daemon(stack: ExitStack, arguments: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that stays; it is terminated, then killed, when the stack unwinds."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(ready: Callable[[], bool], what: str, deadline_s: float = START_DEADLINE_S) -> None:
    """Poll until `ready()`. Raises: PeerFailed after the deadline."""
    until = time.monotonic() + deadline_s
    while not ready():
        if time.monotonic() > until:
            raise PeerFailed(f"{what} took more than {deadline_s:.0f} s")
        time.sleep(POLL_S)


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def is_mounted(mountpoint: Path) -> bool:
    """Read the mount table, which unlike stat never waits for the file system itself."""
    wanted = str(mountpoint)
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == wanted for line in table)


def unmount(mountpoint: Path) -> None:
    """Unmount now, lazily if it is busy or stuck; nothing if it is not mounted."""
    if not is_mounted(mountpoint):
        return
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["umount", mountpoint], capture_output=True, timeout=STOP_DEADLINE_S)
    if is_mounted(mountpoint):
        subprocess.run(["umount", "-l", mountpoint], capture_output=True, timeout=STOP_DEADLINE_S)


def pids_naming(directory: Path) -> Iterator[int]:
    """Yield the processes whose command line names this directory or something below it."""
    needle = os.fsencode(directory)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (os.getpid(), os.getppid()):
            with suppress(OSError):
                if needle in (entry / "cmdline").read_bytes():
                    yield int(entry.name)


def end_pids(pids: Callable[[], Iterable[int]]) -> None:
    """Terminate each process, and kill those that are still there after the deadline."""
    until = time.monotonic() + STOP_DEADLINE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        while any(map(_alive, pids())) and (number == signal.SIGKILL or time.monotonic() < until):
            if time.monotonic() > until + STOP_DEADLINE_S:
                return
            time.sleep(POLL_S)


def _alive(pid: int) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in ("Z", "X")
    return False


def favour(pids: Iterable[int], niceness: int) -> None:
    """Set these processes' niceness, and that of their scheduling groups where the kernel has them.

    With autogroups, niceness counts only among the processes of one session.
    """
    for pid in pids:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
            Path(f"/proc/{pid}/autogroup").write_text(f"{niceness}\n")


def cpu_s(pids: Iterable[int]) -> float:
    """Add up user and system time of these processes."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[UTIME_FIELD]) + int(fields[STIME_FIELD])
    return ticks / CLOCK_TICKS_PER_S
