"""Callers that create, consume and delete payments, and ask again when they learned nothing."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from tests.faults.client import Answer, Connection, Hangs, NotSent, Unanswered
from tests.faults.history import Change, Creation, History, Operation

# The one sentence that a caller may rely on; every other 503 leaves the question open.
NOTHING_CHANGED = "nothing was changed"

KEYLESS_SHARE = 0.1
REPLAY_SHARE = 0.05
ABANDON_SHARE = 0.3  # of what is in doubt: left so until all faults are over
LARGE_SHARE = 0.01  # documents of up to 32 KiB: a page of WAL holds many of the others
KNOWN_LIMIT = 1000  # payments that a caller may choose among

# Much less than Retry-After's second: the most interesting moment is the one of the return.
PAUSE_SECONDS = (0.01, 0.15)

CONSUME = json.dumps({"status": "consumed"}).encode()


class Workload:
    """Callers at several servers at one time, with the keys of several clients."""

    def __init__(
        self,
        history: History,
        ports: Sequence[int],
        keys: Mapping[str, str],
        seed: str,
        *,
        new_key_each_time: bool = False,
    ) -> None:
        """`new_key_each_time` plants a fault in the callers: a repetition has a key of its own."""
        self._history = history
        self._ports = ports
        self._keys = keys
        self._seed = seed
        self._new_key_each_time = new_key_each_time
        self._known: list[int] = []
        self._made: list[Creation] = []
        self._abandoned: list[Creation | Change] = []

    async def run(self, callers: int, until: Callable[[], bool]) -> None:
        """Lets that many callers work until the condition holds."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(_Caller(self, number).work(until))

    async def settle(self, callers: int) -> None:
        """Repeats what is in doubt until it is not, and each creation once more for its replay."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                caller = _Caller(self, callers + number, patient=True)
                group.create_task(caller.settle(self._abandoned[number::callers]))


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

    async def settle(self, operations: Sequence[Creation | Change]) -> None:
        try:
            for operation in operations:
                await self.insist(operation)
                if isinstance(operation, Creation) and operation.key and operation.acknowledged:
                    await self.insist(operation)
        finally:
            self.close()

    async def _do_something(self) -> None:
        shared, chance = self._shared, self._random.random()
        client = self._random.choice([*shared._keys])
        if chance < REPLAY_SHARE and shared._made:
            await self.insist(self._random.choice(shared._made))
        elif chance < 0.5 and shared._known:
            # Some payments are consumed by several callers at one time.
            id = self._random.choice(shared._known[-20:])
            if self._random.random() < 0.9:
                _forget(shared._known, id)
            await self.insist(self._history.change(client, "consume", id))
            if self._random.random() < 0.2:
                _forget(shared._known, id)
                await self.insist(self._history.change(client, "delete", id))
        else:
            value = f"{self._random.randrange(10_000_000) / 100:.2f}"
            keyless = self._random.random() < KEYLESS_SHARE
            key = None if keyless else f"{shared._seed}-{self._random.getrandbits(64):x}"
            await self.insist(self._history.create(client, value, key))

    async def insist(self, operation: Creation | Change) -> None:
        """Asks until the outcome is known, or not to be known, or is left for later."""
        while not await self._ask(operation):
            if isinstance(operation, Creation) and operation.key is None and operation.in_doubt:
                return  # to repeat it would make another payment
            if not self._patient and self._random.random() < ABANDON_SHARE:
                self._shared._abandoned.append(operation)
                return
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))

    async def _ask(self, operation: Creation | Change) -> bool:
        """Asks once; returns whether the outcome is known now."""
        connection = self._random.choice(self._connections)
        operation.attempts += 1
        history = self._history
        history.note("invoke", operation, caller=self._name)
        headers = {"Authorization": f"Bearer {self._shared._keys[operation.client]}"}
        method, path, body = self._request(operation, headers)
        began = time.monotonic()
        try:
            answer = await connection.request(method, path, headers, body)
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
        else:
            self._take_change(operation, answer)
        return True

    def _request(
        self, operation: Creation | Change, headers: dict[str, str]
    ) -> tuple[str, str, bytes]:
        if isinstance(operation, Change):
            path = f"/v1/payments/{operation.id}"
            return (
                ("PATCH", path, CONSUME) if operation.kind == "consume" else ("DELETE", path, b"")
            )
        if operation.key is not None:
            headers["Idempotency-Key"] = operation.key
            if self._shared._new_key_each_time and operation.attempts > 1:
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
            creation.acknowledged, creation.answer = time.time(), answer.body
            creation.id = json.loads(answer.body)["id"]
            self._history.counts["create acknowledged"] += 1
            self._shared._known.append(creation.id)
            del self._shared._known[:-KNOWN_LIMIT]
            if creation.key is not None:
                self._shared._made.append(creation)
                del self._shared._made[:-KNOWN_LIMIT]
            if creation.in_doubt:
                self._history.counts["settled"] += 1
        elif answer.body != creation.answer:
            self._history.violate("doubled", f"{name}: {creation.answer!r}, then {answer.body!r}")
        elif "idempotent-replayed" not in answer.headers:
            self._history.violate("wrong answer", f"{name}: repeated, and not called a replay")

    def _take_change(self, change: Change, answer: Answer) -> None:
        name = f"{change.kind} of payment {change.id}"
        changes = self._history.changes[change.id]
        deleted = any(other.kind == "delete" for other in changes if other is not change)
        if change.kind == "consume" and answer.status == 200:
            body = json.loads(answer.body)
            if body["status"] != "consumed":
                self._history.violate("wrong answer", f"{name}: {answer.body!r}")
            change.updated_at = datetime.fromisoformat(body["updated_at"])
        elif change.kind == "delete" and answer.status == 204:
            pass
        elif answer.status == 404 and change.kind == "consume" and deleted:
            change.gone = True
            self._history.counts["consume of a deleted one"] += 1
            return
        elif answer.status == 404 and change.kind == "delete" and (change.in_doubt or deleted):
            pass  # an earlier attempt did it, or somebody else
        else:
            self._history.violate("wrong answer", f"{name}: {answer.status} {answer.body!r}")
            return
        change.acknowledged = time.time()
        self._history.counts[f"{change.kind} acknowledged"] += 1
        if change.in_doubt:
            self._history.counts["settled"] += 1


def _forget(known: list[int], id: int) -> None:
    if id in known:
        known.remove(id)
