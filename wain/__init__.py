"""The command line of wainwright."""

__version__ = "0.1.0"
