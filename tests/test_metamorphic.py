"""What must not change a map, and what must change it in a known way.

The right map of a scene is seldom known, but it is known how two maps of one scene must relate.
The same data in other chunks, in another order or in another file is the same map, bit by bit.
A brighter calibration after the event is undone by the balance. A turned scene gives a turned map.
Tolerances stand beside the relation they belong to, with what was measured.
"""
import shutil
from dataclasses import replace
from functools import cache, partial

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rioxarray
import torch
import xarray as xr
from hypothesis import given, settings, strategies as st
from shapely import box

from landslide_nb.core import to_db
from landslide_nb.data.cube import cube_event, open_cube, save_cube
from landslide_nb.data.grid import expected_area, scene_windows
from landslide_nb.data.landscape import REGIONS
from landslide_nb.data.pair import log_ratio, make_pair
from landslide_nb.data.simulate import simulate_event
from landslide_nb.learn.models import BASE_WEIGHTS, load_model
from landslide_nb.mapping import areas as areas_module
from landslide_nb.mapping.areas import landslide_polygons, ranked_cells, ranked_zones
from landslide_nb.mapping.mapping import map_cube
from landslide_nb.mapping.place import settle_place
from landslide_nb.mapping.scene import measured, predict_scene
from landslide_nb.testing import mock_pair, rough

BANDS = ('vv', 'vh')
SAME = 1e-5 # probability: convolutions of another shape add up in another order, in float32
ROUNDED = 5e-4 # probability: the balance is rounded to 1e-4 dB, and .02 dB change none by more than .01
ROUNDED_DB = 3e-4 # dB: two such balances, and float32

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

@cache
def shipped(): return load_model(BASE_WEIGHTS)

def map_pair(pair, **options):
    "The map of a pair by the shipped weights"
    return predict_scene(pair, *shipped(), progress=False, **options)

def map_source(source, event=None, **options):
    "The map of anything that opens as a cube"
    return map_pair(make_pair(open_cube(source), event), **options)

@cache
def scene():
    "A simulated scene with no data in a corner, and in a strip of one pass; nobody may change it"
    cube = simulate_event('demo_b', 1, (128, 160), passes=3)
    cube.vv[:, :20, :30] = np.nan
    cube.vh[:, :20, :30] = np.nan
    cube.vv[2, :, 100:110] = np.nan
    cube.vh[2, :, 100:110] = np.nan
    return cube

@cache
def scene_map(): return map_source(scene())

def event(): return cube_event(scene())

def assert_same_map(found, wanted):
    "Equal bit by bit, and on the same ground"
    np.testing.assert_array_equal(found.values, wanted.values)
    np.testing.assert_allclose(found.y, wanted.y)
    np.testing.assert_allclose(found.x, wanted.x)
    assert found.rio.crs == wanted.rio.crs

def test_the_scene_is_worth_mapping():
    prob = scene_map().values
    slide = scene().landslides.values == 1
    assert np.isnan(prob).sum() == 20*30
    assert np.nanmean(prob[slide]) > 5*np.nanmean(prob[~slide])
    assert (prob > .5).sum() > 20


# The same data in another order

SPATIAL = ('time', 'y', 'x')

@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_chunks_and_orders_do_not_change_the_map(data):
    cube = scene()
    passes = data.draw(st.permutations(range(cube.sizes['time'])))
    turned = [axis for axis in ('y', 'x') if data.draw(st.booleans())]
    dims = data.draw(st.permutations(SPATIAL))
    other = cube.isel(time=passes).isel({axis: slice(None, None, -1) for axis in turned}).transpose(*dims)
    if data.draw(st.booleans()):
        other = other.chunk({dim: data.draw(st.integers(1 if dim == 'time' else 20, cube.sizes[dim])) for dim in dims})
    assert_same_map(map_source(other), scene_map())


# The same data in every supported form

def published(cube):
    "In the schema of the published cubes"
    label = cube.landslides.where(cube.landslides == 1).astype('float64')
    days = cube.time.dt.strftime('%Y%m%d').values
    letters = [orbit[0] for orbit in cube.orbit.values]
    radians = np.deg2rad(cube.slope)
    other = cube.drop_vars(['orbit', 'slope']).assign(landslides=label, dem_slope_radians=radians)
    other = other.rename(time='timestep').assign_coords(timestep=days)
    return other.assign_coords({'sat:orbit_state': ('timestep', letters)})

