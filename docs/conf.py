"""Sphinx builds the site from this folder: `sphinx-build -W docs docs/_build/html`."""

import os
import re
import sys
from pathlib import Path

# Quiet, and without a search for GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging

import resnext_keras

sys.path.insert(0, str(Path(__file__).parent))
import generated
import links

logger = logging.getLogger(__name__)

project = "resnext_keras"
author = "the authors of resnext_keras"
copyright = "the authors of resnext_keras"
release = version = resnext_keras.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_generated"]
nitpicky = True
# The documents of other packages are not looked up, so that the build needs no network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!resnext_keras).*"),
    # Fields and arguments of fields, which few users open.
    (
        "py:class",
        r"resnext_keras\.(training\.(run\.Run|data\.dataset\.ImageDataset)"
        r"|weights\.(registry\.WeightSet|tensors\.LazyTensor))",
    ),
]

# Single backticks in docstrings are code, as in Markdown.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
smartquotes_action = "qe"  # `--output` is no dash
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shapes", "params_style")]
# `Attributes:` of a dataclass describe its fields.
napoleon_use_ivar = True

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence"]
myst_heading_anchors = 3
# The notebooks keep their outputs; tests/docs/test_notebooks.py runs them.
nb_execution_mode = "off"
nb_merge_streams = True

html_theme = "furo"
html_title = "resnext_keras"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def link_public_names(app, doctree):
    """Makes `rk.NAME`, in the reference also `NAME`, a link to its entry."""
    docname = app.env.docname
    prefix = r"(?:rk\.)?" if docname.startswith("reference/") else r"rk\."
    if docname == "reference/command-line":
        return
    for literal in list(doctree.findall(nodes.literal)):
        match = re.fullmatch(rf"{prefix}(\w+)(?:\(\))?", literal.astext())
        inside = literal.parent
        if (
            match
            and match[1] in resnext_keras.__all__
            and not isinstance(
                inside, nodes.reference | nodes.title | addnodes.pending_xref
            )
        ):
            reference = addnodes.pending_xref(
                "",
                literal.deepcopy(),
                refdomain="py",
                reftype="obj",
                reftarget=f"resnext_keras.{match[1]}",
                refexplicit=True,
                refdoc=docname,
                refwarn=True,
            )
            literal.replace_self(reference)


def warn_of_dead_links(app, exception):
    """Dead links are warnings, and so errors of `sphinx-build -W`."""
    if exception is None and app.builder.name == "html":
        for message in links.dead_links(Path(app.outdir)):
            logger.warning("a link leads nowhere: %s", message)


def setup(app):
    source = Path(app.srcdir)
    generated.write(source / "_generated")
    # Sphinx reads only what lies in its folder.
    (source / "guides").mkdir(exist_ok=True)
    for notebook in (source.parent / "notebooks").glob("*.ipynb"):
        generated.update(source / "guides" / notebook.name, notebook.read_text())
    app.connect("doctree-read", link_public_names)
    app.connect("build-finished", warn_of_dead_links)
