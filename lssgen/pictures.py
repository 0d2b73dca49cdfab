"""Save a picture as PNG with its settings inside, and read them back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lssgen import __version__
from lssgen.request import GenerationRequest

KEY = "lssgen"


def save_png(image: Image.Image, path: Path, request: GenerationRequest, **facts: Any) -> Path:
    """Write `image` losslessly with the request and `facts` (arm, model, seed, stage ...) as JSON under `KEY`."""
    info = PngInfo()
    info.add_itxt(KEY, json.dumps({"version": __version__, **facts, "request": asdict(request)}))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=info)
    return path


def read_settings(path: Path) -> dict[str, Any]:
    """The settings `save_png` put into a PNG. Raises ValueError if there are none."""
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(KEY)
    if text is None:
        raise ValueError(f"{path} carries no LSSGen settings; it was not saved by LSSGen Studio")
    return json.loads(text)
