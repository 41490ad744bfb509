"""Sphinx configuration."""

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from metavoxel.version import __version__

project = "MetaVoxel"
author = "The MetaVoxel developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "MetaVoxel"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
suppress_warnings = ["misc.highlighting_failure"]


def setup(app):
    app.connect("autodoc-process-docstring", _add_fields)
    app.connect("autodoc-process-signature", _without_fields)


def _is_settings(thing):
    return isinstance(thing, type) and issubclass(thing, BaseModel)


def _add_fields(app, what, name, thing, options, lines):
    """The fields of a configuration, with their defaults and descriptions: their only source."""
    for key, field in thing.model_fields.items() if _is_settings(thing) else ():
        if field.default_factory is not None:
            default = "its defaults"
        else:
            default = "required" if field.default is PydanticUndefined else f"``{field.default!r}``"
        lines += ["", f"**{field.alias or key}** ({default})", f"    {field.description or ''}"]


def _without_fields(app, what, name, thing, options, signature, returns):
    return ("", None) if _is_settings(thing) else None
