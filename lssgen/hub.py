"""The Hugging Face hub: asked briefly and on a thread of its own, so that no missing network ever blocks a page.

Importing this module is cheap: huggingface_hub is imported inside the functions.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[float, str], None]  # share in [0, 1], and what to say
SECONDS = 3.0  # to wait for an answer before anything is fetched


class HubUnreachable(RuntimeError):
    """Nothing could be had from the hub; the message says what failed."""


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, else the public one."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def ask(question: Callable[[], T], seconds: float = SECONDS) -> T:
    """What `question()` returns, one small request, waited for at most `seconds`.

    It runs on its own thread, because a name look-up that hangs heeds no timeout. What it raises is raised here.

    Raises:
        HubUnreachable: if HF_HUB_OFFLINE is set, or no answer came in time.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HubUnreachable("HF_HUB_OFFLINE is set, so the hub was not asked")
    answers: list[T] = []
    failures: list[Exception] = []

    def work() -> None:
        try:
            answers.append(question())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="lssgen-ask", daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not answers:
        raise HubUnreachable(f"{endpoint()} did not answer within {seconds:g} s")
    return answers[0]


def brief(error: Exception) -> str:
    """An error in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])[:200].rstrip(".:")


def progress_bar(progress: Progress, total: float | None = None) -> type:
    """A silent tqdm class for a download that reports to `progress`; what that raises breaks the download off.

    The hub may use several bars at once, each counting all bytes, so the share never falls. `total` is the bytes of all
    files together, where there are several: a bar's own grows while it goes on.
    """
    from tqdm.std import tqdm

    best = 0.0

    class Bar(tqdm):
        def __init__(self, *args, **kwargs) -> None:
            kwargs.pop("name", None)  # the hub's own bars have one
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal best
            shown, whole = super().update(n), total or self.total
            if self.unit == "B" and whole:
                best = max(best, min(1.0, self.n / whole))
                progress(best, f"{best * whole / 1e6:.0f} of {whole / 1e6:.0f} MB")
            return shown

    return Bar
