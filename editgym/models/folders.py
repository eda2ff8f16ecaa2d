"""Where language models lie: bundled ones, those made here, and a user's own."""

from __future__ import annotations

from pathlib import Path

from editgym.models.decoding import ModelError
from editgym.paths import cache_folder, data_folder

BUNDLED = Path(__file__).parent / "weights" / "factlm"
_BUNDLED_SIZES = {"1m": BUNDLED, "gpt2": BUNDLED.with_name("factlm-gpt2")}


def factlm_folder(size: str) -> Path:
    """Where a size of factlm lies: in the package if it ships, else in the cache.

    `editgym.models.train_factlm` makes it there.
    """
    return _BUNDLED_SIZES.get(size, cache_folder() / "language" / f"factlm-{size}")


def model_folder(name: str) -> str:
    """Where the model called `name` lies: a folder, as it is or in the data folder, or a hub id.

    Raises:
        ModelError: A bundled size was not made yet, or the folder is no Hugging Face folder with
            safetensors.
    """
    if name == "factlm":
        return str(BUNDLED)
    folder = (
        factlm_folder(name.removeprefix("factlm-"))
        if name.startswith("factlm-")
        else Path(name).expanduser()
    )
    if name.startswith("factlm-") and not folder.is_dir():
        raise ModelError(
            f"model: {name!r} is not there yet; make it: python -m editgym.models.train_factlm"
            f" --size {name.removeprefix('factlm-')}"
        )
    if not folder.is_dir():
        folder = data_folder() / name
    if not folder.is_dir():
        return name
    if not (folder / "config.json").is_file():
        raise ModelError(f"model: {folder} is no Hugging Face folder: it has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"model: {folder} has no safetensors; other formats can run code when they are loaded."
            " Save the model with save_pretrained"
        )
    return str(folder)