def zarr_2(cube, folder):
    published(cube).chunk(timestep=1, y=50, x=60).to_zarr(folder/'cube.zarr', zarr_format=2)
    return folder/'cube.zarr'

def zarr_3(cube, folder):
    cube.chunk(time=2, y=64, x=37).to_zarr(folder/'cube.zarr', zarr_format=3, consolidated=False)
    return folder/'cube.zarr'

def folder_with_a_zarr(cube, folder):
    zarr_2(cube, folder)
    return folder

def zip_of_a_zarr(cube, folder):
    shutil.make_archive(folder/'zipped', 'zip', zarr_2(cube, folder))
    return folder/'zipped.zip'

def zip_of_a_folder(cube, folder):
    inside = folder/'inside'/'deep'
    inside.mkdir(parents=True)
    zarr_2(cube, inside)
    shutil.make_archive(folder/'zipped', 'zip', folder/'inside')
    return folder/'zipped.zip'

def saved_cube(cube, folder): return save_cube(open_cube(cube), folder/'saved.zarr')

def netcdf(cube, folder):
    published(cube).to_netcdf(folder/'cube.nc')
    return folder/'cube.nc'

def netcdf_by_other_names(cube, folder):
    "Capitals, geographic names of the axes, south up, time last, compressed, -9999 for no data, CRS in an attribute"
    other = cube.drop_vars('spatial_ref').rename(vv='VV', vh='VH', y='latitude', x='longitude', orbit='orbit_direction')
    other = other.isel(latitude=slice(None, None, -1)).transpose('longitude', 'latitude', 'time')
    other = other.assign_attrs(crs=str(cube.rio.crs))
    packed = dict(zlib=True, _FillValue=np.float32(-9999))
    other.to_netcdf(folder/'other.nc', encoding=dict(VV=packed, VH=packed))
    return folder/'other.nc'

def opera_name(time, band):
    burst, processed = 'T046-097519-IW2', '20200101T000000Z'
    return f'OPERA_L2_RTC-S1_{burst}_{time:%Y%m%dT%H%M%S}Z_{processed}_S1A_30_v1.0_{band.upper()}.tif'

def geotiffs(cube, folder):
    "One file a pass and polarisation, with the names of OPERA RTC-S1, where the hour gives the orbit"
    for k, time in enumerate(pd.DatetimeIndex(cube.time.values)):
        for band in BANDS:
            layer = cube[band].isel(time=k, drop=True).rio.write_crs(cube.rio.crs).rio.write_nodata(np.nan)
            layer.rio.to_raster(folder/opera_name(time, band), tiled=True, compress='DEFLATE')
    return folder

def patches(cube, folder):
    "Two abutting netCDF patches of one orbit, as in Sen12Landslides"
    own = cube.isel(time=cube.orbit.values == 'ascending').drop_vars(['orbit', 'dem', 'slope'])
    own = own.rename(vv='VV', vh='VH', landslides='MASK')
    half = own.sizes['x']//2
    for k, columns in enumerate((slice(0, half), slice(half, None))):
        own.isel(x=columns).to_netcdf(folder/f'place_s1asc_{k}.nc')
    return folder

def patches_in_db(cube, folder): return patches(cube.assign({band: to_db(cube[band]) for band in BANDS}), folder)

EXACT_FORMS = [zarr_2, zarr_3, folder_with_a_zarr, zip_of_a_zarr, zip_of_a_folder, saved_cube, netcdf,
               netcdf_by_other_names, geotiffs, patches]

def name_of(form): return form.__name__

@pytest.fixture(params=EXACT_FORMS, ids=name_of)
def stored(request, tmp_path):
    "The scene in a supported form"
    return request.param(scene(), tmp_path)

def test_every_form_gives_the_same_map(stored):
    assert_same_map(map_source(stored, event()), scene_map())
    cube = open_cube(stored)
    if 'landslides' in cube: np.testing.assert_array_equal(cube.landslides.values, scene().landslides.values)
    for name in {'dem', 'slope'} & set(cube.data_vars): np.testing.assert_allclose(cube[name], scene()[name], rtol=1e-6)

