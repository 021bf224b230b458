"The same season of earlier years: which passes it is made of, and what pairs, null pairs and maps make of them."
import json
from datetime import date, timedelta
import numpy as np
import pytest
import xarray as xr
from conftest import command, one_sentence
from landslide_nb.core import CubeError, get_event
from landslide_nb.data.cube import open_cube, save_cube
from landslide_nb.data.pair import make_pair
from landslide_nb.data.passes import choose_passes, passes_before
from landslide_nb.data.seasons import SEASON, anniversary, near_anniversary, season_passes
from landslide_nb.mapping.nulls import null_pairs, null_passes

def every(first, last, step=12):
    "The days of passes"
    n = (last - first).days//step + 1
    return [first + timedelta(step*k) for k in range(n)]

def cube_of(days, shape=(8, 8)):
    "A canonical cube with passes on some days, each of another brightness"
    power = np.full((len(days), *shape), .1, 'float32')*np.linspace(1, 2, len(days), dtype='float32')[:, None, None]
    dims = ('time', 'y', 'x')
    coords = dict(time=np.array(days, 'datetime64[ns]'), orbit=('time', ['ascending']*len(days)),
                  y=4.7e6 - 10.*np.arange(shape[0]), x=5e5 + 10.*np.arange(shape[1]))
    return open_cube(xr.Dataset(dict(vv=(dims, power), vh=(dims, power/4)), coords).rio.write_crs('EPSG:32654'))

def season(days, event): return [days[k] for k in season_passes(days, event)]

def test_a_leap_day_has_an_anniversary_every_year():
    assert [anniversary(date(2024, 2, 29), years) for years in (1, 2, 3, 4)] == [
        date(2023, 2, 28), date(2022, 2, 28), date(2021, 2, 28), date(2020, 2, 29)]
    days = every(date(2020, 2, 29), date(2024, 2, 29), 1)
    found = season(days, date(2024, 2, 29))
    assert found[-4:] == [date(2023, 2, 26), date(2023, 2, 27), date(2023, 2, 28), date(2023, 3, 1)]
    assert len(found) == 10 and date(2020, 2, 29) not in found # four years back is too far

def test_a_season_spans_new_year():
    days = every(date(2021, 11, 1), date(2024, 12, 31))
    found = season(days, date(2025, 1, 3))
    assert {day.year for day in found} == {2021, 2022, 2023, 2024}
    for year, most in ((2024, 4), (2023, 3), (2022, 3)):
        near = [day for day in found if abs(day - date(year, 1, 3)) <= SEASON]
        assert len(near) == most and any(day < date(year, 1, 1) for day in near) and any(
            day >= date(year, 1, 1) for day in near)

@pytest.mark.parametrize('off, n', [(-61, 0), (-60, 1), (60, 1), (61, 0)])
def test_sixty_days_from_the_anniversary_and_no_more(off, n):
    assert len(near_anniversary([date(2023, 6, 1) + timedelta(off)], date(2023, 6, 1), 3)) == n

@pytest.mark.parametrize('days', [[], every(date(2024, 3, 1), date(2024, 12, 20)),
                                  every(date(2022, 3, 5), date(2022, 10, 30))],
                         ids=['none', 'less than a year', 'another season'])
def test_no_pass_of_the_season(days):
    assert season_passes(days, date(2024, 12, 31)) == []

def test_the_image_before_is_the_mean_of_the_chosen_passes():
    cube = cube_of(every(date(2021, 5, 1), date(2024, 7, 1)))
    event = get_event(('2024-06-01', '2024-06-02'))
    chosen = {before: choose_passes(cube, event, 3, before=before)[1] for before in ('last', 'season', 'both')}
    assert (len(chosen['last']), len(chosen['season'])) == (3, 10)
    assert chosen['both'] == sorted(chosen['last'] + chosen['season'])
    for before, passes in chosen.items():
        pair = make_pair(cube, event, before=before, balance=False)
        by_hand = 10*np.log10(cube.vv.values[passes].mean(0))
        np.testing.assert_allclose(pair.vv[0], by_hand, atol=1e-4)
        assert pair.attrs.get('before', 'last') == before and len(pair.passes_pre) == len(passes)
        assert len(pair.passes_post) == 3

def test_last_passes_of_a_year_ago_are_taken_once():
    cube = cube_of([*every(date(2023, 6, 1), date(2023, 6, 30)), date(2024, 6, 10)])
    event = get_event(('2024-06-05', '2024-06-10'))
    pre = [0, 1, 2]
    assert passes_before(cube, pre, event, 3, 'both') == passes_before(cube, pre, event, 3, 'season') == pre

@pytest.mark.parametrize('before', ['season', 'both', 'each'])
def test_an_archive_shorter_than_a_year_is_refused(before):
    cube = cube_of(every(date(2024, 1, 1), date(2024, 7, 1)))
    with pytest.raises(CubeError, match=r'no usable pass within 60 days of 2024-06-01 in any of the three years before '
                                        r'\(its first of the track is of 2024-01-01\)'):
        make_pair(cube, ('2024-06-01', '2024-06-02'), before=before)
    with pytest.raises(CubeError, match="before='summer' is unknown; choose last, season, both, each"):
        make_pair(cube, ('2024-06-01', '2024-06-02'), before='summer')

