"Real input, as people have it on their disks: a despeckled netCDF cube, OPERA RTC-S1 folders, mapped polygons, published patch statistics."
import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray
import xarray as xr
from sklearn.metrics import average_precision_score

from landslide_nb.core import CubeError, to_db
from landslide_nb.data.cube import check_power, cube_event, open_cube, save_cube, validate_cube
from landslide_nb.data.dialects import guess_orbits
from landslide_nb.data.grid import rasterize_label
from landslide_nb.data.baselines import standardized_change
from landslide_nb.data.pair import log_ratio, make_pair, with_ratio_std
from landslide_nb.data.passes import usable_passes
from landslide_nb.learn.models import load_model, read_header
from landslide_nb.mapping.mapping import map_cube
from landslide_nb.mapping.nulls import null_pairs
from landslide_nb.mapping.place import PLACE_THRESHOLD, settle_place
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.weights.adapt import adapt_model

BURSTS = ['T137-292318-IW1', 'T137-292319-IW2', 'T137-292320-IW2', 'T137-292321-IW2', 'T137-292322-IW2']
FIELDS = BURSTS[2]
ZONES = { # landslides, mapped extent, cloud gaps
    'suzu-wajimaEAST': ('20240106_suzu-wajimaEAST', '20240106_suzu-wajimaEAST', '20240106_suzu-wajimaEAST-Re'),
    'wajimaWEST': ('20240112_wajimaWEST', '20240112_wajimaWEST', '20240112_wajimaWEST'),
    'nanao': ('20240118_nanao', '20240109_nanao', None), # drawn in EPSG:6668
}

def days_of(cube): return [str(t)[:10] for t in cube.time.values]


# The Mulitaka landslide

@pytest.fixture(scope='module')
def png_path(shared): return shared/'png_2024'/'png_landslide_2024_track9.nc'

@pytest.fixture(scope='module')
def png(png_path): return open_cube(png_path)


def test_png_opens_canonical(png, png_path):
    assert dict(png.sizes) == dict(time=13, y=50, x=50)
    assert set(png.data_vars) == {'vv', 'vh', 'landslides'}
    assert set(png.coords) == {'time', 'orbit', 'y', 'x', 'spatial_ref'}
    assert set(png.orbit.values) == {'ascending'}
    assert png.rio.crs.to_epsg() == 32654
    assert png.vv.chunks
    assert png.vv.dtype == np.float32
    assert int((png.landslides == 1).sum()) == 96
    with xr.open_dataset(png_path) as raw:
        np.testing.assert_array_equal(png.vh.values, raw.vh.values)
        left = float(raw.x[0]) - 15
        top = float(raw.y[0]) + 15
    assert png.rio.transform() == rasterio.Affine(30, 0, left, 0, -30, top)
    assert validate_cube(png) is png


def test_png_finds_its_event_and_both_sides(png):
    assert cube_event(png).name == 'mulitaka'
    pair = make_pair(png, passes=None)
    assert len(pair.passes_pre) == 8
    assert len(pair.passes_post) == 5
    assert pair.passes_pre[-1] == '2024-05-22' # the passes next to 2024-05-24
    assert pair.passes_post[0] == '2024-06-03'
    assert make_pair(png).passes_pre == ['2024-04-16', '2024-04-28', '2024-05-22']


def test_png_baseline_reproduces_the_published_score(png):
    truth = png.landslides.values.ravel()
    ratio = log_ratio(make_pair(png, passes=None))
    def ap(score): return average_precision_score(truth, score.values.ravel())
    both, vh_only = ap(ratio.score), ap(-ratio.dvh)
    assert abs(both - .884) < .01
    assert abs(vh_only - .764) < .01
    assert both - vh_only > .01


def test_png_change_over_what_is_usual_there(png):
    "From the pixels: eight passes before, their deviation, and the ranking as `benchmarks.baselines landslide` prints it"
    pair = with_ratio_std(make_pair(png, passes=None), png)
    ratio = to_db(png.vv.values[:8]) - to_db(png.vh.values[:8])
    np.testing.assert_allclose(pair.ratio_std, ratio.std(0, ddof=1), atol=1e-3)
    score = standardized_change(pair)
    np.testing.assert_allclose(score, log_ratio(pair).score/(ratio.std(0, ddof=1) + 1), atol=1e-3)
    assert abs(average_precision_score(png.landslides.values.ravel(), score.values.ravel()) - .889) < .002


