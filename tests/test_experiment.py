"An experiment from the outside: killed and resumed, the same again, and every wrong request answered with a sentence and nothing overwritten."
import json, os, re, shutil, signal, subprocess, sys, time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

SPEC = dict(scene=512, size=32, pretrain_size=16, block=1, width=4, epochs=1, epoch_chips=16, pretrain_epochs=1,
    budgets=(2, 5), seeds=2, pretrain=('none', 'demo_a', 'demo_b'))
CLOSE = dict(rtol=1e-5, atol=1e-6)      # the calibration's solver adds up in another order in another process
PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from landslide_nb.study.experiment import run_experiment
from landslide_nb.study.protocol import ExperimentSpec
if __name__ == '__main__': run_experiment(ExperimentSpec.from_json(sys.argv[1]), sys.argv[2], workers=2)
"""

@pytest.fixture(scope='module')
def spec():
    from landslide_nb.study.protocol import ExperimentSpec
    return ExperimentSpec(**SPEC)

def start(spec, folder):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([sys.executable, '-c', PROGRAM, spec.to_json(), str(folder)],
                            stderr=subprocess.PIPE, text=True, env=env)

def stamps(folder):
    "When each finished trial and stage-1 model was written"
    files = [*(folder/'runs').glob('*'), *(folder/'stage1').glob('*.safetensors')]
    return {f.name: f.stat().st_mtime_ns for f in files if not f.name.startswith('.')}

def content(folder):
    return {f: f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}

@pytest.fixture(scope='module')
def killed(spec, tmp_path_factory):
    "An experiment killed in the middle, with what it had by then, and run to its end"
    folder = tmp_path_factory.mktemp('killed')/'exp'
    process = start(spec, folder)
    for _ in range(6000):        # a busy machine takes minutes
        if (folder/'runs').exists() and len(stamps(folder)) >= 9: break
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=30)[1]        # none goes on alone
    then = stamps(folder)
    assert 9 <= len(then)
    assert not (folder/'results.parquet').exists()
    (folder/'runs'/'.0123.torn').mkdir()                        # what a kill in the middle of writing leaves
    process = start(spec, folder)
    errors = process.communicate(timeout=1200)[1]
    assert process.returncode == 0, errors[-2000:]
    return folder, then, errors

@pytest.fixture(scope='module')
def straight(spec, tmp_path_factory):
    "The same experiment without a break"
    import torch
    from landslide_nb.study.experiment import run_experiment
    folder = tmp_path_factory.mktemp('straight')/'exp'
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run_experiment(spec, folder, bar=False)
    torch.set_num_threads(before)
    return folder

def test_resumes_after_sigkill_and_repeats_nothing(killed):
    folder, then, errors = killed
    now = stamps(folder)
    assert {key: now[key] for key in then} == then
    assert len(now) > len(then)
    assert not list((folder/'runs').glob('.*'))
    assert (folder/'results.parquet').exists()
    assert 'left' in errors and 'chips, seed' in errors         # the progress bar names the trial and the time left

def test_same_seed_same_numbers(killed, straight):
    resumed, whole = (pd.read_parquet(f/'results.parquet') for f in (killed[0], straight))
    from landslide_nb.study.scores import UNTRAINED
    assert len(resumed) == len(UNTRAINED) + 2*2*(1 + 3)
    pd.testing.assert_frame_equal(resumed.drop(columns='seconds'), whole.drop(columns='seconds'), **CLOSE)
    exact = [c for c in resumed if c in ('setting', 'budget', 'seed') or c.startswith('auprc')]
    pd.testing.assert_frame_equal(resumed[exact], whole[exact], check_exact=True)

@pytest.mark.parametrize('name', ['chips', 'pixels'])
def test_same_seed_same_tables(killed, straight, name):
    resumed, whole = (pd.read_parquet(f/f'{name}.parquet') for f in (killed[0], straight))
    pd.testing.assert_frame_equal(resumed, whole, **CLOSE)

def test_one_row_a_trial_and_test_chip(straight):
    from landslide_nb.data.chips import ChipSet
    trials, chips = (pd.read_parquet(straight/name) for name in ('results.parquet', 'chips.parquet'))
    test = ChipSet(straight/'chips'/'demo_a').rows('test')
    assert len(chips) == len(trials)*len(test)
    assert set(chips.chip) == set(test)
    assert not chips[['run', 'chip']].duplicated().any()
    from landslide_nb.study.scores import UNTRAINED
    assert {'log-ratio 5 x 5', 'standardized change 5 x 5'} < set(UNTRAINED)
    assert set(trials.setting) == {*UNTRAINED, 'pixel regression', 'no pretraining', 'demo_a, frozen', 'demo_b, frozen'}

def test_all_zero_scores_what_guessing_does(straight):
    trials, chips = (pd.read_parquet(straight/name) for name in ('results.parquet', 'chips.parquet'))
    zero = trials[trials.setting == 'all-zero'].iloc[0]
    assert zero.auprc_natural == pytest.approx(zero.share_natural)
    assert zero.count_signed_median_free_natural == 0
    with_landslide = chips[(chips.run == zero.run) & (chips.true > 0)]
    assert zero.count_signed_median_landslide_natural == -with_landslide.true.median()

@pytest.mark.parametrize('name, size', [('log-ratio', 1), ('log-ratio 5 x 5', 5)])
def test_pooled_auprc_agrees_with_sklearn(straight, name, size):
    "From the pixels, not from our own histogram"
    from sklearn.metrics import average_precision_score
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.data.pair import box_mean
    trials = pd.read_parquet(straight/'results.parquet').set_index('setting')
    chips = ChipSet(straight/'chips'/'demo_a')
    rows = chips.rows('test')
    change = chips.chips[rows, 1].astype('float32') - chips.chips[rows, 0].astype('float32')
    truth = np.array(chips.masks[rows])
    score = np.stack([box_mean(vv - vh, size) for vv, vh in change])
    keep = (truth != 255) & ~np.isnan(score)
    expected = average_precision_score(truth[keep] == 1, score[keep])
    assert trials.auprc_natural[name] == pytest.approx(expected, abs=1e-4)

def test_report_is_complete(straight, tmp_path):
    from landslide_nb.study.report import write_report
    folder = Path(shutil.copytree(straight, tmp_path/'exp'))
    page = re.sub('base64,[^"]*', '', write_report(folder, draws=100).read_text())
    png, svg = (list((folder/'figures').glob(f'*.{kind}')) for kind in ('png', 'svg'))
    assert page.count('<img') == len(png) == len(svg) >= 8
    assert '="http' not in page
    tables = (folder/'tables.md').read_text()
    for word in ('all-zero', 'log-ratio 5 x 5', 'standardized change 5 x 5', 'pixel regression',
                 'Effect of pretraining', 'landslide-free chips'):
        assert word in tables
        assert word in page
    assert 'improve' not in tables

def refused(spec, folder, error, *words):
    "An experiment that cannot be run: one line that says why, and no file of the folder changed"
    from landslide_nb.study.experiment import run_experiment
    before = content(folder)
    with pytest.raises(error) as e: run_experiment(spec, folder, bar=False)
    message = str(e.value)
    assert all(word in message for word in words), message
    assert '\n' not in message
    if before: assert content(folder) == before

def test_folder_of_another_experiment(spec, straight):
    from landslide_nb.core import OutputError
    refused(replace(spec, seeds=3), straight, OutputError, 'another experiment', 'seeds was 2, now 3')

def test_folder_of_another_version(spec, straight, tmp_path):
    from landslide_nb.core import OutputError
    from landslide_nb.study.analysis import read_results
    from landslide_nb.study.intervals import AnalysisError
    folder = Path(shutil.copytree(straight, tmp_path/'exp'))
    path = folder/'spec.json'
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, 'code': '0.0.1+00000000'}))
    refused(spec, folder, OutputError, 'written by landslide_nb 0.0.1')
    path.write_text(json.dumps({**found, 'format': 99}))
    refused(spec, folder, OutputError, 'choose a new folder')
    with pytest.raises(AnalysisError, match='format 99'): read_results(folder)

def test_folder_with_something_else(spec, tmp_path):
    from landslide_nb.core import OutputError
    (tmp_path/'letter.txt').write_text('dear')
    refused(spec, tmp_path, OutputError, 'not empty')

def test_planted_leak_stops_the_experiment(spec, straight, tmp_path):
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.core import ChipError
    folder = Path(shutil.copytree(straight, tmp_path/'exp'))
    chips = ChipSet(folder/'chips'/'demo_a')
    tested = chips.table.iloc[chips.rows('test')[:1]]
    twin = tested.assign(split='train', block=10**6)            # the same ground, in another part
    pd.concat([chips.table, twin], ignore_index=True).to_parquet(chips.folder/'table.parquet')
    refused(spec, folder, ChipError, 'share pixels', '(train)', '(test)')

def test_budget_beyond_the_chips(spec, tmp_path):
    from landslide_nb.core import ChipError
    big = replace(spec, budgets=(2, 5000), pretrain=('none',))
    refused(big, tmp_path/'exp', ChipError, 'A budget of 5000 chips is more than exists')
    assert not (tmp_path/'exp'/'runs').exists()

def test_report_without_results(tmp_path):
    from landslide_nb.study.intervals import AnalysisError
    from landslide_nb.study.report import write_report
    with pytest.raises(AnalysisError, match='no finished experiment'): write_report(tmp_path)
    assert not list(tmp_path.iterdir())

def toy_scores(seed, kind):
    "Scores and truth of ten chips: (score, truth, truth of the validation chips)"
    g = np.random.default_rng(seed)
    truth = (g.random((10, 32, 32)) < .05).astype(np.uint8)
    truth[g.random(truth.shape) < .1] = 255
    valid_truth = truth.copy()
    if kind == 'all negative': truth[truth == 1] = 0
    if kind == 'all ignored': truth[:] = 255
    score = (g.normal(-3, 1, truth.shape) + 2*(truth == 1)).astype('float32')
    return np.round(score) if kind == 'ties' else score, truth, valid_truth

@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('kind', ['ties', 'all negative', 'all ignored', 'random'])
def test_scores_agree_with_sklearn(kind, seed):
    from sklearn.metrics import average_precision_score, brier_score_loss, f1_score
    from landslide_nb.study.scores import score_trial
    score, truth, valid_truth = toy_scores(seed, kind)
    where = pd.DataFrame(dict(chip=np.arange(10), block=np.arange(10)//2, published=np.arange(10) < 6))
    numbers, chips, pixels, prob = score_trial(score, valid_truth, score, truth, where)
    keep = truth != 255
    known, p, x = truth[keep] == 1, prob[keep].astype(float), score[keep].astype(float)
    if known.any():
        assert numbers['auprc_natural'] == pytest.approx(average_precision_score(known, x), abs=1e-4)
        assert numbers['f1_natural'] == pytest.approx(f1_score(known, p >= numbers['threshold']))
    else:
        assert np.isnan(numbers['auprc_natural'])
        assert chips.auprc.isna().all()
    assert chips.pixels.sum() == keep.sum() == pixels[['negative', 'positive']].sum().sum()
    if keep.any():
        assert numbers['brier_natural'] == pytest.approx(brier_score_loss(known, p, labels=[False, True]), abs=1e-6)
    else: assert np.isnan(numbers['brier_natural'])

@pytest.fixture(scope='module')
def published_cube(tmp_path_factory):
    "A made-up cube in the schema of the published ones, as a Zarr on disk"
    from landslide_nb.testing import mock_cube
    path = tmp_path_factory.mktemp('cubes')/'hokkaido_japan.zarr'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        mock_cube((448, 448)).chunk(timestep=1, y=256, x=256).to_zarr(path, zarr_format=2, consolidated=True)
    return path

def run_region(region, folder):
    "A small experiment on one region, with and without pretraining on it"
    from landslide_nb.study.experiment import run_experiment
    from landslide_nb.study.protocol import ExperimentSpec
    spec = ExperimentSpec(**{**SPEC, 'scene': 2688, 'budgets': (2,), 'event': region, 'pretrain': ('none', region)})
    return run_experiment(spec, folder, bar=False)

def test_a_published_cube_goes_the_same_way(published_cube, tmp_path, monkeypatch):
    "By the path of its Zarr and, once fetched, by its name: the same numbers"
    from landslide_nb.study.report import write_report
    by_path = run_region(str(published_cube), tmp_path/'path')
    monkeypatch.setenv('LANDSLIDE_NB_CACHE', str(tmp_path/'cache'))
    (tmp_path/'cache'/'events').mkdir(parents=True)
    (tmp_path/'cache'/'events'/'hokkaido_japan.zarr').symlink_to(published_cube)
    by_name = run_region('hokkaido', tmp_path/'name')
    assert set(by_name.event) == {'hokkaido'}
    assert set(by_path.event) == {'hokkaido_japan'}
    assert {'hokkaido, frozen', 'no pretraining'} < set(by_name.setting)
    assert 'hokkaido_japan, frozen' in set(by_path.setting)
    np.testing.assert_array_equal(by_name.auprc_natural, by_path.auprc_natural)
    meta = json.loads((tmp_path/'name'/'chips'/'hokkaido'/'meta.json').read_text())
    assert meta['event'] == dict(name='hokkaido', start='2018-09-05', end='2018-09-07')
    assert 'Label efficiency on hokkaido' in write_report(tmp_path/'name', draws=50).read_text()
