"""Notebooks with their outputs: run once, kept, and run again only where their code or what they import has changed.

The committed notebooks hold no outputs. What a run leaves is kept in `docs/_build/executed`, one notebook each, with a
key of the code that made it.
"""
import hashlib
import os
import re
import tempfile
import time
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

import nbformat

from modules import cells, imports_of, module_of, root, source_of

SKIPPED = ('#| slow', '#| eval: false') # as the notebooks' own test skips them
FIRST = ('index', '90_', '91_', '92_', '14_', '41_', '31_', '23_', '34_') # the story, then the method
PLOTS = ('plt.', '.plot(', 'imshow', 'hvplot', 'show_', 'figure')
SECONDS = 900 # that one notebook may take

@dataclass(frozen=True)
class Shown:
    "A notebook as the site shows it"
    notebook:nbformat.NotebookNode
    state:str # fresh: outputs of this very code; older: of this notebook with other code below it; none: no outputs

def books():
    "All notebooks of the book, in order"
    return sorted((root/'nbs').glob('[0-9]*.ipynb'))

def code_of(path):
    "The code of a notebook"
    return '\n\n'.join(''.join(cell['source']) for cell in nbformat.read(path, 4).cells if cell['cell_type'] == 'code')

def hashed(*texts):
    return hashlib.sha256('\0'.join(texts).encode()).hexdigest()[:16]

@once
def below(module):
    "A module and all that it imports of this package, directly or not"
    found = {module}
    for other in set(imports_of(module)) - {module}: # which are of lower number, so this ends
        if is_module(other): found |= below(other)
    return frozenset(found)

@once
def text_of(module): return source_of(module)

def is_module(name):
    return (root/'landslide_nb'/f"{name.replace('.', '/')}.py").exists()

def imported_by(path):
    "Modules of this package that a notebook needs"
    named = re.findall(r'(?:from|import) landslide_nb\.([\w.]+)', '\n'.join(cells(path)))
    own = filter(None, [module_of(path), *named])
    return sorted(set().union(*(below(module) for module in own if is_module(module))))

def keys_of(path):
    "The key of a notebook's own code, and that of all the code its outputs depend on"
    own = hashed(code_of(path))
    return own, hashed(own, *(text_of(module) for module in imported_by(path)))

def kept(path, cache):
    "The notebook of the cache, or None"
    at = cache/path.name
    return nbformat.read(at, 4) if at.exists() else None

def state_of(path, cache):
    "How the outputs in the cache stand to the code of now: fresh, older or none"
    found = kept(path, cache)
    if found is None: return 'none'
    own, whole = keys_of(path)
    if found.metadata['executed']['whole'] == whole: return 'fresh'
    return 'older' if found.metadata['executed']['own'] == own else 'none'

def shown(path, cache):
    "A notebook with the words of now and the outputs of the cache, where they belong to its code"
    book, state = nbformat.read(path, 4), state_of(path, cache)
    if state == 'none': return Shown(book, state)
    for cell, ran in zip(code_cells(book), code_cells(kept(path, cache)), strict=True): cell.outputs = ran.outputs
    return Shown(book, state)

def code_cells(book): return [cell for cell in book.cells if cell.cell_type == 'code']

def importance(path):
    "Those that tell the story first, then those with figures, then by number"
    first = [k for k, start in enumerate(FIRST) if path.name.startswith(start)]
    if first: return 0, first[0]
    plots = any(word in code_of(path) for word in PLOTS)
    return (1 if plots else 2), int(path.name[:2])

def environment(work):
    "What the notebooks' tests run with, but figures are shown"
    return {**os.environ, 'MPLBACKEND': 'module://matplotlib_inline.backend_inline', 'LANDSLIDE_NB_CACHE': str(work),
            'PYTHONPATH': str(root), 'OMP_WAIT_POLICY': 'PASSIVE'}

def execute(path, cache, work, seconds=SECONDS):
    "Run a notebook and keep it; returns what went wrong, or None"
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    own, whole = keys_of(path)
    book = nbformat.read(path, 4)
    skipped = {k: cell.source for k, cell in enumerate(book.cells) if is_skipped(cell)}
    for k in skipped: book.cells[k].source = ''
    where = dict(metadata=dict(path=str(path.parent)))
    client = NotebookClient(book, timeout=int(seconds), kernel_name='python3', resources=where)
    began = time.time()
    try: client.execute(env=environment(work))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        return f'{type(e).__name__}: {str(e).strip().splitlines()[-1]}'
    for k, source in skipped.items(): book.cells[k].source = source
    book.metadata['executed'] = dict(own=own, whole=whole, seconds=round(time.time() - began, 1))
    write(book, cache/path.name)

def is_skipped(cell): return cell.cell_type == 'code' and any(flag in cell.source for flag in SKIPPED)

def write(book, at):
    "Whole or not at all"
    at.parent.mkdir(parents=True, exist_ok=True)
    part = at.with_suffix('.part')
    nbformat.write(book, part)
    part.replace(at)

def execute_all(cache, minutes, say=print):
    "Run what is not fresh, the most important first, until the time is up; returns {notebook: why it could not}"
    end, failed = time.time() + 60*minutes, {}
    wanted = sorted((path for path in books() if state_of(path, cache) != 'fresh'), key=importance)
    with tempfile.TemporaryDirectory(prefix='site-') as work:
        for path in wanted:
            left = end - time.time()
            if left < 10:
                failed[path.stem] = 'no time left'
                continue
            began = time.time()
            wrong = execute(path, cache, Path(work), min(SECONDS, left))
            if wrong: failed[path.stem] = wrong
            say(f'{path.stem}: {wrong or "ran"} ({time.time() - began:.0f} s)', flush=True)
    return failed
