"Nothing ends in a dead end after all the work: zones, folders and cubes that could not be used are put right or refused at the door."
import errno, os, subprocess, sys, warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from shapely import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from landslide_nb.browser.runs import find_runs
from landslide_nb.cli import main, parser
from landslide_nb.core import CubeError, OutputError
from landslide_nb.data.cube import open_cube
from landslide_nb.learn.models import save_model
from landslide_nb.mapping import mapping
from landslide_nb.mapping.areas import ranked_zones
from landslide_nb.mapping.mapping import map_cube, map_pair
from landslide_nb.mapping.runfolder import whole_folder
from landslide_nb.testing import mock_cube, mock_pair, mock_probability
from test_scene import FILES, SMALL, bare_pair, finished, kill_when, names, start, toy_model

WEST, NORTH = 5e5 - 5, 4.7e6 + 5 # corner of a mock pair
WHOLE, PART = box(WEST, NORTH - 600, WEST + 800, NORTH), box(WEST + 90, NORTH - 300, WEST + 160, NORTH - 105)

def zones_of(*shapes, **columns): return gpd.GeoDataFrame(columns, geometry=list(shapes), crs=32654)

def written_zones(zones, folder):
    "Zones ranked on a mock map, written and read again, and what was said"
    prob = mock_probability(mock_pair())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        ranked_zones(prob, zones).to_file(folder/'l.gpkg', layer='zones', driver='GPKG')
    said = [str(w.message) for w in said if 'column' in str(w.message)]
    return gpd.read_file(folder/'l.gpkg', layer='zones'), said


# Zones

OURS = ['expected_m2', 'max_probability', 'valid_fraction', 'low_m2', 'high_m2', 'rank', 'lon', 'lat', 'geometry']

@pytest.mark.parametrize('name', ['fid', 'FID', 'geom', 'Geometry', '', *OURS[:-1], 'Rank', 'LAT', 'pixels', 'expected_px'])
def test_zone_columns_that_are_taken_are_renamed(name, tmp_path):
    found, said = written_zones(zones_of(WHOLE, PART, **{name: ['all', 'some']}), tmp_path)
    assert set(OURS) < {*found}
    assert found[f'zone_{name}'].tolist() == ['all', 'some']
    assert len(said) == 1
    assert f'{name!r} is now {f"zone_{name}"!r}' in said[0]

def test_zone_columns_that_differ_in_case_only(tmp_path):
    zones = zones_of(WHOLE, PART, Name=['a', 'b'], name=['c', 'd'], NAME=['e', 'f'], zone_name=['g', 'h'])
    found, said = written_zones(zones, tmp_path)
    kept = [set(found[c]) for c in found if c not in OURS]
    assert kept == [{'a', 'b'}, {'c', 'd'}, {'e', 'f'}, {'g', 'h'}]
    assert len({c.lower() for c in found}) == len([*found])
    assert len(said) == 1

def test_zone_columns_that_fit_stay_and_nothing_is_said(tmp_path):
    found, said = written_zones(zones_of(WHOLE, PART, name=['a', 'b'], id=[1, 2]), tmp_path)
    assert [*found] == ['name', 'id', *OURS]
    assert said == []

def test_zones_of_an_earlier_map_can_be_ranked_again(tmp_path):
    first, _ = written_zones(zones_of(WHOLE, PART, name=['a', 'b']), tmp_path)
    again, said = written_zones(first, tmp_path)
    assert again['zone_rank'].tolist() == again['rank'].tolist() == [1, 2]
    assert len(said) == 1

def numbered(zones): return zones.assign(**{'5': [1, 2]}).rename(columns={'5': 5})
def doubled(zones): return gpd.GeoDataFrame(pd.concat([zones, zones[['name']]], axis=1), crs=zones.crs)
def second(zones): return zones.assign(middle=zones.centroid)

