"What people bring that looks right and is not: nothing of it may become a wrong map in silence, and what can be put right opens, with one line."
import subprocess
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr

from landslide_nb.core import CubeError, CubeWarning, Event, EventError, get_event
from landslide_nb.data.cube import cube_event, open_cube, save_cube, validate_cube
from landslide_nb.data.grid import rasterize_label
from landslide_nb.data.pair import log_ratio, make_pair
from landslide_nb.testing import mock_cube

pytestmark = pytest.mark.filterwarnings('ignore:Use `@` matmul:PendingDeprecationWarning', 'ignore::landslide_nb.core.CubeWarning')

BANDS = ('vv', 'vh')
CLOCKS = dict(a='T084748', d='T204213') # UTC of an ascending and a descending pass at 142 degrees east

@contextmanager
def lines(*expected, none_of=''):
    "What is said within: one line for each expected part, and none that holds another"
    with warnings.catch_warnings(record=True, action='always') as said: yield
    sentences = [str(o.message) for o in said if o.category is CubeWarning]
    for part in expected: assert sum(part in o for o in sentences) == 1, (part, sentences)
    if none_of: assert not [o for o in sentences if none_of in o], sentences
    assert all(o.endswith('.') and '\n' not in o for o in sentences), sentences
    if not (expected or none_of): assert sentences == []

def raw(size=(96, 128)): return mock_cube(size)

@pytest.fixture(scope='module')
def right(): return open_cube(raw())

def with_clock(ds):
    labels = [f'{day}{CLOCKS[o]}' for day, o in zip(ds.timestep.values, ds['sat:orbit_state'].values)]
    return ds.assign_coords(timestep=labels)

def without_orbit(ds): return ds.drop_vars('sat:orbit_state')

def after(ds): return xr.DataArray(ds.timestep.values.astype(str) > '20180906', {'timestep': ds.timestep}, 'timestep')

def border(ds, value, bands=BANDS, wide=10, passes=None):
    "The western strip of some passes filled with a number"
    there = (ds.x < ds.x[wide]) & (after(ds) if passes is None else passes)
    return ds.assign({o: ds[o].where(~there, value).astype('float32') for o in bands})

def every_way(ds, folder):
    "The same data in memory, as dask, in netCDF and in Zarr"
    ds.to_netcdf(folder/'cube.nc')
    with warnings.catch_warnings(action='ignore'): ds.to_zarr(folder/'cube.zarr', zarr_format=2)
    return dict(memory=ds, dask=ds.chunk(timestep=3, x=50), netcdf=folder/'cube.nc', zarr=folder/'cube.zarr')


# 1. No data

FILLS = [-32768., -9999., -999., -99., 1e20, 9.96921e36, -3.4028235e38, np.inf, -np.inf, 32767., 65535., 9999.]

def test_what_no_radar_measures_is_no_data(tmp_path, right):
    "A column for each"
    ds = raw()
    for k, fill in enumerate(FILLS):
        ds = ds.assign({o: ds[o].where(~after(ds) | (ds.x != ds.x[k]), fill).astype('float32') for o in BANDS})
    late = right.time.values > np.datetime64('2018-09-06')
    n = len(FILLS)
    for way, source in every_way(ds, tmp_path).items():
        cube = open_cube(source)
        assert (way == 'memory') != bool(cube.vv.chunks)
        values = cube.vv.values
        assert np.isnan(values[late, :, :n]).all(), way
        np.testing.assert_array_equal(values[:, :, n:], right.vv.values[:, :, n:])
        np.testing.assert_array_equal(values[~late], right.vv.values[~late])

@pytest.mark.parametrize('name', ['nodata', '_FillValue', 'missing_value', 'NoData', 'no_data', 'nodatavals', 'fill_value', 'NODATA_value'])
def test_declared_no_data_of_every_spelling(name):
    "Also a number that could be a power"
    ds = border(raw(), .5)
    ds.vv.attrs[name] = (.5,) if name == 'nodatavals' else .5
    ds.vh.attrs[name] = '0.5'
    with lines('vv in the dataset holds 0.5, declared as no data, in 7,680 of 196,608 pixels',
               'vh in the dataset holds 0.5'): pair = make_pair(open_cube(ds))
    assert pair.vv.isel(moment=1, x=slice(0, 10)).isnull().all()
    assert pair.vh.isel(moment=1, x=slice(0, 10)).isnull().all()
    assert pair.vv.isel(x=slice(10, None)).notnull().all()

