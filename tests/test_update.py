"""A place is mapped again when a pass was added: `landslide-nb map --update RUN`.

The new map lies beside the last one and says what is new. Without a new pass nothing is written; what cannot be updated
is refused in one sentence.
"""
import hashlib
import json
import shutil

import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import command, one_sentence

from landslide_nb.cli import main
from landslide_nb.data.cube import open_cube, save_cube
from landslide_nb.data.simulate import simulate_archive
from stac_server import archive_of, box_words, passes_read

EVENT = ['--start', '2018-09-05', '--end', '2018-09-07']
pytestmark = pytest.mark.filterwarnings('ignore::landslide_nb.core.CubeWarning', 'ignore:Use `@` matmul:PendingDeprecationWarning')

@pytest.fixture(scope='module')
def place():
    "Four passes before the event and four after it, on the 9th and the 21st of September, and on the 3rd and 15th of October"
    return simulate_archive('demo_a', 7, 192, 0, orbits=('ascending',)).drop_vars(['dem', 'slope'])

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A small model file whose maps reach its threshold here and there"
    from landslide_nb.core import set_seed
    from landslide_nb.learn.models import save_model
    from landslide_nb.learn.networks import build_model
    set_seed(3)
    path = tmp_path_factory.mktemp('model')/'m.safetensors'
    stats = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
    spec = dict(channels=['vv', 'vh'], change=True, stats=stats, size=128)
    meta = dict(input=spec, calibration=dict(scale=1., bias=0., threshold=.022))
    return save_model(build_model(arch='unet', stage=2, width=4, levels=2).eval(), path, meta)

@pytest.fixture(scope='module')
def first(place, model, tmp_path_factory):
    "A cube with two passes after the event, and its map"
    home = tmp_path_factory.mktemp('first')
    save_cube(place.isel(time=slice(0, 6)), home/'enga.zarr')
    assert map_here(home, 'enga.zarr', *EVENT, '--model', model, '--min-area', 900, '--out', 'enga') == 0
    return home

@pytest.fixture
def home(first, tmp_path):
    "The same in a folder of its own"
    shutil.copytree(first, tmp_path/'home')
    metrics = tmp_path/'home'/'enga'/'metrics.json'
    metrics.write_text(metrics.read_text().replace(str(first), str(tmp_path/'home')))
    return tmp_path/'home'

def map_here(home, *words):
    "`landslide-nb map` in a folder; its exit code"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return main(['map', *map(str, words)])

def metrics_of(run): return json.loads((run/'metrics.json').read_text())

def change_metrics(run, **values): (run/'metrics.json').write_text(json.dumps({**metrics_of(run), **values}))

def grow(home, cube):
    "Put another cube in the place of the one that was mapped"
    shutil.rmtree(home/'enga.zarr')
    save_cube(cube, home/'enga.zarr')

def contents(folder):
    return {str(o.relative_to(folder)): hashlib.md5(o.read_bytes()).hexdigest()
            for o in folder.rglob('*') if o.is_file()}

def refused(home, capsys, *words, says):
    "An update that ends in one sentence and leaves the folder as it was"
    before = sorted(o.name for o in home.iterdir())
    capsys.readouterr()
    assert map_here(home, '--update', *words) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith('landslide-nb: ')]
    assert len(said) == 1 and says in said[0], said
    assert sorted(o.name for o in home.iterdir()) == before


# A cube that grew

def test_a_pass_that_was_added_makes_a_new_map_beside_the_last_one(home, place, capsys):
    grow(home, place)
    before = contents(home/'enga')
    assert map_here(home, '--update', 'enga') == 0
    said = capsys.readouterr().out
    assert 'the passes of 2018-10-03 and 2018-10-15 came since' in said and 'newly reach the threshold' in said
    assert contents(home/'enga') == before
    old, new = metrics_of(home/'enga'), metrics_of(home/'enga_2018-10-15')
    assert new['passes_post'] == [*old['passes_post'], '2018-10-03', '2018-10-15']
    assert new['update']['previous'] == 'enga' and new['update']['added_passes'] == ['2018-10-03', '2018-10-15']
    assert new['min_area_m2'] == 900 and 'update' not in old
    assert 'Since the map enga, with the passes of 2018-10-03 and 2018-10-15 added' in (home/'enga_2018-10-15'/'report.html').read_text()

