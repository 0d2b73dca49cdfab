"""Models named by their hub id: found in the hub's cache, or fetched into it after a short check.

`OWNER/NAME` takes the pinned revision of the table of known models, where there is one, else the main branch;
`OWNER/NAME@REVISION` takes a branch, tag or commit. What is complete in the cache is used without asking the hub.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lssgen import hub
from lssgen.families.known import known
from lssgen.families.table import ModelError

NAME = re.compile(r"(?!.*(?:--|\.\.))([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w.-][\w./-]{0,99}))?")
CONFIGS = ("model_index.json", "lssgen.json", "vocabulary.json")
SMALL = ("config.json", "scheduler_config.json")  # of every part
ABOUT_TOKENS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
TOKENIZER = "tokenizer_2/tokenizer.json"  # tells how far a FLUX model reads
WEIGHTS = re.compile(r"[\w-]+?(-\d+-of-\d+)?\.safetensors")  # without a variant in the name
VARIANT = re.compile(r"(?!.*-of-\d+\.(?:fp16|bf16))[\w-]+\.(fp16|bf16)(-\d+-of-\d+)?\.safetensors")
INDEX = re.compile(r"[\w-]+\.safetensors\.index(?:\.(fp16|bf16))?\.json")
OTHER_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".gguf", ".onnx", ".onnx_data",
                 ".pb", ".xml", ".index.json")  # fmt: skip


@dataclass(frozen=True)
class Remote:
    """A model on the hub."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        commit = self.revision and re.fullmatch("[0-9a-f]{40}", self.revision)
        return f"{self.repo}@{self.revision[:8] if commit else self.revision}" if self.revision else self.repo


def named(model: str) -> Remote | None:
    """The hub model that `model` names; None where it is no such name, or a folder here has it."""
    found = NAME.fullmatch(model)
    if found is None or Path(model).is_dir():
        return None
    row = known(found[1])
    return Remote(found[1], found[2] or (row.revision if row else None))


def configuration(remote: Remote) -> Path:
    """A folder with the model's configuration, without its weights unless they are there already.

    Raises:
        ModelError: if it is not in the cache and the hub does not give it.
    """
    cached = _cached(remote)
    if cached is not None and all((cached / part / name).is_file() for part, name in _needed(cached)):
        return cached

    def choose(files: Mapping[str, int]) -> list[str]:
        if "model_index.json" not in files:
            raise ModelError(f"{remote} is no diffusers pipeline (it has no model_index.json); name one that is")
        return [
            f for f in files if f in (*CONFIGS, TOKENIZER) or (f.count("/") == 1 and PurePosixPath(f).name in SMALL)
        ]

    return _fetch(remote, choose, lambda share, text: None)


def weights(remote: Remote, variants: tuple[str, ...], progress: hub.Progress | None = None) -> Path:
    """A folder with all a pipeline needs.

    Args:
        remote: the model.
        variants: of the files to take where there are any, the best first: `("bf16", "fp16")`; none for plain ones.
        progress: told the share and what to say; what it raises breaks the download off. None: bars on stderr.

    Raises:
        ModelError: if it is not in the cache and the hub does not give it, or the disk is too small.
    """
    cached = _cached(remote)
    if cached is not None and not missing(cached):
        return cached
    folder = configuration(remote)
    folder = _fetch(remote, lambda files: chosen(files, parts(folder), variants), progress)
    if missing(folder):
        raise ModelError(f"{remote} came without {', '.join(missing(folder))}; try again, or name another revision")
    return folder


def decoder(repo: str, progress: hub.Progress | None = None, *, offline: bool = False) -> Path:
    """The folder of a single small network, from the cache or, unless `offline`, the hub. Raises ModelError."""
    cached = _cached(Remote(repo), "config.json")
    if cached is not None and any(cached.glob("*.safetensors")):
        return cached
    if offline:
        raise ModelError(f"{repo} is not in the cache")
    return _fetch(
        Remote(repo), lambda files: [f for f in files if f == "config.json" or WEIGHTS.fullmatch(f)], progress
    )


