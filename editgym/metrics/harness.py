"""An edited language model in the field's harness, lm-evaluation-harness.

What edits leave of a model is measured there by hundreds of tasks, such as `lambada_openai` or
`mmlu`; here the harness gets the model with its edits in effect, without a copy of its weights.
It is an extra: `python -m pip install "editgym[eval]"`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editgym.models.training import generators_kept
from editgym.weights import EditableDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def evaluate(
    network: EditableDecoder,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    include: str | Path | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """What lm-evaluation-harness finds of a model with its edits in effect.

    Edits of weights and of codebooks (GRACE) are in effect; texts that stand before prompts
    (`in_context`, `retrieve`) are not, since the harness writes its own prompts.

    Args:
        network: The edited model: `env.unwrapped.network`, or a decoder that a journal was replayed
            into.
        tokenizer: The model's: `env.unwrapped.task.language.tokenizer`.
        tasks: Names of the harness' tasks.
        include: A folder with task files (YAML) of one's own, whose names may be among `tasks`.
        batch_size: Texts that go through the model at a time, 1 or more.
        limit: Only so many documents of each task; None for all.
        **arguments: What else `lm_eval.simple_evaluate` takes, such as `num_fewshot` or
            `apply_chat_template`.

    Returns:
        What `lm_eval.simple_evaluate` returns: `["results"][task]` has the numbers.

    Raises:
        ImportError: The extra is not installed.
        ValueError: There is no such task.
        FileNotFoundError: `include` is no folder.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ImportError(
            'the harness is not installed: python -m pip install "editgym[eval]" (lm-eval)'
        )
    from lm_eval import simple_evaluate  # it takes seconds to import
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if isinstance(tasks, str):
        raise ValueError(f"tasks must be a list of names, got {tasks!r}")
    if include is not None and not Path(include).is_dir():
        raise FileNotFoundError(f"include: there is no folder {include}")
    # The harness' own task files, some ten thousand, take seconds to read.
    manager = None if include is None else TaskManager(None, str(include), include_defaults=False)
    if manager is None or not set(tasks) <= set(manager.all_tasks):
        manager = TaskManager(include_path=None if include is None else str(include))
    if unknown := sorted(set(tasks) - set(manager.all_tasks)):
        raise ValueError(
            f"tasks: lm-evaluation-harness has no {', '.join(unknown)}; `lm-eval ls tasks` lists"
            " what it has, and include= adds a folder of your own"
        )
    with network.active() as model, generators_kept():
        found = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            **arguments,
        )
    assert found is not None  # it is None in further processes of a distributed run
    return dict(found)
