"""Sphinx builds the site from this folder: `sphinx-build -W docs docs/_build/html`."""

import os
import re
import sys
import textwrap
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


def shorten_types(app, doctree):
    """Shows the last part of the name of a type, as annotations are shown."""
    for reference in doctree.findall(addnodes.pending_xref):
        for text in list(reference.findall(nodes.Text)):
            if text.startswith(("keras.src.", "resnext_keras.")):
                text.parent.replace(text, nodes.Text(text.rpartition(".")[2]))


def fences_as_blocks(app, what, name, obj, options, lines):
    """Gives the fenced code of a docstring in reStructuredText."""
    text = re.sub(
        r"```python\n(.*?)```",
        lambda fence: ".. code-block:: python\n\n" + textwrap.indent(fence[1], "    "),
        "\n".join(lines),
        flags=re.DOTALL,
    )
    lines[:] = text.split("\n")


def short_builders(app, what, name, obj, options, lines):
    """Says of each builder but the first what is its own: all have one docstring."""
    public = name.rpartition(".")[2]
    if re.match(r"(SE)?ResNeXt(AA)?\d", public) and public != "ResNeXt50":
        del lines[lines.index("Args:") :]


def options_as_code(app, ctx, lines):
    """Marks options in texts of the command line as code: `--` is no dash."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith(".. "):
            lines[number] = re.sub(
                r"(`+[^`]*`+)|(?<![\w-])(--[a-z][a-z-]*)",
                lambda found: found[1] or f"``{found[2]}``",
                line,
            )


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
    app.connect("autodoc-process-docstring", fences_as_blocks)
    # Before napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", short_builders, priority=400)
    app.connect("sphinx-click-process-description", options_as_code)
    app.connect("sphinx-click-process-options", options_as_code)
    app.connect("doctree-read", link_public_names)
    app.connect("doctree-read", shorten_types)
    app.connect("build-finished", warn_of_dead_links)
