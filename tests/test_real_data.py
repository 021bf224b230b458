"Real input, as people have it on their disks: a despeckled netCDF cube, OPERA RTC-S1 folders, mapped polygons, published patch statistics."
import json
import geopandas as gpd, numpy as np, pandas as pd, pytest, rasterio, rioxarray, xarray as xr
from sklearn.metrics import average_precision_score

from landslide_nb.weights.adapt import adapt_model
from landslide_nb.core import CubeError, to_db
from landslide_nb.data.cube import check_power, cube_event, open_cube, save_cube, validate_cube
from landslide_nb.data.dialects import guess_orbits
from landslide_nb.data.pair import log_ratio, make_pair, usable_passes
from landslide_nb.data.grid import rasterize_label
from landslide_nb.learn.models import load_model, read_header
from landslide_nb.mapping.nulls import null_pairs, place_threshold
from landslide_nb.mapping.mapping import map_cube
from landslide_nb.mapping.scene import predict_scene

BURSTS = ['T137-292318-IW1', 'T137-292319-IW2', 'T137-292320-IW2', 'T137-292321-IW2', 'T137-292322-IW2']
ZONES = { # landslides, mapped extent, cloud gaps
    'suzu-wajimaEAST': ('20240106_suzu-wajimaEAST', '20240106_suzu-wajimaEAST', '20240106_suzu-wajimaEAST-Re'),
    'wajimaWEST': ('20240112_wajimaWEST', '20240112_wajimaWEST', '20240112_wajimaWEST'),
    'nanao': ('20240118_nanao', '20240109_nanao', None), # drawn in EPSG:6668
}


# The Mulitaka landslide

@pytest.fixture(scope='module')
def png(shared): return open_cube(shared/'png_2024'/'png_landslide_2024_track9.nc')


def test_png_opens_canonical(png, shared):
    assert dict(png.sizes) == dict(time=13, y=50, x=50) and set(png.data_vars) == {'vv', 'vh', 'landslides'} and set(png.coords) == {'time', 'orbit', 'y', 'x', 'spatial_ref'}
    assert set(png.orbit.values) == {'ascending'} and png.rio.crs.to_epsg() == 32654
    assert png.vv.chunks and png.vv.dtype == np.float32 and int((png.landslides == 1).sum()) == 96
    with xr.open_dataset(shared/'png_2024'/'png_landslide_2024_track9.nc') as raw:
        np.testing.assert_array_equal(png.vh.values, raw.vh.values)
        left, top = float(raw.x[0]) - 15, float(raw.y[0]) + 15
    assert png.rio.transform() == rasterio.Affine(30, 0, left, 0, -30, top)
    assert validate_cube(png) is png


def test_png_finds_its_event_and_both_sides(png):
    assert cube_event(png).name == 'mulitaka'
    pair = make_pair(png, passes=None)
    assert len(pair.attrs['passes_pre']) == 8 and len(pair.attrs['passes_post']) == 5
    assert pair.attrs['passes_pre'][-1] == '2024-05-22' and pair.attrs['passes_post'][0] == '2024-06-03' # the passes next to 2024-05-24
    assert make_pair(png).attrs['passes_pre'] == ['2024-04-16', '2024-04-28', '2024-05-22']


def test_png_baseline_reproduces_the_published_score(png):
    truth, ratio = png.landslides.values.ravel(), log_ratio(make_pair(png, passes=None))
    ap = lambda score: average_precision_score(truth, score.values.ravel())
    assert abs(ap(ratio.score) - .884) < .01
    assert abs(ap(-ratio.dvh) - .764) < .01 < ap(ratio.score) - ap(-ratio.dvh)


def test_png_survives_saving(png, tmp_path):
    again = open_cube(save_cube(png, tmp_path/'png.zarr'))
    xr.testing.assert_equal(again.compute(), png.compute())
    assert again.rio.crs == png.rio.crs and again.rio.transform() == png.rio.transform() and again.attrs['track'] == 9


def test_png_in_other_units_is_refused(png):
    with pytest.raises(CubeError, match='looks like dB'): make_pair(png.assign(vv=to_db(png.vv), vh=to_db(png.vh)))
    with pytest.raises(CubeError, match='look like amplitude'): make_pair(png.assign(vv=png.vv**.5, vh=png.vh**.5))


# OPERA RTC-S1

