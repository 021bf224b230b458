"What Sphinx reads: pages written by hand, and those made from notebooks, modules, pictures and files of the project."
import re
import shutil

import api
import book
import cite
import commands
import gallery
from modules import root

pages = root/'docs'/'pages'
INCLUDED = { # page -> file of the project
    'changelog': 'CHANGELOG.md', 'contributing': 'CONTRIBUTING.md', 'conduct': 'CODE_OF_CONDUCT.md',
    'releasing': 'RELEASING.md', 'security': 'SECURITY.md', 'measured': 'benchmarks/results.md', 'benchmarks': 'benchmarks/README.md',
    'suggest': 'benchmarks/suggest.md', 'areas': 'benchmarks/areas.md', 'reliability': 'benchmarks/reliability.md'}

def write_sources(to, cache):
    "All sources of the site, anew; returns {stem of a notebook: state of its outputs}"
    if to.exists(): shutil.rmtree(to)
    shutil.copytree(pages, to)
    shutil.copytree(root/'nbs'/'images', to/'images', dirs_exist_ok=True)
    shutil.copytree(root/'nbs'/'images', to/'book'/'images')
    for page, name in INCLUDED.items(): (to/f'{page}.md').write_text(included(name))
    states = book.write_book(to/'book', cache)
    api.write_api(to/'api')
    gallery.write_gallery(to, cache)
    (to/'cite.md').write_text(cite.page())
    (to/'guide'/'commands.md').write_text(commands.page())
    return states

def included(name):
    "A file of the project as a page: links to other files become code"
    text = (root/name).read_text()
    return re.sub(r'\[([^\]]+)\]\((?!http|#|mailto)[^)]+\)', r'`\1`', text)
