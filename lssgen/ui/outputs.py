"""From a ViewState to what each component of the page gets, by component name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lssgen.scoring import TopiqStatus, pyiqa_available
from lssgen.ui.render import TITLES, arm_html, file_address, stages_html, status_html
from lssgen.ui.report import scores_html, timings_html
from lssgen.ui.session import Shelf
from lssgen.ui.view import DONE, FAILED, IDLE, STOPPED, ArmView, ViewState

Outputs = dict[str, Any]


class Changes:
    """Keeps back what the page has already, so that a step sends a few kilobytes and not the whole page."""

    def __init__(self) -> None:
        self._sent: Outputs = {}

    def of(self, outputs: Outputs) -> Outputs:
        fresh = {name: value for name, value in outputs.items() if name not in self._sent or self._sent[name] != value}
        self._sent.update(fresh)
        return fresh


def buttons(busy: bool) -> Outputs:
    """Run and Stop: exactly one of them can be pressed."""
    return {"run": gr.update(interactive=not busy), "stop": gr.update(interactive=busy)}


def section(html: str) -> dict[str, Any]:
    """A part of the page that is there only when it has something to say."""
    return gr.update(value=html, visible=bool(html))


def view_outputs(state: ViewState, shelf: Shelf, topiq: TopiqStatus) -> Outputs:
    """Everything the run's state decides. Writes the pictures that are shown for the first time."""
    address = lambda image, name: file_address(shelf.show(image, name))  # noqa: E731
    over = state.phase in (DONE, STOPPED, FAILED)
    download = lambda image, name: file_address(_keep(state, shelf, image, name)) if over else ""  # noqa: E731
    outputs = {
        "status": status_html(state),
        "stages": section(stages_html(state, address, download)),
        "timings": section(timings_html(state)),
        **score_outputs(state, topiq),
        **buttons(busy=not over and state.phase != IDLE),
    }
    shown: dict[str, Path | None] = {}
    for name, arm in state.arms.items():
        outputs[f"arm_{name}"] = arm_html(name, state, address)
        shown[name] = shelf.show(arm.result.images[0], name) if arm.result else None
        outputs[f"image_{name}"] = _picture(name, state, shown[name])
        outputs[f"save_{name}"] = _save(name, arm, state, shelf, over)
    both = all(shown.values())
    pair = (str(shown["lssgen"]), str(shown["baseline"])) if both else None
    outputs["slider"] = gr.update(value=pair)
    outputs["compare"] = gr.update(visible=both)
    return outputs


def score_outputs(state: ViewState, topiq: TopiqStatus) -> Outputs:
    """The scores and, where TOPIQ's weights are missing but could be used, the offer to fetch them."""
    html = scores_html(state, topiq)
    offer = bool(html) and not topiq.available and pyiqa_available()
    return {"scores": section(html), "offer": gr.update(visible=offer)}


def _picture(name: str, state: ViewState, path: Path | None) -> dict[str, Any]:
    if path is None:
        return gr.update(value=None, visible=False)
    return gr.update(value=str(path), visible=True, alt_text=f"{TITLES[name]}: {state.request.prompt[:200]}")


def _save(name: str, arm: ArmView, state: ViewState, shelf: Shelf, over: bool) -> dict[str, Any]:
    if not over or arm.result is None:
        return gr.update(visible=False)
    return gr.update(value=str(_keep(state, shelf, arm.result.images[0], name)), visible=True)


def _keep(state: ViewState, shelf: Shelf, image: Any, name: str) -> Path:
    arm, _, stage = name.partition("-stage")
    facts = {**state.facts, "arm": arm} | ({"stage": int(stage)} if stage else {})
    return shelf.keep(image, f"lssgen-seed{state.request.seeds[0]}-{name}", state.request, **facts)
