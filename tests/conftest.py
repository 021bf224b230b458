"Fixtures and helpers shared by all tests."
import os, re, shutil, subprocess, sys
from pathlib import Path
import pytest
import warm

root = Path(__file__).parents[1]
DATA = root.parent/'shared'/'data'
BIN = Path(sys.executable).parent
# processes of tests run this copy
os.environ['PYTHONPATH'] = os.pathsep.join([str(root), *filter(None, [os.environ.get('PYTHONPATH')])])

@pytest.fixture(scope='session')
def shared():
    "The folder of real data beside the project"
    if not DATA.exists(): pytest.skip(f'{DATA} is absent: these tests need the real data that is kept beside the project, not in it')
    return DATA

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']
NO_CHROMIUM = 'there is no chromium on this machine (apt-get install chromium)'

@pytest.fixture(scope='session')
def chromium():
    "A web browser without a window; playwright allows one in a process"
    playwright = pytest.importorskip('playwright.sync_api', reason='without playwright no browser can be driven')
    if CHROMIUM is None: pytest.skip(NO_CHROMIUM)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()

def command(*words, cwd, timeout=600, cold=False, **env):
    "`landslide-nb` as a person runs it: in a process of its own, from another folder; `cold`: that has to load everything, once for each command"
    settings = {**os.environ, 'LANDSLIDE_NB_CACHE': str(Path(cwd)/'cache'), **env}
    if warm.POSSIBLE and not cold:
        return warm.called('landslide_nb.cli:main', BIN/'landslide-nb', *words, cwd=cwd, env=settings, timeout=timeout)
    return subprocess.run([BIN/'landslide-nb', *map(str, words)],
                          cwd=cwd, timeout=timeout, capture_output=True, text=True, env=settings)

def one_sentence(out, word):
    "A command must have failed with one sentence that holds a word"
    said = [line for line in re.split(r'[\r\n]+', out.stderr) if 'landslide-nb: ' in line]
    assert out.returncode == 1 and len(said) == 1, out.stderr[-2000:]
    assert word in said[0] and 'Traceback' not in out.stderr, out.stderr[-2000:]


@pytest.hookimpl(tryfirst=True) # before xdist reads the groups
def pytest_collection_modifyitems(items):
    "Tests of one file share a process, and so its fixtures; each notebook may run anywhere"
    for item in items:
        if 'notebook' not in item.fixturenames: item.add_marker(pytest.mark.xdist_group(item.path.name))
