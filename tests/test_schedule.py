"""Plans: the recorded schedules, the step rules, the sizes, and the refusals."""

from __future__ import annotations

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest

from lssgen.families.table import family
from lssgen.process import Process
from lssgen.request import GenerationRequest
from lssgen.schedule import log_snr, paper_steps, plan, share_start, split_steps, tail_start
from lssgen.sizes import free_sizes, paper_sizes
from tests.conftest import DATA

RECORDED = json.loads((DATA / "schedules.json").read_text())
FLUX = family("flux").source


def make(**fields) -> GenerationRequest:
    return GenerationRequest(prompt="a cat", **fields)


def test_all_recordings_are_here():
    counts = Counter(case["family"] for case in RECORDED)
    assert counts == {"flux": 8, "sd3": 8, "sdxl": 8}


@pytest.mark.parametrize(
    "case", RECORDED, ids=lambda c: f"{c['family']}-{c['height']}x{c['width']}-{c['start']}-{c['steps']}"
)
def test_paper_mode_reproduces_the_recorded_schedules(case):
    fields = {key: case[key] for key in ("height", "width", "start", "steps", "sigma", "shorten")}
    stages = plan(make(**fields), family(case["family"]).source).stages
    assert [s.num_steps for s in stages] == [s["num_steps"] for s in case["stages"]]
    for ours, theirs in zip(stages, case["stages"], strict=True):
        assert ours.sigmas == pytest.approx(theirs["sigmas"], abs=1e-4)
        assert ours.timesteps == pytest.approx(theirs["timesteps"], abs=0.1)  # 1e-4 of 1,000


@pytest.mark.parametrize(
    ("size", "start", "sizes"),
    [
        ((1024, 1024), 512, [(512, 512), (1024, 1024)]),
        ((1024, 768), 256, [(512, 384), (1024, 768)]),
        ((1024, 1024), 384, [(512, 512), (1024, 1024)]),
        ((1024, 1024), 1024, [(1024, 1024)]),
        ((1024, 1024), 128, [(128, 128), (256, 256), (512, 512), (1024, 1024)]),
    ],
)
def test_paper_sizes_halve_the_target(size, start, sizes):
    assert paper_sizes(*size, start, 16) == sizes


@pytest.mark.parametrize(
    ("size", "start", "sizes"),
    [
        ((1024, 1024), 384, [(384, 384), (768, 768), (1024, 1024)]),
        ((1024, 1024), 512, [(512, 512), (1024, 1024)]),
        ((1024, 1024), 640, [(640, 640), (1024, 1024)]),
        ((1024, 768), 384, [(512, 384), (1024, 768)]),
        ((768, 1024), 576, [(576, 768), (768, 1024)]),
        ((1024, 1024), 1024, [(1024, 1024)]),
    ],
)
def test_free_sizes_start_exactly_where_asked(size, start, sizes):
    assert free_sizes(*size, start, 16) == sizes


def test_free_start_refusals_name_the_nearest_start_that_works():
    with pytest.raises(ValueError, match="nearest start that works is 384"):
        free_sizes(1024, 1024, 385, 16)
    with pytest.raises(ValueError, match="nearest start that works is 336"):  # 320 would make the other side 426.7
        free_sizes(1024, 768, 328, 16)
    assert free_sizes(1024, 768, 336, 16)[0] == (448, 336)


def test_every_start_a_refusal_names_is_one_that_works():
    """Once 100 was answered by 96, and 96 by four upsamplings."""
    for start in range(1, 1025):
        try:
            free_sizes(1024, 1024, start, 16)
        except ValueError as error:
            free_sizes(1024, 1024, int(str(error).split()[-1]), 16)


@pytest.mark.parametrize("rule", [paper_sizes, free_sizes])
def test_start_above_target_and_too_many_upsamplings(rule):
    with pytest.raises(ValueError, match="at most 1024"):
        rule(1024, 1024, 2048, 16)
    with pytest.raises(ValueError, match="smallest start here is 128"):
        rule(1024, 1024, 64, 16)
    assert len(rule(1024, 1024, 128, 16)) == 4


def test_target_refusals_name_the_multiples():
    with pytest.raises(ValueError, match="height is 1000; flux needs a multiple of 16: use 992 or 1008"):
        plan(make(height=1000), FLUX)
    with pytest.raises(ValueError, match="width is 8; flux needs a multiple of 16: use 16"):
        plan(make(width=8, start=8), FLUX)
    with pytest.raises(ValueError, match="needs a multiple of 64: use 960 or 1024"):
        plan(make(height=976, start=244), FLUX)


def test_paper_step_rule():
    assert [paper_steps(50, side, side, 1024) for side in (256, 512, 1024, 2048)] == [12, 25, 50, 50]
    with pytest.raises(ValueError, match="use at least 4"):
        paper_steps(3, 256, 256, 1024)


def test_below_base_the_native_arm_runs_the_last_stages_own_steps_and_says_so():
    shortened = plan(make(height=512, width=512, start=256), FLUX)
    assert [s.num_steps for s in shortened.baseline] == [10]
    assert any("10 steps, not 20" in note for note in shortened.notes)
    assert [s.num_steps for s in plan(make(height=512, width=512, start=512), FLUX).baseline] == [20]


