"Whole scenes: exact whatever the tiles, whole or absent whatever happens, the same on a cluster, and files that others can read."
import json, os, re, signal, subprocess, sys, threading, time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rioxarray
import torch
from hypothesis import given, settings, strategies as st
from shapely import box

from landslide_nb.core import CubeError, LandslideError, OutputError, set_seed
from landslide_nb.data.cube import open_cube
from landslide_nb.data.grid import area_text, span_text
from landslide_nb.data.pair import make_pair
from landslide_nb.learn.calibration import calibrate
from landslide_nb.learn.networks import build_model, geometry
from landslide_nb.learn.models import load_model, save_model
from landslide_nb.mapping import scene
from landslide_nb.mapping.areas import landslide_polygons, ranked_zones
from landslide_nb.mapping.mapping import map_cube, map_pair, scene_pair
from landslide_nb.mapping.runfolder import write_products
from landslide_nb.mapping.scene import logits_d4, logits_of, predict_scene, predict_tiles, stack_pair
from landslide_nb.mapping.tiles import cut_tiles
from landslide_nb.styles import kml_driver
from landslide_nb.testing import mock_cube, mock_pair

HERE = str(Path(__file__).parent)
FILES = ['item.json', 'landslides.geojson', 'landslides.gpkg', *(['landslides.kml'] if kml_driver() else []), 'map.png', 'map.qgs',
         'metrics.json', 'pair.qml', 'pair.tif', 'probability.qml', 'probability.tif', 'report.html']
STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
SMALL = dict(arch='unet', stage=2, width=4, levels=3)
NETS = {
    'unet': dict(arch='unet', stage=2, width=4, levels=4),
    'shallow': dict(arch='unet', stage=2, width=4, levels=1),
    'two moments': dict(arch='unet', stage=2, width=4, levels=2, moments=2),
    'published': dict(arch='published', stage=2, moments=2),
    'frozen': dict(arch='unet', stage=2, width=4, levels=2, embedding=4,
                   stage1=dict(arch='unet', stage=1, width=4, levels=3)),
    'published frozen': dict(arch='published', stage=2, moments=2, embedding=64,
                             stage1=dict(arch='published', stage=1, moments=2)),
}

def bare_pair(size, seed=0, **grid):
    "A mock pair without mapped truth"
    return mock_pair(size, seed, **grid).drop_vars('landslides')

def pierce(pair, share, seed):
    "A pair of which a share of the pixels is lost, in each band on its own"
    rng = np.random.default_rng(seed)
    for name in ('vv', 'vh'):
        lost = rng.random(pair[name].shape) < share
        pair = pair.assign({name: pair[name].where(~lost)})
    return pair

def toy_model(seed=1, **config):
    "An untrained network whose batch norms hold random statistics, and its header"
    set_seed(seed)
    net = build_model(**config).eval()
    for m in net.modules():
        if not isinstance(m, torch.nn.BatchNorm2d): continue
        m.running_mean.normal_(0, .1)
        m.running_var.uniform_(.5, 1.5)
    spec = dict(channels=['vv', 'vh'], change=config.get('moments', 3) == 3, stats=STATS, size=128)
    return net, dict(arch='unet', stage=2, input=spec, calibration=dict(scale=1.5, bias=2., threshold=.5))

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

def names(folder): return sorted(p.name for p in folder.iterdir())

def read_band(path):
    with rasterio.open(path) as f: return f.read(1)


# Exact

@pytest.fixture(scope='module')
def nets(): return {name: toy_model(**config) for name, config in NETS.items()}

