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
ROOT = Path(__file__).parents[1]
PROCESS = [sys.executable, '-W', 'ignore', '-m', 'benchmarks.archive'] # this module in a process of its own

def made_up(n):
    "A cube of speckle, n x n px of 10 m, five passes of one track on each side of the event"
    import rioxarray # noqa: F401
    import xarray as xr
    rng, repeat = np.random.default_rng(0), np.timedelta64(12, 'D')
    last, first = (np.datetime64(f'{day}T20:42:00', 'ns') for day in EVENT)
    before, after = [last - k*repeat for k in range(PASSES)][::-1], [first + k*repeat for k in range(PASSES)]
    def band(mean): return ('time', 'y', 'x'), (mean*rng.standard_gamma(9, (2*PASSES, n, n), dtype='float32')/9)
    coords = dict(time=before + after, orbit=('time', ['descending']*2*PASSES),
                  y=4.7e6 - 5 - 10*np.arange(n), x=4e5 + 5 + 10*np.arange(n))
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
    words, pipes = [*PROCESS, 'serve', str(folder)], dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen(words, cwd=ROOT, text=True, **pipes) as process:
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
    def known(file, row, column):
        "How many pixels of a window are known"
        window = Window(column, row, 512, 512)
        return int(np.isfinite(file.read(1, window=window, boundless=False)).sum())
    def read(href):
        "How many pixels of a file are known"
        with rasterio.Env(**GDAL), rasterio.open(href) as file:
            corners = [(r, c) for r in range(0, file.height, 512) for c in range(0, file.width, 512)]
            return sum(known(file, r, c) for r, c in corners)
    with ThreadPoolExecutor(THREADS) as pool: return sum(pool.map(read, found(url)))

def build(url, box, out):
    "The cube, written"
    from landslide_nb.archive.build import build_cube
    from landslide_nb.data.cube import open_cube
    build_cube(box, *EVENT, out, source=url, passes=PASSES, archive='none', dem='none', workers=THREADS)
    cube = open_cube(out)
    return int(cube.vv.size + cube.vh.size)

CONTENDERS = dict(build=build, plain=plain)

def peak_mb():
    "The most memory that this program alone had since the peak was last forgotten, MB"
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+)', status)[1])/1e3

def once(name, url, box, out):
    "Time and memory of one contender, in this process, after a first time in which everything is imported; prints JSON"
    CONTENDERS[name](url, box, f'{out}-first.zarr')
    Path('/proc/self/clear_refs').write_text('5') # the peak so far is forgotten
    before = peak_mb()
    start, cpu = time.perf_counter(), time.process_time()
    pixels = CONTENDERS[name](url, box, f'{out}.zarr')
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    print('RESULT', json.dumps(dict(pixels=pixels, s=took, cpu=cpu, mb=peak_mb() - before)))

def one(name, url, box, folder):
    "Time and memory of one contender, in a process of its own"
    with tempfile.TemporaryDirectory(dir=folder) as d:
        words = [*PROCESS, 'once', name, url, ','.join(map(str, box)), f'{d}/cube']
        local = {**os.environ, 'NO_PROXY': '127.0.0.1'}
        out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=local)
    lines = [line for line in out.stdout.splitlines() if line.startswith('RESULT ')]
    if not lines: raise RuntimeError(out.stderr[-800:])
    return json.loads(lines[0][7:])

def write_archive(n, folder):
    "An archive of a cube of n x n px in a folder: the box to ask for, and how many MB its files have"
    from landslide_nb.radar_items import write_catalog
    cube = made_up(n)
    write_catalog([cube], f'{folder}/catalog')
    size = sum(file.stat().st_size for file in Path(folder).rglob('*.tiff'))/1e6
    west, south, east, north = cube.rio.transform_bounds('EPSG:4326')
    return (west + 1e-4, south + 1e-4, east - 1e-4, north - 1e-4), size

def in_turn(times, url, box, folder):
    "{name: [result of `once`]}: the contenders in turn, after a round that fills the disk's cache"
    every = {name: [] for name in CONTENDERS}
    for k in range(times + 1):
        for name in CONTENDERS:
            result = one(name, url, box, folder)
            if k: every[name].append(result)
    return every

def row(title, results, size):
    "A row of the duel; size: of the files, MB"
    seconds, cpu, mb = (median(result[what] for result in results) for what in ('s', 'cpu', 'mb'))
    return {'': title, 's': seconds, 'MB/s of files': size/seconds, 'CPU s': cpu, 'MB more at the peak': mb}

def shares(every, what):
    "How much of the plain read's rate the builder reaches, round by round; what: s or cpu"
    return [plain[what]/build[what] for build, plain in zip(every['build'], every['plain'])]

@duel
def archive(scale):
    "A cube of ten passes built from an archive on this machine (search, read, check, write), against a plain parallel read of the same files, which keeps nothing (goal: 80 % of its rate, memory that does not grow with the cube)."
    n, times = max(256, int(2048*scale**.5)), 3 if scale > .5 else 1
    with tempfile.TemporaryDirectory() as d:
        box, size = write_archive(n, d)
        with served(f'{d}/catalog') as url: every = in_turn(times, url, box, d)
    ours = row('build_cube, written as Zarr', every['build'], size)
    plainly = row(f'rasterio, windows of 512 px in {THREADS} threads', every['plain'], size)
    clock = sorted(shares(every, 's'))
    ours |= {'share of the plain rate': median(clock), 'range': f'{clock[0]:.2f} - {clock[-1]:.2f}',
             'in CPU time': median(shares(every, 'cpu'))}
    return f'{2*PASSES} passes of {n} x {n} px, vv and vh, {size:.0f} MB of COGs', [ours, plainly]

def main():
    "The command line, for the processes of the duel"
    p = argparse.ArgumentParser('python -m benchmarks.archive', description=__doc__)
    p.add_argument('what', choices=('serve', 'once'))
    p.add_argument('words', nargs='*')
    args = p.parse_args()
    if args.what == 'serve': return serve(args.words[0])
    name, url, box, out = args.words
    once(name, url, tuple(float(o) for o in box.split(',')), out)

if __name__ == '__main__': main()
