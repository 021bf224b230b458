"A run folder as others open it: what its files say of themselves, and that they, the page and the numbers say the same."
import json

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import xarray as xr

from landslide_nb.mapping.report import found_text
from landslide_nb.mapping.item import stac_item
from landslide_nb.mapping.runfolder import polygons_again, write_products
from landslide_nb.mapping.words import SIMULATED_EVENT
from landslide_nb.testing import mock_pair, mock_probability

THRESHOLD = .17498
META = dict(arch='unet', calibration=dict(
    scale=1., bias=0., threshold=THRESHOLD, area=dict(coverage=.9, chips=19, pixels=100, low=-8/3, high=3.)))

def hilly(**options):
    "A small pair with a hill and the landslides mapped"
    pair = mock_pair(**options)
    y, x = np.mgrid[:pair.sizes['y'], :pair.sizes['x']]
    return pair.assign(dem=(('y', 'x'), 300*np.exp(-((y - 75)**2 + (x - 100)**2)/3000)))

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run folder and its numbers"
    folder = tmp_path_factory.mktemp('runs')/'run'
    pair = hilly()
    return folder, write_products(folder, pair, mock_probability(pair), META)

def layer(folder, name): return gpd.read_file(folder/'landslides.gpkg', layer=name)


# Rasters

@pytest.mark.parametrize('name, units', dict(probability='1', pair='dB', truth='1', dem='m').items())
def test_every_band_says_its_unit(run, name, units):
    with rasterio.open(run[0]/f'{name}.tif') as f: assert set(f.units) == {units}

def test_only_the_map_is_the_models(run):
    for name in ('probability', 'pair', 'truth', 'dem'):
        with rasterio.open(run[0]/f'{name}.tif') as f: tags = f.tags()
        assert ('arch' in tags, 'threshold' in tags) == (name == 'probability',)*2, name
        assert tags['event_name'] == 'toy', name


# Vectors

def test_layers_have_one_kind_of_shape_whatever_they_hold(run, tmp_path):
    pair = hilly()
    none = write_products(tmp_path/'none', pair.drop_vars('landslides'), mock_probability(pair)*0, META)
    assert none['polygons'] == 0
    for folder in (run[0], tmp_path/'none'):
        for name, kind in pyogrio.list_layers(folder/'landslides.gpkg'):
            assert kind == 'MultiPolygon' or name == 'layer_styles', (folder, name)
        assert set(layer(folder, 'cells').geom_type) == {'MultiPolygon'}

def test_polygons_of_a_run_can_be_drawn_again(run):
    "The same polygons as in the file, with their terrain, from the files alone"
    folder, metrics = run
    found, again = layer(folder, 'polygons'), polygons_again(folder)
    assert len(found) == len(again) == metrics['polygons'] > 0
    assert again.mean_slope.notna().all() and again.downslope.notna().all()
    for name in ('area_m2', 'mean_probability', 'mean_slope', 'downslope'): assert np.allclose(found[name], again[name], rtol=1e-4), name
    assert len(polygons_again(folder, threshold=.999)) < len(found)
    (folder/'dem.tif').rename(folder/'hidden.tif')
    try: assert polygons_again(folder).mean_slope.isna().all()
    finally: (folder/'hidden.tif').rename(folder/'dem.tif')


# One source of truth

def test_page_and_numbers_hold_the_exact_threshold_and_smallest_polygon(tmp_path):
    pair = hilly()
    metrics = write_products(tmp_path/'run', pair, mock_probability(pair), META, min_area=5e4)
    page = (tmp_path/'run'/'report.html').read_text()
    assert (metrics['threshold'], metrics['min_area_m2']) == (THRESHOLD, 5e4)
    assert 'polygons of 5.0 ha or more at probability 0.17498 or more' in page
    assert layer(tmp_path/'run', 'polygons').area_m2.min() >= 5e4 or metrics['polygons'] == 0

def test_the_area_in_the_sentence_is_that_of_the_polygons(run):
    folder, metrics = run
    area = layer(folder, 'polygons').area_m2.sum()
    assert metrics['polygon_area_m2'] == pytest.approx(area)
    assert area < metrics['area_above_threshold_m2'] # specks are left out
    assert f"cover {area/1e4:,.1f} ha" in found_text(metrics)


