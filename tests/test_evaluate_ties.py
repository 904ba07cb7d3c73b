"""What no measure may depend on: the order of a set, the length of a vector, a device's float64."""

import ast
import inspect
from contextlib import contextmanager
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest
import torch
from settings import CMSSFConfig, FineTuneConfig, FusionConfig
from torch import nn

from cmssf_lib import evaluate
from cmssf_lib.data import ImageTextData, Splits, digit_scenes
from cmssf_lib.evaluate import (
    embed,
    embed_texts,
    exact_caption_retrieval,
    fusion_monitor,
    fusion_report,
    knn,
    linear_probe,
    monitor,
    nearest_pixels,
    pair_similarity,
    report,
    retrieval,
    zero_shot,
)
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import CMSSF
from cmssf_lib.views import Views, ViewsConfig


def random_rows(seed: int, n: int, dim: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


SIZES = [(7, 64, 1), (7, 512, 64), (3, 33, 5), (13, 1000, 17), (50, 384, 8)]


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(("m", "dim", "n"), SIZES)
def test_equal_rows_are_tied_to_the_last_fraction(m, dim, n, lengths):
    """Also copies of one direction at other lengths, and in any order."""
    for seed in range(20):
        gallery = random_rows(seed, 1, dim).expand(m, dim).clone()
        if lengths:
            gallery *= torch.rand(m, 1, generator=torch.Generator().manual_seed(seed)) * 9 + 0.1
        queries = random_rows(seed + 1000, n, dim)
        groups = (torch.arange(m) > 0).int().roll(seed % m)  # one of group 0, anywhere
        for k in {1, 2, m}:
            found = retrieval(queries, gallery, torch.zeros(n).int(), groups, (k,))
            assert found[f"P@{k}"] == pytest.approx(float(Fraction(1, m)), abs=1e-12)
            assert found[f"R@{k}"] == pytest.approx(float(Fraction(k, m)), abs=1e-12)
            assert found["mAP"] == pytest.approx(float(Fraction(1, m)), abs=1e-12)


def test_captions_in_one_place_are_tied():
    for seed in range(50):
        text = random_rows(seed, 1, 300) * torch.arange(1.0, 8)[:, None]  # seven, of one direction
        image, own = random_rows(seed + 1, 21, 300), torch.arange(21) % 7
        found = exact_caption_retrieval(image, text, own, (1, 5))
        assert found["R@1"] == pytest.approx(1 / 21, abs=1e-12)
        assert found["R@5"] == pytest.approx(5 / 21, abs=1e-12)


def test_a_sum_of_shares_is_exact():
    """In single precision 77 of a hundred came out as 0.7700000286."""
    groups = torch.tensor([1, 0]).repeat_interleave(torch.tensor([77, 23]))
    found = retrieval(torch.ones(3, 100), torch.eye(100), torch.ones(3).int(), groups, (10,))
    assert found["P@10"] == pytest.approx(0.77, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_neighbours_do_not_depend_on_the_order_of_the_bank(k):
    """One neighbour is nearest; five share the places behind it."""
    for seed in range(5):
        direction, tied = random_rows(seed, 2, 200)
        bank = torch.cat([direction[None], tied * torch.tensor([[1.0], [3.0], [0.7], [11.0], [2]])])
        labels, queries = torch.tensor([0, 1, 1, 1, 2, 2]), direction[None] + 0.1 * tied
        answers = set()
        for order in list(permutations(range(6)))[:: 37 + seed]:
            answers.add(knn(bank[list(order)], labels[list(order)], queries, 3, k, 10.0).item())
        assert len(answers) == 1
    # A warm vote: the five share k - 1 places, so class 1 has 3/5 of them and overtakes at k = 3.
    assert answers == {0 if k < 3 else 1}


def test_equal_votes_and_equal_prompts_go_to_the_first_class():
    for seed in range(50):
        same = random_rows(seed, 1, 300) * torch.arange(1.0, 7)[:, None]
        query = random_rows(seed + 1, 3, 300)
        for classes in ([2, 1, 0, 0, 1, 2], [1, 2, 2, 1, 0, 0]):
            assert knn(same, torch.tensor(classes), query, 3, 4).tolist() == [0, 0, 0]
            assert zero_shot(query, same, torch.tensor(classes)).tolist() == [0, 0, 0]


def test_many_ties_behind_the_kth_place_are_all_found():
    bank, labels = torch.ones(500, 8), torch.arange(500) % 5
    labels[:110] = 3
    assert knn(bank, labels, torch.ones(2, 8), 5, k=10).tolist() == [3, 3]
    assert knn(bank.flip(0), labels.flip(0), torch.ones(2, 8), 5, k=10).tolist() == [3, 3]


def test_equal_pictures_of_several_classes_count_for_their_part():
    pictures = torch.randint(0, 256, (2, 3, 20, 20), generator=torch.Generator().manual_seed(0))
    pictures = pictures.to(torch.uint8)
    for order in permutations(range(4)):
        labels = torch.tensor([0, 1, 1, 0])[list(order)]
        train = ImageTextData(pictures[[0, 0, 0, 1]][list(order)], labels, ("-",) * 4, ("x", "y"))
        test = ImageTextData(pictures[:1], torch.tensor([1]), ("-",), ("x", "y"))
        assert nearest_pixels(train, test) == pytest.approx(2 / 3, abs=1e-12)


# --- precisions and devices ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_every_precision_are_measured(dtype, as_shipped):
    x, y = random_rows(0, 40, 16), random_rows(1, 30, 16)
    labels, asked = torch.arange(40) % 4, torch.arange(30) % 4
    centre = 3 * torch.eye(4, 16)
    x, y = (x + centre[labels]).to(dtype), (y + centre[asked]).to(dtype)

    def measured(x, y):
        answers = knn(x, labels, y, 4, 5), zero_shot(y, x[:4]), linear_probe(x, labels, y)
        return (
            *(answer.tolist() for answer in answers),
            retrieval(y, x, asked, labels),
            exact_caption_retrieval(y, x, asked),
            pair_similarity(x[:30], y, labels[:30]),
        )

    for found, expected in zip(measured(x, y), measured(x.float(), y.float()), strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
    knn(x, labels, y.float(), 4, 5)  # two precisions at once


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Names(CMSSF):
    """Sees a picture's mean colour; reads a caption's length."""

    config = CMSSFConfig()

    def __init__(self):
        nn.Module.__init__(self)
        self.image_encoder, self.head = nn.Linear(3, 4), nn.Linear(4, 5)
        self.dropout = nn.Dropout(0.5)

    def features(self, images):
        weight = self.head.weight
        return self.image_encoder(self.dropout(images.to(weight.dtype).mean(dim=(2, 3)) / 255))

    def project(self, features):
        return nn.functional.normalize(self.head(features), dim=1)

    def encode_image(self, images):
        return self.project(self.features(images))

    def encode_text(self, captions):
        lengths = torch.tensor([[1.0 + len(c) % k for k in range(2, 7)] for c in captions])
        return nn.functional.normalize(lengths, dim=1)

    def loss(self, batch):
        image = self.encode_image(batch.images)
        return {"loss": image.square().sum(), "floor": image.new_zeros(())}


@pytest.mark.usefixtures("double_by_default", "as_shipped")
def test_every_measure_works_with_double_precision_by_default():
    splits, method = SCENES, Names()
    assert embed(method, splits.test).image.dtype == torch.float32
    assert 0 <= report(method, splits)["text_to_image_mAP"] <= 1
    evaluate.probe_report(method, splits, per_class=2, draws=1)
    MEASURES["fine_tune_report"](method)
    evaluate.caption_ceiling(splits.test)


def test_nothing_is_double_that_may_be_on_a_device():
    """Apple's graphics processors have no float64: to the CPU first."""
    found, wrong = 0, []
    for path in Path(evaluate.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            source = ast.unparse(node)
            wide = "float64" in source and node.func.attr in ("to", "type", "sum", "mean")
            if node.func.attr == "double" or wide:
                found += 1
                if ".cpu()" not in ast.unparse(node.func.value):
                    wrong.append(f"{path.name}:{node.lineno}: {source}")
    assert found > 5
    assert not wrong


# --- what is measured stays as it is ------------------------------------------------------------


@contextmanager
def unmoved(method):
    modes = [(module, module.training) for module in method.modules()]
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    yield
    assert all(module.training == training for module, training in modes)
    assert all(value.equal(weights[name]) for name, value in method.state_dict().items())
    assert torch.get_rng_state().equal(state)


SCENES = digit_scenes("colour", train=60, test=40)
MEASURES = {
    "embed": lambda m: embed(m, SCENES.test),
    "embed_features": lambda m: evaluate.embed_features(m, SCENES.test),
    "embed_images": lambda m: evaluate.embed_images(m, SCENES.test),
    "embed_mirrored": lambda m: evaluate.embed_mirrored(
        m, SCENES.test.images, seen=torch.ones(40, 5)
    ),
    "embed_texts": lambda m: embed_texts(m, ["a", "bc"]),
    "embed_prompts": lambda m: evaluate.embed_prompts(m, [["a"], ["bc"]]),
    "zero_shot_prompts_from_captions": lambda m: evaluate.zero_shot_prompts_from_captions(
        m, [["a"], ["bc"]]
    ),
    "report": lambda m: report(m, SCENES),
    "monitor": lambda m: monitor(m, SCENES.test, 10),
    "probe_report": lambda m: evaluate.probe_report(m, SCENES, per_class=2, draws=1),
    "view_report": lambda m: evaluate.view_report(m, SCENES.test, Views(ViewsConfig(flip=0.5))),
    "fine_tune": lambda m: evaluate.fine_tune(
        m, SCENES.train, steps=1, batch_size=20, lr=0.1, seed=0
    ),
    "fine_tune_report": lambda m: evaluate.fine_tune_report(
        m,
        SCENES,
        evaluate.label_draws(SCENES.train, 2, (), draws=1),
        FineTuneConfig(steps=1, batch_size=5, lr=0.1),
    ),
}
FUSION = {"fusion_monitor", "fusion_report"}


def test_every_public_function_that_takes_a_method_is_listed():
    taking = {
        name
        for name, function in vars(evaluate).items()
        if inspect.isfunction(function) and "method" in function.__annotations__
    }
    assert taking == set(MEASURES) | FUSION


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_modes_weights_and_random_numbers_stay(name, training):
    method = Names().train(training)
    method.head.train(not training)  # a part in another mode than the rest
    with unmoved(method):
        MEASURES[name](method)


@pytest.mark.parametrize("training", [True, False])
def test_fusion_is_left_as_it_is(training):
    config = FusionConfig(
        kind="late", rule="mean", modalities=("image", "text"), modality_dropout=0.5, max_length=16
    )
    captions, classes = SCENES.train.captions, len(SCENES.train.class_names)
    method = FusionClassifier(config, captions, classes)
    method.fit_rule(SCENES.train)
    method.train(training)
    for measure in (fusion_monitor, fusion_report):
        with unmoved(method):
            measure(method, SCENES.test)


def test_the_answers_behind_every_accuracy_of_fusion_are_given():
    config = FusionConfig(kind="late", rule="product", modalities=("image", "text"), max_length=16)
    method = FusionClassifier(config, SCENES.train.captions, len(SCENES.train.class_names))
    method.fit_rule(SCENES.train)
    answers = {}
    results = fusion_report(method, SCENES.test, predictions=answers)
    right = {name: evaluate.accuracy(given, SCENES.test.labels) for name, given in answers.items()}
    assert right == {name: share for name, share in results.items() if name != "parameters"}
    assert right["product.only_text"] == right["only_text"]
    assert {"mean.accuracy", "loglinear.image_noise_0.5", "text_missing_1.0"} <= right.keys()


def test_what_is_embedded_already_is_not_embedded_again():
    method = Names().eval()
    seen = embed(method, SCENES.test)
    bank = evaluate.embed_features(method, SCENES.train)
    whole = report(method, SCENES), evaluate.probe_report(method, SCENES, per_class=2)
    method.features = method.encode_image = lambda images: 1 / 0
    assert report(method, SCENES, embedded=(bank, seen)) == whole[0]
    known = evaluate.probe_report((bank, seen.features), Splits(*SCENES), per_class=2)
    assert known == whole[1]
