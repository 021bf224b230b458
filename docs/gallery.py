"Every figure of the notebooks on one page; each leads to the words and the code that make it."
import base64
import re

from docutils.nodes import make_id

from book import by_chapter, readable, title_of
from executed import shown

INTRO = '''---
html_theme.sidebar_secondary.remove: true
---
# Gallery

Every figure of the book. Each leads to the place where it is made, in words and code.
'''
EMPTY = '''
```{note}
The notebooks of this copy were not run, so their figures are missing. `docs/build` runs them.
```
'''
LASTING = { # kept with the project, since they take hours or a web browser to make
    'demo_map.png': ('The embedded event: radar after, log-ratio, probability', '90_tutorial.end_to_end'),
    'first_map.png': ('What the first map shows', '42_weights.base'),
    'label_efficiency.png': ('How much labels help, and the shipped weights', '93_tutorial.label_efficiency'),
    'adapt.png': ('Weights adapted to a place', '43_weights.adapt'),
    'ablations.png': ('What each part of the recipe is worth', '94_tutorial.ablations'),
    'app.png': ('The page that shows run folders', '69_app')}

def figures(path, cache):
    "Each figure of a notebook: the heading above it, and its bytes"
    title, found = title_of(path), []
    for cell in shown(path, cache).notebook.cells:
        if cell.cell_type == 'markdown':
            for words in re.findall(r'^#+ (.+)$', cell.source, re.M): title = words
            continue
        if re.match(r'#\| ?hide', cell.source): continue
        for output in filter(None, map(readable, cell.get('outputs', []))):
            png = output.get('data', {}).get('image/png')
            if png: found.append((title, base64.b64decode(png)))
    return found

def card(image, title, link, note):
    "One picture of the grid"
    options = {'img-top': image, 'img-alt': title, 'link': link, 'link-type': 'url'}
    lines = ['````{grid-item-card} ' + title, *(f':{name}: {value}' for name, value in options.items())]
    return '\n'.join([*lines, '', note, '````'])

def grid(cards): return '\n'.join(['`````{grid} 1 2 3 3', ':gutter: 3', '', *cards, '`````', ''])

def lasting_card(name):
    words, stem = LASTING[name]
    return card(f'images/{name}', words, f'book/{stem}.html', f'`{stem}`')

def write_gallery(to, cache):
    "The page and its pictures"
    (to/'gallery').mkdir(exist_ok=True)
    lines = [INTRO, grid(map(lasting_card, LASTING))]
    found = 0
    for chapter, paths in by_chapter().items():
        cards = []
        for path in paths:
            for k, (title, png) in enumerate(figures(path, cache)):
                name = f'gallery/{path.stem}_{k}.png'
                (to/name).write_bytes(png)
                cards.append(card(name, title, f'book/{path.stem}.html#{make_id(title)}', f'`{path.stem}`'))
        if cards: lines += [f'## {chapter.capitalize()}', '', grid(cards)]
        found += len(cards)
    if not found: lines.append(EMPTY)
    (to/'gallery.md').write_text('\n'.join(lines))
