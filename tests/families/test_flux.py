"""The FLUX adapter against the stock pipeline: bit for bit, and left as found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lssgen.families import folders, table
from lssgen.families.base import Model
from lssgen.families.flux import FluxAdapter
from lssgen.families.source import Source
from lssgen.request import GenerationRequest
from lssgen.sampler import Stopped, run_arm
from lssgen.schedule import plan
from tests.conftest import tiny_image

PROMPT = "a red apple"


def stock(model, seeds, height, width, steps, output_type="pil"):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return model.adapter.pipe(
        [PROMPT] * len(seeds),
        height=height,
        width=width,
        num_inference_steps=steps,
        generator=generators,
        max_sequence_length=16,
        output_type=output_type,
    ).images


@pytest.fixture
def run(tiny_model, tiny_source):
    def run(arm="lssgen", **fields):
        return run_both(tiny_model, tiny_source, arm, **fields)

    return run


def run_both(model, source, arm, **fields):
    request = GenerationRequest(prompt=PROMPT, **{"height": 128, "width": 128, "start": 64, "steps": 8, **fields})
    made = plan(request, source)
    return run_arm(model, request, made.stages if arm == "lssgen" else made.baseline, arm=arm, upsampler="learned")


@pytest.mark.parametrize("noise", ["coupled", "fresh"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (128, 96), (64, 80)])
def test_one_stage_equals_the_stock_call_bit_for_bit(tiny_model, run, noise, height, width):
    ours = run(height=height, width=width, start=min(height, width), seeds=(7,), noise=noise)
    (theirs,) = stock(tiny_model, (7,), height, width, 8)
    assert np.array_equal(np.asarray(ours.images[0]), np.asarray(theirs))


def test_one_stage_latents_equal_the_stock_latents(tiny_model, tiny_source):
    adapter = tiny_model.adapter
    request = GenerationRequest(prompt=PROMPT, height=128, width=128, start=128, steps=8, seeds=(3,))
    (stage,) = plan(request, tiny_source).stages
    noise = adapter.noise([torch.Generator().manual_seed(3)], 128, 128)
    ours = adapter.denoise(stage, noise, adapter.encode(PROMPT, "", 1, None), None, lambda step, latents: None)
    theirs = stock(tiny_model, (3,), 128, 128, 8, output_type="latent")
    assert (adapter.pack(ours) - theirs).abs().max() == 0.0


def test_baseline_of_a_two_stage_plan_is_the_stock_call(tiny_model, run):
    ours = run(arm="baseline", seeds=(1,))
    assert np.array_equal(np.asarray(ours.images[0]), np.asarray(stock(tiny_model, (1,), 128, 128, 8)[0]))


def test_a_tail_runs_literally_the_planned_sigmas(tiny_model, tiny_source):
    """The stock scheduler would shift given sigmas again: 0.76 would become 0.91."""
    seen = []
    adapter = tiny_model.adapter
    request = GenerationRequest(prompt=PROMPT, height=128, width=128, start=64, steps=8)
    tail = plan(request, tiny_source).stages[1]
    forward = adapter.pipe.transformer.forward

    def spy(*args, **kwargs):
        seen.append(kwargs["timestep"].item())
        return forward(*args, **kwargs)

    adapter.pipe.transformer.forward = spy
    try:
        adapter.denoise(
            tail, torch.randn(1, 4, 32, 32), adapter.encode(PROMPT, "", 1, None), None, lambda step, latents: None
        )
    finally:
        del adapter.pipe.transformer.forward
    assert seen == pytest.approx(tail.sigmas[:-1], abs=1e-6)


def test_a_batch_of_two_seeds_equals_two_single_runs(run):
    """Within one grey level: batched matrix products may round differently."""
    both = run(seeds=(1, 2)).images
    for seed, image in zip((1, 2), both, strict=True):
        (single,) = run(seeds=(seed,)).images
        assert np.abs(np.asarray(image, int) - np.asarray(single, int)).max() <= 1


@pytest.mark.parametrize("ending", ["success", "stop", "error"])
def test_the_pipeline_is_left_as_found(tiny_model, tiny_source, ending):
    pipe = tiny_model.adapter.pipe
    before = (pipe.scheduler, dict(pipe.scheduler.config), type(pipe.transformer.forward))
    stop = []

    def emit(event):
        if type(event).__name__ == "Stepped" and event.index == 1:
            if ending == "stop":
                stop.append(True)
            if ending == "error":
                raise RuntimeError("out of paper")

    request = GenerationRequest(prompt=PROMPT, height=128, width=128, start=64, steps=8)
    stages = plan(request, tiny_source).stages
    arguments = {"arm": "lssgen", "upsampler": "learned", "emit": emit, "stopped": lambda: bool(stop)}
    if ending == "success":
        run_arm(tiny_model, request, stages, **arguments)
    else:
        with pytest.raises(Stopped if ending == "stop" else RuntimeError):
            run_arm(tiny_model, request, stages, **arguments)
    assert (pipe.scheduler, dict(pipe.scheduler.config), type(pipe.transformer.forward)) == before


def test_encode_and_decode_keep_size_and_scale(tiny_model):
    adapter = tiny_model.adapter
    latents = adapter.encode_images([tiny_image(64), tiny_image(64, 1)])
    assert latents.shape == (2, 4, 16, 16)
    (first, second) = adapter.decode(latents)
    assert isinstance(first, Image.Image)
    assert first.size == second.size == (64, 64)
    raw = adapter.pipe.vae.encode(adapter.pipe.image_processor.preprocess([tiny_image(64)])).latent_dist.mode()
    torch.testing.assert_close(adapter.to_raw(latents[:1]), raw, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [512, 1024])
def test_the_embedded_models_schedules_equal_flux_1s(side):
    """f16 has a quarter of FLUX.1's tokens; with 256..4096 the last stage would keep 13 of 20 steps instead of 10."""
    ours, flux = folders.source("embedded"), table.family("flux").source
    for steps in (10, 20, 28):
        assert ours.schedule(side, side, steps) == flux.schedule(side, side, steps)


