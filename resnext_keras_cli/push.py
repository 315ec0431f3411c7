"""`resnext-keras push`: uploads weights to the Hugging Face hub."""

import click

from resnext_keras_cli.options import architecture_option, examples
from resnext_keras_cli.start import quiet_start


@click.command(
    epilog=examples(
        "push flowers-run/ OWNER/flowers",
        "push flowers-run/ OWNER/flowers --private",
    )
)
@click.argument("weights", metavar="RUN|FOLDER|FILE|NAME")
@click.argument("repo", metavar="OWNER/NAME")
@architecture_option
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push(weights, repo, **options):
    """Upload weights to a repository of the Hugging Face hub.

    It gets the tensors, their description and a model card, as from weights convert
    --to timm. Then timm, transformers and this package (hf://OWNER/NAME) load it.
    The token is that of `hf auth login` or HF_TOKEN.

    It needs the extra `hub`.
    """
    with quiet_start():
        from resnext_keras import push_to_hub

    def announce(files):
        kind = " (private, if it is new)" if options["private"] else ""
        click.echo(f"Uploading to {repo}{kind}:")
        for file in files:
            click.echo(f"  {file.name:20}{file.stat().st_size / 1e6:10.2f} MB")

    click.echo(push_to_hub(weights, repo, on_start=announce, **options))
