"""What the figures of a report show, and how they are drawn."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.report import svg
from benchmarks.report.aggregate import group_rows
from benchmarks.report.curves import retention
from benchmarks.report.looks import COLORS, DARK_COLORS, MARKERS, look, palette
from benchmarks.report.plots import DRAWN, figures
from benchmarks.report.strata import STRATUM
from benchmarks.report.svg import spanning


def drawn(rows):
    """The figures of one group by kind."""
    (group,) = group_rows(rows)
    return {plot.kind: plot for plot in figures(group, palette([group]), "slug")}


def elements(plot):
    """All elements of a figure's file, which has to be XML."""
    return list(ElementTree.fromstring(plot.svg).iter())


def texts(plot):
    return [element.text for element in elements(plot) if element.tag.endswith("text")]


def tips(plot):
    return [tip for element in elements(plot) if (tip := element.get("data-tip"))]


def named(plot):
    return [element.text for element in elements(plot) if element.get("class") == "name"]


# --- which figures --------------------------------------------------------------------------------


def test_depth_of_forgetting_is_drawn_where_it_was_measured(unlearning_row):
    metrics = {
        "probe_accuracy": 0.8,
        "probe_accuracy_before": 0.9,
        "relearn_steps": 40,
        "mia_advantage": 0.1,
    }
    rows = [
        unlearning_row("ppo", seed, retain=0.9, forget=0.0, metrics=metrics) for seed in range(2)
    ]
    rows += [unlearning_row("random", seed, retain=0.9, forget=0.5) for seed in range(2)]
    depth = drawn(rows)["depth"]
    assert [panel.title for panel in depth.panels] == [
        "retain ● and forget ○ accuracy",
        "probe accuracy ↓",
        "relearn steps ↑",
        "MIA advantage ↓",
    ]
    assert named(depth) == ["ppo"] * 4, "nothing is known of random"
    assert tips(depth) == [
        f"ppo: {value}" for value in ("0.900", "0.000", "0.800", "40.0", "0.100")
    ]
    assert ["reference" in panel.body for panel in depth.panels] == [False, True, False, False]
    assert "depth" not in drawn(rows[2:])


def test_a_metric_without_a_better_side_has_no_panel(unlearning_row):
    rows = [
        unlearning_row("ppo", seed, retain=0.9 + seed / 100, forget=0.0, metrics={"odd": 1.0})
        for seed in range(5)
    ]
    intervals = drawn(rows)["intervals"]
    assert [panel.title for panel in intervals.panels] == [
        "harmonic mean ↑",
        "retain accuracy ↑",
        "forget accuracy ↓",
    ]
    assert any(re.fullmatch(r"ppo: 0\.920 \[0\.\d+, 0\.\d+\]", tip) for tip in tips(intervals))


def test_of_many_agents_the_best_are_drawn_and_the_caption_says_so(unlearning_row):
    rows = [
        unlearning_row(f"agent_{i}", 0, retain=0.5 + i / 1000, forget=0.0) for i in range(DRAWN + 5)
    ]
    plots = drawn(rows)
    assert f"The best {DRAWN} of {DRAWN + 5} agents are drawn." in plots["profile"].caption
    assert len(plots["profile"].legend) == DRAWN
    assert plots["profile"].legend[0][0] == f"agent_{DRAWN + 4}"
    assert "of" not in drawn(rows[:DRAWN])["profile"].caption.split("agents may not differ.")[1]


# --- curves ---------------------------------------------------------------------------------------


def test_a_profile_has_a_band_from_five_seeds_on(unlearning_row):
    rows = [unlearning_row("ppo", seed, retain=0.9, forget=0.1 * seed) for seed in range(5)]
    rows += [unlearning_row("random", seed, retain=0.9, forget=0.2 * seed) for seed in range(4)]
    profile = drawn(rows)["profile"]
    classes = [element.get("class", "") for element in elements(profile)]
    assert sum("band" in own for own in classes) == 1
    assert sum(own.startswith("line") for own in classes) >= 2
    assert "from 5 seeds on" in profile.caption


def stream(make_row, seed, curve):
    row = make_row(
        "rledit",
        seed,
        task="knowledge/factworld",
        metrics={"reliability": 0.8, "locality": 0.5},
        measured={"curves": {"retention": curve}},
    )
    return {**row, STRATUM: "stratum"}


def test_lifelong_rows_get_a_retention_curve(make_row):
    rows = [stream(make_row, seed, [[0, 0.9], [10, 0.7 + seed / 10]]) for seed in range(2)]
    plots = drawn(rows)
    assert set(plots) == {"intervals", "trade-off", "retention"}, "no harmonic mean, no profile"
    assert tips(plots["retention"]) == ["rledit", "rledit: 0.900 after 0", "rledit: 0.750 after 10"]
    assert "with fewer than 5 seeds the range of the runs" in plots["retention"].caption


def test_a_retention_curve_is_the_mean_of_runs_with_its_band(make_row):
    few = [stream(make_row, seed, [[0, 0.9], [10, 0.7 + seed / 10]]) for seed in range(2)]
    assert [tuple(point) for point in retention(few)] == [
        (0.0, 0.9, 0.9, 0.9),
        pytest.approx((10.0, 0.75, 0.7, 0.8)),
    ]
    many = [stream(make_row, seed, [[0, 1.0], [10, seed / 10]]) for seed in range(8)]
    first, last = retention(many)
    assert (first.low, first.high) == (1.0, 1.0)
    assert last.reliability == pytest.approx(0.35)
    assert 0.0 < last.low < 0.35 < last.high < 0.7, "narrower than the range of the runs"


