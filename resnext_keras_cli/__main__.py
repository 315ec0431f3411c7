"""`python -m resnext_keras_cli`: the command without an installed script."""

from resnext_keras_cli.main import main

main()
