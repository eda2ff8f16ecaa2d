"""The trade-off over a study's trials: which trials are drawn, and which are on its edge."""

import pytest

from benchmarks.studies import tradeoff
from benchmarks.studies.tradeoff import Trial

TABLE = """trial,state,steps,score,harmonic_mean,reliability,generalization,locality,seconds,error
0,complete,2,0.2,0.2,0.9,0.1,0.1,1,
1,complete,2,0.5,0.5,0.6,0.4,0.6,1,
2,pruned,1,0.9,0.9,1.0,1.0,1.0,1,
3,complete,2,0.1,0.1,0.5,0.1,0.5,1,
4,failed,0,,,,,,1,no
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tuning" / "ft_m").mkdir(parents=True)
    (tmp_path / "tuning" / "ft_m" / "trials.csv").write_text(TABLE)
    return tmp_path / "tuning"


def test_whole_trials_alone_are_drawn(folder):
    (trials,) = tradeoff.studies(folder).values()
    assert [trial.score for trial in trials] == [0.2, 0.5, 0.1]
    assert trials[0] == Trial(locality=0.1, reliability=0.9, generalization=0.1, score=0.2)


def test_the_edge_is_what_nothing_betters_in_both():
    trials = [Trial(x, y, 0, 0) for x, y in ((0.1, 0.9), (0.6, 0.6), (0.5, 0.5), (0.6, 0.4))]
    assert [(t.locality, t.reliability) for t in tradeoff.frontier(trials)] == [
        (0.1, 0.9),
        (0.6, 0.6),
    ]


def test_the_picture_is_written_whole_or_not_at_all(folder, tmp_path, capsys):
    file = tmp_path / "trade.png"
    assert tradeoff.main([str(folder), "--out", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    (axes,) = tradeoff.draw(tradeoff.studies(folder)).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ft_m"]
    assert tradeoff.main([str(tmp_path), "--out", str(tmp_path / "no.png")]) == 2
    assert "no study of streams there" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
