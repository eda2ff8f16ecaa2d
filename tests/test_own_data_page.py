"""docs/own_data.md is followed word for word: its blocks and commands, one after the other, in an
empty folder."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PAGE = Path(__file__).resolve().parent.parent / "docs" / "own_data.md"
PYTHON = ".venv/bin/python"
_FENCED = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")


def commands(text):
    """The commands of a block, each as its words."""
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def exit_code(module, arguments, monkeypatch):
    """What `python -m module arguments` ends with."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as left:
            return left.code
    return 0


def follow(page, folder, monkeypatch):
    """Do what a page says: the namespace of its blocks, and how many blocks and commands ran.

    Commands run in this process: to start Python and import torch takes longer than all the rest.
    """
    namespace, done = {"__name__": "__main__"}, {"python": 0, "bash": 0}
    for block in _FENCED.finditer(page):
        if block["kind"] == "python":
            if named := _FILE_NAME.match(block["text"]):
                (folder / named[1]).write_text(block["text"], encoding="utf-8")
            exec(compile(block["text"], f"{PAGE.name}: {block['text'][:40]}", "exec"), namespace)
            done["python"] += 1
            continue
        for python, module_option, module, *arguments in commands(block["text"]):
            assert (python, module_option) == (PYTHON, "-m")
            code = exit_code(module, arguments, monkeypatch)
            assert not code, f"{module} {shlex.join(arguments)}"
            done["bash"] += 1
    return namespace, done


@pytest.mark.filterwarnings("ignore:'agents.* found in sys.modules:RuntimeWarning")
def test_the_page_is_followed_word_for_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    try:
        namespace, done = follow(PAGE.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    finally:
        sys.modules.pop("my_nets", None)
    assert done == {"python": 8, "bash": 7}
    printed = capsys.readouterr().out
    assert "unedited, on the reward data, forget circle: retain_accuracy 100.00%" in printed
    assert "1 of 1 rows reproduced" in printed
    assert "broken.npz" in printed
    assert "one-hot: give y_train.argmax(1)" in printed
    report = namespace["report"]
    assert report["forget_accuracy_before"] > 0.9
    assert report["mia_advantage"] is not None
    assert report["oracle_gap"] > 0
    # What the first training reached: the class is forgotten, the others are kept.
    network = namespace["ShapeNet"]()
    network.load_state_dict(load_file(tmp_path / "runs" / "circle" / "merged.safetensors"))
    test = namespace["data"].test
    with torch.no_grad():
        right = network(test.inputs).argmax(-1) == test.labels
    assert float(right[test.labels == 0].float().mean()) < 0.2
    assert float(right[test.labels != 0].float().mean()) > 0.8


def test_a_command_that_fails_is_noticed(tmp_path, monkeypatch):
    page = f"```bash\n{PYTHON} -m agents.edit \\\n    nowhere\n```\n"
    with pytest.raises(AssertionError, match=r"agents\.edit nowhere"):
        follow(page, tmp_path, monkeypatch)


def test_a_block_that_fails_is_noticed(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        follow("```python\n1 / 0\n```\n", tmp_path, monkeypatch)
