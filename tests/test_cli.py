"The commands as a person runs them: in a process of their own, from another folder, with exit codes and one-sentence errors."
import argparse, inspect, json, os, pickle, re, subprocess, sys
import geopandas as gpd, numpy as np, pytest, rasterio
from conftest import command, one_sentence
from landslide_nb.cli import COMMANDS, parser

@pytest.fixture(scope='session')
def demo(tmp_path_factory):
    "The demo on small scenes with short training: what it leaves behind and what it said"
    home = tmp_path_factory.mktemp('demo')
    out = command('demo', '--out', 'out', '--size', 1024, '--block', 256, '--epochs', 1, 1, cwd=home, cold=True)
    assert out.returncode == 0, out.stderr[-3000:]
    return home/'out', out.stdout

def options_of(name):
    "The arguments a command declares"
    actions = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {a.dest for a in actions.choices[name]._actions} - {'help'}

@pytest.mark.parametrize('name', COMMANDS)
def test_help_names_every_argument_and_needs_no_heavy_import(name, tmp_path):
    code = ("import sys, landslide_nb.cli as c\n"
            f"try: c.main([{name!r}, '--help'])\n"
            "except SystemExit as e: assert e.code == 0\n"
            "print([m for m in ('torch', 'fastai', 'xarray', 'pandas', 'rasterio', 'matplotlib', 'panel') if m in sys.modules])")
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert out.stdout.strip().endswith('[]'), out.stdout[-500:]
    said = out.stdout.lower()
    assert options_of(name) and all(option.replace('_', '-') in said or option.rstrip('s') in said
                                    for option in options_of(name))

def test_help_lists_every_command(tmp_path):
    out = command('--help', cwd=tmp_path, cold=True)
    assert out.returncode == 0 and all(re.search(rf'^ +{name}\b', out.stdout, re.M) for name in COMMANDS)

@pytest.mark.parametrize('name', COMMANDS)
def test_wrong_words_exit_with_two(name, tmp_path):
    out = command(name, '--no-such-option', cwd=tmp_path)
    assert out.returncode == 2 and 'usage: landslide-nb' in out.stderr and list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('name', [n for n in COMMANDS if 'out' in options_of(n)])
def test_nothing_that_exists_is_overwritten(name, tmp_path):
    (tmp_path/'old').mkdir()
    (tmp_path/'old'/'kept.txt').touch()
    (tmp_path/'old.safetensors').write_text('kept')
    model = name in ('pretrain', 'finetune', 'adapt', 'base')
    box = ['--bbox', '143.2', '-5.6', '143.6', '-5.2', '--start', '2024-05-23', '--end', '2024-05-24']
    words = {'pretrain': ['demo_a'], 'finetune': ['demo_a'], 'adapt': ['demo_a'], 'map': ['demo_a'],
             'base': ['--folder', 'scenes'], 'build': box, 'area': ['run']}.get(name, [])
    out = command(name, *words, '--out', 'old.safetensors' if model else 'old', cwd=tmp_path)
    one_sentence(out, 'exists already' if model else 'old')
    assert (tmp_path/'old.safetensors').read_text() == 'kept' and [
        p.name for p in (tmp_path/'old').iterdir()] == ['kept.txt']

def test_demo_leaves_models_table_and_map(demo):
    out, said = demo
    assert sorted(o.name for o in out.iterdir()) == ['map', 'models', 'table.md']
    table = (out/'table.md').read_text()
    assert table in said and all(name in table for name in ('pretrained on demo_b', 'from scratch', 'log-ratio', 'all-zero'))
    assert re.search(r'\d+ s, peak memory [\d.]+ GB', said)
    files = ['dem.tif', 'item.json', 'landslides.gpkg', 'map.png', 'metrics.json', 'pair.tif', 'probability.tif',
             'report.html', 'truth.tif']
    opening = ['dem.qml', 'landslides.geojson', 'map.qgs', 'pair.qml', 'probability.qml', 'truth.qml']
    assert sorted(o.name for o in (out/'map').iterdir() if o.suffix != '.kml') == sorted(files + opening)

def test_demo_map_agrees_with_its_numbers(demo):
    folder = demo[0]/'map'
    metrics = json.loads((folder/'metrics.json').read_text())
    with rasterio.open(folder/'probability.tif') as f: prob, area = f.read(1), abs(f.transform.a*f.transform.e)
    assert 0 <= np.nanmin(prob) and np.nanmax(prob) <= 1
    assert np.nansum(prob.astype(float))*area == pytest.approx(metrics['expected_area_m2'], rel=1e-4)
    assert (prob >= metrics['threshold']).sum()*area == pytest.approx(metrics['area_above_threshold_m2'])
    polygons, mapped, cells = (gpd.read_file(folder/'landslides.gpkg', layer=o) for o in ('polygons', 'mapped', 'cells'))
    assert len(polygons) == metrics['polygons'] and mapped.area_m2.sum() == pytest.approx(metrics['mapped_area_m2'])
    assert np.allclose(polygons.geometry.area, polygons.area_m2)
    assert cells.expected_m2.sum() == pytest.approx(metrics['expected_area_m2'], rel=1e-4)

def test_output_folder_is_never_mixed(demo):
    one_sentence(command('demo', '--out', demo[0], cwd=demo[0].parent), 'not empty')

