"The app in a real headless Chromium: what a visitor sees is what numpy computes, and only the folder is served."
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
from conftest import CHROMIUM, FLAGS, NO_CHROMIUM # noqa: F401

root = Path(__file__).parents[1]
playwright = pytest.importorskip('playwright.sync_api', reason='without playwright no browser can be driven')
pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

# --- run folders

def likely(pair):
    "A stand-in for a model that needs no training: the smoothed log-ratio, squeezed into probabilities"
    from landslide_nb.data.pair import log_ratio
    score = log_ratio(pair, size=3).score
    prob = 1/(1 + np.exp(-(score/float(score.std()) - 2)*1.7))
    return prob.astype('float32').rename('probability').assign_attrs(units='1').rio.write_crs(pair.rio.crs)

def write_good_runs(out):
    "Runs of the embedded event: whole, without truth, with heights, in degrees"
    from landslide_nb.data.pair import make_pair, with_ratio_std
    from landslide_nb.data.simulate import simulate_event
    from landslide_nb.mapping.runfolder import write_products
    cube = simulate_event('demo_a', seed=0, size=640)
    pair = with_ratio_std(make_pair(cube).load(), cube)
    prob = likely(pair)
    calibration = dict(threshold=.4)
    write_products(out/'demo', pair, prob, dict(arch='log-ratio', calibration=calibration))
    write_products(out/'demo_b', pair, prob**2, dict(arch='log-ratio squared', calibration=dict(threshold=.16)))
    corner = dict(x=slice(0, 160), y=slice(0, 128))
    small = pair.isel(corner)
    write_products(out/'other'/'no_truth', small.drop_vars('landslides'), likely(small))
    write_products(out/'other'/'dem', small.assign(dem=cube.dem.isel(corner)), likely(small))
    degrees = small.assign_coords(x=10 + np.arange(160)*2e-4, y=60 - np.arange(128)*1e-4)
    degrees = degrees.drop_vars('spatial_ref').rio.write_crs(4326)
    write_products(out/'other'/'degrees', degrees, likely(degrees))

def write_broken_runs(out):
    "Copies of the first run that lack a file, hold a damaged one, or a link that leads out of the folder"
    lacks = dict(no_pair='pair.tif', no_gpkg='landslides.gpkg', no_prob='probability.tif', no_metrics='metrics.json')
    for name, lack in lacks.items():
        shutil.copytree(out/'demo', out/'broken'/name)
        (out/'broken'/name/lack).unlink()
    shutil.copytree(out/'demo', out/'broken'/'cut')
    cut = out/'broken'/'cut'/'probability.tif'
    cut.write_bytes(cut.read_bytes()[:1500] + os.urandom(3000))
    shutil.copytree(out/'demo', out/'broken'/'linked')
    linked = out/'broken'/'linked'/'probability.tif'
    outside = out.parent/'outside.tif'
    linked.rename(outside)
    linked.symlink_to(outside)

def write_wicked_runs(out):
    "A run full of HTML, and a link to a folder that is none of the visitor's business"
    evil = out/'evil <img src=x onerror=document.title=1>'
    shutil.copytree(out/'demo', evil)
    metrics = json.loads((evil/'metrics.json').read_text())
    metrics['event_name'] = metrics['orbit'] = '<script>document.title="owned"</script><b id=owned>x</b>'
    metrics['warnings'] = ['Unlike what the model knows <img src=x onerror=document.title=2>']
    (evil/'metrics.json').write_text(json.dumps(metrics))
    secret = out.parent/'secret'
    shutil.copytree(out/'demo', secret)
    (out/'link').symlink_to(secret)

@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    "Run folders whole, damaged and wicked, with a secret beside them"
    out = tmp_path_factory.mktemp('app')/'runs'
    write_good_runs(out)
    write_broken_runs(out)
    write_wicked_runs(out)
    return out

# --- servers

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def wait_for(port, alive=lambda: None):
    "Wait until somebody listens"
    for _ in range(240):
        try:
            socket.create_connection(('127.0.0.1', port), 1).close()
            return
        except OSError:
            time.sleep(.5)
            alive()

def run_code(code, seconds):
    "Python in a process of its own"
    command = [sys.executable, '-W', 'ignore', '-c', code]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=seconds)

@contextmanager
def serving(folder, log, first=''):
    "The app as `landslide-nb app` starts it, for 25 minutes at most; `first` is Python that runs before"
    port = free_port()
    code = (f"import threading, os; end = threading.Timer(1500, os._exit, (0,)); end.daemon = True; end.start(); "
            f"{first}from landslide_nb.app import serve; serve({str(folder)!r}, port={port}, show=False)")
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with open(log, 'w') as f:
        p = subprocess.Popen([sys.executable, '-c', code], cwd=root, stdout=f, stderr=f, env=env)
    def alive(): assert p.poll() is None, log.read_text()[-2000:]
    try:
        wait_for(port, alive)
        yield f'http://127.0.0.1:{port}/'
    finally:
        p.kill()
        p.wait()

