"Every mistake a person can make with a cube, a label, a model or a folder: one clear sentence, exit code 1, and nothing half-written."
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landslide_nb.core import CubeError
from landslide_nb.data.cube import open_cube, save_cube, validate_cube
from landslide_nb.data.pair import log_ratio, make_pair
from landslide_nb.testing import mock_cube, mock_pair


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "Stage-2 models that were never trained, which is enough to be refused"
    from landslide_nb.learn.networks import build_model
    from landslide_nb.learn.models import save_model
    folder = tmp_path_factory.mktemp('models')

    def save(name, stage, channels):
        n = len(channels)
        stats = dict(mean=[-10.]*n, std=[3.]*n, change_mean=[0.]*n, change_std=[1.]*n)
        spec = dict(channels=channels, change=True, stats=stats, size=128)
        network = build_model(stage=stage, channels=n, width=4)
        return save_model(network, folder/f'{name}.safetensors', dict(input=spec))

    evil = folder/'evil.safetensors'
    evil.write_bytes(pickle.dumps(Path('x')))
    return dict(
        good=save('good', 2, ['vv', 'vh']),
        slope=save('slope', 2, ['vv', 'vh', 'slope']),
        stage1=save('stage1', 1, ['vv', 'vh']),
        pickle=evil,
    )


def files_below(folder):
    "Every file and what it holds, but for the tiles from which an interrupted map goes on"
    files = [o for o in folder.rglob('*') if o.is_file() and o.parent.name != '.run.tiles']
    return {o: o.read_bytes() for o in files}

@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    "Run a command that must fail with one sentence and leave its folder as it was"
    from landslide_nb.cli import main
    scratch = tmp_path/'scratch'
    scratch.mkdir()
    monkeypatch.setenv('TMPDIR', str(scratch))
    monkeypatch.setattr('tempfile.tempdir', None)
    monkeypatch.chdir(tmp_path)

    def run(*words, says):
        before = files_below(tmp_path)
        assert main([str(w) for w in words]) == 1
        lines = re.split(r'[\r\n]+', capsys.readouterr().err)
        said = [o for o in lines if 'landslide-nb: ' in o]
        assert len(said) == 1, said
        sentence = said[0].partition('landslide-nb: ')[2]
        assert re.search(says, sentence), sentence
        assert sentence.endswith('.'), sentence
        assert len(sentence) < 500, sentence
        assert files_below(tmp_path) == before
        assert not list(scratch.iterdir())
    return run


# Cubes

def raw(size=(96, 128)): return mock_cube(size)

def keep(ds, which): return ds.isel(timestep=np.flatnonzero(which))

def in_db(ds): return ds.assign({o: 10*np.log10(ds[o]) for o in ('vv', 'vh')})

def amplitude(ds): return ds.assign(vv=ds.vv**.5, vh=ds.vh**.5)

def blank(ds, where): return ds.assign({o: ds[o].where(~where) for o in ('vv', 'vh')})

def after(ds): return xr.DataArray(ds.timestep.values.astype(str) > '20180906', {'timestep': ds.timestep}, 'timestep')

def other_grid(ds): return ds.assign(landslides=(('row', 'col'), np.ones((40, 40))))

def orbit(ds, o): return keep(ds, ds['sat:orbit_state'].values == o)

def no_dates(ds): return ds.assign_coords(timestep=[f'pass {i}' for i in range(ds.sizes['timestep'])])

def unchanged(ds): return ds

