"""`resnext-keras search`: the images of a collection most similar to an image."""

import json
from pathlib import Path

import click

from resnext_keras_cli.options import examples, max_pixels_option, sheet_options
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table


@click.command(
    epilog=examples(
        "search cat.jpg --index features.parquet",
        "search cat.jpg --index a.parquet --index b.parquet --top 5 --html",
    )
)
@click.argument("image", type=click.Path())
@click.option(
    "--index",
    "indexes",
    metavar="FILE.parquet",
    type=click.Path(),
    multiple=True,
    required=True,
    help="File from `resnext-keras extract`; may be given several times.",
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
    help="Print JSON, not a table, and draw only with -o or --html.",
)
@sheet_options
@max_pixels_option
def search(image, indexes, top, as_json, output, html, overwrite):
    """Find the images of a collection that are most similar to IMAGE.

    First run `resnext-keras extract FOLDER -o features.parquet` once for the
    collection. The features of IMAGE are computed with the same network. Similarity is
    the cosine of the angle between features, 1 for the same image.

    Prints a table, and draws IMAGE and the matches on a contact sheet. Needs the
    extra `features`.
    """
    with quiet_start():
        import resnext_keras as rk

    if html or not as_json:
        output = output or f"{Path(image).stem}.found.png"
    result = rk.search(
        image, indexes, top, output=output, html=html, overwrite=overwrite
    )
    if as_json:
        matches = [
            {"rank": rank, "similarity": match.similarity, "path": match.path}
            for rank, match in enumerate(result.matches, 1)
        ]
        click.echo(json.dumps(matches, indent=2))
    else:
        click.echo(f"{result.rows:,} images compared by {result.weights}")
        rows = table("rank", "similarity", "image", right=("rank", "similarity"))
        for rank, match in enumerate(result.matches, 1):
            rows.add_row(str(rank), f"{match.similarity:.4f}", match.path)
        print_table(rows)
    for file in result.files:
        click.echo(click.format_filename(file), err=as_json)
