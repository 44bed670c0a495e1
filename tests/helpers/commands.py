"""The command line, called in this process."""

from biaslab.cli import main


def run(capsys, *arguments):
    """Exit status, stdout and stderr of one command."""
    capsys.readouterr()
    status = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        status = end.code or 0
    captured = capsys.readouterr()
    return status, captured.out, captured.err
