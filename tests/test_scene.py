"Whole scenes: exact whatever the tiles, whole or absent whatever happens, the same on a cluster, and files that others can read."
import json, os, re, signal, subprocess, sys, textwrap, time
from pathlib import Path

import geopandas as gpd, numpy as np, pytest, rasterio, rioxarray, torch, xarray as xr
from hypothesis import given, settings, strategies as st
from shapely import box

from landslide_nb.data.grid import area_text, span_text
from landslide_nb.mapping import scene
from landslide_nb.core import CubeError, LandslideError, OutputError, set_seed
from landslide_nb.data.pair import make_pair
from landslide_nb.testing import mock_cube
from landslide_nb.data.cube import open_cube
from landslide_nb.learn.calibration import calibrate
from landslide_nb.learn.networks import build_model, geometry
from landslide_nb.learn.models import load_model, save_model
from landslide_nb.mapping.areas import landslide_polygons, ranked_zones
from landslide_nb.mapping.mapping import map_cube, map_pair
from landslide_nb.mapping.runfolder import write_products
from landslide_nb.mapping.scene import logits_d4, logits_of, predict_scene, stack_pair

STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
FILES = ['item.json', 'landslides.gpkg', 'map.png', 'metrics.json', 'pair.tif', 'probability.tif', 'report.html']

def toy_pair(h, w, seed=0, holes=0., crs='EPSG:32654', y0=4.7e6, x0=5e5, step=10.):
    rng = np.random.default_rng(seed)
    band = lambda m: (('moment', 'y', 'x'), np.where(rng.random((2, h, w)) < holes, np.nan, rng.normal(m, 2., (2, h, w))).astype('float32'))
    return xr.Dataset(dict(vv=band(-9), vh=band(-15)), coords=dict(moment=['pre', 'post'], y=y0-step*np.arange(h), x=x0+step*np.arange(w)),
        attrs=dict(event_name='toy', event_start='2018-09-05', event_end='2018-09-07')).rio.write_crs(crs)

def toy_model(seed=1, **config):
    set_seed(seed)
    net = build_model(**config).eval()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 1.5)
    return net, dict(arch='unet', stage=2, input=dict(channels=['vv', 'vh'], change=config.get('moments', 3) == 3, stats=STATS, size=128), calibration=dict(scale=1.5, bias=2., threshold=.5))

SMALL = dict(arch='unet', stage=2, width=4, levels=3)
NETS = {'unet': dict(arch='unet', stage=2, width=4, levels=4), 'shallow': dict(arch='unet', stage=2, width=4, levels=1), 'two moments': dict(arch='unet', stage=2, width=4, levels=2, moments=2),
        'published': dict(arch='published', stage=2, moments=2), 'frozen': dict(arch='unet', stage=2, width=4, levels=2, embedding=4, stage1=dict(arch='unet', stage=1, width=4, levels=3)),
        'published frozen': dict(arch='published', stage=2, moments=2, embedding=64, stage1=dict(arch='published', stage=1, moments=2))}

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads(); torch.set_num_threads(1); yield; torch.set_num_threads(before)


# Exact

@pytest.fixture(scope='module')
def nets(): return {k: (*toy_model(**c), None) for k, c in NETS.items()}

@pytest.fixture(scope='module')
def known(nets): return {id(net): scene.measured(net) for net, *_ in nets.values()}

