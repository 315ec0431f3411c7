"""Files to be written: each mistake has a message of its own."""

import os
from pathlib import Path

import pytest

from resnext_keras.io import output_directory, output_file


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.txt", r"ends in \.png or \.xml\. Received: '.*a\.txt'$"),
        (".png", r"ends in \.png or \.xml\. Received"),
        ("a.PNG", r"ends in \.png or \.xml, in lower case\. Received: '.*a\.PNG'$"),
        (
            "no/a.png",
            r"existing folder\. Received: '.*a\.png'; the folder .*no' does not exist$",
        ),
        ("locked/a.png", r"writable folder\. .*locked' is not permitted$"),
        ("folder.png", "path of a file"),
        ("old.png", "overwrite=True"),
        ("new.png", r"overwrite=True\. Received: '.*new\.xml'$"),
    ],
)
def test_each_mistake_is_told_alone(tmp_path, monkeypatch, name, told):
    for folder in ("folder.png", "locked"):
        (tmp_path / folder).mkdir()
    for file in ("old.png", "new.xml"):
        (tmp_path / file).touch()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "locked")
    with pytest.raises(ValueError, match=told):
        output_file(
            tmp_path / name, (".png", ".xml"), overwrite=False, beside=(".xml",)
        )


@pytest.mark.parametrize(
    ("name", "told"),
    [("no/a", "does not exist"), ("locked/a", "is not permitted")],
)
def test_folders_have_the_same_messages(tmp_path, monkeypatch, name, told):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "locked")
    with pytest.raises(ValueError, match=told):
        output_directory(tmp_path / name, False, Path("report.html"))
