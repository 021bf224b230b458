"""Every reader, fed with malformed input: it returns a right object or raises a `LandslideError`, in bounded time and memory.

`fuzzing.py` says how to run more cases. The readers are tried with changes of valid files; bombs have tests of their own.
"""
import importlib
import io
import json
import os
import re
import shutil
import struct
import sys
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from fuzzing import EXTREMES, NUMBERS, WORDS, anything, campaign, in_its_own_process, odd_json, plain, spoiled

from landslide_nb.core import CubeError, FetchError, LandslideError, ModelError
from landslide_nb.data.cube import open_cube, save_cube, validate_cube
from landslide_nb.download import check_zip, unpack_zarr
from landslide_nb.learn.models import MODEL_FORMAT, load_model, read_header, save_model
from landslide_nb.learn.networks import build_model
from landslide_nb.study.analysis import read_results
from landslide_nb.study.intervals import AnalysisError
from landslide_nb.study.protocol import ExperimentError, ExperimentSpec, check_origin, read_spec
from landslide_nb.testing import mock_cube, mock_pair, mock_probability

pytestmark = pytest.mark.timeout(int(os.environ.get('FUZZ_TIMEOUT', 7200 if 'FUZZ_CASES' in os.environ else 300)))

DEEP = 10_000
DEEP_LIST = '['*DEEP + ']'*DEEP
DEEP_DICT = '{"spec":'*DEEP + '1' + '}'*DEEP


def exported(name):
    "A name of the package, from whichever module exports it"
    from landslide_nb._modidx import d
    module = next(m for m, symbols in d['syms'].items() if f'{m}.{name}' in symbols)
    return getattr(importlib.import_module(module), name)


# cubes

def whole_cube(source):
    "Open a cube and read some of it; what opens must have the form of a cube"
    cube = open_cube(source)
    assert {'time', 'y', 'x'} <= set(cube.dims)
    assert cube.time.dtype.kind == 'M'
    validate_cube(cube)

@pytest.fixture(scope='module')
def small_cube(): return mock_cube(size=(12, 14), passes=1)

@pytest.fixture(scope='module')
def zarr2(small_cube, tmp_path_factory):
    folder = tmp_path_factory.mktemp('zarr2')/'cube.zarr'
    small_cube.to_zarr(folder, zarr_format=2, consolidated=True)
    return folder

@pytest.fixture(scope='module')
def zarr3(small_cube, tmp_path_factory):
    folder = tmp_path_factory.mktemp('zarr3')/'cube.zarr'
    small_cube.drop_vars(['timepair', 'topophase.cor_1']).to_zarr(folder, zarr_format=3, consolidated=True)
    return folder

def store_door(folder, name):
    "Open a Zarr after one of its files was written anew"
    good = (folder/name).read_bytes()
    def door(text):
        (folder/name).write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
        try: whole_cube(folder)
        finally: (folder/name).write_bytes(good)
    return door

def test_zarr2_metadata(zarr2):
    valid = json.loads((zarr2/'.zmetadata').read_text())
    campaign('Zarr 2 metadata', odd_json(valid), store_door(zarr2, '.zmetadata'))

def test_zarr3_metadata(zarr3):
    valid = json.loads((zarr3/'zarr.json').read_text())
    campaign('Zarr 3 metadata', odd_json(valid), store_door(zarr3, 'zarr.json'))

def test_zarr_metadata_bytes(zarr2):
    cases = spoiled((zarr2/'.zmetadata').read_bytes())
    campaign('Zarr metadata, bytes', cases, store_door(zarr2, '.zmetadata'))

ATTRIBUTES = ['_FillValue', 'missing_value', 'scale_factor', 'add_offset', 'nodata', 'units', 'calendar', 'dtype', '_Unsigned',
              'valid_range', 'crs_wkt', 'spatial_ref', 'GeoTransform', 'grid_mapping', 'coordinates', 'crs', 'epsg', 'transform',
              'event_date', 'event_start', 'event_end', 'event_name', 'satellite', 'bounds', 'axis', 'standard_name']
netcdf_values = st.one_of(
    st.sampled_from([n for n in NUMBERS if isinstance(n, float) or abs(n) < 2**31]),
    st.sampled_from(['', 'nan', 'days since 1970-01-01', 'days since yesterday', 'EPSG:4326', 'EPSG:999999', '0 1 0 0 0 -1',
                     '0 nan 0 0 0 0', '1', '32654', '2018-09-05', 'vv vh', 'spatial_ref', 'true', 'float32', 'é', 'a'*300]),
    st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=8),
    st.lists(st.integers(-100, 100), min_size=1, max_size=3),
)

