"""Write the trained parts as one FluxPipeline folder.

    python -m lssgen.training.export --work DIR --out assets/embedded [--init assets/embedded] [--untrained]

Takes the averaged weights of WORK (the upsampler's too, into OUT/upsampler), folds each latent channel's mean and
deviation into the autoencoder (scaled latents are standard: scaling_factor 1, shift_factor 0), and saves float16
safetensors, no file above 9 MB.
--init takes the parts that WORK has no checkpoint of from an exported model, so that one part can be trained on alone.
--untrained fills parts that have no checkpoint yet with random weights, to develop against.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

from lssgen.training import autoencoder, latents, text_encoders, transformer, upsampler
from lssgen.training.common import load_average, trained
from lssgen.training.tokens import tokens_of

NOISE_LOGVAR = -8.0  # constant spread of the encoder's distribution; pictures are encoded by its mode
SHARD = "9MB"
LOCAL = ("_name_or_path", "backend", "is_local", "local_files_only")  # in configs: where a part was loaded from


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1's, for a quarter of its tokens a pixel."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15, base_image_seq_len=64,
        max_image_seq_len=1024,
    )  # fmt: skip


@torch.no_grad()
def fold(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> AutoencoderKL:
    """Makes (z - mean) / std the autoencoder's own latents."""
    c = len(mean)
    q, p = vae.quant_conv, vae.post_quant_conv
    q.weight[:c] /= std.view(-1, 1, 1, 1)
    q.bias[:c] = (q.bias[:c] - mean) / std
    q.weight[c:], q.bias[c:] = 0, NOISE_LOGVAR
    p.bias += p.weight[:, :, 0, 0] @ mean
    p.weight *= std.view(1, -1, 1, 1)
    return vae


def autoencoder_of(work: Path, init: Path | None = None) -> AutoencoderKL:
    """WORK's autoencoder, folded, or an exported one, which is folded already."""
    if init is not None and not trained(work / autoencoder.CHECKPOINT):
        return AutoencoderKL.from_pretrained(init / "vae", torch_dtype=torch.float32)
    return fold(load_average(work / autoencoder.CHECKPOINT, autoencoder.build()), *latents.statistics(work))


def model_of(work: Path, init: Path | None, untrained: bool) -> transformer.Model:
    """Transformer and text encoders, averaged."""
    if trained(work / transformer.CHECKPOINT):
        model = transformer.Model(transformer.build(), text_encoders.TextEncoders())
        return load_average(work / transformer.CHECKPOINT, model)
    if init is not None:
        return transformer.start(init, work)
    if not untrained:
        raise ValueError(f"{work} has no transformer checkpoint: train one, or give --init or --untrained")
    has_text = trained(work / text_encoders.CHECKPOINT)
    return transformer.Model(
        transformer.build(), text_encoders.load(work) if has_text else text_encoders.TextEncoders()
    )


def pipeline_of(work: Path, init: Path | None = None, untrained: bool = False) -> FluxPipeline:
    """The whole pipeline in float32."""
    model = model_of(work, init, untrained)
    tokens = tokens_of(work, init)
    return FluxPipeline(
        scheduler=scheduler(), vae=autoencoder_of(work, init), text_encoder=model.text.clip, tokenizer=tokens.clip,
        text_encoder_2=model.text.t5, tokenizer_2=tokens.t5, transformer=model.transformer,
    )  # fmt: skip


def plain_configs(out: Path) -> None:
    """Names the tokenizer class that older versions of transformers know, and drops what only tells of this machine."""
    index = out / "model_index.json"
    index.write_text(index.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    for path in (*out.glob("*/config.json"), *out.glob("*/tokenizer_config.json")):
        config = {k: v for k, v in json.loads(path.read_text()).items() if k not in LOCAL}
        if path.name == "tokenizer_config.json":
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2) + "\n")


def save(pipe: FluxPipeline, work: Path, out: Path) -> None:
    """The folder, in float16; with the upsampler where there is one."""
    for part in ("transformer", "text_encoder", "text_encoder_2", "vae"):
        for old in (out / part).glob("*.safetensors*"):  # other shards than the new ones would be loaded in their place
            old.unlink()
    pipe.to(torch.float16).save_pretrained(out, max_shard_size=SHARD)
    plain_configs(out)
    if trained(work / upsampler.CHECKPOINT):
        model = load_average(work / upsampler.CHECKPOINT, upsampler.build())
        model.half().save_pretrained(out / "upsampler")
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)


def main() -> None:
    """Saves it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--init", type=Path, help="exported model to take the parts from that --work does not have")
    p.add_argument("--untrained", action="store_true")
    args = p.parse_args()
    save(pipeline_of(args.work, args.init, args.untrained), args.work, args.out)
    print(f"{args.out}: {sum(f.stat().st_size for f in args.out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
