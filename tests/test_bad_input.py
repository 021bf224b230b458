"Every mistake a person can make with a cube, a label, a model or a folder: one clear sentence, exit code 1, and nothing half-written."
import pickle, re, shutil
from pathlib import Path
import numpy as np, pytest, xarray as xr

from landslide_nb.data.pair import make_pair
from landslide_nb.testing import mock_cube
from landslide_nb.data.cube import open_cube, save_cube


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "Stage-2 models that were never trained, which is enough to be refused"
    from landslide_nb.learn.models import build_model, save_model
    folder = tmp_path_factory.mktemp('models')
    def save(name, stage, channels):
        n = len(channels)
        stats = dict(mean=[-10.]*n, std=[3.]*n, change_mean=[0.]*n, change_std=[1.]*n)
        return save_model(build_model(stage=stage, channels=n, width=4), folder/f'{name}.safetensors', dict(input=dict(channels=channels, change=True, stats=stats, size=128)))
    evil = folder/'evil.safetensors'
    evil.write_bytes(pickle.dumps(Path('x')))
    return dict(good=save('good', 2, ['vv', 'vh']), slope=save('slope', 2, ['vv', 'vh', 'slope']), stage1=save('stage1', 1, ['vv', 'vh']), pickle=evil)


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    "Run a command that must fail with one sentence and leave its folder as it was"
    from landslide_nb.cli import main
    monkeypatch.setenv('TMPDIR', str(tmp_path/'scratch')); (tmp_path/'scratch').mkdir()
    monkeypatch.setattr('tempfile.tempdir', None)
    monkeypatch.chdir(tmp_path)
    def run(*words, says):
        files = lambda: {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file() and f.parent.name != '.run.tiles'} # tiles from which a map that was cut off goes on
        before = files()
        assert main([str(w) for w in words]) == 1
        said = [line for line in re.split(r'[\r\n]+', capsys.readouterr().err) if 'landslide-nb: ' in line]
        assert len(said) == 1, said
        sentence = said[0].partition('landslide-nb: ')[2]
        assert re.search(says, sentence) and sentence.endswith('.') and len(sentence) < 500, sentence
        assert files() == before and not list((tmp_path/'scratch').iterdir())
    return run


def raw(size=(96, 128)): return mock_cube(size)
def in_db(ds): return ds.assign({o: 10*np.log10(ds[o]) for o in ('vv', 'vh')})
def blank(ds, where): return ds.assign({o: ds[o].where(~where) for o in ('vv', 'vh')})
def after(ds): return xr.DataArray(ds.timestep.values.astype(str) > '20180906', {'timestep': ds.timestep}, 'timestep')
def other_grid(ds): return ds.assign(landslides=(('row', 'col'), np.ones((40, 40))))
def orbit(ds, o): return ds.isel(timestep=np.flatnonzero(ds['sat:orbit_state'].values == o))

CUBES = { # what is wrong: how to make it so, what the sentence says, further words of the command
    'no vv': (lambda d: d.drop_vars('vv'), r'has no vv \(found .*both vv and vh are needed'),
    'no vh': (lambda d: d.drop_vars('vh'), r'has no vh \(found'),
    'dB': (in_db, 'vv looks like dB'),
    'amplitude': (lambda d: d.assign(vv=d.vv**.5, vh=d.vh**.5), 'look like amplitude .* square them'),
    'no CRS': (lambda d: d.drop_vars('spatial_ref'), 'has no CRS; set it'),
    'label on another grid': (other_grid, r'landslides has dims .* instead of \(y, x\); use rasterize_label'),
    'label without a value here': (lambda d: d.assign(landslides=d.landslides*np.nan), 'no value on the cube.s grid; was it drawn on another grid'),
    'no pass before': (lambda d: d.isel(timestep=np.flatnonzero(after(d))), r'no usable \w+ pass before the event \(2018-09-05 to 2018-09-07\); its usable passes run from', '--event', 'hokkaido'),
    'no pass after': (lambda d: d.isel(timestep=np.flatnonzero(~after(d))), r'no usable \w+ pass after the event', '--event', 'hokkaido'),
    'no pass of the orbit': (lambda d: orbit(d, 'a'), 'has no descending pass; it has 4 ascending before and 4 after the event', '--orbit', 'descending'),
    'all passes after the event empty': (lambda d: blank(d, after(d)), 'no usable .* pass after the event', '--event', 'hokkaido'),
    'all passes empty': (lambda d: blank(d, after(d) | True), 'has no valid pixel'),
    'irregular x': (lambda d: d.isel(x=np.r_[0:20, 25:128]), 'x is not evenly spaced'),
    'no time': (lambda d: d.isel(timestep=0, drop=True), 'has no coordinate time'),
    'labels that are no dates': (lambda d: d.assign_coords(timestep=[f'pass {i}' for i in range(d.sizes['timestep'])]), 'are not dates; write them as YYYYMMDD'),
    'an event far in time': (lambda d: d, 'has no usable', '--event', 'puerto_rico'),
    'one date only': (lambda d: d, 'Give both --start', '--start', '2018-09-05'),
    'an unknown event': (lambda d: d, "Unknown event 'atlantis'; known are", '--event', 'atlantis'),
    'dates the other way': (lambda d: d, 'must be before end', '--start', '2018-09-07', '--end', '2018-09-05'),
    'no passes wanted': (lambda d: d, 'passes=0 a side leaves nothing', '--passes', '0'),
}

