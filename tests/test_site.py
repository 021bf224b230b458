"The site: built without running notebooks, without a warning; every public name has its page; no link leads nowhere."
import ast, importlib.util, re, subprocess, sys, tokenize
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
import pytest

root = Path(__file__).parents[1]
NEEDED = ('sphinx', 'myst_nb', 'pydata_sphinx_theme', 'sphinx_design', 'sphinx_copybutton', 'latex2mathml')
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"the site needs {', '.join(missing)}: pip install -e '.[docs]'")

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The site as `docs/build --no-run` makes it where no notebook was run, and what it said"
    out = tmp_path_factory.mktemp('site')
    words = [sys.executable, root/'docs'/'build', '--no-run', '--out', out]
    return out, subprocess.run(words, capture_output=True, text=True, timeout=1200)

@pytest.fixture(scope='module')
def pages(built):
    "Path below the site -> its parsed page"
    html = built[0]/'html'
    return {str(p.relative_to(html)): Page(p) for p in sorted(html.rglob('*.html')) if '_static' not in p.parts}

class Page(HTMLParser):
    "Links, targets and words of a page"
    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.text = [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if 'id' in given: self.ids.add(given['id'])
        for name in ('href', 'src'):
            if given.get(name): self.links.append(given[name])

    def handle_data(self, data): self.text.append(data)

    @property
    def words(self): return ' '.join(' '.join(self.text).split())

def test_it_builds_without_a_warning(built):
    _, said = built
    assert said.returncode == 0, (said.stdout + said.stderr)[-3000:]
    assert 'WARNING' not in said.stderr

def test_it_says_which_notebooks_were_not_run(built):
    "Here none was"
    books = list((root/'nbs').glob('[0-9]*.ipynb'))
    assert f'{len(books)} of {len(books)} notebooks are shown without outputs' in built[1].stdout

def test_every_notebook_is_a_page(pages):
    assert [p.stem for p in (root/'nbs').glob('[0-9]*.ipynb') if f'book/{p.stem}.html' not in pages] == []

def notebook(path, *sources):
    "A small notebook of code cells"
    import nbformat.v4 as v4
    cells = [v4.new_markdown_cell('# toy\n\n> a toy'), *map(v4.new_code_cell, sources)]
    path.write_text(v4.writes(v4.new_notebook(cells=cells)))
    return path

def test_a_notebook_is_run_once_and_again_when_its_code_changes(tmp_path, monkeypatch):
    "And one that fails says why and leaves nothing"
    monkeypatch.syspath_prepend(str(root/'docs'))
    import executed
    cache = tmp_path/'executed'
    toy = notebook(tmp_path/'10_toy.ipynb', '1 + 1', '#| slow\nraise ValueError')
    assert executed.state_of(toy, cache) == 'none'
    assert executed.execute(toy, cache, tmp_path, 59.5) is None
    assert executed.state_of(toy, cache) == 'fresh'
    shown = executed.shown(toy, cache).notebook
    assert shown.cells[1].outputs[0].data['text/plain'] == '2'
    assert shown.cells[2].source.endswith('raise ValueError') and not shown.cells[2].outputs
    notebook(toy, '1 + 2')
    assert executed.state_of(toy, cache) == 'none'
    wrong = executed.execute(notebook(tmp_path/'11_toy.ipynb', '{}["a"]'), cache, tmp_path, 60)
    assert 'KeyError' in wrong and not (cache/'11_toy.ipynb').exists()

def public(path):
    "Public functions and classes of a module, and their parameters, read without the code of the site"
    tree = ast.parse(path.read_text())
    named = [n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__']
    exported = ast.literal_eval(named[0].value) if named else []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in exported:
            yield node.name, [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        elif isinstance(node, ast.ClassDef) and node.name in exported:
            fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
            yield node.name, [field for field in fields if not field.startswith('_')]

def modules():
    return [p for p in sorted((root/'landslide_nb').rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')]

def name_of(path): return '.'.join(path.relative_to(root/'landslide_nb').with_suffix('').parts)

def test_every_public_name_has_its_place_with_all_parameters(pages):
    lacking = []
    for path in modules():
        page = pages[f'api/{name_of(path)}.html']
        for name, parameters in public(path):
            if f'landslide_nb.{name_of(path)}.{name}' not in page.ids: lacking.append(f'{name_of(path)}.{name}')
            unsaid = [one for one in parameters if not re.search(rf'\b{one}\b', page.words)]
            lacking += [f'{name_of(path)}.{name}({one})' for one in unsaid]
    assert lacking == []

def comments(path):
    "Comments of a module that stand beside a parameter"
    with path.open('rb') as f: tokens = list(tokenize.tokenize(f.readline))
    found = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith('_'): continue
        for a in (*node.args.args, *node.args.kwonlyargs):
            if a.lineno in found and a.lineno != node.lineno: yield found[a.lineno].lstrip('# ')

def bare(text): return re.sub(r'[^a-z0-9]+', '', text.lower())

@pytest.mark.parametrize('module', ['data.cube', 'data.pair', 'mapping.areas', 'mapping.nulls', 'learn.calibration'])
def test_what_stands_beside_a_parameter_is_shown(pages, module):
    "Meaning, dimensions and units"
    words = bare(pages[f'api/{module}.html'].words)
    said = list(comments(root/'landslide_nb'/f"{module.replace('.', '/')}.py"))
    assert len(said) > 10
    assert [one for one in said if bare(one) not in words] == []

def test_the_reference_agrees_with_the_docments_of_fastcore(monkeypatch):
    "The pages are made from text alone; what imports see is the same"
    from fastcore.docments import docments
    from landslide_nb.data.pair import make_pair
    monkeypatch.syspath_prepend(str(root/'docs'))
    import api
    entry = next(one for one in api.entries('data.pair') if one.name == 'make_pair')
    seen = docments(make_pair)
    assert len(entry.parameters) > 3
    expected = {name: says or '' for name, says in seen.items() if name != 'return'}
    assert {one.name: one.says for one in entry.parameters} == expected

def targets(pages):
    "Every link to a place within the site: (page, link, path it leads to, anchor)"
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith('#!'): continue
            yield name, link, parts.path, unquote(parts.fragment)

def test_no_link_leads_nowhere(built, pages):
    html, dead = built[0]/'html', []
    for name, link, path, anchor in targets(pages):
        at = (html/name).parent/unquote(path) if path else html/name
        if not at.resolve().exists(): dead.append(f'{name}: {link}')
        elif anchor and at.suffix == '.html':
            to = pages[str(at.resolve().relative_to(html.resolve()))]
            if anchor not in to.ids: dead.append(f'{name}: {link}')
    assert dead == []

def test_nothing_is_fetched_from_elsewhere(built, pages):
    "Scripts, styles and pictures are the site's own"
    html = built[0]/'html'
    fetched = re.compile(r'<(?:script|img|iframe)[^>]+src="(https?:)?//|<link[^>]+stylesheet[^>]+href="(https?:)?//')
    assert [name for name in pages if fetched.search((html/name).read_text())] == []

WORKPLACE = re.compile(r'/tmp/|/work/|/opt/venv|\bissue \d+\b|\bissues show\b|\bthis session\b|\bsub-?agent\b', re.I)

def test_no_page_names_where_it_was_written(pages):
    assert {name: found[0] for name, page in pages.items() if (found := WORKPLACE.search(page.words))} == {}

def test_search_needs_no_server(built, chromium):
    "Opened as a file, the search finds a function and a page of the guide"
    page = chromium.new_page()
    page.goto((built[0]/'html'/'search.html').as_uri() + '?q=make_pair')
    page.wait_for_selector('ul.search li a', timeout=20_000)
    found = page.locator('ul.search li a').evaluate_all('links => links.map(o => o.href)')
    page.close()
    assert any('api/data.pair.html' in link for link in found)

@pytest.mark.parametrize('width', [390, 1280])
def test_pages_fit_their_screen(built, chromium, width):
    "A phone and a desk: nothing is wider than the window, and the first page shows its map"
    page = chromium.new_page(viewport=dict(width=width, height=844))
    wide = []
    for name in ('index', 'guide/first_map', 'guide/read_the_report', 'compare', 'method', 'api/data.pair', 'faq'):
        page.goto((built[0]/'html'/f'{name}.html').as_uri())
        if page.evaluate('document.documentElement.scrollWidth') > width: wide.append(name)
    page.goto((built[0]/'html'/'index.html').as_uri())
    top = page.locator('img.wide').bounding_box()['y']
    page.close()
    assert wide == []
    assert top < 844
