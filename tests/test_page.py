"The page in a real headless Chromium: a user's own layers, zones, the maps of one event in time, and every size of screen."
import io
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from conftest import CHROMIUM, NO_CHROMIUM, command, one_sentence
from test_app import CURTAIN, DRAWN, MAPS, MASKED, MODELS, Visitor, free_port, wait_for # noqa: F401

root = Path(__file__).parents[1]
playwright = pytest.importorskip('playwright.sync_api', reason='without playwright no browser can be driven')
pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]
WICKED = '<img src=x onerror=document.title=1>'
MODEL = dict(arch='unet', calibration=dict(threshold=.5))

# --- run folders and layers

def write_storm(out, pair, prob):
    "One event mapped after each of two passes: the second found another landslide"
    from landslide_nb.mapping.runfolder import write_products
    days = ['2024-06-03', '2024-06-15']
    more = prob.copy()
    more[20:50, 180:220] = .9
    for k, found in enumerate((prob, more)):
        later = pair.assign_attrs(passes_post=days[:k + 1], event_name='storm')
        write_products(out/'storm'/days[k], later, found, MODEL, cell=500.)

def write_zoned(out, pair, prob):
    "A map with zones of bad names, roads and villages"
    from landslide_nb.mapping.exposure import ExposureFiles
    from landslide_nb.mapping.runfolder import write_products
    from shapely.geometry import LineString, Point, box
    west, south, east, north = pair.rio.bounds()
    middle = (west + east)/2
    zones = gpd.GeoDataFrame(dict(name=['Upper Vale', WICKED]),
                             geometry=[box(west, south, middle, north), box(middle, south, east, north)],
                             crs=pair.rio.crs)
    roads = gpd.GeoDataFrame(geometry=[LineString([(west, south), (east, north)])], crs=pair.rio.crs)
    places = gpd.GeoDataFrame(dict(name=['Millbrook']), geometry=[Point(middle, (south + north)/2)], crs=pair.rio.crs)
    write_products(out/'zoned', pair, prob, MODEL, cell=500., zones=zones,
                   exposure=ExposureFiles(roads=roads, places=places))
    return roads

def write_crowd(path, pair):
    "A million points all over the scene"
    west, south, east, north = pair.rio.bounds()
    xy = np.random.default_rng(0).uniform((west, south), (east, north), (1_000_000, 2))
    crowd = gpd.GeoDataFrame(geometry=gpd.points_from_xy(*xy.T), crs=pair.rio.crs)
    crowd.to_file(path, driver='FlatGeobuf', SPATIAL_INDEX='NO')

@pytest.fixture(scope='session')
def desk(tmp_path_factory):
    "Runs, and beside them the files a user lays over them"
    from landslide_nb.testing import mock_pair, mock_probability
    base = tmp_path_factory.mktemp('page')
    pair = mock_pair((256, 256))
    heights = pair.landslides.astype('float32').copy(
        data=np.add.outer(np.arange(256.), np.zeros(256)).astype('float32'))
    pair, prob = pair.assign(dem=heights), mock_probability(pair, 1)
    write_storm(base/'runs', pair, prob)
    roads = write_zoned(base/'runs', pair, prob)
    roads.to_crs(4326).to_file(base/f'{WICKED.replace("/", "")}.geojson')
    write_crowd(base/'crowd.fgb', pair)
    return base

def layers_of(desk): return [str(path) for path in (desk/f'{WICKED}.geojson', desk/'crowd.fgb')]

@contextmanager
def serving(folder, log, layers=()):
    "The page with a user's layers, for ten minutes at most"
    port = free_port()
    code = ("import threading, os; end = threading.Timer(600, os._exit, (0,)); end.daemon = True; end.start(); "
            f"from landslide_nb.app import serve; serve({str(folder)!r}, port={port}, show=False, layers={list(layers)!r})")
    with open(log, 'w') as file:
        process = subprocess.Popen([sys.executable, '-c', code], cwd=root, stdout=file, stderr=file,
                                   env={**os.environ, 'OMP_NUM_THREADS': '1'})
    def alive(): assert process.poll() is None, log.read_text()[-2000:]
    try:
        wait_for(port, alive)
        yield f'http://127.0.0.1:{port}/'
    finally:
        process.kill()
        process.wait()

@pytest.fixture(scope='session')
def page_server(desk):
    with serving(desk/'runs', desk/'server.log', layers_of(desk)) as url: yield url

@pytest.fixture
def visit(chromium, page_server):
    visitors = []
    def go(query='', **context):
        visitors.append(Visitor(chromium, page_server + query, **context))
        return visitors[-1].counted()
    yield go
    for visitor in visitors: visitor.close()

