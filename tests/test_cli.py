"""The command line: the four commands end to end on tiny runs, and what it says of mistakes."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmssf_lib import cli, machine
from cmssf_lib.build import build, preset_of, run_config, trained as trained_method
from cmssf_lib.cli import seeds, training
from cmssf_lib.data import digit_scenes, load
from cmssf_lib.evaluate import probe_report, report
from cmssf_lib.presets import METHODS, QUICK, preset
from cmssf_lib.runs import Run
from cmssf_lib.train import fit

TINY = [
    f"--{setting}"
    for setting in (
        "data.train=160",
        "data.test=40",
        "data.validation=32",
        "data.image_size=12",
        "vision.image_size=12",
        "vision.width=32",
        "vision.depth=1",
        "text.width=32",
        "text.depth=1",
        "train.batch_size=32",
    )
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One tiny run, trained from the command line, in a folder of records."""
    root = tmp_path_factory.mktemp("book") / "runs"
    folder = root / "quick" / "tiny"
    command = ["train", "cmssf", "--preset=quick", "--train.epochs=2", f"--run={folder}", *TINY]
    assert cli.main(command) == 0
    return folder


def test_several_seeds_are_one_command_and_a_run_each(tmp_path, capsys, trained):
    command = ["train", "cmssf", "--preset=quick", "--train.epochs=2", f"--run={tmp_path / 'it'}"]
    assert cli.main([*command, *TINY, "--seeds=2", "--train.seed=0"]) == 0
    printed = capsys.readouterr().out
    assert "seed 0: cmssf on digit scenes" in printed
    assert "seed 1: cmssf on digit scenes" in printed
    first, second = (Run.load(tmp_path / f"it-s{seed}") for seed in range(2))
    assert first.results == Run.load(trained).results  # as if it had been trained by itself
    assert (first.config["train"]["seed"], second.config["train"]["seed"]) == (0, 1)
    assert first.history != second.history
    assert cli.main([*command, *TINY, "--seeds=2"]) == 2  # both are finished
    assert "seed 0, 1 failed" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "at_once"), [("cuda", 3), ("cpu", 1), ("mps", 1)])
def test_seeds_are_trained_side_by_side_on_a_gpu_and_else_in_turn(monkeypatch, device, at_once):
    running, most = 0, 0
    together = threading.Barrier(at_once, timeout=20)

    class Training:
        stdout, returncode = (), 0

        def __init__(self, command, **_):
            assert command[-4:-2] == ["--seeds", "1"]

        def __enter__(self):
            nonlocal running, most
            running += 1
            most = max(most, running)
            together.wait()
            return self

        def __exit__(self, *_):
            nonlocal running
            running -= 1

    monkeypatch.setattr(seeds, "Popen", Training)
    monkeypatch.setattr(machine, "fastest_device", lambda: torch.device(device))
    seeds.train_seeds(["simclr", "--seeds", "3"], None, 5, 3)
    assert most == at_once


def test_train_leaves_a_whole_record(trained):
    assert sorted(p.name for p in trained.iterdir() if not p.name.startswith(".")) == [
        "config.json",
        "environment.json",
        "history.csv",
        "model.safetensors",
        "outputs.npz",
        "results.json",
        "start.json",
    ]
    run = Run.load(trained)
    assert len(run.history) == run.config["train"]["epochs"] == 2
    assert {"loss", "floor", "validation_loss", "validation_zero_shot"} <= run.history[-1].keys()
    assert run.results["exact_caption_R@10"] <= run.results["exact_caption_R@10_ceiling"]


def test_the_outputs_hold_what_the_results_were_computed_from(trained):
    run = Run.load(trained)
    o = run.outputs
    assert (o["predictions"] == o["labels"]).mean() == run.results["zero_shot"]
    nearest = (o["image"].astype(np.float32) @ o["prompts"].astype(np.float32).T).argmax(1)
    again = o["prompt_classes"][nearest]
    assert (again == o["predictions"]).mean() > 0.95  # half precision may turn a close call


