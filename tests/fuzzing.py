"""Malformed input on purpose: what a fuzz test needs.

A **door** is a function that reads something from outside. A **case** is one malformed input. The only good outcomes are
an object or a `LandslideError`, within ten seconds of the processor (a minute of the clock) and two gigabytes.

    pytest tests/test_fuzz.py                                      200 cases a door, always the same
    FUZZ_CASES=10000 pytest tests/test_fuzz.py                     other ones every day
    FUZZ_CASES=10000 FUZZ_SEED=7 FUZZ_REPORT=f pytest ...          seed chosen, outcomes appended to a file
"""
import copy
import datetime
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dask
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from landslide_nb.core import LandslideError

CI_CASES = 200
CASES = int(os.environ.get('FUZZ_CASES', CI_CASES))
TODAY = datetime.date.today().toordinal()
SEED = int(os.environ.get('FUZZ_SEED', 0 if CASES <= CI_CASES else TODAY))
SECONDS = 10 # of the processor, most that a case may take
PATIENCE = 60 # seconds of the clock, on a machine that does other things, too
MEMORY = 2*2**30 # most bytes a campaign may add to its process


class TooSlow(BaseException):
    "A case ran out of time; no reader may catch this"


CLOCKS = ((signal.ITIMER_PROF, signal.SIGPROF), (signal.ITIMER_REAL, signal.SIGALRM)) # of the processor, of the wall

@contextmanager
def at_most(seconds, patience=PATIENCE):
    "Interrupt what takes longer: seconds of the processor, or of the clock"
    def ring(*_): raise TooSlow(f'more than {seconds} s')
    before = {bell: signal.signal(bell, ring) for _, bell in CLOCKS}
    for (timer, _), limit in zip(CLOCKS, (seconds, patience)): signal.setitimer(timer, limit)
    try: yield
    finally:
        for timer, bell in CLOCKS:
            signal.setitimer(timer, 0)
            signal.signal(bell, before[bell])


@contextmanager
def no_more_than(memory):
    "Make larger allocations fail, so that a bad header cannot take the machine's memory"
    pages = int(Path('/proc/self/statm').read_text().split()[0]) if Path('/proc/self/statm').exists() else None
    if pages is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages*resource.getpagesize() + memory, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def where(error):
    "The kind of an error, the line of the package it left from and the line it came from"
    steps = traceback.extract_tb(error.__traceback__)
    ours = [f for f in steps if 'landslide_nb' in f.filename] or steps
    def place(step): return f'{Path(step.filename).name}:{step.name}'
    return f'{type(error).__name__} in {place(ours[-1])}, from {place(steps[-1])}'


def outcome(door, case):
    "opened, refused, or what went wrong (with the error)"
    try:
        with at_most(SECONDS), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            door(case)
    except LandslideError: return 'refused', None
    except (Exception, TooSlow) as e: return where(e), e
    return 'opened', None


def report(name, counted):
    "Append the outcomes of a door to the file that FUZZ_REPORT names"
    path = os.environ.get('FUZZ_REPORT')
    if not path: return
    line = json.dumps(dict(door=name, seed=SEED, cases=sum(counted.values()), outcomes=counted))
    with open(path, 'a') as f: f.write(f'{line}\n')


def campaign(
    name,  # of the door, for the report
    cases, # hypothesis strategy
    door,  # function of a case
):
    "Try `CASES` cases on a door; fail with the shortest example of each kind of failure"
    counted, failed = Counter(), {}

    @settings(max_examples=CASES, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @seed(SEED)
    @given(cases)
    def try_one(case):
        kind, error = outcome(door, case)
        counted[kind] += 1
        if error is None: return
        example = f'{error!s:.200}\n    case: {case!r:.1500}'
        if len(example) < len(failed.get(kind, example + '.')): failed[kind] = example

    with no_more_than(MEMORY), dask.config.set(scheduler='synchronous'): try_one()
    report(name, counted)
    listed = '\n'.join(f'{counted[kind]} x {kind}: {example}' for kind, example in failed.items())
    assert not failed, f'{name}, seed {SEED}, {dict(counted)}\n{listed}'


def in_its_own_process(
    code,         # Python; must end, or end with a LandslideError
    seconds=60,
    memory=8*2**30, # bytes of address space; torch alone maps some gigabytes
):
    "Run code with bounded memory and time; 'opened' or what the `LandslideError` says"
    text = textwrap.dedent(code)
    script = '\n'.join([
        'import resource, warnings',
        'from landslide_nb.core import LandslideError',
        'warnings.simplefilter("ignore")',
        f'resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))',
        'try:',
        textwrap.indent(text, '    '),
        'except LandslideError as e: print("REFUSED", str(e).encode("ascii", "backslashreplace").decode())',
        'else: print("OPENED")',
    ])
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-1500:]
    said = done.stdout.strip().splitlines()[-1]
    return 'opened' if said == 'OPENED' else said.removeprefix('REFUSED ')