ODD = {
    'a number as a name': numbered,
    'a name twice': doubled,
    'geometry called geom': lambda zones: zones.rename_geometry('geom'),
    'geometry called shape': lambda zones: zones.rename_geometry('shape'),
    'a second geometry': second,
    'a column called geometry beside it': lambda zones: zones.rename_geometry('geom').assign(geometry=['x', 'y']),
    'an index of two levels': lambda zones: zones.set_index(pd.MultiIndex.from_tuples([(1, 2), (1, 3)])),
}

@pytest.mark.parametrize('case', [*ODD])
def test_odd_tables_of_zones_are_written(case, tmp_path):
    found, _ = written_zones(ODD[case](zones_of(WHOLE, PART, name=['all', 'some'])), tmp_path)
    assert found.name.tolist() == ['all', 'some']
    assert set(OURS) < {*found}

BOWTIE = Polygon([(WEST, NORTH), (WEST + 300, NORTH - 300), (WEST + 300, NORTH), (WEST, NORTH - 300)])
SPIKE = Polygon([(WEST, NORTH), (WEST + 500, NORTH), (WEST + 500, NORTH - 500), (WEST + 900, NORTH - 900),
                 (WEST + 500, NORTH - 500), (WEST, NORTH - 500)])
HIGH = Polygon([(x, y, 5) for x, y in PART.exterior.coords])
SHAPES = dict(bowtie=BOWTIE, spike=SPIKE, high=HIGH, multi=MultiPolygon([PART]), collection=GeometryCollection([PART]),
              line_too=GeometryCollection([PART, LineString([(WEST, NORTH), (WEST + 9, NORTH - 9)])]))

@pytest.mark.parametrize('case', [*SHAPES])
def test_every_kind_of_polygon_is_ranked(case, tmp_path):
    shape = SHAPES[case]
    found, _ = written_zones(zones_of(WHOLE, shape, name=['all', 'some']), tmp_path)
    areas = found.set_index('name').expected_m2
    if case in ('high', 'multi', 'collection', 'line_too'): shape = PART
    if case == 'spike': shape = box(WEST, NORTH - 500, WEST + 500, NORTH)
    plain, _ = written_zones(zones_of(WHOLE, shape, name=['all', 'some']), tmp_path)
    np.testing.assert_allclose(areas['some'], plain.set_index('name').expected_m2['some'])

def spoilt(shape): return zones_of(WHOLE, shape, name=['all', 'Atsuma'])

REFUSED = {
    'empty': (spoilt(Polygon()), r'zone 2 \(Atsuma\).*no area'),
    'missing': (spoilt(None), r'zone 2 \(Atsuma\).*no area'),
    'flat': (spoilt(Polygon([(WEST, NORTH), (WEST + 500, NORTH), (WEST, NORTH)])), r'zone 2 \(Atsuma\).*no area'),
    'without a name': (zones_of(None, WHOLE), 'zone 1 '),
    'many': (zones_of(WHOLE, *[None]*7), 'zones 2, 3, 4 and 4 more'),
    'a point': (spoilt(Point(WEST, NORTH)), 'Point.*zones are polygons'),
    'no zone': (zones_of(WHOLE)[:0], 'hold no zone'),
    'a complex number': (zones_of(WHOLE, a=[1j]), r"column 'a' \(complex128\) cannot be written"),
}

def no_work(*args, **options): raise AssertionError('work was done before the zones were checked')

@pytest.mark.parametrize('case', [*REFUSED])
def test_zones_are_refused_before_any_work(case, tmp_path, monkeypatch):
    zones, said = REFUSED[case]
    monkeypatch.setattr(mapping, 'predict_scales', no_work)
    with pytest.raises(OutputError, match=said) as e:
        map_pair(bare_pair((60, 80)), toy_model(**SMALL), tmp_path/'run', zones=zones, progress=False)
    assert str(e.value).count('\n') == 0
    assert not any((tmp_path/'run').iterdir())

