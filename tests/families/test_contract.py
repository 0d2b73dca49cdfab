"""What every family's adapter must keep to, on tiny random pipelines of the real classes."""

from __future__ import annotations

import gc
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from peft import LoraConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lssgen.engine import Engine
from lssgen.events import ArmFailed, ArmFinished
from lssgen.families.base import Adapter, Model
from lssgen.families.flux2 import Flux2Adapter
from lssgen.families.folders import source
from lssgen.families.schedulers import swapped_scheduler, usable
from lssgen.families.source import Source
from lssgen.families.table import FAMILIES
from lssgen.latents import renoise
from lssgen.request import GenerationRequest
from lssgen.sampler import Stopped, run_arm
from lssgen.schedule import plan
from tests.conftest import tiny_image
from tests.families.tiny import BUILDERS, LENGTH, build, save

PROMPT, NEGATIVE = "a red apple", "green tree"


@cache
def adapter_of(family: str) -> Adapter:
    return FAMILIES[family].adapter_class()(build(family), LENGTH)


@cache
def source_of(family: str) -> Source:
    adapter = adapter_of(family)
    scheduler = {**adapter.pipe.scheduler.config, "_class_name": type(adapter.pipe.scheduler).__name__}
    configs = scheduler, dict(adapter.denoiser.config), adapter.space.factor
    return Source(family, FAMILIES[family].adapter_class(), *configs, LENGTH, base_side=128)


@pytest.fixture(params=list(BUILDERS))
def family(request) -> str:
    return request.param


@pytest.fixture
def adapter(family) -> Adapter:
    return adapter_of(family)


def make(**fields) -> GenerationRequest:
    base = {"prompt": PROMPT, "height": 128, "width": 128, "start": 64, "steps": 8, "upsampler": "bicubic"}
    return GenerationRequest(**{**base, **fields})


def run(family: str, arm: str = "lssgen", model: Model | None = None, **fields):
    request = make(**fields)
    made = plan(request, source_of(family))
    stages = made.stages if arm == "lssgen" else made.baseline
    return run_arm(model or Model(adapter_of(family)), request, stages, arm=arm, upsampler=request.upsampler)


def stock(family: str, seeds=(0,), height=128, width=128, guidance=None, negative=""):
    """The untouched stock call, but for a scheduler whose tail cannot be run."""
    adapter, more = adapter_of(family), {}
    if guidance is not None:
        more[adapter.guidance_argument] = guidance
    if family == "flux2-klein":  # takes no negative prompt but its embeddings
        more["negative_prompt_embeds"] = adapter.pipe.encode_prompt(negative, max_sequence_length=LENGTH)[0]
    elif negative or (family == "qwen-image" and guidance is not None):  # guided by a blank
        more["negative_prompt"] = [negative or " "] * len(seeds)
    if family not in ("sdxl", "sd15"):
        more["max_sequence_length"] = LENGTH
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with swapped_scheduler(adapter.pipe, usable(adapter.pipe.scheduler)):
        return adapter.pipe(
            prompt=[PROMPT] * len(seeds), height=height, width=width, num_inference_steps=8, generator=generators,
            **adapter.more_arguments, **more,
        ).images  # fmt: skip