def test_who_learned_from_mirror_images_is_shown_them_as_well(trained, tmp_path):
    assert "zero_shot_mirrored" not in Run.load(trained).results
    command = ["train", "cmssf", "--preset=quick", "--train.epochs=1", f"--run={tmp_path / 'both'}"]
    assert cli.main([*command, *TINY, "--cmssf.views.flip=0.5"]) == 0
    run = Run.load(tmp_path / "both")
    right = run.outputs["zero_shot_mirrored"] == run.outputs["labels"]
    assert right.mean() == pytest.approx(run.results["zero_shot_mirrored"])


def test_evaluate_prints_the_recorded_numbers_again(trained, capsys):
    before = {p.name: p.read_bytes() for p in trained.iterdir()}
    assert cli.main(["evaluate", str(trained)]) == 0
    *lines, memory = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert memory[:2] == ["peak", "memory:"]
    assert lines[0] == ["metric", "now", "recorded"]
    assert {name for name, *_ in lines[1:]} == Run.load(trained).results.keys()
    for name, now, recorded in lines[1:]:
        assert float(now) == pytest.approx(float(recorded), abs=1e-3), name
    assert {p.name: p.read_bytes() for p in trained.iterdir()} == before


def test_evaluate_completes_a_run_that_was_stopped_before_it(trained, tmp_path, capsys):
    for name in ("config.json", "history.csv", "environment.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    assert cli.main(["evaluate", str(tmp_path), "--no-fine-tuning"]) == 2
    assert "no results yet: evaluate it without --no-fine-tuning" in capsys.readouterr().err
    assert not Run.load(tmp_path).results
    assert cli.main(["evaluate", str(tmp_path)]) == 0
    assert Run.load(tmp_path).results == pytest.approx(Run.load(trained).results)
    assert Run.load(tmp_path).outputs.keys() == Run.load(trained).outputs.keys()


def test_words_of_other_pictures_are_not_guessed(trained, tmp_path, capsys):
    copy_of(trained, tmp_path / "run")
    of_other_pictures(tmp_path / "run")
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 2
    assert "so the words of its tokenizer are not known" in capsys.readouterr().err


def of_other_pictures(folder):
    """Change a run as if it had been trained on pictures that are not here."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "data_fingerprint": "0" * 16}))


def copy_of(run, folder, without=()):
    """Copy a run's files; return what is in each."""
    folder.mkdir(parents=True)
    for path in run.iterdir():
        if path.name not in without:
            (folder / path.name).write_bytes(path.read_bytes())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("change", ["--train.epochs=2", "--train.epochs=0", "--train.seed=9"])
def test_a_finished_run_is_refused_whatever_is_asked_of_it(trained, tmp_path, change, capsys):
    for lost in ((), ("model.safetensors", "outputs.npz")):  # most records have lost these
        folder = tmp_path / f"run{len(lost)}"
        before = copy_of(trained, folder, without=lost)
        command = ["train", "cmssf", "--preset=quick", "--train.epochs=2", f"--run={folder}", *TINY]
        assert cli.main([*command, change]) == 2
        assert " holds a " in capsys.readouterr().err
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_the_same_command_measures_what_was_trained_and_not_measured(trained, tmp_path, capsys):
    copy_of(trained, tmp_path / "run", without=("results.json", "outputs.npz"))
    command = ["train", "cmssf", "--preset=quick", "--train.epochs=2", *TINY]
    assert cli.main([*command, f"--run={tmp_path / 'run'}"]) == 0
    assert "only the evaluation is left" in capsys.readouterr().out
    again, before = Run.load(tmp_path / "run"), Run.load(trained)
    assert again.results == pytest.approx(before.results)
    assert again.history == before.history
    peak = "peak_memory_gb"
    assert {**again.environment, peak: 0} == {**before.environment, peak: 0}


def test_a_picture_folder_that_moves_is_found_again(tmp_path, monkeypatch, capsys):
    scenes = digit_scenes(train=60, test=30, image_size=16)
    for split, part in zip(("train", "test"), scenes, strict=True):
        for i, label in enumerate((part.labels % 2).tolist()):
            place = tmp_path / "pictures" / split / ("even", "odd")[label]
            place.mkdir(parents=True, exist_ok=True)
            picture = part.images[i].permute(1, 2, 0).numpy()
            Image.fromarray(picture).save(place / f"{i}.png")
    folder, pictures = tmp_path / "runs" / "mine", tmp_path / "pictures"
    command = ["train", "cmssf", "--preset=quick", "--train.epochs=1", f"--run={folder}", *TINY]
    command = [word for word in command if not word.startswith(("--data.train", "--data.test"))]
    command += ["--data.validation=10", "--train.batch_size=10", f"--data={pictures}"]
    assert cli.main(command) == 0
    assert cli.main(["evaluate", str(folder)]) == 0  # where they were is recorded
    index = f"--to={tmp_path / 'index'}"
    assert cli.main(["index", str(pictures / "test"), f"--model={folder}", index]) == 0
    moved = pictures.rename(tmp_path / "elsewhere")
    assert cli.main(["evaluate", str(folder)]) == 2
    assert cli.main(["evaluate", str(folder), f"--data={moved}"]) == 0
    arguments = [str(moved / "test"), f"--model={folder}", f"--data={moved}"]
    assert cli.main(["index", *arguments, f"--to={tmp_path / 'another'}"]) == 0
    monkeypatch.setenv("CMSSF_DATA", str(moved))
    assert len(load(replace(QUICK.data, name="image_folder")).train) == 60
    monkeypatch.delenv("CMSSF_DATA")
    with pytest.raises(ValueError, match=r"set data\.path or CMSSF_DATA"):
        load(replace(QUICK.data, name="image_folder"))


@pytest.mark.parametrize(
    ("method", "asked", "message"),
    [
        ("cmssf", ["train.batch_size=64"], "data.validation=32 holds out too few"),
        ("simclr", ["judge.per_class=1"], "gives a class only 1 of the two labels"),
        ("mae", ["fine_tune.batch_size=101"], "100 labelled pictures, fewer than a batch"),
    ],
)
def test_what_could_not_be_measured_is_refused_before_the_training(
    method, asked, message, tmp_path, capsys
):
    settings = [*TINY_FEATURES, *(f"--{setting}" for setting in asked)]
    folder = tmp_path / "run"
    assert cli.main(["train", method, "--preset=quick", f"--run={folder}", *settings]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_reproduce_gives_the_recorded_numbers(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CMSSF_RUNS", str(trained.parents[1]))
    assert cli.main(["reproduce", "quick/tiny", f"--to={tmp_path}"]) == 0
    again, recorded = Run.load(tmp_path / "quick" / "tiny"), Run.load(trained)
    assert again.results == recorded.results
    assert again.series("loss") == recorded.series("loss")
    assert "recorded" in capsys.readouterr().out


def test_reproducing_all_goes_on_after_what_is_done_and_what_fails(
    trained, tmp_path, monkeypatch, capsys
):
    copy_of(trained, tmp_path / "records" / "quick" / "tiny")
    copy_of(trained, tmp_path / "records" / "lost" / "tiny")
    spoiled = tmp_path / "records" / "lost" / "tiny" / "config.json"
    spoiled.write_text(spoiled.read_text().replace("0.003", "-1.0"))
    before = copy_of(trained, tmp_path / "again" / "quick" / "tiny")
    monkeypatch.setenv("CMSSF_RUNS", str(tmp_path / "records"))
    assert cli.main(["reproduce", "--all", f"--to={tmp_path / 'again'}"]) == 2
    out, error = capsys.readouterr()
    assert "quick/tiny exists already" in out
    assert "lost/tiny: not the settings of a" in error
    assert "lr: Input should be greater than 0, got -1.0" in error
    done = tmp_path / "again" / "quick" / "tiny"
    assert {path.name: path.read_bytes() for path in done.iterdir()} == before


def test_runs_lists_a_line_a_run(trained, capsys):
    assert cli.main(["runs", str(trained.parents[1])]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "run"
    assert line.split()[:3] == ["quick/tiny", "quick", "2/2"]
    results = Run.load(trained).results
    assert line.endswith(f"{results['zero_shot']:.1%} zero_shot")


def test_a_damaged_run_is_one_line_and_no_code(trained, tmp_path, capsys):
    copy_of(trained, tmp_path / "runs" / "whole")
    for name in ("torn", "odd"):
        copy_of(trained, tmp_path / "runs" / name)
    (tmp_path / "runs" / "torn" / "config.json").write_text("{")
    (tmp_path / "runs" / "odd" / "history.csv").write_bytes(b"\xff")
    assert cli.main(["runs", str(tmp_path / "runs")]) == 0
    out, error = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["run", "whole"]
    lines = error.splitlines()
    assert len(lines) == 2
    for line, file in zip(sorted(lines), ("odd/history.csv", "torn/config.json"), strict=True):
        assert line.startswith("cmssf: passed over: ")
        assert str(Path(file)) in line
    assert "warn" not in error.lower()


def test_records_are_found_from_inside_the_repository(tmp_path, monkeypatch):
    monkeypatch.delenv("CMSSF_RUNS", raising=False)
    (tmp_path / "book" / "runs").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert training.records() == tmp_path / "book" / "runs"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "clap", "--preset=quick", *TINY], "unknown method 'clap'; choose one of cmssf"),
        (["train", "cmssf", "--preset=huge"], "unknown preset 'huge'; choose one of quick"),
        (["evaluate", "runs/none"], "no run at runs/none"),
        (["reproduce"], "name recorded runs (see cmssf runs), or choose all with --all"),
        (["reproduce", "nothing"], "no run at"),
        (["runs", "nowhere"], "no runs below nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(command, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "book" / "runs").mkdir(parents=True)
    monkeypatch.delenv("CMSSF_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("cmssf: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fusion", "--fusion.norm_first=yes"], "norm_first"),
        (["fusion", "--fusion.kind=none"], "--fusion.kind"),
        (["cmssf", "--train.speed=9"], "train.speed"),
        (["cmssf", "--train.epochs"], "--train.epochs"),
        (["cmssf", "--preset"], "--preset"),
        (["cmssf", "--train=5"], "--train"),
        (["cmssf", "--train.lr.x=5"], "--train.lr.x"),
        (["cmssf", "--cmssf.views.area=1"], "--cmssf.views.area"),
        (["cmssf", "--train.lr=fast"], "--train.lr"),
        (["cmssf", "--train.epochs=1.5"], "--train.epochs"),
        (["simclr", "--moco.queue=64"], "--moco.queue"),  # it would change nothing
        (["cmssf", "--simclr.dim=8"], "--simclr.dim"),  # likewise, without an image_loss
    ],
)
def test_a_setting_that_cannot_be_is_told_and_nothing_is_done(
    words, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *words, "--preset=quick", *TINY[:1]]) == 2
    output = capsys.readouterr()
    assert told in output.out + output.err
    assert "Traceback" not in output.err
    assert not (tmp_path / "runs").exists()


def test_help_lists_the_settings_that_the_method_reads_with_their_comments(capsys):
    assert cli.main(["train", "simclr", "--preset=quick", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--simclr.temperature" in shown
    assert "divides the cosine" in shown
    assert "--moco" not in shown
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("train", "evaluate", "reproduce", "runs", "search"))


def test_no_data_and_no_network_is_one_sentence(tmp_path, monkeypatch, capsys):
    def offline(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr("cmssf_lib.data.picture_files.CIFAR10.__init__", offline)
    command = ["train", "cmssf", "--preset=standard", f"--data={tmp_path}"]
    assert cli.main([*command, f"--run={tmp_path / 'run'}"]) == 2
    assert "The preset 'quick' does not need it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_not_a_traceback(monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt("stopped after step 5 of 9; go on with the folder runs/x")

    monkeypatch.setattr(training, "load", stop)
    assert cli.main(["train", "cmssf", "--preset=quick"]) == 130
    assert "go on with the folder runs/x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(KeyboardInterrupt(), 130, "stopped"), (MemoryError("4 crops need 9 GB"), 2, "need 9 GB")],
)
def test_an_interruption_and_too_little_memory_are_said(error, code, said, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise error

    monkeypatch.setattr(training, "load", stop)
    assert cli.main(["train", "cmssf", "--preset=quick"]) == code
    assert said in capsys.readouterr().err


def changed(method, *words, name="quick"):
    """A preset as ``cmssf train`` reads it."""
    return cli.read_settings([method, "--preset", name, *words])[1]


def test_settings_read_truth_pairs_and_lists_of_words():
    words = ["--fusion.modalities", "image", "text", "--fusion.norm_first", "False"]
    fusion = changed("fusion", *words, "--fusion.image_size", "16", "16").fusion
    assert fusion.modalities == ("image", "text")
    assert fusion.norm_first is False
    assert fusion.image_size == (16, 16)
    assert changed("fusion", "--data.captions", "my captions.csv").data.captions == (
        "my captions.csv"
    )
    assert changed("simclr", "--data.path", "None", name="standard").data.path is None
    beside = ["--cmssf.image_loss", "simclr", "--simclr.dim", "8"]
    assert changed("cmssf", *beside).simclr.dim == 8


def test_settings_change_nested_fields_of_every_kind():
    words = ["--train.epochs=3", "--cmssf.views.area", "0.5", "1", "--cmssf.loss=excess"]
    assert changed("cmssf", *words, "--train.lr=1e-2", "--train.seed=4") == replace(
        QUICK,
        train=replace(QUICK.train, epochs=3, lr=0.01, seed=4),
        cmssf=replace(
            QUICK.cmssf, loss="excess", views=replace(QUICK.cmssf.views, area=(0.5, 1.0))
        ),
    )


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_without_changes_a_preset_is_what_one_gets(method, name):
    assert changed(method, name=name) == preset(name, method)


TINY_FUSION = ["--fusion.image_size", "12", "12"] + [
    f"--{setting}"
    for setting in (
        "data.train=200",
        "data.test=60",
        "data.validation=100",
        "data.image_size=12",
        "fusion.width=8",
        "fusion.depth=1",
        "train.batch_size=25",
        "train.epochs=1",
    )
]


@pytest.mark.parametrize("kind", ["early.tokens", "feature.gated", "late.stacked"])
def test_a_fusion_model_is_trained_measured_and_measured_again(kind, tmp_path, capsys):
    kind, rule = kind.split(".")
    choice = [f"--fusion.kind={kind}", f"--fusion.rule={rule}"]
    folder = tmp_path / "runs" / "fused"
    command = ["train", "fusion", "--preset=quick", f"--run={folder}", *TINY_FUSION, *choice]
    assert cli.main(command) == 0
    run = Run.load(folder)
    assert run.config.keys() == {
        "method", "preset", "data", "fusion", "train", "data_fingerprint",
    }  # fmt: skip
    assert {"accuracy", "only_sound", "any_missing_0.4", "text_mispaired_1.0"} <= run.results.keys()
    assert ("stacked.accuracy" in run.results) == (kind == "late")
    assert (run.outputs["predictions"] == run.outputs["labels"]).mean() == pytest.approx(
        run.results["accuracy"]
    )
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder)]) == 0  # what late fusion fitted is in the weights
    for line in capsys.readouterr().out.splitlines()[1:-1]:
        name, now, recorded = line.split()
        assert float(now) == pytest.approx(float(recorded), abs=1e-3), name
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert f"{run.results['accuracy']:.1%}" in capsys.readouterr().out


