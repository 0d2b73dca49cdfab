"""HTML of the plan, the running arms and the stages' pictures. Pure functions; every text passes `escape`."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from html import escape
from pathlib import Path

from PIL.Image import Image

from lssgen.request import GenerationRequest
from lssgen.schedule import Plan, Stage, log_snr
from lssgen.ui.view import DONE, FAILED, IDLE, LOADING, RUNNING, STOPPED, WAITING, ArmView, ViewState

TITLES = {"lssgen": "LSSGen", "baseline": "Baseline"}
BASELINE_KINDS = {"native": "full size throughout", "pixel": "staged, scaled in pixel space"}
PHASES = {
    IDLE: "Ready",
    WAITING: "Waiting",
    LOADING: "Loading",
    RUNNING: "Running",
    DONE: "Finished",
    STOPPED: "Stopped",
    FAILED: "Not run",
}
MAX_PREVIEW = 128  # pixels a side: a preview travels inside the page, at every step
Address = Callable[[Image, str], str]


def size_text(height: int, width: int) -> str:
    return f"{width} × {height}"


def count_text(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def file_address(path: Path) -> str:
    """Where the page finds a file of Gradio's temporary folder; relative, so that it works behind a proxy."""
    return f"gradio_api/file={path.as_posix()}"


def error_html(message: str, title: str = "These settings do not work.") -> str:
    """A message in place of something that cannot be shown."""
    return f'<div class="ls-note ls-bad" role="alert"><b>{escape(title)}</b> {escape(message)}</div>'


def changed_html(changed: bool) -> str:
    """The mark of a result that is no longer what the controls ask for."""
    if not changed:
        return ""
    return '<div class="ls-note ls-warn">Settings have changed since this run. Press Run to update the pictures.</div>'


def plan_html(plan: Plan, request: GenerationRequest) -> str:
    """The plan: one row for each stage with its sigmas on the noise axis and its cost, then the baseline's."""
    whole = sum(stage.cost for stage in plan.baseline)
    kinds = size_kinds(plan)
    rows = [_plan_row(f"Stage {i}", s, whole, request.sigma, kinds) for i, s in enumerate(plan.stages, 1)]
    if plan.baseline != plan.stages:
        rows += [_plan_row("Baseline", stage, whole, None, kinds) for stage in plan.baseline]
    sizes = " → ".join(f"{min(s.height, s.width)}" for s in plan.stages)
    steps = " + ".join(str(s.num_steps) for s in plan.stages)
    native = sum(s.num_steps for s in plan.baseline)
    notes = "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
    return f"""
<section class="ls-card" aria-label="Plan">
  <header class="ls-plan-head">
    <div><h2>Plan</h2><p>{sizes} px in {steps} steps, against {count_text(native, "step")} of the baseline</p></div>
    <p class="ls-figure"><b>{plan.predicted_speedup:.2f}×</b><span>predicted speed-up<br>of the denoising</span></p>
  </header>
  <table class="ls-plan">
    <thead><tr><th scope="col">Stage</th><th scope="col">Size</th><th scope="col">Steps</th>
      <th scope="col">Starts at</th>
      <th scope="col" class="ls-axis-head"><span>noise σ = 1</span><span>picture σ = 0</span></th>
      <th scope="col">Cost</th></tr></thead>
    <tbody>{"".join(rows)}</tbody>
  </table>
  {f'<ul class="ls-notes">{notes}</ul>' if notes else ""}
</section>"""


def size_kinds(plan: Plan) -> dict[tuple[int, int], str]:
    """A colour class for each picture size of a plan, deeper for larger, the same in every chart."""
    sizes = sorted({(s.height, s.width) for s in (*plan.stages, *plan.baseline)})
    return {size: f"s{i}" for i, size in enumerate(sizes, 1 if len(sizes) > 1 else 2)}


def _plan_row(name: str, stage: Stage, whole: float, sigma: float | None, kinds: dict[tuple[int, int], str]) -> str:
    share = stage.cost / whole
    snr = log_snr(stage.sigma_start)
    snr_text = "pure noise" if math.isinf(snr) else f"log-SNR {snr:+.2f}".replace(" -", " −")
    steps = f"{stage.num_steps} of {stage.schedule_steps}" if stage.is_tail else str(stage.num_steps)
    return f"""<tr class="ls-{kinds[stage.height, stage.width]}"><th scope="row">{escape(name)}</th>
      <td>{size_text(stage.height, stage.width)}</td><td data-label="steps">{steps}</td>
      <td data-label="start">σ {stage.sigma_start:.3f} <small>{snr_text}</small></td>
      <td class="ls-axis">{_axis_svg(stage, sigma)}</td>
      <td class="ls-cost" title="share of the baseline's cost"><span class="ls-bar" style="width:{share * 100:.1f}%">
      </span><span>{share * 100:.0f}%</span></td></tr>"""


