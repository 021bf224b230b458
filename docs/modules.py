"""The table of modules, made from the notebooks: `python docs/modules.py` writes docs/modules.md."""
import ast, json, re
from importlib.util import resolve_name
from pathlib import Path

root = Path(__file__).parents[1]
CHAPTERS = { # the number of each one's first notebook
    0: 'foundation', 10: 'data', 20: 'learn', 30: 'mapping', 42: 'weights', 45: 'labelling', 50: 'study', 59: 'browser',
    70: 'archive', 80: 'commands', 90: 'tutorials'}

def cells(notebook):
    "The texts of a notebook's cells"
    return [''.join(cell['source']) for cell in json.loads(notebook.read_text())['cells']]

def module_of(notebook):
    "The module a notebook exports, or None"
    found = re.search(r'^#\| default_exp (\S+)', '\n'.join(cells(notebook)), re.M)
    return found[1] if found else None

def summary_of(notebook):
    "The line below the title"
    return re.search(r'^> (.+)$', cells(notebook)[0], re.M)[1]

def source_of(module):
    "The code of an exported module"
    return (root/'landslide_nb'/f"{module.replace('.', '/')}.py").read_text()

def imports_of(module):
    "Modules of this package that a module imports, wherever in its code"
    package = f'landslide_nb.{module}'.rpartition('.')[0]
    for node in ast.walk(ast.parse(source_of(module))):
        if isinstance(node, ast.ImportFrom):
            base = resolve_name('.'*node.level + (node.module or ''), package) if node.level else node.module or ''
            if base.startswith('landslide_nb.'): yield base.removeprefix('landslide_nb.')
            if base.startswith('landslide_nb'): yield from (f'{base}.{name.name}'.removeprefix('landslide_nb.') for name in node.names)

def number_of(book):
    "The number of a notebook; 67b lies between 67 and 68"
    number = book.stem.partition('_')[0]
    return int(number[:2]) + sum(ord(letter) - ord('a') + 1 for letter in number[2:])/100

def number_text(number):
    "A number as the notebook's name begins"
    letter = round(number % 1*100)
    return f'{int(number):02}' + (chr(ord('a') + letter - 1) if letter else '')

def modules():
    "Number and summary of each module: {module: (number, summary)}"
    books = sorted((root/'nbs').glob('[0-9]*.ipynb'))
    return {module_of(book): (number_of(book), summary_of(book)) for book in books if module_of(book)}

def chapter_of(number):
    "The chapter of a notebook's number"
    return CHAPTERS[max(first for first in CHAPTERS if first <= number)]

def table():
    "The whole table as Markdown"
    known = modules()
    lines = ['# Modules', '', 'Each notebook in `nbs/` exports one module. A module imports only modules of a lower number. Made by `python docs/modules.py`.', '']
    chapter = None
    for module, (number, summary) in known.items():
        if chapter_of(number) != chapter:
            chapter = chapter_of(number)
            lines += ['', f'## {chapter.capitalize()}', '', '| | module | what it holds | imports |', '|---|---|---|---|']
        uses = sorted({name for name in imports_of(module) if name in known and name != module}, key=lambda name: known[name][0])
        lines.append(f"| {number_text(number)} | `{module}` | {summary} | {', '.join(uses)} |")
    return '\n'.join(lines) + '\n'

if __name__ == '__main__': (root/'docs'/'modules.md').write_text(table())
