"fetch_event against a real HTTP server on this machine: what is cut, wrong, dangerous or absent"
import hashlib, io, json, shutil, stat, threading, zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np
import pytest
from landslide_nb import download as core
from landslide_nb.core import FetchError, OutputError
from landslide_nb.download import RECORD, fetch_event

NAME, PATH = 'hokkaido_japan', f'/record/{RECORD}/files/hokkaido_japan.zip'
BLOB = np.random.default_rng(0).bytes(3_000_000) # does not compress, so that the zip is large enough to be cut

@pytest.fixture(autouse=True)
def no_proxy(monkeypatch): monkeypatch.setenv('NO_PROXY', '127.0.0.1')

def zipped(files, links=()):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        for name, data in files.items(): z.writestr(name, data)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            z.writestr(info, '/etc/passwd')
    return out.getvalue()

GOOD = zipped({f'{NAME}.zarr/.zgroup': '{"zarr_format": 2}', f'{NAME}.zarr/vv/0.0.0': BLOB, 'README': 'x'})

class Site:
    "What the server holds, how it misbehaves and what it was asked"
    def __init__(self, body):
        self.body, self.cut, self.ranges, self.fail, self.seen, self.sent = body, [], True, [], [], 0
        self.entry = dict(key=f'{NAME}.zip', size=len(body), checksum=f'md5:{hashlib.md5(body).hexdigest()}')
        self.record = lambda: json.dumps(dict(files=[dict(key='other.zip', size=1, checksum='md5:0'), self.entry]))

@contextmanager
def serve(body=GOOD):
    site = Site(body)
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_GET(self):
            asked = self.headers.get('Range')
            site.seen.append((self.path, asked))
            if site.fail:
                self.send_response(site.fail.pop(0))
                self.send_header('Content-Length', '0')
                return self.end_headers()
            if self.path == f'/api/records/{RECORD}': return self.answer(200, site.record().encode())
            if self.path != PATH: return self.answer(404, b'')
            start = int(asked[6:-1]) if asked and site.ranges else 0
            if start >= len(site.body): return self.answer(416, b'')
            if start:
                self.answer(206, site.body[start:],
                            {'Content-Range': f'bytes {start}-{len(site.body)-1}/{len(site.body)}'},
                            site.cut.pop(0) if site.cut else None)
            else: self.answer(200, site.body, {}, site.cut.pop(0) if site.cut else None)
        def answer(self, code, data, headers={}, cut=None):
            self.send_response(code)
            for k, v in {'Content-Length': str(len(data)), **headers}.items(): self.send_header(k, v)
            self.end_headers()
            self.wfile.write(data[:cut])
            if self.path == PATH: site.sent += len(data[:cut])
            if cut is not None: self.close_connection = True
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
    site.url = f'http://127.0.0.1:{server.server_port}'
    try: yield site
    finally:
        server.shutdown()
        server.server_close()

def names(folder): return sorted(p.name for p in folder.iterdir()) if folder.exists() else []
def downloads(site): return [r for p, r in site.seen if p == PATH]

def check(cube, tmp_path):
    assert cube == tmp_path/f'{NAME}.zarr' and names(tmp_path) == [f'{NAME}.zarr']
    assert (cube/'vv'/'0.0.0').read_bytes() == BLOB and (cube/'.zgroup').exists() and not (cube/'README').exists()

def test_normal_then_already_there(tmp_path):
    with serve() as site:
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        assert [p for p, _ in site.seen] == [f'/api/records/{RECORD}', PATH]
        fetch_event('hokkaido', tmp_path, site.url)
        assert len(site.seen) == 2
    fetch_event('hokkaido', tmp_path, site.url) # the server is gone, the cube is here

def test_default_folder_is_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('LANDSLIDE_NB_CACHE', str(tmp_path))
    with serve() as site: assert fetch_event('hokkaido', base_url=site.url) == tmp_path/'events'/f'{NAME}.zarr'

def test_zarr_deeper_in_the_zip(tmp_path):
    with serve(zipped({f'a/b/{NAME}.zarr/.zmetadata': '{}', f'a/b/{NAME}.zarr/vv/.zarray': '{}',
                       f'a/b/{NAME}.zarr/vv/0.0.0': BLOB, f'a/b/{NAME}.zarr/.zgroup': '{}', 'README': ''})) as site:
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)

def test_one_cut_is_resumed_within_the_call(tmp_path):
    with serve() as site:
        site.cut = [1_000_000]
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        first, second = downloads(site)
        assert first is None and 900_000 < int(second[6:-1]) <= 1_000_000
        assert site.sent < len(GOOD) + 100_000 # at most one block was sent twice

