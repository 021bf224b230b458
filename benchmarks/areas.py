"""Areas by design: which draw, which estimate and which interval, over many draws on maps whose truth is known.

`python -m benchmarks.areas --folder FOLDER` maps simulated random regions and the two embedded events with the shipped weights (kept in the folder), and prints the tables."""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

EVENTS = 'demo_a', 'demo_b'
FIRST = 300_000 # seed of the first region, far from those that the weights were trained and calibrated on

def mapped(name, folder):
    "Expected and true landslide area of each chip, m2"
    path = folder/f'{name}.npz'
    if path.exists(): return tuple(np.load(path)[k] for k in ('expected', 'truth'))
    from landslide_nb.data.events import event_cube
    from landslide_nb.data.pair import make_pair
    from landslide_nb.labelling.suggest import expected_areas, pixel_areas, sums_over_chips
    from landslide_nb.learn.models import load_model
    from landslide_nb.mapping.scene import predict_scene
    from landslide_nb.weights.base import random_pair
    if name in EVENTS: pair, metres = make_pair(event_cube(name, 2048), name, passes=3), 10
    else: pair = random_pair(int(name), 1536 if int(name) % 2 else 2048); metres = pair.attrs['pixel']
    net, meta = load_model('base')
    prob = predict_scene(pair, net, meta, progress=False)
    scale = (metres/abs(pair.rio.transform().a))**2
    found = prob.copy(data=(pair.landslides.values == 1).astype('float32'))*pixel_areas(prob)
    expected, truth = scale*expected_areas(prob), scale*sums_over_chips(found)
    np.savez(path, expected=expected, truth=truth)
    return expected, truth

def plain_design(expected, n, groups=5):
    "The textbook: fifths of the chips, sorted by the map, the same number from each"
    from landslide_nb.labelling.sample import Design
    return Design(np.argsort(np.argsort(expected))*groups//len(expected), np.full(groups, n//groups))

def estimates(sample, total):
    "estimate -> (area, what each chip adds to its error)"
    w = sample.weight
    difference = sample.found - sample.expected
    ratio = sample.residuals*total/(w*sample.expected).sum()
    return dict(expansion=((w*sample.found).sum(), sample.found), difference=(total + (w*difference).sum(), difference),
                ratio=(sample.ratio*total, ratio))

def intervals(area, error, degrees):
    step = student.ppf(.95, degrees)*error
    return dict(t=(area - step, area + step), log=(area*np.exp(-step/max(area, 1e-9)), area*np.exp(step/max(area, 1e-9))))

def draws(name, expected, truth, n, many):
    "A row for each draw, design, estimate, variance and interval"
    from landslide_nb.labelling.sample import design_sample, draw, freedom, over_strata, sample_of, within_strata
    designs = dict(plain=plain_design(expected, n), ours=design_sample(expected, n))
    rows, whole = [], truth.sum()
    for design_name, design in designs.items():
        for seed in range(many):
            sample = sample_of(design, draw(design, seed), expected, truth)
            for estimate, (area, values) in estimates(sample, expected.sum()).items():
                within, over = within_strata(values, sample), over_strata(values, sample)
                for variance, v in dict(within=within, over=over, mean=(within + over)/2).items():
                    for interval, (low, high) in intervals(area, v**.5, freedom(sample)).items():
                        low, high = max(low, sample.found.sum()), max(high, sample.found.sum())
                        rows.append((name, n, design_name, estimate, variance, interval, low <= whole <= high, (high - low)/whole, area/whole - 1))
    return pd.DataFrame(rows, columns=['scene', 'n', 'design', 'estimate', 'variance', 'interval', 'held', 'width', 'error'])

def main():
    p = argparse.ArgumentParser('python -m benchmarks.areas', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--regions', type=int, default=24)
    p.add_argument('--draws', type=int, default=500)
    p.add_argument('--chips', type=int, default=30)
    args = p.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    names, seed = list(EVENTS), FIRST
    while len(names) < args.regions + 2 and seed < FIRST + 10*args.regions:
        from landslide_nb.weights.base import random_region
        if random_region(seed).contrast and (mapped(str(seed), args.folder)[1] > 0).sum() >= 10: names.append(str(seed))
        seed += 1
    each = pd.concat([draws(name, *mapped(name, args.folder), args.chips, args.draws) for name in names])
    by = ['design', 'estimate', 'variance', 'interval']
    scenes = each.groupby([*by, 'scene'], sort=False).agg(held=('held', 'mean'), width=('width', 'mean'), error=('error', lambda e: (e**2).mean()**.5))
    regions = scenes[~scenes.index.get_level_values('scene').isin(EVENTS)].groupby(level=by, sort=False)
    table = pd.DataFrame(dict(held=regions.held.mean(), least=regions.held.min(), width=regions.width.median(), error=regions.error.median()))
    for event in EVENTS:
        one = scenes.xs(event, level='scene')
        table[f'{event} held'] = one.held
        table[f'{event} width'] = one.width/one.width['plain', 'expansion', 'within', 't']
    print(f'{args.chips} chips, {args.draws} draws, {len(names) - 2} regions; width: of the interval over the truth; of events: over that of plain sampling\n')
    table = table.round(3).reset_index()
    lines = [list(table.columns), ['---']*table.shape[1], *table.astype(str).values.tolist()]
    for line in lines: print('| ' + ' | '.join(line) + ' |')

if __name__ == '__main__': main()