@pytest.mark.parametrize('passes, known', [(2, False), (3, True)])
def test_png_with_few_passes_before(png, passes, known):
    few = png.isel(time=slice(8 - passes, None))
    assert ('ratio_std' in with_ratio_std(make_pair(few, 'mulitaka'), few)) == known


def test_png_survives_saving(png, tmp_path):
    again = open_cube(save_cube(png, tmp_path/'png.zarr'))
    xr.testing.assert_equal(again.compute(), png.compute())
    assert again.rio.crs == png.rio.crs
    assert again.rio.transform() == png.rio.transform()
    assert again.attrs['track'] == 9


def test_png_in_other_units_is_refused(png):
    with pytest.raises(CubeError, match='looks like dB'): make_pair(png.assign(vv=to_db(png.vv), vh=to_db(png.vh)))
    with pytest.raises(CubeError, match='look like amplitude'): make_pair(png.assign(vv=png.vv**.5, vh=png.vh**.5))


def test_a_pair_says_its_units(png):
    pair = make_pair(png, extra='vv_std')
    for name in ('vv', 'vh', 'vv_std'):
        assert pair[name].units == 'dB'
        assert pair[name].long_name
    ratio = log_ratio(pair, size=3)
    assert {ratio[o].units for o in ratio} == {'dB'}
    assert pair.landslides.units == '1'


# OPERA RTC-S1

@pytest.mark.parametrize('burst', BURSTS)
def test_opera_burst(shared, burst):
    folder = shared/'opera_rtc_s1'/burst
    cube = open_cube(folder)
    assert dict(cube.sizes) == dict(time=21, y=100, x=100)
    assert cube.rio.crs.to_epsg() == 32611
    assert np.all(np.diff(cube.time.values) > np.timedelta64(0))
    assert set(cube.orbit.values) == {'ascending'}
    assert validate_cube(cube) is cube
    assert usable_passes(cube).all()
    with rasterio.open(sorted(folder.glob('*_VV.tif'))[0]) as tif:
        np.testing.assert_array_equal(cube.vv[0].values, tif.read(1))
        assert cube.rio.transform() == tif.transform


def test_a_calm_sea_is_zero_in_vh_only(shared):
    "Why zeros in both polarisations are no data wherever they lie, and zeros in one are not"
    power = open_cube(shared/'opera_rtc_s1'/'T137-292318-IW1')[['vv', 'vh']].compute()
    zero = power == 0
    assert int(zero.vh.sum()) > 10 and int((zero.vv & zero.vh).sum()) == 0
    assert int(power.vh.isnull().sum()) == 0

@pytest.mark.parametrize('burst', BURSTS)
def test_opera_pair(shared, burst):
    pair = make_pair(open_cube(shared/'opera_rtc_s1'/burst), ('2022-12-10', '2022-12-12'))
    assert pair.passes_pre[-1] == '2022-12-08'
    assert pair.passes_post[0] == '2022-12-20'
    assert not pair.vv.isnull().any()
    assert abs(float(log_ratio(pair).compute().score.median())) < .5


@pytest.mark.parametrize('burst', BURSTS)
def test_opera_varies_before_an_event(shared, burst):
    "Lazily, over the last ten passes; a calm sea varies more than land"
    cube = open_cube(shared/'opera_rtc_s1'/burst)
    pair = with_ratio_std(make_pair(cube, ('2022-12-10', '2022-12-12')), cube)
    assert pair.ratio_std.chunks
    last = np.flatnonzero(cube.time.values < np.datetime64('2022-12-11'))[-10:]
    ratio = to_db(cube.vv.values[last]) - to_db(cube.vh.values[last])
    np.testing.assert_allclose(pair.ratio_std.compute(), ratio.std(0, ddof=1), atol=1e-3)
    assert np.isfinite(standardized_change(pair, 5).compute()).all()


def test_exact_zeros_over_sea_are_measurements(shared):
    cube = open_cube(shared/'opera_rtc_s1'/BURSTS[0])
    zeros = (cube.vh == 0).compute()
    assert int(zeros.sum()) == 19
    assert int(cube.vh.isnull().sum()) == 0
    t, y, x = (int(o[0]) for o in np.nonzero(zeros.values))
    two = cube.isel(time=[t, (t + 1) % 21]).sortby('time')
    two = two.assign_coords(time=pd.to_datetime(['2022-01-01', '2022-02-01']))
    alone = make_pair(two, ('2022-01-10', '2022-01-12'), balance=False)
    assert np.isclose(alone.vh[:, y, x].min(), -40) # the floor, not no-data
    assert not alone.vh.isnull().any()


