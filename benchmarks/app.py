"""The browser app on a large scene, beside hvplot's `image(rasterize=True)`: first view, threshold changes, many visitors at once, memory given back.
Run `python benchmarks/app.py [SIDE [VISITORS [ROUNDS]]]` (default 10000 px, 100 visitors, 3 rounds; needs datashader); `python benchmarks/app.py rounds FOLDER` repeats the first view of a folder with one run, `run`.
`larger FOLDER` makes scenes of two sizes in an empty folder and compares their first views; `hands RUNS` measures layer switches and the swipe in Chromium; `fifty RUNS` asks for 50 pages in one second.
The sides take turns, each in a fresh process; ratios are those of a round, their median and range."""
import asyncio, contextlib, gc, json, os, re, resource, socket, subprocess, sys, tempfile, time, uuid
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

root = Path(__file__).parents[1]
SECONDS = 1200 # of a server, at most
if str(root) not in sys.path: sys.path.insert(0, str(root))

def peak_gb():
    "The most memory that this process has held"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20

def resident_mb(pid):
    "The memory that a process holds now"
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages*os.sysconf('SC_PAGE_SIZE')/2**20

def span(values):
    "Median and range"
    v = sorted(values)
    middle = len(v)//2
    median = v[middle] if len(v) % 2 else (v[middle-1] + v[middle])/2
    return dict(median=median, low=v[0], high=v[-1])

# --- a run folder of a large scene

EPSG = 32654
WEST, NORTH = 5e5, 5e6 # corner of the scene, m
PIXEL = 10 # side, m
STRIP = 256 # rows that are written in one go
CELL = 100 # side of a ranked cell, pixels
COG = dict(driver='COG', compress='DEFLATE', level=1, predictor='YES', blocksize=256, overview_resampling='average')
MULTI = dict(driver='GPKG', geometry_type='MultiPolygon', promote_to_multi=True)