@pytest.mark.parametrize('case', CUBES)
def test_a_cube_that_cannot_be_mapped(case, model, fails, tmp_path):
    change, says, *more = CUBES[case]
    change(raw()).to_netcdf(tmp_path/'cube.nc')
    fails('map', 'cube.nc', '--model', model['good'], '--out', 'run', *more, says=says)

def test_order_is_not_a_mistake(tmp_path):
    "x and y running the other way and passes out of order are put right on opening, whatever the file"
    right = open_cube(raw())
    shuffled = raw().isel(y=slice(None, None, -1), x=slice(None, None, -1), timestep=np.random.default_rng(0).permutation(16))
    shuffled.to_netcdf(tmp_path/'cube.nc')
    for cube in (open_cube(shuffled), open_cube(tmp_path/'cube.nc')):
        xr.testing.assert_allclose(cube[['vv', 'vh', 'landslides']].compute().drop_vars('spatial_ref'), right[['vv', 'vh', 'landslides']].drop_vars('spatial_ref'))
        assert cube.rio.transform() == right.rio.transform()

def test_empty_passes_are_passed_over():
    "A pass without any valid pixel is not one of the three averaged"
    cube = open_cube(raw())
    last = make_pair(cube, orbit='descending').attrs['passes_pre'][-1]
    holes = cube.assign({o: cube[o].where(cube.time != np.datetime64(last)) for o in ('vv', 'vh')})
    pair = make_pair(holes, orbit='descending')
    assert last not in pair.attrs['passes_pre'] and len(pair.attrs['passes_pre']) == 3 and not pair.vv.isnull().any()

