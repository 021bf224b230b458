"""Every reader, fed with malformed input: it returns a right object or raises a `LandslideError`, in bounded time and memory.

`fuzzing.py` says how to run more cases. The readers are tried with changes of valid files; bombs have tests of their own.
"""
import functools
import importlib
import io
import itertools
import json
import os
import shutil
import struct
import sys
import zipfile
import zlib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from fuzzing import NUMBERS, WORDS, at_most, campaign, in_its_own_process, no_more_than, odd_json, spoiled

from landslide_nb.core import CubeError, FetchError, LandslideError, ModelError
from landslide_nb.data.cube import open_cube, validate_cube
from landslide_nb.download import MAX_BYTES, check_zip, unpack_zarr, zenodo_file
from landslide_nb.learn.calibration import calibrate
from landslide_nb.learn.models import MODEL_FORMAT, domain_shift, load_model, normalize_pair, read_header, save_model
from landslide_nb.learn.networks import build_model
from landslide_nb.study.analysis import read_results
from landslide_nb.study.intervals import AnalysisError
from landslide_nb.study.protocol import ExperimentError, ExperimentSpec, check_origin, read_spec
from landslide_nb.testing import mock_cube, mock_pair, mock_probability


DEEP = 10_000
DEEP_LIST = '['*DEEP + ']'*DEEP
DEEP_DICT = '{"spec":'*DEEP + '1' + '}'*DEEP


NIGHTLY = 'FUZZ_CASES' in os.environ
pytestmark = pytest.mark.timeout(int(os.environ.get('FUZZ_TIMEOUT', 7200 if NIGHTLY else 300)))

def exported(name):
    "A name of the package, from whichever module exports it"
    from landslide_nb._modidx import d
    module = next(m for m, symbols in d['syms'].items() if f'{m}.{name}' in symbols)
    return getattr(importlib.import_module(module), name)


def once(monkeypatch, module, *names):
    "Let functions read a file that no case changes only once"
    for name in names:
        monkeypatch.setattr(f'{module}.{name}', functools.cache(getattr(importlib.import_module(module), name)))


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
    small_cube.to_netcdf(path, engine='netcdf4')
    return path

def write_attribute(where, key, value):
    "Write an attribute, also one that netCDF4 writes only into new files"
    try: where.setncattr(key, value)
    except (AttributeError, RuntimeError, TypeError): where.setncattr('missing_value', value) # _FillValue cannot change

def test_netcdf_attributes(netcdf, small_cube):
    import netCDF4
    names = st.sampled_from([*map(str, small_cube.variables), '/'])
    cases = st.lists(st.tuples(names, st.sampled_from(ATTRIBUTES), netcdf_values), min_size=1, max_size=3)
    names_of_files = (netcdf.with_name(f'odd{k}.nc') for k in itertools.count()) # HDF5 holds an open file for a while
    def door(changes):
        odd = shutil.copy(netcdf, next(names_of_files))
        with netCDF4.Dataset(odd, 'a') as f:
            for name, key, value in changes: write_attribute(f if name == '/' else f[name], key, value)
        try: whole_cube(odd)
        finally: odd.unlink()
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
    with rasterio.open(path, 'w', driver='GTiff', count=1, height=height, width=width, dtype=values.dtype,
                       **{**grid, **more}) as f:
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
            write_tif(folder/OPERA.format(day, pol), (10**rng.normal(mean, .2, (12, 14))).astype('float32'),
                      nodata=np.nan)
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
    return save_model(build_model(width=4, levels=1), path,
                      dict(input=spec, training=training, calibration=dict(scale=1., bias=0.)))

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
    spec = header['input']
    pair = torch.full((1, 2, len(spec['channels']), 8, 8), -12.)
    x = normalize_pair(pair, spec['stats'], spec.get('change', True))
    assert torch.isfinite(x).all()
    shape = (1,) if header['stage'] == 1 else (1, 8, 8)
    with torch.no_grad(): assert network(x).shape == shape
    assert np.isfinite(calibrate(np.zeros((2, 2), 'float32'), header['calibration'])).all()
    assert isinstance(domain_shift(header, dict(vv=1.)), list)

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

def test_results_about(experiment, monkeypatch):
    once(monkeypatch, 'landslide_nb.study.analysis', '_read_tables')
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
    # its header is at the end
    cases = st.one_of(spoiled(good), spoiled(good[-6000:]).map(lambda end: good[:-6000] + end))
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
    assert 1e-4 <= run.threshold <= 1
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

