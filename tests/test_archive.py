"""From a box and two days to a map, with the real client libraries against archives on this machine.

What is built equals the files pixel by pixel; what was cut off goes on; whatever an archive does wrong ends in the right
cube or in one sentence and exit code 1, with nothing half-written.
"""
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from rasterio.windows import from_bounds

import stac_server as archives
from conftest import BIN, command, one_sentence
from landslide_nb.data.cube import open_cube, save_cube
from stac_server import archive_of, box_words, images_read, passes_read, real_burst, real_landslide, simulated

pytestmark = pytest.mark.filterwarnings('ignore::landslide_nb.core.CubeWarning', 'ignore:Use `@` matmul:PendingDeprecationWarning')

EVENT = ['--start', '2018-09-05', '--end', '2018-09-07']

@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('no_proxy', '127.0.0.1')

@pytest.fixture(scope='session')
def place():
    "A simulated place: four passes of each direction before the event and four after it"
    return simulated(192).drop_vars(['dem', 'slope'])

def asked(api, cube, *more, margin=.0005, archive='none'):
    "Words of `build` and `map` for the place of a cube"
    return ['--catalog', api.url, '--bbox', *box_words(cube, margin), '--archive', archive, '--dem', 'none', *more]

def build(api, cube, out, *more, event=EVENT, timeout=300, **options):
    "`landslide-nb build` in a process of its own"
    return command('build', *asked(api, cube, *event, *more, **options), '--out', out, cwd=Path(out).parent, timeout=timeout)

def raster(path):
    "Values, transform and CRS of a raster with one band"
    with rasterio.open(path) as file: return file.read(1), file.transform, file.crs

def direct(files, grid, coords):
    "A cube of COGs opened directly, a window of each; files: one dict band -> path a pass"
    (height, width), transform, crs = grid
    bounds = rasterio.transform.array_bounds(height, width, transform)
    def window(path):
        with rasterio.open(path) as file:
            return file.read(1, window=from_bounds(*bounds, file.transform).round_offsets().round_lengths(), masked=True).filled(np.nan)
    bands = {band: (('time', 'y', 'x'), np.stack([window(o[band]) for o in files])) for band in ('vv', 'vh')}
    x, y = transform.c + transform.a*(np.arange(width) + .5), transform.f + transform.e*(np.arange(height) + .5)
    return xr.Dataset(bands, dict(coords, x=x, y=y)).rio.write_crs(crs).rio.write_transform(transform)

def files_of(api, days, orbit):
    "The COGs of some days and one direction, in order"
    chosen = {}
    for item in api.items:
        about = item['properties']
        if about.get('sat:orbit_state') != orbit or about['datetime'][:10] not in days: continue
        chosen[about['datetime']] = {band: api.folder/item['assets'][band]['href'].removeprefix(f'{api.url}/') for band in ('vv', 'vh')}
    return [chosen[moment] for moment in sorted(chosen)], sorted(chosen)


# From a box to a map

def same_map(api, run, event, tmp_path):
    "The map of a run folder is the map of the same files opened directly"
    metrics = json.loads((run/'metrics.json').read_text())
    days = {*metrics['passes_pre'], *metrics['passes_post']}
    files, moments = files_of(api, days, metrics['orbit'])
    assert len(files) == len(days), metrics
    found, transform, crs = raster(run/'probability.tif')
    coords = dict(time=[np.datetime64(o[:19], 'ns') for o in moments], orbit=('time', [metrics['orbit']]*len(files)))
    save_cube(direct(files, (found.shape, transform, crs), coords), tmp_path/'direct.zarr')
    out = command('map', tmp_path/'direct.zarr', *event, '--out', tmp_path/'direct', cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    expected, same_transform, _ = raster(tmp_path/'direct'/'probability.tif')
    assert same_transform == transform
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).mean() > .9
    return found, metrics

def test_a_box_becomes_the_map_of_the_same_files(place, tmp_path):
    with archive_of(place, tmp_path/'archive', page=3) as api:
        out = command('map', *asked(api, place, *EVENT), '--out', tmp_path/'run', cwd=tmp_path)
        assert out.returncode == 0, out.stderr[-2000:]
        found, metrics = same_map(api, tmp_path/'run', EVENT, tmp_path)
    assert len(metrics['passes_pre']) == len(metrics['passes_post']) == 3
    assert found.max() > metrics['threshold']

def test_real_passes_of_one_burst(shared, tmp_path):
    cube, event = real_burst(shared), ['--start', '2023-11-15', '--end', '2023-11-18']
    with archive_of(cube, tmp_path/'archive', nodata=np.nan) as api:
        out = command('map', *asked(api, cube, *event), '--out', tmp_path/'run', cwd=tmp_path)
        assert out.returncode == 0, out.stderr[-2000:]
        same_map(api, tmp_path/'run', event, tmp_path)

