"""Where opening and pairing spend their processor time, beside a bare read of the same file and plain xarray.

    python -m benchmarks.opening --size 4096

Each row is the least of three rounds: seconds by the clock, in the program and in the system (page faults), and page faults. The bare read takes
the blocks of the file one after the other and keeps none: whoever reads the whole cube cannot do with less.
"""
import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.duels import cube_on_disk

WINDOW, PASSES = 1024, range(6)

def used(work):
    "Seconds by the clock, in the program and in the system, and page faults of a piece of work"
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after, took = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begun
    return took, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt

def windows(size):
    "Rows and columns of each window"
    starts = range(0, size, WINDOW)
    return [dict(y=slice(y, y + WINDOW), x=slice(x, x + WINDOW)) for y in starts for x in starts]

def load_and_average(source):
    "A pair the straightforward xarray way, dB"
    loaded = xr.open_zarr(source).load()
    before, after = (loaded.isel(time=side).mean('time') for side in (slice(3), slice(3, 6)))
    return 10*np.log10(xr.concat([before, after], 'moment'))

def bare_read(raw, size):
    "Every block of a file, one after the other; only how many rows each has is kept"
    def rows(band, k, window): return len(raw[band].isel(time=k, **window).values)
    return [rows(band, k, window) for band in ('vv', 'vh') for k in PASSES for window in windows(size)]

def steps(source, size):
    "What is measured: name -> function"
    from landslide_nb.data.cube import open_cube, validate_cube
    from landslide_nb.data.pair import make_pair, scene_change
    from landslide_nb.data.passes import usable_passes
    cube, raw = open_cube(source), xr.open_zarr(source)
    pair = make_pair(cube)
    def balance(): return [scene_change(cube[band], [0, 1, 2], [3, 4, 5]) for band in ('vv', 'vh')]
    def in_windows(): return [pair[['vv', 'vh']].isel(window).to_array().values for window in windows(size)]
    return {'open': lambda: open_cube(source), 'check the cube': lambda: validate_cube(cube),
            'find usable passes': lambda: usable_passes(cube), 'balance': balance,
            'the pair, window by window': in_windows, 'bare read, nothing kept': lambda: bare_read(raw, size),
            'plain xarray: load': lambda: xr.open_zarr(source).load(),
            'plain xarray: load, average, dB': lambda: load_and_average(source)}

def least(work, times=3):
    "What a piece of work used in the round with the least processor time"
    def processor(measured): return measured[1] + measured[2]
    return min((used(work) for _ in range(times)), key=processor)

def main():
    "The command line"
    about = dict(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p = argparse.ArgumentParser('python -m benchmarks.opening', **about)
    p.add_argument('--size', type=int, default=4096, help='side of the scene, pixels (default 4096)')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as d:
        source = cube_on_disk(Path(d), args.size)
        print('| step | s | program, CPU s | system, CPU s | page faults |', '|---|---:|---:|---:|---:|', sep='\n')
        for name, work in steps(source, args.size).items():
            took, program, system, faults = least(work)
            print(f'| {name} | {took:.2f} | {program:.2f} | {system:.2f} | {faults:,} |', flush=True)

if __name__ == '__main__': main()
