"""Settings of Sphinx: `make docs` builds these pages into site/."""

project = "LLM-EDT"
copyright = "The authors of LLM-EDT"
extensions = ["myst_parser"]
exclude_patterns = ["reference.py"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
html_theme = "furo"
html_title = "LLM-EDT"
html_static_path = ["static"]
html_css_files = ["style.css"]
smartquotes = False  # settings stand in the text as they are typed
html_show_sphinx = False
html_copy_source = False
html_show_search_summary = False  # a page opened from disk may not read others
