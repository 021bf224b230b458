"""What careless outlines cost a model that learns from them.

`python -m benchmarks.noise --folder FOLDER` trains on twenty labelled chips whose outlines a careful, a hasty and a careless person drew (`NOISE` of notebook 48),
as a turn does, and scores the model against right labels. It can be stopped and continued: each training leaves a file. `--table` prints what is there."""
import argparse, json, os, time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.suggest import EVENTS, TESTED, auprc, both_ends, event_chips, interval, rows_of, some_rows

LABELLED = 20 # chips, half of them with landslides
TEACH = 15    # of them; the others check, with the same mistakes

def levels():
    "What is drawn how: nothing wrong, three people, and each mistake of the third alone"
    from landslide_nb.labelling.agreement import NOISE, Noise
    worst = NOISE['careless']
    alone = dict(
        shifted=Noise(worst.shift_m, 0, 0, 0),
        edges=Noise(0, worst.edge_m, 0, 0),
        missed=Noise(0, 0, worst.missed, 0),
        invented=Noise(0, 0, 0, worst.invented),
    )
    return {'right': Noise(0, 0, 0, 0), **NOISE, **alone}

def joined_masks(chips):
    "(y, x) masks of all chips, each in its place; 255 where there is none"
    table, side = chips.table, chips.size
    image = np.full((table.row.max() + side, table.col.max() + side), 255, 'uint8')
    for mask, row, col in zip(chips.masks, table.row, table.col): image[row:row + side, col:col + side] = mask
    return image

def truth_image(chips):
    "The masks of all chips as one image"
    import rioxarray # gives an image its CRS
    import xarray as xr
    image = joined_masks(chips)
    height, width = image.shape
    one = chips.table.iloc[0]
    west, south, east, north = one.geometry.bounds
    pixel = (east - west)/chips.size
    y = north + pixel*(one.row - np.arange(height) - .5)
    x = west + pixel*(np.arange(width) - one.col + .5)
    return xr.DataArray(image, dict(y=y, x=x), ('y', 'x')).rio.write_crs(chips.table.crs)

@cache
def event(name, folder):
    "Chips of an event, and its truth"
    chips = event_chips(name, folder)
    return chips, truth_image(chips)

def right_labels(chips, truth, rows):
    "What somebody who knows the truth says of some chips"
    from landslide_nb.labelling.labels import chip_name
    from landslide_nb.labelling.suggest import answer_by_truth
    some = chips.table.iloc[rows].rename(columns=dict(col='column')).reset_index(drop=True)
    names = [chip_name(*place) for place in zip(some.row, some.column)]
    return answer_by_truth(some.assign(chip=names)[['chip', 'row', 'column', 'geometry']], truth)

def drawn_image(chips, truth, rows, noise, seed):
    "(y, x) the labels of some chips as one person draws them"
    from landslide_nb.labelling.agreement import noisy_labels
    from landslide_nb.labelling.ground import label_image
    labels = noisy_labels(right_labels(chips, truth, rows), noise, seed)
    return label_image(labels, truth).values

def as_drawn(chips, truth, rows, noise, seed):
    "The chips with the labels of one person, and how these agree with the truth"
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.labelling.agreement import kappa_of, two_by_two
    image = drawn_image(chips, truth, rows, noise, seed)
    drawn = ChipSet(chips.folder)
    drawn.masks, drawn.table = np.array(chips.masks), chips.table.copy()
    for k in rows:
        row, col = chips.table.row.iloc[k], chips.table.col.iloc[k]
        drawn.masks[k] = image[row:row + chips.size, col:col + chips.size]
    drawn.table['landslide_px'] = (drawn.masks == 1).sum((1, 2))
    agreed = two_by_two(drawn.masks[rows], np.asarray(chips.masks)[rows])
    return drawn, kappa_of(agreed)

