"""How the package is built: layers, no cycles, private modules, few local imports, light starts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from importlinter.api import read_configuration

import tcm_lab

PACKAGE = Path(tcm_lab.__file__).parent
ROOT = PACKAGE.parent

#: What takes long to import, or may be missing until it is needed.
HEAVY = ("compressai", "pandas", "seaborn", "matplotlib", "optuna", "skimage", "lightning", "scipy")


#: What reaches beyond a module: the import system, the C library, operators of other libraries.
TRICKS = ("meta_path", "fork", "CDLL", "Library")


class Module:
    """A module's imports from this package, and its tricks on the whole process."""

    def __init__(self, path: Path) -> None:
        self.name = _name(path)
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.imports: list[tuple[str, bool]] = []  # names, and whether inside a function
        self.tricks: list[str] = []
        self._walk(ast.parse("\n".join(self.lines)), local=False)

    def _walk(self, node: ast.AST, *, local: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self.imports += [(name, local) for name in _imported(node)]
        trick = isinstance(node, ast.Attribute) and node.attr in TRICKS
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            trick = ast.unparse(node.value) == "sys.modules"
        if trick:
            self.tricks.append(f"{self.name}: {ast.unparse(node)}")
        inside = local or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            self._walk(child, local=inside)


def _imported(node: ast.AST) -> Iterator[str]:
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        if name.split(".")[0] == "tcm_lab":
            yield name if name in NAMES else name.rpartition(".")[0]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {_name(path) for path in PACKAGE.rglob("*.py")}
MODULES = [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]


def _top(name: str) -> str:
    return ".".join(name.split(".")[:2])


def test_a_package_imports_only_from_lower_layers() -> None:
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_its_layer() -> None:
    packages = {
        f"tcm_lab.{path.stem}"
        for path in PACKAGE.iterdir()
        if (path.is_dir() and list(path.glob("*.py"))) or path.suffix == ".py"
    } - {"tcm_lab.__init__", "tcm_lab.__main__"}
    (contract,) = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    assert packages <= set(contract["layers"])


def test_no_package_has_an_import_cycle() -> None:
    graphs: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for module in MODULES:
        inside = {name for name, _ in module.imports if _top(name) == _top(module.name)}
        graphs[_top(module.name)][module.name] = inside - {module.name}
    cycles = []
    for graph in graphs.values():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycles.append(error.args[1])
    assert cycles == []


def test_private_modules_are_imported_only_inside_their_package() -> None:
    private = [
        (module.name, name)
        for module in MODULES
        for name, _ in module.imports
        if any(part[0] == "_" for part in name.split(".")[2:])
    ]
    assert private
    assert [(user, name) for user, name in private if _top(name) != _top(user)] == []


def test_local_imports_of_our_own_are_few() -> None:
    local = [f"{m.name}: {name}" for m in MODULES for name, inside in m.imports if inside]
    assert len(local) < 20, local


def test_modules_can_be_read_in_one_go() -> None:
    assert [module.name for module in MODULES if len(module.lines) > 400] == []


def test_tricks_on_the_whole_process_are_in_one_place() -> None:
    places = {_top(module.name) for module in MODULES if module.tricks}
    assert places == {"tcm_lab._compat"}, [x for m in MODULES for x in m.tricks]


def test_importing_configurations_is_light() -> None:
    program = (
        "import sys, tcm_lab, tcm_lab.blocks, tcm_lab.codec\n"
        "tcm_lab.load_config('tcm-nano'), tcm_lab.list_models()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
