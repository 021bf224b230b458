"""The suite on the oldest and on the newest dependencies that the package declares, on every Python that is installed here.

    python tests/environments.py                  everything; hours
    python tests/environments.py --quick          golden numbers, doors, metamorphic, commands, a few notebooks; minutes each
    python tests/environments.py --quick oldest   one of them
    python tests/environments.py --plan           which would be made, and which Pythons are missing

`oldest` takes the lower bound of every line of settings.ini on the oldest Python that the package declares. nbdev, by which
the notebooks are tested, needs a newer fastcore than the package does: it is left out there, and the notebooks run in
`notebooks`, the lower bounds that go with nbdev. `newest` takes what the registry offers today, on each Python. All are made
by uv, in folders that are removed at the end (`--keep` keeps them).
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

root = Path(__file__).parents[1]
KINDS = ('oldest', 'notebooks', 'newest')
PYTHONS = ('3.11', '3.12', '3.13', '3.14')
QUICK_TESTS = ('test_golden.py', 'test_doors.py', 'test_metamorphic.py', 'test_cli.py')
QUICK_NOTEBOOKS = ('00_core', '04_gaps', '09_guard', '12_data.files', '13_data.cube', '25_learn.data',
                   '34_mapping.areas', '59_browser.runs')
NEEDS_NBDEV = ('test_house.py', 'test_readme.py')


def settings():
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def declared(*keys):
    "The lines of settings.ini that name dependencies"
    lines = [line.strip() for key in keys for line in settings()[key].splitlines()]
    return [line for line in lines if line]

@dataclass(frozen=True)
class Environment:
    kind:str   # oldest | notebooks | newest
    python:str # 3.11

    @property
    def name(self): return f'{self.kind} on Python {self.python}'

    @property
    def requirements(self):
        lines = declared('requirements', 'dev_requirements')
        return [line for line in lines if self.kind != 'oldest' or not line.startswith('nbdev')]

    @property
    def resolution(self): return 'highest' if self.kind == 'newest' else 'lowest-direct'


def run(*words, timeout=600, **options):
    return subprocess.run([str(word) for word in words], text=True, timeout=timeout, **options)

def find_uv(work):
    "uv, installed into a small environment of its own where there is none"
    found = shutil.which('uv')
    if found: return Path(found)
    tools = work/'tools'
    run(sys.executable, '-m', 'venv', tools, check=True)
    run(tools/'bin'/'pip', 'install', '-q', 'uv', check=True)
    return tools/'bin'/'uv'

def installed(uv, python):
    "The path of a Python on this machine, or None; nothing is fetched"
    found = run(uv, 'python', 'find', '--offline', '--no-python-downloads', python, capture_output=True)
    if found.returncode == 0: return found.stdout.strip()
    # those of pyenv need not be on the path
    versions = Path(os.environ.get('PYENV_ROOT', Path.home()/'.pyenv'))/'versions'
    return next(map(str, sorted(versions.glob(f'{python}.*/bin/python{python}'))), None)

def planned(kinds, pythons):
    "The oldest dependencies on the oldest Python, the newest on each"
    first = [Environment(kind, settings()['min_python']) for kind in ('oldest', 'notebooks') if kind in kinds]
    return [*first, *(Environment('newest', python) for python in pythons if 'newest' in kinds)]

def make(uv, environment, base, folder):
    "Make an environment with wheels only, and the package in it as it lies here"
    wanted, exact, python = folder/'wanted.txt', folder/'exact.txt', folder/'env'/'bin'/'python'
    wanted.write_text('\n'.join(environment.requirements))
    run(uv, 'pip', 'compile', '-q', '--no-build', '--resolution', environment.resolution, '--python-version', environment.python,
        wanted, '-o', exact, check=True)
    run(uv, 'venv', '-q', '-p', base, folder/'env', check=True)
    run(uv, 'pip', 'install', '-q', '-p', python, '-r', exact, 'setuptools', check=True, timeout=3600)
    run(uv, 'pip', 'install', '-q', '-p', python, '--no-deps', '-e', root, check=True)
    return python

def test_files(environment, quick):
    if environment.kind == 'notebooks': return []
    if quick: return [root/'tests'/name for name in QUICK_TESTS]
    left_out = NEEDS_NBDEV if environment.kind == 'oldest' else ()
    return [path for path in sorted((root/'tests').glob('test_*.py')) if path.name not in left_out]

def notebooks(environment, quick):
    "Those that the tests do not run already"
    if environment.kind == 'oldest' or (environment.kind == 'newest' and not quick): return []
    every = sorted((root/'nbs').glob('[0-9]*.ipynb'))
    return [path for path in every if not quick or path.stem in QUICK_NOTEBOOKS]

def try_tests(environment, python, args):
    files = test_files(environment, args.quick)
    words = (python, '-m', 'pytest', '-q', '-n', args.jobs, '-p', 'no:cacheprovider', *files)
    return not files or run(*words, cwd=root, timeout=6*3600).returncode == 0

def try_notebook(python, notebook):
    out = run(python.with_name('nbdev-test'), notebook, '--n-workers', 0, timeout=1800, cwd=root, capture_output=True)
    return out.returncode == 0 and 'Success' in out.stdout + out.stderr

def try_all(environment, python, args):
    "Sentences about what failed"
    # no other copy of the package may be found
    os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='agg', PYTHONPATH=str(root))
    failed = [] if try_tests(environment, python, args) else ['tests failed (see above)']
    return failed + [f'{o.name} failed' for o in notebooks(environment, args.quick) if not try_notebook(python, o)]

def do(uv, environment, base, args):
    "Make an environment, try it, remove it; returns the sentence of the report"
    folder = Path(tempfile.mkdtemp(prefix=f'{environment.kind}-{environment.python}-', dir=args.work))
    began = time.time()
    try: python = make(uv, environment, base, folder)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as e:
        return f'{environment.name}: could not be made ({" ".join(e.cmd[1:3])} failed)'
    try: failed = try_all(environment, python, args)
    finally:
        if not args.keep: shutil.rmtree(folder)
    return f'{environment.name}: {"; ".join(failed) or "passed"} ({(time.time() - began)/60:.0f} minutes)'

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kinds', nargs='*', metavar='oldest|notebooks|newest', help='which to make (default all)')
    parser.add_argument('--quick', action='store_true', help='a part of the tests, and a few notebooks')
    parser.add_argument('--python', action='append', metavar='3.X', help='only these, for the newest dependencies; may be repeated')
    parser.add_argument('--jobs', default='1', help='tests at the same time (default 1)')
    parser.add_argument('--work', help='folder for the environments, which take 5 GB each (default: that of the system)')
    parser.add_argument('--keep', action='store_true', help='do not remove the environments')
    parser.add_argument('--plan', action='store_true', help='only say what would be done')
    args = parser.parse_args(argv)
    if set(args.kinds) - set(KINDS): parser.error(f'the kinds are {", ".join(KINDS)}')
    with tempfile.TemporaryDirectory() as tools:
        uv = find_uv(Path(tools))
        wanted = planned(args.kinds or KINDS, args.python or PYTHONS)
        there = {python: installed(uv, python) for python in {environment.python for environment in wanted}}
        said = []
        for environment in wanted:
            if there[environment.python] is None: said.append(f'{environment.name}: not run, this Python is not installed here')
            elif args.plan: said.append(f'{environment.name}: would run, with {there[environment.python]}')
            else: said.append(do(uv, environment, there[environment.python], args))
            print(said[-1], flush=True)
    if not args.plan: print('\nIn short:', *said, sep='\n')
    return any(': passed' not in line and ': not run' not in line and ': would run' not in line for line in said)

if __name__ == '__main__': sys.exit(main())
