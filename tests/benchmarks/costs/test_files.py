"""Files of costs are printed again, as they were measured, by the command that wrote them."""

import json
from pathlib import Path

import pytest

from benchmarks.costs import encoder, language_model, large_model, streams, throughput
from benchmarks.costs.files import beside, markdown, writable, write

RESULTS = Path(__file__).parents[3] / "docs" / "results"
COMMANDS = {
    "throughput.json": throughput,
    "throughput_vit.json": throughput,
    "encoder/cost.json": encoder,
    "lifelong/cost.json": streams,
    "lifelong/llama3_8b_h100.json": large_model,
    "smollm2/cost.json": language_model,
}


def numbers(text):
    return [cell for line in text.splitlines()[2:] for cell in line.strip("| ").split(" | ")[1:]]


@pytest.mark.parametrize(("file", "command"), COMMANDS.items(), ids=list(COMMANDS))
def test_what_was_measured_is_printed_and_nothing_is_measured(file, command, capsys):
    path = RESULTS / file
    before = path.read_bytes()
    assert command.main(["--show", str(path)]) == 0
    assert capsys.readouterr().out.count("\n") >= 4
    assert path.read_bytes() == before


def test_ratios_stand_beside_what_they_are_ratios_of():
    costs = json.loads((RESULTS / "lifelong/cost.json").read_text())
    costs["step"] = {"step_s": 0.5, "passes_s": 1.0, "ratio": 0.5}
    costs["edits"] |= {"held_bytes": 3_000_000, "model_bytes": 1_500_000, "memory_ratio": 1.5}
    costs["edits"]["one_matrix_per_site_bytes"] = 500_000
    lines = streams.table(costs).splitlines()
    assert lines[2] == "| environment step, s, beside bare passes | 0.5 | 1 | 0.50 |"
    assert numbers(lines[0] + "\n\n" + lines[-1]) == ["3", "2", "1.50"]


def test_off_a_gpu_a_large_model_has_no_peak_memory():
    step, passes = {"step_s": 1.0, "s_per_fact": 0.5}, {"step_s": 2.0, "ratio": 1.25}
    costs = {"hardware": {"name": "a CPU"}, "dtype": "bfloat16", "edits_per_step": 2}
    costs |= {"edit_step": step, "rledit_edit_step": step}
    costs |= {"environment_step": passes, "rledit_training_step": passes}
    text = large_model.table(costs)
    assert text.startswith("| a CPU, bfloat16 | seconds a step |")
    assert numbers(text)[:4] == ["1.000 (500 ms a fact)", "—", "—", "—"]
    assert numbers(text)[-4:] == ["2.000", "1.25", "—", "—"]


def test_every_format_that_was_asked_in_has_its_lines():
    ratio = {"ours_s": 1.0, "bare_s": 2.0, "ratio": 0.5}
    forms = {form: {"evaluation": ratio, "ultraedit_step": ratio} for form in ("bare", "chat")}
    read = {"cold_s": 4.0, "bare_s": 2.0, "ratio": 2.0, "warm_s": 0.25}
    lines = language_model.table({"make_s": 1.0, "covariances": read, **forms}).splitlines()
    assert [line.split("`")[1] for line in lines[2:6]] == ["bare", "bare", "chat", "chat"]
    assert lines[-2] == "| covariances, beside one pass over their tokens | 4 | 2 | 2.00 |"
    assert lines[-1] == "| covariances, read from disk | 0.25 | — | — |"


def test_a_file_that_another_command_wrote_is_an_error_that_names_what_it_lacks(tmp_path, capsys):
    other = RESULTS / "throughput.json"
    assert streams.main(["--show", str(other)]) == 2
    assert f"--show: {other} has no 'edits'" in capsys.readouterr().err
    (tmp_path / "torn.json").write_text("{")
    assert streams.main(["--show", str(tmp_path / "torn.json")]) == 2
    assert "torn.json" in capsys.readouterr().err
    assert streams.main(["--show", str(tmp_path / "nowhere.json")]) == 2
    assert "nowhere.json" in capsys.readouterr().err


def test_a_file_is_written_or_shown(tmp_path, capsys):
    for given in ([], ["--json", "a.json", "--show", "b.json"]):
        with pytest.raises(SystemExit):
            encoder.main(given)
        assert "--json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        language_model.main(["--json", str(tmp_path / "a.json")])
    assert "--model is needed" in capsys.readouterr().err


def test_a_table_is_words_and_numbers():
    line = beside("x", {"a": 0.12345, "b": 123.45, "ratio": 1e-4}, "a", "b")
    assert markdown(["what", "a", "b", "ratio"], [line]) == (
        "| what | a | b | ratio |\n| --- | --: | --: | --: |\n| x | 0.123 | 123 | 0.00 |"
    )


@pytest.mark.parametrize("name", ["", "notes.txt/cost.json"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, name, capsys):
    (tmp_path / "notes.txt").write_text("a file")
    with pytest.raises(SystemExit, match="2"):
        streams.main(["--json", str(tmp_path / name)])
    assert "argument --json: cannot write to" in capsys.readouterr().err


def test_what_was_measured_is_written_whole_into_a_new_folder(tmp_path):
    file = writable(str(tmp_path / "new" / "cost.json"))
    write(file, {"step_s": 1.5})
    assert json.loads(file.read_text()) == {"step_s": 1.5}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("module", [streams, language_model])
@pytest.mark.parametrize("edits", ["5", "0", "-10", "15", "ten"])
def test_edits_that_fill_no_steps_are_refused(module, edits, tmp_path, capsys):
    asked = ["--edits", edits, "--json", str(tmp_path / "cost.json")]
    with pytest.raises(SystemExit, match="2"):
        module.main(asked)
    assert "argument --edits: " in capsys.readouterr().err
