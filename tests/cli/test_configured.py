"""The configuration file: found, read, checked, and overridden by the command line."""

import inspect
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import get_args, get_origin

import jsonschema
import onnx.parser
import pytest
import typer
import typer.main

import onnxslim1x1
from onnxslim1x1.cli import main as cli_main
from onnxslim1x1.cli.commands import COMMANDS
from onnxslim1x1.cli.discovery import find
from onnxslim1x1.cli.main import app
from onnxslim1x1.cli.options import Debug
from onnxslim1x1.cli.rivals import overlaid
from onnxslim1x1.cli.settings import config_schema, configurable, load, shared
from onnxslim1x1.errors import OptionError

SCHEMA_FILE = Path(onnxslim1x1.__file__).parent / "schemas" / "config.schema.json"
GROUP = typer.main.get_command(app)
USAGE_ERROR = typer.BadParameter.__base__
TOML = "onnxslim1x1.toml"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Debug, "enabled", False)  # one of the options that are tried switches it on
    return tmp_path


@pytest.fixture
def seen(monkeypatch):
    """What a command receives, by parameter, instead of running it."""
    received = {}

    def spied(name):
        for parameter in GROUP.commands[name].params:
            received[parameter.name] = None

        def callback(**values):
            received.clear()
            # paths and lists are made here or in the command, depending on the version of typer
            received.update({k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
                             for k, v in values.items()})
        return callback

    for name in configurable():
        monkeypatch.setattr(GROUP.commands[name], "callback", spied(name))
    return received


