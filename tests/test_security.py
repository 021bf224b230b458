"What SECURITY.md says is so: headers, origins, limits, links, and no text that becomes HTML."
import asyncio
import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from conftest import root
from test_app import CHROMIUM, NO_CHROMIUM, Visitor, free_port, likely, wait_for

playwright = pytest.importorskip('playwright.sync_api', reason='without playwright no browser can be driven')
pytestmark = pytest.mark.timeout(300)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
WICKED = '<img src=x onerror="document.title=1"><script>document.title=2</script>'

def mapped(folder, **about):
    "A small run folder"
    from landslide_nb.mapping.runfolder import write_products
    from landslide_nb.testing import mock_pair
    pair = mock_pair((96, 128))
    write_products(folder, pair, likely(pair), dict(arch='log-ratio', calibration=dict(threshold=.4)),
                   cell=300., **about)
    return folder

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "One good run, and links that lead out of the folder in every way"
    out = tmp_path_factory.mktemp('security')/'runs'
    mapped(out/'demo')
    secret = out.parent/'secret'
    shutil.copytree(out/'demo', secret)
    (out/'link').symlink_to(secret)
    (out/'relative').symlink_to('../secret')
    (out/'twice').symlink_to('link')
    (out/'loop').symlink_to('loop')
    for name in ('probability.tif', 'landslides.gpkg', 'metrics.json', 'pair.tif'):
        linked = out/'linked'/name.partition('.')[0]
        shutil.copytree(out/'demo', linked)
        (linked/name).unlink()
        (linked/name).symlink_to(secret/name)
    return out

@pytest.fixture(scope='module')
def server(runs):
    "The page in a process of its own, which lets in three visitors, forgets them soon and hands out 20 kB"
    port = free_port()
    code = (f"import threading, os; end = threading.Timer(600, os._exit, (0,)); end.daemon = True; end.start(); "
            f"from landslide_nb import guard; guard.MAX_DOWNLOAD = 20_000; guard.Visitors.__init__.__defaults__ = (3,); "
            f"from landslide_nb import app; app.LIFETIME = 8000; app.serve({str(runs)!r}, port={port}, show=False)")
    with open(runs.parent/'server.log', 'w') as log:
        process = subprocess.Popen([sys.executable, '-c', code], cwd=root, stdout=log, stderr=log,
                                   env={**os.environ, 'OMP_NUM_THREADS': '1'})
    try:
        wait_for(port)
        yield f'http://127.0.0.1:{port}/'
    finally:
        process.kill()
        process.wait()

# what every answer says

@pytest.mark.parametrize('path', ['', 'static/js/bokeh.min.js', 'autoload.js?bokeh-autoload-element=x', 'nothing/here', 'favicon.ico'])
def test_every_answer_has_the_headers(server, path):
    answer = requests.get(server + path, timeout=60)
    policy = answer.headers['Content-Security-Policy']
    assert answer.headers['X-Content-Type-Options'] == 'nosniff'
    assert answer.headers['X-Frame-Options'] == 'SAMEORIGIN'
    assert "frame-ancestors 'self'" in policy and "object-src 'none'" in policy and "connect-src 'self'" in policy
    assert 'Access-Control-Allow-Origin' not in answer.headers

def test_the_policy_names_the_server_of_the_web_map():
    from landslide_nb.browser.views import WEB_MAPS
    from landslide_nb.guard import TILE_SERVERS, content_policy
    assert all(web.tiles.startswith(TILE_SERVERS) for web in WEB_MAPS.values())
    assert all(f' {server}' in content_policy() for server in TILE_SERVERS)


# who may listen

def session_token(address):
    "What the page gives a visitor to open the websocket with"
    return re.search(r'"token":"([^"]+)"', requests.get(address, timeout=60).text)[1]

def ask_for_websocket(address, **headers):
    "The status with which a server answers somebody who asks for its websocket"
    key = base64.b64encode(os.urandom(16)).decode()
    wanted = {'Connection': 'Upgrade', 'Upgrade': 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': key,
              'Sec-WebSocket-Protocol': f'bokeh, {session_token(address)}', **headers}
    with requests.get(f'{address}ws', headers=wanted, stream=True, timeout=60) as answer: return answer.status_code

