"""Upload of a trained upsampler to the hub."""

from __future__ import annotations

from pathlib import Path

from lssgen.hub import brief


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
    """The upsampler and what is told of it, without checkpoints. Raises ValueError; the folder stays as it is."""
    from huggingface_hub import HfApi

    try:
        HfApi().upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=["checkpoint.*"])
    except Exception as error:
        raise ValueError(
            f"{folder} holds the upsampler, but it cannot be uploaded ({brief(error)}); "
            f"try 'hf upload {repository} {folder} --exclude \"checkpoint.*\"'"
        ) from error
