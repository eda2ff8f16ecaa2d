"""The page in a browser: `make test-page` installs what this needs and runs it.

Five thousand lines are open within two seconds and sorted within 0.3; nothing is loaded, nothing is
complained of, and axe finds no violation, in light and in dark, on a phone and on a desktop.
"""

import os
import shutil

import pytest

from benchmarks.report.write import write_report
from benchmarks.results import ROWS_FILE

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: set CHROMIUM"),
]
TASKS, AGENTS = 25, 200
LINES = (TASKS + 1) * AGENTS  # with the table over all tasks
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
OPEN_WITHIN, SORT_WITHIN = 2_000, 300  # milliseconds
SETTLED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Opens an address in a context of its own; whatever is loaded or said is a failure."""
    contexts, said = [], []

    def open_page(address, viewport=DESKTOP, scheme="light"):
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, is_mobile=viewport is PHONE
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [one for one in said if not one.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="module")
def small(unlearning_row, make_row, tmp_path_factory):
    """The address of a report of two worlds and a stream, with a failure and records."""
    folder = tmp_path_factory.mktemp("small")
    rows = [
        unlearning_row(
            agent,
            seed,
            env_id=world,
            retain=0.9 - 0.1 * place + seed / 100,
            forget=0.02 * place,
            agent_config={"passes": 3} if agent == "ppo" else {},
            measured={"access": "data" if agent == "ssd" else "reward"},
        )
        for world in ("MaskWorld-v0", "ShiftWorld-v0")
        for place, agent in enumerate(("ppo", "cmaes", "ssd", "random"))
        for seed in range(5)
    ]
    curve = [[age, 1 - age / 40] for age in range(0, 20, 2)]
    rows += [
        make_row(
            "rledit",
            seed,
            "knowledge/factworld",
            env_id="LifelongLLMEdit-v0",
            metrics={"reliability": 0.9, "generalization": 0.8, "locality": 0.7 + seed / 100}
            | {"harmonic_mean": 0.8},
            measured={"curves": {"retention": curve}, "journal": b"journal", "records": b"{}"},
        )
        for seed in range(5)
    ]
    rows.append(make_row("cmaes", 9, measured={"status": "failed", "error": "no <b>", "time": {}}))
    write_rows(folder, rows)
    stream = next(row for row in rows if row["edit_file"])
    for name in ("edits", "records"):
        (folder / name).mkdir()
    (folder / stream["edit_file"]).write_bytes(b"journal")
    record = '{"edit": 3, "prompt": "Who?", "target": "<i>you</i>", "answer_now": "you"}\n'
    (folder / f"records/{stream['cell']}.jsonl").write_text(record)
    return write_report(folder).page.as_uri()


@pytest.fixture(scope="module")
def large(unlearning_row, tmp_path_factory):
    """The address of a report of 5,000 rows, each a line of its own."""
    folder = tmp_path_factory.mktemp("large")
    rows = [
        unlearning_row(
            f"agent_{agent}",
            0,
            f"unlearning/task{task}",
            retain=((agent * 37 + task) % AGENTS) / AGENTS,
            forget=0.1,
        )
        for task in range(TASKS)
        for agent in range(AGENTS)
    ]
    write_rows(folder, rows)
    return write_report(folder).page.as_uri()


def write_rows(folder, rows):
    """All at once: `append_row` has the disk keep each."""
    import json

    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
    (folder / ROWS_FILE).write_text("".join(lines))


def agents_of(page):
    return page.locator(".agent").all_inner_texts()


def test_five_thousand_lines_open_and_sort_at_once(large, opened):
    took = []
    for _ in range(3):
        page = opened(f"{large}#task=all")
        page.wait_for_selector("#lines tbody tr")
        page.evaluate(SETTLED)
        took.append(page.evaluate("performance.now()"))
    assert page.locator("#count").inner_text() == f"Lines 1–50 of {LINES:,}"
    assert page.locator("#lines tbody tr").count() == 50
    assert min(took) < OPEN_WITHIN, took
    sort = f"""async (name) => {{
        const start = performance.now();
        const said = (button) => button.textContent.replace("\\u00a0", " ");
        [...document.querySelectorAll("thead button")].find(b => said(b) === name).click();
        await {SETTLED};
        return performance.now() - start;
    }}"""
    sorts = [page.evaluate(sort, name) for name in ("harmonic mean ↑", "agent", "task") * 2]
    assert max(sorts) < SORT_WITHIN, sorts
    page.fill("[name=text]", "agent_17")
    page.evaluate(SETTLED)
    assert page.locator("#count").inner_text() == f"Lines 1–50 of {11 * (TASKS + 1)}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(("report", "agent"), [("small", "ppo"), ("large", "agent_17")])
def test_no_violation_and_nothing_beside_the_screen(
    request, opened, report, agent, viewport, scheme
):
    for asked in ("task=all", f"open={agent}", f"task=all&text={agent}"):
        page = opened(f"{request.getfixturevalue(report)}#{asked}", viewport, scheme)
        page.wait_for_selector("#lines tbody tr")
        page.locator("summary").first.click()
        for _ in range(12):
            page.evaluate("scrollBy(0, 600)")
            page.evaluate(SETTLED)
        page.wait_for_selector("figure svg")
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_names_are_read_while_one_of_many_curves_stands_out(small, opened):
    page = opened(small)
    page.locator("#figures").scroll_into_view_if_needed()
    page.wait_for_selector("figure .legend")
    entry = page.locator("figure .legend li").first
    entry.scroll_into_view_if_needed()
    entry.hover()
    assert page.locator("figure.dimmed").count() == 1
    page.evaluate(SETTLED)
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    shown = "marks => marks.map(mark => [mark.dataset.of, getComputedStyle(mark).opacity])"
    for place, opacity in page.locator("figure.dimmed .panels [data-of]").evaluate_all(shown):
        assert (float(opacity) == 1) == (place == entry.get_attribute("data-of"))


def test_it_begins_with_a_table_that_most_agents_are_in(unlearning_row, opened, tmp_path):
    rows = [
        unlearning_row(agent, 0, f"unlearning/{task}", retain=0.9, forget=0.1)
        for task, agents in (("digits", "abcdef"), ("mnist", "a"))
        for agent in agents
    ]
    write_rows(tmp_path, rows)
    page = opened(write_report(tmp_path).page.as_uri())
    assert page.locator("[name=task] option").nth(1).inner_text() == "All unlearning tasks"
    assert page.locator("[name=task] option:checked").inner_text().endswith("unlearning/digits")
    assert page.locator("#count").inner_text() == "6 lines"


def test_filters_columns_and_sorting_are_in_the_address(small, opened):
    page = opened(small)
    assert agents_of(page) == ["ppo", "cmaes", "ssd", "random"]
    heads = page.locator("#lines > thead th").all_inner_texts()
    assert heads == ["agent", "access", "n", *heads[3:]]
    assert len(heads) == 6
    page.get_by_role("button", name="forget accuracy").click()
    assert agents_of(page)[0] == "ppo", "the better side first"
    page.get_by_role("button", name="forget accuracy").click()
    assert agents_of(page)[0] == "random"
    page.select_option("[name=access]", "reward")
    page.locator(".columns summary").click()
    page.get_by_label("edit time").check()
    assert "edit time" in page.locator("#lines > thead").inner_text()
    page.fill("[name=text]", "o")
    assert agents_of(page) == ["random", "ppo"]
    again = opened(page.url)
    assert agents_of(again) == agents_of(page)
    assert again.locator("#lines").inner_text() == page.locator("#lines").inner_text()
    assert again.locator("[name=access]").input_value() == "reward"
    assert again.locator("th[aria-sort=descending]").inner_text().startswith("forget accuracy")


def test_a_line_opens_to_runs_settings_command_and_edits(small, opened):
    page = opened(small)
    page.select_option("[name=task]", label="LifelongLLMEdit-v0 · knowledge/factworld")
    page.locator(".agent").first.click()
    inside = page.locator(".inside")
    text = inside.inner_text()
    assert "All 5 runs" in text
    assert "--suite quick --tasks knowledge/factworld --envs LifelongLLMEdit-v0" in text
    assert "validate DIR --rows" in text
    assert "python 3.11.7" in text
    assert "<i>you</i>" in text
    links = inside.locator("a").evaluate_all("links => links.map(a => a.textContent)")
    assert links == ["journal", "records"], "those that are here"
    inside.locator("summary").click()
    assert '"model_seed": {' in inside.locator("details pre").inner_text(), "by seed"
    assert opened(page.url).locator(".inside").inner_text().startswith("All 5 runs")
    page.keyboard.press("Escape")
    page.locator(".agent").first.click()
    assert page.locator(".inside").count() == 0


def test_figures_answer_to_the_pointer(small, opened):
    page = opened(small)
    page.locator("header nav a", has_text="Figures").click()
    dot = page.locator("figure .dot[data-tip]").first
    dot.scroll_into_view_if_needed()
    dot.hover()
    assert page.locator("#tip").inner_text().startswith("ppo: 0.")
    color = "el => getComputedStyle(el).color"
    dark = opened(small, scheme="dark")
    dark.locator("#figures").scroll_into_view_if_needed()
    other = dark.locator("figure .dot[data-tip]").first
    assert dot.evaluate(color) != other.evaluate(color), "the reader's colours"
