"""Events from the worker thread, handed over one at a time.

The worker waits until its listener asks for the next event. So whatever the listener does (writes a PNG,
updates a page) happens between two phases of the run, never beside a timed one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from lssgen.events import Event
from lssgen.sampler import Emit, Stop, Stopped
from lssgen.worker import worker

Work = Callable[[Emit, Stop], None]


def stream(work: Work, stop: threading.Event | None = None) -> Iterator[Event]:
    """The events of `work(emit, stopped)`, which the worker takes up from the first `next` on, after what it is at.

    Closing the iterator, or setting `stop` from anywhere, makes `stopped()` true; closing does not wait for the worker.
    What `work` raises is raised here; `Stopped` only ends the events.
    """
    events: queue.Queue = queue.Queue()
    taken, closed, done = threading.Semaphore(0), threading.Event(), object()

    def stopped() -> bool:
        return closed.is_set() or (stop is not None and stop.is_set())

    def emit(event: Event) -> None:
        if not closed.is_set():
            events.put(event)
            taken.acquire()
        if closed.is_set():
            raise Stopped

    def target() -> None:
        try:
            if not closed.is_set():
                work(emit, stopped)
        except Stopped:
            pass
        except Exception as error:
            events.put(error)
        finally:
            events.put(done)

    worker().submit(target)
    try:
        while (event := events.get()) is not done:
            if isinstance(event, Exception):
                raise event
            yield event
            taken.release()
    finally:
        closed.set()
        taken.release()