def autoencoder(remote: Remote, progress: hub.Progress | None = None) -> Path:
    """A folder with a repository's autoencoder, a pipeline's in `vae/`, cached or fetched. Raises ModelError."""
    for inside in ("vae", "."):
        cached = _cached(remote, str(PurePosixPath(inside, "config.json")))
        if cached is not None and any((cached / inside).glob("*.safetensors")):
            return cached

    def choose(files: Mapping[str, int]) -> list[str]:
        inside = next((part for part in ("vae", ".") if str(PurePosixPath(part, "config.json")) in files), None)
        if inside is None:
            raise ModelError(f"{remote} has no autoencoder (no config.json, nor vae/config.json); name one that has")
        names = [PurePosixPath(f).name for f in files if PurePosixPath(f).parent == PurePosixPath(inside)]
        plain = [name for name in names if WEIGHTS.fullmatch(name)] or [n for n in names if VARIANT.fullmatch(n)]
        if not plain:
            raise ModelError(f"{remote} has no safetensors weights; files that can run code are not loaded")
        return [f for f in ("lssgen.json",) if f in files] + [
            str(PurePosixPath(inside, name)) for name in ("config.json", *plain)
        ]

    return _fetch(remote, choose, progress)


def variant_in(folder: Path) -> str | None:
    """The variant to load one network's folder by: None where there are plain files, else the first there is."""
    names = [path.name for path in folder.glob("*.safetensors")]
    found = sorted(m[1] for m in map(VARIANT.fullmatch, names) if m)
    return found[0] if found and not any(map(WEIGHTS.fullmatch, names)) else None


def parts(folder: Path) -> tuple[str, ...]:
    """The sub-folders that model_index.json names."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return tuple(name for name, kind in index.items() if isinstance(kind, list) and kind[0])


def chosen(files: Mapping[str, int], parts: tuple[str, ...], variants: tuple[str, ...]) -> list[str]:
    """The files to fetch of a repository: safetensors of one variant for each part, and all that is no weights.

    Raises:
        ModelError: if a network has weights in other formats only.
    """
    wanted = [name for name in files if name in CONFIGS]
    found = {m[1] for m in (VARIANT.fullmatch(PurePosixPath(f).name) for f in files) if m}
    best = next((v for v in variants if v in found), None)
    for part in (*parts, "upsampler"):
        inside = {PurePosixPath(f).name: f for f in files if PurePosixPath(f).parent == PurePosixPath(part)}
        kinds = {name: VARIANT.fullmatch(name)[1] for name in inside if VARIANT.fullmatch(name)}
        plain = [name for name in inside if WEIGHTS.fullmatch(name)]
        one = best if best in kinds.values() else None if plain else next(iter(kinds.values()), None)
        taken = [name for name in kinds if kinds[name] == one] if one else plain
        if not taken and "config.json" in inside:
            raise ModelError(f"{part} has no safetensors weights; files that can run code are not loaded")
        indices = [name for name in inside if INDEX.fullmatch(name) and INDEX.fullmatch(name)[1] == one]
        others = [name for name in inside if not name.endswith(OTHER_WEIGHTS) and not INDEX.fullmatch(name)]
        wanted += [inside[name] for name in (*taken, *indices, *others)]
    return wanted


def missing(folder: Path) -> list[str]:
    """Parts of a pipeline's folder that are not whole: a network without weights or with a shard too few, no words."""
    lacking = []
    for part in parts(folder):
        inside = folder / part
        names = {path.name for path in inside.glob("*")}
        shards = {name for name in names if name.endswith(".safetensors")}
        wanted = set()
        for path in inside.glob("*.safetensors.index*.json"):
            wanted |= set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        no_words = part.startswith("tokenizer") and names <= set(ABOUT_TOKENS)
        if not names or no_words or ("config.json" in names and not shards) or wanted - shards:
            lacking.append(part)
    return lacking


def variant_of(folder: Path, variants: tuple[str, ...]) -> str | None:
    """The variant to load a folder by: of those wanted, or one that some part has nothing else than; else None."""
    names = {part: [path.name for path in (folder / part).glob("*.safetensors")] for part in parts(folder)}
    found = {part: {m[1] for m in map(VARIANT.fullmatch, files) if m} for part, files in names.items()}
    everywhere = set().union(*found.values())
    for part, files in names.items():
        if found[part] and not any(map(WEIGHTS.fullmatch, files)):
            return next((v for v in variants if v in found[part]), min(found[part]))
    return next((v for v in variants if v in everywhere), None)


