"""The README names every command, option, exit code and reason, and its examples run as they stand."""

import dataclasses
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer.main

import onnxslim1x1
from onnxslim1x1.cli import exits
from onnxslim1x1.cli.main import app, main
from onnxslim1x1.report.document import SCHEMA_VERSION
from onnxslim1x1.runtime import calibration, preprocess, validate

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "onnxslim1x1"
COMMANDS = typer.main.get_command(app).commands
BUILT_IN = {"--help", "--version"}


def blocks(language):
    """Contents of the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def examples():
    """Command lines of the console blocks that start with `onnxslim1x1`, each with the output that is shown."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            words = shlex.split(line, comments=True)
            if words[0] == "onnxslim1x1":
                assert not {"|", "&&", ";", ">"} & set(words), f"not one command: {line}"
                found.append((words[1:], shown))
    return found


def spellings(command):
    """All spellings of each option of a command, the long one first."""
    found = [tuple(sorted((*p.opts, *p.secondary_opts), key=len, reverse=True)) for p in command.params]
    return [each for each in found if each[0].startswith("-")]


def mentioned(option):
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", README) is not None


# ---- completeness ----

@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_heading_and_an_example(name):
    assert re.search(rf"^#+ .*`{name}`", README, re.MULTILINE)
    assert any(arguments[0] == name for arguments, _ in examples())


@pytest.mark.parametrize(("name", "option"), [(name, o) for name, c in COMMANDS.items() for o in spellings(c)],
                         ids=lambda x: x if isinstance(x, str) else x[0])
def test_every_option_is_in_the_readme(name, option):
    assert any(map(mentioned, option)), f"{option[0]} of {name} is missing"


def test_no_option_of_the_readme_is_invented():
    known = BUILT_IN.union(*(o for c in COMMANDS.values() for o in spellings(c)))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README)) <= known


def test_every_exit_code_is_in_the_readme():
    codes = {0} | {value for name, value in vars(exits).items() if name.startswith("EXIT_")}
    rows = {int(code) for code in re.findall(r"^\| (\d+) \| \S.* \|$", README, re.MULTILINE)}
    assert rows == codes


def test_every_reason_for_leaving_a_layer_alone_is_in_the_readme():
    text = "".join(p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py"))
    codes = set(re.findall(r'Ineligible\(\s*code="(\w+)"', text))
    assert len(codes) > 10
    assert {code for code in codes if f"`{code}`" not in README} == set()


@pytest.mark.parametrize("name", preprocess.PRESETS)
def test_every_preset_is_in_the_readme(name):
    assert re.search(rf"^\| `{name}` \| \S", README, re.MULTILINE)


def test_everything_that_the_package_offers_is_documented():
    functions = {n for n in onnxslim1x1.__all__ if n.islower() and not n.startswith("_")}
    assert {n for n in functions if f"onnxslim1x1.{n}(" not in README} == set()


def test_the_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", text, re.MULTILINE)
    assert headings[0] == onnxslim1x1.__version__


def test_links_to_files_lead_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)#]+)[^)]*\)", README) if "://" not in t]
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_the_schema_version_is_the_first_one():
    assert SCHEMA_VERSION == 1


# ---- examples ----

@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A copy of what the examples use; statistics and latencies are taken from fewer samples, which is faster."""
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 1.5)
    monkeypatch.setattr(calibration, "LEAST_ROWS", 4000)
    real = validate.compare_models

    def compare_models(*paths, settings, **options):
        return real(*paths, settings=dataclasses.replace(settings, budget_s=0.2), **options)

    monkeypatch.setattr(validate, "compare_models", compare_models)
    return tmp_path


def run(arguments, monkeypatch, capsys):
    """Exit code, standard output and standard error of the command."""
    monkeypatch.setattr(sys, "argv", ["onnxslim1x1", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0, *capsys.readouterr()


def test_there_are_examples():
    assert len(examples()) >= len(COMMANDS)
    assert blocks("python")


@pytest.mark.parametrize(("arguments", "shown"), [e for e in examples() if e[0][0] == "cost"],
                         ids=lambda x: " ".join(x) if isinstance(x, list) else "")
@pytest.mark.usefixtures("workplace")
def test_examples_without_a_model_print_what_is_shown(arguments, shown, monkeypatch, capsys):
    code, out, err = run(arguments, monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [line.rstrip() for line in shown.splitlines()]


@pytest.mark.slow
def test_examples_run(workplace, monkeypatch, capsys):
    ran = [arguments for arguments, _ in examples()
           if arguments[0] == "report" or any("sample_models/" in a for a in arguments)]
    analysed = ["analyze", "sample_models/digits_googlenet.onnx", "--no-measure", "--json"]
    Path("result.json").write_text(run(analysed, monkeypatch, capsys)[1], encoding="utf-8")
    shutil.copy("sample_models/digits_googlenet.onnx", "slim.onnx")  # until slim writes one
    validated = ["validate", "sample_models/digits_googlenet.onnx", "slim.onnx", "--time", "0.1", "--json"]
    Path("validation.json").write_text(run(validated, monkeypatch, capsys)[1], encoding="utf-8")
    assert {arguments[0] for arguments in ran} == set(COMMANDS) - {"cost", "cache"}
    for arguments in ran:  # in order: validate compares what slim wrote
        code, out, err = run(arguments, monkeypatch, capsys)
        assert code == 0, f"{' '.join(arguments)}\n{out}{err}"
        assert out or arguments[0] in ("report", "init")
    before, after = ((place / "sample_models" / "digits_googlenet.onnx").read_bytes() for place in (ROOT, workplace))
    assert before == after


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0])
@pytest.mark.usefixtures("workplace")
def test_python_examples_run(block, capsys):
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == block.count("print(")
