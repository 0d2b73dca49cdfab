"""The page's controls: their components, and what a visitor set in them as a GenerationRequest."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace

import gradio as gr

from lssgen.engine import Engine
from lssgen.families.known import KNOWN
from lssgen.families.table import Settings
from lssgen.request import (
    BASELINES,
    MAX_PROMPT,
    MAX_SEED,
    GenerationRequest,
    check_real,
    check_whole,
)
from lssgen.spacefile import AppConfig, Bounds
from lssgen.ui.ideas import GENERAL

NAMES = (
    "prompt",
    "negative_prompt",
    "sigma",
    "start",
    "auto",
    "split",
    "seed",
    "random",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "baseline",
    "upsampler",
    "coupled",
    "model",
)
UPSAMPLER_LABELS = {
    "learned": "Learned, in latent space",
    "bicubic": "Bicubic latents",
    "nearest": "Nearest latents",
    "pixel": "Pixels: decode, bicubic, encode",
}
BASELINE_LABELS = {"native": "Native: full size throughout", "pixel": "Staged, scaled in pixel space"}


def request_from(values: dict[str, object], config: AppConfig, its: Settings) -> GenerationRequest:
    """The request the controls ask for.

    Args:
        values: raw values by name, as the browser or an API client sent them: nothing about them is trusted.
        config: the bounds.
        its: the model's settings; the controls of what it does not take are not read.

    Raises:
        ValueError: naming the control, what it was, and what would work.
    """
    whole = {n: _whole(n, values[n], getattr(config, n)) for n in ("width", "height", "start", "steps")}
    real = {n: _real(n, values[n], getattr(config, n)) for n in ("sigma", "split")}
    guided = its.guidance_scale is not None
    flags = {n: _flag(n, values[n]) for n in ("auto", "coupled")}
    return GenerationRequest(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"] if its.takes_negative else "",
        height=whole["height"],
        width=whole["width"],
        start=whole["start"],
        steps=whole["steps"],
        sigma=real["sigma"],
        schedule="paper" if flags["auto"] else "split",
        split=None if flags["auto"] else real["split"],
        seeds=(_whole("seed", values["seed"], Bounds(0, 0, MAX_SEED)),),
        guidance_scale=_real("guidance_scale", values["guidance_scale"], config.guidance_scale) if guided else None,
        upsampler=values["upsampler"],
        noise="coupled" if flags["coupled"] else "fresh",
        baseline=values["baseline"],
    )


def model_from(values: dict[str, object], config: AppConfig, own: str) -> str:
    """The model asked for: the page's own, or a path where paths are allowed. Raises ValueError."""
    name = values["model"]
    if not isinstance(name, str) or not name.strip() or len(name) > 1000:
        raise ValueError("model is empty or no text; use 'embedded', a diffusers folder or a hub id")
    name = name.strip()
    if name != own and not config.allow_paths:
        raise ValueError("this page runs its own model only")
    return name


def default_request(config: AppConfig) -> GenerationRequest:
    """What the page asks for before anything is touched."""
    return GenerationRequest(
        prompt=config.prompt,
        height=config.height.default,
        width=config.width.default,
        start=config.start.default,
        steps=config.steps.default,
        sigma=config.sigma.default,
        seeds=(config.seed,),
        upsampler=config.upsampler,
        noise=config.noise,
        baseline=config.baseline,
    )


def fitting(config: AppConfig, engine: Engine | None, *, named: bool) -> AppConfig:
    """The page's defaults for its own model.

    Args:
        config: the Spacefile's.
        engine: the model's; None if it cannot be read.
        named: the model is another than the Spacefile's, so its steps and prompts are not meant for it either: the
            model's own steps and, unless it has captions of its own, prompts for any model take their place.
    """
    if engine is None:
        return config
    if config.upsampler == "learned" and not engine.has_upsampler:
        config = replace(config, upsampler="pixel")
    if not named:
        return config
    if not engine.vocabulary:
        config = replace(config, prompt=GENERAL[0], examples=GENERAL[1 : 1 + len(config.examples)])
    return replace(config, steps=steps_for(config, engine))


def steps_for(config: AppConfig, engine: Engine) -> Bounds:
    """The bounds of the steps with the model's own number as their default, as far as they let it."""
    its = min(max(engine.settings.steps, config.steps.min), config.steps.max)
    return replace(config.steps, default=int(its))


def new_seed() -> int:
    """A seed short enough to be read out."""
    return secrets.randbelow(1_000_000)


