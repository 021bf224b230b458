"Labels in one file: killed processes, other programs that edit and lock it, bad files; and a model that learns from them by command."
import resource, shutil, signal, sqlite3, subprocess, sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
import geopandas as gpd, pytest, shapely
from shapely.geometry import box
from conftest import command, one_sentence
from landslide_nb.core import LandslideError, OutputError
from landslide_nb.labelling import labels as module
from landslide_nb.labelling.labels import (
    LABELS, WAITING, LabelError, chip_boxes, decide, read_labels, save_decisions, sight_of, write_labels)
from landslide_nb.labelling.ground import label_image
from landslide_nb.labelling.suggest import hand_out
from landslide_nb.testing import mock_landscape

pair = mock_landscape((256, 384), 16)
chips = chip_boxes(pair)
ann, bob = (sight_of(pair.attrs, name) for name in ('ann', 'bob'))

def outline(k, size=200.):
    "A square in the middle of a chip"
    x, y = chips.geometry[k].centroid.coords[0]
    return box(x - size/2, y - size/2, x + size/2, y + size/2)

def decision(k, by=ann, word='landslide'):
    return decide(chips.iloc[[k]], word, by, [outline(k)] if word == 'landslide' else [])

def decided(folder): return sorted(zip(read_labels(folder).seen.chip, read_labels(folder).seen.decision))

# ------------------------------------------------------------------ killed

SAVER = '''
import os, random, signal, sys, time
from pathlib import Path
from shapely.geometry import box
import geopandas as gpd
from landslide_nb.labelling.labels import decide, label_file, read_labels, save_decisions, Sight
folder, acks = Path(sys.argv[1]), Path(sys.argv[1])/'acks.txt'
def chip(name): return gpd.GeoDataFrame(dict(chip=[name]), geometry=[box(0, 0, 1280, 1280)], crs='EPSG:32654')
def save_on(turn):
    with open(acks, 'a') as f:
        for k in range(10_000):
            name = f'r{turn:05}_c{k:05}'
            slides = [box(10*n, 10, 10*n + 5, 20) for n in range(20)]
            assert save_decisions(folder, decide(chip(name), 'landslide', Sight('ann'), slides)) == ''
            f.write(name + '\\n')
            f.flush()
for turn in range(20):
    child = os.fork()
    if not child: save_on(turn)
    begun = acks.stat().st_size if acks.exists() else 0
    while not acks.exists() or acks.stat().st_size <= begun: time.sleep(.002)
    time.sleep(random.Random(turn).uniform(0, .08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = read_labels(folder)
    promised = set(acks.read_text().split())
    assert promised <= set(found.seen.chip), 'a decision is lost'
    outlines = found.landslides.groupby('chip').size()
    assert set(outlines.index) == set(found.seen.chip) and (outlines == 20).all(), 'half a decision is there'
    assert len(found.seen) - len(promised) <= turn + 1
print(len(promised), 'decisions')
'''

def test_twenty_kills_while_saving_lose_nothing(tmp_path):
    out = subprocess.run([sys.executable, '-c', SAVER, str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert out.returncode == 0, out.stderr[-2000:]
    assert int(out.stdout.split()[0]) >= 20

def test_many_people_save_at_once(tmp_path):
    "Several processes add to one new file; nobody's decision is lost"
    code = ('import sys; sys.path.insert(0, sys.argv[3]); from test_labelling import *\n'
            'for k in range(6): assert save_decisions(sys.argv[1], decision(k, replace(ann, reviewer=sys.argv[2]))) == ""')
    people = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path), name, str(Path(__file__).parent)])
              for name in ('eve', 'kim', 'lou')]
    assert [o.wait(300) for o in people] == [0, 0, 0]
    found = read_labels(tmp_path)
    assert len(found.seen) == len(found.landslides) == 18
    assert not (tmp_path/WAITING).exists()

# ------------------------------------------------------------------ other programs

ogrinfo = shutil.which('ogrinfo')
by_gdal = pytest.mark.skipif(ogrinfo is None, reason='there is no ogrinfo on this machine (apt-get install gdal-bin)')

def edit(path, sql): subprocess.run([ogrinfo, '-q', str(path), '-sql', sql], check=True, capture_output=True, text=True)