@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_mosaic_equals_the_untiled_pass(data, nets, tmp_path_factory):
    def number(low, high): return data.draw(st.integers(low, high))
    def coin(): return data.draw(st.booleans())
    name = data.draw(st.sampled_from([*nets]))
    net, meta = nets[name]
    limit = 40 if 'published' in name else 140
    h, w, tile, window = number(1, limit), number(1, limit), number(1, 160), number(1, 80)
    tta = coin() and name != 'published frozen'
    if coin():
        around = dict(window=data.draw(st.sampled_from([3, 9, 61, 129])), log_density=[-3., 0.], factor=[.3, 1.2])
        meta = dict(meta, calibration=dict(meta['calibration'], around=around))
    seed = number(0, 99)
    pair = pierce(bare_pair((h, w), seed), data.draw(st.sampled_from([0., .02, 1.])), seed)
    x = stack_pair(pair, ['vv', 'vh']).values
    stride = scene.measured(net)[1]
    logits = logits_d4(x, net, meta['input'], stride) if tta else logits_of(x, net, meta['input'])
    whole = calibrate(logits, meta['calibration'])
    if coin() and h*w < 4000: pair = pair.chunk(y=number(1, h), x=number(1, w))
    options = dict(tile=tile, tta=tta, progress=False)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(scene, 'PASS_WINDOW', window)
        if coin(): tiled = predict_tiles(pair, net, meta, tmp_path_factory.mktemp('work')/'tiles', **options).values
        else: tiled = predict_scene(pair, net, meta, **options).values
    np.testing.assert_array_equal(np.isnan(tiled), np.isnan(x).any((0, 1)))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)

def test_no_data_reaches_no_farther_than_the_receptive_field():
    net, meta = toy_model(**SMALL)
    radius, stride = geometry(net)
    full, holed = bare_pair((120, 120)), bare_pair((120, 120))
    holed.vv[0, 56:60, 56:60] = np.nan
    a, b = (predict_scene(p, net, meta, tile=40, progress=False).values for p in (full, holed))
    reach = radius + stride
    changed = np.argwhere(~(abs(a - b) < 1e-6))
    assert changed.min() >= 56 - reach
    assert changed.max() < 60 + reach
    assert np.isnan(b).sum() == 16


# From a cube to a pair

def test_the_balance_does_not_hang_on_its_sample():
    from landslide_nb.data.cube import cube_event
    from landslide_nb.data.grid import spread_windows
    from landslide_nb.data.pair import average_db
    from landslide_nb.data.passes import choose_passes
    from landslide_nb.data.simulate import simulate_event
    cube = simulate_event('demo_a', size=2048, orbits=('ascending',))
    orbit, pre, post = choose_passes(cube, cube_event(cube))
    balance = make_pair(cube).attrs['balance_db']
    for name, found in zip(('vv', 'vh'), balance):
        a, b = (average_db([cube[name][k] for k in passes]).values for passes in (pre, post))
        change = b - a
        whole = np.median(change)
        assert abs(whole) > .001
        assert abs(found - whole) < .05
        # as much of this scene as the balance sees of one of 4,096 px
        some = [change[w].ravel() for w in spread_windows(a.shape, 256)]
        assert len(some) == 16
        assert abs(np.median(np.concatenate(some)) - whole) < .05

def test_a_pair_is_read_once(tmp_path, monkeypatch):
    from landslide_nb.data import files as module
    read = []
    mock_cube((1500, 1600), passes=1).chunk(timestep=1, y=250, x=250).to_zarr(tmp_path/'cube.zarr', zarr_format=2)
    read_one = module.DiskArray.__getitem__
    def counted(self, key):
        out = read_one(self, key)
        read.append(out.size)
        return out
    monkeypatch.setattr(module.DiskArray, '__getitem__', counted)
    cube = open_cube(tmp_path/'cube.zarr')
    read.clear()
    pair = make_pair(cube)
    assert 0 < sum(read) < 2.9e6, 'checks and balance read less than a third of the pixels of so small a scene'
    read.clear()
    pair[['vv', 'vh']].compute()
    assert sum(read) == 2*2*1500*1600


# Whole or absent

MAP_ONE = """
import sys; sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
from test_scene import SMALL, bare_pair, toy_model
from landslide_nb.mapping.mapping import map_pair
map_pair(bare_pair((700, 900)).chunk(y=200, x=200), toy_model(**SMALL), {folder!r}, tile=64, progress=False)
"""

