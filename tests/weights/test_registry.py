"""Each published weight set is in the registry, and is found by its names."""

import re
from pathlib import Path

import pytest
from weight_files import TINY

import resnext_keras as rk
from resnext_keras import (
    Preprocessing,
    WeightsError,
    class_names,
    list_models,
    list_weights,
    weights_info,
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
    "legacy_seresnext26_32x4d": "in1k",
    "legacy_seresnext50_32x4d": "in1k",
    "legacy_seresnext101_32x4d": "in1k",
}

PUBLISHED = [s for s in WEIGHT_SETS.values() if s.url]


def test_there_are_49_published_sets_of_21_architectures_and_the_bundled_one():
    assert len(PUBLISHED) == 49
    assert {s.architecture for s in PUBLISHED} == set(DEFAULTS)
    assert list_weights() == list(WEIGHT_SETS)
    assert set(WEIGHT_SETS) - {s.name for s in PUBLISHED} == {"resnext11_8x4d.digits"}
    assert len({s.file for s in WEIGHT_SETS.values()}) == 50
    assert len({s.url for s in PUBLISHED}) == 49
    assert {s.architecture for s in WEIGHT_SETS.values()} <= set(list_models())


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda s: s.name)
def test_a_row_is_complete_and_consistent(published):
    assert published.name == f"{published.architecture}.{published.tag}"
    # Those of Facebook and of the paper's authors, and no others.
    restricted = published.tag.startswith(("fb_", "keras_"))
    assert published.non_commercial == restricted
    assert (published.licence == "CC-BY-NC-4.0") == restricted
    assert restricted or published.licence in ("BSD-3-Clause", "Apache-2.0")
    assert published.url.startswith("https://")
    assert published.source

    last = published.url.rpartition("/")[2]
    if published.format == "torch":
        # The first digits of a torch file's SHA-256, in most sets eight, end its name.
        digits = re.search(r"-([0-9a-f]{8,9})\.pth$", last)[1]
        assert (published.file, published.hash) == (last, f"sha256:{digits}")
    elif published.format == "safetensors":
        assert last == "model.safetensors"
        assert published.file == f"{published.name}.safetensors"
        assert published.hash is None
    else:
        assert published.format == "keras-applications"
        assert published.file == last
        assert re.fullmatch("md5:[0-9a-f]{32}", published.hash)

    classes = 11821 if published.tag.endswith("in12k") else 1000
    assert published.classes == (None if published.tag.endswith("notop") else classes)
    if published.classes == 1000:
        assert len(class_names(published.labels)) == 1000
        assert published.best.top1
    else:
        assert published.labels is None

    sizes = [
        (e.preprocessing.size, -e.preprocessing.resize) for e in published.evaluations
    ]
    assert sizes == sorted(set(sizes))
    assert published.best is published.evaluations[-1]
    assert published.preprocessing is published.best.preprocessing
    for evaluation in published.evaluations:
        if evaluation.top1 is None:
            assert (evaluation.top5, evaluation.source) == (None, None)
        else:
            assert evaluation.source in ("timm", "publisher")
            assert 0.77 < evaluation.top1 < (evaluation.top5 or 0.99) < 1


def test_accuracies_are_those_published_for_their_sizes():
    evaluations = WEIGHT_SETS["resnext50_32x4d.tv2_in1k"].evaluations
    assert [(e.preprocessing.size, e.top1, e.top5, e.source) for e in evaluations] == [
        (176, 0.79384, 0.94302, "timm"),
        (224, 0.8119, 0.95344, "timm"),
    ]
    (claimed,) = WEIGHT_SETS["resnext152_32x4d.mm_in1k"].evaluations
    assert (claimed.top1, claimed.top5, claimed.source) == (0.7888, None, "publisher")
    for evaluation in WEIGHT_SETS["seresnextaa101d_32x8d.sw_in12k"].evaluations:
        assert evaluation.top1 is None


def test_only_the_known_bad_upload_has_a_note():
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
        ("resnext50_32x4d.imagenet", None, (224, 232, "bilinear")),
        ("resnext101_64x4d.tv_in1k", 224, (224, 232, "bilinear")),
        ("resnext50_32x4d.a1_in1k", 224, (224, 235, "bicubic")),
        ("resnext50_32x4d.a1_in1k", None, (288, 288, "bicubic")),
        ("resnext50_32x4d.a3_in1k", 160, (160, 168, "bicubic")),
        ("racm_in1k", None, (288, 303, "bicubic")),
        ("sw_in12k_ft_in1k_384", 384, (384, 384, "bicubic")),
        ("digits", None, (32, (8, 32))),
    ],
)
def test_preprocessing_is_that_of_the_set_at_its_size(name, size, expected):
    assert weights_preprocessing(name, size) == Preprocessing(*expected)