@by_gdal
def test_edits_of_a_gis_are_read_back_and_kept(tmp_path):
    for k in range(3): save_decisions(tmp_path, decision(k))
    path = tmp_path/LABELS
    wkt = shapely.transform(outline(0), lambda xy: xy + 50).wkt
    edit(path, f"UPDATE landslides SET geom = ST_GeomFromText('{wkt}', 32654) WHERE chip = '{chips.chip[0]}'")
    edit(path, f"DELETE FROM landslides WHERE chip = '{chips.chip[1]}'")
    edit(path, 'ALTER TABLE landslides ADD COLUMN texture TEXT')
    edit(path, f"INSERT INTO landslides (texture, geom) VALUES ('rough', ST_GeomFromText('{outline(2, 60).wkt}', 32654))")
    save_decisions(tmp_path, decision(4, bob, 'none'))
    found = read_labels(tmp_path)
    assert len(found.seen) == 4 and len(found.landslides) == 3
    assert found.landslides.texture.tolist().count('rough') == 1
    assert found.landslides.id.map(len).tolist() == [36, 36, 36]
    moved = found.landslides[found.landslides.chip == chips.chip[0]].geometry.iloc[0]
    assert moved.centroid.distance(outline(0).centroid) == pytest.approx(50*2**.5)
    near = label_image(found, pair).values
    assert (near[:128, 128:256] == 255).all(), 'a landslide chip without an outline is not known'
    ogr = subprocess.run([ogrinfo, '-so', '-al', str(path)], capture_output=True, text=True)
    assert 'Feature Count: 4' in ogr.stdout and 'Warning' not in ogr.stderr

def test_other_order_of_columns_other_types_and_a_lost_layer(tmp_path):
    save_decisions(tmp_path, decision(0))
    path = tmp_path/LABELS
    tables = read_labels(tmp_path).tables
    path.unlink()
    seen = tables['seen'][['pair', 'geometry', 'time', 'reviewer', 'decision', 'chip']].assign(mood='good')
    seen.to_crs(4326).to_file(path, layer='seen', driver='GPKG')
    flat = tables['landslides'].explode().assign(geometry=lambda o: shapely.force_3d(o.geometry.values))
    flat[['sure', 'chip', 'geometry']].to_crs(4326).to_file(path, layer='landslides', driver='GPKG')
    assert save_decisions(tmp_path, decision(1, bob)) == ''
    found = read_labels(tmp_path, pair.rio.crs)
    assert found.seen.reviewer.tolist() == ['ann', 'bob'] and found.seen.mood.tolist()[0] == 'good'
    image = label_image(found, pair).values
    assert (image[:128, :256] == 1).sum() == pytest.approx(800, abs=30)

def test_a_gis_keeps_the_file_while_decisions_are_made(tmp_path, monkeypatch):
    "As QGIS does: write-ahead logging, a reader that stays, then a writer that does not end"
    monkeypatch.setattr(module, 'PATIENCE', .2)
    save_decisions(tmp_path, decision(0))
    gis = sqlite3.connect(tmp_path/LABELS, isolation_level=None)
    gis.execute('PRAGMA journal_mode=WAL')
    gis.execute('BEGIN')
    gis.execute('SELECT count(*) FROM seen').fetchone()
    assert save_decisions(tmp_path, decision(1)) == ''
    assert len(read_labels(tmp_path).seen) == 2
    gis.execute('COMMIT')
    gis.execute('BEGIN IMMEDIATE')
    gis.execute("UPDATE gpkg_contents SET description = 'from the gis'")
    said = save_decisions(tmp_path, decision(2))
    assert 'locked by another program' in said and 'waits in labels.waiting.gpkg' in said
    with pytest.raises(LabelError, match='locked'): save_decisions(tmp_path, decision(2), remove=['x'])
    gis.execute('COMMIT')
    assert len(read_labels(tmp_path).seen) == 3
    assert gis.execute('SELECT DISTINCT description FROM gpkg_contents').fetchall() == [('from the gis',)]
    gis.close()

# ------------------------------------------------------------------ bad files

