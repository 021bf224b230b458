"""A cube built from an archive on this machine, against a plain parallel read of the same files.

The archive is a STAC API over HTTP in a process of its own (`landslide_nb.loopback`); each contender runs in a fresh process,
in turn. `python -m benchmarks archive` runs the duel.
"""
import argparse, json, os, re, subprocess, sys, tempfile, time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.duels import duel

PASSES = 5 # on each side of the event
THREADS = 4 # as the builder has by default
EVENT = '2018-09-05', '2018-09-07'
GDAL = dict(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR', GDAL_HTTP_MULTIRANGE='YES', VSI_CACHE='FALSE', NUM_THREADS='1')

def made_up(n):
    "A cube of speckle, n x n px of 10 m, five passes of one track on each side of the event"
    import rioxarray # noqa: F401
    import xarray as xr
    rng, twelve = np.random.default_rng(0), np.timedelta64(12, 'D')
    last, first = (np.datetime64(f'{day}T20:42:00', 'ns') for day in EVENT)
    times = [last - k*twelve for k in range(PASSES)][::-1] + [first + k*twelve for k in range(PASSES)]
    def band(mean): return ('time', 'y', 'x'), (mean*rng.standard_gamma(9, (2*PASSES, n, n), dtype='float32')/9)
    coords = dict(time=times, orbit=('time', ['descending']*2*PASSES), y=4.7e6 - 5 - 10*np.arange(n), x=4e5 + 5 + 10*np.arange(n))
    return xr.Dataset(dict(vv=band(.1), vh=band(.025)), coords).rio.write_crs('EPSG:32654')

def serve(folder):
    "Serve a catalogue until the standard input closes; prints the address"
    from landslide_nb.loopback import serve_catalog
    with serve_catalog(folder, page=100) as api:
        print(api.url, flush=True)
        sys.stdin.read()

@contextmanager
def served(folder):
    "The address of a catalogue that another process serves"
    words = [sys.executable, '-W', 'ignore', '-m', 'benchmarks.archive', 'serve', str(folder)]
    with subprocess.Popen(words, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try: yield process.stdout.readline().strip()
        finally: process.stdin.close()

def found(url):
    "Addresses of the radar images"
    from pystac_client import Client
    items = Client.open(url).search(collections=['sentinel-1-rtc']).items()
    return sorted(item.assets[band].href for item in items for band in ('vv', 'vh'))

def plain(url, box, out):
    "Every block of every file, read by rasterio in threads, a window of 512 px at a time; nothing is kept"
    from concurrent.futures import ThreadPoolExecutor
    import rasterio
    from rasterio.windows import Window
    def read(href):
        with rasterio.Env(**GDAL), rasterio.open(href) as file:
            corners = [(r, c) for r in range(0, file.height, 512) for c in range(0, file.width, 512)]
            return sum(int(np.isfinite(file.read(1, window=Window(c, r, 512, 512), boundless=False)).sum()) for r, c in corners)
    with ThreadPoolExecutor(THREADS) as pool: return sum(pool.map(read, found(url)))

def build(url, box, out):
    "The cube, written"
    from landslide_nb.archive.build import build_cube
    from landslide_nb.data.cube import open_cube
    build_cube(box, *EVENT, out, source=url, passes=PASSES, archive='none', dem='none', workers=THREADS)
    cube = open_cube(out)
    return int(cube.vv.size + cube.vh.size)

CONTENDERS = dict(build=build, plain=plain)

def once(name, url, box, out):
    "Time and memory of one contender, in this process, after a first time in which everything is imported; prints JSON"
    CONTENDERS[name](url, box, f'{out}-first.zarr')
    Path('/proc/self/clear_refs').write_text('5') # the peak so far is forgotten
    def peak_mb(): return int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1e3 # of this program alone
    before, start, cpu = peak_mb(), time.perf_counter(), time.process_time()
    pixels = CONTENDERS[name](url, box, f'{out}.zarr')
    print('RESULT', json.dumps(dict(pixels=pixels, s=time.perf_counter() - start, cpu=time.process_time() - cpu, mb=peak_mb() - before)))

def one(name, url, box, folder):
    "Time and memory of one contender, in a process of its own"
    with tempfile.TemporaryDirectory(dir=folder) as d:
        words = [sys.executable, '-W', 'ignore', '-m', 'benchmarks.archive', 'once', name, url, ','.join(map(str, box)), f'{d}/cube']
        out = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, env={**os.environ, 'NO_PROXY': '127.0.0.1'})
    lines = [line for line in out.stdout.splitlines() if line.startswith('RESULT ')]
    if not lines: raise RuntimeError(out.stderr[-800:])
    return json.loads(lines[0][7:])

@duel
def archive(scale):
    "A cube of ten passes built from an archive on this machine (search, read, check, write), against a plain parallel read of the same files, which keeps nothing (goal: 80 % of its rate, memory that does not grow with the cube)."
    from landslide_nb.radar_items import write_catalog
    n = max(256, int(2048*scale**.5))
    rows, every = [], {}
    with tempfile.TemporaryDirectory() as d:
        cube = made_up(n)
        write_catalog([cube], f'{d}/catalog')
        size = sum(o.stat().st_size for o in Path(d).rglob('*.tiff'))/1e6
        west, south, east, north = cube.rio.transform_bounds('EPSG:4326')
        box = west + 1e-4, south + 1e-4, east - 1e-4, north - 1e-4
        del cube
        with served(f'{d}/catalog') as url:
            for k in range(4 if scale > .5 else 2):
                for name in CONTENDERS:
                    result = one(name, url, box, d)
                    if k: every.setdefault(name, []).append(result) # the first round fills the disk's cache
    shares = sorted(b['s']/a['s'] for a, b in zip(every['build'], every['plain']))
    for name, title in (('build', 'build_cube, written as Zarr'), ('plain', f'rasterio, windows of 512 px in {THREADS} threads')):
        seconds = median(o['s'] for o in every[name])
        row = {'': title, 's': seconds, 'MB/s of files': size/seconds, 'CPU s': median(o['cpu'] for o in every[name]), 'MB more at the peak': median(o['mb'] for o in every[name])}
        if name == 'build': row |= {'share of the plain rate': median(shares), 'range': f'{shares[0]:.2f} - {shares[-1]:.2f}', 'in CPU time': median(b['cpu']/a['cpu'] for a, b in zip(every['build'], every['plain']))}
        rows.append(row)
    return f'{2*PASSES} passes of {n} x {n} px, vv and vh, {size:.0f} MB of COGs', rows

def main():
    p = argparse.ArgumentParser('python -m benchmarks.archive', description=__doc__)
    p.add_argument('what', choices=('serve', 'once'))
    p.add_argument('words', nargs='*')
    args = p.parse_args()
    if args.what == 'serve': return serve(args.words[0])
    name, url, box, out = args.words
    once(name, url, tuple(float(o) for o in box.split(',')), out)

if __name__ == '__main__': main()
