"""The notebooks as pages of the book: no plumbing, no directives, marks where a cell is part of the library."""
import re

import nbformat

from executed import books, shown
from modules import cells, chapter_of, module_of, root, summary_of

STORIES = { # chapter -> what its first page says
    'foundation': 'Events, units, errors, downloads, gaps in the data, and small data to try things on.',
    'data': 'Any source as one cube; pairs of images; simulated events; chips that are split honestly.',
    'learn': 'Networks, scores, calibration, loaders, stage 1 and stage 2.',
    'mapping': 'Exact tiles, null pairs, polygons and cells, exposure, the run folder.',
    'weights': 'The shipped weights, how a place adapts them, two tracks on one map.',
    'labelling': 'From a map to labels: where a look pays most, labels that say who and how sure, areas by design.',
    'study': 'Experiments and ablations with intervals.',
    'browser': 'The page that shows run folders.',
    'archive': 'A cube of any place and date, from public catalogues.',
    'commands': 'The command line, and what a notebook imports at once.',
    'tutorials': 'Worked stories: the whole method, a new event, few labels, what each part is worth.',
}
WITHOUT = '''```{note}
This notebook is shown without its outputs. `docs/build` runs it and adds them.
```'''
OLDER = '''```{note}
The outputs below were made with an earlier version of the modules that this notebook uses.
```'''

def story(chapter): return STORIES.get(chapter, '')

def number_of(path): return int(path.name[:2])

def title_of(path): return re.match(r'# (.+)', cells(path)[0])[1]

def by_chapter():
    "Chapter -> its notebooks, in order"
    found = {}
    for path in books(): found.setdefault(chapter_of(number_of(path)), []).append(path)
    return found

def exported_names(source):
    "Public names that a cell defines at its outermost level, each once"
    found = re.findall(r'^(?:def|class) ([A-Za-z]\w*)|^([A-Za-z]\w*) *=', source, re.M)
    return list(dict.fromkeys(a or b for a, b in found))

def anchor(name):
    "The target of the cell that defines a name; targets know no case, names do"
    kind = 'constant' if name.isupper() else 'class' if name[0].isupper() else 'cell'
    return f'{kind}-{name.replace("_", "-").lower()}'

def is_plumbing(cell):
    return cell.cell_type == 'code' and re.match(r'#\| ?(hide|default_exp)', cell.source) is not None

def readable(output):
    "An output as a page shows it, or None"
    if output.output_type == 'error' or output.get('name') == 'stderr': return None
    if output.output_type == 'stream': return nbformat.v4.new_output('stream', text=shortened(tidy(output.text)))
    data = output.data
    for kind in ('image/png', 'image/svg+xml'):
        if kind in data: return shows(kind, data[kind])
    page = table_of(data.get('text/html', ''))
    if page: return shows('text/html', tidy(page))
    text = data.get('text/plain', '')
    if not text or re.match(r'<[\w.]+.* at 0x|<Figure|:\w+ +\[|Row\(|Column\(|\[?<matplotlib', text): return None
    return shows('text/plain', shortened(tidy(text)))

def table_of(page):
    "HTML that shows something by itself, without the colours that notebooks give to tables; '' if there is none"
    if '<script' in page or len(page) > 200_000: return ''
    if 'xr-wrap' in page: return page # xarray's own look follows light and dark
    plain = re.sub(r'<style.*?</style>', '', page, flags=re.S)
    return plain if re.sub(r'<[^>]+>|\s', '', plain) else ''

def tidy(text):
    "Without the folders of this machine"
    return re.sub(r'/(?:tmp|var/folders/[\w/]+)/tmp\w+/', '', text).replace(f'{root}/', '')

def shows(kind, value): return nbformat.v4.new_output('display_data', {kind: value})

def shortened(text, most=40):
    lines = text.splitlines()
    return text if len(lines) <= most else '\n'.join([*lines[:most], f'... ({len(lines) - most} more lines)'])

def heading(path, state):
    "The title cell, with the module it exports"
    first = cells(path)[0]
    module = module_of(path)
    says = f'Notebook `nbs/{path.name}`'
    if module: says += f', module [`landslide_nb.{module}`](../api/{module}.md)'
    note = {'none': WITHOUT, 'older': OLDER, 'fresh': ''}[state]
    summary = summary_of(path)
    return first.replace(f'> {summary}', f'*{summary}*\n\n{says}.\n\n{note}', 1)

def page(path, cache):
    "A notebook as the site shows it, and the state of its outputs"
    one = shown(path, cache)
    book, kept, named = one.notebook, [], set()
    for k, cell in enumerate(book.cells):
        if is_plumbing(cell): continue
        if k == 0: cell.source = heading(path, one.state)
        if cell.cell_type == 'code': kept += code_cells(cell, named)
        else: kept.append(rewritten(cell))
    book.cells = kept
    return book, one.state

def rewritten(cell):
    "Links to files of the project, as the site has them"
    cell.source = re.sub(r'\]\(\.\./(?:nbs/)?(\d\d_[\w.]+)\.ipynb', r'](\1.ipynb', cell.source)
    return cell

def code_cells(cell, named):
    "A code cell without its directives, after a target for links where it first defines something of the library"
    exports = re.match(r'#\| ?exporti?', cell.source) is not None
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip('\n')
    if not cell.source.strip(): return []
    cell.outputs = [good for good in map(readable, cell.get('outputs', [])) if good]
    cell.execution_count = None
    if not exports: return [cell]
    cell.metadata['tags'] = ['export']
    names = [name for name in exported_names(cell.source) if name not in named]
    named.update(names)
    if not names: return [cell]
    return [nbformat.v4.new_markdown_cell('\n'.join(f'({anchor(name)})=' for name in names)), cell]

def write_book(to, cache):
    "All notebooks as pages; returns {stem: state of its outputs}"
    states = {}
    to.mkdir(parents=True, exist_ok=True)
    for path in books():
        book, states[path.stem] = page(path, cache)
        nbformat.write(book, to/path.name)
    for chapter, paths in by_chapter().items(): (to/f'{chapter}.md').write_text(chapter_page(chapter, paths))
    (to/'index.md').write_text(book_page())
    return states

def chapter_page(chapter, paths):
    rows = [f'- [{path.stem[:2]} {title_of(path)}]({path.name}): {summary_of(path)}' for path in paths]
    toc = ['```{toctree}', ':hidden:', *(f'{path.stem[:2]} {title_of(path)} <{path.stem}>' for path in paths), '```']
    return '\n'.join([f'# {chapter.capitalize()}', '', story(chapter), '', *rows, '', *toc, ''])

BOOK = '''# The method as a book

Each notebook of the project is one chapter here and one module of the library: a sentence, a small piece of code, an
example that holds. Who reads only the sentences understands the method; who runs the cells has tested it. Cells with a
coloured edge are the library.

The equations stand together on one page: [the method in equations](../method.md).
'''

def book_page():
    rows = [f'- [{chapter.capitalize()}]({chapter}.md): {story(chapter)}' for chapter in by_chapter()]
    return '\n'.join([BOOK, *rows, '', '```{toctree}', ':hidden:', '../method', *by_chapter(), '```', ''])
