"""The loop that trains an upsampler.

Pairs are encodings of a crop at a random scale and of the same crop made smaller, by 2 or less. Encoding costs more
than a step of the small network, so encoded crops are kept in a pool that is renewed crop by crop as training goes on.
The loss is the L1 of the latents in units of their deviation (to which latents, `lssgen.training.pairs` says). In the
second part they are decoded besides, for losses to the *true* picture's pixels (`lssgen.training.losses`) or to those
of a teacher (`lssgen.training.teacher`): a step takes several times as long, colours come right, and most is won. A GPU
decodes all crops of a batch, a processor some of them where the upsampler is cheap, and always whole: decoders look
far, some over all of a picture, and of a window they make another picture. A little noise goes onto the input, since
sampled latents are not encoded photographs.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from lssgen.training import losses, photos
from lssgen.training.common import Average, load_checkpoint, save_checkpoint
from lssgen.training.networks import mean_of
from lssgen.training.optimiser import MuonAdam, parameter_groups, rate, set_rate
from lssgen.training.pairs import HALVES, POOL, Crops, Pool
from lssgen.training.recipe import Training
from lssgen.training.teacher import Teacher
from lssgen.training.vaes import Vae
from lssgen.upsampler import Upsampler

CHECKPOINT = "checkpoint"
FIRST = 12  # batches of crops encoded at the start, if the pool holds so many
TOGETHER = 16  # crops, at most, encoded at a time
RENEW_EVERY, RENEWED = 2, 8  # steps of a processor between such a part of a batch more; a GPU takes it at each
NOISE = 0.05  # of the input, at most, in units of the latents' deviation
DECAY, FLOOR = 0.995, 0.01  # of the averaged weights; of the learning rate
THREADS = 4  # that cut crops while a GPU trains
EVERY, SAVE_SECONDS = 25, 180  # steps between reports, seconds between checkpoints
Say = Callable[[str], None]


class Trainer:
    """The loop: `run` trains to the end of the time or steps and leaves a checkpoint.

    Args:
        training: what and how.
        out: folder for checkpoints.
        accelerator: device, precision, processes.
        vae, model, found: the autoencoder, the upsampler to train, the pictures.
        resume: go on from the checkpoint in `out`.
        say: told the progress.
    """

    def __init__(
        self, training: Training, out: Path, accelerator: Accelerator, vae: Vae, model: Upsampler,
        found: photos.Photos, *, resume: bool, say: Say,
    ) -> None:  # fmt: skip
        self.training, self.accelerator, self.vae, self.say = training, accelerator, vae, say
        self.weights = {"pixels": 1.0, **{name: getattr(training, name) for name in losses.WEIGHED}}  # of the losses
        self.path, self.step, self.spent = out / CHECKPOINT, 0, 0.0
        self.plain = model.to(accelerator.device).train()
        if training.keep_doubling:
            self.plain.requires_grad_(False).upsampler.between.requires_grad_(True)
        dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32  # the same in all processes
        self.learning_rate = training.learning_rate or model.LEARNING_RATE
        optimiser = MuonAdam(parameter_groups(self.plain), self.learning_rate, dtype=dtype)
        self.average = Average(self.plain, DECAY)
        if resume:
            numbers = load_checkpoint(self.path, self.plain, self.average, optimiser)
            self.step, self.spent = numbers["step"], numbers["spent"]
            self.average.weights = {k: v.to(accelerator.device) for k, v in self.average.weights.items()}
        self.start = time.monotonic() - self.spent
        self.model, self.optimiser = accelerator.prepare(self.plain, optimiser)
        seed = training.seed + self.step + 1_000_003 * accelerator.process_index
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.on_gpu = accelerator.device.type != "cpu"
        torch.backends.cudnn.benchmark = True  # batches are of few sizes
        halves = 0.0 if training.keep_doubling else HALVES if model.any_ratio else 1.0
        crops = Crops(found, seed, vae.multiple, halves=halves)
        self.pool = Pool(crops, vae, accelerator.device, THREADS if self.on_gpu else 0, self._teacher(found))
        self.seen: dict[str, deque[torch.Tensor]] = {}  # the last losses

    def _teacher(self, found: photos.Photos) -> Teacher | None:
        """Of the upsampler named for it, or that this began as, if it is asked for and something is left to learn."""
        if self.training.distill is None or self._share() >= 1:
            return None
        device, seed = self.accelerator.device, self.training.seed
        before = mean_of(self.training.teacher or self.training.init, self.vae).requires_grad_(False).to(device)
        if not before.any_ratio:
            raise ValueError("distill needs an upsampler of any ratio; train it by --keep-doubling first")
        self.say("measuring what the teacher's pictures lack of true ones in sharpness")
        crops = Crops(replace(found), seed, self.vae.multiple, halves=1.0, plain=0.0)
        return Teacher.of(before, self.vae, crops, device, self.training.distill)

    def run(self, begin: Callable[[], None] = lambda: None) -> None:
        """Train; `begin` is called when the first crops are encoded, or at once where nothing is to be trained."""
        self.start = time.monotonic() - self.spent
        if self.step and self._share() >= 1:
            self.say(f"nothing is left to train: {self._whole()} in all are done; to go on give more")
        elif not self.training.trains:
            begin()
            self.save()
        else:
            self._train(begin)
        self.pool.close()
        self.accelerator.wait_for_everyone()

    def _train(self, begin: Callable[[], None]) -> None:
        """All steps that are left, and a checkpoint."""
        self._encode(min(FIRST * self.training.batch, POOL))
        self.deviation = self.pool.deviation()
        if not self.deviation.isfinite().all():
            raise ValueError("the autoencoder's latents are not finite; its weights are damaged")
        begin()
        self._tick = saved = time.monotonic()
        while (share := self._share()) < 1:
            set_rate(self.optimiser, self.learning_rate * rate(share, floor=FLOOR))
            if self.on_gpu or self.step % RENEW_EVERY == 0:
                self._encode(max(1, self.training.batch // RENEWED))
            self._update(share)
            if self.step % EVERY == 0:
                self._report(share)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        if self.step == 0:
            raise ValueError(f"the first encodings took {self.training.minutes:g} minutes; give more --minutes")
        self.save()

    def save(self) -> None:
        """A checkpoint, by the main process. Raises ValueError in place of one that is worth nothing."""
        if not all(p.isfinite().all() for p in self.plain.parameters()):
            raise ValueError("the weights are no longer finite; --resume, or begin anew, with a lower --learning-rate")
        self.spent = time.monotonic() - self.start
        if self.accelerator.is_main_process:
            numbers = {"step": self.step, "spent": self.spent}
            save_checkpoint(self.path, self.plain, self.average, self.optimiser, numbers)

    def losses(
        self, low: torch.Tensor, high: torch.Tensor, pixels: torch.Tensor, *, decoded: bool
    ) -> dict[str, torch.Tensor]:
        """`latents` and, where `decoded`, `pixels`, `energy`, `texture` and `spectrum` (if asked for) and `colours`, of
        a batch as `Pool.draw` gives it."""
        noise = NOISE * self.deviation * torch.rand(len(low), 1, 1, 1, device=low.device) * torch.randn_like(low)
        ratio = high.shape[-1] / low.shape[-1]
        made = self.model(low + noise, tuple(high.shape[-2:])).float()
        found = {"latents": losses.latents_error(made, high, self.deviation)}
        if decoded:
            shown, true = self._decoded(made, pixels)
            found["pixels"] = losses.pixels_error(shown, true)
            found["energy"] = losses.energy_error(shown, true, ratio)
            if self.training.texture:
                found["texture"] = losses.energy_error(shown, true, 1.0)
            if self.training.spectrum:
                found["spectrum"] = losses.spectrum_error(shown, true, ratio)
            found["colours"] = losses.colours_error(shown, true)
        return found

    def _encode(self, count: int) -> None:
        """So many new crops for the pool."""
        with self._autoencoder_precision():
            for done in range(0, count, TOGETHER):
                self.pool.add(min(TOGETHER, count - done))

    def _autoencoder_precision(self) -> AbstractContextManager:
        """bfloat16 as the training; not float16, in which some autoencoders overflow."""
        return self.accelerator.autocast() if self.training.precision == "bf16" else nullcontext()

    def _decoded(self, latents: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents decoded, and their true pixels: all on a GPU, else of one in the upsampler's DECODED."""
        if not self.on_gpu:
            some = -(-len(latents) // self.plain.DECODED)
            latents, pixels = latents[:some], pixels[:some]
        with self._autoencoder_precision():
            return self.vae.decode(latents).float(), pixels

    def _update(self, share: float) -> None:
        """One step of the optimiser, gradients clipped to norm 1."""
        decoded = share >= self.training.pixels_from
        found = self.losses(*self.pool.draw(self.rng, self.training.batch), decoded=decoded)
        weights = self.weights if decoded else {"latents": 1.0}
        self.optimiser.zero_grad()
        self.accelerator.backward(sum(weights[name] * loss for name, loss in found.items()))
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.plain)
        self.step += 1
        for name, loss in found.items():
            self.seen.setdefault(name, deque(maxlen=100)).append(loss.detach())

    def _share(self) -> float:
        """Share of the training done, 0 to 1: the main process's, so that all end together."""
        seconds, steps = time.monotonic() - self.start, self.training.steps
        if not self.training.trains:
            return 1.0
        share = self.step / steps if steps else seconds / (self.training.minutes * 60)
        if self.accelerator.num_processes > 1:
            share = broadcast(torch.tensor(share, device=self.accelerator.device)).item()
        return min(1.0, share)

    def _whole(self) -> str:
        """What the training lasts, what came before resuming included."""
        return f"--steps {self.training.steps}" if self.training.steps else f"--minutes {self.training.minutes:g}"

    def _report(self, share: float) -> None:
        """Progress with the time left, and the losses to whoever logs them."""
        now = time.monotonic()
        speed, self._tick = (now - self._tick) / EVERY, now
        steps, minutes = self.training.steps, self.training.minutes
        left = (steps - self.step) * speed / 60 if steps else (1 - share) * minutes
        means = {name: torch.stack(tuple(values)).mean().item() for name, values in self.seen.items()}
        text = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        self.say(f"step {self.step} {text} {speed:.2f} s/step {max(0.0, left):.1f} min left")
        self.accelerator.log(means, step=self.step)
