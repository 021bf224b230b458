"Processes with the libraries loaded are like any other: words, folder, environment, output, exit codes, time."
import json
import subprocess
import sys

import psutil
import pytest

import warm
from test_house import run_notebook

pytestmark = pytest.mark.skipif(not warm.POSSIBLE, reason='processes are forked on Linux only')

MODULE = """
import atexit, os, subprocess, sys, time
def say():
    print(sys.argv[1:], os.getcwd(), os.environ.get('WORD'), 'HOME' in os.environ)
    print('to stderr', file=sys.stderr)
    atexit.register(print, 'at the end')
    return int(sys.argv[1])
def fail(): raise ValueError('no such thing')
def sentence(): sys.exit('one sentence')
def die(): os.kill(os.getpid(), 9)
def loaded(): print([name for name in sys.modules if name.startswith('landslide_nb')])
def sleep():
    with open('pid', 'w') as f: f.write(str(subprocess.Popen(['sleep', '60']).pid))
    time.sleep(60)
"""

@pytest.fixture
def spoken(tmp_path):
    "Call a function of a made-up module in a warm process, or in a cold one"
    (tmp_path/'spoken.py').write_text(MODULE)
    env = dict(PYTHONPATH=str(tmp_path), WORD='landslide')
    def call(name, *words, cold=False, timeout=60):
        if not cold: return warm.called(f'spoken:{name}', 'spoken', *words, cwd=tmp_path, env=env, timeout=timeout)
        code = f'import sys; from spoken import {name}; sys.exit({name}())'
        return subprocess.run([sys.executable, '-c', code, *words], cwd=tmp_path, env=env,
                              capture_output=True, text=True)
    return call

@pytest.mark.parametrize('words', [('say', '0', 'two words'), ('say', '3'), ('sentence',), ('die',)], ids=' '.join)
def test_a_warm_process_says_and_ends_as_a_cold_one(words, spoken):
    here, there = spoken(*words), spoken(*words, cold=True)
    assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)

def test_an_error_ends_in_a_traceback(spoken):
    out = spoken('fail')
    assert out.returncode == 1
    assert out.stderr.startswith('Traceback') and out.stderr.endswith('ValueError: no such thing\n')

def test_nothing_of_the_package_is_loaded(spoken): assert spoken('loaded').stdout == '[]\n'

def test_one_call_leaves_nothing_to_the_next(spoken):
    assert [spoken('say', code).returncode for code in '3050'] == [3, 0, 5, 0]

def test_what_takes_too_long_is_ended_with_its_children(spoken, tmp_path):
    with pytest.raises(subprocess.TimeoutExpired): spoken('sleep', timeout=3)
    child = int((tmp_path/'pid').read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE

def test_a_notebook_that_fails_is_found_out(tmp_path):
    "In a folder that is no project, and with a cell that asks for a name nobody made"
    def cell(text):
        return dict(cell_type='code', id=text[:4], metadata={}, outputs=[], execution_count=None, source=[text])
    for name, text in (('good', '1 + 1'), ('bad', 'xr.Dataset()')):
        nb = dict(cells=[cell(text)], metadata={}, nbformat=4, nbformat_minor=5)
        (tmp_path/f'{name}.ipynb').write_text(json.dumps(nb))
    assert run_notebook(tmp_path/'good.ipynb', tmp_path).returncode == 0
    out = run_notebook(tmp_path/'bad.ipynb', tmp_path)
    assert out.returncode == 1
    assert "name 'xr' is not defined" in out.stderr
