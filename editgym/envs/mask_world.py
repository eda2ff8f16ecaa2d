"""MaskWorld: edit a network by scaling its weights, W ∘ M."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium.utils import EzPickle

from editgym.envs.arguments import given
from editgym.envs.worlds.env import WeightEditingEnv
from editgym.envs.worlds.vector import WeightEditingVectorEnv
from editgym.tasks import Signal
from editgym.weights import Mask, Rank


class MaskWorldEnv(WeightEditingEnv):
    """Scale a network's weights so that it forgets what it should and keeps the rest.

    The decision process of Malik, "Reinforcement Learning for Neural Model Editing" (arXiv
    2606.13461). No code of the paper is public; notes say where it is silent and what was chosen.

    Observation:
        `Box(-observation_bound, observation_bound, (n,), float32)`: the current weights of the
        edited sites, in `sites` order, each as an out × in matrix in C order. With more than
        `max_raw_observation` of them, a fixed random projection to `projection_size` numbers
        (`editgym.envs.sketch`). `observe_parameters` adds others of the network's parameters after
        them, which no edit changes; `observe_task=True` appends the goal, for example the forgotten
        class one-hot.

    Action:
        `Box(-1, 1, (m,), float32)`: per site, in order, A (out × rank) then B (rank × in), each
        raveled in C order; D = clip(A·B/√rank, −1, 1). With `rank="full"` the action is D itself.
        The zero action is no edit. A number that is not finite, or beyond ±(1 + 1e-6), is a
        `ValueError` and changes nothing.

    Transition:
        W ← W ∘ clip(1 + D, 0, 1), the paper's box [0, 1]. (The paper does not say how a product of
        factors is kept in its box.) Edits compound within an episode.

    Reward:
        R = alpha·U + beta·O at each step, of the weights as they now are, on a fresh batch of
        `batch_size` samples, drawn with replacement, from each of the task's reward sets.
        Unlearning: U is the score on retain, O on forget, alpha 3, beta −2. Debiasing: U is the
        score on general, O on unbiased, alpha 1, beta 3. `signal="probability"` scores a sample by
        the probability of its class, `"accuracy"` (the paper's) by whether it is predicted; a task
        with a `score` of its own says what a sample is worth instead
        (`editgym.tasks.protocol.score_of`).
        `probe_weight` (default 0: absent) takes off that many times P, 0–1: how well a linear
        probe, fitted to the penultimate features, still tells the forgotten classes
        (`editgym.envs.worlds.probe`).

    End:
        `terminated` after `episode_length` edits (default 1, as in the paper: a bandit). Never
        truncated.

    Info:
        Flat floats, the same keys every step: the reward batch's `retain_accuracy`,
        `retain_accuracy_before`, `forget_accuracy`, `forget_accuracy_before` (other tasks: their
        reward sets), `utility` (U), `edit` (O), `edit_step`, `is_success` (forget ≤ 1%, or unbiased
        above before, and retain or general ≥ before − 1 point). `reset` returns `network` and
        `goal`, the indices that were drawn, or that `options={"network": i, "goal": j}` asked for.
        The unedited network's accuracies over all reward data are in `env.unwrapped.unedited`.

    Arguments:
        task: A name of `editgym.tasks.TASKS`.
        render_mode: `"rgb_array"`, `"ansi"` or None (`"human"` is added by `gym.make`).
        rank: Columns of A, or `"full"`; None takes the task's (unlearning 4, debiasing `"full"` for
            the last layer).
        alpha: Weight of U; None takes the task's.
        beta: Weight of O; None takes the task's.
        signal: `"probability"` or `"accuracy"`.
        batch_size: Samples from each reward set; None takes the task's (1,024; debiasing 256).
        episode_length: Edits per episode.
        probe_weight: Weight of −P, for classes that are to be gone from the features too.
        metrics: Import paths `package.module:function` of metrics of one's own, functions
            `(network, task, goal) -> float | None` of the edited network, the task and the goal's
            index; what they return joins what `evaluate` returns, under the function's name.
        observe_task: Whether to append the goal to the observation.
        observe_parameters: Names or globs of parameters to observe beside the edited sites', such
            as `fc3.weight`, as they are in the unedited network.
        observation_bound: Observed numbers are clipped to ± this.
        max_raw_observation: Up to this many weights are observed as they are.
        projection_size: Size of the projection above that.
        device: `"cpu"`, `"cuda"` or `"cuda:N"`: where weights, data and rewards live.
        **task_arguments: The task's own (`editgym.tasks.images`, `editgym.tasks.own_images`,
            `editgym.tasks.texts`): `forget_class` (a class or a set of classes), `goals` (several
            of those; an episode draws one), `forget_samples`, `forget_indices`, `sites` (names or
            globs), `model_seed`, `networks` (several model seeds; an episode draws one),
            `undertrained`, …

    Raises:
        ValueError: An argument is unknown or out of range; the message names it and what would be
            right.

    Example:
        >>> import gymnasium as gym, editgym
        >>> env = gym.make("MaskWorld-v0", forget_class=3)
        >>> observation, info = env.reset(seed=0)
        >>> action = 0 * env.action_space.sample()
        >>> observation, reward, terminated, truncated, info = env.step(action)
        >>> info["retain_accuracy"] == info["retain_accuracy_before"]
        True

    Version history:
        v0: The first version.
    """

    def __init__(
        self,
        task: str = "unlearning/digits",
        render_mode: str | None = None,
        *,
        rank: Rank | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        signal: Signal = "probability",
        batch_size: int | None = None,
        episode_length: int = 1,
        probe_weight: float = 0.0,
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
        super().__init__(Mask(), **arguments)


class MaskWorldVectorEnv(WeightEditingVectorEnv):
    """K candidates of `MaskWorldEnv` in one process on one device; `gym.make_vec("MaskWorld-v0",
    num_envs=K)`.

    Candidate i, seeded `seed + i`, goes through what a single environment with that seed goes
    through. `help(MaskWorldEnv)` is the specification, and tells what the arguments are that are
    not told here.

    Args:
        num_envs: K.
        shared_batch: Whether all candidates are scored on one batch: faster, and a different
            environment.
        max_episode_steps: Truncates episodes after this many steps; None leaves them whole.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "unlearning/digits",
        render_mode: str | None = None,
        *,
        shared_batch: bool = False,
        max_episode_steps: int | None = None,
        rank: Rank | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        signal: Signal = "probability",
        batch_size: int | None = None,
        episode_length: int = 1,
        probe_weight: float = 0.0,
        metrics: Sequence[str] = (),
        observe_task: bool = False,
        observe_parameters: Sequence[str] = (),
        observation_bound: float = 5.0,
        max_raw_observation: int = 65_536,
        projection_size: int = 1_024,
        device: str = "cpu",
        **task_arguments: Any,
    ) -> None:
        super().__init__(Mask(), **given(locals()))
