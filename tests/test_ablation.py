"An ablation from the outside: the command whole, killed and resumed, new weights, and every wrong request answered with a sentence and nothing overwritten."
import json, os, re, signal, subprocess, sys, time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import conftest

SPEC = dict(scene=384, size=32, block=1, epochs=1, epoch_chips=16, budgets=(2,), seeds=2,
            levers=('pretraining', 'bce', 'tta'))
SHIPPED = 'from the shipped weights'
PROGRAM = """
import sys, json, torch
torch.set_num_threads(1)
from landslide_nb.study.ablation import *
run_ablation(AblationSpec(**json.loads(sys.argv[1])), sys.argv[2])
"""

@pytest.fixture(scope='module')
def spec():
    from landslide_nb.study.ablation import AblationSpec
    return AblationSpec(**SPEC)

@pytest.fixture(scope='module')
def done(spec, tmp_path_factory):
    "A small ablation, finished and written out"
    import torch
    from landslide_nb.study.ablation import run_ablation, write_ablation
    folder = tmp_path_factory.mktemp('done')/'abl'
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    write_ablation(run_ablation(spec, folder, bar=False), draws=100)
    torch.set_num_threads(before)
    return folder

def command(*words, cwd, timeout=1800):
    "`landslide-nb ablation` on one thread"
    return conftest.command('ablation', *words, cwd=cwd, timeout=timeout, OMP_NUM_THREADS='1')


def content(folder):
    return {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()}

def trial_rows(folder, keys):
    return pd.concat([pd.read_parquet(folder/'trials'/key/'run.parquet') for key in keys], ignore_index=True)

def test_the_command_leaves_table_page_and_figure(tmp_path):
    out = command('--levers', 'norm', '--budgets', 2, '--seeds', 2, '--epochs', 1, '--size', 1152, '--out', 'abl', cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-3000:]
    folder = tmp_path/'abl'
    files = {f.name for f in folder.glob('ablations.*')}
    assert files == {'ablations.md', 'ablations.parquet', 'ablations.png', 'ablations.svg'}
    page = (folder/'ablations.md').read_text()
    assert page.strip() in out.stdout
    assert 'left' in out.stderr             # the bar says how long
    assert 'landslide_nb 0.' in page        # which version made the numbers
    table = pd.read_parquet(folder/'ablations.parquet')
    from landslide_nb.study.scores import UNTRAINED
    assert set(table.lever) == {SHIPPED, 'batch norm frozen', 'shipped weights, no labels', *UNTRAINED}
    row = table[(table.lever == 'batch norm frozen') & (table.number == 'auprc')].iloc[0]
    assert row.against == SHIPPED
    assert row.effect_low <= row.effect <= row.effect_high
    assert row.seeds == 2

@pytest.mark.parametrize('lever, setting', [('no pretraining', 'from scratch'), ('BCE alone', 'BCE alone')])
@pytest.mark.parametrize('number', ['auprc', 'likely_signed_median_free'])
def test_differences_are_those_of_the_trials(done, lever, setting, number):
    "Paired by seed, worked out from the files of the trials"
    trials = trial_rows(done, [f.name for f in (done/'trials').iterdir()]).set_index(['setting', 'seed'])
    values = trials[f'{number}_natural']
    row = pd.read_parquet(done/'ablations.parquet').set_index(['lever', 'number']).loc[(lever, number)]
    differences = [values[setting, seed] - values[SHIPPED, seed] for seed in (0, 1)]
    assert row.effect == pytest.approx(np.mean(differences), abs=1e-9)
    holds_zero = row.effect_low <= 0 <= row.effect_high
    assert row.excludes_zero == (not holds_zero)

def test_eight_views_are_another_number(done):
    trials = trial_rows(done, [f.name for f in (done/'trials').iterdir()]).set_index(['setting', 'seed'])
    assert trials.auprc_natural['mean of eight views (test time)', 0] != trials.auprc_natural[SHIPPED, 0]

