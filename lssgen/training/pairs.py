"""What an upsampler learns from: crops of pictures at random scales, and the same at half the size or more, encoded.

The latents to learn are not those of the crop itself. What the smaller one cannot tell of them, fine texture, averages
out in an answer, and averages of latents decode to darker, flatter pictures than the average picture. So the target is
the encoding of the smaller one enlarged by interpolation, which it tells all but wholly, with a share DETAIL of what
the crop has beyond it.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL import Image, ImageFilter

from lssgen.latents import resize
from lssgen.training.photos import BROKEN, FEWEST, Photos, image_of, pixels_of, read, shrink
from lssgen.training.vaes import Vae

SMALLEST_SCALE = 0.3  # of a picture before it is cut
BLURRED, BLUR = 0.1, (0.3, 0.6)  # share of small pictures blurred, and by how many pixels
POOL = 1024  # encoded crops kept
HALVES = 0.5  # share of crops made half as large; the others have any size between
CHOICE = 2  # crops of which the most detailed is kept
PLAIN = 0.2  # share of crops with a box of one colour, which photographs seldom have
DETAIL = 0.25  # share of the detail beyond interpolation that the target latents have
AHEAD = 2  # crops begun for each thread before they are asked for
Teach = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Crops:
    """Random square crops of pictures, each with the same crop made smaller. Threads may share it.

    Args:
        photos: the pictures.
        seed: of all that is random.
        multiple: pixels that the smaller ones' sides are multiples of.
        halves, plain: share of the crops that are made half as large, and that have a plain box.
    """

    def __init__(
        self, photos: Photos, seed: int, multiple: int, *, halves: float = HALVES, plain: float = PLAIN
    ) -> None:
        self.photos, self.rng, self._lock = photos, random.Random(seed), threading.Lock()
        self._halves, self._plain = halves, plain
        self._weights = photos.weights()
        self._sides = tuple(range(photos.side // 2 + multiple, photos.side, multiple))

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(3, side, side) and smaller (3, small, small) in [-1, 1]: of CHOICE crops the one with the most detail, since
        sky and blur teach little, but now and then with a plain box, so that white paper stays white.

        Raises:
            ValueError: if so many pictures turned out broken that fewer than FEWEST are left.
        """
        crop = max((self._next() for _ in range(CHOICE)), key=detail)
        if self.rng.random() < self._plain:
            crop = self._with_box(crop)
        return crop, self._smaller(crop)

    def _next(self) -> torch.Tensor:
        """A crop of any picture that is not broken."""
        while True:
            index = self.rng.choices(range(len(self._weights)), self._weights)[0]
            try:
                return self._cut(index)
            except BROKEN:
                self._leave_out(index)

    def _cut(self, index: int) -> torch.Tensor:
        """A crop at a random scale, flipped at random."""
        rng, side = self.rng, self.photos.side
        width, height = self.photos.sizes[index]
        smallest = max(SMALLEST_SCALE, side / min(width, height))
        scale = smallest ** rng.random()  # uniform in its logarithm from `smallest` to 1
        reach = min(side / scale, width, height)
        left, top = rng.uniform(0, width - reach), rng.uniform(0, height - reach)
        if scale > 0.95:  # without resampling
            left, top, reach = int(left), int(top), side
        image = read(self.photos.paths[index], tuple(rng.randrange(256) for _ in range(3)))
        box = (left, top, left + reach, top + reach)
        image = image.resize((side, side), Image.BICUBIC, box=box)
        for flip in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
            image = image.transpose(flip) if rng.random() < 0.5 else image
        return pixels_of(image)

    def _with_box(self, crop: torch.Tensor) -> torch.Tensor:
        """The crop with a box of one colour, at times all of it; most channels are at one of their ends."""
        rng, side = self.rng, self.photos.side
        (top, bottom), (left, right) = (sorted((rng.randint(-side, side), rng.randint(0, 2 * side))) for _ in range(2))
        colour = [rng.choice((-1.0, 1.0, rng.uniform(-1.0, 1.0))) for _ in range(3)]
        boxed = crop.clone()
        boxed[:, max(0, top) : bottom, max(0, left) : right] = torch.tensor(colour).view(3, 1, 1)
        return boxed

    def _smaller(self, crop: torch.Tensor) -> torch.Tensor:
        """The crop at half the size, by area or bicubic, or one between, by bicubic, now and then a little blurred.

        Area takes whole pixels: at other ratios than whole ones it would bend lines.
        """
        side, modes = self.photos.side // 2, ("area", "bicubic")
        if self.rng.random() >= self._halves:
            side, modes = self.rng.choice(self._sides), ("bicubic",)
        small = shrink(crop[None], side, side, self.rng.choice(modes))[0]
        if self.rng.random() >= BLURRED:
            return small
        return pixels_of(image_of(small).filter(ImageFilter.GaussianBlur(self.rng.uniform(*BLUR))))

    def _leave_out(self, index: int) -> None:
        """Never draw a broken picture again."""
        with self._lock:
            self.photos.broken += self._weights[index] > 0
            self._weights[index] = 0.0
            left = sum(weight > 0 for weight in self._weights)
        if left < FEWEST:
            raise ValueError(f"{self.photos.broken} pictures are broken and {left} are left; {FEWEST} are needed")