FIRST_MISSING = r'no usable \w+ pass before the event \(2018-09-05 to 2018-09-07\); its usable passes run from'
HOKKAIDO = ('--event', 'hokkaido')
CUBES = { # what is wrong: how to make it so, what the sentence says, further words of the command
    'no vv': (lambda d: d.drop_vars('vv'), r'has no vv \(found .*both vv and vh are needed'),
    'no vh': (lambda d: d.drop_vars('vh'), r'has no vh \(found'),
    'dB': (in_db, 'vv looks like dB'),
    'amplitude': (amplitude, 'look like amplitude .* square them'),
    'no CRS': (lambda d: d.drop_vars('spatial_ref'), 'has no CRS; say which one its coordinates are in, for example --crs'),
    'label on another grid': (other_grid, r'landslides has dims .* instead of \(y, x\); use rasterize_label'),
    'label without a value here': (
        lambda d: d.assign(landslides=d.landslides*np.nan),
        'no value on the cube.s grid; was it drawn on another grid',
    ),
    'no pass before': (lambda d: keep(d, after(d)), FIRST_MISSING, *HOKKAIDO),
    'no pass after': (lambda d: keep(d, ~after(d)), r'no usable \w+ pass after the event', *HOKKAIDO),
    'no pass of the orbit': (
        lambda d: orbit(d, 'a'),
        'has no descending pass; it has 4 ascending before and 4 after the event',
        '--orbit', 'descending',
    ),
    'all passes after the event empty': (
        lambda d: blank(d, after(d)),
        'no usable .* pass after the event',
        *HOKKAIDO,
    ),
    'all passes empty': (lambda d: blank(d, after(d) | True), 'has no valid pixel'),
    'irregular x': (lambda d: d.isel(x=np.r_[0:20, 25:128]), 'x is not evenly spaced'),
    'no time': (lambda d: d.isel(timestep=0, drop=True), 'has no coordinate time'),
    'labels that are no dates': (no_dates, 'are not dates; write them as YYYYMMDD'),
    'an event far in time': (unchanged, 'has no usable', '--event', 'puerto_rico'),
    'one date only': (unchanged, 'Give both --start', '--start', '2018-09-05'),
    'an unknown event': (unchanged, "Unknown event 'atlantis'; known are", '--event', 'atlantis'),
    'dates the other way': (unchanged, 'must be before end', '--start', '2018-09-07', '--end', '2018-09-05'),
    'no passes wanted': (unchanged, 'passes=0 a side leaves nothing', '--passes', '0'),
}

@pytest.mark.parametrize('case', CUBES)
def test_a_cube_that_cannot_be_mapped(case, model, fails, tmp_path):
    change, says, *more = CUBES[case]
    change(raw()).to_netcdf(tmp_path/'cube.nc')
    fails('map', 'cube.nc', '--model', model['good'], '--out', 'run', *more, says=says)

def test_order_is_not_a_mistake(tmp_path):
    "x and y running the other way and passes out of order are put right on opening, whatever the file"
    backwards = slice(None, None, -1)
    passes = np.random.default_rng(0).permutation(16)
    shuffled = raw().isel(y=backwards, x=backwards, timestep=passes)
    shuffled.to_netcdf(tmp_path/'cube.nc')

    def layers(cube): return cube[['vv', 'vh', 'landslides']].drop_vars('spatial_ref')
    right = open_cube(raw())
    for cube in (open_cube(shuffled), open_cube(tmp_path/'cube.nc')):
        xr.testing.assert_allclose(layers(cube).compute(), layers(right))
        assert cube.rio.transform() == right.rio.transform()

def test_empty_passes_are_passed_over():
    "A pass without any valid pixel is not one of the three averaged"
    cube = open_cube(raw())
    last = make_pair(cube, orbit='descending').attrs['passes_pre'][-1]
    holes = cube.assign({o: cube[o].where(cube.time != np.datetime64(last)) for o in ('vv', 'vh')})
    pair = make_pair(holes, orbit='descending')
    assert last not in pair.attrs['passes_pre']
    assert len(pair.attrs['passes_pre']) == 3
    assert not pair.vv.isnull().any()


# The wrong noun

MAKE_A_CUBE = r'needs a cube, but was given a pair; make the cube with open_cube\(source\)\.'
MAKE_A_PAIR = r'needs a pair, but was given a cube; make the pair with make_pair\(cube\)\.'

def test_a_verb_that_is_given_the_wrong_noun_names_the_verb_that_makes_the_right_one():
    cube, pair = open_cube(raw()), mock_pair()
    with pytest.raises(CubeError, match=f'^log_ratio {MAKE_A_PAIR}$'): log_ratio(cube)
    with pytest.raises(CubeError, match=f'^make_pair {MAKE_A_CUBE}$'): make_pair(pair)
    with pytest.raises(CubeError, match=f'^validate_cube {MAKE_A_CUBE}$'): validate_cube(pair)