@pytest.fixture(scope='session')
def server(folder):
    with serving(folder, folder.parent/'server.log') as url: yield url

@pytest.fixture(scope='session')
def experiments(tmp_path_factory):
    "A real experiment, as small as it can be, and no run beside it"
    from landslide_nb.study.experiment import run_experiment
    from landslide_nb.study.protocol import ExperimentSpec
    base = tmp_path_factory.mktemp('experiments')
    spec = ExperimentSpec(scene=512, size=32, pretrain_size=16, block=1, width=4, epochs=1, epoch_chips=16,
                          pretrain_epochs=1, budgets=(2, 4), seeds=2, pretrain=('none', 'demo_a'))
    run_experiment(spec, base/'all'/'tiny', bar=False)
    return base/'all'

# --- visitors

COUNTED = """() => {
  const all = []
  const walk = root => {
    for (const e of root.querySelectorAll('*')) {
      if (e.matches('dd[data-n]')) all.push(e.innerText)
      if (e.shadowRoot) walk(e.shadowRoot)
    }
  }
  walk(document)
  return all.length && all.every(t => t && !t.includes('counting'))
}"""
MODELS = "[...Bokeh.documents[0]._all_models.values()]"
MAPS = (f"{MODELS}.filter(m => m.type == 'Plot' && "
        "!m.properties.aspect_ratio.is_unset && m.aspect_ratio > 1.3)")
RANGES = f"() => {MAPS}.map(f => [f.x_range.start, f.y_range.start, f.x_range.end, f.y_range.end])[0]"
IMAGES = f"{MAPS}[0].renderers.filter(r => r.visible && r.glyph.type == 'Image').map(r => r.data_source.data.image)"
IMAGE_BYTES = f"() => Math.max(...{IMAGES}.map(image => image.length ? new Set(image[0]).size : 0))" # different ones
LEGENDS = f"() => {MODELS}.filter(m => m.type == 'Legend').flatMap(m => m.items.map(i => i.label.value))"
ROOM = """e => {
  const look = getComputedStyle(e)
  return e.clientWidth - parseFloat(look.paddingLeft) - parseFloat(look.paddingRight)
}"""
FOCUSED = """() => {
  let e = document.activeElement
  while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement
  const look = getComputedStyle(e)
  return [e.innerText, look.outlineStyle, look.outlineWidth]
}"""

PATIENCE = 60_000 # ms that a busy machine may need for what a person sees at once