# Simulated events

def simulated():
    return hilly().assign_attrs(event_name='demo_a', event_start='2018-09-05', event_end='2018-09-07', source='/data/saved.zarr')

def test_a_simulated_event_is_called_simulated_everywhere(tmp_path):
    pair = simulated()
    metrics = write_products(tmp_path/'run', pair, mock_probability(pair), META)
    item = json.loads((tmp_path/'run'/'item.json').read_text())
    assert metrics['simulated'] is True
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())['simulated'] is True
    assert SIMULATED_EVENT in (tmp_path/'run'/'report.html').read_text()
    assert item['properties']['description'] == SIMULATED_EVENT
    assert 'Simulated' in item['properties']['title'] and 'simulated' in item['properties']['keywords']
    with rasterio.open(tmp_path/'run'/'probability.tif') as f: assert f.tags()['simulated'] == 'True'

def test_its_picture_says_so():
    from landslide_nb.mapping.picture import plot_scene
    pair = simulated()
    assert 'simulated' in plot_scene(pair, mock_probability(pair), 'demo_a').get_suptitle()
    assert 'simulated' not in plot_scene(hilly(), mock_probability(pair), 'toy').get_suptitle()

def test_page_picture_and_browser_name_what_happened_and_where(tmp_path, monkeypatch):
    "The page and the picture once said the short name of the event only, the report its title"
    from landslide_nb.browser.runs import open_run
    from landslide_nb.browser.words import run_html
    from landslide_nb.mapping import runfolder
    titles, draw = [], runfolder.plot_scene
    monkeypatch.setattr(runfolder, 'plot_scene', lambda pair, prob, title, **options:
                        titles.append(title) or draw(pair, prob, title, **options))
    pair = hilly().assign_attrs(event_name='hokkaido', event_start='2018-09-05', event_end='2018-09-07')
    write_products(tmp_path/'run', pair, mock_probability(pair), META)
    title = 'Hokkaido Eastern Iburi earthquake, Japan, 2018-09-06'
    assert titles == [title]
    assert title in (tmp_path/'run'/'report.html').read_text()
    assert title in run_html(open_run(tmp_path/'run'))

def test_a_real_event_is_not(run):
    folder, metrics = run
    assert 'simulated' not in metrics
    for name in ('report.html', 'item.json', 'metrics.json'): assert 'imulated event' not in (folder/name).read_text()


# The footprint

def scene_at(west, south, side, crs):
    "A map whose corner lies somewhere"
    n = 50
    x, y = west + side*(np.arange(n) + .5), south + side*(n - np.arange(n) - .5)
    return xr.DataArray(np.zeros((n, n), 'float32'), dict(y=y, x=x), ('y', 'x')).rio.write_crs(crs)

def footprint_of(prob, tmp_path): return stac_item(tmp_path, prob, {}, 'x').to_dict(include_self_link=False)

@pytest.mark.parametrize('prob', [scene_at(179.9, -17., .01, 4326), scene_at(-180.1, -17., .01, 4326),
                                  scene_at(800_000., 8_118_000., 1000., 32760)], ids=['east', 'west', 'UTM'])
def test_a_footprint_across_180_degrees_is_two_polygons(prob, tmp_path):
    "RFC 7946, 3.1.9 and 5.2: cut at the line, and a box whose west is greater than its east"
    item = footprint_of(prob, tmp_path)
    west, south, east, north = item['bbox']
    assert 179 < west < 180 and -180 < east < -179 and south < north
    shape = item['geometry']
    assert shape['type'] == 'MultiPolygon' and len(shape['coordinates']) == 2
    edges = sorted((min(x for x, _ in ring), max(x for x, _ in ring)) for (ring,) in shape['coordinates'])
    assert edges == [(-180., pytest.approx(east)), (pytest.approx(west), 180.)]

def test_a_footprint_elsewhere_is_one_polygon(run):
    item = json.loads((run[0]/'item.json').read_text())
    assert item['geometry']['type'] == 'Polygon'
    assert item['bbox'][0] < item['bbox'][2] < item['bbox'][0] + .1