def test_a_file_declares_no_data_for_its_bands(tmp_path):
    for source in every_way(border(raw(), .5).assign_attrs(nodata=.5), tmp_path).values():
        cube = open_cube(source).compute()
        assert cube.vv[8:, :, :10].isnull().all()
        assert cube.vh[:, :, 10:].notnull().all()

@pytest.mark.parametrize('declared', ['nodata', '_FillValue', 'missing_value'])
def test_packed_data_declare_the_number_as_it_is_stored(declared, tmp_path, right):
    "scale_factor and add_offset, on disk and in memory"
    packing = dict(scale_factor=1e-4, add_offset=.001)
    def pack(band):
        stored = ((raw()[band] - .001)/1e-4).round().clip(0, 30000)
        stored = stored.where(stored.x >= stored.x[10], -32768).astype('int16')
        return stored.assign_attrs(packing, **{declared: np.int16(-32768)})
    ds = raw().assign({o: pack(o) for o in BANDS})
    ds.to_netcdf(tmp_path/'packed.nc')
    for source in (ds, tmp_path/'packed.nc'):
        with lines(none_of='no radar measures'): cube = open_cube(source).compute()
        assert cube.vv[:, :, :10].isnull().all()
        np.testing.assert_allclose(cube.vv[:, :, 10:], right.vv[:, :, 10:].clip(max=3.001), atol=1e-4)
        assert cube.vv.dtype == np.float32

def test_zero_borders_in_both_polarisations(tmp_path):
    for way, source in every_way(border(raw(), 0.), tmp_path).items():
        with lines('vv in the dataset holds 0 like the other') if way == 'memory' else warnings.catch_warnings(action='ignore'):
            pair = make_pair(open_cube(source)).compute()
        assert pair.vv.isel(moment=1, x=slice(0, 10)).isnull().all(), way
        assert pair.vv.isel(x=slice(10, None)).notnull().all(), way

def test_a_zero_in_one_polarisation_is_a_measurement(tmp_path):
    "Where it stands alone; an area of them is the border of a swath, see test_kinds.py"
    ds = raw()
    alone = (np.arange(96)[:, None] % 7 == 0) & (np.arange(128) % 5 == 0)
    ds = ds.assign(vh=ds.vh.where(~(after(ds) & xr.DataArray(alone, dims=('y', 'x'))), 0.).transpose(*ds.vh.dims))
    for source in every_way(ds, tmp_path).values():
        with lines(): pair = make_pair(open_cube(source)).compute()
        assert not pair.vh.isnull().any()
        assert float(pair.vh.values[1][alone].max()) == pytest.approx(-40, abs=20)

def test_gaps_are_found_when_blocks_are_read_and_said_once(tmp_path):
    "Opening reads no pass"
    border(raw(), -32768.).to_netcdf(tmp_path/'cube.nc')
    with lines(): cube = open_cube(tmp_path/'cube.nc')
    with lines('vv in', 'vh in'): cube[['vv', 'vh']].compute(scheduler='synchronous')
    with lines(): cube[['vv', 'vh']].compute(scheduler='synchronous')

def test_the_line_says_what_and_how_many():
    with lines('vv in a.nc holds -32768, which no radar measures, in 7,680 of 196,608 pixels', 'vh in a.nc holds -32768'):
        open_cube(border(raw(), -32768.).assign_attrs(source='a.nc'))

def test_a_strip_of_no_data_is_no_landslide():
    "The score of the strip does not stand out, as it did"
    clean = log_ratio(make_pair(open_cube(raw())))
    with warnings.catch_warnings(action='ignore'):
        found = log_ratio(make_pair(open_cube(border(raw(), -32768., ['vv', 'vh']))))
    assert found.score.isel(x=slice(0, 10)).isnull().all()
    inside = dict(x=slice(10, None))
    np.testing.assert_allclose(found.score.isel(inside) - clean.score.isel(inside), 0, atol=.05)