class Visitor:
    "A browser page that remembers everything it should not have seen"
    def __init__(self, chromium, url, script='', **context):
        self.context = chromium.new_context(viewport=dict(width=1366, height=768), accept_downloads=True, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        if script: self.page.add_init_script(script)
        self.bad = []
        own = ('data:', 'blob:', '/'.join(url.split('/')[:3]) + '/')
        self.page.on('console', lambda m: m.type == 'error' and self.bad.append(m.text))
        self.page.on('pageerror', lambda e: self.bad.append(str(e)))
        self.page.on('request', lambda r: r.url.startswith(own) or self.bad.append(f'asks {r.url}'))
        self.page.goto(url, timeout=90_000)
        self.page.locator('.bk-panel-models-layout-Column').first.wait_for(timeout=90_000)

    def n(self, key): return self.page.locator(f'dd[data-n={key}]').inner_text()

    def counted(self):
        "Wait until the scene is counted"
        self.page.wait_for_function(COUNTED)
        return self

    def state(self): return {k: v[0] for k, v in parse_qs(urlsplit(self.page.url).query).items()}

    def wait_state(self, key, test=bool):
        for _ in range(PATIENCE//100):
            if key in self.state() and test(self.state()[key]): return self.state()[key]
            self.page.wait_for_timeout(100)
        raise AssertionError(f'{self.bad} {key} of {self.page.url} did not become as expected')

    def ranges(self): return self.page.evaluate(RANGES)

    def settled(self):
        "Wait until nothing on the page has changed for a while"
        last = None
        since = time.time()
        for _ in range(400):
            numbers = [e.inner_text() for e in self.page.locator('dd[data-n]').all()]
            now = (self.page.url, self.ranges(), *numbers, *self.selected())
            if now != last: last, since = now, time.time()
            elif time.time() - since > 2: break
            self.page.wait_for_timeout(150)
        return self

    def selected(self):
        rows = self.page.locator('.tabulator-row.tabulator-selected').all()
        return [row.locator('.tabulator-cell[tabulator-field=rank]').inner_text() for row in rows]

    def column(self, name):
        cells = self.page.locator(f'.tabulator-row .tabulator-cell[tabulator-field="{name}"]').all()
        return [float(c.inner_text().replace(',', '')) for c in cells]

    def press(self, key, times):
        handle = self.page.locator('.rule .noUi-handle')
        for _ in range(times): handle.press(key)

    def button(self, name): return self.page.get_by_role('button', name=name)

    def backgrounds(self):
        return self.page.get_by_label('Background', exact=True).first.locator('option').all_inner_texts()

    def put_under(self, name):
        "Choose a background of the large map"
        self.page.get_by_label('Background', exact=True).first.select_option(name)

    def tab(self, name):
        self.page.get_by_role('button', name=name, exact=True).click()
        self.page.wait_for_timeout(500)

    def map(self):
        "The large map"
        boxes = [(plot, plot.bounding_box()) for plot in self.page.locator('.bk-Plot').all()]
        return next(plot for plot, box in boxes if box and box['width'] > 400)

    def notes(self): return ' '.join(self.page.locator('.notes').all_inner_texts())

    def save(self, label, to):
        with self.page.expect_download() as d: self.page.get_by_text(label, exact=True).click()
        d.value.save_as(to)
        return to

    def close(self): self.context.close()

@pytest.fixture
def visit(chromium, server):
    visitors = []
    def go(query='', **context):
        visitors.append(Visitor(chromium, server + query, **context))
        return visitors[-1]
    yield go
    for v in visitors: v.close()

def truth_of(folder, name='demo'):
    "Probability and mapped landslides of a run, in pixels"
    import geopandas as gpd
    import rasterio
    from rasterio.features import rasterize
    with rasterio.open(folder/name/'probability.tif') as f:
        prob = f.read(1)
        mapped = gpd.read_file(folder/name/'landslides.gpkg', layer='mapped').geometry
        return prob, rasterize(mapped, prob.shape, transform=f.transform) == 1

def cells_of(folder, name='demo'):
    "The ranked cells of a run, worst first"
    import geopandas as gpd
    cells = gpd.read_file(folder/name/'landslides.gpkg', layer='cells')
    return cells.sort_values('expected_m2', ascending=False, ignore_index=True)

# --- what a visitor does

def test_page_loads_quietly_and_says_where_the_worst_is(visit, folder):
    v = visit('?run=demo').counted()
    sentence = v.page.locator('.worst').inner_text()
    assert v.bad == []
    assert sentence.startswith('Worst hit is cell 1, in the ')
    worst = cells_of(folder).iloc[0]
    assert f"{worst['lat']:.4f}° N {worst['lon']:.4f}° E" in sentence
    assert v.n('expected').endswith(('km²', 'ha'))
    assert 'adds up the probabilities' in v.page.locator('.quiet').first.inner_text()

def test_slider_changes_the_numbers_to_what_numpy_computes(visit, folder):
    import rioxarray
    from landslide_nb.browser.words import share_text
    from landslide_nb.data.grid import area_text
    from landslide_nb.mapping.areas import landslide_polygons
    prob, truth = truth_of(folder)
    raster = rioxarray.open_rasterio(folder/'demo'/'probability.tif')[0].load()
    v = visit('?run=demo').counted()
    for times, t in ((0, .4), (9, .49), (13, .62)):
        v.press('ArrowRight', times)
        if times: v.wait_state('t', lambda s: s == f'{t:.2f}')
        else: assert 't' not in v.state() # a link to the run's own threshold need not say it
        v.settled()
        hot = prob >= t
        right = (hot & truth).sum()
        assert v.n('area') == area_text(hot.sum()*100)
        assert v.n('precision') == share_text(right/hot.sum())
        assert v.n('recall') == share_text(right/truth.sum())
        assert v.n('landslides') == f'{len(landslide_polygons(raster, t)):,}'
    assert v.n('expected') == area_text(prob.sum()*100)
    assert v.bad == []

def test_click_in_the_table_moves_the_map_and_back(visit, folder):
    from shapely.geometry import Point
    cells = cells_of(folder)
    v = visit('?run=demo').counted()
    before = v.ranges()
    v.page.locator('.tabulator-row').nth(2).click()
    at = [float(a) for a in v.wait_state('at').split(',')]
    left, bottom, right, top = cells.geometry[2].bounds
    assert at[0] < left < right < at[2]
    assert at[1] < bottom < top < at[3]
    assert at[2]-at[0] < before[2]-before[0]
    np.testing.assert_allclose(v.ranges(), at, atol=.1)
    v.page.get_by_text('Whole scene').click()
    v.settled()
    np.testing.assert_allclose(v.ranges(), before)
    v.map().click() # into the middle: the cell there is selected
    v.settled()
    middle = Point((before[0]+before[2])/2, (before[1]+before[3])/2)
    hit = [i for i, g in enumerate(cells.geometry) if g.buffer(20).contains(middle)]
    assert [int(s) - 1 in hit for s in v.selected()] == [True]
    assert v.bad == []

def test_the_table_sorts_and_filters_by_number(visit):
    v = visit('?run=demo').counted()
    for name in ('expected (ha)', 'top probability', 'lat (°)'):
        v.page.locator(f'.tabulator-col[tabulator-field="{name}"] .tabulator-col-title').click()
        v.settled()
        values = v.column(name)
        assert len(values) > 3
        assert values in (sorted(values), sorted(values, reverse=True)), (name, values)
    areas = sorted(v.column('expected (ha)'))
    least = areas[len(areas)//2]
    v.page.locator('.tabulator-col[tabulator-field="expected (ha)"] input').fill(str(least))
    v.page.keyboard.press('Enter')
    v.settled()
    assert v.column('expected (ha)')
    assert min(v.column('expected (ha)')) >= least - .01
    assert v.bad == []

DRAWN = """window.drawn = []
const draw = CanvasRenderingContext2D.prototype.fillText
CanvasRenderingContext2D.prototype.fillText = function(text, ...where) {
  window.drawn.push(text)
  return draw.call(this, text, ...where)
}"""

def drawn_once(v, do, title):
    "Do something and wait until the map draws a title"
    v.page.evaluate('() => { window.drawn = [] }')
    do()
    v.page.wait_for_function('title => window.drawn.includes(title)', arg=title)
    v.settled()

def test_each_background_has_the_key_of_its_own_colours(visit, folder):
    "Once the key of the first background stayed on the screen with its numbers"
    from landslide_nb.browser.maps import key_values
    from landslide_nb.browser.runs import open_run
    from landslide_nb.browser.views import stretch
    low, high = stretch(open_run(folder, 'demo'), 'VH')
    of_backscatter = [str(value) for value in key_values(low, high) if low <= value <= high]
    wanted = {'Log-ratio': ('log-ratio dVV - dVH (dB)', ['-8', '-4', '0', '4', '8']), 'Before': ('before (dB)', of_backscatter),
              'Standardized change': ('standardized change', ['-4', '-2', '0', '2', '4']),
              'After': ('after (dB)', of_backscatter), 'Flicker': ('before and after (dB)', of_backscatter)}
    v = visit('?run=demo').counted()
    for name in ('Log-ratio', 'Standardized change', 'After', 'Before', 'Log-ratio', 'Flicker'):
        title, ticks = wanted[name]
        if name == 'Flicker': v.button(name).click()
        else: v.put_under(name)
        v.page.locator('figcaption', has_text=re.compile(f'^{re.escape(title)}$')).wait_for()
        v.settled()
        titles = v.page.locator('figcaption').all_inner_texts()
        assert titles == ['landslide probability', title]
        assert v.page.locator('.key').nth(1).locator('i').all_inner_texts() == ticks
        left, right = ends_of_key(v)
        blue_to_red = left[2] > left[0] and right[0] > right[2]
        assert blue_to_red if name in ('Log-ratio', 'Standardized change') else left < right, (name, left, right)
    assert v.bad == []

def ends_of_key(v):
    "The first and the last colour of the second key, as drawn"
    from matplotlib.image import imread
    bar = imread(io.BytesIO(v.page.locator('.key div').nth(1).screenshot()))
    row = bar[bar.shape[0]//2, :, :3]
    return row[4].tolist(), row[-5].tolist()

def test_a_link_is_copied_where_the_clipboard_is_not_lent(visit):
    "Over plain http browsers lend no clipboard, and the button did nothing"
    v = visit('?run=demo', script="Object.defineProperty(navigator, 'clipboard', {value: undefined})").counted()
    v.button('Copy link').click()
    link = v.page.locator('#link')
    assert link.is_visible()
    assert link.input_value() == v.page.url
    assert v.page.evaluate('() => document.getSelection().toString() || link.value.slice(link.selectionStart, link.selectionEnd)') == v.page.url
    assert v.bad == []

def test_the_page_counts_what_the_files_hold(chromium, folder, tmp_path):
    "The exact threshold and the smallest polygon of the run, in the page and in what it hands over"
    import geopandas as gpd
    runs = tmp_path/'runs'
    shutil.copytree(folder/'demo', runs/'demo')
    metrics = json.loads((runs/'demo'/'metrics.json').read_text()) | dict(threshold=.41749, min_area_m2=5000.)
    (runs/'demo'/'metrics.json').write_text(json.dumps(metrics))
    from landslide_nb.mapping.areas import landslide_polygons
    import rioxarray
    prob = rioxarray.open_rasterio(runs/'demo'/'probability.tif')[0].load()
    polygons = landslide_polygons(prob, .41749, 5000.)
    with serving(runs, tmp_path/'server.log') as url:
        v = Visitor(chromium, url).counted()
        assert v.n('landslides') == f'{len(polygons):,}'
        assert v.n('area') == area_text_of(prob.values >= np.float32(.41749))
        assert 'above 0.417, at least 5,000 m²' in v.page.locator('.numbers').inner_text()
        v.save('Polygons, GPKG', tmp_path/'saved.gpkg')
        v.close()
    assert len(gpd.read_file(tmp_path/'saved.gpkg')) == len(polygons)

def test_polygons_taken_home_know_their_slopes(visit, tmp_path):
    "Where the run has heights; the columns used to be empty"
    import geopandas as gpd
    v = visit('?run=other/dem').counted()
    v.save('Polygons, GPKG', tmp_path/'saved.gpkg')
    polygons = gpd.read_file(tmp_path/'saved.gpkg')
    assert len(polygons) and polygons.mean_slope.notna().all() and (polygons.mean_slope > 0).any()

def area_text_of(mask):
    from landslide_nb.data.grid import area_text
    return area_text(mask.sum()*100)

def test_nothing_above_the_threshold_is_said_and_not_drawn(chromium, folder, tmp_path):
    "The point of nothing used to float off the curve, and the highest probability was 0.00"
    import rasterio
    shutil.copytree(folder/'demo', tmp_path/'runs'/'faint')
    path = tmp_path/'runs'/'faint'/'probability.tif'
    with rasterio.open(path) as f: prob, profile = f.read(), f.profile
    path.unlink()
    with rasterio.open(path, 'w', **(profile | dict(driver='GTiff'))) as f: f.write(prob*np.float32(.004))
    import geopandas as gpd
    gpkg = path.with_name('landslides.gpkg')
    cells = gpd.read_file(gpkg, layer='cells').assign(max_probability=.004)
    cells.to_file(gpkg, layer='cells')
    with serving(tmp_path/'runs', tmp_path/'server.log') as url:
        v = Visitor(chromium, url).counted()
        assert v.page.locator('svg polyline').count() == 1
        assert v.page.locator('svg circle').count() == 0
        assert 'the highest probability, 0.004, stays below' in v.page.locator('.worst').inner_text()
        assert v.bad == []
        v.close()

def test_runs_are_compared_each_at_its_own_threshold(visit, folder):
    v = visit('?run=demo&other=demo_b&tab=compare').counted()
    v.page.get_by_text('Threshold', exact=True).wait_for()
    rows = v.page.locator('table tr').all_inner_texts()
    row = next(text for text in rows if text.startswith('Threshold'))
    assert row.split() == ['Threshold', '0.40', '0.16']
    assert v.bad == []

def test_only_runs_of_the_same_event_are_compared(visit):
    v = visit('?run=other/degrees&tab=compare').counted()
    v.page.get_by_text('so there is nothing to compare with').wait_for()
    w = visit('?run=demo&tab=compare').counted()
    w.page.locator('table').filter(has_text='AUPRC').first.wait_for()
    names = w.page.locator('select').nth(1).inner_text().split()
    assert 'demo_b' in names
    assert not [n for n in names if n.startswith('other/')]
    assert w.bad == []

def test_the_tabs_are_reached_by_key_and_the_focus_is_seen(visit):
    v = visit('?run=demo').counted()
    for _ in range(30):
        v.page.keyboard.press('Tab')
        text, *ring = v.page.evaluate(FOCUSED)
        if text.strip() == 'Chips': break
    assert text.strip() == 'Chips'
    assert ring == ['solid', '2px']
    v.page.keyboard.press('Enter')
    v.wait_state('tab', lambda s: s == 'chips')
    assert v.bad == []

def test_the_filter_of_ranks_shows_its_sign(visit):
    v = visit('?run=demo').counted()
    field = v.page.locator('.tabulator-col[tabulator-field="rank"] input')
    assert field.evaluate(ROOM) >= 16

def test_a_page_made_without_its_html_uses_its_own_styles(folder):
    "A visitor who comes so late that his session is made anew gets no page, only models"
    code = f"""
import json
import panel as pn
from bokeh.document import Document
from landslide_nb.app import Browser
pn.extension('tabulator', inline=False)
doc = Document()
Browser({str(folder)!r}, dict(run='demo', tab='chips')).template().server_doc(doc)
text = json.dumps(doc.to_json(), default=str)
print('static/extensions/panel' in text and 'https://cdn' not in text and 'background_fill_alpha' in text)
"""
    out = run_code(code, 200)
    assert out.stdout.split() == ['True'], out.stdout + out.stderr[-2000:]

def test_keyboard_tour_of_the_worst_cells(visit):
    v = visit('?run=demo').counted()
    v.button('Next worst').focus()
    v.page.keyboard.press('Enter')
    first = v.wait_state('at')
    v.page.keyboard.press('Enter')
    assert v.wait_state('at', lambda a: a != first)
    assert v.settled().selected() == ['2']

def test_downloads_open_and_hold_what_is_shown(visit, folder, tmp_path):
    import geopandas as gpd
    import pandas as pd
    v = visit('?run=demo&t=0.55').counted()
    n = int(v.n('landslides').replace(',', ''))
    gpkg = gpd.read_file(v.save('Polygons, GPKG', tmp_path/'a.gpkg'))
    geojson = gpd.read_file(v.save('Polygons, GeoJSON', tmp_path/'a.geojson'))
    assert len(gpkg) == len(geojson) == n > 0
    assert gpkg.crs.is_projected
    assert geojson.crs.is_geographic
    cells = pd.read_csv(v.save('Cells, CSV', tmp_path/'a.csv'))
    assert len(cells) == len(cells_of(folder))
    assert cells.expected_m2.is_monotonic_decreasing
    assert v.save('View, PNG', tmp_path/'a.png').read_bytes()[:4] == b'\x89PNG'
    assert v.bad == []

def test_a_link_restores_the_state(visit):
    v = visit('?run=demo').counted()
    v.press('ArrowRight', 5)
    v.wait_state('t', lambda s: s == '0.45')
    v.settled()
    v.page.locator('.tabulator-row').nth(1).click()
    v.wait_state('at')
    v.tab('Four views')
    v.wait_state('tab')
    at = v.settled().state()['at']
    w = visit('?' + urlsplit(v.page.url).query).counted().settled()
    assert w.state() == v.state()
    assert w.state()['t'] == '0.45'
    assert w.state()['tab'] == 'four'
    assert w.state()['at'] == at
    np.testing.assert_allclose(w.ranges(), v.ranges(), atol=.2)
    assert w.n('area') == v.n('area')

def test_two_visitors_do_not_disturb_each_other(visit):
    a = visit('?run=demo').counted()
    b = visit('?run=demo_b').counted()
    area = b.settled().n('area')
    a.press('ArrowRight', 20)
    a.wait_state('t', lambda s: s == '0.60')
    a.page.locator('.tabulator-row').nth(0).click()
    a.wait_state('at')
    a.settled()
    assert b.n('area') == area
    assert 'at' not in b.state()
    assert b.state()['run'] == 'demo_b'
    assert a.state()['t'] == '0.60'

def test_every_tab_opens_without_errors(visit):
    v = visit('?run=demo').counted()
    cells = v.page.locator('.tabulator-row').first
    for name in ('Four views', 'Compare', 'Chips', 'Experiments', 'Map'):
        v.tab(name)
        v.settled()
        cells.wait_for(state='visible' if name == 'Map' else 'hidden') # one tab at a time
    assert v.bad == []
    v.tab('Compare')
    table = v.page.locator('table').filter(has_text='AUPRC').first
    table.wait_for()
    for word in ('AUPRC', 'demo_b', 'Recall'): assert word in table.inner_text()
    v.tab('Experiments')
    v.page.get_by_text('There is no experiment in this folder').wait_for()
    v.tab('Map')
    v.settled()
    v.map().hover()
    v.page.wait_for_timeout(500)
    readout = v.page.locator('#readout').inner_text()
    assert re.search(r'east .* m, north .* m .*° N .*° E .*before -.* dB .*probability 0', readout)

# --- bad input

DAMAGES = [('no_pair', 'pair.tif is missing'), ('no_gpkg', 'landslides.gpkg is missing'),
           ('no_prob', 'probability.tif is missing'), ('no_metrics', 'metrics.json is missing'),
           ('cut', 'cannot be read'), ('linked', 'leads out of the given folder')]
WAYS_OUT = ['../secret', '/etc', 'link', '..', 'demo/../../secret', '%2e%2e/secret', '/etc/passwd', 'demo\x00']

@pytest.mark.parametrize('name, words', DAMAGES)
def test_a_damaged_run_says_what_is_missing_and_shows_the_rest(visit, name, words):
    v = visit(f'?run=broken/{name}')
    v.page.locator('.notes').wait_for()
    v.settled()
    assert words in v.notes()
    assert v.ranges()
    assert v.bad == []

@pytest.mark.parametrize('name', WAYS_OUT)
def test_no_address_leads_out_of_the_folder(visit, name):
    v = visit(f'?run={quote(name)}&other={quote(name)}&tab=compare').counted()
    assert v.wait_state('run', lambda r: r == 'demo') # the first there is
    assert 'which is not here' in v.settled().notes()
    names = [o.strip() for o in v.page.locator('select').first.inner_text().splitlines()]
    assert 'demo' in names
    assert not [n for n in names if n in ('link', 'linked') or 'secret' in n]

def test_text_from_files_is_not_html(visit):
    v = visit('?run=evil%20%3Cimg%20src%3Dx%20onerror%3Ddocument.title%3D1%3E').counted()
    assert v.page.title() == 'Landslide map'
    assert v.page.locator('#owned').count() == 0
    assert v.page.locator('img[src=x]').count() == 0
    for name in ('Compare', 'Four views', 'Chips'): v.tab(name)
    v.page.wait_for_timeout(1000)
    assert 'Unlike what the model knows <img' in v.page.locator('.warning').inner_text()
    assert v.page.title() == 'Landslide map'
    assert v.page.locator('img[src=x]').count() == 0
    assert '<script>' in v.page.locator('.run').first.inner_text()

def listening_at(port):
    "Addresses on this machine that listen at a port, as Linux writes them"
    out = []
    for table in map(Path, ('/proc/net/tcp', '/proc/net/tcp6')):
        rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
        out += [row[1] for row in rows if row[3] == '0A' and row[1].endswith(f':{port:04X}')]
    return out

def test_nothing_but_the_page_is_served(server, folder):
    import requests
    for path in ('demo/metrics.json', '../secret/metrics.json', 'static/../../../../../../etc/passwd',
                 'static/%2e%2e/%2e%2e/%2e%2e/etc/passwd', 'etc/passwd'):
        r = requests.get(server + path, timeout=20)
        assert r.status_code in (400, 403, 404), path
    port = int(server.split(':')[2].strip('/'))
    assert listening_at(port) == [f'0100007F:{port:04X}'] # 127.0.0.1 only

def test_a_run_without_truth_or_heights_says_so(visit):
    v = visit('?run=other/no_truth').counted()
    assert 'No mapped landslides' in v.notes()
    assert 'There is no dem.tif' in v.notes()
    assert v.page.locator('dd[data-n=precision]').count() == 0
    assert 'After' in v.backgrounds() and 'Hillshade' not in v.backgrounds()
    assert v.bad == []

def test_heights_become_a_hillshade(visit):
    v = visit('?run=other/dem').counted()
    assert v.page.locator('.notes').count() == 0
    v.put_under('Plain')
    v.settled()
    v.page.get_by_role('checkbox', name='Probability').uncheck()
    v.settled()
    assert v.page.evaluate(IMAGE_BYTES) <= 0
    v.put_under('Hillshade')
    v.settled()
    assert v.page.evaluate(IMAGE_BYTES) > 50
    assert v.bad == []

def test_a_run_in_degrees(visit, folder):
    import geopandas as gpd
    from landslide_nb.data.grid import area_text
    v = visit('?run=other/degrees').counted()
    left, bottom, right, top = v.ranges()
    assert 9.9 < left < 10.1
    assert (right-left)/(top-bottom) == pytest.approx(4/3/np.cos(np.deg2rad(60)), rel=.01)
    metrics = json.loads((folder/'other'/'degrees'/'metrics.json').read_text())
    assert v.n('expected') == area_text(metrics['expected_area_m2'])
    assert v.bad == []
    found = gpd.read_file(v.save('Polygons, GPKG', folder.parent/'degrees.gpkg'))
    assert found.crs.is_geographic
    assert f'{len(found):,}' == v.n('landslides')

def grey_tile():
    "A picture to stand in for a tile of the web map"
    from matplotlib.image import imsave
    png = io.BytesIO()
    imsave(png, np.full((256, 256, 3), 200, 'uint8'))
    return png.getvalue()

def test_the_web_map_is_loaded_only_when_asked_for(visit):
    v = visit('?run=demo').counted()
    tile = grey_tile()
    asked = []
    def answer(route):
        asked.append(route.request.url)
        route.fulfill(body=tile, content_type='image/png')
    v.context.route('https://tile.openstreetmap.org/**', answer)
    v.settled()
    assert v.bad == []
    v.put_under('Street map')
    v.settled()
    assert 0 < len(asked) <= 49 # the first one twice, to see whether the server is there
    assert all(re.fullmatch(r'https://tile.openstreetmap.org/\d+/\d+/\d+.png', u) for u in asked)
    assert {s for s in v.bad if not s.startswith('asks https://tile.openstreetmap.org/')} == set()
    n = len(asked)
    v.put_under('Plain')
    v.page.get_by_text('+', exact=True).click()
    v.settled()
    assert len(asked) == n

def test_a_web_map_without_a_way_to_its_server_says_so(visit):
    v = visit('?run=demo', script=DRAWN).counted()
    v.context.route('https://server.arcgisonline.com/**', lambda route: route.abort())
    drawn_once(v, lambda: v.put_under('Satellite'), 'This map cannot be loaded: no way to its server.')
    v.put_under('Plain')
    v.settled()
    assert v.page.evaluate(f"() => {MODELS}.filter(m => m.type == 'Label' && m.visible && m.text.includes('loaded')).length") == 0

CURTAIN = f"{MAPS}[0].renderers.find(r => r.name == 'curtain')?.data_source.data" # none before the first swipe
MASKED = f"""() => {{
  const image = {CURTAIN}?.image[0]
  if (image == null) return null
  const [rows, columns] = image.shape
  const shown = [...Array(columns).keys()].filter(c => [...Array(rows).keys()].some(r => image[r*columns + c] > 0))
  return shown.length ? [shown[0]/columns, shown.at(-1)/columns] : []
}}"""

def test_the_swipe_covers_what_is_left_of_the_mouse(visit):
    "The image before the event is cut where the divider is, by mouse and by keys, without a word to the server"
    v = visit('?run=demo').counted()
    v.button('Swipe').click()
    v.page.wait_for_function(f'() => {{ const s = ({MASKED})(); return s && s.length }}')
    box = v.map().bounding_box()
    for share in (.7, .4):
        v.page.mouse.move(box['x'] + share*box['width'], box['y'] + box['height']/2)
        v.page.wait_for_timeout(800)
        left, right = v.page.evaluate(MASKED)
        start, _, end, _ = v.ranges()
        image = v.page.evaluate(f'() => [{CURTAIN}.x[0], {CURTAIN}.dw[0]]')
        wanted = (start + share*(end - start) - image[0])/image[1]
        assert abs(right - wanted) < .02, (share, right, wanted)
    v.button('Swipe').click()
    v.page.wait_for_function(f'() => ({MASKED})() === null')
    assert v.bad == []

def test_an_empty_folder_says_so(chromium, tmp_path):
    (tmp_path/'runs').mkdir()
    with serving(tmp_path/'runs', tmp_path/'log') as url:
        v = Visitor(chromium, url)
        v.page.locator('.notes').wait_for()
        assert 'There is no run in runs' in v.notes()
        assert v.bad == []
        v.close()

def test_experiments_are_shown_and_filtered(chromium, experiments, tmp_path):
    with serving(experiments, tmp_path/'log') as url:
        v = Visitor(chromium, url)
        def lines(): return v.page.evaluate(LEGENDS)
        def drawn(ok):
            for _ in range(300):
                if ok(lines()): return True
                v.page.wait_for_timeout(100)
            return False
        assert drawn(lambda s: 'no pretraining' in s), lines()
        v.button('no pretraining').click()
        assert drawn(lambda s: s and 'no pretraining' not in s), lines()
        v.page.locator('select').nth(2).select_option('count landslide chips')
        assert drawn(lambda s: 'all-zero' in s), lines()
        assert [b for b in v.bad if 'GL Driver' not in b] == []
        v.close()

def test_many_visitors_are_served_and_their_memory_given_back(folder):
    code = f"""
import json
from benchmarks.app import Server, at_once, given_back
forget_soon = 'from landslide_nb import app; app.LIFETIME = 8000; '
with Server({str(folder)!r}, 295, forget_soon) as server:
    out = [at_once(server, 8, (.61, .62), 1.), given_back(server, 16, batch=8, warm=8, settle=16)]
print(json.dumps(out))
"""
    out = run_code(code, 295)
    assert out.returncode == 0, out.stderr[-2000:]
    together, memory = json.loads(out.stdout.splitlines()[-1])
    assert together['threshold_slowest_s'] < 10, together
    assert memory['growth'] < .15, memory

# --- a phone, the dark, the real thing

@pytest.mark.parametrize('width, query', [(390, ''), (1366, '&theme=dark')])
def test_it_fits(visit, width, query):
    v = visit(f'?run=demo{query}')
    v.page.set_viewport_size(dict(width=width, height=768))
    v.counted()
    v.page.wait_for_timeout(1000)
    for name in ('Map', 'Four views', 'Compare', 'Chips'):
        v.tab(name)
        v.settled()
        assert v.page.evaluate('document.documentElement.scrollWidth') <= width, name
    assert v.bad == []
    assert v.page.evaluate('document.documentElement.classList.contains("dark")') == ('dark' in query)

def test_panel_serve_runs_the_module_on_the_real_event(chromium, shared, tmp_path):
    from landslide_nb.data.cube import open_cube
    from landslide_nb.data.grid import area_text
    from landslide_nb.data.pair import make_pair
    from landslide_nb.mapping.runfolder import write_products
    pair = make_pair(open_cube(shared/'png_2024'/'png_landslide_2024_track9.nc'), passes=None).load()
    metrics = write_products(tmp_path/'png', pair, likely(pair))
    port = free_port()
    app = str(root/'landslide_nb'/'app.py')
    command = [sys.executable, '-m', 'panel', 'serve', app, '--port', str(port), '--args', str(tmp_path)]
    p = subprocess.Popen(['timeout', '200', *command], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        v = Visitor(chromium, f'http://127.0.0.1:{port}/app').counted()
        assert v.n('expected') == area_text(metrics['expected_area_m2'])
        assert '% ' not in v.n('recall')
        assert v.bad == []
        v.close()
    finally:
        p.terminate()
        p.wait()
