"""Encode the pictures once with the frozen autoencoder, for the transformer and the upsampler.

    python -m lssgen.training.latents --data DIR --work DIR [--init assets/embedded] [--minutes 12] [--resume]

Makes, in order and as far as the time goes: every picture on white, pictures on other backgrounds and scenes
at 512 px, the same at 256 px, some of each at 1024 px (flat and glossy, from the vectors), in two
processes of one thread each.
Writes WORK/latents_{512,256,1024}.npy (float16, scaled by the statistics in WORK/statistics.safetensors) and .json
with what each one shows; a half-done part is gone on with by --resume.
"""

import json
import os
import random
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from lssgen.training import autoencoder
from lssgen.training import data as D
from lssgen.training import scenes as S
from lssgen.training.common import load_average, parser
from lssgen.training.precision import autocast

COLOURED, SCENES = 1000, 3000
LARGE = (330, 200, 300)  # at 1024 px: on white, on other backgrounds, scenes
CHUNK = 25


def load_vae(work: Path, init: Path | None) -> AutoencoderKL:
    """The frozen autoencoder, from the checkpoint or from an exported model."""
    if init is not None:
        return AutoencoderKL.from_pretrained(init / "vae", torch_dtype=torch.float32).eval()
    return load_average(work / autoencoder.CHECKPOINT, autoencoder.build()).eval()


def examples(pictures: list[D.Picture], seed: int, hued: list[int]) -> dict[int, list[S.Example]]:
    """What to encode at each size, in order."""
    draw, rng = S.Examples(pictures, seed, hued), random.Random(seed)
    singles = [S.Example((i,)) for i in rng.sample(range(len(pictures)), len(pictures))]
    coloured = [draw.single(coloured=1.0) for _ in range(COLOURED)]
    scenes = [draw.scene() for _ in range(SCENES)]
    kinds = (singles, coloured, scenes)
    everything = [e for kind in kinds for e in kind]
    sharp = ([e for e in kind if all(pictures[i].size > 256 for i in e.objects)] for kind in kinds)
    large = [e for kind, n in zip(sharp, LARGE, strict=True) for e in kind[:n]]
    return {512: everything, 256: everything, 1024: rng.sample(large, len(large))}


def picture(data: Path, pictures: list[D.Picture], e: S.Example, size: int, archive: zipfile.ZipFile) -> torch.Tensor:
    """(3, size, size) in [-1, 1]."""
    return S.pixels_of(e, {i: D.load_picture(data, pictures[i], size, archive) for i in e.objects})


def encode_chunk(chunk: list[tuple], data: Path, work: Path, init: Path | None, size: int) -> np.ndarray:
    """Latents of some examples, unscaled, float16; runs in a process of its own."""
    torch.set_num_threads(1)
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    pictures, vae = D.read_captions(data), load_vae(work, init).to(memory_format=torch.channels_last)
    out = []
    with zipfile.ZipFile(data / "emoji_svg.zip") as archive, torch.no_grad():
        for item in chunk:
            x = picture(data, pictures, S.restored(item), size, archive).unsqueeze(0)
            with autocast():
                z = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
            out.append(z[0].float().numpy().astype(np.float16))
    return np.stack(out)


def statistics(work: Path, latents: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, deviation) of each channel; measured and stored when latents are given."""
    path = work / "statistics.safetensors"
    if latents is not None:
        z = torch.from_numpy(latents.astype(np.float32))
        save_file({"mean": z.mean((0, 2, 3)), "std": z.std((0, 2, 3))}, path)
    stored = load_file(path)
    return stored["mean"], stored["std"]


def finished(path: Path, wanted: list[S.Example]) -> np.ndarray:
    """Stored latents as far as they show what is wanted now."""
    size = int(path.stem.split("_")[1])
    if not path.exists():
        return np.zeros((0, 16, size // 16, size // 16), np.float16)
    stack, examples = load(path.parent, size)
    same = [a == b for a, b in zip(examples, wanted, strict=False)]
    return stack[: same.index(False) if False in same else len(same)]


def encode(args, size: int, wanted: list[S.Example], until: float) -> None:
    """Encodes what is missing of one size, in chunks, until the time is over."""
    path, listing = args.work / f"latents_{size}.npy", args.work / f"latents_{size}.json"
    done = finished(path, wanted) if args.resume else np.zeros((0, 16, size // 16, size // 16), np.float16)
    todo = [S.stored(e) for e in wanted[len(done) :]]
    chunks = [todo[k : k + CHUNK] for k in range(0, len(todo), CHUNK)]
    work = partial(encode_chunk, data=args.data, work=args.work, init=args.init, size=size)
    parts, start = [done], time.monotonic()
    with ProcessPoolExecutor(args.threads) as pool:
        futures = []
        while chunks and time.monotonic() < until:
            futures += [pool.submit(work, c) for c in chunks[: args.threads * 2]]
            chunks = chunks[args.threads * 2 :]
            parts += [f.result() for f in futures]
            futures, n = [], sum(map(len, parts))
            speed = (n - len(done)) / (time.monotonic() - start)
            print(f"{size} px: {n}/{len(wanted)}, {speed:.1f} pictures/s", flush=True)
    out = np.concatenate(parts)
    if size == 512 and not args.init and not len(done):
        statistics(args.work, out)
    mean, std = statistics(args.work) if not args.init else (torch.zeros(16), torch.ones(16))
    out[len(done) :] = (out[len(done) :] - mean.view(1, -1, 1, 1).numpy()) / std.view(1, -1, 1, 1).numpy()
    np.save(path, out)
    listing.write_text(json.dumps([S.stored(e) for e in wanted[: len(out)]]))


def load(work: Path, size: int) -> tuple[np.ndarray, list[S.Example]]:
    """Scaled latents (N, 16, size/16, size/16) and what they show."""
    path = work / f"latents_{size}.npy"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: run python -m lssgen.training.latents first")
    listing = json.loads(path.with_suffix(".json").read_text())
    return np.load(path), [S.restored(row) for row in listing]


def main() -> None:
    """All sizes."""
    args = parser(__doc__, 12).parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pictures = D.read_captions(args.data)
    small = D.rasters(args.data, args.work, pictures, S.THUMB, f"rgba_{S.THUMB}")
    wanted = examples(pictures, args.seed, S.of_one_hue(pictures, small))
    start = time.monotonic()
    for size, share in ((512, 0.6), (256, 0.7), (1024, 1.0)):
        encode(args, size, wanted[size], start + args.minutes * 60 * share)


if __name__ == "__main__":
    main()
