"""The browser app on a large scene, beside hvplot's `image(rasterize=True)`: first view, threshold changes, many visitors at once, memory given back.
Run `python benchmarks/app.py [SIDE [VISITORS [ROUNDS]]]` (default 10000 px, 100 visitors, 3 rounds; needs datashader); `python benchmarks/app.py rounds FOLDER` repeats the first view of a folder with one run, `run`.
`larger FOLDER` makes scenes of two sizes in an empty folder and compares their first views; `hands RUNS` measures layer switches and the swipe in Chromium; `fifty RUNS` asks for 50 pages in one second.
The sides take turns, each in a fresh process; ratios are those of a round, their median and range."""
import asyncio, contextlib, gc, json, os, re, resource, socket, subprocess, sys, tempfile, time, uuid
from pathlib import Path

root, SECONDS = Path(__file__).parents[1], 1200 # of a server, at most
if str(root) not in sys.path: sys.path.insert(0, str(root))

def peak_gb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
def resident_mb(pid): return int(Path(f'/proc/{pid}/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20

def make_run(folder:Path, width:int, height:int=0):
    "A run folder of a large scene: many small landslides, written strip by strip, with its polygons and ranked cells"
    import numpy as np, rasterio, rasterio.shutil
    folder.mkdir(parents=True)
    height = height or width
    plain, g = folder/'plain.tif', np.random.default_rng(0)
    noise = np.round(g.beta(.5, 40, (256, width)).astype('float32'), 3) # one strip, shifted for each of the others: to draw them all takes minutes
    with rasterio.open(plain, 'w', driver='GTiff', width=width, height=height, count=1, dtype='float32', crs='EPSG:32654', transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10), nodata=float('nan'), tiled=True, blockxsize=256, blockysize=256) as f:
        for r in range(0, height, 256):
            n = min(256, height - r); p = np.roll(noise, g.integers(width), 1)[:n].copy()
            for y, x in zip(g.integers(0, max(1, n-12), width//40), g.integers(0, width-12, width//40)): p[y:y+g.integers(2, 12), x:x+g.integers(2, 12)] = np.round(g.uniform(.3, .95), 3)
            f.write(p, 1, window=rasterio.windows.Window(0, r, width, n))
    rasterio.shutil.copy(plain, folder/'probability.tif', driver='COG', compress='DEFLATE', level=1, predictor='YES', blocksize=256, overview_resampling='average')
    plain.unlink(); write_shapes(folder/'landslides.gpkg', width, height)
    (folder/'metrics.json').write_text(json.dumps(dict(threshold=.5)))

def write_shapes(path:Path, width:int, height:int):
    "Cells of a kilometre and about 50,000 polygons for 425 million pixels, as a mapping leaves them"
    import geopandas as gpd, numpy as np, shapely
    g = np.random.default_rng(1)
    def boxes(x, y, side): return shapely.box(5e5 + x*10, 5e6 - (y + side)*10, 5e5 + (x + side)*10, 5e6 - y*10)
    x, y = (part.ravel() for part in np.meshgrid(np.arange(0, width, 100), np.arange(0, height, 100)))
    expected = g.gamma(.5, 2e4, len(x))
    cells = gpd.GeoDataFrame(dict(expected_m2=expected, low_m2=expected/2, high_m2=expected*2, max_probability=g.uniform(size=len(x)), lon=141 + x*1e-4, lat=45 - y*1e-4), geometry=boxes(x, y, 100), crs=32654)
    cells.to_file(path, layer='cells', driver='GPKG', geometry_type='MultiPolygon', promote_to_multi=True)
    n = round(width*height*50_000/425e6)
    found = gpd.GeoDataFrame(dict(area_m2=np.full(n, 6400.)), geometry=boxes(g.integers(0, width-8, n), g.integers(0, height-8, n), 8), crs=32654)
    found.to_file(path, layer='polygons', driver='GPKG', geometry_type='MultiPolygon', promote_to_multi=True)

# --- first view: from a path to the document a browser is sent, in a fresh process after its imports, and once more

def visited():
    "A document as a server begins it when a visitor comes, and what must be kept for it"
    from bokeh.document import Document
    from bokeh.server.contexts import BokehSessionContext, _RequestProxy
    from tornado.httputil import HTTPServerRequest
    doc = Document(); context = BokehSessionContext(uuid.uuid4().hex, None, doc)
    context._request = _RequestProxy(HTTPServerRequest(method='GET', uri='/'), arguments={}, cookies={}, headers={})
    doc._session_context = lambda: context
    return doc, context

def timed(make, served=True):
    "Seconds and more GB of a thing's first document, as a server sends it to a visitor or else as a whole, seconds of its second; the same in CPU time of all threads, which other work on the machine disturbs less, and of the thread that makes it, without the scan behind it"
    from bokeh.document import Document
    from panel.io.state import set_curdoc
    def document():
        start, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
        doc, _ = visited() if served else (Document(), None)
        with set_curdoc(doc) if served else contextlib.nullcontext(): make().server_doc(doc); doc.to_json()
        return time.perf_counter() - start, time.process_time() - cpu, time.thread_time() - own
    gc.collect(); gc.freeze() # as a server does with what the imports left
    base = peak_gb(); first, first_cpu, first_own = document()
    more, (second, second_cpu, second_own) = peak_gb() - base, document()
    return dict(first_view_s=first, first_view_cpu_s=first_cpu, first_view_own_s=first_own, first_view_gb=more,
                second_view_s=second, second_view_cpu_s=second_cpu, second_view_own_s=second_own)

def view(folder):
    "The same as the peer: the raster in a figure that can be panned and zoomed"
    import panel as pn
    from bokeh.models import ColumnDataSource, Image, LinearColorMapper, Range1d
    from landslide_nb.browser.maps import image_data, map_figure, palette
    from landslide_nb.browser.views import fit, read_view
    from landslide_nb.browser.runs import open_run
    def make():
        run = open_run(folder, 'run')
        (l, b, r, t) = bounds = fit(run.bounds, run.kx)
        f = map_figure(Range1d(l, r), Range1d(b, t), run)
        pixels = ColumnDataSource(image_data(read_view(run.files['probability.tif'], bounds), 0, 1))
        f.add_glyph(pixels, Image(image='image', x='x', y='y', dw='dw', dh='dh', color_mapper=LinearColorMapper(palette=palette('inferno'), low=0, high=255)))
        return pn.pane.Bokeh(f)
    return timed(make)

def ours(folder):
    "The page as a visitor is sent it first, with headline, numbers and map; then the scan of the scene and the numbers of any threshold"
    from dataclasses import replace
    import panel as pn
    from landslide_nb.app import Browser
    from landslide_nb.browser.scan import count_landslides, scan_later
    from landslide_nb.browser.runs import open_run
    from landslide_nb.browser.words import numbers_html
    pn.extension('tabulator', inline=False)
    out = timed(lambda: Browser(folder, {}).template())
    run = open_run(folder, 'run'); start = time.perf_counter()
    scan = scan_later(run).result()
    out |= dict(until_counted_s=time.perf_counter() - start, with_scan_gb=peak_gb())
    def slowest(ready):
        took = 0
        for t in (scan.lowest, .1, .2, .5, .8): # the lowest has most pixels to count
            this = scan if ready else replace(scan, counts={})
            start = time.perf_counter(); numbers_html(run, this, t); took = max(took, time.perf_counter() - start)
        return took
    for t in range(1, 100): count_landslides(scan, t/100) # what the background thread does after a scan
    return out | dict(peak_gb=peak_gb(), threshold_s=slowest(True), threshold_before_counted_s=slowest(False))

def whole(folder):
    "The page with what it is sent after its headline, numbers and map: list of cells, controls and files"
    import panel as pn
    from landslide_nb.app import Browser
    pn.extension('tabulator', inline=False)
    return timed(lambda: Browser(folder, {}).template(), served=False)

def peer(folder):
    "hvplot's rasterize of the same raster, and nothing else"
    import holoviews as hv, hvplot.xarray, panel as pn, rioxarray, datashader
    hv.extension('bokeh')
    image = lambda: rioxarray.open_rasterio(Path(folder)/'run'/'probability.tif')[0].hvplot.image(x='x', y='y', rasterize=True)
    return timed(lambda: pn.pane.HoloViews(image()))

# --- visitors: real websocket sessions of a server in its own process

class Server:
    "The app as `landslide-nb app` starts it, for at most `seconds`; `first` is Python that runs before"
    def __init__(self, folder, seconds=SECONDS, first=''):
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); self.port = s.getsockname()[1]
        code = f"import os, threading; end = threading.Timer({seconds}, os._exit, (0,)); end.daemon = True; end.start(); {first}from landslide_nb.app import serve; serve({str(Path(folder).resolve())!r}, port={self.port}, show=False)"
        self.process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], cwd=root)
    def __enter__(self):
        for _ in range(480):
            try: socket.create_connection(('127.0.0.1', self.port), 1).close(); return self
            except OSError: time.sleep(.25)
            if self.process.poll() is not None: raise RuntimeError('the server ended')
        raise RuntimeError('the server did not start')
    def __exit__(self, *_): self.process.kill(); self.process.wait()
    @property
    def resident_mb(self): return resident_mb(self.process.pid)
    @property
    def cpu_s(self):
        times = Path(f'/proc/{self.process.pid}/stat').read_text().rsplit(')', 1)[1].split()[11:13]
        return sum(map(int, times))/os.sysconf('SC_CLK_TCK')

