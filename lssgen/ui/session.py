"""What the server keeps for one visitor: the run shown, its stop flag, and the pictures' files."""

from __future__ import annotations

import atexit
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL.Image import Image

from lssgen.pictures import save_png
from lssgen.request import GenerationRequest
from lssgen.ui.view import ViewState

ROOT = Path(get_upload_folder()) / f"lssgen-{secrets.token_urlsafe(12)}"  # of this process
CLAIM_SECONDS = 1800  # a turn in the queue, at the longest
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)


class Shelf:
    """A folder of one run's pictures, in Gradio's own temporary folder, where the page may fetch them.

    A picture is first written fast (compression 1, a tenth of a second at 1024 px) so that showing it takes little from
    the run still going on, and after the run once more with its settings inside, for download.
    """

    def __init__(self) -> None:
        self.folder = ROOT / secrets.token_urlsafe(12)

    def show(self, image: Image, name: str) -> Path:
        """The file of a picture to be shown, lossless; written once."""
        path = self.folder / "shown" / f"{name}.png"
        return _once(path, lambda: image.save(path, format="PNG", compress_level=1))

    def keep(self, image: Image, name: str, request: GenerationRequest, **facts: object) -> Path:
        """The file of a picture for download, with its settings inside; written once."""
        path = self.folder / f"{name}.png"
        return _once(path, lambda: save_png(image, path, request, **facts))

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _once(path: Path, write: Callable[[], object]) -> Path:
    """Write a file unless it is there; a write that breaks off (on a full disk) leaves nothing behind."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


class Session:
    """One visitor. Gradio copies a state's first value for each session, hence `__deepcopy__`.

    `claimed` holds from the click to the end of the run, `started` from the moment its turn has come. A claim whose
    turn never comes, because the connection broke meanwhile, lapses. `stop` belongs to one run and is new for each.
    """

    def __init__(self) -> None:
        self.view = ViewState()
        self.wanted: tuple[GenerationRequest, str] | None = None  # what the controls asked for when last looked at
        self.model: str | None = None  # the one whose guidance the controls show; None: the page's own
        self.shelf = Shelf()
        self.stop = threading.Event()
        self.started = False
        self._claimed_at: float | None = None

    def __deepcopy__(self, memo: dict) -> Session:
        return Session()

    @property
    def claimed(self) -> bool:
        """Whether a run was asked for that is not over."""
        if self.started or self._claimed_at is None:
            return self.started
        return time.monotonic() - self._claimed_at < CLAIM_SECONDS

    def claim(self) -> None:
        """A run was asked for: from here on it can be stopped."""
        self.stop, self.started, self._claimed_at = threading.Event(), False, time.monotonic()

    def release(self) -> None:
        """The run is over, or never got its turn."""
        self.started, self._claimed_at = False, None

    def new_shelf(self) -> Shelf:
        """A fresh folder for a new run; the old run's pictures go."""
        self.shelf.clear()
        self.shelf = Shelf()
        return self.shelf

    def close(self) -> None:
        """The visitor has left: stop the run and delete the pictures."""
        self.stop.set()
        self.shelf.clear()
