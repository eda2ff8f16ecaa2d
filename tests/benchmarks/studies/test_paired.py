"""Rows that differ in one thing are compared seed by seed."""

import json

import pytest

from benchmarks.results import ROWS_FILE
from benchmarks.studies import paired

KNOWN = {"reliability": 0.5, "generalization": 0.4, "locality": 0.9, "harmonic_mean": 0.5}


@pytest.fixture
def rows(make_row):
    """Five seeds of an editor with and without rehearsal, and others that are not their like."""

    def row(seed, gain=0.0, agent="ft_l", steps=25, **env):
        metrics = {name: value + gain + 0.01 * seed for name, value in KNOWN.items()}
        return make_row(
            agent,
            seed,
            env_kwargs={"task": "knowledge/factworld", "horizon": 20, **env},
            agent_config={"steps": steps},
            settings={"steps": steps},
            metrics=metrics,
        )

    return [
        *(row(seed) for seed in range(5)),
        *(row(seed, 0.1 + 0.01 * seed, rehearse=30) for seed in (2, 1, 0, 4, 3)),
        row(7, 0.3, rehearse=30),
        row(0, 0.2, steps=60),
        row(0, 0.3, agent="ft_m", rehearse=30),
    ]


def test_seeds_are_paired_and_the_rest_is_left_out(rows):
    (header, _, line) = paired.table(rows, "rehearse").split("\n")
    assert header.startswith("| agent | environment | rehearse | n | score | Δ score | Δ relia")
    agent, environment, values, n, score, change, *_ = line.strip("| ").split(" | ")
    assert (agent, environment, values, n) == ("`ft_l`, steps=25", "horizon=20", "— → 30", "5")
    assert score.startswith("0.520 [")
    assert change.startswith("0.120 [0.1")


def test_a_setting_is_compared_like_an_argument(rows):
    (_, _, line) = paired.table(rows, "steps").split("\n")
    assert "| 25 → 60 | 1 | 0.500 | 0.200 |" in line


def test_nothing_to_compare_is_an_error(rows, tmp_path, capsys):
    (tmp_path / ROWS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert paired.main([str(tmp_path), "--by", "rehearse"]) == 0
    assert "— → 30" in capsys.readouterr().out
    assert paired.main([str(tmp_path), "--by", "rehearsal"]) == 2
    assert "--by: no two rows of one seed differ in 'rehearsal' alone" in capsys.readouterr().err
    assert paired.main([str(tmp_path / "no"), "--by", "rehearse"]) == 2


def test_a_setting_that_a_row_is_older_than_is_as_one_that_is_none(make_row):
    def row(seed, gain, settings, **env):
        return make_row(
            "rledit",
            seed,
            env_kwargs={"task": "knowledge/factworld", "horizon": 20, **env},
            settings={"steps": 5, **settings},
            metrics={name: value + gain for name, value in KNOWN.items()},
        )

    before = [row(seed, 0.0, {}) for seed in range(5)]
    after = [row(seed, 0.1, {"start_from": None}, rehearse=30) for seed in range(5)]
    (_, _, line) = paired.table([*before, *after], "rehearse").split("\n")
    assert " | 5 | " in line
    other = [row(seed, 0.1, {"start_from": "x"}, rehearse=30) for seed in range(5)]
    with pytest.raises(ValueError, match="no two rows"):
        paired.table([*before, *other], "rehearse")


def test_agents_are_compared_where_both_have_edited(make_row, tmp_path, capsys):
    def row(agent, seed, task, forget, **settings):
        return make_row(
            agent,
            seed,
            env_kwargs={"task": task, "model_seed": seed},
            agent_config=settings,
            settings=settings,
            metrics={
                "retain_accuracy": 0.9,
                "forget_accuracy": forget,
                "retain_accuracy_before": 0.9,
                "forget_accuracy_before": 1.0,
            },
        )

    rows = [
        *(
            row("cmaes", seed, "unlearning/digits", 0.1 + seed / 100, sigma=0.3)
            for seed in range(6)
        ),
        *(row("ppo", seed, "unlearning/digits", 0.0 + seed / 100, rollout=64) for seed in range(5)),
        row("cmaes", 0, "unlearning/mnist", 0.5),
        row("no_edit", 0, "unlearning/mnist", 1.0),
    ]
    (tmp_path / ROWS_FILE).write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert paired.main([str(tmp_path), "--agents", "cmaes", "ppo"]) == 0
    head, _, line = capsys.readouterr().out.rstrip("\n").split("\n")
    cells = dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    assert (cells["task"], cells["n"]) == ("`unlearning/digits`", "5")
    assert cells["score"].startswith("0.8")
    assert cells["Δ score"].startswith("0.048")
    assert cells["Δ forget accuracy"].startswith("-0.100")
    assert paired.main([str(tmp_path), "--agents", "ppo", "no_edit"]) == 2
    assert "'ppo' and 'no_edit' have no seed in common" in capsys.readouterr().err
    rows.append(row("ppo", 0, "unlearning/digits", 0.5, rollout=256))
    (tmp_path / ROWS_FILE).write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert paired.main([str(tmp_path), "--agents", "cmaes", "ppo"]) == 2
    assert "ppo has two rows of seed 0 in MaskWorld-v0" in capsys.readouterr().err


def test_seeds_of_worlds_each_with_its_network_are_one_line(make_row):
    def row(seed, gain=0.0, **env):
        kwargs = {"task": "unlearning/digits", "model_seed": seed, **env}
        metrics = {"retain_accuracy": 0.9 + gain, "forget_accuracy": 0.0}
        before = {f"{name}_before": 1.0 for name in metrics}
        return make_row("ppo", seed, env_kwargs=kwargs, metrics={**metrics, **before})

    rows = [
        row(seed, gain, **env) for seed in range(5) for gain, env in ((0, {}), (0.05, {"a": 6}))
    ]
    (_, _, line) = paired.table(rows, "a").split("\n")
    assert "| — → 6 | 5 |" in line
    twice = [*rows, row(0, model_seed=9)]
    with pytest.raises(ValueError, match="--by: ppo has two rows of seed 0"):
        paired.table(twice, "a")
