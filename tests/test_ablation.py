"An ablation from the outside: the command whole, killed and resumed, new weights, and every wrong request answered with a sentence and nothing overwritten."
import json, os, re, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
import pytest

SPEC = dict(scene=512, size=32, block=1, epochs=1, epoch_chips=16, budgets=(2,), seeds=2, levers=('pretraining', 'bce', 'tta'))

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
    before = torch.get_num_threads(); torch.set_num_threads(1)
    write_ablation(run_ablation(spec, folder, bar=False), draws=100)
    torch.set_num_threads(before)
    return folder

def command(*words, cwd, timeout=1800):
    return subprocess.run([Path(sys.executable).parent/'landslide-nb', 'ablation', *map(str, words)], cwd=cwd, timeout=timeout, capture_output=True, text=True,
                          env={**os.environ, 'LANDSLIDE_NB_CACHE': str(cwd/'cache'), 'OMP_NUM_THREADS': '1'})

def content(folder): return {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()}

def test_the_command_leaves_table_page_and_figure(tmp_path):
    out = command('--levers', 'norm', '--budgets', 2, '--seeds', 2, '--epochs', 1, '--size', 1152, '--out', 'abl', cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-3000:]
    folder = tmp_path/'abl'
    assert {f.name for f in folder.glob('ablations.*')} == {'ablations.md', 'ablations.parquet', 'ablations.png', 'ablations.svg'}
    assert (folder/'ablations.md').read_text().strip() in out.stdout and 'left' in out.stderr   # the bar says how long
    assert 'landslide_nb 0.' in (folder/'ablations.md').read_text()                             # which version made the numbers
    t = pd.read_parquet(folder/'ablations.parquet')
    assert set(t.lever) == {'from the shipped weights', 'batch norm frozen', 'shipped weights, no labels', 'all-zero', 'log-ratio', 'log-ratio 5 x 5'}
    row = t[(t.lever == 'batch norm frozen') & (t.number == 'auprc')].iloc[0]
    assert row.against == 'from the shipped weights' and row.effect_low <= row.effect <= row.effect_high and row.seeds == 2

def test_differences_are_those_of_the_runs(done):
    "Paired by seed, worked out from the files of the trials"
    runs = pd.concat([pd.read_parquet(f) for f in done.glob('trials/*/run.parquet')]).set_index(['setting', 'seed'])
    t = pd.read_parquet(done/'ablations.parquet').set_index(['lever', 'number'])
    for lever, setting in (('no pretraining', 'from scratch'), ('BCE alone', 'BCE alone')):
        for number in ('auprc', 'likely_signed_median_free'):
            pairs = [runs.loc[(setting, s), f'{number}_natural'] - runs.loc[('from the shipped weights', s), f'{number}_natural'] for s in (0, 1)]
            assert t.loc[(lever, number), 'effect'] == pytest.approx(np.mean(pairs), abs=1e-9)
            assert t.loc[(lever, number), 'excludes_zero'] == (not t.loc[(lever, number), 'effect_low'] <= 0 <= t.loc[(lever, number), 'effect_high'])
    assert runs.loc[('mean of eight views (test time)', 0), 'auprc_natural'] != runs.loc[('from the shipped weights', 0), 'auprc_natural']

def test_an_effect_is_marked_only_if_its_interval_excludes_zero(done):
    t = pd.read_parquet(done/'ablations.parquet')
    marked = {line.split(' | ')[0].strip('| ') for line in (done/'ablations.md').read_text().splitlines() if line.startswith('|') and '**' in line}
    assert marked == set(t[(t.number == 'auprc') & t.excludes_zero.fillna(False)].lever)

def test_killed_and_started_again(spec, done, tmp_path):
    code = "import sys, json, torch; torch.set_num_threads(1)\nfrom landslide_nb.study.ablation import *\nrun_ablation(AblationSpec(**json.loads(sys.argv[1])), sys.argv[2])"
    folder = tmp_path/'abl'
    start = lambda: subprocess.Popen([sys.executable, '-c', code, json.dumps(SPEC), str(folder)], stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    stamps = lambda: {f.name: f.stat().st_mtime_ns for f in (folder/'trials').glob('*') if not f.name.startswith('.')}
    p = start()
    for _ in range(3000):
        if (folder/'trials').exists() and len(stamps()) >= 6: break
        assert p.poll() is None, p.communicate()[1][-2000:]
        time.sleep(.1)
    p.send_signal(signal.SIGKILL); p.wait()
    then = stamps()
    assert 6 <= len(then)
    (folder/'trials'/'.0123.torn').mkdir()
    p = start(); err = p.communicate(timeout=600)[1]
    assert p.returncode == 0, err[-2000:]
    now = stamps()
    assert {k: now[k] for k in then} == then and now.keys() == {f.name for f in (done/'trials').glob('*')} and not list((folder/'trials').glob('.*'))
    read = lambda d: pd.concat([pd.read_parquet(d/'trials'/k/'run.parquet') for k in sorted(now)], ignore_index=True).drop(columns='seconds')
    pd.testing.assert_frame_equal(read(folder), read(done), rtol=1e-5, atol=1e-6)

def test_new_weights_make_new_trials_of_what_starts_from_them(spec, done):
    from landslide_nb.study.ablation import AblationBench, plan_trials
    bench = AblationBench(spec, done)
    old = {t: bench.key(t) for t in plan_trials(spec)}
    bench.base = 'of other weights'
    changed = {t.setting for t, k in old.items() if bench.key(t) != k}
    assert 'from scratch' not in changed and {'from the shipped weights', 'BCE alone', 'shipped weights, no labels'} <= changed

@pytest.mark.parametrize('words, says', [(('--levers', 'bce,luck'), "Unknown lever 'luck'; choose from pretraining"), (('--seeds', 1), 'seeds=1 gives no interval'),
    (('--event', 'atlantis'), "Unknown event 'atlantis'"), (('--budgets', '1,10'), 'budget of 1 is too small'), (('--levers', 'bce,bce'), 'none twice'), (('--epochs', 0), 'whole numbers')])
def test_a_request_that_cannot_be(words, says, tmp_path, capsys):
    from landslide_nb.cli import main
    assert main(['ablation', '--out', str(tmp_path/'abl'), *map(str, words)]) == 1
    err = capsys.readouterr().err
    assert err.startswith('landslide-nb: ') and err.count('\n') == 1 and re.search(re.escape(says), err) and not (tmp_path/'abl').exists()

def test_a_folder_of_something_else_is_left_alone(spec, done, tmp_path):
    from landslide_nb.study.ablation import run_ablation
    from landslide_nb.core import OutputError
    before = content(done)
    with pytest.raises(OutputError, match="levers was .*, now .*choose a new folder"): run_ablation(replace(spec, levers=('dice',)), done, bar=False)
    assert content(done) == before
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'notes.txt').write_text('x')
    with pytest.raises(OutputError, match='not empty'): run_ablation(spec, tmp_path/'mine', bar=False)
    assert [f.name for f in (tmp_path/'mine').iterdir()] == ['notes.txt']

def test_the_browser_does_not_take_it_for_an_experiment(done):
    from landslide_nb.browser.views import find_experiments
    assert not find_experiments(done.parent)