@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_mosaic_equals_the_untiled_pass(data, nets, known, tmp_path_factory):
    name = data.draw(st.sampled_from([*nets]))
    limit = 40 if 'published' in name else 140
    h, w, tile, window = data.draw(st.integers(1, limit)), data.draw(st.integers(1, limit)), data.draw(st.integers(1, 160)), data.draw(st.integers(1, 80))
    tta = data.draw(st.booleans()) and name != 'published frozen'
    net, meta, _ = nets[name]
    if data.draw(st.booleans()): meta = dict(meta, calibration=dict(meta['calibration'], around=dict(window=data.draw(st.sampled_from([3, 9, 61, 129])), log_density=[-3., 0.], factor=[.3, 1.2])))
    pair = toy_pair(h, w, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0., .02, 1.])))
    x = stack_pair(pair, ['vv', 'vh']).values
    whole = calibrate(logits_d4(x, net, meta['input'], known[id(net)][1]) if tta else logits_of(x, net, meta['input']), meta['calibration'])
    given_pair = pair.chunk(y=data.draw(st.integers(1, h)), x=data.draw(st.integers(1, w))) if data.draw(st.booleans()) and h*w < 4000 else pair
    work = tmp_path_factory.mktemp('work')/'tiles' if data.draw(st.booleans()) else None
    with pytest.MonkeyPatch.context() as m:
        m.setattr(scene, 'WINDOW', window)
        tiled = predict_scene(given_pair, net, meta, tile=tile, tta=tta, work=work, progress=False).values
    np.testing.assert_array_equal(np.isnan(tiled), np.isnan(x).any((0, 1)))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)

def test_no_data_reaches_no_farther_than_the_receptive_field():
    net, meta = toy_model(**SMALL)
    radius, stride = geometry(net)
    full, holed = toy_pair(120, 120), toy_pair(120, 120)
    holed.vv[0, 56:60, 56:60] = np.nan
    a, b = (predict_scene(p, net, meta, tile=40, progress=False).values for p in (full, holed))
    reach = radius + stride
    changed = np.argwhere(~(abs(a-b) < 1e-6))
    assert changed.min() >= 56-reach and changed.max() < 60+reach and np.isnan(b).sum() == 16


# From a cube to a pair

def test_the_balance_does_not_hang_on_its_sample():
    from landslide_nb.data.pair import average_db, choose_passes
    from landslide_nb.data.cube import cube_event
    from landslide_nb.data.grid import spread_windows
    from landslide_nb.data.simulate import simulate_event
    cube = simulate_event('demo_a', size=2048, orbits=('ascending',))
    orbit, pre, post = choose_passes(cube, cube_event(cube))
    balance = make_pair(cube).attrs['balance_db']
    for name, found in zip(('vv', 'vh'), balance):
        a, b = (average_db([cube[name][k] for k in o]).values for o in (pre, post))
        whole = np.median(b-a)
        assert abs(whole) > .001 and abs(found-whole) < .05
        some = [(b-a)[w].ravel() for w in spread_windows(a.shape, 256)] # as much of this scene as the balance sees of one of 4,096 px
        assert len(some) == 16 and abs(np.median(np.concatenate(some))-whole) < .05

def test_a_pair_is_read_once(tmp_path, monkeypatch):
    from landslide_nb.data import files as module
    source, read = mock_cube((1500, 1600), passes=1), []
    source.chunk(timestep=1, y=250, x=250).to_zarr(tmp_path/'cube.zarr', zarr_format=2)
    one = module.DiskArray.__getitem__
    monkeypatch.setattr(module.DiskArray, '__getitem__', lambda self, key: [out := one(self, key), read.append(out.size)][0])
    cube = open_cube(tmp_path/'cube.zarr')
    read.clear(); pair = make_pair(cube)
    assert 0 < sum(read) < 2.6e6, 'checks and balance read a quarter of the pixels of so small a scene'
    read.clear(); pair[['vv', 'vh']].compute()
    assert sum(read) == 2*2*1500*1600


# Whole or absent

RUN = """
import sys; sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
from test_scene import SMALL, toy_model, toy_pair
from landslide_nb.mapping.mapping import map_pair
map_pair(toy_pair(700, 900).chunk(y=200, x=200), toy_model(**SMALL), {folder!r}, tile=64, progress=False)
"""

def start(folder, before=''):
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', before+RUN.format(tests=str(Path(__file__).parent), folder=str(folder))], stderr=subprocess.PIPE, text=True)