@pytest.mark.real_data
def test_one_standard_step_on_real_photographs(real_cifar10, tmp_path):
    """The real pictures, the standard encoder: a few steps on a part of them, then evaluation."""
    splits = load(training.with_pictures(preset("standard"), str(real_cifar10)).data)
    assert len(splits.train) == 50_000
    assert len(splits.test) == 10_000
    small = type(splits)(
        splits.train.subset(range(0, 50_000, 100)), splits.test.subset(range(0, 10_000, 50))
    )
    chosen = changed("cmssf", "--train.epochs=1", "--train.batch_size=64", name="standard")
    run = Run(tmp_path / "run")
    run.config = run_config(chosen, "cmssf", small.train)
    method = build(chosen, "cmssf", small.train)
    fit(method, small.train, chosen.train, run=run, progress=False)
    results = report(method, small)
    assert Path(tmp_path / "run" / "model.safetensors").is_file()
    assert 0 <= results["zero_shot"] <= 1
    assert results["exact_caption_R@10_ceiling"] < 1


TINY_FEATURES = [
    f"--{setting}"
    for setting in (
        "data.train=160",
        "data.test=120",
        "data.validation=32",
        "data.image_size=16",
        "vision.width=16",
        "vision.depth=1",
        "fine_tune.steps=4",
        "train.batch_size=32",
        "train.epochs=1",
    )
]


