"Roads, people and places by the command: numbers that another way of counting gives too, files that cannot be used, words on page and screen."
import json

import geopandas as gpd
import numpy as np
import pytest
import rioxarray
import xarray as xr
from shapely.geometry import LineString, Point, box

from landslide_nb.browser.runs import open_run
from landslide_nb.browser.words import worst_text
from landslide_nb.cli import main
from landslide_nb.data.cube import open_cube
from landslide_nb.learn.models import save_model
from landslide_nb.learn.networks import build_model
from landslide_nb.testing import mock_cube

STATS = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
SPEC = dict(channels=['vv', 'vh'], change=True, size=128, stats=STATS)
AREA = dict(coverage=.9, chips=19, pixels=100, low=-8/3, high=3.) # errors of a calibration
ROW = 60 # of pixels, in whose middle the road runs

def population(cube, people=1.):
    "A raster of so many people in every pixel of a cube"
    one = xr.full_like(cube.vv.isel(time=0, drop=True).astype('float32'), people).reset_coords(drop=True)
    return one.rio.write_crs(cube.rio.crs).rio.write_transform(cube.rio.transform())

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A cube, a model, and what a user has of the place"
    folder = tmp_path_factory.mktemp('place')
    source = mock_cube()
    source.chunk(y=40).to_zarr(folder/'cube.zarr', zarr_format=2)
    net = build_model('unet', stage=2, width=4, levels=2).eval()
    save_model(net, folder/'m.safetensors',
               dict(input=SPEC, calibration=dict(scale=1., bias=0., threshold=.01, area=AREA)))
    cube = open_cube(source)
    west, south, east, north = cube.rio.bounds()
    y = north - (ROW + .5)*abs(cube.rio.resolution()[1])
    road = gpd.GeoDataFrame(geometry=[LineString([(west - 500, y), (east + 500, y)])], crs=cube.rio.crs)
    road.to_crs(4326).to_file(folder/'osm.gpkg', layer='roads')
    names = ['Atsuma', '<img src=x onerror=alert(1)>', 'Far away']
    spots = [Point(west + 300, north - 300), Point(west + 300, north - 320), Point(west - 9e3, north)]
    gpd.GeoDataFrame(dict(NAME=names), geometry=spots, crs=cube.rio.crs).to_file(folder/'osm.gpkg', layer='places')
    half = box(west, south, (west + east)/2, north)
    gpd.GeoDataFrame(dict(name=['west'], residents=['many']), geometry=[half], crs=cube.rio.crs).to_file(
        folder/'zones.gpkg')
    population(cube).rio.to_raster(folder/'people.tif')
    return folder

def map_words(place, *words):
    return main(['map', f'{place}/cube.zarr', '--event', 'hokkaido', '--model', f'{place}/m.safetensors',
                 '--tile', '64', *map(str, words)])

@pytest.fixture(scope='module')
def run(place):
    "The run folder of the command with every file given"
    files = ['--roads', place/'osm.gpkg', '--places', place/'osm.gpkg', '--population', place/'people.tif', '--zones', place/'zones.gpkg']
    assert map_words(place, '--out', place/'runs'/'run', *files) == 0
    return place/'runs'/'run'

def layer(run, name): return gpd.read_file(run/'landslides.gpkg', layer=name)

def probability(run): return rioxarray.open_rasterio(run/'probability.tif').isel(band=0)

def test_expected_road_is_the_probability_along_it(run):
    prob = probability(run)
    along = float(prob[ROW].sum())*abs(prob.rio.resolution()[0])
    assert layer(run, 'cells').expected_road_m.sum() == pytest.approx(along, rel=5e-3) # pieces are half a pixel long

def test_road_in_polygons_is_counted_alike_in_polygons_and_cells(run):
    cells, polygons = layer(run, 'cells'), layer(run, 'polygons')
    assert polygons.road_m.sum() > 0
    assert cells.road_m.sum() == pytest.approx(polygons.road_m.sum(), rel=1e-6)
    assert np.allclose(polygons.people, polygons.area_m2/100, rtol=1e-3)

