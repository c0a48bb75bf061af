"""One time limit for many tasks, which costs each of them next to nothing."""

import asyncio
from types import TracebackType

from payments.errors import DeadlineExceeded


class Deadline:
    """Cancels tasks that take longer than `seconds`, and raises DeadlineExceeded in them.

    `asyncio.timeout` sets and clears a timer for each, a tenth of what a request costs. Here all
    have the same limit, so that they end in the order in which they began: one timer is enough, for
    the one that began first.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[asyncio.Task[object], float] = {}  # in the order of their end
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> None:
        """Begins the current task's time."""
        if self._loop is None:  # Python 3.11 makes a system call to tell which loop runs.
            self._loop = asyncio.get_running_loop()
        loop = self._loop
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - what runs in a loop and awaits is a task
        end = self._ends[task] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._expire, loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it.

        Raises:
            DeadlineExceeded: it was over before, and nobody else cancelled the task meanwhile.
        """
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101
        over = self._ends.pop(task, None) is None
        if over and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise DeadlineExceeded(
                f"The request was not answered within {self._seconds:g} s; it may or may not have"
                " taken effect. Repeat it, with its Idempotency-Key if it had one."
            ) from None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for task, end in [*self._ends.items()]:
            if end > loop.time():
                self._timer = loop.call_at(end, self._expire, loop)
                return
            del self._ends[task]
            task.cancel()
