"""Callers that create, consume and delete payments, and ask again when they learned nothing."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from tests.faults.client import Answer, Connection, Hangs, NotSent, Unanswered
from tests.faults.history import Change, Creation, Dequeue, History, Operation

# The one sentence that a caller may rely on; every other 503 leaves the question open.
NOTHING_CHANGED = "nothing was changed"

KEYLESS_SHARE = 0.1
REPLAY_SHARE = 0.05
DEQUEUE_SHARE = 0.1
DEQUEUE_LIMITS = (1, 2, 5, 100)  # few, so that there are payments left; or all that there are
ABANDON_SHARE = 0.3  # of what is in doubt: left so until all faults are over
HANG_UP_SHARE = 0.05  # of what is asked: the caller does not wait for the answer
HANG_UP_SECONDS = (0.001, 0.1)
LARGE_SHARE = 0.01  # documents of up to 32 KiB: a page of WAL holds many of the others
KNOWN_LIMIT = 1000  # payments that a caller may choose among

# Much less than Retry-After's second: the most interesting moment is the one of the return.
PAUSE_SECONDS = (0.01, 0.15)

CONSUME = json.dumps({"status": "consumed"}).encode()

LARGEST_DEQUEUE = 1000  # what is left at the end
HANDED_OUT_LIMIT = 50


class Workload:
    """Callers at several servers at one time, with the keys of several clients."""

    def __init__(
        self,
        history: History,
        ports: Sequence[int],
        keys: Mapping[str, str],
        seed: str,
        *,
        dequeue_share: float = DEQUEUE_SHARE,
        hang_up_share: float = HANG_UP_SHARE,
        new_key_each_time: bool = False,
    ) -> None:
        """`new_key_each_time` plants a fault in the callers: a repetition has a key of its own."""
        self._history = history
        self._ports = ports
        self._keys = keys
        self._seed = seed
        self._dequeue_share = dequeue_share
        self._hang_up_share = hang_up_share
        self._new_key_each_time = new_key_each_time
        self._known: list[int] = []
        self._answered: list[Creation | Change | Dequeue] = []
        self._abandoned: list[Creation | Change | Dequeue] = []

    async def run(self, callers: int, until: Callable[[], bool]) -> None:
        """Lets that many callers work until the condition holds."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(_Caller(self, number).work(until))

    async def settle(self, callers: int) -> None:
        """Repeats what is in doubt until it is not, and what has a key once more for its replay."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                caller = _Caller(self, callers + number, patient=True)
                group.create_task(caller.settle(self._abandoned[number::callers]))

    async def drain(self, callers: int, is_drained: Callable[[], Awaitable[bool]]) -> None:
        """Consumes until nothing is left."""
        caller = _Caller(self, 2 * callers, patient=True)
        try:
            while not await is_drained():
                await caller.consume_oldest(next(iter(self._keys)), LARGEST_DEQUEUE)
        finally:
            caller.close()

    async def hand_out(self, callers: int, until: Callable[[], bool]) -> None:
        """Lets that many callers do nothing but consume the oldest until the condition holds."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                caller = _Caller(self, number, patient=True)
                group.create_task(caller.work_off(until))


