"""Areas by design: which draw, which estimate and which interval, over many draws on maps whose truth is known.

`python -m benchmarks.areas --folder FOLDER` maps simulated random regions and the two embedded events with the shipped weights (kept in the folder), and prints the tables."""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

EVENTS = 'demo_a', 'demo_b'
FIRST = 300_000 # seed of the first region, far from those that the weights were trained and calibrated on
RULE = ['design', 'estimate', 'variance', 'interval'] # what is compared

def pair_of(name):
    "The pair of an event or of a region (its seed), and the side of its pixels, m"
    from landslide_nb.data.events import event_cube
    from landslide_nb.data.pair import make_pair
    from landslide_nb.weights.base import random_pair
    if name in EVENTS: return make_pair(event_cube(name, 2048), name, passes=3), 10
    pair = random_pair(int(name), 1536 if int(name) % 2 else 2048)
    return pair, pair.attrs['pixel']

def areas_of(pair, metres):
    "Expected and true landslide area of each chip of a pair, m2"
    from landslide_nb.labelling.suggest import expected_areas, pixel_areas, sums_over_chips
    from landslide_nb.learn.models import load_model
    from landslide_nb.mapping.scene import predict_scene
    net, meta = load_model('base')
    prob = predict_scene(pair, net, meta, progress=False)
    scale = (metres/abs(pair.rio.transform().a))**2
    slid = prob.copy(data=(pair.landslides.values == 1).astype('float32'))
    return scale*expected_areas(prob), scale*sums_over_chips(slid*pixel_areas(prob))

def mapped(name, folder):
    "Expected and true landslide area of each chip of an event or region, m2; kept in a folder"
    path = folder/f'{name}.npz'
    if path.exists():
        with np.load(path) as kept: return kept['expected'], kept['truth']
    expected, truth = areas_of(*pair_of(name))
    np.savez(path, expected=expected, truth=truth)
    return expected, truth

def plain_design(expected, n, groups=5):
    "The textbook: fifths of the chips, sorted by the map, the same number from each"
    from landslide_nb.labelling.sample import Design
    ranks = np.argsort(np.argsort(expected))
    return Design(ranks*groups//len(expected), np.full(groups, n//groups))

def estimates(sample, total):
    "estimate -> (area, what each chip adds to its error)"
    w = sample.weight
    difference = sample.found - sample.expected
    ratio = sample.residuals*total/(w*sample.expected).sum()
    return dict(
        expansion=((w*sample.found).sum(), sample.found),
        difference=(total + (w*difference).sum(), difference),
        ratio=(sample.ratio*total, ratio),
    )

def variances(values, sample):
    "variance -> of an estimate, from what each chip adds to its error"
    from landslide_nb.labelling.sample import over_strata, within_strata
    within, over = within_strata(values, sample), over_strata(values, sample)
    return dict(within=within, over=over, mean=(within + over)/2)

def intervals(area, error, degrees):
    "interval -> its ends: symmetrical, and symmetrical in the logarithm"
    step = student.ppf(.95, degrees)*error
    relative = step/max(area, 1e-9)
    return dict(t=(area - step, area + step), log=(area*np.exp(-relative), area*np.exp(relative)))

def rows_of_sample(sample, total, whole):
    "(estimate, variance, interval, held, width, error) of one draw; `total`: expected area, `whole`: the true one"
    from landslide_nb.labelling.sample import freedom
    least = sample.found.sum()
    for estimate, (area, values) in estimates(sample, total).items():
        for variance, v in variances(values, sample).items():
            for interval, ends in intervals(area, v**.5, freedom(sample)).items():
                low, high = (max(end, least) for end in ends)
                yield estimate, variance, interval, low <= whole <= high, (high - low)/whole, area/whole - 1

def draws(name, expected, truth, n, many):
    "A row for each draw, design, estimate, variance and interval"
    from landslide_nb.labelling.sample import design_sample, draw, sample_of
    designs = dict(plain=plain_design(expected, n), ours=design_sample(expected, n))
    rows, total = [], expected.sum()
    for design_name, design in designs.items():
        for seed in range(many):
            sample = sample_of(design, draw(design, seed), expected, truth)
            found = rows_of_sample(sample, total, truth.sum())
            rows += [(name, n, design_name, *row) for row in found]
    return pd.DataFrame(rows, columns=['scene', 'n', *RULE, 'held', 'width', 'error'])

def is_mapped(seed, folder):
    "Whether a region can be drawn from: landslides that can be seen, in ten chips or more"
    from landslide_nb.weights.base import random_region
    if not random_region(seed).contrast: return False
    _, truth = mapped(str(seed), folder)
    return (truth > 0).sum() >= 10

def scene_names(folder, regions):
    "The events, and the first regions that can be drawn from"
    names, seed = list(EVENTS), FIRST
    while len(names) < regions + 2 and seed < FIRST + 10*regions:
        if is_mapped(seed, folder): names.append(str(seed))
        seed += 1
    return names

def root_mean_square(errors):
    "How large errors are"
    return (errors**2).mean()**.5

def by_scene(each):
    "How often the intervals of a scene hold, how wide they are, and the error"
    groups = each.groupby([*RULE, 'scene'], sort=False)
    return groups.agg(held=('held', 'mean'), width=('width', 'mean'), error=('error', root_mean_square))

def compared(scenes):
    "A row a rule: over regions, and in each event"
    is_event = scenes.index.get_level_values('scene').isin(EVENTS)
    regions = scenes[~is_event].groupby(level=RULE, sort=False)
    held = dict(held=regions.held.mean(), least=regions.held.min())
    table = pd.DataFrame(dict(held, width=regions.width.median(), error=regions.error.median()))
    for event in EVENTS:
        one = scenes.xs(event, level='scene')
        table[f'{event} held'] = one.held
        table[f'{event} width'] = one.width/one.width['plain', 'expansion', 'within', 't']
    return table

def say(table):
    "Print a table as Markdown"
    table = table.round(3).reset_index()
    lines = [list(table.columns), ['---']*table.shape[1], *table.astype(str).values.tolist()]
    for line in lines: print('| ' + ' | '.join(line) + ' |')

def arguments():
    "What the command line says"
    p = argparse.ArgumentParser('python -m benchmarks.areas', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--regions', type=int, default=24)
    p.add_argument('--draws', type=int, default=500)
    p.add_argument('--chips', type=int, default=30)
    return p.parse_args()

def main():
    "Draw from every scene, and print how the rules compare"
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    names = scene_names(args.folder, args.regions)
    each = pd.concat([draws(name, *mapped(name, args.folder), args.chips, args.draws) for name in names])
    table = compared(by_scene(each))
    print(f'{args.chips} chips, {args.draws} draws, {len(names) - 2} regions; '
          'width: of the interval over the truth; of events: over that of plain sampling\n')
    say(table)

if __name__ == '__main__': main()
