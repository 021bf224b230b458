"Areas that can be trusted, and a sentence where they cannot: nothing to calibrate on, nothing that happened, a scene unlike the rest."
import json, re
from dataclasses import replace
import numpy as np, pytest

from landslide_nb.learn.calibration import calibrate, expected_calibration_error
from landslide_nb.learn.uncertainty import FREE_QUANTILE, area_errors, area_interval, doubts, errors_at_place, fit_chips, likely_area
from landslide_nb.data.chips import make_chips
from landslide_nb.data.split import split_chips
from landslide_nb.cli import main
from landslide_nb.core import ChipError
from landslide_nb.data.pair import make_pair
from landslide_nb.testing import mock_cube
from landslide_nb.data.cube import open_cube, save_cube
from landslide_nb.learn.networks import build_model
from landslide_nb.learn.models import save_model
from landslide_nb.mapping.mapping import map_pair
from landslide_nb.data.simulate import REGIONS, simulate_event

STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])


def seen(rng, scenes=1, chips=9, side=64, share=.03, spread=1., quiet=.5, strength=2.2):
    "Logits of chips, their truth and scene: `quiet` chips hold nothing; scenes differ in share and, by a factor up to e**spread either way, in how plainly landslides show"
    out = []
    for s in range(scenes):
        plain = strength*np.exp(rng.uniform(-spread, spread)/3)
        dense = np.where(rng.random(chips) < quiet, 0, rng.gamma(1, share*np.exp(rng.uniform(-spread, spread)), chips)).clip(0, .5)
        t = rng.random((chips, side, side)) < dense[:, None, None]
        out.append((2*(rng.standard_normal(t.shape) + plain*t - 4) + 1, t.astype('uint8'), np.full(chips, s)))
    return tuple(map(np.concatenate, zip(*out)))

def share_held(record, p, t, group=None):
    "Share of areas whose interval holds the truth: of chips, or of groups of chips"
    group = np.arange(len(p)) if group is None else group
    e, y, n = (np.bincount(group, v) for v in (p.sum((1, 2)), (t == 1).sum((1, 2)), np.full(len(p), p[0].size)))
    low, high = area_interval(e, n, record)
    return ((low <= y) & (y <= high)).mean()


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
    assert share_held({**alone, 'blocks': {**alone['blocks'], 'labelled': 0}}, p, t, s) < share_held(cal['area'], p, t, s) - .1

def test_one_event_by_blocks():
    "A part of one event tells how far the rest may be off"
    rng, held, wide = np.random.default_rng(1), [], []
    for _ in range(40):
        p, t, block = (a for a in blocks_of_one_event(rng, 20))
        known = block < 8
        record = area_errors(p[known], t[known], block=block[known])
        held.append(share_held(record, p[~known], t[~known], np.zeros((~known).sum(), int)))
        chips = area_errors(p[known], t[known])['blocks']
        wide.append((record['blocks']['above'] + record['blocks']['below'])/(chips['above'] + chips['below']))
    assert .8 <= np.mean(held) <= 1 and np.median(wide) > 1.3, (np.mean(held), np.median(wide))

def place(rng, n, hit, side=32):
    "Chips of a place, `hit` of them with landslides of which the map sees about half: (p, t)"
    true = np.where(rng.random(n) < hit, rng.gamma(1., 150, n), 0).clip(0, side*side - 1).astype(int)
    p = (rng.gamma(2, 4., n) + .5*true*rng.gamma(3, 1/3, n)).clip(0, side*side)/side**2
    return p[:, None, None]*np.ones((n, side, side)), (np.arange(side*side) < true[:, None]).reshape(n, side, side).astype('uint8')

def test_intervals_hold_where_landslides_are_commoner_or_rarer():
    rng, found = np.random.default_rng(5), {}
    for _ in range(25):
        record = area_errors(*place(rng, 120, 1/6))
        for hit in (1/18, 1/6, 1/2):
            p, t = place(rng, 120, hit)
            adapted = errors_at_place(record, p.sum((1, 2)), np.full(120, p[0].size))
            found.setdefault(hit, []).append((share_held(record, p, t), share_held(adapted, p, t)))
            lows, highs = zip(*(area_interval(p.sum((1, 2)), np.full(120, p[0].size), r) for r in (record, adapted)))
            assert (lows[1] <= lows[0]).all() and (highs[1] >= highs[0]).all() # never narrower
    plain, here = (dict(zip(found, np.mean([found[k] for k in found], 1)[:, i])) for i in (0, 1))
    assert plain[1/2] < .83 and all(.85 <= here[k] <= .98 for k in here), (plain, here)

