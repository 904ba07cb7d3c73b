"""The machine-readable description of the records: complete, up to date and valid."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import rocrate
import yaml

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "book" / "runs"
CRATE = json.loads((RUNS / "ro-crate-metadata.json").read_text("utf-8"))
ENTITIES = {entity["@id"]: entity for entity in CRATE["@graph"]}


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("write_crate", ROOT / ".ci" / "write_crate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(value):
    return value if isinstance(value, list) else [value]


def test_it_is_up_to_date(writer):
    assert writer.crate() == CRATE, "the records have changed: python .ci/write_crate.py"


def test_every_run_was_made_by_one_action_with_its_commit():
    made = {}
    for entity in ENTITIES.values():
        if entity["@type"] == "CreateAction":
            for result in listed(entity["result"]):
                assert result["@id"] not in made
                made[result["@id"]] = [tool["@id"] for tool in listed(entity["instrument"])]
    folders = {path.parent for path in RUNS.glob("*/*/results.json")}
    assert made.keys() == {f"{path.relative_to(RUNS).as_posix()}/" for path in folders}
    for path in folders:
        commit = json.loads((path / "environment.json").read_text("utf-8"))["commit"]
        assert f"#cmssf-{commit}" in made[f"{path.relative_to(RUNS).as_posix()}/"]


def test_it_agrees_with_the_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    root = ENTITIES["./"]
    assert citation["title"] in root["name"]
    assert root["citation"]["@id"].endswith(citation["references"][0]["doi"])
    assert ENTITIES[root["author"]["@id"]]["name"] == citation["authors"][0]["name"]
    versions = {e["softwareVersion"] for e in ENTITIES.values() if "softwareVersion" in e}
    assert all(version.startswith(citation["version"]) for version in versions)


@pytest.mark.parametrize("profile", ["ro-crate-1.1", "process-run-crate-0.5"])
def test_it_is_valid(profile, monkeypatch):
    """The validator asks the network for the context; `rocrate` ships its next version."""
    from rdflib.plugins.shared.jsonld import context
    from rocrate_validator import models, services
    from rocrate_validator.utils.http import HttpRequester

    shipped = json.loads((Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_text())

    def answer(self, url, **_):
        assert url == "https://w3id.org/ro/crate/1.1/context", "only the context is asked for"
        headers = {"Content-Type": "application/ld+json"}
        return SimpleNamespace(status_code=200, headers=headers, json=lambda: shipped)

    monkeypatch.setattr(HttpRequester, "get", answer, raising=False)
    monkeypatch.setattr(context, "source_to_json", lambda url, *_, **__: (shipped, None))
    asked = services.ValidationSettings(
        rocrate_uri=str(RUNS),
        profile_identifier=profile,
        requirement_severity=models.Severity.REQUIRED,
    )
    found = services.validate(asked)
    assert not [issue.message for issue in found.get_issues()]
    assert found.passed()