# --- what is seen

def large_map(visitor): return visitor.page.locator('.bk-Plot:visible').first

def pixels(visitor):
    "The large map as it is drawn: (rows, columns, 3)"
    from matplotlib.image import imread
    return (imread(io.BytesIO(large_map(visitor).screenshot()))[..., :3]*255).round().astype(int)

def drawn(visitor, colour):
    "How many pixels of the large map have about a colour"
    wanted = [int(colour[k:k + 2], 16) for k in (1, 3, 5)]
    return int((np.abs(pixels(visitor) - wanted).max(-1) < 25).sum())

def wait_drawn(visitor, colour, test):
    "Wait until so many pixels have a colour"
    for _ in range(60):
        n = drawn(visitor, colour)
        if test(n): return n
        visitor.page.wait_for_timeout(150)
    raise AssertionError((colour, n, visitor.bad))

def keys(visitor): return visitor.page.locator('.keys').inner_text()

def check(visitor, name): return visitor.page.get_by_role('checkbox', name=name, exact=True)

# --- layers a user brings

def test_own_layers_are_drawn_in_their_colours_and_named_by_their_files(visit):
    from landslide_nb.browser.outlines import LAYER_COLOURS
    road, crowd = LAYER_COLOURS[:2]
    v = visit('?run=zoned')
    lines, dots = wait_drawn(v, road, lambda n: n > 200), wait_drawn(v, crowd, lambda n: n > 500)
    assert 'crowd (' in keys(v)
    check(v, 'crowd').uncheck()
    wait_drawn(v, crowd, lambda n: n < dots/10)
    assert 'crowd (' not in keys(v)
    check(v, WICKED).uncheck()
    wait_drawn(v, road, lambda n: n < lines/10)
    assert v.bad == []

def test_the_name_of_a_file_is_not_html(visit):
    v = visit('?run=zoned')
    assert WICKED in keys(v)
    v.page.wait_for_timeout(500)
    assert v.page.title() == 'Landslide map'
    assert v.page.locator('img[src=x]').count() == 0
    assert v.bad == []

def test_a_million_points_are_thinned_and_that_is_said(visit):
    v = visit('?run=zoned').settled()
    assert ' of 1,000,000 drawn, zoom in for more)' in keys(v)
    for _ in range(2): v.button('+').click()
    v.settled()
    assert '1,000,000' not in keys(v)
    v.page.wait_for_function("() => [...document.querySelectorAll('*')].length > 0")
    assert ' drawn, zoom in for more)' in keys(v)
    assert v.bad == []

def test_layers_are_lifted_lowered_and_faded(visit):
    from landslide_nb.browser.outlines import LAYER_COLOURS
    crowd = LAYER_COLOURS[1]
    order = f"() => {MAPS}[0].renderers.filter(r => r.visible).map(r => r.glyph.type)"
    v = visit('?run=zoned')
    full = wait_drawn(v, crowd, lambda n: n > 500)
    assert v.page.evaluate(order)[-1] != 'Scatter'
    v.page.get_by_label('Layer', exact=True).select_option('crowd')
    for _ in range(5): v.button('Lift').click()
    v.page.wait_for_function(f'() => ({order})().at(-1) == "Scatter"')
    v.page.locator('.noUi-handle').last.focus()
    for _ in range(18): v.page.keyboard.press('ArrowLeft')
    wait_drawn(v, crowd, lambda n: n < full/3)
    assert v.bad == []

def test_layers_that_cannot_be_shown_end_in_one_sentence(desk, tmp_path):
    (tmp_path/'virtual.vrt').write_text('<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>/etc/passwd'
                                        '</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>')
    (tmp_path/'words.gpkg').write_text('no features')
    for name, word in (('virtual.vrt', 'not followed'), ('words.gpkg', 'no vector file'), ('nothing.shp', 'does not exist')):
        out = command('app', desk/'runs', '--no-show', '--layer', tmp_path/name, cwd=tmp_path, timeout=300)
        one_sentence(out, word)

@pytest.mark.parametrize('driver, name', [('ESRI Shapefile', 'a.shp'), ('GPKG', 'a.gpkg'), ('KML', 'a.kml'), ('GPX', 'a.gpx'), ('GML', 'a.gml'),
                                          ('FlatGeobuf', 'a.fgb'), ('MapInfo File', 'a.tab'), ('GeoJSONSeq', 'a.geojsonl')])
