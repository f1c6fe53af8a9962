"""A mount by an ordinary user, through fusermount3.

The test runs in a mount namespace of its own, where /dev/fuse is open to everybody as it is on
ordinary machines; the user may read everything, because Python may lie where only root gets to.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import RAINFS, StorageNode
from tests.system.posix.actor import Actor
from tests.system.posix.calls import LIBC
from tests.system.posix.checks import number_of

USER = 1000
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
COMMAND_TIMEOUT_S = 60
MNT_DETACH = 2
FUSE_DEVICE = (10, 229)


def _fusermount() -> Path | None:
    found = shutil.which("fusermount3")
    usable = found is not None and os.stat(found).st_mode & stat.S_ISUID
    return Path(found) if found is not None and usable else None


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or not Path("/dev/fuse").exists()
    or _fusermount() is None
    or shutil.which("setpriv") is None,
    reason="needs root, /dev/fuse, fusermount3 set-user-id, setpriv",
)


def _mounts(source: str, target: str, flags: int) -> None:
    if LIBC.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def enter_namespace(device: str) -> None:
    """Have a mount namespace of our own in which everybody may open /dev/fuse."""
    if LIBC.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mounts("none", "/", MS_REC | MS_PRIVATE)
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(*FUSE_DEVICE))
    os.chmod(device, 0o666)
    _mounts(device, "/dev/fuse", MS_BIND)


def as_user(home: str, *command: str) -> tuple[int, str]:
    """Run a command as the user, in the namespace of who calls; returns exit code and output."""
    become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    done = subprocess.run(
        [*become, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        env={**os.environ, "HOME": home, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout


class Home:
    """The user's directory, his volume, and the namespace he mounts it in."""

    def __init__(self, path: Path, inside: Actor, node_url: str) -> None:
        self.path = path
        self.node_url = node_url
        self.url = f"sqlite://{path}/rain \u00e4,b.db"
        self.mountpoint = path / "mnt \u00e4"
        self.inside = inside

    def run(self, *command: object) -> tuple[int, str]:
        code, told = self.inside.run(as_user, os.fspath(self.path), *map(str, command))
        return int(code), str(told)

    def rainfs(self, *arguments: object) -> str:
        code, told = self.run(*RAINFS, *arguments)
        assert code == 0, told
        return told

    def shell(self, script: str) -> str:
        code, told = self.run("sh", "-ec", script)
        assert code == 0, told
        return told


@pytest.fixture
def home() -> Iterator[Home]:
    path = Path(tempfile.mkdtemp(prefix="rainfs-user-"))
    node = StorageNode(path / "node", "node-1", "1G")
    inside = Actor(Path("/"), 0, 0, ())
    try:
        path.chmod(0o755)
        (path / "mnt \u00e4").mkdir()
        for owned in (path, path / "mnt \u00e4"):
            os.chown(owned, USER, USER)
        inside.run(enter_namespace, os.fspath(path / "fuse"))
        node.start()
        node.wait_ready()
        yield Home(path, inside, node.url)
    finally:
        inside.run(detach, os.fspath(path / "mnt \u00e4"))
        inside.kill()
        node.close()
        shutil.rmtree(path)


def detach(path: str) -> None:
    """Take away whatever is mounted there."""
    LIBC.umount2(os.fsencode(path), MNT_DETACH)


def test_a_user_mounts_works_and_unmounts(home: Home) -> None:
    home.rainfs("format", home.url, "--name", "mine", "--mirror", 1, home.node_url)
    home.rainfs("mount", home.url, home.mountpoint)
    home.shell(
        "cd 'mnt \u00e4'; echo content > file; mkdir d; mv file d/; ln d/file hard;"
        " ln -s d/file soft; chmod 600 hard; dd if=/dev/urandom of=big bs=1M count=3 status=none;"
        " sha256sum big > sum"
    )
    assert home.shell("cd 'mnt \u00e4'; umask 077; : > private; stat -c %a:%u:%g private hard") == (
        f"600:{USER}:{USER}\n600:{USER}:{USER}\n"
    )
    assert number_of(home.inside.run, os.listdir, home.mountpoint) == errno.EACCES, "root is other"
    lines = [line for line in home.inside.run(_mount_lines) if str(home.path) in line]
    line = next(line for line in lines if "fuse.rainfs" in line)
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    home.rainfs("umount", home.mountpoint)
    assert home.inside.run(os.listdir, home.mountpoint) == []
    home.rainfs("mount", home.url, home.mountpoint, "-o", "ro")
    assert home.shell("cd 'mnt \u00e4'; cat soft; sha256sum -c sum") == "content\nbig: OK\n"
    code, told = home.run("touch", home.mountpoint / "new")
    assert code != 0
    assert "Read-only" in told
    home.rainfs("umount", home.mountpoint)


def test_a_user_may_not_mount_where_he_may_not_write(home: Home) -> None:
    home.rainfs("format", home.url, "--name", "mine", "--mirror", 1, home.node_url)
    closed = home.path / "closed"
    closed.mkdir(mode=0o755)
    code, told = home.run(*RAINFS, "mount", home.url, closed)
    assert code != 0
    assert "cannot mount" in told
    assert "Traceback" not in told


def _mount_lines() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()
