"""Scores in a process of its own, which a run ends at once: scoring never takes a core from what is timed."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from PIL.Image import Image

from lssgen.scoring import Score, score

log = logging.getLogger(__name__)
LONGEST = 300.0  # seconds one score may take, loading its network included
Measure = Callable[[Image, Iterable[str]], dict[str, Score]]


class Scorer:
    """Scores one picture at a time in a worker that stays warm between pictures.

    Args:
        measure: what the worker calls; a function it can import by name.
    """

    def __init__(self, measure: Measure = score) -> None:
        self._measure = measure
        self._turn = threading.Lock()  # one picture at a time; guards the worker
        self._lock = threading.Lock()  # guards what `hold` shares with `score`; never held for long
        self._process, self._pipe = None, None
        self._runs, self._working, self._broken_off = 0, False, False

    @property
    def held(self) -> bool:
        """Whether a run goes on, for any visitor."""
        return self._runs > 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """For the time of a run: ends a scoring that goes on, and lets none begin."""
        with self._lock:
            self._runs += 1
            if self._working:
                self._broken_off = True
                self._process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1

    def score(self, image: Image, metric: str) -> Score | None:
        """The picture's score, or None if a run goes on or began before it was there: ask again after it."""
        with self._turn:
            with self._lock:
                if self._runs:
                    return None
                try:
                    self._start()
                except OSError as error:
                    return Score(None, f"{metric} failed (no process for it: {error.strerror}).", 0.0)
                self._working, self._broken_off = True, False
            try:
                self._pipe.send((image, metric))
                if self._pipe.poll(LONGEST):
                    return self._pipe.recv()
                why = f"it took more than {LONGEST:g} s"
            except (OSError, EOFError):
                why = "its process ended unexpectedly, perhaps for want of memory"
            finally:
                with self._lock:
                    self._working = False
                if self._broken_off:
                    self._end()
            if self._broken_off:
                return None
            self._end()
            log.warning("%s was not scored: %s", metric, why)
            return Score(None, f"{metric} failed ({why}).", 0.0)

    def close(self) -> None:
        """End the worker. Leaving Python does the same."""
        with self.hold(), self._turn:
            self._end()

    def _start(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        self._end()
        context = get_context("spawn")  # a fork would copy torch's and the server's threads
        pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._measure), name="lssgen-scores", daemon=True)
        process.start()
        theirs.close()  # so that the worker's end is the only one, and its death is noticed
        self._process, self._pipe = process, pipe

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process, self._pipe = None, None


def _work(pipe: Connection, measure: Measure) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the page, which ends this
    while True:
        try:
            image, metric = pipe.recv()
            pipe.send(measure(image, (metric,))[metric])
        except (EOFError, OSError):  # the page is gone
            return
