"""The models a page runs: its own, and one other that a visitor named; loaded and warmed in the background."""

from __future__ import annotations

import logging
import threading
import time

from lssgen.engine import Engine
from lssgen.families.placement import placement as placement_of
from lssgen.families.table import ModelError
from lssgen.request import GenerationRequest

log = logging.getLogger(__name__)
RETRY_SECONDS = 10  # a model that was not found, perhaps after waiting for the hub, is looked for again only then


class Models:
    """Engines by model name.

    At most two are kept, the page's own and the last other one, and only the one that runs has its weights in memory.

    Args:
        default: the page's own model: `embedded`, a path or a hub id.
        engine: its engine, if it could be made; otherwise it is tried again from time to time.
        placement: `device`, `dtype` and `offload` of every engine, as `Engine` takes them.

    Raises:
        ValueError: for a placement this machine does not have.
    """

    def __init__(self, default: str, engine: Engine | None = None, **placement: str | None) -> None:
        placement_of(**placement)  # a device that is not here is told at once
        self.default = default
        self.warm = threading.Event()  # set once the first loading is over, well or not
        self.warm.set()
        self._placement = placement
        self._engines: dict[str, Engine] = {default: engine} if engine else {}
        self._failed: dict[str, tuple[float, ModelError]] = {}
        self._lock, self._making = threading.Lock(), threading.Lock()

    def get(self, name: str) -> Engine:
        """The engine of a model; its weights may not be loaded yet. Raises ModelError."""
        with self._lock:
            if name in self._engines:
                return self._engines[name]
        with self._making:  # may ask the hub, for seconds: those whose engine is there do not wait
            with self._lock:
                if name in self._engines:
                    return self._engines[name]
            when, error = self._failed.get(name, (0.0, None))
            if error is not None and time.monotonic() - when < RETRY_SECONDS:
                raise error
            try:
                engine = Engine(name, **self._placement)
            except ModelError as error:
                self._failed = {name: (time.monotonic(), error)}
                raise
            with self._lock:
                own = self._engines.get(self.default)
                self._engines = {name: engine} | ({self.default: own} if own is not None else {})
            return engine

    def alone(self, engine: Engine) -> None:
        """Take the weights of every other engine out of memory."""
        with self._lock:
            others = [e for e in self._engines.values() if e is not engine and e.loaded]
        for other in others:
            other.unload()

    def own(self) -> Engine | None:
        """The page's own engine; None if it cannot be made, which the plan then explains."""
        try:
            return self.get(self.default)
        except ValueError:  # ModelError among them
            return None
        except Exception:  # whatever damaged files lead to, the page opens and says so
            log.exception("the model %r cannot be read", self.default)
            return None

    def warm_up(self, request: GenerationRequest) -> threading.Thread:
        """Load the page's own model and warm it for `request`, in a thread.

        A failure is logged here and told at the first run.
        """
        self.warm.clear()

        def work() -> None:
            try:
                self.get(self.default).warm_up(request)
            except ValueError as error:  # ModelError among them
                log.warning("%s", error)
            except Exception:
                log.exception("the warm-up failed")
            finally:
                self.warm.set()

        thread = threading.Thread(target=work, name="lssgen-warm-up", daemon=True)
        thread.start()
        return thread
