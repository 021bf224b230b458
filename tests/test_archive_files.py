"Frames from files, static catalogues and OPERA's archive: real crops, names nobody thought of, hostile documents, and NASA's catalogue on loopback."
import hashlib, json, shutil, ssl, subprocess, sys, threading, zipfile
from contextlib import contextmanager
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pystac
import pytest
import rasterio
from hypothesis import given, settings, strategies as st
from rasterio.transform import from_origin

from landslide_nb.archive import files, remote
from landslide_nb.archive.box import Box
from landslide_nb.core import FetchError, LandslideError

def examples(n):
    "The same n examples each time"
    return settings(max_examples=n, deadline=None, database=None, derandomize=True)

def write_tif(path, west=759_750, north=9_407_190, shape=(20, 30), crs='EPSG:32754', dtype='float32',
              nodata=np.nan, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = dict(driver='GTiff', height=shape[0], width=shape[1], count=1, dtype=dtype, nodata=nodata, crs=crs)
    with rasterio.open(path, 'w', transform=from_origin(west, north, 30, 30), **layout) as f:
        f.write(np.random.default_rng(seed).random(shape).astype(dtype), 1)
    return path

def opera_name(time='20240522T084748', made='20240522T152955', burst='T009-019294-IW2', unit='A'):
    return f'OPERA_L2_RTC-S1_{burst}_{time}Z_{made}Z_S1{unit}_30_v1.0'

def write_opera(folder, bands=('VV', 'VH', 'mask'), west=759_750, **name):
    for band in bands: write_tif(folder/f'{opera_name(**name)}_{band}.tif', west=west)

# ---- real crops

def test_real_bursts_of_one_pass(shared):
    "Five bursts in folders of their own, 21 passes: three seconds apart is one pass, and every item lies where its file lies"
    frames = files.opera_frames(shared/'opera_rtc_s1')
    assert len(frames) == sum(1 for _ in (shared/'opera_rtc_s1').rglob('*_VV.tif'))
    assert {o.track for o in frames} == {137} and {o.orbit for o in frames} == {'ascending'}
    assert {o.platform for o in frames} == {'S1A', 'S1B'}
    passes = {}
    for frame in frames: passes.setdefault((frame.track, frame.time.date()), []).append(frame)
    assert len(passes) < len(frames)
    for same in passes.values(): assert (max(o.time for o in same) - min(o.time for o in same)).total_seconds() < 30
    with rasterio.open(frames[0].item.assets['vv'].href) as f: bounds = f.bounds
    west, south, east, north = rasterio.warp.transform_bounds(f.crs, 'EPSG:4326', *bounds)
    np.testing.assert_allclose(frames[0].footprint.bounds, (west, south, east, north), atol=1e-4)

def test_real_bursts_load_as_they_are(shared, tmp_path):
    "odc-stac reads the items of two bursts on one grid: each pixel is that of its file"
    import odc.stac
    days = ['20211119', '20211125']
    for burst in ('T137-292319-IW2', 'T137-292320-IW2'):
        for path in (shared/'opera_rtc_s1'/burst).glob('*.tif'):
            if path.name.split('_')[4][:8] in days: shutil.copy(path, tmp_path)
    frames = files.opera_frames(tmp_path)
    assert len(frames) == 4
    first = [o for o in frames if f'{o.time:%Y%m%d}' == days[0]]
    cube = odc.stac.load([o.item for o in first], bands=['vv'], groupby=lambda *_: 0)
    assert cube.sizes['time'] == 1
    for frame in first:
        with rasterio.open(frame.item.assets['vv'].href) as f:
            values, left, top = f.read(1), f.bounds.left, f.bounds.top
        part = cube.vv[0].sel(x=slice(left, left + 3000), y=slice(top, top - 3000)).values
        np.testing.assert_array_equal(part, values)

def test_a_reprocessed_burst_is_given_twice(shared, tmp_path):
    for path in (shared/'opera_rtc_s1'/'T137-292318-IW1').glob('*_20211119T*'): shutil.copy(path, tmp_path)
    for path in list(tmp_path.iterdir()): shutil.copy(path, tmp_path/path.name.replace('_20250830T120333Z_', '_20260101T000000Z_'))
    old, new = files.opera_frames(tmp_path)
    assert old.time == new.time and old.processed < new.processed == datetime(2026, 1, 1)

def test_copies_of_one_kind_are_used(shared):
    "The crops of the landslide in Papua New Guinea have a suffix"
    frames = files.opera_frames(shared/'png_2024'/'opera_rtc_pre_event')
    assert len(frames) == 10 and {o.track for o in frames} == {9} and {o.orbit for o in frames} == {'ascending'}

# ---- names

words = st.text('OPERA_L2RTC-S1TIWZAv.0123456789VH_masktifdpgunec', max_size=90)

@examples(300)
@given(words)
def test_names_never_raise_anything_strange(name):
    for pattern in (files.OPERA_NAME, files.HYP3_NAME): pattern.match(name)
    files.said_in_name(name)
    files._readme_track(name)

numbers = st.integers(0, 99_999_999)

@examples(60)
@given(day=numbers, second=st.integers(0, 999_999), track=st.integers(0, 999), unit=st.sampled_from('ABCDZ'))
def test_impossible_dates_and_tracks_are_said(tmp_path_factory, day, second, track, unit):
    folder = tmp_path_factory.mktemp('names')
    write_opera(folder, ('VV', 'VH'), time=f'{day:08}T{second:06}', burst=f'T{track:03}-019294-IW2', unit=unit)
    try: frames = files.opera_frames(folder)
    except LandslideError as e: assert len(str(e)) > 20
    else: assert 1 <= frames[0].track <= 175 and f'{frames[0].time:%Y%m%dT%H%M%S}' == f'{day:08}T{second:06}'
    shutil.rmtree(folder)

letters = st.tuples(*[st.sampled_from(o) for o in ('gs', 'pda', 'uw', 'nf', 'ec', 'dm')]).map(''.join)

@examples(30)
@given(letters)
@pytest.mark.filterwarnings('ignore')
def test_every_order_of_hyp3(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp('hyp3')
    name = f'S1A_IW_20240522T084748_DVP_RTC30_G_{order}_1A2B'
    for band in ('VV', 'VH'): write_tif(folder/f'{name}_{band}.tif', nodata=0.)
    (frame,) = files.hyp3_frames(folder, track=9)
    assert frame.scale == dict(p='power', d='dB', a='amplitude')[order[1]]
    assert frame.item.properties['landslide_nb:radiometry'] == dict(g='gamma0', s='sigma0')[order[0]]
    shutil.rmtree(folder)

def test_an_encrypted_zip_is_said(tmp_path):
    name = 'S1A_IW_20240522T084748_DVP_RTC30_G_gpuned_1A2B'
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as archive: archive.writestr(f'{name}/{name}_VV.tif', b'x')
    data = bytearray((tmp_path/'a.zip').read_bytes())
    for mark, at in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)): data[data.index(mark) + at] |= 1
    (tmp_path/'a.zip').write_bytes(data)
    with pytest.raises(LandslideError, match='encrypted'): files.hyp3_frames(tmp_path/'a.zip')

