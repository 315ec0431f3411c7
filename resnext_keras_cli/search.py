"""`resnext-keras search`: images like an image."""

import json
from pathlib import Path

import click

from resnext_keras_cli.options import sheet_options
from resnext_keras_cli.start import quiet_start


@click.command()
@click.argument("image", type=click.Path())
@click.option(
    "--index",
    "indexes",
    metavar="FILE.parquet",
    type=click.Path(),
    multiple=True,
    required=True,
    help="Features that `resnext-keras extract` has written; may be given several "
    "times.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of images to find.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON, not a table, and draw only with -o.",
)
@sheet_options
def search(image, indexes, top, as_json, output, html, overwrite):
    """Find the images of a collection that are most like a IMAGE.

    First `resnext-keras extract FOLDER -o features.parquet`, once for a collection:
    the network that it took sees the IMAGE too. Similarity is the cosine of the
    angle between features, 1 for the same image.

    Prints a table, and draws IMAGE and those found on a contact sheet. Needs the
    extra `features`.
    """
    from tqdm import tqdm

    with quiet_start():
        from resnext_keras.features.similarity import search as search_image
        from resnext_keras_cli.sheets import checked_sheet, write_sheet

    # Who asks for JSON alone is a program.
    drawn = not as_json or output or html
    output = output or f"{Path(image).stem}.found.png"
    target = checked_sheet(output, html, overwrite) if drawn else None
    with tqdm(unit=" images", delay=1, disable=None, leave=False) as bar:
        found = search_image(image, indexes, top, bar.update)
    files = write_sheet(found, target, html) if drawn else []
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2))
    else:
        _print(found)
    for file in files:
        click.echo(click.format_filename(file), err=as_json)


def _as_json(found):
    return [
        {"rank": rank, "similarity": match.similarity, "path": match.path}
        for rank, match in enumerate(found.matches, 1)
    ]


def _print(found):
    from resnext_keras_cli.tables import print_table, table

    click.echo(f"{found.rows:,} images, seen by {found.weights}")
    rows = table("rank", "similarity", "image", right=("rank", "similarity"))
    for rank, match in enumerate(found.matches, 1):
        rows.add_row(str(rank), f"{match.similarity:.4f}", match.path)
    print_table(rows)
