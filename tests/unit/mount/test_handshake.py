"""The exchange with the kernel that comes before all requests, with a socket for the kernel."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from rainfs.mount.handshake import AUTO_INVAL_DATA, HANDLE_KILLPRIV_V2, INIT, Handshake

IN = struct.Struct("=IIQQIIIHHIIIII")
OUT = struct.Struct("=IiQIIIIHH")
OTHER_FLAGS = 0x1 | 1 << 20


def request(flags: int, opcode: int = INIT) -> bytes:
    return IN.pack(IN.size, opcode, 1, 0, 0, 0, 0, 0, 0, 7, 45, 131072, flags, 0)


def answer(flags: int, error: int = 0) -> bytes:
    return OUT.pack(OUT.size, error, 1, 7, 38, 131072, flags, 64, 48)


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, int]]:
    """The kernel's end, and the descriptor that a server was given."""
    ours, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = device.detach()
    yield ours, descriptor
    ours.close()
    os.close(descriptor)


@pytest.mark.parametrize(
    ("offered", "opcode", "error", "granted"),
    [
        (OTHER_FLAGS | HANDLE_KILLPRIV_V2, INIT, 0, True),
        (OTHER_FLAGS, INIT, 0, False),
        (OTHER_FLAGS | HANDLE_KILLPRIV_V2, INIT + 1, 0, False),
        (OTHER_FLAGS | HANDLE_KILLPRIV_V2, INIT, -errno.EPROTO, False),
    ],
)
def test_the_promise_is_made_where_it_is_offered_and_nothing_else_changes(
    kernel: tuple[socket.socket, int], offered: int, opcode: int, error: int, granted: bool
) -> None:
    ours, device = kernel
    ours.send(request(offered, opcode))
    handshake = Handshake(device, alone=False)
    assert not handshake.finish(), "libfuse has not answered yet"
    assert os.read(device, 1 << 16) == request(offered, opcode)
    assert not handshake.finish()
    os.set_blocking(device, False)
    os.write(device, answer(OTHER_FLAGS, error))
    assert handshake.finish()
    wanted = OTHER_FLAGS | HANDLE_KILLPRIV_V2 if granted else OTHER_FLAGS
    assert ours.recv(1 << 16) == answer(wanted, error)
    # From now on the descriptor is the kernel's.
    ours.send(b"a request")
    assert os.read(device, 1 << 16) == b"a request"
    os.write(device, b"an answer")
    assert ours.recv(1 << 16) == b"an answer"
    assert not os.get_blocking(device)


def test_a_short_request_passes_unchanged(kernel: tuple[socket.socket, int]) -> None:
    ours, device = kernel
    ours.send(b"short")
    handshake = Handshake(device, alone=False)
    assert os.read(device, 1 << 16) == b"short"
    os.write(device, b"odd")
    assert handshake.finish()
    assert ours.recv(1 << 16) == b"odd"


def test_a_kernel_that_is_gone_is_left_to_the_next_read(
    kernel: tuple[socket.socket, int],
) -> None:
    ours, device = kernel
    ours.send(request(HANDLE_KILLPRIV_V2))
    handshake = Handshake(device, alone=False)
    os.read(device, 1 << 16)
    os.write(device, answer(0))
    ours.close()
    assert handshake.finish()
    assert os.read(device, 1 << 16) == b""


@pytest.mark.parametrize("alone", [True, False])
def test_the_kernel_looks_for_changes_of_others_only_where_there_are_others(
    kernel: tuple[socket.socket, int], alone: bool
) -> None:
    ours, device = kernel
    ours.send(request(OTHER_FLAGS | AUTO_INVAL_DATA))
    handshake = Handshake(device, alone=alone)
    os.read(device, 1 << 16)
    os.write(device, answer(OTHER_FLAGS | AUTO_INVAL_DATA))
    assert handshake.finish()
    assert ours.recv(1 << 16) == answer(OTHER_FLAGS if alone else OTHER_FLAGS | AUTO_INVAL_DATA)
