"""LifelongLLMEdit: a stream of facts into a language model."""

from __future__ import annotations

from typing import Any

from gymnasium.utils import EzPickle

from editgym.envs.arguments import task_for
from editgym.envs.lifelong.arguments import CHECKS, ActionForm
from editgym.envs.lifelong.batch import Basis
from editgym.envs.lifelong.env import StreamEditing
from editgym.envs.lifelong.rehearsal import RehearsedBy
from editgym.envs.lifelong.reward import LookedAt, Reference, RewardWeights
from editgym.envs.lifelong.settings import LifelongSettings, Order
from editgym.tasks.knowledge.interview import EvaluateFormats, Interview, Texts
from editgym.tasks.knowledge.task import KnowledgeTask, StreamSplit
from editgym.weights import Shift


class LifelongLLMEditEnv(StreamEditing):
    """A stream of corrections of facts, `edits_per_step` at a time, into a causal language model.

    The base weights are never written to: the live state is one fp32 matrix per site, and every
    step's factors are in `journal`.

    Observation:
        `Box(-bound, bound)`, float32. Per site, in order: a sketch of the current weights (16
        numbers), of the mean key and of the mean output gradient of the new requests' answer tokens
        (8 each; keys are the module's inputs), the q = 4 largest singular values of the
        training-free update over ‖W₀‖, its length over ‖W₀‖, and ‖W − W₀‖ over ‖W₀‖; then the loss
        of the new requests, the number of their answer tokens, and the progress of the episode. All
        is of the new requests, and so is that update, also where others are rehearsed. An agent
        that wants the whole matrices reads `process.capture`.

    Action:
        `Box(-1, 1)`, float32, of one of two forms.

        - `coefficients` (default): (sites × 4,). Of the training-free UltraEdit update ΔW = Σ_j σ_j
          u_j v_jᵀ of each site, c_max (a_l1 σ_1 u_1 v_1ᵀ + a_l2 σ_2 u_2 v_2ᵀ + a_l3 σ_3 u_3 v_3ᵀ +
          a_l4 Σ_{j≥4} σ_j u_j v_jᵀ) is applied, c_max = 3. Zeros leave a site alone; 1/c_max
          everywhere is UltraEdit. `basis="gradient"` takes G·Kᵀ apart instead. The update is of
          new and rehearsed requests together.
        - `factors`: A (out × r) and B (r × in) of every site (`ActionLayout`); `shift_limit` ·
          clip(A·B/√r, −1, 1) is added.

    Transition:
        The update is added to the sites, and the next `edits_per_step` requests of the stream are
        there to be edited. `split="policy"` draws a new stream in every episode. `validation` and
        `test` streams are for evaluation and closed: the reward is 0, `differentiable_step` raises,
        and a stream stays the same from one reset to the next until `reset(seed=...)` draws
        another.

    Reward:
        −[ Σ_{j=0..back_depth} decay^j (CE(rephrases_{t−j}) + λ KL(p_ref ‖ p_now on
        locality_{t−j})) + η Σ ‖ΔW‖² ] (Li et al. 2025, RLEdit), λ = `locality_weight`, η =
        `norm_weight`. CE and KL are means over answer tokens, then over requests. Where an edited
        model collapses, that is, computes what is not finite, the reward is −10⁶, observed numbers
        are 0 or at the bound, and coefficients, which have no update to stretch, leave the sites
        alone. No reward is below that.

    End:
        `terminated` after `horizon` steps. Never truncated.

    Info:
        `edit_step`, `edits_done`, `is_success` (every request of the batch answered exactly), and
        of the batch right after its edit `reliability`, `tf_efficacy`, `generalization` and
        `locality` (both 0 on closed streams, and `locality` also where no request of the batch has
        locality prompts). All are finite.

    Arguments:
        task: `knowledge/factworld`, or another of the `knowledge` tasks.
        action: `coefficients` or `factors`.
        edits_per_step: Requests in a step.
        horizon: Steps in an episode.
        split: `policy`, `validation` or `test`.
        rehearse: M, how many earlier requests every step teaches again (fewer while there are
            fewer). They join the new ones in `process.prompts` and `process.capture`, so that
            the update of any agent serves both; of them too only subject, prompt and target are
            seen. Observation, reward and infos stay of the new requests, and so do running
            statistics of keys and gradients.
        rehearse_by: How these are chosen from all before the step: `draw`, by the stream's seed
            anew at every step, without replacement; or `loss`, those whose answers the model has
            lost most, by the cross-entropy of their targets, for which it reads all of them once a
            step.
        unique_subjects: Whether of several requests about one subject a stream takes only the
            first. False takes all of them, and also requests that edit a prompt again: from then on
            the earlier one does not hold. It is not rehearsed, rewarded or asked about at the end
            any more, and counts in `reliability_now` alone.
        order: Another order of the same requests: 0 for the one in which they are drawn, 1, 2, …
            for others. "file" takes the first requests of the split, in the order of their file,
            whatever the seed.
        stream: K for the stream that `reset(seed=K)` draws in every episode of `validation` or
            `test`, whatever the seed: with `order` the same requests are edited in several orders.
            Streams to learn on are drawn all the same. None draws all.
        look_back: Which earlier batches the reward looks back to: `recent`, the last ones, or
            `uniform`, ones that are drawn anew at every step from all of them, weighed so that the
            reward is an unbiased estimate of the damage to all that was edited, with a fixed pool
            of locality prompts of the whole stream (`RewardWeights`).
        back_depth: How many earlier batches the reward looks back to.
        decay: Weight of a batch one step further back; of `recent` ones alone.
        locality_weight: λ.
        norm_weight: η.
        reference: What locality is measured from, `original` or `previous`.
        basis: `ultraedit` or `gradient`, for coefficients.
        max_coefficient: c_max.
        rank: r, for factors.
        shift_limit: Limit of every entry of an update, for factors.
        observation_bound: Limit of every observed number.
        micro_batch: Rewarded texts that go through the model at a time, at least one batch's
            rephrases: fewer take less memory, for the same reward. Of K candidates, K times as many
            do.
        journal_folder: Keeps the journal in files there, a step at a time: `reset` empties it,
            unless it restores a `checkpoint`. None keeps it in memory.
        render_mode: `rgb_array` or `ansi`.
        device: `cpu`, `cuda` or `cuda:N`.
        prompt_format: How a prompt becomes the text that the model reads, and what ends an answer:
            `bare` (the prompt, then the answer up to the end token or a line break), `qa` (two
            solved questions before it), `completion` (two solved statements before it), `chat` (the
            tokenizer's chat template), or a text with `{prompt}` in it. Edits, rewards and metrics
            are asked so.
        evaluate_formats: Further formats that metrics ask in: a list of names, or a dict from names
            of one's own (a-z, 0-9, _) to formats; they give `reliability@chat` and the like.
        format_edits: How many edits, evenly spread, are asked about in further formats.
        scorer: What counts as an answer in metrics without a suffix: `exact`, `squad`, `contains`
            or `prefix` (`editgym.metrics.answers`); None for the task's own, `exact` of FactWorld
            and `squad` of files.
        separator: What stands between prompt and answer; None for what the language needs: a space,
            but nothing after white space, an opening bracket or quote, or before an answer in a
            script that is written without spaces.
        system: The system message of a chat; None for the template's own.
        text: Plain text for perplexity, covariances and the contexts of targets: a file or a list
            of them, or `factworld`; None for FactWorld's with a bundled model, and for the model's
            own samples with any other.
        known: Whether only requests are taken whose old answer the unedited model gives.
        max_new_tokens: Where an answer without an end is cut; None for the task's own, 8 of
            FactWorld and 32 of files.
        end_weight: What an answer's ending counts among its tokens in losses and gradients, 0 to 1.
        **task_arguments: What the task takes: `model`, `sites`, `dtype`, `step_size`, ….

    Raises:
        ValueError: An argument is out of range; the message names it.
        UnknownArgumentError: Neither environment nor task takes an argument.
        UnknownSiteError: A site matches no weight of the model.

    Example:
        >>> import gymnasium as gym, editgym
        >>> env = gym.make("LifelongLLMEdit-v1", horizon=2, edits_per_step=5, back_depth=1)
        >>> observation, info = env.reset(seed=0)
        >>> action = env.unwrapped.training_free_action()
        >>> observation, reward, terminated, truncated, info = env.step(action)
        >>> terminated, info["edits_done"]
        (False, 5.0)

    Version history:
        v1: Answers are judged, and text is chosen, as suits any model and any file: `scorer`,
            `max_new_tokens` and `text` have the defaults above.
        v0: The first version: of every task answers are compared whole (`exact`) and have 8 new
            tokens, and every model reads FactWorld's text.
    """

    checks = CHECKS  # what its arguments have to be, for who looks at them before it is made

    def __init__(
        self,
        task: str = "knowledge/factworld",
        *,
        action: ActionForm = "coefficients",
        edits_per_step: int = 10,
        horizon: int = 20,
        split: StreamSplit = "policy",
        rehearse: int = 0,
        rehearse_by: RehearsedBy = "draw",
        unique_subjects: bool = True,
        order: Order = 0,
        stream: int | None = None,
        look_back: LookedAt = "recent",
        back_depth: int = 10,
        decay: float = 0.95,
        locality_weight: float = 0.6,
        norm_weight: float = 1e-4,
        reference: Reference = "original",
        basis: Basis = "ultraedit",
        max_coefficient: float = 3.0,
        rank: int = 4,
        shift_limit: float = 0.05,
        observation_bound: float = 10.0,
        micro_batch: int = 512,
        journal_folder: str | None = None,
        render_mode: str | None = None,
        device: str = "cpu",
        prompt_format: str = "bare",
        evaluate_formats: EvaluateFormats = None,
        format_edits: int = 100,
        scorer: str | None = None,
        separator: str | None = None,
        system: str | None = None,
        text: Texts = None,
        known: bool = False,
        max_new_tokens: int | None = None,
        end_weight: float = 1.0,
        **task_arguments: Any,
    ) -> None:
        asked: dict[str, Any] = {
            "prompt_format": prompt_format,
            "evaluate_formats": evaluate_formats,
            "format_edits": format_edits,
            "scorer": scorer,
            "separator": separator,
            "system": system,
            "text": text,
            "known": known,
            "max_new_tokens": max_new_tokens,
            "end_weight": end_weight,
        }
        arguments: dict[str, Any] = {
            "action": action,
            "edits_per_step": edits_per_step,
            "horizon": horizon,
            "split": split,
            "rehearse": rehearse,
            "rehearse_by": rehearse_by,
            "unique_subjects": unique_subjects,
            "order": order,
            "stream": stream,
            "look_back": look_back,
            "back_depth": back_depth,
            "decay": decay,
            "locality_weight": locality_weight,
            "norm_weight": norm_weight,
            "reference": reference,
            "basis": basis,
            "max_coefficient": max_coefficient,
            "rank": rank,
            "shift_limit": shift_limit,
            "observation_bound": observation_bound,
            "micro_batch": micro_batch,
            "journal_folder": journal_folder,
            "render_mode": render_mode,
        }
        EzPickle.__init__(self, task, device=device, **arguments, **asked, **task_arguments)
        for name, check in CHECKS.items():
            check(name, arguments[name])
        interview = Interview.of(**asked)
        weights = RewardWeights(
            back_depth, decay, locality_weight, norm_weight, reference, micro_batch, look_back
        )
        knowledge = task_for(KnowledgeTask, task, device, task_arguments, type(self).__init__)
        asked_so = knowledge.asked(interview)
        asked_so.check_asked()
        super().__init__(
            asked_so,
            LifelongSettings(
                edits_per_step,
                horizon,
                split,
                basis,
                weights,
                rehearse,
                unique_subjects,
                order,
                rehearse_by,
                stream,
            ),
            action,
            max_coefficient,
            rank,
            Shift(shift_limit),
            observation_bound,
            journal_folder,
            render_mode,
        )