def test_a_table_without_geometry_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path/'zones.csv').write_text('name,people\nAtsuma,4000\n')
    monkeypatch.setattr(mapping, 'predict_scales', no_work)
    with pytest.raises(OutputError, match=r'zones\.csv.* no geometry'):
        map_pair(bare_pair((60, 80)), toy_model(**SMALL), tmp_path/'run', zones=tmp_path/'zones.csv', progress=False)

@pytest.fixture
def place(tmp_path):
    "A folder with a cube, a cube without CRS and a model"
    net, meta = toy_model(**SMALL)
    save_model(net, tmp_path/'m.safetensors',
               dict(input=meta['input'], calibration=dict(scale=1., bias=-2., threshold=.5)))
    cube = mock_cube((60, 80)).chunk(y=40)
    cube.to_zarr(tmp_path/'cube.zarr', zarr_format=2)
    bare = cube.drop_vars('spatial_ref')
    for name in ('crs', 'epsg', 'grid_mapping'): bare.attrs.pop(name, None)
    for variable in bare.variables.values():
        variable.attrs.pop('grid_mapping', None)
        variable.encoding.pop('grid_mapping', None)
    bare.to_zarr(tmp_path/'bare.zarr', zarr_format=2)
    return tmp_path

def told_to_map(place, *words, cube='cube.zarr', event='hokkaido'):
    "Exit code of `landslide-nb map` in this process"
    model = ['--model', str(place/'m.safetensors')]
    return main(['map', str(place/cube), *model, '--event', event, *map(str, words)])

def test_the_command_checks_zones_first_and_says_what_it_renamed(place, monkeypatch, capsys):
    from landslide_nb.mapping import place as settled
    cube = open_cube(place/'cube.zarr')
    scene = box(*cube.rio.bounds())
    zones = gpd.GeoDataFrame(dict(name=['all', 'Atsuma']), geometry=[scene, None], crs=cube.rio.crs)
    zones.to_file(place/'bad.geojson')
    with monkeypatch.context() as m:
        m.setattr(settled, 'settle_place', no_work)
        assert told_to_map(place, '--out', place/'run', '--zones', place/'bad.geojson') == 1
    said = capsys.readouterr().err
    assert 'bad.geojson' in said
    assert 'zone 2 (Atsuma)' in said
    zones.assign(geometry=scene, Rank=[7, 8], fid=[1, 1]).to_file(place/'zones.geojson')
    assert told_to_map(place, '--out', place/'run', '--zones', place/'zones.geojson') == 0
    said = [line for line in capsys.readouterr().err.splitlines() if 'zone_Rank' in line]
    assert len(said) == 1
    assert said[0].startswith('warning: ')
    found = gpd.read_file(place/'run'/'landslides.gpkg', layer='zones')
    assert sorted(found.zone_Rank) == [7, 8]


# Folders that cannot be replaced

def mounted(folder, *words):
    "Mount something on a folder, if the machine allows it"
    folder.mkdir(exist_ok=True)
    try: done = subprocess.run(['mount', *map(str, words), folder], capture_output=True).returncode == 0
    except FileNotFoundError: done = False
    if not done: pytest.skip('this machine does not let tests mount')

@pytest.fixture
def mount(tmp_path):
    "A folder on which something is mounted while a test lasts"
    run = tmp_path/'run'
    def on(*words):
        mounted(run, *words)
        return run
    yield on
    subprocess.run(['umount', '-l', run], capture_output=True)

@pytest.mark.parametrize('kind', ['tmpfs', 'bind'])
def test_a_mount_point_is_filled(kind, mount, tmp_path):
    (tmp_path/'other').mkdir()
    words = dict(tmpfs=['-t', 'tmpfs', '-o', 'size=60m', 'tmpfs'], bind=['--bind', tmp_path/'other'])[kind]
    run = mount(*words)
    map_pair(bare_pair((60, 80)), toy_model(**SMALL), run, progress=False)
    assert names(run) == FILES
    assert names(tmp_path) == ['other', 'run']
    with pytest.raises(OutputError, match='not empty'): map_pair(bare_pair((60, 80)), toy_model(**SMALL), run)