class Visitor:
    "A browser without a screen: gets the page, opens its websocket, moves the slider, waits for the numbers"
    @classmethod
    async def open(cls, server):
        from tornado.httpclient import AsyncHTTPClient, HTTPRequest
        from tornado.websocket import websocket_connect
        self, start = cls(), time.perf_counter()
        page = (await AsyncHTTPClient(max_clients=100).fetch(f'http://127.0.0.1:{server.port}/', request_timeout=120)).body.decode()
        token = re.search(r'"token":"([^"]+)"', page).group(1)
        self.socket = await websocket_connect(HTTPRequest(f'ws://127.0.0.1:{server.port}/ws', request_timeout=120), subprotocols=['bokeh', token], max_message_size=2**28)
        await self.until('ACK'); await self.send('PULL-DOC-REQ', {})
        self.doc = doc = (await self.until('PULL-DOC-REPLY'))['doc']
        self.opened_s, self.slider = time.perf_counter() - start, find(doc, lambda o: isinstance(o.get('attributes'), dict) and o['attributes'].get('title') == 'Threshold of probability')['id']
        self.ready, self.whole = ('counting' not in (said := json.dumps(doc))), 'DataTabulator' in said
        await self.send('PATCH-DOC', dict(events=[dict(kind='MessageSent', msg_type='bokeh_event', msg_data=dict(type='event', name='document_ready', values={}))]))
        return self
    async def send(self, kind, content):
        for part in (dict(msgid=uuid.uuid4().hex, msgtype=kind), {}, content): await self.socket.write_message(json.dumps(part))
    async def message(self):
        "The next message: its kind and content"
        parts = [json.loads(await asyncio.wait_for(self.socket.read_message(), 120)) for _ in range(3)]
        for _ in range(2*parts[0].get('num_buffers', 0)): await self.socket.read_message()
        return parts[0]['msgtype'], parts[2]
    async def until(self, kind, ok=lambda content: True):
        while True:
            got, content = await self.message()
            if got == kind and ok(content): return content
    async def completed(self):
        "Wait for the list of cells, which comes last; seconds since the document was there"
        start = time.perf_counter()
        if not self.whole: await self.until('PATCH-DOC', lambda c: 'DataTabulator' in json.dumps(c))
        return time.perf_counter() - start
    async def counted(self):
        "Wait for the scan"
        if not self.ready: await self.until('PATCH-DOC', lambda c: 'data-n=' in (s := json.dumps(c)) and 'counting' not in s)
    async def move(self, t):
        "Seconds from a move of the slider to the numbers of the new threshold"
        start = time.perf_counter()
        await self.send('PATCH-DOC', dict(events=[dict(kind='ModelChanged', model=dict(id=self.slider), attr='value', new=t)]))
        await self.until('PATCH-DOC', lambda c: f'Area above {t:.2f}' in (s := json.dumps(c)) and 'counting' not in s)
        return time.perf_counter() - start

