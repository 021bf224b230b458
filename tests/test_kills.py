"""Every step is killed twice at random moments, and what was disturbed otherwise is looked at too.

`python -m benchmarks.kills` is the whole campaign; its page is `benchmarks/kills.md`. It runs in a process of its own, for
a process with threads cannot be forked.
"""
import os, subprocess, sys, threading

import pytest

from benchmarks.kills import PACKAGE, Ending, own_words, small_chips
from conftest import root
from landslide_nb.data.chips import ChipSet

QUICK = ('fetch', 'save_cube', 'make_chips', 'split_chips', 'save_model')
TRAINED = ('finetune', 'adapt', 'experiment')
LABELLED = ('first_label', 'save_labels')
SERVED = ('build', 'download') # with a server of their own

def campaign(folder, steps, *options):
    "The page of a short campaign"
    page = folder/'kills.md'
    words = [sys.executable, '-m', 'benchmarks.kills', '--times', '2', '--out', str(page), *options, *steps]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    out = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, timeout=600)
    assert page.exists(), out.stderr[-3000:]
    return page.read_text()

def rows(text, first):
    "The rows of the table whose first column has this title"
    lines = [[cell.strip() for cell in line.strip('|').split('|')]
             for line in text.splitlines() if line.startswith('|')]
    starts = [k for k, line in enumerate(lines) if line[0] == first]
    if not starts: return []
    names, found = lines[starts[0]], []
    for line in lines[starts[0] + 2:]:
        if len(line) != len(names): break
        found.append(dict(zip(names, line)))
    return found

def failures(text): return text.partition('## What failed')[2].strip()

@pytest.fixture(scope='module')
def quick(tmp_path_factory): return campaign(tmp_path_factory.mktemp('quick'), QUICK)

@pytest.fixture(scope='module')
def trained(tmp_path_factory): return campaign(tmp_path_factory.mktemp('trained'), TRAINED, '--no-cases')

def test_killed_at_random_moments_nothing_is_lost(quick):
    assert {row['step'] for row in rows(quick, 'step')} == set(QUICK)
    assert all(int(row['kills']) >= 2 for row in rows(quick, 'step'))
    assert failures(quick) == ''

def test_other_disturbances_end_in_a_sentence_and_leave_nothing(quick):
    cases = rows(quick, 'case')
    assert len({row['case'] for row in cases}) >= 6
    assert [row for row in cases if not row['outcome'].startswith(('held', 'skipped'))] == []

def test_killed_trainings_and_studies_end_with_the_undisturbed_result(trained):
    assert {row['step'] for row in rows(trained, 'step')} == set(TRAINED)
    assert failures(trained) == ''

def test_decisions_are_saved_or_not_made_whenever_the_process_ends(tmp_path):
    page = campaign(tmp_path, LABELLED, '--case', 'full disk')
    assert [int(row['kills']) >= 2 for row in rows(page, 'step')] == [True, True]
    assert failures(page) == ''

def test_a_killed_build_goes_on_and_a_killed_page_leaves_no_half_file(tmp_path):
    page = campaign(tmp_path, SERVED, '--no-cases', '--times', '1')
    assert {row['step'] for row in rows(page, 'step')} == set(SERVED)
    assert all(int(row['kills']) >= 1 for row in rows(page, 'step'))
    assert failures(page) == ''

def test_the_order_of_consolidated_metadata_is_no_difference(tmp_path):
    "zarr 3.0.8 lists the arrays in any order; what it says of them counts"
    from benchmarks.kills import digest
    path = tmp_path/'.zmetadata'
    found = []
    for text in ('{"vv": 1, "vh": 2}', '{"vh": 2, "vv": 1}', '{"vv": 1, "vh": 3}'):
        path.write_text(text)
        found.append(digest(path))
    assert found[0] == found[1] != found[2]

def test_a_campaign_finds_what_a_careless_step_leaves(tmp_path):
    "A step that writes under the final name, and leaves a scratch file, is found out by the same means"
    program = '''
import time
from argparse import Namespace
from benchmarks import kills
def careless(inputs, home):
    (home/'.scratch').write_text('x')
    with open(home/'result.txt', 'w', buffering=1) as f:
        for k in range(20):
            f.write(f'{k}\\n')
            time.sleep(.02)
    (home/'.scratch').unlink()
kills.import_all()
rows, cases, details = kills.do_step(kills.Step('careless', careless), Namespace(times=6, seed=0, case=[]), print)
assert rows[0]['half made'] > 0, rows
'''
    out = subprocess.run([sys.executable, '-c', program], cwd=root, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr[-3000:]

def test_a_table_that_is_replaced_while_it_is_read_is_one_of_the_two(tmp_path):
    table = small_chips(tmp_path/'chips').folder/'table.parquet'
    ChipSet(table.parent).table.drop(columns='split').to_parquet(tmp_path/'other.parquet')
    versions = [table.read_bytes(), (tmp_path/'other.parquet').read_bytes()]
    over = threading.Event()
    def replace():
        while not over.is_set():
            for version in versions:
                (tmp_path/'new').write_bytes(version)
                os.replace(tmp_path/'new', table)
    writer = threading.Thread(target=replace)
    writer.start()
    try: lengths = {len(ChipSet(table.parent).table) for _ in range(100)}
    finally:
        over.set()
        writer.join()
    assert lengths == {64}


def test_whose_words_end_a_call_that_gets_no_memory():
    "What a library says is its own; an error of this package's own line is a fault, unless it is memory by name"
    def ended(result, *places):
        frames = ''.join(f'  File "{place}", line 1, in f\n' for place in places)
        return Ending('crashed', result, f'Traceback (most recent call last):\n{frames}{result}')
    ours, others = PACKAGE/'core.py', '/env/site-packages/pyarrow/parquet/core.py'
    assert own_words(ended('ArrowException: Failed to launch worker thread', ours, others))
    assert own_words(ended('MemoryError: ', ours))
    assert not own_words(ended('AttributeError: None has no attribute x', others, ours))
    assert not own_words(Ending('crashed', 'ValueError: x'))