def same(ours, theirs, tolerance: int = 0) -> bool:
    return all(
        np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= tolerance for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("noise", ["coupled", "fresh"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (128, 64)])
def test_one_stage_equals_the_stock_call_bit_for_bit(family, noise, height, width):
    ours = run(family, height=height, width=width, start=min(height, width), seeds=(7,), noise=noise)
    assert same(ours.images, stock(family, (7,), height, width))


def test_the_baseline_equals_the_stock_call_with_guidance_and_negative_prompt(family):
    takes = FAMILIES[family].settings.takes_negative
    negative = NEGATIVE if takes else ""
    ours = run(family, "baseline", guidance_scale=4.0, negative_prompt=negative)
    assert same(ours.images, stock(family, guidance=4.0, negative=negative))


def test_the_schedule_without_weights_is_the_one_that_runs(family, adapter, monkeypatch):
    """The scheduler steps through the planned timesteps, in every stage."""
    seen, scheduler = [], type(usable(adapter.pipe.scheduler))
    step = scheduler.step

    def spy(self, model_output, timestep, *arguments, **named):
        seen.append(float(timestep))
        return step(self, model_output, timestep, *arguments, **named)

    monkeypatch.setattr(scheduler, "step", spy)
    stages = plan(make(start=32), source_of(family)).stages
    assert len(stages) == 3
    run_arm(Model(adapter), make(start=32), stages, arm="lssgen", upsampler="bicubic")
    assert seen == [t for stage in stages for t in stage.timesteps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", [32, 64])
def test_two_and_three_stages_stay_finite(family, dtype, start):
    adapter = type(adapter_of(family))(build(family).to(dtype), LENGTH)
    stages = plan(make(start=start), source_of(family)).stages
    kept = []
    original = adapter.denoise

    def watch(*arguments, **named):
        kept.append(original(*arguments, **named))
        return kept[-1]

    adapter.denoise = watch
    finished = run_arm(Model(adapter), make(start=start), stages, arm="lssgen", upsampler="bicubic")
    assert finished.images[0].size == (128, 128)
    assert len(kept) == (3 if start == 32 else 2)
    assert all(torch.isfinite(latents).all() for latents in kept)


def test_packing_and_scaling_round_trip(family, adapter):
    stage = plan(make(), source_of(family)).stages[0]
    grid = adapter.noise([torch.Generator().manual_seed(0)], 64, 64)
    assert grid.shape == (1, adapter.space.channels, 64 // adapter.space.factor, 64 // adapter.space.factor)
    assert torch.equal(adapter.unpack(_running(adapter, grid), stage), grid)
    torch.testing.assert_close(adapter.to_scaled(adapter.to_raw(grid)), grid, atol=1e-5, rtol=0)
    latents = adapter.encode_images([tiny_image(64), tiny_image(64, 1)])
    assert latents.shape == (2, *grid.shape[1:])
    assert [image.size for image in adapter.decode(latents)] == [(64, 64)] * 2


def _running(adapter: Adapter, grid: torch.Tensor) -> torch.Tensor:
    """What the stock call makes of packed latents before its first step."""
    packed = adapter.pack(grid)
    return adapter.pipe._pack_latents(packed) if isinstance(adapter, Flux2Adapter) else packed


def test_renoised_variance_is_right(family, adapter):
    """signal^2 Var[x0] + noise^2 at the noise level the scheduler itself starts from, which its own method confirms."""
    stage = plan(make(sigma=0.6), source_of(family)).stages[1]
    x0 = 0.5 * torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    eps = torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(2))
    ours = renoise(x0, eps, stage.sigmas[0], stage.process)
    signal, amplitude = stage.process.mix(stage.sigmas[0])
    assert ours.var().item() == pytest.approx(signal**2 * x0.var().item() + amplitude**2, rel=0.02)
    scheduler = usable(adapter.pipe.scheduler)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        literal = FlowMatchEulerDiscreteScheduler()
        literal.set_timesteps(sigmas=list(stage.sigmas[:-1]))
        theirs = literal.scale_noise(x0, literal.timesteps[:1], eps)
    else:
        scheduler.set_timesteps(stage.schedule_steps)
        theirs = scheduler.add_noise(x0, eps, torch.tensor(stage.timesteps[:1]))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.6, 1.0])
def test_a_renoised_stage_starts_from_the_latents_as_given(family, adapter, sigma, monkeypatch):
    """Not scaled by the scheduler's initial noise level once more: 3.4 would become 37 with Euler on SD 1.5.

    And the scheduler's own first sigma is the planned one that they were noised to.
    """
    seen, levels, scheduler = [], [], type(usable(adapter.pipe.scheduler))
    step = scheduler.step

    def spy(self, model_output, timestep, sample, *arguments, **named):
        seen.append(sample.std().item())
        levels.append(float(self.sigmas[0]))
        return step(self, model_output, timestep, sample, *arguments, **named)

    monkeypatch.setattr(scheduler, "step", spy)
    stage = plan(make(sigma=sigma), source_of(family)).stages[1]
    noise = adapter.noise([torch.Generator().manual_seed(0)], 128, 128)
    latents = renoise(torch.zeros_like(noise), noise, stage.sigmas[0], stage.process)
    adapter.denoise(stage, latents, adapter.encode(PROMPT, "", 1, None), None, lambda i, latents: None)
    assert seen[0] == pytest.approx(latents.std().item(), rel=1e-4)
    assert levels[0] == pytest.approx(stage.sigmas[0], abs=1e-6)


@pytest.mark.parametrize("ending", ["success", "stop", "error"])
def test_the_pipeline_is_left_as_found(family, adapter, ending):
    pipe = adapter.pipe
    found = lambda: (  # noqa: E731
        pipe.scheduler, dict(pipe.scheduler.config), pipe.vae.dtype, vars(pipe).keys() - {"_interrupt"}
    )  # fmt: skip
    run(family)  # the stock call itself leaves attributes such as _guidance_scale
    before, stop = found(), []

    def emit(event):
        if type(event).__name__ == "Stepped" and event.index == 1:
            if ending == "stop":
                stop.append(True)
            if ending == "error":
                raise RuntimeError("out of paper")

    stages = plan(make(), source_of(family)).stages
    arguments = {"arm": "lssgen", "upsampler": "bicubic", "emit": emit, "stopped": lambda: bool(stop)}
    if ending == "success":
        run_arm(Model(adapter), make(), stages, **arguments)
    else:
        with pytest.raises(Stopped if ending == "stop" else RuntimeError):
            run_arm(Model(adapter), make(), stages, **arguments)
    assert found() == before