async def connected(address):
    "The websocket of the page, acknowledged: one that is closed before is counted as a visitor for another minute"
    from tornado.httpclient import HTTPRequest
    from tornado.websocket import websocket_connect
    own = address.rstrip('/')
    request = HTTPRequest(f'{own.replace("http", "ws")}/ws', headers={'Origin': own})
    socket = await websocket_connect(request, subprotocols=['bokeh', session_token(address)])
    assert await socket.read_message() # the acknowledgement
    return socket

async def is_welcome(address):
    (await connected(address)).close()
    return True

def in_a_thread(coroutine):
    "What a coroutine returns; playwright keeps a loop in this thread"
    with ThreadPoolExecutor(1) as pool: return pool.submit(asyncio.run, coroutine).result(60)

def test_the_websocket_is_for_the_page_only(server):
    own = server.rstrip('/')
    assert in_a_thread(is_welcome(server))
    for origin in ('http://evil.example', 'https://evil.example', own.replace('127.0.0.1', '127.0.0.2'), 'null', f'{own}.evil.example'):
        assert ask_for_websocket(server, Origin=origin) == 403, origin

class Holder(BaseHTTPRequestHandler):
    "A page of somebody else that holds ours in a frame"
    inside = ''
    def log_message(self, *_): pass
    def do_GET(self):
        body = f'<!doctype html><iframe src="{html.escape(self.inside)}" width=900 height=700></iframe>'.encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.end_headers()
        self.wfile.write(body)

def shown_in_a_frame(chromium, address):
    "Does the page appear inside that of another origin?"
    Holder.inside = address
    other = ThreadingHTTPServer(('127.0.0.1', 0), Holder)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    page = chromium.new_page()
    try:
        page.goto(f'http://127.0.0.1:{other.server_port}/')
        try: page.frame_locator('iframe').locator('h1', has_text='Landslide map').wait_for(timeout=15_000)
        except playwright.TimeoutError: return False
        return True
    finally:
        page.close()
        other.shutdown()

@in_a_browser
def test_a_page_of_somebody_else_cannot_hold_ours(chromium, server):
    assert not shown_in_a_frame(chromium, server)

@in_a_browser
def test_a_notebook_of_this_machine_can(chromium, runs):
    code = ("import sys, threading, os; end = threading.Timer(200, os._exit, (0,)); end.daemon = True; end.start(); "
            f"from landslide_nb.app import browser; print(browser({str(runs)!r}).url, flush=True); sys.stdin.read()")
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], cwd=root,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               env={**os.environ, 'OMP_NUM_THREADS': '1'})
    try:
        address = process.stdout.readline().strip()
        wait_for(int(address.split(':')[2].split('/')[0]))
        assert shown_in_a_frame(chromium, address)
    finally:
        process.kill()
        process.wait()


# how many, and how much

GONE = 15 # seconds after which the server of these tests has thrown away the session of somebody who left

def is_let_in(chromium, address):
    "Is somebody who comes now shown a run?"
    page = chromium.new_page()
    refusal = page.get_by_text('3 visitors look at this page already')
    try:
        page.goto(address)
        refusal.or_(page.locator('dd[data-n]').first).wait_for(timeout=60_000)
        return not refusal.is_visible()
    finally: page.close()

@in_a_browser
def test_a_fourth_visitor_is_asked_to_wait_and_let_in_later(chromium, server):
    time.sleep(GONE) # who came in the tests before has left
    visitors = [Visitor(chromium, server) for _ in range(3)]
    try: assert not is_let_in(chromium, server)
    finally:
        for visitor in visitors: visitor.close()
    time.sleep(GONE)
    assert is_let_in(chromium, server)

@in_a_browser
def test_a_file_that_is_too_large_is_not_handed_out(chromium, server):
    visitor = Visitor(chromium, server).counted()
    try:
        visitor.page.get_by_text('Polygons, GPKG', exact=True).click()
        visitor.page.locator('.notes', has_text='hands out').wait_for(timeout=60_000)
        assert 'landslides.gpkg has ' in visitor.notes()
        assert visitor.bad == []
    finally: visitor.close()

async def survives(address, size):
    "Does a connection live on after the first part of a message, which is that long?"
    from tornado.websocket import WebSocketClosedError
    socket = await connected(address)
    header = '{"msgid": "1", "msgtype": "PATCH-DOC"}'
    try: await socket.write_message(header + ' '*(size - len(header)))
    except WebSocketClosedError: return False
    answer = asyncio.ensure_future(socket.read_message())
    done, _ = await asyncio.wait([answer], timeout=5)
    return not done or answer.result() is not None

