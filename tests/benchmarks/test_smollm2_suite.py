"""What the suite `smollm2` takes as tuned is what the committed studies found."""

import csv
import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.catalogue import agent_class
from agents.editors.settings import SMOLLM2
from benchmarks.results import canonical_json
from benchmarks.suites.cells import SUITES, cells

TUNING = Path(__file__).resolve().parents[2] / "docs/results/smollm2/tuning"
ENTRY, THOUSAND, _ = SUITES["smollm2"].entries


def saved(name):
    return json.loads((TUNING / name / "settings.json").read_text())


def found(name):
    return saved(name)["settings"]


def labelled(label):
    (one,) = (one for one in ENTRY.labelled if one.label == label)
    return one


@pytest.mark.parametrize("name", sorted(SMOLLM2))
def test_settings_are_those_of_the_best_trial(name):
    assert SMOLLM2[name] == found(name)


def test_an_agent_whose_study_is_not_done_has_its_best_trial_so_far():
    by_name = {one[0]: one for one in ENTRY.agents if isinstance(one, tuple)}
    for name in ("ft_l", "lora_merge", "memit"):
        _, config, along = by_name[name]
        parameters = inspect.signature(agent_class(name)).parameters
        settings = {key: config.get(key, parameters[key].default) for key in found(name)}
        assert settings == found(name)
        assert along.get("sites") == saved(name)["study"]["env_kwargs"].get("sites")


def test_one_look_has_the_best_of_its_own_trials():
    tuned = labelled("one look, tuned")
    assert tuned.config == found("ultraedit_one_look")
    assert tuned.along == {"sites": tuned.config["sites"]}


def test_the_default_sites_have_the_best_step_size_that_was_tried_there():
    with (TUNING / "ultraedit_one_look/trials.csv").open() as file:
        tried = [row for row in csv.DictReader(file) if row["sites.layers"] == "default"]
    best = max(tried, key=lambda row: float(row["score"]))
    assert labelled("one look, default sites, tuned step").config["step_size"] == float(
        best["step_size"]
    )


def test_where_it_edits_is_all_that_differs_at_the_learned_step_size():
    places = [
        labelled(f"one look, {where}")
        for where in ("sites found by rewards", "default sites", "sites by chance", "all 60 sites")
    ]
    assert len({tuple(one.config["sites"]) for one in places}) == len(places)
    for one in places:
        assert one.along == {"sites": one.config["sites"]}
        assert {key: one.config[key] for key in one.config if key != "sites"} == {
            "passes": 1,
            "step_size": 2e-4,
        }


def test_a_thousand_edits_are_of_one_stream_in_three_orders_by_agents_of_the_short_ones():
    thousand = cells(replace(SUITES["smollm2"], entries=(THOUSAND,)))
    asked = {(own.env_kwargs["stream"], own.env_kwargs["order"], own.seed) for own in thousand}
    assert asked == {(0, order, order) for order in range(3)}
    apart = {"horizon", "stream", "order"}
    short = {_without(own, apart) for own in cells(replace(SUITES["smollm2"], entries=(ENTRY,)))}
    assert {_without(own, apart) for own in thousand} <= short


def _without(cell, names):
    arguments = {key: value for key, value in cell.env_kwargs.items() if key not in names}
    return canonical_json([cell.agent, cell.agent_config, cell.seed, arguments])