@examples(100)
@given(where=st.integers(0, 10**6), value=st.integers(0, 255))
@pytest.mark.filterwarnings('ignore')
def test_a_damaged_zip_is_said_or_read(zipped_product, where, value):
    "Any one byte of a zip may be wrong"
    good, path = zipped_product
    data = bytearray(good)
    data[where % len(data)] = value
    path.write_bytes(data)
    try: frames = files.hyp3_frames(path, track=9)
    except LandslideError as e: assert str(e)
    else: assert len(frames) == 1

@pytest.fixture(scope='module')
def zipped_product(tmp_path_factory):
    folder = tmp_path_factory.mktemp('zipped')
    name = 'S1A_IW_20240522T084748_DVP_RTC30_G_gpuned_1A2B'
    for band in ('VV', 'VH'): write_tif(folder/name/f'{name}_{band}.tif', shape=(4, 5))
    (folder/name/f'{name}.README.md.txt').write_text('processed to output gamma-0 power\n')
    with zipfile.ZipFile(folder/'good.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder/name).iterdir()): archive.write(path, f'{name}/{path.name}')
    return (folder/'good.zip').read_bytes(), folder/'bad.zip'

def test_an_infinite_readme_is_not_read_to_the_end(tmp_path):
    name = 'S1A_IW_20240522T084748_DVP_RTC30_G_gpuned_1A2B'
    for band in ('VV', 'VH'): write_tif(tmp_path/f'{name}_{band}.tif')
    with open(tmp_path/f'{name}.README.md.txt', 'wb') as f: f.truncate(2**33) # sparse
    with pytest.raises(LandslideError, match='give the track'): files.hyp3_frames(tmp_path)

# ---- hostile catalogues

def item_json(folder, **changes):
    write_opera(folder)
    (frame,) = files.opera_frames(folder)
    return {**frame.item.to_dict(include_self_link=False), **changes}

def write_item(folder, **changes):
    (folder/'item.json').write_text(json.dumps(item_json(folder, **changes)))
    return folder/'item.json'

anything = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8),
                        lambda o: st.lists(o, max_size=3) | st.dictionaries(st.text(max_size=6), o, max_size=3),
                        max_leaves=6)