def test_a_folder_of_several_bursts_is_refused(shared, tmp_path):
    for burst in BURSTS[:2]:
        some = sorted((shared/'opera_rtc_s1'/burst).glob('*.tif'))[:2]
        for tif in some: (tmp_path/tif.name).symlink_to(tif)
    with pytest.raises(CubeError, match='2 bursts'): open_cube(tmp_path)


def test_a_truncated_geotiff_names_itself(shared, tmp_path):
    files = sorted((shared/'opera_rtc_s1'/BURSTS[1]).glob('*.tif'))[:4]
    for tif in files: (tmp_path/tif.name).write_bytes(tif.read_bytes())
    bad = tmp_path/files[1].name
    bad.write_bytes(bad.read_bytes()[:20_000])
    with pytest.raises(CubeError, match=bad.name): open_cube(tmp_path).compute()


def test_pre_event_folder(shared):
    cube = open_cube(shared/'png_2024'/'opera_rtc_pre_event')
    assert dict(cube.sizes) == dict(time=10, y=100, x=150)
    assert validate_cube(cube) is cube
    says = 'no usable ascending pass after the event .* run from 2024-01-23 to 2024-05-22'
    with pytest.raises(CubeError, match=says): make_pair(cube, 'mulitaka')


def test_raw_folder_with_one_polarisation_opens(shared):
    cube = open_cube(shared/'png_2024'/'opera_rtc_raw_vh')
    assert dict(cube.sizes) == dict(time=3, y=250, x=350)
    assert list(cube.data_vars) == ['vh']
    assert abs(float(cube.vh.isnull().mean()) - .65) < .01
    with pytest.raises(CubeError, match=r'has no vv \(found vh\)'): validate_cube(cube)


def test_the_edge_of_a_burst_stays_no_data(shared):
    cube = open_cube(shared/'png_2024'/'opera_rtc_raw_vh')
    pair = make_pair(cube.assign(vv=cube.vh*4), ('2024-01-30', '2024-01-31'))
    assert abs(float(pair.vv.isnull().mean()) - .65) < .01


# The threshold of a place

def valid(image): return image[np.isfinite(image)]

def test_a_map_without_labels_reports_the_null_pair_it_was_checked_on(png, png_path, tmp_path):
    metrics = map_cube(png_path, 'base', tmp_path/'run', passes=None, progress=False)
    nulls = metrics['nulls']
    before = days_of(png)[:8]
    assert nulls['passes_pre'] == before[:4]
    assert nulls['passes_post'] == before[4:]
    assert nulls['pixels'] == 2500
    assert PLACE_THRESHOLD <= metrics['threshold'] < .5
    assert before[4] in (tmp_path/'run'/'report.html').read_text()
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())['nulls'] == nulls


def test_null_pairs_of_three_winters_never_span_a_summer(shared):
    cube = open_cube(shared/'opera_rtc_s1'/FIELDS).load()
    model, meta = load_model('base')
    days = days_of(cube)
    archive = cube.isel(time=slice(0, 20)) # the last pass is the one after
    pair = make_pair(archive.isel(time=slice(15, 20)), (days[18], days[19]), passes=None)
    nulls = null_pairs(archive, pair)
    assert len(nulls) == 4
    assert len({o.passes_post[0][:4] for o in nulls}) == 3
    for null in nulls:
        assert len(null.passes_pre) == 4
        span = np.datetime64(null.passes_post[-1]) - np.datetime64(null.passes_pre[0])
        assert span < np.timedelta64(120, 'D')

    settled = settle_place(archive, pair, model, meta, progress=False)
    each = [(predict_scene(o, model, settled, progress=False).values >= settled['calibration']['threshold']).mean()
            for o in nulls]
    assert settled['nulls']['pairs'] == 4
    assert abs(settled['nulls']['share'] - max(each)) < 1e-4
    assert max(each) < .0021
    assert settled['nulls']['passes_post'] == nulls[int(np.argmax(each))].passes_post


