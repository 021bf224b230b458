"The house stands: every module imports only modules of lower number, and no name is exported by two of them."
import ast, json, re
from collections import defaultdict
from importlib.util import resolve_name
from pathlib import Path

root = Path(__file__).parents[1]

def exporting():
    "Module -> number of the notebook that exports it"
    found = {}
    for notebook in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        source = ''.join(''.join(c['source'])+'\n' for c in json.loads(notebook.read_text())['cells'] if c['cell_type'] == 'code')
        if module := re.search(r'^#\| default_exp (\S+)', source, re.M): found[f'landslide_nb.{module[1]}'] = int(notebook.stem[:2])
    return found

def source_of(module): return (root/f"{module.replace('.', '/')}.py").read_text()

def imports(module):
    "Modules of this package that a module imports, wherever in its code"
    package = module.rpartition('.')[0]
    for node in ast.walk(ast.parse(source_of(module))):
        if isinstance(node, ast.ImportFrom):
            base = resolve_name('.'*node.level + (node.module or ''), package) if node.level else node.module or ''
            yield base
            yield from (f'{base}.{name.name}' for name in node.names)
        elif isinstance(node, ast.Import): yield from (name.name for name in node.names)

def test_numbers_are_the_order_of_imports():
    number = exporting()
    assert len(set(number.values())) == len(number)
    climbs = [f'{module} ({n}) imports {other} ({number[other]})' for module, n in number.items() for other in imports(module) if other in number and other != module and number[other] >= n]
    assert climbs == []

def test_a_name_is_exported_once():
    where = defaultdict(list)
    for module in exporting():
        for node in ast.parse(source_of(module)).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__' and module != 'landslide_nb.all':
                for name in ast.literal_eval(node.value): where[name].append(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}