def trained(name, level, seed, args):
    "One training as a turn on what a person drew: how well that agrees with the truth, and the scores against right labels"
    from landslide_nb.data.split import draw_budget
    from landslide_nb.labelling.turn import TurnPlan, fitted, label_learner, nothing_said
    chips, truth = event(name, args.folder)
    tested = some_rows(chips, 'test', TESTED)
    rows = draw_budget(chips, LABELLED, seed)
    drawn, kappa = as_drawn(chips, truth, rows, levels()[level], seed)
    parts = dict(train=rows[:TEACH], valid=rows[TEACH:])
    learn = label_learner(drawn, parts, TurnPlan(args.model, seed=seed))
    ends = both_ends(learn)
    fitted(learn, args.epochs, nothing_said)
    facts = dict(kappa=kappa, share=learn.keep_best.share, auprc=auprc(learn, chips, tested))
    learn.model.load_state_dict(ends[1])
    return dict(facts, unchecked=auprc(learn, chips, tested))

def untrained(name, args):
    "The score of the weights as they are"
    chips, _ = event(name, args.folder)
    return dict(auprc=auprc(args.model, chips, some_rows(chips, 'test', TESTED)))

def trial(name, level, seed, args):
    "One training as a turn, and its score against right labels"
    start = time.time()
    facts = dict(event=name, level=level, seed=seed, model=Path(args.model).stem)
    if level == 'no labels': return facts | untrained(name, args)
    found = trained(name, level, seed, args)
    return facts | found | dict(seconds=round(time.time() - start, 1))

def line_of(found, level, wide):
    "What the table says of a level; `wide`: scores, a row a level and seed, a column an event"
    some = wide.loc[level]
    less = (some - wide.loc['right']).mean(axis=1).dropna()
    trials = found[found.level == level]
    return {
        **some.mean()[list(EVENTS)].round(3),
        'both, less right outlines': interval(less) if level != 'right' else '',
        'kappa': f'{trials.kappa.mean():.2f}',
        'went nowhere': f'{(trials.share == 0).mean():.0%}',
        'seeds': len(less),
    }

def table(folder, model, score):
    "Means over seeds and both events, and what each level costs against right labels, seed by seed"
    rows = [json.loads(p.read_text()) for p in (folder/'noise').glob(f'*-{Path(model).stem}.json')]
    found = pd.DataFrame(rows)
    before, after = found[found.level == 'no labels'], found[found.level != 'no labels']
    wide = after.pivot_table(score, ['level', 'seed'], 'event').dropna()
    lines = {'no labels': before.set_index('event').auprc[list(EVENTS)].round(3).to_dict()}
    for level in levels():
        if level in wide.index: lines[level] = line_of(found, level, wide)
    return rows_of(pd.DataFrame(lines).T.fillna('').rename_axis('outlines'))

def say_tables(args):
    "Print what is there"
    print('the weights that the checking chips choose:\n' + table(args.folder, args.model, 'auprc'))
    print('\nthe weights after training, unchecked:\n' + table(args.folder, args.model, 'unchecked'))

def jobs(args):
    "(event, level, seed) of every training: first what people draw, seed by seed, then the mistakes alone"
    found = [(name, 'no labels', 0) for name in EVENTS]
    for some in (args.levels[:4], args.levels[4:]):
        found += [(name, level, seed) for seed in range(args.seeds) for name in EVENTS for level in some]
    return found

def keep(row, path):
    "Write what a training found, whole or not at all, and print it"
    half = path.with_suffix('.half')
    half.write_text(json.dumps(row))
    os.replace(half, path)
    print(row, flush=True)

def arguments():
    "What the command line says"
    p = argparse.ArgumentParser('python -m benchmarks.noise', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--model', default='base', help='weights to go on from: base, or a file')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--epochs', type=int, default=8, help='of 128 chips each')
    p.add_argument('--levels', type=lambda s: s.split(','), default=list(levels()))
    p.add_argument('--table', action='store_true')
    return p.parse_args()

def main():
    "Make the trainings that are not there yet, or print the tables"
    args = arguments()
    if args.table: return say_tables(args)
    (args.folder/'noise').mkdir(parents=True, exist_ok=True)
    for name, level, seed in jobs(args):
        path = args.folder/'noise'/f'{name}-{level}-{seed}-{args.epochs}-{Path(args.model).stem}.json'
        if not path.exists(): keep(trial(name, level, seed, args), path)

if __name__ == '__main__': main()
