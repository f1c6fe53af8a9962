"""The connection as a state machine, both ends against each other and against fuzz."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rainfs.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from rainfs.model import MAX_ABOUT_BYTES, MAX_SHARD_BYTES, MIB, NodeUuid, StripeId, VolumeId
from rainfs.wire import messages as wire
from rainfs.wire.connection import Arrived, Connection, PayloadAhead
from rainfs.wire.framing import PREAMBLE, pack_frame
from rainfs.wire.messages import Kind, Role
from rainfs.wire.state import ANSWERS, SENDER, TRANSITIONS, State

VOLUME = VolumeId(b"v" * 16)
UUID = NodeUuid(b"n" * 16)


def feed(connection: Connection, data: bytes, pieces: random.Random | None = None) -> list[Arrived]:
    """Hand bytes over as a socket would, in pieces; provide memory when asked for it."""
    arrived: list[Arrived] = []
    view = memoryview(data)
    while True:
        while connection.state is not State.CLOSED or not arrived:
            event = connection.next_event()
            if event is None:
                break
            if isinstance(event, PayloadAhead):
                assert event.payload_bytes <= MAX_SHARD_BYTES
                connection.provide(memoryview(bytearray(event.payload_bytes)))
            else:
                arrived.append(event)
        if not view:
            return arrived
        space = connection.buffer()
        assert len(space) > 0
        most = min(len(space), len(view))
        count = most if pieces is None else pieces.randint(1, most)
        space[:count] = view[:count]
        view = view[count:]
        connection.received(count)


def bytes_of(event: Arrived) -> bytes:
    assert event.payload is not None
    return bytes(event.payload)


def sent(
    connection: Connection, request: int, message: wire.Message, payload: bytes = b""
) -> bytes:
    parts = connection.send(request, message, [payload] if payload else [], len(payload))
    return b"".join(parts)


def opened() -> tuple[Connection, Connection]:
    client, node = Connection(Role.CLIENT), Connection(Role.NODE)
    feed(node, sent(client, 0, wire.Hello(VOLUME, "c")))
    feed(client, sent(node, 0, wire.Welcome(UUID, VOLUME, "n")))
    assert client.state is node.state is State.OPEN
    return client, node


def put(stripe: int = 1, about: bytes = b"") -> wire.Put:
    return wire.Put(StripeId(stripe), 0, True, about)


def get(length: int) -> wire.Get:
    return wire.Get(StripeId(1), 0, 0, length)


def test_requests_and_answers_pass_in_any_pieces() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(20):
        client, node = opened()
        payloads = {
            request: rng.randbytes(rng.choice([0, 1, 5000, 70_000, 300_000]) or 1)
            for request in range(1, 8)
        }
        stream = b"".join(
            sent(
                client,
                request,
                put(request, rng.randbytes(rng.choice([0, 10, 2000, 100_000]))),
                payload,
            )
            for request, payload in payloads.items()
        )
        requests = feed(node, stream, rng)
        assert [event.request for event in requests] == list(payloads)
        for event in requests:
            assert bytes_of(event) == payloads[event.request]
        rng.shuffle(requests)
        answers = feed(
            client, b"".join(sent(node, event.request, wire.Done()) for event in requests), rng
        )
        assert [event.request for event in answers] == [event.request for event in requests]
        assert not client.open_requests
        assert not node.open_requests
        assert client.between_frames
        assert node.between_frames


def test_the_longest_header_passes() -> None:
    client, node = opened()
    about = random.Random(1).randbytes(MAX_ABOUT_BYTES)
    [event] = feed(node, sent(client, 1, put(1, about), b"x" * 4096))
    assert isinstance(event.message, wire.Put)
    assert event.message.about == about


def test_payload_is_sent_without_copies_and_received_in_place() -> None:
    client, node = opened()
    payload = bytearray(b"p" * MIB)
    buffers = client.send(1, put(), [payload], len(payload))
    assert buffers[1] is payload
    head = bytes(buffers[0])
    space = node.buffer()
    space[: len(head)] = head
    node.received(len(head))
    event = node.next_event()
    assert isinstance(event, PayloadAhead)
    memory = memoryview(bytearray(MIB))
    node.provide(memory)
    target = node.buffer()
    assert len(target) == MIB
    target[:] = payload
    assert memory == payload
    node.received(MIB)
    arrived = node.next_event()
    assert isinstance(arrived, Arrived)
    assert arrived.payload is memory


def test_nothing_of_the_frame_behind_is_received_into_a_payload() -> None:
    client, node = opened()
    stream = sent(client, 1, put(1), b"a" * 4096) + sent(client, 2, put(2), b"b" * 4096)
    first, second = feed(node, stream)
    assert bytes_of(first) == b"a" * 4096
    assert bytes_of(second) == b"b" * 4096


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("role", list(Role))
def test_what_the_table_does_not_allow_is_refused(role: Role, kind: Kind, state: State) -> None:
    """Every pair of state and kind, received by either role."""
    client, node = Connection(Role.CLIENT), Connection(Role.NODE)
    receiver = client if role is Role.CLIENT else node
    sent_request = wire.Get(StripeId(1), 0, 0, 0)
    if state is not State.NEW:
        feed(node, sent(client, 0, wire.Hello(VOLUME)))
    else:
        receiver.buffer()[: len(PREAMBLE)] = PREAMBLE
        receiver.received(len(PREAMBLE))
        assert receiver.next_event() is None
    if state is State.OPEN:
        feed(client, sent(node, 0, wire.Welcome(UUID, VOLUME)))
        if role is Role.CLIENT:
            sent(client, 1, sent_request)
    elif state is State.GREETED and role is Role.CLIENT:
        receiver.buffer()[: len(PREAMBLE)] = PREAMBLE
        receiver.received(len(PREAMBLE))
    elif state is State.CLOSED:
        feed(client, sent(node, 0, wire.Failed(0, "no")))
        assert receiver.state is State.CLOSED
    frame = pack_frame(kind, 1 if state is State.OPEN else 0, 1, 0) + b"\xc1"
    allowed = (
        kind in TRANSITIONS[state]
        and SENDER[kind] is not role
        and not (state is State.OPEN and role is Role.CLIENT and kind not in ANSWERS[Kind.GET])
    )
    if state is State.CLOSED:
        with pytest.raises(LocalProtocolError):
            receiver.next_event()
        return
    # The header is garbage, so that a frame which may come is refused for that instead.
    reason = "makes no sense" if allowed else "may not come|answers"
    with pytest.raises(RemoteProtocolError, match=reason):
        feed(receiver, frame)
    assert receiver.state is State.CLOSED


def test_the_wrong_role_may_not_send() -> None:
    client, node = opened()
    with pytest.raises(LocalProtocolError):
        client.send(1, wire.Done())
    with pytest.raises(LocalProtocolError):
        node.send(1, wire.Sync())
    with pytest.raises(LocalProtocolError):
        client.send(0, wire.Hello(VOLUME))
    assert client.state is State.OPEN


def test_a_request_number_is_open_once() -> None:
    client, node = opened()
    stream = sent(client, 1, wire.Sync())
    with pytest.raises(LocalProtocolError):
        client.send(1, wire.Sync())
    with pytest.raises(LocalProtocolError):
        client.send(0, wire.Sync())
    feed(node, stream)
    with pytest.raises(RemoteProtocolError, match="open"):
        feed(node, stream)


def test_request_zero_is_refused() -> None:
    _, node = opened()
    with pytest.raises(RemoteProtocolError):
        feed(node, pack_frame(Kind.SYNC, 0, 1, 0) + b"\x90")


def test_an_answer_to_nothing_is_refused() -> None:
    client, node = opened()
    feed(node, sent(client, 7, wire.Sync()))
    answer = sent(node, 7, wire.Done())
    with pytest.raises(LocalProtocolError):
        node.send(7, wire.Done())
    feed(client, answer)
    with pytest.raises(RemoteProtocolError, match="not open"):
        feed(client, answer)


def test_an_answer_of_the_wrong_kind_or_length_is_refused() -> None:
    for frame in (
        pack_frame(Kind.DONE, 1, 1, 0) + b"\x90",
        pack_frame(Kind.LISTING, 1, 1, 0) + b"\x90",
        pack_frame(Kind.DATA, 1, 1, 99) + b"\x90" + bytes(99),
        pack_frame(Kind.DATA, 1, 1, 101) + b"\x90" + bytes(101),
    ):
        client, _ = opened()
        sent(client, 1, get(100))
        with pytest.raises(RemoteProtocolError):
            feed(client, frame)
    client, node = opened()
    feed(node, sent(client, 1, get(100)))
    with pytest.raises(LocalProtocolError):
        node.send(1, wire.Data(), [bytes(99)], 99)
    assert [e.request for e in feed(client, sent(node, 1, wire.Data(), bytes(100)))] == [1]


def test_a_recalled_request_may_not_be_answered() -> None:
    client, _ = opened()
    client.send(3, wire.Sync())
    client.recall(3)
    with pytest.raises(RemoteProtocolError):
        feed(client, pack_frame(Kind.DONE, 3, 1, 0) + b"\x90")


def test_memory_of_another_length_is_not_taken() -> None:
    client, node = opened()
    head = client.send(1, put(), [bytes(4096)], 4096)[0]
    with pytest.raises(LocalProtocolError):
        node.provide(memoryview(bytearray(10)))
    space = node.buffer()
    space[: len(head)] = head
    node.received(len(head))
    assert isinstance(node.next_event(), PayloadAhead)
    with pytest.raises(LocalProtocolError):
        node.next_event()
    with pytest.raises(LocalProtocolError):
        node.provide(memoryview(bytearray(4095)))


def test_a_long_length_allocates_nothing() -> None:
    for kind in Kind:
        role = Role.NODE if SENDER[kind] is Role.CLIENT else Role.CLIENT
        for lengths in [((1 << 32) - 1, 0), (0, (1 << 32) - 1), (2 * MIB, 5 * MIB)]:
            client, node = opened()
            receiver = node if role is Role.NODE else client
            tracemalloc.start()
            with pytest.raises(RemoteProtocolError):
                feed(receiver, pack_frame(kind, 1, *lengths))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 64 * 1024


def valid_streams() -> tuple[bytes, bytes]:
    """What a client and a node really say, for mutation."""
    client, node = Connection(Role.CLIENT), Connection(Role.NODE)
    up = sent(client, 0, wire.Hello(VOLUME, "x"))
    feed(node, up)
    down = sent(node, 0, wire.Welcome(UUID, VOLUME))
    feed(client, down)
    for request, message, payload in [
        (1, put(1, b"about"), bytes(4096)),
        (2, get(10), b""),
        (3, wire.Delete([(StripeId(1), 2)]), b""),
        (4, wire.List(None, 9), b""),
        (5, wire.Stat(StripeId(1), 1), b""),
        (6, wire.Health(), b""),
    ]:
        up += sent(client, request, message, payload)
    feed(node, up[len(sent_greeting()) :])
    for request, message, payload in [
        (2, wire.Data(), bytes(10)),
        (1, wire.Done(), b""),
        (3, wire.Failed(3, "broken"), b""),
        (4, wire.Listing([(StripeId(1), 2, 4096, True)]), b""),
        (5, wire.Described(4096, True, b"about"), b""),
        (6, wire.Report(UUID, VOLUME, "n", 1, 1, 0, 1, {"host": "h"}, False, "1"), b""),
    ]:
        down += sent(node, request, message, payload)
    return up, down


def sent_greeting() -> bytes:
    return sent(Connection(Role.CLIENT), 0, wire.Hello(VOLUME, "x"))


def client_that_asked() -> Connection:
    client = Connection(Role.CLIENT)
    client.send(0, wire.Hello(VOLUME, "x"))
    return client


def survive(connection: Connection, data: bytes) -> None:
    """Whatever comes is an event, a wish for more bytes, or a ProtocolError; and it ends."""
    try:
        feed(connection, data)
    except ProtocolError:
        assert connection.state is State.CLOSED


def test_random_bytes_never_crash_either_end() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(10_000):
        data = rng.randbytes(rng.randint(1, 60))
        if rng.random() < 0.7:
            data = PREAMBLE + data
        survive(Connection(Role.NODE), data)
        survive(client_that_asked(), data)


def test_mutated_streams_never_crash_either_end() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    up, down = valid_streams()
    for _ in range(6_000):
        stream, asking = rng.choice([(up, False), (down, True)])
        data = bytearray(stream)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 20)]
                case _:
                    data[at:at] = rng.randbytes(rng.randint(1, 20))
        if asking:
            client = client_that_asked()
            try:
                feed(client, bytes(data[: len(PREAMBLE) + 45]))
                for request, message in enumerate(
                    [put(1), get(10), wire.Delete([]), wire.List(None, 9)], start=1
                ):
                    client.send(request, message)
                feed(client, bytes(data[len(PREAMBLE) + 45 :]), rng)
            except ProtocolError:
                continue
        else:
            survive(Connection(Role.NODE), bytes(data))


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(list(Kind)),
    request=st.integers(0, (1 << 32) - 1),
    header=st.binary(max_size=200),
    lie=st.integers(-3, 3),
    payload=st.binary(max_size=200),
)
def test_any_header_is_an_event_or_an_error(
    kind: Kind, request: int, header: bytes, lie: int, payload: bytes
) -> None:
    frame = pack_frame(kind, request, max(0, len(header) + lie), len(payload)) + header + payload
    client, node = opened()
    client.send(request or 1, get(len(payload)))
    survive(node, frame)
    survive(client, frame)
