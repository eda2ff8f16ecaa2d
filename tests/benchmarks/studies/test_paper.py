"""The table of MNIST beside the paper."""

import pytest

from benchmarks.results import ROWS_FILE, append_row
from benchmarks.studies.paper import main


@pytest.fixture
def folder(tmp_path, unlearning_row):
    def add(name, seeds, calls):
        (tmp_path / name).mkdir(exist_ok=True)
        for seed in seeds:
            append_row(
                tmp_path / name / ROWS_FILE,
                unlearning_row(
                    "ppo",
                    seed,
                    retain=0.9 + seed / 100,
                    forget=0.0,
                    reward_calls=calls,
                    measured={"reward_calls": calls},
                    env_id="MaskWorld-v0",
                    env_kwargs={"task": "unlearning/mnist", "model_seed": seed, "device": "cpu"},
                ),
            )
        return str(tmp_path / name)

    return add


def lines(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if "MaskWorld" in line]


def test_rows_that_two_folders_have_count_once(folder, capsys):
    own = folder("a", range(2), 10)
    assert main([own, own]) == 0
    (line,) = lines(capsys)
    assert "| ppo | 2 (provisional) |" in line
    assert "| 90.50 |" in line


def test_intervals_are_shown_from_five_seeds_on(folder, capsys):
    assert main([folder("a", range(4), 10)]) == 0
    assert "[" not in lines(capsys)[0]
    assert main([folder("b", range(5), 10)]) == 0
    (line,) = lines(capsys)
    assert "| ppo | 5 |" in line
    assert "| 92.00 [90.80, 93.20] |" in line


def test_budgets_have_lines_of_their_own_and_one_seed_no_interval(folder, capsys):
    assert main([folder("a", range(3), 10), folder("b", range(1), 20)]) == 0
    first, second = lines(capsys)
    assert "| ppo (reward_calls=10) | 3 (provisional) |" in first
    assert "| ppo (reward_calls=20) | 1 (provisional) |" in second
    assert "| 90.00 |" in second


def test_a_folder_without_rows_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "error: no rows in" in capsys.readouterr().err
