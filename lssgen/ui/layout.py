"""The page: components in reading order, and which handler each event calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from html import escape
from inspect import isgeneratorfunction
from typing import Any

import gradio as gr

from lssgen import __version__
from lssgen.spacefile import AppConfig
from lssgen.ui.controls import NAMES, advanced, knobs, prompt_box, seed_row
from lssgen.ui.models import Models
from lssgen.ui.render import TITLES, arm_html, status_html
from lssgen.ui.report import fetch_html
from lssgen.ui.session import Session
from lssgen.ui.studio import Studio
from lssgen.ui.view import ViewState

STAY_SECONDS = 4 * 3600  # a visitor's pictures, after his last action; an hour (Gradio's own rule) if he has left
TO_RESULTS = """() => {
  const arm = document.querySelector('#arms .ls-arm');
  if (arm.getBoundingClientRect().top + arm.offsetWidth + 90 > window.innerHeight) {
    const calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    document.querySelector('#status').scrollIntoView({behavior: calm ? 'auto' : 'smooth'});
  }
}"""
HEADER = """<header class="ls-header"><h1>LSSGen Studio</h1>
<p>Draw small first, enlarge in latent space, finish at full size: staged generation beside the same model run the usual
way, with the same prompt and seed.</p></header>"""
FOOTER = f"""<footer class="ls-footer"><span>LSSGen Studio {__version__} · Apache-2.0</span>
<span>Method: <a href="https://arxiv.org/abs/2507.16154" target="_blank" rel="noopener">arXiv 2507.16154</a></span>
<span>Model: {{model}} ({{licence}})</span>
<span>Scores: pyiqa, noncommercial use only</span></footer>"""


def build_ui(models: Models, config: AppConfig) -> gr.Blocks:
    """The whole page, ready for `queue()` and `launch()`.

    Args:
        models: where engines come from; the page also works, and says so, if the model is missing.
        config: defaults and bounds, from the Spacefile.
    """
    studio, parts = Studio(models, config), {}
    with gr.Blocks(
        title="LSSGen Studio", analytics_enabled=False, fill_width=True, delete_cache=(3600, 6 * STAY_SECONDS)
    ) as page:
        parts["session"] = gr.State(Session(), time_to_live=STAY_SECONDS, delete_callback=Session.close)
        _html(HEADER)
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=0, min_width=340, elem_id="knobs"):
                _controls(parts, models, config)
            with gr.Column(scale=1, min_width=320, elem_id="results"):
                _results(parts)
        own = models.own()
        model, licence = (own.settings.name, own.settings.licence) if own else ("not found", "see the plan")
        _html(FOOTER.format(model=escape(model), licence=escape(licence)))
        _wire(page, studio, parts)
    return page


def _controls(parts: dict[str, Any], models: Models, config: AppConfig) -> None:
    parts["prompt"] = prompt_box(config)
    with gr.Row(elem_id="ideas"):
        parts["surprise"] = gr.Button("Surprise me", size="sm", scale=0, min_width=130, elem_id="surprise")
        parts["idea"] = _html(elem_id="idea")
    if config.examples:
        gr.Examples([[e] for e in config.examples], inputs=[parts["prompt"]], label="Examples", cache_examples=False)
    with gr.Row(elem_id="actions"):
        parts["run"] = gr.Button("Run", variant="primary", scale=2, min_width=120, elem_id="run")
        parts["stop"] = gr.Button("Stop", variant="stop", scale=1, min_width=80, interactive=False, elem_id="stop")
    with gr.Group():
        parts |= knobs(config)
    with gr.Group(), gr.Row():
        parts |= seed_row(config)
    with gr.Accordion("Size, steps and comparison", open=False, elem_id="advanced"):
        parts |= advanced(config, models.own(), models.default)


def _results(parts: dict[str, Any]) -> None:
    empty = ViewState()
    parts["plan"] = _html(elem_id="plan")
    parts["status"] = _html(status_html(empty), elem_id="status")
    parts["changed"] = _html(visible=False, elem_id="changed")
    with gr.Row(elem_id="arms"):
        for name, title in TITLES.items():
            with gr.Column(min_width=280):
                parts[f"arm_{name}"] = _html(arm_html(name, empty, lambda image, file: ""), elem_id=f"arm-{name}")
                parts[f"image_{name}"] = gr.Image(
                    label=title, show_label=False, format="png", type="pil", interactive=False, visible=False,
                    buttons=["fullscreen"], alt_text=f"{title} picture", elem_id=f"image-{name}",
                )  # fmt: skip
                parts[f"save_{name}"] = gr.DownloadButton(
                    f"Save {title} picture (PNG with its settings)", visible=False, size="sm", elem_id=f"save-{name}"
                )
    with gr.Column(visible=False, elem_id="compare") as parts["compare"]:
        _html('<h2 class="ls-h2">One over the other</h2>')
        parts["slider"] = gr.ImageSlider(
            label="LSSGen left, baseline right", format="png", type="filepath", interactive=False, max_height=640,
            buttons=["fullscreen"], elem_id="slider",
        )  # fmt: skip
        parts["divider"] = gr.Slider(
            0, 100, 50, step=1, label="Divider", info="Share of LSSGen shown, in percent; works with the arrow keys.",
            buttons=[], elem_id="divider",
        )  # fmt: skip
    parts["stages"] = _html(visible=False, elem_id="stages")
    parts["timings"] = _html(visible=False, elem_id="timings")
    parts["scores"] = _html(visible=False, elem_id="scores")
    with gr.Row(visible=False, elem_id="offer") as parts["offer"]:
        parts["fetch"] = gr.Button("Get the TOPIQ weights (181 MB)", size="sm", scale=0, min_width=240, elem_id="fetch")
        parts["fetch_note"] = _html(fetch_html(), elem_id="fetch-note")


def _wire(page: gr.Blocks, studio: Studio, parts: dict[str, Any]) -> None:
    session = parts["session"]
    inputs = [session, *(parts[name] for name in NAMES)]
    outputs = list(parts.values())
    by_component = lambda handler: _by_component(handler, parts)  # noqa: E731
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    watched = [parts[name].change for name in NAMES if name not in ("model", "random")]
    plan_outputs = [session, parts["plan"], parts["changed"]]
    gr.on([page.load, *watched], by_component(studio.replan), inputs, plan_outputs, preprocess=False,
          trigger_mode="always_last", **quiet)  # fmt: skip
    own = [parts[name] for name in ("steps", "guidance_scale", "negative_prompt", "upsampler")]
    parts["model"].change(by_component(studio.switch_model), inputs, [*plan_outputs, *own], preprocess=False, **quiet)
    parts["surprise"].click(by_component(studio.surprise), inputs, [session, parts["prompt"], parts["idea"]],
                            preprocess=False, **quiet)  # fmt: skip
    parts["auto"].change(lambda auto: gr.update(visible=auto is not True), parts["auto"], parts["split"],
                         preprocess=False, **quiet)  # fmt: skip
    parts["divider"].change(lambda at: gr.update(slider_position=at), parts["divider"], parts["slider"],
                            preprocess=False, trigger_mode="always_last", **quiet)  # fmt: skip

    bar = [session, parts["status"], parts["run"], parts["stop"]]
    asked = gr.on([parts["run"].click, parts["prompt"].submit], by_component(studio.claim), session, bar, **quiet)
    gr.on([parts["run"].click, parts["prompt"].submit], None, js=TO_RESULTS, api_visibility="private")
    made = asked.success(by_component(studio.run), inputs, outputs, preprocess=False, show_progress="hidden",
                         concurrency_limit=1, concurrency_id="gpu", api_name="compare")  # fmt: skip
    made.failure(by_component(studio.settle), session, bar, **quiet)
    score_outputs = [session, parts["scores"], parts["offer"]]
    scoring = {"show_progress": "hidden", "concurrency_limit": 1, "api_visibility": "private"}
    made.success(by_component(studio.score), session, score_outputs, concurrency_id="score", **scoring)
    parts["stop"].click(by_component(studio.stop), session, bar, **quiet)
    fetched = parts["fetch"].click(by_component(studio.fetch), None, [parts["fetch"], parts["fetch_note"]],
                                   concurrency_id="fetch", **scoring)  # fmt: skip
    fetched.then(by_component(studio.score), session, score_outputs, concurrency_id="score", **scoring)


def _html(value: str = "", **options: Any) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, padding=False, **options)


def _by_component(handler: Callable, parts: dict[str, Any]) -> Callable:
    """The handler with its outputs keyed by component, as Gradio takes them, in place of names.

    The visitor's session, if the handler takes it, is among them each time: Gradio deletes only a State that some event
    has put out, and counts its time to live from there.
    """

    def named(args: tuple, outputs: dict[str, Any]) -> dict[gr.blocks.Block, Any]:
        kept = {parts["session"]: args[0]} if args else {}
        return kept | {parts[name]: value for name, value in outputs.items()}

    if isgeneratorfunction(handler):

        @wraps(handler)
        def stream(*args: Any) -> Iterator[dict]:
            steps = handler(*args)
            try:
                for outputs in steps:
                    yield named(args, outputs)
            finally:
                steps.close()

        return stream

    @wraps(handler)
    def call(*args: Any) -> dict:
        return named(args, handler(*args))

    return call