def test_adapted_weights_are_better_among_real_fields(shared, tmp_path):
    "Better at injected landslides, in a null pair that they never saw"
    cube = open_cube(shared/'opera_rtc_s1'/FIELDS).load().isel(time=slice(0, 20))
    days = days_of(cube)
    pair = make_pair(cube.isel(time=slice(15, 20)), (days[18], days[19]), passes=None)
    path = adapt_model(cube, pair, tmp_path/'here.safetensors', scenes=40, epochs=1, epoch_chips=512)
    header = read_header(path)
    assert header['metrics']['auprc'] > header['metrics']['auprc_before'] + .02, header['metrics']
    assert header['input']['domain']['pixel size (m)'] == [30, 30]
    assert header['training']['train_chips'] == 40


def test_orbit_guess_agrees_with_the_file_that_says(png):
    overflight = np.timedelta64(8*60 + 47, 'm') # track 9 passes at 08:47 UTC
    assert (guess_orbits(png.time.values + overflight, 143.4) == png.orbit.values).all()


# Polygons

def grid(polygons, res=10, crs='EPSG:32653', margin=200):
    "An empty grid around polygons"
    west, south, east, north = polygons.to_crs(crs).total_bounds
    x = np.arange(west - margin, east + margin, res)
    y = np.arange(north + margin, south - margin, -res)
    return xr.Dataset(coords={'y': y, 'x': x}).rio.write_crs(crs).rio.write_transform()

def drawn_area(path): return gpd.read_file(path).to_crs(32653).make_valid().union_all()

def off_by(pixels, area):
    "Relative difference between pixels of 10 m and an area, m2"
    return abs(int(pixels.sum())*100/area - 1)

def largest(polygons): return max(polygons.geoms, key=lambda o: o.area).representative_point()

def noto_files(shared, zone):
    folder = shared/'inventories'
    slides, extent, cloud = ZONES[zone]
    return (
        folder/f'hokai_all_{slides}.fgb',
        folder/f'IdentifyArea_{extent}.fgb',
        cloud and folder/f'cloud_poly_{cloud}.fgb',
    )


@pytest.mark.parametrize('zone', ZONES)
def test_noto_polygons(shared, zone):
    slides, extent, cloud = noto_files(shared, zone)
    like = grid(gpd.read_file(extent))
    label = rasterize_label(like, slides, extent, cloud)
    assert label.dtype == np.uint8
    assert label.rio.transform() == like.rio.transform()
    assert set(np.unique(label)) == {0, 1, 255}

    drawn = drawn_area(slides)
    mapped = drawn_area(extent)
    if cloud: mapped = mapped - drawn_area(cloud)
    assert off_by(label == 1, drawn.area) < .01
    assert off_by(label == 0, (mapped - drawn).area) < .01

    def at(point): return int(label.sel(x=point.x, y=point.y, method='nearest'))
    assert label[0, 0] == 255
    assert at(largest(drawn)) == 1
    if cloud: assert at(largest(drawn_area(cloud) - drawn)) == 255


def test_invalid_polygons_are_mended(shared):
    path = shared/'inventories'/'cipongkor_landslides_2024.geojson'
    drawn = gpd.read_file(path)
    assert not drawn.is_valid.all()
    like = grid(drawn, res=3, crs='EPSG:32748')
    area = int((rasterize_label(like, path) == 1).sum())*9
    assert abs(area/drawn.to_crs(32748).make_valid().union_all().area - 1) < .02


def test_points_are_no_outlines(shared):
    kmz = shared/'inventories'/'Landslides_Kaikoura_2016.kmz'
    like = grid(gpd.read_file(kmz), res=500, crs='EPSG:32759')
    with pytest.raises(CubeError, match='holds points'): rasterize_label(like, kmz)


def test_png_outline_agrees_with_its_label(png, shared):
    drawn = rasterize_label(png, shared/'png_2024'/'papau_new_guinea_landslide_2024.geojson') == 1
    given = png.landslides == 1
    assert int((drawn & given).sum())/int((drawn | given).sum()) > .5


# Sen12Landslides: no imagery here, so patches are made from its published statistics

