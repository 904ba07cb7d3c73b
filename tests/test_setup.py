"""The set-up: what is installed, licensed and linked, and the order of the library's rooms."""

import ast
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

from cmssf_lib import cli, presets

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "cmssf_lib"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# The highest room first. A room imports only from rooms that stand after it.
ROOMS = (
    "cli",
    "share",
    "plots",
    "check",
    "photographs",
    "seeds",
    "build",
    "presets",
    "evaluate",
    "train",
    "fusion",
    "methods",
    "runs",
    "encoders",
    "losses",
    "views",
    "data",
    "captions",
    "files",
    "environment",
    "machine",
    "settings",
)
LONGEST_ROOM = 250  # lines of one file
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
    """The project's own text files: what git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this is no git checkout, so the project's files are not known: {error}")
    paths = {ROOT / name for name in listing.stdout.split("\0") if name}
    return [path for path in sorted(paths) if path.is_file() and b"\0" not in path.read_bytes()]


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
    # The first is there wherever a notebook runs, the others are extras: the library looks first.
    optional = {"ipython", "pillow-heif", "datasets"}
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
        "import sys, cmssf_lib; print(sorted({'torch', 'timm', 'transformers'} & set(sys.modules)))"
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
        "from cmssf_lib.captions import CLASSES": [],
        "from cmssf_lib.utils import anything": ["utils"],
    }.items():
        path.write_text(line, encoding="utf-8")
        assert upward(path) == expected, line


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_no_file_outgrows_its_room(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
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


def steps(job: dict, key: str) -> list[str]:
    return [step[key] for step in job["steps"] if key in step]


def jobs() -> dict[str, dict]:
    """Every job of every workflow."""
    found = {}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        found |= yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.parametrize(
    ("job", "command"), [("test", "make test"), ("lowest", "make lowest"), ("site", "make book")]
)
def test_jobs_on_linux_call_the_makefile(job, command):
    assert steps(jobs()[job], "run") == [command]
    assert command.split()[1] in make_targets()


def test_the_library_is_tested_on_other_systems():
    job = jobs()["library"]
    assert set(job["strategy"]["matrix"]["system"]) == {"macos-latest", "windows-latest"}
    (command,) = steps(job, "run")[-1:]
    assert command.startswith("python -m pytest ")
    for path in re.findall(r"tests\S*", command):
        assert (ROOT / path.split("=")[-1]).exists(), path


def test_workflows_use_the_actions_of_github_alone():
    for job in jobs().values():
        for action in steps(job, "uses"):
            assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


# --- the oldest versions that are allowed ---

lowest = script("lowest")


def test_the_oldest_versions_are_those_of_the_bounds():
    pins = lowest.lowest(PROJECT)
    assert [pin.partition("==")[0] for pin in pins] == [*requirements(), *lowest.TESTS]
    for pin in pins[: len(requirements())]:
        requirement = Requirement(pin)
        (bound,) = requirements()[requirement.name].specifier
        assert str(requirement.specifier) == f"=={bound.version}"


@pytest.mark.parametrize(
    ("dependencies", "extras", "words"),
    [
        (["torch"], {}, "no lower bound"),
        (["torch<3"], {}, "no lower bound"),
        (["torch>=2"], {"test": ["ruff>=1"]}, "names pytest"),
    ],
)
def test_a_bound_that_is_missing_is_said(dependencies, extras, words):
    project = {"project": {"dependencies": dependencies, "optional-dependencies": extras}}
    with pytest.raises(ValueError, match=words):
        lowest.lowest(project, ("pytest",) if extras else ())


def test_caps_and_remarks_do_not_get_into_a_pin():
    project = {"project": {"dependencies": ["a>=1.2,<3"], "optional-dependencies": {"x": ["b>=1"]}}}
    assert lowest.lowest(project, ("b",)) == ["a==1.2", "b==1"]


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


# --- the readme is true ---


def code_lines(path: Path) -> int:
    """Lines of code of a file: no blank ones, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    documented = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node, clean=False) is not None:
                documented |= set(range(first.lineno, first.end_lineno + 1))
    lines = (line.strip() for line in text.splitlines())
    return sum(
        bool(line) and not line.startswith("#") and i not in documented
        for i, line in enumerate(lines, 1)
    )


def test_lines_of_code_are_counted_without_words_about_them(tmp_path):
    path = tmp_path / "a.py"
    said = '"""One.\n\nTwo.\n"""\n\n# why\n'
    path.write_text(f'{said}x = 1  # one\ndef f():\n    "What."\n    return x\n', "utf-8")
    assert code_lines(path) == 3


