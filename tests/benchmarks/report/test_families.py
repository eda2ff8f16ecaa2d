"""Families of metrics: directions, scores, and keys with a format and a scorer."""

from pathlib import Path

import pytest

from benchmarks.report import families
from benchmarks.report.aggregate import group_rows
from benchmarks.report.families import FAMILIES, SCORE, Family, Key, parse
from benchmarks.report.tables import group_tables
from editgym.metrics.recovery import ATTACKS

SIZES = {"unlearning": 36, "backdoor": 6, "debiasing": 20, "knowledge": 24}


def test_no_metric_belongs_to_two_families():
    names = [name for family in FAMILIES.values() for name in family.directions]
    assert len(set(names)) == len(names)
    assert {name: len(family.directions) for name, family in FAMILIES.items()} == SIZES


def test_every_metric_has_a_direction_or_only_describes():
    described = {
        name
        for family in FAMILIES.values()
        for name in family.directions
        if families.direction(name) is None and not families.is_before(name)
    }
    assert described == {
        "test_accuracy",
        "weights_changed",
        "weights_changed_norm",
        "sites_per_edit",
        "texts_per_edit",
        "facts_left_out",
        "logit_attack_accuracy",
        "triggered_accuracy",
        *ATTACKS,
    }
    before = [
        name for family in FAMILIES.values() for name in family.directions if "_before" in name
    ]
    assert len(before) == 24
    assert all(families.is_before(name) and families.direction(name) is None for name in before)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_trade_off_is_between_metrics_of_the_family(family):
    assert all(family.directions[key] for key in family.trade_off)


@pytest.mark.parametrize(
    ("key", "parts", "better"),
    [
        ("reliability", Key("reliability"), "higher"),
        ("reliability_now", Key("reliability_now"), "higher"),
        ("reliability@chat", Key("reliability", None, "chat"), "higher"),
        ("reliability_squad", Key("reliability", "squad", None), "higher"),
        ("reliability_now_squad@chat", Key("reliability_now", "squad", "chat"), "higher"),
        ("locality_kl@chat", Key("locality_kl", None, "chat"), "lower"),
        ("retain_accuracy_before", Key("retain_accuracy_before"), None),
        ("harmonic_mean_squad", Key("harmonic_mean", "squad"), "higher"),
        ("retain_accuracy_loss", Key("retain_accuracy_loss"), None),
        ("retain_accuracy_squad", Key("retain_accuracy_squad"), None),
        ("leakage_prevented@chat", Key("leakage_prevented", None, "chat"), None),
        ("reliability_now_error_squad", Key("reliability_now_error_squad"), None),
        ("harmonic_mean_error", Key("harmonic_mean_error"), None),
        ("speed", Key("speed"), None),
        ("speed@chat", Key("speed", None, "chat"), None),
    ],
)
def test_keys_are_taken_apart(key, parts, better):
    assert parse(key) == parts
    assert families.direction(key) == better


def test_words():
    assert families.label("mia_advantage") == "MIA advantage ↓"
    assert families.label("mia_tpr_recovered") == "MIA TPR recovered ↓"
    assert families.label("feature_cka") == "feature CKA"
    assert families.label("tf_efficacy_squad@chat") == "TF efficacy (squad, chat) ↑"
    assert families.label("sites_per_edit") == "sites per edit"


def test_variants_stand_behind_their_metric_and_strangers_last():
    keys = ["speed", "locality", "reliability@chat", "reliability", SCORE]
    assert families.ordered(keys, "knowledge") == [
        SCORE,
        "reliability@chat",
        "reliability",
        "locality",
        "speed",
    ]


def test_variants_and_unknown_metrics_are_reported(make_row):
    rows = [
        make_row(
            agent,
            seed,
            "knowledge/factworld",
            metrics={
                "reliability": 0.9 - lost,
                "reliability@chat": 0.7 - lost + seed / 100,
                "harmonic_mean": 0.8,
                "speed": 3.0,
            },
        )
        for seed in range(10)
        for agent, lost in (("ppo", 0.0), ("random", 0.2))
    ]
    (group,) = group_rows(rows)
    assert group.family == "knowledge"
    assert group.metrics == (SCORE, "reliability", "reliability@chat", "speed")
    estimates = {standing.agent: standing.metrics for standing in group.standings}
    assert estimates["random"]["reliability@chat"].rank == 2
    assert estimates["random"]["speed"].rank is None
    assert "reliability (chat) ↑" in [column.label for column in group_tables([group])[0].columns]


def test_metrics_of_no_family_are_reported_without_ranks(make_row):
    rows = [make_row("ppo", seed, "mine", metrics={"speed": seed / 10}) for seed in range(2)]
    (group,) = group_rows(rows)
    assert (group.family, group.metrics) == (None, ("speed",))
    assert group.standings[0].metrics["speed"].iqm == pytest.approx(0.05)
    assert "Lines are sorted by name" in group_tables([group])[0].reading


