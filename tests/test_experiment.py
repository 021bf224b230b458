"An experiment from the outside: killed and resumed, the same again, and every wrong request answered with a sentence and nothing overwritten."
import json, os, re, shutil, signal, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path
import numpy as np
import pandas as pd
import psutil
import pytest

SPEC = dict(scene=512, size=32, pretrain_size=16, block=1, width=4, epochs=1, epoch_chips=16, pretrain_epochs=1, budgets=(2, 5), seeds=2, pretrain=('none', 'demo_a', 'demo_b'))

@pytest.fixture(scope='module')
def spec():
    from landslide_nb.study.protocol import ExperimentSpec
    return ExperimentSpec(**SPEC)

def start(spec, folder):
    code = "import sys, torch; torch.set_num_threads(1)\nfrom landslide_nb.study.experiment import run_experiment\nfrom landslide_nb.study.protocol import ExperimentSpec\nif __name__ == '__main__': run_experiment(ExperimentSpec.from_json(sys.argv[1]), sys.argv[2], workers=2)"
    return subprocess.Popen([sys.executable, '-c', code, spec.to_json(), str(folder)], stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})

def stamps(folder): return {f.name: f.stat().st_mtime_ns for f in [*(folder/'runs').glob('*'), *(folder/'stage1').glob('*.safetensors')] if not f.name.startswith('.')}

@pytest.fixture(scope='module')
def killed(spec, tmp_path_factory):
    "An experiment killed in the middle, with what it had by then, and run to its end"
    folder = tmp_path_factory.mktemp('killed')/'exp'
    p = start(spec, folder)
    for _ in range(1200):
        if (folder/'runs').exists() and len(stamps(folder)) >= 9: break
        assert p.poll() is None, p.communicate()[1][-2000:]
        time.sleep(.1)
    workers = psutil.Process(p.pid).children(recursive=True)
    p.send_signal(signal.SIGKILL); p.wait()
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=30)[1]    # none goes on alone
    then = stamps(folder)
    assert 9 <= len(then) and not (folder/'results.parquet').exists()
    (folder/'runs'/'.0123.torn').mkdir()                       # what a kill in the middle of writing leaves
    p = start(spec, folder)
    err = p.communicate(timeout=600)[1]
    assert p.returncode == 0, err[-2000:]
    return folder, then, err

@pytest.fixture(scope='module')
def straight(spec, tmp_path_factory):
    "The same experiment without a break"
    from landslide_nb.study.experiment import run_experiment
    folder = tmp_path_factory.mktemp('straight')/'exp'
    import torch
    before = torch.get_num_threads(); torch.set_num_threads(1)
    run_experiment(spec, folder, bar=False)
    torch.set_num_threads(before)
    return folder

def test_resumes_after_sigkill_and_repeats_nothing(killed):
    folder, then, err = killed
    now = stamps(folder)
    assert {k: now[k] for k in then} == then and len(now) > len(then)
    assert not list((folder/'runs').glob('.*')) and (folder/'results.parquet').exists()
    assert 'left' in err and 'chips, seed' in err               # the progress bar names the run and the time left

def test_same_seed_same_numbers(killed, straight):
    a, b = (pd.read_parquet(f/'results.parquet') for f in (killed[0], straight))
    assert len(a) == 4 + 2*2*(1 + 3)
    close = dict(rtol=1e-5, atol=1e-6)                         # the calibration's solver adds up in another order in another process
    pd.testing.assert_frame_equal(a.drop(columns='seconds'), b.drop(columns='seconds'), **close)
    exact = [c for c in a if c in ('setting', 'budget', 'seed') or c.startswith('auprc')]
    pd.testing.assert_frame_equal(a[exact], b[exact], check_exact=True)
    for name in ('chips', 'pixels'): pd.testing.assert_frame_equal(*(pd.read_parquet(f/f'{name}.parquet') for f in (killed[0], straight)), **close)

def test_one_row_a_run_and_test_chip(straight):
    from landslide_nb.data.chips import ChipSet
    runs, chips = pd.read_parquet(straight/'results.parquet'), pd.read_parquet(straight/'chips.parquet')
    test = ChipSet(straight/'chips'/'demo_a').rows('test')
    assert len(chips) == len(runs)*len(test) and set(chips.chip) == set(test) and not chips[['run', 'chip']].duplicated().any()
    assert {'all-zero', 'log-ratio', 'log-ratio 5 x 5', '-dVH 5 x 5', 'pixel regression', 'no pretraining', 'demo_a, frozen', 'demo_b, frozen'} == set(runs.setting)
    zero = runs[runs.setting == 'all-zero'].iloc[0]
    assert zero.auprc_natural == pytest.approx(zero.share_natural) and zero.count_signed_median_free_natural == 0
    assert zero.count_signed_median_landslide_natural == -chips[(chips.run == zero.run) & (chips.true > 0)].true.median()