def test_a_new_disk_counts_as_empty(mount):
    run = mount('-t', 'tmpfs', '-o', 'size=60m', 'tmpfs')
    (run/'lost+found').mkdir()
    map_pair(bare_pair((60, 80)), toy_model(**SMALL), run, progress=False)
    assert names(run) == sorted([*FILES, 'lost+found'])

def test_a_killed_mapping_in_a_mount_point_continues(mount, tmp_path):
    run = mount('-t', 'tmpfs', '-o', 'size=200m', 'tmpfs')
    kill_when(start(run), lambda: len(finished(run/'.tiles')) >= 5)
    assert names(run) == ['.tiles']
    kept = {path: path.stat().st_mtime_ns for path in finished(run/'.tiles')}
    half = run/'.half'
    kill_when(start(run), lambda: half.exists() and any(half.iterdir()))
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items()), 'finished tiles were computed again'
    assert find_runs(run) == {}
    process = start(run)
    assert process.communicate(timeout=120)[1].count('Error') == 0
    assert names(run) == FILES
    assert names(tmp_path) == ['run']

@pytest.mark.parametrize('room', ['900k', '1500k'])
def test_a_full_mounted_disk_is_one_sentence(room, mount, monkeypatch):
    monkeypatch.setattr(mapping, 'check_room', lambda folder, need: None)
    run = mount('-t', 'tmpfs', '-o', f'size={room}', 'tmpfs')
    with pytest.raises(OutputError, match='make room'):
        map_pair(bare_pair((200, 300)), toy_model(**SMALL), run, tile=64, progress=False)
    assert find_runs(run) == {}
    assert set(names(run)) <= {'.tiles'}

def test_the_room_is_that_of_the_mounted_disk(mount):
    run = mount('-t', 'tmpfs', '-o', 'size=100k', 'tmpfs')
    with pytest.raises(OutputError, match='bytes left'):
        map_pair(bare_pair((60, 80)), toy_model(**SMALL), run, progress=False)

def test_a_read_only_disk_is_one_sentence(mount):
    run = mount('-t', 'tmpfs', '-o', 'size=1m,ro', 'tmpfs')
    with pytest.raises(OutputError, match='choose a folder you may write to'):
        map_pair(bare_pair((60, 80)), toy_model(**SMALL), run, progress=False)

def test_a_folder_below_one_that_may_not_be_written(tmp_path, monkeypatch):
    run, ask = tmp_path/'run', os.access
    run.mkdir()
    monkeypatch.setattr(os, 'access', lambda path, mode: Path(path) != tmp_path and ask(path, mode))
    seen = []
    def predict(pair, net, meta, work, **options):
        seen.append(work)
        return predict_scales(pair, net, meta, work, **options)
    predict_scales = mapping.predict_scales
    monkeypatch.setattr(mapping, 'predict_scales', predict)
    map_pair(bare_pair((60, 80)), toy_model(**SMALL), run, progress=False)
    assert seen == [run/'.tiles']
    assert names(run) == FILES
    assert names(tmp_path) == ['run']

@pytest.mark.parametrize('code', [errno.EBUSY, errno.EPERM, errno.EACCES])
def test_a_folder_that_does_not_let_itself_be_replaced(code, tmp_path, monkeypatch):
    replace = os.replace
    def refuse_folders(a, b):
        if Path(a).is_dir(): raise OSError(code, os.strerror(code))
        replace(a, b)
    monkeypatch.setattr(os, 'replace', refuse_folders)
    with whole_folder(tmp_path/'run') as half: (half/'a').touch()
    assert names(tmp_path/'run') == ['a']
    assert names(tmp_path) == ['run']