def test_no_epochs_record_what_fresh_weights_are_worth(tmp_path):
    folder = tmp_path / "runs" / "untrained"
    command = ["train", "simclr", "--preset=quick", *TINY_FEATURES, "--train.epochs=0"]
    assert cli.main([*command, f"--run={folder}"]) == 0
    run = Run.load(folder)
    assert run.history == []
    assert run.environment["commit"]
    splits = load(preset_of(run.config).data)
    fresh = build(preset_of(run.config), "simclr", splits.train)
    assert run.results == pytest.approx(probe_report(fresh, splits, per_class=10))
    assert cli.main(["runs", str(tmp_path / "runs")]) == 0


def test_fresh_weights_are_rounded_before_they_are_measured(tmp_path):
    """Nothing is trained, so it is not the training loop that rounds."""
    folder = tmp_path / "untrained"
    command = ["train", "simclr", "--preset=quick", *TINY_FEATURES, "--train.epochs=0"]
    assert cli.main([*command, "--train.half_weights=True", f"--run={folder}"]) == 0
    run = Run.load(folder)
    splits = load(preset_of(run.config).data)
    kept = trained_method(run, splits.train)
    for name, tensor in kept.state_dict().items():
        assert tensor.ndim < 2 or torch.equal(tensor, tensor.half().float()), name
    assert run.results == pytest.approx(probe_report(kept, splits, per_class=10))


