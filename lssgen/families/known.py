"""Models on the hub that are known to fit, each with what one must know before fetching it.

Published facts, of the model cards and configurations; nothing here was measured, and no weights were at hand. Pinned
revisions are those that public repositories pin too; where none is known to us the main branch is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parents[2] / "assets"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Known:
    """One model.

    Args:
        repo: its hub id.
        family: a row of `lssgen.families.table`.
        licence, gated: as the hub says; a gated model wants its licence accepted by a signed-in account.
        billions: parameters of all networks together, in 10^9, rounded.
        vae: key of its latent space: models of one key share upsamplers and preview decoders.
        revision: the pinned commit, or None.
        side: of the square it was trained to draw, in pixels.
        settings: what it wants otherwise than its family.
    """

    repo: str
    family: str
    licence: str
    gated: bool
    billions: float
    vae: str
    revision: str | None = None
    side: int = 1024
    settings: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The last part of its hub id."""
        return self.repo.split("/")[1]

    def memory_gb(self, dtype: str) -> float:
        """GB the weights alone take in `dtype`; pictures being made come on top."""
        return self.billions * BYTES[dtype]

    def to_dict(self) -> dict[str, Any]:
        """A row of the table, JSON-ready; `upsampler` is its folder in assets/upsamplers."""
        shipped = shipped_upsampler(self.vae)
        return {
            "id": self.repo,
            "family": self.family,
            "licence": self.licence,
            "gated": self.gated,
            "revision": self.revision,
            "side": self.side,
            "weights_gb": {dtype: round(self.memory_gb(dtype), 1) for dtype in BYTES},
            "vae": self.vae,
            "upsampler": shipped.name if shipped else None,
        }


