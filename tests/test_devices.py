"""What a reader holds stays where it is: tried on a second device that refuses to mix.

The device is `card/stand_in.py`, which makes itself the accelerator of its whole process: so all
here is tried in processes of their own, and compared with the same on the processor.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from cmssf_lib.data import find_cifar10

ROOT = Path(__file__).parents[1]
CARD = Path(__file__).parent / "card"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OFF_CARDS = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

pytestmark = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch takes no device that is written in Python",
)


def everything(*words: str) -> dict:
    command = [sys.executable, str(CARD / "everything.py"), *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | OFF_CARDS, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_device_that_refuses_to_mix_does():
    code = """
import os, stand_in, torch
from torch import nn
there, layer = torch.ones(2, 3).to("card"), nn.Linear(3, 1).to("card")
assert there.device.type == layer.weight.device.type == "card"
layer(there).sum().backward()
assert layer.weight.grad.device.type == "card"
assert (there[torch.tensor([1])] + 1).cpu().tolist() == [[2.0] * 3]  # as on a real card
for mixed in (lambda: layer(torch.ones(2, 3)), lambda: there @ torch.ones(3), there.numpy):
    try:
        mixed()
    except (RuntimeError, TypeError):
        continue
    raise AssertionError("two devices met")
os._exit(0)  # not through the interpreter's end, where PyTorch's thread for the device may abort
"""
    env = os.environ | OFF_CARDS | {"PYTHONPATH": str(CARD)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_every_method_is_lent_to_the_card_and_comes_back_with_the_same_numbers():
    here, there = everything(), everything("card")
    assert (here["device"], there["device"]) == ("cpu", "card")
    assert here["found"].keys() == there["found"].keys()
    for method, numbers in here["found"].items():
        for name, number in numbers.items():
            # Two steps leave answers that are nearly even, and a last digit decides between them.
            # Adam's first steps are as long for a gradient of rounding errors as for any other.
            votes = "fine_tuned" in name or (method == "vicreg" and "knn" in name)
            even = 0.1 if votes else 1e-3
            found = there["found"][method][name]
            assert found == pytest.approx(number, rel=1e-3, abs=even), (method, name)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_chapter_runs_on_the_kernel_of_a_card(path, tmp_path, monkeypatch):
    """With trainings of two steps an epoch, so what a cell says of its results may be wrong.

    Where there are photographs, chapters train on them too, as they do on a card.
    """
    startup = tmp_path / "profile_default" / "startup" / "card.py"
    startup.parent.mkdir(parents=True)
    few_steps = f"import few_steps\nfew_steps.photographs_alone = {path.stem == '09_training'}"
    code = f"import sys; sys.path.insert(0, {str(CARD)!r})\nimport stand_in\n{few_steps}"
    startup.write_text(code, encoding="utf-8")
    preset = "standard" if find_cifar10() else "quick"
    for name, value in {**OFF_CARDS, "IPYTHONDIR": str(tmp_path), "CMSSF_PRESET": preset}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    patience = {"timeout": 600, "startup_timeout": 300}  # for a machine with much else to do
    client = NotebookClient(notebook, allow_errors=True, kernel_name="python3", **patience)
    client.execute(cwd=str(path.parent))
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    errors = [out for out in outputs if out.output_type == "error"]
    told = [f"{out.ename}: {out.evalue}" for out in errors if out.ename != "AssertionError"]
    assert told == []