def test_any_vector_file_is_a_layer(tmp_path, driver, name):
    from landslide_nb.browser.outlines import user_layers
    points = gpd.GeoDataFrame(dict(name=['a', 'b']), geometry=gpd.points_from_xy([142, 142.1], [42, 42.1]), crs=4326)
    points.to_file(tmp_path/name, driver=driver)
    layer, = user_layers([tmp_path/name])
    assert layer.name == 'a'
    np.testing.assert_allclose(np.sort(layer.at('EPSG:4326').points, 0), [[142, 42], [142.1, 42.1]], atol=1e-5)

# --- zones

def test_zones_are_ranked_named_and_drawn(visit):
    v = visit('?run=zoned', script=DRAWN).settled()
    sentence = v.page.locator('.worst').inner_text()
    zones = v.page.locator('.tabulator-row .tabulator-cell[tabulator-field="zone"]').all_inner_texts()
    assert sorted(zones) == sorted(['Upper Vale', WICKED])
    assert f'Worst hit is {zones[0]} (zone 1), in the ' in sentence
    v.button('+').click()
    v.page.wait_for_function('title => window.drawn.includes(title)', arg=f'1 {zones[0]}')
    assert len(v.column('road (m)')) == 2
    assert v.page.locator('.tabulator-cell[tabulator-field="near"]').first.inner_text() == 'Millbrook'
    assert v.page.title() == 'Landslide map' and v.page.locator('img[src=x]').count() == 0
    v.page.locator('.tabulator-col[tabulator-field="zone"] input').fill('Upper')
    v.page.keyboard.press('Enter')
    v.settled()
    assert v.page.locator('.tabulator-row .tabulator-cell[tabulator-field="zone"]').all_inner_texts() == ['Upper Vale']
    assert v.bad == []

def test_a_click_on_a_zone_marks_it_whole(visit):
    chosen = f"() => {MODELS}.filter(m => m.type == 'Line' && m.line_color.value == '#F0E442' && m.line_width.value == 3).length"
    v = visit('?run=zoned').settled()
    assert v.page.evaluate(chosen) >= 1
    box = v.map().bounding_box()
    v.page.mouse.click(box['x'] + .3*box['width'], box['y'] + .3*box['height'])
    for _ in range(60):
        if v.selected(): break
        v.page.wait_for_timeout(100)
    zones = v.page.locator('.tabulator-row .tabulator-cell[tabulator-field="zone"]').all_inner_texts()
    assert zones[int(v.selected()[0]) - 1] == 'Upper Vale' # the western one
    assert v.bad == []

# --- one event in time

def test_a_slider_says_and_draws_what_a_pass_added(visit):
    from landslide_nb.browser.panels import NEW
    v = visit('?run=storm/2024-06-15')
    since = v.page.locator('.since')
    since.wait_for()
    assert since.inner_text() == ('The pass of 2024-06-15 added 12.0 ha above the threshold, in 1 patch of at least 500 m²; '
                                  '0 m² of the map before no longer reach it.')
    assert wait_drawn(v, NEW, lambda n: n > 100)
    assert 'new since the map before' in keys(v)
    check(v, 'New').uncheck()
    wait_drawn(v, NEW, lambda n: n < 10)
    v.button('+').click()
    at = v.wait_state('at')
    v.settled()
    handle = v.page.locator('.head .noUi-handle')
    handle.focus()
    handle.press('ArrowLeft')
    v.wait_state('run', lambda run: run == 'storm/2024-06-03')
    v.counted().settled()
    assert v.state()['at'] == at # the visitor goes on looking at the same place
    assert since.count() == 0
    assert v.bad == []

def test_a_run_alone_in_time_has_no_slider(visit):
    v = visit('?run=zoned').settled()
    assert v.page.locator('.head .noUi-handle:visible').count() == 0

# --- files

def test_polygons_are_taken_home_as_kml(visit, desk, tmp_path):
    v = visit('?run=zoned')
    kml = gpd.read_file(v.save('Polygons, KML', tmp_path/'a.kml'))
    gpkg = gpd.read_file(v.save('Polygons, GPKG', tmp_path/'a.gpkg'))
    assert len(kml) == len(gpkg) == int(v.n('landslides'))
    assert set(kml.Name) == {f'landslide {rank}' for rank in gpkg['rank']}
    assert {'id', 'lon', 'lat', 'event', 'threshold', 'model'} <= set(gpkg.columns)
    assert kml.crs.is_geographic
    assert v.bad == []

# --- keys, swipe

