"""The segment map equals a plain byte array, whatever is written, cut and taken."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rainfs.vfs.buffer import JOIN_BYTES, SegmentMap

BLOCK = 256
SPACE = 5 * BLOCK


class Model:
    """What a file's dirty bytes are: bytes and which of them are there."""

    def __init__(self) -> None:
        self.data = bytearray(SPACE)
        self.there = bytearray(SPACE)

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data
        self.there[offset : offset + len(data)] = b"\1" * len(data)

    def drop(self, start: int, stop: int) -> None:
        self.there[start:stop] = bytes(stop - start)


def content(found: SegmentMap) -> tuple[bytes, bytes]:
    """Return (bytes with zeros where nothing is, mask) and check the map's invariants."""
    data, mask = bytearray(SPACE), bytearray(SPACE)
    before = 0
    for segment in found.segments:
        assert before <= segment.start < segment.stop
        assert len(segment.data) == segment.stop - segment.start
        data[segment.start : segment.stop] = segment.data
        mask[segment.start : segment.stop] = b"\1" * len(segment.data)
        before = segment.stop
    assert found.nbytes == sum(mask)
    assert found.stop == before
    return bytes(data), bytes(mask)


def masked(model: Model) -> tuple[bytes, bytes]:
    data = bytes(b if there else 0 for b, there in zip(model.data, model.there, strict=True))
    return data, bytes(model.there)


OFFSETS = st.one_of(
    st.integers(0, SPACE - 1), st.integers(0, SPACE // 64 - 1).map(lambda n: n * 64)
)
LENGTHS = st.one_of(st.integers(1, 90), st.sampled_from([64, 128, BLOCK, 2 * BLOCK]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, LENGTHS),
        st.tuples(st.just("append"), st.just(0), LENGTHS),
        st.tuples(st.just("truncate"), OFFSETS, st.just(0)),
        st.tuples(st.just("extract"), OFFSETS, st.just(0)),
        st.tuples(st.just("read"), OFFSETS, LENGTHS),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_the_map_equals_a_byte_array(steps: list[tuple[str, int, int]]) -> None:
    found, model = SegmentMap(BLOCK), Model()
    end = 0
    for number, (step, at, length) in enumerate(steps):
        offset = min(end, SPACE - 1) if step == "append" else at
        stop = min(offset + length, SPACE)
        if step in ("write", "append"):
            data = bytes((number * 7 + i) % 251 + 1 for i in range(stop - offset))
            found.write(offset, data)
            model.write(offset, data)
            end = stop
        elif step == "truncate":
            found.truncate(offset)
            model.drop(offset, SPACE)
        elif step == "extract":
            taken = found.extract(offset)
            want = Model()
            want.data, want.there = model.data, bytearray(model.there)
            want.drop(offset, SPACE)
            assert content(taken) == masked(want)
            check_pieces(taken)
            model.drop(0, offset)
        else:
            check_overlay(found, model, offset, stop)
        assert content(found) == masked(model)


def check_overlay(found: SegmentMap, model: Model, start: int, stop: int) -> None:
    parts: list[tuple[int, bytes | bytearray | memoryview]] = []
    gaps = found.overlay([(start, stop)], parts)
    mask = bytearray(b"\2" * (stop - start))
    for at, data in parts:
        assert bytes(data) == bytes(model.data[at : at + len(data)])
        assert type(data) is not bytearray, "a reader must not see later changes"
        mask[at - start : at - start + len(data)] = b"\1" * len(data)
    for low, high in gaps:
        assert low < high
        mask[low - start : high - start] = bytes(high - low)
    assert bytes(mask) == bytes(model.there[start:stop])


def check_pieces(taken: SegmentMap) -> None:
    """Pieces cover exactly the bytes, never cross a block, and no two of a block touch."""
    data, mask = content(taken)
    covered = bytearray(SPACE)
    before = -1
    for offset, length, buffers in taken.pieces(BLOCK):
        joined = b"".join(bytes(b) for b in buffers)
        assert len(joined) == length > 0
        assert joined == data[offset : offset + length]
        assert offset // BLOCK == (offset + length - 1) // BLOCK
        assert offset > before or offset % BLOCK == 0
        covered[offset : offset + length] = b"\1" * length
        before = offset + length
    assert bytes(covered) == mask


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(OFFSETS, LENGTHS), min_size=1, max_size=20),
    st.integers(BLOCK, 3 * BLOCK),
    st.integers(1, 8),
    st.booleans(),
)
def test_what_fits_a_stripe_fits_it(
    writes: list[tuple[int, int]], room: int, blocks: int, whole: bool
) -> None:
    found = SegmentMap(BLOCK)
    for offset, length in writes:
        found.write(offset, b"x" * length)
    before = found.nbytes
    stop = found.fit(room, blocks, BLOCK, whole=whole)
    taken = found.extract(stop)
    assert taken.nbytes <= room
    assert sum(1 for _ in taken.pieces(BLOCK)) <= blocks
    assert taken.nbytes > 0, "an empty stripe always takes something"
    assert taken.nbytes + found.nbytes == before


def test_an_unaligned_tail_waits_for_its_writer() -> None:
    found = SegmentMap(BLOCK)
    for offset in range(0, 2 * BLOCK + 128, 64):
        found.write(offset, bytes(64))
    assert found.fit(1 << 20, 100, BLOCK, whole=False) == 2 * BLOCK
    assert found.fit(1 << 20, 100, BLOCK, whole=True) == 2 * BLOCK + 128


def test_small_writes_in_a_row_become_one_segment_a_block() -> None:
    found = SegmentMap(128 * 1024)
    for offset in range(0, 256 * 1024, 4096):
        found.write(offset, bytes(4096))
    assert [(s.start, s.stop) for s in found.segments] == [(0, 131072), (131072, 262144)]


def test_a_large_write_is_not_copied() -> None:
    found = SegmentMap(128 * 1024)
    data = bytes(1 << 20)
    found.write(4096, data)
    assert found.segments[0].data is data


def test_small_remnants_do_not_pin_large_buffers() -> None:
    found = SegmentMap(128 * 1024)
    found.write(0, bytes(1 << 20))
    found.write(4096, bytes((1 << 20) - 4096))
    remnant = found.segments[0]
    assert remnant.stop == 4096
    assert type(remnant.data) is bytes
    assert len(remnant.data) == 4096


def test_a_large_overwrite_after_joined_ones_keeps_order() -> None:
    found = SegmentMap(1 << 20)
    for offset in range(0, 65536, 4096):
        found.write(offset, b"a" * 4096)
    found.write(4096, b"b" * (JOIN_BYTES + 1))
    data = b"".join(bytes(s.data) for s in found.segments)
    assert data == b"a" * 4096 + b"b" * (JOIN_BYTES + 1) + b"a" * (65536 - 4096 - JOIN_BYTES - 1)