def start(folder, before=''):
    "Map a mock pair in another process"
    code = before + MAP_ONE.format(tests=HERE, folder=str(folder))
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], stderr=subprocess.PIPE, text=True)

def kill_when(process, seen, timeout=120):
    "Kill a process as soon as something is seen"
    end = time.time() + timeout
    while not seen():
        assert process.poll() is None
        assert time.time() < end
        time.sleep(.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()

def finished(tiles): return sorted(tiles.glob('[0-9]*.npy')) if tiles.exists() else []

def written(paths): return {path: path.stat().st_mtime_ns for path in paths}

def test_killed_mappings_continue_and_leave_nothing_half(tmp_path):
    run, tiles, half = tmp_path/'run', tmp_path/'.run.tiles', tmp_path/'.run.half'
    pair, model = bare_pair((700, 900)), toy_model(**SMALL)
    every = len(cut_tiles((700, 900), 64, *geometry(model[0])))
    kill_when(start(run), lambda: len(finished(tiles)) >= 5)
    assert not any(run.iterdir())
    assert 5 <= len(finished(tiles)) < every
    first = written(finished(tiles))
    # all tiles are there, the products are being written
    kill_when(start(run), lambda: half.exists() and any(half.iterdir()))
    assert not any(run.iterdir())
    assert len(finished(tiles)) == every
    assert written(first) == first, 'finished tiles were computed again'
    with pytest.raises(OutputError, match='tiles of another map'):
        map_pair(bare_pair((700, 901)), model, run, tile=64, progress=False)
    map_pair(pair.chunk(y=200, x=200), model, run, tile=64, progress=False)
    assert names(run) == FILES
    assert names(tmp_path) == ['run']
    whole = predict_scene(pair, *model, progress=False).values
    np.testing.assert_allclose(read_band(run/'probability.tif'), whole, atol=1e-5)
    with pytest.raises(OutputError, match='not empty'): map_pair(pair, model, run)

NO_LARGE_FILE = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
""" # stands in for a full disk: no file may grow further

def test_full_disk_is_one_sentence(tmp_path):
    process = start(tmp_path/'run', NO_LARGE_FILE)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert 'OutputError: Cannot write' in error, error[-2000:]
    assert 'make room' in error, error[-2000:]
    assert not any((tmp_path/'run').iterdir())
    assert not (tmp_path/'.run.half').exists()

def test_too_little_room_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda path: type('Usage', (), dict(free=1000)))
    with pytest.raises(OutputError, match='bytes left'):
        map_pair(bare_pair((50, 50)), toy_model(**SMALL), tmp_path/'run')
    assert not any((tmp_path/'run').iterdir())


# Beyond one machine

def test_a_cluster_with_a_killed_worker_gives_the_same_map(tmp_path):
    distributed = pytest.importorskip('distributed', reason="needs the extra 'cluster'")
    pair, (net, meta) = bare_pair((600, 700)), toy_model(**SMALL)
    alone = predict_scene(pair, net, meta, progress=False).values
    lazy = pair.chunk(y=256, x=256)
    two = dict(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path)
    with distributed.LocalCluster(**two) as cluster, distributed.Client(cluster) as client:
        together = predict_scene(lazy, net, meta, tile=64, progress=False).values
        np.testing.assert_allclose(together, alone, atol=1e-5)
        tiles = tmp_path/'tiles'
        victim = next(iter(client.run(os.getpid).values()))
        def kill():
            while len(finished(tiles)) < 5: time.sleep(.002)
            os.kill(victim, signal.SIGKILL)
        killer = threading.Thread(target=kill)
        killer.start()
        again = predict_tiles(lazy, net, meta, tiles, tile=64, progress=False).values
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
found = dict(rank=int(os.environ['RANK']), world=int(os.environ['WORLD_SIZE']), finite=bool(torch.isfinite(weights).all()),
             weights=hashlib.sha1(weights.numpy().tobytes()).hexdigest(), batches=learn.train_iter)
print('RESULT', json.dumps(found), flush=True)
"""

def test_training_on_two_processes(tmp_path):
    pytest.importorskip('accelerate', reason="needs the extra 'cluster'")
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.split import split_chips
    truth = np.zeros((256, 256), 'uint8')
    truth[::32, ::16] = 1
    truth[:, 128:] = 0
    pair = bare_pair((256, 256)).assign(landslides=(('y', 'x'), truth))
    chips = make_chips(pair, tmp_path/'chips', size=32, step=32)
    split_chips(chips, by='random', seed=0)
    (tmp_path/'train.py').write_text(TRAIN)
    launch = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    out = subprocess.run([*launch, tmp_path/'train.py', tmp_path/'chips'], capture_output=True, text=True, timeout=240,
                         env={**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'})
    found = [json.loads(o) for o in re.findall(r'\{"rank".*?\}', out.stdout)] # two processes may write on one line
    assert len(found) == 2, out.stdout[-1500:] + out.stderr[-3000:]
    assert {o['rank'] for o in found} == {0, 1}
    assert all(o['world'] == 2 and o['finite'] for o in found)
    assert found[0]['weights'] == found[1]['weights'], 'the two processes drifted apart'


# Products

@pytest.fixture(scope='module')
def png_run(shared, tmp_path_factory):
    "A real cube, mapped: (run folder, metrics, cube, model file)"
    d = tmp_path_factory.mktemp('png')
    net, meta = toy_model(**SMALL)
    model = d/'m.safetensors'
    save_model(net, model, dict(input=meta['input'], calibration=dict(scale=1., bias=3.9, threshold=.5)))
    source = shared/'png_2024'/'png_landslide_2024_track9.nc'
    metrics = map_cube(source, model, d/'run', passes=None, tile=32, progress=False)
    return d/'run', metrics, open_cube(source), model

def test_real_cube_to_run_folder(png_run):
    run, metrics, cube, _ = png_run
    assert names(run) == [*FILES, 'truth.qml', 'truth.tif']
    with rasterio.open(run/'truth.tif') as f:
        np.testing.assert_array_equal(f.read(1), cube.landslides.values)
        assert f.dtypes == ('uint8',)
        assert f.nodata == 255
    with rasterio.open(run/'probability.tif') as f:
        assert (f.crs, f.transform, f.shape) == (cube.rio.crs, cube.rio.transform(), (50, 50))
        assert f.tags()['units'] == '1'
        assert 'event_name' in f.tags()
    assert abs(metrics['auprc_log_ratio'] - .884) < .01
    assert abs(metrics['auprc_standardized'] - .889) < .002
    assert 'of the standardized change, raw and smoothed' in (run/'report.html').read_text()
    assert metrics['mapped_area_m2'] == 96*900
    assert json.loads((run/'metrics.json').read_text())['polygons'] == metrics['polygons']

def test_rasters_are_valid_cogs(png_run):
    from rio_cogeo.cogeo import cog_validate
    for name in ('probability.tif', 'pair.tif', 'truth.tif'):
        assert cog_validate(png_run[0]/name, strict=True) == (True, [], [])

def test_stac_item_is_valid(png_run):
    import jsonschema, pystac
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource
    item = json.loads((png_run[0]/'item.json').read_text())
    cache = get_local_schema_cache()
    registry = Registry().with_resources((k, Resource.from_contents(v)) for k, v in cache.items())
    schema = next(v for k, v in cache.items() if k.endswith('item-spec/json-schema/item.json'))
    jsonschema.Draft7Validator(schema, registry=registry).validate(item)
    assert item['assets']['truth']['href'] == 'truth.tif'
    assert {o.split('/')[-3] for o in item['stac_extensions']} == {'projection', 'processing'}
    properties = item['properties']
    assert properties['proj:code'] == 'EPSG:32654'
    assert properties['proj:shape'] == [50, 50]
    assert properties['processing:level'] == 'L4'
    assert properties['processing:software'].keys() == {'landslide_nb'}
    assets = pystac.Item.from_file(str(png_run[0]/'item.json')).get_assets()
    assert all(Path(asset.get_absolute_href()).exists() for asset in assets.values())

def test_polygons_keep_the_areas_numpy_counts(png_run):
    run, metrics, cube, _ = png_run
    prob = read_band(run/'probability.tif')
    found = gpd.read_file(run/'landslides.gpkg', layer='polygons')
    np.testing.assert_allclose(found.area, found.area_m2)
    assert found.is_valid.all()
    assert (found.area_m2 >= 500).all()
    assert found.area_m2.sum() <= metrics['area_above_threshold_m2'] == (prob >= .5).sum()*900
    assert found.mean_probability.between(.5, 1).all()
    assert (found.max_probability >= found.mean_probability).all()
    assert (found.elongation >= 1).all()
    mapped = gpd.read_file(run/'landslides.gpkg', layer='mapped')
    assert mapped.area_m2.sum() == 96*900

def test_specks_left_out_early_change_no_polygon():
    from scipy.ndimage import uniform_filter
    like = bare_pair((150, 1200)).vv.isel(moment=0, drop=True) # two windows, which regions cross
    noise = uniform_filter(np.random.default_rng(0).random(like.shape), 5)
    over = (noise > np.quantile(noise, .9)).astype('float32')
    prob = like.copy(data=over).rio.write_crs('EPSG:32654')
    every, some = landslide_polygons(prob, .5, 0), landslide_polygons(prob, .5, 1500.)
    wanted = every[every.area_m2 >= 1500]
    assert len(every) > len(wanted) == len(some) > 30
    assert some.geometry.apply(lambda g: g.bounds[0] < 5e5 + 10235 < g.bounds[2]).any()
    assert sorted(some.geometry.to_wkb()) == sorted(wanted.geometry.to_wkb())

def test_blank_parts_take_no_room(tmp_path):
    from rasterio._env import get_gdal_config
    from rio_cogeo.cogeo import cog_validate
    from landslide_nb.mapping.runfolder import bounded, write_cog
    with bounded(): assert 2**25 <= int(get_gdal_config('GDAL_CACHEMAX')) <= 2**27, 'bytes'
    like = bare_pair((2100, 2100)).vv.isel(moment=0, drop=True)
    part = like.where((like.y > like.y[300]) & (like.x > like.x[1500]))
    truth = like.copy(data=np.where(part.notnull(), 1, 255).astype('uint8'))
    for name, layer in (('part', part), ('truth', truth), ('blank', like*np.nan)):
        path = tmp_path/f'{name}.tif'
        write_cog(layer.rio.write_crs('EPSG:32654').rio.write_transform(), path, [name])
        assert cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as f:
            np.testing.assert_array_equal(f.read(1), layer.values)
            assert f.overviews(1)
    assert (tmp_path/'blank.tif').stat().st_size < 4000

def test_areas_on_a_grid_in_degrees(tmp_path):
    pair, (net, meta) = bare_pair((60, 80), crs='EPSG:4326', corner=(10., 60.), pixel=1e-3), toy_model(**SMALL)
    prob = predict_scene(pair, net, meta, progress=False)
    patch = prob.copy(data=np.zeros(prob.shape, 'float32'))
    patch[10:20, 10:30] = .9
    flat = landslide_polygons(patch).to_crs('ESRI:54034').area[0] # equal area, cylindrical
    assert abs(landslide_polygons(patch).area_m2[0]/flat - 1) < .002
    metrics = write_products(tmp_path/'run', pair, prob, meta)
    cells = gpd.read_file(tmp_path/'run'/'landslides.gpkg', layer='cells')
    assert abs(cells.expected_m2.sum()/metrics['expected_area_m2'] - 1) < 1e-6
    side = np.sqrt(cells.to_crs('ESRI:54034').area.max())
    assert .8 < side/1000 < 1.2 # cells are a kilometre on the ground, not in degrees
    zones = gpd.GeoDataFrame(geometry=[box(9, 59, 11, 61)], crs=4326)
    assert abs(ranked_zones(prob, zones).expected_m2[0]/metrics['expected_area_m2'] - 1) < 1e-6

def test_terrain_and_truth_lie_beside_the_map(tmp_path):
    from rio_cogeo.cogeo import cog_validate
    h, w = 700, 600
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 255], 'uint8'), (h//50, w//50)).repeat(50, 0).repeat(50, 1)
    dem = rng.normal(1000, 50, (h, w)).astype('float32')
    dem[:9, :9] = np.nan
    both = np.stack([dem, dem]) # a pair made with dem as a channel carries it for both moments
    pair = bare_pair((h, w)).assign(landslides=(('y', 'x'), truth),
                                    dem=(('moment', 'y', 'x'), both)).chunk(y=256, x=256)
    map_pair(pair, toy_model(**SMALL), tmp_path/'run', progress=False)
    for name, wanted, dtype, nodata in (('truth', truth, 'uint8', 255), ('dem', dem, 'float32', np.nan)):
        path = tmp_path/'run'/f'{name}.tif'
        with rasterio.open(path) as f:
            np.testing.assert_array_equal(f.read(1), wanted)
            assert (f.dtypes, f.crs, f.transform) == ((dtype,), pair.rio.crs, pair.rio.transform())
            assert f.overviews(1)
            np.testing.assert_equal(f.nodata, nodata)
        assert cog_validate(path, strict=True) == (True, [], [])
    assert {'truth', 'dem'} <= set(json.loads((tmp_path/'run'/'item.json').read_text())['assets'])

def test_bad_zones_and_orbits_are_one_sentence(png_run, tmp_path):
    _, _, cube, model = png_run
    run = tmp_path/'run'
    with pytest.raises(CubeError, match='no descending pass'): map_cube(cube, model, run, orbit='descending')
    far = gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=4326)
    nowhere, lines = far.set_crs(None, allow_override=True), far.assign(geometry=far.boundary)
    for zones, said in ((far, 'None of the 1 zones'), (tmp_path/'absent.gpkg', 'Cannot read the zones'),
                        (nowhere, 'no CRS'), (lines, 'zones are polygons')):
        with pytest.raises(OutputError, match=said): map_cube(cube, model, run, zones=zones, progress=False)
        assert names(tmp_path) == ['run'], 'said before any work is done'
        assert not any(run.iterdir())

def test_zones_in_another_crs_rank_alike(png_run, tmp_path):
    run, _, cube, model = png_run
    west, south, east, north = cube.rio.bounds()
    halves = [box(west, south, west+600, north), box(west+600, south, east, north)]
    own = gpd.GeoDataFrame(dict(name=['west', 'east']), geometry=halves, crs=cube.rio.crs)
    own.to_crs(4326).to_file(tmp_path/'zones.geojson')
    metrics = map_cube(cube, model, tmp_path/'run', passes=None, zones=tmp_path/'zones.geojson', progress=False)
    ranked = gpd.read_file(tmp_path/'run'/'landslides.gpkg', layer='zones')
    prob = read_band(run/'probability.tif').astype(float)
    wanted = {'west': prob[:, :20].sum()*900, 'east': prob[:, 20:].sum()*900}
    assert sorted(ranked.name) == ['east', 'west']
    assert ranked.crs == cube.rio.crs
    assert ranked.expected_m2.is_monotonic_decreasing
    for zone in ranked.itertuples(): assert zone.expected_m2 == pytest.approx(wanted[zone.name], rel=.01)
    assert metrics['expected_area_m2'] == pytest.approx(ranked.expected_m2.sum(), rel=.01)
    assert 'The worst-hit' in (tmp_path/'run'/'report.html').read_text()

def rotated(pair): return pair.rio.write_transform(rasterio.Affine(10, 3, 5e5, 3, -10, 4.7e6))
def south_up(pair): return pair.isel(y=slice(None, None, -1))
def without_data(pair): return pair.where(pair.vv > 1e9).assign_attrs(pair.attrs)

BAD = {
    'no CRS': (lambda pair: pair.drop_vars('spatial_ref'), 'has no CRS'),
    'rotated': (rotated, 'rotated grid'),
    'south-up': (south_up, 'south-up'),
    'all no data': (without_data, 'no pixel with data'),
    'a channel missing': (lambda pair: pair[['vv']], 'vh missing'),
}

@pytest.mark.parametrize('case', [*BAD])
def test_bad_scenes_are_one_sentence_and_leave_nothing(case, tmp_path):
    spoil, said = BAD[case]
    pair = spoil(bare_pair((70, 90)))
    with pytest.raises(LandslideError, match=said) as e:
        map_pair(pair, toy_model(**SMALL), tmp_path/'run', progress=False)
    assert str(e.value).count('\n') == 0
    assert names(tmp_path) in ([], ['run'])
    assert not list(tmp_path.glob('run/*'))

def same_rasters(one, other, name, bands):
    "Whether two run folders hold the same first bands of a raster"
    with rasterio.open(one/name) as a, rasterio.open(other/name) as b:
        return np.array_equal(a.read(bands), b.read(bands), equal_nan=True)

def test_what_pixels_did_before_is_a_band_more_and_changes_no_map(tmp_path):
    cube = open_cube(mock_cube((200, 260)))
    pair = scene_pair(cube, ['vv', 'vh'], 'hokkaido')
    found = {}
    for name, given in dict(known=pair, bare=pair.drop_vars('ratio_std')).items():
        found[name] = map_pair(given, toy_model(**SMALL), tmp_path/name, progress=False)
    known, bare = tmp_path/'known', tmp_path/'bare'
    assert same_rasters(known, bare, 'probability.tif', [1]) and same_rasters(known, bare, 'pair.tif', [1, 2, 3, 4])
    with rasterio.open(known/'pair.tif') as f: np.testing.assert_array_equal(f.read(5), pair.ratio_std)
    with rasterio.open(bare/'pair.tif') as f: assert f.count == 4
    assert set(found['known']) - set(found['bare']) == {'auprc_standardized', 'auprc_standardized_smoothed'}
    assert 'standardized' not in (bare/'report.html').read_text()

def test_a_damaged_pass_that_the_map_does_not_need_costs_only_a_baseline(tmp_path):
    store = tmp_path/'cube.zarr'
    mock_cube((200, 260)).chunk(timestep=1, y=100, x=130).to_zarr(store, zarr_format=2)
    cube = open_cube(store)
    pair = scene_pair(cube, ['vv', 'vh'], 'hokkaido', passes=1)
    for chunk in (store/'vh').glob('0.*'): chunk.write_bytes(chunk.read_bytes()[:50]) # the first pass before
    metrics = map_pair(pair, toy_model(**SMALL), tmp_path/'run', progress=False)
    assert 'auprc_log_ratio' in metrics and 'auprc_standardized' not in metrics
    with rasterio.open(tmp_path/'run'/'pair.tif') as f: assert f.count == 4

def test_a_damaged_cube_leaves_nothing(tmp_path):
    store = tmp_path/'cube.zarr'
    mock_cube((400, 500)).chunk(timestep=1, y=100, x=100).to_zarr(store, zarr_format=2)
    pair = make_pair(open_cube(store), 'hokkaido')
    # the last tile's, so that others are done
    for chunk in (store/'vh').glob('*.3.4'): chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(CubeError, match='Cannot read vh in .* damaged or incomplete'):
        map_pair(pair, toy_model(**SMALL), tmp_path/'run', tile=64, progress=False)
    assert names(tmp_path) == ['cube.zarr', 'run']
    assert not any((tmp_path/'run').iterdir())

def test_nothing_found_is_said_with_its_interval(tmp_path):
    net, meta = toy_model(**SMALL)
    record = dict(coverage=.9, chips=40, pixels=16384, low=-3., high=5.)
    meta = dict(meta, calibration=dict(scale=1., bias=-9., threshold=.5, area=record))
    metrics = map_pair(bare_pair((150, 150)), (net, meta), tmp_path/'run', progress=False)
    low, high, expected = (metrics[f'expected_area{key}_m2'] for key in ('_low', '_high', ''))
    assert metrics['polygons'] == 0
    assert high > 0
    nothing = 'No landslide found: no polygon of 500 m2 or more reaches probability 0.50'
    area = f'expected landslide area {area_text(expected)} ({span_text(low, high, expected)})'
    assert f'{nothing}; {area}' in (tmp_path/'run'/'report.html').read_text().replace('\xa0', ' ')
    assert len(gpd.read_file(tmp_path/'run'/'landslides.gpkg', layer='polygons')) == 0

def test_a_scene_unlike_the_models_says_so(png_run, tmp_path):
    _, before, cube, model = png_run
    net, meta = load_model(model)
    assert before['warnings'] == [] # this model knows nothing of its domain
    meta['input']['domain'] = {'pixel size (m)': [10., 10.], 'VV before (dB)': [-30., 0.]}
    metrics = map_pair(make_pair(cube, passes=None), (net, meta), tmp_path/'run', progress=False)
    (warning,) = metrics['warnings']
    assert 'pixel size (m) is 30' in warning
    assert 'VV before' not in warning
    page = (tmp_path/'run'/'report.html').read_text()
    assert 'role="alert"' in page
    assert 'pixel size (m) is 30' in page
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())['warnings'] == metrics['warnings']


