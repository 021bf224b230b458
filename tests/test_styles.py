"A run folder opens ready: styles, descriptions of columns, a project, whoever wrote the names in it."
import json, os, re, sqlite3
from contextlib import closing
from xml.etree.ElementTree import fromstring
import geopandas as gpd, numpy as np, pyogrio, pytest
from shapely import box
from landslide_nb.browser.runs import open_run
from landslide_nb.mapping.runfolder import polygons_again, write_products
from landslide_nb.styles import FIELDS, PROJECT, kml_driver
from landslide_nb.testing import mock_pair, mock_probability

HOSTILE = '</title><script>alert(1)</script>&"\'\x00\x07\ud800 ../../etc'

def heights(pair):
    return pair.assign(dem=(('y', 'x'), np.add.outer(np.arange(150.), np.arange(203.)).astype('float32')))

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run folder with zones and heights, named by somebody who means no good"
    pair = heights(mock_pair(hole=True)).assign_attrs(event_name=HOSTILE.replace('\ud800', ''))
    prob = mock_probability(pair)
    west, south, east, north = prob.rio.bounds()
    halves = [box(west, south, (west + east)/2, north), box((west + east)/2, south, east, north)]
    zones = gpd.GeoDataFrame({'area_m2': [1, 2], 'name': ['<b>', '"&\x01'], 'threshold': ['x', 'y']}, geometry=halves, crs=prob.rio.crs)
    folder = tmp_path_factory.mktemp('styles')/'run'
    write_products(folder, pair, prob, dict(arch='unet', training=dict(train_chips=20)), zones=zones, min_area=0.)
    return folder

def styles(run): return pyogrio.read_dataframe(run/'landslides.gpkg', layer='layer_styles').set_index('f_table_name')

def test_gdal_lists_the_styles_and_reads_one_for_each_layer(run):
    kinds = dict(pyogrio.list_layers(run/'landslides.gpkg').tolist())
    assert set(kinds) == {'polygons', 'cells', 'zones', 'mapped', 'layer_styles'} and kinds['layer_styles'] is None
    found = styles(run)
    assert set(found.index) == set(kinds) - {'layer_styles'}
    assert found.useAsDefault.all() and (found.f_geometry_column == 'geom').all()
    assert (found.f_table_schema == '').all(), 'QGIS asks for an empty text, not for nothing'
    for name, text in found.styleQML.items():
        style = fromstring(text)
        assert style.find('renderer-v2') is not None, name
    assert fromstring(found.styleQML['cells']).find('renderer-v2').get('attr') == 'expected_m2'

def test_the_classes_of_cells_hold_every_cell(run):
    cells = gpd.read_file(run/'landslides.gpkg', layer='cells')
    ranges = fromstring(styles(run).styleQML['cells']).findall('.//range')
    ends = [(float(o.get('lower')), float(o.get('upper'))) for o in ranges]
    assert ends[0][0] == 0 and ends[-1][1] == pytest.approx(cells.expected_m2.max())
    assert [upper for _, upper in ends[:-1]] == [lower for lower, _ in ends[1:]]

def test_every_column_of_a_map_is_described_and_none_of_a_user(run):
    with closing(sqlite3.connect(run/'landslides.gpkg')) as db:
        rows = db.execute('SELECT table_name, column_name, description FROM gpkg_data_columns').fetchall()
        extensions = {name for name, in db.execute('SELECT extension_name FROM gpkg_extensions')}
        assert db.execute('PRAGMA integrity_check').fetchone() == ('ok',)
        assert db.execute("SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'").fetchone() == ('attributes',)
    assert 'gpkg_schema' in extensions and all(text for *_, text in rows)
    said = {name: {column for layer, column, _ in rows if layer == name} for name in FIELDS}
    for name in ('polygons', 'cells', 'mapped'):
        assert said[name] == set(gpd.read_file(run/'landslides.gpkg', layer=name).columns) - {'geometry'}, name
    assert said['zones'] == said['cells']

def test_polygons_say_what_they_are(run):
    found = gpd.read_file(run/'landslides.gpkg', layer='polygons')
    assert found.id.tolist() == list(range(1, len(found) + 1)) and sorted(found['rank']) == found.id.tolist()
    worst = found.set_index('rank').sort_index()
    assert (worst.area_m2*worst.mean_probability).is_monotonic_decreasing
    middle = gpd.GeoSeries.from_xy(found.lon, found.lat, crs=4326).to_crs(found.crs)
    assert (middle.distance(found.geometry) < 30).all()
    assert set(found.model) == {'unet, 20 labelled chips'} and set(found.threshold) == {.5}
    assert not {'area_low', 'area_high'} & set(found.columns), 'no interval where none is known'
    again = polygons_again(run)
    assert list(again.columns) == list(found.columns) and (again.area_m2 == found.area_m2).all()

