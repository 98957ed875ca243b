"""The shape of the code: layers, cycles, sizes, and what may be imported where."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import onnxslim1x1
from onnxslim1x1.cli.main import app

PACKAGE = "onnxslim1x1"
ROOT = Path(onnxslim1x1.__file__).parent

# imports point only to the left; modules of one layer may import each other
LAYERS = ("errors", "linalg", "spec", "strategies", "graph", "runtime", "search", "report", "api", "zoo", "cli")
ROOT_NAMES = {f"{PACKAGE}.__version__"}  # what the package itself defines and every layer may use

# which layer may import a heavy library; all others go through that layer
OWNERS = {
    "onnx_graphsurgeon": {"graph"},
    "onnxruntime": {"runtime"},
    "onnx": {"graph", "runtime", "search", "api"},
    "PIL": {"runtime"},
    "typer": {"cli"},
    "rich": {"report", "cli"},
    "matplotlib": {"report"},
    "bokeh": {"report"},
    "jinja2": {"report"},
}

LONGEST_FILE = 400
LONGEST_FUNCTION = 60


@cache
def modules():
    """Name -> path of every module of the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module):
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imported(node, module):
    """Absolute dotted names that an import statement reaches for, from `module`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
        parts = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parts, base]).rstrip(".")
    return [f"{base}.{alias.name}" for alias in node.names]


def typing_only(module):
    """Import statements that only a type checker runs."""
    return {id(inner) for node in ast.walk(tree(module)) if isinstance(node, ast.If)
            and ast.unparse(node.test).endswith("TYPE_CHECKING") for inner in ast.walk(node)}


def edges(module, *, typing=True):
    """Modules of the package that `module` imports anywhere: at the top, in functions, for type checking."""
    found, skipped = set(), set() if typing else typing_only(module)
    for node in ast.walk(tree(module)):
        for name in imported(node, module) if id(node) not in skipped else ():
            if name.split(".")[0] != PACKAGE or name in ROOT_NAMES:
                continue
            while name not in modules():
                name = name.rpartition(".")[0]  # noqa: PLW2901  (an imported class or function: its module)
            found.add(name)
    return found


def layer_of(module):
    """Position in `LAYERS`; the package itself and `__main__` stand above all."""
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 and parts[1] != "__main__" else len(LAYERS)


INNER = sorted(name for name in modules() if name not in (PACKAGE, f"{PACKAGE}.__main__"))


def test_every_module_belongs_to_a_layer():
    assert {name.split(".")[1] for name in INNER} <= set(LAYERS)
    assert len(INNER) > 50  # the walk finds them


@pytest.mark.parametrize("module", INNER)
def test_imports_point_only_up_the_list(module):
    # a report may name the type of what it prints, which the layer above makes
    typing = module != f"{PACKAGE}.report.slimming"
    below = {name for name in edges(module, typing=typing) if layer_of(name) > layer_of(module)}
    assert below == set()


def test_there_are_no_cycles():
    """Not even inside of a layer, nor by way of imports in functions."""
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module):], module])
        if module in done:
            return
        path.append(module)
        for name in sorted(edges(module, typing=module != f"{PACKAGE}.report.slimming")):
            visit(name)
        done.add(path.pop())

    for module in modules():
        visit(module)
    assert done == set(modules())


@pytest.mark.parametrize("module", INNER)
def test_a_library_is_used_by_the_layer_that_owns_it(module):
    for node in ast.walk(tree(module)):
        for name in imported(node, module):
            library = name.split(".")[0]
            assert library != "click"  # typer's own business
            assert module.split(".")[1] in OWNERS.get(library, {module.split(".")[1]}), f"{module} imports {library}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_files_and_functions_stay_short(module):
    source = modules()[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= LONGEST_FUNCTION, f"{module}.{node.name}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_what_it_is_for(module):
    assert ast.get_docstring(tree(module))


# what a run really loads


def loaded(*arguments):
    """Exit code, output and imported modules of a run of the command line."""
    result = subprocess.run([sys.executable, "-X", "importtime", "-m", PACKAGE, *arguments], check=False,
                            capture_output=True, text=True, encoding="utf-8")
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return result.returncode, result.stdout, {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize("command", ["", *(command.name for command in app.registered_commands)])
def test_help_loads_neither_onnx_nor_onnxruntime(command):
    code, text, names = loaded(*command.split(), "--help")
    assert (code, "Usage: " in text) == (0, True)
    assert f"{PACKAGE}.cli.main" in names  # the list is what it should be
    heavy = {"onnx", "onnxruntime", "onnx_graphsurgeon", "scipy", "numpy", "PIL", "bokeh", "jinja2"}
    assert heavy.isdisjoint(name.split(".")[0] for name in names)


def test_the_version_loads_neither_onnx_nor_onnxruntime():
    code, text, names = loaded("--version")
    assert (code, text) == (0, f"{PACKAGE} {onnxslim1x1.__version__}\n")
    assert {"onnx", "onnxruntime"}.isdisjoint(names)


def test_importing_the_package_loads_none_of_its_layers():
    code = f"import sys, {PACKAGE}; print(sorted(n for n in sys.modules if n.startswith('{PACKAGE}') or n == 'onnx'))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == f"['{PACKAGE}']"


def test_every_public_name_is_there():
    for name in onnxslim1x1.__all__:
        assert getattr(onnxslim1x1, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = onnxslim1x1.nonsense