fields = st.sampled_from(['type', 'stac_version', 'stac_extensions', 'id', 'geometry', 'bbox', 'properties', 'links',
                          'assets', 'collection'])

@pytest.fixture(scope='module')
def good_item(tmp_path_factory):
    folder = tmp_path_factory.mktemp('item')
    return folder, item_json(folder)

@pytest.mark.filterwarnings('ignore')
@examples(200)
@given(field=fields, value=anything)
def test_any_field_may_hold_anything(good_item, field, value):
    folder, good = good_item
    (folder/'item.json').write_text(json.dumps({**good, field: value}))
    try: frames = remote.static_frames(folder/'item.json')
    except LandslideError as e: assert str(e)
    else: assert frames[0].track == 9

@pytest.mark.filterwarnings('ignore')
@examples(200)
@given(name=st.sampled_from(['datetime', 'start_datetime', 'created', 'platform', 'proj:code', 'proj:shape',
                             'proj:transform', 'sat:relative_orbit', 'sat:orbit_state']), value=anything)
def test_any_property_may_hold_anything(good_item, name, value):
    folder, good = good_item
    (folder/'item.json').write_text(json.dumps({**good, 'properties': {**good['properties'], name: value}}))
    try: frames = remote.static_frames(folder/'item.json')
    except LandslideError as e: assert str(e)
    else: assert 1 <= frames[0].track <= 175

@pytest.mark.parametrize('href', [
    '../../../etc/passwd.tif', '/etc/passwd.tif', '/vsicurl/http://127.0.0.1:9/a.tif', 'file:///etc/passwd.tif',
    's3://bucket/a.tif', 'gopher://x/a.tif', 'a\0.tif'])
def test_an_image_stays_in_its_folder(tmp_path, href):
    good = item_json(tmp_path)
    good['assets']['vv']['href'] = href
    (tmp_path/'item.json').write_text(json.dumps(good))
    with pytest.raises(LandslideError): remote.static_frames(tmp_path/'item.json')

hrefs = st.text('./\\:~%abcAB0 \0hftpsvi', max_size=40) | st.text(max_size=40)

@examples(500)
@given(href=hrefs, start=st.sampled_from(['', '../', '/', './', 'http://', 'HTTPS://', 'file:///', '//']))
def test_no_href_leads_out_of_a_folder(tmp_path_factory, href, start):
    root = tmp_path_factory.getbasetemp().resolve()
    try: target = remote.target_of(start + href, root/'a'/'item.json', root)
    except LandslideError: return
    assert Path(target).is_relative_to(root) or target.lower().startswith(('http://', 'https://'))

def test_an_image_that_is_a_map_to_others_is_refused(tmp_path):
    "GDAL goes by content: a VRT called .tif would lead anywhere"
    good = write_item(tmp_path)
    image = tmp_path/f'{opera_name()}_VV.tif'
    moved = image.rename(tmp_path/'moved.tif')
    image.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>EPSG:32754</SRS>'
                     f'<GeoTransform>759750, 30, 0, 9407190, 0, -30</GeoTransform>'
                     f'<VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
                     f'<SourceFilename>{moved}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>')
    with rasterio.open(image) as f: assert f.driver == 'VRT'
    with pytest.raises(LandslideError, match='Cannot read'): remote.static_frames(good)
    with pytest.raises(LandslideError, match='Cannot read'): files.opera_frames(tmp_path)

