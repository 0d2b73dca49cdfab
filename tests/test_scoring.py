"""Scores: real pyiqa metrics, no network (only localhost), no published weights."""

import io
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lssgen import scoring
from lssgen.hub import HubUnreachable
from lssgen.scoring import TOPIQ_ENV, TOPIQ_FILE, fetch_topiq, find_topiq_weights, score, topiq_status
from tests.hub import Served, hub_of

needs_pyiqa = pytest.mark.skipif(not scoring.pyiqa_available(), reason="pyiqa is not installed")


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch, tmp_path):
    """No weights in any cache, nothing cached between tests, the hub switched on, only localhost to connect to."""
    from huggingface_hub import constants

    for name in (TOPIQ_ENV, "HF_HUB_OFFLINE", "HF_ENDPOINT", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    scoring._built.pop("topiq", None)
    connect = socket.socket.connect

    def local_only(self, address):
        assert address[0] in ("127.0.0.1", "::1", "localhost"), f"a test reached for {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


def texture(size: tuple[int, int] = (256, 256), seed: int = 0) -> Image.Image:
    """A clean picture with a natural spectrum, amplitude 1 / f^1.5."""
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal((height, width)))
    picture = np.fft.irfft2(noise / frequency**1.5, s=(height, width))
    picture = 128 + 45 * (picture - picture.mean()) / picture.std()
    return Image.fromarray(picture.clip(0, 255).astype("uint8")).convert("RGB")


def piqe(image: Image.Image) -> scoring.Score:
    return score(image, ["piqe"])["piqe"]


def reason(image: Image.Image | None = None) -> str:
    """Why TOPIQ has no value; that it has none, and PIQE's number is not in its place, is checked here."""
    result = score(image or texture(), ["topiq"])
    assert list(result) == ["topiq"]
    assert result["topiq"].value is None
    assert result["topiq"].reason
    return result["topiq"].reason