def _axis_svg(stage: Stage, sigma: float | None) -> str:
    """A stage's sigmas as ticks, from 1 at the left to 0 at the right; sigma_init as a dashed line."""
    at = lambda s: f"{(1.0 - s) * 100:.2f}%"  # noqa: E731
    ticks = "".join(f'<line class="tick" x1="{at(s)}" x2="{at(s)}" y1="5" y2="15"/>' for s in stage.sigmas[:-1])
    asked = ""
    if sigma is not None and stage.is_tail:
        asked = f'<line class="asked" x1="{at(sigma)}" x2="{at(sigma)}" y1="0" y2="20"/>'
    label = f"{stage.num_steps} sigmas from {stage.sigma_start:.3f} down to 0"
    return f"""<svg height="20" width="100%" role="img" aria-label="{label}">
      <line class="rail" x1="0" x2="100%" y1="10" y2="10"/>
      <line class="path" x1="{at(stage.sigma_start)}" x2="100%" y1="10" y2="10"/>{asked}{ticks}
      <circle cx="99.2%" cy="10" r="3.5"/></svg>"""


def status_html(state: ViewState) -> str:
    """One line on what the page is doing, read out by screen readers when the phase changes."""
    text = state.message
    if not text and state.phase == IDLE:
        text = "Press Run: LSSGen draws first, then the baseline draws the same picture."
    if not text and state.phase == RUNNING:
        arm = "baseline" if state.lssgen.status in (DONE, FAILED) else "lssgen"
        text = f"{TITLES[arm]} is drawing"
    if not text and state.phase == DONE:
        text = _outcome(state)
    if not text and state.phase == STOPPED:
        text = "Everything made before the stop is kept."
    return (
        f'<div class="ls-status ls-{state.phase}" role="status" aria-live="polite"><span class="dot"></span>'
        f"<b>{PHASES[state.phase]}</b> <span>{escape(text)}</span></div>"
    )


def _outcome(state: ViewState) -> str:
    if state.total_speedup is None:
        failed = [TITLES[name] for name, arm in state.arms.items() if arm.status == FAILED]
        return f"{' and '.join(failed)} failed; what was made is kept." if failed else ""
    ours, theirs = (arm.result.seconds.total for arm in (state.lssgen, state.baseline))
    faster = f"{state.total_speedup:.2f}×"
    seed = state.request.seeds[0]
    return f"LSSGen took {ours:.1f} s, the baseline {theirs:.1f} s: {faster} overall. Seed {seed}."


def arm_html(name: str, state: ViewState, address: Address) -> str:
    """An arm's panel: title, progress, and while it runs the picture as far as it has come."""
    arm = state.arms[name]
    kind = (
        "low resolution first"
        if name == "lssgen"
        else BASELINE_KINDS[state.request.baseline if state.request else "native"]
    )
    seconds = f'<span class="ls-time">{arm.result.seconds.total:.1f} s</span>' if arm.result else ""
    return f"""<div class="ls-arm ls-arm-{name}">
  <div class="ls-arm-head"><h3>{TITLES[name]}<small>{kind}</small></h3>{seconds}</div>
  <div class="ls-progress" role="progressbar" aria-label="{TITLES[name]} progress" aria-valuemin="0" aria-valuemax="100"
    aria-valuenow="{arm.fraction * 100:.0f}"><span style="width:{arm.fraction * 100:.1f}%"></span></div>
  <p class="ls-arm-line">{escape(_arm_line(arm, state.phase))}</p>{_canvas(name, state, address)}
</div>"""


def _arm_line(arm: ArmView, phase: str) -> str:
    where = ""
    if arm.planned and arm.index < len(arm.planned):
        stage = arm.planned[arm.index]
        where = (
            f"stage {arm.index + 1}/{len(arm.planned)} · {size_text(stage.height, stage.width)} · "
            f"step {arm.step}/{stage.num_steps}"
        )
    if arm.status == RUNNING:
        return where if arm.step < arm.planned[arm.index].num_steps else f"{where} · decoding"
    if arm.status == DONE:
        return f"{count_text(len(arm.stages), 'stage')} · {sum(s.num_steps for s in arm.stages)} steps · done"
    if arm.status == STOPPED:
        return f"stopped at {where}" if arm.step or arm.stages else "stopped before it began"
    if arm.status == FAILED:
        return "failed"
    return "waits for its turn" if phase == RUNNING else "not run yet"