@pytest.mark.parametrize('burst', BURSTS)
def test_opera_burst(shared, burst):
    cube = open_cube(shared/'opera_rtc_s1'/burst)
    assert dict(cube.sizes) == dict(time=21, y=100, x=100) and cube.rio.crs.to_epsg() == 32611
    assert np.all(np.diff(cube.time.values) > np.timedelta64(0)) and set(cube.orbit.values) == {'ascending'}
    assert validate_cube(cube) is cube and usable_passes(cube).all()
    first = sorted((shared/'opera_rtc_s1'/burst).glob('*_VV.tif'))[0]
    with rasterio.open(first) as tif:
        np.testing.assert_array_equal(cube.vv[0].values, tif.read(1))
        assert cube.rio.transform() == tif.transform
    pair = make_pair(cube, ('2022-12-10', '2022-12-12'))
    assert pair.attrs['passes_pre'][-1] == '2022-12-08' and pair.attrs['passes_post'][0] == '2022-12-20'
    assert not pair.vv.isnull().any() and abs(float(log_ratio(pair).compute().score.median())) < .5


def test_exact_zeros_over_sea_are_measurements(shared):
    cube = open_cube(shared/'opera_rtc_s1'/BURSTS[0])
    zeros = (cube.vh == 0).compute()
    assert int(zeros.sum()) == 19 and int(cube.vh.isnull().sum()) == 0
    t, y, x = (int(o[0]) for o in np.nonzero(zeros.values))
    alone = make_pair(cube.isel(time=[t, (t + 1) % 21]).sortby('time').assign_coords(time=pd.to_datetime(['2022-01-01', '2022-02-01'])), ('2022-01-10', '2022-01-12'), balance=False)
    assert np.isclose(alone.vh[:, y, x].min(), -40) and not alone.vh.isnull().any() # the floor, not no-data


def test_a_folder_of_several_bursts_is_refused(shared, tmp_path):
    for burst in BURSTS[:2]:
        for tif in sorted((shared/'opera_rtc_s1'/burst).glob('*.tif'))[:2]: (tmp_path/tif.name).symlink_to(tif)
    with pytest.raises(CubeError, match='2 bursts'): open_cube(tmp_path)


def test_a_truncated_geotiff_names_itself(shared, tmp_path):
    files = sorted((shared/'opera_rtc_s1'/BURSTS[1]).glob('*.tif'))[:4]
    for tif in files: (tmp_path/tif.name).write_bytes(tif.read_bytes())
    bad = tmp_path/files[1].name; bad.write_bytes(bad.read_bytes()[:20_000])
    with pytest.raises(CubeError, match=bad.name): open_cube(tmp_path).compute()


def test_pre_event_folder(shared):
    cube = open_cube(shared/'png_2024'/'opera_rtc_pre_event')
    assert dict(cube.sizes) == dict(time=10, y=100, x=150) and validate_cube(cube) is cube
    with pytest.raises(CubeError, match='no usable ascending pass after the event .* run from 2024-01-23 to 2024-05-22'): make_pair(cube, 'mulitaka')


def test_raw_folder_with_one_polarisation_opens(shared):
    cube = open_cube(shared/'png_2024'/'opera_rtc_raw_vh')
    assert dict(cube.sizes) == dict(time=3, y=250, x=350) and list(cube.data_vars) == ['vh']
    assert abs(float(cube.vh.isnull().mean()) - .65) < .01
    with pytest.raises(CubeError, match=r'has no vv \(found vh\)'): validate_cube(cube)
    twice = cube.assign(vv=cube.vh*4) # the burst edge stays no-data through a pair
    pair = make_pair(twice, ('2024-01-30', '2024-01-31'))
    assert abs(float(pair.vv.isnull().mean()) - .65) < .01


def test_a_map_without_labels_asks_the_place_itself(png, shared, tmp_path):
    m = map_cube(shared/'png_2024'/'png_landslide_2024_track9.nc', 'base', tmp_path/'run', passes=None, progress=False)
    before = [str(t)[:10] for t in png.time.values[:8]]
    assert m['nulls']['passes_pre'] == before[:4] and m['nulls']['passes_post'] == before[4:] and m['nulls']['pixels'] == 2500
    assert m['threshold'] == max(m['nulls']['threshold'], m['nulls']['model_threshold'])
    assert before[4] in (tmp_path/'run'/'report.html').read_text() and json.loads((tmp_path/'run'/'metrics.json').read_text())['nulls'] == m['nulls']
    cube = open_cube(shared/'opera_rtc_s1'/BURSTS[2]).isel(y=slice(0, 256), x=slice(0, 256)).load() # fields
    season = cube.isel(time=slice(0, 5))
    days = [str(t)[:10] for t in season.time.values]
    pair, (net, meta) = make_pair(season, (days[3], days[4]), passes=None), load_model('base')
    (quiet,) = null_pairs(season, pair)
    p = predict_scene(quiet, net, meta, progress=False).values
    settled = place_threshold(season, pair, net, meta, progress=False)
    assert quiet.passes_post == days[3:4]
    np.testing.assert_allclose(settled['nulls']['share'], (p[np.isfinite(p)] >= meta['calibration']['threshold']).mean())
    assert (p[np.isfinite(p)] >= settled['calibration']['threshold']).mean() <= .00201


