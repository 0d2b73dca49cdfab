"""Everything measured of the embedded model, in one report.

Pictures are kept under a work folder, so an evaluation that was broken off goes on where it was. They belong to the
weights they were made with: a work folder of other weights or settings is refused.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lssgen.engine import Engine
from lssgen.evaluation import PARTS, alignment, asked, spectrum
from lssgen.evaluation.asked import Asked, share_of
from lssgen.evaluation.nearest import Gallery
from lssgen.events import ArmFailed, ArmFinished
from lssgen.families import folders
from lssgen.request import GenerationRequest
from lssgen.training import data as D
from lssgen.training import photos
from lssgen.training import scenes as S

NATIVE, SIGMA = None, 0.75  # noise levels that alignment is measured at; no staging at all, and the default
SIGMAS = (0.3, 0.5, 0.75, 0.9)  # and those of the spectrum
Say = Callable[[str], None]


@dataclass(frozen=True)
class Painter:
    """Draws what is asked, or takes it from the work folder."""

    engine: Engine
    request: GenerationRequest
    work: Path

    def __call__(self, sigma: float | None, one: Asked) -> torch.Tensor:
        """(3, h, w), 0 to 255: natively (None), or by LSSGen from this sigma_init."""
        name = hashlib.sha256(one.text.encode()).hexdigest()[:16]
        path = self.work / ("native" if sigma is None else f"lssgen-{sigma:g}") / f"{name}-{one.seed}.png"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            self._draw(sigma, one).save(part, format="PNG")
            part.rename(path)
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()

    def _draw(self, sigma: float | None, one: Asked) -> Image.Image:
        request = replace(self.request, prompt=one.text, seeds=(one.seed,))
        request = replace(request, start=request.height) if sigma is None else replace(request, sigma=sigma)
        for event in self.engine.generate(request):
            if isinstance(event, ArmFailed):
                raise RuntimeError(f"{one.text!r}: {event.message}")
            if isinstance(event, ArmFinished):
                return event.images[0]
        raise RuntimeError(f"{one.text!r}: the run ended without a picture")


def evaluate(
    engine: Engine,
    data: Path,
    request: GenerationRequest,
    work: Path,
    share: float,
    say: Say,
    parts: Collection[str] = PARTS,
) -> dict:
    """The report, JSON-ready.

    Args:
        engine: of a model that the captions of `data` were trained on.
        data: folder that holds `emoji/` and `emoji_svg.zip`.
        request: size, start and steps; its prompt and seeds are not used.
        work: folder for pictures, made if missing.
        share: of the fixed prompts and pictures, in (0, 1]; the first ones are taken.
        say: told what is being done.
        parts: of `PARTS`, what to measure: "alignment", "latents" (autoencoder and upsampler), "spectrum".

    Raises:
        ValueError: for a share outside (0, 1], missing data, or a work folder of other weights or settings.
        RuntimeError: if a run fails.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share:g}; it must be above 0 and at most 1, such as 0.25")
    pictures = D.read_captions(data)
    engine.plan(request)
    claim(work, engine, request)
    draw = Painter(engine, request, work)
    report: dict[str, Any] = {
        "model": engine.settings.name,
        "side": request.height,
        "start": request.start,
        "steps": request.steps,
        "share": share,
    }
    if "alignment" in parts:
        gallery = Gallery(pictures, D.rasters(data, work, pictures, S.THUMB, f"rgba_{S.THUMB}"))
        report["alignment"] = {}
        for name, sigma in (("native", NATIVE), ("lssgen", SIGMA)):
            say(f"alignment, {name}")
            report["alignment"][name] = aligned(pictures, gallery, partial(draw, sigma), share)
    if "latents" in parts:
        report |= latents_measured(engine, data, pictures, work, share, say)
    if "spectrum" in parts:
        report["spectrum"] = spectra(data, pictures, draw, request.height, share, say)
    return report


def aligned(pictures: list[D.Picture], gallery: Gallery, draw: alignment.Draw, share: float) -> dict[str, Any]:
    """Labels, scenes, held-out pairs and seeds of one way to draw."""
    return {
        "labels": alignment.of_labels(share_of(asked.labels(pictures), share), draw, gallery),
        "scenes": alignment.of_scenes(share_of(asked.scenes(pictures, False), share), draw, gallery),
        "held_out_pairs": alignment.of_scenes(share_of(asked.scenes(pictures, True), share), draw, gallery),
        "seeds": alignment.of_seeds(share_of(asked.seeds(pictures), share), draw),
    }


