"Areas that can be trusted, and a sentence where they cannot: nothing to calibrate on, nothing that happened, a scene unlike the rest."
import json, re
from dataclasses import replace

import numpy as np
import pytest

from landslide_nb.cli import main
from landslide_nb.core import ChipError
from landslide_nb.data.chips import make_chips
from landslide_nb.data.split import split_chips
from landslide_nb.data.cube import open_cube, save_cube
from landslide_nb.data.pair import make_pair
from landslide_nb.data.landscape import REGIONS
from landslide_nb.data.simulate import simulate_event
from landslide_nb.learn.calibration import calibrate, expected_calibration_error
from landslide_nb.learn.uncertainty import FREE_QUANTILE, area_errors, area_interval, doubts
from landslide_nb.learn.uncertainty import errors_at_place, fit_chips, likely_area
from landslide_nb.learn.networks import build_model
from landslide_nb.mapping import areas
from landslide_nb.mapping.mapping import map_pair
from landslide_nb.testing import mock_cube

STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
SPEC = dict(channels=['vv', 'vh'], change=True, stats=STATS, size=128)

def toy_map(size, calibration, folder):
    "The numbers of a map of a mock cube by an untrained network of some calibration"
    pair = make_pair(open_cube(mock_cube(size)), 'hokkaido')
    net = build_model(arch='unet', stage=2, width=4, levels=2).eval()
    return map_pair(pair, (net, dict(stage=2, input=SPEC, calibration=calibration)), folder, progress=False)

def page_of(folder): return (folder/'report.html').read_text()

def seen(rng, scenes=1, chips=9, side=64, share=.03, spread=1., empty=.5, strength=2.2):
    """Logits of chips, their truth and scene. A share of `empty` chips holds no landslide. Scenes differ in the share of landslides and,
    by a factor up to e**spread either way, in how plainly landslides show"""
    out = []
    for scene in range(scenes):
        plain = strength*np.exp(rng.uniform(-spread, spread)/3)
        landslide_free = rng.random(chips) < empty
        density = rng.gamma(1, share*np.exp(rng.uniform(-spread, spread)), chips)
        density = np.where(landslide_free, 0, density).clip(0, .5)
        truth = rng.random((chips, side, side)) < density[:, None, None]
        logits = 2*(rng.standard_normal(truth.shape) + plain*truth - 4) + 1
        out.append((logits, truth.astype('uint8'), np.full(chips, scene)))
    return tuple(map(np.concatenate, zip(*out)))

def share_held(record, p, t, group=None):
    "Share of areas whose interval holds the truth: of chips, or of groups of chips"
    if group is None: group = np.arange(len(p))
    expected = np.bincount(group, p.sum((1, 2)))
    true = np.bincount(group, (t == 1).sum((1, 2)))
    pixels = np.bincount(group, np.full(len(p), p[0].size))
    low, high = area_interval(expected, pixels, record)
    return ((low <= true) & (true <= high)).mean()


# Intervals

@pytest.fixture(scope='module')
def scenes():
    "A calibration fitted on forty scenes, and forty new scenes seen through it"
    rng = np.random.default_rng(0)
    x, t, s = seen(rng, 40)
    cal = fit_chips(x, t, scene=s)
    x, t, s = seen(rng, 40)
    return cal, calibrate(x, cal), t, s

def test_intervals_of_chips_and_scenes_hold_what_they_claim(scenes):
    cal, p, t, s = scenes
    assert .83 <= share_held(cal['area'], p, t) <= .98
    assert .83 <= share_held(cal['area'], p, t, s) <= 1
    assert expected_calibration_error(p, t) <= .02

def test_scenes_that_differ_need_more_than_their_chips_tell(scenes):
    cal, p, t, s = scenes
    alone = area_errors(p, t) # as if each chip were of an event of its own
    alone['blocks']['labelled'] = 0
    assert share_held(alone, p, t, s) < share_held(cal['area'], p, t, s) - .1

def test_one_event_by_blocks():
    "A part of one event tells how far the rest may be off"
    rng = np.random.default_rng(1)
    held, wider = [], []
    for _ in range(40):
        p, t, block = blocks_of_one_event(rng, 20)
        known = block < 8
        record = area_errors(p[known], t[known], block=block[known])
        rest = np.zeros((~known).sum(), int) # one area
        held.append(share_held(record, p[~known], t[~known], rest))
        blocks, chips = record['blocks'], area_errors(p[known], t[known])['blocks']
        wider.append((blocks['above'] + blocks['below'])/(chips['above'] + chips['below']))
    assert .8 <= np.mean(held) <= 1, np.mean(held)
    assert np.median(wider) > 1.3, np.median(wider)

