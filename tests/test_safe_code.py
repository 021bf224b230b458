"No code of the package can be made to run what a file says; every dependency has a bound that was tried."
import ast
import re
from configparser import ConfigParser

import pytest
from conftest import root

MODULES = sorted((root/'landslide_nb').rglob('*.py'))
NEVER = {'eval', 'exec', 'compile', 'pickle.load', 'pickle.loads', 'torch.load', 'yaml.load', 'os.system', 'os.popen', 'joblib.load',
         'pd.read_pickle', 'shelve.open', 'marshal.loads', 'np.load(allow_pickle)', 'subprocess(shell)', 'tempfile.mktemp'}

def name_of(function):
    "`np.load` of a call"
    if isinstance(function, ast.Name): return function.id
    if isinstance(function, ast.Attribute): return f'{name_of(function.value)}.{function.attr}'
    return ''

def dangerous(call):
    "The entry of NEVER that a call is, or None"
    name, given = name_of(call.func), {k.arg: k.value for k in call.keywords}
    def on(option):
        return option in given and not (isinstance(given[option], ast.Constant) and given[option].value is False)
    if name == 'np.load' and on('allow_pickle'): return 'np.load(allow_pickle)'
    if on('shell'): return 'subprocess(shell)'
    return name if name in NEVER else None

@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(root/'landslide_nb')))
def test_no_call_runs_what_a_file_says(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [(call.lineno, dangerous(call)) for call in calls if dangerous(call)] == []

@pytest.mark.parametrize('text', ['eval("1")', 'torch.load(path)', 'np.load(path, allow_pickle=True)', 'subprocess.run(words, shell=True)'])
def test_the_search_finds_what_it_looks_for(text):
    assert dangerous(ast.parse(text).body[0].value)

def settings():
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

@pytest.mark.parametrize('key', ['requirements', 'cluster_requirements', 'opera_requirements', 'dev_requirements'])
def test_every_dependency_is_named_with_a_lower_bound(key):
    "Of a registry, not of an address; with the bound that tests/environments.py installs"
    lines = [line.strip() for line in settings()[key].splitlines() if line.strip()]
    assert lines and [line for line in lines if not re.fullmatch(r'[A-Za-z0-9._-]+>=[0-9.]+(,<[0-9.]+)?', line)] == []

def test_nothing_that_is_shipped_can_run_when_opened():
    shipped = [p for p in (root/'landslide_nb').rglob('*') if p.is_file() and '__pycache__' not in p.parts]
    assert [p.name for p in shipped if p.suffix in ('.pkl', '.pickle', '.pt', '.pth', '.joblib', '.so', '.dll', '.exe')] == []
