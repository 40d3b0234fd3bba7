"""How Sphinx makes the documentation of what `pages.py` has put together. ``make docs`` runs both."""

project = "blobstore"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
html_theme = "furo"
html_title = "blobstore"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

# Pages are read as GitHub reads them: the same anchors, no -- made into a dash.
myst_heading_anchors = 4
smartquotes = False
suppress_warnings = ["misc.highlighting_failure"]  # of commands with their output, which are no Python
highlight_language = "none"

# Docstrings name what they mention as `Store`, which becomes a link.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_mock_imports = ["distributed", "jax", "torch"]
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures stay short; docstrings say what each argument takes
python_use_unqualified_type_names = True