def test_a_link_through_a_symbolic_link_stays_in_its_folder(tmp_path):
    good = item_json(tmp_path/'there')
    (tmp_path/'here').mkdir()
    (tmp_path/'here'/'out').symlink_to(tmp_path/'there')
    for asset in good['assets'].values(): asset['href'] = f"out/{Path(asset['href']).name}"
    (tmp_path/'here'/'item.json').write_text(json.dumps(good))
    with pytest.raises(LandslideError, match='out of its folder'): remote.static_frames(tmp_path/'here'/'item.json')

def test_a_document_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, 'MOST_BYTES', 1000)
    (tmp_path/'catalog.json').write_text(json.dumps(dict(type='Catalog', links=[], title='x'*2000)))
    with pytest.raises(LandslideError, match='larger than 1,000 bytes'): remote.static_frames(tmp_path/'catalog.json')

def test_a_catalogue_of_too_many_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, 'MOST_DOCUMENTS', 5)
    for k in range(9): (tmp_path/f'{k}.json').write_text(json.dumps(dict(type='Catalog', links=[])))
    (tmp_path/'catalog.json').write_text(json.dumps(dict(type='Catalog', links=[dict(rel='child', href=f'{k}.json') for k in range(9)])))
    with pytest.raises(LandslideError, match='more than 5 documents'): remote.static_frames(tmp_path/'catalog.json')

def test_other_items_are_left_out_and_counted(tmp_path):
    good = item_json(tmp_path)
    (tmp_path/'good.json').write_text(json.dumps(good))
    (tmp_path/'other.json').write_text(json.dumps({**good, 'id': 'Copernicus_DSM', 'assets': {}}))
    with pytest.warns(UserWarning, match='1 of 2 items'): assert len(remote.static_frames(tmp_path)) == 1

def test_a_damaged_image_of_a_catalogue_is_named(tmp_path):
    good = write_item(tmp_path)
    image = tmp_path/f'{opera_name()}_VH.tif'
    image.write_bytes(image.read_bytes()[:50])
    with pytest.raises(LandslideError, match='_VH.tif'): remote.static_frames(good)

# ---- servers on loopback

@contextmanager
def serving(handler, certificate=None):
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try: yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)

