"""Hugging Face names: a folder of this machine, the local cache of the Hub, or a download."""

from pathlib import Path

from jaxdp.errors import UserError
from jaxdp.paths import HUB, local_path

FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.spm")
"""Files of a model that are downloaded: weights as safetensors, configuration and tokenizer."""


def local_folder(name: str, option: str) -> Path:
    """Returns the folder of a model: a path of this machine, else the local cache of the Hub, else a download.

    Args:
        name: `ORGANISATION/NAME`, or a path.
        option: Name of the option, for messages.

    Raises:
        UserError: It is neither a folder nor a model on the Hub that can be read.
    """
    if (folder := folder_here(name, option)) is not None:
        return folder
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(FILES)))
    except errors.HfHubHTTPError as error:
        raise UserError(
            f"{option}={HUB}{name}: the Hub has no such model for you ({type(error).__name__}): correct the name, or log in "
            "if it is private or gated."
        ) from error
    except (errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{option}={HUB}{name} is not in the local cache, and the Hugging Face Hub cannot be reached "
            f"({type(error).__name__}): copy the model's folder here and give its path."
        ) from error


def folder_here(name: str, option: str) -> Path | None:
    """Returns the folder of a model on this machine: a path, else the local cache of the Hub; None: it is in neither.

    Raises:
        UserError: It is neither a folder nor the name of a model.
    """
    folder = local_path(name, option)
    if folder.is_dir():
        return folder.resolve()
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
    except errors.HFValidationError as error:
        raise UserError(
            f"{option}={HUB}{name} is neither a folder nor the name of a model on the Hub; correct it."
        ) from error
    except (errors.LocalEntryNotFoundError, FileNotFoundError):
        return None


def hub_url(name: str) -> str:
    """Returns the URL of the files of a model on the Hub."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}/resolve/main"
