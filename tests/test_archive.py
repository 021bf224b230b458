"""From a box and two days to a map, with the real client libraries against archives on this machine.

What is built equals the files pixel by pixel; what was cut off goes on; whatever an archive does wrong ends in the right
cube or in one sentence and exit code 1, with nothing half-written.
"""
import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

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

@pytest.fixture(scope='module', autouse=True)
def no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        for name in ('NO_PROXY', 'no_proxy'): patch.setenv(name, '127.0.0.1')
        yield

@pytest.fixture(scope='module')
def place():
    "A simulated place with a hole: four passes of each direction before the event and four after it"
    cube = simulated(192).drop_vars(['dem', 'slope'])
    hole = (np.arange(192)[:, None] < 40) & (np.arange(192) > 150)
    return cube.assign({band: cube[band].where(~hole) for band in ('vv', 'vh')})

def asked(api, cube, *more, margin=.0005, archive='none'):
    "Words of `build` and `map` for the place of a cube"
    return ['--catalog', api.url, '--bbox', *box_words(cube, margin), '--archive', archive, '--dem', 'none', *more]

def build(api, cube, out, *more, event=EVENT, timeout=300, **options):
    "`landslide-nb build` in a process of its own"
    return command('build', *asked(api, cube, *event, *more, **options), '--out', out,
                   cwd=Path(out).parent, timeout=timeout)

def raster(path):
    "Values, transform and CRS of a raster with one band"
    with rasterio.open(path) as file: return file.read(1), file.transform, file.crs

def direct(files, grid, coords):
    "A cube of COGs opened directly, a window of each; files: one dict band -> path a pass"
    (height, width), transform, crs = grid
    bounds = rasterio.transform.array_bounds(height, width, transform)
    def window(path):
        with rasterio.open(path) as file:
            place = from_bounds(*bounds, file.transform).round_offsets().round_lengths()
            return file.read(1, window=place, masked=True, boundless=True).filled(np.nan)
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
    assert np.isfinite(found).mean() > .85
    return found, metrics

def test_a_box_becomes_the_map_of_the_same_files(place, tmp_path):
    with archive_of(place, tmp_path/'archive', page=3) as api:
        out = command('map', *asked(api, place, *EVENT, '--track', '46'), '--out', tmp_path/'run', cwd=tmp_path)
        assert out.returncode == 0, out.stderr[-2000:]
        found, metrics = same_map(api, tmp_path/'run', EVENT, tmp_path)
    assert len(metrics['passes_pre']) == len(metrics['passes_post']) == 3
    truth = place.landslides.rio.reproject_match(rioxarray.open_rasterio(tmp_path/'run'/'probability.tif')[0]).values
    assert np.nanmean(found[truth == 1]) > 10*np.nanmean(found[truth == 0])

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
        out = command('build', *asked(api, place, *EVENT), '--plan', cwd=tmp_path)
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

class Outcome(NamedTuple):
    "What a command left"
    returncode:int
    stdout:str
    stderr:str

@pytest.fixture
def build_here(tmp_path, monkeypatch, capsys):
    "`landslide-nb build` in this process, with hardly any wait between repetitions"
    from landslide_nb.archive import reading
    from landslide_nb.cli import main
    monkeypatch.setattr('urllib3.util.retry.Retry.sleep', lambda *_: None)
    monkeypatch.setitem(reading.READING, 'GDAL_HTTP_MAX_RETRY', '4')
    monkeypatch.setitem(reading.READING, 'GDAL_HTTP_RETRY_DELAY', '.05')
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(['build', *map(str, words), '--out', str(tmp_path/'cube.zarr')])
        return Outcome(code, *capsys.readouterr())
    return run

@pytest.fixture(scope='module')
def calm(place, tmp_path_factory):
    "The cube of an archive in which nothing goes wrong"
    folder = tmp_path_factory.mktemp('calm')
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
    connection_breaks_in_pixels=lambda api: api.faults.append(
        archives.breaks_off(api, '.tiff', bytes=40_000, times=1, after=18)),
    slow=lambda api: api.faults.append(archives.slow('.tiff', .02)),
    terms_ignored=archives.strangers,
    no_projection=archives.without_projection,
    wrong_transform=archives.wrong_transform,
    no_nodata_in_items=archives.without_nodata,
    no_nodata_anywhere=archives.untagged,
    pages_of_one=lambda api: setattr(api, 'page', 1),
)

