"""Adds our command to those of the installed OpenRLHF."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