def _canvas(name: str, state: ViewState, address: Address) -> str:
    arm = state.arms[name]
    message = f'<div class="ls-note ls-bad" role="alert">{escape(arm.message)}</div>' if arm.status == FAILED else ""
    ratio = f"{state.request.width} / {state.request.height}" if state.request else "1 / 1"
    if arm.status == DONE:  # the finished picture has a component of its own; only hold its place while it loads
        return f"<style>#image-{name} {{ aspect-ratio: {ratio} }}</style>"
    empty = "" if state.request else f"{TITLES[name]} picture"
    inside, note = f'<span class="ls-empty">{empty}</span>', ""
    if arm.decoded is None and arm.preview is not None and (arm.step or not arm.stages):
        alt = f"estimate after step {arm.step}"
        inside = f'<img class="ls-pixels" src="{_data_url(arm.preview)}" alt="{alt}">'
        note = f"estimate, latent {size_text(arm.preview.height, arm.preview.width)}"
    elif arm.stages:
        last = arm.decoded or arm.stages[-1]
        source = escape(address(last.images[0], picture_name(name, arm, last.index)))
        inside = f'<img src="{source}" alt="stage {last.index + 1}">'
        note = f"decoded at {size_text(last.height, last.width)}"
    under = ""  # a decode is fetched as a file: until it is there, the last estimate stays
    if arm.decoded is not None and arm.preview is not None:
        under = f";background-image:url({_data_url(arm.preview)})"
    return f"""{message}<div class="ls-canvas" style="aspect-ratio:{ratio}{under}">{inside}
      {f'<span class="ls-tag">{note}</span>' if note else ""}</div>"""


def picture_name(name: str, arm: ArmView, index: int) -> str:
    """The file name, without its ending, of the picture after stage `index`; the last stage's is the arm's own."""
    return name if index == len(arm.planned) - 1 else f"{name}-stage{index + 1}"


def stages_html(state: ViewState, address: Address, download: Address) -> str:
    """Every stage's exact decode so far, drawn in proportion to its size."""
    strips = [_strip(name, arm, state, address, download) for name, arm in state.arms.items() if arm.stages]
    if not strips:
        return ""
    return f"""<section class="ls-card" aria-label="Stages"><h2>How they came to be</h2>
      <p class="ls-lead">The exact decode at the end of each stage, drawn in proportion to its resolution.</p>
      <div class="ls-strips">{"".join(strips)}</div></section>"""


def _strip(name: str, arm: ArmView, state: ViewState, address: Address, download: Address) -> str:
    cards = []
    for stage in arm.stages:
        if cards:
            cards.append(f'<span class="ls-hop" aria-hidden="true">{_hop_text(name, arm, stage.index, state)}</span>')
        file = picture_name(name, arm, stage.index)
        scale = min(stage.height, stage.width) / min(state.request.height, state.request.width)
        caption = (
            f"{size_text(stage.height, stage.width)} · {count_text(stage.num_steps, 'step')} · {stage.seconds:.2f} s"
        )
        link = download(stage.images[0], file)
        save = f'<a href="{escape(link)}" download="{escape(Path(link).name)}">Save PNG</a>' if link else ""
        cards.append(
            f'<figure style="--scale:{scale:.3f}"><img src="{escape(address(stage.images[0], file))}" '
            f'alt="{TITLES[name]}, stage {stage.index + 1} of {len(arm.planned)}">'
            f"<figcaption>{caption} {save}</figcaption></figure>"
        )
    title = f'<h3 class="ls-strip-head">{TITLES[name]}</h3>'
    return f'<div>{title}<div class="ls-strip">{"".join(cards)}</div></div>'


def _hop_text(name: str, arm: ArmView, index: int, state: ViewState) -> str:
    how = state.request.upsampler if name == "lssgen" else "pixel"
    words = {"learned": "learned upsampling", "pixel": "pixel upsampling"}.get(how, f"{how} latents")
    return f"{words}<br>noise to σ {arm.planned[index].sigma_start:.2f}<b>→</b>"


def _data_url(image: Image) -> str:
    image = image.copy()
    image.thumbnail((MAX_PREVIEW, MAX_PREVIEW))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
