"""Wheels: targets, locks, validated wheels, the platform-tagged wheelhouse."""
