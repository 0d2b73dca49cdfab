"""Pictures with edges and colours, to learn enlarging from."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def drawing(seed: int, side: int = 288) -> Image.Image:
    """Discs, boxes and lines of random colours on a gradient."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    blend = (rows * rng.random() + columns * rng.random())[..., None]
    pixels = (rng.random(3) * (1 - blend) + rng.random(3) * blend).clip(0, 1) * 255
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for k in range(60):
        x, y, size = *(rng.random(2) * side), 4 + rng.random() * side / 5
        colour, box = tuple(rng.integers(0, 256, 3).tolist()), (x, y, x + size, y + size * (0.4 + rng.random()))
        if k % 3 == 0:
            draw.ellipse(box, colour)
        elif k % 3 == 1:
            draw.rectangle(box, colour)
        else:
            draw.line(box, colour, int(1 + rng.random() * 5))
    return image