def test_what_is_new_and_what_is_gone_are_the_differences_of_the_two_maps(home, place):
    grow(home, place)
    assert map_here(home, '--update', 'enga', '--out', 'again') == 0
    maps = []
    for name in ('enga', 'again'):
        with rasterio.open(home/name/'probability.tif') as file:
            maps.append(file.read(1) >= metrics_of(home/name)['threshold'])
    update = metrics_of(home/'again')['update']
    assert update['new_ha'] == pytest.approx((maps[1] & ~maps[0]).sum()/100) and update['new_ha'] > 0
    assert update['gone_ha'] == pytest.approx((maps[0] & ~maps[1]).sum()/100) and update['gone_ha'] > 0

def test_an_update_is_the_map_that_a_person_would_ask_for(home, place, model):
    grow(home, place)
    assert map_here(home, '--update', 'enga') == 0
    assert map_here(home, 'enga.zarr', *EVENT, '--model', model, '--passes', 4, '--out', 'asked') == 0
    found = [rasterio.open(home/name/'probability.tif').read(1) for name in ('enga_2018-10-15', 'asked')]
    np.testing.assert_array_equal(*found)

def test_an_update_can_be_updated(home, place):
    for k in (7, 8):
        grow(home, place.isel(time=slice(0, k)))
        assert map_here(home, '--update', 'enga' if k == 7 else 'enga_2018-10-03') == 0
    assert metrics_of(home/'enga_2018-10-15')['update']['previous'] == 'enga_2018-10-03'
    assert metrics_of(home/'enga_2018-10-15')['update']['added_passes'] == ['2018-10-15']

def test_without_a_new_pass_nothing_is_written(home, capsys):
    before = contents(home)
    assert map_here(home, '--update', 'enga') == 0
    assert 'no pass was added since this map; nothing is written' in capsys.readouterr().out
    assert contents(home) == before

def test_a_pass_that_was_there_and_was_left_out_is_nothing_new(home, place, model, capsys):
    grow(home, place)
    assert map_here(home, 'enga.zarr', *EVENT, '--model', model, '--passes', 2, '--out', 'few') == 0
    assert map_here(home, '--update', 'few') == 0
    assert 'no pass was added' in capsys.readouterr().out and not list(home.glob('few_*'))

def test_a_pass_without_data_is_said_and_leaves_no_folder(home, place, capsys):
    empty = place.isel(time=slice(0, 7)).copy(deep=True)
    for band in ('vv', 'vh'): empty[band][6] = np.nan
    grow(home, empty)
    assert map_here(home, '--update', 'enga') == 0
    assert 'has no data at the place' in capsys.readouterr().out
    assert sorted(o.name for o in home.iterdir()) == ['enga', 'enga.zarr']

def test_passes_of_another_track_are_nothing_new(home, place, capsys):
    other = place.isel(time=[6, 7]).assign_coords(orbit=('time', ['descending']*2))
    grow(home, xr.concat([place.isel(time=slice(0, 6)), other], 'time', data_vars='minimal', coords='minimal'))
    assert map_here(home, '--update', 'enga') == 0
    assert 'no pass was added' in capsys.readouterr().out

def test_another_model_under_the_same_name_is_said(home, place):
    change_metrics(home/'enga', model=dict(training=dict(chips='other')))
    grow(home, place)
    assert map_here(home, '--update', 'enga') == 0
    assert any('another one than that of the map before' in text for text in metrics_of(home/'enga_2018-10-15')['warnings'])

def test_two_tracks_that_were_fused_are_fused_again(tmp_path, model):
    cube = simulate_archive('demo_a', 7, 128, 0, orbits=('ascending', 'descending'))
    early = cube.isel(time=cube.time < np.datetime64('2018-10-01'))
    save_cube(early, tmp_path/'enga.zarr')
    assert map_here(tmp_path, 'enga.zarr', *EVENT, '--model', model, '--track', 'all', '--out', 'enga') == 0
    grow(tmp_path, cube)
    assert map_here(tmp_path, '--update', 'enga', '--out', 'again') == 0
    metrics = metrics_of(tmp_path/'again')
    assert [one['track'] for one in metrics['fusion']['tracks']] == ['ascending', 'descending']
    assert metrics['update']['added_passes'] and set(metrics['update']['added_passes']) <= set(metrics['passes_post'])
    assert all('update' not in metrics_of(folder) for folder in (tmp_path/'again'/'tracks').iterdir())

def test_the_map_of_a_notebook_is_updated_by_its_numbers(tmp_path, place):
    "With the shipped weights; it has no words of a command"
    from landslide_nb.mapping.mapping import map_cube
    from landslide_nb.learn.models import load_model
    save_cube(place.isel(time=slice(0, 6)), tmp_path/'enga.zarr')
    map_cube(tmp_path/'enga.zarr', 'base', tmp_path/'enga', ('2018-09-05', '2018-09-07'), progress=False)
    assert 'command' not in metrics_of(tmp_path/'enga') and load_model('base')[1]['training']['chips'] == 'random regions'
    grow(tmp_path, place.isel(time=slice(0, 7)))
    assert map_here(tmp_path, '--update', 'enga') == 0
    metrics = metrics_of(tmp_path/'enga_2018-10-03')
    assert metrics['update']['added_passes'] == ['2018-10-03'] and not any('another one than' in text for text in metrics['warnings'])


