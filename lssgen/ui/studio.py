"""The page's handlers: thin functions from raw control values and a Session to outputs by component name."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from lssgen.engine import Engine
from lssgen.events import Scored, Stepped
from lssgen.families.table import ModelError
from lssgen.hub import HubUnreachable, Progress
from lssgen.request import GenerationRequest
from lssgen.sampler import Stopped
from lssgen.scoring import fetch_topiq, topiq_status
from lssgen.spacefile import AppConfig
from lssgen.ui.controls import NAMES, model_from, new_seed, request_from, steps_for, upsampler_choices
from lssgen.ui.ideas import idea
from lssgen.ui.models import Models
from lssgen.ui.outputs import Changes, Outputs, buttons, score_outputs, section, view_outputs
from lssgen.ui.render import changed_html, error_html, plan_html, status_html
from lssgen.ui.report import fetch_html
from lssgen.ui.scorer import Scorer
from lssgen.ui.session import Session
from lssgen.ui.view import FAILED, LOADING, STOPPED, WAITING, ViewState, advance, begin, finish

log = logging.getLogger(__name__)
MIN_GAP = 0.1  # seconds between two step updates of the page
POLL = 0.1  # seconds between looks at something another thread does
METRICS_IN_ORDER = ("piqe", "topiq")  # the quick one first


def telling(work: Callable[[Progress], object], stop: threading.Event | None = None) -> Iterator[str]:
    """What `work(progress)` says while it runs in a thread, twice a second at most; what it raises is raised here.

    When `stop` is set this ends at once, whatever the thread is waiting for; the thread ends with its next progress.
    """
    said: queue.Queue[str | BaseException | None] = queue.Queue()

    def target() -> None:
        try:
            work(lambda share, text: said.put(text))
            said.put(None)
        except BaseException as error:
            said.put(error)

    threading.Thread(target=target, name="lssgen-fetch", daemon=True).start()
    last = 0.0
    while stop is None or not stop.is_set():
        try:
            item = said.get(timeout=POLL)
        except queue.Empty:
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            yield item


class Studio:
    """What the page does.

    Args:
        models: where engines come from.
        config: defaults and bounds.
    """

    def __init__(self, models: Models, config: AppConfig) -> None:
        self.models, self.config, self.scorer = models, config, Scorer()

    def replan(self, session: Session, *raw: Any) -> Outputs:
        """The plan of the controls as they are, or what is wrong with them; and whether the run shown is another."""
        session.wanted = None
        try:
            engine, request, model = self._read(dict(zip(NAMES, raw, strict=True)))
            session.wanted = (request, model)
            html = plan_html(engine.plan(request), request)
        except ModelError as error:
            html = error_html(str(error), "The model cannot be used.")
        except ValueError as error:
            html = error_html(str(error))
        except Exception as error:
            log.exception("no plan could be made")
            html = error_html(f"{type(error).__name__}: {error}", "The plan cannot be made.")
        return {"plan": html, **self._changed(session)}

    def switch_model(self, session: Session, *raw: Any) -> Outputs:
        """After another model was named: the plan, the steps and guidance it wants, the upsamplers it has."""
        values = dict(zip(NAMES, raw, strict=True))
        outputs: Outputs = {}
        try:
            model = model_from(values, self.config, self.models.default)
            if model != (session.model or self.models.default):
                engine = self.models.get(model)
                its = engine.settings
                own = values["guidance_scale"] = its.guidance_scale
                outputs["negative_prompt"] = gr.update(visible=its.takes_negative)
                outputs["guidance_scale"] = gr.update(visible=own is not None, value=own)
                outputs["steps"] = values["steps"] = steps_for(self.config, engine).default
                if values["upsampler"] == "learned" and not engine.has_upsampler:
                    values["upsampler"] = "pixel"
                choices = upsampler_choices(engine.has_upsampler)
                outputs["upsampler"] = gr.update(choices=choices, value=values["upsampler"])
                session.model = model
        except ValueError:
            pass  # replan says what is wrong
        return outputs | self.replan(session, *(values[name] for name in NAMES))

    def surprise(self, session: Session, *raw: Any) -> Outputs:
        """A prompt the model that is named can draw; also read out, as the eye sees it change and the ear does not."""
        values, vocabulary = dict(zip(NAMES, raw, strict=True)), None
        with suppress(ValueError):  # of a model that cannot be used; the plan says so
            vocabulary = self.models.get(model_from(values, self.config, self.models.default)).vocabulary
        prompt = idea(vocabulary, values["prompt"])
        return {"prompt": prompt, "idea": f'<p role="status">Prompt: {escape(prompt)}</p>'}

    def claim(self, session: Session) -> Outputs:
        """The click on Run, at once and outside the queue."""
        if session.claimed:
            raise gr.Error("A run is already going on here; stop it first.", print_exception=False)
        session.claim()
        return {"status": status_html(ViewState(WAITING, "for a turn on the model …")), **buttons(busy=True)}

    def run(self, session: Session, *raw: Any) -> Iterator[Outputs]:
        """A comparison, as it goes on. A request that cannot run leaves the former result where it is."""
        if session.started:
            raise gr.Error("A run is already going on here; stop it first.", print_exception=False)
        if not session.claimed:  # an API client comes here directly
            session.claim()
        session.started, former = True, session.view
        try:
            with self.scorer.hold():
                yield from self._run(session, dict(zip(NAMES, raw, strict=True)))
        except Exception as error:
            begun = session.view is not former
            if isinstance(error, ValueError) and not begun:
                yield self._not_run(str(error))
            else:
                log.exception("a run broke off")
                yield from self._broke_off(session, f"it broke off ({type(error).__name__}: {error})", begun)
        finally:
            session.stop.set()
            session.release()

    def stop(self, session: Session) -> Outputs:
        """Ask the run to stop; it does within one denoiser step and shows so itself.

        Stop stays enabled: if the run's last word never reached the page, pressing it again frees the page.
        """
        if not session.claimed:
            return {"status": status_html(session.view), **buttons(busy=False)}
        session.stop.set()
        message = "for this step to end …" if session.started else "to leave the queue …"
        return {"status": status_html(ViewState(WAITING, message))}

    def settle(self, session: Session) -> Outputs:
        """After a run that the queue refused or whose connection broke: it must not leave the buttons behind."""
        if session.started:
            return {}
        state = session.view
        if session.claimed:
            state = ViewState(FAILED, "too many visitors are waiting; try again in a moment")
        session.release()
        return {"status": status_html(state), **buttons(busy=False)}

    def score(self, session: Session) -> Iterator[Outputs]:
        """Scores of the finished pictures, one metric at a time, whenever no run needs the machine."""
        shelf = session.shelf
        current = lambda: session.shelf is shelf and not session.started  # noqa: E731
        if session.started or not any(arm.result for arm in session.view.arms.values()):
            return
        session.view = replace(session.view, scoring=True)
        yield score_outputs(session.view, topiq_status())
        for metric in METRICS_IN_ORDER:
            for name in session.view.arms:
                arm, score = session.view.arms[name], None
                known = arm.scores.get(metric)
                if arm.result is None or (known is not None and known.value is not None):
                    continue
                while score is None:  # once more, if a run began meanwhile
                    while self.scorer.held and current():
                        time.sleep(POLL)
                    if not current():
                        return
                    score = self.scorer.score(arm.result.images[0], metric)
                if not current():
                    return
                session.view = advance(session.view, Scored(name, ({metric: score},)))
                yield score_outputs(session.view, topiq_status())
        session.view = replace(session.view, scoring=False)
        yield score_outputs(session.view, topiq_status())

    def fetch(self) -> Iterator[Outputs]:
        """Download TOPIQ's weights in a thread and tell how it goes."""
        yield {"fetch_note": fetch_html("Asking the Hugging Face hub …"), "fetch": gr.update(interactive=False)}
        html = fetch_html("TOPIQ is here; the pictures are scored now.")
        try:
            for text in telling(fetch_topiq):
                yield {"fetch_note": fetch_html(f"Downloading: {text}")}
        except HubUnreachable as error:
            html = fetch_html(str(error), bad=True)
        except Exception as error:
            log.exception("fetching TOPIQ failed")
            html = fetch_html(f"The download failed ({type(error).__name__}).", bad=True)
        yield {"fetch_note": html, "fetch": gr.update(interactive=True)}

    def _read(self, values: dict[str, Any]) -> tuple[Engine, GenerationRequest, str]:
        model = model_from(values, self.config, self.models.default)
        engine = self.models.get(model)
        request = request_from(values, self.config, engine.settings)
        return engine, request, model

    def _run(self, session: Session, values: dict[str, Any]) -> Iterator[Outputs]:
        if values["random"] is True:
            values["seed"] = new_seed()
            yield {"seed": values["seed"]}
        engine, request, model = self._read(values)
        plan = engine.plan(request)
        if values["random"] is True or session.wanted is None:  # the seed is new to the controls; an API has none
            session.wanted = (request, model)
        yield {"status": status_html(ViewState(LOADING, "the model …")), **buttons(busy=True)}
        while not (self.models.warm.wait(POLL) or session.stop.is_set()):
            pass
        yield from self._fetched(session, engine)
        if session.stop.is_set():
            yield {"status": status_html(ViewState(STOPPED, "before the run began.")), **buttons(busy=False)}
            return
        self.models.alone(engine)
        changes, last, topiq = Changes(), 0.0, topiq_status()
        state = None
        events = engine.compare(request, session.stop)
        try:
            for event in events:
                if state is None:  # the model is there: from here on the former result makes room
                    state = begin(request, plan, engine.facts(request))
                    session.new_shelf()
                    session.view = state
                    yield self._changed(session)
                session.view = state = advance(state, event)
                if not isinstance(event, Stepped) or time.monotonic() - last >= MIN_GAP:
                    last = time.monotonic()
                    yield changes.of(view_outputs(state, session.shelf, topiq))
        finally:
            events.close()
            if state is not None:
                session.view = finish(session.view)
        if state is None:
            yield {"status": status_html(ViewState(STOPPED, "before the run began.")), **buttons(busy=False)}
            return
        yield changes.of(view_outputs(session.view, session.shelf, topiq))

    def _fetched(self, session: Session, engine: Engine) -> Iterator[Outputs]:
        """Download the model if it is on the hub and not here yet; Stop breaks that off."""

        def work(progress: Progress) -> None:
            def tell(share: float, text: str) -> None:
                if session.stop.is_set():
                    raise Stopped
                progress(share, text)

            engine.fetch(tell)

        with suppress(Stopped):
            for text in telling(work, session.stop):
                yield {"status": status_html(ViewState(LOADING, f"the model: {text} …"))}

    def _broke_off(self, session: Session, message: str, begun: bool) -> Iterator[Outputs]:
        yield self._not_run(message)  # first of all: what follows may fail as well, as on a full disk
        if begun:
            session.view = replace(session.view, phase=FAILED, message=f"{message}; what was made is kept")
            with suppress(Exception):
                yield view_outputs(session.view, session.shelf, topiq_status())

    def _changed(self, session: Session) -> Outputs:
        """The mark of a run that is no longer what the controls ask for."""
        shown = session.view
        changed = shown.request is not None and session.wanted != (shown.request, shown.facts["model"])
        return {"changed": section(changed_html(changed))}

    def _not_run(self, message: str) -> Outputs:
        return {"status": status_html(ViewState(FAILED, message)), **buttons(busy=False)}