@pytest.fixture(scope='module')
def netcdf(small_cube, tmp_path_factory):
    path = tmp_path_factory.mktemp('netcdf')/'cube.nc'
    small_cube.to_netcdf(path, engine='h5netcdf')
    return path

def test_netcdf_attributes(netcdf, small_cube):
    import h5py
    names = st.sampled_from([*map(str, small_cube.variables), '/'])
    cases = st.lists(st.tuples(names, st.sampled_from(ATTRIBUTES), netcdf_values), min_size=1, max_size=3)
    odd = netcdf.with_name('odd.nc')
    def door(changes):
        shutil.copy(netcdf, odd)
        with h5py.File(odd, 'a') as f:
            for name, key, value in changes: f[name].attrs[key] = value
        whole_cube(odd)
    campaign('netCDF attributes', cases, door)

@pytest.fixture(scope='module')
def netcdf3(small_cube, tmp_path_factory):
    path = tmp_path_factory.mktemp('netcdf3')/'cube.nc'
    small_cube[['vv', 'vh']].drop_vars('timepair', errors='ignore').to_netcdf(path, engine='scipy')
    return path

def test_netcdf3_bytes(netcdf3):
    odd = netcdf3.with_name('odd.nc')
    def door(data):
        odd.write_bytes(data)
        whole_cube(odd)
    campaign('netCDF 3, bytes', spoiled(netcdf3.read_bytes(), 1500), door)

OPERA = 'OPERA_L2_RTC-S1_T046-098311-IW2_{}Z_20240101T000000Z_S1A_30_v1.0_{}.tif'

def write_tif(path, values, **more):
    import rasterio
    grid = dict(crs='EPSG:32654', transform=rasterio.Affine(10, 0, 580000, 0, -10, 4730000))
    height, width = values.shape
    with rasterio.open(path, 'w', driver='GTiff', count=1, height=height, width=width, dtype=values.dtype, **{**grid, **more}) as f:
        f.write(values, 1)
        f.update_tags(nodata='-9999', AREA_OR_POINT='Area')
    return path

@pytest.fixture(scope='module')
def opera(tmp_path_factory):
    "A folder of two passes in both polarisations"
    folder = tmp_path_factory.mktemp('opera')
    rng = np.random.default_rng(0)
    for day in ('20180824T084200', '20180905T084200'):
        for pol, mean in (('VV', -.7), ('VH', -1.3)):
            write_tif(folder/OPERA.format(day, pol), (10**rng.normal(mean, .2, (12, 14))).astype('float32'), nodata=np.nan)
    return folder

def test_geotiffs_of_a_cube(opera):
    one = opera/OPERA.format('20180905T084200', 'VH')
    good = one.read_bytes()
    def door(data):
        one.write_bytes(data)
        try: whole_cube(opera)
        finally: one.write_bytes(good)
    campaign('GeoTIFF of a cube', spoiled(good, 700), door)


# models

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A stage-2 model with weights of its own and one with a frozen stage 1"
    stats = dict(mean=[-10., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[1., 1.])
    spec = dict(channels=['vv', 'vh'], change=True, stats=stats, size=128, domain=dict(vv=[-20, 0]))
    path = tmp_path_factory.mktemp('model')/'model.safetensors'
    training = dict(chips='demo_a', epochs=3)
    return save_model(build_model(width=4, levels=1), path, dict(input=spec, training=training, calibration=dict(scale=1., bias=0.)))

def split_model(path):
    "The header of a safetensors file (JSON) and the bytes behind it"
    data = path.read_bytes()
    n, = struct.unpack('<Q', data[:8])
    return json.loads(data[8:8+n]), data[8+n:]

def join_model(path, header, rest):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + rest)
    return path

def whole_model(path):
    "Read what a model says and its weights, and use it as far as a header decides"
    header = read_header(path)
    assert isinstance(header['config'], dict)
    network, header = load_model(path)
    n = len(header['input']['channels'])
    assert network.config['channels'] == n

def test_model_header(model):
    outer, rest = split_model(model)
    valid = json.loads(outer['__metadata__'][MODEL_FORMAT])
    odd = model.with_name('odd.safetensors')
    def door(header):
        outer['__metadata__'][MODEL_FORMAT] = json.dumps(header)
        whole_model(join_model(odd, outer, rest))
    campaign('model header', odd_json(valid), door)