DAMAGE = {'empty': lambda whole: b'', 'half': lambda whole: whole[:len(whole)//2], 'other': lambda whole: b'hello'*1000,
          'torn': lambda whole: whole[:4096] + bytes(8192) + whole[12288:]}

@pytest.mark.parametrize('kind', DAMAGE)
def test_a_damaged_file_is_one_sentence_and_decisions_wait(tmp_path, kind):
    save_decisions(tmp_path, decision(0))
    path = tmp_path/LABELS
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[kind](whole))
    with pytest.raises(LabelError, match='damaged or half-written') as e: read_labels(tmp_path)
    assert '\n' not in str(e.value)
    assert 'waits' in save_decisions(tmp_path, decision(1))
    path.unlink() # as the sentence says
    assert save_decisions(tmp_path, decision(2)) == ''
    assert [chip for chip, _ in decided(tmp_path)] == [chips.chip[1], chips.chip[2]]

def test_self_crossing_outlines_are_repaired_and_said(tmp_path):
    x, y = chips.geometry[0].centroid.coords[0]
    bow = shapely.Polygon([(x, y), (x + 200, y - 200), (x + 200, y), (x, y - 200)])
    save_decisions(tmp_path, decide(chips.iloc[[0]], 'landslide', ann, [bow]))
    found = read_labels(tmp_path)
    assert any('crossed themselves and were repaired' in o for o in found.said)
    assert (label_image(found, pair).values == 1).sum() == pytest.approx(200, abs=25)

def test_both_ways_by_two_people(tmp_path):
    save_decisions(tmp_path, decision(0))
    save_decisions(tmp_path, decision(0, bob, 'none'))
    found = read_labels(tmp_path)
    assert 'marked both ways by different people' in found.said[-1]
    image = label_image(found, pair).values[:128, :128]
    assert (image == 255).sum() == 400 and (image == 1).sum() == 0