def test_null_pairs_look_back_as_the_map_does():
    days = every(date(2021, 4, 1), date(2024, 7, 1))
    cube = cube_of(days)
    when = np.datetime64('2024-06-01')
    for before in ('season', 'both'):
        pair = make_pair(cube, ('2024-06-01', '2024-06-02'), before=before, passes=2)
        splits = null_passes(cube, pair)
        assert splits and len(null_pairs(cube, pair)) == 4
        for pre, post in splits:
            first = cube.time.values[post[0]]
            assert len(post) == 2 and pre[-1] < post[0] and cube.time.values[post[-1]] <= when
            ages = (first - cube.time.values[pre])/np.timedelta64(1, 'D')
            of_season = [age for age in ages if min(abs(age - 365.25*k) for k in (1, 2, 3)) <= 61]
            assert of_season and len(of_season) + (2 if before == 'both' else 0) == len(pre)

def test_no_null_pair_without_an_earlier_season():
    cube = cube_of([*every(date(2023, 5, 10), date(2023, 6, 20)), *every(date(2024, 5, 1), date(2024, 7, 1))])
    pair = make_pair(cube, ('2024-05-25', '2024-05-26'), passes=2, before='season')
    for null in null_pairs(cube, pair): # those of this year may look back at the last; none of the last year can
        assert null.passes_post[0] > '2024'

def test_maps_of_the_season(tmp_path):
    days = [*every(date(2023, 5, 10), date(2023, 6, 20)), *every(date(2024, 5, 1), date(2024, 7, 1))]
    rng = np.random.default_rng(0)
    cube = cube_of(days, (64, 64))
    noisy = cube.assign({band: cube[band]*rng.gamma(9, 1/9, cube[band].shape).astype('float32')
                         for band in ('vv', 'vh')})
    save_cube(noisy, tmp_path/'cube.zarr')
    said = ['--start', '2024-05-25', '--end', '2024-05-26']
    out = command('map', 'cube.zarr', *said, '--before', 'season', '--out', 'run', cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert metrics['before'] == 'season' and all(day < '2024' for day in metrics['passes_pre'])
    assert '--before=season' in metrics['command']
    assert 'of the same season of earlier years' in (tmp_path/'run'/'report.html').read_text()
    late = noisy.isel(time=slice(4, None))
    save_cube(late, tmp_path/'late.zarr')
    out = command('map', 'late.zarr', *said, '--before', 'both', '--out', 'none', cwd=tmp_path)
    one_sentence(out, 'late.zarr has no usable pass within 60 days of 2024-05-25 in any of the three years before')
    assert not any((tmp_path/'none').iterdir())

def archive_cube():
    "Four years of a place whose landslides show"
    from dataclasses import replace
    from landslide_nb.data.landscape import REGIONS
    from landslide_nb.data.simulate import simulate_archive
    strong = replace(REGIONS['demo_a'], contrast=2., any_time=True)
    return simulate_archive(strong, 2, 128, years=2, passes=(5, 3), orbits=('ascending',))

def test_the_lower_of_two_maps_counts(tmp_path):
    "`each`: null pairs are made and mapped as the pair is, and the run folder holds the lower of two maps"
    from landslide_nb.data.pair import views_before
    from landslide_nb.learn.models import load_model
    from landslide_nb.mapping.mapping import map_cube, scene_pair
    from landslide_nb.mapping.place import settle_place
    from landslide_nb.mapping.scene import predict_scene
    import rioxarray
    cube, (net, meta) = archive_cube(), load_model('base')
    pair = scene_pair(cube, ['vv', 'vh'], before='each')
    nulls = null_pairs(cube, pair)
    assert nulls and all(null.before == 'each' and max(null.passes_season) < min(null.passes_pre) for null in nulls)
    for null in nulls: # against the season it is the null pair of the season
        view = views_before(null)[1]
        assert max(view.passes_pre) < '2018' and view.passes_post == null.passes_post
    settled = settle_place(cube, pair, net, meta, progress=False)
    last, season = (predict_scene(view, net, settled, progress=False).values for view in views_before(pair))
    metrics = map_cube(cube, 'base', tmp_path/'run', before='each', progress=False)
    with rioxarray.open_rasterio(tmp_path/'run'/'probability.tif') as raster: prob = raster.values[0]
    np.testing.assert_allclose(prob, np.minimum(last, season), atol=.005)
    assert (season < last - .01).any() and (last < season - .01).any()
    assert metrics['before'] == 'each' and metrics['passes_season'] == pair.passes_season
    assert not list(tmp_path.glob('.run*'))
    report = (tmp_path/'run'/'report.html').read_text()
    assert 'passes of the season' in report and 'a landslide is what differs from them and from the same season' in report

def test_the_command_that_maps_twice(tmp_path):
    save_cube(archive_cube(), tmp_path/'cube.zarr')
    out = command('map', 'cube.zarr', '--before', 'each', '--out', 'run', cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert metrics['before'] == 'each' and '--before=each' in metrics['command']
    assert metrics['nulls']['pairs'] > 0

def test_real_winters_in_california(shared):
    cube = open_cube(shared/'opera_rtc_s1'/'T137-292321-IW2')
    event = '2023-12-26', '2023-12-27'
    pairs = {before: make_pair(cube, event, before=before) for before in ('last', 'season', 'both')}
    assert pairs['last'].passes_pre == ['2023-11-21', '2023-12-03', '2023-12-15']
    assert pairs['season'].passes_pre == ['2021-12-07', '2021-12-13', '2021-12-19', '2022-11-26', '2022-12-08', '2022-12-20', '2023-01-01']
    assert pairs['both'].passes_pre == pairs['season'].passes_pre + pairs['last'].passes_pre
    change = {before: float(np.median(np.abs(np.diff(pair.vv.values, axis=0)))) for before, pair in pairs.items()}
    assert change['both'] < change['last'] # thirteen passes are less grainy than three
    nulls = null_pairs(cube, pairs['season'])
    assert nulls and all(max(null.passes_pre) < min(null.passes_post) for null in nulls)
