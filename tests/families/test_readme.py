"""The README's adapter of another family, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from transformers import UMT5Config, UMT5EncoderModel

from lssgen.families.base import Model
from lssgen.families.source import Source
from lssgen.request import GenerationRequest
from lssgen.sampler import run_arm
from lssgen.schedule import plan
from tests.conftest import WORDS, tiny_tokenizer
from tests.families.tiny import tiny_vae

README = Path(__file__).parents[2] / "README.md"


def pipeline() -> AuraFlowPipeline:
    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=32, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, out_channels=4,
        pos_embed_max_size=1024,
    )  # fmt: skip
    text = UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    pipe = AuraFlowPipeline(tiny_tokenizer(64), text.eval(), tiny_vae(), transformer.eval(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_readmes_adapter_is_short_and_right():
    (code,) = (b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "class AuraFlow" in b)
    assert len(code.splitlines()) < 40
    names: dict = {}
    exec(code, names)
    pipe, cls = pipeline(), names["AuraFlowAdapter"]
    scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    configs = scheduler, dict(pipe.transformer.config), pipe.vae_scale_factor
    source = Source("auraflow", cls, *configs, text_tokens=16, base_side=128)
    request = GenerationRequest(
        prompt="a red apple", height=128, width=128, start=64, steps=8, guidance_scale=3.5, upsampler="bicubic"
    )
    made, model = plan(request, source), Model(cls(pipe, max_sequence_length=16))
    assert len(made.stages) == 2
    staged = run_arm(model, request, made.stages, arm="lssgen", upsampler="bicubic")
    assert staged.images[0].size == (128, 128)
    ours = run_arm(model, request, made.baseline, arm="baseline", upsampler="bicubic").images[0]
    theirs = pipe(
        "a red apple", height=128, width=128, num_inference_steps=8, guidance_scale=3.5, max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
