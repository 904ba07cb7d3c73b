"""The set-up: what is installed, licensed and linked, and the order of the library's rooms."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "cmssf_lib"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# The highest room first. A room imports only from rooms that stand after it.
ROOMS = (
    "cli",
    "plots",
    "check",
    "index",
    "evaluate",
    "train",
    "runs",
    "cmssf",
    "hub",
    "methods",
    "fusion",
    "encoders",
    "losses",
    "views",
    "data",
    "captions",
    "presets",
    "processes",
    "timing",
)
LONGEST_ROOM = 250  # lines of one file that have something on them
TOP_LEVEL = {
    ".ci",
    ".gitattributes",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "LICENSE-text",
    "Makefile",
    "README.md",
    "_config.yml",
    "book",
    "cmssf_lib",
    "environment.yml",
    "notebooks",
    "pyproject.toml",
    "tests",
}
FILES = sorted(LIBRARY.rglob("*.py"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def script(name: str):
    """A script of `.ci/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


set_repository = script("set_repository")


@pytest.fixture(scope="module")
def own_files() -> list[Path]:
    """The project's own text files, as git knows them."""
    try:
        return set_repository.files(ROOT)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this is no git checkout, so the project's files are not known: {error}")


# --- what is installed ---


def requirements() -> dict[str, Requirement]:
    found = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize(
    "name",
    ["torch", "torchvision", "timm", "transformers", "accelerate", "scikit-learn", "matplotlib"],
)
def test_lower_bounds_only(name):
    assert [bound.operator for bound in requirements()[name].specifier] == [">="]


def test_no_dependency_of_the_library_is_capped():
    operators = {bound.operator for r in requirements().values() for bound in r.specifier}
    assert operators == {">="}


def test_tools_of_the_site_are_capped():
    extras = PROJECT["project"]["optional-dependencies"]["book"]
    site = [Requirement(line) for line in extras if re.match(r"jupyter-book|.*sphinx|myst", line)]
    assert {"jupyter-book", "sphinx-book-theme"} <= {r.name for r in site}
    for requirement in site:
        assert "<" in [bound.operator for bound in requirement.specifier], requirement.name


def test_every_import_of_the_library_is_a_declared_dependency():
    distributions = importlib.metadata.packages_distributions()
    declared = {name.lower().replace("_", "-") for name in requirements()}
    optional = {"ipython"}  # there wherever a notebook runs; the library looks before it imports
    for path in FILES:
        for module in imports(path):
            top = module.split(".")[0]
            if top == "cmssf_lib" or top in sys.stdlib_module_names:
                continue
            names = {name.lower().replace("_", "-") for name in distributions.get(top, [top])}
            assert names & (declared | optional), (
                f"{path.name} imports {top}, which is not declared"
            )


def test_conda_users_get_the_same():
    environment = yaml.safe_load(read("environment.yml"))
    assert environment["name"] == PROJECT["project"]["name"]
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['project']['requires-python']}", "pip"]
    (line,) = pip["pip"]
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", line)[1].split(",")
    assert sorted(extras) == sorted(PROJECT["project"]["optional-dependencies"])


def test_the_command_is_installed():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="cmssf")
    assert entry.value == "cmssf_lib.cli:main"
    assert callable(entry.load())


def test_importing_the_package_is_quick_and_silent():
    code = (
        "import sys, cmssf_lib, cmssf_lib.presets; "
        "print(sorted({'torch', 'timm', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (out.returncode, out.stdout, out.stderr) == (0, "[]\n", "")


# --- the rooms of the library ---


def imports(path: Path) -> list[str]:
    """Every module that a file imports, wherever in the file, as an absolute dotted name."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from cmssf_lib import losses` imports the room, not the package alone.
            found += (
                [f"{module}.{a.name}" for a in node.names] if module == "cmssf_lib" else [module]
            )
    return found


