"The house stands: every module imports only modules of lower number, no name is exported twice, the table of modules is true."
import ast, importlib.util
from collections import defaultdict
from pathlib import Path

root = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('docs_modules', root/'docs'/'modules.py')
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)

def test_numbers_are_the_order_of_imports():
    number = {module: n for module, (n, _) in docs.modules().items()}
    assert len(set(number.values())) == len(number), 'two notebooks share a number'
    climbs = []
    for module, n in number.items():
        climbs += [f'{module} ({n}) imports {other} ({number[other]})' for other in docs.imports_of(module)
                   if other != module and number.get(other, -1) >= n]
    assert climbs == []

def test_every_notebook_of_a_chapter_has_its_number():
    for module, (number, _) in docs.modules().items():
        chapter = module.partition('.')[0] if '.' in module else None
        assert chapter is None or chapter == docs.chapter_of(number), module

def test_a_name_is_exported_once():
    where = defaultdict(list)
    for module in docs.modules():
        if module == 'all': continue # which offers again what others export
        for node in ast.parse(docs.source_of(module)).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
                for name in ast.literal_eval(node.value): where[name].append(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}

def test_the_table_of_modules_is_true():
    assert (root/'docs'/'modules.md').read_text() == docs.table(), 'run python docs/modules.py'