def patch(stats, seed, corner=(580_000., 4_730_000.), size=128, times=15):
    "A patch in the raw schema whose VV and VH have the given mean and standard deviation"
    rng = np.random.default_rng(seed)
    dims = ('time', 'y', 'x')
    shape = (times, size, size)
    def band(name):
        m, s = stats.loc[name, 'mean'], stats.loc[name, 'std']
        return dims, rng.gamma((m/s)**2, s**2/m, shape).clip(0, 1).astype('float32')
    mask = np.zeros(shape, 'uint8')
    mask[:, 20:40, 60:70] = 1
    dem = np.full(shape, stats.loc['DEM', 'mean'], 'int16')
    layers = {'VV': band('VV'), 'VH': band('VH'), 'DEM': (dims, dem), 'MASK': (dims, mask)}
    coords = dict(
        time=pd.date_range('2018-07-20', periods=times, freq='6D').to_numpy().astype('datetime64[ns]'),
        y=corner[1] - 10*np.arange(size),
        x=corner[0] + 10*np.arange(size),
    )
    ds = xr.Dataset(layers, coords, {'event_date': '2018-09-06', 'satellite': 's1-dsc'})
    return ds.rio.write_crs('EPSG:32654').rio.write_transform(rasterio.Affine(10, 0, corner[0], 0, -10, corner[1]))


@pytest.fixture(scope='module')
def stats(shared):
    table = pd.read_csv(shared/'sen12landslides_meta'/'s1dsc_raw_patch_stats_hokkaido_newzealand.csv')
    return table[table.variable.isin(['VV', 'VH', 'DEM'])].set_index(['file', 'variable'])

@pytest.fixture(scope='module')
def patch_file(stats): return stats.index.get_level_values('file').unique()[0]


def verdict(vv, vh):
    "What `check_power` says of a sample"
    try: check_power(vv, vh)
    except CubeError as e: return str(e)
    return 'power'

UNITS = { # unit -> how to get it from power
    'power': lambda power: power,
    'amplitude': np.sqrt,
    'dB': to_db,
}

def test_units_are_recognised_on_published_statistics(stats):
    "Each patch as a small sample with its mean and standard deviation: power passes, dB and nearly every amplitude do not"
    rng = np.random.default_rng(0)
    def sample(m, s): return rng.gamma((m/s)**2, s**2/m, 400)
    said = {unit: [] for unit in UNITS}
    for _, table in stats.drop(index='DEM', level='variable').groupby(level='file'):
        vv, vh = (sample(*table.xs(o, level='variable')[['mean', 'std']].iloc[0]) for o in ('VV', 'VH'))
        for unit, convert in UNITS.items(): said[unit].append(verdict(convert(vv), convert(vh)))
    assert len(said['power']) == 953
    assert set(said['power']) == {'power'}
    assert all('looks like dB' in o for o in said['dB'])
    assert np.mean(['look like amplitude' in o for o in said['amplitude']]) > .9


def test_folder_of_patches(stats, patch_file, tmp_path):
    for k, column in enumerate((0, 1, 3)):
        corner = (580_000. + 1280*column, 4_730_000.)
        patch(stats.loc[patch_file], k, corner).to_netcdf(tmp_path/f'hokkaido_s1dsc_{k}.nc')
    cube = validate_cube(open_cube(tmp_path))
    assert cube.vv.shape == (15, 128, 512)
    assert cube.vv.chunks
    assert set(cube.orbit.values) == {'descending'}
    assert cube.rio.transform() == rasterio.Affine(10, 0, 580_000, 0, -10, 4_730_000)
    assert int((cube.landslides == 1).sum()) == 600
    assert bool((cube.landslides[:, 256:384] == 255).all())

    pair = make_pair(cube, extra='dem')
    assert pair.event_name == 'hokkaido'
    assert abs(float(pair.vv.isnull().mean()) - .25) < 1e-6
    mean = float(open_cube(tmp_path/'hokkaido_s1dsc_0.nc').vv.mean())
    assert abs(mean/stats.loc[(patch_file, 'VV'), 'mean'] - 1) < .02


def test_harmonised_patch_becomes_power(stats, patch_file, tmp_path):
    raw = patch(stats.loc[patch_file], 0)
    raw.to_netcdf(tmp_path/'hokkaido_s1dsc_1.nc')
    in_db = {o: (10*np.log10(raw[o].clip(1e-9))).clip(-50, 10) for o in ('VV', 'VH')}
    raw.assign(in_db).to_netcdf(tmp_path/'hokkaido_s1dsc_2.nc')
    a, b = (open_cube(tmp_path/f'hokkaido_s1dsc_{k}.nc') for k in (1, 2))
    np.testing.assert_allclose(a.vv, b.vv, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(a.vh, b.vh, rtol=1e-4, atol=2e-5)
