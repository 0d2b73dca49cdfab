"""The HTML: everything a visitor typed is escaped, and what is shown is what the plan and the run say."""

import pytest

from lssgen.events import ArmFailed
from lssgen.request import GenerationRequest
from lssgen.scoring import Score, TopiqStatus
from lssgen.ui.outputs import Changes
from lssgen.ui.render import arm_html, changed_html, error_html, plan_html, stages_html, status_html
from lssgen.ui.report import parts, scores_html, size_kinds, timings_html
from lssgen.ui.view import ViewState, advance, begin, finish

EVIL = "<img src=x onerror=alert(1)>\"'"
REQUEST = GenerationRequest(prompt=EVIL, height=128, width=128, start=64, steps=4, sigma=0.6)
HERE, MISSING = TopiqStatus(True, "", None), TopiqStatus(False, "no <weights> here", None)


@pytest.fixture(scope="module")
def done(tiny_engine):
    state = begin(REQUEST, tiny_engine.plan(REQUEST), {})
    for event in tiny_engine.compare(REQUEST):
        state = advance(state, event)
    return finish(state)


def address(image, name):
    return f"file/{name}.png"


def test_nothing_typed_reaches_the_page_unescaped(done):
    state = advance(done, ArmFailed("baseline", EVIL))
    pages = [
        error_html(EVIL),
        status_html(ViewState("failed", EVIL)),
        plan_html(done.plan, REQUEST),
        *(arm_html(name, state, address) for name in state.arms),
        stages_html(done, address, lambda image, name: f'"><script>{name}'),
        timings_html(done),
        scores_html(done, MISSING),
    ]
    for page in pages:
        assert "<img src=x" not in page
        assert "<script" not in page
        assert "<weights>" not in page


def test_the_plan_has_a_row_for_each_stage_and_a_tick_for_each_sigma(done):
    html = plan_html(done.plan, REQUEST)
    assert html.count("<tr class=") == 3
    assert html.count('class="tick"') == sum(s.num_steps for s in (*done.plan.stages, *done.plan.baseline))
    assert f"{done.plan.predicted_speedup:.2f}×" in html
    assert "log-SNR" in html
    assert "pure noise" in html


def test_a_staged_baseline_is_not_drawn_twice(tiny_engine):
    request = GenerationRequest(prompt="a", height=128, width=128, start=64, steps=4, baseline="pixel")
    assert plan_html(tiny_engine.plan(request), request).count("<tr class=") == 2


def test_the_parts_of_an_arm_add_up_to_its_total(done):
    for arm in done.arms.values():
        total = sum(part.seconds for part in parts(arm, size_kinds(done.plan)))
        assert total == pytest.approx(arm.result.seconds.total, abs=0.005)


def test_one_colour_for_one_size_in_both_arms(done):
    assert size_kinds(done.plan) == {(64, 64): "s1", (128, 128): "s2"}


def test_piqe_and_topiq_are_named_for_what_they_are(done):
    scored = {"piqe": Score(31.25, None, 0.1)}
    from lssgen.events import Scored

    html = scores_html(advance(done, Scored("lssgen", (scored,))), MISSING)
    piqe, topiq = html[html.index("PIQE") :], html[html.index("TOPIQ") : html.index("PIQE")]
    assert "31.250" in piqe
    assert "lower is better" in piqe
    assert "31.250" not in topiq
    assert "higher is better" in topiq
    assert "unavailable: no &lt;weights&gt; here" in topiq


def test_the_changed_mark_is_there_or_not_at_all():
    assert "Settings have changed" in changed_html(True)
    assert changed_html(False) == ""


def test_the_strip_shows_stages_in_proportion(done):
    html = stages_html(done, address, lambda image, name: "")
    assert "--scale:0.500" in html
    assert html.count("--scale:1.000") == 2
    assert "Save PNG" not in html


def test_only_changes_are_sent():
    changes = Changes()
    assert changes.of({"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert changes.of({"a": 1, "b": 3}) == {"b": 3}