@pytest.mark.parametrize('verb', [log_ratio, make_pair, validate_cube])
def test_a_path_is_neither_cube_nor_pair(verb):
    with pytest.raises(CubeError, match=f'^{verb.__name__} needs a .* was given a str; make the'): verb('cube.zarr')

def test_a_dataset_that_was_never_opened_is_sent_to_open_cube():
    with pytest.raises(CubeError, match='pass it through open_cube'): make_pair(raw())
    with pytest.raises(CubeError, match='make the pair with make_pair'): log_ratio(raw())


# Files

def chunks_of(path):
    "The files of a variable of a Zarr that hold data"
    return sorted(o for o in path.rglob('*') if o.is_file() and not o.name.startswith(('.', 'zarr')))

def truncate(path, size): path.write_bytes(path.read_bytes()[:size])

@pytest.mark.parametrize('name', ['vv', 'landslides'])
def test_a_truncated_zarr_chunk(name, model, fails, tmp_path):
    save_cube(open_cube(raw((160, 160))), tmp_path/'cube.zarr')
    for chunk in chunks_of(tmp_path/'cube.zarr'/name): truncate(chunk, chunk.stat().st_size//2)
    mapping = ('map', 'cube.zarr', '--model', model['good'], '--out', 'run')
    training = ('finetune', 'cube.zarr', '--pretrained', 'none', '--out', 'm.safetensors')
    fails(*mapping, says=f'Cannot read {name} in .*cube.zarr.*damaged or incomplete')
    fails(*training, says=f'Cannot read {name} in .*cube.zarr')

def test_a_chunk_that_is_found_broken_halfway(model, fails, tmp_path):
    "The pixels looked at first are whole, others are not: what was mapped by then is not left as a result"
    from landslide_nb.cli import main
    save_cube(open_cube(raw((1600, 160))), tmp_path/'cube.zarr')
    chunks = chunks_of(tmp_path/'cube.zarr'/'vh')
    assert len(chunks) > 8
    for chunk in chunks[1::2]: truncate(chunk, 100)
    words = ['map', tmp_path/'cube.zarr', '--model', model['good'], '--out', tmp_path/'run', '--tile', '128']
    assert main([str(o) for o in words]) == 1
    assert not [o for o in (tmp_path/'run').glob('*') if o.is_file()]

def test_files_that_are_no_cube(model, fails, tmp_path):
    (tmp_path/'text.nc').write_text('no cube')
    (tmp_path/'empty').mkdir()
    (tmp_path/'cut.zip').write_bytes(b'PK\x03\x04cut')
    raw().to_netcdf(tmp_path/'whole.nc')
    shutil.copy(tmp_path/'whole.nc', tmp_path/'half.nc')
    truncate(tmp_path/'half.nc', 50_000)
    sentences = {
        'text.nc': 'Cannot open text.nc as a cube',
        'empty': 'empty holds nothing to open as a cube',
        'cut.zip': 'Cannot open cut.zip as a cube',
        'half.nc': 'half.nc',
        'nowhere.zarr': 'nowhere.zarr does not exist',
        'hokkaido': 'landslide-nb fetch hokkaido',
    }
    for name, says in sentences.items(): fails('map', name, '--model', model['good'], '--out', 'run', says=says)


# Models, chips and folders

MODELS = {
    'pickle': 'is a pickle .* only .safetensors',
    'stage1': 'stage-1',
    'slope': 'has no slope; extra channels it can give: coherence, dem',
    'nowhere': 'no such model file',
}

@pytest.mark.parametrize('which', MODELS)
def test_a_model_that_does_not_fit(which, model, fails, tmp_path):
    raw().drop_vars('dem_slope_radians').to_netcdf(tmp_path/'cube.nc')
    path = model.get(which, 'nowhere.safetensors')
    fails('map', 'cube.nc', '--model', path, '--out', 'run', says=MODELS[which])
    if which != 'stage1': fails('finetune', 'cube.nc', '--pretrained', path, '--out', 'm.safetensors', says=MODELS[which])

def test_cubes_smaller_than_a_chip(fails, tmp_path):
    raw((96, 128)).to_netcdf(tmp_path/'small.nc')
    raw((40, 128)).to_netcdf(tmp_path/'tiny.nc')
    small = ('finetune', 'small.nc', '--pretrained', 'none', '--out', 'm.safetensors')
    fails(*small, says='larger than the scene of 96 x 128 px')
    fails('pretrain', 'tiny.nc', '--out', 'm.safetensors', says='larger than the scene of 40 x 128 px')

def test_chips_and_budgets(fails, tmp_path):
    wide = raw((640, 640))
    wide.to_netcdf(tmp_path/'wide.nc')
    wide.assign(landslides=wide.landslides.fillna(0)*0).to_netcdf(tmp_path/'none.nc')
    wide.drop_vars('landslides').to_netcdf(tmp_path/'unlabelled.nc')

    def finetune(cube, *more, says):
        fails('finetune', cube, '--pretrained', 'none', *more, '--out', 'm.safetensors', says=says)
    blocks = ('--block', '128')
    few = ('--budget', '4')
    too_many = 'A budget of 500 chips is more than exists: .* chips with and .* without landslides'
    finetune('wide.nc', *blocks, '--budget', '500', says=too_many)
    finetune('wide.nc', *blocks, '--budget', '1', says='A budget of 1 is too small')
    finetune('none.nc', *blocks, *few, says='has a landslide; check the label')
    finetune('unlabelled.nc', *blocks, *few, says='landslide')
    finetune('wide.nc', '--block', '4096', *few, says='take smaller blocks')
    dates = ('--start', '2019-01-01', '--end', '2019-01-02')
    finetune('wide.nc', '--channel', 'coherence', *dates, says='has no usable')

def test_where_results_cannot_go(model, fails, tmp_path):
    raw().to_netcdf(tmp_path/'cube.nc')
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'letter.txt').write_text('dear')
    (tmp_path/'file').write_text('x')
    (tmp_path/'m.safetensors').write_text('precious')
    folders = {
        'full': 'full is not empty',
        'file': 'Cannot write into file',
        'file/below': 'Cannot write into file/below',
        '/proc/nowhere': 'Cannot write into /proc/nowhere',
    }
    for out, says in folders.items(): fails('map', 'cube.nc', '--model', model['good'], '--out', out, says=says)
    for command in ('pretrain', 'finetune'):
        fails(command, 'cube.nc', '--out', 'm.safetensors', says='exists already; give another name')
        fails(command, 'cube.nc', '--out', 'm.pth', says='model files end in .safetensors')
    fails('demo', '--out', 'full', says='not empty')
    fails('experiment', '--out', 'full', '--pretrain', 'none', says='not empty')


