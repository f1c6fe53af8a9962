"""Starting a rainfs process in the background and hearing whether it came up.

Owns the readiness pipe: the child inherits its writing end (`--ready-fd`) and writes one line of
JSON to it, either that it is ready, with remarks for the user, or the one-line reason why not.  A
child that dies without a word closes the pipe, which counts as a failure.
"""

from __future__ import annotations

import logging
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from rainfs.errors import RainError

log = logging.getLogger(__name__)

MAX_REPORT_BYTES = 64 << 10
LOG_MODE = 0o600


class Report(msgspec.Struct, frozen=True):
    """What a child says of its start."""

    ready: bool
    reason: str = ""
    remarks: tuple[str, ...] = ()


class StartFailed(RainError):
    """A background process did not come up; the message is its own reason."""


class ReadyPipe:
    """The child's end; without a descriptor (a process in the foreground) it says nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def ready(self, remarks: Sequence[str] = ()) -> None:
        """Tell the parent that the service answers."""
        self._tell(Report(True, remarks=tuple(remarks)))

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the parent why, should the body fail before it was ready."""
        try:
            yield
        except BaseException as error:
            if is_unexpected(error):
                log.exception("unexpected end")
            self._tell(Report(False, reason=reason_of(error)))
            raise

    def _tell(self, report: Report) -> None:
        if self._fd is not None:
            with suppress(BrokenPipeError):
                os.write(self._fd, msgspec.json.encode(report) + b"\n")
            os.close(self._fd)
            self._fd = None


def reason_of(error: BaseException) -> str:
    """Return one line for a user: of a group of errors, the first that rainfs raised on purpose."""
    if isinstance(error, BaseExceptionGroup):
        leaves = list(_leaves(error))
        ours = [leaf for leaf in leaves if isinstance(leaf, RainError)]
        return reason_of((ours or leaves)[0])
    if isinstance(error, RainError):
        text = str(error) or type(error).__name__
    elif isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        text = f"{where}{error.strerror}"
    elif isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    else:
        text = f"unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())


def is_unexpected(error: BaseException) -> bool:
    """Whether the error is a fault of the program: neither ours by intent nor the system's."""
    leaves = _leaves(error) if isinstance(error, BaseExceptionGroup) else iter([error])
    return not all(isinstance(e, (RainError, OSError, KeyboardInterrupt)) for e in leaves)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def start_in_background(
    arguments: Sequence[str], *, log: Path, timeout_s: float
) -> tuple[int, Report]:
    """Run `rainfs ARGUMENTS --ready-fd N` in a session of its own; return its pid and report.

    Raises: StartFailed with the child's own reason, or when it says nothing for `timeout_s`.
    """
    reading, writing = os.pipe()
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "rainfs.cli.main", *arguments, "--ready-fd", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=(writing,),
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log_fd)
        os.close(writing)
    try:
        report = _read_report(reading, timeout_s)
    except TimeoutError as error:
        child.terminate()
        reason = f"process {child.pid} was not ready within {timeout_s:.0f} s: {log}"
        raise StartFailed(reason) from error
    finally:
        os.close(reading)
    if report is None:
        raise StartFailed(f"the process ended without a word: {last_line(log)} ({log})")
    if not report.ready:
        child.wait()
        raise StartFailed(report.reason)
    return child.pid, report


def _read_report(fd: int, timeout_s: float) -> Report | None:
    """Return the report, None when the pipe was closed without one.  Raises: TimeoutError."""
    deadline = time.monotonic() + timeout_s
    content = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not content.endswith(b"\n") and len(content) < MAX_REPORT_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            piece = os.read(fd, MAX_REPORT_BYTES)
            if not piece:
                return None
            content += piece
    return msgspec.json.decode(content, type=Report)


def last_line(log: Path) -> str:
    """Return the last line of a log, for a reason where there is no better one."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing logged"
