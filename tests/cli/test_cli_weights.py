"""`resnext-keras weights` lists, shows, fetches, verifies and converts."""

import json

import numpy as np
import pytest
from command import error_of, row_of, run
from file_server import CONTENT, FILE, published, running_server
from safetensors.numpy import load_file, save_file
from weight_files import assert_same, torch_state, without_counters

from resnext_keras import list_weights
from resnext_keras.models.specs import get_spec
from resnext_keras.weights.registry import WEIGHT_SETS

SPEC = get_spec("resnext11_8x4d")


@pytest.fixture
def weight_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(torch_state(SPEC, 10), path)
    return path


def test_list_prints_every_set_with_its_accuracy_and_licence():
    text = run("weights", "list").stdout
    assert row_of(text, "resnext50_32x4d.tv2_in1k") == [
        *("resnext50_32x4d.tv2_in1k", "*", "81.19%", "224", "1000", "BSD-3-Clause"),
    ]
    assert all(f"\n{name} " in text for name in WEIGHT_SETS)
    rows, _, notes = text.partition("\n\n")
    assert max(map(len, rows.splitlines())) <= 80
    assert notes.startswith("resnext101_32x16d.fb_swsl_ig1b_ft_in1k: ")
    assert "83.34 % measured" in text


def test_list_is_filtered():
    def names(*options):
        return [
            row["name"]
            for row in json.loads(run("weights", "list", *options, "--json").stdout)
        ]

    assert names() == list_weights()
    assert names("--model", "resnext152_32x4d") == ["resnext152_32x4d.mm_in1k"]
    assert names("--permissive", "--model", "resnext101_32x16d") == []
    assert "resnext101_32x8d.fb_wsl_ig1b_ft_in1k" not in names("--permissive")
    assert names("--local") == ["resnext11_8x4d.digits"]
    assert "resnext50" in error_of("weights", "list", "--model", "resnext5")
    none = run("weights", "list", "--permissive", "--model", "resnext101_32x16d")
    assert (none.stdout, none.stderr) == ("", "No weight set matches.\n")


def test_show_prints_what_is_known():
    text = run("weights", "show", "resnext50_32x4d.a1_in1k").stdout
    for part in ("25,097,128", "b5a91a1d", "Apache-2.0", "2110.00476", "235, bicubic"):
        assert part in text
    url = WEIGHT_SETS["resnext50_32x4d.a1_in1k"].url
    assert f"URL:                {url}\n" in text
    row = json.loads(run("weights", "show", "resnext50_32x4d.a1_in1k", "--json").stdout)
    assert row["evaluations"][1]["preprocessing"]["size"] == 288
    assert row["url"].endswith(WEIGHT_SETS[row["name"]].file)
    for command in ("show", "fetch"):
        assert "Did you mean" in error_of("weights", command, "resnext50_32x4d.a9")
    none = error_of("weights", "show", "resnext29_8x64d")
    assert "hf://OWNER/NAME ('resnext29_8x64d' has no weight set)" in none


def test_fetch_prints_where_the_files_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNEXT_KERAS_OFFLINE")
    monkeypatch.setenv("RESNEXT_KERAS_HOME", str(tmp_path))
    with running_server() as server:
        row = published(server.url(FILE))
        monkeypatch.setitem(WEIGHT_SETS, row.name, row)
        lines = run("weights", "fetch", row.name).stdout.splitlines()
    assert lines == [str(tmp_path / FILE)]
    assert (tmp_path / FILE).read_bytes() == CONTENT


def test_verify_names_each_wrong_file(weight_file, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(weight_file.read_bytes()[:-1])
    good = run("weights", "verify", "resnext11_8x4d.digits", weight_file).stdout
    assert "resnext11_8x4d.digits: 980,298 parameters" in good
    assert "2 of 2 passed" in good
    bad = run("weights", "verify", weight_file, broken, "nothing", code=1).stdout
    assert "1 of 3 passed" in bad
    assert f"FAILED  {broken}: Expected a safetensors file" in bad
    assert "FAILED  nothing: Expected a weight set (see" in bad


@pytest.mark.filterwarnings("ignore:The weights .* forbids commercial use")
def test_verify_all_goes_on_after_a_failure():
    text = run("weights", "verify", "--all", code=1).stdout  # without a network
    assert f"1 of {len(WEIGHT_SETS)} passed" in text
    assert text.count("FAILED") == len(WEIGHT_SETS) - 1
    assert "by hand" in text
    assert "or --all" in run("weights", "verify", code=2).stderr


def test_convert_writes_the_format_of_the_ending(weight_file, tmp_path):
    there, back = tmp_path / "there.weights.h5", tmp_path / "back.safetensors"
    assert "resnext11_8x4d" in run("weights", "convert", weight_file, there).stdout
    run("weights", "convert", there, back, "--model", "resnext11_8x4d")
    written, expected = (without_counters(load_file(f)) for f in (back, weight_file))
    assert_same(written, expected)
    line = error_of("weights", "convert", "digits", back)
    assert "or --overwrite" in line
    assert str(back) in line
    run("weights", "convert", "digits", back, "--overwrite")
    assert np.abs(load_file(back)["fc.bias"] - expected["fc.bias"]).max() > 0