# Experiments and downloads

EXPERIMENTS = [
    (('--event', 'atlantis'), "Unknown event 'atlantis'; known are"),
    (('--pretrain', 'none,moon'), "Unknown pretraining source 'moon'"),
    (('--budgets', '1,2'), 'budget of 1 is too small'),
    (('--budgets', '2,2'), 'none twice'),
    (('--seeds', '1'), 'gives no interval'),
    (('--arch', 'resnet'), "arch='resnet' is unknown"),
    (('--transfer', 'thawed'), "transfer='thawed' is unknown"),
    (('--pretrain', 'none,nowhere.safetensors'), 'no such model file'),
    (('--spec', 'nowhere.json'), 'nowhere.json'),
    (('--spec', 'bad.json'), 'not JSON'),
]

@pytest.mark.parametrize('words,says', EXPERIMENTS)
def test_an_experiment_that_cannot_be(words, says, fails, tmp_path):
    (tmp_path/'bad.json').write_text('{')
    fails('experiment', '--out', 'exp', *words, says=says)
    assert not (tmp_path/'exp').exists()

DOWNLOADS = {
    'atlantis': "Unknown event 'atlantis'",
    'demo_a': 'demo_a is simulated|needs no download',
    'mulitaka': 'to fetch are hokkaido, kaikoura, puerto_rico, talakmau',
}

@pytest.mark.parametrize('name', DOWNLOADS)
def test_what_cannot_be_fetched(name, fails): fails('fetch', name, says=DOWNLOADS[name])

def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    from landslide_nb.core import OutputError, new_folder
    def denied(_): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Path, 'iterdir', denied)
    with pytest.raises(OutputError, match='Cannot write into .*: Permission denied; choose a folder'):
        new_folder(tmp_path/'run')