@pytest.mark.parametrize('name', MENDED)
def test_a_fault_that_passes_leaves_no_trace(name, place, calm, tmp_path, build_here):
    with archive_of(place, tmp_path/'archive') as api:
        MENDED[name](api)
        out = build_here(*asked(api, place, *EVENT))
    assert out.returncode == 0, out.stderr[-2000:]
    same_cube(tmp_path/'cube.zarr', calm)

def test_no_data_of_the_archive_is_no_data_of_the_cube(place, calm):
    "The place has a hole, which the archive writes as -32768"
    expected = place.sel(time=calm.time, y=calm.y, x=calm.x)
    assert bool(expected.vv.isnull().any(['y', 'x']).all())
    np.testing.assert_array_equal(calm.vv, expected.vv)
    np.testing.assert_array_equal(calm.vh, expected.vh)


# What goes wrong and is said

def truncate(api): archives.truncated(api.folder, 'iw-vh')

SAID = dict( # what is wrong -> (made so, a word of the sentence)
    busy_search=(lambda api: api.faults.append(archives.busy('/search', np.inf, 429, None)), '429'),
    out_of_order=(lambda api: api.faults.append(archives.busy('/search', np.inf, 500, None)), '500'),
    broken_json=(lambda api: api.faults.append(archives.broken_json()), 'broken'),
    endless_pages=(lambda api: api.faults.append(archives.looping(api)), 'page'),
    needs_a_key=(lambda api: api.faults.append(archives.locked()), 'key'),
    no_api=(lambda api: api.faults.append(archives.login_page('/')), 'web page'),
    missing_file=(lambda api: api.faults.append(archives.missing('iw-vh')), '404'),
    login_page=(lambda api: api.faults.append(archives.login_page('iw-vv')), 'web page'),
    truncated=(truncate, 'iw-vh'),
    files_busy=(lambda api: api.faults.append(archives.busy('.tiff', np.inf, 429, None)), '429'),
    nothing_there=(lambda api: api.items.clear(), 'pass'),
)

def left_over(folder):
    "What lies beside the archive, but for hidden files from which the next call goes on"
    return sorted(o.name for o in folder.iterdir() if o.name not in ('archive', 'cache') and not o.name.startswith('.'))

@pytest.mark.parametrize('name', SAID)
def test_a_fault_that_stays_is_one_sentence(name, place, tmp_path, build_here):
    spoil, word = SAID[name]
    with archive_of(place, tmp_path/'archive') as api:
        spoil(api)
        out = build_here(*asked(api, place, *EVENT))
    one_sentence(out, word)
    assert left_over(tmp_path) == []

def test_a_catalogue_that_is_down_is_one_sentence(place, tmp_path, build_here):
    with archive_of(place, tmp_path/'archive') as api: pass
    one_sentence(build_here(*asked(api, place, *EVENT)), api.url)
    assert left_over(tmp_path) == []

def test_a_catalogue_that_hangs_is_given_up(place, tmp_path):
    from datetime import date
    from landslide_nb.archive.box import read_box
    from landslide_nb.archive.catalog import Patience, search_catalog
    from landslide_nb.core import FetchError
    with archive_of(place, tmp_path/'archive') as api:
        api.faults.append(archives.hanging('/search', 60))
        start = time.monotonic()
        with pytest.raises(FetchError, match='no answer within 0.5 s'):
            search_catalog(api.url, read_box(box_words(place)), date(2018, 8, 1), date(2018, 9, 30),
                           patience=Patience(tries=1, wait=.05, timeout=.5))
        assert time.monotonic() - start < 30

PLACES = dict( # box -> a word of the sentence
    in_metres=(['600000', '4738000', '601900', '4739900'], 'degrees'),
    north_below_south=(['142.23', '42.80', '142.24', '42.79'], 'south'),
    over_the_pole=(['142.2', '89.99', '142.3', '90.5'], 'latitude'),
    no_size=(['142.23', '42.79', '142.23', '42.80'], 'west'),
    at_sea=(['-140.1', '10', '-140', '10.1'], 'pass'),
    larger_than_all_frames=(['141', '42', '144', '44'], 'smaller box'),
)

@pytest.mark.parametrize('name', PLACES)
def test_a_place_that_cannot_be_is_one_sentence(name, place, tmp_path, build_here):
    box, word = PLACES[name]
    with archive_of(place, tmp_path/'archive') as api:
        out = build_here('--catalog', api.url, '--bbox', *box, *EVENT, '--archive', 'none', '--dem', 'none')
        assert images_read(api) == {}
    one_sentence(out, word)
    assert left_over(tmp_path) == []

