"""What an agent of Stable-Baselines3 learns with: its own settings, and those of the algorithm."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from agents.configured import Settings, setting
from agents.tune.search import LogUniform, Search, Searches, Uniform
from editgym.checks import Check, at_least, is_finite, is_whole, one_of, optional, whole, within

REFINE = 0.2
INNER = ("policy_kwargs", "train_env")  # settings whose keys are laid over a preset's
_HYPERPARAMETERS: Searches = {"learning_rate": LogUniform(0.1, 10, relative=True)}
_DICT = Check(lambda v: isinstance(v, Mapping), "a dict")
_FINITE = Check(is_finite, "a finite number")
_FLAG = Check(lambda v: isinstance(v, bool), "true or false")
_OR_ALL = Check(lambda v: is_whole(v) and v >= -1, "-1 or more, a whole number")
_TEXT = Check(lambda v: isinstance(v, str), "a text")


def _is_auto_from(value: object) -> bool:
    """Whether a value is `auto_` with a first value greater than 0 behind it."""
    try:
        return isinstance(value, str) and value[:5] == "auto_" and 0 < float(value[5:]) < math.inf
    except ValueError:
        return False


_OR_AUTO = Check(lambda v: is_finite(v) or v == "auto", 'a finite number, or "auto"')
_OR_AUTO_FROM = Check(
    lambda v: is_finite(v) or v == "auto" or _is_auto_from(v),
    'a finite number, "auto", or "auto_0.1" with a first value greater than 0',
)
_FREQUENCY = Check(
    lambda v: (
        whole(1).valid(v)
        or (
            isinstance(v, list | tuple)
            and len(v) == 2
            and whole(1).valid(v[0])
            and v[1] in ("step", "episode")
        )
    ),
    '1 or more, a whole number, or a pair of it with "step" or "episode"',
)
# Hyperparameters of all algorithms whose values are known; SB3 itself checks few, and those late.
_CHECKS: Mapping[str, Check] = {
    **dict.fromkeys(("n_steps", "batch_size", "n_top"), optional(whole(1))),
    **dict.fromkeys(
        (
            *("n_epochs", "buffer_size", "n_delta", "policy_delay", "target_update_interval"),
            *("cg_max_steps", "line_search_max_iter", "n_critic_updates", "sub_sampling_factor"),
            *("n_eval_episodes", "stats_window_size"),
        ),
        whole(1),
    ),
    **dict.fromkeys(("learning_starts", "top_quantiles_to_drop_per_net", "verbose"), whole(0)),
    **dict.fromkeys(("gradient_steps", "sde_sample_freq"), _OR_ALL),
    **dict.fromkeys(("gamma", "gae_lambda", "tau", "line_search_shrinking_factor"), within(0, 1)),
    **dict.fromkeys(
        (
            *("learning_rate", "clip_range", "vf_coef", "max_grad_norm", "delta_std"),
            *("target_policy_noise", "target_noise_clip", "rms_prop_eps", "cg_damping"),
        ),
        at_least(0),
    ),
    **dict.fromkeys(("clip_range_vf", "target_kl"), optional(at_least(0))),
    "ent_coef": _OR_AUTO_FROM,
    "target_entropy": _OR_AUTO,
    **dict.fromkeys(
        (
            *("normalize_advantage", "use_sde", "use_sde_at_warmup", "use_rms_prop"),
            *("optimize_memory_usage", "zero_policy"),
        ),
        _FLAG,
    ),
    "alive_bonus_offset": _FINITE,
    "train_freq": _FREQUENCY,
    "policy_kwargs": _DICT,
    "tensorboard_log": optional(_TEXT),
    "replay_buffer_kwargs": optional(
        Check(
            lambda v: v in ({}, *({"handle_timeout_termination": flag} for flag in (True, False))),
            "a dict with handle_timeout_termination, true or false",
        )
    ),
}


def _are_widths(value: object) -> bool:
    return isinstance(value, list | tuple) and all(whole(1).valid(one) for one in value)


_POLICY_CHECKS: Mapping[str, Check] = {
    "net_arch": optional(
        Check(
            lambda v: (
                _are_widths(v)
                or (
                    isinstance(v, Mapping)
                    and v.keys() <= {"pi", "vf", "qf"}
                    and all(map(_are_widths, v.values()))
                )
            ),
            "a list of widths, whole numbers of 1 or more, or such lists by pi and vf or qf",
        )
    ),
    **dict.fromkeys(("log_std_init", "clip_mean"), _FINITE),
    **dict.fromkeys(
        ("n_critics", "n_quantiles", "lstm_hidden_size", "n_lstm_layers"),
        whole(1),
    ),
    **dict.fromkeys(("batch_norm_eps", "batch_norm_momentum"), at_least(0)),
    "renorm_warmup_steps": whole(0),
    **dict.fromkeys(("optimizer_kwargs", "lstm_kwargs"), optional(_DICT)),
    **dict.fromkeys(
        (
            *("ortho_init", "use_sde", "full_std", "use_expln", "squash_output", "batch_norm"),
            *("share_features_extractor", "normalize_images", "enable_critic_lstm"),
            *("shared_lstm", "with_bias"),
        ),
        _FLAG,
    ),
}


@dataclass(frozen=True, kw_only=True)
class SB3Settings(Settings):
    """The settings of `SB3Agent`, which says what they are.

    Attributes:
        hyperparameters: Arguments of the algorithm's class, JSON values, by name; `of` and
            `as_dict` have them beside the other settings.
    """

    num_envs: int | None = setting(None, optional(whole(1)))
    rollout: int | None = setting(None, optional(whole(1)))
    shared_batch: bool = setting(False, one_of(False, True))
    start: float = setting(0.5, at_least(0), search=LogUniform(0.1, 2))
    refine: float = setting(REFINE, at_least(0))
    train_env: Mapping[str, Any] = setting(
        {}, _DICT, search={"locality_weight": LogUniform(0.5, 50)}
    )
    sketch: int = setting(64, whole(0))
    linear_decay: bool = setting(False, one_of(False, True))
    final_log_std: float | None = setting(None, optional(_FINITE), search=Uniform(-3, -1))
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for checks, given in (
            (_CHECKS, self.hyperparameters),
            (_POLICY_CHECKS, self.hyperparameters.get("policy_kwargs", {})),
        ):
            for name in checks.keys() & given.keys():
                checks[name](name, given[name])

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings with these values, and defaults for the rest; a name that is none of the fields
        is a hyperparameter.

        Raises:
            ValueError: A value is out of its range.
        """
        own = {field.name for field in dataclasses.fields(cls)} - {"hyperparameters"}
        return cls(
            **{name: value for name, value in given.items() if name in own},
            hyperparameters={name: value for name, value in given.items() if name not in own},
        )

    def as_dict(self) -> dict[str, Any]:
        """Every setting's value by name, hyperparameters among them."""
        values = super().as_dict()
        hyperparameters = values.pop("hyperparameters")
        return {**values, **hyperparameters}

    def searches(self) -> dict[str, Search]:
        """Where `agents.tune` looks for better values, hyperparameters among them, by name."""
        return {**super().searches(), **_HYPERPARAMETERS}

    def sized(self, episode_length: int) -> Self:
        """The same settings with `num_envs` and `n_steps` settled.

        Args:
            episode_length: Steps of an episode. Where `n_steps` is left out, a rollout is one of
                every candidate, or, with `num_envs`, as many whole ones as it pays for.

        Raises:
            ValueError: Neither `rollout` nor `num_envs` is given.
        """
        count, hyperparameters = self.num_envs, dict(self.hyperparameters)
        if self.rollout is not None:
            episodes = 1 if count is None else self.rollout // (count * episode_length)
            steps = hyperparameters.setdefault("n_steps", max(1, episodes) * episode_length)
            count = max(1, self.rollout // steps) if count is None else count
        if count is None:
            raise ValueError(
                "num_envs: expected a number of candidates, or a rollout to divide; got neither"
            )
        return dataclasses.replace(self, num_envs=count, hyperparameters=hyperparameters)

    def for_algorithm(self) -> dict[str, Any]:
        """The hyperparameters as SB3 takes them: with the pair that JSON has as a list."""
        found = dict(self.hyperparameters)
        if isinstance(found.get("train_freq"), list):
            found["train_freq"] = tuple(found["train_freq"])
        return found


def check_rollout(given: Mapping[str, Any]) -> None:
    """Refuse a rollout that is at odds with its factors.

    Args:
        given: Settings within their ranges, by name.

    Raises:
        ValueError: It is.
    """
    rollout, count, steps = (given.get(name) for name in ("rollout", "num_envs", "n_steps"))
    if rollout is None or count is None or steps is None or rollout == count * steps:
        return
    raise ValueError(
        f"rollout: {rollout} is given beside num_envs={count} and n_steps={steps}, whose product is"
        f" {count * steps}; leave one of the three out"
    )


def signature(kind: type[Settings]) -> inspect.Signature:
    """The signature of an agent with these settings: the algorithm, its settings, and further
    hyperparameters.
    """
    known, parameter = inspect.signature(kind).parameters, inspect.Parameter
    names = [field.name for field in dataclasses.fields(kind) if field.name != "hyperparameters"]
    algorithm = parameter(
        "algorithm", parameter.POSITIONAL_OR_KEYWORD, default="ppo", annotation="str"
    )
    more = parameter("hyperparameters", parameter.VAR_KEYWORD, annotation="Any")
    return inspect.Signature([algorithm, *(known[name] for name in names), more])