def test_pooled_auprc_agrees_with_sklearn(straight):
    "From the pixels, not from our own histogram"
    from sklearn.metrics import average_precision_score
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.data.pair import box_mean
    runs, chips = pd.read_parquet(straight/'results.parquet').set_index('setting'), ChipSet(straight/'chips'/'demo_a')
    rows = chips.rows('test')
    change = chips.chips[rows, 1].astype('float32') - chips.chips[rows, 0].astype('float32')
    truth = np.array(chips.masks[rows])
    for name, size in (('log-ratio', 1), ('log-ratio 5 x 5', 5)):
        score = np.stack([box_mean(c[0] - c[1], size) for c in change])
        keep = (truth != 255) & ~np.isnan(score)
        assert runs.auprc_natural[name] == pytest.approx(average_precision_score(truth[keep] == 1, score[keep]), abs=1e-4)

def test_report_is_complete(straight, tmp_path):
    from landslide_nb.study.report import write_report
    folder = Path(shutil.copytree(straight, tmp_path/'exp'))
    page = write_report(folder, draws=100).read_text()
    page = re.sub('base64,[^"]*', '', page)
    assert page.count('<img') == len(list((folder/'figures').glob('*.png'))) == len(list((folder/'figures').glob('*.svg'))) >= 8
    assert '="http' not in page
    tables = (folder/'tables.md').read_text()
    for word in ('all-zero', 'log-ratio 5 x 5', 'pixel regression', 'Effect of pretraining', 'landslide-free chips'): assert word in tables and word in page
    assert 'improve' not in tables

def refused(spec, folder, error, *words):
    from landslide_nb.study.experiment import run_experiment
    before = {f: f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()} if Path(folder).exists() else {}
    with pytest.raises(error) as e: run_experiment(spec, folder, bar=False)
    message = str(e.value)
    assert all(w in message for w in words) and '\n' not in message, message
    if before: assert {f: f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()} == before

def test_folder_of_another_experiment(spec, straight):
    from landslide_nb.core import OutputError
    from landslide_nb.study.protocol import ExperimentSpec
    refused(ExperimentSpec(**{**asdict(spec), 'seeds': 3}), straight, OutputError, 'another experiment', 'seeds was 2, now 3')

def test_folder_of_another_version(spec, straight, tmp_path):
    from landslide_nb.core import OutputError
    folder = Path(shutil.copytree(straight, tmp_path/'exp'))
    record = json.loads((folder/'spec.json').read_text())
    (folder/'spec.json').write_text(json.dumps({**record, 'code': '0.0.1+00000000'}))
    refused(spec, folder, OutputError, 'written by landslide_nb 0.0.1')
    (folder/'spec.json').write_text(json.dumps({**record, 'format': 99}))
    refused(spec, folder, OutputError, 'choose a new folder')
    from landslide_nb.study.intervals import AnalysisError
    from landslide_nb.study.analysis import read_results
    with pytest.raises(AnalysisError, match='format 99'): read_results(folder)

def test_folder_with_something_else(spec, tmp_path):
    from landslide_nb.core import OutputError
    (tmp_path/'letter.txt').write_text('dear')
    refused(spec, tmp_path, OutputError, 'not empty')

def test_planted_leak_stops_the_experiment(spec, straight, tmp_path):
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.core import ChipError
    from landslide_nb.study.protocol import ExperimentSpec
    folder = Path(shutil.copytree(straight, tmp_path/'exp'))
    chips = ChipSet(folder/'chips'/'demo_a')
    twin = chips.table.iloc[chips.rows('test')[:1]].assign(split='train', block=10**6)     # the same ground, in another part
    pd.concat([chips.table, twin], ignore_index=True).to_parquet(chips.folder/'table.parquet')
    refused(spec, folder, ChipError, 'share pixels', '(train)', '(test)')

