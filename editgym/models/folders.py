"""Where language models lie: bundled ones, those made or fetched here, and a user's own."""

from __future__ import annotations

import difflib
from pathlib import Path

from editgym.models.cached_calls import ModelError
from editgym.models.known import KNOWN, fetch_command, fetched_folder
from editgym.paths import cache_folder, data_folder

BUNDLED = Path(__file__).parent / "weights" / "factlm"
_FACTLM = "factlm-"
_BUNDLED_SIZES = {"1m": BUNDLED, "gpt2": BUNDLED.with_name("factlm-gpt2")}


def factlm_folder(size: str) -> Path:
    """Where a size of factlm lies: in the package if it ships, else in the cache.

    `editgym.models.train_factlm` makes it there.
    """
    return _BUNDLED_SIZES.get(size, cache_folder() / "language" / f"factlm-{size}")


def is_factlm(name: str) -> bool:
    """Whether a model is one of factlm's, which know FactWorld."""
    return name == "factlm" or name.startswith(_FACTLM)


def is_gguf(name: str) -> bool:
    """Whether a model's name or path is a GGUF file's."""
    return name.lower().endswith(".gguf")


def gguf_file(name: str) -> Path | None:
    """The GGUF file called `name`, as it is or in the data folder; None where there is none."""
    given = Path(name).expanduser()
    places = (given, data_folder() / given) if is_gguf(name) else ()
    return next((place for place in places if place.is_file()), None)


def model_path(name: str) -> str:
    """Where the model called `name` lies: a folder, a GGUF file, or else a hub id, which is `name`.

    Names that editgym gives come first (`factlm`, `factlm-10m`, `smollm2-135m`), then folders and
    files, as they are and in the data folder.

    Raises:
        ModelError: A model of editgym's was not made or fetched yet, there is no such GGUF file, or
            the folder is no Hugging Face folder with safetensors.
    """
    if is_gguf(name):
        file = gguf_file(name)
        if file is None:
            raise ModelError(f"model: there is no file {name!r}, nor in {data_folder()}")
        return str(file)
    own = _own(name)
    folders = (*([own] if own else []), Path(name).expanduser(), data_folder() / name)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None and own:
        raise ModelError(f"model: {_how(name)}")
    if folder is None:
        _check_spelling(name)
        _check_is_no_path(name)
        return name
    if not (folder / "config.json").is_file():
        raise ModelError(f"model: {folder} is no Hugging Face folder: it has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"model: {folder} has no safetensors; other formats can run code when they are loaded."
            " Save the model with save_pretrained"
        )
    return str(folder)


def _check_spelling(name: str) -> None:
    """Refuse what is nearly the name of a model of editgym's, rather than ask the hub for it."""
    own = ["factlm", "factlm-gpt2", *KNOWN]
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
    near = near or [one for one in own if one.startswith(name.lower())]
    if near:
        raise ModelError(
            f"model: there is no {name!r}; did you mean {near[0]!r}? A folder, a GGUF file or a hub"
            " id will do too"
        )


def _check_is_no_path(name: str) -> None:
    """Refuse what can only be a folder, and in a folder that is there what is nearly one's name:
    the hub would be asked for it for the better part of a minute where it cannot be reached.
    """
    path = Path(name).expanduser()
    inside = [] if path.parent == Path() else path.parent.glob("*/")
    folders = sorted(one.name for one in inside if one.is_dir())
    near = difflib.get_close_matches(path.name, folders, n=1, cutoff=0.8)
    if near or path.is_absolute() or name.startswith("."):
        other = f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""
        where = "" if path.is_absolute() else f" (that is, {path.absolute()})"
        raise ModelError(f"model: there is no folder {name!r}{where}{other}")


def _own(name: str) -> Path | None:
    """Where a model of editgym's lies or will lie; None where the name is nobody's here."""
    if name == "factlm":
        return BUNDLED
    if name.startswith(_FACTLM):
        return factlm_folder(name.removeprefix(_FACTLM))
    return fetched_folder(name) if fetch_command(name) else None


def _how(name: str) -> str:
    """What to do where a model of editgym's is not there."""
    if command := fetch_command(name):
        return f"{name!r} is not there yet; fetch it: {command}"
    from editgym.models.factlm import SIZES  # not above: it loads `transformers`

    size = name.removeprefix(_FACTLM)
    if size not in SIZES:
        return f"there is no {name!r}; there are factlm and {', '.join(_FACTLM + s for s in SIZES)}"
    return (
        f"{name!r} is not there yet; make it: python -m editgym.models.train_factlm --size {size}"
    )