def latents_measured(
    engine: Engine, data: Path, pictures: list[D.Picture], work: Path, share: float, say: Say
) -> dict[str, Any]:
    """The autoencoder and the upsampler on pictures of held-out labels, 256 -> 512 and 512 -> 1024 px."""
    from lssgen.training import eval_upsampler as E
    from lssgen.training import vaes

    folder = folders.resolve(engine.name)
    vae = vaes.load(str(folder))
    learned = {"learned": E.checkpoint(folder / "upsampler", vae)} if (folder / "upsampler").is_dir() else {}
    rows = {}
    for side in (512, 1024):
        paths = held_out_pictures(data, pictures, work, side, share)
        say(f"{len(paths)} held-out pictures at {side} px")
        rows[side] = E.evaluate(vae, paths, learned, (2.0,), side=side)
    ceiling = {side: next(r for r in found if r.method == E.CEILING) for side, found in rows.items()}
    return {
        "reconstruction": {str(side): {"psnr": row.psnr, "ssim": row.ssim} for side, row in ceiling.items()},
        "upsampler": {
            f"{side // 2} -> {side}": [r.to_dict() for r in found if r.method != E.CEILING]
            for side, found in rows.items()
        },
    }


def held_out_pictures(data: Path, pictures: list[D.Picture], work: Path, side: int, share: float) -> list[Path]:
    """PNG files on white of pictures of the held-out labels that are sharp at this size."""
    held = D.held_out_labels(pictures)
    chosen = share_of([p for p in pictures if p.label in held and p.size > 256], share)
    folder = work / f"held_out_{side}"
    folder.mkdir(exist_ok=True)
    paths = []
    with zipfile.ZipFile(data / "emoji_svg.zip") as archive:
        for picture in chosen:
            path = folder / f"{picture.file.replace('/', '-').rsplit('.', 1)[0]}.png"
            if not path.is_file():
                rendered(data, picture, side, archive).save(path)
            paths.append(path)
    return paths


def rendered(data: Path, picture: D.Picture, side: int, archive: zipfile.ZipFile) -> Image.Image:
    """A training picture on white."""
    return photos.image_of(D.composite(D.load_picture(data, picture, side, archive), D.WHITE))


def spectra(data: Path, pictures: list[D.Picture], draw: Painter, side: int, share: float, say: Say) -> dict[str, Any]:
    """Distance of the mean spectrum of drawn pictures to that of the pictures asked for, natively and by LSSGen.

    Of flat and glossy ones only: the 3d ones are known at 256 px, their spectrum ends there.
    """
    chosen = [a for a in asked.labels(pictures) if pictures[a.example.objects[0]].size > 256]
    chosen = share_of(chosen, share)
    with zipfile.ZipFile(data / "emoji_svg.zip") as archive:
        true = spectrum.mean_of(
            torch.from_numpy(np.array(rendered(data, pictures[a.example.objects[0]], side, archive))).permute(2, 0, 1)
            for a in chosen
        )
    out: dict[str, Any] = {"pictures": len(chosen)}
    for sigma in (NATIVE, *SIGMAS):
        name = "native" if sigma is None else f"lssgen {sigma:g}"
        say(f"spectrum, {name}")
        out[name] = spectrum.distance(spectrum.mean_of(draw(sigma, a) for a in chosen), true)
    return out


def claim(work: Path, engine: Engine, request: GenerationRequest) -> None:
    """Notes whose pictures a work folder holds; refuses one of other weights or settings. Raises ValueError."""
    digest = hashlib.sha256()
    for path in sorted(folders.resolve(engine.name).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    mine = {"weights": digest.hexdigest(), "side": request.height, "start": request.start, "steps": request.steps}
    note = work / "evaluation.json"
    if note.is_file() and json.loads(note.read_text()) != mine:
        raise ValueError(f"{work} holds pictures of other weights or settings; name another folder, or empty it")
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(mine))
