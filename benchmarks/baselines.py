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

from benchmarks.first_map import mulitaka_cube, with_passes_after
from landslide_nb.data.baselines import BASELINES, SIZES, baseline_score, baseline_title
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
    pair, truth = with_ratio_std(make_pair(cube, event, passes=passes), cube), cube.landslides.values
    scores = {baseline_title(one, size): baseline_score(one, pair, size).values for one in BASELINES for size in SIZES}
    return {title: ranked(score, truth) for title, score in scores.items()}

def events():
    "A row an embedded event and number of passes before it"
    rows = {}
    for name in ('demo_a', 'demo_b'):
        for before in (4, 10): rows[name, f'{before} passes before'] = baseline_row(event_cube(name, passes=before))
    return pd.DataFrame(rows).T

def landslide(data):
    "A row a number of passes after the real landslide"
    cube, rows = mulitaka_cube(data).load(), {}
    for name, n in (('first pass after', 1), ('three passes after', 3), ('all passes after', 99)):
        some = with_passes_after(cube, n)
        for passes in (3, None): rows[name, f'{passes or "all"} a side'] = baseline_row(some, passes, 'mulitaka')
    return pd.DataFrame(rows).T

def both_ranked(name, smoothed, score, truth):
    "Average precision of a score, and of its mean over 5 x 5 pixels"
    return {name: ranked(score, truth), smoothed: ranked(box_mean(score, 5), truth)}

def floor_row(cube):
    "Average precision with each floor on one region, and how much its pixels usually vary"
    pair, truth = with_ratio_std(make_pair(cube), cube), cube.landslides.values
    change, deviation = log_ratio(pair).score.values, pair.ratio_std.values
    row = dict(usual=float(np.nanmedian(deviation)))
    row |= both_ranked('log-ratio', 'log-ratio 5 x 5', change, truth)
    for least in FLOORS: row |= both_ranked(f'{least} dB', f'{least} dB, 5 x 5', change/(deviation + least), truth)
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

def table_of(args):
    "The table that is asked for"
    if args.what == 'events': return events()
    if args.what == 'landslide': return landslide(args.data)
    return floor(args.regions)

def main():
    "Print the table that is asked for"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['events', 'landslide', 'floor'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--regions', type=int, default=80, help='random regions drawn; those without a landslide are left out')
    print(table_of(p.parse_args()).round(4).to_string())

if __name__ == '__main__': main()
