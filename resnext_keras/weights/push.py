"""Uploads weights to the Hugging Face hub, as timm and transformers load them."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from resnext_keras.extras import optional
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.checkpoint import Checkpoint, resolve
from resnext_keras.weights.hub import REPOSITORY, reason
from resnext_keras.weights.tensors import WeightsError
from resnext_keras.weights.timm_folder import convert_to_timm


def push_to_hub(
    weights: str | os.PathLike | Checkpoint,
    repo: str,
    *,
    model: ResNeXtSpec | str | None = None,
    private: bool = False,
    on_start: Callable[[list[Path]], None] | None = None,
) -> str:
    """Uploads weights to a repository of the Hugging Face hub.

    The repository then has the files of `save_timm`: the tensors, their description
    and a model card.
    `hf://OWNER/NAME` here, `hf-hub:OWNER/NAME` in timm and `OWNER/NAME` in transformers
    load it. huggingface_hub finds the token (`HF_TOKEN` or `hf auth login`) and the
    server (`HF_ENDPOINT`).

    Args:
        weights: The folder of a training run, the path of a file, the name of a weight
            set, or a `Checkpoint`.
        repo: `"OWNER/NAME"`. It is created if it does not exist; else it gets a commit,
            and its history keeps the files from before.
        model: The architecture; None for that of the weights.
        private: Whether a new repository is private.
        on_start: Called with the files before they are uploaded.

    Returns:
        The URL of the commit.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: The weights or the name are not as described, or timm has no such
            network; or `WeightsError`: the hub refuses the upload or cannot be reached.
    """
    hub = optional("huggingface_hub", "hub")
    if not re.fullmatch(REPOSITORY, repo):
        raise ValueError(
            f"Expected a repository as in OWNER/NAME. Received: repo={repo!r}"
        )
    if hub.get_token() is None:
        raise WeightsError(
            "Expected a token of the Hugging Face hub: set HF_TOKEN, or run `hf auth "
            f"login`. Received: no token, repo={repo!r}"
        )
    checkpoint = resolve(weights, model)
    with tempfile.TemporaryDirectory() as temporary:
        name = repo.rpartition("/")[2]
        folder = convert_to_timm(checkpoint, Path(temporary, name), overwrite=False)
        if on_start:
            on_start(sorted(folder.iterdir()))
        api = hub.HfApi(library_name="resnext_keras")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=f"Upload {checkpoint.short_name}",
            )
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"Expected to upload to {repo} on the Hugging Face hub; found "
                f"{reason(error)}."
            ) from error
    return commit.commit_url