def test_a_size_without_evaluation_lists_the_evaluated_sizes():
    with pytest.raises(WeightsError, match=r"224 or 288\. For .* Received: size=256"):
        weights_preprocessing("resnext50_32x4d.a1_in1k", 256)


def test_sets_are_listed_by_architecture():
    assert list_weights("seresnext50_32x4d") == [
        "seresnext50_32x4d.gluon_in1k",
        "seresnext50_32x4d.racm_in1k",
    ]
    assert list_weights("resnext29_8x64d") == []
    with pytest.raises(ValueError, match="Did you mean resnext50_32x4d"):
        list_weights("resnet50")


def test_sets_are_listed_by_licence_and_place():
    permissive = list_weights("resnext101_32x8d", permissive=True)
    assert permissive == ["resnext101_32x8d.tv2_in1k", "resnext101_32x8d.tv_in1k"]
    assert list_weights(local=True) == ["resnext11_8x4d.digits"]


def test_what_is_known_about_a_set_is_found_by_each_of_its_names(tmp_path):
    for name in (
        "resnext50_32x4d.tv2_in1k",
        "ResNeXt50.TV2_IN1K",
        "resnext50_32x4d",
    ):
        info = weights_info(name)
        assert (info.name, info.licence) == (
            "resnext50_32x4d.tv2_in1k",
            "BSD-3-Clause",
        )
    assert (info.parameters, info.is_default, info.path) == (25_097_128, True, None)
    digits = weights_info("digits")
    assert (digits.parameters, digits.is_default) == (980_298, False)
    assert digits.path.is_file()
    assert not weights_info("resnext50_32x4d.a1_in1k").is_default
    with pytest.raises(WeightsError, match="Did you mean"):
        weights_info("resnext50_32x4d.a9")
    own = rk.ResNeXt("resnext11_8x4d", weights=None, classes=3)
    own.save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(WeightsError, match=r"name of a weight set.*own\.weights"):
        weights_info(str(tmp_path / "own.weights.h5"))


@pytest.mark.parametrize(("architecture", "tag"), DEFAULTS.items())
def test_imagenet_is_the_best_set_that_permits_commercial_use(architecture, tag):
    if tag is None:
        with pytest.raises(WeightsError, match="No set is the default") as error:
            resolve("imagenet", architecture)
        assert "CC-BY-NC-4.0" in str(error.value)
        for weight_set in PUBLISHED:
            named = weight_set.name in str(error.value)
            assert named == (weight_set.architecture == architecture)
    else:
        weight_set = resolve("imagenet", architecture).weight_set
        assert weight_set.name == f"{architecture}.{tag}"
        assert not weight_set.non_commercial


def test_each_set_is_found_by_full_name_tag_and_alias():
    for name, weight_set in WEIGHT_SETS.items():
        architecture = weight_set.architecture
        assert resolve(name).weight_set is weight_set
        for known in (name, weight_set.tag, *weight_set.aliases):
            assert resolve(known, architecture).weight_set is weight_set
    assert {s.name: s.aliases for s in PUBLISHED if s.aliases} == {
        "resnext50_32x4d.tv_in1k": ("IMAGENET1K_V1",),
        "resnext50_32x4d.tv2_in1k": ("IMAGENET1K_V2",),
        "resnext101_32x8d.tv_in1k": ("IMAGENET1K_V1",),
        "resnext101_32x8d.tv2_in1k": ("IMAGENET1K_V2",),
        "resnext101_64x4d.tv_in1k": ("IMAGENET1K_V1",),
    }


OTHERS = r"a weight set of 'resnext101_32x4d' .*resnext101_32x4d\.gluon_in1k.* name of"
SEVERAL = r"add .*: 'resnext50_32x4d\.tv2_in1k', 'resnext101_32x8d\.tv2_in1k'\. "