def landslide_strip(noise, rows, g):
    "The noise shifted along the strip, with many small landslides"
    import numpy as np
    width = noise.shape[1]
    strip = np.roll(noise, g.integers(width), 1)[:rows].copy()
    tops = g.integers(0, max(1, rows-12), width//40)
    lefts = g.integers(0, width-12, width//40)
    for y, x in zip(tops, lefts):
        probability = np.round(g.uniform(.3, .95), 3)
        bottom = y + g.integers(2, 12)
        right = x + g.integers(2, 12)
        strip[y:bottom, x:right] = probability
    return strip

def write_plain(path, width, height):
    "Probabilities of a scene, strip by strip, as a tiled GeoTIFF without overviews"
    import numpy as np, rasterio
    g = np.random.default_rng(0)
    # one strip, shifted for each of the others: to draw them all takes minutes
    noise = np.round(g.beta(.5, 40, (STRIP, width)).astype('float32'), 3)
    transform = rasterio.transform.from_origin(WEST, NORTH, PIXEL, PIXEL)
    place = dict(width=width, height=height, crs=f'EPSG:{EPSG}', transform=transform)
    pixels = dict(count=1, dtype='float32', nodata=float('nan'), tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(path, 'w', driver='GTiff', **place, **pixels) as f:
        for top in range(0, height, STRIP):
            rows = min(STRIP, height - top)
            strip = landslide_strip(noise, rows, g)
            f.write(strip, 1, window=rasterio.windows.Window(0, top, width, rows))

def make_run(folder:Path, width:int, height:int=0):
    "A run folder of a large scene: many small landslides, written strip by strip, with its polygons and ranked cells"
    import rasterio.shutil
    folder.mkdir(parents=True)
    height = height or width
    plain = folder/'plain.tif'
    write_plain(plain, width, height)
    rasterio.shutil.copy(plain, folder/'probability.tif', **COG)
    plain.unlink()
    write_shapes(folder/'landslides.gpkg', width, height)
    (folder/'metrics.json').write_text(json.dumps(dict(threshold=.5)))

def boxes(x, y, side):
    "Squares on the ground from their first columns and rows and a side, all in pixels"
    import shapely
    west, east = WEST + x*PIXEL, WEST + (x + side)*PIXEL
    south, north = NORTH - (y + side)*PIXEL, NORTH - y*PIXEL
    return shapely.box(west, south, east, north)

def made_cells(width, height, g):
    "Cells of a kilometre with made-up areas of landslides"
    import geopandas as gpd, numpy as np
    x, y = (part.ravel() for part in np.meshgrid(np.arange(0, width, CELL), np.arange(0, height, CELL)))
    expected = g.gamma(.5, 2e4, len(x))
    areas = dict(expected_m2=expected, low_m2=expected/2, high_m2=expected*2)
    rest = dict(max_probability=g.uniform(size=len(x)), lon=141 + x*1e-4, lat=45 - y*1e-4)
    return gpd.GeoDataFrame(areas | rest, geometry=boxes(x, y, CELL), crs=EPSG)

def made_polygons(width, height, g):
    "Squares of 80 m, spread over the scene"
    import geopandas as gpd, numpy as np
    n = round(width*height*50_000/425e6)
    x = g.integers(0, width-8, n)
    y = g.integers(0, height-8, n)
    return gpd.GeoDataFrame(dict(area_m2=np.full(n, 6400.)), geometry=boxes(x, y, 8), crs=EPSG)

def write_shapes(path:Path, width:int, height:int):
    "Cells of a kilometre and about 50,000 polygons for 425 million pixels, as a mapping leaves them"
    import numpy as np
    g = np.random.default_rng(1)
    made_cells(width, height, g).to_file(path, layer='cells', **MULTI)
    made_polygons(width, height, g).to_file(path, layer='polygons', **MULTI)

# --- first view: from a path to the document a browser is sent, in a fresh process after its imports, and once more

CLOCKS = 's', 'cpu_s', 'own_s' # by the clock, in CPU time of all threads, in that of the thread that makes a document

def clocks():
    "What each of the clocks says now"
    return time.perf_counter(), time.process_time(), time.thread_time()

def visited():
    "A document as a server begins it when a visitor comes, and what must be kept for it"
    from bokeh.document import Document
    from bokeh.server.contexts import BokehSessionContext, _RequestProxy
    from tornado.httputil import HTTPServerRequest
    doc = Document()
    context = BokehSessionContext(uuid.uuid4().hex, None, doc)
    request = HTTPServerRequest(method='GET', uri='/')
    context._request = _RequestProxy(request, arguments={}, cookies={}, headers={})
    def session():
        "The context that the document asks for"
        return context
    doc._session_context = session
    return doc, context

def document_times(make, served):
    "Seconds of a document of a thing, by each clock"
    from bokeh.document import Document
    from panel.io.state import set_curdoc
    start = clocks()
    doc, _ = visited() if served else (Document(), None)
    with set_curdoc(doc) if served else contextlib.nullcontext():
        make().server_doc(doc)
        doc.to_json()
    return [now - then for now, then in zip(clocks(), start)]

def timed(make, served=True):
    "Seconds and more GB of a thing's first document, as a server sends it to a visitor or else as a whole, seconds of its second; the same in CPU time of all threads, which other work on the machine disturbs less, and of the thread that makes it, without the scan behind it"
    gc.collect()
    gc.freeze() # as a server does with what the imports left
    base = peak_gb()
    first = document_times(make, served)
    more = peak_gb() - base
    second = document_times(make, served)
    out = {f'first_view_{clock}': took for clock, took in zip(CLOCKS, first)}
    out['first_view_gb'] = more
    return out | {f'second_view_{clock}': took for clock, took in zip(CLOCKS, second)}

def view(folder):
    "The same as the peer: the raster in a figure that can be panned and zoomed"
    import panel as pn
    from bokeh.models import ColumnDataSource, Image, LinearColorMapper, Range1d
    from landslide_nb.browser.maps import image_data, map_figure, palette
    from landslide_nb.browser.views import fit, read_view
    from landslide_nb.browser.runs import open_run
    def make():
        "The figure of the run"
        run = open_run(folder, 'run')
        bounds = fit(run.bounds, run.kx)
        left, bottom, right, top = bounds
        figure = map_figure(Range1d(left, right), Range1d(bottom, top), run)
        pixels = ColumnDataSource(image_data(read_view(run.files['probability.tif'], bounds), 0, 1))
        colours = LinearColorMapper(palette=palette('inferno'), low=0, high=255)
        figure.add_glyph(pixels, Image(image='image', x='x', y='y', dw='dw', dh='dh', color_mapper=colours))
        return pn.pane.Bokeh(figure)
    return timed(make)

def slowest_numbers_s(run, scan, counted):
    "Seconds of the numbers of a threshold, at most; with the counts that the scan holds, or without any"
    from dataclasses import replace
    from landslide_nb.browser.words import numbers_html
    took = 0
    for t in (scan.lowest, .1, .2, .5, .8): # the lowest has most pixels to count
        this = scan if counted else replace(scan, counts={})
        start = time.perf_counter()
        numbers_html(run, this, t)
        took = max(took, time.perf_counter() - start)
    return took

def ours(folder):
    "The page as a visitor is sent it first, with headline, numbers and map; then the scan of the scene and the numbers of any threshold"
    import panel as pn
    from landslide_nb.app import Browser
    from landslide_nb.browser.scan import count_landslides, scan_later
    from landslide_nb.browser.runs import open_run
    pn.extension('tabulator', inline=False)
    out = timed(lambda: Browser(folder, {}).template())
    run = open_run(folder, 'run')
    start = time.perf_counter()
    scan = scan_later(run).result()
    out |= dict(until_counted_s=time.perf_counter() - start, with_scan_gb=peak_gb())
    for t in range(1, 100): count_landslides(scan, t/100) # what the background thread does after a scan
    out['peak_gb'] = peak_gb()
    out['threshold_s'] = slowest_numbers_s(run, scan, counted=True)
    out['threshold_before_counted_s'] = slowest_numbers_s(run, scan, counted=False)
    return out

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
    def make():
        "The image of the run"
        raster = rioxarray.open_rasterio(Path(folder)/'run'/'probability.tif')[0]
        return pn.pane.HoloViews(raster.hvplot.image(x='x', y='y', rasterize=True))
    return timed(make)

# --- visitors: real websocket sessions of a server in its own process

class Server:
    "The app as `landslide-nb app` starts it, for at most `seconds`; `first` is Python that runs before"
    def __init__(self, folder, seconds=SECONDS, first=''):
        "Start it on a free port"
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]
        end_later = f'import os, threading; end = threading.Timer({seconds}, os._exit, (0,)); end.daemon = True; end.start(); '
        runs = str(Path(folder).resolve())
        serve = f'from landslide_nb.app import serve; serve({runs!r}, port={self.port}, show=False)'
        command = [sys.executable, '-W', 'ignore', '-c', end_later + first + serve]
        self.process = subprocess.Popen(command, cwd=root)

    def answers(self):
        "Whether it lets somebody in; waits a moment if not"
        try:
            socket.create_connection(('127.0.0.1', self.port), 1).close()
            return True
        except OSError:
            time.sleep(.25)
            return False

    def __enter__(self):
        "Wait until it answers"
        for _ in range(480):
            if self.answers(): return self
            if self.process.poll() is not None: raise RuntimeError('the server ended')
        self.__exit__()
        raise RuntimeError('the server did not start')

    def __exit__(self, *_):
        "End it"
        self.process.kill()
        self.process.wait()

    @property
    def resident_mb(self):
        "The memory that it holds now"
        return resident_mb(self.process.pid)

    @property
    def cpu_s(self):
        "User and system time that it has used"
        times = Path(f'/proc/{self.process.pid}/stat').read_text().rsplit(')', 1)[1].split()[11:13]
        return sum(map(int, times))/os.sysconf('SC_CLK_TCK')

def find(o, ok):
    "The first dict in a tree of JSON that is as wanted"
    if isinstance(o, dict):
        if ok(o): return o
        o = list(o.values())
    if not isinstance(o, list): return None
    found = (find(inner, ok) for inner in o)
    return next((one for one in found if one), None)

def is_slider(o):
    "Whether a dict of JSON is the slider of the threshold"
    attributes = o.get('attributes')
    return isinstance(attributes, dict) and attributes.get('title') == 'Threshold of probability'

def counted_with(words):
    "A test of a message: it holds these words, and nothing is still being counted"
    def ok(content):
        "Whether this message does"
        said = json.dumps(content)
        return words in said and 'counting' not in said
    return ok

READY = dict(kind='MessageSent', msg_type='bokeh_event', msg_data=dict(type='event', name='document_ready', values={}))

class Visitor:
    "A browser without a screen: gets the page, opens its websocket, moves the slider, waits for the numbers"
    @classmethod
    async def open(cls, server):
        "Somebody who has come, and has the document"
        self, start = cls(), time.perf_counter()
        await self.connect(server)
        await self.send('PULL-DOC-REQ', {})
        self.doc = (await self.until('PULL-DOC-REPLY'))['doc']
        self.opened_s = time.perf_counter() - start
        self.slider = find(self.doc, is_slider)['id']
        said = json.dumps(self.doc)
        self.ready = 'counting' not in said
        self.whole = 'DataTabulator' in said
        await self.send('PATCH-DOC', dict(events=[READY]))
        return self

    async def connect(self, server):
        "Get the page, and open the websocket that it names"
        address = f'127.0.0.1:{server.port}'
        page = await AsyncHTTPClient(max_clients=100).fetch(f'http://{address}/', request_timeout=120)
        token = re.search(r'"token":"([^"]+)"', page.body.decode()).group(1)
        request = HTTPRequest(f'ws://{address}/ws', request_timeout=120)
        self.socket = await websocket_connect(request, subprotocols=['bokeh', token], max_message_size=2**28)
        await self.until('ACK')

    async def send(self, kind, content):
        "Send a message: its header, no metadata, its content"
        header = dict(msgid=uuid.uuid4().hex, msgtype=kind)
        for part in (header, {}, content): await self.socket.write_message(json.dumps(part))

    async def message(self):
        "The next message: its kind and content"
        parts = [json.loads(await asyncio.wait_for(self.socket.read_message(), 120)) for _ in range(3)]
        header, _, content = parts
        for _ in range(2*header.get('num_buffers', 0)): await self.socket.read_message()
        return header['msgtype'], content

    async def until(self, kind, ok=lambda content: True):
        "The content of the next message of a kind that is as wanted"
        while True:
            got, content = await self.message()
            if got == kind and ok(content): return content

    async def completed(self):
        "Wait for the list of cells, which comes last; seconds since the document was there"
        start = time.perf_counter()
        if not self.whole: await self.until('PATCH-DOC', lambda content: 'DataTabulator' in json.dumps(content))
        return time.perf_counter() - start

    async def counted(self):
        "Wait for the scan"
        if not self.ready: await self.until('PATCH-DOC', counted_with('data-n='))

    async def move(self, t):
        "Seconds from a move of the slider to the numbers of the new threshold"
        start = time.perf_counter()
        moved = dict(kind='ModelChanged', model=dict(id=self.slider), attr='value', new=t)
        await self.send('PATCH-DOC', dict(events=[moved]))
        await self.until('PATCH-DOC', counted_with(f'Area above {t:.2f}'))
        return time.perf_counter() - start

async def come(server):
    "A visitor, CPU seconds that the server had used when the page was there, and seconds until it was complete"
    visitor = await Visitor.open(server)
    cpu_s = server.cpu_s
    return visitor, cpu_s, visitor.opened_s + await visitor.completed()

async def work(visitor, wait, moves, pause):
    "Seconds of each move of the slider of a visitor, who waits at first for the scan and then some seconds"
    await visitor.counted()
    await asyncio.sleep(wait)
    took = []
    for t in moves:
        took.append(await visitor.move(t))
        await asyncio.sleep(pause)
    return took

async def day(server, n, moves, pause):
    "n visitors come and work: sorted seconds to open, sorted seconds of a move, and what complete pages took"
    before = server.cpu_s
    came = await asyncio.gather(*[come(server) for _ in range(n)])
    guests, cpu, complete = zip(*came)
    seen = dict(complete_slowest_s=max(complete), cpu_a_page_s=(max(cpu) - before)/n,
                cpu_a_complete_page_s=(server.cpu_s - before)/n)
    moved = await asyncio.gather(*[work(guest, pause*k/n, moves, pause) for k, guest in enumerate(guests)])
    for guest in guests: guest.socket.close()
    return sorted(guest.opened_s for guest in guests), sorted(took for each in moved for took in each), seen

def at_once(server, n, moves=(.61, .62, .63), pause=3.):
    "n visitors who come in the same moment: seconds to open; then all at work, each moving the slider every `pause` seconds: seconds of a move"
    opened, moved, seen = asyncio.run(day(server, n, moves, pause))
    out = dict(visitors=n, opened_median_s=opened[n//2], opened_slowest_s=opened[-1]) | seen
    if not moved: return out
    return out | dict(threshold_median_s=moved[len(moved)//2], threshold_slowest_s=moved[-1])

def settled_mb(server, seconds):
    "Resident memory once the ended sessions have been thrown away"
    time.sleep(seconds)
    return server.resident_mb

def given_back(server, n, batch=10, warm=20, settle=30):
    "Memory before and after n visitors come and go, after the first few have warmed the server up"
    at_once(server, warm)
    before = settled_mb(server, settle)
    peak = 0
    for _ in range(0, n, batch):
        at_once(server, batch, (), .1)
        peak = max(peak, server.resident_mb)
    after = settled_mb(server, settle)
    return dict(visitors=n, before_mb=before, highest_mb=peak, after_mb=after, growth=after/before - 1)

def visitors(folder, n=100):
    "One alone, twenty at once, n in all"
    with Server(folder) as server:
        at_once(server, 1) # the first pays for the scan
        return dict(one=at_once(server, 1), twenty=at_once(server, 20), memory=given_back(server, n))

def fifty(folder, n=50):
    "n pages asked for in the same second: seconds of the slowest; memory before, at most, and after they have gone, twice"
    with Server(folder) as server:
        at_once(server, 2)
        before = settled_mb(server, 30)
        first = at_once(server, n, ())
        highest = server.resident_mb
        after = settled_mb(server, 30)
        second = at_once(server, n, ())
        again = settled_mb(server, 30)
        memory = dict(before_mb=before, highest_mb=highest, after_mb=after, again_mb=again, growth=again/after - 1)
        return dict(first=first, second=second, **memory, load=os.getloadavg()[0])

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

def chromium_page(play):
    "An empty page of a Chromium without a window"
    import shutil
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    browser = play.chromium.launch(executable_path=chromium, args=['--headless', '--no-sandbox', '--disable-gpu'])
    return browser.new_page(viewport=dict(width=1366, height=768))

def hands(folder, n=20):
    "Milliseconds of a layer switch and of a move of the swipe on a page with before and after"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play, Server(folder) as server:
        page = chromium_page(play)
        page.goto(f'http://127.0.0.1:{server.port}/', timeout=120_000)
        box = page.get_by_role('checkbox', name='Outlines', exact=True)
        box.wait_for(timeout=120_000)
        page.wait_for_timeout(5000)
        switched = [box.evaluate(SWITCH) for _ in range(n)]
        page.get_by_role('button', name='Swipe').click()
        page.wait_for_timeout(3000)
        swiped = [page.evaluate(SWIPE) for _ in range(n)]
        return dict(switch_ms=span(switched), swipe_ms=span(swiped), load=os.getloadavg()[0])

# --- the sides in turn, each in a fresh process

def child(name, folder):
    "A side in a fresh process"
    command = [sys.executable, '-W', 'ignore', __file__, name, str(folder)]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    return json.loads(out.stdout.splitlines()[-1])

def spans(found):
    "Median and range of each number of some results"
    return {key: span([one[key] for one in found]) for key in found[0]}

def ratio_spans(over, under, keys):
    "Median and range of some numbers of results over those of others of the same rounds"
    return {key: span([o[key]/u[key] for o, u in zip(over, under)]) for key in keys}

def rounds(folder, n=3):
    "The sides in turn, n times, each in a fresh process: what each took, and how many times longer the peer took than the view and the page of its round"
    sides = 'ours', 'whole', 'view', 'peer'
    turns = [{side: child(side, folder) for side in sides} for _ in range(n)]
    found = {side: [turn[side] for turn in turns] for side in sides}
    timing = [f'{which}_view_{clock}' for which in ('first', 'second') for clock in CLOCKS]
    out = {side: spans(found[side]) for side in sides}
    for side in ('ours', 'whole', 'view'):
        ratios = ratio_spans(found['peer'], found[side], timing)
        out[side] |= {f'{key}_ratio': ratio for key, ratio in ratios.items()}
    return out | dict(rounds=n, load=os.getloadavg()[0])

def larger(folder, n=3):
    "The first view of a scene of 25,000 x 17,000 px with 50,000 polygons over that of 10,000 x 10,000 px, each in a fresh process"
    folder = Path(folder)
    for name, size in (('small', (10_000, 10_000)), ('large', (25_000, 17_000))):
        if not (folder/name/'run').exists(): make_run(folder/name/'run', *size)
    turns = [{name: child('ours', folder/name) for name in ('small', 'large')} for _ in range(n)]
    small, large = ([turn[name] for turn in turns] for name in ('small', 'large'))
    ratios = ratio_spans(large, small, ('first_view_s', 'first_view_cpu_s', 'peak_gb'))
    return dict(rounds=n, load=os.getloadavg()[0], **ratios, large=spans(large))

def main(side=10_000, n=100, times=3):
    "All of it"
    with tempfile.TemporaryDirectory() as d:
        make_run(Path(d)/'run', side)
        return dict(side=side, first_view=rounds(d, times), visitors=visitors(d, n), fifty=fifty(d))

COMMANDS = {command.__name__: command for command in (view, ours, whole, peer, rounds, larger, hands, fifty)}

if __name__ == '__main__':
    command = COMMANDS.get(sys.argv[1]) if sys.argv[1:] else None
    if command: print(json.dumps(command(sys.argv[2])))
    else: print(json.dumps(main(*map(int, sys.argv[1:])), indent=1))