def test_a_retention_curve_is_smoothed_over_an_eighth_of_its_range(make_row):
    ages = np.linspace(0, 16, 17)
    (peak,) = np.flatnonzero(ages == 8)
    curve = [[age, float(age == 8)] for age in ages]
    points = retention([stream(make_row, 0, curve)])
    assert [round(point.reliability, 6) for point in points[peak - 2 : peak + 3]] == [
        0.0,
        0.25,
        0.5,
        0.25,
        0.0,
    ]


def test_runs_with_ages_of_their_own_are_compared_where_all_have_edits(make_row):
    rows = [
        stream(make_row, 0, [[0, 1.0], [10, 0.0]]),
        stream(make_row, 1, [[2, 0.8], [12, -0.2]]),
    ]
    points = retention(rows)
    assert (points[0].age, points[-1].age, len(points)) == (2, 10, 20)
    middle = points[len(points) // 2]
    assert middle.reliability == pytest.approx(1 - middle.age / 10)


# --- drawing --------------------------------------------------------------------------------------


def test_ticks_are_round_and_inside():
    assert svg.Scale(0, 1, 0, 300).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert svg.Scale(0.93, 0.98, 0, 120).ticks() == pytest.approx([0.94, 0.96, 0.98])
    assert svg.Scale(-3, 4100, 0, 240).ticks() == [0, 1000, 2000, 3000, 4000]
    for low, high in ((0, 1e-9), (5, 5.01), (-1e6, 2e6)):
        ticks = svg.Scale(low, high, 0, 200).ticks()
        assert 2 <= len(ticks) <= 7
        assert low <= ticks[0] < ticks[-1] <= high


def test_equal_values_have_an_axis_too():
    for value in (0.0, 1.0, -3.0):
        scale = svg.spanning([value], 0, 100)
        assert scale(value) == pytest.approx(50)
        assert len(scale.ticks()) >= 1


def test_every_agent_of_many_looks_its_own_way_and_is_named_inside_the_figure(make_row):
    names = [f"agent_{index} (with=a, very=long, list=of, settings={index})" for index in range(35)]
    metrics = {"reliability": 0.9, "locality": 0.8, "generalization": 0.7, "harmonic_mean": 0.8}
    rows = [
        make_row(
            name,
            seed,
            env_id="LifelongLLMEdit-v0",
            metrics=metrics,
            measured={"curves": {"retention": [[0, 1.0], [10, 0.5]]}},
        )
        for name in names
        for seed in range(2)
    ]
    plots = drawn(rows)
    for kind in ("retention", "trade-off", "profile"):
        plot = plots[kind]
        looks = [own for _, own in plot.legend]
        assert len({(own.place, own.dash) for own in looks}) == len(names)
        assert len({(own.place, own.marker) for own in looks}) == len(names)
        root = ElementTree.fromstring(plot.svg)
        width, height = float(root.get("width")), float(root.get("height"))
        places = re.findall(r'translate\((\d+) (\d+)\)"><path class="line', plot.svg)
        assert len(places) == len(names)
        assert all(0 <= int(x) < width and 300 <= int(y) < height for x, y in places)
        assert named(plot) == [name for name, _ in plot.legend]


def luminance(color):
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colors", "page"), [(COLORS, "#ffffff"), (DARK_COLORS, "#1a212b")])
def test_colours_are_read_against_their_page(colors, page):
    assert len(set(colors)) == 10
    for color in colors:
        lighter, darker = sorted((luminance(color), luminance(page)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, color


@pytest.mark.parametrize("marker", MARKERS)
def test_markers_lie_around_their_point(marker):
    path = re.search(r' d="([^"]+)"', svg.dot(50, 80, look(0)._replace(marker=marker))).group(1)
    if marker == "o":
        assert path.startswith("M46.0 80.0a4 4")
        return
    corners = np.array([pair.split() for pair in re.split("[ML]", path.rstrip("Z"))[1:]], float)
    middle = (corners.max(axis=0) + corners.min(axis=0)) / 2
    assert np.abs(middle - [50, 80]).max() <= 0.45
    assert 3 <= np.abs(corners - [50, 80]).max() <= 6


def test_names_cannot_break_out_of_a_figure(make_row):
    rows = [
        make_row('</svg><script>"&', seed, metrics={"reliability": 0.9, "locality": seed / 10})
        for seed in range(2)
    ]
    for plot in drawn(rows).values():
        assert not [one for one in elements(plot) if "script" in one.tag]
        assert "<script" not in "".join(panel.svg() for panel in plot.panels)


@pytest.mark.parametrize("value", [0.95, 0.05, 0.0, 1e-9, 1e6])
def test_means_of_equal_numbers_that_differ_by_rounding_have_a_scale(value):
    scale = spanning([value, math.nextafter(value, 2 * value + 1)], 0, 300)
    ticks = scale.ticks()
    assert len(set(ticks)) == len(ticks) > 1
    assert all(scale.low <= tick <= scale.high for tick in ticks)