CUT_OFF = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA cache_size = 1') # pages go into the file before the change ends
db.execute('BEGIN IMMEDIATE')
db.execute("UPDATE gpkg_contents SET table_name = 'lost' WHERE table_name = 'seen'")
db.execute('CREATE TABLE half (a)')
db.executemany('INSERT INTO half VALUES (?)', [['x'*3000]]*500)
os._exit(9)
"""

def test_a_change_that_was_cut_off_in_the_file_is_undone(tmp_path):
    "Half of it lies in the file, and the journal beside it says how it was before"
    save_decisions(tmp_path, decision(0))
    journal, before = tmp_path/f'{LABELS}-journal', (tmp_path/LABELS).stat().st_size
    out = subprocess.run([sys.executable, '-c', CUT_OFF, str(tmp_path/LABELS)])
    assert out.returncode == 9 and journal.exists() and (tmp_path/LABELS).stat().st_size > 2*before
    assert decided(tmp_path) == [(chips.chip[0], 'landslide')]
    subprocess.run([sys.executable, '-c', CUT_OFF, str(tmp_path/LABELS)])
    assert journal.exists() and save_decisions(tmp_path, decision(1, bob)) == ''
    assert decided(tmp_path) == [(chips.chip[0], 'landslide'), (chips.chip[1], 'landslide')]
    assert [path.name for path in tmp_path.iterdir()] == [LABELS]

# ------------------------------------------------------------------ no room

@contextmanager
def no_larger_file(size):
    "Stands in for a full disk: no file may grow further"
    before, limit = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)

def polygons_in_degrees(folder):
    from landslide_nb.mapping.runfolder import whole_folder
    from landslide_nb.styles import write_in_degrees
    with whole_folder(folder/'run') as half:
        write_in_degrees(half, gpd.GeoDataFrame(dict(rank=[1, 2]), geometry=[outline(0), outline(1)], crs=chips.crs))

def layers_of_a_map(folder):
    from landslide_nb.mapping.layers import write_layers
    from landslide_nb.mapping.runfolder import whole_folder
    with whole_folder(folder/'run') as half: write_layers(dict(cells=chips), half/'landslides.gpkg')

WRITERS = {
    'first decision': lambda folder: save_decisions(folder, decision(0)),
    'label file': lambda folder: write_labels(decision(0), folder/'own.gpkg'),
    'chips to label': lambda folder: hand_out(folder, chips.head(2).assign(purpose='teach')),
    'layers of a map': layers_of_a_map,
    'polygons in degrees': polygons_in_degrees,
}

@pytest.mark.parametrize('size', [100, 5000, 60_000])
@pytest.mark.parametrize('writer', WRITERS)
def test_a_full_disk_is_one_sentence_whoever_writes_features(tmp_path, writer, size):
    "GDAL says of a full disk that a table is not there, or that a feature could not be added"
    if writer == 'polygons in degrees': size //= 50 # text is shorter than a database
    with no_larger_file(size), pytest.raises(OutputError, match='^Cannot write .*make room') as e:
        WRITERS[writer](tmp_path)
    assert len(str(e.value)) < 400 and '\n' not in str(e.value)
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]

def test_a_decision_for_which_there_is_no_room_is_one_sentence(tmp_path):
    save_decisions(tmp_path, decision(0))
    before = (tmp_path/LABELS).read_bytes()
    with no_larger_file(len(before) + 4096), pytest.raises(LandslideError, match='make room') as e:
        save_decisions(tmp_path, decide(chips, 'none', ann, note='a'*50_000))
    assert '\n' not in str(e.value)
    assert decided(tmp_path) == [(chips.chip[0], 'landslide')]
    assert save_decisions(tmp_path, decision(1)) == ''
    assert [path.name for path in tmp_path.iterdir()] == [LABELS]

# ------------------------------------------------------------------ commands

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A small cube and labels of two of its chips"
    from landslide_nb.data.cube import save_cube
    from landslide_nb.data.simulate import simulate_event
    from landslide_nb.mapping.areas import mapped_polygons
    folder = tmp_path_factory.mktemp('place')
    cube = simulate_event('demo_a', size=384)
    save_cube(cube, folder/'cube.zarr')
    slides = mapped_polygons(cube.landslides)
    boxes = chip_boxes(cube)
    full = boxes.geometry.map(lambda o: slides.intersection(o).area.sum())
    two = boxes.loc[[full.idxmax(), full.idxmin()]]
    slides.clip(two.geometry.iloc[0]).explode().to_file(folder/'slides.geojson')
    two.to_file(folder/'seen.geojson')
    return folder

def test_two_chips_make_a_model_and_a_map(place):
    out = command('finetune', 'cube.zarr', '--event', 'demo_a', '--labels', 'slides.geojson', '--seen', 'seen.geojson',
                  '--epochs', 1, '--out', 'm.safetensors', cwd=place, cold=True)
    assert out.returncode == 0, out.stderr[-2000:]
    assert '2 extents looked at' in out.stdout and 'none is left to check with' in out.stdout, out.stdout
    out = command('map', 'cube.zarr', '--event', 'demo_a', '--model', 'm.safetensors', '--out', 'run', cwd=place)
    assert out.returncode == 0 and (place/'run'/'probability.tif').exists(), out.stderr[-2000:]

def test_labels_that_cannot_be_used_are_one_sentence(place):
    def fails(*words, says): one_sentence(command('finetune', 'cube.zarr', '--out', 'x.safetensors', *words, cwd=place), says)
    fails('--event', 'demo_a', '--labels', 'slides.geojson', says='show only landslides')
    fails('--event', 'demo_a', '--labels', 'slides.geojson', '--budget', '4', says='leave --budget out')
    gpd.read_file(place/'slides.geojson').to_crs(3857).translate(1e6).to_frame('geometry').to_file(place/'far.geojson')
    fails('--event', 'demo_a', '--labels', 'far.geojson', says='lie outside the scene')
    boxes = gpd.read_file(place/'seen.geojson').assign(chip=['a', 'b'])
    others = replace(ann, pre='2020-01-01', post='2020-01-13')
    write_labels(decide(boxes, 'none', others), place/'later.gpkg')
    fails('--event', 'demo_a', '--labels', 'later.gpkg', says='do not enclose the event')
    write_labels(decide(boxes, 'none', sight_of({})), place/'free.gpkg')
    fails('--event', 'demo_a', '--labels', 'free.gpkg', says='show no landslide')
    (place/'half.gpkg').write_bytes((place/'free.gpkg').read_bytes()[:20_000])
    fails('--event', 'demo_a', '--labels', 'half.gpkg', says='damaged or half-written')
    assert not (place/'x.safetensors').exists()
