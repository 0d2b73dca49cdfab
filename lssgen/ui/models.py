"""The models a page runs: its own, and one other that a visitor named; loaded and warmed in the background."""

from __future__ import annotations

import logging
import threading
import time

from lssgen.engine import Engine
from lssgen.families.table import ModelError, Settings
from lssgen.request import GenerationRequest

log = logging.getLogger(__name__)
RETRY_SECONDS = 10  # a model that was not found, perhaps after waiting for the hub, is looked for again only then


class Models:
    """Engines by model name.

    At most two are kept, the page's own and the last other one, and only the one that runs has its weights in memory.

    Args:
        default: the page's own model: `embedded`, a path or a hub id.
        engine: its engine, if it could be made; otherwise it is tried again at each use.
    """

    def __init__(self, default: str, engine: Engine | None = None) -> None:
        self.default = default
        self.warm = threading.Event()  # set once the first loading is over, well or not
        self.warm.set()
        self._own, self._other, self._other_name = engine, None, ""
        self._failed: tuple[str, float, ModelError] | None = None
        self._lock = threading.Lock()

    def get(self, name: str) -> Engine:
        """The engine of a model; its weights may not be loaded yet. Raises ModelError."""
        with self._lock:
            if name == self.default:
                self._own = self._own or Engine(name)
                return self._own
            if name != self._other_name:
                if self._failed and self._failed[0] == name and time.monotonic() - self._failed[1] < RETRY_SECONDS:
                    raise self._failed[2]
                self._other, self._other_name = None, ""  # let go of the old weights first
                try:
                    self._other, self._other_name = Engine(name), name
                except ModelError as error:
                    self._failed = name, time.monotonic(), error
                    raise
            return self._other

    def alone(self, engine: Engine) -> None:
        """Take the weights of every other engine out of memory."""
        with self._lock:
            others = [e for e in (self._own, self._other) if e is not None and e is not engine and e.loaded]
        for other in others:
            other.unload()

    def own_settings(self) -> Settings | None:
        """The settings of the page's own model; None if it cannot be read, which the plan then explains."""
        try:
            return self.get(self.default).settings
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
