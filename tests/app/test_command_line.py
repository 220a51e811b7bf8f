"""The command line: what it says, what it returns, and that it is light."""

import dataclasses
import json
import subprocess
import sys

import pytest

from diptych import methods
from diptych.app import main as command_line, options
from diptych.app.commands import train
from diptych.app.main import COMMANDS, main
from diptych.recipe import Recipe

HEAVY = ("torch", "pyarrow", "PIL", "matplotlib", "transformers", "pandas", "fsspec", "jinja2", "tensorboard")


def test_overview_names_every_command(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown


def test_version(capsys):
    import diptych

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"diptych {diptych.__version__}"


@pytest.mark.parametrize(
    ("typed", "meant"), [(["trian"], "'train'"), (["evalute", "x"], "'evaluate'"), (["--hlep"], "--hlep")]
)
def test_an_unknown_command_names_the_nearest(typed, meant, capsys):
    assert main(typed) == 2
    said = capsys.readouterr()
    assert meant in said.err
    assert said.out == ""


def test_an_unknown_method_names_the_nearest_in_one_sentence(capsys):
    assert main(["train", "flip", "--data", "starter", "--out", "x"]) == 1
    error = capsys.readouterr().err
    assert "'filip'" in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_an_unknown_preset_names_what_there_is(capsys):
    assert main(["train", "clip", "--preset", "papr", "--data", "starter", "--out", "x"]) == 1
    assert "'paper'" in capsys.readouterr().err


def test_an_unknown_option_names_the_nearest(capsys):
    assert main(["train", "filip", "--data", "starter", "--out", "x", "--smaples", "3"]) == 2
    assert "--samples" in capsys.readouterr().err


def test_options_are_those_of_run_method_and_recipe(capsys):
    assert main(["train", "filip", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--data" in shown
    assert "--keep" in shown
    assert "--weight-decay" in shown
    assert "peak learning rate" in shown


def test_train_without_a_method_is_a_usage_error(capsys):
    assert main(["train", "--data", "starter", "--out", "x"]) == 2
    capsys.readouterr()
    assert main(["train", "--help"]) == 0
    assert "filip" in capsys.readouterr().out


def test_presets_fill_in_and_options_override():
    preset = train.preset_of("filip", "paper")
    parser = train.options_of("filip", preset)
    chosen = options.parse(parser, ["--data", "d", "--out", "o", "--batch", "7"], "train filip")
    assert chosen.method == preset.config
    assert chosen.recipe == dataclasses.replace(preset.recipe, batch=7)


@pytest.mark.parametrize("method", methods.IDS)
def test_option_names_of_a_method_are_free(method):
    """Options are flat, so a method must not take a name that the recipe or the run has."""
    own = {field.name for field in dataclasses.fields(methods.config_class(method))}
    taken = {field.name for cls in (Recipe, train.Options) for field in dataclasses.fields(cls)}
    assert not own & taken


@pytest.mark.parametrize("method", methods.IDS)
def test_every_option_of_a_method_has_a_docstring(method):
    config = methods.config_class(method)
    documented = options.docstrings(config)
    assert [field.name for field in dataclasses.fields(config) if not documented.get(field.name)] == []


def test_methods_as_a_table_and_as_json(capsys):
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in methods.IDS)
    assert main(["methods", "--json"]) == 0
    assert [card["id"] for card in json.loads(capsys.readouterr().out)] == list(methods.IDS)


def test_show_tells_paper_options_and_presets(capsys):
    assert main(["show", "filip"]) == 0
    shown = capsys.readouterr().out
    assert "2111.07783" in shown
    assert "keep" in shown
    assert "--preset paper" in shown
    assert main(["show", "filip", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["config"]["keep"] == methods.config_class("filip")().keep
    assert set(told["presets"]) == set(methods.presets("filip"))


def test_an_error_is_one_sentence_unless_debugging(monkeypatch, capsys):
    def fail(args):
        raise ValueError("the cat is on\nthe keyboard and cannot be moved")

    monkeypatch.setattr("diptych.app.commands.methods.run", fail)
    assert main(["methods"]) == 1
    assert capsys.readouterr().err == "diptych: the cat is on the keyboard and cannot be moved\n"
    monkeypatch.setenv("DIPTYCH_DEBUG", "1")
    with pytest.raises(ValueError, match="keyboard"):
        main(["methods"])


def test_an_unforeseen_error_names_its_kind(monkeypatch, capsys):
    def fail(args):
        return {}["x"]

    monkeypatch.setattr("diptych.app.commands.methods.run", fail)
    assert main(["methods"]) == 1
    assert "KeyError" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt("saved at step 3; the same command goes on from there")

    monkeypatch.setattr("diptych.app.commands.methods.run", stop)
    assert main(["methods"]) == command_line.INTERRUPTED
    assert "saved at step 3" in capsys.readouterr().err


def test_values_are_found_before_the_parser_is_built():
    assert options.value_of("preset", ["--data", "x", "--preset", "paper"]) == "paper"
    assert options.value_of("preset", ["--preset=paper"]) == "paper"
    assert options.value_of("preset", ["--preset"]) is None
    assert options.value_of("preset", ["--presets", "x"]) is None


def test_help_imports_nothing_heavy():
    """All of it in one fresh process: the overview, every command's help, the methods, what is shown of each."""
    script = f"""
import contextlib, io, sys
from diptych.app.main import COMMANDS, main
with contextlib.redirect_stdout(io.StringIO()):
    codes = [main([]), main(["methods"]), main(["status"])]
    codes += [main([name, "--help"]) for name in COMMANDS if name not in ("annotate", "curate")]
    numpy = "numpy" in sys.modules
    codes += [main([name, "--help"]) for name in ("annotate", "curate")]  # options in modules of arrays: numpy, no more
print(codes == [0] * len(codes), numpy, sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "True False []"