@pytest.mark.parametrize(
    "method", ["simclr", "moco", "byol", "dino", "vicreg", "mae", "supervised"]
)
def test_every_method_is_trained_and_measured(method, tmp_path, capsys):
    folder = tmp_path / "runs" / method
    command = ["train", method, "--preset=quick", f"--run={folder}", *TINY_FEATURES]
    command += {"moco": ["--moco.queue=64"], "dino": ["--dino.prototypes=16"]}.get(method, [])
    assert cli.main(command) == 0
    run = Run.load(folder)
    assert set(run.config) - {"method", "preset", "data_fingerprint"} == {
        "data", "vision", "judge", "fine_tune", "train", method,
    }  # fmt: skip
    assert {"loss", "validation_knn"} <= run.history[-1].keys()
    assert {"knn", "linear_10_per_class"} <= run.results.keys()
    for start in ("", "untrained_"):
        assert (f"{start}fine_tuned_10_per_class" in run.results) is (method == "mae")
    accuracies = {
        name
        for name in run.results
        if name.endswith(("knn", "10_per_class")) and "labels" not in name
    }
    assert set(run.outputs) - {"labels"} == accuracies
    for name in accuracies:
        right = run.outputs[name] == run.outputs["labels"]
        assert right.mean() == pytest.approx(run.results[name]), name
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder)]) == 0
    for line in capsys.readouterr().out.splitlines()[1:-1]:
        name, now, recorded = line.split()
        assert float(now) == pytest.approx(float(recorded), abs=2e-3), name
    assert cli.main(["evaluate", str(folder), "--no-fine-tuning"]) == 0
    again = {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]}
    assert again == {name for name in run.results if "fine_tuned" not in name}


