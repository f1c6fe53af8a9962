"""Background starts: the parent hears the child's own reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rainfs.cli.daemon import ReadyPipe, StartFailed, reason_of, start_in_background
from rainfs.errors import InputError, NodeFull, RainError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("a\nb  c"), "a b c"),
        (NodeFull(), "NodeFull"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: No such file or directory"),
        (KeyError("k"), "unexpected KeyError: 'k'"),
        (ExceptionGroup("g", [ValueError("v"), NodeFull("full")]), "full"),
        (ExceptionGroup("g", [ExceptionGroup("h", [InputError("deep")])]), "deep"),
    ],
)
def test_a_reason_is_one_line(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_failure_before_ready_is_reported_and_raised() -> None:
    reading, writing = os.pipe()
    pipe = ReadyPipe(writing)
    with pytest.raises(RainError), pipe.reporting():
        raise InputError("no good")
    assert b'"reason":"no good"' in os.read(reading, 1000)
    os.close(reading)


def test_nothing_is_reported_twice_or_to_nobody() -> None:
    reading, writing = os.pipe()
    pipe = ReadyPipe(writing)
    pipe.ready(["a remark"])
    pipe.ready()
    assert os.read(reading, 1000).count(b"\n") == 1
    os.close(reading)
    ReadyPipe(None).ready()


def test_the_parent_hears_why_a_child_failed(tmp_path: Path) -> None:
    arguments = ["node", "serve", str(tmp_path / "new"), "--listen", "127.0.0.1:0"]
    with pytest.raises(StartFailed, match="capacity"):
        start_in_background(arguments, log=tmp_path / "log", timeout_s=60)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_child_without_a_word_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="without a word"):
        start_in_background(["nonsense"], log=tmp_path / "log", timeout_s=60)