def test_a_grid_beyond_reason_is_one_sentence(place, tmp_path, build_here):
    with archive_of(place, tmp_path/'archive') as api:
        out = build_here(*asked(api, place, *EVENT, '--resolution', '.05'))
    one_sentence(out, '--resolution')
    assert left_over(tmp_path) == []

def test_no_pass_after_the_event_says_when_the_next_is_due(place, tmp_path, build_here):
    before = place.isel(time=np.flatnonzero(place.time.values < np.datetime64('2018-09-07')))
    with archive_of(before, tmp_path/'archive') as api: out = build_here(*asked(api, place, *EVENT))
    one_sentence(out, '2018-09-')
    assert left_over(tmp_path) == []

def test_no_track_on_both_sides_is_one_sentence(place, tmp_path, build_here):
    after = place.time.values >= np.datetime64('2018-09-07')
    sides = (place.orbit.values == 'ascending') == after
    with archive_of(place.isel(time=np.flatnonzero(sides)), tmp_path/'archive') as api:
        out = build_here(*asked(api, place, *EVENT))
    one_sentence(out, 'track')
    assert left_over(tmp_path) == []


# Cut off, and on again

def begin(api, cube, out, *more):
    "`landslide-nb build` in the background"
    words = [BIN/'landslide-nb', 'build', *asked(api, cube, *EVENT, *more), '--out', out]
    return subprocess.Popen([str(o) for o in words], cwd=Path(out).parent,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def until(true, seconds=60):
    "Wait for something to become true"
    end = time.time() + seconds
    while not true():
        assert time.time() < end, 'it did not come so far'
        time.sleep(.01)

def products(cube, api):
    "Names of the products of a cube's passes, in order of time"
    names = {item['properties']['datetime'][:19]: item['id'] for item in api.items}
    return [names[str(o)[:19]] for o in cube.time.values]

def finished_in(folder, names):
    "Of these products, those that an interrupted build keeps"
    return {names[int(o.name.removeprefix('pass_'))] for o in folder.glob('pass_*')}

def test_killed_in_the_middle_it_goes_on_where_it_was(place, calm, tmp_path):
    out = tmp_path/'cube.zarr'
    hidden = tmp_path/'.cube.zarr.unfinished'
    with archive_of(place, tmp_path/'archive') as api:
        names = products(calm, api)
        api.faults.append(archives.slow('.tiff', .15))
        process = begin(api, place, out, '--workers', '1')
        until(lambda: len(finished_in(hidden, names)) >= 2)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not out.exists()
        done = finished_in(hidden, names)
        assert 2 <= len(done) < len(names)
        (hidden/'cube.zarr'/'.zgroup.0123abcd.partial').write_text('half') # as Zarr leaves what it is writing
        api.faults.clear()
        with api.lock: api.requests.clear()
        again = build(api, place, out)
        assert again.returncode == 0, again.stderr[-2000:]
        assert passes_read(api) == set(names) - done
    same_cube(out, calm)
    assert left_over(tmp_path) == ['cube.zarr'] and not hidden.exists()
    assert not list(out.rglob('*.partial'))

def test_refused_in_the_middle_it_goes_on_where_it_was(place, calm, tmp_path, build_here):
    "A busy archive ends a build with a sentence; the next call reads only what is missing"
    out, hidden = tmp_path/'cube.zarr', tmp_path/'.cube.zarr.unfinished'
    with archive_of(place, tmp_path/'archive') as api:
        names = products(calm, api)
        api.faults.append(archives.busy('.tiff', np.inf, 429, None, after=9))
        one_sentence(build_here(*asked(api, place, *EVENT, '--workers', '1')), '429')
        done = finished_in(hidden, names)
        assert done and not out.exists()
        api.faults.clear()
        with api.lock: api.requests.clear()
        assert build_here(*asked(api, place, *EVENT)).returncode == 0
        assert passes_read(api) == set(names) - done
    same_cube(out, calm)

def test_what_is_built_is_not_built_again(place, tmp_path, build_here):
    with archive_of(place, tmp_path/'archive') as api:
        assert build_here(*asked(api, place, *EVENT)).returncode == 0
        with api.lock: api.requests.clear()
        assert build_here(*asked(api, place, *EVENT)).returncode == 0
        assert images_read(api) == {}

def test_a_build_that_waited_for_another_one_leaves_its_cube(place, tmp_path, build_here, monkeypatch):
    "When it first looked, the other process had not ended"
    import landslide_nb.archive.build as module
    looked, built_already = [], module.built_already
    def looks(out, request):
        looked.append(out)
        return len(looked) > 1 and built_already(out, request)
    with archive_of(place, tmp_path/'archive') as api:
        assert build_here(*asked(api, place, *EVENT)).returncode == 0
        monkeypatch.setattr(module, 'built_already', looks)
        assert build_here(*asked(api, place, *EVENT)).returncode == 0
    assert left_over(tmp_path) == ['cube.zarr']

def test_the_output_of_another_plan_is_refused(place, tmp_path, build_here):
    with archive_of(place, tmp_path/'archive') as api:
        assert build_here(*asked(api, place, *EVENT)).returncode == 0
        before = {o: o.read_bytes() for o in (tmp_path/'cube.zarr').rglob('*') if o.is_file()}
        one_sentence(build_here(*asked(api, place, *EVENT, '--passes', '2')), 'cube.zarr')
    assert {o: o.read_bytes() for o in (tmp_path/'cube.zarr').rglob('*') if o.is_file()} == before

def test_what_is_half_built_of_another_plan_is_refused(place, tmp_path, build_here):
    with archive_of(place, tmp_path/'archive') as api:
        api.faults.append(archives.missing('iw-vh'))
        one_sentence(build_here(*asked(api, place, *EVENT)), '404')
        api.faults.clear()
        one_sentence(build_here(*asked(api, place, *EVENT, '--passes', '2')), 'another plan')

def test_two_builds_of_one_cube_do_not_mix(place, tmp_path):
    gate = threading.Event()
    with archive_of(place, tmp_path/'archive') as api:
        api.faults.append(archives.on('.tiff', lambda request: gate.wait(120) and None))
        process = begin(api, place, tmp_path/'cube.zarr')
        until(lambda: any('.tiff' in request.path for request in list(api.requests)))
        one_sentence(build(api, place, tmp_path/'cube.zarr'), 'another process')
        gate.set()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]

