"The browser app in a real headless Chromium: what a visitor sees is what numpy computes, and nothing outside of the folder is served."
import io, json, os, re, shutil, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
import numpy as np
import pytest

root = Path(__file__).parents[1]
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
FLAGS = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed, so no browser can be driven')
pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium on this machine (apt-get install chromium)')]

# --- run folders

def likely(pair):
    "A stand-in for a model that needs no training: the smoothed log-ratio, squeezed into probabilities"
    from landslide_nb.data.pair import log_ratio
    score = log_ratio(pair, size=3).score
    return (1/(1 + np.exp(-(score/float(score.std()) - 2)*1.7))).astype('float32').rename('probability').assign_attrs(units='1').rio.write_crs(pair.rio.crs)

@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    "Runs of the embedded event: whole, without truth, with heights, in degrees, damaged, wicked; a secret beside them"
    from landslide_nb.data.pair import make_pair
    from landslide_nb.mapping.runfolder import write_products
    from landslide_nb.data.simulate import simulate_event
    base = tmp_path_factory.mktemp('app'); out = base/'runs'
    cube = simulate_event('demo_a', seed=0, size=640)
    pair = make_pair(cube).load()
    prob = likely(pair)
    write_products(out/'demo', pair, prob, dict(arch='log-ratio', calibration=dict(threshold=.4)))
    write_products(out/'demo_b', pair, prob**2, dict(arch='log-ratio squared', calibration=dict(threshold=.4)))
    small = pair.isel(x=slice(0, 160), y=slice(0, 128))
    write_products(out/'other'/'no_truth', small.drop_vars('landslides'), likely(small))
    write_products(out/'other'/'dem', small.assign(dem=cube.dem.isel(x=slice(0, 160), y=slice(0, 128))), likely(small))
    degrees = small.assign_coords(x=10 + np.arange(160)*2e-4, y=60 - np.arange(128)*1e-4).drop_vars('spatial_ref').rio.write_crs(4326)
    write_products(out/'other'/'degrees', degrees, likely(degrees))
    for name, lack in (('no_pair', 'pair.tif'), ('no_gpkg', 'landslides.gpkg'), ('no_prob', 'probability.tif'), ('no_metrics', 'metrics.json')):
        shutil.copytree(out/'demo', out/'broken'/name); (out/'broken'/name/lack).unlink()
    cut = out/'broken'/'cut'; shutil.copytree(out/'demo', cut); f = cut/'probability.tif'
    f.write_bytes(f.read_bytes()[:1500] + os.urandom(3000))
    linked = out/'broken'/'linked'; shutil.copytree(out/'demo', linked); (linked/'probability.tif').unlink(); (base/'outside.tif').write_bytes((out/'demo'/'probability.tif').read_bytes()); (linked/'probability.tif').symlink_to(base/'outside.tif')
    evil = out/'evil <img src=x onerror=document.title=1>'; shutil.copytree(out/'demo', evil)
    m = json.loads((evil/'metrics.json').read_text()); m['event_name'] = m['orbit'] = '<script>document.title="owned"</script><b id=owned>x</b>'; m['warnings'] = ['Unlike what the model knows <img src=x onerror=document.title=2>']
    (evil/'metrics.json').write_text(json.dumps(m))
    secret = base/'secret'; shutil.copytree(out/'demo', secret); (out/'link').symlink_to(secret)
    return out