UNTOUCHED = ('read_layer', 'read_raster_header') # what reads the other files of a run folder

def test_run_metrics(runs, monkeypatch):
    once(monkeypatch, 'landslide_nb.browser.runs', *UNTOUCHED)
    valid = json.loads((runs/'one'/'metrics.json').read_text())
    campaign('metrics.json', odd_json(valid), file_door(runs, 'metrics.json'))

def test_run_metrics_bytes(runs, monkeypatch):
    once(monkeypatch, 'landslide_nb.browser.runs', *UNTOUCHED)
    campaign('metrics.json, bytes', spoiled((runs/'one'/'metrics.json').read_bytes()), file_door(runs, 'metrics.json'))

def test_run_card(runs, monkeypatch):
    "What a notebook shows of a run, but for its picture, which takes long"
    import landslide_nb.browser.card as card
    monkeypatch.setattr(card, 'run_picture', lambda run: b'')
    run = exported('open_run')(runs, 'one')
    valid = {**json.loads((runs/'one'/'metrics.json').read_text()),
             'update': dict(previous='x', added_passes=['2018-09-19'], new_ha=1., gone_ha=0.)}
    def door(data):
        shown = card.card_html(replace(run, metrics=data if isinstance(data, dict) else {}))
        assert '<script' not in shown.lower()
    campaign('card of a run', odd_json(valid), door)

def test_words_of_a_map(runs):
    "A run folder that is to be updated says by which words it was made"
    from landslide_nb.cli import as_last
    from landslide_nb.commands.archive import more_passes
    from landslide_nb.mapping.update import added_passes
    path = runs/'one'/'metrics.json'
    good = path.read_bytes()
    words = ['map', 'demo_a', '--min-area=500', '--passes=3']
    valid = {**json.loads(good), 'command': words, 'known_passes': ['2018-09-05'], 'orbit': 'descending',
             'fusion': dict(tracks=[dict(track='9')])}
    def door(data):
        path.write_text(json.dumps(data))
        try:
            again = as_last(Namespace(update=str(path.parent)))
            assert added_passes(again.last, ['2018-09-19']) is not None and more_passes(again, again.last, 1) != 0
        finally: path.write_bytes(good)
    campaign('words of a map', odd_json(valid), door)

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
queries = st.dictionaries(st.one_of(st.sampled_from(['run', 'other', 't', 'at', 'tab', 'theme', 'layer', 'x']),
                                    st.text(max_size=5)), state_words, max_size=6)

def test_url_state():
    read_state, write_state = exported('read_state'), exported('write_state')
    def door(query):
        state, notes = read_state(query, ['one'])
        assert state.get('run', 'one') == 'one' and .01 <= state.get('t', .5) <= .99
        assert all(isinstance(n, str) for n in notes)
        write_state(**state)
    campaign('URL state', queries, door)


# zips