def test_an_archive_of_years_knows_what_grows_here(shared):
    cube, (net, meta) = open_cube(shared/'opera_rtc_s1'/BURSTS[2]).load(), load_model('base')
    days = [str(t)[:10] for t in cube.time.values]
    archive = cube.isel(time=slice(0, 20))                                   # three winters; the last pass is the one after
    pair = make_pair(archive.isel(time=slice(15, 20)), (days[18], days[19]), passes=None)
    quiet = null_pairs(archive, pair)
    assert len(quiet) == 4 and len({q.passes_post[0][:4] for q in quiet}) == 3 and all(len(q.passes_pre) == 4 for q in quiet)
    assert all((np.datetime64(q.passes_post[-1]) - np.datetime64(q.passes_pre[0])).astype(int) < 120 for q in quiet)      # none across a summer
    settled = place_threshold(archive, pair, net, meta, progress=False)
    each = [np.quantile(predict_scene(q, net, meta, progress=False).values, .998) for q in quiet]
    assert settled['nulls']['pairs'] == 4 and abs(settled['nulls']['threshold'] - max(each)) < 1e-6 and settled['nulls']['passes_post'] == quiet[int(np.argmax(each))].passes_post


def test_weights_become_at_home_among_real_fields(shared, tmp_path):
    cube = open_cube(shared/'opera_rtc_s1'/BURSTS[2]).load().isel(time=slice(0, 20))
    days = [str(t)[:10] for t in cube.time.values]
    pair = make_pair(cube.isel(time=slice(15, 20)), (days[18], days[19]), passes=None)
    m = read_header(adapt_model(cube, pair, tmp_path/'here.safetensors', scenes=40, epochs=1, epoch_chips=512))
    assert m['metrics']['auprc'] > m['metrics']['auprc_before'] + .02, m['metrics']  # of landslides laid onto a quiet time it never saw
    assert m['input']['domain']['pixel size (m)'] == [30, 30] and m['training']['train_chips'] == 40


def test_orbit_guess_agrees_with_the_file_that_says(png):
    assert (guess_orbits(png.time.values + np.timedelta64(8*60 + 47, 'm'), 143.4) == png.orbit.values).all() # track 9 passes at 08:47 UTC


# Polygons

def grid(polygons, res=10, crs='EPSG:32653', margin=200):
    "An empty 10 m grid around polygons"
    west, south, east, north = polygons.to_crs(crs).total_bounds
    x, y = np.arange(west - margin, east + margin, res), np.arange(north + margin, south - margin, -res)
    return xr.Dataset(coords={'y': y, 'x': x}).rio.write_crs(crs).rio.write_transform()


@pytest.mark.parametrize('zone', ZONES)
def test_noto_polygons(shared, zone):
    folder = shared/'inventories'; slides, extent, cloud = ZONES[zone]
    slides, extent = folder/f'hokai_all_{slides}.fgb', folder/f'IdentifyArea_{extent}.fgb'
    cloud = cloud and folder/f'cloud_poly_{cloud}.fgb'
    like = grid(gpd.read_file(extent))
    label = rasterize_label(like, slides, extent, cloud)
    assert label.dtype == np.uint8 and label.rio.transform() == like.rio.transform() and set(np.unique(label)) == {0, 1, 255}
    area = lambda path: gpd.read_file(path).to_crs(32653).make_valid().union_all()
    drawn, mapped = area(slides), area(extent) - (area(cloud) if cloud else area(slides).buffer(-1e9))
    assert abs(int((label == 1).sum())*1e-4/(drawn.area*1e-6) - 1) < .01      # km2
    assert abs(int((label == 0).sum())*1e-4/((mapped - drawn).area*1e-6) - 1) < .01
    at = lambda p: int(label.sel(x=p.x, y=p.y, method='nearest'))
    assert label[0, 0] == 255 and at(max(drawn.geoms, key=lambda o: o.area).representative_point()) == 1
    if cloud: assert at(max((area(cloud) - drawn).geoms, key=lambda o: o.area).representative_point()) == 255


def test_invalid_polygons_are_mended(shared):
    path = shared/'inventories'/'cipongkor_landslides_2024.geojson'
    drawn = gpd.read_file(path)
    assert not drawn.is_valid.all()
    like = grid(drawn, res=3, crs='EPSG:32748')
    count = int((rasterize_label(like, path) == 1).sum())
    assert abs(count*9/drawn.to_crs(32748).make_valid().union_all().area - 1) < .02


def test_points_are_no_outlines(shared):
    kmz = shared/'inventories'/'Landslides_Kaikoura_2016.kmz'
    with pytest.raises(CubeError, match='holds points'): rasterize_label(grid(gpd.read_file(kmz), res=500, crs='EPSG:32759'), kmz)