def test_decibels_on_disk_change_the_map_by_rounding_alone(tmp_path):
    found = map_source(patches_in_db(scene(), tmp_path), event()).values
    np.testing.assert_allclose(found, scene_map().values, atol=ROUNDED)

DATES = { # pattern -> type of the labels
    'integers': ('%Y%m%d', int),
    'compact days': ('%Y%m%d', str),
    'bytes': ('%Y%m%d', 'S8'),
    'ISO days': ('%Y-%m-%d', str),
    'ISO times': ('%Y-%m-%dT%H:%M:%S', str),
    'UTC': ('%Y-%m-%dT%H:%M:%SZ', str),
    'seconds': ('%Y-%m-%dT%H:%M:%S', 'datetime64[s]'),
}

@pytest.mark.parametrize('written', DATES)
def test_dates_in_any_writing(written):
    pattern, kind = DATES[written]
    labels = scene().time.dt.strftime(pattern).values.astype(str).astype(kind)
    assert_same_map(map_source(scene().assign_coords(time=labels)), scene_map())

def test_dates_with_a_zone_are_brought_to_utc():
    tokyo = pd.DatetimeIndex(scene().time.values).tz_localize('UTC').tz_convert('Asia/Tokyo')
    labels = [time.isoformat() for time in tokyo]
    other = open_cube(scene().assign_coords(time=labels))
    np.testing.assert_array_equal(other.time.values, scene().time.values)

ORBITS = {
    'letters': dict(ascending='a', descending='d'),
    'short': dict(ascending='asc', descending='dsc'),
    'capitals': dict(ascending='ASCENDING', descending='DESCENDING'),
    'bytes': dict(ascending=b'ascending', descending=b'descending'),
}

@pytest.mark.parametrize('written', ORBITS)
def test_orbits_in_any_writing(written):
    labels = [ORBITS[written][orbit] for orbit in scene().orbit.values]
    other = scene().drop_vars('orbit').assign_coords({'sat:orbit_state': ('time', labels)})
    assert_same_map(map_source(other), scene_map())

PLACES = {
    'attribute of its name': lambda cube: cube.assign_attrs(crs=cube.rio.crs.to_wkt()),
    'attribute of its number': lambda cube: cube.assign_attrs(epsg=cube.rio.crs.to_epsg()),
    'coordinate of STAC': lambda cube: cube.assign_coords({'proj:epsg': cube.rio.crs.to_epsg()}),
    'variable of CF': lambda cube: cube.assign(utm=((), 0, dict(crs_wkt=cube.rio.crs.to_wkt()))),
}

@pytest.mark.parametrize('written', PLACES)
def test_the_crs_wherever_it_is_written(written):
    other = PLACES[written](scene()).drop_vars('spatial_ref')
    assert_same_map(map_source(other), scene_map())

def test_corner_coordinates_are_the_same_ground():
    cube = scene().rio.write_transform(scene().rio.transform(recalc=True))
    corners = cube.assign_coords(x=cube.x - 5, y=cube.y + 5)
    assert_same_map(map_source(corners), scene_map())

def test_a_run_folder_is_the_same_from_memory_from_zarr_and_from_geotiffs(tmp_path):
    found = {}
    for form in (None, zarr_3, geotiffs):
        name = form.__name__ if form else 'memory'
        (tmp_path/name).mkdir()
        source = form(scene().drop_vars(['landslides', 'dem', 'slope']), tmp_path/name) if form else scene()
        metrics = map_cube(source, BASE_WEIGHTS, tmp_path/f'{name} map', event(), progress=False)
        with rioxarray.open_rasterio(tmp_path/f'{name} map'/'probability.tif') as raster: prob = raster.values
        found[name] = (metrics['expected_area_m2'], metrics['threshold'], metrics['polygons'], prob)
    wanted = found.pop('memory')
    for each in found.values():
        assert each[:3] == wanted[:3]
        np.testing.assert_array_equal(each[3], wanted[3])


# Cut from a larger scene

@cache
def large_pair():
    strong = replace(REGIONS['demo_a'], contrast=2.)
    return make_pair(simulate_event(strong, 0, 480, passes=3, orbits='ascending'))

