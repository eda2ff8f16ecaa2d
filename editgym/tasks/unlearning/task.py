"""Machine unlearning in image classifiers: forget classes, or samples, and keep the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from editgym.data.images import Labelled
from editgym.metrics.attacks import Target, attacks
from editgym.metrics.classification import weights_changed
from editgym.metrics.privacy import Evidence, forgetting_checks, oracle_gap
from editgym.metrics.recovery import ATTACKS, recovered, scales
from editgym.tasks.protocol import Goal, RewardDefaults, correctness, network_of
from editgym.tasks.unlearning.goals import (
    GivenSamples,
    class_goal,
    is_forgotten,
    random_samples,
    sample_goal,
)
from editgym.tasks.unlearning.network_checks import warn_of_poor_oracle
from editgym.tasks.unlearning.splits import Splits
from editgym.weights import EditableNetwork, EditJournal, ReplaceTensors

_Measures = dict[str, float | None]


@dataclass
class UnlearningTask:
    """Forget one class, a set of classes, or training samples.

    Classes: the reward sets are the policy split's samples of the forgotten classes (`forget`) and
    of the others (`retain`); U is the score on retain, O the score on forget, alpha 3, beta −2
    (Malik 2026).

    Samples: 0% is not the goal for samples the network could also classify without having seen
    them, so O = −|score(forget) − score(unseen)| with beta 2; forget and retain divide the model
    split, unseen is the policy split. The forgotten samples are what they are, so reports use them
    too; retain is then reported on test data.

    Attributes:
        name: The task's name in the catalogue.
        networks: Unedited networks, one per model seed.
        splits: The data, on the task's device.
        n_classes: Number of classes.
        forget: The classes of every goal; empty when samples are forgotten.
        samples: The samples to forget instead of classes, or how many random ones.
        sample_seed: Draws the random ones.
        retrain: Trains, for the network of the given index, its twin on the given part of the model
            split: the oracle. None where no such network can be made.
        native: Indices of the networks that belong to these splits; others were trained on
            divisions of their own, and have neither oracle nor members here.
        members_known: Whether the native networks are known to have been trained on the model
            split; else nothing is said of membership.
        class_names: The classes' names, by their numbers, where goals are called by them.
    """

    name: str
    networks: tuple[EditableNetwork, ...]
    splits: Splits
    n_classes: int
    forget: tuple[tuple[int, ...], ...]
    samples: int | GivenSamples | None = None
    sample_seed: int = 0
    retrain: Callable[[int, Labelled, str], nn.Module] | None = None
    native: tuple[int, ...] = (0,)
    members_known: bool = True
    class_names: tuple[str, ...] = ()
    pool: Labelled = field(init=False)
    goals: tuple[Goal, ...] = field(init=False)
    # What does not depend on the edit: measures of the unedited and of the retrained network, by
    # network and goal.
    _known: dict[tuple[int, int], tuple[_Measures, _Measures | None]] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.samples is None:
            self.pool = self.splits.policy
            parts = {name: getattr(self.splits, name) for name in ("model", "policy", "test")}
            self.goals = tuple(
                class_goal(self.name, classes, parts, self.n_classes, self.class_names)
                for classes in self.forget
            )
        else:
            self.pool = Labelled.join(self.splits.model, self.splits.policy)
            total = len(self.splits.model)
            chosen = self.samples
            if isinstance(chosen, int):
                chosen = random_samples(chosen, total, self.sample_seed)
            self.goals = (sample_goal(chosen, total, self.pool.labels, self.n_classes),)

    @property
    def device(self) -> torch.device:
        """Where networks and data live."""
        return self.pool.labels.device

    @property
    def set_names(self) -> tuple[str, ...]:
        """The reward sets."""
        return ("retain", "forget") if self.samples is None else ("retain", "forget", "unseen")

    @property
    def rewards(self) -> RewardDefaults:
        """alpha 3 and beta −2 for classes (Malik 2026); beta 2 for samples."""
        return RewardDefaults(
            alpha=3.0, beta=-2.0 if self.samples is None else 2.0, batch_size=1024
        )

    def utility(self, scores: Mapping[str, Tensor]) -> Tensor:
        """U: the score on retain."""
        return scores["retain"]

    def edit(self, scores: Mapping[str, Tensor]) -> Tensor:
        """O: the score on forget; for samples minus its distance from the score on unseen data."""
        return (
            scores["forget"]
            if self.samples is None
            else -(scores["forget"] - scores["unseen"]).abs()
        )

    def is_success(self, accuracy: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
        """Forget ≤ 1% (samples: within a point of unseen) and retain ≥ before − 1 point."""
        kept = accuracy["retain"] >= before["retain"] - 0.01
        if self.samples is None:
            return kept & (accuracy["forget"] <= 0.01)
        return kept & ((accuracy["forget"] - accuracy["unseen"]).abs() <= 0.01)

    def model_split(self, goal: int = 0) -> tuple[Labelled, Labelled]:
        """(retain, forget): the network's own training data, divided by a goal, for agents with
        data access.
        """
        if self.samples is not None:
            members = self.goals[goal].members
            return self.pool[members["retain"]], self.pool[members["forget"]]
        forgotten = is_forgotten(self.splits.model.labels, self.forget[goal])
        return self.splits.model[~forgotten], self.splits.model[forgotten]

    def validation_split(self, goal: int = 0) -> tuple[Labelled, Labelled]:
        """(retain, forget): the validation split, divided by a goal; where samples are forgotten
        these are the second part.
        """
        data = self.splits.validation
        if self.samples is not None:
            return data, self.model_split(goal)[1]
        forgotten = is_forgotten(data.labels, self.forget[goal])
        return data[~forgotten], data[forgotten]

    def test_sets(self, goal: int = 0) -> dict[str, Labelled]:
        """What reports are made on: `retain` and `forget`, and `test` as a whole."""
        test = self.splits.test
        if self.samples is not None:
            return {"retain": test, "forget": self.model_split(goal)[1], "test": test}
        forgotten = is_forgotten(test.labels, self.forget[goal])
        return {"retain": test[~forgotten], "forget": test[forgotten], "test": test}

    def oracle(self, index: int, goal: int = 0) -> nn.Module | None:
        """The network of the given index, retrained without what is to be forgotten; None where it
        cannot be.

        It is trained at first use and kept in the cache of networks.
        """
        if self.retrain is None:
            return None
        with torch.random.fork_rng(devices=[]):  # to build a network draws numbers
            return self.retrain(
                index, self.model_split(goal)[0], f"without: {self.goals[goal].label}"
            )

    def accuracies(self, network: EditableNetwork, goal: int = 0) -> dict[str, float]:
        """`retain_accuracy`, `forget_accuracy` and `test_accuracy` of a network, on test data."""
        return {
            f"{name}_accuracy": correctness(self, network.logits(data.inputs), data.labels)
            for name, data in self.test_sets(goal).items()
        }

    def evaluate(self, journal: EditJournal, goal: int = 0) -> dict[str, float | None]:
        """The leaderboard's metrics, on the test split: accuracies before and after, and whether
        forgetting is real.

        The attacks (`editgym.metrics.attacks`): what it takes to have the forgotten back, and the
        share that each recovers, from chance where nothing can be retrained. None: the logit attack
        where samples are forgotten.

        The checks (`editgym.metrics.privacy`): can membership in the training data be told for the
        forgotten data, do the features still tell the forgotten class, in how many steps is it
        relearned, and how far is all that from the network that never saw it. That network is
        trained at first use. None: the probe where samples are forgotten; the gap where nothing can
        be retrained; membership where it is not known what a network was trained on; gap and
        membership for networks that are not `native`.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
        """
        network = network_of(self.networks, journal)
        unedited = network.fresh()
        before, oracle = self._references(network.base_hash, goal)
        metrics = self._measures(network, goal, before["forget_accuracy"])
        share, norm = weights_changed(
            network.parameters_changed.values(), dict(unedited.current_tensors()).values()
        )
        members, others = self._membership(goal)
        kept = ("retain_accuracy", "forget_accuracy", "test_accuracy", "probe_accuracy", *ATTACKS)
        return (
            metrics
            | {f"{name}_before": before[name] for name in kept}
            | recovered(metrics, before, oracle, scales(len(members), len(others)))
            | {
                "oracle_gap": None if oracle is None else oracle_gap(metrics, oracle),
                "weights_changed": share,
                "weights_changed_norm": norm,
            }
        )

    def _references(self, base_hash: str, goal: int) -> tuple[_Measures, _Measures | None]:
        """The measures of the unedited network and of the retrained one."""
        index = [network.base_hash for network in self.networks].index(base_hash)
        if (index, goal) not in self._known:
            unedited = self.networks[index].fresh()
            before = self._measures(
                unedited, goal, self.accuracies(unedited, goal)["forget_accuracy"]
            )
            oracle = None
            if index in self.native and (retrained := self.oracle(index, goal)) is not None:
                twin = unedited.fresh()
                twin.apply(ReplaceTensors(retrained.state_dict()))
                oracle = self._measures(twin, goal, before["forget_accuracy"])
                warn_of_poor_oracle(
                    f"network {index}, {self.goals[goal].label}",
                    before,
                    oracle,
                    saw_no_class=self.samples is None,
                )
            self._known[index, goal] = before, oracle
        return self._known[index, goal]

    def _measures(
        self, network: EditableNetwork, goal: int, forget_before: float | None
    ) -> _Measures:
        """Accuracies and checks of one network."""
        assert forget_before is not None
        sets, members = self.test_sets(goal), self.goals[goal].members
        native = {self.networks[index].base_hash for index in self.native}
        own = self.members_known and network.base_hash in native
        trained, others = self._membership(goal)
        evidence = Evidence(
            forget=sets["forget"],
            relearn=self.pool[torch.cat([members["forget"], members["retain"]])],
            probe=None if self.samples is not None else self.splits.policy,
            members=trained if own else None,
            others=others,
        )
        target = Target(
            sets["forget"],
            sets["retain"],
            () if self.samples is not None else self.forget[goal],
            self.pool[members["forget"]],
            evidence.members,
            evidence.others,
        )
        return (
            self.accuracies(network, goal)
            | forgetting_checks(network.merged(), evidence, forget_before)
            | attacks(network.merged(), network.fresh().merged(), target)
        )

    def _membership(self, goal: int) -> tuple[Labelled, Labelled]:
        """Forgotten samples that a native network was trained on, and samples like them that it was
        not trained on.
        """
        others = self.test_sets(goal)["forget"] if self.samples is None else self.splits.test
        return self.model_split(goal)[1], others