def test_safetensors_header(model):
    valid, rest = split_model(model)
    odd = model.with_name('odd2.safetensors')
    campaign('safetensors header', odd_json(valid), lambda header: whole_model(join_model(odd, header, rest)))

def test_model_bytes(model):
    odd = model.with_name('odd3.safetensors')
    def door(data):
        odd.write_bytes(data)
        whole_model(odd)
    campaign('model, bytes', spoiled(model.read_bytes(), 4000), door)


# studies

SPEC = json.loads(ExperimentSpec(pretrain=('none', 'demo_a', 'base')).to_json())

def whole_spec(spec):
    assert ExperimentSpec.from_json(spec.to_json()) == spec
    assert spec.seeds >= 2 and min(spec.budgets) >= 2

def test_spec_text():
    def door(values): whole_spec(ExperimentSpec.from_json(json.dumps(values)))
    campaign('specification', odd_json(SPEC), door)

def test_spec_file(tmp_path):
    path = tmp_path/'spec.json'
    def door(values):
        path.write_text(json.dumps(values))
        whole_spec(read_spec(path))
    campaign('spec.json', odd_json(dict(format=3, code='x', spec=SPEC)), door)

def test_spec_bytes(tmp_path):
    path = tmp_path/'spec.json'
    def door(data):
        path.write_bytes(data)
        whole_spec(read_spec(path))
    campaign('spec.json, bytes', spoiled(json.dumps(SPEC).encode()), door)

def test_start_weights(model):
    "A specification whose source starts from a model with an odd header"
    outer, rest = split_model(model)
    valid = json.loads(outer['__metadata__'][MODEL_FORMAT])
    odd = model.with_name('start.safetensors')
    class Target:
        name = 'demo_b'
    def door(header):
        outer['__metadata__'][MODEL_FORMAT] = json.dumps(header)
        join_model(odd, outer, rest)
        ExperimentSpec('demo_b', pretrain=('none', str(odd)))
        check_origin(str(odd), Target, 'demo_b')
    campaign('start weights', odd_json(valid), door)

@pytest.fixture(scope='module')
def experiment(tmp_path_factory):
    return exported('mock_experiment')(tmp_path_factory.mktemp('experiment')/'mock', seeds=2)

def whole_results(folder):
    results = read_results(folder)
    assert isinstance(results.spec, dict) and isinstance(results.code, str)
    assert len(results.trials) and results.settings and isinstance(results.event, str)

def test_results_about(experiment):
    valid = json.loads((experiment/'spec.json').read_text())
    good = (experiment/'spec.json').read_bytes()
    def door(about):
        (experiment/'spec.json').write_text(json.dumps(about))
        try: whole_results(experiment)
        finally: (experiment/'spec.json').write_bytes(good)
    campaign('spec.json of results', odd_json(valid), door)

def test_results_tables(experiment):
    path = experiment/'results.parquet'
    good = path.read_bytes()
    def door(data):
        path.write_bytes(data)
        try: whole_results(experiment)
        finally: path.write_bytes(good)
    n = len(good)
    cases = st.one_of(spoiled(good), spoiled(good[-6000:]).map(lambda end: good[:-6000] + end)) # its header is at the end
    campaign('results.parquet', cases, door)


# run folders and the app

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    pair = mock_pair()
    about = dict(arch='unet', calibration=dict(scale=1., bias=0., threshold=.5))
    exported('write_products')(folder/'one', pair, mock_probability(pair), about, cell=500.)
    return folder

def whole_run(folder):
    run = exported('open_run')(folder, 'one')
    assert .01 <= run.threshold <= .99
    assert isinstance(run.title, str) and all(isinstance(w, str) for w in run.warnings)
    [str(sentence).encode() for sentence in run.missing]

def file_door(runs, name):
    path = runs/'one'/name
    good = path.read_bytes()
    def door(data):
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        try: whole_run(runs)
        finally: path.write_bytes(good)
    return door

def test_run_metrics(runs):
    valid = json.loads((runs/'one'/'metrics.json').read_text())
    campaign('metrics.json', odd_json(valid), file_door(runs, 'metrics.json'))

def test_run_metrics_bytes(runs):
    campaign('metrics.json, bytes', spoiled((runs/'one'/'metrics.json').read_bytes()), file_door(runs, 'metrics.json'))