@cache
def large_map(): return map_pair(large_pair())

def halo():
    "How far from its edge the map of a cut may differ: the network's reach on its grid, and that of the neighbourhood"
    radius, stride = measured(shipped()[0])
    return radius + stride + shipped()[1]['calibration']['around']['window']//2

def cut(top, left, size=416):
    "(map of the cut, the cut of the map), both without the halo where the cut is not the scene's own edge"
    window = dict(y=slice(top, top + size), x=slice(left, left + size))
    trim = slice(halo() if top else 0, -halo()), slice(halo() if left else 0, -halo())
    return map_pair(large_pair().isel(window)).values[trim], large_map().isel(window).values[trim]

@pytest.mark.parametrize('top, left', [(0, 0), (16, 0), (0, 48), (16, 16)])
def test_a_cut_on_the_networks_grid_is_the_same_map(top, left):
    alone, whole = cut(top, left)
    assert alone.shape[0] >= 78
    assert whole.max() > .7 # a landslide lies in each
    np.testing.assert_allclose(alone, whole, atol=SAME)

@pytest.mark.parametrize('top, left', [(8, 8), (5, 11)])
def test_a_cut_off_the_networks_grid_is_nearly_the_same_map(top, left):
    """The network halves its images four times: a cut that does not begin on a multiple of 16 is pooled otherwise.
    Pixels at the edges of landslides change by up to .3 and sums by up to 11 % in four scenes; the pattern stays"""
    alone, whole = cut(top, left)
    assert np.corrcoef(alone.ravel(), whole.ravel())[0, 1] > .97
    assert abs(alone.sum()/whole.sum() - 1) < .2


# Calibration

def brighter(cube, factor, after=True, before=True):
    "A cube whose passes on one side or on both are brighter by a factor of VV and one of VH"
    is_after = event().is_post(cube.time.values)
    chosen = np.where(is_after, after, before)[:, None, None]
    return cube.assign({band: cube[band]*np.where(chosen, f, 1).astype('float32') for band, f in zip(BANDS, factor)})

@pytest.mark.parametrize('factor', [(.5, .5), (1.26, .8), (3., 3.)])
def test_the_balance_undoes_a_calibration_of_one_side(factor):
    other = map_source(brighter(scene(), factor, before=False))
    np.testing.assert_allclose(other.values, scene_map().values, atol=ROUNDED)

DECIBEL = 10**.1

@pytest.mark.parametrize('factor', [DECIBEL, 1/DECIBEL])
def test_a_calibration_of_all_passes_leaves_the_change_and_nearly_the_map(factor):
    """The network sees brightness as well as change, so the map may follow a common factor a little.
    1 dB is what Sentinel-1 promises at three standard deviations"""
    other = brighter(scene(), (factor, factor))
    wanted, found = make_pair(scene()), make_pair(open_cube(other))
    np.testing.assert_allclose(log_ratio(found).score, log_ratio(wanted).score, atol=ROUNDED_DB)
    step = found.vv.values - wanted.vv.values
    np.testing.assert_allclose(step[np.isfinite(step)], 10*np.log10(factor), atol=ROUNDED_DB)
    prob, before = map_pair(found).values, scene_map().values
    valid = np.isfinite(before)
    assert np.corrcoef(prob[valid], before[valid])[0, 1] > .98
    assert abs(np.nansum(prob)/np.nansum(before) - 1) < .1

def test_the_curve_of_a_place_follows_the_balance():
    "A calibration of one pass a side is undone in null pairs too, so the curve of the place stays"
    cube = scene()
    drift = 1 + .2*np.sin(np.arange(cube.sizes['time'], dtype='float32'))[:, None, None]
    other = cube.assign({band: cube[band]*drift for band in BANDS})
    found = []
    for each in (cube, other):
        pair = make_pair(each, event(), passes=1)
        found.append(settle_place(each, pair, *shipped(), progress=False)['calibration']['place']['step'])
    apart = np.abs(np.subtract(*found)) # a step of the rising curve may lie one score further
    assert (apart <= .3).mean() > .95 and apart.max() < 1


# Turned and mirrored

