"""HTML of what a run measured: the timings of both arms and the scores of both pictures."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from lssgen.scoring import FETCH_NOTE, METRICS, TopiqStatus
from lssgen.ui.render import TITLES, size_kinds, size_text
from lssgen.ui.view import ArmView, ViewState

METRIC_TITLES = {"topiq": "TOPIQ", "piqe": "PIQE"}


@dataclass(frozen=True)
class Part:
    """One piece of an arm's time; `kind` chooses its colour."""

    name: str
    kind: str
    seconds: float


def parts(arm: ArmView, kinds: dict[tuple[int, int], str]) -> list[Part]:
    """Where an arm's time went, in order; only the stages when it did not finish."""
    stages = [
        Part(f"stage {s.index + 1}, {size_text(s.height, s.width)}", kinds[s.height, s.width], s.seconds)
        for s in arm.stages
    ]
    if arm.result is None:
        return stages
    seconds = arm.result.seconds
    named = seconds.text + sum(s.seconds for s in stages) + seconds.upsample + seconds.decode
    return [
        Part("text", "text", seconds.text),
        *stages,
        Part("upsampling", "up", seconds.upsample),
        Part("decode", "decode", seconds.decode),
        Part("other", "other", max(0.0, seconds.total - named)),
    ]


def timings_html(state: ViewState) -> str:
    """Stacked bars of both arms on one scale, a table of the same numbers, and the speed-ups."""
    if not any(arm.stages for arm in state.arms.values()):
        return ""
    kinds = size_kinds(state.plan)
    made = {name: parts(arm, kinds) for name, arm in state.arms.items() if arm.stages}
    longest = max(sum(p.seconds for p in arm) for arm in made.values()) or 1.0
    bars = "".join(_bar(name, made[name], longest) for name in made)
    legend = "".join(f'<span class="ls-key ls-{kind}">{text}</span>' for kind, text in _legend(kinds))
    rows = "".join(_time_row(name, part) for name, arm in made.items() for part in arm)
    return f"""<section class="ls-card" aria-label="Timings"><h2>Where the time went</h2>
  {_speedups(state)}
  <div class="ls-bars">{bars}</div><p class="ls-legend">{legend}</p>
  <details><summary>All numbers</summary><table class="ls-table"><thead><tr><th scope="col">Arm</th><th scope="col">Part
    </th><th scope="col">Seconds</th></tr></thead><tbody>{rows}</tbody></table></details>
  <p class="ls-fine">Wall-clock seconds, the device synchronised at each border. Previews, the decodes of lower stages
    and scores are not counted.</p></section>"""


def _speedups(state: ViewState) -> str:
    if state.plan is None or state.speedup is None:
        return '<p class="ls-lead">Speed-ups are shown when both arms have finished.</p>'
    figures = (
        (state.plan.predicted_speedup, "predicted", "denoising"),
        (state.speedup, "measured", "denoising"),
        (state.total_speedup, "measured", "whole run"),
    )
    shown = "".join(f"<p class='ls-figure'><b>{v:.2f}×</b><span>{how}<br>{what}</span></p>" for v, how, what in figures)
    return f'<div class="ls-figures">{shown}</div>'


def _bar(name: str, arm: list[Part], longest: float) -> str:
    total = sum(part.seconds for part in arm)
    pieces = "".join(
        f'<span class="ls-{p.kind}" style="width:{p.seconds / longest * 100:.2f}%" title="{p.name}: {p.seconds:.2f} s">'
        f"{_number(p.seconds, p.seconds / longest)}</span>"
        for p in arm
        if p.seconds > 0
    )
    label = f"{TITLES[name]}: " + ", ".join(f"{p.name} {p.seconds:.2f} s" for p in arm)
    return f"""<div class="ls-bar-row"><span class="ls-bar-name">{TITLES[name]}</span>
      <div class="ls-stack" role="img" aria-label="{label}">{pieces}</div><b>{total:.2f} s</b></div>"""


def _number(seconds: float, share: float) -> str:
    """The seconds inside a piece of a bar, if it is wide enough; narrow ones are left out on phones."""
    if share < 0.07:
        return ""
    return f"{seconds:.2f}" if share > 0.25 else f"<small>{seconds:.2f}</small>"


def _legend(kinds: dict[tuple[int, int], str]) -> list[tuple[str, str]]:
    return [
        ("text", "text"),
        *((kind, f"denoising at {size_text(*size)}") for size, kind in kinds.items()),
        ("up", "upsampling"),
        ("decode", "decode"),
        ("other", "other"),
    ]


def _time_row(name: str, part: Part) -> str:
    return f"<tr><td>{TITLES[name]}</td><td>{part.name}</td><td>{part.seconds:.3f}</td></tr>"


def scores_html(state: ViewState, topiq: TopiqStatus) -> str:
    """A table of the metrics for both arms, and for a missing one the reason."""
    if not any(arm.result for arm in state.arms.values()):
        return ""
    rows = "".join(_score_row(name, state, topiq) for name in METRIC_TITLES)
    heads = "".join(f'<th scope="col">{TITLES[name]}</th>' for name in state.arms)
    return f"""<section class="ls-card" aria-label="Scores"><h2>Scores</h2>
  <p class="ls-lead">Of the finished pictures, without a reference. Computed after the run, outside its timings.</p>
  <table class="ls-table ls-scores"><thead><tr><th scope="col">Metric</th>{heads}</tr></thead>
    <tbody>{rows}</tbody></table>
</section>"""


def _score_row(metric: str, state: ViewState, topiq: TopiqStatus) -> str:
    its = METRICS[metric]
    better = "lower is better" if its.lower_better else "higher is better"
    about = escape(f"{its.source}. {its.licence}")
    head = f'<th scope="row" title="{about}">{METRIC_TITLES[metric]}<small>{better}</small></th>'
    missing = metric == "topiq" and not topiq.available
    if missing and not any(
        metric in arm.scores and arm.scores[metric].value is not None for arm in state.arms.values()
    ):
        return f'<tr>{head}<td colspan="2" class="ls-why">unavailable: {escape(topiq.reason)}</td></tr>'
    return f"<tr>{head}{''.join(_score_cell(metric, arm, state.scoring) for arm in state.arms.values())}</tr>"


def _score_cell(metric: str, arm: ArmView, scoring: bool) -> str:
    score = arm.scores.get(metric)
    if score is None:
        return f"<td>{'scoring …' if scoring and arm.result else '–'}</td>"
    if score.value is None:
        return f'<td class="ls-why">{escape(score.reason or "no value")}</td>'
    return f'<td title="computed in {score.seconds:.1f} s"><b>{score.value:.3f}</b></td>'


def fetch_html(message: str = "", *, bad: bool = False) -> str:
    """What the TOPIQ button would do, or how that went."""
    if not message:
        return f'<p class="ls-fine">{escape(FETCH_NOTE)}</p>'
    return f'<div class="ls-note {"ls-bad" if bad else "ls-warn"}" role="status">{escape(message)}</div>'
