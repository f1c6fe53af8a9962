"""The first pages of a storage file: what it is and whose.

Owns the superblock's binary form (FORMAT.md).  Refuses to know files.  Two copies lie in pages 0
and 1; an update writes the copy that does not hold the newest generation, so that a torn write
leaves the old one.  A copy counts only if its checksum holds.
"""

from __future__ import annotations

import struct

import msgspec

from rainfs.checksum import crc32c
from rainfs.errors import InputError, StoreDamaged
from rainfs.model import PAGE_BYTES, NodeUuid, VolumeId

MAGIC = b"RAINSTOR"
FORMAT_VERSION = 1
COPIES = 2
UUID_BYTES = 16

_HEADER = struct.Struct("<8sIIQI")
"""magic, version, body_bytes, generation, crc (of header with crc 0, then body)."""
_CRC_OFFSET = _HEADER.size - 4


class Superblock(msgspec.Struct, frozen=True, array_like=True):
    """Identity and geometry of a store; fields are only ever appended, with a default."""

    uuid: bytes
    volume: bytes
    """Empty while the store belongs to no volume."""
    capacity_bytes: int
    journal_offset: int
    journal_bytes: int
    data_offset: int
    name: str
    labels: dict[str, str]
    generation: int = 0

    @property
    def node(self) -> NodeUuid:
        """The node's identity."""
        return NodeUuid(self.uuid)

    @property
    def volume_id(self) -> VolumeId | None:
        """The volume that claimed the store."""
        return VolumeId(self.volume) if self.volume else None


def encode(block: Superblock) -> bytes:
    """Return one page.  Raises: InputError when name and labels do not fit."""
    body = msgspec.msgpack.encode(block)
    if _HEADER.size + len(body) > PAGE_BYTES:
        raise InputError("name and labels are too long for a storage file's superblock")
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, len(body), block.generation, 0)
    crc = crc32c(body, crc32c(header))
    page = _HEADER.pack(MAGIC, FORMAT_VERSION, len(body), block.generation, crc) + body
    return page.ljust(PAGE_BYTES, b"\0")


def copy_for(generation: int) -> int:
    """Return the page that holds the copy of that generation."""
    return generation % COPIES


def decode(pages: bytes) -> Superblock:
    """Return the newest valid copy among the first `COPIES` pages.

    Raises: StoreDamaged when the file is foreign, of a later version, or both copies are broken.
    """
    valid: list[Superblock] = []
    magic_seen = False
    for number in range(COPIES):
        page = pages[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        if len(page) < PAGE_BYTES or not page.startswith(MAGIC):
            continue
        magic_seen = True
        _, version, body_bytes, generation, crc = _HEADER.unpack_from(page)
        body = page[_HEADER.size : _HEADER.size + body_bytes]
        header = page[:_CRC_OFFSET] + bytes(4)
        if _HEADER.size + body_bytes > PAGE_BYTES or crc32c(body, crc32c(header)) != crc:
            continue
        if version > FORMAT_VERSION:
            raise StoreDamaged(
                f"the storage file has format {version}; this rainfs knows up to {FORMAT_VERSION}"
            )
        valid.append(_body(body, generation))
    if valid:
        return max(valid, key=lambda block: block.generation)
    if magic_seen:
        raise StoreDamaged("both copies of the superblock are corrupt")
    raise StoreDamaged("not a rainfs storage file")


def _body(body: bytes, generation: int) -> Superblock:
    try:
        block = msgspec.msgpack.decode(body, type=Superblock)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"the superblock is unreadable: {error}") from error
    geometry = (block.journal_offset, block.journal_bytes, block.data_offset)
    if (
        block.generation != generation
        or len(block.uuid) != UUID_BYTES
        or len(block.volume) not in (0, UUID_BYTES)
        or any(value < 0 or value % PAGE_BYTES for value in geometry)
        or block.journal_offset < COPIES * PAGE_BYTES
        or block.journal_offset + block.journal_bytes > block.data_offset
    ):
        raise StoreDamaged("the superblock's fields do not fit together")
    return block