def test_many_cuts_leave_a_part_for_the_next_call(tmp_path):
    with serve() as site:
        site.cut = [1_000_000, 500_000, 500_000]
        with pytest.raises(FetchError, match='cut short at .* run this again to resume'): fetch_event('hokkaido', tmp_path, site.url)
        assert names(tmp_path) == [f'{NAME}.zip.part']
        have = (tmp_path/f'{NAME}.zip.part').stat().st_size
        assert 1_700_000 < have <= 2_000_000 and GOOD.startswith((tmp_path/f'{NAME}.zip.part').read_bytes())
        before = site.sent
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        assert downloads(site)[-1] == f'bytes={have}-' and site.sent - before == len(GOOD) - have

def test_a_server_without_ranges_starts_again(tmp_path):
    with serve() as site:
        site.ranges, site.cut = False, [1_000_000]
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        assert site.sent == 1_000_000 + len(GOOD)

@pytest.mark.parametrize('left', [len(GOOD), len(GOOD)+5])
def test_a_complete_or_too_long_part(tmp_path, left):
    (tmp_path/f'{NAME}.zip.part').write_bytes((GOOD + b'12345')[:left])
    with serve() as site:
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        assert site.sent == (0 if left == len(GOOD) else len(GOOD))

def test_a_complete_part_of_unknown_size_is_asked_for_again(tmp_path):
    (tmp_path/f'{NAME}.zip.part').write_bytes(GOOD)
    with serve() as site:
        site.entry['size'] = None
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        assert downloads(site) == [f'bytes={len(GOOD)}-', None]   # 416, then everything

def test_a_part_of_something_else_is_found_out(tmp_path):
    (tmp_path/f'{NAME}.zip.part').write_bytes(b'x'*1000)
    with serve() as site:
        with pytest.raises(FetchError, match='so it is damaged; it was deleted, run this again'):
            fetch_event('hokkaido', tmp_path, site.url)
        assert names(tmp_path) == []
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)

def test_wrong_checksum_and_wrong_size(tmp_path):
    with serve() as site:
        site.entry['checksum'] = 'md5:' + '0'*32
        with pytest.raises(FetchError, match='instead of 0{32}'): fetch_event('hokkaido', tmp_path, site.url)
        assert names(tmp_path) == []
        site.entry['size'] = len(GOOD) - 1
        with pytest.raises(FetchError, match='sends more than'): fetch_event('hokkaido', tmp_path, site.url)
        assert names(tmp_path) == []

@pytest.mark.parametrize('entry', [dict(checksum='md6:12'), dict(checksum=None), dict(size=None, checksum='')])
def test_without_a_usable_checksum_it_warns(tmp_path, entry):
    with serve() as site:
        site.entry.update(entry)
        with pytest.warns(UserWarning, match='not verified'): cube = fetch_event('hokkaido', tmp_path, site.url)
    check(cube, tmp_path)

def test_legacy_record(tmp_path):
    with serve() as site:
        site.entry = dict(filename=f'{NAME}.zip', filesize=len(GOOD), checksum=hashlib.md5(GOOD).hexdigest())
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)

@pytest.mark.parametrize('files,links,says', [
    ({f'{NAME}.zarr/.zgroup': '{}', '../evil': 'x'}, (), 'outside of the folder'),
    ({f'{NAME}.zarr/.zgroup': '{}', f'{NAME}.zarr/../../evil': 'x'}, (), 'outside of the folder'),
    ({f'{NAME}.zarr/.zgroup': '{}', '/tmp/evil': 'x'}, (), 'outside of the folder'),
    ({f'{NAME}.zarr/.zgroup': '{}'}, (f'{NAME}.zarr/vv',), 'a link or a special file'),
    ({'README': 'nothing here'}, (), 'no Zarr store'),
])
def test_dangerous_or_useless_zips(tmp_path, files, links, says):
    with serve(zipped(files, links)) as site:
        with pytest.raises(FetchError, match=says): fetch_event('hokkaido', tmp_path/'a'/'b', site.url)
    assert names(tmp_path) == ['a'] and names(tmp_path/'a') == ['b'] and names(tmp_path/'a'/'b') == []

def test_zip_bombs(tmp_path, monkeypatch):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('x.zarr/.zgroup', '{}')
        z.writestr('x.zarr/0', bytes(5_000_000))
    with serve(out.getvalue()) as site:
        monkeypatch.setattr(core, 'MAX_BYTES', 4_000_000)
        with pytest.raises(FetchError, match='would unpack to 2 files and 5,000,002 bytes'):
            fetch_event('hokkaido', tmp_path, site.url)
        monkeypatch.setattr(core, 'MAX_BYTES', 6_000_000)
        monkeypatch.setattr(core, 'MAX_FILES', 1)
        with pytest.raises(FetchError, match='more than 1 or'): fetch_event('hokkaido', tmp_path, site.url)
    assert names(tmp_path) == []