@pytest.mark.parametrize(
    ("weights", "architecture", "message"),
    [
        ("imagenet", TINY, r"None for random weights \('tiny' has no"),
        ("imagenet", "resnext29_8x64d", "None .*'resnext29_8x64d' has no"),
        ("imagenet", "resnext11_8x4d", r"a weight set .*\(resnext11_8x4d\.digits\)"),
        ("imagenet", None, r"add the architecture: 'resnext50_32x4d\.tv"),
        ("resnet50.imagenet", None, "Did you mean resnext50_32x4"),
        ("tv2_in1k", None, SEVERAL),
        ("IMAGENET1K_V2", None, SEVERAL),
        ("resnext50_32x4d.tv2_in1k", "resnext101_32x4d", OTHERS),
        ("tv2_in1k", "resnext101_32x4d", OTHERS),
        ("IMAGENET1K_V2", "resnext101_32x4d", OTHERS),
        ("resnext50_32x4d.imagenet", "resnext101_32x4d", OTHERS),
        (
            "digits",
            "resnext50_32x4d",
            r"set of 'resnext50_32x4d'.*name of resnext11_8x4d\.digits",
        ),
        ("digit", None, r"Did you mean digits\?"),
        ("digits ", None, r"Did you mean digits\?"),
        ("resnext50_32x4d.tv2_in1", None, r"mean [^?]*resnext50_32x4d\.tv2_in1k.*\?"),
        ("resnext50_32x4d-tv2_in1k", "resnext50_32x4d", r"mean [^?]*\.tv2_in1k.*\?"),
        ("tv3_in1k", "resnext50_32x4d", r"\.a1h_in1k.*mean [^?]*tv2_in1k.*\?"),
        ("IMAGENET1K_V3", "resnext50_32x4d", r"mean [^?]*IMAGENET1K_V2.*\?"),
        ("imagnet", "resnext50_32x4d", r"mean [^?]*imagenet.*\?"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_ones(weights, architecture, message):
    with pytest.raises(WeightsError, match=message) as error:
        resolve(weights, architecture)
    assert f"Received: weights={weights!r}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("folder/own.pth", ""),
        ("tv2_in1k.pth", ""),
        ("own.weights.h5", " Did you mean owns.weights.h5?"),
        ("folder/tv2_in1k", " A repository of the hub is hf://folder/tv2_in1k."),
    ],
)
def test_for_a_path_no_names_are_suggested(name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owns.weights.h5").touch()
    with pytest.raises(WeightsError) as error:
        resolve(name, "resnext50_32x4d")
    assert str(error.value) == (
        f"Expected a weight file, found no such file.{hint} Received: weights={name!r}"
    )


@pytest.mark.parametrize(
    ("weights", "model", "name"),
    [
        ("Digits", None, "resnext11_8x4d.digits"),
        ("imagenet1k_v2", "ResNeXt50", "resnext50_32x4d.tv2_in1k"),
        ("IMAGENET", "ResNeXt101_32x8d", "resnext101_32x8d.tv2_in1k"),
        ("A1_IN1K", "resnext50", "resnext50_32x4d.a1_in1k"),
        ("ResNeXt50.A1_IN1K", None, "resnext50_32x4d.a1_in1k"),
        ("SEResNeXt50_32x4d.ImageNet", None, "seresnext50_32x4d.racm_in1k"),
        ("ResNeXt101", None, "resnext101_32x4d.gluon_in1k"),
        (None, "SEResNeXt50_32x4d", "seresnext50_32x4d.racm_in1k"),
        (None, "LegacySEResNeXt50_32x4d", "legacy_seresnext50_32x4d.in1k"),
    ],
)
def test_names_as_people_write_them(weights, model, name, tmp_path, monkeypatch):
    assert resolve(weights, model).name == name
    monkeypatch.chdir(tmp_path)
    if weights:
        Path(weights).touch()
        with pytest.raises(WeightsError, match="file"):  # the empty file goes first
            resolve(weights, model)


def test_each_function_names_its_architecture():
    for name in (name for name in rk.__all__ if re.match(r"(SE)?ResNeXt.*\d", name)):
        architecture = getattr(rk, name).__doc__.split("`")[1]
        for written in (name, name.lower(), name.upper()):
            assert get_spec(written).name == architecture
    assert get_spec("RESNEXT29_8X64D").name == "resnext29_8x64d"
    assert list_weights("ResNeXt50") == list_weights("resnext50_32x4d")


def test_a_file_is_taken_where_not_exactly_one_set_has_the_name(tmp_path, monkeypatch):
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