def test_a_static_catalogue_on_the_web(tmp_path):
    "The links are those of the web; images are not opened before they are read"
    write_opera(tmp_path)
    write_opera(tmp_path, time='20240603T084748')
    catalog = pystac.Catalog('web', 'two passes')
    catalog.add_items(o.item for o in files.opera_frames(tmp_path))
    catalog.normalize_hrefs(str(tmp_path))
    catalog.make_all_asset_hrefs_relative()
    catalog.save(pystac.CatalogType.SELF_CONTAINED)
    asked = []
    class Files(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_GET(self):
            asked.append(self.path)
            path = tmp_path/self.path.lstrip('/')
            self.send_response(200 if path.is_file() else 404)
            self.end_headers()
            if path.is_file(): self.wfile.write(path.read_bytes())
    with serving(Files) as server:
        at = f'http://127.0.0.1:{server.server_port}'
        frames = remote.static_frames(f'{at}/catalog.json')
        with pytest.raises(FetchError, match='404'): remote.static_frames(f'{at}/absent.json')
    assert len(frames) == 2 and len([o for o in asked if o.endswith('.tif')]) == 0
    assert all(o.item.assets['vv'].href.startswith(f'{at}/OPERA') for o in frames)
    assert {o.mask_values for o in frames} == {(1, 2, 3)}
    with pytest.raises(FetchError, match='cannot be reached'): remote.static_frames(f'{at}/catalog.json')

def granule(folder, name, at, direction='DESCENDING', checksum=True, points=None):
    "A granule in the form of CMR's umm_json, as it is published for OPERA_L2_RTC-S1_V1"
    paths = sorted(folder.glob(f'{name}_*.tif'))
    (track, time) = int(name.split('_')[3][1:4]), datetime.strptime(name.split('_')[4], '%Y%m%dT%H%M%SZ')
    urls = [f'{at}/RTC/OPERA-S1/{o.name}' for o in paths]
    about = [dict(Name=o.name, SizeInBytes=o.stat().st_size, Format='GeoTIFF') for o in paths]
    if checksum:
        about = [{**o, 'Checksum': dict(Algorithm='MD5',
                                        Value=hashlib.md5((folder/o['Name']).read_bytes()).hexdigest())}
                 for o in about]
    (frame,) = [o for o in files.opera_frames(folder) if o.item.id == name]
    points = points or list(frame.footprint.exterior.coords)
    attributes = dict(ASCENDING_DESCENDING=[direction], PATH_NUMBER=[str(track)], PROCESSING_TYPE=['RTC'],
                      POLARIZATION=['VV', 'VH'], OPERA_BURST_ID=['x'], BEAM_MODE=['IW'])
    umm = dict(
        GranuleUR=name,
        TemporalExtent=dict(RangeDateTime=dict(BeginningDateTime=f'{time.isoformat()}Z',
                                               EndingDateTime=f'{time.isoformat()}Z')),
        OrbitCalculatedSpatialDomains=[dict(OrbitNumber=51478)],
        CollectionReference=dict(ShortName='OPERA_L2_RTC-S1_V1', Version='1'),
        AdditionalAttributes=[dict(Name=key, Values=values) for key, values in attributes.items()],
        SpatialExtent=dict(HorizontalSpatialDomain=dict(Geometry=dict(GPolygons=[dict(Boundary=dict(
            Points=[dict(Longitude=x, Latitude=y) for x, y in points]))]))),
        Platforms=[dict(ShortName='Sentinel-1A', Instruments=[dict(ShortName='C-SAR')])],
        PGEVersionClass=dict(PGEVersion='2.1.0'),
        DataGranule=dict(Identifiers=[dict(IdentifierType='ProducerGranuleId', Identifier=name)],
                         ProductionDateTime='2024-06-10T00:00:00Z', ArchiveAndDistributionInformation=about),
        RelatedUrls=[dict(Type='GET DATA', URL=url) for url in urls] +
                    [dict(Type='EXTENDED METADATA', URL=f'{url}.md5') for url in urls])
    return dict(meta={'concept-type': 'granule', 'concept-id': f'G{name}', 'collection-concept-id': 'C2777436413-ASF',
                      'provider-id': 'ASF'}, umm=umm)

@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tls')
    words = '-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1'.split()
    subprocess.run(['openssl', 'req', *words, '-keyout', folder/'key.pem', '-out', folder/'cert.pem'], check=True, capture_output=True)
    return folder/'cert.pem', folder/'key.pem'

@pytest.fixture
def cmr(tmp_path, certificate, monkeypatch):
    "NASA's catalogue and archive on loopback, for the real clients: `pages` of items, `faults` that come first, `asked` what was searched"
    from asf_search.constants import INTERNAL
    folder = tmp_path/'archive'
    class State: pages, faults, asked, folder = [[]], [], [], tmp_path/'archive'
    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        def log_message(self, *args): pass
        def answer(self, code, body, **headers):
            self.send_response(code)
            for key, value in {'Content-Length': len(body), **headers}.items():
                self.send_header(key.replace('_', '-'), str(value))
            self.end_headers()
            self.wfile.write(body)
        def do_POST(self):
            State.asked.append(parse_qs(self.rfile.read(int(self.headers['Content-Length'])).decode()))
            if State.faults: return self.answer(*State.faults.pop(0))
            n = int(self.headers.get('CMR-Search-After', 0))
            body = json.dumps(dict(hits=sum(map(len, State.pages)), took=1, items=State.pages[n])).encode()
            self.answer(200, body, **({'CMR_Search_After': n + 1} if n + 1 < len(State.pages) else {}))
        def do_GET(self):
            if State.faults: return self.answer(*State.faults.pop(0))
            path = State.folder/Path(self.path).name
            self.answer(200, path.read_bytes()) if path.is_file() else self.answer(404, b'')
    monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(certificate[0]))
    with serving(Handler, certificate) as server:
        State.at = f'https://127.0.0.1:{server.server_port}'
        monkeypatch.setattr(INTERNAL, 'CMR_HOST', f'127.0.0.1:{server.server_port}')
        yield State

box = Box(143.2, -5.6, 143.6, -5.2)
days = date(2024, 5, 1), date(2024, 6, 30)

def fill(cmr, **granules):
    for time in ('20240522T084748', '20240603T084748'): write_opera(cmr.folder, time=time)
    names = [opera_name(time=time) for time in ('20240522T084748', '20240603T084748')]
    cmr.pages = [[granule(cmr.folder, name, cmr.at, **granules) for name in names]]

