"""A request reaches the session that it is for, and is gone with it."""

from __future__ import annotations

from rainfs.meta import requests
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.records import CareAnswer, CareRequest
from rainfs.meta.sessions import Session
from rainfs.model import NodeNumber
from tests.unit.meta.rig import open_rig

REQUEST = CareRequest(asked_ns=5, sweep=(NodeNumber(3),))


async def test_a_request_is_seen_answered_and_taken_back() -> None:
    async with open_rig() as rig:
        epoch = rig.session.epoch
        assert await requests.pending(rig.engine, rig.session) is None
        assert await requests.ask(rig.engine, epoch, REQUEST)
        assert await requests.pending(rig.engine, rig.session) == REQUEST
        said = CareAnswer(asked_ns=5, stage="compacting", done=1, total=2)
        assert await requests.answer(rig.engine, rig.session, said)
        assert await requests.answered(rig.engine, epoch, REQUEST) == said
        assert await requests.pending(rig.engine, rig.session) == REQUEST
        assert await requests.answer(rig.engine, rig.session, CareAnswer(5, "done", 2, 2, True))
        assert await requests.pending(rig.engine, rig.session) is None
        await requests.take_back(rig.engine, epoch, REQUEST)
        assert await requests.answered(rig.engine, epoch, REQUEST) is None


async def test_an_answer_to_an_earlier_request_counts_for_nothing() -> None:
    async with open_rig() as rig:
        epoch = rig.session.epoch
        await requests.ask(rig.engine, epoch, REQUEST)
        later = CareRequest(asked_ns=6)
        await requests.ask(rig.engine, epoch, later)
        assert not await requests.answer(rig.engine, rig.session, CareAnswer(5, "", 0, 0, True))
        assert await requests.pending(rig.engine, rig.session) == later
        await requests.take_back(rig.engine, epoch, REQUEST)
        assert await requests.pending(rig.engine, rig.session) == later
        assert not await requests.ask(rig.engine, epoch + 1, later)


async def test_the_next_session_finds_no_requests_of_the_last_one() -> None:
    engine = MemoryEngine()
    async with open_rig(engine) as rig:
        epoch = rig.session.epoch
        await requests.ask(engine, epoch, REQUEST)
        await rig.session.end()
        session = await Session.begin(engine, read_only=False, mountpoint="/again")
        assert await requests.answered(engine, epoch, REQUEST) is None
        assert not [key for key in engine.rows if key.startswith(b"G")]
        await session.end()
