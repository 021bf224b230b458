"""The predictors that learn nothing, on simulated and real ground: average precision of the log-ratio and of the standardized change.

    python -m benchmarks.baselines events
    python -m benchmarks.baselines landslide --data FOLDER
    python -m benchmarks.baselines floor [--regions 80]

`events`: the two embedded events, four and ten passes before. `landslide`: the real one (png_2024 in FOLDER), a check: nothing was chosen
on it. `floor`: what is added to every deviation (`LEAST_DB`), and what stands for one that is not known (`USUAL_DB`), on random regions.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from landslide_nb.core import EVENTS
from landslide_nb.data.baselines import BASELINES, SIZES, baseline_score, baseline_title
from landslide_nb.data.cube import open_cube
from landslide_nb.data.events import event_cube
from landslide_nb.data.pair import box_mean, log_ratio, make_pair, with_ratio_std
from landslide_nb.learn.metrics import average_precision
from landslide_nb.weights.base import random_cube, random_region

FLOORS = (.25, .5, 1., 1.5, 2., 3., 5.) # dB
FIRST = 9_300_000 # seed of the first random region; none of them is trained on

def ranked(score, truth):
    "Average precision of a score"
    return average_precision(score, truth, scores=True)

def baseline_row(cube, passes=3, event=None):
    "Average precision of every baseline on a cube with truth"
    pair = with_ratio_std(make_pair(cube, event, passes=passes), cube)
    return {baseline_title(one, size): ranked(baseline_score(one, pair, size).values, cube.landslides.values) for one in BASELINES for size in SIZES}

def events():
    "A row an embedded event and number of passes before it"
    rows = {}
    for name in ('demo_a', 'demo_b'):
        for before in (4, 10): rows[name, f'{before} passes before'] = baseline_row(event_cube(name, passes=before))
    return pd.DataFrame(rows).T

def landslide(data):
    "A row a number of passes after the real landslide"
    cube, rows = open_cube(data/'png_2024'/'png_landslide_2024_track9.nc').load(), {}
    after = EVENTS['mulitaka'].is_post(cube.time.values)
    for name, n in (('first pass after', 1), ('three passes after', 3), ('all passes after', 99)):
        some = cube.isel(time=np.flatnonzero(~after | (np.cumsum(after) <= n)))
        for passes in (3, None): rows[name, f'{passes or "all"} a side'] = baseline_row(some, passes, 'mulitaka')
    return pd.DataFrame(rows).T

def floor_row(cube):
    "Average precision with each floor on one region, and how much its pixels usually vary"
    pair, truth = with_ratio_std(make_pair(cube), cube), cube.landslides.values
    change, deviation = log_ratio(pair).score.values, pair.ratio_std.values
    row = dict(usual=float(np.nanmedian(deviation)), **{'log-ratio': ranked(change, truth), 'log-ratio 5 x 5': ranked(box_mean(change, 5), truth)})
    for least in FLOORS:
        score = change/(deviation + least)
        row |= {f'{least} dB': ranked(score, truth), f'{least} dB, 5 x 5': ranked(box_mean(score, 5), truth)}
    return row

def floor(regions):
    "Means over random regions, by the passes before the event; the median deviation is that of the regions' medians"
    rows = []
    for seed in tqdm(range(FIRST, FIRST + regions), unit='region'):
        if not random_region(seed).contrast: continue
        for before in (4, 10):
            cube = random_cube(seed, 256, before)
            if (cube.landslides == 1).any(): rows.append(dict(before=before, **floor_row(cube)))
    table = pd.DataFrame(rows).groupby('before')
    return table.mean().assign(usual=table.usual.median(), regions=table.size()).T

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['events', 'landslide', 'floor'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--regions', type=int, default=80, help='random regions drawn; those without a landslide are left out')
    args = p.parse_args()
    table = dict(events=events, landslide=lambda: landslide(args.data), floor=lambda: floor(args.regions))[args.what]()
    print(table.round(4).to_string())

if __name__ == '__main__': main()