def kill_when(process, seen, timeout=120):
    end = time.time()+timeout
    while not seen(): assert process.poll() is None and time.time() < end; time.sleep(.002)
    process.send_signal(signal.SIGKILL); process.wait(); process.stderr.close()

def test_killed_runs_continue_and_leave_nothing_half(tmp_path):
    run, tiles, half = tmp_path/'run', tmp_path/'.run.tiles', tmp_path/'.run.half'
    N = len(scene.cut_tiles((700, 900), 64, *geometry(toy_model(**SMALL)[0])))
    done = lambda: sorted(tiles.glob('[0-9]*.npy')) if tiles.exists() else []
    kill_when(start(run), lambda: len(done()) >= 5)
    assert not any(run.iterdir()) and 5 <= (n := len(done())) < N
    first = {p: p.stat().st_mtime_ns for p in done()}
    kill_when(start(run), lambda: half.exists() and any(half.iterdir())) # all tiles are there, the products are being written
    assert not any(run.iterdir()) and len(done()) == N
    assert {p: p.stat().st_mtime_ns for p in first} == first, 'finished tiles were computed again'
    pair, model = toy_pair(700, 900), toy_model(**SMALL)
    with pytest.raises(OutputError, match='tiles of another run'): map_pair(toy_pair(700, 901), model, run, tile=64, progress=False)
    map_pair(pair.chunk(y=200, x=200), model, run, tile=64, progress=False)
    assert sorted(p.name for p in run.iterdir()) == FILES and sorted(p.name for p in tmp_path.iterdir()) == ['run']
    with rasterio.open(run/'probability.tif') as f: np.testing.assert_allclose(f.read(1), predict_scene(pair, *model, progress=False).values, atol=1e-5)
    with pytest.raises(OutputError, match='not empty'): map_pair(pair, model, run)

def test_full_disk_is_one_sentence(tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n" # a stand-in: no file may grow further
    process = start(tmp_path/'run', limit)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and 'OutputError: Cannot write' in error and 'make room' in error, error[-2000:]
    assert not any((tmp_path/'run').iterdir()) and not (tmp_path/'.run.half').exists()

def test_too_little_room_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda p: type('Usage', (), dict(free=1000)))
    with pytest.raises(OutputError, match='bytes left'): map_pair(toy_pair(50, 50), toy_model(**SMALL), tmp_path/'run')
    assert not any((tmp_path/'run').iterdir())


# Beyond one machine

def test_a_cluster_with_a_killed_worker_gives_the_same_map(tmp_path):
    distributed = pytest.importorskip('distributed', reason="needs the extra 'cluster'")
    pair, (net, meta) = toy_pair(600, 700), toy_model(**SMALL)
    alone = predict_scene(pair, net, meta, progress=False).values
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path) as cluster, distributed.Client(cluster) as client:
        together = predict_scene(pair.chunk(y=256, x=256), net, meta, tile=64, progress=False).values
        np.testing.assert_allclose(together, alone, atol=1e-5)
        pids = client.run(os.getpid)
        victim, tiles = next(iter(pids.values())), tmp_path/'tiles'
        import threading
        def kill():
            while len(list(tiles.glob('*.npy'))) < 5: time.sleep(.002)
            os.kill(victim, signal.SIGKILL)
        killer = threading.Thread(target=kill); killer.start()
        again = predict_scene(pair.chunk(y=256, x=256), net, meta, tile=64, progress=False, work=tiles).values
        killer.join()
        assert victim not in client.run(os.getpid).values()
        np.testing.assert_array_equal(again, together)

