"""Upload of a trained upsampler to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lssgen.families.remote import named
from lssgen.hub import brief
from lssgen.measured import FILE as MEASURED
from lssgen.training.recipe import SETTINGS, told

PUBLIC = ["config.json", "*.safetensors", "README.md", "LICENSE*", MEASURED, "*.png", "*.jpg", "*.webp"]


def make(repository: str) -> None:
    """Make the repository where there is none, before hours of training rather than after.

    Raises:
        ValueError: if nobody is signed in, or it cannot be made.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ValueError("--push-to-hub needs a token: sign in with 'hf auth login' or set HF_TOKEN")
    try:
        HfApi().create_repo(repository, exist_ok=True)
    except Exception as error:  # of the hub's, of the network's, of a name that is none
        raise ValueError(f"--push-to-hub is {repository!r}, which cannot be made ({brief(error)})") from error


def upload(folder: Path, repository: str) -> None:
    """The upsampler and what is told of it, without checkpoints, logs, and names of this machine's files.

    Raises:
        ValueError: if it cannot be uploaded; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    facts = json.dumps(without_names(told(folder)), indent=1) + "\n"
    try:
        hub = HfApi()
        hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=PUBLIC, ignore_patterns=["checkpoint.*"]
        )
        hub.upload_file(path_or_fileobj=facts.encode(), path_in_repo=SETTINGS, repo_id=repository)
    except Exception as error:
        shown = " ".join(f'"{pattern}"' for pattern in PUBLIC)
        raise ValueError(
            f"{folder} holds the upsampler, but it cannot be uploaded ({brief(error)}); "
            f"try 'hf upload {repository} {folder} --include {shown} --exclude \"checkpoint.*\"'"
        ) from error


def without_names(facts: dict[str, Any]) -> dict[str, Any]:
    """What training.json tells, without the pictures' names and the paths of folders."""
    rest = {name: value for name, value in facts.items() if name != "held_out_pictures"}
    ours = ("images", "init", "teacher")
    training = {name: value for name, value in facts.get("training", {}).items() if name not in ours}
    if training.get("tiny") or not named(training.get("vae", "")):
        training["vae"] = Path(training.get("vae", "")).name
    return rest | {"training": training}
