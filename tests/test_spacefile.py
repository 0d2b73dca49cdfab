"""The Spacefile: read, checked, and equal to the README's front matter."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from lssgen.spacefile import PATH, SpacefileError, front_matter, main, parse, read, with_front_matter

README = PATH.parent / "README.md"


@pytest.fixture
def content() -> dict:
    return yaml.safe_load(PATH.read_text(encoding="utf-8"))


def test_the_readme_carries_the_spacefile():
    """On a difference run: python -m lssgen.spacefile README.md"""
    text = README.read_text(encoding="utf-8")
    assert with_front_matter(text, read()) == text


def test_front_matter_reads_back_as_the_space_keys():
    spacefile = read()
    text = front_matter(spacefile)
    assert text.startswith("---\n")
    assert text.endswith("\n---\n")
    assert yaml.safe_load(text.strip("-\n")) == spacefile.space
    assert spacefile.space["sdk"] == "gradio"
    assert (PATH.parent / spacefile.space["app_file"]).is_file()


def test_the_body_of_a_readme_is_kept():
    spacefile = read()
    body = "# Title\n\n---\n\ntext\n"
    once = with_front_matter(body, spacefile)
    assert once == front_matter(spacefile) + body
    assert with_front_matter("---\ntitle: old\n---\n" + body, spacefile) == once
    assert with_front_matter(once, spacefile) == once
    with pytest.raises(SpacefileError, match="no second ---"):
        with_front_matter("---\ntitle: old\n", spacefile)


WRONG = [
    (("space", "sdk_version"), 6.31, "space.sdk_version is 6.31; it must be a str"),
    (("space", "colorFrom"), "teal", "space.colorFrom is 'teal'; it must be one of"),
    (("space", "short_description"), "x" * 61, "longer than 60"),
    (("space", "sdkversion"), "6", "space has unknown keys: sdkversion"),
    (("app", "stepz"), 1, "app has unknown keys: stepz"),
    (("app", "steps"), {"default": 20, "min": 4}, "app.steps lacks max"),
    (("app", "steps"), {"default": 60, "min": 4, "max": 50}, "default 60 is not within min 4..max 50"),
    (("app", "steps"), {"default": 2.5, "min": 1, "max": 5}, "app.steps.default is 2.5; it must be a whole number"),
    (("app", "sigma"), {"default": 0.5, "min": 0.2, "max": 1.5}, "app.sigma.max is 1.5; it can be at most 1"),
    (("app", "sigma"), {"default": 0.5, "min": float("nan"), "max": 1.0}, "app.sigma.min is nan"),
    (("app", "width"), {"default": 1024, "min": 1, "max": 10**400}, "above 0 and below 1e+06"),
    (("app", "width"), 1024, "app.width must be a mapping"),
    (("app", "baseline"), "best", "app.baseline is 'best'; it must be one of native, pixel"),
    (("app", "allow_paths"), "yes", "app.allow_paths is 'yes'; it must be a bool"),
    (("app", "queue"), 0, "app.queue is 0"),
    (("app", "prompt"), " ", "app.prompt must have"),
    (("app", "examples"), [1], "app.examples must be a list"),
    (("app", "seed"), -1, "app.seed is -1"),
]


@pytest.mark.parametrize(("keys", "value", "message"), WRONG)
def test_a_wrong_value_is_named(content, keys, value, message):
    broken = deepcopy(content)
    broken[keys[0]][keys[1]] = value
    with pytest.raises(SpacefileError) as caught:
        parse(broken)
    assert message in str(caught.value)


def test_a_missing_part_is_named(content):
    del content["space"]["title"]
    with pytest.raises(SpacefileError, match="space lacks title"):
        parse(content)
    with pytest.raises(SpacefileError, match="must be a mapping"):
        parse(["space"])


def test_a_missing_or_broken_file_is_told(tmp_path: Path):
    with pytest.raises(SpacefileError, match="cannot be read"):
        read(tmp_path / "Spacefile")
    for broken in (b"space: [", b"space: 2026-13-01", b"\xff"):
        (tmp_path / "Spacefile").write_bytes(broken)
        with pytest.raises(SpacefileError, match="not valid YAML"):
            read(tmp_path / "Spacefile")


def test_the_command_rewrites_a_readme(tmp_path: Path, capsys):
    readme = tmp_path / "README.md"
    assert main([str(readme)]) == 0
    assert readme.read_text(encoding="utf-8") == front_matter(read())
    assert main([]) == 0
    assert capsys.readouterr().out == front_matter(read())