def test_source_from_configuration_equals_the_loaded_pipelines_own(tiny_source, tiny_model):
    pipe = tiny_model.adapter.pipe
    configs = pipe.scheduler.config, pipe.transformer.config
    loaded = Source("tiny", FluxAdapter, *configs, pipe.vae_scale_factor, text_tokens=16)
    assert tiny_source.multiple == loaded.multiple == 8
    assert tiny_source.schedule(128, 96, 8) == loaded.schedule(128, 96, 8)
    assert tiny_source.step_cost(128, 96) == loaded.step_cost(128, 96)


def test_planning_leaves_the_global_random_state_alone(tiny_folder):
    source = folders.source(str(tiny_folder))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    source.schedule(128, 128, 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_step_cost_counts_tokens_and_attention():
    """One layer of width d on T tokens: 24 d^2 T of matrix products and 4 T^2 d of attention."""
    config = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "num_single_layers": 0}
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    source = Source("x", FluxAdapter, scheduler, config, vae_factor=8, text_tokens=6)
    tokens = 4 * 4 + 6
    assert source.step_cost(64, 64) == 24 * 8**2 * tokens + 4 * tokens**2 * 8


@pytest.fixture(scope="module")
def guided():
    """A tiny pipeline whose transformer takes guidance, as FLUX.1-dev's does."""
    from tests.conftest import tiny_flux

    pipe = tiny_flux(guidance_embeds=True)
    pipe.set_progress_bar_config(disable=True)
    return FluxAdapter(pipe, max_sequence_length=16)


def test_guidance_acts_in_every_stage_and_equals_the_stock_call(guided, tiny_source):
    request = GenerationRequest(prompt=PROMPT, height=128, width=128, start=64, steps=8)
    noise = guided.noise([torch.Generator().manual_seed(0)], 128, 128)
    encoded = guided.encode(PROMPT, "", 1, None)
    whole, tail = plan(request, tiny_source).baseline[0], plan(request, tiny_source).stages[1]
    for stage in (whole, tail):
        low, high = (guided.denoise(stage, noise, encoded, g, lambda step, latents: None) for g in (1.0, 7.0))
        assert not torch.equal(low, high)
    ours = guided.denoise(whole, noise, encoded, 7.0, lambda step, latents: None)
    theirs = guided.pipe(
        PROMPT, height=128, width=128, num_inference_steps=8, guidance_scale=7.0, max_sequence_length=16,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).images  # fmt: skip
    assert (guided.pack(ours) - theirs).abs().max() == 0.0


def test_bfloat16_runs_and_stays_finite(tiny_source):
    """The dtype of GPU runs: noise, latents and both stages stay in it."""
    from tests.conftest import tiny_flux

    pipe = tiny_flux().to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    adapter = FluxAdapter(pipe, max_sequence_length=16)
    request = GenerationRequest(prompt=PROMPT, height=128, width=128, start=64, steps=8, upsampler="bicubic")
    stages = plan(request, tiny_source).stages
    finished = run_arm(Model(adapter), request, stages, arm="lssgen", upsampler="bicubic")
    assert finished.images[0].size == (128, 128)
    latents = adapter.denoise(
        stages[1],
        adapter.noise([torch.Generator()], 128, 128),
        adapter.encode(PROMPT, "", 1, None),
        None,
        lambda step, latents: None,
    )
    assert latents.dtype == torch.bfloat16
    assert torch.isfinite(latents).all()
