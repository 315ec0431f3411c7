"""Each published weight set is in the registry, whole, and found by its names."""

import re
from pathlib import Path

import pytest
from weight_files import TINY

from resnext_keras import (
    Preprocessing,
    WeightsError,
    class_names,
    list_models,
    list_weights,
    weights_preprocessing,
)
from resnext_keras.models.specs import get_spec
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.registry import WEIGHT_SETS

DEFAULTS = {
    "resnext50_32x4d": "tv2_in1k",
    "resnext50d_32x4d": "bt_in1k",
    "resnext101_32x4d": "gluon_in1k",
    "resnext101_32x8d": "tv2_in1k",
    "resnext101_64x4d": "c1_in1k",
    "resnext101_32x16d": None,
    "resnext101_32x32d": None,
    "resnext101_32x48d": None,
    "resnext152_32x4d": "mm_in1k",
    "seresnext26d_32x4d": "bt_in1k",
    "seresnext26t_32x4d": "bt_in1k",
    "seresnext50_32x4d": "racm_in1k",
    "seresnext101_32x4d": "gluon_in1k",
    "seresnext101_32x8d": "ah_in1k",
    "seresnext101_64x4d": "gluon_in1k",
    "seresnext101d_32x8d": "ah_in1k",
    "seresnextaa101d_32x8d": "sw_in12k_ft_in1k_288",
    "seresnextaa201d_32x8d": "sw_in12k_ft_in1k_384",
}

PUBLISHED = [s for s in WEIGHT_SETS.values() if s.url]


@pytest.fixture(params=PUBLISHED, ids=lambda weight_set: weight_set.name)
def published(request):
    return request.param


def test_there_are_46_published_sets_of_18_architectures_and_the_one_that_ships():
    assert len(PUBLISHED) == 46
    assert {s.architecture for s in PUBLISHED} == set(DEFAULTS)
    assert list_weights() == list(WEIGHT_SETS)
    assert set(WEIGHT_SETS) - {s.name for s in PUBLISHED} == {"resnext11_8x4d.digits"}
    assert len({s.file for s in WEIGHT_SETS.values()}) == 47
    assert len({s.url for s in PUBLISHED}) == 46


def test_the_package_has_every_architecture_of_a_set():
    assert {s.architecture for s in WEIGHT_SETS.values()} <= set(list_models())


def test_a_row_is_complete(published):
    assert published.name == f"{published.architecture}.{published.tag}"
    assert published.licence in ("BSD-3-Clause", "Apache-2.0", "CC-BY-NC-4.0")
    assert published.url.startswith("https://")
    assert published.source
    assert published.size_bytes is None or published.size_bytes > 10**6
    sizes = [
        (e.preprocessing.size, -e.preprocessing.resize) for e in published.evaluations
    ]
    assert sizes == sorted(set(sizes))
    assert published.best is published.evaluations[-1]
    assert published.preprocessing is published.best.preprocessing
    for evaluation in published.evaluations:
        assert isinstance(evaluation.preprocessing, Preprocessing)
        if evaluation.top1 is None:
            assert (evaluation.top5, evaluation.source) == (None, None)
        else:
            assert evaluation.source in ("timm", "publisher")
            assert 0.77 < evaluation.top1 < (evaluation.top5 or 0.99) < 1


def test_format_file_and_hash_belong_together(published):
    last = published.url.rpartition("/")[2]
    if published.format == "torch":
        # The first eight digits of a torch file's SHA-256 end its name.
        assert published.file == last
        assert published.hash == f"sha256:{last[-12:-4]}"
        assert re.fullmatch("[0-9a-f]{8}", last[-12:-4])
        assert last.endswith(".pth")
    elif published.format == "safetensors":
        assert last == "model.safetensors"
        assert published.file == f"{published.name}.safetensors"
        assert published.hash is None
    else:
        assert published.format == "keras-applications"
        assert published.file == last
        assert re.fullmatch("md5:[0-9a-f]{32}", published.hash)


def test_classes_and_their_names_belong_together(published):
    expected = 1000
    if published.tag.endswith("notop"):
        expected = None
    elif published.tag.endswith("in12k"):
        expected = 11821
    assert published.classes == expected
    if expected == 1000:
        assert len(class_names(published.labels)) == 1000
        assert published.best.top1
    else:
        assert published.labels is None


def test_facebooks_and_the_authors_sets_and_no_others_are_non_commercial(published):
    restricted = published.tag.startswith(("fb_", "keras_"))
    assert published.non_commercial == restricted
    assert (published.licence == "CC-BY-NC-4.0") == restricted


