"""Fit the linear map from latents to RGB that step previews use, and write the model's `lssgen.json`.

    python -m lssgen.training.preview --data DIR --model assets/embedded [--pictures 200]

Pictures of the training data on white and on named colours are encoded at 256 px; least squares from each latent pixel
to the mean colour of the 16 x 16 px it stands for. Prints the share of colour variance explained.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from lssgen.previews import LatentPreview
from lssgen.training import data as D
from lssgen.training import photos, tokens
from lssgen.training import scenes as S

SIZE = 256
SETTINGS = {
    "name": "embedded",
    "steps": 20,
    "guidance_scale": None,
    "max_sequence_length": tokens.LENGTH,
    "base_side": 1024,
    "licence": "Apache-2.0",
    "vae": "embedded",
}


@torch.no_grad()
def fit(vae: AutoencoderKL, data: Path, count: int) -> LatentPreview:
    """The map, from `count` pictures drawn with seed 0."""
    pictures = D.read_captions(data)
    draw = S.Examples(pictures, 0)
    latents, images = [], []
    for _ in range(count):
        example = draw.single(coloured=0.5)
        x = S.pixels_of(example, {i: D.load_picture(data, pictures[i], SIZE) for i in example.objects})
        latents.append(vae.encode(x[None]).latent_dist.mode()[0])
        images.append(photos.image_of(x))
    preview = LatentPreview.fit(latents, images)
    print(f"{count} pictures, R2 {explained(preview, latents, images):.3f}")
    return preview


def explained(preview: LatentPreview, latents: list[torch.Tensor], images: list[Image.Image]) -> float:
    """Share of the small pictures' colour variance that the map explains."""
    shown = np.stack([np.asarray(preview.image(z[None]), np.float32) for z in latents])
    true = np.stack(
        [np.asarray(i.resize(i2.shape[1::-1], Image.BOX), np.float32) for i, i2 in zip(images, shown, strict=True)]
    )
    return float(1 - ((shown - true) ** 2).mean() / true.var())


def main() -> None:
    """Fit and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder that holds emoji/")
    p.add_argument("--model", type=Path, required=True, help="the exported model's folder")
    p.add_argument("--pictures", type=int, default=200)
    args = p.parse_args()
    vae = AutoencoderKL.from_pretrained(args.model / "vae", torch_dtype=torch.float32).eval()
    rows = [[round(value, 4) for value in row] for row in fit(vae, args.data, args.pictures).matrix]
    (args.model / "lssgen.json").write_text(json.dumps({**SETTINGS, "latent_rgb": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