def test_features_are_judged_with_the_labels_that_are_asked_for(tmp_path, capsys):
    folder = tmp_path / "runs" / "judged"
    asked = ("per_class=0", "draws=2", "fine_tune=True", "pixels=True")
    settings = [
        *(f"--judge.{setting}" for setting in asked),
        *("--judge.fractions", "0.25", "1"),
        "--fine_tune.batch_size=20",
        "--vision.image_size=16",
        "--vision.width=16",
        "--vision.depth=1",
        "--train.epochs=1",
    ]
    command = ["train", "cmssf", "--preset=quick", f"--run={folder}"]
    assert cli.main([*command, *TINY_FEATURES, *settings]) == 0
    run = Run.load(folder)
    judged = [
        f"{way}_{part}"
        for way in ("knn", "linear", "fine_tuned", "pixels_knn", "pixels_linear")
        for part in ("25pct", "100pct")
    ]
    for name in (*judged, "knn", "pixels_knn"):
        right = run.outputs[name] == run.outputs["labels"]
        assert right.mean() == pytest.approx(run.results[name]), name
    assert run.outputs["linear_25pct"].shape == (2, 120)
    assert run.results["labels_25pct"] == pytest.approx(40, abs=5)  # rounded in each class
    assert run.results["zero_shot"] == (run.outputs["predictions"] == run.outputs["labels"]).mean()
    assert not any("per_class" in name for name in run.results)
    assert run.environment["mflop_per_picture"] > 0