def _whole(name: str, value: object, bounds: Bounds) -> int:
    if value is None or value == "":
        raise ValueError(f"{name} is empty; enter a whole number from {bounds.min:g} to {bounds.max:g}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    check_whole(name, value, int(bounds.min), int(bounds.max))
    return value


def _real(name: str, value: object, bounds: Bounds) -> float:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{name} is empty; enter a number from {bounds.min:g} to {bounds.max:g}")
    check_real(name, value, bounds.min, bounds.max)
    return float(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {str(value)[:60]!r}; it must be true or false")
    return value


def prompt_box(config: AppConfig) -> gr.Textbox:
    return gr.Textbox(
        config.prompt,
        label="Prompt",
        info="What to draw. The same prompt and seed go to both arms.",
        lines=2,
        max_lines=6,
        max_length=MAX_PROMPT,
        elem_id="prompt",
        submit_btn=False,
    )


def knobs(config: AppConfig) -> dict[str, gr.components.Component]:
    """The three controls LSSGen is about."""
    return {
        "sigma": _slider(config.sigma, 0.01, "sigma_init", "Noise level at which each larger stage starts. Lower: "
                         "faster, closer to the small picture.", "sigma"),
        "start": _slider(config.start, 32, "Start resolution", "Short side of the first stage, in pixels.", "start"),
        "auto": gr.Checkbox(True, label="Step split: auto (paper rule)", info="Steps of each stage follow from its "
                            "area. Off: choose the share yourself.", elem_id="auto"),
        "split": gr.Slider(
            config.split.min, config.split.max, config.split.default, step=0.05, visible=False, elem_id="split",
            label="Share of steps below full size", info="Of the fixed budget of steps, spent before the last stage.",
            buttons=[],
        ),
    }  # fmt: skip


def seed_row(config: AppConfig) -> dict[str, gr.components.Component]:
    """The seed, shown as used, and whether each run draws a new one."""
    return {
        "seed": gr.Number(config.seed, label="Seed", precision=0, min_width=110, elem_id="seed"),
        "random": gr.Checkbox(False, label="New seed each run", min_width=110, elem_id="random"),
    }


def advanced(config: AppConfig, engine: Engine | None, own: str) -> dict[str, gr.components.Component]:
    """Everything that has a good default; `engine`: of the page's own model, None if it cannot be read."""
    its = engine.settings if engine else None
    guidance = its.guidance_scale if its else None
    shown = config.guidance_scale.default if guidance is None else guidance
    with gr.Row():
        width = gr.Number(config.width.default, label="Width", precision=0, min_width=90, elem_id="width")
        height = gr.Number(config.height.default, label="Height", precision=0, min_width=90, elem_id="height")
    return {
        "negative_prompt": gr.Textbox(
            "", label="Negative prompt", info="What not to draw.", visible=bool(its and its.takes_negative),
            max_length=MAX_PROMPT, elem_id="negative",
        ),
        "width": width,
        "height": height,
        "steps": _slider(config.steps, 1, "Steps", "num_inference_steps of the full-size run.", "steps"),
        "guidance_scale": gr.Slider(
            config.guidance_scale.min, config.guidance_scale.max, shown, step=0.1,
            label="Guidance scale", info="How strictly the picture follows the prompt.", visible=guidance is not None,
            elem_id="guidance", buttons=[],
        ),
        "baseline": gr.Radio([(BASELINE_LABELS[b], b) for b in BASELINES], value=config.baseline, label="Baseline",
                             info="What LSSGen is compared with.", elem_id="baseline"),
        "upsampler": gr.Dropdown(upsampler_choices(engine is None or engine.has_upsampler), value=config.upsampler,
                                 label="Upsampler between stages", elem_id="upsampler"),
        "coupled": gr.Checkbox(config.noise == "coupled", label="Coupled noise", elem_id="coupled",
                               info="Derive every stage's noise from the baseline's, so that both pictures share their "
                                    "composition. Off: independent noise."),
        "model": gr.Dropdown(model_choices(own, engine.dtype if engine else "bfloat16"), value=own, label="Model",
                             elem_id="model",
                             info="Or type the path of a diffusers folder on this machine, or any hub id; weights are "
                                  "fetched by the first run.",
                             visible=config.allow_paths, allow_custom_value=True),
    }  # fmt: skip


def upsampler_choices(learned: bool) -> list[tuple[str, str]]:
    """(label, value) of the upsamplers there are for a model."""
    return [(label, value) for value, label in UPSAMPLER_LABELS.items() if learned or value != "learned"]


def model_choices(own: str, dtype: str) -> list[tuple[str, str]]:
    """(label, value): the page's own model, the embedded one, and those of the hub that are known to fit in `dtype`."""
    known = [
        (f"{row.repo} · {row.memory_gb(dtype):.0f} GB{' · gated' if row.gated else ''}", row.repo)
        for row in KNOWN.values()
    ]
    return [(name, name) for name in dict.fromkeys((own, "embedded"))] + [c for c in known if c[1] != own]


def _slider(bounds: Bounds, step: float, label: str, info: str, elem_id: str) -> gr.Slider:
    return gr.Slider(
        bounds.min, bounds.max, bounds.default, step=step, label=label, info=info, elem_id=elem_id, buttons=[]
    )
