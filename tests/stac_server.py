"""Archives on this machine for tests: simulated and real passes, and what goes wrong with real archives.

`landslide_nb.loopback` answers; here it is filled and made to misbehave. A fault is a function of a request; what it
returns is the answer, and None leaves the request to the server. `api.faults.append(busy('/search', times=2))`.
"""
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from threading import Lock

import numpy as np
import pandas as pd
import xarray as xr

from landslide_nb.loopback import Answer, Loopback, Request, as_json, answer_page, serve_catalog
from landslide_nb.radar_items import write_catalog

LOGIN = b'<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in to go on.</body></html>'


# Cubes to fill an archive with

def simulated(size=192, years=0, **options) -> xr.Dataset:
    "demo_a at a small size, with the same place in years before; with this seed its landslides show well"
    from landslide_nb.data.simulate import simulate_archive
    return simulate_archive('demo_a', 7, size, years, **options)

def real_burst(shared:Path, burst='T137-292320-IW2') -> xr.Dataset:
    "Real OPERA crops of one burst in California, 21 passes of 2021 to 2025 by Sentinel-1A and B"
    from landslide_nb.data.cube import open_cube
    folder = shared/'opera_rtc_s1'/burst
    names = sorted((o.name for o in folder.glob('*_VV.tif')), key=lambda name: name.split('_')[4])
    cube = open_cube(folder).load()
    assert cube.sizes['time'] == len(names)
    return cube.assign_coords(track=('time', [137]*len(names)),
                              platform=('time', [name.split('_')[6] for name in names]))

def real_landslide(shared:Path) -> xr.Dataset:
    "The real passes over the Mulitaka landslide of 2024-05-24, track 9"
    from landslide_nb.data.cube import open_cube
    cube = open_cube(shared/'png_2024'/'png_landslide_2024_track9.nc').load()
    time = pd.DatetimeIndex(cube.time.values) + pd.Timedelta('8h47min48s')
    return cube.assign_coords(time=time, track=('time', [9]*len(time)))

def in_frames(cube:xr.Dataset, rows=96, seconds=25) -> list:
    "Each pass as two frames that overlap by 16 rows, the second seconds later"
    later = cube.time + np.timedelta64(seconds, 's')
    return [cube.isel(y=slice(None, rows + 8)), cube.isel(y=slice(rows - 8, None)).assign_coords(time=later)]

def same_days(cube:xr.Dataset) -> xr.Dataset:
    "Ascending and descending passes on the same days, half a day apart"
    ascending = cube.time.values[cube.orbit.values == 'ascending']
    moved = cube.time.values.copy()
    descending = np.flatnonzero(cube.orbit.values == 'descending')
    moved[descending] = ascending[:len(descending)] + np.timedelta64(12, 'h')
    return cube.assign_coords(time=moved)

def other_platform(cube:xr.Dataset, which=slice(1, None, 2), platform='S1C', shift=(0, 0)) -> xr.Dataset:
    "Some passes by another satellite, whose images lie some pixels (rows, columns) aside"
    cube = cube.copy(deep=True)
    platforms = np.full(cube.sizes['time'], 'S1A')
    platforms[which] = platform
    for band in ('vv', 'vh'): cube[band][which] = np.roll(cube[band][which].values, shift, (1, 2))
    return cube.assign_coords(platform=('time', platforms))

def at_place(cube:xr.Dataset, crs:str, corner:tuple) -> xr.Dataset:
    "The same pixels elsewhere on the Earth; corner: x and y of the upper left corner, metres"
    x = corner[0] + 5 + 10.*np.arange(cube.sizes['x'])
    y = corner[1] - 5 - 10.*np.arange(cube.sizes['y'])
    return cube.drop_vars('spatial_ref').assign_coords(x=x, y=y).rio.write_crs(crs)

def zero_borders(cube:xr.Dataset, columns=12) -> xr.Dataset:
    "Both polarisations are zero along the left edge, as products were until 2018"
    return cube.assign({band: cube[band].where(np.arange(cube.sizes['x']) >= columns, 0) for band in ('vv', 'vh')})


# Archives

@contextmanager
def archive_of(cubes:xr.Dataset|list, folder:Path, page=5, **options) -> Iterator[Loopback]:
    "Write cubes as a catalogue and serve it; addresses never come again, for GDAL keeps in mind what it found at each"
    options = dict(files=f'files-{token_hex(4)}', **options)
    write_catalog(cubes if isinstance(cubes, list) else [cubes], folder, **options)
    with serve_catalog(folder, page) as api: yield api

def box_words(cube:xr.Dataset, margin=0.) -> list:
    "The place of a cube in degrees, as words of a command; a margin (degrees) inwards"
    west, south, east, north = cube.rio.transform_bounds('EPSG:4326')
    return [f'{o:.6f}' for o in (west + margin, south + margin, east - margin, north - margin)]

def images_read(api:Loopback) -> dict:
    "How often each radar image was asked for"
    return {path: n for path, n in api.counts('.tiff').items()}

def passes_read(api:Loopback) -> set:
    "Names of the products of which images were asked for"
    return {Path(path).parent.name for path in images_read(api)}


# Faults of answers

def on(part:str, answer:Callable, times:float=np.inf, after:int=0) -> Callable:
    "A fault of the requests whose path holds some text: of so many of them, after so many that are well answered"
    seen, lock = [0], Lock()
    def fault(request:Request) -> Answer|None:
        if part not in request.path: return None
        with lock: seen[0] += 1
        return answer(request) if after < seen[0] <= after + times else None
    return fault