def detail(pixels: torch.Tensor) -> float:
    """Mean step from one pixel of (3, H, W) to the next."""
    return float(pixels.diff(dim=1).abs().mean() + pixels.diff(dim=2).abs().mean())


def softened(whole: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W): the smaller one enlarged, with a share DETAIL of what the whole has beyond it."""
    enlarged = resize(small, *whole.shape[-2:], "bicubic").clamp(-1.0, 1.0)
    return enlarged + DETAIL * (whole - enlarged)


class Ahead:
    """What `make` returns, again and again: made in threads before it is asked for, or without threads when it is."""

    def __init__(self, make: Callable[[], tuple[torch.Tensor, torch.Tensor]], threads: int) -> None:
        self._make, self._depth = make, AHEAD * threads
        self._threads = ThreadPoolExecutor(threads) if threads else None
        self._begun: deque[Future] = deque()

    def take(self, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """So many, oldest first; raises what `make` raised."""
        if self._threads is None:
            return [self._make() for _ in range(count)]
        while len(self._begun) < count + self._depth:
            self._begun.append(self._threads.submit(self._make))
        return [self._begun.popleft().result() for _ in range(count)]

    def close(self) -> None:
        """Leave what was begun."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


class Pool:
    """Encoded crops, the oldest dropped for new ones.

    Args:
        crops: cuts the pictures.
        vae: encodes them, on `device`.
        threads: that cut ahead of need; 0 cuts when needed.
        teach: given small latents and the true picture, the one to learn in its place; none for the true one.
    """

    def __init__(
        self, crops: Crops, vae: Vae, device: torch.device, threads: int = 0, teach: Teach | None = None
    ) -> None:
        self._ahead, self._vae, self._device, self._teach = Ahead(crops, threads), vae, device, teach
        self._kept: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = deque(maxlen=POOL)

    def add(self, count: int) -> None:
        """Encode so many new crops together."""
        pairs = [[pixels[None].to(self._device) for pixels in pair] for pair in self._ahead.take(count)]
        low = [self._vae.encode(small) for _, small in pairs]  # of many sizes
        if self._teach:
            aims = shown = [self._teach(z, whole) for z, (whole, _) in zip(low, pairs, strict=True)]
        else:
            aims, shown = [softened(*pair) for pair in pairs], [whole for whole, _ in pairs]
        for z, latents, pixels in zip(low, self._vae.encode(torch.cat(aims)).split(1), shown, strict=True):
            self._kept.append((z, latents, ((pixels + 1.0) * 127.5).round().byte()))

    def draw(self, rng: random.Random, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Small latents (B, C, h, w), all of one size, those to learn (B, C, H / f, W / f), pixels (B, 3, H, W) in
        [-1, 1]."""
        size = rng.choice(self._kept)[0].shape
        alike = [row for row in self._kept if row[0].shape == size]
        rows = [rng.choice(alike) for _ in range(count)]
        low, high, pixels = (torch.cat(column) for column in zip(*rows, strict=True))
        return low, high, pixels.float() / 127.5 - 1.0

    def deviation(self) -> torch.Tensor:
        """Of each channel of the latents: (1, C, 1, 1)."""
        high = torch.cat([row[1] for row in self._kept])
        return high.std((0, 2, 3), keepdim=True).clamp_min(1e-4)

    def close(self) -> None:
        """End the threads."""
        self._ahead.close()
