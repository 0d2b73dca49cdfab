"""The one thread that runs the networks.

Every thread that runs torch's parallel CPU kernels gets an OpenMP team of its own. As soon as the teams together have
more threads than the machine has cores, the OpenMP runtime lets waiting threads sleep instead of spin, and each of the
hundreds of kernels of a denoiser step pays for waking them. So models are loaded, warmed up and run in this one thread.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """A daemon thread that calls what it is given, in order.

    A ThreadPoolExecutor's thread would be waited for at exit, and a run whose listener is gone never ends by itself.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="lssgen-worker", daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether the calling thread is this worker's."""
        return threading.current_thread() is self._thread

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """The result to come of `function()`, which is called when all before it are done."""
        future: Future[T] = Future()
        self._calls.put((function, future))
        return future

    def _loop(self) -> None:
        while True:
            function, future = self._calls.get()
            try:
                future.set_result(function())
            except BaseException as error:  # whoever waits for the result is told
                future.set_exception(error)
            del function, future  # an idle worker keeps nothing alive


_worker: Worker | None = None
_lock = threading.Lock()


def worker() -> Worker:
    """This process's worker, started at the first use; a forked process starts its own."""
    global _worker
    with _lock:
        if _worker is None or _worker.pid != os.getpid():
            _worker = Worker()
        return _worker


def in_worker(function: Callable[[], T]) -> T:
    """`function()`, called in the worker; what it raises is raised here. Waits for whatever the worker is at."""
    its = worker()
    return function() if its.here else its.submit(function).result()