def busy(part='/search', times=2, code=429, wait:str|None='1', after=0) -> Callable:
    "Refused for now: 429 with the seconds to wait, or 500, 502, 503"
    headers = {} if wait is None else {'Retry-After': wait}
    return on(part, lambda request: Answer(code, b'{"code": "busy"}', headers=headers), times, after)

def missing(part='.tiff') -> Callable:
    "404"
    return on(part, lambda request: as_json(dict(code='NotFound'), 404))

def locked(part='/search', code=401) -> Callable:
    "A key is asked for"
    return on(part, lambda request: as_json(dict(message='Access denied due to missing subscription key'), code))

def login_page(part='.tiff') -> Callable:
    "A page to sign in at, with the code of success, in place of what was asked for"
    return on(part, lambda request: Answer(200, LOGIN, 'text/html'))

def broken_json(part='/search') -> Callable:
    "JSON that ends in the middle"
    return on(part, lambda request: Answer(200, b'{"type": "FeatureCollection", "features": [{"id"',
                                           'application/geo+json'))

def slow(part='.tiff', seconds=.05) -> Callable:
    "Answered after a while"
    return on(part, lambda request: clock.sleep(seconds))

def hanging(part='/search', seconds=120) -> Callable:
    "Not answered within any patience"
    return slow(part, seconds)

def breaks_off(api:Loopback, part='.tiff', bytes=500, **which) -> Callable:
    "The connection breaks in the middle of a file"
    def answer(request):
        whole = answer_page(api, request)
        return Answer(whole.code, whole.body, whole.kind, whole.headers, cut=bytes)
    return on(part, answer, **which)

def looping(api:Loopback) -> Callable:
    "Every page names itself as the next one"
    def answer(request):
        import json
        page = json.loads(answer_page(api, request).body)
        again = dict(rel='next', href=f'{api.url}/search', method='POST', merge=True, body=dict(token='0'))
        return as_json({**page, 'links': [again]})
    return on('/search', answer)


# Faults of items and files

def without_projection(api:Loopback) -> None:
    "Items say nothing of their grid"
    for item in api.items:
        for name in [o for o in item['properties'] if o.startswith('proj:')]: del item['properties'][name]

def wrong_transform(api:Loopback, metres=1000.) -> None:
    "Items say that their grid lies elsewhere than the file does"
    for item in api.items:
        transform = item['properties']['proj:transform']
        item['properties']['proj:transform'] = [*transform[:2], transform[2] + metres, *transform[3:]]

def without_nodata(api:Loopback) -> None:
    "Items do not say which value stands for no data"
    for item in api.items:
        for asset in item['assets'].values(): asset.pop('raster:bands', None)

def truncated(folder:Path, part='iw-vh', share=.6, every=1) -> list:
    "Files that end too early, on the disk of the server"
    files = sorted(o for o in Path(folder).rglob('*.tif*') if part in str(o))[::every]
    for file in files: file.write_bytes(file.read_bytes()[:int(file.stat().st_size*share)])
    return files

def strangers(api:Loopback) -> None:
    "Products of other places, years and kinds, in an archive that then ignores what it is asked"
    import json
    for k, item in enumerate(list(api.items)):
        if item['collection'] != 'sentinel-1-rtc': continue
        elsewhere, before, other = (json.loads(json.dumps(item)) for _ in range(3))
        elsewhere['bbox'] = [o + 10*(n % 2 == 0) for n, o in enumerate(item['bbox'])]
        elsewhere['geometry'] = None
        elsewhere['id'] = item['id'].replace('_rtc', '_E1E1_rtc')
        year = str(int(item['properties']['datetime'][:4]) - 3)
        for name in ('datetime', 'start_datetime', 'end_datetime'): before['properties'][name] = year + before['properties'][name][4:]
        before['id'] = item['id'].replace('_2018', f'_{year}')
        other['collection'], other['id'] = 'sentinel-1-grd', item['id'].replace('_rtc', '_grd')
        api.items += [elsewhere, before, other]
    api.items.sort(key=lambda item: item['properties']['datetime'], reverse=True)
    api.unheeded.update({'bbox', 'datetime', 'query', 'collections'})

def untagged(api:Loopback) -> None:
    "Neither items nor files say which value stands for no data"
    import rasterio
    without_nodata(api)
    for path in api.folder.rglob('*.tiff'):
        with rasterio.open(path) as file: profile, values = file.profile, file.read()
        with rasterio.open(path, 'w', **profile | dict(nodata=None)) as file: file.write(values)

def reprocessed(api:Loopback, which:str, factor=2.) -> dict:
    "A second, later processing of one product, whose power is higher; it is listed after the first"
    import json
    import rioxarray
    from landslide_nb.radar_items import write_image
    item = next(item for item in api.items if which in item['id'])
    newer = json.loads(json.dumps(item))
    newer['id'] = item['id'].replace('_rtc', '_9999_rtc')
    for key, asset in newer['assets'].items():
        old = api.folder/asset['href'].removeprefix(f'{api.url}/')
        new = old.with_name(f'newer-{old.name}')
        image = rioxarray.open_rasterio(old, masked=True)[0]
        write_image(image*factor, new, -32768.)
        asset['href'] = asset['href'].replace(old.name, new.name)
    for content, day in ((item, '2018-12-01'), (newer, '2024-12-01')):
        for name in ('created', 'updated', 's1:processing_datetime', 'processing:datetime'):
            content['properties'][name] = f'{day}T00:00:00Z'
    api.items.insert(api.items.index(item) + 1, newer)
    return newer
