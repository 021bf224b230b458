"""Where the seconds of a whole map go, and how many times the network's own pass in float32 they are.

    python -m benchmarks.map --size 2048 --threads 1
    python -m benchmarks.map --size 12000 --columns 8500 --work frame

With `--work` what is made stays in that folder, and the same call continues a map that was cut off (its clock counts what was left).

A simulated scene of 1,024 px, nine passes before and three after, is laid out mirrored to the size that is asked for, block by block while it is
read. `map_cube` maps it in a process of its own with the shipped weights, null pairs and all products. The clock stands around each phase;
the network's own pass in float32 (the same pair into the same tiles, nothing else) follows in another process.
"""
import argparse, json, os, re, subprocess, sys, tempfile, time
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIDE = 1024 # of the simulated scene, px
PHASES = { # phase -> functions, as module.name; none calls another
    'network': ['mapping.predict_scales'],
    'null pairs': ['mapping.settle_place'],
    'rasters': ['runfolder.write_rasters'],
    'polygons': ['layers.landslide_polygons', 'layers.mapped_polygons', 'runfolder.with_words', 'runfolder.write_layers'],
    'cells': ['layers.ranked_cells', 'runfolder.errors_here'],
    'metrics': ['runfolder.scene_metrics', 'runfolder.map_warnings'],
    'picture': ['runfolder.plot_scene', 'runfolder.png_bytes'],
    'sheet and report': ['runfolder.draw_sheet', 'runfolder.report_page'],
    'STAC item and QGIS': ['runfolder.stac_item', 'runfolder.write_styles'],
}

def simulate(path):
    "The scene that is laid out, on disk"
    from landslide_nb.data.simulate import simulate_event
    cube = simulate_event('demo_a', 0, SIDE, passes=(9, 3), orbits='ascending')
    cube.drop_encoding().chunk(time=1, y=512, x=512).to_zarr(path, zarr_format=2)

def mirrored(da, copies):
    "An array of dims (..., y, x), side by side with its mirror images"
    import dask.array
    def row(y):
        "A row of copies; every other one is mirrored"
        return [da[..., ::1 - 2*(y % 2), ::1 - 2*(x % 2)] for x in range(copies)]
    return dask.array.block([row(y) for y in range(copies)])

def laid_out(path, rows, columns=None):
    "The simulated scene at any size, lazy; square without a number of columns"
    import numpy as np, rioxarray, xarray as xr # noqa: F401 (rio)
    small = xr.open_zarr(path)
    columns = columns or rows
    copies = -(-max(rows, columns)//SIDE)
    bands = {name: band for name, band in small.data_vars.items() if name != 'spatial_ref'}
    layers = {name: (band.dims, mirrored(band.data, copies)[..., :rows, :columns]) for name, band in bands.items()}
    axes = dict(y=float(small.y[0]) - np.arange(rows)*10., x=float(small.x[0]) + np.arange(columns)*10.)
    kept = {name: small[name] for name in ('time', 'orbit', 'track', 'platform') if name in small.coords}
    return xr.Dataset(layers, {**axes, **kept}, small.attrs).rio.write_crs(small.rio.crs)

def now():
    "Seconds by the clock, and in CPU time of all threads"
    return time.perf_counter(), time.process_time()

def since(start):
    "Seconds since then, by the clock and in CPU time of all threads"
    return [end - begin for begin, end in zip(start, now())]

def timed(function, phase, seconds):
    "A function whose seconds are counted, and the most memory that the process held meanwhile"
    @wraps(function)
    def counted(*args, **kwargs):
        "Run it between two looks at the clock"
        forget_peak()
        start = now()
        try: return function(*args, **kwargs)
        finally:
            *spent, mb = seconds[phase]
            seconds[phase] = [*(old + new for old, new in zip(spent, since(start))), max(mb, peak_mb())]
    return counted

@contextmanager
def clock_on_phases():
    "Count the seconds of every phase while a map is made"
    seconds = {phase: [0., 0., 0.] for phase in PHASES} # by the clock, CPU, MB
    for phase, names in PHASES.items():
        for name in names:
            module, function = name.split('.')
            owner = import_module(f'landslide_nb.mapping.{module}')
            setattr(owner, function, timed(getattr(owner, function), phase, seconds))
    yield seconds

def peak_mb():
    "The most memory that this process has held; what its parent held before it does not count, as it does in `getrusage`"
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+)', status)[1])/1e3

def forget_peak():
    "Count the most memory anew"
    Path('/proc/self/clear_refs').write_text('5')