def test_gaps_in_half_of_the_passes_are_not_decibels(right):
    ds = border(raw(), -9999., wide=120)
    with warnings.catch_warnings(action='ignore'): cube = open_cube(ds)
    assert validate_cube(cube) is cube
    with pytest.raises(CubeError, match='vv looks like dB'):
        validate_cube(open_cube(raw().assign({o: 10*np.log10(raw()[o]) for o in BANDS})))

def test_a_small_number_that_is_repeated_is_no_measurement():
    with pytest.raises(CubeError, match=r'vv holds -1 in \d+% of a sample.*set the attribute nodata'):
        validate_cube(open_cube(border(raw(), -1., wide=60)))

def test_terrain_and_coherence_have_gaps_too():
    west = raw().x < raw().x[10]
    ds = raw()
    ds = ds.assign(dem=ds.dem.where(~west, -32768).astype('int16'))
    ds = ds.assign({o: ds[o].where(~west, -9999) for o in ('dem_slope_radians', 'topophase.cor_1')})
    cube = open_cube(ds)
    for name in ('dem', 'slope', 'coherence'):
        assert cube[name].isel(x=slice(0, 10)).isnull().all(), name
        assert cube[name].isel(x=slice(10, None)).notnull().all(), name

def test_a_harmonised_patch_keeps_its_gaps(tmp_path):
    "dB clipped to -50 in both polarisations was zero: no data"
    ds = raw().rename(timestep='time', vv='VV', vh='VH').drop_vars(
        ['landslides', 'dem', 'dem_slope_radians', 'topophase.cor_1', 'sat:orbit_state', 'timepair'])
    db = {o: (10*np.log10(ds[o])).clip(-50, 10).where(ds.x >= ds.x[10], -50) for o in ('VV', 'VH')}
    db['VV'] = db['VV'].where(ds.y > ds.y[-5], -9999)
    ds.assign(db).to_netcdf(tmp_path/'hokkaido_s1dsc_1.nc')
    with warnings.catch_warnings(action='ignore'): cube = open_cube(tmp_path/'hokkaido_s1dsc_1.nc').compute()
    assert cube.vv[:, :, :10].isnull().all()
    assert cube.vv[:, -5:].isnull().all()
    assert cube.vv[:, :-5, 10:].notnull().all()


# 2. Dates

@pytest.mark.parametrize('start,end', [
    ('20180905', '20180907'), ('2018-9-5', '2018-9-7'), (20180905, 20180907),
    ('2018-09-05T10:00Z', '2018-09-07T23:59:59+00:00'), (pd.Timestamp('2018-09-05'), np.datetime64('2018-09-07'))])
def test_days_of_an_event_are_normalised_once(start, end):
    event = get_event((start, end))
    assert (event.start, event.end) == ('2018-09-05', '2018-09-07')
    assert make_pair(open_cube(raw()), (start, end)).attrs['event_start'] == '2018-09-05'

@pytest.mark.parametrize('day,says', [
    ('05/09/2018', 'is no date; write it as YYYY-MM-DD'), ('05.09.2018', 'is no date'), (180905, 'is no date'),
    ('2018-W36', 'is no date'), ('2018', 'is no date'),
    ('Sept 5 2018', 'is no date'), ('2018-02-30', 'is no date'), (None, 'is no date'),
    ('1018-09-05', 'before 2014'), ('2013-12-31', 'before 2014'), ('2218-09-05', 'in the future'),
])
def test_other_days_are_refused_at_once(day, says):
    with pytest.raises(EventError, match=says): Event('quake', day, '2018-09-07')

def test_a_time_zone_is_turned_into_utc(right):
    local = with_clock(raw()).timestep.values
    shifted = [f'{pd.Timestamp(str(o)) + pd.Timedelta(hours=9):%Y-%m-%dT%H:%M:%S}+09:00' for o in local]
    a, b = (open_cube(raw().assign_coords(timestep=o)) for o in (local, shifted))
    np.testing.assert_array_equal(a.time.values, b.time.values)

