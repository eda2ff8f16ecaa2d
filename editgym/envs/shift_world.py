"""ShiftWorld: edit a network by adding to its weights, W + Δ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode

from editgym.envs.arguments import OutOfRange, given
from editgym.envs.worlds.common import Observed, RankChoice
from editgym.envs.worlds.env import WeightEditingEnv
from editgym.envs.worlds.scores import RewardKind
from editgym.envs.worlds.vector import WeightEditingVectorEnv
from editgym.tasks import Signal
from editgym.weights import Origin, Shift


class ShiftWorldEnv(WeightEditingEnv):
    """Add to a network's weights so that it forgets what it should and keeps the rest.

    The second decision process of Malik, "Reinforcement Learning for Neural Model Editing" (arXiv
    2606.13461). No code of the paper is public; notes say where it is silent and what was chosen.

    Observation:
        `Box(-observation_bound, observation_bound, (n,), float32)`: what can differ from one
        decision to another. Where episodes have several edits, or there are several networks, these
        are the current weights of the edited sites, in `sites` order, each as an out × in matrix in
        C order; with more than `max_raw_observation` of them, a fixed random projection to
        `projection_size` numbers (`editgym.envs.sketch`). Where there are several goals, the goal
        is appended, for example the forgotten class one-hot. Where nothing can differ, the
        observation is the constant 1, `Box(..., (1,))`. `observe="weights"` shows the weights
        always, and the goal with `observe_task=True`. `observe_parameters` adds others of the
        network's parameters after the weights, which no edit changes.

    Action:
        `Box(-1, 1, (m,), float32)`: D itself, per site, in order, raveled in C order, up to 4,096
        numbers together. Above, per site A (out × rank) then B (rank × in), each raveled in C
        order; D = clip((A₀ + A)·B/√rank, −1, 1), A₀ fixed and random. The zero action is no edit.
        Finite numbers beyond ±1 are clipped, and the journal holds what was applied; a number that
        is not finite is a `ValueError` and changes nothing. With `out_of_range="error"` so is one
        beyond ±(1 + 1e-6).

    Transition:
        W ← W + `shift_limit`·D, the paper's box ±0.05 by default. (The paper does not say how a
        product of factors is kept in its box.) Edits compound within an episode.

    Reward:
        V = alpha·U + beta·O on a batch of `batch_size` samples, drawn with replacement, from each
        of the task's reward sets. Unlearning: U is the score on retain, O on forget, alpha 3,
        beta −2. Debiasing: U is the score on general, O on unbiased, alpha 1, beta 3.
        `signal="probability"` scores a sample by the probability of its class, `"accuracy"` (the
        paper's) by whether it is predicted; a task with a `score` of its own says what a sample is
        worth instead (`editgym.tasks.protocol.score_of`). `probe_weight` (default 0: absent) takes
        off that many times P, 0–1: how well a linear probe, fitted to the penultimate features,
        still tells the forgotten classes (`editgym.envs.worlds.probe`); `relearn_weight` (default
        0: absent) that many times L, 0–1: how well the logits tell them, whatever constant is added
        to these, after one step of SGD on five of their images (`editgym.envs.worlds.relearning`).
        A step's reward is what it added to V; an episode keeps one batch, so its rewards add up to
        V of the edited network less V of the unedited one on the same batch, and no edit has 0.
        `reward="absolute"` (the paper's): V of the weights as they now are, on a fresh batch at
        each step.

    End:
        `terminated` after `episode_length` edits (default 1, as in the paper: a bandit). Never
        truncated.

    Info:
        Flat floats, the same keys at every step and at reset: the reward batch's `retain_accuracy`,
        `retain_accuracy_before`, `forget_accuracy`, `forget_accuracy_before` (other tasks: their
        reward sets), `utility` (U), `edit` (O), `edit_step`, `is_success` (forget ≤ 1%, or unbiased
        above before, and retain or general ≥ before − 1 point), and `network` and `goal`, the
        indices that were drawn, or that `options={"network": i, "goal": j}` asked of `reset`. At
        reset they are of the unedited network. With `uniform_info=False`, `reset` returns `network`
        and `goal` alone, and `step` all others.
        The unedited network's accuracies over all reward data are in `env.unwrapped.unedited`.

    Arguments:
        task: A name of `editgym.tasks.TASKS`.
        render_mode: `"rgb_array"`, `"ansi"` or None (`"human"` is added by `gym.make`).
        shift_limit: The most that one step adds to a weight; greater than 0.
        rank: Columns of A, or `"full"`. `"auto"` is `"full"` up to 4,096 edited weights, and above
            that the task's; None is the task's always (unlearning 4, debiasing `"full"` for the
            last layer).
        origin: What A is an offset from: `"lora"` for the fixed A₀, or `"zero"`, where A = B = 0 is
            a saddle point.
        reward: `"improvement"` or `"absolute"`.
        observe: `"auto"` for what can differ, or `"weights"`.
        out_of_range: What finite numbers of an action beyond ±1 are: `"clip"` or `"error"`.
        uniform_info: Whether `reset` and `step` return the same keys of info.
        alpha: Weight of U; None takes the task's.
        beta: Weight of O; None takes the task's.
        signal: `"probability"` or `"accuracy"`.
        batch_size: Samples from each reward set; None takes the task's (1,024; debiasing 256).
        episode_length: Edits per episode.
        probe_weight: Weight of −P, for classes that are to be gone from the features too.
        relearn_weight: Weight of −L, for classes that a few images are not to bring back.
        metrics: Import paths `package.module:function` of metrics of one's own, functions
            `(network, task, goal) -> float | None` of the edited network, the task and the goal's
            index; what they return joins what `evaluate` returns, under the function's name.
        observe_task: Whether to append the goal to the observation where it cannot differ too.
        observe_parameters: Names or globs of parameters to observe beside the edited sites', such
            as `fc3.weight`, as they are in the unedited network.
        observation_bound: Observed numbers are clipped to ± this.
        max_raw_observation: Up to this many weights are observed as they are.
        projection_size: Size of the projection above that.
        device: `"cpu"`, `"cuda"` or `"cuda:N"`: where weights, data and rewards live.
        **task_arguments: The task's own (`images` and `own_images` in `editgym.tasks.unlearning`,
            `texts` in `editgym.tasks.debiasing`): `forget_class` (a class or a set of classes),
            `goals` (several of those; an episode draws one), `forget_samples`, `forget_indices`,
            `sites` (names or globs), `model_seed`, `networks` (several model seeds; an episode
            draws one), `undertrained`, …

    Raises:
        ValueError: An argument is unknown or out of range; the message names it and what would be
            right.

    Example:
        >>> import gymnasium as gym, editgym
        >>> env = gym.make("ShiftWorld-v1", shift_limit=0.1, episode_length=2)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> terminated
        False

    Version history:
        v1: Agents as their libraries have them learn. An action is D itself where the site is
            small, and its factors are no saddle point where it is not; the reward is an
            improvement; the observation leaves out what cannot differ; actions are clipped; reset
            and step have the same keys of info.
        v0: The paper's decision process, the first version: `rank=None`, `origin="zero"`,
            `reward="absolute"`, `observe="weights"`, `out_of_range="error"`, `uniform_info=False`.
    """

    def __init__(
        self,
        task: str = "unlearning/digits",
        render_mode: str | None = None,
        shift_limit: float = 0.05,
        *,
        rank: RankChoice = "auto",
        origin: Origin = "lora",
        reward: RewardKind = "improvement",
        observe: Observed = "auto",
        out_of_range: OutOfRange = "clip",
        uniform_info: bool = True,
        alpha: float | None = None,
        beta: float | None = None,
        signal: Signal = "probability",
        batch_size: int | None = None,
        episode_length: int = 1,
        probe_weight: float = 0.0,
        relearn_weight: float = 0.0,
        metrics: Sequence[str] = (),
        observe_task: bool = False,
        observe_parameters: Sequence[str] = (),
        observation_bound: float = 5.0,
        max_raw_observation: int = 65_536,
        projection_size: int = 1_024,
        device: str = "cpu",
        **task_arguments: Any,
    ) -> None:
        arguments = given(locals())
        EzPickle.__init__(self, **arguments)
        del arguments["shift_limit"]
        super().__init__(Shift(shift_limit), **arguments)


class ShiftWorldVectorEnv(WeightEditingVectorEnv):
    """K candidates of `ShiftWorldEnv` in one process on one device; `gym.make_vec("ShiftWorld-v1",
    num_envs=K)`.

    Candidate i, seeded `seed + i`, goes through what a single environment with that seed goes
    through. `help(ShiftWorldEnv)` is the specification, and tells what the arguments are that are
    not told here.

    Args:
        num_envs: K.
        shared_batch: Whether all candidates are scored on one batch: faster, and a different
            environment.
        max_episode_steps: Truncates episodes after this many steps; None leaves them whole.
        autoreset_mode: `"same_step"`, `"next_step"`, `"disabled"`, or Gymnasium's `AutoresetMode`:
            when an episode that is over gives way to the next (`WeightEditingVectorEnv`).
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "unlearning/digits",
        render_mode: str | None = None,
        *,
        shared_batch: bool = False,
        shift_limit: float = 0.05,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = "same_step",
        rank: RankChoice = "auto",
        origin: Origin = "lora",
        reward: RewardKind = "improvement",
        observe: Observed = "auto",
        out_of_range: OutOfRange = "clip",
        uniform_info: bool = True,
        alpha: float | None = None,
        beta: float | None = None,
        signal: Signal = "probability",
        batch_size: int | None = None,
        episode_length: int = 1,
        probe_weight: float = 0.0,
        relearn_weight: float = 0.0,
        metrics: Sequence[str] = (),
        observe_task: bool = False,
        observe_parameters: Sequence[str] = (),
        observation_bound: float = 5.0,
        max_raw_observation: int = 65_536,
        projection_size: int = 1_024,
        device: str = "cpu",
        **task_arguments: Any,
    ) -> None:
        arguments = given(locals())
        del arguments["shift_limit"]
        super().__init__(Shift(shift_limit), **arguments)