def room(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def upward(path: Path) -> list[str]:
    """The rooms above, or unknown, that a file imports from."""
    own = room(path)
    names = [name.split(".")[1] for name in imports(path) if name.startswith("cmssf_lib.")]
    known = [name for name in names if name not in (own, "__version__")]
    return [n for n in known if n not in ROOMS or ROOMS.index(n) < ROOMS.index(own)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_room_imports_only_from_rooms_below(path):
    if path.parent == LIBRARY and path.name == "__init__.py":
        assert imports(path) == [], "importing the package itself must load nothing"
        return
    assert room(path) in ROOMS, "a new room: give it its place in ROOMS"
    assert upward(path) == []


def test_an_arrow_upwards_would_be_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "LIBRARY", tmp_path / "cmssf_lib")
    path = tmp_path / "cmssf_lib" / "data" / "scenes.py"
    path.parent.mkdir(parents=True)
    for line, expected in {
        "from cmssf_lib import captions, train": ["train"],
        "from cmssf_lib.runs import Run": ["runs"],
        "import cmssf_lib.plots": ["plots"],
        "from ..views import flip": ["views"],
        "def f():\n    from .. import losses": ["losses"],
        "from .image_text import ImageTextData": [],
        "from cmssf_lib.presets import DataConfig": [],
        "from cmssf_lib.utils import anything": ["utils"],
    }.items():
        path.write_text(line, encoding="utf-8")
        assert upward(path) == expected, line


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_no_file_outgrows_its_room(path):
    lines = sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_ROOM, f"{lines} lines: make the room a folder with the same face"


def pickling(source: str) -> list[str]:
    """Calls and imports that would write or run pickled objects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [
            n for n in names if n.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib"}
        ]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name == "torch.save" or keywords.get("allow_pickle", "False") != "False":
                found.append(name)
            if name == "torch.load" and keywords.get("weights_only") != "True":
                found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_nothing_is_pickled(path):
    assert pickling(path.read_text(encoding="utf-8")) == []


def test_pickling_would_be_seen():
    assert pickling("import pickle") == ["pickle"]
    assert pickling("from joblib import dump") == ["joblib"]
    assert pickling("torch.save(model, path)") == ["torch.save"]
    assert pickling("torch.load(path)") == ["torch.load"]
    assert pickling("torch.load(path, weights_only=False)") == ["torch.load"]
    assert pickling("np.load(path, allow_pickle=True)") == ["np.load"]
    assert pickling("torch.load(path, weights_only=True); np.load(path)") == []


def public_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Public functions of a file, and public methods and `forward`s of its public classes."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.append(node)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [child for child in node.body if isinstance(child, ast.FunctionDef)]
    return [node for node in found if not node.name.startswith("_")]


def without_shape(function: ast.FunctionDef) -> list[str]:
    """Annotations of a function that name a tensor without its shape.

    Mappings of tensors (a loss and what is logged beside it) have no one shape.
    """
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    annotations = [a.annotation for a in every] + [function.returns]
    text = [ast.unparse(annotation) for annotation in annotations if annotation]
    mapping = r"(?:dict|Mapping)\[str, (?:torch\.)?Tensor\]"
    shaped = r"\w+\[(?:torch\.)?Tensor, '[^']*'\]"
    return [t for t in text if re.search(r"\bTensor\b", re.sub(f"{mapping}|{shaped}", "", t))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_public_functions_are_explained_and_name_their_shapes(path):
    for function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        assert ast.get_docstring(function), f"{function.name} has no docstring"
        assert without_shape(function) == [], f"{function.name}: a tensor without its shape"


def test_a_missing_shape_would_be_seen():
    source = (
        "def good(a: Float[Tensor, 'n d'], b: Int[torch.Tensor, '']) -> dict[str, Tensor]: ...\n"
        "def bad(a: Tensor, b: int) -> tuple[Float[Tensor, 'n'], torch.Tensor]: ...\n"
    )
    good, bad = public_functions(ast.parse(source))
    assert without_shape(good) == []
    assert len(without_shape(bad)) == 2


# --- licences, citation, workflows, layout ---


def test_licences_and_citation():
    assert read("LICENSE").startswith("MIT License")
    text = read("LICENSE-text")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text
    assert "Section 8" in text, "the full text of the licence"
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert set(citation["license"]) == {"MIT", "CC-BY-4.0"}
    assert citation["version"] == importlib.metadata.version("cmssf")


def test_the_changelog_has_a_place_for_the_next_change():
    assert re.search(r"^## Unreleased$", read("CHANGELOG.md"), re.M)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", read("Makefile"), re.M))


@pytest.mark.parametrize(("name", "command"), [("test", "make test"), ("publish", "make book")])
def test_workflows_call_the_makefile(name, command):
    workflow = yaml.safe_load(read(f".github/workflows/{name}.yml"))
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [command]
    assert command.split()[1] in make_targets()
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_continuous_integration_ends_in_make_test():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    lines = read(".ci/run").splitlines()
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make test"


def test_every_make_target_named_in_the_documents_exists():
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", read(name), re.M))
        assert named
        assert named <= make_targets(), name


def test_paths_named_in_the_documents_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", read(name))
        quoted = re.findall(r"`((?:tests|notebooks|book|cmssf_lib)/[\w./-]+\.\w+)`", read(name))
        assert links or quoted
        for path in [*links, *quoted]:
            assert (ROOT / path).exists(), f"{name} names {path}"


def test_top_level_holds_only_what_the_design_names(own_files):
    assert {path.relative_to(ROOT).parts[0] for path in own_files} <= TOP_LEVEL


def test_the_machine_that_wrote_it_is_in_no_file(own_files):
    path = re.compile(rf"(?<![\w.]){re.escape(str(ROOT))}(?!\w)")
    named = [p.name for p in own_files if path.search(p.read_text("utf-8", errors="ignore"))]
    assert named == []


# --- the repository's address is one setting ---


def project_uses(root: Path, files: list[Path]) -> dict[str, list[tuple[str, str]]]:
    """The links in each file that mean this project, under its address or under a stale one."""
    found = {}
    names = {set_repository.split(set_repository.setting(root))[1], "cmssf"}
    for path in files:
        uses = set_repository.uses(path.read_text("utf-8", errors="ignore"))
        own = [(owner, name) for owner, name in uses if name in names or owner == "OWNER"]
        if own:
            found[path.relative_to(root).as_posix()] = own
    return found


def test_every_link_to_the_repository_derives_from_the_setting(own_files):
    address = set_repository.split(set_repository.setting(ROOT))
    for name, found in project_uses(ROOT, own_files).items():
        assert set(found) == {address}, name


def test_the_places_that_must_link_do():
    url = set_repository.setting(ROOT)
    owner, name = set_repository.split(url)
    assert yaml.safe_load(read("_config.yml"))["repository"]["url"] == url
    assert set(PROJECT["project"]["urls"].values()) == {url, f"{url}/issues"}
    assert yaml.safe_load(read("CITATION.cff"))["repository-code"] == url
    assert f"git clone --depth 1 -q {url} cmssf" in read("tests/notebooks/first_cell.py.txt")
    readme = read("README.md")
    assert f"{url}/actions/workflows/test.yml/badge.svg" in readme
    assert f"git clone {url}" in readme
    assert f"https://colab.research.google.com/github/{owner}/{name}/blob/main/notebooks/" in readme
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        code = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
        assert f"{url} cmssf" in "".join(code[0]["source"]), path.name


def test_the_address_is_set_everywhere_at_once(tmp_path, own_files, capsys):
    for path in own_files:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    before = project_uses(tmp_path, set_repository.files(tmp_path))
    other = "https://github.com/" + "Ada-L/the.book"  # in two parts: no use of an address here

    assert set_repository.main([other + "/"], tmp_path) == 0

    changed = set(capsys.readouterr().out.split())
    assert {"_config.yml", "README.md", "pyproject.toml", "CITATION.cff"} <= changed
    assert set_repository.setting(tmp_path) == other
    after = project_uses(tmp_path, set_repository.files(tmp_path))
    for name in before:
        assert after[name] == [("Ada-L", "the.book")] * len(before[name]), name
    # And back again, byte for byte.
    set_repository.main([set_repository.setting(ROOT)], tmp_path)
    for path in own_files:
        assert (tmp_path / path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path


def test_only_this_repository_is_replaced():
    old, new = ("jane", "old"), ("ada", "book")
    text = (
        "https://github.com/jane/old.git https://github.com/jane/old-data "
        "https://github.com/other/old https://jane.github.io/old/index.html "
        "https://colab.research.google.com/github/jane/old/blob/main/a.ipynb"
    )
    assert set_repository.replace(text, old, new) == (
        "https://github.com/ada/book.git https://github.com/jane/old-data "
        "https://github.com/other/old https://ada.github.io/book/index.html "
        "https://colab.research.google.com/github/ada/book/blob/main/a.ipynb"
    )


@pytest.mark.parametrize("url", ["", "github.com/a/b", "https://github.com/a", "https://x.org/a/b"])
def test_a_wrong_address_changes_nothing(url, tmp_path):
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://github.com/jane/old\n")
    with pytest.raises(SystemExit, match=re.escape("https://github.com/")):
        set_repository.main([url], tmp_path)
    assert set_repository.setting(tmp_path) == "https://github.com/jane/old"


# --- the summary of all stages ---

stages = script("stages")


def test_a_pytest_stage_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(stages, "REPORTS", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 0\n"
        "def test_none(): pytest.skip('no reason')\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_broken(broken): pass\n"
    )
    result = stages.run(stages.stage("some", "pytest test_it.py -q -p no:cacheprovider"))
    assert result == {"failed": 1, "passed": 1, "skipped": 1, "errors": 1}


@pytest.mark.parametrize(
    "command", ["false", "no-such-tool --check", "pytest no_such_file.py -p no:cacheprovider"]
)
def test_a_stage_that_cannot_run_is_an_error(command, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(stages, "REPORTS", tmp_path)
    assert stages.run(stages.stage("some", command))["errors"] == 1


def test_a_failure_anywhere_fails_the_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "REPORTS", tmp_path)
    good, bad = stages.stage("good", "true"), stages.stage("bad", "false")
    monkeypatch.setattr(stages, "STAGES", (bad, good))
    assert stages.main() == 1
    *_, summary_bad, summary_good, last = capsys.readouterr().out.splitlines()
    assert summary_bad.startswith("FAILED")
    assert summary_good.startswith("ok")
    assert re.fullmatch(r"=+ 1 errors in \d+\.\d\ds =+", last)
    monkeypatch.setattr(stages, "STAGES", (good,))
    assert stages.main() == 0


# --- the shapes in the signatures are checked while testing ---


def test_a_wrong_shape_is_refused_while_testing():
    from jaxtyping import TypeCheckError

    from cmssf_lib.losses import nt_xent

    with pytest.raises(TypeCheckError):
        nt_xent(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 0.1)
    with pytest.raises(TypeCheckError):
        nt_xent(torch.zeros(2, 3), torch.zeros(2, 3), "warm")
    nt_xent(torch.eye(2), torch.eye(2), 1)  # an int is a float here
