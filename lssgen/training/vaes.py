"""Any autoencoder of diffusers behind one contract: pictures to the *scaled* latents its denoiser sees, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F

from lssgen.families import folders, remote
from lssgen.families.known import known, known_by_name, space_of
from lssgen.families.placement import out_of_memory
from lssgen.hub import brief
from lssgen.training import tiny


class Vae:
    """A frozen autoencoder.

    Scaled latents are (raw - mean) / deviation for each channel, FLUX.2's over patches of 2 x 2 latent pixels.

    Attributes:
        name: key of its latent space, or "".
        channels: of a latent.
        factor: pixels of one latent pixel's side.
        multiple: pixels that a picture's sides are multiples of.
        network: the model itself.
    """

    def __init__(self, model: torch.nn.Module, name: str, device: torch.device) -> None:
        config = dict(model.config)
        self.name = name
        self.channels: int = config.get("latent_channels") or config["z_dim"]
        self.factor = folders.vae_factor(config)
        self._mean, self._deviation, self._patch = _statistics(model, config, device)
        self.multiple = self.factor * self._patch
        self._video = any(p.ndim == 5 for p in model.parameters())
        self.network = model.float().eval().requires_grad_(False).to(device)
        if not self._video:
            self.network.to(memory_format=torch.channels_last)  # a third faster on a CPU

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w), scaled; by the mode where the posterior is a distribution."""
        made = self.network.encode(pixels.unsqueeze(2) if self._video else pixels)
        raw = made.latent_dist.mode() if "latent_dist" in made else made[0]
        raw = raw[:, :, 0] if self._video else raw
        patches = F.pixel_unshuffle(raw, self._patch)
        return F.pixel_shuffle((patches - self._mean) / self._deviation, self._patch)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w), scaled -> (B, 3, H, W), about [-1, 1]. Gradients pass."""
        patches = F.pixel_unshuffle(latents, self._patch)
        raw = F.pixel_shuffle(patches * self._deviation + self._mean, self._patch)
        made = self.network.decode(raw.unsqueeze(2) if self._video else raw).sample
        return made[:, :, 0] if self._video else made


def _statistics(
    model: torch.nn.Module, config: dict[str, Any], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(mean, deviation) of the raw latents, broadcast over (B, C p^2, h / p, w / p), and the side p of a patch."""

    def wide(values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1).to(device)

    if hasattr(model, "bn"):  # FLUX.2 normalises patches by its batch norm
        deviation = torch.sqrt(model.bn.running_var + config["batch_norm_eps"])
        return wide(model.bn.running_mean), wide(deviation), config["patch_size"][0]
    scale = config.get("scaling_factor") or 1.0
    if config.get("latents_mean") and config.get("latents_std"):
        return wide(config["latents_mean"]), wide(config["latents_std"]) / scale, 1
    return wide(config.get("shift_factor") or 0.0), wide(1.0 / scale), 1


def load(where: str, *, is_tiny: bool = False, key: str = "", device: torch.device | None = None) -> Vae:
    """Load an autoencoder.

    Args:
        where: its folder, a pipeline's folder with `vae/`, or the hub id of either, fetched where it is not cached.
        is_tiny: `where` is a pair of TAESD's own files, see `lssgen.training.tiny`.
        key: name of its latent space; by default that of a known model, configuration or file.
        device: where it runs; the CPU by default.

    Raises:
        ValueError: if there is no image autoencoder there.
    """
    device = device or torch.device("cpu")
    if is_tiny:
        path = Path(where).expanduser()
        return _checked(tiny.load(path), key or tiny.KEYS.get(path.name, ""), device, path)
    found = remote.named(where)
    folder = remote.autoencoder(found) if found else Path(where).expanduser()
    inner = next((f for f in (folder / "vae", folder) if (f / "config.json").is_file()), None)
    if inner is None:
        hint = "name an autoencoder's or a pipeline's folder or hub id, or add --tiny for a pair of TAESD's files"
        raise ValueError(f"no autoencoder at {folder} (it has no config.json, nor has its vae/); {hint}")
    row = known(found.repo) if found else known_by_name(folder.name)
    own = key or _own_key(folder) or (row.vae if row else space_of(folders.read_json(inner / "config.json")))
    return _checked(_model(inner), own, device, inner)


def _checked(model: torch.nn.Module, name: str, device: torch.device, path: Path) -> Vae:
    """The autoencoder, if its latents are as large and as deep as its configuration says: those of a kind with patches
    or statistics of its own would be misread in silence. Raises ValueError."""
    kind = type(model).__name__
    try:
        vae = Vae(model, name, device)
        side = 4 * vae.multiple
        found = tuple(vae.encode(torch.zeros(1, 3, side, side, device=device)).shape)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        if out_of_memory(error):
            raise ValueError(f"memory ran out on {device} for the {kind} at {path}; free some, or use cpu") from error
        raise ValueError(f"the {kind} at {path} is of no kind that can be used here ({brief(error)})") from error
    if found != (1, vae.channels, side // vae.factor, side // vae.factor):
        raise ValueError(
            f"the {kind} at {path} is of no kind that can be used here: {side} x {side} px become {found[1:]}"
        )
    return vae


def _model(folder: Path) -> torch.nn.Module:
    """The network in a folder, whatever its class."""
    name = str(folders.read_json(folder / "config.json").get("_class_name"))
    if not name.startswith(("Autoencoder", "AsymmetricAutoencoder")) or not hasattr(diffusers, name):
        raise ValueError(f"{folder} holds a {name}; an autoencoder of diffusers is needed")
    try:
        variant = remote.variant_in(folder)
        loaded = getattr(diffusers, name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, variant=variant
        )
    except Exception as error:  # diffusers and safetensors each raise their own kinds
        raise ValueError(f"the autoencoder at {folder} cannot be loaded ({brief(error)}); restore its files") from error
    return loaded


def _own_key(folder: Path) -> str:
    """The latent space that a pipeline's folder names in its lssgen.json."""
    path = folder / "lssgen.json"
    return folders.read_json(path).get("vae") or "" if path.is_file() else ""