TRAIN = """
import os, sys, json, hashlib, torch; torch.set_num_threads(1)
from landslide_nb.learn.training import on_processes
from landslide_nb.data.chips import ChipSet
from landslide_nb.learn.data import finetune_dls
from landslide_nb.learn.finetune import finetune_learner
from landslide_nb.learn.training import KeepBest
learn = finetune_learner(finetune_dls(ChipSet(sys.argv[1]), 8, seed=0, bs=4), seed=0, width=4, levels=2)
learn.remove_cbs([c for c in learn.cbs if isinstance(c, KeepBest)])
with learn.no_bar(), learn.no_logging(), on_processes(learn):
    learn.fit_one_cycle(1, 1e-3)
weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
print('RESULT', json.dumps(dict(rank=int(os.environ['RANK']), world=int(os.environ['WORLD_SIZE']), finite=bool(torch.isfinite(weights).all()),
    weights=hashlib.sha1(weights.numpy().tobytes()).hexdigest(), batches=learn.train_iter)), flush=True)
"""

def test_training_on_two_processes(tmp_path):
    pytest.importorskip('accelerate', reason="needs the extra 'cluster'")
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.split import split_chips
    pair = toy_pair(256, 256)
    truth = np.zeros((256, 256), 'uint8'); truth[::32, ::16] = 1; truth[:, 128:] = 0
    chips = make_chips(pair.assign(landslides=(('y', 'x'), truth)), tmp_path/'chips', size=32, step=32)
    split_chips(chips, by='random', seed=0)
    (tmp_path/'train.py').write_text(TRAIN)
    out = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', tmp_path/'train.py', tmp_path/'chips'],
        capture_output=True, text=True, timeout=240, env={**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'})
    found = [json.loads(o) for o in re.findall(r'\{"rank".*?\}', out.stdout)] # two processes may write on one line
    assert len(found) == 2, out.stdout[-1500:]+out.stderr[-3000:]
    assert {o['rank'] for o in found} == {0, 1} and all(o['world'] == 2 and o['finite'] for o in found)
    assert found[0]['weights'] == found[1]['weights'], 'the two processes drifted apart'


# Products

@pytest.fixture(scope='module')
def png_run(shared, tmp_path_factory):
    d = tmp_path_factory.mktemp('png')
    net, meta = toy_model(**SMALL)
    save_model(net, d/'m.safetensors', dict(input=meta['input'], calibration=dict(scale=1., bias=3.9, threshold=.5)))
    source = shared/'png_2024'/'png_landslide_2024_track9.nc'
    return d/'run', map_cube(source, d/'m.safetensors', d/'run', passes=None, tile=32, progress=False), open_cube(source), d/'m.safetensors'

def test_real_cube_to_run_folder(png_run):
    run, metrics, cube, _ = png_run
    assert sorted(p.name for p in run.iterdir()) == [*FILES, 'truth.tif']
    with rasterio.open(run/'truth.tif') as f: np.testing.assert_array_equal(f.read(1), cube.landslides.values); assert f.dtypes == ('uint8',) and f.nodata == 255
    with rasterio.open(run/'probability.tif') as f:
        assert f.crs == cube.rio.crs and f.transform == cube.rio.transform() and f.shape == (50, 50) and f.tags()['units'] == '1' and 'event_name' in f.tags()
    assert abs(metrics['auprc_log_ratio']-.884) < .01 and metrics['mapped_area_m2'] == 96*900
    assert json.loads((run/'metrics.json').read_text())['polygons'] == metrics['polygons']

def test_rasters_are_valid_cogs(png_run):
    from rio_cogeo.cogeo import cog_validate
    for name in ('probability.tif', 'pair.tif', 'truth.tif'): assert cog_validate(png_run[0]/name, strict=True) == (True, [], [])

def test_stac_item_is_valid(png_run):
    import jsonschema, pystac
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource
    item = json.loads((png_run[0]/'item.json').read_text())
    cache = get_local_schema_cache()
    registry = Registry().with_resources((k, Resource.from_contents(v)) for k, v in cache.items())
    schema = next(v for k, v in cache.items() if k.endswith('item-spec/json-schema/item.json'))
    jsonschema.Draft7Validator(schema, registry=registry).validate(item)
    p = item['properties']
    assert item['assets']['truth']['href'] == 'truth.tif'
    assert {o.split('/')[-3] for o in item['stac_extensions']} == {'projection', 'processing'}
    assert p['proj:code'] == 'EPSG:32654' and p['proj:shape'] == [50, 50] and p['processing:level'] == 'L4' and p['processing:software'].keys() == {'landslide_nb'}
    for o in pystac.Item.from_file(str(png_run[0]/'item.json')).get_assets().values(): assert Path(o.get_absolute_href()).exists()

def test_polygons_keep_the_areas_numpy_counts(png_run):
    run, metrics, cube, _ = png_run
    with rasterio.open(run/'probability.tif') as f: prob = f.read(1)
    found = gpd.read_file(run/'landslides.gpkg', layer='polygons')
    np.testing.assert_allclose(found.area, found.area_m2)
    assert found.is_valid.all() and found.area_m2.sum() <= metrics['area_above_threshold_m2'] == (prob >= .5).sum()*900 and (found.area_m2 >= 500).all()
    assert found.mean_probability.between(.5, 1).all() and (found.max_probability >= found.mean_probability).all() and (found.elongation >= 1).all()
    mapped = gpd.read_file(run/'landslides.gpkg', layer='mapped')
    assert mapped.area_m2.sum() == 96*900

def test_specks_left_out_early_change_no_polygon():
    from scipy.ndimage import uniform_filter
    like = toy_pair(150, 1200).vv.isel(moment=0, drop=True) # two windows, which regions cross
    noise = uniform_filter(np.random.default_rng(0).random(like.shape), 5)
    prob = like.copy(data=(noise > np.quantile(noise, .9)).astype('float32')).rio.write_crs('EPSG:32654')
    every, some = landslide_polygons(prob, .5, 0), landslide_polygons(prob, .5, 1500.)
    wanted = every[every.area_m2 >= 1500]
    assert len(every) > len(wanted) == len(some) > 30 and some.geometry.apply(lambda g: g.bounds[0] < 5e5+10235 < g.bounds[2]).any()
    assert sorted(some.geometry.to_wkb()) == sorted(wanted.geometry.to_wkb())

def test_blank_parts_take_no_room(tmp_path):
    from rasterio._env import get_gdal_config
    from rio_cogeo.cogeo import cog_validate
    from landslide_nb.mapping.runfolder import bounded, write_cog
    with bounded(): assert 2**25 <= int(get_gdal_config('GDAL_CACHEMAX')) <= 2**27, 'bytes'
    like = toy_pair(2100, 2100).vv.isel(moment=0, drop=True)
    part = like.where((like.y > like.y[300]) & (like.x > like.x[1500]))
    truth = like.copy(data=np.where(part.notnull(), 1, 255).astype('uint8'))
    for name, layer in (('part', part), ('truth', truth), ('blank', like*np.nan)):
        write_cog(layer.rio.write_crs('EPSG:32654').rio.write_transform(), tmp_path/f'{name}.tif', [name])
        assert cog_validate(tmp_path/f'{name}.tif', strict=True) == (True, [], [])
        with rasterio.open(tmp_path/f'{name}.tif') as f: np.testing.assert_array_equal(f.read(1), layer.values); assert f.overviews(1)
    assert (tmp_path/'blank.tif').stat().st_size < 4000

def test_areas_on_a_grid_in_degrees(tmp_path):
    step = 1e-3
    pair, (net, meta) = toy_pair(60, 80, crs='EPSG:4326', y0=60., x0=10., step=step), toy_model(**SMALL)
    prob = predict_scene(pair, net, meta, progress=False)
    patch = prob.copy(data=np.zeros(prob.shape, 'float32')); patch[10:20, 10:30] = .9
    flat = landslide_polygons(patch).to_crs('ESRI:54034').area[0] # equal area, cylindrical
    assert abs(landslide_polygons(patch).area_m2[0]/flat-1) < .002
    m = write_products(tmp_path/'run', pair, prob, meta)
    cells = gpd.read_file(tmp_path/'run'/'landslides.gpkg', layer='cells')
    assert abs(cells.expected_m2.sum()/m['expected_area_m2']-1) < 1e-6
    assert .8 < np.sqrt(cells.to_crs('ESRI:54034').area.max())/1000 < 1.2 # cells are a kilometre on the ground, not in degrees
    zones = gpd.GeoDataFrame(geometry=[box(9, 59, 11, 61)], crs=4326)
    assert abs(ranked_zones(prob, zones).expected_m2[0]/m['expected_area_m2']-1) < 1e-6

def test_terrain_and_truth_lie_beside_the_map(tmp_path):
    from rio_cogeo.cogeo import cog_validate
    h, w = 700, 600
    rng, pair, (net, meta) = np.random.default_rng(0), toy_pair(700, 600), toy_model(**SMALL)
    truth = rng.choice(np.array([0, 1, 255], 'uint8'), (h//50, w//50)).repeat(50, 0).repeat(50, 1); dem = rng.normal(1000, 50, (h, w)).astype('float32'); dem[:9, :9] = np.nan
    both = np.stack([dem, dem]) # a pair made with dem as a channel carries it for both moments
    pair = pair.assign(landslides=(('y', 'x'), truth), dem=(('moment', 'y', 'x'), both)).chunk(y=256, x=256)
    map_pair(pair, (net, meta), tmp_path/'run', progress=False)
    for name, wanted, dtype, nodata in (('truth', truth, 'uint8', 255), ('dem', dem, 'float32', np.nan)):
        with rasterio.open(tmp_path/'run'/f'{name}.tif') as f:
            np.testing.assert_array_equal(f.read(1), wanted)
            assert f.dtypes == (dtype,) and f.crs == pair.rio.crs and f.transform == pair.rio.transform() and f.overviews(1)
            np.testing.assert_equal(f.nodata, nodata)
        assert cog_validate(tmp_path/'run'/f'{name}.tif', strict=True) == (True, [], [])
    assert {'truth', 'dem'} <= set(json.loads((tmp_path/'run'/'item.json').read_text())['assets'])

def test_bad_zones_and_orbits_are_one_sentence(png_run, tmp_path):
    _, _, cube, model = png_run
    with pytest.raises(CubeError, match='no descending pass'): map_cube(cube, model, tmp_path/'run', orbit='descending')
    far = gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=4326)
    for zones, said in ((far, 'None of the 1 zones'), (tmp_path/'absent.gpkg', 'Cannot read the zones'), (far.set_crs(None, allow_override=True), 'no CRS'), (far.assign(geometry=far.boundary), 'zones are polygons')):
        with pytest.raises(OutputError, match=said): map_cube(cube, model, tmp_path/'run', zones=zones, progress=False)
        assert [p.name for p in tmp_path.iterdir()] == ['run'] and not any((tmp_path/'run').iterdir()), 'said before any work is done'

def test_zones_in_another_crs_rank_alike(png_run, tmp_path):
    run, _, cube, model = png_run
    west, south, east, north = cube.rio.bounds()
    own = gpd.GeoDataFrame(dict(name=['west', 'east']), geometry=[box(west, south, west+600, north), box(west+600, south, east, north)], crs=cube.rio.crs)
    own.to_crs(4326).to_file(tmp_path/'zones.geojson')
    metrics = map_cube(cube, model, tmp_path/'run', passes=None, zones=tmp_path/'zones.geojson', progress=False)
    ranked = gpd.read_file(tmp_path/'run'/'landslides.gpkg', layer='zones')
    with rasterio.open(run/'probability.tif') as f: prob = f.read(1).astype(float)
    wanted = {'west': prob[:, :20].sum()*900, 'east': prob[:, 20:].sum()*900}
    assert sorted(ranked.name) == ['east', 'west'] and ranked.crs == cube.rio.crs and ranked.expected_m2.is_monotonic_decreasing
    for row in ranked.itertuples(): assert row.expected_m2 == pytest.approx(wanted[row.name], rel=.01)
    assert 'The worst-hit' in (tmp_path/'run'/'report.html').read_text() and metrics['expected_area_m2'] == pytest.approx(ranked.expected_m2.sum(), rel=.01)

BAD = {'no CRS': (lambda p: p.drop_vars('spatial_ref'), 'has no CRS'), 'rotated': (lambda p: p.rio.write_transform(rasterio.Affine(10, 3, 5e5, 3, -10, 4.7e6)), 'rotated grid'),
       'south-up': (lambda p: p.isel(y=slice(None, None, -1)), 'south-up'), 'all no data': (lambda p: p.where(p.vv > 1e9).assign_attrs(p.attrs), 'no pixel with data'),
       'a channel missing': (lambda p: p[['vv']], 'vh missing')}

@pytest.mark.parametrize('case', [*BAD])
def test_bad_scenes_are_one_sentence_and_leave_nothing(case, tmp_path):
    spoil, said = BAD[case]
    with pytest.raises(LandslideError, match=said) as e: map_pair(spoil(toy_pair(70, 90)), toy_model(**SMALL), tmp_path/'run', progress=False)
    assert str(e.value).count('\n') == 0 and [p.name for p in tmp_path.iterdir()] in ([], ['run']) and not list(tmp_path.glob('run/*'))

def test_a_damaged_cube_leaves_nothing(tmp_path):
    mock_cube((400, 500)).chunk(timestep=1, y=100, x=100).to_zarr(tmp_path/'cube.zarr', zarr_format=2)
    pair = make_pair(open_cube(tmp_path/'cube.zarr'), 'hokkaido')
    for chunk in (tmp_path/'cube.zarr'/'vh').glob('*.3.4'): chunk.write_bytes(chunk.read_bytes()[:50]) # the last tile's, so that others are done
    with pytest.raises(CubeError, match='Cannot read vh in .* damaged or incomplete'): map_pair(pair, toy_model(**SMALL), tmp_path/'run', tile=64, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cube.zarr', 'run'] and not any((tmp_path/'run').iterdir())

def test_nothing_found_is_said_with_its_interval(tmp_path):
    pair, (net, meta) = toy_pair(150, 150), toy_model(**SMALL)
    record = dict(coverage=.9, chips=40, pixels=16384, low=-3., high=5.)
    meta = dict(meta, calibration=dict(scale=1., bias=-9., threshold=.5, area=record))
    metrics = map_pair(pair, (net, meta), tmp_path/'run', progress=False)
    low, high, expected = (metrics[f'expected_area{k}_m2'] for k in ('_low', '_high', ''))
    assert metrics['polygons'] == 0 and high > 0
    assert f'No landslide found: no polygon of 500 m2 or more reaches probability 0.50; expected landslide area {area_text(expected)} ({span_text(low, high, expected)})' in (tmp_path/'run'/'report.html').read_text()
    assert len(gpd.read_file(tmp_path/'run'/'landslides.gpkg', layer='polygons')) == 0

def test_a_scene_unlike_the_models_says_so(png_run, tmp_path):
    _, before, cube, model = png_run
    net, meta = load_model(model)
    assert before['warnings'] == [] # this model knows nothing of its domain
    meta['input']['domain'] = {'pixel size (m)': [10., 10.], 'VV before (dB)': [-30., 0.]}
    metrics = map_pair(make_pair(cube, passes=None), (net, meta), tmp_path/'run', progress=False)
    assert len(metrics['warnings']) == 1 and 'pixel size (m) is 30' in metrics['warnings'][0] and 'VV before' not in metrics['warnings'][0]
    page = (tmp_path/'run'/'report.html').read_text()
    assert 'role="alert"' in page and 'pixel size (m) is 30' in page and json.loads((tmp_path/'run'/'metrics.json').read_text())['warnings'] == metrics['warnings']


# Memory, and the command

PEAK = """
import sys, resource; sys.path.insert(0, {tests!r})
import numpy as np, dask.array as da, torch, xarray as xr; torch.set_num_threads(1)
from test_scene import SMALL, toy_model, toy_pair
from landslide_nb.mapping.mapping import map_pair
noise = np.random.default_rng(0).normal(-12, 2, (2, 256, 256)).astype('float32')
def lazy(n):
    one = lambda block_info=None: noise[:, :block_info[None]['chunk-shape'][1], :block_info[None]['chunk-shape'][2]]
    band = lambda: (('moment', 'y', 'x'), da.map_blocks(one, chunks=((2,), (256,)*(n//256), (256,)*(n//256)), dtype='float32'))
    return xr.Dataset(dict(vv=band(), vh=band()), dict(moment=['pre', 'post'], y=4.7e6-10*np.arange(n), x=5e5+10*np.arange(n))).rio.write_crs('EPSG:32654')
for n in (768, 1024, 3072):
    net, meta = toy_model(**SMALL)
    map_pair(lazy(n), (net, dict(meta, calibration=dict(scale=1., bias=-9.))), f'{{sys.argv[1]}}/{{n}}', tile=256, progress=False)
    print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024, flush=True)
"""

def test_memory_does_not_grow_with_the_scene(tmp_path):
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', PEAK.format(tests=str(Path(__file__).parent)), tmp_path], capture_output=True, text=True, timeout=600, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    peak = dict(map(int, line.split()) for line in out.stdout.splitlines())
    assert peak.keys() == {768, 1024, 3072}, out.stderr[-2000:]
    assert peak[3072]-peak[1024] < 60, peak # MB; the pair alone takes 151 MB at 3072 px and 17 MB at 1024 px

def test_a_killed_command_continues(tmp_path):
    net, meta = toy_model(**SMALL)
    save_model(net, tmp_path/'m.safetensors', dict(input=meta['input'], calibration=dict(scale=1., bias=-9.)))
    cube = mock_cube((600, 700)); cube.chunk(y=128, x=128).to_zarr(tmp_path/'cube.zarr', zarr_format=2)
    words = [Path(sys.executable).parent/'landslide-nb', 'map', 'cube.zarr', '--model', 'm.safetensors', '--out', 'run', '--tile', '64', '--event', 'hokkaido']
    tiles = tmp_path/'.run.tiles'
    done = lambda: sorted(tiles.glob('[0-9]*.npy')) if tiles.exists() else []
    kill_when(subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True), lambda: len(done()) >= 5)
    kept = {p: p.stat().st_mtime_ns for p in done()[:3]}
    assert not any((tmp_path/'run').iterdir())
    again = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while again.poll() is None and not (tmp_path/'.run.half').exists(): time.sleep(.002)
    seen = {p: p.stat().st_mtime_ns for p in kept}
    said, error = again.communicate(timeout=300)
    assert again.returncode == 0, error[-2000:]
    assert seen == kept, 'finished tiles were computed again'
    assert 'no landslide found' in said and 'its interval is not known' in said and sorted(p.name for p in tmp_path.iterdir()) == ['cube.zarr', 'm.safetensors', 'run']
    whole = predict_scene(make_pair(open_cube(cube), 'hokkaido'), net, dict(meta, calibration=dict(scale=1., bias=-9.)), progress=False)
    with rasterio.open(tmp_path/'run'/'probability.tif') as f: np.testing.assert_allclose(f.read(1), whole.values, atol=1e-5)
    assert {'dem.tif', 'truth.tif'} <= {p.name for p in (tmp_path/'run').iterdir()}