def test_one_person_a_pixel_is_the_expected_area_with_its_interval(run):
    "100 m2 a person: what is said of people must be what is said of areas"
    for name in ('cells', 'zones'):
        areas = layer(run, name)
        assert np.allclose(areas.expected_people, areas.expected_m2/100, rtol=1e-3)
        assert np.allclose(areas.low_people, areas.low_m2/100, rtol=1e-3)
        assert np.allclose(areas.high_people, (areas.high_m2/100).clip(upper=areas.residents), rtol=1e-3)

def test_the_users_own_column_of_a_taken_name_is_kept(run):
    zones = layer(run, 'zones')
    assert zones.zone_residents.tolist() == ['many']
    assert zones.residents[0] > 0

def test_numbers_page_and_screen_say_it(run):
    metrics = json.loads((run/'metrics.json').read_text())
    worst = metrics['exposure']['worst']
    assert (worst['kind'], worst['n'], worst['places']) == ('zones', 1, ['Atsuma', '<img src=x onerror=alert(1)>'])
    assert metrics['exposure']['files'] == dict(roads='osm.gpkg', places='osm.gpkg', population='people.tif')
    page = (run/'report.html').read_text()
    assert 'expected to be hit in the worst zone, near Atsuma, &lt;img' in page
    assert '<img src=x' not in page
    assert '1 of 3 places is outside the scene or empty, and ignored.' in page
    assert 'expected to be hit in the worst zone, near Atsuma' in worst_text(open_run(run.parent, 'run'))

def test_a_map_without_these_files_says_nothing_of_them(place):
    assert map_words(place, '--out', place/'plain') == 0
    assert 'exposure' not in json.loads((place/'plain'/'metrics.json').read_text())
    assert not {'road_m', 'people', 'places_near'} & {*layer(place/'plain', 'polygons'), *layer(place/'plain', 'cells')}

WRONG = {
    'roads without CRS': ('--roads', 'no_crs.shp', 'has no CRS'),
    'roads that are points': ('--roads', 'points.gpkg', 'holds Point and no lines'),
    'roads elsewhere': ('--roads', 'far.gpkg', 'None of the 1 roads'),
    'no such file': ('--roads', 'https://example.org/roads.gpkg', 'nothing is downloaded'),
    'roads that are no vector file': ('--roads', 'people.tif', 'Cannot read the roads file'),
    'places without names': ('--places', 'points.gpkg', 'no column of names'),
    'negative people': ('--population', 'negative.tif', 'negative values (-1)'),
    'density': ('--population', 'pop_density.tif', 'holds a density'),
    'people elsewhere': ('--population', 'far.tif', 'does not overlap the scene'),
    'people in no file': ('--population', 'osm.gpkg', 'Cannot read the population raster'),
}

@pytest.fixture(scope='module')
def wrong(place):
    "Files that cannot be used"
    cube = open_cube(mock_cube())
    roads = gpd.read_file(place/'osm.gpkg', layer='roads')
    roads.set_crs(None, allow_override=True).to_file(place/'no_crs.shp')
    (place/'no_crs.prj').unlink(missing_ok=True)
    roads.assign(geometry=roads.to_crs(cube.rio.crs).centroid.to_crs(4326)).to_file(place/'points.gpkg')
    roads.translate(5, 0).to_frame('geometry').to_file(place/'far.gpkg')
    population(cube, -1.).rio.to_raster(place/'negative.tif')
    population(cube).rio.to_raster(place/'pop_density.tif')
    people = population(cube)
    people.assign_coords(x=people.x + 1e6).rio.write_transform().rio.to_raster(place/'far.tif')
    return place

@pytest.mark.parametrize('case', WRONG)
def test_a_file_that_cannot_be_used_is_one_sentence_before_any_work(case, wrong, capsys, monkeypatch):
    option, name, why = WRONG[case]
    def never(*args, **kwargs): raise AssertionError('the map was made before its files were looked at')
    monkeypatch.setattr('landslide_nb.mapping.mapping.predict_scales', never)
    monkeypatch.setattr('landslide_nb.mapping.nulls.predict_tiles', never, raising=False)
    source = name if name.startswith('http') else wrong/name
    assert map_words(wrong, '--out', wrong/'never', option, source) == 1
    said = capsys.readouterr().err
    sentences = [line for line in said.splitlines() if line.startswith('landslide-nb: ')]
    assert len(sentences) == 1 and why in sentences[0], said
    assert not (wrong/'never').exists() or not any((wrong/'never').iterdir())
