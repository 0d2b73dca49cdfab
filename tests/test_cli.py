"""The command line: JSON shapes, files written, one-line errors with exit code 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from lssgen.__main__ import main
from lssgen.pictures import read_settings

RUN = ["--prompt", "a red apple", "--height", "128", "--width", "128", "--start", "64", "--steps", "8", "--json"]


def call(capsys, *args):
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_plan_needs_no_weights_and_prints_the_agreed_shape(capsys):
    code, out, _ = call(
        capsys, "plan", "--family", "flux", "--height", 1024, "--width", 1024, "--start", 512, "--steps", 50,
        "--sigma", 0.75, "--schedule", "paper", "--json",
    )  # fmt: skip
    plan = json.loads(out)
    assert code == 0
    assert [s["num_steps"] for s in plan["stages"]] == [25, 25]
    assert len(plan["stages"][0]["sigmas"]) == 26
    assert plan["stages"][0]["sigmas"][-1] == 0.0
    assert len(plan["stages"][0]["timesteps"]) == 25
    assert plan["predicted_speedup"] > 1


def test_no_shorten_runs_full_schedules(capsys):
    _, out, _ = call(capsys, "plan", "--family", "flux", "--steps", 50, "--no-shorten", "--json")
    assert [s["schedule_steps"] for s in json.loads(out)["stages"]] == [50, 50]


def test_compare_writes_pictures_and_prints_the_agreed_shape(capsys, tiny_folder, tmp_path):
    code, out, _ = call(capsys, "compare", "--model", tiny_folder, *RUN, "--seed", 3, "--out", tmp_path)
    result = json.loads(out)
    assert code == 0
    assert result["seed"] == 3
    assert (result["model"], result["device"], result["dtype"]) == (str(tiny_folder), "cpu", "float32")
    assert result["upsampler_from"] == f"{tiny_folder}/upsampler"
    assert result["speedup"] > 0
    assert result["speedup_total"] > 0
    assert result["predicted_speedup"] > 1
    assert result["peak_memory_mb"] > 100
    for arm, stages in (("lssgen", 2), ("baseline", 1)):
        row = result["arms"][arm]
        assert Image.open(row["image"]).size == (128, 128)
        assert read_settings(row["image"])["request"]["seeds"] == [3]
        assert read_settings(row["image"])["upsampler_from"] == result["upsampler_from"]
        assert read_settings(row["image"])["stage"] == stages
        assert row["stages"][-1]["image"] == row["image"]
        assert [set(s) for s in row["stages"]] == [{"height", "width", "num_steps", "seconds", "image"}] * stages
        assert all(Image.open(s["image"]).size == (s["width"], s["height"]) for s in row["stages"])
        assert set(row["seconds"]) == {"text", "denoise", "upsample", "decode", "total", "preview"}
        parts = row["seconds"]
        assert parts["text"] + parts["denoise"] + parts["upsample"] + parts["decode"] <= parts["total"]
        for metric in ("topiq", "piqe"):
            assert row["scores"][metric] is not None or row["scores"][f"{metric}_reason"]


def test_several_seeds_make_runs_and_a_summary(capsys, tiny_folder, tmp_path):
    _, out, _ = call(
        capsys, "compare", "--model", tiny_folder, *RUN, "--no-scores", "--seed", 1, 2, 3, "--out", tmp_path
    )
    result = json.loads(out)
    assert [run["seed"] for run in result["runs"]] == [1, 2, 3]
    assert result["summary"]["runs"] == 3
    speedups = sorted(run["speedup"] for run in result["runs"])
    assert result["summary"]["speedup"] == speedups[1]
    assert len(list(tmp_path.glob("*.png"))) == 3 * 3


def test_a_failed_arm_is_reported_beside_the_other_and_exits_1(capsys, tiny_folder, tmp_path, monkeypatch):
    from lssgen.upsampler import LatentUpsampler

    monkeypatch.setattr("lssgen.engine.Engine.warm_up", lambda self, request: None)
    monkeypatch.setattr(LatentUpsampler, "upsample", lambda *args: 1 / 0)
    code, out, err = call(
        capsys, "compare", "--model", tiny_folder, *RUN, "--no-scores", "--seed", 1, 2, "--out", tmp_path
    )
    result = json.loads(out)
    assert code == 1
    assert "seed 2: the lssgen arm failed: ZeroDivisionError" in err
    for run in result["runs"]:
        assert "ZeroDivisionError" in run["arms"]["lssgen"]["error"]
        assert run["arms"]["baseline"]["seconds"]["total"] > 0
    assert (tmp_path / "1-lssgen-stage1.png").exists()


def test_summary_without_a_run_in_which_lssgen_came_first():
    """If only the first seed failed, the median of no first pictures once ended the command and lost the JSON."""
    from lssgen.report import summary

    arm = {"seconds": {"denoise": 1.0, "total": 2.0}}
    failed = {"seed": 0, "arms": {"lssgen": {"error": "x"}, "baseline": arm}, "first_picture_seconds": 0.1}
    rates = {"speedup": 1.5, "speedup_total": 1.2, "predicted_speedup": 1.6}
    whole = {"seed": 1, "arms": {"lssgen": arm, "baseline": arm}, "first_picture_seconds": None, **rates}
    result = summary([failed, whole])
    assert result["runs"] == 1
    assert result["first_picture_seconds"] is None
    assert result["speedup"] == 1.5


def test_generate_makes_the_staged_picture_alone(capsys, tiny_folder, tmp_path):
    code, out, _ = call(capsys, "generate", "--model", tiny_folder, *RUN, "--no-scores", "--out", tmp_path)
    assert code == 0
    assert list(json.loads(out)["arms"]) == ["lssgen"]


def test_split_without_naming_the_schedule(capsys, tiny_folder, tmp_path):
    code, out, _ = call(
        capsys, "generate", "--model", tiny_folder, *RUN, "--no-scores", "--split", "0.5", "--start", 48,
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0
    stages = json.loads(out)["arms"]["lssgen"]["stages"]
    assert [(s["height"], s["num_steps"]) for s in stages] == [(48, 2), (96, 2), (128, 4)]


def test_score_names_each_metric_and_reason(capsys, tmp_path):
    from tests.conftest import tiny_image

    tiny_image(128).save(tmp_path / "a.png")
    code, out, _ = call(capsys, "score", tmp_path / "a.png", "--json")
    (scores,) = json.loads(out)["scores"].values()
    assert code == 0
    assert {"topiq", "piqe"} <= set(scores)


def test_sheet_lays_out_every_prompt(capsys, tiny_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red apple\n\na green tree\n")
    arguments = [a for a in RUN if a not in ("--prompt", "a red apple")]
    code, _, _ = call(
        capsys, "sheet", tmp_path / "prompts.txt", "--model", tiny_folder, *arguments, "--out", tmp_path / "sheet.png"
    )
    assert code == 0
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > 2 * 256
    assert height > 2 * 256


def test_a_sheet_of_the_first_prompts(capsys, tiny_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red apple\na green tree\n")
    options = ["--model", tiny_folder, *[a for a in RUN if a not in ("--prompt", "a red apple")]]
    sheet = ["sheet", tmp_path / "prompts.txt", *options, "--out", tmp_path / "sheet.png", "--first"]
    code, out, _ = call(capsys, *sheet, 1)
    assert code == 0
    assert json.loads(out)["prompts"] == ["a red apple"]
    assert "from 1 to 2" in call(capsys, *sheet, 3)[2]


def test_what_of_a_prompt_is_not_known_is_said(capsys, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "own")
    words = {
        "styles": ["3d"],
        "backgrounds": ["red"],
        "ideas": ["apple"],
        "words": ["a", "3d", "apple"],
        "keywords": [],
        "names": ["apple"],
        "people": [],
    }
    (folder / "vocabulary.json").write_text(json.dumps({**words, "synonyms": {}}))
    run = ["3d zeppelin apples" if a == "a red apple" else a for a in RUN]
    code, out, err = call(capsys, "generate", "--model", folder, *run, "--no-scores", "--out", tmp_path)
    assert code == 0
    notes = json.loads(out)["notes"]
    assert notes[0] == "the prompt is read as “3d zeppelin apple”"
    assert "does not know “zeppelin”;" in notes[1]
    assert f"note: {notes[1]}\n" in err
    (folder / "vocabulary.json").write_text("{")
    code, _, err = call(capsys, "generate", "--model", folder, *run)
    assert code == 2
    assert "vocabulary.json cannot be read" in err


def test_families(capsys):
    _, out, _ = call(capsys, "families", "--json")
    (row,) = [row for row in json.loads(out)["families"] if row["name"] == "flux"]
    assert row["multiple"] == 16


def test_bench_reports_the_share_outside_the_networks(capsys, tiny_folder):
    code, out, _ = call(
        capsys, "bench", "overhead", "--model", tiny_folder, "--height", 64, "--width", 64, "--start", 32, "--steps", 4,
        "--repeat", 1, "--json",
    )  # fmt: skip
    arms, orchestration = json.loads(out)["arms"], json.loads(out)["orchestration"]
    assert code == 0
    assert all(0 < arms[arm]["outside_share"] < 1 for arm in ("lssgen", "baseline"))
    assert set(orchestration) == {"paired", "direct"}
    for row in orchestration.values():
        for over in row["wall"], row["cpu"]:
            assert over["over"] == pytest.approx(over["staged"] / over["stock"] - 1)  # one repetition: no median
            assert over["low"] == over["over"] == over["high"]
    assert orchestration["direct"]["wall"]["over"] > 0


def test_the_interval_of_a_median_narrows_with_more_values_and_holds_it():
    from lssgen.bench import interval

    values = [k / 100 for k in range(-20, 21)]
    low, high = interval(values)
    assert -0.2 < low < 0 < high < 0.2
    wide, widest = interval(values[::8])
    assert wide < low
    assert widest > high


def test_families_lists_what_must_be_known_before_a_download(capsys):
    code, out, _ = call(capsys, "families", "--json")
    models = {m["id"]: m for m in json.loads(out)["models"]}
    assert code == 0
    dev = models["black-forest-labs/FLUX.1-dev"]
    assert (dev["family"], dev["gated"], dev["vae"], dev["weights_gb"]["bfloat16"]) == ("flux", True, "flux1", 33.8)
    _, out, _ = call(capsys, "families")
    assert "stabilityai/stable-diffusion-xl-base-1.0: CreativeML Open RAIL++-M; 7 GB in bfloat16" in out


def test_without_a_learned_upsampler_bicubic_is_taken_and_said(capsys, tiny_folder, tmp_path):
    """It was refused, though no upsampler was asked for."""
    bare = shutil.copytree(tiny_folder, tmp_path / "bare")
    shutil.rmtree(bare / "upsampler")
    options = ["generate", *RUN, "--model", bare, "--out", tmp_path, "--no-scores"]
    code, out, err = call(capsys, *options)
    assert code == 0
    assert "no learned upsampler: bicubic it is" in err
    assert err.count(f"python -m lssgen train-upsampler --vae {bare} --images DIR --out DIR") == 1
    assert f"python -m lssgen train-upsampler --vae {bare} --images DIR --out DIR" in err
    image = json.loads(out)["arms"]["lssgen"]["image"]
    settings = read_settings(image)
    assert settings["request"]["upsampler"] == "bicubic"
    assert "upsampler_from" not in settings
    code, _, err = call(capsys, *options, "--upsampler", "learned")
    assert code == 2
    assert "train-upsampler --vae" in err


def test_a_model_runs_in_another_dtype_on_a_named_device(capsys, tiny_folder, tmp_path):
    code, out, _ = call(
        capsys, "generate", *RUN, "--model", tiny_folder, "--out", tmp_path, "--no-scores", "--device", "cpu",
        "--dtype", "bfloat16", "--upsampler-from", tiny_folder / "upsampler",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["arms"]["lssgen"]["seconds"]["total"] > 0


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["plan", "--steps", "0"], "from 1 to 1000"),
        (["plan", "--steps", "10000"], "from 1 to 1000"),
        (["plan", "--steps", "many"], "--steps"),
        (["plan", "--height", "-1024"], "from 1 to 4096"),
        (["plan", "--height", "1000"], "use 992 or 1024"),
        (["plan", "--family", "flux", "--height", "1000"], "use 992 or 1008"),
        (["plan", "--start", "2048"], "use at most 1024"),
        (["plan", "--start", "64"], "the smallest start here is 128"),
        (["plan", "--sigma", "nan"], "such as 0.75"),
        (["plan", "--sigma", "1.5"], "such as 0.75"),
        (["plan", "--split", "2"], "such as 0.5"),
        (["plan", "--schedule", "paper", "--split", "0.5"], "schedule='split'"),
        (["plan", "--family", "unheard-of"], "flux"),
        (["generate", "--prompt", ""], "say what to draw"),
        (["generate", "--prompt", "x", "--seed", "-1"], "from 0"),
        (["generate", "--prompt", "x", "--model", "/nowhere"], "use 'embedded'"),
        (["generate"], "--prompt"),
        (["sheet", "/nowhere.txt", "--out", "x.png"], "one prompt a line"),
        (["score"], "name at least one PNG"),
        (["score", "/nowhere.png"], "name a PNG file"),
        (["score", __file__], "name a PNG file"),
        (["generate", "--prompt", "x", "--out", "/dev/null/x"], "name another folder"),
        (["sheet", __file__, "--out", "sheet.xyz"], "name a PNG file"),
        (["bench", "overhead", "--repeat", "0"], "from 1 to 1000"),
        (["bench", "overhead", "--device", "tpu"], "this machine has cpu"),
        (["bench", "overhead", "--dtype", "int8"], "must be auto, float32, bfloat16, float16"),
        (["bench", "overhead", "--device", "cpu", "--offload", "model"], "needs a CUDA GPU"),
        (["bench", "overhead", "--upsampler-from", "/nowhere"], "no upsampler at /nowhere"),
        (["bench", "speed"], "overhead"),
        (["nonsense"], "plan"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, hint):
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert hint in captured.err


def test_errors_are_one_line_in_a_fresh_process_too():
    """Importing the libraries behind the commands prints nothing of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "lssgen", "plan", "--start", "64"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["plan", "generate", "compare", "sheet", "score", "families", "bench overhead"])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    assert exit_.value.code == 0
    assert "--json" in capsys.readouterr().out
