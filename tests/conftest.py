"""Tiny real pipelines: the real diffusers and transformers classes with random weights, made once a session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lssgen.engine import Engine
from lssgen.families import folders
from lssgen.families.base import Model
from lssgen.families.load import load
from lssgen.families.placement import placement
from lssgen.previews import LatentPreview
from lssgen.schedule import ScheduleSource
from lssgen.upsampler import LatentUpsampler

DATA = Path(__file__).parent / "data"
WORDS = ["<pad>", "<eos>", "<unk>", "a", "red", "green", "apple", "tree", "3d", "glossy"]


def tiny_flux(guidance_embeds: bool = False) -> FluxPipeline:
    """A FluxPipeline of an f4 VAE with 4 channels, so that sizes are multiples of 8 px; random weights, seed 0."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance_embeds,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
        mid_block_add_attention=False,
        scaling_factor=1.5,
        shift_factor=0.1,
    )
    clip = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    t5 = T5Config(
        vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4, pad_token_id=0, eos_token_id=1
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        shift=3.0,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=16,
        max_image_seq_len=256,
    )
    return FluxPipeline(
        scheduler=scheduler,
        vae=vae.eval(),
        text_encoder=CLIPTextModel(clip).eval(),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer_2=tiny_tokenizer(),
        transformer=transformer.eval(),
    )


def tiny_tokenizer(length: int = 16) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=length
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the engine loads it, with an upsampler, a preview map and settings of its own."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_flux().save_pretrained(folder)
    torch.manual_seed(1)
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2, vae="tiny").save_pretrained(folder / "upsampler")
    latents = [torch.randn(4, 8, 8) for _ in range(2)]
    images = [tiny_image(32, seed) for seed in (0, 1)]
    preview = LatentPreview.fit(latents, images)
    own = {"name": "tiny", "max_sequence_length": 16, "base_side": 128, "latent_rgb": preview.matrix}
    (folder / "lssgen.json").write_text(json.dumps(own))
    return folder


def tiny_image(side: int, seed: int = 0):
    """A random RGB picture of `side` x `side` pixels."""
    from PIL import Image

    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> Model:
    return load(str(tiny_folder), placement("cpu"))


@pytest.fixture(scope="session")
def tiny_source(tiny_folder: Path) -> ScheduleSource:
    return folders.source(str(tiny_folder))


@pytest.fixture(scope="session")
def tiny_engine(tiny_folder: Path) -> Engine:
    return Engine(str(tiny_folder), "cpu")
