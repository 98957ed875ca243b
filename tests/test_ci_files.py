"""The action, the GitLab include, the hook and the recipe: they fit the published schemas, and their steps run."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
GITLAB = yaml.safe_load((ROOT / "templates" / "gitlab.yml").read_text(encoding="utf-8"))[".onnxslim1x1"]
HOOK, = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
SECTION = README.partition("### In your pipeline\n")[2].partition("\n### ")[0]
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]  # as GitHub's runner calls it for `shell: bash`


def block(language, number=0):
    """A block of the README's section."""
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)[number]


# ---- published schemas ----

def fits(schema, path):
    """Whether check-jsonschema, which brings the schemas of the services along, finds nothing wrong."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    return result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("schema", "path"), [
    ("github-actions", "action.yml"), ("gitlab-ci", "templates/gitlab.yml"),
    ("github-workflows", ".github/workflows/ci.yml")])
def test_files_fit_the_schema_of_their_service(schema, path):
    good, said = fits(schema, ROOT / path)
    assert good, said


def test_a_schema_can_say_no(tmp_path):
    broken = tmp_path / "action.yml"
    broken.write_text((ROOT / "action.yml").read_text(encoding="utf-8").replace("using: composite", "using: magic"))
    assert not fits("github-actions", broken)[0]


def test_the_snippets_of_the_readme_fit(tmp_path):
    job = yaml.safe_load(block("yaml", 0)) | {"runs-on": "ubuntu-latest"}
    snippets = {"github-workflows": yaml.safe_dump({"on": "push", "jobs": {"gate": job}}),
                "gitlab-ci": block("yaml", 1)}
    for schema, text in snippets.items():
        path = tmp_path / f"{schema}.yml"
        path.write_text(text)
        good, said = fits(schema, path)
        assert good, said
    used = next(step for step in job["steps"] if "uses" in step and "onnxslim1x1" in step["uses"])
    assert set(used["with"]) <= set(ACTION["inputs"])
    assert f"steps.{used['id']}.outputs.exit-code" in SECTION
    assert set(re.findall(r"outputs\.([\w-]+)", SECTION)) <= set(ACTION["outputs"])


@pytest.mark.parametrize(("command", "text"), [
    ("validate-manifest", (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")),
    ("validate-config", block("yaml", 2))])
def test_pre_commit_takes_the_hook_and_the_snippet(command, text, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    subprocess.run([sys.executable, "-m", "pre_commit", command, str(path)], check=True)
    assert f"id: {HOOK['id']}" in text


# ---- the steps, without the service ----

@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a model, its configuration, and programs for the steps: `python3` installs nothing."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3, 12, 10] x) => (float[N, 7] y) {
          a = Conv <pads = [1, 1, 1, 1]> (x, first, bias)
          b = Conv <pads = [1, 1, 1, 1]> (a, second)
          c = GlobalAveragePool(b)
          d = Flatten(c)
          y = Gemm <transB = 1> (d, head)
        }""")
    rng = np.random.default_rng(5)
    for name, shape in {"first": (48, 3, 3, 3), "bias": (48,), "second": (40, 48, 3, 3), "head": (7, 40)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    work = tmp_path / "work space"
    work.mkdir()
    onnx.save(model, work / "model.onnx")
    (work / "onnxslim1x1.toml").write_text(
        'model = "model.onnx"\nrewritten = "model-slim.onnx"\nthreads = 1\ntime = 0.1\n'
        '[slim]\nmax-error = 0.02\n[validate]\nmin-snr = 20\n')
    programs = tmp_path / "bin"
    programs.mkdir()
    tool = f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m onnxslim1x1 "$@"\n'
    program(programs / "onnxslim1x1", tool)
    program(programs / "python3", f"""#!/bin/sh
        echo "$@" >> {shlex.quote(str(tmp_path / "python.log"))}
        if [ "$2" = venv ]; then
          mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp {shlex.quote(str(programs / "onnxslim1x1"))} "$3/bin"
        fi
        """)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(work)
    return work


def program(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def worsen(path):
    """A fault: another bias."""
    model = onnx.load(path)
    bias = max((t for t in model.graph.initializer if len(t.dims) == 1), key=lambda t: t.dims[0])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(30), bias.name))
    onnx.save(model, path)