def test_opera_is_searched_through_asf_search(cmr):
    fill(cmr)
    frames = remote.search_opera(box, *days)
    assert [f'{o.time:%Y-%m-%d %H:%M:%S}' for o in frames] == ['2024-05-22 08:47:48', '2024-06-03 08:47:48']
    assert {(o.track, o.orbit, o.platform, o.mask_values) for o in frames} == {(9, 'descending', 'S1A', (1, 2, 3))}
    assert [sorted(o.bands) for o in frames] == [['mask', 'vh', 'vv']]*2
    total = sum(o.stat().st_size for o in cmr.folder.glob('*_20240522T084748Z_*.tif'))
    assert frames[0].size == total and all(o.startswith('d50110') and len(o) == 38
                                           for o in frames[0].checksums.values())
    assert cmr.asked[0]['temporal'][0].startswith('2024-05-01T00:00:00Z,2024-06-30T23:59:59Z')

def test_a_track_is_asked_for_and_filtered_again(cmr):
    "The server ignores the track"
    fill(cmr)
    assert remote.search_opera(box, *days, track=137) == []
    assert any('137' in str(values) for values in cmr.asked[0].values())
    assert len(remote.search_opera(box, *days, track=9)) == 2

def test_across_180_degrees(cmr):
    "CMR draws a burst there with longitudes that jump; both halves of the box are asked for, and it is found once"
    write_opera(cmr.folder, time='20240522T174748')
    name = opera_name(time='20240522T174748')
    points = [(179.6, -17.1), (-179.6, -17.1), (-179.6, -16.9), (179.6, -16.9), (179.6, -17.1)]
    cmr.pages = [[granule(cmr.folder, name, cmr.at, points=points)]]
    (frame,) = remote.search_opera(Box(179.8, -17.05, 180.1, -16.95), *days)
    np.testing.assert_allclose(frame.footprint.bounds, (179.6, -17.1, 180.4, -16.9))
    assert len(cmr.asked) == 2

def test_a_box_elsewhere_gives_nothing(cmr):
    fill(cmr)
    assert remote.search_opera(Box(10, 40, 11, 41), *days) == []

def test_a_busy_catalogue_is_asked_again(cmr, monkeypatch):
    fill(cmr)
    cmr.faults = [(429, b'{"errors": ["slow down"]}'), (503, b'{"errors": ["busy"]}')]
    assert len(remote.search_opera(box, *days)) == 2 and len(cmr.asked) == 3

@pytest.mark.parametrize('fault', [
    (400, b'{"errors": ["no"]}'), (404, b'<html>'), (200, b'{"items"'), (200, b'{}'), (200, b'[]'),
    (200, b'{"hits": 1, "items": [{"meta": {}, "umm": []}]}'), (200, b'['*100_000)])
def test_a_broken_answer_is_one_sentence(cmr, fault):
    fill(cmr)
    cmr.faults = [fault]*3
    with pytest.raises(FetchError, match="NASA's catalogue"): remote.search_opera(box, *days)

def test_pages_without_end(cmr, monkeypatch):
    fill(cmr)
    monkeypatch.setattr(remote, 'MOST_PAGES', 3)
    cmr.pages = cmr.pages*50
    with pytest.raises(FetchError, match='more than'): remote.search_opera(box, *days)

def test_what_was_searched_is_read(cmr, tmp_path, monkeypatch):
    "The same frames after a download; a second one asks for nothing"
    fill(cmr)
    frames = remote.search_opera(box, *days)
    here = remote.fetch_opera(frames, tmp_path/'here')
    assert [o.item.id for o in here] == [o.item.id for o in frames]
    cmr.folder.rename(tmp_path/'gone')
    assert len(remote.fetch_opera(frames, tmp_path/'here')) == 2
    monkeypatch.setenv('LANDSLIDE_NB_CACHE', str(tmp_path/'cache'))
    with pytest.raises(FetchError, match='404'): frames[0].sign(frames[0].item.assets['vv'].href)

def test_a_frame_signs_by_downloading(cmr, tmp_path, monkeypatch):
    monkeypatch.setenv('LANDSLIDE_NB_CACHE', str(tmp_path/'cache'))
    fill(cmr)
    frame = remote.search_opera(box, *days)[0]
    path = frame.sign(frame.item.assets['vv'].href)
    assert path.startswith(str(tmp_path/'cache')) and Path(path).read_bytes() == (
        cmr.folder/Path(path).name).read_bytes()

