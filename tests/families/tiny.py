"""Tiny random pipelines of the real classes, one for each family: f4 or f8 autoencoders, a layer or two, ten words.

python -m tests.families.tiny FAMILY FOLDER saves one, to try the command line or the benchmarks on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from lssgen.families.schedulers import make_scheduler
from lssgen.families.table import FAMILIES
from tests.conftest import WORDS, tiny_flux, tiny_tokenizer

LENGTH = 16  # max_sequence_length
SCALED_LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def tiny_vae(channels: int = 4, levels: int = 3, **more) -> AutoencoderKL:
    """An f(2^(levels - 1)) autoencoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4, 8, 8, 8)[:levels],
        latent_channels=channels,
        norm_num_groups=2,
        layers_per_block=1,
        mid_block_add_attention=False,
        scaling_factor=1.5,
        **more,
    ).eval()


def tiny_clip(projected: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    """CLIP's text encoder, 32 wide; its end token is not 2, which old checkpoints treat otherwise."""
    config = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=32, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def tiny_t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4, pad_token_id=0, eos_token_id=1
    )
    return T5EncoderModel(config).eval()


def tiny_unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **{"cross_attention_dim": 32, "attention_head_dim": (2, 4), **more},
    ).eval()


def sd15() -> StableDiffusionPipeline:
    """With the PNDM scheduler of the published model."""
    return StableDiffusionPipeline(
        vae=tiny_vae(), text_encoder=tiny_clip(), tokenizer=tiny_tokenizer(77), unet=tiny_unet(),
        scheduler=PNDMScheduler(**SCALED_LINEAR, skip_prk_steps=True), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> StableDiffusionXLPipeline:
    unet = tiny_unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, cross_attention_dim=64,
        projection_class_embeddings_input_dim=80, transformer_layers_per_block=(1, 2), use_linear_projection=True,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=tiny_vae(), text_encoder=tiny_clip(), text_encoder_2=tiny_clip(projected=True),
        tokenizer=tiny_tokenizer(77), tokenizer_2=tiny_tokenizer(77), unet=unet,
        scheduler=EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading"),
    )  # fmt: skip


def sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
        pos_embed_max_size=64,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(shift_factor=0.1), text_encoder=tiny_clip(projected=True), tokenizer=tiny_tokenizer(77),
        text_encoder_2=tiny_clip(projected=True), tokenizer_2=tiny_tokenizer(77), text_encoder_3=tiny_t5(),
        tokenizer_3=tiny_tokenizer(77),
    )  # fmt: skip


TINY_LM = {
    "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 1, "max_position_embeddings": 512,
}  # fmt: skip


def chat_tokenizer():
    """A tokenizer whose chat template keeps the words of each message."""
    tokenizer = tiny_tokenizer(512)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }} {% else %}"
        "{% for c in m['content'] %}{{ c['text'] }} {% endfor %}{% endif %}{% endfor %}"
    )
    return tokenizer


def cogview4() -> CogView4Pipeline:
    transformer = CogView4Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4, text_embed_dim=32,
        time_embed_dim=8, condition_dim=4, pos_embed_max_size=64, sample_size=32, rope_axes_dim=(64, 64),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.25, max_shift=0.75
    )
    return CogView4Pipeline(
        tiny_tokenizer(512), GlmModel(GlmConfig(**TINY_LM)).eval(), tiny_vae(), transformer.eval(), scheduler
    )


def z_image() -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[4, 6, 6], axes_lens=[512, 64, 64],
    )  # fmt: skip
    for parameter in transformer.parameters():  # padding tokens are made empty
        torch.nn.init.normal_(parameter, std=0.1)
    text = Qwen3Model(Qwen3Config(**TINY_LM)).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return ZImagePipeline(scheduler, tiny_vae(shift_factor=0.1), text, chat_tokenizer(), transformer.eval())


