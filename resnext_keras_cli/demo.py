"""`resnext-keras demo`: the bundled network on images from outside its training."""

import click

from resnext_keras_cli.start import quiet_start

ROWS = 10

SHEET = "resnext-keras-demo.png"

NEXT = """\
What to try next:
  resnext-keras predict IMAGE...           photos, by ResNeXt-50 (downloads 100 MB)
  resnext-keras predict IMAGE... --weights digits
                                           a digit of your own that fills the image
  resnext-keras summary resnext50_32x4d    parameters and multiply-adds of ResNeXt-50
  resnext-keras list                       the architectures and weight sets
"""


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help=f"The .png file for the contact sheet. Default: {SHEET} in the current "
    "folder, which is replaced.",
)
@click.option("--overwrite", is_flag=True, help="Replace an --output that exists.")
def demo(output, overwrite):
    """Classify handwritten digits that were not used in training.

    Prints predictions and the accuracy, and draws all images with their predictions
    on a contact sheet. Needs no download.
    """
    from tqdm import tqdm

    with quiet_start():
        from resnext_keras.digits import classify_held_out_digits, held_out_digits
        from resnext_keras.images.draw import contact_sheet
        from resnext_keras.io import atomic_write, output_file
    from resnext_keras_cli.tables import print_table, table

    target = output_file(output or SHEET, (".png",), overwrite or output is None)
    total = len(held_out_digits()[1])
    bar = tqdm(classify_held_out_digits(), total=total, unit=" images", disable=None)
    digits = list(bar)
    right = sum(digit.right for digit in digits)
    rows = table("image", "truth", "predicted", "score")
    # The mistakes first.
    shown = sorted(range(len(digits)), key=lambda n: digits[n].right)[:ROWS]
    for number in shown:
        digit = digits[number]
        rows.add_row(
            str(number),
            digit.truth,
            digit.predicted,
            f"{digit.score:.1%}",
            style=None if digit.right else "red",
        )
    sheet = contact_sheet(
        [digit.image for digit in digits],
        [d.predicted if d.right else f"{d.predicted}, is {d.truth}" for d in digits],
        [digit.right for digit in digits],
        columns=20,
    )
    with atomic_write(target) as path:
        sheet.save(path)
    print_table(rows)
    click.echo(
        f"\n{right} of {len(digits)} held-out images right: top-1 accuracy "
        f"{right / len(digits):.2%}\nAll of them, mistakes in red: "
        f"{click.format_filename(target)}\n"
    )
    click.echo(NEXT, nl=False)