@pytest.mark.parametrize('fault', [(401, b''), (403, b''), (200, b'<!DOCTYPE html><title>Earthdata Login</title>')])
def test_a_missing_sign_in_is_said(cmr, tmp_path, fault):
    fill(cmr)
    frames = remote.search_opera(box, *days)
    cmr.faults = [fault]
    with pytest.raises(FetchError, match='netrc.*EARTHDATA_TOKEN|EARTHDATA_TOKEN'): remote.fetch_opera(frames, tmp_path/'here')
    assert list((tmp_path/'here').glob('[!.]*')) == []

def test_a_file_that_differs_is_not_kept(cmr, tmp_path):
    fill(cmr)
    frames = remote.search_opera(box, *days)
    for path in cmr.folder.glob('*_VV.tif'):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(FetchError, match='md5'): remote.fetch_opera(frames, tmp_path/'here')
    assert not list((tmp_path/'here').glob('*_VV.tif'))

def test_the_token_is_for_nasa_and_asf_alone(cmr, tmp_path, monkeypatch):
    "An address elsewhere is asked without it"
    def never(): raise AssertionError('signed in')
    monkeypatch.setattr(remote, 'earthdata_session', never)
    fill(cmr)
    frames = remote.search_opera(box, *days)
    assert len(remote.fetch_opera(frames, tmp_path/'here')) == 2
    with pytest.raises(AssertionError, match='signed in'):
        remote.fetch_image('https://cumulus.asf.alaska.edu/OPERA_L2_RTC-S1_x.tif', tmp_path)

def test_without_a_sign_in_the_page_is_named(tmp_path, monkeypatch):
    "The real earthaccess, in a home without .netrc"
    remote.earthdata_session.cache_clear()
    for name in ('EARTHDATA_USERNAME', 'EARTHDATA_PASSWORD', 'EARTHDATA_TOKEN', 'NETRC'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(FetchError, match='~/.netrc.*urs.earthdata.nasa.gov'): remote.earthdata_session()

def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'asf_search', None)
    with pytest.raises(FetchError, match=r'pip install landslide_nb\[opera\]'): remote.search_opera(box, *days)

# ---- from files to a cube

def in_halves(path, folder, burst, columns, west_shift, seconds, factor=1., made=None):
    "Some columns of a real image as an image of another burst, seconds later"
    old, (time, processed) = path.name.split('_')[3], path.name.split('_')[4:6]
    later = f'{int(time[9:15]) + seconds:06}'
    name = path.name.replace(old, burst).replace(time, f'{time[:9]}{later}Z').replace(processed, made or processed)
    with rasterio.open(path) as f: values, profile, transform = f.read(1), f.profile, f.transform
    part = values[:, slice(*columns)]*np.float32(factor)
    profile.update(width=part.shape[1], transform=transform*rasterio.Affine.translation(west_shift, 0))
    folder.mkdir(exist_ok=True)
    with rasterio.open(folder/name, 'w', **profile) as f: f.write(part, 1)

def test_a_cube_of_bursts_is_the_real_image(shared, tmp_path):
    "A real burst cut in two that overlap, as two bursts of each pass, one pass processed twice: the cube is the image again, with the newest processing"
    from rasterio.warp import transform_bounds
    from landslide_nb.archive.build import build_cube
    from landslide_nb.data.cube import open_cube
    source = shared/'opera_rtc_s1'/'T137-292318-IW1'
    for path in source.glob('*_2021*.tif'):
        if not path.name.split('_')[4].startswith('2021'): continue
        in_halves(path, tmp_path/'bursts', 'T137-292318-IW1', (0, 60), 0, 0)
        in_halves(path, tmp_path/'bursts', 'T137-292319-IW2', (40, 100), 40, 3)
    for path in source.glob('*_20211207T*.tif'): # processed again, twice as bright
        in_halves(path, tmp_path/'bursts', 'T137-292318-IW1', (0, 60), 0, 0, 2., '20260101T000000Z')
        in_halves(path, tmp_path/'bursts', 'T137-292319-IW2', (40, 100), 40, 3, 2., '20260101T000000Z')
    box = transform_bounds('EPSG:32611', 'EPSG:4326', 166_500, 3_776_900, 167_900, 3_778_500)
    out = build_cube(box, '2021-12-02', '2021-12-05', tmp_path/'cube.zarr', source=str(tmp_path/'bursts'), passes=3,
                     archive='none', dem='none')
    cube, whole = open_cube(out).load(), open_cube(source).load()
    assert cube.sizes['time'] == 6 and set(cube.track.values) == {137} and set(cube.platform.values) == {'S1A', 'S1B'}
    for k, day in enumerate(cube.time.values.astype('datetime64[D]')):
        (same,) = np.flatnonzero(whole.time.values.astype('datetime64[D]') == day)
        factor = np.float32(2 if str(day) == '2021-12-07' else 1)
        for band in ('vv', 'vh'):
            expected = whole[band][same].sel(y=cube.y, x=cube.x, method='nearest', tolerance=.1).values*factor
            np.testing.assert_array_equal(cube[band][k].values, expected)
    assert cube.vv.notnull().all()