@pytest.mark.parametrize('spell,says', [
    (lambda o: f'{o[6:]}/{o[4:6]}/{o[:4]}', 'are not dates'),
    (lambda o: int(o[2:]), 'are not dates'), (lambda o: '1' + o[1:], 'before 2014'),
    (lambda o: np.datetime64('1970-01-01') + int(o[-3:]), 'before 2014'),
    (lambda o: f'2{o[1:]}'.replace('2018', '2818'), 'in the future'),
    (lambda o: 1536105600 + int(o[-2:]), 'are not dates'),
])
def test_pass_labels_of_another_kind_are_refused(spell, says):
    with pytest.raises(CubeError, match=says):
        open_cube(raw().assign_coords(timestep=[spell(o) for o in raw().timestep.values]))

def test_the_day_of_a_cube_must_be_a_date():
    away = open_cube(raw()).assign_coords(x=open_cube(raw()).x - 200_000)
    assert cube_event(away.assign_attrs(event_date=20180906)).start == '2018-09-05'
    with pytest.raises(EventError, match="event_date='20181399' is no date"): cube_event(away.assign_attrs(event_date='20181399'))


# 3. One pass is one track on one day

def in_frames(ds):
    "Each pass as two frames, 25 s apart, that overlap in 30 rows"
    def at(seconds):
        return ds.assign_coords(timestep=[f'{pd.Timestamp(str(o)) + pd.Timedelta(seconds=seconds):%Y%m%dT%H%M%S}'
                                          for o in ds.timestep.values])
    north, south = at(0), at(25)
    frames = [north[list(BANDS)].where(ds.y > ds.y[60]), south[list(BANDS)].where(ds.y < ds.y[29])]
    both = xr.concat(frames, 'timestep', coords='minimal')
    return both.assign(landslides=ds.landslides).assign_coords(spatial_ref=ds.spatial_ref)

def test_frames_of_a_pass_are_merged(tmp_path, right):
    frames = in_frames(with_clock(raw()))
    frames.to_netcdf(tmp_path/'cube.nc')
    for source in (frames, frames.chunk(timestep=1), tmp_path/'cube.nc'):
        with lines('32 frames are 16 passes'): cube = open_cube(source)
        assert cube.sizes['time'] == 16
        pair, whole = make_pair(cube), make_pair(right)
        assert pair.passes_pre == whole.passes_pre
        np.testing.assert_allclose(pair.vv, whole.vv, atol=1e-3)

def test_frames_with_one_label_are_one_pass_and_other_tracks_are_not():
    ds = raw()
    twice = xr.concat([ds[list(BANDS)], ds[list(BANDS)]*3], 'timestep').assign_coords(spatial_ref=ds.spatial_ref)
    with lines('32 frames are 16 passes'): cube = open_cube(twice)
    np.testing.assert_allclose(cube.vv, open_cube(ds).vv*2, rtol=1e-5)
    track = ('timestep', np.repeat([82, 155], 16))
    assert open_cube(twice.assign_coords({'sat:relative_orbit': track})).sizes['time'] == 32

def test_an_event_within_a_second_is_no_dead_end():
    "Both frames of the last pass lie before"
    cube = open_cube(in_frames(with_clock(raw())))
    pair = make_pair(cube, ('2018-09-05', '2018-09-07'), passes=1, orbit='descending')
    assert pair.passes_pre == ['2018-09-05']


# 4. Direction unknown

def test_the_time_of_day_tells_the_direction(right):
    with lines(): cube = open_cube(without_orbit(with_clock(raw())))
    np.testing.assert_array_equal(cube.orbit.values, right.orbit.values)

def test_unknown_directions_are_said():
    with lines('the orbit direction of 16 of 16 passes is unknown'): open_cube(without_orbit(raw()))

@pytest.mark.parametrize('satellite,direction', [('S1A', 'unknown'), ('S1D', 'unknown'), ('s1-asc', 'ascending'), ('S1_DSC', 'descending')])
def test_the_name_of_a_satellite_is_no_direction(satellite, direction):
    with warnings.catch_warnings(action='ignore'):
        cube = open_cube(without_orbit(raw()).assign_attrs(satellite=satellite))
    assert set(cube.orbit.values) == {direction}


# 5. Half a pixel

def corners(ds): return ds.assign_coords(x=ds.x - 5, y=ds.y + 5)