class Runner:
    """The part of GitHub's runner that the action needs: inputs, outputs of steps, conditions, environment."""

    def __init__(self, home, action_path=ROOT, **inputs):
        assert set(inputs) <= set(ACTION["inputs"])
        defaults = {name: value["default"] for name, value in ACTION["inputs"].items()}
        self.values = {f"inputs.{k}": v for k, v in (defaults | inputs).items()}
        self.values["github.action_path"] = str(action_path)
        self.home, self.ran = home, []

    def filled(self, text):
        """A text with its expressions evaluated; an unknown name would be a mistake in the action."""
        def value(match):
            names = [name.strip() for name in match[1].split("||")]
            assert all(n in self.values or n.startswith("steps.") for n in names), match[0]
            return next(filter(None, (self.values.get(name, "") for name in names)), "")
        return re.sub(r"\$\{\{(.*?)\}\}", value, text)

    def wanted(self, step):
        if "if" not in step:
            return True
        name, value = re.fullmatch(r"(\S+) == '(\w*)'", step["if"]).groups()
        return self.values[name] == value

    def run(self):
        """Exit code of the job, and the outputs of the action."""
        code = 0
        for step in filter(self.wanted, ACTION["runs"]["steps"]):
            assert step["shell"] == "bash"
            code = self._step(step)
            if code:
                break
        return code, {name: self.filled(output["value"]) for name, output in ACTION["outputs"].items()}

    def _step(self, step):
        output = self.home / f"output-{step['id']}"
        output.write_text("")
        environment = os.environ | {k: self.filled(v) for k, v in step["env"].items()} | {
            "GITHUB_OUTPUT": str(output), "RUNNER_TEMP": str(self.home), "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(self.home / "step.md")}
        result = subprocess.run([*BASH, step["run"]], env=environment, check=False, capture_output=True, text=True,
                                cwd=Path.cwd() / self.filled(step.get("working-directory", ".")))
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            self.values[f"steps.{step['id']}.outputs.{name}"] = value
        self.ran.append((step["id"], result.stdout + result.stderr))
        return result.returncode


def test_the_action_slims_and_validates(repository, tmp_path):
    runner = Runner(tmp_path)
    code, outputs = runner.run()
    assert code == 0, runner.ran
    assert [name for name, _ in runner.ran] == ["install", "slim", "gate"]
    assert outputs == {"exit-code": "0", "reports": "./onnxslim1x1-reports"}
    assert sorted(p.name for p in (repository / outputs["reports"]).iterdir()) == [
        "slim.md", "slim.sarif", "slim.xml", "validate.md", "validate.sarif", "validate.xml"]
    installed = (tmp_path / "python.log").read_text().splitlines()
    assert installed[1].endswith(str(ROOT))
    assert (tmp_path / "step.md").read_text(encoding="utf-8").count("## ✅ onnxslim1x1") == 2


@pytest.mark.slow
def test_the_action_fails_with_the_code_of_the_gate(repository, tmp_path):
    assert Runner(tmp_path).run()[0] == 0
    worsen(repository / "model-slim.onnx")
    runner = Runner(tmp_path, slim="false", arguments="--min-speedup 0.01 --time 0.2", package="some.whl",
                    reports="out dir")
    code, outputs = runner.run()
    assert [name for name, _ in runner.ran] == ["install", "gate"]
    assert (code, outputs["exit-code"]) == (4, "4")
    assert "::error title=onnxslim1x1 validate%3A accuracy::min_snr_db is " in runner.ran[-1][1]
    assert (repository / "out dir" / "validate.xml").exists()
    assert (tmp_path / "python.log").read_text().splitlines()[-1].endswith("some.whl")


def test_a_slim_that_fails_ends_the_action(repository, tmp_path):
    (repository / "other.toml").write_text('model = "nowhere.onnx"\nrewritten = "model-slim.onnx"\n')
    runner = Runner(tmp_path, config="other.toml", **{"slim-arguments": "--max-error 0.1"})
    code, outputs = runner.run()
    assert (code, outputs["exit-code"]) == (3, "3")
    assert [name for name, _ in runner.ran] == ["install", "slim"]


def test_inputs_are_never_pasted_into_scripts():
    """An input with `$(...)` would be run."""
    assert all("${{" not in step["run"] for step in ACTION["runs"]["steps"])
    assert all({"description", "default"} == set(value) for value in ACTION["inputs"].values())


def gitlab(**variables):
    script = "\n".join(GITLAB["script"])
    return subprocess.run([*BASH, script], env=os.environ | GITLAB["variables"] | variables, check=False,
                          capture_output=True, text=True)


@pytest.mark.slow
def test_the_gitlab_job_slims_and_validates(repository, tmp_path):
    result = gitlab()
    assert result.returncode == 0, result.stderr
    reports = [p for pattern in (GITLAB["artifacts"]["reports"]["junit"],) for p in repository.glob(pattern)]
    assert sorted(p.name for p in reports) == ["slim.xml", "validate.xml"]
    assert all((repository / path).is_dir() for path in GITLAB["artifacts"]["paths"])
    assert (tmp_path / "python.log").read_text().split()[-1] == "onnxslim1x1"
    worsen(repository / "model-slim.onnx")
    assert gitlab(ONNXSLIM1X1_SLIM="false").returncode == 4
    slow = gitlab(ONNXSLIM1X1_ARGUMENTS="--min-speedup 1000")
    assert slow.returncode == 5, slow.stderr  # slim wrote a good one again


@pytest.mark.slow
def test_the_hook_runs_the_gate(repository):
    """As pre-commit calls it: the entry, without names of files, where the repository is."""
    assert HOOK["pass_filenames"] is False
    assert re.search(HOOK["files"], "models/net.onnx")
    (repository / "model-slim.onnx").write_bytes((repository / "model.onnx").read_bytes())
    assert subprocess.run(shlex.split(HOOK["entry"]), check=False, capture_output=True).returncode == 0
    worsen(repository / "model-slim.onnx")
    assert subprocess.run(shlex.split(HOOK["entry"]), check=False, capture_output=True).returncode == 4


@pytest.mark.slow
def test_the_recipe_makes_the_model_and_the_gate(repository):
    (repository / "Makefile").write_text(block("make"))
    first = subprocess.run(["make", "gate"], check=False, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    assert (repository / "gate.xml").exists()
    worsen(repository / "model-slim.onnx")
    again = subprocess.run(["make", "gate"], check=False, capture_output=True, text=True)
    assert "onnxslim1x1 slim" not in again.stdout  # the model is newer than what it is made from
    assert (again.returncode, "Error 4" in again.stderr) == (2, True)


def test_the_configuration_of_the_readme_is_one(repository):
    from onnxslim1x1.cli.settings import load

    path = repository / "readme.toml"
    path.write_text(block("toml"))
    assert load(path).values["validate"]["baseline"] == "baseline.json"
    assert json.dumps(load(path).values)


# ---- with the service's own program, and a real installation ----

@pytest.mark.slow
def test_pre_commit_installs_and_runs_the_hook(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])  # the real python3
    subprocess.run(["git", "init", "--quiet"], check=True)
    (repository / "model-slim.onnx").write_bytes((repository / "model.onnx").read_bytes())
    subprocess.run(["git", "add", "."], check=True)
    command = [sys.executable, "-m", "pre_commit", "try-repo", str(ROOT), HOOK["id"], "--all-files", "--verbose"]
    good = subprocess.run(command, check=False, capture_output=True, text=True)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "Passed" in good.stdout
    worsen(repository / "model-slim.onnx")
    bad = subprocess.run(command, check=False, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "exit code: 4" in bad.stdout