# Memory, and the command

PEAK = """
import sys, resource; sys.path.insert(0, {tests!r})
import numpy as np, dask.array as da, torch, xarray as xr; torch.set_num_threads(1)
from test_scene import SMALL, toy_model
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
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', PEAK.format(tests=HERE), tmp_path],
                         capture_output=True, text=True, timeout=600, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    peak = dict(map(int, line.split()) for line in out.stdout.splitlines())
    assert peak.keys() == {768, 1024, 3072}, out.stderr[-2000:]
    assert peak[3072] - peak[1024] < 60, peak # MB; the pair alone takes 151 MB at 3072 px and 17 MB at 1024 px

def test_a_killed_command_continues(tmp_path):
    net, meta = toy_model(**SMALL)
    calibration = dict(scale=1., bias=-9.)
    save_model(net, tmp_path/'m.safetensors', dict(input=meta['input'], calibration=calibration))
    cube = mock_cube((600, 700))
    cube.chunk(y=128, x=128).to_zarr(tmp_path/'cube.zarr', zarr_format=2)
    command = [Path(sys.executable).parent/'landslide-nb', 'map', 'cube.zarr', '--model', 'm.safetensors', '--out', 'run',
               '--tile', '64', '--event', 'hokkaido']
    run, tiles = tmp_path/'run', tmp_path/'.run.tiles'
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    kill_when(process, lambda: len(finished(tiles)) >= 5)
    kept = written(finished(tiles)[:3])
    assert not any(run.iterdir())
    again = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while again.poll() is None and not (tmp_path/'.run.half').exists(): time.sleep(.002)
    seen = written(kept)
    said, error = again.communicate(timeout=300)
    assert again.returncode == 0, error[-2000:]
    assert seen == kept, 'finished tiles were computed again'
    assert 'no landslide found' in said
    assert 'its interval is not known' in said
    assert names(tmp_path) == ['cube.zarr', 'm.safetensors', 'run']
    whole = predict_scene(make_pair(open_cube(cube), 'hokkaido'), net, dict(meta, calibration=calibration),
                          progress=False)
    np.testing.assert_allclose(read_band(run/'probability.tif'), whole.values, atol=1e-5)
    assert {'dem.tif', 'truth.tif'} <= set(names(run))
