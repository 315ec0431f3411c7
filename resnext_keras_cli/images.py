"""Images that the user names, for what a network has to see."""

import click

MOST = 128  # images; more calibrate no better, and take a third of a second each


def image_files(paths):
    """The files that paths name, and the images in folders, as `extract` finds them.

    Args:
        paths: Files, whatever their names, and folders, with the folders in them.

    Returns:
        The files; of more than `MOST` an even choice.

    Raises:
        click.ClickException: There are none.
    """
    from resnext_keras.images.listing import list_images

    files = []
    for path, reason in list_images(paths):
        if reason is None:
            files.append(path)
        else:
            click.echo(f"Skipped: {click.format_filename(path)}: {reason}", err=True)
    if not files:
        named = ", ".join(map(click.format_filename, paths))
        raise click.ClickException(f"No images in {named}.")
    chosen = min(len(files), MOST)
    return [files[number * len(files) // chosen] for number in range(chosen)]


def read_images(files, preprocessing):
    """Reads images, and tells which of them cannot be read.

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

    from resnext_keras.images.preprocessing import preprocess_input
    from resnext_keras.images.read import ImageError, read_image
    from resnext_keras.models.data_format import to_data_format

    images, broken = [], []
    for path in tqdm(files, desc="reading", unit=" images", disable=None, leave=False):
        try:
            images.append(read_image(path, preprocessing))
        except ImageError as error:
            broken.append(error)
    for error in broken:
        click.echo(f"Skipped: {error}", err=True)
    if not images:
        raise click.ClickException("None of the images can be read.")
    return preprocess_input(to_data_format(np.stack(images)))
