"""Describe the recorded runs for machines: `book/runs/ro-crate-metadata.json`.

    python .ci/write_crate.py            write it
    python .ci/write_crate.py --check    exit with 1 if it is not up to date

An RO-Crate (https://w3id.org/ro/crate) of the profile Process Run Crate: each training, with all of
its seeds, is an action that has used the library on a data set and made the folders of its runs.
The numbers stand in their `results.json`; nothing is repeated here.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "book" / "runs"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CC_BY = "https://creativecommons.org/licenses/by/4.0/"
DATA = {
    "digit_scenes": {
        "name": "Digit scenes",
        "description": "Scenes with handwritten digits of scikit-learn, drawn by the library.",
        "url": "https://archive.ics.uci.edu/dataset/80",
    },
    "cifar10": {
        "name": "CIFAR-10 (JPEG copy)",
        "description": "60,000 photographs of ten classes, 32 pixels wide and high.",
        "url": "https://www.cs.toronto.edu/~kriz/cifar.html",
    },
}


def trainings() -> dict[str, list[Path]]:
    """The name of each training, without its seed, and the folders of its runs."""
    found = defaultdict(list)
    for results in sorted(RUNS.glob("*/*/results.json")):
        name = results.parent.relative_to(RUNS).as_posix()
        stem, dash, seed = name.rpartition("-s")
        found[stem if dash and seed.isdigit() else name].append(results.parent)
    return dict(found)


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def crate() -> dict[str, Any]:
    """Describe the records."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    source = citation["references"][0]
    made = ROCrate(gen_preview=False, version="1.1")  # the one that the profile extends
    made.name = f"The recorded runs of {citation['title']}"
    made.description = (
        "Configuration, history, environment, answers and results of every training that the book "
        "quotes: a replication of Kumari (2026) and the experiments of its chapters."
    )
    (author,) = [
        made.add(ContextEntity(made, "#authors", {"@type": "Organization", **name}))
        for name in citation["authors"]
    ]
    license_ = ContextEntity(
        made,
        CC_BY,
        {
            "@type": "CreativeWork",
            "name": "CC BY 4.0",
            "description": "Creative Commons Attribution 4.0 International",
        },
    )
    chapter = ContextEntity(
        made,
        f"https://doi.org/{source['doi']}",
        {
            "@type": "ScholarlyArticle",
            "name": source["title"],
            "datePublished": str(source["year"]),
        },
    )
    profile = ContextEntity(
        made, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    )
    data = {
        key: ContextEntity(made, f"#{key}", {"@type": "Dataset", **facts})
        for key, facts in DATA.items()
    }
    made.add(license_, chapter, profile, *data.values())
    root = made.root_dataset
    root["author"], root["publisher"] = author, author
    root["license"], root["citation"], root["conformsTo"] = license_, chapter, profile
    programs, dates = {}, set()
    for name, folders in trainings().items():
        environment = [read(folder / "environment.json") for folder in folders]
        config = read(folders[0] / "config.json")
        dates |= (days := {own["date"] for own in environment})
        commits = sorted({str(own.get("commit", "unknown")) for own in environment})
        for commit in commits:
            if commit not in programs:
                facts = {
                    "@type": "SoftwareApplication",
                    "name": "cmssf_lib",
                    "softwareVersion": f"{citation['version']}, commit {commit}",
                }
                programs[commit] = made.add(ContextEntity(made, f"#cmssf-{commit}", facts))
        results = [
            made.add_dataset(
                dest_path=folder.relative_to(RUNS).as_posix(),
                properties={
                    "name": f"Run {folder.relative_to(RUNS).as_posix()}",
                    "description": "Its config.json, environment.json, history.csv, outputs.npz "
                    "and results.json; model.safetensors where the weights are kept.",
                },
            )
            for folder in folders
        ]
        machine = sorted(
            {own["device"] if own["device"] != "cpu" else own["processor"] for own in environment}
        )
        action = ContextEntity(
            made,
            f"#{name.replace('/', '-')}",
            {
                "@type": "CreateAction",
                "name": f"Training {name}",
                "description": f"cmssf reproduce {folders[0].relative_to(RUNS).as_posix()}; "
                f"on {', '.join(machine)}",
                "endTime": max(days),
                "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
            },
        )
        made.add(action)
        action["agent"] = author
        used = [programs[commit] for commit in commits]
        action["instrument"] = used if len(used) > 1 else used[0]
        action["object"] = data[config["data"]["name"]]
        action["result"] = results if len(results) > 1 else results[0]
        root.append_to("mentions", action)
    root["datePublished"] = max(dates)
    described: dict[str, Any] = made.metadata.generate()
    return described


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    path = RUNS / "ro-crate-metadata.json"
    text = json.dumps(crate(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if parser.parse_args().check:
        return int(not path.is_file() or path.read_text("utf-8") != text)
    path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
