"""Sphinx reads this. The repository is the source folder, so that relative links mean here what they mean on GitHub.

``make docs`` calls ``sphinx-build -c docs . build/docs``; docs/architecture.md says where a page goes.
"""

import sys
import warnings
from pathlib import Path

import matplotlib as mpl

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions")]

import biaslab  # noqa: E402
from tools.public_names import shared_names  # noqa: E402

mpl.use("Agg")
warnings.filterwarnings("ignore", message="The profile rests on")  # the gallery fits on few images, and says so

project = "biaslab"
copyright = "The biaslab authors, Apache-2.0"
release = version = biaslab.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "true_names",  # _extensions: a name that is public in two places has one page
]

# -- which files are pages -------------------------------------------------------------------------------------------
root_doc = "docs/index"
include_patterns = [
    "docs/**", "notebooks/*.ipynb", "benchmarks/results/*.md", "tests/README.md", "data/README.md",
    "data/grounder/*.md", "data/observer/*.md", "data/sample/README.md", "biaslab/grounder/checkpoint/README.md",
    "biaslab/grounder/observer/checkpoint/README.md", "CHANGELOG.md", "CONTRIBUTING.md",
]  # fmt: skip
exclude_patterns = [
    ".*", "build", "dist", "runs", "maps", "**.ipynb_checkpoints", "**/__pycache__", "docs/_*",
    "docs/gallery/README.rst", "docs/made/gallery/*.ipynb", "docs/made/gallery/*.py",
]  # fmt: skip
templates_path = [str(ROOT / "docs" / "_templates")]  # whole: autosummary counts from the source folder, HTML from here
html_static_path = ["_static"]

# -- Markdown and notebooks: what is committed is shown, nothing is executed -----------------------------------------
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

# -- docstrings ------------------------------------------------------------------------------------------------------
default_role = "autolink"  # `name` is a link where it is a name
nitpicky = True
others = "abc|collections|typing|enum|torch|numpy|pandas|sklearn|matplotlib|transformers"
nitpick_ignore_regex = [("py:.*", rf"({others})\b.*")]
# what scikit-learn adds to every estimator
autodoc_default_options = {"exclude-members": "set_fit_request, set_predict_request, set_score_request"}
autodoc_typehints = "none"  # numpydoc says the types
autodoc_class_signature = "mixed"
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autosummary_context = {"top": shared_names()}
numpydoc_show_class_members = False
numpydoc_use_plots = False

# -- the gallery -----------------------------------------------------------------------------------------------------
sphinx_gallery_conf = {
    "examples_dirs": "docs/gallery",
    "gallery_dirs": "docs/made/gallery",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "write_computation_times": False,
    "capture_repr": ("_repr_html_",),
    "show_memory": False,
    "min_reported_time": 0,
    "remove_config_comments": True,
}

# -- how it looks ----------------------------------------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = "biaslab"
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_start.html"}  # the start page lies in docs/, as its source does
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "biaslab"},
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