@contextmanager
def serving(folder, log):
    "The app as `landslide-nb app` starts it"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    code = f"import threading, os; end = threading.Timer(1500, os._exit, (0,)); end.daemon = True; end.start(); from landslide_nb.app import serve; serve({str(folder)!r}, port={port}, show=False)"
    with open(log, 'w') as f: p = subprocess.Popen([sys.executable, '-c', code], cwd=root, stdout=f, stderr=f, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    try:
        for _ in range(240):
            try: socket.create_connection(('127.0.0.1', port), 1).close(); break
            except OSError: time.sleep(.5); assert p.poll() is None, log.read_text()[-2000:]
        yield f'http://127.0.0.1:{port}/'
    finally: p.kill(); p.wait()

@pytest.fixture(scope='session')
def server(folder):
    with serving(folder, folder.parent/'server.log') as url: yield url

@pytest.fixture(scope='session')
def experiments(tmp_path_factory):
    "A real experiment, as small as it can be, and no run beside it"
    from landslide_nb.study.experiment import run_experiment
    from landslide_nb.study.protocol import ExperimentSpec
    base = tmp_path_factory.mktemp('experiments')
    run_experiment(ExperimentSpec(scene=512, size=32, pretrain_size=16, block=1, width=4, epochs=1, epoch_chips=16, pretrain_epochs=1, budgets=(2, 4), seeds=2, pretrain=('none', 'demo_a')), base/'all'/'tiny', bar=False)
    return base/'all'

@pytest.fixture(scope='session')
def chromium():
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()

class Visitor:
    "A browser page that remembers everything it should not have seen"
    def __init__(self, chromium, url, **context):
        self.context = chromium.new_context(viewport=dict(width=1366, height=768), accept_downloads=True, **context)
        self.page, self.bad = self.context.new_page(), []
        self.page.on('console', lambda m: m.type == 'error' and self.bad.append(m.text))
        self.page.on('pageerror', lambda e: self.bad.append(str(e)))
        self.page.on('request', lambda r: r.url.startswith(('data:', 'blob:', '/'.join(url.split('/')[:3]) + '/')) or self.bad.append(f'asks {r.url}'))
        self.page.goto(url, timeout=90_000)
        self.page.locator('.bk-panel-models-layout-Column').first.wait_for(timeout=90_000)

    def n(self, key): return self.page.locator(f'dd[data-n={key}]').inner_text()
    def counted(self):
        "Wait until the scene is counted"
        self.page.wait_for_function("() => { const all = [], walk = r => { for (const e of r.querySelectorAll('*')) { if (e.matches('dd[data-n]')) all.push(e.innerText); if (e.shadowRoot) walk(e.shadowRoot) } }; walk(document); return all.length && all.every(t => t && !t.includes('counting')) }", timeout=60_000)
        return self
    def state(self): return {k: v[0] for k, v in parse_qs(urlsplit(self.page.url).query).items()}
    def wait_state(self, key, test=bool):
        for _ in range(300):
            if key in self.state() and test(self.state()[key]): return self.state()[key]
            self.page.wait_for_timeout(100)
        raise AssertionError(f'{self.bad} {key} of {self.page.url} did not become as expected')
    def ranges(self): return self.page.evaluate("() => [...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'Plot' && !m.properties.aspect_ratio.is_unset && m.aspect_ratio > 1.3).map(f => [f.x_range.start, f.y_range.start, f.x_range.end, f.y_range.end])[0]")
    def settled(self):
        "Wait until nothing on the page has changed for a while"
        last, since = None, time.time()
        for _ in range(400):
            now = (self.page.url, self.ranges(), *[e.inner_text() for e in self.page.locator('dd[data-n]').all()], *self.selected())
            if now != last: last, since = now, time.time()
            elif time.time() - since > 2: break
            self.page.wait_for_timeout(150)
        return self
    def selected(self): return [r.locator('.tabulator-cell[tabulator-field=rank]').inner_text() for r in self.page.locator('.tabulator-row.tabulator-selected').all()]
    def press(self, key, times):
        handle = self.page.locator('.noUi-handle').first
        for _ in range(times): handle.press(key)
    def tab(self, name): self.page.get_by_role('button', name=name, exact=True).click(); self.page.wait_for_timeout(500)
    def notes(self): return self.page.locator('.notes').all_inner_texts()
    def save(self, label, to):
        with self.page.expect_download(timeout=60_000) as d: self.page.get_by_text(label, exact=True).click()
        d.value.save_as(to); return to
    def close(self): self.context.close()

@pytest.fixture
def visit(chromium, server):
    all = []
    def go(query='', **context): all.append(Visitor(chromium, server + query, **context)); return all[-1]
    yield go
    for v in all: v.close()

def truth_of(folder, name='demo'):
    import geopandas as gpd, rasterio
    from rasterio.features import rasterize
    with rasterio.open(folder/name/'probability.tif') as f: prob, t = f.read(1), f.transform
    return prob, rasterize(gpd.read_file(folder/name/'landslides.gpkg', layer='mapped').geometry, prob.shape, transform=t) == 1

# --- what a visitor does

def test_page_loads_quietly_and_says_where_the_worst_is(visit, folder):
    import geopandas as gpd
    v = visit('?run=demo').counted()
    assert v.bad == [] and v.page.locator('.worst').inner_text().startswith('Worst hit is cell 1, in the ')
    worst = gpd.read_file(folder/'demo'/'landslides.gpkg', layer='cells').sort_values('expected_m2').iloc[-1]
    assert f"{worst['lat']:.4f}° N {worst['lon']:.4f}° E" in v.page.locator('.worst').inner_text()
    assert v.n('expected').endswith(('km²', 'ha')) and 'adds up the probabilities' in v.page.locator('.quiet').first.inner_text()

def test_slider_changes_the_numbers_to_what_numpy_computes(visit, folder):
    from landslide_nb.data.grid import area_text
    from landslide_nb.app import share_text
    from landslide_nb.mapping.areas import landslide_polygons
    import rioxarray
    prob, truth = truth_of(folder)
    raster = rioxarray.open_rasterio(folder/'demo'/'probability.tif')[0].load()
    v = visit('?run=demo').counted()
    for times, t in ((0, .4), (9, .49), (13, .62)):
        v.press('ArrowRight', times); v.wait_state('t', lambda s: s == f'{t:.2f}'); v.settled()
        hot = prob >= t
        assert v.n('area') == area_text(hot.sum()*100)
        assert v.n('precision') == share_text((hot & truth).sum()/hot.sum()) and v.n('recall') == share_text((hot & truth).sum()/truth.sum())
        assert v.n('landslides') == f'{len(landslide_polygons(raster, t)):,}'
    assert v.n('expected') == area_text(prob.sum()*100) and v.bad == []

def test_click_in_the_table_moves_the_map_and_back(visit, folder):
    import geopandas as gpd
    cells = gpd.read_file(folder/'demo'/'landslides.gpkg', layer='cells').sort_values('expected_m2', ascending=False, ignore_index=True)
    v = visit('?run=demo').counted()
    before = v.ranges()
    v.page.locator('.tabulator-row').nth(2).click()
    at = [float(a) for a in v.wait_state('at').split(',')]
    l, b, r, t = cells.geometry[2].bounds
    assert at[0] < l < r < at[2] and at[1] < b < t < at[3] and at[2]-at[0] < before[2]-before[0]
    np.testing.assert_allclose(v.ranges(), at, atol=.1)
    v.page.get_by_text('Whole scene').click(); v.settled()
    np.testing.assert_allclose(v.ranges(), before)
    canvas = v.page.locator('.bk-Plot').filter(visible=True).last # click into the middle of the map: the cell there is selected
    for f in v.page.locator('.bk-Plot').all():
        if f.bounding_box() and f.bounding_box()['width'] > 400: canvas = f
    canvas.click(); v.settled()
    x, y = (before[0]+before[2])/2, (before[1]+before[3])/2
    from shapely.geometry import Point
    hit = [i for i, g in enumerate(cells.geometry) if g.buffer(20).contains(Point(x, y))]
    assert [int(s) - 1 in hit for s in v.selected()] == [True] and v.bad == []

def test_the_table_sorts_and_filters_by_number(visit):
    v = visit('?run=demo').counted()
    column = lambda k: [float(c.inner_text().replace(',', '')) for c in v.page.locator(f'.tabulator-row .tabulator-cell[tabulator-field="{k}"]').all()]
    for k in ('expected (ha)', 'top probability', 'lat (°)'):
        v.page.locator(f'.tabulator-col[tabulator-field="{k}"] .tabulator-col-title').click(); v.settled()
        values = column(k); assert len(values) > 3 and values in (sorted(values), sorted(values, reverse=True)), (k, values)
    least = sorted(column('expected (ha)'))[len(column('expected (ha)'))//2]
    v.page.locator('.tabulator-col[tabulator-field="expected (ha)"] input').fill(str(least)); v.page.keyboard.press('Enter'); v.settled()
    assert column('expected (ha)') and min(column('expected (ha)')) >= least - .01 and v.bad == []

def test_only_runs_of_the_same_event_are_compared(visit):
    v = visit('?run=other/degrees&tab=compare').counted()
    v.page.get_by_text('so there is nothing to compare with').wait_for(timeout=60_000)
    w = visit('?run=demo&tab=compare').counted(); w.page.locator('table').filter(has_text='AUPRC').first.wait_for(timeout=60_000)
    names = w.page.locator('select').nth(1).inner_text().split()
    assert 'demo_b' in names and not [n for n in names if n.startswith('other/')] and w.bad == []

def test_the_tabs_are_reached_by_key_and_the_focus_is_seen(visit):
    v = visit('?run=demo').counted()
    focus = "() => { let e = document.activeElement; while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement; const s = getComputedStyle(e); return [e.innerText, s.outlineStyle, s.outlineWidth] }"
    for _ in range(30):
        v.page.keyboard.press('Tab'); text, *ring = v.page.evaluate(focus)
        if text.strip() == 'Chips': break
    assert text.strip() == 'Chips' and ring == ['solid', '2px']
    v.page.keyboard.press('Enter'); v.wait_state('tab', lambda s: s == 'chips'); assert v.bad == []

def test_the_filter_of_ranks_shows_its_sign(visit):
    v = visit('?run=demo').counted()
    room = v.page.locator('.tabulator-col[tabulator-field="rank"] input').evaluate("e => e.clientWidth - parseFloat(getComputedStyle(e).paddingLeft) - parseFloat(getComputedStyle(e).paddingRight)")
    assert room >= 16

def test_a_page_made_without_its_html_uses_its_own_styles(folder):
    "A visitor who comes so late that his session is made anew gets no page, only models"
    code = f"import json; from bokeh.document import Document; from landslide_nb.app import Browser, pn; pn.extension('tabulator', inline=False); d = Document(); Browser({str(folder)!r}, dict(run='demo', tab='chips')).template().server_doc(d); d = json.dumps(d.to_json(), default=str); print('static/extensions/panel' in d and 'https://cdn' not in d and 'background_fill_alpha' in d)"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=root, capture_output=True, text=True, timeout=200)
    assert out.stdout.split() == ['True'], out.stdout + out.stderr[-2000:]

def test_keyboard_tour_of_the_worst_cells(visit):
    v = visit('?run=demo').counted()
    button = v.page.get_by_role('button', name='Next worst')
    button.focus(); v.page.keyboard.press('Enter'); first = v.wait_state('at')
    v.page.keyboard.press('Enter'); assert v.wait_state('at', lambda a: a != first)
    assert v.settled().selected() == ['2']

def test_downloads_open_and_hold_what_is_shown(visit, folder, tmp_path):
    import geopandas as gpd, pandas as pd
    v = visit('?run=demo&t=0.55').counted()
    n = int(v.n('landslides').replace(',', ''))
    gpkg, geojson = gpd.read_file(v.save('Polygons, GPKG', tmp_path/'a.gpkg')), gpd.read_file(v.save('Polygons, GeoJSON', tmp_path/'a.geojson'))
    assert len(gpkg) == len(geojson) == n > 0 and gpkg.crs.is_projected and geojson.crs.is_geographic
    cells = pd.read_csv(v.save('Cells, CSV', tmp_path/'a.csv'))
    assert len(cells) == len(gpd.read_file(folder/'demo'/'landslides.gpkg', layer='cells')) and cells.expected_m2.is_monotonic_decreasing
    assert v.save('View, PNG', tmp_path/'a.png').read_bytes()[:4] == b'\x89PNG' and v.bad == []

def test_a_link_restores_the_state(visit):
    v = visit('?run=demo').counted()
    v.press('ArrowRight', 5); v.wait_state('t', lambda s: s == '0.45'); v.settled(); v.page.locator('.tabulator-row').nth(1).click(); v.wait_state('at'); v.tab('Four views'); v.wait_state('tab'); at = v.settled().state()['at']
    w = visit('?' + urlsplit(v.page.url).query).counted().settled()
    assert w.state() == v.state() and w.state()['t'] == '0.45' and w.state()['tab'] == 'four' and w.state()['at'] == at
    np.testing.assert_allclose(w.ranges(), v.ranges(), atol=.2)
    assert w.n('area') == v.n('area')

def test_two_visitors_do_not_disturb_each_other(visit):
    a, b = visit('?run=demo').counted(), visit('?run=demo_b').counted()
    area = b.settled().n('area')
    a.press('ArrowRight', 20); a.wait_state('t', lambda s: s == '0.60'); a.page.locator('.tabulator-row').nth(0).click(); a.wait_state('at'); a.settled()
    assert b.n('area') == area and 'at' not in b.state() and b.state()['run'] == 'demo_b' and a.state()['t'] == '0.60'

def test_every_tab_opens_without_errors(visit):
    v = visit('?run=demo').counted()
    cells = v.page.locator('.tabulator-row').first
    for name in ('Four views', 'Compare', 'Chips', 'Experiments', 'Map'):
        v.tab(name); v.settled()
        cells.wait_for(state='visible' if name == 'Map' else 'hidden', timeout=60_000) # one tab at a time
    assert v.bad == []
    v.tab('Compare'); table = v.page.locator('table').filter(has_text='AUPRC').first; table.wait_for(timeout=60_000); words = table.inner_text()
    assert 'AUPRC' in words and 'demo_b' in words and 'Recall' in words
    v.tab('Experiments'); v.page.get_by_text('There is no experiment in this folder').wait_for(timeout=60_000)
    v.tab('Map'); v.settled()
    next(f for f in v.page.locator('.bk-Plot').all() if f.bounding_box() and f.bounding_box()['width'] > 400).hover(); v.page.wait_for_timeout(500)
    assert re.search(r'east .* m, north .* m .*° N .*° E .*before -.* dB .*probability 0', v.page.locator('#readout').inner_text())

# --- bad input

@pytest.mark.parametrize('name, words', [('no_pair', 'pair.tif is missing'), ('no_gpkg', 'landslides.gpkg is missing'), ('no_prob', 'probability.tif is missing'), ('no_metrics', 'metrics.json is missing'), ('cut', 'cannot be read'), ('linked', 'leads out of the given folder')])
def test_a_damaged_run_says_what_is_missing_and_shows_the_rest(visit, name, words):
    v = visit(f'?run=broken/{name}')
    v.page.locator('.notes').wait_for(timeout=60_000); v.settled()
    assert words in ' '.join(v.notes()) and v.ranges() and v.bad == []

@pytest.mark.parametrize('name', ['../secret', '/etc', 'link', '..', 'demo/../../secret', '%2e%2e/secret', '/etc/passwd', 'demo\x00'])
def test_no_address_leads_out_of_the_folder(visit, name):
    from urllib.parse import quote
    v = visit(f'?run={quote(name)}&other={quote(name)}&tab=compare').counted()
    assert v.wait_state('run', lambda r: r == 'demo') # the first there is
    assert 'which is not here' in ' '.join(v.settled().notes())
    names = [o.strip() for o in v.page.locator('select').first.inner_text().splitlines()]
    assert 'demo' in names and not [n for n in names if n in ('link', 'linked') or 'secret' in n]

def test_text_from_files_is_not_html(visit):
    v = visit('?run=evil%20%3Cimg%20src%3Dx%20onerror%3Ddocument.title%3D1%3E').counted()
    assert v.page.title() == 'Landslide map' and v.page.locator('#owned').count() == 0 and v.page.locator('img[src=x]').count() == 0
    for name in ('Compare', 'Four views', 'Chips'): v.tab(name)
    v.page.wait_for_timeout(1000); assert 'Unlike what the model knows <img' in v.page.locator('.warning').inner_text()
    assert v.page.title() == 'Landslide map' and v.page.locator('img[src=x]').count() == 0 and '<script>' in v.page.locator('.run').inner_text()

def test_nothing_but_the_page_is_served(server, folder):
    import requests
    for path in ('demo/metrics.json', '../secret/metrics.json', 'static/../../../../../../etc/passwd', 'static/%2e%2e/%2e%2e/%2e%2e/etc/passwd', 'etc/passwd'):
        r = requests.get(server + path, timeout=20)
        assert r.status_code in (400, 403, 404), path
    port = int(server.split(':')[2].strip('/'))
    listening = [line.split()[1] for f in ('/proc/net/tcp', '/proc/net/tcp6') if Path(f).exists() for line in Path(f).read_text().splitlines()[1:] if line.split()[3] == '0A' and line.split()[1].endswith(f':{port:04X}')]
    assert listening == [f'0100007F:{port:04X}']

def test_a_run_without_truth_or_heights_says_so(visit):
    v = visit('?run=other/no_truth').counted()
    assert 'No mapped landslides' in ' '.join(v.notes()) and 'There is no dem.tif' in ' '.join(v.notes()) and v.page.locator('dd[data-n=precision]').count() == 0
    assert v.page.get_by_role('button', name='Hillshade').count() == 0 and v.bad == []

def test_heights_become_a_hillshade(visit):
    v = visit('?run=other/dem').counted()
    assert v.page.locator('.notes').count() == 0
    bytes_of = lambda: v.page.evaluate("() => Math.max(...[...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'Plot' && !m.properties.aspect_ratio.is_unset && m.aspect_ratio > 1.3)[0].renderers.filter(r => r.visible && r.glyph.type == 'Image').map(r => r.data_source.data.image.length ? new Set(r.data_source.data.image[0]).size : 0))")
    v.page.get_by_role('button', name='Plain').click(); v.settled(); v.page.get_by_role('checkbox', name='Probability').uncheck(); v.settled(); assert bytes_of() <= 0
    v.page.get_by_role('button', name='Hillshade').click(); v.settled(); assert bytes_of() > 50 and v.bad == []

def test_a_run_in_degrees(visit, folder):
    import geopandas as gpd
    v = visit('?run=other/degrees').counted()
    l, b, r, t = v.ranges(); assert 9.9 < l < 10.1 and (r-l)/(t-b) == pytest.approx(4/3/np.cos(np.deg2rad(60)), rel=.01)
    m = json.loads((folder/'other'/'degrees'/'metrics.json').read_text())
    from landslide_nb.data.grid import area_text
    assert v.n('expected') == area_text(m['expected_area_m2']) and v.bad == []
    found = gpd.read_file(v.save('Polygons, GPKG', folder.parent/'degrees.gpkg')); assert found.crs.is_geographic and f'{len(found):,}' == v.n('landslides')

def test_the_web_map_is_loaded_only_when_asked_for(visit):
    v, asked = visit('?run=demo').counted(), []
    png = io.BytesIO(); from matplotlib.image import imsave; imsave(png, np.full((256, 256, 3), 200, 'uint8'))
    v.context.route('https://tile.openstreetmap.org/**', lambda r: (asked.append(r.request.url), r.fulfill(body=png.getvalue(), content_type='image/png')))
    v.settled(); assert v.bad == []
    v.page.get_by_role('button', name='Web map').click(); v.settled()
    assert asked and all(re.fullmatch(r'https://tile.openstreetmap.org/\d+/\d+/\d+.png', u) for u in asked) and len(asked) < 49
    assert {s for s in v.bad if not s.startswith('asks https://tile.openstreetmap.org/')} == set()
    n = len(asked); v.page.get_by_role('button', name='Plain').click(); v.page.get_by_text('+', exact=True).click(); v.settled(); assert len(asked) == n

def test_an_empty_folder_says_so(chromium, tmp_path):
    (tmp_path/'runs').mkdir()
    with serving(tmp_path/'runs', tmp_path/'log') as url:
        v = Visitor(chromium, url)
        v.page.locator('.notes').wait_for(timeout=60_000); assert 'There is no run in runs' in ' '.join(v.notes()) and v.bad == []
        v.close()

def test_experiments_are_shown_and_filtered(chromium, experiments, tmp_path):
    with serving(experiments, tmp_path/'log') as url:
        v = Visitor(chromium, url)
        lines = lambda: v.page.evaluate("() => [...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'Legend').flatMap(m => m.items.map(i => i.label.value))")
        drawn = lambda ok: next((n for n in range(300) if ok(lines()) or v.page.wait_for_timeout(100)), None) is not None
        assert drawn(lambda s: 'no pretraining' in s), lines()
        v.page.get_by_role('button', name='no pretraining').click(); assert drawn(lambda s: s and 'no pretraining' not in s), lines()
        v.page.locator('select').nth(2).select_option('count landslide chips'); assert drawn(lambda s: 'all-zero' in s), lines()
        assert [b for b in v.bad if 'GL Driver' not in b] == []
        v.close()

def test_many_visitors_are_served_and_their_memory_given_back(folder):
    code = f"import json; from benchmarks.app import *; server = Server({str(folder)!r}, 280).__enter__(); out = [at_once(server, 8, (.61, .62), 1.), given_back(server, 16, batch=8, warm=8, settle=20)]; server.__exit__(); print(json.dumps(out))"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=root, capture_output=True, text=True, timeout=290)
    assert out.returncode == 0, out.stderr[-2000:]
    together, memory = json.loads(out.stdout.splitlines()[-1])
    assert together['threshold_slowest_s'] < 10, together
    assert memory['growth'] < .15, memory

