"""One policy for every class and every network of a shape, learned by the reward's own gradient."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor
from tqdm import trange

from agents.configured import ConfiguredAgent, Settings, read_config, setting, write_config
from agents.episodes import steps_of
from agents.protocol import Access, Budget, Stopwatch, Unsupported
from agents.rl.exchangeable import EntryEdit, MatrixShape
from editgym.checks import above, whole
from editgym.envs.protocol import edit_env, gradient_world
from editgym.models.state_files import read_state
from editgym.models.training import generators_kept, one_thread
from editgym.paths import whole_file
from editgym.weights import EditJournal, Mask, Shift

_POLICY_FILE = "policy.pt"


@dataclass(frozen=True, kw_only=True)
class GradientEditorSettings(Settings):
    """The settings of `GradientEditor`, which says what they are."""

    steps: int = setting(2_500, whole(1))
    batch: int = setting(8, whole(1))
    learning_rate: float = setting(3e-3, above(0))
    hidden: int = setting(40, whole(1))


class GradientEditor(ConfiguredAgent):
    """A policy (`agents.rl.exchangeable.EntryEdit`) that learns to edit for any goal in any network
    of one shape, by Adam on the gradient of the reward by its actions.

    Learn it on an environment with `goals`, `networks`, `observe_task=True` and the
    `observe_parameters` that the policy reads; `edit` then needs no further learning in another one
    of that shape. Beside `agents.rl.general_editor`, which learns from rewards alone, it tells what
    the policy network can hold. It is not in the catalogue, whose agents learn where they are
    tested: its import path is `agents.rl.gradient_editor:GradientEditor`.

    Args:
        steps: Steps of Adam; the budget's reward calls may end them earlier.
        batch: Episodes of a step, each with a network and a goal of its own.
        learning_rate: Adam's first learning rate, which falls to 0 along half a cosine.
        hidden: Width of the policy's layers.

    Raises:
        ValueError: A setting is out of its range.
    """

    name: ClassVar[str] = "gradient_editor"
    access: ClassVar[Access] = "gradient"
    saves_the_best_yet: ClassVar[bool] = True
    settings_type: ClassVar[type[Settings]] = GradientEditorSettings
    settings: GradientEditorSettings
    _policy: EntryEdit | None = None

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Learn until the steps or the budget are spent.

        Raises:
            Unsupported: It is no world, an episode has several edits, or observations or actions
                are not the policy's.
            ValueError: The budget does not pay for one step.
        """
        given, watch = self.settings, Stopwatch(budget.seconds)
        self._policy = None
        with closing(gym.make(env_spec)) as env, one_thread():
            world, shape = gradient_world(env), self._shape_of(env)
            steps = given.steps
            if budget.reward_calls is not None:
                if budget.reward_calls < given.batch:
                    raise ValueError(
                        f"budget: {budget.reward_calls} reward calls do not pay for one step of"
                        f" {given.batch} (batch); raise the budget or lower the batch"
                    )
                steps = min(steps, budget.reward_calls // given.batch)
            with generators_kept():
                torch.manual_seed(seed)
                policy = EntryEdit(shape, given.hidden, isinstance(world.operator, Shift))
            optimizer = torch.optim.Adam(policy.parameters(), given.learning_rate)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
            env.reset(seed=seed)
            for _ in trange(steps, desc=self.name, unit="step", leave=False):
                if watch.expired:
                    break
                optimizer.zero_grad(set_to_none=True)
                for _ in range(given.batch):
                    self._episode(policy, env)
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                optimizer.step()
                falling.step()
                self._policy = policy  # what was learned so far stays after Ctrl-C
            self._policy = policy.eval()

    def edit(self, env: gym.Env) -> EditJournal:
        """Edit the network of a fresh episode.

        Raises:
            RuntimeError: There is no policy yet.
            Unsupported: The environment has episodes of several edits, another operator, or another
                shape than the one it learned in.
        """
        if self._policy is None:
            raise RuntimeError(f"{self.name} has no policy yet: call learn() or load() first")
        world, found = gradient_world(env), self._shape_of(env)
        if found != self._policy.shape:
            raise Unsupported(f"{self.name} learned on {self._policy.shape}, here is {found}")
        if isinstance(world.operator, Shift) != self._policy.signed:
            learned = Shift if self._policy.signed else Mask
            raise Unsupported(
                f"{self.name} learned where an action is a {learned.__name__} of the weights, and"
                f" in {world} it is a {type(world.operator).__name__}"
            )
        observation, _ = env.reset()
        with torch.no_grad():
            action = self._policy(torch.from_numpy(observation).unsqueeze(0))[0]
        env.step(action.numpy())
        return world.journal

    def _shape_of(self, env: gym.Env) -> MatrixShape:
        """What the policy sees and gives in an environment, whose episodes have to be one edit."""
        world, steps = edit_env(env), steps_of(env)
        if steps != 1:
            raise Unsupported(
                f"{self.name} makes edits of one step, and an episode of {world} has"
                f" {steps}; give episode_length=1"
            )
        return MatrixShape.of(world.layout, world.observation_space)

    def _episode(self, policy: EntryEdit, env: gym.Env) -> None:
        """Add the gradient of one episode's share of the mean reward to the policy's."""
        world = gradient_world(env)
        observation, _ = env.reset()
        action: Tensor = policy(torch.from_numpy(observation).unsqueeze(0))[0]
        reward = world.differentiable_step(action.to(world.weights[0].device)).reward.sum()
        (-reward / self.settings.batch).backward()

    # --- files ------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the configuration and the policy."""
        if self._policy is None:
            raise RuntimeError(f"{self.name} has nothing to save: call learn() first")
        write_config(folder, self.config)
        state: dict[str, Any] = {
            "shape": asdict(self._policy.shape),
            "signed": self._policy.signed,
            "hidden": self.settings.hidden,
            "parameters": self._policy.state_dict(),
        }
        with whole_file(folder / _POLICY_FILE) as partial:
            torch.save(state, partial)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
            ValueError: A file of it is damaged.
        """
        if not (folder / _POLICY_FILE).is_file():
            raise FileNotFoundError(f"no agent in {folder}: there is no {_POLICY_FILE}")
        agent = cls(**read_config(folder))
        needed = ("shape", "signed", "hidden", "parameters")
        state = read_state(folder / _POLICY_FILE, needed, "policy", "train the agent again")
        with generators_kept():  # the first weights are random, and nobody's draws
            policy = EntryEdit(MatrixShape(**state["shape"]), state["hidden"], state["signed"])
        policy.load_state_dict(state["parameters"])
        agent._policy = policy.eval()
        return agent