def test_the_readme_says_how_large_the_library_is():
    files, lines = re.search(
        r"about (\d+) files and ([\d,]+) lines of code", read("README.md")
    ).groups()
    assert int(files) == pytest.approx(len(FILES), rel=0.05)
    assert int(lines.replace(",", "")) == pytest.approx(sum(map(code_lines, FILES)), rel=0.05)


def test_the_readme_is_read_in_some_minutes():
    assert len(read("README.md").split()) <= 700


def test_the_readme_shows_a_result_in_words_too():
    alternative, picture = re.search(r"!\[([^\]]+)\]\((book/[^)]+)\)", read("README.md")).groups()
    assert len(alternative.split()) > 5
    assert (ROOT / picture).is_file()


def test_the_readme_lists_every_chapter_once():
    linked = re.findall(
        r"^\| \[.*\]\(notebooks/(\w+)\.ipynb\) \| \S.* \|$", read("README.md"), re.M
    )
    assert linked == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
def test_the_python_of_the_readme_trains_and_searches(monkeypatch, capsys):
    """As printed, on fewer scenes and for three epochs."""
    (code,) = re.findall(r"^```python\n(.*?)^```", read("README.md"), re.M | re.S)
    imports, lines = code.strip().split("\n\n")
    assert len(imports.splitlines()) == 1
    assert len(lines.splitlines()) == 6
    quick = presets.QUICK
    few = replace(quick.data, train=1500, test=300)
    less = replace(quick, data=few, train=replace(quick.train, epochs=3))
    monkeypatch.setattr(presets, "QUICK", less)
    before = torch.get_rng_state()
    exec(code, {})
    torch.set_rng_state(before)
    found = ast.literal_eval(capsys.readouterr().out)
    assert len(found) == 5
    assert all(caption.startswith("a photo of a ") for caption in found)


def shell_commands(text: str) -> list[list[str]]:
    """The words of every `cmssf` command in the code blocks of a document."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("cmssf ")]


def test_the_commands_of_the_readme_are_understood(monkeypatch):
    """What they do is replaced; how they are read is not."""
    done = []

    def instead_of(command):
        @functools.wraps(command)
        def noted(*arguments, **options):
            done.append(command.__name__)

        return noted

    # No such folder is here, and a preset is not adapted to it.
    monkeypatch.setattr(presets, "for_folder", lambda folder, method, usual: (usual, []))
    for name in cli.COMMANDS:
        monkeypatch.setitem(cli.COMMANDS, name, instead_of(cli.COMMANDS[name]))
    commands = shell_commands(read("README.md"))
    assert {words[0] for words in commands} == set(cli.COMMANDS)
    for words in commands:
        if words[0] == "train":
            cli.read_settings(words[1:])
        else:
            assert cli.main(words) == 0, words
    assert sorted(done) == sorted(words[0] for words in commands if words[0] != "train")


# --- the repository's address is one setting ---

ADA = "https://github.com/" + "Ada-L/the.book"  # in two parts: no use of an address here
FIRST_CELL = "tests/notebooks/first_cell.py.txt"


def uses(text: str) -> list[tuple[str, str]]:
    """Owner and name of every repository that a text links to."""
    hosts = r"github\.com/|colab\.research\.google\.com/github/|raw\.githubusercontent\.com/"
    found = re.findall(rf"(?:{hosts})([A-Za-z0-9-]+)/([A-Za-z0-9._-]*[A-Za-z0-9_-])", text)
    pages = re.findall(r"https://([A-Za-z0-9-]+)\.github\.io/([A-Za-z0-9._-]*[A-Za-z0-9_-])", text)
    return [(owner, name.removesuffix(".git")) for owner, name in found + pages]


def project_uses(root: Path) -> dict[str, set[tuple[str, str]]]:
    """The links in each file that mean this project, under its address or under another."""
    url = set_repository.setting(root)
    names = {"cmssf", set_repository.split(url)[1]} if url else {"cmssf"}
    found = {}
    for path in filter(Path.is_file, root.rglob("*")):
        own = {use for use in uses(path.read_text("utf-8", errors="ignore")) if use[1] in names}
        if own:
            found[path.relative_to(root).as_posix()] = own
    return found


def first_cells(root: Path) -> list[str]:
    """The first code cell of every notebook, without the notebook's name."""
    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        source = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found.append(source.replace(path.stem, "NOTEBOOK"))
    return found


@pytest.fixture
def copy(tmp_path, own_files) -> Path:
    """The project's text files, without an address."""
    for path in own_files:
        new = tmp_path / path.relative_to(ROOT)
        if new.suffix in {".md", ".yml", ".toml", ".cff", ".ipynb", ".txt", ".py"}:
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, new)
    set_repository.main(["none"], tmp_path)
    return tmp_path


