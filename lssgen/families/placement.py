"""Where a model runs and in which precision: device, dtype and offloading, checked against the memory there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from lssgen.families.remote import WEIGHTS, parts, variant_of
from lssgen.families.table import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OFFLOADS = ("auto", "none", "model", "sequential")
ROOM = 1.25  # memory for a run over that of the weights: an allowance, not a measurement


@dataclass(frozen=True)
class Placement:
    """How to run a model. `offload` may still be "auto": `settled` decides it once the weights are there."""

    device: torch.device
    dtype: torch.dtype
    offload: str = "auto"

    @property
    def dtype_name(self) -> str:
        """One of DTYPES."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of weights files that suit the dtype, the best first; none for float32."""
        return {torch.bfloat16: ("bf16", "fp16"), torch.float16: ("fp16", "bf16")}.get(self.dtype, ())


def placement(device: str | None = None, dtype: str | None = None, offload: str | None = None) -> Placement:
    """A placement from what was asked; None or "auto" take what this machine does best.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`; a GPU if there is one by default.
        dtype: `float32`, `bfloat16` or `float16`; by default float32 on a CPU, on a GPU bfloat16 if it has that.
        offload: `none`; `model`: one network at a time on the GPU; `sequential`: one layer at a time, slow; `auto`: the
            first of these that fits.

    Raises:
        ValueError: for a device that is not here, or another value.
    """
    where = _device(device)
    if dtype in (None, "auto"):
        no_bfloat16 = where.type == "cuda" and torch.cuda.get_device_capability(where)[0] < 8  # before Ampere
        number = torch.float32 if where.type == "cpu" else torch.float16 if no_bfloat16 else torch.bfloat16
    elif dtype in DTYPES:
        number = DTYPES[dtype]
    else:
        raise ValueError(f"dtype is {dtype!r}; it must be auto, {', '.join(DTYPES)}")
    offload = offload or "auto"
    if offload not in OFFLOADS:
        raise ValueError(f"offload is {offload!r}; it must be one of {', '.join(OFFLOADS)}")
    if offload in ("model", "sequential") and where.type != "cuda":
        raise ValueError(f"offload is {offload!r} but the device is {where}; offloading needs a CUDA GPU: leave it out")
    return Placement(where, number, offload if where.type == "cuda" else "none")


def _device(name: str | None) -> torch.device:
    if name in (None, "auto"):
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (str(device) not in there and f"{device}:0" not in there):
        raise ValueError(f"device is {name!r}; this machine has {', '.join(there)}")
    return device


def settled(place: Placement, parameters: dict[str, int], name: str) -> Placement:
    """The placement with its offloading decided by the memory that is free now.

    Args:
        place: what was asked.
        parameters: how many each network has.
        name: the model's, for the error.

    Raises:
        ModelError: if the model cannot fit, naming the choice that would.
    """
    size = {part: count * place.dtype.itemsize for part, count in parameters.items()}
    whole, largest = sum(size.values()), max(size.values(), default=0)
    ram = psutil.virtual_memory().available
    if whole > ram:  # weights pass through it on their way, whatever the device
        half = " --dtype bfloat16 halves that;" if place.dtype.itemsize == 4 else ""
        raise ModelError(
            _too_large(name, place, whole, "memory", ram, f"{half} else take a smaller model, or 'embedded'")
        )
    if place.device.type != "cuda":
        return replace(place, offload="none")
    free = torch.cuda.mem_get_info(place.device)[0]
    on_gpu = {"none": whole, "model": largest, "sequential": 0}
    if place.offload == "auto":
        return replace(place, offload=next(how for how, needed in on_gpu.items() if needed * ROOM <= free))
    if on_gpu[place.offload] > free:
        better = next(how for how, needed in on_gpu.items() if needed <= free)
        what = on_gpu[place.offload]
        raise ModelError(_too_large(name, place, what, "GPU memory", free, f" use --offload {better}"))
    return place


def _too_large(name: str, place: Placement, needed: float, kind: str, free: float, way: str) -> str:
    amount, there = f"{needed / 1e9:.1f} GB of {kind}", f"{free / 1e9:.1f} GB are free"
    return f"{name} needs {amount} for weights in {place.dtype_name}; {there}:{way}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; CPUs' and Apple's allocators say so in a plain RuntimeError."""
    words = str(error).lower()
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
    )


def less_memory(device: torch.device) -> str:
    """What to change where memory ran out."""
    offload = "--offload model or sequential, " if device.type == "cuda" else ""
    return f"use {offload}--dtype bfloat16, a smaller picture or a smaller model"


def parameters_of(folder: Path, variants: tuple[str, ...]) -> dict[str, int]:
    """How many numbers the weights of each part of a pipeline's folder hold, from the files' heads alone."""
    variant, counts = variant_of(folder, variants), {}
    for part in parts(folder):
        paths = list((folder / part).glob("*.safetensors"))
        of_variant = [path for path in paths if variant and f".{variant}" in path.name]
        for path in of_variant or [path for path in paths if WEIGHTS.fullmatch(path.name)]:
            with safe_open(path, "pt") as file:
                shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
            counts[part] = counts.get(part, 0) + sum(int(torch.Size(shape).numel()) for shape in shapes)
    return counts


def put(pipe: DiffusionPipeline, place: Placement) -> None:
    """Move a pipeline to where it runs, or let accelerate bring its parts there, one network or layer at a time."""
    if place.offload == "none":
        pipe.to(place.device)
    elif place.offload == "model":
        pipe.enable_model_cpu_offload(device=place.device)
    else:
        pipe.enable_sequential_cpu_offload(device=place.device)