def test_a_zip_that_lies_about_its_sizes(tmp_path):
    "Five megabytes declared as five bytes: no more than declared is ever written, and the checksum inside the zip gives it away"
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('x.zarr/.zgroup', '{}')
        z.writestr('x.zarr/0', bytes(5_000_000))
    lie = out.getvalue().replace((5_000_000).to_bytes(4, 'little'), (5).to_bytes(4, 'little'))
    assert lie != out.getvalue()
    with serve(lie) as site:
        with pytest.raises(FetchError, match='not a whole zip'): fetch_event('hokkaido', tmp_path, site.url)
    assert names(tmp_path) == []

def test_a_damaged_zip_with_the_right_checksum(tmp_path):
    with serve(GOOD[:2_000_000]) as site:
        with pytest.raises(FetchError, match='not a whole zip'): fetch_event('hokkaido', tmp_path, site.url)
    assert names(tmp_path) == []

def test_overload_passes_or_is_said(tmp_path):
    with serve() as site:
        site.fail = [503, 502]
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        shutil.rmtree(tmp_path/f'{NAME}.zarr')
        site.fail = [500]*10
        with pytest.raises(FetchError, match=f'answered 500 .* by hand, put it at {tmp_path}'): fetch_event('hokkaido', tmp_path, site.url)
        assert len(site.fail) == 7 and names(tmp_path) == [] # asked three times, no more
        site.fail = [404]
        with pytest.raises(FetchError, match='answered 404'): fetch_event('hokkaido', tmp_path, site.url)

@pytest.mark.parametrize('record', ['<html>', '[]', '{}', '{"files": [1]}', '{"files": []}'])
def test_a_strange_record(tmp_path, record):
    with serve() as site:
        site.record = lambda: record
        with pytest.raises(FetchError, match='does not describe a record|has no hokkaido_japan.zip'):
            fetch_event('hokkaido', tmp_path, site.url)
    assert names(tmp_path) == []

def closed():
    "An address nobody listens at"
    with serve() as site: return site.url

def test_no_network_says_what_to_do_by_hand(tmp_path):
    url = closed()
    with pytest.raises(FetchError) as e: fetch_event('hokkaido', tmp_path, url)
    assert f'{url}{PATH}' in str(e.value) and f'{tmp_path}/{NAME}.zip' in str(e.value) and '\n' not in str(e.value)
    (tmp_path/f'{NAME}.zip').write_bytes(GOOD)                 # as the message says
    with pytest.warns(UserWarning, match='unverified'): cube = fetch_event('hokkaido', tmp_path, url)
    assert (cube/'vv'/'0.0.0').read_bytes() == BLOB and names(tmp_path) == [f'{NAME}.zarr', f'{NAME}.zip']

def test_a_zip_put_there_by_hand_is_verified_when_possible_and_never_deleted(tmp_path):
    with serve() as site:
        (tmp_path/f'{NAME}.zip').write_bytes(GOOD[:-1] + b'?')
        with pytest.raises(FetchError, match='damaged; delete it and download'): fetch_event('hokkaido', tmp_path, site.url)
        assert names(tmp_path) == [f'{NAME}.zip']
        (tmp_path/f'{NAME}.zip').write_bytes(GOOD)
        fetch_event('hokkaido', tmp_path, site.url)
        assert downloads(site) == [] and names(tmp_path) == [f'{NAME}.zarr', f'{NAME}.zip']

@pytest.mark.parametrize('crash', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_a_crash_while_unpacking_leaves_no_cube(tmp_path, monkeypatch, crash):
    def copy(src, dst):
        dst.write(src.read(10))
        raise crash
    with serve() as site:
        with monkeypatch.context() as m:
            m.setattr(core.shutil, 'copyfileobj', copy)
            with pytest.raises((KeyboardInterrupt, OutputError)): fetch_event('hokkaido', tmp_path, site.url)
        assert names(tmp_path) == [f'{NAME}.zip.part']          # what was downloaded is kept
        check(fetch_event('hokkaido', tmp_path, site.url), tmp_path)
        assert len(downloads(site)) == 1                        # and not asked for again

def test_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(core.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with serve() as site:
        with pytest.raises(OutputError, match='make room or choose another folder'): fetch_event('hokkaido', tmp_path, site.url)
        assert names(tmp_path) == [] and downloads(site) == []

def test_an_unwritable_folder(tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(OutputError, match='Cannot write into'): fetch_event('hokkaido', tmp_path/'file'/'below')