def place(rng, n, hit, side=32):
    "Chips of a place, `hit` of them with landslides of which the map sees about half: (p, t)"
    size = side*side
    struck = rng.random(n) < hit
    true = np.where(struck, rng.gamma(1., 150, n), 0).clip(0, size - 1).astype(int)
    expected = rng.gamma(2, 4., n) + .5*true*rng.gamma(3, 1/3, n)
    p = expected.clip(0, size)/size
    truth = np.arange(size) < true[:, None]
    return p[:, None, None]*np.ones((n, side, side)), truth.reshape(n, side, side).astype('uint8')

def test_intervals_hold_where_landslides_are_commoner_or_rarer():
    rng = np.random.default_rng(5)
    plain, adapted = {}, {}
    for _ in range(25):
        record = area_errors(*place(rng, 120, 1/6))
        for hit in (1/18, 1/6, 1/2):
            p, t = place(rng, 120, hit)
            expected, pixels = p.sum((1, 2)), np.full(120, p[0].size)
            here = errors_at_place(record, expected, pixels)
            plain.setdefault(hit, []).append(share_held(record, p, t))
            adapted.setdefault(hit, []).append(share_held(here, p, t))
            low, high = area_interval(expected, pixels, record)
            low_here, high_here = area_interval(expected, pixels, here)
            assert (low_here <= low).all() # never narrower
            assert (high_here >= high).all()
    assert np.mean(plain[1/2]) < .83, plain
    for hit, held in adapted.items(): assert .85 <= np.mean(held) <= .98, hit

def test_the_run_folder_uses_what_the_place_shows(tmp_path, monkeypatch):
    asked, real = [], areas.errors_at_place
    def noted(record, expected, pixels):
        asked.append((np.sum(expected), np.sum(pixels)))
        return real(record, expected, pixels)
    monkeypatch.setattr(areas, 'errors_at_place', noted)
    metrics = toy_map((96, 96), fit_chips(*seen_chips()), tmp_path/'run')
    [(expected, pixels)] = asked
    assert pixels == round(96*96*metrics['valid_fraction'])
    assert abs(expected*100/metrics['expected_area_m2'] - 1) < .01
    assert 'examples' not in metrics['model']['calibration']['area']
    assert metrics['expected_area_low_m2'] <= metrics['expected_area_m2'] <= metrics['expected_area_high_m2']

