"""Scores of finished pictures: TOPIQ and PIQE through pyiqa, which may be absent.

Importing this module is cheap: pyiqa (seconds), torch and huggingface_hub are imported inside the functions. Scoring
never downloads: `fetch_topiq` does, when a person asks. Metrics run on the CPU in float32, away from the generator.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lssgen import hub
from lssgen.hub import HubUnreachable, Progress, ask, brief, progress_bar

if TYPE_CHECKING:
    import torch
    from PIL import Image

TOPIQ_REPO = "chaofengc/IQA-PyTorch-Weights"
TOPIQ_FILE = "cfanet_nr_koniq_res50-9a73138b.pth"
TOPIQ_ENV = "LSSGEN_TOPIQ_WEIGHTS"
MIN_SIDE = 64
FETCH_NOTE = (
    f"181 MB from {TOPIQ_REPO} on the Hugging Face hub. Noncommercial use only: pyiqa, whose weights these are, is "
    "under the PolyForm Noncommercial License 1.0.0 and, for applicable components, the NTU S-Lab License 1.0."
)
NO_PYIQA = "pyiqa is not installed: pip install pyiqa (its licence is for noncommercial use)."
PYIQA_LICENCE = "PolyForm Noncommercial 1.0.0; applicable components NTU S-Lab License 1.0"


@dataclass(frozen=True)
class Metric:
    """One no-reference metric. `max_side` squared is the largest picture in pixels, so that memory stays bounded."""

    name: str
    pyiqa_name: str
    lower_better: bool
    needs_weights: bool
    max_side: int
    licence: str
    source: str


_TABLE = (
    # name, pyiqa's name, lower is better, needs weights, max side, licence, source
    # On 2 busy cores: 13 s at 1024; 44 s and 2.5 GB at 2048 (attention over (side / 32)^2 tokens).
    Metric("topiq", "topiq_nr", False, True, 2048, PYIQA_LICENCE, "Chen et al. 2024, arXiv 2308.03060 (on KonIQ-10k)"),
    # 0.5 s at 1024, 1.2 s at 2048.
    Metric("piqe", "piqe", True, False, 4096, PYIQA_LICENCE, "Venkatanath et al., NCC 2015"),
)
METRICS = {metric.name: metric for metric in _TABLE}


@dataclass(frozen=True)
class Score:
    """One metric's number, or `None` and the reason. `seconds` is the metric's own time, loading left out."""

    value: float | None
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class TopiqStatus:
    """Whether TOPIQ can be tried now; if not, why and what to do. The file is not opened until the first score."""

    available: bool
    reason: str
    path: Path | None


class _Unavailable(Exception):
    """Why a metric has no value, in one sentence."""


Measure = Callable[["torch.Tensor"], float]
_locks = {name: threading.Lock() for name in METRICS}  # one at a time: pyiqa's networks keep results on themselves
_built: dict[str, tuple[object, Measure]] = {}  # name -> (what it was built from, how to measure)
_import_lock = threading.Lock()


def score(image: Image.Image, names: Iterable[str] = ("topiq", "piqe")) -> dict[str, Score]:
    """Score a PIL picture at its own size with each named metric.

    TOPIQ does not resize, so compare its scores only between pictures of one size; PIQE counts blocks of 16 px and
    depends on the size as well. A metric that cannot run gives `Score(None, reason, 0.0)`; nothing is downloaded.

    Raises:
        ValueError: for a name that is not in `METRICS`.
    """
    names = tuple(names)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; choose from {list(METRICS)}")
    return {name: _score_one(METRICS[name], image) for name in names}


def _score_one(metric: Metric, image: Image.Image) -> Score:
    width, height = image.size
    side = metric.max_side
    try:
        if min(width, height) < MIN_SIDE:
            raise _Unavailable(f"{metric.name} needs {MIN_SIDE} px a side or more; this picture is {width} x {height}.")
        if width * height > side**2:
            raise _Unavailable(f"{metric.name} scores up to {side} x {side} px; this picture is {width} x {height}.")
        with _locks[metric.name]:
            measure = _measure_for(metric)
            pixels = _pixels(image)
            start = time.perf_counter()
            value = measure(pixels)
            seconds = time.perf_counter() - start
        if not math.isfinite(value):
            raise _Unavailable(f"{metric.name} gave {value} for this picture.")
    except _Unavailable as error:
        return Score(None, str(error), 0.0)
    except Exception as error:  # pyiqa and what it imports fail in many ways, and a picture must not be lost to them
        return Score(None, f"{metric.name} failed ({brief(error)}).", 0.0)
    return Score(value, None, seconds)


def _pixels(image: Image.Image) -> torch.Tensor:
    import numpy
    import torch

    array = numpy.array(image.convert("RGB"))  # (H, W, 3) bytes -> (1, 3, H, W) in [0, 1]
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def _measure_for(metric: Metric) -> Measure:
    """The metric, built once; TOPIQ again when its file is another one. Call with the metric's lock held."""
    path, built_from = None, None
    if metric.needs_weights:
        status = topiq_status()
        path = status.path
        if not status.available or path is None:
            raise _Unavailable(status.reason)
        built_from = (path, path.stat().st_mtime_ns, path.stat().st_size)
    elif not pyiqa_available():
        raise _Unavailable(NO_PYIQA)
    if metric.name not in _built or _built[metric.name][0] != built_from:
        _built.pop(metric.name, None)  # let go of the old network first
        _built[metric.name] = (built_from, _build_topiq(metric, path) if path else _build_piqe(metric))
    return _built[metric.name][1]


