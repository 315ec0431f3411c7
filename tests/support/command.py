"""Runs the command `resnext-keras` in this process."""

from click.testing import CliRunner

from resnext_keras_cli.main import group


def run(*arguments, code=0):
    """Runs the command; gives what it printed, with stdout and stderr apart."""
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def error_of(*arguments, code=1):
    """The one line of the error in which the command ends; nothing else is printed."""
    result = run(*arguments, code=code)
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert result.stdout == ""
    return line


def row_of(text, first):
    """The words of the row of a table that begins with a word."""
    return next(
        row for line in text.splitlines() if (row := line.split())[:1] == [first]
    )