def test_an_effect_is_marked_only_if_its_interval_excludes_zero(done):
    table = pd.read_parquet(done/'ablations.parquet')
    lines = [line for line in (done/'ablations.md').read_text().splitlines() if line.startswith('|')]
    marked = {line.split(' | ')[0].strip('| ') for line in lines if '**' in line}
    excludes = table[(table.number == 'auprc') & table.excludes_zero.fillna(False)]
    assert marked == set(excludes.lever)

def start(folder):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([sys.executable, '-c', PROGRAM, json.dumps(SPEC), str(folder)],
                            stderr=subprocess.PIPE, text=True, env=env)

def stamps(folder):
    "When each finished trial was written"
    return {f.name: f.stat().st_mtime_ns for f in (folder/'trials').glob('*') if not f.name.startswith('.')}

def test_killed_and_started_again(spec, done, tmp_path):
    folder = tmp_path/'abl'
    process = start(folder)
    for _ in range(6000):        # a busy machine takes minutes
        if (folder/'trials').exists() and len(stamps(folder)) >= 6: break
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    then = stamps(folder)
    assert 6 <= len(then)
    (folder/'trials'/'.0123.torn').mkdir()      # what a kill in the middle of writing leaves
    process = start(folder)
    errors = process.communicate(timeout=1200)[1]
    assert process.returncode == 0, errors[-2000:]
    now = stamps(folder)
    assert {key: now[key] for key in then} == then
    assert now.keys() == stamps(done).keys()
    assert not list((folder/'trials').glob('.*'))
    resumed, straight = (trial_rows(f, sorted(now)).drop(columns='seconds') for f in (folder, done))
    pd.testing.assert_frame_equal(resumed, straight, rtol=1e-5, atol=1e-6)

def test_new_weights_make_new_trials_of_what_starts_from_them(spec, done):
    from landslide_nb.study.ablation import AblationBench, plan_ablation
    bench = AblationBench(spec, done)
    before = {trial: bench.key(trial) for trial in plan_ablation(spec)}
    bench.weights = 'of other weights'
    changed = {trial.setting for trial, key in before.items() if bench.key(trial) != key}
    assert 'from scratch' not in changed
    assert {SHIPPED, 'BCE alone', 'shipped weights, no labels'} <= changed

@pytest.mark.parametrize('words, says', [
    (('--levers', 'bce,luck'), "Unknown lever 'luck'; choose from pretraining"),
    (('--seeds', 1), 'seeds=1 gives no interval'),
    (('--event', 'atlantis'), "Unknown event 'atlantis'"),
    (('--budgets', '1,10'), 'budget of 1 is too small'),
    (('--levers', 'bce,bce'), 'none twice'),
    (('--epochs', 0), 'whole numbers')])
def test_a_request_that_cannot_be(words, says, tmp_path, capsys):
    from landslide_nb.cli import main
    assert main(['ablation', '--out', str(tmp_path/'abl'), *map(str, words)]) == 1
    err = capsys.readouterr().err
    assert err.startswith('landslide-nb: ') and err.count('\n') == 1
    assert re.search(re.escape(says), err)
    assert not (tmp_path/'abl').exists()

def test_a_folder_of_another_ablation_is_left_alone(spec, done):
    from landslide_nb.core import OutputError
    from landslide_nb.study.ablation import run_ablation
    before = content(done)
    with pytest.raises(OutputError, match="levers was .*, now .*choose a new folder"):
        run_ablation(replace(spec, levers=('dice',)), done, bar=False)
    assert content(done) == before

def test_a_folder_of_something_else_is_left_alone(spec, tmp_path):
    from landslide_nb.core import OutputError
    from landslide_nb.study.ablation import run_ablation
    (tmp_path/'notes.txt').write_text('x')
    with pytest.raises(OutputError, match='not empty'): run_ablation(spec, tmp_path, bar=False)
    assert [f.name for f in tmp_path.iterdir()] == ['notes.txt']

def test_the_browser_does_not_take_it_for_an_experiment(done):
    from landslide_nb.browser.runs import find_experiments
    assert not find_experiments(done.parent)