def test_no_room_on_the_disk(place, tmp_path, build_here, monkeypatch):
    import shutil
    from landslide_nb import core
    monkeypatch.setattr(core.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with archive_of(place, tmp_path/'archive') as api:
        one_sentence(build_here(*asked(api, place, *EVENT)), 'make room')
        assert images_read(api) == {}
    assert left_over(tmp_path) == []

def test_a_disk_that_fills_up_keeps_what_is_finished(place, calm, tmp_path, build_here, monkeypatch):
    import errno
    from zarr.storage import _local
    put, left = _local._put, iter([True]*14)
    def full(path, *more, **options):
        if '.unfinished' in str(path) and path.name[0].isdigit() and not next(left, False):
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        return put(path, *more, **options)
    with archive_of(place, tmp_path/'archive') as api:
        names = products(calm, api)
        with monkeypatch.context() as patch:
            patch.setattr(_local, '_put', full)
            one_sentence(build_here(*asked(api, place, *EVENT, '--workers', '1')), 'No space left')
        done = finished_in(tmp_path/'.cube.zarr.unfinished', names)
        assert done and left_over(tmp_path) == []
        with api.lock: api.requests.clear()
        assert build_here(*asked(api, place, *EVENT)).returncode == 0
        assert passes_read(api) <= set(names) - done # GDAL has kept some of their bytes
    same_cube(tmp_path/'cube.zarr', calm)


# Passes, tracks and places

def test_frames_of_a_pass_seconds_apart_are_one_pass(place, calm, tmp_path, build_here):
    with archive_of(archives.in_frames(place), tmp_path/'archive', page=50) as api:
        out = build_here(*asked(api, place, *EVENT))
    assert out.returncode == 0, out.stderr[-2000:]
    same_cube(tmp_path/'cube.zarr', calm)

def test_both_directions_on_one_day_stay_apart(place, tmp_path, build_here):
    days = archives.same_days(place)
    with archive_of(days, tmp_path/'archive') as api: out = build_here(*asked(api, place, *EVENT, '--track', 'all'))
    assert out.returncode == 0, out.stderr[-2000:]
    cube = open_cube(tmp_path/'cube.zarr').load()
    assert set(cube.track.values) == {46, 68}
    for k, time in enumerate(cube.time.values):
        expected = days.sel(time=time, y=cube.y, x=cube.x)
        assert cube.orbit.values[k] == expected.orbit.item()
        np.testing.assert_array_equal(cube.vv[k], expected.vv)

def test_the_newest_processing_wins_and_is_said(place, calm, tmp_path, build_here):
    with archive_of(place, tmp_path/'archive') as api:
        product = products(calm, api)[1]
        archives.reprocessed(api, product, factor=2.)
        out = build_here(*asked(api, place, *EVENT))
    assert out.returncode == 0, out.stderr[-2000:]
    cube = open_cube(tmp_path/'cube.zarr').load()
    assert list(cube.time.values) == list(calm.time.values)
    factors = (cube.vv/calm.vv).median(['y', 'x']).values
    np.testing.assert_allclose(factors, [2 if k == 1 else 1 for k in range(len(factors))], rtol=1e-6)
    assert re.search('duplicate|copies|newest|processed', out.stdout), out.stdout

def test_platforms_a_pixel_apart_are_put_right(place, tmp_path, build_here):
    descending = place.isel(time=np.flatnonzero(place.orbit.values == 'descending'))
    mixed = archives.other_platform(descending, which=slice(4, None), shift=(0, 2))
    with archive_of(mixed, tmp_path/'archive') as api: out = build_here(*asked(api, place, *EVENT))
    assert out.returncode == 0, out.stderr[-2000:]
    cube = open_cube(tmp_path/'cube.zarr').load()
    assert list(cube.platform.values) == ['S1A']*3 + ['S1C']*3
    expected = place.sel(time=cube.time, y=cube.y, x=cube.x)
    inner = dict(y=slice(50, -10), x=slice(10, -10)) # what was moved in from the edges is not asked for
    np.testing.assert_array_equal(cube.vv.isel(inner), expected.vv.isel(inner))
    assert re.search(r'S1C and S1A .*-2', out.stdout), out.stdout

def test_zero_borders_are_no_data(place, tmp_path, build_here):
    bordered = archives.zero_borders(place)
    with archive_of(bordered, tmp_path/'archive') as api: out = build_here(*asked(api, place, *EVENT, margin=0))
    assert out.returncode == 0, out.stderr[-2000:]
    cube = open_cube(tmp_path/'cube.zarr').load()
    left = cube.sel(x=slice(None, float(place.x[11])))
    assert left.sizes['x'] >= 12 and bool(left.vv.isnull().all()) and bool(left.vh.isnull().all())
    assert not bool((cube.vv == 0).any())

def test_a_place_across_180_degrees(place, tmp_path, build_here):
    fiji = archives.at_place(place, 'EPSG:32760', (818_600, 8_118_000))
    west, south, east, north = fiji.rio.transform_bounds('EPSG:4326')
    assert west > 179 and east < -179
    with archive_of(fiji, tmp_path/'archive') as api: out = build_here(*asked(api, fiji, *EVENT))
    assert out.returncode == 0, out.stderr[-2000:]
    cube = open_cube(tmp_path/'cube.zarr').load()
    assert cube.rio.crs.to_epsg() == 32760
    expected = fiji.sel(time=cube.time, y=cube.y, x=cube.x)
    np.testing.assert_array_equal(cube.vv, expected.vv)

def test_a_place_in_two_utm_zones_gets_one_grid(place, tmp_path, build_here):
    "Two frames of each pass, each in its own zone: all pixels lie on one grid, and they meet without a gap"
    import pyproj
    to_54, to_55 = (pyproj.Transformer.from_crs(4326, f'EPSG:{zone}', always_xy=True).transform
                    for zone in (32654, 32655))
    wide = place.assign({band: place[band].fillna(.05) for band in ('vv', 'vh')})
    west = archives.at_place(wide, 'EPSG:32654',
                             (round(to_54(144.003, 42.8)[0], -1) - 1920, round(to_54(144, 42.8)[1], -1)))
    east = archives.at_place(wide, 'EPSG:32655',
                             (round(to_55(143.997, 42.8)[0], -1), round(to_55(144, 42.8)[1], -1)))
    box = ['143.990', '42.787', '144.010', '42.797']
    with archive_of([west, east.assign_coords(time=east.time + np.timedelta64(25, 's'))],
                    tmp_path/'archive', page=50) as api:
        out = build_here('--catalog', api.url, '--bbox', *box, *EVENT, '--archive', 'none', '--dem', 'none')
    assert out.returncode == 0, out.stderr[-2000:]
    cube = open_cube(tmp_path/'cube.zarr').load()
    assert cube.rio.crs.to_epsg() in (32654, 32655) and cube.sizes['time'] == 6
    assert f'EPSG:{cube.rio.crs.to_epsg()}' in out.stdout
    assert float(cube.vv.isnull().mean()) == 0
