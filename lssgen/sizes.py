"""The size of every stage: halvings of the target (the paper's rule) or doublings of an exact start."""

from __future__ import annotations

import math

MAX_UPSAMPLINGS = 3


def check_target(height: int, width: int, multiple: int, name: str) -> None:
    """Refuse a target that is no whole multiple of what the family needs. Raises ValueError."""
    for side, value in (("height", height), ("width", width)):
        _check_multiple(side, value, multiple, name)


def paper_sizes(height: int, width: int, start: int, multiple: int) -> list[tuple[int, int]]:
    """(height, width) of each stage: K = floor(log2(short side / start)) halvings of the target, smallest first.

    Raises:
        ValueError: for a start above the target, more than three upsamplings, or a target K halvings do not divide.
    """
    short = min(height, width)
    _check_start_below(start, short)
    halvings = int(math.log2(short / start))
    if halvings > MAX_UPSAMPLINGS:
        smallest = short // 2**MAX_UPSAMPLINGS
        raise ValueError(
            f"start is {start}, which needs {halvings} upsamplings of at most {MAX_UPSAMPLINGS}; "
            f"the smallest start here is {smallest}"
        )
    for name, value in (("height", height), ("width", width)):
        _check_multiple(name, value, multiple * 2**halvings, f"{halvings} upsampling(s)")
    return [(height >> k, width >> k) for k in range(halvings, -1, -1)]


def free_sizes(height: int, width: int, start: int, multiple: int) -> list[tuple[int, int]]:
    """(height, width) of each stage from an exact `start`: doubling while twice fits, then one hop to the target.

    Raises:
        ValueError: for a start above the target, one that takes more than three upsamplings, or one whose other side is
            no whole multiple at the target's aspect; the message names the nearest start that works.
    """
    short, long = sorted((height, width))
    _check_start_below(start, short)
    whole = [s for s in range(multiple, short + 1, multiple) if s * long % (short * multiple) == 0]
    usable = [s for s in whole if _hops(s, short) <= MAX_UPSAMPLINGS]
    if start not in whole:
        nearest = min(usable, key=lambda s: abs(s - start))
        raise ValueError(
            f"start is {start}; both sides of a {size_text((height, width))} picture's first stage must be "
            f"multiples of {multiple}: the nearest start that works is {nearest}"
        )
    if _hops(start, short) > MAX_UPSAMPLINGS:
        raise ValueError(
            f"start is {start}, which needs {_hops(start, short)} upsamplings of at most {MAX_UPSAMPLINGS}; "
            f"the smallest start here is {usable[0]}"
        )
    sizes = [(height * start // short, width * start // short)]
    while min(sizes[-1]) * 2 <= short:
        sizes.append((sizes[-1][0] * 2, sizes[-1][1] * 2))
    return sizes if sizes[-1] == (height, width) else [*sizes, (height, width)]


def _hops(start: int, short: int) -> int:
    return math.ceil(math.log2(short / start))


def _check_start_below(start: int, short: int) -> None:
    if start > short:
        raise ValueError(f"start is {start}, above the target's short side; use at most {short}")


def _check_multiple(name: str, value: int, multiple: int, who: str) -> None:
    if value % multiple or value < multiple:
        below = value // multiple * multiple
        fits = f"{below} or {below + multiple}" if below else f"{multiple}"
        raise ValueError(f"{name} is {value}; {who} needs a multiple of {multiple}: use {fits}")


def size_text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
