"What strangers install: wheel and sdist hold what they should and nothing else; files around the code agree."
import configparser, re, shutil, subprocess, sys, tarfile, zipfile
from pathlib import Path
import pytest

root = Path(__file__).parents[1]
config = configparser.ConfigParser(delimiters=['='])
config.read(root/'settings.ini')
settings = config['DEFAULT']

def lines(key): return [line.strip() for line in settings[key].splitlines() if line.strip()]

def read(name): return (root/name).read_text()

NOT_SOURCES = ('.git', '_build', 'dist', '*.egg-info', '__pycache__', '.venv', '.hypothesis', 'runs', 'demo')

@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "A folder of the sdist, and of the wheel made from it, of a copy of the sources"
    pytest.importorskip('build', reason="the package is built by it: pip install -e '.[dev]'")
    copy = tmp_path_factory.mktemp('copy')/'project'
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    words = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', copy.parent/'dist', copy]
    said = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert said.returncode == 0, said.stderr[-3000:]
    return copy.parent/'dist'

@pytest.fixture(scope='module')
def wheel(dist):
    with zipfile.ZipFile(next(dist.glob('*.whl'))) as z: return set(z.namelist())

def test_the_wheel_holds_all_of_the_package(wheel):
    files = [p for p in (root/'landslide_nb').rglob('*') if p.is_file() and '__pycache__' not in p.parts]
    assert {str(p.relative_to(root)) for p in files} - wheel == set()
    for name in ('weights/base.safetensors', 'weights/tracks.safetensors', 'weights/base.md', 'py.typed', 'browser/page.js'):
        assert f'landslide_nb/{name}' in wheel

def test_the_wheel_holds_nothing_else(wheel):
    others = {name for name in wheel if not name.startswith('landslide_nb/') and '.dist-info/' not in name}
    assert others == set()
    assert [name for name in wheel if name.endswith(('.ipynb', '.pyc')) or '/test_' in name] == []

def test_the_wheel_is_small_and_says_what_it_needs(dist):
    file = next(dist.glob('*.whl'))
    assert file.stat().st_size < 15e6
    with zipfile.ZipFile(file) as z:
        name = next(n for n in z.namelist() if n.endswith('.dist-info/METADATA'))
        metadata = z.read(name).decode()
    assert f"Version: {settings['version']}" in metadata
    assert 'License' in metadata and f"Requires-Python: >={settings['min_python']}" in metadata
    needed = re.findall(r'^Requires-Dist: ([\w.-]+)[^;\n]*$', metadata, re.M)
    assert {bare(n) for n in needed} == {bare(re.match(r'[\w.-]+', line)[0]) for line in lines('requirements')}

def bare(name): return name.lower().replace('_', '-').replace('.', '-')

def test_the_sdist_can_be_built_from_and_holds_no_data(dist):
    "The wheel above was made from it"
    with tarfile.open(next(dist.glob('*.tar.gz'))) as t: names = {n.partition('/')[2] for n in t.getnames()}
    needed = {'settings.ini', 'setup.py', 'README.md', 'LICENSE', 'pyproject.toml', 'landslide_nb/weights/base.safetensors'}
    assert needed <= names
    assert [n for n in names if n.endswith(('.zarr', '.nc', '.tif', '.part')) or '_build' in n] == []

def test_the_sdist_holds_no_half_of_the_tests(dist):
    "They need notebooks, fixtures and benchmarks: whoever wants to run them takes the repository"
    with tarfile.open(next(dist.glob('*.tar.gz'))) as t: names = {n.partition('/')[2] for n in t.getnames()}
    assert [n for n in names if n.startswith(('tests/', 'benchmarks/', 'nbs/'))] == []
    assert {'CHANGELOG.md', 'CITATION.cff', 'requirements-map.txt'} <= names

def test_strict_checks_of_the_registry_pass(dist):
    pytest.importorskip('twine', reason="it checks what a registry would refuse: pip install -e '.[dev]'")
    words = [sys.executable, '-m', 'twine', 'check', '--strict', *map(str, dist.iterdir())]
    said = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr

def test_the_version_is_the_same_everywhere():
    version = settings['version']
    assert f'version: {version}' in read('CITATION.cff')
    assert f'version = "{version}"' in read('conda/meta.yaml')
    assert f'## {version}' in read('CHANGELOG.md')

CONDA = {'torch': 'pytorch', 'matplotlib': 'matplotlib-base', 'netCDF4': 'netcdf4'} # names that differ there

def asked(text):
    "Names and bounds of a list of requirements"
    found = re.findall(r'^\s*-? *([A-Za-z][\w.-]*?) *((?:[<>=]=?[\d.]+,?)+)$', text, re.M)
    return {(name.replace('pytorch-cpu', 'pytorch'), bound) for name, bound in found}

def required(names=CONDA):
    rows = (re.match(r'([\w.-]+)(.*)', line).groups() for line in lines('requirements'))
    return {(names.get(name, name), bound) for name, bound in rows}

@pytest.mark.parametrize('name', ['environment.yml', 'conda/meta.yaml'])
def test_conda_asks_for_the_same(name): assert required() - asked(read(name)) == set()

def test_the_small_list_is_a_part_of_the_whole():
    "What mapping needs stands in settings.ini with the same bounds"
    small = [line for line in read('requirements-map.txt').splitlines() if line and not line.startswith('#')]
    assert len(small) > 10 and set(small) <= set(lines('requirements'))
    assert not any(line.startswith(('fastai', 'panel', 'jupyterlab')) for line in small)

def test_dev_installs_what_the_site_needs(): assert set(lines('docs_requirements')) <= set(lines('dev_requirements'))

def test_workflows_and_forms_are_yaml_and_run_what_exists():
    yaml = pytest.importorskip('yaml')
    others = ('.pre-commit-config.yaml', 'environment.yml', 'CITATION.cff')
    files = [*(root/'.github').rglob('*.yml'), *(root/name for name in others)]
    assert len(files) > 6
    for file in files: assert yaml.safe_load(file.read_text())
    named = re.findall(r'\b(?:tests|docs|\.ci)/[\w.]+', '\n'.join(file.read_text() for file in files))
    assert named and [name for name in named if not (root/name).exists() and '_build' not in name] == []

def test_files_that_strangers_look_for_are_there():
    names = ['README.md', 'LICENSE', 'CITATION.cff', 'CHANGELOG.md', 'CONTRIBUTING.md', 'CODE_OF_CONDUCT.md']
    for name in [*names, 'SECURITY.md', 'RELEASING.md', 'paper/paper.md']: assert (root/name).stat().st_size > 200, name

def test_the_paper_cites_what_it_lists():
    cited = set(re.findall(r'@([a-z]\w+)', read('paper/paper.md').partition('# Summary')[2]))
    listed = set(re.findall(r'^@\w+\{(\w+),', read('paper/paper.bib'), re.M))
    assert cited == listed
