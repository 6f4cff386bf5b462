"""The version, alone in a module that imports nothing, so that setup can read it."""

__version__ = "0.2.0"