def run(*arguments, code=0):
    """Run the command line in this process; errors as a user sees them."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            GROUP(list(map(str, arguments)), "onnxslim1x1", standalone_mode=False)
        except (OptionError, USAGE_ERROR) as error:
            found, said = 2, str(error)
        else:
            found, said = 0, printed.getvalue()
    assert found == code, said
    return said


def written(text, name=TOML):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# ---- completeness ----

@pytest.mark.parametrize("name", ["analyze", "plan", "slim", "validate"])
def test_every_option_and_argument_can_be_set(name):
    """Against the parameters of the parser itself: an option that is added tomorrow is covered."""
    known = configurable()[name]
    wanted = {p.name: max(p.opts, key=len).removeprefix("--") for p in GROUP.commands[name].params
              if p.name not in ("help", "config", "no_config")}
    assert len(wanted) > 15
    assert {s.name: s.key for s in known.values()} == wanted


def sample(setting):
    """A value for the file and what the parser gives the command for it."""
    kind = setting.kind
    if get_origin(kind) is list:
        return '["a=1", "b=2"]', ["a=1", "b=2"]
    if get_args(kind):
        return json.dumps(get_args(kind)[-1]), get_args(kind)[-1]
    least = setting.least if setting.least is not None else 0
    return {bool: ("true", True), int: (f"{int(least) + 2}", int(least) + 2), float: (f"{least + 0.5}", least + 0.5),
            str: ('"text"', "text"), Path: ('"sub/file"', "sub/file")}[kind]


@pytest.mark.parametrize(("name", "key"), [(n, k) for n, settings in configurable().items() for k in settings])
def test_every_setting_reaches_its_command(name, key, seen):
    setting = configurable()[name][key]
    text, value = sample(setting)
    needed = {s.key: "net.onnx" for s in configurable()[name].values()
              if s.name in ("model", "original", "rewritten") and s.key != key}
    written(f"[{name}]\n{key} = {text}\n" + "".join(f'{k} = "{v}"\n' for k, v in needed.items()))
    run(name)
    assert seen[setting.name] == value
    same = shared().get(setting.key, setting).kind == setting.kind  # validate takes several numbers of threads
    if setting.top_key and same:
        written(f"{setting.top_key} = {text}\n[{name}]\n" + "".join(f'{k} = "{v}"\n' for k, v in needed.items()))
        run(name)
        assert seen[setting.name] == value


def test_no_table_is_called_like_an_option():
    assert not shared().keys() & configurable().keys()


def test_commands_that_run_nothing_ignore_the_file():
    assert {"cost", "report", "apply", "cache", "init"}.isdisjoint(configurable())
    assert set(configurable()) == {n for n in COMMANDS if any(p.name == "config" for p in GROUP.commands[n].params)}
    written("nonsense = 1")
    assert "112,896,000" in run("cost", "--input", "14x14x480", "--filters", 48, "--kernel", 5)


# ---- the schema ----

def test_the_published_schema_is_what_the_options_mean():
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == config_schema(), "run: scripts/write_schema.py"
    jsonschema.Draft202012Validator.check_schema(config_schema())


@pytest.mark.parametrize(("document", "fits"), [
    ({}, True), ({"threads": 2, "mean": [0.5, 1], "slim": {"output": "a.onnx", "resize": 256}}, True),
    ({"model": "a", "rewritten": "b", "validate": {"min-speedup": 1, "baseline": "b.json"}}, True),
    ({"threads": "2"}, False), ({"threads": -1}, False), ({"output": "a"}, False), ({"slim": 3}, False),
    ({"slim": {"max_drop": 0.1}}, False), ({"no-cache": 1}, False), ({"include": "a"}, False),
    ({"analyze": {"sort": "name"}}, False), ({"mean": True}, False), ({"config": "x"}, False)])
def test_schema_and_parser_agree(document, fits):
    toml = json_to_toml(document)
    assert jsonschema.Draft202012Validator(config_schema()).is_valid(document) is fits
    path = written(toml)
    if fits:
        assert load(path).values == document
    else:
        with pytest.raises(OptionError, match=f"^{TOML}: "):
            load(path)


def json_to_toml(document):
    plain = {k: v for k, v in document.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in document.items() if isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in plain.items()]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    return "\n".join(lines)


def test_every_key_is_explained():
    schema = config_schema()
    for part in (schema, *schema["$defs"].values()):
        assert all(value["description"] for value in part["properties"].values())


# ---- finding it ----

def test_the_nearest_file_wins(here):
    (here / "a" / "b" / "c").mkdir(parents=True)
    far, near = written("threads = 1"), written("threads = 2", f"a/b/{TOML}")
    assert find(here / "a") == here / far
    assert find(here / "a" / "b" / "c") == here / near
    assert find(here / "a" / "b") == here / near
    project = written("[tool.onnxslim1x1]\nthreads = 3", "a/b/c/pyproject.toml")
    assert find(here / "a" / "b" / "c") == here / project
    own = written("threads = 4", f"a/b/c/{TOML}")
    assert find(here / "a" / "b" / "c") == here / own


@pytest.mark.parametrize("text", ["[project]\nname = 'x'", "[tool.ruff]\n[project]\ndependencies = ['onnxslim1x1']",
                                  "tool = 3 # onnxslim1x1", ""])
def test_a_project_file_without_the_table_is_passed_over(here, text):
    far = written("threads = 1")
    written(text, "a/pyproject.toml")
    assert find(here / "a") == here / far


def test_a_folder_of_the_name_is_no_file(here):
    (here / TOML).mkdir()
    assert find(here) is None


def test_without_a_file_nothing_is_said(seen):
    assert run("analyze", "net.onnx") == ""
    assert seen["threads"] == 0


def test_the_file_is_named_on_standard_error(seen):
    written("threads = 2")
    assert run("analyze", "net.onnx") == f"note: options from {TOML}\n"
    assert seen["threads"] == 2


def test_a_file_can_be_named_or_ignored(seen):
    written("threads = 2")
    other = written("threads = 3", "conf/other.toml")
    project = written("[tool.onnxslim1x1]\nthreads = 4", "conf/pyproject.toml")
    run("analyze", "net.onnx", "--config", other)
    assert seen["threads"] == 3
    run("analyze", "net.onnx", "--config", project)
    assert seen["threads"] == 4
    run("analyze", "net.onnx", "--no-config")
    assert seen["threads"] == 0
    assert "contradicts --no-config" in run("analyze", "net.onnx", "--no-config", "--config", other, code=2)


def test_the_quick_answer_knows_the_file():
    """`analyze --no-measure MODEL` does without the parser, but not without the file."""
    onnx.save(onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }"""), "net.onnx")
    written("[analyze]\njson = true")
    command = [sys.executable, "-m", "onnxslim1x1", "analyze", "--no-measure", "net.onnx"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(result.stdout)["command"] == "analyze"


def test_help_does_not_need_a_sound_file():
    written("threads = =")
    assert "Usage:" in run("slim", "--help")


# ---- precedence ----

def test_the_command_line_wins_over_the_table_and_that_over_the_top(seen):
    written('model = "net.onnx"\nthreads = 2\nseed = 3\nlimit = 4\n[analyze]\nseed = 5\nlimit = 6')
    run("analyze", "--limit", 7)
    assert (seen["threads"], seen["seed"], seen["limit"]) == (2, 5, 7)
    run("plan", "-o", "plan.json")
    assert (seen["threads"], seen["seed"], seen["limit"]) == (2, 3, 4)


def test_models_have_one_name_for_all_commands(seen):
    written('model = "a.onnx"\nrewritten = "b.onnx"')
    run("validate")
    assert (seen["original"], seen["rewritten"]) == ("a.onnx", "b.onnx")
    run("slim")
    assert (seen["model"], seen["output"]) == ("a.onnx", "b.onnx")
    run("plan", "--explore")
    assert (seen["model"], seen["output"]) == ("a.onnx", None)
    run("analyze")
    assert (seen["model"], seen["other"]) == ("a.onnx", None)


def test_what_was_written_for_one_model_is_not_for_another(seen):
    written('model = "a.onnx"\nrewritten = "b.onnx"\n[validate]\nbaseline = "c.json"')
    run("slim", "other.onnx")
    assert (seen["model"], seen["output"]) == ("other.onnx", None)
    assert "REWRITTEN" in run("validate", "other.onnx", code=2).upper()
    run("validate", "other.onnx", "new.onnx")
    assert (seen["original"], seen["rewritten"], seen["baseline"]) == ("other.onnx", "new.onnx", None)


@pytest.mark.parametrize(("file", "given", "gone", "kept"), [
    ("target-macs = 0.5\nmax-drop = 0.1", ["--target-speedup", 1.5], {"target_macs": None}, {"max_drop": 0.1}),
    ('data = "d"\nlabels = "l"', ["--data", "e"], {"labels": None}, {"data": "e"}),
    ('cache = "c"', ["--no-cache"], {"cache": None}, {"no_cache": True}),
    ("no-cache = true", ["--cache", "c"], {"no_cache": False}, {"cache": "c"}),
    ('preprocess = "unit"\nmean = 0.5', ["--preprocess", "imagenet"], {"mean": None}, {"preprocess": "imagenet"}),
    ("min-snr = 20", ["--no-validate"], {"min_snr": None}, {"no_validate": True}),
    ("[slim]\nno-validate = true", ["--min-snr", 3], {"no_validate": False}, {"min_snr": 3.0}),
    ("[slim]\nexplore = true", ["-o", "x.onnx"], {"explore": False}, {"output": "x.onnx"}),
    ('rewritten = "b.onnx"\ntarget-macs = 0.5\nmin-snr = 3\ndata = "d"\n[slim]\njunit = "j.xml"', ["--explore"],
     {"output": None, "target_macs": None, "min_snr": None, "data": None, "junit": None}, {"explore": True}),
    ("target-macs = 0.5\n[slim]\ntarget-speedup = 2", [], {"target_macs": None}, {"target_speedup": 2.0})])
def test_what_is_said_later_switches_off_what_it_contradicts(file, given, gone, kept, seen):
    written(f'model = "a.onnx"\n{file}')
    run("slim", *given)
    for name, value in (gone | kept).items():
        assert seen[name] == value, name


def test_rivals_are_options():
    names = {s.name for settings in configurable().values() for s in settings.values()}
    everything = dict.fromkeys(names, 1)
    assert overlaid((), everything) == everything
    for name in names:
        assert name not in overlaid((name,), everything)


def test_paths_are_relative_to_the_file(here, seen, monkeypatch):
    written('model = "models/a.onnx"\ndata = "/abs/d"\n[analyze]\ncsv = "-"\nhtml = "out.html"')
    (here / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(here / "deep" / "er")
    run("analyze")
    assert (seen["model"], seen["html"]) == ("../../models/a.onnx", "../../out.html")
    assert seen["csv"] == "-"
    run("validate", "x", "y")
    assert seen["data"] == "/abs/d"


def test_numbers_may_be_numbers(seen):
    written('model = "a.onnx"\nmean = [0.485, 0.5, 1]\nresize = 256\ncrop = "224x192"\nscale = 0.5')
    run("analyze")
    assert [seen[name] for name in ("mean", "resize", "crop", "scale")] == ["0.485,0.5,1", "256", "224x192", "0.5"]


# ---- what is wrong with it ----

@pytest.mark.parametrize(("text", "message"), [
    ("threds = 1", "threds: unknown key; did you mean threads"),
    ("[slim]\nmax_drop = 0.1", "slim.max_drop: unknown key; did you mean max-drop"),
    ("[validat]\nmin-snr = 1", "validat: unknown key; did you mean validate"),
    ("[plan]\ndata = 'x'", "plan.data: unknown key"),
    ("threads = '1'", 'threads: must be an integer, not "1"'),
    ("no-cache = 1", "no-cache: must be a boolean, not 1"),
    ("include = 'a'", 'include: must be a list, not "a"'),
    ("max-drop = 2001-01-01", 'max-drop: must be a number, not "2001-01-01"'),
    ("min-snr = inf", "min-snr: must be a finite number"),
    ("slim = 7", "slim: must be a table, not 7"),
    ("[analyze]\nsort = 'name'", "analyze.sort: must be 'graph', 'time', "),
    ("[slim]\nthreads = -1", "slim.threads: must be greater than or equal to 0, not -1"),
    ("output = 'a.onnx'", r"output: belongs to one command; put it under \[plan\] or \[slim\]"),
    ("no-config = true", "no-config: unknown key"),
    ("threads = ", r"is not valid TOML \(Invalid value"), ("threads = 1\nthreads = 2", "is not valid TOML"),
    ("\udcff", "is not valid TOML")])
def test_mistakes_are_named_with_file_and_key(text, message):
    Path(TOML).write_bytes(text.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(OptionError, match=f"^{TOML}: {message}"):
        load(Path(TOML))
    assert run("analyze", "net.onnx", code=2).startswith(f"{TOML}: ")


@pytest.mark.parametrize(("text", "message"), [
    ("[tool.onnxslim1x1]\nthreds = 1", "tool.onnxslim1x1.threds: unknown key; did you mean threads"),
    ("[tool.onnxslim1x1.slim]\nmin-snr = 'x'", "tool.onnxslim1x1.slim.min-snr: must be a number"),
    ("[tool]\nonnxslim1x1 = 3", "tool.onnxslim1x1: must be a table, not 3"),
    ("[project]\nname = 'x'", r"has no table \[tool.onnxslim1x1\]")])
def test_the_same_in_a_project_file(text, message):
    path = written(text, "pyproject.toml")
    with pytest.raises(OptionError, match=f"^pyproject.toml: {message}"):
        load(path)


def test_a_file_that_is_not_there():
    assert "nowhere.toml: cannot be read" in run("analyze", "net.onnx", "--config", "nowhere.toml", code=2)


def test_errors_of_options_name_the_file_that_sets_them(monkeypatch, capsys):
    written('model = "net.onnx"\nscale = "7x"')
    for arguments, blamed in ((["analyze"], True), (["analyze", "--scale", "8x"], False)):
        monkeypatch.setattr(sys, "argv", ["onnxslim1x1", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli_main.main()
        assert caught.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: --scale ")
        assert error.endswith(f"({TOML} sets it)") is blamed


def test_the_defaults_stay_out_of_the_signature():
    """`configurable` reads what typer reads."""
    for name, settings in configurable().items():
        parameters = inspect.signature(sys.modules[f"onnxslim1x1.cli.{name}"].command).parameters
        assert {s.name for s in settings.values()} == parameters.keys() - {"config", "no_config"}
        assert os.sep not in "".join(settings)