def test_the_places_of_the_address_are_in_step():
    """In whichever state this checkout is, setting that state anew changes nothing."""
    url = set_repository.setting(ROOT)
    for place in set_repository.PLACES:
        paths = sorted(ROOT.glob(place.files))
        assert paths, place.files
        for path in paths:
            text = path.read_text(encoding="utf-8")
            address = set_repository.split(url) if url else None
            assert set_repository.changed(text, place, address) == text, path


def test_without_an_address_nothing_leads_to_one(copy):
    assert set_repository.setting(copy) is None
    assert project_uses(copy) == {}
    config = yaml.safe_load((copy / "_config.yml").read_text("utf-8"))
    assert not {"repository", "launch_buttons"} & set(config)
    assert not config["html"]["use_repository_button"]
    assert not config["html"]["use_issues_button"]
    for name in ("README.md", "book/intro.md"):
        text = (copy / name).read_text("utf-8")
        assert "Colab" in text, "how to open a notebook there is said all the same"
        assert "rocket" not in text
        assert "git clone" not in text
    (cell,) = set(first_cells(copy))
    assert cell == (copy / FIRST_CELL).read_text("utf-8").strip()
    assert "git clone" not in cell


def test_with_an_address_everything_leads_there(copy, own_files):
    assert set_repository.main([ADA + "/"], copy) == 0
    assert set_repository.setting(copy) == ADA
    address = set_repository.split(ADA)
    found = project_uses(copy)
    assert {"README.md", "_config.yml", "pyproject.toml", "CITATION.cff", FIRST_CELL} <= set(found)
    assert all(used == {address} for used in found.values()), found
    config = yaml.safe_load((copy / "_config.yml").read_text("utf-8"))
    assert config["repository"] == {"url": ADA, "branch": "main"}
    assert config["launch_buttons"] == {"colab_url": "https://colab.research.google.com"}
    assert config["html"]["use_repository_button"]
    project = tomllib.loads((copy / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["urls"] == {"Repository": ADA, "Issues": f"{ADA}/issues"}
    citation = yaml.safe_load((copy / "CITATION.cff").read_text("utf-8"))
    assert citation["repository-code"] == ADA
    readme = (copy / "README.md").read_text("utf-8")
    assert f"git clone --depth 1 {ADA} && cd the.book\n" in readme
    assert f"{ADA}/actions/workflows/test.yml/badge.svg" in readme
    assert (ROOT / ".github/workflows/test.yml").is_file()
    tracked = {path.relative_to(ROOT).as_posix() for path in own_files}
    opened = re.findall(
        r"colab\.research\.google\.com/github/Ada-L/the\.book/blob/main/([^)\s]+)", readme
    )
    assert opened
    assert set(opened) <= tracked
    (cell,) = set(first_cells(copy))
    assert cell == (copy / FIRST_CELL).read_text("utf-8").strip()
    assert f"git clone --depth 1 -q {ADA} cmssf" in cell
    assert len(readme.split()) <= 700


def test_the_address_can_be_set_again_and_taken_out(copy, capsys):
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    before = everything()
    for url in (ADA, "https://github.com/" + "b/x"):
        assert set_repository.main([url], copy) == 0
        assert all(used == {set_repository.split(url)} for used in project_uses(copy).values())
        set_repository.main([url], copy)
    capsys.readouterr()
    assert set_repository.main(["none"], copy) == 0
    changed = capsys.readouterr().out.split()
    assert {"_config.yml", "README.md", "notebooks/00_quickstart.ipynb"} <= set(changed)
    assert everything() == before


@pytest.mark.parametrize("url", ["", "github.com/a/b", "https://github.com/a", "https://x.org/a/b"])
def test_a_wrong_address_changes_nothing(url, copy):
    before = (copy / "_config.yml").read_bytes()
    with pytest.raises(SystemExit, match=re.escape("https://github.com/")):
        set_repository.main([url], copy)
    assert (copy / "_config.yml").read_bytes() == before


def test_a_place_that_was_rewritten_is_named_and_nothing_is_changed(copy):
    (copy / "CITATION.cff").write_text("title: another\n", encoding="utf-8")
    before = (copy / "README.md").read_bytes()
    with pytest.raises(SystemExit, match=r"^CITATION\.cff: this text has changed"):
        set_repository.main([ADA], copy)
    assert (copy / "README.md").read_bytes() == before


def test_on_colab_without_an_address_the_first_cell_says_how_to_go_on(copy, monkeypatch):
    from IPython.core.inputtransformer2 import TransformerManager

    monkeypatch.setattr(os.path, "isdir", lambda path: False)  # a fresh machine: nothing is there
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    cell = (copy / FIRST_CELL).read_text("utf-8")
    code = TransformerManager().transform_cell(cell)
    with pytest.raises(AssertionError, match=r"^Upload cmssf\.zip \(see README\), then !unzip"):
        exec(code, {})


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
