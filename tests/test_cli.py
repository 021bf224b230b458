"The commands as a person runs them: in a process of their own, from another folder, with exit codes and one-sentence errors."
import json, os, pickle, re, subprocess, sys
from pathlib import Path
import geopandas as gpd, numpy as np, pytest, rasterio, xarray as xr

def run(*args, cwd, timeout=600):
    return subprocess.run([Path(sys.executable).parent/'landslide-nb', *map(str, args)], cwd=cwd, timeout=timeout, capture_output=True, text=True,
                          env={**os.environ, 'LANDSLIDE_NB_CACHE': str(cwd/'cache')})

@pytest.fixture(scope='session')
def demo(tmp_path_factory):
    "The demo on small scenes with short training: what it leaves behind"
    home = tmp_path_factory.mktemp('demo')
    out = run('demo', '--out', 'out', '--size', 1024, '--block', 256, '--epochs', 1, 1, cwd=home)
    assert out.returncode == 0, out.stderr[-3000:]
    return home/'out', out.stdout

def one_sentence(out, word):
    assert out.returncode == 1
    last = [line for line in re.split(r'[\r\n]+', out.stderr) if 'landslide-nb: ' in line]
    assert len(last) == 1 and word in last[0] and 'Traceback' not in out.stderr, out.stderr[-2000:]

def test_help_needs_no_heavy_import(tmp_path):
    code = "import sys, landslide_nb.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint([m for m in ('torch', 'fastai', 'xarray', 'rasterio', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert out.stdout.strip().endswith('[]'), out.stdout[-500:]
    assert all(c in out.stdout for c in ('demo', 'fetch', 'pretrain', 'finetune', 'map'))

def test_demo_leaves_models_table_and_map(demo):
    out, said = demo
    assert sorted(o.name for o in out.iterdir()) == ['map', 'models', 'table.md']
    table = (out/'table.md').read_text()
    assert table in said and all(name in table for name in ('pretrained on demo_b', 'from scratch', 'log-ratio', 'all-zero'))
    assert re.search(r'\d+ s, peak memory [\d.]+ GB', said)
    assert sorted(o.name for o in (out/'map').iterdir()) == ['dem.tif', 'item.json', 'landslides.gpkg', 'map.png', 'metrics.json', 'pair.tif', 'probability.tif', 'report.html', 'truth.tif']

def test_demo_map_agrees_with_its_numbers(demo):
    folder = demo[0]/'map'
    metrics = json.loads((folder/'metrics.json').read_text())
    with rasterio.open(folder/'probability.tif') as f: prob, area = f.read(1), abs(f.transform.a*f.transform.e)
    assert 0 <= np.nanmin(prob) and np.nanmax(prob) <= 1
    assert np.nansum(prob.astype(float))*area == pytest.approx(metrics['expected_area_m2'], rel=1e-4)
    assert (prob >= metrics['threshold']).sum()*area == pytest.approx(metrics['area_above_threshold_m2'])
    polygons, mapped, cells = (gpd.read_file(folder/'landslides.gpkg', layer=o) for o in ('polygons', 'mapped', 'cells'))
    assert len(polygons) == metrics['polygons'] and mapped.area_m2.sum() == pytest.approx(metrics['mapped_area_m2'])
    assert np.allclose(polygons.geometry.area, polygons.area_m2) and cells.expected_m2.sum() == pytest.approx(metrics['expected_area_m2'], rel=1e-4)

def test_output_folder_is_never_mixed(demo):
    out = run('demo', '--out', demo[0], cwd=demo[0].parent)
    one_sentence(out, 'not empty')

def test_png_2024_maps_on_its_own_grid(demo, shared, tmp_path):
    cube = shared/'png_2024'/'png_landslide_2024_track9.nc'
    out = run('map', cube, '--model', demo[0]/'models'/'pretrained.safetensors', '--out', 'run', '--passes', 'all', cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    said = re.search(r'AUPRC model ([\d.]+), log-ratio ([\d.]+)', out.stdout)
    assert float(said[2]) == pytest.approx(.884, abs=.01) and float(said[1]) > .04 # the share of landslide pixels is .038
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
    out = run('adapt', *place, '--scenes', 40, '--epochs', 1, '--out', 'here.safetensors', cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    after, before = (float(v) for v in re.search(r'AUPRC ([\d.]+), before ([\d.]+)', out.stdout).groups())
    assert after > before - .005 and sorted(p.name for p in tmp_path.iterdir()) == ['cube.zarr', 'here.safetensors']
    one_sentence(run('adapt', *place, '--out', 'here.safetensors', cwd=tmp_path), 'exists already')
    one_sentence(run('adapt', 'demo_a', '--size', 256, '--out', 'short.safetensors', cwd=tmp_path), 'fewer than 300')
    out = run('map', *place, '--model', 'here.safetensors', '--out', 'run', cwd=tmp_path)
    assert out.returncode == 0 and 'of this place in which nothing happened' in out.stdout, out.stderr[-2000:]

def test_the_command_trains_what_the_library_trains():
    import inspect
    from landslide_nb.weights.adapt import adapt_model
    from landslide_nb.weights.base import train_base
    from landslide_nb.cli import parser
    for words, does in ((['base', '--folder', 'scenes'], train_base), (['adapt', 'demo_a'], adapt_model)):
        given, default = vars(parser().parse_args([*words, '--out', 'm.safetensors'])), inspect.signature(does).parameters
        assert {k: given[k] for k in ('scenes', 'epochs', 'seed')} == {k: default[k].default for k in ('scenes', 'epochs', 'seed')}

def test_mistakes_are_one_sentence_and_leave_nothing(demo, tmp_path):
    model = demo[0]/'models'/'pretrained.safetensors'
    evil = tmp_path/'evil.safetensors'
    class Boom:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'executed'),)
    evil.write_bytes(pickle.dumps(Boom()))
    one_sentence(run('map', 'demo_a', '--model', evil, '--out', 'run', cwd=tmp_path), 'pickle')
    assert not (tmp_path/'executed').exists()
    one_sentence(run('map', 'nothing.zarr', '--model', model, '--out', 'run', cwd=tmp_path), 'nothing.zarr')
    one_sentence(run('map', 'hokkaido', '--model', model, '--out', 'run', cwd=tmp_path), 'landslide-nb fetch hokkaido')
    one_sentence(run('map', 'demo_a', '--size', 256, '--event', 'puerto_rico', '--model', model, '--out', 'run', cwd=tmp_path), 'no usable')
    one_sentence(run('finetune', 'demo_a', '--size', 768, '--block', 128, '--budget', 500, '--out', 'm.safetensors', cwd=tmp_path), 'more than exists')
    one_sentence(run('map', 'demo_a', '--model', model, '--out', '/proc/nowhere', cwd=tmp_path), 'Cannot write')
    assert run('map', cwd=tmp_path).returncode == 2
    assert sorted(o.name for o in tmp_path.iterdir() if o.name not in ('cache', 'evil.safetensors')) in ([], ['run']) and not list(tmp_path.glob('run/*'))
