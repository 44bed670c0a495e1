"""The command line: ``biaslab VERB``. A verb parses, calls and prints; what it does lives in the library."""

from biaslab.cli.app import main

__all__ = ["main"]
