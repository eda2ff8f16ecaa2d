"""Classical bias mitigation on the model and its data: the last layer, its frontier, counterfactual
augmentation.

All of them see the policy split, whose rewards the other agents see, with its labels and texts, and
choose on the validation split: the largest unbiased accuracy at no more than `tolerance` less
general accuracy; where nothing is better than no edit within that, the network stays as it is.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec
from torch import Tensor, nn

from agents.configured import ConfiguredAgent
from agents.debiasing.last_layer import Features, Head, HeadOfNetwork, Point, best_within
from agents.protocol import Access, Budget, Unsupported
from agents.unlearning.retrain import replace
from editgym.data.text import Comments
from editgym.models.training import one_thread
from editgym.tasks.debiasing import DebiasingTask
from editgym.weights import EditableNetwork, EditJournal, ReplaceTensors

# Of the inputs to the first edited layer; what a transformer keeps for its gradient is some thirty
# times as much.
_NUMBERS_IN_ONE_GRAPH = 1 << 24
_WEIGHTINGS = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class DebiasingAgent(ConfiguredAgent):
    """An agent that looks at the network and data of a debiasing task; `learn` keeps the seed,
    `edit` does the work.
    """

    access: ClassVar[Access] = "data"

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Check the task, and keep the seed.

        Raises:
            Unsupported: It is not a debiasing task.
        """
        debiasing_task(gym.make(env_spec))
        if "seed" in self.config:
            self.config["seed"] = seed


class FineTuning(DebiasingAgent):
    """Adam on all of CE(general) + weighting · CE(unbiased) at a time, on comments and templates
    together.

    It begins at the network's own weights once for every weighting; what it has after every
    `check_every` steps is a candidate. A subclass says which tensors it moves.

    Args:
        weightings: Of the templates.
        steps: Of Adam.
        learning_rate: Of Adam.
        check_every: Steps between two candidates.
        tolerance: See above.
    """

    def __init__(
        self,
        weightings: Sequence[float],
        steps: int,
        learning_rate: float,
        check_every: int,
        tolerance: float,
    ) -> None:
        self.config = {
            "weightings": list(weightings),
            "steps": steps,
            "learning_rate": learning_rate,
            "check_every": check_every,
            "tolerance": tolerance,
        }

    def candidates(
        self,
        own: Sequence[Tensor],
        losses: Callable[[Sequence[Tensor], tuple[float, float]], Iterable[Tensor]],
    ) -> Iterator[list[Tensor]]:
        """Tensors in place of the network's `own`.

        `losses` gives the terms of the loss of such tensors, each from a graph of its own, for the
        weights of general and unbiased.
        """
        for weighting in self.config["weightings"]:
            moved = [tensor.clone().requires_grad_() for tensor in own]
            optimizer = torch.optim.Adam(moved, lr=self.config["learning_rate"])
            for step in range(1, self.config["steps"] + 1):
                optimizer.zero_grad(set_to_none=True)
                for term in losses(moved, (1.0, weighting)):
                    term.backward()
                optimizer.step()
                if step % self.config["check_every"] == 0:
                    yield [tensor.detach().clone() for tensor in moved]


class LastLayerFineTune(FineTuning):
    """Fine-tune the last layer, weight and bias (Kirichenko et al. 2023, DFR); arguments as
    `FineTuning`.
    """

    name = "last_layer_fine_tune"

    def __init__(
        self,
        weightings: Sequence[float] = (0.3, 1.0, 3.0),
        steps: int = 200,
        learning_rate: float = 0.01,
        check_every: int = 10,
        tolerance: float = 0.01,
    ) -> None:
        super().__init__(weightings, steps, learning_rate, check_every, tolerance)

    def edit(self, env: gym.Env) -> EditJournal:
        """Fine-tune the last layer of the network of a fresh episode."""
        task, network = start(env)
        own = HeadOfNetwork(network, task.pool.inputs[:8])
        policy = own.pair(task.labelled("policy"))

        def losses(moved: Sequence[Tensor], weights: tuple[float, float]) -> Iterator[Tensor]:
            return (
                weight * F.cross_entropy(Head(*moved).logits(part.x), part.y)
                for weight, part in zip(weights, policy, strict=True)
            )

        with one_thread():
            heads = [
                Head(*moved) for moved in self.candidates([own.head.weight, own.head.bias], losses)
            ]
        return replace_head(env, own, best_head(task, own, heads, self.config["tolerance"]))