def qwen_image() -> QwenImagePipeline:
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.8, 1.0, 2.0],
    )  # fmt: skip
    rope = {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(text_config={**TINY_LM, "rope_scaling": rope}, vision_config=vision)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=0.02, base_shift=0.5, max_shift=0.9, base_image_seq_len=16,
        max_image_seq_len=512,
    )  # fmt: skip
    text = Qwen2_5_VLForConditionalGeneration(config).eval()
    return QwenImagePipeline(scheduler, vae.eval(), text, tiny_tokenizer(512), transformer.eval())


def lumina2() -> Lumina2Pipeline:
    transformer = Lumina2Transformer2DModel(
        sample_size=32, in_channels=4, hidden_size=32, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 6, 6), axes_lens=(128, 64, 64), cap_feat_dim=32,
    )  # fmt: skip
    text = Gemma2Model(Gemma2Config(**TINY_LM)).eval()
    vae = tiny_vae(levels=4, shift_factor=0.1)  # the pipeline takes f8 for granted
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    return Lumina2Pipeline(transformer.eval(), scheduler, vae, text, tiny_tokenizer(512))


def sana() -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=4, attention_head_dim=8,
        num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32, caption_channels=32,
        sample_size=32,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8), encoder_layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()), decoder_qkv_multiscales=((), (), ()), upsample_block_type="interpolate",
        downsample_block_type="stride_conv", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.5,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    text = Gemma2Model(Gemma2Config(**TINY_LM)).eval()
    return SanaPipeline(tiny_tokenizer(512), text, vae.eval(), transformer.eval(), scheduler)


def _flux2_parts(layers: int, guidance_embeds: bool) -> tuple:
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=96, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2,
    )  # fmt: skip
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.5, 2.0)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return scheduler, vae.eval(), {**TINY_LM, "num_hidden_layers": layers}, transformer.eval()


def flux2() -> Flux2Pipeline:
    scheduler, vae, language, transformer = _flux2_parts(30, guidance_embeds=True)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "model_type": "pixtral", "image_size": 32, "patch_size": 8}  # fmt: skip
    config = Mistral3Config(text_config={**language, "model_type": "mistral"}, vision_config=vision)
    text = Mistral3ForConditionalGeneration(config).eval()
    return Flux2Pipeline(scheduler, vae, text, chat_tokenizer(), transformer)


def flux2_klein() -> Flux2KleinPipeline:
    scheduler, vae, language, transformer = _flux2_parts(27, guidance_embeds=False)
    text = Qwen3ForCausalLM(Qwen3Config(**language)).eval()
    return Flux2KleinPipeline(scheduler, vae, text, chat_tokenizer(), transformer)


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "flux": tiny_flux,
    "sd3": sd3,
    "sdxl": sdxl,
    "sd15": sd15,
    "cogview4": cogview4,
    "z-image": z_image,
    "qwen-image": qwen_image,
    "lumina2": lumina2,
    "sana": sana,
    "flux2": flux2,
    "flux2-klein": flux2_klein,
}


def build(family: str) -> DiffusionPipeline:
    """The family's tiny pipeline, weights of seed 0."""
    torch.manual_seed(0)
    pipe = BUILDERS[family]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(family: str, folder: Path) -> None:
    """The pipeline as a model folder, with the length of prompts its encoders can take.

    Its VAE is f8, as published ones are (at 512 px an f4 one has four times the latents, and attention takes minutes),
    and FLUX is shifted for so many tokens.
    """
    pipe = build(family)
    if type(pipe.vae) is AutoencoderKL:
        pipe.register_modules(vae=tiny_vae(levels=4, shift_factor=pipe.vae.config.shift_factor))
    if family == "flux":
        pipe.register_modules(scheduler=make_scheduler(FAMILIES[family].scheduler))
    pipe.save_pretrained(folder)
    (folder / "lssgen.json").write_text(json.dumps({"max_sequence_length": LENGTH, "base_side": 128}))


if __name__ == "__main__":
    save(sys.argv[1], Path(sys.argv[2]))
