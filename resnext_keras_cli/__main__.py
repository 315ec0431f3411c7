"""`python -m resnext_keras_cli`: the command, where no script was installed."""

from resnext_keras_cli.main import main

main()
