"""The search for hidden states that give new answers."""

from dataclasses import replace

import pytest
import torch

from agents.editors import targets
from agents.editors.targets import TargetSettings, target_shifts
from editgym.weights.language import graph_size
from editgym.weights.language.site_pass import Injection


def test_targets_of_a_batch_are_those_found_alone(
    process,
    editor,
):
    agent = editor("memit", contexts=2, kl_weight=0.1, decay=0.1)
    agent.begin(process)
    whole = process.requests

    def shifts():
        batch = agent.subject_batch(process, process.requests)
        hidden = batch.means(
            batch.states(process.decoder).read(agent._sites[-1], agent._sites[-1])[1]
        )
        return target_shifts(process.decoder, batch, agent._sites[-1], hidden, agent.settings)

    together = shifts()
    process.batch.requests = whole[1:2]
    assert torch.allclose(shifts()[0], together[1], rtol=1e-3, atol=1e-3)


def test_the_target_lowers_the_loss_within_its_limit(
    process,
    editor,
):
    agent = editor("memit", max_norm=0.5)
    agent.begin(process)
    batch, site = agent.subject_batch(process, process.requests), agent._sites[-1]
    hidden = batch.means(batch.states(process.decoder).read(site, site)[1])
    shift = target_shifts(process.decoder, batch, site, hidden, agent.settings)
    there = {site.name: Injection(torch.arange(len(batch.texts)), batch.positions, shift)}
    losses = process.decoder.losses
    assert (losses(batch.texts, injected=there) < losses(batch.texts)).all()
    assert (shift.norm(dim=1) <= 0.5001 * hidden.norm(dim=1)).all()


def test_target_settings_default_to_one_context():
    assert TargetSettings().contexts == 1


def test_a_request_whose_loss_is_small_enough_is_done(process, editor, monkeypatch):
    agent = editor("memit", contexts=2, steps=20)
    agent.begin(process)
    batch, site = agent.subject_batch(process, process.requests), agent._sites[-1]
    hidden = batch.means(batch.states(process.decoder).read(site, site)[1])

    def losses(shift):
        there = {
            site.name: Injection(
                torch.arange(len(batch.texts)), batch.positions, shift[batch.owners]
            )
        }
        texts = process.decoder.losses(batch.texts, injected=there)
        return batch.means(texts[:, None])[:, 0]

    first = losses(torch.zeros_like(hidden))
    last = losses(target_shifts(process.decoder, batch, site, hidden, agent.settings))
    assert (last < first).all()
    stop = float(last.max() + 0.1 * (first - last).min())
    asked = []
    logits = type(process.decoder).logits

    def counted(self, texts, *rest, **named):
        asked.append(len(texts))
        return logits(self, texts, *rest, **named)

    monkeypatch.setattr(type(process.decoder), "logits", counted)
    settings = replace(agent.settings, stop_loss=stop)
    shift = target_shifts(process.decoder, batch, site, hidden, settings)
    monkeypatch.undo()
    assert asked[0] == len(batch.texts)
    assert asked == sorted(asked, reverse=True), "what is done leaves the batch"
    assert sum(asked) < 20 * len(batch.texts)
    assert (losses(shift) <= stop + 1e-4).all()


@pytest.mark.parametrize("stop_loss", [0.0, 0.05])
def test_a_request_whose_loss_is_no_number_stays_and_spoils_no_other(
    stop_loss, process, editor, monkeypatch
):
    agent = editor("memit", steps=6)
    agent.begin(process)
    batch, site = agent.subject_batch(process, process.requests), agent._sites[-1]
    hidden = batch.means(batch.states(process.decoder).read(site, site)[1])
    settings = replace(agent.settings, stop_loss=stop_loss)
    whole = target_shifts(process.decoder, batch, site, hidden, settings)
    logits, calls = type(process.decoder).logits, []
    spoiled = int(batch.owners[0])

    def overflowing(self, texts, *rest, **named):
        found = logits(self, texts, *rest, **named)
        calls.append(len(texts))
        if len(calls) == 3:  # the first part of a later step
            found = found + torch.where(texts.rows == 0, float("nan"), 0.0)[:, None]
        return found

    monkeypatch.setattr(type(process.decoder), "logits", overflowing)
    found = target_shifts(process.decoder, batch, site, hidden, settings)
    assert found.isfinite().all()
    others = [row for row in range(len(hidden)) if row != spoiled]
    torch.testing.assert_close(found[others], whole[others], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found[spoiled], whole[spoiled])


def test_where_no_loss_is_a_number_nothing_is_added(process, editor, monkeypatch):
    agent = editor("memit", steps=6)
    agent.begin(process)
    batch, site = agent.subject_batch(process, process.requests), agent._sites[-1]
    hidden = batch.means(batch.states(process.decoder).read(site, site)[1])
    logits = type(process.decoder).logits

    def overflowing(*args, **named):
        return logits(*args, **named) * float("nan")

    monkeypatch.setattr(type(process.decoder), "logits", overflowing)
    settings = replace(agent.settings, stop_loss=0.0)
    assert not target_shifts(process.decoder, batch, site, hidden, settings).any()


def test_texts_go_together_by_length_and_find_the_same(process, editor, monkeypatch):
    agent = editor("memit", contexts=3, kl_weight=0.1, decay=0.1, steps=5)
    agent.begin(process)
    batch, site = agent.subject_batch(process, process.requests), agent._sites[-1]
    hidden = batch.means(batch.states(process.decoder).read(site, site)[1])
    together = target_shifts(process.decoder, batch, site, hidden, agent.settings)
    monkeypatch.setattr(graph_size, "_LEAST", 2**20)
    monkeypatch.setattr(graph_size, "_SHARE", 0)
    monkeypatch.setattr(graph_size, "_REST_SHARE", 0)
    apart = target_shifts(process.decoder, batch, site, hidden, agent.settings)
    assert torch.allclose(apart, together, rtol=1e-3, atol=1e-4)


def test_a_rehearsed_request_that_is_still_known_asks_for_nothing_more(
    process, editor, monkeypatch
):
    agent = editor("memit", steps=20)
    agent.begin(process)
    batch, site = agent.subject_batch(process, process.requests), agent._sites[-1]
    hidden = batch.means(batch.states(process.decoder).read(site, site)[1])
    losses = process.decoder.losses(batch.texts)
    known = int(losses.argmin())
    monkeypatch.setattr(targets, "_STILL_KNOWN", float(losses[known]) + 1e-4)

    def shifts(new):
        return target_shifts(process.decoder, batch._replace(new=new), site, hidden, agent.settings)

    every = shifts(None)
    assert torch.equal(every, shifts(len(hidden))), "none is rehearsed"
    rehearsed = shifts(0)
    assert not rehearsed[known].any()
    others = [row for row in range(len(hidden)) if row != known]
    assert rehearsed[others].any(dim=1).all(), "what is forgotten is looked for"
    assert (rehearsed.norm(dim=1) <= every.norm(dim=1) + 1e-4).all()
