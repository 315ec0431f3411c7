"""Pictures that the user names, for what a network has to see."""

import click


def read_pictures(classifier, files):
    """Reads pictures, and tells which of them cannot be read.

    Args:
        classifier: The `Classifier` that is to see them.
        files: Their paths.

    Returns:
        A batch as the network takes it.

    Raises:
        click.ClickException: None of them can be read.
    """
    import numpy as np
    from tqdm import tqdm

    from resnext_keras.layout import in_layout
    from resnext_keras.preprocessing import ImageError, preprocess_input

    bar = tqdm(files, desc="reading", unit=" pictures", disable=None, leave=False)
    read = [classifier.read(path) for path in bar]
    for error in read:
        if isinstance(error, ImageError):
            click.echo(f"Skipped: {error}", err=True)
    images = [image for image in read if not isinstance(image, ImageError)]
    if not images:
        raise click.ClickException("None of the pictures can be read.")
    return preprocess_input(in_layout(np.stack(images)))