def turn(array, k):
    "One of the eight symmetries of the square, over the last two axes"
    turned = np.rot90(array, k % 4, (-2, -1))
    return turned[..., ::-1] if k > 3 else turned

def turned_cube(cube, k):
    "A place whose ground is turned, on a north-up grid"
    bands = {band: (SPATIAL, np.ascontiguousarray(turn(cube[band].values, k))) for band in BANDS}
    height, width = bands['vv'][1].shape[1:]
    grid = dict(y=4.7e6 - 10*np.arange(height), x=5e5 + 10*np.arange(width))
    coords = dict(grid, time=cube.time, orbit=cube.orbit)
    return xr.Dataset(bands, coords, cube.attrs).rio.write_crs('EPSG:32654')

@pytest.mark.parametrize('k', range(1, 8))
def test_the_map_turns_with_the_scene(k):
    wanted = turn(map_source(scene(), tta=True).values, k)
    np.testing.assert_allclose(map_source(turned_cube(scene(), k), tta=True).values, wanted, atol=SAME)

@pytest.mark.parametrize('k', range(1, 8))
def test_the_map_of_any_size_turns_with_the_scene(k):
    odd = scene().isel(y=slice(0, 121), x=slice(0, 150))
    wanted = turn(map_source(odd, tta=True).values, k)
    np.testing.assert_allclose(map_source(turned_cube(odd, k), tta=True).values, wanted, atol=SAME)


# Contrast

STEPS = (0, .5, 1, 1.5, 2, 2.5, 3) # times a region's own change; up to 3 in the training of the shipped weights
FALL = .02 # of a pixel's probability that counts as one

def assert_rising(values):
    """The mean never falls from one contrast to the next, nor do nine pixels in ten, and none falls by much.
    No network promises more: in four simulated scenes up to 5 % of the pixels fell, by .17 at most"""
    means = [float(each.mean()) for each in values]
    assert means == sorted(means)
    assert means[-1] > 10*means[0]
    for weaker, stronger in zip(values[:-1], values[1:]):
        assert (weaker - stronger > FALL).mean() < .1
        assert np.quantile(weaker - stronger, .99) < .2

@pytest.mark.parametrize('region, seed', [('demo_a', 0), ('demo_b', 1)])
def test_a_stronger_landslide_is_no_less_probable(region, seed):
    found = []
    for contrast in STEPS:
        cube = simulate_event(replace(REGIONS[region], contrast=contrast), seed, 192, passes=3, orbits='ascending')
        prob = map_pair(make_pair(cube)).values
        found.append(prob[cube.landslides.values == 1])
    assert_rising(found)

@pytest.mark.parametrize('dvv, dvh', [(1, -.6), (1, 0), (0, -1), (-1, -1)])
def test_a_landslide_in_noise_is_no_less_probable_when_it_changes_more(dvv, dvh):
    found = []
    for change in (0, 1, 2, 3, 4, 6, 8, 10):
        pair = mock_pair((128, 128))
        slide = pair.landslides.values == 1
        pair.vv.values[1, slide] += change*dvv - 4 # the mock landslide brightens by 4 dB
        pair.vh.values[1, slide] += change*dvh
        found.append(map_pair(pair).values[slide])
    assert_rising(found)

def test_a_landslide_far_away_does_not_matter():
    "A change beyond the halo leaves the map as it was"
    pair = large_pair().copy(deep=True)
    pair.vv.values[1, :20, :20] += 6
    before, after = (prob[halo() + 20:, halo() + 20:] for prob in (large_map().values, map_pair(pair).values))
    np.testing.assert_allclose(after, before, atol=SAME)


# Areas

def slide_pair(**grid):
    "A mock pair whose landslide also loses 3 dB of VH and is rough inside, so that the shipped weights see it"
    pair, rng = mock_pair((96, 96), **grid), np.random.default_rng(3)
    slide = pair.landslides.values == 1
    pair.vh.values[1, slide] -= 3
    for band in BANDS: pair[band].values[1, slide] += rough(slide.shape, rng)[slide]
    return pair