def _cached(remote: Remote, name: str = "model_index.json") -> Path | None:
    """The snapshot in the hub's cache that has this file, however complete."""
    from huggingface_hub import constants, try_to_load_from_cache

    cache = constants.HF_HUB_CACHE
    found = try_to_load_from_cache(remote.repo, name, cache_dir=cache, revision=remote.revision)
    return Path(found).parent if isinstance(found, str) else None


def _needed(folder: Path) -> list[tuple[str, str]]:
    """(part, file) of the configurations that planning reads."""
    denoiser = "transformer" if "transformer" in parts(folder) else "unet"
    return [("scheduler", "scheduler_config.json"), ("vae", "config.json"), (denoiser, "config.json")]


def _fetch(remote: Remote, choose: Callable[[Mapping[str, int]], list[str]], progress: hub.Progress | None) -> Path:
    """Download what `choose` picks of {name: bytes}."""
    from huggingface_hub import constants, snapshot_download

    where = hub.endpoint()
    try:
        info = hub.ask(lambda: _information(remote, where), 2 * hub.SECONDS)
        files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        wanted = choose(files)
        cache = Path(constants.HF_HUB_CACHE)
        snapshot = cache / f"models--{remote.repo.replace('/', '--')}" / "snapshots" / info.sha
        needed = sum(files[name] for name in wanted if not (snapshot / name).exists())
        _check_disk(remote, cache, needed)
        bar = hub.progress_bar(progress, needed) if progress else None
        folder = snapshot_download(
            remote.repo, revision=remote.revision, cache_dir=cache, endpoint=where, allow_patterns=wanted,
            tqdm_class=bar,
        )  # fmt: skip
        if progress:  # files that are the same as others are not counted on the way
            progress(1.0, f"{needed / 1e6:.0f} of {needed / 1e6:.0f} MB")
        return Path(folder)
    except ModelError:
        raise
    except Exception as error:
        explained = _explained(remote, error)
        if explained is None:
            raise
        raise explained from error


def _information(remote: Remote, where: str) -> Any:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=where)
    return api.model_info(remote.repo, revision=remote.revision, files_metadata=True, timeout=2 * hub.SECONDS)


def _check_disk(remote: Remote, cache: Path, needed: int) -> None:
    """Refuse a download of so many bytes that will not fit."""
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ModelError(
            f"{remote} needs {needed / 1e9:.1f} GB more on disk and {there} has {free / 1e9:.1f} GB free; "
            "make room, or set HF_HOME to a folder on a larger disk"
        )


def _explained(remote: Remote, error: Exception) -> ModelError | None:
    """The trouble as one sentence with the way out; None where it is none with the hub."""
    from huggingface_hub import errors, get_token

    page = f"https://huggingface.co/{remote.repo}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return ModelError(
                f"{remote.repo} is gated and no token is set: accept its licence at {page}, then sign in with "
                "'hf auth login' or set HF_TOKEN"
            )
        return ModelError(f"{remote.repo} is gated and your account has no access yet: accept its licence at {page}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{remote.repo} has no revision {remote.revision!r}; leave it out for its main branch")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"there is no folder {remote.repo!r} here and no such model on the hub, or it is private: check the name, "
            "or sign in with 'hf auth login' or HF_TOKEN"
        )
    if status in (401, 403):
        return ModelError(f"the hub refused your token for {remote.repo}; sign in anew with 'hf auth login'")
    if isinstance(error, (hub.HubUnreachable, OSError, ValueError, errors.HfHubHTTPError)) or type(
        error
    ).__module__.startswith(("httpx", "requests")):
        what = str(error) if isinstance(error, hub.HubUnreachable) else hub.brief(error)
        main = Remote(remote.repo, "main")
        other = f" {main}, which is in the cache," if remote != main and _cached(main) else ""
        return ModelError(
            f"{remote} is not on this machine and could not be fetched ({what}); use{other} 'embedded' or a folder"
        )
    return None