# bytes

EXTREMES = [b'\xff'*4, b'\0'*4, b'\xff'*8, b'\xff\xff\xff\x7f', b'\0\0\0\x80', b'\0'*64]

def _edit(data, edit):
    kind, at, what = edit
    at %= max(1, len(data))
    if kind == 'put': data[at:at+len(what)] = what
    elif kind == 'insert': data[at:at] = what
    elif kind == 'drop': del data[at:at+what]
    else: del data[at:]

def _edited(valid, edits):
    data = bytearray(valid)
    for edit in edits: _edit(data, edit)
    return bytes(data)

def spoiled(
    valid,     # bytes of a good file
    first=None, # most edits lie in that many first bytes, where the headers are
):
    "The file with one to four edits: bytes replaced, inserted, dropped, or the end cut off"
    last = len(valid) - 1
    place = st.integers(0, last)
    if first: place = st.one_of(st.integers(0, min(first, last)), st.integers(0, min(first, last)), place)
    bytes_ = st.one_of(st.binary(min_size=1, max_size=1), st.binary(min_size=1, max_size=8), st.sampled_from(EXTREMES))
    edits = st.one_of(
        st.tuples(st.just('put'), place, bytes_),
        st.tuples(st.just('put'), place, bytes_),
        st.tuples(st.just('insert'), place, bytes_),
        st.tuples(st.just('drop'), place, st.integers(1, 64)),
        st.tuples(st.just('cut'), place, st.none()),
    )
    return st.lists(edits, min_size=1, max_size=4).map(partial(_edited, valid))


# JSON

NUMBERS = [-1, 0, 1, 2, 3, 255, 10**6, 2**31, 2**63, 10**30, -10**30,
           .5, -0., 1e-320, 1e308, float('inf'), float('nan')]
WORDS = ['', ' ', 'nan', 'none', 'base', '../../etc/passwd', '/', '.', 'a/b', '\0', '\ud800', 'é', '\U0001f30b', 'a'*300,
         '9'*5000, '20180905', '2018-09-05', 'EPSG:4326', '<f8', '|O', '<script>', 'a\nb', 'a+b', 'x.safetensors']
plain = st.one_of(st.none(), st.booleans(), st.integers(),
                  st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.text(max_size=8))
anything = st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(st.sampled_from(WORDS), plain, max_size=3),
                     st.lists(st.lists(plain, max_size=2), max_size=2))

def paths_in(value, path=()):
    "Where the parts of a JSON value lie"
    yield path
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys: yield from paths_in(value[key], (*path, key))

def _replace(value, path, new):
    "`value` with the part at `path` replaced, or dropped where `new` is Ellipsis; unchanged where there is no such part"
    if not path: return value if new is ... else new
    inner = value
    try:
        for key in path[:-1]: inner = inner[key]
        if new is ...: del inner[path[-1]]
        else: inner[path[-1]] = new
    except (KeyError, IndexError, TypeError): pass
    return value

def _changed(valid, changes):
    value = copy.deepcopy(valid)
    for path, new in changes: value = _replace(value, path, copy.deepcopy(new))
    return value

def odd_json(
    valid, # a JSON value
):
    "The value with one to three parts replaced by something else, or dropped, or with something added"
    inside = list(paths_in(valid))
    folders = [p for p in inside if isinstance(_at(valid, p), dict)]
    added = st.builds(lambda path, key: (*path, key),
                      st.sampled_from(folders), st.sampled_from(WORDS)) if folders else st.nothing()
    change = st.one_of(
        st.tuples(st.sampled_from(inside), anything),
        st.tuples(st.sampled_from(inside), anything),
        st.tuples(st.sampled_from(inside), st.just(...)),
        st.tuples(added, anything),
    )
    return st.lists(change, min_size=1, max_size=3).map(partial(_changed, valid))

def _at(value, path):
    for key in path: value = value[key]
    return value