def test_a_model_calibrated_at_another_event_says_so(tmp_path):
    calibration = fit_chips(*seen_chips(), block=np.arange(40)//4)
    pair = make_pair(open_cube(mock_cube((160, 160))), 'hokkaido')
    net = build_model(arch='unet', stage=2, width=4, levels=2).eval()
    def mapped_at(name, *events):
        meta = dict(stage=2, input=SPEC, calibration={**calibration, 'events': list(events)})
        return map_pair(pair, (net, meta), tmp_path/name, progress=False)
    here = [str(pair.attrs[key]) for key in ('event_name', 'event_start', 'event_end')]
    elsewhere = ['a', '2020-01-01', '2020-01-02']
    own, other = mapped_at('own', here, elsewhere), mapped_at('other', elsewhere)
    assert not any('calibrated at' in warning for warning in own['warnings'])
    said = [warning for warning in other['warnings'] if 'calibrated at a (2020-01-01 to 2020-01-02), not at this event' in warning]
    assert len(said) == 1
    assert other['expected_area_high_m2'] > own['expected_area_high_m2']
    assert other['expected_area_m2'] == own['expected_area_m2']
    assert 'calibrated at a (2020-01-01' in page_of(tmp_path/'other')

def seen_chips(): return seen(np.random.default_rng(6), 1, 40, spread=0)[:2]

def blocks_of_one_event(rng, n):
    "(p, truth, block): chips of a block err together"
    off = np.repeat(np.exp(rng.normal(0, .6, n)), 9)
    p = rng.gamma(.6, .03, (9*n, 1, 1)).clip(0, .3)*np.ones((1, 32, 32))
    truth = rng.random(p.shape) < p*off[:, None, None]
    return p, truth.astype('uint8'), np.repeat(np.arange(n), 9)

def test_likely_counts_of_quiet_chips_are_small_and_of_others_unbiased():
    rng = np.random.default_rng(2)
    x, t, _ = seen(rng, 1, 120, spread=0)
    cal = fit_chips(x, t)
    x, t, _ = seen(rng, 1, 120, spread=0)
    true = t.sum((1, 2))
    likely = likely_area(calibrate(x, cal).sum((1, 2)), cal['area'])
    error = likely - true
    assert abs(np.median(error[true == 0])) <= 5
    assert abs(np.median(error[true > 0])) <= .2*np.median(true[true > 0])
    assert (likely[true == 0] == 0).mean() > FREE_QUANTILE - .15


# Too little to calibrate on

X, T, _ = seen(np.random.default_rng(3), 1, 24)
FEW = np.zeros_like(T)
FEW[0, 0, :10] = 1
CASES = {
    'no validation chip': (X[:0], T[:0], '0 landslide pixels among 0 mapped ones'),
    'no landslide': (X, T*0, '0 landslide pixels among .*: nothing to fit'),
    'landslide everywhere': (X, T*0 + 1, 'nothing to fit'),
    'nothing mapped': (X, T*0 + 255, 'among 0 mapped'),
    'ten landslide pixels': (X, FEW, 'only 10 landslide pixels'),
    'landslides ranked last': (-X, T, 'below other pixels'),
}

@pytest.mark.parametrize('case', [*CASES])
def test_a_calibration_without_enough_says_so_on_the_map(case, tmp_path):
    x, t, says = CASES[case]
    cal = fit_chips(x, t)
    assert np.isfinite([cal['scale'], cal['bias']]).all()
    assert re.search(says, cal['reason'])
    metrics = toy_map((64, 64), cal, tmp_path/'run')
    (said,) = [warning for warning in metrics['warnings'] if 'could not be calibrated well' in warning]
    assert re.search(says, said)
    assert said.endswith('landslides.')
    page = page_of(tmp_path/'run')
    assert 'could not be calibrated well' in page
    assert 'role="alert"' in page
    if not cal['area']: assert metrics['expected_area_low_m2'] is None or np.isnan(metrics['expected_area_low_m2'])

def test_no_validation_part_is_one_sentence(tmp_path):
    from landslide_nb.learn.data import finetune_dls
    pair = make_pair(open_cube(mock_cube((256, 256))), 'hokkaido')
    chips = split_chips(make_chips(pair, tmp_path/'chips', 64), fractions=(1., 0., 0.), block=1)
    with pytest.raises(ChipError, match="no 'valid' part; call `split_chips` first"): finetune_dls(chips, budget=2)

def test_a_label_of_one_class_is_one_sentence(tmp_path, capsys):
    wide = mock_cube((640, 640))
    wide.assign(landslides=wide.landslides.fillna(0)*0 + 1).to_netcdf(tmp_path/'all.nc')
    model = tmp_path/'m.safetensors'
    options = ['--pretrained', 'none', '--block', '128', '--budget', '4']
    assert main(['finetune', str(tmp_path/'all.nc'), *options, '--out', str(model)]) == 1
    (said,) = [line for line in re.split(r'[\r\n]+', capsys.readouterr().err) if 'landslide-nb: ' in line]
    assert 'without landslides' in said
    assert not model.exists()


# Another place, and nothing at all

def mapped(cube, folder, capsys, *words):
    "`landslide-nb map` with the shipped weights: (what it said, its numbers)"
    save_cube(cube, folder/'cube.zarr')
    assert main(['map', str(folder/'cube.zarr'), '--out', str(folder/'run'), *words]) == 0
    return capsys.readouterr().out, json.loads((folder/'run'/'metrics.json').read_text())

def test_another_resolution_is_said(tmp_path, capsys):
    cube = open_cube(mock_cube((64, 96)))
    coarse = cube.assign_coords(x=cube.x*10, y=cube.y*10).rio.write_transform()
    said, metrics = mapped(coarse, tmp_path, capsys, '--event', 'hokkaido')
    assert any('pixel size (m) is 100' in warning for warning in metrics['warnings'])
    assert 'warning: This scene is unlike what the model learned from: pixel size (m) is 100' in said
    assert 'pixel size (m) is 100' in page_of(tmp_path/'run')

def test_where_nothing_slid_nothing_is_found(tmp_path, capsys):
    # landslides leave no trace, and nobody cut a wood
    calm = replace(REGIONS['demo_a'], name='quiet', contrast=0., clearcut=0., harvest=0.)
    cube = simulate_event(calm, 6, 256, passes=3, orbits=('ascending',))
    cube.landslides.values[:] = 0
    said, metrics = mapped(cube, tmp_path, capsys)
    area = r'[\d.,]+ (m²|ha|km²)'
    assert metrics['polygons'] == 0
    assert metrics['mapped_area_m2'] == 0
    assert metrics['expected_area_low_m2'] == 0 < metrics['expected_area_high_m2']
    assert re.search(r'no (certain )?landslide', said)
    assert re.search(rf'expected landslide area {area} \(0(\.0+)? to {area}\)', said)
    assert re.search(r'[Nn]o (certain )?landslide', page_of(tmp_path/'run'))

def test_a_share_of_landslides_never_validated_is_said(scenes):
    cal = scenes[0]
    low, high = cal['area']['shares']
    usual, unusual = (low + high)/2*1e6, 2*high*1e6
    assert doubts(cal, usual, 1e6) == []
    assert 'expects landslides on' in doubts(cal, unusual, 1e6)[0]
    older = {key: value for key, value in cal['area'].items() if key != 'shares'} # weights saved before
    assert doubts({**cal, 'area': older}, unusual, 1e6) == []