def test_the_folder_a_shell_works_in_stays(place, monkeypatch):
    (place/'run').mkdir()
    monkeypatch.chdir(place/'run')
    before = os.stat('.').st_ino
    assert told_to_map(place, '--out', '.') == 0
    assert os.stat(place/'run').st_ino == before
    assert set(FILES) < set(os.listdir())
    assert Path.cwd() == place/'run'
    assert names(place) == ['bare.zarr', 'cube.zarr', 'm.safetensors', 'run']

def test_a_mapping_killed_under_its_name_continues_in_the_folder(tmp_path, monkeypatch):
    run = tmp_path/'run'
    kill_when(start(run), lambda: len(finished(tmp_path/'.run.tiles')) >= 5)
    monkeypatch.chdir(run)
    map_pair(bare_pair((700, 900)).chunk(y=200, x=200), toy_model(**SMALL), '.', tile=64, progress=False)
    assert names(run) == FILES
    assert names(tmp_path) == ['run']

def fill(folder, count):
    "Write a made-up run folder from a child that dies after so many moves; whether it died"
    child = os.fork()
    if child == 0:
        replace, moves = os.replace, []
        def dying(a, b):
            if len(moves) == count: os._exit(9)
            moves.append(b)
            replace(a, b)
        os.replace = dying
        os.chdir(folder)
        with whole_folder('.') as half:
            for name in FILES: (half/name).write_text(name)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

@pytest.mark.parametrize('count', range(len(FILES)))
def test_a_crash_while_a_folder_is_filled_is_no_run(count, tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    assert fill(run, count)
    visible = [name for name in names(run) if not name.startswith('.')]
    assert len(visible) == count
    if count <= len(FILES) - 3: assert find_runs(tmp_path) == {}
    assert not (run/'probability.tif').exists()
    assert not fill(run, 99)
    assert names(run) == FILES
    assert names(tmp_path) == ['run']
    assert all((run/name).read_text() == name for name in FILES)

def test_an_error_while_a_folder_is_filled_leaves_it_empty(tmp_path, monkeypatch):
    replace = os.replace
    def full(a, b):
        if Path(a).name == 'metrics.json': raise OSError(errno.ENOSPC, 'No space left on device')
        replace(a, b)
    (tmp_path/'run').mkdir()
    monkeypatch.chdir(tmp_path/'run')
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OutputError, match='No space left'):
        with whole_folder('.') as half:
            for name in FILES: (half/name).touch()
    assert os.listdir() == []
    assert names(tmp_path) == ['run']

def test_what_somebody_else_put_there_meanwhile_stays(tmp_path):
    with pytest.raises(OutputError, match='not empty'):
        with whole_folder(tmp_path/'run') as half:
            (half/'probability.tif').write_text('ours')
            (tmp_path/'run'/'probability.tif').write_text('theirs')
    assert (tmp_path/'run'/'probability.tif').read_text() == 'theirs'
    assert names(tmp_path/'run') == ['probability.tif']

def test_a_list_of_strangers_removes_nothing_outside(tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    (tmp_path/'kept.txt').touch()
    (run/'.unfinished').write_text('../kept.txt\n..\n.\n\n/etc/hostname\n')
    with whole_folder(run) as half: (half/'a').touch()
    assert names(tmp_path) == ['kept.txt', 'run']
    assert names(run) == ['a']

def test_a_removed_working_folder_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path/'gone').mkdir()
    monkeypatch.chdir(tmp_path/'gone')
    (tmp_path/'gone').rmdir()
    for out in ('.', 'run'):
        with pytest.raises(OutputError, match='[Cc]annot write'): map_pair(bare_pair((60, 80)), toy_model(**SMALL), out)

