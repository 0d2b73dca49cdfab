"""Schedules and costs of a model from its configuration alone: no weights, a few milliseconds for a new schedule."""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch

from lssgen.families.base import Adapter
from lssgen.families.schedulers import Probed, longest_schedule, make_scheduler, probing, process_of


class Source:
    """What planning asks of a model (`lssgen.schedule.ScheduleSource`).

    Args:
        name: shown in plans.
        adapter: the family's adapter class.
        scheduler: scheduler_config.json as a dict.
        denoiser: the transformer's or unet's config.json as a dict.
        vae_factor: pixels of one latent pixel's side.
        text_tokens: max_sequence_length of the runs.
        base_side: side in pixels at which the paper's step rule runs all steps.

    Raises:
        ModelError: for a scheduler staged sampling cannot run.
    """

    def __init__(
        self,
        name: str,
        adapter: type[Adapter],
        scheduler: dict[str, Any],
        denoiser: dict[str, Any],
        vae_factor: int,
        text_tokens: int,
        base_side: int = 1024,
    ) -> None:
        self.name, self.base_side, self.text_tokens = name, base_side, text_tokens
        self.multiple = vae_factor * adapter.patch
        self._adapter, self._denoiser, self._factor = adapter, denoiser, vae_factor
        stock = make_scheduler(scheduler)
        self.process = process_of(stock)
        self.longest = longest_schedule(stock)
        with torch.random.fork_rng(devices=[]):  # its modules draw weights
            self._pipe = adapter.weightless(probing(stock))
        self._pipe.vae_scale_factor = vae_factor
        self._lock = threading.Lock()
        self.schedule = functools.lru_cache(maxsize=4096)(self._probe)
        adapter.step_flops(denoiser, 64, 64, text_tokens)  # a configuration that says too little fails here

    def step_cost(self, height: int, width: int) -> float:
        """Floating-point operations of one call of the denoiser for one picture."""
        return self._adapter.step_flops(self._denoiser, height // self._factor, width // self._factor, self.text_tokens)

    def _probe(self, height: int, width: int, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if steps > self.longest:
            raise ValueError(f"steps is {steps}; {self.name} takes at most {self.longest}")
        inputs = self._adapter.probe_inputs(height // self._factor, width // self._factor)
        with self._lock:
            try:
                self._pipe(**inputs, height=height, width=width, num_inference_steps=steps, output_type="latent")
            except Probed as probed:
                return probed.sigmas, probed.timesteps
        raise AssertionError("the stock pipeline did not set its schedule")