TRANSFORM = rasterio.Affine(10, 0, 579_995, 0, -10, 4_730_005)
PLACES = { # where the transform of corner coordinates is written
    'attribute': lambda d: d.assign_attrs(transform=tuple(TRANSFORM)[:6]),
    'nine numbers': lambda d: d.assign_attrs(transform=list(TRANSFORM)),
    'text': lambda d: d.assign_attrs(transform=' '.join(map(str, TRANSFORM[:6]))),
    'printed': lambda d: d.assign_attrs(transform=str(TRANSFORM)),
    'order of GDAL': lambda d: d.assign_attrs(GeoTransform=' '.join(map(str, TRANSFORM.to_gdal()))),
    'band': lambda d: d.assign(vv=d.vv.assign_attrs(transform=tuple(TRANSFORM)[:6])),
    'CRS variable': lambda d: d.rename(spatial_ref='utm').assign_coords(
        utm=d.spatial_ref.assign_attrs(GeoTransform=' '.join(map(str, TRANSFORM.to_gdal())))),
}

@pytest.mark.parametrize('place', PLACES)
def test_corners_are_moved_to_centres(place, tmp_path, right):
    ds = PLACES[place](corners(raw()))
    assert open_cube(ds).rio.transform() == right.rio.transform()
    assert open_cube(ds.isel(y=slice(None, None, -1))).rio.transform() == right.rio.transform()
    part = dict(x=slice(30, 80), y=slice(10, 60))
    assert open_cube(ds.isel(part)).rio.transform() == right.isel(part).rio.transform(recalc=True)
    path = save_cube(open_cube(ds), tmp_path/'cube.zarr')
    assert open_cube(path).rio.transform() == right.rio.transform()

@pytest.mark.parametrize('place', PLACES)
def test_centres_stay(place, right):
    assert open_cube(PLACES[place](raw())).rio.transform() == right.rio.transform()

def test_contradictions_are_refused():
    with pytest.raises(CubeError, match='does not fit the transform of the attributes'):
        open_cube(PLACES['attribute'](raw().assign_coords(x=raw().x + 3)))
    with pytest.raises(CubeError, match='does not fit the transform'):
        open_cube(PLACES['attribute'](raw().isel(x=slice(None, None, 2))))
    both = PLACES['order of GDAL'](raw()).assign_attrs(
        transform=tuple(TRANSFORM*rasterio.Affine.translation(.5, .5))[:6])
    with pytest.raises(CubeError, match='contradict each other by half a pixel along x'): open_cube(both)
    with pytest.raises(CubeError, match='rotated'):
        open_cube(raw().assign_attrs(transform=tuple(TRANSFORM*rasterio.Affine.rotation(20))[:6]))

def test_metres_are_no_degrees():
    with pytest.raises(CubeError, match='said to be in degrees'): open_cube(raw().drop_vars('spatial_ref'), crs='EPSG:4326')


# 6. Labels

def label(ds, **values): # slide, ground, strip
    slide = ds.landslides.fillna(0) > 0
    drawn = xr.where(slide, values['slide'], values['ground'])
    return xr.where(drawn.x < drawn.x[10], values['strip'], drawn) if 'strip' in values else drawn

def test_a_mask_of_0_and_255_is_refused(tmp_path):
    ds = raw().assign(landslides=label(raw(), slide=255, ground=0).astype('uint8'))
    for source in every_way(ds, tmp_path).values():
        with pytest.raises(CubeError, match=r'landslides holds 0 .*255 .*no 1.*write 1 for landslides'): open_cube(source)
    with pytest.raises(CubeError, match='nothing would be a landslide'):
        open_cube(raw().assign(landslides=label(raw(), slide=255, ground=np.nan)))

def test_a_cube_without_landslides_opens_again(tmp_path, right):
    none = xr.where(right.landslides == 1, 255, right.landslides).astype('uint8').assign_attrs(right.landslides.attrs)
    assert set(np.unique(open_cube(save_cube(right.assign(landslides=none), tmp_path/'c.zarr')).landslides)) == {0, 255}

@pytest.mark.parametrize('fill', [-1, -9999, -32768])
def test_negative_fills_are_not_mapped(fill, right):
    ds = raw().assign(landslides=label(raw(), slide=1, ground=0, strip=fill))
    with lines(f'landslides holds {fill} (960 px); they count as not mapped'): cube = open_cube(ds)
    assert (cube.landslides[:, :10] == 255).all()
    np.testing.assert_array_equal(cube.landslides[:, 10:], right.landslides[:, 10:])