def whole(cube, folder, options):
    "Map the scene into a run folder"
    from landslide_nb.mapping.mapping import map_cube
    before = peak_mb()
    with clock_on_phases() as seconds:
        start = now()
        metrics = map_cube(cube, 'base', folder/'run', progress=False, **options)
        took = since(start)
    return dict(phases=seconds, whole=took, polygons=metrics['polygons'], mb_before=before)

def network(cube, folder, options):
    "The network's own pass into tiles"
    from landslide_nb.learn.models import load_model
    from landslide_nb.mapping.mapping import located_cube, scene_pair
    from landslide_nb.mapping.scene import predict_tiles
    net, meta = load_model('base')
    pair = scene_pair(located_cube(cube), meta['input']['channels'])
    start = now()
    predict_tiles(pair, net, meta, folder/'tiles', progress=False, **options)
    return dict(whole=since(start), mb=peak_mb())

def child(what, source, size, options, work):
    "Do one of both in a process of its own"
    rows, columns = size
    words = [sys.executable, '-W', 'ignore', '-m', 'benchmarks.map', '--child', what, str(source),
             '--size', str(rows), '--columns', str(columns), '--options', json.dumps(options), '--work', str(work)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])

def run_child(what, source, size, options, work):
    "What the process does"
    from landslide_nb.memory import one_arena
    one_arena() # as the command does
    import torch
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', os.cpu_count())))
    measure = dict(whole=whole, network=network)[what]
    print(json.dumps(measure(laid_out(source, *size), work, options)))

def phase_rows(phases, clock, cpu):
    "A row a phase, and one of the rest"
    rows = [f'| {name} | {s:.1f} | {c:.1f} | {c/cpu:.0%} | {mb:,.0f} |' for name, (s, c, mb) in phases.items()]
    seconds, cpu_seconds, _ = zip(*phases.values())
    rest, cpu_rest = clock - sum(seconds), cpu - sum(cpu_seconds)
    return [*rows, f'| everything else | {rest:.1f} | {cpu_rest:.1f} | {cpu_rest/cpu:.0%} | |']

def phases_page(size, found):
    "The table of the whole map"
    rows, columns = size
    clock, cpu = found['whole']
    peak = max(mb for *_, mb in found['phases'].values())
    return '\n'.join([
        f"{rows:,} x {columns:,} px, {found['polygons']:,} polygons, load {os.getloadavg()[0]:.1f}: "
        f"{rows*columns/1e6/clock:.2f} Mpx/s. "
        f"Memory: {peak:,.0f} MB at the peak, {found['mb_before']:,.0f} MB before the map.",
        '',
        '| phase | s | CPU s | share of it | MB at the peak |',
        '|---|---:|---:|---:|---:|',
        *phase_rows(found['phases'], clock, cpu),
        f'| **whole map** | {clock:.1f} | {cpu:.1f} | | {peak:,.0f} |'])

def network_page(found, alone):
    "The network alone, and the ratio"
    clock, cpu = found['whole']
    own_clock, own_cpu = alone['whole']
    return '\n'.join([
        f'| the network alone, float32 | {own_clock:.1f} | {own_cpu:.1f} | | |',
        '',
        f'The whole map takes {clock/own_clock:.2f} times as long as the network alone in float32, {cpu/own_cpu:.2f} times in CPU time.'])

def arguments():
    "The words of the command"
    p = argparse.ArgumentParser(
        'python -m benchmarks.map', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--size', type=int, default=2048, help='side of the scene, px (default 2048)')
    p.add_argument('--columns', type=int, help='width of the scene, px (default: as --size)')
    p.add_argument('--threads', type=int, default=os.cpu_count(), help='threads of the network and of GDAL (default: all cores)')
    p.add_argument('--options', type=json.loads, default={}, help='JSON options of the whole map, such as {"tile": 1024}')
    p.add_argument('--alone', type=json.loads, default={}, help="JSON options of the network's own pass")
    p.add_argument('--scene', type=Path, help='where the simulated scene is kept; default: made anew')
    p.add_argument('--work', type=Path, help='where the map grows, and stays; default: a folder that is removed')
    p.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    return p.parse_args()

def main():
    "Map the scene in processes of their own, and print where the seconds went"
    args = arguments()
    size = args.size, args.columns or args.size
    if args.child: return run_child(*args.child, size, args.options, args.work)
    os.environ |= dict(OMP_NUM_THREADS=str(args.threads), GDAL_NUM_THREADS=str(args.threads))
    with tempfile.TemporaryDirectory() as d:
        source, work = args.scene or Path(d)/'scene.zarr', (args.work or Path(d)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if not source.exists(): simulate(source)
        found = child('whole', source, size, args.options, work)
        print(phases_page(size, found), flush=True) # of a large scene the rest takes as long again
        print(network_page(found, child('network', source, size, args.alone, work)))

if __name__ == '__main__': main()
