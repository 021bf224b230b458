"The house is in order: every notebook runs, the library is what the notebooks export, nothing is committed that a run made."
import ast, json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest
import warm

root = Path(__file__).parents[1]
# the long ones are the last; two processes end together if they come first
notebooks = sorted((root/'nbs').glob('*.ipynb'), reverse=True)
bin_dir = Path(sys.executable).parent

def settings(**env):
    return {**os.environ, 'OMP_WAIT_POLICY': 'PASSIVE', 'PATH': f'{bin_dir}{os.pathsep}{os.environ["PATH"]}', **env}

def run(*args, cwd, timeout=900, **env):
    words = [str(a) for a in args]
    return subprocess.run(words, cwd=cwd, timeout=timeout, capture_output=True, text=True, env=settings(**env))

def run_notebook(notebook, cache):
    "`nbdev-test`; where processes can be forked, in one that has loaded the libraries"
    words = (bin_dir/'nbdev-test', notebook, '--n-workers', 0)
    env = dict(MPLBACKEND='agg', LANDSLIDE_NB_CACHE=str(cache))
    if warm.POSSIBLE: return warm.called('nbdev.test:nbdev_test', *words, cwd=root, env=settings(**env), timeout=900)
    return run(*words, cwd=root, **env)

@pytest.mark.parametrize('notebook', notebooks, ids=lambda o: o.stem)
def test_notebook_runs(notebook, tmp_path):
    out = run_notebook(notebook, tmp_path)
    assert out.returncode == 0 and 'Success' in out.stderr+out.stdout, (out.stdout+out.stderr)[-4000:]

def copy_of_project(to):
    keep = ('nbs', 'landslide_nb', 'settings.ini', 'setup.py', 'pyproject.toml', 'README.md')
    for name in keep:
        if (root/name).is_dir():
            shutil.copytree(root/name, to/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
        else: shutil.copy(root/name, to/name)
    return {p.relative_to(to): p.read_bytes() for p in to.rglob('*') if p.is_file()}

def test_export_and_clean_change_nothing(tmp_path):
    before = copy_of_project(tmp_path)
    for tool in ('nbdev-export', 'nbdev-clean'):
        out = run(bin_dir/tool, cwd=tmp_path)
        assert out.returncode == 0, out.stderr[-2000:]
    after = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob('*')
             if p.is_file() and '__pycache__' not in p.parts}
    assert {str(k) for k in before.keys() ^ after.keys()} == set()
    assert [str(k) for k in before if before[k] != after[k]] == []

def test_every_module_has_its_notebook():
    def exports(nb):
        return re.findall(r'^#\| default_exp (\S+)',
                          '\n'.join(''.join(cell['source']) for cell in json.loads(nb.read_text())['cells']), re.M)
    made = {module for nb in notebooks for module in exports(nb)}
    written = {p.relative_to(root/'landslide_nb').with_suffix('') for p in (root/'landslide_nb').rglob('*.py')
               if p.stem not in ('__init__', '_modidx')}
    assert made == {'.'.join(p.parts) for p in written}

def test_every_notebook_opens_with_a_title_and_a_summary():
    for nb in notebooks:
        first = ''.join(json.loads(nb.read_text())['cells'][0]['source'])
        assert first.startswith('# ') and '\n> ' in first, nb.name

def test_public_functions_are_documented():
    bare = []
    for path in sorted((root/'landslide_nb').rglob('[a-z]*.py')):
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_')
            if public and not ast.get_docstring(node): bare.append(f'{path.name}:{node.name}')
    assert bare == []

def test_version_is_said_once():
    import configparser, landslide_nb
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini')
    assert landslide_nb.__version__ == cfg['DEFAULT']['version']

def test_readme_is_rendered_from_the_index():
    out = run(sys.executable, '-m', 'nbconvert', '--to', 'markdown', '--stdout', root/'nbs'/'index.ipynb', cwd=root)
    squeeze = lambda s: ' '.join(s.replace('](images/', '](nbs/images/').split())
    assert squeeze(out.stdout) == squeeze((root/'README.md').read_text())