def test_a_family_of_ones_own_is_one_row(make_row, monkeypatch):
    own = Family(
        "driving",
        {"speed": "higher", "crashes": "lower"},
        lambda metrics: metrics.get("speed"),
        "speed",
        ("crashes", "speed"),
    )
    monkeypatch.setitem(FAMILIES, "driving", own)
    rows = [
        make_row("ppo", seed, "mine", metrics={"speed": 0.4, "crashes": 2.0}) for seed in range(2)
    ]
    (group,) = group_rows(rows)
    assert (group.family, group.metrics) == ("driving", (SCORE, "speed", "crashes"))
    assert group.standings[0].metrics[SCORE].iqm == 0.4


def shared(**directions):
    """A family of one's own, some of whose names built-in families have."""
    return Family(
        "own",
        directions,
        lambda metrics: metrics.get("reliability"),
        "it",
        ("a", "b"),
        scorers=("squad",),
    )


@pytest.mark.parametrize(
    ("metrics", "family"),
    [
        (["reliability", "speed", "leakage"], "own"),
        (["reliability@chat", "speed_squad", "reliability"], "own"),
        (["reliability", "locality", "portability", "speed"], "knowledge"),
        (["reliability"], "knowledge"),
        (["nobody's"], None),
        ([], None),
    ],
)
def test_a_row_is_of_the_family_that_has_most_of_its_metrics(monkeypatch, metrics, family):
    own = shared(reliability="lower", speed="higher", leakage=None)
    monkeypatch.setitem(FAMILIES, "own", own)
    assert families.family_of(metrics) == family


def test_the_family_of_a_row_says_what_is_better(make_row, monkeypatch):
    own = shared(reliability="lower", speed="higher", leakage=None)
    monkeypatch.setitem(FAMILIES, "own", own)
    assert families.direction("reliability@chat", "own") == "lower"
    assert families.direction("reliability", "knowledge") == "higher"
    assert families.direction("reliability") == "higher"
    assert families.direction("leakage", "own") is None
    assert families.direction("flip_rate", "own") == "lower"
    assert families.label("reliability", "own") == "reliability ↓"
    metrics = {"reliability": 0.2, "speed": 3.0, "leakage": 0.5}
    rows = [
        make_row(agent, seed, "mine", metrics={**metrics, "reliability": value + seed / 1_000})
        for seed in range(10)
        for agent, value in (("ppo", 0.1), ("random", 0.9))
    ]
    (group,) = group_rows(rows)
    assert group.family == "own"
    ranks = {one.agent: one.metrics["reliability"].rank for one in group.standings}
    assert ranks == {"ppo": 1, "random": 2}
    assert all(one.metrics["leakage"].rank is None for one in group.standings)
    labels = [column.label for column in group_tables([group])[0].columns]
    assert {"reliability ↓", "leakage", "speed ↑"} <= set(labels)


def test_a_familys_own_names_go_before_variants_of_others(monkeypatch):
    monkeypatch.setitem(FAMILIES, "own", shared(reliability_squad="higher"))
    assert parse("reliability_squad", "own") == Key("reliability_squad")
    assert parse("reliability_squad", "knowledge") == Key("reliability", "squad")


def test_tuples_of_a_suite_are_the_lists_of_its_rows(make_row):
    from benchmarks.suites.entry import Entry

    tasks = ("unlearning/digits", "unlearning/mnist")
    rows = [
        make_row(
            task=task,
            env_kwargs={"task": task, "sites": ["fc1"], "device": "cpu"},
            metrics={"retain_accuracy": 0.9, "forget_accuracy": 0.1},
        )
        for task in tasks
    ]
    entries = [
        Entry("MaskWorld-v0", task, ("random",), env_kwargs={"sites": ("fc1",)}, pooled=False)
        for task in tasks
    ]
    assert group_rows(rows)[0].title.startswith("All")
    assert len(group_rows(rows, lambda suite: entries)) == 2


def test_rows_that_are_older_than_the_attacks_show_them_as_missing(make_row):
    old = {"retain_accuracy": 0.9, "forget_accuracy": 0.0, "forget_accuracy_before": 1.0}
    rows = [
        make_row(agent="ppo", metrics=old),
        make_row(agent="cmaes", metrics={**old, "worst_attack": 0.5}),
    ]
    (group,) = group_rows(rows)
    (table,) = group_tables([group])
    place = [column.label for column in table.columns].index("worst attack ↓")
    assert {line[1].text: line[place].text for line in table.lines} == {
        "ppo": "—",
        "cmaes": "0.500",
    }


PAGE = Path(__file__).resolve().parents[3] / "docs/metrics.md"
ARROWS = {"higher": "↑", "lower": "↓", None: "—"}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_the_page_of_metrics_says_what_each_is_and_which_side_is_better(family):
    sections = {
        part.splitlines()[0].rpartition("`")[0].rpartition("`")[2].rpartition("/")[2]: part
        for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    }
    rows = [
        (names, better.strip())
        for line in sections[family.name].splitlines()
        if line.startswith("| `")
        for names, better in [line.split(" | ")[:2]]
    ]
    for name, direction in family.directions.items():
        if not families.is_before(name):
            assert [better for names, better in rows if f"`{name}`" in names] == [ARROWS[direction]]
