"""Whether a processor is the faster in bfloat16, and mixed precision where it is."""

import time
from functools import cache

import torch


@cache
def bfloat16_pays() -> bool:
    """Whether this processor multiplies in bfloat16 faster than in float32: measured, since one without the
    instructions is a hundred times slower. The least of the processor's own seconds: other work does not count."""
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        x, times = torch.ones(256, 1024, dtype=dtype), []
        for _ in range(7):
            start = time.process_time()
            x @ x.T
            times.append(time.process_time() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def autocast() -> torch.autocast:
    """Mixed precision where it is the faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays())