class SiteFineTune(FineTuning):
    """Fine-tune the matrices of the environment's sites, without the box of actions; arguments as
    `FineTuning`.

    Whatever layers are open, and their weights alone: what an edit of them can reach.
    """

    name = "site_fine_tune"

    def __init__(
        self,
        weightings: Sequence[float] = (0.1, 0.3, 1.0),
        steps: int = 600,
        learning_rate: float = 1e-3,
        check_every: int = 10,
        tolerance: float = 0.01,
    ) -> None:
        super().__init__(weightings, steps, learning_rate, check_every, tolerance)

    def edit(self, env: gym.Env) -> EditJournal:
        """Fine-tune the sites of the network of a fresh episode."""
        task, network = start(env)
        own = [weight.unsqueeze(0) for weight in network.weights]
        policy, validation = (
            [(network.activations(part.inputs), part.labels) for part in task.labelled(split)]
            for split in ("policy", "validation")
        )

        def losses(moved: Sequence[Tensor], weights: tuple[float, float]) -> Iterator[Tensor]:
            for weight, (seen, labels) in zip(weights, policy, strict=True):
                for some, right in _pieces(seen, labels):
                    loss = F.cross_entropy(network.candidate_logits(moved, some)[0], right)
                    yield weight * (len(right) / len(labels)) * loss

        @torch.no_grad()
        def accuracy(moved: Sequence[Tensor], seen: Sequence[Tensor], labels: Tensor) -> float:
            return sum(
                int((network.candidate_logits(moved, some)[0].argmax(-1) == right).sum())
                for some, right in _pieces(seen, labels)
            ) / len(labels)

        def measure(moved: Sequence[Tensor]) -> Point:
            return Point(*(accuracy(moved, seen, labels) for seen, labels in validation))

        with one_thread():
            best = best_within(
                measure(own), self.candidates(own, losses), measure, self.config["tolerance"]
            )
        if best is not None:
            network.apply(
                ReplaceTensors(
                    {
                        site.parameter: site.to_stored(weight[0])
                        for site, weight in zip(network.sites, best, strict=True)
                    }
                )
            )
        return network.journal


