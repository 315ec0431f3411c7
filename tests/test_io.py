"""Files to be written: each mistake has a message of its own."""

import os
from pathlib import Path

import pytest

from resnext_keras.io import output_directory, output_file


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    """A folder that may not be written, and files and folders that exist."""
    for folder in ("folder.png", "locked"):
        (tmp_path / folder).mkdir()
    for file in ("old.png", "new.xml"):
        (tmp_path / file).touch()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "locked")


@pytest.mark.parametrize(
    ("name", "message"),
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
def test_each_mistake_in_a_path_has_its_own_message(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        output_file(
            tmp_path / name, (".png", ".xml"), overwrite=False, beside=(".xml",)
        )


def test_folders_have_the_same_messages(tmp_path):
    for name, message in (
        ("no/a", "does not exist"),
        ("locked/a", "is not permitted"),
    ):
        with pytest.raises(ValueError, match=message):
            output_directory(tmp_path / name, False, Path("report.html"))