def areas(pair):
    "(expected area, polygons' areas, cells' expected areas), m2: of a map of one and the same landslide"
    prob = map_pair(pair)
    polygons = landslide_polygons(prob, .3, 0, pair)
    cells = ranked_cells(prob, 200)
    return expected_area(prob), polygons.area_m2.to_numpy(), cells.expected_m2.sum()

def test_areas_follow_the_pixel():
    whole, polygons, cells = areas(slide_pair())
    assert polygons.max() > 20_000
    assert cells == pytest.approx(whole)
    for pixel in (20., 30.):
        larger, of_polygons, of_cells = areas(slide_pair(pixel=pixel))
        assert larger == pytest.approx(whole*(pixel/10)**2)
        np.testing.assert_allclose(of_polygons, polygons*(pixel/10)**2)
        assert of_cells == pytest.approx(larger)

def test_areas_are_in_square_metres_where_the_grid_is_in_feet():
    whole, polygons, _ = areas(slide_pair())
    in_feet, of_polygons, _ = areas(slide_pair(crs='EPSG:2227', corner=(6e6, 2e6))) # California, US survey feet
    foot = 1200/3937
    assert in_feet == pytest.approx(whole*foot**2)
    np.testing.assert_allclose(of_polygons, polygons*foot**2)

@pytest.mark.parametrize('latitude', [0., 42.5, -66.])
def test_areas_in_degrees_are_those_on_the_ellipsoid(latitude):
    pair = slide_pair(crs='EPSG:4326', corner=(142., latitude), pixel=1e-4)
    polygons = landslide_polygons(map_pair(pair), .3, 0)
    assert len(polygons)
    geod = polygons.crs.get_geod()
    on_ground = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in polygons.geometry]
    np.testing.assert_allclose(polygons.area_m2, on_ground, rtol=1e-6)

def test_a_larger_minimum_only_leaves_small_polygons_out():
    prob = map_pair(slide_pair())
    every = landslide_polygons(prob, .01, 0)
    large = landslide_polygons(prob, .01, 1000)
    assert 0 < len(large) < len(every)
    np.testing.assert_array_equal(large.area_m2, every.area_m2[every.area_m2 >= 1000])

def test_polygons_do_not_hang_on_the_windows_they_are_searched_in(monkeypatch):
    def found(): return landslide_polygons(scene_map(), .02, 1500)
    wanted = found()
    assert len(wanted) > 5
    for size in (7, 32, 50):
        monkeypatch.setattr(areas_module, 'scene_windows', partial(scene_windows, size=size))
        again = found()
        np.testing.assert_allclose(again.area_m2, wanted.area_m2)
        assert again.union_all().equals(wanted.union_all())

@pytest.mark.parametrize('k', range(1, 8))
def test_polygons_turn_with_the_map(k):
    prob = scene_map()
    turned = turned_cube(scene(), k)
    other = turned.vv.isel(time=0, drop=True).copy(data=turn(prob.values, k))
    wanted, found = (landslide_polygons(each, .02, 1500) for each in (prob, other))
    for column in ('area_m2', 'mean_probability', 'elongation'):
        np.testing.assert_allclose(np.sort(found[column]), np.sort(wanted[column]), rtol=1e-6)

GRIDS = {
    'metres': dict(),
    'feet': dict(crs='EPSG:2227', corner=(6e6, 2e6)),
    'degrees': dict(crs='EPSG:4326', corner=(142., 60.), pixel=1e-4),
}

@pytest.mark.parametrize('grid', GRIDS)
def test_zones_that_share_a_scene_add_up_to_its_expected_area(grid):
    "Also where their border cuts pixels, and where they come in another CRS"
    prob = map_pair(slide_pair(**GRIDS[grid]))
    west, south, east, north = prob.rio.bounds()
    middle = west + (east - west)*.437
    boxes = [box(west, south, middle, north), box(middle, south, east, north)]
    halves = gpd.GeoDataFrame(geometry=boxes, crs=prob.rio.crs)
    found = ranked_zones(prob, halves)
    assert found.expected_m2.sum() == pytest.approx(expected_area(prob), rel=1e-6)
    elsewhere = ranked_zones(prob, halves.to_crs('EPSG:3857')) # where a straight border is another line
    np.testing.assert_allclose(elsewhere.expected_m2, found.expected_m2, rtol=1e-3)
