"""Image classifiers of `transformers`: made from a Hugging Face folder, and given tensors that were
saved under other names.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editgym.imports import is_pretrained_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "config.json"
_SHOWN = 3  # names in a message


def is_folder(name: object) -> bool:
    """Whether a name is that of a folder that is here, and no import path."""
    return (
        isinstance(name, str)
        and name != ""
        and ":" not in name
        and Path(name).expanduser().is_dir()
    )


def untrained_classifier(folder: str) -> PreTrainedModel:
    """The image classifier that a Hugging Face folder describes, with random weights.

    Raises:
        ValueError: It has no `config.json` of an image classifier.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    path = Path(folder).expanduser()
    if not (path / CONFIG).is_file():
        raise ValueError(
            f"model: {path} is no Hugging Face folder: it has no {CONFIG}; save the model there"
            " with save_pretrained, or write package.module:Class"
        )
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        return AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except Exception as error:  # a config may hold anything, and the model of one raise anything
        raise ValueError(
            f"model: {path / CONFIG} makes no image classifier of transformers"
            f" (AutoModelForImageClassification): {str(error).splitlines()[0]}"
        ) from error


def under_own_names(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict of a model of `transformers` under the names that its parameters have now; of
    any other network as it is.

    Its library has renamed parameters over time, and `save_pretrained` writes the older names still
    (`vit.encoder.layer.0.…` for `vit.layers.0.…`, `gamma` for `weight`); its loader knows both.

    Raises:
        ValueError: Tensors of the model are missing, or have other shapes.
    """
    if not is_pretrained_model(model):
        return state
    with _quiet():
        try:
            loader: Any = type(model).from_pretrained
            loaded, report = loader(
                None,
                config=copy.deepcopy(model.config),
                state_dict=dict(state),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
    wrong = [f"{name} {tuple(was)} for {tuple(now)}" for name, was, now in _sorted(report)]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors have other shapes: {_some(wrong)}")
    if missing := sorted(report["missing_keys"]):
        unused = sorted(report["unexpected_keys"])
        raise ValueError(
            f"{len(missing)} tensors are missing, {_some(missing)}, and would be random"
            + (
                f"; {len(unused)} have names that it does not know, {_some(unused)}"
                if unused
                else ""
            )
        )
    return loaded.state_dict()


def output_names(model: nn.Module) -> tuple[str, ...]:
    """What a model of `transformers` calls its outputs, in their order; empty where it has no names
    but numbers.
    """
    named: Any = getattr(getattr(model, "config", None), "id2label", None)
    if not is_pretrained_model(model) or not named:
        return ()
    names = tuple(str(named[number]) for number in sorted(named))
    return () if names == tuple(f"LABEL_{number}" for number in range(len(names))) else names


def normalisation(folder: str) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation that the `preprocessor_config.json` of a Hugging Face folder
    normalises pixels in 0–1 with; None where it does not.
    """
    path = Path(folder).expanduser() / "preprocessor_config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not found.get("do_normalize", True):
        return None
    mean, std = found.get("image_mean"), found.get("image_std")
    return (mean, std) if isinstance(mean, list) and isinstance(std, list) else None


def _sorted(report: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return sorted(report["mismatched_keys"], key=lambda one: str(one[0]))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's bar and its report: what is wrong is an error here."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
