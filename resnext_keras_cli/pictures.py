"""Pictures that the user names, for what a network has to see."""

import click

MOST = 128  # pictures; more calibrate no better, and take a third of a second each


def picture_files(paths):
    """The files that paths name, and the pictures in folders, as `extract` finds them.

    Args:
        paths: Files, whatever their names, and folders, with the folders in them.

    Returns:
        The files; of more than `MOST` an even choice.

    Raises:
        click.ClickException: There are none.
    """
    from resnext_keras.features.listing import list_pictures

    files = []
    for path, reason in list_pictures(paths):
        if reason is None:
            files.append(path)
        else:
            click.echo(f"Skipped: {click.format_filename(path)}: {reason}", err=True)
    if not files:
        named = ", ".join(map(click.format_filename, paths))
        raise click.ClickException(f"No pictures in {named}.")
    chosen = min(len(files), MOST)
    return [files[number * len(files) // chosen] for number in range(chosen)]


def read_pictures(files, preprocessing):
    """Reads pictures, and tells which of them cannot be read.

    Args:
        files: Their paths.
        preprocessing: How the network that is to see them wants them.

    Returns:
        A batch as the network takes it.

    Raises:
        click.ClickException: None of them can be read.
    """
    import numpy as np
    from tqdm import tqdm

    from resnext_keras.layout import in_layout
    from resnext_keras.preprocessing import ImageError, preprocess_input, read_image

    images, broken = [], []
    for path in tqdm(
        files, desc="reading", unit=" pictures", disable=None, leave=False
    ):
        try:
            images.append(read_image(path, preprocessing))
        except ImageError as error:
            broken.append(error)
    for error in broken:
        click.echo(f"Skipped: {error}", err=True)
    if not images:
        raise click.ClickException("None of the pictures can be read.")
    return preprocess_input(in_layout(np.stack(images)))
