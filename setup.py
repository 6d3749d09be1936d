"""Kept so that `python setup.py` and older tools work; everything is declared in pyproject.toml."""

from setuptools import setup

setup()
