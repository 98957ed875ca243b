"""Options in groups: what the command line sees, and what the command receives."""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from onnxslim1x1.cli import analyze, cost, plan, slim, validate
from onnxslim1x1.cli.apply import ApplyFlags
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import BudgetFlags, DataFlags, GateFlags, ImageFlags, OutputFlags, RunFlags
from onnxslim1x1.cli.timing import TimedRunFlags
from onnxslim1x1.errors import OptionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Paint:
    colour: Annotated[str, typer.Option(help="Any colour.")] = "red"
    layers: Annotated[int, typer.Option("--layers", "-l", min=1)] = 2
    dry: Annotated[bool, typer.Option("--dry")] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    width: Annotated[int, typer.Option(show_default=False)]
    tags: Annotated[list[str] | None, typer.Option()] = None


def application(seen):
    """An application with one command `paint` that puts what it receives into `seen`."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)

    @app.command("paint")
    @grouped
    def command(name: Annotated[str, typer.Argument()], *, first: Size, second: Paint,
                loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        """Paint something."""
        seen.update(name=name, first=first, second=second, loud=loud)

    return app


@pytest.mark.parametrize(("arguments", "size", "paint", "loud"), [
    (["--width", "3"], Size(width=3), Paint(), False),
    (["--width", "3", "--colour", "blue", "-l", "5", "--dry"], Size(width=3),
     Paint(colour="blue", layers=5, dry=True), False),
    (["--tags", "a", "--width", "7", "--tags", "b", "--loud"], Size(width=7, tags=["a", "b"]), Paint(), True),
])
def test_a_command_receives_instances(arguments, size, paint, loud):
    seen = {}
    result = CliRunner().invoke(application(seen), ["fence", *arguments])
    assert result.exit_code == 0, result.output
    assert seen == {"name": "fence", "first": size, "second": paint, "loud": loud}


@pytest.mark.parametrize("arguments", [
    ["fence"], ["--width", "3"], ["fence", "--width", "three"], ["fence", "--width", "3", "--layers", "0"],
    ["fence", "--width", "3", "--size", "4"], ["fence", "more", "--width", "3"]])
def test_wrong_usage_does_not_reach_the_command(arguments):
    seen = {}
    assert CliRunner().invoke(application(seen), arguments).exit_code == 2
    assert seen == {}


def test_help_shows_the_fields_as_options():
    result = CliRunner().invoke(application({}), ["--help"])
    assert result.exit_code == 0
    assert "Paint something." in result.output
    for text in ("--colour", "Any colour.", "red", "--layers", "--dry", "--width", "--tags", "--loud"):
        assert text in result.output
    assert "--first" not in result.output
    assert "--second" not in result.output


def test_the_signature_holds_the_fields_instead_of_the_groups():
    @grouped
    def command(name: str, *, second: Paint, loud: bool = False) -> None:
        """Whatever."""

    signature = inspect.signature(command)
    assert list(signature.parameters) == ["name", "colour", "layers", "dry", "loud"]
    assert {p.kind for p in signature.parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert [p.default for p in signature.parameters.values()] == [inspect.Parameter.empty, "red", 2, False, False]
    assert (command.__name__, command.__doc__) == ("command", "Whatever.")


def test_a_function_without_groups_keeps_its_options():
    @grouped
    def command(name: str, loud: bool = True) -> None:
        """Whatever."""

    assert list(inspect.signature(command).parameters) == ["name", "loud"]


# ---- the groups of the commands ----

@pytest.mark.parametrize(("module", "groups"), [
    (cost, [OutputFlags]), (analyze, [ImageFlags, RunFlags, OutputFlags]),
    (validate, [DataFlags, GateFlags, TimedRunFlags, OutputFlags]),
    (plan, [BudgetFlags, ImageFlags, RunFlags, OutputFlags]),
    (slim, [BudgetFlags, DataFlags, GateFlags, RunFlags, OutputFlags])])
def test_commands_offer_all_options_of_their_groups(module, groups):
    app = typer.Typer()
    app.command()(module.command)
    offered = {o for p in typer.main.get_command(app).params for o in p.opts}
    for group in groups:
        assert {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(group)} <= offered


@pytest.mark.parametrize("group", [ApplyFlags, BudgetFlags, DataFlags, GateFlags, ImageFlags, OutputFlags, RunFlags,
                                   TimedRunFlags])
def test_groups_are_frozen_and_every_option_is_explained(group):
    values = group()
    for f in dataclasses.fields(group):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(values, f.name, None)
    app = typer.Typer()

    @app.command()
    @grouped
    def command(flags: group) -> None:
        """Whatever."""

    assert all(p.help for p in typer.main.get_command(app).params if p.name != "help")


def test_run_flags_become_options():
    told = []
    run = RunFlags(threads=3, provider="cpu", input_shape=["x:1x3x8x6", "y:[2,5]"], dim=["N=4,M=5"], seed=9).options(
        lambda stage, done: told.append((stage, done)))
    assert (run.threads, run.provider, run.seed) == (3, "cpu", 9)
    assert run.input_shapes == {"x": (1, 3, 8, 6), "y": (2, 5)}
    assert run.dims == {"N": 4, "M": 5}
    run.stage("factorising")(0.5)
    assert told == [("factorising", 0.5)]
    assert RunFlags().options(None).stage("factorising") is None


def test_timed_run_flags_become_options():
    flags, settings = TimedRunFlags(threads="2,1", batch="1,8", seed=5), GateFlags(time=3.0).settings()
    run, timed = flags.options(None), flags.timed(settings)
    assert (run.threads, run.seed) == (2, 5)  # the first runs everything else
    assert (timed.timed.threads, timed.timed.batches) == ((2, 1), (1, 8))
    assert (timed.benchmark.budget_s, timed.measure_footprint) == (3.0, True)
    assert timed.benchmark.max_rounds > settings.benchmark.max_rounds
    assert TimedRunFlags().timed(settings).timed.batches == ()
    with pytest.raises(OptionError, match=r"^--threads one: cannot be read"):
        TimedRunFlags(threads="one").options(None)
    with pytest.raises(OptionError, match=r"^--batch 0: must be 1 or more"):
        TimedRunFlags(batch="0").timed(settings)


def test_run_flags_choose_where_results_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ONNXSLIM1X1_CACHE", str(tmp_path / "b"))
    assert RunFlags().options(None).store.folder == tmp_path / "b"
    assert RunFlags(cache=tmp_path / "a").options(None).store.folder == tmp_path / "a"
    assert RunFlags(no_cache=True).options(None).store.folder is None
    with pytest.raises(OptionError, match=r"^--cache .*contradicts --no-cache"):
        RunFlags(cache=tmp_path, no_cache=True).options(None)
    (tmp_path / "b").write_text("no folder")
    RunFlags().options(None).store.put_value("loss", {}, 1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err.split(" ")[0], captured.err.count("\n")) == ("", "warning:", 1)


def test_data_flags_become_a_treatment_of_images(tmp_path):
    flags = DataFlags(data=tmp_path, labels=tmp_path / "labels.csv", limit=7, preprocess="imagenet", mean="0.1,.2,.3",
                      resize="240", crop="224x192", channel_order="bgr")
    data = flags.options()
    assert (data.path, data.labels, data.limit) == (tmp_path, tmp_path / "labels.csv", 7)
    prep = data.preprocess
    assert (prep.mean, prep.std, prep.resize, prep.crop) == ((0.1, 0.2, 0.3), (0.229, 0.224, 0.225), 240, (224, 192))
    assert prep.channel_order == "bgr"
    other = flags.other(tmp_path / "calibration")
    assert (other.path, other.labels, other.limit) == (tmp_path / "calibration", None, 7)
    assert other.preprocess == prep


@pytest.mark.parametrize("flags", [
    DataFlags(labels="labels.csv"), DataFlags(preprocess="imagnet"), DataFlags(scale="1/0"), DataFlags(mean="x"),
    DataFlags(std="0,1,1"), DataFlags(resize="a"), DataFlags(crop="1x2x3"), DataFlags(layout="chw"),
    DataFlags(channel_order="rbg"), DataFlags(resize="100", crop="224")])
def test_data_flags_are_checked_even_without_data(flags):
    with pytest.raises(OptionError, match=r"^--(labels|preprocess|scale|mean|std|resize|crop|layout|channel-order) "):
        flags.options()


def test_without_data_there_is_nothing_to_read():
    assert DataFlags().options() is None
    assert DataFlags().other(None) is None


def test_budget_flags_become_a_budget():
    budget = BudgetFlags(max_error=0.2, target_macs=0.5, rank=["a=3", "b/c=4"], include=["a*"], exclude=["b"]).budget()
    assert (budget.max_error, budget.target_macs, budget.ranks) == (0.2, 0.5, {"a": 3, "b/c": 4})
    assert (budget.include, budget.exclude) == (("a*",), ("b",))
    assert BudgetFlags().budget().is_open


@pytest.mark.parametrize(("values", "option"), [
    ({"max_error": 0.0}, "--max-error"), ({"target_macs": 1.0}, "--target-macs"), ({"rank": ["a"]}, "--rank")])
def test_budget_flags_are_checked(values, option):
    with pytest.raises(OptionError, match=f"^{option} "):
        BudgetFlags(**values).budget()


def test_gate_flags_become_settings():
    settings = GateFlags(max_drop=0.01, min_agreement=0.9, min_snr=20.0, min_speedup=1.1, time=2.5).settings()
    tolerance = settings.tolerance
    assert (tolerance.max_drop, tolerance.min_agreement, tolerance.min_snr_db, tolerance.min_speedup) == (
        0.01, 0.9, 20.0, 1.1)
    assert settings.benchmark.budget_s == 2.5
    assert GateFlags().settings().tolerance == type(tolerance)()


@pytest.mark.parametrize(("values", "option"), [
    ({"max_drop": 1.5}, "--max-drop"), ({"min_agreement": -0.1}, "--min-agreement"),
    ({"min_snr": float("inf")}, "--min-snr"), ({"min_speedup": 0.0}, "--min-speedup"),
    ({"max_drop": float("nan")}, "--max-drop")])
def test_gate_flags_are_checked(values, option):
    with pytest.raises(OptionError, match=f"^{option} "):
        GateFlags(**values).settings()
