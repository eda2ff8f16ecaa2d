"""The one place that names the version; `setup.cfg` reads it without importing torch."""

__version__ = "0.1.0"