def test_declared_gaps_of_a_label_are_not_mapped():
    ds = raw().assign(landslides=label(raw(), slide=1, ground=0, strip=9).astype('uint8').assign_attrs(nodata=9))
    with lines('landslides holds 9 (960 px); they count as not mapped'): cube = open_cube(ds)
    assert (cube.landslides[:, :10] == 255).all()

def test_other_codes_are_counted_and_said():
    with lines('landslides holds 2 ('): cube = open_cube(raw().assign(landslides=label(raw(), slide=2, ground=0)))
    assert int((cube.landslides == 1).sum()) == int((raw().landslides > 0).sum())

def test_words_are_no_label():
    with pytest.raises(CubeError, match='instead of numbers'):
        open_cube(raw().assign(landslides=label(raw(), slide=1, ground=0).astype(str)))

def test_slides_smaller_than_a_pixel_are_kept(right):
    import geopandas as gpd
    from shapely.geometry import box
    x, y = float(right.x[5]), float(right.y[5])
    small = [box(x + 3 + 100*k, y + 3, x + 5 + 100*k, y + 5) for k in range(4)] # 2 m, around no centre
    with lines('4 of 4 landslides hold no centre of a pixel'): drawn = rasterize_label(right, gpd.GeoDataFrame(geometry=small, crs=32654))
    assert int(drawn.sum()) == 4
    assert int(drawn[5, 5]) == 1


# 7. Processed copies

def tif(band, path): band.drop_vars(['time', 'orbit']).rio.to_raster(path)

def opera(cube, k, pol, suffix=''):
    return f'OPERA_L2_RTC-S1_T009-019294-IW2_2018080{k}T084748Z_20240601T000000Z_S1A_30_v1.0_{pol}{suffix}.tif'

@pytest.mark.parametrize('suffix', ['_despeckled', '_zz', '_0', '.copy'])
def test_a_copy_never_replaces_the_original(suffix, right, tmp_path):
    for k in (1, 2):
        for pol in BANDS:
            tif(right[pol][k], tmp_path/opera(right, k, pol.upper()))
            tif(right[pol][k]*100, tmp_path/opera(right, k, pol.upper(), suffix))
    with lines('the 4 originals are used'): cube = open_cube(tmp_path)
    np.testing.assert_array_equal(cube.vv.values, right.vv[1:3].values)

def test_copies_of_two_kinds_are_refused(right, tmp_path):
    for suffix in ('_a', '_b'):
        for pol in BANDS: tif(right[pol][0], tmp_path/opera(right, 1, pol.upper(), suffix))
    with pytest.raises(CubeError, match='2 kinds of processed files'): open_cube(tmp_path)


# 11. Forms of the same data

def test_polarisations_along_a_band(right, tmp_path):
    stacked = raw()[list(BANDS)].to_dataarray('band')
    for array in (stacked, stacked.rename(band='polarization'), stacked.assign_coords(band=['VV', 'VH']),
                  stacked.chunk(timestep=1)):
        np.testing.assert_array_equal(open_cube(array).vh.values, right.vh.values)
    stacked.to_netcdf(tmp_path/'bands.nc')
    np.testing.assert_array_equal(open_cube(tmp_path/'bands.nc').vh.values, right.vh.values)
    with pytest.raises(CubeError, match='has no vv'): validate_cube(open_cube(stacked.assign_coords(band=[1, 2])))

def test_dims_of_length_one_and_other_types(right, tmp_path):
    ds = raw().expand_dims(band=[1])
    ds.to_netcdf(tmp_path/'band.nc')
    for source in (ds, tmp_path/'band.nc'):
        cube = open_cube(source)
        assert cube.vv.dims == ('time', 'y', 'x')
        np.testing.assert_array_equal(cube.vv.values, right.vv.values)
    mixed = raw().assign(vv=raw().vv.astype('float64'),
                         vh=(raw().vh*1000).round().astype('int32').assign_attrs(scale_factor=1e-3))
    cube = open_cube(mixed)
    assert {cube[o].dtype.name for o in BANDS} == {'float32'}
    np.testing.assert_allclose(cube.vh, right.vh, atol=6e-4)
    with pytest.raises(CubeError, match=r'instead of time, y, x; choose one layer of look \(2\)'): open_cube(raw().expand_dims(look=2))
    with pytest.raises(CubeError, match='holds complex128'): open_cube(raw().astype('complex128'))