def test_run_geopackage(runs):
    campaign('GeoPackage of a run', spoiled((runs/'one'/'landslides.gpkg').read_bytes(), 4000), file_door(runs, 'landslides.gpkg'))

def test_geopackage_layer(runs):
    path = runs/'one'/'odd.gpkg'
    read_layer = exported('read_layer')
    def door(data):
        path.write_bytes(data)
        for layer in ('cells', 'mapped'): read_layer(path, layer)
    campaign('GeoPackage layer', spoiled((runs/'one'/'landslides.gpkg').read_bytes()), door)

def test_run_raster(runs):
    path = runs/'one'/'odd.tif'
    read_view, open_raster = exported('read_view'), exported('open_raster')
    def door(data):
        path.write_bytes(data)
        with open_raster(path) as f: bounds = tuple(f.bounds)
        read_view(path, bounds)
    campaign('GeoTIFF of a run', spoiled((runs/'one'/'probability.tif').read_bytes(), 1500), door)

state_words = st.one_of(st.sampled_from([*WORDS, *map(str, NUMBERS), '0.5', '1,2,3,4', '4,3,2,1', 'nan,0,1,1', '1,2,3', ',,,',
                                         '1e400,0,1,1', 'inf', '1_0', '٣', 'map', 'chips']), st.text(max_size=20))
queries = st.dictionaries(st.one_of(st.sampled_from(['run', 'other', 't', 'at', 'tab', 'theme', 'layer', 'x']), st.text(max_size=5)), state_words, max_size=6)

def test_url_state():
    read_state, write_state = exported('read_state'), exported('write_state')
    def door(query):
        state, notes = read_state(query, ['one'])
        assert state.get('run', 'one') == 'one' and .01 <= state.get('t', .5) <= .99
        assert all(isinstance(n, str) for n in notes)
        write_state(**state)
    campaign('URL state', queries, door)


# zips

def zip_of(names, **kwargs):
    "A zip of small files, as bytes"
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, 'w', zipfile.ZIP_DEFLATED, **kwargs) as z:
        for name, content in names.items(): z.writestr(name, content)
    return memory.getvalue()

CUBE_FILES = {'read.me': 'x', 'quake.zarr/.zgroup': '{"zarr_format": 2}', 'quake.zarr/vv/.zarray': '{}', 'quake.zarr/vv/0.0': b'\0'*200}

def unpacking_door(folder):
    "Unpack a zip; nothing may lie outside of the target, and nothing at all where it was refused"
    def door(data):
        (folder/'in.zip').write_bytes(data)
        inner = folder/'to'
        shutil.rmtree(inner, ignore_errors=True)
        inner.mkdir()
        try: unpack_zarr(folder/'in.zip', inner/'quake.zarr')
        except LandslideError:
            assert list(inner.iterdir()) == []
            raise
        finally: assert sorted(p.name for p in folder.iterdir()) == ['in.zip', 'to']
        assert [p.name for p in inner.iterdir()] == ['quake.zarr']
    return door

def test_zip_bytes(tmp_path):
    campaign('zip, bytes', spoiled(zip_of(CUBE_FILES)), unpacking_door(tmp_path))

pieces = st.one_of(st.sampled_from(['..', '.', '', 'C:', 'a', 'quake.zarr', '.zgroup', 'CON', 'é', 'a'*300, '\\', '~', 'x\0y', '\ud800']), st.text(max_size=4))
member_names = st.lists(pieces, min_size=1, max_size=4).map('/'.join)

def test_zip_names(tmp_path):
    unpack = unpacking_door(tmp_path)
    def door(names):
        data = zip_of({'quake.zarr/.zgroup': '{}', **{name: 'x' for name in names}})
        unpack(data)
    campaign('zip, names', st.lists(member_names.filter(encodable), min_size=1, max_size=4), door)

def encodable(text):
    try: return bool(text.encode())
    except UnicodeEncodeError: return False

def test_zip_entries():
    "The table of a zip as `check_zip` sees it, with any size and any kind of file"
    def info(name, size, mode):
        entry = zipfile.ZipInfo(name or 'x')
        entry.file_size = size
        entry.external_attr = mode << 16
        return entry
    entries = st.builds(info, member_names, st.sampled_from([0, 1, 2**32, 2**40, 2**63]), st.integers(0, 2**16-1))
    campaign('zip, entries', st.lists(entries, max_size=6), lambda infos: check_zip(infos, Path('in.zip')))
