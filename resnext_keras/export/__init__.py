"""Exports models to files that run without this package."""
