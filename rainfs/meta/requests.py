"""What a command asks of the process that holds the volume's session, and how far that is.

Owns the two rows of table `G`.  `rainfs gc` beside a mount cannot write stripes (one session a
volume) and cannot open what the mount has locked, so it asks; a request that nobody answers changes
nothing, and one whose session ends is forgotten.  Refuses to know what the work is.
"""

from __future__ import annotations

from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.records import ANSWERS, REQUESTS, CareAnswer, CareRequest
from rainfs.meta.sessions import Session


async def ask(engine: Engine, epoch: int, request: CareRequest) -> bool:
    """Leave a request for session `epoch`; False if that session has no row any more."""

    async def body(transaction: Transaction) -> bool:
        if await transaction.get(keys.session_key(epoch)) is None:
            return False
        transaction.put(keys.request_key(epoch), REQUESTS.encode(request))
        transaction.delete(keys.answer_key(epoch))
        return True

    return await engine.run(body)


async def pending(engine: Engine, session: Session) -> CareRequest | None:
    """Return what the session is asked for and has not finished."""

    async def body(reader: Reader) -> CareRequest | None:
        raw = await reader.get(keys.request_key(session.epoch))
        if raw is None:
            return None
        request = REQUESTS.decode(raw)
        answer = await reader.get(keys.answer_key(session.epoch))
        if answer is not None:
            said = ANSWERS.decode(answer)
            if said.asked_ns == request.asked_ns and said.finished:
                return None
        return request

    return await engine.read(body)


async def answer(engine: Engine, session: Session, said: CareAnswer) -> bool:
    """Say how far the session is; False if that request was taken back or replaced."""

    async def body(transaction: Transaction) -> bool:
        raw = await transaction.get(keys.request_key(session.epoch))
        if raw is None or REQUESTS.decode(raw).asked_ns != said.asked_ns:
            return False
        transaction.put(keys.answer_key(session.epoch), ANSWERS.encode(said))
        return True

    return await engine.run(body)


async def answered(engine: Engine, epoch: int, request: CareRequest) -> CareAnswer | None:
    """Return what session `epoch` says to this request, None while it says nothing."""

    async def body(reader: Reader) -> CareAnswer | None:
        raw = await reader.get(keys.answer_key(epoch))
        if raw is None:
            return None
        said = ANSWERS.decode(raw)
        return said if said.asked_ns == request.asked_ns else None

    return await engine.read(body)


async def take_back(engine: Engine, epoch: int, request: CareRequest) -> None:
    """Remove a request and its answer, unless another request has taken its place."""

    async def body(transaction: Transaction) -> None:
        raw = await transaction.get(keys.request_key(epoch))
        if raw is not None and REQUESTS.decode(raw).asked_ns == request.asked_ns:
            transaction.delete(keys.request_key(epoch))
            transaction.delete(keys.answer_key(epoch))

    await engine.run(body)