def test_split_shares_the_budget():
    assert split_steps(20, 0.5, 2) == [10, 10]
    assert split_steps(20, 0.6, 3) == [6, 6, 8]
    assert split_steps(21, 0.6, 3) == [7, 6, 8]
    assert split_steps(20, 0.99, 2) == [19, 1]
    with pytest.raises(ValueError, match=r"use at least 0\.08"):
        split_steps(20, 0.01, 3)
    assert split_steps(20, 0.08, 3) == [1, 1, 18]
    with pytest.raises(ValueError, match="use at least 3"):
        split_steps(2, 0.5, 3)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.85])
@pytest.mark.parametrize("sigma", [0.3, 0.75, 1.0])
def test_split_mode_keeps_the_budget_and_takes_the_smallest_schedule(share, sigma):
    made = plan(make(start=384, steps=20, schedule="split", split=share, sigma=sigma), FLUX)
    assert sum(s.num_steps for s in made.stages) == 20
    assert [s.num_steps for s in made.baseline] == [20]
    for stage in made.stages[1:]:
        stock, _ = FLUX.schedule(stage.height, stage.width, stage.schedule_steps)
        assert stage.sigmas == stock[-len(stage.sigmas) :]
        by_hand = next(
            n
            for n in range(1, 200)
            if (s := FLUX.schedule(stage.height, stage.width, n)[0])
            and len([x for x in s[:-1] if x <= min((y for y in s[:-1] if y >= sigma), default=1.0)]) == stage.num_steps
        )
        assert stage.schedule_steps == by_hand


def test_later_stages_start_at_the_smallest_scheduled_sigma_not_below_sigma_init():
    assert tail_start((1.0, 0.8, 0.75, 0.5, 0.0), 0.75) == 2
    assert tail_start((1.0, 0.8, 0.75, 0.5, 0.0), 0.01) == 3
    assert tail_start((1.0, 0.8, 0.75, 0.5, 0.0), 1.0) == 0
    assert tail_start((0.999, 0.8, 0.0), 1.0) == 0
    assert tail_start((14.6, 3.0, 1.0, 0.0), 0.75, Process.EDM) == 1


def test_for_diffusion_the_paper_rule_keeps_a_share_of_the_steps():
    assert share_start(28, 0.75) == 7
    with pytest.raises(ValueError, match=r"use at least 0\.10"):
        share_start(10, 0.05)


def test_split_mode_takes_sigma_as_a_noise_level_for_diffusion_too():
    """Flow 0.75 is EDM 3: the last stage starts at the smallest scheduled sigma that is still at least 3."""
    last = plan(make(schedule="split", split=0.5, steps=20, sigma=0.75), family("sdxl").source).stages[-1]
    assert last.num_steps == 10
    assert last.sigmas[0] >= 3.0 > last.sigmas[1]
    assert last.sigma_start == pytest.approx(last.sigmas[0] / (1 + last.sigmas[0]))


def test_log_snr():
    assert log_snr(0.5) == 0.0
    assert log_snr(0.75) == pytest.approx(2 * math.log(1 / 3))
    assert (log_snr(1.0), log_snr(0.0)) == (-math.inf, math.inf)


def test_predicted_speedup_is_the_ratio_of_costs():
    """One step costs area: 10 quarter-size and 10 full steps against 20 full ones is 20 / 12.5."""
    source = SimpleNamespace(
        name="area",
        multiple=16,
        base_side=1024,
        process=Process.FLOW,
        longest=1000,
        schedule=lambda h, w, n: ((*[1 - i / n for i in range(n)], 0.0), tuple(float(n - i) for i in range(n))),
        step_cost=lambda h, w: h * w,
    )
    made = plan(make(start=512, steps=20, schedule="split", split=0.5, sigma=0.5), source)
    assert made.predicted_speedup == pytest.approx(20 / 12.5)
    pixel = plan(make(start=512, baseline="pixel"), source)
    assert pixel.predicted_speedup == 1.0
    assert pixel.baseline == pixel.stages
    small = plan(make(height=512, width=512, start=256, baseline="pixel"), FLUX)
    assert not any("native" in note for note in small.notes)


def test_flux_at_its_published_geometry_gains_one_and_a_half():
    assert plan(make(), FLUX).predicted_speedup == pytest.approx(1.55, abs=0.01)


def test_a_plan_prints_itself_and_serialises():
    made = plan(make(start=384), FLUX)
    text = str(made)
    assert "512 x 512: 10 of 10 steps" in text
    assert "note: the paper rule halves the target" in text
    shown = json.loads(json.dumps(made.to_dict()))
    assert shown["stages"][1]["num_steps"] == 10
    assert shown["stages"][1]["sigmas"][-1] == 0.0
    assert shown["predicted_speedup"] == made.predicted_speedup


def test_a_tiny_sigma_with_many_steps_is_refused_not_searched_for_ever():
    with pytest.raises(ValueError, match="use a larger sigma"):
        plan(make(sigma=1e-6, steps=200, schedule="split", split=0.1), FLUX)