def zip_of(names, method=zipfile.ZIP_DEFLATED):
    "A zip of small files, as bytes"
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, 'w', method) as z:
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
    stored, deflated = (zip_of(CUBE_FILES, method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    campaign('zip, bytes', st.one_of(spoiled(stored), spoiled(deflated)), unpacking_door(tmp_path))

pieces = st.one_of(st.sampled_from(['..', '.', '', 'C:', 'a', 'quake.zarr', '.zgroup', 'CON', 'é', 'a'*300, '\\', '~',
                                    'x\0y', '\ud800']), st.text(max_size=4))
member_names = st.lists(pieces, min_size=1, max_size=4).map('/'.join)

def can_be_written(name):
    "Does zipfile write this name at all?"
    try: return bool(name.split('\0')[0].encode())
    except UnicodeEncodeError: return False

def test_zip_names(tmp_path):
    unpack = unpacking_door(tmp_path)
    def door(names):
        data = zip_of({'quake.zarr/.zgroup': '{}', **{name: 'x' for name in names}})
        unpack(data)
    campaign('zip, names', st.lists(member_names.filter(can_be_written), min_size=1, max_size=4), door)

def test_zip_entries():
    "The table of a zip as `check_zip` sees it, with any size and any kind of file"
    def info(name, size, mode):
        entry = zipfile.ZipInfo(name or 'x')
        entry.file_size = size
        entry.external_attr = mode << 16
        return entry
    entries = st.builds(info, member_names, st.sampled_from([0, 1, 2**32, 2**40, 2**63]), st.integers(0, 2**16-1))
    campaign('zip, entries', st.lists(entries, max_size=6), lambda infos: check_zip(infos, Path('in.zip')))

# what a server says

RECORD_JSON = dict(id=7248056, files=[dict(key='hokkaido_japan.zip', size=2**30, checksum='md5:0cc175b9c0f1b6a831c399e269772661'),
                                      dict(filename='puerto_rico.zip', filesize=2**20, checksum='')])

def test_zenodo_record(monkeypatch):
    class Answer:
        def json(self): return json.loads(self.text)
    answer = Answer()
    monkeypatch.setattr('landslide_nb.download.http_get', lambda *_, **__: answer)
    def door(record):
        answer.text = record if isinstance(record, str) else json.dumps(record)
        found = zenodo_file('hokkaido_japan.zip', 'https://example.org')
        assert found['size'] is None or 0 <= found['size'] <= MAX_BYTES
        found['checksum'].rpartition(':')
    campaign('Zenodo record', odd_json(RECORD_JSON), door)
    for text in (DEEP_LIST, DEEP_DICT, '', '\ud800'):
        with pytest.raises(FetchError, match='does not describe a record'): door(text)

# chips

@pytest.fixture(scope='module')
def chips(tmp_path_factory):
    folder = tmp_path_factory.mktemp('chips')/'chips'
    exported('make_chips')(mock_pair(size=(128, 128)), folder, size=32, step=32)
    return folder

def test_chips_about(chips):
    ChipSet = exported('ChipSet')
    path = chips/'meta.json'
    good = path.read_bytes()
    def door(meta):
        path.write_text(json.dumps(meta))
        try: assert len(ChipSet(chips)) >= 0
        finally: path.write_bytes(good)
    campaign('meta.json of chips', odd_json(json.loads(good)), door)

# bombs: small files that claim, or become, something huge

@pytest.fixture
def bounded():
    "A gigabyte and twenty seconds for what this test does"
    with no_more_than(2**30), at_most(20): yield

deep = pytest.mark.parametrize('text', [DEEP_LIST, DEEP_DICT], ids=['list', 'dict'])

@deep
def test_deep_json_is_no_specification(bounded, tmp_path, text):
    (tmp_path/'spec.json').write_text(text)
    with pytest.raises(ExperimentError, match='not JSON'): ExperimentSpec.from_json(text)
    with pytest.raises(ExperimentError, match='not JSON'): read_spec(tmp_path/'spec.json')

def test_a_list_that_is_just_not_too_deep(bounded):
    "Near the limit of the parser, a message that showed the value would fail"
    for depth in range(100, 1100, 20):
        nested = '['*depth + ']'*depth
        for text in (nested, '{"seeds": ' + nested + '}', '{"pretrain": ' + nested + '}', '{"event": ' + nested + '}',
                     '{"budgets": [2, ' + nested + ']}'):
            with pytest.raises(ExperimentError): ExperimentSpec.from_json(text)

@deep
def test_deep_json_is_no_experiment(bounded, experiment, text):
    path = experiment/'spec.json'
    good = path.read_bytes()
    path.write_text(text)
    try:
        with pytest.raises(AnalysisError, match='damaged'): read_results(experiment)
    finally: path.write_bytes(good)

@deep
def test_deep_json_is_no_model(bounded, model, text):
    outer, rest = split_model(model)
    odd = model.with_name('deep.safetensors')
    with pytest.raises(ModelError, match='not JSON'):
        read_header(join_model(odd, {**outer, '__metadata__': {MODEL_FORMAT: text}}, rest))
    odd.write_bytes(struct.pack('<Q', len(text)) + text.encode())
    with pytest.raises(ModelError, match='not a safetensors file'): read_header(odd)

@deep
def test_deep_json_is_no_metrics(bounded, runs, text): file_door(runs, 'metrics.json')(text.encode())

@deep
def test_deep_json_describes_no_chips(bounded, chips, text):
    path = chips/'meta.json'
    good = path.read_bytes()
    path.write_text(text)
    try:
        with pytest.raises(LandslideError): exported('ChipSet')(chips)
    finally: path.write_bytes(good)

@deep
def test_deep_json_is_no_zarr(bounded, zarr2, zarr3, text):
    for folder, name in ((zarr2, '.zmetadata'), (zarr3, 'zarr.json')):
        with pytest.raises(CubeError): store_door(folder, name)(text.encode())

def test_model_headers_that_claim_terabytes(bounded, model):
    outer, rest = split_model(model)
    odd = model.with_name('huge.safetensors')
    for length in (2**20, 2**40, 2**63, 2**64-1):
        odd.write_bytes(struct.pack('<Q', length) + b'{}')
        with pytest.raises(ModelError, match='cut short'): read_header(odd)
    name = next(k for k in outer if k != '__metadata__')
    for shape, end in (([2**40], 2**42), ([2**62, 4], 2**66), ([2**20]*4, 2**62)):
        tensor = dict(dtype='F32', shape=shape, data_offsets=[0, end])
        with pytest.raises(ModelError): load_model(join_model(odd, {**outer, name: tensor}, rest))

def test_a_model_file_of_a_terabyte_with_holes(bounded, model):
    outer, rest = split_model(model)
    odd = model.with_name('holes.safetensors')
    tensor = dict(dtype='F16', shape=[2**39], data_offsets=[0, 2**40])
    join_model(odd, {'__metadata__': outer['__metadata__'], 'head.weight': tensor}, b'')
    os.truncate(odd, odd.stat().st_size + 2**40)
    with pytest.raises(ModelError, match='do not fit|larger than the memory'): load_model(odd)
    odd.unlink()

@pytest.mark.parametrize('config', [dict(width=10**6), dict(width=10**6, levels=10),
                                    dict(channels=10**6, width=10**6), dict(levels=10**9)], ids=str)
def test_a_network_that_no_machine_holds(bounded, model, config):
    outer, rest = split_model(model)
    header = json.loads(outer['__metadata__'][MODEL_FORMAT])
    header['config'].update(config)
    outer['__metadata__'][MODEL_FORMAT] = json.dumps(header)
    with pytest.raises(ModelError): load_model(join_model(model.with_name('wide.safetensors'), outer, rest))

@pytest.mark.parametrize('counts', [dict(seeds=10**30), dict(budgets=[2, 10**12]),
                                    dict(scene=10**9), dict(epochs=10**7)], ids=str)
def test_a_study_that_never_ends(bounded, counts):
    with pytest.raises(ExperimentError, match='at most 1,000,000'): ExperimentSpec.from_json(json.dumps(counts))

def zip_claiming(path, sizes, content=b'\0'*1000):
    "A zip whose table names files of any size; all of them share the bytes of the first"
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('quake.zarr/.zgroup', content)
        first, = z.filelist
        for k, size in enumerate(sizes):
            info = zipfile.ZipInfo(f'quake.zarr/{k}')
            for key in ('CRC', 'compress_size', 'compress_type', 'header_offset', 'flag_bits'): setattr(info, key, getattr(first, key))
            info.file_size = size
            z.filelist.append(info)
    path.write_bytes(memory.getvalue())
    return path

@pytest.mark.parametrize('sizes', [[50*2**30], [2**62], [2**30]*5000, [20*2**20]*60_000],
                         ids=['50 GB', '4 EB', '5000 x 1 GB', '60,000 x 20 MB'])
def test_zip_bombs(bounded, tmp_path, sizes):
    path = zip_claiming(tmp_path/'bomb.zip', sizes)
    assert path.stat().st_size < 10_000_000
    with pytest.raises(FetchError, match='is unsafe'): unpack_zarr(path, tmp_path/'to.zarr')
    assert [p.name for p in tmp_path.iterdir()] == ['bomb.zip']

def test_a_zip_that_holds_more_than_it_declares(bounded, tmp_path):
    "Half a gigabyte of zeros declared as ten bytes: no more than ten are unpacked, and then it is refused"
    path = tmp_path/'bomb.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('quake.zarr/.zgroup', b'\0'*2**25)
    data = path.read_bytes().replace(struct.pack('<L', 2**25), struct.pack('<L', 10))
    path.write_bytes(data)
    with pytest.raises(FetchError, match='not a whole zip'): unpack_zarr(path, tmp_path/'to.zarr')
    assert [p.name for p in tmp_path.iterdir()] == ['bomb.zip']

def test_a_long_address(bounded):
    read_state = exported('read_state')
    for word in ('1,'*10**6, '9'*10**6, '['*10**6): read_state(dict(run=word, t=word, at=word, tab=word), ['one'])

def zlib_zeros(blocks):
    "`blocks` times 16 MB of zeros as zlib packs them, 16 kB each"
    n = 2**24
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(b'\0'*n) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = ((n*blocks % 65521) << 16) | 1
    return b'\x78\xda' + block*blocks + b'\x03\x00' + struct.pack('>L', checksum)

def test_the_zeros_are_zlib(): assert zlib.decompress(zlib_zeros(2)) == b'\0'*2**25

OPEN_CUBE = 'from landslide_nb.data.cube import open_cube, validate_cube; validate_cube(open_cube({path!r}))'

def opens_within_bounds(path):
    "Open a cube in a process with 4 GB of address space and 60 s"
    return in_its_own_process(OPEN_CUBE.format(path=str(path)), seconds=60, memory=4*2**30)

def change_zarr(folder, name, **changes):
    "A copy of a Zarr 2 in which an array is described in another way"
    copy = folder.with_name(f'{name.replace("/", "-")}-{len(changes)}.zarr')
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    about = json.loads((copy/'.zmetadata').read_text())
    about['metadata'][f'{name}/.zarray'].update(changes)
    (copy/'.zmetadata').write_text(json.dumps(about))
    return copy

def test_zarr_that_claims_terabytes(zarr2):
    said = opens_within_bounds(change_zarr(zarr2, 'vv', shape=[4, 10**6, 10**6]))
    assert 'Cannot open' in said and 'conflicting sizes' in said

def test_zarr_with_a_chunk_of_a_terabyte(zarr2):
    assert opens_within_bounds(change_zarr(zarr2, 'vv', chunks=[1, 10**6, 10**6])) != 'opened'

def test_zarr_with_a_chunk_that_is_a_bomb(zarr2):
    folder = change_zarr(zarr2, 'vv', compressor=dict(id='zlib', level=1))
    for chunk in (folder/'vv').glob('[0-9]*'): chunk.write_bytes(zlib_zeros(400))
    assert opens_within_bounds(folder) != 'opened'

def test_netcdf_of_terabytes_with_holes(tmp_path):
    import netCDF4
    path = tmp_path/'huge.nc'
    with netCDF4.Dataset(path, 'w') as f:
        for name, n in dict(time=4, y=10**6, x=10**6).items():
            f.createDimension(name, n)
            f.createVariable(name, 'f8', (name,))
        f['time'].units = 'days since 2018-09-01'
        f['time'][:] = np.arange(4)
        f['y'][:], f['x'][:] = 4.7e6 - 10*np.arange(10**6), 5e5 + 10*np.arange(10**6)
        f.crs = 'EPSG:32654'
        for name in ('vv', 'vh'):
            f.createVariable(name, 'f4', ('time', 'y', 'x'), chunksizes=(1, 256, 256), fill_value=np.nan)
    assert path.stat().st_size < 2**25
    assert 'more than any scene has' in opens_within_bounds(path)

def huge_tif(path, side=60_000):
    "A raster of 60,000 x 60,000 pixels without any data in it"
    import rasterio
    grid = dict(crs='EPSG:32654', transform=rasterio.Affine(10, 0, 580000, 0, -10, 4730000))
    with rasterio.open(path, 'w', driver='GTiff', count=1, height=side, width=side, dtype='float32', nodata=np.nan,
                       tiled=True, blockxsize=512, blockysize=512, sparse_ok=True, **grid): pass
    assert path.stat().st_size < 2**20
    return path

def huge_png(path, side=60_000):
    "The header of a picture of 60,000 x 60,000 pixels and a few of its bytes"
    def part(kind, data): return struct.pack('>L', len(data)) + kind + data + struct.pack('>L', zlib.crc32(kind + data))
    header = struct.pack('>LLBBBBB', side, side, 16, 0, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + part(b'IHDR', header) +
                     part(b'IDAT', zlib.compress(b'\0'*10**6)) + part(b'IEND', b''))
    return path

@pytest.mark.parametrize('write', [huge_tif, huge_png])
def test_cube_of_huge_rasters(tmp_path, write):
    for day in ('20180824T084200', '20180905T084200'):
        for pol in ('VV', 'VH'): write(tmp_path/OPERA.format(day, pol))
    assert opens_within_bounds(tmp_path) != 'opened'

SHOW = '''
from pathlib import Path
from landslide_nb.browser.views import open_raster, read_view
with open_raster(Path({path!r})) as f: bounds = tuple(f.bounds)
read_view(Path({path!r}), bounds)
'''

@pytest.mark.parametrize('write', [huge_tif, huge_png])
def test_run_folder_with_a_huge_raster(tmp_path, write):
    path = write(tmp_path/'probability.tif')
    in_its_own_process(SHOW.format(path=str(path)), seconds=60, memory=4*2**30)


# cases that a campaign found, and that have been mended since

def zarr_with(folder, change):
    "Open a Zarr 2 after a change of its consolidated metadata"
    about = json.loads((folder/'.zmetadata').read_text())
    change(about['metadata'])
    store_door(folder, '.zmetadata')(about)

ZARR_CASES = {
    'group is a list': lambda m: m.update({'.zgroup': []}),
    'shape is null': lambda m: m['vv/.zarray'].update(shape=None),
    'chunks are null': lambda m: m['vv/.zarray'].update(chunks=None),
    'an array is null': lambda m: m.update({'vv/.zarray': None}),
    'attributes are null': lambda m: m.update({'vv/.zattrs': None}),
    'an option of the compressor is a list': lambda m: m['vv/.zarray']['compressor'].update(clevel=[]),
    'an unknown option of the compressor': lambda m: m['vv/.zarray']['compressor'].update(x=1),
    'shape beyond any integer': lambda m: m['vv/.zarray'].update(shape=[4, 10**30, 14]),
    'grid_mapping is a list': lambda m: m['vv/.zattrs'].update(grid_mapping=['spatial_ref']),
}

READ_ANYWAY = ('group is a list', 'an option of the compressor is a list') # zarr does not look at them

@pytest.mark.parametrize('case', ZARR_CASES)
def test_odd_zarr(zarr2, case):
    if case in READ_ANYWAY: zarr_with(zarr2, ZARR_CASES[case])
    else:
        with pytest.raises(LandslideError): zarr_with(zarr2, ZARR_CASES[case])

def test_a_fill_value_of_zarr3_that_is_too_short(zarr3):
    "Its bytes are written as text; what they lack is found by `struct`, whose error is of no common kind"
    about = json.loads((zarr3/'zarr.json').read_text())
    about['consolidated_metadata']['metadata']['dem']['attributes']['_FillValue'] = '2018-09-05'
    with pytest.raises(LandslideError, match='as a cube'): store_door(zarr3, 'zarr.json')(about)

NETCDF_CASES = [('spatial_ref', 'coordinates', -1), ('x', 'scale_factor', 'true'), ('vh', 'grid_mapping', [46, -64])]

@pytest.mark.parametrize('case', NETCDF_CASES, ids=str)
def test_odd_netcdf(netcdf, case):
    import netCDF4
    name, key, value = case
    odd = shutil.copy(netcdf, netcdf.with_name(f'{name}-{key}.nc'))
    with netCDF4.Dataset(odd, 'a') as f: write_attribute(f[name], key, value)
    with pytest.raises(LandslideError): whole_cube(odd)

@pytest.mark.parametrize('threshold', ['nan', 'high', [[False], [False]], {}, [.5], 1e400], ids=str)
def test_odd_threshold(runs, threshold):
    metrics = json.loads((runs/'one'/'metrics.json').read_text())
    file_door(runs, 'metrics.json')(dict(metrics, threshold=threshold))

@pytest.mark.parametrize('pixel', [0., float('nan'), float('inf')], ids=str)
def test_raster_with_an_odd_transform(tmp_path, pixel):
    import rasterio
    read_view = exported('read_view')
    path = write_tif(tmp_path/'odd.tif', np.ones((8, 8), 'float32'),
                     transform=rasterio.Affine(pixel, 0, 5e5, 0, pixel, 4e6))
    try: read_view(path, (5e5, 4e6 - 80, 5e5 + 80, 4e6))
    except LandslideError: pass

def test_geopackage_with_an_open_ring(tmp_path):
    import sqlite3
    import geopandas as gpd
    from shapely import box
    path = tmp_path/'odd.gpkg'
    gpd.GeoDataFrame(dict(a=[1]), geometry=[box(0, 0, 1, 1)], crs=32654).to_file(path, layer='cells')
    with sqlite3.connect(path) as db:
        for trigger, in db.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            db.execute(f'drop trigger "{trigger}"')
        shape, = db.execute('select geom from cells').fetchone()
        db.execute('update cells set geom = ?', (shape[:-16] + struct.pack('<dd', 7, 7),))
    db.close()
    with pytest.raises(LandslideError): exported('read_layer')(path, 'cells')

@pytest.mark.parametrize('meta', [1, [], {'': None}, dict(n=-34), dict(n={}), dict(n=10**30)], ids=str)
def test_odd_meta_of_chips(chips, meta):
    path = chips/'meta.json'
    good = path.read_bytes()
    about = {**json.loads(good), **meta} if isinstance(meta, dict) and 'n' in meta else meta
    path.write_text(json.dumps(about))
    try:
        with pytest.raises(LandslideError): len(exported('ChipSet')(chips))
    finally: path.write_bytes(good)