def test_import_is_cheap():
    code = "import sys, lssgen.scoring; print([m for m in ('torch', 'pyiqa', 'huggingface_hub') if m in sys.modules])"
    root = Path(scoring.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@needs_pyiqa
def test_piqe_is_lower_for_the_clean_picture():
    clean = texture()
    buffer = io.BytesIO()
    clean.save(buffer, "JPEG", quality=5)
    noisy = np.array(clean) + np.random.default_rng(1).normal(0, 25, (256, 256, 3))
    best = piqe(clean)
    assert best.reason is None
    assert best.seconds > 0
    assert scoring.METRICS["piqe"].lower_better
    assert 0 <= best.value < 20
    assert piqe(Image.open(buffer)).value > best.value + 30  # blocks
    assert piqe(Image.fromarray(noisy.clip(0, 255).astype("uint8"))).value > best.value + 30


@needs_pyiqa
def test_piqe_takes_any_size_from_64():
    for size in ((64, 64), (65, 97), (200, 71)):
        assert np.isfinite(piqe(texture(size)).value), size
    assert "64" in piqe(texture((63, 200))).reason
    assert piqe(texture().convert("RGBA")).value == piqe(texture()).value


@needs_pyiqa
def test_too_large_is_refused_with_the_number_that_works():
    assert "2048" in reason(Image.new("RGB", (4096, 4096)))


@needs_pyiqa
@pytest.mark.parametrize("grey", [0, 128])
def test_piqe_of_a_flat_picture_has_no_value(grey):
    """pyiqa gives 100.0 for any picture without texture, the worst score there is, and NaN for a black one."""
    result = piqe(Image.new("RGB", (128, 128), (grey, grey, grey)))
    assert result.value is None
    assert "texture" in result.reason


@needs_pyiqa
def test_topiq_without_weights_names_the_file_and_keeps_piqe():
    both = score(texture())
    assert both["topiq"].value is None
    assert TOPIQ_FILE in both["topiq"].reason
    assert TOPIQ_ENV in both["topiq"].reason
    assert both["piqe"].value is not None
    assert topiq_status() == scoring.TopiqStatus(False, both["topiq"].reason, None)


def test_unknown_metric_is_a_value_error():
    with pytest.raises(ValueError, match="piqe"):
        score(texture(), ["niqe"])


@needs_pyiqa
def test_topiq_with_a_state_dict_in_pyiqas_format(monkeypatch, tmp_path):
    """Random weights: our loading gives what pyiqa's own network gives, and leaves the random generator alone."""
    import pyiqa
    import torch

    net = pyiqa.create_metric("topiq_nr", device="cpu", backbone_pretrain=False, pretrained=False).net.eval()
    path = tmp_path / "random.pth"
    torch.save({"params": {f"module.{key}": value for key, value in net.state_dict().items()}}, path)
    monkeypatch.setenv(TOPIQ_ENV, str(path))
    assert topiq_status() == scoring.TopiqStatus(True, "", path)
    image = texture((96, 64))
    with torch.no_grad():
        expected = net(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255).item()
    before = torch.get_rng_state()
    result = score(image, ["topiq"])["topiq"]
    assert torch.equal(before, torch.get_rng_state())
    assert result.reason is None
    assert result.value == pytest.approx(expected, abs=1e-5)
    built = scoring._built["topiq"][1]
    assert scoring._measure_for(scoring.METRICS["topiq"]) is built  # made once

    path.unlink()  # a network that is still in memory does not outlive its file
    assert TOPIQ_ENV in reason(image)


class Payload:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@needs_pyiqa
def test_pickled_code_is_refused(monkeypatch, tmp_path):
    import torch

    path, trace = tmp_path / "code.pth", tmp_path / "ran"
    torch.save({"params": Payload(str(trace))}, path)
    monkeypatch.setenv(TOPIQ_ENV, str(path))
    assert str(path) in reason()
    assert "plain weights" in reason()
    assert not trace.exists()


@needs_pyiqa
@pytest.mark.parametrize("content", ["garbage", "empty", "no params", "other network"])
def test_wrong_file_gives_a_reason_that_names_it(monkeypatch, tmp_path, content):
    import torch

    path = tmp_path / "wrong.pth"
    if content in ("garbage", "empty"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" if content == "garbage" else b"")
    else:
        torch.save({"weight": torch.ones(1)} if content == "no params" else {"params": {"weight": torch.ones(1)}}, path)
    monkeypatch.setenv(TOPIQ_ENV, str(path))
    assert str(path) in reason()
    assert "\n" not in reason()


@needs_pyiqa
def test_environment_variable_that_names_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv(TOPIQ_ENV, str(tmp_path))
    assert TOPIQ_ENV in reason()
    assert str(tmp_path) in reason()
    with pytest.raises(HubUnreachable, match=TOPIQ_ENV):
        fetch_topiq()


@needs_pyiqa
def test_pyiqas_own_cache_is_searched(monkeypatch, tmp_path):
    """The folder is worked out without importing torch or pyiqa, so it is held against theirs."""
    import torch

    file = Path(torch.hub.get_dir()) / "pyiqa" / TOPIQ_FILE
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_topiq_weights() == file
    monkeypatch.delenv("TORCH_HOME")
    for cache in (None, str(tmp_path / "xdg")):
        if cache:
            monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert scoring._pyiqa_cache() == Path(torch.hub.get_dir()) / "pyiqa"


def test_without_pyiqa(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert not scoring.pyiqa_available()
    assert all(result.value is None and "pip install pyiqa" in result.reason for result in score(texture()).values())
    assert not topiq_status().available
    assert "pip install pyiqa" in topiq_status().reason


@needs_pyiqa
def test_pyiqa_that_cannot_be_imported(monkeypatch):
    """A torchvision of another build raises RuntimeError, not ImportError; a missing one is as good here."""
    monkeypatch.setitem(sys.modules, "pyiqa.archs.piqe_arch", None)
    monkeypatch.delitem(scoring._built, "piqe", raising=False)
    assert "cannot be imported" in piqe(texture()).reason


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_fetch_from_a_closed_port(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    start = time.perf_counter()
    with pytest.raises(HubUnreachable, match=TOPIQ_FILE):
        fetch_topiq(timeout=2.0)
    assert time.perf_counter() - start < 3.0


def test_fetch_from_a_hub_that_never_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.perf_counter()
        with pytest.raises(HubUnreachable, match=r"within 0\.5 s|Timeout"):
            fetch_topiq(timeout=0.5)
        assert time.perf_counter() - start < 1.5


def test_fetch_heeds_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        fetch_topiq()


BODY = bytes(range(256)) * 400


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has the one file."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / TOPIQ_FILE).write_bytes(BODY)
    with hub_of(Served()) as served:
        served.repos[scoring.TOPIQ_REPO] = folder
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def test_fetch_downloads_into_the_hub_cache_and_reports(hub):
    seen: list[tuple[float, str]] = []
    path = fetch_topiq(lambda share, text: seen.append((share, text)))
    assert path.name == TOPIQ_FILE
    assert path.read_bytes() == BODY
    assert find_topiq_weights() == path
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert seen[-1][1].endswith("MB")


def test_fetch_of_a_file_that_is_gone(hub, monkeypatch):
    monkeypatch.setattr(scoring, "TOPIQ_FILE", "gone.pth")
    with pytest.raises(HubUnreachable, match="404"):
        fetch_topiq()


@pytest.mark.parametrize(
    ("home", "cache", "shown"),
    [
        ("/home/me", "/home/me/.cache", "~/.cache/torch/hub/pyiqa"),
        ("/", "/.cache", "~/.cache/torch/hub/pyiqa"),
        ("/home/me", "/home/meadow", "/home/meadow/torch/hub/pyiqa"),
    ],
)
def test_the_way_by_hand_names_a_folder_that_exists_for_its_reader(monkeypatch, home, cache, shown):
    """Its own home as ~; once any path that began with the same letters was cut there."""
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert f"put it in {shown}," in scoring._by_hand()
