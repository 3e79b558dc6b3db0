"""A small shop that prints receipts."""

__version__ = "1.0"