def test_geotiffs_one_file_a_date(right, tmp_path):
    clocked = open_cube(with_clock(raw()))
    for k, time in enumerate(clocked.time.values):
        name = pd.Timestamp(time).strftime('S1A_IW_%Y%m%dT%H%M%S_DVP_RTC30_G_gpuned')
        if k % 2: [tif(right[o][k], tmp_path/f'{name}_{o.upper()}.tif') for o in BANDS]
        else:
            layers = xr.concat([right[o][k].drop_vars(['time', 'orbit']) for o in BANDS], 'band')
            layers.assign_attrs(long_name=('VV', 'VH')).rio.to_raster(tmp_path/f'{name}.tif')
    with lines(): cube = open_cube(tmp_path)
    assert cube.vv.chunks
    np.testing.assert_array_equal(cube.vh.values, right.vh.values)
    np.testing.assert_array_equal(cube.orbit.values, right.orbit.values)
    assert make_pair(cube, 'hokkaido').passes_pre == make_pair(right).passes_pre

def test_a_single_geotiff_says_what_to_do(right, tmp_path):
    tif(right.vv[0], tmp_path/'image.tif')
    with pytest.raises(CubeError, match='do not say date and polarisation'): open_cube(tmp_path/'image.tif')
    layers = xr.concat([right[o][0].drop_vars(['time', 'orbit']) for o in BANDS], 'band')
    layers.assign_attrs(long_name=('VV', 'VH')).rio.to_raster(tmp_path/'20180905.tif')
    with pytest.raises(CubeError, match='is a single pass; give the folder'): open_cube(tmp_path/'20180905.tif')
    dated = [f'{day} {o.upper()}' for day in ('2018-09-05', '2018-09-07') for o in BANDS]
    four = xr.concat([right[o][k].drop_vars(['time', 'orbit']) for k in (0, 1) for o in BANDS], 'band')
    four.assign_attrs(long_name=tuple(dated)).rio.to_raster(tmp_path/'stack.tif')
    with warnings.catch_warnings(action='ignore'): cube = open_cube(tmp_path/'stack.tif')
    np.testing.assert_array_equal(cube.vh.values, right.vh[:2].values)

def test_urls(right, tmp_path):
    with warnings.catch_warnings(action='ignore'): raw().to_zarr(tmp_path/'cube.zarr', zarr_format=2)
    np.testing.assert_array_equal(open_cube(f'file://{tmp_path}/cube.zarr').vv.values, right.vv.values)
    with pytest.raises(CubeError, match='pip install s3fs|check the address'): open_cube('s3://bucket/cube.zarr')
    for url in ('https://example.org/cube.zip', 's3://bucket/cube.nc'):
        with pytest.raises(CubeError, match='download it and give its path'): open_cube(url)
    with pytest.raises(CubeError, match='check the address, or download'): open_cube('http://127.0.0.1:9/20180905_VV.tif')
    with pytest.raises(CubeError): open_cube('nonsense://a/cube.zarr')

PARTS = """
import functools, http.server, pathlib, sys
class Parts(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        path = pathlib.Path(self.translate_path(self.path))
        if not path.is_file(): return self.send_error(404)
        body = path.read_bytes()
        first, last = (self.headers.get('Range') or f'bytes=0-{len(body) - 1}').removeprefix('bytes=').split('-')
        part = body[int(first):int(last or len(body)) + 1]
        self.send_response(206 if 'Range' in self.headers else 200)
        self.send_header('Content-Length', str(len(part)))
        self.send_header('Content-Range', f'bytes {first}-{int(first) + len(part) - 1}/{len(body)}')
        self.end_headers()
        self.wfile.write(part)
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Parts, directory=sys.argv[1]))
print(server.server_port, flush=True)
server.serve_forever()
"""

