"Settings of Sphinx; the sources are made by `docs/build`."
import sys
from configparser import ConfigParser
from pathlib import Path

here = Path(__file__).parent
sys.path.insert(0, str(here))
settings = ConfigParser(delimiters=['='])
settings.read(here.parent/'settings.ini', encoding='utf-8')

project = 'landslide_nb'
author = settings['DEFAULT']['author']
copyright = author
release = version = settings['DEFAULT']['version']

extensions = ['myst_nb', 'sphinx_design', 'sphinx_copybutton', 'mathml', 'crosslinks']
exclude_patterns = ['**/.ipynb_checkpoints']
root_doc = 'index'
nb_execution_mode = 'off' # `docs/build` runs the notebooks and keeps their outputs
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ['dollarmath', 'amsmath', 'deflist', 'colon_fence', 'attrs_inline', 'substitution']
myst_heading_anchors = 3
myst_dmath_double_inline = True
myst_substitutions = {'version': release}
myst_linkify_fuzzy_links = False
suppress_warnings = ['myst.header'] # a notebook may begin a thought one level deeper
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = 'hide'
copybutton_exclude = '.linenos, .gp'

html_theme = 'pydata_sphinx_theme'
html_title = 'landslide_nb'
html_static_path = ['_static']
html_css_files = ['site.css']
html_favicon = '_static/logo.svg'
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = 'mathml'
html_theme_options = dict(
    logo=dict(text='landslide_nb', image_light='_static/logo.svg', image_dark='_static/logo.svg'),
    navbar_align='left', header_links_before_dropdown=6, show_toc_level=2, navigation_with_keys=False,
    footer_start=['copyright'], footer_end=['theme-version'], secondary_sidebar_items=['page-toc'],
    show_prev_next=True, collapse_navigation=True, back_to_top_button=True,
    pygments_light_style='tango', pygments_dark_style='github-dark',
)
html_context = dict(default_mode='auto')
html_sidebars = {'index': [], 'cite': [], 'gallery': []}
pygments_style = 'tango'
linkcheck_timeout = 20