def test_no_tensor_outlives_a_run(family):
    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    run(family)  # caches of positions and timesteps are filled once
    before = alive()
    images = run(family).images
    assert alive() == before
    assert images


def test_a_batch_of_two_seeds_equals_two_single_runs(family):
    """Within one grey level: batched matrix products may round differently."""
    both = run(family, seeds=(1, 2)).images
    for seed, image in zip((1, 2), both, strict=True):
        assert same([image], run(family, seeds=(seed,)).images, tolerance=1)


def test_guidance_and_negative_prompt_act_in_every_stage(family, adapter):
    if not FAMILIES[family].settings.takes_negative:
        pytest.skip("no negative prompt")
    stages = plan(make(), source_of(family)).stages
    noise = adapter.noise([torch.Generator().manual_seed(0)], 64, 64)
    for stage in stages:
        grid = noise.repeat(1, 1, stage.height // 64, stage.width // 64)
        made = [
            adapter.denoise(stage, grid, adapter.encode(PROMPT, negative, 1, scale), scale, lambda i, latents: None)
            for negative, scale in (("", 3.0), (NEGATIVE, 3.0), ("", 6.0))
        ]
        assert not torch.equal(made[0], made[1])
        assert not torch.equal(made[0], made[2])


def test_counted_work_is_the_work_done(family, adapter):
    """Against torch's own counter, within 15 % at this toy width, where what the formula leaves out weighs most.

    Attention by plain matrix products: the counter does not know the fused kernel that some CPUs take.
    """
    stage = plan(make(), source_of(family)).baseline[0]
    one = stage.__class__(**{**vars(stage), "sigmas": stage.sigmas[-2:], "timesteps": stage.timesteps[-1:]})
    noise = adapter.noise([torch.Generator().manual_seed(0)], 128, 128)
    unguided = 0.0 if family == "z-image" else 1.0
    encoded = adapter.encode(PROMPT, "", 1, unguided)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        adapter.denoise(one, noise, encoded, unguided, lambda i, latents: None)
    assert source_of(family).step_cost(128, 128) == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_a_folder_loads_plans_and_runs(family, tmp_path):
    save(family, tmp_path)
    engine = Engine(str(tmp_path), "cpu")
    guided = {"guidance_scale": 4.0} if engine.settings.guidance_scale is not None else {}
    events = list(engine.compare(make(**guided)))
    assert not [e.message for e in events if isinstance(e, ArmFailed)]
    made = {e.arm: e.images[0].size for e in events if isinstance(e, ArmFinished)}
    assert made == {"lssgen": (128, 128), "baseline": (128, 128)}
    adapter = engine.load().adapter
    assert source(str(tmp_path)).multiple == adapter.space.factor * adapter.patch
    if not engine.settings.takes_negative:
        with pytest.raises(ValueError, match="takes none"):
            engine.plan(make(negative_prompt=NEGATIVE))
    elif guided:  # once accepted, and without effect
        with pytest.raises(ValueError, match=r"acts above [01]: raise it"):
            engine.plan(make(negative_prompt=NEGATIVE, guidance_scale=0.0))
        assert engine.plan(make(negative_prompt=NEGATIVE, **guided)).stages


def test_a_lora_acts_in_every_stage(family):
    adapter = type(adapter_of(family))(build(family), LENGTH)
    stages, encoded = plan(make(), source_of(family)).stages, adapter.encode(PROMPT, "", 1, None)

    def results() -> list[torch.Tensor]:
        made = []
        for stage in stages:
            noise = adapter.noise([torch.Generator().manual_seed(0)], stage.height, stage.width)
            made.append(adapter.denoise(stage, noise, encoded, None, lambda i, latents: None))
        return made

    plain = results()
    lora = LoraConfig(r=2, lora_alpha=64, target_modules=["to_q"], init_lora_weights=False)
    adapter.denoiser.add_adapter(lora)
    assert not any(torch.equal(a, b) for a, b in zip(plain, results(), strict=True))


def test_model_offload_hooks_survive(family):
    """On the CPU itself: the hooks are the real ones. accelerate's sequential offload runs on accelerators only."""
    adapter = type(adapter_of(family))(build(family), LENGTH)
    adapter.pipe.enable_model_cpu_offload(device="cpu")

    def hooks() -> dict[str, type]:
        parts = adapter.pipe.components.items()
        return {name: type(part._hf_hook) for name, part in parts if hasattr(part, "_hf_hook")}

    before = hooks()
    assert before
    images = run(family, model=Model(adapter), upsampler="pixel").images
    assert hooks() == before
    assert same(images, run(family, upsampler="pixel").images)