@contextmanager
def serving(folder):
    "The address of a folder, of which a server hands out parts of files, as those of clouds do"
    server = subprocess.Popen([sys.executable, '-c', PARTS, str(folder)], stdout=subprocess.PIPE, text=True)
    try: yield f'http://127.0.0.1:{int(server.stdout.readline())}'
    finally:
        server.kill()
        server.wait()

def test_a_geotiff_of_all_passes_opens_over_the_web(right, tmp_path, monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    dated = [f'{day} {o.upper()}' for day in ('2018-09-05', '2018-09-07') for o in BANDS]
    four = xr.concat([right[o][k].drop_vars(['time', 'orbit']) for k in (0, 1) for o in BANDS], 'band')
    four.assign_attrs(long_name=tuple(dated)).rio.to_raster(tmp_path/'stack.tif', driver='COG')
    four[:2].assign_attrs(long_name=tuple(dated[:2])).rio.to_raster(tmp_path/'one.tif', driver='COG')
    with serving(tmp_path) as address, warnings.catch_warnings(action='ignore'):
        np.testing.assert_array_equal(open_cube(f'{address}/stack.tif').vh.values, right.vh[:2].values)
        with pytest.raises(CubeError, match='is a single pass'): open_cube(f'{address}/one.tif?token=1')
        with pytest.raises(CubeError, match='check the address'): open_cube(f'{address}/nothing.tif')

def test_a_crs_may_be_given(right, tmp_path):
    bare = raw().drop_vars('spatial_ref')
    bare.to_netcdf(tmp_path/'cube.nc')
    with pytest.raises(CubeError, match=r"has no CRS; set it with open_cube\(source, crs='EPSG:...'\)"): validate_cube(open_cube(bare))
    for source in (bare, tmp_path/'cube.nc'):
        for crs in ('EPSG:32654', 32654, '32654'):
            assert open_cube(source, crs=crs).rio.transform() == right.rio.transform()
    assert open_cube(raw(), crs='EPSG:32654').rio.crs == right.rio.crs
    with pytest.raises(CubeError, match='but crs=EPSG:32655 was given; leave crs out'): open_cube(raw(), crs='EPSG:32655')
    with pytest.raises(CubeError, match="'Hokkaido' is no CRS; write it as EPSG:32654"): open_cube(bare, crs='Hokkaido')

@pytest.mark.parametrize('thing', [None, 3, ['a.tif'], np.zeros((2, 3, 4))])
def test_other_things_are_no_cube(thing):
    with pytest.raises(CubeError, match='is no cube; give a Zarr'): open_cube(thing)


# All the way to a map

def test_the_map_of_a_real_landslide_does_not_see_a_strip_without_data(shared, tmp_path):
    "Twelve columns of the passes after are filled; the landslide lies elsewhere"
    from landslide_nb.mapping.mapping import map_cube
    with xr.open_dataset(shared/'png_2024'/'png_landslide_2024_track9.nc') as file: png = file.load().drop_encoding()
    late = open_cube(png).time.values > np.datetime64('2024-05-24')
    strip = (png.x < png.x[12]) & xr.DataArray(late, dims='timestep')
    def area(name, ds):
        ds.to_netcdf(tmp_path/f'{name}.nc')
        return map_cube(tmp_path/f'{name}.nc', 'base', tmp_path/name, passes=None, progress=False)['expected_area_m2']
    def filled(value, **attrs): return png.assign({o: png[o].where(~strip, value).assign_attrs(attrs) for o in BANDS})
    whole = area('whole', png)
    assert area('declared', filled(-32768, nodata=-32768)) == pytest.approx(whole, rel=.15)
    assert area('zeros', filled(0)) == pytest.approx(whole, rel=.15)

def test_patches_without_a_crs_may_be_given_one(tmp_path):
    ds = raw((32, 32)).rename(timestep='time', vv='VV', vh='VH', landslides='MASK').drop_vars(
        ['topophase.cor_1', 'timepair', 'spatial_ref'])
    for k in range(2): ds.assign_coords(x=ds.x + 320*k).to_netcdf(tmp_path/f'hokkaido_s1dsc_{k}.nc')
    cube = open_cube(tmp_path, crs='EPSG:32654')
    assert cube.sizes['x'] == 64
    assert validate_cube(cube).rio.crs.to_epsg() == 32654