def test_project_is_xml_and_its_paths_stay_in_the_folder(run):
    project = fromstring((run/PROJECT).read_text())
    sources = [o.text for o in project.iter('datasource')]
    assert len(sources) == 8 and sources == [o.get('source') for o in project.iter('layer-tree-layer')]
    assert all(re.fullmatch(r'\./[a-z]+\.(tif|gpkg\|layername=[a-z]+)', text) for text in sources)
    assert all((run/text.split('|')[0]).is_file() for text in sources)
    assert str(run.parent) not in (run/PROJECT).read_text()
    assert project.find('.//Paths/Absolute').text == 'false'
    assert '<script>' in project.find('title').text, 'kept as a text, not as an element'
    ids = [o.text for o in project.findall('.//maplayer/id')]
    assert len(set(ids)) == 8 and min(map(len, ids)) >= 10, 'QGIS gives others to shorter ones'

def test_outlines_lie_above_probability_and_that_above_radar(run):
    names = [o.get('id').removeprefix('landslides_')
             for o in fromstring((run/PROJECT).read_text()).iter('layer-tree-layer')]
    assert names == ['polygons', 'mapped', 'zones', 'cells', 'probability', 'truth', 'dem', 'pair']

def test_every_raster_has_its_style(run):
    for path in run.glob('*.tif'):
        assert fromstring(path.with_suffix('.qml').read_text()).find('pipe/rasterrenderer') is not None
    items = fromstring((run/'probability.qml').read_text()).findall('.//item')
    assert [o.get('alpha') for o in items if float(o.get('value')) < .05] == ['0', '0']

def test_polygons_in_degrees(run):
    found = gpd.read_file(run/'landslides.gpkg', layer='polygons')
    plain = json.loads((run/'landslides.geojson').read_text())
    assert [o['properties']['id'] for o in plain['features']] == found.id.tolist()
    if kml_driver():
        assert len(gpd.read_file(run/'landslides.kml')) == len(found) and fromstring(
            (run/'landslides.kml').read_bytes()) is not None

def test_the_item_names_every_file_with_title_role_and_bands(run):
    assets = json.loads((run/'item.json').read_text())['assets']
    assert {o['href'] for o in assets.values()} == {o.name for o in run.iterdir()} - {'item.json'}
    assert all(o['title'] and o['roles'] for o in assets.values())
    assert assets['probability']['roles'] == ['data'] and assets['map_qgs']['roles'] == ['style']
    assert [(o['name'], o['unit'], o['data_type']) for o in assets['dem']['bands']] == [('dem', 'm', 'float32')]

def test_the_same_map_has_the_same_styles(run, tmp_path):
    pair = heights(mock_pair(hole=True)).assign_attrs(event_name='here')
    texts = []
    for name in ('first', 'second'):
        write_products(tmp_path/name, pair, mock_probability(pair), {})
        files = sorted(o for o in (tmp_path/name).iterdir() if o.suffix in ('.qml', '.qgs', '.geojson'))
        with closing(sqlite3.connect(tmp_path/name/'landslides.gpkg')) as db: rows = db.execute('SELECT * FROM layer_styles').fetchall()
        texts.append(([o.read_bytes() for o in files], rows))
    assert texts[0] == texts[1]

def test_a_run_without_any_of_it_still_opens(run, tmp_path):
    "As older versions wrote it"
    old = tmp_path/'old'
    old.mkdir()
    for path in run.iterdir():
        if path.suffix not in ('.qml', '.qgs', '.kml', '.geojson'): os.link(path, old/path.name)
    (old/'landslides.gpkg').unlink()
    for name in ('cells', 'mapped'): gpd.read_file(run/'landslides.gpkg', layer=name).to_file(old/'landslides.gpkg', layer=name)
    assert open_run(tmp_path, 'old').missing == open_run(run.parent, 'run').missing
    assert not open_run(tmp_path, 'old').missing

def test_degrees_are_known_to_the_hillshade(tmp_path):
    pair = heights(mock_pair(crs='EPSG:4326', corner=(141., 42.), pixel=1e-4))
    write_products(tmp_path/'run', pair, mock_probability(pair), {})
    assert float(fromstring((tmp_path/'run'/'dem.qml').read_text()).find('.//rasterrenderer').get('zfactor')) < 1e-5

def test_a_polygon_across_180_degrees_becomes_two_parts(tmp_path):
    "In a UTM zone beside that meridian: the files in degrees open, and no part runs round the earth"
    from pyproj import Transformer
    east, north = Transformer.from_crs(4326, 32601, always_xy=True).transform(-180, 52)
    pair = mock_pair()
    height, width = pair.sizes['y'], pair.sizes['x']
    x = east + 10.*(np.arange(width) - width//2)
    y = north - 10.*(np.arange(height) - height//2)
    pair = pair.assign_coords(x=x, y=y).rio.write_crs('EPSG:32601')
    prob = mock_probability(pair)*0
    prob[20:30, width//2 - 12:width//2 + 12] = .9
    write_products(tmp_path/'run', pair, prob.rio.write_crs('EPSG:32601'), dict(arch='unet'), min_area=0.)
    for name in ('landslides.geojson', *(['landslides.kml'] if kml_driver() else [])):
        (shape,) = gpd.read_file(tmp_path/'run'/name).geometry
        assert len(shape.geoms) == 2, name
        assert all(part.bounds[2] - part.bounds[0] < .01 for part in shape.geoms), name
        assert shape.is_valid