# --- a phone, the dark, the real thing

@pytest.mark.parametrize('width, query', [(390, ''), (1366, '&theme=dark')])
def test_it_fits(visit, width, query):
    v = visit(f'?run=demo{query}')
    v.page.set_viewport_size(dict(width=width, height=768)); v.counted(); v.page.wait_for_timeout(1000)
    for name in ('Map', 'Four views', 'Compare', 'Chips'):
        v.tab(name); v.settled()
        assert v.page.evaluate('document.documentElement.scrollWidth') <= width, name
    assert v.bad == []
    assert v.page.evaluate('document.documentElement.classList.contains("dark")') == ('dark' in query)

def test_panel_serve_runs_the_module_on_the_real_event(chromium, shared, tmp_path):
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.cube import open_cube
    from landslide_nb.mapping.runfolder import write_products
    pair = make_pair(open_cube(shared/'png_2024'/'png_landslide_2024_track9.nc'), passes=None).load()
    m = write_products(tmp_path/'png', pair, likely(pair))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    p = subprocess.Popen(['timeout', '200', sys.executable, '-m', 'panel', 'serve', str(root/'landslide_nb'/'app.py'), '--port', str(port), '--args', str(tmp_path)], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try: socket.create_connection(('127.0.0.1', port), 1).close(); break
            except OSError: time.sleep(.5)
        v = Visitor(chromium, f'http://127.0.0.1:{port}/app').counted()
        from landslide_nb.data.grid import area_text
        assert v.n('expected') == area_text(m['expected_area_m2']) and '% ' not in v.n('recall') and v.bad == []
        v.close()
    finally: p.terminate(); p.wait()