# (channels, scaling_factor) of the VAEs of LEVELS that these latent spaces are of
SPACES = {(4, 0.18215): "sd1", (4, 0.13025): "sdxl", (16, 1.5305): "sd3", (16, 0.3611): "flux1"}
LEVELS = [128, 256, 512, 512]
FLUX_DEV, STABILITY, RAIL = "FLUX.1 [dev] Non-Commercial", "Stability AI Community", "CreativeML Open RAIL-M"
APACHE, FLUX2 = "Apache 2.0", "FLUX Non-Commercial"
_ROWS = (
    # id, family, licence, gated, 10^9 parameters, vae; then the revision, and what differs
    Known("black-forest-labs/FLUX.1-dev", "flux", FLUX_DEV, True, 16.9, "flux1",
          "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"),
    Known("black-forest-labs/FLUX.1-schnell", "flux", APACHE, True, 16.9, "flux1",
          "741f7c3ce8b383c54771c7003378a50191e9efe9",
          settings={"steps": 4, "guidance_scale": None, "max_sequence_length": 256}),
    Known("black-forest-labs/FLUX.1-Krea-dev", "flux", FLUX_DEV, True, 16.9, "flux1",
          settings={"guidance_scale": 4.5}),
    Known("stabilityai/stable-diffusion-3-medium-diffusers", "sd3", STABILITY, True, 7.7, "sd3",
          "ea42f8cef0f178587cf766dc8129abd379c90671"),
    Known("stabilityai/stable-diffusion-3.5-medium", "sd3", STABILITY, True, 8.1, "sd3",
          "b940f670f0eda2d07fbb75229e779da1ad11eb80", settings={"steps": 40, "guidance_scale": 4.5}),
    Known("stabilityai/stable-diffusion-3.5-large", "sd3", STABILITY, True, 13.8, "sd3",
          "ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f", settings={"steps": 28, "guidance_scale": 3.5}),
    Known("stabilityai/stable-diffusion-3.5-large-turbo", "sd3", STABILITY, True, 13.8, "sd3",
          "ec07796fc06b096cc56de9762974a28f4c632eda",
          settings={"steps": 4, "guidance_scale": 0.0, "takes_negative": False}),
    Known("stabilityai/stable-diffusion-xl-base-1.0", "sdxl", "CreativeML Open RAIL++-M", False, 3.5, "sdxl",
          "462165984030d82259a11f4367a4eed129e94a7b"),
    Known("stabilityai/sdxl-turbo", "sdxl", "Stability AI Non-Commercial Community", False, 3.5, "sdxl",
          "71153311d3dbb46851df1931d3ca6e939de83304", 512,
          {"steps": 4, "guidance_scale": 0.0, "takes_negative": False, "base_side": 512}),
    Known("playgroundai/playground-v2.5-1024px-aesthetic", "sdxl", "Playground v2.5 Community", False, 3.5,
          "playground", "1e032f13f2fe6db2dc49947dbdbd196e753de573", settings={"guidance_scale": 3.0}),
    Known("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15", RAIL, False, 1.4, "sd1",
          "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", 512),
    Known("zai-org/CogView4-6B", "cogview4", APACHE, False, 15.9, "cogview4"),
    Known("black-forest-labs/FLUX.2-dev", "flux2", FLUX2, True, 56.0, "flux2",
          "26afe3a78bb242c0a8bb181dcc8937bb16e5c66c"),
    Known("black-forest-labs/FLUX.2-klein-4B", "flux2-klein", APACHE, False, 8.0, "flux2",
          "e7b7dc27f91deacad38e78976d1f2b499d76a294", settings={"takes_negative": False}),
    Known("black-forest-labs/FLUX.2-klein-9B", "flux2-klein", FLUX2, True, 17.4, "flux2",
          "92196c8e11f7b6cf2b7493e037d8c5345c559216", settings={"takes_negative": False}),
    Known("black-forest-labs/FLUX.2-klein-base-4B", "flux2-klein", APACHE, False, 8.0, "flux2",
          settings={"steps": 50, "guidance_scale": 4.0}),
    Known("black-forest-labs/FLUX.2-klein-base-9B", "flux2-klein", FLUX2, True, 17.4, "flux2",
          settings={"steps": 50, "guidance_scale": 4.0}),
    Known("Tongyi-MAI/Z-Image-Turbo", "z-image", APACHE, False, 10.3, "flux1",
          "f332072aa78be7aecdf3ee76d5c247082da564a6", settings={"takes_negative": False}),
    Known("Tongyi-MAI/Z-Image", "z-image", APACHE, False, 10.3, "flux1", "04cc4abb7c5069926f75c9bfde9ef43d49423021",
          settings={"steps": 50, "guidance_scale": 4.0}),
    Known("Qwen/Qwen-Image", "qwen-image", APACHE, False, 28.8, "qwen", "75e0b4be04f60ec59a75f475837eced720f823b6"),
    Known("Alpha-VLLM/Lumina-Image-2.0", "lumina2", APACHE, False, 5.3, "flux1", settings={"steps": 50}),
    Known("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "sana", "NVIDIA NSCL v2-custom, Gemma terms",
          False, 4.5, "dc-ae-f32c32", "e18f82ddb8233fa4d979c2613f41a3ca4c5fc730"),
)  # fmt: skip
KNOWN = {row.repo: row for row in _ROWS}


def known(repo: str) -> Known | None:
    """The row of a hub id."""
    return KNOWN.get(repo)


def known_by_name(name: str) -> Known | None:
    """The row whose name a model's folder bears, as downloads and clones do."""
    return next((row for row in KNOWN.values() if row.name == name), None)


def space_of(vae: dict[str, Any]) -> str:
    """Key of the latent space that a VAE's configuration tells of, "" where it tells of none known.

    Fine-tuned models keep their VAE, and that its scaling_factor: so they are known whatever their name.
    """
    if vae.get("_class_name") == "AutoencoderKLFlux2" and vae.get("latent_channels") == 32:
        return "flux2"
    plain = vae.get("_class_name") == "AutoencoderKL" and vae.get("block_out_channels") == LEVELS
    if not plain or vae.get("latents_mean") is not None:  # Playground's are SDXL's otherwise scaled
        return ""
    return SPACES.get((vae.get("latent_channels"), vae.get("scaling_factor")), "")


def shipped_upsampler(vae: str) -> Path | None:
    """The folder of the learned upsampler in this repository for the latent space of this key, if there is one: the
    larger one, where there are two."""
    if vae != Path(vae).name:  # a path, from somebody's configuration
        return None
    found = (ASSETS / "upsamplers" / name for name in (f"{vae}-large", vae))
    return next((folder for folder in found if (folder / "config.json").is_file()), None)