class _Caller:
    def __init__(self, workload: Workload, number: int, *, patient: bool = False) -> None:
        self._shared = workload
        self._history = workload._history
        self._random = random.Random(f"{workload._seed}/{number}")
        self._connections = [Connection(port) for port in workload._ports]
        self._patient = patient
        self._name = number

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def work(self, until: Callable[[], bool]) -> None:
        try:
            while not until():
                await self._do_something()
        finally:
            self.close()

    async def settle(self, operations: Sequence[Creation | Change | Dequeue]) -> None:
        try:
            for operation in operations:
                await self.insist(operation)
                if operation.answer:
                    await self.insist(operation)
        finally:
            self.close()

    async def work_off(self, until: Callable[[], bool]) -> None:
        clients = [*self._shared._keys]
        client = clients[self._name % len(clients)]
        try:
            while not until():
                await self.consume_oldest(client, self._random.randint(1, HANDED_OUT_LIMIT), until)
        finally:
            self.close()

    async def consume_oldest(
        self, client: str, limit: int, until: Callable[[], bool] = lambda: True
    ) -> None:
        """Keeps its key until the answer holds payments, or the condition holds."""
        dequeue = self._history.dequeue(client, limit, self._new_key())
        await self.insist(dequeue)
        while not dequeue.answer and not until():
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
            await self.insist(dequeue)

    def _new_key(self) -> str | None:
        key = f"{self._shared._seed}-{self._random.getrandbits(64):x}"
        return None if self._random.random() < KEYLESS_SHARE and not self._patient else key

    async def _do_something(self) -> None:
        shared, chance = self._shared, self._random.random()
        client = self._random.choice([*shared._keys])
        if chance < REPLAY_SHARE and shared._answered:
            await self.insist(self._random.choice(shared._answered))
        elif chance < REPLAY_SHARE + shared._dequeue_share:
            limit = self._random.choice(DEQUEUE_LIMITS)
            await self.insist(self._history.dequeue(client, limit, self._new_key()))
        elif chance < 0.5 and shared._known:
            # Some payments are consumed by several callers at one time.
            id = self._random.choice(shared._known[-20:])
            if self._random.random() < 0.9:
                _forget(shared._known, id)
            await self.insist(self._history.change(client, "consume", id, self._new_key()))
            if self._random.random() < 0.2:
                _forget(shared._known, id)
                await self.insist(self._history.change(client, "delete", id))
        else:
            value = f"{self._random.randrange(10_000_000) / 100:.2f}"
            await self.insist(self._history.create(client, value, self._new_key()))

    async def insist(self, operation: Creation | Change | Dequeue) -> None:
        """Asks until the outcome is known, or not to be known, or is left for later."""
        while not await self._ask(operation):
            if operation.key is None and operation.in_doubt and not isinstance(operation, Change):
                return  # to repeat it would make, or consume, other payments
            if not self._patient and self._random.random() < ABANDON_SHARE:
                self._shared._abandoned.append(operation)
                return
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))

    async def _ask(self, operation: Creation | Change | Dequeue) -> bool:
        """Asks once; returns whether the outcome is known now."""
        connection = self._random.choice(self._connections)
        operation.attempts += 1
        history = self._history
        history.note("invoke", operation, caller=self._name)
        headers = {"Authorization": f"Bearer {self._shared._keys[operation.client]}"}
        method, path, body = self._request(operation, headers)
        hangs_up = not self._patient and self._random.random() < self._shared._hang_up_share
        patience_seconds = self._random.uniform(*HANG_UP_SECONDS) if hangs_up else None
        sent, began = time.time(), time.monotonic()
        try:
            answer = await connection.request(
                method, path, headers, body, patience_seconds=patience_seconds
            )
        except NotSent:
            history.note("fail", operation)
            return False
        except (Unanswered, Hangs) as error:
            if isinstance(error, Hangs):
                history.violate("hangs", f"{error} (operation {operation.number})")
            return self._doubt(operation, repr(error))
        history.slowest_seconds = max(history.slowest_seconds, time.monotonic() - began)
        history.counts[f"{answer.status}"] += 1
        if answer.status == 503 and "retry-after" in answer.headers:
            if NOTHING_CHANGED in answer.body.decode():
                history.note("fail", operation)
                return False
            return self._doubt(operation, json.loads(answer.body)["detail"])
        history.note("ok", operation, status=answer.status)
        if isinstance(operation, Creation):
            history.made[connection.port].append(time.monotonic())
            self._take_creation(operation, answer)
        elif isinstance(operation, Dequeue):
            self._take_dequeue(operation, answer, sent)
        else:
            self._take_change(operation, answer)
        return True

    def _request(
        self, operation: Creation | Change | Dequeue, headers: dict[str, str]
    ) -> tuple[str, str, bytes]:
        if operation.key is not None:
            headers["Idempotency-Key"] = operation.key
        if isinstance(operation, Change):
            path = f"/v1/payments/{operation.id}"
            return (
                ("PATCH", path, CONSUME) if operation.kind == "consume" else ("DELETE", path, b"")
            )
        if isinstance(operation, Dequeue):
            return "POST", "/v1/consumptions", json.dumps({"limit": operation.limit}).encode()
        if operation.key is not None and self._shared._new_key_each_time and operation.attempts > 1:
            operation.key = headers["Idempotency-Key"] = f"{operation.key}'"
        filling = random.Random(operation.number)
        length = filling.randrange(16_000) if filling.random() < LARGE_SHARE else 20
        data = {"operation": operation.number, "filling": filling.randbytes(length).hex()}
        body = json.dumps({"payment": operation.value, "data": data}).encode()
        return "POST", "/v1/payments", body

    def _doubt(self, operation: Operation, why: str) -> bool:
        operation.in_doubt = True
        self._history.counts["in doubt"] += 1
        self._history.note("in doubt", operation, why=why)
        return False

    def _take_creation(self, creation: Creation, answer: Answer) -> None:
        name = f"creation {creation.number}"
        if answer.status != 201:
            self._history.violate("wrong answer", f"{name}: {answer.status} {answer.body!r}")
            return
        if creation.acknowledged is None:
            creation.id = json.loads(answer.body)["id"]
            self._shared._known.append(creation.id)
            del self._shared._known[:-KNOWN_LIMIT]
            self._acknowledge(creation, "create", answer.body)
        else:
            self._check_replay(creation, name, answer)

    def _take_dequeue(self, dequeue: Dequeue, answer: Answer, sent: float) -> None:
        name = f"consumption {dequeue.number}"
        if answer.status != 200:
            self._history.violate("wrong answer", f"{name}: {answer.status} {answer.body!r}")
            return
        if dequeue.answer:
            self._check_replay(dequeue, name, answer)
            return
        items = json.loads(answer.body)["items"]
        if not items:
            # An empty answer is not remembered: an attempt in doubt can consume after it. The key
            # is asked for again once no attempt is under way.
            dequeue.empty.append(sent)
            if dequeue.in_doubt and dequeue.key is not None and not self._patient:
                self._shared._abandoned.append(dequeue)
            else:
                self._acknowledge(dequeue, "dequeue")
            return
        positions = [(item["created_at"], item["id"]) for item in items]
        if (
            len(items) > dequeue.limit
            or positions != sorted(positions)
            or {(item["status"], item["consumed_by"]) for item in items}
            != {("consumed", dequeue.client)}
        ):
            self._history.violate("wrong answer", f"{name}: {answer.body!r}")
        dequeue.ids = tuple(item["id"] for item in items)
        dequeue.updated_at = {
            item["id"]: datetime.fromisoformat(item["updated_at"]) for item in items
        }
        self._history.counts["handed out"] += len(items)
        consumed_at = max(_seconds(item["consumed_at"]) for item in items)
        if any(empty > consumed_at for empty in dequeue.empty):
            self._history.violate(
                "handed to no caller", f"{name} was told that there was nothing: {dequeue}"
            )
        self._acknowledge(dequeue, "dequeue", answer.body)

    def _acknowledge(
        self, operation: Creation | Change | Dequeue, kind: str, answer: bytes = b""
    ) -> None:
        operation.acknowledged = time.time()
        self._history.counts[f"{kind} acknowledged"] += 1
        if operation.in_doubt:
            self._history.counts["settled"] += 1
        if operation.key is not None and answer:
            operation.answer = answer
            self._shared._answered.append(operation)
            del self._shared._answered[:-KNOWN_LIMIT]

    def _check_replay(
        self, operation: Creation | Change | Dequeue, name: str, answer: Answer
    ) -> None:
        self._history.counts["replayed"] += 1
        if answer.body != operation.answer:
            self._history.violate("doubled", f"{name}: {operation.answer!r}, then {answer.body!r}")
        elif "idempotent-replayed" not in answer.headers:
            self._history.violate("wrong answer", f"{name}: repeated, and not called a replay")

    def _take_change(self, change: Change, answer: Answer) -> None:
        name = f"{change.kind} of payment {change.id}"
        changes = self._history.changes[change.id]
        deleted = any(other.kind == "delete" for other in changes if other is not change)
        body = json.loads(answer.body or b"null")
        if change.answer:
            self._check_replay(change, name, answer)
        elif change.kind == "consume" and answer.status == 200:
            if (body["status"], body["consumed_by"]) != ("consumed", change.client):
                self._history.violate("wrong answer", f"{name}: {answer.body!r}")
            change.updated_at = datetime.fromisoformat(body["updated_at"])
            self._history.counts["handed out"] += 1
            self._acknowledge(change, "consume", answer.body)
        elif change.kind == "consume" and answer.status == 409:
            change.consumed_by = body["consumed_by"]
            change.consumed_at = _seconds(body["consumed_at"])
            self._history.counts["already consumed"] += 1
        elif change.kind == "delete" and answer.status == 204:
            self._acknowledge(change, "delete")
        elif answer.status == 404 and change.kind == "consume" and deleted:
            change.gone = True
            self._history.counts["consume of a deleted one"] += 1
        elif answer.status == 404 and change.kind == "delete" and (change.in_doubt or deleted):
            self._acknowledge(change, "delete")  # an earlier attempt did it, or another caller
        else:
            self._history.violate("wrong answer", f"{name}: {answer.status} {answer.body!r}")


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _forget(known: list[int], id: int) -> None:
    if id in known:
        known.remove(id)
