"""Train a latent upsampler for any autoencoder on any folder of pictures.

accelerate brings device, mixed precision and several processes, whose gradients are averaged and of which the main one
writes. OUT holds what is needed to go on: the upsampler's folder of averaged weights, training.json, a checkpoint.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, is_tensorboard_available
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from lssgen.families.placement import out_of_memory
from lssgen.hub import brief
from lssgen.measured import FILE as MEASURED
from lssgen.training import photos, push, round_trip, vaes
from lssgen.training.calibration import calibrate
from lssgen.training.common import load_average
from lssgen.training.eval_upsampler import checkpoint, evaluate
from lssgen.training.networks import model_for
from lssgen.training.pairs import Crops
from lssgen.training.recipe import SETTINGS, Training, held_out_before, told
from lssgen.training.trainer import CHECKPOINT, Say, Trainer
from lssgen.training.vaes import Vae
from lssgen.upsampler import RoundTripUpsampler, blank_upsampler

SIDE, LATENT_SIDE = 256, 16  # of a crop: pixels, and latent pixels at least
HELD_OUT = 6  # pictures at most
SHOWN, PLAIN = (2.0, 1.5), ("bicubic",)  # ratios and method that they are measured at and beside


def train(
    training: Training, out: Path, *, resume: bool = False, log: Path | None = None, push_to_hub: str = "",
    say: Say = print,
) -> dict[str, Any]:  # fmt: skip
    """Train an upsampler into the folder `out`, which `lssgen.upsampler.load_upsampler` then reads.

    Args:
        training: what and how.
        out: folder for the upsampler, training.json and checkpoints, made if missing.
        resume: go on from the checkpoint in `out`.
        log: folder for TensorBoard.
        push_to_hub: repository to upload the upsampler to at the end.
        say: told the progress.

    Returns:
        What training.json holds: `training`, `pictures`, `steps`, `seconds`, `parameters`, `learning_rate`,
        `held_out_pictures`, by ratio `held_out` PSNR in dB, and as `calibrated` what `lssgen.training.calibration`
        left. In processes other than the main one nothing.

    Raises:
        ValueError: for pictures, an autoencoder, an upsampler or a checkpoint that cannot be used, or for want of
            memory.
        OSError: if `out` cannot be written.
    """
    if push_to_hub and os.environ.get("LOCAL_RANK", "0") == "0":
        push.make(push_to_hub)
    if not resume and any((out / name).exists() for name in (f"{CHECKPOINT}.pt", SAFETENSORS_WEIGHTS_NAME)):
        raise ValueError(f"{out} holds an upsampler already; add --resume to go on with it, or name another folder")
    accelerator = _accelerator(training.precision, log)
    say = say if accelerator.is_main_process else lambda text: None
    vae = vaes.load(training.vae, is_tiny=training.tiny, key=training.key, device=accelerator.device)
    side = max(SIDE, LATENT_SIDE * vae.factor)
    before = held_out_before(out) if resume else ()
    found, held_out = photos.find(Path(training.images).expanduser(), side).split(HELD_OUT, before)
    say(f"{found}; {len(held_out)} held out; crops of {side} px")
    torch.manual_seed(training.seed)
    model = model_for(training, vae, out if resume else None)
    out.mkdir(parents=True, exist_ok=True)
    facts = {"training": asdict(training), "vae": vae.name, "parameters": sum(p.numel() for p in model.parameters())}
    facts["held_out_pictures"] = [str(path) for path in held_out]
    say(f"{facts['parameters']:,} parameters on {accelerator.device}, latents of {vae.name or 'an unnamed VAE'}")

    def begin() -> None:
        """What is refused leaves the folder as it was, and a former training's figures stay until there are new."""
        if accelerator.is_main_process:
            if not resume:  # there other processes read it
                model.save_config(out)
            _write(out, {**(told(out) if resume else {}), **facts})

    try:
        if isinstance(model, RoundTripUpsampler) and not (resume or training.init):
            say("fitting what leads from the decoder's layers to the encoder's")
            crops = Crops(replace(found), training.seed, vae.multiple)
            round_trip.fit(model.to(accelerator.device), vae, (crops() for _ in range(round_trip.CROPS)))
        trainer = Trainer(training, out, accelerator, vae, model, found, resume=resume, say=say)
        facts["learning_rate"] = trainer.learning_rate
        if log:
            accelerator.init_trackers("upsampler")
        trainer.run(begin)
        accelerator.end_training()
        if accelerator.is_main_process:
            _finish(trainer, out, facts, found, held_out)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError(_less_memory(accelerator.device, training.batch, out)) from error
    if not accelerator.is_main_process:
        return {}
    if push_to_hub:
        push.upload(out, push_to_hub)
    return facts


def _finish(trainer: Trainer, out: Path, facts: dict[str, Any], found: photos.Photos, held_out: list[Path]) -> None:
    """Calibrate, store and measure what was trained, and take down the facts."""
    vae, say, device = trainer.vae, trainer.say, trainer.accelerator.device
    say("mending the colours: some hundreds of crops are decoded")
    trained = load_average(trainer.path, blank_upsampler(out))
    trained.requires_grad_(False).to(device)
    facts["calibrated"] = calibrate(trained, vae, found, device, trainer.training)
    trained.half().save_pretrained(out)
    (out / MEASURED).unlink(missing_ok=True)  # what was measured of former weights
    counts = {"used": len(found.paths), "held_out": len(held_out), "small": found.small, "broken": found.broken}
    facts |= {"pictures": counts, "steps": trainer.step, "seconds": round(trainer.spent, 1)}
    _write(out, facts)
    if held_out:
        say(f"measuring {len(held_out)} held-out pictures")
        facts["held_out"] = _held_out(vae, held_out, out, device, say)
        _write(out, facts)


def _less_memory(device: torch.device, batch: int, out: Path) -> str:
    """What to do where memory ran out."""
    less = f"give a --batch below {batch}" if batch > 1 else "a CPU, which has more, trains by ACCELERATE_USE_CPU=1"
    kept = ", with --resume, since a checkpoint is kept" if (out / f"{CHECKPOINT}.pt").exists() else ""
    return f"memory ran out on {device}; {less}{kept}"


def _accelerator(precision: str, log: Path | None) -> Accelerator:
    if log and not is_tensorboard_available():
        raise ValueError("--log needs TensorBoard: pip install tensorboard")
    try:
        return Accelerator(
            mixed_precision=precision,
            log_with="tensorboard" if log else None,
            project_dir=log,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # a batch is of one ratio
        )
    except ValueError as error:
        raise ValueError(f"precision is {precision!r}, which this machine does not take: {brief(error)}") from error
    except RuntimeError as error:  # of several processes that do not find each other
        raise ValueError(f"accelerate does not start: {brief(error)}") from error


def _write(out: Path, facts: dict[str, Any]) -> None:
    (out / SETTINGS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _held_out(vae: Vae, paths: list[Path], out: Path, device: torch.device, say: Say) -> dict[str, Any]:
    """PSNR of the saved upsampler on pictures it has not seen, beside bicubic latents, in dB, by ratio."""
    learned, result = checkpoint(out, vae), {}
    for row in evaluate(vae, paths, {"learned": learned}, SHOWN[: 1 + learned.any_ratio], device=device, plain=PLAIN):
        result.setdefault(f"x{row.ratio:g}", {})[row.method] = round(row.psnr, 2)
    for ratio, psnr in result.items():
        say(f"held out, {ratio}: " + ", ".join(f"{name} {value:.2f} dB" for name, value in psnr.items()))
    return result