def test_home_and_slashes(place, monkeypatch):
    monkeypatch.setenv('HOME', str(place))
    monkeypatch.chdir(place)
    model = toy_model(**SMALL)
    map_pair(bare_pair((60, 80)), model, '~/first', progress=False)
    map_pair(bare_pair((60, 80)), model, f'{place}/second/', progress=False)
    words = ['map', '~/cube.zarr/', '--model', '~/m.safetensors', '--event', 'hokkaido', '--out=~/third/']
    assert main(words) == 0
    assert names(place) == ['bare.zarr', 'cube.zarr', 'first', 'm.safetensors', 'second', 'third']
    assert all(set(FILES) <= set(names(place/name)) for name in ('first', 'second', 'third'))
    for name in ('finetune', 'pretrain', 'adapt'):
        given = parser().parse_args([name, 'demo_a', '--out=~/m.safetensors', '--pretrained=~/a.safetensors'][:4 - (name == 'pretrain')])
        assert given.out == str(place/'m.safetensors')
    assert main(['map', 'cube.zarr', '--out', '~nobody-of-this-name/run', '--model', 'm.safetensors']) in (0, 1)


# Cubes without CRS

READ_CUBES = ('map', 'adapt', 'pretrain', 'finetune')

@pytest.mark.parametrize('name', READ_CUBES)
def test_every_command_that_reads_cubes_takes_a_crs(name, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    out = 'run' if name == 'map' else 'new.safetensors'
    assert main([name, 'bare.zarr', '--event', 'hokkaido', '--out', out]) == 1
    said = capsys.readouterr().err
    assert 'bare.zarr has no CRS' in said
    assert '--crs EPSG:' in said
    assert 'cube.rio' not in said
    for word in ('32654', 'EPSG:32654', 'epsg:32654'):
        assert parser().parse_args([name, 'bare.zarr', '--out', out, '--crs', word]).crs.upper() == 'EPSG:32654'
    with pytest.raises(SystemExit) as e: main([name, 'bare.zarr', '--out', out, '--crs', 'EPSG:99999999'])
    assert e.value.code == 2
    assert 'no coordinate reference system' in capsys.readouterr().err

def test_a_cube_without_crs_is_mapped_as_one_with(place):
    assert told_to_map(place, '--out', place/'with') == 0
    assert told_to_map(place, '--out', place/'given', '--crs', 'EPSG:32654', cube='bare.zarr') == 0
    opened = [rasterio.open(place/name/'probability.tif') for name in ('with', 'given')]
    assert opened[0].crs == opened[1].crs == 'EPSG:32654'
    assert opened[0].transform == opened[1].transform
    np.testing.assert_array_equal(*(f.read(1) for f in opened))
    for f in opened: f.close()

def test_a_crs_that_contradicts_the_cube_is_refused(place, capsys):
    assert told_to_map(place, '--out', place/'same', '--crs', 'EPSG:32654') == 0
    assert told_to_map(place, '--out', place/'run', '--crs', 'EPSG:32655') == 1
    said = capsys.readouterr().err
    assert '32654' in said
    assert '32655' in said

def test_python_is_told_about_its_own_word(place):
    options = dict(event='hokkaido', progress=False)
    with pytest.raises(CubeError, match="bare.zarr has no CRS.*crs='EPSG:"):
        map_cube(place/'bare.zarr', place/'m.safetensors', place/'run', **options)
    metrics = map_cube(place/'bare.zarr', place/'m.safetensors', place/'run', crs='EPSG:32654', **options)
    assert metrics['event_name'] == 'hokkaido'
    assert set(FILES) < set(names(place/'run'))


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='the limit of memory is known on Linux only')
def test_next_to_no_memory_is_a_sentence_and_not_a_hang(tmp_path):
    "With 64 MB more than is loaded, a map hung in a library"
    code = f"""
import resource, sys
import landslide_nb.all
from landslide_nb.cli import main
pages = int(open('/proc/self/statm').read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages*resource.getpagesize() + 2**26,)*2)
sys.exit(main(['map', 'demo_a', '--out', {str(tmp_path/'run')!r}]))
"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert out.returncode == 1 and 'landslide-nb: out of memory' in out.stderr, out.stderr[-2000:]
    assert not (tmp_path/'run').exists()