def test_the_real_landslide_is_found_in_an_archive(shared, tmp_path):
    cube, event = real_landslide(shared), ['--start', '2024-05-23', '--end', '2024-05-24']
    with archive_of(cube, tmp_path/'archive') as api:
        out = command('map', *asked(api, cube, *event, margin=.0), '--out', tmp_path/'run', cwd=tmp_path)
        assert out.returncode == 0, out.stderr[-2000:]
    found, transform, _ = raster(tmp_path/'run'/'probability.tif')
    truth = cube.landslides.rio.reproject_match(rioxarray.open_rasterio(tmp_path/'run'/'probability.tif')[0])
    ok = np.isfinite(found)
    assert np.nanmean(found[(truth.values == 1) & ok]) > 5*np.nanmean(found[(truth.values == 0) & ok])


# The plan

def test_a_plan_downloads_nothing(place, tmp_path):
    with archive_of(place, tmp_path/'archive') as api:
        out = build(api, place, tmp_path/'cube.zarr', '--plan')
        assert out.returncode == 0, out.stderr[-2000:]
        assert images_read(api) == {}
    assert not list(tmp_path.glob('*cube*'))
    assert re.search(r'\b(46|68)\b', out.stdout) and re.search(r'\bMB\b', out.stdout), out.stdout

def test_seasons_before_the_event_are_planned_and_built(tmp_path):
    cube = simulated(96, years=2).drop_vars(['dem', 'slope'])
    with archive_of(cube, tmp_path/'archive', page=50) as api:
        out = build(api, cube, tmp_path/'cube.zarr', archive='season', margin=.0003)
        assert out.returncode == 0, out.stderr[-2000:]
    days = open_cube(tmp_path/'cube.zarr').time.values.astype('datetime64[Y]').astype(int) + 1970
    assert set(days) == {2016, 2017, 2018}


# What goes wrong and is put right

@pytest.fixture(scope='module')
def calm(place, tmp_path_factory):
    "The cube of an archive in which nothing goes wrong"
    folder = tmp_path_factory.mktemp('calm')
    os.environ['NO_PROXY'] = os.environ['no_proxy'] = '127.0.0.1'
    with archive_of(place, folder/'archive') as api:
        out = build(api, place, folder/'cube.zarr')
        assert out.returncode == 0, out.stderr[-2000:]
    return open_cube(folder/'cube.zarr').load()

def same_cube(path, calm):
    "A cube has the pixels and times of the calm one"
    cube = open_cube(path).load()
    assert list(cube.time.values) == list(calm.time.values)
    for name in ('y', 'x', 'vv', 'vh'): np.testing.assert_array_equal(cube[name], calm[name], err_msg=name)
    return cube

MENDED = dict(
    busy_search=lambda api: api.faults.append(archives.busy('/search', 2, 429)),
    broken_search=lambda api: api.faults.append(archives.busy('/search', 2, 500, None)),
    busy_files=lambda api: api.faults.append(archives.busy('.tiff', 3, 429, '1')),
    broken_files=lambda api: api.faults.append(archives.busy('.tiff', 2, 503, None, after=5)),
    connection_breaks=lambda api: api.faults.append(archives.breaks_off(api, '.tiff', times=1, after=3)),
    slow=lambda api: api.faults.append(archives.slow('.tiff', .02)),
    terms_ignored=lambda api: api.unheeded.update({'bbox', 'datetime', 'query', 'collections'}),
    no_projection=archives.without_projection,
    wrong_transform=archives.wrong_transform,
    no_nodata=archives.without_nodata,
    pages_of_one=lambda api: setattr(api, 'page', 1),
)

@pytest.mark.parametrize('name', MENDED)
def test_a_fault_that_passes_leaves_no_trace(name, place, calm, tmp_path):
    with archive_of(place, tmp_path/'archive') as api:
        MENDED[name](api)
        out = build(api, place, tmp_path/'cube.zarr')
    assert out.returncode == 0, out.stderr[-2000:]
    same_cube(tmp_path/'cube.zarr', calm)


# What goes wrong and is said

def truncate(api): archives.truncated(api.folder, 'iw-vh')