def test_the_run_folder_uses_what_the_place_shows(tmp_path, monkeypatch):
    import landslide_nb.mapping.areas as products
    seen, real = [], products.errors_at_place
    monkeypatch.setattr(products, 'errors_at_place', lambda record, e, n: seen.append((np.sum(e), np.sum(n))) or real(record, e, n))
    cal = fit_chips(*seen_chips())
    pair = make_pair(open_cube(mock_cube((96, 96))), 'hokkaido')
    net = build_model(arch='unet', stage=2, width=4, levels=2).eval()
    metrics = map_pair(pair, (net, dict(stage=2, input=dict(channels=['vv', 'vh'], change=True, stats=STATS, size=128), calibration=cal)), tmp_path/'run', progress=False)
    [(expected, pixels)] = seen
    assert pixels == round(96*96*metrics['valid_fraction']) and abs(expected*100/metrics['expected_area_m2'] - 1) < .01
    assert 'examples' not in metrics['model']['calibration']['area'] and metrics['expected_area_low_m2'] <= metrics['expected_area_m2'] <= metrics['expected_area_high_m2']

def test_a_model_calibrated_at_another_event_says_so(tmp_path):
    cal = fit_chips(*seen_chips(), block=np.arange(40)//4)
    pair = make_pair(open_cube(mock_cube((160, 160))), 'hokkaido')
    net = build_model(arch='unet', stage=2, width=4, levels=2).eval()
    meta = lambda *events: dict(stage=2, input=dict(channels=['vv', 'vh'], change=True, stats=STATS, size=128), calibration={**cal, 'events': list(events)})
    run = lambda name, *events: map_pair(pair, (net, meta(*events)), tmp_path/name, progress=False)
    here = [str(pair.attrs[f'event_{k}']) for k in ('name', 'start', 'end')]
    own, other = run('own', here, ['a', '2020-01-01', '2020-01-02']), run('other', ['a', '2020-01-01', '2020-01-02'])
    assert not [o for o in own['warnings'] if 'calibrated at' in o] and len([o for o in other['warnings'] if 'calibrated at a (2020-01-01 to 2020-01-02), not at this event' in o]) == 1
    assert other['expected_area_high_m2'] > own['expected_area_high_m2'] and other['expected_area_m2'] == own['expected_area_m2']
    assert 'calibrated at a (2020-01-01' in (tmp_path/'other'/'report.html').read_text()

def seen_chips(): return seen(np.random.default_rng(6), 1, 40, spread=0)[:2]

def blocks_of_one_event(rng, n): # (p, t, block): chips of a block err together
    off = np.repeat(np.exp(rng.normal(0, .6, n)), 9)
    p = rng.gamma(.6, .03, (9*n, 1, 1)).clip(0, .3)*np.ones((1, 32, 32))
    return p, (rng.random(p.shape) < p*off[:, None, None]).astype('uint8'), np.repeat(np.arange(n), 9)

def test_likely_counts_of_quiet_chips_are_small_and_of_others_unbiased():
    rng = np.random.default_rng(2)
    x, t, _ = seen(rng, 1, 120, spread=0)
    cal = fit_chips(x, t)
    x, t, _ = seen(rng, 1, 120, spread=0)
    e, true = calibrate(x, cal).sum((1, 2)), t.sum((1, 2))
    error = likely_area(e, cal['area']) - true
    assert abs(np.median(error[true == 0])) <= 5 and abs(np.median(error[true > 0])) <= .2*np.median(true[true > 0])
    assert (likely_area(e, cal['area'])[true == 0] == 0).mean() > FREE_QUANTILE - .15


# Too little to calibrate on

X, T, _ = seen(np.random.default_rng(3), 1, 24)
FEW = np.zeros_like(T); FEW[0, 0, :10] = 1
CASES = {'no validation chip': (X[:0], T[:0], '0 landslide pixels among 0 mapped ones'), 'no landslide': (X, T*0, '0 landslide pixels among .*: nothing to fit'),
         'landslide everywhere': (X, T*0 + 1, 'nothing to fit'), 'nothing mapped': (X, T*0 + 255, 'among 0 mapped'), 'ten landslide pixels': (X, FEW, 'only 10 landslide pixels'),
         'landslides ranked last': (-X, T, 'below other pixels')}

@pytest.mark.parametrize('case', [*CASES])
def test_a_calibration_without_enough_says_so_on_the_map(case, tmp_path):
    x, t, says = CASES[case]
    cal = fit_chips(x, t)
    assert np.isfinite([cal['scale'], cal['bias']]).all() and re.search(says, cal['reason'])
    pair = make_pair(open_cube(mock_cube((64, 64))), 'hokkaido')
    net = build_model(arch='unet', stage=2, width=4, levels=2).eval()
    metrics = map_pair(pair, (net, dict(stage=2, input=dict(channels=['vv', 'vh'], change=True, stats=STATS, size=128), calibration=cal)), tmp_path/'run', progress=False)
    said = [o for o in metrics['warnings'] if 'could not be calibrated well' in o]
    assert len(said) == 1 and re.search(says, said[0]) and said[0].endswith('landslides.')
    page = (tmp_path/'run'/'report.html').read_text()
    assert 'could not be calibrated well' in page and 'role="alert"' in page
    if not cal['area']: assert metrics['expected_area_low_m2'] is None or np.isnan(metrics['expected_area_low_m2'])

def test_no_validation_part_is_one_sentence(tmp_path):
    from landslide_nb.learn.data import finetune_dls
    chips = make_chips(make_pair(open_cube(mock_cube((256, 256))), 'hokkaido'), tmp_path/'chips', 64)
    with pytest.raises(ChipError, match="no 'valid' part; call `split_chips` first"): finetune_dls(split_chips(chips, fractions=(1., 0., 0.), block=1), budget=2)

def test_a_label_of_one_class_is_one_sentence(tmp_path, capsys):
    wide = mock_cube((640, 640))
    wide.assign(landslides=wide.landslides.fillna(0)*0 + 1).to_netcdf(tmp_path/'all.nc')
    assert main(['finetune', str(tmp_path/'all.nc'), '--pretrained', 'none', '--block', '128', '--budget', '4', '--out', str(tmp_path/'m.safetensors')]) == 1
    said = [line for line in re.split(r'[\r\n]+', capsys.readouterr().err) if 'landslide-nb: ' in line]
    assert len(said) == 1 and 'without landslides' in said[0] and not (tmp_path/'m.safetensors').exists()


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
    assert any('pixel size (m) is 100' in o for o in metrics['warnings']) and 'warning: This scene is unlike what the model learned from: pixel size (m) is 100' in said
    assert 'pixel size (m) is 100' in (tmp_path/'run'/'report.html').read_text()

def test_where_nothing_happened_nothing_is_found(tmp_path, capsys):
    quiet = replace(REGIONS['demo_a'], name='quiet', contrast=0., clearcut=0., harvest=0.) # the landslides leave no trace, and nobody cut a wood
    cube = simulate_event(quiet, 6, 256, passes=3, orbits=('ascending',))
    cube.landslides.values[:] = 0
    said, metrics = mapped(cube, tmp_path, capsys)
    assert metrics['polygons'] == 0 and re.search(r'no (certain )?landslide', said) and re.search(r'expected landslide area [\d.,]+ (m²|ha|km²) \(0(\.0+)? to [\d.,]+ (m²|ha|km²)\)', said)
    assert metrics['expected_area_low_m2'] == 0 < metrics['expected_area_high_m2'] and metrics['mapped_area_m2'] == 0
    assert re.search(r'[Nn]o (certain )?landslide', (tmp_path/'run'/'report.html').read_text())

def test_a_share_of_landslides_never_validated_is_said(scenes):
    cal = scenes[0]
    low, high = cal['area']['shares']
    assert doubts(cal, (low+high)/2*1e6, 1e6) == [] and 'expects landslides on' in doubts(cal, 2*high*1e6, 1e6)[0]
    assert doubts({**cal, 'area': {k: v for k, v in cal['area'].items() if k != 'shares'}}, 2*high*1e6, 1e6) == [] # weights saved before