def test_accuracies_are_those_published_for_their_sizes():
    found = WEIGHT_SETS["resnext50_32x4d.tv2_in1k"].evaluations
    assert [(e.preprocessing.size, e.top1, e.top5, e.source) for e in found] == [
        (176, 0.79384, 0.94302, "timm"),
        (224, 0.8119, 0.95344, "timm"),
    ]
    (claimed,) = WEIGHT_SETS["resnext152_32x4d.mm_in1k"].evaluations
    assert (claimed.top1, claimed.top5, claimed.source) == (0.7888, None, "publisher")
    for evaluation in WEIGHT_SETS["seresnextaa101d_32x8d.sw_in12k"].evaluations:
        assert evaluation.top1 is None


def test_the_known_bad_upload_and_no_other_is_marked():
    (bad,) = [s for s in WEIGHT_SETS.values() if s.note]
    assert bad.name == "resnext101_32x16d.fb_swsl_ig1b_ft_in1k"
    assert "84.8" in bad.note
    assert bad.best.top1 == 0.8334


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # The short side is rounded down: 224 / 0.965 = 232.1, 224 / 0.95 = 235.8.
        ("resnext50_32x4d.tv_in1k", None, (224, 256, "bilinear")),
        ("resnext50_32x4d.tv2_in1k", None, (224, 232, "bilinear")),
        ("resnext50_32x4d.tv2_in1k", 176, (176, 201, "bilinear")),
        ("resnext101_64x4d.tv_in1k", None, (224, 232, "bilinear")),
        ("resnext101_64x4d.tv_in1k", 224, (224, 232, "bilinear")),
        ("resnext50_32x4d.a1_in1k", 224, (224, 235, "bicubic")),
        ("resnext50_32x4d.a1_in1k", None, (288, 288, "bicubic")),
        ("resnext50_32x4d.a3_in1k", 160, (160, 168, "bicubic")),
        ("racm_in1k", None, (288, 303, "bicubic")),
        ("sw_in12k_ft_in1k_384", 384, (384, 384, "bicubic")),
    ],
)
def test_preprocessing_is_that_of_the_set_at_its_size(name, size, expected):
    assert weights_preprocessing(name, size) == Preprocessing(*expected)


def test_the_bundled_set_wants_small_images():
    assert weights_preprocessing("digits") == Preprocessing(32, (8, 32))


def test_a_size_without_evaluation_lists_those_that_there_are():
    with pytest.raises(WeightsError, match=r"224 or 288\. Received: size=256"):
        weights_preprocessing("resnext50_32x4d.a1_in1k", 256)


def test_sets_are_listed_by_architecture():
    assert list_weights("seresnext50_32x4d") == [
        "seresnext50_32x4d.gluon_in1k",
        "seresnext50_32x4d.racm_in1k",
    ]
    assert list_weights("resnext29_8x64d") == []
    with pytest.raises(ValueError, match="Did you mean resnext50_32x4d"):
        list_weights("resnext50")


@pytest.mark.parametrize(("architecture", "tag"), DEFAULTS.items())
def test_imagenet_is_the_best_set_that_permits_commercial_use(architecture, tag):
    if tag is None:
        with pytest.raises(WeightsError, match="the name of a weight set") as error:
            resolve("imagenet", architecture)
        assert "CC-BY-NC-4.0" in str(error.value)
        for weight_set in PUBLISHED:
            named = weight_set.name in str(error.value)
            assert named == (weight_set.architecture == architecture)
    else:
        found = resolve("imagenet", architecture).weight_set
        assert found.name == f"{architecture}.{tag}"
        assert not found.non_commercial


@pytest.mark.parametrize("model", [TINY, get_spec("resnext29_8x64d")])
def test_an_architecture_without_sets_has_no_default(model):
    with pytest.raises(WeightsError, match=f"No ImageNet weights of '{model.name}'"):
        resolve("imagenet", model)


def test_other_sets_than_imagenets_are_named():
    with pytest.raises(
        WeightsError, match=r"another weight set \(resnext11_8x4d\.digits\)"
    ):
        resolve("imagenet", "resnext11_8x4d")


def test_imagenet_needs_an_architecture():
    with pytest.raises(
        WeightsError, match=r"as in .resnext50_32x4d.imagenet., since each"
    ):
        resolve("imagenet")


def test_each_set_is_found_by_full_name_and_by_tag():
    for name, weight_set in WEIGHT_SETS.items():
        architecture = weight_set.architecture
        assert resolve(name).weight_set is weight_set
        assert resolve(name, architecture).weight_set is weight_set
        assert resolve(weight_set.tag, architecture).weight_set is weight_set
        for alias in weight_set.aliases:
            assert resolve(alias, architecture).weight_set is weight_set


def test_torchvisions_names_are_known():
    assert {s.name: s.aliases for s in PUBLISHED if s.aliases} == {
        "resnext50_32x4d.tv_in1k": ("IMAGENET1K_V1",),
        "resnext50_32x4d.tv2_in1k": ("IMAGENET1K_V2",),
        "resnext101_32x8d.tv_in1k": ("IMAGENET1K_V1",),
        "resnext101_32x8d.tv2_in1k": ("IMAGENET1K_V2",),
        "resnext101_64x4d.tv_in1k": ("IMAGENET1K_V1",),
    }


