"""Device, dtype and offloading: what is refused, and what is chosen for the memory there is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lssgen.bench import _network_time
from lssgen.families import placement as module
from lssgen.families.load import load
from lssgen.families.placement import (
    Placement,
    less_memory,
    out_of_memory,
    parameters_of,
    placement,
    put,
    settled,
)
from lssgen.families.table import ModelError

GB = 10**9
PARAMETERS = {"transformer": 12 * GB, "text_encoder_2": 5 * GB, "vae": GB // 10}


def test_the_best_of_this_machine_is_the_default():
    place = placement("cpu")
    assert (place.device.type, place.dtype, place.offload) == ("cpu", torch.float32, "none")
    assert place.variants == ()
    assert placement("cpu", "bfloat16").variants == ("bf16", "fp16")
    assert placement("cpu", "float16").variants == ("fp16", "bf16")
    assert placement("auto", "auto", "auto").device.type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu'; this machine has cpu"),
        ({"device": "cuda:99"}, "device is 'cuda:99'"),
        ({"device": ""}, "device is ''"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be auto, float32, bfloat16, float16"),
        ({"offload": "all"}, "offload is 'all'; it must be one of auto, none, model, sequential"),
        ({"device": "cpu", "offload": "model"}, "offloading needs a CUDA GPU: leave it out"),
    ],
)
def test_what_is_not_here_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        placement(**asked)


@pytest.fixture
def memory(monkeypatch):
    """Sets the free memory in GB of this machine and of its GPU."""

    def set_to(ram: float, gpu: float = 0.0) -> None:
        monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=ram * GB))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu * GB, gpu * GB))

    return set_to


@pytest.mark.parametrize(("gpu", "offload"), [(80, "none"), (40, "model"), (16, "sequential")])
def test_offloading_is_chosen_for_the_gpu(memory, gpu, offload):
    """34 GB of weights in bfloat16, 24 of them in the largest network."""
    memory(ram=64, gpu=gpu)
    place = settled(Placement(torch.device("cuda"), torch.bfloat16), PARAMETERS, "FLUX")
    assert place == Placement(torch.device("cuda"), torch.bfloat16, offload)


def test_what_was_asked_is_kept_or_refused_with_what_would_fit(memory):
    memory(ram=64, gpu=25)
    for offload in ("model", "sequential"):  # 24 GB at once: tight, but asked for
        asked = Placement(torch.device("cuda"), torch.bfloat16, offload)
        assert settled(asked, PARAMETERS, "FLUX") is asked
    words = r"FLUX needs 34\.2 GB of GPU memory .* bfloat16; 25\.0 GB are free: use --offload model"
    with pytest.raises(ModelError, match=words):
        settled(Placement(torch.device("cuda"), torch.bfloat16, "none"), PARAMETERS, "FLUX")
    memory(ram=8, gpu=80)
    with pytest.raises(ModelError, match=r"34\.2 GB of memory .* 8\.0 GB are free: else take a smaller model"):
        settled(Placement(torch.device("cuda"), torch.bfloat16), PARAMETERS, "FLUX")


def test_a_cpu_with_too_little_memory_is_told_before_loading(memory):
    memory(ram=40)
    assert settled(Placement(torch.device("cpu"), torch.bfloat16), PARAMETERS, "FLUX").offload == "none"
    with pytest.raises(ModelError, match="--dtype bfloat16 halves that"):
        settled(Placement(torch.device("cpu"), torch.float32), PARAMETERS, "FLUX")


def test_parameters_are_read_off_the_files(tiny_folder):
    counted = parameters_of(tiny_folder, ())
    pipe = load(str(tiny_folder), placement("cpu")).adapter.pipe
    for name, count in counted.items():
        assert count == sum(p.numel() for p in getattr(pipe, name).parameters()), name
    assert set(counted) == {"transformer", "vae", "text_encoder", "text_encoder_2"}


def test_a_model_runs_in_another_dtype(tiny_folder):
    model = load(str(tiny_folder), placement("cpu", "bfloat16"))
    assert {model.adapter.denoiser.dtype, model.adapter.pipe.vae.dtype, model.upsampler.dtype} == {torch.bfloat16}


def test_offloading_is_put_in_place_and_survives_a_benchmark(tiny_folder):
    """On the CPU itself, as accelerate allows; the benchmark's clocks once took its hooks away."""
    model = load(str(tiny_folder), placement("cpu"))
    put(model.adapter.pipe, Placement(torch.device("cpu"), torch.float32, "model"))
    hook = model.adapter.denoiser._hf_hook
    with _network_time(model) as spent:
        encoded = model.adapter.encode("a red apple", "", 1, None)
        assert encoded["prompt_embeds"].shape[0] == 1
        model.adapter.decode(torch.zeros(1, 4, 8, 8))
    assert spent[0].wall > 0
    assert model.adapter.denoiser._hf_hook is hook
    assert "forward" in vars(model.adapter.pipe.text_encoder), "accelerate's own wrapper is still there"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_every_allocators_words_are_known(error):
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert "--offload" in less_memory(torch.device("cuda"))
    assert "--offload" not in less_memory(torch.device("cpu"))