SAID = dict( # what is wrong -> (made so, a word of the sentence)
    busy_search=(lambda api: api.faults.append(archives.busy('/search', np.inf, 429, None)), '429'),
    out_of_order=(lambda api: api.faults.append(archives.busy('/search', np.inf, 500, None)), '500'),
    broken_json=(lambda api: api.faults.append(archives.broken_json()), 'broken'),
    endless_pages=(lambda api: api.faults.append(archives.looping(api)), 'page'),
    needs_a_key=(lambda api: api.faults.append(archives.locked()), 'key'),
    no_api=(lambda api: api.faults.append(archives.login_page('/')), 'STAC'),
    missing_file=(lambda api: api.faults.append(archives.missing('iw-vh')), '404'),
    login_page=(lambda api: api.faults.append(archives.login_page('iw-vv')), 'iw-vv'),
    truncated=(truncate, 'iw-vh'),
    files_busy=(lambda api: api.faults.append(archives.busy('.tiff', np.inf, 429, None)), '429'),
    nothing_there=(lambda api: api.items.clear(), 'pass'),
)

def left_over(folder):
    "What lies beside the archive, but for hidden files from which the next call goes on"
    return sorted(o.name for o in folder.iterdir() if o.name not in ('archive', 'cache') and not o.name.startswith('.'))

@pytest.mark.parametrize('name', SAID)
def test_a_fault_that_stays_is_one_sentence(name, place, tmp_path):
    spoil, word = SAID[name]
    with archive_of(place, tmp_path/'archive') as api:
        spoil(api)
        out = build(api, place, tmp_path/'cube.zarr')
    one_sentence(out, word)
    assert left_over(tmp_path) == []

def test_a_catalogue_that_is_down_is_one_sentence(place, tmp_path):
    with archive_of(place, tmp_path/'archive') as api: pass
    out = build(api, place, tmp_path/'cube.zarr')
    one_sentence(out, api.url)
    assert left_over(tmp_path) == []

PLACES = dict( # box -> a word of the sentence
    in_metres=(['600000', '4738000', '601900', '4739900'], 'degrees'),
    north_below_south=(['142.23', '42.80', '142.24', '42.79'], 'south'),
    over_the_pole=(['142.2', '89.99', '142.3', '90.5'], 'latitude'),
    no_size=(['142.23', '42.79', '142.23', '42.80'], 'west'),
    at_sea=(['-140.1', '10', '-140', '10.1'], 'pass'),
    too_large=(['141', '42', '144', '44'], 'resolution'),
)

@pytest.mark.parametrize('name', PLACES)
def test_a_place_that_cannot_be_is_one_sentence(name, place, tmp_path):
    box, word = PLACES[name]
    with archive_of(place, tmp_path/'archive') as api:
        out = command('build', '--catalog', api.url, '--bbox', *box, *EVENT, '--archive', 'none', '--dem', 'none', '--out', tmp_path/'cube.zarr', cwd=tmp_path)
        assert images_read(api) == {}
    one_sentence(out, word)
    assert left_over(tmp_path) == []

def test_no_pass_after_the_event_says_when_the_next_is_due(place, tmp_path):
    before = place.isel(time=np.flatnonzero(place.time.values < np.datetime64('2018-09-07')))
    with archive_of(before, tmp_path/'archive') as api: out = build(api, place, tmp_path/'cube.zarr')
    one_sentence(out, '2018-09-')
    assert left_over(tmp_path) == []

def test_no_track_on_both_sides_is_one_sentence(place, tmp_path):
    after = place.time.values >= np.datetime64('2018-09-07')
    sides = (place.orbit.values == 'ascending') == after
    with archive_of(place.isel(time=np.flatnonzero(sides)), tmp_path/'archive') as api: out = build(api, place, tmp_path/'cube.zarr')
    one_sentence(out, 'track')
    assert left_over(tmp_path) == []


# Cut off, and on again

def begin(api, cube, out, *more):
    "`landslide-nb build` in the background"
    words = [BIN/'landslide-nb', 'build', *asked(api, cube, *EVENT, *more), '--out', out]
    return subprocess.Popen([str(o) for o in words], cwd=Path(out).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def until(true, seconds=60):
    "Wait for something to become true"
    end = time.time() + seconds
    while not true():
        assert time.time() < end, 'it did not come so far'
        time.sleep(.01)

def test_killed_in_the_middle_it_goes_on_where_it_was(place, calm, tmp_path):
    out = tmp_path/'cube.zarr'
    with archive_of(place, tmp_path/'archive') as api:
        api.faults.append(archives.slow('.tiff', .1))
        process = begin(api, place, out)
        until(lambda: len(passes_read(api)) >= 4)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not out.exists()
        first = images_read(api)
        api.faults.clear()
        with api.lock: api.requests.clear()
        again = build(api, place, out)
        assert again.returncode == 0, again.stderr[-2000:]
        second = images_read(api)
    same_cube(out, calm)
    assert left_over(tmp_path) == ['cube.zarr']
    return first, second