# What cannot be updated

def test_a_cube_that_was_moved(home, capsys):
    (home/'enga.zarr').rename(home/'moved.zarr')
    refused(home, capsys, 'enga', says='enga.zarr, which is not there any more; put it back')

def test_a_cube_on_another_grid(home, place, capsys):
    grow(home, place.isel(x=slice(1, None)))
    refused(home, capsys, 'enga', says='lies on another grid (192 x 192 px')

@pytest.mark.parametrize('command, says', [
    (None, 'does not say which file its model was'),
    ('map', 'does not say how the map was made'),
    (['map', 7], 'does not say how the map was made'),
    (['map'], 'in words that this version knows'),
    (['map', 'enga.zarr', '--no-such-option'], 'in words that this version knows'),
    (['map', '--update', 'enga', '--passes', 'x'], 'in words that this version knows'),
    (['map', '--update', 'enga'], 'does not say how the map was made'),
    (['app', '.'], 'does not say how the map was made'),
])
def test_words_that_a_stranger_may_have_written(home, capsys, command, says):
    change_metrics(home/'enga', command=command, source=str(home/'enga.zarr'))
    refused(home, capsys, 'enga', says=says)

def test_what_is_no_run_folder(home, capsys):
    (home/'empty').mkdir()
    refused(home, capsys, 'empty', says='is no whole run folder')
    refused(home, capsys, 'nothing', says='is no whole run folder')
    (home/'enga'/'metrics.json').write_text('[')
    refused(home, capsys, 'enga', says='is no whole run folder')

@pytest.mark.parametrize('words', [('--min-area', 3), ('--model', 'other'), ('--track', 9), ('--event', 'demo_a'), ('--catalog', 'opera')])
def test_what_the_last_map_has_settled_is_not_said_again(home, capsys, words):
    refused(home, capsys, 'enga', *words, says=f'{words[0]} is settled by the map that is updated')

def test_a_folder_that_is_taken(home, place, capsys):
    grow(home, place)
    (home/'taken').mkdir()
    (home/'taken'/'x').touch()
    refused(home, capsys, 'enga', '--out', 'taken', says='not empty')

def test_a_map_needs_to_know_where_it_goes(tmp_path):
    one_sentence(command('map', 'demo_a', cwd=tmp_path), 'Give --out DIR')


# A box

@pytest.fixture
def no_proxy(monkeypatch):
    for name in ('NO_PROXY', 'no_proxy'): monkeypatch.setenv(name, '127.0.0.1')

def test_a_box_is_searched_again_and_only_the_new_pass_is_read(place, model, tmp_path, no_proxy):
    with archive_of(place, tmp_path/'archive') as api:
        every, api.items = api.items, [item for item in api.items if item['properties']['datetime'] < '2018-10-10']
        words = ['--catalog', api.url, '--bbox', *box_words(place, .0005), '--archive', 'none', '--dem', 'none', *EVENT]
        out = command('map', *words, '--model', model, '--out', 'enga', cwd=tmp_path)
        assert out.returncode == 0, out.stderr[-2000:]
        before = contents(tmp_path/'enga')

        out = command('map', '--update', 'enga', cwd=tmp_path)
        assert out.returncode == 0 and 'no pass was added since this map' in out.stdout, out.stderr[-2000:]
        assert sorted(o.name for o in tmp_path.iterdir()) == ['archive', 'enga', 'enga.zarr']

        api.items, already = every, passes_read(api)
        out = command('map', '--update', 'enga', cwd=tmp_path)
        assert out.returncode == 0, out.stderr[-2000:]
        new = passes_read(api) - already
    metrics = metrics_of(tmp_path/'enga_2018-10-15')
    assert metrics['update']['added_passes'] == ['2018-10-15'] and metrics['update']['previous'] == 'enga'
    assert len(metrics['passes_post']) == 4 and contents(tmp_path/'enga') == before
    assert len(new) == 2, new # the pass that was added, and the one before the event that makes the sides equal
    built = open_cube(tmp_path/'enga_2018-10-15.zarr')
    held = open_cube(tmp_path/'enga.zarr')
    for band in ('vv', 'vh'): np.testing.assert_array_equal(built[band].sel(time=held.time), held[band])
