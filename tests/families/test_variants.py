"""What models of one family have that others of it do not: each against its own stock call, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, EDMDPMSolverMultistepScheduler
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from lssgen.families import base
from lssgen.families.base import Adapter, Model
from lssgen.families.sd15 import SD15Adapter
from lssgen.families.sdxl import SDXLAdapter
from lssgen.families.source import Source
from lssgen.request import GenerationRequest
from lssgen.sampler import run_arm
from lssgen.schedule import plan
from tests.conftest import tiny_image
from tests.families.tiny import LENGTH, build

REQUEST = GenerationRequest(
    prompt="a red apple", height=128, width=128, start=64, steps=4, upsampler="pixel", guidance_scale=5.0
)


def same_as_stock(adapter: Adapter) -> bool:
    """The baseline's picture against the plain call's; the staged run comes to an end too."""
    pipe = adapter.pipe
    scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    source = Source("tiny", type(adapter), scheduler, dict(pipe.unet.config), adapter.space.factor, 77, base_side=128)
    made = plan(REQUEST, source)
    ours = run_arm(Model(adapter), REQUEST, made.baseline, arm="baseline", upsampler="pixel").images[0]
    staged = run_arm(Model(adapter), REQUEST, made.stages, arm="lssgen", upsampler="pixel")
    assert len(staged.stages) == 2
    generator = torch.Generator().manual_seed(0)
    stock = pipe("a red apple", height=128, width=128, num_inference_steps=4, guidance_scale=5.0, generator=generator)
    assert np.ptp(np.asarray(ours)) > 0 or stock.nsfw_content_detected[0]
    return bool((np.asarray(ours) == np.asarray(stock.images[0])).all())


@pytest.fixture
def sdxl() -> DiffusionPipeline:
    return build("sdxl")


def test_playgrounds_latent_statistics_and_scheduler(sdxl):
    """Its VAE has a mean and deviation for each channel, its scheduler is EDM's."""
    sdxl.vae.register_to_config(latents_mean=[0.5, -1.0, 0.2, 0.0], latents_std=[2.0, 1.5, 0.7, 1.1])
    sdxl.scheduler = EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    adapter = SDXLAdapter(sdxl, LENGTH)
    latents = adapter.encode_images([tiny_image(64)])
    torch.testing.assert_close(adapter.to_scaled(adapter.to_raw(latents)), latents, atol=1e-5, rtol=1e-5)
    assert same_as_stock(adapter)


def test_a_half_precision_vae_that_overflows_is_widened_and_put_back(sdxl):
    sdxl.vae.register_to_config(force_upcast=True)
    adapter = SDXLAdapter(sdxl.to(torch.float16), LENGTH)
    assert same_as_stock(adapter)
    assert sdxl.vae.dtype == torch.float16


def test_a_watermark_marks_the_last_picture_only(sdxl):
    marked = []

    class Mark:
        def apply_watermark(self, images: torch.Tensor) -> torch.Tensor:
            marked.append(tuple(images.shape[-2:]))
            return images.flip(1)

    sdxl.watermark = Mark()
    assert same_as_stock(SDXLAdapter(sdxl, LENGTH))
    # baseline, the staged run's two shown pictures (what is encoded again stays unmarked), the stock call
    assert marked == [(128, 128), (64, 64), (128, 128), (128, 128)]


@pytest.mark.parametrize("flags", [False, True])
def test_a_safety_checker_is_asked_as_the_stock_call_asks_it(flags):
    side = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=side, vision_config={**side, "image_size": 32, "patch_size": 16}, projection_dim=16
    )  # fmt: skip
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(config).eval()
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        getattr(checker, name).data.fill_(-2.0 if flags else 2.0)  # cosine distances above it are flagged
    pipe = build("sd15")
    size = {"shortest_edge": 32}
    pipe.register_modules(
        safety_checker=checker, feature_extractor=CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    )
    pipe.scheduler = base.usable(pipe.scheduler)  # Euler in both
    adapter = SD15Adapter(pipe, LENGTH)
    assert same_as_stock(adapter)
    image = adapter.decode(torch.randn(1, 4, 32, 32))[0]
    assert (np.ptp(np.asarray(image)) == 0) == flags, "a flagged picture is black"


def test_large_pictures_are_decoded_in_tiles_where_memory_is_short(monkeypatch):
    """On accelerators only; here on a CPU that passes for one. The VAE is left as it was found."""
    pipe = build("sd15")
    adapter, latents = SD15Adapter(pipe, LENGTH), torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    tiled = []
    decode = AutoencoderKL.decode
    monkeypatch.setattr(
        AutoencoderKL,
        "decode",
        lambda self, *args, **more: tiled.append(self.use_tiling) or decode(self, *args, **more),
    )
    whole = np.asarray(adapter.decode(latents)[0], int)
    monkeypatch.setattr(base, "TILED_ON", ("cpu",))
    adapter.decode(latents)
    monkeypatch.setattr(base, "TILED_ABOVE", 64 * 64)
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 24, 96
    tiles = np.asarray(adapter.decode(latents)[0], int)
    assert tiled == [False, False, True]
    assert not pipe.vae.use_tiling
    assert np.abs(tiles - whole).mean() < 20