def _build_piqe(metric: Metric) -> Measure:
    net = _import_pyiqa("piqe_arch").create_metric(metric.pyiqa_name, device="cpu").net.float()
    import torch

    def measure(pixels: torch.Tensor) -> float:
        with torch.no_grad():
            value = net(pixels).item()
        textured = bool(net.get_masks()["activity_mask"].any())
        net.results = None
        if not textured:  # PIQE = 100 (D + 1) / (N + 1) over N textured blocks: without one always 100 (black: NaN)
            raise _Unavailable("piqe judges textured 16 px blocks and this picture has none.")
        return value

    return measure


def _build_topiq(metric: Metric, path: Path) -> Measure:
    """The stock TOPIQ network holding the tensors of `path`.

    pyiqa's own loader unpickles whatever the file holds, so the network is made on the meta device (no values, no
    download, no draw from the global random generator) and takes its tensors from here, every one of them by name.
    """
    import torch

    state = _read_state(path)
    pyiqa = _import_pyiqa("topiq_arch")
    with torch.device("meta"):
        net = pyiqa.create_metric(metric.pyiqa_name, device="meta", backbone_pretrain=False, pretrained=False).net
    try:
        net.load_state_dict(state, strict=True, assign=True)
    except Exception as error:
        raise _Unavailable(f"{path} does not hold the TOPIQ network's weights ({brief(error)}).") from error
    net.float().eval()

    def measure(pixels: torch.Tensor) -> float:
        # The network itself: pyiqa's wrapper sets cuDNN flags for the whole process while a picture may be generating.
        with torch.no_grad():
            value = net(pixels).item()
        for module in net.modules():
            if hasattr(module, "attn_map"):
                module.attn_map = None  # (tokens x tokens) in each layer, kept by pyiqa: some 0.7 GB at 2048
        return value

    return measure


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """The 'params' of a pyiqa checkpoint, read as plain tensors only, without the `module.` of parallel training."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        what = f"it is damaged or holds more than plain weights ({type(error).__name__})"
        raise _Unavailable(f"{path} was not loaded: {what}; delete it and get it again.") from error
    params = content.get("params") if isinstance(content, dict) else None
    if not isinstance(params, dict):
        raise _Unavailable(f"{path} has no 'params' entry, so it is not {TOPIQ_FILE}.")
    return {str(key).removeprefix("module."): value for key, value in params.items()}


def _import_pyiqa(arch: str):
    with _import_lock:
        try:
            pyiqa = importlib.import_module("pyiqa")
            importlib.import_module(f"pyiqa.archs.{arch}")
        except Exception as error:  # not only ImportError: a mismatched torchvision raises RuntimeError
            raise _Unavailable(f"pyiqa is installed but cannot be imported ({brief(error)}).") from error
        logging.getLogger("pyiqa").setLevel(logging.WARNING)  # its INFO lines only say that a network was created
    return pyiqa


def pyiqa_available() -> bool:
    """Whether pyiqa is installed, without importing it."""
    return importlib.util.find_spec("pyiqa") is not None


def topiq_status() -> TopiqStatus:
    """Whether TOPIQ can be tried: pyiqa is installed and the file is here. Cheap, no network."""
    path, reason = _locate()
    if not pyiqa_available():
        return TopiqStatus(False, NO_PYIQA, path)
    return TopiqStatus(path is not None, reason, path)


def find_topiq_weights() -> Path | None:
    """The TOPIQ file, looked for on this machine only.

    In order: the path in `LSSGEN_TOPIQ_WEIGHTS` (if set, nothing else counts), pyiqa's cache folder, the hub cache.
    """
    return _locate()[0]


def _locate() -> tuple[Path | None, str]:
    given = os.environ.get(TOPIQ_ENV)
    if given:
        path = Path(given).expanduser()
        wrong = "is not a file" if not path.is_file() else "" if os.access(path, os.R_OK) else "cannot be read"
        return (None, f"{TOPIQ_ENV} is {given}, which {wrong}: correct it or unset it.") if wrong else (path, "")
    from huggingface_hub import try_to_load_from_cache

    for found in (_pyiqa_cache() / TOPIQ_FILE, try_to_load_from_cache(TOPIQ_REPO, TOPIQ_FILE)):
        if isinstance(found, (str, Path)) and os.path.isfile(found) and os.access(found, os.R_OK):
            return Path(found), ""
    return None, f"topiq needs {TOPIQ_FILE} (181 MB): download it with the button, or {_by_hand()}."


def _by_hand() -> str:
    folder, home = _pyiqa_cache(), Path(os.path.expanduser("~"))
    if folder.is_relative_to(home):  # a page need not tell where its server lives
        folder = "~" / folder.relative_to(home)
    return f"put it in {folder}, or set {TOPIQ_ENV} to its path"


def _pyiqa_cache() -> Path:
    """`pyiqa.utils.download_util.DEFAULT_CACHE_DIR`, that is `torch.hub.get_dir()`/pyiqa, without importing either."""
    torch_home = os.environ.get("TORCH_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch"))
    return Path(torch_home).expanduser() / "hub" / "pyiqa"


def fetch_topiq(progress: Progress | None = None, timeout: float = hub.SECONDS) -> Path:
    """Download the TOPIQ file into the hub cache, after asking the hub for at most about `timeout` seconds.

    `progress` is called with a share in [0, 1] and a text. A file that is already here is returned at once.

    Raises:
        HubUnreachable: there is no way to the hub, or the download broke off.
    """
    from huggingface_hub import hf_hub_download

    path, reason = _locate()
    if path is not None:
        return path
    if os.environ.get(TOPIQ_ENV):
        raise HubUnreachable(f"Nothing was downloaded, because it would not be used: {reason}")
    instead = f"Get {TOPIQ_FILE} another way and {_by_hand()}."
    where = hub.endpoint()
    try:
        ask(lambda: _topiq_metadata(where, timeout), timeout)
    except HubUnreachable as error:
        raise HubUnreachable(f"{error}. {instead}") from error
    except Exception as error:
        raise HubUnreachable(f"{where} could not be asked ({brief(error)}). {instead}") from error
    bar = progress_bar(progress or (lambda share, text: None))
    try:
        return Path(hf_hub_download(TOPIQ_REPO, TOPIQ_FILE, endpoint=where, token=False, tqdm_class=bar))
    except Exception as error:
        raise HubUnreachable(f"The download from {where} failed ({brief(error)}). {instead}") from error


def _topiq_metadata(where: str, timeout: float) -> object:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(TOPIQ_REPO, TOPIQ_FILE, endpoint=where), token=False, timeout=timeout)
