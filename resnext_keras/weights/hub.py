"""Files of repositories on the Hugging Face hub, in the cache of huggingface_hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from resnext_keras.extras import optional
from resnext_keras.weights.cache import downloads_forbidden
from resnext_keras.weights.tensors import WeightsError

HUB = "hf://"
WEIGHTS = "model.safetensors"

# As in the paths of huggingface_hub; only revisions of these two kinds have a slash.
REPOSITORY = "[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*"
_ADDRESS = re.compile(
    rf"hf://(?P<repo>{REPOSITORY})"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/@]+|[^/@]+))?"
    r"(?:/(?P<file>[^@/][^@]*)?)?"
)
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class HubModel:
    """Weights in a repository of the hub.

    Attributes:
        repo: `"OWNER/NAME"`.
        revision: A branch, a tag or a commit; None for the default branch.
        file: The weight file.
    """

    repo: str
    revision: str | None = None
    file: str = WEIGHTS

    def fetch(self, file: str | None = None) -> Path:
        """Downloads a file if the cache does not have its newest version.

        huggingface_hub finds the cache (`HF_HOME`), the token (`HF_TOKEN`) and the
        server (`HF_ENDPOINT`), and makes no downloads under `HF_HUB_OFFLINE=1`, nor
        under `RESNEXT_KERAS_OFFLINE=1`.

        Args:
            file: Name of the file; None for the weight file.

        Returns:
            Its path in the cache. Files of one revision are in one folder.

        Raises:
            ImportError: huggingface_hub is not installed.
            WeightsError: The file cannot be downloaded, or its hash is wrong.
        """
        file = file or self.file
        hub = optional("huggingface_hub", "hub")
        errors = optional("huggingface_hub.errors", "hub")
        name = f"{file} of {self.repo}@{self.revision or 'main'}"
        try:
            path = Path(
                hub.hf_hub_download(
                    self.repo,
                    file,
                    revision=self.revision,
                    library_name="resnext_keras",
                    local_files_only=downloads_forbidden(),
                )
            )
        except (errors.HFValidationError, errors.EntryNotFoundError, OSError) as error:
            raise WeightsError(
                f"Expected to find {name} on the Hugging Face hub; found "
                f"{reason(error)}."
            ) from error
        self._check_hash(path.resolve(), name)
        return path

    @staticmethod
    def _check_hash(path: Path, name: str) -> None:
        """Checks a large file: the cache names it by the SHA-256 that the hub gave."""
        if not _SHA256.fullmatch(path.name):
            return
        import pooch

        found = pooch.file_hash(str(path))
        if found != path.name:
            raise WeightsError(
                f"Expected {name} in {path}, with this SHA-256; found {found}. Delete "
                "the file to download it again."
            )


def hub_hint(written: str) -> str:
    """A hint for an error, if this may have been meant as the name of a repository."""
    prefixes = r"https://(?:huggingface\.co|hf\.co)/|hf-hub:|hf:/*"
    match = re.fullmatch(rf"(?i:{prefixes})?({REPOSITORY})/?", written)
    return f" A repository of the hub is hf://{match[1]}." if match else ""


def hub_model(address: str) -> HubModel:
    """Reads `"hf://OWNER/NAME"`, `"hf://OWNER/NAME@REVISION"`, or a file in either.

    Raises:
        WeightsError: It is none of these.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise WeightsError(
            "Expected a repository of the Hugging Face hub, as in hf://OWNER/NAME or "
            f"hf://OWNER/NAME@REVISION. Received: weights={address!r}"
        )
    return HubModel(match["repo"], match["revision"], match["file"] or WEIGHTS)


def reason(error: Exception) -> str:
    """Why huggingface_hub did not give or take a file, in one line."""
    errors = optional("huggingface_hub.errors", "hub")
    if isinstance(error, errors.LocalEntryNotFoundError):
        if error.__cause__ is None or isinstance(
            error.__cause__, errors.OfflineModeIsEnabled
        ):
            return "no such file in its cache, and downloads are forbidden"
        first = error
        while inner := first.__cause__ or first.__context__:
            first = inner
        text = str(first).splitlines() or [""]
        return f"no connection to it ({type(first).__name__}: {text[0]})"
    if isinstance(error, errors.GatedRepoError):
        return "a gated repository: ask for access on its page, and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "no such repository, or a private one: set HF_TOKEN, or run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision"
    if isinstance(error, errors.EntryNotFoundError):
        return (
            "no such file in the repository. A file of another name is read if it is "
            "given, as in hf://OWNER/NAME/pytorch_model.bin"
        )
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