def test_the_key_of_colours_lies_outside_of_the_map_in_its_colours(visit):
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread
    from landslide_nb.browser.maps import palette
    from landslide_nb.browser.panels import RAMP
    v = visit('?run=zoned').settled()
    figure = v.page.locator('.key').first
    assert figure.bounding_box()['y'] >= v.map().bounding_box()['y'] + v.map().bounding_box()['height'] - 1
    assert figure.inner_text().split() == ['landslide', 'probability', '0', '0.5', '1']
    bar = imread(io.BytesIO(figure.locator('div').screenshot()))
    end = bar[bar.shape[0]//2, -3, :3]
    np.testing.assert_allclose(end, to_rgb(palette(RAMP)[-1][:7]), atol=.08)

def curtain_end(v):
    "Where the image before the event ends, as a share of the map's width"
    v.page.wait_for_function(f'() => {{ const s = ({MASKED})(); return s && s.length }}')
    start, _, end, _ = v.ranges()
    left, width = v.page.evaluate(f'() => [{CURTAIN}.x[0], {CURTAIN}.dw[0]]')
    return (left + v.page.evaluate(MASKED)[1]*width - start)/(end - start)

def test_the_swipe_follows_keys(visit):
    v = visit('?run=zoned')
    v.button('Swipe').click()
    assert abs(curtain_end(v) - .5) < .02
    slider = v.page.locator('.noUi-handle:visible').nth(1)
    slider.focus()
    for _ in range(10): v.page.keyboard.press('ArrowRight')
    v.page.wait_for_timeout(500)
    assert abs(curtain_end(v) - .6) < .02
    assert v.bad == []

def test_the_swipe_follows_a_finger(visit):
    v = visit('?run=zoned', has_touch=True)
    v.button('Swipe').tap()
    curtain_end(v)
    box = v.map().bounding_box()
    for share in (.35, .65):
        v.page.touchscreen.tap(box['x'] + share*box['width'], box['y'] + box['height']/2)
        v.page.wait_for_timeout(700)
        assert abs(curtain_end(v) - share) < .02, share
    assert v.bad == []

# --- every screen

SCREENS = [(390, 844), (1366, 768), (2560, 1440)]

@pytest.mark.parametrize('theme', ['default', 'dark'])
@pytest.mark.parametrize('width, height', SCREENS)
def test_the_threshold_and_what_it_does_are_seen_together(visit, width, height, theme):
    v = visit(f'?run=storm/2024-06-15&theme={theme}')
    v.page.set_viewport_size(dict(width=width, height=height))
    v.page.wait_for_timeout(1200)
    v.settled()
    assert v.page.evaluate('document.documentElement.scrollWidth') <= width
    top = v.page.evaluate('() => scrollY')
    box, rule = large_map(v).bounding_box(), v.page.locator('.rule').bounding_box()
    assert rule['y'] + rule['height'] <= box['y'] + 1 # above the map
    assert v.page.locator('#readout').bounding_box()['y'] < box['y']
    column = v.page.locator('.main').bounding_box()
    share = 1 if width < 1150 else .6
    if width < 700: assert box['y'] < v.button('Flicker').bounding_box()['y'] # on a phone nothing stands before the map
    assert box['width'] >= .93*share*(column['width'] - 36)
    v.page.evaluate(f"() => scrollTo(0, {box['y'] + top} - 120)")
    v.page.wait_for_timeout(300)
    box, rule = large_map(v).bounding_box(), v.page.locator('.rule').bounding_box()
    assert 0 <= rule['y'] and rule['y'] + rule['height'] < box['y'] + 20 # it stays in sight
    assert box['y'] + box['height'] <= height # with the whole map
    assert v.page.locator('.brief').inner_text().endswith('500 m²')
    assert v.bad == []

@pytest.mark.parametrize('width, height, rows', [(1366, 768, 1), (390, 844, 2)])
def test_the_controls_of_the_map_take_few_rows(visit, width, height, rows):
    "Nine backgrounds as buttons took two rows of a desk's screen and three of a phone's"
    v = visit('?run=zoned')
    v.page.set_viewport_size(dict(width=width, height=height))
    v.page.wait_for_timeout(1200)
    v.settled()
    controls = [v.page.get_by_label('Background', exact=True).first,
                *[v.button(name) for name in ('VV', '+', 'Whole scene', 'Flicker', 'Swipe')]]
    boxes = [control.bounding_box() for control in controls]
    middles = sorted(box['y'] + box['height']/2 for box in boxes)
    assert 1 + sum(np.diff(middles) > 10) <= rows, boxes
    assert all(box['x'] + box['width'] <= width for box in boxes)

def test_a_background_is_chosen_by_its_keys(visit):
    v = visit('?run=zoned').settled()
    v.page.get_by_label('Background', exact=True).first.focus()
    v.page.keyboard.press('ArrowDown')
    v.page.keyboard.press('ArrowDown')
    v.page.locator('figcaption', has_text='log-ratio dVV - dVH (dB)').wait_for()
    assert v.bad == []