def test_png_outline_agrees_with_its_label(png, shared):
    label = rasterize_label(png, shared/'png_2024'/'papau_new_guinea_landslide_2024.geojson')
    both = int(((label == 1) & (png.landslides == 1)).sum())/int(((label == 1) | (png.landslides == 1)).sum())
    assert both > .5


# Sen12Landslides: no imagery here, so patches are made from its published statistics

def patch(stats, seed, corner=(580_000., 4_730_000.), size=128, times=15):
    "A patch in the raw schema whose VV and VH have the given mean and standard deviation"
    rng = np.random.default_rng(seed)
    def band(name):
        m, s = stats.loc[name, 'mean'], stats.loc[name, 'std']
        return ('time', 'y', 'x'), rng.gamma((m/s)**2, s**2/m, (times, size, size)).clip(0, 1).astype('float32')
    mask = np.zeros((times, size, size), 'uint8'); mask[:, 20:40, 60:70] = 1
    ds = xr.Dataset({'VV': band('VV'), 'VH': band('VH'), 'DEM': (('time', 'y', 'x'), np.full(mask.shape, stats.loc['DEM', 'mean'], 'int16')), 'MASK': (('time', 'y', 'x'), mask)},
        {'time': pd.date_range('2018-07-20', periods=times, freq='6D').to_numpy().astype('datetime64[ns]'), 'y': corner[1] - 10*np.arange(size), 'x': corner[0] + 10*np.arange(size)},
        {'event_date': '2018-09-06', 'satellite': 's1-dsc'})
    return ds.rio.write_crs('EPSG:32654').rio.write_transform(rasterio.Affine(10, 0, corner[0], 0, -10, corner[1]))


@pytest.fixture(scope='module')
def stats(shared):
    table = pd.read_csv(shared/'sen12landslides_meta'/'s1dsc_raw_patch_stats_hokkaido_newzealand.csv')
    return table[table.variable.isin(['VV', 'VH', 'DEM'])].set_index(['file', 'variable'])


def test_units_are_told_apart_on_published_statistics(stats):
    "Each patch as a small sample with its mean and standard deviation: power passes, dB and nearly every amplitude do not"
    def accepted(vv, vh):
        try: check_power(vv, vh)
        except CubeError as e: return str(e)
        return 'power'
    rng, said = np.random.default_rng(0), {'power': [], 'amplitude': [], 'dB': []}
    draw = lambda m, s: rng.gamma((m/s)**2, s**2/m, 400)
    for _, o in stats.drop(index='DEM', level='variable').groupby(level='file'):
        vv, vh = (draw(*o.xs(v, level='variable')[['mean', 'std']].iloc[0]) for v in ('VV', 'VH'))
        for unit, f in (('power', lambda p: p), ('amplitude', np.sqrt), ('dB', to_db)): said[unit].append(accepted(f(vv), f(vh)))
    assert len(said['power']) == 953 and set(said['power']) == {'power'}
    assert all('looks like dB' in o for o in said['dB'])
    assert np.mean(['look like amplitude' in o for o in said['amplitude']]) > .9


def test_folder_of_patches(stats, tmp_path):
    name = stats.index.get_level_values('file').unique()[0]
    for k, col in enumerate((0, 1, 3)): patch(stats.loc[name], k, (580_000. + 1280*col, 4_730_000.)).to_netcdf(tmp_path/f'hokkaido_s1dsc_{k}.nc')
    cube = validate_cube(open_cube(tmp_path))
    assert cube.vv.shape == (15, 128, 512) and cube.vv.chunks and set(cube.orbit.values) == {'descending'}
    assert cube.rio.transform() == rasterio.Affine(10, 0, 580_000, 0, -10, 4_730_000)
    assert int((cube.landslides == 1).sum()) == 600 and bool((cube.landslides[:, 256:384] == 255).all())
    pair = make_pair(cube, extra='dem')
    assert pair.attrs['event_name'] == 'hokkaido' and abs(float(pair.vv.isnull().mean()) - .25) < 1e-6
    mean = float(open_cube(tmp_path/'hokkaido_s1dsc_0.nc').vv.mean())
    assert abs(mean/stats.loc[(name, 'VV'), 'mean'] - 1) < .02


def test_harmonised_patch_becomes_power(stats, tmp_path):
    raw = patch(stats.loc[stats.index.get_level_values('file').unique()[0]], 0)
    raw.to_netcdf(tmp_path/'hokkaido_s1dsc_1.nc')
    raw.assign({o: (10*np.log10(raw[o].clip(1e-9))).clip(-50, 10) for o in ('VV', 'VH')}).to_netcdf(tmp_path/'hokkaido_s1dsc_2.nc')
    a, b = (open_cube(tmp_path/f'hokkaido_s1dsc_{k}.nc') for k in (1, 2))
    np.testing.assert_allclose(a.vv, b.vv, rtol=1e-4, atol=2e-5)
