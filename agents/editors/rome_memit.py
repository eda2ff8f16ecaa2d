"""ROME and MEMIT: closed-form edits that store a new value under the key of a subject."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from agents.editors.covariance import covariances, inverse_factor
from agents.editors.subject_keys import SubjectEditor, read_states, require_number, target_shifts
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
        factor: Of C (`inverse_factor`).

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
        factor: Of C (`inverse_factor`).
        covariance_weight: λ.
    """
    solved = torch.cholesky_solve(keys.mT, factor)  # C⁻¹K, (in, n)
    gram = keys @ solved + covariance_weight * torch.eye(len(keys)).to(keys)
    return LowRankFactors(torch.linalg.solve(gram, residuals).mT, solved.mT)


class Rome(SubjectEditor):
    """ROME (Meng et al. 2022): rank-one edits of one site, each of which makes W k = v* hold.

    All v* of a step are found together, on the model as it was before the step.

    Args:
        site: Name among the environment's sites; None for the middle one of those that qualify.
        tokens: How many tokens of plain text C is taken over.
        target: As `TargetSettings`.
    """

    name = "rome"

    def __init__(self, site: str | None = None, tokens: int = 50_000, **target: Any) -> None:
        super().__init__(None if site is None else [site], tokens, target)
        self.config = {
            "site": site,
            **{name: value for name, value in self.config.items() if name != "sites"},
        }

    def begin(self, process: LifelongProcess) -> None:
        """Choose the site and factorise its covariance."""
        sites = self.usable_sites(process)
        self._site = sites[(len(sites) - 1) // 2]
        self._factor = inverse_factor(covariances(process.task, [self._site], self.tokens)[0])

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One shift of rank n."""
        batch = self.subject_batch(process)
        if batch is None:
            return []
        decoder, site = process.decoder, self._site
        keys, hidden = read_states(decoder, batch, site, site)
        shifts = target_shifts(decoder, batch, site, hidden, self.target)
        weight = decoder.weights[decoder.sites.index(site)].double()
        keys = keys.double()
        update = rank_one_updates(weight, keys, keys @ weight.mT + shifts, self._factor)
        return [SiteEdit(site.name, Shift(), in_float32(update))]


class SpreadEditor(SubjectEditor):
    """Shares out what is missing at the last site among all sites (Meng et al. 2023, figure 4).

    R_l = (Z − H) / (sites left), Z the wanted hidden states after the last site's layer and H those
    with all updates so far; each site's keys are read after the sites below it have been updated.
    """

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One low-rank shift per site."""
        batch = self.subject_batch(process)
        if batch is None:
            return []
        decoder, last = process.decoder, self._sites[-1]
        updates: list[LowRankFactors | None] = [None] * len(decoder.sites)
        keys, hidden = read_states(decoder, batch, self._sites[0], last)
        wanted = hidden + target_shifts(decoder, batch, last, hidden, self.target)
        entries: list[Entry] = []
        for index, site in enumerate(self._sites):
            if index:
                keys, hidden = read_states(decoder, batch, site, last, updates)
            residuals = (wanted - hidden) / (len(self._sites) - index)
            update = in_float32(
                self.solve(process.step_index, index, keys.double(), residuals.double())
            )
            updates[decoder.sites.index(site)] = update
            entries.append(SiteEdit(site.name, Shift(), update))
        return entries

    def begin(self, process: LifelongProcess) -> None:
        """Choose the sites and prepare them with the covariances of their keys."""
        self._sites = self.usable_sites(process)
        weights = [process.decoder.weights[process.sites.index(site)] for site in self._sites]
        self.prepare(weights, covariances(process.task, self._sites, self.tokens))

    @abstractmethod
    def prepare(self, weights: list[Tensor], covariances: list[Tensor]) -> None:
        """Make ready for a stream, from W (out, in) and C (in, in), float64, of every site."""

    @abstractmethod
    def solve(self, step: int, index: int, keys: Tensor, residuals: Tensor) -> LowRankFactors:
        """The update of one site.

        Args:
            step: Of the stream.
            index: Of the site among `usable_sites`.
            keys: K as rows, (n, in), float64.
            residuals: R as rows, (n, out), float64.
        """


class Memit(SpreadEditor):
    """MEMIT (Meng et al. 2023): a least-squares edit of several layers for the facts of a step at
    once.

    Args:
        covariance_weight: λ, how much the inputs of plain text count against the step's keys.
        sites: Names among the environment's sites; None for all that qualify.
        tokens: How many tokens of plain text C is taken over.
        target: As `TargetSettings`.
    """

    name = "memit"

    def __init__(
        self,
        covariance_weight: float = 10.0,
        sites: list[str] | None = None,
        tokens: int = 50_000,
        **target: Any,
    ) -> None:
        require_number("covariance_weight", covariance_weight)
        super().__init__(sites, tokens, target, covariance_weight=covariance_weight)
        self.covariance_weight = covariance_weight

    def prepare(self, weights: list[Tensor], covariances: list[Tensor]) -> None:
        """Factorise the covariances once."""
        self._factors = [inverse_factor(covariance) for covariance in covariances]

    def solve(self, step: int, index: int, keys: Tensor, residuals: Tensor) -> LowRankFactors:
        """`memit_update`."""
        return memit_update(keys, residuals, self._factors[index], self.covariance_weight)


def in_float32(update: LowRankFactors) -> LowRankFactors:
    """An update as the journal keeps it."""
    return LowRankFactors(update.a.float().contiguous(), update.b.float().contiguous())