UNITS = dict(p=lambda o: o, a=np.sqrt, d=lambda o: 10*np.log10(o))

def as_hyp3(path, folder, letter, orbit):
    "Both polarisations of a real image as a HyP3 product in a zip, in power, amplitude or dB, with 12 pixels in shadow"
    time = path.name.split('_')[4].rstrip('Z')
    name = f'{path.name.split("_")[6]}_IW_{time}_DVP_RTC30_G_g{letter}uned_1A2B'
    words = dict(p='power', a='amplitude', d='decibel')
    unit = name[:3]
    readme = (f'The source granule is:\n{unit}_IW_GRDH_1SDV_{time}_{time}_{orbit:06}_068F0A_C0DE\n'
              f'These files have been processed to output gamma-0 {words[letter]}.\n')
    with rasterio.open(path) as f: profile = f.profile
    shadow = np.ones((100, 100), 'uint8')
    shadow[50:53, 50:54] = 17
    with zipfile.ZipFile(folder/f'{name}.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f'{name}/{name}.README.md.txt', readme)
        for pol in ('VV', 'VH'):
            with rasterio.open(str(path).replace('_VV', f'_{pol}')) as f: values = UNITS[letter](f.read(1))
            with rasterio.MemoryFile() as memory:
                with memory.open(**{**profile, 'nodata': 0.}) as f: f.write(values.astype('float32'), 1)
                archive.writestr(f'{name}/{name}_{pol}.tif', memory.read())
        with rasterio.MemoryFile() as memory:
            with memory.open(**{**profile, 'dtype': 'uint8', 'nodata': None}) as f: f.write(shadow, 1)
            archive.writestr(f'{name}/{name}_ls_map.tif', memory.read())

def test_a_cube_of_hyp3_zips_is_linear_power(shared, tmp_path):
    "Real images as HyP3 would give them: power, amplitude and dB in one folder become the same linear power; shadow is no data"
    from rasterio.warp import transform_bounds
    from landslide_nb.archive.build import build_cube
    from landslide_nb.data.cube import open_cube
    source, folder = shared/'opera_rtc_s1'/'T137-292318-IW1', tmp_path/'zips'
    folder.mkdir()
    orbits = {'20211119': 40634, '20211201': 40809, '20211213': 40984} # of S1A on track 137
    for (day, orbit), letter in zip(orbits.items(), 'pad'):
        (path,) = source.glob(f'*_{day}T*_VV.tif')
        as_hyp3(path, folder, letter, orbit)
    box = transform_bounds('EPSG:32611', 'EPSG:4326', 166_500, 3_776_900, 167_900, 3_778_500)
    cube = open_cube(build_cube(box, '2021-12-02', '2021-12-05', tmp_path/'cube.zarr', source=str(folder),
                                archive='none', dem='none')).load()
    whole = open_cube(source).load()
    assert set(cube.track.values) == {137} and cube.sizes['time'] == 3
    hidden = ((cube.x >= 165_660 + 50*30) & (cube.x < 165_660 + 54*30) &
              (cube.y <= 3_779_190 - 50*30) & (cube.y > 3_779_190 - 53*30))
    assert int(hidden.sum()) == 12
    for k, day in enumerate(cube.time.values.astype('datetime64[D]')):
        (same,) = np.flatnonzero(whole.time.values.astype('datetime64[D]') == day)
        for band in ('vv', 'vh'):
            expected = whole[band][same].sel(y=cube.y, x=cube.x, method='nearest', tolerance=.1)
            np.testing.assert_allclose(cube[band][k].values,
                                       expected.where(~hidden.transpose('y', 'x').values).values, rtol=1e-5)