def test_png_2024_maps_on_its_own_grid(shared, tmp_path):
    "The shipped weights on the one real landslide: on the cube's grid, and ranked as well as the log-ratio at least"
    cube = shared/'png_2024'/'png_landslide_2024_track9.nc'
    out = command('map', cube, '--out', 'run', '--passes', 'all', cwd=tmp_path, cold=True)
    assert out.returncode == 0, out.stderr[-2000:]
    said = re.search(r'AUPRC model ([\d.]+), log-ratio ([\d.]+)', out.stdout)
    # the share of landslide pixels is .038
    assert float(said[2]) == pytest.approx(.884, abs=.01) and float(said[1]) > .88
    from landslide_nb.data.cube import open_cube
    grid = open_cube(cube)
    with rasterio.open(tmp_path/'run'/'probability.tif') as f:
        assert f.transform == grid.rio.transform() and f.crs == grid.rio.crs and f.shape == (50, 50)
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())['event_name'] == 'mulitaka'
    assert gpd.read_file(tmp_path/'run'/'landslides.gpkg', layer='mapped').area_m2.sum() == pytest.approx(96*900)

def test_weights_adapted_to_a_place_map_it(tmp_path):
    from landslide_nb.data.cube import save_cube
    from landslide_nb.data.simulate import simulate_archive
    save_cube(simulate_archive('demo_a', 0, 256, years=1, passes=4, orbits=('ascending',)), tmp_path/'cube.zarr')
    place = ('cube.zarr', '--passes', 1)
    out = command('adapt', *place, '--scenes', 40, '--epochs', 1, '--out', 'here.safetensors', cwd=tmp_path, cold=True)
    assert out.returncode == 0, out.stderr[-2000:]
    assert re.search(r'AUPRC [\d.]+, before [\d.]+', out.stdout) # what it is worth: test_adapt.py
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cube.zarr', 'here.safetensors']
    one_sentence(command('adapt', *place, '--out', 'here.safetensors', cwd=tmp_path), 'exists already')
    one_sentence(command('adapt', 'demo_a', '--size', 256, '--out', 'short.safetensors', cwd=tmp_path), 'fewer than 300')
    out = command('map', *place, '--model', 'here.safetensors', '--out', 'run', cwd=tmp_path)
    assert out.returncode == 0 and 'null pair' in out.stdout, out.stderr[-2000:]

@pytest.mark.parametrize('words, module, does', [(['base', '--folder', 'scenes'], 'base', 'train_base'),
                                                 (['adapt', 'demo_a'], 'adapt', 'adapt_model')])
def test_the_command_trains_what_the_library_trains(words, module, does):
    from importlib import import_module
    default = inspect.signature(getattr(import_module(f'landslide_nb.weights.{module}'), does)).parameters
    given = vars(parser().parse_args([*words, '--out', 'm.safetensors']))
    shared = {k for k in given if k in default and default[k].default is not inspect.Parameter.empty}
    assert shared >= {'scenes', 'epochs', 'seed'}
    assert {k: given[k] for k in shared} == {k: default[k].default for k in shared}

def test_a_model_file_never_executes(tmp_path):
    evil = tmp_path/'evil.safetensors'
    class Boom:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'executed'),)
    evil.write_bytes(pickle.dumps(Boom()))
    one_sentence(command('map', 'demo_a', '--model', evil, '--out', 'run', cwd=tmp_path), 'pickle')
    assert not (tmp_path/'executed').exists()

@pytest.mark.parametrize('words, says', [
    (('map', 'nothing.zarr'), 'nothing.zarr'),
    (('map', 'hokkaido'), 'landslide-nb fetch hokkaido'),
    (('map', 'demo_a', '--size', 256, '--event', 'puerto_rico'), 'no usable'),
    (('map', 'demo_a', '--start', '2018-09-05'), 'both --start'),
], ids=lambda o: o if isinstance(o, str) else ' '.join(map(str, o)))
def test_mistakes_are_one_sentence_and_leave_nothing(words, says, tmp_path):
    one_sentence(command(*words, '--out', 'run', cwd=tmp_path), says)
    assert not list(tmp_path.glob('run/*'))

def test_a_budget_larger_than_the_scene(tmp_path):
    out = command('finetune', 'demo_a', '--size', 768, '--block', 128, '--budget', 500, '--out', 'm.safetensors', cwd=tmp_path)
    one_sentence(out, 'more than exists')
    assert not list(tmp_path.glob('*.safetensors'))

def test_a_folder_that_cannot_be_written(tmp_path):
    one_sentence(command('map', 'demo_a', '--out', '/proc/nowhere', cwd=tmp_path), 'Cannot write')

def test_any_librarys_error_about_memory_is_a_sentence_and_others_are_shown_whole(monkeypatch, capsys):
    from pyarrow.lib import ArrowException
    from landslide_nb import cli
    def ends_with(error):
        def run(args): raise error
        monkeypatch.setattr(cli, 'run_settled', run)
        return cli.main(['app', 'runs'])
    assert ends_with(ArrowException('Unknown error: Failed to launch worker thread')) == 1
    assert capsys.readouterr().err.startswith('landslide-nb: out of memory; close other programs')
    with pytest.raises(ArrowException, match='Unknown error: x'): ends_with(ArrowException('Unknown error: x'))