def test_budget_beyond_the_chips(spec, tmp_path):
    from landslide_nb.core import ChipError
    from landslide_nb.study.protocol import ExperimentSpec
    big = ExperimentSpec(**{**asdict(spec), 'budgets': (2, 5000), 'pretrain': ('none',)})
    refused(big, tmp_path/'exp', ChipError, 'A budget of 5000 chips is more than exists')
    assert not (tmp_path/'exp'/'runs').exists()

def test_report_without_results(tmp_path):
    from landslide_nb.study.intervals import AnalysisError
    from landslide_nb.study.report import write_report
    with pytest.raises(AnalysisError, match='no finished experiment'): write_report(tmp_path)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('chips_kind', ['ties', 'all negative', 'all ignored', 'random'])
def test_scores_agree_with_sklearn(chips_kind):
    from sklearn.metrics import average_precision_score, brier_score_loss, f1_score
    from landslide_nb.study.scores import score_trial
    for seed in range(5):
        g = np.random.default_rng(seed)
        truth = (g.random((10, 32, 32)) < .05).astype(np.uint8); truth[g.random(truth.shape) < .1] = 255
        valid_truth = truth.copy()
        if chips_kind == 'all negative': truth[truth == 1] = 0
        if chips_kind == 'all ignored': truth[:] = 255
        score = (g.normal(-3, 1, truth.shape) + 2*(truth == 1)).astype('float32')
        if chips_kind == 'ties': score = np.round(score)
        where = pd.DataFrame(dict(chip=np.arange(10), block=np.arange(10)//2, published=np.arange(10) < 6))
        n, chips, pixels, prob = score_trial(score, valid_truth, score, truth, where)
        keep = truth != 255
        t, p, x = truth[keep] == 1, prob[keep].astype(float), score[keep].astype(float)
        if chips_kind in ('all negative', 'all ignored'): assert np.isnan(n['auprc_natural']) and chips.auprc.isna().all()
        else:
            assert n['auprc_natural'] == pytest.approx(average_precision_score(t, x), abs=1e-4)
            assert n['f1_natural'] == pytest.approx(f1_score(t, p >= n['threshold']))
        assert chips.pixels.sum() == keep.sum() == pixels[['negative', 'positive']].sum().sum()
        if keep.any(): assert n['brier_natural'] == pytest.approx(brier_score_loss(t, p, labels=[False, True]), abs=1e-6)
        else: assert np.isnan(n['brier_natural'])

@pytest.fixture(scope='module')
def published_cube(tmp_path_factory):
    "A made-up cube in the schema of the published ones, as a Zarr on disk"
    import warnings
    from landslide_nb.testing import mock_cube
    path = tmp_path_factory.mktemp('cubes')/'hokkaido_japan.zarr'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        mock_cube((448, 448)).chunk(timestep=1, y=256, x=256).to_zarr(path, zarr_format=2, consolidated=True)
    return path

def test_a_published_cube_goes_the_same_way(published_cube, tmp_path, monkeypatch):
    "By the path of its Zarr and, once fetched, by its name: the same numbers"
    from landslide_nb.study.report import write_report
    from landslide_nb.study.experiment import run_experiment
    from landslide_nb.study.protocol import ExperimentSpec
    size = {**SPEC, 'scene': 2688, 'budgets': (2, 4)}
    by_path = run_experiment(ExperimentSpec(**{**size, 'event': str(published_cube), 'pretrain': ('none', str(published_cube))}), tmp_path/'path', bar=False)
    monkeypatch.setenv('LANDSLIDE_NB_CACHE', str(tmp_path/'cache'))
    (tmp_path/'cache'/'events').mkdir(parents=True)
    (tmp_path/'cache'/'events'/'hokkaido_japan.zarr').symlink_to(published_cube)
    by_name = run_experiment(ExperimentSpec(**{**size, 'event': 'hokkaido', 'pretrain': ('none', 'hokkaido')}), tmp_path/'name', bar=False)
    assert set(by_name.event) == {'hokkaido'} and set(by_path.event) == {'hokkaido_japan'} and {'hokkaido, frozen', 'no pretraining'} < set(by_name.setting) and 'hokkaido_japan, frozen' in set(by_path.setting)
    np.testing.assert_array_equal(by_name.auprc_natural, by_path.auprc_natural)
    assert json.loads((tmp_path/'name'/'chips'/'hokkaido'/'meta.json').read_text())['event'] == dict(name='hokkaido', start='2018-09-05', end='2018-09-07')
    assert 'Label efficiency on hokkaido' in write_report(tmp_path/'name', draws=50).read_text()