def test_a_tag_needs_no_architecture_where_one_set_has_it():
    assert resolve("mm_in1k").spec.name == "resnext152_32x4d"
    assert resolve("digits").spec.name == "resnext11_8x4d"


@pytest.mark.parametrize("name", ["tv2_in1k", "IMAGENET1K_V2"])
def test_a_name_of_several_sets_lists_them(name):
    with pytest.raises(WeightsError) as error:
        resolve(name)
    assert "resnext50_32x4d.tv2_in1k, resnext101_32x8d.tv2_in1k" in str(error.value)
    assert "Add the architecture" in str(error.value)
    assert f"Received: weights={name!r}" in str(error.value)


@pytest.mark.parametrize(
    ("weights", "architecture"),
    [
        ("resnext50_32x4d.tv2_in1k", "resnext101_32x4d"),
        ("tv2_in1k", "resnext101_32x4d"),
        ("IMAGENET1K_V2", "resnext101_32x4d"),
        ("digits", "resnext50_32x4d"),
        ("resnext50_32x4d.imagenet", "resnext101_32x4d"),
    ],
)
def test_a_set_of_another_architecture_is_refused(weights, architecture):
    with pytest.raises(
        WeightsError, match=f"Expected weights of '{architecture}'"
    ) as e:
        resolve(weights, architecture)
    for name in list_weights(architecture):
        assert name in str(e.value)


@pytest.mark.parametrize(
    ("weights", "architecture", "near"),
    [
        ("resnext50_32x4d.tv2_in1", None, "resnext50_32x4d.tv2_in1k"),
        ("resnext50_32x4d-tv2_in1k", "resnext50_32x4d", "resnext50_32x4d.tv2_in1k"),
        ("tv3_in1k", "resnext50_32x4d", "tv2_in1k"),
        ("imagenet1k_v2", "resnext50_32x4d", None),
        ("IMAGENET1K_V3", "resnext50_32x4d", "IMAGENET1K_V2"),
        ("imagnet", "resnext50_32x4d", "imagenet"),
        ("ImageNet", "resnext50_32x4d", "imagenet"),
    ],
)
def test_near_names_are_suggested(weights, architecture, near):
    with pytest.raises(WeightsError, match=f"weights='{weights}'") as error:
        resolve(weights, architecture)
    if near:
        hint = str(error.value).partition("Did you mean ")[2].partition("?")[0]
        assert near in hint.split(" or ")
    if architecture:
        assert "resnext50_32x4d.a1h_in1k" in str(error.value)


@pytest.mark.parametrize("name", ["folder/tv2_in1k", "tv2_in1k.pth", "own.weights.h5"])
def test_of_a_path_only_files_are_said_to_be_near(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owns.weights.h5").touch()
    with pytest.raises(WeightsError) as error:
        resolve(name, "resnext50_32x4d")
    hint = " Did you mean owns.weights.h5?" if name == "own.weights.h5" else ""
    assert str(error.value) == (
        f"Expected a weight file, found no such file.{hint} Received: weights={name!r}"
    )


def test_a_file_is_taken_where_no_set_alone_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tv2_in1k", "a1_in1k", "mm_in1k", "resnext50_32x4d.tv2_in1k"):
        Path(name).touch()
    assert resolve("mm_in1k").name == "resnext152_32x4d.mm_in1k"
    assert resolve("resnext50_32x4d.tv2_in1k").weight_set.tag == "tv2_in1k"
    for name, architecture in (
        ("tv2_in1k", None),  # several sets have it
        ("a1_in1k", "resnext101_32x4d"),
        (Path("mm_in1k"), None),  # a path is not a name
    ):
        with pytest.raises(WeightsError, match=f"weight file .*Received: {name}"):
            resolve(name, architecture)


def test_the_default_of_an_architecture_has_a_full_name():
    default = resolve("imagenet", "resnext50_32x4d").weight_set
    assert resolve("resnext50_32x4d.imagenet").weight_set is default
    assert resolve("resnext50_32x4d.imagenet", "resnext50_32x4d").weight_set is default
    assert weights_preprocessing("resnext50_32x4d.imagenet").resize == 232
    with pytest.raises(WeightsError, match=r"Received: weights='resnext50_32x4d.imag"):
        resolve("resnext50_32x4d.imagenet", "resnext101_32x4d")
    with pytest.raises(WeightsError, match=r"No ImageNet weights of 'resnet50'") as e:
        resolve("resnet50.imagenet")
    assert "Did you mean resnext50_32x4d" in str(e.value)
    assert "Received: weights='resnet50.imagenet'" in str(e.value)