def test_a_long_message_ends_the_connection(server):
    from landslide_nb.guard import MAX_MESSAGE
    time.sleep(GONE)
    assert in_a_thread(survives(server, MAX_MESSAGE - 1))
    assert not in_a_thread(survives(server, MAX_MESSAGE + 1))


# no path out of the folder

def test_links_that_lead_out_are_no_runs(runs):
    from landslide_nb.browser.runs import find_runs
    assert not {'link', 'relative', 'twice', 'loop'} & set(find_runs(runs))

@pytest.mark.parametrize('name', ['probability', 'landslides', 'metrics', 'pair'])
def test_a_linked_file_is_not_read(runs, name):
    from landslide_nb.browser.runs import open_run
    run = open_run(runs, f'linked/{name}')
    assert not [file for file in run.files if file.startswith(name)]
    assert any('leads out of the given folder' in sentence for sentence in run.missing)

@pytest.mark.parametrize('name', ['../secret', 'demo/../../secret', '/etc', 'link', 'demo/.', './demo', 'demo\0', '~', '', 'DEMO/../..'])
def test_no_name_leads_out(runs, name):
    from landslide_nb.browser.runs import AppError, open_run
    with pytest.raises(AppError): open_run(runs, name)


# no text becomes HTML

@pytest.fixture(scope='module')
def wicked(tmp_path_factory):
    "A run of which every text that somebody else may have written holds a script: folder, event, zones, warnings"
    import geopandas as gpd
    from shapely import box
    out = tmp_path_factory.mktemp('wicked')/'runs'
    folder = mapped(out/WICKED.replace('/', '∕'))
    metrics = json.loads((folder/'metrics.json').read_text())
    def spoiled(value):
        if isinstance(value, str): return WICKED
        if isinstance(value, dict): return {key: spoiled(v) for key, v in value.items()}
        return [spoiled(v) for v in value] if isinstance(value, list) else value
    (folder/'metrics.json').write_text(json.dumps(
        {**spoiled(metrics), 'event_name': WICKED, 'warnings': [WICKED]*2, WICKED: WICKED}))
    for layer in gpd.list_layers(folder/'landslides.gpkg').name:
        table = gpd.read_file(folder/'landslides.gpkg', layer=layer)
        if 'geometry' not in table: continue # the table of styles
        table.assign(name=WICKED, zone=WICKED).to_file(folder/'landslides.gpkg', layer=layer)
    zones = gpd.GeoDataFrame({'name': [WICKED], WICKED: [WICKED]},
                             geometry=[box(579000, 4720000, 590000, 4740000)], crs=32654)
    zones.to_file(out.parent/'zones.gpkg')
    return folder

def assert_harmless(page):
    page.wait_for_timeout(1000)
    assert page.title() not in ('1', '2')
    assert page.locator('img[src=x]').count() == 0
    assert page.evaluate("[...document.scripts].filter(s => s.textContent.trim() == 'document.title=2').length") == 0

@in_a_browser
def test_no_text_of_a_run_becomes_html(chromium, wicked):
    from test_app import serving
    with serving(wicked.parent, wicked.parent.parent/'server.log') as address:
        visitor = Visitor(chromium, address).counted()
        try:
            for tab in ('Compare', 'Four views', 'Chips', 'Experiments'):
                visitor.tab(tab)
                assert_harmless(visitor.page)
            assert [text for text in visitor.bad if 'Failed to load' not in text] == []
        finally: visitor.close()

@in_a_browser
def test_no_name_of_a_zone_becomes_html_in_the_report(chromium, wicked, tmp_path):
    "The report of a map with zones, as a browser shows it"
    from landslide_nb.core import Event # noqa: F401, the package is there
    from landslide_nb.cli import main
    from landslide_nb.data.cube import open_cube, save_cube
    from landslide_nb.testing import mock_cube
    save_cube(open_cube(mock_cube((96, 128))), tmp_path/f'cube {WICKED.replace("/", "∕")}.zarr')
    cube, = tmp_path.glob('*.zarr')
    assert main(['map', str(cube), '--zones', str(wicked.parent.parent/'zones.gpkg'),
                 '--out', str(tmp_path/'run')]) in (0, None)
    pages = list((tmp_path/'run').glob('*.html'))
    assert pages
    for path in pages:
        page = chromium.new_page()
        try:
            page.goto(path.as_uri())
            assert_harmless(page)
            assert '&lt;img src=x' in path.read_text() or WICKED not in path.read_text()
        finally: page.close()