def find(o, ok):
    "The first dict in a tree of JSON that is as wanted"
    if isinstance(o, dict):
        if ok(o): return o
        o = list(o.values())
    return next((f for v in o if (f := find(v, ok))), None) if isinstance(o, list) else None

def at_once(server, n, moves=(.61, .62, .63), pause=3.):
    "n visitors who come in the same moment: seconds to open; then all at work, each moving the slider every `pause` seconds: seconds of a move"
    async def work(i, v):
        await v.counted(); await asyncio.sleep(pause*i/n)
        out = []
        for t in moves: out.append(await v.move(t)); await asyncio.sleep(pause)
        return out
    async def come():
        v = await Visitor.open(server); cpu = server.cpu_s
        return v, cpu, v.opened_s + await v.completed()
    async def day():
        before = server.cpu_s
        came = await asyncio.gather(*[come() for _ in range(n)])
        all, cpu, whole = zip(*came)
        seen = dict(complete_slowest_s=max(whole), cpu_a_page_s=(max(cpu) - before)/n, cpu_a_complete_page_s=(server.cpu_s - before)/n)
        moved = await asyncio.gather(*[work(i, v) for i, v in enumerate(all)])
        for v in all: v.socket.close()
        return sorted(v.opened_s for v in all), sorted(m for ms in moved for m in ms), seen
    opened, moved, seen = asyncio.run(day())
    return dict(visitors=n, opened_median_s=opened[n//2], opened_slowest_s=opened[-1]) | seen | (dict(threshold_median_s=moved[len(moved)//2], threshold_slowest_s=moved[-1]) if moved else {})

def settled_mb(server, seconds):
    "Resident memory once the ended sessions have been thrown away"
    time.sleep(seconds)
    return server.resident_mb

def given_back(server, n, batch=10, warm=20, settle=30):
    "Memory before and after n visitors come and go, after the first few have warmed the server up"
    at_once(server, warm); before, peak = settled_mb(server, settle), 0
    for _ in range(0, n, batch): at_once(server, batch, (), .1); peak = max(peak, server.resident_mb)
    after = settled_mb(server, settle)
    return dict(visitors=n, before_mb=before, highest_mb=peak, after_mb=after, growth=after/before - 1)

def visitors(folder, n=100):
    "One alone, twenty at once, n in all"
    with Server(folder) as server:
        one = at_once(server, 1) # the first pays for the scan
        return dict(one=at_once(server, 1), twenty=at_once(server, 20), memory=given_back(server, n))

# --- a scene more than four times as large

def larger(folder, n=3):
    "The first view of a scene of 25,000 x 17,000 px with 50,000 polygons over that of 10,000 x 10,000 px, each in a fresh process"
    folder = Path(folder)
    for name, size in (('small', (10_000, 10_000)), ('large', (25_000, 17_000))):
        if not (folder/name/'run').exists(): make_run(folder/name/'run', *size)
    all = [{name: child('ours', folder/name) for name in ('small', 'large')} for _ in range(n)]
    ratios = {k: span([o['large'][k]/o['small'][k] for o in all]) for k in ('first_view_s', 'first_view_cpu_s', 'peak_gb')}
    return dict(rounds=n, load=os.getloadavg()[0], **ratios, large={k: span([o['large'][k] for o in all]) for k in all[0]['large']})

# --- what a hand does on the map: in Chromium, from the click to the drawn frame

SWITCH = """box => new Promise(done => {
  const start = performance.now()
  const renderers = [...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'GlyphRenderer')
  const tell = () => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)))
  for (const renderer of renderers) renderer.properties.visible.change.connect(tell)
  box.click()
})"""
SWIPE = """() => new Promise(done => {
  const find = test => [...Bokeh.documents[0]._all_models.values()].find(test)
  const curtain = find(m => m.type == 'GlyphRenderer' && m.name == 'curtain').data_source
  const divider = find(m => m.type == 'Slider' && m.title == 'Before | after')
  const start = performance.now()
  curtain.properties.data.change.connect(() => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start))))
  divider.value = divider.value > .5 ? .3 : .7
})"""

def hands(folder, n=20):
    "Milliseconds of a layer switch and of a move of the swipe on a page with before and after"
    from playwright.sync_api import sync_playwright
    import shutil
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    with sync_playwright() as p, Server(folder) as server:
        page = p.chromium.launch(executable_path=chromium, args=['--headless', '--no-sandbox', '--disable-gpu']).new_page(viewport=dict(width=1366, height=768))
        page.goto(f'http://127.0.0.1:{server.port}/', timeout=120_000)
        box = page.get_by_role('checkbox', name='Outlines', exact=True); box.wait_for(timeout=120_000); page.wait_for_timeout(5000)
        switched = [box.evaluate(SWITCH) for _ in range(n)]
        page.get_by_role('button', name='Swipe').click(); page.wait_for_timeout(3000)
        swiped = [page.evaluate(SWIPE) for _ in range(n)]
        return dict(switch_ms=span(switched), swipe_ms=span(swiped), load=os.getloadavg()[0])

def fifty(folder, n=50):
    "n pages asked for in the same second: seconds of the slowest; memory before, at most, and after they have gone, twice"
    with Server(folder) as server:
        at_once(server, 2); before = settled_mb(server, 30)
        first = at_once(server, n, ()); highest = server.resident_mb; after = settled_mb(server, 30)
        second = at_once(server, n, ()); again = settled_mb(server, 30)
        return dict(first=first, second=second, before_mb=before, highest_mb=highest, after_mb=after, again_mb=again, growth=again/after - 1, load=os.getloadavg()[0])

def child(name, folder):
    "A side in a fresh process"
    out = subprocess.run([sys.executable, '-W', 'ignore', __file__, name, str(folder)], stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    return json.loads(out.stdout.splitlines()[-1])

def span(values):
    "Median and range"
    v = sorted(values)
    return dict(median=v[len(v)//2] if len(v) % 2 else (v[len(v)//2-1] + v[len(v)//2])/2, low=v[0], high=v[-1])

def rounds(folder, n=3):
    "The sides in turn, n times, each in a fresh process: what each took, and how many times longer the peer took than the view and the page of its round"
    all = [{name: child(name, folder) for name in ('ours', 'whole', 'view', 'peer')} for _ in range(n)]
    timing = [f'{k}_view_{unit}' for k in ('first', 'second') for unit in ('s', 'cpu_s', 'own_s')]
    out = {name: {k: span([o[name][k] for o in all]) for k in all[0][name]} for name in all[0]}
    for name in ('ours', 'whole', 'view'): out[name] |= {f'{k}_ratio': span([o['peer'][k]/o[name][k] for o in all]) for k in timing}
    return out | dict(rounds=n, load=os.getloadavg()[0])

def main(side=10_000, n=100, times=3):
    "All of it"
    with tempfile.TemporaryDirectory() as d:
        make_run(Path(d)/'run', side)
        return dict(side=side, first_view=rounds(d, times), visitors=visitors(d, n), fifty=fifty(d))

if __name__ == '__main__':
    if sys.argv[1:2] in (['view'], ['ours'], ['whole'], ['peer'], ['rounds'], ['larger'], ['hands'], ['fifty']): print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
    else: print(json.dumps(main(*map(int, sys.argv[1:])), indent=1))