@pytest.mark.parametrize('name', ['vv', 'landslides'])
def test_a_truncated_zarr_chunk(name, model, fails, tmp_path):
    save_cube(open_cube(raw((160, 160))), tmp_path/'cube.zarr')
    for chunk in [f for f in (tmp_path/'cube.zarr'/name).rglob('*') if f.is_file() and not f.name.startswith(('.', 'zarr'))]: chunk.write_bytes(chunk.read_bytes()[:len(chunk.read_bytes())//2])
    fails('map', 'cube.zarr', '--model', model['good'], '--out', 'run', says=f'Cannot read {name} in .*cube.zarr.*damaged or incomplete')
    fails('finetune', 'cube.zarr', '--pretrained', 'none', '--out', 'm.safetensors', says=f'Cannot read {name} in .*cube.zarr')

def test_a_chunk_that_is_found_broken_halfway(model, fails, tmp_path):
    "The pixels looked at first are whole, others are not: what was mapped by then is not left as a result"
    from landslide_nb.cli import main
    cube = open_cube(raw((1600, 160)))
    save_cube(cube, tmp_path/'cube.zarr')
    chunks = sorted(f for f in (tmp_path/'cube.zarr'/'vh').rglob('*') if f.is_file() and not f.name.startswith(('.', 'zarr')))
    assert len(chunks) > 8
    for chunk in chunks[1::2]: chunk.write_bytes(chunk.read_bytes()[:100])
    assert main(['map', str(tmp_path/'cube.zarr'), '--model', str(model['good']), '--out', str(tmp_path/'run'), '--tile', '128']) == 1
    assert not [f for f in (tmp_path/'run').glob('*') if f.is_file()]

def test_files_that_are_no_cube(model, fails, tmp_path):
    (tmp_path/'text.nc').write_text('no cube'); (tmp_path/'empty').mkdir(); (tmp_path/'cut.zip').write_bytes(b'PK\x03\x04cut')
    raw().to_netcdf(tmp_path/'whole.nc')
    (tmp_path/'half.nc').write_bytes((tmp_path/'whole.nc').read_bytes()[:50_000])
    for name, says in (('text.nc', 'Cannot open text.nc as a cube'), ('empty', 'empty holds nothing to open as a cube'), ('cut.zip', 'Cannot open cut.zip as a cube'),
                       ('half.nc', 'half.nc'), ('nowhere.zarr', 'nowhere.zarr does not exist'), ('hokkaido', 'landslide-nb fetch hokkaido')):
        fails('map', name, '--model', model['good'], '--out', 'run', says=says)

@pytest.mark.parametrize('which,says', [('pickle', 'is a pickle .* only .safetensors'), ('stage1', 'stage-1'), ('slope', 'has no slope; extra channels it can give: coherence, dem'), ('nowhere', 'no such model file')])
def test_a_model_that_does_not_fit(which, says, model, fails, tmp_path):
    raw().drop_vars('dem_slope_radians').to_netcdf(tmp_path/'cube.nc')
    fails('map', 'cube.nc', '--model', model.get(which, 'nowhere.safetensors'), '--out', 'run', says=says)
    if which != 'stage1': fails('finetune', 'cube.nc', '--pretrained', model.get(which, 'nowhere.safetensors'), '--out', 'm.safetensors', says=says)

def test_chips_and_budgets(fails, tmp_path):
    raw((96, 128)).to_netcdf(tmp_path/'small.nc')
    fails('finetune', 'small.nc', '--pretrained', 'none', '--out', 'm.safetensors', says='larger than the scene of 96 x 128 px')
    raw((40, 128)).to_netcdf(tmp_path/'tiny.nc')
    fails('pretrain', 'tiny.nc', '--out', 'm.safetensors', says='larger than the scene of 40 x 128 px')
    wide = raw((640, 640))
    wide.to_netcdf(tmp_path/'wide.nc'); wide.assign(landslides=wide.landslides.fillna(0)*0).to_netcdf(tmp_path/'quiet.nc'); wide.drop_vars('landslides').to_netcdf(tmp_path/'unlabelled.nc')
    fails('finetune', 'wide.nc', '--pretrained', 'none', '--block', '128', '--budget', '500', '--out', 'm.safetensors', says='A budget of 500 chips is more than exists: .* chips with and .* without landslides')
    fails('finetune', 'wide.nc', '--pretrained', 'none', '--block', '128', '--budget', '1', '--out', 'm.safetensors', says='A budget of 1 is too small')
    fails('finetune', 'quiet.nc', '--pretrained', 'none', '--block', '128', '--budget', '4', '--out', 'm.safetensors', says='has a landslide; check the label')
    fails('finetune', 'unlabelled.nc', '--pretrained', 'none', '--block', '128', '--budget', '4', '--out', 'm.safetensors', says='landslide')
    fails('finetune', 'wide.nc', '--pretrained', 'none', '--block', '4096', '--budget', '4', '--out', 'm.safetensors', says='take smaller blocks')
    fails('finetune', 'wide.nc', '--pretrained', 'none', '--channel', 'coherence', '--start', '2019-01-01', '--end', '2019-01-02', '--out', 'm.safetensors', says='has no usable')

def test_where_results_cannot_go(model, fails, tmp_path):
    raw().to_netcdf(tmp_path/'cube.nc')
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'letter.txt').write_text('dear'); (tmp_path/'file').write_text('x'); (tmp_path/'m.safetensors').write_text('precious')
    for out, says in (('full', 'full is not empty'), ('file', 'Cannot write into file'), ('file/below', 'Cannot write into file/below'), ('/proc/nowhere', 'Cannot write into /proc/nowhere')):
        fails('map', 'cube.nc', '--model', model['good'], '--out', out, says=says)
    for command in ('pretrain', 'finetune'):
        fails(command, 'cube.nc', '--out', 'm.safetensors', says='exists already; give another name')
        fails(command, 'cube.nc', '--out', 'm.pth', says='model files end in .safetensors')
    fails('demo', '--out', 'full', says='not empty')
    fails('experiment', '--out', 'full', '--pretrain', 'none', says='not empty')

@pytest.mark.parametrize('words,says', [
    (('--event', 'atlantis'), "Unknown event 'atlantis'; known are"), (('--pretrain', 'none,moon'), "Unknown pretraining source 'moon'"), (('--budgets', '1,2'), 'budget of 1 is too small'),
    (('--budgets', '2,2'), 'none twice'), (('--seeds', '1'), 'gives no interval'), (('--arch', 'resnet'), "arch='resnet' is unknown"), (('--transfer', 'thawed'), "transfer='thawed' is unknown"),
    (('--pretrain', 'none,nowhere.safetensors'), 'no such model file'), (('--spec', 'nowhere.json'), 'nowhere.json'), (('--spec', 'bad.json'), 'not JSON')])
def test_an_experiment_that_cannot_be(words, says, fails, tmp_path):
    (tmp_path/'bad.json').write_text('{')
    fails('experiment', '--out', 'exp', *words, says=says)
    assert not (tmp_path/'exp').exists()

@pytest.mark.parametrize('name,says', [('atlantis', "Unknown event 'atlantis'"), ('demo_a', 'demo_a is simulated|needs no download'), ('mulitaka', 'to fetch are hokkaido, kaikoura, puerto_rico, talakmau')])
def test_what_cannot_be_fetched(name, says, fails): fails('fetch', name, says=says)

def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    from landslide_nb.core import OutputError, new_folder
    def denied(_): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Path, 'iterdir', denied)
    with pytest.raises(OutputError, match='Cannot write into .*: Permission denied; choose a folder'): new_folder(tmp_path/'run')
