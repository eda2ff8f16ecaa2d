"""ROME and MEMIT: closed-form edits that store a new value under the key of a subject."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.covariance import covariances, inverse_factor
from agents.editors.on_disk import MatrixOnDisk, give_back_freed
from agents.editors.settings import SITE, SITES
from agents.editors.subject_keys import SubjectEditor, SubjectSettings
from agents.editors.targets import SubjectBatch, target_shifts
from agents.tune.search import MLP_OUTPUTS, ONE_MLP_OUTPUT, LogUniform
from editgym.checks import above
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit


def rank_one_updates(
    weight: Tensor, keys: Tensor, values: Tensor, factor: Tensor
) -> LowRankFactors:
    """ROME's updates (Meng et al. 2022, eq. 2) for several facts, one after the other.

    ΔW_i = (v_i − W_i k_i) (C⁻¹k_i)ᵀ / (k_iᵀ C⁻¹ k_i), W_i the weight with all earlier updates:
    after it W k_i = v_i.

    Args:
        weight: W_0, (out, in), float64.
        keys: k as rows, (n, in), float64.
        values: v as rows, (n, out), float64.
        factor: Cholesky factor of C (`inverse_factor`).

    Returns:
        Their sum, of rank n.
    """
    directions = torch.cholesky_solve(keys.mT, factor).mT  # (n, in)
    directions = directions / (keys * directions).sum(1, keepdim=True)
    missing = values - keys @ weight.mT  # (n, out)
    overlaps = directions @ keys.mT  # (n, n): what update i adds at key j, per unit
    for index in range(len(keys) - 1):
        missing[index + 1 :] -= overlaps[index, index + 1 :, None] * missing[index]
    return LowRankFactors(missing.mT, directions)


def memit_update(
    keys: Tensor, residuals: Tensor, factor: Tensor, covariance_weight: float
) -> LowRankFactors:
    """MEMIT's update (Meng et al. 2023, eq. 14): ΔW = R Kᵀ (λC + KKᵀ)⁻¹.

    By (λC + KKᵀ)⁻¹K = C⁻¹K (λI + KᵀC⁻¹K)⁻¹ the solve is n × n, and the update of rank n.

    Args:
        keys: K as rows, (n, in), float64.
        residuals: R as rows, (n, out), float64.
        factor: Cholesky factor of C (`inverse_factor`).
        covariance_weight: λ.
    """
    solved = torch.cholesky_solve(keys.mT, factor)  # C⁻¹K, (in, n)
    gram = keys @ solved + covariance_weight * torch.eye(len(keys)).to(keys)
    return LowRankFactors(torch.linalg.solve(gram, residuals).mT, solved.mT)


@dataclass(frozen=True, kw_only=True)
class RomeSettings(SubjectSettings):
    """What `Rome` takes."""

    site: str | None = setting(None, SITE, search=ONE_MLP_OUTPUT)


class Rome(SubjectEditor):
    """ROME (Meng et al. 2022): rank-one edits of one site, each of which makes W k = v* hold.

    v* is the site's output, changed as makes the hidden state at the subject's last token give the
    new answer (eq. 4); the update is eq. 2's, with C = E[k kᵀ] over plain text. All v* of a step
    are found together, on the model as it was before the step.

    Args:
        site: Name among the environment's sites; None (default) for the middle one of those that
            qualify: they write to the residual stream, and have two layers above them.
        tokens: How many tokens of plain text C is taken over, 1 or more; 50,000 by default.
        steps: Steps of Adam in the search for v*, 1 or more; 40 by default.
        learning_rate: Learning rate of that Adam, in units of the hidden state's root mean square,
            greater than 0; 0.5 by default.
        max_norm: Largest change of the hidden state that is looked for, as a share of its length,
            greater than 0; 0.8 by default. Tuned for factlm: 0.7.
        kl_weight: Weight, in the search's loss, of the KL divergence at "{subject} is a" from the
            model without the change; 0 (default) leaves it out.
        decay: Weight, in the search's loss, of the change's squared length over the state's; 0 by
            default.
        contexts: Over how many prompts keys and loss are means, 1 or more: the prompt itself, and
            the prompt after sentences about something else. 1 by default.
        stop_loss: Cross-entropy, in nats per token, at which the search for a request ends; 0
            (default) makes all steps.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "rome"
    settings_type: ClassVar[type[Settings]] = RomeSettings
    settings: RomeSettings

    def begin(self, process: LifelongProcess) -> None:
        """Choose the site and factorise its covariance."""
        site = self.settings.site
        sites = self.usable_sites(process, None if site is None else [site])
        self._site = sites[(len(sites) - 1) // 2]
        (covariance,) = covariances(process.task, [self._site], self.settings.tokens)
        self._factor = MatrixOnDisk(inverse_factor(covariance))
        give_back_freed()

    def edits(self, process: LifelongProcess, batch: SubjectBatch) -> list[Entry]:
        """One shift of rank n."""
        decoder, site = process.decoder, self._site
        keys, hidden = map(batch.means, batch.states(decoder).read(site, site))
        shifts = target_shifts(decoder, batch, site, hidden, self.settings)
        keys = keys.double()
        weight = decoder.weights[decoder.sites.index(site)].to(keys)
        update = rank_one_updates(weight, keys, keys @ weight.mT + shifts, self._factor.read())
        return [SiteEdit(site.name, Shift(), in_float32(update))]


@dataclass(frozen=True, kw_only=True)
class SpreadSettings(SubjectSettings):
    """What editors of several sites take.

    Attributes:
        sites: Names among the environment's sites; None for all that qualify.
    """

    sites: Sequence[str] | None = setting(None, SITES, search=MLP_OUTPUTS)


class SpreadEditor(SubjectEditor):
    """Shares out what is missing at the last site among all sites (Meng et al. 2023, figure 4).

    R_l = (Z − H) / (sites left), Z the wanted hidden states after the last site's layer and H those
    with all updates so far; each site's keys are read after the sites below it have been updated.
    """

    settings: SpreadSettings

    def edits(self, process: LifelongProcess, batch: SubjectBatch) -> list[Entry]:
        """One low-rank shift per site."""
        decoder, last = process.decoder, self._sites[-1]
        forgotten = self.forgotten(process.batch.overwrites)
        updates: list[LowRankFactors | None] = [None] * len(decoder.sites)
        for site, update in zip(self._sites, forgotten, strict=bool(forgotten)):
            updates[decoder.sites.index(site)] = update
        states = batch.states(decoder)
        keys, hidden = map(batch.means, states.read(self._sites[0], last))
        wanted = hidden + target_shifts(decoder, batch, last, hidden, self.settings)
        entries: list[Entry] = []
        for index, site in enumerate(self._sites):
            if index or forgotten:
                keys, hidden = map(batch.means, states.read(site, last, updates))
            residuals = (wanted - hidden) / (len(self._sites) - index)
            update = in_float32(self.solve(batch.places, index, keys.double(), residuals.double()))
            give_back_freed()  # what it was solved with
            if forgotten:
                update = forgotten[index].plus(update)
            updates[decoder.sites.index(site)] = update
            entries.append(SiteEdit(site.name, Shift(), update))
        return entries

    def begin(self, process: LifelongProcess) -> None:
        """Choose the sites and prepare them with the covariances of their keys."""
        self._sites = self.usable_sites(process, self.settings.sites)
        every, device = process.decoder.base_weights, process.task.device
        weights = [every[process.sites.index(site)].to(device) for site in self._sites]
        self.prepare(weights, covariances(process.task, self._sites, self.settings.tokens))

    def forgotten(self, places: Sequence[int]) -> list[LowRankFactors]:
        """The updates, one a site, that take out what was stored of earlier requests; none where
        nothing was.

        Args:
            places: Where requests that the step overwrites stand in the stream, from 0.
        """
        return []

    @abstractmethod
    def prepare(self, weights: list[Tensor], covariances: Iterable[Tensor]) -> None:
        """Make ready for a stream, from W₀ (out, in) and C (in, in), float64, of every site."""

    @abstractmethod
    def solve(
        self, places: Sequence[int], index: int, keys: Tensor, residuals: Tensor
    ) -> LowRankFactors:
        """The update of one site.

        Args:
            places: Where the n requests stand in the stream, from 0.
            index: Place of the site among `usable_sites`.
            keys: K as rows, (n, in), float64.
            residuals: R as rows, (n, out), float64.
        """


@dataclass(frozen=True, kw_only=True)
class MemitSettings(SpreadSettings):
    """What `Memit` takes."""

    covariance_weight: float = setting(10.0, above(0), search=LogUniform(0.1, 1e5))


class Memit(SpreadEditor):
    """MEMIT (Meng et al. 2023): a least-squares edit of several layers for the facts of a step at
    once (eq. 14).

    What is missing at the hidden state that gives the new answer (eq. 16) is shared out among the
    sites; C = E[k kᵀ] is taken over plain text.

    Args:
        covariance_weight: λ, how much the inputs of plain text count against the step's keys;
            greater than 0, 10 by default.
        sites: Names among the environment's sites; None (default) for all that qualify: they write
            to the residual stream, and have two layers above them.
        tokens: How many tokens of plain text C is taken over, 1 or more; 50,000 by default.
        steps: Steps of Adam in the search for the hidden state, 1 or more; 40 by default.
        learning_rate: Learning rate of that Adam, in units of the hidden state's root mean square,
            greater than 0; 0.5 by default.
        max_norm: Largest change of the hidden state that is looked for, as a share of its length,
            greater than 0; 0.8 by default.
        kl_weight: Weight, in the search's loss, of the KL divergence at "{subject} is a" from the
            model without the change; 0 (default) leaves it out.
        decay: Weight, in the search's loss, of the change's squared length over the state's; 0 by
            default.
        contexts: Over how many prompts keys and loss are means, 1 or more: the prompt itself, and
            the prompt after sentences about something else. 1 by default.
        stop_loss: Cross-entropy, in nats per token, at which the search for a request ends; 0
            (default) makes all steps.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "memit"
    settings_type: ClassVar[type[Settings]] = MemitSettings
    settings: MemitSettings

    def prepare(self, weights: list[Tensor], covariances: Iterable[Tensor]) -> None:
        """Factorise the covariances once."""
        self._factors = [MatrixOnDisk(inverse_factor(covariance)) for covariance in covariances]

    def solve(
        self, places: Sequence[int], index: int, keys: Tensor, residuals: Tensor
    ) -> LowRankFactors:
        """`memit_update`."""
        return memit_update(
            keys, residuals, self._factors[index].read(), self.settings.covariance_weight
        )


def in_float32(update: LowRankFactors) -> LowRankFactors:
    """An update as the journal keeps it."""
    return LowRankFactors(update.a.float().contiguous(), update.b.float().contiguous())