def _pieces(seen: Sequence[Tensor], labels: Tensor) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Activations and labels, so many samples at a time as one graph may hold."""
    rows = max(1, _NUMBERS_IN_ONE_GRAPH // sum(a[0].numel() for a in seen))
    return zip(zip(*(a.split(rows) for a in seen), strict=True), labels.split(rows), strict=True)


class LinearFrontier(DebiasingAgent):
    """What any last layer can do: logistic regression on its own features, traced over the weight
    of the templates.

    Its access is `data`, not `gradient`: features and labels of the policy split.

    Args:
        weightings: Of the templates relative to the comments, each set as a whole; one candidate
            each.
        inverse_regularization: C of scikit-learn's `LogisticRegression`, for 1,000 samples of
            either set's weight.
        tolerance: See above.
    """

    name = "linear_frontier"

    def __init__(
        self,
        weightings: Sequence[float] = _WEIGHTINGS,
        inverse_regularization: float = 100.0,
        tolerance: float = 0.01,
    ) -> None:
        self.config = {
            "weightings": list(weightings),
            "inverse_regularization": inverse_regularization,
            "tolerance": tolerance,
        }

    def edit(self, env: gym.Env) -> EditJournal:
        """Put the best of the traced last layers into the network of a fresh episode."""
        task, network = start(env)
        own = HeadOfNetwork(network, task.pool.inputs[:8])
        heads = self.trace(own.pair(task.labelled("policy")))
        return replace_head(env, own, best_head(task, own, heads, self.config["tolerance"]))

    def trace(self, policy: tuple[Features, Features]) -> list[Head]:
        """One last layer for every weighting."""
        from sklearn.linear_model import LogisticRegression

        x = torch.cat([part.x for part in policy]).cpu().numpy()
        y = torch.cat([part.y for part in policy]).cpu().numpy()
        heads = []
        for weighting in self.config["weightings"]:
            share = np.concatenate(
                [
                    np.full(len(part.y), factor * 1_000 / len(part.y))
                    for factor, part in zip((1.0, weighting), policy, strict=True)
                ]
            )
            fitted = LogisticRegression(
                C=self.config["inverse_regularization"], max_iter=5_000
            ).fit(x, y, sample_weight=share)
            w = torch.from_numpy(np.concatenate([fitted.coef_[0], fitted.intercept_])).to(
                policy[0].x
            )
            heads.append(Head(torch.stack([-w[:-1], w[:-1]]) / 2, torch.stack([-w[-1], w[-1]]) / 2))
        return heads


class CdaReweight(DebiasingAgent):
    """Counterfactual data augmentation and reweighting, fine-tuning all weights on the network's
    own training data.

    Every training comment that names an identity gets copies with other terms of the policy split
    and the same label (Zmigrod et al. 2019; Lu et al. 2020). Then a comment with identity a (or
    none) and label y weighs P(a)P(y)/P(a, y) (Kamiran and Calders 2012), which makes the two
    independent. SGD with momentum; every epoch is a candidate.

    Args:
        copies: Per comment that names an identity.
        epochs: Of fine-tuning.
        learning_rate: Of SGD.
        momentum: Of SGD.
        batch_size: Comments a step.
        tolerance: See above.
        seed: Of the terms put in and of the order of the comments; `learn` sets it.
    """

    name = "cda_reweight"

    def __init__(
        self,
        copies: int = 4,
        epochs: int = 5,
        learning_rate: float = 0.03,
        momentum: float = 0.9,
        batch_size: int = 64,
        tolerance: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.config = {
            "copies": copies,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "momentum": momentum,
            "batch_size": batch_size,
            "tolerance": tolerance,
            "seed": seed,
        }

    def edit(self, env: gym.Env) -> EditJournal:
        """Fine-tune the network of a fresh episode."""
        task, network = start(env)
        terms = sorted(set(task.splits.policy.unbiased.identities))
        texts, named = counterfactuals(
            task.splits.model, terms, self.config["copies"], self.config["seed"]
        )
        weights = independence_weights(named, texts.labels).to(task.device)
        validation = task.labelled("validation")

        def measure(model: nn.Module) -> Point:
            return Point(*(_accuracy(model, part.inputs, part.labels) for part in validation))

        with one_thread():
            best = best_within(
                measure(network.base),
                self._candidates(task, network, texts, weights),
                measure,
                self.config["tolerance"],
            )
        return env.unwrapped.journal if best is None else replace(env, best)  # type: ignore[attr-defined]

    def _candidates(
        self, task: DebiasingTask, network: EditableNetwork, texts: Comments, weights: Tensor
    ) -> Iterator[nn.Module]:
        model, data = network.merged(), task.encoded(texts)
        optimizer = torch.optim.SGD(
            model.parameters(), self.config["learning_rate"], self.config["momentum"]
        )
        generator = torch.Generator().manual_seed(self.config["seed"])
        for _ in range(self.config["epochs"]):
            for rows in torch.randperm(len(data), generator=generator).split(
                self.config["batch_size"]
            ):
                batch = data[rows.to(task.device)]
                loss = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
                optimizer.zero_grad(set_to_none=True)
                (loss * weights[rows.to(task.device)]).mean().backward()
                optimizer.step()
            yield copy.deepcopy(model)


def counterfactuals(
    texts: Comments, terms: Sequence[str], copies: int, seed: int
) -> tuple[Comments, list[str]]:
    """All texts and, of each with one of `terms`, copies with another term in its place.

    Returns:
        The texts, and the term that each names, empty for none; of several the first counts, and is
        exchanged.
    """
    pattern = re.compile(
        rf"\b({'|'.join(map(re.escape, sorted(terms, key=len, reverse=True)))})\b", re.IGNORECASE
    )
    random = np.random.default_rng(seed)
    rows: list[tuple[str, int, str]] = []
    for text, label in zip(texts.texts, texts.labels, strict=True):
        match = pattern.search(text)
        rows.append((text, label, match[0].lower() if match else ""))
        others = [term for term in terms if match and term != match[0].lower()]
        if match and others:
            rows += [
                (text[: match.start()] + term + text[match.end() :], label, term)
                for term in random.choice(others, copies)
            ]
    return Comments(tuple(text for text, _, _ in rows), tuple(label for _, label, _ in rows)), [
        row[2] for row in rows
    ]


def independence_weights(groups: Sequence[str], labels: Sequence[int]) -> Tensor:
    """P(a)P(y)/P(a, y) for every sample, (n,): under these weights group and label are independent.

    Kamiran and Calders 2012, "Data preprocessing techniques for classification without
    discrimination", sect. 5.2.
    """
    n, group, label, both = (
        len(labels),
        Counter(groups),
        Counter(labels),
        Counter(zip(groups, labels, strict=True)),
    )
    return torch.tensor(
        [group[a] * label[y] / (n * both[a, y]) for a, y in zip(groups, labels, strict=True)]
    )


def debiasing_task(env: gym.Env) -> DebiasingTask:
    """The environment's task.

    Raises:
        Unsupported: It is not a debiasing task.
    """
    task = env.unwrapped.task  # type: ignore[attr-defined]
    if not isinstance(task, DebiasingTask):
        raise Unsupported(f"{task.name} is not a debiasing task")
    return task


def start(env: gym.Env) -> tuple[DebiasingTask, EditableNetwork]:
    """Reset and return task and network of the episode."""
    env.reset()
    return debiasing_task(env), env.unwrapped.network  # type: ignore[attr-defined]


def best_head(
    task: DebiasingTask, own: HeadOfNetwork, heads: Sequence[Head], tolerance: float
) -> Head | None:
    """The best last layer on the validation split, within the tolerance; None for no edit."""
    general, unbiased = own.pair(task.labelled("validation"))

    def measure(head: Head) -> Point:
        return Point(head.accuracy(general), head.accuracy(unbiased))

    return best_within(measure(own.head), heads, measure, tolerance)


def replace_head(env: gym.Env, own: HeadOfNetwork, head: Head | None) -> EditJournal:
    """Put another last layer into the edited network; None for no edit."""
    network: EditableNetwork = env.unwrapped.network  # type: ignore[attr-defined]
    if head is not None:
        network.apply(ReplaceTensors(own.tensors(head)))
    return network.journal


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return float((model(inputs).argmax(-1) == labels).double().mean())
